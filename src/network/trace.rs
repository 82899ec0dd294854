//! Why a packet does or does not pass: every place it comes by on its way from or to a guest, in order,
//! with what is decided there. What is there is asked of the kernel; the definition says only what to
//! do about it. What rules do to a packet is `ruleset.rs`, the words for it `trace_words.rs`.

use std::net::IpAddr;
use std::os::fd::BorrowedFd;

use serde::Serialize;

use super::host::HostError;
use super::ruleset::{Outcome, Packet, Ruleset};
use super::trace_path::{BRIDGED_AT, Stop, ingress, old_tables, passes_on};
use super::trace_words as words;
use super::{Kind, Lease, Network, interface_of, routed};
use crate::kernel::netlink::{Link, Netlink, Way};
use crate::model::{GuestName, NetworkWish, RuleProtocol};

/// A packet to be followed: the first of a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// Whether it is for the guest; else from it.
    pub incoming: bool,
    /// What runs over it; ICMP is an echo request.
    pub protocol: RuleProtocol,
    /// The other end.
    pub peer: IpAddr,
    /// Port of who is called, with TCP and UDP.
    pub port: u16,
}

/// What is decided at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It goes on.
    Passes,
    /// It ends here.
    Stops,
    /// That depends on what cannot be told.
    MayStop,
    /// It goes on, but changed or slower.
    Note,
}

/// A place that it comes by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Hop {
    /// Where, in a word or two.
    pub at: String,
    /// What is decided.
    pub verdict: Verdict,
    /// Why.
    pub why: String,
    /// What would help.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

impl Hop {
    /// A place with what is decided there.
    #[must_use]
    pub fn new(at: &str, verdict: Verdict, why: impl Into<String>) -> Self {
        Self {
            at: at.to_owned(),
            verdict,
            why: why.into(),
            advice: None,
        }
    }

    /// The same with what would help.
    #[must_use]
    pub fn advise(self, advice: impl Into<String>) -> Self {
        Self {
            advice: Some(advice.into()),
            ..self
        }
    }
}

/// The other end, as the host sees it.
#[derive(Debug)]
pub(super) enum Peer {
    Host,
    Neighbour {
        guest: GuestName,
        lease: Box<Lease>,
    },
    /// Over an interface of the host's; of a bridge that is somebody else's, by no name that we know.
    Beyond(String),
}

/// What is asked, and of whom.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The guest, which runs.
    pub guest: &'a GuestName,
    /// Its address.
    pub lease: &'a Lease,
    /// What of its definition is in force.
    pub wish: &'a NetworkWish,
    /// Whether its allowance is used up.
    pub cut: bool,
    /// The guest, and the port of it, that the port of the host leads to that is asked for.
    pub led: Option<(&'a GuestName, u16)>,
    /// The packet.
    pub question: Question,
}

impl Network {
    /// Follows a packet of a running guest's. `inside` is the guest's network namespace; the calling
    /// process must have one thread.
    ///
    /// # Errors
    /// When the kernel or `nft` does not tell. That a packet does not pass is none.
    pub fn trace(&self, asked: &Asked<'_>, inside: BorrowedFd<'_>) -> Result<Vec<Hop>, HostError> {
        let question = asked.question;
        if question.peer.is_ipv6() && asked.lease.ipv6.is_none() {
            return Ok(vec![words::no_ipv6(self, asked.guest)]);
        }
        let mut kernel = Netlink::open()?;
        let own = self.look_inside(asked, inside)?;
        if self.is_passthrough() {
            // From there on it is the wire's matter.
            return Ok(own);
        }
        if !self.holds_back() {
            let mut hops = own;
            hops.push(words::on_the_wire(
                asked,
                kernel.link(&self.bridge)?,
                &self.bridge,
            ));
            let last = hops.iter().position(|hop| hop.verdict == Verdict::Stops);
            hops.truncate(last.map_or(hops.len(), |last| last + 1));
            return Ok(hops);
        }
        let rules = Ruleset::read()?;
        let mut hops = Vec::new();
        if !question.incoming {
            hops.extend(own.clone());
        }
        match self.peer(asked, &mut kernel)? {
            Ok(peer) => {
                let end = self.host_end(asked, &mut kernel)?;
                let between = self.between(asked, &peer, &rules)?;
                // A port whose other end is down is shut off by that.
                let cause = own.first().is_some_and(|hop| hop.verdict == Verdict::Stops);
                match question.incoming {
                    true => hops.extend(between.into_iter().chain((!cause).then_some(end))),
                    false => hops.extend([end].into_iter().chain(between)),
                }
            }
            Err(nowhere) => hops.push(nowhere),
        }
        if question.incoming {
            hops.extend(own);
        }
        // What comes behind the place where it ends does not happen.
        if let Some(last) = hops.iter().position(|hop| hop.verdict == Verdict::Stops) {
            hops.truncate(last + 1);
        }
        Ok(hops)
    }

