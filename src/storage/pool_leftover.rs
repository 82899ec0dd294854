//! What a command that died has left of pools and in them: layers that no guest's root leads to,
//! folders that have no record. Where a record cannot be read nothing is taken for left over.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};

use super::chain;
use super::dirfd::FileError;
use super::driver::{Driver, Object};
use super::image::listed;
use super::pool::{Pool, PoolError, pools};
use super::pool_change::take_away;
use super::root::objects as objects_of_roots;
use crate::model::Layout;

/// Layers that were set aside and nothing lists any more.
///
/// # Errors
/// A record cannot be read: nobody knows then what is still wanted.
pub fn unused_layers(layout: &Layout) -> Result<Vec<super::Leftover>, PoolError> {
    let folders = kept(layout, &pools(layout)?);
    if chain::unused(&folders, &HashSet::new())?.is_empty() {
        return Ok(Vec::new());
    }
    let unused = chain::unused(&folders, &used(layout)?)?.into_iter();
    let unused = unused.filter(|path| !is_held(path));
    Ok(unused.map(|path| super::Leftover { path }).collect())
}

/// The folders that layers are set aside in.
fn kept(layout: &Layout, pools: &[Pool]) -> Vec<PathBuf> {
    let of_pools = pools.iter().map(|pool| pool.roots(layout).join("kept"));
    of_pools.chain([layout.var().join("kept")]).collect()
}

/// What roots and snapshots lead to. A guest may be renamed meanwhile and be met under neither name:
/// but not twice.
fn used(layout: &Layout) -> Result<HashSet<PathBuf>, FileError> {
    let mut used = objects_of_roots(layout)?;
    used.extend(objects_of_roots(layout)?);
    Ok(used)
}

/// Folders and files of pools that have no record: their making or removal was cut short. One that a
/// guest leads to is not ours to judge.
pub(super) fn unrecorded(layout: &Layout) -> Result<Vec<PathBuf>, FileError> {
    let folder = layout.pools();
    let names = listed(&folder)?;
    let names: HashSet<&str> = names
        .iter()
        .filter(|name| !name.ends_with(".json") && !name.starts_with('.'))
        .map(|name| name.trim_end_matches(".btrfs"))
        .collect();
    let strays = names.into_iter().map(|name| folder.join(name));
    let strays: Vec<PathBuf> = strays
        .filter(|path| !path.with_extension("json").exists())
        .collect();
    // Whoever makes a pool holds the folder.
    if strays.is_empty() || is_held(&folder) {
        return Ok(Vec::new());
    }
    let used = objects_of_roots(layout)?;
    let leads_there = |path: &PathBuf| used.iter().any(|object| object.starts_with(path));
    Ok(strays
        .into_iter()
        .filter(|path| !leads_there(path))
        .collect())
}

/// Layers in pools that no guest's root leads to, and what is left of pools themselves.
pub(super) fn orphans(layout: &Layout) -> Result<Vec<PathBuf>, FileError> {
    let mut found = unrecorded(layout)?;
    // With a damaged record nobody knows what is still wanted; using the pool says so.
    let Ok(pools) = pools(layout) else {
        return Ok(found);
    };
    let mut objects = Vec::new();
    for pool in &pools {
        let roots = pool.roots(layout);
        let ours = listed(&roots)?
            .into_iter()
            .filter(|name| is_object_name(name));
        objects.extend(ours.map(|name| roots.join(name)));
    }
    let layers = kept(layout, &pools);
    if objects.is_empty() && chain::unused(&layers, &HashSet::new())?.is_empty() {
        return Ok(found);
    }
    // A root's record is written before what it leads to is made, so what is read after is enough.
    let used = used(layout)?;
    let unused = objects.into_iter().filter(|path| !used.contains(path));
    let unused = unused.chain(chain::unused(&layers, &used)?);
    found.extend(unused.filter(|path| !is_held(path)));
    Ok(found)
}

/// Whether a command at work holds it.
fn is_held(path: &Path) -> bool {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let Ok(fd) = rustix::fs::open(path, flags, Mode::empty()) else {
        return false;
    };
    let lock = rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive);
    lock == Err(rustix::io::Errno::WOULDBLOCK)
}

fn is_object_name(name: &str) -> bool {
    let id = name.strip_suffix(".img").unwrap_or(name);
    id.len() == 16 && id.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Whether a path is that of something [`orphans`] names.
pub(super) fn is_object(layout: &Layout, path: &Path) -> bool {
    let named = path.file_name().and_then(|name| name.to_str());
    let parent = path.parent();
    let is_in = |folder: &Path| parent == Some(folder);
    let in_pool = || {
        let pools = pools(layout).unwrap_or_default();
        pools.iter().any(|pool| is_in(&pool.roots(layout)))
    };
    is_in(&layout.pools())
        || parent.is_some_and(|folder| folder.ends_with("kept"))
        || named.is_some_and(is_object_name) && in_pool()
}

/// Removes a layer that still is nobody's, whatever it is.
pub(super) fn remove_object(layout: &Layout, path: &Path) -> Result<(), FileError> {
    if !orphans(layout)?.iter().any(|orphan| orphan == path) {
        return Ok(());
    }
    if path.parent().is_some_and(|folder| folder.ends_with("kept")) {
        return chain::remove(path);
    }
    if path.parent() == Some(&layout.pools()) {
        return take_away(path);
    }
    let driver = if path.extension().is_some() {
        Driver::Image
    } else {
        // A subvolume goes as such; a folder on btrfs goes as a folder.
        Driver::Btrfs
    };
    let object = Object {
        driver,
        ..Object::plain(path.into())
    };
    object.remove()
}
