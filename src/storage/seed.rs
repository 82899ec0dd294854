//! Writes files into a root that is being built: paths are resolved inside that root
//! (`openat2(RESOLVE_IN_ROOT)`), so that an absolute link of its own is followed there and never on
//! the host. For roots that a guest has run in, see `merged`.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::dirfd::{self, FileError, Owner, cname, retry};
use super::remove::remove_tree;

/// Everything below a path stays inside the root, and `/proc` links lead nowhere.
const INSIDE: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);

/// A root under construction.
#[derive(Debug)]
pub(super) struct Seed {
    root: OwnedFd,
    shown: PathBuf,
}

impl Seed {
    /// The root at `path`, a folder of the program's own.
    pub(super) fn open(path: &Path) -> Result<Self, FileError> {
        Ok(Self {
            root: dirfd::open_dir(path)?,
            shown: path.to_owned(),
        })
    }

    /// The root's descriptor.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    fn failed(&self, verb: &'static str, path: &str, source: impl Into<io::Error>) -> FileError {
        FileError::new(verb, &self.shown.join(path.trim_start_matches('/')), source)
    }

    /// Opens what `path` leads to inside, whatever it is.
    pub(super) fn resolve(&self, path: &str) -> rustix::io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        retry(|| fs::openat2(&self.root, path, flags, Mode::empty(), INSIDE))
    }

    /// What `path` leads to inside; `None` if nothing.
    pub(super) fn stat(&self, path: &str) -> Option<Stat> {
        self.resolve(path).and_then(fs::fstat).ok()
    }

    /// Makes the folder `path` and its parents (those mode 0755); one that exists gets the mode.
    pub(super) fn dir(&self, path: &str, mode: u32) -> Result<(), FileError> {
        let fd = self.ensure_dir(path)?;
        Owner::root(mode)
            .apply(fd)
            .map_err(|e| self.failed("set mode of", path, e))
    }

    fn ensure_dir(&self, path: &str) -> Result<OwnedFd, FileError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = |p: &str| retry(|| fs::openat2(&self.root, p, flags, Mode::empty(), INSIDE));
        let path = path.trim_matches('/');
        let mut dir = open(".").map_err(|e| self.failed("open folder", "", e))?;
        let mut end = 0;
        for name in path.split('/').filter(|n| !n.is_empty()) {
            end += name.len() + 1;
            let prefix = &path[..(end - 1).min(path.len())];
            dir = match open(prefix) {
                Err(Errno::NOENT) => {
                    let name = cname(name).map_err(|e| self.failed("make folder", path, e))?;
                    dirfd::make_dir(&dir, &name, Owner::root(0o755))
                        .map_err(|e| self.failed("make folder", prefix, e))?
                }
                other => other.map_err(|e| self.failed("open folder", prefix, e))?,
            };
        }
        Ok(dir)
    }

    /// The folder that `path` lies in, made if missing, and the last name.
    fn place(&self, path: &str) -> Result<(OwnedFd, CString), FileError> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let name = cname(name).map_err(|e| self.failed("use the name", path, e))?;
        Ok((self.ensure_dir(parent)?, name))
    }

    /// Writes the file `path`, replacing what is there.
    pub(super) fn file(&self, path: &str, mode: u32, data: &[u8]) -> Result<(), FileError> {
        self.owned_file(path, Owner::root(mode), data)
    }

    /// Writes the file `path` with an owner, replacing what is there.
    pub(super) fn owned_file(
        &self,
        path: &str,
        owner: Owner,
        data: &[u8],
    ) -> Result<(), FileError> {
        let (dir, name) = self.place(path)?;
        dirfd::write_whole(&dir, &name, data, owner, false)
            .map_err(|e| self.failed("write", path, e))
    }

    /// Makes the symbolic link `path` to `target`, replacing a file or link there.
    pub(super) fn link(&self, path: &str, target: &str) -> Result<(), FileError> {
        let (dir, name) = self.place(path)?;
        remove_file(&dir, &name).map_err(|e| self.failed("replace", path, e))?;
        fs::symlinkat(target, &dir, &*name).map_err(|e| self.failed("make link", path, e))
    }

    /// Removes the file or link `path`; nothing there is success.
    pub(super) fn remove(&self, path: &str) -> Result<(), FileError> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let parent = if parent.is_empty() { "." } else { parent };
        match self.resolve(parent) {
            Ok(dir) => cname(name)
                .and_then(|name| Ok(remove_file(&dir, &name)?))
                .map_err(|e| self.failed("remove", path, e)),
            Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(self.failed("open", path, e)),
        }
    }

    /// Removes everything in the folder `path`, which must be no link.
    pub(super) fn clear(&self, path: &str) -> Result<(), FileError> {
        let shown = self.shown.join(path);
        let failed = |e: io::Error| FileError::new("open folder", &shown, e);
        let dir = dirfd::child_dir(&self.root, &cname(path).map_err(failed)?)
            .map_err(|e| failed(e.into()))?;
        for name in dirfd::names(&dir).map_err(|e| failed(e.into()))? {
            remove_tree(&dir, &name, &shown)?;
        }
        Ok(())
    }

    /// Names in the folder `path`, none if there is no such folder.
    pub(super) fn names(&self, path: &str) -> Vec<String> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let path = if path.is_empty() { "." } else { path };
        retry(|| fs::openat2(&self.root, path, flags, Mode::empty(), INSIDE))
            .and_then(dirfd::names)
            .unwrap_or_default()
            .into_iter()
            .filter_map(|n| n.into_string().ok())
            .collect()
    }

    /// Copies the host's `source` to the same path: a file with its mode, a link as it is, a folder
    /// with what is in it. Nothing there is success, and what not everybody on the host may read is
    /// left out. For the host's own configuration only.
    pub(super) fn copy_host(&self, source: &str) -> Result<(), FileError> {
        let host = Path::new("/").join(source);
        let failed = |verb, e: io::Error| FileError::new(verb, &host, e);
        let Ok(meta) = std::fs::symlink_metadata(&host) else {
            return Ok(());
        };
        if meta.is_symlink() {
            let target = std::fs::read_link(&host).map_err(|e| failed("read link", e))?;
            let (dir, name) = self.place(source)?;
            remove_file(&dir, &name).map_err(|e| self.failed("replace", source, e))?;
            return fs::symlinkat(target.as_os_str().as_bytes(), &dir, &*name)
                .map_err(|e| self.failed("make link", source, e));
        }
        let mode = std::os::unix::fs::PermissionsExt::mode(&meta.permissions()) & 0o755;
        if mode & 0o004 == 0 {
            return Ok(());
        }
        if meta.is_dir() {
            self.dir(source, mode)?;
            let entries = std::fs::read_dir(&host).map_err(|e| failed("read folder", e))?;
            for entry in entries {
                let entry = entry.map_err(|e| failed("read folder", e))?;
                if let Some(name) = entry.file_name().to_str() {
                    self.copy_host(&format!("{source}/{name}"))?;
                }
            }
        } else if meta.is_file() {
            let data = std::fs::read(&host).map_err(|e| failed("read", e))?;
            self.file(source, mode, &data)?;
        }
        Ok(())
    }
}