    /// What the guest's own root has made of its interface.
    fn look_inside(
        &self,
        asked: &Asked<'_>,
        inside: BorrowedFd<'_>,
    ) -> Result<Vec<Hop>, HostError> {
        let mut there = Netlink::open_in(inside)?;
        let link = there.link(interface_of(asked.lease))?;
        // One of the host's is lent with the hardware address that it has.
        let mut hops = vec![words::interface(
            asked,
            link.as_ref(),
            self.is_passthrough(),
        )];
        let Some(link) = link else {
            return Ok(hops);
        };
        let addresses = there.ip_of(link.index, asked.is_ipv6())?;
        hops.push(words::address(asked, &addresses));
        let way = there.way_to(asked.question.peer)?;
        let gateway = match asked.is_ipv6() {
            true => asked
                .lease
                .ipv6
                .as_ref()
                .and_then(|six| six.gateway)
                .map(IpAddr::V6),
            false => self.gateway(asked.lease).map(IpAddr::V4),
        };
        hops.push(words::way_out(asked, way, link.index, gateway));
        Ok(hops)
    }

    /// The host's end of its interface, and where that is plugged in.
    fn host_end(&self, asked: &Asked<'_>, kernel: &mut Netlink) -> Result<Hop, HostError> {
        let bridge = kernel.link(&self.bridge)?;
        let end = kernel.link(&asked.lease.host_interface)?;
        let plugged = |end: &Link| match self.kind {
            Kind::Routed => true,
            _ => bridge.as_ref().is_some_and(|b| end.master == Some(b.index)),
        };
        let name = &asked.lease.host_interface;
        let on = match self.kind {
            Kind::Routed => String::new(),
            _ => format!(" on the bridge {}", self.bridge),
        };
        let stops = |why: String| Hop::new("its port", Verdict::Stops, why);
        Ok(match end {
            None => match self.renamed()?.into_iter().find(|one| one.was == *name) {
                Some(other) => Hop::new("its port", Verdict::Note, words::unnamed(&other))
                    .advise("bulkhead network reload"),
                None => stops(format!("the host's end of its interface, {name}, is gone"))
                    .advise(format!("bulkhead restart {}", asked.guest)),
            },
            Some(end) if !end.up => {
                stops(format!("{name} is down")).advise(format!("ip link set {name} up"))
            }
            Some(_) if bridge.as_ref().is_some_and(|bridge| !bridge.up) && !self.is_routed() => {
                stops(format!("its bridge {} is down", self.bridge)).advise(
                    match self.is_external() {
                        true => format!("ip link set {} up", self.bridge),
                        false => "bulkhead network reload".to_owned(),
                    },
                )
            }
            Some(end) if !plugged(&end) => stops(format!("{name} is not{on}"))
                .advise(format!("ip link set {name} master {}", self.bridge)),
            Some(_) if kernel.is_shut_off(name)? => stops(format!(
                "the bridge takes nothing from {name}: the port is shut off"
            ))
            .advise(format!("bridge link set dev {name} state 3")),
            Some(_) => Hop::new("its port", Verdict::Passes, format!("{name} is up{on}")),
        })
    }

