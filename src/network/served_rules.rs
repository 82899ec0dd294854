//! What guests and the server program of their network may say to each other, which elsewhere the guard
//! drops: a guest without an address may ask for its own by DHCP, for the router, for its IPv6 address;
//! each only for itself, and only the host hears it. What a server says comes from the host and from
//! nobody else: that a guest says none of it is the guard's matter as ever.
//!
//! By DHCP a guest says in the packet who it is, so the rule looks there (`kernel::netlink_nft_rule`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use serde_json::{Value, json};

use super::fence::MARKER;
use super::files::FileError;
use super::firewall::{At, chain, matches, rule};
use super::guard::{self, GUESTS, PORTS, flush, set};
use super::guard6;
use super::host::{HostError, Marker};
use super::lease::Lease;
use super::trace::Question;
use super::{Network, files, forward};
use crate::kernel::netlink_nft::{Element, Family, NAME_LENGTH};
use crate::kernel::netlink_nft_rule::{Base, Check, accept};
use crate::model::RuleProtocol;

/// Who may ask by DHCP for whom: interface and hardware address.
pub(super) const CLIENTS: &str = "clients";
/// The chain of questions.
const ASK: &str = "ask4";
/// The chain of what neighbours do not hear.
const UNHEARD: &str = "asked";
/// In a packet of BOOTP after the header of UDP: who asks and over what; how long the address of that
/// is, and by how many relays it came; which relay; the hardware address.
const ASKS: (Base, u32) = (Base::Transport, 8);
const LENGTH: (Base, u32) = (Base::Transport, 10);
const RELAY: [(Base, u32); 2] = [(Base::Transport, 32), (Base::Transport, 34)];
const CLIENT: (Base, u32) = (Base::Transport, 36);
/// The port of DNS.
pub(super) const NAMES: u16 = 53;
/// A question, over Ethernet; six bytes, no relay.
const QUESTION: u16 = 0x0101;
const SIX: u16 = 0x0600;
/// Messages of DHCPv6 that clients and servers have for each other; beyond are those of relays.
const MESSAGES: [u8; 2] = [1, 11];

/// What is said on a network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Spoken {
    /// Who answers by DHCP.
    pub(super) dhcp: Option<Ipv4Addr>,
    /// Whether there are router advertisements, and DHCPv6.
    pub(super) ra: bool,
    /// Who knows names, and its address of IPv6.
    pub(super) dns: Option<(Ipv4Addr, Option<Ipv6Addr>)>,
}

fn is(left: Value, right: Value) -> Value {
    matches("==", left, right)
}

fn field(protocol: &str, field: &str) -> Value {
    json!({"payload": {"protocol": protocol, "field": field}})
}

fn port(which: &str, number: u16) -> Value {
    is(field("udp", which), json!(number))
}

fn interface() -> Value {
    json!({"meta": {"key": "iifname"}})
}

/// What was there while somebody served, is not any more. Adding first makes deleting safe.
fn no_chain((family, table): &At, name: &str) -> [Value; 2] {
    ["add", "delete"].map(|verb| {
        let chain = json!({"family": family.name(), "table": table, "name": name});
        json!({verb: {"chain": chain}})
    })
}

fn from_guest() -> Value {
    is(interface(), json!(format!("@{PORTS}")))
}

/// Asks whether there is a router.
fn solicits() -> Value {
    is(field("icmpv6", "type"), json!("nd-router-solicit"))
}

impl Spoken {
    /// The set and the chain, before the rules that name them.
    pub(super) fn objects(self, at: &At) -> Vec<Value> {
        let (family, table) = (at.0.name(), &at.1);
        let clients = set(at, CLIENTS, json!(["ifname", "ether_addr"]));
        if self.dhcp.is_none() {
            let named = json!({"family": family, "table": table, "name": CLIENTS});
            let [add, delete] = no_chain(at, ASK);
            return vec![clients, add, delete, json!({"delete": {"set": named}})];
        }
        let asks = |expr: Value| rule(at, ASK, expr);
        let sender = |op| {
            let sender = json!([interface(), field("ether", "saddr")]);
            matches(
                op,
                json!({ "concat": sender }),
                json!(format!("@{CLIENTS}")),
            )
        };
        let nobody = |op| matches(op, field("ip", "saddr"), json!("0.0.0.0"));
        let known = json!([interface(), field("ether", "saddr"), field("ip", "saddr")]);
        let stranger = matches(
            "!=",
            json!({ "concat": known }),
            json!(format!("@{GUESTS}")),
        );
        let all = matches("!=", field("ip", "daddr"), json!("255.255.255.255"));
        vec![
            clients,
            json!({"add": {"chain": {"family": family, "table": table, "name": ASK}}}),
            flush(at, ASK),
            asks(json!([sender("!="), {"drop": null}])),
            asks(json!([nobody("!="), stranger, {"drop": null}])),
            asks(json!([nobody("=="), all, {"drop": null}])),
        ]
    }

