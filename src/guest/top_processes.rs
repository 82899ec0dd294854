//! Who uses most in a guest at a moment: for events of limits. The guest's processes may be many, come
//! and go, and be called anything; what is read of them is limited, and nothing is told of a process
//! that is not in the guest's group any more.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::kernel::cgroup::Group;
use crate::kernel::process_use::{
    ProcessUse, number_inside, process_use, ticks_of_a_second, written_bytes,
};
use crate::model::TopProcess;

/// Most processes that are looked at.
const LOOKED_AT: usize = 2000;
/// Most that are told.
const TOLD: usize = 5;

/// CPU time of a guest's processes at a moment.
#[derive(Debug)]
pub(super) struct CpuTimes {
    at: Instant,
    ticks: BTreeMap<(i32, u64), u64>,
}

impl CpuTimes {
    pub(super) fn elapsed(&self) -> Duration {
        self.at.elapsed()
    }
}

fn all(group: &Group) -> Vec<ProcessUse> {
    let pids = group.processes().unwrap_or_default();
    // The newest are the last.
    let rest = pids.len().saturating_sub(LOOKED_AT);
    pids[rest..]
        .iter()
        .filter_map(|pid| process_use(*pid))
        .collect()
}

/// What is told of these, as far as they are still in the group: a number may be another's by now.
fn told(group: &Group, some: Vec<TopProcess>) -> Vec<TopProcess> {
    let mut some = some;
    for one in &mut some {
        one.pid = one.host_pid.and_then(number_inside);
    }
    let there: BTreeSet<i32> = group.processes().unwrap_or_default().into_iter().collect();
    some.retain(|one| one.host_pid.is_some_and(|pid| there.contains(&pid)));
    some
}

fn one(of: &ProcessUse) -> TopProcess {
    TopProcess {
        name: of.name.clone(),
        pid: None,
        host_pid: Some(of.pid),
        processes: 1,
        threads: of.threads,
        memory: of.memory,
        cpu_percent: None,
        written: None,
    }
}

/// Those with the most memory.
pub(super) fn by_memory(group: &Group) -> Vec<TopProcess> {
    let mut all = all(group);
    all.sort_by_key(|one| std::cmp::Reverse(one.memory));
    told(group, all.iter().take(TOLD).map(one).collect())
}

/// Those that have written most to disks since they began. Who wrote and has ended is not among them.
pub(super) fn by_written(group: &Group) -> Vec<TopProcess> {
    let wrote = |of: ProcessUse| {
        let bytes = written_bytes(of.pid).filter(|bytes| *bytes > 0)?;
        Some(TopProcess {
            written: Some(bytes),
            ..one(&of)
        })
    };
    let mut all: Vec<TopProcess> = all(group).into_iter().filter_map(wrote).collect();
    all.sort_by_key(|one| std::cmp::Reverse(one.written));
    all.truncate(TOLD);
    told(group, all)
}

/// The names that have the most threads: of a thousand that are the same, none says much.
pub(super) fn by_threads(group: &Group) -> Vec<TopProcess> {
    told(group, names(&all(group)))
}

fn names(all: &[ProcessUse]) -> Vec<TopProcess> {
    let mut names: BTreeMap<&str, (u64, TopProcess)> = BTreeMap::new();
    for of in all {
        let (largest, sum) = names.entry(&of.name).or_insert_with(|| {
            let none = TopProcess {
                processes: 0,
                threads: 0,
                memory: 0,
                ..one(of)
            };
            (0, none)
        });
        if of.threads > *largest {
            (*largest, sum.host_pid) = (of.threads, Some(of.pid));
        }
        sum.processes += 1;
        sum.threads += of.threads;
        sum.memory += of.memory;
    }
    let mut names: Vec<TopProcess> = names.into_values().map(|(_, sum)| sum).collect();
    names.sort_by_key(|one| std::cmp::Reverse(one.threads));
    names.truncate(TOLD);
    names
}

/// CPU time up to now, for [`by_cpu`] a while later.
pub(super) fn cpu_times(group: &Group) -> CpuTimes {
    let of = |one: ProcessUse| ((one.pid, one.start), one.ticks);
    CpuTimes {
        at: Instant::now(),
        ticks: all(group).into_iter().map(of).collect(),
    }
}

/// Those that used most CPU time since.
pub(super) fn by_cpu(group: &Group, since: &CpuTimes) -> Vec<TopProcess> {
    let ms = u64::try_from(since.at.elapsed().as_millis()).unwrap_or(u64::MAX);
    let used = |of: ProcessUse| {
        // One that was not there has used all it has since.
        let before = since.ticks.get(&(of.pid, of.start)).copied().unwrap_or(0);
        let ticks = of.ticks.saturating_sub(before);
        let percent = ticks.saturating_mul(100_000) / ticks_of_a_second() / ms.max(1);
        (percent > 0).then(|| TopProcess {
            cpu_percent: Some(percent),
            ..one(&of)
        })
    };
    let mut all: Vec<TopProcess> = all(group).into_iter().filter_map(used).collect();
    all.sort_by_key(|one| std::cmp::Reverse(one.cpu_percent));
    all.truncate(TOLD);
    told(group, all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_of_one_name_are_one_line() {
        let process = |pid, name: &str, threads, memory| ProcessUse {
            pid,
            start: 1,
            name: name.to_owned(),
            ticks: 0,
            threads,
            memory,
        };
        let mut all = vec![process(1, "init", 1, 10), process(2, "java", 90, 500)];
        all.extend((10..110).map(|pid| process(pid, "sh", 1, 2)));
        all.extend((200..220).map(|pid| process(pid, &format!("n{pid}"), 1, 1)));
        let names = names(&all);
        assert_eq!(names.len(), TOLD);
        assert_eq!(
            (names[0].name.as_str(), names[0].processes, names[0].memory),
            ("sh", 100, 200)
        );
        assert_eq!(
            (names[1].name.as_str(), names[1].threads, names[1].host_pid),
            ("java", 90, Some(2))
        );
    }
}
