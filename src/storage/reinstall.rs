//! A fresh root for a stopped guest, over the image it was made from or another: what makes it this
//! guest is written anew, what clients know the server by is kept, and so are the files its owner
//! names. The old root is a stranger's: read by descriptor, links resolved inside it.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{self, FileType, XattrFlags};
use rustix::io::Errno;

use super::chain::Chain;
use super::dirfd::{
    FileError, Owner, child_dir, child_file, cname, file_type, is_file, names, read_limited,
};
use super::driver::Quota;
use super::first_boot::{FirstBoot, FirstBootError, write_all};
use super::image::Image;
use super::merged::{Merged, split};
use super::merged_copy::{Copy, Fate};
use super::merged_folder::{Entry, Folder, OPAQUE, entry};
use super::pool::{Pool, PoolError};
use super::remove::remove_tree;
use super::renew::{Renewal, renew};
use super::root::{Origin, RootError};
use super::take_over::machine_id_in;
use crate::kernel::fault;
use crate::model::{GuestName, Layout};

/// Most SSH host keys, and most bytes of one.
const KEYS_MOST: usize = 32;
const KEY_MOST: u64 = 64 << 10;

/// What a fresh root is to have.
#[derive(Debug)]
pub struct Fresh<'a> {
    /// Where it is to lie, and how large it may be.
    pub pool: (&'a Pool, Quota),
    /// What is written into it. The machine id is that of the old root, if it has one.
    pub boot: &'a FirstBoot,
    /// Absolute paths inside the guest whose files it gets from the old root.
    pub keep: &'a [String],
    /// What becomes true of the guest with it.
    pub note: &'a [u8],
}

