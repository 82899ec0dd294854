//! A guest's interfaces beyond its first, each on a network of its own: their names inside, hardware
//! addresses that somebody chose, and what a definition says of one.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Bytes, Ceilings, FirewallLine, NetworkKind, NetworkWish, Rate};

/// What the kernel takes, without the byte that ends it (IFNAMSIZ).
const LONGEST: usize = 15;
/// Names that are something else in every guest.
const RESERVED: [&str; 4] = ["all", "default", "eth0", "lo"];

/// The name of an interface inside a guest: `[a-z][a-z0-9_-]{0,14}`, and none that is there anyway.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NicName(String);

/// A name that breaks the rule; the message states the rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NicNameError {
    /// Longer than interfaces' names can be.
    #[error(
        "{0:?} is too long to name an interface: the kernel takes {LONGEST} characters, this has {1}"
    )]
    Long(String, usize),
    /// Not of the form.
    #[error(
        "{0:?} cannot name an interface: use 1 to {LONGEST} of a-z, 0-9, '-' and '_', beginning with a letter"
    )]
    Form(String),
    /// It is there.
    #[error(
        "{0:?} cannot name a further interface: every guest has one of that name; choose another, such as eth1"
    )]
    Reserved(String),
}

impl NicName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NicName {
    type Err = NicNameError;

    fn from_str(text: &str) -> Result<Self, NicNameError> {
        let shown = || text.chars().take(80).collect();
        let known = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
        if !text.bytes().all(known) || !text.starts_with(|c: char| c.is_ascii_lowercase()) {
            return Err(NicNameError::Form(shown()));
        }
        match text.len() {
            length if length > LONGEST => Err(NicNameError::Long(shown(), length)),
            _ if RESERVED.contains(&text) => Err(NicNameError::Reserved(text.to_owned())),
            _ => Ok(Self(text.to_owned())),
        }
    }
}

impl TryFrom<String> for NicName {
    type Error = NicNameError;

    fn try_from(text: String) -> Result<Self, NicNameError> {
        text.parse()
    }
}

impl From<NicName> for String {
    fn from(name: NicName) -> Self {
        name.0
    }
}

impl fmt::Display for NicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A hardware address that somebody chose for an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac([u8; 6]);

/// Text that is no hardware address for a guest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MacError {
    /// Not of the form.
    #[error("{0:?} is not a hardware address: write six bytes, such as 02:00:5e:10:00:01")]
    Form(String),
    /// Of many machines, or of none.
    #[error(
        "{0} cannot be an interface's hardware address: its first byte is odd (a group's address), or all of it is zero"
    )]
    Group(String),
    /// It would be what another guest is given.
    #[error(
        "{0} is of those that Bulkhead gives by itself (02:62:…): choose another, or leave it out"
    )]
    Ours(String),
}

impl Mac {
    /// Its bytes.
    #[must_use]
    pub const fn bytes(self) -> [u8; 6] {
        self.0
    }
}

impl FromStr for Mac {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Self, MacError> {
        let wrong = || MacError::Form(text.chars().take(40).collect());
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2);
            let part = part.filter(|part| part.bytes().all(|b| b.is_ascii_hexdigit()));
            *byte = part
                .and_then(|part| u8::from_str_radix(part, 16).ok())
                .ok_or_else(wrong)?;
        }
        if parts.next().is_some() {
            return Err(wrong());
        }
        match bytes {
            [0, 0, 0, 0, 0, 0] => Err(MacError::Group(text.to_owned())),
            [first, ..] if first & 1 == 1 => Err(MacError::Group(text.to_owned())),
            [0x02, 0x62, ..] => Err(MacError::Ours(text.to_owned())),
            _ => Ok(Self(bytes)),
        }
    }
}

impl TryFrom<String> for Mac {
    type Error = MacError;

    fn try_from(text: String) -> Result<Self, MacError> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&mac_text(self.0))
    }
}

/// A hardware address as people write it.
#[must_use]
pub fn mac_text(bytes: [u8; 6]) -> String {
    let parts: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    parts.join(":")
}

