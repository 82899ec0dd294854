//! The host's own side of the way to guests: its addresses on the bridge, and where there is no bridge
//! between guests its route to each. Whoever sets an interface down and up again has taken them away.

use std::net::IpAddr;

use super::host::HostError;
use super::lease::{Held, Lease};
use super::{Network, files};
use crate::kernel::netlink::{Netlink, NetlinkError, Way};
use crate::kernel::netlink_routed::{LINK_GATEWAY, open_ipv6};
use crate::model::GuestName;

impl Network {
    /// Whether the host has its addresses there, where it is to have any.
    pub(super) fn has_addresses(&self, kernel: &mut Netlink) -> Result<bool, HostError> {
        if self.is_guest_of_lan() {
            return Ok(true);
        }
        let four = self.known_subnet()?.filter(|_| self.has_host());
        let four = four.map(|subnet| IpAddr::from(self.gateway_in(subnet)));
        let six = self.prefix6.filter(|_| !self.is_closed());
        let six = six.map(|prefix| IpAddr::from(prefix.gateway()));
        for own in four.into_iter().chain(six) {
            if kernel.way_to(own)? != Way::Here {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether what leads to guests is there beside the bridge and its rules.
    pub(super) fn stands_on_host(&self, kernel: &mut Netlink) -> Result<bool, HostError> {
        Ok(self.is_stretched(kernel)?
            && self.is_announced(kernel)?
            && self.has_addresses(kernel)?)
    }

    /// What is wrong with a bridge that guests are on: somebody has set it down, or taken the host's
    /// address away. [`Network::reload`] makes it right.
    ///
    /// # Errors
    /// When the kernel refuses to tell, or a file cannot be read.
    pub fn wrong_bridge(&self) -> Result<Option<&'static str>, HostError> {
        let mut kernel = Netlink::open()?;
        let Some((bridge, _)) = self.own_bridge(&mut kernel)? else {
            return Ok(None);
        };
        if self.is_guest_of_lan() || self.ends(&mut kernel, &bridge)?.is_empty() {
            return Ok(None);
        }
        Ok(match bridge.up {
            false => Some("bridge that is down"),
            true if self.has_addresses(&mut kernel)? => None,
            true => Some("bridge without its address"),
        })
    }

    /// Guests of a routed network whose interface is up and to whom the host has no route.
    ///
    /// # Errors
    /// When the kernel refuses to tell, or a file cannot be read.
    pub fn unreached(&self) -> Result<Vec<(GuestName, Lease)>, HostError> {
        self.without_route(&mut Netlink::open()?)
    }

    pub(super) fn without_route(
        &self,
        kernel: &mut Netlink,
    ) -> Result<Vec<(GuestName, Lease)>, HostError> {
        let Some(subnet) = self.known_subnet()?.filter(|_| self.is_routed()) else {
            return Ok(Vec::new());
        };
        let ends = kernel.links(&self.prefix())?;
        if ends.is_empty() {
            return Ok(Vec::new());
        }
        let leases = self.leases()?;
        let runs = |(guest, held): (&GuestName, &Held)| {
            let lease = self.lease_held(held, subnet)?;
            let end = ends.iter().find(|end| end.name == lease.host_interface)?;
            end.up.then(|| (guest.clone(), lease, end))
        };
        let mut lost = Vec::new();
        // Asked for each: the whole table of a host can have a million routes.
        for (guest, lease, end) in leases.by_guest.iter().filter_map(runs) {
            let six = lease.ipv6.as_ref().map(|own| IpAddr::from(own.address));
            let mut led = true;
            for address in [Some(IpAddr::from(lease.address)), six]
                .into_iter()
                .flatten()
            {
                let way = kernel.way_to(address)?;
                led &= matches!(way, Way::Over { interface, .. } if interface == end.index);
            }
            if !led {
                lost.push((guest, lease));
            }
        }
        Ok(lost)
    }

    /// Leads to a guest again, as its start did.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn lead_again(&self, lease: &Lease) -> Result<(), HostError> {
        Ok(self.lead(&mut Netlink::open()?, lease)?)
    }

    /// The same for all. One whose guest ends meanwhile keeps no other from it.
    pub(super) fn lead_all_again(&self, kernel: &mut Netlink) -> Result<(), HostError> {
        let mut first = Ok(());
        for (_, lease) in self.without_route(kernel)? {
            if let Err(error) = self.lead(kernel, &lease)
                && first.is_ok()
                && kernel.link(&lease.host_interface)?.is_some()
            {
                first = Err(error.into());
            }
            files::pause(&self.run_folder())?;
        }
        first
    }

    fn lead(&self, kernel: &mut Netlink, lease: &Lease) -> Result<(), NetlinkError> {
        let end = &lease.host_interface;
        kernel.lead_to(lease.address, end, lease.gateway)?;
        if let Some(six) = &lease.ipv6 {
            // A kernel without IPv6 has nothing to open, and says so at what comes next.
            let _closed = open_ipv6(end);
            kernel.add_address6(end, LINK_GATEWAY, 64)?;
            kernel.lead_to6((six.address, 128), end, None)?;
        }
        Ok(())
    }
}
