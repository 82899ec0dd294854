//! A ledger: what counters said when they were looked at last, and what has been added up by days.
//! Both are written as one, so that what came in between is added once and never twice, whoever dies.

use std::collections::BTreeMap;
use std::ops::Add;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};

/// Days that are kept as days; those before are kept as months.
pub(super) const DAYS: usize = 400;
/// A month as text, such as `2026-03`; a day has `-15` behind it.
pub(super) const MONTH: usize = 7;
/// A day as text.
pub(super) const DAY: usize = MONTH + 3;

/// Counters, and the amounts that they have added up to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ledger<C, A> {
    /// What has been added already.
    seen: Option<Seen<C>>,
    /// By days and months.
    #[serde(
        deserialize_with = "periods",
        bound(deserialize = "A: Deserialize<'de>")
    )]
    pub(super) periods: BTreeMap<String, A>,
}

/// Amounts by days and months; anything else in place of a day is damage.
pub(super) fn periods<'de, D, A>(from: D) -> Result<BTreeMap<String, A>, D::Error>
where
    D: Deserializer<'de>,
    A: Deserialize<'de>,
{
    let all = BTreeMap::<String, A>::deserialize(from)?;
    match all.keys().find(|period| !is_period(period)) {
        Some(other) => Err(D::Error::custom(format!("{other:?} is no day or month"))),
        None => Ok(all),
    }
}

/// `2026-03` or `2026-03-15`.
fn is_period(text: &str) -> bool {
    let fits = |(at, byte): (usize, u8)| match at {
        4 | MONTH => byte == b'-',
        _ => byte.is_ascii_digit(),
    };
    [MONTH, DAY].contains(&text.len()) && text.bytes().enumerate().all(fits)
}

/// Counters as they were.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Seen<C> {
    /// Which counters: those with another text here began at nothing.
    pub(super) source: String,
    /// What they said.
    pub(super) counters: C,
}

/// What is read again and again.
pub(super) trait Counters<A> {
    /// What came since the same counters said `before`; without that, all they say.
    fn since(&self, before: Option<&Self>) -> A;
}

impl<C, A> Default for Ledger<C, A> {
    fn default() -> Self {
        Self {
            seen: None,
            periods: BTreeMap::new(),
        }
    }
}

impl<C, A> Ledger<C, A> {
    /// What the counters said when it was last done.
    pub(super) fn seen(&self) -> Option<&C> {
        self.seen.as_ref().map(|seen| &seen.counters)
    }

    /// The same to be changed: what comes next is what came since it said this.
    pub(super) fn seen_mut(&mut self) -> Option<&mut C> {
        self.seen.as_mut().map(|seen| &mut seen.counters)
    }
}

impl<C: Counters<A>, A: Copy + Default + PartialEq + Add<Output = A>> Ledger<C, A> {
    /// Adds what came since it was last done.
    pub(super) fn add(&mut self, now: Option<Seen<C>>, day: &str) {
        if let Some(now) = &now {
            let before = self.seen.take();
            self.add_beside(before.as_ref(), now, day);
        }
        self.seen = now;
        let days = || self.periods.keys().filter(|period| period.len() > MONTH);
        let old = days().count().saturating_sub(DAYS);
        for day in days().take(old).cloned().collect::<Vec<_>>() {
            let of_day = self.periods.remove(&day).unwrap_or_default();
            let sum = self.periods.entry(day[..MONTH].to_owned()).or_default();
            *sum = *sum + of_day;
        }
    }
}

impl<C: Counters<A>, A: Copy + Default + PartialEq + Add<Output = A>> Ledger<C, A> {
    /// Adds what came since `before` of counters that somebody else remembers.
    pub(super) fn add_beside(&mut self, before: Option<&Seen<C>>, now: &Seen<C>, day: &str) {
        let before = before.filter(|seen| seen.source == now.source);
        let since = now.counters.since(before.map(|seen| &seen.counters));
        if since != A::default() {
            let sum = self.periods.entry(day.to_owned()).or_default();
            *sum = *sum + since;
        }
    }
}

/// How an account is summed up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// Each day (UTC); long ago, each month.
    Day,
    /// Each month.
    Month,
    /// All there was.
    All,
}

