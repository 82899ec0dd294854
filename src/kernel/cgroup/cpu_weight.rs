//! The CPU weight of a running group alone, for whoever gives many of them their parts.

use super::dir::{Dir, number};
use super::{CgroupError, Controller, Group, Result, v1};

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

    /// Gives it a weight of 1 to 10,000, and says whether it had another.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn weigh(&self, weight: u64) -> Result<bool> {
        let Some((dir, file)) = self.weight_file()? else {
            return Ok(false);
        };
        let wanted = self.as_written(weight);
        let other = self.weighs()? != Some(wanted);
        if other {
            dir.write(file, &wanted.to_string())?;
        }
        Ok(other)
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
        Ok::<_, CgroupError>(dir.has("cpu.weight").then_some((dir, "cpu.weight")))
    }
}
