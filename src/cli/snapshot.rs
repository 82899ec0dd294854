//! `snapshot` and `clone`: a guest as it was, and other guests made from it.

use std::path::PathBuf;

use clap::{Arg, ArgMatches, Command};
use serde::Serialize;

use super::command::{Verb, dry_run, name, name_of, new_name, required, switch};
use super::context::Context;
use super::fault::{Fault, Result};
use super::reinstall::{keep, paths_to_keep};
use super::render::{Cell, Format, safe};
use super::settings;
use super::{snapshot_diff, snapshot_mount, snapshot_run};
use crate::guest::snapshot::{CloneRequest, Snapshot};
use crate::guest::snapshot_mount::SnapshotMount;
use crate::guest::snapshot_tree::in_tree;
use crate::kernel::interrupt;
use crate::model::GuestName;
use crate::model::clock::time;

pub(super) const SNAPSHOT: Verb = Verb {
    name: "snapshot",
    about: "Keep a guest as it is, go back to it",
    build: |command| {
        command
            .subcommand_required(true)
            .subcommand(
                Command::new("create")
                    .about("Keep a guest's files and definition as they are now")
                    .arg(name())
                    .arg(
                        snapshot()
                            .required(false)
                            .help("Its name [default: s1, s2 and so on]"),
                    )
                    .arg(
                        Arg::new("comment")
                            .long("comment")
                            .value_name("TEXT")
                            .default_value("")
                            .hide_default_value(true)
                            .help("Free text"),
                    )
                    .arg(dry_run()),
            )
            .subcommand(
                Command::new("list")
                    .about("List a guest's snapshots")
                    .arg(name()),
            )
            .subcommand(snapshot_diff::verb())
            .subcommand(snapshot_mount::verb(snapshot()))
            .subcommand(snapshot_mount::undo_verb())
            .subcommand(
                Command::new("restore")
                    .about("Put a stopped guest's files back to a snapshot")
                    .arg(name())
                    .arg(snapshot())
                    .arg(switch("definition", "Its definition as well"))
                    .arg(keep().help(
                        "File or folder inside the guest that stays as it is; may be said again",
                    ))
                    .arg(dry_run()),
            )
            .subcommand(
                Command::new("delete")
                    .about("Remove a snapshot")
                    .arg(name())
                    .arg(snapshot())
                    .arg(dry_run()),
            )
            .subcommand(snapshot_run::verb())
    },
    run: |context, matches| match matches.subcommand() {
        Some(("create", matches)) => create(context, matches),
        Some(("restore", matches)) => restore(context, matches),
        Some(("delete", matches)) => delete(context, matches),
        Some(("diff", matches)) => snapshot_diff::run(context, matches),
        Some(("mount", matches)) => snapshot_mount::mount(context, matches),
        Some(("unmount", matches)) => snapshot_mount::unmount(context, matches),
        Some(("run", matches)) => snapshot_run::run(context, matches),
        Some((_, matches)) => list(context, matches),
        None => Err(Fault::usage("say what to do with snapshots")),
    },
    hidden: false,
};

pub(super) const CLONE: Verb = Verb {
    name: "clone",
    about: "Make another guest that begins as this one is, or was",
    build: |command| {
        command
            .arg(name())
            .arg(new_name("Name of the new guest"))
            .arg(
                Arg::new("snapshot")
                    .long("snapshot")
                    .value_name("SNAPSHOT")
                    .help("Begin with this snapshot [default: the guest as it is now]"),
            )
            .arg(switch(
                "full",
                "Copy its files, so that the two share nothing but the image",
            ))
            .arg(switch(
                "scrub",
                "Without its logs, mail, histories, leases, keys and temporary files",
            ))
            .arg(switch("start", "Start it when it is made"))
            .arg(dry_run())
            .args(settings::flags())
    },
    run: clone,
    hidden: false,
};

fn snapshot() -> Arg {
    Arg::new("snapshot")
        .value_name("SNAPSHOT")
        .required(true)
        .help("Name of the snapshot")
}

#[derive(Serialize)]
struct Shown<'a> {
    name: &'a str,
    created_ms: u64,
    parent: Option<&'a str>,
    image: &'a str,
    comment: &'a str,
    automatic: bool,
    /// Until when it is kept; `None` for as long as nobody removes it.
    until_ms: Option<u64>,
    /// Whether the guest comes after it now.
    now: bool,
    /// Folders that it is mounted on.
    mounted: Vec<PathBuf>,
    /// Forks above it.
    #[serde(skip)]
    depth: usize,
}

