//! Backups of guests in a repository: cut into chunks where the data itself says so, each stored
//! once, compressed, encrypted, and in packs, so that a repository has few files.
//!
//! | file | what it holds |
//! |---|---|
//! | `blob`, `folder` | where a repository lies: named blobs, in a folder |
//! | `key`, `seal` | the key file; from bytes to what is stored and back, proved |
//! | `chunk` | where data is cut |
//! | `pack`, `index` | chunks in packs; which chunk is in which pack |
//! | `repo` | a repository, opened: store a chunk, read it |
//! | `entry`, `manifest` | a file with all it has; the list of a tree's files |
//! | `snapshot` | what was backed up |
//! | `create`, `unchanged` | making a backup; which files need not be read |
//! | `source`, `links` | the files of a snapshot in order; those with several names |
//! | `restore`, `image`, `list`, `diff` | bringing files back, and an image; what is there; what differs |
//! | `verify`, `prune` | whether all is well; taking away |
//! | `wire` | numbers and byte strings in these formats |
//!
//! Everything in a repository is data of a stranger until it is proved: by the key where it is
//! encrypted. Formats, and what is safe against what, are in `docs/backup.md`.

mod blob;
mod chunk;
mod create;
mod diff;
mod entry;
mod error;
mod folder;
mod image;
mod index;
mod key;
mod links;
mod list;
mod manifest;
mod measure;
mod pack;
mod prune;
mod repo;
mod restore;
mod restore_gap;
mod seal;
mod snapshot;
mod source;
#[cfg(test)]
mod store_tests;
mod unchanged;
mod verify;
mod wire;

pub use create::{Backup, Subject, Work};
pub use diff::Difference;
pub use error::BackupError;
pub use prune::{Pruned, Wish};
pub use repo::{Added, Protection, Repository};
pub use restore::{Restored, Selection};
pub use restore_gap::Unlisted;
pub use snapshot::{Below, Snapshot, Tree};
pub use source::View;
pub use verify::Verdict;
