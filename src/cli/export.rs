//! `export`: a guest as one stream, to a file, a pipe or standard output.

use std::fs::File;
use std::io::{self, IsTerminal as _, Write};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use clap::{Arg, ArgMatches, value_parser};
use serde::Serialize;

use super::command::{Verb, dry_run, name, name_of, required, switch};
use super::context::Context;
use super::fault::{FAILED, Fault, Result};
use super::progress::Teller;
use crate::guest::export::{ExportWish, Exported};
use crate::guest::view::bytes_text;
use crate::kernel::interrupt;
use crate::model::clock;
use crate::storage::Compression;

pub(super) const EXPORT: Verb = Verb {
    name: "export",
    about: "Write a guest into one archive",
    build: |command| {
        command
            .arg(name())
            .arg(
                Arg::new("output")
                    .short('o')
                    .long("output")
                    .value_name("FILE")
                    .value_parser(value_parser!(PathBuf))
                    .default_value("-")
                    .hide_default_value(true)
                    .help("New file, or a FIFO or device; - is standard output [default: -]"),
            )
            .arg(
                Arg::new("compress")
                    .long("compress")
                    .value_name("HOW")
                    .value_parser(["zstd", "gzip", "none"])
                    .default_value("zstd")
                    .help("zstd on all CPUs, gzip, or none"),
            )
            .arg(
                Arg::new("level")
                    .long("level")
                    .value_name("N")
                    .value_parser(value_parser!(u8).range(1..=19))
                    .help("How hard to compress: zstd 1 to 19, gzip 1 to 9 [default: 3, 6]"),
            )
            .arg(switch("no-image", "Without its image, for a host that has it"))
            .arg(switch("no-snapshots", "Without its snapshots"))
            .arg(dry_run())
            .after_help(
                "A running guest is held still while its own files are read; its image goes \
                 first.\n\nExamples:\n  bulkhead export web -o web.tar.zst\n  bulkhead export web | ssh \
                 other bulkhead import -",
            )
    },
    run: export,
    hidden: false,
};

/// What `export` wrote, for programs.
#[derive(Serialize)]
struct Wrote {
    guest: String,
    image: String,
    file: Option<String>,
    /// Before compression.
    bytes: u64,
    written: u64,
    files: u64,
    sockets: u64,
    held_ms: Option<u64>,
}

fn export(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let name = name_of(matches)?;
    let wish = ExportWish {
        compression: compression(matches)?,
        with_image: !matches.get_flag("no-image"),
        with_snapshots: !matches.get_flag("no-snapshots"),
    };
    let path: PathBuf = required(matches, "output")?;
    let to_stdout = path == Path::new("-");
    let manager = context.manager()?;
    if matches.get_flag("dry-run") {
        manager.check_export(&name)?;
        context.done(&format!("would export {name} to {}", shown(&path)))?;
        return Ok(0);
    }
    if to_stdout && io::stdout().is_terminal() {
        return Err(Fault::usage(
            "an archive is nothing for a terminal: say -o FILE, or use a pipe",
        ));
    }
    manager.check_export(&name)?;
    interrupt::catch()?;
    let mut output = Output::open(&path)?;
    let mut teller = Teller::new(context.quiet);
    let done = manager.export(&name, wish, &mut output, &mut |step| teller.tell(step));
    drop(teller);
    let done = done.map_err(|error| match output.closed {
        true => Fault::new(FAILED, "whoever reads the archive has ended"),
        false => Fault::from(error).or_interrupted(),
    })?;
    let wrote = Wrote {
        guest: name.to_string(),
        image: done.image.clone(),
        file: (!to_stdout).then(|| path.display().to_string()),
        bytes: done.packed.bytes,
        written: output.written,
        files: done.packed.files,
        sockets: done.packed.sockets,
        held_ms: done.held.map(clock::ms),
    };
    output.keep(&path)?;
    let text = in_words(&wrote, &done);
    if to_stdout {
        context.say(&text);
    } else if context.format == super::render::Format::Table {
        context.done(&text)?;
    } else {
        context.one(&wrote, |_| String::new())?;
    }
    Ok(0)
}

