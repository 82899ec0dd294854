//! Which guest has which address: the rules, without a disk or a kernel. Where the book of leases
//! lies and how it is locked is `book.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::files::FileError;
use super::host::HostError;
use super::ipv6::Lease6;
use super::lease_file::Written;
use super::lease6::Address6Error;
use super::pool::Pool;
use super::subnet::Subnet;
use crate::model::{Ceilings, FirewallLine, Forward, GuestName, Mac, NicName, Protocol};

/// What a guest on the bridge is given; the same as long as the guest exists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Its address.
    pub address: Ipv4Addr,
    /// Prefix length of its network.
    pub prefix: u8,
    /// Its default gateway: the bridge.
    pub gateway: Ipv4Addr,
    /// Its hardware address: locally administered, made from its address.
    pub mac: [u8; 6],
    /// Name of the host's end of its interface; unique on the host over all installations.
    pub host_interface: String,
    /// What it has of IPv6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<Lease6>,
    /// Which of the guest's interfaces it is for; `None` for the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nic: Option<NicName>,
}

impl Lease {
    /// What follows from an address of the pool; `None` for an address outside.
    pub(super) fn of(address: Ipv4Addr, subnet: Subnet, tag: &str) -> Option<Self> {
        let place = subnet.place(address)?;
        Some(Self {
            address,
            prefix: subnet.prefix(),
            gateway: subnet.gateway(),
            mac: mac_of(address),
            // Six bytes for the system's installation, fourteen for any other: they never meet.
            host_interface: format!("bh{tag}{place:04x}"),
            ipv6: None,
            nic: None,
        })
    }
}

/// A locally administered hardware address (`02:62:…`, 0x62 for b) with the IP address in it.
pub(super) fn mac_of(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x02, 0x62, a, b, c, d]
}

/// A lease that could not be given, moved or freed; nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// Another guest has it.
    #[error(
        "cannot give {address} to {guest}: {holder} has it; ask for another or for none in particular"
    )]
    Taken {
        /// Who asked.
        guest: GuestName,
        /// For what.
        address: Ipv4Addr,
        /// Who has it.
        holder: GuestName,
    },
    /// Not of this network.
    #[error("cannot give {address} to {guest}: it is outside the pool {subnet}")]
    Outside {
        /// Who asked.
        guest: GuestName,
        /// For what.
        address: Ipv4Addr,
        /// The pool.
        subnet: Subnet,
    },
    /// Another guest has the hardware address.
    #[error(
        "cannot give {guest} the hardware address {mac}: {holder} has it on this network; choose another, or none"
    )]
    MacTaken {
        /// Who asked.
        guest: GuestName,
        /// For what.
        mac: Mac,
        /// Who has it.
        holder: GuestName,
    },
    /// Network, gateway or broadcast address.
    #[error("cannot give {address} to {guest}: it is {role} in the pool {subnet}")]
    Reserved {
        /// Who asked.
        guest: GuestName,
        /// For what.
        address: Ipv4Addr,
        /// What it is.
        role: &'static str,
        /// The pool.
        subnet: Subnet,
    },
    /// None left.
    #[error(
        "cannot give {guest} an address: all {size} of the pool {pool} are taken; delete guests, or let it give more"
    )]
    UsedUp {
        /// Who asked.
        guest: GuestName,
        /// The pool, and what of it is given.
        pool: String,
        /// Addresses in it.
        size: usize,
    },
    /// The pool was changed under it.
    #[error(
        "{guest} has {address}, which is outside the pool {subnet}: give it another address, or set the subnet back"
    )]
    Stranded {
        /// Whose lease.
        guest: GuestName,
        /// Its address.
        address: Ipv4Addr,
        /// The pool now.
        subnet: Subnet,
    },
    /// Another guest has a port of it.
    #[error(
        "cannot lead {wanted} to {guest}: {holder} has {held}; choose another port of the host, or take it from {holder} with `bulkhead set {holder} --unset network.forward.{held}`"
    )]
    PortTaken {
        /// Who asked.
        guest: GuestName,
        /// For what.
        wanted: Forward,
        /// Who has it.
        holder: GuestName,
        /// As what.
        held: Forward,
    },
    /// A program of the host listens there.
    #[error(
        "cannot lead {wanted} to {guest}: a program of the host listens on {protocol} port {port}; choose another port of the host, or end that program"
    )]
    PortBusy {
        /// Who asked.
        guest: GuestName,
        /// For what.
        wanted: Forward,
        /// What runs over it.
        protocol: Protocol,
        /// The port.
        port: u16,
    },
    /// Nothing leads ports anywhere.
    #[error(
        "cannot lead {wanted} to {guest}: no port of the host leads into the network {network}, which has no NAT{}",
        if network == "bridge" { "; set network.nat in bulkhead.toml" } else { "" }
    )]
    NoNat {
        /// Of which network.
        network: String,
        /// Who asked.
        guest: GuestName,
        /// For what.
        wanted: Forward,
    },
    /// Nothing of ours is between the guest and the rest.
    #[error(
        "cannot hold {guest} to {key}: on the network {network} nothing of the host's is between a guest and the wire; `bulkhead set {guest} --unset {key}`, or another network"
    )]
    Unheld {
        /// Of which network.
        network: String,
        /// Who asked.
        guest: GuestName,
        /// For what.
        key: &'static str,
    },
    /// Its firewall names what is not there.
    #[error("cannot set the firewall of {guest}: {why}")]
    NotShared {
        /// Who asked.
        guest: GuestName,
        /// What is not there, and what makes it.
        why: String,
    },
    /// Nothing keeps track of connections.
    #[error(
        "cannot keep {guest} to a number of connections: the network {network} has no NAT, so the host keeps track of none; `bulkhead set {guest} --unset network.connections`"
    )]
    Untracked {
        /// Of which network.
        network: String,
        /// Who asked.
        guest: GuestName,
    },
    /// Renamed to a name in use.
    #[error("cannot pass the address of {from} to {to}: {to} has one already ({address})")]
    NameInUse {
        /// The name before.
        from: GuestName,
        /// The name after.
        to: GuestName,
        /// What it has.
        address: Ipv4Addr,
    },
    /// Its IPv6 address cannot be.
    #[error(transparent)]
    Address6(#[from] Address6Error),
    /// The files failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// No pool could be chosen.
    #[error(transparent)]
    Host(#[from] Box<HostError>),
}

/// All leases of an installation. An address is in it once at most, and so is a port of the host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub(super) struct Leases {
    pub(super) by_guest: BTreeMap<GuestName, Held>,
}

