//! Reads a tar stream into entries: ustar, PAX, GNU long names, old GNU and PAX sparse files. Pure
//! over any `Read`; believes no number before it is checked. What an entry may be is in
//! `archive_entry`, maps of sparse files in `archive_sparse`; writing entries to disk is `extract`.
//!
//! The `tar` crate knows the header's layout; the stream is followed here, because what an entry's
//! size is decides where the next header begins, and two readers that disagree on it see two
//! different archives.

use std::io::{self, Read};

use tar::{EntryType, Header};

use super::archive_entry::{ArchiveError, Entry, EntryKind, Limits, NO_ENTRY, number, shown};
use super::archive_pax::Pax;
use crate::kernel::interrupt;

/// Extension headers that may come before one entry.
const EXTENSIONS_MOST: u32 = 8;
/// Largest size the octal size field of a ustar header holds.
const OCTAL_MOST: u64 = 0o77_777_777_777;
pub(super) const BLOCK: usize = 512;

/// Reads entries one after another.
#[derive(Debug)]
pub(super) struct Reader<R> {
    input: R,
    pub(super) limits: Limits,
    headers: u64,
    bytes: u64,
    /// Data of the current entry not yet read, and the padding behind it.
    left: u64,
    padding: u64,
    /// Name of the entry that was begun last.
    at: String,
}

impl<R: Read> Reader<R> {
    pub(super) fn new(input: R, limits: Limits) -> Self {
        Self {
            input,
            limits,
            headers: 0,
            bytes: 0,
            left: 0,
            padding: 0,
            at: NO_ENTRY.into(),
        }
    }

    /// Counts entries, and folders that had to be made for them.
    pub(super) fn count(&mut self, more: u64) -> Result<(), ArchiveError> {
        self.headers += more;
        if self.headers > self.limits.entries {
            let most = self.limits.entries;
            let reason = "entries, with the folders they lie in";
            return Err(self.wrong(format!("the archive has more than {most} {reason}")));
        }
        Ok(())
    }

    /// Where the stream comes from.
    pub(super) fn input(&mut self) -> &mut R {
        &mut self.input
    }

    /// An error at the current entry.
    pub(super) fn wrong(&self, reason: impl Into<String>) -> ArchiveError {
        ArchiveError::Entry {
            entry: self.at.clone(),
            reason: reason.into(),
        }
    }

    fn read_failed(&self, source: io::Error) -> ArchiveError {
        let entry = self.at.clone();
        if source.kind() == io::ErrorKind::UnexpectedEof {
            ArchiveError::Truncated { entry }
        } else {
            ArchiveError::Read { entry, source }
        }
    }

    /// The next entry; `None` at the end. What was not read of the last one is passed over.
    pub(super) fn next(&mut self) -> Result<Option<Entry>, ArchiveError> {
        self.skip()?;
        let mut pax = Pax::default();
        let (mut name, mut link) = (None, None);
        let mut extensions = 0;
        loop {
            let Some(header) = self.header()? else {
                return Ok(None);
            };
            let size = self.number(&header.as_old().size, "size")?;
            self.at = shown(&header.path_bytes());
            match header.entry_type() {
                EntryType::XHeader => {
                    pax = Pax::parse(&self.extension(size)?).map_err(|reason| self.wrong(reason))?
                }
                // What holds for all entries is never needed for a root, and a comment as a rule.
                EntryType::XGlobalHeader => drop(self.extension(size)?),
                EntryType::GNULongName => name = Some(cut(self.extension(size)?)),
                EntryType::GNULongLink => link = Some(cut(self.extension(size)?)),
                kind => {
                    let name = pax
                        .path()
                        .or(name)
                        .unwrap_or(header.path_bytes().into_owned());
                    let short = || header.link_name_bytes().unwrap_or_default().into_owned();
                    let link = pax.link().or(link).unwrap_or_else(short);
                    self.at = shown(&name);
                    return self.entry(&header, kind, &name, link, &pax, size).map(Some);
                }
            }
            extensions += 1;
            if extensions > EXTENSIONS_MOST {
                return Err(self.wrong("it has too many extension headers"));
            }
        }
    }

