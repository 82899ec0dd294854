//! Ceilings of one guest's own. Packets and new connections are counted at its port, in the chain of its
//! firewall (`wall.rs`); connections that the host keeps track of, where it does: in the table of NAT,
//! by a chain of the guest's own that is asked instead of the one for all.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde_json::{Value, json};

use super::Network;
use super::firewall::{self, At, rule};
use super::guard::set;
use super::host::HostError;
use super::lease::{LeaseError, Leases};
use crate::kernel::netlink_nft::{self, Family, table_exists};
use crate::model::{Ceilings, GuestName, NetworkWish};

/// Which ceilings stand: address and number.
const HELD: &str = "ceilings";
/// Which chain is asked for an address.
const OWN: &str = "own_ceiling";

/// What is in the table of NAT for all guests; and the rule that asks for a guest's own.
pub(super) fn table(at: &At) -> [Value; 2] {
    let (family, table) = (at.0.name(), &at.1);
    [
        set(at, HELD, json!(["ipv4_addr", "mark"])),
        json!({"add": {"map": {
            "family": family, "table": table, "name": OWN, "type": "ipv4_addr", "map": "verdict"
        }}}),
    ]
}

/// Leads whoever has a ceiling of its own to it.
pub(super) fn own() -> Value {
    let sender = json!({"payload": {"protocol": "ip", "field": "saddr"}});
    json!({"vmap": {"key": sender, "data": format!("@{OWN}")}})
}

/// So many of a second, at once as many; more of it is dropped.
pub(super) fn over(rate: u32) -> Value {
    json!({"limit": {"rate": rate, "burst": rate, "per": "second", "inv": true}})
}

fn chain_of(address: Ipv4Addr) -> String {
    format!("ceiling-{address}")
}

fn element(at: &At, name: &str, element: Value) -> Value {
    json!({"element": {"family": at.0.name(), "table": at.1, "name": name, "elem": [element]}})
}

fn chain(at: &At, address: Ipv4Addr) -> Value {
    json!({"chain": {"family": at.0.name(), "table": at.1, "name": chain_of(address)}})
}

/// The entries of a guest: what it has, and where it is asked.
fn entries(at: &At, address: Ipv4Addr, most: u32) -> [Value; 2] {
    let lead = json!([address, {"goto": {"target": chain_of(address)}}]);
    [
        element(at, HELD, json!({"concat": [address, most]})),
        element(at, OWN, lead),
    ]
}

fn raise(at: &At, address: Ipv4Addr, most: u32) -> Vec<Value> {
    let mut all = vec![json!({"add": chain(at, address)})];
    let more = json!({"ct count": {"val": most, "inv": true}});
    all.push(rule(at, &chain_of(address), json!([more, {"drop": null}])));
    all.extend(entries(at, address, most).map(|entry| json!({ "add": entry })));
    all
}

fn lower(at: &At, address: Ipv4Addr, most: u32) -> Vec<Value> {
    let mut all: Vec<Value> = entries(at, address, most)
        .map(|entry| json!({ "delete": entry }))
        .into();
    all.push(json!({"flush": chain(at, address)}));
    all.push(json!({"delete": chain(at, address)}));
    all
}

impl Network {
    /// Puts rules and ceilings down for a guest, those of connections only where there are any.
    pub(super) fn give_wall(
        &self,
        leases: &mut Leases,
        guest: &GuestName,
        wish: &NetworkWish,
    ) -> Result<(), LeaseError> {
        let ceilings = self.part_of_ceilings(wish);
        let asked = [
            // First: where it is cut off, the rules are the allowance's.
            (wish.allowance.is_some(), "network.allowance"),
            (!wish.firewall.is_empty(), "network.firewall"),
            (!wish.ceilings.urgency.is_normal(), "network.priority"),
            (
                !ceilings.is_none(),
                "network.packets, new_connections, connections",
            ),
            (wish.rate_in.is_some(), "network.rate_in"),
            (wish.rate_out.is_some(), "network.rate_out"),
            (wish.tenant.is_some(), "tenant"),
            (wish.isolated_ports.is_some(), "network.isolated_ports"),
            (self.is_passthrough() && wish.mac.is_some(), "network.mac"),
        ];
        if let Some((_, key)) = asked
            .into_iter()
            .find(|(asked, _)| *asked && !self.holds_back())
        {
            return Err(LeaseError::Unheld {
                network: self.word().to_owned(),
                guest: guest.clone(),
                key,
            });
        }
        if ceilings.connections.is_some() && !self.nat {
            return Err(LeaseError::Untracked {
                network: self.word().to_owned(),
                guest: guest.clone(),
            });
        }
        self.check_shared(guest, &wish.firewall)?;
        leases.wall(guest, &wish.firewall, ceilings);
        Ok(())
    }

