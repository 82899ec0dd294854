//! Addresses that are elsewhere, for which this host answers on a link (proxy entries of neighbour
//! discovery). Whether it heeds them there is a setting of the interface, `proxy_ndp`.

use std::net::Ipv6Addr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::netlink::{Netlink, NetlinkError, errno};

fn entry(interface: u32) -> NeighbourMessage {
    let mut entry = NeighbourMessage::default();
    entry.header.family = AddressFamily::Inet6;
    entry.header.ifindex = interface;
    entry.header.flags = NeighbourFlags::Proxy;
    entry
}

fn of(interface: u32, address: Ipv6Addr) -> NeighbourMessage {
    let mut entry = entry(interface);
    let to = NeighbourAttribute::Destination(NeighbourAddress::Inet6(address));
    entry.attributes = vec![to];
    entry
}

impl Netlink {
    /// Has this host answer for an address on the link of that number. It may do so already.
    ///
    /// # Errors
    /// When there is no such interface or the kernel refuses.
    pub fn answer_for(&mut self, interface: u32, address: Ipv6Addr) -> Result<(), NetlinkError> {
        let message = RouteNetlinkMessage::NewNeighbour(of(interface, address));
        let done = self.kernel.ask(message, NLM_F_CREATE | NLM_F_REPLACE);
        done.map(drop)
            .map_err(|e| NetlinkError::new("announce", &address.to_string(), e))
    }

    /// Has it not do so any more; it may not have.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn answer_no_more(
        &mut self,
        interface: u32,
        address: Ipv6Addr,
    ) -> Result<(), NetlinkError> {
        let message = RouteNetlinkMessage::DelNeighbour(of(interface, address));
        match self.kernel.ask(message, 0) {
            Err(e) if !matches!(errno(&e), libc::ENOENT | libc::ENODEV | libc::ENXIO) => {
                let object = address.to_string();
                Err(NetlinkError::new(
                    "take back the announcement of",
                    &object,
                    e,
                ))
            }
            _ => Ok(()),
        }
    }

    /// All addresses that it answers for, each with the number of the interface.
    ///
    /// # Errors
    /// When the kernel refuses to tell.
    pub fn answers6(&mut self) -> Result<Vec<(u32, Ipv6Addr)>, NetlinkError> {
        let request = RouteNetlinkMessage::GetNeighbour(entry(0));
        let answers = self.kernel.ask(request, NLM_F_DUMP).map_err(|e| {
            NetlinkError::new("list", "the addresses that this host answers for", e)
        })?;
        Ok(answers.into_iter().filter_map(announced).collect())
    }
}

fn announced(answer: RouteNetlinkMessage) -> Option<(u32, Ipv6Addr)> {
    let RouteNetlinkMessage::NewNeighbour(entry) = answer else {
        return None;
    };
    if !entry.header.flags.contains(NeighbourFlags::Proxy) {
        return None;
    }
    let address = entry.attributes.into_iter().find_map(|one| match one {
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => Some(address),
        _ => None,
    });
    Some((entry.header.ifindex, address?))
}
