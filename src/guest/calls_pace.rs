//! How often a guest's calls are answered (`calls`): at once, unless a thread asks in a loop or all
//! threads together ask more often than programs do. Those wait for the end of the quarter of a
//! second, so that what a guest can make the host do for it is bounded.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::kernel::seccomp::notify::Call;

const WINDOW: Duration = Duration::from_millis(250);
/// How often one thread is answered in a window.
const A_THREAD: u32 = 5;
/// How often all are, for each CPU they see.
const A_CPU: usize = 250;
/// How many wait in our hands; the others wait in the kernel's.
const WAITING: usize = 256;

pub(super) struct Pace {
    began: Instant,
    answered: usize,
    threads: BTreeMap<u32, u32>,
    waiting: Vec<(u16, Call)>,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self {
            began: Instant::now(),
            answered: 0,
            threads: BTreeMap::new(),
            waiting: Vec::new(),
        }
    }

    /// Takes a call; gives it back if it is to be answered at once.
    pub(super) fn take(&mut self, place: u16, call: Call) -> Option<Call> {
        self.turn(Instant::now());
        let times = self.threads.entry(call.thread).or_default();
        *times += 1;
        if *times > A_THREAD {
            self.waiting.push((place, call));
            return None;
        }
        self.answered += 1;
        Some(call)
    }

    /// Those who have waited long enough.
    pub(super) fn due(&mut self, now: Instant) -> Vec<(u16, Call)> {
        if self.waiting.is_empty() || now.duration_since(self.began) < WINDOW {
            return Vec::new();
        }
        let due = std::mem::take(&mut self.waiting);
        self.turn(now);
        self.answered = due.len();
        for (_, call) in &due {
            *self.threads.entry(call.thread).or_default() += 1;
        }
        due
    }

    /// Whether more may be received now, in a guest that sees so many CPUs.
    pub(super) fn is_open(&self, cpus: usize) -> bool {
        let full = self.waiting.len() >= WAITING || self.answered >= A_CPU * cpus.max(1);
        !full || (self.waiting.is_empty() && self.began.elapsed() >= WINDOW)
    }

    /// How long until it is time for something; `None` while nobody waits.
    pub(super) fn pause(&self, now: Instant) -> Option<Duration> {
        let waits = !self.waiting.is_empty() || self.answered >= A_CPU;
        let left = WINDOW.saturating_sub(now.duration_since(self.began));
        (waits && !(left.is_zero() && self.waiting.is_empty())).then_some(left)
    }

    fn turn(&mut self, now: Instant) {
        if now.duration_since(self.began) >= WINDOW {
            self.began = now;
            self.answered = 0;
            self.threads.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(thread: u32) -> Call {
        Call {
            id: 1,
            thread,
            convention: 0,
            number: 0,
            arguments: [0; 6],
        }
    }

    #[test]
    fn a_thread_in_a_loop_waits_and_others_do_not() {
        let mut pace = Pace::new();
        for _ in 0..A_THREAD {
            assert!(pace.take(0, call(7)).is_some());
        }
        assert!(pace.take(0, call(7)).is_none());
        assert!(pace.take(0, call(8)).is_some());
        let now = pace.began;
        assert!(pace.due(now).is_empty());
        assert_eq!(pace.pause(now), Some(WINDOW));
        let due = pace.due(now + WINDOW);
        assert_eq!(
            due.iter().map(|(_, call)| call.thread).collect::<Vec<_>>(),
            [7]
        );
        assert_eq!(pace.pause(now + WINDOW), None);
        // What has waited is one of the five.
        assert_eq!(pace.threads[&7], 1);
    }

    #[test]
    fn all_together_are_answered_so_often_and_the_rest_stays_with_the_kernel() {
        let mut pace = Pace::new();
        let all = u32::try_from(A_CPU).unwrap();
        for thread in 0..all {
            assert!(pace.is_open(1) && pace.take(0, call(thread)).is_some());
        }
        assert!(!pace.is_open(1) && pace.is_open(2));
        assert!(pace.pause(pace.began).is_some());
        pace.began -= WINDOW;
        assert!(pace.is_open(1));
        // Nothing waits in our hands: whoever comes wakes us.
        assert_eq!(pace.pause(Instant::now()), None);
    }
}