    /// What an interface on this network has of its guest's ceilings.
    #[must_use]
    pub fn part_of_ceilings(&self, wish: &NetworkWish) -> Ceilings {
        // Not nothing: definitions of before may give it all to further interfaces, and are not checked anew.
        let some = |part: Option<u32>| part.map(|n| n.max(1));
        let all = wish.part_of_ceilings();
        let mut part = Ceilings {
            packets: some(all.packets),
            new_connections: some(all.new_connections),
            connections: some(all.connections),
            ..all
        };
        let inherited = wish.inherited;
        if inherited.connections.is_some() && !self.nat {
            part.connections = None;
        }
        if !self.holds_back() {
            part.packets = part.packets.filter(|_| inherited.packets.is_none());
            part.new_connections = part
                .new_connections
                .filter(|_| inherited.new_connections.is_none());
        }
        part
    }

    /// Makes ceilings of connections what the book says, where there is a table. Its lock is held.
    pub(super) fn ceilings_as_written(&self) -> Result<(), HostError> {
        let at = (Family::Inet, self.table.clone());
        if !table_exists(at.0, &at.1)? {
            return Ok(());
        }
        let there = self.ceilings(&at)?;
        let wanted = self.leases()?.ceilings();
        let mut all = Vec::new();
        for (address, most) in &there {
            if wanted.get(address) != Some(most) {
                all.extend(lower(&at, *address, *most));
            }
        }
        for (address, most) in &wanted {
            if there.get(address) != Some(most) {
                all.extend(raise(&at, *address, *most));
            }
        }
        if !all.is_empty() {
            firewall::apply(&at.1, &json!({"nftables": all}))?;
        }
        Ok(())
    }

    /// Addresses whose ceilings are not what the book says: a command died between the two.
    pub(super) fn ceilings_astray(&self) -> Result<Vec<Ipv4Addr>, HostError> {
        let at = (Family::Inet, self.table.clone());
        if !table_exists(at.0, &at.1)? {
            return Ok(Vec::new());
        }
        // Whoever is between the two holds it.
        let _lock = self.lock_book()?;
        let (there, wanted) = (self.ceilings(&at)?, self.leases()?.ceilings());
        let mut all: Vec<Ipv4Addr> = there.keys().chain(wanted.keys()).copied().collect();
        all.sort_unstable();
        all.dedup();
        all.retain(|address| there.get(address) != wanted.get(address));
        Ok(all)
    }

    fn ceilings(&self, (family, table): &At) -> Result<BTreeMap<Ipv4Addr, u32>, HostError> {
        let elements = netlink_nft::elements(*family, table, HELD)?;
        let entry = |key: &[u8]| {
            let (address, most) = key.split_at_checked(4)?;
            let address = <[u8; 4]>::try_from(address).ok()?;
            Some((
                Ipv4Addr::from(address),
                u32::from_ne_bytes(most.try_into().ok()?),
            ))
        };
        let all = elements.iter().filter_map(|one| entry(one.key()));
        Ok(all.collect())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::model::{Allowance, Bytes, FirewallLine, Layout, Level};
    use crate::network::NetworkSettings;

    #[test]
    fn what_nothing_holds_to_is_refused_by_its_key() {
        let layout = Layout::new(Path::new("/nowhere"));
        let network = Network::new(&layout, NetworkSettings::default()).unwrap();
        let record = json!({
            "name": "wan", "kind": "macvlan", "parent": "eth1", "subnet": "10.9.0.0/24"
        });
        let wan = network.of(&serde_json::from_value(record).unwrap());
        let guest: GuestName = "web".parse().unwrap();
        let refused = |wish: &NetworkWish| {
            let done = wan.give_wall(&mut Leases::default(), &guest, wish);
            done.map_err(|error| error.to_string())
        };
        assert_eq!(refused(&NetworkWish::default()), Ok(()));
        let drop: FirewallLine = "in drop".parse().unwrap();
        let walled = NetworkWish {
            firewall: vec![drop],
            ..NetworkWish::default()
        };
        let error = refused(&walled).unwrap_err();
        assert!(error.contains("to network.firewall:"), "{error}");
        // Also where it is used up, and all is cut off by rules.
        let allowed = NetworkWish {
            allowance: Allowance {
                bytes: Some(Bytes(1)),
                ..Allowance::default()
            },
            ..NetworkWish::default()
        };
        for level in [Level::Free, Level::Cut] {
            let error = refused(&allowed.clone().at(level)).unwrap_err();
            assert!(error.contains("--unset network.allowance`"), "{error}");
        }
    }
}
