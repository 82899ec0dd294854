//! A layer of files that several guests have alike, right below what each of them has written: one copy on
//! disk, one in memory. It is one of the layers of a guest's chain (`chain`), made of copies, never
//! written to again, and gone when no guest and no snapshot lists it.
//!
//! A guest lists it only when all that is in it is in its own layer too, so listing it changes nothing that
//! the guest sees; and only after that its own copies go. So whenever this is cut short, the guest sees
//! what it saw: through its own copies, or through the layer.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, Stat};
use rustix::io::Errno;
use serde::Serialize;

use super::base_equal::{is_elsewhere, is_same, times};
use super::chain::{self, Chain};
use super::chain_fold;
use super::common_look::{Alike, DEPTH_MOST, leads_elsewhere};
use super::dirfd::{
    self, FileError, Owner, below, child_dir, child_file, cname, ensure_private, is_dir, is_file,
    make_dir, names, open_dir, stat_at,
};
use super::driver::Driver;
use super::driver_folder;
use super::extract_file::create;
use super::gone::Gone;
use super::merged;
use super::merged_copy::{copy_attributes, copy_data};
use super::merged_folder::is_opaque;
use super::place::{self, Opened};
use super::root::{self, Leads, RootError};
use super::tree_read::of_open;
use crate::kernel::{fault, interrupt, random};
use crate::model::{GuestName, Layout};

/// Beside a layer's tree, in one that was made here.
const MARK: &CStr = c"common";
/// Memory is used by pages.
const PAGE: u64 = 4096;

/// Files of a guest that are seen through to a layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Joined {
    /// How many.
    pub files: u64,
    /// What they take on disk.
    pub bytes: u64,
    /// What they take in memory when all of them are in use.
    pub memory: u64,
}

impl Joined {
    fn add(&mut self, stat: &Stat) {
        self.files += 1;
        self.bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
        self.memory += u64::try_from(stat.st_size)
            .unwrap_or(0)
            .next_multiple_of(PAGE);
    }
}

/// A layer that guests share.
#[derive(Debug)]
pub struct CommonLayer {
    path: PathBuf,
    tree: OwnedFd,
    /// As long as this lives, it is nobody's leftover.
    _held: OwnedFd,
}

/// The own layer of a stopped guest, and what is below it.
struct Own {
    root: OwnedFd,
    opened: Opened,
    upper: OwnedFd,
    layers: PathBuf,
}

impl Own {
    fn open(layout: &Layout, name: &GuestName) -> Result<Option<Self>, RootError> {
        let path = root::folder(layout, name);
        let object = place::object(layout, name)?;
        if object.driver != Driver::Overlay {
            return Ok(None);
        }
        let opened = object.open()?;
        let upper = child_dir(&opened.folder, c"upper");
        Ok(Some(Self {
            root: open_dir(&path)?,
            upper: upper.map_err(|e| FileError::new("open", &opened.shown, e))?,
            layers: chain::layers_of(layout, &object.path, &path),
            opened,
        }))
    }

    fn chain(&self) -> Result<Chain, FileError> {
        Chain::read(self.root.as_fd()).map_err(|e| FileError::new("read", &self.opened.shown, e))
    }
}

impl CommonLayer {
    /// Makes one of what this guest, which is stopped, has of files that were found alike. Nobody lists
    /// it yet. `None` where the guest has no room for a second copy under its own quota.
    ///
    /// # Errors
    /// The disk is full, or a file has changed since.
    pub fn make(
        layout: &Layout,
        name: &GuestName,
        alike: &Alike,
    ) -> Result<Option<Self>, RootError> {
        let shown = root::folder(layout, name);
        let Some(own) = Own::open(layout, name)? else {
            return Err(FileError::new("share files of", &shown, Errno::OPNOTSUPP).into());
        };
        let failed = |e: std::io::Error| FileError::new("make a layer of files of", &shown, e);
        let id = random::hex(8).map_err(|e| failed(e.errno.into()))?;
        let path = own.layers.join(id);
        match fill(&path, &own.upper, &alike.paths) {
            Ok((held, tree)) => Ok(Some(Self {
                path,
                tree,
                _held: held,
            })),
            Err(error) => {
                // The error that matters is this one.
                let _left = chain::remove(&path);
                match is_used_up(&error, driver_folder::is_sold(&own.opened.folder)) {
                    true => Ok(None),
                    false => Err(failed(error).into()),
                }
            }
        }
    }

