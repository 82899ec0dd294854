//! For which of a guest's interfaces an address is, and which hardware address goes with it.

use super::lease::{Held, LeaseError, Leases};
use crate::model::{GuestName, Mac, NicName};

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
