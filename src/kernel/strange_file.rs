//! Single files in a folder that a stranger changes meanwhile: looked at, read, written whole. Only
//! regular files are opened, by their name in a folder's descriptor, and no link is followed.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{self, AtFlags, FileType, Gid, Mode, OFlags, SeekFrom, Stat, Uid};
use rustix::io::Errno;

use super::fault;
use crate::model::{FileEntry, FileKind, FileWish};

/// Most names that are listed of one folder.
const NAMES_MOST: usize = 100_000;

/// What is to be done with a file of a guest's. Paths are the guest's own, links in them resolved as
/// in the guest.
#[derive(Debug)]
pub enum FileJob {
    /// Tell what is in a folder, or what a name that is no folder is.
    List(String),
    /// Tell what a name is, itself and not what it leads to.
    Look(String),
    /// Copy the regular file that a path leads to.
    Read {
        /// Its path.
        path: String,
        /// Where to.
        into: File,
    },
    /// Write a regular file, or replace one whole.
    Write {
        /// Its path.
        path: String,
        /// Where from.
        from: File,
        /// What it gets.
        wish: FileWish,
    },
}

/// What `name` in `dir` is; `None` if nothing.
pub fn look(dir: impl AsFd, name: &CStr) -> io::Result<Option<FileEntry>> {
    let stat = match fs::statat(dir.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    let mut entry = describe(name, &stat);
    if entry.kind == FileKind::Link {
        // It may have been replaced meanwhile, and then leads nowhere.
        let target = fs::readlinkat(dir, name, Vec::new()).ok();
        entry.target = target.map(|target| target.to_string_lossy().into_owned());
    }
    Ok(Some(entry))
}

/// A file by its name and status.
#[must_use]
pub fn describe(name: &CStr, stat: &Stat) -> FileEntry {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => FileKind::Folder,
        FileType::Symlink => FileKind::Link,
        FileType::Fifo => FileKind::Fifo,
        FileType::Socket => FileKind::Socket,
        FileType::CharacterDevice | FileType::BlockDevice => FileKind::Device,
        _ => FileKind::File,
    };
    let seconds = u64::try_from(stat.st_mtime).unwrap_or(0);
    let nanoseconds = stat.st_mtime_nsec;
    FileEntry {
        name: name.to_string_lossy().into_owned(),
        kind,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        modified_ms: seconds.saturating_mul(1000) + nanoseconds / 1_000_000,
        target: None,
    }
}

/// What is in a folder, sorted by name; the folder was opened for reading.
pub fn list(dir: impl AsFd) -> io::Result<Vec<FileEntry>> {
    let mut names = Vec::new();
    for entry in fs::Dir::read_from(dir.as_fd())? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
        if names.len() > NAMES_MOST {
            let why = format!("more than {NAMES_MOST} files in one folder");
            return Err(io::Error::other(why));
        }
    }
    names.sort_unstable();
    let mut all = Vec::new();
    for name in names {
        // What is gone by now is not in it.
        all.extend(look(dir.as_fd(), &name)?);
    }
    Ok(all)
}

/// That an entry is no regular file, and what to do.
#[must_use]
pub fn not_plain(entry: &FileEntry) -> io::Error {
    let what = entry.kind.text();
    io::Error::other(match (entry.kind, &entry.target) {
        (FileKind::Link, Some(target)) => {
            format!("it is {what} to {target}: name the file that it leads to")
        }
        (FileKind::Folder, _) => format!("it is {what}: name a file in it"),
        _ => format!("it is {what}, and only regular files are opened"),
    })
}

/// Checks that what was opened, without waiting, is a regular file.
pub fn plain(file: OwnedFd) -> io::Result<(File, Stat)> {
    let stat = fs::fstat(&file)?;
    let entry = describe(c"", &stat);
    match entry.kind {
        FileKind::File => Ok((File::from(file), stat)),
        _ => Err(not_plain(&entry)),
    }
}

/// Copies all of a file from where it stands. Holes stay holes where both are regular files.
pub fn copy(from: &File, into: &File) -> io::Result<()> {
    let regular = |file: &File| file.metadata().map(|meta| meta.is_file());
    let (mut source, mut sink) = (from, into);
    if !(regular(from)? && regular(into)?) {
        return match io::copy(&mut source, &mut sink) {
            // Whoever reads has what they wanted.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            copied => copied.map(drop),
        };
    }
    let (mut at, first) = (fs::tell(from)?, fs::tell(from)?);
    let begin = fs::tell(into)?;
    let to = |at: u64| begin + (at - first);
    let size = from.metadata()?.len().max(first);
    while at < size {
        let data = match fs::seek(from, SeekFrom::Data(at)) {
            Ok(data) => data,
            Err(Errno::NXIO) => break,
            Err(errno) => return Err(errno.into()),
        };
        let end = fs::seek(from, SeekFrom::Hole(data))?.min(size);
        fs::seek(from, SeekFrom::Start(data))?;
        fs::seek(into, SeekFrom::Start(to(data)))?;
        let mut piece = from.take(end.saturating_sub(data));
        if io::copy(&mut piece, &mut sink)? == 0 {
            break;
        }
        at = end;
    }
    into.set_len(to(size).max(into.metadata()?.len()))?;
    fs::seek(into, SeekFrom::Start(to(size)))?;
    Ok(())
}

