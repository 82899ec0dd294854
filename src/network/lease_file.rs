//! The form of `leases.json`, and what is no such file. What leases are is `lease.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::lease::{Held, Leases};
use crate::model::{Ceilings, FirewallLine, Forward, GuestName, Mac, NicName};

/// The form on disk.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Written {
    version: u32,
    leases: Vec<Line>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    guest: GuestName,
    address: Ipv4Addr,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    forwards: Vec<Forward>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    firewall: Vec<FirewallLine>,
    #[serde(default, skip_serializing_if = "Ceilings::is_none")]
    ceilings: Ceilings,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nic: Option<NicName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mac: Option<Mac>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    address6: Option<Ipv6Addr>,
}

impl From<Leases> for Written {
    fn from(leases: Leases) -> Self {
        let line = |(guest, held): (GuestName, Held)| Line {
            guest,
            address: held.address,
            forwards: held.forwards,
            firewall: held.rules,
            ceilings: held.ceilings,
            nic: held.nic,
            mac: held.mac,
            address6: held.address6,
        };
        Self {
            version: 1,
            leases: leases.by_guest.into_iter().map(line).collect(),
        }
    }
}

impl TryFrom<Written> for Leases {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        if written.version != 1 {
            return Err(format!("version {} is not known", written.version));
        }
        let mut seen = BTreeSet::new();
        let (mut ports, mut chosen) = (BTreeSet::new(), BTreeSet::new());
        let mut by_guest = BTreeMap::new();
        for line in written.leases {
            let (guest, address, forwards) = (line.guest, line.address, line.forwards);
            if !seen.insert(address) {
                return Err(format!("{address} is there twice"));
            }
            if let Some(address) = line.address6.filter(|one| !chosen.insert(*one)) {
                return Err(format!("{address} is there twice"));
            }
            for one in &forwards {
                if !one
                    .ports()
                    .all(|(port, _)| ports.insert((one.protocol, port)))
                {
                    return Err(format!("a port of {one} is there twice"));
                }
            }
            let held = Held {
                address,
                forwards,
                rules: line.firewall,
                ceilings: line.ceilings,
                nic: line.nic,
                mac: line.mac,
                address6: line.address6,
            };
            if by_guest.insert(guest.clone(), held).is_some() {
                return Err(format!("{guest} is there twice"));
            }
        }
        Ok(Self { by_guest })
    }
}
