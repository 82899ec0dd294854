//! Equal files in the layers of a pool's guests, made to share their blocks. Layers are strangers', and
//! their guests may run: files are opened by descriptor, a component at a time, and it is the kernel that
//! compares what it shares. A file that changes meanwhile is another file, and stays as it is.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;

use rustix::fs;
use rustix::io::Errno;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::chain::Chain;
use super::dirfd::{FileError, below, child_dir, child_file, cname, is_file, open_dir};
use super::driver::Driver;
use super::gone::Gone;
use super::image::load_image;
use super::pool::{Pool, PoolError};
use super::root::{self, RootError, image_digest};
use super::tree_same::{PIECE, data_from, read_all};
use super::walk::walk;
use super::{merged, place};
use crate::kernel::{interrupt, share};
use crate::model::{GuestName, Layout};

/// Smaller files have no blocks of their own worth the work.
const SMALLEST: u64 = 4096;
/// Most bytes of paths that are remembered. What is written into a guest must not fill the memory.
pub(super) const PATHS_MOST: usize = 256 << 20;

/// What was made to share its blocks, or would be.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Deduped {
    /// Files looked at.
    pub files: u64,
    /// Files that share the blocks of an equal one from now on.
    pub shared: u64,
    /// Bytes of these: what the disk has more room now.
    pub bytes: u64,
    /// Equal files that shared theirs already.
    pub already: u64,
    /// Files that changed while they were looked at, and trees that did.
    pub changed: u64,
    /// Files that were left out: they lie too deep, cannot be read, or there were too many.
    pub left_out: u64,
}

/// A file where it lies.
struct Candidate {
    tree: usize,
    path: Vec<u8>,
}

/// Makes equal files of these guests of a pool share their blocks; with `would`, only counts them, but for
/// those that would be gone by then. What goes wrong with one of them is added to `failed`, and no reason to leave out the others.
///
/// # Errors
/// The pool's filesystem cannot; it was interrupted.
pub fn dedupe(
    layout: &Layout,
    pool: &Pool,
    guests: &[GuestName],
    would: Option<&Gone>,
    (found, failed): (&mut Deduped, &mut Vec<String>),
) -> Result<(), RootError> {
    if pool.driver == Driver::Image {
        return Err(refused(pool));
    }
    let trees = trees(layout, pool, guests, failed)?;
    let mut by_size: BTreeMap<u64, Vec<Candidate>> = BTreeMap::new();
    let (mut seen, mut told) = (HashSet::new(), 0);
    for (tree, (whose, top)) in trees.iter().enumerate() {
        let done = walk(top, |met| {
            if interrupt::caught().is_some() {
                return Err(Errno::INTR);
            }
            let size = u64::try_from(met.stat.st_size).unwrap_or(0);
            let held = u64::try_from(met.stat.st_blocks).unwrap_or(0) * 512;
            // A file of holes has nothing to share. One with several names is looked at once.
            let worth = is_file(met.stat) && size >= SMALLEST && held >= size / 2;
            let worth = worth && would.is_none_or(|gone| !gone.has(met.stat));
            if !worth || !seen.insert((met.stat.st_dev, met.stat.st_ino)) {
                return Ok(());
            }
            found.files += 1;
            told += met.path.len() + size_of::<Candidate>();
            if told > PATHS_MOST {
                found.left_out += 1;
                return Ok(());
            }
            let path = met.path.to_vec();
            by_size
                .entry(size)
                .or_default()
                .push(Candidate { tree, path });
            Ok(())
        });
        match done {
            // A running guest has moved a folder that was looked into.
            Err(Errno::STALE | Errno::NOENT) => found.changed += 1,
            Err(Errno::INTR) => return Err(interrupted(layout, pool)),
            Err(error) => failed.push(format!("{whose}: cannot be looked through: {error}")),
            Ok(()) => {}
        }
    }
    let trees: Vec<OwnedFd> = trees.into_iter().map(|(_, tree)| tree).collect();
    for (size, group) in by_size.into_iter().filter(|(_, group)| group.len() > 1) {
        same_size(&trees, (size, &group), would.is_some(), found).map_err(|e| match e {
            Errno::OPNOTSUPP | Errno::NOTTY => refused(pool),
            _ => interrupted(layout, pool),
        })?;
    }
    Ok(())
}

