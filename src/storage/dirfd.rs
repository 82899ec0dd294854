//! Small descriptor steps that all files of this room share: one component at a time, never
//! following a symbolic link, never crossing a mount. Walking and removing whole trees is next door
//! (`walk`, `remove`); looking through image and guest layer at once is `merged`.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, CWD, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::kernel::fault;

/// A step on a file that failed: what was tried, on what, why, and what helps.
#[derive(Debug, thiserror::Error)]
#[error("cannot {verb} {}: {source}{}", path.display(), hint(source))]
pub struct FileError {
    /// What was tried, such as `create folder`.
    pub verb: &'static str,
    /// On what.
    pub path: PathBuf,
    /// Why it failed.
    #[source]
    pub source: io::Error,
}

impl FileError {
    /// An error of `verb` on `path`.
    pub(crate) fn new(verb: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self {
            verb,
            path: path.to_owned(),
            source: source.into(),
        }
    }

    /// Whether the disk (or its quota) is full.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        matches!(
            Errno::from_io_error(&self.source),
            Some(Errno::NOSPC | Errno::DQUOT)
        )
    }
}

/// What helps, for the causes that a person can do something about.
fn hint(source: &io::Error) -> &'static str {
    match Errno::from_io_error(source) {
        Some(Errno::NOSPC) => {
            "; the file system is full (space or inodes): free some, or use a larger one, and repeat"
        }
        Some(Errno::DQUOT) => {
            "; the disk quota is used up: raise it or free some space, and repeat"
        }
        Some(Errno::ROFS) => "; the file system is read-only: remount it writable, or use --root",
        Some(Errno::ACCESS | Errno::PERM) => "; this needs root",
        Some(Errno::XDEV | Errno::BUSY) => "; something is mounted there: unmount it and repeat",
        _ => "",
    }
}

/// Flags of every step below a descriptor: one real component on the same mount.
const STEP: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

/// Opens a folder of the program's own by path.
pub(crate) fn open_dir(path: &Path) -> Result<OwnedFd, FileError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    fs::openat(CWD, path, flags, Mode::empty()).map_err(|e| FileError::new("open folder", path, e))
}

/// Opens the folder `name` in `dir` for reading.
///
/// # Errors
/// `ELOOP` for a symbolic link, `ENOTDIR` for another file, `EXDEV` for a mount point.
pub(crate) fn child_dir(dir: impl AsFd, name: &CStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    retry(|| fs::openat2(dir.as_fd(), name, flags, Mode::empty(), STEP))
}

/// Opens the folder that lies `path` below `top`, its components joined by `/`, in one call: the kernel
/// takes every component as [`child_dir`] does. Nothing is the folder itself.
pub(crate) fn below(top: impl AsFd, path: &[u8]) -> rustix::io::Result<OwnedFd> {
    let path = if path.is_empty() { b"." } else { path };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    retry(|| fs::openat2(top.as_fd(), path, flags, Mode::empty(), STEP))
}

/// Opens the regular file `name` in `dir` for reading; never blocks on a FIFO.
pub(crate) fn child_file(dir: impl AsFd, name: &CStr) -> rustix::io::Result<File> {
    let flags =
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let fd = retry(|| fs::openat2(dir.as_fd(), name, flags, Mode::empty(), STEP))?;
    if is_file(&fs::fstat(&fd)?) {
        Ok(File::from(fd))
    } else {
        Err(Errno::INVAL)
    }
}

/// openat2(2) answers EAGAIN when a rename elsewhere raced with it.
pub(crate) fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    for _ in 0..64 {
        match call() {
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
    call()
}

/// What is at `name` in `dir`, itself and not what it points to; `None` if nothing.
pub(crate) fn stat_at(dir: impl AsFd, name: &CStr) -> rustix::io::Result<Option<Stat>> {
    match fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(e),
    }
}

/// The type bits of a mode.
pub(crate) fn file_type(stat: &Stat) -> fs::FileType {
    fs::FileType::from_raw_mode(stat.st_mode)
}

/// Whether it is a folder.
pub(crate) fn is_dir(stat: &Stat) -> bool {
    file_type(stat) == fs::FileType::Directory
}

/// Whether it is a regular file.
pub(crate) fn is_file(stat: &Stat) -> bool {
    file_type(stat) == fs::FileType::RegularFile
}

