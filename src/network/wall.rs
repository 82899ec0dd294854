//! Firewalls of guests: what comes to a guest and what it sends, by its own rules. Each guest that
//! has rules has two chains in the table of family bridge, so that neighbours are held to them as
//! everybody else is; which interface goes through which chain is in two maps. A third set says which
//! rules are in the chains, so a start finds without `nft` that they stand.
//!
//! What belongs to a connection that was let pass, passes. The kernel's own table of connections is
//! not asked: few kernels keep it for bridges, and it would slow down everybody. A packet of TCP that
//! asks for no connection passes; answers by UDP are those to what a set remembers, each guest's for
//! itself, for some minutes; answers by ICMP are known by their type.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde_json::{Value, json};

use super::firewall::{self, At, chain, matches, rule};
use super::guard::{flush, set};
use super::host::HostError;
use super::lease::{Held, Lease, Leases};
use super::{Network, ceiling};
use crate::kernel::netlink::NetlinkError;
use crate::kernel::netlink_nft::{self, Family, NAME_LENGTH, set_exists, table_exists};
use crate::kernel::netlink_nft_count::beyond_rates;
use crate::model::{Ceilings, FirewallRule, GuestName, RuleProtocol};

/// Guests and their rules, by the interface of each.
type Wanted<'a> = BTreeMap<String, (&'a GuestName, &'a Held)>;

/// Which rules are in force: interface and a sum of them.
const WALLS: &str = "walls";
/// After the guard, so that addresses are true.
const AFTER_GUARD: i32 = -298;
/// Flags of TCP, of which one that asks for a connection has the first alone.
const SYN_ACK_RST_FIN: u8 = 0x17;
/// How long an answer by UDP may take, seconds: as the kernel's own table has it.
const ANSWERED: u32 = 180;
/// Conversations by UDP of one guest that are remembered.
const CONVERSATIONS: u32 = 16_384;
/// Before what arrives is counted.
const BEFORE_COUNTED: i32 = 250;
/// Lines of the kernel's log that one rule writes in a second.
const LOG_RATE: u32 = 10;

/// Both directions: whether to the guest, the map and base chain, the hook, the interface asked for.
const WAYS: [(bool, &str, &str, i32, &str); 2] = [
    (false, "outgoing", "prerouting", AFTER_GUARD, "iifname"),
    (true, "incoming", "postrouting", BEFORE_COUNTED, "oifname"),
];

/// The maps and the chains that lead to guests' own.
pub(super) fn table(at: &At) -> Vec<Value> {
    let mut all = vec![set(at, WALLS, json!(["ifname", "mark"]))];
    for (_, way, hook, priority, key) in WAYS {
        all.push(json!({"add": {"map": {
            "family": at.0.name(), "table": at.1, "name": way, "type": "ifname", "map": "verdict"
        }}}));
        all.push(chain(at, way, "filter", hook, priority));
        all.push(flush(at, way));
        let interface = json!({"meta": {"key": key}});
        let lead = json!({"vmap": {"key": interface, "data": format!("@{way}")}});
        all.push(rule(at, way, json!([lead])));
    }
    all
}

fn own_chain(way: &str, interface: &str) -> String {
    format!("{way}-{interface}")
}

/// IPv4 and IPv6, as `nft` writes them.
const VERSIONS: [&str; 2] = ["ip", "ip6"];

fn own_set(version: &str, interface: &str) -> String {
    match version {
        "ip6" => format!("answers6-{interface}"),
        _ => format!("answers-{interface}"),
    }
}

/// Conversations by UDP of a guest.
fn answers(at: &At, version: &str, interface: &str) -> Value {
    let kind = if version == "ip6" {
        "ipv6_addr"
    } else {
        "ipv4_addr"
    };
    let mut answers = of_table(at, &own_set(version, interface));
    answers["type"] = json!([kind, "inet_service", "inet_service"]);
    answers["flags"] = json!(["timeout"]);
    answers["timeout"] = json!(ANSWERED);
    answers["size"] = json!(CONVERSATIONS);
    json!({"add": {"set": answers}})
}

fn of_table((family, table): &At, name: &str) -> Value {
    json!({"family": family.name(), "table": table, "name": name})
}

fn element((family, table): &At, map: &str, element: Value) -> Value {
    let family = family.name();
    json!({"element": {"family": family, "table": table, "name": map, "elem": [element]}})
}

/// An entry of the map that leads an interface to its chain.
fn jump(at: &At, way: &str, interface: &str) -> Value {
    let chain = own_chain(way, interface);
    let jump = json!([interface, {"jump": {"target": chain}}]);
    element(at, way, jump)
}

