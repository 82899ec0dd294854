//! `state` and `list`: what there is and how it is.

use std::io::Write as _;

use serde_json::{Value, json};

use super::args::{Format, List};
use super::error::Result;
use super::store::{Folder, Record, Status, Store};
use crate::kernel::cgroup::Host;
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
        "created": clock::time(record.created_ms),
        "owner": record.owner,
    });
    if let (Value::Object(all), false) = (&mut all, record.annotations.is_empty()) {
        all.insert("annotations".into(), json!(record.annotations));
    }
    all
}

fn pid(record: &Record, status: Status) -> u32 {
    match status {
        Status::Stopped | Status::Creating => 0,
        _ => record.process.map_or(0, |p| p.pid),
    }
}

/// Prints all.
pub(super) fn list(store: &Store, args: &List) -> Result<u8> {
    let (names, root) = store.names()?;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    if args.quiet {
        for name in &names {
            writeln!(out, "{name}")?;
        }
        return Ok(0);
    }
    let host = Host::quick()?;
    let mut rows = Vec::with_capacity(names.len());
    if let Some(root) = root {
        for name in names {
            rows.extend(row(&root, &name, &host)?);
        }
    }
    match args.format {
        Format::Json => {
            let all: Vec<Value> = rows.iter().map(|(r, s)| value(r, *s)).collect();
            writeln!(out, "{}", Value::Array(all))?;
        }
        Format::Table => table(&mut out, &rows)?,
    }
    Ok(0)
}

/// One that is being made or removed is not in the list; one whose state cannot be read is not
/// allowed to hide the others.
fn row(root: &std::os::fd::OwnedFd, name: &str, host: &Host) -> Result<Option<(Record, Status)>> {
    let root = root.try_clone()?;
    let Some(folder) = Folder::open(root, name)? else {
        return Ok(None);
    };
    let record = folder.record().ok().flatten();
    Ok(record.map(|record| {
        let status = folder.status(&record, host);
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
            clock::time(record.created_ms),
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
    for line in &all {
        let mut text = String::new();
        for (width, cell) in widths.iter().zip(line) {
            text += &format!("{cell:width$}   ");
        }
        writeln!(out, "{}", text.trim_end())?;
    }
    Ok(())
}
