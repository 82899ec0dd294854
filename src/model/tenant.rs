//! Tenants: whose guests they are. The name, made only by a checked parser, and what all guests of
//! one may use together.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Amounts, Bytes, Cpus, Guest, Rate, Resource};

/// Least memory of a tenant, bytes: that of a guest.
const LEAST_MEMORY: u64 = 4 << 20;
/// Period in which bursts are counted, microseconds.
const PERIOD_US: u64 = 100_000;

/// The name of a tenant: `[a-z][a-z0-9-]{0,31}`, and not `none`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TenantName(String);

/// A name that breaks the rule; the message states the rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a tenant's name: use 1 to 32 of a-z, 0-9 and '-', beginning with a letter, and \
     not the word none"
)]
pub struct TenantNameError(String);

impl TenantName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of its control group. No guest is called so: their names have no point.
    #[must_use]
    pub fn group(&self) -> String {
        format!("{GROUP}{}", self.0)
    }

    /// Whose control group is called so, if a tenant's is.
    #[must_use]
    pub fn of_group(group: &str) -> Option<Self> {
        group.strip_prefix(GROUP)?.parse().ok()
    }
}

const GROUP: &str = "tenant.";

impl FromStr for TenantName {
    type Err = TenantNameError;

    fn from_str(text: &str) -> Result<Self, TenantNameError> {
        let valid = (1..=32).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_lowercase())
            && text
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && text != "none";
        match valid {
            true => Ok(Self(text.to_owned())),
            false => Err(TenantNameError(text.chars().take(80).collect())),
        }
    }
}

impl TryFrom<String> for TenantName {
    type Error = TenantNameError;

    fn try_from(text: String) -> Result<Self, TenantNameError> {
        text.parse()
    }
}

impl From<TenantName> for String {
    fn from(name: TenantName) -> Self {
        name.0
    }
}

impl fmt::Display for TenantName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// What all guests of a tenant may use together; `None` is as much as the host has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantCaps {
    /// Bytes of memory.
    pub memory: Option<Bytes>,
    /// CPUs' time.
    pub cpus: Option<Cpus>,
    /// Processes and threads.
    pub processes: Option<u32>,
    /// Share of block devices under contention, 1 to 10,000.
    pub io_weight: Option<u32>,
    /// Bits a second that come to them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_in: Option<Rate>,
    /// Bits a second that go from them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_out: Option<Rate>,
}

/// What a guest's network shares with all others of its tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantRates {
    /// Whose they are.
    pub tenant: TenantName,
    /// Most that comes to them.
    pub rate_in: Option<Rate>,
    /// Most that goes from them.
    pub rate_out: Option<Rate>,
}

impl TenantCaps {
    /// What of it their networks share; `None` if nothing.
    #[must_use]
    pub fn rates(&self, tenant: &TenantName) -> Option<TenantRates> {
        (self.rate_in.is_some() || self.rate_out.is_some()).then(|| TenantRates {
            tenant: tenant.clone(),
            rate_in: self.rate_in,
            rate_out: self.rate_out,
        })
    }

    /// What is no cap, as a sentence.
    ///
    /// # Errors
    /// The first one that is none.
    pub fn check(&self) -> Result<(), String> {
        if self.memory.is_some_and(|n| n.0 < LEAST_MEMORY) {
            return Err("memory: give a tenant at least 4M".to_owned());
        }
        if self.processes == Some(0) {
            return Err("processes: give a tenant at least 1".to_owned());
        }
        if self.io_weight.is_some_and(|n| !(1..=10_000).contains(&n)) {
            return Err("io-weight: give a number from 1 to 10000".to_owned());
        }
        for (flag, rate) in [("rate-in", self.rate_in), ("rate-out", self.rate_out)] {
            if rate.is_some_and(|rate| !(Rate::SLOWEST..=Rate::FASTEST).contains(&rate)) {
                return Err(format!(
                    "{flag}: give a rate from {} to {}",
                    Rate::SLOWEST,
                    Rate::FASTEST
                ));
            }
        }
        Ok(())
    }

