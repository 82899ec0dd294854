//! The load average of one guest, by the kernel's own formula (kernel/sched/loadavg.c): every five
//! seconds the number of threads that run or wait for a disk comes in, and what was before fades. The
//! kernel keeps it for the whole machine only, so somebody has to look, and does so only while
//! somebody asks.

use std::time::{Duration, Instant};

use crate::kernel::cgroup::Tasks;

/// How often threads are counted.
const EVERY: Duration = Duration::from_secs(5);
/// For how long after somebody has read it.
const ASKED: Duration = Duration::from_secs(300);
/// Counting takes at most this part of a CPU's time, whatever the guest does.
const COST: u32 = 200;
/// Over how many seconds each of the three averages goes.
const SPANS: [f64; 3] = [60.0, 300.0, 900.0];

/// The averages, and when to look again.
#[derive(Debug, Default)]
pub(super) struct Load {
    average: [f64; 3],
    tasks: Tasks,
    looked: Option<Instant>,
    next: Option<Instant>,
    asked: Option<Instant>,
}

impl Load {
    /// Somebody asks. Says whether nobody has for a while: then [`Load::begin`], and count.
    pub(super) fn ask(&mut self, now: Instant) -> bool {
        self.asked = Some(now);
        self.next.is_none()
    }

    /// Begins with this. What runs at one moment says little, so it is what was used on average.
    pub(super) fn begin(&mut self, average: f64) {
        self.average = [average; 3];
    }

    /// When threads are to be counted again; `None` while nobody asks.
    pub(super) fn due(&self) -> Option<Instant> {
        self.next
    }

    /// They were counted, which took this long.
    pub(super) fn count(&mut self, tasks: Tasks, now: Instant, took: Duration) {
        let active = (tasks.running + tasks.blocked) as f64;
        let passed = self
            .looked
            .map_or(Duration::ZERO, |before| now.duration_since(before));
        for (average, span) in self.average.iter_mut().zip(SPANS) {
            let fade = (-passed.as_secs_f64() / span).exp();
            *average = *average * fade + active * (1.0 - fade);
        }
        (self.tasks, self.looked) = (tasks, Some(now));
        let asked = self.asked.is_some_and(|at| now.duration_since(at) < ASKED);
        if asked {
            self.next = Some(now + EVERY.max(took * COST));
        } else {
            *self = Self::default();
        }
    }

    /// Over one, five and fifteen minutes.
    pub(super) fn average(&self) -> [f64; 3] {
        self.average
    }

    /// When they were counted last; nothing when nobody has lately.
    pub(super) fn tasks(&self) -> Tasks {
        self.tasks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tasks(running: u64, blocked: u64) -> Tasks {
        Tasks {
            all: 9,
            running,
            blocked,
        }
    }

    #[test]
    fn it_rises_and_falls_as_the_kernels() {
        let (mut load, mut now) = (Load::default(), Instant::now());
        assert!(load.ask(now));
        load.count(tasks(0, 0), now, Duration::ZERO);
        assert!(!load.ask(now));
        for _ in 0..12 {
            now += EVERY;
            load.ask(now);
            load.count(tasks(1, 1), now, Duration::ZERO);
        }
        // A minute of 2: 2 × (1 − 1/e), and so on.
        let [one, five, fifteen] = load.average();
        assert!((one - 1.2642).abs() < 0.001, "{one}");
        assert!((five - 0.3625).abs() < 0.001, "{five}");
        assert!((fifteen - 0.1290).abs() < 0.001, "{fifteen}");
        for _ in 0..12 {
            now += EVERY;
            load.ask(now);
            load.count(tasks(0, 0), now, Duration::ZERO);
        }
        assert!((load.average()[0] - 0.4651).abs() < 0.001);
    }

    #[test]
    fn it_begins_with_what_is_known_and_not_with_one_moment() {
        let (mut load, now) = (Load::default(), Instant::now());
        load.ask(now);
        load.begin(0.25);
        load.count(tasks(3, 0), now, Duration::ZERO);
        assert_eq!(load.average(), [0.25; 3]);
        assert_eq!(load.tasks(), tasks(3, 0));
    }

    #[test]
    fn nobody_counts_when_nobody_asks_and_many_threads_are_counted_less_often() {
        let (mut load, now) = (Load::default(), Instant::now());
        assert_eq!(load.due(), None);
        load.ask(now);
        load.count(tasks(1, 0), now, Duration::ZERO);
        assert_eq!(load.due(), Some(now + EVERY));
        load.count(tasks(1, 0), now, Duration::from_secs(1));
        assert_eq!(load.due(), Some(now + Duration::from_secs(200)));
        let later = now + ASKED;
        load.count(tasks(1, 0), later, Duration::ZERO);
        assert_eq!(load.due(), None);
        assert!(load.ask(later));
    }
}
