//! Making, changing and removing pools. A record is written last and removed first; what a killed
//! command leaves without one is named by `pool_leftover`.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use super::dirfd::{FileError, ensure_private, open_dir};
use super::driver::Driver;
use super::pool::{DEFAULT_POOL, Filesystem, Pool, PoolError, pools, record};
use super::{driver_btrfs, driver_image};
use crate::kernel::filesystem::Disk;
use crate::kernel::{btrfs, fault};
use crate::model::{Bytes, Layout};

impl Pool {
    /// Whether it can be made: its name is free, its folder of the right kind.
    ///
    /// # Errors
    /// What is in the way, and what to do.
    pub fn check_new(&self, layout: &Layout, size: Option<u64>) -> Result<(), PoolError> {
        let refused = |why: String| self.refused(why);
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
}

/// Makes a pool: its folder, the btrfs in a file where one is asked for, its record last.
///
/// # Errors
/// As [`Pool::check_new`]; a tool is missing, the disk is full.
pub fn create_pool(layout: &Layout, pool: &Pool, size: Option<u64>) -> Result<(), PoolError> {
    pool.check_new(layout, size)?;
    let roots = pool.roots(layout);
    let all = ensure_private(&layout.pools())?;
    // Held until the record says whose the folder is: see `pool_leftover`.
    rustix::fs::flock(&all, rustix::fs::FlockOperation::LockExclusive)
        .map_err(|e| FileError::new("lock", &layout.pools(), e))?;
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
        pause(roots)?;
        driver_image::make_file(Filesystem::Btrfs, &file, size, None).map_err(failed)?;
        pause(roots)?;
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
    check_change(layout, pool, size)?;
    if let Some(size) = size {
        let file = driver_btrfs::file_of(&pool.roots(layout));
        Disk::open(&file, "btrfs")
            .and_then(|disk| disk.grow_to(size))
            .map_err(|e| FileError::new("grow", &file, io::Error::other(e)))?;
    }
    ensure_private(&layout.pools())?;
    ensure_private(&pool.roots(layout))?;
    pool.save(layout)
}

/// Takes a pool's folder away, with the file of ours that lies on it. Only an empty one goes.
pub(super) fn take_away(roots: &Path) -> Result<(), FileError> {
    driver_btrfs::unmount_pool(roots)
        .map_err(|e| FileError::new("unmount", roots, io::Error::other(e)))?;
    let _none = std::fs::remove_dir(roots.join("kept"));
    let _others = std::fs::remove_dir(roots);
    match std::fs::remove_file(driver_btrfs::file_of(roots)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(FileError::new("remove", roots, e)),
        _ => Ok(()),
    }
}

/// Removes a pool that no guest lies in.
///
/// # Errors
/// There is none, guests lie in it, or something in it is not ours.
pub fn delete_pool(layout: &Layout, name: &str) -> Result<(), PoolError> {
    let pool = Pool::load(layout, name)?;
    if !record(layout, name).exists() {
        return Err(PoolError::Refused {
            name: name.into(),
            why: "it is always there: delete what lies in it".into(),
        });
    }
    let guests = super::root::guests_in(layout, name)?;
    if !guests.is_empty() {
        return Err(PoolError::InUse {
            name: name.into(),
            guests,
        });
    }
    // Whatever the guests' records say: what lies there is somebody's.
    let roots = pool.roots(layout);
    if pool.driver == Driver::Btrfs {
        driver_btrfs::mount_pool(&roots).map_err(|e| FileError::new("mount", &roots, e))?;
    }
    let left = super::image::listed(&roots)?;
    if let Some(one) = left.iter().find(|one| *one != "kept") {
        return Err(PoolError::Refused {
            name: name.into(),
            why: format!(
                "{} is in it and no guest leads there: `bulkhead doctor --fix` removes what a \
                 killed command left; see to anything else yourself",
                roots.join(one).display()
            ),
        });
    }
    // One that is in use after all stays whole.
    driver_btrfs::unmount_pool(&roots)
        .map_err(|e| FileError::new("unmount", &roots, io::Error::other(e)))?;
    pause(&roots)?;
    let path = record(layout, name);
    std::fs::remove_file(&path).map_err(|e| FileError::new("remove", &path, e))?;
    pause(&roots)?;
    Ok(take_away(&roots)?)
}

fn pause(roots: &Path) -> Result<(), FileError> {
    fault::point().map_err(|e| FileError::new("change", roots, e.errno))
}

/// Whether [`change_pool`] can, without doing it.
///
/// # Errors
/// It lies in no file, or would become smaller.
pub fn check_change(layout: &Layout, pool: &Pool, size: Option<u64>) -> Result<(), PoolError> {
    let file = driver_btrfs::file_of(&pool.roots(layout));
    if size.is_some() && (pool.driver != Driver::Btrfs || !file.exists()) {
        return Err(PoolError::Refused {
            name: pool.name.clone(),
            why: "it does not lie in a file of ours, so it has no size: leave --size out".into(),
        });
    }
    let now = std::fs::metadata(&file).map_or(0, |meta| meta.len());
    if size.is_some_and(|size| size < now) {
        return Err(pool.refused(format!(
            "it has {}, and its file only grows: give it more, or leave --size out",
            Bytes(now)
        )));
    }
    Ok(())
}
