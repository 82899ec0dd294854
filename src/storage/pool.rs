//! Pools: where guests' own layers lie, and what keeps them to a size. `pools/NAME.json` is a pool's
//! record; `default` is always there, and without a record it is a folder in each guest's own.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::dirfd::{FileError, open_dir};
use super::driver::{Driver, Quota};
use super::place::Place;
use super::template::meant;
use super::{driver_btrfs, driver_folder};
use crate::kernel::{file, filesystem, random};
use crate::model::Layout;

/// The pool that is always there.
pub const DEFAULT_POOL: &str = "default";

/// Filesystems that a guest's file may hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Filesystem {
    /// The fourth extended filesystem.
    #[default]
    Ext4,
    /// XFS.
    Xfs,
    /// Btrfs.
    Btrfs,
}

impl Filesystem {
    /// As mount(8) calls it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }

    /// Smallest file its tool accepts, bytes.
    pub(super) const fn least(self) -> u64 {
        match self {
            Self::Ext4 => 16 << 20,
            Self::Xfs => 300 << 20,
            Self::Btrfs => 128 << 20,
        }
    }
}

/// A pool: what its record says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// How its guests' layers are kept.
    pub driver: Driver,
    /// Folder they lie in; `None` for each in its guest's own.
    pub source: Option<PathBuf>,
    /// For filesystems in files: which.
    #[serde(default)]
    pub filesystem: Filesystem,
    /// Where a guest goes that is sold a size the driver cannot keep it to; `None` refuses it.
    #[serde(default)]
    pub sized: Option<Driver>,
}

