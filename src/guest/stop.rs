//! Ending a guest, and putting everything away that its run has made: one function for `stop`, for
//! the keeper of a guest that ended by itself, and for what a killed command has left.

use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::time::Duration;

use super::error::{GuestError, Result};
use super::lent::Lent;
use super::life::Verb;
use super::manager::{Manager, now_ms};
use super::store::{LastEnd, Phase, RunState};
use crate::kernel::KernelError;
use crate::kernel::cgroup::{self, Group};
use crate::kernel::process::Identity;
use crate::kernel::{fault, process};
use crate::model::{EventKind, ExitReason, GuestName, Status, TenantName};
use crate::storage;

/// How long a kill may take; only a process stuck in the kernel needs more.
const KILL: Duration = Duration::from_secs(10);

/// How a guest was ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was not running.
    Already,
    /// Its init shut it down.
    ShutDown,
    /// It was killed.
    Killed,
}

impl Manager {
    /// Shuts a guest down: its init's own signal, then, after the time it has, a kill.
    /// `timeout` overrides that time.
    ///
    /// # Errors
    /// It is in a state that cannot be stopped, or what it used cannot be put away.
    pub fn stop(&self, name: &GuestName, timeout: Option<Duration>) -> Result<Outcome> {
        let _lock = self.lock(name, "stop")?;
        let Some(mut state) = self.runs(name, Verb::Stop)? else {
            // Somebody wants it so, whatever a command that died had promised.
            let _later = self.forget_comeback(name);
            return Ok(Outcome::Already);
        };
        self.note_stopping(name, &mut state)?;
        let group = self.group(name)?;
        if state.paused {
            // A frozen init could not hear the signal.
            if let Some(group) = &group {
                group.thaw(KILL)?;
            }
        }
        let (signal, usual) = self.how_to_stop(name);
        let down = match state.init.and_then(process::Identity::open) {
            None => true,
            Some(pidfd) => {
                process::send_signal(pidfd.as_fd(), signal)?;
                fault::point()?;
                process::wait_gone(pidfd.as_fd(), Some(timeout.unwrap_or(usual)))?
            }
        };
        fault::point()?;
        let reason = if down {
            ExitReason::Stopped
        } else {
            ExitReason::Killed
        };
        self.end_run(name, Some(reason))?;
        Ok(if down {
            Outcome::ShutDown
        } else {
            Outcome::Killed
        })
    }

    /// Kills every process of a guest, or with `signal` sends that to its init only.
    ///
    /// # Errors
    /// It is in a state that cannot be killed, or what it used cannot be put away.
    pub fn kill(&self, name: &GuestName, signal: Option<i32>) -> Result<Outcome> {
        let _lock = self.lock(name, "kill")?;
        let Some(mut state) = self.runs(name, Verb::Kill)? else {
            return Ok(Outcome::Already);
        };
        if let Some(signal) = signal {
            if let Some(pidfd) = state.init.and_then(process::Identity::open) {
                process::send_signal(pidfd.as_fd(), signal)?;
            }
            return Ok(Outcome::ShutDown);
        }
        self.note_stopping(name, &mut state)?;
        self.end_run(name, Some(ExitReason::Killed))?;
        Ok(Outcome::Killed)
    }

    /// Writes down that it is being stopped. A full disk must not keep a guest from being stopped;
    /// then its keeper finds nothing to follow when it gets the lock.
    fn note_stopping(&self, name: &GuestName, state: &mut RunState) -> Result<()> {
        state.phase = Phase::Stopping;
        state.stopper = Identity::of(std::process::id());
        match self.write_run_state(name, state) {
            Err(GuestError::Kernel(error)) if error.is_disk_full() => Ok(()),
            done => done,
        }
    }

    fn runs(&self, name: &GuestName, verb: Verb) -> Result<Option<RunState>> {
        let status = self.status(name)?;
        if !verb.check(name, status)? {
            self.clean_up(name)?;
            return Ok(None);
        }
        self.run_state(name)
    }