    /// What comes before the guard's own rules for packets.
    pub(super) fn rules(self, at: &At) -> Vec<Value> {
        let mut all = Vec::new();
        let drop = || json!({"drop": null});
        if self.dhcp.is_some() {
            all.push(json!([port("dport", 67), {"jump": {"target": ASK}}]));
            all.push(json!([port("dport", 67), drop()]));
        }
        if self.ra {
            let known = || guard6::known("iifname");
            let far = is(field("ip6", "hoplimit"), json!(255));
            all.push(json!([solicits(), far, known(), {"accept": null}]));
            let kind = json!({"payload": {"base": "th", "offset": 64, "len": 8}});
            let kind = is(kind, json!({"range": MESSAGES}));
            all.push(json!([port("dport", 547), kind, known(), {"accept": null}]));
            all.push(json!([port("dport", 547), drop()]));
        }
        all.into_iter()
            .map(|expr| rule(at, "guard", expr))
            .collect()
    }

    /// No neighbour hears it, on whichever host it is.
    pub(super) fn unheard(self, at: &At) -> Vec<Value> {
        let mut all = Vec::new();
        let drop = || json!({"drop": null});
        all.extend(
            self.dhcp
                .map(|_| json!([from_guest(), port("dport", 67), drop()])),
        );
        if self.ra {
            all.push(json!([from_guest(), port("dport", 547), drop()]));
            all.push(json!([from_guest(), solicits(), drop()]));
        }
        if all.is_empty() {
            return no_chain(at, UNHEARD).to_vec();
        }
        let begin = [
            chain(at, UNHEARD, "filter", "forward", guard::FIRST),
            flush(at, UNHEARD),
        ];
        let rules = all.into_iter().map(|expr| rule(at, UNHEARD, expr));
        begin.into_iter().chain(rules).collect()
    }

    /// Names are told to the guests of the bridge and to the host, and to nobody else who knows a way
    /// to its address; in the table of family inet.
    pub(super) fn inside(self, name: &str, bridge: &str) -> Vec<Value> {
        let Some((four, six)) = self.dns else {
            return Vec::new();
        };
        let at = (Family::Inet, name.to_owned());
        let mut all = vec![chain(&at, "names", "filter", "input", 0)];
        let own = [
            Some(("ip", json!(four))),
            six.map(|six| ("ip6", json!(six))),
        ];
        for (version, address) in own.into_iter().flatten() {
            let ports = json!({"payload": {"base": "th", "offset": 16, "len": 16}});
            let protocols = json!({"set": ["tcp", "udp"]});
            let expr = json!([
                matches("!=", interface(), json!({"set": [bridge, "lo"]})),
                is(field(version, "daddr"), address),
                is(json!({"meta": {"key": "l4proto"}}), protocols),
                is(ports, json!(NAMES)),
                {"drop": null}
            ]);
            all.push(rule(&at, "names", expr));
        }
        all
    }

    /// What guests, and the host, ask at the address where they are told stays there, whoever a port of
    /// the host's of that number leads to: translated to where it goes anyway, before any network's
    /// forwards are asked. In the table of family inet.
    pub(super) fn kept(self, name: &str, bridge: &str) -> Vec<Value> {
        let at = (Family::Inet, name.to_owned());
        let mut all = Vec::new();
        let stays =
            |family: &str, address: Value| json!({"dnat": {"family": family, "addr": address}});
        let mut keep = |family: &str, address: Value, asks: Vec<Value>| {
            for (hook, from) in [
                ("prerouting", Some(is(interface(), json!(bridge)))),
                ("output", None),
            ] {
                let mut expr = vec![is(field(family, "daddr"), address.clone())];
                expr.extend(from.into_iter().chain(asks.clone()));
                expr.push(stays(family, address.clone()));
                all.push(rule(&at, &format!("told-{hook}"), json!(expr)));
            }
        };
        let protocol = is(
            json!({"meta": {"key": "l4proto"}}),
            json!({"set": ["tcp", "udp"]}),
        );
        let asks_names = || {
            let ports = json!({"payload": {"base": "th", "offset": 16, "len": 16}});
            vec![protocol.clone(), is(ports, json!(NAMES))]
        };
        if let Some((four, six)) = self.dns {
            keep("ip", json!(four), asks_names());
            if let Some(six) = six {
                keep("ip6", json!(six), asks_names());
            }
        }
        if let Some(four) = self.dhcp {
            keep("ip", json!(four), vec![port("dport", 67)]);
        }
        if all.is_empty() {
            return all;
        }
        let hooks = ["prerouting", "output"].into_iter();
        let chains = hooks.map(|hook| {
            let before = forward::DESTINATION - 1;
            chain(&at, &format!("told-{hook}"), "nat", hook, before)
        });
        chains.chain(all).collect()
    }

