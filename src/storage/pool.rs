//! Pools: where guests' own layers lie, and what keeps them to a size. `pools/NAME.json` is a pool's
//! record; `default` is always there, and without a record it is a folder in each guest's own.

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::dirfd::{FileError, ensure_private, open_dir};
use super::driver::{Driver, Quota};
use super::place::Place;
use super::{driver_btrfs, driver_image};
use crate::kernel::filesystem::{self, Disk};
use crate::kernel::{btrfs, file, random};
use crate::model::{Bytes, Layout};

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
    #[error("there is no pool {name:?}{}; there are: {}", near.as_ref().map_or(String::new(), |n| format!(": did you mean {n:?}?")), known.join(", "))]
    Unknown {
        /// Name asked for.
        name: String,
        /// The nearest.
        near: Option<String>,
        /// All.
        known: Vec<String>,
    },
    /// It is there already.
    #[error("there is a pool {0:?} already")]
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

    /// Which driver keeps a guest to this quota.
    ///
    /// # Errors
    /// None of the pool's does; the message says what to do.
    pub fn driver_for(&self, quota: Quota) -> Result<Driver, PoolError> {
        let limited = quota.size.is_some() || quota.inodes.is_some();
        match (self.driver, self.sized) {
            (Driver::Overlay, Some(driver)) if limited => Ok(driver),
            (Driver::Overlay, None) if limited => Err(PoolError::Refused {
                name: self.name.clone(),
                why: super::driver_folder::NO_SIZE.into(),
            }),
            (driver, _) => Ok(driver),
        }
    }

    /// Where a new guest's layer goes; `None` for its own folder.
    pub(super) fn place(&self, layout: &Layout, quota: Quota) -> Result<Option<Place>, PoolError> {
        let driver = self.driver_for(quota)?;
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

    /// Whether it can be made: its name is free, its folder of the right kind.
    ///
    /// # Errors
    /// What is in the way, and what to do.
    pub fn check_new(&self, layout: &Layout, size: Option<u64>) -> Result<(), PoolError> {
        let refused = |why: String| PoolError::Refused {
            name: self.name.clone(),
            why,
        };
        if self.name == DEFAULT_POOL {
            return Err(refused(
                "it is always there: `bulkhead pool set` changes it".into(),
            ));
        }
        if pools(layout)?.iter().any(|pool| pool.name == self.name) {
            return Err(PoolError::Exists(self.name.clone()));
        }
        if let Some(source) = &self.source
            && !source.is_dir()
        {
            return Err(refused(format!(
                "{} is no folder: make it first",
                source.display()
            )));
        }
        match (self.driver, &self.source, size) {
            (Driver::Btrfs, None, None) => Err(refused(
                "give --source, a folder on btrfs, or --size, of a file to make one in".into(),
            )),
            (Driver::Btrfs, Some(source), None) => {
                let folder = open_dir(source)?;
                if btrfs::is_btrfs(folder.as_fd()) {
                    Ok(())
                } else {
                    Err(refused(format!("{} is not on btrfs", source.display())))
                }
            }
            (Driver::Btrfs, None, Some(size)) if size < Filesystem::Btrfs.least() => {
                Err(refused(format!(
                    "--size: a btrfs takes at least {}",
                    Bytes(Filesystem::Btrfs.least())
                )))
            }
            (Driver::Btrfs, Some(_), Some(_)) => {
                Err(refused("--source and --size exclude each other".into()))
            }
            (Driver::Overlay | Driver::Image, _, Some(_)) => Err(refused(
                "--size is for a btrfs in a file: guests have sizes of their own".into(),
            )),
            _ => Ok(()),
        }
    }

    /// What is in it, and how much room there is.
    ///
    /// # Errors
    /// Its folder cannot be read.
    pub fn used(&self, layout: &Layout) -> Result<PoolUse, PoolError> {
        let folder = match (self.name.as_str(), &self.source) {
            (DEFAULT_POOL, None) => layout.guests(),
            _ => self.roots(layout),
        };
        if self.driver == Driver::Btrfs {
            driver_btrfs::mount_pool(&folder).map_err(|e| FileError::new("mount", &folder, e))?;
        }
        let room = filesystem::space(open_dir(&folder)?.as_fd())
            .map_err(|e| FileError::new("measure", &folder, e.errno))?;
        Ok(PoolUse {
            guests: super::root::guests_in(layout, &self.name)?,
            size: room.size,
            free: room.free,
            folder,
        })
    }

    fn save(&self, layout: &Layout) -> Result<(), PoolError> {
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
    /// Bytes of the filesystem it lies on.
    pub size: u64,
    /// Bytes free there.
    pub free: u64,
    /// Guests that lie in it.
    pub guests: Vec<String>,
}

/// Makes a pool: its folder, the btrfs in a file where one is asked for, its record last.
///
/// # Errors
/// As [`Pool::check_new`]; a tool is missing, the disk is full.
pub fn create_pool(layout: &Layout, pool: &Pool, size: Option<u64>) -> Result<(), PoolError> {
    pool.check_new(layout, size)?;
    let roots = pool.roots(layout);
    ensure_private(&layout.pools())?;
    ensure_private(&roots)?;
    let made = prepare(pool, &roots, size).and_then(|()| pool.save(layout));
    if made.is_err() {
        // The error that matters is the one above.
        let _left = take_away(&roots);
    }
    made
}

fn prepare(pool: &Pool, roots: &Path, size: Option<u64>) -> Result<(), PoolError> {
    if pool.driver != Driver::Btrfs {
        return Ok(());
    }
    let failed = |e: io::Error| FileError::new("make a btrfs in", roots, e);
    if let Some(size) = size {
        let file = driver_btrfs::file_of(roots);
        driver_image::make_file(Filesystem::Btrfs, &file, size, None).map_err(failed)?;
        driver_btrfs::mount_pool(roots).map_err(failed)?;
    }
    let folder = open_dir(roots)?;
    // The top folder of a new btrfs is open to everybody.
    rustix::fs::fchmod(&folder, rustix::fs::Mode::RWXU).map_err(|e| failed(e.into()))?;
    btrfs::enable_quotas(folder.as_fd()).map_err(|e| failed(io::Error::other(e)))?;
    Ok(())
}

/// Changes a pool's record, and the size of the file it lies in.
///
/// # Errors
/// It lies in no file; the disk is full.
pub fn change_pool(layout: &Layout, pool: &Pool, size: Option<u64>) -> Result<(), PoolError> {
    if let Some(size) = size {
        let roots = pool.roots(layout);
        let file = driver_btrfs::file_of(&roots);
        if pool.driver != Driver::Btrfs || !file.exists() {
            return Err(PoolError::Refused {
                name: pool.name.clone(),
                why: "it does not lie in a file of ours, so it has no size".into(),
            });
        }
        Disk::open(&file, "btrfs")
            .and_then(|disk| disk.grow_to(size))
            .map_err(|e| FileError::new("grow", &file, io::Error::other(e)))?;
    }
    ensure_private(&layout.pools())?;
    ensure_private(&pool.roots(layout))?;
    pool.save(layout)
}

/// Takes a pool's folder away, with the file of ours that lies on it. Only an empty one goes.
fn take_away(roots: &Path) -> Result<(), FileError> {
    driver_btrfs::unmount_pool(roots)
        .map_err(|e| FileError::new("unmount", roots, io::Error::other(e)))?;
    let _others = std::fs::remove_dir(roots);
    match std::fs::remove_file(driver_btrfs::file_of(roots)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(FileError::new("remove", roots, e)),
        _ => Ok(()),
    }
}

fn record(layout: &Layout, name: &str) -> PathBuf {
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

/// Removes a pool that no guest lies in.
///
/// # Errors
/// There is none, guests lie in it, or something in it is not ours.
pub fn delete_pool(layout: &Layout, name: &str) -> Result<(), PoolError> {
    let pool = Pool::load(layout, name)?;
    let guests = super::root::guests_in(layout, name)?;
    if !guests.is_empty() {
        return Err(PoolError::InUse {
            name: name.into(),
            guests,
        });
    }
    let path = record(layout, name);
    match std::fs::remove_file(&path) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(PoolError::Refused {
                name: name.into(),
                why: "it is always there".into(),
            });
        }
        Err(e) => return Err(FileError::new("remove", &path, e).into()),
    }
    Ok(take_away(&pool.roots(layout))?)
}
