//! Interfaces of guests that run: whether one is there, and taking it out. Plugging one in is the
//! launch's matter, which does it from the same operations as at a start.

use std::os::fd::BorrowedFd;

use super::host::HostError;
use super::{Lease, Network, interface_of};
use crate::kernel::interface;
use crate::kernel::netlink::{Link, Netlink};

impl Network {
    /// Whether a guest has its interface here; `inside` is its network namespace. Where the host has
    /// the other end, that tells, whatever the guest's root has made of its own.
    ///
    /// # Errors
    /// When the kernel refuses to tell.
    pub fn is_plugged(&self, lease: &Lease, inside: BorrowedFd<'_>) -> Result<bool, HostError> {
        if self.is_passthrough() {
            return self.is_inside(inside);
        }
        match self.holds_back() {
            true => Ok(interface::exists(&lease.host_interface)?),
            false => Ok(self.end_inside(lease, inside)?.is_some()),
        }
    }

    /// Takes a guest's interface out of it, with what held it back; it may be gone already.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn unplug(&self, lease: &Lease, inside: BorrowedFd<'_>) -> Result<(), HostError> {
        if self.holds_back() {
            return self.teardown_guest(lease);
        }
        if self.is_passthrough() {
            return match self.is_lent(lease)? {
                true => self.bring_back(Some(inside)).map(drop),
                false => Ok(()),
            };
        }
        if let Some(end) = self.end_inside(lease, inside)? {
            Netlink::open_in(inside)?.delete_link(&end.name)?;
        }
        Ok(())
    }

    /// An interface that the host has no end of, as the guest has it: by its name, or by its hardware
    /// address if the guest's root has renamed it.
    fn end_inside(&self, lease: &Lease, inside: BorrowedFd<'_>) -> Result<Option<Link>, HostError> {
        let mut links = Netlink::open_in(inside)?.links("")?;
        links.retain(|link| link.kind.as_deref() == Some("macvlan"));
        let named = links
            .iter()
            .position(|link| link.name == interface_of(lease));
        let at = named.or_else(|| links.iter().position(|link| link.mac == Some(lease.mac)));
        Ok(at.map(|at| links.swap_remove(at)))
    }
}
