//! Networks on a bridge that is somebody else's, such as one with the host's own card in it: guests are
//! machines of that LAN beside the host. The bridge is only looked at; ours are the guests' interfaces
//! on it and a table of rules.
//!
//! What else is on the bridge is not ours to hold back, so more is kept from guests than on a bridge of
//! our own: they hear no IPv6 without a prefix, and with one no router's advertisements, by which it would
//! tell them of addresses that they may not send from; and none of them can take part in how bridges agree on their tree (the port is shut off).

use std::net::Ipv4Addr;

use serde_json::{Value, json};

use super::firewall::{At, chain, matches, rule};
use super::guard::{FIRST, PORTS, flush, set};
use super::host::{HostError, HostNetwork};
use super::subnet::Subnet;
use super::{Kind, Lease, Network, bridge};
use crate::kernel::netlink::{Link, Netlink};
use crate::kernel::netlink_nft::{Element, table_exists};

/// Addresses of guests, by themselves.
pub(super) const ADDRESSES: &str = "addresses";
/// The same of IPv6.
pub(super) const ADDRESSES6: &str = "addresses6";

/// A bridge that guests cannot be put on as it is.
#[derive(Debug, thiserror::Error)]
pub enum ExternalError {
    /// None.
    #[error(
        "cannot put guests on {0}: there is no such interface on this host; make it first, in the host's own network settings"
    )]
    Missing(String),
    /// Something else.
    #[error(
        "cannot put guests on {0}: it is no bridge; put it into one, in the host's own network settings, and name that"
    )]
    NoBridge(String),
    /// It takes none.
    #[error(
        "cannot put guests on {0} by macvlan: it is loopback or a port of a bridge, which takes none; name a free interface, or make a network of the kind external on that bridge"
    )]
    NoParent(String),
    /// Not there now.
    #[error(
        "cannot give {0} to a guest: it is not on this host now; a guest that runs may have it, and then it comes back when that is stopped"
    )]
    Away(String),
    /// With a guest, or not back.
    #[error(
        "cannot give {0} away: a guest has it, or had it and it has not come back; `bulkhead doctor` tells, and `bulkhead doctor --fix` brings back what no guest has any more"
    )]
    Lent(String),
    /// Not where it was put.
    #[error(
        "cannot take {0} out of the guest: the guest's root has deleted it or moved it elsewhere; stop the guest, and it comes back if it is still there"
    )]
    Strayed(String),
    /// Nowhere.
    #[error(
        "cannot bring {0} back: the guest that had it has ended, and no interface of this host is the one that went there; look at `ip link` and dmesg, give it its name again if it is there under another, and say `bulkhead doctor --fix`; a reboot of the host brings it back too"
    )]
    Lost(String),
    /// Not to be given away.
    #[error("cannot give {name} to a guest: {why}")]
    NotLent {
        /// Its name.
        name: String,
        /// Why not.
        why: &'static str,
    },
    /// One of ours.
    #[error(
        "cannot put guests on {0}: it is a bridge of Bulkhead's own; name the network that it belongs to, or somebody else's bridge"
    )]
    Ours(String),
}

/// Frames that go up to the host though they are for a guest, and what no guest is to hear.
pub(super) fn rules(at: &At, ipv6: bool) -> Vec<Value> {
    let field =
        |protocol: &str, field: &str| json!({"payload": {"protocol": protocol, "field": field}});
    let mut known = vec!["ip", "arp"];
    known.extend(ipv6.then_some("ip6"));
    let port = |key: &str| {
        matches(
            "==",
            json!({"meta": {"key": key}}),
            json!(format!("@{PORTS}")),
        )
    };
    let mut all = vec![
        set(at, ADDRESSES, json!("ipv4_addr")),
        chain(at, "around", "filter", "input", FIRST),
        flush(at, "around"),
        rule(
            at,
            "around",
            json!([
                port("iifname"),
                matches("==", field("ip", "daddr"), json!(format!("@{ADDRESSES}"))),
                {"drop": null}
            ]),
        ),
        chain(at, "foreign", "filter", "postrouting", FIRST),
        flush(at, "foreign"),
        rule(
            at,
            "foreign",
            json!([
                port("oifname"),
                matches("!=", field("ether", "type"), json!({"set": known})),
                {"drop": null}
            ]),
        ),
    ];
    if ipv6 {
        let advertises = matches("==", field("icmpv6", "type"), json!("nd-router-advert"));
        let drop = json!({"drop": null});
        let guests = matches("==", field("ip6", "daddr"), json!(format!("@{ADDRESSES6}")));
        all.extend([
            set(at, ADDRESSES6, json!("ipv6_addr")),
            rule(at, "around", json!([port("iifname"), guests, drop])),
            rule(at, "foreign", json!([port("oifname"), advertises, drop])),
        ]);
    }
    all
}

