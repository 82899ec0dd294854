//! What passes between a guest and the bridge, counted by the firewall: the elements of two sets,
//! which come with the guest's address and go with it. So counters outlive the guest's interface,
//! whoever removes that, and the guest itself. Adding them up over their lives is `guest::account`.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use super::Network;
use super::files::read_sysctl;
use super::firewall::{At, chain, matches, rule};
use super::guard::{flush, set};
use super::host::{BOOT_ID, HostError};
use super::lease::Lease;
use crate::kernel::netlink_nft::{Element, NAME_LENGTH};
use crate::kernel::netlink_nft_count::Counting;
use crate::model::{GuestName, Traffic, Volume};

/// From guests, and to them, by interface and protocol.
const SENT: &str = "sent";
const RECEIVED: &str = "received";
/// Sets of this file.
pub(super) const SETS: [&str; 2] = [SENT, RECEIVED];
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

/// The sets and the chains that count.
pub(super) fn table(at: &At) -> Vec<Value> {
    let mut all = Vec::new();
    for (which, hook, priority, key) in [
        (SENT, "prerouting", AFTER_GUARD, "iifname"),
        (RECEIVED, "postrouting", LAST, "oifname"),
    ] {
        let mut counting = set(at, which, json!(["ifname", "ether_type"]));
        counting["add"]["set"]["stmt"] = json!([{"counter": null}]);
        all.push(counting);
        all.push(chain(at, which, "filter", hook, priority));
        all.push(flush(at, which));
        let packet = json!({"concat": [{"meta": {"key": key}}, {"meta": {"key": "protocol"}}]});
        let found = matches("==", packet, json!(format!("@{which}")));
        all.push(rule(at, which, json!([found])));
    }
    all
}

/// The counters of a guest: IPv4 and IPv6 from it, IPv4 and IPv6 to it.
pub(super) fn elements(lease: &Lease) -> [Element; 4] {
    let of = |set, protocol: u16| {
        let mut key = lease.host_interface.as_bytes().to_vec();
        key.resize(NAME_LENGTH, 0);
        key.extend(protocol.to_be_bytes());
        // Each part of a key is as long as a multiple of four.
        key.extend([0, 0]);
        Element::new(set, key)
    };
    [
        of(SENT, IPV4),
        of(SENT, IPV6),
        of(RECEIVED, IPV4),
        of(RECEIVED, IPV6),
    ]
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
        let mut volumes = [Volume::default(); 4];
        for (volume, element) in volumes.iter_mut().zip(elements(lease)) {
            let Some(counted) = self.counting.count(&element)? else {
                return Ok(None);
            };
            *volume = Volume {
                bytes: counted.bytes + HEADER * counted.packets,
                ..counted
            };
        }
        let (boot, table) = (&self.boot, self.counting.table());
        let [sent_ipv4, sent_ipv6, received_ipv4, received_ipv6] = volumes;
        Ok(Some(Counters {
            source: format!("{boot} {table} {}", lease.host_interface),
            traffic: Traffic {
                sent_ipv4,
                sent_ipv6,
                received_ipv4,
                received_ipv6,
            },
        }))
    }
}
