//! Counters of a container in the words and shape of `runc events --stats`, which containerd, Docker
//! and Podman read: the numbers of version 2 are put where version 1 has them. The watch for
//! out-of-memory kills begins here too. Samples of guests are in `stats`.

use std::collections::BTreeMap;

use serde::Serialize;

use super::container::Cgroups;
use super::dir::{Dir, keyed, number};
use super::{Result, stat_files};
use crate::model::CgroupMode;

/// Everything counted.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ContainerStats {
    /// CPU time.
    pub cpu: Cpu,
    /// CPUs and memory nodes chosen.
    pub cpuset: Cpuset,
    /// Memory.
    pub memory: Memory,
    /// Processes and threads.
    pub pids: Pids,
    /// Block I/O.
    pub blkio: Blkio,
    /// Huge pages, by size.
    pub hugetlb: BTreeMap<String, Hugetlb>,
    /// Cache and memory bandwidth: not counted, an empty object.
    pub intel_rdt: BTreeMap<String, u64>,
    /// Network interfaces: not counted, none.
    pub network_interfaces: Option<()>,
}

/// CPU time, in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Cpu {
    /// Time used.
    pub usage: CpuUsage,
    /// Time held back by a quota.
    pub throttling: Throttling,
    /// Waiting.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Psi>,
}

/// Time used, in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CpuUsage {
    /// In all.
    pub total: u64,
    /// On each CPU (version 1).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu: Vec<u64>,
    /// Of that, in the kernel.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu_kernel: Vec<u64>,
    /// And in programs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu_user: Vec<u64>,
    /// In the kernel.
    pub kernel: u64,
    /// In programs.
    pub user: u64,
}

/// Time held back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Throttling {
    /// Periods gone by.
    pub periods: u64,
    /// Of these, periods in which processes were held back.
    pub throttled_periods: u64,
    /// Nanoseconds.
    pub throttled_time: u64,
}

/// CPUs and memory nodes chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Cpuset {
    /// CPUs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cpus: Vec<u32>,
    /// Memory nodes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mems: Vec<u32>,
}

/// Memory, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Memory {
    /// Of it, cached files.
    pub cache: u64,
    /// Memory.
    pub usage: MemoryEntry,
    /// Memory and swap together.
    pub swap: MemoryEntry,
    /// The kernel's own (version 1).
    pub kernel: MemoryEntry,
    /// Of TCP (version 1).
    #[serde(rename = "kernelTCP")]
    pub kernel_tcp: MemoryEntry,
    /// All that `memory.stat` says.
    pub raw: BTreeMap<String, u64>,
    /// Waiting.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Psi>,
}

/// One kind of memory, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MemoryEntry {
    /// Most it may be; all ones for no limit in version 2.
    pub limit: u64,
    /// What it is.
    pub usage: u64,
    /// Most it has been.
    pub max: u64,
    /// How often the limit was met.
    pub failcnt: u64,
}

/// Processes and threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Pids {
    /// How many there are.
    pub current: u64,
    /// How many there may be; 0 is no limit.
    pub limit: u64,
}

/// Block I/O, for each device and kind of operation.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Blkio {
    /// Bytes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_service_bytes_recursive: Vec<BlkioEntry>,
    /// Operations.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_serviced_recursive: Vec<BlkioEntry>,
    /// Waiting.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Psi>,
}

/// One device and kind of operation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BlkioEntry {
    /// Major number.
    pub major: u64,
    /// Minor number.
    pub minor: u64,
    /// `Read`, `Write`, …
    #[serde(skip_serializing_if = "String::is_empty")]
    pub op: String,
    /// Bytes or operations.
    pub value: u64,
}

/// Huge pages of one size, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Hugetlb {
    /// In use.
    pub usage: u64,
    /// Most there were.
    pub max: u64,
    /// How often the limit was met.
    pub failcnt: u64,
}

/// How long processes waited for something (pressure, Linux 4.20).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Psi {
    /// Some of them.
    pub some: PsiData,
    /// All of them.
    pub full: PsiData,
}

/// Percent of the last 10, 60 and 300 seconds, and microseconds in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct PsiData {
    /// Last 10 s.
    pub avg10: f64,
    /// Last 60 s.
    pub avg60: f64,
    /// Last 300 s.
    pub avg300: f64,
    /// Microseconds.
    pub total: u64,
}