    /// The signal that asks its init to shut down, and the time it has. A definition that has become
    /// unreadable must not keep a guest from being stopped.
    fn how_to_stop(&self, name: &GuestName) -> (i32, Duration) {
        let mut guest = self.guest(name).ok();
        let rescue = self.rescue_of(name);
        if let (Some(guest), Some(_)) = (&mut guest, &rescue) {
            guest.init.command.clear();
            guest.init.stop_signal = None;
        }
        let of_image = || {
            let digest = match &rescue {
                Some(rescue) => rescue.image.clone(),
                None => self.machine(name).ok()?.image,
            };
            Some(storage::load_image(&self.layout, &digest).ok()?.stop_signal)
        };
        let own = guest.as_ref().and_then(|g| g.init.stop_signal.clone());
        let custom = guest.as_ref().is_some_and(|g| !g.init.command.is_empty());
        let name = own.or_else(|| if custom { None } else { of_image() });
        let signal = name
            .and_then(|name| process::signal_number(&name))
            .unwrap_or(libc_sigterm());
        (
            signal,
            guest.map_or(Duration::from_secs(30), |g| g.init.stop_timeout),
        )
    }

    /// The guest's cgroup, if it has one now.
    pub(super) fn group(&self, name: &GuestName) -> Result<Option<Group>> {
        let tenant = self.run_state(name)?.and_then(|state| state.tenant);
        self.group_in(name, tenant.as_ref())
    }