    /// Reads data of the current entry; 0 at its end.
    pub(super) fn read_data(&mut self, buffer: &mut [u8]) -> Result<usize, ArchiveError> {
        let want = buffer
            .len()
            .min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if want == 0 {
            return Ok(0);
        }
        self.go_on()?;
        let n = loop {
            match self.input.read(&mut buffer[..want]) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => break other.map_err(|e| self.read_failed(e))?,
            }
        };
        if n == 0 {
            return Err(self.read_failed(io::ErrorKind::UnexpectedEof.into()));
        }
        self.left -= n as u64;
        Ok(n)
    }

    /// A command that a signal asked to end ends between two reads.
    fn go_on(&self) -> Result<(), ArchiveError> {
        match interrupt::caught() {
            Some(_) => Err(self.wrong("reading it was interrupted by a signal")),
            None => Ok(()),
        }
    }

    /// Passes over what was not read of the current entry.
    pub(super) fn skip(&mut self) -> Result<(), ArchiveError> {
        self.go_on()?;
        let left = self.left + self.padding;
        (self.left, self.padding) = (0, 0);
        let passed = io::copy(&mut (&mut self.input).take(left), &mut io::sink())
            .map_err(|e| self.read_failed(e))?;
        if passed < left {
            return Err(self.read_failed(io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(())
    }

    pub(super) fn block(&mut self) -> Result<[u8; BLOCK], ArchiveError> {
        let mut block = [0; BLOCK];
        match self.input.read_exact(&mut block) {
            Ok(()) => Ok(block),
            Err(e) => Err(self.read_failed(e)),
        }
    }

    /// The very first block: what has less than that and is not empty is something else.
    fn first_block(&mut self) -> Result<[u8; BLOCK], ArchiveError> {
        let mut block = [0; BLOCK];
        let input = &mut self.input;
        match super::tree_item::fill(&mut block, |buffer| input.read(buffer)) {
            Ok(BLOCK) => Ok(block),
            Ok(0) => Err(self.read_failed(io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => Err(ArchiveError::NoArchive),
            Err(e) => Err(self.read_failed(e)),
        }
    }

    /// The next header with a right checksum; `None` at the end mark.
    fn header(&mut self) -> Result<Option<Header>, ArchiveError> {
        let block = match self.headers {
            0 => self.first_block()?,
            _ => self.block()?,
        };
        if block.iter().all(|b| *b == 0) {
            return Ok(None);
        }
        self.count(1)?;
        let mut header = Header::new_old();
        header.as_mut_bytes().copy_from_slice(&block);
        let field = 148..156;
        let sum: u64 = block
            .iter()
            .enumerate()
            .map(|(at, byte)| u64::from(if field.contains(&at) { b' ' } else { *byte }))
            .sum();
        if number(&header.as_old().cksum) != Some(sum) {
            if self.headers == 1 {
                return Err(ArchiveError::NoArchive);
            }
            let what = "what follows is no tar header (wrong checksum): the file is damaged, or no tar archive";
            return Err(self.wrong(what));
        }
        Ok(Some(header))
    }

    /// A number field: octal text, or base 256 with the top bit set.
    pub(super) fn number(&self, field: &[u8], what: &str) -> Result<u64, ArchiveError> {
        number(field).ok_or_else(|| self.wrong(format!("its {what} is no valid number")))
    }

    /// The data of an extension header, whole.
    fn extension(&mut self, size: u64) -> Result<Vec<u8>, ArchiveError> {
        if size > self.limits.header {
            return Err(self.wrong(format!("its extension header has {size} bytes")));
        }
        self.left = size;
        self.padding = padding(size);
        let mut data = Vec::new();
        let mut buffer = [0; 8192];
        loop {
            let n = self.read_data(&mut buffer)?;
            if n == 0 {
                break;
            }
            data.extend_from_slice(&buffer[..n]);
        }
        self.skip()?;
        Ok(data)
    }

    fn entry(
        &mut self,
        header: &Header,
        kind: EntryType,
        name: &[u8],
        link: Vec<u8>,
        pax: &Pax,
        header_size: u64,
    ) -> Result<Entry, ArchiveError> {
        let stored = self.stored_size(pax, header_size)?;
        let kind = self.kind(kind, name)?;
        if kind != EntryKind::File && stored != 0 {
            return Err(self.wrong("it is not a file but has data"));
        }
        self.left = stored;
        self.padding = padding(stored);
        let (size, pieces) = self.layout(header, pax, stored)?;
        let stored = self.left;
        let held = pieces
            .iter()
            .try_fold(0_u64, |sum, (_, n)| sum.checked_add(*n));
        if held != Some(stored) {
            return Err(self.wrong("its sparse map and its data do not agree"));
        }
        self.bytes = self.bytes.saturating_add(stored);
        if self.bytes > self.limits.bytes || size > self.limits.bytes {
            let most = crate::model::Bytes(self.limits.bytes);
            return Err(self.wrong(format!("the files of the archive take more than {most}")));
        }
        let old = header.as_old();
        let mtime = match pax.time("mtime") {
            Some(time) => time,
            None => (
                i64::try_from(self.number(&old.mtime, "time")?).unwrap_or(0),
                0,
            ),
        };
        let mode = self.number(&old.mode, "mode")? & 0o7777;
        let device = match (kind, header.as_ustar(), header.as_gnu()) {
            (EntryKind::Device, Some(h), _) => self.device(header, &h.dev_major, &h.dev_minor)?,
            (EntryKind::Device, _, Some(h)) => self.device(header, &h.dev_major, &h.dev_minor)?,
            _ => (false, 0, 0),
        };
        Ok(Entry {
            path: self.path(pax.sparse_name().unwrap_or(name))?,
            kind,
            mode: u32::try_from(mode).unwrap_or(0),
            uid: self.id(pax.number("uid"), &old.uid, "owner")?,
            gid: self.id(pax.number("gid"), &old.gid, "group")?,
            mtime,
            atime: pax.time("atime"),
            device,
            size,
            link,
            xattrs: pax.xattrs(),
            pieces,
        })
    }

    fn device(
        &self,
        header: &Header,
        major: &[u8],
        minor: &[u8],
    ) -> Result<(bool, u32, u32), ArchiveError> {
        let number = |field| {
            let number = self.number(field, "device number")?;
            u32::try_from(number).map_err(|_| self.wrong("its device number is no valid number"))
        };
        let block = header.entry_type() == EntryType::Block;
        Ok((block, number(major)?, number(minor)?))
    }

    /// Bytes behind the header. PAX and ustar must say the same, unless the number does not fit
    /// into ustar's field: a reader that believes the other one would see other entries.
    fn stored_size(&self, pax: &Pax, header: u64) -> Result<u64, ArchiveError> {
        match pax.number("size") {
            None => Ok(header),
            Some(Ok(size)) if size == header || (size > OCTAL_MOST && header == 0) => Ok(size),
            Some(_) => Err(self.wrong("its PAX and ustar headers give different sizes")),
        }
    }

    fn kind(&self, kind: EntryType, name: &[u8]) -> Result<EntryKind, ArchiveError> {
        Ok(match kind {
            // Before ustar a folder was a file whose name ends in a slash.
            EntryType::Regular if name.ends_with(b"/") => EntryKind::Folder,
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => EntryKind::File,
            EntryType::Directory => EntryKind::Folder,
            EntryType::Symlink => EntryKind::Symlink,
            EntryType::Link => EntryKind::HardLink,
            EntryType::Fifo => EntryKind::Fifo,
            EntryType::Char | EntryType::Block => EntryKind::Device,
            other => {
                let byte = other.as_byte().escape_ascii().to_string();
                return Err(self.wrong(format!("its type '{byte}' is not known")));
            }
        })
    }

    fn id(
        &self,
        pax: Option<Result<u64, String>>,
        field: &[u8],
        what: &str,
    ) -> Result<u32, ArchiveError> {
        let id = match pax {
            Some(number) => number.map_err(|e| self.wrong(e))?,
            None => self.number(field, what)?,
        };
        let shift = u64::from(self.limits.shift);
        let inside = match id.checked_sub(shift) {
            _ if self.limits.any_owner => 0,
            Some(inside) => inside,
            None => id,
        };
        u32::try_from(inside)
            .ok()
            .filter(|id| *id < crate::model::ID_BLOCK)
            .ok_or_else(|| {
                self.wrong(format!(
                    "its {what} {id} is above 65535, the highest id a guest has"
                ))
            })
    }

    /// Checks a path and splits it.
    pub(super) fn path(&self, path: &[u8]) -> Result<Vec<Vec<u8>>, ArchiveError> {
        if path.len() > self.limits.path {
            let most = self.limits.path;
            return Err(self.wrong(format!("its path is longer than {most} bytes")));
        }
        if path.contains(&0) {
            return Err(self.wrong("its path holds a zero byte"));
        }
        let parts: Vec<Vec<u8>> = path
            .split(|b| *b == b'/')
            .filter(|c| !c.is_empty() && *c != b".")
            .map(<[u8]>::to_vec)
            .collect();
        if parts.iter().any(|c| c == b"..") {
            return Err(self.wrong("its path leads upwards with '..'"));
        }
        if parts.iter().any(|c| c.len() > 255) {
            return Err(self.wrong("its path has a name longer than 255 bytes"));
        }
        if parts.len() > self.limits.depth {
            let most = self.limits.depth;
            return Err(self.wrong(format!("it lies more than {most} folders deep")));
        }
        Ok(parts)
    }
}

fn padding(size: u64) -> u64 {
    size.next_multiple_of(BLOCK as u64).saturating_sub(size)
}

/// GNU long names end with a zero byte.
fn cut(mut name: Vec<u8>) -> Vec<u8> {
    if let Some(end) = name.iter().position(|b| *b == 0) {
        name.truncate(end);
    }
    name
}
