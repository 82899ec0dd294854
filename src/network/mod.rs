//! The networks of an installation: each a bridge, a pool of addresses, a firewall table of its own,
//! and most a way out by NAT. One is always there, others somebody makes. The room decides and hands out [`NetOp`]s; the launch carries them out in the guest's
//! namespace. Talking to the kernel is `kernel::netlink`; what a person wrote is `define`.
//!
//! | file | what it holds |
//! |---|---|
//! | `subnet.rs` | arithmetic of a pool and the choice of a free one |
//! | `pool.rs` | ranges, exclusions and gateway of a pool |
//! | `lease.rs` | which guest has which address: the rules, pure |
//! | `lease6.rs` | IPv6 addresses that are chosen |
//! | `lease_file.rs` | the form of `leases.json` |
//! | `lease_nic.rs` | for which interface an address is |
//! | `book.rs` | the leases on disk, under a lock |
//! | `record.rs` | what somebody said of a network that they made |
//! | `directory.rs` | those networks on disk: made, changed, removed |
//! | `change.rs` | changing a network |
//! | `host.rs` | the host's side: bridge, forwarding, set up and taken down |
//! | `served.rs`, `served_host.rs`, `served_rules.rs`, `server.rs` | DHCP, advertisements and names: what is told, what may be said, who tells |
//! | `bridge.rs` | whose the bridge is, kept on the bridge itself |
//! | `fence.rs` | rules around guests, once they have a place |
//! | `firewall.rs` | the nftables rule sets and the run of `nft` |
//! | `forward.rs` | which ports of the host lead to which guest |
//! | `external.rs` | guests on a bridge, or an interface, that is somebody else's |
//! | `routed.rs` | guests without a bridge between them: their rules, their interface |
//! | `paths.rs` | the host's addresses and its routes to guests, as others leave them |
//! | `size.rs` | how large packets are |
//! | `vxlan.rs` | networks that several hosts share |
//! | `announce.rs` | guests that the host answers for on its uplink |
//! | `ipv6.rs` | IPv6: guests' addresses, the host's side |
//! | `guard6.rs`, `nat6.rs` | what of IPv6 a guest may send; its way out |
//! | `guard.rs` | what a guest may send: the rules, and each guest's entry in them |
//! | `passage.rs` | a firewall of the host's that lets nothing of guests pass, opened for them |
//! | `passthrough.rs` | interfaces of the host's that guests have as they are |
//! | `away.rs` | the note of one that is in a guest |
//! | `plug.rs` | interfaces of guests that run |
//! | `shape.rs` | how fast a guest is |
//! | `tend.rs` | what others have changed, put right |
//! | `trunk.rs` | what a tenant's guests receive and send together |
//! | `traffic.rs`, `classes.rs` | what guests send and receive, counted; what of it is internal |
//! | `ceiling.rs` | ceilings of one guest's packets and connections |
//! | `untracked.rs` | what the host need not keep track of |
//! | `urgency.rs` | who goes first |
//! | `wall.rs`, `wall_rules.rs`, `wall_fields.rs` | guests' own firewalls: where they stand, their rules |
//! | `shared.rs`, `wall_sets.rs` | what those share: groups of rules, sets of addresses |
//! | `trace.rs`, `trace_path.rs`, `trace_words.rs` | why a packet does or does not pass |
//! | `ruleset.rs`, `ruleset_fields.rs`, `ruleset_words.rs` | what the host's whole firewall does to one packet |
//! | `leftover.rs` | interfaces that belong to no running guest |
//! | `vanished.rs` | bridges and tables of installations that are gone |
//! | `dns.rs` | name servers |
//! | `files.rs` | lock, whole-file writes, bounded reads |

mod announce;
mod away;
mod book;
mod bridge;
mod ceiling;
mod change;
mod classes;
mod directory;
mod dns;
mod external;
mod fence;
mod files;
mod firewall;
mod forward;
mod guard;
mod guard6;
mod host;
mod ipv6;
mod lease;
mod lease6;
mod lease_file;
mod lease_nic;
mod leftover;
mod nat6;
mod passage;
mod passthrough;
mod paths;
mod plug;
mod pool;
mod record;
mod renamed;
mod routed;
mod ruleset;
mod ruleset_fields;
mod ruleset_words;
mod served;
mod served_host;
mod served_rules;
mod server;
mod shape;
mod shared;
mod size;
mod subnet;
mod tend;
mod thinned;
mod trace;
mod trace_path;
mod trace_words;
mod traffic;
mod trunk;
mod untracked;
mod urgency;
mod vanished;
mod vxlan;
mod wall;
mod wall_fields;
mod wall_rules;
mod wall_sets;

