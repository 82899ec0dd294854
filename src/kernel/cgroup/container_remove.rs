//! Taking a container's groups away: the folders, those in them, and the folders above that were
//! made for them and are empty. Usually everything inside has ended, and it is one call for each
//! hierarchy; only when one is busy is anybody looked for and killed.

use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::fs::{AtFlags, CWD};
use rustix::io::Errno;

use super::container::{Cgroups, folder, hierarchies};
use super::dir::Dir;
use super::remove::{PATIENCE, remove_dir};
use super::{CgroupError, Host, Result};
use crate::kernel::fault;
use crate::model::CgroupPlace;

impl Cgroups {
    /// Kills what is left inside and removes the groups. What is not there is not missed, so a
    /// removal that was cut short can be done again.
    ///
    /// # Errors
    /// When a process does not die within two seconds (it hangs in the kernel), or a group cannot
    /// be removed.
    pub fn remove(&self, host: &Host) -> Result<()> {
        Self::remove_at(host, &self.place)
    }

    /// The same without opening anything first.
    ///
    /// # Errors
    /// As [`Cgroups::remove`].
    pub fn remove_at(host: &Host, place: &CgroupPlace) -> Result<()> {
        let v1 = hierarchies(host).into_iter().map(|(at, _)| at);
        let mounts: Vec<&Path> = v1.chain(host.v2.as_deref()).collect();
        let mut busy: Vec<PathBuf> = Vec::new();
        for at in &mounts {
            let path = folder(at, place);
            match unlink(&path) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::BUSY) => busy.push(path),
                Err(e) => return Err(CgroupError::file("remove", &path, e)),
            }
        }
        if !busy.is_empty() {
            // Not all may be there any more: whoever is opened here is killed.
            match Self::open(host, place) {
                Ok(groups) => groups.kill(libc::SIGKILL)?,
                Err(CgroupError::Absent { .. }) => {}
                Err(e) => return Err(e),
            }
        }
        let until = Instant::now() + PATIENCE;
        for path in busy {
            fault::point().map_err(|e| CgroupError::file("remove", &path, e.errno))?;
            if let Some(dir) = Dir::open(&path)? {
                remove_dir(&dir, until)?;
            }
        }
        // The kernel refuses those that are in use.
        for path in place.made.iter().rev() {
            let _used = unlink(path);
        }
        Ok(())
    }

    /// Takes away what making has made. Nothing has entered, so the folders are empty; an error
    /// here would only hide the one that matters.
    pub(super) fn undo(&self) {
        for slot in self
            .v1
            .iter()
            .chain(&self.v2)
            .filter(|slot| slot.is_fresh())
        {
            let _left = unlink(slot.dir.path());
        }
        for path in self.place.made.iter().rev() {
            let _used = unlink(path);
        }
    }
}

fn unlink(path: &Path) -> rustix::io::Result<()> {
    rustix::fs::unlinkat(CWD, path, AtFlags::REMOVEDIR)
}
