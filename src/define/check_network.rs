//! What no guest may ask of the network. The other settings are next door in `check`, which asks here.

use std::net::IpAddr;

use super::check::Found;
use super::nic;
use crate::model::{AllowanceClass, Bytes, Guest, NetworkWish, Rate};

/// resolv.conf(5): the resolver library looks at no more.
const MOST_NAME_SERVERS: usize = 3;
/// With less, one packet takes a fifth of a second.
pub(super) const SLOWEST: Rate = Rate::SLOWEST;
/// The kernel counts bytes a second in 32 bits.
pub(super) const FASTEST: Rate = Rate::FASTEST;
/// A few hundred packets more a second would be noticed.
pub(super) const MOST_RULES: usize = 128;
/// With fewer, a connection that stands is as good as none.
pub(super) const FEWEST_PACKETS: u32 = 10;
/// More than a network card passes, or a host keeps track of.
pub(super) const MOST_COUNTED: u32 = 100_000_000;
/// Each is two entries in the kernel's tables.
const MOST_PORTS: u32 = 1000;
/// Two packets; more than a gigabyte at once is no rate.
pub(super) const BURST: (Bytes, Bytes) = (Bytes(4 << 10), Bytes(1 << 30));

pub(super) fn network(guest: &Guest, found: &mut Found) {
    let network = &guest.network;
    if let Some(address) = network.address {
        if !network.kind.has_address() {
            found.add(
                "network.address",
                "needs the network kind bridge, or a network's name: another has no address of its own",
            );
        } else if let Some(why) = no_address(address.into()) {
            found.add("network.address", why);
        }
    }
    if let Some(address) = network.address6 {
        if !network.kind.has_address() {
            found.add(
                "network.address6",
                "needs the network kind bridge, or a network's name: another has no address of its own",
            );
        } else if let Some(why) = no_address(address.into()) {
            found.add("network.address6", why);
        }
    }
    if network.mac.is_some() && !network.kind.has_address() {
        found.add(
            "network.mac",
            "needs the network kind bridge, or a network's name: another has no interface of its own",
        );
    }
    nic::check(network, found);
    if network.isolated_ports == Some(true) && !network.kind.has_address() {
        found.add(
            "network.isolated_ports",
            "needs the network kind bridge, or a network's name: another has no port",
        );
    }
    for server in &network.dns {
        if server.is_unspecified() || server.is_multicast() {
            found.add("network.dns", format!("{server} cannot be a name server"));
        }
    }
    if network.dns.len() > MOST_NAME_SERVERS {
        found.add(
            "network.dns",
            format!("more than {MOST_NAME_SERVERS} name servers: no program asks the others"),
        );
    }
    if !network.firewall.is_empty() && !network.kind.has_address() {
        found.add(
            "network.firewall",
            "needs the network kind bridge, or a network's name: another has no port to stand at",
        );
    }
    if network.firewall.len() > MOST_RULES {
        found.add(
            "network.firewall",
            format!("more than {MOST_RULES} rules: every packet meets them all"),
        );
    }
    rates(network, found);
    ceilings(network, found);
    forwards(network, found);
    allowance(network, found);
}

/// Why no interface can have that address.
pub(super) fn no_address(address: IpAddr) -> Option<String> {
    // Of the link every interface has one by itself.
    let of_link = matches!(address, IpAddr::V6(six) if six.is_unicast_link_local());
    let none =
        address.is_unspecified() || address.is_loopback() || address.is_multicast() || of_link;
    none.then(|| format!("{address} cannot be the address of an interface"))
}

