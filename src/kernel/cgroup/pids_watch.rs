//! How often processes of a group could not fork because of its own limit, and a descriptor that
//! tells when that has become more (`pids.events`). It takes no inotify instance, of which a user has
//! only so many. Version 1's file tells nobody (seen on Linux 6.18: neither poll(2) nor inotify): there
//! is only a line in the kernel's log, and only for the first time.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::OFlags;

use super::counters::throttling;
use super::dir::keyed;
use super::{CgroupError, Controller, Group, Result, Throttling, Version};

/// Watches a group. Poll it for `PRI`, then call [`PidsWatch::new_hits`].
#[derive(Debug)]
pub struct PidsWatch {
    file: OwnedFd,
    tells: bool,
    seen: u64,
}

impl Group {
    /// Begins to watch; hits so far count only with `all`. `None` where this kernel does not count
    /// them in this group (see `counters`).
    ///
    /// # Errors
    /// The kernel's file cannot be opened.
    pub fn pids_watch(&self, all: bool) -> Result<Option<PidsWatch>> {
        let Ok((dir, version)) = self.home(Controller::Pids) else {
            return Ok(None);
        };
        let name = match version {
            Version::V1 => "pids.events",
            Version::V2 => "pids.events.local",
        };
        if !dir.has(name) {
            return Ok(None);
        }
        let file = dir
            .file(name, OFlags::RDONLY)
            .map_err(|e| CgroupError::file("watch", &dir.path().join(name), e))?;
        let mut watch = PidsWatch {
            file,
            tells: version == Version::V2,
            seen: 0,
        };
        let so_far = watch.new_hits();
        watch.seen = if all { 0 } else { so_far };
        Ok(Some(watch))
    }

    /// How its CPU limit held it back; `None` without a limit.
    ///
    /// # Errors
    /// When a file that is there cannot be read.
    pub fn throttling(&self) -> Result<Option<Throttling>> {
        match self.home(Controller::Cpu) {
            Ok((dir, version)) => throttling(dir, version),
            Err(_) => Ok(None),
        }
    }
}

impl PidsWatch {
    /// Whether the kernel tells by the descriptor; else somebody has to look.
    #[must_use]
    pub const fn tells(&self) -> bool {
        self.tells
    }

    /// Whether that has ever happened in this group.
    #[must_use]
    pub const fn was_hit(&self) -> bool {
        self.seen > 0
    }

    /// How often since the last call. One whose group is gone tells nothing more.
    pub fn new_hits(&mut self) -> u64 {
        let mut text = [0_u8; 256];
        // Reading is what makes the descriptor quiet again.
        let n = rustix::io::pread(&self.file, &mut text, 0).unwrap_or(0);
        let now = keyed(&String::from_utf8_lossy(&text[..n]), "max").unwrap_or(self.seen);
        let new = now.saturating_sub(self.seen);
        self.seen = self.seen.max(now);
        new
    }
}

impl AsFd for PidsWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
