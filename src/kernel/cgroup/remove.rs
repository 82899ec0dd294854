//! Taking a group away: what lives in it is killed, then its groups go from the innermost
//! outwards, in every hierarchy. Killing itself is in `quiet`, finding children in `walk`.

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::fs::AtFlags;
use rustix::io::Errno;

use super::dir::Dir;
use super::quiet::{pids_in, signal};
use super::{CgroupError, Group, Result, walk};
use crate::kernel::fault;

/// How long a group may stay busy after its processes are gone: the kernel takes the last of them
/// out of it only when they have been torn down.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

impl Group {
    /// Kills what is left inside and removes the group with all groups in it, in every hierarchy.
    /// What is not there is not missed, so a removal that was cut short can be done again.
    ///
    /// # Errors
    /// When a process does not die within two seconds (it hangs in the kernel), or a group cannot
    /// be removed.
    pub fn remove(&self) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        self.kill_all(PATIENCE)?;
        for dir in self.dirs() {
            fault::point().map_err(|e| CgroupError::file("remove", dir.path(), e.errno))?;
            remove_dir(dir, until)?;
        }
        Ok(())
    }
}

/// Removes a group and those in it, waiting for its last processes to be torn down.
pub(super) fn remove_dir(dir: &Dir, until: Instant) -> Result<()> {
    let mut pause = Duration::from_micros(200);
    loop {
        match rustix::fs::unlinkat(rustix::fs::CWD, dir.path(), AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::BUSY) if walk::has_children(dir) => empty(dir, until)?,
            Err(Errno::BUSY) if Instant::now() < until => {
                // Whoever is in version 1 only has escaped the killing in version 2.
                signal(&pids_in(dir)?);
                back_off(&mut pause);
            }
            Err(e) => return Err(CgroupError::file("remove", dir.path(), e)),
        }
    }
}

/// Waits a little, and longer the next time. Only version 1 needs it, which cannot tell when a
/// group has become empty.
pub(super) fn back_off(pause: &mut Duration) {
    std::thread::sleep(*pause);
    *pause = (*pause * 2).min(Duration::from_millis(20));
}

/// Removes every group below `top`, innermost first, with two descriptors however deep it is.
fn empty(top: &Dir, until: Instant) -> Result<()> {
    let failed = |e| CgroupError::file("remove the groups in", top.path(), e);
    let mut here = walk::open(top, c".").map_err(failed)?;
    let mut depth = 0_usize;
    let mut pause = Duration::from_micros(200);
    loop {
        let down = match remove_children(&here) {
            Ok(busy) => busy,
            // Removed under our hands: go on one level up.
            Err(Errno::NOENT | Errno::NODEV) => None,
            Err(e) => return Err(failed(e)),
        };
        match down {
            Some((name, true)) => match walk::open(&here, &name) {
                Ok(child) => {
                    here = child;
                    depth += 1;
                }
                Err(Errno::NOENT) => {}
                Err(e) => return Err(failed(e)),
            },
            Some((_, false)) if Instant::now() < until => back_off(&mut pause),
            Some((_, false)) => return Err(failed(Errno::BUSY)),
            None if depth == 0 => return Ok(()),
            None => {
                here = walk::open(&here, c"..").map_err(failed)?;
                depth -= 1;
            }
        }
    }
}

/// Removes the children of `here` that can be removed. Returns one that cannot, and whether that
/// is because it has children itself.
fn remove_children(here: &OwnedFd) -> rustix::io::Result<Option<(CString, bool)>> {
    let busy = walk::find_child(here, |name| {
        match rustix::fs::unlinkat(here, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => None,
            Err(Errno::BUSY) => Some(Ok(name.to_owned())),
            Err(e) => Some(Err(e)),
        }
    })?;
    let Some(name) = busy.transpose()? else {
        return Ok(None);
    };
    let inner = match walk::open(here, &name) {
        Ok(child) => walk::has_children(&child),
        Err(Errno::NOENT) => false,
        Err(e) => return Err(e),
    };
    Ok(Some((name, inner)))
}
