//! Credits of CPU time: a guest earns some all the time, spends what it uses, and banks what is left
//! up to a limit. While it has some it may run as fast as its own limit lets it; when they are used up
//! it is held to what it earns. Nothing here knows the time or the kernel.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Cpus;

/// How often somebody looks at the most, and at the least.
const SELDOM: Duration = Duration::from_secs(30);
const OFTEN: Duration = Duration::from_millis(100);
/// Most that has to be banked before a guest that had used up its credits runs fast again; else a
/// tenth of the bank. So it does not change back and forth for moments.
const FRESH_START_US: i64 = 10_000_000;

/// What a definition says of credits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credits {
    /// CPU time it earns, and all it gets when it has no more credits.
    pub earn: Cpus,
    /// Most CPU time that is banked, microseconds.
    pub bank_us: u64,
}

/// How much of them a guest has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Balance {
    /// CPU time banked, microseconds; less than nothing is owed.
    pub us: i64,
    /// Whether it is held to what it earns.
    pub spent: bool,
}

impl Default for Balance {
    /// A guest that has earned nothing yet.
    fn default() -> Self {
        Self { us: 0, spent: true }
    }
}

impl Credits {
    fn bank(&self) -> i64 {
        i64::try_from(self.bank_us).unwrap_or(i64::MAX / 2)
    }

    fn fresh_start(&self) -> i64 {
        (self.bank() / 10).clamp(1, FRESH_START_US)
    }

    fn earned(&self, elapsed: Duration) -> i64 {
        let us = elapsed.as_micros() * u128::from(self.earn.hundredths()) / 100;
        i64::try_from(us).unwrap_or(i64::MAX / 2)
    }
}

impl Balance {
    /// What is left after some time in which so much CPU time was used. Nobody owes more than a full
    /// bank: who looked too late to hold a guest back does not punish it for ever.
    #[must_use]
    pub fn after(self, credits: &Credits, elapsed: Duration, used_us: u64) -> Self {
        let used = i64::try_from(used_us).unwrap_or(i64::MAX / 2);
        let us = self
            .us
            .saturating_add(credits.earned(elapsed))
            .saturating_sub(used)
            .clamp(-credits.bank(), credits.bank());
        let spent = match self.spent {
            true => us < credits.fresh_start(),
            false => us <= 0,
        };
        Self { us, spent }
    }

