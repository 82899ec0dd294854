//! A new root that shares nothing with the one that it begins as, but the image that both lie over:
//! whatever the kind of either pool, what lies over the image is copied file by file into a fresh layer.
//! Layers that were set aside come together in it: one name is what the topmost that has it says, and
//! what they hide of the image stays hidden.

use std::collections::{BTreeSet, HashMap};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;

use rustix::fs;
use rustix::io::Errno;

use super::base_equal::is_elsewhere;
use super::chain::Chain;
use super::dirfd::{FileError, child_dir, is_dir, names, open_dir, stat_at};
use super::driver::Quota;
use super::image::Image;
use super::merged_folder::{OPAQUE, is_opaque};
use super::place::{self, Opened};
use super::pool::Pool;
use super::root::{self, Origin, RootError};
use super::saved::{InPool, Saved};
use super::tree_copy::{PIECE, copy_tree, pour};
use super::tree_item::{Item, failed};
use super::tree_policy::Policy;
use super::tree_read::Found;
use super::tree_write::TreeWriter;
use crate::kernel::filesystem::Disk;
use crate::kernel::{fault, interrupt};
use crate::model::{GuestName, Layout};

/// Deepest folder that is followed where layers come together: each is looked up from the top, so that
/// few are open at once.
const DEEPEST: usize = 256;

/// What a root begins as.
#[derive(Clone, Copy, Debug)]
pub enum Model<'a> {
    /// A guest, which is stopped or held still, and stays so.
    Guest(&'a GuestName),
    /// What was kept of one.
    Saved(&'a Saved),
}

/// Makes the root of a guest that has none, over the same image as the model, in any pool.
///
/// # Errors
/// As [`super::create_root`]; the model's files cannot be read, or do not fit.
pub fn create_root_as(
    layout: &Layout,
    name: &GuestName,
    image: &Image,
    model: Model<'_>,
    (pool, quota): (&Pool, Quota),
) -> Result<(), RootError> {
    let layers = Layers::of(layout, model)?;
    let origin = Origin::over(Chain::default(), pool.place(layout, quota)?, quota);
    root::create_from(layout, name, image, &origin, |folder| {
        Ok(layers.copy_to(&place::object_of(folder)?.open()?)?)
    })
}

/// What lies over the image.
struct Layers {
    /// Topmost first.
    trees: Vec<OwnedFd>,
    /// Keeps a filesystem in a file mounted.
    _disk: Option<Disk>,
}

impl Layers {
    fn of(layout: &Layout, model: Model<'_>) -> Result<Self, FileError> {
        let (own, set_aside) = match model {
            Model::Guest(name) => {
                let opened = place::open(layout, name)?;
                (Some(opened), root::lowers_set_aside(layout, name)?)
            }
            Model::Saved(Saved::Layers { chain, .. }) => (None, chain.trees().collect()),
            Model::Saved(Saved::Copy(InPool(place))) => (Some(place.object().open()?), Vec::new()),
        };
        Self::open(own, &set_aside)
    }

    fn open(own: Option<Opened>, set_aside: &[PathBuf]) -> Result<Self, FileError> {
        let (mut trees, mut disk) = (Vec::new(), None);
        if let Some(own) = own {
            let upper = child_dir(&own.folder, c"upper");
            trees.push(upper.map_err(|e| FileError::new("open", &own.shown.join("upper"), e))?);
            disk = own.disk;
        }
        for tree in set_aside {
            trees.push(open_dir(tree)?);
        }
        Ok(Self { trees, _disk: disk })
    }

    fn copy_to(&self, new: &Opened) -> Result<(), FileError> {
        let shown = new.shown.join("upper");
        let at = |e: Errno| FileError::new("copy into", &shown, e);
        let upper = child_dir(&new.folder, c"upper").map_err(at)?;
        fault::point().map_err(|e| at(e.errno))?;
        match self.trees.as_slice() {
            // Nothing was written over the image.
            [] => {}
            // However deep it is.
            [one] => {
                copy_tree(one.as_fd(), &upper, Policy::Everything)?;
            }
            many => {
                Together::into(&upper, many)?;
            }
        }
        fs::syncfs(&upper).map_err(at)?;
        fault::point().map_err(|e| at(e.errno))
    }
}

/// Layers that come together in one tree.
struct Together<'a> {
    trees: &'a [OwnedFd],
    writer: TreeWriter,
    /// Where a file with several names was met first, by device and inode.
    linked: HashMap<(u64, u64), Vec<u8>>,
    buffer: Vec<u8>,
}

