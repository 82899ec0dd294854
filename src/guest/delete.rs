//! Removing a guest, and giving it another name.

use std::time::Duration;

use super::error::{GuestError, Result};
use super::life::Verb;
use super::manager::Manager;
use crate::kernel::KernelError;
use crate::model::{EventKind, GuestName, Status};
use crate::storage;

impl Manager {
    /// Removes a guest with all its data. With `force` it is killed first if need be.
    ///
    /// # Errors
    /// There is none, it runs, or its data cannot be removed; what is left then, `doctor` names.
    pub fn delete(&self, name: &GuestName, force: bool) -> Result<()> {
        if !self.layout.guest(name).is_dir() {
            return Err(self.missing(name));
        }
        let _lock = self.lock(name, "delete")?;
        let status = self.status(name)?;
        match Verb::Delete.check(name, status) {
            Ok(_) => {}
            Err(_) if force => {}
            Err(error) => return Err(error),
        }
        self.put_away(name, None)?;
        // From here on it is a folder without a definition: half gone, never half there.
        let path = self.definition_path(name);
        match std::fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(KernelError::io("remove", path.display())(error).into()),
        }
        self.discard(name)?;
        self.record(name, EventKind::Deleted)?;
        self.tell_neighbours(name);
        Ok(())
    }

    /// Removes a guest's folder, its root first. The lock is held.
    pub(super) fn remove_files(&self, name: &GuestName) -> Result<()> {
        let folder = self.layout.guest(name);
        if !folder.exists() {
            return Ok(());
        }
        if let Some(lease) = self
            .network
            .find(name)
            .map_err(|error| GuestError::Network(error.into()))?
        {
            self.network
                .teardown_guest(&lease)
                .map_err(|error| GuestError::Network(error.into()))?;
        }
        storage::delete_root(&self.layout, name).map_err(|error| GuestError::Root {
            name: name.clone(),
            source: error.into(),
        })?;
        std::fs::remove_dir_all(&folder).map_err(KernelError::io("remove", folder.display()))?;
        Ok(())
    }

    /// Gives a stopped guest another name; address, ids and data stay.
    ///
    /// # Errors
    /// It runs, or the new name is taken.
    pub fn rename(&self, from: &GuestName, to: &GuestName) -> Result<()> {
        let _lock = self.lock(from, "rename")?;
        let _other = self.lock_within(to, "rename", Duration::from_secs(2))?;
        Verb::Rename.check(from, self.status(from)?)?;
        if self.layout.guest(to).exists() && self.status(to)? != Status::Creating {
            return Err(GuestError::Exists(to.clone()));
        }
        self.clean_up(from)?;
        self.discard(to)?;
        self.network.rename(from, to)?;
        let (old, new) = (self.layout.guest(from), self.layout.guest(to));
        if let Err(error) = std::fs::rename(&old, &new) {
            self.network.rename(to, from)?;
            return Err(KernelError::io("rename", old.display())(error).into());
        }
        self.tell_neighbours(to);
        self.record(
            to,
            EventKind::Renamed {
                from: from.to_string(),
            },
        )
    }
}
