//! What is said to and heard from rtnetlink(7): interfaces and routes as messages and back. Who says
//! it is `netlink.rs`, which shows these types as its own.

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{RouteAddress, RouteAttribute};

/// One network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Number, unique in its namespace (if_nametoindex(3)).
    pub index: u32,
    /// Name.
    pub name: String,
    /// Text set with `Netlink::set_alias`.
    pub alias: Option<String>,
    /// Kind, such as `veth` or `bridge`; `None` for hardware.
    pub kind: Option<String>,
    /// Number of the bridge it is a port of.
    pub master: Option<u32>,
    /// Hardware address, where it has one of six bytes.
    pub mac: Option<[u8; 6]>,
    /// Largest packet, bytes.
    pub mtu: u32,
    /// Whether it is administratively up.
    pub up: bool,
}

/// A veth pair to be made: one end here, the other in a guest's namespace.
#[derive(Clone, Copy, Debug)]
pub struct Veth<'a> {
    /// Name of the end that stays here, at most 15 bytes.
    pub host_name: &'a str,
    /// Number of the bridge that end joins; it is down there, until what it may is said. Without one it
    /// is up.
    pub bridge: Option<u32>,
    /// The other end's namespace.
    pub guest_netns: BorrowedFd<'a>,
    /// The other end's name.
    pub guest_name: &'a str,
    /// The other end's hardware address.
    pub mac: [u8; 6],
    /// Largest packet of both ends, bytes.
    pub mtu: u32,
}

/// One IPv4 route of any table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// First address it leads to.
    pub destination: Ipv4Addr,
    /// Prefix length; 0 is the default route.
    pub prefix: u8,
    /// Number of the interface it leads over; `None` for blackholes and several paths.
    pub interface: Option<u32>,
}

/// Leaves counters out of an answer: they are most of it.
pub(super) fn quiet() -> Vec<LinkAttribute> {
    vec![LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])]
}

pub(super) fn named(name: &str, mut attributes: Vec<LinkAttribute>) -> LinkMessage {
    let mut message = LinkMessage::default();
    attributes.insert(0, LinkAttribute::IfName(name.to_owned()));
    message.attributes = attributes;
    message
}

pub(super) fn veth_message(veth: &Veth<'_>) -> RouteNetlinkMessage {
    let guest_end = named(
        veth.guest_name,
        vec![
            LinkAttribute::Address(veth.mac.to_vec()),
            LinkAttribute::Mtu(veth.mtu),
            LinkAttribute::NetNsFd(veth.guest_netns.as_raw_fd()),
        ],
    );
    // Higher than any card's: a bridge whose address nobody has set takes the lowest of its ports'.
    let [_, rest @ ..] = veth.mac;
    let mut host_mac = vec![0xfe];
    host_mac.extend(rest);
    let mut host_end = named(
        veth.host_name,
        vec![
            LinkAttribute::Address(host_mac),
            LinkAttribute::Mtu(veth.mtu),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Veth),
                LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(guest_end))),
            ]),
        ],
    );
    match veth.bridge {
        Some(bridge) => host_end.attributes.push(LinkAttribute::Controller(bridge)),
        None => {
            host_end.header.flags = LinkFlags::Up;
            host_end.header.change_mask = LinkFlags::Up;
        }
    }
    RouteNetlinkMessage::NewLink(host_end)
}

pub(super) fn route_of(answer: RouteNetlinkMessage) -> Option<Route> {
    let RouteNetlinkMessage::NewRoute(message) = answer else {
        return None;
    };
    let mut route = Route {
        destination: Ipv4Addr::UNSPECIFIED,
        prefix: message.header.destination_prefix_length,
        interface: None,
    };
    for attribute in message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => route.destination = address,
            RouteAttribute::Oif(index) => route.interface = Some(index),
            _ => {}
        }
    }
    Some(route)
}
