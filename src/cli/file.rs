//! `file`: single files into a guest and out of it.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::{Arg, ArgMatches, Command, value_parser};

use super::change::{Draft, open_editor};
use super::command::{Verb, dry_run, required, switch};
use super::context::Context;
use super::fault::{FAILED, Fault, Result};
use super::render::{Cell, safe};
use crate::guest::view::bytes_text;
use crate::kernel::random;
use crate::model::{FileEntry, FileKind, FileWish, GuestName, clock};

/// Largest file that is given to an editor, bytes.
const EDIT_MOST: u64 = 16 << 20;

pub(super) const FILE: Verb = Verb {
    name: "file",
    about: "Copy a file into a guest or out of it, list a folder, edit a file",
    build: |command| {
        command
            .subcommand_required(true)
            .subcommand(
                Command::new("push")
                    .about("Write a file into a guest, whole or not at all")
                    .arg(local("File here; - is standard input"))
                    .arg(place("NAME:/PATH; with / at the end, in that folder"))
                    .arg(
                        Arg::new("mode")
                            .long("mode")
                            .value_name("OCTAL")
                            .value_parser(mode)
                            .help("Its permissions [default: as those it replaces, or as here]"),
                    )
                    .arg(
                        Arg::new("owner")
                            .long("owner")
                            .value_name("UID[:GID]")
                            .value_parser(owner)
                            .help("Its owner, by number [default: as what it replaces, or 0:0]"),
                    )
                    .arg(dry_run()),
            )
            .subcommand(
                Command::new("pull")
                    .about("Copy a file of a guest's to here")
                    .arg(place("NAME:/PATH; links are followed inside the guest"))
                    .arg(local("File or folder here; - is standard output"))
                    .arg(switch("force", "Replace a file that is there").short('f'))
                    .arg(dry_run()),
            )
            .subcommand(
                Command::new("ls")
                    .about("List a folder of a guest's")
                    .arg(place("NAME:/PATH")),
            )
            .subcommand(
                Command::new("edit")
                    .about("Edit a file of a guest's in $EDITOR, and put it back whole")
                    .arg(place("NAME:/PATH"))
                    .arg(dry_run()),
            )
            .after_help(
                "Of running and of stopped guests. Only regular files are read and written; for \
                 whole folders use tar with `bulkhead exec`.\n\nExamples:\n  bulkhead file push \
                 site.conf web:/etc/nginx/ --mode 0644\n  bulkhead file pull web:/var/log/syslog \
                 - | less",
            )
    },
    run: |context, matches| match matches.subcommand() {
        Some(("push", matches)) => push(context, matches),
        Some(("pull", matches)) => pull(context, matches),
        Some(("edit", matches)) => edit(context, matches),
        Some((_, matches)) => list(context, matches),
        None => Err(Fault::usage("say what to do with which file")),
    },
    hidden: false,
};

/// A file in a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    guest: GuestName,
    path: String,
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let Some((guest, path)) = text.split_once(':') else {
            return Err("write NAME:/PATH, as web:/etc/hosts".into());
        };
        let guest: GuestName = guest.parse().map_err(|e| format!("{e}"))?;
        if !path.starts_with('/') || path.contains('\0') {
            return Err("the path in the guest begins with /".into());
        }
        let path = path.to_owned();
        Ok(Self { guest, path })
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.guest, self.path)
    }
}

fn place(help: &'static str) -> Arg {
    Arg::new("place")
        .value_name("NAME:PATH")
        .required(true)
        .value_parser(Place::from_str)
        .help(help)
}

fn local(help: &'static str) -> Arg {
    Arg::new("local")
        .value_name("FILE")
        .required(true)
        .value_parser(value_parser!(PathBuf))
        .help(help)
}

fn mode(text: &str) -> std::result::Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o7777 => Ok(mode),
        _ => Err("an octal number up to 7777, as 0644".into()),
    }
}

fn owner(text: &str) -> std::result::Result<(u32, u32), String> {
    let (uid, gid) = text.split_once(':').unwrap_or((text, text));
    match (uid.parse(), gid.parse()) {
        // Every guest has these, and no others.
        (Ok(uid), Ok(gid)) if uid < 65536 && gid < 65536 => Ok((uid, gid)),
        _ => Err("numbers up to 65535, as 33 or 33:33".into()),
    }
}

fn trouble(verb: &str, path: &Path, error: &io::Error) -> Fault {
    Fault::new(FAILED, format!("cannot {verb} {}: {error}", path.display()))
}

