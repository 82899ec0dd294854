//! Whether the host can keep what a guest is guaranteed beside what it has promised to those that
//! run. What each is guaranteed stands in its run state; a guest without a guarantee is asked
//! nothing and looks at nobody.
//!
//! Looking and writing down is done under one lock, so that two starts at once do not take the same
//! place. Whoever dies holding it lets go of it, and a place is only as good as the guest's first
//! process, or the process that launches it.

use std::time::Duration;

use super::error::{GuestError, Result};
use super::manager::Manager;
use super::store::RunState;
use crate::kernel::KernelError;
use crate::kernel::fault;
use crate::kernel::file::Lock;
use crate::model::{Amounts, GuestName, HostRoom, Room, Status};

/// How long a command waits for others that look for room.
const PATIENCE: Duration = Duration::from_secs(60);

/// How a start asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Admission {
    /// Without room it is refused.
    #[default]
    Asked,
    /// It starts in any case; its guarantee counts for others.
    Forced,
}

impl Manager {
    /// What the host has to promise.
    pub(super) fn host_room(&self) -> HostRoom {
        let (facts, room) = (&self.facts, self.settings.room);
        HostRoom {
            memory: Room {
                host: facts.memory,
                reserve: room.memory_reserve,
                ratio: room.memory_ratio.0,
            },
            cpus: Room {
                host: facts.cpus.iter().count() as u64 * 100,
                reserve: room.cpu_reserve.into(),
                ratio: room.cpu_ratio.0,
            },
        }
    }

    /// The lock under which places are looked for and taken.
    pub(super) fn places(&self) -> Result<Lock> {
        let path = self.layout.run().join("admission.lock");
        Lock::take(&path, PATIENCE)?.ok_or_else(|| {
            GuestError::TimedOut(format!(
                "others look for room on this host, and the time to wait for {} is up; try again",
                path.display()
            ))
        })
    }

    /// Writes down the state of a guest that is about to be launched, if there is room for what it
    /// is guaranteed. Its lock is held. One that starts again by itself has its place.
    pub(super) fn admit(
        &self,
        name: &GuestName,
        state: &RunState,
        admission: Admission,
    ) -> Result<()> {
        if state.guaranteed.is_none() {
            return self.write_run_state(name, state);
        }
        let _places = self.places()?;
        self.tenant_room(name, state.tenant.as_ref(), state.guaranteed)?;
        if admission == Admission::Asked {
            let held = self.run_state(name)?.map(|state| state.guaranteed);
            self.room_for(name, state.guaranteed, held.unwrap_or_default(), true)?;
        }
        fault::point()?;
        self.write_run_state(name, state)
    }

    /// Says whether a start would find room.
    ///
    /// # Errors
    /// There is too little.
    pub fn check_room(&self, name: &GuestName) -> Result<()> {
        let guest = self.guest(name)?;
        let wanted = Amounts::guaranteed(&guest);
        self.tenant_room(name, guest.tenant.as_ref(), wanted)?;
        self.room_for(name, wanted, Amounts::default(), true)
    }

    /// Changes what a running guest is guaranteed, if there is room; gives what it was before,
    /// unless nothing has changed. Its lock is held.
    pub(super) fn promise(&self, name: &GuestName, wanted: Amounts) -> Result<Option<Amounts>> {
        let Some(mut state) = self.run_state(name)? else {
            return Ok(None);
        };
        let held = state.guaranteed;
        if held == wanted {
            return Ok(None);
        }
        let _places = self.places()?;
        self.tenant_room(name, state.tenant.as_ref(), wanted)?;
        self.room_for(name, wanted, held, false)?;
        fault::point()?;
        state.guaranteed = wanted;
        self.write_run_state(name, &state)?;
        Ok(Some(held))
    }

    /// Says whether [`Manager::promise`] would do it.
    pub(super) fn check_promise(&self, name: &GuestName, wanted: Amounts) -> Result<()> {
        let state = self.run_state(name)?;
        let tenant = state.as_ref().and_then(|state| state.tenant.as_ref());
        self.tenant_room(name, tenant, wanted)?;
        let held = state.map(|state| state.guaranteed);
        self.room_for(name, wanted, held.unwrap_or_default(), false)
    }

    /// Puts back what a guest was guaranteed before a change that came to nothing.
    pub(super) fn hold_promise(&self, name: &GuestName, held: Amounts) -> Result<()> {
        let Some(mut state) = self.run_state(name)? else {
            return Ok(());
        };
        let _places = self.places()?;
        state.guaranteed = held;
        self.write_run_state(name, &state)
    }

    fn room_for(
        &self,
        name: &GuestName,
        wanted: Amounts,
        held: Amounts,
        forceable: bool,
    ) -> Result<()> {
        if wanted.is_none() {
            return Ok(());
        }
        let others = self.promised(Some(name))?;
        self.host_room()
            .admit(wanted, held, others)
            .map_err(|shortfall| GuestError::NoRoom {
                name: name.clone(),
                shortfall,
                forceable,
            })
    }

    /// What all guests that are not stopped are guaranteed together, without one of them.
    pub(super) fn promised(&self, but: Option<&GuestName>) -> Result<Amounts> {
        let mut sum = Amounts::default();
        self.each_state(but, &mut |name, state| {
            if !state.guaranteed.is_none() && self.status_of(name, Some(state)) != Status::Stopped {
                sum = sum.and(state.guaranteed);
            }
        })?;
        Ok(sum)
    }

    /// Calls `each` with the run state of every guest that has one, without one of them.
    pub(super) fn each_state(
        &self,
        but: Option<&GuestName>,
        each: &mut dyn FnMut(&GuestName, &RunState),
    ) -> Result<()> {
        let folder = self.layout.run().join("guests");
        let entries =
            std::fs::read_dir(&folder).map_err(KernelError::io("read", folder.display()))?;
        for entry in entries.flatten() {
            let name = entry.file_name().to_str().and_then(|n| n.parse().ok());
            let Some(name) = name.filter(|name| Some(name) != but) else {
                continue;
            };
            // One that has gone meanwhile, or cannot be read, holds no place.
            if let Some(state) = self.run_state(&name).ok().flatten() {
                each(&name, &state);
            }
        }
        Ok(())
    }
}
