//! The most that guests used together, by days, for a week: `capacity` shows it beside what they use
//! now. Keepers look, of all that are there the first whose turn it is after five minutes; what the
//! machine was idle in between counts, so CPU time is a mean over five to ten minutes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::error::Result;
use super::ledger::DAY;
use super::manager::{Manager, now_ms};
use crate::kernel::{fault, file};
use crate::model::{Amounts, Status, clock};

/// How long nobody looks again, in milliseconds.
const EVERY: u64 = 300_000;
/// How long a peak is told, in milliseconds.
const WEEK: u64 = 7 * 86_400_000;
/// Longest record that is read, bytes.
const LONGEST: u64 = 64 << 10;

/// `peaks.json` of an installation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Peaks {
    /// When somebody looked last, milliseconds since 1970.
    at_ms: u64,
    /// CPU time that all guests together had used then, microseconds.
    cpu_us: u64,
    /// The most of each day (UTC).
    days: BTreeMap<String, Amounts>,
}

impl Peaks {
    /// Whether it is time to look again; so it is when the clock was put back.
    fn is_due(&self, now_ms: u64) -> bool {
        !(self.at_ms..self.at_ms.saturating_add(EVERY)).contains(&now_ms)
    }

    fn look(&mut self, now_ms: u64, cpu_us: u64, memory: u64) {
        let passed_us = now_ms.saturating_sub(self.at_ms).saturating_mul(1000);
        // The counter begins anew with the host, and when no guest was left.
        let cpus = match cpu_us.checked_sub(self.cpu_us) {
            Some(used) if self.at_ms > 0 && passed_us > 0 => used.saturating_mul(100) / passed_us,
            _ => 0,
        };
        let most = self.days.entry(day(now_ms)).or_default();
        most.memory = most.memory.max(memory);
        most.cpus = most.cpus.max(cpus);
        (self.at_ms, self.cpu_us) = (now_ms, cpu_us);
        self.days.retain(|day, _| *day >= first(now_ms));
    }

    fn most(&self, now_ms: u64) -> Amounts {
        let week = self.days.range(first(now_ms)..);
        week.fold(Amounts::default(), |most, (_, day)| Amounts {
            memory: most.memory.max(day.memory),
            cpus: most.cpus.max(day.cpus),
        })
    }
}

fn day(ms: u64) -> String {
    clock::time(ms)[..DAY].to_owned()
}

/// The first day that still counts.
fn first(now_ms: u64) -> String {
    day(now_ms.saturating_sub(WEEK))
}

impl Manager {
    /// The most that guests used together in the last week, as far as somebody has looked.
    pub(super) fn peak(&self) -> Amounts {
        self.peaks().most(now_ms())
    }

    /// Looks at what all guests use together, if nobody has for a while.
    ///
    /// # Errors
    /// The guests cannot be listed, or the record cannot be written.
    pub(super) fn keep_peaks(&self) -> Result<()> {
        if !self.peaks().is_due(now_ms()) {
            return Ok(());
        }
        let lock = self.peaks_path().with_extension("lock");
        let Some(_lock) = file::Lock::take(&lock, Duration::ZERO)? else {
            return Ok(());
        };
        let mut peaks = self.peaks();
        let Some(parent) = self.existing_cgroups()? else {
            return Ok(());
        };
        if !peaks.is_due(now_ms()) {
            return Ok(());
        }
        let mut memory: u64 = 0;
        for name in self.names()? {
            let runs = matches!(self.status(&name), Ok(Status::Running | Status::Paused));
            if let Some(now) = runs.then(|| self.usage(&name)).flatten() {
                memory = memory.saturating_add(now.memory);
            }
        }
        peaks.look(now_ms(), parent.cpu_us()?, memory);
        fault::point()?;
        let text = serde_json::to_vec(&peaks).unwrap_or_default();
        Ok(file::write_whole(&self.peaks_path(), &text, 0o600)?)
    }

    /// A record that is damaged is none: it begins anew.
    fn peaks(&self) -> Peaks {
        let text = file::read_small(&self.peaks_path(), LONGEST).ok().flatten();
        let peaks = text.and_then(|text| serde_json::from_slice(&text).ok());
        peaks.unwrap_or_default()
    }

    fn peaks_path(&self) -> PathBuf {
        self.layout.var().join("peaks.json")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60_000;
    const NOON: u64 = 1_800_014_400_000;

    #[test]
    fn the_most_of_a_week_is_kept() {
        let mut peaks = Peaks::default();
        assert!(peaks.is_due(NOON));
        peaks.look(NOON, 50_000_000, 10);
        // Since when the first one counts is not known.
        assert_eq!(
            peaks.most(NOON),
            Amounts {
                memory: 10,
                cpus: 0
            }
        );
        assert!(!peaks.is_due(NOON + 4 * MINUTE) && peaks.is_due(NOON + 5 * MINUTE));
        assert!(peaks.is_due(NOON - 1), "the clock was put back");
        // Ten minutes in which a CPU and a half were used.
        peaks.look(NOON + 10 * MINUTE, 950_000_000, 7);
        let most = Amounts {
            memory: 10,
            cpus: 150,
        };
        assert_eq!(peaks.most(NOON + 10 * MINUTE), most);
        // After a boot it is counted from nothing.
        peaks.look(NOON + 20 * MINUTE, 1_000, 7);
        assert_eq!(peaks.most(NOON + 20 * MINUTE), most);
        let later = NOON + 7 * 86_400_000;
        assert_eq!(peaks.most(later), most);
        peaks.look(later + 86_400_000, 1_000, 3);
        let one = Amounts { memory: 3, cpus: 0 };
        assert_eq!((peaks.most(later + 86_400_000), peaks.days.len()), (one, 1));
    }
}
