//! What a rule of the firewall asks a packet for, and whether that is what the packet has: the
//! expressions of `nft`'s JSON (libnftables-json(5)). Whose rules they are is `ruleset.rs`.

use std::net::IpAddr;

use serde_json::Value;

use super::ruleset::{ASKING, Packet, Truth, text};

/// What a rule asks a packet for.
pub(super) enum Field {
    Is(Vec<String>),
    /// The packet has no such thing.
    Absent,
    Unknown,
}

pub(super) fn fields(left: &Value, packet: &Packet) -> Field {
    if let Some(parts) = left["concat"].as_array() {
        let mut all = Vec::new();
        for part in parts {
            match fields(part, packet) {
                Field::Is(some) => all.extend(some),
                other => return other,
            }
        }
        return Field::Is(all);
    }
    if let Some(masked) = left["&"].as_array() {
        return masked
            .first()
            .map_or(Field::Unknown, |one| fields(one, packet));
    }
    let one = |text: &str| Field::Is(vec![text.to_owned()]);
    if let Some(key) = left["meta"]["key"].as_str() {
        return match key {
            "iifname" | "iif" => one(&packet.from),
            "oifname" | "oif" => one(&packet.to),
            "iifgroup" => one(&packet.groups.0.to_string()),
            "oifgroup" => one(&packet.groups.1.to_string()),
            "l4proto" => one(packet.over()),
            "nfproto" if packet.is_ipv6() => one("ipv6"),
            "nfproto" => one("ipv4"),
            "protocol" => one(version(packet)),
            "pkttype" => one("host"),
            _ => Field::Unknown,
        };
    }
    if let Some(key) = left["ct"]["key"].as_str() {
        return match key {
            "state" => one(if packet.bridged { "untracked" } else { "new" }),
            "status" => one(if packet.led { "dnat" } else { "none" }),
            _ => Field::Unknown,
        };
    }
    // IPv4 has none, and of IPv6 the first of a conversation.
    if left["exthdr"].is_object() {
        return Field::Absent;
    }
    if left["fib"]["result"] == "type" {
        return one(if packet.here { "local" } else { "unicast" });
    }
    payload(left, packet)
}

fn payload(left: &Value, packet: &Packet) -> Field {
    let one = |text: String| Field::Is(vec![text]);
    let protocol = left["payload"]["protocol"].as_str();
    let field = left["payload"]["field"].as_str().unwrap_or_default();
    match (protocol, field) {
        (Some("ether"), "type") => one(version(packet).to_owned()),
        (Some("ether"), "saddr") => packet.mac.clone().map_or(Field::Unknown, one),
        (Some(other @ ("ip" | "ip6")), _) if other != version(packet) => Field::Absent,
        (Some("ip" | "ip6"), "saddr") => one(packet.sender.to_string()),
        (Some("ip" | "ip6"), "daddr") => one(packet.receiver.to_string()),
        (Some("ip"), "protocol") | (Some("ip6"), "nexthdr") => one(packet.over().to_owned()),
        (Some("ip"), "frag-off") => one("0".to_owned()),
        (Some("arp" | "vlan"), _) => Field::Absent,
        (Some("icmpv6"), _) if packet.over() != "ipv6-icmp" => Field::Absent,
        (Some("icmpv6"), "type") => one(ECHO_REQUEST.to_string()),
        (Some("icmpv6"), "code") => one("0".to_owned()),
        (Some(name @ ("tcp" | "udp" | "icmp")), _) if name != packet.over() => Field::Absent,
        (Some("tcp" | "udp" | "th"), "dport") => one(packet.port.to_string()),
        (Some("tcp" | "udp" | "th"), "sport") => one(ASKING.to_string()),
        (Some("tcp"), "flags") => one("syn".to_owned()),
        (Some("icmp"), "type") => one("echo-request".to_owned()),
        (Some("icmp"), "code") => one("0".to_owned()),
        _ => Field::Unknown,
    }
}

/// The version of IP, as `nft` writes it.
fn version(packet: &Packet) -> &'static str {
    if packet.is_ipv6() { "ip6" } else { "ip" }
}

