//! The firewall table of an installation, as data for `nft -j`, and the run of `nft`. The table holds
//! nothing but what this program put there, so taking it away takes all of it away.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::subnet::Subnet;

/// Where `nft` may lie; never searched for in PATH, which belongs to whoever called.
const PLACES: [&str; 4] = [
    "/usr/sbin/nft",
    "/sbin/nft",
    "/usr/local/sbin/nft",
    "/usr/bin/nft",
];

/// The firewall could not be set.
#[derive(Debug, thiserror::Error)]
pub enum FirewallError {
    /// No program.
    #[error(
        "cannot set up NAT for guests: there is no `nft` on this host; install the package nftables, or set nat = false"
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

/// The whole table, replacing what is there in one transaction.
///
/// Guests go out under the host's address. Into the bridge comes what answers them and what the host
/// itself published to them (destination NAT); a neighbour of the host that routes to the pool by
/// itself does not get in. Guests speak with each other, and the host with them, without passing here.
pub(super) fn table(name: &str, bridge: &str, subnet: Subnet) -> Value {
    let chain = |chain: &str, kind: &str, hook: &str, priority: i32| {
        json!({"add": {"chain": {
            "family": "inet", "table": name, "name": chain,
            "type": kind, "hook": hook, "prio": priority, "policy": "accept"
        }}})
    };
    let rule = |chain: &str, expr: Value| json!({"add": {"rule": {"family": "inet", "table": name, "chain": chain, "expr": expr}}});
    let out = |op: &str| matches(op, json!({"meta": {"key": "oifname"}}), json!(bridge));
    let inside = matches("==", json!({"meta": {"key": "iifname"}}), json!(bridge));
    let ct = |key: &str, right: Value| matches("in", json!({"ct": {"key": key}}), right);
    let source = matches(
        "==",
        json!({"payload": {"protocol": "ip", "field": "saddr"}}),
        json!({"prefix": {"addr": subnet.network(), "len": subnet.prefix()}}),
    );
    json!({"nftables": [
        // Adding first makes deleting safe where there is none.
        {"add": {"table": {"family": "inet", "name": name}}},
        {"delete": {"table": {"family": "inet", "name": name}}},
        {"add": {"table": {"family": "inet", "name": name}}},
        chain("postrouting", "nat", "postrouting", 100),
        rule("postrouting", json!([source, out("!="), {"masquerade": null}])),
        chain("forward", "filter", "forward", 0),
        rule("forward", json!([inside, {"accept": null}])),
        rule("forward", json!([out("=="), ct("state", json!(["established", "related"])), {"accept": null}])),
        rule("forward", json!([out("=="), ct("status", json!("dnat")), {"accept": null}])),
        rule("forward", json!([out("=="), {"drop": null}])),
    ]})
}

fn matches(op: &str, left: Value, right: Value) -> Value {
    json!({"match": {"op": op, "left": left, "right": right}})
}

/// Applies a table.
pub(super) fn apply(name: &str, table: &Value) -> Result<(), FirewallError> {
    run("set", name, table)
}

/// Deletes a table that exists.
pub(super) fn delete(name: &str) -> Result<(), FirewallError> {
    let delete = json!({"nftables": [{"delete": {"table": {"family": "inet", "name": name}}}]});
    run("delete", name, &delete)
}

fn run(verb: &'static str, table: &str, input: &Value) -> Result<(), FirewallError> {
    let program = program()?;
    let failed = |source| FirewallError::Run {
        program: program.to_owned(),
        source,
    };
    let mut child = Command::new(program)
        .args(["-j", "-f", "-"])
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    // Two kilobytes fit into a pipe; if nft is gone already, its exit status says more than EPIPE.
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

    #[test]
    fn names_are_data_and_not_syntax() {
        let subnet: Subnet = "10.9.0.0/24".parse().unwrap();
        let hostile = "x\"}}],\"evil\":[";
        let text = table("bulkhead", hostile, subnet).to_string();
        let again: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(again.as_object().unwrap().len(), 1);
        let postrouting = &again["nftables"][4]["add"]["rule"]["expr"];
        assert_eq!(
            postrouting[0]["match"]["right"]["prefix"]["addr"],
            "10.9.0.0"
        );
        assert_eq!(postrouting[1]["match"]["right"], hostile);
    }

    #[test]
    fn every_object_lies_in_the_one_table() {
        let subnet: Subnet = "10.9.0.0/24".parse().unwrap();
        let table = table("bulkhead-1a", "bh-1a", subnet);
        for command in table["nftables"].as_array().unwrap() {
            let verb = command.as_object().unwrap().values().next().unwrap();
            let (kind, object) = verb.as_object().unwrap().iter().next().unwrap();
            let key = if kind == "table" { "name" } else { "table" };
            assert_eq!(object[key], "bulkhead-1a", "{command}");
        }
    }
}
