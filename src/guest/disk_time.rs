//! Room on disks over time: what `disk.size` promised a guest, from when it was made until it is gone,
//! whether it runs or not. What is next door in `account` counts what a run has used; a promise holds
//! between two looks too, so a guest that nobody looked at for a month had it on each of its days. For
//! how long, the clock of the host's boot says, which nobody sets; on which days, and for how long over a
//! boot, the time of day.

use serde::{Deserialize, Serialize};

use super::ledger::{Counters, DAY, DAYS, Ledger, Seen};
use crate::model::clock;

/// A day, in milliseconds.
const A_DAY: u64 = 86_400_000;

/// A moment, by both clocks.
#[derive(Clone, Debug)]
pub(super) struct Moment {
    /// Milliseconds since 1970.
    pub(super) day_ms: u64,
    /// In which boot.
    pub(super) boot: String,
    /// Milliseconds since that (CLOCK_BOOTTIME).
    pub(super) boot_ms: u64,
}

/// What was promised at a moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Promised {
    /// Milliseconds since 1970.
    at_ms: u64,
    /// Bytes.
    bytes: u64,
    /// In which boot, and milliseconds since that; not in what was written before it was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    boot: Option<(String, u64)>,
}

impl Promised {
    fn at(now: &Moment, at_ms: u64, bytes: u64) -> Seen<Self> {
        let boot = Some((now.boot.clone(), now.boot_ms));
        Seen {
            source: String::new(),
            counters: Self { at_ms, bytes, boot },
        }
    }

    /// When that was, by the time of day as it is set now.
    fn was_at(&self, now: &Moment) -> u64 {
        match &self.boot {
            Some((boot, ms)) if *boot == now.boot => {
                now.day_ms.saturating_sub(now.boot_ms.saturating_sub(*ms))
            }
            _ => self.at_ms,
        }
    }
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
pub(super) fn look(ledger: &mut Ledger<Promised, u64>, size: Option<Option<u64>>, now: &Moment) {
    let before = ledger.seen().cloned();
    let bytes = match (size, &before) {
        (Some(size), _) => size.unwrap_or(0),
        (None, before) => before.as_ref().map_or(0, |before| before.bytes),
    };
    if bytes == 0 && before.is_none() {
        return;
    }
    let day = |ms| clock::time(ms)[..DAY].to_owned();
    let mut now_ms = now.day_ms;
    if let Some(before) = before {
        let from = before.was_at(now);
        if let Some(seen) = ledger.seen_mut() {
            seen.at_ms = from;
        }
        // A time of day that was set back over a boot: what was counted already is not counted again.
        now_ms = now_ms.max(from);
        let longest_ago = now_ms.saturating_sub(DAYS as u64 * A_DAY);
        let mut midnight = (from.max(longest_ago) / A_DAY + 1) * A_DAY;
        while midnight <= now_ms {
            let seen = Promised::at(now, midnight, before.bytes);
            ledger.add(Some(seen), &day(midnight - 1));
            midnight += A_DAY;
        }
    }
    ledger.add(Some(Promised::at(now, now_ms, bytes)), &day(now_ms));
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

    /// A moment by the time of day; each is in a boot of its own.
    fn at(day_ms: u64) -> Moment {
        Moment {
            day_ms,
            boot: day_ms.to_string(),
            boot_ms: 5,
        }
    }

    fn days(ledger: &Ledger<Promised, u64>) -> Vec<(&str, u64)> {
        let days = ledger.periods.iter();
        days.map(|(day, sum)| (day.as_str(), sum / GIB_HOUR))
            .collect()
    }

    #[test]
    fn a_promise_holds_on_each_of_its_days() {
        let mut ledger = Ledger::default();
        look(&mut ledger, Some(Some(2 * GIB)), &at(NOON));
        assert!(ledger.periods.is_empty());
        look(&mut ledger, Some(Some(GIB)), &at(NOON + 48 * HOUR));
        let first = vec![("2026-03-01", 24), ("2026-03-02", 48), ("2026-03-03", 24)];
        assert_eq!(days(&ledger), first);
        // What was true until then was two; from then on it is one, then nothing.
        look(&mut ledger, Some(None), &at(NOON + 49 * HOUR));
        look(&mut ledger, Some(None), &at(NOON + 51 * HOUR));
        assert_eq!(days(&ledger)[2], ("2026-03-03", 25));
    }

    #[test]
    fn nothing_is_counted_twice_whatever_the_clock_does() {
        let mut ledger = Ledger::default();
        for hours in [0, 5, 2, 4, 5, 9, 9] {
            look(&mut ledger, Some(Some(GIB)), &at(NOON + hours * HOUR));
        }
        assert_eq!(days(&ledger), [("2026-03-01", 9)]);
        // A definition that cannot be read says nothing new.
        look(&mut ledger, None, &at(NOON + 10 * HOUR));
        look(&mut ledger, None, &at(NOON + 11 * HOUR));
        assert_eq!(days(&ledger), [("2026-03-01", 11)]);
    }

    #[test]
    fn a_clock_that_is_set_is_no_time_that_passed() {
        let in_boot = |day_ms, hours| Moment {
            day_ms,
            boot: "one".into(),
            boot_ms: hours * HOUR,
        };
        let mut ledger = Ledger::default();
        look(&mut ledger, Some(Some(GIB)), &in_boot(NOON, 1));
        // A year ahead, an hour later; back again, two hours later; and two more.
        let year = 365 * 24 * HOUR;
        look(&mut ledger, Some(Some(GIB)), &in_boot(NOON + year, 2));
        assert_eq!(days(&ledger), [("2027-03-01", 1)]);
        look(&mut ledger, Some(Some(GIB)), &in_boot(NOON + 3 * HOUR, 4));
        look(&mut ledger, Some(Some(GIB)), &in_boot(NOON + 5 * HOUR, 6));
        assert_eq!(days(&ledger), [("2026-03-01", 4), ("2027-03-01", 1)]);
        // Set back over a boot it is not known how long that was.
        look(&mut ledger, Some(Some(GIB)), &at(NOON));
        look(&mut ledger, Some(Some(GIB)), &at(NOON + 6 * HOUR));
        assert_eq!(days(&ledger)[0], ("2026-03-01", 5));
    }

    #[test]
    fn a_look_after_many_years_is_quick_and_loses_nothing() {
        let mut ledger = Ledger::default();
        look(&mut ledger, Some(Some(GIB)), &at(NOON));
        let hours = 24 * 365 * 2000;
        look(&mut ledger, Some(Some(GIB)), &at(NOON + hours * HOUR));
        assert_eq!(ledger.periods.values().sum::<u64>(), hours * GIB_HOUR);
        assert!(ledger.periods.len() < 450);
    }

    #[test]
    fn a_guest_without_a_size_has_nothing_written_of_it() {
        let mut ledger = Ledger::default();
        look(&mut ledger, Some(None), &at(NOON));
        look(&mut ledger, None, &at(NOON));
        assert_eq!(ledger, Ledger::default());
    }
}
