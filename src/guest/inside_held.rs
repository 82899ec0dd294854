//! One of the guest's own files below /proc and /sys: what it says, and whether its readers are held.
//! Which there are, and when they are written, is next door in `inside`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::{Mode, OFlags};

use super::inside_text::{self as text, CpuTimes};
use crate::kernel::read_watch::ReadWatch;
use crate::model::InsideFile;

/// What was written this long ago is as good as new.
const QUICK: Duration = Duration::from_millis(100);
/// For how long a file is left alone, the longer the more often it is read. Who reads it once or twice a
/// second, or every second and a half or so, comes at least [`QUICK`] after the end of any of these, so
/// that no such reader is taken for one in a loop.
const PAUSES: [Duration; 5] = [
    QUICK,
    Duration::from_millis(150),
    Duration::from_millis(350),
    Duration::from_millis(850),
    SLOW,
];
/// For a file that is read all the time.
const SLOW: Duration = Duration::from_millis(2200);
/// A file that was asked for within this is written anew with another that is: whoever reads one most
/// often reads the others, and one look at the group is enough for all of them.
pub(super) const LATELY: Duration = Duration::from_secs(60);

/// A file of `inside`.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) kind: InsideFile,
    pub(super) file: OwnedFd,
    pub(super) inode: u64,
    /// How long it is.
    length: usize,
    /// For how long it is left alone when it has been written.
    pub(super) pause: Duration,
    /// Until when readers are not held.
    pub(super) free_until: Option<Instant>,
    /// Since when they are.
    held_since: Instant,
    /// When somebody was held because of it.
    pub(super) asked: Option<Instant>,
    /// The CPUs that it shows, if it has been written once.
    pub(super) cpus: Vec<u32>,
    /// What it says, if it has been written once.
    said: Option<String>,
}

impl Held {
    pub(super) fn open(folder: BorrowedFd<'_>, kind: InsideFile, now: Instant) -> Option<Self> {
        // The file is the guest's, who may hold a lease on it (fcntl(2)): opening must not wait for
        // its end. Once it is open for writing there can be none.
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = rustix::fs::openat(folder, kind.name(), flags, Mode::empty()).ok()?;
        let stat = rustix::fs::fstat(&file).ok()?;
        Some(Self {
            kind,
            file,
            inode: stat.st_ino,
            length: usize::try_from(stat.st_size).unwrap_or(0),
            pause: QUICK,
            free_until: None,
            held_since: now,
            asked: None,
            cpus: Vec::new(),
            said: None,
        })
    }

    /// What it says as /proc/stat, and how long it has said so.
    pub(super) fn read_stat(&self) -> (CpuTimes, Duration) {
        let mut bytes = vec![0; self.length];
        let n = rustix::io::pread(&self.file, &mut bytes, 0).unwrap_or(0);
        let times = text::read_stat(&String::from_utf8_lossy(&bytes[..n]));
        let written = rustix::fs::fstat(&self.file).ok().map(|stat| {
            let since = Duration::from_secs(u64::try_from(stat.st_mtime).unwrap_or(0));
            since + Duration::from_nanos(stat.st_mtime_nsec)
        });
        let age = written.and_then(|since| {
            let at = SystemTime::UNIX_EPOCH + since;
            SystemTime::now().duration_since(at).ok()
        });
        (times, age.unwrap_or_default())
    }

    /// In one call, so that nobody sees half of it; what was longer is cut. What it says already is not
    /// written again.
    pub(super) fn say(&mut self, text: String) {
        if self.said.as_ref() == Some(&text) {
            return;
        }
        self.said = None;
        let written = rustix::io::pwrite(&self.file, text.as_bytes(), 0);
        if written == Ok(text.len()) {
            if text.len() < self.length {
                let _longer = rustix::fs::ftruncate(&self.file, text.len() as u64);
            }
            self.length = text.len();
            self.said = Some(text);
        }
    }

    /// Nobody is held for a while: as long as for the others, if they are left alone now, so that all
    /// are held again at one moment.
    pub(super) fn leave_alone(
        &mut self,
        watch: &ReadWatch,
        now: Instant,
        others: Option<(Duration, Instant)>,
    ) {
        self.asked = Some(now);
        let own = next_pause(self.pause, now.duration_since(self.held_since));
        let (pause, until) = others.unwrap_or((own, now + own));
        self.pause = pause;
        self.free(watch, until);
    }

    pub(super) fn free(&mut self, watch: &ReadWatch, until: Instant) {
        if watch.let_be(self.file.as_fd()).is_ok() {
            self.free_until = Some(until);
        }
    }

    pub(super) fn was_asked_lately(&self, now: Instant) -> bool {
        self.asked
            .is_some_and(|at| now.saturating_duration_since(at) < LATELY)
    }

    pub(super) fn hold_again(&mut self, watch: &ReadWatch, now: Instant) {
        // Without memory for it now, the next tick tries again.
        let held = watch.hold(self.file.as_fd()).is_ok();
        self.free_until = (!held).then(|| now + SLOW);
        self.held_since = now;
    }
}

/// For how long a file is left alone that was, for this long, and then waited for a reader. One that is
/// asked for again at once is read in a loop, and the while grows; one late reader only makes it a little
/// shorter, for a loop may rest now and then.
fn next_pause(pause: Duration, waited: Duration) -> Duration {
    let last = PAUSES.len() - 1;
    let at = PAUSES.iter().position(|one| *one >= pause).unwrap_or(last);
    PAUSES[match waited < QUICK {
        true => last.min(at + 1),
        false => at.saturating_sub(1),
    }]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of so many readers, each this long after the one before and the first of them after a loop, those
    /// for whom it is written anew.
    fn fresh(readers: u32, rest: Duration) -> Vec<bool> {
        let (mut pause, mut written) = (SLOW, Duration::ZERO);
        let read = |n: u32| {
            let at = rest * n;
            let waits = at >= written + pause;
            if waits {
                pause = next_pause(pause, at - written - pause);
                written = at;
            }
            waits
        };
        (1..=readers).map(read).collect()
    }

    #[test]
    fn readers_in_a_loop_cost_little_whether_they_rest_or_not() {
        for ms in [1, 10, 30, 70, 99] {
            let readers = u32::try_from(60_000 / ms).unwrap();
            let writes = fresh(readers, Duration::from_millis(ms));
            let writes = writes.iter().filter(|fresh| **fresh).count();
            assert!((25..36).contains(&writes), "{ms} ms: {writes}");
        }
    }

    #[test]
    fn who_looks_now_and_then_sees_what_is_new_also_when_there_was_a_loop_before() {
        for ms in [500, 1000, 1500, 2000, 3000, 5000] {
            let fresh = fresh(30, Duration::from_millis(ms));
            assert!(fresh[15..].iter().all(|fresh| *fresh), "{ms} ms: {fresh:?}");
        }
    }

    #[test]
    fn one_late_reader_ends_no_loop() {
        let less = next_pause(SLOW, SLOW * 3);
        assert!(less < SLOW && less > QUICK);
        assert_eq!(next_pause(less, Duration::ZERO), SLOW);
        assert_eq!(next_pause(SLOW, Duration::ZERO), SLOW);
        assert_eq!(next_pause(QUICK, SLOW), QUICK);
    }
}
