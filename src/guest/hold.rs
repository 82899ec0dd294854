//! Holding a running guest still while its files are read, so that they are as after a power cut:
//! every file as it was at one moment. Who holds it is written down first; if that command dies, the
//! guest is let go by `doctor --fix`, by `resume`, or by the next command that needs it so.

use std::time::Duration;

use super::error::{GuestError, Result};
use super::manager::Manager;
use crate::kernel::fault;
use crate::kernel::process::Identity;
use crate::model::{GuestName, Status};

/// How long a process may take to come to rest, or to go on.
const REST: Duration = Duration::from_secs(10);

/// A guest that is held still; it goes on when this is dropped.
#[derive(Debug)]
pub(super) struct Held<'a> {
    manager: &'a Manager,
    name: &'a GuestName,
    released: bool,
}

impl Manager {
    /// Holds a running guest still. Its lock is held.
    pub(super) fn hold<'a>(&'a self, name: &'a GuestName) -> Result<Held<'a>> {
        let (Some(group), Some(mut state)) = (self.group(name)?, self.run_state(name)?) else {
            return Err(GuestError::WrongState {
                verb: "hold",
                name: name.clone(),
                status: Status::Stopped,
                advice: None,
            });
        };
        state.paused = true;
        state.holder = Identity::of(std::process::id());
        let held = Held {
            manager: self,
            name,
            released: false,
        };
        self.write_run_state(name, &state)?;
        fault::point()?;
        group.freeze(REST)?;
        fault::point()?;
        Ok(held)
    }

    /// Whether a command that held it still has died.
    pub(super) fn is_abandoned(&self, name: &GuestName) -> bool {
        let state = self.run_state(name).ok().flatten();
        let holder = state.and_then(|state| state.holder);
        holder.is_some_and(|holder| !holder.lives())
    }

    /// Whether this process holds it still, or did when it died.
    pub(super) fn is_held_by(&self, name: &GuestName, who: Identity) -> bool {
        let state = self.run_state(name).ok().flatten();
        state.and_then(|state| state.holder) == Some(who)
    }

    /// Lets a guest go on. Its lock is held.
    pub(super) fn let_go(&self, name: &GuestName) -> Result<()> {
        if let Some(group) = self.group(name)? {
            group.thaw(REST)?;
        }
        let Some(mut state) = self.run_state(name)? else {
            return Ok(());
        };
        state.paused = false;
        state.holder = None;
        self.write_run_state(name, &state)?;
        self.tell_neighbours(name);
        Ok(())
    }
}

impl Held<'_> {
    /// Lets it go on; tried a second time when it fails.
    pub(super) fn release(mut self) -> Result<()> {
        self.manager.let_go(self.name)?;
        self.released = true;
        Ok(())
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if !self.released {
            // The error that matters is the one that has led here; what is left, `doctor` names.
            let _left = self.manager.let_go(self.name);
        }
    }
}
