//! IPv6 out of a network and into it, in the table that has IPv4's NAT (`firewall.rs`). Private
//! addresses go out under the host's, as IPv4's do. Others are the guests' own: they go out as they
//! are, and whoever has a route to them gets in.

use serde_json::{Value, json};

use super::firewall::{At, COUNTED, matches, rule};
use crate::kernel::netlink_nft::Family;
use crate::model::Prefix6;

fn field(field: &str) -> Value {
    json!({"payload": {"protocol": "ip6", "field": field}})
}

/// What comes before the last rule of the chain `forward`, which drops what goes to guests, and in
/// `postrouting`.
pub(super) fn rules(at: &At, inside: &str, prefix: Prefix6) -> Vec<Value> {
    let network = json!({"prefix": {"addr": prefix.network(), "len": prefix.length()}});
    let out = |op: &str| matches(op, json!({"meta": {"key": "oifname"}}), json!(inside));
    let from = || matches("==", field("saddr"), network.clone());
    let led = matches("in", json!({"ct": {"key": "status"}}), json!("dnat"));
    // From one guest to another by a port of the host: the answer has to come back this way.
    let again = json!([from(), out("=="), led, {"masquerade": null}]);
    let way = if prefix.is_private() {
        let expr = json!([from(), out("!="), {"masquerade": null}]);
        rule(at, "postrouting", expr)
    } else {
        let to = matches("==", field("daddr"), network.clone());
        rule(at, "forward", json!([out("=="), to, {"accept": null}]))
    };
    vec![rule(at, "postrouting", again), way]
}

/// A guest that has so many connections of IPv6 gets no more.
pub(super) fn ceiling(name: &str, connections: u32) -> [Value; 2] {
    const SET: &str = "connections6";
    let at = (Family::Inet, name.to_owned());
    let counted = json!({"set": {
        "op": "add", "elem": field("saddr"), "set": format!("@{SET}"),
        "stmt": [{"ct count": {"val": connections, "inv": true}}]
    }});
    [
        json!({"add": {"set": {
            "family": "inet", "table": name, "name": SET, "type": "ipv6_addr", "size": 65_535
        }}}),
        rule(&at, COUNTED, json!([counted, {"drop": null}])),
    ]
}
