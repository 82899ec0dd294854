//! A file in a guest as people are shown it, and what one that is put there gets.

use serde::{Deserialize, Serialize};

/// One name in a folder of a guest's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Its name; bytes that are no UTF-8 are replaced.
    pub name: String,
    /// What it is.
    pub kind: FileKind,
    /// Permission bits, set-user-ID and its kin included.
    pub mode: u32,
    /// Owner, as the guest sees it.
    pub uid: u32,
    /// Group, as the guest sees it.
    pub gid: u32,
    /// Size in bytes.
    pub size: u64,
    /// When its data was changed last, milliseconds since 1970.
    pub modified_ms: u64,
    /// Where a symbolic link leads.
    pub target: Option<String>,
}

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileKind {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// A symbolic link.
    Link,
    /// A FIFO.
    Fifo,
    /// A socket.
    Socket,
    /// A device node.
    Device,
}

impl FileKind {
    /// With its article.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::File => "a file",
            Self::Folder => "a folder",
            Self::Link => "a symbolic link",
            Self::Fifo => "a FIFO",
            Self::Socket => "a socket",
            Self::Device => "a device node",
        }
    }

    /// As the first letter of `ls -l`.
    #[must_use]
    pub fn letter(self) -> char {
        match self {
            Self::File => '-',
            Self::Folder => 'd',
            Self::Link => 'l',
            Self::Fifo => 'p',
            Self::Socket => 's',
            Self::Device => 'c',
        }
    }
}

/// Mode and owner of a file that is written. What is not asked for stays as it was in a file that is
/// replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileWish {
    /// Permission bits.
    pub mode: Option<u32>,
    /// User and group, as the guest sees them.
    pub owner: Option<(u32, u32)>,
    /// Permission bits of a file that is new, where none are asked for.
    pub new_mode: u32,
}
