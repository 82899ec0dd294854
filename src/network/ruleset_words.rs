//! A rule of the firewall in words: near to what `nft` writes, and for a guest's own as the guest's
//! definition has it. What rules do is `ruleset.rs`.

use serde_json::Value;

const WAYS: [(&str, &str, &str); 2] = [("incoming-", "in", "from"), ("outgoing-", "out", "to")];

/// Whether a chain is a guest's own.
pub(super) fn is_guests(chain: &str) -> bool {
    WAYS.iter().any(|(begin, ..)| chain.starts_with(begin))
}

/// A rule of a chain.
pub(super) fn words(rule: &Value, chain: &str) -> String {
    match WAYS
        .into_iter()
        .find(|(begin, ..)| chain.starts_with(begin))
    {
        Some((_, way, other)) => of_guest(rule, way, other),
        None => of_host(rule),
    }
}

fn parts(rule: &Value) -> impl Iterator<Item = (&String, &Value)> {
    let all = rule.as_array().into_iter().flatten();
    all.filter_map(|one| one.as_object()?.iter().next())
}

fn verdict(rule: &Value) -> Option<String> {
    let all = ["accept", "drop", "reject", "return", "masquerade", "snat"];
    parts(rule).find_map(|(kind, what)| match kind.as_str() {
        "jump" | "goto" => Some(format!("{kind} {}", value(&what["target"]))),
        kind => all.contains(&kind).then(|| kind.to_owned()),
    })
}

fn of_host(rule: &Value) -> String {
    let mut all = Vec::new();
    for (kind, what) in parts(rule) {
        match kind.as_str() {
            "match" => {
                let no = if what["op"] == "!=" { "!= " } else { "" };
                all.push(format!(
                    "{} {no}{}",
                    left(&what["left"]),
                    value(&what["right"])
                ));
            }
            "xt" => all.push(format!(
                "({} {})",
                value(&what["type"]),
                value(&what["name"])
            )),
            "vmap" => all.push(format!(
                "{} vmap {}",
                left(&what["key"]),
                value(&what["data"])
            )),
            _ => {}
        }
    }
    all.extend(verdict(rule));
    all.join(" ")
}

fn of_guest(rule: &Value, way: &str, other: &str) -> String {
    let mut all = vec![way.to_owned(), verdict(rule).unwrap_or_default()];
    for (_, what) in parts(rule).filter(|(kind, _)| *kind == "match") {
        let (asked, right) = (&what["left"], &what["right"]);
        let protocol = asked["payload"]["protocol"].as_str();
        match (protocol, asked["payload"]["field"].as_str()) {
            (Some(protocol), Some("dport")) => {
                all.push(format!("{protocol} {}", value(right)));
            }
            (Some("ip" | "ip6"), Some("saddr" | "daddr")) => {
                let end = value(right).replace("@addresses-", "@");
                all.push(format!("{other} {end}"));
            }
            // Whether it begins something is what guests' rules are about.
            _ if asked["&"][0]["payload"]["field"] == "flags" => {}
            // Of both versions.
            _ if asked["meta"]["key"] == "l4proto" => {
                all.push(value(right).replace("icmp,ipv6-icmp", "icmp"));
            }
            _ => return of_host(rule),
        }
    }
    all.join(" ")
}

fn left(asked: &Value) -> String {
    if let Some(parts) = asked["concat"].as_array() {
        let all: Vec<String> = parts.iter().map(left).collect();
        return all.join(" . ");
    }
    if let Some(masked) = asked["&"].as_array() {
        return masked.first().map(left).unwrap_or_default();
    }
    for kind in ["meta", "ct"] {
        if let Some(key) = asked[kind]["key"].as_str() {
            return match kind {
                "ct" => format!("ct {key}"),
                _ => key.to_owned(),
            };
        }
    }
    let payload = &asked["payload"];
    match payload["field"].as_str() {
        Some(field) => format!("{} {field}", value(&payload["protocol"])),
        None => "…".to_owned(),
    }
}

fn value(right: &Value) -> String {
    let list = |some: &Vec<Value>| {
        let all: Vec<String> = some.iter().map(value).collect();
        all.join(",")
    };
    if let Some(some) = right["set"].as_array().or(right.as_array()) {
        return list(some);
    }
    if let [first, last] = right["range"].as_array().map_or(&[][..], Vec::as_slice) {
        return format!("{}-{}", value(first), value(last));
    }
    if right["prefix"].is_object() {
        let prefix = &right["prefix"];
        return format!("{}/{}", value(&prefix["addr"]), value(&prefix["len"]));
    }
    match right {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => "…".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_guests_rule_reads_as_it_was_written() {
        let ports = json!({"match": {"op": "==",
            "left": {"payload": {"protocol": "tcp", "field": "dport"}},
            "right": {"set": [22, {"range": [80, 90]}]}}});
        let peer = json!({"match": {"op": "==",
            "left": {"payload": {"protocol": "ip", "field": "saddr"}},
            "right": {"prefix": {"addr": "192.0.2.0", "len": 24}}}});
        let rule = json!([ports, peer, {"counter": {}}, {"drop": null}]);
        let said = words(&rule, "incoming-bh0002");
        assert_eq!(said, "in drop tcp 22,80-90 from 192.0.2.0/24");
        let parsed: crate::model::FirewallRule = said.parse().unwrap();
        assert_eq!(parsed.to_string(), said);
        assert_eq!(
            words(&rule, "FORWARD"),
            "tcp dport 22,80-90 ip saddr 192.0.2.0/24 drop"
        );
        assert_eq!(
            words(&json!([{"drop": null}]), "outgoing-bh0002"),
            "out drop"
        );
    }
}
