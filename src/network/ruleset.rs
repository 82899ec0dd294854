//! The host's whole firewall as the kernel has it, read back through `nft`, and what it does to one
//! packet: the host's own rules and ours alike. What a rule asks for that cannot be told from here leaves
//! a doubt, which is kept apart from what is certain. Where a packet comes by is `trace.rs`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::Value;

use super::firewall::{self, FirewallError};
use super::ruleset_fields::{Field, any, equal, fields};
use crate::model::RuleProtocol;

/// Chains that lead to chains: more than this is a circle, which the kernel takes from nobody.
const DEEPEST: u8 = 16;
/// A port that nobody listens on: who asks gets one such.
pub(super) const ASKING: u16 = 40_000;

/// A packet at one place, with all that rules ask for and that is known.
#[derive(Clone, Debug)]
pub(super) struct Packet {
    /// Interface it came in by; empty for the host's own, or one that nobody has named.
    pub(super) from: String,
    /// Interface it goes out by.
    pub(super) to: String,
    /// Group of those two.
    pub(super) groups: (u32, u32),
    /// Hardware address of its sender, if that is a guest.
    pub(super) mac: Option<String>,
    pub(super) sender: IpAddr,
    pub(super) receiver: IpAddr,
    pub(super) protocol: RuleProtocol,
    /// Port of who is called.
    pub(super) port: u16,
    /// Whether a port of the host led it to where it goes.
    pub(super) led: bool,
    /// Whether it is for the host itself.
    pub(super) here: bool,
    /// Whether a bridge of ours passes it on, and so the host keeps no track of it.
    pub(super) bridged: bool,
}

impl Packet {
    pub(super) fn is_ipv6(&self) -> bool {
        self.receiver.is_ipv6()
    }

    /// What runs over it, as `nft` writes it.
    pub(super) fn over(&self) -> &'static str {
        match (self.protocol, self.is_ipv6()) {
            (RuleProtocol::Icmp, true) => "ipv6-icmp",
            (protocol, _) => protocol.name(),
        }
    }
}

/// Which rule decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Decided {
    pub(super) family: String,
    pub(super) table: String,
    pub(super) chain: String,
    /// The rule in words near to nft's; `None` for what the chain does with all that no rule is about.
    pub(super) rule: Option<String>,
}

/// What becomes of a packet at one place.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// What drops it.
    pub(super) dropped: Option<Decided>,
    /// What may drop it: a rule asks for what cannot be told.
    pub(super) doubts: Vec<Decided>,
    /// The rule of a guest's own firewall that let it pass.
    pub(super) let_pass: Option<Decided>,
    /// Whether it goes on under another address.
    pub(super) masked: bool,
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Truth {
    Yes,
    No,
    Unknown,
}

/// How a chain ends.
enum End {
    Accept,
    Drop(Decided),
    Through,
}

/// A chain or a set: family, table and name.
pub(super) type Place = (String, String, String);

struct Base {
    at: Place,
    hook: String,
    nat: bool,
    priority: i64,
    drops: bool,
    /// Of what interfaces it is, where it is not of all. `nft` before 1.0.8 does not tell.
    devices: Vec<String>,
}

/// All of it.
#[derive(Default)]
pub(super) struct Ruleset {
    bases: Vec<Base>,
    rules: BTreeMap<Place, Vec<Value>>,
    sets: BTreeMap<Place, Vec<Value>>,
}

pub(super) fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

impl Ruleset {
    pub(super) fn read() -> Result<Self, FirewallError> {
        Ok(Self::of(&firewall::read()?))
    }

