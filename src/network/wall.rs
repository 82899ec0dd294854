//! Firewalls of guests: what comes to a guest and what it sends, by its own rules. Each guest that
//! has rules has two chains in the table of family bridge, so that neighbours are held to them as
//! everybody else is; which interface goes through which chain is in two maps. A third set says which
//! rules are in the chains, so a start finds without `nft` that they stand.
//!
//! What belongs to a connection that was let pass, passes. The kernel's own table of connections is
//! not asked: few kernels keep it for bridges, it would slow down everybody, and it is one for all, so
//! that a guest could fill it. Sets remember what each guest has begun, and others with it, each its own;
//! answers by ICMP are known by their type. The rules themselves are `wall_rules.rs`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::firewall::{self, At, FirewallError, chain, rule};
use super::guard::{flush, set};
use super::host::HostError;
use super::lease::{Held, Lease, Leases};
use super::served_rules::Spoken;
use super::shared::{Line, Shared, sets_of};
use super::wall_fields::VERSIONS;
use super::wall_rules::{self, Memory};
use super::{Network, wall_sets};
use crate::kernel::netlink::NetlinkError;
use crate::kernel::netlink_nft::{self, NAME_LENGTH, chain_exists, set_exists, table_exists};
use crate::kernel::netlink_nft_count::beyond_rates;
use crate::model::{Ceilings, FirewallRule, GuestName};

/// What a guest is to be held to, by the interface of each.
type Wanted<'a> = BTreeMap<String, Wall<'a>>;

struct Wall<'a> {
    guest: &'a GuestName,
    held: &'a Held,
    lines: Vec<Line>,
    spoken: Spoken,
}

impl Wall<'_> {
    fn rules(&self) -> Vec<FirewallRule> {
        self.lines.iter().map(|line| line.rule.clone()).collect()
    }

    fn sum(&self) -> u32 {
        sum(self.guest, &self.rules(), self.held.ceilings, self.spoken)
    }
}

