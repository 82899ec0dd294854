//! The list of all files of a tree, in the order of a walk: written as a stream of entries that is
//! itself cut into chunks, so that two backups share most of it; read one entry after another, past
//! what is damaged if that is asked for.

use std::cmp::Ordering;
use std::path::Path;

use super::super::dirfd::FileError;
use super::chunk::{Cutter, MOST};
use super::entry::{Entry, LARGEST};
use super::error::{BackupError, Result};
use super::repo::{ChunkRef, Repository};
use crate::kernel::interrupt;

/// Most bytes of an entry that is looked for behind a gap; hardly any file has more pieces than that.
const SOUGHT: usize = 1 << 20;
/// Most bytes of a list that are looked at for where files begin: those of the largest entry, and however
/// often they look like the beginning of one.
const PATIENCE: usize = LARGEST;

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

/// A stretch of a list that is damaged: what files were there nobody knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Gap {
    /// The last file before it; none where the list begins with it.
    pub(super) after: Option<Vec<u8>>,
    /// The first one behind it; none where the list ends with it.
    pub(super) before: Option<Vec<u8>>,
}

/// Reads a list; an item is an entry or what is wrong with it.
#[derive(Debug)]
pub(super) struct ListReader {
    chunks: std::vec::IntoIter<ChunkRef>,
    bytes: Vec<u8>,
    at: usize,
    last: Option<Vec<u8>>,
    /// Whether it goes on behind what is damaged; else that is an error.
    goes_on: bool,
    /// Behind these bytes a chunk is missing.
    torn: bool,
    /// What was damaged so far.
    gaps: Vec<Gap>,
    /// The last file before a gap whose end is not known yet.
    open: Option<Option<Vec<u8>>>,
    /// How many bytes were looked at for where files begin.
    looked: usize,
}

/// Whether bytes that are wanted are there.
#[derive(PartialEq, Eq)]
enum Fill {
    There,
    Ended,
    Torn,
}

/// What may begin somewhere in a list.
enum Candidate {
    /// A file, and how many bytes behind here it ends.
    File(Vec<u8>, usize),
    /// Nothing that can be told, since what follows is missing, or nothing follows.
    Cut,
    None,
}

impl ListReader {
    pub(super) fn new(chunks: Vec<ChunkRef>) -> Self {
        Self {
            chunks: chunks.into_iter(),
            bytes: Vec::new(),
            at: 0,
            last: None,
            goes_on: false,
            torn: false,
            gaps: Vec::new(),
            open: None,
            looked: 0,
        }
    }

    /// One that goes on behind what is damaged.
    pub(super) fn past_damage(chunks: Vec<ChunkRef>) -> Self {
        Self {
            goes_on: true,
            ..Self::new(chunks)
        }
    }

    /// What was damaged of what has been read.
    pub(super) fn gaps(&self) -> &[Gap] {
        &self.gaps
    }

