//! IPv6 addresses and routes through rtnetlink(7). IPv4's are in `netlink.rs`, which has the rest.

use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;
use std::{fs, io};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE};
use netlink_packet_route::address::{
    AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::error::KernelError;
use super::netlink::{Netlink, NetlinkError};

/// An IPv6 route of any table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route6 {
    /// First address it leads to.
    pub destination: Ipv6Addr,
    /// Length of its prefix; 0 is the default route.
    pub length: u8,
    /// Number of the interface it leads over; 0 for several paths.
    pub interface: u32,
}

/// Has interfaces of the calling thread's network namespace believe no router advertisement, and have
/// their addresses at once: nobody advertises anything there, and nobody else can have them.
pub(super) fn settle(interfaces: &[&str]) -> super::error::Result<()> {
    for interface in interfaces {
        for setting in ["accept_ra", "accept_dad"] {
            let path = Path::new("/proc/sys/net/ipv6/conf").join(interface);
            let path = path.join(setting);
            fs::write(&path, "0").map_err(KernelError::io("write", path.display()))?;
        }
    }
    Ok(())
}

impl Netlink {
    /// Gives an interface an IPv6 address that it has at once: nobody is asked whether it is free. It
    /// may have it already.
    ///
    /// # Errors
    /// When there is no such interface or the kernel refuses.
    pub fn add_address6(
        &mut self,
        name: &str,
        address: Ipv6Addr,
        length: u8,
    ) -> Result<(), NetlinkError> {
        const VERB: &str = "give an address to";
        let object = format!("{name} ({address}/{length})");
        let index = self.number(VERB, name)?;
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet6;
        message.header.prefix_len = length;
        message.header.flags = AddressHeaderFlags::Nodad | AddressHeaderFlags::Permanent;
        message.header.scope = match address.is_unicast_link_local() {
            true => AddressScope::Link,
            false => AddressScope::Universe,
        };
        message.header.index = index;
        message.attributes = vec![
            AddressAttribute::Local(IpAddr::V6(address)),
            AddressAttribute::Address(IpAddr::V6(address)),
        ];
        self.kernel
            .ask(
                RouteNetlinkMessage::NewAddress(message),
                NLM_F_CREATE | NLM_F_REPLACE,
            )
            .map(drop)
            .map_err(|e| NetlinkError::new(VERB, &object, e))
    }

    /// Leads packets for a prefix, or with length 0 all that no other route is for, over an interface,
    /// by a gateway there if one is named. In place of such a route that is there.
    ///
    /// # Errors
    /// When there is no such interface, it is down, or the kernel refuses.
    pub fn lead_to6(
        &mut self,
        (destination, length): (Ipv6Addr, u8),
        interface: &str,
        gateway: Option<Ipv6Addr>,
    ) -> Result<(), NetlinkError> {
        const VERB: &str = "set the route to";
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet6;
        message.header.destination_prefix_length = length;
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = RouteProtocol::Static;
        message.header.scope = RouteScope::Universe;
        message.header.kind = RouteType::Unicast;
        message.attributes = vec![RouteAttribute::Oif(self.number(VERB, interface)?)];
        if length > 0 {
            let to = RouteAttribute::Destination(RouteAddress::Inet6(destination));
            message.attributes.push(to);
        }
        let by = gateway.map(|gateway| RouteAttribute::Gateway(RouteAddress::Inet6(gateway)));
        message.attributes.extend(by);
        self.kernel
            .ask(
                RouteNetlinkMessage::NewRoute(message),
                NLM_F_CREATE | NLM_F_REPLACE,
            )
            .map(drop)
            .map_err(|e| NetlinkError::new(VERB, &format!("{destination}/{length}"), e))
    }

    /// All IPv6 routes of all tables that mean something beyond one link.
    ///
    /// # Errors
    /// When the kernel refuses or its answer cannot be understood.
    pub fn routes6(&mut self) -> Result<Vec<Route6>, NetlinkError> {
        let mut request = RouteMessage::default();
        request.header.address_family = AddressFamily::Inet6;
        let answers = self
            .kernel
            .ask(RouteNetlinkMessage::GetRoute(request), NLM_F_DUMP)
            .map_err(|e| NetlinkError::new("list", "the routes of IPv6", e))?;
        let all = answers.into_iter().filter_map(route6_of);
        Ok(all
            .filter(|route| {
                let to = route.destination;
                !to.is_unicast_link_local() && !to.is_multicast() && !to.is_loopback()
            })
            .collect())
    }

    fn number(&mut self, verb: &'static str, name: &str) -> Result<u32, NetlinkError> {
        let none = || io::Error::from_raw_os_error(libc::ENODEV);
        let link = self.link(name)?;
        link.map(|link| link.index)
            .ok_or_else(|| NetlinkError::new(verb, name, none().into()))
    }
}

fn route6_of(answer: RouteNetlinkMessage) -> Option<Route6> {
    let RouteNetlinkMessage::NewRoute(message) = answer else {
        return None;
    };
    let mut route = Route6 {
        destination: Ipv6Addr::UNSPECIFIED,
        length: message.header.destination_prefix_length,
        interface: 0,
    };
    for attribute in message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet6(to)) => route.destination = to,
            RouteAttribute::Oif(index) => route.interface = index,
            _ => {}
        }
    }
    Some(route)
}
