//! For how long the guest's own files (`inside`) are left alone when they have been written, the longer the
//! more often they are read; all those that were asked for lately together.

use std::time::{Duration, Instant};

/// What was written this long ago is as good as new.
const QUICK: Duration = Duration::from_millis(100);
/// For how long files are left alone, the longer the more often it is read. Who reads it once or twice a
/// second, or every second and a half or so, comes at least [`QUICK`] after the end of any of these, so
/// that no such reader is taken for one in a loop.
const PAUSES: [Duration; 5] = [
    QUICK,
    Duration::from_millis(150),
    Duration::from_millis(350),
    BETWEEN,
    SLOW,
];
/// Who comes again within this after the shortest while looks three times a second or more often, such as
/// a loop that a limit on its CPU time lets run in bursts, and is served every second time.
const OFTEN: Duration = Duration::from_millis(350);
/// For how long files are left alone then.
const BETWEEN: Duration = Duration::from_millis(850);
/// For files that are read all the time.
const SLOW: Duration = Duration::from_millis(3200);
/// After so many of those it is looked whether it still is.
const SLOW_MOST: u32 = 6;

/// Whether readers are held.
#[derive(Debug)]
pub(super) struct Rest {
    pace: Pace,
    /// Until when they are not.
    free_until: Option<Instant>,
    /// Since when they are.
    held_since: Instant,
}

/// For how long files are left alone when they have been written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pace {
    pause: Duration,
    /// How often in a row it has been [`SLOW`].
    slow: u32,
}

impl Rest {
    /// They are held since now.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            pace: Pace::QUICK,
            free_until: None,
            held_since: now,
        }
    }

    /// Until when they are not held.
    pub(super) fn free_until(&self) -> Option<Instant> {
        self.free_until
    }

    /// They were asked for and written, and are not held from now on, for a while.
    pub(super) fn begin(&mut self, now: Instant) {
        let waited = now.saturating_duration_since(self.held_since);
        self.pace = self.pace.next(waited);
        self.free_until = Some(now + self.pace.pause);
    }

    /// They are not held until this moment, whoever asks how often.
    pub(super) fn begin_until(&mut self, then: Instant) {
        self.free_until = Some(then);
    }

    /// They are held again; what was not possible is tried again after a while.
    pub(super) fn end(&mut self, now: Instant, held: bool) {
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
        if self.pause == QUICK && (QUICK..OFTEN).contains(&waited) {
            return Self {
                pause: BETWEEN,
                slow: 0,
            };
        }
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
    fn bursts_a_few_times_a_second_cost_half() {
        for ms in [200, 250, 300, 350, 400, 440] {
            let readers = u32::try_from(60_000 / ms).unwrap();
            let writes = fresh(readers, Duration::from_millis(ms));
            let writes = u32::try_from(writes.iter().filter(|fresh| **fresh).count()).unwrap();
            assert!(
                writes * 10 < readers * 7 && writes > 25,
                "{ms} ms: {writes} of {readers}"
            );
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
}
