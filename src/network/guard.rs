//! What a guest may send: packets from its own hardware and IPv4 address, and nothing else. The rules
//! are the same for every guest and are written once, with the bridge; what tells guests apart are
//! the elements of two sets, so a start adds a few bytes to the firewall and no rule.
//!
//! Elements follow from the lease alone and stay as long as it does: they need no undoing when a
//! guest stops, and one that is there too long lets nobody do anything new. That a neighbour's
//! packets do not come to a guest is the bridge port's matter (`kernel::netlink_port`).

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use serde_json::{Value, json};

use super::firewall::{At, chain, matches, rule};
use super::host::HostError;
use super::lease::Lease;
use super::served_rules::Spoken;
use super::subnet::Subnet;
use super::{FileError, Network, external, guard6, routed, served_rules, traffic, wall};
use crate::kernel::netlink::Netlink;
use crate::kernel::netlink_nft::{self, Element, Family, NAME_LENGTH};
use crate::model::{NetworkWish, Prefix6};

/// Interfaces the rules are for. Whatever else somebody put on the bridge is not held to them.
pub(super) const PORTS: &str = "ports";
/// Who may send what: interface, hardware address, IPv4 address.
pub(super) const GUESTS: &str = "guests";
/// Before everything else that looks at frames of bridges (NF_BR_PRI_NAT_DST_BRIDGED).
pub(super) const FIRST: i32 = -300;

/// The table with all guests that have a lease. It replaces the rules that are there; the sets stay.
pub(super) fn table(
    at: &At,
    subnet: Subnet,
    own: Option<Ipv4Addr>,
    prefix6: Option<Prefix6>,
    spoken: Spoken,
) -> Vec<Value> {
    let (family, name) = (at.0.name(), &at.1);
    let mut all = vec![
        json!({"add": {"table": {"family": family, "name": name}}}),
        set(at, PORTS, json!("ifname")),
        set(at, GUESTS, json!(["ifname", "ether_addr", "ipv4_addr"])),
        chain(at, "guard", "filter", "prerouting", FIRST),
        flush(at, "guard"),
    ];
    if prefix6.is_some() {
        all.extend(guard6::objects(at));
    }
    all.extend(spoken.objects(at));
    let bridge = at.0 == Family::Bridge;
    match bridge {
        true => {
            let usual: Vec<Value> = rules(prefix6.is_some()).collect();
            let (frames, packets) = usual.split_at(FRAMES);
            all.push(rule(at, "guard", usual_packet()));
            all.extend(frames.iter().map(|expr| rule(at, "guard", expr.clone())));
            all.extend(spoken.rules(at));
            all.extend(packets.iter().map(|expr| rule(at, "guard", expr.clone())));
        }
        false => all.extend(routed::rules(at)),
    }
    if prefix6.is_some() {
        all.extend(guard6::rules(at));
    }
    all.push(rule(at, "guard", json!([{"drop": null}])));
    match bridge {
        true => {
            match own {
                Some(gateway) => all.extend(around(at, subnet, gateway)),
                None => all.extend(external::rules(at, prefix6.is_some())),
            }
            all.push(chain(at, "echo", "filter", "forward", FIRST));
            all.push(flush(at, "echo"));
            // Nothing else goes from port to port, mostly.
            let one = matches("==", json!({"meta": {"key": "pkttype"}}), json!("other"));
            all.push(rule(at, "echo", json!([one, {"accept": null}])));
            all.extend(echoes().map(|expr| rule(at, "echo", expr)));
            if let Some(prefix) = prefix6 {
                all.push(guard6::echo(at));
                // Elsewhere the host may have any address of the prefix.
                all.extend(own.map(|_| guard6::around(at, prefix)));
            }
        }
        false => all.extend(routed::apart(at)),
    }
    all.extend(wall::table(at));
    all
}

/// No guest speaks with the host, whatever address of the host's it knows: the host would take a
/// packet for any of them. What guests are told they may ask for.
pub(super) fn closed(at: &At, spoken: Spoken) -> Vec<Value> {
    let interface = json!({"meta": {"key": "iifname"}});
    let mut all = vec![
        chain(at, "host", "filter", "input", FIRST),
        flush(at, "host"),
    ];
    let drop = json!([matches("==", interface, json!(format!("@{PORTS}"))), {"drop": null}]);
    let rules = spoken.heard().into_iter().chain([drop]);
    all.extend(rules.map(|expr| rule(at, "host", expr)));
    all
}

/// To a neighbour by way of the host, around the ports that are kept apart. Whichever hardware address
/// of the host's a frame is for, the port's own among them, it comes up here.
fn around(at: &At, subnet: Subnet, gateway: Ipv4Addr) -> [Value; 3] {
    let target = || json!({"payload": {"protocol": "ip", "field": "daddr"}});
    let pool = json!({"prefix": {"addr": subnet.network(), "len": subnet.prefix()}});
    let interface = json!({"meta": {"key": "iifname"}});
    let expr = json!([
        matches("==", interface, json!(format!("@{PORTS}"))),
        matches("==", target(), pool),
        matches("!=", target(), json!(gateway)),
        {"drop": null}
    ]);
    [
        chain(at, "around", "filter", "input", FIRST),
        flush(at, "around"),
        rule(at, "around", expr),
    ]
}

