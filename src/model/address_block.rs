//! Addresses with a beginning in common, as rules and sets of addresses name them: `192.0.2.7`,
//! `198.51.100.0/24`, `2001:db8::/32`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An address with the length of what its neighbours have in common with it; one alone has them all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AddressBlock {
    /// The first of them.
    pub address: IpAddr,
    /// How many bits all have in common.
    pub bits: u8,
}

/// Text that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} {why}")]
pub struct BlockError {
    text: String,
    why: String,
}

impl AddressBlock {
    /// Whether all of another lie in it.
    #[must_use]
    pub fn holds(self, other: Self) -> bool {
        let same = match (self.address, other.address) {
            (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
            (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
            _ => return false,
        };
        self.bits <= other.bits && u32::from(self.bits) <= same
    }

    /// Bits of an address of its version.
    fn most(address: IpAddr) -> u8 {
        if address.is_ipv4() { 32 } else { 128 }
    }
}

impl FromStr for AddressBlock {
    type Err = BlockError;

    fn from_str(text: &str) -> Result<Self, BlockError> {
        let because = |why: String| BlockError {
            text: text.chars().take(80).collect(),
            why,
        };
        let wrong = || {
            because(
                "is no address: write it as 192.0.2.7, 198.51.100.0/24 or 2001:db8::/32".to_owned(),
            )
        };
        let (address, bits) = text
            .split_once('/')
            .map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let most = Self::most(address);
        let bits: u8 = bits.map_or(Ok(most), str::parse).map_err(|_| wrong())?;
        match bits {
            0 => {
                let all = "stands for everybody: a rule without an address is for all";
                return Err(because(all.to_owned()));
            }
            bits if bits > most => return Err(wrong()),
            _ => {}
        }
        let first: IpAddr = match address {
            IpAddr::V4(a) => Ipv4Addr::from_bits(a.to_bits() & (u32::MAX << (32 - bits))).into(),
            IpAddr::V6(a) => Ipv6Addr::from_bits(a.to_bits() & (u128::MAX << (128 - bits))).into(),
        };
        match first == address {
            true => Ok(Self { address, bits }),
            false => Err(because(format!(
                "has bits beyond its length: write {first}/{bits}"
            ))),
        }
    }
}

impl TryFrom<String> for AddressBlock {
    type Error = BlockError;

    fn try_from(text: String) -> Result<Self, BlockError> {
        text.parse()
    }
}

impl From<AddressBlock> for String {
    fn from(block: AddressBlock) -> Self {
        block.to_string()
    }
}

impl fmt::Display for AddressBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.address)?;
        match self.bits < Self::most(self.address) {
            true => write!(f, "/{}", self.bits),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(text: &str) -> AddressBlock {
        text.parse().unwrap()
    }

    #[test]
    fn one_holds_what_begins_as_it_does() {
        for (big, small, holds) in [
            ("10.0.0.0/8", "10.9.8.7", true),
            ("10.0.0.0/8", "10.0.0.0/8", true),
            ("10.0.0.0/24", "10.0.0.0/8", false),
            ("10.0.0.0/24", "10.0.1.0", false),
            ("2001:db8::/32", "2001:db8:7::/48", true),
            ("2001:db8::/32", "10.0.0.1", false),
        ] {
            assert_eq!(block(big).holds(block(small)), holds, "{big} {small}");
        }
    }

    #[test]
    fn what_is_none_is_refused() {
        for text in [
            "",
            "10.0.0.1/24",
            "10.0.0.0/0",
            "10.0.0.0/33",
            "fd42::/129",
            "a",
            "@a",
        ] {
            assert!(text.parse::<AddressBlock>().is_err(), "{text}");
        }
        assert_eq!(block("10.0.0.1/32").to_string(), "10.0.0.1");
        assert_eq!(block("fd42:0::/16").to_string(), "fd42::/16");
    }
}
