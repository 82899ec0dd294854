//! Guests' names for each other: `/etc/hosts` of those that run follows who has an address.
//!
//! A guest that does not run gets its file at its start (`storage`). One that runs is entered and
//! does it itself, which takes some milliseconds a guest; so no command waits for it. Whatever gives
//! or takes an address starts this program once more in the background. At most one such process is
//! at work and one waits: the one that waits reads the addresses after everybody before it.

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::error::Result;
use super::manager::Manager;
use crate::kernel::file::Lock;
use crate::launch::Task;
use crate::model::{GuestName, Status};
use crate::storage;

/// How long the waiting one waits; guests that stop answering cost the working one seconds each.
const PATIENCE: Duration = Duration::from_secs(120);

impl Manager {
    /// Has running guests told who has an address now, in the background. Not being able to start
    /// that is no failure of the command at work: each guest learns it at its next start.
    pub(super) fn tell_neighbours(&self, but: &GuestName) {
        let Ok(running) = std::fs::read_dir(self.layout.run().join("guests")) else {
            return;
        };
        if !running
            .flatten()
            .any(|other| other.file_name() != but.as_str())
        {
            return;
        }
        let _unseen = Command::new("/proc/self/exe")
            .arg("--root")
            .arg(self.layout.root())
            .arg("neighbours")
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn();
    }

    /// Brings `/etc/hosts` of every running guest up to date (the hidden verb `neighbours`).
    ///
    /// # Errors
    /// The folders of this installation cannot be read, or another one is at work for too long.
    pub fn update_neighbours(&self) -> Result<()> {
        let run = self.layout.run();
        // Somebody waits already, and will see what we would.
        let Some(next) = Lock::take(&run.join("neighbours.next"), Duration::ZERO)? else {
            return Ok(());
        };
        let Some(_turn) = Lock::take(&run.join("neighbours.lock"), PATIENCE)? else {
            return Ok(());
        };
        drop(next);
        for name in self.names()? {
            // One that does not let itself be told keeps the names it knows.
            let _untold = self.tell(&name);
        }
        Ok(())
    }

    /// Tells one guest. A frozen one is told when it goes on.
    fn tell(&self, name: &GuestName) -> Result<()> {
        if self.status(name)? != Status::Running {
            return Ok(());
        }
        let guest = self.guest(name)?;
        if !guest.network.kind.has_address() && guest.network.nics.is_empty() {
            return Ok(());
        }
        // No lock is held: one that is being deleted must not be given an address anew.
        let lease = self.leased(name)?;
        let boot = self.first_boot_data(&guest, &self.machine(name)?, lease.as_ref())?;
        let block = storage::hosts_of(name, &boot).map_err(|error| super::GuestError::Root {
            name: name.clone(),
            source: error.into(),
        })?;
        self.enter_briefly(name, Task::Hosts { block })
    }
}
