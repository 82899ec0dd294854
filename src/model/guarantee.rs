//! What guests are guaranteed, and whether a host has room for one more. Only arithmetic: who runs
//! is known in `guest`.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Cpus, Guest};

/// What one guest, or several together, are guaranteed or sold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amounts {
    /// Bytes of memory.
    pub memory: u64,
    /// Hundredths of a CPU.
    pub cpus: u64,
}

impl Amounts {
    /// What a definition guarantees.
    #[must_use]
    pub fn guaranteed(guest: &Guest) -> Self {
        Self {
            memory: guest.memory.min.max(guest.memory.low).0,
            cpus: guest.cpu.entitled.map_or(0, |n| n.hundredths().into()),
        }
    }

    /// What a definition allows at most; CPUs without a limit are sold to nobody.
    #[must_use]
    pub fn sold(guest: &Guest) -> Self {
        Self {
            memory: guest.memory.limit.0,
            cpus: guest.cpu.limit.map_or(0, |n| n.hundredths().into()),
        }
    }

    /// Whether it is nothing.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            memory: self.memory.saturating_add(other.memory),
            cpus: self.cpus.saturating_add(other.cpus),
        }
    }

    /// One of them.
    #[must_use]
    pub fn of(&self, what: Resource) -> u64 {
        match what {
            Resource::Memory => self.memory,
            Resource::Cpus => self.cpus,
        }
    }
}

/// What can be guaranteed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Resource {
    /// Bytes.
    Memory,
    /// Hundredths of a CPU.
    Cpus,
}

impl Resource {
    /// All there are.
    pub const ALL: [Self; 2] = [Self::Memory, Self::Cpus];

    /// An amount to the last byte or hundredth, with its unit.
    #[must_use]
    pub fn exactly(self, n: u64) -> String {
        match self {
            Self::Memory => format!("{n} bytes"),
            Self::Cpus => {
                let cpus = u32::try_from(n).ok().and_then(Cpus::from_hundredths);
                match cpus {
                    Some(_) if n == 100 => "1 CPU".into(),
                    Some(cpus) => format!("{cpus} CPUs"),
                    None => "0 CPUs".into(),
                }
            }
        }
    }
}

/// What a host has of one resource, and how much of that may be promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Room {
    /// What there is.
    pub host: u64,
    /// Kept for the host itself.
    pub reserve: u64,
    /// Given away whole, to guests and pools for themselves.
    pub given: u64,
    /// How often the rest may be promised, in hundredths.
    pub ratio: u32,
}

impl Room {
    /// What may be promised to all guests together.
    #[must_use]
    pub fn whole(&self) -> u64 {
        let gone = self.reserve.saturating_add(self.given);
        let rest = u128::from(self.host.saturating_sub(gone));
        u64::try_from(rest * u128::from(self.ratio) / 100).unwrap_or(u64::MAX)
    }
}

/// A host's room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostRoom {
    /// Of memory.
    pub memory: Room,
    /// Of CPUs.
    pub cpus: Room,
}

impl HostRoom {
    /// Of one resource.
    #[must_use]
    pub fn of(&self, what: Resource) -> Room {
        match what {
            Resource::Memory => self.memory,
            Resource::Cpus => self.cpus,
        }
    }

    /// Whether `wanted` can be guaranteed beside what `others` are. What a guest is guaranteed
    /// already (`held`) is not refused.
    ///
    /// # Errors
    /// The first resource of which there is too little.
    pub fn admit(&self, wanted: Amounts, held: Amounts, others: Amounts) -> Result<(), Shortfall> {
        for what in Resource::ALL {
            let (room, wanted) = (self.of(what), wanted.of(what));
            let left = room.whole().saturating_sub(others.of(what));
            if wanted > held.of(what) && wanted > left {
                return Err(Shortfall {
                    what,
                    wanted,
                    left,
                    others: others.of(what),
                    room,
                });
            }
        }
        Ok(())
    }

    /// How many more of what is guaranteed `each.0` and sold `each.1` there is room for beside
    /// `taken`, and of what there is too little then. `None` for as many as one likes.
    #[must_use]
    pub fn more(
        &self,
        each: (Amounts, Amounts),
        taken: (Amounts, Amounts),
    ) -> Option<(u64, Resource)> {
        let mut least: Option<(u64, Resource)> = None;
        for what in Resource::ALL {
            for (each, taken) in [(each.0, taken.0), (each.1, taken.1)] {
                let left = self.of(what).whole().saturating_sub(taken.of(what));
                if let Some(more) = left.checked_div(each.of(what))
                    && least.is_none_or(|(least, _)| more < least)
                {
                    least = Some((more, what));
                }
            }
        }
        least
    }
}

/// A guarantee there is no room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortfall {
    /// Of what.
    pub what: Resource,
    /// To be guaranteed.
    pub wanted: u64,
    /// Not promised yet.
    pub left: u64,
    /// Guaranteed to others that run.
    pub others: u64,
    /// What the host has.
    pub room: Room,
}