    /// When it must be looked at again: before then a guest that may use `most` CPUs cannot have used
    /// up what it has, nor one that is held back have earned enough.
    #[must_use]
    pub fn pause(&self, credits: &Credits, most: Cpus) -> Duration {
        let earn = u64::from(credits.earn.hundredths());
        let (way, speed) = match self.spent {
            true => (credits.fresh_start().saturating_sub(self.us), earn),
            false => (
                self.us,
                u64::from(most.hundredths()).saturating_sub(earn).max(1),
            ),
        };
        let way = u64::try_from(way).unwrap_or(0);
        Duration::from_micros(way.saturating_mul(100) / speed.max(1)).clamp(OFTEN, SELDOM)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cpus(hundredths: u32) -> Cpus {
        Cpus::from_hundredths(hundredths).unwrap()
    }

    fn credits(earn: u32, bank: u64) -> Credits {
        Credits {
            earn: cpus(earn),
            bank_us: bank * 1_000_000,
        }
    }

    /// A guest that wants so many hundredths of a CPU, for so long; who looks is late by so much.
    #[derive(Clone, Debug)]
    struct Want {
        cpus: u32,
        ms: u64,
        late_ms: u64,
    }

    /// A run on a clock of its own: what was used, for how long, how late the worst look was.
    struct Run {
        balance: Balance,
        used_us: u64,
        us: u64,
        changes: u32,
        late_us: u64,
    }

    fn run(credits: &Credits, most: Cpus, wants: &[Want]) -> Run {
        let mut run = Run {
            balance: Balance::default(),
            used_us: 0,
            us: 0,
            changes: 0,
            late_us: 0,
        };
        for want in wants {
            let mut left = want.ms * 1000;
            while left > 0 {
                let late = want.late_ms * 1000;
                let pause = run.balance.pause(credits, most).as_micros() as u64 + late;
                let pause = pause.min(left);
                let limit = if run.balance.spent {
                    credits.earn
                } else {
                    most
                };
                let speed = u64::from(want.cpus.min(limit.hundredths()));
                let used = pause * speed / 100;
                let next = run
                    .balance
                    .after(credits, Duration::from_micros(pause), used);
                run.changes += u32::from(next.spent != run.balance.spent);
                run.balance = next;
                (run.used_us, run.us) = (run.used_us + used, run.us + pause);
                run.late_us = run.late_us.max(late);
                left -= pause;
            }
        }
        run
    }

    fn wants() -> impl Strategy<Value = Vec<Want>> {
        let one = (0_u32..500, 1_u64..120_000, 0_u64..2000);
        let one = one.prop_map(|(cpus, ms, late_ms)| Want { cpus, ms, late_ms });
        prop::collection::vec(one, 1..40)
    }

    proptest! {
        #[test]
        fn nobody_gets_more_than_is_earned_and_what_a_late_look_lets_pass(
            earn in 1_u32..100, bank in 1_u64..600, most in 100_u32..400, wants in wants(),
        ) {
            let credits = credits(earn, bank);
            let run = run(&credits, cpus(most), &wants);
            let earned = run.us * u64::from(earn) / 100;
            // Each change to holding it back may come late once.
            let late = (run.late_us + 100_000) * u64::from(most) / 100;
            let most = earned + late * u64::from(run.changes.div_ceil(2)) + 1_000_000;
            prop_assert!(run.used_us <= most, "{} of {most}", run.used_us);
            prop_assert!(run.balance.us.unsigned_abs() <= credits.bank_us);
        }

        #[test]
        fn what_is_owed_is_paid_back(earn in 5_u32..100, late_ms in 0_u64..2000) {
            let credits = credits(earn, 60);
            // Idle, then busy for so long that only what is earned counts.
            let want = |cpus, ms| Want { cpus, ms, late_ms };
            let run = run(&credits, cpus(400), &[want(0, 300_000), want(400, 3_600_000)]);
            let earned = run.us * u64::from(earn) / 100;
            let late = (run.late_us + 100_000) * 4;
            prop_assert!(run.used_us <= earned + late);
            // Nor is it kept from anything.
            prop_assert!(run.used_us * 100 >= earned * 90, "{} of {earned}", run.used_us);
        }

        #[test]
        fn a_look_more_or_less_changes_nothing(
            us in -1_000_000_i64..1_000_000, ms in 0_u64..10_000, used in 0_u64..2_000_000,
        ) {
            // Far from both ends of the bank.
            let credits = credits(50, 3600);
            let balance = Balance { us, spent: us < 0 };
            let once = balance.after(&credits, Duration::from_millis(2 * ms), 2 * used);
            let half = |one: Balance| one.after(&credits, Duration::from_millis(ms), used);
            prop_assert_eq!(half(half(balance)).us, once.us);
        }
    }

    #[test]
    fn what_was_saved_is_spent_at_full_speed_and_then_it_is_held_back() {
        let credits = credits(20, 60);
        let want = |cpus, ms| Want {
            cpus,
            ms,
            late_ms: 0,
        };
        // Five minutes of doing nothing fill the bank.
        let idle = run(&credits, cpus(200), &[want(0, 300_000)]);
        // But for what is rounded down.
        assert!(idle.balance.us > 59_999_900 && !idle.balance.spent);
        // 60 s at 2 - 0.2 CPUs: a third of a minute at full speed, then 0.2.
        let busy = run(&credits, cpus(200), &[want(0, 300_000), want(200, 60_000)]);
        let full = 60_000_000_i64 * 200 / 180;
        let then = (60_000_000 - full / 2) * 20 / 100;
        let difference = (full + then).abs_diff(i64::try_from(busy.used_us).unwrap());
        assert!(difference < 500_000, "{}", busy.used_us);
        assert!(busy.balance.spent);
        assert_eq!(busy.changes, 2);
    }

    #[test]
    fn looks_are_far_apart_while_nothing_can_happen_and_never_too_many() {
        let credits = credits(20, 3600);
        let at = |us, spent| Balance { us, spent }.pause(&credits, cpus(120));
        assert_eq!(at(3_600_000_000, false), SELDOM);
        assert_eq!(at(5_000_000, false), Duration::from_secs(5));
        assert_eq!(at(1, false), OFTEN);
        // Ten seconds at 0.2 CPUs take longer than that.
        assert_eq!(at(0, true), SELDOM);
        assert_eq!(at(9_999_999, true), OFTEN);
    }
}
