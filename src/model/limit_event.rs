//! Events of limits that were hit: what they tell of processes, and how often one is told. A guest can
//! hit its limits all day long, and its events must not push everybody else's out.

use serde::{Deserialize, Serialize};

/// For so long nothing more is told after the first time, milliseconds; twice as long each time.
const FIRST: u64 = 60_000;
/// The longest of these times.
const LONGEST: u64 = 3_600_000;

/// What of a guest's limits is told, as its definition says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct EventRule {
    /// That its CPU limit held it back in so many percent of the periods; `None`: never.
    pub throttled: Option<u32>,
}

/// A process, or all of one name, at the moment of an event.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopProcess {
    /// What it calls itself.
    pub name: String,
    /// Its number inside the guest; that of the largest when they are several.
    pub pid: Option<u32>,
    /// The same on the host; not told inside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_pid: Option<i32>,
    /// How many.
    pub processes: u64,
    /// Their threads.
    pub threads: u64,
    /// Bytes of memory that are present.
    pub memory: u64,
    /// Percent of a CPU, over a second; `None` where that is not what it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_percent: Option<u64>,
    /// Bytes that it has written to disks since it began; `None` where that is not what it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub written: Option<u64>,
}

/// When an event of one limit is told. All times are milliseconds of one clock.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    first: u64,
    pending: u64,
    told_at: Option<u64>,
    pause: u64,
}

impl Default for Pace {
    fn default() -> Self {
        Self::with_first(FIRST)
    }
}

impl Pace {
    /// One that tells again after this time.
    #[must_use]
    pub fn with_first(first: u64) -> Self {
        Self {
            first,
            pending: 0,
            told_at: None,
            pause: first,
        }
    }

    /// It was hit so many times more.
    pub fn hit(&mut self, times: u64) {
        self.pending = self.pending.saturating_add(times);
    }

    /// When there is something to tell.
    #[must_use]
    pub fn due(&self) -> Option<u64> {
        (self.pending > 0).then(|| self.rests_until().unwrap_or(0))
    }

    /// Until when nothing is told.
    #[must_use]
    pub fn rests_until(&self) -> Option<u64> {
        Some(self.told_at?.saturating_add(self.pause))
    }

    /// Whether nothing is told now.
    #[must_use]
    pub fn rests(&self, now: u64) -> bool {
        self.rests_until().is_some_and(|until| now < until)
    }

    /// How often it was hit since it was told last, if it is to be told now.
    pub fn take(&mut self, now: u64) -> Option<u64> {
        if self.due().is_none_or(|due| now < due) {
            return None;
        }
        // One that was quiet for as long again begins anew.
        let goes_on = self
            .rests_until()
            .is_some_and(|until| now < until.saturating_add(self.pause));
        self.pause = match goes_on {
            true => self.pause.saturating_mul(2).min(LONGEST),
            false => self.first,
        };
        self.told_at = Some(now);
        Some(std::mem::take(&mut self.pending))
    }

    /// The same whenever that is: nobody will ask again.
    pub fn take_last(&mut self) -> Option<u64> {
        (self.pending > 0).then(|| std::mem::take(&mut self.pending))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_told_at_once_and_those_that_follow_ever_more_rarely() {
        let mut pace = Pace::default();
        let (mut told, mut hits) = (Vec::new(), 0);
        for second in 0..86_400 {
            pace.hit(3);
            if let Some(times) = pace.take(second * 1000) {
                told.push(second);
                hits += times;
            }
        }
        assert_eq!(told[..4], [0, 60, 180, 420]);
        assert!(told.len() < 32, "{}", told.len());
        assert_eq!(hits + pace.take_last().unwrap_or(0), 3 * 86_400);
        assert_eq!(pace.take_last(), None);
    }

    #[test]
    fn after_a_calm_it_is_told_at_once_again() {
        let mut pace = Pace::with_first(1000);
        assert_eq!(pace.take(0), None);
        pace.hit(1);
        assert_eq!(pace.take(0), Some(1));
        pace.hit(1);
        assert!(pace.rests(999) && pace.take(999).is_none());
        assert_eq!(pace.due(), Some(1000));
        assert_eq!(pace.take(1000), Some(1));
        assert_eq!(pace.rests_until(), Some(3000));
        pace.hit(2);
        assert_eq!(pace.take(9000), Some(2));
        assert_eq!(pace.rests_until(), Some(10_000));
    }
}