impl<'a> Together<'a> {
    fn into(upper: &OwnedFd, trees: &'a [OwnedFd]) -> Result<(), FileError> {
        let mut together = Self {
            trees,
            writer: TreeWriter::new(upper, Policy::Everything)?,
            linked: HashMap::new(),
            buffer: vec![0; PIECE],
        };
        let top = trees
            .first()
            .ok_or_else(|| failed("read", b"", Errno::NOENT))?;
        let item = Found::top(top.as_fd(), &look(top)?).item()?;
        let (item, _) = item.ok_or_else(|| failed("read", b"", Errno::STALE))?;
        together.writer.item(plain(item, false)?)?;
        together.folder(&mut Vec::new(), &(0..trees.len()).collect::<Vec<_>>())?;
        together.writer.finish().map(|_| ())
    }

    /// Copies what is in a folder that these layers have a part of.
    fn folder(&mut self, path: &mut Vec<CString>, layers: &[usize]) -> Result<(), FileError> {
        let shown = joined(path);
        if path.len() > DEEPEST {
            let why = format!("more than {DEEPEST} folders deep");
            return Err(failed("copy", &shown, io::Error::other(why)));
        }
        let mut parts = self.parts(path, layers)?;
        let mut all = BTreeSet::new();
        for (_, part) in &parts {
            all.extend(names(part).map_err(|e| failed("read", &shown, e))?);
        }
        for name in all {
            if interrupt::caught().is_some() {
                let stopped = io::Error::new(io::ErrorKind::Interrupted, "interrupted by a signal");
                return Err(failed("copy", &shown, stopped));
            }
            path.push(name);
            if let Some(below) = self.one(&parts, path)? {
                // However deep it is, the folders of one level are open.
                parts.clear();
                self.folder(path, &below)?;
                path.pop();
                parts = self.parts(path, layers)?;
            } else {
                path.pop();
            }
        }
        Ok(())
    }

    /// The folder in each of these layers.
    fn parts(
        &self,
        path: &[CString],
        layers: &[usize],
    ) -> Result<Vec<(usize, OwnedFd)>, FileError> {
        let part = |number: &usize| -> io::Result<(usize, OwnedFd)> {
            let mut here = self.trees.get(*number).ok_or(Errno::NOENT)?.try_clone()?;
            for name in path {
                here = child_dir(&here, name)?;
            }
            Ok((*number, here))
        };
        let parts = layers.iter().map(part);
        parts
            .collect::<io::Result<_>>()
            .map_err(|e| failed("open", &joined(path), e))
    }

    /// Makes what the topmost layer that has a name says. Of a folder gives the layers that have a part
    /// of it: as in overlayfs it ends at one that is opaque, or at what is none.
    fn one(
        &mut self,
        parts: &[(usize, OwnedFd)],
        path: &[CString],
    ) -> Result<Option<Vec<usize>>, FileError> {
        let (shown, Some(name)) = (joined(path), path.last()) else {
            return Ok(None);
        };
        let at = |e: Errno| failed("read", &shown, e);
        let (mut first, mut layers, mut hides) = (None, Vec::new(), false);
        for (number, part) in parts {
            let Some(stat) = stat_at(part, name).map_err(at)? else {
                continue;
            };
            let folder = is_dir(&stat);
            if first.is_none() {
                first = Some((part, stat));
            } else if !folder {
                hides = true;
            }
            if !folder {
                break;
            }
            layers.push(*number);
            hides = is_opaque(&child_dir(part, name).map_err(at)?);
            if hides {
                break;
            }
        }
        let Some((part, stat)) = first else {
            return Ok(None);
        };
        let id = (stat.st_dev, stat.st_ino);
        let linked = stat.st_nlink > 1 && !is_dir(&stat);
        let earlier = self.linked.get(&id).filter(|_| linked).cloned();
        if linked && earlier.is_none() {
            self.linked.insert(id, shown.clone());
        }
        let found = Found::met(&shown, (part.as_fd(), name), &stat, earlier.as_deref());
        let (item, content) = found.item()?.ok_or_else(|| at(Errno::STALE))?;
        let sink = self.writer.item(plain(item, hides)?)?;
        if let (Some(sink), Some(content)) = (sink, content) {
            let sink = pour(content, sink, &shown, &mut self.buffer)?;
            self.writer.close(sink)?;
        }
        Ok(is_dir(&stat).then_some(layers))
    }
}

