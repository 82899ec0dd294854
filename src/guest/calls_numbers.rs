//! What the answers to a guest's calls (`calls`) are made of: its own files, read as the guest reads
//! them, so that the keeper brings them up to date first; and its clock.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};

use super::manager::Manager;
use crate::kernel::process_use::number_inside;
use crate::kernel::seccomp::notify::{self, Answer, Call};
use crate::kernel::{Errno, schedule, tree};
use crate::model::{Arch, CpuSet, GuestName, InsideFile, SystemInfo, shown_affinity};

/// What was read this long ago is as good as new.
const QUICK: Duration = Duration::from_millis(100);
/// Nobody sends more bytes than this as a set of CPUs.
const LONGEST_MASK: usize = 1 << 16;

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

/// `None` where the kernel is to answer.
pub(super) fn system(
    listener: BorrowedFd<'_>,
    call: &Call,
    arch: Arch,
    numbers: &mut Numbers,
) -> Option<Answer> {
    let bytes = numbers.system()?.bytes(arch)?;
    fill_in(listener, call, call.arguments[0], &bytes, 0)
}

/// As sched_getaffinity(2) of the kernel has it: the number of bytes is returned, and there must be
/// room for all CPUs that the machine can have.
pub(super) fn affinity(
    listener: BorrowedFd<'_>,
    call: &Call,
    arch: Arch,
    numbers: &mut Numbers,
) -> Option<Answer> {
    let [who, room, address, ..] = call.arguments;
    // Both are 32 bits wide, whatever the registers hold.
    let (who, room) = (who & 0xffff_ffff, room & 0xffff_ffff);
    if who != 0 {
        let own = i32::try_from(call.thread).ok().and_then(number_inside);
        if Some(who) != own.map(u64::from) {
            return None;
        }
    }
    let room = usize::try_from(room).ok()?.min(LONGEST_MASK);
    let asked = match arch {
        Arch::I386 if room % 4 == 0 => room.next_multiple_of(8),
        _ => room,
    };
    let real = match schedule::affinity_of(call.thread, asked) {
        Ok(real) => real,
        Err(errno @ Errno::INVAL) => return Some(Answer::Fails(errno)),
        Err(_) => return None,
    };
    let mut told = shown_affinity(&real, numbers.cpus()?);
    if told.iter().skip(room).any(|byte| *byte != 0) {
        return Some(Answer::Fails(Errno::INVAL));
    }
    told.truncate(room);
    let length = i64::try_from(told.len()).ok()?;
    fill_in(listener, call, address, &told, length)
}

pub(super) fn fill_in(
    listener: BorrowedFd<'_>,
    call: &Call,
    address: u64,
    bytes: &[u8],
    value: i64,
) -> Option<Answer> {
    match notify::write_to_caller(listener, call, address, bytes) {
        Ok(()) => Some(Answer::Value(value)),
        Err(errno @ Errno::FAULT) => Some(Answer::Fails(errno)),
        Err(_) => None,
    }
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
