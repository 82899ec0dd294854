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
        self.way(address.into(), None)
    }

    /// The way of a packet that comes from elsewhere, in by the interface of that number: rules may lead
    /// it otherwise than the host's own. The host must pass packets on.
    ///
    /// # Errors
    /// As [`Netlink::way_to`].
    pub fn way_on(
        &mut self,
        address: IpAddr,
        from: IpAddr,
        interface: u32,
    ) -> Result<Way, NetlinkError> {
        self.way(address, Some((from, interface)))
    }

    fn way(&mut self, address: IpAddr, from: Option<(IpAddr, u32)>) -> Result<Way, NetlinkError> {
        let end = |address| match address {
            IpAddr::V4(four) => (AddressFamily::Inet, 32, RouteAddress::Inet(four)),
            IpAddr::V6(six) => (AddressFamily::Inet6, 128, RouteAddress::Inet6(six)),
        };
        let (family, length, destination) = end(address);
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        request.header.destination_prefix_length = length;
        request.attributes = vec![RouteAttribute::Destination(destination)];
        if let Some((from, interface)) = from {
            request.header.source_prefix_length = length;
            let from = [
                RouteAttribute::Source(end(from).2),
                RouteAttribute::Iif(interface),
            ];
            request.attributes.extend(from);
        }
        let answers = match self.kernel.ask(RouteNetlinkMessage::GetRoute(request), 0) {
            Ok(answers) => answers,
            // Unreachable, prohibited, a blackhole.
            Err(e)
                if matches!(
                    errno(&e),
                    libc::ENETUNREACH
                        | libc::EHOSTUNREACH
                        | libc::EACCES
                        | libc::EINVAL
                        | libc::EXDEV
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
