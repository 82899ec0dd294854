//! A new root in the place of a stopped guest's: made whole beside it, then the two change places in
//! one step, and the old one is removed. What becomes true of the guest together with its new root
//! lies in it as a note, until whoever has the guest's lock next has written it down where it belongs.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{self, AtFlags, RenameFlags};
use rustix::io::Errno;

use super::dirfd::{self, FileError, Owner, child_file, cname, open_dir, read_limited};
use super::image::Image;
use super::root::{self, Origin, RootError};
use crate::kernel::fault;
use crate::model::{GuestName, Layout};

const NOTE: &CStr = c"arrival.json";
/// Most bytes of a note: it has a definition in it.
const NOTE_MOST: u64 = 4 << 20;

/// What a new root is to be.
pub(super) struct Renewal<'a> {
    pub(super) image: &'a Image,
    pub(super) origin: &'a Origin,
    /// What becomes true with it.
    pub(super) note: &'a [u8],
}

/// Makes a new root, lets `furnish` write into the folder it lies in, and puts it in the place of the
/// guest's own. On an error the guest has the root it had.
pub(super) fn renew<E: From<RootError>>(
    layout: &Layout,
    name: &GuestName,
    wish: &Renewal<'_>,
    furnish: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<(), E> {
    let path = layout.guest(name);
    let guest = open_dir(&path).map_err(RootError::from)?;
    let temporary = format!(".root-{}", std::process::id());
    let shown = path.join(&temporary);
    let failed = |e: io::Error| RootError::from(FileError::new("make root", &shown, e));
    let temporary = cname(temporary).map_err(failed)?;
    let made = (|| -> Result<(), E> {
        let new = root::fill(&guest, &temporary, wish.image, wish.origin).map_err(failed)?;
        furnish(&shown)?;
        dirfd::write_whole(&new, NOTE, wish.note, Owner::root(0o600), true).map_err(failed)?;
        Ok(exchange(&guest, &temporary, wish.image, name, &path)?)
    })();
    // What is here now is the half-made new root, or the old one. What cannot be removed, `doctor`
    // names; the error that matters is the other.
    root::discard(&guest, &temporary, &path).ok();
    made
}

fn exchange(
    guest: &OwnedFd,
    temporary: &CString,
    image: &Image,
    name: &GuestName,
    path: &Path,
) -> Result<(), RootError> {
    let failed = |e: Errno| RootError::from(FileError::new("change the root in", path, e));
    let swap = || fs::renameat_with(guest, &**temporary, guest, c"root", RenameFlags::EXCHANGE);
    fault::point().map_err(|e| failed(e.errno))?;
    swap().map_err(failed)?;
    let kept = (|| {
        fault::point().map_err(|e| failed(e.errno))?;
        fs::fsync(guest).map_err(failed)?;
        // Whoever removes images has either seen this root, or is seen here.
        let there = image.path.exists() && image.lowers().iter().all(|lower| lower.exists());
        match there {
            true => Ok(()),
            false => Err(RootError::ImageGone {
                guest: name.clone(),
                digest: image.digest.clone(),
            }),
        }
    })();
    if kept.is_err() {
        swap().map_err(failed)?;
    }
    kept
}

/// The note in a guest's root; `None` where there is none, or no root.
///
/// # Errors
/// It cannot be read.
pub fn root_note(layout: &Layout, name: &GuestName) -> Result<Option<Vec<u8>>, FileError> {
    let path = root::folder(layout, name);
    let failed = |e: io::Error| FileError::new("read", &path, e);
    let root = match open_dir(&path) {
        Err(e) if e.source.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    match child_file(root.as_fd(), NOTE) {
        Ok(file) => read_limited(file, NOTE_MOST).map(Some).map_err(failed),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(failed(e.into())),
    }
}

/// Removes it: what it says is written down.
///
/// # Errors
/// It cannot be removed.
pub fn forget_root_note(layout: &Layout, name: &GuestName) -> Result<(), FileError> {
    let path = root::folder(layout, name);
    match fs::unlinkat(open_dir(&path)?, NOTE, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(FileError::new("remove a note in", &path, e)),
    }
}
