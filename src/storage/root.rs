//! A guest's own layer over its image: `guests/NAME/root/{upper,work}`, or `place.json` which says
//! where they are, and the digest of the image below it. Made, described to the launch, measured and
//! deleted here; never mounted.

use std::collections::{HashMap, HashSet};
use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{self, FlockOperation, RenameFlags};
use rustix::io::Errno;

use super::chain::Chain;
use super::dirfd::{self, FileError, Owner, child_dir, cname, ensure_private, make_dir, open_dir};
use super::driver::{self, Driver, Object, Quota};
use super::driver_folder;
use super::image::Image;
use super::place::{self, Place};
use super::pool::{Pool, PoolError};
use crate::kernel::fault;
use crate::model::{GuestName, Layout, MountOp, RootOp};

/// A guest's root that cannot be made, read or deleted.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// There is one already.
    #[error("guest {guest} has a root already in {}", path.display())]
    Exists {
        /// Guest.
        guest: GuestName,
        /// Its root's folder.
        path: PathBuf,
    },
    /// There is none.
    #[error("guest {guest} has no root in {}", path.display())]
    Missing {
        /// Guest.
        guest: GuestName,
        /// Where it should be.
        path: PathBuf,
    },
    /// The image was removed meanwhile.
    #[error("image {digest} for guest {guest} is gone: create the guest again from its template")]
    ImageGone {
        /// Guest.
        guest: GuestName,
        /// Image.
        digest: String,
    },
    /// Its pool is not there or cannot keep to its size.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// A step on a file failed.
    #[error(transparent)]
    File(#[from] FileError),
}

pub(super) fn folder(layout: &Layout, name: &GuestName) -> PathBuf {
    layout.guest(name).join("root")
}

/// Makes the guest's own, empty layer over `image` in `pool`. The guest's folder is made if missing.
/// What fails leaves nothing in it.
///
/// # Errors
/// There is one already; the disk is full or read-only; the pool cannot keep to `quota`.
pub fn create_root(
    layout: &Layout,
    name: &GuestName,
    image: &Image,
    (pool, quota): (&Pool, Quota),
) -> Result<(), RootError> {
    let origin = Origin::over(Chain::default(), pool.place(layout, quota)?, quota);
    create_from(layout, name, image, &origin, |_| Ok(()))
}

/// What a root begins as.
pub(super) enum Origin {
    /// An empty layer in its own folder, over layers that were set aside.
    Own { chain: Chain, quota: Quota },
    /// A layer in a pool.
    Placed {
        place: Place,
        quota: Quota,
        begin: Begin,
    },
}

/// What is in a layer that lies in a pool.
pub(super) enum Begin {
    /// Nothing, over layers that were set aside.
    Over(Chain),
    /// What is in another.
    Copy(Object),
}

impl Origin {
    /// An empty layer over others, in a pool or in its own folder.
    pub(super) fn over(chain: Chain, place: Option<Place>, quota: Quota) -> Self {
        match place {
            None => Self::Own { chain, quota },
            Some(place) => Self::Placed {
                place,
                quota,
                begin: Begin::Over(chain),
            },
        }
    }

    fn chain(&self) -> Option<&Chain> {
        match self {
            Self::Own { chain, .. }
            | Self::Placed {
                begin: Begin::Over(chain),
                ..
            } => Some(chain),
            Self::Placed { .. } => None,
        }
    }
}

/// The same for a root that may begin as a copy; `furnish` writes into the folder it lies in before it is
/// the guest's.
pub(super) fn create_from(
    layout: &Layout,
    name: &GuestName,
    image: &Image,
    origin: &Origin,
    furnish: impl FnOnce(&Path) -> Result<(), RootError>,
) -> Result<(), RootError> {
    let path = folder(layout, name);
    let parent = ensure_private(&layout.guest(name))?;
    let half_made = format!(".root-{}", std::process::id());
    let shown = path.with_file_name(&half_made);
    let temporary = cname(half_made).map_err(|e| FileError::new("create", &path, e))?;
    let failed = |e: std::io::Error| match Errno::from_io_error(&e) {
        Some(Errno::EXIST) => RootError::Exists {
            guest: name.clone(),
            path: path.clone(),
        },
        _ => FileError::new("create root", &path, e).into(),
    };
    let result = (|| {
        let _lock = fill(&parent, &temporary, image, origin).map_err(failed)?;
        furnish(&shown)?;
        arrive(&parent, &temporary).map_err(failed)
    })();
    let there = image.path.exists() && image.lowers().iter().all(|lower| lower.exists());
    if result.is_ok() && !there {
        delete_root(layout, name)?;
        return Err(RootError::ImageGone {
            guest: name.clone(),
            digest: image.digest.clone(),
        });
    }
    if result.is_err() {
        // The first error is the one to report.
        discard(&parent, &temporary, &path).ok();
    }
    result
}

