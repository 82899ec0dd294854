//! Bringing the processes of a group to rest: frozen, or dead. Waiting is done on `cgroup.events`,
//! which the kernel reports changes of, never by looking again and again. Version 2 does it on
//! hybrid hosts too, since every group has a folder there; the freezer of version 1, which can
//! hang half-way, is not used.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::{Pid, Signal};

use super::dir::{Dir, keyed};
use super::{CgroupError, Group, Result, walk};

impl Group {
    /// Stops every process where it is, and waits until all of them are.
    ///
    /// # Errors
    /// [`CgroupError::TimedOut`] when one cannot be stopped in time (it hangs in the kernel); the
    /// others then run again.
    pub fn freeze(&self, within: Duration) -> Result<()> {
        let dir = self.v2_dir()?;
        dir.write("cgroup.freeze", "1")?;
        if wait(dir, "frozen", 1, Instant::now() + within)? {
            return Ok(());
        }
        dir.write("cgroup.freeze", "0")?;
        Err(timed_out("freezing", dir, within))
    }

    /// Lets the processes run again.
    ///
    /// # Errors
    /// [`CgroupError::TimedOut`] when the kernel has not said so in time.
    pub fn thaw(&self, within: Duration) -> Result<()> {
        let dir = self.v2_dir()?;
        dir.write("cgroup.freeze", "0")?;
        if wait(dir, "frozen", 0, Instant::now() + within)? {
            return Ok(());
        }
        Err(timed_out("thawing", dir, within))
    }

    /// Whether every process is stopped.
    ///
    /// # Errors
    /// When the group cannot be read.
    pub fn frozen(&self) -> Result<bool> {
        let text = self.v2_dir()?.read("cgroup.events")?;
        Ok(keyed(&text, "frozen") == Some(1))
    }

    /// Whether a process lives inside, at any depth.
    ///
    /// # Errors
    /// When the group cannot be read.
    pub fn populated(&self) -> Result<bool> {
        let text = self.v2_dir()?.read("cgroup.events")?;
        Ok(keyed(&text, "populated") == Some(1))
    }

    /// Kills every process, frozen ones too, and waits until none is left. New ones cannot slip
    /// through: the kernel kills what forks meanwhile (`cgroup.kill`, Linux 5.14); on older ones
    /// the group is frozen for it.
    ///
    /// # Errors
    /// [`CgroupError::TimedOut`] when one hangs in the kernel.
    pub fn kill_all(&self, within: Duration) -> Result<()> {
        let until = Instant::now() + within;
        let Some(dir) = &self.v2 else {
            return self.kill_in_v1(until, within);
        };
        match dir.file("cgroup.kill", OFlags::WRONLY) {
            Ok(file) => {
                rustix::io::write(&file, b"1").map_err(|e| {
                    CgroupError::with_value("write", &dir.path().join("cgroup.kill"), "1", e)
                })?;
            }
            Err(Errno::NOENT) => signal_frozen(dir)?,
            Err(e) => {
                return Err(CgroupError::file(
                    "open",
                    &dir.path().join("cgroup.kill"),
                    e,
                ));
            }
        }
        if wait(dir, "populated", 0, until)? {
            return Ok(());
        }
        Err(timed_out("the end of the processes", dir, within))
    }

    /// For what a crash has left in version 1 only: signals until nobody is left.
    fn kill_in_v1(&self, until: Instant, within: Duration) -> Result<()> {
        for place in &self.v1 {
            loop {
                let pids = pids_in(&place.dir)?;
                if pids.is_empty() {
                    break;
                }
                if Instant::now() > until {
                    return Err(timed_out("the end of the processes", &place.dir, within));
                }
                signal(&pids);
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        Ok(())
    }

    /// Process numbers of those inside, at any depth, as this process's PID namespace has them.
    ///
    /// # Errors
    /// When the group cannot be read.
    pub fn processes(&self) -> Result<Vec<i32>> {
        let dirs = self.v2.iter().chain(self.v1.iter().map(|place| &place.dir));
        // Version 2 has them all; version 1 is asked only where there is no version 2.
        dirs.take(1).map(pids_in).next().unwrap_or(Ok(Vec::new()))
    }
}

pub(super) fn timed_out(what: &'static str, dir: &Dir, after: Duration) -> CgroupError {
    CgroupError::TimedOut {
        what,
        path: dir.path().to_owned(),
        after,
    }
}

/// Process numbers in a group and all groups below.
pub(super) fn pids_in(dir: &Dir) -> Result<Vec<i32>> {
    let mut pids = Vec::new();
    walk::each_group(dir, |group| {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(group, c"cgroup.procs", flags, rustix::fs::Mode::empty())?;
        match read_pids(&file, &mut pids) {
            // A threaded group lists its processes in the group above.
            Err(Errno::OPNOTSUPP) => Ok(()),
            other => other,
        }
    })
    .map_err(|e| CgroupError::file("read the processes of", dir.path(), e))?;
    Ok(pids)
}

pub(super) fn read_pids(file: &OwnedFd, pids: &mut Vec<i32>) -> rustix::io::Result<()> {
    let mut text = Vec::new();
    let mut page = [0_u8; 4096];
    loop {
        match rustix::io::read(file, &mut page)? {
            0 => break,
            n => text.extend_from_slice(&page[..n]),
        }
    }
    let text = String::from_utf8_lossy(&text);
    // Zero is a process of another PID namespace.
    pids.extend(
        text.lines()
            .filter_map(|l| l.parse::<i32>().ok())
            .filter(|&pid| pid > 0),
    );
    Ok(())
}

/// Kills processes one by one.
pub(super) fn signal(pids: &[i32]) {
    for pid in pids.iter().filter_map(|&pid| Pid::from_raw(pid)) {
        // Gone already is as good.
        let _gone = rustix::process::kill_process(pid, Signal::KILL);
    }
}

/// Before Linux 5.14: frozen, nobody forks or exits, so the numbers stay right; a frozen process
/// of version 2 dies when it is killed.
fn signal_frozen(dir: &Dir) -> Result<()> {
    dir.write("cgroup.freeze", "1")?;
    wait(
        dir,
        "frozen",
        1,
        Instant::now() + Duration::from_millis(200),
    )?;
    let listed = pids_in(dir);
    if let Ok(pids) = &listed {
        signal(pids);
    }
    dir.write("cgroup.freeze", "0")?;
    listed.map(|_| ())
}

/// Waits until `key` has the value `want` in `cgroup.events`; says whether it came to that. A
/// group that is gone counts as having come to it.
pub(super) fn wait(dir: &Dir, key: &str, want: u64, until: Instant) -> Result<bool> {
    let failed = |e| CgroupError::file("wait on", &dir.path().join("cgroup.events"), e);
    let file = match dir.file("cgroup.events", OFlags::RDONLY) {
        Err(Errno::NOENT | Errno::NODEV) => return Ok(true),
        file => file.map_err(failed)?,
    };
    let mut page = [0_u8; 256];
    loop {
        let n = match rustix::io::pread(&file, &mut page, 0) {
            Err(Errno::NODEV) => return Ok(true),
            n => n.map_err(failed)?,
        };
        if keyed(&String::from_utf8_lossy(&page[..n]), key) == Some(want) {
            return Ok(true);
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        let left = Timespec::try_from(left).map_err(|_| failed(Errno::INVAL))?;
        let mut polled = [PollFd::new(&file, PollFlags::PRI)];
        match rustix::event::poll(&mut polled, Some(&left)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(failed(e)),
        }
    }
}
