//! `update`: other limits for a running container, all of them or none.

use std::io::Read as _;
use std::path::PathBuf;

use clap::Args;
use oci_spec::runtime::{
    LinuxBlockIoBuilder, LinuxCpu, LinuxMemory, LinuxPidsBuilder, LinuxResources,
};

use super::error::{OciError, Result};
use super::log::Log;
use super::store::{LARGEST, Status, Store};
use crate::kernel::cgroup::{Cgroups, Host, change_scope};
use crate::kernel::file::read_small;
use crate::kernel::rdt;
use crate::model::CgroupHost;
use crate::plan::cgroup;

/// Its flags.
#[derive(Debug, Args)]
pub(super) struct Update {
    /// File with linux.resources as JSON; - for standard input
    #[arg(short, long, value_name = "FILE")]
    pub(super) resources: Option<PathBuf>,
    /// Weight of block I/O
    #[arg(long, value_name = "N")]
    pub(super) blkio_weight: Option<u16>,
    /// Period of the CPU limit, microseconds
    #[arg(long, value_name = "US")]
    pub(super) cpu_period: Option<u64>,
    /// CPU time in a period, microseconds
    #[arg(long, value_name = "US", allow_hyphen_values = true)]
    pub(super) cpu_quota: Option<i64>,
    /// CPU time that may be saved up, microseconds
    #[arg(long, value_name = "US")]
    pub(super) cpu_burst: Option<u64>,
    /// CPU shares; 1024 is usual
    #[arg(long, value_name = "N")]
    pub(super) cpu_share: Option<u64>,
    /// Period of real-time scheduling, microseconds
    #[arg(long, value_name = "US")]
    pub(super) cpu_rt_period: Option<u64>,
    /// Real-time CPU time in a period, microseconds
    #[arg(long, value_name = "US", allow_hyphen_values = true)]
    pub(super) cpu_rt_runtime: Option<i64>,
    /// CPUs to run on
    #[arg(long, value_name = "LIST")]
    pub(super) cpuset_cpus: Option<String>,
    /// Memory nodes to use
    #[arg(long, value_name = "LIST")]
    pub(super) cpuset_mems: Option<String>,
    /// 1: runs only when nobody else wants to
    #[arg(long, value_name = "0|1")]
    pub(super) cpu_idle: Option<i64>,
    /// Memory limit, bytes, or with k, m, g; -1 for none
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub(super) memory: Option<String>,
    /// Memory reservation
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub(super) memory_reservation: Option<String>,
    /// Limit of memory and swap together; -1 for none
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub(super) memory_swap: Option<String>,
    /// Accepted and without effect: the kernel has no such limit any more
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub(super) kernel_memory: Option<String>,
    /// Accepted and without effect
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub(super) kernel_memory_tcp: Option<String>,
    /// Most processes; -1 for no limit
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub(super) pids_limit: Option<i64>,
    /// Schemata of the last level cache (Intel RDT)
    #[arg(long, value_name = "LINES")]
    pub(super) l3_cache_schema: Option<String>,
    /// Schemata of memory bandwidth (Intel RDT)
    #[arg(long, value_name = "LINES")]
    pub(super) mem_bw_schema: Option<String>,
    /// Name of the container
    #[arg(value_name = "CONTAINER")]
    pub(super) id: String,
}

/// Changes limits.
pub(super) fn update(store: &Store, args: &Update, log: &Log) -> Result<u8> {
    let folder = store.find(&args.id)?;
    folder.lock()?;
    let mut record = folder.made()?;
    let host = Host::quick()?;
    let place = record.cgroup.as_ref().ok_or(OciError::NotRunning)?;
    if matches!(folder.status(&record, &host), Status::Stopped) {
        return Err(OciError::NotRunning);
    }
    if args.kernel_memory.is_some() || args.kernel_memory_tcp.is_some() {
        log.warn("kernel memory has no limit of its own any more: that option changes nothing");
    }
    let resources = match &args.resources {
        Some(path) => read(path)?,
        None => from_flags(args)?,
    };
    let plan = cgroup::update(place, &resources, &CgroupHost::from(&host))?;
    if let Some(scope) = &plan.place.scope {
        change_scope(scope)?;
    }
    let mut cgroups = Cgroups::open(&host, place)?;
    let changed = cgroups.update(&host, &plan);
    // Folders that had to be made for it are to go with the container, however it went.
    if cgroups.place() != place {
        record.cgroup = Some(cgroups.place().clone());
        folder.save(&record)?;
    }
    changed?;
    let lines: Vec<String> = [&args.l3_cache_schema, &args.mem_bw_schema]
        .into_iter()
        .flatten()
        .cloned()
        .collect();
    if !lines.is_empty() {
        let group = record.rdt.clone().unwrap_or_else(|| record.id.clone());
        let pid = record.process.map_or(0, |p| p.pid);
        rdt::enter(&group, &lines, pid)?;
    }
    Ok(0)
}

