//! Equal files of images, kept once: machines that were imported one by one have an image each, and a copy
//! each of what they have alike. Where these lie on a filesystem that cannot share blocks, they become
//! names of one file. Only the same path in several trees: two names within one tree stay two files, so an
//! archive of it tells of no link that was not there. Nothing writes into an image's tree, so what is
//! compared stays what it was; which is the only thing that may change names in it is here.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, RenameFlags, Stat};
use rustix::io::Errno;
use serde::Serialize;

use super::base_equal::{is_same, times};
use super::common_look::Same;
use super::dedupe::PATHS_MOST;
use super::dirfd::{FileError, below, cname, is_file, open_dir, stat_at};
use super::image::{ImageError, images, users};
use super::root::image_digest;
use super::tree_read::of_name;
use super::verify::is_marked;
use super::walk::walk;
use super::workshop::Workshop;
use super::{layer, merged};
use crate::kernel::{fault, file, interrupt, share};
use crate::model::{GuestName, Layout};

/// Where packages put what nobody changes. Elsewhere a program may ask how many names a file has: cron
/// runs no table that has two.
const PLACES: [&[u8]; 8] = [
    b"bin", b"lib", b"lib32", b"lib64", b"libx32", b"opt", b"sbin", b"usr",
];
/// Whether overlays keep an index of files with several names, unless their mount says otherwise.
const INDEX: &str = "/sys/module/overlay/parameters/index";
/// Name of a file that is on its way from one tree to another.
const ONE: &std::ffi::CStr = c"one";
/// After so many files it is looked again whether somebody has come to use the tree.
const PIECE: usize = 256;

/// What images have alike and is kept once, or would be.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Linked {
    /// Files of images that are one with another image's from now on.
    pub image_files: u64,
    /// Bytes of disk that this gives back.
    pub image_bytes: u64,
    /// Bytes of memory that it gives back when all of them are in use.
    pub image_memory: u64,
    /// Trees of images that were passed over: guests that use them run, or a command is at work.
    pub image_running: u64,
    /// Files that were left out: they cannot be read or linked, or there were too many.
    pub image_left_out: u64,
}

/// The tree of an image, or of a layer that images share.
#[derive(Debug)]
pub struct ImageTree {
    /// Guests that have it below them, or below a snapshot.
    pub users: BTreeSet<GuestName>,
    path: PathBuf,
    top: OwnedFd,
}

/// A file that can become one with that of another tree.
#[derive(Debug)]
pub struct Twin {
    path: Vec<u8>,
    /// Which tree the other is in.
    other: usize,
    /// What both are now.
    inodes: (u64, u64),
    bytes: u64,
    memory: u64,
}

/// A file where it was met.
struct Copy {
    tree: usize,
    stat: Stat,
}

impl Copy {
    fn id(&self) -> (u64, u64) {
        (self.stat.st_dev, self.stat.st_ino)
    }
}

/// Whether overlays count a file's names by how many it has in the layer below, once for all: then these
/// must stay as they are.
fn counts_names(parameter: &Path) -> bool {
    let text = file::read_small(parameter, 16).ok().flatten();
    text.is_some_and(|text| text.starts_with(b"Y"))
}

/// The trees below these guests, each with all guests that use it. Those on a filesystem whose files can
/// share blocks are no matter of this, and neither are damaged ones; none where overlays keep an index.
///
/// # Errors
/// The record of an image is damaged: nobody knows then who uses what.
pub fn image_trees(layout: &Layout, guests: &[GuestName]) -> Result<Vec<ImageTree>, ImageError> {
    if counts_names(Path::new(INDEX)) {
        return Ok(Vec::new());
    }
    let all = images(layout)?.into_iter().collect::<Result<Vec<_>, _>>()?;
    // One whose record cannot be read is told of by whatever needs it.
    let wanted: BTreeSet<String> = guests
        .iter()
        .filter_map(|name| image_digest(layout, name).ok())
        .collect();
    let mut owners: BTreeMap<PathBuf, Vec<&str>> = BTreeMap::new();
    for image in all.iter().filter(|image| wanted.contains(&image.digest)) {
        owners.extend(image.lowers().into_iter().map(|path| (path, Vec::new())));
    }
    for image in &all {
        for path in image.lowers() {
            if let Some(digests) = owners.get_mut(&path) {
                digests.push(&image.digest);
            }
        }
    }
    let mut trees = Vec::new();
    for (path, digests) in owners {
        let damaged = path.parent().is_some_and(is_marked);
        if damaged || !path.is_dir() {
            continue;
        }
        let top = open_dir(&path)?;
        if share::can(top.as_fd()) {
            continue;
        }
        let mut by = BTreeSet::new();
        for digest in digests {
            let names = users(layout, digest)?;
            by.extend(names.iter().filter_map(|name| name.parse().ok()));
        }
        trees.push(ImageTree {
            users: by,
            path,
            top,
        });
    }
    Ok(trees)
}