/// A guest's addresses by themselves.
pub(super) fn elements(lease: &Lease) -> Vec<Element> {
    let mut all = vec![Element::new(ADDRESSES, lease.address.octets().to_vec())];
    let six = lease.ipv6.as_ref();
    all.extend(six.map(|six| Element::new(ADDRESSES6, six.address.octets().to_vec())));
    all
}

impl Network {
    /// Whether the bridge is somebody else's.
    #[must_use]
    pub fn is_external(&self) -> bool {
        self.kind == Kind::External
    }

    /// Whether guests are on what is somebody else's, as machines of its LAN.
    pub(super) fn is_guest_of_lan(&self) -> bool {
        matches!(
            self.kind,
            Kind::External | Kind::Macvlan | Kind::Passthrough
        )
    }

    /// Whether anything of ours is between guests and the rest; on an interface of the host's there is
    /// no such place.
    #[must_use]
    pub fn holds_back(&self) -> bool {
        !matches!(self.kind, Kind::Macvlan | Kind::Passthrough)
    }

    /// The bridge or interface, if guests can be put on it.
    pub(super) fn their_bridge(&self, kernel: &mut Netlink) -> Result<Link, HostError> {
        let name = self.bridge.clone();
        if self.is_passthrough() {
            return Ok(self.lendable(kernel)?.link);
        }
        let Some(link) = kernel.link(&name)? else {
            return Err(ExternalError::Missing(name).into());
        };
        if self.kind == Kind::Macvlan && (link.master.is_some() || link.name == "lo") {
            return Err(ExternalError::NoParent(name).into());
        }
        if self.is_external() && link.kind.as_deref() != Some("bridge") {
            return Err(ExternalError::NoBridge(name).into());
        }
        match bridge::is_ours(&link) {
            true => Err(ExternalError::Ours(name).into()),
            false => Ok(link),
        }
    }

    /// Writes the rules for guests on it.
    pub(super) fn join(
        &self,
        kernel: &mut Netlink,
        subnet: Subnet,
    ) -> Result<HostNetwork, HostError> {
        let theirs = self.their_bridge(kernel)?;
        if !self.holds_back() {
            return Ok(HostNetwork {
                bridge: self.bridge.clone(),
                bridge_index: theirs.index,
                subnet,
                // The kernel makes none with a larger one than what it stands on.
                mtu: self.mtu.unwrap_or(theirs.mtu).min(theirs.mtu),
            });
        }
        let (family, table) = &self.guard;
        let fresh = !table_exists(*family, table)?;
        let done = self.fence(kernel, subnet);
        if done.is_err() && fresh {
            // The first error is the one to tell; what this leaves goes with the network.
            let _second_failure = self.take_down(kernel);
        }
        done
    }

    /// Addresses that the host itself has, where the host is on a network.
    pub(super) fn of_host(&self) -> Result<Vec<Ipv4Addr>, HostError> {
        match self.is_guest_of_lan() || self.has_host() {
            true => Ok(Netlink::open()?.all_ipv4()?),
            false => Ok(Vec::new()),
        }
    }

    /// Whether the bridge and all that is ours on it is there.
    pub(super) fn is_joined(&self, kernel: &mut Netlink) -> Result<bool, HostError> {
        Ok(self.their_bridge(kernel).is_ok() && self.tables_stand()?)
    }
}
