//! Writes the archive of a guest, one stream from its first byte to its last: nothing is written a
//! second time and nothing is kept but some buffers. Compressing is done by threads of zstd's own, sums
//! are taken by another; this thread reads files.

use std::collections::HashSet;
use std::io::{self, Write};
use std::os::fd::AsFd as _;
use std::path::Path;

use rustix::fs::FileType;

use super::dirfd::{FileError, file_type, open_dir};
use super::image::{Image, Progress};
use super::pack_format::{
    CHECKSUMS, Checksums, FORMAT, MANIFEST, Manifest, OWN, PackError, PartSum, RECORD_MOST,
    image_parts, sealed_part,
};
use super::pack_header::{headers, own, pad};
use super::pack_sum::Summer;
use super::tree_read::{Content, Found, read_tree};
use crate::kernel::interrupt;

/// Bytes gathered before they are hashed and passed on.
const GATHER: usize = 512 << 10;
/// Bytes between two reports.
const REPORT: u64 = 4 << 20;

/// How an archive is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// zstd on all CPUs, at this level (1 to 19; 3 is usual).
    Zstd(i32),
    /// gzip, at this level (1 to 9).
    Gzip(u32),
    /// As it is.
    None,
}

/// What an archive came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packed {
    /// Bytes of the tar stream, before compression.
    pub bytes: u64,
    /// Files of all types.
    pub files: u64,
    /// Sockets, which no archive can hold.
    pub sockets: u64,
}

/// Writes an archive.
pub struct Packer<'a> {
    out: Sink<'a>,
    /// What is gathered, its first `used` bytes.
    buffer: Vec<u8>,
    used: usize,
    /// Headers on their way into it.
    head: Vec<u8>,
    /// None when all parts have their sums.
    summer: Option<Summer>,
    sums: Vec<PartSum>,
    /// The part that is being written.
    part: String,
    done: Packed,
    reported: u64,
    seconds: u64,
    progress: &'a mut dyn FnMut(Progress),
}

impl std::fmt::Debug for Packer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Packer")
            .field("part", &self.part)
            .finish_non_exhaustive()
    }
}

