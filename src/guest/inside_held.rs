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
/// After so many of those it is looked whether it still is.
const SLOW_MOST: u32 = 8;
/// A file that was asked for within this is written anew with another that is: whoever reads one most
/// often reads the others, and one look at the group is enough for all of them.
pub(super) const LATELY: Duration = Duration::from_secs(60);

/// For how long a file is left alone when it has been written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pace {
    pause: Duration,
    /// How often in a row it has been [`SLOW`].
    slow: u32,
}

/// A file of `inside`.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) kind: InsideFile,
    pub(super) file: OwnedFd,
    pub(super) inode: u64,
    /// How long it is.
    length: usize,
    pub(super) pace: Pace,
    /// Until when readers are not held.
    pub(super) free_until: Option<Instant>,
    /// Since when they are.
    held_since: Instant,
    /// When somebody was held because of it.
    pub(super) asked: Option<Instant>,
    /// The CPUs that it shows, if it has been written once.
    pub(super) cpus: Vec<u32>,
    /// What it says, if it has been written once; not of those that show CPUs, which are long.
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
            pace: Pace::QUICK,
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

    /// Whether all it tells is which CPUs there are.
    pub(super) fn shows_cpus(&self) -> bool {
        matches!(
            self.kind,
            InsideFile::Cpuinfo | InsideFile::CpuOnline | InsideFile::CpuPresent
        )
    }

    /// In one call, so that nobody sees half of it; what was longer is cut. What it says already is not
    /// written again. Whether it says so now.
    pub(super) fn say(&mut self, text: String) -> bool {
        if self.said.as_ref() == Some(&text) {
            return true;
        }
        self.said = None;
        if rustix::io::pwrite(&self.file, text.as_bytes(), 0) != Ok(text.len()) {
            return false;
        }
        if text.len() < self.length {
            let _longer = rustix::fs::ftruncate(&self.file, text.len() as u64);
        }
        self.length = text.len();
        self.said = (!self.shows_cpus()).then_some(text);
        true
    }

    /// Nobody is held for a while: as long as for the others, if they are left alone now, so that all
    /// are held again at one moment.
    pub(super) fn leave_alone(
        &mut self,
        watch: &ReadWatch,
        now: Instant,
        others: Option<(Pace, Instant)>,
    ) {
        self.asked = Some(now);
        let own = self.pace.next(now.duration_since(self.held_since));
        let (pace, until) = others.unwrap_or((own, now + own.pause));
        self.pace = pace;
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

impl Pace {
    const QUICK: Self = Self {
        pause: QUICK,
        slow: 0,
    };

    /// For how long a file is left alone that was, and then waited for a reader. One that is asked for
    /// again at once is read in a loop, and the while grows; one that waits is not. Who looks now and then
    /// may always come right after the end of a long while, so the shortest is tried again after some.
    fn next(self, waited: Duration) -> Self {
        if waited >= QUICK || self.slow >= SLOW_MOST {
            return Self::QUICK;
        }
        let longer = PAUSES.into_iter().find(|one| *one > self.pause);
        Self {
            pause: longer.unwrap_or(SLOW),
            slow: if longer.is_some() { 0 } else { self.slow + 1 },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of so many readers, each this long after the one before and the first of them after a loop, those
    /// for whom it is written anew.
    fn fresh(readers: u32, rest: Duration) -> Vec<bool> {
        let pause = SLOW;
        let (mut pace, mut written) = (Pace { pause, slow: 0 }, Duration::ZERO);
        let read = |n: u32| {
            let at = rest * n;
            let waits = at >= written + pace.pause;
            if waits {
                pace = pace.next(at - written - pace.pause);
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
            assert!((25..42).contains(&writes), "{ms} ms: {writes}");
        }
    }

    #[test]
    fn who_looks_now_and_then_sees_what_is_new_also_when_there_was_a_loop_before() {
        // Also who always comes right after the end of a while.
        for ms in (500..5000).step_by(10) {
            let after = usize::try_from(25_000 / ms).unwrap();
            let fresh = fresh(100, Duration::from_millis(ms));
            let fresh = &fresh[after..];
            assert!(fresh.iter().all(|fresh| *fresh), "{ms} ms: {fresh:?}");
        }
    }

    #[test]
    fn the_list_of_cpus_is_not_kept_and_what_was_not_written_is_not_said() {
        let folder = std::env::temp_dir().join(format!("bulkhead-held-{}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let at = rustix::fs::open(&folder, flags, Mode::empty()).unwrap();
        for (kind, kept) in [(InsideFile::Cpuinfo, false), (InsideFile::Meminfo, true)] {
            let path = folder.join(kind.name());
            std::fs::write(&path, "something longer").unwrap();
            let mut held = Held::open(at.as_fd(), kind, Instant::now()).unwrap();
            assert!(held.say("short\n".into()) && held.say("short\n".into()));
            assert_eq!(std::fs::read_to_string(&path).unwrap(), "short\n");
            assert_eq!(held.said.is_some(), kept, "{kind:?}");
            held.file = rustix::fs::open(&path, OFlags::RDONLY, Mode::empty()).unwrap();
            assert!(!held.say("other\n".into()));
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
