//! Ports of the host that lead to guests. The rules are the same for all and written once, with the
//! table of family inet; which port leads where are elements of its maps, so neither a start nor a
//! change writes a rule. Who has which port is in the book of leases: elements follow from it and
//! stay as long as the guest has the port, whether it runs or not.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use serde_json::{Value, json};

use super::Network;
use super::files::FileError;
use super::firewall::{At, chain, matches, rule};
use super::host::HostError;
use super::lease::{LeaseError, Leases};
use super::served_rules::NAMES;
use crate::kernel::listening;
use crate::kernel::netlink::NetlinkError;
use crate::kernel::netlink_nft::{self, Element, Family, set_exists, table_exists};
use crate::model::{Forward, GuestName, NetworkWish, Protocol};

/// NF_IP_PRI_NAT_DST.
pub(super) const DESTINATION: i32 = -100;
/// Changes of the kernel's maps in one transaction; far below what a socket takes.
const MOST_AT_ONCE: usize = 500;

/// The maps of a protocol: port of the host to address, and to port of the guest.
fn maps(protocol: Protocol) -> [String; 2] {
    ["address", "port"].map(|what| format!("{protocol}_{what}"))
}

/// The map of a protocol for IPv6; ports are the same.
fn map6(protocol: Protocol) -> String {
    format!("{protocol}_address6")
}

/// What leads packets to guests: those from outside and from guests, and the host's own.
pub(super) fn table(at: &At, ipv6: bool) -> Vec<Value> {
    let (family, table) = at;
    let mut all = Vec::new();
    for protocol in Protocol::ALL {
        let six = ipv6.then(|| (map6(protocol), "ipv6_addr"));
        let both = maps(protocol)
            .into_iter()
            .zip(["ipv4_addr", "inet_service"]);
        for (name, kind) in both.chain(six) {
            all.push(json!({"add": {"map": {
                "family": family.name(), "table": table, "name": name,
                "type": "inet_service", "map": kind
            }}}));
        }
    }
    for hook in ["prerouting", "output"] {
        all.push(chain(at, hook, "nat", hook, DESTINATION));
        for protocol in Protocol::ALL {
            all.push(rule(at, hook, lead(protocol)));
            all.extend(ipv6.then(|| rule(at, hook, lead6(protocol))));
        }
    }
    all
}

/// To an address of the host, but for that which only itself has.
fn lead(protocol: Protocol) -> Value {
    let port = json!({"payload": {"protocol": protocol.name(), "field": "dport"}});
    let [address, to] =
        maps(protocol).map(|map| json!({"map": {"key": port, "data": format!("@{map}")}}));
    let destination = json!({"payload": {"protocol": "ip", "field": "daddr"}});
    let kind = json!({"fib": {"result": "type", "flags": ["daddr"]}});
    json!([
        matches("==", json!({"meta": {"key": "nfproto"}}), json!("ipv4")),
        matches("==", kind, json!("local")),
        matches("!=", destination, json!({"prefix": {"addr": "127.0.0.0", "len": 8}})),
        {"dnat": {"family": "ip", "addr": address, "port": to}}
    ])
}

/// The same of IPv6.
fn lead6(protocol: Protocol) -> Value {
    let port = json!({"payload": {"protocol": protocol.name(), "field": "dport"}});
    let [_, ports] = maps(protocol);
    let [address, to] =
        [map6(protocol), ports].map(|map| json!({"map": {"key": port, "data": format!("@{map}")}}));
    let destination = json!({"payload": {"protocol": "ip6", "field": "daddr"}});
    let kind = json!({"fib": {"result": "type", "flags": ["daddr"]}});
    json!([
        matches("==", json!({"meta": {"key": "nfproto"}}), json!("ipv6")),
        matches("==", kind, json!("local")),
        matches("!=", destination, json!("::1")),
        {"dnat": {"family": "ip6", "addr": address, "port": to}}
    ])
}

