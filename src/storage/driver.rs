//! What a guest's own layer can be: a folder, a subvolume of btrfs, a filesystem in a file. All three
//! hold `upper` and `work` side by side and lie over the same shared images, so that only making,
//! sizing, copying and removing differ; those are in the file of each driver.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::dirfd::{self, FileError, Owner, open_dir};
use super::place::Opened;
use super::pool::Filesystem;
use super::{driver_btrfs, driver_folder, driver_image};
use crate::kernel::filesystem::Space;
use crate::model::Writable;

/// Kinds of pools.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// A folder on any filesystem.
    Overlay,
    /// A subvolume with a quota.
    Btrfs,
    /// A filesystem in a sparse file.
    Image,
}

/// What a guest may write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// Bytes; `None` for no limit.
    pub size: Option<u64>,
    /// Files.
    pub inodes: Option<u32>,
}

/// One guest's layer as its driver keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Object {
    pub(super) driver: Driver,
    pub(super) path: PathBuf,
    pub(super) filesystem: Filesystem,
}

/// What each kind does in its own way.
pub(super) trait Layers {
    /// Makes an empty one with this quota; `upper` and `work` are made by the caller.
    fn make(&self, object: &Object, quota: Quota) -> io::Result<()>;
    /// What is left to do when `upper` and `work` are there.
    fn begin(&self, _object: &Object, _folder: &OwnedFd, _quota: Quota) -> io::Result<()> {
        Ok(())
    }
    /// Opens it.
    fn open(&self, object: &Object) -> Result<Opened, FileError>;
    /// What the launch is told.
    fn writable(&self, object: &Object) -> Writable;
    /// Changes the quota, in use or not.
    fn resize(&self, object: &Object, quota: Quota) -> io::Result<()>;
    /// What it is kept to. Of a filesystem in a file that is what df(1) shows.
    fn kept_to(&self, object: &Object) -> io::Result<Quota>;
    /// What it has room for and how much of that is free, while it is in use; `None` where it is kept to
    /// nothing, or nobody has it in use who must have. A size or a number of files without a limit is 0.
    fn space_in_use(&self, object: &Object) -> io::Result<Option<Space>>;
    /// Gives one that is not in use more room than `sold`, for a while and for the host, if it is full.
    fn widen(&self, object: &Object, folder: &OwnedFd, sold: Quota) -> io::Result<()>;
    /// Takes that room back.
    fn narrow(&self, object: &Object, folder: &OwnedFd, sold: Quota) -> io::Result<()>;
    /// Makes `to` a copy, in use or not, sharing what the filesystem can share.
    fn copy(&self, object: &Object, to: &Object) -> io::Result<OwnedFd>;
    /// Removes it with all that is in it; none there is success.
    fn remove(&self, object: &Object) -> Result<(), FileError>;
}

impl Driver {
    fn layers(self) -> &'static dyn Layers {
        match self {
            Self::Overlay => &driver_folder::Folder,
            Self::Btrfs => &driver_btrfs::Subvolume,
            Self::Image => &driver_image::ImageFile,
        }
    }
}

impl Object {
    /// A folder.
    pub(super) fn plain(path: PathBuf) -> Self {
        Self {
            driver: Driver::Overlay,
            path,
            filesystem: Filesystem::Ext4,
        }
    }

    /// Makes it, with an empty layer inside. What fails leaves nothing.
    pub(super) fn make(&self, quota: Quota, top: Owner) -> Result<(), FileError> {
        let failed = |e: io::Error| FileError::new("make", &self.path, e);
        let layers = self.driver.layers();
        let filled = layers.make(self, quota).map_err(failed).and_then(|()| {
            let opened = self.open()?;
            hollow(&opened.folder, top)
                .and_then(|()| layers.begin(self, &opened.folder, quota))
                .map_err(failed)
        });
        if filled.is_err() {
            // The first error is the one to report.
            let _left = self.remove();
        }
        filled
    }

    pub(super) fn open(&self) -> Result<Opened, FileError> {
        self.driver.layers().open(self)
    }

    pub(super) fn writable(&self) -> Writable {
        self.driver.layers().writable(self)
    }

    pub(super) fn resize(&self, quota: Quota) -> Result<(), FileError> {
        self.driver
            .layers()
            .resize(self, quota)
            .map_err(|e| FileError::new("resize", &self.path, e))
    }

    pub(super) fn kept_to(&self) -> Result<Quota, FileError> {
        let kept = self.driver.layers().kept_to(self);
        kept.map_err(|e| FileError::new("look at", &self.path, e))
    }

    pub(super) fn space_in_use(&self) -> Result<Option<Space>, FileError> {
        let space = self.driver.layers().space_in_use(self);
        space.map_err(|e| FileError::new("look at", &self.path, e))
    }

    /// Makes room for the host in one that is full; `narrow` takes it back.
    pub(super) fn widen(&self, folder: &OwnedFd, sold: Quota) -> Result<(), FileError> {
        let done = self.driver.layers().widen(self, folder, sold);
        done.map_err(|e| FileError::new("make room in", &self.path, e))
    }

    pub(super) fn narrow(&self, folder: &OwnedFd, sold: Quota) -> Result<(), FileError> {
        let done = self.driver.layers().narrow(self, folder, sold);
        done.map_err(|e| FileError::new("take room back in", &self.path, e))
    }

    /// Makes `to`, which is not there, a copy. What fails leaves nothing. As long as what comes back
    /// lives, `to` is nobody's leftover, whether something leads to it or not.
    pub(super) fn copy_to(&self, to: &Self) -> Result<OwnedFd, FileError> {
        let copied = self.driver.layers().copy(self, to);
        copied.map_err(|e| {
            // The error that matters is this one.
            let _left = to.remove();
            FileError::new("copy", &self.path, e)
        })
    }

    pub(super) fn remove(&self) -> Result<(), FileError> {
        self.driver.layers().remove(self)
    }
}

/// Makes an empty layer in a folder.
pub(super) fn hollow(folder: &OwnedFd, top: Owner) -> io::Result<()> {
    dirfd::make_dir(folder, c"upper", top)?;
    dirfd::make_dir(folder, c"work", Owner::root(0o700))?;
    Ok(())
}

/// A folder opened as it is: what two of the drivers do.
pub(super) fn open_folder(object: &Object) -> Result<Opened, FileError> {
    Ok(Opened {
        folder: open_dir(&object.path)?,
        shown: object.path.clone(),
        disk: None,
    })
}
