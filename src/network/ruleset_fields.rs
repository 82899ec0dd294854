//! What a rule of the firewall asks a packet for, and whether that is what the packet has: the
//! expressions of `nft`'s JSON (libnftables-json(5)). Whose rules they are is `ruleset.rs`.

use std::net::Ipv4Addr;

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
            "l4proto" => one(packet.protocol.name()),
            "nfproto" => one("ipv4"),
            "protocol" => one("ip"),
            "pkttype" => one("host"),
            _ => Field::Unknown,
        };
    }
    if let Some(key) = left["ct"]["key"].as_str() {
        return match key {
            "state" => one("new"),
            "status" => one(if packet.led { "dnat" } else { "none" }),
            _ => Field::Unknown,
        };
    }
    // IPv4 has none.
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
        (Some("ether"), "type") => one("ip".to_owned()),
        (Some("ether"), "saddr") => packet.mac.clone().map_or(Field::Unknown, one),
        (Some("ip"), "saddr") => one(packet.sender.to_string()),
        (Some("ip"), "daddr") => one(packet.receiver.to_string()),
        (Some("ip"), "protocol") => one(packet.protocol.name().to_owned()),
        (Some("ip"), "frag-off") => one("0".to_owned()),
        (Some("ip6" | "arp" | "vlan" | "icmpv6"), _) => Field::Absent,
        (Some(name @ ("tcp" | "udp" | "icmp")), _) if name != packet.protocol.name() => {
            Field::Absent
        }
        (Some("tcp" | "udp" | "th"), "dport") => one(packet.port.to_string()),
        (Some("tcp" | "udp" | "th"), "sport") => one(ASKING.to_string()),
        (Some("tcp"), "flags") => one("syn".to_owned()),
        (Some("icmp"), "type") => one("echo-request".to_owned()),
        (Some("icmp"), "code") => one("0".to_owned()),
        _ => Field::Unknown,
    }
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
    let address = |text: &str| text.parse::<Ipv4Addr>().ok().map(Ipv4Addr::to_bits);
    if let (Some(of), Some(bits)) = (
        right["prefix"]["addr"].as_str(),
        right["prefix"]["len"].as_u64(),
    ) {
        let mask = u32::MAX.checked_shl(32 - u32::try_from(bits.min(32)).unwrap_or(32));
        let network = |text| address(text).map(|bits| bits & mask.unwrap_or(0));
        return truth(network(left).is_some() && network(left) == network(of));
    }
    if let [first, last] = right["range"].as_array().map_or(&[][..], Vec::as_slice) {
        let number = |text: &str| address(text).or(text.parse().ok());
        let number = |value: &Value| number(&text(value));
        let (first, last) = (number(first), number(last));
        return match (address(left).or(left.parse().ok()), first, last) {
            (Some(one), Some(first), Some(last)) => truth((first..=last).contains(&one)),
            _ => Truth::Unknown,
        };
    }
    match right {
        Value::String(text) => match text.strip_suffix('*') {
            Some(begin) => truth(left.starts_with(begin)),
            None => truth(left == text),
        },
        Value::Number(number) => truth(*left == number.to_string()),
        _ => Truth::Unknown,
    }
}