    /// Who is at the other end, or why nobody is.
    fn peer(
        &self,
        asked: &Asked<'_>,
        kernel: &mut Netlink,
    ) -> Result<Result<Peer, Hop>, HostError> {
        let address = asked.question.peer;
        let nobody = |why: String| Hop::new("other end", Verdict::Stops, why);
        if address == asked.own() {
            return Ok(Err(nobody(format!("{address} is {} itself", asked.guest))));
        }
        let way = kernel.way_to(address)?;
        let subnet = self.known_subnet()?;
        if way == Way::Here && self.asks_host_at(address, subnet) {
            return Ok(Ok(Peer::Host));
        }
        // What the guest sends may be led by other rules than what the host does.
        let inside = match self.is_routed() {
            true => &asked.lease.host_interface,
            false => &self.bridge,
        };
        let passed = !(asked.question.incoming || self.is_closed() || self.is_external());
        let (own_way, mut way) = (way, way);
        // Where the way back is not whole the kernel leads nothing on, and that is what there is to say.
        let passed = passed && passes_on(asked)? && self.way_back(asked)?.is_none();
        if let (true, Some(link)) = (passed, kernel.link(inside)?) {
            way = kernel.way_on(address, asked.own(), link.index)?;
        }
        let leases = self.leases()?;
        let held = leases.by_guest.iter();
        let mut held =
            held.filter_map(|(name, held)| Some((name, self.lease_held(held, subnet?)?)));
        let has = |lease: &Lease| match address {
            IpAddr::V4(four) => lease.address == four,
            IpAddr::V6(six) => lease.ipv6.as_ref().is_some_and(|own| own.address == six),
        };
        if let Some((guest, lease)) = held.find(|(_, lease)| has(lease)) {
            let (guest, lease) = (guest.clone(), Box::new(lease));
            return Ok(Ok(Peer::Neighbour { guest, lease }));
        }
        let within = match address {
            IpAddr::V4(four) => subnet.is_some_and(|subnet| subnet.contains(four)),
            IpAddr::V6(six) => self.prefix6.is_some_and(|prefix| prefix.overlaps(six, 128)),
        };
        let network = self.word();
        Ok(match way {
            _ if self.is_external() => Ok(Peer::Beyond(String::new())),
            _ if within => Err(
                nobody(format!("no guest of the network {network} has {address}"))
                    .advise(format!("bulkhead network info {network}")),
            ),
            _ if self.is_closed() => Err(nobody(format!(
                "{network} is an isolated network: its guests reach each other and nothing else"
            ))
            .advise(words::elsewhere(asked))),
            Way::Over { interface, .. } => {
                let links = kernel.links("")?.into_iter();
                let mut over = links.filter(|link| link.index == interface);
                Ok(Peer::Beyond(
                    over.next().map_or_else(String::new, |l| l.name),
                ))
            }
            Way::Nowhere if matches!(own_way, Way::Over { .. }) => {
                Err(words::led_nowhere(asked, inside))
            }
            Way::Nowhere | Way::Here => {
                Err(nobody(format!("the host itself has no route to {address}"))
                    .advise(format!("ip route get {address}")))
            }
        })
    }

    /// All that is between the guest's port and the other end, in the packet's order.
    fn between(
        &self,
        asked: &Asked<'_>,
        peer: &Peer,
        rules: &Ruleset,
    ) -> Result<Vec<Hop>, HostError> {
        let mut hops = Vec::new();
        if let Peer::Neighbour { guest, lease } = peer {
            hops.extend(self.neighbour(asked, guest, lease)?);
        }
        hops.extend(self.missing(rules)?);
        let led =
            asked.question.incoming && matches!(peer, Peer::Beyond(_)) && self.leads_to(asked)?;
        if led {
            hops.push(words::led(asked));
        }
        if !self.is_external() {
            hops.extend(self.way_back(asked)?);
        }
        let mut masked = false;
        let stops = self.stops(asked, peer)?;
        let first = stops.first().map(|stop| ingress(&stop.from));
        let first = first.filter(|stop| rules.is_asked_at("netdev", &stop.from));
        for stop in first.into_iter().chain(stops) {
            if let Some((guest, port)) = asked.led.filter(|_| stop.at == "host takes in") {
                hops.push(words::led_on(asked, guest, port));
                break;
            }
            if stop.passed_on {
                hops.push(words::forwarding(asked, passes_on(asked)?));
            }
            let packet = self.packet(asked, peer, &stop, led);
            let outcome = rules.at(stop.families, stop.hook, &packet);
            masked |= outcome.masked;
            hops.extend(self.hops(asked, &stop, &outcome));
        }
        hops.extend(words::rate(asked));
        if masked && !asked.question.incoming {
            let why = format!("it goes on under the host's address, not {}", asked.own());
            hops.push(Hop::new("NAT", Verdict::Note, why));
        }
        let old = old_tables(asked.is_ipv6())?;
        if hops.iter().all(|hop| hop.verdict != Verdict::Stops) && !old.is_empty() {
            hops.push(words::old(asked, &old));
        }
        Ok(hops)
    }

