//! `state` and `list`: what there is and how it is.

use std::io::Write as _;
use std::os::fd::OwnedFd;

use serde_json::{Value, json};

use super::args::{Format, List};
use super::error::{OciError, Result};
use super::record::{File, Record};
use super::store::{START, STATE, Status, Store, waiting};
use crate::kernel::Errno;
use crate::kernel::cgroup::{Frozen, Host};
use crate::model::clock;

/// Prints the state of one, as the specification has it, with what clients of runc read besides.
pub(super) fn state(store: &Store, id: &str) -> Result<u8> {
    let folder = store.find(id)?;
    let record = folder.made()?;
    let host = Host::quick()?;
    let status = folder.status(&record, &host);
    let text = serde_json::to_string_pretty(&value(&record, status)).unwrap_or_default();
    writeln!(std::io::stdout(), "{text}")?;
    Ok(0)
}

fn value(record: &Record, status: Status) -> Value {
    let mut all = json!({
        "ociVersion": record.oci_version,
        "id": record.id,
        "pid": pid(record, status),
        "status": status.word(),
        "bundle": record.bundle,
        "rootfs": record.rootfs,
        "created": created(record),
        "owner": record.owner,
    });
    if let (Value::Object(all), false) = (&mut all, record.annotations.is_empty()) {
        all.insert("annotations".into(), json!(record.annotations));
    }
    all
}

/// With milliseconds: clients order by it.
fn created(record: &Record) -> String {
    let time = clock::time(record.created_ms);
    let fraction = record.created_ms % 1000;
    format!("{}.{fraction:03}Z", time.trim_end_matches('Z'))
}

fn pid(record: &Record, status: Status) -> u32 {
    match status {
        Status::Stopped | Status::Creating => 0,
        _ => record.process.map_or(0, |p| p.pid),
    }
}

/// Prints all. A folder that was `named` has to be there, the usual one only if there are any.
pub(super) fn list(store: &Store, args: &List, named: bool) -> Result<u8> {
    let (names, root) = store.names()?;
    if named && root.is_none() {
        return Err(OciError::File {
            path: format!("--root {}", store.path("").display())
                .trim_end_matches('/')
                .into(),
            why: "no such file or directory: there is no folder of containers".into(),
        });
    }
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    if args.quiet {
        for name in &names {
            writeln!(out, "{name}")?;
        }
        return Ok(0);
    }
    let rows = match root {
        Some(root) => rows(&root, &names, &Frozen::of(&Host::quick()?))?,
        None => Vec::new(),
    };
    match args.format {
        Format::Json => {
            let all: Vec<Value> = rows.iter().map(|(r, s)| value(r, *s)).collect();
            writeln!(out, "{}", Value::Array(all))?;
        }
        Format::Table => table(&mut out, &rows)?,
    }
    Ok(0)
}

/// How many containers are worth a thread: making one costs as much as looking at ten.
const SHARE: usize = 100;

/// All of them, in order. Nearly all that this takes is the kernel's time, so many are looked at
/// from every processor.
fn rows(root: &OwnedFd, names: &[String], frozen: &Frozen) -> Result<Vec<(Record, Status)>> {
    let part = |names: &[String]| -> Result<Vec<_>> {
        let rows = names.iter().map(|name| row(root, name, frozen));
        rows.filter_map(Result::transpose).collect()
    };
    if names.len() <= SHARE {
        return part(names);
    }
    let hands = std::thread::available_parallelism().map_or(1, usize::from);
    let share = names.len().div_ceil(hands).max(SHARE);
    std::thread::scope(|scope| {
        let hand = |names| {
            let made = std::thread::Builder::new().spawn_scoped(scope, move || part(names));
            (names, made)
        };
        let hands: Vec<_> = names.chunks(share).map(hand).collect();
        let mut rows = Vec::with_capacity(names.len());
        for (names, hand) in hands {
            match hand.map(std::thread::ScopedJoinHandle::join) {
                Ok(Ok(part)) => rows.extend(part?),
                Ok(Err(panic)) => std::panic::resume_unwind(panic),
                // No more threads are to be had: this one is left.
                Err(_) => rows.extend(part(names)?),
            }
        }
        Ok(rows)
    })
}

/// One that is being made or removed is not in the list; one whose state cannot be read is not
/// allowed to hide the others, unless it is this command that has no more files or memory to be had.
fn row(root: &OwnedFd, name: &str, frozen: &Frozen) -> Result<Option<(Record, Status)>> {
    let file = File {
        folder: root,
        path: &format!("{name}/{STATE}"),
        id: name,
    };
    let record = match file.record() {
        Err(OciError::Kernel(error))
            if matches!(error.errno, Errno::MFILE | Errno::NFILE | Errno::NOMEM) =>
        {
            return Err(error.into());
        }
        other => other.ok().flatten(),
    };
    Ok(record.map(|record| {
        let status = record.status(frozen, || waiting(root, &format!("{name}/{START}"), name));
        (record, status)
    }))
}

fn table(out: &mut impl std::io::Write, rows: &[(Record, Status)]) -> Result<()> {
    let head = ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned);
    let cells = rows.iter().map(|(record, status)| {
        [
            record.id.clone(),
            pid(record, *status).to_string(),
            status.word().to_owned(),
            record.bundle.display().to_string(),
            created(record),
            record.owner.clone(),
        ]
    });
    let all: Vec<[String; 6]> = std::iter::once(head).chain(cells).collect();
    let mut widths = [0; 6];
    for line in &all {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = cell.chars().count().max(*width);
        }
    }
    for [cells @ .., last] in &all {
        for (width, cell) in widths.iter().zip(cells) {
            write!(out, "{cell:width$}   ")?;
        }
        writeln!(out, "{last}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::file;

    #[test]
    fn many_are_all_there_and_in_order() {
        let root = std::env::temp_dir().join(format!("bulkhead-list-{}", std::process::id()));
        file::make_private_dir(&root).unwrap();
        let store = Store::at(Some(&root), false);
        let count = 2 * SHARE + 1;
        for number in 0..count {
            let id = format!("c{number:04}");
            let record = json!({
                "id": id, "ociVersion": "1.3.0", "bundle": "/b", "rootfs": "/b/rootfs",
                "process": null, "waits": false, "createdMs": 0, "owner": "root", "cgroup": null,
                "chrooted": false, "namespaces": 0, "poststart": false, "poststop": false,
                "rdt": null, "annotations": {},
            });
            let record: Record = serde_json::from_value(record).unwrap();
            store.reserve(&id).unwrap().begin(b"{}", &record).unwrap();
        }
        // One that cannot be read hides no other.
        store.reserve("c0100b").unwrap();
        std::fs::write(root.join("c0100b").join(STATE), "{ without a length").unwrap();
        let (names, folder) = store.names().unwrap();
        let frozen = Frozen::of(&Host::quick().unwrap());
        let all = rows(&folder.unwrap(), &names, &frozen).unwrap();
        let ids: Vec<_> = all.iter().map(|(record, _)| record.id.clone()).collect();
        let expected: Vec<_> = (0..count).map(|number| format!("c{number:04}")).collect();
        assert_eq!(ids, expected);
        assert!(all.iter().all(|(_, s)| *s == Status::Creating));
        std::fs::remove_dir_all(root).unwrap();
    }
}
