//! Counters of a group, each file read once. Keeping them over time belongs to the meter.

use std::path::Path;

use rustix::io::Errno;

use super::dir::{Dir, keyed, number};
use super::{CgroupError, Controller, Group, Parent, Result, Version};
use crate::model::Sample;

/// How long processes of a group waited for something: the lines of a pressure file (PSI, Linux
/// 4.20), in hundredths of a percent of the last 10 seconds, and microseconds in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    /// Some process waited, hundredths of a percent of the last 10 s.
    pub some_10s: u32,
    /// Some process waited, microseconds since the group was made.
    pub some_total_us: u64,
    /// All processes waited, hundredths of a percent of the last 10 s.
    pub full_10s: u32,
    /// All processes waited, microseconds since the group was made.
    pub full_total_us: u64,
}

impl Group {
    /// Reads the counters. What this host does not count stays 0.
    ///
    /// # Errors
    /// When a file that is there cannot be read.
    pub fn stats(&self) -> Result<Sample> {
        let mut sample = Sample::default();
        self.cpu_stats(&mut sample)?;
        match self.home(Controller::Memory) {
            Ok((dir, Version::V1)) => memory_v1(dir, self.swap, &mut sample)?,
            Ok((dir, Version::V2)) => memory_v2(dir, &mut sample)?,
            Err(_) => {}
        }
        match self.home(Controller::Pids) {
            Ok((dir, _)) => sample.processes = value(dir, "pids.current")?,
            Err(_) => sample.processes = self.processes()?.len() as u64,
        }
        for disk in self.disk_use()? {
            sample.io_read += disk.read_bytes;
            sample.io_write += disk.written_bytes;
            sample.io_reads += disk.reads;
            sample.io_writes += disk.writes;
        }
        Ok(sample)
    }

    /// Bytes read from block devices and written to them; `None` where that is not counted.
    pub(super) fn io_bytes(&self) -> Result<Option<(u64, u64)>> {
        Ok(match self.home(Controller::Io) {
            Ok((dir, Version::V1)) => dir
                .try_read("blkio.throttle.io_service_bytes_recursive")?
                .map(|text| io_v1(&text)),
            Ok((dir, Version::V2)) => dir.try_read("io.stat")?.map(|text| io_v2(&text)),
            Err(_) => None,
        })
    }

    /// Version 2 counts CPU time in every group, whether or not it has the controller; held back
    /// is counted where the limit is.
    fn cpu_stats(&self, sample: &mut Sample) -> Result<()> {
        if let Some(dir) = &self.v2 {
            let stat = text(dir, "cpu.stat")?;
            sample.cpu_us = keyed(&stat, "usage_usec").unwrap_or(0);
            sample.throttled = keyed(&stat, "nr_throttled").unwrap_or(0);
        }
        if let Some(dir) = self.v1_dir(Controller::Cpu) {
            let stat = text(dir, "cpu.stat")?;
            sample.throttled = keyed(&stat, "nr_throttled").unwrap_or(0);
        }
        Ok(())
    }

    /// How long processes waited for `cpu`, `memory` or `io`; `None` when this host does not keep
    /// it.
    ///
    /// # Errors
    /// When the file is there and cannot be read.
    pub fn pressure(&self, resource: &str) -> Result<Option<Pressure>> {
        match self.v2_dir()?.try_read(&format!("{resource}.pressure")) {
            // Booted with psi=0, some kernels have the file all the same.
            Err(error) if error.errno() == Some(Errno::OPNOTSUPP.raw_os_error()) => Ok(None),
            text => Ok(text?.map(|text| pressure(&text))),
        }
    }

    /// How many processes were killed because the group ran out of memory.
    pub(super) fn oom_kills(&self) -> Result<u64> {
        Ok(match self.home(Controller::Memory)? {
            (dir, Version::V1) => keyed(&text(dir, "memory.oom_control")?, "oom_kill"),
            (dir, Version::V2) => keyed(&text(dir, "memory.events")?, "oom_kill"),
        }
        .unwrap_or(0))
    }
}

impl Parent {
    /// CPU time that all groups in it have used, those that are gone as well, since it was made;
    /// microseconds.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn cpu_us(&self) -> Result<u64> {
        Ok(keyed(&text(&self.v2, "cpu.stat")?, "usage_usec").unwrap_or(0))
    }
}

