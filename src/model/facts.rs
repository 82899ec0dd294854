//! What this kernel and machine can do: probed once per boot by `kernel::probe`, then only read.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::CpuSet;

/// Which cgroup versions hold the controllers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CgroupMode {
    /// All on version 1; a version 2 tree is mounted by the program for delegation.
    V1,
    /// Controllers on version 1, a version 2 tree beside them.
    Hybrid,
    /// All on version 2.
    V2,
}

/// Whether the kernel can keep the threads of a core to one guest at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CoreScheduling {
    /// It can.
    Possible,
    /// No core has two threads that could be shared.
    NoThreads,
    /// This kernel has nothing of the kind.
    Missing,
}

/// Facts about the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    /// /proc/sys/kernel/random/boot_id.
    pub boot_id: String,
    /// Kernel release, such as `6.18.44`.
    pub kernel: String,
    /// Which cgroup versions hold the controllers.
    pub cgroup_mode: CgroupMode,
    /// Mount points of version 1 hierarchies by controller (`cpu`, `memory`, …; `name=systemd`).
    pub cgroup_v1: BTreeMap<String, PathBuf>,
    /// Mount point of version 2; `None` if there is none.
    pub cgroup_v2: Option<PathBuf>,
    /// Controllers available in version 2.
    pub cgroup_v2_controllers: Vec<String>,
    /// Whether swap is accounted (memory+swap limits exist).
    pub swap_accounting: bool,
    /// CPUs online.
    pub cpus: CpuSet,
    /// Bytes of memory.
    pub memory: u64,
    /// Whether systemd is process 1.
    pub systemd: bool,
    /// Whether CAP_SYS_RESOURCE is held (raising hard rlimits).
    pub can_raise_rlimits: bool,
    /// Whether time namespaces can be made.
    pub time_namespace: bool,
    /// Whether readers of a file can be held until it is up to date.
    pub read_watch: bool,
    /// Whether the threads of a core can be kept to one guest at a time.
    pub core_scheduling: CoreScheduling,
    /// Most capabilities the kernel knows: the number of the last one.
    pub last_capability: u32,
    /// Hard limit of open files the program itself has: no guest can be given more without CAP_SYS_RESOURCE.
    pub nofile_hard: u64,
    /// Same for other limits, by lower-case name; absent is unlimited.
    pub rlimits_hard: BTreeMap<String, u64>,
}

impl HostFacts {
    /// Whether guests can be kept to CPUs here.
    #[must_use]
    pub fn has_cpusets(&self) -> bool {
        let v2 = &self.cgroup_v2_controllers;
        self.cgroup_v1.contains_key("cpuset") || v2.iter().any(|name| name == "cpuset")
    }

    /// Whether guests that do not choose their CPUs are together in one group: where version 1 has a
    /// hierarchy for CPUs in which nothing else is limited.
    #[must_use]
    pub fn shares_cpuset(&self) -> bool {
        let at = self.cgroup_v1.get("cpuset");
        let limited = ["cpu", "memory", "pids", "blkio"];
        at.is_some() && limited.iter().all(|name| self.cgroup_v1.get(*name) != at)
    }
}
