//! What a command that died has left in pools: layers that no guest's root leads to.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};

use super::chain;
use super::dirfd::FileError;
use super::driver::{Driver, Object};
use super::image::listed;
use super::pool::pools;
use super::root::objects as objects_of_roots;
use crate::model::Layout;

/// Layers in pools that no guest's root leads to: what a command that died has left.
pub(super) fn orphans(layout: &Layout) -> Result<Vec<PathBuf>, FileError> {
    let mut found = Vec::new();
    let Ok(pools) = pools(layout) else {
        return Ok(found);
    };
    let mut objects = Vec::new();
    for pool in &pools {
        let roots = pool.roots(layout);
        let names = listed(&roots)?;
        let ours = names.into_iter().filter(|name| is_object_name(name));
        objects.extend(ours.map(|name| roots.join(name)));
    }
    let mut layers: Vec<PathBuf> = pools
        .iter()
        .map(|pool| pool.roots(layout).join("kept"))
        .collect();
    layers.push(layout.var().join("kept"));
    if objects.is_empty() && chain::unused(&layers, &HashSet::new())?.is_empty() {
        return Ok(found);
    }
    // A root's record is written before what it leads to is made, so what is read after is enough.
    // A guest may be renamed meanwhile and be met under neither name: but not twice.
    let mut used = objects_of_roots(layout)?;
    used.extend(objects_of_roots(layout)?);
    let unused = objects.into_iter().filter(|path| !used.contains(path));
    found.extend(unused.filter(|path| !is_held(path)));
    found.extend(chain::unused(&layers, &used)?);
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

/// Whether a path is that of a layer in a pool.
pub(super) fn is_object(layout: &Layout, path: &Path) -> Result<bool, FileError> {
    let named = path.file_name().and_then(|name| name.to_str());
    let pools = pools(layout).unwrap_or_default();
    if path.parent().is_some_and(|folder| folder.ends_with("kept")) {
        return Ok(true);
    }
    let in_pool = pools
        .iter()
        .any(|pool| path.parent() == Some(&pool.roots(layout)));
    Ok(in_pool && named.is_some_and(is_object_name))
}

/// Removes a layer that still is nobody's, whatever it is.
pub(super) fn remove_object(layout: &Layout, path: &Path) -> Result<(), FileError> {
    if !orphans(layout)?.iter().any(|orphan| orphan == path) {
        return Ok(());
    }
    if path.parent().is_some_and(|folder| folder.ends_with("kept")) {
        return chain::remove(path);
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