fn mark(at: &At, interface: &str, sum: u32) -> Value {
    element(at, WALLS, json!({"concat": [interface, sum]}))
}

/// A guest's chains with these rules, whatever was in them.
fn raise(at: &At, interface: &str, guest: &GuestName, held: &Held) -> Vec<Value> {
    let rules = &held.rules;
    let mut all = VERSIONS.map(|v| answers(at, v, interface)).to_vec();
    // Where nothing may begin, nothing is an answer, and what goes on from before is not to.
    let passing = if is_shut(rules) { 1 } else { usize::MAX };
    for (incoming, way, ..) in WAYS {
        let own = own_chain(way, interface);
        all.push(json!({"add": {"chain": of_table(at, &own)}}));
        all.push(json!({"flush": {"chain": of_table(at, &own)}}));
        let remember = VERSIONS.map(|version| remember(version, incoming, interface));
        let ceilings = Some(held.ceilings)
            .filter(|_| !incoming)
            .unwrap_or_default();
        let over = |rate: Option<u32>| {
            rate.map(|rate| {
                rule(
                    at,
                    &own,
                    json!([ceiling::over(rate), {"counter": null}, {"drop": null}]),
                )
            })
        };
        all.extend(over(ceilings.packets));
        let known = known(at.0, interface, incoming);
        for expr in known.into_iter().take(passing) {
            all.push(rule(at, &own, expr));
        }
        // What has come so far begins something.
        all.extend(over(ceilings.new_connections));
        for one in rules.iter().filter(|one| one.incoming == incoming) {
            for expr in expressions(guest, one, &remember) {
                all.push(rule(at, &own, expr));
            }
        }
        // What no rule is about passes.
        let last = remember.map(|remember| rule(at, &own, json!([udp(), remember])));
        all.extend(last);
        all.push(json!({"add": jump(at, way, interface)}));
    }
    all.push(json!({"add": mark(at, interface, sum(guest, rules, held.ceilings))}));
    all
}

fn field(protocol: &str, field: &str) -> Value {
    json!({"payload": {"protocol": protocol, "field": field}})
}

fn udp() -> Value {
    let protocol = json!({"meta": {"key": "l4proto"}});
    matches("==", protocol, json!("udp"))
}

/// What both directions of a conversation by UDP have in common: the other end, the guest's port,
/// the other end's.
fn conversation(version: &str, incoming: bool) -> Value {
    let [peer, own, other] = match incoming {
        true => ["saddr", "dport", "sport"],
        false => ["daddr", "sport", "dport"],
    };
    json!({"concat": [field(version, peer), field("udp", own), field("udp", other)]})
}

fn remember(version: &str, incoming: bool, interface: &str) -> Value {
    let set = format!("@{}", own_set(version, interface));
    json!({"set": {"op": "update", "elem": conversation(version, incoming), "set": set}})
}

/// What passes by whatever rules: what is neither IPv4 nor IPv6 (ARP, the guard lets nothing else
/// through), what only a packet before it makes sense of, and what belongs to a connection. For IPv6
/// neighbour discovery too, of which the guard sees to it that it is true.
fn known(family: Family, interface: &str, incoming: bool) -> Vec<Value> {
    let accept = json!({"accept": null});
    let kind = match family {
        Family::Bridge => matches("!=", field("ether", "type"), json!({"set": VERSIONS})),
        Family::Inet => {
            let versions = json!({"set": ["ipv4", "ipv6"]});
            matches("!=", json!({"meta": {"key": "nfproto"}}), versions)
        }
    };
    let part = json!({"&": [field("ip", "frag-off"), 0x1fff]});
    let part6 = json!({"exthdr": {"name": "frag", "field": "frag-off"}});
    let flags = json!({"&": [field("tcp", "flags"), SYN_ACK_RST_FIN]});
    let types = json!({"set": [
        "echo-reply", "destination-unreachable", "time-exceeded", "parameter-problem"
    ]});
    let types6 = json!({"set": [
        "echo-reply", "destination-unreachable", "packet-too-big", "time-exceeded",
        "parameter-problem", "nd-neighbor-solicit", "nd-neighbor-advert"
    ]});
    let mut all = vec![
        json!([kind, accept]),
        json!([matches("!=", part, json!(0)), accept]),
        json!([matches("!=", part6, json!(0)), accept]),
        json!([matches("!=", flags, json!("syn")), accept]),
        json!([matches("==", field("icmp", "type"), types), accept]),
        json!([matches("==", field("icmpv6", "type"), types6), accept]),
    ];
    for version in VERSIONS {
        let answers = json!(format!("@{}", own_set(version, interface)));
        let conversation = conversation(version, incoming);
        let remember = remember(version, incoming, interface);
        all.push(json!([
            matches("==", conversation, answers),
            remember,
            accept
        ]));
    }
    all
}

