//! The rules of a guest's firewall as the kernel has them: what passes because it belongs to something
//! that was let begin, then the guest's own, in order. Where they stand is `wall.rs`.
//!
//! Of TCP a set remembers what the guest has called: a packet to it of a connection that nobody has let
//! begin is held against the rules as one that asks for a connection is. Those that come in by a rule
//! pass by it until the guest has answered, so that a flood of first packets fills no set.
//!
//! What the guest has begun and what others have begun with it are in different sets: however many call
//! it, and whatever they send, answers to its own calls find room.

use serde_json::{Value, json};

use super::ceiling;
use super::firewall::{At, matches, rule};
use super::guard::set;
use super::served_rules::Spoken;
use super::urgency;
use super::wall_fields::{
    ACK, BEGINS, FIN, NONSENSE, PSH, RST, SYN, VERSIONS, conversation, ends, flags, l4proto,
    messages, neither, parts, peers, protocol,
};
use crate::kernel::netlink::NetlinkError;
use crate::kernel::netlink_nft::set_exists;
use crate::model::{Ceilings, FirewallRule, GuestName, RuleProtocol, RuleState};

/// How long an answer by UDP may take, seconds: as the kernel's own table has it.
const ANSWERED: u32 = 180;
/// How long a connection that stands may be silent, seconds: as that table has it.
const STANDING: u32 = 432_000;
/// How long one that begins or ends may, seconds.
const PASSING: u32 = 120;
/// How long who calls has to answer the guest's greeting, seconds.
const GREETED: u32 = 30;
/// Conversations of one guest that each of its sets remembers.
const CONVERSATIONS: u32 = 16_384;
/// Lines of the kernel's log that one rule writes in a second.
const LOG_RATE: u32 = 10;

/// Sets of a guest's own, without the version: conversations by UDP that it has begun, and those that
/// others have; connections by TCP that it has called, those that it was called by, and those that it
/// has answered and that have not gone on yet.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Memory {
    Answers,
    Asked,
    Calls,
    Called,
    Greeted,
}

impl Memory {
    pub(super) const ALL: [Self; 5] = [
        Self::Answers,
        Self::Asked,
        Self::Calls,
        Self::Called,
        Self::Greeted,
    ];

    pub(super) fn name(self, version: &str, interface: &str) -> String {
        let word = match self {
            Self::Answers => "answers",
            Self::Asked => "asked",
            Self::Calls => "calls",
            Self::Called => "called",
            Self::Greeted => "greeted",
        };
        let six = if version == "ip6" { "6" } else { "" };
        format!("{word}{six}-{interface}")
    }

    fn protocol(self) -> &'static str {
        match self {
            Self::Answers | Self::Asked => "udp",
            Self::Calls | Self::Called | Self::Greeted => "tcp",
        }
    }

    fn seconds(self) -> u32 {
        match self {
            Self::Answers | Self::Asked => ANSWERED,
            Self::Calls | Self::Called => PASSING,
            Self::Greeted => GREETED,
        }
    }
}

/// What a guest is held to at its port.
pub(super) struct Held<'a> {
    pub(super) guest: &'a GuestName,
    pub(super) interface: &'a str,
    pub(super) rules: &'a [FirewallRule],
    pub(super) ceilings: Ceilings,
    pub(super) spoken: Spoken,
}

