//! What a guest reads in its own files below /proc and /sys before its keeper stands: written at the
//! start, out of its definition. What becomes of them then is next door in `inside`.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags};

use super::error::Result;
use super::inside::{cpu_list, cpuinfo, host_size};
use super::inside_text::{self as text, CpuTimes};
use super::manager::{Manager, now_ms};
use super::store::Machine;
use crate::kernel::cgroup::MemoryUse;
use crate::kernel::{KernelError, fault, tree};
use crate::model::{EVENTS_INSIDE, Guest, GuestName, InsideFile, ShownFolder, View};

impl Manager {
    pub(super) fn inside_folder(&self, name: &GuestName) -> PathBuf {
        self.layout.guest_run(name).join("inside")
    }

    /// What is laid over the kernel's files in this guest.
    pub(super) fn shown_inside(&self, guest: &Guest) -> Option<ShownFolder> {
        let shown = guest.view != View::Host && self.facts.read_watch;
        shown.then(|| ShownFolder::of(&self.inside_folder(&guest.name)))
    }

    /// Writes the files as they are at the start, before the guest exists.
    pub(super) fn write_inside(&self, guest: &Guest, machine: &Machine) -> Result<()> {
        let Some(shown) = self.shown_inside(guest) else {
            return Ok(());
        };
        // Whoever started us may keep new files from others' eyes; in the guest everybody reads these.
        let before = rustix::process::umask(Mode::empty());
        let done = self.write_shown(&shown, guest, machine.ids.base);
        rustix::process::umask(before);
        done
    }

    fn write_shown(&self, shown: &ShownFolder, guest: &Guest, owner: u32) -> Result<()> {
        // The guest's first process has to find them by name; on the host the folder above is closed.
        rustix::fs::mkdir(&shown.folder, Mode::from_raw_mode(0o755))
            .map_err(KernelError::on("make", shown.folder.display()))?;
        fault::point()?;
        let folder = tree::open_root(&shown.folder)?;
        for kind in InsideFile::ALL {
            let text = self.first_text(kind, guest);
            write_new(folder.as_fd(), kind.name(), &text, owner)?;
        }
        // The host's own, so that the guest cannot hold a lease on it (fcntl(2)).
        write_new(folder.as_fd(), EVENTS_INSIDE.0, "", 0)?;
        Ok(())
    }

    /// What a guest reads before its keeper stands.
    fn first_text(&self, kind: InsideFile, guest: &Guest) -> String {
        let memory = MemoryUse {
            limit: Some(guest.memory.limit.0),
            swap_limit: Some(guest.memory.swap.0),
            ..MemoryUse::default()
        };
        let limit = guest.cpu.limit.map(|cpus| u64::from(cpus.hundredths()));
        let allowed = self.cpus_at_first(guest);
        let cpus = text::cpus(allowed.iter(), limit);
        let host = host_size(self.facts.memory);
        match kind {
            InsideFile::Meminfo => text::meminfo(&memory, host),
            InsideFile::NodeMeminfo => text::node_meminfo(&memory, host),
            InsideFile::Swaps => text::swaps(&memory, host),
            InsideFile::Vmstat => text::vmstat(&memory, &[], host),
            InsideFile::Diskstats => String::new(),
            InsideFile::Loadavg => text::loadavg([0.0; 3], 1, 1),
            InsideFile::Cpuinfo => cpuinfo(&self.cpuinfo_path(), &cpus),
            InsideFile::CpuOnline | InsideFile::CpuPresent => cpu_list(&cpus),
            InsideFile::Stat => {
                let mut times = CpuTimes {
                    began: self.clock_began(),
                    ..CpuTimes::default()
                };
                times.advance(0, 0, 0, &cpus);
                text::stat(&times, 1, 0)
            }
        }
    }

    /// The second at which clocks that count from boot began, as the guest will see it.
    fn clock_began(&self) -> u64 {
        let now = now_ms() / 1000;
        if self.facts.time_namespace {
            return now;
        }
        let up = rustix::system::sysinfo().uptime;
        now.saturating_sub(u64::try_from(up).unwrap_or(0))
    }

    /// The host's /proc/cpuinfo of this boot: reading the kernel's asks every CPU.
    pub(super) fn cpuinfo_path(&self) -> PathBuf {
        self.layout.run().join("cpuinfo")
    }
}

/// `owner` is the host id of whom it is.
fn write_new(
    folder: BorrowedFd<'_>,
    name: &str,
    text: &str,
    owner: u32,
) -> std::result::Result<(), KernelError> {
    let flags = OFlags::CREATE | OFlags::TRUNC | OFlags::WRONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(folder, name, flags, Mode::from_raw_mode(0o444));
    let (uid, gid) = (
        rustix::fs::Uid::from_raw(owner),
        rustix::fs::Gid::from_raw(owner),
    );
    file.and_then(|file| {
        rustix::fs::fchown(&file, Some(uid), Some(gid))?;
        rustix::io::write(&file, text.as_bytes())
    })
    .map(drop)
    .map_err(KernelError::on("write the guest's", name))
}
