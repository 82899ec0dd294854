//! What of IPv6 a guest may send: packets from its own hardware address and from one of its two
//! addresses, the link's and the leased one; answers of neighbour discovery for those two only; and
//! nothing that only routers and DHCP servers say. As with IPv4 the rules are the same for all, and
//! guests are elements of a set. `guard.rs` has the table.
//!
//! `nft` cannot look up what lies at an offset of a packet together with a field that it knows, so the
//! rules that look into neighbour discovery are written without it. Their chains drop what none of
//! them lets pass, so a chain that is still empty lets nothing pass.

use serde_json::{Value, json};

use super::Network;
use super::firewall::{At, matches, rule};
use super::guard::{PORTS, flush, set};
use super::host::HostError;
use super::lease::Lease;
use crate::kernel::netlink_nft::{Element, NAME_LENGTH};
use crate::kernel::netlink_nft_rule::{Base, Check, accept};
use crate::model::{Prefix6, link_local};

/// Who may send what: interface, hardware address, IPv6 address.
pub(super) const GUESTS: &str = "guests6";
/// What only routers say, or whoever counts listeners: MLD and router solicitation, advertisement;
/// redirect, renumbering; MLD version 2; multicast routers. With a guest that counts listeners the
/// bridge would keep neighbour discovery from those it has not heard of.
const ROUTERS: [(u8, u8); 4] = [(130, 134), (137, 138), (143, 143), (151, 153)];
/// Headers that hide in the second part of a packet what it is; no honest sender does that.
const HIDING: [u8; 5] = [0, 43, 44, 51, 60];
/// Chains of questions and answers of neighbour discovery.
const ASK: &str = "ask6";
const ANSWER: &str = "answer6";
/// Bytes of either without an option, and with the one that has a hardware address.
const BARE: u16 = 24;
const WITH_HARDWARE: u16 = 32;
/// Where in a frame the sender's hardware address is, and in a packet its address; where in neighbour
/// discovery the address that it is about is, and the hardware address.
const SENDER_HARDWARE: (Base, u32) = (Base::Link, 6);
const SENDER: (Base, u32) = (Base::Network, 8);
const TARGET: (Base, u32) = (Base::Transport, 8);
const TARGET_HARDWARE: (Base, u32) = (Base::Transport, 26);
const LENGTH: (Base, u32) = (Base::Network, 4);

fn field(protocol: &str, field: &str) -> Value {
    json!({"payload": {"protocol": protocol, "field": field}})
}

fn is(left: Value, right: Value) -> Value {
    matches("==", left, right)
}

pub(super) fn known(interface: &str) -> Value {
    let interface = json!({"meta": {"key": interface}});
    let sender = json!({"concat": [interface, field("ether", "saddr"), field("ip6", "saddr")]});
    is(sender, json!(format!("@{GUESTS}")))
}

/// The set and the chains, before the rules that name them.
pub(super) fn objects(at: &At) -> Vec<Value> {
    let mut all = vec![set(
        at,
        GUESTS,
        json!(["ifname", "ether_addr", "ipv6_addr"]),
    )];
    for name in [ASK, ANSWER] {
        let (family, table) = (at.0.name(), &at.1);
        all.push(json!({"add": {"chain": {"family": family, "table": table, "name": name}}}));
        all.push(flush(at, name));
    }
    all
}

/// What comes before the guard's last rule, which drops.
pub(super) fn rules(at: &At) -> Vec<Value> {
    let drop = || json!({"drop": null});
    let about = |kind: &str| is(field("icmpv6", "type"), json!(kind));
    let ranges = ROUTERS.map(|(first, last)| match first == last {
        true => json!(first),
        false => json!({"range": [first, last]}),
    });
    let next = json!({"exthdr": {"name": "frag", "field": "nexthdr"}});
    let mut all = vec![
        json!([is(next, json!({"set": HIDING})), drop()]),
        json!([is(field("icmpv6", "type"), json!({"set": ranges})), drop()]),
        // What only a DHCP server sends.
        json!([is(field("udp", "sport"), json!(547)), drop()]),
        json!([is(field("udp", "dport"), json!(546)), drop()]),
    ];
    for (kind, chain) in [("nd-neighbor-solicit", ASK), ("nd-neighbor-advert", ANSWER)] {
        all.push(json!([about(kind), {"jump": {"target": chain}}]));
        // Whether somebody has its address it need not ask: nobody can.
        all.push(json!([about(kind), drop()]));
    }
    all.push(json!([known("iifname"), {"accept": null}]));
    all.into_iter()
        .map(|expr| rule(at, "guard", expr))
        .collect()
}

/// To a neighbour by way of the host, around the ports that are kept apart; in the chain of the same
/// for IPv4.
pub(super) fn around(at: &At, prefix: Prefix6) -> Value {
    let network = json!({"prefix": {"addr": prefix.network(), "len": prefix.length()}});
    let port = json!({"meta": {"key": "iifname"}});
    let expr = json!([
        is(port, json!(format!("@{PORTS}"))),
        is(field("ip6", "daddr"), network),
        matches("!=", field("ip6", "daddr"), json!(prefix.gateway())),
        {"drop": null}
    ]);
    rule(at, "around", expr)
}

/// A port gives back a guest's own packets that are for many.
pub(super) fn echo(at: &At) -> Value {
    let many = is(json!({"meta": {"key": "pkttype"}}), json!("multicast"));
    rule(at, "echo", json!([many, known("oifname"), {"drop": null}]))
}

/// The elements of a guest.
pub(super) fn elements(lease: &Lease) -> Vec<Element> {
    let Some(ipv6) = &lease.ipv6 else {
        return Vec::new();
    };
    let mut sender = lease.host_interface.as_bytes().to_vec();
    sender.resize(NAME_LENGTH, 0);
    // Each part of a key begins at a multiple of four.
    sender.extend([&lease.mac[..], &[0, 0]].concat());
    [ipv6.address, link_local(lease.mac)]
        .map(|address| Element::new(GUESTS, [&sender[..], &address.octets()].concat()))
        .to_vec()
}

impl Network {
    /// Writes the rules that look into neighbour discovery, where the table has chains for them.
    pub(super) fn look_into_discovery(&self) -> Result<(), HostError> {
        if self.prefix6.is_none() {
            return Ok(());
        }
        let (family, table) = &self.guard;
        let sender = Check::Known(SENDER_HARDWARE, SENDER);
        let target = Check::Known(SENDER_HARDWARE, TARGET);
        let hardware = Check::Known(TARGET_HARDWARE, SENDER);
        let long = |length| Check::Number(LENGTH, length);
        for (chain, checks) in [
            (ASK, &[long(BARE), sender][..]),
            (ASK, &[long(WITH_HARDWARE), sender, hardware]),
            (ANSWER, &[long(BARE), sender, target]),
            (ANSWER, &[long(WITH_HARDWARE), sender, target, hardware]),
        ] {
            accept(*family, table, chain, GUESTS, checks)?;
        }
        Ok(())
    }
}
