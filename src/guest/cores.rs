//! Cores over time: the most CPUs that a guest could have used at once on each day that it ran, which is
//! what software that is licensed by the core is paid for. Next door in `account` is what it did use.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::ledger::{self, DAY, DAYS, MONTH};
use crate::model::{CpuPoolName, Guest, clock};

/// A day, in milliseconds.
const A_DAY: u64 = 86_400_000;

/// Of each day, and of months long ago, the most.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Cores {
    /// What it could use when it was looked at last.
    seen: Option<SeenCores>,
    /// Hundredths of a CPU.
    #[serde(deserialize_with = "ledger::periods")]
    pub(super) periods: BTreeMap<String, u32>,
    /// What of it is shared with others; days before this was kept have none.
    #[serde(
        default,
        deserialize_with = "ledger::periods",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub(super) bounds: BTreeMap<String, Bounds>,
}

/// What several guests together could not go beyond, in whole CPUs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bounds {
    /// The host's.
    pub host: u32,
    /// Those of the pool, if the guest was in it all the time.
    pub pool: Option<(CpuPoolName, u32)>,
}

impl Bounds {
    /// Of both times together.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        let same = |(a, b): &((CpuPoolName, u32), (CpuPoolName, u32))| a.0 == b.0;
        let pools = self.pool.zip(other.pool).filter(same);
        Self {
            host: self.host.max(other.host),
            pool: pools.map(|(a, b)| (a.0, a.1.max(b.1))),
        }
    }
}

/// What a running guest could use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SeenCores {
    /// In which run.
    run: String,
    /// Milliseconds since 1970.
    at_ms: u64,
    /// Hundredths of a CPU.
    hundredths: u32,
    /// Not in what was written before it was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bounds: Option<Bounds>,
}

impl Cores {
    /// It runs, for so long already, and can use this many hundredths of a CPU, within these bounds.
    pub(super) fn look(
        &mut self,
        (run, run_ms): (&str, u64),
        hundredths: u32,
        bounds: Bounds,
        now_ms: u64,
    ) {
        // Nobody may have looked for days on which it ran too: none before it began, whatever the
        // time of day was at the last look.
        if let Some(before) = self.seen.take().filter(|seen| seen.run == run) {
            let from = now_ms.saturating_sub(run_ms.min(DAYS as u64 * A_DAY));
            let mut at = before.at_ms.max(from);
            while at < now_ms {
                self.raise(at, before.hundredths, before.bounds.as_ref());
                at = (at / A_DAY + 1) * A_DAY;
            }
        }
        self.raise(now_ms, hundredths, Some(&bounds));
        self.seen = Some(SeenCores {
            run: run.to_owned(),
            at_ms: now_ms,
            hundredths,
            bounds: Some(bounds),
        });
        let days = || self.periods.keys().filter(|period| period.len() > MONTH);
        let old = days().count().saturating_sub(DAYS);
        for day in days().take(old).cloned().collect::<Vec<_>>() {
            let of_day = self.periods.remove(&day).unwrap_or_default();
            let most = self.periods.entry(day[..MONTH].to_owned()).or_default();
            *most = of_day.max(*most);
            if let Some(bounds) = self.bounds.remove(&day) {
                self.bind(day[..MONTH].to_owned(), bounds);
            }
        }
    }

    fn raise(&mut self, at_ms: u64, hundredths: u32, bounds: Option<&Bounds>) {
        let day = clock::time(at_ms)[..DAY].to_owned();
        let most = self.periods.entry(day.clone()).or_default();
        *most = hundredths.max(*most);
        if let Some(bounds) = bounds {
            self.bind(day, bounds.clone());
        }
    }

    fn bind(&mut self, period: String, bounds: Bounds) {
        let before = self.bounds.remove(&period);
        let both = before.map_or_else(|| bounds.clone(), |before| before.with(bounds.clone()));
        self.bounds.insert(period, both);
    }
}

