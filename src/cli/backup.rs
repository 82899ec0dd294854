//! `backup`: guests into a repository of backups, what is in it, and what goes. Getting files and
//! guests out of one is next door in `backup_restore`, the flags of all in `backup_arguments`.

use std::path::PathBuf;

use clap::ArgMatches;
use serde::Serialize;

use super::backup_arguments::verbs;
use super::backup_restore::{diff, ls, restore};
use super::command::{Verb, required};
use super::context::Context;
use super::fault::{FAILED, Fault, Result};
use super::progress::Teller;
use super::render::{Cell, safe};
use super::select;
use crate::guest::view::bytes_text;
use crate::kernel::interrupt;
use crate::model::{Retention, clock};
use crate::storage::Progress;
use crate::storage::backup::{Protection, Repository, Snapshot, Wish, Work};

pub(super) const BACKUP: Verb = Verb {
    name: "backup",
    about: "Back guests up into a repository, and restore from it",
    build: |command| command.subcommand_required(true).subcommands(verbs()),
    run: |context, matches| match matches.subcommand() {
        Some(("init", matches)) => init(context, matches),
        Some(("create", matches)) => create(context, matches),
        Some(("info", matches)) => info(context, matches),
        Some(("restore", matches)) => restore(context, matches),
        Some(("ls", matches)) => ls(context, matches),
        Some(("diff", matches)) => diff(context, matches),
        Some(("verify", matches)) => verify(context, matches),
        Some(("delete", matches)) => delete(context, matches),
        Some(("prune", matches)) => prune(context, matches),
        Some(("reindex", matches)) => reindex(context, matches),
        Some((_, matches)) => list(context, matches),
        None => Err(Fault::usage("backup needs a verb")),
    },
    hidden: false,
};

/// The repository's place and what protects it.
fn place(context: &Context, matches: &ArgMatches) -> Result<(PathBuf, Protection)> {
    let place: PathBuf = required(matches, "repo")?;
    let protection = match (
        matches.get_flag("no-encryption"),
        matches.get_one("key-file"),
    ) {
        (true, _) => Protection::None,
        (false, Some(path)) => Protection::KeyFile(PathBuf::clone(path)),
        (false, None) => {
            let layout = crate::model::Layout::new(&context.root);
            Protection::KeyFile(layout.etc().join("backup.key"))
        }
    };
    Ok((place, protection))
}

/// The repository, opened.
pub(super) fn open(context: &Context, matches: &ArgMatches) -> Result<Repository> {
    let (place, protection) = place(context, matches)?;
    Ok(Repository::open(&place, &protection)?)
}

fn init(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let (place, protection) = place(context, matches)?;
    let shown = safe(&place.display().to_string());
    if matches.get_flag("dry-run") {
        context.done(&format!("would make a repository in {shown}"))?;
        return Ok(0);
    }
    Repository::init(&place, &protection)?;
    context.done(&format!("repository {shown} is made"))?;
    match protection {
        Protection::KeyFile(key) => context.say(&format!(
            "its key is in {}: keep a copy elsewhere, without it no backup can be read",
            key.display()
        )),
        Protection::None => context.say("it is not encrypted: who has it reads all guests' files"),
    }
    Ok(0)
}

/// A backup that was made.
#[derive(Serialize)]
struct Made<'a> {
    guest: &'a str,
    snapshot: &'a str,
    #[serde(flatten)]
    work: Work,
    added: u64,
    frozen: bool,
    took_ms: u64,
}

