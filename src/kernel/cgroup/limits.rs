//! What a group may use, in words that do not depend on the version of the interface. The two
//! translations are `v1` and `v2`; devices are no numbers and have a file of their own.

use super::knob::Knob;
use super::{CgroupError, Controller, Result, Version, v1, v2};
use crate::model::CgroupMode;

/// Limits of one group. `None` and the empty list mean: as the kernel has it by default, which
/// is nearly always no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// CPU time in each period, microseconds (at least 1000).
    pub cpu_quota_us: Option<u64>,
    /// Length of the period, microseconds; `None` is 100,000.
    pub cpu_period_us: Option<u64>,
    /// Unused CPU time that may be saved up, microseconds; no more than the quota.
    pub cpu_burst_us: Option<u64>,
    /// Share of the CPU under contention, 1 to 10,000; 100 is usual.
    pub cpu_weight: Option<u64>,
    /// CPUs it may run on, as the kernel writes them: `0-2,5`.
    pub cpuset: Option<String>,
    /// Memory nodes that it takes memory from; `None` for all. Only with a choice of CPUs.
    pub mems: Option<String>,
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Bytes above which it is throttled and reclaimed (version 2).
    pub memory_high: Option<u64>,
    /// Bytes kept while others can give (version 2); 0 is none.
    pub memory_low: Option<u64>,
    /// Bytes kept whatever happens (version 2); 0 is none.
    pub memory_min: Option<u64>,
    /// Bytes of swap beyond memory.
    pub swap: Option<u64>,
    /// Whether running out of memory kills all processes at once (version 2).
    pub oom_group: bool,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// Share of block I/O under contention, 1 to 10,000; 100 is usual.
    pub io_weight: Option<u64>,
    /// Limits on single block devices.
    pub io: Vec<IoLimit>,
    /// Device nodes that may be opened or made: all others may not. `None` leaves all open.
    /// Changed in a running group by `Group::set_devices`, not by `Group::update`.
    pub devices: Option<Vec<DeviceRule>>,
    /// How many control groups may be made inside.
    pub cgroup_descendants: Option<u64>,
}

/// Limits on one block device; `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoLimit {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Bytes read a second.
    pub rbps: Option<u64>,
    /// Bytes written a second.
    pub wbps: Option<u64>,
    /// Reads a second.
    pub riops: Option<u64>,
    /// Writes a second.
    pub wiops: Option<u64>,
}

/// Device nodes that may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceRule {
    /// Which kind of node.
    pub kind: DeviceKind,
    /// Major number; `None` for any.
    pub major: Option<u32>,
    /// Minor number; `None` for any.
    pub minor: Option<u32>,
    /// What may be done.
    pub access: DeviceAccess,
}

/// Kind of a device node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// Character device.
    Char,
    /// Block device.
    Block,
}

/// What may be done with a device node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceAccess {
    /// Opened for reading.
    pub read: bool,
    /// Opened for writing.
    pub write: bool,
    /// Made with mknod(2).
    pub mknod: bool,
}

impl DeviceAccess {
    /// From letters of `rwm`.
    ///
    /// # Errors
    /// When there is none of them, or another letter.
    pub fn parse(letters: &str) -> Result<Self> {
        let known = letters.bytes().all(|b| b"rwm".contains(&b));
        if letters.is_empty() || !known {
            return Err(CgroupError::Value {
                what: "the access to a device",
                value: letters.to_owned(),
                rule: "write one or more of the letters r, w and m",
            });
        }
        Ok(Self {
            read: letters.contains('r'),
            write: letters.contains('w'),
            mknod: letters.contains('m'),
        })
    }

    pub(super) fn letters(self) -> String {
        let all = [(self.read, 'r'), (self.write, 'w'), (self.mknod, 'm')];
        all.iter().filter(|(on, _)| *on).map(|(_, c)| c).collect()
    }
}

/// What the translation must know about a host.
#[derive(Clone, Copy, Debug)]
pub(super) struct Site<'a> {
    pub(super) mode: CgroupMode,
    pub(super) swap: bool,
    /// Controllers that version 1 has, and those that version 2 has.
    pub(super) v1: &'a [Controller],
    pub(super) v2: &'a [Controller],
    /// Memory nodes for a version 1 cpuset, which must be given with the CPUs.
    pub(super) mems: &'a str,
}

impl Site<'_> {
    /// Where a controller is to be had.
    pub(super) fn version(&self, controller: Controller) -> Option<Version> {
        if controller == Controller::Core || self.v2.contains(&controller) {
            Some(Version::V2)
        } else if self.v1.contains(&controller) {
            Some(Version::V1)
        } else {
            None
        }
    }

    pub(super) fn unsupported(&self, what: &'static str, why: &'static str) -> CgroupError {
        CgroupError::Unsupported {
            what,
            mode: self.mode,
            why,
        }
    }
}

/// Which values are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    /// Those that differ from what a new group has.
    Fresh,
    /// All, defaults as well: the group may have had another limit.
    Full,
}

