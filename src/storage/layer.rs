//! Layers that images share: `images/layers/DIFFID/root`, read-only, with `layer.json` beside it.
//! Named by the SHA-256 of the archive they were unpacked from. Whoever takes layers in holds the
//! folder's lock shared; whoever removes them holds it alone.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::dirfd::{FileError, ensure_private};
use super::image::{ImageError, images, is_digest, listed};
use super::verify::is_marked;
use crate::kernel::file;
use crate::model::Layout;

/// Most bytes of a layer's record.
const RECORD_MOST: u64 = 4096;

/// A layer: what `layer.json` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// SHA-256 of its archive, uncompressed: its name.
    pub digest: String,
    /// SHA-256 of the tree that came out of it.
    pub content: String,
    /// Bytes of its regular files.
    pub size: u64,
    /// Number of its files.
    pub files: u64,
    /// When it was taken in, milliseconds since 1970.
    pub created_ms: u64,
}

/// Where layers are.
pub(super) fn folder(layout: &Layout) -> PathBuf {
    layout.images().join("layers")
}

/// The layer `digest`, if it is there whole.
///
/// # Errors
/// Its record is damaged or cannot be read.
pub fn load_layer(layout: &Layout, digest: &str) -> Result<Option<Layer>, ImageError> {
    let path = folder(layout).join(digest).join("layer.json");
    let text =
        file::read_small(&path, RECORD_MOST).map_err(|e| FileError::new("read", &path, e.errno))?;
    let Some(text) = text else { return Ok(None) };
    let damaged = |reason: String| ImageError::Damaged {
        path: path.clone(),
        reason,
    };
    let layer: Layer = serde_json::from_slice(&text).map_err(|e| damaged(e.to_string()))?;
    if layer.digest != digest {
        return Err(damaged(format!("it is the record of {}", layer.digest)));
    }
    Ok(Some(layer))
}

/// The same if nothing is known to be wrong with it. Another makes way for one that is taken in.
pub(super) fn sound(layout: &Layout, digest: &str) -> Option<Layer> {
    let path = folder(layout).join(digest);
    let whole = path.join("root").is_dir() && !is_marked(&path);
    load_layer(layout, digest).ok().flatten().filter(|_| whole)
}

/// Digests of all layers there are, sorted.
pub(super) fn layers(layout: &Layout) -> Result<Vec<String>, FileError> {
    let mut found = listed(&folder(layout))?;
    found.retain(|name| is_digest(name));
    found.sort_unstable();
    Ok(found)
}

/// Digests of layers that no image has, sorted. With an image whose record is damaged nobody knows
/// which layers it has, so there are none then.
pub(super) fn unused_layers(
    layout: &Layout,
    without: &[String],
) -> Result<Vec<String>, ImageError> {
    let mut used = Vec::new();
    for image in images(layout)? {
        let image = image?;
        if !without.contains(&image.digest) {
            used.extend(image.layers);
        }
    }
    let mut found = layers(layout)?;
    found.retain(|layer| !used.contains(layer));
    Ok(found)
}

/// The lock of whoever takes layers in; several may hold it.
pub(super) fn share(layout: &Layout) -> Result<OwnedFd, FileError> {
    let folder = folder(layout);
    let lock = ensure_private(&folder)?;
    super::dirfd::retry(|| flock(&lock, FlockOperation::LockShared))
        .map_err(|e| FileError::new("lock", &folder, e))?;
    Ok(lock)
}

/// The lock of whoever removes layers; `None` while some are taken in.
pub(super) fn own(layout: &Layout) -> Result<Option<OwnedFd>, FileError> {
    let folder = folder(layout);
    let lock = ensure_private(&folder)?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(lock)),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(e) => Err(FileError::new("lock", &folder, e)),
    }
}
