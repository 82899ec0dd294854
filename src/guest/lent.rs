//! Interfaces of the host's that a guest has as they are: bringing them back when it ends.

use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};

use super::error::Result;
use super::manager::Manager;
use super::networks::network as failed;
use crate::model::{GuestName, Status};
use crate::network::{Lease, Network};

/// Such interfaces of a guest, and the namespace that they are in, which lives as long as this.
pub(super) struct Lent {
    networks: Vec<Network>,
    inside: Option<OwnedFd>,
}

impl Manager {
    /// What a guest has of the host's interfaces; to be asked while its first process lives.
    pub(super) fn lent(&self, name: &GuestName, leased: &[(Network, Lease)]) -> Option<Lent> {
        let lent = |(network, lease): &&(Network, Lease)| network.is_lent(lease).unwrap_or(false);
        let networks = leased.iter().filter(lent);
        let networks: Vec<Network> = networks.map(|(network, _)| network.clone()).collect();
        let inside = || self.netns(name).ok().flatten();
        (!networks.is_empty()).then(|| Lent {
            inside: inside(),
            networks,
        })
    }

    /// The same for its keeper, which holds it until the guest has ended.
    pub(super) fn hold_lent(&self, name: &GuestName) -> Option<Lent> {
        // Most hosts have no such network, and then no book is read.
        let mut leased = Vec::new();
        for one in self
            .networks()
            .ok()?
            .into_iter()
            .filter(Network::is_passthrough)
        {
            if let Ok(Some(lease)) = one.find(name) {
                leased.push((one, lease));
            }
        }
        self.lent(name, &leased)
    }

    /// Whether the host's interface of a network is away and no guest runs that has it.
    pub(super) fn is_astray(&self, on: &Network) -> Result<bool> {
        if !on.is_passthrough() {
            return Ok(false);
        }
        let runs = |(address, guest): (Ipv4Addr, String)| {
            let name = guest.parse::<GuestName>().ok()?;
            let stopped = matches!(self.status(&name), Ok(Status::Stopped) | Err(_));
            (!stopped).then_some(address)
        };
        let hosts = on.hosts().map_err(failed)?.into_iter();
        let running: Vec<Ipv4Addr> = hosts.filter_map(runs).collect();
        on.is_astray(&running).map_err(failed)
    }
}

impl Lent {
    /// Brings them back, and lets go of what else was held of the guest, which has ended. What this
    /// leaves, `doctor` names.
    pub(super) fn bring_back<T>(lent: Option<Self>, _held: T) {
        let inside = lent.as_ref().and_then(|lent| lent.inside.as_ref());
        for network in lent.iter().flat_map(|lent| &lent.networks) {
            let _left = network.bring_back(inside.map(AsFd::as_fd));
        }
    }
}
