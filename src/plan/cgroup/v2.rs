//! Resources in the words of version 2 (Documentation/admin-guide/cgroup-v2.rst), `unified` among
//! them. Memory is in `memory`.

use oci_spec::runtime::{LinuxResources, LinuxThrottleDevice};

use super::v1::{WEIGHT, most_pids, weight};
use super::{Result, bad, device_number, page_size, unsupported};
use crate::model::{CgroupHost, CgroupMode, CgroupSetting};

/// Length of a CPU period that was not said, microseconds: the kernel's own.
const PERIOD_US: u64 = 100_000;

/// Refuses what needs a controller that is not there.
pub(super) fn needs(host: &CgroupHost, controller: &str, field: &str) -> Result<()> {
    if host.v2.contains(controller) {
        return Ok(());
    }
    let why = format!("neither version has the controller {controller} here");
    Err(unsupported(host, field, why))
}

pub(super) fn pids(
    resources: &LinuxResources,
    host: &CgroupHost,
    out: &mut Vec<CgroupSetting>,
) -> Result<()> {
    let Some(pids) = resources.pids() else {
        return Ok(());
    };
    needs(host, "pids", "resources.pids")?;
    out.push(CgroupSetting::new(
        "pids",
        "pids.max",
        most_pids(pids.limit()),
    ));
    Ok(())
}

/// Version 1 shares (2 to 262,144, usually 1024) as a version 2 weight (1 to 10,000, usually 100).
/// The curve runs through all three pairs, as newer runc and crun have it; the straight line of
/// old turned the usual 1024 into 39, so that containers got less than anything else on the host.
#[must_use]
pub(super) fn cpu_weight(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        262_144.. => 10_000,
        n => {
            #[allow(clippy::cast_precision_loss)] // at most 18 bits
            let log = (n as f64).log2();
            let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // 1 to 10,000
            let weight = 10_f64.powf(exponent).ceil() as u64;
            weight
        }
    }
}

pub(super) fn cpu(
    resources: &LinuxResources,
    host: &CgroupHost,
    out: &mut Vec<CgroupSetting>,
) -> Result<()> {
    let Some(cpu) = resources.cpu() else {
        return Ok(());
    };
    let from = out.len();
    let mut push = |file: &str, value: String| out.push(CgroupSetting::new("cpu", file, value));
    // An idle group takes no weight.
    if cpu.idle() == Some(0) {
        push("cpu.idle", "0".to_owned());
    }
    if let Some(shares) = cpu.shares().filter(|&n| n > 0) {
        push("cpu.weight", cpu_weight(shares).to_string());
    }
    if let Some(idle) = cpu.idle().filter(|&n| n != 0) {
        push("cpu.idle", idle.to_string());
    }
    let quota = cpu.quota().filter(|&n| n != 0);
    let period = cpu.period().filter(|&n| n > 0);
    if quota.is_some() || period.is_some() {
        let most = match quota {
            Some(n) if n > 0 => n.to_string(),
            _ => "max".to_owned(),
        };
        push("cpu.max", format!("{most} {}", period.unwrap_or(PERIOD_US)));
    }
    if let Some(burst) = cpu.burst() {
        push("cpu.max.burst", burst.to_string());
    }
    if out.len() > from {
        needs(host, "cpu", "resources.cpu")?;
    }
    let real_time = cpu.realtime_runtime().unwrap_or(0) != 0;
    if real_time || cpu.realtime_period().unwrap_or(0) != 0 {
        let why = "version 2 does not share out real time";
        return Err(unsupported(host, "resources.cpu.realtimeRuntime", why));
    }
    Ok(())
}

pub(super) fn cpuset(
    resources: &LinuxResources,
    host: &CgroupHost,
    out: &mut Vec<CgroupSetting>,
) -> Result<()> {
    let from = out.len();
    super::cpuset(resources, out);
    if out.len() > from {
        needs(host, "cpuset", "resources.cpu.cpus")?;
    }
    Ok(())
}

/// OCI's weights of 10 to 1000 on the scale of 1 to 10,000.
fn io_weight(weight: u16) -> u64 {
    1 + u64::from(weight - 10) * 9999 / 990
}

