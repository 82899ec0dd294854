//! Calls of a guest (`calls`) that are let through to the kernel: what somebody has received and not
//! answered, and all where they cannot be answered.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};

use super::calls::Post;
use crate::kernel::process::timespec;
use crate::kernel::seccomp::notify::{self, Answer};

/// How far behind and ahead of those that are written down calls are looked for that somebody received
/// and did not answer.
pub(super) const AHEAD: u64 = 64;
const MOST_BEHIND: u64 = 1 << 16;

/// Where it cannot be said what the guest's files say (no memory, a full disk) the kernel answers:
/// nobody is left waiting. Comes back after a while if the keeper is there to make another that tries
/// again, else when the guest has ended.
pub(super) fn let_through_for(time: Duration, post: &Post<'_>) {
    let began = Instant::now();
    loop {
        let mut fds = vec![
            PollFd::new(post.guest, PollFlags::IN),
            PollFd::new(&post.keeper, PollFlags::empty()),
        ];
        let listeners: Vec<_> = post.listeners.values().collect();
        fds.extend(listeners.iter().map(|fd| PollFd::new(*fd, PollFlags::IN)));
        let left = time.saturating_sub(began.elapsed());
        // A listener whose programs are gone, or a keeper that is, is ready all the time.
        let _interrupted = poll(
            &mut fds,
            Some(&timespec(left.max(Duration::from_millis(20)))),
        );
        let kept = fds[1].revents().is_empty();
        if !fds[0].revents().is_empty() || (kept && left.is_zero()) {
            return;
        }
        let mut some = false;
        for (fd, listener) in fds[2..].iter().zip(listeners) {
            if fd.revents().contains(PollFlags::IN)
                && let Ok(Some(call)) = notify::receive(listener.as_fd())
            {
                some = true;
                let _gone = notify::answer(listener.as_fd(), call.id, Answer::LetThrough);
            }
        }
        if !some {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Where to look for calls that were received and not answered.
pub(super) fn behind(first: u64, last: u64) -> (u64, u64) {
    // The numbers of one that wrote them otherwise, before an update, say nothing.
    let first = first.clamp(last.saturating_sub(MOST_BEHIND), last);
    (first, last.saturating_add(AHEAD))
}

/// Only calls that somebody has received take an answer; the others stay as they are.
pub(super) fn let_all_through(listener: BorrowedFd<'_>, from: u64, to: u64) {
    for id in from..=to {
        let _none = notify::answer(listener, id, Answer::LetThrough);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_looked_for_from_the_first_that_waited() {
        assert_eq!(behind(5000, 9000), (5000, 9000 + AHEAD));
        for strange in [0, u64::MAX] {
            let (from, to) = behind(strange, 1 << 40);
            assert!(to - from <= MOST_BEHIND + AHEAD);
        }
    }
}
