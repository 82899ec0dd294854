//! What somebody said of a network that they made: its record, `networks/NAME.json`. Where records lie
//! and what making one takes is `directory.rs`.

use std::net::Ipv6Addr;

use serde::{Deserialize, Serialize};

use super::pool::Addresses;
use super::subnet::Subnet;
use super::vxlan::Vxlan;
use crate::model::{NetworkName, Prefix6};

/// Smallest packet every host must take whole, and the largest that Ethernet's cards carry.
const MTU: std::ops::RangeInclusive<u32> = 576..=9216;

/// How guests of a network are connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// By a bridge of its own, with a way out under the host's address.
    Bridge,
    /// By a bridge of its own, with no way out and none to the host.
    Isolated,
    /// By no bridge: the host routes each address to its guest.
    Routed,
    /// By a bridge that is somebody else's.
    External,
    /// By an interface of the host's, each with a hardware address of its own beside it.
    Macvlan,
}

impl Kind {
    /// All, as people write them.
    pub const WORDS: [&str; 5] = ["bridge", "isolated", "routed", "external", "macvlan"];

    /// The kind of that word.
    #[must_use]
    pub fn of_word(word: &str) -> Option<Self> {
        let all = [
            Self::Bridge,
            Self::Isolated,
            Self::Routed,
            Self::External,
            Self::Macvlan,
        ];
        all.into_iter().find(|kind| kind.word() == word)
    }

    /// As people write it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Isolated => "isolated",
            Self::Routed => "routed",
            Self::External => "external",
            Self::Macvlan => "macvlan",
        }
    }
}

/// A network that somebody made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Its name.
    pub name: NetworkName,
    /// How its guests are connected.
    pub kind: Kind,
    /// Its pool.
    pub subnet: Subnet,
    /// What of it guests get.
    #[serde(default, skip_serializing_if = "is_usual")]
    pub addresses: Addresses,
    /// Its IPv6 prefix; `None` for no IPv6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix6: Option<Prefix6>,
    /// Its bridge's name; `None` for one made from the network's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge: Option<String>,
    /// The host's interface that it is on, without a bridge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// Whether guests go out under the host's address; `None` for what the kind does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nat: Option<bool>,
    /// Largest packet; `None` for the way out's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Whether guests that do not say otherwise are kept apart; `None` for what the host's settings say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolated_ports: Option<bool>,
    /// Other hosts that share it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vxlan: Option<Vxlan>,
}

fn is_usual(addresses: &Addresses) -> bool {
    *addresses == Addresses::default()
}

impl Record {
    /// Why this cannot be its guests' way out by IPv6.
    fn check_gateway6(&self, gateway: Ipv6Addr) -> Result<(), String> {
        let Some(prefix) = self.prefix6 else {
            return Err(format!("a gateway {gateway} needs a prefix: say --prefix6"));
        };
        if !matches!(self.kind, Kind::External | Kind::Macvlan) {
            return Err(format!(
                "the gateway of IPv6 is the host itself, not {gateway}: only networks on what is somebody else's have another"
            ));
        }
        match prefix.overlaps(gateway, 128) || gateway.is_unicast_link_local() {
            true => Ok(()),
            false => Err(format!(
                "the gateway {gateway} is outside {prefix}, and no address of the link (fe80::)"
            )),
        }
    }

    /// What cannot be, and what to do.
    pub(super) fn check(&self) -> Result<(), String> {
        if let Some(bridge) = self.bridge.as_ref().or(self.parent.as_ref())
            && !super::possible_name(bridge)
        {
            return Err(format!(
                "{bridge:?} cannot name a bridge: use 1 to 15 of A-Z, a-z, 0-9, '-', '_' and '.', beginning with a letter"
            ));
        }
        if self.kind == Kind::Isolated && self.addresses.gateway.is_some() {
            return Err("an isolated network has no way out, so no gateway".to_owned());
        }
        self.addresses.check(self.subnet)?;
        if self.kind == Kind::Macvlan && (self.parent.is_none() || self.bridge.is_some()) {
            return Err(
                "a macvlan network has no bridge and is on an interface of the host's: say which with --parent".to_owned(),
            );
        }
        if self.kind != Kind::Macvlan && self.parent.is_some() {
            return Err("only a macvlan network has a parent: --kind macvlan".to_owned());
        }
        if self.kind == Kind::External && self.bridge.is_none() {
            return Err(
                "an external network is a bridge that is there: say which with --bridge".to_owned(),
            );
        }
        if let Some(gateway) = self.addresses.gateway6 {
            self.check_gateway6(gateway)?;
        }
        if let Some(vxlan) = &self.vxlan {
            vxlan.check(self)?;
        }
        match (self.kind, self.nat) {
            (Kind::External | Kind::Macvlan, Some(true)) => {
                return Err(
                    "guests of such a network have addresses of the LAN and go out by its gateway, so no NAT".to_owned(),
                );
            }
            (Kind::Isolated, Some(true)) => {
                return Err("an isolated network has no way out, so no NAT".to_owned());
            }
            (Kind::Bridge, Some(false)) => {
                return Err(
                    "guests on a bridge go out by NAT: for addresses that the world knows the way to, make a network of the kind routed".to_owned(),
                );
            }
            _ => {}
        }
        match self.mtu {
            Some(mtu) if !MTU.contains(&mtu) => Err(format!(
                "an MTU of {mtu} is out of range: {} to {}",
                MTU.start(),
                MTU.end()
            )),
            _ => Ok(()),
        }
    }
}
