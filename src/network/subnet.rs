//! Arithmetic of a pool of addresses, and the choice of one that the host does not use yet. Who has
//! which address of it is `lease.rs`.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Largest and smallest pool: a bridge has 1023 ports at most, and host interfaces carry an address's
/// place in the pool as four hexadecimal digits; below /30 there is no address left for a guest.
const PREFIXES: std::ops::RangeInclusive<u8> = 16..=30;

/// Network address and prefix length of a pool; from /16 to /30, no bit set beyond the prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet {
    base: u32,
    prefix: u8,
}

/// No pool; the message says what would be one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubnetError {
    /// Too large, too small.
    #[error("{0}/{1} is no pool of addresses: the prefix must be from /16 to /30")]
    Prefix(Ipv4Addr, u8),
    /// Bits beyond the prefix.
    #[error("{0}/{1} is an address in a network, not a network: write {2}/{1}")]
    HostBits(Ipv4Addr, u8, Ipv4Addr),
    /// Not of this world.
    #[error("{0}/{1} cannot hold guests: use a private network such as 10.213.0.0/16")]
    Special(Ipv4Addr, u8),
    /// Not even the form.
    #[error("{0:?} is no network: write address and prefix length such as 10.213.0.0/16")]
    Form(String),
    /// The other version.
    #[error("{0:?} is IPv6: a pool is IPv4, such as 10.213.0.0/16; IPv6 prefixes are `prefix6`")]
    Ipv6(String),
}

impl Subnet {
    /// A pool of addresses.
    ///
    /// # Errors
    /// When the prefix is out of range, bits beyond it are set, or the addresses mean something else.
    pub fn new(address: Ipv4Addr, prefix: u8) -> Result<Self, SubnetError> {
        if !PREFIXES.contains(&prefix) {
            return Err(SubnetError::Prefix(address, prefix));
        }
        let base = address.to_bits() & mask(prefix);
        if base != address.to_bits() {
            let network = Ipv4Addr::from_bits(base);
            return Err(SubnetError::HostBits(address, prefix, network));
        }
        if address.is_loopback()
            || address.is_link_local()
            || address.octets()[0] == 0
            || address.octets()[0] >= 224
        {
            return Err(SubnetError::Special(address, prefix));
        }
        Ok(Self { base, prefix })
    }

    /// First address, which names the network.
    #[must_use]
    pub fn network(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.base)
    }

    /// Prefix length.
    #[must_use]
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// The bridge's own address: the first after the network's.
    #[must_use]
    pub fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.base + 1)
    }

    /// Last address, which means all of them.
    #[must_use]
    pub fn broadcast(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.base | !mask(self.prefix))
    }

    /// Whether the address lies in the network, special ones included.
    #[must_use]
    pub fn contains(self, address: Ipv4Addr) -> bool {
        address.to_bits() & mask(self.prefix) == self.base
    }

    /// Whether any address lies in both networks.
    #[must_use]
    pub fn overlaps(self, destination: Ipv4Addr, prefix: u8) -> bool {
        let common = mask(prefix.min(self.prefix));
        self.base & common == destination.to_bits() & common
    }

    /// Addresses a guest can have, ascending.
    pub fn guests(self) -> impl Iterator<Item = Ipv4Addr> {
        (self.base + 2..self.broadcast().to_bits()).map(Ipv4Addr::from_bits)
    }

    /// An address's place in the network, at most 65,535; `None` outside.
    #[must_use]
    pub fn place(self, address: Ipv4Addr) -> Option<u16> {
        self.contains(address)
            .then(|| u16::try_from(address.to_bits() - self.base).ok())
            .flatten()
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX
        .checked_shl(32 - u32::from(prefix.min(32)))
        .unwrap_or(0)
}

