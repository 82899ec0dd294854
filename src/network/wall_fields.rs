//! What rules of guests' firewalls ask a packet for, as `nft` writes it. The rules are `wall_rules.rs`.

use serde_json::{Value, json};

use super::firewall::matches;
use super::wall_sets;
use crate::kernel::netlink_nft::Family;
use crate::model::{FirewallRule, Peer, RuleProtocol};

/// IPv4 and IPv6, as `nft` writes them.
pub(super) const VERSIONS: [&str; 2] = ["ip", "ip6"];

/// Flags of TCP (RFC 9293).
pub(super) const FIN: u8 = 0x01;
pub(super) const SYN: u8 = 0x02;
pub(super) const RST: u8 = 0x04;
pub(super) const PSH: u8 = 0x08;
pub(super) const ACK: u8 = 0x10;
/// Of these one that asks for a connection has the first alone.
pub(super) const BEGINS: u8 = SYN | ACK | RST | FIN;
/// Of those no honest sender makes these.
pub(super) const NONSENSE: [u8; 10] = [
    0,
    FIN,
    SYN | FIN,
    RST | FIN,
    RST | SYN,
    RST | SYN | FIN,
    RST | FIN | ACK,
    SYN | FIN | ACK,
    SYN | RST | ACK,
    BEGINS,
];

pub(super) fn field(protocol: &str, field: &str) -> Value {
    json!({"payload": {"protocol": protocol, "field": field}})
}

pub(super) fn l4proto() -> Value {
    json!({"meta": {"key": "l4proto"}})
}

/// These flags of TCP.
pub(super) fn flags(which: u8) -> Value {
    json!({"&": [field("tcp", "flags"), which]})
}

/// What ends a connection.
pub(super) fn ends() -> Value {
    matches(
        "==",
        flags(FIN | RST),
        json!({"set": [FIN, RST, FIN | RST]}),
    )
}

/// What both directions of a conversation have in common: the other end, the guest's port, the other
/// end's.
pub(super) fn conversation(version: &str, protocol: &str, incoming: bool) -> Value {
    let [peer, own, other] = match incoming {
        true => ["saddr", "dport", "sport"],
        false => ["daddr", "sport", "dport"],
    };
    json!({"concat": [field(version, peer), field(protocol, own), field(protocol, other)]})
}

/// What is neither IPv4 nor IPv6: ARP, the guard lets nothing else through.
pub(super) fn neither(family: Family) -> Value {
    match family {
        Family::Bridge => matches("!=", field("ether", "type"), json!({"set": VERSIONS})),
        Family::Inet | Family::Ip | Family::Ip6 => {
            let versions = json!({"set": ["ipv4", "ipv6"]});
            matches("!=", json!({"meta": {"key": "nfproto"}}), versions)
        }
    }
}

/// Later parts of packets that were cut up, which only the part before them makes sense of.
pub(super) fn parts(belongs: &Value) -> [Value; 2] {
    let part = json!({"&": [field("ip", "frag-off"), 0x1fff]});
    let part6 = json!({"exthdr": {"name": "frag", "field": "frag-off"}});
    [part, part6].map(|part| json!([matches("!=", part, json!(0)), belongs]))
}

/// Answers and errors of ICMP; of IPv6 neighbour discovery too, of which the guard sees to it that it
/// is true.
pub(super) fn messages(belongs: &Value) -> [Value; 2] {
    let types = json!({"set": [
        "echo-reply", "destination-unreachable", "time-exceeded", "parameter-problem"
    ]});
    let types6 = json!({"set": [
        "echo-reply", "destination-unreachable", "packet-too-big", "time-exceeded",
        "parameter-problem", "nd-neighbor-solicit", "nd-neighbor-advert"
    ]});
    [("icmp", types), ("icmpv6", types6)]
        .map(|(kind, types)| json!([matches("==", field(kind, "type"), types), belongs]))
}

/// What of a rule asks for a protocol and its ports.
pub(super) fn protocol(one: &FirewallRule) -> Option<Value> {
    let protocol = one.protocol?;
    let ports = one.ports.iter().map(|(first, last)| match first == last {
        true => json!(first),
        false => json!({"range": [first, last]}),
    });
    let ports: Vec<Value> = ports.collect();
    Some(match ports.is_empty() || protocol == RuleProtocol::Icmp {
        true => {
            let name = match protocol {
                RuleProtocol::Icmp => json!({"set": ["icmp", "ipv6-icmp"]}),
                RuleProtocol::Tcp | RuleProtocol::Udp => json!(protocol.name()),
            };
            matches("==", l4proto(), name)
        }
        false => matches("==", field(protocol.name(), "dport"), json!({"set": ports})),
    })
}

/// What asks for the other end, and the versions of which that can be; once for each set of a name.
pub(super) fn peers(one: &FirewallRule) -> Vec<(Option<Value>, Vec<&'static str>)> {
    let end = if one.incoming { "saddr" } else { "daddr" };
    match &one.peer {
        None => vec![(None, VERSIONS.to_vec())],
        Some(Peer::Block(block)) => {
            let version = VERSIONS[usize::from(block.address.is_ipv6())];
            let prefix = json!({"prefix": {"addr": block.address, "len": block.bits}});
            let asked = matches("==", field(version, end), prefix);
            vec![(Some(asked), vec![version])]
        }
        Some(Peer::Set(name)) => {
            let of = |version| {
                let set = json!(format!("@{}", wall_sets::name(version, name)));
                (Some(matches("==", field(version, end), set)), vec![version])
            };
            VERSIONS.map(of).to_vec()
        }
    }
}
