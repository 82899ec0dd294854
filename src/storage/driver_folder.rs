//! The driver `overlay`: a folder. What keeps it to a size is a project quota of the filesystem it
//! lies on, where there are any: `upper` and `work` belong to a project of the guest's own, and so
//! does whatever is made in them.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use super::dirfd::{self, FileError, Owner, child_dir, cname, open_dir};
use super::driver::{Layers, Object, Quota, open_folder};
use super::place::Opened;
use super::remove::remove_tree;
use super::spare_room;
use crate::kernel::filesystem::Space;
use crate::kernel::{quota, random};
use crate::model::Writable;

/// Projects of guests are of these numbers, which nobody gives by hand.
const PROJECTS: std::ops::Range<u32> = 1 << 30..1 << 31;

pub(super) struct Folder;

impl Layers for Folder {
    fn make(&self, object: &Object, _quota: Quota) -> io::Result<()> {
        let (parent, name) = parent_of(object)?;
        dirfd::make_dir(&parent, &name, Owner::root(0o700))?;
        Ok(())
    }

    fn begin(&self, _object: &Object, folder: &OwnedFd, quota: Quota) -> io::Result<()> {
        sell(folder, quota)
    }

    fn open(&self, object: &Object) -> Result<Opened, FileError> {
        open_folder(object)
    }

    fn writable(&self, object: &Object) -> Writable {
        Writable::Folder {
            path: object.path.clone(),
        }
    }

    fn resize(&self, object: &Object, quota: Quota) -> io::Result<()> {
        let folder = open_dir(&object.path).map_err(|e| e.source)?;
        match project(&folder) {
            quota::NONE if quota == Quota::default() => Ok(()),
            quota::NONE => Err(io::Error::other(no_size(folder.as_fd()))),
            project => limit(&folder, project, quota),
        }
    }

    fn kept_to(&self, object: &Object) -> io::Result<Quota> {
        let folder = open_dir(&object.path).map_err(|e| e.source)?;
        let project = project(&folder);
        if project == quota::NONE {
            return Ok(Quota::default());
        }
        let (size, files) = quota::limits(folder.as_fd(), project).map_err(io::Error::other)?;
        let inodes = files.map(|files| u32::try_from(files).unwrap_or(u32::MAX));
        Ok(Quota { size, inodes })
    }

    fn space_in_use(&self, object: &Object) -> io::Result<Option<Space>> {
        let folder = open_dir(&object.path).map_err(|e| e.source)?;
        let project = project(&folder);
        if project == quota::NONE {
            return Ok(None);
        }
        let (size, files) = quota::limits(folder.as_fd(), project).map_err(io::Error::other)?;
        if size.is_none() && files.is_none() {
            return Ok(None);
        }
        let held = quota::held(folder.as_fd(), project).map_err(io::Error::other)?;
        let (size, files) = (size.unwrap_or(0), files.unwrap_or(0));
        Ok(Some(Space {
            size,
            free: size.saturating_sub(held.bytes),
            files,
            files_free: files.saturating_sub(held.files),
        }))
    }

    fn widen(&self, _object: &Object, folder: &OwnedFd, sold: Quota) -> io::Result<()> {
        if sold == Quota::default() {
            return Ok(());
        }
        let project = project(folder);
        if project == quota::NONE {
            return Ok(());
        }
        let held = quota::held(folder.as_fd(), project).map_err(io::Error::other)?;
        let (bytes, files) = (held.bytes + spare_room::BYTES, u64::from(spare_room::FILES));
        let full = sold.size.is_some_and(|size| bytes > size)
            || (sold.inodes).is_some_and(|inodes| held.files + files > u64::from(inodes));
        if !full {
            return Ok(());
        }
        let wider = Quota {
            size: sold.size.map(|size| size.saturating_add(spare_room::BYTES)),
            inodes: (sold.inodes).map(|inodes| inodes.saturating_add(spare_room::FILES)),
        };
        limit(folder, project, wider)
    }

    fn narrow(&self, _object: &Object, folder: &OwnedFd, sold: Quota) -> io::Result<()> {
        match project(folder) {
            quota::NONE => Ok(()),
            _ if sold == Quota::default() => Ok(()),
            project => limit(folder, project, sold),
        }
    }

    fn copy(&self, _object: &Object, _to: &Object) -> io::Result<OwnedFd> {
        Err(io::Error::other("a folder is kept as layers"))
    }