    /// Those that these guests list and nobody else leads to, each with who does, and held: as long as
    /// they live they stay, whatever becomes of these guests. One whose record cannot be read is told of
    /// by whatever needs its layers, and so is a layer that is gone.
    #[must_use]
    pub fn of_guests(
        layout: &Layout,
        guests: &[GuestName],
        leads: &Leads,
    ) -> Vec<(Self, Vec<GuestName>)> {
        let group: HashSet<&str> = guests.iter().map(GuestName::as_str).collect();
        // A guest that has gone to another tenant goes on listing what it listed.
        let only_theirs = |path: &PathBuf| {
            let who = leads.get(path);
            who.is_some_and(|who| who.iter().all(|name| group.contains(name.as_str())))
        };
        let mut listed: BTreeMap<PathBuf, Vec<GuestName>> = BTreeMap::new();
        for name in guests {
            for path in chain_of(layout, name).unwrap_or_default().0 {
                listed.entry(path).or_default().push(name.clone());
            }
        }
        listed.retain(|path, _| only_theirs(path));
        let layers = listed.into_iter().filter_map(|(path, by)| {
            let layer = Self::held(path)?;
            // Until it was held the last of them may have gone, and it with that one.
            let lists = |name| chain_of(layout, name).is_ok_and(|all| all.0.contains(&layer.path));
            by.iter().any(lists).then_some((layer, by))
        });
        layers.collect()
    }

    /// The layer of this folder, if it is one, held: whoever removes what nobody lists asks for that.
    fn held(path: PathBuf) -> Option<Self> {
        let folder = open_dir(&path).ok()?;
        stat_at(&folder, MARK).ok()??;
        fs::flock(&folder, fs::FlockOperation::NonBlockingLockShared).ok()?;
        Some(Self {
            tree: child_dir(&folder, c"root").ok()?,
            path,
            _held: folder,
        })
    }

    /// Has a stopped guest that has all of it in its own layer see it through this one; with `would`, only
    /// counts, and notes which of its files would go. `None` where the guest has not, and nothing is changed. Whoever calls holds the guest's lock,
    /// and sees to it that somebody lists the layer or that it was just made.
    ///
    /// # Errors
    /// The disk is full, there are too many layers; the guest sees what it saw.
    pub fn join(
        &self,
        layout: &Layout,
        name: &GuestName,
        would: Option<&mut Gone>,
    ) -> Result<Option<Joined>, RootError> {
        let Some(own) = Own::open(layout, name)? else {
            return Ok(None);
        };
        let shown = own.opened.shown.join("upper");
        let failed = |e: std::io::Error| FileError::new("share files of", &shown, e);
        // What goes below its own layer would show wherever else such a folder leads here.
        if leads_elsewhere(&own.upper).map_err(|e| failed(e.into()))? {
            return Ok(None);
        }
        let (mut joined, mut going) = (Joined::default(), Vec::new());
        let nothing = Gone::default();
        let gone = would.as_deref().unwrap_or(&nothing);
        let whole = self.is_whole_in(&own.upper, &self.tree, &mut |own| {
            joined.add(own);
            if would.is_some() {
                going.push(*own);
            }
            !gone.has(own)
        });
        if !whole.map_err(|e| failed(e.into()))? || joined.files == 0 {
            return Ok(None);
        }
        if let Some(gone) = would {
            going.iter().for_each(|stat| gone.add(stat));
            return Ok(Some(joined));
        }
        // Many that cannot be made one leave room for some more, and then it is told that there is none.
        let _still_many = chain_fold::fold(&own.layers, &own.root, &own.opened.folder);
        let old = own.chain()?;
        if !old.0.contains(&self.path) {
            chain::has_room(&old).map_err(failed)?;
            let chain = Chain(std::iter::once(self.path.clone()).chain(old.0).collect());
            chain.write(&own.root).map_err(failed)?;
            // What goes below must not be gone on a disk on which this is not yet.
            fs::fsync(&own.root).map_err(|e| failed(e.into()))?;
        }
        let mut dropped = Joined::default();
        drop_from(&own.upper, &self.tree, &mut dropped).map_err(|e| failed(e.into()))?;
        Ok(Some(dropped))
    }

