//! Who goes first where there is not room for all: the priority that a packet has on its way through the
//! host, by which queues with bands choose. It is said where the packet comes in, in the chain of the
//! guest's firewall (`wall.rs`), and holds from there on; only where the host passes IPv4 on does the
//! kernel make it anew, from what the sender has written into the packet (its type of service). So there it
//! is set once more, for all guests: what a guest's root writes gets it before nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use serde_json::{Value, json};

use super::firewall::{At, Wanted, chain, matches, rule};
use super::guard::{flush, set as set_of};
use super::host::HostError;
use super::{Kind, Network, untracked};
use crate::kernel::netlink_nft::{self, Element, Family, set_exists};
use crate::model::Urgency;

/// Addresses of guests of which something is said.
const SETS: [(&str, Urgency); 2] = [("hurried", Urgency::High), ("patient", Urgency::Low)];
const CHAIN: &str = "urgency";
/// With what else changes packets there (NF_IP_PRI_MANGLE).
const CHANGING: i32 = -150;

/// What gives a packet its place; nothing where it has that already.
pub(super) fn set(urgency: Urgency) -> Option<Value> {
    (!urgency.is_normal()).then(|| json!([given(urgency)]))
}

fn given(urgency: Urgency) -> Value {
    json!({"mangle": {"key": {"meta": {"key": "priority"}}, "value": urgency.class()}})
}

/// The sets and the chain of a network whose guests' packets the host passes on. Where there is a chain for
/// what is passed on already, that leads here: each that has a hook costs every packet.
pub(super) fn of(wanted: &Wanted<'_>) -> Vec<Value> {
    let routed = wanted.guard.0 == Family::Inet;
    // Nothing of a closed network is passed on, nor of a bridge that is somebody else's.
    let bridge = !wanted.closed && wanted.own.is_some();
    let at = match routed {
        true => wanted.guard.clone(),
        false if bridge => (Family::Inet, wanted.name.to_owned()),
        false => return Vec::new(),
    };
    let table = json!({"family": at.0.name(), "name": at.1});
    let mut all = vec![json!({"add": {"table": table}})];
    if !routed && wanted.nat.is_none() {
        // What of NAT there was before goes.
        all.push(json!({"delete": {"table": table}}));
        all.push(json!({"add": {"table": table}}));
    }
    all.extend(SETS.map(|(name, _)| set_of(&at, name, json!("ipv4_addr"))));
    let led = !routed && wanted.nat.is_some();
    all.push(match led {
        true => json!({"add": {"chain": {"family": at.0.name(), "table": at.1, "name": CHAIN}}}),
        false => chain(&at, CHAIN, "filter", "forward", CHANGING),
    });
    all.push(flush(&at, CHAIN));
    let meta = |key: &str| json!({"meta": {"key": key}});
    let from = matches("==", meta("iifname"), json!(wanted.inside));
    let ipv4 = matches("==", meta("nfproto"), json!("ipv4"));
    let mut expr = vec![json!([from, ipv4, given(Urgency::Normal)])];
    let sender = || json!({"payload": {"protocol": "ip", "field": "saddr"}});
    expr.extend(SETS.map(|(name, urgency)| {
        let is = matches("==", sender(), json!(format!("@{name}")));
        json!([from, is, given(urgency)])
    }));
    all.extend(expr.into_iter().map(|expr| rule(&at, CHAIN, expr)));
    if led {
        // What a bridge passes on has its place already. The last comes first.
        let lead = json!([{"jump": {"target": CHAIN}}]);
        let [came, goes] =
            ["iifname", "oifname"].map(|key| matches("==", meta(key), json!(wanted.inside)));
        // Of these only: others may be kept no track of by somebody else's wish.
        let bridged = json!([came, goes, untracked::is(), {"accept": null}]);
        all.extend([lead, bridged].map(|expr| {
            let first = rule(&at, "forward", expr);
            json!({"insert": first["add"]})
        }));
    }
    all
}

impl Network {
    /// Whether that is in the table of NAT, which is then there without NAT as well.
    pub(super) fn ranks_inside(&self) -> bool {
        self.kind == Kind::Bridge
    }

    fn ranks(&self) -> Option<At> {
        match self.kind {
            Kind::Routed => Some(self.guard.clone()),
            Kind::Bridge => Some((Family::Inet, self.table.clone())),
            Kind::Isolated | Kind::External | Kind::Macvlan | Kind::Passthrough => None,
        }
    }

    /// Makes the sets what the book says, where they are. Its lock is held.
    pub(super) fn urgency_as_written(&self) -> Result<(), HostError> {
        let Some(at) = self.ranks() else {
            return Ok(());
        };
        for (name, urgency) in SETS {
            if !set_exists(at.0, &at.1, name)? {
                continue;
            }
            let (there, wanted) = (ranked(&at, name)?, self.wanted_at(urgency)?);
            let element = |address: &Ipv4Addr| Element::new(name, address.octets().to_vec());
            let gone: Vec<_> = there.difference(&wanted).map(element).collect();
            let new: Vec<_> = wanted.difference(&there).map(element).collect();
            for (gone, new) in pairs(&gone, &new) {
                netlink_nft::exchange(at.0, &at.1, gone, new)?;
            }
        }
        Ok(())
    }

    /// Addresses that are not where the book says: a command died between the two.
    pub(super) fn urgency_astray(&self) -> Result<Vec<Ipv4Addr>, HostError> {
        let Some(at) = self.ranks() else {
            return Ok(Vec::new());
        };
        // Whoever is between the two holds it.
        let _lock = self.lock_book()?;
        let mut all = BTreeMap::new();
        for (name, urgency) in SETS {
            if set_exists(at.0, &at.1, name)? {
                let (there, wanted) = (ranked(&at, name)?, self.wanted_at(urgency)?);
                all.extend(there.symmetric_difference(&wanted).map(|one| (*one, ())));
            }
        }
        Ok(all.into_keys().collect())
    }

    fn wanted_at(&self, urgency: Urgency) -> Result<BTreeSet<Ipv4Addr>, HostError> {
        let leases = self.leases()?;
        let held = leases.by_guest.values();
        let held = held.filter(|held| held.ceilings.urgency == urgency);
        Ok(held.map(|held| held.address).collect())
    }
}

fn ranked((family, table): &At, name: &str) -> Result<BTreeSet<Ipv4Addr>, HostError> {
    let all = netlink_nft::elements(*family, table, name)?;
    let address = |one: &Element| <[u8; 4]>::try_from(one.key()).ok().map(Ipv4Addr::from);
    Ok(all.iter().filter_map(address).collect())
}

/// What one message takes of both, until all is told.
fn pairs<'a>(
    gone: &'a [Element],
    new: &'a [Element],
) -> impl Iterator<Item = (&'a [Element], &'a [Element])> {
    const SOME: usize = 250;
    let most = gone.len().max(new.len());
    let part = |all: &'a [Element], from: usize| {
        let from = from.min(all.len());
        &all[from..(from + SOME).min(all.len())]
    };
    (0..most)
        .step_by(SOME)
        .map(move |from| (part(gone, from), part(new, from)))
}
