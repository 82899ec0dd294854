//! Snapshots shown on folders of the host's, to look into them. The table of mounts is all that is
//! written down about it: each is there by a name that tells whose it is, so nothing can be left behind
//! that is not seen.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::error::{GuestError, Result};
use super::manager::Manager;
use crate::kernel::{KernelError, fault, file, mount, mount_table, tree};
use crate::launch::{self, LookAt};
use crate::model::GuestName;
use crate::storage;

/// A snapshot on a folder of the host's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SnapshotMount {
    /// The guest.
    pub guest: String,
    /// The snapshot.
    pub snapshot: String,
    /// The folder.
    pub folder: PathBuf,
}

impl Manager {
    /// Shows a snapshot's files on an empty folder of the host's, read-only.
    ///
    /// # Errors
    /// There is no such snapshot, or it goes at the end of the run; the folder is not there, not empty,
    /// or something is mounted on it.
    pub fn mount_snapshot(&self, name: &GuestName, snapshot: &str, folder: &Path) -> Result<()> {
        let _lock = self.lock(name, "snapshot")?;
        let taken = self.check_mount(name, snapshot, folder)?;
        let image = storage::load_image(&self.layout, &taken.image)?;
        storage::check_sound(&image)?;
        let target = tree::open_root(folder)?;
        let (disk, folders) = storage::trees_of_saved(&taken.root, &image)
            .map_err(|error| self.root_error(name, error.into()))?;
        let scratch = self.layout.run().join("scratch");
        file::make_private_dir(&scratch)?;
        fault::point()?;
        let source = format!("{}{name}/{}", self.mount_prefix(), taken.name);
        let layers = LookAt { disk, folders };
        let made = launch::look(&layers, &scratch, &source).map_err(|source| GuestError::Show {
            guest: name.clone(),
            snapshot: taken.name.clone(),
            source,
        })?;
        fault::point()?;
        Ok(mount::attach(
            std::os::fd::AsFd::as_fd(&made),
            std::os::fd::AsFd::as_fd(&target),
            &folder.display().to_string(),
        )?)
    }

    /// Checks what [`Manager::mount_snapshot`] would need, and changes nothing.
    ///
    /// # Errors
    /// As there.
    pub fn check_mount(
        &self,
        name: &GuestName,
        snapshot: &str,
        folder: &Path,
    ) -> Result<super::snapshot::Snapshot> {
        let taken = self.snapshot(name, snapshot)?;
        if self.goes_at_the_end(name, &taken.name)? {
            // A mount would keep what the guest writes from being dropped then.
            return Err(GuestError::Undecided {
                verb: "mount that snapshot of",
                name: name.clone(),
            });
        }
        let mut names = match std::fs::read_dir(folder) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(GuestError::Folder {
                    folder: folder.to_owned(),
                    why: "it is not there: make it first",
                });
            }
            other => other.map_err(KernelError::io("read", folder.display()))?,
        };
        if names.next().is_some() {
            return Err(GuestError::Folder {
                folder: folder.to_owned(),
                why: "it is not empty, and what is in it would be hidden: name an empty one",
            });
        }
        let failed = KernelError::io("look at", folder.display());
        if mount::is_mount_point(folder).map_err(failed)? {
            return Err(GuestError::Folder {
                folder: folder.to_owned(),
                why: "something is mounted there already: name another",
            });
        }
        Ok(taken)
    }

    /// Takes a snapshot off a folder again; tells which it was.
    ///
    /// # Errors
    /// None is mounted there, or somebody works in it.
    pub fn unmount_snapshot(&self, folder: &Path) -> Result<SnapshotMount> {
        let found = self.mounted_on(folder)?;
        fault::point()?;
        mount::unmount_path(&found.folder)?;
        Ok(found)
    }

    /// The snapshot that is mounted on a folder.
    ///
    /// # Errors
    /// None is.
    pub fn mounted_on(&self, folder: &Path) -> Result<SnapshotMount> {
        let real =
            std::fs::canonicalize(folder).map_err(KernelError::io("look at", folder.display()))?;
        let mut all = self.snapshot_mounts()?;
        all.retain(|one| one.folder == real);
        all.pop().ok_or_else(|| GuestError::Folder {
            folder: folder.to_owned(),
            why: "no snapshot is mounted there: `bulkhead snapshot list` of its guest says where it is",
        })
    }

    /// All snapshots that are mounted, of whatever guest.
    ///
    /// # Errors
    /// The table of mounts cannot be read.
    pub fn snapshot_mounts(&self) -> Result<Vec<SnapshotMount>> {
        let prefix = self.mount_prefix();
        let all = mount_table::named("overlay", &prefix)?.into_iter();
        let one = |named: mount_table::Named| {
            let (guest, snapshot) = named.source.strip_prefix(&prefix)?.split_once('/')?;
            Some(SnapshotMount {
                guest: guest.to_owned(),
                snapshot: snapshot.to_owned(),
                folder: named.point,
            })
        };
        Ok(all.filter_map(one).collect())
    }

    /// Refuses where a snapshot of a guest, or any of them, is mounted.
    pub(super) fn must_not_be_mounted(
        &self,
        name: &GuestName,
        snapshot: Option<&str>,
    ) -> Result<()> {
        let mut all = self.snapshot_mounts()?;
        all.retain(|one| one.guest == name.as_str());
        all.retain(|one| snapshot.is_none_or(|wanted| wanted == one.snapshot));
        match all.pop() {
            None => Ok(()),
            Some(one) => Err(GuestError::Mounted {
                guest: name.clone(),
                snapshot: one.snapshot,
                folder: one.folder,
            }),
        }
    }

    /// Mounts of snapshots that are not there any more. Where that cannot be told, none is.
    pub(super) fn stale_mounts(&self) -> Result<Vec<SnapshotMount>> {
        let mut all = self.snapshot_mounts()?;
        all.retain(|one| {
            let name = one.guest.parse::<GuestName>();
            name.is_ok_and(|name| {
                let found = self.snapshot(&name, &one.snapshot);
                let gone = |e: &GuestError| {
                    matches!(
                        e,
                        GuestError::NoSnapshot { .. } | GuestError::Missing { .. }
                    )
                };
                found.is_err_and(|error| gone(&error))
            })
        });
        Ok(all)
    }

    fn mount_prefix(&self) -> String {
        format!("{}/", self.layout.kernel_name())
    }
}