impl By {
    /// What a day, or a month, belongs to.
    #[must_use]
    pub fn period(self, day: &str) -> String {
        match self {
            Self::Day => day.to_owned(),
            Self::Month => day[..MONTH.min(day.len())].to_owned(),
            Self::All => "all".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::clock;

    impl Counters<u64> for u64 {
        fn since(&self, before: Option<&Self>) -> Self {
            self - before.copied().unwrap_or(0)
        }
    }

    fn seen(source: &str, counters: u64) -> Option<Seen<u64>> {
        let source = source.into();
        Some(Seen { source, counters })
    }

    #[test]
    fn counters_that_begin_anew_are_added_to_what_was() {
        let mut ledger = Ledger::default();
        for (now, sum) in [
            (seen("a", 100), 100),
            (seen("a", 100), 100),
            (seen("a", 150), 150),
            // Larger than before and still another counter.
            (seen("b", 200), 350),
            (None, 350),
            (seen("b", 10), 360),
        ] {
            ledger.add(now, "2026-03-01");
            assert_eq!(ledger.periods.values().sum::<u64>(), sum);
        }
    }

    #[test]
    fn old_days_become_months_and_nothing_is_lost() {
        let mut ledger = Ledger::default();
        for n in 0..1000_u64 {
            let day = clock::time(n * 86_400_000);
            ledger.add(seen("a", (n + 1) * 7), &day[..DAY]);
        }
        assert_eq!(ledger.periods.values().sum::<u64>(), 7000);
        let (months, days): (Vec<_>, Vec<_>) = ledger.periods.keys().partition(|p| p.len() == 7);
        assert_eq!((days.len(), months.len()), (DAYS, 20));
        assert!(months.iter().all(|month| *month < days[0]));
    }

    #[test]
    fn what_is_no_day_and_no_month_is_damage() {
        let read = |period: &str| {
            let text = format!("{{\"seen\":null,\"periods\":{{\"{period}\":7}}}}");
            serde_json::from_str::<Ledger<u64, u64>>(&text)
        };
        for good in ["2026-03", "2026-03-15"] {
            assert_eq!(read(good).unwrap().periods[good], 7);
        }
        for bad in ["", "all", "2026", "2026-0é-1", "2026-03-1x", "2026-03-150"] {
            let error = read(bad).unwrap_err().to_string();
            assert!(error.contains("is no day or month"), "{bad}: {error}");
        }
    }

    /// A day of a guest, second by second. Its keeper reads every ten minutes and is killed at any
    /// moment, before it writes too; so is the guest, whose run the next command puts away; and the
    /// host, with counters that nobody had read.
    #[test]
    fn in_a_day_of_kills_nothing_is_counted_twice_and_nothing_lost_but_with_the_host() {
        let mut chance = 88_172_645_463_325_252_u64;
        let mut random = |below: u64| {
            chance ^= chance << 13;
            chance ^= chance >> 7;
            chance ^= chance << 17;
            chance % below
        };
        let read = |disk: &str, run: u64, counter: u64| {
            let mut ledger: Ledger<u64, u64> = serde_json::from_str(disk).unwrap();
            ledger.add(seen(&format!("run {run}"), counter), "2026-03-01");
            serde_json::to_string(&ledger).unwrap()
        };
        let mut disk = serde_json::to_string(&Ledger::<u64, u64>::default()).unwrap();
        // What the kernel has counted in all, and in this run; what of it nobody has written down.
        let (mut truth, mut counter, mut unread, mut lost) = (0, 0, 0, 0);
        let (mut run, mut keeper, mut kills) = (0, true, [0_u32; 4]);
        for second in 0..86_400_u64 {
            let used = random(1000);
            (truth, counter, unread) = (truth + used, counter + used, unread + used);
            match random(500) {
                0 => (keeper, kills[0]) = (false, kills[0] + 1),
                // The next command puts a new keeper on.
                1 => keeper = true,
                2 => {
                    disk = read(&disk, run, counter);
                    (run, counter, unread, keeper) = (run + 1, 0, 0, true);
                    kills[1] += 1;
                }
                3 => {
                    lost += unread;
                    (run, counter, unread, keeper) = (run + 1, 0, 0, true);
                    kills[2] += 1;
                }
                _ if keeper && second % 600 == 0 => {
                    let now = read(&disk, run, counter);
                    if random(4) == 0 {
                        (keeper, kills[3]) = (false, kills[3] + 1);
                    } else {
                        (disk, unread) = (now, 0);
                    }
                }
                _ => {}
            }
        }
        let ledger: Ledger<u64, u64> = serde_json::from_str(&disk).unwrap();
        let sum = ledger.periods.values().sum::<u64>();
        assert_eq!(sum, truth - lost - unread);
        assert!(kills.iter().sum::<u32>() > 400, "{kills:?}");
        assert!(kills.iter().all(|kills| *kills > 0), "{kills:?}");
    }
}
