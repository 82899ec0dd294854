//! A folder `tmp-*` in which an image or a layer is made: locked while it is being made, removed
//! unless it was kept, renamed into its place when it is whole.

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{self, FlockOperation, RenameFlags};
use rustix::io::Errno;

use super::dirfd::{self, FileError, Owner, cname, open_dir};
use super::mend;
use super::remove::remove_tree;
use crate::kernel::fault;
use crate::model::Layout;

/// A folder in the making; removed when dropped unless it was kept.
#[derive(Debug)]
pub(super) struct Workshop {
    parent: OwnedFd,
    /// Where it is.
    pub(super) shown: PathBuf,
    name: CString,
    /// The folder, locked; a tool that inherits it shows that the work goes on.
    pub(super) lock: OwnedFd,
    kept: bool,
}

impl Workshop {
    /// Makes one in `folder`, with an empty `root` in it. `hint` becomes a part of its name.
    pub(super) fn open(folder: &Path, hint: &str) -> Result<Self, FileError> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("tmp-{hint:.12}-{}-{number}", std::process::id());
        let shown = folder.join(&name);
        let failed = |e: io::Error| FileError::new("create folder", &shown, e);
        let parent = open_dir(folder)?;
        let name = cname(name).map_err(failed)?;
        let lock =
            dirfd::make_dir(&parent, &name, Owner::root(0o700)).map_err(|e| failed(e.into()))?;
        let workshop = Self {
            parent,
            shown: shown.clone(),
            name,
            lock,
            kept: false,
        };
        fs::flock(&workshop.lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|e| failed(e.into()))?;
        dirfd::make_dir(&workshop.lock, c"root", Owner::root(0o755))
            .map_err(|e| failed(e.into()))?;
        Ok(workshop)
    }

    /// Its `root`.
    pub(super) fn root(&self) -> PathBuf {
        self.shown.join("root")
    }

    /// Writes a record beside its `root`.
    pub(super) fn record(&self, name: &str, data: &[u8]) -> Result<(), FileError> {
        let failed = |e: io::Error| FileError::new("write", &self.shown.join(name), e);
        let name = cname(name).map_err(failed)?;
        dirfd::write_whole(&self.lock, &name, data, Owner::root(0o600), false).map_err(failed)
    }

    /// Gives the finished folder its name for good. One of the same content that is there already
    /// stays, and this one goes; but a damaged one makes way.
    pub(super) fn keep(mut self, layout: &Layout, digest: &str) -> Result<(), FileError> {
        let failed = |verb, e: io::Error| FileError::new(verb, &self.shown, e);
        fs::syncfs(&self.lock).map_err(|e| failed("write to disk", e.into()))?;
        let name = cname(digest).map_err(|e| failed("name", e))?;
        match fs::renameat_with(
            &self.parent,
            &*self.name,
            &self.parent,
            &*name,
            RenameFlags::NOREPLACE,
        ) {
            Ok(()) => self.kept = true,
            Err(Errno::EXIST) => {
                let folder = self.shown.parent().unwrap_or(&self.shown);
                let replaces = mend::is_to_replace((&self.parent, folder), &name, &self.lock);
                if !replaces.map_err(|e| failed("look at what is there beside", e))? {
                    return Ok(());
                }
                // What has come under this one's name goes with it, unless guests run over it.
                let used = mend::exchange(layout, &self.parent, &mut self.name, &name);
                self.kept = used.map_err(|e| failed("put in the place of a damaged one", e))?;
                fault::point().map_err(|e| failed("go on with", e.errno.into()))?;
            }
            Err(e) => return Err(failed("rename", e.into())),
        }
        fs::fsync(&self.parent).map_err(|e| failed("write to disk", e.into()))
    }
}

impl Drop for Workshop {
    fn drop(&mut self) {
        if !self.kept {
            // What cannot be removed now is listed by `leftovers`.
            remove_tree(&self.parent, &self.name, &self.shown).ok();
        }
    }
}
