//! One value of one control file. The setters of cgroups-rs write what they write right, on the
//! folders that our groups chose; the rest is text, written whole. Which values a limit needs is
//! said by `v1` and `v2`; the order and the way back by `group` and `update`.

use std::error::Error as _;
use std::path::PathBuf;

use cgroups_rs::fs::MaxValue;
use cgroups_rs::fs::cpu::CpuController;
use cgroups_rs::fs::cpuset::CpuSetController;
use cgroups_rs::fs::memory::MemController;
use cgroups_rs::fs::pid::PidController;
use rustix::io::Errno;

use super::dir::Dir;
use super::{CgroupError, Controller, Result, Version};
use crate::model::{CgroupMode, CpuSet};

/// A value and where it goes.
#[derive(Clone, Debug)]
pub(super) struct Knob {
    pub(super) controller: Controller,
    pub(super) file: &'static str,
    set: Set,
}

/// What is set. All but `Text` go through cgroups-rs.
#[derive(Clone, Debug)]
pub(super) enum Set {
    CpuWeight(u64),
    CpuQuota(i64),
    CpuPeriod(u64),
    CpusetCpus(String),
    CpusetMems(String),
    Memory(i64),
    MemorySwap(i64),
    Pids(MaxValue),
    Text(String),
}

impl Knob {
    pub(super) fn new(controller: Controller, file: &'static str, set: Set) -> Self {
        Self {
            controller,
            file,
            set,
        }
    }

    /// The value as people read it; for version 2, where -1 is written `max`, as the kernel does.
    pub(super) fn text(&self) -> String {
        let v2_memory = matches!(self.file, "memory.max" | "memory.swap.max");
        match &self.set {
            Set::CpuWeight(n) | Set::CpuPeriod(n) => n.to_string(),
            Set::Memory(-1) | Set::MemorySwap(-1) if v2_memory => "max".to_owned(),
            Set::CpuQuota(n) | Set::Memory(n) | Set::MemorySwap(n) => n.to_string(),
            Set::CpusetCpus(text) | Set::CpusetMems(text) | Set::Text(text) => text.clone(),
            Set::Pids(most) => most.to_string(),
        }
    }

    /// Finds the file for a weight of block I/O, which goes by several names and is missing where
    /// nothing shares by weight.
    pub(super) fn settle(&mut self, dir: &Dir, mode: CgroupMode) -> Result<()> {
        if !matches!(self.file, "io.weight" | "blkio.bfq.weight") || dir.has(self.file) {
            return Ok(());
        }
        if self.file == "io.weight" && dir.has("io.bfq.weight") {
            self.file = "io.bfq.weight";
            let plain = self.text().replace("default ", "");
            self.set = Set::Text(plain);
            return Ok(());
        }
        Err(CgroupError::Unsupported {
            what: "a weight of block I/O",
            mode,
            why: "nothing here shares by weight; use the bfq scheduler or a kernel with iocost",
        })
    }

    /// Writes the value into the group `dir`.
    pub(super) fn write(&self, dir: &Dir, version: Version) -> Result<()> {
        let at = || dir.path().to_path_buf();
        let v2 = version == Version::V2;
        let cpu = || CpuController::new(at(), PathBuf::new(), v2);
        let cpuset = || CpuSetController::new(at(), PathBuf::new(), v2);
        let memory = || MemController::new(at(), PathBuf::new(), v2);
        let done = match &self.set {
            Set::CpuWeight(n) => cpu().set_shares(*n),
            Set::CpuQuota(us) => cpu().set_cfs_quota(*us),
            Set::CpuPeriod(us) => cpu().set_cfs_period(*us),
            Set::CpusetCpus(list) => cpuset().set_cpus(list),
            Set::CpusetMems(list) => cpuset().set_mems(list),
            Set::Memory(bytes) => memory().set_limit(*bytes),
            Set::MemorySwap(bytes) => memory().set_memswap_limit(*bytes),
            Set::Pids(most) => PidController::new(at(), PathBuf::new(), v2).set_pid_max(*most),
            Set::Text(text) => return dir.write(self.file, text),
        };
        done.map_err(|e| self.refused(dir, &e))
    }

    /// Looks whether the value has effect where version 2 takes it without: a choice of CPUs that
    /// are absent or offline is kept for later, and the parent's CPUs are used. Version 1 refuses.
    pub(super) fn verify(&self, dir: &Dir, version: Version) -> Result<()> {
        let (Set::CpusetCpus(list), Version::V2) = (&self.set, version) else {
            return Ok(());
        };
        let effective = dir.read("cpuset.cpus.effective")?;
        let set = |text: &str| text.trim().parse::<CpuSet>().ok();
        match set(list) {
            Some(wanted) if set(&effective) != Some(wanted.clone()) => {
                let path = dir.path().join(self.file);
                Err(CgroupError::with_value("write", &path, list, Errno::NOSPC))
            }
            _ => Ok(()),
        }
    }

    /// The error of a setter of cgroups-rs in our words. The crate opens files as if to create
    /// them, so a missing one answers "permission denied".
    fn refused(&self, dir: &Dir, error: &cgroups_rs::fs::error::Error) -> CgroupError {
        let errno = error
            .source()
            .and_then(|cause| cause.downcast_ref::<std::io::Error>())
            .and_then(Errno::from_io_error)
            .unwrap_or(Errno::IO);
        let errno = if matches!(errno, Errno::ACCESS | Errno::PERM) && !dir.has(self.file) {
            Errno::NOENT
        } else {
            errno
        };
        CgroupError::with_value("write", &dir.path().join(self.file), &self.text(), errno)
    }
}