/// Writes `name` in `dir` whole: to a new file named `temporary`, renamed when all of it is on disk.
/// `there` is what the name is now; only a regular file is replaced.
pub fn put(
    dir: impl AsFd,
    (name, temporary): (&CStr, &CStr),
    there: Option<&FileEntry>,
    wish: &FileWish,
    from: &File,
) -> io::Result<FileEntry> {
    let dir = dir.as_fd();
    if let Some(there) = there.filter(|there| there.kind != FileKind::File) {
        return Err(not_plain(there));
    }
    let (uid, gid) = wish
        .owner
        .unwrap_or_else(|| there.map_or((0, 0), |there| (there.uid, there.gid)));
    let mode = wish
        .mode
        .unwrap_or_else(|| there.map_or(wish.new_mode, |there| there.mode));
    let (made, named) = begin(dir, temporary)?;
    let written = || -> io::Result<FileEntry> {
        copy(from, &made)?;
        fault::point().map_err(|error| error.errno)?;
        // The owner first: a change of it clears the set-id bits.
        fs::fchown(&made, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
        fs::fchmod(&made, Mode::from_raw_mode(mode))?;
        made.sync_all()?;
        fault::point().map_err(|error| error.errno)?;
        if !named {
            give_name(&made, dir, temporary)?;
        }
        fs::renameat(dir, temporary, dir, name)?;
        Ok(describe(name, &fs::fstat(&made)?))
    };
    written().inspect_err(|_| {
        // The first error is the one to report.
        fs::unlinkat(dir, temporary, AtFlags::empty()).ok();
    })
}

/// A new file in a folder, and whether it has its name already. One without leaves nothing if this
/// process is killed; not every file system has such (overlayfs: from Linux 6.3).
fn begin(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<(File, bool)> {
    let mode = Mode::RUSR | Mode::WUSR;
    let flags = OFlags::WRONLY | OFlags::TMPFILE | OFlags::CLOEXEC;
    match fs::openat(dir, c".", flags, mode) {
        Ok(file) => return Ok((File::from(file), false)),
        Err(Errno::NOTSUP | Errno::ISDIR | Errno::INVAL) => {}
        Err(errno) => return Err(errno.into()),
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok((File::from(fs::openat(dir, name, flags, mode)?), true))
}

/// Gives a file without a name this one. Before Linux 6.10 that is for root outside only, and there is
/// the way through /proc.
fn give_name(file: &File, dir: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    match fs::linkat(file, c"", dir, name, AtFlags::EMPTY_PATH) {
        Err(Errno::NOENT | Errno::PERM) => {}
        done => return Ok(done?),
    }
    let own = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(fs::linkat(
        fs::CWD,
        own,
        dir,
        name,
        AtFlags::SYMLINK_FOLLOW,
    )?)
}

/// The folder and the last name of a path in a guest.
///
/// # Errors
/// The path has none, as `/` and what ends with `..`.
pub fn split(path: &str) -> io::Result<(&str, std::ffi::CString)> {
    let trimmed = path.trim_end_matches('/');
    let (parent, name) = trimmed.rsplit_once('/').unwrap_or(("", trimmed));
    if matches!(name, "" | "." | "..") || name.contains('\0') {
        return Err(io::Error::other("it is a folder: name a file in it"));
    }
    Ok((parent, std::ffi::CString::new(name)?))
}

#[cfg(test)]
mod tests {
    use std::io::{Seek as _, Write as _};

    use super::*;

    fn file() -> File {
        let made = fs::memfd_create("test", fs::MemfdFlags::CLOEXEC).unwrap();
        File::from(made)
    }

    #[test]
    fn a_path_has_a_last_name_or_none() {
        for (path, parent, name) in [("/etc/x", "/etc", "x"), ("x", "", "x"), ("/x/", "", "x")] {
            let (dir, last) = split(path).unwrap();
            assert_eq!((dir, last.to_str().unwrap()), (parent, name), "{path}");
        }
        for path in ["/", "", "/etc/..", "/etc/.", "/a\0b"] {
            assert!(split(path).is_err(), "{path:?}");
        }
    }

    #[test]
    fn holes_and_ends_are_kept() {
        let (mut from, mut into) = (file(), file());
        from.write_all(b"head").unwrap();
        from.seek(io::SeekFrom::Start(4 << 20)).unwrap();
        from.write_all(b"tail").unwrap();
        from.set_len(9 << 20).unwrap();
        from.rewind().unwrap();
        copy(&from, &into).unwrap();
        into.rewind().unwrap();
        from.rewind().unwrap();
        let (mut old, mut new) = (Vec::new(), Vec::new());
        from.read_to_end(&mut old).unwrap();
        into.read_to_end(&mut new).unwrap();
        assert!(old == new);
        assert!(fs::fstat(&into).unwrap().st_blocks < 4096);
    }
}