/// Most of what guests send needs no more than one look-up. By the frame's own word, as below.
fn usual_packet() -> Value {
    let field =
        |protocol: &str, field: &str| json!({"payload": {"protocol": protocol, "field": field}});
    let meta = |key: &str| json!({"meta": {"key": key}});
    let sender = [
        meta("iifname"),
        field("ether", "saddr"),
        field("ip", "saddr"),
    ];
    json!([
        matches("==", field("ether", "type"), json!("ip")),
        matches("==", meta("l4proto"), json!("tcp")),
        matches("==", json!({"concat": sender}), json!(format!("@{GUESTS}"))),
        {"accept": null}
    ])
}

/// What only a router sends by ICMP of IPv4: that it is one, and that another way is shorter.
pub(super) fn routers() -> Value {
    let kind = json!({"payload": {"protocol": "icmp", "field": "type"}});
    let kinds = json!({"set": ["redirect", "router-advertisement"]});
    json!([matches("==", kind, kinds), {"drop": null}])
}

/// A port gives back what is led back to its guest, and so a guest's broadcasts, which are not for it.
fn echoes() -> impl Iterator<Item = Value> {
    let field =
        |protocol: &str, field: &str| json!({"payload": {"protocol": protocol, "field": field}});
    let senders = [
        field("arp", "saddr ip"),
        field("arp", "daddr ip"),
        field("ip", "saddr"),
    ];
    senders.into_iter().map(move |address| {
        let port = json!({"meta": {"key": "oifname"}});
        let own = json!({"concat": [port, field("ether", "saddr"), address]});
        let kinds = json!({"set": ["broadcast", "multicast"]});
        json!([
            matches("==", json!({"meta": {"key": "pkttype"}}), kinds),
            matches("==", own, json!(format!("@{GUESTS}"))),
            {"drop": null}
        ])
    })
}

/// How many of those are about frames, before any looks at what is in them.
const FRAMES: usize = 2;

/// In the order in which a packet meets them; behind them and those of IPv6 everything is dropped.
fn rules(ipv6: bool) -> impl Iterator<Item = Value> {
    let field =
        |protocol: &str, field: &str| json!({"payload": {"protocol": protocol, "field": field}});
    let interface = || json!({"meta": {"key": "iifname"}});
    let is = |left: Value, right: Value| matches("==", left, right);
    let known = move |mac: Value, address: Value| {
        let sender = json!({"concat": [interface(), mac, address]});
        matches("==", sender, json!(format!("@{GUESTS}")))
    };
    // Both hardware addresses of an ARP packet, and the IP address it speaks for.
    let arp = move |speaks_for: &str, more: Option<Value>| {
        let mut all = vec![
            is(field("arp", "htype"), json!(1)),
            is(field("arp", "ptype"), json!("ip")),
            is(field("arp", "hlen"), json!(6)),
            is(field("arp", "plen"), json!(4)),
        ];
        all.extend(more);
        for mac in [field("ether", "saddr"), field("arp", "saddr ether")] {
            all.push(known(mac, field("arp", speaks_for)));
        }
        all.push(json!({"accept": null}));
        json!(all)
    };
    let nobody = is(field("arp", "saddr ip"), json!("0.0.0.0"));
    let kinds: Vec<&str> = ["ip", "arp"]
        .into_iter()
        .chain(ipv6.then_some("ip6"))
        .collect();
    [
        json!([
            matches("!=", interface(), json!(format!("@{PORTS}"))),
            {"accept": null}
        ]),
        // By the frame's own word: rules that look at the packet also see one inside a VLAN's tag, and
        // the host and other ports take the tag off.
        json!([
            matches("!=", field("ether", "type"), json!({"set": kinds})),
            {"drop": null}
        ]),
        // What only a DHCP server sends. Clients look at the second alone.
        json!([is(field("udp", "sport"), json!(67)), {"drop": null}]),
        json!([is(field("udp", "dport"), json!(68)), {"drop": null}]),
        routers(),
        arp("saddr ip", None),
        // Whether somebody else has its address it may ask.
        arp("daddr ip", Some(nobody)),
        json!([
            known(field("ether", "saddr"), field("ip", "saddr")),
            {"accept": null}
        ]),
    ]
    .into_iter()
}

pub(super) fn set((family, table): &At, name: &str, kind: Value) -> Value {
    let family = family.name();
    json!({"add": {"set": {"family": family, "table": table, "name": name, "type": kind}}})
}

/// Empties a chain, which need not be new.
pub(super) fn flush((family, table): &At, chain: &str) -> Value {
    json!({"flush": {"chain": {"family": family.name(), "table": table, "name": chain}}})
}