/// Without what the overlay has noted of the layer that it was in, but whether it hides what is below.
fn plain(mut item: Item, hides: bool) -> Result<Item, FileError> {
    if is_elsewhere(&item.xattrs) {
        let why = "overlayfs finds it under another name";
        return Err(failed("copy", &item.path, io::Error::other(why)));
    }
    item.xattrs
        .retain(|(name, _)| !name.starts_with(b"trusted.overlay."));
    if hides {
        item.xattrs
            .push((OPAQUE.to_bytes().to_vec(), b"y".to_vec()));
    }
    Ok(item)
}

fn look(folder: &OwnedFd) -> Result<fs::Stat, FileError> {
    fs::fstat(folder).map_err(|e| failed("look at", b"", e))
}

fn joined(path: &[CString]) -> Vec<u8> {
    let parts: Vec<&[u8]> = path.iter().map(|name| name.to_bytes()).collect();
    parts.join(&b'/')
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
    use std::path::Path;

    use super::super::seed::tests::TempDir;
    use super::*;

    fn put(path: &Path, text: &str) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// What three layers say together, with what they hide; whiteouts only root can make.
    #[test]
    fn the_topmost_layer_that_has_a_name_says_what_it_is() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let temp = TempDir::new("full-copy");
        let [top, middle, low, new] = ["top", "middle", "low", "new"].map(|n| temp.path().join(n));
        let whiteout = |path: &Path| {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            let kind = fs::FileType::CharacterDevice;
            fs::mknodat(fs::CWD, path, kind, fs::Mode::empty(), 0).unwrap();
        };
        put(&low.join("d/a"), "low");
        put(&low.join("d/b"), "low");
        put(&low.join("hidden/x"), "low");
        put(&low.join("file-then-folder"), "low");
        std::fs::hard_link(low.join("d/b"), low.join("d/c")).unwrap();
        put(&middle.join("d/a"), "middle");
        put(&middle.join("file-then-folder/y"), "middle");
        put(&middle.join("hidden/z"), "middle");
        let hide = |folder: &Path| {
            let folder = open_dir(folder).unwrap();
            fs::fsetxattr(&folder, OPAQUE, b"y", fs::XattrFlags::empty()).unwrap();
        };
        hide(&middle.join("hidden"));
        whiteout(&top.join("d/gone-of-the-image"));
        symlink("a", top.join("d/to")).unwrap();
        std::fs::set_permissions(top.join("d"), std::fs::Permissions::from_mode(0o1750)).unwrap();
        std::fs::create_dir(&new).unwrap();

        let trees = [&top, &middle, &low].map(|path| open_dir(path).unwrap());
        Together::into(&open_dir(&new).unwrap(), &trees).unwrap();
        let text = |path: &str| std::fs::read_to_string(new.join(path)).unwrap();
        assert_eq!([text("d/a"), text("d/b")], ["middle", "low"]);
        assert_eq!(text("file-then-folder/y"), "middle");
        assert_eq!(text("hidden/z"), "middle");
        assert!(!new.join("hidden/x").exists());
        let stat = |path: &str| new.join(path).symlink_metadata().unwrap();
        assert_eq!(stat("d/b").ino(), stat("d/c").ino());
        assert_eq!(stat("d").mode() & 0o7777, 0o1750);
        assert_eq!(stat("d/gone-of-the-image").rdev(), 0);
        assert!(stat("d/to").is_symlink());
        let opaque = |path: &str| is_opaque(&open_dir(&new.join(path)).unwrap());
        assert!(opaque("hidden") && opaque("file-then-folder") && !opaque("d"));
        assert_ne!(stat("d/b").ino(), low.join("d/b").metadata().unwrap().ino());
    }
}