/// Gives a root that is whole its name.
fn arrive(parent: &OwnedFd, temporary: &CString) -> std::io::Result<()> {
    fault::point().map_err(|e| e.errno)?;
    let flags = RenameFlags::NOREPLACE;
    fs::renameat_with(parent, &**temporary, parent, c"root", flags)?;
    fault::point().map_err(|e| e.errno)?;
    Ok(fs::fsync(parent)?)
}

/// Removes a root's folder, and first the layer of it that lies elsewhere.
pub(super) fn discard(parent: &OwnedFd, name: &CString, shown: &Path) -> Result<(), FileError> {
    if let Ok(root) = child_dir(parent, name) {
        let place = Place::read(root.as_fd()).map_err(|e| FileError::new("read", shown, e))?;
        if let Some(place) = place {
            place.object().remove()?;
        }
    }
    driver_folder::remove(parent, name, shown)
}

/// Fills a new root; what it returns holds a lock on it.
pub(super) fn fill(
    parent: &OwnedFd,
    name: &CString,
    image: &Image,
    origin: &Origin,
) -> std::io::Result<OwnedFd> {
    let root = make_dir(parent, name, Owner::root(0o700))?;
    fs::flock(&root, FlockOperation::NonBlockingLockExclusive)?;
    let pause = || fault::point().map_err(|e| std::io::Error::from(e.errno));
    let in_words = |e: FileError| std::io::Error::new(e.source.kind(), e.to_string());
    // The overlay shows the top folder of its upper layer as `/`.
    let top = match origin.chain().and_then(|chain| chain.trees().next()) {
        Some(tree) => Owner::of(&fs::stat(&tree)?),
        None => Owner::root(0o755),
    };
    match origin {
        Origin::Own { quota, .. } => {
            driver::hollow(&root, top)?;
            driver_folder::sell(&root, *quota)?;
        }
        Origin::Placed {
            place,
            quota,
            begin,
        } => {
            // Written first, so that what is made is never nobody's.
            place.write(&root)?;
            pause()?;
            let object = place.object();
            match begin {
                Begin::Over(_) => object.make(*quota, top).map_err(in_words)?,
                Begin::Copy(from) => {
                    let _held = from.copy_to(&object).map_err(in_words)?;
                    object.resize(*quota).map_err(in_words)?;
                }
            }
            pause()?;
        }
    }
    if let Some(chain) = origin.chain().filter(|chain| **chain != Chain::default()) {
        chain.write(&root)?;
    }
    let digest = image.digest.as_bytes();
    dirfd::write_whole(&root, c"image", digest, Owner::root(0o600), true)?;
    Ok(root)
}

/// The read-only trees below the layer of the root in this folder, topmost first.
pub(super) fn lowers_of(root: &Path, image: &Image) -> Result<Vec<PathBuf>, FileError> {
    let mut trees = set_aside_of(root)?;
    trees.extend(image.lowers());
    Ok(trees)
}

/// Those of them that were set aside from the guest's own layer.
pub(super) fn lowers_set_aside(
    layout: &Layout,
    name: &GuestName,
) -> Result<Vec<PathBuf>, FileError> {
    set_aside_of(&folder(layout, name))
}

fn set_aside_of(path: &Path) -> Result<Vec<PathBuf>, FileError> {
    let root = open_dir(path)?;
    let chain = Chain::read(root.as_fd()).map_err(|e| FileError::new("read", path, e))?;
    Ok(chain.trees().collect())
}

/// Changes what a guest may write, whether it runs or not.
///
/// # Errors
/// The driver cannot, or the host's disk is full.
pub fn resize_root(layout: &Layout, name: &GuestName, quota: Quota) -> Result<(), RootError> {
    Ok(place::object(layout, name)?.resize(quota)?)
}

/// Whether [`resize_root`] can, without doing it.
///
/// # Errors
/// The driver cannot.
pub fn check_resize(layout: &Layout, name: &GuestName, quota: Quota) -> Result<(), RootError> {
    let object = place::object(layout, name)?;
    if object.driver == Driver::Overlay && quota != Quota::default() {
        let folder = open_dir(&object.path)?;
        if !driver_folder::is_sold(&folder) {
            return Err(PoolError::Refused {
                name: place::pool_of(layout, name)?,
                why: driver_folder::no_size(folder.as_fd()).into(),
            }
            .into());
        }
    }
    Ok(())
}

/// Layers, and for each the folders of those guests whose roots or snapshots lead to it.
pub type Leads = HashMap<PathBuf, HashSet<String>>;

