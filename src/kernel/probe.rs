//! What this kernel and machine can do, asked once a boot.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::model::{CgroupMode, HostFacts};

use super::core_scheduling;
use super::credentials;
use super::error::{KernelError, Result};
use super::read_watch::ReadWatch;

/// The facts kept in `file`, if they are of this boot and of a caller with the same limits; else
/// probed and kept there.
pub fn host_facts_cached(file: &Path) -> Result<HostFacts> {
    let boot_id = read("/proc/sys/kernel/random/boot_id")?;
    let nofile = credentials::get_rlimit("nofile")?.1;
    let kept = super::file::read_small(file, 1 << 16)?
        .and_then(|text| serde_json::from_slice::<HostFacts>(&text).ok())
        .filter(|facts| facts.boot_id == boot_id.trim() && facts.nofile_hard == nofile);
    if let Some(facts) = kept {
        return Ok(facts);
    }
    let facts = host_facts()?;
    let text = serde_json::to_vec(&facts).unwrap_or_default();
    super::file::write_runtime(file, &text, 0o600)?;
    Ok(facts)
}

/// Probes the host.
pub fn host_facts() -> Result<HostFacts> {
    let mounts = read("/proc/self/mountinfo")?;
    let (cgroup_v1, cgroup_v2) = cgroup_mounts(&mounts);
    let cgroup_v2_controllers = cgroup_v2
        .as_ref()
        .and_then(|at| std::fs::read_to_string(at.join("cgroup.controllers")).ok())
        .map(|text| text.split_whitespace().map(str::to_owned).collect())
        .unwrap_or_default();
    let cgroup_mode = match (
        cgroup_v1.contains_key("memory") || cgroup_v1.contains_key("pids"),
        &cgroup_v2,
    ) {
        (false, _) => CgroupMode::V2,
        (true, Some(_)) => CgroupMode::Hybrid,
        (true, None) => CgroupMode::V1,
    };
    let swap_accounting = match cgroup_v1.get("memory") {
        Some(at) => at.join("memory.memsw.limit_in_bytes").exists(),
        None => Path::new("/proc/swaps").exists(),
    };
    let status = read("/proc/self/status")?;
    Ok(HostFacts {
        boot_id: read("/proc/sys/kernel/random/boot_id")?.trim().to_owned(),
        kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
        cgroup_mode,
        cgroup_v1,
        cgroup_v2,
        cgroup_v2_controllers,
        swap_accounting,
        cpus: read("/sys/devices/system/cpu/online")?
            .trim()
            .parse()
            .map_err(|_| {
                KernelError::new(
                    "read",
                    "/sys/devices/system/cpu/online",
                    rustix::io::Errno::INVAL,
                )
            })?,
        memory: memory_total(&read("/proc/meminfo")?),
        systemd: Path::new("/run/systemd/system").is_dir(),
        can_raise_rlimits: has_capability(&status, 24),
        time_namespace: Path::new("/proc/self/ns/time").exists(),
        read_watch: ReadWatch::is_possible(),
        core_scheduling: core_scheduling::possible(),
        last_capability: read("/proc/sys/kernel/cap_last_cap")?
            .trim()
            .parse()
            .unwrap_or(40),
        nofile_hard: credentials::get_rlimit("nofile")?.1,
        rlimits_hard: hard_limits(),
    })
}

fn hard_limits() -> BTreeMap<String, u64> {
    [
        "nproc",
        "sigpending",
        "msgqueue",
        "memlock",
        "nofile",
        "core",
        "stack",
    ]
    .into_iter()
    .filter_map(|name| {
        credentials::get_rlimit(name)
            .ok()
            .map(|(_, hard)| (name.to_owned(), hard))
    })
    .filter(|(_, hard)| *hard != u64::MAX)
    .collect()
}

fn read(path: &str) -> Result<String> {
    std::fs::read_to_string(path).map_err(KernelError::io("read", path))
}

/// Version 1 mount points by controller and the version 2 mount point, from /proc/self/mountinfo.
fn cgroup_mounts(mountinfo: &str) -> (BTreeMap<String, PathBuf>, Option<PathBuf>) {
    let mut v1 = BTreeMap::new();
    let mut v2 = None;
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else {
            continue;
        };
        let Some(point) = left.split(' ').nth(4) else {
            continue;
        };
        let mut fields = right.split(' ');
        match (fields.next(), fields.nth(1)) {
            (Some("cgroup2"), _) if v2.is_none() => v2 = Some(PathBuf::from(point)),
            (Some("cgroup"), Some(options)) => {
                for option in options
                    .split(',')
                    .filter(|o| !matches!(*o, "rw" | "ro" | "xattr"))
                {
                    v1.entry(option.to_owned())
                        .or_insert_with(|| PathBuf::from(point));
                }
            }
            _ => {}
        }
    }
    (v1, v2)
}

fn memory_total(meminfo: &str) -> u64 {
    meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| {
            rest.trim()
                .trim_end_matches("kB")
                .trim()
                .parse::<u64>()
                .ok()
        })
        .map_or(0, |kib| kib << 10)
}

fn has_capability(status: &str, number: u32) -> bool {
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .is_some_and(|bits| bits >> number & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hybrid_mounts_are_told_apart() {
        let (v1, v2) = cgroup_mounts(
            "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct\n\
             40 31 0:37 / /sys/fs/cgroup/systemd rw shared:9 - cgroup cgroup rw,xattr,name=systemd\n\
             41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n",
        );
        assert_eq!(v1["cpuacct"], Path::new("/sys/fs/cgroup/cpu"));
        assert_eq!(v1["name=systemd"], Path::new("/sys/fs/cgroup/systemd"));
        assert_eq!(v2.as_deref(), Some(Path::new("/sys/fs/cgroup/unified")));
    }

    #[test]
    fn this_host_can_be_probed() {
        let facts = host_facts().unwrap();
        assert!(facts.memory > 0 && facts.cpus.iter().count() > 0);
    }
}
