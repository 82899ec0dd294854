//! What a goal changes of a guest, and in which steps it is counted: hundredths of a CPU, MiB of
//! memory, percent of the limits on block devices that its definition has.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Bytes, Cpus, Guest};

/// The kernel's usual period, microseconds.
const PERIOD_US: u64 = 100_000;
/// Least memory limit that is given without being asked for, MiB.
const LEAST_MEMORY: u64 = 16;
/// Least part of the limits on block devices, percent.
const LEAST_IO: u64 = 10;

/// One of a guest's limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GoalResource {
    /// `cpu.limit`.
    #[default]
    Cpu,
    /// `memory.limit`.
    Memory,
    /// The limits of `io.device`, all by the same part.
    Io,
}

impl GoalResource {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Cpu, Self::Memory, Self::Io];

    /// As the kernel calls what is waited for.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Io => "io",
        }
    }

    /// What it is that is changed.
    #[must_use]
    pub fn limit(self) -> &'static str {
        match self {
            Self::Cpu => "CPU limit",
            Self::Memory => "memory limit",
            Self::Io => "I/O limits",
        }
    }

    /// An amount of it for people.
    #[must_use]
    pub fn show(self, n: u64) -> String {
        match self {
            Self::Cpu => format!("{}.{:02}", n / 100, n % 100),
            Self::Memory => format!("{n}M"),
            Self::Io => format!("{n}%"),
        }
    }

    /// What a guest is guaranteed of it.
    #[must_use]
    pub fn entitled(self, guest: &Guest) -> u64 {
        match self {
            Self::Cpu => guest.cpu.entitled.map_or(0, |n| n.hundredths().into()),
            Self::Memory => guest.memory.min.max(guest.memory.low).0.div_ceil(1 << 20),
            Self::Io => 0,
        }
    }

    /// What its definition lets it have, on a host that has so much.
    #[must_use]
    pub fn most(self, guest: &Guest, host: u64) -> u64 {
        match self {
            Self::Cpu => guest
                .cpu
                .limit_now()
                .map_or(host, |n| n.hundredths().into()),
            Self::Memory => guest.memory.limit.0 >> 20,
            Self::Io => 100,
        }
    }

    /// What it never has less than, if nobody has said.
    #[must_use]
    pub fn least(self) -> u64 {
        match self {
            Self::Cpu => 1,
            Self::Memory => LEAST_MEMORY,
            Self::Io => LEAST_IO,
        }
    }

    /// Gives a guest so much of it.
    pub fn give(self, guest: &mut Guest, n: u64) {
        match self {
            Self::Cpu => {
                let limit = u32::try_from(n).ok().and_then(Cpus::from_hundredths);
                if let Some(limit) = limit {
                    guest.cpu.limit = Some(limit);
                    guest.cpu.burst_us = guest.cpu.burst_us.min(limit.quota_us(PERIOD_US));
                }
            }
            Self::Memory => guest.memory.limit = Bytes(n << 20),
            Self::Io => {
                let part = |whole: u64| (u128::from(whole) * u128::from(n) / 100).max(1);
                let part = |whole: u64| u64::try_from(part(whole)).unwrap_or(whole);
                for device in &mut guest.io.devices {
                    for bytes in [&mut device.read, &mut device.write].into_iter().flatten() {
                        bytes.0 = part(bytes.0);
                    }
                    for count in [&mut device.read_iops, &mut device.write_iops] {
                        *count = count.map(part);
                    }
                }
            }
        }
    }
}

/// A bound of a goal: `1.5` CPUs, `512M` of memory, `50%` of the limits on block devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum GoalBound {
    /// CPUs.
    Cpus(Cpus),
    /// Memory, whole MiB.
    Memory(Bytes),
    /// Percent.
    Percent(u8),
}

/// What is no bound.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no bound: write CPUs (1.5), whole MiB of memory (512M) or a part of I/O limits (50%)"
)]
pub struct GoalBoundError(String);

impl GoalBound {
    /// Of what.
    #[must_use]
    pub fn of(self) -> GoalResource {
        match self {
            Self::Cpus(_) => GoalResource::Cpu,
            Self::Memory(_) => GoalResource::Memory,
            Self::Percent(_) => GoalResource::Io,
        }
    }

    /// As it is counted.
    #[must_use]
    pub fn amount(self) -> u64 {
        match self {
            Self::Cpus(n) => n.hundredths().into(),
            Self::Memory(n) => n.0 >> 20,
            Self::Percent(n) => n.into(),
        }
    }
}

impl FromStr for GoalBound {
    type Err = GoalBoundError;

    fn from_str(text: &str) -> Result<Self, GoalBoundError> {
        let wrong = || GoalBoundError(text.chars().take(40).collect());
        if let Some(percent) = text.strip_suffix('%') {
            let percent = percent.parse().ok().filter(|n| (1..=100).contains(n));
            return percent.map(Self::Percent).ok_or_else(wrong);
        }
        if let Ok(cpus) = text.parse() {
            return Ok(Self::Cpus(cpus));
        }
        let bytes: Option<Bytes> = text.parse().ok();
        let whole = bytes.filter(|n| n.0 >= 1 << 20 && n.0.is_multiple_of(1 << 20));
        whole.map(Self::Memory).ok_or_else(wrong)
    }
}

impl fmt::Display for GoalBound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpus(n) => n.fmt(f),
            Self::Memory(n) => n.fmt(f),
            Self::Percent(n) => write!(f, "{n}%"),
        }
    }
}

impl TryFrom<String> for GoalBound {
    type Error = GoalBoundError;

    fn try_from(text: String) -> Result<Self, GoalBoundError> {
        text.parse()
    }
}

impl From<GoalBound> for String {
    fn from(bound: GoalBound) -> Self {
        bound.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_what_they_look_like() {
        for (text, of, amount) in [
            ("1.5", GoalResource::Cpu, 150),
            ("512M", GoalResource::Memory, 512),
            ("2G", GoalResource::Memory, 2048),
            ("50%", GoalResource::Io, 50),
        ] {
            let bound: GoalBound = text.parse().unwrap();
            assert_eq!((bound.of(), bound.amount()), (of, amount), "{text}");
            assert_eq!(bound.to_string().parse(), Ok(bound));
        }
        for bad in ["", "0", "0%", "101%", "x", "512K", "1536K", "-1", "1.5%"] {
            assert!(bad.parse::<GoalBound>().is_err(), "{bad}");
        }
    }
}
