//! The driver `overlay`: a folder. It has no size of its own.

use std::io;
use std::os::fd::OwnedFd;

use super::dirfd::{self, FileError, Owner, cname, open_dir};
use super::driver::{Layers, Object, Quota, open_folder};
use super::place::Opened;
use super::remove::remove_tree;
use crate::kernel::filesystem::Space;
use crate::model::Writable;

pub(super) struct Folder;

impl Layers for Folder {
    fn make(&self, object: &Object, quota: Quota) -> io::Result<()> {
        self.resize(object, quota)?;
        let (parent, name) = parent_of(object)?;
        dirfd::make_dir(&parent, &name, Owner::root(0o700))?;
        Ok(())
    }

    fn open(&self, object: &Object) -> Result<Opened, FileError> {
        open_folder(object)
    }

    fn writable(&self, object: &Object) -> Writable {
        Writable::Folder {
            path: object.path.clone(),
        }
    }

    fn resize(&self, _object: &Object, quota: Quota) -> io::Result<()> {
        match (quota.size, quota.inodes) {
            (None, None) => Ok(()),
            _ => Err(io::Error::other(NO_SIZE)),
        }
    }

    fn space(&self, _object: &Object) -> io::Result<Option<Space>> {
        Ok(None)
    }

    fn copy(&self, _object: &Object, _to: &Object) -> io::Result<OwnedFd> {
        Err(io::Error::other("a folder is kept as layers"))
    }

    fn remove(&self, object: &Object) -> Result<(), FileError> {
        let (parent, name) =
            parent_of(object).map_err(|e| FileError::new("remove", &object.path, e))?;
        remove_tree(&parent, &name, &object.path)
    }
}

/// Why a folder is refused a size, and what to do.
pub(super) const NO_SIZE: &str = "a folder has no size of its own: put the guest into a pool that \
has (`bulkhead pool create sized --driver image`, then `--pool sized`), or let this pool put sized \
guests into files (`bulkhead pool set NAME --sized image`)";

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