fn compression(matches: &ArgMatches) -> Result<Compression> {
    let level = matches.get_one::<u8>("level").copied();
    Ok(match required::<String>(matches, "compress")?.as_str() {
        "gzip" if level.is_some_and(|level| level > 9) => {
            return Err(Fault::usage("--level: gzip has 1 to 9"));
        }
        "gzip" => Compression::Gzip(level.unwrap_or(6).into()),
        "none" if level.is_some() => {
            return Err(Fault::usage("--level says nothing with --compress none"));
        }
        "none" => Compression::None,
        _ => Compression::Zstd(level.unwrap_or(3).into()),
    })
}

fn in_words(wrote: &Wrote, done: &Exported) -> String {
    let to = wrote.file.as_deref().unwrap_or("standard output");
    let held = done.held.map_or(String::new(), |held| {
        format!("; it was held still for {} ms", clock::ms(held))
    });
    let sockets = match wrote.sockets {
        0 => String::new(),
        n => format!("; without {n} sockets"),
    };
    format!(
        "{}: {} files, {}, exported to {to} as {}{held}{sockets}",
        wrote.guest,
        wrote.files,
        bytes_text(wrote.bytes),
        bytes_text(wrote.written),
    )
}

fn shown(path: &Path) -> String {
    match path == Path::new("-") {
        true => "standard output".into(),
        false => path.display().to_string(),
    }
}

/// Where the archive goes. A new file has no name until it is whole, so that a command that is
/// killed leaves none.
struct Output {
    file: File,
    written: u64,
    /// Whether whoever reads a pipe has gone.
    closed: bool,
    /// Whether the file still needs its name.
    unnamed: bool,
}

impl Output {
    fn open(path: &Path) -> Result<Self> {
        let failed = |error: io::Error| {
            Fault::new(FAILED, format!("cannot write {}: {error}", path.display()))
        };
        let of = |file, unnamed| Self {
            file,
            written: 0,
            closed: false,
            unnamed,
        };
        if path == Path::new("-") {
            let stdout = io::stdout().as_fd().try_clone_to_owned().map_err(failed)?;
            return Ok(of(File::from(stdout), false));
        }
        if let Ok(there) = std::fs::metadata(path) {
            let kind = there.file_type();
            if kind.is_fifo() || kind.is_char_device() || kind.is_block_device() {
                let file = File::options().write(true).open(path).map_err(failed)?;
                return Ok(of(file, false));
            }
            let what = format!("{} is there already", path.display());
            return Err(Fault::new(FAILED, what).hint("remove it first, or choose another name"));
        }
        let folder = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let flags = rustix::fs::OFlags::TMPFILE.bits().cast_signed();
        let unnamed = File::options()
            .write(true)
            .mode(0o600)
            .custom_flags(flags)
            .open(folder);
        match unnamed {
            Ok(file) => Ok(of(file, true)),
            // A file system without such files: it has its name at once.
            Err(error) if matches!(error.raw_os_error(), Some(95 | 22 | 21)) => {
                let new = File::options()
                    .write(true)
                    .create_new(true)
                    .mode(0o600)
                    .open(path);
                Ok(of(new.map_err(failed)?, false))
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// Gives a file its name, when all of it is on disk.
    fn keep(self, path: &Path) -> Result<()> {
        let failed = |error: io::Error| {
            Fault::new(FAILED, format!("cannot write {}: {error}", path.display()))
        };
        if !self.unnamed {
            return Ok(());
        }
        self.file.sync_all().map_err(failed)?;
        let own = format!(
            "/proc/self/fd/{}",
            std::os::fd::AsRawFd::as_raw_fd(&self.file)
        );
        let here = rustix::fs::CWD;
        rustix::fs::linkat(here, own, here, path, rustix::fs::AtFlags::SYMLINK_FOLLOW)
            .map_err(|errno| failed(errno.into()))
    }
}

impl Write for Output {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        match self.file.write(data) {
            Ok(n) => {
                self.written += n as u64;
                Ok(n)
            }
            Err(error) => {
                self.closed |= error.kind() == io::ErrorKind::BrokenPipe;
                Err(error)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
