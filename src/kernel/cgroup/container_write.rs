//! Values into the control files of a container: when its groups are made, and when they are
//! changed while it runs, all of them or none. Which values is `plan::cgroup`'s business; device rules
//! are in `container_devices`.

use rustix::io::Errno;

use super::container::{Cgroups, hierarchies};
use super::container_make::enable;
use super::dir::{Dir, keyed, number};
use super::quiet::pids_in;
use super::{CgroupError, Host, Result};
use crate::kernel::fault;
use crate::model::{CgroupPlan, CgroupSetting, CpuSet};

/// A value that a new group has anyway. Writing it makes the kernel look at every group there is
/// (`tg_set_bandwidth`): 0.15 ms beside 1,000 containers.
const ANYWAY: (&str, &str) = ("cpu.cfs_period_us", "100000");

/// A file and the value it had before.
type Before<'a> = (&'a Dir, String, String);

impl Cgroups {
    /// Changes a running container. When one value is refused, those written before it are put back.
    ///
    /// # Errors
    /// When the kernel refuses a value or device rule.
    pub fn update(&mut self, host: &Host, plan: &CgroupPlan) -> Result<()> {
        self.check_usage(plan)?;
        self.join_missing(host, plan)?;
        let mut before = Vec::new();
        let written = self.change(plan, &mut before);
        if written.is_err() {
            put_back(&before);
        }
        written
    }

    fn change<'a>(&'a self, plan: &CgroupPlan, before: &mut Vec<Before<'a>>) -> Result<()> {
        for setting in &plan.settings {
            let dir = self.dir_of(setting)?;
            let (file, value) = choose(dir, setting);
            if let Some(old) = old_value(dir, file, value)? {
                before.push((dir, file.to_owned(), old));
            }
        }
        self.write_settings(&plan.settings)?;
        match &plan.devices {
            Some(list) => self.write_devices(list),
            None => Ok(()),
        }
    }

    /// Makes the folders (or hands down the controllers) that were not needed until now and moves the container's processes there.
    fn join_missing(&mut self, host: &Host, plan: &CgroupPlan) -> Result<()> {
        if let Some(slot) = &self.v2 {
            let wanted = plan
                .settings
                .iter()
                .map(|s| s.controller.as_str())
                .collect();
            enable(host, &slot.dir, &wanted)?;
        }
        for (at, names) in hierarchies(host) {
            let wanted = |s: &CgroupSetting| names.contains(&s.controller.as_str());
            let there = self.v1.iter().any(|slot| slot.mount == at);
            if there || !plan.settings.iter().any(wanted) {
                continue;
            }
            self.make_v1(at, &names)?;
            let Some(slot) = self.v1.last() else { continue };
            // Until nobody is left who was forked meanwhile.
            for _ in 0..20 {
                let inside = pids_in(&slot.dir)?;
                let all = self.pids(true)?;
                let mut missing = all.iter().filter(|pid| !inside.contains(pid)).peekable();
                if missing.peek().is_none() {
                    break;
                }
                for pid in missing {
                    match slot.dir.write("cgroup.procs", &pid.to_string()) {
                        Err(e) if e.errno() != Some(libc::ESRCH) => return Err(e),
                        _ => {}
                    }
                }
            }
        }
        Ok(())
    }

    /// Refuses a memory limit that more is in use than, where that was asked for.
    pub(super) fn check_usage(&self, plan: &CgroupPlan) -> Result<()> {
        let Some(limit) = plan.not_below_usage else {
            return Ok(());
        };
        let Some(dir) = self.home("memory") else {
            return Ok(());
        };
        let files = ["memory.usage_in_bytes", "memory.current"];
        for file in files {
            let usage = dir.try_read(file)?.and_then(|text| number(&text));
            if usage.is_some_and(|usage| usage > limit) {
                return Err(CgroupError::Value {
                    what: "the memory limit",
                    value: limit.to_string(),
                    rule: "more than that is in use, and checkBeforeUpdate was asked for",
                });
            }
        }
        Ok(())
    }

    /// Writes the values in their order. The kernel compares some with others (memory with memory
    /// and swap, a burst with a quota), so one that it finds wrong is tried again after the rest:
    /// that way both raising and lowering come through.
    pub(super) fn write_settings(&self, settings: &[CgroupSetting]) -> Result<()> {
        let mut again = Vec::new();
        let new = |setting: &CgroupSetting| {
            let mut of = self
                .v1
                .iter()
                .filter(|slot| slot.names.contains(&setting.controller));
            of.any(|slot| slot.is_fresh()) && (&*setting.file, &*setting.value) == ANYWAY
        };
        for setting in settings.iter().filter(|setting| !new(setting)) {
            let dir = self.dir_of(setting)?;
            fault::point().map_err(|e| CgroupError::file("limit", dir.path(), e.errno))?;
            match write(dir, setting) {
                Err(e) if e.errno() == Some(libc::EINVAL) => again.push((dir, setting)),
                done => done?,
            }
        }
        for (dir, setting) in again {
            write(dir, setting)?;
        }
        Ok(())
    }

    fn dir_of(&self, setting: &CgroupSetting) -> Result<&Dir> {
        let core = setting.controller == "cgroup";
        let home = match core {
            true => self.v2.as_ref().map(|slot| &slot.dir),
            false => self.home(&setting.controller),
        };
        home.ok_or(CgroupError::Unsupported {
            what: "a limit of this container",
            mode: self.mode,
            why: "no hierarchy has the controller for it",
        })
    }
}