fn sums(wanted: &Wanted<'_>) -> BTreeMap<String, u32> {
    let sum = |(interface, wall): (&String, &Wall<'_>)| (interface.clone(), wall.sum());
    wanted.iter().map(sum).collect()
}

/// Which rules are in force: interface and a sum of them.
const WALLS: &str = "walls";
/// After the guard, so that addresses are true.
const AFTER_GUARD: i32 = -298;
/// Before what arrives is counted.
const BEFORE_COUNTED: i32 = 250;

/// Both directions: whether to the guest, the map and base chain, the hook, the interface asked for.
const WAYS: [(bool, &str, &str, i32, &str); 2] = [
    (false, "outgoing", "prerouting", AFTER_GUARD, "iifname"),
    (true, "incoming", "postrouting", BEFORE_COUNTED, "oifname"),
];

/// The maps that lead to guests' own chains.
pub(super) fn table(at: &At) -> Vec<Value> {
    let mut all = vec![
        set(at, WALLS, json!(["ifname", "mark"])),
        wall_sets::table(at),
    ];
    for (_, way, ..) in WAYS {
        all.push(json!({"add": {"map": {
            "family": at.0.name(), "table": at.1, "name": way, "type": "ifname", "map": "verdict"
        }}}));
    }
    all
}

/// The chains that ask the maps. Only while there is something in them: two questions for each packet
/// cost guests that have no rules 4 % of what they send each other (docs/network.md).
pub(super) fn leads(at: &At) -> Vec<Value> {
    let mut all = Vec::new();
    for (_, way, hook, priority, key) in WAYS {
        all.push(chain(at, way, "filter", hook, priority));
        all.push(flush(at, way));
        let interface = json!({"meta": {"key": key}});
        let lead = json!({"vmap": {"key": interface, "data": format!("@{way}")}});
        all.push(rule(at, way, json!([lead])));
    }
    all
}

/// Takes them away, should they be there.
fn no_leads(at: &At) -> Vec<Value> {
    let mut all = leads(at);
    for (_, way, ..) in WAYS {
        all.push(flush(at, way));
        all.push(json!({"delete": {"chain": of_table(at, way)}}));
    }
    all
}

fn own_chain(way: &str, interface: &str) -> String {
    format!("{way}-{interface}")
}

/// The chain for what belongs to something that was let begin.
fn standing_chain(way: &str, interface: &str) -> String {
    format!("{way}-{interface}-standing")
}

fn of_table((family, table): &At, name: &str) -> Value {
    json!({"family": family.name(), "table": table, "name": name})
}

fn element((family, table): &At, map: &str, element: Value) -> Value {
    let family = family.name();
    json!({"element": {"family": family, "table": table, "name": map, "elem": [element]}})
}

/// An entry of the map that leads an interface to its chain.
fn jump(at: &At, way: &str, interface: &str) -> Value {
    let chain = own_chain(way, interface);
    let jump = json!([interface, {"jump": {"target": chain}}]);
    element(at, way, jump)
}

fn mark(at: &At, interface: &str, sum: u32) -> Value {
    element(at, WALLS, json!({"concat": [interface, sum]}))
}

/// A guest's chains with these rules, whatever was in them.
fn raise(
    at: &At,
    interface: &str,
    wall: &Wall<'_>,
    rules: &[FirewallRule],
) -> Result<Vec<Value>, NetlinkError> {
    let ceilings = wall.held.ceilings;
    let held = wall_rules::Held {
        guest: wall.guest,
        interface,
        rules,
        ceilings,
        spoken: wall.spoken,
    };
    let mut all = held.missing_sets(at)?;
    for (incoming, way, ..) in WAYS {
        let (own, standing) = (own_chain(way, interface), standing_chain(way, interface));
        for name in [&own, &standing] {
            all.push(json!({"add": {"chain": of_table(at, name)}}));
            all.push(json!({"flush": {"chain": of_table(at, name)}}));
        }
        all.extend(held.chain(at, &own, incoming, &standing));
        all.push(json!({"add": jump(at, way, interface)}));
    }
    let sum = sum(wall.guest, rules, ceilings, wall.spoken);
    all.push(json!({"add": mark(at, interface, sum)}));
    Ok(all)
}

/// Takes a guest's chains away.
fn lower(at: &At, interface: &str, sum: u32) -> Result<Vec<Value>, NetlinkError> {
    let mut all = vec![json!({"delete": mark(at, interface, sum)})];
    for (_, way, ..) in WAYS {
        all.push(json!({"delete": jump(at, way, interface)}));
        // A program before this has made no second one; adding first makes deleting safe.
        for name in [own_chain(way, interface), standing_chain(way, interface)] {
            all.push(json!({"add": {"chain": of_table(at, &name)}}));
            all.push(json!({"flush": {"chain": of_table(at, &name)}}));
            all.push(json!({"delete": {"chain": of_table(at, &name)}}));
        }
    }
    for memory in Memory::ALL {
        for name in VERSIONS.map(|version| memory.name(version, interface)) {
            if set_exists(at.0, &at.1, &name)? {
                all.push(json!({"delete": {"set": of_table(at, &name)}}));
            }
        }
    }
    Ok(all)
}

/// Raised whenever chains change that the same rules make.
const FORM: u32 = 6;

/// Tells sets of rules apart (FNV-1a).
fn sum(guest: &GuestName, rules: &[FirewallRule], ceilings: Ceilings, spoken: Spoken) -> u32 {
    let lines = rules.iter().map(|rule| format!("{rule}\n"));
    let text = std::iter::once(format!("{FORM} {guest}\n")).chain(lines);
    let rates = [ceilings.packets, ceilings.new_connections];
    let text = text.chain(ceilings.at_port().then(|| format!("{rates:?}\n")));
    let urgency = ceilings.urgency;
    let text = text.chain((!urgency.is_normal()).then(|| format!("{urgency}\n")));
    let passes = [false, true].map(|incoming| spoken.passes(incoming));
    let passes = passes.into_iter().flatten();
    text.chain(passes.map(|rule| format!("{rule}\n")))
        .flat_map(String::into_bytes)
        .fold(0x811c_9dc5, |sum, byte| {
            (sum ^ u32::from(byte)).wrapping_mul(0x0100_0193)
        })
}

impl Network {
    /// Makes guests' chains what the book says, where there is a table; `afresh` whatever of them
    /// seems to be there. The book's lock is held.
    pub(super) fn wall_as_written(&self, afresh: bool) -> Result<(), HostError> {
        let all = self.wall_commands(afresh)?;
        if all.is_empty() {
            return Ok(());
        }
        let done = firewall::apply(&self.guard.1, &json!({"nftables": all}));
        Ok(done.map_err(|error| self.blamed(&error).unwrap_or(error))?)
    }

    /// What makes them so; nothing, if they are. The book's lock is held.
    pub(super) fn wall_commands(&self, afresh: bool) -> Result<Vec<Value>, HostError> {
        let at = &self.guard;
        if !table_exists(at.0, &at.1)? {
            return Ok(Vec::new());
        }
        let (there, sets) = (self.marks(WALLS)?, self.marks(wall_sets::SETS)?);
        let (leases, shared) = (self.leases()?, self.shared()?);
        let wanted = self.wanted(&leases, &shared)?;
        let named = sets_of(wanted.values().flat_map(|wall| &wall.lines));
        let mut all = wall_sets::raise(at, &sets, &named, &shared)?;
        for (interface, sum) in &there {
            if !wanted.contains_key(interface) {
                all.extend(lower(at, interface, *sum)?);
            }
        }
        if wanted.is_empty() && (afresh || !there.is_empty()) {
            all.extend(no_leads(at));
        } else if !wanted.is_empty() && (afresh || there != sums(&wanted)) {
            let leads = leads(at);
            all.extend(match self.gate() {
                Some(ends) => firewall::gated(leads, at, &ends),
                None => leads,
            });
        }
        for (interface, wall) in &wanted {
            let before = there.get(interface).copied();
            if before == Some(wall.sum()) && !afresh {
                continue;
            }
            // What it has begun goes on: its sets stay.
            all.extend(before.map(|before| json!({"delete": mark(at, interface, before)})));
            all.extend(raise(at, interface, wall, &wall.rules())?);
        }
        all.extend(wall_sets::lower(at, &sets, &named)?);
        Ok(all)
    }

    /// Whose rule it is that `nft` refuses: each is held against the kernel by itself, which changes
    /// nothing. `None` if that finds none.
    pub(super) fn blamed(&self, error: &FirewallError) -> Option<FirewallError> {
        if !matches!(error, FirewallError::Refused { .. }) {
            return None;
        }
        let at = &self.guard;
        let (leases, shared) = (self.leases().ok()?, self.shared().ok()?);
        let (there, sets) = (self.marks(WALLS).ok()?, self.marks(wall_sets::SETS).ok()?);
        for (interface, wall) in self.wanted(&leases, &shared).ok()? {
            if there.get(&interface) == Some(&wall.sum()) {
                continue;
            }
            for line in &wall.lines {
                let named = sets_of(std::iter::once(line));
                let mut all = wall_sets::raise(at, &sets, &named, &shared).ok()?;
                all.extend(raise(at, &interface, &wall, std::slice::from_ref(&line.rule)).ok()?);
                let tried = firewall::check(&at.1, &json!({ "nftables": all }));
                if let Err(FirewallError::Refused { said, .. }) = tried {
                    return Some(FirewallError::Rule {
                        whose: match &line.group {
                            Some(group) => format!("the group {group}"),
                            None => format!("network.firewall of {}", wall.guest),
                        },
                        number: line.number,
                        rule: line.rule.to_string(),
                        said,
                    });
                }
            }
        }
        None
    }

    /// Whose chains should stand, and with which rules, by the book.
    fn wanted<'a>(&self, leases: &'a Leases, shared: &Shared) -> Result<Wanted<'a>, HostError> {
        let Some(subnet) = self.known_subnet()? else {
            return Ok(Wanted::new());
        };
        let interface = |address| self.lease_of(address, subnet);
        let spoken = self.spoken();
        let all = leases.walls().filter_map(|(guest, held)| {
            let lines = shared.lines(&held.rules);
            Some((
                interface(held.address)?.host_interface,
                Wall {
                    guest,
                    held,
                    lines,
                    spoken,
                },
            ))
        });
        Ok(all.collect())
    }

    /// Packets of a guest that were dropped because they went beyond a ceiling, since its rules were
    /// made; `None` if it has no such ceiling.
    ///
    /// # Errors
    /// When the kernel refuses to tell.
    pub fn beyond_ceilings(&self, lease: &Lease) -> Result<Option<u64>, HostError> {
        let each = self.dropped_by_each(lease)?;
        Ok(each.into_iter().reduce(|a, b| a + b))
    }

    /// The same of each of its ceilings that has a rule: packets, then new connections.
    ///
    /// # Errors
    /// When the kernel refuses to tell.
    pub fn dropped_by_each(&self, lease: &Lease) -> Result<Vec<u64>, HostError> {
        let (family, table) = &self.guard;
        let chain = own_chain("outgoing", &lease.host_interface);
        Ok(beyond_rates(*family, table, &chain)?)
    }

    /// Interfaces whose chains are not what the book says: a command died between the two.
    pub(super) fn misled(&self) -> Result<BTreeSet<String>, HostError> {
        let (family, table) = &self.guard;
        if !table_exists(*family, table)? {
            return Ok(BTreeSet::new());
        }
        // Whoever is between the two holds it.
        let _lock = self.lock_book()?;
        let (there, sets) = (self.marks(WALLS)?, self.marks(wall_sets::SETS)?);
        let (leases, shared) = (self.leases()?, self.shared()?);
        let wanted = self.wanted(&leases, &shared)?;
        let named = sets_of(wanted.values().flat_map(|wall| &wall.lines));
        let set = |name: &crate::model::ShareName| {
            (name.to_string(), wall_sets::sum(shared.addresses(name)))
        };
        let named: BTreeMap<String, u32> = named.iter().map(set).collect();
        let mut all = differing(&there, &sums(&wanted));
        for (_, way, ..) in WAYS {
            if !wanted.is_empty() && !chain_exists(*family, table, way)? {
                all.extend(wanted.keys().cloned());
            }
        }
        all.extend(
            differing(&sets, &named)
                .into_iter()
                .map(|name| format!("@{name}")),
        );
        Ok(all)
    }

    /// Whose chains stand, or which sets of addresses, and the sums of what is in them.
    fn marks(&self, set: &str) -> Result<BTreeMap<String, u32>, HostError> {
        let (family, table) = &self.guard;
        let mut all = BTreeMap::new();
        // A program before this has made no sets of addresses.
        if !set_exists(*family, table, set)? {
            return Ok(all);
        }
        for element in netlink_nft::elements(*family, table, set)? {
            let Some((name, sum)) = element.key().split_at_checked(NAME_LENGTH) else {
                continue;
            };
            let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
            if let (Ok(name), Ok(sum)) = (std::str::from_utf8(name), sum.try_into()) {
                all.insert(name.to_owned(), u32::from_ne_bytes(sum));
            }
        }
        Ok(all)
    }
}

/// Names of which one says something else than the other.
fn differing(one: &BTreeMap<String, u32>, other: &BTreeMap<String, u32>) -> BTreeSet<String> {
    let names = one.keys().chain(other.keys());
    names
        .filter(|name| one.get(*name) != other.get(*name))
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(texts: &[&str]) -> Vec<FirewallRule> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn other_rules_have_another_sum() {
        let of = |guest: &GuestName, texts: &[&str]| {
            sum(guest, &rules(texts), Ceilings::default(), Spoken::default())
        };
        let guest = "web".parse().unwrap();
        let slow = Ceilings {
            packets: Some(9),
            ..Ceilings::default()
        };
        let told = Spoken {
            dhcp: Some([10, 9, 0, 1].into()),
            ..Spoken::default()
        };
        assert_ne!(sum(&guest, &[], slow, Spoken::default()), of(&guest, &[]));
        assert_ne!(sum(&guest, &[], Ceilings::default(), told), of(&guest, &[]));
        let one = of(&guest, &["in accept tcp 80", "in drop"]);
        assert_ne!(one, of(&guest, &["in drop", "in accept tcp 80"]));
        assert_ne!(
            one,
            of(&"www".parse().unwrap(), &["in accept tcp 80", "in drop"])
        );
    }
}