/// How long processes of the whole host waited for `cpu`, `memory` or `io` since the boot; `None`
/// when this kernel does not keep it.
///
/// # Errors
/// When the file is there and cannot be read.
pub fn host_pressure(resource: &str) -> Result<Option<Pressure>> {
    let path = Path::new("/proc/pressure").join(resource);
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Some(pressure(&text))),
        Err(error) => match error.raw_os_error().map(Errno::from_raw_os_error) {
            // Booted with psi=0, some kernels have the file all the same.
            Some(Errno::NOENT | Errno::OPNOTSUPP) => Ok(None),
            errno => Err(CgroupError::file("read", &path, errno.unwrap_or(Errno::IO))),
        },
    }
}

fn text(dir: &Dir, file: &str) -> Result<String> {
    Ok(dir.try_read(file)?.unwrap_or_default())
}

fn value(dir: &Dir, file: &str) -> Result<u64> {
    Ok(number(&text(dir, file)?).unwrap_or(0))
}

fn memory_v1(dir: &Dir, swap: bool, sample: &mut Sample) -> Result<()> {
    sample.memory = value(dir, "memory.usage_in_bytes")?;
    sample.memory_peak = value(dir, "memory.max_usage_in_bytes")?;
    if swap {
        let both = value(dir, "memory.memsw.usage_in_bytes")?;
        // Read one after the other, so the sum may have become smaller than its part.
        sample.swap = both.saturating_sub(sample.memory);
    }
    sample.oom_kills = keyed(&text(dir, "memory.oom_control")?, "oom_kill").unwrap_or(0);
    Ok(())
}

fn memory_v2(dir: &Dir, sample: &mut Sample) -> Result<()> {
    sample.memory = value(dir, "memory.current")?;
    sample.memory_peak = value(dir, "memory.peak")?;
    sample.swap = value(dir, "memory.swap.current")?;
    sample.oom_kills = keyed(&text(dir, "memory.events")?, "oom_kill").unwrap_or(0);
    Ok(())
}

/// Bytes read and written, from lines `8:0 Read 4096`.
fn io_v1(text: &str) -> (u64, u64) {
    let mut sums = (0, 0);
    for line in text.lines() {
        let mut words = line.split(' ');
        if let (Some(_), Some(kind), Some(n)) = (words.next(), words.next(), words.next()) {
            let n: u64 = n.parse().unwrap_or(0);
            match kind {
                "Read" => sums.0 += n,
                "Write" => sums.1 += n,
                _ => {}
            }
        }
    }
    sums
}

/// Bytes read and written, from lines `8:0 rbytes=4096 wbytes=0 rios=1 …`.
fn io_v2(text: &str) -> (u64, u64) {
    let mut sums = (0, 0);
    for word in text.split_whitespace() {
        match word.split_once('=') {
            Some(("rbytes", n)) => sums.0 += n.parse().unwrap_or(0),
            Some(("wbytes", n)) => sums.1 += n.parse().unwrap_or(0),
            _ => {}
        }
    }
    sums
}

fn pressure(text: &str) -> Pressure {
    let mut out = Pressure::default();
    for line in text.lines() {
        let of = |key: &str| line.split(' ').find_map(|w| w.strip_prefix(key));
        let recent = of("avg10=").map(|w| w.replace('.', ""));
        let recent = recent.and_then(|w| w.parse().ok()).unwrap_or(0);
        let total = of("total=").and_then(|w| w.parse().ok()).unwrap_or(0);
        if line.starts_with("some") {
            (out.some_10s, out.some_total_us) = (recent, total);
        } else if line.starts_with("full") {
            (out.full_10s, out.full_total_us) = (recent, total);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn io_of_both_versions() {
        let v1 = "254:0 Read 100\n254:0 Write 30\n254:0 Sync 9\n8:0 Read 1\nTotal 140\n";
        let v2 = "254:0 rbytes=100 wbytes=30 rios=2\n8:0 rbytes=1 wbytes=0\n";
        assert_eq!(io_v1(v1), (101, 30));
        assert_eq!(io_v2(v2), (101, 30));
    }

    #[test]
    fn pressure_in_hundredths_of_a_percent() {
        let text = "some avg10=12.34 avg60=0.00 avg300=0.00 total=98765\n\
                    full avg10=0.05 avg60=0.00 avg300=0.00 total=7\n";
        let p = pressure(text);
        assert_eq!((p.some_10s, p.some_total_us), (1234, 98765));
        assert_eq!((p.full_10s, p.full_total_us), (5, 7));
    }
}