/// Permission bits of a mode, set-user-ID and its kin included.
pub(crate) fn permissions(stat: &Stat) -> u32 {
    stat.st_mode & 0o7777
}

/// All names in `dir` but `.` and `..`, sorted by bytes.
pub(crate) fn names(dir: impl AsFd) -> rustix::io::Result<Vec<CString>> {
    let mut found = Vec::new();
    for entry in fs::Dir::read_from(dir)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            found.push(entry.file_name().to_owned());
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Reads at most `limit` bytes of a file.
///
/// # Errors
/// `FileTooLarge` when there is more.
pub(crate) fn read_limited(file: impl Read, limit: u64) -> io::Result<Vec<u8>> {
    // Most files are read by one call so.
    let mut data = Vec::with_capacity(8192);
    file.take(limit + 1).read_to_end(&mut data)?;
    if data.len() as u64 > limit {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(data)
}

/// Owner and mode of a file to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    /// Permission bits.
    pub(crate) mode: u32,
    /// User id on disk.
    pub(crate) uid: u32,
    /// Group id on disk.
    pub(crate) gid: u32,
}

impl Owner {
    /// Owned by root with this mode.
    pub(crate) const fn root(mode: u32) -> Self {
        Self {
            mode,
            uid: 0,
            gid: 0,
        }
    }

    /// The owner and mode of what `stat` describes.
    pub(crate) fn of(stat: &Stat) -> Self {
        Self {
            mode: permissions(stat),
            uid: stat.st_uid,
            gid: stat.st_gid,
        }
    }

    /// Gives `fd` this owner, then this mode (chown(2) clears the set-id bits, so never the other
    /// way round). Where the owner is right already nothing is asked for, so that tests and
    /// builds of a plain user's own files need no privilege.
    pub(crate) fn apply(self, fd: impl AsFd) -> rustix::io::Result<()> {
        let stat = fs::fstat(fd.as_fd())?;
        if (stat.st_uid, stat.st_gid) != (self.uid, self.gid) {
            let uid = rustix::fs::Uid::from_raw(self.uid);
            let gid = rustix::fs::Gid::from_raw(self.gid);
            fs::fchown(fd.as_fd(), Some(uid), Some(gid))?;
        }
        fs::fchmod(fd.as_fd(), Mode::from_raw_mode(self.mode))
    }
}

/// Writes `name` in `dir` whole: to a temporary name, then renamed over what was there, which may
/// be anything but a folder. `sync` waits for the disk before the rename.
pub(crate) fn write_whole(
    dir: impl AsFd,
    name: &CStr,
    data: &[u8],
    owner: Owner,
    sync: bool,
) -> io::Result<()> {
    let dir = dir.as_fd();
    let temporary = c".bulkhead-new";
    let made = || -> io::Result<()> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(fs::openat(dir, temporary, flags, Mode::RUSR | Mode::WUSR)?);
        file.write_all(data)?;
        owner.apply(&file)?;
        if sync {
            file.sync_all()?;
        }
        fault::point().map_err(|e| e.errno)?;
        fs::renameat(dir, temporary, dir, name)?;
        Ok(())
    };
    // What a command that died has left of this: whoever writes here holds a lock, so it is nobody's.
    match fs::unlinkat(dir, temporary, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(e) => return Err(e.into()),
    }
    made().inspect_err(|_| {
        // The first error is the one to report; the next write removes what is left.
        fs::unlinkat(dir, temporary, AtFlags::empty()).ok();
    })
}

/// Makes the folder `name` in `dir` with this owner and opens it.
pub(crate) fn make_dir(dir: impl AsFd, name: &CStr, owner: Owner) -> rustix::io::Result<OwnedFd> {
    fs::mkdirat(dir.as_fd(), name, Mode::RWXU)?;
    let made = child_dir(dir, name)?;
    owner.apply(&made)?;
    Ok(made)
}

/// Makes a folder of the program's own and its parents, mode 0700, and opens it.
pub(crate) fn ensure_private(path: &Path) -> Result<OwnedFd, FileError> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|e| FileError::new("create folder", path, e))?;
    open_dir(path)
}

/// A name for the kernel; names with NUL bytes do not come from readdir and are refused elsewhere.
pub(crate) fn cname(name: impl Into<Vec<u8>>) -> io::Result<CString> {
    CString::new(name).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}
