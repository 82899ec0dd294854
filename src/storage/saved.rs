//! A guest's root as it was: what a snapshot keeps and a clone begins with. Of a folder it is a chain
//! of layers, of a subvolume and of a filesystem in a file a copy that shares what both have.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::chain::{self, Chain};
use super::chain_fold;
use super::dirfd::{FileError, open_dir};
use super::driver::{Driver, Quota};
use super::merged::Merged;
use super::place::{self, Place};
use super::reinstall::keep_paths;
use super::renew::{Renewal, renew};
use super::root::{self, Begin, Origin, RootError};
use crate::kernel::random;
use crate::model::{GuestName, Layout};

/// What is kept of a root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Saved {
    /// Layers over the image, and the place in a pool where the guest's own lay.
    Layers {
        /// Topmost first.
        chain: Chain,
        /// `None` for the guest's own folder.
        place: Option<InPool>,
    },
    /// A copy in the pool.
    Copy(InPool),
}

/// A place in a pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct InPool(pub(super) Place);

/// Whether a guest that runs must be held still while its root is kept: a folder is copied file by
/// file, the other drivers copy all at once.
///
/// # Errors
/// The guest has no root, or it cannot be read.
pub fn is_kept_by_file(layout: &Layout, name: &GuestName) -> Result<bool, RootError> {
    Ok(place::object(layout, name)?.driver == Driver::Overlay)
}

/// Whether a stopped guest has written nothing since its root was kept, where that is simple to know:
/// a folder begins where it was kept, and there is nothing in it.
///
/// # Errors
/// As [`is_kept_by_file`].
pub fn is_as_kept(layout: &Layout, name: &GuestName, saved: &Saved) -> Result<bool, RootError> {
    let Saved::Layers { chain, .. } = saved else {
        return Ok(false);
    };
    let path = root::folder(layout, name);
    let failed = |e: std::io::Error| FileError::new("read", &path, e);
    let now = Chain::read(open_dir(&path)?.as_fd()).map_err(failed)?;
    if now != *chain {
        return Ok(false);
    }
    let object = place::object(layout, name)?.open()?;
    Ok(chain::is_empty(&object.folder).map_err(failed)?)
}

/// Makes the layers of a stopped guest one where they are many; tells whether it did.
///
/// # Errors
/// The disk is full; the guest is then as it was.
pub fn fold_layers(layout: &Layout, name: &GuestName) -> Result<bool, RootError> {
    let path = root::folder(layout, name);
    let object = place::object(layout, name)?;
    if object.driver != Driver::Overlay {
        return Ok(false);
    }
    let layers = chain::layers_of(layout, &object.path, &path);
    let opened = object.open()?;
    Ok(chain_fold::fold(
        &layers,
        &open_dir(&path)?,
        &opened.folder,
    )?)
}

/// Keeps a guest's root as it is now. As long as the descriptor lives, a copy is nobody's leftover.
///
/// # Errors
/// The disk is full, there are too many layers.
pub fn save_root(
    layout: &Layout,
    name: &GuestName,
    runs: bool,
) -> Result<(Saved, Option<OwnedFd>), RootError> {
    let path = root::folder(layout, name);
    let folder = open_dir(&path)?;
    let place = Place::read(folder.as_fd()).map_err(|e| FileError::new("read", &path, e))?;
    let object = place::object(layout, name)?;
    if object.driver == Driver::Overlay {
        let layers = chain::layers_of(layout, &object.path, &path);
        let opened = object.open()?;
        let (chain, held) = match runs {
            true => {
                let (chain, held) = chain::copy_aside(&layers, &folder, &opened.folder)?;
                (chain, Some(held))
            }
            false => (chain::set_aside(&layers, &folder, &opened.folder)?, None),
        };
        let place = place.map(InPool);
        return Ok((Saved::Layers { chain, place }, held));
    }
    let Some(place) = place else {
        return Err(FileError::new("read", &path, rustix::io::Errno::NOENT).into());
    };
    let copy = renamed(&place)?;
    let held = object.copy_to(&copy.object())?;
    Ok((Saved::Copy(InPool(copy)), Some(held)))
}

pub(super) fn renamed(place: &Place) -> Result<Place, FileError> {
    let id = random::hex(8).map_err(|e| FileError::new("name", &place.folder, e.errno))?;
    Ok(Place {
        id,
        ..place.clone()
    })
}

/// Makes the root of a guest that has none from what was kept.
///
/// # Errors
/// As [`super::create_root`].
pub fn create_root_from(
    layout: &Layout,
    name: &GuestName,
    image: &super::Image,
    (saved, quota): (&Saved, Quota),
) -> Result<(), RootError> {
    root::create_from(layout, name, image, &origin(saved, quota)?, |_| Ok(()))
}

