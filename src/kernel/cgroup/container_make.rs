//! Making the control groups of a container: folders in the hierarchies that are needed, controllers
//! handed down to them, limits and device rules, all or nothing.
//!
//! This is on the path of every launch: folders are held by descriptor, a value is one open and one
//! write, and a hierarchy that nothing was asked of has no folder.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Access, CWD, Mode};
use rustix::io::Errno;

use super::container::{Cgroups, Slot, folder, hierarchies};
use super::dir::{Dir, keyed};
use super::group::delegate;
use super::parent::inherit_cpuset;
use super::quiet::pids_in;
use super::{CgroupError, Host, Result};
use crate::kernel::fault;
use crate::model::{CgroupPlace, CgroupPlan};

/// Version 1 hierarchies where every container has a folder; in the others only those that ask, and
/// in that of the freezer where version 2 has none.
const ALWAYS: [&str; 7] = [
    "blkio",
    "cpu",
    "cpuacct",
    "devices",
    "memory",
    "name=systemd",
    "pids",
];

/// Version 2 controllers that every container is given where they exist.
const ALWAYS_V2: [&str; 4] = ["cpu", "io", "memory", "pids"];

/// Attempts to make a folder whose parent another container's end may be removing.
const ATTEMPTS: u32 = 16;

impl Cgroups {
    /// Makes the groups, with the limits and device rules in force before anything enters.
    ///
    /// # Errors
    /// Those of [`Cgroups::make`] and [`Cgroups::limit`]. In each case what was made is taken away
    /// again.
    pub fn create(host: &Host, plan: &CgroupPlan) -> Result<Self> {
        let groups = Self::make(host, plan)?;
        match groups.limit(host, plan) {
            Ok(()) => Ok(groups),
            Err(e) => {
                groups.undo();
                Err(e)
            }
        }
    }

    /// Makes the groups, with the device rules in force but without a limit: limits may be written
    /// while a process is busy in there, but between two lines of device rules it could make no
    /// node. A folder that is there is taken over if no process is in it or below, and it is not
    /// frozen; under a systemd scope, which exists only with its process inside, always.
    ///
    /// # Errors
    /// [`CgroupError::Occupied`] when a folder is in use; [`CgroupError::File`] when the kernel
    /// refuses something ([`CgroupError::is_denied`] when this user may not make groups at all). In
    /// each case what was made is taken away again.
    pub fn make(host: &Host, plan: &CgroupPlan) -> Result<Self> {
        let mut groups = Self {
            place: plan.place.clone(),
            mode: host.mode,
            v1: Vec::with_capacity(9),
            v2: None,
        };
        match groups.build(host, plan) {
            Ok(()) => Ok(groups),
            Err(e) => {
                groups.undo();
                Err(e)
            }
        }
    }

    /// Puts the limits in force, once, in groups that were just made.
    ///
    /// # Errors
    /// When the kernel refuses something; the groups stay.
    pub fn limit(&self, host: &Host, plan: &CgroupPlan) -> Result<()> {
        self.check_usage(plan)?;
        self.write_settings(&plan.settings)?;
        if let (Some(owner), Some(v2)) = (plan.owner, &self.v2) {
            let memory = host.v2_controllers.iter().any(|c| c == "memory");
            delegate(&v2.dir, owner, memory)?;
        }
        for slot in self.v1.iter().chain(&self.v2) {
            slot.fresh.store(false, Ordering::Relaxed);
        }
        Ok(())
    }

    /// What removing must know of a making that may be cut short: the folders above the container's
    /// that will have to be made. `None` when its own folder is there already, in any hierarchy:
    /// it is somebody else's until it has been taken over, and so are the processes in it.
    #[must_use]
    pub fn to_be_made(host: &Host, place: &CgroupPlace) -> Option<Vec<PathBuf>> {
        let there = |path: &Path| rustix::fs::access(path, Access::EXISTS).is_ok();
        let mut absent = Vec::new();
        let v1 = hierarchies(host).into_iter().map(|(at, _)| at);
        for at in v1.chain(host.v2.as_deref()) {
            let path = folder(at, place);
            let above = path.ancestors().skip(1).take_while(|p| *p != at);
            let missing: Vec<PathBuf> = above
                .take_while(|p| p.starts_with(at) && !there(p))
                .map(Path::to_owned)
                .collect();
            if missing.is_empty() && there(&path) {
                return None;
            }
            absent.extend(missing.into_iter().rev());
        }
        Some(absent)
    }

