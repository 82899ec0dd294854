//! Control groups: one [`Group`] for each limited set of processes, the same on version 1 beside
//! version 2 (hybrid) and on version 2 alone. Who asks for which limit and why belongs to the
//! layers above; here are plain numbers and names that were checked by the caller.
//!
//! | file | what |
//! |---|---|
//! | `host` | which hierarchies are mounted where |
//! | `parent`, `service` | the folder that holds our groups; under systemd a delegated service |
//! | `slice` | the lock of what is above the services of all installations |
//! | `limits`, `v1`, `v2` | limits in our words, and the two drivers that put them in the kernel's |
//! | `folder` | a folder between the parent and groups that share limits |
//! | `guarantee` | memory that is kept for groups, in what is above them |
//! | `knob` | one value of one control file: write, read, put back (cgroups-rs works here) |
//! | `group` | make, open, enter, undo |
//! | `seat` | which CPUs a running group is on; those that version 1 keeps together for that |
//! | `update` | change the limits of a running group, all or nothing |
//! | `partition` | CPUs that a group has against the whole host (version 2) |
//! | `quota`, `cpu_weight` | change the CPU limit alone; the weight alone |
//! | `devices` | who may open device nodes: version 1 rules or an eBPF program |
//! | `quiet` | freeze, thaw, kill, wait |
//! | `remove`, `walk` | take a group away with everything inside it |
//! | `stats`, `counters`, `glance`, `oom` | what is used, what of it is limited, both at a moment, and a descriptor that tells of out-of-memory kills |
//! | `inside` | what is used in the words of /proc, for whoever lives inside |
//!
//! Containers of the OCI runtime have groups of another kind: at a path that their client chose,
//! without a parent or a delegated child of ours.
//!
//! | file | what |
//! |---|---|
//! | `container`, `container_make` | [`Cgroups`]: make, open, enter |
//! | `container_write` | values into control files, when made and when changed |
//! | `container_devices` | device rules, as lines or as a program |
//! | `container_signal` | freeze, thaw, list, signal |
//! | `container_stats`, `stat_files` | counters as `runc events` has them |
//! | `scope` | a systemd scope around them |
//! | `container_remove` | take the groups away |
//!
//! A group `PARENT/NAME` carries the limits. In version 2 it has a child `guest`, which may be
//! given to another uid and is what a cgroup namespace is rooted in, so that the limits stay out
//! of reach of whoever lives inside.

mod container;
mod container_devices;
mod container_make;
mod container_remove;
mod container_signal;
mod container_stats;
mod container_write;
mod counters;
mod cpu_weight;
mod devices;
mod dir;
mod error;
mod folder;
mod frozen;
mod glance;
mod group;
mod guarantee;
mod host;
mod inside;
mod inside_cpus;
mod io_share;
mod knob;
mod limits;
mod oom;
mod parent;
mod partition;
mod pids_watch;
mod quiet;
mod quota;
mod remove;
mod scope;
mod seat;
mod service;
mod slice;
mod stat_files;
mod stats;
mod update;
mod usual;
mod v1;
mod v2;
mod walk;

pub use container::{CgroupBind, Cgroups};
pub use container_stats::ContainerStats;
pub use counters::{Counter, Counters, Throttling};
pub use error::CgroupError;
pub use frozen::Frozen;
pub use glance::Glance;
pub use group::Group;
pub use guarantee::guarantees_reach_inside;
pub use host::{Host, mount_v2};
pub use inside::{CpuUse, DiskUse, MemoryLimits, MemoryUse, Tasks};
pub use limits::{DeviceAccess, DeviceKind, DeviceRule, IoLimit, Limits};
pub use oom::{CountsKills, OomWatch};
pub use parent::{Parent, list, remove_parent_if_empty};
pub use pids_watch::PidsWatch;
pub use scope::{change_scope, start_scope, stop_scope};
pub use slice::SliceLock;
pub use stats::{Pressure, host_pressure};
pub use update::Applied;

/// What this module's operations return.
pub type Result<T> = std::result::Result<T, CgroupError>;

/// A kind of limit, under the name this module gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Controller {
    Cpu,
    Cpuset,
    Memory,
    Pids,
    Io,
    Devices,
    /// Not a controller: the files every version 2 group has.
    Core,
}

/// Which version of the interface a controller is reached through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

impl Controller {
    const ALL: [Self; 6] = [
        Self::Cpu,
        Self::Cpuset,
        Self::Memory,
        Self::Pids,
        Self::Io,
        Self::Devices,
    ];

    /// Those that version 2 has by name.
    const V2_NAMED: [Self; 5] = [Self::Cpu, Self::Cpuset, Self::Memory, Self::Pids, Self::Io];

    /// Name in /proc/self/mountinfo's options for version 1.
    const fn v1_name(self) -> Option<&'static str> {
        match self {
            Self::Cpu => Some("cpu"),
            Self::Cpuset => Some("cpuset"),
            Self::Memory => Some("memory"),
            Self::Pids => Some("pids"),
            Self::Io => Some("blkio"),
            Self::Devices => Some("devices"),
            Self::Core => None,
        }
    }

    /// Name in `cgroup.controllers` of version 2.
    const fn v2_name(self) -> Option<&'static str> {
        match self {
            Self::Cpu => Some("cpu"),
            Self::Cpuset => Some("cpuset"),
            Self::Memory => Some("memory"),
            Self::Pids => Some("pids"),
            Self::Io => Some("io"),
            Self::Devices | Self::Core => None,
        }
    }
}