/// Every layer that some root or snapshot leads to, half-made and half-removed ones among them.
pub(super) fn objects(layout: &Layout) -> Result<HashSet<PathBuf>, FileError> {
    Ok(leads(layout)?.into_keys().collect())
}

/// The same, with whose they are.
///
/// # Errors
/// A record cannot be read.
pub fn leads(layout: &Layout) -> Result<Leads, FileError> {
    let mut found = Leads::new();
    let mut add = |guest: &str, path: PathBuf| -> Result<(), FileError> {
        let failed = |e: std::io::Error| FileError::new("read", &path, e);
        // It may have been removed meanwhile.
        let root = match open_dir(&path) {
            Err(e) if e.source.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        let place = Place::read(root.as_fd()).map_err(failed)?;
        let all = Chain::read(root.as_fd()).map_err(failed)?.0.into_iter();
        for layer in all.chain(place.map(|place| place.object().path)) {
            found.entry(layer).or_default().insert(guest.to_owned());
        }
        Ok(())
    };
    let mut records = Vec::new();
    for guest in super::image::listed(&layout.guests())? {
        let path = layout.guests().join(&guest);
        if guest.starts_with(".trash-") {
            add(&guest, path)?;
            continue;
        }
        for root in super::image::listed(&path)? {
            if root == "root" || root.starts_with(".root-") {
                add(&guest, path.join(root))?;
            }
        }
        records.push((super::saved::records(&path)?, guest));
    }
    for (records, guest) in records {
        for layer in records
            .iter()
            .flat_map(|record| super::saved::leads_to(&record.root))
        {
            found.entry(layer).or_default().insert(guest.clone());
        }
    }
    Ok(found)
}

/// Names of the guests whose layer lies in a pool.
pub fn guests_in(layout: &Layout, pool: &str) -> Result<Vec<String>, FileError> {
    let mut found = Vec::new();
    for guest in super::image::listed(&layout.guests())? {
        let Ok(name) = guest.parse::<GuestName>() else {
            continue;
        };
        let path = folder(layout, &name);
        let Ok(root) = open_dir(&path) else {
            continue;
        };
        if place::of_root(&root, &path)? == pool {
            found.push(guest);
        }
    }
    Ok(found)
}

/// The digest of the image below a guest's layer.
///
/// # Errors
/// The guest has no root, or it cannot be read.
pub fn image_digest(layout: &Layout, name: &GuestName) -> Result<String, RootError> {
    let path = folder(layout, name).join("image");
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(text.trim().to_owned()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Err(RootError::Missing {
            guest: name.clone(),
            path,
        }),
        Err(e) => Err(FileError::new("read", &path, e).into()),
    }
}

/// What the launch is to do for the guest's root: the overlay, and the mounts its image needs.
///
/// # Errors
/// The guest has no root.
pub fn root_ops(
    layout: &Layout,
    name: &GuestName,
    image: &Image,
) -> Result<(RootOp, Vec<MountOp>), RootError> {
    let root = RootOp::Overlay {
        lower: lowers_of(&folder(layout, name), image)?,
        writable: place::writable(layout, name)?,
    };
    Ok((root, image.mounts.clone()))
}

/// Deletes a guest's own layer; none there is success. It is renamed away first, so that half of it
/// is never taken for a root. The image stays.
///
/// # Errors
/// A file cannot be removed, for example because something is still mounted inside; what is left is
/// then listed by [`super::leftovers`].
pub fn delete_root(layout: &Layout, name: &GuestName) -> Result<(), FileError> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let path = folder(layout, name);
    let failed = |e: std::io::Error| FileError::new("delete root", &path, e);
    if !path.exists() {
        return Ok(());
    }
    let guests = open_dir(&layout.guests())?;
    let guest = cname(name.as_str()).map_err(failed)?;
    let guest = child_dir(&guests, &guest).map_err(|e| failed(e.into()))?;
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let trash = format!(".trash-{name}-{}-{number}", std::process::id());
    let trash = cname(trash).map_err(failed)?;
    // Held while it is being deleted, so that `leftovers` of another command passes over it.
    let root = child_dir(&guest, c"root").map_err(|e| failed(e.into()))?;
    fs::flock(root.as_fd(), FlockOperation::NonBlockingLockExclusive)
        .map_err(|e| failed(e.into()))?;
    match fs::renameat(&guest, c"root", &guests, &*trash) {
        Ok(()) => {}
        Err(Errno::NOENT) => return Ok(()),
        Err(e) => return Err(failed(e.into())),
    }
    fault::point().map_err(|e| failed(e.errno.into()))?;
    discard(&guests, &trash, &path)
}
