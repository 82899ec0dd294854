//! For which of a guest's interfaces an address is, which hardware address goes with it, and whether the
//! interface that is there is that one.

use std::net::Ipv4Addr;

use super::host::HostError;
use super::lease::{Held, LeaseError, Leases, mac_of};
use super::{Lease, Network};
use crate::kernel::netlink::Netlink;
use crate::model::{Ceilings, GuestName, Mac, NetworkWish, NicName};

impl Lease {
    /// Whether its addresses are those that are wished, where any are.
    #[must_use]
    pub fn fits(&self, wish: &NetworkWish) -> bool {
        let mac = wish.mac.map_or(mac_of(self.address), Mac::bytes);
        let six = self.ipv6.as_ref();
        self.mac == mac
            && wish.address.is_none_or(|wish| wish == self.address)
            && six.is_none_or(|six| six.fits(wish.address6))
    }
}

impl Network {
    /// Whether the host's end of a guest's interface is up, which comes last, and is that of its hardware
    /// address; true where the host has none.
    ///
    /// # Errors
    /// When the kernel refuses to tell.
    pub fn is_whole(&self, lease: &Lease) -> Result<bool, HostError> {
        if !self.holds_back() {
            return Ok(true);
        }
        let end = Netlink::open()?.link(&lease.host_interface)?;
        // All but the first byte is the guest's.
        let same = |mac: [u8; 6]| mac[1..] == lease.mac[1..];
        Ok(end.is_some_and(|end| end.up && end.mac.is_some_and(same)))
    }
}

impl Held {
    /// An address with nothing chosen beside it, for a guest's first interface.
    pub(super) fn of(address: Ipv4Addr) -> Self {
        Self {
            address,
            forwards: Vec::new(),
            rules: Vec::new(),
            ceilings: Ceilings::default(),
            nic: None,
            mac: None,
            address6: None,
        }
    }
}

impl Leases {
    /// Says for which of its interfaces a guest's address is, and which hardware address that has.
    pub(super) fn name(
        &mut self,
        guest: &GuestName,
        nic: Option<&NicName>,
        mac: Option<Mac>,
    ) -> Result<(), LeaseError> {
        let same = |(holder, held): &(&GuestName, &Held)| {
            *holder != guest && held.mac.is_some() && held.mac == mac
        };
        if let (Some((holder, _)), Some(mac)) = (self.by_guest.iter().find(same), mac) {
            return Err(LeaseError::MacTaken {
                guest: guest.clone(),
                mac,
                holder: holder.clone(),
            });
        }
        if let Some(held) = self.by_guest.get_mut(guest) {
            held.nic = nic.cloned();
            held.mac = mac;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Subnet;

    #[test]
    fn an_interface_of_other_addresses_is_not_the_one_that_is_wished() {
        let subnet: Subnet = "10.9.0.0/24".parse().unwrap();
        let given = Lease::of([10, 9, 0, 5].into(), subnet, "").unwrap();
        let mac: Mac = "02:00:5e:00:00:01".parse().unwrap();
        let chosen = Lease {
            mac: mac.bytes(),
            ..given.clone()
        };
        let wish = |address: Option<[u8; 4]>, mac| NetworkWish {
            address: address.map(Into::into),
            mac,
            ..NetworkWish::default()
        };
        assert!(given.fits(&wish(None, None)) && given.fits(&wish(Some([10, 9, 0, 5]), None)));
        assert!(!given.fits(&wish(Some([10, 9, 0, 6]), None)));
        assert!(!given.fits(&wish(None, Some(mac))) && chosen.fits(&wish(None, Some(mac))));
        // It was chosen once, and is not any more.
        assert!(!chosen.fits(&wish(None, None)));
    }

    #[test]
    fn a_hardware_address_is_one_guests() {
        let subnet: Subnet = "10.9.0.0/24".parse().unwrap();
        let [web, db]: [GuestName; 2] = ["web", "db"].map(|name| name.parse().unwrap());
        let lan: NicName = "lan".parse().unwrap();
        let mac: Mac = "02:00:5e:00:00:01".parse().unwrap();
        let mut leases = Leases::default();
        for guest in [&web, &db] {
            leases.give(guest, None, subnet).unwrap();
        }
        leases.name(&web, Some(&lan), Some(mac)).unwrap();
        let error = leases.name(&db, None, Some(mac)).unwrap_err().to_string();
        assert!(error.contains("web has it on this network"), "{error}");
        leases.name(&db, None, None).unwrap();
        leases.name(&web, Some(&lan), Some(mac)).unwrap();
        // It is written down and read again.
        let text = serde_json::to_string(&leases).unwrap();
        let read: Leases = serde_json::from_str(&text).unwrap();
        assert_eq!(read, leases);
        assert_eq!(read.by_guest[&web].nic, Some(lan));
    }
}
