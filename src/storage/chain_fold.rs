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
use crate::kernel::{fault, interrupt, random};

/// From so many on: well before the most, in case it cannot be done.
const MANY: usize = 40;
/// Deepest folder that is followed: each is looked up from the top, so that few are open at once.
const DEEPEST: usize = 128;
/// A folder that was renamed without what is in it; none of our mounts makes such.
const REDIRECT: &CStr = c"trusted.overlay.redirect";

/// Makes the layers of a stopped guest one, if they are many; tells whether it did. Whenever this is
/// cut short the guest lists the old ones or the new one, which say the same.
pub(super) fn fold(layers: &Path, root: &OwnedFd, object: &OwnedFd) -> Result<bool, FileError> {
    let failed = |e: io::Error| FileError::new("make one of the layers in", layers, e);
    let old = Chain::read(root.as_fd()).map_err(failed)?;
    if old.0.len() < MANY {
        return Ok(false);
    }
    let path = layers.join(random::hex(8).map_err(|e| failed(io::Error::other(e)))?);
    // As long as this is open it is nobody's leftover.
    let _held = match fill(&path, &old, object) {
        Ok(layer) => layer,
        Err(error) => {
            // The error that matters is this one.
            let _left = chain::remove(&path);
            return Err(failed(error));
        }
    };
    Chain(vec![path]).write(root).map_err(failed)?;
    fault::point().map_err(|e| failed(e.errno.into()))?;
    Ok(true)
}

fn fill(path: &Path, old: &Chain, object: &OwnedFd) -> io::Result<OwnedFd> {
    let trees: Result<Vec<OwnedFd>, FileError> = old.trees().map(|tree| open_dir(&tree)).collect();
    let trees = trees.map_err(|e| e.source)?;
    let layer = ensure_private(path).map_err(|e| e.source)?;
    fs::flock(&layer, fs::FlockOperation::NonBlockingLockExclusive)?;
    fault::point().map_err(|e| e.errno)?;
    let upper = child_dir(object, c"upper")?;
    let tree = make_dir(&layer, c"root", Owner::of(&fs::fstat(&upper)?))?;
    driver_folder::belong_as(&tree, &upper)?;
    put_together(&trees, &tree)?;
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
