//! What a guest in rescue has for its root: an image of the host's, over it a layer with the files that
//! tell it its name, addresses and keys, and over that memory, so that nothing of it outlasts the run.
//! The guest's own root is mounted below it, and nothing in that is read or written here.
//!
//! `guests/NAME/rescue/`: `image` (the digest of the image, which is in use as long as this is there),
//! `root` (the layer). Made anew before each launch and removed after the run.

use std::path::{Path, PathBuf};

use rustix::fs::{self, FlockOperation};

use super::dirfd::{self, FileError, Owner, make_dir, open_dir, read_limited};
use super::first_boot::{FirstBoot, FirstBootError, write_all};
use super::image::Image;
use super::merged::Merged;
use super::remove::remove_tree;
use super::root::{self, RootError};
use crate::kernel::fault;
use crate::model::{GuestName, Layout, MountOp, RootOp, Writable};

/// Where the guest's own root is.
const BELOW: &str = "/mnt/guest";

const NAME: &std::ffi::CStr = c"rescue";
const IMAGE: &std::ffi::CStr = c"image";

fn folder(layout: &Layout, name: &GuestName) -> PathBuf {
    layout.guest(name).join("rescue")
}

/// Makes the layer of files for a guest over a rescue image. The guest's lock is held, and it has none.
///
/// # Errors
/// The image was removed meanwhile, the disk is full, a value cannot be written.
pub fn make_rescue(
    layout: &Layout,
    name: &GuestName,
    image: &Image,
    boot: &FirstBoot,
) -> Result<(), FirstBootError> {
    let path = folder(layout, name);
    let failed = |e: std::io::Error| FileError::new("make", &path, e);
    let pause = || fault::point().map_err(|e| failed(e.errno.into()));
    let guest = open_dir(&layout.guest(name))?;
    let made = make_dir(&guest, NAME, Owner::root(0o700)).map_err(|e| failed(e.into()))?;
    fs::flock(&made, FlockOperation::NonBlockingLockExclusive).map_err(|e| failed(e.into()))?;
    pause()?;
    let digest = image.digest.as_bytes();
    dirfd::write_whole(&made, IMAGE, digest, Owner::root(0o600), false).map_err(failed)?;
    // Whoever removes images has either seen this, or is seen here.
    let lowers = image.lowers();
    if !image.path.exists() || !lowers.iter().all(|lower| lower.exists()) {
        let why = format!("image {:.12} was removed meanwhile", image.digest);
        return Err(failed(std::io::Error::other(why)).into());
    }
    let layer = make_dir(&made, c"root", Owner::root(0o755)).map_err(|e| failed(e.into()))?;
    pause()?;
    write_all(&Merged::over(layer, lowers, &path), name, image, boot)
}

/// What the launch is to do for a guest in rescue: a root whose writable part is memory of this size,
/// and the guest's own below it.
///
/// # Errors
/// The guest has no root.
pub fn rescue_ops(
    layout: &Layout,
    name: &GuestName,
    (rescue, own): (&Image, &Image),
    size: u64,
) -> Result<(RootOp, Vec<MountOp>), RootError> {
    let files = folder(layout, name).join("root");
    let root = RootOp::Overlay {
        lower: std::iter::once(files).chain(rescue.lowers()).collect(),
        writable: Writable::Memory { size },
    };
    let (below, _) = root::root_ops(layout, name, own)?;
    let mut mounts = rescue.mounts.clone();
    mounts.push(MountOp::Root {
        target: BELOW.into(),
        root: below,
    });
    Ok((root, mounts))
}

/// Whether a guest is, or was, in rescue: the layer is there.
#[must_use]
pub fn has_rescue(layout: &Layout, name: &GuestName) -> bool {
    folder(layout, name).exists()
}

/// Removes the layer; none there is success.
///
/// # Errors
/// A file cannot be removed.
pub fn remove_rescue(layout: &Layout, name: &GuestName) -> Result<(), FileError> {
    let path = folder(layout, name);
    if !path.exists() {
        return Ok(());
    }
    remove_tree(open_dir(&layout.guest(name))?, NAME, &path)
}

/// The digest of the image that a guest's folder is in rescue with.
pub(super) fn image_of(guest: &Path) -> Option<String> {
    let folder = open_dir(&guest.join("rescue")).ok()?;
    let file = dirfd::child_file(&folder, IMAGE).ok()?;
    String::from_utf8(read_limited(file, 4096).ok()?).ok()
}
