//! Removing a guest, and giving it another name.

use std::time::Duration;

use super::error::{GuestError, Result};
use super::life::Verb;
use super::manager::Manager;
use super::store::Machine;
use crate::kernel::{KernelError, fault};
use crate::model::{EventKind, ExitReason, GuestName, Status};
use crate::storage;

impl Manager {
    /// Removes a guest with all its data, or puts it into the trash for `days`, then tells until when
    /// (milliseconds since 1970). With `force` it is killed first if need be.
    ///
    /// # Errors
    /// There is none, it is protected, it runs, or its data cannot be removed; what is left then,
    /// `doctor` names.
    pub fn delete(&self, name: &GuestName, force: bool, days: u32) -> Result<Option<u64>> {
        if !self.layout.guest(name).is_dir() {
            return Err(self.missing(name));
        }
        let _lock = self.lock(name, "delete")?;
        let status = self.status(name)?;
        self.check_unprotected(name)?;
        match Verb::Delete.check(name, status) {
            Ok(_) => {}
            Err(_) if force => {}
            Err(error) => return Err(error),
        }
        self.must_not_be_mounted(name, None)?;
        self.settle_rename(name)?;
        fault::point()?;
        let ran = !matches!(status, Status::Stopped | Status::Creating | Status::Broken);
        self.put_away(name, ran.then_some(ExitReason::Killed))?;
        let whole = !matches!(status, Status::Creating | Status::Broken);
        let until = match days {
            1.. if whole => Some(self.put_into_trash(name, days)?),
            _ => {
                self.remove_whole(name)?;
                None
            }
        };
        fault::point()?;
        // It is gone; a full disk must not make that an error.
        let _lost = self.record(name, EventKind::Deleted);
        self.tell_neighbours(name);
        // Nor what cannot be removed now of others: `trash empty` says so.
        let _later = self.empty_trash(true);
        Ok(until)
    }

    /// Refuses for a guest whose definition protects it.
    ///
    /// # Errors
    /// It is protected.
    pub fn check_unprotected(&self, name: &GuestName) -> Result<()> {
        // One whose definition cannot be understood protects nothing.
        match self.guest(name) {
            Ok(guest) if guest.protect => Err(GuestError::Protected(name.clone())),
            _ => Ok(()),
        }
    }

    /// Removes a guest's folder, its root first. The lock is held.
    pub(super) fn remove_files(&self, name: &GuestName) -> Result<()> {
        let folder = self.layout.guest(name);
        if !folder.exists() {
            return Ok(());
        }
        for (network, lease) in self.all_leased(name)? {
            network
                .teardown_guest(&lease)
                .map_err(|error| GuestError::Network(error.into()))?;
        }
        fault::point()?;
        storage::delete_root(&self.layout, name).map_err(|error| GuestError::Root {
            name: name.clone(),
            source: error.into(),
        })?;
        fault::point()?;
        for snapshot in self.snapshot_records(name).unwrap_or_default() {
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
        self.must_not_be_mounted(from, None)?;
        self.clean_up(from)?;
        self.discard(to)?;
        let machine = self.machine(from)?;
        self.move_guest(from, to, machine)?;
        self.tell_neighbours(to);
        self.move_goals(from, to)?;
        let from = from.to_string();
        let _lost = self.record(to, EventKind::Renamed { from });
        Ok(())
    }

    /// Moves a guest's folder and address to another name, which is free. Both locks are held.
    /// `machine` is its record as it is to be.
    pub(super) fn move_guest(
        &self,
        from: &GuestName,
        to: &GuestName,
        mut machine: Machine,
    ) -> Result<()> {
        machine.renaming = Some(to.clone());
        let moved = self.write_machine(from, &machine).and_then(|()| {
            self.pass_on(from, to)?;
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
        let passed_on = other != *name && !self.layout.guest(&other).exists();
        if passed_on && self.all_leased(name)?.is_empty() {
            self.pass_on(&other, name)?;
        }
        // Under the name it had it is not in the trash.
        machine.trashed = machine.trashed.filter(|trashed| trashed.name != *name);
        self.write_machine(name, &machine)
    }
}
