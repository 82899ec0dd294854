//! A guest's interface that is on no bridge: the host's end of it answers for its neighbours' addresses,
//! and a route leads to the guest over it. Making the interface is `netlink.rs`.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::link::LinkAttribute;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::error::{KernelError, Result};
use super::netlink::{Netlink, NetlinkError};
use super::netlink_message::named;

/// Settings of the host's end: below /proc/sys/net, with the interface's name in place of the `*`.
const SETTINGS: [(&str, &str); 4] = [
    // Only from whom it would send to.
    ("ipv4/conf/*/rp_filter", "1"),
    ("ipv4/conf/*/proxy_arp", "1"),
    // At once, where Linux waits for another to answer.
    ("ipv4/neigh/*/proxy_delay", "0"),
    // No address of its own, no advertisement believed.
    ("ipv6/conf/*/disable_ipv6", "1"),
];

/// The same of one whose guest has IPv6: the one address that `LINK_GATEWAY` is, at once, and no
/// advertisement believed.
const SETTINGS6: [(&str, &str); 4] = [
    ("addr_gen_mode", "1"),
    ("accept_dad", "0"),
    ("accept_ra", "0"),
    ("disable_ipv6", "0"),
];

/// The host's address at its end of every such interface, which is the guest's gateway.
pub const LINK_GATEWAY: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// Makes an interface one that answers for all the host knows the way to, and believes only whom it
/// would send to.
///
/// # Errors
/// When there is no such interface, or the kernel refuses.
pub fn answer_for_others(interface: &str) -> Result<()> {
    for (setting, value) in SETTINGS {
        let path = Path::new("/proc/sys/net").join(setting.replace('*', interface));
        match fs::write(&path, value) {
            // A kernel without IPv6 has nothing to close.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && setting.starts_with("ipv6") => {}
            done => done.map_err(KernelError::io("write", path.display()))?,
        }
    }
    Ok(())
}

/// Opens such an interface for IPv6; giving it its address is `Netlink::add_address6`.
///
/// # Errors
/// When there is no such interface, this host has no IPv6, or the kernel refuses.
pub fn open_ipv6(interface: &str) -> Result<()> {
    for (setting, value) in SETTINGS6 {
        let path = Path::new("/proc/sys/net/ipv6/conf").join(interface);
        let path = path.join(setting);
        fs::write(&path, value).map_err(KernelError::io("write", path.display()))?;
    }
    Ok(())
}

impl Netlink {
    /// Leads packets for an address over an interface; the host's own have `source` then. In place of a
    /// route to it that is there.
    ///
    /// # Errors
    /// When there is no such interface, it is down, or the kernel refuses.
    pub fn lead_to(
        &mut self,
        address: Ipv4Addr,
        interface: &str,
        source: Ipv4Addr,
    ) -> std::result::Result<(), NetlinkError> {
        let index = self.link(interface)?.map_or(0, |link| link.index);
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.destination_prefix_length = 32;
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = RouteProtocol::Static;
        message.header.scope = RouteScope::Link;
        message.header.kind = RouteType::Unicast;
        message.attributes = vec![
            RouteAttribute::Destination(RouteAddress::Inet(address)),
            RouteAttribute::Oif(index),
            RouteAttribute::PrefSource(RouteAddress::Inet(source)),
        ];
        self.kernel
            .ask(
                RouteNetlinkMessage::NewRoute(message),
                NLM_F_CREATE | NLM_F_REPLACE,
            )
            .map(drop)
            .map_err(|e| NetlinkError::new("set the route to", &address.to_string(), e))
    }

    /// Puts an interface into a group, which firewalls can tell it by.
    ///
    /// # Errors
    /// When there is no such interface or the kernel refuses.
    pub fn set_group(&mut self, name: &str, group: u32) -> std::result::Result<(), NetlinkError> {
        self.set_group_as(name, group, "")
    }

    /// The same, and has it say something of itself, if that is not empty.
    ///
    /// # Errors
    /// As [`Netlink::set_group`].
    pub fn set_group_as(
        &mut self,
        name: &str,
        group: u32,
        alias: &str,
    ) -> std::result::Result<(), NetlinkError> {
        let said = (!alias.is_empty()).then(|| LinkAttribute::IfAlias(alias.to_owned()));
        let all = std::iter::once(LinkAttribute::Group(group)).chain(said);
        let message = named(name, all.collect());
        self.set_link("set the group of", name, message)
    }
}