fn origin(saved: &Saved, quota: Quota) -> Result<Origin, RootError> {
    Ok(match saved {
        Saved::Layers { chain, place } => {
            let place = place.as_ref().map(|InPool(place)| renamed(place));
            Origin::over(chain.clone(), place.transpose()?, quota)
        }
        Saved::Copy(InPool(place)) => Origin::Placed {
            place: renamed(place)?,
            quota,
            begin: Begin::Copy(place.object()),
        },
    })
}

/// Puts a stopped guest's root back to what was kept; `note` is what becomes true of the guest then.
/// With `keep`, the image below its root of now and paths inside it: what is there stays as it is.
///
/// # Errors
/// As [`super::create_root`]; a file cannot be kept. The root is then as it was.
pub fn restore_root(
    layout: &Layout,
    name: &GuestName,
    image: &super::Image,
    (saved, quota): (&Saved, Quota),
    (keep, note): (Option<(&super::Image, &[String])>, &[u8]),
) -> Result<(), RootError> {
    let origin = origin(saved, quota)?;
    let renewal = Renewal {
        image,
        origin: &origin,
        note,
    };
    renew(layout, name, &renewal, |folder| match keep {
        None => Ok(()),
        Some((now, paths)) => {
            let tree = Merged::of_root(folder, image)?;
            let before = Merged::open(layout, name, now)?;
            Ok(keep_paths((&before, &tree), folder, paths)?)
        }
    })
}

/// Removes what was kept; layers go when nothing else lists them.
///
/// # Errors
/// A copy cannot be removed.
pub fn remove_saved(saved: &Saved) -> Result<(), FileError> {
    match saved {
        Saved::Layers { .. } => Ok(()),
        Saved::Copy(InPool(place)) => place.object().remove(),
    }
}

/// The path of a copy, and the layers, that something kept leads to.
pub(super) fn leads_to(saved: &Saved) -> Vec<PathBuf> {
    match saved {
        Saved::Layers { chain, .. } => chain.0.clone(),
        Saved::Copy(InPool(place)) => vec![place.object().path],
    }
}

/// Where the tree of what was kept lies, topmost first: a filesystem that has a part of it in `upper`, if
/// it is in one, and folders.
///
/// # Errors
/// The filesystem cannot be mounted.
pub fn trees_of_saved(
    saved: &Saved,
    image: &super::Image,
) -> Result<(Option<OwnedFd>, Vec<PathBuf>), FileError> {
    let (mut disk, mut folders) = (None, Vec::new());
    match saved {
        Saved::Layers { chain, .. } => folders.extend(chain.trees()),
        Saved::Copy(InPool(place)) => {
            let opened = place.object().open()?;
            match opened.disk {
                Some(opened) => disk = Some(opened.mount),
                None => folders.push(opened.shown.join("upper")),
            }
        }
    }
    folders.extend(image.lowers());
    Ok((disk, folders))
}

/// The tree of what was kept over its image, to be read and not written to: the topmost layer may be
/// one that others share.
///
/// # Errors
/// It cannot be opened.
pub(super) fn tree_of_saved(saved: &Saved, image: &super::Image) -> Result<Merged, FileError> {
    match saved {
        Saved::Layers { chain, .. } => {
            let mut lowers: Vec<PathBuf> = chain.trees().chain(image.lowers()).collect();
            let top = lowers.remove(0);
            Ok(Merged::over(open_dir(&top)?, lowers, &top))
        }
        Saved::Copy(InPool(place)) => Merged::of_opened(place.object().open()?, image.lowers()),
    }
}

/// What of a snapshot's record is needed here, whatever else it says.
#[derive(Debug, Deserialize)]
pub(super) struct Record {
    pub(super) image: String,
    pub(super) root: Saved,
}

/// The records of the snapshots in a guest's folder.
pub(super) fn records(guest: &Path) -> Result<Vec<Record>, FileError> {
    let folder = guest.join("snapshots");
    let mut all = Vec::new();
    // One that was being written does not end so, and leads nowhere.
    let names = super::image::listed(&folder)?.into_iter();
    for name in names.filter(|name| name.ends_with(".json")) {
        let path = folder.join(name);
        let failed = |e: std::io::Error| FileError::new("read", &path, e);
        match std::fs::read(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(failed(e)),
            Ok(text) => all.push(serde_json::from_slice(&text).map_err(|e| failed(e.into()))?),
        }
    }
    Ok(all)
}