    pub(super) fn of(list: &Value) -> Self {
        let mut all = Self::default();
        for one in list["nftables"].as_array().into_iter().flatten() {
            let Some((kind, object)) = one.as_object().and_then(|o| o.iter().next()) else {
                continue;
            };
            let name = match kind.as_str() {
                "rule" => "chain",
                _ => "name",
            };
            let at = ["family", "table", name].map(|key| text(&object[key]));
            let at: Place = at.into();
            match kind.as_str() {
                "chain" if object["hook"].is_string() => all.bases.push(Base {
                    at,
                    hook: text(&object["hook"]),
                    nat: object["type"] == "nat",
                    priority: object["prio"].as_i64().unwrap_or(0),
                    drops: object["policy"] == "drop",
                    devices: match &object["dev"] {
                        Value::Array(all) => all.iter().map(text).collect(),
                        Value::String(one) => vec![one.clone()],
                        _ => Vec::new(),
                    },
                }),
                "chain" => {
                    all.rules.entry(at).or_default();
                }
                "rule" => all
                    .rules
                    .entry(at)
                    .or_default()
                    .push(object["expr"].clone()),
                "set" | "map" => {
                    let elements = object["elem"].as_array().cloned().unwrap_or_default();
                    all.sets.insert(at, elements);
                }
                _ => {}
            }
        }
        all.bases.sort_by_key(|base| base.priority);
        all
    }

    /// Whether there is a chain of that name in a table.
    pub(super) fn has_chain(&self, family: &str, table: &str, chain: &str) -> bool {
        let at = (family.to_owned(), table.to_owned(), chain.to_owned());
        self.rules.contains_key(&at)
    }

    /// How many rules are in a chain.
    pub(super) fn rules_in(&self, chain: &Place) -> usize {
        self.rules.get(chain).map_or(0, Vec::len)
    }

    /// Whether anything is asked at all where packets come in by an interface.
    pub(super) fn is_asked_at(&self, family: &str, interface: &str) -> bool {
        let on = |base: &Base| {
            base.devices.is_empty() || base.devices.iter().any(|one| one == interface)
        };
        self.bases
            .iter()
            .any(|base| base.at.0 == family && on(base))
    }

    /// What becomes of a packet at a hook, in chains of these families.
    pub(super) fn at(&self, families: &[&str], hook: &str, packet: &Packet) -> Outcome {
        let mut outcome = Outcome::default();
        for base in &self.bases {
            let wanted = families.contains(&base.at.0.as_str()) && base.hook == hook;
            let elsewhere = !base.devices.is_empty() && !base.devices.contains(&packet.from);
            // Where a port of the host leads is asked before.
            if !wanted || elsewhere || (base.nat && hook != "postrouting") {
                continue;
            }
            let mut doubtful = base.at.0 == "netdev" && base.devices.is_empty();
            let end = self.chain(&base.at, packet, &mut outcome, &mut doubtful, 0);
            let dropped = match end {
                End::Drop(decided) => Some(decided),
                End::Through if base.drops => Some(decided(&base.at, None)),
                End::Accept | End::Through => None,
            };
            match dropped {
                Some(decided) if doubtful => outcome.doubts.push(decided),
                Some(decided) => {
                    outcome.dropped = Some(decided);
                    return outcome;
                }
                None => {}
            }
        }
        outcome
    }

    fn chain(
        &self,
        at: &Place,
        packet: &Packet,
        outcome: &mut Outcome,
        doubtful: &mut bool,
        depth: u8,
    ) -> End {
        if depth > DEEPEST {
            return End::Through;
        }
        for rule in self.rules.get(at).into_iter().flatten() {
            let (truth, verdict) = self.rule(at, rule, packet);
            let Some((verdict, target)) = verdict.filter(|_| truth != Truth::No) else {
                continue;
            };
            let end = match verdict.as_str() {
                "accept" => End::Accept,
                "drop" | "reject" => End::Drop(decided(at, Some(rule))),
                "return" if truth == Truth::Yes => return End::Through,
                "return" => {
                    *doubtful = true;
                    End::Through
                }
                "jump" | "goto" => {
                    let target = (at.0.clone(), at.1.clone(), target);
                    let end = self.chain(&target, packet, outcome, doubtful, depth + 1);
                    // What a chain gone to leaves open comes back to whoever jumped here.
                    if verdict == "goto" && truth == Truth::Yes && matches!(end, End::Through) {
                        return End::Through;
                    }
                    end
                }
                "masquerade" | "snat" => {
                    outcome.masked = true;
                    End::Accept
                }
                _ => End::Through,
            };
            match (end, truth) {
                (End::Through, _) => {}
                (End::Accept, Truth::Unknown) => *doubtful = true,
                (End::Drop(decided), Truth::Unknown) => outcome.doubts.push(decided),
                (End::Accept, _) => {
                    if super::ruleset_words::is_guests(&at.2) && outcome.let_pass.is_none() {
                        outcome.let_pass = Some(decided(at, Some(rule)));
                    }
                    return End::Accept;
                }
                (end, _) => return end,
            }
        }
        End::Through
    }

