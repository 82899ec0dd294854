//! Which addresses of a network's subnet its guests get: ranges to give from, addresses that nobody
//! gets, and the gateway's, where it is another than the first. Who has which is `lease.rs`.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::subnet::Subnet;

/// So many ranges and exclusions each a network has at most: every address is held against them all.
const MOST_RANGES: usize = 64;

/// One address, or as many in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Range {
    first: Ipv4Addr,
    last: Ipv4Addr,
}

impl Range {
    /// Whether the address is in it.
    #[must_use]
    pub fn contains(self, address: Ipv4Addr) -> bool {
        (self.first..=self.last).contains(&address)
    }

    fn meets(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.first == self.last {
            true => write!(f, "{}", self.first),
            false => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

impl FromStr for Range {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let address = |text: &str| {
            text.parse().map_err(|_| {
                let text: String = text.chars().take(40).collect();
                format!("{text:?} is no IPv4 address: write 10.1.0.10-10.1.0.99, or one address")
            })
        };
        let (first, last): (Ipv4Addr, Ipv4Addr) = (address(first)?, address(last)?);
        if first > last {
            return Err(format!(
                "{text} ends before it begins: write {last}-{first}"
            ));
        }
        Ok(Self { first, last })
    }
}

impl TryFrom<String> for Range {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Range> for String {
    fn from(range: Range) -> Self {
        range.to_string()
    }
}

/// Several, as people write them: `10.1.0.10-10.1.0.19,10.1.0.30`.
///
/// # Errors
/// One of them is none.
pub fn ranges(text: &str) -> Result<Vec<Range>, String> {
    text.split(',').map(str::parse).collect()
}

/// What is said of the addresses of a subnet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Addresses {
    /// What guests get that ask for no address in particular; all if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ranges: Vec<Range>,
    /// What no guest gets, whether it asks for it or not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub excluded: Vec<Range>,
    /// The gateway's; `None` for the first of the subnet, or no gateway where that is somebody else's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Ipv4Addr>,
    /// The gateway's of IPv6 where that is somebody else's; `None` for no way out there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway6: Option<Ipv6Addr>,
}

impl Addresses {
    /// What cannot be in that subnet, and why.
    pub(super) fn check(&self, subnet: Subnet) -> Result<(), String> {
        if let Some(gateway) = self.gateway {
            if !subnet.contains(gateway) {
                return Err(format!("the gateway {gateway} is outside {subnet}"));
            }
            if gateway == subnet.network() || gateway == subnet.broadcast() {
                return Err(format!(
                    "the gateway {gateway} is no address of one machine in {subnet}: take one between its first and its last"
                ));
            }
        }
        for (what, all) in [("range", &self.ranges), ("exclusion", &self.excluded)] {
            if all.len() > MOST_RANGES {
                return Err(format!("more than {MOST_RANGES} of them is no {what}"));
            }
            for (at, one) in all.iter().enumerate() {
                if !subnet.contains(one.first) || !subnet.contains(one.last) {
                    return Err(format!("the {what} {one} is outside {subnet}"));
                }
                if let Some(other) = all[..at].iter().find(|other| other.meets(*one)) {
                    return Err(format!("the {what} {one} meets {other}: write each once"));
                }
            }
        }
        match Pool::new(subnet, self).given().next() {
            Some(_) => Ok(()),
            None => Err(format!(
                "that leaves no address of {subnet} for a guest: give a larger range, or exclude less"
            )),
        }
    }
}

/// The addresses of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pool {
    pub(super) subnet: Subnet,
    pub(super) gateway: Ipv4Addr,
    ranges: Vec<Range>,
    excluded: Vec<Range>,
    of_host: Vec<Ipv4Addr>,
}

impl From<Subnet> for Pool {
    fn from(subnet: Subnet) -> Self {
        Self::new(subnet, &Addresses::default())
    }
}

impl Pool {
    pub(super) fn new(subnet: Subnet, addresses: &Addresses) -> Self {
        Self {
            subnet,
            gateway: addresses.gateway.unwrap_or(subnet.gateway()),
            ranges: addresses.ranges.clone(),
            excluded: addresses.excluded.clone(),
            of_host: Vec::new(),
        }
    }

    /// The host itself has these.
    pub(super) fn keep_for_host(&mut self, addresses: &[Ipv4Addr]) {
        self.of_host.extend_from_slice(addresses);
    }

    /// No guest gets these.
    pub(super) fn leave_out(&mut self, addresses: &[Ipv4Addr]) {
        let one = |&address: &Ipv4Addr| Range {
            first: address,
            last: address,
        };
        self.excluded.extend(addresses.iter().map(one));
    }

