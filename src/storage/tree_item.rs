//! One file of a tree with everything it has but its data: what a walk gives (`tree_read`), what is
//! made again from it elsewhere (`tree_write`), and what an archive carries.

use std::io;

use super::dirfd::FileError;

/// Seconds since 1970 and nanoseconds.
pub(super) type Time = (i64, u32);

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Item {
    /// Path below the top, components joined by `/`; empty for the top itself.
    pub(super) path: Vec<u8>,
    /// What it is.
    pub(super) what: What,
    /// Permission bits, set-id bits included.
    pub(super) mode: u32,
    /// Owner as on disk.
    pub(super) uid: u32,
    /// Group as on disk.
    pub(super) gid: u32,
    /// When its data changed.
    pub(super) modified: Time,
    /// When it was read last.
    pub(super) accessed: Time,
    /// Extended attributes, by name: capabilities, access lists, marks of an overlay among them.
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What a file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum What {
    Folder,
    File {
        /// Bytes, holes included.
        size: u64,
        /// Offset and length of the pieces that hold data, ascending.
        pieces: Vec<(u64, u64)>,
    },
    /// With its target, as written.
    Symlink(Vec<u8>),
    /// Another name of an item that came before; with the path of that one.
    HardLink(Vec<u8>),
    /// A whiteout of an overlay is the character device 0:0.
    Device {
        block: bool,
        major: u32,
        minor: u32,
    },
    Fifo,
    Socket,
}

impl What {
    /// Bytes of data, without holes.
    pub(super) fn data(&self) -> u64 {
        match self {
            Self::File { pieces, .. } => pieces.iter().map(|piece| piece.1).sum(),
            _ => 0,
        }
    }
}

/// Reads from `read` into `buffer` until it is full or there is no more.
pub(super) fn fill(
    buffer: &mut [u8],
    mut read: impl FnMut(&mut [u8]) -> io::Result<usize>,
) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

/// A path of a tree as it is shown in messages.
pub(super) fn failed(verb: &'static str, path: &[u8], source: impl Into<io::Error>) -> FileError {
    use std::os::unix::ffi::OsStrExt as _;
    let name: &[u8] = if path.is_empty() { b"." } else { path };
    FileError::new(
        verb,
        std::path::Path::new(std::ffi::OsStr::from_bytes(name)),
        source,
    )
}
