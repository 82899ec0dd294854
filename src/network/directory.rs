//! The networks of an installation that somebody made, on disk: `networks/NAME.json` is a network's
//! record (`record.rs`), `networks/NAME/` has its leases. A record is written first of all and removed
//! last, so whatever a killed command leaves on the host belongs to a network that is there.

use std::path::{Path, PathBuf};

use super::Network;
use super::files::{self, FileError, Locked};
use super::host::{self, HostError};
use super::lease::LeaseError;
use super::record::{Kind, NewNetwork, Record};
use super::subnet::{self, Subnet};
use crate::kernel::netlink::{Netlink, Route};
use crate::kernel::netlink_nft::Family;
use crate::model::{GuestName, NetworkName, nearest};

/// A network that cannot be made, found, changed or removed; nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// There is none of that name.
    #[error(
        "there is no network {name:?}{}; there are: {}",
        near.as_ref().map_or_else(String::new, |near| format!(": did you mean {near}?")),
        known.join(", ")
    )]
    Unknown {
        /// Name asked for.
        name: String,
        /// The nearest.
        near: Option<String>,
        /// All.
        known: Vec<String>,
    },
    /// It is there already.
    #[error("there is a network {0} already: choose another name, or delete it first")]
    Exists(NetworkName),
    /// It cannot be as asked.
    #[error("network {name}: {why}")]
    Refused {
        /// Network.
        name: NetworkName,
        /// Why, and what to do.
        why: String,
    },
    /// Guests have it.
    #[error(
        "network {name} is in use by {}: give them another with `bulkhead set GUEST --network KIND`, or delete them",
        guests.join(", ")
    )]
    InUse {
        /// Network.
        name: NetworkName,
        /// Guests.
        guests: Vec<String>,
    },
    /// A file failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The host's side failed.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The leases failed.
    #[error(transparent)]
    Lease(#[from] LeaseError),
}

impl From<crate::kernel::netlink::NetlinkError> for DirectoryError {
    fn from(error: crate::kernel::netlink::NetlinkError) -> Self {
        Self::Host(error.into())
    }
}

/// All of these are methods of the network that is always there.
impl Network {
    /// The network of that name.
    ///
    /// # Errors
    /// There is none, or its record is damaged.
    pub fn load(&self, name: &NetworkName) -> Result<Self, DirectoryError> {
        Ok(self.of(&self.record(name)?))
    }

    /// The record of a network that somebody made.
    ///
    /// # Errors
    /// There is none, or it is damaged.
    pub fn record(&self, name: &NetworkName) -> Result<Record, DirectoryError> {
        let record: Option<Record> = files::read(&self.record_file(name))?;
        let Some(record) = record else {
            return Err(self.unknown(name.as_str(), &["bridge", "none", "host"]));
        };
        if record.name != *name {
            let reason = format!("it is of a network {}", record.name);
            let path = self.record_file(name);
            return Err(FileError::Damaged { path, reason }.into());
        }
        Ok(record)
    }

    /// The network of that name, or the one that is always there by the word for it.
    ///
    /// # Errors
    /// There is none, or its record is damaged.
    pub fn by_word(&self, word: &str) -> Result<Self, DirectoryError> {
        match word.parse::<NetworkName>() {
            _ if word == self.word() => Ok(self.clone()),
            Ok(name) if self.record_file(&name).exists() => self.load(&name),
            _ => Err(self.unknown(word, &[self.word()])),
        }
    }

    /// The error for a name that no network has; these words could have been meant as well.
    fn unknown(&self, name: &str, words: &[&str]) -> DirectoryError {
        let known = self.names().unwrap_or_default();
        let names = known.iter().map(NetworkName::as_str);
        let all: Vec<&str> = words.iter().copied().chain(names).collect();
        DirectoryError::Unknown {
            name: name.to_owned(),
            near: nearest(name, all.iter().copied()).map(str::to_owned),
            known: all.into_iter().map(str::to_owned).collect(),
        }
    }