/// A pool that cannot be made, read or removed.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// There is none of that name.
    #[error("there is no pool {name:?}{}; there are: {}", meant(near.as_deref()), known.join(", "))]
    Unknown {
        /// Name asked for.
        name: String,
        /// The nearest.
        near: Option<String>,
        /// All.
        known: Vec<String>,
    },
    /// It is there already.
    #[error("there is a pool {0:?} already: choose another name, or delete it first")]
    Exists(String),
    /// Guests lie in it.
    #[error("pool {name:?} is in use by {}: delete them first", guests.join(", "))]
    InUse {
        /// Pool.
        name: String,
        /// Guests.
        guests: Vec<String>,
    },
    /// It cannot be as asked.
    #[error("pool {name:?}: {why}")]
    Refused {
        /// Pool.
        name: String,
        /// Why, and what to do.
        why: String,
    },
    /// Its record cannot be understood.
    #[error("{} is damaged: {why}; restore it from a backup", path.display())]
    Damaged {
        /// The record.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// A step on a file failed.
    #[error(transparent)]
    File(#[from] FileError),
}

impl Pool {
    /// The pool that is there when nobody made one: a folder in each guest's own.
    #[must_use]
    pub fn usual() -> Self {
        Self {
            name: DEFAULT_POOL.into(),
            driver: Driver::Overlay,
            source: None,
            filesystem: Filesystem::default(),
            sized: None,
        }
    }

    /// The pool of this name.
    ///
    /// # Errors
    /// There is none, or its record is damaged.
    pub fn load(layout: &Layout, name: &str) -> Result<Self, PoolError> {
        let all = pools(layout)?;
        let known: Vec<String> = all.iter().map(|pool| pool.name.clone()).collect();
        all.into_iter()
            .find(|pool| pool.name == name)
            .ok_or_else(|| {
                let near = crate::model::nearest(name, known.iter().map(String::as_str));
                PoolError::Unknown {
                    name: name.into(),
                    near: near.map(str::to_owned),
                    known,
                }
            })
    }

    /// The folder its guests' layers lie in.
    #[must_use]
    pub fn roots(&self, layout: &Layout) -> PathBuf {
        match &self.source {
            Some(source) => source.join("bulkhead-roots"),
            None => layout.pools().join(&self.name),
        }
    }

    /// The folder they lie in, or those of the guests do.
    fn folder(&self, layout: &Layout) -> PathBuf {
        match (self.name.as_str(), &self.source) {
            (DEFAULT_POOL, None) => layout.guests(),
            _ => self.roots(layout),
        }
    }

    /// Which driver keeps a guest to this quota.
    ///
    /// # Errors
    /// None of the pool's does; the message says what to do.
    pub fn driver_for(&self, layout: &Layout, quota: Quota) -> Result<Driver, PoolError> {
        let driver = match (self.driver, self.sized) {
            (Driver::Overlay, sized) if quota != Quota::default() => {
                if driver_folder::is_sized(&self.folder(layout)) {
                    return Ok(Driver::Overlay);
                }
                sized.ok_or_else(|| {
                    self.refused(driver_folder::NO_SIZE.replace("NAME", &self.name))
                })?
            }
            (driver, _) => driver,
        };
        let counts = driver == Driver::Image && self.filesystem == Filesystem::Ext4;
        if quota.inodes.is_some() && !counts {
            return Err(self.refused(
                "only ext4 in a file and folders under project quotas have a limit of files: leave \
                 disk.inodes out, or take a pool of the driver image with ext4",
            ));
        }
        Ok(driver)
    }

    pub(super) fn refused(&self, why: impl Into<String>) -> PoolError {
        PoolError::Refused {
            name: self.name.clone(),
            why: why.into(),
        }
    }

    /// Where a new guest's layer goes; `None` for its own folder.
    pub(super) fn place(&self, layout: &Layout, quota: Quota) -> Result<Option<Place>, PoolError> {
        let driver = self.driver_for(layout, quota)?;
        if driver == Driver::Overlay && self.source.is_none() {
            return Ok(None);
        }
        let folder = self.roots(layout);
        let id = random::hex(8).map_err(|e| FileError::new("name", &folder, e.errno))?;
        Ok(Some(Place {
            pool: self.name.clone(),
            driver,
            folder,
            id,
            filesystem: self.filesystem,
        }))
    }

    /// What is in it, and how much room there is.
    ///
    /// # Errors
    /// Its folder cannot be read.
    pub fn used(&self, layout: &Layout) -> Result<PoolUse, PoolError> {
        let folder = self.folder(layout);
        if self.driver == Driver::Btrfs {
            driver_btrfs::mount_pool(&folder).map_err(|e| FileError::new("mount", &folder, e))?;
        }
        let opened = open_dir(&folder)?;
        let room = self.room(layout)?;
        let stat = |e: io::Error| FileError::new("look at", &folder, e);
        let device = rustix::fs::fstat(&opened)
            .map_err(|e| stat(e.into()))?
            .st_dev;
        let file = std::fs::metadata(driver_btrfs::file_of(&folder)).ok();
        Ok(PoolUse {
            device,
            file: file.map(|file| (file.dev(), file.len())),
            guests: super::root::guests_in(layout, &self.name)?,
            size: room.size,
            free: room.free,
            folder,
        })
    }

    /// How much room there is on what it lies on, which must be mounted.
    ///
    /// # Errors
    /// Its folder cannot be read.
    pub fn room(&self, layout: &Layout) -> Result<filesystem::Space, PoolError> {
        let folder = self.folder(layout);
        let room = filesystem::space(open_dir(&folder)?.as_fd())
            .map_err(|e| FileError::new("measure", &folder, e.errno))?;
        Ok(room)
    }

    pub(super) fn save(&self, layout: &Layout) -> Result<(), PoolError> {
        let path = record(layout, &self.name);
        let mut text = serde_json::to_vec_pretty(self).unwrap_or_default();
        text.push(b'\n');
        file::write_whole(&path, &text, 0o600)
            .map_err(|e| FileError::new("write", &path, e.errno))?;
        Ok(())
    }
}

/// What is in a pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PoolUse {
    /// The folder.
    pub folder: PathBuf,
    /// Number of the filesystem it lies on (st_dev).
    #[serde(skip)]
    pub device: u64,
    /// The file of ours that holds that filesystem: where it lies, its size.
    #[serde(skip)]
    pub file: Option<(u64, u64)>,
    /// Bytes of the filesystem it lies on.
    pub size: u64,
    /// Bytes free there.
    pub free: u64,
    /// Guests that lie in it.
    pub guests: Vec<String>,
}

pub(super) fn record(layout: &Layout, name: &str) -> PathBuf {
    layout.pools().join(format!("{name}.json"))
}

/// All pools, the default one first.
///
/// # Errors
/// A record cannot be read or understood.
pub fn pools(layout: &Layout) -> Result<Vec<Pool>, PoolError> {
    let folder = layout.pools();
    let mut all = Vec::new();
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(vec![Pool::usual()]),
        Err(e) => return Err(FileError::new("read", &folder, e).into()),
    };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|end| end == "json") {
            all.push(read(&path)?);
        }
    }
    if !all.iter().any(|pool| pool.name == DEFAULT_POOL) {
        all.push(Pool::usual());
    }
    all.sort_by_key(|pool| (pool.name != DEFAULT_POOL, pool.name.clone()));
    Ok(all)
}

fn read(path: &Path) -> Result<Pool, PoolError> {
    let text = file::read_small(path, 1 << 16)
        .map_err(|e| FileError::new("read", path, e.errno))?
        .unwrap_or_default();
    let damaged = |why: String| PoolError::Damaged {
        path: path.into(),
        why,
    };
    let pool: Pool = serde_json::from_slice(&text).map_err(|e| damaged(e.to_string()))?;
    if path.file_stem().is_none_or(|stem| *stem != *pool.name) {
        return Err(damaged(format!("it is the record of {:?}", pool.name)));
    }
    Ok(pool)
}