    fn remove(&self, object: &Object) -> Result<(), FileError> {
        let (parent, name) =
            parent_of(object).map_err(|e| FileError::new("remove", &object.path, e))?;
        remove(&parent, &name, &object.path)
    }
}

/// Whether folders here can be kept to a size.
pub(super) fn is_sized(folder: &Path) -> bool {
    // What is not there yet lies where the nearest folder above it does.
    let above = folder.ancestors().find_map(|path| open_dir(path).ok());
    above.is_some_and(|folder| quota::is_enforced(folder.as_fd()))
}

/// Whether a layer has a project, so that it can have a quota.
pub(super) fn is_sold(folder: &OwnedFd) -> bool {
    project(folder) != quota::NONE
}

/// Gives a layer that nothing was written into a project of its own, with this quota. Where there
/// are no project quotas nothing is done, and a quota is refused.
pub(super) fn sell(folder: &OwnedFd, quota: Quota) -> io::Result<()> {
    if !quota::is_enforced(folder.as_fd()) {
        return match quota == Quota::default() {
            true => Ok(()),
            false => Err(io::Error::other(no_size(folder.as_fd()))),
        };
    }
    let project = free_project(folder)?;
    limit(folder, project, quota)?;
    for part in [c"upper", c"work"] {
        quota::join(child_dir(folder, part)?.as_fd(), project).map_err(io::Error::other)?;
    }
    Ok(())
}

/// Has `folder` belong to whoever `other` belongs to, so that the two can change places.
pub(super) fn belong_as(folder: &OwnedFd, other: &OwnedFd) -> io::Result<()> {
    match quota::project_of(other.as_fd()) {
        quota::NONE => Ok(()),
        project => quota::join(folder.as_fd(), project).map_err(io::Error::other),
    }
}

/// Removes a layer's folder, and the limits of its project.
pub(super) fn remove(
    parent: &OwnedFd,
    name: &std::ffi::CString,
    shown: &Path,
) -> Result<(), FileError> {
    let sold = child_dir(parent, name).map_or(quota::NONE, |folder| project(&folder));
    remove_tree(parent, name, shown)?;
    if PROJECTS.contains(&sold) {
        // Nothing counts on them any more: whoever is given this number next sets its own.
        let _same = quota::limit(parent.as_fd(), sold, None, None);
    }
    Ok(())
}

fn project(folder: &OwnedFd) -> u32 {
    child_dir(folder, c"upper").map_or(quota::NONE, |upper| quota::project_of(upper.as_fd()))
}

/// A number that nothing on this filesystem has. Layers that were set aside keep theirs.
fn free_project(folder: &OwnedFd) -> io::Result<u32> {
    loop {
        let mut number = [0; 4];
        random::fill(&mut number).map_err(io::Error::other)?;
        let number = PROJECTS.start | (u32::from_ne_bytes(number) & (PROJECTS.start - 1));
        let held = quota::held(folder.as_fd(), number).map_err(io::Error::other)?;
        if held == quota::Held::default() {
            return Ok(number);
        }
    }
}

fn limit(folder: &OwnedFd, project: u32, quota: Quota) -> io::Result<()> {
    let files = quota.inodes.map(u64::from);
    quota::limit(folder.as_fd(), project, quota.size, files).map_err(io::Error::other)
}

/// Why a folder that is there is refused a size.
pub(super) fn no_size(folder: std::os::fd::BorrowedFd<'_>) -> &'static str {
    match quota::is_enforced(folder) {
        true => {
            "its folder was made before there were project quotas here: `bulkhead clone` it, and \
            give the clone the size"
        }
        false => NO_SIZE,
    }
}

/// Why a folder is refused a size, and what to do.
pub(super) const NO_SIZE: &str = "a folder has no size of its own: put the guest into a pool that \
has (`bulkhead pool create sized --driver image`, then `--pool sized`), let this pool put sized \
guests into files (`bulkhead pool set NAME --sized image`), or mount its filesystem, if it is ext4 or \
xfs, with the option prjquota";

/// The folder it lies in, and its name there.
pub(super) fn parent_of(object: &Object) -> io::Result<(std::os::fd::OwnedFd, std::ffi::CString)> {
    let (Some(parent), Some(name)) = (object.path.parent(), object.path.file_name()) else {
        return Err(io::Error::other("it has no folder"));
    };
    Ok((
        open_dir(parent).map_err(|e| e.source)?,
        cname(name.as_encoded_bytes())?,
    ))
}
