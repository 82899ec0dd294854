//! What containers leave on a machine: mounts, cgroups, processes, units. Each test puts its
//! containers below a cgroup of its own and keeps its files in a folder of its own, so what it left
//! can be told from what tests beside it do. Where systemd runs, the cgroup of a client is a slice, and
//! the groups below it are made through systemd, as clients do there by themselves.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process};

use super::{command, within};
use crate::support::{Need, TestDir, run};

const CGROUPS: &str = "/sys/fs/cgroup";

/// Where systemd keeps the units that are made while it runs.
const UNITS: &str = "/run/systemd/transient";

/// Whether clients make groups through systemd.
pub fn by_systemd() -> bool {
    Need::Systemd.is_met() && Need::CgroupV2.is_met()
}

/// The marks of one test.
#[derive(Debug)]
pub struct Marks {
    folder: PathBuf,
    cgroup: String,
    systemd: bool,
}

impl Marks {
    /// Those of the test with this folder, whose groups are made through systemd or not.
    pub fn new(folder: &TestDir, systemd: bool) -> Self {
        let name = folder.path().file_name().expect("a name");
        let name = name.to_string_lossy();
        // A dash would make it a slice in a slice.
        let slice = || name.replace('-', "_") + ".slice";
        Self {
            folder: folder.path().to_owned(),
            cgroup: match systemd {
                true => slice(),
                false => name.into_owned(),
            },
            systemd,
        }
    }

    /// The cgroup below which the test's containers must be, as clients want it.
    pub fn cgroup(&self) -> String {
        match self.systemd {
            true => self.cgroup.clone(),
            false => format!("/{}", self.cgroup),
        }
    }

    /// What is in a file of a container's cgroup, by its names on version 1 and on version 2.
    #[track_caller]
    pub fn read(&self, group: &str, v1: [&str; 2], v2: &str) -> String {
        let own = match Need::CgroupV1.is_met() {
            true => Path::new(CGROUPS).join(v1[0]).join(&self.cgroup),
            false => Path::new(CGROUPS).join(&self.cgroup),
        };
        let file = if Need::CgroupV1.is_met() { v1[1] } else { v2 };
        let path = own.join(group).join(file);
        let text = fs::read_to_string(&path);
        let text = text.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        text.trim().to_owned()
    }

    /// Everything that is there now, a line each.
    pub fn found(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mounts = self.mounts().into_iter();
        found.extend(mounts.map(|path| format!("mount {}", path.display())));
        let containers = self.cgroups().into_iter().filter(|path| {
            let name = path.file_name().unwrap_or_default();
            // Podman keeps its monitors in one, which it leaves to the next container.
            name != self.cgroup.as_str() && name != "conmon"
        });
        found.extend(containers.map(|path| format!("cgroup {}", path.display())));
        for pid in self.processes() {
            found.push(format!(
                "process {pid}: {}",
                words(pid, "cmdline").join(" ")
            ));
        }
        found.extend(self.units().into_iter().map(|name| format!("unit {name}")));
        found
    }

    /// Waits until nothing is left: what cleans up behind a container takes a moment.
    #[track_caller]
    pub fn must_be_gone(&self) {
        let mut last = Vec::new();
        let gone = within(60, || {
            last = self.found();
            last.is_empty()
        });
        assert!(gone, "left: {last:#?}");
    }

    /// Removes cgroups of such a name that are empty.
    pub fn forget(&self, name: impl Fn(&str) -> bool) {
        let of_that_name = |path: &&PathBuf| {
            let last = path.file_name().unwrap_or_default();
            name(&last.to_string_lossy())
        };
        for path in self.cgroups().iter().filter(of_that_name) {
            // What is not empty stays, and is found.
            let _ = fs::remove_dir(path);
        }
    }

    /// Kills and removes what there is, also after a failure.
    pub fn clear(&self) {
        for _ in 0..100 {
            let pids = self.processes();
            for path in self.cgroups() {
                // A frozen process does not die.
                let _ = fs::write(path.join("freezer.state"), "THAWED");
                let _ = fs::write(path.join("cgroup.freeze"), "0");
            }
            for pid in &pids {
                if let Some(pid) = i32::try_from(*pid).ok().and_then(Pid::from_raw) {
                    let _ = kill_process(pid, Signal::KILL);
                }
            }
            let mut cgroups = self.cgroups();
            cgroups.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
            let kept = cgroups.iter().filter(|path| fs::remove_dir(path).is_err());
            if kept.count() == 0 && pids.is_empty() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        if self.systemd {
            let mut stop = command("systemctl");
            let units = self.units();
            stop.args(["stop", &self.cgroup]).args(&units);
            // What never began is not known to it.
            let _ = run(stop);
        }
        let left = self.found();
        if !left.is_empty() {
            eprintln!("not cleared: {left:#?}");
        }
    }

    /// Units that systemd has still in the test's slice.
    fn units(&self) -> Vec<String> {
        if !self.systemd {
            return Vec::new();
        }
        let entries = fs::read_dir(UNITS).into_iter().flatten().flatten();
        let slice = format!("Slice={}", self.cgroup.trim_end_matches(".slice"));
        let ours = entries.filter(|entry| {
            let text = fs::read_to_string(entry.path()).unwrap_or_default();
            let mut rest = text.lines().filter_map(|line| line.strip_prefix(&slice));
            rest.any(|rest| rest.starts_with(['.', '-']))
        });
        ours.map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect()
    }

    /// Mounts below the folder, as this thread sees them.
    fn mounts(&self) -> Vec<PathBuf> {
        let table = fs::read_to_string("/proc/thread-self/mountinfo").expect("a mounted /proc");
        let points = table.lines().filter_map(|line| line.split(' ').nth(4));
        let points = points.map(PathBuf::from);
        points
            .filter(|point| point.starts_with(&self.folder))
            .collect()
    }

    /// The test's cgroup and all below it, in every hierarchy.
    fn cgroups(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut hierarchies = vec![PathBuf::from(CGROUPS)];
        hierarchies.extend(folders_in(Path::new(CGROUPS)));
        for hierarchy in hierarchies {
            let mut next = vec![hierarchy.join(&self.cgroup)];
            while let Some(path) = next.pop() {
                if path.is_dir() {
                    next.extend(folders_in(&path));
                    found.push(path);
                }
            }
        }
        found
    }

    /// Processes in the test's cgroups, or started with its folder among their words.
    fn processes(&self) -> Vec<u32> {
        let folder = self.folder.to_string_lossy().into_owned();
        let us = std::process::id();
        let entries = fs::read_dir("/proc").expect("a mounted /proc").flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let ours = |pid: &u32| {
            let in_cgroup = || {
                let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
                text.contains(&self.cgroup)
            };
            *pid != us
                && (words(*pid, "cmdline").iter().any(|w| w.contains(&folder)) || in_cgroup())
        };
        pids.filter(ours).collect()
    }
}

fn folders_in(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    paths
        .filter(|path| path.is_dir() && !path.is_symlink())
        .collect()
}

fn words(pid: u32, file: &str) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let words = bytes
        .split(|byte| *byte == 0)
        .filter(|word| !word.is_empty());
    words
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect()
}