    /// Why no guest can have an address, if none can.
    pub(super) fn role(&self, address: Ipv4Addr) -> Option<&'static str> {
        let special = [
            (self.subnet.network(), "the network address"),
            (self.gateway, "the gateway's address"),
            (self.subnet.broadcast(), "the broadcast address"),
        ];
        let special = special.into_iter().find(|(a, _)| *a == address);
        let excluded = || self.excluded.iter().any(|range| range.contains(address));
        let own = self.of_host.contains(&address);
        special
            .map(|(_, role)| role)
            .or_else(|| own.then_some("an address of the host's own"))
            .or_else(|| excluded().then_some("excluded from what guests get"))
    }

    /// What guests get that ask for none in particular, ascending.
    pub(super) fn given(&self) -> impl Iterator<Item = Ipv4Addr> {
        let (first, last) = (self.subnet.network(), self.subnet.broadcast());
        let all = (first.to_bits()..=last.to_bits()).map(Ipv4Addr::from_bits);
        let given = |a: &Ipv4Addr| {
            self.ranges.is_empty() || self.ranges.iter().any(|range| range.contains(*a))
        };
        all.filter(move |a| given(a) && self.role(*a).is_none())
    }
}

impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.subnet)?;
        for (at, range) in self.ranges.iter().enumerate() {
            write!(f, "{}{range}", if at == 0 { " from " } else { "," })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn said(given: &str, excluded: &str, gateway: Option<&str>) -> Addresses {
        let list = |text: &str| match text {
            "" => Vec::new(),
            text => ranges(text).unwrap(),
        };
        Addresses {
            ranges: list(given),
            excluded: list(excluded),
            gateway: gateway.map(|text| text.parse().unwrap()),
            gateway6: None,
        }
    }

    fn subnet() -> Subnet {
        "10.1.0.0/24".parse().unwrap()
    }

    #[test]
    fn ranges_give_what_nothing_excludes() {
        let all = said(
            "10.1.0.250-10.1.0.255,10.1.0.10-10.1.0.12",
            "10.1.0.11,10.1.0.253-10.1.0.254",
            Some("10.1.0.252"),
        );
        all.check(subnet()).unwrap();
        let pool = Pool::new(subnet(), &all);
        let given: Vec<u8> = pool.given().map(|a| a.octets()[3]).collect();
        assert_eq!(given, [10, 12, 250, 251]);
        assert_eq!(
            pool.role([10, 1, 0, 252].into()),
            Some("the gateway's address")
        );
        assert!(pool.role([10, 1, 0, 11].into()).is_some());
        assert_eq!(
            pool.role([10, 1, 0, 1].into()),
            None,
            "not the gateway's here"
        );
        let text = serde_json::to_string(&all).unwrap();
        assert_eq!(serde_json::from_str::<Addresses>(&text).unwrap(), all);
        assert_eq!(Pool::from(subnet()).given().count(), 253);
    }

    #[test]
    fn what_cannot_be_is_told_why() {
        for (given, excluded, gateway, part) in [
            (
                "",
                "",
                Some("10.2.0.1"),
                "gateway 10.2.0.1 is outside 10.1.0.0/24",
            ),
            ("", "", Some("10.1.0.0"), "no address of one machine"),
            ("", "", Some("10.1.0.255"), "no address of one machine"),
            (
                "10.1.0.200-10.1.1.9",
                "",
                None,
                "the range 10.1.0.200-10.1.1.9 is outside",
            ),
            (
                "10.1.0.5-10.1.0.9,10.1.0.9",
                "",
                None,
                "10.1.0.9 meets 10.1.0.5-10.1.0.9",
            ),
            ("", "10.0.0.1", None, "the exclusion 10.0.0.1 is outside"),
            ("", "10.1.0.4-10.1.0.6,10.1.0.1-10.1.0.4", None, "meets"),
            ("10.1.0.5", "10.1.0.1-10.1.0.9", None, "leaves no address"),
            ("10.1.0.5", "", Some("10.1.0.5"), "leaves no address"),
        ] {
            let error = said(given, excluded, gateway).check(subnet()).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
        for (text, part) in [
            ("fd00::1", "no IPv4 address"),
            ("10.1.0.9-fd00::1", "no IPv4 address"),
            ("10.1.0.9-10.1.0.2", "write 10.1.0.2-10.1.0.9"),
            ("", "no IPv4 address"),
            ("10.1.0.1-10.1.0.2-10.1.0.3", "no IPv4 address"),
        ] {
            let error = ranges(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[0-9.,:-]{0,40}") {
            if let Ok(all) = ranges(&text) {
                let again: Vec<String> = all.iter().map(Range::to_string).collect();
                prop_assert_eq!(ranges(&again.join(",")), Ok(all));
            }
        }
    }
}
