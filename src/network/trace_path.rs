//! Which hooks of the firewall a traced packet comes by, in order, and which interfaces the rules there
//! see; what of that IPv4 and IPv6 have each for itself. What is decided at each is `trace.rs`.

use std::net::IpAddr;
use std::path::Path;

use super::Network;
use super::files::{self, FileError};
use super::host::{HostError, IP_FORWARD};
use super::lease::Held;
use super::trace::{Asked, Hop, Peer, Question};
use super::trace_words as words;
use crate::kernel::netlink::{Netlink, Way};
use crate::model::{GuestName, Protocol, RuleProtocol};

/// Whether rules of routed packets see what a bridge passes on, of IPv4 and IPv6.
const BRIDGED_TOO: [&str; 2] = [
    "/proc/sys/net/bridge/bridge-nf-call-iptables",
    "/proc/sys/net/bridge/bridge-nf-call-ip6tables",
];
/// Families of rules that either meets where the host routes it.
const ROUTED: [[&str; 2]; 2] = [["ip", "inet"], ["ip6", "inet"]];
/// Tables of the old kind, which `nft` does not show.
const OLD_TABLES: [&str; 2] = ["/proc/net/ip_tables_names", "/proc/net/ip6_tables_names"];
const IPV6_FORWARDING: &str = "/proc/sys/net/ipv6/conf/all/forwarding";
/// Where they see it.
pub(super) const BRIDGED_AT: &str = "host, though bridged";
const BRIDGED: [&str; 1] = ["bridge"];
/// Rules of one interface, before anything else sees what comes in by it.
const FIRST_OF_ALL: [&str; 1] = ["netdev"];

impl Asked<'_> {
    pub(super) fn is_ipv6(&self) -> bool {
        self.question.peer.is_ipv6()
    }

    /// The guest's address of the packet's version, which it has.
    pub(super) fn own(&self) -> IpAddr {
        let six = self.lease.ipv6.as_ref().filter(|_| self.is_ipv6());
        six.map_or(self.lease.address.into(), |six| six.address.into())
    }
}

impl Network {
    /// Where the port of the host leads that a packet asks for, by the book of this network; `None` for
    /// one that IPv6 does not lead here.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn led_by(&self, question: Question) -> Result<Option<(GuestName, u16)>, FileError> {
        let Some(protocol) = with_ports(question.protocol) else {
            return Ok(None);
        };
        if question.peer.is_ipv6() && self.prefix6.is_none() {
            return Ok(None);
        }
        let leads = |(guest, held): (&GuestName, &Held)| {
            let mut all = held.forwards.iter().filter(|one| one.protocol == protocol);
            let port = all.find_map(|one| one.ports().find(|(host, _)| *host == question.port));
            port.map(|(_, inside)| (guest.clone(), inside))
        };
        Ok(self.leases()?.by_guest.iter().find_map(leads))
    }

    /// What is wrong with the host's way to the guest, by which answers come, or packets at all.
    pub(super) fn way_back(&self, asked: &Asked<'_>) -> Result<Option<Hop>, HostError> {
        if self.is_closed() {
            return Ok(None);
        }
        let mut kernel = Netlink::open()?;
        let inside = match self.is_routed() {
            true => &asked.lease.host_interface,
            false => &self.bridge,
        };
        let index = kernel.link(inside)?.map(|link| link.index);
        match kernel.way_to(asked.own())? {
            Way::Over { interface, .. } if Some(interface) == index => Ok(None),
            _ => Ok(Some(words::astray(asked, inside))),
        }
    }

    /// Whether a port of the host leads to the guest's, by the book.
    pub(super) fn leads_to(&self, asked: &Asked<'_>) -> Result<bool, FileError> {
        let question = asked.question;
        let Some(protocol) = with_ports(question.protocol) else {
            return Ok(false);
        };
        let leases = self.leases()?;
        let forwards = leases.forwards(asked.guest).iter();
        let mut forwards = forwards.filter(|one| one.protocol == protocol);
        Ok(forwards.any(|one| one.ports().any(|(_, guest)| guest == question.port)))
    }

    /// The hooks that the packet comes by.
    pub(super) fn stops(&self, asked: &Asked<'_>, peer: &Peer) -> Result<Vec<Stop>, FileError> {
        let port = asked.lease.host_interface.as_str();
        let bridge = self.bridge.as_str();
        let incoming = asked.question.incoming;
        let routed = self.is_routed();
        let six = asked.question.peer.is_ipv6();
        let families = &ROUTED[usize::from(six)];
        let over = |peer: &Peer| match peer {
            Peer::Beyond(interface) => interface.clone(),
            Peer::Neighbour { lease, .. } => lease.host_interface.clone(),
            Peer::Host => String::new(),
        };
        let other = over(peer);
        let (first, last) = match incoming {
            true => (other.as_str(), port),
            false => (port, other.as_str()),
        };
        let switched = !routed
            && (matches!(peer, Peer::Neighbour { .. })
                || (self.is_external() && matches!(peer, Peer::Beyond(_))));
        if switched {
            return Self::switched(first, last, bridge, six);
        }
        // Where guests are on a bridge, that is the interface which the host routes by.
        let inside = if routed { port } else { bridge };
        let mut all = Vec::new();
        if !incoming && !routed {
            all.push(Stop::new("guard", &BRIDGED, "prerouting", port, ""));
            all.push(Stop::new("to the host", &BRIDGED, "input", port, ""));
        }
        let (from, to) = match incoming {
            true => (other.as_str(), inside),
            false => (inside, other.as_str()),
        };
        match (peer, incoming) {
            (Peer::Host, true) => all.push(Stop::new("host sends", families, "output", "", to)),
            (Peer::Host, false) => {
                let guard = if routed { "guard" } else { "host" };
                all.push(Stop::new(guard, families, "prerouting", from, ""));
                all.push(Stop::new("host takes in", families, "input", from, ""));
                return Ok(all);
            }
            _ => {
                let at = if routed && !incoming { "guard" } else { "host" };
                all.push(Stop::new(at, families, "prerouting", from, ""));
                let mut forward = Stop::new("host passes on", families, "forward", from, to);
                forward.passed_on = true;
                all.push(forward);
            }
        }
        all.push(Stop::new("host sends on", families, "postrouting", "", to));
        if incoming && !routed {
            all.push(Stop::new("bridge", &BRIDGED, "output", "", port));
            all.push(Stop::new("to its port", &BRIDGED, "postrouting", "", port));
        }
        Ok(all)
    }

    /// The same where a bridge takes it from one port to another.
    fn switched(from: &str, to: &str, bridge: &str, six: bool) -> Result<Vec<Stop>, FileError> {
        let mut all = vec![
            Stop::new("guard", &BRIDGED, "prerouting", from, ""),
            Stop::new("bridge", &BRIDGED, "forward", from, to),
        ];
        if bridged_too(six)? {
            all.push(Stop::new(
                BRIDGED_AT,
                &ROUTED[usize::from(six)],
                "forward",
                bridge,
                bridge,
            ));
        }
        all.push(Stop::new("to the port", &BRIDGED, "postrouting", from, to));
        Ok(all)
    }
}