    /// The same in a tenant's.
    pub(super) fn group_in(
        &self,
        name: &GuestName,
        tenant: Option<&TenantName>,
    ) -> Result<Option<Group>> {
        let Some(parent) = self.existing_cgroups_for(tenant)? else {
            return Ok(None);
        };
        match Group::open(&parent, name.as_str()) {
            Ok(group) => Ok(Some(group)),
            Err(cgroup::CgroupError::Absent { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Puts away everything a run has made, in an order that can be cut short anywhere and done
    /// again: the processes and cgroups, then the state. The guest's lock is held. With `reason`,
    /// writes down why it ended.
    pub(super) fn put_away(&self, name: &GuestName, reason: Option<ExitReason>) -> Result<()> {
        self.put_away_so(name, reason, false)
    }

    /// The same; one that keeps its place gives nobody its CPUs, and the lock of `admission` is held.
    pub(super) fn put_away_so(
        &self,
        name: &GuestName,
        reason: Option<ExitReason>,
        keeps_place: bool,
    ) -> Result<()> {
        let (tenant, kept, init) = match self.run_state(name)? {
            Some(state) => (state.tenant, state.guaranteed.memory, state.init),
            None => (None, 0, None),
        };
        let group = self.group_in(name, tenant.as_ref())?;
        let held = group.as_ref().and_then(|_| self.reading(name));
        let leased = self.all_leased(name).unwrap_or_default();
        let lent = self.lent(name, &leased);
        if let Some(group) = &group {
            group.kill_all(KILL)?;
        }
        fault::point()?;
        Lent::bring_back(lent);
        fault::point()?;
        // Its counters go with its cgroups.
        self.close_run(name, held);
        if let Some(group) = group {
            self.settle_credits(name, init, &group);
            group.remove()?;
        }
        fault::point()?;
        // The interface goes with the guest's network namespace; what came from it was led over
        // another, which a later start uses again or `doctor` removes.
        for (network, lease) in leased {
            let _later = match tenant.is_some() {
                // At once, so that nothing of it is left in what the tenant's guests share.
                true => network.teardown_guest(&lease),
                false => network.unshape(&lease),
            };
        }
        fault::point()?;
        if let Some(reason) = reason {
            let last = LastEnd {
                time_ms: now_ms(),
                reason: reason.clone(),
            };
            // A full disk must not keep a guest from being stopped.
            let _lost = self.write_last(name, &last);
            let _lost = self.record(name, EventKind::Exited { reason });
        }
        fault::point()?;
        storage::remove_rescue(&self.layout, name)
            .map_err(|error| self.root_error(name, error.into()))?;
        fault::point()?;
        let run = self.layout.guest_run(name);
        let mut removed = std::fs::remove_dir_all(&run);
        if removed
            .as_ref()
            .is_err_and(|error| error.kind() == ErrorKind::DirectoryNotEmpty)
        {
            // Its keeper, or who answers its calls, was just coming up and put a socket there.
            removed = std::fs::remove_dir_all(&run);
        }
        match removed {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(KernelError::io("remove", run.display())(error).into());
            }
            _ => {}
        }
        if let Some(tenant) = tenant {
            // An empty group does no harm; the next end of one of its guests takes it away.
            let _later = self.leave_tenant(&tenant);
            if kept > 0 {
                let _later = self.hold_memory(Some(&tenant));
            }
        } else if kept > 0 {
            // The next guest with a guarantee would sum up again, and `doctor` names it.
            let _later = self.hold_memory(None);
        }
        if !keeps_place {
            // Its CPUs go to whoever shares; what this leaves, the next start does, and `doctor` names it.
            let _later = self.settle_cpus_again();
        }
        Ok(())
    }

    /// The same of a run that none goes on with: what is due on its undo disk is done too.
    pub(super) fn end_run(&self, name: &GuestName, reason: Option<ExitReason>) -> Result<()> {
        self.put_away(name, reason)?;
        self.settle_undo(name)
    }

    /// Puts away what a command that was killed, or the time before a reboot, has left. The guest's
    /// lock is held and it does not run.
    pub(super) fn clean_up(&self, name: &GuestName) -> Result<()> {
        self.settle_rename(name)?;
        self.settle_root(name)?;
        let clean =
            !self.layout.guest_run(name).exists() && !storage::has_rescue(&self.layout, name);
        if clean && self.group(name)?.is_none() {
            return self.settle_undo(name);
        }
        match self.status(name)? {
            Status::Running | Status::Paused => {
                if self.is_abandoned(name) {
                    self.let_go(name)?;
                }
                return Ok(());
            }
            // Its keeper starts it again, with the undo disk that it has.
            Status::Restarting => return Ok(()),
            _ => {}
        }
        let ran = self
            .run_state(name)?
            .is_some_and(|state| state.phase == Phase::Running);
        self.end_run(name, ran.then_some(ExitReason::Unknown))
    }

    /// Freezes a guest.
    ///
    /// # Errors
    /// It does not run, or a process cannot be frozen.
    pub fn pause(&self, name: &GuestName) -> Result<bool> {
        self.set_paused(name, Verb::Pause, true)
    }

    /// Lets a frozen guest go on.
    ///
    /// # Errors
    /// It is not frozen.
    pub fn resume(&self, name: &GuestName) -> Result<bool> {
        self.set_paused(name, Verb::Resume, false)
    }

    fn set_paused(&self, name: &GuestName, verb: Verb, paused: bool) -> Result<bool> {
        let _lock = self.lock(name, verb.name())?;
        if !verb.check(name, self.status(name)?)? {
            return Ok(false);
        }
        let (Some(group), Some(mut state)) = (self.group(name)?, self.run_state(name)?) else {
            return Err(GuestError::WrongState {
                verb: verb.name(),
                name: name.clone(),
                status: Status::Stopped,
                advice: None,
            });
        };
        // Frozen is written down before it is so, and until it is no longer so: cut short in between,
        // `resume` can be said, and a guest that nobody could enter is never called running.
        let kind = if paused {
            self.note_paused(name, &mut state, true)?;
            if let Err(error) = group.freeze(KILL) {
                self.note_paused(name, &mut state, false)?;
                return Err(error.into());
            }
            EventKind::Paused
        } else {
            group.thaw(KILL)?;
            self.note_paused(name, &mut state, false)?;
            // What happened meanwhile.
            self.tell_neighbours(name);
            EventKind::Resumed
        };
        // It is so; a full disk must not make that an error.
        let _lost = self.record(name, kind);
        Ok(true)
    }

    fn note_paused(&self, name: &GuestName, state: &mut RunState, paused: bool) -> Result<()> {
        state.paused = paused;
        state.holder = None;
        self.write_run_state(name, state)
    }
}

fn libc_sigterm() -> i32 {
    rustix::process::Signal::TERM.as_raw()
}
