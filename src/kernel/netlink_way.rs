//! Which way the kernel would send a packet: asked, not worked out from the routes that there are.

use std::net::IpAddr;

use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::netlink::{Netlink, NetlinkError, errno};

/// The way to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// It is one of this machine's.
    Here,
    /// Over an interface, by its number, and by way of a gateway if it is not there itself.
    Over {
        /// Interface.
        interface: u32,
        /// Next machine.
        gateway: Option<IpAddr>,
    },
    /// There is none.
    Nowhere,
}

impl Netlink {
    /// The way to an address.
    ///
    /// # Errors
    /// When the kernel refuses to say, or its answer cannot be understood.
    pub fn way_to(&mut self, address: impl Into<IpAddr>) -> Result<Way, NetlinkError> {
        let address = address.into();
        let (family, length, destination) = match address {
            IpAddr::V4(four) => (AddressFamily::Inet, 32, RouteAddress::Inet(four)),
            IpAddr::V6(six) => (AddressFamily::Inet6, 128, RouteAddress::Inet6(six)),
        };
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        request.header.destination_prefix_length = length;
        request.attributes = vec![RouteAttribute::Destination(destination)];
        let answers = match self.kernel.ask(RouteNetlinkMessage::GetRoute(request), 0) {
            Ok(answers) => answers,
            // Unreachable, prohibited, a blackhole.
            Err(e)
                if matches!(
                    errno(&e),
                    libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EACCES | libc::EINVAL
                ) =>
            {
                return Ok(Way::Nowhere);
            }
            Err(e) => {
                let object = format!("the way to {address}");
                return Err(NetlinkError::new("look up", &object, e));
            }
        };
        let route = answers.into_iter().find_map(|answer| match answer {
            RouteNetlinkMessage::NewRoute(route) => Some(route),
            _ => None,
        });
        Ok(route.map_or(Way::Nowhere, way))
    }
}

fn way(route: RouteMessage) -> Way {
    let mut over = None;
    let mut gateway = None;
    for attribute in route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => over = Some(index),
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => gateway = Some(address.into()),
            RouteAttribute::Gateway(RouteAddress::Inet6(address)) => gateway = Some(address.into()),
            _ => {}
        }
    }
    match (route.header.kind, over) {
        (RouteType::Local, _) => Way::Here,
        (RouteType::Unicast, Some(interface)) => Way::Over { interface, gateway },
        _ => Way::Nowhere,
    }
}
