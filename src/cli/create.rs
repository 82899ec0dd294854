//! `create`: a definition from flags or a file, checked, and a guest made from it.

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgMatches, value_parser};
use serde::Serialize;

use super::command::{Verb, dry_run, name, name_of, switch};
use super::context::Context;
use super::fault::{FAILED, Fault, Result};
use super::progress::Teller;
use super::settings;
use crate::define::{self, DefineError, MAX_FILE};
use crate::guest::{GuestError, Manager};
use crate::kernel::interrupt;
use crate::model::GuestName;

pub(super) const CREATE: Verb = Verb {
    name: "create",
    about: "Make a guest",
    build: |command| {
        command
            .arg(name().help("Its name: 1 to 63 of a-z, 0-9 and -, not beginning with -"))
            .arg(
                Arg::new("from")
                    .long("from")
                    .value_name("FILE")
                    .value_parser(value_parser!(PathBuf))
                    .help("Definition to begin with, - for standard input; flags change it"),
            )
            .arg(switch("start", "Start it when it is made"))
            .arg(dry_run().help("Print the definition and what would be done, change nothing"))
            .args(settings::flags())
            .after_help(
                "Examples:\n  bulkhead create cell --template busybox --memory 64M --cpus 0.5 --start\n  \
                 bulkhead create web --template debian --profile small --ssh-key \"$(cat \
                 ~/.ssh/id_ed25519.pub)\"",
            )
    },
    run: create,
    hidden: false,
};

/// What `create` made, for programs.
#[derive(Serialize)]
struct Made {
    guest: String,
    template: Option<String>,
    image: String,
    #[serde(skip)]
    made_from: String,
    address: Option<std::net::Ipv4Addr>,
    pid: Option<u32>,
}

fn create(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let name = name_of(matches)?;
    let file = matches.get_one::<PathBuf>("from");
    let start = file.map(|path| read(path)).transpose()?.unwrap_or_default();
    let origin = file.map(|path| path.display().to_string());
    let changes = settings::changes(matches)?;
    let text = define::edit(&start, &changes).map_err(|error| told(error, origin.as_deref()))?;
    let manager = context.manager()?;
    let refused = |error: GuestError| match error {
        GuestError::Definition(error) => told(of(manager, &name, error), origin.as_deref()),
        other => other.into(),
    };
    if matches.get_flag("dry-run") {
        let guest = manager.check_new(&name, &text).map_err(refused)?;
        context.one(&guest, |_| text.clone())?;
        let then = if matches.get_flag("start") {
            " and started"
        } else {
            ""
        };
        context.say(&format!(
            "guest {name} would be made from {}{then}; nothing was changed",
            guest.origin
        ));
        return Ok(0);
    }
    interrupt::catch()?;
    let mut teller = Teller::new(context.quiet);
    let created = manager.create(&name, &text, &mut |step| teller.tell(step));
    drop(teller);
    let created = created.map_err(|error| refused(error).or_interrupted())?;
    let mut made = Made {
        guest: name.to_string(),
        made_from: created.guest.origin.to_string(),
        template: created.guest.origin.template().map(|t| t.name.clone()),
        image: created.image.digest,
        address: manager
            .leased(&name)
            .ok()
            .flatten()
            .map(|(_, lease)| lease.address),
        pid: None,
    };
    if matches.get_flag("start") {
        let started = manager.start(&name).map_err(|error| {
            Fault::from(error).hint(format!(
                "guest {name} is made; mend it with `bulkhead edit {name}` if need be, then \
                 `bulkhead start {name}` tries again"
            ))
        })?;
        made.pid = Some(started.pid);
    }
    if context.format == super::render::Format::Table {
        context.done(&in_words(&made))?;
    } else {
        context.one(&made, |_| String::new())?;
    }
    Ok(0)
}

fn in_words(made: &Made) -> String {
    let address = made
        .address
        .map(|a| format!(", address {a}"))
        .unwrap_or_default();
    let pid = made
        .pid
        .map(|p| format!("; started, process {p}"))
        .unwrap_or_default();
    format!(
        "{}: created from {}{address}{pid}",
        made.guest, made.made_from
    )
}

/// The text of a definition file, or of standard input; no more of either than a definition has.
pub(super) fn read(path: &Path) -> Result<String> {
    if path != Path::new("-") {
        return Ok(define::read_file(path)?);
    }
    let mut text = String::new();
    std::io::stdin()
        .lock()
        .take(MAX_FILE + 1)
        .read_to_string(&mut text)
        .map_err(|error| {
            Fault::new(
                FAILED,
                format!("cannot read the definition from standard input: {error}"),
            )
        })?;
    if text.len() as u64 > MAX_FILE {
        let why =
            format!("standard input has more than {MAX_FILE} bytes, the most a definition has");
        return Err(Fault::new(FAILED, why));
    }
    Ok(text)
}

/// A guest that is not there yet has no file to point at.
fn of(manager: &Manager, name: &GuestName, mut error: DefineError) -> DefineError {
    let own = manager.definition_path(name).display().to_string();
    for fault in error.faults.iter_mut().filter(|fault| fault.source == own) {
        fault.source.clear();
    }
    error
}

/// What is wrong, by the file that was given, or by key alone where only flags were.
fn told(mut error: DefineError, origin: Option<&str>) -> Fault {
    for fault in error
        .faults
        .iter_mut()
        .filter(|fault| fault.source.is_empty())
    {
        match origin {
            Some(origin) => origin.clone_into(&mut fault.source),
            None => fault.line = None,
        }
    }
    error.into()
}
