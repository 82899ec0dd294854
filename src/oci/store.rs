//! The state of containers on disk: one folder for each, by its name, with a file `state` (`record`)
//! and while its program waits a FIFO `start`. Every path is looked up from the folder's descriptor.
//! What the kernel knows is asked of the kernel: whether the process lives, whether its group is
//! frozen.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};

use super::error::{OciError, Result};
use super::host;
use super::record::{File, Record};
use crate::kernel::cgroup::{Frozen, Host};
use crate::kernel::{Errno, KernelError, fault};

/// File names in a container's folder.
pub(super) const STATE: &str = "state";
pub(super) const START: &str = "start";
pub(super) const COMPLAINT: &str = "complaint";

/// Largest state or configuration that is read, bytes.
pub(super) const LARGEST: u64 = 16 << 20;

/// How a container is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Creating,
    Created,
    Running,
    Paused,
    Stopped,
}

impl Status {
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

/// All containers of one folder.
#[derive(Debug)]
pub(super) struct Store {
    root: PathBuf,
    pub(super) rootless: bool,
}

impl Store {
    pub(super) fn at(root: Option<&Path>, rootless: bool) -> Self {
        let usual = || host::runtime_folder().join("bulkhead-oci");
        Self {
            root: root.map_or_else(usual, Path::to_owned),
            rootless,
        }
    }

    /// Where a container's folder is.
    pub(super) fn path(&self, id: &str) -> PathBuf {
        self.root.join(id)
    }

    fn open(&self) -> rustix::io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(&self.root, flags, Mode::empty())
    }

    /// Makes a container's folder, which reserves its name.
    pub(super) fn reserve(&self, id: &str) -> Result<Folder> {
        check_id(id)?;
        let failed = |errno| KernelError::new("use the state folder", self.root.display(), errno);
        let root = match self.open() {
            Err(Errno::NOENT) => {
                crate::kernel::file::make_private_dir(&self.root)?;
                self.open()
            }
            other => other,
        }
        .map_err(failed)?;
        match rustix::fs::mkdirat(&root, id, Mode::from_raw_mode(0o700)) {
            Ok(()) => {}
            Err(Errno::EXIST) => return Err(OciError::Exists(id.to_owned())),
            Err(errno) => return Err(failed(errno).into()),
        }
        let folder = Folder::open(&Arc::new(root), id)?;
        let folder = folder.ok_or_else(|| OciError::Missing(id.to_owned()))?;
        if let Err(error) = fault::point() {
            folder.remove()?;
            return Err(error.into());
        }
        Ok(folder)
    }

    /// A container's folder.
    pub(super) fn find(&self, id: &str) -> Result<Folder> {
        check_id(id)?;
        let missing = || OciError::Missing(id.to_owned());
        let root = match self.open() {
            Ok(root) => root,
            Err(Errno::NOENT | Errno::NOTDIR) => return Err(missing()),
            Err(errno) => {
                return Err(KernelError::new("open", self.root.display(), errno).into());
            }
        };
        Folder::open(&Arc::new(root), id)?.ok_or_else(missing)
    }

    /// The names of all, in order.
    pub(super) fn names(&self) -> Result<(Vec<String>, Option<OwnedFd>)> {
        let failed = |errno| KernelError::new("list", self.root.display(), errno);
        let root = match self.open() {
            Ok(root) => root,
            Err(Errno::NOENT) => return Ok((Vec::new(), None)),
            Err(errno) => return Err(failed(errno).into()),
        };
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&root).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_string_lossy();
            if check_id(&name).is_ok() {
                names.push(name.into_owned());
            }
        }
        names.sort();
        Ok((names, Some(root)))
    }
}

/// Names as runc takes them, but for a leading dot.
pub(super) fn check_id(id: &str) -> Result<()> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_+-.".contains(c);
    if id.is_empty() || id.len() > 255 || id.starts_with('.') || !id.chars().all(allowed) {
        return Err(OciError::Id(id.chars().take(80).collect()));
    }
    Ok(())
}

/// One container's folder.
#[derive(Debug)]
pub(super) struct Folder {
    root: Arc<OwnedFd>,
    fd: OwnedFd,
    id: String,
}

impl Folder {
    pub(super) fn open(root: &Arc<OwnedFd>, id: &str) -> Result<Option<Self>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(root, id, flags, Mode::empty()) {
            Ok(fd) => Ok(Some(Self {
                root: root.clone(),
                fd,
                id: id.to_owned(),
            })),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(errno) => Err(KernelError::new("open the container", id, errno).into()),
        }
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Keeps other commands that change this container waiting while the folder is open.
    pub(super) fn lock(&self) -> Result<()> {
        let lock = || rustix::fs::flock(&self.fd, FlockOperation::LockExclusive);
        rustix::io::retry_on_intr(lock).map_err(KernelError::on("lock the container", &self.id))?;
        Ok(())
    }

    /// The same without waiting; whether it was to be had.
    pub(super) fn try_lock(&self) -> Result<bool> {
        match rustix::fs::flock(&self.fd, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(true),
            Err(Errno::WOULDBLOCK) => Ok(false),
            Err(errno) => Err(KernelError::new("lock the container", &self.id, errno).into()),
        }
    }

    /// Takes the lock back, also from processes that have inherited it.
    pub(super) fn unlock(&self) -> Result<()> {
        rustix::fs::flock(&self.fd, FlockOperation::Unlock)
            .map_err(KernelError::on("unlock the container", &self.id))?;
        Ok(())
    }

