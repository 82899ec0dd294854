//! `backup restore`, `backup ls` and `backup diff`: files and guests out of a repository, what is in
//! a snapshot, and what differs.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::ArgMatches;
use serde::Serialize;

use super::backup::open;
use super::command::required;
use super::context::{Context, note};
use super::fault::{FAILED, Fault, Result};
use super::file::file_cells;
use super::progress::Teller;
use super::render::{Cell, safe, safe_lines};
use super::settings;
use crate::guest::backup::RestoreWish;
use crate::guest::view::bytes_text;
use crate::kernel::interrupt;
use crate::model::GuestName;
use crate::storage::Progress;
use crate::storage::backup::{Repository, Restored, Selection, Snapshot, Unlisted, View};

fn view(matches: &ArgMatches) -> View {
    if matches.get_flag("own") {
        View::Own
    } else {
        View::Whole
    }
}

pub(super) fn restore(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let repository = open(context, matches)?;
    let snapshot = repository.find(&required::<String>(matches, "snapshot")?)?;
    interrupt::catch()?;
    match matches.get_one::<GuestName>("guest") {
        Some(name) => guest(context, matches, &repository, &snapshot, name),
        None => files(context, matches, &repository, &snapshot),
    }
}

/// What was restored, and to where.
#[derive(Serialize)]
struct Done<'a> {
    snapshot: &'a str,
    to: String,
    #[serde(flatten)]
    restored: Restored,
}

fn say(context: &Context, snapshot: &Snapshot, to: &str, restored: Restored) -> Result<u8> {
    let done = Done {
        snapshot: &snapshot.id,
        to: to.to_owned(),
        restored,
    };
    let restored = &done.restored;
    context.one(&done, |_| {
        let (files, bytes) = (restored.files, bytes_text(restored.bytes));
        format!(
            "{}: {files} files, {bytes} from snapshot {}\n",
            safe(to),
            snapshot.id
        )
    })?;
    if restored.left_out > 0 {
        let n = restored.left_out;
        context.say(&format!("{n} attributes of files were not taken over"));
    }
    judge(restored, &snapshot.id, to)
}

/// Says what is damaged of what was to be restored, which is a failure.
fn judge(restored: &Restored, id: &str, to: &str) -> Result<u8> {
    if restored.damaged.is_empty() && restored.unlisted.is_empty() {
        return Ok(0);
    }
    for path in &restored.damaged {
        note(&format!("damaged, left out: {path}"));
    }
    tell(&restored.unlisted);
    let files = restored.damaged.len();
    let what = match restored.unlisted.is_empty() {
        true => format!(
            "{files} of the files of snapshot {id} are damaged in the repository and are not in {to}"
        ),
        false => format!(
            "a list of files of snapshot {id} is damaged in the repository: what was there does not come back"
        ),
    };
    Err(Fault::new(FAILED, what).hint(
        "take them from another snapshot (`bulkhead backup list`); `bulkhead backup reindex`, then \
         `backup create` of each guest, so that the next backups are whole",
    ))
}

/// Says what of the lists of files is lost.
fn tell(lost: &[Unlisted]) {
    for stretch in lost {
        note(&format!("damaged: {stretch}"));
    }
}

fn files(
    context: &Context,
    matches: &ArgMatches,
    repository: &Repository,
    snapshot: &Snapshot,
) -> Result<u8> {
    let Some(to) = matches.get_one::<PathBuf>("to") else {
        return Err(Fault::usage(
            "say --to DIR for files, or --guest NAME for a guest",
        ));
    };
    let paths: Vec<Vec<u8>> = matches
        .get_many::<OsString>("paths")
        .into_iter()
        .flatten()
        .map(|path| path.as_encoded_bytes().to_vec())
        .collect();
    let selection = Selection::new(view(matches), &paths)?;
    let total = repository.measure(snapshot, &selection)?;
    let shown = to.display().to_string();
    if matches.get_flag("dry-run") {
        let (files, bytes) = (total.files, bytes_text(total.bytes));
        context.done(&safe(&format!(
            "would restore {files} files, {bytes} to {shown}"
        )))?;
        return judge(&total, &snapshot.id, &shown);
    }
    let mut teller = Teller::new(context.quiet);
    teller.tell(Progress::Phase(format!("restoring to {shown}")));
    let done = repository.restore(snapshot, &selection, to, &mut |done| {
        let (done, total) = (done.bytes, Some(total.bytes));
        teller.tell(Progress::Bytes { done, total });
    });
    drop(teller);
    let done = done.map_err(|error| Fault::from(error).or_interrupted())?;
    say(context, snapshot, &shown, done)
}

fn guest(
    context: &Context,
    matches: &ArgMatches,
    repository: &Repository,
    snapshot: &Snapshot,
    name: &GuestName,
) -> Result<u8> {
    let manager = context.manager()?;
    let wish = RestoreWish {
        name: name.clone(),
        trust: matches.get_flag("trust"),
        changes: settings::changes(matches)?,
    };
    if matches.get_flag("dry-run") {
        let (would, definition) = manager
            .check_restore(repository, snapshot, &wish)
            .map_err(Fault::of_newcomer)?;
        let found = manager
            .measure_restore(repository, snapshot)
            .map_err(Fault::of_newcomer)?;
        context.one(&would, |_| safe_lines(&definition))?;
        let (files, bytes) = (found.files, bytes_text(found.bytes));
        context.say(&format!(
            "guest {name} would be made of snapshot {}: {files} files, {bytes}; nothing was changed",
            snapshot.id
        ));
        return judge(&found, &snapshot.id, &format!("guest {name}"));
    }
    let mut teller = Teller::new(context.quiet);
    teller.tell(Progress::Phase(format!("restoring guest {name}")));
    let done = manager.restore_guest(repository, snapshot, &wish, &mut |done| {
        let (done, total) = (done.bytes, None);
        teller.tell(Progress::Bytes { done, total });
    });
    drop(teller);
    let done = done.map_err(Fault::of_newcomer)?;
    say(context, snapshot, &format!("guest {name}"), done)
}

pub(super) fn ls(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let repository = open(context, matches)?;
    let snapshot = repository.find(&required::<String>(matches, "snapshot")?)?;
    let path = matches.get_one::<OsString>("path");
    let path = path.map_or(&b"/"[..], |path| path.as_encoded_bytes());
    let deep = matches.get_flag("recursive");
    let (found, lost) = repository.list_files(&snapshot, view(matches), path, deep)?;
    let heads = ["MODE", "OWNER", "SIZE", "CHANGED", "PATH"];
    context.list(&found, &heads, file_cells)?;
    if lost.is_empty() {
        return Ok(0);
    }
    tell(&lost);
    let what = format!("a list of files of snapshot {} is damaged", snapshot.id);
    Err(Fault::new(FAILED, what).hint("`bulkhead backup list` shows whether there is another"))
}

pub(super) fn diff(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let repository = open(context, matches)?;
    let old = repository.find(&required::<String>(matches, "old")?)?;
    let new = repository.find(&required::<String>(matches, "new")?)?;
    let found = repository.diff(&old, &new, view(matches))?;
    let size = |bytes: Option<u64>| bytes.map(bytes_text).unwrap_or_default();
    context.list(
        &found,
        &["CHANGE", "BEFORE", "AFTER", "PATH"],
        |difference| {
            vec![
                Cell::from(difference.kind),
                Cell::from(size(difference.before)),
                Cell::from(size(difference.after)),
                Cell::from(safe(&difference.path)),
            ]
        },
    )?;
    Ok(0)
}
