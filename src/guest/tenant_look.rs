//! Limits of its tenant that are in a guest's way, looked at by the guest's keeper: nobody else would
//! tell the guest that all of the tenant's guests together are held back. What is told of it is in
//! `limit_events`.

use std::time::Instant;

use super::manager::Manager;
use crate::kernel::cgroup::{Group, Throttling};
use crate::model::{GuestName, Pace};

/// In fewer periods than these, of a tenth of a second each, the tenant's guests hardly wanted to run.
const FEW: u64 = 20;

/// What was seen of a tenant's group.
#[derive(Debug, Default)]
pub(super) struct TenantLook {
    group: Option<Group>,
    throttling: Option<Throttling>,
    /// For how long the guest's own processes have waited for a CPU, where the kernel counts it.
    waited_us: Option<u64>,
    at: Option<Instant>,
    refused: Option<u64>,
    /// When it is told that the tenant's CPU limit held the guest back.
    pub(super) cpu: Pace,
    /// The same of processes that could not be made.
    pub(super) processes: Pace,
    /// In what part of the periods in the last interval, percent.
    pub(super) held_back: u64,
}

impl TenantLook {
    /// The group of the guest's tenant, if it runs in one.
    pub(super) fn open(manager: &Manager, name: &GuestName, guest: &Group) -> Self {
        let tenant = manager.run_state(name).ok().flatten();
        let tenant = tenant.and_then(|state| state.tenant);
        let group = tenant.and_then(|tenant| manager.tenant_group(&tenant).ok().flatten());
        let mut look = Self {
            group,
            ..Self::default()
        };
        look.look(guest, || None);
        look
    }

    /// Whether what the guest may have, hundredths of a CPU, is what all of them may: then its own limit
    /// is that of its tenant.
    pub(super) fn is_limit(&self, own: u64) -> bool {
        self.throttling.is_some_and(|all| all.limit <= own)
    }

    /// Whether its guests together have had as many processes as they may, and this one fewer than its
    /// own limit lets it: then a fork that was refused was refused by theirs. Version 1 counts that as
    /// the guest's own. Without peaks (Linux 6.11) nobody can tell.
    pub(super) fn refuses_forks(&self, guest: &Group) -> bool {
        let reached = |group: &Group| {
            let processes = group.counters().ok()?.processes;
            let peak = processes.peak?;
            Some(processes.limit.is_some_and(|limit| peak >= limit))
        };
        self.group.as_ref().and_then(reached) == Some(true) && reached(guest) == Some(false)
    }

    /// The guest's own limit, where it is that of its tenant, held it back in so many percent of the
    /// time.
    pub(super) fn hit_alone(&mut self, times: u64, percent: u64) {
        self.held_back = percent;
        self.cpu.hit(times);
    }

    /// Looks; of CPU time it is told from so many percent on.
    pub(super) fn look(&mut self, guest: &Group, told_from: impl Fn() -> Option<u64>) {
        let Some(group) = &self.group else { return };
        let now = group.throttling().ok().flatten();
        let waited = guest.pressure("cpu").ok().flatten();
        let waited = waited.map(|one| one.some_total_us);
        let refused = group.counters().ok().and_then(|all| all.processes.hits);
        let more = |before: Option<u64>, now: Option<u64>| now?.checked_sub(before?);
        let since = self.at.replace(Instant::now());
        let us = since.map_or(0, |since| since.elapsed().as_micros());
        let us = u64::try_from(us).unwrap_or(u64::MAX).max(1);
        let waited_us = more(self.waited_us, waited);
        let waits = waited_us.map_or(100, |waited| waited.saturating_mul(100) / us);
        if let (Some(before), Some(now)) = (self.throttling, now)
            && let Some((times, percent)) = held_back(&before, &now)
        {
            // One that wanted no CPU was not held back, whatever the others of the tenant do.
            let percent = percent.min(waits);
            if told_from().is_some_and(|from| percent >= from) {
                self.held_back = percent;
                self.cpu.hit(times);
            }
        }
        self.processes.hit(more(self.refused, refused).unwrap_or(0));
        (self.throttling, self.waited_us, self.refused) = (now, waited, refused);
    }
}

/// In how many periods its guests were held back, and in what part of those in which they wanted to
/// run, percent.
fn held_back(before: &Throttling, now: &Throttling) -> Option<(u64, u64)> {
    let periods = now.periods.saturating_sub(before.periods);
    let times = now.throttled.saturating_sub(before.throttled);
    let percent = times.saturating_mul(100).checked_div(periods)?;
    (periods >= FEW && percent > 0).then_some((times, percent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_hardly_wanted_to_run_was_not_held_back() {
        let at = |periods, throttled| Throttling {
            limit: 50,
            periods,
            throttled,
            throttled_us: 0,
        };
        let before = at(100, 10);
        assert_eq!(held_back(&before, &at(200, 60)), Some((50, 50)));
        assert_eq!(held_back(&before, &at(119, 29)), None);
        assert_eq!(held_back(&before, &at(300, 10)), None);
        // Of a group that was made anew the numbers begin anew.
        assert_eq!(held_back(&before, &at(5, 5)), None);
    }
}
