//! A running guest as its limits are to be: its definition, without what waits for its next start,
//! with what its allowance and its tenant leave of it, on the CPUs it has. Whatever brings a running
//! guest's limits up to date starts from this.

use super::error::Result;
use super::manager::Manager;
use crate::kernel::cgroup::{Counters, Limits};
use crate::model::{GoalResource, Guest, GuestName, Status};

/// The kernel counts memory in pages.
const PAGE: u64 = 4096;
/// The kernel's usual period, microseconds.
const PERIOD_US: u64 = 100_000;

impl Manager {
    /// The same wherever its CPUs are.
    pub(super) fn as_it_runs(&self, name: &GuestName) -> Result<Guest> {
        let guest = self.guest(name)?;
        let guest = match self.run_state(name)? {
            Some(state) => state.in_force.of(guest),
            None => guest,
        };
        Ok(self.in_force(name, guest))
    }

    /// What its groups are to have.
    pub(super) fn limits_of(&self, guest: &Guest) -> Result<Limits> {
        let blocks = self.block_numbers(guest)?;
        let resources = crate::plan::resources::limits(guest, &blocks)?;
        let limits = crate::launch::limits(&resources, guest.cgroups)?;
        Ok(Limits {
            cpu_weight: Some(self.portion_of(guest)?),
            ..limits
        })
    }

    /// Whether a running guest is without the limits that it is to have: a command died before it got
    /// to it. Not while another is at work on it; those that a goal's controller changes are its own.
    pub(super) fn is_behind(&self, name: &GuestName) -> bool {
        let Some(_lock) = self.idle(name) else {
            return false;
        };
        let runs = matches!(self.status(name), Ok(Status::Running | Status::Paused));
        if !runs {
            return false;
        }
        let of_goal = |resource| self.has_goal_limit(name, resource);
        let has = || {
            let limits = self.limits_of(&self.as_it_runs(name)?)?;
            let group = self.group(name)?;
            let counters = group.map(|group| group.counters()).transpose()?;
            let kept = |all: Counters| keeps(&all, &limits, &of_goal);
            Ok::<_, super::GuestError>(counters.is_none_or(kept))
        };
        // What cannot be read now is no sign of that.
        !has().unwrap_or(true)
    }
}

/// Whether a group has these limits of memory, CPU time and processes, but for those of `free`.
pub(super) fn keeps(
    counters: &Counters,
    limits: &Limits,
    free: &dyn Fn(GoalResource) -> bool,
) -> bool {
    let quota = limits.cpu_quota_us;
    let period = limits.cpu_period_us.unwrap_or(PERIOD_US).max(1);
    let memory = limits.memory.map(|n| n / PAGE * PAGE);
    let cpu = quota.map(|quota| quota * 100 / period);
    (counters.memory.limit == memory || free(GoalResource::Memory))
        && (counters.cpu.map(|cpu| cpu.limit) == cpu || free(GoalResource::Cpu))
        && counters.processes.limit == limits.pids
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::cgroup::{Counter, Throttling};

    #[test]
    fn limits_are_kept_to_the_page_and_the_hundredth() {
        let counter = |limit| Counter {
            limit,
            ..Counter::default()
        };
        let mut counters = Counters {
            memory: counter(Some(8 * PAGE)),
            processes: counter(Some(50)),
            ..Counters::default()
        };
        let mut limits = Limits {
            memory: Some(8 * PAGE + 1),
            pids: Some(50),
            ..Limits::default()
        };
        let none = |_| false;
        assert!(keeps(&counters, &limits, &none));
        limits.cpu_quota_us = Some(25_000);
        assert!(!keeps(&counters, &limits, &none));
        counters.cpu = Some(Throttling {
            limit: 25,
            periods: 0,
            throttled: 0,
            throttled_us: 0,
        });
        assert!(keeps(&counters, &limits, &none));
        limits.memory = Some(9 * PAGE);
        assert!(!keeps(&counters, &limits, &none));
        // What a goal changes is not compared, and only that.
        assert!(keeps(&counters, &limits, &|one| one == GoalResource::Memory));
        assert!(!keeps(&counters, &limits, &|one| one == GoalResource::Cpu));
        limits.memory = None;
        assert!(!keeps(&counters, &limits, &none));
        counters.memory = counter(None);
        counters.processes = counter(Some(49));
        assert!(!keeps(&counters, &limits, &none));
    }
}
