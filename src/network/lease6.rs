//! A guest's IPv6 address: the one at the same place of the prefix as its IPv4 address is of the pool, or
//! one that was chosen for it. Only chosen ones are in the book of leases. Nobody has what is chosen for
//! another, or follows for another, whichever was first.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::lease::{Held, LeaseError, Leases};
use super::subnet::Subnet;
use super::{Lease6, Network};
use crate::kernel::netlink::{Netlink, Way};
use crate::model::{GuestName, Prefix6};

/// An IPv6 address that cannot be a guest's; nothing was changed.
#[derive(Debug, thiserror::Error)]
#[error("cannot give {guest} the IPv6 address {address}: {why}")]
pub struct Address6Error {
    /// Who asked.
    guest: GuestName,
    /// For what.
    address: Ipv6Addr,
    /// Why not, and what to do.
    why: String,
}

impl Lease6 {
    /// The same with what was chosen for the guest, if that is still of the prefix.
    pub(super) fn chosen(self, address: Option<Ipv6Addr>, prefix: Option<Prefix6>) -> Self {
        let address = address.filter(|address| prefix.is_some_and(|p| p.overlaps(*address, 128)));
        Self {
            chosen: address.is_some(),
            address: address.unwrap_or(self.address),
            ..self
        }
    }

    /// Whether it is what is wished: an address, or the one that follows.
    pub(super) fn fits(&self, wish: Option<Ipv6Addr>) -> bool {
        wish.map_or(!self.chosen, |wish| wish == self.address)
    }
}

/// A guest's address in a prefix.
fn address(held: &Held, subnet: Subnet, prefix: Prefix6) -> Option<Ipv6Addr> {
    let of_prefix = |address: &Ipv6Addr| prefix.overlaps(*address, 128);
    let chosen = held.address6.filter(of_prefix);
    chosen.or_else(|| Some(prefix.at(subnet.place(held.address)?)))
}

impl Network {
    /// Notes which IPv6 address was chosen for a guest that has its IPv4 one, or that it has the one that
    /// follows.
    pub(super) fn choose6(
        &self,
        leases: &mut Leases,
        guest: &GuestName,
        wish: Option<Ipv6Addr>,
        subnet: Subnet,
    ) -> Result<(), LeaseError> {
        let Some(held) = leases.by_guest.get_mut(guest) else {
            return Ok(());
        };
        let before = std::mem::replace(&mut held.address6, wish);
        if let Some(wish) = wish {
            self.check_wish6(guest, wish, before != Some(wish))?;
        }
        let Some(prefix) = self.wanted6() else {
            return Ok(());
        };
        let (four, own) = (held.address, address(held, subnet, prefix));
        let mut others = leases.by_guest.iter().filter(|(name, _)| *name != guest);
        let has = others.find(|(_, held)| address(held, subnet, prefix) == own);
        let (Some((holder, _)), Some(address)) = (has, own) else {
            return Ok(());
        };
        let why = match wish {
            Some(_) => format!("{holder} has it; ask for another or for none in particular"),
            None => format!(
                "it follows from {four}, and {holder} has chosen it; say another with --address6, or another --address"
            ),
        };
        Err(refused(guest, address, why))
    }

    /// Whether it can be a guest's at all; whose of the host's it may be is asked for a new one only.
    fn check_wish6(
        &self,
        guest: &GuestName,
        address: Ipv6Addr,
        new: bool,
    ) -> Result<(), LeaseError> {
        let refused = |why: String| Err(refused(guest, address, why));
        let word = self.word();
        let Some(prefix) = self.wanted6() else {
            let how = match &self.name {
                Some(name) => format!("`bulkhead network set {name} --prefix6 PREFIX`"),
                None => "`prefix6` in bulkhead.toml".to_owned(),
            };
            return refused(format!(
                "the network {word} has no IPv6; give it a prefix by {how}, or ask for no address of it"
            ));
        };
        if !prefix.overlaps(address, 128) {
            return refused(format!("it is outside the prefix {prefix} of {word}"));
        }
        let host = prefix.gateway();
        let role = match address {
            _ if address == prefix.network() => "the first of the prefix, which all routers have",
            _ if address == host && !self.is_guest_of_lan() => "the host's own, the gateway",
            _ if Some(address) == self.addresses.gateway6 => "the gateway's",
            _ => "",
        };
        if !role.is_empty() {
            return refused(format!("it is {role}, in {prefix}"));
        }
        // Nothing of the host's is ever reached from a network without a way out.
        if new && self.prefix6.is_some() && !self.is_closed() {
            let way = Netlink::open().and_then(|mut kernel| kernel.way_to(address));
            if way.map_err(|error| Box::new(error.into()))? == Way::Here {
                return refused("this host has it itself".to_owned());
            }
        }
        Ok(())
    }

