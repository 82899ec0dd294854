//! The processes of a container's groups: stopped, let run, listed, signalled. Where there is a
//! version 2 hierarchy, beside version 1 too, its freezer and its killing are used, because a
//! process that version 1 has frozen cannot be killed; version 1 alone has only that.
#![allow(unsafe_code)]

use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::container::Cgroups;
use super::dir::Dir;
use super::quiet::{pids_in, read_pids, timed_out, wait};
use super::{CgroupError, Host, Result};

/// How long the processes of a container may take to stop.
const STOP: Duration = Duration::from_secs(10);
/// The same, when they are only stopped to be signalled.
const STOP_BRIEFLY: Duration = Duration::from_millis(500);

impl Cgroups {
    /// Stops every process where it is, and waits until all of them are.
    ///
    /// # Errors
    /// [`CgroupError::TimedOut`] when one cannot be stopped (it hangs in the kernel); the others
    /// then run again.
    pub fn freeze(&self) -> Result<()> {
        self.freeze_within(STOP)
    }

    fn freeze_within(&self, within: Duration) -> Result<()> {
        let until = Instant::now() + within;
        if let Some(slot) = &self.v2 {
            slot.dir.write("cgroup.freeze", "1")?;
            if wait(&slot.dir, "frozen", 1, until)? {
                return Ok(());
            }
            slot.dir.write("cgroup.freeze", "0")?;
            return Err(timed_out("freezing", &slot.dir, within));
        }
        let dir = self.freezer()?;
        let mut pause = Duration::from_micros(50);
        // Somebody who forks meanwhile leaves it half-way: written again, it takes them in.
        while Instant::now() < until {
            dir.write("freezer.state", "FROZEN")?;
            if dir.read("freezer.state")?.trim() == "FROZEN" {
                return Ok(());
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(10));
        }
        dir.write("freezer.state", "THAWED")?;
        Err(timed_out("freezing", dir, within))
    }

    /// Lets the processes run again, whichever freezer has stopped them.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn thaw(&self) -> Result<()> {
        if let Some(slot) = &self.v2 {
            slot.dir.write("cgroup.freeze", "0")?;
        }
        match self.v1_dir("freezer") {
            Some(dir) => dir.write("freezer.state", "THAWED"),
            None => Ok(()),
        }
    }

    /// Whether the container is stopped, by its own groups (not by one above).
    ///
    /// # Errors
    /// When the groups cannot be read.
    pub fn is_frozen(&self) -> Result<bool> {
        match &self.v2 {
            Some(slot) => Ok(slot.dir.read("cgroup.freeze")?.trim() == "1"),
            None => match self.v1_dir("freezer") {
                Some(dir) => Ok(dir.read("freezer.self_freezing")?.trim() == "1"),
                None => Ok(false),
            },
        }
    }

    /// Process numbers of those inside; at any depth if `recursive`.
    ///
    /// # Errors
    /// When the group cannot be read.
    pub fn pids(&self, recursive: bool) -> Result<Vec<i32>> {
        let Some(dir) = self.first_dir() else {
            return Ok(Vec::new());
        };
        if recursive {
            return pids_in(dir);
        }
        let mut pids = Vec::new();
        dir.file("cgroup.procs", OFlags::RDONLY)
            .and_then(|file| match read_pids(&file, &mut pids) {
                // A threaded group lists its processes in the group above.
                Err(Errno::OPNOTSUPP) => Ok(()),
                done => done,
            })
            .map_err(|e| CgroupError::file("read the processes of", dir.path(), e))?;
        Ok(pids)
    }

    /// Sends a signal to every process inside. Nobody slips through by forking: SIGKILL goes by
    /// `cgroup.kill` (Linux 5.14), anything else while they are stopped. SIGKILL also takes a
    /// frozen container out of its sleep; with another signal it sleeps on and has it afterwards.
    /// Does not wait for the processes to end.
    ///
    /// # Errors
    /// When the groups cannot be read or written.
    pub fn kill(&self, signal: i32) -> Result<()> {
        if signal == libc::SIGKILL {
            return self.kill_all();
        }
        let asleep = self.is_frozen()?;
        // One that cannot be stopped is signalled running.
        let _running = self.freeze_within(STOP_BRIEFLY);
        let sent = self.pids(true).map(|pids| send(&pids, signal));
        if !asleep {
            self.thaw()?;
        }
        sent
    }

    fn kill_all(&self) -> Result<()> {
        if let Some(slot) = &self.v2 {
            match slot.dir.file("cgroup.kill", OFlags::WRONLY) {
                Ok(file) => {
                    rustix::io::write(&file, b"1").map_err(|e| {
                        let path = slot.dir.path().join("cgroup.kill");
                        CgroupError::with_value("write", &path, "1", e)
                    })?;
                    return self.thaw_v1();
                }
                Err(Errno::NOENT) => {}
                Err(e) => return Err(CgroupError::file("kill", slot.dir.path(), e)),
            }
        }
        let _running = self.freeze_within(STOP_BRIEFLY);
        let sent = self.pids(true).map(|pids| send(&pids, libc::SIGKILL));
        self.thaw()?;
        sent
    }

    fn thaw_v1(&self) -> Result<()> {
        match self.v1_dir("freezer") {
            Some(dir) => dir.write("freezer.state", "THAWED"),
            None => Ok(()),
        }
    }

    /// Takes processes out of whichever freezer of version 1 holds them, a group of the container's
    /// own making or one of somebody else's: what was killed there dies only when it is let go.
    /// The top of the hierarchy, where they go, is never frozen.
    ///
    /// # Errors
    /// When the hierarchy cannot be written to.
    pub fn out_of_freezer(host: &Host, pids: &[i32]) -> Result<()> {
        let Some(top) = host.v1.get("freezer") else {
            return Ok(());
        };
        let path = top.join("cgroup.procs");
        for pid in pids.iter().filter(|pid| **pid > 0) {
            // A number a write; it may be gone meanwhile.
            let file = rustix::fs::open(&path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
                .map_err(|errno| CgroupError::file("open", &path, errno))?;
            match rustix::io::write(&file, pid.to_string().as_bytes()) {
                Ok(_) | Err(Errno::SRCH) => {}
                Err(e) => return Err(CgroupError::with_value("write", &path, &pid.to_string(), e)),
            }
        }
        Ok(())
    }

    fn first_dir(&self) -> Option<&Dir> {
        // Version 2 has them all; version 1 is asked only where there is no version 2.
        self.v2.iter().chain(&self.v1).map(|slot| &slot.dir).next()
    }

    fn freezer(&self) -> Result<&Dir> {
        self.v1_dir("freezer").ok_or(CgroupError::Unsupported {
            what: "stopping a container",
            mode: self.mode,
            why: "neither version 2 nor the version 1 controller freezer is mounted",
        })
    }
}

/// Signals processes one by one.
fn send(pids: &[i32], signal: i32) {
    for &pid in pids.iter().filter(|&&pid| pid > 0) {
        // SAFETY: kill(2) takes two numbers and touches no memory of ours; a positive number names
        // one process. That it is gone already is as good.
        let _gone = unsafe { libc::kill(pid, signal) };
    }
}
