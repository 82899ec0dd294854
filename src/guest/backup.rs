//! A guest into a backup repository, while it runs or not, and a guest out of one.

use super::error::Result;
use super::import::refuse_reach;
use super::manager::Manager;
use super::store::Written;
use crate::define::{self, Change, KeyPath};
use crate::kernel::{fault, random};
use crate::model::{EventKind, Guest, GuestName, Status};
use crate::storage;
use crate::storage::backup::{Backup, Repository, Restored, Snapshot, Subject, Work};

/// How a guest is to come back.
#[derive(Clone, Debug)]
pub struct RestoreWish {
    /// Its name here.
    pub name: GuestName,
    /// Whether its definition may reach beyond it, whoever wrote it.
    pub trust: bool,
    /// What its definition is to say here.
    pub changes: Vec<(KeyPath, Change)>,
}

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
        self.settle_first(name)?;
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
        let frozen = freeze && self.held_still(name, || Ok(backup.read_own()?))?;
        let work = backup.work();
        Ok((backup.finish(frozen)?, work))
    }

    /// What a stopped guest has written and is to lose is not backed up.
    fn settle_first(&self, name: &GuestName) -> Result<()> {
        if self.status(name)? == Status::Stopped && self.is_undo_due(name) {
            let _lock = self.lock(name, "backup")?;
            self.clean_up(name)?;
        }
        Ok(())
    }

    /// Does something while a guest is held still. Nothing is done to one that does not run, whose
    /// files do not change: then the answer is false.
    fn held_still(&self, name: &GuestName, inside: impl FnOnce() -> Result<()>) -> Result<bool> {
        let _lock = self.lock(name, "backup")?;
        self.clean_up(name)?;
        if self.status(name)? != Status::Running {
            return Ok(false);
        }
        let held = self.hold(name)?;
        inside()?;
        held.release()?;
        Ok(true)
    }

    /// What restoring a snapshot as a guest would bring.
    ///
    /// # Errors
    /// The repository is damaged, or the list of its image's files, where that image is not here.
    pub fn measure_restore(
        &self,
        repository: &Repository,
        snapshot: &Snapshot,
    ) -> Result<Restored> {
        Ok(repository.measure_guest(&self.layout, snapshot)?)
    }

    /// Checks what restoring a snapshot as guest `name` would need of this host, and changes nothing.
    /// Gives the guest and the text of its definition.
    ///
    /// # Errors
    /// As [`Manager::restore_guest`].
    pub fn check_restore(
        &self,
        repository: &Repository,
        snapshot: &Snapshot,
        wish: &RestoreWish,
    ) -> Result<(Guest, String)> {
        if !repository.is_encrypted() && !wish.trust {
            refuse_reach(&wish.name, &self.define(&wish.name, &snapshot.definition)?)?;
        }
        let definition = define::edit(&snapshot.definition, &wish.changes)?;
        let guest = self.check_wanted(&wish.name, &definition)?;
        Ok((guest, definition))
    }

    /// Makes a guest from a snapshot. Under the name it had, with nobody else of its
    /// identity here, it is the same guest; else it gets an identity of its own: machine id, host
    /// name, SSH host keys. What fails leaves nothing but its image.
    ///
    /// # Errors
    /// The name is taken, the definition no longer fits this host, or reaches beyond the guest and
    /// comes from a repository that is not encrypted; its address is not to be had, the repository is
    /// damaged, the disk is full.
    pub fn restore_guest(
        &self,
        repository: &Repository,
        snapshot: &Snapshot,
        wish: &RestoreWish,
        progress: &mut dyn FnMut(&Restored),
    ) -> Result<Restored> {
        let name = &wish.name;
        let _lock = self.lock(name, "backup restore")?;
        let (guest, definition) = self.check_restore(repository, snapshot, wish)?;
        self.discard(name)?;
        let done = self
            .fill_guest(repository, snapshot, (&guest, &definition), progress)
            .and_then(|restored| {
                self.record(name, EventKind::Created)?;
                Ok(restored)
            });
        self.made(name, done)
    }

    fn fill_guest(
        &self,
        repository: &Repository,
        snapshot: &Snapshot,
        (guest, definition): (&Guest, &str),
        progress: &mut dyn FnMut(&Restored),
    ) -> Result<Restored> {
        let name = &guest.name;
        let image = repository.restore_image(&self.layout, snapshot, progress)?;
        let same =
            snapshot.guest == name.as_str() && self.same_machine(&snapshot.machine_id)?.is_none();
        let machine_id = match same {
            true => snapshot.machine_id.clone(),
            false => random::hex(16)?,
        };
        let machine = self.enroll(name, &image, machine_id)?;
        self.make_root(guest, &image)?;
        let restored = repository.restore_own(&self.layout, name, snapshot, progress)?;
        let lease = self.lease(name, guest)?;
        let boot = self.first_boot_data(guest, &machine, lease.as_ref())?;
        fault::point()?;
        if !same {
            self.write_first_boot(name, &image, &boot)?;
        }
        // What its files say is what its definition said then: what it says here is still to be written.
        let then = same.then(|| self.define(name, &snapshot.definition).ok());
        let told = then.flatten().unwrap_or_else(|| guest.clone());
        self.complete(name, definition, &Written::of(&told, lease.as_ref()))?;
        Ok(restored)
    }
}