fn remove_file(dir: &OwnedFd, name: &std::ffi::CStr) -> rustix::io::Result<()> {
    match fs::unlinkat(dir, name, AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A folder of its own for one test, removed when dropped.
    #[derive(Debug)]
    pub(in super::super) struct TempDir(PathBuf);

    impl TempDir {
        pub(in super::super) fn new(what: &str) -> Self {
            use std::sync::atomic::{AtomicU32, Ordering};
            static NEXT: AtomicU32 = AtomicU32::new(0);
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let name = format!("bulkhead-{what}-{}-{number}", std::process::id());
            let path = std::env::temp_dir().join(name);
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        pub(in super::super) fn path(&self) -> &Path {
            &self.0
        }
    }

    impl Drop for TempDir {
        fn drop(&mut self) {
            let parent = dirfd::open_dir(self.0.parent().unwrap()).unwrap();
            let name = cname(self.0.file_name().unwrap().as_bytes()).unwrap();
            super::super::remove::remove_tree(parent, &name, &self.0).unwrap();
        }
    }

    #[test]
    fn absolute_links_stay_inside() {
        let temp = TempDir::new("seed");
        let root = temp.path().join("root");
        std::fs::create_dir(&root).unwrap();
        let outside = temp.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        let seed = Seed::open(&root).unwrap();
        seed.dir("run", 0o755).unwrap();
        seed.link("var/run", "/run").unwrap();
        seed.link("escape", "../../outside").unwrap();
        let me = rustix::process::geteuid().as_raw();
        let gid = rustix::process::getegid().as_raw();
        let owner = Owner {
            mode: 0o644,
            uid: me,
            gid,
        };
        seed.owned_file("var/run/x", owner, b"x").unwrap();
        assert_eq!(std::fs::read(root.join("run/x")).unwrap(), b"x");
        assert!(seed.stat("/var/run/x").is_some());
        // `..` above the root is the root: the link leads to root/outside, which is not there.
        assert!(seed.owned_file("escape/y", owner, b"y").is_err());
        assert_eq!(std::fs::read_dir(outside).unwrap().count(), 0);
        seed.remove("var/run/x").unwrap();
        assert!(seed.stat("var/run/x").is_none());
    }
}
