//! The leases and the chosen pool on disk, below `var/lib/bulkhead/network`: `leases.json` and
//! `network.json`, changed under the lock beside them. The rules of leases are `lease.rs`.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::files::{self, FileError, Locked};
use super::host::HostError;
use super::lease::{Held, Lease, LeaseError, Leases};
use super::pool::Pool;
use super::subnet::Subnet;
use super::{Network, directory, host};
use crate::kernel::netlink::Netlink;
use crate::model::{GuestName, Mac, NetworkWish};

/// What `network.json` remembers: the pool that was chosen because the settings named none.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Chosen {
    subnet: Subnet,
}

impl Network {
    /// Gives a guest its address: the one it has; the one it wishes, if free; else the lowest free
    /// one. A wish that differs from what it has moves it. Leads the ports of the host to it that it
    /// wishes.
    ///
    /// # Errors
    /// When the wish cannot be met, the pool is used up, or a file or the kernel fails. Nothing is
    /// changed then.
    pub fn lease(&self, guest: &GuestName, wish: &NetworkWish) -> Result<Lease, LeaseError> {
        let lock = self.lock_book()?;
        let subnet = self.subnet(&lock).map_err(Box::new)?;
        let mut before = None;
        let mut led = false;
        let lease = self.change(&lock, |leases| {
            before = leases.by_guest.get(guest).cloned();
            led = leases.leads(guest);
            let same = leases.forwards(guest) == wish.forwards
                && leases.rules(guest) == wish.firewall
                && leases.ceilings_of(guest) == self.part_of_ceilings(wish);
            let lease = self.give(leases, guest, wish, subnet)?;
            let stays =
                |before: &Held| before.address == lease.address && before.address6 == wish.address6;
            led = !same || (led && !before.as_ref().is_some_and(stays));
            Ok(lease)
        })?;
        let before = before.and_then(|held| self.lease_held(&held, subnet));
        let moved = before.filter(|before| {
            (before.address, before.mac, &before.ipv6) != (lease.address, lease.mac, &lease.ipv6)
        });
        if moved.is_some() || led {
            files::pause(&self.leases_file())?;
        }
        if let Some(moved) = moved {
            if moved.host_interface != lease.host_interface {
                // A guest that runs would not be held to anything on it.
                self.teardown_guest(&moved).map_err(Box::new)?;
            }
            self.expel(&moved, Some(&lease)).map_err(Box::new)?;
        }
        if led {
            self.as_written().map_err(Box::new)?;
        }
        Ok(lease)
    }

    /// What [`Network::lease`] would give, for `--dry-run`; takes no lock and changes nothing.
    ///
    /// # Errors
    /// As [`Network::lease`].
    pub fn preview(&self, guest: &GuestName, wish: &NetworkWish) -> Result<Lease, LeaseError> {
        let subnet = match self.known_subnet()? {
            Some(subnet) => subnet,
            None => self.pick_subnet().map_err(Box::new)?,
        };
        self.give(&mut self.leases()?, guest, wish, subnet)
    }

    fn give(
        &self,
        leases: &mut Leases,
        guest: &GuestName,
        wish: &NetworkWish,
        subnet: Subnet,
    ) -> Result<Lease, LeaseError> {
        let mut pool = self.pool_in(subnet);
        if leases
            .get(guest)
            .is_none_or(|had| wish.address.is_some_and(|wish| wish != had))
        {
            pool.keep_for_host(&self.of_host().map_err(Box::new)?);
        }
        if wish.address.is_none() && wish.address6.is_none() && leases.get(guest).is_none() {
            pool.leave_out(&self.chosen_away(leases, subnet));
        }
        let address = leases.give(guest, wish.address, pool)?;
        leases.name(guest, wish.interface.as_ref(), wish.mac)?;
        self.choose6(leases, guest, wish.address6, subnet)?;
        self.give_ports(leases, guest, &wish.forwards)?;
        self.give_wall(leases, guest, wish)?;
        let stranded = || LeaseError::Stranded {
            guest: guest.clone(),
            address,
            subnet,
        };
        let held = leases.by_guest.get(guest);
        held.and_then(|held| self.lease_held(held, subnet))
            .ok_or_else(stranded)
    }

    /// What follows from what the book says of a guest.
    pub(super) fn lease_held(&self, held: &Held, subnet: Subnet) -> Option<Lease> {
        let lease = self.lease_of(held.address, subnet)?;
        Some(Lease {
            mac: held.mac.map_or(lease.mac, Mac::bytes),
            nic: held.nic.clone(),
            ipv6: lease
                .ipv6
                .map(|six| six.chosen(held.address6, self.prefix6)),
            ..lease
        })
    }

