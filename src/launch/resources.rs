//! OCI resources → the limits that `kernel::cgroup` sets.

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType, LinuxResources, LinuxThrottleDevice};

use crate::kernel::cgroup::{CgroupError, DeviceAccess, DeviceKind, DeviceRule, IoLimit, Limits};

/// Limits of a group from OCI's resources; `descendants` is how many groups it may make below.
pub fn limits(from: &LinuxResources, descendants: u32) -> Result<Limits, CgroupError> {
    let mut limits = Limits {
        cgroup_descendants: Some(u64::from(descendants)),
        ..Limits::default()
    };
    let unsigned = |n: i64| u64::try_from(n).ok();
    if let Some(cpu) = from.cpu() {
        limits.cpu_quota_us = cpu.quota().and_then(unsigned);
        limits.cpu_period_us = cpu.period();
        limits.cpu_burst_us = cpu.burst();
        limits.cpuset = cpu.cpus().clone();
        limits.mems = cpu.mems().clone();
        // OCI counts in version 1 shares of 1024; rounded, every weight comes back as it was.
        limits.cpu_weight = cpu
            .shares()
            .map(|shares| ((shares * 100 + 512) / 1024).clamp(1, 10_000));
    }
    if let Some(memory) = from.memory() {
        limits.memory = memory.limit().and_then(unsigned);
        // OCI's swap is memory and swap together.
        limits.swap = memory
            .swap()
            .and_then(unsigned)
            .map(|both| both.saturating_sub(limits.memory.unwrap_or(0)));
        limits.memory_low = memory.reservation().and_then(unsigned);
    }
    let unified = |key: &str| from.unified().as_ref().and_then(|all| all.get(key));
    limits.memory_high = unified("memory.high").and_then(|v| v.parse().ok());
    limits.memory_min = unified("memory.min").and_then(|v| v.parse().ok());
    limits.oom_group = unified("memory.oom.group").is_some_and(|v| v == "1");
    limits.pids = from.pids().as_ref().and_then(|pids| unsigned(pids.limit()));
    if let Some(io) = from.block_io() {
        limits.io_weight = io.weight().map(u64::from);
        limits.io = throttles(io);
    }
    limits.devices = from.devices().as_deref().map(device_rules).transpose()?;
    Ok(limits)
}

fn throttles(io: &oci_spec::runtime::LinuxBlockIo) -> Vec<IoLimit> {
    type Slot = fn(&mut IoLimit) -> &mut Option<u64>;
    let lists: [(&Option<Vec<LinuxThrottleDevice>>, Slot); 4] = [
        (io.throttle_read_bps_device(), |l| &mut l.rbps),
        (io.throttle_write_bps_device(), |l| &mut l.wbps),
        (io.throttle_read_iops_device(), |l| &mut l.riops),
        (io.throttle_write_iops_device(), |l| &mut l.wiops),
    ];
    let mut all: Vec<IoLimit> = Vec::new();
    for (list, slot) in lists {
        for device in list.iter().flatten() {
            let number = |n: i64| u32::try_from(n).unwrap_or(0);
            let (major, minor) = (number(device.major()), number(device.minor()));
            let at = all
                .iter()
                .position(|l| (l.major, l.minor) == (major, minor))
                .unwrap_or_else(|| {
                    all.push(IoLimit {
                        major,
                        minor,
                        rbps: None,
                        wbps: None,
                        riops: None,
                        wiops: None,
                    });
                    all.len() - 1
                });
            *slot(&mut all[at]) = Some(device.rate());
        }
    }
    all
}

/// What stays allowed after everything is denied: the list has to begin with that.
fn device_rules(rules: &[LinuxDeviceCgroup]) -> Result<Vec<DeviceRule>, CgroupError> {
    let number = |n: Option<i64>| n.and_then(|n| u32::try_from(n).ok());
    rules
        .iter()
        .filter(|rule| rule.allow())
        .map(|rule| {
            Ok(DeviceRule {
                kind: match rule.typ() {
                    Some(LinuxDeviceType::B) => DeviceKind::Block,
                    _ => DeviceKind::Char,
                },
                major: number(rule.major()),
                minor: number(rule.minor()),
                access: DeviceAccess::parse(rule.access().as_deref().unwrap_or("rwm"))?,
            })
        })
        .collect()
}
