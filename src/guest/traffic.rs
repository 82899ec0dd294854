//! The ledger of a guest's traffic: what its counters said when they were looked at last, and what has
//! been added up by days. Both are in one file, written whole, so that what came in between is added
//! once and never twice, whoever dies.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::error::{GuestError, Result};
use super::manager::{Manager, now_ms};
use crate::kernel::{KernelError, fault, file};
use crate::model::{GuestName, Traffic, clock};

/// Longest ledger that is read, bytes: some thousand days.
const LONGEST: u64 = 4 << 20;
/// Days that are kept as days; those before are kept as months.
const DAYS: usize = 400;
/// A month as text, such as `2026-03`; a day has `-15` behind it.
const MONTH: usize = 7;
/// How often a keeper looks, in milliseconds: a part of a day, so that what comes before midnight
/// counts as that day's.
const EVERY: u64 = 600_000;

/// `traffic.json` in a guest's folder.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ledger {
    /// What has been added already.
    seen: Option<Seen>,
    /// By days and months.
    periods: BTreeMap<String, Traffic>,
}

/// Counters as they were.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Seen {
    source: String,
    traffic: Traffic,
}

impl Ledger {
    /// Adds what came since it was last done.
    fn add(&mut self, now: Option<Seen>, day: &str) {
        if let Some(now) = &now {
            let before = self.seen.as_ref().filter(|seen| seen.source == now.source);
            let since = before.map_or(now.traffic, |before| now.traffic.since(&before.traffic));
            if since != Traffic::default() {
                let sum = self.periods.entry(day.to_owned()).or_default();
                *sum = *sum + since;
            }
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

/// How traffic is summed up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// Each day (UTC); long ago, each month.
    Day,
    /// Each month.
    Month,
    /// All there was.
    All,
}

/// The traffic of a guest in a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Period {
    /// `2026-03-15`, `2026-03`, or `all`.
    pub period: String,
    /// How much.
    pub traffic: Traffic,
}

impl Manager {
    /// A guest's traffic up to now. Writes it down too, unless a command is at work on the guest.
    ///
    /// # Errors
    /// There is no such guest, its ledger is damaged, or the kernel refuses to tell.
    pub fn traffic(&self, name: &GuestName, by: By) -> Result<Vec<Period>> {
        self.status(name)?;
        let ledger = match self.lock_within(name, "traffic", Duration::ZERO) {
            Ok(_lock) => self.settle_traffic(name)?,
            Err(GuestError::Busy { .. }) => self.ledger_now(name)?.1,
            Err(error) => return Err(error),
        };
        let mut sums: BTreeMap<String, Traffic> = BTreeMap::new();
        if by == By::All {
            sums.insert("all".into(), Traffic::default());
        }
        for (period, traffic) in ledger.periods {
            let period = match by {
                By::Day => period,
                By::Month => period[..MONTH.min(period.len())].to_owned(),
                By::All => "all".to_owned(),
            };
            let sum = sums.entry(period).or_default();
            *sum = *sum + traffic;
        }
        let period = |(period, traffic)| Period { period, traffic };
        Ok(sums.into_iter().map(period).collect())
    }

    /// Brings a guest's ledger up to date. Its lock is held: two at once would add the same.
    fn settle_traffic(&self, name: &GuestName) -> Result<Ledger> {
        let (before, now) = self.ledger_now(name)?;
        if before != now {
            fault::point()?;
            let text = serde_json::to_vec(&now).unwrap_or_default();
            file::write_whole(&self.ledger_path(name), &text, 0o600)?;
        }
        Ok(now)
    }

    /// The same where the ledger is not what it is about: neither a full disk nor a damaged ledger
    /// keeps a guest from being stopped, and counters stay until they are read.
    pub(super) fn keep_traffic(&self, name: &GuestName) {
        if self.layout.guest(name).is_dir() {
            let _later = self.settle_traffic(name);
        }
    }

    /// The same from its keeper, if no command is at work on the guest: that one does it.
    pub(super) fn keep_traffic_if_idle(&self, name: &GuestName) {
        if let Ok(_lock) = self.lock_within(name, "keeper", Duration::ZERO) {
            self.keep_traffic(name);
        }
    }

    /// The ledger as it is, and as it is to be.
    fn ledger_now(&self, name: &GuestName) -> Result<(Ledger, Ledger)> {
        let failed = |error: Box<dyn std::error::Error + Send + Sync>| GuestError::Network(error);
        let path = self.ledger_path(name);
        let before: Ledger = match file::read_small(&path, LONGEST)? {
            None => Ledger::default(),
            Some(text) => serde_json::from_slice(&text)
                .map_err(|error| KernelError::io("understand", path.display())(error.into()))?,
        };
        let lease = self.network.find(name).map_err(|e| failed(e.into()))?;
        let counters = match lease {
            Some(lease) => self
                .network
                .counters(&lease)
                .map_err(|e| failed(e.into()))?,
            None => None,
        };
        let seen = counters.map(|counters| Seen {
            source: counters.source,
            traffic: counters.traffic,
        });
        let mut now = before.clone();
        now.add(seen, &clock::time(now_ms())[..MONTH + 3]);
        Ok((before, now))
    }

    fn ledger_path(&self, name: &GuestName) -> PathBuf {
        self.layout.guest(name).join("traffic.json")
    }
}

/// How long until a keeper looks again.
pub(super) fn until_next_look() -> Duration {
    Duration::from_millis(EVERY - now_ms() % EVERY)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Volume;

    fn seen(source: &str, bytes: u64) -> Option<Seen> {
        let sent_ipv4 = Volume { packets: 1, bytes };
        Some(Seen {
            source: source.into(),
            traffic: Traffic {
                sent_ipv4,
                ..Traffic::default()
            },
        })
    }

    fn all(ledger: &Ledger) -> u64 {
        ledger.periods.values().map(|t| t.sent().bytes).sum()
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
            assert_eq!(all(&ledger), sum);
        }
    }

    #[test]
    fn old_days_become_months_and_nothing_is_lost() {
        let mut ledger = Ledger::default();
        for n in 0..1000_u64 {
            let day = clock::time(n * 86_400_000);
            ledger.add(seen("a", (n + 1) * 7), &day[..10]);
        }
        assert_eq!(all(&ledger), 7000);
        let (months, days): (Vec<_>, Vec<_>) = ledger.periods.keys().partition(|p| p.len() == 7);
        assert_eq!((days.len(), months.len()), (DAYS, 20));
        assert!(months.iter().all(|month| *month < days[0]));
    }
}
