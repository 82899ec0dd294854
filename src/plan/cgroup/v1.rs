//! Resources in the words of version 1 (Documentation/admin-guide/cgroup-v1). Memory, which both
//! versions count much alike, is in `memory`.

use oci_spec::runtime::{LinuxResources, LinuxThrottleDevice};

use super::{Result, bad, device_number, page_size, plain_word, unsupported};
use crate::model::{CgroupHost, CgroupSetting};

pub(super) fn pids(resources: &LinuxResources, out: &mut Vec<CgroupSetting>) {
    if let Some(pids) = resources.pids() {
        out.push(CgroupSetting::new(
            "pids",
            "pids.max",
            most_pids(pids.limit()),
        ));
    }
}

/// Less than 0 is no limit. None at all could not even be entered, so 0 is as little as there can be,
/// as in runc 1.4 and under systemd.
pub(super) fn most_pids(limit: i64) -> String {
    match limit {
        0 => "1".to_owned(),
        most if most > 0 => most.to_string(),
        _ => "max".to_owned(),
    }
}

pub(super) fn cpu(resources: &LinuxResources, out: &mut Vec<CgroupSetting>) -> Result<()> {
    let Some(cpu) = resources.cpu() else {
        return Ok(());
    };
    let mut push = |file: &str, value: String| {
        out.push(CgroupSetting::new("cpu", file, value));
    };
    let idle = cpu.idle();
    // An idle group takes no shares.
    if idle == Some(0) {
        push("cpu.idle", "0".to_owned());
    }
    if let Some(shares) = cpu.shares().filter(|&n| n > 0) {
        // The kernel would set the nearest one that it has, and say nothing.
        if !(2..=262_144).contains(&shares) {
            let rule = "version 1 has shares from 2 to 262144";
            return Err(bad("resources.cpu.shares", shares, rule));
        }
        push("cpu.shares", shares.to_string());
    }
    if let Some(idle) = idle.filter(|&n| n != 0) {
        push("cpu.idle", idle.to_string());
    }
    if let Some(period) = cpu.period().filter(|&n| n > 0) {
        push("cpu.cfs_period_us", period.to_string());
    }
    if let Some(quota) = cpu.quota().filter(|&n| n != 0) {
        push("cpu.cfs_quota_us", quota.max(-1).to_string());
    }
    if let Some(burst) = cpu.burst() {
        push("cpu.cfs_burst_us", burst.to_string());
    }
    if let Some(period) = cpu.realtime_period().filter(|&n| n > 0) {
        push("cpu.rt_period_us", period.to_string());
    }
    if let Some(runtime) = cpu.realtime_runtime().filter(|&n| n != 0) {
        push("cpu.rt_runtime_us", runtime.to_string());
    }
    Ok(())
}

pub(super) const WEIGHT: &str = "resources.blockIO.weight";

/// A weight as OCI has it; 0 is "not said".
pub(super) fn weight(field: &'static str, weight: Option<u16>) -> Result<Option<u16>> {
    match weight {
        None | Some(0) => Ok(None),
        Some(n @ 10..=1000) => Ok(Some(n)),
        Some(n) => Err(bad(field, n, "a weight goes from 10 to 1000")),
    }
}

pub(super) fn block_io(resources: &LinuxResources, out: &mut Vec<CgroupSetting>) -> Result<()> {
    let Some(io) = resources.block_io() else {
        return Ok(());
    };
    // Schedulers that shared by weight went with Linux 5.0, but for bfq, whose files have its name.
    let mut either = |file: &str, bfq: &str, value: String| {
        let mut setting = CgroupSetting::new("blkio", file, &value);
        setting.otherwise = Some((bfq.to_owned(), value));
        out.push(setting);
    };
    if let Some(n) = weight(WEIGHT, io.weight())? {
        either("blkio.weight", "blkio.bfq.weight", n.to_string());
    }
    for device in io.weight_device().iter().flatten() {
        let number = device_number(
            "resources.blockIO.weightDevice",
            device.major(),
            device.minor(),
        )?;
        if let Some(n) = weight(WEIGHT, device.weight())? {
            either(
                "blkio.weight_device",
                "blkio.bfq.weight_device",
                format!("{number} {n}"),
            );
        }
    }
    let leaf = "resources.blockIO.leafWeight";
    if let Some(n) = weight(leaf, io.leaf_weight())? {
        out.push(CgroupSetting::new("blkio", "blkio.leaf_weight", n));
    }
    for device in io.weight_device().iter().flatten() {
        if let Some(n) = weight(leaf, device.leaf_weight())? {
            let line = format!("{}:{} {n}", device.major(), device.minor());
            out.push(CgroupSetting::new(
                "blkio",
                "blkio.leaf_weight_device",
                line,
            ));
        }
    }
    let throttles: [(&str, &Option<Vec<LinuxThrottleDevice>>); 4] = [
        ("read_bps", io.throttle_read_bps_device()),
        ("write_bps", io.throttle_write_bps_device()),
        ("read_iops", io.throttle_read_iops_device()),
        ("write_iops", io.throttle_write_iops_device()),
    ];
    for (what, list) in throttles {
        for device in list.iter().flatten() {
            let number = device_number("resources.blockIO", device.major(), device.minor())?;
            let file = format!("blkio.throttle.{what}_device");
            let line = format!("{number} {}", device.rate());
            out.push(CgroupSetting::new("blkio", file, line));
        }
    }
    Ok(())
}

pub(super) fn huge_pages(resources: &LinuxResources, out: &mut Vec<CgroupSetting>) -> Result<()> {
    for limit in resources.hugepage_limits().iter().flatten() {
        let size = page_size(limit.page_size())?;
        let most = limit.limit().max(-1);
        let file = |kind: &str| format!("hugetlb.{size}.{kind}limit_in_bytes");
        out.push(CgroupSetting::new("hugetlb", file(""), most));
        // Reservations are limited since Linux 5.7; without it a process dies of SIGBUS instead of
        // being refused.
        out.push(CgroupSetting::new("hugetlb", file("rsvd."), most).best_effort());
    }
    Ok(())
}

/// Tags for the host's packet filter, which version 2 does not have.
pub(super) fn network(
    resources: &LinuxResources,
    host: &CgroupHost,
    out: &mut Vec<CgroupSetting>,
) -> Result<()> {
    let Some(network) = resources.network() else {
        return Ok(());
    };
    let on = |controller: &str, field: &str| match host.on_v1(controller) {
        true => Ok(()),
        false => {
            let why = format!("it needs the version 1 controller {controller}, not mounted here");
            Err(unsupported(host, field, why))
        }
    };
    if let Some(class) = network.class_id().filter(|&n| n != 0) {
        on("net_cls", "resources.network.classID")?;
        out.push(CgroupSetting::new("net_cls", "net_cls.classid", class));
    }
    for wish in network.priorities().iter().flatten() {
        on("net_prio", "resources.network.priorities")?;
        plain_word("resources.network.priorities.name", wish.name())?;
        let line = format!("{} {}", wish.name(), wish.priority());
        out.push(CgroupSetting::new("net_prio", "net_prio.ifpriomap", line));
    }
    Ok(())
}
