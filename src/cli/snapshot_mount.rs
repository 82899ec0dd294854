//! `snapshot mount` and `snapshot unmount`: a snapshot on a folder of the host's.

use std::path::PathBuf;

use clap::{Arg, ArgMatches, Command, value_parser};

use super::command::{dry_run, name, name_of, required};
use super::context::Context;
use super::fault::Result;
use super::render::safe;

fn folder(help: &'static str) -> Arg {
    Arg::new("folder")
        .value_name("DIR")
        .required(true)
        .value_parser(value_parser!(PathBuf))
        .help(help)
}

/// The verb that shows one.
pub(super) fn verb(snapshot: Arg) -> Command {
    Command::new("mount")
        .about("Show a snapshot's files on a folder of the host's, read-only")
        .arg(name())
        .arg(snapshot)
        .arg(folder("An empty folder of the host's"))
        .arg(dry_run())
}

/// The verb that takes it off again.
pub(super) fn undo_verb() -> Command {
    Command::new("unmount")
        .about("Take a snapshot off a folder of the host's")
        .arg(folder("The folder"))
        .arg(dry_run())
}

/// Shows one.
pub(super) fn mount(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let (name, manager) = (name_of(matches)?, context.manager()?);
    let snapshot: String = required(matches, "snapshot")?;
    let folder: PathBuf = required(matches, "folder")?;
    let shown = folder.display();
    if matches.get_flag("dry-run") {
        manager.check_mount(&name, &snapshot, &folder)?;
        context.done(&format!(
            "{name}: would show snapshot {snapshot} on {shown}"
        ))?;
        return Ok(0);
    }
    manager.mount_snapshot(&name, &snapshot, &folder)?;
    context.done(&format!(
        "{name}: snapshot {} is mounted on {shown}",
        safe(&snapshot)
    ))?;
    Ok(0)
}

/// Takes it off again.
pub(super) fn unmount(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let manager = context.manager()?;
    let folder: PathBuf = required(matches, "folder")?;
    if matches.get_flag("dry-run") {
        let found = manager.mounted_on(&folder)?;
        context.done(&format!(
            "{}: snapshot {} would be taken off {}",
            found.guest,
            found.snapshot,
            folder.display()
        ))?;
        return Ok(0);
    }
    let found = manager.unmount_snapshot(&folder)?;
    context.done(&format!(
        "{}: snapshot {} is unmounted from {}",
        found.guest,
        found.snapshot,
        folder.display()
    ))?;
    Ok(0)
}
