//! Reads a tar stream into entries: ustar, PAX, GNU long names, old GNU and PAX sparse files. Pure
//! over any `Read`; believes no number before it is checked. Writing entries to disk is `extract`.
//!
//! The `tar` crate knows the header's layout; the stream is followed here, because what an entry's
//! size is decides where the next header begins, and two readers that disagree on it see two
//! different archives.

use std::collections::BTreeMap;
use std::io::{self, Read};

use tar::{EntryType, Header};

use super::archive_pax::{Pax, sparse_pairs};

/// What an archive may ask for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Headers of all kinds.
    pub(super) entries: u64,
    /// Bytes of all files, and of the largest one with its holes.
    pub(super) bytes: u64,
    /// Bytes of one extension header.
    pub(super) header: u64,
    /// Components of a path.
    pub(super) depth: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: 4_000_000,
            bytes: 64 << 30,
            header: 1 << 20,
            depth: 512,
        }
    }
}

/// Extension headers that may come before one entry.
const EXTENSIONS_MOST: u32 = 8;
/// Pieces of a sparse file.
const PIECES_MOST: usize = 1 << 20;
/// Largest size the octal size field of a ustar header holds.
const OCTAL_MOST: u64 = 0o77_777_777_777;
const BLOCK: usize = 512;

/// An archive that is refused; always says at which entry.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// An entry asks for what is not allowed or makes no sense.
    #[error("entry {entry}: {reason}")]
    Entry {
        /// Name in the archive, unprintable bytes escaped.
        entry: String,
        /// What is wrong.
        reason: String,
    },
    /// The stream ends in the middle.
    #[error("it ends in the middle, after entry {entry}: it is cut off or damaged; fetch it again")]
    Truncated {
        /// The last entry that was begun.
        entry: String,
    },
    /// The stream cannot be read or decompressed.
    #[error("cannot read on after entry {entry}: {source}")]
    Read {
        /// The last entry that was begun.
        entry: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// An entry cannot be written to disk.
    #[error(transparent)]
    Write(#[from] super::dirfd::FileError),
}

/// Type of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EntryKind {
    File,
    Folder,
    Symlink,
    HardLink,
    Fifo,
    Device,
}

/// One entry of an archive, every field checked for form.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// Components of its path, none of them empty, `.` or `..`; none at all for the root itself.
    pub(super) path: Vec<Vec<u8>>,
    pub(super) kind: EntryKind,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Seconds and nanoseconds.
    pub(super) mtime: (i64, u32),
    /// Bytes of the file, holes included.
    pub(super) size: u64,
    /// Target of a link, as written.
    pub(super) link: Vec<u8>,
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Offset and length of the pieces that hold data, ascending.
    pub(super) pieces: Vec<(u64, u64)>,
}

/// A name for messages.
pub(super) fn shown(name: &[u8]) -> String {
    let text = name.escape_ascii().to_string();
    if text.len() > 200 {
        format!("{}…", text.chars().take(200).collect::<String>())
    } else {
        text
    }
}