/// One interface beyond the first, as it is meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Nic {
    /// Its name inside.
    pub name: NicName,
    /// What it is on.
    pub network: NetworkKind,
    /// Address asked for; `None` takes one from the pool.
    pub address: Option<Ipv4Addr>,
    /// Hardware address; `None` for one made from the address.
    pub mac: Option<Mac>,
    /// IPv6 address; `None` for the one that follows from its IPv4 address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address6: Option<Ipv6Addr>,
    /// Whether it is kept apart from others that are; `None` for what the network says.
    pub isolated_ports: Option<bool>,
    /// Most that comes to it.
    pub rate_in: Option<Rate>,
    /// Most that goes from it.
    pub rate_out: Option<Rate>,
    /// How much of that may come at once.
    pub burst_in: Option<Bytes>,
    /// How much of that may go at once.
    pub burst_out: Option<Bytes>,
    /// What may come to it and go from it.
    pub firewall: Vec<FirewallLine>,
    /// How many packets and connections.
    pub ceilings: Ceilings,
}

impl Nic {
    /// What it wishes of its network, as a guest's first interface would say it.
    #[must_use]
    pub fn wish(&self) -> NetworkWish {
        NetworkWish {
            interface: Some(self.name.clone()),
            kind: self.network.clone(),
            address: self.address,
            mac: self.mac,
            address6: self.address6,
            isolated_ports: self.isolated_ports,
            rate_in: self.rate_in,
            rate_out: self.rate_out,
            burst_in: self.burst_in,
            burst_out: self.burst_out,
            firewall: self.firewall.clone(),
            ceilings: self.ceilings,
            ..NetworkWish::default()
        }
    }

    /// The same with what all interfaces of a guest have in common.
    #[must_use]
    pub fn wish_within(&self, guest: &NetworkWish) -> NetworkWish {
        let (own, part) = (self.ceilings, guest.part_of_ceilings());
        NetworkWish {
            tenant: guest.tenant.clone(),
            ceilings: Ceilings {
                packets: own.packets.or(part.packets),
                new_connections: own.new_connections.or(part.new_connections),
                connections: own.connections.or(part.connections),
                urgency: guest.ceilings.urgency,
            },
            inherited: Ceilings {
                packets: part.packets.filter(|_| own.packets.is_none()),
                new_connections: part
                    .new_connections
                    .filter(|_| own.new_connections.is_none()),
                connections: part.connections.filter(|_| own.connections.is_none()),
                ..Ceilings::default()
            },
            ..self.wish()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_interfaces_are_the_kernels() {
        for good in ["a", "eth1", "lan_0", "db-private", &"a".repeat(15)] {
            assert_eq!(good.parse::<NicName>().unwrap().as_str(), good);
        }
        for bad in ["", "1a", "A", "a.b", "a/b", "..", "a b", "é", "%d"] {
            let error = bad.parse::<NicName>().unwrap_err().to_string();
            assert!(error.contains("beginning with a letter"), "{error}");
        }
        let error = "a".repeat(16).parse::<NicName>().unwrap_err().to_string();
        assert!(error.contains("the kernel takes 15"), "{error}");
        for there in RESERVED {
            let error = there.parse::<NicName>().unwrap_err().to_string();
            assert!(error.contains("such as eth1"), "{error}");
        }
    }

    #[test]
    fn hardware_addresses_are_of_one_machine() {
        let text = "02:00:5e:10:00:ff";
        assert_eq!(text.parse::<Mac>().unwrap().to_string(), text);
        for (bad, why) in [
            ("02:00:5e:10:00", "six bytes"),
            ("02:00:5e:10:00:01:02", "six bytes"),
            ("2:0:5e:10:0:1", "six bytes"),
            ("+2:00:5e:10:00:01", "six bytes"),
            ("01:00:5e:10:00:01", "odd"),
            ("00:00:00:00:00:00", "zero"),
            ("02:62:0a:00:00:02", "by itself"),
        ] {
            let error = bad.parse::<Mac>().unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
