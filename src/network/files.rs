//! The few things this room does with files: take a lock, replace a file as a whole, read one that
//! may not be what it should. Which files there are is `book.rs` and `host.rs`.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::kernel::{fault, file};

/// Longest file this room reads, bytes: leases of 65,000 guests are a third of it.
const LONGEST: u64 = 16 << 20;

/// A file of this room that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The system said no.
    #[error("cannot {verb} {}: {source}", path.display())]
    Io {
        /// What was tried.
        verb: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It was removed.
    #[error("there is no network {0} any more: somebody has removed it")]
    Removed(String),
    /// Its contents are not what this program writes.
    #[error(
        "{} is damaged: {reason}; nothing was changed. Restore it from a backup, or let `bulkhead doctor --fix` write it anew from what is known of each guest",
        path.display()
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl FileError {
    fn io<'a>(verb: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Self + 'a {
        move |source| Self::Io {
            verb,
            path: path.to_owned(),
            source,
        }
    }
}

/// An exclusive lock on a file, held until dropped; the kernel frees it when the process dies.
#[derive(Debug)]
pub(super) struct Locked {
    _file: File,
}

/// Waits for the lock `folder/lock`, making the folder where it is missing.
pub(super) fn lock(folder: &Path) -> Result<Locked, FileError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(FileError::io("make the folder", folder))?;
    let path = folder.join("lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(FileError::io("open", &path))?;
    loop {
        match flock(&file, FlockOperation::LockExclusive) {
            Ok(()) => return Ok(Locked { _file: file }),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(FileError::io("lock", &path)(e.into())),
        }
    }
}

/// Reads a JSON file; `None` when there is none.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, FileError> {
    let Some(bytes) = read_bytes(path, LONGEST)? else {
        return Ok(None);
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|e| FileError::Damaged {
            path: path.to_owned(),
            reason: e.to_string(),
        })
}

/// The bytes of a regular file of at most `longest` bytes; `None` when there is none. Looks before
/// it opens, so that a FIFO cannot hold it up.
pub(super) fn read_bytes(path: &Path, longest: u64) -> Result<Option<Vec<u8>>, FileError> {
    let damaged = |reason: String| FileError::Damaged {
        path: path.to_owned(),
        reason,
    };
    match fs::metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(FileError::io("read", path)(e)),
        Ok(found) if !found.is_file() => return Err(damaged("it is no regular file".to_owned())),
        Ok(_) => {}
    }
    // Most are read by one call so.
    let mut bytes = Vec::with_capacity(8192);
    File::open(path)
        .and_then(|file| file.take(longest + 1).read_to_end(&mut bytes))
        .map_err(FileError::io("read", path))?;
    if bytes.len() as u64 > longest {
        return Err(damaged(format!("it is longer than {longest} bytes")));
    }
    Ok(Some(bytes))
}

/// Replaces a JSON file as a whole: a reader, or a power cut, finds the old one or the new one.
/// The caller holds the lock.
pub(super) fn write<T: Serialize>(path: &Path, value: &T) -> Result<(), FileError> {
    let failed = FileError::io("write", path);
    match serde_json::to_vec_pretty(value) {
        Ok(bytes) => file::write_whole(path, &bytes, 0o600).map_err(|e| failed(e.errno.into())),
        Err(error) => Err(failed(error.into())),
    }
}

/// A fault point on the way to `what`.
pub(super) fn pause(what: &Path) -> Result<(), FileError> {
    fault::point().map_err(|e| FileError::io("set up", what)(e.errno.into()))
}

/// Removes a file; it may be gone already.
pub(super) fn remove(path: &Path) -> Result<(), FileError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(FileError::io("remove", path)(e)),
        _ => Ok(()),
    }
}

/// Names in a folder; none if it is not there.
pub(super) fn entries(folder: &Path) -> Result<Vec<String>, FileError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(FileError::io("read the folder", folder)(e)),
    };
    let name = |entry: fs::DirEntry| entry.file_name().into_string().ok();
    Ok(entries.flatten().filter_map(name).collect())
}

/// Removes a folder of this room's with all there is in it; it may be gone already.
pub(super) fn remove_folder(path: &Path) -> Result<(), FileError> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(FileError::io("remove", path)(e)),
        _ => Ok(()),
    }
}

/// Gives a file another name; it may be missing.
pub(super) fn rename(from: &Path, to: &Path) -> Result<(), FileError> {
    match fs::rename(from, to) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(FileError::io("rename", from)(e)),
        _ => Ok(()),
    }
}

/// A setting below /proc/sys, trimmed; `None` when this kernel has none of that name.
pub(super) fn read_sysctl(path: &Path) -> Result<Option<String>, FileError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(FileError::io("read", path)(e)),
    }
}

/// Writes a setting below /proc/sys, only when it differs; false when it was so already.
pub(super) fn write_sysctl(path: &Path, value: &str) -> Result<bool, FileError> {
    if read_sysctl(path)?.is_some_and(|now| now == value) {
        return Ok(false);
    }
    fs::write(path, value).map_err(FileError::io("write", path))?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_file_is_told_apart() {
        let folder = std::env::temp_dir().join(format!("bh-files-{}", std::process::id()));
        let _locked = lock(&folder).unwrap();
        let path = folder.join("x.json");
        assert_eq!(read::<u8>(&path).unwrap(), None);
        write(&path, &7_u8).unwrap();
        assert_eq!(read::<u8>(&path).unwrap(), Some(7));
        fs::write(&path, "{").unwrap();
        let error = read::<u8>(&path).unwrap_err().to_string();
        assert!(
            error.contains("x.json is damaged") && error.contains("doctor"),
            "{error}"
        );
        assert!(
            read::<u8>(&folder)
                .unwrap_err()
                .to_string()
                .contains("regular file")
        );
        assert!(read_bytes(&path, 0).is_err());
        assert_eq!(
            fs::read_dir(&folder).unwrap().count(),
            2,
            "the lock and the file"
        );
        fs::remove_dir_all(&folder).unwrap();
    }
}
