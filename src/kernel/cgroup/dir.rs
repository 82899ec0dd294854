//! A control group's folder, held by descriptor: its files are read and written relative to it, so
//! nothing is looked up twice. What to write belongs to `knob`, `v1` and `v2`.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

use super::{CgroupError, Result};

const FOLDER: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// A folder and the path it was reached by (for messages, and for cgroups-rs).
#[derive(Debug)]
pub(super) struct Dir {
    fd: OwnedFd,
    path: PathBuf,
    /// Control files that were read and stay open, while they are to.
    kept: Mutex<Option<BTreeMap<String, OwnedFd>>>,
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Dir {
    fn at(fd: OwnedFd, path: PathBuf) -> Self {
        let kept = Mutex::default();
        Self { fd, path, kept }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether control files stay open once they are read, from now on: for whoever reads the same ones
    /// again and again, to whom opening them is most of the work.
    pub(super) fn keep_files(&self, keep: bool) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        *kept = keep.then(|| kept.take().unwrap_or_default());
    }

    /// Opens a folder; `None` if there is none.
    pub(super) fn open(path: &Path) -> Result<Option<Self>> {
        match rustix::fs::openat(CWD, path, FOLDER, Mode::empty()) {
            Ok(fd) => Ok(Some(Self::at(fd, path.to_owned()))),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(CgroupError::file("open", path, e)),
        }
    }

    /// The same folder, by a descriptor of its own.
    pub(super) fn again(&self) -> Result<Self> {
        let fd = rustix::io::fcntl_dupfd_cloexec(&self.fd, 0);
        let fd = fd.map_err(|e| CgroupError::file("keep open", &self.path, e))?;
        Ok(Self::at(fd, self.path.clone()))
    }

    /// Opens a child; `None` if there is none.
    pub(super) fn child(&self, name: &str) -> Result<Option<Self>> {
        let path = self.path.join(name);
        match rustix::fs::openat(&self.fd, name, FOLDER, Mode::empty()) {
            Ok(fd) => Ok(Some(Self::at(fd, path))),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(CgroupError::file("open", &path, e)),
        }
    }

    /// Makes a child that must not be there yet.
    pub(super) fn make(&self, name: &str) -> Result<Self> {
        let path = self.path.join(name);
        match rustix::fs::mkdirat(&self.fd, name, Mode::from_raw_mode(0o755)) {
            Ok(()) => {}
            Err(Errno::EXIST) => return Err(CgroupError::Exists { path }),
            Err(e) => return Err(CgroupError::file("make", &path, e)),
        }
        let opened = self.child(name);
        match opened {
            Ok(Some(dir)) => Ok(dir),
            Ok(None) => Err(CgroupError::file("open", &path, Errno::NOENT)),
            Err(e) => {
                // What was made here must not stay when it cannot be used.
                let _gone = self.unlink(name);
                Err(e)
            }
        }
    }

    /// Opens a child and makes it if need be. Says whether it was made.
    pub(super) fn ensure(&self, name: &str) -> Result<(Self, bool)> {
        if let Some(dir) = self.child(name)? {
            return Ok((dir, false));
        }
        match self.make(name) {
            Ok(dir) => Ok((dir, true)),
            Err(CgroupError::Exists { path }) => match self.child(name)? {
                Some(dir) => Ok((dir, false)),
                None => Err(CgroupError::file("open", &path, Errno::NOENT)),
            },
            Err(e) => Err(e),
        }
    }

    /// Removes an empty child.
    pub(super) fn unlink(&self, name: &str) -> rustix::io::Result<()> {
        rustix::fs::unlinkat(&self.fd, name, AtFlags::REMOVEDIR)
    }

    /// Opens a control file.
    pub(super) fn file(&self, name: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        rustix::fs::openat(&self.fd, name, flags, Mode::empty())
    }

    /// Whether there is such a control file.
    pub(super) fn has(&self, name: &str) -> bool {
        rustix::fs::accessat(&self.fd, name, rustix::fs::Access::EXISTS, AtFlags::empty()).is_ok()
    }

    /// Writes a control file in one call, as the kernel wants it.
    pub(super) fn write(&self, name: &str, value: &str) -> Result<()> {
        self.file(name, OFlags::WRONLY)
            .and_then(|f| rustix::io::write(&f, value.as_bytes()))
            .map(|_| ())
            .map_err(|e| CgroupError::with_value("write", &self.path.join(name), value, e))
    }

    /// Reads a control file.
    pub(super) fn read(&self, name: &str) -> Result<String> {
        self.text(name)
            .map_err(|e| CgroupError::file("read", &self.path.join(name), e))
    }

    /// Reads a control file; `None` if there is none.
    pub(super) fn try_read(&self, name: &str) -> Result<Option<String>> {
        match self.text(name) {
            Ok(text) => Ok(Some(text)),
            Err(Errno::NOENT | Errno::NODEV) => Ok(None),
            Err(e) => Err(CgroupError::file("read", &self.path.join(name), e)),
        }
    }

    fn text(&self, name: &str) -> rustix::io::Result<String> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(kept) = kept.as_mut() else {
            return read_all(self.file(name, OFlags::RDONLY)?.as_fd());
        };
        if !kept.contains_key(name) {
            kept.insert(name.to_owned(), self.file(name, OFlags::RDONLY)?);
        }
        read_all(kept[name].as_fd())
    }
}

/// The whole of a control file, from its beginning. One call is enough for nearly all of them.
fn read_all(fd: BorrowedFd<'_>) -> rustix::io::Result<String> {
    let mut bytes = Vec::new();
    let mut page = [0_u8; 4096];
    loop {
        let n = rustix::io::pread(fd, &mut page, bytes.len() as u64)?;
        bytes.extend_from_slice(&page[..n]);
        // A line that ends and leaves room for more lines: the kernel had no more to say.
        if n == 0 || (bytes.len() < page.len() / 2 && bytes.ends_with(b"\n")) {
            return Ok(String::from_utf8_lossy(&bytes).into_owned());
        }
    }
}

/// A number from a control file that holds one; `max` is `None`.
pub(super) fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// The number after `key` in a file of `key number` lines.
pub(super) fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (k, v) = line.split_once(' ')?;
        (k == key).then(|| v.trim().parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keyed_wants_the_whole_key() {
        let text = "oom 3\noom_kill 7\noom_group_kill 1\n";
        assert_eq!(keyed(text, "oom_kill"), Some(7));
        assert_eq!(keyed(text, "oom"), Some(3));
        assert_eq!(keyed(text, "kill"), None);
        assert_eq!(number("max\n"), None);
    }
}
