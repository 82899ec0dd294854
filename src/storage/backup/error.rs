//! What can go wrong with a backup: which blob or file, why, and what to do about it.

use std::path::PathBuf;

use rustix::io::Errno;

use super::super::dirfd::FileError;
use super::snapshot::Snapshot;
use crate::kernel::KernelError;

/// A backup that cannot be made, read or kept.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// A step on a file failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The kernel refused something else.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// There is no repository.
    #[error("{} is no backup repository: make one with `bulkhead backup init`", place.display())]
    NoRepository {
        /// Where it should be.
        place: PathBuf,
    },
    /// There is something already where one is to be made.
    #[error("cannot make a backup repository in {}: {why}", place.display())]
    Occupied {
        /// Where.
        place: PathBuf,
        /// What is in the way.
        why: &'static str,
    },
    /// The key file is missing, malformed, or of another repository.
    #[error("key file {}: {why}", path.display())]
    Key {
        /// The key file.
        path: PathBuf,
        /// What is wrong, and what to do.
        why: String,
    },
    /// It is encrypted where it should not be, or the other way round.
    #[error("backup repository {}: {why}", place.display())]
    Protection {
        /// The repository.
        place: PathBuf,
        /// What is wrong, and what to do.
        why: &'static str,
    },
    /// A blob is not what was written: cut short, changed, or of another repository.
    #[error("backup repository: {what} is damaged: {why}")]
    Damaged {
        /// Which blob, or which part of one.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// No such snapshot, or several.
    #[error("{wanted:?}: {why}; `bulkhead backup list` shows those there are")]
    Snapshot {
        /// What was asked for.
        wanted: String,
        /// Why it is none.
        why: String,
    },
    /// Another command works on the repository.
    #[error(
        "backup repository {} is in use by another command: try again when that is done",
        place.display()
    )]
    Busy {
        /// The repository.
        place: PathBuf,
    },
    /// No such file in a snapshot.
    #[error(
        "snapshot {snapshot} has no /{path} (no link is followed): `bulkhead backup ls {snapshot}` shows \
         what it has"
    )]
    NoFile {
        /// What was asked for.
        path: String,
        /// The snapshot.
        snapshot: String,
    },
    /// A restore that cannot be carried out as asked.
    #[error("cannot restore {what}: {why}")]
    Restore {
        /// What.
        what: String,
        /// Why, and what to do.
        why: String,
    },
}

/// Result of this folder.
pub(super) type Result<T> = std::result::Result<T, BackupError>;

impl BackupError {
    /// A blob, or a part of one, that is not what was written.
    pub(super) fn damaged(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Damaged {
            what: what.into(),
            why: why.into(),
        }
    }

    /// A path that a snapshot does not have.
    pub(super) fn missing(path: &[u8], snapshot: &Snapshot) -> Self {
        Self::NoFile {
            path: String::from_utf8_lossy(path).into_owned(),
            snapshot: snapshot.id.clone(),
        }
    }

    /// A path that what can be read of a snapshot does not have.
    pub(super) fn unlisted(path: &[u8], snapshot: &Snapshot) -> Self {
        Self::Restore {
            what: format!("/{}", String::from_utf8_lossy(path)),
            why: format!(
                "it is not in what can be read of snapshot {}, whose list of files is damaged: take it from \
                 another one",
                snapshot.id
            ),
        }
    }

    /// Whether it may be that one piece of the repository is at fault, and no other: that is not what was
    /// written, or its disk cannot read it. A repository that has gone away, or a host that is short of
    /// something, would fail with every piece.
    pub(super) fn is_unreadable(&self) -> bool {
        let of_disk = |error: &FileError| {
            matches!(
                Errno::from_io_error(&error.source),
                // The last two are of file systems that find their own sums wrong.
                Some(Errno::IO | Errno::UCLEAN | Errno::BADMSG)
            )
        };
        match self {
            Self::Damaged { .. } => true,
            Self::File(error) => of_disk(error),
            _ => false,
        }
    }

    /// Whether data of the repository is at fault, and not this host.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Damaged { .. })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn one_piece_is_at_fault_only_where_it_is_damaged_or_its_disk_is() {
        assert!(BackupError::damaged("chunk", "not authentic").is_unreadable());
        let of = |errno| BackupError::from(FileError::new("read", Path::new("packs/ab"), errno));
        for errno in [Errno::IO, Errno::UCLEAN, Errno::BADMSG] {
            assert!(of(errno).is_unreadable(), "{errno}");
        }
        for errno in [
            Errno::NOTCONN,
            Errno::STALE,
            Errno::NOENT,
            Errno::MFILE,
            Errno::NFILE,
            Errno::NOMEM,
            Errno::ACCESS,
            Errno::TIMEDOUT,
            Errno::NODEV,
            Errno::NXIO,
        ] {
            assert!(!of(errno).is_unreadable(), "{errno}");
        }
        let memory = crate::kernel::KernelError::new("map", "memory", Errno::NOMEM);
        assert!(!BackupError::from(memory).is_unreadable());
    }
}
