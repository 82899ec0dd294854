//! The firewall tables of an installation, as data for `nft -j`, and the run of `nft`. They hold
//! nothing but what this program put there, so taking them away takes all of it away. What guests may
//! send is `guard.rs`.

use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::classes::Internal;
use super::served_rules::Spoken;
use super::subnet::Subnet;
use super::{ceiling, forward, guard, nat6, traffic, untracked, urgency, vxlan};
use crate::kernel::netlink_nft::Family;
use crate::model::Prefix6;

/// Where `nft` may lie; never searched for in PATH, which belongs to whoever called.
const PLACES: [&str; 4] = [
    "/usr/sbin/nft",
    "/sbin/nft",
    "/usr/local/sbin/nft",
    "/usr/bin/nft",
];

/// Raised whenever the rules change: what was set up by a program of another revision is set up anew,
/// and a start need not write out all rules to find that they stand.
pub(super) const REVISION: u32 = 14;

/// The firewall could not be set.
#[derive(Debug, thiserror::Error)]
pub enum FirewallError {
    /// No program.
    #[error(
        "cannot set up the firewall between guests: there is no `nft` on this host; install the package nftables"
    )]
    Missing,
    /// It could not be run.
    #[error("cannot run {}: {source}", program.display())]
    Run {
        /// Which program.
        program: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It refused one rule of somebody's.
    #[error("cannot set rule {number} of {whose}, {rule:?}: nft says: {said}; nothing was changed")]
    Rule {
        /// Whose it is.
        whose: String,
        /// Its place there, from one.
        number: usize,
        /// The rule.
        rule: String,
        /// Its own words.
        said: String,
    },
    /// It refused.
    #[error("cannot {verb} the firewall table {table}: nft says: {said}")]
    Refused {
        /// What was tried.
        verb: &'static str,
        /// On which table.
        table: String,
        /// Its own words.
        said: String,
    },
}

/// Path of `nft`.
pub(super) fn program() -> Result<&'static Path, FirewallError> {
    PLACES
        .iter()
        .map(Path::new)
        .find(|path| path.is_file())
        .ok_or(FirewallError::Missing)
}

/// Everything: the NAT table of family inet, replacing what is there, where there is to be one, and
/// the guard; one transaction.
pub(super) fn tables(wanted: &Wanted<'_>) -> Value {
    let &Wanted {
        guard,
        name,
        inside,
        subnet,
        prefix6,
        ..
    } = wanted;
    let mut all = guard::table(guard, subnet, wanted.own, prefix6, wanted.spoken);
    all.extend(traffic::table(guard, wanted.internal));
    if wanted.closed {
        all.extend(guard::closed(guard, wanted.spoken));
    }
    if let Some(ends) = wanted.gate {
        all = gated(all, guard, ends);
    }
    if let Some(wire) = wanted.wire {
        all.extend(vxlan::closed(guard, wire));
    }
    all.extend(wanted.spoken.unheard(guard));
    if let Some(connections) = wanted.nat {
        all.extend(nat_table(name, inside, subnet, prefix6));
        all.extend(wanted.spoken.inside(name, inside));
        all.extend(wanted.spoken.kept(name, inside));
        all.extend(ceilings(name, inside, connections));
        if connections > 0 && prefix6.is_some() {
            all.extend(nat6::ceiling(name, connections));
        }
    } else if wanted.closed {
        all.extend(wanted.spoken.apart(name, inside));
    }
    all.extend(urgency::of(wanted));
    if wanted.nat.is_none() && !wanted.closed {
        // A bridge of ours has that table without NAT as well, and nobody serves on another.
        all.extend(wanted.spoken.inside(name, inside));
        all.extend(wanted.spoken.kept(name, inside));
    }
    all.extend(untracked::of(wanted));
    json!({ "nftables": all })
}