fn create(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let guests = select::chosen(context, matches)?;
    let manager = context.manager()?;
    if matches.get_flag("dry-run") {
        for name in &guests {
            manager.definition_text(name)?;
            context.done(&format!("would back up {name}"))?;
        }
        return Ok(0);
    }
    let mut repository = open(context, matches)?;
    repository.sweep()?;
    interrupt::catch()?;
    let (mut made, mut code) = (Vec::new(), 0);
    for name in &guests {
        let mut teller = Teller::new(context.quiet);
        teller.tell(Progress::Phase(format!("backing up {name}")));
        let mut tell = |work: &Work| {
            teller.tell(Progress::Bytes {
                done: work.read_bytes,
                total: None,
            });
        };
        let done = manager.back_up(&mut repository, name, matches.get_flag("freeze"), &mut tell);
        drop(teller);
        match done {
            Ok(done) => made.push(done),
            Err(error) => {
                let fault = Fault::from(error).or_interrupted();
                fault.print();
                code = code.max(fault.code);
            }
        }
        if interrupt::caught().is_some() {
            break;
        }
    }
    let rows: Vec<Made<'_>> = made
        .iter()
        .map(|(snapshot, work)| row(snapshot, *work))
        .collect();
    let heads = ["GUEST", "SNAPSHOT", "FILES", "READ", "ADDED", "TOOK"];
    context.list(&rows, &heads, |made| {
        vec![
            Cell::from(made.guest),
            Cell::from(made.snapshot),
            Cell::from(made.work.files.to_string()),
            Cell::from(bytes_text(made.work.read_bytes)),
            Cell::from(bytes_text(made.added)),
            Cell::from(format!("{} ms", made.took_ms)),
        ]
    })?;
    Ok(code)
}

fn row(snapshot: &Snapshot, work: Work) -> Made<'_> {
    Made {
        guest: &snapshot.guest,
        snapshot: &snapshot.id,
        work,
        added: snapshot.added,
        frozen: snapshot.frozen,
        took_ms: snapshot.took_ms,
    }
}

/// A snapshot as it is shown.
#[derive(Serialize)]
struct Shown<'a> {
    snapshot: &'a str,
    guest: &'a str,
    host: &'a str,
    time: String,
    took_ms: u64,
    frozen: bool,
    image: &'a str,
    template: &'a str,
    files: u64,
    bytes: u64,
    own_files: u64,
    own_bytes: u64,
    added: u64,
}

impl<'a> From<&'a Snapshot> for Shown<'a> {
    fn from(snapshot: &'a Snapshot) -> Self {
        Self {
            snapshot: &snapshot.id,
            guest: &snapshot.guest,
            host: &snapshot.host,
            time: clock::time(snapshot.began_ms),
            took_ms: snapshot.took_ms,
            frozen: snapshot.frozen,
            image: &snapshot.image.digest,
            template: &snapshot.image.template,
            files: snapshot.trees().map(|tree| tree.files).sum(),
            bytes: snapshot.trees().map(|tree| tree.bytes).sum(),
            own_files: snapshot.own.files,
            own_bytes: snapshot.own.bytes,
            added: snapshot.added,
        }
    }
}

fn list(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let snapshots = open(context, matches)?.snapshots()?;
    let all: Vec<Shown<'_>> = snapshots.iter().map(Shown::from).collect();
    let heads = ["SNAPSHOT", "GUEST", "TIME", "FILES", "SIZE", "ADDED"];
    context.list(&all, &heads, |shown| {
        vec![
            Cell::from(shown.snapshot),
            Cell::from(safe(shown.guest)),
            Cell::from(shown.time.as_str()),
            Cell::from(shown.files.to_string()),
            Cell::from(bytes_text(shown.bytes)),
            Cell::from(bytes_text(shown.added)),
        ]
    })?;
    Ok(0)
}

fn info(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let repository = open(context, matches)?;
    let snapshot = repository.find(&required::<String>(matches, "snapshot")?)?;
    let shown = Shown::from(&snapshot);
    context.one(&shown, |_| {
        let frozen = if shown.frozen { "yes" } else { "no" };
        let mut text = format!("{}\n", shown.snapshot);
        for (key, value) in [
            ("guest", safe(shown.guest)),
            ("host", safe(shown.host)),
            ("time", shown.time.clone()),
            ("took", format!("{} ms", shown.took_ms)),
            ("frozen", frozen.to_owned()),
            (
                "image",
                format!("{} ({})", safe(shown.image), safe(shown.template)),
            ),
            (
                "files",
                format!("{}, {}", shown.files, bytes_text(shown.bytes)),
            ),
            (
                "own",
                format!("{}, {}", shown.own_files, bytes_text(shown.own_bytes)),
            ),
            ("added", bytes_text(shown.added)),
        ] {
            text += &format!("  {key:<8}{value}\n");
        }
        text
    })?;
    Ok(0)
}

