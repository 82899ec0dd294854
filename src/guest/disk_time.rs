//! Room on disks over time: what `disk.size` promised a guest, from when it was made until it is gone,
//! whether it runs or not. What is next door in `account` counts what a run has used; a promise holds
//! between two looks too, so a guest that nobody looked at for a month had it on each of its days.

use serde::{Deserialize, Serialize};

use super::ledger::{Counters, DAY, DAYS, Ledger, Seen};
use crate::model::clock;

/// A day, in milliseconds.
const A_DAY: u64 = 86_400_000;

/// What was promised at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Promised {
    /// Milliseconds since 1970.
    at_ms: u64,
    /// Bytes.
    bytes: u64,
}

impl Counters<u64> for Promised {
    /// What was promised then held until now.
    fn since(&self, before: Option<&Self>) -> u64 {
        let Some(before) = before else { return 0 };
        let ms = self.at_ms.saturating_sub(before.at_ms);
        let kib_s = u128::from(before.bytes) * u128::from(ms) / (1024 * 1000);
        u64::try_from(kib_s).unwrap_or(u64::MAX)
    }
}

/// Brings it up to now. `size` is what the definition promises from now on, `None` when that cannot
/// be told.
pub(super) fn look(ledger: &mut Ledger<Promised, u64>, size: Option<Option<u64>>, now_ms: u64) {
    let before = ledger.seen().copied();
    let bytes = match (size, before) {
        (Some(size), _) => size.unwrap_or(0),
        (None, before) => before.map_or(0, |before| before.bytes),
    };
    if bytes == 0 && before.is_none() {
        return;
    }
    let mut add = |at_ms, bytes, of_day| {
        let seen = Seen {
            source: String::new(),
            counters: Promised { at_ms, bytes },
        };
        ledger.add(Some(seen), &clock::time(of_day)[..DAY]);
    };
    let Some(before) = before else {
        return add(now_ms, bytes, now_ms);
    };
    // A clock that was set back: what was counted already is not counted again.
    let now_ms = now_ms.max(before.at_ms);
    let longest_ago = now_ms.saturating_sub(DAYS as u64 * A_DAY);
    let mut midnight = (before.at_ms.max(longest_ago) / A_DAY + 1) * A_DAY;
    while midnight <= now_ms {
        add(midnight, before.bytes, midnight - 1);
        midnight += A_DAY;
    }
    add(now_ms, bytes, now_ms);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-03-01 at noon.
    const NOON: u64 = 1_772_366_400_000;
    const HOUR: u64 = 3_600_000;
    const GIB: u64 = 1 << 30;
    /// A GiB for an hour.
    const GIB_HOUR: u64 = (1 << 20) * 3600;

    fn days(ledger: &Ledger<Promised, u64>) -> Vec<(&str, u64)> {
        let days = ledger.periods.iter();
        days.map(|(day, sum)| (day.as_str(), sum / GIB_HOUR))
            .collect()
    }

    #[test]
    fn a_promise_holds_on_each_of_its_days() {
        let mut ledger = Ledger::default();
        look(&mut ledger, Some(Some(2 * GIB)), NOON);
        assert!(ledger.periods.is_empty());
        look(&mut ledger, Some(Some(GIB)), NOON + 48 * HOUR);
        let first = vec![("2026-03-01", 24), ("2026-03-02", 48), ("2026-03-03", 24)];
        assert_eq!(days(&ledger), first);
        // What was true until then was two; from then on it is one, then nothing.
        look(&mut ledger, Some(None), NOON + 49 * HOUR);
        look(&mut ledger, Some(None), NOON + 51 * HOUR);
        assert_eq!(days(&ledger)[2], ("2026-03-03", 25));
    }

    #[test]
    fn nothing_is_counted_twice_whatever_the_clock_does() {
        let mut ledger = Ledger::default();
        for at in [0, 5, 2, 4, 5, 9, 9] {
            look(&mut ledger, Some(Some(GIB)), NOON + at * HOUR);
        }
        assert_eq!(days(&ledger), [("2026-03-01", 9)]);
        // A definition that cannot be read says nothing new.
        look(&mut ledger, None, NOON + 10 * HOUR);
        look(&mut ledger, None, NOON + 11 * HOUR);
        assert_eq!(days(&ledger), [("2026-03-01", 11)]);
    }

    #[test]
    fn a_look_after_many_years_is_quick_and_loses_nothing() {
        let mut ledger = Ledger::default();
        look(&mut ledger, Some(Some(GIB)), NOON);
        let hours = 24 * 365 * 2000;
        look(&mut ledger, Some(Some(GIB)), NOON + hours * HOUR);
        assert_eq!(ledger.periods.values().sum::<u64>(), hours * GIB_HOUR);
        assert!(ledger.periods.len() < 450);
    }

    #[test]
    fn a_guest_without_a_size_has_nothing_written_of_it() {
        let mut ledger = Ledger::default();
        look(&mut ledger, Some(None), NOON);
        look(&mut ledger, None, NOON);
        assert_eq!(ledger, Ledger::default());
    }
}
