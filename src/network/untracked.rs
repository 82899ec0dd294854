//! What the host need not keep track of: packets that a bridge of ours passes from one guest to another.
//! Rules for routed packets see those as well where `net.bridge.bridge-nf-call-iptables` says so, as Docker
//! and Kubernetes have it, and then the kernel would look up each of them in its table of connections. That
//! costs every packet, and what guests of a network without a way out say to each other would fill the
//! table with no ceiling to it. None of our rules asks for their state: what a guest's own firewall
//! remembers is in sets of its own (`wall.rs`).
//!
//! What the host itself is asked, a port of it that leads to a guest among that, is kept track of as ever.

use serde_json::{Value, json};

use super::firewall::{At, Wanted, chain, matches, rule};
use super::guard::flush;
use crate::kernel::netlink_nft::Family;

const CHAIN: &str = "untracked";
/// Before connections are told apart, after parts of packets are put together (NF_IP_PRI_RAW).
const UNTRACKED: i32 = -300;

/// The chain of a bridge that is ours, in its table of family inet, which is there.
pub(super) fn of(wanted: &Wanted<'_>) -> Vec<Value> {
    let Some(own) = wanted.own.filter(|_| wanted.guard.0 == Family::Bridge) else {
        return Vec::new();
    };
    let at: At = (Family::Inet, wanted.name.to_owned());
    let field =
        |version: &str, field: &str| json!({"payload": {"protocol": version, "field": field}});
    let six = |op, field_of| {
        let prefix = wanted.prefix6?;
        let network = json!({"prefix": {"addr": prefix.network(), "len": prefix.length()}});
        Some(matches(op, field("ip6", field_of), network))
    };
    let network =
        json!({"prefix": {"addr": wanted.subnet.network(), "len": wanted.subnet.prefix()}});
    let mut all = Vec::new();
    if wanted.closed {
        // Whatever address a frame for a neighbour names; the host is asked at these.
        let asked = json!({"set": [own, "255.255.255.255", wanted.subnet.broadcast()]});
        all.push(vec![matches("!=", field("ip", "daddr"), asked)]);
        let mut rest = vec![matches(
            "==",
            json!({"meta": {"key": "nfproto"}}),
            json!("ipv6"),
        )];
        for (addr, len) in [("fe80::", 10), ("ff00::", 8)] {
            let asked = json!({"prefix": {"addr": addr, "len": len}});
            rest.push(matches("!=", field("ip6", "daddr"), asked));
        }
        let gateway = wanted.prefix6.map(|prefix| json!(prefix.gateway()));
        rest.extend(gateway.map(|own| matches("!=", field("ip6", "daddr"), own)));
        all.push(rest);
    } else {
        all.push(vec![
            matches("==", field("ip", "saddr"), network.clone()),
            matches("==", field("ip", "daddr"), network),
            matches(
                "!=",
                field("ip", "daddr"),
                json!({"set": [own, wanted.subnet.broadcast()]}),
            ),
        ]);
        let both = six("==", "saddr").zip(six("==", "daddr"));
        all.extend(both.zip(wanted.prefix6).map(|((from, to), prefix)| {
            let host = matches("!=", field("ip6", "daddr"), json!(prefix.gateway()));
            vec![from, to, host]
        }));
    }
    let inside = matches(
        "==",
        json!({"meta": {"key": "iifname"}}),
        json!(wanted.inside),
    );
    let rules = all.into_iter().map(|fits| {
        let whole: Vec<Value> = std::iter::once(inside.clone())
            .chain(fits)
            .chain([json!({"notrack": null})])
            .collect();
        rule(&at, CHAIN, json!(whole))
    });
    let mut begin = vec![
        chain(&at, CHAIN, "filter", "prerouting", UNTRACKED),
        flush(&at, CHAIN),
    ];
    begin.extend(rules);
    begin
}

/// That a packet is one of those; asked only where the host keeps track of others for us.
pub(super) fn is() -> Value {
    matches("in", json!({"ct": {"key": "state"}}), json!("untracked"))
}
