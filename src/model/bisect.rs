//! Which of many guests makes the others wait: halves of them are held still in turn, and the half
//! without which there is less waiting is halved again. Only the decisions; holding and measuring
//! is `guest::bisect`.

use serde::Serialize;

/// A half that takes less than this part of the waiting away, in percent, is not to blame.
const LEAST: u64 = 25;
/// A guest that takes so much of it away is found beyond doubt, if the other half did not do the
/// same.
const SURE: u64 = 60;

/// How much is known at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sure {
    /// Nearly all waiting went with it, and with nobody else.
    Sure,
    /// Much of it did; others have a part in it.
    Likely,
    /// Nobody alone, or nobody among those that were tried.
    Nobody,
    /// The waiting went by itself while guests were tried.
    Passed,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict<T> {
    /// The one.
    pub suspect: Option<T>,
    /// What part of the waiting went while it, or the last half tried, was held still, percent.
    pub explains: u64,
    /// How much that says.
    pub sure: Sure,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next<T> {
    /// Hold these still, measure, let them go on, and tell what was measured. With nobody to hold, look
    /// once more whether there is still waiting.
    Hold(Vec<T>),
    /// It is over.
    Done(Verdict<T>),
}

/// A search under way. Waiting is in hundredths of a percent of the time.
#[derive(Clone, Debug)]
pub struct Search<T> {
    left: Vec<T>,
    /// Waiting when nobody is held still.
    base: u64,
    /// Waiting without the first half.
    first: Option<u64>,
    /// Who it is, unless the waiting went by itself; and how much there was without it.
    suspect: Option<(T, u64)>,
    verdict: Option<Verdict<T>>,
    /// Whether one half was to blame in every round, and the other not.
    clear: bool,
}

impl<T: Clone> Search<T> {
    /// A search among these, when there is so much waiting.
    #[must_use]
    pub fn new(all: Vec<T>, base: u64) -> Self {
        let mut search = Self {
            left: all,
            base,
            first: None,
            suspect: None,
            verdict: None,
            clear: true,
        };
        if search.left.is_empty() || base == 0 {
            search.nobody(0);
        }
        search
    }

    /// How often each guest is held still at most, among so many.
    #[must_use]
    pub fn rounds(count: usize) -> u32 {
        match count {
            0 => 0,
            1 => 1,
            more => usize::BITS - (more - 1).leading_zeros(),
        }
    }

    /// What to do next.
    #[must_use]
    pub fn next(&self) -> Next<T> {
        match &self.verdict {
            Some(verdict) => Next::Done(verdict.clone()),
            None => Next::Hold(match (&self.suspect, self.first) {
                (Some(_), _) => Vec::new(),
                (None, None) => self.halves().0.to_vec(),
                (None, Some(_)) => self.halves().1.to_vec(),
            }),
        }
    }

    fn halves(&self) -> (&[T], &[T]) {
        self.left.split_at(self.left.len().div_ceil(2))
    }

    /// How much waiting there was while those were held still.
    pub fn measured(&mut self, waiting: u64) {
        if self.verdict.is_some() {
            return;
        }
        if let Some((suspect, without)) = self.suspect.take() {
            self.judge(suspect, without, waiting);
            return;
        }
        let (first, second) = match (self.first, self.left.len()) {
            // Nobody to compare it with.
            (None, 1) => (waiting, self.base),
            (None, _) => {
                self.first = Some(waiting);
                return;
            }
            (Some(first), _) => (first, waiting),
        };
        self.first = None;
        let (a, b) = (self.went(first), self.went(second));
        let (most, other) = (a.max(b), a.min(b));
        if most < LEAST {
            self.nobody(most);
            return;
        }
        self.clear &= other * 2 < most;
        let (one, two) = self.halves();
        self.left = if a >= b { one } else { two }.to_vec();
        if let [suspect] = self.left.as_slice() {
            self.suspect = Some((suspect.clone(), first.min(second)));
        }
    }

    /// Somebody was found, and so much waiting there is again with nobody held. Other programs come and
    /// go: what went with them, too, was not this guest's.
    fn judge(&mut self, suspect: T, without: u64, again: u64) {
        if again * 2 < self.base {
            self.nobody(0);
            self.verdict
                .iter_mut()
                .for_each(|one| one.sure = Sure::Passed);
            return;
        }
        self.base = self.base.min(again);
        let explains = self.went(without);
        if explains < LEAST {
            self.nobody(explains);
            return;
        }
        let sure = match explains >= SURE && self.clear {
            true => Sure::Sure,
            false => Sure::Likely,
        };
        self.verdict = Some(Verdict {
            suspect: Some(suspect),
            explains,
            sure,
        });
    }

    /// What part of the waiting went, percent.
    fn went(&self, waiting: u64) -> u64 {
        self.base.saturating_sub(waiting) * 100 / self.base.max(1)
    }

    fn nobody(&mut self, explains: u64) {
        self.verdict = Some(Verdict {
            suspect: None,
            explains,
            sure: Sure::Nobody,
        });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Goes through a search on a host where guest `i` makes `each[i]` of waiting; says how often
    /// each was held still.
    fn search(each: &[u64], noise: &[u64]) -> (Verdict<usize>, Vec<u32>) {
        let all: Vec<usize> = (0..each.len()).collect();
        let waiting = |held: &[usize]| -> u64 {
            let makes = |i: &usize| if held.contains(i) { 0 } else { each[*i] };
            all.iter().map(makes).sum()
        };
        let mut search = Search::new(all.clone(), waiting(&[]));
        let (mut times, mut noise) = (vec![0; each.len()], noise.iter().cycle());
        loop {
            match search.next() {
                Next::Done(verdict) => return (verdict, times),
                Next::Hold(some) => {
                    some.iter().for_each(|i| times[*i] += 1);
                    search.measured(waiting(&some) + noise.next().unwrap_or(&0));
                }
            }
        }
    }

    #[test]
    fn without_waiting_or_guests_nobody_is_held() {
        for (verdict, times) in [search(&[], &[]), search(&[0, 0, 0], &[])] {
            assert_eq!(verdict.sure, Sure::Nobody);
            assert!(times.iter().all(|n| *n == 0));
        }
    }

    #[test]
    fn many_that_do_the_same_are_nobody() {
        let (verdict, _) = search(&[100; 16], &[]);
        assert_eq!((verdict.suspect, verdict.sure), (None, Sure::Nobody));
    }

    #[test]
    fn one_alone_is_held_once_and_judged() {
        assert_eq!(search(&[5000], &[]).0.sure, Sure::Sure);
        let (verdict, times) = search(&[5000], &[4500]);
        assert_eq!((verdict.suspect, times), (None, vec![1]));
    }

    #[test]
    fn nobody_is_blamed_for_waiting_that_went_by_itself() {
        let mut search = Search::new(vec!["a", "b", "c", "d"], 4000);
        let mut held = Vec::new();
        // Somebody else's programs end after the first half was tried.
        for waiting in [4500, 130, 120, 60, 100] {
            let Next::Hold(some) = search.next() else {
                panic!("it goes on: {search:?}");
            };
            held.push(some);
            search.measured(waiting);
        }
        assert_eq!(held.last(), Some(&Vec::new()));
        let verdict = Verdict {
            suspect: None,
            explains: 0,
            sure: Sure::Passed,
        };
        assert_eq!(search.next(), Next::Done(verdict));
    }

    #[test]
    fn of_two_that_share_the_blame_none_is_sure() {
        let (verdict, _) = search(&[4000, 10, 10, 3500], &[]);
        assert_ne!(verdict.sure, Sure::Sure);
    }

    proptest! {
        #[test]
        fn the_noisy_one_is_found_and_nobody_is_held_too_often(
            count in 1..80_usize, at in 0..80_usize, noise in proptest::collection::vec(0..300_u64, 1..9),
        ) {
            let at = at % count;
            let mut each = vec![10; count];
            each[at] = 7000;
            let (verdict, times) = search(&each, &noise);
            prop_assert_eq!(verdict.suspect, Some(at));
            prop_assert_eq!(verdict.sure, Sure::Sure);
            let most = Search::<usize>::rounds(count);
            prop_assert!(times.iter().all(|n| *n <= most), "{:?} {}", times, most);
        }
    }
}
