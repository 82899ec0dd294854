//! Removing what nobody uses: images that no guest is made from, layers that no image has, names
//! that lead nowhere.

use rustix::fs;
use serde::Serialize;

use super::dirfd::{FileError, cname};
use super::image::{Image, ImageError, images, leftovers, remove_image, remove_leftover, users};
use super::layer::{self, load_layer, unused_layers};
use super::mend;
use super::remove::remove_tree;
use super::tag::{dangling, tags, untag};
use crate::kernel::fault;
use crate::model::{ImageName, Layout};

/// What nobody uses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Unused {
    /// Digests of images.
    pub images: Vec<String>,
    /// Digests of layers.
    pub layers: Vec<String>,
    /// Names that lead to no image.
    pub names: Vec<ImageName>,
    /// Bytes of files that go.
    pub bytes: u64,
}

/// Guests made from an image.
///
/// # Errors
/// The guests' folder cannot be read.
pub fn image_users(layout: &Layout, image: &Image) -> Result<Vec<String>, FileError> {
    users(layout, &image.digest)
}

/// What nobody uses. An image that has a name is somebody's, unless `named` says that those count too.
///
/// # Errors
/// A folder cannot be read, or the record of an image is damaged: nobody knows then which layers are
/// still wanted.
pub fn unused(layout: &Layout, named: bool) -> Result<Unused, ImageError> {
    let names = tags(layout)?;
    let mut found = Unused::default();
    for image in images(layout)? {
        let image = image?;
        let kept = !named && names.iter().any(|tag| tag.digest == image.digest);
        if kept || !users(layout, &image.digest)?.is_empty() {
            continue;
        }
        if image.layers.is_empty() {
            found.bytes += image.size;
        }
        found.images.push(image.digest);
    }
    found.names = dangling(layout)?;
    found.layers = unused_layers(layout, &found.images)?;
    for digest in &found.layers {
        // One without a record is not whole, and goes all the same.
        found.bytes += load_layer(layout, digest)
            .ok()
            .flatten()
            .map_or(0, |layer| layer.size);
    }
    Ok(found)
}

/// Removes what nobody uses; gives what was removed. What has come into use since is left.
///
/// # Errors
/// As [`unused`]; a file cannot be removed.
pub fn prune(layout: &Layout, named: bool) -> Result<Unused, ImageError> {
    let mut wanted = unused(layout, named)?;
    let mut gone = Vec::new();
    for digest in std::mem::take(&mut wanted.images) {
        match remove_image(layout, &digest) {
            Ok(()) => gone.push(digest),
            Err(ImageError::InUse { .. } | ImageError::Missing { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    for name in &wanted.names {
        // Gone already is as good.
        untag(layout, name).ok();
    }
    let layers = remove_layers(layout)?;
    // Damaged ones over which guests ran, too.
    let left = leftovers(layout)?.into_iter();
    for aside in left.filter(|left| mend::is_aside(&left.path)) {
        remove_leftover(layout, &aside)?;
    }
    Ok(Unused {
        images: gone,
        layers,
        ..wanted
    })
}

/// Removes the layers that no image has; none while images are being taken in.
///
/// # Errors
/// As [`unused`]; a file cannot be removed.
pub fn remove_layers(layout: &Layout) -> Result<Vec<String>, ImageError> {
    let Some(lock) = layer::own(layout)? else {
        return Ok(Vec::new());
    };
    let unused = unused_layers(layout, &[])?;
    for digest in &unused {
        let path = layer::folder(layout).join(digest);
        let failed = |e: std::io::Error| FileError::new("remove", &path, e);
        // Renamed first: half a layer must not be taken for a whole one.
        let trash = format!("tmp-removed-{digest:.12}-{}", std::process::id());
        let trash = cname(trash).map_err(failed)?;
        fs::renameat(&lock, digest.as_str(), &lock, &*trash).map_err(|e| failed(e.into()))?;
        fault::point().map_err(|e| failed(e.errno.into()))?;
        remove_tree(&lock, &trash, &path)?;
    }
    Ok(unused)
}