/// For each of these trees the files that can become one with another tree's. Nothing is changed.
///
/// # Errors
/// It was interrupted.
pub fn image_twins(trees: &[ImageTree], found: &mut Linked) -> Result<Vec<Vec<Twin>>, FileError> {
    let mut copies: BTreeMap<Same, Vec<Copy>> = BTreeMap::new();
    let mut told = 0;
    for (tree, ImageTree { path, top, .. }) in trees.iter().enumerate() {
        let done = walk(top, |met| {
            if interrupt::caught().is_some() {
                return Err(Errno::INTR);
            }
            let first = met.path.split(|b| *b == b'/').next().unwrap_or_default();
            let inside = PLACES.contains(&first) && met.path.contains(&b'/');
            if !inside || !is_file(met.stat) || met.stat.st_blocks == 0 {
                return Ok(());
            }
            told += met.path.len() + size_of::<Same>() + size_of::<Copy>();
            if told > PATHS_MOST {
                found.image_left_out += 1;
                return Ok(());
            }
            let copy = Copy {
                tree,
                stat: *met.stat,
            };
            let same = Same::of(met.path, met.stat);
            copies.entry(same).or_default().push(copy);
            Ok(())
        });
        match done {
            Err(Errno::INTR) => return Err(FileError::new("look through", path, Errno::INTR)),
            // Removed meanwhile, or its disk cannot read it, which is no reason to leave out others.
            Err(_) => found.image_left_out += 1,
            Ok(()) => {}
        }
    }
    let mut twins: Vec<Vec<Twin>> = trees.iter().map(|_| Vec::new()).collect();
    for (same, copies) in copies.into_iter().filter(|(_, copies)| copies.len() > 1) {
        same_path(trees, (&same.path, copies), &mut twins, found)?;
    }
    Ok(twins)
}

/// Files that have all in common but perhaps what is in them.
fn same_path(
    trees: &[ImageTree],
    (path, mut copies): (&[u8], Vec<Copy>),
    twins: &mut [Vec<Twin>],
    found: &mut Linked,
) -> Result<(), FileError> {
    let mut names: HashMap<(u64, u64), usize> = HashMap::new();
    for copy in &copies {
        *names.entry(copy.id()).or_default() += 1;
    }
    // One with a name elsewhere is two names in its own tree, or is in one that others use: nobody is to
    // learn from how many names a file has that somebody else has it.
    let all = |copy: &Copy| usize::try_from(copy.stat.st_nlink).ok();
    copies.retain(|copy| names.get(&copy.id()).copied() == all(copy));
    copies.sort_by_key(|copy| Reverse(copy.stat.st_nlink));
    let mut firsts: Vec<&Copy> = Vec::new();
    for copy in &copies {
        if firsts.iter().any(|first| first.id() == copy.id()) {
            continue;
        }
        let mut other = None;
        for first in firsts.iter().filter(|_| copy.stat.st_nlink == 1) {
            match are_alike(trees, path, (first, copy)) {
                Ok(true) => other = Some(*first),
                Ok(false) => {}
                Err(Errno::INTR) => {
                    let path = trees.get(copy.tree).map(|tree| tree.path.as_path());
                    let path = path.unwrap_or_else(|| Path::new(""));
                    return Err(FileError::new("look through", path, Errno::INTR));
                }
                Err(_) => found.image_left_out += 1,
            }
            if other.is_some() {
                break;
            }
        }
        let Some(first) = other else {
            firsts.push(copy);
            continue;
        };
        if let Some(twins) = twins.get_mut(copy.tree) {
            let number = |n| u64::try_from(n).unwrap_or(0);
            twins.push(Twin {
                path: path.to_vec(),
                other: first.tree,
                inodes: (first.stat.st_ino, copy.stat.st_ino),
                bytes: number(copy.stat.st_blocks) * 512,
                memory: number(copy.stat.st_size).next_multiple_of(4096),
            });
        }
    }
    Ok(())
}