    /// What passes a guest's own firewall, as ARP does: what it asks, or the answers.
    pub(super) fn passes(self, incoming: bool) -> Vec<Value> {
        let (source, target) = (field("ip", "saddr"), field("ip", "daddr"));
        let mut all = Vec::new();
        if let Some(server) = self.dhcp {
            all.push(match incoming {
                true => vec![
                    is(source, json!(server)),
                    port("sport", 67),
                    port("dport", 68),
                ],
                false => vec![
                    is(target, json!({"set": ["255.255.255.255", server]})),
                    port("sport", 68),
                    port("dport", 67),
                ],
            });
        }
        if self.ra {
            all.push(match incoming {
                true => vec![is(field("icmpv6", "type"), json!("nd-router-advert"))],
                false => vec![solicits()],
            });
            all.push(match incoming {
                true => vec![port("sport", 547), port("dport", 546)],
                false => vec![
                    is(field("ip6", "daddr"), json!("ff02::1:2")),
                    port("dport", 547),
                ],
            });
        }
        all.into_iter()
            .map(|mut fits| {
                fits.push(json!({"accept": null}));
                json!(fits)
            })
            .collect()
    }
}

/// The element of a guest.
pub(super) fn client(lease: &Lease) -> Element {
    let mut key = lease.host_interface.as_bytes().to_vec();
    key.resize(NAME_LENGTH, 0);
    // Each part of a key begins at a multiple of four.
    key.extend([&lease.mac[..], &[0, 0]].concat());
    Element::new(CLIENTS, key)
}

impl Network {
    /// What is said on it.
    pub(super) fn spoken(&self) -> Spoken {
        let Ok(Some(subnet)) = self.known_subnet() else {
            return Spoken::default();
        };
        let gateway = self.gateway_in(subnet);
        Spoken {
            dhcp: self.served.dhcp.then_some(gateway),
            ra: self.served.ra && self.prefix6.is_some(),
            dns: self.served.dns.then_some((gateway, self.gateway6())),
        }
    }

    /// The addresses of this installation's networks where guests are told names, as they are set up.
    pub(super) fn told_at(&self) -> Result<Vec<Ipv4Addr>, FileError> {
        let run = self.layout.run();
        let named = run.join("networks");
        let mut folders = vec![run.join("network")];
        let names = files::entries(&named)?.into_iter();
        folders.extend(names.map(|name| named.join(name)));
        // A damaged marker is of a network that is about to be set up anew.
        let read = |folder: PathBuf| files::read::<Marker>(&folder.join(MARKER)).ok().flatten();
        let told = folders.into_iter().filter_map(read);
        let told = told.filter(|one| one.served.dns);
        Ok(told
            .map(|one| one.gateway.unwrap_or_else(|| one.host.subnet.gateway()))
            .collect())
    }

    /// Whether a packet asks for names at the address of this network where its guests are told them.
    #[must_use]
    pub fn is_told(&self, question: Question) -> bool {
        let Some((four, six)) = self.spoken().dns else {
            return false;
        };
        let own = [Some(IpAddr::from(four)), six.map(IpAddr::from)];
        !question.incoming
            && question.port == NAMES
            && question.protocol != RuleProtocol::Icmp
            && own.contains(&Some(question.peer))
    }

    /// Writes the rule that looks into what guests ask by DHCP, where the table has the chain for it.
    pub(super) fn look_into_questions(&self) -> Result<(), HostError> {
        if !self.served.dhcp {
            return Ok(());
        }
        let (family, table) = &self.guard;
        let checks = [
            Check::Number(ASKS, QUESTION),
            Check::Number(LENGTH, SIX),
            Check::Number(RELAY[0], 0),
            Check::Number(RELAY[1], 0),
            Check::Named(CLIENT),
        ];
        Ok(accept(*family, table, ASK, CLIENTS, &checks)?)
    }
}