impl<'a> Shown<'a> {
    fn of((depth, one): (usize, &'a Snapshot), now: bool, mounted: Vec<PathBuf>) -> Self {
        Self {
            depth,
            now,
            mounted,
            name: &one.name,
            created_ms: one.created_ms,
            parent: one.parent.as_deref(),
            image: &one.image,
            comment: &one.comment,
            automatic: one.automatic,
            until_ms: one.until_ms,
        }
    }
}

fn list(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let (name, manager) = (name_of(matches)?, context.manager()?);
    let all = manager.snapshots(&name)?;
    let mounts = manager.snapshot_mounts()?;
    let mounted = |snapshot: &str| -> Vec<PathBuf> {
        let here = |one: &&SnapshotMount| one.guest == name.as_str() && one.snapshot == snapshot;
        let folders = mounts.iter().filter(here);
        folders.map(|one| one.folder.clone()).collect()
    };
    let now = manager.comes_after(&name)?;
    // For people as a tree, for programs by their time.
    let order = match context.format {
        Format::Table => in_tree(&all),
        _ => all.iter().map(|one| (0, one)).collect(),
    };
    let shown: Vec<Shown<'_>> = order
        .into_iter()
        .map(|one| {
            let is_now = now.as_ref() == Some(&one.1.name);
            Shown::of(one, is_now, mounted(&one.1.name))
        })
        .collect();
    context.list(
        &shown,
        &[
            "NAME",
            "TAKEN",
            "BY",
            "AFTER",
            "NOW",
            "KEPT UNTIL",
            "MOUNTED",
            "COMMENT",
        ],
        |one| {
            let folders: Vec<_> = one
                .mounted
                .iter()
                .map(|path| path.display().to_string())
                .collect();
            vec![
                Cell::from(format!("{:1$}{2}", "", one.depth * 2, safe(one.name))),
                Cell::from(time(one.created_ms)),
                Cell::from(if one.automatic { "clock" } else { "hand" }),
                Cell::from(safe(one.parent.unwrap_or("-"))),
                Cell::from(if one.now { "here" } else { "-" }),
                Cell::from(one.until_ms.map_or("-".to_owned(), time)),
                Cell::from(match folders.is_empty() {
                    true => "-".to_owned(),
                    false => folders.join(" "),
                }),
                Cell::from(safe(one.comment)),
            ]
        },
    )?;
    Ok(0)
}

fn create(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let (name, manager) = (name_of(matches)?, context.manager()?);
    let there = manager.snapshots(&name)?;
    let free = || {
        let mut names = (1..).map(|n| format!("s{n}"));
        names.find(|name| there.iter().all(|one| one.name != *name))
    };
    let given = matches.get_one::<String>("snapshot").cloned();
    let snapshot = given.or_else(free).unwrap_or_default();
    crate::define::snapshot_name(&snapshot).map_err(Fault::usage)?;
    if matches.get_flag("dry-run") {
        context.done(&format!("{name}: would be kept as snapshot {snapshot}"))?;
        return Ok(0);
    }
    let comment: String = required(matches, "comment")?;
    // A guest that is held still goes on whoever asks this to end.
    interrupt::catch()?;
    let taken = manager.take_snapshot(&name, &snapshot, &comment);
    taken.map_err(|error| Fault::from(error).or_interrupted())?;
    context.done(&format!("{name}: snapshot {snapshot} taken"))?;
    Ok(0)
}

fn restore(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let (name, manager) = (name_of(matches)?, context.manager()?);
    let snapshot: String = required(matches, "snapshot")?;
    let keep = paths_to_keep(matches)?;
    if matches.get_flag("dry-run") {
        manager.snapshot(&name, &snapshot)?;
        manager.check_keep(&name, &keep)?;
        context.done(&format!("{name}: would go back to snapshot {snapshot}"))?;
        return Ok(0);
    }
    let definition = matches.get_flag("definition");
    manager.restore(&name, &snapshot, (definition, &keep))?;
    context.done(&format!(
        "{name}: is as it was at snapshot {}",
        safe(&snapshot)
    ))?;
    Ok(0)
}

fn delete(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let (name, manager) = (name_of(matches)?, context.manager()?);
    let snapshot: String = required(matches, "snapshot")?;
    manager.snapshot(&name, &snapshot)?;
    if matches.get_flag("dry-run") {
        context.done(&format!("{name}: would lose snapshot {snapshot}"))?;
        return Ok(0);
    }
    manager.delete_snapshot(&name, &snapshot)?;
    context.done(&format!("{name}: snapshot {snapshot} is removed"))?;
    Ok(0)
}

fn clone(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let (from, manager) = (name_of(matches)?, context.manager()?);
    let to: GuestName = required(matches, "to")?;
    let request = CloneRequest {
        snapshot: matches.get_one::<String>("snapshot").cloned(),
        changes: settings::changes(matches)?,
        full: matches.get_flag("full"),
        scrub: matches.get_flag("scrub"),
    };
    if matches.get_flag("dry-run") {
        manager.check_clone(&from, &to, &request)?;
        context.done(&format!("{to}: would be made from {from}"))?;
        return Ok(0);
    }
    interrupt::catch()?;
    manager.clone_guest(&from, &to, &request)?;
    context.done(&format!("{to}: made from {from}"))?;
    if matches.get_flag("start") {
        let started = manager.start(&to)?;
        context.done(&format!("{to}: started, process {}", started.pid))?;
    }
    Ok(0)
}