impl Cgroups {
    /// Reads the counters. What this host does not count stays 0 or empty.
    ///
    /// # Errors
    /// When a file that is there cannot be read.
    pub fn stats(&self) -> Result<ContainerStats> {
        let mut stats = ContainerStats::default();
        self.cpu_stats(&mut stats.cpu)?;
        if let Some(dir) = self.v1_dir("memory") {
            memory_v1(dir, &mut stats.memory)?;
        } else if let Some(dir) = self.home("memory") {
            memory_v2(dir, &mut stats.memory)?;
        }
        if let Some(dir) = self.home("pids") {
            stats.pids.current = value(dir, "pids.current")?;
            stats.pids.limit = value(dir, "pids.max")?;
        }
        if let Some(dir) = self.v1_dir("blkio") {
            blkio_v1(dir, &mut stats.blkio)?;
        } else if let Some(dir) = self.home("io") {
            blkio_v2(dir, &mut stats.blkio)?;
        }
        if let Some(dir) = self.home("cpuset") {
            stats.cpuset.cpus = stat_files::list(&text(dir, "cpuset.cpus")?);
            stats.cpuset.mems = stat_files::list(&text(dir, "cpuset.mems")?);
        }
        if let Some(dir) = self.home("hugetlb") {
            hugetlb(dir, self.v1_dir("hugetlb").is_some(), &mut stats.hugetlb)?;
        }
        if let Some(slot) = &self.v2
            && self.mode == CgroupMode::V2
        {
            let psi = |file| -> Result<Option<Psi>> {
                let text = slot.dir.try_read(file).unwrap_or(None);
                Ok(text.map(|text| stat_files::psi(&text)))
            };
            stats.cpu.psi = psi("cpu.pressure")?;
            stats.memory.psi = psi("memory.pressure")?;
            stats.blkio.psi = psi("io.pressure")?;
        }
        Ok(stats)
    }

    fn cpu_stats(&self, cpu: &mut Cpu) -> Result<()> {
        let v1 = self.v1_dir("cpuacct");
        if let Some(dir) = v1 {
            cpu.usage.total = value(dir, "cpuacct.usage")?;
            cpu.usage.kernel = value(dir, "cpuacct.usage_sys")?;
            cpu.usage.user = value(dir, "cpuacct.usage_user")?;
            let each = text(dir, "cpuacct.usage_percpu")?;
            cpu.usage.percpu = each.split_whitespace().filter_map(number).collect();
            // A line of names, and then for each CPU its number, time in programs, time in the kernel.
            let parts = text(dir, "cpuacct.usage_all")?;
            for line in parts.lines().skip(1) {
                let mut words = line.split_whitespace().skip(1).filter_map(number);
                cpu.usage.percpu_user.extend(words.next());
                cpu.usage.percpu_kernel.extend(words.next());
            }
        } else if let Some(slot) = &self.v2 {
            // Counted in every group of version 2, whether or not it has the controller.
            let stat = text(&slot.dir, "cpu.stat")?;
            let nanoseconds = |key| keyed(&stat, key).unwrap_or(0) * 1000;
            cpu.usage.total = nanoseconds("usage_usec");
            cpu.usage.kernel = nanoseconds("system_usec");
            cpu.usage.user = nanoseconds("user_usec");
        }
        let Some(dir) = self.home("cpu") else {
            return Ok(());
        };
        let stat = text(dir, "cpu.stat")?;
        let held = keyed(&stat, "throttled_time");
        let held = held.or_else(|| keyed(&stat, "throttled_usec").map(|us| us * 1000));
        cpu.throttling = Throttling {
            periods: keyed(&stat, "nr_periods").unwrap_or(0),
            throttled_periods: keyed(&stat, "nr_throttled").unwrap_or(0),
            throttled_time: held.unwrap_or(0),
        };
        Ok(())
    }

    /// How many processes were killed because the container ran out of memory.
    ///
    /// # Errors
    /// When the counter cannot be read.
    pub fn oom_kills(&self) -> Result<u64> {
        let count = match (self.v1_dir("memory"), self.home("memory")) {
            (Some(dir), _) => keyed(&text(dir, "memory.oom_control")?, "oom_kill"),
            (None, Some(dir)) => keyed(&text(dir, "memory.events")?, "oom_kill"),
            (None, None) => None,
        };
        Ok(count.unwrap_or(0))
    }
}

