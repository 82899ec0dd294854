//! Over which of a guest's interfaces its default routes lead: of each version of IP over the first whose
//! network has a way out by it, so that one without IPv6 does not stand in the way of the next.

use std::os::fd::BorrowedFd;

use super::error::Result;
use super::manager::Manager;
use super::networks::network as failed;
use crate::kernel::fault;
use crate::launch;
use crate::model::{Guest, GuestName, NetOp, NetworkWish, Nic};
use crate::network::{Lease, Network};

/// By which versions there is a way out already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ways {
    four: bool,
    six: bool,
}

impl Ways {
    /// Those of one interface.
    pub(super) fn of(network: &Network, lease: &Lease) -> Self {
        Self {
            four: network.gateway(lease).is_some(),
            six: lease.ipv6.as_ref().is_some_and(|six| six.gateway.is_some()),
        }
    }

    /// Those of a network, whoever is on it.
    pub(super) fn of_network(network: &Network) -> Result<Self> {
        Ok(Self {
            four: network.way_out().map_err(failed)?.is_some(),
            six: network.has_way_out6(),
        })
    }

    /// With those of another interface.
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            four: self.four || other.four,
            six: self.six || other.six,
        }
    }

    /// Whether there is any.
    pub(super) fn is_some(self) -> bool {
        self.four || self.six
    }

    /// What of one that comes behind these leads there: a gateway of each version, where there is none yet.
    pub(super) fn open<A, B>(self, four: Option<A>, six: Option<B>) -> (Option<A>, Option<B>) {
        (four.filter(|_| !self.four), six.filter(|_| !self.six))
    }
}

/// What the launch does for an interface, with the default routes that nothing before it has.
pub(super) fn ops(
    network: &Network,
    lease: &Lease,
    mtu: u32,
    wish: &NetworkWish,
    before: Ways,
) -> Vec<NetOp> {
    let mut ops = network.ops(lease, mtu, wish);
    ops.retain(|op| match op {
        NetOp::DefaultRoute { .. } => !before.four,
        NetOp::DefaultRoute6 { .. } => !before.six,
        _ => true,
    });
    ops
}

impl Manager {
    /// By which versions interfaces before this one have a way out.
    pub(super) fn ways_before(&self, name: &GuestName, nic: &Nic, guest: &Guest) -> Result<Ways> {
        let first = self.leased(name)?;
        let first = first.map(|(network, lease)| Ways::of(&network, &lease));
        let mut all = first.unwrap_or_default();
        let nics = guest.network.nics.iter();
        for one in nics.take_while(|one| one.name != nic.name) {
            all = all.and(Ways::of_network(&self.network_for(name, one)?)?);
        }
        Ok(all)
    }

    /// Gives the default routes, which may have gone with an interface, to the first of those that are
    /// left whose networks have a way out.
    pub(super) fn lead_out(
        &self,
        name: &GuestName,
        guest: &Guest,
        inside: BorrowedFd<'_>,
    ) -> Result<()> {
        for nic in &guest.network.nics {
            let network = self.network_for(name, nic)?;
            let Some(lease) = network.find(name).map_err(failed)? else {
                continue;
            };
            let before = self.ways_before(name, nic, guest)?;
            for op in ops(&network, &lease, 0, &nic.wish(), before) {
                if matches!(op, NetOp::DefaultRoute { .. } | NetOp::DefaultRoute6 { .. }) {
                    fault::point()?;
                    // Where the guest's root has taken its address away, there is none; the other
                    // interface is out all the same.
                    let _route = launch::plug(inside, &[op]);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_leads_over_the_first_that_has_it() {
        let (four, six) = (Some("10.0.0.1"), Some("fe80::1"));
        let only4 = Ways {
            four: true,
            six: false,
        };
        assert_eq!(Ways::default().open(four, six), (four, six));
        assert_eq!(only4.open(four, six), (None, six));
        let only6 = Ways {
            four: false,
            six: true,
        };
        assert_eq!(only6.open(four, six), (four, None));
        assert_eq!(only4.and(only6).open(four, six), (None, None));
        assert!(only6.is_some() && !Ways::default().is_some());
    }
}