    /// The next file; `None` at the end.
    ///
    /// # Errors
    /// A chunk is missing or damaged, or what it holds is no list of files in order; past damage, only
    /// if the repository has gone away.
    pub(super) fn next(&mut self, repository: &Repository) -> Result<Option<Entry>> {
        loop {
            match self.entry(repository) {
                Ok(found) => {
                    if let Some(after) = self.open.take() {
                        let before = found.as_ref().map(|entry| entry.item.path.clone());
                        self.gaps.push(Gap { after, before });
                    }
                    return Ok(found);
                }
                Err(error) if self.goes_on && error.is_damage() => {
                    self.open.get_or_insert_with(|| self.last.clone());
                    self.seek(repository)?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn entry(&mut self, repository: &Repository) -> Result<Option<Entry>> {
        if self.fill(repository, 4)? != Fill::There {
            return match self.at == self.bytes.len() && !self.torn {
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
        if self.fill(repository, 4 + length)? != Fill::There {
            return Err(damaged("it ends too early"));
        }
        let (begin, end) = (self.at + 4, self.at + 4 + length);
        let entry = Entry::decode(&self.bytes[begin..end]).map_err(|e| damaged(&e.to_string()))?;
        let path = &entry.item.path;
        let in_order = match &self.last {
            None => path.is_empty() || self.open.is_some(),
            Some(last) => order(last, path) == Ordering::Less,
        };
        if !in_order {
            return Err(damaged("its files are in no order"));
        }
        self.at = end;
        self.last = Some(path.clone());
        Ok(Some(entry))
    }

    /// Whether `n` bytes are there, with more chunks if need be.
    fn fill(&mut self, repository: &Repository, n: usize) -> Result<Fill> {
        while self.bytes.len() - self.at < n {
            if self.torn {
                return Ok(Fill::Torn);
            }
            let Some(chunk) = self.chunks.next() else {
                return Ok(Fill::Ended);
            };
            self.bytes.drain(..self.at);
            self.at = 0;
            match self.goes_on {
                true => {
                    if interrupt::caught().is_some() {
                        let source = std::io::Error::from(std::io::ErrorKind::Interrupted);
                        let list = Path::new("the list of files");
                        return Err(FileError::new("read", list, source).into());
                    }
                    match repository.chunk_unless_damaged(&chunk)? {
                        Some(mut more) => self.bytes.append(&mut more),
                        None => self.torn = true,
                    }
                }
                false => self.bytes.append(&mut repository.chunk(&chunk)?),
            }
        }
        Ok(Fill::There)
    }

    /// Goes to where the next file begins behind what is damaged, or to the end: of what there is, or of
    /// patience. What is left of an entry that was cut cannot be told from one by its first bytes; by all of
    /// them, and by those of the one that follows, it can.
    fn seek(&mut self, repository: &Repository) -> Result<()> {
        match self.torn {
            true => self.at = self.bytes.len(),
            false => self.at = (self.at + 1).min(self.bytes.len()),
        }
        self.torn = false;
        let last = self.last.clone();
        while self.looked < PATIENCE && self.fill(repository, 4)? == Fill::There {
            if let Candidate::File(path, end) = self.candidate(repository, 0, last.as_deref())? {
                match self.candidate(repository, end, Some(&path))? {
                    Candidate::File(..) | Candidate::Cut => return Ok(()),
                    Candidate::None => {}
                }
            }
            self.at += 1;
            self.looked += 1;
        }
        // Without patience what follows is lost too.
        if self.looked >= PATIENCE {
            self.chunks = Vec::new().into_iter();
        }
        self.at = self.bytes.len();
        Ok(())
    }

    /// What begins `from` bytes behind here; a file must come after `last`.
    fn candidate(
        &mut self,
        repository: &Repository,
        from: usize,
        last: Option<&[u8]>,
    ) -> Result<Candidate> {
        match self.fill(repository, from + 4)? {
            Fill::There => {}
            Fill::Ended if self.bytes.len() - self.at > from => return Ok(Candidate::None),
            Fill::Torn | Fill::Ended => return Ok(Candidate::Cut),
        }
        let head = self.bytes[self.at + from..].first_chunk().copied();
        let length = u32::from_le_bytes(head.unwrap_or_default()) as usize;
        if length > SOUGHT {
            return Ok(Candidate::None);
        }
        let end = from + 4 + length;
        match self.fill(repository, end)? {
            Fill::There => {}
            Fill::Torn => return Ok(Candidate::Cut),
            Fill::Ended => return Ok(Candidate::None),
        }
        let bytes = &self.bytes[self.at + from + 4..self.at + end];
        let Ok(path) = Entry::path(bytes) else {
            return Ok(Candidate::None);
        };
        self.looked += length;
        Ok(match last.is_none_or(|last| order(last, path).is_lt()) {
            true if Entry::decode(bytes).is_ok() => Candidate::File(path.to_vec(), end),
            _ => Candidate::None,
        })
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

/// A path as people write it, as it stands in a list of files.
pub(super) fn plain(path: &[u8]) -> Result<Vec<u8>> {
    let parts = path.split(|byte| *byte == b'/');
    let parts: Vec<&[u8]> = parts.filter(|p| !matches!(*p, b"" | b".")).collect();
    match parts.contains(&&b".."[..]) {
        true => Err(BackupError::Restore {
            what: String::from_utf8_lossy(path).into_owned(),
            why: "a path inside the guest has no `..`".to_owned(),
        }),
        false => Ok(parts.join(&b'/')),
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