/// What the book says, as the kernel keeps it; `ipv6` tells a guest's other address, if the kernel is to
/// lead there as well.
fn elements(leases: &Leases, ipv6: impl Fn(Ipv4Addr) -> Option<Ipv6Addr>) -> BTreeSet<Element> {
    let mut all = BTreeSet::new();
    for (forward, address) in leases.all_forwards() {
        let [addresses, ports] = maps(forward.protocol);
        let six = ipv6(address);
        for (host, guest) in forward.ports() {
            let of = |map: &str| Element::new(map, host.to_be_bytes().to_vec());
            all.extend(
                six.map(|six| of(&map6(forward.protocol)).with_value(six.octets().to_vec())),
            );
            all.insert(of(&addresses).with_value(address.octets().to_vec()));
            all.insert(of(&ports).with_value(guest.to_be_bytes().to_vec()));
        }
    }
    all
}

/// What an element is about, as doctor shows it.
pub(super) fn shown(element: &Element) -> Option<String> {
    let of = |protocol: &Protocol| {
        let mut maps = maps(*protocol).into_iter().chain([map6(*protocol)]);
        maps.any(|map| map == element.set())
    };
    let protocol = Protocol::ALL.into_iter().find(of)?;
    let port = u16::from_be_bytes(element.key().try_into().ok()?);
    Some(format!("{protocol} port {port}"))
}

impl Network {
    /// Leads the ports of the host to a guest that its definition names, and no others, and keeps it to
    /// the rules of its firewall. One that has no address yet gets all that with its address.
    ///
    /// # Errors
    /// When another guest or a program of the host has one of them, or a file or the kernel fails.
    /// Nothing is changed then.
    pub fn follow(&self, guest: &GuestName, wish: &NetworkWish) -> Result<(), LeaseError> {
        let lock = self.lock_book()?;
        let before = self.leases()?;
        if before.get(guest).is_none() {
            return Ok(());
        }
        self.change(&lock, |leases| {
            self.give_wall(leases, guest, wish)?;
            self.give_ports(leases, guest, &wish.forwards)
        })?;
        let done = self.as_written();
        if done.is_err() {
            // The error that matters is the kernel's.
            let _same = self.change(&lock, |leases| {
                leases.wall(guest, before.rules(guest), before.ceilings_of(guest));
                leases.lead(guest, before.forwards(guest))
            });
            let _same = self.as_written();
        }
        done.map_err(|error| Box::new(error).into())
    }

    /// Puts ports of the host down for a guest, those it does not have yet only when nobody listens
    /// there.
    pub(super) fn give_ports(
        &self,
        leases: &mut Leases,
        guest: &GuestName,
        wanted: &[Forward],
    ) -> Result<(), LeaseError> {
        let had = leases.forwards(guest).to_vec();
        if had == wanted {
            return Ok(());
        }
        leases.lead(guest, wanted)?;
        if let (false, Some(wanted)) = (self.nat, wanted.first().copied()) {
            let guest = guest.clone();
            let network = self.word().to_owned();
            return Err(LeaseError::NoNat {
                network,
                guest,
                wanted,
            });
        }
        for protocol in Protocol::ALL {
            let new = |one: &&Forward| one.protocol == protocol && !had.contains(one);
            let mut new = wanted.iter().filter(new).peekable();
            if new.peek().is_none() {
                continue;
            }
            let busy = listening::sockets(protocol).map_err(|e| Box::new(HostError::from(e)))?;
            let told = self.told_at()?;
            let own = |(address, port): &(Ipv4Addr, u16)| *port == NAMES && told.contains(address);
            let busy = busy.into_iter().filter(|one| !own(one));
            let busy: BTreeSet<u16> = busy.map(|(_, port)| port).collect();
            let port = |one: &Forward| one.ports().find(|(port, _)| busy.contains(port));
            if let Some((wanted, (port, _))) = new.find_map(|one| Some((*one, port(one)?))) {
                return Err(LeaseError::PortBusy {
                    guest: guest.clone(),
                    wanted,
                    protocol,
                    port,
                });
            }
        }
        Ok(())
    }