/// A guest's elements as the kernel keeps them.
fn elements(lease: &Lease) -> Vec<Element> {
    let mut name = lease.host_interface.as_bytes().to_vec();
    name.resize(NAME_LENGTH, 0);
    // Each part of a key begins at a multiple of four.
    let mut sender = [&name[..], &lease.mac, &[0, 0]].concat();
    sender.extend(lease.address.octets());
    let mut all = vec![Element::new(GUESTS, sender), Element::new(PORTS, name)];
    all.extend(guard6::elements(lease));
    all.extend(traffic::elements(lease));
    all
}

impl Network {
    /// A guest's elements in this network's table.
    fn elements(&self, lease: &Lease) -> Vec<Element> {
        let mut all = elements(lease);
        if self.is_external() {
            all.extend(external::elements(lease));
        }
        if self.served.dhcp {
            all.push(served_rules::client(lease));
        }
        all
    }

    /// Lets a guest send from its interface what its lease says; without this, nothing passes. It may
    /// have been let already. One transaction. Its own rules, and what leads to it from the host, are
    /// looked at if there are to be any.
    ///
    /// # Errors
    /// When the table is gone or the kernel refuses.
    pub fn admit(&self, lease: &Lease, wish: &NetworkWish) -> Result<(), HostError> {
        if self.is_passthrough() {
            return self.lend(lease);
        }
        if !self.holds_back() {
            return Ok(());
        }
        let (family, table) = &self.guard;
        netlink_nft::add_elements(*family, table, &self.elements(lease))?;
        self.announce_one(lease)?;
        if !(wish.forwards.is_empty() && wish.firewall.is_empty() && wish.ceilings.is_none()) {
            let _lock = self.lock_book()?;
            self.as_written()?;
        }
        Ok(())
    }

    /// Keeps a running guest apart, or not; `isolated` is what it says itself. One that was started
    /// without an interface on the bridge has nothing to be changed.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn isolate(&self, lease: &Lease, isolated: Option<bool>) -> Result<(), HostError> {
        let isolated = isolated.unwrap_or(self.isolated_ports);
        let mut kernel = Netlink::open()?;
        if kernel.link(&lease.host_interface)?.is_some() {
            match self.is_routed() {
                true => kernel.set_group(&lease.host_interface, routed::group(isolated))?,
                false => kernel.bind_port(&lease.host_interface, lease.mac, isolated)?,
            }
        }
        Ok(())
    }

    /// The opposite of [`Network::admit`], for an address that is free again; ports and rules follow
    /// from the book. What belongs to what it has `now` as well stays, so that an interface that is
    /// there is never without rules.
    pub(super) fn expel(&self, lease: &Lease, now: Option<&Lease>) -> Result<(), HostError> {
        let (family, table) = &self.guard;
        let kept = now.map(|now| self.elements(now)).unwrap_or_default();
        let gone = self.elements(lease).into_iter();
        for element in gone.filter(|element| !kept.contains(element)) {
            netlink_nft::delete_element(*family, table, &element)?;
        }
        self.silence(lease, now)
    }

    /// Lets all guests that have a lease send, and nobody else: the table is new, or of another pool.
    pub(super) fn admit_all(&self, subnet: Subnet) -> Result<(), HostError> {
        let leased = self.leased(subnet)?;
        let all: Vec<_> = leased.iter().flat_map(|one| self.elements(one)).collect();
        let (family, table) = &self.guard;
        // What one message takes.
        for some in all.chunks(MOST_AT_ONCE) {
            netlink_nft::add_elements(*family, table, some)?;
        }
        for stranger in self.strangers(subnet)? {
            netlink_nft::delete_element(*family, table, &stranger)?;
        }
        let _lock = self.lock_book()?;
        self.wall_as_written(true)?;
        self.as_written()
    }

    /// Elements of the table that no lease accounts for: a command died between the two.
    pub(super) fn strangers(&self, subnet: Subnet) -> Result<Vec<Element>, HostError> {
        let (family, table) = &self.guard;
        let mut there = Vec::new();
        let more = match self.is_external() {
            true => &[external::ADDRESSES, external::ADDRESSES6][..],
            false if self.served.dhcp => &[served_rules::CLIENTS],
            false => &[],
        };
        for set in [PORTS, GUESTS, guard6::GUESTS]
            .into_iter()
            .chain(traffic::SETS)
            .chain(more.iter().copied())
        {
            there.extend(netlink_nft::elements(*family, table, set)?);
        }
        // After the elements: whoever adds one has a lease by then.
        let leased = self.leased(subnet)?;
        let ours: BTreeSet<_> = leased.iter().flat_map(|one| self.elements(one)).collect();
        there.retain(|element| !ours.contains(element));
        Ok(there)
    }

    fn leased(&self, subnet: Subnet) -> Result<Vec<Lease>, FileError> {
        let leases = self.leases()?;
        let lease = |held| self.lease_held(held, subnet);
        Ok(leases.by_guest.values().filter_map(lease).collect())
    }
}

/// Elements in one transaction when all are added; far below what a socket takes.
const MOST_AT_ONCE: usize = 500;
