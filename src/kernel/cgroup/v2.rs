//! Limits in the words of version 2 (Documentation/admin-guide/cgroup-v2.rst). Writing the values
//! is `knob`'s part; counters are in `stats`.

use cgroups_rs::fs::MaxValue;

use super::knob::{Knob, Set};
use super::limits::{Extent, IoLimit, Limits, Site, signed};
use super::{Controller, Result};

/// How deep groups may be nested inside, when their number is limited.
const DEPTH: u64 = 32;

pub(super) fn knobs(
    limits: &Limits,
    controller: Controller,
    site: &Site<'_>,
    extent: Extent,
    out: &mut Vec<Knob>,
) -> Result<()> {
    let full = extent == Extent::Full;
    match controller {
        Controller::Cpu => cpu(limits, full, out),
        // To take a choice of CPUs away is a matter of what the parent has: see `update`.
        Controller::Cpuset => {
            if let Some(cpus) = &limits.cpuset {
                let set = Set::CpusetCpus(cpus.clone());
                put(out, controller, "cpuset.cpus", set);
                if let Some(mems) = &limits.mems {
                    let set = Set::CpusetMems(mems.clone());
                    put(out, controller, "cpuset.mems", set);
                }
            }
        }
        Controller::Memory => memory(limits, site, full, out)?,
        Controller::Pids => match limits.pids {
            Some(n) => {
                let most = MaxValue::Value(i64::try_from(n).unwrap_or(i64::MAX));
                put(out, controller, "pids.max", Set::Pids(most));
            }
            None if full => put(out, controller, "pids.max", Set::Pids(MaxValue::Max)),
            None => {}
        },
        Controller::Io => io(limits, full, out),
        Controller::Core => core(limits, full, out),
        Controller::Devices => {}
    }
    Ok(())
}

fn put(out: &mut Vec<Knob>, controller: Controller, file: &'static str, set: Set) {
    out.push(Knob::new(controller, file, set));
}

fn cpu(limits: &Limits, full: bool, out: &mut Vec<Knob>) {
    match limits.cpu_weight {
        Some(weight) => put(out, Controller::Cpu, "cpu.weight", Set::CpuWeight(weight)),
        None if full => put(out, Controller::Cpu, "cpu.weight", Set::CpuWeight(100)),
        None => {}
    }
    if full || limits.cpu_quota_us.is_some() || limits.cpu_period_us.is_some() {
        let quota = or_max(limits.cpu_quota_us);
        let period = limits.cpu_period_us.unwrap_or(100_000);
        // cgroups-rs would read the file first to keep one of the two; both are known here.
        let line = Set::Text(format!("{quota} {period}"));
        put(out, Controller::Cpu, "cpu.max", line);
    }
    match limits.cpu_burst_us {
        Some(burst @ 1..) => {
            let set = Set::Text(burst.to_string());
            put(out, Controller::Cpu, "cpu.max.burst", set);
        }
        _ if full => put(out, Controller::Cpu, "cpu.max.burst", Set::Text("0".into())),
        _ => {}
    }
}

fn or_max(n: Option<u64>) -> String {
    n.map_or_else(|| "max".to_owned(), |n| n.to_string())
}

fn memory(limits: &Limits, site: &Site<'_>, full: bool, out: &mut Vec<Knob>) -> Result<()> {
    let mut text = |file, wanted: bool, value: String| {
        if wanted || full {
            out.push(Knob::new(Controller::Memory, file, Set::Text(value)));
        }
    };
    let kept = |n: Option<u64>| n.unwrap_or(0);
    text(
        "memory.min",
        kept(limits.memory_min) > 0,
        kept(limits.memory_min).to_string(),
    );
    text(
        "memory.low",
        kept(limits.memory_low) > 0,
        kept(limits.memory_low).to_string(),
    );
    text(
        "memory.high",
        limits.memory_high.is_some(),
        or_max(limits.memory_high),
    );
    let group = if limits.oom_group { "1" } else { "0" };
    text("memory.oom.group", limits.oom_group, group.to_owned());
    if limits.swap.is_some() && !site.swap {
        return Err(site.unsupported(
            "a limit on swap",
            "the kernel does not account swap; boot with swapaccount=1",
        ));
    }
    let bytes = |what, n: Option<u64>| n.map_or(Ok(-1), |n| signed(what, n));
    let most = bytes("the memory limit", limits.memory)?;
    let swap = bytes("the limit on swap", limits.swap)?;
    if full || most >= 0 {
        put(out, Controller::Memory, "memory.max", Set::Memory(most));
    }
    if site.swap && (full || swap >= 0) {
        put(
            out,
            Controller::Memory,
            "memory.swap.max",
            Set::MemorySwap(swap),
        );
    }
    Ok(())
}