    /// All the steps of making; what was made is in `self` when one fails.
    fn build(&mut self, host: &Host, plan: &CgroupPlan) -> Result<()> {
        let mut wanted: BTreeSet<&str> = plan
            .settings
            .iter()
            .map(|s| s.controller.as_str())
            .collect();
        if plan.devices.is_some() {
            wanted.insert("devices");
        }
        if host.v2.is_none() {
            wanted.insert("freezer");
        }
        if let Some(at) = &host.v2 {
            let slot = self.make_slot(at, &[])?;
            let slot = self.v2.insert(slot);
            enable(host, &slot.dir, &wanted)?;
        }
        for (at, names) in hierarchies(host) {
            let used = |name: &&str| ALWAYS.contains(name) || wanted.contains(name);
            if names.iter().any(used) {
                self.make_v1(at, &names)?;
            } else if self.place.scope.is_none()
                && let Some(dir) = Dir::open(&folder(at, &self.place))?
            {
                // Removing looks everywhere.
                nobody_in(&dir, false)?;
            }
        }
        if self.place.scope.is_none() {
            self.check_free()?;
        }
        match &plan.devices {
            Some(devices) => self.write_devices(devices),
            None => Ok(()),
        }
    }

    /// Makes or opens the folder of a version 1 hierarchy, fit for processes to enter.
    pub(super) fn make_v1(&mut self, at: &Path, names: &[&str]) -> Result<()> {
        let slot = self.make_slot(at, names)?;
        // Before anything that can fail, so that undoing finds it.
        self.v1.push(slot);
        if names.contains(&"cpuset") {
            self.inherit_cpus(at)?;
        }
        Ok(())
    }

    /// Makes the container's folder in the hierarchy mounted at `at`, or opens the one that is there.
    fn make_slot(&mut self, at: &Path, names: &[&str]) -> Result<Slot> {
        let path = folder(at, &self.place);
        fault::point().map_err(|e| CgroupError::file("make", &path, e.errno))?;
        let mut fresh = false;
        for _ in 0..ATTEMPTS {
            match rustix::fs::mkdirat(CWD, &path, Mode::from_raw_mode(0o755)) {
                Ok(()) => fresh = true,
                Err(Errno::EXIST) => {}
                Err(Errno::NOENT) => {
                    self.make_parents(at, &path)?;
                    continue;
                }
                Err(e) => return Err(CgroupError::file("make", &path, e)),
            }
            if let Some(dir) = Dir::open(&path)? {
                return Ok(Slot {
                    names: names.iter().map(|&n| n.to_owned()).collect(),
                    mount: at.to_owned(),
                    dir,
                    fresh: AtomicBool::new(fresh),
                });
            }
        }
        Err(CgroupError::file("make", &path, Errno::NOENT))
    }

    fn make_parents(&mut self, at: &Path, path: &Path) -> Result<()> {
        let above: Vec<&Path> = path
            .ancestors()
            .skip(1)
            .take_while(|p| *p != at && p.starts_with(at))
            .collect();
        for parent in above.into_iter().rev() {
            match rustix::fs::mkdirat(CWD, parent, Mode::from_raw_mode(0o755)) {
                Ok(()) => self.place.made.push(parent.to_owned()),
                Err(Errno::EXIST) => {}
                // Removed under our hands by another container's end: made again by the caller.
                Err(Errno::NOENT) if parent.parent() != Some(at) => return Ok(()),
                Err(e) => return Err(CgroupError::file("make", parent, e)),
            }
        }
        Ok(())
    }

