//! Snapshots in the archive of a guest. Each layer that they list is packed once: those of the guest's
//! own as `root/N`, the others as `snapshot/N`. In the new guest a layer is one again where its pool
//! keeps layers, and a copy of the guest's whole layer where it keeps copies. Their records are the
//! guest room's, and are written before what they lead to is made, so that it is never nobody's.

use std::os::fd::AsFd as _;
use std::path::PathBuf;

use rustix::fs;
use rustix::io::Errno;

use super::chain::{self, Chain};
use super::dirfd::{FileError, Owner, child_dir, ensure_private, make_dir, open_dir};
use super::driver::{Driver, Object, Quota};
use super::first_boot::{FirstBoot, FirstBootError, write_all};
use super::image::{Progress, load_image};
use super::merged::Merged;
use super::pack::{ReceivedImage, pause};
use super::pack_format::{Manifest, PackError, PackedSnapshot, saved_part, sealed_part};
use super::pack_read::Unpacker;
use super::pack_write::Packer;
use super::place::{self, Place};
use super::reinstall::host_keys;
use super::root;
use super::saved::{InPool, Saved, renamed, tree_of_saved};
use crate::kernel::random;
use crate::model::{GuestName, Layout};

/// A tree that only snapshots lead to.
#[derive(Debug)]
enum Tree {
    /// A layer that was set aside.
    Layer(PathBuf),
    /// A copy of a guest's own.
    Copy(Object),
}

/// What is kept for a guest's snapshots: the trees to pack, and of each snapshot the parts it is made
/// of, the lowest first.
#[derive(Debug, Default)]
pub struct SavedTrees {
    trees: Vec<Tree>,
    /// In the order of the snapshots.
    pub layers: Vec<Vec<String>>,
}

impl SavedTrees {
    /// Of these snapshots of a guest.
    ///
    /// # Errors
    /// The guest's root cannot be read.
    pub fn of(layout: &Layout, name: &GuestName, all: &[&Saved]) -> Result<Self, PackError> {
        let own = own_layers(layout, name)?;
        let mut found = Self::default();
        for saved in all {
            let mut parts = Vec::new();
            match saved {
                Saved::Copy(InPool(place)) => {
                    parts.push(saved_part(found.trees.len()));
                    found.trees.push(Tree::Copy(place.object()));
                }
                Saved::Layers { chain, .. } => {
                    for layer in chain.0.iter().rev() {
                        parts.push(match own.iter().position(|one| one == layer) {
                            Some(number) => sealed_part(number),
                            None => saved_part(found.place(layer)),
                        });
                    }
                }
            }
            found.layers.push(parts);
        }
        Ok(found)
    }

    /// The number of a layer among the trees; one that is new comes last.
    fn place(&mut self, layer: &PathBuf) -> usize {
        let is_it = |tree: &Tree| matches!(tree, Tree::Layer(path) if path == layer);
        self.trees.iter().position(is_it).unwrap_or_else(|| {
            self.trees.push(Tree::Layer(layer.clone()));
            self.trees.len() - 1
        })
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.trees.len()
    }

    /// Packs them.
    ///
    /// # Errors
    /// One cannot be read, the stream cannot be written.
    pub fn pack(&self, packer: &mut Packer<'_>) -> Result<(), PackError> {
        for (number, tree) in self.trees.iter().enumerate() {
            let part = saved_part(number);
            match tree {
                Tree::Layer(layer) => {
                    let tree = layer.join("root");
                    packer.tree(&part, &tree, open_dir(&tree)?.as_fd())?;
                }
                Tree::Copy(object) => {
                    let opened = object.open()?;
                    packer.upper(&part, &opened.shown, &opened.folder)?;
                }
            }
        }
        Ok(())
    }
}

/// Folders of the guest's layers that were set aside, the lowest first.
fn own_layers(layout: &Layout, name: &GuestName) -> Result<Vec<PathBuf>, FileError> {
    let path = root::folder(layout, name);
    let chain = Chain::read(open_dir(&path)?.as_fd());
    let mut layers = chain.map_err(|e| FileError::new("read", &path, e))?.0;
    layers.reverse();
    Ok(layers)
}

/// Where the snapshots of an archive go in a new guest.
#[derive(Debug)]
pub struct SavedPlan {
    /// What is kept of each; `None` of one that this guest's pool cannot have.
    pub saved: Vec<Option<Saved>>,
    trees: Vec<Option<Tree>>,
    quota: Quota,
}

/// Plans where those snapshots of an archive go for which `wanted` says so. The guest's own layers that
/// were set aside are there already.
///
/// # Errors
/// The guest's root cannot be read.
pub fn plan_saved(
    layout: &Layout,
    name: &GuestName,
    manifest: &Manifest,
    (wanted, quota): (&[bool], Quota),
) -> Result<SavedPlan, PackError> {
    let path = root::folder(layout, name);
    let object = place::object(layout, name)?;
    let place = Place::read(open_dir(&path)?.as_fd());
    let place = place.map_err(|e| FileError::new("read", &path, e))?;
    let own = own_layers(layout, name)?;
    let layers = chain::layers_of(layout, &object.path, &path);
    let mut plan = SavedPlan {
        saved: Vec::new(),
        trees: (0..manifest.saved()).map(|_| None).collect(),
        quota,
    };
    for (one, wanted) in manifest.guest.snapshots.iter().zip(wanted) {
        let saved = match (wanted, object.driver, &place) {
            (false, _, _) => None,
            (true, Driver::Overlay, place) => {
                let mut chain = Vec::new();
                for part in &one.layers {
                    let layer = match number_of(part, "root/") {
                        Some(number) => own.get(number).cloned(),
                        None => plan.layer(part, &layers)?,
                    };
                    chain.extend(layer);
                }
                chain.reverse();
                Some(Saved::Layers {
                    chain: Chain(chain),
                    place: place.clone().map(InPool),
                })
            }
            (true, _, Some(place)) => plan.copy(one, place)?,
            (true, _, None) => None,
        };
        plan.saved.push(saved);
    }
    Ok(plan)
}