const NO_CONTROLLER: &str = "its controller is not there; the kernel lacks it, was booted without \
                             it, or it is not delegated to this group";

impl Limits {
    /// What has to be written for these limits, in an order that the kernel takes for a new group.
    pub(super) fn knobs(&self, site: &Site<'_>, extent: Extent) -> Result<Vec<Knob>> {
        self.check()?;
        let mut out = Vec::with_capacity(16);
        for (controller, wanted) in self.wanted() {
            match site.version(controller) {
                Some(Version::V1) => v1::knobs(self, controller, site, extent, &mut out)?,
                Some(Version::V2) => v2::knobs(self, controller, site, extent, &mut out)?,
                None => {
                    if let Some(what) = wanted {
                        return Err(site.unsupported(what, NO_CONTROLLER));
                    }
                }
            }
        }
        Ok(out)
    }

    /// Each controller, with what is wanted of it, if anything is.
    fn wanted(&self) -> [(Controller, Option<&'static str>); 6] {
        let cpu = self.cpu_quota_us.is_some()
            || self.cpu_weight.is_some()
            || self.cpu_burst_us.unwrap_or(0) > 0;
        let memory = self.memory.is_some()
            || self.swap.is_some()
            || self.memory_high.is_some()
            || self.memory_low.unwrap_or(0) > 0
            || self.memory_min.unwrap_or(0) > 0
            || self.oom_group;
        let io = self.io_weight.is_some() || !self.io.is_empty();
        [
            (Controller::Cpu, cpu.then_some("a CPU limit")),
            (
                Controller::Cpuset,
                self.cpuset.as_ref().map(|_| "a choice of CPUs"),
            ),
            (Controller::Memory, memory.then_some("a memory limit")),
            (
                Controller::Pids,
                self.pids.map(|_| "a limit on the number of processes"),
            ),
            (Controller::Io, io.then_some("a block I/O limit")),
            (Controller::Core, None),
        ]
    }

    fn check(&self) -> Result<()> {
        let weight = |what, weight: Option<u64>| match weight {
            Some(n) if !(1..=10_000).contains(&n) => Err(CgroupError::Value {
                what,
                value: n.to_string(),
                rule: "give a number from 1 to 10000",
            }),
            _ => Ok(()),
        };
        weight("the CPU weight", self.cpu_weight)?;
        weight("the I/O weight", self.io_weight)?;
        if let (Some(burst @ 1..), quota) = (self.cpu_burst_us, self.cpu_quota_us)
            && quota.is_none_or(|quota| burst > quota)
        {
            return Err(CgroupError::Value {
                what: "the CPU burst in microseconds",
                value: burst.to_string(),
                rule: "give a CPU limit with it, and no more than that",
            });
        }
        Ok(())
    }
}

/// A number for cgroups-rs, which takes signed ones and -1 for no limit.
pub(super) fn signed(what: &'static str, n: u64) -> Result<i64> {
    i64::try_from(n).map_err(|_| CgroupError::Value {
        what,
        value: n.to_string(),
        rule: "give less than 2^63",
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn v1_site() -> Site<'static> {
        Site {
            mode: CgroupMode::Hybrid,
            swap: true,
            v1: &Controller::ALL,
            v2: &[],
            mems: "0",
        }
    }

    pub(crate) fn v2_site() -> Site<'static> {
        Site {
            mode: CgroupMode::V2,
            swap: true,
            v1: &[],
            v2: &Controller::V2_NAMED,
            mems: "",
        }
    }

    pub(crate) fn written(
        limits: &Limits,
        site: &Site<'_>,
        extent: Extent,
    ) -> Vec<(String, String)> {
        limits
            .knobs(site, extent)
            .unwrap()
            .iter()
            .map(|k| (k.file.to_owned(), k.text()))
            .collect()
    }

    #[test]
    fn no_limits_write_nothing_into_a_new_group() {
        for site in [v1_site(), v2_site()] {
            assert!(written(&Limits::default(), &site, Extent::Fresh).is_empty());
        }
    }

    #[test]
    fn a_limit_without_its_controller_is_an_error() {
        let site = Site {
            v1: &[Controller::Cpu],
            ..v1_site()
        };
        let limits = Limits {
            pids: Some(5),
            ..Limits::default()
        };
        let text = limits.knobs(&site, Extent::Fresh).unwrap_err().to_string();
        assert!(text.contains("number of processes"), "{text}");
    }

    #[test]
    fn impossible_numbers_are_refused_before_the_kernel_sees_them() {
        let burst = Limits {
            cpu_burst_us: Some(20_000),
            cpu_quota_us: Some(10_000),
            ..Limits::default()
        };
        let weight = Limits {
            cpu_weight: Some(0),
            ..Limits::default()
        };
        for bad in [burst, weight] {
            assert!(bad.knobs(&v2_site(), Extent::Fresh).is_err());
        }
        assert!(DeviceAccess::parse("rwx").is_err());
        assert_eq!(DeviceAccess::parse("mr").unwrap().letters(), "rm");
    }
}
