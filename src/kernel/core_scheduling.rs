//! Core scheduling (prctl(2) PR_SCHED_CORE, Linux 5.14): processes with one cookie share the threads of
//! a core with each other and with nobody else at the same moment. A child has its parent's cookie.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;
use rustix::process::{Pid, getpid};
use rustix::thread::{
    CoreSchedulingScope, core_scheduling_cookie, create_core_scheduling_cookie,
    pull_core_scheduling_cookie,
};

use super::error::{KernelError, Result};
use crate::model::CoreScheduling;

/// Whether it can be had here.
#[must_use]
pub fn possible() -> CoreScheduling {
    match core_scheduling_cookie(getpid(), CoreSchedulingScope::Thread) {
        Ok(_) => CoreScheduling::Possible,
        Err(Errno::NODEV) => CoreScheduling::NoThreads,
        Err(_) => CoreScheduling::Missing,
    }
}

/// Gives this process a new cookie, which nobody has yet.
pub fn begin() -> Result<()> {
    create_core_scheduling_cookie(getpid(), CoreSchedulingScope::ThreadGroup).map_err(|errno| {
        KernelError::new("keep other guests off", "the cores it runs on", errno)
            .because("this kernel has no core scheduling, or no core has two threads any more")
    })
}

/// Gives this process the cookie of another, which stays what it is as long as the descriptor is held.
/// When no core has two threads any more there is nobody to keep off, and nothing to do.
pub fn join(process: BorrowedFd<'_>) -> Result<()> {
    let what = "the cookie of the guest's cores";
    let file = format!("/proc/self/fdinfo/{}", process.as_raw_fd());
    let text = std::fs::read_to_string(&file).map_err(KernelError::io("read", &file))?;
    let pid = number(&text).ok_or_else(|| KernelError::new("take", what, Errno::SRCH))?;
    match pull_core_scheduling_cookie(pid, CoreSchedulingScope::Thread) {
        Err(Errno::NODEV) => Ok(()),
        other => other.map_err(KernelError::on("take", what)),
    }
}

/// The process of a pidfd; `None` for one that has ended, or is nobody's here.
fn number(fdinfo: &str) -> Option<Pid> {
    let line = fdinfo.lines().find_map(|line| line.strip_prefix("Pid:"))?;
    Pid::from_raw(line.trim().parse().ok().filter(|pid| *pid > 0)?)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn the_process_of_a_pidfd_is_known_until_it_ends() {
        let mut child = std::process::Command::new("sleep")
            .arg("1000")
            .spawn()
            .unwrap();
        let pidfd = crate::kernel::process::open_pid(child.id()).unwrap();
        let file = format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd());
        let text = || std::fs::read_to_string(&file).unwrap();
        let pid = number(&text()).unwrap();
        assert_eq!(u32::try_from(pid.as_raw_pid()).unwrap(), child.id());
        // Where there is no core scheduling that is refused, and else it is taken on, or not needed.
        let done = join(pidfd.as_fd());
        assert_eq!(done.is_ok(), possible() != CoreScheduling::Missing);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(number(&text()), None);
        assert!(join(pidfd.as_fd()).is_err());
    }
}
