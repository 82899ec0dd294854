//! All that changes from moment to moment in a group, for whoever looks at many groups often: each
//! file read once, and none that is not needed. Sums for an account are in `stats`, peaks and hits of
//! limits in `counters`.

use super::counters::{NO_LIMIT, throttling_limit, value};
use super::dir::{Dir, keyed};
use super::stats::Pressure;
use super::{Controller, Group, Result, Version};

/// A group at a moment; `None` for what this host does not keep, and for no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Glance {
    /// CPU time used, microseconds.
    pub cpu_us: u64,
    /// Limit in hundredths of a CPU.
    pub cpu_limit: Option<u64>,
    /// Bytes of memory charged.
    pub memory: Option<u64>,
    /// Those of them that hold pages of files.
    pub cache: Option<u64>,
    /// Most bytes of memory.
    pub memory_limit: Option<u64>,
    /// Bytes of swap beyond memory.
    pub swap: Option<u64>,
    /// Processes and threads.
    pub processes: Option<u64>,
    /// Most of them.
    pub processes_limit: Option<u64>,
    /// Bytes read from block devices and written to them.
    pub io: Option<(u64, u64)>,
    /// Waiting for a CPU.
    pub cpu_pressure: Option<Pressure>,
    /// Waiting for pages.
    pub memory_pressure: Option<Pressure>,
    /// Waiting for disks.
    pub io_pressure: Option<Pressure>,
}

impl Group {
    /// Looks at it; `None` when it has gone meanwhile.
    ///
    /// # Errors
    /// When a file that is there cannot be read.
    pub fn glance(&self) -> Result<Option<Glance>> {
        let stat = self.v2_dir()?.try_read("cpu.stat")?;
        let Some(cpu_us) = stat.and_then(|stat| keyed(&stat, "usage_usec")) else {
            return Ok(None);
        };
        let mut seen = Glance {
            cpu_us,
            io: self.io_bytes()?,
            cpu_pressure: self.pressure("cpu")?,
            memory_pressure: self.pressure("memory")?,
            io_pressure: self.pressure("io")?,
            ..Glance::default()
        };
        if let Ok((dir, version)) = self.home(Controller::Cpu) {
            seen.cpu_limit = throttling_limit(dir, version)?;
        }
        if let Ok((dir, version)) = self.home(Controller::Memory) {
            self.glance_memory(dir, version, &mut seen)?;
        }
        if let Ok((dir, _)) = self.home(Controller::Pids) {
            seen.processes = value(dir, "pids.current")?;
            seen.processes_limit = value(dir, "pids.max")?;
        }
        Ok(Some(seen))
    }

    fn glance_memory(&self, dir: &Dir, version: Version, seen: &mut Glance) -> Result<()> {
        let (held, limit, cache) = match version {
            Version::V1 => (
                "memory.usage_in_bytes",
                "memory.limit_in_bytes",
                "total_cache",
            ),
            Version::V2 => ("memory.current", "memory.max", "file"),
        };
        seen.memory = value(dir, held)?;
        seen.memory_limit = value(dir, limit)?.filter(|bytes| *bytes < NO_LIMIT);
        let stat = dir.try_read("memory.stat")?;
        seen.cache = stat.and_then(|stat| keyed(&stat, cache));
        seen.swap = match version {
            Version::V1 if self.swap => {
                let both = value(dir, "memory.memsw.usage_in_bytes")?;
                // Read one after the other, so the sum may have become smaller than its part.
                both.zip(seen.memory)
                    .map(|(both, memory)| both.saturating_sub(memory))
            }
            Version::V1 => None,
            Version::V2 => value(dir, "memory.swap.current")?,
        };
        Ok(())
    }
}