use std::net::{IpAddr, Ipv4Addr};

use crate::kernel::netlink_nft::Family;
use crate::model::{AddressBlock, Layout, NetOp, NetworkName, NetworkWish, NicName, Prefix6};

pub use away::Away;
pub use directory::DirectoryError;
pub use external::ExternalError;
pub use files::FileError;
pub use firewall::FirewallError;
pub use host::{HostError, HostNetwork};
pub use ipv6::Lease6;
pub use lease::{Lease, LeaseError};
pub use lease6::Address6Error;
pub use leftover::{Leftover, StaleEntry};
pub use passage::Barred;
pub use pool::{Addresses, Range, ranges};
pub use record::{Kind, NewNetwork, Record};
pub use served::Served;
pub use server::{ServerError, Standing, VERB as SERVER_VERB};
pub use shared::{Shared, SharedLock};
pub use subnet::{Subnet, SubnetError};
pub use trace::{Asked, Hop, Question, Verdict};
pub use traffic::Counters;
pub use vanished::Vanished;
pub use vxlan::Vxlan;

/// Name of the first interface inside every guest.
pub const GUEST_INTERFACE: &str = "eth0";

/// What the host's settings say about the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkSettings {
    /// Name of the bridge; `None` for `bulkhead0`, or `bh-TAG` below another prefix.
    pub bridge: Option<String>,
    /// Pool of addresses, as first address and prefix length; `None` to choose a free one once.
    pub subnet: Option<(Ipv4Addr, u8)>,
    /// IPv6 prefix of bridge and guests; `None` for no IPv6.
    pub prefix6: Option<Prefix6>,
    /// Whether guests reach the outside under the host's address.
    pub nat: bool,
    /// Name servers for guests that name none; empty for the host's.
    pub dns: Vec<IpAddr>,
    /// Whether guests that do not say otherwise are kept apart from each other.
    pub isolated_ports: bool,
    /// Most connections of one guest that the host keeps track of; 0 for as many as it has room for,
    /// `None` for a part of that. Without `nat` the host keeps track of none.
    pub connections: Option<u32>,
    /// What guests are told.
    pub served: Served,
    /// Addresses with which traffic is internal, beside those of a guest's own network.
    pub internal: Vec<AddressBlock>,
}

impl Default for NetworkSettings {
    fn default() -> Self {
        Self {
            bridge: None,
            subnet: None,
            prefix6: None,
            nat: true,
            dns: Vec::new(),
            isolated_ports: false,
            connections: None,
            served: Served::default(),
            internal: Vec::new(),
        }
    }
}

/// Settings that cannot be; nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// No interface can have that name.
    #[error(
        "{0:?} cannot name a bridge: use 1 to 15 of A-Z, a-z, 0-9, '-', '_' and '.', beginning with a letter"
    )]
    Bridge(String),
    /// No pool.
    #[error(transparent)]
    Subnet(#[from] SubnetError),
    /// Nobody can be told that.
    #[error("network.{key} in bulkhead.toml: {why}")]
    Served {
        /// The setting.
        key: &'static str,
        /// Why not.
        why: String,
    },
}

/// A network of one installation: the one that is always there, or one that somebody made.
#[derive(Clone, Debug)]
pub struct Network {
    layout: Layout,
    /// `None` for the one that is always there.
    name: Option<NetworkName>,
    kind: Kind,
    /// What names of its guests' interfaces have in them.
    tag: String,
    /// The name of its nftables tables.
    table: String,
    /// The table that holds what guests may send, what is counted, and their own rules.
    guard: firewall::At,
    bridge: String,
    fixed: Option<Subnet>,
    addresses: Addresses,
    /// Its IPv6 prefix, and the one it would have if this host had IPv6.
    prefix6: Option<Prefix6>,
    missed6: Option<Prefix6>,
    nat: bool,
    dns: Vec<IpAddr>,
    isolated_ports: bool,
    connections: Option<u32>,
    /// Largest packet; `None` for the way out's.
    mtu: Option<u32>,
    /// Other hosts that share it.
    vxlan: Option<Vxlan>,
    /// Whether a guest may get the interface of the host's default route.
    force: bool,
    /// What its guests are told.
    served: Served,
    /// Addresses beyond it with which traffic is internal.
    internal: Vec<AddressBlock>,
}

