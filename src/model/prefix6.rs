//! A network's IPv6 prefix: `fd42:1:2:3::/64`, and the addresses of it. Which guest has which follows
//! from its IPv4 address, where none is chosen (`network::lease6`), so there is no second book of them.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// From the usual size of a network on one wire to the smallest that has an address for each place
/// of the largest IPv4 pool.
const LENGTHS: std::ops::RangeInclusive<u8> = 64..=112;

/// First address and length of a prefix; no bit set beyond the length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Prefix6 {
    base: u128,
    length: u8,
}

/// No prefix; the message says what would be one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Prefix6Error {
    /// Not even the form.
    #[error("{0:?} is no IPv6 prefix: write first address and length such as fd42:1:2:3::/64")]
    Form(String),
    /// The other family.
    #[error("{0:?} is IPv4: write an IPv6 prefix such as fd42:1:2:3::/64; IPv4 pools are `subnet`")]
    Ipv4(String),
    /// Too short, too long.
    #[error("{0}/{1} is no prefix for guests: the length must be from /64 to /112")]
    Length(Ipv6Addr, u8),
    /// Bits beyond the length.
    #[error("{0}/{1} is an address in a network, not a network: write {2}/{1}")]
    HostBits(Ipv6Addr, u8, Ipv6Addr),
    /// Not of this world.
    #[error(
        "{0}/{1} cannot hold guests: use one of your own from 2000::/3, or a private one from fd00::/8"
    )]
    Special(Ipv6Addr, u8),
}

impl Prefix6 {
    fn new(address: Ipv6Addr, length: u8) -> Result<Self, Prefix6Error> {
        if !LENGTHS.contains(&length) {
            return Err(Prefix6Error::Length(address, length));
        }
        let base = address.to_bits() & mask(length);
        if base != address.to_bits() {
            let network = Ipv6Addr::from_bits(base);
            return Err(Prefix6Error::HostBits(address, length, network));
        }
        let prefix = Self { base, length };
        // 2002::/16 has IPv4 addresses in it, of whoever.
        let global = address.segments()[0] >> 13 == 1 && address.segments()[0] != 0x2002;
        match global || prefix.is_private() {
            true => Ok(prefix),
            false => Err(Prefix6Error::Special(address, length)),
        }
    }

    /// First address, which names the network.
    #[must_use]
    pub fn network(self) -> Ipv6Addr {
        Ipv6Addr::from_bits(self.base)
    }

    /// Its length.
    #[must_use]
    pub fn length(self) -> u8 {
        self.length
    }

    /// The host's own address of it: the first after the network's.
    #[must_use]
    pub fn gateway(self) -> Ipv6Addr {
        self.at(1)
    }

    /// The address at a place of it.
    #[must_use]
    pub fn at(self, place: u16) -> Ipv6Addr {
        Ipv6Addr::from_bits(self.base | u128::from(place))
    }

    /// Whether its addresses mean nothing in the world (RFC 4193).
    #[must_use]
    pub fn is_private(self) -> bool {
        self.network().segments()[0] & 0xfe00 == 0xfc00
    }

    /// Whether any address lies in both networks.
    #[must_use]
    pub fn overlaps(self, destination: Ipv6Addr, length: u8) -> bool {
        let common = mask(length.min(self.length));
        self.base & common == destination.to_bits() & common
    }
}

fn mask(length: u8) -> u128 {
    u128::MAX
        .checked_shl(128 - u32::from(length.min(128)))
        .unwrap_or(0)
}

/// The address that an interface with this hardware address gives itself (RFC 4291, appendix A).
#[must_use]
pub fn link_local(mac: [u8; 6]) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac;
    let half = [a ^ 2, b, c, 0xff, 0xfe, d, e, f];
    Ipv6Addr::from_bits(0xfe80 << 112 | u128::from(u64::from_be_bytes(half)))
}

impl fmt::Display for Prefix6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network(), self.length)
    }
}

impl FromStr for Prefix6 {
    type Err = Prefix6Error;

    fn from_str(text: &str) -> Result<Self, Prefix6Error> {
        let shown = || text.chars().take(60).collect();
        let (address, length) = text
            .split_once('/')
            .ok_or_else(|| Prefix6Error::Form(shown()))?;
        if address.parse::<Ipv4Addr>().is_ok() {
            return Err(Prefix6Error::Ipv4(shown()));
        }
        match (address.parse(), length.parse()) {
            (Ok(address), Ok(length)) => Self::new(address, length),
            _ => Err(Prefix6Error::Form(shown())),
        }
    }
}

impl TryFrom<String> for Prefix6 {
    type Error = Prefix6Error;

    fn try_from(text: String) -> Result<Self, Prefix6Error> {
        text.parse()
    }
}

impl From<Prefix6> for String {
    fn from(prefix: Prefix6) -> Self {
        prefix.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix6 {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_of_a_prefix() {
        let one = prefix("fd42:1:2:3::/64");
        assert_eq!(one.gateway().to_string(), "fd42:1:2:3::1");
        assert_eq!(one.at(0xffff).to_string(), "fd42:1:2:3::ffff");
        assert!(one.is_private());
        assert!(!prefix("2001:db8::/112").is_private());
        assert_eq!(prefix("2001:db8::/112").at(7).to_string(), "2001:db8::7");
        assert_eq!(
            link_local([0x02, 0x62, 10, 213, 0, 2]).to_string(),
            "fe80::62:aff:fed5:2"
        );
    }

    #[test]
    fn what_is_no_prefix_is_told_why() {
        for (text, part) in [
            ("fd42::", "first address and length"),
            ("fd42::/x", "first address and length"),
            ("x/64", "first address and length"),
            ("10.0.0.0/16", "is IPv4"),
            ("fd42::/48", "/64 to /112"),
            ("fd42::/113", "/64 to /112"),
            ("fd42::5/64", "write fd42::/64"),
            ("fe80::/64", "2000::/3"),
            ("ff02::/64", "2000::/3"),
            ("::/64", "2000::/3"),
            ("::ffff:0:0/96", "2000::/3"),
            ("2002:a00::/64", "2000::/3"),
        ] {
            let error = text.parse::<Prefix6>().unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn overlap_is_either_way_round() {
        let one = prefix("fd42:1:2:3::/64");
        for (network, length, meets) in [
            ("fd42::", 16, true),
            ("fd42:1:2:3::5", 128, true),
            ("fd42:1:2:4::", 64, false),
            ("::", 0, true),
        ] {
            assert_eq!(
                one.overlaps(network.parse().unwrap(), length),
                meets,
                "{network}"
            );
        }
    }
}
