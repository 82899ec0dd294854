//! What is in a snapshot, for people who look for a file: names, kinds, sizes and times, without
//! reading a byte of any file.

use super::super::tree_item::What;
use super::entry::Entry;
use super::error::{BackupError, Result};
use super::links::Links;
use super::manifest::{is_below, plain};
use super::repo::Repository;
use super::restore_gap::{Unlisted, unlisted};
use super::snapshot::Snapshot;
use super::source::{Source, View};
use crate::model::{FileEntry, FileKind};

impl Repository {
    /// The files of a folder of a snapshot, or with `deep` all that is below it, in the order of a
    /// walk; of anything else that alone. They have their whole path for a name. With them what of the
    /// lists is damaged, so that there may have been more.
    ///
    /// # Errors
    /// The path is not in the snapshot, or has `..` in it; the repository is damaged.
    pub fn list_files(
        &self,
        snapshot: &Snapshot,
        view: View,
        path: &[u8],
        deep: bool,
    ) -> Result<(Vec<FileEntry>, Vec<Unlisted>)> {
        let wanted = plain(path)?;
        let links = Links::new(self, snapshot, true)?;
        let mut source = Source::past_damage(self, snapshot, view)?;
        let (mut found, mut is_there) = (Vec::new(), false);
        while let Some((layer, entry)) = source.next(self)? {
            let path = &entry.item.path;
            if !is_below(path, &wanted) {
                continue;
            }
            is_there = true;
            if *path == wanted && entry.item.what == What::Folder {
                continue;
            }
            let within = path.get(wanted.len()..).unwrap_or_default();
            let within = within.strip_prefix(b"/").unwrap_or(within);
            if deep || !within.contains(&b'/') {
                found.push(shown(&entry, &links, layer));
            }
        }
        let asked = (!wanted.is_empty()).then(|| wanted.clone());
        let lost = unlisted(&source, snapshot, asked.as_slice());
        match is_there {
            true => Ok((found, lost)),
            false if !lost.is_empty() => Err(BackupError::unlisted(&wanted, snapshot)),
            false => Err(BackupError::missing(&wanted, snapshot)),
        }
    }
}

fn shown(entry: &Entry, links: &Links, layer: usize) -> FileEntry {
    let item = &entry.item;
    // Another name of a file has what the file has.
    let what = match &item.what {
        What::HardLink(target) => links.file(layer, target).map(|file| &file.item.what),
        what => Some(what),
    };
    let (seconds, nanoseconds) = item.modified;
    let seconds = u64::try_from(seconds).unwrap_or(0);
    FileEntry {
        name: format!("/{}", String::from_utf8_lossy(&item.path)),
        kind: match what {
            Some(What::Folder) => FileKind::Folder,
            Some(What::Symlink(_)) => FileKind::Link,
            Some(What::Device { .. }) => FileKind::Device,
            Some(What::Fifo) => FileKind::Fifo,
            Some(What::Socket) => FileKind::Socket,
            Some(What::File { .. } | What::HardLink(_)) | None => FileKind::File,
        },
        mode: item.mode,
        uid: item.uid,
        gid: item.gid,
        size: match what {
            Some(What::File { size, .. }) => *size,
            _ => 0,
        },
        modified_ms: seconds.saturating_mul(1000) + u64::from(nanoseconds / 1_000_000),
        target: match what {
            Some(What::Symlink(target)) => Some(String::from_utf8_lossy(target).into_owned()),
            _ => None,
        },
    }
}
