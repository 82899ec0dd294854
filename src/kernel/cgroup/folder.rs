//! A folder between the parent and groups, so that those in it share limits: together they stay
//! within them, whatever each has of its own. It holds no process itself. Made when the first
//! group needs it, removed when it is empty.

use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD};
use rustix::io::Errno;

use super::dir::{Dir, number};
use super::parent::{Hierarchy, enable_all};
use super::remove::PATIENCE;
use super::{Applied, CgroupError, Controller, Group, Limits, Parent, Result, v1, walk};
use crate::kernel::fault;

/// Written last when a folder is made: one that a crash has left half-made says `max` here.
const MARK: (&str, &str) = ("cgroup.max.descendants", "1000000");

impl Parent {
    /// The folder of that name as a parent of its own, if there is one, if only in part.
    ///
    /// # Errors
    /// When a folder cannot be opened.
    pub fn folder(&self, name: &str) -> Result<Option<Self>> {
        let Some(v2) = self.v2.child(name)? else {
            return Ok(None);
        };
        let mut v1 = Vec::with_capacity(self.v1.len());
        for (hierarchy, dir) in &self.v1 {
            let inner = hierarchy.below(name);
            let dir = match dir {
                Some(dir) => dir.child(name)?,
                None => Dir::open(inner.parent_path())?,
            };
            v1.push((inner, dir));
        }
        let shared = self.shared.as_ref().map(|dir| Dir::open(dir.path()));
        Ok(Some(Self {
            mode: self.mode,
            swap: self.swap,
            v1,
            v2,
            shared: shared.transpose()?.flatten(),
            v2_controllers: self.v2_controllers.clone(),
            v1_controllers: self.v1_controllers.clone(),
        }))
    }

    /// The same; makes it with these limits where it is missing or half-made. Whoever calls sees to
    /// it that nobody else makes or removes it meanwhile.
    ///
    /// # Errors
    /// When a limit cannot be had here, or the kernel refuses something. What was made stays, for
    /// the next one to go on with or to remove.
    pub fn ensure_folder(&self, name: &str, limits: &Limits) -> Result<Self> {
        if let Some(there) = self.folder(name)?
            && there.v2.read(MARK.0)?.trim() == MARK.1
        {
            return Ok(there);
        }
        let at = |dir: &Dir, e: crate::kernel::KernelError| {
            CgroupError::file("make a group in", dir.path(), e.errno)
        };
        fault::point().map_err(|e| at(&self.v2, e))?;
        let (v2, _) = self.v2.ensure(name)?;
        for (hierarchy, dir) in &self.v1 {
            let Some(dir) = dir else {
                // Made with the first group that needs it.
                continue;
            };
            fault::point().map_err(|e| at(dir, e))?;
            let (made, _) = dir.ensure(name)?;
            if hierarchy.controllers.contains(&Controller::Memory) {
                keep_together(&made)?;
            }
        }
        fault::point().map_err(|e| at(&v2, e))?;
        enable_all(&v2, &self.v2_controllers)?;
        fault::point().map_err(|e| at(&v2, e))?;
        self.limit_folder(name, limits)?;
        self.folder(name)?.ok_or_else(|| CgroupError::Absent {
            name: name.to_owned(),
            parent: self.path().to_owned(),
        })
    }

    /// Changes its limits, all or none. What groups in it are guaranteed is no limit of its own, and
    /// stays: whoever calls sees to it that nobody sums that up meanwhile.
    ///
    /// # Errors
    /// As [`Group::update`]; [`CgroupError::Absent`] when it is not there.
    pub fn limit_folder(&self, name: &str, limits: &Limits) -> Result<Vec<Applied>> {
        let mut group = Group::open(self, name)?;
        // It has a place in version 1's cpusets for those in it that chose their CPUs, and nobody of its
        // own who could leave it.
        group.shared = None;
        // Nor a part that is handed down: one called so in it is a group as the others are.
        group.guest = None;
        let limits = group.with_kept(limits)?;
        let applied = outlasting(|| group.update(&limits))?;
        let v2 = group.v2_dir()?;
        fault::point().map_err(|e| CgroupError::file("limit", v2.path(), e.errno))?;
        v2.write(MARK.0, MARK.1)?;
        if let Some(inner) = self.folder(name)? {
            inner.weigh(None)?;
            inner.guarantee()?;
        }
        Ok(applied)
    }

