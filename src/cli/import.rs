//! `import`: a guest from an archive, from a machine's disk or root, or from a machine elsewhere.

use std::fs::File;
use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, ArgMatches, value_parser};
use serde::Serialize;

use super::command::{Verb, dry_run, required, switch};
use super::context::Context;
use super::fault::{FAILED, Fault, Result};
use super::progress::Teller;
use super::render::{Format, safe, safe_lines};
use super::settings;
use crate::guest::GuestError;
use crate::guest::import::{ImportWish, Imported, Source};
use crate::kernel::interrupt;
use crate::model::GuestName;
use crate::storage::{Far, is_disk};

pub(super) const IMPORT: Verb = Verb {
    name: "import",
    about: "Make a guest from an archive, or of a machine",
    build: |command| {
        command
            .arg(
                Arg::new("file")
                    .value_name("FILE")
                    .required_unless_present_any(["from", "ssh"])
                    .value_parser(value_parser!(PathBuf))
                    .help("Archive that `export` wrote, a container's backup of Proxmox, OpenVZ, LXC or Incus or its packed folder, or a machine's disk (raw, qcow2, vmdk, vhd, vhdx, vdi); - is an archive on standard input"),
            )
            .arg(
                Arg::new("from")
                    .long("from")
                    .value_name("FOLDER")
                    .conflicts_with("file")
                    .value_parser(value_parser!(PathBuf))
                    .help("Root of a machine, or a container's folder of LXC or OpenVZ, on this host"),
            )
            .arg(
                Arg::new("config")
                    .long("config")
                    .value_name("FILE")
                    .conflicts_with("ssh")
                    .value_parser(value_parser!(PathBuf))
                    .help("Configuration of the container that FILE or FOLDER is the root of: OpenVZ's 101.conf, LXC's config, Proxmox's 101.conf [default: the one in or beside it]"),
            )
            .args(far_flags())
            .arg(
                Arg::new("as")
                    .long("name")
                    .value_name("NAME")
                    .value_parser(value_parser!(GuestName))
                    .help("Its name here [default: the one in the archive]"),
            )
            .arg(switch(
                "fresh",
                "A machine id and SSH host keys of its own: it is a copy, not a move",
            ))
            .arg(switch(
                "trust",
                "Take a definition that reaches beyond the guest: mounts, devices, the host's network",
            ))
            .arg(switch("start", "Start it when it is made"))
            .arg(
                dry_run()
                    .visible_alias("check")
                    .help("Say what would be made and what is in the way, change nothing"),
            )
            .args(settings::flags())
            .after_help(
                "Flags of settings change its definition, as with `create`.\n\nExamples:\n  \
                 bulkhead import web.tar.zst\n  bulkhead import web.tar.zst --name web2 --fresh \
                 --memory 2G\n  bulkhead import old-server.qcow2 --name shop --check\n  \
                 bulkhead import --from /mnt/old --name shop\n  \
                 bulkhead import --from /vz/private/101 --start\n  \
                 bulkhead import --ssh root@old --stop 'systemctl stop mysql nginx'",
            )
    },
    run: import,
    hidden: false,
};

/// The flags that name a machine elsewhere.
fn far_flags() -> [Arg; 3] {
    [
        Arg::new("ssh")
            .long("ssh")
            .value_name("[USER@]HOST[:/PATH]")
            .conflicts_with_all(["file", "from"])
            .help("A machine that runs elsewhere, reached by ssh and your settings of it"),
        Arg::new("ssh-option")
            .long("ssh-option")
            .value_name("KEY=VALUE")
            .action(ArgAction::Append)
            .requires("ssh")
            .help("A setting of ssh_config(5), such as Port=2222"),
        Arg::new("stop")
            .long("stop")
            .value_name("COMMAND")
            .requires("ssh")
            .help(
                "What stops its services there; then a second, quick pass brings what has changed",
            ),
    ]
}

/// The machine elsewhere, if one is named.
fn far(matches: &ArgMatches) -> Result<Option<Far>> {
    let Some(place) = matches.get_one::<String>("ssh") else {
        return Ok(None);
    };
    let options = matches.get_many::<String>("ssh-option");
    Ok(Some(Far {
        options: options.into_iter().flatten().cloned().collect(),
        stop: matches.get_one::<String>("stop").cloned(),
        ..Far::parse(place).map_err(Fault::usage)?
    }))
}

/// What `import` made, for programs.
#[derive(Serialize)]
struct Made {
    guest: String,
    image: String,
    new_image: bool,
    address: Option<std::net::Ipv4Addr>,
    pid: Option<u32>,
    notes: Vec<String>,
}