    /// Addresses of the pool whose IPv6 ones were chosen for guests.
    pub(super) fn chosen_away(&self, leases: &Leases, subnet: Subnet) -> Vec<Ipv4Addr> {
        let Some(prefix) = self.wanted6() else {
            return Vec::new();
        };
        let all = leases.by_guest.values().filter_map(|held| held.address6);
        let place = |address: Ipv6Addr| {
            let place = u16::try_from(address.to_bits() - prefix.network().to_bits()).ok()?;
            let bits = subnet.network().to_bits().checked_add(u32::from(place))?;
            Some(Ipv4Addr::from_bits(bits)).filter(|four| subnet.contains(*four))
        };
        all.filter(|address| prefix.overlaps(*address, 128))
            .filter_map(place)
            .collect()
    }

    /// Why guests of the book cannot have what was chosen for them, with the prefix that this has.
    pub(super) fn unfit6(&self, leases: &Leases, subnet: Subnet) -> Option<String> {
        let prefix = self.wanted6();
        let of_prefix = |a: Ipv6Addr| prefix.is_some_and(|prefix| prefix.overlaps(a, 128));
        for (guest, held) in &leases.by_guest {
            let Some(chosen) = held.address6 else {
                continue;
            };
            let why = match prefix {
                _ if !of_prefix(chosen) => "which it could not have any more",
                Some(prefix)
                    if leases.by_guest.iter().any(|(name, other)| {
                        name != guest && address(other, subnet, prefix) == Some(chosen)
                    }) =>
                {
                    "which would be another's"
                }
                _ => continue,
            };
            return Some(format!(
                "{guest} has chosen {chosen}, {why}: give it another with `bulkhead set {guest} --address6 none` and start it once, or leave that address to it"
            ));
        }
        None
    }
}

fn refused(guest: &GuestName, address: Ipv6Addr, why: String) -> LeaseError {
    LeaseError::Address6(Address6Error {
        guest: guest.clone(),
        address,
        why,
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::model::Layout;
    use crate::network::NetworkSettings;

    fn network(prefix: Option<&str>) -> Network {
        let settings = NetworkSettings {
            subnet: Some(([10, 9, 0, 0].into(), 29)),
            prefix6: prefix.map(|text| text.parse().unwrap()),
            ..NetworkSettings::default()
        };
        Network::new(&Layout::new(Path::new("/tmp/no-such-bulkhead")), settings).unwrap()
    }

    fn name(text: &str) -> GuestName {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_chosen_for_one_no_other_has() {
        let network = network(Some("fd42:1:2:3::/64"));
        let subnet: Subnet = "10.9.0.0/29".parse().unwrap();
        let mut leases = Leases::default();
        let (web, db) = (name("web"), name("db"));
        for guest in [&web, &db] {
            leases.give(guest, None, subnet).unwrap();
        }
        let mut choose = |guest: &GuestName, text: &str| {
            let wish = (!text.is_empty()).then(|| text.parse().unwrap());
            let mut after = leases.clone();
            let done = network.choose6(&mut after, guest, wish, subnet);
            if done.is_ok() {
                leases = after;
            }
            done.map_err(|error| error.to_string())
        };
        for (address, why) in [
            ("fd42:1:2:4::5", "outside the prefix fd42:1:2:3::/64"),
            ("fd42:1:2:3::", "which all routers have"),
            ("fd42:1:2:3::1", "the host's own, the gateway"),
            ("fd42:1:2:3::3", "db has it"),
        ] {
            let error = choose(&web, address).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        choose(&web, "fd42:1:2:3::80").unwrap();
        // What followed for web is free, and is not given to its place again while db has it.
        choose(&db, "fd42:1:2:3::2").unwrap();
        let error = choose(&web, "").unwrap_err();
        assert!(error.contains("follows from 10.9.0.2, and db"), "{error}");
        assert_eq!(
            network.chosen_away(&leases, subnet),
            [Ipv4Addr::new(10, 9, 0, 2)]
        );
        let text = serde_json::to_string(&leases).unwrap();
        assert_eq!(serde_json::from_str::<Leases>(&text).unwrap(), leases);
        let twice = text.replace("::80", "::2");
        assert!(serde_json::from_str::<Leases>(&twice).is_err());
        assert!(network.unfit6(&leases, subnet).is_none());
        let why = self::network(Some("fd43::/64")).unfit6(&leases, subnet);
        assert!(why.unwrap().contains("could not have any more"));
    }

    #[test]
    fn without_a_prefix_there_is_nothing_to_choose_from() {
        let subnet: Subnet = "10.9.0.0/29".parse().unwrap();
        let mut leases = Leases::default();
        let web = name("web");
        leases.give(&web, None, subnet).unwrap();
        let wish = Some("fd42::5".parse().unwrap());
        let error = network(None).choose6(&mut leases, &web, wish, subnet);
        let error = error.unwrap_err().to_string();
        assert!(error.contains("`prefix6` in bulkhead.toml"), "{error}");
    }
}