    /// What one guest has of it at most: what it sees inside is then what it can get, and version 1
    /// refuses a CPU limit above that of the group around it.
    pub fn hold(&self, guest: &mut Guest) {
        if let Some(most) = self.memory {
            guest.memory.limit.0 = guest.memory.limit.0.min(most.0);
        }
        let limit = guest.cpu.limit;
        if let Some(most) = self.cpus
            && limit.is_none_or(|limit| limit.hundredths() > most.hundredths())
        {
            guest.cpu.limit = Some(most);
            guest.cpu.burst_us = guest.cpu.burst_us.min(most.quota_us(PERIOD_US));
        }
    }

    /// The cap of a resource that can be guaranteed, in its unit.
    #[must_use]
    pub fn of(&self, what: Resource) -> Option<u64> {
        match what {
            Resource::Memory => self.memory.map(|n| n.0),
            Resource::Cpus => self.cpus.map(|n| n.hundredths().into()),
        }
    }

    /// The first resource of which guests would be guaranteed more than there is together, with
    /// the cap and what is too much. What a guest has already (`held`) is not refused.
    #[must_use]
    pub fn excess(
        &self,
        wanted: Amounts,
        held: Amounts,
        others: Amounts,
    ) -> Option<(Resource, u64, u64)> {
        Resource::ALL.into_iter().find_map(|what| {
            let cap = self.of(what)?;
            let sum = others.of(what).saturating_add(wanted.of(what));
            let more = wanted.of(what) > held.of(what);
            (more && sum > cap).then(|| (what, cap, sum - cap))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_holds_at_its_edges() {
        for good in ["a", "acme", "acme-2", &"a".repeat(32)] {
            let name: TenantName = good.parse().unwrap();
            assert_eq!(TenantName::of_group(&name.group()), Some(name));
        }
        for bad in [
            "",
            "-a",
            "2a",
            "A",
            "a_b",
            "..",
            "a/b",
            "a.b",
            "none",
            "é",
            "a\n",
            "../x",
            &"a".repeat(33),
        ] {
            let error = bad.parse::<TenantName>().unwrap_err().to_string();
            assert!(error.contains("beginning with a letter"), "{error}");
        }
        assert_eq!(TenantName::of_group("acme"), None);
        assert_eq!(TenantName::of_group("tenant.."), None);
    }

    #[test]
    fn guarantees_are_held_against_the_caps_to_the_byte() {
        let caps = TenantCaps {
            memory: Some(Bytes(100)),
            cpus: Cpus::from_hundredths(50),
            ..TenantCaps::default()
        };
        let of = |memory, cpus| Amounts { memory, cpus };
        let none = Amounts::default();
        assert_eq!(caps.excess(of(40, 50), none, of(60, 0)), None);
        let too_much = Some((Resource::Memory, 100, 1));
        assert_eq!(caps.excess(of(41, 0), none, of(60, 0)), too_much);
        assert_eq!(
            caps.excess(of(0, 1), none, of(0, 50)),
            Some((Resource::Cpus, 50, 1))
        );
        // What it has, it keeps.
        assert_eq!(caps.excess(of(41, 0), of(41, 0), of(60, 0)), None);
        let free = TenantCaps::default();
        assert_eq!(free.excess(of(u64::MAX, 5), none, of(9, 9)), None);
    }

    #[test]
    fn what_is_no_cap_is_refused() {
        let small = TenantCaps {
            memory: Some(Bytes(4 << 20)),
            processes: Some(1),
            io_weight: Some(10_000),
            ..TenantCaps::default()
        };
        assert_eq!(small.check(), Ok(()));
        for bad in [
            TenantCaps {
                memory: Some(Bytes((4 << 20) - 1)),
                ..small
            },
            TenantCaps {
                processes: Some(0),
                ..small
            },
            TenantCaps {
                io_weight: Some(0),
                ..small
            },
            TenantCaps {
                rate_out: Some(Rate(63_999)),
                ..small
            },
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
    }
}
