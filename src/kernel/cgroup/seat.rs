//! Which CPUs a running group is on, so that some can be kept free of all others.
//!
//! Version 2 narrows each group by itself. In version 1 a group without a choice of CPUs has no folder
//! of its own; all of them are together in one, `PARENT/.shared`, so that one write moves them all and
//! a start costs one more write of `0`. Which CPUs these are is not known here.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::RenameFlags;
use rustix::io::Errno;

use super::dir::Dir;
use super::knob::{Knob, Set};
use super::parent::inherit_cpuset;
use super::quiet::pids_in;
use super::remove::back_off;
use super::update::Journal;
use super::{CgroupError, Controller, Group, Parent, Result, Version};
use crate::kernel::fault;
use crate::model::CpuSet;

/// The folder that version 1 has for all groups without a choice.
pub(super) const SHARED: &str = ".shared";
/// The same before it has CPUs: nothing could run there yet.
const UNFILLED: &str = ".shared-new";

/// Makes the folder for groups without a choice, which is there with all it needs or not at all.
pub(super) fn make_shared(parent: &Dir) -> Result<()> {
    if parent.child(SHARED)?.is_some() {
        return Ok(());
    }
    let (dir, _) = parent.ensure(UNFILLED)?;
    inherit_cpuset(parent, &dir)?;
    rustix::fs::renameat_with(parent, UNFILLED, parent, SHARED, RenameFlags::empty())
        .map_err(|e| CgroupError::file("make", &parent.path().join(SHARED), e))
}

/// For so long the last processes of the folder are waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// Takes it away. What is still in it are processes of the program's own that are about to end.
pub(super) fn remove_shared(parent: &Path) -> Result<()> {
    let Some(parent) = Dir::open(parent)? else {
        return Ok(());
    };
    for name in [SHARED, UNFILLED] {
        if let Some(dir) = parent.child(name)? {
            move_up_and_remove(&parent, &dir, name)?;
        }
    }
    Ok(())
}

/// One that is ending is in the folder a moment longer than its file of processes tells.
fn move_up_and_remove(parent: &Dir, dir: &Dir, name: &str) -> Result<()> {
    let above = parent.path().parent().map(Dir::open).transpose()?.flatten();
    let root = above.as_ref().unwrap_or(parent);
    let (until, mut pause) = (Instant::now() + PATIENCE, Duration::from_micros(200));
    loop {
        for pid in pids_in(dir)? {
            let _gone = root.write("cgroup.procs", &pid.to_string());
        }
        match parent.unlink(name) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::BUSY) if Instant::now() < until => back_off(&mut pause),
            Err(e) => return Err(CgroupError::file("remove", dir.path(), e)),
        }
    }
}

impl Parent {
    /// Whether groups without a choice are together in one folder (version 1); else each is narrowed by
    /// itself.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.shared.is_some()
    }

    /// Whether CPUs can be chosen here at all.
    #[must_use]
    pub fn has_cpusets(&self) -> bool {
        self.site("").version(Controller::Cpuset).is_some()
    }

    /// Puts the calling process, which must have only one thread, among the groups without a choice.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn join_shared(&self) -> Result<()> {
        match &self.shared {
            Some(dir) => dir.write("tasks", "0"),
            None => Ok(()),
        }
    }

    /// Whether the groups without a choice are on these CPUs; always so where each has its own.
    ///
    /// # Errors
    /// The kernel's file cannot be read.
    pub fn shares(&self, cpus: &CpuSet) -> Result<bool> {
        match &self.shared {
            Some(dir) => Ok(set(dir, "cpuset.cpus")?.as_ref() == Some(cpus)),
            None => Ok(true),
        }
    }

    /// Moves them there.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn share(&self, cpus: &CpuSet) -> Result<()> {
        if self.shares(cpus)? {
            return Ok(());
        }
        match &self.shared {
            Some(dir) => {
                fault::point()
                    .map_err(|e| CgroupError::file("change the CPUs of", dir.path(), e.errno))?;
                dir.write("cpuset.cpus", &cpus.to_string())
            }
            None => Ok(()),
        }
    }

    /// The processes of the groups without a choice.
    ///
    /// # Errors
    /// The kernel's file cannot be read.
    pub fn sharers(&self) -> Result<BTreeSet<i32>> {
        let pids = self.shared.as_ref().map(pids_in).transpose()?;
        Ok(pids.unwrap_or_default().into_iter().collect())
    }
}

