//! Limits in the words of version 1 (Documentation/admin-guide/cgroup-v1). What version 1 has no
//! word for is an error here. Writing the values is `knob`'s part; counters are in `stats`.

use cgroups_rs::fs::MaxValue;

use super::knob::{Knob, Set};
use super::limits::{Extent, Limits, Site, signed};
use super::{Controller, Result};

/// Period that a new group has, microseconds.
const PERIOD_US: u64 = 100_000;

pub(super) fn knobs(
    limits: &Limits,
    controller: Controller,
    site: &Site<'_>,
    extent: Extent,
    out: &mut Vec<Knob>,
) -> Result<()> {
    match controller {
        Controller::Cpu => cpu(limits, extent, out),
        Controller::Cpuset => {
            cpuset(limits, site, out);
            Ok(())
        }
        Controller::Memory => memory(limits, site, extent, out),
        Controller::Pids => {
            pids(limits, extent, out);
            Ok(())
        }
        Controller::Io => io(limits, site, extent, out),
        Controller::Devices | Controller::Core => Ok(()),
    }
}

/// Shares for a weight: 100 is 1024, and one to three stays one to three.
pub(super) fn shares(weight: u64) -> u64 {
    (weight * 1024 / 100).clamp(2, 262_144)
}

fn cpu(limits: &Limits, extent: Extent, out: &mut Vec<Knob>) -> Result<()> {
    let full = extent == Extent::Full;
    let mut put = |file, set| out.push(Knob::new(Controller::Cpu, file, set));
    match limits.cpu_weight {
        Some(weight) => put("cpu.shares", Set::CpuWeight(shares(weight))),
        None if full => put("cpu.shares", Set::CpuWeight(1024)),
        None => {}
    }
    let period = limits.cpu_period_us.unwrap_or(PERIOD_US);
    if full || period != PERIOD_US {
        put("cpu.cfs_period_us", Set::CpuPeriod(period));
    }
    match limits.cpu_quota_us {
        Some(quota) => put(
            "cpu.cfs_quota_us",
            Set::CpuQuota(signed("the CPU quota", quota)?),
        ),
        None if full => put("cpu.cfs_quota_us", Set::CpuQuota(-1)),
        None => {}
    }
    match limits.cpu_burst_us {
        Some(burst @ 1..) => put("cpu.cfs_burst_us", Set::Text(burst.to_string())),
        _ if full => put("cpu.cfs_burst_us", Set::Text("0".to_owned())),
        _ => {}
    }
    Ok(())
}

/// Nothing can run in a version 1 cpuset before both its files are filled. For no choice of CPUs
/// the group is not made at all; `update` gives one that is there the CPUs of its parent.
fn cpuset(limits: &Limits, site: &Site<'_>, out: &mut Vec<Knob>) {
    if let Some(cpus) = &limits.cpuset {
        let mut put = |file, set| out.push(Knob::new(Controller::Cpuset, file, set));
        let mems = limits.mems.as_deref().unwrap_or(site.mems);
        put("cpuset.mems", Set::CpusetMems(mems.to_owned()));
        put("cpuset.cpus", Set::CpusetCpus(cpus.clone()));
    }
}

fn memory(limits: &Limits, site: &Site<'_>, extent: Extent, out: &mut Vec<Knob>) -> Result<()> {
    let why = "version 1 has no such guarantee or mark; boot with version 2 or leave it out";
    if limits.memory_high.is_some() {
        return Err(site.unsupported("a memory mark for throttling (high)", why));
    }
    if limits.memory_low.unwrap_or(0) > 0 {
        // The soft limit is no stand-in: who alone has one is reclaimed first, not last.
        return Err(site.unsupported("memory kept for a group (low)", why));
    }
    if limits.memory_min.unwrap_or(0) > 0 {
        return Err(site.unsupported("guaranteed memory (min)", why));
    }
    if limits.oom_group {
        return Err(site.unsupported(
            "killing all processes at once when memory runs out",
            "version 1 kills one process; watch for it and kill the group",
        ));
    }
    let full = extent == Extent::Full;
    let most = match limits.memory {
        Some(bytes) => signed("the memory limit", bytes)?,
        None => -1,
    };
    let with_swap = match (limits.swap, limits.memory) {
        (None, _) => -1,
        (Some(_), _) if !site.swap => {
            return Err(site.unsupported(
                "a limit on swap",
                "the kernel does not account swap; boot with swapaccount=1",
            ));
        }
        (Some(_), None) => {
            return Err(site.unsupported(
                "a limit on swap without one on memory",
                "version 1 limits both together",
            ));
        }
        (Some(swap), Some(memory)) => signed(
            "the limit on memory and swap together",
            memory.saturating_add(swap),
        )?,
    };
    let mut put = |file, set| out.push(Knob::new(Controller::Memory, file, set));
    if full || most >= 0 {
        put("memory.limit_in_bytes", Set::Memory(most));
    }
    if site.swap && (full || with_swap >= 0) {
        put("memory.memsw.limit_in_bytes", Set::MemorySwap(with_swap));
    }
    Ok(())
}