    /// Whether a folder of a guest's own layer has each file of a folder of this one, and has it so that no
    /// guest could tell the two apart. `met` is asked about each, and may say that it is not there.
    fn is_whole_in(
        &self,
        upper: &OwnedFd,
        layer: &OwnedFd,
        met: &mut dyn FnMut(&Stat) -> bool,
    ) -> rustix::io::Result<bool> {
        for name in names(layer)? {
            if interrupt::caught().is_some() {
                return Err(Errno::INTR);
            }
            let (Some(ours), Some(own)) = (stat_at(layer, &name)?, stat_at(upper, &name)?) else {
                return Ok(false);
            };
            if !is_dir(&ours) {
                let plain = is_file(&own) && own.st_nlink == 1;
                if !plain || !is_same((upper, &own), (layer, &ours), &name)? || !met(&own) {
                    return Ok(false);
                }
                continue;
            }
            if !is_dir(&own) {
                return Ok(false);
            }
            let (own, ours) = (child_dir(upper, &name)?, child_dir(layer, &name)?);
            let plain = !is_opaque(&own) && !is_elsewhere(&of_open(&own)?);
            if !plain || !self.is_whole_in(&own, &ours, met)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Whether a copy of what a guest has did not fit into its own quota, which not every filesystem tells apart
/// from a full disk.
fn is_used_up(error: &std::io::Error, is_sold: bool) -> bool {
    let errno = Errno::from_io_error(error);
    errno == Some(Errno::DQUOT) || is_sold && errno == Some(Errno::NOSPC)
}

fn chain_of(layout: &Layout, name: &GuestName) -> Result<Chain, FileError> {
    let path = root::folder(layout, name);
    Chain::read(open_dir(&path)?.as_fd()).map_err(|e| FileError::new("read", &path, e))
}

/// Makes the layer's folder: copies of these files, and the folders that lead there. Gives the folder, held,
/// and its tree.
fn fill(path: &Path, upper: &OwnedFd, paths: &[Vec<u8>]) -> std::io::Result<(OwnedFd, OwnedFd)> {
    let layer = ensure_private(path).map_err(|e| e.source)?;
    fs::flock(&layer, fs::FlockOperation::NonBlockingLockExclusive)?;
    fault::point().map_err(|e| e.errno)?;
    let top = make_dir(&layer, c"root", Owner::of(&fs::fstat(upper)?))?;
    // It counts for the guest whose files these were: what all guests may write together stays the same.
    driver_folder::belong_as(&top, upper)?;
    let mut folders = BTreeSet::new();
    for path in paths {
        if interrupt::caught().is_some() {
            return Err(Errno::INTR.into());
        }
        let (parent, last) = merged::split(path);
        make_folders(upper, &top, parent, &mut folders)?;
        copy(&below(upper, parent)?, &below(&top, parent)?, &cname(last)?)?;
    }
    // Those within others come first: making a file changes its folder's time.
    for path in folders.into_iter().rev() {
        fs::futimens(
            below(&top, &path)?,
            &times(&fs::fstat(below(upper, &path)?)?),
        )?;
    }
    dirfd::write_whole(&layer, MARK, b"", Owner::root(0o600), false)?;
    fs::syncfs(&top)?;
    fault::point().map_err(|e| e.errno)?;
    Ok((layer, top))
}

/// Makes the folders of a path that are not there yet as they are in `from`.
fn make_folders(
    from: &OwnedFd,
    into: &OwnedFd,
    path: &[u8],
    made: &mut BTreeSet<Vec<u8>>,
) -> std::io::Result<()> {
    if path.is_empty() || made.contains(path) {
        return Ok(());
    }
    let (parent, last) = merged::split(path);
    if path.iter().filter(|b| **b == b'/').count() >= DEPTH_MOST {
        return Err(Errno::NAMETOOLONG.into());
    }
    make_folders(from, into, parent, made)?;
    let there = below(from, path)?;
    let owner = Owner::of(&fs::fstat(&there)?);
    let folder = make_dir(below(into, parent)?, &cname(last)?, owner)?;
    copy_attributes(&there, &folder, is_kept)?;
    made.insert(path.to_vec());
    Ok(())
}

fn copy(from: &OwnedFd, into: &OwnedFd, name: &CStr) -> std::io::Result<()> {
    let file = child_file(from, name)?;
    let stat = fs::fstat(&file)?;
    let made = create(into, &name.to_owned()).map_err(|(_, e)| e)?;
    copy_data(&file, &made)?;
    // Owner and mode first: a change of owner takes capabilities away.
    Owner::of(&stat).apply(&made)?;
    copy_attributes(&file, &made, is_kept)?;
    Ok(fs::futimens(&made, &times(&stat))?)
}

/// What an overlay has noted of a file is of the layer that it is in.
fn is_kept(name: &[u8], _: &[u8]) -> bool {
    !name.starts_with(b"trusted.overlay.")
}

/// Removes from a folder of a guest's own layer the files of a folder below it, which are the same.
fn drop_from(upper: &OwnedFd, layer: &OwnedFd, dropped: &mut Joined) -> rustix::io::Result<()> {
    let before = fs::fstat(upper)?;
    let mut gone = false;
    for name in names(layer)? {
        let (Some(ours), Some(own)) = (stat_at(layer, &name)?, stat_at(upper, &name)?) else {
            continue;
        };
        if is_dir(&ours) {
            drop_from(
                &child_dir(upper, &name)?,
                &child_dir(layer, &name)?,
                dropped,
            )?;
            continue;
        }
        fault::point().map_err(|_| Errno::CANCELED)?;
        match fs::unlinkat(upper, &name, AtFlags::empty()) {
            // One that the host has made unchangeable stays what it is.
            Err(Errno::PERM) => continue,
            other => other?,
        }
        gone = true;
        dropped.add(&own);
    }
    if gone {
        // The time of the folder is the guest's own.
        fs::futimens(upper, &times(&before))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    use super::super::seed::tests::TempDir;
    use super::*;

    fn layer_of(upper: &Path, at: &Path, paths: &[&str]) -> CommonLayer {
        let paths: Vec<Vec<u8>> = paths.iter().map(|path| path.as_bytes().to_vec()).collect();
        let (held, tree) = fill(at, &open_dir(upper).unwrap(), &paths).unwrap();
        CommonLayer {
            path: at.to_owned(),
            tree,
            _held: held,
        }
    }

    fn is_whole(layer: &CommonLayer, upper: &Path) -> bool {
        let upper = open_dir(upper).unwrap();
        let whole = layer.is_whole_in(&upper, &layer.tree, &mut |_| true);
        whole.unwrap()
    }

    #[test]
    fn a_layer_is_joined_only_by_who_has_all_of_it() {
        let temp = TempDir::new("common-layer");
        let a = temp.path().join("a");
        std::fs::create_dir_all(a.join("x/y")).unwrap();
        for path in ["x/y/f", "x/g", "h", "other"] {
            std::fs::write(a.join(path), path).unwrap();
        }
        std::fs::set_permissions(a.join("x/g"), std::fs::Permissions::from_mode(0o4750)).unwrap();
        let sparse = std::fs::File::create(a.join("x/sparse")).unwrap();
        sparse.set_len(8 << 20).unwrap();
        std::os::unix::fs::FileExt::write_at(&sparse, b"end", (8 << 20) - 3).unwrap();
        let layer = layer_of(
            &a,
            &temp.path().join("l"),
            &["h", "x/g", "x/sparse", "x/y/f"],
        );
        let tree = temp.path().join("l/root");
        assert!(!tree.join("other").exists());
        let (made, was) = (
            tree.join("x/sparse").metadata().unwrap(),
            a.join("x/sparse").metadata().unwrap(),
        );
        assert_eq!(
            (made.len(), made.mtime_nsec()),
            (was.len(), was.mtime_nsec())
        );
        assert!(made.blocks() < 1024, "{}", made.blocks());
        assert!(is_whole(&layer, &a));

        // Another file, one less, another mode, a link in its place: not the same.
        let changes: [&dyn Fn(); 4] = [
            &|| std::fs::write(a.join("h"), "i").unwrap(),
            &|| std::fs::remove_file(a.join("x/y/f")).unwrap(),
            &|| {
                let mode = std::fs::Permissions::from_mode(0o755);
                std::fs::set_permissions(a.join("x/g"), mode).unwrap();
            },
            &|| {
                std::fs::rename(a.join("x"), a.join("z")).unwrap();
                std::os::unix::fs::symlink("z", a.join("x")).unwrap();
            },
        ];
        for change in changes {
            let copy = temp.path().join("copy");
            let mut command = std::process::Command::new("cp");
            command.arg("-a").arg(&a).arg(&copy);
            assert!(command.status().unwrap().success());
            change();
            assert!(!is_whole(&layer, &a));
            std::fs::remove_dir_all(&a).unwrap();
            std::fs::rename(&copy, &a).unwrap();
            assert!(is_whole(&layer, &a));
        }

        let time = a.join("x").metadata().unwrap().mtime_nsec();
        let mut dropped = Joined::default();
        drop_from(&open_dir(&a).unwrap(), &layer.tree, &mut dropped).unwrap();
        assert_eq!((dropped.files, dropped.memory), (4, (8 << 20) + 3 * PAGE));
        assert_eq!(a.join("x").metadata().unwrap().mtime_nsec(), time);
        let left: Vec<_> = std::fs::read_dir(&a).unwrap().flatten().collect();
        assert_eq!(left.len(), 2, "{left:?}");
        assert!(a.join("other").exists() && a.join("x/y").is_dir());
    }

    #[test]
    fn one_that_is_held_is_nobodys_leftover() {
        let temp = TempDir::new("common-held");
        let (a, path) = (temp.path().join("a"), temp.path().join("l"));
        std::fs::create_dir(&a).unwrap();
        std::fs::write(a.join("h"), "h").unwrap();
        let made = layer_of(&a, &path, &["h"]);
        assert!(CommonLayer::held(path.clone()).is_none(), "it may not stay");
        drop(made);
        let remover = open_dir(&path).unwrap();
        let take = || fs::flock(&remover, fs::FlockOperation::NonBlockingLockExclusive);
        let two = [path.clone(), path.clone()].map(|path| CommonLayer::held(path).unwrap());
        assert_eq!(take(), Err(Errno::WOULDBLOCK));
        drop(two);
        assert_eq!(take(), Ok(()));
        // A layer of a snapshot is none.
        std::fs::remove_file(path.join("common")).unwrap();
        drop(remover);
        assert!(CommonLayer::held(path).is_none());
    }

    #[test]
    fn a_quota_that_is_used_up_is_no_full_disk() {
        let error = |errno: Errno| std::io::Error::from(errno);
        assert!(is_used_up(&error(Errno::DQUOT), false));
        assert!(is_used_up(&error(Errno::NOSPC), true) && !is_used_up(&error(Errno::NOSPC), false));
        assert!(!is_used_up(&error(Errno::IO), true));
    }
}
