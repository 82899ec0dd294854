//! When a guest's next snapshot is due, and which of its snapshots and backups are kept: the newest
//! ones, and the newest of each of the last days, weeks and months that have any. All times are UTC;
//! a week begins on Monday.

use std::time::Duration;

use serde::Serialize;

use super::clock;

/// How many of each are kept. All zero keeps everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
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

/// What a definition says about snapshots that are taken by the clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SnapshotRule {
    /// How far they are apart; `None` for none at all.
    pub every: Option<Duration>,
    /// Which of them are kept.
    pub keep: Retention,
}

/// Whoever looks every hour for what is due every hour must not come a moment too early each time:
/// so much of the time between two, and at most this, need not have passed.
const SLACK: (u32, Duration) = (10, Duration::from_secs(5 * 60));

impl SnapshotRule {
    /// Whether there is to be one now, when those of these times are there. Milliseconds since 1970;
    /// times to come, of a clock that was wrong, count as none.
    #[must_use]
    pub fn is_due(&self, times: &[u64], now: u64) -> bool {
        let Some(every) = self.every else {
            return false;
        };
        let newest = times.iter().filter(|time| **time <= now).max();
        let wanted = clock::ms(every - (every / SLACK.0).min(SLACK.1));
        newest.is_none_or(|newest| now - newest >= wanted)
    }

    /// For each of these times, whether no rule keeps what is of it. What is of a time to come is
    /// kept and takes nobody's place: while the clock is behind, that is all there is.
    #[must_use]
    pub fn superfluous(&self, times: &[u64], now: u64) -> Vec<bool> {
        let mut goes = vec![false; times.len()];
        if self.every.is_none() {
            return goes;
        }
        let past: Vec<usize> = (0..times.len()).filter(|at| times[*at] <= now).collect();
        let keep = self
            .keep
            .keep(&past.iter().map(|at| times[*at]).collect::<Vec<_>>());
        for (at, keep) in past.into_iter().zip(keep) {
            goes[at] = !keep;
        }
        goes
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

    const HOUR: u64 = 3_600_000;

    fn hourly(keep: Retention) -> SnapshotRule {
        SnapshotRule {
            every: Some(Duration::from_secs(3600)),
            keep,
        }
    }

    #[test]
    fn one_is_due_when_the_newest_is_old_enough() {
        let rule = hourly(Retention::default());
        let now = 1000 * HOUR;
        assert!(rule.is_due(&[], now));
        assert!(rule.is_due(&[now - HOUR], now));
        // A timer that comes a second before the hour.
        assert!(rule.is_due(&[now - HOUR + 1000], now));
        assert!(!rule.is_due(&[now - 50 * 60_000, now - 9 * HOUR], now));
        // Of a clock that was ahead.
        assert!(rule.is_due(&[now + HOUR, now - HOUR], now));
        assert!(!rule.is_due(&[now + HOUR, now], now));
        let never = SnapshotRule::default();
        assert!(!never.is_due(&[], now));
        assert_eq!(never.superfluous(&[1, 2], now), [false, false]);
    }

    /// A clock that has fallen back to 1970 takes nothing away.
    #[test]
    fn what_is_of_a_time_to_come_stays() {
        let rule = hourly(Retention {
            last: 1,
            ..Retention::default()
        });
        assert_eq!(
            rule.superfluous(&[1, 2, 3 * HOUR, 4 * HOUR], HOUR),
            [true, false, false, false]
        );
    }

    /// A snapshot an hour for ten weeks, thinned out each time: days, weeks and months survive.
    #[test]
    fn weeks_and_months_outlive_the_days() {
        let rule = hourly(Retention {
            last: 3,
            daily: 7,
            weekly: 4,
            monthly: 2,
        });
        let start = clock::since("2026-01-01T00:00").unwrap();
        let mut times = Vec::new();
        for hour in 0..70 * 24 {
            let now = start + hour * HOUR;
            assert!(rule.is_due(&times, now));
            times.push(now);
            let goes = rule.superfluous(&times, now);
            let mut goes = goes.iter();
            times.retain(|_| !goes.next().unwrap());
        }
        let told: Vec<String> = times
            .iter()
            .map(|ms| clock::time(*ms)[..13].into())
            .collect();
        assert_eq!(
            told,
            [
                // The last hour of a month, of Sundays, of days; the last hours.
                "2026-02-22T23",
                "2026-02-28T23",
                "2026-03-01T23",
                "2026-03-05T23",
                "2026-03-06T23",
                "2026-03-07T23",
                "2026-03-08T23",
                "2026-03-09T23",
                "2026-03-10T23",
                "2026-03-11T21",
                "2026-03-11T22",
                "2026-03-11T23",
            ]
        );
    }

    proptest! {
        #[test]
        fn thinning_out_is_done_once_and_spares_the_newest(
            times in proptest::collection::vec(0..400_000_000_000_u64, 1..60),
            now in 0..500_000_000_000_u64,
            (last, daily, weekly, monthly) in (0..5_u32, 0..5_u32, 0..5_u32, 0..5_u32),
        ) {
            prop_assume!(last + daily + weekly + monthly > 0);
            let rule = hourly(Retention { last, daily, weekly, monthly });
            let goes = rule.superfluous(&times, now);
            let kept: Vec<u64> =
                times.iter().zip(&goes).filter(|(_, goes)| !**goes).map(|(time, _)| *time).collect();
            let past = |all: &[u64]| all.iter().copied().filter(|time| *time <= now).collect::<Vec<_>>();
            prop_assert!(past(&kept).len() <= (last + daily + weekly + monthly) as usize);
            prop_assert_eq!(past(&kept).into_iter().max(), past(&times).into_iter().max());
            prop_assert_eq!(kept.len() - past(&kept).len(), times.len() - past(&times).len());
            prop_assert!(rule.superfluous(&kept, now).iter().all(|goes| !goes));
            prop_assert_eq!(rule.is_due(&kept, now), rule.is_due(&times, now));
        }
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
