//! What this host can and cannot do. What commands that died have left is in `leftover`.

use serde::Serialize;

use super::manager::Manager;
use crate::kernel::cgroup::guarantees_reach_inside;
use crate::model::{CgroupMode, CoreScheduling};

/// How good a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Grade {
    /// As it should be.
    Good,
    /// Works, with less.
    Partial,
    /// Missing.
    Bad,
}

/// One thing about this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How good it is.
    pub grade: Grade,
    /// What was looked at.
    pub subject: String,
    /// What was found, and what it means.
    pub text: String,
}

impl Manager {
    /// What this host can do.
    #[must_use]
    pub fn findings(&self) -> Vec<Finding> {
        let mut all = Vec::new();
        let mut say = |grade, subject: &str, text: String| {
            all.push(Finding {
                grade,
                subject: subject.to_owned(),
                text,
            });
        };
        let facts = &self.facts;
        say(Grade::Good, "kernel", facts.kernel.clone());
        match facts.cgroup_mode {
            CgroupMode::V2 => say(
                Grade::Good,
                "cgroups",
                format!("version 2 with {}", facts.cgroup_v2_controllers.join(", ")),
            ),
            mode => {
                let have: Vec<&str> = facts.cgroup_v1.keys().map(String::as_str).collect();
                let name = if mode == CgroupMode::V1 {
                    "version 1"
                } else {
                    "hybrid"
                };
                let lacks = "memory.high, low, min and oom_group need version 2";
                say(
                    Grade::Partial,
                    "cgroups",
                    format!("{name} with {}; {lacks}", have.join(", ")),
                );
                for need in ["cpu", "memory", "pids"] {
                    if !facts.cgroup_v1.contains_key(need) {
                        say(
                            Grade::Bad,
                            need,
                            "no such controller: its limits cannot be set".into(),
                        );
                    }
                }
            }
        }
        if facts.cgroup_mode == CgroupMode::V2 {
            let (grade, text) = match guarantees_reach_inside() {
                Ok(true) => (Grade::Good, "hold for all processes of a guest"),
                _ => (
                    Grade::Partial,
                    "do not hold for control groups made inside guests, which systemd makes: mount \
                     cgroup2 with memory_recursiveprot",
                ),
            };
            say(grade, "memory guarantees", text.into());
        }
        let (grade, text) = if facts.swap_accounting {
            (Grade::Good, "limited by its own number")
        } else {
            (
                Grade::Partial,
                "not accounted: boot with swapaccount=1 to limit it",
            )
        };
        say(grade, "swap", text.into());
        let (grade, text) = if facts.time_namespace {
            (Grade::Good, "guests' clocks begin at their boot")
        } else {
            (
                Grade::Partial,
                "no time namespaces: guests see the host's uptime",
            )
        };
        say(grade, "clocks", text.into());
        let (grade, text) = if facts.read_watch {
            (Grade::Good, "guests see their own memory, CPUs and load")
        } else {
            (
                Grade::Partial,
                "no permission events (fanotify): guests see the host's numbers in /proc",
            )
        };
        say(grade, "view from inside", text.into());
        let (grade, text) = match facts.core_scheduling {
            CoreScheduling::Possible => (Grade::Good, "cpu.core_scheduling can be had"),
            CoreScheduling::NoThreads => (Grade::Good, "no core has two threads to be shared"),
            CoreScheduling::Missing => (
                Grade::Partial,
                "none in this kernel (CONFIG_SCHED_CORE): cpu.core_scheduling is refused",
            ),
        };
        say(grade, "core scheduling", text.into());
        if !facts.can_raise_rlimits {
            let text = format!(
                "no CAP_SYS_RESOURCE: guests get at most {} open files",
                facts.nofile_hard
            );
            say(Grade::Partial, "resource limits", text);
        }
        let systemd = if facts.systemd {
            "process 1: guests live in a delegated service"
        } else {
            "not process 1: cgroups are made directly"
        };
        say(Grade::Good, "systemd", systemd.into());
        for (tool, need) in [
            (
                "nft",
                "nftables: rules for guests on the bridge, without which none starts there",
            ),
            ("mmdebstrap", "mmdebstrap: the debian template"),
            ("busybox", "busybox-static: the busybox template"),
        ] {
            match find_tool(tool) {
                Some(path) => say(Grade::Good, tool, path),
                None => say(
                    Grade::Partial,
                    tool,
                    format!("missing: apt-get install {need}"),
                ),
            }
        }
        for (file, safe, text) in KNOBS {
            if let Ok(value) = std::fs::read_to_string(file) {
                let value = value.trim();
                let grade = if safe(value) {
                    Grade::Good
                } else {
                    Grade::Partial
                };
                let text = if grade == Grade::Good {
                    value.to_owned()
                } else {
                    format!("{value}: {text}")
                };
                say(grade, file, text);
            }
        }
        all.extend(self.disk_findings());
        all.extend(self.account_findings());
        all.extend(self.pool_findings());
        all
    }
}

fn find_tool(name: &str) -> Option<String> {
    ["/usr/sbin", "/usr/bin", "/sbin", "/bin"]
        .iter()
        .map(|dir| format!("{dir}/{name}"))
        .find(|path| std::path::Path::new(path).exists())
}

type Knob = (&'static str, fn(&str) -> bool, &'static str);

/// Kernel settings that guests are safer with.
const KNOBS: [Knob; 6] = [
    (
        "/proc/sys/kernel/core_pattern",
        |v| !v.starts_with('|'),
        "core dumps of guests run a program on the host",
    ),
    (
        "/proc/sys/kernel/unprivileged_bpf_disabled",
        |v| v != "0",
        "set it to 1 or 2",
    ),
    (
        "/proc/sys/kernel/dmesg_restrict",
        |v| v == "1",
        "guests without the default filter could read the kernel log",
    ),
    (
        "/proc/sys/kernel/kptr_restrict",
        |v| v != "0",
        "guests could learn addresses of the kernel: set it to 1",
    ),
    (
        "/proc/sys/fs/protected_symlinks",
        |v| v == "1",
        "set it to 1",
    ),
    (
        "/proc/sys/fs/protected_hardlinks",
        |v| v == "1",
        "set it to 1",
    ),
];
