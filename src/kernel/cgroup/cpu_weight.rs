//! The CPU weight of a running group alone, for whoever gives many of them their parts, and what all
//! of them together weigh beside the host's own programs.

use super::dir::{Dir, number};
use super::{CgroupError, Controller, Group, Parent, Result, service, v1, walk};

/// Of version 2.
const WEIGHT: &str = "cpu.weight";
const MOST: u64 = 10_000;

impl Group {
    /// What it weighs, as the kernel writes it: version 1 in shares. `None` without a CPU controller.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn weighs(&self) -> Result<Option<u64>> {
        match self.weight_file()? {
            Some((dir, file)) => Ok(dir.try_read(file)?.and_then(|text| number(&text))),
            None => Ok(None),
        }
    }

    /// Gives it a weight of 1 to 10,000.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn weigh(&self, weight: u64) -> Result<()> {
        match self.weight_file()? {
            Some((dir, file)) => write_other(dir, file, self.as_written(weight)),
            None => Ok(()),
        }
    }

    /// A weight as its file has it.
    #[must_use]
    pub fn as_written(&self, weight: u64) -> u64 {
        match self.v1_dir(Controller::Cpu) {
            Some(_) => v1::shares(weight),
            None => weight,
        }
    }

    fn weight_file(&self) -> Result<Option<(&Dir, &'static str)>> {
        if let Some(dir) = self.v1_dir(Controller::Cpu) {
            return Ok(Some((dir, "cpu.shares")));
        }
        let dir = self.v2_dir()?;
        Ok(dir.has(WEIGHT).then_some((dir, WEIGHT)))
    }
}

impl Parent {
    /// What the host's programs weigh together beside all groups, where the kernel knows: under systemd
    /// with version 2 they are in slices beside ours.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn others_weigh(&self) -> Result<Option<u64>> {
        let Some(slice) = self.cpu_slice()? else {
            return Ok(None);
        };
        let above = slice.path().parent().map(Dir::open).transpose()?;
        let Some(above) = above.flatten() else {
            return Ok(None);
        };
        Ok(Some(weights(&above)?.saturating_sub(weight_of(&slice)?)))
    }

    /// Gives the folder of all groups a weight, of which version 2 takes at most 10,000. Under systemd
    /// its slice has those of all services in it together.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn weigh_beside_host(&self, weight: u64) -> Result<()> {
        if let Some(dir) = self.v1_cpu() {
            return write_other(dir, "cpu.shares", v1::shares(weight));
        }
        if !self.v2.has(WEIGHT) {
            return Ok(());
        }
        write_other(&self.v2, WEIGHT, weight.min(MOST))?;
        match self.cpu_slice()? {
            Some(slice) => write_other(&slice, WEIGHT, weights(&slice)?.clamp(1, MOST)),
            None => Ok(()),
        }
    }

    /// Whether it has that weight.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn weighs_beside_host(&self, weight: u64) -> Result<bool> {
        let (dir, file, wanted) = match self.v1_cpu() {
            Some(dir) => (dir, "cpu.shares", v1::shares(weight)),
            None => (&self.v2, WEIGHT, weight.min(MOST)),
        };
        let there = dir.try_read(file)?.and_then(|text| number(&text));
        Ok(there.is_none_or(|there| there == wanted))
    }

    fn v1_cpu(&self) -> Option<&Dir> {
        let has_cpu = |controllers: &[Controller]| controllers.contains(&Controller::Cpu);
        let mut all = self.v1.iter();
        let found = all.find(|(hierarchy, _)| has_cpu(&hierarchy.controllers));
        found.and_then(|(_, dir)| dir.as_ref())
    }

    fn cpu_slice(&self) -> Result<Option<Dir>> {
        match (self.v1_cpu(), self.v2.path().parent()) {
            (None, Some(above)) if above.ends_with(service::SLICE) => Dir::open(above),
            _ => Ok(None),
        }
    }
}

fn weight_of(dir: &Dir) -> Result<u64> {
    let text = dir.try_read(WEIGHT)?;
    Ok(text.and_then(|text| number(&text)).unwrap_or(0))
}

/// What the groups in a folder weigh together.
fn weights(dir: &Dir) -> Result<u64> {
    let children = walk::children(dir).map_err(|e| CgroupError::file("list", dir.path(), e))?;
    let mut sum = 0_u64;
    for name in children {
        if let Some(child) = dir.child(&name.to_string_lossy())? {
            sum = sum.saturating_add(weight_of(&child)?);
        }
    }
    Ok(sum)
}

fn write_other(dir: &Dir, file: &str, value: u64) -> Result<()> {
    match dir.try_read(file)?.and_then(|text| number(&text)) {
        Some(there) if there == value => Ok(()),
        _ => dir.write(file, &value.to_string()),
    }
}
