//! How often a guest's calls are answered (`calls`): at once, unless a thread asks in a loop or all
//! threads together ask more often than programs do. Those wait for the end of the quarter of a
//! second, and for a later one when answering has taken too much time of a CPU, so that what a guest
//! can make the host do for it is bounded.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::kernel::seccomp::notify::Call;

const WINDOW: Duration = Duration::from_millis(250);
/// How often one thread is answered in a window.
const A_THREAD: u32 = 5;
/// So many light calls count as one: those of which programs make one for each filesystem they see.
const LIGHT: u32 = 8;
/// How often all are, for each CPU they see.
const A_CPU: usize = 250;
/// Most CPU time in a window: one call can cost a hundred times another.
const MOST_TIME: Duration = Duration::from_millis(10);
/// How many wait in our hands; the others wait in the kernel's.
const WAITING: usize = 256;

pub(super) struct Pace {
    began: Instant,
    answered: usize,
    /// How many light calls of each, or what counts as as many.
    threads: BTreeMap<u32, u32>,
    /// At most one of a thread.
    waiting: VecDeque<(u16, Call)>,
    /// How many of them, the first ones, are of an earlier window.
    ripe: usize,
    /// CPU time that this process has used, and had when the window began.
    used: Duration,
    used_before: Duration,
}

impl Pace {
    /// For a process that has used so much CPU time.
    pub(super) fn new(used: Duration) -> Self {
        Self {
            began: Instant::now(),
            answered: 0,
            threads: BTreeMap::new(),
            waiting: VecDeque::new(),
            ripe: 0,
            used,
            used_before: used,
        }
    }

    /// Takes note of what this process has used by now.
    pub(super) fn count(&mut self, used: Duration) {
        self.used = used;
    }

    /// Takes a call; gives it back if it is to be answered at once.
    pub(super) fn take(&mut self, place: u16, call: Call, light: bool) -> Option<Call> {
        self.turn(Instant::now());
        let times = self.threads.entry(call.thread).or_default();
        *times += if light { 1 } else { LIGHT };
        if *times > A_THREAD * LIGHT {
            // A signal has taken it out of the call before, which nobody waits for any more.
            let same = |(_, one): &&mut (u16, Call)| one.thread == call.thread;
            match self.waiting.iter_mut().find(same) {
                Some(before) => *before = (place, call),
                None => self.waiting.push_back((place, call)),
            }
            return None;
        }
        self.answered += 1;
        Some(call)
    }

    /// One who has waited long enough.
    pub(super) fn due(&mut self, now: Instant) -> Option<(u16, Call)> {
        self.turn(now);
        if self.ripe == 0 || self.is_spent() {
            return None;
        }
        let (place, call) = self.waiting.pop_front()?;
        self.ripe -= 1;
        self.answered += 1;
        *self.threads.entry(call.thread).or_default() += LIGHT;
        Some((place, call))
    }

    /// The first of the calls of a listener that wait here.
    pub(super) fn oldest(&self, place: u16) -> Option<u64> {
        let of_it = self.waiting.iter().filter(|(of, _)| *of == place);
        of_it.map(|(_, call)| call.id).min()
    }

    /// Whether the number of CPUs matters to [`Pace::is_open`].
    pub(super) fn is_busy(&self) -> bool {
        self.answered >= A_CPU
    }

    /// Whether more may be received now, in a guest that sees so many CPUs.
    pub(super) fn is_open(&self, cpus: usize) -> bool {
        let full = self.waiting.len() >= WAITING
            || self.is_spent()
            || self.answered >= A_CPU * cpus.max(1);
        !full || (self.waiting.is_empty() && self.began.elapsed() >= WINDOW)
    }

    fn is_spent(&self) -> bool {
        self.used.saturating_sub(self.used_before) >= MOST_TIME
    }

    /// How long until it is time for something; `None` while nobody waits.
    pub(super) fn pause(&self, now: Instant) -> Option<Duration> {
        let waits = !self.waiting.is_empty() || self.is_busy() || self.is_spent();
        let left = WINDOW.saturating_sub(now.duration_since(self.began));
        (waits && !(left.is_zero() && self.waiting.is_empty())).then_some(left)
    }

    fn turn(&mut self, now: Instant) {
        if now.duration_since(self.began) >= WINDOW {
            self.began = now;
            self.answered = 0;
            self.threads.clear();
            self.ripe = self.waiting.len();
            self.used_before = self.used;
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
        let mut pace = Pace::new(Duration::ZERO);
        for _ in 0..A_THREAD {
            assert!(pace.take(0, call(7), false).is_some());
        }
        assert!(pace.take(0, call(7), false).is_none());
        assert!(pace.take(0, call(8), false).is_some());
        let now = pace.began;
        assert!(pace.due(now).is_none());
        assert_eq!(pace.pause(now), Some(WINDOW));
        let due = pace.due(now + WINDOW).unwrap();
        assert_eq!((due.0, due.1.thread), (0, 7));
        assert!(pace.due(now + WINDOW).is_none());
        assert_eq!(pace.pause(now + WINDOW), None);
        // What has waited is one of the five.
        assert_eq!(pace.threads[&7], LIGHT);
    }

    #[test]
    fn light_calls_wait_later() {
        let mut pace = Pace::new(Duration::ZERO);
        for _ in 0..A_THREAD * LIGHT {
            assert!(pace.take(0, call(7), true).is_some());
        }
        assert!(pace.take(0, call(7), true).is_none());
    }

    #[test]
    fn all_together_are_answered_so_often_and_the_rest_stays_with_the_kernel() {
        let mut pace = Pace::new(Duration::ZERO);
        let all = u32::try_from(A_CPU).unwrap();
        for thread in 0..all {
            assert!(pace.is_open(1) && pace.take(0, call(thread), false).is_some());
        }
        assert!(!pace.is_open(1) && pace.is_open(2));
        assert!(pace.pause(pace.began).is_some());
        pace.began -= WINDOW;
        assert!(pace.is_open(1));
        // Nothing waits in our hands: whoever comes wakes us.
        assert_eq!(pace.pause(Instant::now()), None);
    }

    #[test]
    fn a_thread_that_signals_interrupt_waits_once() {
        let mut pace = Pace::new(Duration::ZERO);
        for id in 0..1000 {
            let call = Call { id, ..call(7) };
            assert_eq!(
                pace.take(3, call, false).is_some(),
                id < u64::from(A_THREAD)
            );
        }
        assert_eq!((pace.waiting.len(), pace.oldest(3)), (1, Some(999)));
        assert_eq!(pace.oldest(0), None);
    }

    #[test]
    fn dear_calls_are_answered_less_often() {
        let mut pace = Pace::new(MOST_TIME);
        for thread in 0..2 {
            for _ in 0..=A_THREAD {
                pace.take(0, call(thread), false);
            }
        }
        assert!(pace.is_open(1));
        pace.count(MOST_TIME * 2);
        assert!(!pace.is_open(8) && pace.pause(pace.began).is_some());
        let next = pace.began + WINDOW;
        assert!(pace.due(next).is_some());
        // Answering it took too long for a second one.
        pace.count(MOST_TIME * 3);
        assert!(pace.due(next).is_none() && !pace.is_open(8));
        assert!(pace.due(next + WINDOW).is_some());
    }
}