/// What the tables of a network depend on.
pub(super) struct Wanted<'a> {
    /// The guard's table.
    pub(super) guard: &'a At,
    /// The other table's name.
    pub(super) name: &'a str,
    /// The interface that leads to guests, or how the names of all those begin, with a `*`.
    pub(super) inside: &'a str,
    /// The pool.
    pub(super) subnet: Subnet,
    /// Its IPv6 prefix.
    pub(super) prefix6: Option<Prefix6>,
    /// Most connections of one guest, 0 for any number; `None` for no table of NAT.
    pub(super) nat: Option<u32>,
    /// The host's own address in it; `None` if the bridge is somebody else's.
    pub(super) own: Option<Ipv4Addr>,
    /// Whether nothing comes to the host.
    pub(super) closed: bool,
    /// How names of the guests' interfaces begin, with a `*`, if the first rule of each chain is to let
    /// all others go: there can be many networks, and each one's chains are met by the packets of all.
    pub(super) gate: Option<&'a str>,
    /// Over which interface frames come from other hosts that are not to come to this one.
    pub(super) wire: Option<&'a str>,
    /// What guests and a server of the network say to each other.
    pub(super) spoken: Spoken,
    /// Other ends that make traffic internal.
    pub(super) internal: &'a Internal,
}

/// The same with such a rule at the head of every chain that has a hook.
pub(super) fn gated(all: Vec<Value>, at: &At, ends: &str) -> Vec<Value> {
    let mut gated = Vec::with_capacity(all.len() + 8);
    let mut hook = Value::Null;
    for command in all {
        if let Some(kind) = command["add"]["chain"].get("hook") {
            hook = kind.clone();
        }
        let chain = command["flush"]["chain"]["name"].clone();
        gated.push(command);
        if let Some(chain) = chain.as_str() {
            let key = match hook.as_str() {
                Some("forward" | "postrouting") => "oifname",
                _ => "iifname",
            };
            let elsewhere = matches("!=", json!({"meta": {"key": key}}), json!(ends));
            gated.push(rule(at, chain, json!([elsewhere, {"accept": null}])));
        }
    }
    gated
}

/// Guests go out under the host's address. Into the bridge comes what answers them and what a port of
/// the host leads there (`forward.rs`, or anybody's destination NAT); a neighbour of the host that routes to the pool by
/// itself does not get in. Guests speak with each other, and the host with them, without passing here.
fn nat_table(name: &str, bridge: &str, subnet: Subnet, prefix6: Option<Prefix6>) -> Vec<Value> {
    let at = (Family::Inet, name.to_owned());
    let out = |op: &str| matches(op, json!({"meta": {"key": "oifname"}}), json!(bridge));
    let inside = matches("==", json!({"meta": {"key": "iifname"}}), json!(bridge));
    let ct = |key: &str, right: Value| matches("in", json!({"ct": {"key": key}}), right);
    let source = matches(
        "==",
        json!({"payload": {"protocol": "ip", "field": "saddr"}}),
        json!({"prefix": {"addr": subnet.network(), "len": subnet.prefix()}}),
    );
    let pass = |expr: Value| rule(&at, "forward", expr);
    let dnat = || ct("status", json!("dnat"));
    let mut all = vec![
        // Adding first makes deleting safe where there is none.
        json!({"add": {"table": {"family": "inet", "name": name}}}),
        json!({"delete": {"table": {"family": "inet", "name": name}}}),
        json!({"add": {"table": {"family": "inet", "name": name}}}),
        chain(&at, "postrouting", "nat", "postrouting", 100),
        rule(
            &at,
            "postrouting",
            json!([source, out("!="), {"masquerade": null}]),
        ),
        // From one guest to another by a port of the host: the answer has to come back this way.
        rule(
            &at,
            "postrouting",
            json!([source, out("=="), dnat(), {"masquerade": null}]),
        ),
        chain(&at, "forward", "filter", "forward", 0),
        pass(json!([inside, {"accept": null}])),
        pass(json!([out("=="), ct("state", json!(["established", "related"])), {"accept": null}])),
        pass(json!([out("=="), dnat(), {"accept": null}])),
    ];
    if let Some(prefix) = prefix6 {
        all.extend(nat6::rules(&at, bridge, prefix));
    }
    all.push(pass(json!([out("=="), {"drop": null}])));
    all.extend(forward::table(&at, prefix6.is_some()));
    all
}