    /// Makes the firewall what the book says of guests, where there is one. The book's lock is held.
    pub(super) fn as_written(&self) -> Result<(), HostError> {
        self.wall_as_written(false)?;
        self.ceilings_as_written()?;
        self.urgency_as_written()?;
        self.lead_as_written()
    }

    /// Makes the kernel's maps what the book says, where there are maps. The book's lock is held.
    fn lead_as_written(&self) -> Result<(), HostError> {
        let table = &self.table;
        if !table_exists(Family::Inet, table)? {
            return Ok(());
        }
        let wanted = self.to_lead()?;
        let there = self.led()?;
        let old: Vec<_> = there.difference(&wanted).cloned().collect();
        let new: Vec<_> = wanted.difference(&there).cloned().collect();
        if old.len() + new.len() <= MOST_AT_ONCE {
            netlink_nft::exchange(Family::Inet, table, &old, &new)?;
            return Ok(());
        }
        for some in old.chunks(MOST_AT_ONCE) {
            netlink_nft::exchange(Family::Inet, table, some, &[])?;
        }
        for some in new.chunks(MOST_AT_ONCE) {
            netlink_nft::exchange(Family::Inet, table, &[], some)?;
        }
        Ok(())
    }

    /// Ports that the kernel leads where the book does not say, or does not lead where it says: a
    /// command died between the two.
    pub(super) fn astray(&self) -> Result<Vec<Element>, HostError> {
        if !table_exists(Family::Inet, &self.table)? {
            return Ok(Vec::new());
        }
        // Whoever is between the two holds it.
        let _lock = self.lock_book()?;
        let (there, wanted) = (self.led()?, self.to_lead()?);
        let mut all: Vec<_> = there.symmetric_difference(&wanted).cloned().collect();
        // One that leads elsewhere is in both.
        all.dedup_by(|one, other| (one.set(), one.key()) == (other.set(), other.key()));
        Ok(all)
    }

    /// Whether none of these ports of the host leads to another guest of this network.
    ///
    /// # Errors
    /// One does, or the book cannot be read.
    pub fn check_ports(&self, guest: &GuestName, wanted: &[Forward]) -> Result<(), LeaseError> {
        self.leases()?.check_free(guest, wanted)
    }

    /// What a guest has by the book: address, ports of the host, rules. `None` if it has no address.
    ///
    /// # Errors
    /// When the book cannot be read.
    pub fn held(&self, guest: &GuestName) -> Result<Option<NetworkWish>, FileError> {
        let leases = self.leases()?;
        let address = leases.get(guest);
        Ok(address.map(|address| NetworkWish {
            interface: leases.by_guest.get(guest).and_then(|held| held.nic.clone()),
            mac: leases.by_guest.get(guest).and_then(|held| held.mac),
            address6: leases.by_guest.get(guest).and_then(|held| held.address6),
            address: Some(address),
            forwards: leases.forwards(guest).to_vec(),
            firewall: leases.rules(guest).to_vec(),
            ceilings: leases.ceilings_of(guest),
            ..NetworkWish::default()
        }))
    }

    /// What the book says; of IPv6 only where the table has room for it.
    fn to_lead(&self) -> Result<BTreeSet<Element>, HostError> {
        let (leases, subnet) = (self.leases()?, self.known_subnet()?);
        let room = set_exists(Family::Inet, &self.table, &map6(Protocol::Tcp))?;
        let subnet = subnet.filter(|_| room);
        Ok(elements(&leases, |address| {
            let mut held = leases.by_guest.values();
            let held = held.find(|held| held.address == address)?;
            Some(self.lease_held(held, subnet?)?.ipv6?.address)
        }))
    }

    fn led(&self) -> Result<BTreeSet<Element>, NetlinkError> {
        let table = &self.table;
        let mut there = BTreeSet::new();
        for map in Protocol::ALL
            .into_iter()
            .flat_map(|one| maps(one).into_iter().chain([map6(one)]))
        {
            there.extend(netlink_nft::elements(Family::Inet, table, &map)?);
        }
        Ok(there)
    }
}