/// What one guest has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) address: Ipv4Addr,
    pub(super) forwards: Vec<Forward>,
    pub(super) rules: Vec<FirewallLine>,
    pub(super) ceilings: Ceilings,
    /// For which interface, if not the guest's first.
    pub(super) nic: Option<NicName>,
    /// Hardware address, if one was chosen.
    pub(super) mac: Option<Mac>,
    /// IPv6 address, if one was chosen.
    pub(super) address6: Option<Ipv6Addr>,
}

impl Leases {
    pub(super) fn iter(&self) -> impl Iterator<Item = (&GuestName, Ipv4Addr)> {
        self.by_guest.iter().map(|(g, held)| (g, held.address))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_guest.is_empty()
    }

    pub(super) fn get(&self, guest: &GuestName) -> Option<Ipv4Addr> {
        self.by_guest.get(guest).map(|held| held.address)
    }

    /// Which ports of the host lead to a guest.
    pub(super) fn forwards(&self, guest: &GuestName) -> &[Forward] {
        self.by_guest
            .get(guest)
            .map_or(&[], |held| held.forwards.as_slice())
    }

    /// All of them, each with the address it leads to.
    pub(super) fn all_forwards(&self) -> impl Iterator<Item = (Forward, Ipv4Addr)> {
        let of = |held: &Held| (held.forwards.clone(), held.address);
        let each = self.by_guest.values().map(of);
        each.flat_map(|(forwards, address)| forwards.into_iter().map(move |one| (one, address)))
    }

    /// The rules of a guest's firewall.
    pub(super) fn rules(&self, guest: &GuestName) -> &[FirewallLine] {
        self.by_guest
            .get(guest)
            .map_or(&[], |held| held.rules.as_slice())
    }

    /// How many packets and connections a guest may have.
    pub(super) fn ceilings_of(&self, guest: &GuestName) -> Ceilings {
        self.by_guest
            .get(guest)
            .map(|held| held.ceilings)
            .unwrap_or_default()
    }