    fn hops(&self, asked: &Asked<'_>, stop: &Stop, outcome: &Outcome) -> Vec<Hop> {
        let told = |verdict, by| words::decided(self, asked, stop.at, verdict, by);
        let mut hops: Vec<Hop> = Vec::new();
        if let Some(by) = &outcome.let_pass {
            hops.push(told(Verdict::Passes, by));
        }
        let doubts = outcome.doubts.iter();
        hops.extend(doubts.map(|by| told(Verdict::MayStop, by)));
        match &outcome.dropped {
            Some(by) => hops.push(told(Verdict::Stops, by)),
            None if hops.is_empty() => {
                let why = match stop.at {
                    "guard" => {
                        "it comes from the hardware address and address that are the guest's"
                    }
                    _ => "no rule is against it",
                };
                hops.push(Hop::new(stop.at, Verdict::Passes, why));
            }
            None => {}
        }
        hops
    }

    /// Whether the other guest is there, and is to be reached.
    fn neighbour(
        &self,
        asked: &Asked<'_>,
        guest: &GuestName,
        lease: &Lease,
    ) -> Result<Option<Hop>, HostError> {
        let mut kernel = Netlink::open()?;
        let there = kernel.link(&lease.host_interface)?;
        let Some(there) = there else {
            let why = format!("{} is {guest}'s, which does not run", asked.question.peer);
            let hop = Hop::new("other end", Verdict::Stops, why);
            return Ok(Some(hop.advise(format!("bulkhead start {guest}"))));
        };
        let own = kernel.link(&asked.lease.host_interface)?;
        let apart = |kernel: &mut Netlink, link: &Link| match self.is_routed() {
            true => Ok(kernel.group_of(&link.name)? == Some(routed::group(true))),
            false => kernel.is_apart(&link.name),
        };
        let both = match own {
            Some(own) => apart(&mut kernel, &own)? && apart(&mut kernel, &there)?,
            None => false,
        };
        Ok(both.then(|| words::apart(asked, guest)))
    }

    fn packet(&self, asked: &Asked<'_>, peer: &Peer, stop: &Stop, led: bool) -> Packet {
        let question = asked.question;
        let text = |mac: [u8; 6]| mac.map(|byte| format!("{byte:02x}")).join(":");
        let mac = match (question.incoming, peer) {
            (false, _) => Some(text(asked.lease.mac)),
            (true, Peer::Neighbour { lease, .. }) => Some(text(lease.mac)),
            (true, _) => None,
        };
        let (own, other) = (asked.own(), question.peer);
        let apart = asked.wish.isolated_ports.unwrap_or(self.isolated_ports);
        let group = routed::group(self.is_routed() && apart);
        Packet {
            from: stop.from.clone(),
            to: stop.to.clone(),
            groups: match question.incoming {
                true => (0, group),
                false => (group, 0),
            },
            mac,
            sender: if question.incoming { other } else { own },
            receiver: if question.incoming { own } else { other },
            protocol: question.protocol,
            port: question.port,
            led,
            here: matches!(peer, Peer::Host) && !question.incoming,
            bridged: stop.at == BRIDGED_AT
                && (!self.is_external() || matches!(peer, Peer::Neighbour { .. })),
        }
    }
}