fn import(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let folder = matches.get_one::<PathBuf>("from");
    let far = far(matches)?;
    let path: PathBuf = match (folder, &far) {
        (Some(folder), _) => folder.clone(),
        (None, Some(far)) => format!("{}:{}", far.host, far.path).into(),
        (None, None) => required(matches, "file")?,
    };
    let wish = ImportWish {
        name: matches.get_one("as").cloned(),
        fresh: matches.get_flag("fresh"),
        trust: matches.get_flag("trust"),
        changes: settings::changes(matches)?,
        shown: match path == Path::new("-") {
            true => "standard input".into(),
            false => path.display().to_string(),
        },
    };
    let manager = context.manager()?;
    let config = matches.get_one::<PathBuf>("config").cloned();
    let source = match (folder, far) {
        (Some(folder), _) => Source::Folder(folder.clone(), config),
        (None, Some(far)) => Source::Far(far),
        (None, None) => open(&path, config)?,
    };
    if matches.get_flag("dry-run") {
        interrupt::catch()?;
        let mut teller = Teller::new(context.quiet);
        let would = manager.check_import(source, &wish, &mut |step| teller.tell(step));
        drop(teller);
        let would = would.map_err(refused)?;
        context.one(&would.guest, |_| safe_lines(&would.definition))?;
        for note in &would.notes {
            context.say(&format!("note: {}", safe(note)));
        }
        let (name, image) = (&would.guest.name, &would.image);
        let over = match image.is_empty() {
            true => "its root as an image".to_owned(),
            false => format!("image {image:.12}"),
        };
        let then = match matches.get_flag("start") {
            true => " and started",
            false => "",
        };
        context.say(&format!(
            "guest {name} would be made over {over}{then}; nothing was changed"
        ));
        return Ok(0);
    }
    interrupt::catch()?;
    let mut teller = Teller::new(context.quiet);
    let done = manager.import(source, &wish, &mut |step| teller.tell(step));
    drop(teller);
    let done = done.map_err(refused)?;
    let lease = manager.leased(&done.guest.name).ok().flatten();
    let mut made = Made {
        guest: done.guest.name.to_string(),
        image: done.image.clone(),
        new_image: done.new_image,
        address: lease.map(|(_, lease)| lease.address),
        pid: None,
        notes: done.notes.clone(),
    };
    let name = &done.guest.name;
    let started = match matches.get_flag("start") {
        true => manager
            .start(name)
            .map(|started| made.pid = Some(started.pid)),
        false => Ok(()),
    };
    let started = started.map_err(|error| {
        Fault::from(error).hint(format!(
            "guest {name} is made; mend it with `bulkhead edit {name}` if need be, then `bulkhead start \
             {name}` tries again"
        ))
    });
    if context.format != Format::Table {
        context.one(&made, |_| String::new())?;
        return started.map(|()| 0);
    }
    for note in &made.notes {
        context.say(&format!("note: {}", safe(note)));
    }
    context.done(&in_words(&made, &done))?;
    started.map(|()| 0)
}

/// An error, with the way to another name where that is what is in the way.
fn refused(error: GuestError) -> Fault {
    let taken = match &error {
        GuestError::Exists(name) => Some(format!(
            "--name gives it another name here: --name {name}-2"
        )),
        _ => None,
    };
    let fault = Fault::of_newcomer(error);
    match taken {
        Some(hint) => fault.hint(hint),
        None => fault,
    }
}

fn in_words(made: &Made, done: &Imported) -> String {
    let address = made
        .address
        .map_or(String::new(), |a| format!(", address {a}"));
    let pid = made
        .pid
        .map_or(String::new(), |p| format!("; started, process {p}"));
    let came = match made.new_image {
        true => "which came with it",
        false => "which was here",
    };
    format!(
        "{}: imported over image {:.12}, {came}{address}{pid}",
        made.guest, done.image
    )
}

fn open(path: &Path, config: Option<PathBuf>) -> Result<Source> {
    if path == Path::new("-") {
        if config.is_some() {
            return Err(Fault::usage(
                "--config goes with a file or a folder: write the archive to a file first",
            ));
        }
        if io::stdin().is_terminal() {
            return Err(Fault::usage(
                "an archive does not come from a terminal: name a file, or use a pipe",
            ));
        }
        return Ok(Source::Stream(Box::new(io::stdin())));
    }
    let failed = |why: String| Fault::new(FAILED, format!("cannot read {}: {why}", path.display()));
    let meta = std::fs::metadata(path).map_err(|error| failed(error.to_string()))?;
    if meta.is_dir() {
        return Err(failed(
            "it is a folder; the root of a machine is taken with --from".into(),
        ));
    }
    let mut file = File::open(path).map_err(|error| failed(error.to_string()))?;
    Ok(match is_disk(&mut file) {
        true if config.is_some() => {
            return Err(Fault::usage(
                "--config goes with a container's root: a disk is a machine's",
            ));
        }
        true => Source::Disk(file, path.to_owned()),
        false => Source::Archive(file, config),
    })
}
