//! When to look whether a guest could make no more processes, where the kernel does not tell (version 1 of
//! control groups). The first time in each group the kernel writes a line into its log, so any line there
//! is a hint; a guest to which it has happened is looked at now and then from then on. All the others
//! cost nothing.

use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

use crate::kernel::cgroup::{Group, PidsWatch};
use crate::kernel::log_bell::LogBell;

/// Between two looks, however busy the log is; and at a guest to which it has happened.
const PAUSE: Duration = Duration::from_secs(2);

/// The watch of a guest's processes, and what it is woken by.
#[derive(Debug)]
pub(super) struct PidsLook {
    watch: PidsWatch,
    /// `None` where the kernel tells by itself, or its log is not to be had.
    bell: Option<LogBell>,
    /// Not before then is the log listened to again: it may be busy.
    deaf_until: Instant,
    /// When it was looked last.
    looked: Instant,
}

impl PidsLook {
    /// Begins; hits so far count only with `all`.
    pub(super) fn open(group: &Group, all: bool) -> Option<Self> {
        let watch = group.pids_watch(all).ok().flatten()?;
        let bell = match watch.tells() {
            true => None,
            false => LogBell::open().ok(),
        };
        let now = Instant::now();
        Some(Self {
            watch,
            bell,
            deaf_until: now,
            looked: now,
        })
    }

    /// What to poll.
    pub(super) fn poll_fd(&self) -> Option<PollFd<'_>> {
        match &self.bell {
            Some(bell) if Instant::now() >= self.deaf_until => {
                Some(PollFd::new(bell, PollFlags::IN))
            }
            Some(_) => None,
            None if self.watch.tells() => Some(PollFd::new(&self.watch, PollFlags::PRI)),
            None => None,
        }
    }

    /// How long until it is to be looked at, or listened again, whatever the kernel tells.
    pub(super) fn pause(&self) -> Option<Duration> {
        let now = Instant::now();
        let listen = self.bell.as_ref().map(|_| self.deaf_until);
        let listen = listen.filter(|until| *until > now);
        let again = (!self.watch.tells() && self.watch.was_hit()).then(|| self.looked + PAUSE);
        let next = listen.into_iter().chain(again).min()?;
        Some(next.saturating_duration_since(now))
    }

    /// Whether it is to be looked at now.
    pub(super) fn is_due(&self) -> bool {
        !self.watch.tells() && self.watch.was_hit() && self.looked.elapsed() >= PAUSE
    }

    /// How often since the last call.
    pub(super) fn new_hits(&mut self) -> u64 {
        if let Some(bell) = &self.bell {
            // Before looking: what is written meanwhile rings again.
            let _on = bell.silence();
            self.deaf_until = Instant::now() + PAUSE;
        }
        self.looked = Instant::now();
        self.watch.new_hits()
    }
}
