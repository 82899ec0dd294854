//! Files of a stopped guest's own layer that are as its base has them, dropped: what the guest sees is
//! the same, and comes from the one copy that all guests of that base share, on disk and in memory. The
//! layer is a stranger's: one name at a time, by descriptor. Whatever is cut short has dropped some of
//! them and not others, which nobody can see.

use std::ffi::CStr;
use std::os::fd::OwnedFd;

use rustix::fs::{self, AtFlags, Stat, Timespec, Timestamps};
use rustix::io::Errno;
use serde::Serialize;

use super::dirfd::{FileError, child_dir, is_dir, is_file, names, open_dir, stat_at};
use super::gone::Gone;
use super::image::Image;
use super::merged_folder::{Entry, Folder, entry, is_opaque};
use super::place;
use super::root::{self, RootError, lowers_of};
use super::tree_diff::ChangeKind;
use super::tree_read::{of_name, of_open};
use super::tree_same::{At, Proof, differences};
use crate::kernel::{fault, interrupt};
use crate::model::{GuestName, Layout};

/// Folders in one another; each holds descriptors open.
const DEPTH_MOST: usize = 128;
/// Marks of overlayfs by which a name is not simply over the same name below.
const ELSEWHERE: [&[u8]; 2] = [b"trusted.overlay.redirect", b"trusted.overlay.metacopy"];

/// What was given back to the base, or would be.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Returned {
    /// Files of guests' own layers that are seen through to the base from now on.
    pub base_files: u64,
    /// Bytes of disk that they took; as many of memory, as often as they were in use.
    pub base_bytes: u64,
    /// Guests that were passed over: they run, or a command is at work on them.
    pub base_running: u64,
    /// Folders and files that were passed over: they lie too deep, or cannot be looked into.
    pub base_left_out: u64,
    /// The files that would be given back.
    #[serde(skip)]
    pub gone: Gone,
}

/// Drops what a guest has as its base has it; with `would`, only counts. The guest must be stopped and
/// stay so.
///
/// # Errors
/// Its layer or its base cannot be read; it was interrupted.
pub fn return_to_base(
    layout: &Layout,
    name: &GuestName,
    image: &Image,
    would: bool,
    found: &mut Returned,
) -> Result<(), RootError> {
    let folder = root::folder(layout, name);
    let opened = place::object_of(&folder)?.open()?;
    let shown = opened.shown.join("upper");
    let failed = |e: Errno| FileError::new("look through", &shown, e);
    let upper = child_dir(&opened.folder, c"upper").map_err(failed)?;
    let lowers = lowers_of(&folder, image)?;
    let lowers = lowers.iter().map(|path| open_dir(path));
    let below = Folder {
        name: c".".to_owned(),
        upper: None,
        lowers: lowers.collect::<Result<_, _>>()?,
    };
    let mut search = Search { would, found };
    Ok(search.folder(&upper, &below, 0).map_err(failed)?)
}

struct Search<'a> {
    would: bool,
    found: &'a mut Returned,
}

impl Search<'_> {
    /// Looks through a folder of the layer and what is below it there.
    fn folder(&mut self, upper: &OwnedFd, below: &Folder, depth: usize) -> rustix::io::Result<()> {
        let before = fs::fstat(upper)?;
        let mut dropped = false;
        for name in names(upper)? {
            if interrupt::caught().is_some() {
                return Err(Errno::INTR);
            }
            match self.one(upper, below, &name, depth) {
                Ok(gone) => dropped |= gone,
                Err(Errno::INTR) => return Err(Errno::INTR),
                Err(error) if self.is_fatal(error) => return Err(error),
                // Its owner has made what cannot be looked at: that is no reason to leave out others.
                Err(_) => self.found.base_left_out += 1,
            }
        }
        if dropped {
            // The time of the folder is the guest's own.
            fs::futimens(upper, &times(&before))?;
        }
        Ok(())
    }

    /// What holds for all that is left of its layer, or a fault that was asked for.
    fn is_fatal(&self, error: Errno) -> bool {
        matches!(error, Errno::ROFS | Errno::CANCELED)
    }

    /// Looks at one name; says whether it is dropped.
    fn one(
        &mut self,
        upper: &OwnedFd,
        below: &Folder,
        name: &CStr,
        depth: usize,
    ) -> rustix::io::Result<bool> {
        let Some(stat) = stat_at(upper, name)? else {
            return Ok(false);
        };
        if is_dir(&stat) {
            let child = child_dir(upper, name)?;
            if is_opaque(&child) || is_elsewhere(&of_open(&child)?) {
                return Ok(false);
            }
            let Entry::Folder(below) = entry(below, name).map_err(errno)? else {
                return Ok(false);
            };
            if depth == DEPTH_MOST {
                self.found.base_left_out += 1;
                return Ok(false);
            }
            self.folder(&child, &below, depth + 1)?;
            return Ok(false);
        }
        // One of several names is the same file under all of them only as long as it is one.
        if !is_file(&stat) || stat.st_nlink != 1 {
            return Ok(false);
        }
        let Entry::File { dir, stat: base } = entry(below, name).map_err(errno)? else {
            return Ok(false);
        };
        if !is_same((upper, &stat), (&dir, &base), name)? {
            return Ok(false);
        }
        self.found.base_files += 1;
        self.found.base_bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
        if self.would {
            self.found.gone.add(&stat);
            return Ok(false);
        }
        fault::point().map_err(|_| Errno::CANCELED)?;
        fs::unlinkat(upper, name, AtFlags::empty())?;
        Ok(true)
    }
}

/// Whether no guest could tell its file and one below apart: by data, owner, mode, attributes or time.
pub(super) fn is_same(
    (upper, own): (&OwnedFd, &Stat),
    (dir, base): (&OwnedFd, &Stat),
    name: &CStr,
) -> rustix::io::Result<bool> {
    let time = |stat: &Stat| (stat.st_mtime, stat.st_mtime_nsec);
    if !is_file(base) || own.st_size != base.st_size || time(own) != time(base) {
        return Ok(false);
    }
    if is_elsewhere(&of_name(upper, name)?) {
        return Ok(false);
    }
    let a = At {
        dir: upper,
        name,
        stat: own,
    };
    let b = At {
        dir,
        name,
        stat: base,
    };
    let (kind, what) = differences(&a, &b, Proof { settled: 0 })?;
    if kind != ChangeKind::Meta || !what.is_empty() {
        return Ok(false);
    }
    // Nobody has written to it while it was compared.
    let now = stat_at(upper, name)?;
    let id = |stat: &Stat| (stat.st_ino, stat.st_ctime, stat.st_ctime_nsec, stat.st_size);
    Ok(now.is_some_and(|now| id(&now) == id(own)))
}

/// Whether overlayfs looks for what it is under another name, or in another file.
pub(super) fn is_elsewhere(attributes: &[(Vec<u8>, Vec<u8>)]) -> bool {
    let is = |name: &[u8]| ELSEWHERE.contains(&name);
    attributes.iter().any(|(name, _)| is(name))
}

/// Both times of a file.
pub(super) fn times(stat: &Stat) -> Timestamps {
    let time = |seconds, nanoseconds| Timespec {
        tv_sec: seconds,
        tv_nsec: i64::try_from(nanoseconds).unwrap_or(0),
    };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

fn errno(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}
