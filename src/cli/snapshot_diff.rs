//! `snapshot diff`: what has changed in a guest's files since a snapshot, or between two.

use clap::{Arg, ArgMatches, Command};

use super::command::{name, name_of};
use super::context::{Context, note};
use super::fault::{FAILED, Fault, Result};
use super::render::{Cell, Tone, safe};
use crate::guest::view::bytes_text;
use crate::kernel::interrupt;
use crate::storage::{ChangeKind, TreeChange};

/// The verb with its arguments.
pub(super) fn verb() -> Command {
    let snapshot = |id: &'static str, value: &'static str, help: &'static str| {
        Arg::new(id).value_name(value).help(help)
    };
    Command::new("diff")
        .about("Tell which files have changed since a snapshot, or between two")
        .arg(name())
        .arg(snapshot(
            "from",
            "FROM",
            "Snapshot to begin with [default: the one the guest came from last]",
        ))
        .arg(snapshot(
            "to",
            "TO",
            "Snapshot to compare with [default: the guest as it is now]",
        ))
}

/// Does it.
pub(super) fn run(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let (name, manager) = (name_of(matches)?, context.manager()?);
    let given = |id: &str| matches.get_one::<String>(id).map(String::as_str);
    interrupt::catch()?;
    let diff = manager.diff_snapshots(&name, given("from"), given("to"));
    let diff = diff.map_err(|error| Fault::from(error).or_interrupted())?;
    let to = diff.to.as_deref().map_or("now".into(), safe);
    let count = diff.found.changes.len();
    context.say(&format!(
        "{name}: from snapshot {} to {to}: {count} {}",
        safe(&diff.from),
        if count == 1 {
            "difference"
        } else {
            "differences"
        }
    ));
    let headings = ["CHANGE", "WHAT", "BEFORE", "AFTER", "PATH"];
    context.list(&diff.found.changes, &headings, cells)?;
    if diff.moves {
        context.say("the guest went on meanwhile: this is what was seen");
    }
    if diff.found.too_deep > 0 {
        note(&format!(
            "not looked into, because their paths have more than 4000 bytes: {} of the folders",
            diff.found.too_deep
        ));
    }
    if diff.found.cut {
        note("there are more differences than are told");
    }
    match diff.found.too_deep > 0 || diff.found.cut {
        true => Ok(FAILED),
        false => Ok(0),
    }
}

fn cells(one: &TreeChange) -> Vec<Cell> {
    let (kind, tone) = match one.kind {
        ChangeKind::Added => ("added", Tone::Good),
        ChangeKind::Removed => ("removed", Tone::Bad),
        ChangeKind::Changed => ("changed", Tone::Odd),
        ChangeKind::Meta => ("meta", Tone::Plain),
    };
    let size = |size: Option<u64>| Cell::from(size.map_or(String::new(), bytes_text));
    vec![
        Cell::new(kind, tone),
        Cell::from(one.what.join(",")),
        size(one.before),
        size(one.after),
        Cell::from(&one.path),
    ]
}
