//! Which files are as they were in the last backup, and so need not be read: those whose size, inode
//! number and times of the last change, of data and of anything, are the same. The last one no
//! program can set.

use rustix::fs::{FileType, Stat};

use super::super::dirfd::file_type;
use super::super::tree_item::What;
use super::entry::Entry;
use super::error::Result;
use super::manifest::{ListReader, order};
use super::repo::Repository;
use super::snapshot::Tree;

/// A change within this time before a backup's beginning may have the same time as one after it:
/// clocks of file systems tick, at most a hundred times a second.
const TICK_MS: u64 = 50;
/// The list of a backup before, read side by side with the walk.
#[derive(Debug)]
pub(super) struct Last {
    reader: ListReader,
    next: Option<Entry>,
    /// Times of changes from this one on are not believed.
    before: (i64, u32),
}

impl Last {
    /// That of a backup which began then.
    pub(super) fn new(repository: &Repository, tree: &Tree, began_ms: u64) -> Result<Self> {
        let mut reader = ListReader::new(tree.list()?);
        let next = reader.next(repository)?;
        let ms = began_ms.saturating_sub(TICK_MS);
        let nanoseconds = u32::try_from(ms % 1000 * 1_000_000).unwrap_or(0);
        Ok(Self {
            reader,
            next,
            before: (i64::try_from(ms / 1000).unwrap_or(0), nanoseconds),
        })
    }

    /// What was at `path`. Paths are asked for in the order of a walk.
    pub(super) fn at(&mut self, repository: &Repository, path: &[u8]) -> Result<Option<Entry>> {
        while let Some(entry) = &self.next {
            match order(&entry.item.path, path) {
                std::cmp::Ordering::Less => self.next = self.reader.next(repository)?,
                std::cmp::Ordering::Equal => {
                    let entry = self.next.take();
                    self.next = self.reader.next(repository)?;
                    return Ok(entry);
                }
                std::cmp::Ordering::Greater => break,
            }
        }
        Ok(None)
    }

    /// Whether a file still is what it was.
    pub(super) fn is_same(&self, entry: &Entry, stat: &Stat) -> bool {
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let alike = match (&entry.item.what, file_type(stat)) {
            (What::File { size: was, .. }, FileType::RegularFile) => *was == size,
            (What::Folder, FileType::Directory)
            | (What::Symlink(_), FileType::Symlink)
            | (What::Fifo, FileType::Fifo)
            | (What::Socket, FileType::Socket)
            | (What::Device { block: false, .. }, FileType::CharacterDevice)
            | (What::Device { block: true, .. }, FileType::BlockDevice) => true,
            _ => false,
        };
        alike
            && entry.inode == stat.st_ino
            && entry.item.modified == (stat.st_mtime, nanoseconds(stat.st_mtime_nsec))
            && entry.changed == changed(stat)
            && entry.changed < self.before
    }
}

/// Of a time of stat(2).
pub(super) fn nanoseconds(n: impl TryInto<u32>) -> u32 {
    n.try_into().unwrap_or(0)
}

/// When anything about a file changed last.
pub(super) fn changed(stat: &Stat) -> (i64, u32) {
    (stat.st_ctime, nanoseconds(stat.st_ctime_nsec))
}