pub(super) fn block_io(
    resources: &LinuxResources,
    host: &CgroupHost,
    out: &mut Vec<CgroupSetting>,
) -> Result<()> {
    let Some(io) = resources.block_io() else {
        return Ok(());
    };
    let from = out.len();
    // bfq has the scale of OCI; where it is not loaded, iocost shares by weight.
    let mut weigh = |prefix: &str, n: u16| {
        let mut setting = CgroupSetting::new("io", "io.bfq.weight", format!("{prefix}{n}"));
        let scaled = format!("{prefix}{}", io_weight(n));
        setting.otherwise = Some(("io.weight".to_owned(), scaled));
        out.push(setting);
    };
    if let Some(n) = weight(WEIGHT, io.weight())? {
        weigh("", n);
    }
    let mut leaf = io.leaf_weight().unwrap_or(0) != 0;
    for device in io.weight_device().iter().flatten() {
        let (major, minor) = (device.major(), device.minor());
        let number = device_number("resources.blockIO.weightDevice", major, minor)?;
        if let Some(n) = weight(WEIGHT, device.weight())? {
            weigh(&format!("{number} "), n);
        }
        leaf |= device.leaf_weight().unwrap_or(0) != 0;
    }
    if leaf {
        let why = "version 2 has no weight of a group against its children";
        return Err(unsupported(host, "resources.blockIO.leafWeight", why));
    }
    let throttles: [(&str, &Option<Vec<LinuxThrottleDevice>>); 4] = [
        ("rbps", io.throttle_read_bps_device()),
        ("wbps", io.throttle_write_bps_device()),
        ("riops", io.throttle_read_iops_device()),
        ("wiops", io.throttle_write_iops_device()),
    ];
    for (key, list) in throttles {
        for device in list.iter().flatten() {
            let number = device_number("resources.blockIO", device.major(), device.minor())?;
            // 0 takes a limit away, as in version 1.
            let rate = match device.rate() {
                0 => "max".to_owned(),
                n => n.to_string(),
            };
            out.push(CgroupSetting::new(
                "io",
                "io.max",
                format!("{number} {key}={rate}"),
            ));
        }
    }
    if out.len() > from {
        needs(host, "io", "resources.blockIO")?;
    }
    Ok(())
}

pub(super) fn huge_pages(
    resources: &LinuxResources,
    host: &CgroupHost,
    out: &mut Vec<CgroupSetting>,
) -> Result<()> {
    for limit in resources.hugepage_limits().iter().flatten() {
        needs(host, "hugetlb", "resources.hugepageLimits")?;
        let size = page_size(limit.page_size())?;
        let most = match limit.limit() {
            ..0 => "max".to_owned(),
            n => n.to_string(),
        };
        let file = |kind: &str| format!("hugetlb.{size}.{kind}max");
        out.push(CgroupSetting::new("hugetlb", file(""), &most));
        out.push(CgroupSetting::new("hugetlb", file("rsvd."), &most).best_effort());
    }
    Ok(())
}

/// Files that are no limits: they move, stop or kill processes, or change what the group is.
const NOT_LIMITS: [&str; 6] = [
    "cgroup.procs",
    "cgroup.threads",
    "cgroup.kill",
    "cgroup.freeze",
    "cgroup.type",
    "cgroup.subtree_control",
];

/// `resources.unified`: control files by their own names, each line of a value by itself.
pub(super) fn unified(
    resources: &LinuxResources,
    host: &CgroupHost,
    out: &mut Vec<CgroupSetting>,
) -> Result<()> {
    const FIELD: &str = "resources.unified";
    let Some(unified) = resources.unified().as_ref().filter(|all| !all.is_empty()) else {
        return Ok(());
    };
    if host.mode != CgroupMode::V2 {
        let why = "unified is for version 2; boot with systemd.unified_cgroup_hierarchy=1, \
                   or use memory, cpu, pids and the like";
        return Err(unsupported(host, FIELD, why));
    }
    let mut files: Vec<(&String, &String)> = unified.iter().collect();
    files.sort();
    for (file, value) in files {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
        let plain_size = |c: char| plain(c) || c.is_ascii_uppercase();
        let controller = match file.split_once('.') {
            Some((controller, rest))
                if !controller.is_empty()
                    && !rest.is_empty()
                    && controller.chars().all(plain)
                    && rest.chars().all(plain_size) =>
            {
                controller
            }
            _ => {
                let rule = "write the name of a control file, such as memory.high";
                return Err(bad(FIELD, file, rule));
            }
        };
        if NOT_LIMITS.contains(&file.as_str()) {
            return Err(bad(FIELD, file, "this file sets no limit"));
        }
        if controller != "cgroup" {
            needs(host, controller, &format!("{FIELD}.{file}"))?;
        }
        if value.contains('\0') {
            return Err(bad(FIELD, file, "its value must not have a zero byte"));
        }
        let lines = value.lines().filter(|line| !line.trim().is_empty());
        for line in lines {
            out.push(CgroupSetting::new(controller, file.as_str(), line));
        }
    }
    Ok(())
}