fn verify(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let repository = open(context, matches)?;
    interrupt::catch()?;
    let mut teller = Teller::new(context.quiet);
    teller.tell(Progress::Phase("looking at the repository".into()));
    let verdict = repository.verify(matches.get_flag("read-data"), &mut |done, total| {
        let total = Some(total);
        teller.tell(Progress::Bytes { done, total });
    });
    drop(teller);
    let verdict = verdict.map_err(|error| Fault::from(error).or_interrupted())?;
    context.one(&verdict, |_| {
        let read = if verdict.data_read {
            "read"
        } else {
            "not read"
        };
        let mut text = format!(
            "{} snapshots, {} packs with {} chunks and {} ({read})\n",
            verdict.snapshots,
            verdict.packs,
            verdict.chunks,
            bytes_text(verdict.bytes)
        );
        if verdict.unused_packs > 0 {
            text += &format!(
                "{} packs that nothing needs: `bulkhead backup prune`\n",
                verdict.unused_packs
            );
        }
        for fault in &verdict.faults {
            text += &format!("damaged: {}\n", safe(fault));
        }
        text
    })?;
    if verdict.faults.is_empty() {
        return Ok(0);
    }
    let n = verdict.faults.len();
    Err(Fault::new(FAILED, format!("{n} faults in the repository")).hint(
        "`bulkhead backup reindex` leaves out what is lost of packs and the index, then `bulkhead \
         backup create` of each guest stores it again; a snapshot of before that needs it stays \
         damaged, and `restore` gives the rest of it",
    ))
}

fn delete(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let named: Vec<String> = matches
        .get_many("snapshot")
        .map(|names| names.cloned().collect())
        .unwrap_or_default();
    // Let go of before it is taken alone.
    let delete = {
        let repository = open(context, matches)?;
        let found = named.iter().map(|name| Ok(repository.find(name)?.id));
        found.collect::<Result<_>>()?
    };
    take_away(context, matches, delete, Retention::default())
}

fn prune(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let number = |name| matches.get_one::<u32>(name).copied().unwrap_or(0);
    let retention = Retention {
        last: number("keep-last"),
        daily: number("keep-daily"),
        weekly: number("keep-weekly"),
        monthly: number("keep-monthly"),
    };
    take_away(context, matches, Vec::new(), retention)
}

fn take_away(
    context: &Context,
    matches: &ArgMatches,
    delete: Vec<String>,
    retention: Retention,
) -> Result<u8> {
    let (place, protection) = place(context, matches)?;
    let dry_run = matches.get_flag("dry-run");
    let wish = Wish {
        retention,
        delete,
        dry_run,
    };
    interrupt::catch()?;
    let done = Repository::prune(&place, &protection, &wish);
    let done = done.map_err(|error| Fault::from(error).or_interrupted())?;
    context.one(&done, |_| {
        let verb = if dry_run { "would delete" } else { "deleted" };
        let mut text = String::new();
        for (id, guest) in &done.snapshots {
            text += &format!("{verb} snapshot {id} of {}\n", safe(guest));
        }
        let freed = bytes_text(done.freed);
        text += &format!(
            "{} snapshots kept; {verb} {} packs, {} made smaller, {freed} freed\n",
            done.kept, done.packs, done.rewritten
        );
        text
    })?;
    Ok(0)
}

fn reindex(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let (place, protection) = place(context, matches)?;
    if matches.get_flag("dry-run") {
        context.done("would read all packs and make the index anew")?;
        return Ok(0);
    }
    interrupt::catch()?;
    let done = Repository::reindex(&place, &protection);
    let (packs, faults) = done.map_err(|error| Fault::from(error).or_interrupted())?;
    for fault in &faults {
        context.say(&format!("left out: {fault}"));
    }
    context.done(&format!("the index is made anew from {packs} packs"))?;
    Ok(if faults.is_empty() { 0 } else { FAILED })
}
