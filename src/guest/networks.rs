//! Which network a guest is on. A definition says where it is to be; where it has its address says
//! where it is: until its next start, a guest whose definition changed is on the one it was on.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use serde::Serialize;

use super::error::{GuestError, Result};
use super::manager::Manager;
use super::nics::keeps;
use crate::kernel::fault;
use crate::model::{GuestName, NetOp, NetworkKind, NetworkName, NetworkWish, Prefix6, Status};
use crate::network::{
    DirectoryError, Kind, Lease, LeaseError, Network, Range, Record, Served, Standing, Subnet,
    Vxlan,
};

/// A network, as `network info` shows it.
#[derive(Debug, Serialize)]
pub struct NetworkView {
    /// What stands for it in a definition.
    pub name: String,
    /// How its guests are connected.
    pub kind: Kind,
    /// Its pool; `None` as long as none was chosen.
    pub subnet: Option<Subnet>,
    /// Its IPv6 prefix.
    pub prefix6: Option<Prefix6>,
    /// The one that it would have if this host had IPv6.
    pub prefix6_missed: Option<Prefix6>,
    /// Its guests' way out.
    pub gateway: Option<Ipv4Addr>,
    /// Whether they go out under the host's address.
    pub nat: bool,
    /// Its bridge.
    pub bridge: String,
    /// Whether guests are held to their addresses, rates and rules there.
    pub held: bool,
    /// Whether that is there.
    pub set_up: bool,
    /// Largest packet, if it is not the way out's.
    pub mtu: Option<u32>,
    /// Whether guests that do not say otherwise are kept apart.
    pub isolated_ports: bool,
    /// What its guests are told.
    pub served: Served,
    /// How it stands with who tells them.
    #[serde(skip)]
    pub server: Standing,
    /// The domain of their names, if anything is told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// Other hosts that share it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vxlan: Option<Vxlan>,
    /// What of the pool guests get that ask for no address in particular; all if empty.
    pub ranges: Vec<Range>,
    /// What of it no guest gets.
    pub excluded: Vec<Range>,
    /// Addresses that guests still get so.
    pub free: Option<usize>,
    /// Guests and their addresses.
    pub guests: BTreeMap<String, Ipv4Addr>,
    /// Guests and their addresses of IPv6.
    pub guests6: BTreeMap<String, Ipv6Addr>,
}