impl Network {
    /// The one that is always there. Changes nothing yet.
    ///
    /// # Errors
    /// When the settings name an impossible bridge or subnet.
    pub fn new(layout: &Layout, settings: NetworkSettings) -> Result<Self, SettingsError> {
        let bridge = match settings.bridge {
            Some(name) if possible_name(&name) => name,
            Some(name) => return Err(SettingsError::Bridge(name)),
            None if layout.tag().is_empty() => "bulkhead0".to_owned(),
            None => format!("bh-{}", layout.tag()),
        };
        let fixed = settings
            .subnet
            .map(|(address, prefix)| Subnet::new(address, prefix))
            .transpose()?;
        settings.served.check_usual(settings.prefix6.is_some())?;
        let (prefix6, missed6) = Self::usable6(settings.prefix6);
        Ok(Self {
            prefix6,
            missed6,
            name: None,
            kind: Kind::Bridge,
            guard: (Family::Bridge, layout.kernel_name()),
            tag: layout.tag().to_owned(),
            table: layout.kernel_name(),
            layout: layout.clone(),
            bridge,
            fixed,
            addresses: Addresses::default(),
            nat: settings.nat,
            dns: settings.dns,
            isolated_ports: settings.isolated_ports,
            connections: settings.connections,
            mtu: None,
            vxlan: None,
            force: false,
            served: settings.served,
            internal: settings.internal,
        })
    }

    /// What stands for it in a definition: its name, or `bridge`.
    #[must_use]
    pub fn word(&self) -> &str {
        self.name.as_ref().map_or("bridge", NetworkName::as_str)
    }

