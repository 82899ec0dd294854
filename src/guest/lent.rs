//! Interfaces of the host's that a guest has as they are: bringing them back when it ends.

use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::error::Result;
use super::manager::Manager;
use super::networks::network as failed;
use crate::model::{GuestName, Status};
use crate::network::{Away, Lease, Network};

/// Such interfaces of a guest, and the namespace that they are in, which lives as long as this.
pub(super) struct Lent {
    all: Vec<(Network, Away)>,
    inside: Option<OwnedFd>,
}

impl Manager {
    /// What a guest has of the host's interfaces; to be asked while its first process lives. The guest's
    /// lock is held.
    pub(super) fn lent(&self, name: &GuestName, leased: &[(Network, Lease)]) -> Option<Lent> {
        let lent = |(network, lease): &(Network, Lease)| {
            let away = network.lent_to(lease).ok().flatten()?;
            Some((network.clone(), away))
        };
        let all: Vec<_> = leased.iter().filter_map(lent).collect();
        let inside = || self.netns(name).ok().flatten();
        (!all.is_empty()).then(|| Lent {
            inside: inside(),
            all,
        })
    }

    /// The network namespace of a guest, for its keeper to hold where it may come to have such an interface:
    /// held, the others in it go only when the keeper lets go.
    pub(super) fn hold_inside(&self, name: &GuestName) -> Option<OwnedFd> {
        let networks = self.networks().ok()?;
        let held = networks.iter().any(Network::is_passthrough);
        held.then(|| self.netns(name).ok().flatten())?
    }

    /// Takes them out of the namespace of a guest that has ended, which its keeper has held since the
    /// start, for they may be plugged in later. What this leaves, whoever puts the guest away brings
    /// back, or `doctor` names.
    pub(super) fn take_back(&self, name: &GuestName, inside: Option<OwnedFd>) {
        let Some(inside) = inside else {
            return;
        };
        // Most hosts have no such network, and then no book is read.
        let networks = self.networks().unwrap_or_default().into_iter();
        for network in networks.filter(Network::is_passthrough) {
            if let Ok(Some(lease)) = network.find(name) {
                let _left = network.take_back(&lease, inside.as_fd());
            }
        }
    }

    /// The note of the host's interface of a network, if it is away and no guest runs that has it.
    pub(super) fn astray(&self, on: &Network) -> Result<Option<Away>> {
        if !on.is_passthrough() {
            return Ok(None);
        }
        let runs = |(address, guest): (Ipv4Addr, String)| {
            let name = guest.parse::<GuestName>().ok()?;
            let stopped = matches!(self.status(&name), Ok(Status::Stopped) | Err(_));
            (!stopped).then_some(address)
        };
        let hosts = on.hosts().map_err(failed)?.into_iter();
        let running: Vec<Ipv4Addr> = hosts.filter_map(runs).collect();
        on.astray_card(&running).map_err(failed)
    }
}

/// Brings back an interface of the host's that could not be plugged in: the host has it still, or again.
/// What this leaves, `doctor` names.
pub(super) fn give_back(network: &Network, lease: &Lease, inside: BorrowedFd<'_>) {
    if network.is_passthrough() {
        let _left = network.unplug(lease, inside);
    }
}

impl Lent {
    /// Brings them back; their guest has ended. What this leaves, `doctor` names.
    pub(super) fn bring_back(lent: Option<Self>) {
        let inside = lent.as_ref().and_then(|lent| lent.inside.as_ref());
        for (network, away) in lent.iter().flat_map(|lent| &lent.all) {
            let _left = network.bring_back(away, inside.map(AsFd::as_fd));
        }
    }
}