fn allowance(network: &NetworkWish, found: &mut Found) {
    let allowance = &network.allowance;
    let has = |what: bool, key, found: &mut Found| {
        if what && !network.kind.has_address() {
            found.add(
                key,
                "needs the network kind bridge, or a network's name: the traffic of another is not counted",
            );
        }
    };
    has(allowance.bytes.is_some(), "network.allowance", found);
    has(allowance.cut.is_some(), "network.allowance_cut", found);
    if allowance.class != AllowanceClass::All && !allowance.is_some() {
        found.add(
            "network.allowance_class",
            "needs network.allowance or network.allowance_cut",
        );
    }
    found.range("network.allowance_day", &allowance.day, &1, &31);
    if let Some(rate) = &allowance.rate {
        found.range("network.allowance_rate", rate, &SLOWEST, &FASTEST);
        if allowance.bytes.is_none() {
            found.add("network.allowance_rate", "needs network.allowance");
        }
    }
    if let (Some(bytes), Some(cut)) = (allowance.bytes, allowance.cut)
        && cut < bytes
    {
        found.add(
            "network.allowance_cut",
            format!("{cut} is less than network.allowance, {bytes}"),
        );
    }
}

fn ceilings(network: &NetworkWish, found: &mut Found) {
    let ceilings = &network.ceilings;
    let alone = !network.kind.has_address() && network.nics.is_empty();
    if !ceilings.urgency.is_normal() && alone {
        found.add(
            "network.priority",
            "needs the network kind bridge, or a network's name: nothing of another goes before or behind",
        );
    }
    let part = network.part_of_ceilings();
    for (key, count, part, least) in [
        (
            "network.packets",
            ceilings.packets,
            part.packets,
            FEWEST_PACKETS,
        ),
        (
            "network.new_connections",
            ceilings.new_connections,
            part.new_connections,
            1,
        ),
        (
            "network.connections",
            ceilings.connections,
            part.connections,
            1,
        ),
    ] {
        match count {
            Some(_) if !network.kind.has_address() => found.add(
                key,
                "needs the network kind bridge, or a network's name: nothing of another is counted",
            ),
            Some(count) if count >= least && part < Some(least) => found.add(
                key,
                format!("is for all interfaces together, and leaves fewer than {least} for each that has none of its own"),
            ),
            Some(count) => found.range(key, &count, &least, &MOST_COUNTED),
            None => {}
        }
    }
}

fn forwards(network: &NetworkWish, found: &mut Found) {
    const KEY: &str = "network.forward";
    let all = &network.forwards;
    if !all.is_empty() && !network.kind.has_address() {
        found.add(
            KEY,
            "needs the network kind bridge, or a network's name: another has no address that a port could lead to",
        );
    }
    for (at, one) in all.iter().enumerate() {
        if let Some(other) = all[..at].iter().find(|other| other.meets(one)) {
            found.add(
                KEY,
                format!("{one} and {other} want the same port of the host"),
            );
        }
    }
    let ports: u32 = all.iter().map(|one| u32::from(one.count)).sum();
    if ports > MOST_PORTS {
        found.add(
            KEY,
            format!("{ports} ports are more than the {MOST_PORTS} that may lead to a guest"),
        );
    }
}

fn rates(network: &NetworkWish, found: &mut Found) {
    let bridge = network.kind.has_address();
    for (key, rate) in [
        ("network.rate_in", network.rate_in),
        ("network.rate_out", network.rate_out),
    ] {
        match rate {
            Some(_) if !bridge => {
                found.add(
                    key,
                    "needs the network kind bridge, or a network's name: another has no rate",
                );
            }
            Some(rate) => found.range(key, &rate, &SLOWEST, &FASTEST),
            None => {}
        }
    }
    for (key, burst, rate, needs) in [
        (
            "network.burst_in",
            network.burst_in,
            network.rate_in,
            "network.rate_in",
        ),
        (
            "network.burst_out",
            network.burst_out,
            network.rate_out,
            "network.rate_out",
        ),
    ] {
        match burst {
            Some(_) if rate.is_none() => found.add(key, format!("needs {needs}")),
            Some(burst) => found.range(key, &burst, &BURST.0, &BURST.1),
            None => {}
        }
    }
}
