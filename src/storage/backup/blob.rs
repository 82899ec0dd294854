//! Where a repository lies: named blobs that are put whole, read, listed and deleted. A folder is the
//! one place there is (`folder`); a store of objects elsewhere would be another.

use super::error::Result;

/// What a blob is; the name of its folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// What the repository is, readable without its key.
    Format,
    /// Chunks of data.
    Pack,
    /// Which chunk is in which pack.
    Index,
    /// What was backed up.
    Snapshot,
}

impl Kind {
    /// As in paths and messages.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Format => "format",
            Self::Pack => "packs",
            Self::Index => "index",
            Self::Snapshot => "snapshots",
        }
    }
}

/// How a repository is held while a command works on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hold {
    /// With others that add or read.
    Shared,
    /// Alone, to take away.
    Alone,
}

/// A part of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// Where it begins.
    pub(super) offset: u64,
    /// Its bytes.
    pub(super) length: u32,
}

/// Named blobs. Names are lower-case hexadecimal and made here.
pub(super) trait Blobs: std::fmt::Debug {
    /// Stores a blob. When it returns the blob survives a power cut; cut short it is not there.
    fn put(&self, kind: Kind, name: &str, data: &[u8]) -> Result<()>;

    /// A blob of at most `most` bytes.
    fn get(&self, kind: Kind, name: &str, most: u64) -> Result<Vec<u8>>;

    /// A part of a blob. One that ends before the part does is damaged.
    fn get_part(&self, kind: Kind, name: &str, part: Part) -> Result<Vec<u8>>;

    /// Whether the repository is still there: what it says of itself is read from its disk once more, and
    /// the folder of the packs opened.
    fn look_again(&self) -> Result<()>;

    /// Names and sizes of all blobs of a kind, sorted by name.
    fn list(&self, kind: Kind) -> Result<Vec<(String, u64)>>;

    /// Deletes a blob; none there is success.
    fn delete(&self, kind: Kind, name: &str) -> Result<()>;

    /// Holds the repository until what it gives is dropped.
    fn hold(&self, hold: Hold) -> Result<std::os::fd::OwnedFd>;

    /// Removes what commands that died have left half-written; gives its bytes.
    fn sweep(&self) -> Result<u64>;
}