impl SavedPlan {
    /// The folder of the layer that a part becomes.
    fn layer(
        &mut self,
        part: &str,
        layers: &std::path::Path,
    ) -> Result<Option<PathBuf>, PackError> {
        let failed = |errno| FileError::new("set aside", layers, errno);
        let Some(tree) = number_of(part, "snapshot/").and_then(|n| self.trees.get_mut(n)) else {
            return Ok(None);
        };
        if tree.is_none() {
            let id = random::hex(8).map_err(|e| failed(e.errno))?;
            *tree = Some(Tree::Layer(layers.join(id)));
        }
        Ok(match tree {
            Some(Tree::Layer(path)) => Some(path.clone()),
            _ => None,
        })
    }

    /// A copy of its own for a snapshot that is one tree which no other has.
    fn copy(&mut self, one: &PackedSnapshot, place: &Place) -> Result<Option<Saved>, PackError> {
        let [part] = one.layers.as_slice() else {
            return Ok(None);
        };
        let tree = number_of(part, "snapshot/").and_then(|n| self.trees.get_mut(n));
        let Some(tree @ None) = tree else {
            return Ok(None);
        };
        let copy = renamed(place)?;
        *tree = Some(Tree::Copy(copy.object()));
        Ok(Some(Saved::Copy(InPool(copy))))
    }

    /// Reads the trees; those that go nowhere are passed over. Gives the number of attributes left out.
    ///
    /// # Errors
    /// One is damaged or asks for what it may not have, the disk is full.
    pub fn receive(
        &self,
        unpacker: &mut Unpacker,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<u64, PackError> {
        let mut left_out = 0;
        for (number, tree) in self.trees.iter().enumerate() {
            let part = saved_part(number);
            progress(Progress::Phase(format!("unpacking {part}")));
            let (top, shown, _opened) = match tree {
                None => {
                    unpacker.part(&part, None)?;
                    continue;
                }
                Some(Tree::Layer(path)) => {
                    pause(path)?;
                    let shown = path.join("root");
                    let top = make_dir(&ensure_private(path)?, c"root", Owner::root(0o755));
                    let top = top.map_err(|e| FileError::new("set aside", &shown, e))?;
                    (top, shown, None)
                }
                Some(Tree::Copy(object)) => {
                    pause(&object.path)?;
                    object.make(self.quota, Owner::root(0o755))?;
                    let opened = object.open()?;
                    let shown = opened.shown.join("upper");
                    let top = child_dir(&opened.folder, c"upper");
                    let top = top.map_err(|e| FileError::new("open", &shown, e))?;
                    (top, shown, Some(opened))
                }
            };
            left_out += unpacker.part(&part, Some((top.as_fd(), &shown)))?;
            fs::syncfs(&top).map_err(|e| FileError::new("write to disk", &shown, e))?;
            pause(&shown)?;
        }
        Ok(left_out)
    }

    /// Makes what the snapshots keep this guest's own: its identity, and the keys that it has by now, are
    /// written into the topmost tree of each. Gives those whose files do not let that be done, with the
    /// reason.
    ///
    /// # Errors
    /// A file cannot be written, for a reason that is not in the files of a snapshot.
    pub fn settle(
        &self,
        layout: &Layout,
        name: &GuestName,
        (manifest, received): (&Manifest, &ReceivedImage),
        boot: &FirstBoot,
    ) -> Result<Vec<(String, String)>, FirstBootError> {
        let mut unusable = Vec::new();
        let now = Merged::open(layout, name, &received.image)?;
        for (one, saved) in manifest.guest.snapshots.iter().zip(&self.saved) {
            let Some(saved) = saved else {
                continue;
            };
            // What nothing was written in has nobody's identity.
            if matches!(saved, Saved::Layers { chain, .. } if chain.0.is_empty()) {
                continue;
            }
            let other = match received.of(&one.image) {
                Some(image) => Some(image.clone()),
                None => load_image(layout, &one.image).ok(),
            };
            let image = other.as_ref().unwrap_or(&received.image);
            let settled = || -> Result<(), FirstBootError> {
                let tree = tree_of_saved(saved, image)?;
                write_all(&tree, name, image, boot)?;
                Ok(host_keys(&now, &tree)?)
            };
            match settled() {
                Err(FirstBootError::File(error)) if is_of_tree(&error) => {
                    unusable.push((one.name.clone(), error.to_string()));
                }
                settled => settled?,
            }
        }
        Ok(unusable)
    }
}

/// Whether a step failed because of what a tree is like, such as one whose `/etc` is a file.
fn is_of_tree(error: &FileError) -> bool {
    let errno = error.source.raw_os_error().map(Errno::from_raw_os_error);
    let of_tree = [
        Errno::NOTDIR,
        Errno::ISDIR,
        Errno::LOOP,
        Errno::EXIST,
        Errno::NOTEMPTY,
        Errno::XDEV,
        Errno::NXIO,
        Errno::INVAL,
        Errno::NAMETOOLONG,
    ];
    errno.is_none_or(|errno| of_tree.contains(&errno))
}

/// The number in the name of a part.
fn number_of(part: &str, prefix: &str) -> Option<usize> {
    part.strip_prefix(prefix)?.parse().ok()
}