    /// Gives a folder that groups share the CPU weight of all groups in it together, and of one
    /// that is yet to come: beside other groups each then has the share that its own weight says.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub fn weigh(&self, coming: Option<u64>) -> Result<()> {
        let v1 = self
            .v1
            .iter()
            .find(|(hierarchy, _)| hierarchy.controllers.contains(&Controller::Cpu));
        let (dir, file, most, coming) = match v1 {
            _ if self.v2_controllers.contains(&Controller::Cpu) => {
                (&self.v2, "cpu.weight", 10_000, coming)
            }
            Some((_, Some(dir))) => (dir, "cpu.shares", 262_144, coming.map(v1::shares)),
            _ => return Ok(()),
        };
        let mut sum = coming.unwrap_or(0);
        for name in super::list(self)? {
            if let Some(group) = dir.child(&name)?
                && let Some(text) = group.try_read(file)?
            {
                sum += number(&text).unwrap_or(0);
            }
        }
        match sum {
            0 => Ok(()),
            sum => dir.write(file, &sum.min(most).to_string()),
        }
    }

    /// Takes from every group in a folder what it has of CPU time beyond what the folder is about
    /// to have: version 1 refuses a limit above which a group inside has one, be it the group of a
    /// guest that is just ending. Version 2 does not mind.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub fn lower_quotas(&self, most_us: u64) -> Result<()> {
        const FILES: [&str; 2] = ["cpu.cfs_quota_us", "cpu.cfs_burst_us"];
        let v1 = self
            .v1
            .iter()
            .find(|(hierarchy, _)| hierarchy.controllers.contains(&Controller::Cpu));
        let Some((_, Some(dir))) = v1 else {
            return Ok(());
        };
        let [quota, burst] = FILES;
        for name in super::list(self)? {
            let Some(group) = dir.child(&name)? else {
                continue;
            };
            // No limit says -1, which is no number here.
            let held = group.try_read(quota)?.and_then(|text| number(&text));
            if held.is_none_or(|held| held <= most_us) {
                continue;
            }
            let lower = || {
                if group.has(burst) {
                    group.write(burst, "0")?;
                }
                group.write(quota, &most_us.to_string())
            };
            match lower() {
                // It went meanwhile.
                Err(_) if dir.child(&name)?.is_none() => {}
                done => done?,
            }
        }
        Ok(())
    }

    /// Removes it, if no group is in it; says whether it is gone.
    ///
    /// # Errors
    /// When a folder cannot be removed for another reason than groups in it.
    pub fn remove_folder(&self, name: &str) -> Result<bool> {
        let Some(there) = self.folder(name)? else {
            return Ok(true);
        };
        let v1 = there.v1.iter().rev().filter_map(|(_, dir)| dir.as_ref());
        // Version 2 last: without that folder the others would not be found again.
        let dirs: Vec<&Dir> = v1.chain([&there.v2]).collect();
        if dirs.iter().any(walk::has_children) {
            return Ok(false);
        }
        for dir in dirs {
            fault::point().map_err(|e| CgroupError::file("remove", dir.path(), e.errno))?;
            match rustix::fs::unlinkat(CWD, dir.path(), AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::BUSY) => return Ok(false),
                Err(e) => return Err(CgroupError::file("remove", dir.path(), e)),
            }
        }
        Ok(true)
    }
}

/// Tries again for a while what version 1 refuses for the sake of a group that is gone: for as long as
/// the kernel takes to forget one that was removed (15 ms or so), its CPU limit counts as one inside, and
/// nobody can see it any more or make it smaller.
fn outlasting<T>(mut change: impl FnMut() -> Result<T>) -> Result<T> {
    let until = Instant::now() + PATIENCE;
    let mut pause = Duration::from_millis(1);
    loop {
        match change() {
            Err(error) if is_of_the_gone(&error) && Instant::now() < until => {
                std::thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(20));
            }
            done => return done,
        }
    }
}

fn is_of_the_gone(error: &CgroupError) -> bool {
    let CgroupError::File { path, .. } = error else {
        return false;
    };
    error.errno() == Some(libc::EINVAL) && path.ends_with("cpu.cfs_quota_us")
}

/// Before Linux 5.11, version 1 charges memory to those above only when told so.
fn keep_together(dir: &Dir) -> Result<()> {
    const FILE: &str = "memory.use_hierarchy";
    match dir.try_read(FILE)? {
        Some(text) if text.trim() == "0" => dir.write(FILE, "1"),
        _ => Ok(()),
    }
}

impl Hierarchy {
    /// The same with our parent one folder deeper.
    fn below(&self, name: &str) -> Self {
        self.at(self.parent_path().join(name))
    }
}
