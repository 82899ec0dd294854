//! What passes between a guest and the bridge, counted by the firewall: the elements of sets, which
//! come with the guest's address and go with it. So counters outlive the guest's interface, whoever
//! removes that, and the guest itself. A packet is counted once: by its other end's address in a set of
//! internal traffic (`classes.rs`), or in one of external. Adding them up over their lives is
//! `guest::account`.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use super::Network;
use super::classes::Internal;
use super::files::read_sysctl;
use super::firewall::{At, chain, matches, rule};
use super::guard::{flush, set};
use super::host::{BOOT_ID, HostError};
use super::lease::Lease;
use super::wall_fields::VERSIONS;
use crate::kernel::netlink_nft::{Element, NAME_LENGTH};
use crate::kernel::netlink_nft_count::Counting;
use crate::model::{Flows, GuestName, Traffic, Volume};

/// External, from guests and to them, by interface and protocol. All was counted there before there
/// were classes.
const SENT: &str = "sent";
const RECEIVED: &str = "received";
/// The same, internal.
const SENT_INSIDE: &str = "sent_internal";
const RECEIVED_INSIDE: &str = "received_internal";
/// Sets of this file.
pub(super) const SETS: [&str; 4] = [SENT, RECEIVED, SENT_INSIDE, RECEIVED_INSIDE];
/// <linux/if_ether.h>: ETH_P_IP, ETH_P_IPV6.
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
/// Right after the guard, which lets pass or drops.
const AFTER_GUARD: i32 = -299;
/// After all that may still be dropped.
const LAST: i32 = 300;
/// Bytes of a frame's header, which the firewall does not count and interfaces do.
const HEADER: u64 = 14;

/// The counters of a guest, as they stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counters {
    /// Which counters: with another text here they began at nothing.
    pub source: String,
    /// What they say.
    pub traffic: Traffic,
}

/// The sets and the chains that count, by these other ends.
pub(super) fn table(at: &At, internal: &Internal) -> Vec<Value> {
    let counting = |name| {
        let mut all = set(at, name, json!(["ifname", "ether_type"]));
        all["add"]["set"]["stmt"] = json!([{"counter": null}]);
        all
    };
    let mut all = Vec::new();
    for (which, inside, hook, priority, key, end) in [
        (
            SENT,
            SENT_INSIDE,
            "prerouting",
            AFTER_GUARD,
            "iifname",
            "daddr",
        ),
        (
            RECEIVED,
            RECEIVED_INSIDE,
            "postrouting",
            LAST,
            "oifname",
            "saddr",
        ),
    ] {
        all.extend([which, inside].map(counting));
        all.push(chain(at, which, "filter", hook, priority));
        all.push(flush(at, which));
        let packet = json!({"concat": [{"meta": {"key": key}}, {"meta": {"key": "protocol"}}]});
        let found = |set| matches("==", packet.clone(), json!(format!("@{set}")));
        for version in VERSIONS {
            let address = json!({"payload": {"protocol": version, "field": end}});
            for ends in internal.of(version) {
                let is = matches("==", address.clone(), ends);
                all.push(rule(
                    at,
                    which,
                    json!([is, found(inside), {"accept": null}]),
                ));
            }
        }
        all.push(rule(at, which, json!([found(which)])));
    }
    all
}

/// The counters of a guest: in each set those of IPv4 and IPv6.
pub(super) fn elements(lease: &Lease) -> impl Iterator<Item = Element> {
    SETS.into_iter().flat_map(|set| of_set(lease, set))
}

fn of_set(lease: &Lease, set: &str) -> [Element; 2] {
    [IPV4, IPV6].map(|protocol| {
        let mut key = lease.host_interface.as_bytes().to_vec();
        key.resize(NAME_LENGTH, 0);
        key.extend(protocol.to_be_bytes());
        // Each part of a key is as long as a multiple of four.
        key.extend([0, 0]);
        Element::new(set, key)
    })
}

impl Network {
    /// What a guest's counters say; `None` when it has none, as before its first start.
    ///
    /// # Errors
    /// When the kernel refuses to tell.
    pub fn counters(&self, lease: &Lease) -> Result<Option<Counters>, HostError> {
        let Some(mut meter) = Meter::open(&self.guard)? else {
            return Ok(None);
        };
        meter.read(lease)
    }

    /// The same of many guests, by one look at the book and one conversation with the kernel; guests
    /// without counters are left out.
    ///
    /// # Errors
    /// When the book cannot be read or the kernel refuses to tell.
    pub fn counters_of(
        &self,
        guests: &[GuestName],
    ) -> Result<BTreeMap<GuestName, Counters>, HostError> {
        let (Some(subnet), leases) = (self.known_subnet()?, self.leases()?) else {
            return Ok(BTreeMap::new());
        };
        let mut all = BTreeMap::new();
        let Some(mut meter) = Meter::open(&self.guard)? else {
            return Ok(all);
        };
        for guest in guests {
            let held = leases.by_guest.get(guest);
            let lease = held.and_then(|held| self.lease_held(held, subnet));
            let counters = lease.map(|lease| meter.read(&lease)).transpose()?;
            if let Some(counters) = counters.flatten() {
                all.insert(guest.clone(), counters);
            }
        }
        Ok(all)
    }
}

/// The firewall's counters, at hand.
struct Meter {
    counting: Counting,
    boot: String,
}

impl Meter {
    fn open((family, table): &At) -> Result<Option<Self>, HostError> {
        let Some(counting) = Counting::open(*family, table)? else {
            return Ok(None);
        };
        let boot = read_sysctl(Path::new(BOOT_ID))?.unwrap_or_default();
        Ok(Some(Self { counting, boot }))
    }

    fn read(&mut self, lease: &Lease) -> Result<Option<Counters>, HostError> {
        let Some(external) = self.flows(lease, SENT, RECEIVED)? else {
            return Ok(None);
        };
        // The rules may be those of a program that knew no classes.
        let internal = self.flows(lease, SENT_INSIDE, RECEIVED_INSIDE)?;
        let (boot, table) = (&self.boot, self.counting.table());
        Ok(Some(Counters {
            source: format!("{boot} {table} {}", lease.host_interface),
            traffic: Traffic {
                external,
                internal: internal.unwrap_or_default(),
            },
        }))
    }

    fn flows(
        &mut self,
        lease: &Lease,
        sent: &str,
        received: &str,
    ) -> Result<Option<Flows>, HostError> {
        let mut of = |set| {
            let counted = self.counting.count(&of_set(lease, set))?;
            Ok::<_, HostError>(counted.map(|both| both.map(with_headers)))
        };
        let Some([sent_ipv4, sent_ipv6]) = of(sent)? else {
            return Ok(None);
        };
        Ok(of(received)?.map(|[received_ipv4, received_ipv6]| Flows {
            sent_ipv4,
            sent_ipv6,
            received_ipv4,
            received_ipv6,
        }))
    }
}

fn with_headers(counted: Volume) -> Volume {
    Volume {
        bytes: counted.bytes + HEADER * counted.packets,
        ..counted
    }
}