/// The file and value for this kernel.
fn choose<'a>(dir: &Dir, setting: &'a CgroupSetting) -> (&'a str, &'a str) {
    match &setting.otherwise {
        Some((file, value)) if !dir.has(&setting.file) => (file, value),
        _ => (&setting.file, &setting.value),
    }
}

fn write(dir: &Dir, setting: &CgroupSetting) -> Result<()> {
    let (file, value) = choose(dir, setting);
    match dir.write(file, value) {
        Err(_) if setting.best_effort => Ok(()),
        Ok(()) if file == "cpuset.cpus" => verify_cpus(dir, value),
        done => done,
    }
}

/// Version 2 takes CPUs that are absent or offline, and then uses those of the group above.
fn verify_cpus(dir: &Dir, list: &str) -> Result<()> {
    let Some(effective) = dir.try_read("cpuset.cpus.effective")? else {
        return Ok(());
    };
    let set = |text: &str| text.trim().parse::<CpuSet>().ok();
    match set(list) {
        Some(wanted) if set(&effective) != Some(wanted.clone()) => {
            let path = dir.path().join("cpuset.cpus");
            Err(CgroupError::with_value("write", &path, list, Errno::NOSPC))
        }
        _ => Ok(()),
    }
}

/// What to write into `file` to have it as it is now, once `value` was written; `None` if there is
/// no such file. Files with a line for each device are put back by the line that `value` is about.
fn old_value(dir: &Dir, file: &str, value: &str) -> Result<Option<String>> {
    let Some(text) = dir.try_read(file)? else {
        return Ok(None);
    };
    if file == "memory.oom_control" {
        return Ok(keyed(&text, "oom_kill_disable").map(|n| n.to_string()));
    }
    let about = value.split_once(' ').map(|(key, _)| key);
    let keyed =
        about.filter(|key| key.contains(':') || file == "rdma.max" || file.contains("prio"));
    let Some(key) = keyed else {
        let first = text.lines().next().unwrap_or_default();
        return Ok(Some(first.to_owned()));
    };
    let line = text
        .lines()
        .find(|line| line.split(' ').next() == Some(key));
    Ok(Some(match (line, file) {
        (Some(line), _) => line.to_owned(),
        (None, "io.max") => format!("{key} rbps=max wbps=max riops=max wiops=max"),
        (None, "io.weight" | "io.bfq.weight") => format!("{key} default"),
        (None, "rdma.max") => format!("{key} hca_handle=max hca_object=max"),
        (None, _) => format!("{key} 0"),
    }))
}

/// Puts values back, in an order in which the kernel takes them.
fn put_back(before: &[Before<'_>]) {
    // What is refused now is taken when its neighbours are as they were.
    for _ in 0..2 {
        for (dir, file, value) in before.iter().rev() {
            let _still = dir.write(file, value);
        }
    }
}