/// A guest that has so many connections gets no more: it would fill the host's table, and its
/// neighbours could make none. Its own number counts before the one for all, which is none if 0. That
/// it sends with its own address only is the guard's matter.
fn ceilings(name: &str, bridge: &str, connections: u32) -> Vec<Value> {
    const SET: &str = "connections";
    let at = (Family::Inet, name.to_owned());
    let sender = json!({"payload": {"protocol": "ip", "field": "saddr"}});
    let counted = json!({"set": {
        "op": "add", "elem": sender, "set": format!("@{SET}"),
        "stmt": [{"ct count": {"val": connections, "inv": true}}]
    }});
    let inside = matches("==", json!({"meta": {"key": "iifname"}}), json!(bridge));
    let new = matches("in", json!({"ct": {"key": "state"}}), json!("new"));
    let mut all = ceiling::table(&at).to_vec();
    all.push(chain(&at, "ceiling", "filter", "prerouting", TRACKED));
    all.push(json!({"add": {"chain": {"family": "inet", "table": name, "name": COUNTED}}}));
    let counts = json!({"goto": {"target": COUNTED}});
    all.push(rule(&at, "ceiling", json!([new, inside, counts])));
    all.push(rule(&at, COUNTED, json!([ceiling::own()])));
    if connections > 0 {
        all.push(json!({"add": {"set": {
            "family": "inet", "table": name, "name": SET, "type": "ipv4_addr", "size": 65_535
        }}}));
        all.push(rule(&at, COUNTED, json!([counted, {"drop": null}])));
    }
    all
}

/// What begins a connection, from a guest.
pub(super) const COUNTED: &str = "counted";
/// Right after connections are told apart (NF_IP_PRI_MANGLE).
const TRACKED: i32 = -150;

/// A table: its family and name.
pub(super) type At = (Family, String);

pub(super) fn chain((family, table): &At, name: &str, kind: &str, hook: &str, prio: i32) -> Value {
    json!({"add": {"chain": {
        "family": family.name(), "table": table, "name": name,
        "type": kind, "hook": hook, "prio": prio, "policy": "accept"
    }}})
}

pub(super) fn rule((family, table): &At, chain: &str, expr: Value) -> Value {
    json!({"add": {"rule": {"family": family.name(), "table": table, "chain": chain, "expr": expr}}})
}

pub(super) fn matches(op: &str, left: Value, right: Value) -> Value {
    json!({"match": {"op": op, "left": left, "right": right}})
}

/// Applies tables.
pub(super) fn apply(name: &str, tables: &Value) -> Result<(), FirewallError> {
    run("set", name, tables)
}

/// Whether the kernel would take them; changes nothing.
pub(super) fn check(name: &str, tables: &Value) -> Result<(), FirewallError> {
    run("check", name, tables)
}

/// Deletes a table that exists.
pub(super) fn delete(family: Family, name: &str) -> Result<(), FirewallError> {
    let table = json!({"family": family.name(), "name": name});
    run(
        "delete",
        name,
        &json!({"nftables": [{"delete": {"table": table}}]}),
    )
}

/// All tables of the host, ours and others', as the kernel has them.
pub(super) fn read() -> Result<Value, FirewallError> {
    let program = program()?;
    let failed = |source| FirewallError::Run {
        program: program.to_owned(),
        source,
    };
    let output = Command::new(program)
        .args(["-j", "list", "ruleset"])
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .output()
        .map_err(failed)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(FirewallError::Refused {
            verb: "read",
            table: "list".to_owned(),
            said: said.trim().chars().take(1000).collect(),
        });
    }
    serde_json::from_slice(&output.stdout).map_err(|error| failed(error.into()))
}