impl Manager {
    /// All networks, as they are shown.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn network_views(&self) -> Result<Vec<NetworkView>> {
        self.networks()?.iter().map(view).collect()
    }

    /// One of them, by the word for it.
    ///
    /// # Errors
    /// There is none, or a file cannot be read.
    pub fn network_view(&self, word: &str) -> Result<NetworkView> {
        view(&self.network.by_word(word)?)
    }

    /// Changes a network; guests that run are kept apart, or not, at once.
    ///
    /// # Errors
    /// It cannot be so, or the kernel refuses.
    pub fn change_network(&self, record: &Record) -> Result<()> {
        self.check_still(record)?;
        let before = self.network.record(&record.name)?;
        self.network.change_record(record)?;
        let changed = self.network.load(&record.name)?;
        self.serve_anew(&before, &changed)?;
        for (_, name) in changed.hosts().map_err(network)? {
            let Ok(name) = name.parse::<GuestName>() else {
                continue;
            };
            if let (Ok(guest), Some(lease)) =
                (self.guest(&name), changed.find(&name).map_err(network)?)
            {
                let nics = guest.network.nics.iter();
                let nic = nics
                    .clone()
                    .find(|nic| Some(&nic.name) == lease.nic.as_ref());
                let apart = nic.map_or(guest.network.isolated_ports, |nic| nic.isolated_ports);
                changed.isolate(&lease, apart).map_err(network)?;
            }
        }
        Ok(())
    }

    /// Refuses another IPv6 prefix while guests run that have the old one, where the host has no ends of
    /// their interfaces that would tell.
    fn check_still(&self, record: &Record) -> Result<()> {
        let before = self.network.load(&record.name)?;
        if before.holds_back() || !before.changes6(record) {
            return Ok(());
        }
        let hosts = before.hosts().map_err(network)?.into_iter();
        let runs = |name: &String| {
            let status = name.parse().map(|name| self.status(&name));
            matches!(status, Ok(Ok(Status::Running | Status::Paused)))
        };
        let running: Vec<String> = hosts.map(|(_, name)| name).filter(runs).collect();
        match running.is_empty() {
            true => Ok(()),
            false => Err(DirectoryError::Refused {
                name: record.name.clone(),
                why: format!(
                    "stop the guests that are on it ({}) before it gets another IPv6 prefix or none",
                    running.join(" ")
                ),
            }
            .into()),
        }
    }

    /// Refuses while a guest has an address on a network, or is to have one.
    ///
    /// # Errors
    /// Guests have it, or there is none.
    pub fn check_network_unused(&self, name: &NetworkName) -> Result<()> {
        Ok(self.network.check_unused(name, &self.users(name)?)?)
    }

    /// Removes a network.
    ///
    /// # Errors
    /// Guests have it, or the kernel refuses.
    pub fn delete_network(&self, name: &NetworkName) -> Result<()> {
        Ok(self.network.delete(name, &self.users(name)?)?)
    }

    /// Writes the firewall of all networks that are set up anew, then starts anew who serves them; says
    /// which. One that fails keeps no other from it, and the first error is returned.
    ///
    /// # Errors
    /// The kernel or `nft` refuses.
    pub fn reload_networks(&self) -> Result<Vec<String>> {
        let (mut done, mut failed) = (Vec::new(), Ok(()));
        for one in self.networks()? {
            match one.reload().map_err(network) {
                Ok(true) => done.push(one),
                Ok(false) => {}
                Err(error) => failed = failed.and(Err(error)),
            }
        }
        for one in &done {
            let served = one.end_server().and_then(|()| one.start_server());
            failed = failed.and(served.map_err(network));
        }
        failed.map(|()| done.iter().map(|one| one.word().to_owned()).collect())
    }

    /// Guests whose definitions name a network.
    fn users(&self, name: &NetworkName) -> Result<Vec<GuestName>> {
        let (mut all, profiles) = (self.names()?, self.profiles()?);
        let kind = NetworkKind::Named(name.clone());
        all.retain(|guest| {
            let text = self.definition_text(guest);
            let defined = text.and_then(|text| self.define_by(guest, &text, &profiles));
            defined.is_ok_and(|guest| {
                let network = &guest.network;
                network.kind == kind || network.nics.iter().any(|nic| nic.network == kind)
            })
        });
        Ok(all)
    }

    /// All networks: the one that is always there, and those that somebody made.
    pub(super) fn networks(&self) -> Result<Vec<Network>> {
        let mut all = vec![self.network.clone()];
        all.extend(self.network.others().map_err(network)?);
        Ok(all)
    }

    /// The network that a definition names; `None` if its guest has no address.
    pub(super) fn network_of(&self, wish: &NetworkWish) -> Result<Option<Network>> {
        match &wish.kind {
            NetworkKind::Bridge => Ok(Some(self.network.clone())),
            NetworkKind::Named(name) => Ok(Some(self.network.load(name)?)),
            NetworkKind::None | NetworkKind::Host => Ok(None),
        }
    }

    /// Where a guest has the address of its first interface, and which. The network that is always there is asked first, so
    /// most guests cost no look at the others.
    ///
    /// # Errors
    /// When a book cannot be read.
    pub fn leased(&self, name: &GuestName) -> Result<Option<(Network, Lease)>> {
        let first = |lease: &Lease| lease.nic.is_none();
        if let Some(lease) = self.network.find(name).map_err(network)?.filter(first) {
            return Ok(Some((self.network.clone(), lease)));
        }
        for other in self.network.others().map_err(network)? {
            if let Some(lease) = other.find(name).map_err(network)?.filter(first) {
                return Ok(Some((other, lease)));
            }
        }
        Ok(None)
    }

    /// The same of all of its interfaces.
    pub(super) fn all_leased(&self, name: &GuestName) -> Result<Vec<(Network, Lease)>> {
        let mut all = Vec::new();
        for one in self.networks()? {
            if let Some(lease) = one.find(name).map_err(LeaseError::from)? {
                all.push((one, lease));
            }
        }
        Ok(all)
    }

    /// Addresses of the first interface of all guests that have one.
    pub(super) fn addresses(&self) -> Result<BTreeMap<String, (Ipv4Addr, Option<Ipv6Addr>)>> {
        let mut all = BTreeMap::new();
        for one in self.networks()? {
            let hosts = one.hosts().map_err(network)?.into_iter();
            let hosts6 = one.hosts6().map_err(network)?.into_iter();
            let six: BTreeMap<_, _> = hosts6.map(|(address, guest)| (guest, address)).collect();
            let further = one.further().map_err(network)?;
            all.extend(hosts.filter(|(_, guest)| !further.contains(guest)).map(
                |(address, guest)| {
                    let second = six.get(&guest).copied();
                    (guest, (address, second))
                },
            ));
        }
        Ok(all)
    }

    /// Frees a guest's address, on whatever network. Its lock is held.
    pub(super) fn release(&self, name: &GuestName) -> Result<()> {
        for one in self.leasing(name)? {
            one.release(name)?;
        }
        Ok(())
    }

    /// Frees what a guest has on networks that its definition does not name any more; it does not run.
    /// Its lock is held.
    pub(super) fn release_others(&self, name: &GuestName, wish: &NetworkWish) -> Result<()> {
        for one in self.elsewhere(name, wish)? {
            fault::point()?;
            one.release(name)?;
        }
        Ok(())
    }

    /// Refuses ports of the host that lead to a guest of any network; a network's own book is asked
    /// once more when they are given.
    pub(super) fn check_ports(&self, name: &GuestName, wish: &NetworkWish) -> Result<()> {
        if !wish.forwards.is_empty() {
            for one in self.networks()? {
                one.check_ports(name, &wish.forwards)?;
            }
        }
        Ok(())
    }

    /// Makes ports and rules of a guest what this says, on the network where it has its address. If it
    /// is to move, only the rules: until then they hold where it is, and ports go along. One interface
    /// that fails keeps no other from it.
    pub(super) fn follow(&self, name: &GuestName, wish: &NetworkWish) -> Result<()> {
        let nics = self.follow_nics(name, wish);
        let first = self.follow_first(name, wish);
        nics.and(first)
    }

    fn follow_first(&self, name: &GuestName, wish: &NetworkWish) -> Result<()> {
        let Some((network, _)) = self.leased(name)? else {
            return Ok(());
        };
        if stays(&network, wish) {
            return Ok(network.follow(name, wish)?);
        }
        let Some(held) = network.held(name).map_err(LeaseError::from)? else {
            return Ok(());
        };
        let wish = NetworkWish {
            forwards: held.forwards,
            ..wish.clone()
        };
        Ok(network.follow(name, &wish)?)
    }

    /// Passes what a guest has on to another name. Both locks are held.
    pub(super) fn pass_on(&self, from: &GuestName, to: &GuestName) -> Result<()> {
        for one in self.leasing(from)? {
            one.rename(from, to)?;
        }
        Ok(())
    }

    /// Networks where a guest has an address though it is not to be there.
    pub(super) fn elsewhere(&self, name: &GuestName, wish: &NetworkWish) -> Result<Vec<Network>> {
        let all = self.all_leased(name)?.into_iter();
        let gone = all.filter(|(one, lease)| !keeps(one, lease, wish));
        Ok(gone.map(|(one, _)| one).collect())
    }

    /// Networks where a guest has an address: one for each of its interfaces, and one more for a moment
    /// when it moves.
    fn leasing(&self, name: &GuestName) -> Result<Vec<Network>> {
        let all = self.all_leased(name)?;
        Ok(all.into_iter().map(|(one, _)| one).collect())
    }
}

