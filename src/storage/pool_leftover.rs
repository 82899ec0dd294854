//! What a command that died has left in pools: layers that no guest's root leads to.

use std::path::{Path, PathBuf};

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
    if objects.is_empty() {
        return Ok(found);
    }
    // A root's record is written before what it leads to is made, so what is read after is enough.
    // A guest may be renamed meanwhile and be met under neither name: but not twice.
    let mut used = objects_of_roots(layout)?;
    used.extend(objects_of_roots(layout)?);
    found.extend(objects.into_iter().filter(|path| !used.contains(path)));
    Ok(found)
}

fn is_object_name(name: &str) -> bool {
    let id = name.strip_suffix(".img").unwrap_or(name);
    id.len() == 16 && id.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Whether a path is that of a layer in a pool.
pub(super) fn is_object(layout: &Layout, path: &Path) -> Result<bool, FileError> {
    let named = path.file_name().and_then(|name| name.to_str());
    let pools = pools(layout).unwrap_or_default();
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