/// A fresh root that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ReinstallError {
    /// The root itself.
    #[error(transparent)]
    Root(#[from] RootError),
    /// What is written into it.
    #[error(transparent)]
    FirstBoot(#[from] FirstBootError),
}

impl From<FileError> for ReinstallError {
    fn from(error: FileError) -> Self {
        Self::Root(error.into())
    }
}

impl From<PoolError> for ReinstallError {
    fn from(error: PoolError) -> Self {
        Self::Root(error.into())
    }
}

/// Whether all these paths are in a stopped guest's root.
///
/// # Errors
/// One is not there, or is a device or a socket.
pub fn check_keep(
    layout: &Layout,
    name: &GuestName,
    image: &Image,
    keep: &[String],
) -> Result<(), FileError> {
    let tree = Merged::open(layout, name, image)?;
    for path in keep {
        let failed = |e: io::Error| FileError::new("keep", Path::new(path), e);
        let (parent, last) = split(path.as_bytes());
        let there = match tree.folder_bytes(parent).map_err(failed)? {
            None => Entry::Nothing,
            Some(folder) => entry(&folder, &cname(last).map_err(failed)?).map_err(failed)?,
        };
        match there {
            Entry::Nothing => {
                return Err(failed(io::Error::other(format!(
                    "it is not in the guest: leave it out, or see what is with `bulkhead file ls {name}:/`"
                ))));
            }
            Entry::File { stat, .. }
                if !matches!(file_type(&stat), FileType::RegularFile | FileType::Fifo) =>
            {
                return Err(failed(io::Error::other("it is a device or a socket")));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Gives a stopped guest a fresh root over the image `new` in the place of its own over `old`.
///
/// # Errors
/// As [`super::create_root`] and [`super::first_boot`]; a file cannot be kept. The root is then as it
/// was.
pub fn reinstall_root(
    layout: &Layout,
    name: &GuestName,
    (old, new): (&Image, &Image),
    wish: &Fresh<'_>,
) -> Result<(), ReinstallError> {
    let (pool, quota) = wish.pool;
    let origin = Origin::over(Chain::default(), pool.place(layout, quota)?, quota);
    let renewal = Renewal {
        image: new,
        origin: &origin,
        note: wish.note,
    };
    renew(layout, name, &renewal, |folder| {
        let tree = Merged::of_root(folder, new)?;
        let before = Merged::open(layout, name, old)?;
        let mut boot = wish.boot.clone();
        if let Some(id) = machine_id_in(&before) {
            boot.machine_id = id;
        }
        write_all(&tree, name, new, &boot)?;
        host_keys(&before, &tree)?;
        Ok(keep_paths((&before, &tree), folder, wish.keep)?)
    })
}

/// Copies what is at these paths in the old root into the new one, which lies in `folder`; all that was
/// written into that is on disk then.
pub(super) fn keep_paths(
    (old, new): (&Merged, &Merged),
    folder: &Path,
    paths: &[String],
) -> Result<(), FileError> {
    for path in paths {
        let failed = |e: io::Error| FileError::new("keep", Path::new(path), e);
        fault::point().map_err(|e| failed(e.errno.into()))?;
        keep(old, new, path)?;
    }
    let top = new.top().map_err(|e| FileError::new("open", folder, e))?;
    if let Some(upper) = &top.upper {
        fs::syncfs(upper).map_err(|e| FileError::new("write", folder, e))?;
    }
    Ok(())
}

/// The keys by which clients know the server: regular files of the old root, no links.
pub(super) fn host_keys(old: &Merged, new: &Merged) -> Result<(), FileError> {
    // What leads nowhere, or to something that is no folder, has no keys.
    let Ok(Some(folder)) = old.folder("etc/ssh") else {
        return Ok(());
    };
    let failed = |e: io::Error| FileError::new("read", Path::new("/etc/ssh"), e);
    let mut all = BTreeSet::new();
    for side in folder.folders() {
        let of_host = names(side).map_err(|e| failed(e.into()))?.into_iter();
        all.extend(of_host.filter(|name| name.to_bytes().starts_with(b"ssh_host_")));
    }
    for name in all.into_iter().take(KEYS_MOST) {
        let (Entry::File { dir, stat }, Ok(shown)) =
            (entry(&folder, &name).map_err(failed)?, name.to_str())
        else {
            continue;
        };
        if !is_file(&stat) || !u64::try_from(stat.st_size).is_ok_and(|size| size <= KEY_MOST) {
            continue;
        }
        let file = child_file(&dir, &name).map_err(|e| failed(e.into()))?;
        let data = read_limited(file, KEY_MOST).map_err(failed)?;
        let mode = if shown.ends_with(".pub") {
            0o644
        } else {
            0o600
        };
        new.write(&format!("etc/ssh/{shown}"), &data, Owner::root(mode))?;
    }
    Ok(())
}

/// Copies what is at `path` in the old root into the new one, in place of what is there. Links on the
/// way are followed inside each root; a link at its end stays one.
fn keep(old: &Merged, new: &Merged, path: &str) -> Result<(), FileError> {
    let failed = |e: io::Error| FileError::new("keep", Path::new(path), e);
    let (parent, last) = split(path.as_bytes());
    let from = old.folder_bytes(parent).map_err(failed)?;
    let from = from.ok_or_else(|| failed(Errno::NOENT.into()))?;
    way(old, new, path).map_err(failed)?;
    let (into, _) = new.place(path).map_err(failed)?;
    let last = cname(last).map_err(failed)?;
    remove_tree(&into, &last, Path::new(path))?;
    let everything = |_: &[u8], _| Fate::Keep;
    Copy::new(&into, &everything)
        .one_of(&from, &last)
        .map_err(|e| {
            let parent = Path::new(path).parent().unwrap_or(Path::new("/"));
            FileError::new("keep", &parent.join(e.path), e.source)
        })?;
    hide_below(&into, &last).map_err(failed)
}

/// Folders on the way to `path` that the new root does not have, as they were in the old one.
fn way(old: &Merged, new: &Merged, path: &str) -> io::Result<()> {
    let ends = path.match_indices('/').map(|(at, _)| &path[..at]);
    for above in ends.filter(|above| !above.is_empty()) {
        if new.folder(above)?.is_some() {
            continue;
        }
        new.dir(above, 0o755).map_err(|e| e.source)?;
        let was = old.folder(above)?;
        let made = new.folder(above)?;
        let was = was.as_ref().and_then(Folder::top);
        let made = made.as_ref().and_then(|folder| folder.upper.as_ref());
        if let (Some(was), Some(made)) = (was, made) {
            Owner::of(&fs::fstat(was)?).apply(made)?;
        }
    }
    Ok(())
}

/// Of a folder that was kept, nothing of the new image shows through.
fn hide_below(into: &OwnedFd, name: &std::ffi::CStr) -> io::Result<()> {
    match child_dir(into, name) {
        Ok(folder) => Ok(fs::fsetxattr(&folder, OPAQUE, b"y", XattrFlags::empty())?),
        Err(Errno::NOTDIR | Errno::LOOP) => Ok(()),
        Err(e) => Err(e.into()),
    }
}
