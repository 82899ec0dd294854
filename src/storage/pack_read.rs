//! Reads the archive of a guest, part by part, and believes nothing in it before it is checked: the
//! manifest comes first, trees are made by `tree_write` under the policy for guests, and the last
//! member has the sum of every part. Nothing in it is executed and no link in it is followed.

use std::io::{self, Read};
use std::os::fd::BorrowedFd;
use std::path::Path;

use super::archive_entry::{ArchiveError, Entry, EntryKind, Limits};
use super::archive_read::Reader;
use super::archive_stream::Pieces;
use super::dirfd::FileError;
use super::pack_format::{
    CHECKSUMS, Checksums, FORMAT, MANIFEST, Manifest, PackError, PartSum, RECORD_MOST, Sum,
};
use super::tree_item::{Item, What};
use super::tree_policy::Policy;
use super::tree_write::TreeWriter;

/// What an archive of a guest may ask for: a guest may have deeper folders than a root archive.
const LIMITS: Limits = Limits {
    entries: 64_000_000,
    bytes: 8 << 40,
    header: 4 << 20,
    depth: 1 << 16,
    path: 1 << 20,
    shift: 0,
    any_owner: false,
};
/// Most bytes behind the end mark: tar(1) fills up its last record with zeros.
const TAIL: u64 = 1 << 20;

/// The stream, hashed as it is read. While the manifest is read, and headers of which it is not known yet to
/// which part they belong, their bytes are held back.
#[derive(Debug)]
struct Hashing {
    input: Pieces,
    hash: Sum,
    held: Option<Vec<u8>>,
    /// Bytes hashed so far.
    position: u64,
}

impl Read for Hashing {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.input.read(buffer)?;
        match &mut self.held {
            Some(held) => held.extend_from_slice(&buffer[..n]),
            None => self.count(&buffer[..n]),
        }
        Ok(n)
    }
}

impl Hashing {
    fn count(&mut self, data: &[u8]) {
        self.hash.update(data);
        self.position += data.len() as u64;
    }

    fn release(&mut self) {
        let held = self.held.take().unwrap_or_default();
        self.count(&held);
    }
}

/// Reads an archive.
#[derive(Debug)]
pub struct Unpacker {
    reader: Reader<Hashing>,
    /// What it holds.
    pub manifest: Manifest,
    sums: Vec<PartSum>,
    /// The part that is being read, and where it began.
    part: String,
    begin: u64,
    /// The entry that was met and not dealt with.
    ahead: Option<Entry>,
    buffer: Vec<u8>,
}

impl Unpacker {
    /// Begins to read: the manifest.
    ///
    /// # Errors
    /// It is no archive of a guest, or of a version that is not known.
    pub(super) fn open(input: Pieces) -> Result<Self, PackError> {
        let hashing = Hashing {
            input,
            hash: Sum::of_format(FORMAT),
            held: Some(Vec::new()),
            position: 0,
        };
        let mut reader = Reader::new(hashing, LIMITS);
        let first = reader.next()?;
        let is_ours = first
            .as_ref()
            .is_some_and(|entry| is_record(entry, MANIFEST));
        if !is_ours {
            return Err(PackError::Format(format!(
                "its first member is not {MANIFEST}"
            )));
        }
        let text = record(&mut reader)?;
        let manifest = manifest(&text)?;
        // Which sums there are is known now.
        reader.input().hash = Sum::of_format(manifest.format);
        reader.input().release();
        let mut unpacker = Self {
            reader,
            manifest,
            sums: Vec::new(),
            part: MANIFEST.into(),
            begin: 0,
            ahead: None,
            buffer: vec![0; 256 << 10],
        };
        unpacker.advance()?;
        Ok(unpacker)
    }

    /// Whether the next part is this one.
    #[must_use]
    pub fn is_next(&self, part: &str) -> bool {
        self.ahead.is_some() && self.part == part
    }

