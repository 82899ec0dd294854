//! The network of an installation: one bridge, a pool of addresses, NAT out by a firewall table of
//! its own. The room decides and hands out [`NetOp`]s; the launch carries them out in the guest's
//! namespace. Talking to the kernel is `kernel::netlink`; what a person wrote is `define`.
//!
//! | file | what it holds |
//! |---|---|
//! | `subnet.rs` | arithmetic of a pool and the choice of a free one |
//! | `lease.rs` | which guest has which address: the rules, pure |
//! | `book.rs` | the leases on disk, under a lock |
//! | `host.rs` | the host's side: bridge, forwarding, set up and taken down |
//! | `bridge.rs` | whose the bridge is, kept on the bridge itself |
//! | `firewall.rs` | the nftables rule sets and the run of `nft` |
//! | `forward.rs` | which ports of the host lead to which guest |
//! | `guard.rs` | what a guest may send: the rules, and each guest's entry in them |
//! | `shape.rs` | how fast a guest is |
//! | `traffic.rs` | what guests send and receive, counted |
//! | `wall.rs` | guests' own firewalls |
//! | `leftover.rs` | interfaces that belong to no running guest |
//! | `dns.rs` | name servers |
//! | `files.rs` | lock, whole-file writes, bounded reads |

mod book;
mod bridge;
mod dns;
mod files;
mod firewall;
mod forward;
mod guard;
mod host;
mod lease;
mod leftover;
mod shape;
mod subnet;
mod traffic;
mod wall;

use std::net::{IpAddr, Ipv4Addr};

use crate::model::{Layout, NetOp, NetworkWish};

pub use files::FileError;
pub use firewall::FirewallError;
pub use host::{HostError, HostNetwork};
pub use lease::{Lease, LeaseError};
pub use leftover::{Leftover, StaleEntry};
pub use subnet::{Subnet, SubnetError};
pub use traffic::Counters;

/// Name of the interface inside every guest.
pub const GUEST_INTERFACE: &str = "eth0";

/// What the host's settings say about the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkSettings {
    /// Name of the bridge; `None` for `bulkhead0`, or `bh-TAG` below another prefix.
    pub bridge: Option<String>,
    /// Pool of addresses, as first address and prefix length; `None` to choose a free one once.
    pub subnet: Option<(Ipv4Addr, u8)>,
    /// Whether guests reach the outside under the host's address.
    pub nat: bool,
    /// Name servers for guests that name none; empty for the host's.
    pub dns: Vec<IpAddr>,
    /// Whether guests that do not say otherwise are kept apart from each other.
    pub isolated_ports: bool,
    /// Most connections of one guest that the host keeps track of; 0 for as many as it has room for,
    /// `None` for a part of that. Without `nat` the host keeps track of none.
    pub connections: Option<u32>,
}

impl Default for NetworkSettings {
    fn default() -> Self {
        Self {
            bridge: None,
            subnet: None,
            nat: true,
            dns: Vec::new(),
            isolated_ports: false,
            connections: None,
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
}

/// The network of one installation.
#[derive(Clone, Debug)]
pub struct Network {
    layout: Layout,
    bridge: String,
    fixed: Option<Subnet>,
    nat: bool,
    dns: Vec<IpAddr>,
    isolated_ports: bool,
    connections: Option<u32>,
}

impl Network {
    /// Reads nothing and changes nothing yet.
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
        Ok(Self {
            layout: layout.clone(),
            bridge,
            fixed,
            nat: settings.nat,
            dns: settings.dns,
            isolated_ports: settings.isolated_ports,
            connections: settings.connections,
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
        vec![
            NetOp::Veth {
                host_name: lease.host_interface.clone(),
                guest_name: GUEST_INTERFACE.to_owned(),
                bridge: self.bridge.clone(),
                mac: lease.mac,
                mtu,
                isolated: wish.isolated_ports.unwrap_or(self.isolated_ports),
                shape: shape::shape(wish),
            },
            NetOp::Loopback,
            NetOp::Address {
                interface: GUEST_INTERFACE.to_owned(),
                address: lease.address,
                prefix: lease.prefix,
            },
            NetOp::DefaultRoute {
                gateway: lease.gateway,
            },
        ]
    }

    /// What the launch does for a guest that has a network namespace and nothing in it. (A guest on
    /// the host's own network needs no operation at all.)
    #[must_use]
    pub fn loopback_ops() -> Vec<NetOp> {
        vec![NetOp::Loopback]
    }

    /// Name servers of a guest: its own, else the settings', else the host's that a guest can reach.
    #[must_use]
    pub fn dns(&self, wish: &[IpAddr]) -> Vec<IpAddr> {
        [wish, &self.dns]
            .into_iter()
            .find(|list| !list.is_empty())
            .map_or_else(dns::of_host, <[IpAddr]>::to_vec)
    }
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