fn interrupted(layout: &Layout, pool: &Pool) -> RootError {
    FileError::new("look through", &pool.roots(layout), Errno::INTR).into()
}

fn refused(pool: &Pool) -> RootError {
    RootError::Pool(PoolError::Refused {
        name: pool.name.clone(),
        why: "its filesystem cannot let files share blocks; btrfs can, and xfs with reflink".into(),
    })
}

/// The trees of the layers of guests of a pool that lie on its filesystem, and those below them; each with
/// whose it is.
fn trees(
    layout: &Layout,
    pool: &Pool,
    guests: &[GuestName],
    failed: &mut Vec<String>,
) -> Result<Vec<(String, OwnedFd)>, RootError> {
    let mut paths = Vec::new();
    let mut trees = Vec::new();
    for name in guests {
        match layer(layout, name, &mut paths) {
            Ok(None) => {}
            Ok(Some(upper)) => {
                if !share::can(upper.as_fd()) {
                    return Err(refused(pool));
                }
                trees.push((format!("guest {name}"), upper));
            }
            Err(error) => failed.push(format!("guest {name}: {error}")),
        }
    }
    paths.sort();
    paths.dedup();
    // Those that many guests share come first: they are what others are made to share.
    let own = trees.iter().map(|(_, tree)| mount_of(tree));
    let own = own.collect::<HashSet<_>>();
    let mut all = Vec::new();
    for path in paths {
        match open_dir(&path) {
            // Images may lie on another filesystem than the pool.
            Ok(tree) if own.contains(&mount_of(&tree)) => {
                all.push((path.display().to_string(), tree));
            }
            Ok(_) => {}
            Err(error) => failed.push(error.to_string()),
        }
    }
    all.extend(trees);
    Ok(all)
}

/// A guest's own layer; none where it is a filesystem of its own, which shares nothing with others. The
/// trees below it are added to `paths`.
fn layer(
    layout: &Layout,
    name: &GuestName,
    paths: &mut Vec<PathBuf>,
) -> Result<Option<OwnedFd>, RootError> {
    let path = root::folder(layout, name);
    let object = place::object(layout, name)?;
    if object.driver == Driver::Image {
        return Ok(None);
    }
    let folder = open_dir(&path)?;
    let chain = Chain::read(folder.as_fd()).map_err(|e| FileError::new("read", &path, e))?;
    let image = load_image(layout, &image_digest(layout, name)?);
    let opened = object.open()?;
    let upper = child_dir(&opened.folder, c"upper");
    let upper = upper.map_err(|e| FileError::new("open", &opened.shown, e))?;
    paths.extend(chain.trees());
    paths.extend(image.map(|image| image.lowers()).unwrap_or_default());
    Ok(Some(upper))
}

/// The mount that a folder lies on: subvolumes of one have different device numbers.
fn mount_of(folder: &OwnedFd) -> Option<u64> {
    let flags = fs::AtFlags::EMPTY_PATH;
    let stat = fs::statx(folder, c"", flags, fs::StatxFlags::MNT_ID).ok()?;
    Some(stat.stx_mnt_id)
}

fn open(trees: &[OwnedFd], one: &Candidate) -> rustix::io::Result<File> {
    let top = trees.get(one.tree).ok_or(Errno::NOENT)?;
    let (parent, last) = merged::split(&one.path);
    child_file(below(top, parent)?, &cname(last).map_err(|_| Errno::INVAL)?)
}

/// Files of one size: those with the same data share the blocks of the first.
fn same_size(
    trees: &[OwnedFd],
    (size, group): (u64, &[Candidate]),
    would: bool,
    found: &mut Deduped,
) -> rustix::io::Result<()> {
    let mut firsts: BTreeMap<[u8; 32], &Candidate> = BTreeMap::new();
    for one in group {
        let file = match open(trees, one) {
            Ok(file) => file,
            Err(Errno::NAMETOOLONG) => {
                found.left_out += 1;
                continue;
            }
            Err(_) => {
                found.changed += 1;
                continue;
            }
        };
        let digest = match digest(&file, size) {
            Ok(Some(digest)) => digest,
            Ok(None) => {
                found.changed += 1;
                continue;
            }
            Err(Errno::INTR) => return Err(Errno::INTR),
            // Its disk cannot read it, which is no reason to leave out others.
            Err(_) => {
                found.left_out += 1;
                continue;
            }
        };
        let Some(first) = firsts.get(&digest) else {
            firsts.insert(digest, one);
            continue;
        };
        match open(trees, first) {
            Ok(first) => pair(&first, &file, (size, would), found)?,
            Err(_) => found.changed += 1,
        }
    }
    Ok(())
}

