//! Which snapshots of a guest are kept: the newest ones, and the newest of each of the last days,
//! weeks and months that have any. All times are UTC; a week begins on Monday.

use crate::model::clock;

/// How many of each are kept. All zero keeps everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// The newest ones.
    pub last: u32,
    /// Days.
    pub daily: u32,
    /// Weeks.
    pub weekly: u32,
    /// Months.
    pub monthly: u32,
}

impl Retention {
    /// Whether nothing is to be removed.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        *self == Self::default()
    }

    /// For each of the times of one guest's snapshots, milliseconds since 1970, whether it is kept.
    #[must_use]
    pub fn keep(&self, times: &[u64]) -> Vec<bool> {
        let mut newest: Vec<usize> = (0..times.len()).collect();
        newest.sort_by_key(|at| std::cmp::Reverse((times[*at], *at)));
        let mut keep = vec![self.is_everything(); times.len()];
        for (count, period) in [
            (self.last, None),
            (self.daily, Some(day as fn(u64) -> String)),
            (self.weekly, Some(week)),
            (self.monthly, Some(month)),
        ] {
            let mut left = count;
            let mut before = None;
            for at in &newest {
                let this = period.map(|period| period(times[*at]));
                if left == 0 {
                    break;
                }
                if this.is_none() || this != before {
                    keep[*at] = true;
                    left -= 1;
                    before = this;
                }
            }
        }
        keep
    }
}

fn day(ms: u64) -> String {
    clock::time(ms)[..10].to_owned()
}

fn month(ms: u64) -> String {
    clock::time(ms)[..7].to_owned()
}

fn week(ms: u64) -> String {
    // 1970-01-01 was a Thursday.
    ((ms / 86_400_000 + 3) / 7).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn kept(retention: Retention, days: &[&str]) -> Vec<String> {
        let times: Vec<u64> = days.iter().map(|day| clock::since(day).unwrap()).collect();
        let keep = retention.keep(&times);
        let kept = days.iter().zip(keep).filter(|(_, keep)| *keep);
        kept.map(|(day, _)| (*day).to_owned()).collect()
    }

    #[test]
    fn the_newest_of_each_period_is_kept() {
        let days = [
            "2026-01-31T10:00",
            "2026-02-01T10:00",
            "2026-02-28T10:00",
            "2026-03-01T08:00",
            "2026-03-01T20:00",
            "2026-03-02T07:00",
        ];
        let none = Retention::default();
        assert_eq!(kept(none, &days), days);
        assert_eq!(kept(Retention { last: 2, ..none }, &days), days[4..]);
        assert_eq!(kept(Retention { daily: 2, ..none }, &days), days[4..]);
        // 2026-03-02 is a Monday.
        assert_eq!(kept(Retention { weekly: 2, ..none }, &days), days[4..]);
        let monthly = kept(Retention { monthly: 9, ..none }, &days);
        assert_eq!(monthly, [days[0], days[2], days[5]]);
        let both = kept(
            Retention {
                last: 1,
                monthly: 2,
                ..none
            },
            &days,
        );
        assert_eq!(both, [days[2], days[5]]);
    }

    proptest! {
        #[test]
        fn the_newest_is_always_kept_and_none_more_than_asked(
            times in proptest::collection::vec(0..4_000_000_000_000_u64, 1..40),
            (last, daily, weekly, monthly) in (0..5_u32, 0..5_u32, 0..5_u32, 0..5_u32),
        ) {
            let retention = Retention { last, daily, weekly, monthly };
            let keep = retention.keep(&times);
            let newest = times.iter().max().unwrap();
            prop_assert!(times.iter().zip(&keep).any(|(time, keep)| time == newest && *keep));
            let kept = keep.iter().filter(|keep| **keep).count();
            if !retention.is_everything() {
                prop_assert!(kept <= (last + daily + weekly + monthly) as usize);
            }
        }
    }
}
