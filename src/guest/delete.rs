//! Removing a guest, and giving it another name.

use std::time::Duration;

use super::error::{GuestError, Result};
use super::life::Verb;
use super::manager::Manager;
use crate::kernel::{KernelError, fault};
use crate::model::{EventKind, ExitReason, GuestName, Status};
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
        self.settle_rename(name)?;
        fault::point()?;
        let ran = !matches!(status, Status::Stopped | Status::Creating | Status::Broken);
        self.put_away(name, ran.then_some(ExitReason::Killed))?;
        // From here on it is a folder without a definition: half gone, never half there.
        let path = self.definition_path(name);
        match std::fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(KernelError::io("remove", path.display())(error).into()),
        }
        fault::point()?;
        self.discard(name)?;
        fault::point()?;
        // It is gone; a full disk must not make that an error.
        let _lost = self.record(name, EventKind::Deleted);
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
        fault::point()?;
        storage::delete_root(&self.layout, name).map_err(|error| GuestError::Root {
            name: name.clone(),
            source: error.into(),
        })?;
        fault::point()?;
        for snapshot in self.snapshots(name).unwrap_or_default() {
            storage::remove_saved(&snapshot.root).map_err(|error| GuestError::Root {
                name: name.clone(),
                source: error.into(),
            })?;
            fault::point()?;
        }
        std::fs::remove_dir_all(&folder).map_err(KernelError::io("remove", folder.display()))?;
        self.drop_unused();
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
        let mut machine = self.machine(from)?;
        machine.renaming = Some(to.clone());
        let moved = self.write_machine(from, &machine).and_then(|()| {
            self.network.rename(from, to)?;
            fault::point()?;
            let (old, new) = (self.layout.guest(from), self.layout.guest(to));
            std::fs::rename(&old, &new).map_err(KernelError::io("rename", old.display()))?;
            Ok(())
        });
        if let Err(error) = moved {
            // The error that matters is the one above; what this leaves, the next command settles.
            let _later = self.settle_rename(from);
            return Err(error);
        }
        fault::point()?;
        // It has its new name; a full disk must not make that an error.
        let _later = self.settle_rename(to);
        self.tell_neighbours(to);
        let from = from.to_string();
        let _lost = self.record(to, EventKind::Renamed { from });
        Ok(())
    }

    /// Undoes a rename that was cut short before the folder had its new name, finishes one that was
    /// cut short after it. The lock is held.
    pub(super) fn settle_rename(&self, name: &GuestName) -> Result<()> {
        let Some(mut machine) = self.machine_if_there(name)? else {
            return Ok(());
        };
        let Some(other) = machine.renaming.take() else {
            return Ok(());
        };
        let find = |name| {
            let lease = self.network.find(name);
            lease.map_err(|error| GuestError::Network(error.into()))
        };
        let passed_on = other != *name && !self.layout.guest(&other).exists();
        if passed_on && find(name)?.is_none() {
            self.network.rename(&other, name)?;
        }
        self.write_machine(name, &machine)
    }
}
