//! What a guest has used: amounts that only grow, and the gauge that they are read from.

use std::ops::Add;

use serde::{Deserialize, Serialize};

/// What a guest has used in some time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Used {
    /// How long it ran, milliseconds; time in which it was paused or the machine slept counts.
    pub run_ms: u64,
    /// CPU time, microseconds.
    pub cpu_us: u64,
    /// Memory it was charged for, over time, KiB times seconds.
    pub memory_kib_s: u64,
    /// Swap it took, over time, KiB times seconds.
    pub swap_kib_s: u64,
    /// Bytes read from block devices.
    pub io_read: u64,
    /// Bytes written to block devices.
    pub io_written: u64,
    /// Reads from block devices.
    #[serde(default)]
    pub reads: u64,
    /// Writes to block devices.
    #[serde(default)]
    pub writes: u64,
}

impl Add for Used {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            run_ms: self.run_ms.saturating_add(other.run_ms),
            cpu_us: self.cpu_us.saturating_add(other.cpu_us),
            memory_kib_s: self.memory_kib_s.saturating_add(other.memory_kib_s),
            swap_kib_s: self.swap_kib_s.saturating_add(other.swap_kib_s),
            io_read: self.io_read.saturating_add(other.io_read),
            io_written: self.io_written.saturating_add(other.io_written),
            reads: self.reads.saturating_add(other.reads),
            writes: self.writes.saturating_add(other.writes),
        }
    }
}

/// A running guest's counters at a moment. Times are of the boot clock (CLOCK_BOOTTIME).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gauge {
    /// When this run began, milliseconds since boot.
    pub began_ms: u64,
    /// When the counters were read.
    pub at_ms: u64,
    /// CPU time of this run, microseconds.
    pub cpu_us: u64,
    /// Bytes of memory charged at the moment.
    pub memory: u64,
    /// Bytes of swap taken at the moment.
    pub swap: u64,
    /// Bytes read in this run.
    pub io_read: u64,
    /// Bytes written in this run.
    pub io_written: u64,
    /// Reads in this run.
    #[serde(default)]
    pub reads: u64,
    /// Writes in this run.
    #[serde(default)]
    pub writes: u64,
}

impl Gauge {
    /// What was used since an earlier reading of the same run; without one, since the run began.
    /// Memory between two readings is taken for the mean of both.
    #[must_use]
    pub fn since(&self, before: Option<&Self>) -> Used {
        let run_ms = self
            .at_ms
            .saturating_sub(before.map_or(self.began_ms, |before| before.at_ms));
        let grown = |of: fn(&Self) -> u64| {
            let then = before.map_or(0, of);
            of(self).saturating_sub(then)
        };
        let held = |of: fn(&Self) -> u64| {
            let (now, then) = (of(self), before.map_or(of(self), of));
            let mean = u128::midpoint(now.into(), then.into());
            u64::try_from(mean * u128::from(run_ms) / (1024 * 1000)).unwrap_or(u64::MAX)
        };
        Used {
            run_ms,
            cpu_us: grown(|g| g.cpu_us),
            memory_kib_s: held(|g| g.memory),
            swap_kib_s: held(|g| g.swap),
            io_read: grown(|g| g.io_read),
            io_written: grown(|g| g.io_written),
            reads: grown(|g| g.reads),
            writes: grown(|g| g.writes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readings_add_up_to_the_run() {
        let read = |at_ms, cpu_us, memory| Gauge {
            began_ms: 1000,
            at_ms,
            cpu_us,
            memory,
            io_written: cpu_us * 2,
            writes: cpu_us / 10,
            ..Gauge::default()
        };
        let (first, last) = (read(3000, 70, 1 << 20), read(11_000, 90, 3 << 20));
        let (one, two) = (first.since(None), last.since(Some(&first)));
        assert_eq!(one.run_ms, 2000);
        assert_eq!(one.memory_kib_s, 2 * 1024);
        assert_eq!(two.memory_kib_s, 8 * 2 * 1024, "the mean of both");
        let all = one + two;
        assert_eq!((all.run_ms, all.cpu_us, all.io_written), (10_000, 90, 180));
        assert_eq!((all.reads, all.writes), (0, 9));
        assert_eq!(last.since(Some(&last)), Used::default());
    }
}
