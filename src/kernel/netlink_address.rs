//! Addresses of an interface, of both families, as they are taken along when it moves to another
//! network namespace: the kernel takes them away on the way.

use std::net::{IpAddr, Ipv4Addr};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::netlink::{Link, Netlink, NetlinkError};

/// An address of an interface, with all that belongs to it.
#[derive(Clone, Debug)]
pub struct Address(AddressMessage);

fn only_ipv4(all: Vec<IpAddr>) -> Vec<Ipv4Addr> {
    let four = |address| match address {
        IpAddr::V4(four) => Some(four),
        IpAddr::V6(_) => None,
    };
    all.into_iter().filter_map(four).collect()
}

/// What an address is while the kernel still thinks about it.
const PASSING: AddressFlags = AddressFlags::Tentative
    .union(AddressFlags::Dadfailed)
    .union(AddressFlags::Optimistic);

impl Netlink {
    /// The addresses of the interface of that number that are there to stay and mean something
    /// beyond their link.
    ///
    /// # Errors
    /// When the kernel refuses or its answer cannot be understood.
    pub fn lasting_addresses(&mut self, index: u32) -> Result<Vec<Address>, NetlinkError> {
        // Of all: only newer kernels can be asked for those of one interface.
        let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let answers = self
            .kernel
            .ask(request, NLM_F_DUMP)
            .map_err(|e| NetlinkError::new("list", "the addresses", e))?;
        let lasting = |message: &AddressMessage| {
            message.header.index == index
                && message.header.scope == AddressScope::Universe
                && message.header.flags.contains(AddressHeaderFlags::Permanent)
        };
        Ok(answers
            .into_iter()
            .filter_map(|answer| match answer {
                RouteNetlinkMessage::NewAddress(message) => Some(message),
                _ => None,
            })
            .filter(lasting)
            .map(|message| Address(kept(message)))
            .collect())
    }

    /// All IPv4 addresses of the interface of that number, lasting or not.
    ///
    /// # Errors
    /// When the kernel refuses or its answer cannot be understood.
    pub fn ipv4_of(&mut self, index: u32) -> Result<Vec<Ipv4Addr>, NetlinkError> {
        Ok(only_ipv4(self.ip_where(false, &|one| one == index)?))
    }

    /// Those of all interfaces.
    ///
    /// # Errors
    /// When the kernel refuses or its answer cannot be understood.
    pub fn all_ipv4(&mut self) -> Result<Vec<Ipv4Addr>, NetlinkError> {
        Ok(only_ipv4(self.ip_where(false, &|_| true)?))
    }

    /// The same of IPv4 or of IPv6, of the link's too.
    ///
    /// # Errors
    /// When the kernel refuses or its answer cannot be understood.
    pub fn ip_of(&mut self, index: u32, ipv6: bool) -> Result<Vec<IpAddr>, NetlinkError> {
        self.ip_where(ipv6, &|one| one == index)
    }

    fn ip_where(
        &mut self,
        ipv6: bool,
        on: &dyn Fn(u32) -> bool,
    ) -> Result<Vec<IpAddr>, NetlinkError> {
        let mut request = AddressMessage::default();
        request.header.family = match ipv6 {
            true => AddressFamily::Inet6,
            false => AddressFamily::Inet,
        };
        let answers = self
            .kernel
            .ask(RouteNetlinkMessage::GetAddress(request), NLM_F_DUMP)
            .map_err(|e| NetlinkError::new("list", "the addresses", e))?;
        let of = |answer| match answer {
            RouteNetlinkMessage::NewAddress(message) if on(message.header.index) => {
                Some(message.attributes)
            }
            _ => None,
        };
        let local = |attribute| match attribute {
            AddressAttribute::Local(address) if !ipv6 => Some(address),
            // IPv6's are told as this; one has the other if it is a point-to-point one.
            AddressAttribute::Address(address) if ipv6 => Some(address),
            _ => None,
        };
        let all = answers.into_iter().filter_map(of).flatten();
        Ok(all.filter_map(local).collect())
    }

    /// Takes an IPv4 address away from an interface, which has it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn delete_address(
        &mut self,
        link: &Link,
        address: Ipv4Addr,
        prefix: u8,
    ) -> Result<(), NetlinkError> {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.prefix_len = prefix;
        message.header.index = link.index;
        message.attributes = vec![AddressAttribute::Local(IpAddr::V4(address))];
        self.kernel
            .ask(RouteNetlinkMessage::DelAddress(message), 0)
            .map(drop)
            .map_err(|e| {
                let object = format!("{} ({address}/{prefix})", link.name);
                NetlinkError::new("take an address from", &object, e)
            })
    }

    /// Gives an address to the interface of that number.
    ///
    /// # Errors
    /// When there is no such interface or the kernel refuses.
    pub fn give_address(
        &mut self,
        name: &str,
        index: u32,
        address: &Address,
    ) -> Result<(), NetlinkError> {
        let mut message = address.0.clone();
        message.header.index = index;
        self.kernel
            .ask(
                RouteNetlinkMessage::NewAddress(message),
                NLM_F_CREATE | NLM_F_REPLACE,
            )
            .map(drop)
            .map_err(|e| NetlinkError::new("give an address to", name, e))
    }
}

/// What is said when it is given anew: no label, which has the old name in it, and no times.
fn kept(mut message: AddressMessage) -> AddressMessage {
    message.attributes.retain(|attribute| {
        matches!(
            attribute,
            AddressAttribute::Address(_)
                | AddressAttribute::Local(_)
                | AddressAttribute::Broadcast(_)
                | AddressAttribute::Anycast(_)
                | AddressAttribute::Flags(_)
        )
    });
    for attribute in &mut message.attributes {
        if let AddressAttribute::Flags(flags) = attribute {
            flags.remove(PASSING);
        }
    }
    message
        .header
        .flags
        .remove(AddressHeaderFlags::from_bits_retain(
            u8::try_from(PASSING.bits() & 0xff).unwrap_or(0),
        ));
    message
}
