//! What is different between two snapshots, without reading a byte of any file.

use std::cmp::Ordering;

use serde::Serialize;

use super::super::tree_item::What;
use super::entry::Entry;
use super::error::Result;
use super::manifest::order;
use super::repo::Repository;
use super::snapshot::Snapshot;
use super::source::{Source, View};

/// A file that is not the same in both.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Path inside the guest.
    pub path: String,
    /// `added`, `removed`, `changed` (its data or what it is) or `attributes`.
    pub kind: &'static str,
    /// Bytes before.
    pub before: Option<u64>,
    /// Bytes after.
    pub after: Option<u64>,
}

impl Repository {
    /// All differences from `old` to `new`, in the order of a walk.
    ///
    /// # Errors
    /// The repository is damaged.
    pub fn diff(&self, old: &Snapshot, new: &Snapshot, view: View) -> Result<Vec<Difference>> {
        let mut left = Source::new(self, old, view)?;
        let mut right = Source::new(self, new, view)?;
        let (mut a, mut b) = (left.next(self)?, right.next(self)?);
        let mut found = Vec::new();
        loop {
            let side = match (&a, &b) {
                (None, None) => return Ok(found),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((_, a)), Some((_, b))) => order(&a.item.path, &b.item.path),
            };
            let before = (side != Ordering::Greater).then(|| a.take()).flatten();
            let after = (side != Ordering::Less).then(|| b.take()).flatten();
            found.extend(compare(
                before.as_ref().map(|e| &e.1),
                after.as_ref().map(|e| &e.1),
            ));
            if before.is_some() {
                a = left.next(self)?;
            }
            if after.is_some() {
                b = right.next(self)?;
            }
        }
    }
}

fn compare(before: Option<&Entry>, after: Option<&Entry>) -> Option<Difference> {
    let kind = match (before, after) {
        (None, Some(_)) => "added",
        (Some(_), None) => "removed",
        (Some(a), Some(b)) if a.data != b.data || a.item.what != b.item.what => "changed",
        (Some(a), Some(b)) => {
            let (a, b) = (&a.item, &b.item);
            let same = (a.mode, a.uid, a.gid, a.modified) == (b.mode, b.uid, b.gid, b.modified);
            // A folder's time says that something in it came or went, which is told anyway.
            let folder = a.what == What::Folder;
            let same = same || folder && (a.mode, a.uid, a.gid) == (b.mode, b.uid, b.gid);
            if same && a.xattrs == b.xattrs {
                return None;
            }
            "attributes"
        }
        (None, None) => return None,
    };
    let path = &before.or(after)?.item.path;
    let size = |entry: Option<&Entry>| match &entry?.item.what {
        What::File { size, .. } => Some(*size),
        _ => None,
    };
    Some(Difference {
        path: String::from_utf8_lossy(path).into_owned(),
        kind,
        before: size(before),
        after: size(after),
    })
}