    /// The names of those that somebody made, in order.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn names(&self) -> Result<Vec<NetworkName>, FileError> {
        let mut all = Vec::new();
        for file in files::entries(&self.layout.networks())? {
            let name = file.strip_suffix(".json").map(str::parse);
            all.extend(name.and_then(Result::ok));
        }
        all.sort();
        Ok(all)
    }

    /// All whose records can be read; the others are `doctor`'s matter.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn others(&self) -> Result<Vec<Self>, FileError> {
        let names = self.names()?;
        Ok(names.iter().filter_map(|n| self.load(n).ok()).collect())
    }

    /// Records that cannot be read, and why.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn damaged(&self) -> Result<Vec<(PathBuf, String)>, FileError> {
        let names = self.names()?.into_iter();
        Ok(names
            .filter_map(|name| Some((self.record_file(&name), self.load(&name).err()?)))
            .map(|(path, error)| (path, error.to_string()))
            .collect())
    }

    /// Folders of networks that are not there: a command died while it removed one.
    ///
    /// # Errors
    /// When a folder cannot be read.
    pub fn stray_folders(&self) -> Result<Vec<PathBuf>, FileError> {
        let mut all = Vec::new();
        for folder in [self.layout.networks(), self.layout.run().join("networks")] {
            for name in files::entries(&folder)? {
                let path = folder.join(&name);
                let known = name.parse().map(|name| self.record_file(&name).exists());
                if path.is_dir() && !known.unwrap_or(false) {
                    all.push(path);
                }
            }
        }
        Ok(all)
    }

    /// Removes such a folder.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove_stray_folder(&self, folder: &Path) -> Result<(), FileError> {
        let _lock = self.lock_directory()?;
        files::remove_folder(folder)
    }

    pub(super) fn of(&self, record: &Record) -> Self {
        let tag = self.layout.network_tag(&record.name);
        let bridge = record.bridge.clone().or(record.parent.clone());
        let (prefix6, missed6) = Self::usable6(record.prefix6);
        let table = self.layout.network_table(&record.name);
        Self {
            layout: self.layout.clone(),
            name: Some(record.name.clone()),
            kind: record.kind,
            bridge: bridge.unwrap_or_else(|| format!("bh-{tag}")),
            tag,
            guard: match record.kind {
                // The other table of that family and name is written anew as a whole.
                Kind::Routed => (Family::Inet, format!("{table}.guard")),
                Kind::Bridge
                | Kind::Isolated
                | Kind::External
                | Kind::Macvlan
                | Kind::Passthrough => (Family::Bridge, table.clone()),
            },
            table,
            fixed: Some(record.subnet),
            prefix6,
            missed6,
            nat: record
                .nat
                .unwrap_or(matches!(record.kind, Kind::Bridge | Kind::Routed)),
            addresses: record.addresses.clone(),
            dns: self.dns.clone(),
            isolated_ports: record.isolated_ports.unwrap_or(self.isolated_ports),
            connections: self.connections,
            mtu: record.mtu,
            vxlan: record.vxlan.clone(),
            force: record.force,
            served: record.served.clone(),
            internal: self.internal.clone(),
        }
    }

    /// What a network would be, if it can be made.
    ///
    /// # Errors
    /// Its name is taken, its pool meets another or what the host routes, its bridge is somebody else's.
    pub fn check_new(&self, wish: &NewNetwork) -> Result<Record, DirectoryError> {
        let name = &wish.name;
        if self.record_file(name).exists() {
            return Err(DirectoryError::Exists(name.clone()));
        }
        let mut kernel = Netlink::open()?;
        let taken = self.pools()?;
        let routes = kernel.routes()?;
        let routes: Vec<Route> = routes.into_iter().filter(|r| r.prefix > 0).collect();
        let subnet = match wish.subnet {
            Some(subnet) => subnet,
            None if matches!(
                wish.kind,
                Kind::External | Kind::Macvlan | Kind::Passthrough
            ) =>
            {
                return Err(DirectoryError::Refused {
                    name: name.clone(),
                    why: "such a network has the addresses of the LAN that it is on: say which with --subnet".to_owned(),
                });
            }
            None => subnet::candidates(&self.layout.network_tag(name))
                .find(|pool| {
                    meets(*pool, &taken).is_none() && host::overlap(*pool, &routes).is_none()
                })
                .ok_or(HostError::NoSubnet)?,
        };
        let record = Record {
            name: name.clone(),
            kind: wish.kind,
            subnet,
            prefix6: wish.prefix6,
            bridge: wish.bridge.clone(),
            parent: wish.parent.clone(),
            nat: wish.nat,
            mtu: wish.mtu,
            isolated_ports: wish.isolated_ports,
            vxlan: wish.vxlan.clone(),
            force: wish.force,
            served: wish.served.clone(),
            addresses: wish.addresses.clone(),
        };
        let refused = |why: String| DirectoryError::Refused {
            name: name.clone(),
            why,
        };
        record.check().map_err(refused)?;
        self.of(&record).refuse_missing()?;
        let why6 = wish
            .prefix6
            .map(|prefix| self.refused6(prefix, name))
            .transpose()?;
        if let Some(why) = why6.flatten() {
            return Err(refused(why));
        }
        if let Some((other, pool)) = meets(subnet, &taken) {
            return Err(refused(format!(
                "the pool {subnet} meets {pool} of the network {other}: choose another subnet"
            )));
        }
        let routes = match record.kind {
            Kind::External | Kind::Macvlan | Kind::Passthrough => Vec::new(),
            _ => routes,
        };
        if let Some(Route {
            destination,
            prefix,
            ..
        }) = host::overlap(subnet, &routes)
        {
            return Err(HostError::Overlap {
                subnet,
                destination,
                prefix,
            }
            .into());
        }
        let new = self.of(&record);
        let Self { bridge, tag, .. } = &new;
        let others = self.others()?;
        let meets = |other: &&Self| other.bridge == *bridge || other.tag == *tag;
        if let Some(other) = others.iter().chain([self]).find(meets) {
            return Err(refused(format!(
                "the bridge {} is that of the network {}: choose another name",
                other.bridge,
                other.word()
            )));
        }
        let why = match self.refused_vxlan(&new, &mut kernel)? {
            None => new.wrong_size(&mut kernel)?,
            why => why,
        };
        if let Some(why) = why {
            return Err(refused(why));
        }
        if new.is_guest_of_lan() {
            new.their_bridge(&mut kernel)?;
            return Ok(record);
        }
        match kernel.link(bridge)? {
            Some(_) => Err(HostError::Foreign {
                bridge: bridge.clone(),
            }
            .into()),
            None => Ok(record),
        }
    }

    /// Makes a network, and its side of the host.
    ///
    /// # Errors
    /// As [`Network::check_new`], and when the kernel refuses. Nothing is left then.
    pub fn create(&self, wish: &NewNetwork) -> Result<Record, DirectoryError> {
        let _lock = self.lock_directory()?;
        // So that the pool that is chosen for the usual network is not chosen meanwhile.
        let _book = self.lock_book()?;
        let record = self.check_new(wish)?;
        let file = self.record_file(&record.name);
        files::write(&file, &record)?;
        let made = files::pause(&file)
            .map_err(DirectoryError::from)
            .and_then(|()| {
                let new = self.of(&record);
                new.ensure_host()?;
                Ok(new.start_server()?)
            });
        if let Err(error) = made {
            let new = self.of(&record);
            let _run = files::lock(&new.run_folder());
            // The error that matters is this one; a network that stays is one that can be deleted.
            let _second_failure = new.discard();
            return Err(error);
        }
        Ok(record)
    }

    /// Removes a network that no guest has: its side of the host, its folder, and then its record.
    /// `users` are guests whose definitions name it.
    ///
    /// # Errors
    /// Guests have it, or the kernel refuses.
    pub fn delete(&self, name: &NetworkName, users: &[GuestName]) -> Result<(), DirectoryError> {
        let _lock = self.lock_directory()?;
        let network = self.load(name)?;
        // In the order of a start. Whoever asks for an address there waits, and then finds that there is
        // none.
        let _run = files::lock(&network.run_folder())?;
        let _book = network.lock_book()?;
        self.check_unused(name, users)?;
        network.discard()
    }

    /// Refuses for a network that guests have.
    ///
    /// # Errors
    /// Guests have it, there is none, or a file cannot be read.
    pub fn check_unused(
        &self,
        name: &NetworkName,
        users: &[GuestName],
    ) -> Result<(), DirectoryError> {
        let network = self.load(name)?;
        let mut guests: Vec<String> = users.iter().map(GuestName::to_string).collect();
        let leases = network.leases()?;
        guests.extend(leases.iter().map(|(guest, _)| guest.to_string()));
        guests.sort();
        guests.dedup();
        if !guests.is_empty() {
            return Err(DirectoryError::InUse {
                name: name.clone(),
                guests,
            });
        }
        Ok(())
    }

    /// Whether the network is still there; a command may have removed it while this one waited.
    pub(super) fn is_there(&self) -> bool {
        self.name
            .as_ref()
            .is_none_or(|name| self.record_file(name).exists())
    }

    /// The pools of all networks, each with the word for its network.
    pub(super) fn pools(&self) -> Result<Vec<(String, Subnet)>, FileError> {
        let mut all = Vec::new();
        for network in self.others()?.iter().chain([self]) {
            let pool = network.known_subnet()?;
            all.extend(pool.map(|pool| (network.word().to_owned(), pool)));
        }
        Ok(all)
    }

    pub(super) fn record_file(&self, name: &NetworkName) -> PathBuf {
        self.layout.networks().join(format!("{name}.json"))
    }

    pub(super) fn lock_directory(&self) -> Result<Locked, FileError> {
        files::lock(&self.layout.networks())
    }
}

/// A pool among these that has an address in common with this one.
pub(super) fn meets(pool: Subnet, taken: &[(String, Subnet)]) -> Option<&(String, Subnet)> {
    let mut taken = taken.iter();
    taken.find(|(_, other)| pool.overlaps(other.network(), other.prefix()))
}