/// Whether nobody could tell two files of two trees apart: neither a guest nor the digest of the trees,
/// which counts every attribute.
fn are_alike(
    trees: &[ImageTree],
    path: &[u8],
    (first, other): (&Copy, &Copy),
) -> rustix::io::Result<bool> {
    if first.stat.st_dev != other.stat.st_dev {
        return Ok(false);
    }
    let (parent, last) = merged::split(path);
    let name = cname(last).map_err(|_| Errno::INVAL)?;
    let folder = |copy: &Copy| {
        let tree = trees.get(copy.tree).ok_or(Errno::NOENT)?;
        below(&tree.top, parent)
    };
    let (a, b) = (folder(first)?, folder(other)?);
    let attributes = |dir: &OwnedFd| {
        let mut all = of_name(dir, &name)?;
        all.sort_unstable();
        Ok::<_, Errno>(all)
    };
    Ok(attributes(&a)? == attributes(&b)? && is_same((&b, &other.stat), (&a, &first.stat), &name)?)
}

/// Makes these files of a tree one with those of others; with `would`, only counts. Whoever calls holds
/// the locks of all guests that use it, which are stopped.
///
/// # Errors
/// It was interrupted; the disk is read-only. Each file is the tree's own or the other's.
pub fn link_twins(
    layout: &Layout,
    (trees, at): (&[ImageTree], usize),
    twins: &[Twin],
    would: bool,
    found: &mut Linked,
) -> Result<(), ImageError> {
    let Some(tree) = trees.get(at) else {
        return Ok(());
    };
    let failed = |e: Errno| FileError::new("link files of", &tree.path, e);
    let made = if would {
        None
    } else {
        // None is taken in or removed meanwhile: an image that comes may have this tree too.
        let Some(lock) = layer::own(layout)? else {
            found.image_running += 1;
            return Ok(());
        };
        Some((Workshop::open(&layout.images(), "alike")?, lock))
    };
    for (number, twin) in twins.iter().enumerate() {
        if interrupt::caught().is_some() {
            return Err(failed(Errno::INTR).into());
        }
        if let Some((workshop, _)) = &made {
            if number % PIECE == 0 && !tree.is_as_it_was(layout)? {
                found.image_running += 1;
                return Ok(());
            }
            let other = trees.get(twin.other).map(|other| &other.top);
            match other.map(|other| link(other, &tree.top, twin, &workshop.lock)) {
                Some(Ok(true)) => {}
                Some(Err(error @ (Errno::ROFS | Errno::CANCELED | Errno::IO))) => {
                    return Err(failed(error).into());
                }
                // It has as many names as can be, is unchangeable, or not what it was.
                Some(Ok(false) | Err(_)) | None => {
                    found.image_left_out += 1;
                    continue;
                }
            }
        }
        found.image_files += 1;
        found.image_bytes += twin.bytes;
        found.image_memory += twin.memory;
    }
    Ok(())
}

impl ImageTree {
    /// Whether the guests that use it are those that did when it was found.
    fn is_as_it_was(&self, layout: &Layout) -> Result<bool, ImageError> {
        let guests: Vec<GuestName> = self.users.iter().cloned().collect();
        let now = image_trees(layout, &guests)?;
        let now = now.into_iter().find(|tree| tree.path == self.path);
        Ok(now.is_some_and(|now| now.users == self.users))
    }
}

