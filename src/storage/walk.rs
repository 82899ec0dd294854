//! Walks a whole tree in order, with a handful of descriptors however deep it is, and without
//! following a symbolic link or crossing a mount. Reading only; removing is next door.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::dirfd::{child_dir, is_dir, names, stat_at};

/// One file met on a walk.
#[derive(Debug)]
pub(super) struct Met<'a> {
    /// Path below the top, components joined by `/`.
    pub(super) path: &'a [u8],
    /// The folder it lies in.
    pub(super) dir: BorrowedFd<'a>,
    /// Its name there.
    pub(super) name: &'a CStr,
    /// What it is.
    pub(super) stat: &'a Stat,
}

/// A folder whose names are still to be visited.
struct Level {
    names: std::vec::IntoIter<CString>,
    /// Device and inode of the folder, to know it again on the way up.
    id: (u64, u64),
    /// Length of the path of the folder.
    path: usize,
}

/// Calls `visit` for every file below `top`, parents first, names in byte order.
///
/// Depth costs memory, not descriptors: the way up is `..`, checked against the inode the walk came
/// down from. A tree that changes under the walk ends it with `ESTALE`.
///
/// # Errors
/// Of the walk itself, or what `visit` returns.
pub(super) fn walk<E: From<Errno>>(
    top: impl AsFd,
    mut visit: impl FnMut(&Met<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut dir: OwnedFd = fs::openat(top, c".", flags, Mode::empty())?;
    let mut path = Vec::new();
    let mut levels = vec![level(&dir, 0)?];
    while let Some(current) = levels.last_mut() {
        path.truncate(current.path);
        let Some(name) = current.names.next() else {
            levels.pop();
            if let Some(parent) = levels.last() {
                dir = up(&dir, parent.id)?;
            }
            continue;
        };
        // Gone since the names were read: a running guest at work.
        let Some(stat) = stat_at(&dir, &name)? else {
            continue;
        };
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name.to_bytes());
        visit(&Met {
            path: &path,
            dir: dir.as_fd(),
            name: &name,
            stat: &stat,
        })?;
        if is_dir(&stat) {
            match child_dir(&dir, &name) {
                Ok(child) => {
                    dir = child;
                    levels.push(level(&dir, path.len())?);
                }
                Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
    Ok(())
}

fn level(dir: &OwnedFd, path: usize) -> rustix::io::Result<Level> {
    let stat = fs::fstat(dir)?;
    Ok(Level {
        names: names(dir)?.into_iter(),
        id: (stat.st_dev, stat.st_ino),
        path,
    })
}

fn up(dir: &OwnedFd, expected: (u64, u64)) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent = fs::openat(dir, c"..", flags, Mode::empty())?;
    let stat = fs::fstat(&parent)?;
    if (stat.st_dev, stat.st_ino) == expected {
        Ok(parent)
    } else {
        Err(Errno::STALE)
    }
}