    /// The guest whose interface has that name on the host.
    pub(super) fn holder_of(&self, interface: &str) -> Option<String> {
        let subnet = self.known_subnet().ok().flatten()?;
        let leases = self.leases().ok()?;
        let has = |address| {
            let lease = self.lease_of(address, subnet);
            lease.is_some_and(|lease| lease.host_interface == interface)
        };
        let mut all = leases.iter();
        all.find(|(_, address)| has(*address))
            .map(|(guest, _)| guest.to_string())
    }

    /// The lease of a guest, if it has one; takes no lock and changes nothing.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn find(&self, guest: &GuestName) -> Result<Option<Lease>, FileError> {
        let subnet = self.known_subnet()?;
        let leases = self.leases()?;
        let held = leases.by_guest.get(guest);
        Ok(subnet
            .zip(held)
            .and_then(|(subnet, held)| self.lease_held(held, subnet)))
    }

    /// Frees a guest's address; false when it had none.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub fn release(&self, guest: &GuestName) -> Result<bool, LeaseError> {
        let lock = self.lock_book()?;
        let lease = self.find(guest)?;
        let mut led = false;
        let had = self.change(&lock, |leases| {
            led = leases.leads(guest);
            Ok(leases.release(guest).is_some())
        })?;
        if let Some(lease) = lease {
            files::pause(&self.leases_file())?;
            self.expel(&lease, None).map_err(Box::new)?;
            if led {
                self.as_written().map_err(Box::new)?;
            }
        }
        Ok(had)
    }

    /// Passes a guest's address on to its new name.
    ///
    /// # Errors
    /// When the new name has an address already, or a file cannot be read or written.
    pub fn rename(&self, from: &GuestName, to: &GuestName) -> Result<(), LeaseError> {
        let lock = self.lock_book()?;
        self.change(&lock, |leases| leases.rename(from, to))?;
        // What its rules log has its name.
        self.as_written().map_err(|error| Box::new(error).into())
    }

    /// Addresses and names of all guests that have one, as for hosts(5).
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn hosts(&self) -> Result<Vec<(Ipv4Addr, String)>, FileError> {
        let line = |(guest, address): (&GuestName, Ipv4Addr)| (address, guest.to_string());
        Ok(self.leases()?.iter().map(line).collect())
    }

    /// Guests whose interface on this network is not their first.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn further(&self) -> Result<BTreeSet<String>, FileError> {
        let leases = self.leases()?;
        let all = leases.by_guest.iter();
        let further = all.filter(|(_, held)| held.nic.is_some());
        Ok(further.map(|(guest, _)| guest.to_string()).collect())
    }

    /// Leases of guests that are not among the existing ones: a crash left them.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn orphans(&self, existing: &[GuestName]) -> Result<Vec<GuestName>, FileError> {
        Ok(self
            .leases()?
            .iter()
            .map(|(guest, _)| guest)
            .filter(|guest| !existing.contains(guest))
            .cloned()
            .collect())
    }

    /// Whether both files can be read and every lease lies in the pool.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), LeaseError> {
        let leases = self.leases()?;
        let Some(subnet) = self.known_subnet()? else {
            return Ok(());
        };
        let stranded = leases.iter().find(|(_, a)| !subnet.contains(*a));
        stranded.map_or(Ok(()), |(guest, address)| {
            Err(LeaseError::Stranded {
                guest: guest.clone(),
                address,
                subnet,
            })
        })
    }

    /// Writes `leases.json` anew from what the caller knows of guests on the bridge, their addresses
    /// and their ports of the host; the old file stays beside it as `leases.damaged`. Those with a
    /// known address come first, so that no other guest takes it; of two that claim one address, or
    /// one port, the first has it.
    ///
    /// # Errors
    /// When an address is outside the pool, or a file cannot be written.
    pub fn rebuild(&self, known: &[(GuestName, NetworkWish)]) -> Result<(), LeaseError> {
        let lock = self.lock_book()?;
        let chosen = self.chosen_file();
        if files::read::<Chosen>(&chosen).is_err() {
            files::rename(&chosen, &chosen.with_extension("damaged"))?;
        }
        let subnet = self.subnet(&lock).map_err(Box::new)?;
        let mut pool = self.pool_in(subnet);
        pool.keep_for_host(&self.of_host().map_err(Box::new)?);
        let mut leases = Leases::default();
        let taken = |error: &LeaseError| {
            matches!(
                error,
                LeaseError::Taken { .. } | LeaseError::PortTaken { .. }
            )
        };
        for (guest, wish) in known.iter().filter(|(_, wish)| wish.address.is_some()) {
            match leases.give(guest, wish.address, self.pool_in(subnet)) {
                Err(error) if !taken(&error) => return Err(error),
                Ok(_) | Err(_) => {}
            }
        }
        for (guest, wish) in known {
            let mut pool = pool.clone();
            pool.leave_out(&self.chosen_away(&leases, subnet));
            leases.give(guest, None, pool)?;
            // Of two that claim one IPv6 address, the first has it, and the other what follows.
            if self
                .choose6(&mut leases, guest, wish.address6, subnet)
                .is_err()
            {
                self.choose6(&mut leases, guest, None, subnet)?;
            }
            // Of two that claim one hardware address, the first has it.
            let _other_has_it = leases.name(guest, wish.interface.as_ref(), wish.mac);
            leases.wall(guest, &wish.firewall, self.part_of_ceilings(wish));
            match leases.lead(guest, &wish.forwards) {
                Err(error) if !taken(&error) => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        let file = self.leases_file();
        files::rename(&file, &file.with_extension("damaged"))?;
        Ok(files::write(&file, &leases)?)
    }

    /// The pool: the settings', else the one chosen before, else one chosen and remembered now.
    pub(super) fn subnet(&self, lock: &Locked) -> Result<Subnet, HostError> {
        match self.known_subnet()? {
            Some(subnet) => Ok(subnet),
            None => self.choose_subnet(lock),
        }
    }

    /// The addresses of a subnet, as far as guests get them.
    pub(super) fn pool_in(&self, subnet: Subnet) -> Pool {
        Pool::new(subnet, &self.addresses)
    }

    /// The gateway's address.
    pub(super) fn gateway_in(&self, subnet: Subnet) -> Ipv4Addr {
        self.addresses.gateway.unwrap_or(subnet.gateway())
    }

    /// How many addresses a guest can still get that asks for none in particular.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn free(&self) -> Result<Option<usize>, FileError> {
        let Some(subnet) = self.known_subnet()? else {
            return Ok(None);
        };
        let leases = self.leases()?;
        let taken: BTreeSet<Ipv4Addr> = leases.iter().map(|(_, address)| address).collect();
        let pool = self.pool_in(subnet);
        Ok(Some(pool.given().filter(|a| !taken.contains(a)).count()))
    }

    /// The pool, without choosing one.
    pub(super) fn known_subnet(&self) -> Result<Option<Subnet>, FileError> {
        if self.fixed.is_some() {
            return Ok(self.fixed);
        }
        let chosen = files::read::<Chosen>(&self.chosen_file())?;
        Ok(chosen.map(|c| c.subnet))
    }

    /// Chooses a pool that the host routes nowhere else, and remembers it.
    pub(super) fn choose_subnet(&self, _lock: &Locked) -> Result<Subnet, HostError> {
        let subnet = self.pick_subnet()?;
        files::write(&self.chosen_file(), &Chosen { subnet })?;
        Ok(subnet)
    }

    fn pick_subnet(&self) -> Result<Subnet, HostError> {
        let mut kernel = Netlink::open()?;
        let routes = self.foreign_routes(&mut kernel)?;
        let taken = self.pools()?;
        super::subnet::candidates(&self.tag)
            .filter(|s| directory::meets(*s, &taken).is_none())
            .find(|s| host::overlap(*s, &routes).is_none())
            .ok_or(HostError::NoSubnet)
    }

    /// Reads the book, lets `what` change it, and writes it when it did.
    pub(super) fn change<T>(
        &self,
        _lock: &Locked,
        what: impl FnOnce(&mut Leases) -> Result<T, LeaseError>,
    ) -> Result<T, LeaseError> {
        let before = self.leases()?;
        let mut after = before.clone();
        let result = what(&mut after)?;
        if after != before {
            files::write(&self.leases_file(), &after)?;
        }
        Ok(result)
    }

    pub(super) fn leases(&self) -> Result<Leases, FileError> {
        Ok(files::read(&self.leases_file())?.unwrap_or_default())
    }

    pub(super) fn lock_book(&self) -> Result<Locked, FileError> {
        let removed = || FileError::Removed(self.word().to_owned());
        // Not made anew for one that is gone.
        if !self.is_there() {
            return Err(removed());
        }
        let lock = files::lock(&self.folder())?;
        match self.is_there() {
            true => Ok(lock),
            false => Err(removed()),
        }
    }

    pub(super) fn folder(&self) -> PathBuf {
        match &self.name {
            None => self.layout.var().join("network"),
            Some(name) => self.layout.networks().join(name.as_str()),
        }
    }

    fn leases_file(&self) -> PathBuf {
        self.folder().join("leases.json")
    }

    fn chosen_file(&self) -> PathBuf {
        self.folder().join("network.json")
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::ErrorKind::NotFound;

    use super::*;
    use crate::model::{Layout, NetworkWish};
    use crate::network::NetworkSettings;

    /// An installation of its own with a fixed pool, removed when dropped.
    struct Place {
        root: PathBuf,
    }

    impl Place {
        fn new(label: &str) -> Self {
            let unique = format!("bh-book-{label}-{}", std::process::id());
            Self {
                root: std::env::temp_dir().join(unique),
            }
        }

        fn network(&self) -> Network {
            let settings = NetworkSettings {
                subnet: Some(([10, 9, 0, 0].into(), 24)),
                ..NetworkSettings::default()
            };
            Network::new(&Layout::new(&self.root), settings).unwrap()
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _gone = fs::remove_dir_all(&self.root);
        }
    }

    fn wishing(address: Ipv4Addr) -> NetworkWish {
        NetworkWish {
            address: Some(address),
            ..NetworkWish::default()
        }
    }

    fn name(text: &str) -> GuestName {
        text.parse().unwrap()
    }

    #[test]
    fn leases_outlive_the_process() {
        let place = Place::new("outlive");
        let preview = place
            .network()
            .preview(&name("web"), &NetworkWish::default())
            .unwrap();
        assert_eq!(
            fs::metadata(&place.root).err().map(|e| e.kind()),
            Some(NotFound)
        );
        let lease = place
            .network()
            .lease(&name("web"), &NetworkWish::default())
            .unwrap();
        assert_eq!(preview, lease);
        let network = place.network();
        assert_eq!(network.find(&name("web")).unwrap().as_ref(), Some(&lease));
        network.rename(&name("web"), &name("www")).unwrap();
        assert_eq!(
            network
                .lease(&name("www"), &NetworkWish::default())
                .unwrap(),
            lease
        );
        assert_eq!(
            network.hosts().unwrap(),
            [(lease.address, "www".to_owned())]
        );
        assert_eq!(network.orphans(&[]).unwrap(), [name("www")]);
        assert!(network.release(&name("www")).unwrap());
        assert!(!network.release(&name("www")).unwrap());
        assert_eq!(network.hosts().unwrap(), []);
    }

    #[test]
    fn a_damaged_book_is_named_and_kept() {
        let place = Place::new("damaged");
        let network = place.network();
        network
            .lease(&name("web"), &NetworkWish::default())
            .unwrap();
        fs::write(network.leases_file(), "{\"version\":1").unwrap();
        for error in [
            network
                .lease(&name("db"), &NetworkWish::default())
                .unwrap_err()
                .to_string(),
            network.check().unwrap_err().to_string(),
            network.release(&name("web")).unwrap_err().to_string(),
        ] {
            assert!(error.contains("leases.json is damaged"), "{error}");
        }
        let kept = fs::read_to_string(network.leases_file()).unwrap();
        assert_eq!(kept, "{\"version\":1");

        let web = [10, 9, 0, 2].into();
        network
            .rebuild(&[
                (name("db"), NetworkWish::default()),
                (name("web"), wishing(web)),
                (name("twin"), wishing(web)),
            ])
            .unwrap();
        network.check().unwrap();
        assert_eq!(network.find(&name("web")).unwrap().unwrap().address, web);
        assert_eq!(network.hosts().unwrap().len(), 3);
    }

    #[test]
    fn many_at_once_get_different_addresses() {
        let place = Place::new("many");
        let network = place.network();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let network = &network;
                scope.spawn(move || {
                    for n in 0..10 {
                        let guest = name(&format!("g{thread}-{n}"));
                        network.lease(&guest, &NetworkWish::default()).unwrap();
                    }
                });
            }
        });
        let mut addresses: Vec<_> = network.hosts().unwrap().into_iter().map(|h| h.0).collect();
        addresses.sort();
        addresses.dedup();
        assert_eq!(addresses.len(), 40);
    }
}
