//! Whose traffic goes first where there is not room for all of it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// How urgent what a guest sends is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Urgency {
    /// When nobody else wants to.
    Low,
    /// As everything of which nothing is said.
    #[default]
    Normal,
    /// Before all others.
    High,
}

/// Text that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no priority of traffic: write low, normal or high")]
pub struct UrgencyError(String);

impl Urgency {
    /// The last place.
    pub const LAST: u8 = 3;
    const ALL: [Self; 3] = [Self::Low, Self::Normal, Self::High];

    /// Whether nothing was said.
    #[must_use]
    pub fn is_normal(&self) -> bool {
        *self == Self::Normal
    }

    /// What it is for the kernel's queues (<linux/pkt_sched.h>), as `nft` writes it: bulk, best effort,
    /// interactive. Those that have bands send them in this order.
    #[must_use]
    pub fn class(self) -> &'static str {
        match self {
            Self::Low => "0:2",
            Self::Normal => "none",
            Self::High => "0:6",
        }
    }

    /// Which place it has among others, 0 before all.
    #[must_use]
    pub fn place(self) -> u8 {
        match self {
            Self::High => 0,
            Self::Normal => 1,
            Self::Low => 2,
        }
    }

    /// The word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Normal => "normal",
            Self::High => "high",
        }
    }
}

impl FromStr for Urgency {
    type Err = UrgencyError;

    fn from_str(text: &str) -> Result<Self, UrgencyError> {
        let is = |one: &Self| one.word() == text;
        let wrong = || UrgencyError(text.chars().take(40).collect());
        Self::ALL.into_iter().find(is).ok_or_else(wrong)
    }
}

impl fmt::Display for Urgency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_places_belong_together() {
        for one in Urgency::ALL {
            assert_eq!(one.word().parse(), Ok(one));
            assert!(one.place() < Urgency::LAST);
        }
        assert!(Urgency::High.place() < Urgency::Low.place());
        let error = "7".parse::<Urgency>().unwrap_err().to_string();
        assert!(error.contains("low, normal or high"), "{error}");
    }
}