/// Where the stream goes.
enum Sink<'a> {
    Zstd(Box<zstd::stream::write::Encoder<'static, &'a mut dyn Write>>),
    Gzip(Box<flate2::write::GzEncoder<&'a mut dyn Write>>),
    Plain(&'a mut dyn Write),
}

impl<'a> Sink<'a> {
    fn new(out: &'a mut dyn Write, how: Compression) -> io::Result<Self> {
        Ok(match how {
            Compression::None => Self::Plain(out),
            Compression::Gzip(level) => Self::Gzip(Box::new(flate2::write::GzEncoder::new(
                out,
                flate2::Compression::new(level.clamp(1, 9)),
            ))),
            Compression::Zstd(level) => {
                let mut encoder = zstd::stream::write::Encoder::new(out, level)?;
                let cpus = std::thread::available_parallelism().map_or(1, usize::from);
                encoder.multithread(u32::try_from(cpus).unwrap_or(1))?;
                encoder.include_checksum(true)?;
                Self::Zstd(Box::new(encoder))
            }
        })
    }

    fn write(&mut self, data: &[u8]) -> io::Result<()> {
        match self {
            Self::Zstd(out) => out.write_all(data),
            Self::Gzip(out) => out.write_all(data),
            Self::Plain(out) => out.write_all(data),
        }
    }

    fn finish(self) -> io::Result<()> {
        match self {
            Self::Zstd(out) => out.finish()?.flush(),
            Self::Gzip(out) => out.finish()?.flush(),
            Self::Plain(out) => out.flush(),
        }
    }
}

impl<'a> Packer<'a> {
    /// Begins an archive with its manifest.
    ///
    /// # Errors
    /// The stream cannot be written; the manifest is larger than any that is read again.
    pub fn new(
        out: &'a mut dyn Write,
        how: Compression,
        manifest: &Manifest,
        progress: &'a mut dyn FnMut(Progress),
    ) -> Result<Self, PackError> {
        let text = serde_json::to_vec_pretty(manifest).map_err(|e| PackError::Write(e.into()))?;
        if text.len() as u64 > RECORD_MOST {
            let why = "what there is to say of its snapshots is more than the 4 MiB that are read \
                       again: delete some, or leave them out with --no-snapshots";
            return Err(PackError::Write(io::Error::other(why)));
        }
        let mut summer = Summer::new(GATHER * 2).map_err(PackError::Write)?;
        let mut packer = Self {
            out: Sink::new(out, how).map_err(PackError::Write)?,
            buffer: summer.buffer().map_err(PackError::Write)?,
            used: 0,
            head: Vec::new(),
            summer: Some(summer),
            sums: Vec::new(),
            part: MANIFEST.into(),
            done: Packed::default(),
            reported: 0,
            seconds: manifest.made_ms / 1000,
            progress,
        };
        for note in manifest.left_behind() {
            (packer.progress)(Progress::Note(note));
        }
        packer.member(MANIFEST, &text)?;
        Ok(packer)
    }

    /// Adds the trees of the guest's image.
    ///
    /// # Errors
    /// They cannot be read, the stream cannot be written.
    pub fn image(&mut self, image: &Image) -> Result<(), PackError> {
        for (part, path) in image_parts(image).iter().zip(image.lowers()) {
            self.tree(part, &path, open_dir(&path)?.as_fd())?;
        }
        Ok(())
    }

    /// Adds a layer of the guest's that was set aside.
    pub(super) fn sealed(&mut self, number: usize, tree: &Path) -> Result<(), PackError> {
        self.tree(&sealed_part(number), tree, open_dir(tree)?.as_fd())
    }

    /// Adds the guest's own layer: the folder `upper` of the folder that holds it.
    ///
    /// # Errors
    /// It cannot be read, the stream cannot be written.
    pub fn own(&mut self, shown: &Path, writable: impl std::os::fd::AsFd) -> Result<(), PackError> {
        self.upper(OWN, shown, writable)
    }

    /// The same as another part.
    pub(super) fn upper(
        &mut self,
        part: &str,
        shown: &Path,
        writable: impl std::os::fd::AsFd,
    ) -> Result<(), PackError> {
        let upper = super::dirfd::child_dir(writable, c"upper")
            .map_err(|e| FileError::new("open folder", &shown.join("upper"), e))?;
        self.tree(part, shown, upper.as_fd())
    }

    /// Ends the archive with its checksums.
    ///
    /// # Errors
    /// The stream cannot be written.
    pub fn finish(mut self) -> Result<Packed, PackError> {
        self.begin("")?;
        let summer = self.summer.take().map(Summer::finish);
        let sums = summer.transpose().map_err(PackError::Write)?;
        for (part, sum) in self.sums.iter_mut().zip(sums.unwrap_or_default()) {
            part.sum = sum;
        }
        let sums = Checksums::of(std::mem::take(&mut self.sums), FORMAT);
        let text = serde_json::to_vec_pretty(&sums).map_err(|e| PackError::Write(e.into()))?;
        self.member(CHECKSUMS, &text)?;
        self.put(&[0; 1024])?;
        self.pass_on()?;
        self.out.finish().map_err(PackError::Write)?;
        Ok(self.done)
    }

    fn member(&mut self, name: &str, data: &[u8]) -> Result<(), PackError> {
        let length = data.len() as u64;
        own(&mut self.head, name, length, self.seconds);
        self.head.extend_from_slice(data);
        pad(&mut self.head, length);
        self.put_head()?;
        self.pass_on()
    }

    /// Ends the part that was being written, and begins another.
    fn begin(&mut self, part: &str) -> Result<(), PackError> {
        self.pass_on()?;
        let offset = self.sums.last().map_or(0, |sum| sum.offset + sum.length);
        self.sums.push(PartSum {
            name: std::mem::replace(&mut self.part, part.to_owned()),
            offset,
            length: self.done.bytes - offset,
            // Known at the end.
            sum: String::new(),
        });
        let ended = self.summer.as_ref().map_or(Ok(()), Summer::end);
        ended.map_err(PackError::Write)
    }

    pub(super) fn tree(
        &mut self,
        part: &str,
        shown: &Path,
        top: std::os::fd::BorrowedFd<'_>,
    ) -> Result<(), PackError> {
        self.begin(part)?;
        (self.progress)(Progress::Phase(format!("packing {part:.20}")));
        let mut gone = HashSet::new();
        let read = read_tree::<PackError>(top, |found| self.found(part, found, &mut gone));
        read.map_err(|error| match error {
            PackError::File(source) => PackError::At {
                place: shown.to_owned(),
                source,
            },
            other => other,
        })?;
        self.pass_on()
    }

    fn found(
        &mut self,
        part: &str,
        found: &Found<'_>,
        gone: &mut HashSet<Vec<u8>>,
    ) -> Result<(), PackError> {
        if interrupt::caught().is_some() {
            return Err(PackError::Interrupted);
        }
        if file_type(found.stat) == FileType::Socket {
            self.done.sockets += 1;
            return Ok(());
        }
        let lost = found.earlier.is_some_and(|path| gone.contains(path));
        let item = if lost {
            found.alone().item()?
        } else {
            found.item()?
        };
        let Some((item, content)) = item else {
            gone.insert(found.path.to_vec());
            return Ok(());
        };
        self.done.files += 1;
        let stored = headers(&mut self.head, part, &item);
        self.put_head()?;
        if let Some(content) = content {
            self.content(content, found.path)?;
            pad(&mut self.head, stored);
            self.put_head()?;
        }
        if self.used >= GATHER {
            self.pass_on()?;
        }
        Ok(())
    }

    /// Gathers the headers.
    fn put_head(&mut self) -> Result<(), PackError> {
        let mut head = std::mem::take(&mut self.head);
        self.put(&head)?;
        head.clear();
        self.head = head;
        Ok(())
    }

    fn put(&mut self, mut data: &[u8]) -> Result<(), PackError> {
        while !data.is_empty() {
            if self.used == self.buffer.len() {
                self.pass_on()?;
            }
            let room = &mut self.buffer[self.used..];
            let (now, later) = data.split_at(room.len().min(data.len()));
            room[..now.len()].copy_from_slice(now);
            self.used += now.len();
            data = later;
        }
        Ok(())
    }

    /// Reads the data of a file right into what is gathered.
    fn content(&mut self, mut content: Content, path: &[u8]) -> Result<(), PackError> {
        loop {
            let left = content.left();
            if left == 0 {
                return Ok(());
            }
            if self.used >= GATHER {
                self.pass_on()?;
            }
            let room = left.min(self.buffer.len() - self.used);
            let n = content.read(&mut self.buffer[self.used..self.used + room]);
            self.used += n.map_err(|e| super::tree_item::failed("read", path, e))?;
        }
    }

    /// Passes on what is gathered, to be compressed and to be hashed.
    fn pass_on(&mut self) -> Result<(), PackError> {
        let used = std::mem::take(&mut self.used);
        let full = self.out.write(&self.buffer[..used]);
        full.map_err(PackError::Write)?;
        self.done.bytes += used as u64;
        if let Some(summer) = &mut self.summer {
            let next = summer.buffer().map_err(PackError::Write)?;
            let full = std::mem::replace(&mut self.buffer, next);
            summer.add(full, used).map_err(PackError::Write)?;
        }
        if self.done.bytes - self.reported >= REPORT {
            self.reported = self.done.bytes;
            (self.progress)(Progress::Bytes {
                done: self.done.bytes,
                total: None,
            });
        }
        if interrupt::caught().is_some() {
            return Err(PackError::Interrupted);
        }
        Ok(())
    }
}
