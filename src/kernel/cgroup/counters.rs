//! What a group holds of each limited resource, the most it ever held, the limit, and how often it
//! was hit: all as the kernel has it, and `None` where this kernel does not keep it. Plain use is in
//! `stats`.

use super::dir::{Dir, keyed, number};
use super::{Controller, Group, Result, Version};

/// Version 1 writes no limit as the largest number of whole pages.
pub(super) const NO_LIMIT: u64 = 1 << 62;

/// Most bytes that one charge asks for: a huge page.
const LARGEST_CHARGE: u64 = 2 << 20;

/// One resource of a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    /// Now.
    pub held: Option<u64>,
    /// Most ever.
    pub peak: Option<u64>,
    /// Most allowed; `None` for no limit.
    pub limit: Option<u64>,
    /// How often the limit was in the way.
    pub hits: Option<u64>,
}

/// How a CPU limit held a group back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Throttling {
    /// The limit in hundredths of a CPU.
    pub limit: u64,
    /// Periods in which it wanted to run.
    pub periods: u64,
    /// Those in which it was held back.
    pub throttled: u64,
    /// For how long in all, microseconds, summed over CPUs.
    pub throttled_us: u64,
}

/// The limited resources of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Bytes of memory.
    pub memory: Counter,
    /// Bytes of swap beyond memory; `None` where it is not accounted.
    pub swap: Option<Counter>,
    /// Processes and threads.
    pub processes: Counter,
    /// Groups made below; nobody counts how often their limit was hit.
    pub groups: Counter,
    /// CPU time; `None` without a limit.
    pub cpu: Option<Throttling>,
    /// Processes killed for want of memory.
    pub oom_kills: Option<u64>,
}

impl Group {
    /// Reads what is held, and what the limits are.
    ///
    /// # Errors
    /// When a file that is there cannot be read.
    pub fn counters(&self) -> Result<Counters> {
        let mut all = Counters::default();
        match self.home(Controller::Memory) {
            Ok((dir, Version::V1)) => memory_v1(dir, self.swap, &mut all)?,
            Ok((dir, Version::V2)) => memory_v2(dir, &mut all)?,
            Err(_) => {}
        }
        if let Ok((dir, version)) = self.home(Controller::Pids) {
            all.processes = Counter {
                held: value(dir, "pids.current")?,
                peak: value(dir, "pids.peak")?,
                limit: value(dir, "pids.max")?,
                hits: pids_hits(dir, version)?,
            };
        }
        if let Ok((dir, version)) = self.home(Controller::Cpu) {
            all.cpu = throttling(dir, version)?;
        }
        if let Some(dir) = &self.v2 {
            let stat = dir.try_read("cgroup.stat")?.unwrap_or_default();
            all.groups = Counter {
                // The delegated child is ours.
                held: keyed(&stat, "nr_descendants").map(|n| n.saturating_sub(1)),
                limit: value(dir, "cgroup.max.descendants")?.map(|n| n.saturating_sub(1)),
                ..Counter::default()
            };
        }
        Ok(all)
    }
}

pub(super) fn value(dir: &Dir, file: &str) -> Result<Option<u64>> {
    Ok(dir.try_read(file)?.as_deref().and_then(number))
}

fn event(dir: &Dir, file: &str, key: &str) -> Result<Option<u64>> {
    Ok(dir.try_read(file)?.and_then(|text| keyed(&text, key)))
}

/// Version 1 counts where the process is that could not fork, which is this group. Version 2 does so
/// too until Linux 6.11, which then is a group inside that the guest may remove: nothing to go by.
fn pids_hits(dir: &Dir, version: Version) -> Result<Option<u64>> {
    match version {
        Version::V1 => event(dir, "pids.events", "max"),
        Version::V2 => event(dir, "pids.events.local", "max"),
    }
}

/// A charge that goes beyond the limit of memory and swap together is refused before the other limit
/// is looked at, so without swap of its own all hits are to be counted there. Some kernels (6.18 is
/// one) do not: then the kills are known, and that whoever stayed well below never hit it.
fn hits_without_swap(memory: &Counter, both: Option<u64>, kills: Option<u64>) -> Option<u64> {
    let counted = memory.hits? + both?;
    let far_below = memory.peak? + LARGEST_CHARGE < memory.limit?;
    match (counted, kills) {
        (1.., _) => Some(counted),
        (0, Some(kills @ 1..)) => Some(kills),
        _ => far_below.then_some(0),
    }
}

