//! Where a guest's own layer lies: in the guest's folder, or in a pool under a name of its own, so
//! that a rename of the guest moves nothing there. `guests/NAME/root/place.json` says which; without
//! it the layer is beside `image`.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::dirfd::{self, FileError, child_file, open_dir, read_limited};
use super::driver::{Driver, Object};
use super::pool::{DEFAULT_POOL, Filesystem};
use crate::kernel::filesystem::{Disk, Space};
use crate::model::{GuestName, Layout, Writable};

/// Name of the record.
pub(super) const RECORD: &std::ffi::CStr = c"place.json";

/// What `place.json` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Place {
    /// Its pool.
    pub(super) pool: String,
    /// What it is there.
    pub(super) driver: Driver,
    /// The pool's folder of roots.
    pub(super) folder: PathBuf,
    /// Its name in it: letters and digits.
    pub(super) id: String,
    /// Kind of filesystem, where it is one in a file.
    pub(super) filesystem: Filesystem,
}

impl Place {
    /// The thing itself.
    pub(super) fn object(&self) -> Object {
        let name = match self.driver {
            Driver::Image => format!("{}.img", self.id),
            Driver::Overlay | Driver::Btrfs => self.id.clone(),
        };
        Object {
            driver: self.driver,
            path: self.folder.join(name),
            filesystem: self.filesystem,
        }
    }

    /// The record in a root's folder; `None` where the layer lies in the folder itself.
    pub(super) fn read(root: BorrowedFd<'_>) -> io::Result<Option<Self>> {
        let file = match child_file(root, RECORD) {
            Ok(file) => file,
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        let text = read_limited(file, 1 << 16)?;
        let place: Self = serde_json::from_slice(&text).map_err(io::Error::from)?;
        if place.id.is_empty() || !place.id.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(io::Error::other("place.json has a name that is not ours"));
        }
        Ok(Some(place))
    }

    /// Writes the record.
    pub(super) fn write(&self, root: &OwnedFd) -> io::Result<()> {
        let text = serde_json::to_vec(self).map_err(io::Error::from)?;
        dirfd::write_whole(root, RECORD, &text, dirfd::Owner::root(0o600), true)
    }
}

/// The folder with `upper` and `work`, opened; a filesystem in a file is mounted as long as this
/// lives.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) folder: OwnedFd,
    /// Where it is, for messages.
    pub(super) shown: PathBuf,
    pub(super) disk: Option<Disk>,
}

/// Where a guest's own layer lies.
pub(super) fn object(layout: &Layout, name: &GuestName) -> Result<Object, FileError> {
    object_of(&super::root::folder(layout, name))
}

/// Where the layer of the root in this folder lies.
pub(super) fn object_of(path: &Path) -> Result<Object, FileError> {
    let root = open_dir(path)?;
    let place = Place::read(root.as_fd()).map_err(|e| FileError::new("read", path, e))?;
    Ok(place.map_or_else(|| Object::plain(path.to_owned()), |place| place.object()))
}

/// Opens a guest's own layer.
pub(super) fn open(layout: &Layout, name: &GuestName) -> Result<Opened, FileError> {
    object(layout, name)?.open()
}

/// What the launch is told of a guest's own layer.
pub(super) fn writable(layout: &Layout, name: &GuestName) -> Result<Writable, FileError> {
    Ok(object(layout, name)?.writable())
}

/// What a running guest's own layer has room for and how much of that is free: of a filesystem in a file
/// all of it, of a folder and of a subvolume what they are kept to (0 where that is not limited); `None`
/// where nothing is.
///
/// # Errors
/// The record of where it lies, or the filesystem, cannot be read.
pub fn space_in_use(layout: &Layout, name: &GuestName) -> Result<Option<Space>, FileError> {
    object(layout, name)?.space_in_use()
}

/// The pool that a guest's own layer lies in.
pub(super) fn pool_of(layout: &Layout, name: &GuestName) -> Result<String, FileError> {
    let path = super::root::folder(layout, name);
    of_root(&open_dir(&path)?, &path)
}

/// The same of a root's folder.
pub(super) fn of_root(root: &OwnedFd, shown: &Path) -> Result<String, FileError> {
    let place = Place::read(root.as_fd()).map_err(|e| FileError::new("read", shown, e))?;
    Ok(place.map_or_else(|| DEFAULT_POOL.into(), |place| place.pool))
}