impl Group {
    /// Whether it is on these CPUs and memory nodes; `None` for where all without a choice are, or for
    /// all there are.
    ///
    /// # Errors
    /// A file of the kernel's cannot be read.
    pub fn sits(&self, cpus: Option<&CpuSet>, nodes: Option<&CpuSet>) -> Result<bool> {
        let Ok((dir, version)) = self.home(Controller::Cpuset) else {
            return Ok(cpus.is_none());
        };
        if cpus.is_none() && self.can_leave() {
            return Ok(false);
        }
        let same =
            |wanted: &CpuSet, file| Ok::<_, CgroupError>(set(dir, file)?.as_ref() == Some(wanted));
        let (now_cpus, now_nodes) = match version {
            Version::V1 => ("cpuset.cpus", "cpuset.mems"),
            Version::V2 => ("cpuset.cpus.effective", "cpuset.mems.effective"),
        };
        let above = dir.path().parent().map(Dir::open).transpose()?.flatten();
        let all = |file| match &above {
            Some(above) => Ok::<_, CgroupError>(set(above, file)? == set(dir, file)?),
            None => Ok(true),
        };
        let on = |wanted: Option<&CpuSet>, file| match wanted {
            Some(wanted) => same(wanted, file),
            None => all(file),
        };
        Ok(on(cpus, now_cpus)? && on(nodes, now_nodes)?)
    }

    /// Moves it there.
    ///
    /// # Errors
    /// There are no cpusets here, or the kernel refuses.
    pub fn sit(&mut self, cpus: Option<&CpuSet>, nodes: Option<&CpuSet>) -> Result<()> {
        if self.sits(cpus, nodes)? {
            return Ok(());
        }
        fault::point()
            .map_err(|e| CgroupError::file("change the CPUs of", Path::new(&self.name), e.errno))?;
        let mut journal = Journal::default();
        let missing = self.v1_dir(Controller::Cpuset).is_none()
            && self.v1_controllers.contains(&Controller::Cpuset);
        let Some(cpus) = cpus else {
            return match self.can_leave() {
                true => self.leave_cpuset(&mut journal),
                false => self.inherit_cpus(),
            };
        };
        let nodes = nodes.map(CpuSet::to_string);
        if missing {
            return self.join_cpuset(&cpus.to_string(), nodes.as_deref(), &mut journal);
        }
        let (dir, version) = self.home(Controller::Cpuset)?;
        let nodes = nodes.map_or_else(|| all_nodes(dir, version), Ok)?;
        if dir.read("cpuset.mems")?.trim() != nodes {
            let set = Set::CpusetMems(nodes);
            Knob::new(Controller::Cpuset, "cpuset.mems", set).write(dir, version)?;
        }
        let set = Set::CpusetCpus(cpus.to_string());
        let knob = Knob::new(Controller::Cpuset, "cpuset.cpus", set);
        knob.write(dir, version)?;
        knob.verify(dir, version)
    }

    /// Gives it all that its parent has. Version 2 refuses an empty list while processes are inside.
    fn inherit_cpus(&self) -> Result<()> {
        let (dir, version) = self.home(Controller::Cpuset)?;
        let above = dir.path().parent().map(Dir::open).transpose()?.flatten();
        let Some(above) = above else {
            return Ok(());
        };
        if version == Version::V1 {
            return inherit_cpuset(&above, dir);
        }
        dir.write("cpuset.cpus", &above.read("cpuset.cpus.effective")?)
    }

    /// Puts processes that are not among `sharers` there: those of a guest that was started by a program
    /// that knew nothing of this.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn gather(&self, sharers: &BTreeSet<i32>) -> Result<()> {
        let (Some(shared), None) = (&self.shared, self.v1_dir(Controller::Cpuset)) else {
            return Ok(());
        };
        match self.processes()?.iter().all(|pid| sharers.contains(pid)) {
            true => Ok(()),
            false => self.move_all(shared),
        }
    }
}

/// The memory nodes of a group that takes any: as version 2 has it at first, none said; what the parent
/// has where some were.
fn all_nodes(dir: &Dir, version: Version) -> Result<String> {
    let (now, file) = match version {
        Version::V1 => (None, "cpuset.mems"),
        Version::V2 => (Some(dir.read("cpuset.mems")?), "cpuset.mems.effective"),
    };
    if now.is_some_and(|now| now.trim().is_empty()) {
        return Ok(String::new());
    }
    let above = dir.path().parent().map(Dir::open).transpose()?.flatten();
    let text = above.map_or(Ok(String::new()), |above| above.read(file))?;
    Ok(text.trim().to_owned())
}

/// The CPUs or nodes that a control file has; `None` for none.
fn set(dir: &Dir, file: &str) -> Result<Option<CpuSet>> {
    Ok(dir.read(file)?.trim().parse().ok())
}
