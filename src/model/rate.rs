//! Rates of a network as people say them (`10mbit`), and what keeps traffic to one: a bucket of
//! tokens. How large a bucket fits a rate is the network room's matter.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::Urgency;
use super::amount::in_largest_unit;

/// Text that is no rate; the message says what would be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a rate: write bits per second with kbit, mbit or gbit (powers of 1000), such as 10mbit"
)]
pub struct RateError(String);

/// Bits per second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rate(pub u64);

impl Rate {
    /// The least that an interface is kept to: with less, programs give up.
    pub const SLOWEST: Self = Self(64_000);
    /// The most: what the kernel counts in bytes with 32 bits.
    pub const FASTEST: Self = Self(32_000_000_000);

    /// The same in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0 / 8
    }
}

const UNITS: [(u64, &str); 4] = [
    (1_000_000_000, "gbit"),
    (1_000_000, "mbit"),
    (1_000, "kbit"),
    (1, "bit"),
];

impl FromStr for Rate {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Self, RateError> {
        let wrong = || RateError(text.chars().take(40).collect());
        let end = text
            .find(|c: char| !(c.is_ascii_digit() || c == '.'))
            .unwrap_or(text.len());
        let (number, unit) = text.split_at(end);
        let unit = unit.trim().to_ascii_lowercase();
        let (scale, _) = UNITS
            .into_iter()
            .find(|(_, name)| *name == unit)
            .ok_or_else(wrong)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() || fraction.contains('.') || fraction.len() > 9 {
            return Err(wrong());
        }
        let whole: u64 = whole.parse().map_err(|_| wrong())?;
        let part: u64 = format!("{fraction:0<9}").parse().map_err(|_| wrong())?;
        let billionths = u128::from(whole) * 1_000_000_000 + u128::from(part);
        u64::try_from(billionths * u128::from(scale) / 1_000_000_000)
            .map(Self)
            .map_err(|_| wrong())
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(in_largest_unit(self.0, &UNITS).as_deref().unwrap_or("0bit"))
    }
}

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(de::Error::custom)
    }
}

/// What lets traffic through at a rate: tokens that come at that rate, as many as are spent at once
/// at most, and a queue for what has to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenBucket {
    /// Bytes a second, with the headers of frames.
    pub rate: u32,
    /// Most bytes at once. Larger packets are cut up first.
    pub burst: u32,
    /// Most bytes that wait; what comes on top is dropped.
    pub queue: u32,
}

/// A rate that several interfaces keep to together: all of it is led over one of the host's own, where
/// each has its share and may use what the others leave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trunk {
    /// The interface.
    pub name: String,
    /// Whose it is, for people.
    pub whose: String,
    /// What passes there.
    pub bucket: TokenBucket,
}

/// How fast a guest's interface is; `None` for as fast as it can.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// What goes to the guest.
    #[serde(rename = "in", default, skip_serializing_if = "Option::is_none")]
    pub incoming: Option<TokenBucket>,
    /// What comes from the guest.
    #[serde(rename = "out", default, skip_serializing_if = "Option::is_none")]
    pub outgoing: Option<TokenBucket>,
    /// What goes to the guest and others together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trunk_in: Option<Trunk>,
    /// What comes from the guest and others together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trunk_out: Option<Trunk>,
    /// Who of those goes first.
    #[serde(default)]
    pub urgency: Urgency,
}

impl Shape {
    /// Whether nothing is to be kept to a rate.
    #[must_use]
    pub fn is_none(&self) -> bool {
        let own = self.incoming.is_none() && self.outgoing.is_none();
        own && self.trunk_in.is_none() && self.trunk_out.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_and_written_as_people_say_them() {
        for (text, bits, again) in [
            ("10mbit", 10_000_000, "10mbit"),
            ("1.5Gbit", 1_500_000_000, "1.5gbit"),
            ("1000 kbit", 1_000_000, "1mbit"),
            ("64000bit", 64_000, "64kbit"),
            ("1234567bit", 1_234_567, "1234.567kbit"),
        ] {
            let rate: Rate = text.parse().unwrap();
            assert_eq!((rate.0, rate.to_string()), (bits, again.into()), "{text}");
        }
        for text in ["", "10", "mbit", "-1mbit", "1.2.3mbit", "10M", "1e3mbit"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
        assert!("99999999999gbit".parse::<Rate>().is_err());
    }
}