/// Reads entries one after another.
#[derive(Debug)]
pub(super) struct Reader<R> {
    input: R,
    limits: Limits,
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
            at: "(none)".into(),
        }
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

    fn skip(&mut self) -> Result<(), ArchiveError> {
        let left = self.left + self.padding;
        (self.left, self.padding) = (0, 0);
        let passed = io::copy(&mut (&mut self.input).take(left), &mut io::sink())
            .map_err(|e| self.read_failed(e))?;
        if passed < left {
            return Err(self.read_failed(io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(())
    }

    fn block(&mut self) -> Result<[u8; BLOCK], ArchiveError> {
        let mut block = [0; BLOCK];
        match self.input.read_exact(&mut block) {
            Ok(()) => Ok(block),
            Err(e) => Err(self.read_failed(e)),
        }
    }

    /// The next header with a right checksum; `None` at the end mark.
    fn header(&mut self) -> Result<Option<Header>, ArchiveError> {
        let block = self.block()?;
        if block.iter().all(|b| *b == 0) {
            return Ok(None);
        }
        self.headers += 1;
        if self.headers > self.limits.entries {
            let most = self.limits.entries;
            return Err(self.wrong(format!("the archive has more than {most} entries")));
        }
        let mut header = Header::new_old();
        header.as_mut_bytes().copy_from_slice(&block);
        let field = 148..156;
        let sum: u64 = block
            .iter()
            .enumerate()
            .map(|(at, byte)| u64::from(if field.contains(&at) { b' ' } else { *byte }))
            .sum();
        if number(&header.as_old().cksum) != Some(sum) {
            let what = "what follows is no tar header (wrong checksum): the file is damaged, or no tar archive";
            return Err(self.wrong(what));
        }
        Ok(Some(header))
    }

    /// A number field: octal text, or base 256 with the top bit set.
    fn number(&self, field: &[u8], what: &str) -> Result<u64, ArchiveError> {
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
        let mtime = match pax.mtime() {
            Some(time) => time,
            None => (
                i64::try_from(self.number(&old.mtime, "time")?).unwrap_or(0),
                0,
            ),
        };
        let mode = self.number(&old.mode, "mode")? & 0o7777;
        Ok(Entry {
            path: self.path(pax.sparse_name().unwrap_or(name))?,
            kind,
            mode: u32::try_from(mode).unwrap_or(0),
            uid: self.id(pax.number("uid"), &old.uid, "owner")?,
            gid: self.id(pax.number("gid"), &old.gid, "group")?,
            mtime,
            size,
            link,
            xattrs: pax.xattrs(),
            pieces,
        })
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

    /// Size with holes, and where the data goes.
    #[allow(clippy::type_complexity)]
    fn layout(
        &mut self,
        header: &Header,
        pax: &Pax,
        stored: u64,
    ) -> Result<(u64, Vec<(u64, u64)>), ArchiveError> {
        let (size, pieces) = if header.entry_type() == EntryType::GNUSparse {
            self.gnu_sparse(header)?
        } else if let Some((size, pieces)) = pax.sparse().map_err(|e| self.wrong(e))? {
            match pieces {
                Some(pieces) => (size, pieces),
                None => (size, self.sparse_in_data()?),
            }
        } else {
            return Ok((stored, vec![(0, stored)]));
        };
        let mut end = 0_u64;
        for (offset, length) in &pieces {
            let next = offset.checked_add(*length);
            if *offset < end || next.is_none_or(|n| n > size) {
                return Err(self.wrong("its sparse map overlaps or is longer than the file"));
            }
            end = next.unwrap_or(end);
        }
        Ok((size, pieces))
    }

    #[allow(clippy::type_complexity)]
    fn gnu_sparse(&mut self, header: &Header) -> Result<(u64, Vec<(u64, u64)>), ArchiveError> {
        let Some(gnu) = header.as_gnu() else {
            return Err(self.wrong("it is a sparse file without a GNU header"));
        };
        let size = self.number(&gnu.realsize, "real size")?;
        let mut pieces = Vec::new();
        for piece in &gnu.sparse {
            self.gnu_piece(&piece.offset, &piece.numbytes, &mut pieces)?;
        }
        let mut more = gnu.isextended[0] != 0;
        while more {
            let block = self.block()?;
            for piece in block[..504].as_chunks::<24>().0 {
                self.gnu_piece(&piece[..12], &piece[12..], &mut pieces)?;
            }
            more = block[504] != 0;
        }
        Ok((size, pieces))
    }

    fn gnu_piece(
        &self,
        offset: &[u8],
        length: &[u8],
        pieces: &mut Vec<(u64, u64)>,
    ) -> Result<(), ArchiveError> {
        if offset.iter().all(|b| *b == 0) && length.iter().all(|b| *b == 0) {
            return Ok(());
        }
        if pieces.len() >= PIECES_MOST {
            return Err(self.wrong("its sparse map is too long"));
        }
        let offset = self.number(offset, "sparse map")?;
        pieces.push((offset, self.number(length, "sparse map")?));
        Ok(())
    }

    /// PAX sparse 1.0: the map stands before the data, as decimal lines, padded to a block.
    fn sparse_in_data(&mut self) -> Result<Vec<(u64, u64)>, ArchiveError> {
        let mut text = Vec::new();
        let mut wanted: Option<usize> = None;
        loop {
            let mut block = [0; BLOCK];
            let mut filled = 0;
            while filled < BLOCK {
                let n = self.read_data(&mut block[filled..])?;
                if n == 0 {
                    return Err(self.wrong("its sparse map is cut off"));
                }
                filled += n;
            }
            text.extend_from_slice(&block);
            let lines = text.split_inclusive(|b| *b == b'\n');
            let numbers: Vec<&[u8]> = lines.filter_map(|l| l.strip_suffix(b"\n")).collect();
            if wanted.is_none() {
                wanted = numbers
                    .first()
                    .and_then(|n| decimal(n))
                    .and_then(|n| usize::try_from(n).ok());
            }
            let count = wanted.filter(|n| *n <= PIECES_MOST);
            let Some(count) = count else {
                return Err(self.wrong("its sparse map is no list of numbers"));
            };
            // Checked only when enough may have come, so that long maps are not split again and again.
            if numbers.len() > count * 2 {
                return sparse_pairs(numbers[1..=count * 2].iter().map(|n| decimal(n)))
                    .ok_or_else(|| self.wrong("its sparse map is no list of numbers"));
            }
            if text.len() as u64 > self.limits.header {
                return Err(self.wrong("its sparse map is too long"));
            }
        }
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
        u32::try_from(id)
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
        if path.len() > 4095 {
            return Err(self.wrong("its path is longer than 4095 bytes"));
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

fn number(field: &[u8]) -> Option<u64> {
    match field.first()? {
        // Base 256: 0x80, then big-endian; 0xff would be negative.
        0x80 => field[1..]
            .iter()
            .try_fold(0_u64, |n, b| Some(n.checked_mul(256)? + u64::from(*b))),
        0x81.. => None,
        _ => {
            let text = field.split(|b| *b == 0).next()?.trim_ascii();
            text.iter().try_fold(0_u64, |n, b| match b {
                b'0'..=b'7' => Some(n.checked_mul(8)? + u64::from(b - b'0')),
                _ => None,
            })
        }
    }
}

/// A decimal number of digits only.
pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 20 {
        return None;
    }
    text.iter().try_fold(0_u64, |n, b| match b {
        b'0'..=b'9' => n.checked_mul(10)?.checked_add(u64::from(b - b'0')),
        _ => None,
    })
}
