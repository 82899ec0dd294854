//! Interfaces of guests that run: whether one is there, and taking it out. Plugging one in is the
//! launch's matter, which does it from the same operations as at a start.

use std::os::fd::BorrowedFd;

use super::host::HostError;
use super::{Lease, Network};
use crate::kernel::interface;
use crate::kernel::netlink::Netlink;

impl Network {
    /// Whether a guest has its interface here; `inside` is its network namespace. Where the host has
    /// the other end, that tells, whatever the guest's root has made of its own.
    ///
    /// # Errors
    /// When the kernel refuses to tell.
    pub fn is_plugged(&self, lease: &Lease, inside: BorrowedFd<'_>) -> Result<bool, HostError> {
        if self.is_passthrough() {
            return self.is_inside(lease, inside);
        }
        match self.holds_back() {
            true => Ok(interface::exists(&lease.host_interface)?),
            false => Ok(!self.ends_inside(inside)?.is_empty()),
        }
    }

    /// Takes a guest's interface out of it, with what held it back; it may be gone already.
    ///
    /// # Errors
    /// When the kernel refuses, or an interface of the host's is not where it was put.
    pub fn unplug(&self, lease: &Lease, inside: BorrowedFd<'_>) -> Result<(), HostError> {
        if self.holds_back() {
            return self.teardown_guest(lease);
        }
        if self.is_passthrough() {
            return self.take_out(lease, inside);
        }
        for end in self.ends_inside(inside)? {
            Netlink::open_in(inside)?.delete_numbered(end)?;
        }
        Ok(())
    }

    /// The number of its interface that the host has no end of, as the guest has it: known by the
    /// interface of the host's that it is on, for its name and hardware address the guest's root can
    /// change, and that not. There are several if that root has made others so that they look like it.
    fn ends_inside(&self, inside: BorrowedFd<'_>) -> Result<Vec<u32>, HostError> {
        let Some(parent) = Netlink::open()?.link(&self.bridge)? else {
            return Ok(Vec::new());
        };
        let mut cards = Netlink::open_in(inside)?.cards()?;
        cards.retain(|card| {
            card.identity.kind.as_deref() == Some("macvlan") && card.outside == Some(parent.index)
        });
        Ok(cards.iter().map(|card| card.link.index).collect())
    }
}
