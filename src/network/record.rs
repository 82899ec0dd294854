//! What somebody said of a network that they made: its record, `networks/NAME.json`. Where records lie
//! and what making one takes is `directory.rs`.

use std::net::Ipv6Addr;

use serde::{Deserialize, Serialize};

use super::pool::Addresses;
use super::served::Served;
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
    /// By an interface of the host's itself, one guest at a time.
    Passthrough,
}

impl Kind {
    /// All, as people write them.
    pub const WORDS: [&str; 6] = [
        "bridge",
        "isolated",
        "routed",
        "external",
        "macvlan",
        "passthrough",
    ];

    /// The kind of that word.
    #[must_use]
    pub fn of_word(word: &str) -> Option<Self> {
        let all = [
            Self::Bridge,
            Self::Isolated,
            Self::Routed,
            Self::External,
            Self::Macvlan,
            Self::Passthrough,
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
            Self::Passthrough => "passthrough",
        }
    }
}

/// What `network create` asks for.
#[derive(Clone, Debug)]
pub struct NewNetwork {
    /// Its name.
    pub name: NetworkName,
    /// How its guests are connected.
    pub kind: Kind,
    /// Its pool; `None` to choose a free one.
    pub subnet: Option<Subnet>,
    /// Its IPv6 prefix; `None` for no IPv6.
    pub prefix6: Option<Prefix6>,
    /// Its bridge's name; `None` for one made from the network's.
    pub bridge: Option<String>,
    /// The host's interface that it is on, without a bridge.
    pub parent: Option<String>,
    /// Whether guests go out under the host's address; `None` for what the kind does.
    pub nat: Option<bool>,
    /// Largest packet.
    pub mtu: Option<u32>,
    /// Whether guests are kept apart.
    pub isolated_ports: Option<bool>,
    /// What of the pool guests get.
    pub addresses: Addresses,
    /// Other hosts that share it.
    pub vxlan: Option<Vxlan>,
    /// Whether a guest may get the interface of the host's default route.
    pub force: bool,
    /// What its guests are told.
    pub served: Served,
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
    /// Whether a guest may get the interface of the host's default route.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
    /// What its guests are told.
    #[serde(default, skip_serializing_if = "Served::is_unsaid")]
    pub served: Served,
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
        self.served.check(self)?;
        let on_parent = matches!(self.kind, Kind::Macvlan | Kind::Passthrough);
        if on_parent && (self.parent.is_none() || self.bridge.is_some()) {
            return Err(format!(
                "a {} network has no bridge and is an interface of the host's: say which with --parent",
                self.kind.word()
            ));
        }
        if !on_parent && self.parent.is_some() {
            return Err(
                "only a macvlan or passthrough network has a parent: --kind macvlan".to_owned(),
            );
        }
        if self.kind == Kind::Passthrough && self.mtu.is_some() {
            return Err("a passthrough network has the interface's own MTU".to_owned());
        }
        if self.force && self.kind != Kind::Passthrough {
            return Err("--force is for passthrough networks".to_owned());
        }
        if self.kind == Kind::External && self.bridge.is_none() {
            return Err(
                "an external network is a bridge that is there: say which with --bridge".to_owned(),
            );
        }
        if let Some(gateway) = self.addresses.gateway6 {
            self.check_gateway6(gateway)?;
        }
        if self.prefix6.is_some() && self.kind == Kind::Passthrough {
            return Err(
                "an interface that a guest is given whole has no IPv6 from here: leave out --prefix6"
                    .to_owned(),
            );
        }
        if let Some(vxlan) = &self.vxlan {
            vxlan.check(self)?;
        }
        match (self.kind, self.nat) {
            (Kind::External | Kind::Macvlan | Kind::Passthrough, Some(true)) => {
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