fn pids(limits: &Limits, extent: Extent, out: &mut Vec<Knob>) {
    let most = match limits.pids {
        Some(n) => MaxValue::Value(i64::try_from(n).unwrap_or(i64::MAX)),
        None if extent == Extent::Full => MaxValue::Max,
        None => return,
    };
    out.push(Knob::new(Controller::Pids, "pids.max", Set::Pids(most)));
}

/// Files of limits on block devices: bytes read and written, reads and writes, a second.
pub(super) const THROTTLE: [&str; 4] = [
    "blkio.throttle.read_bps_device",
    "blkio.throttle.write_bps_device",
    "blkio.throttle.read_iops_device",
    "blkio.throttle.write_iops_device",
];

fn io(limits: &Limits, site: &Site<'_>, extent: Extent, out: &mut Vec<Knob>) -> Result<()> {
    if limits.io_weight.is_some_and(|weight| weight > 1000) {
        return Err(site.unsupported("an I/O weight above 1000", "version 1 ends there"));
    }
    if extent == Extent::Full || limits.io_weight.is_some() {
        let set = Set::Text(limits.io_weight.unwrap_or(100).to_string());
        out.push(Knob::new(Controller::Io, "blkio.bfq.weight", set));
    }
    for limit in &limits.io {
        let values = [limit.rbps, limit.wbps, limit.riops, limit.wiops];
        for (file, value) in THROTTLE.into_iter().zip(values) {
            let line = |n| format!("{}:{} {n}", limit.major, limit.minor);
            // Zero takes a limit away.
            match value {
                Some(n) => out.push(Knob::new(Controller::Io, file, Set::Text(line(n)))),
                None if extent == Extent::Full => {
                    out.push(Knob::new(Controller::Io, file, Set::Text(line(0))));
                }
                None => {}
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::IoLimit;
    use super::super::limits::tests::{v1_site, written};
    use super::*;

    #[test]
    fn weights_keep_their_ratio() {
        assert_eq!(shares(100), 1024);
        assert_eq!(shares(300), 3 * shares(100));
        assert_eq!((shares(1), shares(10_000)), (10, 102_400));
    }

    #[test]
    fn swap_is_counted_together_with_memory() {
        let limits = Limits {
            memory: Some(64 << 20),
            swap: Some(0),
            cpu_quota_us: Some(50_000),
            pids: Some(100),
            ..Limits::default()
        };
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(
            written(&limits, &v1_site(), Extent::Fresh),
            [
                pair("cpu.cfs_quota_us", "50000"),
                pair("memory.limit_in_bytes", "67108864"),
                pair("memory.memsw.limit_in_bytes", "67108864"),
                pair("pids.max", "100"),
            ]
        );
    }

    #[test]
    fn what_version_1_cannot_do_is_said() {
        let base = Limits {
            memory: Some(1 << 30),
            ..Limits::default()
        };
        let wishes = [
            Limits {
                memory_high: Some(1),
                ..base.clone()
            },
            Limits {
                memory_low: Some(1),
                ..base.clone()
            },
            Limits {
                memory_min: Some(1),
                ..base.clone()
            },
            Limits {
                oom_group: true,
                ..base.clone()
            },
            Limits {
                memory: None,
                swap: Some(1),
                ..base.clone()
            },
        ];
        for wish in wishes {
            let error = wish.knobs(&v1_site(), Extent::Fresh).unwrap_err();
            assert!(error.to_string().contains("version 1"), "{error}");
        }
        let zero = Limits {
            memory_low: Some(0),
            memory_min: Some(0),
            ..base
        };
        assert!(zero.knobs(&v1_site(), Extent::Fresh).is_ok());
    }

    #[test]
    fn one_throttle_line_for_each_number() {
        let limits = Limits {
            io: vec![IoLimit {
                major: 254,
                minor: 0,
                rbps: Some(1 << 20),
                wiops: Some(50),
                ..IoLimit::default()
            }],
            ..Limits::default()
        };
        let lines = written(&limits, &v1_site(), Extent::Fresh);
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0].1, "254:0 1048576");
        assert_eq!(
            written(&limits, &v1_site(), Extent::Full)
                .iter()
                .filter(|(_, v)| v == "254:0 0")
                .count(),
            2
        );
    }
}