fn read(path: &std::path::Path) -> Result<LinuxResources> {
    let wrong = |why: String| OciError::File {
        path: path.display().to_string(),
        why,
    };
    let text = if path.as_os_str() == "-" {
        let mut text = Vec::new();
        std::io::stdin().take(LARGEST).read_to_end(&mut text)?;
        text
    } else {
        let text = read_small(path, LARGEST)?;
        text.ok_or_else(|| wrong("no such file or directory".into()))?
    };
    let mut read = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
    super::dialect::without_empty_pids(&mut read);
    Ok(read)
}

fn from_flags(args: &Update) -> Result<LinuxResources> {
    let bytes = |flag: &'static str, text: &Option<String>| -> Result<Option<i64>> {
        let Some(text) = text else { return Ok(None) };
        number(text).map(Some).ok_or_else(|| OciError::Usage {
            what: format!("{flag} {text}"),
            why: "write bytes, with k, m or g if you like, or -1 for no limit".into(),
        })
    };
    let mut resources = LinuxResources::default();
    let mut memory = LinuxMemory::default();
    memory.set_limit(bytes("--memory", &args.memory)?);
    memory.set_reservation(bytes("--memory-reservation", &args.memory_reservation)?);
    memory.set_swap(bytes("--memory-swap", &args.memory_swap)?);
    bytes("--kernel-memory", &args.kernel_memory)?;
    bytes("--kernel-memory-tcp", &args.kernel_memory_tcp)?;
    if memory != LinuxMemory::default() {
        resources.set_memory(Some(memory));
    }
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(args.cpu_share);
    cpu.set_quota(args.cpu_quota);
    cpu.set_period(args.cpu_period);
    cpu.set_burst(args.cpu_burst);
    cpu.set_idle(args.cpu_idle);
    cpu.set_realtime_period(args.cpu_rt_period);
    cpu.set_realtime_runtime(args.cpu_rt_runtime);
    cpu.set_cpus(args.cpuset_cpus.clone());
    cpu.set_mems(args.cpuset_mems.clone());
    if cpu != LinuxCpu::default() {
        resources.set_cpu(Some(cpu));
    }
    let built = |error: oci_spec::OciSpecError| OciError::Usage {
        what: "update".into(),
        why: error.to_string(),
    };
    if let Some(limit) = args.pids_limit {
        let pids = LinuxPidsBuilder::default().limit(limit).build();
        resources.set_pids(Some(pids.map_err(built)?));
    }
    if let Some(weight) = args.blkio_weight {
        let io = LinuxBlockIoBuilder::default().weight(weight).build();
        resources.set_block_io(Some(io.map_err(built)?));
    }
    Ok(resources)
}

fn number(text: &str) -> Option<i64> {
    let lower = text.trim().to_ascii_lowercase();
    let end = lower
        .find(|c: char| !(c.is_ascii_digit() || c == '-'))
        .unwrap_or(lower.len());
    let scale = match lower[end..].trim_end_matches("ib").trim_end_matches('b') {
        "" => 1,
        "k" => 1 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        "t" => 1_i64 << 40,
        _ => return None,
    };
    let number: i64 = lower[..end].parse().ok()?;
    number.checked_mul(scale).filter(|n| *n >= -1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_written_as_people_write_them() {
        let cases = [
            ("-1", -1),
            ("0", 0),
            ("64m", 64 << 20),
            ("1G", 1 << 30),
            ("10KiB", 10 << 10),
        ];
        for (text, expected) in cases {
            assert_eq!(number(text), Some(expected), "{text}");
        }
        for text in [
            "",
            "m",
            "-2",
            "1x",
            "9999999999999999999",
            "99999999t",
            "1-1",
        ] {
            assert_eq!(number(text), None, "{text}");
        }
    }
}
