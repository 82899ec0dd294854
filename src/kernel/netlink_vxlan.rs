//! A bridge's wire to bridges of other hosts: frames in packets of UDP (VXLAN, RFC 7348), to those that
//! are named and to nobody else by multicast.

use std::io;
use std::net::IpAddr;

use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::link::{
    InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind, InfoVxlan, LinkAttribute,
    LinkInfo,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::fault;
use super::netlink::{Netlink, NetlinkError, errno};
use super::netlink_message::named;

/// The port that IANA has given to it.
pub const PORT: u16 = 4789;

/// Such a wire to be made.
#[derive(Clone, Copy, Debug)]
pub struct Vxlan<'a> {
    /// Its name.
    pub name: &'a str,
    /// Number of the bridge that it is a port of.
    pub bridge: u32,
    /// Which of the networks between the hosts it is.
    pub id: u32,
    /// The host's address that it sends from.
    pub local: IpAddr,
    /// Other hosts.
    pub remotes: &'a [IpAddr],
    /// Largest packet in it, bytes.
    pub mtu: u32,
}

impl Netlink {
    /// Makes it, a port of its bridge. One of that name may be there, made by somebody who was killed: it
    /// gets this MTU and all that a new one gets. It comes up last, so one that is up is whole.
    ///
    /// # Errors
    /// When another interface of this host has the id, or the kernel refuses.
    pub fn create_vxlan(&mut self, wire: &Vxlan<'_>) -> Result<(), NetlinkError> {
        let object = format!("{} (VXLAN {})", wire.name, wire.id);
        let mut data = vec![
            InfoVxlan::Id(wire.id),
            InfoVxlan::Port(PORT),
            // Of whom a frame came from, for the way back; the bridge learns nothing from it.
            InfoVxlan::Learning(true),
        ];
        data.push(match wire.local {
            IpAddr::V4(address) => InfoVxlan::Local(address),
            IpAddr::V6(address) => InfoVxlan::Local6(address),
        });
        let message = named(
            wire.name,
            vec![
                LinkAttribute::Mtu(wire.mtu),
                LinkAttribute::Controller(wire.bridge),
                LinkAttribute::LinkInfo(vec![
                    LinkInfo::Kind(InfoKind::Vxlan),
                    LinkInfo::Data(InfoData::Vxlan(data)),
                ]),
            ],
        );
        let create = NLM_F_CREATE | NLM_F_EXCL;
        match self
            .kernel
            .ask(RouteNetlinkMessage::NewLink(message), create)
        {
            Ok(_) => {}
            Err(e) if errno(&e) == libc::EEXIST && self.link(wire.name)?.is_some() => {
                let mtu = named(wire.name, vec![LinkAttribute::Mtu(wire.mtu)]);
                self.set_link("set the MTU of", wire.name, mtu)?;
            }
            Err(e) => return Err(NetlinkError::new("create the interface", &object, e)),
        }
        pause(wire.name)?;
        self.bind_wire(wire.name)?;
        let index = self.link(wire.name)?.map_or(0, |link| link.index);
        for remote in wire.remotes {
            pause(wire.name)?;
            self.send_to(wire.name, index, *remote)?;
        }
        pause(wire.name)?;
        self.set_up(wire.name)
    }

    /// The bridge gives it all that it knows no port for, and learns no address from it: one that came
    /// from elsewhere would take a guest's frames away.
    fn bind_wire(&mut self, name: &str) -> Result<(), NetlinkError> {
        let port = vec![
            LinkInfo::PortKind(InfoPortKind::Bridge),
            LinkInfo::PortData(InfoPortData::BridgePort(vec![
                InfoBridgePort::Learning(false),
                InfoBridgePort::UnicastFlood(true),
                InfoBridgePort::Guard(true),
                // Guests that are kept apart do not reach others by way of another host.
                InfoBridgePort::Isolated(true),
            ])),
        ];
        let message = named(name, vec![LinkAttribute::LinkInfo(port)]);
        self.kernel
            .ask(RouteNetlinkMessage::NewLink(message), 0)
            .map(drop)
            .map_err(|e| NetlinkError::new("set the rules of the bridge port", name, e))
    }

    /// Sends what is for all, and what it has learned no host for, to that host too.
    fn send_to(&mut self, name: &str, index: u32, remote: IpAddr) -> Result<(), NetlinkError> {
        let mut entry = NeighbourMessage::default();
        entry.header.family = AddressFamily::Bridge;
        entry.header.ifindex = index;
        entry.header.state = NeighbourState::Permanent;
        entry.header.flags = NeighbourFlags::Own;
        entry.attributes = vec![
            NeighbourAttribute::LinkLayerAddress(vec![0; 6]),
            NeighbourAttribute::Destination(match remote {
                IpAddr::V4(address) => NeighbourAddress::Inet(address),
                IpAddr::V6(address) => NeighbourAddress::Inet6(address),
            }),
        ];
        let object = format!("{name} to {remote}");
        let done = self.kernel.ask(
            RouteNetlinkMessage::NewNeighbour(entry),
            NLM_F_CREATE | NLM_F_APPEND,
        );
        match done {
            Err(e) if errno(&e) != libc::EEXIST => Err(NetlinkError::new("lead", &object, e)),
            _ => Ok(()),
        }
    }
}

/// A fault point between two steps.
fn pause(name: &str) -> Result<(), NetlinkError> {
    fault::point().map_err(|e| {
        let source = io::Error::from_raw_os_error(e.errno.raw_os_error());
        NetlinkError::new("set up the interface", name, source.into())
    })
}
