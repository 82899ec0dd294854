//! `set`, `get`, `edit`: a guest's definition, by key or as a text.

use std::fs::File;
use std::io::IsTerminal;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::{Arg, ArgAction, ArgMatches};
use serde_json::{Map, Value};

use super::command::{Verb, dry_run, name, name_of, switch};
use super::context::Context;
use super::delete::confirmed;
use super::fault::{FAILED, Fault, Result};
use super::render::{self, Cell, Format};
use super::settings;
use crate::define::{self, KEYS};
use crate::guest::change::Changed;
use crate::guest::{GuestError, Manager};
use crate::kernel::KernelError;
use crate::model::{GuestName, Status};

pub(super) const SET: Verb = Verb {
    name: "set",
    about: "Change settings of a guest, at once where the kernel allows it",
    build: |command| {
        command
            .arg(name())
            .arg(
                Arg::new("assignments")
                    .value_name("KEY=VALUE")
                    .num_args(0..)
                    .help("Settings by key, such as memory.limit=1G or labels.team=shop"),
            )
            .arg(
                Arg::new("unset")
                    .long("unset")
                    .value_name("KEY")
                    .action(ArgAction::Append)
                    .help("Leave this setting to profiles and defaults again"),
            )
            .arg(switch(
                "force",
                "Change it even if the host has no room for what it is guaranteed",
            ))
            .arg(dry_run())
            .args(settings::flags())
    },
    run: set,
    hidden: false,
};

pub(super) const GET: Verb = Verb {
    name: "get",
    about: "Show settings of a guest, with profiles and defaults",
    build: |command| {
        command.arg(name()).arg(
            Arg::new("keys")
                .value_name("KEY")
                .num_args(0..)
                .help("Settings; of a single one the bare value is printed [default: all]"),
        )
    },
    run: get,
    hidden: false,
};

pub(super) const EDIT: Verb = Verb {
    name: "edit",
    about: "Edit a guest's definition with $VISUAL or $EDITOR",
    build: |command| command.arg(name()).arg(dry_run()),
    run: edit,
    hidden: false,
};

fn set(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let name = name_of(matches)?;
    let mut changes = Vec::new();
    let words = |id: &str| matches.get_many::<String>(id).into_iter().flatten();
    for key in words("unset") {
        changes.push(settings::unset(key)?);
    }
    for word in words("assignments") {
        changes.extend(settings::assignment(word)?);
    }
    changes.extend(settings::changes(matches)?);
    if changes.is_empty() {
        return Err(Fault::usage(
            "nothing to set: write KEY=VALUE, a flag, or --unset KEY",
        ));
    }
    let manager = context.manager()?;
    let dry_run = matches.get_flag("dry-run");
    if !dry_run {
        let _kept = manager.ensure_keeper(&name);
    }
    let changed = manager
        .change(&name, &changes, matches.get_flag("force"), dry_run)
        .map_err(|error| by_key(manager, &name, error))?;
    tell(context, manager, &name, &changed, dry_run)
}

/// What is wrong with a new value is told by its key: its line is in no file that anybody can look
/// at. Unless the file was wrong before.
fn by_key(manager: &Manager, name: &GuestName, error: GuestError) -> Fault {
    match error {
        GuestError::Definition(mut error) if manager.guest(name).is_ok() => {
            let own = manager.definition_path(name).display().to_string();
            for fault in &mut error.faults {
                if fault.source == own {
                    fault.source.clear();
                    fault.line = None;
                }
            }
            error.into()
        }
        other => other.into(),
    }
}

fn tell(
    context: &Context,
    manager: &Manager,
    name: &GuestName,
    changed: &Changed,
    dry_run: bool,
) -> Result<u8> {
    if context.format != Format::Table {
        context.out(&render::data(context.format, changed))?;
        return Ok(0);
    }
    let runs = matches!(manager.status(name)?, Status::Running | Status::Paused);
    let (now, later) = match (runs, dry_run) {
        (true, false) => ("in force", "waits for a restart"),
        (true, true) => ("would be in force at once", "would wait for a restart"),
        (false, false) => ("changed", ""),
        (false, true) => ("would be changed", ""),
    };
    for (what, keys) in [(now, &changed.applied), (later, &changed.waiting)] {
        if !keys.is_empty() {
            context.done(&format!(
                "{name}: {what}: {}",
                render::safe(&keys.join(", "))
            ))?;
        }
    }
    if changed.applied.is_empty() && changed.waiting.is_empty() {
        context.done(&format!("{name}: nothing is different"))?;
    }
    Ok(0)
}