/// Whether nothing at all may come or go: the first rule of each direction drops everything.
fn is_shut(rules: &[FirewallRule]) -> bool {
    WAYS.iter().all(|(incoming, ..)| {
        let first = rules.iter().find(|rule| rule.incoming == *incoming);
        first.is_some_and(|rule| {
            !rule.accept && rule.protocol.is_none() && rule.ports.is_empty() && rule.peer.is_none()
        })
    })
}

/// One rule, and what logs and remembers what fits it.
fn expressions(guest: &GuestName, one: &FirewallRule, remember: &[Value; 2]) -> Vec<Value> {
    let mut fits = Vec::new();
    if let Some(protocol) = one.protocol {
        let ports = one.ports.iter().map(|(first, last)| match first == last {
            true => json!(first),
            false => json!({"range": [first, last]}),
        });
        let ports: Vec<Value> = ports.collect();
        fits.push(match ports.is_empty() || protocol == RuleProtocol::Icmp {
            true => {
                let kind = json!({"meta": {"key": "l4proto"}});
                let name = match protocol {
                    RuleProtocol::Icmp => json!({"set": ["icmp", "ipv6-icmp"]}),
                    RuleProtocol::Tcp | RuleProtocol::Udp => json!(protocol.name()),
                };
                matches("==", kind, name)
            }
            false => matches("==", field(protocol.name(), "dport"), json!({"set": ports})),
        });
    }
    if let Some((address, bits)) = one.peer {
        let version = VERSIONS[usize::from(address.is_ipv6())];
        let peer = field(version, if one.incoming { "saddr" } else { "daddr" });
        let prefix = json!({"prefix": {"addr": address, "len": bits}});
        fits.push(matches("==", peer, prefix));
    }
    let with = |more: &[Value]| Value::Array([&fits[..], more].concat());
    let mut all = Vec::new();
    let verdict = if one.accept { "accept" } else { "drop" };
    if one.log {
        let way = if one.incoming { "in" } else { "out" };
        let prefix = format!("bulkhead {guest} {way} {verdict}: ");
        all.push(with(&[
            json!({"limit": {"rate": LOG_RATE, "per": "second"}}),
            json!({"log": {"prefix": prefix}}),
        ]));
    }
    if one.accept && matches!(one.protocol, None | Some(RuleProtocol::Udp)) {
        // What is of the other version than its address fits neither.
        let version = one.peer.map(|(address, _)| address);
        for (remember, other) in remember.iter().zip([IpAddr::is_ipv6, IpAddr::is_ipv4]) {
            if !version.as_ref().is_some_and(other) {
                all.push(with(&[udp(), remember.clone(), json!({"accept": null})]));
            }
        }
    }
    all.push(with(&[json!({ verdict: null })]));
    all
}

/// Takes a guest's chains away.
fn lower(at: &At, interface: &str, sum: u32) -> Result<Vec<Value>, NetlinkError> {
    let mut all = vec![json!({"delete": mark(at, interface, sum)})];
    for (_, way, ..) in WAYS {
        let own = own_chain(way, interface);
        all.push(json!({"delete": jump(at, way, interface)}));
        all.push(json!({"flush": {"chain": of_table(at, &own)}}));
        all.push(json!({"delete": {"chain": of_table(at, &own)}}));
    }
    // A program before IPv6 has made one alone.
    for set in VERSIONS.map(|version| own_set(version, interface)) {
        if set_exists(at.0, &at.1, &set)? {
            all.push(json!({"delete": {"set": of_table(at, &set)}}));
        }
    }
    Ok(all)
}

/// Raised whenever chains change that the same rules make.
const FORM: u32 = 3;

/// Tells sets of rules apart (FNV-1a).
fn sum(guest: &GuestName, rules: &[FirewallRule], ceilings: Ceilings) -> u32 {
    let lines = rules.iter().map(|rule| format!("{rule}\n"));
    let text = std::iter::once(format!("{FORM} {guest}\n")).chain(lines);
    let rates = [ceilings.packets, ceilings.new_connections];
    let text = text.chain(ceilings.at_port().then(|| format!("{rates:?}\n")));
    text.flat_map(String::into_bytes)
        .fold(0x811c_9dc5, |sum, byte| {
            (sum ^ u32::from(byte)).wrapping_mul(0x0100_0193)
        })
}

