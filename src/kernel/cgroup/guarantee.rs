//! Memory that groups are guaranteed (`memory.min`, `memory.low` of version 2), in the folders above
//! them. The kernel keeps nothing for a group beyond what each folder above it has as well, so those
//! get the sum of what is in them. Above our parent under systemd are its service and slice, which
//! are systemd's to write.

use std::path::Path;
use std::time::{Duration, Instant};

use super::dir::{Dir, number};
use super::{CgroupError, Controller, Group, Limits, Parent, Result, service, walk};
use crate::kernel::fault;
use crate::model::CgroupMode;

/// What is kept whatever happens, and what is kept while others can give.
const FILES: [&str; 2] = ["memory.min", "memory.low"];
/// How long systemd may take to do what it has said yes to.
const PATIENCE: Duration = Duration::from_secs(5);

/// Bytes in each of [`FILES`].
type Kept = [u64; 2];

impl Parent {
    /// Gives it what all groups in it are guaranteed together, and what is above it likewise. Whoever
    /// calls sees to it that nobody else does so meanwhile.
    ///
    /// # Errors
    /// When a file cannot be read or written, or systemd refuses.
    pub fn guarantee(&self) -> Result<()> {
        if !self.v2_controllers.contains(&Controller::Memory) {
            return Ok(());
        }
        // Nobody sees the one changed and the other not yet.
        let _above = self.alone_above()?;
        let wanted = promised(&self.v2)?;
        if kept(&self.v2)? != wanted {
            match self.unit() {
                Some(unit) => keep_by_systemd(&unit, &self.v2, wanted)?,
                None => keep(&self.v2, wanted)?,
            }
        }
        match self.slice()? {
            Some(slice) => {
                let wanted = promised(&slice)?;
                match kept(&slice)? == wanted {
                    true => Ok(()),
                    false => keep_by_systemd(service::SLICE, &slice, wanted),
                }
            }
            None => Ok(()),
        }
    }

    /// Whether that is so already.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn is_guaranteed(&self) -> Result<bool> {
        if !self.v2_controllers.contains(&Controller::Memory) {
            return Ok(true);
        }
        if self.adds_up()? {
            return Ok(true);
        }
        // Or another installation was just at it.
        match self.alone_above()? {
            Some(_above) => self.adds_up(),
            None => Ok(false),
        }
    }

    fn adds_up(&self) -> Result<bool> {
        let right = |dir: &Dir| Ok::<_, CgroupError>(kept(dir)? == promised(dir)?);
        let above = self.slice()?;
        Ok(right(&self.v2)? && above.as_ref().map_or(Ok(true), right)?)
    }

    /// The service whose folder it is. On a hybrid host systemd leaves version 2's controllers alone.
    fn unit(&self) -> Option<String> {
        let managed = self.mode == CgroupMode::V2;
        service::unit_at(self.v2.path()).filter(|_| managed)
    }

    fn slice(&self) -> Result<Option<Dir>> {
        match (self.unit(), self.v2.path().parent()) {
            (Some(_), Some(above)) => Dir::open(above),
            _ => Ok(None),
        }
    }
}

impl Group {
    /// These limits, with what it is guaranteed now.
    pub(super) fn with_kept(&self, limits: &Limits) -> Result<Limits> {
        let mut limits = limits.clone();
        if self.v2_controllers.contains(&Controller::Memory) {
            let [min, low] = kept(self.v2_dir()?)?;
            (limits.memory_min, limits.memory_low) = (Some(min), Some(low));
        }
        Ok(limits)
    }

    /// Gives the delegated child what the group is guaranteed: without the mount option
    /// `memory_recursiveprot` the kernel would keep nothing for processes in it.
    pub(super) fn hand_down(&self, limits: &Limits) -> Result<()> {
        let wanted = [limits.memory_min, limits.memory_low].map(|bytes| bytes.unwrap_or(0));
        let (Some(guest), true) = (
            &self.guest,
            self.v2_controllers.contains(&Controller::Memory),
        ) else {
            return Ok(());
        };
        // More than the group itself has would have no effect, so there is nothing to take away.
        match wanted == [0, 0] {
            true => Ok(()),
            false => keep(guest, wanted),
        }
    }
}

/// Whether version 2 is mounted so that what a group is guaranteed holds for groups made inside it.
///
/// # Errors
/// When the list of mounts cannot be read.
pub fn guarantees_reach_inside() -> std::io::Result<bool> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    Ok(mounts.lines().any(reaches_inside))
}

fn reaches_inside(mount: &str) -> bool {
    mount.split_once(" - cgroup2 ").is_some_and(|(_, of_it)| {
        let options = of_it.rsplit(' ').next().unwrap_or_default();
        options
            .split(',')
            .any(|word| word == "memory_recursiveprot")
    })
}

fn kept(dir: &Dir) -> Result<Kept> {
    let mut all = Kept::default();
    for (bytes, file) in all.iter_mut().zip(FILES) {
        // A group that is ending keeps nothing.
        let text = dir.try_read(file)?.unwrap_or_default();
        *bytes = match text.trim() {
            "max" => u64::MAX,
            text => number(text).unwrap_or(0),
        };
    }
    Ok(all)
}

/// What the groups in a folder are guaranteed together.
fn promised(dir: &Dir) -> Result<Kept> {
    let children = walk::children(dir).map_err(|e| CgroupError::file("list", dir.path(), e))?;
    let mut sum = Kept::default();
    for name in children {
        if let Some(child) = dir.child(&name.to_string_lossy())? {
            for (sum, bytes) in sum.iter_mut().zip(kept(&child)?) {
                *sum = sum.saturating_add(bytes);
            }
        }
    }
    Ok(sum)
}

fn keep(dir: &Dir, wanted: Kept) -> Result<()> {
    for (bytes, file) in wanted.into_iter().zip(FILES) {
        fault::point().map_err(|e| CgroupError::file("limit", dir.path(), e.errno))?;
        dir.write(file, &word(bytes))?;
    }
    Ok(())
}

fn word(bytes: u64) -> String {
    match bytes {
        u64::MAX => "max".to_owned(),
        bytes => bytes.to_string(),
    }
}

/// The same through systemd, which would sooner or later write back what it does not know of.
fn keep_by_systemd(unit: &str, dir: &Dir, wanted: Kept) -> Result<()> {
    fault::point().map_err(|e| CgroupError::file("limit", dir.path(), e.errno))?;
    service::keep(unit, wanted)?;
    let until = Instant::now() + PATIENCE;
    while kept(dir)? != wanted {
        if Instant::now() > until {
            return Err(CgroupError::Service {
                unit: unit.to_owned(),
                said: format!(
                    "systemd was told to keep {} bytes of memory for it, and {} still says {}",
                    wanted[0].max(wanted[1]),
                    Path::new(dir.path()).display(),
                    kept(dir)?.into_iter().max().unwrap_or(0),
                ),
            });
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_option_is_looked_for_where_options_are() {
        let line = |options: &str| {
            format!("29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,{options}")
        };
        assert!(reaches_inside(&line("nsdelegate,memory_recursiveprot")));
        assert!(!reaches_inside(&line("nsdelegate")));
        let named = "30 23 0:27 / /memory_recursiveprot rw - tmpfs memory_recursiveprot rw";
        assert!(!reaches_inside(named));
    }
}