/// Where rules of one interface alone see what comes in by it.
pub(super) fn ingress(from: &str) -> Stop {
    Stop::new("interface", &FIRST_OF_ALL, "ingress", from, "")
}

fn with_ports(protocol: RuleProtocol) -> Option<Protocol> {
    match protocol {
        RuleProtocol::Tcp => Some(Protocol::Tcp),
        RuleProtocol::Udp => Some(Protocol::Udp),
        RuleProtocol::Icmp => None,
    }
}

/// Whether rules of routed packets see what a bridge passes on.
pub(super) fn bridged_too(six: bool) -> Result<bool, FileError> {
    let setting = Path::new(BRIDGED_TOO[usize::from(six)]);
    Ok(files::read_sysctl(setting)?.as_deref() == Some("1"))
}

/// Whether the host passes on what it routes of the packet's version.
pub(super) fn passes_on(asked: &Asked<'_>) -> Result<bool, FileError> {
    let setting = match asked.is_ipv6() {
        true => IPV6_FORWARDING,
        false => IP_FORWARD,
    };
    Ok(files::read_sysctl(Path::new(setting))?.as_deref() == Some("1"))
}

/// Names of tables of the old kind.
pub(super) fn old_tables(ipv6: bool) -> Result<String, FileError> {
    let names = files::read_bytes(Path::new(OLD_TABLES[usize::from(ipv6)]), 4096)?;
    let names = String::from_utf8_lossy(&names.unwrap_or_default()).into_owned();
    Ok(names.split_whitespace().collect::<Vec<_>>().join(", "))
}

/// A hook, with the interfaces that rules there see.
pub(super) struct Stop {
    pub(super) at: &'static str,
    pub(super) families: &'static [&'static str],
    pub(super) hook: &'static str,
    pub(super) from: String,
    pub(super) to: String,
    /// Whether the host has to pass packets on for it.
    pub(super) passed_on: bool,
}

impl Stop {
    fn new(
        at: &'static str,
        families: &'static [&'static str],
        hook: &'static str,
        from: &str,
        to: &str,
    ) -> Self {
        Self {
            at,
            families,
            hook,
            from: from.to_owned(),
            to: to.to_owned(),
            passed_on: false,
        }
    }
}
