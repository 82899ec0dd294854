//! What is different between a guest's root as it was and as it is, or as it was at two moments: the
//! layers of each put together, and compared by `tree_diff`. The guest's lock is held where they are
//! opened, since a file gets its loop device there, but not while they are compared, so that nobody
//! waits; whether both were the same trees all along is looked at again at the end.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs;

use super::chain::Chain;
use super::dirfd::{FileError, child_dir, open_dir};
use super::driver::Object;
use super::image::Image;
use super::place;
use super::root::{self, RootError};
use super::saved::{InPool, Saved};
use super::tree_diff::{self, Stack, TreeDiff};
use super::tree_same::Proof;
use crate::kernel::filesystem::Disk;
use crate::model::{GuestName, Layout};

/// How long a copy of a filesystem can take, seconds, generously: what was changed in that time before
/// it was done is compared by its data.
const COPY: i64 = 600;

/// A guest's tree, and the image below it.
#[derive(Clone, Copy, Debug)]
pub enum TreeOf<'a> {
    /// As it is now.
    Now(&'a GuestName, &'a Image),
    /// As it was kept.
    Saved(&'a Saved, &'a Image),
}

/// The tree, opened; a filesystem in a file is mounted as long as this lives.
struct Opened {
    stack: Stack,
    _disk: Option<Disk>,
}

/// Two trees to compare, opened.
pub struct TwoTrees<'a> {
    layout: &'a Layout,
    trees: [TreeOf<'a>; 2],
    opened: [Opened; 2],
}

impl<'a> TwoTrees<'a> {
    /// Opens both. The guest's lock is held.
    ///
    /// # Errors
    /// One of them cannot be read.
    pub fn open(layout: &'a Layout, trees: [TreeOf<'a>; 2]) -> Result<Self, RootError> {
        let opened = [open(layout, trees[0])?, open(layout, trees[1])?];
        Ok(Self {
            layout,
            trees,
            opened,
        })
    }

    /// What is different in the second; `kept_ms` is when the older of the two was kept, in
    /// milliseconds since 1970. It counts only if [`TwoTrees::close`] says so.
    ///
    /// # Errors
    /// One of them cannot be read.
    pub fn diff(&self, kept_ms: u64) -> Result<TreeDiff, RootError> {
        let settled = i64::try_from(kept_ms / 1000).unwrap_or(0) - COPY;
        let [left, right] = &self.opened;
        let found = tree_diff::diff(&left.stack, &right.stack, Proof { settled });
        Ok(found?)
    }

    /// Checks that they are what they were when they were opened, and lets go of them. The guest's
    /// lock is held.
    ///
    /// # Errors
    /// One was changed by another command meanwhile.
    pub fn close(self) -> Result<(), RootError> {
        for (tree, opened) in self.trees.into_iter().zip(&self.opened) {
            let again = open(self.layout, tree);
            if !again.is_ok_and(|again| is_same(&again.stack, &opened.stack)) {
                let why = std::io::Error::other(
                    "another command has changed or removed it meanwhile: repeat when that is done",
                );
                return Err(FileError::new("compare", &shown(self.layout, tree), why).into());
            }
        }
        Ok(())
    }
}

fn open(layout: &Layout, tree: TreeOf<'_>) -> Result<Opened, FileError> {
    match tree {
        TreeOf::Now(name, image) => {
            let path = root::folder(layout, name);
            let folder = open_dir(&path)?;
            let chain =
                Chain::read(folder.as_fd()).map_err(|e| FileError::new("read", &path, e))?;
            let object = place::object(layout, name)?;
            opened(Some(&object), chain.trees().collect(), image)
        }
        TreeOf::Saved(Saved::Layers { chain, .. }, image) => {
            opened(None, chain.trees().collect(), image)
        }
        TreeOf::Saved(Saved::Copy(InPool(place)), image) => {
            opened(Some(&place.object()), Vec::new(), image)
        }
    }
}

fn opened(
    object: Option<&Object>,
    set_aside: Vec<PathBuf>,
    image: &Image,
) -> Result<Opened, FileError> {
    let mut layers = Vec::new();
    let mut disk = None;
    if let Some(object) = object {
        let opened = object.open()?;
        let upper = child_dir(&opened.folder, c"upper");
        layers.push(upper.map_err(|e| FileError::new("open", &opened.shown, e))?);
        disk = opened.disk;
    }
    let own = layers.len() + set_aside.len();
    for tree in set_aside.into_iter().chain(image.lowers()) {
        layers.push(open_dir(&tree)?);
    }
    Ok(Opened {
        stack: Stack { layers, own },
        _disk: disk,
    })
}

fn is_same(a: &Stack, b: &Stack) -> bool {
    let id = |layer: &OwnedFd| fs::fstat(layer).map(|stat| (stat.st_dev, stat.st_ino));
    let all = |stack: &Stack| stack.layers.iter().map(id).collect::<Result<Vec<_>, _>>();
    matches!((all(a), all(b)), (Ok(a), Ok(b)) if a == b)
}

fn shown(layout: &Layout, tree: TreeOf<'_>) -> PathBuf {
    match tree {
        TreeOf::Now(name, _) => root::folder(layout, name),
        TreeOf::Saved(Saved::Copy(InPool(place)), _) => place.object().path,
        TreeOf::Saved(Saved::Layers { chain, .. }, image) => {
            let top = chain.0.first();
            top.map_or_else(|| image.path.clone(), |top| Path::to_owned(top))
        }
    }
}
