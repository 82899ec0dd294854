//! A guest's interfaces beyond its first: their addresses, what a launch does for them, and plugging
//! them into a guest that runs and out of it.
//!
//! Which guest has which interface on a network is in that network's book, beside the address. Whether a
//! running guest has it is asked of the kernel. What a killed command leaves between the two and the
//! definition, `doctor` names, and the next start or change settles.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use serde::Serialize;

use super::error::{GuestError, Result};
use super::lent::give_back;
use super::manager::Manager;
use super::networks::{network as failed, stays};
use super::ways::{Ways, ops};
use crate::kernel::process::Identity;
use crate::kernel::{KernelError, fault, namespace};
use crate::launch;
use crate::model::{Guest, GuestName, NetOp, NetworkWish, Nic, NicName, mac_text};
use crate::network::{Lease, Network};
use crate::storage::BootNic;

/// An interface, as `nic list` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NicView {
    /// Its name inside.
    pub name: String,
    /// The network that it is on.
    pub network: String,
    /// Its address; `None` as long as it was given none.
    pub address: Option<Ipv4Addr>,
    /// Its IPv6 address.
    pub address6: Option<Ipv6Addr>,
    /// Its hardware address.
    pub mac: Option<String>,
    /// The host's end of it, if it has one.
    pub host_interface: Option<String>,
    /// Whether the running guest has it.
    pub plugged: bool,
}

/// An interface with the network that it is on.
pub(super) struct Plug {
    wish: NetworkWish,
    network: Network,
    lease: Lease,
}

impl Manager {
    /// What a guest has on networks for its further interfaces.
    pub(super) fn nics(&self, name: &GuestName) -> Result<Vec<(Network, Lease)>> {
        let mut all = self.all_leased(name)?;
        all.retain(|(_, lease)| lease.nic.is_some());
        Ok(all)
    }

    /// Gives a guest's further interfaces their addresses, which stay theirs. Its lock is held.
    pub(super) fn lease_nics(&self, name: &GuestName, guest: &Guest) -> Result<Vec<Plug>> {
        let plug = |nic: &Nic| {
            let wish = counted(nic, guest);
            let network = self.network_for(name, nic)?;
            fault::point()?;
            let lease = network.lease(name, &wish)?;
            Ok(Plug {
                wish,
                network,
                lease,
            })
        };
        guest.network.nics.iter().map(plug).collect()
    }

    /// The host's side of them, and what the launch does; `ways` are those of the first interface.
    pub(super) fn connect_nics(&self, plugs: &[Plug], mut ways: Ways) -> Result<Vec<NetOp>> {
        let mut all = Vec::new();
        for plug in plugs {
            fault::point()?;
            all.extend(self.admit_nic(plug, ways)?);
            ways = ways.and(Ways::of(&plug.network, &plug.lease));
        }
        Ok(all)
    }

    fn admit_nic(&self, plug: &Plug, before: Ways) -> Result<Vec<NetOp>> {
        let Plug {
            wish,
            network,
            lease,
        } = plug;
        let host = network.ensure_host().map_err(failed)?;
        fault::point()?;
        network.admit(lease, wish).map_err(failed)?;
        Ok(ops(network, lease, host.mtu, wish, before))
    }

    /// The same for `plan`, which changes nothing.
    pub(super) fn preview_nics(&self, name: &GuestName, guest: &Guest) -> Result<Vec<NetOp>> {
        let mut all = Vec::new();
        let mut ways = match self.network_of(&guest.network)? {
            Some(on) => Ways::of_network(&on)?,
            None => Ways::default(),
        };
        for nic in &guest.network.nics {
            let (on, wish) = (self.network_for(name, nic)?, counted(nic, guest));
            let lease = on.preview(name, &wish)?;
            all.extend(ops(&on, &lease, 1500, &wish, ways));
            ways = ways.and(Ways::of(&on, &lease));
        }
        Ok(all)
    }

    /// What a guest's files say of them.
    pub(super) fn boot_nics(&self, guest: &Guest, mut ways: Ways) -> Result<Vec<BootNic>> {
        let leased = self.nics(&guest.name)?;
        let mut all = Vec::new();
        for nic in &guest.network.nics {
            let is = |(_, lease): &&(Network, Lease)| lease.nic.as_ref() == Some(&nic.name);
            let Some((network, lease)) = leased.iter().find(is) else {
                continue;
            };
            let ipv6 = lease.ipv6.as_ref();
            let gateway6 = ipv6.and_then(|ipv6| ipv6.gateway);
            let (gateway, gateway6) = ways.open(network.gateway(lease), gateway6);
            ways = ways.and(Ways::of(network, lease));
            all.push(BootNic {
                name: nic.name.to_string(),
                address: (lease.address, lease.prefix),
                address6: ipv6.map(|ipv6| (ipv6.address, ipv6.length)),
                gateway,
                gateway6,
                route6: network.own_route6(lease),
            });
        }
        Ok(all)
    }