fn push(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let mut place: Place = required(matches, "place")?;
    let local: PathBuf = required(matches, "local")?;
    let stdin = local == Path::new("-");
    if place.path.ends_with('/') {
        let name = local.file_name().filter(|_| !stdin);
        let name = name.and_then(|name| name.to_str()).ok_or_else(|| {
            Fault::usage(format!("{place} is a folder: say what the file is called"))
        })?;
        place.path += name;
    }
    let (from, new_mode) = if stdin {
        let stdin = io::stdin().as_fd().try_clone_to_owned();
        let stdin = stdin.map_err(|error| trouble("read", &local, &error))?;
        (File::from(stdin), 0o644)
    } else {
        let file = File::open(&local).map_err(|error| trouble("read", &local, &error))?;
        let meta = file.metadata();
        let meta = meta.map_err(|error| trouble("read", &local, &error))?;
        if meta.is_dir() {
            return Err(Fault::usage(format!("{} is a folder", local.display()))
                .hint("tar c FOLDER | bulkhead exec NAME -- tar x -C /WHERE"));
        }
        (file, meta.permissions().mode() & 0o777)
    };
    let wish = FileWish {
        mode: matches.get_one("mode").copied(),
        owner: matches.get_one("owner").copied(),
        new_mode,
    };
    let manager = context.manager()?;
    if matches.get_flag("dry-run") {
        let what = match manager.look_at_file(&place.guest, &place.path)? {
            None => "would be written".to_owned(),
            Some(there) if there.kind == FileKind::File => "would be replaced".to_owned(),
            Some(there) => format!("would be refused: it is {}", there.kind.text()),
        };
        context.done(&format!("{place}: {what}"))?;
        return Ok(0);
    }
    let written = manager.write_file(&place.guest, &place.path, from, wish)?;
    context.done(&format!("{place}: {} written", bytes_text(written.size)))?;
    Ok(0)
}

fn pull(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let place: Place = required(matches, "place")?;
    let mut local: PathBuf = required(matches, "local")?;
    let manager = context.manager()?;
    if local == Path::new("-") {
        let stdout = io::stdout().as_fd().try_clone_to_owned();
        let stdout = stdout.map_err(Fault::output)?;
        if !matches.get_flag("dry-run") {
            manager.read_file(&place.guest, &place.path, File::from(stdout))?;
        }
        return Ok(0);
    }
    if local.is_dir() {
        let name = place.path.rsplit('/').find(|name| !name.is_empty());
        let name = name.filter(|name| !matches!(*name, "." | ".."));
        local.push(name.ok_or_else(|| Fault::usage(format!("{place} is a folder")))?);
    }
    if !matches.get_flag("force") && local.symlink_metadata().is_ok() {
        let what = format!("{} is there already", local.display());
        return Err(Fault::new(FAILED, what).hint("say --force to replace it"));
    }
    if matches.get_flag("dry-run") {
        context.done(&format!("{place}: would be copied to {}", local.display()))?;
        return Ok(0);
    }
    let failed = |error: io::Error| trouble("write", &local, &error);
    let made = Made::beside(&local).map_err(failed)?;
    let into = made.file.try_clone().map_err(failed)?;
    let entry = manager.read_file(&place.guest, &place.path, into)?;
    made.keep(&local, entry.mode).map_err(failed)?;
    let text = format!(
        "{place}: {} copied to {}",
        bytes_text(entry.size),
        local.display()
    );
    context.done(&text)?;
    Ok(0)
}

/// A new file here that has no name of its own until it is whole, so that nothing stays of a command
/// that is killed.
struct Made {
    file: File,
    folder: PathBuf,
}

impl Made {
    fn beside(path: &Path) -> io::Result<Self> {
        let folder = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        let flags = rustix::fs::OFlags::TMPFILE.bits().cast_signed();
        let file = File::options()
            .write(true)
            .mode(0o600)
            .custom_flags(flags)
            .open(&folder)?;
        Ok(Self { file, folder })
    }

    /// Gives it its name, in place of what has it. No set-user-ID of a guest's comes along.
    fn keep(self, path: &Path, mode: u32) -> io::Result<()> {
        let permissions = std::fs::Permissions::from_mode(mode & 0o777);
        self.file.set_permissions(permissions)?;
        self.file.sync_all()?;
        let own = format!(
            "/proc/self/fd/{}",
            std::os::fd::AsRawFd::as_raw_fd(&self.file)
        );
        let random = random::hex(8).map_err(|error| io::Error::from(error.errno))?;
        let first = self.folder.join(format!(".bulkhead-new-{random}"));
        let here = rustix::fs::CWD;
        rustix::fs::linkat(here, own, here, &first, rustix::fs::AtFlags::SYMLINK_FOLLOW)?;
        std::fs::rename(&first, path).inspect_err(|_| {
            // The first error is the one to report.
            std::fs::remove_file(&first).ok();
        })
    }
}