fn view(one: &Network) -> Result<NetworkView> {
    let subnet = one.pool().map_err(network)?;
    let guests = one.hosts().map_err(network)?.into_iter();
    let guests: BTreeMap<String, Ipv4Addr> = guests.map(|(at, guest)| (guest, at)).collect();
    Ok(NetworkView {
        name: one.word().to_owned(),
        kind: one.kind(),
        gateway: one.way_out().map_err(network)?,
        nat: one.has_nat(),
        bridge: one.bridge().to_owned(),
        held: one.holds_back(),
        set_up: one.is_set_up().unwrap_or(false),
        mtu: one.mtu(),
        isolated_ports: one.isolates(),
        vxlan: one.vxlan().cloned(),
        served: one.served().clone(),
        server: one.server_standing().unwrap_or(Standing::Missing),
        domain: (!one.served().is_none()).then(|| one.domain()),
        free: one.free().map_err(network)?,
        ranges: one.addresses().ranges.clone(),
        excluded: one.addresses().excluded.clone(),
        subnet,
        prefix6: one.prefix6(),
        prefix6_missed: one.missed_prefix6(),
        guests6: one
            .hosts6()
            .map_err(network)?
            .into_iter()
            .map(|(at, guest)| (guest, at))
            .collect(),
        guests,
    })
}

/// Whether a guest that is to be on this keeps what it has there. The address on the network that is
/// always there stays with one that only goes without for a while.
pub(super) fn stays(network: &Network, wish: &NetworkWish) -> bool {
    match wish.kind.has_address() {
        true => wish.kind.to_string() == network.word(),
        false => network.word() == NetworkKind::Bridge.to_string(),
    }
}

/// What the launch does for a guest that has no address: nothing on the host's own network.
pub(super) fn without_address(wish: &NetworkWish) -> Vec<NetOp> {
    match wish.kind {
        NetworkKind::Host => Vec::new(),
        _ => Network::loopback_ops(),
    }
}

/// An error of the network room, as a person sees it.
pub(super) fn network(error: impl std::error::Error) -> GuestError {
    GuestError::Network(super::view::chain(&error).into())
}
