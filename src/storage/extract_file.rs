//! Parts of `extract` on one file: making it, its owner and times, which of its attributes are kept; and
//! the times that folders are to have at the end.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{self, AtFlags, Mode, OFlags, Timespec, Timestamps};

use super::archive_entry::Entry;

/// What came out of an archive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Extracted {
    /// Entries written.
    pub(super) entries: u64,
    /// Device nodes below a folder named `dev`, which were left out.
    pub(super) devices: u64,
    /// Extended attributes left out.
    pub(super) xattrs: u64,
    /// Entries that took the place of an earlier one of their path.
    pub(super) replaced: u64,
    /// The path of the first of them.
    pub(super) first_replaced: Vec<u8>,
}

impl Extracted {
    /// What is not as the archive has it, for people.
    pub(super) fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let (devices, xattrs) = (self.devices, self.xattrs);
        if devices + xattrs > 0 {
            notes.push(format!(
                "{devices} device nodes and {xattrs} extended attributes were left out"
            ));
        }
        if self.replaced > 0 {
            notes.push(format!(
                "{} entries of the archive took the place of earlier ones of their path, as `tar -r` makes \
                 them: the last counts; the first was {}",
                self.replaced,
                String::from_utf8_lossy(&self.first_replaced)
            ));
        }
        notes
    }
}

/// Why one entry failed: what was tried, and the cause.
pub(super) type Step<T> = Result<T, (&'static str, io::Error)>;

/// The result of `verb`.
pub(super) fn at<T>(verb: &'static str, result: rustix::io::Result<T>) -> Step<T> {
    result.map_err(|e| (verb, e.into()))
}

/// Components of a path, joined.
pub(super) fn path_of(parts: &[Vec<u8>]) -> Vec<u8> {
    parts.join(&b'/')
}

/// How a folder is opened.
pub(super) const OPEN_DIR: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC);

/// Makes a file where nothing is.
pub(super) fn create(parent: &OwnedFd, name: &CString) -> Step<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR;
    at("create", fs::openat(parent, &**name, flags, mode)).map(File::from)
}

/// Owner and time of what cannot be opened without following or waiting: links and FIFOs.
pub(super) fn finish_at(parent: &OwnedFd, name: &CString, entry: &Entry) -> Step<()> {
    let stat = at(
        "look at",
        fs::statat(parent, &**name, AtFlags::SYMLINK_NOFOLLOW),
    )?;
    if (stat.st_uid, stat.st_gid) != (entry.uid, entry.gid) {
        let (uid, gid) = (fs::Uid::from_raw(entry.uid), fs::Gid::from_raw(entry.gid));
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        at(
            "set owner of",
            fs::chownat(parent, &**name, Some(uid), Some(gid), flags),
        )?;
    }
    let time = times(entry.mtime);
    at(
        "set time of",
        fs::utimensat(parent, &**name, &time, AtFlags::SYMLINK_NOFOLLOW),
    )
}

/// A time of modification, as both times of a file.
pub(super) fn times((seconds, nanoseconds): (i64, u32)) -> Timestamps {
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: i64::from(nanoseconds),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

/// Attributes that mean nothing to the host: those of programs, and file capabilities of version 2,
/// which count inside the guest's user namespace only. Never `trusted.*`, by which a layer of an
/// overlay would say what lies below it.
pub(super) fn is_harmless(name: &[u8], value: &[u8]) -> bool {
    let capability = name == b"security.capability" && value.len() == 20 && value[3] == 2;
    (capability || name.starts_with(b"user.")) && name.len() <= 255 && !name.contains(&0)
}

/// A folder's time: seconds and nanoseconds.
type Time = (i64, u32);

/// Most bytes of the folders whose times are kept.
const FOLDERS_MOST: usize = 256 << 20;

/// Folders and the times they are to have at the end; not without bound, for an archive is a stranger's.
#[derive(Default)]
pub(super) struct Folders {
    times: Vec<(Vec<u8>, Time)>,
    /// Bytes of these.
    held: usize,
}

impl Folders {
    /// Keeps a folder's time for later.
    pub(super) fn keep(&mut self, path: Vec<u8>, time: Time) -> Step<()> {
        if let Some(last) = self.times.last_mut()
            && last.0 == path
        {
            last.1 = time;
            return Ok(());
        }
        self.held += path.len() + size_of::<(Vec<u8>, Time)>();
        if self.held > FOLDERS_MOST {
            let why = "the paths of the archive's folders have more than 256 MiB together";
            return Err(("keep time of", io::Error::other(why)));
        }
        self.times.push((path, time));
        Ok(())
    }

    /// All of them, from the last to the first.
    pub(super) fn latest_first(&self) -> impl Iterator<Item = &(Vec<u8>, Time)> {
        self.times.iter().rev()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_folders_are_kept_within_bounds() {
        let mut folders = Folders::default();
        for time in 0..3 {
            folders.keep(b"same".to_vec(), (time, 0)).unwrap();
        }
        assert_eq!(folders.times, [(b"same".to_vec(), (2, 0))]);
        let once = folders.held;
        folders.keep(b"next".to_vec(), (1, 0)).unwrap();
        assert_eq!(folders.held, 2 * once);
        folders.held = FOLDERS_MOST - once;
        folders.keep(b"last".to_vec(), (1, 0)).unwrap();
        assert!(folders.keep(b"more".to_vec(), (1, 0)).is_err());
        // Those that are there need no more.
        assert!(folders.keep(b"last".to_vec(), (2, 0)).is_ok());
    }
}
