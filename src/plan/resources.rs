//! Limits and devices of a guest in OCI's words.

use std::collections::HashMap;
use std::path::PathBuf;

use oci_spec::runtime::{
    LinuxBlockIo, LinuxBlockIoBuilder, LinuxCpuBuilder, LinuxDevice, LinuxDeviceBuilder,
    LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType, LinuxMemoryBuilder,
    LinuxPidsBuilder, LinuxResources, LinuxResourcesBuilder, LinuxThrottleDeviceBuilder,
};

use super::defaults;
use super::spec::{PERIOD_US, Placement, PlanError};
use crate::model::Guest;

/// Limits and the device list as OCI has them.
pub(super) fn resources(guest: &Guest, place: &Placement) -> Result<LinuxResources, PlanError> {
    let mut resources = limits(guest, &place.block_devices)?;
    resources.set_devices(Some(device_rules(guest, place)?));
    Ok(resources)
}

/// Limits as OCI has them, without devices; what only cgroup v2 knows goes to `unified`.
/// `block_devices` are the numbers of those that the guest's I/O limits name.
pub fn limits(guest: &Guest, block_devices: &[(u64, u64)]) -> Result<LinuxResources, PlanError> {
    let mut cpu = LinuxCpuBuilder::default().shares(u64::from(guest.cpu.weight) * 1024 / 100);
    if let Some(limit) = guest.cpu.limit_now() {
        cpu = cpu
            .quota(i64::try_from(limit.quota_us(PERIOD_US)).unwrap_or(i64::MAX))
            .period(PERIOD_US);
        if guest.cpu.burst_us > 0 && guest.cpu.held_to.is_none() {
            cpu = cpu.burst(guest.cpu.burst_us);
        }
    }
    if let Some(cpuset) = &guest.cpu.cpuset {
        cpu = cpu.cpus(cpuset.to_string());
        if let Some(nodes) = &guest.cpu.nodes {
            cpu = cpu.mems(nodes.to_string());
        }
    }
    let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let mut memory = LinuxMemoryBuilder::default()
        .limit(signed(guest.memory.limit.0))
        .swap(signed(
            guest.memory.limit.0.saturating_add(guest.memory.swap.0),
        ));
    if guest.memory.low.0 > 0 {
        memory = memory.reservation(signed(guest.memory.low.0));
    }
    let mut unified = HashMap::new();
    if let Some(high) = guest.memory.high {
        unified.insert("memory.high".to_owned(), high.0.to_string());
    }
    if guest.memory.min.0 > 0 {
        unified.insert("memory.min".to_owned(), guest.memory.min.0.to_string());
    }
    if guest.memory.oom_group {
        unified.insert("memory.oom.group".to_owned(), "1".to_owned());
    }
    let mut resources = LinuxResourcesBuilder::default()
        .cpu(cpu.build()?)
        .memory(memory.build()?)
        .pids(
            LinuxPidsBuilder::default()
                .limit(i64::from(guest.processes))
                .build()?,
        );
    if !unified.is_empty() {
        resources = resources.unified(unified);
    }
    if guest.io.weight.is_some() || !guest.io.devices.is_empty() {
        resources = resources.block_io(block_io(guest, block_devices)?);
    }
    Ok(resources.build()?)
}

fn block_io(guest: &Guest, block_devices: &[(u64, u64)]) -> Result<LinuxBlockIo, PlanError> {
    let mut io = LinuxBlockIoBuilder::default();
    if let Some(weight) = guest.io.weight {
        io = io.weight(u16::try_from(weight).unwrap_or(u16::MAX));
    }
    type Rate = fn(&crate::model::BlockLimit) -> Option<u64>;
    let throttles = |rate: Rate| {
        guest
            .io
            .devices
            .iter()
            .zip(block_devices)
            .filter_map(|(limit, numbers)| rate(limit).map(|rate| (rate, numbers)))
            .map(|(rate, (major, minor))| {
                Ok(LinuxThrottleDeviceBuilder::default()
                    .major(i64::try_from(*major).unwrap_or(0))
                    .minor(i64::try_from(*minor).unwrap_or(0))
                    .rate(rate)
                    .build()?)
            })
            .collect::<Result<Vec<_>, PlanError>>()
    };
    io = io
        .throttle_read_bps_device(throttles(|l| l.read.map(|b| b.0))?)
        .throttle_write_bps_device(throttles(|l| l.write.map(|b| b.0))?)
        .throttle_read_iops_device(throttles(|l| l.read_iops)?)
        .throttle_write_iops_device(throttles(|l| l.write_iops)?);
    Ok(io.build()?)
}

/// All devices denied, then the usual few and those asked for allowed.
fn device_rules(guest: &Guest, place: &Placement) -> Result<Vec<LinuxDeviceCgroup>, PlanError> {
    let rule = |kind: char, major: i64, minor: Option<i64>, access: &str| {
        let mut rule = LinuxDeviceCgroupBuilder::default()
            .allow(true)
            .typ(if kind == 'b' {
                LinuxDeviceType::B
            } else {
                LinuxDeviceType::C
            })
            .major(major)
            .access(access.to_owned());
        if let Some(minor) = minor {
            rule = rule.minor(minor);
        }
        rule.build()
    };
    let mut rules = vec![
        LinuxDeviceCgroupBuilder::default()
            .allow(false)
            .typ(LinuxDeviceType::A)
            .access("rwm".to_owned())
            .build()?,
    ];
    for (_, kind, major, minor) in defaults::DEVICES {
        rules.push(rule(kind, major, Some(minor), "rwm")?);
    }
    for (kind, major, minor) in defaults::OPEN_ONLY {
        rules.push(rule(kind, major, minor, "rw")?);
    }
    for (device, (kind, major, minor)) in guest.devices.iter().zip(&place.devices) {
        let number = |n: &u64| i64::try_from(*n).unwrap_or(0);
        rules.push(rule(
            *kind,
            number(major),
            Some(number(minor)),
            &device.access,
        )?);
    }
    Ok(rules)
}

/// Device nodes made in the guest's /dev.
pub(super) fn devices(guest: &Guest, place: &Placement) -> Result<Vec<LinuxDevice>, PlanError> {
    let node = |path: PathBuf, kind: char, major: i64, minor: i64| {
        LinuxDeviceBuilder::default()
            .path(path)
            .typ(if kind == 'b' {
                LinuxDeviceType::B
            } else {
                LinuxDeviceType::C
            })
            .major(major)
            .minor(minor)
            .file_mode(0o666_u32)
            .build()
    };
    let mut nodes = Vec::new();
    for (path, kind, major, minor) in defaults::DEVICES {
        nodes.push(node(PathBuf::from(path), kind, major, minor)?);
    }
    for (device, (kind, major, minor)) in guest.devices.iter().zip(&place.devices) {
        let number = |n: &u64| i64::try_from(*n).unwrap_or(0);
        nodes.push(node(
            device.path.clone(),
            *kind,
            number(major),
            number(minor),
        )?);
    }
    Ok(nodes)
}