    /// Most connections that are kept track of, by address, of guests that have a number of their own.
    pub(super) fn ceilings(&self) -> BTreeMap<Ipv4Addr, u32> {
        let all = self.by_guest.values();
        all.filter_map(|held| Some((held.address, held.ceilings.connections?)))
            .collect()
    }

    /// Whether a guest has ports of the host, rules or ceilings.
    pub(super) fn leads(&self, guest: &GuestName) -> bool {
        let has = |held: &Held| {
            !(held.forwards.is_empty() && held.rules.is_empty() && held.ceilings.is_none())
        };
        self.by_guest.get(guest).is_some_and(has)
    }

    /// Guests with rules, ceilings of what passes their port, or a priority.
    pub(super) fn walls(&self) -> impl Iterator<Item = (&GuestName, &Held)> {
        let all = self.by_guest.iter();
        all.filter(|(_, held)| !held.rules.is_empty() || held.ceilings.needs_port())
    }

    /// Keeps a guest that has an address to these rules and ceilings.
    pub(super) fn wall(&mut self, guest: &GuestName, rules: &[FirewallLine], ceilings: Ceilings) {
        if let Some(held) = self.by_guest.get_mut(guest) {
            rules.clone_into(&mut held.rules);
            held.ceilings = ceilings;
        }
    }

    /// Leads these ports of the host, and no others, to a guest that has an address. They do not
    /// meet each other.
    pub(super) fn lead(&mut self, guest: &GuestName, wanted: &[Forward]) -> Result<(), LeaseError> {
        self.check_free(guest, wanted)?;
        if let Some(held) = self.by_guest.get_mut(guest) {
            wanted.clone_into(&mut held.forwards);
        }
        Ok(())
    }

    /// Whether none of these ports of the host leads to another guest.
    pub(super) fn check_free(
        &self,
        guest: &GuestName,
        wanted: &[Forward],
    ) -> Result<(), LeaseError> {
        for (holder, held) in self.by_guest.iter().filter(|(name, _)| *name != guest) {
            let meets = |one: &Forward| held.forwards.iter().find(|other| other.meets(one));
            if let Some((wanted, held)) = wanted.iter().find_map(|one| Some((one, meets(one)?))) {
                return Err(LeaseError::PortTaken {
                    guest: guest.clone(),
                    wanted: *wanted,
                    holder: holder.clone(),
                    held: *held,
                });
            }
        }
        Ok(())
    }

    fn holder(&self, address: Ipv4Addr) -> Option<&GuestName> {
        self.iter().find(|(_, a)| *a == address).map(|(g, _)| g)
    }

    /// The address of `guest`: the one it has, or the one it wishes, or the lowest free one.
    pub(super) fn give(
        &mut self,
        guest: &GuestName,
        wish: Option<Ipv4Addr>,
        pool: impl Into<Pool>,
    ) -> Result<Ipv4Addr, LeaseError> {
        let pool = pool.into();
        let subnet = pool.subnet;
        let had = self.get(guest);
        let address = match (wish, had) {
            (None, Some(address)) if subnet.contains(address) => return Ok(address),
            (None, Some(address)) => {
                return Err(LeaseError::Stranded {
                    guest: guest.clone(),
                    address,
                    subnet,
                });
            }
            (Some(address), _) => self.check_wish(guest, address, &pool)?,
            (None, None) => self.lowest_free(guest, &pool)?,
        };
        let new = || Held::of(address);
        let held = self.by_guest.entry(guest.clone()).or_insert_with(new);
        held.address = address;
        Ok(address)
    }

    fn check_wish(
        &self,
        guest: &GuestName,
        address: Ipv4Addr,
        pool: &Pool,
    ) -> Result<Ipv4Addr, LeaseError> {
        let (guest, subnet) = (guest.clone(), pool.subnet);
        if !subnet.contains(address) {
            return Err(LeaseError::Outside {
                guest,
                address,
                subnet,
            });
        }
        if let Some(role) = pool.role(address) {
            return Err(LeaseError::Reserved {
                guest,
                address,
                role,
                subnet,
            });
        }
        match self.holder(address) {
            Some(holder) if *holder != guest => Err(LeaseError::Taken {
                guest,
                address,
                holder: holder.clone(),
            }),
            _ => Ok(address),
        }
    }