fn text(dir: &Dir, file: &str) -> Result<String> {
    Ok(dir.try_read(file)?.unwrap_or_default())
}

fn value(dir: &Dir, file: &str) -> Result<u64> {
    Ok(number(&text(dir, file)?).unwrap_or(0))
}

/// A limit; `max` is all ones.
fn limit(dir: &Dir, file: &str) -> Result<u64> {
    Ok(match dir.try_read(file)? {
        None => 0,
        Some(text) => number(&text).unwrap_or(u64::MAX),
    })
}

fn memory_v1(dir: &Dir, memory: &mut Memory) -> Result<()> {
    memory.raw = stat_files::pairs(&text(dir, "memory.stat")?);
    memory.cache = memory.raw.get("cache").copied().unwrap_or(0);
    let entry = |kind: &str| -> Result<MemoryEntry> {
        let file = |name: &str| format!("memory.{kind}{name}");
        Ok(MemoryEntry {
            limit: limit(dir, &file("limit_in_bytes"))?,
            usage: value(dir, &file("usage_in_bytes"))?,
            max: value(dir, &file("max_usage_in_bytes"))?,
            failcnt: value(dir, &file("failcnt"))?,
        })
    };
    memory.usage = entry("")?;
    memory.swap = entry("memsw.")?;
    memory.kernel = entry("kmem.")?;
    memory.kernel_tcp = entry("kmem.tcp.")?;
    Ok(())
}

fn memory_v2(dir: &Dir, memory: &mut Memory) -> Result<()> {
    memory.raw = stat_files::pairs(&text(dir, "memory.stat")?);
    memory.cache = memory.raw.get("file").copied().unwrap_or(0);
    let events = text(dir, "memory.events")?;
    memory.usage = MemoryEntry {
        limit: limit(dir, "memory.max")?,
        usage: value(dir, "memory.current")?,
        max: value(dir, "memory.peak")?,
        failcnt: keyed(&events, "max").unwrap_or(0),
    };
    // Version 1 counts both together, and that is what readers expect. The most there was of both
    // at once is not known.
    memory.swap = MemoryEntry {
        limit: limit(dir, "memory.swap.max")?.saturating_add(memory.usage.limit),
        usage: value(dir, "memory.swap.current")? + memory.usage.usage,
        max: 0,
        failcnt: 0,
    };
    Ok(())
}

fn blkio_v1(dir: &Dir, blkio: &mut Blkio) -> Result<()> {
    // bfq counts only what it schedules; the other files count it all.
    for kind in ["bfq", "throttle"] {
        let read = |what: &str| -> Result<Vec<BlkioEntry>> {
            let file = format!("blkio.{kind}.{what}_recursive");
            Ok(stat_files::blkio_v1(&text(dir, &file)?))
        };
        blkio.io_service_bytes_recursive = read("io_service_bytes")?;
        blkio.io_serviced_recursive = read("io_serviced")?;
        if !blkio.io_service_bytes_recursive.is_empty() {
            break;
        }
    }
    Ok(())
}

fn blkio_v2(dir: &Dir, blkio: &mut Blkio) -> Result<()> {
    let text = text(dir, "io.stat")?;
    blkio.io_service_bytes_recursive = stat_files::blkio_v2(&text, "rbytes", "wbytes");
    blkio.io_serviced_recursive = stat_files::blkio_v2(&text, "rios", "wios");
    Ok(())
}

fn hugetlb(dir: &Dir, v1: bool, out: &mut BTreeMap<String, Hugetlb>) -> Result<()> {
    for size in stat_files::huge_page_sizes() {
        let file = |name: &str| format!("hugetlb.{size}.{name}");
        let counted = match v1 {
            true => Hugetlb {
                usage: value(dir, &file("usage_in_bytes"))?,
                max: value(dir, &file("max_usage_in_bytes"))?,
                failcnt: value(dir, &file("failcnt"))?,
            },
            false => Hugetlb {
                usage: value(dir, &file("current"))?,
                max: 0,
                failcnt: keyed(&text(dir, &file("events"))?, "max").unwrap_or(0),
            },
        };
        out.insert(size, counted);
    }
    Ok(())
}
