//! The driver `btrfs`: a subvolume, kept to its size by a quota group. The pool is a folder on btrfs,
//! or a btrfs in a file of ours, which is mounted when it is first needed.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};

use super::dirfd::{FileError, child_dir, open_dir};
use super::driver::{Layers, Object, Quota, open_folder};
use super::driver_folder::parent_of;
use super::place::Opened;
use super::remove::remove_tree;
use super::spare_room;
use crate::kernel::filesystem::{Disk, Space};
use crate::kernel::{KernelError, btrfs, mount};
use crate::model::Writable;

pub(super) struct Subvolume;

impl Layers for Subvolume {
    fn make(&self, object: &Object, quota: Quota) -> io::Result<()> {
        ready(object)?;
        let (parent, name) = parent_of(object)?;
        btrfs::create(parent.as_fd(), &name).map_err(io::Error::other)?;
        let made = child_dir(&parent, &name)?;
        rustix::fs::fchmod(&made, Mode::RWXU)?;
        keep_to(&made, quota)
    }

    fn open(&self, object: &Object) -> Result<Opened, FileError> {
        ready(object).map_err(|e| FileError::new("mount", &object.path, e))?;
        open_folder(object)
    }

    fn writable(&self, object: &Object) -> Writable {
        Writable::Folder {
            path: object.path.clone(),
        }
    }

    fn resize(&self, object: &Object, quota: Quota) -> io::Result<()> {
        ready(object)?;
        keep_to(&open_dir(&object.path).map_err(|e| e.source)?, quota)
    }

    fn kept_to(&self, object: &Object) -> io::Result<Quota> {
        ready(object)?;
        let subvolume = open_dir(&object.path).map_err(|e| e.source)?;
        let size = btrfs::limited(subvolume.as_fd()).map_err(io::Error::other)?;
        Ok(Quota { size, inodes: None })
    }

    fn space_in_use(&self, object: &Object) -> io::Result<Option<Space>> {
        let subvolume = open_dir(&object.path).map_err(|e| e.source)?;
        let counter = btrfs::Counter::of(subvolume.as_fd()).map_err(io::Error::other)?;
        Ok(counter.read().map(|counted| Space {
            size: counted.limit,
            free: counted.limit.saturating_sub(counted.used),
            ..Space::default()
        }))
    }

    fn widen(&self, _object: &Object, folder: &OwnedFd, sold: Quota) -> io::Result<()> {
        // What it holds is known as of some seconds ago, so nobody knows whether it is full.
        let size = sold.size.map(|size| size.saturating_add(spare_room::BYTES));
        match size.map_or(Ok(()), |_| btrfs::limit(folder.as_fd(), size)) {
            // The pool has no room to give; whether it needs any is seen when it is mounted.
            Err(error) if error.is_disk_full() => Ok(()),
            done => done.map_err(io::Error::other),
        }
    }

    fn narrow(&self, _object: &Object, folder: &OwnedFd, sold: Quota) -> io::Result<()> {
        sold.size.map_or(Ok(()), |_| keep_to(folder, sold))
    }

    fn copy(&self, object: &Object, to: &Object) -> io::Result<OwnedFd> {
        ready(object)?;
        let source = open_dir(&object.path).map_err(|e| e.source)?;
        let (parent, name) = parent_of(to)?;
        // What is on its way to the disk belongs to it.
        rustix::fs::syncfs(&source)?;
        btrfs::snapshot(parent.as_fd(), &name, source.as_fd()).map_err(io::Error::other)?;
        let copy = child_dir(&parent, &name)?;
        rustix::fs::flock(&copy, FlockOperation::NonBlockingLockExclusive)?;
        Ok(copy)
    }

    fn remove(&self, object: &Object) -> Result<(), FileError> {
        let failed = |e: io::Error| FileError::new("remove", &object.path, e);
        ready(object).map_err(failed)?;
        let (parent, name) = parent_of(object).map_err(failed)?;
        if !object.path.exists() {
            return Ok(());
        }
        match btrfs::remove(parent.as_fd(), &name) {
            Ok(()) => Ok(()),
            // A guest may have made subvolumes in its own, which go one by one.
            Err(_) => remove_tree(&parent, &name, &object.path),
        }
    }
}

fn keep_to(subvolume: &OwnedFd, quota: Quota) -> io::Result<()> {
    if quota.inodes.is_some() {
        return Err(io::Error::other(
            "btrfs has no limit of files: leave disk.inodes out",
        ));
    }
    if quota.size.is_none() {
        // Nothing to take away where nothing is counted.
        let _none = btrfs::limit(subvolume.as_fd(), None);
        return Ok(());
    }
    btrfs::limit(subvolume.as_fd(), quota.size).map_err(io::Error::other)
}

/// The file that holds a pool of ours whose folder is `folder`.
pub(super) fn file_of(folder: &Path) -> PathBuf {
    folder.with_extension("btrfs")
}

/// Mounts the pool's own file, if it has one and that is not mounted yet.
fn ready(object: &Object) -> io::Result<()> {
    match object.path.parent() {
        Some(folder) => mount_pool(folder),
        None => Ok(()),
    }
}

/// The same for a pool's folder.
pub(super) fn mount_pool(folder: &Path) -> io::Result<()> {
    let opened = open_dir(folder).map_err(|e| e.source)?;
    let file = file_of(folder);
    if btrfs::is_btrfs(opened.as_fd()) && mount::is_mount_point(folder)? || !file.exists() {
        return Ok(());
    }
    // Two commands may want it at once.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let lock = rustix::fs::open(&file, flags, Mode::empty())?;
    rustix::fs::flock(&lock, FlockOperation::LockExclusive)?;
    if mount::is_mount_point(folder)? {
        return Ok(());
    }
    let disk = Disk::open(&file, "btrfs").map_err(io::Error::other)?;
    let what = folder.display().to_string();
    mount::attach(disk.mount.as_fd(), opened.as_fd(), &what).map_err(io::Error::other)
}

/// Takes the pool's own file off its folder again.
pub(super) fn unmount_pool(folder: &Path) -> Result<(), KernelError> {
    let mounted = mount::is_mount_point(folder).unwrap_or(false);
    if file_of(folder).exists() && mounted {
        return mount::unmount_path(folder);
    }
    Ok(())
}