    fn lowest_free(&self, guest: &GuestName, pool: &Pool) -> Result<Ipv4Addr, LeaseError> {
        let taken: BTreeSet<Ipv4Addr> = self.iter().map(|(_, address)| address).collect();
        let mut free = pool.given().filter(|a| !taken.contains(a));
        free.next().ok_or_else(|| LeaseError::UsedUp {
            guest: guest.clone(),
            pool: pool.to_string(),
            size: pool.given().count(),
        })
    }

    /// Passes the lease on to the guest's new name; a guest without one has nothing to pass on.
    pub(super) fn rename(&mut self, from: &GuestName, to: &GuestName) -> Result<(), LeaseError> {
        if from == to || self.get(from).is_none() {
            return Ok(());
        }
        if let Some(address) = self.get(to) {
            return Err(LeaseError::NameInUse {
                from: from.clone(),
                to: to.clone(),
                address,
            });
        }
        if let Some(held) = self.by_guest.remove(from) {
            self.by_guest.insert(to.clone(), held);
        }
        Ok(())
    }

    /// Frees a guest's address, and says which it was.
    pub(super) fn release(&mut self, guest: &GuestName) -> Option<Ipv4Addr> {
        self.by_guest.remove(guest).map(|held| held.address)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> GuestName {
        text.parse().unwrap()
    }

    fn pool() -> Subnet {
        "10.9.0.0/29".parse().unwrap()
    }

    #[test]
    fn a_pool_is_used_up_and_refilled() {
        let mut leases = Leases::default();
        for n in 2..=6 {
            let address = leases.give(&name(&format!("g{n}")), None, pool()).unwrap();
            assert_eq!(address, Ipv4Addr::new(10, 9, 0, n));
        }
        let before = leases.clone();
        let error = leases.give(&name("late"), None, pool()).unwrap_err();
        assert!(
            error.to_string().contains("all 5 of the pool 10.9.0.0/29"),
            "{error}"
        );
        assert_eq!(leases, before);
        leases.release(&name("g4"));
        let address = leases.give(&name("late"), None, pool()).unwrap();
        assert_eq!(address, Ipv4Addr::new(10, 9, 0, 4));
    }

    #[test]
    fn wishes_have_rules() {
        let mut leases = Leases::default();
        let wish = |n| Some(Ipv4Addr::new(10, 9, 0, n));
        let (web, db) = (name("web"), name("db"));
        leases.give(&web, wish(5), pool()).unwrap();
        let before = leases.clone();
        for (n, part) in [
            (5, "web has it"),
            (0, "network address"),
            (1, "gateway's address"),
            (7, "broadcast address"),
            (8, "outside the pool 10.9.0.0/29"),
        ] {
            let error = leases.give(&db, wish(n), pool()).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
            assert_eq!(leases, before);
        }
        assert_eq!(leases.give(&web, None, pool()).ok(), wish(5), "stays");
        assert_eq!(leases.give(&web, wish(5), pool()).ok(), wish(5), "twice");
        assert_eq!(leases.give(&web, wish(3), pool()).ok(), wish(3), "moves");
        assert_eq!(leases.give(&db, wish(5), pool()).ok(), wish(5), "freed");
    }

    #[test]
    fn a_port_of_the_host_leads_to_one_guest() {
        let mut leases = Leases::default();
        let (web, db) = (name("web"), name("db"));
        let of = |texts: &[&str]| -> Vec<Forward> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        for guest in [&web, &db] {
            leases.give(guest, None, pool()).unwrap();
        }
        leases
            .lead(&web, &of(&["8000-8009:1-10", "53/udp"]))
            .unwrap();
        let before = leases.clone();
        let error = leases.lead(&db, &of(&["1:1", "8009:80"])).unwrap_err();
        assert!(
            error.to_string().contains("web has 8000-8009:1-10;"),
            "{error}"
        );
        assert_eq!(leases, before);
        leases.lead(&db, &of(&["8010:80", "53/tcp"])).unwrap();
        assert_eq!(leases.all_forwards().count(), 4);
        let again: Leases = serde_json::from_value(serde_json::to_value(&leases).unwrap()).unwrap();
        assert_eq!(again, leases);
        leases.rename(&web, &name("www")).unwrap();
        assert_eq!(leases.forwards(&name("www")).len(), 2);
        leases
            .give(&db, Some([10, 9, 0, 6].into()), pool())
            .unwrap();
        assert_eq!(leases.forwards(&db).len(), 2, "they follow the address");
        leases.release(&name("www"));
        leases.lead(&db, &of(&["8009:80"])).unwrap();
        assert_eq!(leases.all_forwards().count(), 1);
    }

    #[test]
    fn a_name_changes_and_an_address_does_not() {
        let mut leases = Leases::default();
        let (a, b) = (name("a"), name("b"));
        let address = leases.give(&a, None, pool()).unwrap();
        leases.rename(&a, &a).unwrap();
        leases.rename(&a, &b).unwrap();
        assert_eq!((leases.get(&a), leases.get(&b)), (None, Some(address)));
        leases.give(&a, None, pool()).unwrap();
        assert!(matches!(
            leases.rename(&a, &b),
            Err(LeaseError::NameInUse { .. })
        ));
        leases.rename(&name("none"), &b).unwrap();
    }

    #[test]
    fn a_lease_outlives_its_pool_only_as_an_error() {
        let mut leases = Leases::default();
        let a = name("a");
        leases.give(&a, None, pool()).unwrap();
        let other: Subnet = "10.8.0.0/24".parse().unwrap();
        assert!(matches!(
            leases.give(&a, None, other),
            Err(LeaseError::Stranded { .. })
        ));
        assert!(
            leases
                .give(&a, Some(Ipv4Addr::new(10, 8, 0, 9)), other)
                .is_ok()
        );
    }

    #[test]
    fn interfaces_fit_the_kernel_and_never_meet() {
        let subnet: Subnet = "10.213.0.0/16".parse().unwrap();
        let last = Ipv4Addr::new(10, 213, 255, 254);
        let system = Lease::of(last, subnet, "").unwrap();
        let other = Lease::of(last, subnet, "811c9dc5").unwrap();
        assert_eq!(system.host_interface, "bhfffe");
        assert_eq!(other.host_interface, "bh811c9dc5fffe");
        assert!(other.host_interface.len() <= 15);
        assert_eq!(system.mac[0] & 3, 2, "locally administered, not a group");
    }

    #[test]
    fn the_written_form_is_checked() {
        let line = |g: &str, a: &str| format!(r#"{{"guest":"{g}","address":"{a}"}}"#);
        let file = |version: u32, lines: &[String]| {
            let text = format!(r#"{{"version":{version},"leases":[{}]}}"#, lines.join(","));
            serde_json::from_str::<Leases>(&text)
        };
        let good = [line("a", "10.9.0.2"), line("b", "10.9.0.3")];
        let read = file(1, &good).unwrap();
        let again: Leases = serde_json::from_value(serde_json::to_value(&read).unwrap()).unwrap();
        assert_eq!(again, read);
        assert!(file(2, &good).is_err());
        assert!(file(1, &[line("a", "10.9.0.2"), line("b", "10.9.0.2")]).is_err());
        assert!(file(1, &[line("a", "10.9.0.2"), line("a", "10.9.0.3")]).is_err());
        assert!(file(1, &[line("../a", "10.9.0.2")]).is_err());
        let forward = |ports: &str| {
            let line = line("c", "10.9.0.4");
            format!(r#"{},"forwards":["{ports}"]}}"#, &line[..line.len() - 1])
        };
        assert!(file(1, &[forward("8080:80")]).is_ok());
        assert!(file(1, &[forward("8080:80\",\"8080:81")]).is_err());
        assert!(file(1, &[forward("0:80")]).is_err());
    }

    proptest! {
        #[test]
        fn two_live_leases_never_share_an_address(
            steps in prop::collection::vec((0_u8..4, 0_u8..8, 0_u8..10), 0..80)
        ) {
            let mut leases = Leases::default();
            for (verb, guest, other) in steps {
                let guest = name(&format!("g{guest}"));
                let before = leases.clone();
                let done = match verb {
                    0 => leases.give(&guest, None, pool()).is_ok(),
                    1 => leases.give(&guest, Some([10, 9, 0, other].into()), pool()).is_ok(),
                    2 => leases.rename(&guest, &name(&format!("g{other}"))).is_ok(),
                    _ => leases.release(&guest).is_some(),
                };
                if !done {
                    prop_assert_eq!(&leases, &before);
                }
                let addresses: BTreeSet<_> = leases.iter().map(|(_, a)| a).collect();
                prop_assert_eq!(addresses.len(), leases.iter().count());
                prop_assert!(leases.iter().all(|(_, a)| pool().guests().any(|g| g == a)));
            }
        }
    }
}