impl Held<'_> {
    fn has(&self, incoming: bool, state: RuleState) -> bool {
        let mut rules = self.rules.iter();
        rules.any(|rule| rule.incoming == incoming && rule.state == Some(state))
    }

    /// Whether nothing is asked of its packets, and they only have a priority.
    fn only_ranked(&self) -> bool {
        self.rules.is_empty() && !self.ceilings.at_port()
    }

    /// Whether what comes to it is held to rules, and so what it calls is remembered.
    fn remembers(&self) -> bool {
        self.rules.iter().any(|rule| rule.incoming)
    }

    /// Whether nothing at all may come or go: the first rule of each direction drops everything.
    fn is_shut(&self) -> bool {
        [true, false].into_iter().all(|incoming| {
            let first = self.rules.iter().find(|rule| rule.incoming == incoming);
            first.is_some_and(|rule| !rule.accept && rule.is_for_all())
        })
    }

    /// The sets that it needs and has not; one that is there may be of a program before this, and its
    /// conversations go on.
    pub(super) fn missing_sets(&self, at: &At) -> Result<Vec<Value>, NetlinkError> {
        let mut all = Vec::new();
        if self.only_ranked() {
            return Ok(all);
        }
        for memory in Memory::ALL {
            let needed = match memory {
                Memory::Answers | Memory::Asked => true,
                Memory::Calls | Memory::Called => self.remembers(),
                Memory::Greeted => self.has(true, RuleState::Invalid),
            };
            for version in VERSIONS {
                let name = memory.name(version, self.interface);
                if needed && !set_exists(at.0, &at.1, &name)? {
                    all.push(memory_set(at, &name, version, memory));
                }
            }
        }
        Ok(all)
    }

    /// The rules of its chain of a direction, in order; and those of the chain for what belongs to
    /// something, of that name, if there are to be any.
    pub(super) fn chain(&self, at: &At, own: &str, incoming: bool, standing: &str) -> Vec<Value> {
        let mut all = Vec::new();
        if !incoming {
            all.extend(urgency::set(self.ceilings.urgency));
        }
        if self.only_ranked() {
            return all.into_iter().map(|expr| rule(at, own, expr)).collect();
        }
        let apart = self.has(incoming, RuleState::Established);
        let belongs = match apart {
            true => json!({"goto": {"target": standing}}),
            false => json!({"accept": null}),
        };
        let ceilings = Some(self.ceilings)
            .filter(|_| !incoming)
            .unwrap_or_default();
        let over = |rate: Option<u32>| {
            rate.map(|rate| json!([ceiling::over(rate), {"counter": null}, {"drop": null}]))
        };
        all.extend(over(ceilings.packets));
        all.push(json!([neither(at.0), {"accept": null}]));
        let nonsense = matches("==", flags(BEGINS), json!({"set": NONSENSE}));
        for one in self.of(incoming, RuleState::Invalid) {
            all.extend(self.expressions(one, std::slice::from_ref(&nonsense)));
        }
        // Where nothing may begin, nothing is an answer, and what goes on from before is not to.
        if !self.is_shut() {
            all.extend(self.spoken.passes(incoming));
            all.extend(parts(&belongs));
            all.extend(match (self.remembers(), incoming) {
                (false, _) => vec![json!([matches("!=", flags(BEGINS), json!("syn")), belongs])],
                (true, true) => self.called(&belongs),
                (true, false) => self.calling(&belongs),
            });
            all.extend(messages(&belongs));
            all.extend(self.answers(incoming, &belongs));
        }
        // What has come so far begins something, or belongs to nothing.
        all.extend(over(ceilings.new_connections));
        all.extend(self.own(incoming));
        // What no rule is about passes.
        for version in VERSIONS {
            let remember = self.remember(begun(incoming), version, incoming);
            all.push(json!([matches("==", l4proto(), json!("udp")), remember]));
            all.extend(self.call(version, incoming).map(|call| json!(call)));
        }
        let mut all: Vec<Value> = all.into_iter().map(|expr| rule(at, own, expr)).collect();
        if apart {
            for one in self.of(incoming, RuleState::Established) {
                for expr in self.expressions(one, &[]) {
                    all.push(rule(at, standing, expr));
                }
            }
            all.push(rule(at, standing, json!([{"accept": null}])));
        }
        all
    }

    /// Its rules for what has come so far.
    fn own(&self, incoming: bool) -> Vec<Value> {
        let mut all = Vec::new();
        for one in self.rules.iter().filter(|one| one.incoming == incoming) {
            let begins = matches("==", flags(BEGINS), json!("syn"));
            match one.state {
                Some(RuleState::Established) => {}
                Some(RuleState::Invalid) => {
                    let other = matches("!=", flags(BEGINS), json!("syn"));
                    all.extend(self.expressions(one, &[other]));
                }
                // Who was let begin sends on before the guest has answered.
                Some(RuleState::New) if one.accept => all.extend(self.expressions(one, &[])),
                Some(RuleState::New) => match one.protocol {
                    Some(RuleProtocol::Tcp) => all.extend(self.expressions(one, &[begins])),
                    Some(_) => all.extend(self.expressions(one, &[])),
                    None => {
                        all.extend(self.expressions(one, &[begins]));
                        let other = matches("!=", l4proto(), json!("tcp"));
                        all.extend(self.expressions(one, &[other]));
                    }
                },
                None => all.extend(self.expressions(one, &[])),
            }
        }
        all
    }

    fn of(&self, incoming: bool, state: RuleState) -> impl Iterator<Item = &FirewallRule> {
        let all = self.rules.iter();
        all.filter(move |rule| rule.incoming == incoming && rule.state == Some(state))
    }

    fn remember(&self, memory: Memory, version: &str, incoming: bool) -> Value {
        self.note("update", memory, version, incoming, memory.seconds())
    }

    /// Notes a conversation in a set: for so long from now on, or, to `add`, if it is not there yet.
    fn note(&self, op: &str, memory: Memory, version: &str, incoming: bool, seconds: u32) -> Value {
        let conversation = conversation(version, memory.protocol(), incoming);
        let set = format!("@{}", memory.name(version, self.interface));
        json!({"set": {
            "op": op, "set": set, "elem": {"elem": {"val": conversation, "timeout": seconds}}
        }})
    }

    fn is_known(&self, memory: Memory, version: &str, incoming: bool) -> Value {
        let set = json!(format!("@{}", memory.name(version, self.interface)));
        let conversation = conversation(version, memory.protocol(), incoming);
        matches("==", conversation, set)
    }

    /// What notes a connection that the guest asks for, where that is noted.
    fn call(&self, version: &str, incoming: bool) -> Option<[Value; 2]> {
        (!incoming && self.remembers()).then(|| {
            [
                matches("==", flags(BEGINS), json!("syn")),
                self.remember(Memory::Calls, version, incoming),
            ]
        })
    }

    /// What comes of connections that the guest has called, or answered. Data and the answer to its
    /// first packet keep them; what ends one lets it be forgotten soon.
    fn called(&self, belongs: &Value) -> Vec<Value> {
        let mut all = Vec::new();
        for version in VERSIONS {
            for memory in [Memory::Calls, Memory::Called] {
                let known = self.is_known(memory, version, true);
                let keep = |seconds| self.note("update", memory, version, true, seconds);
                let data = json!({"set": [PSH | ACK, SYN | ACK]});
                all.extend([
                    json!([ends(), known, keep(PASSING), belongs]),
                    json!([
                        matches("==", flags(SYN | PSH | ACK), data),
                        known,
                        keep(STANDING),
                        belongs
                    ]),
                    json!([matches("==", flags(ACK), json!(ACK)), known, belongs]),
                ]);
            }
            if self.has(true, RuleState::Invalid) {
                let greeted = self.is_known(Memory::Greeted, version, true);
                all.push(json!([
                    matches("!=", flags(BEGINS), json!("syn")),
                    greeted,
                    belongs
                ]));
            }
        }
        all
    }

    /// What the guest sends of connections that stand. Those that it has not called, by what is known,
    /// it was called by: they are known from then on, also those from before there were rules. Its
    /// greetings are not: a flood asks for many.
    fn calling(&self, belongs: &Value) -> Vec<Value> {
        let mut all = Vec::new();
        let goes_on = FIN | SYN | RST | PSH | ACK;
        let data = || matches("==", flags(goes_on), json!(PSH | ACK));
        let silent = || matches("==", flags(goes_on), json!(ACK));
        for version in VERSIONS {
            let known = |memory| self.is_known(memory, version, false);
            let note = |op, memory, seconds| self.note(op, memory, version, false, seconds);
            let (own, other) = (Memory::Calls, Memory::Called);
            all.extend([
                json!([ends(), known(own), note("update", own, PASSING), belongs]),
                json!([
                    ends(),
                    known(other),
                    note("update", other, PASSING),
                    belongs
                ]),
                json!([data(), known(own), note("update", own, STANDING), belongs]),
                json!([silent(), known(own), belongs]),
                json!([data(), note("update", other, STANDING), belongs]),
                json!([silent(), note("add", other, STANDING), belongs]),
            ]);
            if self.has(true, RuleState::Invalid) {
                let greets = matches("==", flags(BEGINS), json!(SYN | ACK));
                let note = self.remember(Memory::Greeted, version, false);
                all.push(json!([greets, note, belongs]));
            }
        }
        all.push(json!([matches("!=", flags(BEGINS), json!("syn")), belongs]));
        all
    }

    fn answers(&self, incoming: bool, belongs: &Value) -> Vec<Value> {
        let mut all = Vec::new();
        for version in VERSIONS {
            for memory in [Memory::Answers, Memory::Asked] {
                let known = self.is_known(memory, version, incoming);
                let remember = self.remember(memory, version, incoming);
                all.push(json!([known, remember, belongs]));
            }
        }
        all
    }

    /// One rule as the kernel has it, for what fits these as well: and what logs and remembers what
    /// fits it.
    fn expressions(&self, one: &FirewallRule, more: &[Value]) -> Vec<Value> {
        let fits: Vec<Value> = more.iter().cloned().chain(protocol(one)).collect();
        let mut all = Vec::new();
        for (peer, versions) in peers(one) {
            let with = |rest: &[Value]| Value::Array([&fits[..], peer.as_slice(), rest].concat());
            let verdict = if one.accept { "accept" } else { "drop" };
            if one.log {
                let way = if one.incoming { "in" } else { "out" };
                let prefix = format!("bulkhead {} {way} {verdict}: ", self.guest);
                all.push(with(&[
                    json!({"limit": {"rate": LOG_RATE, "per": "second"}}),
                    json!({"log": {"prefix": prefix}}),
                ]));
            }
            let begins = one.accept && one.state != Some(RuleState::Established);
            for version in versions {
                if begins && matches!(one.protocol, None | Some(RuleProtocol::Udp)) {
                    let udp = matches("==", l4proto(), json!("udp"));
                    let remember = self.remember(begun(one.incoming), version, one.incoming);
                    all.push(with(&[udp, remember, json!({"accept": null})]));
                }
                if begins
                    && matches!(one.protocol, None | Some(RuleProtocol::Tcp))
                    && let Some([begins, call]) = self.call(version, one.incoming)
                {
                    all.push(with(&[begins, call, json!({"accept": null})]));
                }
            }
            all.push(with(&[json!({ verdict: null })]));
        }
        all
    }
}

