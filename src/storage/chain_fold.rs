//! Many layers made one. A guest that is written to and stopped between its snapshots has one layer
//! more each time, and there is a most. What they say together is put into a new layer by links to the
//! same files, so it costs names and not data, and the guest lists that one alone. Snapshots and
//! clones go on listing the old ones, which are gone with the last that does.

use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{self, AtFlags, XattrFlags};
use rustix::io::Errno;

use super::chain::{self, Chain};
use super::dirfd::{
    FileError, Owner, child_dir, ensure_private, is_dir, make_dir, names, open_dir, stat_at,
};
use super::driver_folder;
use super::merged_copy::{copy_attributes, finish};
use super::merged_folder::{OPAQUE, is_opaque};
use crate::kernel::{fault, interrupt, quota, random};

/// From so many on: well before the most, in case it cannot be done.
const MANY: usize = 40;
/// Deepest folder that is followed: each is looked up from the top, so that few are open at once.
const DEEPEST: usize = 128;
/// A folder that was renamed without what is in it; none of our mounts makes such.
const REDIRECT: &CStr = c"trusted.overlay.redirect";

/// Makes the layers of a stopped guest one, if they are many; tells whether it did. Whenever this is
/// cut short the guest lists the old ones or the new one, which say the same. A link cannot lead from one
/// project to another: from the first layer that counts for somebody else on they stay as they are.
pub(super) fn fold(layers: &Path, root: &OwnedFd, object: &OwnedFd) -> Result<bool, FileError> {
    let failed = |e: io::Error| FileError::new("make one of the layers in", layers, e);
    let old = Chain::read(root.as_fd()).map_err(failed)?;
    if old.0.len() < MANY {
        return Ok(false);
    }
    let upper = child_dir(object, c"upper").map_err(|e| failed(e.into()))?;
    let own = quota::project_of(upper.as_fd());
    let trees: Result<Vec<OwnedFd>, FileError> = old.trees().map(|tree| open_dir(&tree)).collect();
    let trees = trees?;
    let Some(count) = together(
        trees.iter().map(|tree| quota::project_of(tree.as_fd())),
        own,
    ) else {
        return Ok(false);
    };
    let path = layers.join(random::hex(8).map_err(|e| failed(io::Error::other(e)))?);
    // As long as this is open it is nobody's leftover.
    let _held = match fill(&path, trees.get(..count).unwrap_or_default(), &upper) {
        Ok(layer) => layer,
        Err(error) => {
            // The error that matters is this one.
            let _left = chain::remove(&path);
            return Err(failed(error));
        }
    };
    let chain = Chain(
        std::iter::once(path)
            .chain(old.0.into_iter().skip(count))
            .collect(),
    );
    chain.write(root).map_err(failed)?;
    fault::point().map_err(|e| failed(e.errno.into()))?;
    Ok(true)
}

/// How many of the layers, topmost first, are made one: those of one's own project, if they are many.
fn together(projects: impl Iterator<Item = u32>, own: u32) -> Option<usize> {
    let count = projects.take_while(|project| *project == own).count();
    (count >= MANY).then_some(count)
}

fn fill(path: &Path, trees: &[OwnedFd], upper: &OwnedFd) -> io::Result<OwnedFd> {
    let layer = ensure_private(path).map_err(|e| e.source)?;
    fs::flock(&layer, fs::FlockOperation::NonBlockingLockExclusive)?;
    fault::point().map_err(|e| e.errno)?;
    let tree = make_dir(&layer, c"root", Owner::of(&fs::fstat(upper)?))?;
    driver_folder::belong_as(&tree, upper)?;
    put_together(trees, &tree)?;
    fs::syncfs(&tree)?;
    fault::point().map_err(|e| e.errno)?;
    Ok(layer)
}

/// A folder, and the layers that have a part of it, topmost first.
struct Ahead {
    path: Vec<CString>,
    layers: Vec<usize>,
}

fn put_together(trees: &[OwnedFd], into: &OwnedFd) -> io::Result<()> {
    let mut ahead = vec![Ahead {
        path: Vec::new(),
        layers: (0..trees.len()).collect(),
    }];
    while let Some(Ahead { path, layers }) = ahead.pop() {
        if path.len() > DEEPEST {
            return Err(io::Error::other("its folders lie too deep in one another"));
        }
        if interrupt::caught().is_some() {
            return Err(Errno::INTR.into());
        }
        let mut parts = Vec::new();
        for number in layers {
            let tree = trees.get(number).ok_or(Errno::NOENT)?;
            parts.push((number, descend(tree, &path)?));
        }
        let here = descend(into, &path)?;
        let mut seen = HashSet::new();
        for (at, (_, part)) in parts.iter().enumerate() {
            for name in names(part)? {
                if !seen.insert(name.clone()) {
                    continue;
                }
                let below = parts.get(at..).unwrap_or_default();
                if let Some(layers) = put(below, &name, &here)? {
                    let path = path.iter().cloned().chain([name]).collect();
                    ahead.push(Ahead { path, layers });
                }
            }
        }
        // The top one belongs to the guest's own layer.
        if let (Some((_, top)), false) = (parts.first(), path.is_empty()) {
            let own = |name: &[u8], _: &[u8]| !name.starts_with(b"trusted.overlay.");
            copy_attributes(top, &here, own)?;
            finish(&here, &fs::fstat(top)?)?;
        }
    }
    Ok(())
}

fn descend(top: &OwnedFd, path: &[CString]) -> io::Result<OwnedFd> {
    let mut here = top.try_clone()?;
    for name in path {
        here = child_dir(&here, name)?;
    }
    Ok(here)
}

/// Puts a name there as the first of these folders has it. Of a folder gives the layers that have a
/// part of it: as in overlayfs it ends at one that is opaque, or at what is none.
fn put(parts: &[(usize, OwnedFd)], name: &CStr, here: &OwnedFd) -> io::Result<Option<Vec<usize>>> {
    let (mut layers, mut hides) = (Vec::new(), false);
    for (number, part) in parts {
        let Some(stat) = stat_at(part, name)? else {
            continue;
        };
        if !is_dir(&stat) {
            if layers.is_empty() {
                fs::linkat(part, name, here, name, AtFlags::empty())?;
                return Ok(None);
            }
            hides = true;
            break;
        }
        let child = child_dir(part, name)?;
        if fs::fgetxattr_query(&child, REDIRECT).is_ok() {
            return Err(io::Error::other("it has a folder that leads to another"));
        }
        layers.push(*number);
        hides = is_opaque(&child);
        if hides {
            break;
        }
    }
    let made = make_dir(here, name, Owner::root(0o700))?;
    if hides {
        fs::fsetxattr(&made, OPAQUE, b"y", XattrFlags::empty())?;
    }
    Ok(Some(layers))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_counts_for_somebody_else_stays_as_it_is() {
        let own = |count| std::iter::repeat_n(7, count);
        assert_eq!(together(own(MANY + 2), 7), Some(MANY + 2));
        assert_eq!(together(own(MANY - 1), 7), None);
        // What lies below the first of another's may be of anybody.
        let mixed = own(MANY).chain([8]).chain(own(3));
        assert_eq!(together(mixed, 7), Some(MANY));
        let common = [8].into_iter().chain(own(MANY));
        assert_eq!(together(common, 7), None);
    }
}