    /// Refuses interfaces that cannot be plugged in now, before anything is done.
    pub(super) fn check_nics(&self, name: &GuestName, guest: &Guest, runs: bool) -> Result<()> {
        for nic in &guest.network.nics {
            let on = self.network_for(name, nic)?;
            let first = on.find(name).map_err(failed)?;
            if runs && first.is_some_and(|lease| lease.nic.is_none()) {
                return Err(refused(
                    nic,
                    format!(
                        "until its next start the guest has its first interface on {}: `bulkhead restart {name}` first",
                        on.word()
                    ),
                ));
            }
            on.preview(name, &counted(nic, guest))?;
        }
        Ok(())
    }

    /// Plugs into a running guest what its definition has and it has not, out of it what it has no more,
    /// and brings the others to what is said of them. Addresses of those that are gone stay theirs until
    /// [`Manager::release_nics`]. Its lock is held.
    pub(super) fn plug_nics(&self, name: &GuestName, guest: &Guest) -> Result<()> {
        let had = self.nics(name)?;
        if had.is_empty() && guest.network.nics.is_empty() {
            return Ok(());
        }
        let Some(inside) = self.netns(name)? else {
            return Ok(());
        };
        let mut led_out = false;
        for (network, lease) in &had {
            if !keeps(network, lease, &guest.network) {
                fault::point()?;
                unplug(network, lease, inside.as_fd())?;
                led_out |= Ways::of(network, lease).is_some();
            }
        }
        for nic in &guest.network.nics {
            fault::point()?;
            self.plug_nic(name, nic, guest, inside.as_fd())?;
        }
        match led_out {
            true => self.lead_out(name, guest, inside.as_fd()),
            false => Ok(()),
        }
    }

    fn plug_nic(
        &self,
        name: &GuestName,
        nic: &Nic,
        guest: &Guest,
        inside: BorrowedFd<'_>,
    ) -> Result<()> {
        let (network, wish) = (self.network_for(name, nic)?, counted(nic, guest));
        // Before the book says another: it is what tells of the one that is plugged.
        if let Some(before) = network.find(name).map_err(failed)?
            && before != network.preview(name, &wish)?
        {
            fault::point()?;
            unplug(&network, &before, inside)?;
        }
        let lease = network.lease(name, &wish)?;
        if is_plugged(&network, &lease, inside)? {
            let apart = wish.isolated_ports;
            network.isolate(&lease, apart).map_err(failed)?;
            return network.reshape(&lease, &wish).map_err(failed);
        }
        let before = self.ways_before(name, nic, guest)?;
        let plug = Plug {
            wish,
            network,
            lease,
        };
        let ops = NetOp::of(name, self.admit_nic(&plug, before)?);
        let refused = |source| GuestError::Nic {
            guest: name.clone(),
            nic: nic.name.to_string(),
            source,
        };
        let done = fault::point().map_err(GuestError::from);
        done.and_then(|()| launch::plug(inside, &ops).map_err(refused))
            .inspect_err(|_| give_back(&plug.network, &plug.lease, inside))
    }

    /// Frees what a guest has for interfaces that are no more its own; what passed there is counted
    /// first. Its lock is held.
    pub(super) fn release_nics(&self, name: &GuestName, wish: &NetworkWish) -> Result<()> {
        let mut gone = self.nics(name)?;
        gone.retain(|(network, lease)| !keeps(network, lease, wish));
        if !gone.is_empty() {
            self.keep_account(name, None);
        }
        for (network, _) in gone {
            fault::point()?;
            network.release(name)?;
        }
        Ok(())
    }

    /// Keeps the further interfaces of a running guest apart, or not, and to their rates.
    pub(super) fn change_nics(&self, name: &GuestName, guest: &Guest) -> Result<()> {
        if guest.network.nics.is_empty() {
            return Ok(());
        }
        for (network, lease) in self.nics(name)? {
            if let Some(wish) = wish_of(&lease, &guest.network) {
                let apart = wish.isolated_ports;
                network.isolate(&lease, apart).map_err(failed)?;
                network.reshape(&lease, &wish).map_err(failed)?;
            }
        }
        Ok(())
    }

    /// Makes the rules of its further interfaces what this says, where it has them already and where
    /// there can be any. Of several that fail, the first error is returned, and all others are done.
    pub(super) fn follow_nics(&self, name: &GuestName, wish: &NetworkWish) -> Result<()> {
        if wish.nics.is_empty() {
            return Ok(());
        }
        let mut done = Ok(());
        for (network, lease) in self.nics(name)? {
            let kept = wish_of(&lease, wish)
                .filter(|_| network.holds_back() && keeps(&network, &lease, wish));
            if let Some(wish) = kept {
                done = done.and(network.follow(name, &wish));
            }
        }
        Ok(done?)
    }