impl fmt::Display for Shortfall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let amount = |n| self.what.exactly(n);
        let (kind, keys) = match self.what {
            Resource::Memory => (" of memory", "memory.min and memory.low"),
            Resource::Cpus => ("", "cpu.entitled"),
        };
        let given = match self.room.given {
            0 => String::new(),
            n => format!(" and {} given away whole", amount(n)),
        };
        // Over-committed already, more has to go than this guest lacks.
        let away = (self.others + self.wanted).saturating_sub(self.room.whole());
        let lower = match self.left {
            0 => String::new(),
            left => format!(" to {}", amount(left)),
        };
        let stop = match away <= self.others {
            true => format!(", or stop guests that are guaranteed {}", amount(away)),
            // Not even alone.
            false => String::new(),
        };
        write!(
            f,
            "it is to be guaranteed {}{kind} and {} left, {} too few (this host has {}, {} of \
             them in reserve{given}; the rest counts {} times; running guests are guaranteed {}); lower \
             {keys}{lower}{stop}",
            amount(self.wanted),
            are(self.what, self.left),
            amount(self.wanted - self.left),
            amount(self.room.host),
            amount(self.room.reserve),
            Ratio(self.room.ratio),
            amount(self.others),
        )
    }
}

/// `1 CPU is`, `2 CPUs are`.
fn are(what: Resource, n: u64) -> String {
    let verb = match (what, n) {
        (Resource::Cpus, 100) => "is",
        _ => "are",
    };
    format!("{} {verb}", what.exactly(n))
}

/// How often something may be promised, in hundredths: `1.5` is `Ratio(150)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ratio(pub u32);

impl Ratio {
    /// Once.
    pub const ONE: Self = Self(100);
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{}.{:02}", self.0 / 100, self.0 % 100);
        f.write_str(text.trim_end_matches('0').trim_end_matches('.'))
    }
}

impl std::str::FromStr for Ratio {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.parse::<Cpus>().map(Cpus::hundredths);
        match number {
            Ok(n @ 1..=10_000) => Ok(Self(n)),
            _ => Err(format!(
                "{:?} is not a ratio: write a number from 0.01 to 100 in steps of 0.01, such as 1.5",
                text.chars().take(40).collect::<String>()
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn room(memory: (u64, u64, u32), cpus: (u64, u64, u32)) -> HostRoom {
        let room = |(host, reserve, ratio)| Room {
            host,
            reserve,
            given: 0,
            ratio,
        };
        HostRoom {
            memory: room(memory),
            cpus: room(cpus),
        }
    }

    fn amounts(memory: u64, cpus: u64) -> Amounts {
        Amounts { memory, cpus }
    }

    #[test]
    fn to_the_byte_and_the_hundredth() {
        let host = room((4 * GIB, GIB, 100), (200, 50, 200));
        let none = Amounts::default();
        assert_eq!(host.admit(amounts(3 * GIB, 300), none, none), Ok(()));
        assert_eq!(
            host.admit(amounts(2 * GIB, 1), none, amounts(GIB, 299)),
            Ok(())
        );
        let short = host.admit(amounts(2 * GIB + 1, 0), none, amounts(GIB, 0));
        assert_eq!(
            short.unwrap_err().to_string(),
            "it is to be guaranteed 2147483649 bytes of memory and 2147483648 bytes are left, \
             1 bytes too few (this host has 4294967296 bytes, 1073741824 bytes of them in reserve; \
             the rest counts 1 times; running guests are guaranteed 1073741824 bytes); lower memory.min and \
             memory.low to 2147483648 bytes, or stop guests that are guaranteed 1 bytes"
        );
        let short = host.admit(amounts(0, 2), none, amounts(0, 299));
        let said = short.unwrap_err().to_string();
        assert!(
            said.starts_with("it is to be guaranteed 0.02 CPUs and 0.01 CPUs are left, 0.01 CPUs"),
            "{said}"
        );
    }

    #[test]
    fn what_is_held_already_or_lowered_is_not_refused() {
        let host = room((GIB, 0, 100), (100, 0, 100));
        let others = amounts(2 * GIB, 0);
        assert_eq!(host.admit(amounts(5, 10), amounts(5, 0), others), Ok(()));
        assert!(host.admit(amounts(6, 0), amounts(5, 0), others).is_err());
    }

    #[test]
    fn more_of_a_size_until_something_is_used_up() {
        let host = room((8 * GIB, 0, 100), (400, 0, 200));
        let none = Amounts::default();
        let small = (none, amounts(GIB / 4, 50));
        let one = (none, amounts(GIB / 4, 50));
        assert_eq!(host.more(small, (none, none)), Some((16, Resource::Cpus)));
        assert_eq!(host.more(small, one), Some((15, Resource::Cpus)));
        let memory = (none, amounts(GIB, 0));
        assert_eq!(host.more(memory, one), Some((7, Resource::Memory)));
        assert_eq!(host.more((none, none), one), None);
        // What is guaranteed can be used up before what is sold.
        let kept = (amounts(4 * GIB, 0), amounts(4 * GIB, 0));
        assert_eq!(
            host.more(kept, (amounts(5 * GIB, 0), none)),
            Some((0, Resource::Memory))
        );
    }

    #[test]
    fn ratios_are_read_as_they_are_written() {
        for text in ["1", "1.5", "0.01", "100"] {
            assert_eq!(text.parse::<Ratio>().unwrap().to_string(), text);
        }
        for bad in ["0", "-1", "1.005", "101", "x"] {
            assert!(bad.parse::<Ratio>().is_err(), "{bad}");
        }
    }
}
