//! The layers between a guest's own and its image, for guests whose layer is a folder: what it had
//! written when a snapshot or a linked clone was made is set aside as a read-only layer that several
//! share, and the guest goes on in an empty one above. Costs the same however much was written.
//!
//! `root/chain.json` lists them, topmost first. Layers lie in `kept/` beside the guests' own and are
//! gone when nothing lists them.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs;
use serde::{Deserialize, Serialize};

use super::dirfd::{
    self, FileError, Owner, child_dir, child_file, ensure_private, open_dir, read_limited,
};
use super::driver_folder;
use super::image::listed;
use super::remove::remove_tree;
use super::tree_copy::copy_tree;
use super::tree_policy::Policy;
use crate::kernel::{fault, random};
use crate::model::Layout;

const RECORD: &std::ffi::CStr = c"chain.json";

/// Most layers: each is one more folder to look into for a name that is in none.
pub(super) const MOST: usize = 60;

/// Folders of layers, topmost first; the tree of each is its `root`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Chain(pub(super) Vec<PathBuf>);

impl Chain {
    /// The record in a root's folder; none is an empty chain.
    pub(super) fn read(root: BorrowedFd<'_>) -> io::Result<Self> {
        let file = match child_file(root, RECORD) {
            Ok(file) => file,
            Err(rustix::io::Errno::NOENT) => return Ok(Self::default()),
            Err(e) => return Err(e.into()),
        };
        let text = read_limited(file, 1 << 16)?;
        serde_json::from_slice(&text).map_err(io::Error::from)
    }

    pub(super) fn write(&self, root: &OwnedFd) -> io::Result<()> {
        let text = serde_json::to_vec(self).map_err(io::Error::from)?;
        dirfd::write_whole(root, RECORD, &text, Owner::root(0o600), true)
    }

    /// The trees, topmost first.
    pub(super) fn trees(&self) -> impl Iterator<Item = PathBuf> + '_ {
        self.0.iter().map(|layer| layer.join("root"))
    }
}

/// Where layers lie whose guests lie in `folder`.
pub(super) fn layers_of(layout: &Layout, object: &Path, root: &Path) -> PathBuf {
    if object == root {
        return layout.var().join("kept");
    }
    object.parent().unwrap_or(object).join("kept")
}

/// Sets aside what is in `object/upper` as the topmost layer of the root whose folder is `root`. The
/// guest is stopped. An empty layer is not worth one.
///
/// The new layer is listed while it is empty, and then changes places with what the guest has written
/// in one step: whenever this is cut short, the guest's tree is the same.
pub(super) fn set_aside(
    layers: &Path,
    root: &OwnedFd,
    object: &OwnedFd,
) -> Result<Chain, FileError> {
    let failed = |e: io::Error| FileError::new("set aside", layers, e);
    let pause = || fault::point().map_err(|e| failed(e.errno.into()));
    let old = Chain::read(root.as_fd()).map_err(failed)?;
    let upper = child_dir(object, c"upper").map_err(|e| failed(e.into()))?;
    let top = Owner::of(&fs::fstat(&upper).map_err(|e| failed(e.into()))?);
    if is_empty(object).map_err(failed)? {
        return Ok(old);
    }
    has_room(&old).map_err(failed)?;
    let path = layers.join(random::hex(8).map_err(|e| failed(io::Error::other(e)))?);
    let layer = ensure_private(&path)?;
    // The overlay shows the top folder of its upper layer as `/`.
    let empty = dirfd::make_dir(&layer, c"root", top).map_err(|e| failed(e.into()))?;
    driver_folder::belong_as(&empty, &upper).map_err(failed)?;
    pause()?;
    let chain = Chain(std::iter::once(path).chain(old.0).collect());
    chain.write(root).map_err(failed)?;
    pause()?;
    fs::renameat_with(object, c"upper", &layer, c"root", fs::RenameFlags::EXCHANGE)
        .and_then(|()| fs::fsync(object))
        .and_then(|()| fs::fsync(&layer))
        .map_err(|e| failed(e.into()))?;
    pause()?;
    Ok(chain)
}

/// The same for a guest that runs: a copy becomes the layer, and the guest goes on in what it has.
/// Whoever calls holds it still. As long as the descriptor lives the layer is nobody's leftover.
pub(super) fn copy_aside(
    layers: &Path,
    root: &OwnedFd,
    object: &OwnedFd,
) -> Result<(Chain, OwnedFd), FileError> {
    let failed = |e: io::Error| FileError::new("set aside", layers, e);
    let old = Chain::read(root.as_fd()).map_err(failed)?;
    has_room(&old).map_err(failed)?;
    let upper = child_dir(object, c"upper").map_err(|e| failed(e.into()))?;
    let top = Owner::of(&fs::fstat(&upper).map_err(|e| failed(e.into()))?);
    let path = layers.join(random::hex(8).map_err(|e| failed(io::Error::other(e)))?);
    let layer = ensure_private(&path)?;
    let copied = (|| {
        fs::flock(&layer, fs::FlockOperation::NonBlockingLockExclusive)
            .map_err(|e| failed(e.into()))?;
        fault::point().map_err(|e| failed(e.errno.into()))?;
        let tree = dirfd::make_dir(&layer, c"root", top).map_err(|e| failed(e.into()))?;
        copy_tree(upper.as_fd(), &tree, Policy::Everything)?;
        fs::syncfs(&tree).map_err(|e| failed(e.into()))?;
        fault::point().map_err(|e| failed(e.errno.into()))
    })();
    if let Err(error) = copied {
        // The error that matters is this one.
        let _left = remove(&path);
        return Err(error);
    }
    Ok((Chain(std::iter::once(path).chain(old.0).collect()), layer))
}

/// Whether the guest has written nothing above its layers.
pub(super) fn is_empty(object: &OwnedFd) -> io::Result<bool> {
    Ok(dirfd::names(child_dir(object, c"upper")?)?.is_empty())
}

pub(super) fn has_room(chain: &Chain) -> io::Result<()> {
    match chain.0.len() < MOST {
        true => Ok(()),
        false => Err(io::Error::other(format!(
            "there are {MOST} layers already, the most a guest in a pool of the driver overlay can \
             have: go back to an earlier snapshot, or make a guest from an image of this one (`image \
             publish`)"
        ))),
    }
}

/// Layers in these folders that nothing lists.
pub(super) fn unused(
    folders: &[PathBuf],
    used: &HashSet<PathBuf>,
) -> Result<Vec<PathBuf>, FileError> {
    let mut found = Vec::new();
    for folder in folders {
        let names = listed(folder)?.into_iter();
        let layers = names
            .filter(|name| name.len() == 16)
            .map(|name| folder.join(name));
        found.extend(layers.filter(|layer| !used.contains(layer)));
    }
    Ok(found)
}

/// Removes a layer.
pub(super) fn remove(layer: &Path) -> Result<(), FileError> {
    let (Some(folder), Some(name)) = (layer.parent(), layer.file_name()) else {
        return Ok(());
    };
    let name =
        dirfd::cname(name.as_encoded_bytes()).map_err(|e| FileError::new("remove", layer, e))?;
    remove_tree(open_dir(folder)?, &name, layer)
}