    /// How its guests are connected.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether no guest of it has a way out, or to the host.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.kind == Kind::Isolated
    }

    /// Its pool, if one was chosen.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn pool(&self) -> Result<Option<Subnet>, FileError> {
        self.known_subnet()
    }

    /// What is said of its addresses.
    #[must_use]
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Largest packet, if it is not the way out's.
    #[must_use]
    pub fn mtu(&self) -> Option<u32> {
        self.mtu
    }

    /// Whether guests that do not say otherwise are kept apart.
    #[must_use]
    pub fn isolates(&self) -> bool {
        self.isolated_ports
    }

    /// Whether packets of its guests are routed from one to the next, with no bridge between them.
    #[must_use]
    pub fn is_routed(&self) -> bool {
        self.kind == Kind::Routed
    }

    /// How names of its guests' interfaces begin.
    fn prefix(&self) -> String {
        format!("bh{}", self.tag)
    }

    /// Whether guests go out under the host's address.
    #[must_use]
    pub fn has_nat(&self) -> bool {
        self.nat
    }

    /// Its guests' way out, if they have one.
    #[must_use]
    pub fn gateway(&self, lease: &Lease) -> Option<Ipv4Addr> {
        match self.kind {
            Kind::Isolated => None,
            Kind::External | Kind::Macvlan | Kind::Passthrough => self.addresses.gateway,
            Kind::Bridge | Kind::Routed => Some(lease.gateway),
        }
    }

    /// The same for all of them, once there is a pool.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn way_out(&self) -> Result<Option<Ipv4Addr>, FileError> {
        let subnet = self.known_subnet()?;
        Ok(match self.kind {
            Kind::Isolated => None,
            Kind::External | Kind::Macvlan | Kind::Passthrough => self.addresses.gateway,
            Kind::Bridge | Kind::Routed => subnet.map(|subnet| self.gateway_in(subnet)),
        })
    }

    /// The bridge's name.
    #[must_use]
    pub fn bridge(&self) -> &str {
        &self.bridge
    }

    /// What the launch does for a guest on the bridge; the first operation on the host, the others
    /// inside. `mtu` is [`HostNetwork::mtu`]; `wish` what the guest says of its network.
    #[must_use]
    pub fn ops(&self, lease: &Lease, mtu: u32, wish: &NetworkWish) -> Vec<NetOp> {
        let isolated = wish.isolated_ports.unwrap_or(self.isolated_ports);
        let name = interface_of(lease);
        let outside = match self.kind {
            Kind::Routed => self.routed(lease, mtu, isolated, wish),
            Kind::Macvlan => NetOp::Macvlan {
                parent: self.bridge.clone(),
                guest_name: name.to_owned(),
                mac: lease.mac,
                mtu,
                isolated,
            },
            Kind::Passthrough => NetOp::Passthrough {
                parent: self.bridge.clone(),
                guest_name: name.to_owned(),
            },
            Kind::Bridge | Kind::Isolated | Kind::External => NetOp::Veth {
                host_name: lease.host_interface.clone(),
                guest_name: name.to_owned(),
                bridge: self.bridge.clone(),
                mac: lease.mac,
                mtu,
                isolated,
                shape: self.shape(wish),
                alias: String::new(),
            },
        };
        let mut all = vec![outside];
        all.extend(lease.nic.is_none().then_some(NetOp::Loopback));
        all.push(NetOp::Address {
            interface: name.to_owned(),
            address: lease.address,
            prefix: lease.prefix,
        });
        let gateway = self.gateway(lease);
        all.extend(gateway.map(|gateway| NetOp::DefaultRoute { gateway }));
        all.extend(self.ops6(lease));
        all
    }

    /// What the launch does for a guest that has a network namespace and nothing in it. (A guest on
    /// the host's own network needs no operation at all.)
    #[must_use]
    pub fn loopback_ops() -> Vec<NetOp> {
        vec![NetOp::Loopback]
    }

    /// Name servers of a guest: its own, else the network's, else the settings', else the host's that a guest can reach.
    /// One without a way out has its own and its network's only.
    #[must_use]
    pub fn dns(&self, wish: &[IpAddr]) -> Vec<IpAddr> {
        if let (true, Some(own)) = (wish.is_empty(), self.own_name_server()) {
            return vec![own];
        }
        if self.is_closed() {
            return wish.to_vec();
        }
        [wish, &self.dns]
            .into_iter()
            .find(|list| !list.is_empty())
            .map_or_else(dns::of_host, <[IpAddr]>::to_vec)
    }
}

/// Name inside of the interface that a lease is for.
#[must_use]
pub fn interface_of(lease: &Lease) -> &str {
    lease.nic.as_ref().map_or(GUEST_INTERFACE, NicName::as_str)
}

/// Stricter than the kernel, so that a name is safe in a path, a rule and a message.
fn possible_name(name: &str) -> bool {
    (1..=15).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn names_of_two_installations_differ() {
        let of = |root: &str| {
            let layout = Layout::new(Path::new(root));
            Network::new(&layout, NetworkSettings::default()).unwrap()
        };
        assert_eq!(of("/").bridge(), "bulkhead0");
        let (a, b) = (of("/tmp/a"), of("/tmp/b"));
        assert_ne!(a.bridge(), b.bridge());
        assert!(possible_name(a.bridge()), "{}", a.bridge());
    }

    #[test]
    fn impossible_bridges_are_refused() {
        for name in ["", "-a", "a/b", "..", "a b", "sixteen-letters-", "é"] {
            let settings = NetworkSettings {
                bridge: Some(name.to_owned()),
                ..NetworkSettings::default()
            };
            let error = Network::new(&Layout::new(Path::new("/")), settings).unwrap_err();
            assert!(matches!(error, SettingsError::Bridge(_)), "{name}");
        }
    }

    #[test]
    fn a_guests_own_name_servers_win() {
        let (own, host): (IpAddr, IpAddr) = ([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
        let settings = NetworkSettings {
            dns: vec![host],
            ..NetworkSettings::default()
        };
        let network = Network::new(&Layout::new(Path::new("/")), settings).unwrap();
        assert_eq!(network.dns(&[own]), [own]);
        assert_eq!(network.dns(&[]), [host]);
    }
}
