//! One look at a guest's group, for all files of `inside` that are written at the same moment: a number
//! is read when the first of them needs it, and once. How large the guest is, is not read each time.

use std::cell::OnceCell;
use std::time::{Duration, Instant};

use super::inside::{host_size, online};
use super::inside_text::{self as text, HostSize};
use crate::kernel::cgroup::{CpuUse, DiskUse, Group, MemoryLimits, MemoryUse};
use crate::model::CpuSet;

/// A size that is this old is read again, whether or not somebody has told of a change.
const SIZE: Duration = Duration::from_secs(10);

/// How large the guest and its host are: what changes seldom, and not without our being told.
#[derive(Clone, Debug)]
pub(super) struct Sizes {
    memory: Option<MemoryLimits>,
    /// Hundredths of a CPU.
    cpu: Option<u64>,
    /// Whether somebody may have chosen its CPUs.
    chosen: bool,
    /// Those there are now, for they come and go.
    cpus: CpuSet,
    host: HostSize,
}

impl Sizes {
    fn of(group: &Group, host_cpus: &CpuSet, host_memory: u64) -> Self {
        Self {
            memory: group.memory_limits().ok(),
            cpu: group.cpu_limit().ok().flatten(),
            chosen: !group.has_not_chosen_cpus(),
            cpus: online(host_cpus),
            host: host_size(host_memory),
        }
    }
}

/// The sizes as they were read last.
#[derive(Debug)]
pub(super) struct KnownSizes {
    last: Option<(Instant, Sizes)>,
    told: bool,
}

impl KnownSizes {
    /// Whether changes are told; where they are not, each look is a new one.
    pub(super) fn told(told: bool) -> Self {
        Self { last: None, told }
    }

    /// They may have changed.
    pub(super) fn forget(&mut self) {
        self.last = None;
    }

    fn get(&mut self, now: Instant, read: impl FnOnce() -> Sizes) -> Sizes {
        let old = |at: Instant| !self.told || now.saturating_duration_since(at) >= SIZE;
        match &self.last {
            Some((at, sizes)) if !old(*at) => sizes.clone(),
            _ => self.last.insert((now, read())).1.clone(),
        }
    }
}

/// What the group says at this moment, as far as somebody has asked.
pub(super) struct Look<'a> {
    /// Whose numbers they are.
    pub(super) group: &'a Group,
    sizes: Sizes,
    memory: OnceCell<Option<MemoryUse>>,
    disks: OnceCell<Option<Vec<DiskUse>>>,
    cpu: OnceCell<Option<CpuUse>>,
    cpus: OnceCell<Vec<u32>>,
    threads: OnceCell<u64>,
}

impl<'a> Look<'a> {
    /// On a host with these CPUs and this memory.
    pub(super) fn at(
        group: &'a Group,
        known: &mut KnownSizes,
        host_cpus: &CpuSet,
        host_memory: u64,
    ) -> Self {
        let read = || Sizes::of(group, host_cpus, host_memory);
        Self {
            group,
            sizes: known.get(Instant::now(), read),
            memory: OnceCell::new(),
            disks: OnceCell::new(),
            cpu: OnceCell::new(),
            cpus: OnceCell::new(),
            threads: OnceCell::new(),
        }
    }

    pub(super) fn memory(&self) -> Option<MemoryUse> {
        *self.memory.get_or_init(|| {
            let limits = self.sizes.memory?;
            self.group.memory_use_of(limits).ok()
        })
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

    /// How much memory and swap the host has.
    pub(super) fn host(&self) -> HostSize {
        self.sizes.host
    }

    /// The CPUs that the guest sees; at least one.
    pub(super) fn cpus(&self) -> &[u32] {
        self.cpus.get_or_init(|| {
            let allowed = match self.sizes.chosen {
                true => self.group.cpus_allowed(),
                false => self.group.cpus_shared(),
            };
            let allowed = allowed.ok().flatten();
            let allowed: Option<CpuSet> = allowed.and_then(|list| list.trim().parse().ok());
            let allowed = allowed.as_ref().unwrap_or(&self.sizes.cpus);
            text::cpus(allowed.iter(), self.sizes.cpu)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_again_when_they_may_have_changed() {
        let (mut known, now) = (KnownSizes::told(true), Instant::now());
        let sizes = |cpu: u64| Sizes {
            memory: None,
            cpu: Some(cpu),
            chosen: false,
            cpus: CpuSet::default(),
            host: HostSize::default(),
        };
        let cpu_at = |known: &mut KnownSizes, at: Duration, cpu: u64| {
            known.get(now + at, || sizes(cpu)).cpu.unwrap()
        };
        assert_eq!(cpu_at(&mut known, Duration::ZERO, 1), 1);
        assert_eq!(cpu_at(&mut known, SIZE - Duration::from_millis(1), 2), 1);
        assert_eq!(cpu_at(&mut known, SIZE, 3), 3);
        known.forget();
        assert_eq!(cpu_at(&mut known, SIZE, 4), 4);
        known.told = false;
        assert_eq!(cpu_at(&mut known, SIZE, 5), 5);
    }
}