    /// Whether a rule fits, and what it says then: a word, and where it leads.
    fn rule(&self, at: &Place, rule: &Value, packet: &Packet) -> (Truth, Option<(String, String)>) {
        let mut truth = Truth::Yes;
        for one in rule.as_array().into_iter().flatten() {
            let Some((kind, what)) = one.as_object().and_then(|o| o.iter().next()) else {
                continue;
            };
            let fits = match kind.as_str() {
                "match" => self.fits(at, what, packet),
                // More than a rate, or more than so many: not yet, as far as we can tell.
                "limit" | "ct count" if what["inv"] == true => Truth::No,
                "set" if what["stmt"][0]["ct count"]["inv"] == true => Truth::No,
                "set" if what["stmt"][0]["limit"]["inv"] == true => Truth::No,
                "set" => match fields(&what["elem"], packet) {
                    Field::Absent => Truth::No,
                    _ => Truth::Yes,
                },
                "xt" if what["type"] == "target" => return (truth, None),
                "xt" => Truth::Unknown,
                "vmap" => match self.verdict(at, what, packet) {
                    Some(verdict) => return (truth, Some(verdict)),
                    None if matches!(fields(&what["key"], packet), Field::Unknown) => {
                        Truth::Unknown
                    }
                    None => Truth::No,
                },
                "accept" | "drop" | "reject" | "return" | "masquerade" | "snat" | "dnat"
                | "redirect" | "queue" => return (truth, Some((kind.clone(), String::new()))),
                "jump" | "goto" => {
                    return (truth, Some((kind.clone(), text(&what["target"]))));
                }
                _ => Truth::Yes,
            };
            match fits {
                Truth::No => return (Truth::No, None),
                Truth::Unknown => truth = Truth::Unknown,
                Truth::Yes => {}
            }
        }
        (truth, None)
    }

    /// What a map of verdicts says.
    fn verdict(&self, at: &Place, vmap: &Value, packet: &Packet) -> Option<(String, String)> {
        let Field::Is(key) = fields(&vmap["key"], packet) else {
            return None;
        };
        let anonymous = vmap["data"]["set"].as_array();
        let elements = match anonymous {
            Some(elements) => elements,
            None => self.set(at, &vmap["data"])?,
        };
        let pair = elements.iter().filter_map(Value::as_array).find(|pair| {
            pair.first()
                .is_some_and(|one| equal(&key, one) == Truth::Yes)
        })?;
        let (verdict, what) = pair.get(1)?.as_object()?.iter().next()?;
        Some((verdict.clone(), text(&what["target"])))
    }

    fn set(&self, at: &Place, name: &Value) -> Option<&Vec<Value>> {
        let name = name.as_str()?.strip_prefix('@')?;
        self.sets
            .get(&(at.0.clone(), at.1.clone(), name.to_owned()))
    }

    fn fits(&self, at: &Place, what: &Value, packet: &Packet) -> Truth {
        let left = match fields(&what["left"], packet) {
            Field::Is(left) => left,
            Field::Absent => return Truth::No,
            Field::Unknown => return Truth::Unknown,
        };
        let right = &what["right"];
        let several = right.as_array().is_some_and(|flags| flags.len() > 1);
        let same = match self.set(at, right) {
            // Several flags at once, which the first packet has not.
            _ if several && what["left"]["&"].is_array() => Truth::No,
            Some(elements) => any(&left, elements),
            None if right.as_str().is_some_and(|text| text.starts_with('@')) => Truth::Unknown,
            None => equal(&left, right),
        };
        match (what["op"].as_str(), same) {
            (Some("!="), Truth::Yes) => Truth::No,
            (Some("!="), Truth::No) => Truth::Yes,
            (Some("==" | "in" | "!="), same) => same,
            _ => Truth::Unknown,
        }
    }
}

