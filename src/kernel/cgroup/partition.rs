//! CPUs that a group has against the whole host (cpuset partitions of version 2, Linux 6.7): programs
//! that are in no group of ours are kept off them too, and the kernel's scheduler balances without
//! them. A group claims its CPUs, the folders above it have what all in them claim, and then the group
//! becomes the root of a partition; on older kernels everybody else is only moved away (see `seat`).

use std::collections::BTreeSet;
use std::path::Path;

use super::dir::Dir;
use super::{CgroupError, Controller, Group, Parent, Result, walk};
use crate::kernel::fault;
use crate::model::CpuSet;

const PARTITION: &str = "cpuset.cpus.partition";
const CLAIM: &str = "cpuset.cpus.exclusive";

impl Parent {
    /// Whether groups here can have CPUs against the whole host.
    #[must_use]
    pub fn has_partitions(&self) -> bool {
        self.v2_controllers.contains(&Controller::Cpuset) && self.v2.has(CLAIM)
    }

    /// Gives it, and each folder above it, what the groups in it claim.
    ///
    /// # Errors
    /// When a file cannot be read, or the kernel refuses: somebody else has claimed one of those CPUs.
    pub fn set_apart(&self) -> Result<()> {
        let mut next = Some(self.v2.path());
        while let Some(path) = next {
            let Some(dir) = Dir::open(path)?.filter(|dir| dir.has(CLAIM)) else {
                // The root of all has everything.
                return Ok(());
            };
            write_claim(&dir, &claimed_in(&dir)?)?;
            next = path.parent();
        }
        Ok(())
    }
}

impl Group {
    /// Whether it claims these CPUs, or none.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn claims(&self, cpus: Option<&CpuSet>) -> Result<bool> {
        let wanted = cpus.into_iter().flat_map(CpuSet::iter).collect();
        Ok(claim(self.v2_dir()?)? == wanted)
    }

    /// Claims these CPUs, or none. Nobody else can as long as it does.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn claim(&self, cpus: Option<&CpuSet>) -> Result<()> {
        let dir = self.v2_dir()?;
        let wanted: BTreeSet<u32> = cpus.into_iter().flat_map(CpuSet::iter).collect();
        if claim(dir)? == wanted {
            return Ok(());
        }
        if dir.read(PARTITION)?.trim() != "member" {
            fault::point().map_err(|e| at(dir.path(), e.errno))?;
            dir.write(PARTITION, "member")?;
        }
        write_claim(dir, &wanted)
    }

    /// Makes it the only one that runs on what it has claimed.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn part(&self) -> Result<()> {
        let dir = self.v2_dir()?;
        if dir.read(PARTITION)?.trim() == "root" {
            return Ok(());
        }
        fault::point().map_err(|e| at(dir.path(), e.errno))?;
        dir.write(PARTITION, "root")
    }

    /// Whether somebody has made it that, be it that the kernel found it could not be.
    #[must_use]
    pub fn was_parted(&self) -> bool {
        let state = self.v2_dir().and_then(|dir| dir.try_read(PARTITION));
        // What cannot be read now is no sign that nobody has.
        !state.is_ok_and(|state| state.is_some_and(|state| state.trim() == "member"))
    }

    /// Whether it is that.
    #[must_use]
    pub fn is_apart(&self) -> bool {
        let state = self.v2_dir().and_then(|dir| dir.try_read(PARTITION));
        state.is_ok_and(|state| state.is_some_and(|state| state.trim() == "root"))
    }
}

fn at(path: &Path, errno: rustix::io::Errno) -> CgroupError {
    CgroupError::file("change the CPUs of", path, errno)
}

fn claim(dir: &Dir) -> Result<BTreeSet<u32>> {
    let text = dir.try_read(CLAIM)?.unwrap_or_default();
    let set = text.trim().parse::<CpuSet>();
    // Empty where there is none.
    Ok(set.map(|set| set.iter().collect()).unwrap_or_default())
}

fn claimed_in(dir: &Dir) -> Result<BTreeSet<u32>> {
    let children = walk::children(dir).map_err(|e| CgroupError::file("list", dir.path(), e))?;
    let mut all = BTreeSet::new();
    for name in children {
        if let Some(child) = dir.child(&name.to_string_lossy())? {
            all.extend(claim(&child)?);
        }
    }
    Ok(all)
}

fn write_claim(dir: &Dir, cpus: &BTreeSet<u32>) -> Result<()> {
    if claim(dir)? == *cpus {
        return Ok(());
    }
    fault::point().map_err(|e| at(dir.path(), e.errno))?;
    // A write of nothing would not reach the kernel.
    let list: Vec<String> = cpus.iter().map(ToString::to_string).collect();
    dir.write(CLAIM, &format!("{}\n", list.join(",")))
}
