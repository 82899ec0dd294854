//! The list of all files of a tree, in the order of a walk: written as a stream of entries that is
//! itself cut into chunks, so that two backups share most of it; read one entry after another.

use std::cmp::Ordering;

use super::chunk::{Cutter, MOST};
use super::entry::{Entry, LARGEST};
use super::error::{BackupError, Result};
use super::repo::{ChunkRef, Repository};

/// Writes a list.
#[derive(Debug)]
pub(super) struct ListWriter {
    cutter: Cutter,
    bytes: Vec<u8>,
    chunks: Vec<ChunkRef>,
}

impl ListWriter {
    pub(super) fn new(repository: &Repository) -> Self {
        Self {
            cutter: Cutter::new(repository.secrets.cut()),
            bytes: Vec::new(),
            chunks: Vec::new(),
        }
    }

    /// Adds a file.
    ///
    /// # Errors
    /// It has too many pieces for an entry; the disk is full.
    pub(super) fn add(&mut self, repository: &mut Repository, entry: &Entry) -> Result<()> {
        let bytes = entry.encode();
        if bytes.len() > LARGEST {
            return Err(BackupError::damaged(
                String::from_utf8_lossy(&entry.item.path),
                "it has too many pieces for a backup: 256 MiB of their list",
            ));
        }
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        self.bytes.extend_from_slice(&length.to_le_bytes());
        self.bytes.extend_from_slice(&bytes);
        if self.bytes.len() >= 2 * MOST {
            self.cut(repository, MOST)?;
        }
        Ok(())
    }

    /// Stores chunks until fewer than `rest` bytes are left. Where the last chunk of a list ends is
    /// not known before all of it is there.
    fn cut(&mut self, repository: &mut Repository, rest: usize) -> Result<()> {
        let failed = |e: std::io::Error| BackupError::damaged("the list of files", e.to_string());
        let mut at = 0;
        while self.bytes.len() - at >= rest.max(1) {
            let mut left = &self.bytes[at..];
            self.cutter.reset();
            let read = |buffer: &mut [u8]| std::io::Read::read(&mut left, buffer);
            let Some(chunk) = self.cutter.next(read).map_err(failed)? else {
                break;
            };
            self.chunks.push(repository.store(chunk)?);
            at += chunk.len();
        }
        self.bytes.drain(..at);
        Ok(())
    }

    /// Ends the list; gives its chunks.
    ///
    /// # Errors
    /// The disk is full.
    pub(super) fn finish(mut self, repository: &mut Repository) -> Result<Vec<ChunkRef>> {
        self.cut(repository, 0)?;
        Ok(self.chunks)
    }
}

/// Reads a list; an item is an entry or what is wrong with it.
#[derive(Debug)]
pub(super) struct ListReader {
    chunks: std::vec::IntoIter<ChunkRef>,
    bytes: Vec<u8>,
    at: usize,
    last: Option<Vec<u8>>,
}

impl ListReader {
    pub(super) fn new(chunks: Vec<ChunkRef>) -> Self {
        Self {
            chunks: chunks.into_iter(),
            bytes: Vec::new(),
            at: 0,
            last: None,
        }
    }

    /// The next file; `None` at the end.
    ///
    /// # Errors
    /// A chunk is missing or damaged, or what it holds is no list of files in order.
    pub(super) fn next(&mut self, repository: &Repository) -> Result<Option<Entry>> {
        if !self.fill(repository, 4)? {
            return match self.at == self.bytes.len() {
                true => Ok(None),
                false => Err(damaged("it ends too early")),
            };
        }
        let head = self.bytes[self.at..]
            .first_chunk()
            .copied()
            .unwrap_or([0; 4]);
        let length = usize::try_from(u32::from_le_bytes(head)).unwrap_or(usize::MAX);
        if length > LARGEST {
            return Err(damaged("an entry is larger than any can be"));
        }
        if !self.fill(repository, 4 + length)? {
            return Err(damaged("it ends too early"));
        }
        let begin = self.at + 4;
        self.at = begin + length;
        let entry =
            Entry::decode(&self.bytes[begin..self.at]).map_err(|e| damaged(&e.to_string()))?;
        let path = &entry.item.path;
        let in_order = match &self.last {
            None => path.is_empty(),
            Some(last) => order(last, path) == Ordering::Less,
        };
        if !in_order {
            return Err(damaged("its files are in no order"));
        }
        self.last = Some(path.clone());
        Ok(Some(entry))
    }

    /// Whether `n` bytes are there, with more chunks if need be.
    fn fill(&mut self, repository: &Repository, n: usize) -> Result<bool> {
        while self.bytes.len() - self.at < n {
            let Some(chunk) = self.chunks.next() else {
                return Ok(false);
            };
            self.bytes.drain(..self.at);
            self.at = 0;
            self.bytes.append(&mut repository.chunk(&chunk)?);
        }
        Ok(true)
    }
}

fn damaged(why: &str) -> BackupError {
    BackupError::damaged("the list of files", why)
}

/// The order of a walk: names by bytes, what is in a folder directly after it.
pub(super) fn order(a: &[u8], b: &[u8]) -> Ordering {
    let names = |path| <[u8]>::split(path, |byte| *byte == b'/');
    match (a.is_empty(), b.is_empty()) {
        (false, false) => names(a).cmp(names(b)),
        (a, b) => b.cmp(&a),
    }
}

/// Whether `path` is `folder` or lies in it.
pub(super) fn is_below(path: &[u8], folder: &[u8]) -> bool {
    match path.strip_prefix(folder) {
        Some(rest) => folder.is_empty() || matches!(rest.first(), None | Some(b'/')),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_that_of_a_walk() {
        let walk: [&[u8]; 8] = [b"", b"a", b"a/b", b"a/b/c", b"a/c", b"a-", b"a.b/c", b"b"];
        for (i, a) in walk.iter().enumerate() {
            for (j, b) in walk.iter().enumerate() {
                assert_eq!(order(a, b), i.cmp(&j), "{a:?} {b:?}");
            }
        }
        assert!(is_below(b"a/b", b"a") && is_below(b"a", b"a") && is_below(b"a", b""));
        assert!(!is_below(b"ab", b"a") && !is_below(b"a", b"a/b"));
    }
}
