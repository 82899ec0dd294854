//! The CPU limit of a running group alone, for whoever changes it often: no other limit is looked at.

use std::collections::BTreeSet;

use super::limits::Extent;
use super::update::Journal;
use super::{Controller, Group, Limits, Result};

impl Group {
    /// Gives it another CPU limit, microseconds in each 100 ms, and so much unused time beyond that.
    ///
    /// # Errors
    /// As [`Group::update`]; what was in force is then in force again.
    pub fn limit_cpu(&self, quota_us: Option<u64>, burst_us: u64) -> Result<()> {
        let limits = Limits {
            cpu_quota_us: quota_us,
            cpu_burst_us: quota_us.map(|_| burst_us),
            ..Limits::default()
        };
        let mut knobs = limits.knobs(&self.site(""), Extent::Full)?;
        // Its share is not this one's to take away.
        let share = |file: &str| matches!(file, "cpu.weight" | "cpu.shares");
        knobs.retain(|knob| knob.controller == Controller::Cpu && !share(knob.file));
        let mut journal = Journal::default();
        // An older kernel has no burst, and then there is none to take away.
        let wanted: BTreeSet<&str> = knobs.iter().map(|knob| knob.file).collect();
        let wanted = match burst_us {
            0 => BTreeSet::new(),
            _ => wanted,
        };
        let done = self.write_all(&knobs, &wanted, &mut journal);
        done.map_err(|error| journal.put_back(error))
    }
}
