//! Limits that are in a guest's way and are not its own: of `why`, what its tenant's limits do, and what
//! a goal has set.

use super::manager::Manager;
use super::why::{Cause, Look, Watched, near};
use crate::kernel::cgroup::Counters;
use crate::model::{Cpus, GoalResource, GuestName, TenantName};

impl Manager {
    /// Where a goal has given the guest the limit that is in its way, that is what to change.
    pub(super) fn blame_goals(&self, name: &GuestName, causes: &mut [Cause]) {
        for (resource, key) in [
            (GoalResource::Cpu, "cpu.limit=CPUS"),
            (GoalResource::Memory, "memory.limit=BYTES"),
        ] {
            let own = format!("bulkhead set {name} {key}");
            let theirs = causes
                .iter_mut()
                .filter(|cause| cause.advice.contains(&own));
            for cause in theirs.filter(|_| self.has_goal_limit(name, resource)) {
                cause.why += "; a goal has set its limit";
                "change the goal: bulkhead goal list, bulkhead goal log"
                    .clone_into(&mut cause.advice);
            }
        }
    }
}

impl Watched<'_> {
    /// Whether what it may have is what its tenant may: a guest's limit in force is never larger, so
    /// that is the one to raise.
    pub(super) fn has_all_of_its_tenant(&self, limit: impl Fn(&Counters) -> Option<u64>) -> bool {
        let shared = self.after.tenant.as_ref().and_then(&limit);
        shared.is_some_and(|all| limit(&self.after.counters).is_none_or(|own| all <= own))
    }

    pub(super) fn has_all_cpus_of_its_tenant(&self) -> bool {
        self.has_all_of_its_tenant(|all| Some(all.cpu?.limit))
    }

    /// The same of its tenant's limit, as far as it waited meanwhile: the others of the tenant may have
    /// been stopped while it wanted nothing.
    pub(super) fn throttled_with_others(&self) -> Option<(u64, u64)> {
        let own = self.throttled(|look| look.counters.cpu);
        let own = own.filter(|_| self.has_all_cpus_of_its_tenant());
        let shared = self.throttled(|look| look.tenant.as_ref()?.cpu);
        let (part, limit) = own.max(shared)?;
        match self.after.cpu {
            Some(_) => Some((part.min(self.waited(|look| look.cpu)?), limit)),
            None => Some((part, limit)),
        }
    }

    pub(super) fn held_back_with_others(&self) -> Option<Cause> {
        let ((part, limit), tenant) = (self.throttled_with_others()?, self.tenant?);
        let cpus = u32::try_from(limit).ok().and_then(Cpus::from_hundredths)?;
        let others = self.busy().map(|who| format!(", {who}"));
        let why = format!(
            "the limit of its tenant {tenant}, {cpus} CPUs for all its guests together, stopped it in this part \
             of the periods; it has {}% of a CPU{}",
            self.own_cpu(),
            others.unwrap_or_default()
        );
        let advice = format!("raise it: bulkhead tenant set {tenant} --cpus CPUS");
        Some(self.cause("cpu", Some(part), why, advice))
    }

    /// Its tenant, and what all guests of that may hold, if they hold all of it.
    pub(super) fn full_tenant(&self) -> Option<(u64, &TenantName)> {
        let (_, limit) = near(&self.after.tenant.as_ref()?.memory)?;
        Some((limit, self.tenant?))
    }

    /// Its tenant, if the limit of all guests of that was in the way of charges meanwhile, and its own
    /// was not but for those that ended in a kill.
    pub(super) fn tenant_that_kills(&self, kills: u64) -> Option<&TenantName> {
        let hits =
            |of: &dyn Fn(&Look) -> Option<u64>| of(self.after)?.checked_sub(of(self.before)?);
        let own = hits(&|look| look.counters.memory.hits).unwrap_or(0);
        let shared = hits(&|look| look.tenant.as_ref()?.memory.hits).unwrap_or(0);
        let all = self.has_all_of_its_tenant(|all| all.memory.limit);
        self.tenant.filter(|_| all || shared > 0 && own <= kills)
    }
}
