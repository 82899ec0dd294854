//! A repository in a folder: `packs/`, `index/`, `snapshots/` hold one file a blob, `tmp/` what is
//! being written, `lock` is held by whoever works on it. The folder may lie on a disk of a stranger:
//! everything in it is opened by descriptor, links are not followed, and only names that a
//! repository has are looked at.

use std::ffi::CString;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{self, AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::super::dirfd::{
    self, FileError, Owner, child_dir, child_file, cname, ensure_private, is_file, make_dir,
    open_dir, stat_at,
};
use super::blob::{Blobs, Hold, Kind, Part};
use super::error::{BackupError, Result};
use crate::kernel::{fault, random};

/// How long a command waits for others to let go of the repository.
const PATIENCE: Duration = Duration::from_secs(30);

/// Folders of a repository.
const FOLDERS: [Kind; 3] = [Kind::Pack, Kind::Index, Kind::Snapshot];

/// Name of the file that says what the folder is.
const FORMAT: &str = "format.json";
/// Most bytes of it.
pub(super) const FORMAT_MOST: u64 = 64 << 10;

/// A repository's folder.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    top: OwnedFd,
}

impl Folder {
    /// Makes an empty repository's folders in `path`, which is made if it is not there.
    ///
    /// # Errors
    /// Something is in it, or it cannot be made.
    pub(super) fn make(path: &Path) -> Result<Self> {
        let top = ensure_private(path)?;
        let held = dirfd::names(&top).map_err(|e| FileError::new("read folder", path, e))?;
        let ours = |name: &CString| {
            let name = name.to_bytes();
            matches!(name, b"lock" | b"tmp") || FOLDERS.iter().any(|k| k.name().as_bytes() == name)
        };
        let occupied = |why| BackupError::Occupied {
            place: path.to_owned(),
            why,
        };
        if held.iter().any(|name| name.to_bytes() == FORMAT.as_bytes()) {
            return Err(occupied("there is one already"));
        }
        // What an `init` that was cut short has left is taken over.
        if !held.iter().all(ours) {
            return Err(occupied("the folder is not empty: name another"));
        }
        for name in FOLDERS.map(Kind::name).into_iter().chain(["tmp"]) {
            let c = cname(name).map_err(|e| FileError::new("create folder", path, e))?;
            match make_dir(&top, &c, Owner::root(0o700)) {
                Ok(_) | Err(Errno::EXIST) => {}
                Err(e) => return Err(FileError::new("create folder", &path.join(name), e).into()),
            }
        }
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        fs::openat(&top, c"lock", flags, Mode::RUSR | Mode::WUSR)
            .map_err(|e| FileError::new("create", &path.join("lock"), e))?;
        Ok(Self {
            path: path.to_owned(),
            top,
        })
    }

    /// Opens the repository in `path`.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let none = || BackupError::NoRepository {
            place: path.to_owned(),
        };
        let top = open_dir(path).map_err(|e| match Errno::from_io_error(&e.source) {
            Some(Errno::NOENT | Errno::NOTDIR) => none(),
            _ => e.into(),
        })?;
        match stat_at(&top, c"format.json") {
            Ok(Some(stat)) if is_file(&stat) => {}
            _ => return Err(none()),
        }
        Ok(Self {
            path: path.to_owned(),
            top,
        })
    }

    fn failed(
        &self,
        verb: &'static str,
        kind: Kind,
        name: &str,
        source: impl Into<std::io::Error>,
    ) -> BackupError {
        FileError::new(verb, &self.path_of(kind, name), source).into()
    }

    fn path_of(&self, kind: Kind, name: &str) -> PathBuf {
        match kind {
            Kind::Format => self.path.join(FORMAT),
            kind => self.path.join(kind.name()).join(name),
        }
    }

    /// The folder of a kind, and the file's name in it.
    fn place(&self, kind: Kind, name: &str) -> Result<(OwnedFd, CString)> {
        let (folder, name) = match kind {
            Kind::Format => (c".".to_owned(), FORMAT),
            kind => (self.cname(kind.name())?, name),
        };
        let dir = child_dir(&self.top, &folder)
            .map_err(|e| self.failed("open folder of", kind, name, e))?;
        Ok((dir, self.cname(name)?))
    }

    fn cname(&self, name: &str) -> Result<CString> {
        cname(name).map_err(|e| FileError::new("name a blob in", &self.path, e).into())
    }

    fn tmp(&self) -> Result<OwnedFd> {
        let failed = |e| FileError::new("open folder", &self.path.join("tmp"), e).into();
        child_dir(&self.top, c"tmp").map_err(failed)
    }

    fn file(&self, kind: Kind, name: &str) -> Result<File> {
        let (dir, file) = self.place(kind, name)?;
        child_file(dir, &file).map_err(|e| match e {
            Errno::NOENT => BackupError::damaged(shown(kind, name), "it is missing"),
            e => self.failed("open", kind, name, e),
        })
    }

    /// Removes a file in `tmp` unless its writer, who holds it, is alive; gives its bytes.
    fn sweep_one(tmp: &OwnedFd, name: &CString) -> rustix::io::Result<u64> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = fs::openat(tmp, &**name, flags, Mode::empty())?;
        match fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => return Ok(0),
            other => other?,
        }
        let size = fs::fstat(&file)?.st_size;
        fs::unlinkat(tmp, &**name, AtFlags::empty())?;
        Ok(u64::try_from(size).unwrap_or(0))
    }
}

