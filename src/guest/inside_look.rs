//! One look at a guest's group, for all files of `inside` that are written at the same moment: a number
//! is read when the first of them needs it, and once.

use std::cell::OnceCell;

use super::inside::{host_size, online};
use super::inside_text::{self as text, HostSize};
use crate::kernel::cgroup::{CpuUse, DiskUse, Group, MemoryUse};
use crate::model::CpuSet;

/// What the group says at this moment, as far as somebody has asked.
pub(super) struct Look<'a> {
    /// Whose numbers they are.
    pub(super) group: &'a Group,
    memory: OnceCell<Option<MemoryUse>>,
    disks: OnceCell<Option<Vec<DiskUse>>>,
    cpu: OnceCell<Option<CpuUse>>,
    cpus: OnceCell<Vec<u32>>,
    threads: OnceCell<u64>,
    host: OnceCell<HostSize>,
}

impl<'a> Look<'a> {
    pub(super) fn at(group: &'a Group) -> Self {
        Self {
            group,
            memory: OnceCell::new(),
            disks: OnceCell::new(),
            cpu: OnceCell::new(),
            cpus: OnceCell::new(),
            threads: OnceCell::new(),
            host: OnceCell::new(),
        }
    }

    pub(super) fn memory(&self) -> Option<MemoryUse> {
        *self.memory.get_or_init(|| self.group.memory_use().ok())
    }

    pub(super) fn disks(&self) -> Option<&[DiskUse]> {
        let disks = self.disks.get_or_init(|| self.group.disk_use().ok());
        disks.as_deref()
    }

    pub(super) fn cpu(&self) -> Option<CpuUse> {
        *self.cpu.get_or_init(|| self.group.cpu_use().ok())
    }

    pub(super) fn threads(&self) -> u64 {
        *self
            .threads
            .get_or_init(|| self.group.threads().unwrap_or(0))
    }

    /// How much memory and swap the host has, of which the memory is known.
    pub(super) fn host(&self, memory: u64) -> HostSize {
        *self.host.get_or_init(|| host_size(memory))
    }

    /// The CPUs that the guest sees; at least one.
    pub(super) fn cpus(&self, host: &CpuSet) -> &[u32] {
        self.cpus.get_or_init(|| {
            let allowed = self.group.cpus_allowed().ok().flatten();
            let allowed: Option<CpuSet> = allowed.and_then(|list| list.trim().parse().ok());
            // Where nobody has chosen: those there are now, for they come and go.
            let allowed = allowed.unwrap_or_else(|| online(host));
            text::cpus(allowed.iter(), self.group.cpu_limit().ok().flatten())
        })
    }
}