fn pair(
    first: &File,
    other: &File,
    (size, would): (u64, bool),
    found: &mut Deduped,
) -> rustix::io::Result<()> {
    if share::shares(first.as_fd(), other.as_fd()).unwrap_or(false) {
        found.already += 1;
        return Ok(());
    }
    let done = match would {
        true => size,
        false => match share::share(first.as_fd(), other.as_fd(), size) {
            // On another filesystem, or cut short by its guest.
            Err(Errno::XDEV | Errno::INVAL | Errno::TXTBSY | Errno::PERM) => return Ok(()),
            // It cannot at all, or is not to go on.
            Err(error @ (Errno::OPNOTSUPP | Errno::NOTTY | Errno::INTR)) => return Err(error),
            Err(_) => {
                found.left_out += 1;
                return Ok(());
            }
            Ok(done) => done,
        },
    };
    if done == size {
        found.shared += 1;
        found.bytes += size;
    } else {
        found.changed += 1;
    }
    Ok(())
}

/// The digest of a file of this size; `None` if it has another by now.
pub(super) fn digest(file: &File, size: u64) -> rustix::io::Result<Option<[u8; 32]>> {
    let failed = |e: std::io::Error| Errno::from_io_error(&e).unwrap_or(Errno::IO);
    let mut hash = Sha256::new();
    let (mut buffer, mut at) = (vec![0; PIECE], 0);
    while at < size {
        if interrupt::caught().is_some() {
            return Err(Errno::INTR);
        }
        let data = data_from(file, at, size).map_err(failed)?;
        if data >= size {
            break;
        }
        // Holes cost nothing, however large; where they begin in a piece is no matter of what is in it.
        let begin = data - data % PIECE as u64;
        let want = usize::try_from(size - begin).map_or(PIECE, |left| left.min(PIECE));
        let piece = &mut buffer[..want];
        if read_all(file, piece, begin).map_err(failed)? != want {
            return Ok(None);
        }
        if piece.iter().any(|byte| *byte != 0) {
            hash.update(begin.to_be_bytes());
            hash.update(&piece);
        }
        at = begin + want as u64;
    }
    let same = u64::try_from(fs::fstat(file)?.st_size) == Ok(size);
    Ok(same.then(|| hash.finalize().into()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::super::seed::tests::TempDir;
    use super::*;

    #[test]
    fn zeros_and_holes_are_the_same_and_the_largest_hole_costs_nothing() {
        let temp = TempDir::new("digest");
        let made = |name: &str, size: u64| {
            let file = File::options()
                .read(true)
                .write(true)
                .create_new(true)
                .open(temp.path().join(name))
                .unwrap();
            file.set_len(size).unwrap();
            file
        };
        let size = 3 * PIECE as u64 + 5;
        let (holes, zeros, other) = (made("h", size), made("z", size), made("o", size));
        zeros.write_at(&vec![0; 2 * PIECE], 77).unwrap();
        for file in [&holes, &zeros] {
            file.write_at(b"end", size - 3).unwrap();
        }
        other.write_at(b"end", size - 4).unwrap();
        let of = |file: &File, size| digest(file, size).unwrap();
        assert!(of(&holes, size).is_some());
        assert_eq!(of(&holes, size), of(&zeros, size));
        assert_ne!(of(&holes, size), of(&other, size));
        assert_eq!((of(&holes, size - 1), of(&holes, size + 1)), (None, None));

        let huge = 8 << 40;
        let large = made("l", huge);
        large.write_at(b"end", huge - 3).unwrap();
        assert!(of(&large, huge).is_some());
    }
}
