//! Sets of addresses that rules of guests' firewalls name, in the table of a network whose guests do:
//! two of the kernel's, one for each version, and in a third a sum of what is in them. What they hold is
//! exchanged while the rules stay as they are.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::firewall::At;
use super::guard::set;
use super::shared::Shared;
use super::wall_fields::VERSIONS;
use crate::kernel::netlink::NetlinkError;
use crate::kernel::netlink_nft::set_exists;
use crate::model::{AddressBlock, ShareName};

/// Which sets of addresses are there: name and a sum of what they hold.
pub(super) const SETS: &str = "address_sets";

/// What is in the table from the beginning.
pub(super) fn table(at: &At) -> Value {
    set(at, SETS, json!(["ifname", "mark"]))
}

/// The kernel's name of one.
pub(super) fn name(version: &str, name: &ShareName) -> String {
    match version {
        "ip6" => format!("addresses6-{name}"),
        _ => format!("addresses-{name}"),
    }
}

fn of_table((family, table): &At, name: &str) -> Value {
    json!({"family": family.name(), "table": table, "name": name})
}

fn mark(at: &At, name: &str, sum: u32) -> Value {
    let mut mark = of_table(at, SETS);
    mark["elem"] = json!([{"concat": [name, sum]}]);
    json!({ "element": mark })
}

/// What tells contents apart (FNV-1a).
pub(super) fn sum(blocks: &[AddressBlock]) -> u32 {
    let lines = blocks.iter().map(|block| format!("{block}\n"));
    lines
        .flat_map(String::into_bytes)
        .fold(0x811c_9dc5, |sum, byte| {
            (sum ^ u32::from(byte)).wrapping_mul(0x0100_0193)
        })
}

/// Elements of one version; what lies in another of them is none of its own.
pub(super) fn elements(blocks: &[AddressBlock], version: &str) -> Vec<Value> {
    let mut all: Vec<AddressBlock> = blocks
        .iter()
        .copied()
        .filter(|block| block.address.is_ipv6() == (version == "ip6"))
        .collect();
    // Whoever holds another comes before it.
    all.sort_unstable();
    let mut last: Option<AddressBlock> = None;
    all.retain(|block| {
        let inside = last.is_some_and(|last| last.holds(*block));
        if !inside {
            last = Some(*block);
        }
        !inside
    });
    let element =
        |block: &AddressBlock| json!({"prefix": {"addr": block.address, "len": block.bits}});
    all.iter().map(element).collect()
}

/// Makes those that are wanted what they should be; before the rules that name them.
pub(super) fn raise(
    at: &At,
    there: &BTreeMap<String, u32>,
    wanted: &BTreeSet<ShareName>,
    shared: &Shared,
) -> Result<Vec<Value>, NetlinkError> {
    let mut all = Vec::new();
    for one in wanted {
        let blocks = shared.addresses(one);
        let (before, sum) = (there.get(one.as_str()).copied(), sum(blocks));
        if before == Some(sum) {
            continue;
        }
        for version in VERSIONS {
            let name = name(version, one);
            if !set_exists(at.0, &at.1, &name)? {
                let kind = if version == "ip6" {
                    "ipv6_addr"
                } else {
                    "ipv4_addr"
                };
                let mut add = set(at, &name, json!(kind));
                add["add"]["set"]["flags"] = json!(["interval"]);
                all.push(add);
            }
            all.push(json!({"flush": {"set": of_table(at, &name)}}));
            let elements = elements(blocks, version);
            if !elements.is_empty() {
                let mut add = of_table(at, &name);
                add["elem"] = json!(elements);
                all.push(json!({"add": {"element": add}}));
            }
        }
        let gone = before.map(|before| json!({"delete": mark(at, one.as_str(), before)}));
        all.extend(gone);
        all.push(json!({"add": mark(at, one.as_str(), sum)}));
    }
    Ok(all)
}

/// Takes away those that no rule names any more; after the rules are gone.
pub(super) fn lower(
    at: &At,
    there: &BTreeMap<String, u32>,
    wanted: &BTreeSet<ShareName>,
) -> Result<Vec<Value>, NetlinkError> {
    let mut all = Vec::new();
    for (text, sum) in there {
        let Ok(one) = text.parse::<ShareName>() else {
            continue;
        };
        if wanted.contains(&one) {
            continue;
        }
        all.push(json!({"delete": mark(at, text, *sum)}));
        for name in VERSIONS.map(|version| name(version, &one)) {
            if set_exists(at.0, &at.1, &name)? {
                all.push(json!({"delete": {"set": of_table(at, &name)}}));
            }
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_in_another_is_left_out() {
        let of = |texts: &[&str]| -> Vec<AddressBlock> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        let blocks = of(&[
            "10.0.0.7",
            "10.0.0.0/24",
            "fd42::/16",
            "10.0.1.0",
            "10.0.0.0/25",
        ]);
        let four = json!(elements(&blocks, "ip"));
        assert_eq!(
            four,
            json!([
                {"prefix": {"addr": "10.0.0.0", "len": 24}},
                {"prefix": {"addr": "10.0.1.0", "len": 32}}
            ])
        );
        assert_eq!(elements(&blocks, "ip6").len(), 1);
        assert_ne!(sum(&blocks), sum(&blocks[1..]));
    }
}