/// Hundredths of a CPU that a guest can use at once on a host with so many CPUs, and so many in its
/// pool if it has one: its limit, but no more than the CPUs it may run on.
pub(super) fn of(guest: &Guest, host: usize, pool: Option<usize>) -> u32 {
    let own = guest.cpu.dedicated.map(|n| n as usize);
    let set = guest.cpu.cpuset.as_ref().map(|set| set.iter().count());
    let cpus = [own, pool, set]
        .into_iter()
        .flatten()
        .fold(host, usize::min);
    let most = u32::try_from(cpus).unwrap_or(u32::MAX).saturating_mul(100);
    let limit = guest.cpu.limit.map(|limit| limit.hundredths());
    limit.map_or(most, |limit| limit.min(most))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::define::{Profiles, Sheet, resolve};

    /// 2026-03-01 at noon.
    const NOON: u64 = 1_772_366_400_000;

    fn on(host: u32) -> Bounds {
        Bounds { host, pool: None }
    }

    #[test]
    fn a_day_is_bound_by_a_pool_only_if_the_guest_was_in_it_all_the_time() {
        let of = |pool: &str, cpus| Bounds {
            host: 8,
            pool: Some((pool.parse().unwrap(), cpus)),
        };
        let mut cores = Cores::default();
        cores.look(("a", A_DAY), 200, of("gold", 2), NOON);
        cores.look(("a", A_DAY), 300, of("gold", 3), NOON + 1);
        assert_eq!(cores.bounds["2026-03-01"], of("gold", 3));
        cores.look(("a", A_DAY), 100, of("iron", 1), NOON + 2);
        assert_eq!(cores.bounds["2026-03-01"], on(8));
        // An account from before these were kept.
        let old = r#"{"seen":{"run":"a","at_ms":1,"hundredths":2},"periods":{"2026-03-01":200}}"#;
        let mut old: Cores = serde_json::from_str(old).unwrap();
        assert!(old.bounds.is_empty());
        // Nor is it known of the days until somebody looks.
        let seen = old.seen.as_mut().unwrap();
        seen.at_ms = NOON;
        old.look(("a", 9 * A_DAY), 100, on(8), NOON + 2 * A_DAY);
        assert!(old.periods.contains_key("2026-03-02"));
        assert_eq!(old.bounds, BTreeMap::from([("2026-03-03".into(), on(8))]));
    }

    #[test]
    fn a_day_has_the_most_of_it_and_days_between_looks_have_theirs() {
        let mut cores = Cores::default();
        let mut look = |run, hundredths, at| cores.look((run, 9 * A_DAY), hundredths, on(8), at);
        look("a", 400, NOON);
        look("a", 150, NOON + 1);
        look("a", 150, NOON + 2 * A_DAY);
        // It did not run between its runs.
        look("b", 200, NOON + 5 * A_DAY);
        let days = [
            ("2026-03-01", 400),
            ("2026-03-02", 150),
            ("2026-03-03", 150),
            ("2026-03-06", 200),
        ];
        assert!(cores.periods.iter().map(|(d, n)| (d.as_str(), *n)).eq(days));
        // A clock that was set back takes nothing away.
        cores.look(("b", A_DAY), 100, on(8), NOON);
        assert_eq!(cores.periods["2026-03-06"], 200);
        assert_eq!(cores.periods["2026-03-01"], 400);
    }

    #[test]
    fn a_clock_that_jumped_makes_no_days_on_which_it_did_not_run() {
        let mut cores = Cores::default();
        cores.look(("a", 60_000), 200, on(8), NOON);
        // A year ahead, an hour later; and back.
        cores.look(("a", 3_660_000), 200, on(8), NOON + 365 * A_DAY);
        assert_eq!(cores.periods.len(), 2);
        cores.look(("a", 3_670_000), 200, on(8), NOON + 1000);
        assert_eq!(cores.periods.len(), 2);
    }

    #[test]
    fn old_days_become_months_with_their_most() {
        let mut cores = Cores::default();
        for n in 0..600 {
            let hundredths = if n == 3 { 900 } else { 100 };
            cores.look(("a", A_DAY), hundredths, on(8), NOON + n * A_DAY);
        }
        assert_eq!(cores.bounds["2026-03"], on(8));
        assert_eq!(cores.bounds.len(), cores.periods.len());
        assert_eq!(cores.periods["2026-03"], 900);
        assert_eq!(cores.periods["2026-04"], 100);
        assert_eq!(
            cores.periods.keys().filter(|p| p.len() == DAY).count(),
            DAYS
        );
    }

    #[test]
    fn cores_are_those_that_its_mode_leaves_it() {
        let could = |cpu: &str, pool| {
            let sheet = Sheet::parse("guest.toml", &format!("[cpu]\n{cpu}")).unwrap();
            let profiles = Profiles::load(None).unwrap();
            of(
                &resolve(&"a".parse().unwrap(), &sheet, &profiles).unwrap(),
                8,
                pool,
            )
        };
        assert_eq!(could("", None), 800);
        assert_eq!(could("limit = 1.5\ncpuset = \"0-3\"", None), 150);
        assert_eq!(could("cpuset = \"0-3\"", None), 400);
        assert_eq!(could("mode = \"dedicated\"\ndedicated = 2", None), 200);
        assert_eq!(could("mode = \"pool\"\npool = \"gold\"", Some(3)), 300);
        assert_eq!(
            could("mode = \"pool\"\npool = \"gold\"\nlimit = 1", Some(3)),
            100
        );
    }
}