fn decided(at: &Place, rule: Option<&Value>) -> Decided {
    Decided {
        family: at.0.clone(),
        table: at.1.clone(),
        chain: at.2.clone(),
        rule: rule.map(|rule| super::ruleset_words::words(rule, &at.2)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn packet() -> Packet {
        Packet {
            from: "bh0002".to_owned(),
            to: "up".to_owned(),
            groups: (0, 0),
            mac: Some("02:62:0a:00:00:02".to_owned()),
            sender: IpAddr::from([10, 0, 0, 2]),
            receiver: IpAddr::from([192, 0, 2, 9]),
            protocol: RuleProtocol::Tcp,
            port: 80,
            led: false,
            here: false,
            bridged: false,
        }
    }

    fn host(policy: &str, rules: &[Value]) -> Ruleset {
        let at = |more: Value| {
            let mut all = json!({"family": "ip", "table": "filter"});
            let more = more.as_object().unwrap().clone();
            all.as_object_mut().unwrap().extend(more);
            all
        };
        let chain = at(json!({"name": "FORWARD", "hook": "forward", "prio": 0, "policy": policy}));
        let mut all = vec![
            json!({ "chain": chain }),
            json!({"set": at(json!({"name": "good", "elem": ["192.0.2.1", {"range": ["192.0.2.8", "192.0.2.10"]}]}))}),
        ];
        for rule in rules {
            all.push(json!({"rule": at(json!({"chain": "FORWARD", "expr": rule}))}));
        }
        Ruleset::of(&json!({ "nftables": all }))
    }

    fn is(left: Value, right: Value) -> Value {
        json!({"match": {"op": "==", "left": left, "right": right}})
    }

    #[test]
    fn what_fits_decides_and_what_cannot_be_told_is_a_doubt() {
        let port = || json!({"payload": {"protocol": "tcp", "field": "dport"}});
        let receiver = || json!({"payload": {"protocol": "ip", "field": "daddr"}});
        let xt = || json!({"xt": {"type": "match", "name": "owner"}});
        let drop = || json!({"drop": null});
        let accept = || json!({"accept": null});
        for (policy, rules, dropped, doubts) in [
            ("accept", vec![], false, 0),
            ("drop", vec![], true, 0),
            (
                "accept",
                vec![json!([
                    is(port(), json!({"set": [443, {"range": [79, 81]}]})),
                    drop()
                ])],
                true,
                0,
            ),
            (
                "accept",
                vec![json!([is(port(), json!(443)), drop()])],
                false,
                0,
            ),
            (
                "drop",
                vec![json!([is(receiver(), json!("@good")), accept()])],
                false,
                0,
            ),
            (
                "drop",
                vec![json!([
                    is(
                        receiver(),
                        json!({"prefix": {"addr": "192.0.3.0", "len": 24}})
                    ),
                    accept()
                ])],
                true,
                0,
            ),
            ("accept", vec![json!([xt(), drop()])], false, 1),
            ("drop", vec![json!([xt(), accept()])], false, 1),
            (
                "drop",
                vec![json!([xt(), is(port(), json!(81)), accept()])],
                true,
                0,
            ),
            (
                "accept",
                vec![json!([
                    is(
                        json!({"payload": {"protocol": "udp", "field": "dport"}}),
                        json!(80)
                    ),
                    drop()
                ])],
                false,
                0,
            ),
            (
                "drop",
                vec![json!([
                    is(json!({"meta": {"key": "iifname"}}), json!("bh*")),
                    accept()
                ])],
                false,
                0,
            ),
            (
                "accept",
                vec![json!([{"limit": {"rate": 9, "inv": true}}, drop()])],
                false,
                0,
            ),
            (
                "accept",
                vec![json!([{"jump": {"target": "gone"}}]), json!([drop()])],
                true,
                0,
            ),
        ] {
            let outcome = host(policy, &rules).at(&["ip", "inet"], "forward", &packet());
            assert_eq!(outcome.dropped.is_some(), dropped, "{policy} {rules:?}");
            assert_eq!(outcome.doubts.len(), doubts, "{policy} {rules:?}");
        }
        let by = host("drop", &[]).at(&["ip"], "forward", &packet()).dropped;
        assert_eq!(by.unwrap().rule, None, "no rule: the policy");
    }

    #[test]
    fn a_circle_of_chains_ends() {
        let all = host("accept", &[json!([{"jump": {"target": "FORWARD"}}])]);
        assert!(all.at(&["ip"], "forward", &packet()).dropped.is_none());
    }
}
