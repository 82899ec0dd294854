//! What this host can and cannot do, and what commands that died have left: named, and removed.

use serde::Serialize;

use super::error::{GuestError, Result};
use super::manager::Manager;
use crate::kernel::cgroup::{self, Group};
use crate::model::{CgroupMode, GuestName, Status};
use crate::storage;

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

/// Something that is left of a command that died.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Leftover {
    /// `cgroup`, `interface`, `run state`, `half-made guest`, `file`, `address`.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// Whether it was removed.
    pub removed: bool,
    /// Why not.
    pub why: Option<String>,
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
            ("nft", "nftables: NAT for guests"),
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
        all
    }

    /// What is left of commands that died; with `fix`, removes it.
    ///
    /// # Errors
    /// The folders of this installation cannot be read.
    pub fn leftovers(&self, fix: bool) -> Result<Vec<Leftover>> {
        let names = self.names()?;
        let mut found = Vec::new();
        for name in &names {
            found.extend(self.leftover_of(name, fix)?);
        }
        self.stray_groups(&names, fix, &mut found)?;
        self.stray_run_folders(&names, fix, &mut found)?;
        let network =
            |error: &dyn std::error::Error| GuestError::Network(super::view::chain(error).into());
        for stray in self.network.leftovers(&names).map_err(|e| network(&e))? {
            let done = fix.then(|| {
                self.network
                    .remove_leftover(&stray)
                    .map_err(|e| e.to_string())
            });
            found.push(leftover("interface", stray.interface.clone(), done));
        }
        for guest in self.network.orphans(&names).map_err(|e| network(&e))? {
            let done = fix.then(|| {
                self.network
                    .release(&guest)
                    .map(drop)
                    .map_err(|e| e.to_string())
            });
            found.push(leftover("address", guest.to_string(), done));
        }
        for stray in storage::leftovers(&self.layout).map_err(|e| GuestError::Image(e.into()))? {
            let done = fix.then(|| storage::remove_leftover(&stray).map_err(|e| e.to_string()));
            found.push(leftover("file", stray.path.display().to_string(), done));
        }
        Ok(found)
    }

    /// A guest that is half-made, or whose run was cut short. One that a command is at work on is
    /// left alone.
    fn leftover_of(&self, name: &GuestName, fix: bool) -> Result<Option<Leftover>> {
        let Ok(_lock) = self.lock_within(name, "doctor", std::time::Duration::from_millis(200))
        else {
            return Ok(None);
        };
        let Ok(status) = self.status(name) else {
            return Ok(None);
        };
        match status {
            Status::Creating => {
                let done = fix.then(|| {
                    self.put_away(name, None)
                        .and_then(|()| self.discard(name))
                        .map_err(|e| super::view::chain(&e))
                });
                Ok(Some(leftover("half-made guest", name.to_string(), done)))
            }
            Status::Stopped
                if self.layout.guest_run(name).exists() || self.group(name)?.is_some() =>
            {
                let done = fix.then(|| self.clean_up(name).map_err(|e| super::view::chain(&e)));
                Ok(Some(leftover("run state", name.to_string(), done)))
            }
            _ => Ok(None),
        }
    }

    fn stray_groups(
        &self,
        names: &[GuestName],
        fix: bool,
        found: &mut Vec<Leftover>,
    ) -> Result<()> {
        let Some(parent) = self.existing_cgroups()? else {
            return Ok(());
        };
        for name in cgroup::list(&parent)? {
            if names.iter().any(|n| n.as_str() == name) {
                continue;
            }
            let done = fix.then(|| {
                Group::open(&parent, &name)
                    .and_then(|g| g.remove())
                    .map_err(|e| e.to_string())
            });
            found.push(leftover("cgroup", name, done));
        }
        Ok(())
    }

    fn stray_run_folders(
        &self,
        names: &[GuestName],
        fix: bool,
        found: &mut Vec<Leftover>,
    ) -> Result<()> {
        let folder = self.layout.run().join("guests");
        let Ok(entries) = std::fs::read_dir(&folder) else {
            return Ok(());
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            if names.iter().any(|n| name == n.as_str()) {
                continue;
            }
            let done =
                fix.then(|| std::fs::remove_dir_all(entry.path()).map_err(|e| e.to_string()));
            found.push(leftover(
                "run state",
                entry.path().display().to_string(),
                done,
            ));
        }
        Ok(())
    }

    /// Takes away what all guests share, when there is no guest: the bridge, the firewall table and
    /// the cgroup. They come again with the next start.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn remove_shared(&self) -> Result<()> {
        self.network
            .remove_host_if_unused()
            .map_err(|error| GuestError::Network(error.into()))?;
        cgroup::remove_parent_if_empty(
            &self.cgroup_host()?,
            &self.layout.kernel_name(),
            &self.cgroup_lock(),
        )?;
        Ok(())
    }
}

fn leftover(
    kind: &'static str,
    name: String,
    done: Option<std::result::Result<(), String>>,
) -> Leftover {
    let removed = matches!(done, Some(Ok(())));
    Leftover {
        kind,
        name,
        removed,
        why: done.and_then(std::result::Result::err),
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
const KNOBS: [Knob; 5] = [
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