/// Writes a file under a temporary name and gives it its own. One that is swept away between its
/// making and its lock ends with `ENOENT` or `EWOULDBLOCK`.
fn write(
    tmp: &OwnedFd,
    temporary: &CString,
    (dir, name): (&OwnedFd, &CString),
    data: &[u8],
) -> std::io::Result<()> {
    fault::point().map_err(|e| e.errno)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR;
    let mut new = File::from(fs::openat(tmp, &**temporary, flags, mode)?);
    // Held while it is being written, so that nobody sweeps it away.
    fs::flock(&new, FlockOperation::NonBlockingLockExclusive)?;
    new.write_all(data)?;
    new.sync_all()?;
    fault::point().map_err(|e| e.errno)?;
    fs::renameat(tmp, &**temporary, dir, &**name)?;
    fs::fsync(dir)?;
    fault::point().map_err(|e| e.errno)?;
    Ok(())
}

/// A blob in a message.
pub(super) fn shown(kind: Kind, name: &str) -> String {
    match kind {
        Kind::Format => FORMAT.to_owned(),
        kind => format!("{}/{name}", kind.name()),
    }
}

impl Blobs for Folder {
    fn put(&self, kind: Kind, name: &str, data: &[u8]) -> Result<()> {
        let (dir, file) = self.place(kind, name)?;
        let tmp = self.tmp()?;
        for attempt in 0.. {
            let temporary = self.cname(&random::hex(16)?)?;
            let Err(error) = write(&tmp, &temporary, (&dir, &file), data) else {
                break;
            };
            // The first error is the one to report; what is left the next command sweeps away.
            fs::unlinkat(&tmp, &*temporary, AtFlags::empty()).ok();
            let swept = matches!(
                Errno::from_io_error(&error),
                Some(Errno::NOENT | Errno::WOULDBLOCK)
            );
            if !swept || attempt == 3 {
                return Err(self.failed("write", kind, name, error));
            }
        }
        Ok(())
    }

    fn get(&self, kind: Kind, name: &str, most: u64) -> Result<Vec<u8>> {
        let file = self.file(kind, name)?;
        dirfd::read_limited(file, most).map_err(|e| self.failed("read", kind, name, e))
    }

    fn get_part(&self, kind: Kind, name: &str, part: Part) -> Result<Vec<u8>> {
        let file = self.file(kind, name)?;
        let mut data = vec![0; usize::try_from(part.length).unwrap_or(0)];
        match file.read_exact_at(&mut data, part.offset) {
            Ok(()) => Ok(data),
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
                Err(BackupError::damaged(shown(kind, name), "it is cut short"))
            }
            Err(e) => Err(self.failed("read", kind, name, e)),
        }
    }

    fn look_again(&self) -> Result<()> {
        let file = self.file(Kind::Format, "")?;
        // What this host still remembers of a disk that was pulled out proves nothing. Where it cannot be
        // made to forget that, it is read all the same.
        let _remembered = fs::fadvise(&file, 0, None, fs::Advice::DontNeed);
        dirfd::read_limited(file, FORMAT_MOST)
            .map_err(|e| self.failed("read", Kind::Format, "", e))?;
        self.place(Kind::Pack, "").map(drop)
    }

    fn list(&self, kind: Kind) -> Result<Vec<(String, u64)>> {
        let (dir, _) = self.place(kind, "")?;
        let names = dirfd::names(&dir).map_err(|e| self.failed("read folder of", kind, "", e))?;
        let mut found = Vec::new();
        for name in names {
            let stat = stat_at(&dir, &name).map_err(|e| self.failed("look at", kind, "", e))?;
            if let (Ok(name), Some(stat)) = (name.into_string(), stat)
                && is_name(&name)
                && is_file(&stat)
            {
                found.push((name, u64::try_from(stat.st_size).unwrap_or(0)));
            }
        }
        Ok(found)
    }

    fn delete(&self, kind: Kind, name: &str) -> Result<()> {
        let (dir, file) = self.place(kind, name)?;
        fault::point()?;
        match fs::unlinkat(&dir, &*file, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(e) => return Err(self.failed("delete", kind, name, e)),
        }
        fault::point()?;
        Ok(())
    }

    fn hold(&self, hold: Hold) -> Result<OwnedFd> {
        let path = self.path.join("lock");
        let failed = |e| FileError::new("lock", &path, e);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = fs::openat(&self.top, c"lock", flags, Mode::empty()).map_err(failed)?;
        let operation = match hold {
            Hold::Shared => FlockOperation::NonBlockingLockShared,
            Hold::Alone => FlockOperation::NonBlockingLockExclusive,
        };
        let until = Instant::now() + PATIENCE;
        let mut pause = Duration::from_millis(5);
        loop {
            match fs::flock(file.as_fd(), operation) {
                Ok(()) => return Ok(file),
                Err(Errno::WOULDBLOCK | Errno::INTR) => {}
                Err(e) => return Err(failed(e).into()),
            }
            if Instant::now() >= until || crate::kernel::interrupt::caught().is_some() {
                return Err(BackupError::Busy {
                    place: self.path.clone(),
                });
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(200));
        }
    }

    fn sweep(&self) -> Result<u64> {
        let tmp = self.tmp()?;
        let path = self.path.join("tmp");
        let names = dirfd::names(&tmp).map_err(|e| FileError::new("read folder", &path, e))?;
        let mut bytes = 0;
        for name in names {
            match Self::sweep_one(&tmp, &name) {
                Ok(size) => bytes += size,
                // Its writer was quicker.
                Err(Errno::NOENT) => {}
                Err(e) => return Err(FileError::new("remove", &path, e).into()),
            }
        }
        Ok(bytes)
    }
}

/// Whether a file's name is one of a blob.
fn is_name(name: &str) -> bool {
    (16..=64).contains(&name.len()) && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}
