//! What is in force of a running guest's limits where that is not what its definition says, for `list` and
//! `info`; which CPUs it runs on.

use serde::Serialize;

use super::manager::Manager;
use crate::kernel::cgroup::Group;
use crate::model::{Bytes, CpuSet, Cpus, Guest, GuestName};

/// What a goal, credits, a dedicated CPU or a change that waits for the next start have made of limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct InForce {
    /// CPUs' time, if that is not what the definition says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<Cpus>,
    /// Memory, if that is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Bytes>,
}

impl Manager {
    /// `None` when all is as it is meant, or nothing can be read.
    pub(super) fn limits_in_force(&self, guest: &Guest) -> Option<InForce> {
        let group = self.group(&guest.name).ok()??;
        let cpus = cpu_limit(&group);
        let memory = group.memory_use().ok()?.limit.map(Bytes);
        // The kernel counts in pages.
        let page = |bytes: &Bytes| bytes.0 / 4096 != guest.memory.limit.0 / 4096;
        let now = InForce {
            cpus: cpus.filter(|cpus| Some(*cpus) != guest.cpu.limit),
            memory: memory.filter(page),
        };
        (now.cpus.is_some() || now.memory.is_some()).then_some(now)
    }

    /// The CPU limit that is in force where that is not the definition's; `all` without one.
    pub(super) fn cpus_now(&self, guest: &Guest) -> Option<String> {
        let cpus = cpu_limit(&self.group(&guest.name).ok()??);
        let all = || "all".to_owned();
        (cpus != guest.cpu.limit).then(|| cpus.map_or_else(all, |cpus| cpus.to_string()))
    }

    /// The CPUs it runs on, where those are not all there are.
    pub(super) fn runs_on(&self, name: &GuestName) -> Option<CpuSet> {
        let list = self.group(name).ok()??.cpus_allowed().ok()??;
        let cpus: CpuSet = list.trim().parse().ok()?;
        (cpus != self.facts.cpus).then_some(cpus)
    }
}

fn cpu_limit(group: &Group) -> Option<Cpus> {
    let limit = group.cpu_limit().ok()??;
    u32::try_from(limit).ok().and_then(Cpus::from_hundredths)
}