    /// Reads the part `part` into the empty folder `top`, or passes over it, which checks it as well.
    ///
    /// # Errors
    /// Another part comes, it is damaged or asks for what it may not have, the disk is full.
    pub(super) fn part(
        &mut self,
        part: &str,
        into: Option<(BorrowedFd<'_>, &Path)>,
    ) -> Result<u64, PackError> {
        if !self.is_next(part) {
            return Err(PackError::Format(format!(
                "{part} is missing, {} comes in its place",
                if self.part.is_empty() {
                    "its end"
                } else {
                    &self.part
                }
            )));
        }
        let place = into.map(|(_, shown)| shown.to_owned());
        let failed = |source: FileError| match &place {
            Some(place) => PackError::At {
                place: place.clone(),
                source,
            },
            None => source.into(),
        };
        let mut writer = match into {
            Some((top, _)) => Some(TreeWriter::new(top, Policy::Guest).map_err(failed)?),
            None => None,
        };
        while self.part == part
            && let Some(entry) = self.ahead.take()
        {
            if let Some(writer) = &mut writer {
                let item = self.item(&entry, part)?;
                if let Some(mut sink) = writer.item(item).map_err(failed)? {
                    loop {
                        let n = self.reader.read_data(&mut self.buffer)?;
                        if n == 0 {
                            break;
                        }
                        sink.write(&self.buffer[..n]).map_err(failed)?;
                    }
                    writer.close(sink).map_err(failed)?;
                }
            }
            self.advance()?;
        }
        writer.map_or(Ok(0), |writer| writer.finish().map_err(failed))
    }

    /// Reads the checksums and compares: from here on everything that was read is known to be whole.
    ///
    /// # Errors
    /// A sum differs, or something else comes.
    pub fn finish(mut self) -> Result<(), PackError> {
        let is_last = self
            .ahead
            .as_ref()
            .is_some_and(|entry| is_record(entry, CHECKSUMS));
        if !is_last {
            return Err(PackError::Format(format!(
                "{CHECKSUMS} is missing, {} comes in its place",
                if self.part.is_empty() {
                    "its end"
                } else {
                    &self.part
                }
            )));
        }
        let text = record(&mut self.reader)?;
        let expected: Checksums = serde_json::from_slice(&text)
            .map_err(|e| PackError::Format(format!("{CHECKSUMS}: {e}")))?;
        let found = Checksums::of(std::mem::take(&mut self.sums), self.manifest.format);
        for (expected, found) in expected.parts.iter().zip(&found.parts) {
            if expected != found {
                return Err(PackError::Checksum {
                    part: found.name.clone(),
                    expected: expected.sum.chars().take(64).collect(),
                    found: found.sum.clone(),
                });
            }
        }
        if expected != found {
            return Err(PackError::Checksum {
                part: "the whole".into(),
                expected: expected.whole.chars().take(64).collect(),
                found: found.whole,
            });
        }
        if self.reader.next()?.is_some() {
            return Err(PackError::Format(format!("it goes on behind {CHECKSUMS}")));
        }
        self.tail()
    }

    /// The end of the stream, so that what checks a compressed stream is read too.
    fn tail(&mut self) -> Result<(), PackError> {
        let mut tail = self.reader.input().take(TAIL + 1);
        let mut length = 0;
        loop {
            let n = tail
                .read(&mut self.buffer)
                .map_err(|source| ArchiveError::Read {
                    entry: CHECKSUMS.into(),
                    source,
                })?;
            length += n as u64;
            if n == 0 {
                return Ok(());
            }
            if length > TAIL || self.buffer[..n].iter().any(|b| *b != 0) {
                return Err(PackError::Format("something follows its end".into()));
            }
        }
    }

    /// Goes to the next entry, and to the next part where it is of another.
    fn advance(&mut self) -> Result<(), PackError> {
        self.reader.skip()?;
        self.reader.input().held = Some(Vec::new());
        self.ahead = self.reader.next()?;
        let part = match &self.ahead {
            None => String::new(),
            Some(entry) => self.part_of(entry)?,
        };
        let input = self.reader.input();
        if part != self.part {
            self.sums.push(PartSum {
                name: std::mem::replace(&mut self.part, part),
                offset: self.begin,
                length: input.position - self.begin,
                sum: input.hash.take(),
            });
            self.begin = input.position;
        }
        input.release();
        Ok(())
    }

    fn part_of(&self, entry: &Entry) -> Result<String, PackError> {
        if is_record(entry, CHECKSUMS) {
            return Ok(CHECKSUMS.into());
        }
        let holds = |part: &&String| {
            let names: Vec<&[u8]> = part.split('/').map(str::as_bytes).collect();
            let begin = entry.path.iter().take(names.len()).map(Vec::as_slice);
            begin.eq(names)
        };
        let found = self.manifest.parts.iter().find(holds).cloned();
        found.ok_or_else(|| {
            self.reader
                .wrong("it belongs to no part of this archive")
                .into()
        })
    }

    /// An entry as an item of the tree of `part`.
    fn item(&self, entry: &Entry, part: &str) -> Result<Item, PackError> {
        let depth = part.split('/').count();
        let what = match entry.kind {
            EntryKind::Folder => What::Folder,
            EntryKind::File => What::File {
                size: entry.size,
                pieces: entry.pieces.clone(),
            },
            EntryKind::Symlink => What::Symlink(entry.link.clone()),
            EntryKind::HardLink => {
                let target = self.reader.path(&entry.link)?;
                let (above, below) = target.split_at(depth.min(target.len()));
                if below.is_empty() || above.join(&b'/') != part.as_bytes() {
                    return Err(self
                        .reader
                        .wrong("it is a hard link out of its part")
                        .into());
                }
                What::HardLink(below.join(&b'/'))
            }
            EntryKind::Fifo => What::Fifo,
            EntryKind::Device => {
                let (block, major, minor) = entry.device;
                What::Device {
                    block,
                    major,
                    minor,
                }
            }
        };
        Ok(Item {
            path: entry.path[depth..].join(&b'/'),
            what,
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            modified: entry.mtime,
            accessed: entry.atime.unwrap_or(entry.mtime),
            xattrs: entry.xattrs.clone().into_iter().collect(),
        })
    }
}

/// Whether an entry is one of the archive's own files.
fn is_record(entry: &Entry, name: &str) -> bool {
    entry.kind == EntryKind::File && entry.path == [name.as_bytes()]
}

/// The data of the current entry, which is small.
fn record(reader: &mut Reader<Hashing>) -> Result<Vec<u8>, PackError> {
    let mut data = Vec::new();
    let mut buffer = [0; 16 << 10];
    loop {
        let n = reader.read_data(&mut buffer)?;
        if n == 0 {
            return Ok(data);
        }
        data.extend_from_slice(&buffer[..n]);
        if data.len() as u64 > RECORD_MOST {
            return Err(reader.wrong("it is larger than 4 MiB").into());
        }
    }
}

/// The manifest, of a version that is known, with parts that are named once and in order.
fn manifest(text: &[u8]) -> Result<Manifest, PackError> {
    #[derive(serde::Deserialize)]
    struct Version {
        format: u32,
    }
    let wrong = |why: String| PackError::Format(format!("{MANIFEST}: {why}"));
    let version: Version = serde_json::from_slice(text).map_err(|e| wrong(e.to_string()))?;
    if !(1..=FORMAT).contains(&version.format) {
        return Err(wrong(format!(
            "its format is {}, and this program reads 1 to {FORMAT}: use the program that wrote it, or a newer one",
            version.format
        )));
    }
    let manifest: Manifest = serde_json::from_slice(text).map_err(|e| wrong(e.to_string()))?;
    super::image::check_record(&manifest.image).map_err(wrong)?;
    let (with_image, sealed) = (manifest.has_image(), manifest.sealed());
    let others = (sealed, manifest.saved());
    let image = (&manifest.image, with_image);
    let wanted = super::pack_format::parts(image, &manifest.further, others);
    if manifest.parts != wanted || sealed > super::chain::MOST {
        return Err(wrong(
            "its parts are not those of its image and its guest".into(),
        ));
    }
    if let Some(why) = manifest.wrong_snapshots().or(manifest.wrong_further()) {
        return Err(wrong(why));
    }
    Ok(manifest)
}
