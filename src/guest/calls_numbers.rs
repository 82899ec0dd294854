//! What the answers to a guest's calls (`calls`) are made of: its own files, read as the guest reads
//! them, so that the keeper brings them up to date first; and its clock.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};

use super::manager::Manager;
use crate::kernel::tree;
use crate::model::{CpuSet, GuestName, InsideFile, SystemInfo};

/// What was read this long ago is as good as new.
const QUICK: Duration = Duration::from_millis(100);

/// What the guest's files say.
pub(super) struct Numbers {
    folder: OwnedFd,
    /// What is to be added to the host's time since boot, nanoseconds.
    clock: i128,
    system: Option<(Instant, SystemInfo)>,
    cpus: Option<(Instant, CpuSet)>,
}

impl Numbers {
    pub(super) fn open(manager: &Manager, name: &GuestName) -> Option<Self> {
        let init = manager.run_state(name).ok()??.init?;
        let offsets = std::fs::read_to_string(format!("/proc/{}/timens_offsets", init.pid));
        Some(Self {
            folder: tree::open_root(&manager.inside_folder(name)).ok()?,
            clock: offsets
                .ok()
                .and_then(|text| boot_offset(&text))
                .unwrap_or(0),
            system: None,
            cpus: None,
        })
    }

    /// Opened each time: what was opened before the keeper watched it would never be made anew.
    fn read(&self, file: InsideFile) -> Option<String> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let fd = rustix::fs::openat(&self.folder, file.name(), flags, Mode::empty()).ok()?;
        let mut bytes = vec![0; 8192];
        let n = rustix::io::read(fd, &mut bytes).ok()?;
        String::from_utf8(bytes[..n].to_vec()).ok()
    }

    pub(super) fn system(&mut self) -> Option<SystemInfo> {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let nanoseconds = i128::from(now.tv_sec) * NANO + i128::from(now.tv_nsec) + self.clock;
        let uptime = u64::try_from((nanoseconds + NANO - 1) / NANO).unwrap_or(0);
        let fresh = self.system.filter(|(at, _)| at.elapsed() < QUICK);
        let system = match fresh {
            Some((_, system)) => system,
            None => {
                let (meminfo, loadavg) = (InsideFile::Meminfo, InsideFile::Loadavg);
                let (meminfo, loadavg) = (self.read(meminfo)?, self.read(loadavg)?);
                let system = SystemInfo::of_files(&meminfo, &loadavg, 0)?;
                self.system = Some((Instant::now(), system));
                system
            }
        };
        Some(SystemInfo { uptime, ..system })
    }

    pub(super) fn cpus(&mut self) -> Option<&CpuSet> {
        let fresh = self
            .cpus
            .as_ref()
            .is_some_and(|(at, _)| at.elapsed() < QUICK);
        if !fresh {
            let cpus = self.read(InsideFile::CpuOnline)?.trim().parse().ok()?;
            self.cpus = Some((Instant::now(), cpus));
        }
        self.cpus.as_ref().map(|(_, cpus)| cpus)
    }

    /// How many CPUs it was shown last.
    pub(super) fn shown(&self) -> usize {
        self.cpus.as_ref().map_or(1, |(_, cpus)| cpus.len())
    }
}

const NANO: i128 = 1_000_000_000;

/// Nanoseconds, from /proc/PID/timens_offsets.
fn boot_offset(text: &str) -> Option<i128> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("boottime"))?;
    let mut words = line.split_whitespace();
    let mut next = || words.next()?.parse::<i128>().ok();
    Some(next()? * NANO + next()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guests_clock_is_read_from_its_namespace() {
        let text = "monotonic           -20         5\nboottime            -10 500000000\n";
        assert_eq!(boot_offset(text), Some(-9_500_000_000));
        assert_eq!(boot_offset("monotonic 1 2\n"), None);
    }
}