/// Puts the other tree's file in the place of this one's, which goes; says whether it did. The two change
/// places at once, so that no name comes to a tree that is being removed, and `aside` is a leftover that
/// has a name whatever happens.
fn link(other: &OwnedFd, tree: &OwnedFd, twin: &Twin, aside: &OwnedFd) -> rustix::io::Result<bool> {
    let (parent, last) = merged::split(&twin.path);
    let name = cname(last).map_err(|_| Errno::INVAL)?;
    let (from, into) = (below(other, parent)?, below(tree, parent)?);
    let own = stat_at(&into, &name)?;
    // Another command at the same may have been here.
    if own.is_none_or(|own| own.st_ino != twin.inodes.1 || own.st_nlink != 1) {
        return Ok(false);
    }
    let pause = || fault::point().map_err(|_| Errno::CANCELED);
    fs::linkat(&from, &*name, aside, ONE, AtFlags::empty())?;
    let change = || {
        pause()?;
        if stat_at(aside, ONE)?.is_none_or(|one| one.st_ino != twin.inodes.0) {
            return Ok(false);
        }
        let before = fs::fstat(&into)?;
        fs::renameat_with(aside, ONE, &into, &*name, RenameFlags::EXCHANGE)?;
        let paused = pause();
        // The time of the folder is the image's own.
        fs::futimens(&into, &times(&before))?;
        paused.map(|()| true)
    };
    let changed = change();
    fs::unlinkat(aside, ONE, AtFlags::empty())?;
    changed
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    use super::super::seed::tests::TempDir;
    use super::*;

    fn tree(path: &Path, text: &str) -> ImageTree {
        std::fs::create_dir_all(path.join("usr/lib")).unwrap();
        std::fs::create_dir_all(path.join("etc")).unwrap();
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000);
        let write = |name: &str, text: &str| {
            std::fs::write(path.join(name), text).unwrap();
            let file = std::fs::File::open(path.join(name)).unwrap();
            file.set_modified(time).unwrap();
        };
        for name in ["usr/lib/same", "usr/lib/first", "usr/lib/mode", "etc/table"] {
            write(name, "same");
        }
        write("usr/lib/other", text);
        std::fs::hard_link(path.join("usr/lib/first"), path.join("usr/lib/second")).unwrap();
        ImageTree {
            users: BTreeSet::new(),
            path: path.to_owned(),
            top: open_dir(path).unwrap(),
        }
    }

    #[test]
    fn an_index_is_known_by_the_kernels_parameter() {
        let temp = TempDir::new("image-alike-index");
        let at = temp.path().join("index");
        assert!(!counts_names(&at), "not there");
        for (text, is) in [("N\n", false), ("Y\n", true)] {
            std::fs::write(&at, text).unwrap();
            assert_eq!(counts_names(&at), is);
        }
    }

    #[test]
    fn the_same_path_of_two_trees_becomes_one_file_and_nothing_else() {
        let temp = TempDir::new("image-alike");
        let at = |name: &str| temp.path().join(name);
        let mut trees = vec![tree(&at("a"), "aaaa"), tree(&at("b"), "bbbb")];
        std::fs::create_dir(at("aside")).unwrap();
        let aside = open_dir(&at("aside")).unwrap();
        let mode = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(at("b/usr/lib/mode"), mode).unwrap();
        let content = |name: &str| {
            let content = super::super::digest::digest(open_dir(&at(name)).unwrap(), b"");
            content.unwrap().digest
        };
        let before = ["a", "b"].map(content);
        let time = at("b/usr/lib").metadata().unwrap().mtime_nsec();

        let join = |trees: &[ImageTree]| {
            let twins = image_twins(trees, &mut Linked::default()).unwrap();
            let mut paths = Vec::new();
            for (number, twins) in twins.iter().enumerate() {
                for twin in twins {
                    let done = link(&trees[twin.other].top, &trees[number].top, twin, &aside);
                    assert_eq!(done, Ok(true));
                    paths.push(String::from_utf8(twin.path.clone()).unwrap());
                    // What is not as it was found is left.
                    let again = link(&trees[twin.other].top, &trees[number].top, twin, &aside);
                    assert_eq!(again, Ok(false));
                }
            }
            paths
        };
        assert_eq!(join(&trees), ["usr/lib/same"]);
        let inode = |path: &str| at(path).metadata().unwrap().ino();
        assert_eq!(inode("a/usr/lib/same"), inode("b/usr/lib/same"));
        assert_eq!(at("b/usr/lib").metadata().unwrap().mtime_nsec(), time);
        assert_eq!(["a", "b"].map(content), before);
        assert_eq!(std::fs::read_dir(at("aside")).unwrap().count(), 0);
        assert!(join(&trees).is_empty());

        // One that comes later, and is met first, becomes one with those.
        trees.insert(0, tree(&at("c"), "cccc"));
        assert!(join(&trees).contains(&"usr/lib/same".to_owned()));
        assert_eq!(at("c/usr/lib/same").metadata().unwrap().nlink(), 3);
        // A name that is not in these trees says that it is somebody else's too.
        std::fs::hard_link(at("c/usr/lib/same"), at("elsewhere")).unwrap();
        trees.push(tree(&at("d"), "dddd"));
        assert!(!join(&trees).contains(&"usr/lib/same".to_owned()));
    }
}