    /// Gives the new cpusets on the way down what their parents have: a new one has neither CPUs nor
    /// memory, and nothing can run in it.
    fn inherit_cpus(&self, at: &Path) -> Result<()> {
        let absent = |path: &Path| CgroupError::file("open", path, Errno::NOENT);
        let mut path = at.to_owned();
        let mut above = Dir::open(&path)?.ok_or_else(|| absent(&path))?;
        for part in self.place.path.components().skip(1) {
            path.push(part);
            let dir = Dir::open(&path)?.ok_or_else(|| absent(&path))?;
            if dir.read("cpuset.cpus")?.trim().is_empty()
                || dir.read("cpuset.mems")?.trim().is_empty()
            {
                inherit_cpuset(&above, &dir)?;
            }
            above = dir;
        }
        Ok(())
    }

    /// Refuses folders that were there and have somebody in them, or are frozen: whoever enters a
    /// frozen group hangs and cannot be killed.
    fn check_free(&self) -> Result<()> {
        for slot in self
            .v1
            .iter()
            .chain(&self.v2)
            .filter(|slot| !slot.is_fresh())
        {
            let dir = &slot.dir;
            nobody_in(dir, slot.names.is_empty())?;
            let state = match slot.names.is_empty() {
                true => dir.try_read("cgroup.freeze")?,
                false => dir.try_read("freezer.state")?,
            };
            if state.is_some_and(|s| !matches!(s.trim(), "0" | "THAWED")) {
                let why = "container's cgroup unexpectedly frozen: thaw it, or choose another \
                           cgroupsPath";
                return Err(occupied(dir, why));
            }
        }
        Ok(())
    }
}

fn occupied(dir: &Dir, why: &'static str) -> CgroupError {
    CgroupError::Occupied {
        path: dir.path().to_owned(),
        why,
    }
}

/// Refuses a folder that was there with somebody in it, or in a folder of it: all of them would be
/// the container's, and end with it.
fn nobody_in(dir: &Dir, version2: bool) -> Result<()> {
    let busy = match version2 {
        true => keyed(&dir.read("cgroup.events")?, "populated") == Some(1),
        false => !pids_in(dir)?.is_empty(),
    };
    // Up to the colon as runc has it: there are clients that look for it.
    let why = "container's cgroup is not empty: processes are in it or below: another container \
               has this cgroupsPath, or one was left behind; choose another path, or end them first";
    match busy {
        true => Err(occupied(dir, why)),
        false => Ok(()),
    }
}

/// Hands version 2 controllers down to the new folder: those that are wanted, and the usual.
pub(super) fn enable(host: &Host, leaf: &Dir, wanted: &BTreeSet<&str>) -> Result<()> {
    let there = |name: &str| host.v2_controllers.iter().any(|c| c == name);
    let needed: Vec<&str> = wanted
        .iter()
        .copied()
        .chain(ALWAYS_V2)
        .filter(|name| there(name))
        .collect();
    if needed.is_empty() {
        return Ok(());
    }
    let lacking = |dir: &Dir, file: &str| -> Result<Vec<&str>> {
        let given = dir.read(file)?;
        let has = |name: &&&str| !given.split_whitespace().any(|g| g == **name);
        Ok(needed.iter().filter(has).copied().collect())
    };
    if lacking(leaf, "cgroup.controllers")?.is_empty() {
        return Ok(());
    }
    let root = host.v2.as_deref().ok_or(CgroupError::NoV2)?;
    let ways: Vec<&Path> = leaf
        .path()
        .ancestors()
        .skip(1)
        .take_while(|p| p.starts_with(root))
        .collect();
    let mut refused = None;
    for path in ways.into_iter().rev() {
        let Some(dir) = Dir::open(path)? else {
            continue;
        };
        for name in lacking(&dir, "cgroup.subtree_control")? {
            // One at a time: a controller that cannot be had must not keep out the others.
            if let Err(e) = dir.write("cgroup.subtree_control", &format!("+{name}")) {
                refused = Some(e);
            }
        }
    }
    let missing = lacking(leaf, "cgroup.controllers")?;
    match (missing.iter().find(|name| wanted.contains(**name)), refused) {
        (Some(_), Some(e)) => Err(e),
        (Some(_), None) => Err(CgroupError::Unsupported {
            what: "a limit of this container",
            mode: host.mode,
            why: "the group above does not hand down the controller for it",
        }),
        (None, _) => Ok(()),
    }
}