fn io(limits: &Limits, full: bool, out: &mut Vec<Knob>) {
    if full || limits.io_weight.is_some() {
        // Read back, the file says `default`, for there may be others for single devices.
        let text = format!("default {}", limits.io_weight.unwrap_or(100));
        put(out, Controller::Io, "io.weight", Set::Text(text));
    }
    for limit in &limits.io {
        let line = io_line(limit, full);
        if !line.is_empty() {
            put(out, Controller::Io, "io.max", Set::Text(line));
        }
    }
}

fn io_line(limit: &IoLimit, full: bool) -> String {
    let keys = [
        ("rbps", limit.rbps),
        ("wbps", limit.wbps),
        ("riops", limit.riops),
        ("wiops", limit.wiops),
    ];
    let values: Vec<String> = keys
        .into_iter()
        .filter(|(_, n)| full || n.is_some())
        .map(|(key, n)| format!(" {key}={}", or_max(n)))
        .collect();
    if values.is_empty() {
        return String::new();
    }
    format!("{}:{}{}", limit.major, limit.minor, values.concat())
}

fn core(limits: &Limits, full: bool, out: &mut Vec<Knob>) {
    // The delegated child is one of the descendants and does not count as made inside.
    match limits.cgroup_descendants {
        Some(n) => {
            let most = n.saturating_add(1).to_string();
            put(
                out,
                Controller::Core,
                "cgroup.max.descendants",
                Set::Text(most),
            );
            put(
                out,
                Controller::Core,
                "cgroup.max.depth",
                Set::Text(DEPTH.to_string()),
            );
        }
        None if full => {
            put(
                out,
                Controller::Core,
                "cgroup.max.descendants",
                Set::Text("max".into()),
            );
            put(
                out,
                Controller::Core,
                "cgroup.max.depth",
                Set::Text("max".into()),
            );
        }
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use super::super::limits::tests::{v2_site, written};
    use super::*;

    #[test]
    fn memory_and_swap_are_two_numbers() {
        let limits = Limits {
            memory: Some(64 << 20),
            swap: Some(0),
            memory_high: Some(60 << 20),
            cpu_quota_us: Some(50_000),
            cgroup_descendants: Some(10),
            ..Limits::default()
        };
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(
            written(&limits, &v2_site(), Extent::Fresh),
            [
                pair("cpu.max", "50000 100000"),
                pair("memory.high", "62914560"),
                pair("memory.max", "67108864"),
                pair("memory.swap.max", "0"),
                pair("cgroup.max.descendants", "11"),
                pair("cgroup.max.depth", "32"),
            ]
        );
    }

    #[test]
    fn the_full_state_takes_limits_away() {
        let lines = written(&Limits::default(), &v2_site(), Extent::Full);
        let value = |file: &str| {
            let found = lines.iter().find(|(f, _)| f == file);
            found.map(|(_, v)| v.as_str())
        };
        assert_eq!(value("memory.max"), Some("max"));
        assert_eq!(value("cpu.max"), Some("max 100000"));
        assert_eq!(value("memory.low"), Some("0"));
    }

    #[test]
    fn one_line_for_each_device() {
        let limit = IoLimit {
            major: 8,
            minor: 16,
            rbps: Some(5),
            ..IoLimit::default()
        };
        assert_eq!(io_line(&limit, false), "8:16 rbps=5");
        assert_eq!(
            io_line(&limit, true),
            "8:16 rbps=5 wbps=max riops=max wiops=max"
        );
        assert_eq!(io_line(&IoLimit::default(), false), "");
    }
}
