//! Files below /proc and /sys that tell a guest about its machine, and of which it gets its own: the
//! kernel's tell about the host. The launch lays them over the kernel's, the guest's keeper writes
//! what is in them.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Whose numbers a guest sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum View {
    /// Its own, in these files and by calls.
    Guest,
    /// Its own in these files; calls are the kernel's.
    Files,
    /// The host's: the kernel's files as they are.
    Host,
}

/// One of the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum InsideFile {
    /// Memory and swap.
    Meminfo,
    /// CPU time.
    Stat,
    /// CPUs by kind.
    Cpuinfo,
    /// Load average.
    Loadavg,
    /// Swap areas.
    Swaps,
    /// Block devices.
    Diskstats,
    /// Counters of memory management.
    Vmstat,
    /// Which CPUs there are.
    CpuOnline,
    /// The same; which of them could ever be there stays the kernel's: programs count their tables
    /// by it and look into them by the number of the CPU they run on, which is the host's.
    CpuPresent,
    /// Memory once more, as that of the first node: the kernel does not tell on which a group's lies.
    NodeMeminfo,
}

/// Files and folders beside these that would tell of the machine, and that nothing of a guest's own could
/// be in: counters of the kernel's, its memory by blocks, its nodes.
pub const UNTOLD: [&str; 8] = [
    "/proc/buddyinfo",
    "/proc/partitions",
    "/proc/schedstat",
    "/proc/softirqs",
    "/proc/zoneinfo",
    "/sys/devices/system/memory",
    "/sys/devices/system/node/node0/numastat",
    "/sys/devices/system/node/node0/vmstat",
];

/// Where the host's disks are by their names, for guests that have been given none.
pub const DISKS: [&str; 3] = ["/sys/block", "/sys/class/block", "/sys/dev/block"];

impl InsideFile {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Meminfo,
        Self::Stat,
        Self::Cpuinfo,
        Self::Loadavg,
        Self::Swaps,
        Self::Diskstats,
        Self::Vmstat,
        Self::CpuOnline,
        Self::CpuPresent,
        Self::NodeMeminfo,
    ];

    /// Its name in the host's folder of them.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::CpuOnline => "cpu-online",
            Self::CpuPresent => "cpu-present",
            Self::NodeMeminfo => "node-meminfo",
            _ => self.target().rsplit('/').next().unwrap_or_default(),
        }
    }

    /// Where the guest sees it.
    #[must_use]
    pub fn target(self) -> &'static str {
        match self {
            Self::Meminfo => "/proc/meminfo",
            Self::Stat => "/proc/stat",
            Self::Cpuinfo => "/proc/cpuinfo",
            Self::Loadavg => "/proc/loadavg",
            Self::Swaps => "/proc/swaps",
            Self::Diskstats => "/proc/diskstats",
            Self::Vmstat => "/proc/vmstat",
            Self::CpuOnline => "/sys/devices/system/cpu/online",
            Self::CpuPresent => "/sys/devices/system/cpu/present",
            Self::NodeMeminfo => "/sys/devices/system/node/node0/meminfo",
        }
    }
}

/// The file in which a guest reads of limits that it has hit: its name in the folder of the others, and
/// where the guest sees it. The kernel has none of that name, so it is made there.
pub const EVENTS_INSIDE: (&str, &str) = ("events", "/run/bulkhead/events");

/// A file of a folder that is shown at a place inside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// Name in the folder.
    pub name: PathBuf,
    /// Where it is seen.
    pub target: PathBuf,
}

impl Shown {
    /// This file, there.
    #[must_use]
    pub fn new(name: &str, target: &str) -> Self {
        Self {
            name: name.into(),
            target: target.into(),
        }
    }
}

/// Files of a version 2 control group that are what /proc/pressure has for the machine.
pub const PRESSURE: [(&str, &str); 3] = [
    ("cpu.pressure", "/proc/pressure/cpu"),
    ("memory.pressure", "/proc/pressure/memory"),
    ("io.pressure", "/proc/pressure/io"),
];

/// A folder of the host whose files are shown one by one, each at its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShownFolder {
    /// Absolute host path.
    pub folder: PathBuf,
    /// Its files.
    pub files: Vec<Shown>,
}

impl ShownFolder {
    /// All the files, from this folder.
    #[must_use]
    pub fn of(folder: &Path) -> Self {
        let shown = |file: InsideFile| Shown::new(file.name(), file.target());
        Self {
            folder: folder.to_owned(),
            files: InsideFile::ALL
                .map(shown)
                .into_iter()
                .chain([Shown::new(EVENTS_INSIDE.0, EVENTS_INSIDE.1)])
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_a_name_of_its_own() {
        let names: std::collections::BTreeSet<_> = InsideFile::ALL.map(InsideFile::name).into();
        assert_eq!(names.len(), InsideFile::ALL.len());
        assert!(
            names
                .iter()
                .all(|name| !name.is_empty() && !name.contains('/'))
        );
    }
}