fn list(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let place: Place = required(matches, "place")?;
    let all = context.manager()?.list_files(&place.guest, &place.path)?;
    let headings = ["MODE", "OWNER", "SIZE", "CHANGED", "NAME"];
    context.list(&all, &headings, file_cells)?;
    Ok(0)
}

/// A file as it is listed: mode, owner, size, time, name.
pub(super) fn file_cells(one: &FileEntry) -> Vec<Cell> {
    let name = match &one.target {
        Some(target) => format!("{} -> {target}", one.name),
        None => one.name.clone(),
    };
    vec![
        Cell::from(format!("{}{:04o}", one.kind.letter(), one.mode)),
        Cell::from(format!("{}:{}", one.uid, one.gid)),
        Cell::from(bytes_text(one.size)),
        Cell::from(clock::time(one.modified_ms)),
        Cell::from(safe(&name)),
    ]
}

fn edit(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let place: Place = required(matches, "place")?;
    let manager = context.manager()?;
    let there = manager.look_at_file(&place.guest, &place.path)?;
    let (mut before, mut wish) = (
        Vec::new(),
        FileWish {
            mode: None,
            owner: None,
            new_mode: 0o644,
        },
    );
    if let Some(there) = there {
        if there.kind != FileKind::File {
            let leads = there.target.map_or(String::new(), |to| format!(" to {to}"));
            let what = format!("cannot edit {place}: it is {}{leads}", there.kind.text());
            return Err(Fault::new(FAILED, what).hint("name a regular file"));
        }
        if there.size > EDIT_MOST {
            let what = format!("cannot edit {place}: it has {}", bytes_text(there.size));
            return Err(Fault::new(FAILED, what)
                .hint("16 MiB at most: pull it, and push it when it is changed"));
        }
        (wish.mode, wish.owner) = (Some(there.mode), Some((there.uid, there.gid)));
    }
    let draft = Draft::empty(manager, &place.guest, "txt")?;
    let failed = |error: io::Error| trouble("write", &draft.0, &error);
    if wish.mode.is_some() {
        let into = File::options().write(true).open(&draft.0).map_err(failed)?;
        manager.read_file(&place.guest, &place.path, into)?;
        before = slurp(&draft.0).map_err(failed)?;
    }
    open_editor(&draft.0)?;
    let after = slurp(&draft.0).map_err(failed)?;
    if after == before {
        context.done(&format!("{place}: nothing is different"))?;
        return Ok(0);
    }
    if matches.get_flag("dry-run") {
        context.done(&format!("{place}: would be changed"))?;
        return Ok(0);
    }
    // As the editor left it, which may have put another file in place of the draft.
    let from = File::open(&draft.0).map_err(failed)?;
    if let Err(error) = manager.write_file(&place.guest, &place.path, from, wish) {
        let kept = keep_draft(&draft.0, &after).map_err(failed)?;
        return Err(Fault::from(error).hint(format!("your text is in {}", kept.display())));
    }
    context.done(&format!("{place}: changed"))?;
    Ok(0)
}

fn slurp(path: &Path) -> io::Result<Vec<u8>> {
    let mut data = Vec::new();
    File::open(path)?
        .take(4 * EDIT_MOST)
        .read_to_end(&mut data)?;
    Ok(data)
}

/// What a person has typed is not lost with the draft.
fn keep_draft(draft: &Path, text: &[u8]) -> io::Result<PathBuf> {
    let name = draft.file_name().unwrap_or_default();
    let path = std::env::temp_dir().join(name);
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)?;
    file.write_all(text)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_guest_and_a_path() {
        let place: Place = "web:/etc/a:b".parse().unwrap();
        assert_eq!((place.guest.as_str(), &*place.path), ("web", "/etc/a:b"));
        for text in ["web", "web:etc", "web:", ":/etc", "we b:/etc", "web:/a\0"] {
            assert!(text.parse::<Place>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn modes_and_owners_are_numbers_in_their_range() {
        assert_eq!(mode("0644"), Ok(0o644));
        assert_eq!(owner("33"), Ok((33, 33)));
        assert_eq!(owner("0:65535"), Ok((0, 65535)));
        assert!(mode("648").is_err() && mode("10000").is_err());
        assert!(owner("65536").is_err() && owner("www").is_err() && owner("1:").is_err());
    }
}