impl Network {
    /// Makes guests' chains what the book says, where there is a table. The book's lock is held.
    pub(super) fn wall_as_written(&self) -> Result<(), HostError> {
        let at = &self.guard;
        if !table_exists(at.0, &at.1)? {
            return Ok(());
        }
        let there = self.walls()?;
        let leases = self.leases()?;
        let wanted = self.wanted(&leases)?;
        let mut all = Vec::new();
        for (interface, sum) in &there {
            if !wanted.contains_key(interface) {
                all.extend(lower(at, interface, *sum)?);
            }
        }
        for (interface, (guest, held)) in &wanted {
            let before = there.get(interface).copied();
            if before == Some(sum(guest, &held.rules, held.ceilings)) {
                continue;
            }
            if let Some(before) = before {
                all.extend(lower(at, interface, before)?);
            }
            all.extend(raise(at, interface, guest, held));
        }
        if !all.is_empty() {
            firewall::apply(&at.1, &json!({"nftables": all}))?;
        }
        Ok(())
    }

    /// Whose chains should stand, and with which rules, by the book.
    fn wanted<'a>(&self, leases: &'a Leases) -> Result<Wanted<'a>, HostError> {
        let Some(subnet) = self.known_subnet()? else {
            return Ok(Wanted::new());
        };
        let interface = |address| self.lease_of(address, subnet);
        let all = leases.walls().filter_map(|(guest, held)| {
            Some((interface(held.address)?.host_interface, (guest, held)))
        });
        Ok(all.collect())
    }

    /// Packets of a guest that were dropped because they went beyond a ceiling, since its rules were
    /// made; `None` if it has no such ceiling.
    ///
    /// # Errors
    /// When the kernel refuses to tell.
    pub fn beyond_ceilings(&self, lease: &Lease) -> Result<Option<u64>, HostError> {
        let (family, table) = &self.guard;
        let chain = own_chain("outgoing", &lease.host_interface);
        Ok(beyond_rates(*family, table, &chain)?)
    }

    /// Interfaces whose chains are not what the book says: a command died between the two.
    pub(super) fn misled(&self) -> Result<BTreeSet<String>, HostError> {
        let (family, table) = &self.guard;
        if !table_exists(*family, table)? {
            return Ok(BTreeSet::new());
        }
        // Whoever is between the two holds it.
        let _lock = self.lock_book()?;
        let (there, leases) = (self.walls()?, self.leases()?);
        let wanted = self.wanted(&leases)?;
        let wanted: BTreeMap<_, _> = wanted
            .into_iter()
            .map(|(interface, (guest, held))| (interface, sum(guest, &held.rules, held.ceilings)))
            .collect();
        let names = there.keys().chain(wanted.keys());
        Ok(names
            .filter(|name| there.get(*name) != wanted.get(*name))
            .cloned()
            .collect())
    }

    /// Whose chains stand, and the sums of their rules.
    fn walls(&self) -> Result<BTreeMap<String, u32>, HostError> {
        let (family, table) = &self.guard;
        let mut all = BTreeMap::new();
        for element in netlink_nft::elements(*family, table, WALLS)? {
            let Some((name, sum)) = element.key().split_at_checked(NAME_LENGTH) else {
                continue;
            };
            let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
            if let (Ok(name), Ok(sum)) = (std::str::from_utf8(name), sum.try_into()) {
                all.insert(name.to_owned(), u32::from_ne_bytes(sum));
            }
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(texts: &[&str]) -> Vec<FirewallRule> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn other_rules_have_another_sum() {
        let of = |guest: &GuestName, texts: &[&str]| sum(guest, &rules(texts), Ceilings::default());
        let guest = "web".parse().unwrap();
        let slow = Ceilings {
            packets: Some(9),
            ..Ceilings::default()
        };
        assert_ne!(sum(&guest, &[], slow), of(&guest, &[]));
        let one = of(&guest, &["in accept tcp 80", "in drop"]);
        assert_ne!(one, of(&guest, &["in drop", "in accept tcp 80"]));
        assert_ne!(
            one,
            of(&"www".parse().unwrap(), &["in accept tcp 80", "in drop"])
        );
    }

    #[test]
    fn a_rule_that_logs_is_two_and_both_fit_the_same() {
        let guest = "web".parse().unwrap();
        let rule = &rules(&["in drop tcp 1-9,25 from 192.0.2.0/24 log"])[0];
        let [logs, drops] = &expressions(&guest, rule, &[json!(null), json!(null)])[..] else {
            panic!("two rules");
        };
        let of = |one: &Value| one.as_array().unwrap().clone();
        let (logs, drops) = (of(logs), of(drops));
        assert_eq!(logs[..2], drops[..2]);
        assert_eq!(logs[3]["log"]["prefix"], "bulkhead web in drop: ");
        assert_eq!(drops[2], json!({"drop": null}));
    }
}