fn memory_v1(dir: &Dir, swap: bool, all: &mut Counters) -> Result<()> {
    let limit = |file| Ok(value(dir, file)?.filter(|n| *n < NO_LIMIT));
    all.memory = Counter {
        held: value(dir, "memory.usage_in_bytes")?,
        peak: value(dir, "memory.max_usage_in_bytes")?,
        limit: limit("memory.limit_in_bytes")?,
        hits: value(dir, "memory.failcnt")?,
    };
    all.oom_kills = event(dir, "memory.oom_control", "oom_kill")?;
    if !swap {
        return Ok(());
    }
    let both = value(dir, "memory.memsw.usage_in_bytes")?;
    let most = limit("memory.memsw.limit_in_bytes")?;
    let hits = value(dir, "memory.memsw.failcnt")?;
    let beyond = |both: Option<u64>, memory: Option<u64>| Some(both?.saturating_sub(memory?));
    let mut own = Counter {
        // Read one after the other, so the sum may have become smaller than its part.
        held: beyond(both, all.memory.held),
        limit: beyond(most, all.memory.limit),
        hits,
        ..Counter::default()
    };
    if own.limit == Some(0) {
        all.memory.hits = hits_without_swap(&all.memory, hits, all.oom_kills);
        own.hits = None;
    }
    all.swap = Some(own);
    Ok(())
}

fn memory_v2(dir: &Dir, all: &mut Counters) -> Result<()> {
    // Before Linux 5.2 there was one file for this group and those below.
    let local = event(dir, "memory.events.local", "max")?;
    let hits = match local {
        Some(hits) => Some(hits),
        None => event(dir, "memory.events", "max")?,
    };
    all.memory = Counter {
        held: value(dir, "memory.current")?,
        peak: value(dir, "memory.peak")?,
        limit: value(dir, "memory.max")?,
        hits,
    };
    all.oom_kills = event(dir, "memory.events", "oom_kill")?;
    if dir.has("memory.swap.current") {
        all.swap = Some(Counter {
            held: value(dir, "memory.swap.current")?,
            peak: value(dir, "memory.swap.peak")?,
            limit: value(dir, "memory.swap.max")?,
            hits: event(dir, "memory.swap.events", "max")?,
        });
    }
    Ok(())
}

/// A CPU limit in hundredths of a CPU, if there is one.
pub(super) fn throttling_limit(dir: &Dir, version: Version) -> Result<Option<u64>> {
    let quota = match version {
        Version::V1 => {
            let quota = value(dir, "cpu.cfs_quota_us")?;
            let period = quota.map(|_| value(dir, "cpu.cfs_period_us"));
            quota.zip(period.transpose()?.flatten())
        }
        Version::V2 => {
            let text = dir.try_read("cpu.max")?.unwrap_or_default();
            let pair = text.trim().split_once(' ');
            pair.and_then(|(quota, period)| number(quota).zip(number(period)))
        }
    };
    Ok(quota.and_then(|(quota, period)| (quota * 100).checked_div(period)))
}

pub(super) fn throttling(dir: &Dir, version: Version) -> Result<Option<Throttling>> {
    let Some(limit) = throttling_limit(dir, version)? else {
        return Ok(None);
    };
    let stat = dir.try_read("cpu.stat")?.unwrap_or_default();
    let held_back = match version {
        Version::V1 => keyed(&stat, "throttled_time").map(|ns| ns / 1000),
        Version::V2 => keyed(&stat, "throttled_usec"),
    };
    Ok(Some(Throttling {
        limit,
        periods: keyed(&stat, "nr_periods").unwrap_or(0),
        throttled: keyed(&stat, "nr_throttled").unwrap_or(0),
        throttled_us: held_back.unwrap_or(0),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hits_that_the_kernel_does_not_count_are_kills_or_unknown() {
        let hits = |own, both, peak, kills| {
            let memory = Counter {
                held: Some(0),
                peak: Some(peak),
                limit: Some(32 << 20),
                hits: Some(own),
            };
            hits_without_swap(&memory, Some(both), Some(kills))
        };
        assert_eq!(hits(2, 3, 32 << 20, 9), Some(5));
        assert_eq!(hits(0, 0, 32 << 20, 1), Some(1));
        assert_eq!(hits(0, 0, 32 << 20, 0), None);
        assert_eq!(hits(0, 0, 8 << 20, 0), Some(0));
    }
}