/// ICMPv6's, which for a packet is its number: rules name ranges by their ends.
const ECHO_REQUEST: u128 = 128;
const KINDS: [(&str, u128); 17] = [
    ("destination-unreachable", 1),
    ("packet-too-big", 2),
    ("time-exceeded", 3),
    ("parameter-problem", 4),
    ("echo-request", ECHO_REQUEST),
    ("echo-reply", 129),
    ("mld-listener-query", 130),
    ("mld-listener-report", 131),
    ("mld-listener-done", 132),
    ("mld-listener-reduction", 132),
    ("nd-router-solicit", 133),
    ("nd-router-advert", 134),
    ("nd-neighbor-solicit", 135),
    ("nd-neighbor-advert", 136),
    ("nd-redirect", 137),
    ("router-renumbering", 138),
    ("mld2-listener-report", 143),
];

fn kind(text: &str) -> Option<u128> {
    KINDS
        .iter()
        .find(|(name, _)| *name == text)
        .map(|(_, number)| *number)
}

/// An address as a number, with how many bits it has.
fn address(text: &str) -> Option<(u128, u32)> {
    match text.parse().ok()? {
        IpAddr::V4(four) => Some((four.to_bits().into(), 32)),
        IpAddr::V6(six) => Some((six.to_bits(), 128)),
    }
}

/// Whether an address lies in a prefix of its version.
fn within(left: &str, network: &str, length: u64) -> bool {
    let (Some((left, bits)), Some((network, of))) = (address(left), address(network)) else {
        return false;
    };
    let shift = u64::from(bits).saturating_sub(length);
    let rest = |number: u128| number.checked_shr(u32::try_from(shift).unwrap_or(128));
    bits == of && rest(left).unwrap_or(0) == rest(network).unwrap_or(0)
}

pub(super) fn any(left: &[String], elements: &[Value]) -> Truth {
    let all = elements.iter().map(|one| equal(left, one));
    all.fold(Truth::No, |found, one| match (found, one) {
        (Truth::Yes, _) | (_, Truth::Yes) => Truth::Yes,
        (Truth::Unknown, _) | (_, Truth::Unknown) => Truth::Unknown,
        _ => Truth::No,
    })
}

/// Whether what a packet has is what a rule, or an element of a set, says.
pub(super) fn equal(left: &[String], right: &Value) -> Truth {
    if right["elem"]["val"] != Value::Null {
        return equal(left, &right["elem"]["val"]);
    }
    if let Some(parts) = right["concat"].as_array() {
        let pairs = left.iter().zip(parts);
        let all = pairs.map(|(left, right)| equal(std::slice::from_ref(left), right));
        return all.fold(Truth::Yes, |found, one| match (found, one) {
            (Truth::No, _) | (_, Truth::No) => Truth::No,
            (Truth::Unknown, _) | (_, Truth::Unknown) => Truth::Unknown,
            _ => Truth::Yes,
        });
    }
    if let Some(some) = right["set"].as_array().or(right.as_array()) {
        return any(left, some);
    }
    // Several flags at once; the first packet has one.
    if right["|"].is_array() {
        return Truth::No;
    }
    let [left] = left else {
        return Truth::Unknown;
    };
    let truth = |yes| if yes { Truth::Yes } else { Truth::No };
    if let (Some(of), Some(length)) = (
        right["prefix"]["addr"].as_str(),
        right["prefix"]["len"].as_u64(),
    ) {
        return truth(within(left, of, length));
    }
    if let [first, last] = right["range"].as_array().map_or(&[][..], Vec::as_slice) {
        let number = |text: &str| {
            let plain = || text.parse().ok().or_else(|| kind(text));
            address(text).map(|(number, _)| number).or_else(plain)
        };
        // Its kind is a number; one of ICMP, a word, is not compared with words.
        let own = address(left)
            .map(|(number, _)| number)
            .or(left.parse().ok());
        return match (own, number(&text(first)), number(&text(last))) {
            (Some(one), Some(first), Some(last)) => truth((first..=last).contains(&one)),
            _ => Truth::Unknown,
        };
    }
    match right {
        Value::String(text) => match text.strip_suffix('*') {
            Some(begin) => truth(left.starts_with(begin)),
            None if text == "icmpv6" => truth(left == "ipv6-icmp"),
            None => truth(left == text || kind(text).is_some_and(|one| *left == one.to_string())),
        },
        Value::Number(number) => truth(*left == number.to_string()),
        _ => Truth::Unknown,
    }
}
