//! Networks without a bridge between guests: the host has a route to each address, over that guest's
//! own interface, and answers there for its neighbours' addresses. What guests may send is held to the
//! same sets as on a bridge, in a table of family inet, where all that is routed passes. ARP does not:
//! the host believes only what comes from where it would send to (`rp_filter`), of every guest its own
//! address, so there is nothing that a guest could make it believe of another.
//!
//! The gateway's address, and the memory of whose the network is, are on a bridge without ports.

use std::path::Path;

use serde_json::{Value, json};

use super::files;
use super::firewall::{At, chain, matches, rule};
use super::guard::{self, FIRST, GUESTS, PORTS, flush};
use super::host::HostError;
use super::lease::Lease;
use super::{Network, interface_of};
use crate::kernel::netlink::{Netlink, NetlinkError, Route};
use crate::model::{NetOp, NetworkWish};

/// Group of interfaces whose guests are kept apart; any number that nobody else has.
const APART: u32 = 0x6268;
/// The group that every interface is in.
const USUAL: u32 = 0;
const RP_FILTER: &str = "/proc/sys/net/ipv4/conf/all/rp_filter";

/// The group of a guest's interface.
pub(super) fn group(isolated: bool) -> u32 {
    if isolated { APART } else { USUAL }
}

/// What guests may send; behind these and those of IPv6 everything is dropped.
pub(super) fn rules(at: &At) -> Vec<Value> {
    let field =
        |protocol: &str, field: &str| json!({"payload": {"protocol": protocol, "field": field}});
    let meta = |key: &str| json!({"meta": {"key": key}});
    let is = |left: Value, right: Value| matches("==", left, right);
    let interface = || meta("iifname");
    let sender = json!({"concat": [interface(), field("ether", "saddr"), field("ip", "saddr")]});
    let accept = || json!({"accept": null});
    let drop = || json!({"drop": null});
    let guard = [
        json!([
            matches("!=", interface(), json!(format!("@{PORTS}"))),
            accept()
        ]),
        // What only a DHCP server sends.
        json!([is(field("udp", "sport"), json!(67)), drop()]),
        json!([is(field("udp", "dport"), json!(68)), drop()]),
        guard::routers(),
        json!([is(sender, json!(format!("@{GUESTS}"))), accept()]),
    ];
    guard
        .into_iter()
        .map(|expr| rule(at, "guard", expr))
        .collect()
}

/// Guests that are kept apart from each other.
pub(super) fn apart(at: &At) -> [Value; 3] {
    let group = |key: &str| matches("==", json!({"meta": {"key": key}}), json!(APART));
    let both = json!([group("iifgroup"), group("oifgroup"), {"drop": null}]);
    [
        chain(at, "apart", "filter", "forward", FIRST),
        flush(at, "apart"),
        rule(at, "apart", both),
    ]
}

impl Network {
    /// What the launch does on the host for a guest of a network without a bridge.
    pub(super) fn routed(
        &self,
        lease: &Lease,
        mtu: u32,
        isolated: bool,
        wish: &NetworkWish,
    ) -> NetOp {
        NetOp::Routed {
            host_name: lease.host_interface.clone(),
            guest_name: interface_of(lease).to_owned(),
            address: lease.address,
            gateway: lease.gateway,
            address6: lease.ipv6.as_ref().map(|ipv6| ipv6.address),
            mac: lease.mac,
            mtu,
            group: group(isolated),
            shape: self.shape(wish),
            alias: String::new(),
        }
    }

    /// Refuses on a host that would believe a guest whatever it says of its address.
    pub(super) fn refuse_loose(&self) -> Result<(), HostError> {
        let loose =
            self.is_routed() && files::read_sysctl(Path::new(RP_FILTER))?.as_deref() == Some("2");
        match loose {
            true => Err(HostError::Loose),
            false => Ok(()),
        }
    }

    /// The interface that leads to guests, or how the names of all those begin.
    pub(super) fn inside(&self) -> String {
        match self.is_routed() {
            true => format!("{}*", self.prefix()),
            false => self.bridge.clone(),
        }
    }

    /// Routes that lead elsewhere than to our guests, but for default routes.
    pub(super) fn foreign_routes(&self, kernel: &mut Netlink) -> Result<Vec<Route>, NetlinkError> {
        let prefix = self.prefix();
        let links = kernel.links("")?.into_iter();
        let ours = links.filter(|link| {
            link.name == self.bridge || (self.is_routed() && link.name.starts_with(&prefix))
        });
        let ours: Vec<u32> = ours.map(|link| link.index).collect();
        let mut routes = kernel.routes()?;
        routes.retain(|route| {
            route.prefix > 0 && route.interface.is_none_or(|index| !ours.contains(&index))
        });
        Ok(routes)
    }
}
