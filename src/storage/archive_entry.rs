//! What an archive may hold: an entry, the limits, the refusals, and how numbers are written. The
//! stream they come from is `archive_read`.

use std::collections::BTreeMap;
use std::io;

/// What an archive may ask for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Headers of all kinds, and folders that no header of their own names.
    pub(super) entries: u64,
    /// Bytes of all files, and of the largest one with its holes.
    pub(super) bytes: u64,
    /// Bytes of one extension header.
    pub(super) header: u64,
    /// Components of a path.
    pub(super) depth: usize,
    /// Bytes of a path.
    pub(super) path: usize,
    /// Taken off every owner that is not below it: archives of shifted containers.
    pub(super) shift: u32,
    /// Whether owners are not looked at, for who looks for one file only.
    pub(super) any_owner: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: 4_000_000,
            bytes: 64 << 30,
            header: 1 << 20,
            depth: 512,
            path: 4095,
            shift: 0,
            any_owner: false,
        }
    }
}

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
    /// Not even its beginning is one.
    #[error(
        "it is no tar archive, neither plain nor compressed with gzip, xz or zstd (undo bzip2, lzo and others \
         first), or it is damaged"
    )]
    NoArchive,
    /// The stream ends in the middle.
    #[error("{}: it is cut off or damaged; fetch it again", end(entry))]
    Truncated {
        /// The last entry that was begun.
        entry: String,
    },
    /// The stream cannot be read or decompressed.
    #[error("{}: {source}", stop(entry))]
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

/// What stands for an entry where there was none yet.
pub(super) const NO_ENTRY: &str = "(none)";

/// Where a stream ends that should go on.
fn end(entry: &str) -> String {
    match entry {
        NO_ENTRY => "it ends before its first entry".into(),
        entry => format!("it ends in the middle, after entry {entry}"),
    }
}

/// Where it cannot be read any more.
fn stop(entry: &str) -> String {
    match entry {
        NO_ENTRY => "cannot read how it begins".into(),
        entry => format!("cannot read on after entry {entry}"),
    }
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
    /// The same of its last reading, where the archive says it.
    pub(super) atime: Option<(i64, u32)>,
    /// Whether a block device, major and minor number; of a device only.
    pub(super) device: (bool, u32, u32),
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

/// A number field of a header: octal text, or base 256 with the top bit set.
pub(super) fn number(field: &[u8]) -> Option<u64> {
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