/// Where a conversation by UDP is remembered that begins in this direction.
fn begun(incoming: bool) -> Memory {
    match incoming {
        true => Memory::Asked,
        false => Memory::Answers,
    }
}

fn memory_set(at: &At, name: &str, version: &str, memory: Memory) -> Value {
    let kind = if version == "ip6" {
        "ipv6_addr"
    } else {
        "ipv4_addr"
    };
    let mut add = set(at, name, json!([kind, "inet_service", "inet_service"]));
    let set = &mut add["add"]["set"];
    set["flags"] = json!(["timeout"]);
    set["timeout"] = json!(memory.seconds());
    set["size"] = json!(CONVERSATIONS);
    add
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::netlink_nft::Family;

    fn rules(texts: &[&str]) -> Vec<FirewallRule> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn held<'a>(guest: &'a GuestName, rules: &'a [FirewallRule]) -> Held<'a> {
        Held {
            guest,
            interface: "bh0002",
            rules,
            ceilings: Ceilings::default(),
            spoken: Spoken::default(),
        }
    }

    #[test]
    fn a_rule_that_logs_is_two_and_both_fit_the_same() {
        let guest = "web".parse().unwrap();
        let rules = rules(&["in drop tcp 1-9,25 from 192.0.2.0/24 log"]);
        let held = held(&guest, &rules);
        let [logs, drops] = &held.expressions(&rules[0], &[])[..] else {
            panic!("two rules");
        };
        let of = |one: &Value| one.as_array().unwrap().clone();
        let (logs, drops) = (of(logs), of(drops));
        assert_eq!(logs[..2], drops[..2]);
        assert_eq!(logs[3]["log"]["prefix"], "bulkhead web in drop: ");
        assert_eq!(drops[2], json!({"drop": null}));
    }

    #[test]
    fn a_set_is_asked_for_both_versions() {
        let guest = "web".parse().unwrap();
        let rules = rules(&["in drop icmp from @office"]);
        let text = json!(held(&guest, &rules).expressions(&rules[0], &[])).to_string();
        assert!(text.contains("\"@addresses-office\"") && text.contains("\"@addresses6-office\""));
    }

    #[test]
    fn what_belongs_meets_the_rules_that_are_about_that() {
        let guest = "web".parse().unwrap();
        let at = (Family::Bridge, "t".to_owned());
        let texts = |rules: &[FirewallRule]| {
            let all = held(&guest, rules).chain(&at, "own", true, "standing");
            json!(all).to_string()
        };
        let without = texts(&rules(&["in drop"]));
        assert!(!without.contains("standing") && without.contains("@calls-bh0002"));
        let with = texts(&rules(&[
            "in drop established tcp from 192.0.2.7",
            "in drop",
        ]));
        assert!(
            with.contains("{\"goto\":{\"target\":\"standing\"}}"),
            "{with}"
        );
        assert!(!texts(&rules(&["out drop"])).contains("@calls"));
        assert!(!texts(&rules(&["in drop", "out drop"])).contains("@calls"));
        assert!(texts(&rules(&["in drop invalid"])).contains("@greeted-bh0002"));
    }

    /// Otherwise many that call it would fill what its own calls need.
    #[test]
    fn nobody_else_fills_what_a_guest_remembers_of_its_own() {
        let guest = "web".parse().unwrap();
        let at = (Family::Bridge, "t".to_owned());
        let rules = rules(&["in accept tcp 80", "in accept udp 53", "in drop"]);
        let held = held(&guest, &rules);
        for (incoming, begins) in [(true, false), (false, true)] {
            let mut noted = 0;
            for rule in held.chain(&at, "own", incoming, "standing") {
                let expr = rule["add"]["rule"]["expr"].as_array().unwrap().clone();
                let text = |one: &Value| one.to_string();
                for set in ["@calls-bh0002", "@answers-bh0002"] {
                    let into = |one: &&Value| one["set"]["set"] == set;
                    let Some(at) = expr.iter().position(|one| into(&one)) else {
                        continue;
                    };
                    let known = |one: &Value| one["match"]["right"] == set;
                    let syn = text(&matches("==", flags(BEGINS), json!("syn")));
                    let udp = text(&matches("==", l4proto(), json!("udp")));
                    let of_its_own = |one: &Value| [&syn, &udp].contains(&&text(one));
                    let before = &expr[..at];
                    let fits = before.iter().any(known) || begins && before.iter().any(of_its_own);
                    assert!(fits, "{rule}");
                    noted += 1;
                }
            }
            assert!(noted > 1, "{noted}");
        }
    }
}