    /// All interfaces of a guest, as they are shown.
    ///
    /// # Errors
    /// There is no such guest, or its definition is wrong.
    pub fn nic_views(&self, name: &GuestName) -> Result<Vec<NicView>> {
        let guest = self.guest(name)?;
        let inside = self.netns(name)?;
        let mut leases: BTreeMap<Option<NicName>, (Network, Lease)> = BTreeMap::new();
        for (network, lease) in self.all_leased(name)? {
            leases.insert(lease.nic.clone(), (network, lease));
        }
        let nics = guest.network.nics.iter();
        let nics = nics.map(|nic| (Some(nic.name.clone()), nic.network.to_string()));
        let first = guest.network.kind.has_address();
        let first = first.then(|| (None, guest.network.kind.to_string()));
        let mut all = Vec::new();
        for (nic, network) in first.into_iter().chain(nics) {
            let leased = leases.get(&nic);
            let plugged = match (leased, &inside) {
                (Some((network, lease)), Some(inside)) => {
                    is_plugged(network, lease, inside.as_fd())?
                }
                _ => false,
            };
            let held = leased.filter(|(network, _)| network.holds_back());
            let lease = leased.map(|(_, lease)| lease);
            all.push(NicView {
                name: nic.map_or("eth0".to_owned(), |nic| nic.to_string()),
                network,
                address: lease.map(|lease| lease.address),
                address6: lease.and_then(|lease| Some(lease.ipv6.as_ref()?.address)),
                // One of the host's has its own.
                mac: leased
                    .filter(|(network, _)| !network.is_passthrough())
                    .map(|(_, lease)| mac_text(lease.mac)),
                host_interface: held.map(|(_, lease)| lease.host_interface.clone()),
                plugged,
            });
        }
        Ok(all)
    }

    /// The network namespace of a running guest, if it is its own.
    pub(super) fn netns(&self, name: &GuestName) -> Result<Option<OwnedFd>> {
        let Some(init) = self.run_state(name)?.and_then(|state| state.init) else {
            return Ok(None);
        };
        if !init.lives() {
            return Ok(None);
        }
        let inside = namespace::open(init.pid, "net")?;
        // Looked at after opening: from here on the descriptor means this process's.
        if Identity::of(init.pid) != Some(init) {
            return Ok(None);
        }
        let number = |fd: BorrowedFd<'_>| {
            let stat = rustix::fs::fstat(fd);
            let stat = stat.map_err(KernelError::on("look at", "a network namespace"))?;
            Ok::<_, KernelError>((stat.st_dev, stat.st_ino))
        };
        let own = namespace::open_own("net")?;
        match number(own.as_fd())? == number(inside.as_fd())? {
            // Started on the host's own network, and its definition has changed since.
            true => Ok(None),
            false => Ok(Some(inside)),
        }
    }

    pub(super) fn network_for(&self, name: &GuestName, nic: &Nic) -> Result<Network> {
        self.network_of(&nic.wish())?.ok_or_else(|| {
            refused(
                nic,
                format!("guest {name} cannot have it on {}", nic.network),
            )
        })
    }
}

fn refused(nic: &Nic, why: String) -> GuestError {
    GuestError::Host {
        key: "network.nic",
        what: nic.name.to_string(),
        why,
    }
}

/// What one wishes of its network, with the guest's allowance: what passes there counts as well, so it
/// cannot be where nothing is counted.
fn counted(nic: &Nic, guest: &Guest) -> NetworkWish {
    NetworkWish {
        allowance: guest.network.allowance.clone(),
        ..nic.wish_within(&guest.network)
    }
}

/// What a definition says of the interface that a lease is for.
pub(super) fn wish_of(lease: &Lease, wish: &NetworkWish) -> Option<NetworkWish> {
    let nic = wish
        .nics
        .iter()
        .find(|nic| Some(&nic.name) == lease.nic.as_ref());
    nic.map(|nic| nic.wish_within(wish))
}

/// Whether a guest that is to be so keeps what it has on a network.
pub(super) fn keeps(network: &Network, lease: &Lease, wish: &NetworkWish) -> bool {
    match &lease.nic {
        None => stays(network, wish),
        Some(_) => wish_of(lease, wish).is_some_and(|nic| nic.kind.to_string() == network.word()),
    }
}

/// Whether a guest has an interface, whole and with this lease's addresses. Where the host has an end of
/// it, that tells.
pub(super) fn is_plugged(network: &Network, lease: &Lease, inside: BorrowedFd<'_>) -> Result<bool> {
    let there = network.is_plugged(lease, inside).map_err(failed)?;
    Ok(there && network.is_whole(lease).map_err(failed)?)
}

fn unplug(network: &Network, lease: &Lease, inside: BorrowedFd<'_>) -> Result<()> {
    network.unplug(lease, inside).map_err(failed)
}
