//! A guest's root as it was: what a snapshot keeps and a clone begins with. Of a folder it is a chain
//! of layers, of a subvolume and of a filesystem in a file a copy that shares what both have.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::RenameFlags;
use serde::{Deserialize, Serialize};

use super::chain::{self, Chain};
use super::dirfd::{FileError, cname, open_dir};
use super::driver::{Driver, Quota};
use super::place::{self, Place};
use super::root::{self, Origin, RootError};
use crate::kernel::{fault, random};
use crate::model::{GuestName, Layout};

/// What is kept of a root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Saved {
    /// Layers, topmost first, over the image.
    Layers(Chain),
    /// A copy in the pool.
    Copy(SavedCopy),
}

/// A copy in a pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SavedCopy(pub(super) Place);

/// Keeps a guest's root as it is now. A folder can only be kept while its guest is stopped. As long as
/// the descriptor lives, a copy is nobody's leftover.
///
/// # Errors
/// The guest runs and lies in a folder, the disk is full, there are too many layers.
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
        if runs {
            return Err(RootError::InUse {
                guest: name.clone(),
            });
        }
        let layers = chain::layers_of(layout, &object.path, &path);
        let opened = object.open()?;
        let chain = chain::set_aside(&layers, &folder, &opened.folder)?;
        return Ok((Saved::Layers(chain), None));
    }
    let Some(place) = place else {
        return Err(FileError::new("read", &path, rustix::io::Errno::NOENT).into());
    };
    let copy = renamed(&place)?;
    let held = object.copy_to(&copy.object())?;
    Ok((Saved::Copy(SavedCopy(copy)), Some(held)))
}

fn renamed(place: &Place) -> Result<Place, RootError> {
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
    root::create_from(layout, name, image, &origin(saved, quota)?)
}

fn origin(saved: &Saved, quota: Quota) -> Result<Origin, RootError> {
    Ok(match saved {
        Saved::Layers(chain) => Origin::Chain(chain.clone()),
        Saved::Copy(SavedCopy(place)) => Origin::Copy {
            from: place.object(),
            place: renamed(place)?,
            quota,
        },
    })
}

/// Puts a stopped guest's root back to what was kept: the new one is made whole beside it, the two
/// change places in one step, and the old one is removed.
///
/// # Errors
/// As [`super::create_root`]; the root is then as it was.
pub fn restore_root(
    layout: &Layout,
    name: &GuestName,
    image: &super::Image,
    (saved, quota): (&Saved, Quota),
) -> Result<(), RootError> {
    let path = layout.guest(name);
    let guest = open_dir(&path)?;
    let failed = |e: std::io::Error| FileError::new("restore", &path, e);
    let temporary = cname(format!(".root-{}", std::process::id())).map_err(failed)?;
    let made = root::fill(&guest, &temporary, image, &origin(saved, quota)?).and_then(|_lock| {
        fault::point().map_err(|e| e.errno)?;
        rustix::fs::renameat_with(&guest, &*temporary, &guest, c"root", RenameFlags::EXCHANGE)?;
        fault::point().map_err(|e| e.errno)?;
        Ok(rustix::fs::fsync(&guest)?)
    });
    // What is here now is the half-made new root, or the old one.
    let gone = root::discard(&guest, &temporary, &path);
    made.map_err(failed)?;
    gone?;
    Ok(())
}

/// Removes what was kept; layers go when nothing else lists them.
///
/// # Errors
/// A copy cannot be removed.
pub fn remove_saved(saved: &Saved) -> Result<(), FileError> {
    match saved {
        Saved::Layers(_) => Ok(()),
        Saved::Copy(SavedCopy(place)) => place.object().remove(),
    }
}

/// The path of a copy, and the layers, that something kept leads to.
pub(super) fn leads_to(saved: &Saved) -> Vec<PathBuf> {
    match saved {
        Saved::Layers(Chain(layers)) => layers.clone(),
        Saved::Copy(SavedCopy(place)) => vec![place.object().path],
    }
}

/// What of a snapshot's record is needed here, whatever else it says.
#[derive(Debug, Deserialize)]
pub(super) struct Record {
    pub(super) image: String,
    pub(super) root: Saved,
}

/// The records of the snapshots in a guest's folder.
pub(super) fn records(guest: &Path) -> Vec<Record> {
    let folder = guest.join("snapshots");
    let names = super::image::listed(&folder).unwrap_or_default();
    // One that was being written leads nowhere.
    let whole = names.into_iter().filter(|name| name.ends_with(".json"));
    let read = |name: String| serde_json::from_slice(&std::fs::read(folder.join(name)).ok()?).ok();
    whole.filter_map(read).collect()
}