/// The pools to try, best first. The system's installation prefers 10.213.0.0/16; any other takes a
/// /24 that its tag points to, so that many can be made at once without meeting. The last ones are
/// for hosts that route all of 10.0.0.0/8 elsewhere.
pub(super) fn candidates(tag: &str) -> Box<dyn Iterator<Item = Subnet>> {
    let at = |a: u8, b: u8, c: u8, prefix: u8| Subnet {
        base: Ipv4Addr::new(a, b, c, 0).to_bits(),
        prefix,
    };
    if tag.is_empty() {
        let far = (24..=31).rev().map(move |b| at(172, b, 0, 16));
        return Box::new((192..=213).rev().map(move |b| at(10, b, 0, 16)).chain(far));
    }
    const FIRST: u32 = (10 << 24) | (214 << 16);
    const COUNT: u32 = 26 << 8;
    let start = u32::from_str_radix(tag, 16).unwrap_or(0) % COUNT;
    let near = (0..COUNT).map(move |n| Subnet {
        base: FIRST + (((start + n) % COUNT) << 8),
        prefix: 24,
    });
    let [_, _, high, low] = start.to_be_bytes();
    let far = (0..=255).map(move |n: u8| at(172, 16 + high % 8, low.wrapping_add(n), 24));
    Box::new(near.chain(far))
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network(), self.prefix)
    }
}

impl FromStr for Subnet {
    type Err = SubnetError;

    fn from_str(text: &str) -> Result<Self, SubnetError> {
        let told = || text.chars().take(40).collect();
        if text.contains(':') {
            return Err(SubnetError::Ipv6(told()));
        }
        text.split_once('/')
            .and_then(|(a, p)| Some((a.parse().ok()?, p.parse().ok()?)))
            .ok_or_else(|| SubnetError::Form(told()))
            .and_then(|(address, prefix)| Self::new(address, prefix))
    }
}

impl TryFrom<String> for Subnet {
    type Error = SubnetError;

    fn try_from(text: String) -> Result<Self, SubnetError> {
        text.parse()
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> Self {
        subnet.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    #[test]
    fn special_addresses_of_a_pool() {
        let pool = subnet("10.0.8.0/29");
        assert_eq!(pool.gateway(), Ipv4Addr::new(10, 0, 8, 1));
        assert_eq!(pool.broadcast(), Ipv4Addr::new(10, 0, 8, 7));
        let guests: Vec<_> = pool.guests().map(|a| a.octets()[3]).collect();
        assert_eq!(guests, [2, 3, 4, 5, 6]);
        assert_eq!(pool.place(Ipv4Addr::new(10, 0, 8, 6)), Some(6));
        assert_eq!(pool.place(Ipv4Addr::new(10, 0, 8, 8)), None);
        assert_eq!(
            subnet("10.0.0.0/16").place([10, 0, 255, 255].into()),
            Some(65535)
        );
        assert_eq!(subnet("10.0.8.0/30").guests().count(), 1);
    }

    #[test]
    fn what_is_no_pool_is_told_why() {
        for (text, part) in [
            ("10.0.0.0/8", "/16 to /30"),
            ("10.0.0.0/31", "/16 to /30"),
            ("10.0.0.5/24", "write 10.0.0.0/24"),
            ("127.0.0.0/16", "private network"),
            ("224.0.0.0/16", "private network"),
            ("10.0.0.0", "address and prefix length"),
            ("10.0.0.0/x", "address and prefix length"),
        ] {
            let error = text.parse::<Subnet>().unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn overlap_is_either_way_round() {
        let pool = subnet("10.213.0.0/16");
        for (network, prefix, meets) in [
            ([10, 0, 0, 0], 8, true),
            ([10, 213, 7, 0], 24, true),
            ([10, 213, 7, 1], 32, true),
            ([10, 212, 0, 0], 16, false),
            ([0, 0, 0, 0], 0, true),
        ] {
            assert_eq!(pool.overlaps(network.into(), prefix), meets, "{network:?}");
        }
    }

    #[test]
    fn candidates_are_pools_in_their_ranges() {
        assert_eq!(candidates("").next(), Some(subnet("10.213.0.0/16")));
        let (low, high) = (Ipv4Addr::new(10, 214, 0, 0), Ipv4Addr::new(10, 239, 255, 0));
        for tag in ["00000000", "ffffffff", "811c9dc5"] {
            let all: Vec<_> = candidates(tag).collect();
            assert!(
                all.iter()
                    .all(|s| Subnet::new(s.network(), s.prefix()) == Ok(*s))
            );
            assert!(
                all[..6656]
                    .iter()
                    .all(|s| (low..=high).contains(&s.network()))
            );
        }
        assert_ne!(candidates("00000001").next(), candidates("00000002").next());
    }
}
