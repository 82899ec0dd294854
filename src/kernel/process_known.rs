//! A process as a file names it, also across the machine's next start.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::process::{Identity, open_pid, wait_gone};

/// Magic number of linux/magic.h: the file system of processes, one inode for each (Linux 6.9).
const PIDFS: i64 = 0x5049_4446;

/// A process by its pid, the boot, and what no other process of this boot has: the inode number of
/// its pidfd or, where all pidfds have the same, its start time. A look by pidfd takes half as long as
/// one at /proc/PID/stat, for which the kernel adds up all threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// Process id on the host.
    pub pid: u32,
    by: By,
    /// Both count from the beginning at each start of the machine.
    boot: u128,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum By {
    Inode(u64),
    /// Field 22 of /proc/PID/stat: clock ticks since boot.
    Start(u64),
}

impl Known {
    /// A process that lives now; `None` if there is none, or only its dead body.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        let pidfd = open_pid(pid).ok()?;
        let by = match rustix::fs::fstatfs(&pidfd) {
            Ok(fs) if fs.f_type == PIDFS => By::Inode(inode(pidfd.as_fd())?),
            _ => By::Start(Identity::of(pid)?.start),
        };
        let boot = boot();
        let known = Self { pid, by, boot };
        lasts(pidfd.as_fd()).then_some(known)
    }

    /// A pidfd of this very process; `None` if it has ended.
    #[must_use]
    pub fn open(self) -> Option<OwnedFd> {
        // Where one of both is not known, it is the same.
        if ![0, boot()].contains(&self.boot) && boot() != 0 {
            return None;
        }
        let pidfd = open_pid(self.pid).ok()?;
        // Looked at after opening: from here on the descriptor means this process.
        let same = match self.by {
            By::Inode(number) => inode(pidfd.as_fd())? == number,
            By::Start(start) => Identity::of(self.pid)?.start == start,
        };
        (same && lasts(pidfd.as_fd())).then_some(pidfd)
    }

    /// Whether it is there still.
    #[must_use]
    pub fn lives(self) -> bool {
        self.open().is_some()
    }
}

/// /proc/sys/kernel/random/boot_id, which is read once; 0 where it is not shown.
fn boot() -> u128 {
    static BOOT: OnceLock<u128> = OnceLock::new();
    *BOOT.get_or_init(|| {
        let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        u128::from_str_radix(&text.trim().replace('-', ""), 16).unwrap_or(0)
    })
}

fn inode(pidfd: BorrowedFd<'_>) -> Option<u64> {
    rustix::fs::fstat(pidfd).ok().map(|stat| stat.st_ino)
}

fn lasts(pidfd: BorrowedFd<'_>) -> bool {
    matches!(wait_gone(pidfd, Some(Duration::ZERO)), Ok(false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_names_one_process_until_that_ends() {
        let mut child = std::process::Command::new("sleep").arg("100").spawn();
        let child = child.as_mut().unwrap();
        let known = Known::of(child.id()).unwrap();
        assert!(known.lives());
        let text = serde_json::to_string(&known).unwrap();
        assert_eq!(serde_json::from_str::<Known>(&text).unwrap(), known);
        let others = [By::Inode(0), By::Start(0)];
        assert!(others.iter().all(|&by| !Known { by, ..known }.lives()));
        let another = Known {
            boot: known.boot ^ 1,
            ..known
        };
        assert!(!another.lives(), "of another boot");
        assert!(
            Known { boot: 0, ..known }.lives(),
            "of a boot that is not known"
        );
        let start = By::Start(Identity::of(child.id()).unwrap().start);
        let by_start = Known { by: start, ..known };
        assert!(by_start.lives());
        child.kill().unwrap();
        wait_gone(open_pid(child.id()).unwrap().as_fd(), None).unwrap();
        assert!(!known.lives() && !by_start.lives(), "a body");
        assert_eq!(Known::of(child.id()), None);
        child.wait().unwrap();
        assert!(!known.lives() && !by_start.lives());
    }
}
