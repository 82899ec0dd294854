//! A guest into a backup repository, while it runs or not, and a guest out of one.

use super::error::{GuestError, Result};
use super::manager::{Manager, now_ms};
use super::stop::KILL;
use super::store::{Machine, RunState, Written};
use crate::kernel::process::Identity;
use crate::kernel::{fault, file, random};
use crate::model::{EventKind, Guest, GuestName, Status};
use crate::storage;
use crate::storage::backup::{Backup, Repository, Restored, Snapshot, Subject, Work};

impl Manager {
    /// Backs a guest up. It may run: then its files are read as they are met, and with `freeze` it is
    /// frozen at the end, while what has changed meanwhile is read, so that all files are of one
    /// moment.
    ///
    /// # Errors
    /// There is no such guest, a file cannot be read, the repository cannot be written.
    pub fn back_up(
        &self,
        repository: &mut Repository,
        name: &GuestName,
        freeze: bool,
        progress: &mut dyn FnMut(&Work),
    ) -> Result<(Snapshot, Work)> {
        let definition = self.definition_text(name)?;
        let machine = self.machine(name)?;
        let subject = Subject {
            guest: name.clone(),
            host: rustix::system::uname()
                .nodename()
                .to_string_lossy()
                .into_owned(),
            definition,
            machine_id: machine.machine_id,
            image: storage::load_image(&self.layout, &machine.image)?,
        };
        let mut backup = Backup::begin(repository, &self.layout, subject, progress)?;
        backup.read_own()?;
        let frozen = freeze && self.frozen(name, || Ok(backup.read_own()?))?;
        let work = backup.work();
        Ok((backup.finish(frozen)?, work))
    }

    /// Does something while a guest is frozen. Nothing is done to one that does not run, whose files
    /// do not change: then the answer is false.
    ///
    /// # Errors
    /// It cannot be frozen, or what `inside` returns; then it runs again.
    pub(super) fn frozen(
        &self,
        name: &GuestName,
        inside: impl FnOnce() -> Result<()>,
    ) -> Result<bool> {
        let _lock = self.lock(name, "backup")?;
        self.thaw_if_abandoned(name)?;
        let running = self.status(name)? == Status::Running;
        let (true, Some(group), Some(mut state)) =
            (running, self.group(name)?, self.run_state(name)?)
        else {
            return Ok(false);
        };
        // Written down first: a command that is killed in between leaves a guest that says it is
        // paused, and by whom.
        state.paused = true;
        state.freezer = Identity::of(std::process::id());
        self.write_run_state(name, &state)?;
        let done = group.freeze(KILL).map_err(GuestError::from).and_then(|()| {
            fault::point()?;
            inside()
        });
        let thawed = group.thaw(KILL);
        (state.paused, state.freezer) = (false, None);
        thawed?;
        self.write_run_state(name, &state)?;
        done.map(|()| true)
    }

    /// Lets a guest go on that a command has frozen for a moment and then died; whether there was
    /// one. Its lock is held.
    pub(super) fn thaw_if_abandoned(&self, name: &GuestName) -> Result<bool> {
        let Some(mut state) = self.run_state(name)?.filter(is_abandoned) else {
            return Ok(false);
        };
        if let Some(group) = self.group(name)? {
            group.thaw(KILL)?;
        }
        (state.paused, state.freezer) = (false, None);
        self.write_run_state(name, &state)?;
        Ok(true)
    }

    /// Whether a command has frozen it for a moment and then died.
    pub(super) fn is_abandoned(&self, name: &GuestName) -> bool {
        let state = self.run_state(name).ok().flatten();
        state.as_ref().is_some_and(is_abandoned)
    }

    /// Checks everything that restoring a snapshot as guest `name` would need, and changes nothing.
    ///
    /// # Errors
    /// As [`Manager::restore_guest`].
    pub fn check_restore(&self, name: &GuestName, snapshot: &Snapshot) -> Result<Guest> {
        if self.layout.guest(name).is_dir() && self.status(name)? != Status::Creating {
            return Err(GuestError::Exists(name.clone()));
        }
        let guest = self.define(name, &snapshot.definition)?;
        crate::plan::spec::supported(&guest, &self.facts)?;
        self.check_host_side(&guest)?;
        if guest.network.kind == crate::model::NetworkKind::Bridge {
            self.network.preview(name, guest.network.address)?;
        }
        Ok(guest)
    }

    /// Makes the guest `name` from a snapshot. Under the name it had, with nobody else of its
    /// identity here, it is the same guest; else it gets an identity of its own: machine id, host
    /// name, SSH host keys. What fails leaves nothing but its image.
    ///
    /// # Errors
    /// The name is taken, the definition no longer fits this host, its address is not to be had, the
    /// repository is damaged, the disk is full.
    pub fn restore_guest(
        &self,
        repository: &Repository,
        snapshot: &Snapshot,
        name: &GuestName,
        progress: &mut dyn FnMut(&Restored),
    ) -> Result<Restored> {
        let _lock = self.lock(name, "backup restore")?;
        let guest = self.check_restore(name, snapshot)?;
        self.discard(name)?;
        let done = self
            .fill_guest(repository, snapshot, &guest, progress)
            .and_then(|restored| {
                self.record(name, EventKind::Created)?;
                Ok(restored)
            });
        if done.is_err() {
            // The error that matters is the one above; what this leaves, `doctor` names.
            let _none = std::fs::remove_file(self.definition_path(name));
            let _left = self.discard(name);
        } else {
            self.tell_neighbours(name);
        }
        done
    }

    fn fill_guest(
        &self,
        repository: &Repository,
        snapshot: &Snapshot,
        guest: &Guest,
        progress: &mut dyn FnMut(&Restored),
    ) -> Result<Restored> {
        let name = &guest.name;
        let image = repository.restore_image(&self.layout, snapshot, progress)?;
        let same = snapshot.guest == name.as_str() && !self.is_taken(&snapshot.machine_id)?;
        let machine = self.with_free_ids(|ids| {
            file::make_private_dir(&self.layout.guest(name))?;
            fault::point()?;
            let machine = Machine {
                ids,
                image: image.digest.clone(),
                created_ms: now_ms(),
                machine_id: match same {
                    true => snapshot.machine_id.clone(),
                    false => random::hex(16)?,
                },
                renaming: None,
                snapshot: None,
            };
            self.write_machine(name, &machine)?;
            Ok(machine)
        })?;
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| GuestError::Root {
            name: name.clone(),
            source,
        };
        self.make_root(guest, &image)?;
        let restored = repository.restore_own(&self.layout, name, snapshot, progress)?;
        let lease = self.lease(name, guest)?;
        let boot = self.first_boot_data(guest, &machine, lease.as_ref())?;
        fault::point()?;
        if !same {
            storage::first_boot(&self.layout, name, &image, &boot)
                .map_err(|error| failed(error.into()))?;
        }
        self.write_written(name, &Written::of(guest))?;
        let path = self.definition_path(name);
        file::write_whole(&path, snapshot.definition.as_bytes(), 0o600)?;
        Ok(restored)
    }

    /// Whether a guest here has this machine id.
    fn is_taken(&self, machine_id: &str) -> Result<bool> {
        let has = |name: &GuestName| {
            let machine = self.machine_if_there(name).ok().flatten();
            machine.is_some_and(|machine| machine.machine_id == machine_id)
        };
        Ok(self.names()?.iter().any(has))
    }
}

fn is_abandoned(state: &RunState) -> bool {
    let lives = |who: Identity| Identity::of(who.pid) == Some(who);
    state.paused && state.freezer.is_some_and(|who| !lives(who))
}