fn get(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let name = name_of(matches)?;
    let guest = context.manager()?.guest(&name)?;
    let asked: Vec<&str> = matches
        .get_many::<String>("keys")
        .map(|keys| keys.map(String::as_str).collect())
        .unwrap_or_default();
    let keys = if asked.is_empty() {
        KEYS.iter().map(|key| key.path).collect()
    } else {
        asked.clone()
    };
    let mut values: Vec<(&str, String)> = Vec::new();
    for key in keys {
        values.push((key, define::get(&guest, key)?));
    }
    if context.format != Format::Table {
        let pairs = values
            .into_iter()
            .map(|(key, value)| (key.to_owned(), Value::from(value)));
        context.out(&render::data(context.format, &pairs.collect::<Map<_, _>>()))?;
    } else if let ([_], [(_, value)]) = (&asked[..], &values[..]) {
        context.out(&(crate::guest::view::printable(value.as_bytes()) + "\n"))?;
    } else {
        let cells = |(key, value): &(&str, String)| {
            vec![Cell::from(key), Cell::from(value.replace('\n', ", "))]
        };
        context.list(&values, &["KEY", "VALUE"], cells)?;
    }
    Ok(0)
}

/// A private file that goes when this does.
pub(super) struct Draft(pub(super) PathBuf);

impl Draft {
    /// In a folder that is root's alone, so that nobody can put something in its place.
    fn new(manager: &Manager, name: &GuestName, text: &str) -> Result<Self> {
        let draft = Self::empty(manager, name, "toml")?;
        std::fs::write(&draft.0, text).map_err(KernelError::io("write", draft.0.display()))?;
        Ok(draft)
    }

    /// An empty one, its name ending with `end`.
    pub(super) fn empty(manager: &Manager, name: &GuestName, end: &str) -> Result<Self> {
        let file = format!("edit-{name}-{}.{end}", std::process::id());
        let path = manager.layout.run().join("scratch").join(file);
        File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(KernelError::io("write", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // `doctor` finds what cannot be removed now.
        let _left = std::fs::remove_file(&self.0);
    }
}

fn edit(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let name = name_of(matches)?;
    let manager = context.manager()?;
    let before = manager.definition_text(&name)?;
    let draft = Draft::new(manager, &name, &before)?;
    let dry_run = matches.get_flag("dry-run");
    loop {
        let edited = open_editor(&draft.0).and_then(|()| Ok(define::read_file(&draft.0)?))?;
        if edited == before {
            context.done(&format!("{name}: nothing is different"))?;
            return Ok(0);
        }
        let done = if dry_run {
            preview(manager, &name, &edited)
        } else {
            let _kept = manager.ensure_keeper(&name);
            manager
                .replace_definition(&name, &edited)
                .map_err(Fault::from)
        };
        match done {
            Ok(changed) => return tell(context, manager, &name, &changed, dry_run),
            Err(fault) if std::io::stdin().is_terminal() => {
                fault.print();
                if !confirmed("Edit again? [y/N] ") {
                    return Err(Fault::new(
                        fault.code,
                        format!("guest {name} is not changed"),
                    ));
                }
            }
            Err(fault) => return Err(fault),
        }
    }
}

/// What an edited definition would change; checks it.
fn preview(manager: &Manager, name: &GuestName, text: &str) -> Result<Changed> {
    let source = manager.definition_path(name).display().to_string();
    let profiles = manager.profiles()?;
    let new = define::define(name, &source, text, &profiles, &manager.facts)?;
    let old = manager.guest(name)?;
    let runs = matches!(manager.status(name)?, Status::Running | Status::Paused);
    let differs =
        |key: &&define::Key| define::get(&old, key.path).ok() != define::get(&new, key.path).ok();
    let (applied, waiting): (Vec<_>, Vec<_>) = KEYS
        .iter()
        .filter(differs)
        .partition(|key| key.live || !runs);
    let paths = |keys: Vec<&define::Key>| keys.iter().map(|key| key.path.to_owned()).collect();
    Ok(Changed {
        applied: paths(applied),
        waiting: paths(waiting),
    })
}

/// The person's editor, its name split at blanks; no shell has a part in it.
pub(super) fn open_editor(path: &Path) -> Result<()> {
    let set = |name: &str| {
        std::env::var(name)
            .ok()
            .filter(|value| !value.trim().is_empty())
    };
    let editor = set("VISUAL")
        .or_else(|| set("EDITOR"))
        .unwrap_or_else(|| "vi".to_owned());
    let mut words = editor.split_whitespace();
    let program = words.next().unwrap_or("vi");
    let status = Command::new(program).args(words).arg(path).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => {
            let why = format!("the editor {program:?} ended with {status}; nothing is changed");
            Err(Fault::new(FAILED, why))
        }
        Err(error) => Err(Fault::new(
            FAILED,
            format!("cannot execute the editor {program:?}: {error}"),
        )
        .hint("set EDITOR to the editor you like")),
    }
}