    /// A file in it, opened.
    pub(super) fn file(&self, name: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.fd, name, flags, Mode::from_raw_mode(0o600))
    }

    pub(super) fn read(&self, name: &str) -> Result<Vec<u8>> {
        let failed =
            |errno| KernelError::new("read", format!("{name} of container {}", self.id), errno);
        let file = self
            .file(name, OFlags::RDONLY | OFlags::NONBLOCK)
            .map_err(failed)?;
        let mut data = Vec::with_capacity(2 << 10);
        loop {
            let asked = data.spare_capacity_mut().len();
            let n = rustix::io::retry_on_intr(|| {
                rustix::io::read(&file, rustix::buffer::spare_capacity(&mut data))
            })
            .map_err(failed)?;
            // A regular file gives all it has: less than asked for is its end.
            if n < asked {
                return Ok(data);
            }
            if data.len() as u64 > LARGEST {
                return Err(failed(Errno::FBIG).into());
            }
            data.reserve(16 << 10);
        }
    }

    fn state(&self) -> File<'_, OwnedFd> {
        File {
            folder: &self.fd,
            path: STATE,
            id: &self.id,
        }
    }

    /// What is known of the container; `None` while it is being made.
    pub(super) fn record(&self) -> Result<Option<Record>> {
        self.state().record()
    }

    /// The same, of one that is made.
    pub(super) fn made(&self) -> Result<Record> {
        let record = self.record()?;
        record.ok_or_else(|| OciError::Missing(self.id.clone()))
    }

    /// The configuration it was made from.
    pub(super) fn config(&self) -> Result<Vec<u8>> {
        self.state().config()
    }

    /// Keeps the configuration, and the record of a container that has no process yet.
    pub(super) fn begin(&self, config: &[u8], record: &Record) -> Result<()> {
        self.state().begin(config, record)
    }

    /// Keeps what has changed.
    pub(super) fn save(&self, record: &Record) -> Result<()> {
        self.state().add(record)
    }

    /// How it is now.
    pub(super) fn status(&self, record: &Record, host: &Host) -> Status {
        record.status(&Frozen::of(host), || self.waiting())
    }

    /// The FIFO its program waits on, and the file for its complaint.
    pub(super) fn make_start(&self) -> Result<(OwnedFd, OwnedFd)> {
        let failed = KernelError::on("make the start of container", &self.id);
        let make = || {
            let fifo = rustix::fs::FileType::Fifo;
            rustix::fs::mknodat(&self.fd, START, fifo, Mode::from_raw_mode(0o600), 0)?;
            // For reading and writing, so that it is never closed by the other side.
            let start = self.file(START, OFlags::RDWR)?;
            let complaint = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
            Ok((start, self.file(COMPLAINT, complaint)?))
        };
        let made: rustix::io::Result<_> = make();
        let made = made.map_err(failed)?;
        fault::point()?;
        Ok(made)
    }

    /// The FIFO, to write the word into, if somebody waits for it.
    pub(super) fn waiting(&self) -> Result<Option<OwnedFd>> {
        waiting(&self.fd, START, &self.id)
    }

    pub(super) fn forget(&self, name: &str) {
        // Gone already is as good.
        let _gone = rustix::fs::unlinkat(&self.fd, name, AtFlags::empty());
    }

    /// Removes the folder and what is in it: files of ours, and what the container has left where it was
    /// shown one.
    pub(super) fn remove(self) -> Result<()> {
        let failed = |errno| KernelError::new("remove the container", &self.id, errno);
        // The state last: what is left of a removal cut short is a container still.
        super::activation::forget(self.fd.as_fd(), &self.id)?;
        for name in [START, COMPLAINT, STATE] {
            fault::point()?;
            self.forget(name);
        }
        fault::point()?;
        match rustix::fs::unlinkat(&self.root, self.id.as_str(), AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::NOTEMPTY) => {}
            Err(errno) => return Err(failed(errno).into()),
        }
        // What a killed command has left half written.
        for entry in rustix::fs::Dir::read_from(&self.fd).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name().to_owned();
            let _folder = rustix::fs::unlinkat(&self.fd, &name, AtFlags::empty());
        }
        rustix::fs::unlinkat(&self.root, self.id.as_str(), AtFlags::REMOVEDIR)
            .map_err(|errno| failed(errno).into())
    }
}

/// The FIFO of a container whose program waits: the kernel opens it for writing only then.
pub(super) fn waiting(folder: impl AsFd, path: &str, id: &str) -> Result<Option<OwnedFd>> {
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(folder, path, flags, Mode::empty()) {
        Ok(start) => Ok(Some(start)),
        Err(Errno::NOENT | Errno::NXIO) => Ok(None),
        Err(errno) => Err(KernelError::new("open the start of", id, errno).into()),
    }
}

impl AsFd for Folder {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_runc() {
        for good in ["a", "A_b+c-d.e", "0123", "-", &"x".repeat(255)] {
            assert!(check_id(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            ".",
            "..",
            ".cache",
            "a/b",
            "a b",
            "ä",
            "a\n",
            &"x".repeat(256),
        ] {
            assert!(check_id(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_name_is_reserved_once_and_removed_with_what_is_in_it() {
        let root = std::env::temp_dir().join(format!("bulkhead-store-{}", std::process::id()));
        let store = Store::at(Some(&root), false);
        let folder = store.reserve("one").unwrap();
        assert!(matches!(store.reserve("one"), Err(OciError::Exists(_))));
        std::fs::write(root.join("one/half"), "x").unwrap();
        assert!(folder.record().unwrap().is_none());
        let (names, _) = store.names().unwrap();
        assert_eq!(names, ["one"]);
        folder.remove().unwrap();
        assert!(matches!(store.find("one"), Err(OciError::Missing(_))));
        std::fs::remove_dir_all(root).unwrap();
    }
}