fn run(verb: &'static str, table: &str, input: &Value) -> Result<(), FirewallError> {
    let program = program()?;
    let failed = |source| FirewallError::Run {
        program: program.to_owned(),
        source,
    };
    let only = (verb == "check").then_some("-c");
    let mut child = Command::new(program)
        .args(only)
        .args(["-j", "-f", "-"])
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    // Ten kilobytes fit into a pipe; if nft is gone already, its exit status says more than EPIPE.
    let sent = child.stdin.take().map_or(Ok(()), |mut pipe| {
        pipe.write_all(input.to_string().as_bytes())
    });
    let output = child.wait_with_output().map_err(failed)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.trim();
        let said = if said.is_empty() {
            output.status.to_string()
        } else {
            said.chars().take(1000).collect()
        };
        return Err(FirewallError::Refused {
            verb,
            table: table.to_owned(),
            said,
        });
    }
    sent.map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(name: &str, inside: &str) -> Value {
        tables(&Wanted {
            guard: &(Family::Bridge, name.to_owned()),
            name,
            inside,
            subnet: "10.9.0.0/24".parse().unwrap(),
            prefix6: None,
            nat: Some(9),
            own: Some([10, 9, 0, 1].into()),
            closed: false,
            gate: None,
            wire: None,
            spoken: Spoken::default(),
            internal: &Internal::default(),
        })
    }

    #[test]
    fn names_are_data_and_not_syntax() {
        let hostile = "x\"}}],\"evil\":[";
        let text = wanted("bulkhead", hostile).to_string();
        let again: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(again.as_object().unwrap().len(), 1);
        let is_nat = |one: &&Value| one["add"]["rule"]["chain"] == "postrouting";
        let all = again["nftables"].as_array().unwrap();
        let postrouting = &all.iter().find(is_nat).unwrap()["add"]["rule"]["expr"];
        assert_eq!(
            postrouting[0]["match"]["right"]["prefix"]["addr"],
            "10.9.0.0"
        );
        assert_eq!(postrouting[1]["match"]["right"], hostile);
    }

    #[test]
    fn packets_of_other_networks_leave_every_chain_at_once() {
        let guard = (Family::Bridge, "bulkhead.lan".to_owned());
        let text = tables(&Wanted {
            guard: &guard,
            name: "bulkhead.lan",
            inside: "bh-1a",
            subnet: "10.9.0.0/24".parse().unwrap(),
            prefix6: None,
            nat: None,
            own: Some([10, 9, 0, 1].into()),
            closed: true,
            gate: Some("bh1a*"),
            wire: None,
            spoken: Spoken::default(),
            internal: &Internal::default(),
        });
        let all = text["nftables"].as_array().unwrap();
        let leads = gated(crate::network::wall::leads(&guard), &guard, "bh1a*");
        let all: Vec<&Value> = all.iter().chain(&leads).collect();
        // That of family inet begins with the bridge itself.
        let hooks: Vec<&Value> = all
            .iter()
            .map(|c| &c["add"]["chain"])
            .filter(|c| c["hook"].is_string() && c["family"] == "bridge")
            .collect();
        assert_eq!(hooks.len(), 8);
        for chain in hooks {
            let rules: Vec<&Value> = all
                .iter()
                .map(|c| &c["add"]["rule"])
                .filter(|r| r["chain"] == chain["name"])
                .collect();
            assert_eq!(rules[0]["expr"][0]["match"]["right"], "bh1a*", "{chain}");
            assert_eq!(rules[0]["expr"][1], json!({"accept": null}));
        }
    }

    #[test]
    fn rules_that_change_have_another_revision() {
        let text = wanted("bulkhead", "bulkhead0").to_string();
        let sum = text.bytes().fold(0x811c_9dc5_u32, |sum, byte| {
            (sum ^ u32::from(byte)).wrapping_mul(0x0100_0193)
        });
        let known = (14, 2_697_167_270);
        assert_eq!((REVISION, sum), known, "raise REVISION, and put both here");
    }

    #[test]
    fn every_object_lies_in_a_table_of_the_one_name() {
        let tables = wanted("bulkhead-1a", "bh-1a");
        for command in tables["nftables"].as_array().unwrap() {
            let verb = command.as_object().unwrap().values().next().unwrap();
            let (kind, object) = verb.as_object().unwrap().iter().next().unwrap();
            let key = if kind == "table" { "name" } else { "table" };
            assert_eq!(object[key], "bulkhead-1a", "{command}");
        }
    }
}
