//! A descriptor that becomes readable when the kernel kills in a group for want of memory:
//! version 1 signals an eventfd, version 2 changes `memory.events`, which inotify reports. What to
//! do about it belongs above.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use rustix::event::EventfdFlags;
use rustix::fs::OFlags;
use rustix::fs::inotify::{CreateFlags, WatchFlags};
use rustix::io::Errno;

use super::container::Cgroups;
use super::dir::Dir;
use super::{CgroupError, Controller, Group, Result, Version};

/// Watches a group for out-of-memory kills. Poll it for reading, then call [`OomWatch::drain`].
#[derive(Debug)]
pub struct OomWatch {
    fd: OwnedFd,
    path: PathBuf,
    version: Version,
    seen: u64,
}

impl AsFd for OomWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Group {
    /// Begins to watch; the first `seen` kills do not count. `None` is those so far; 0 is right for
    /// whoever watches a group from its making, however late it gets to it.
    ///
    /// # Errors
    /// When there is no memory controller, or the user's inotify instances are used up.
    pub fn oom_watch(&self, seen: Option<u64>) -> Result<OomWatch> {
        let (dir, version) = self.home(Controller::Memory)?;
        let seen = match seen {
            Some(seen) => seen,
            None => self.oom_kills()?,
        };
        begin(dir, version, seen)
    }
}

impl Cgroups {
    /// Begins to watch a container; kills so far do not count. `None` when nothing counts its
    /// memory.
    ///
    /// # Errors
    /// When the user's inotify instances are used up.
    pub fn oom_watch(&self) -> Result<Option<OomWatch>> {
        let (dir, version) = match (self.v1_dir("memory"), self.home("memory")) {
            (Some(dir), _) => (dir, Version::V1),
            (None, Some(dir)) if dir.has("memory.events") => (dir, Version::V2),
            _ => return Ok(None),
        };
        begin(dir, version, self.oom_kills()?).map(Some)
    }
}

/// What can tell how many of its processes were killed for want of memory.
pub trait CountsKills {
    /// How many there were.
    ///
    /// # Errors
    /// When the counter cannot be read.
    fn kills(&self) -> Result<u64>;
}

impl CountsKills for Group {
    fn kills(&self) -> Result<u64> {
        self.oom_kills()
    }
}

impl CountsKills for Cgroups {
    fn kills(&self) -> Result<u64> {
        self.oom_kills()
    }
}

fn begin(dir: &Dir, version: Version, seen: u64) -> Result<OomWatch> {
    let fd = match version {
        Version::V1 => {
            let events = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
                .map_err(|e| CgroupError::file("watch", dir.path(), e))?;
            let control = dir
                .file("memory.oom_control", OFlags::RDONLY)
                .map_err(|e| {
                    CgroupError::file("open", &dir.path().join("memory.oom_control"), e)
                })?;
            let line = format!("{} {}", events.as_raw_fd(), control.as_raw_fd());
            dir.write("cgroup.event_control", &line)?;
            events
        }
        Version::V2 => {
            let path = dir.path().join("memory.events");
            rustix::fs::inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
                .and_then(|fd| {
                    rustix::fs::inotify::add_watch(&fd, &path, WatchFlags::MODIFY)?;
                    Ok(fd)
                })
                .map_err(|e| CgroupError::file("watch", &path, e))?
        }
    };
    Ok(OomWatch {
        fd,
        path: dir.path().to_owned(),
        version,
        seen,
    })
}

impl OomWatch {
    /// Takes in what was reported and returns how many processes were killed since the last call.
    /// Zero is usual too: version 2 reports other events of memory as well. `group` is the group
    /// that is watched; when it is gone meanwhile, nothing is reported.
    ///
    /// # Errors
    /// When the counter cannot be read.
    pub fn drain(&mut self, group: &impl CountsKills) -> Result<u64> {
        let mut buffer = [0_u8; 4096];
        let mut told = false;
        loop {
            match rustix::io::read(&self.fd, &mut buffer) {
                Ok(n) if n > 0 => told = true,
                Err(Errno::INTR) => {}
                Ok(_) | Err(Errno::AGAIN) => break,
                Err(e) => return Err(CgroupError::file("watch", &self.path, e)),
            }
            if self.version == Version::V1 {
                break;
            }
        }
        let mut now = group.kills()?;
        // Version 1 tells before it kills: the count follows within the same system call.
        for _ in 0..20 {
            if !(told && self.version == Version::V1 && now == self.seen) {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
            now = group.kills()?;
        }
        let new = now.saturating_sub(self.seen);
        self.seen = self.seen.max(now);
        Ok(new)
    }
}
