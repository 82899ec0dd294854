//! What a bridge knows of a port: which hardware address is behind it, and whom the port may speak
//! with. Making the port is `netlink.rs`; what its guest may send is the network room's firewall.

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::link::{
    BridgePortState, InfoBridgePort, InfoPortData, InfoPortKind, LinkAttribute, LinkInfo,
};
use netlink_packet_route::neighbour::{
    NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::netlink::{Netlink, NetlinkError};
use super::netlink_message::{named, quiet};

impl Netlink {
    /// Whether a bridge port is kept apart from others that are; one that is none is not.
    ///
    /// # Errors
    /// When there is no such interface or the kernel refuses.
    pub fn is_apart(&mut self, name: &str) -> Result<bool, NetlinkError> {
        let apart = |one: &InfoBridgePort| matches!(one, InfoBridgePort::Isolated(true));
        Ok(self.port(name)?.iter().any(apart))
    }

    /// Whether a bridge takes frames from a port of its own; one that is none has nobody to shut it off.
    ///
    /// # Errors
    /// When there is no such interface or the kernel refuses.
    pub fn is_shut_off(&mut self, name: &str) -> Result<bool, NetlinkError> {
        let shut = |one: &InfoBridgePort| matches!(one, InfoBridgePort::State(state) if *state != BridgePortState::Forwarding);
        Ok(self.port(name)?.iter().any(shut))
    }

    /// The group of interfaces that one is in.
    ///
    /// # Errors
    /// When there is no such interface or the kernel refuses.
    pub fn group_of(&mut self, name: &str) -> Result<Option<u32>, NetlinkError> {
        let attributes = self.attributes(name)?;
        Ok(attributes.into_iter().find_map(|one| match one {
            LinkAttribute::Group(group) => Some(group),
            _ => None,
        }))
    }

    /// What a bridge says of a port.
    fn port(&mut self, name: &str) -> Result<Vec<InfoBridgePort>, NetlinkError> {
        let attributes = self.attributes(name)?;
        let infos = attributes
            .into_iter()
            .filter_map(|attribute| match attribute {
                LinkAttribute::LinkInfo(infos) => Some(infos),
                _ => None,
            });
        let ports = infos.flatten().filter_map(|info| match info {
            LinkInfo::PortData(InfoPortData::BridgePort(port)) => Some(port),
            _ => None,
        });
        Ok(ports.flatten().collect())
    }

    fn attributes(&mut self, name: &str) -> Result<Vec<LinkAttribute>, NetlinkError> {
        let request = RouteNetlinkMessage::GetLink(named(name, quiet()));
        let answers = self
            .kernel
            .ask(request, 0)
            .map_err(|e| NetlinkError::new("look up the interface", name, e))?;
        let attributes = |answer| match answer {
            RouteNetlinkMessage::NewLink(message) => Some(message.attributes),
            _ => None,
        };
        Ok(answers.into_iter().find_map(attributes).unwrap_or_default())
    }

    /// Ties a bridge port to the one hardware address behind it. The bridge learns no other from it,
    /// so nobody else's packets can be drawn there, and sends packets for an address it does not know
    /// elsewhere. What the host's firewall leads back to its sender reaches it (with br_netfilter the
    /// bridge itself takes it there), so who keeps broadcasts from coming back is the firewall too.
    /// `isolated` ports (Linux 4.18) do not reach each other; the bridge itself they do.
    ///
    /// # Errors
    /// When the interface is no bridge port or the kernel refuses.
    pub fn bind_port(
        &mut self,
        name: &str,
        mac: [u8; 6],
        isolated: bool,
    ) -> Result<(), NetlinkError> {
        const VERB: &str = "set the rules of the bridge port";
        let port = vec![
            LinkInfo::PortKind(InfoPortKind::Bridge),
            LinkInfo::PortData(InfoPortData::BridgePort(vec![
                InfoBridgePort::Learning(false),
                InfoBridgePort::UnicastFlood(false),
                InfoBridgePort::HairpinMode(true),
                // Where bridges agree on their tree, a port that takes part in it is shut off.
                InfoBridgePort::Guard(true),
                InfoBridgePort::Isolated(isolated),
            ])),
        ];
        let message = named(name, vec![LinkAttribute::LinkInfo(port)]);
        // Port data is read by RTM_NEWLINK only; without NLM_F_CREATE it changes what exists.
        self.kernel
            .ask(RouteNetlinkMessage::NewLink(message), 0)
            .map_err(|e| NetlinkError::new(VERB, name, e))?;
        let index = self.link(name)?.map_or(0, |link| link.index);
        let mut entry = NeighbourMessage::default();
        entry.header.family = AddressFamily::Bridge;
        entry.header.ifindex = index;
        // Static; a "permanent" one would be the host's own address.
        entry.header.state = NeighbourState::Noarp;
        entry.header.flags = NeighbourFlags::Controller;
        entry.attributes = vec![NeighbourAttribute::LinkLayerAddress(mac.to_vec())];
        self.kernel
            .ask(
                RouteNetlinkMessage::NewNeighbour(entry),
                NLM_F_CREATE | NLM_F_REPLACE,
            )
            .map(drop)
            .map_err(|e| NetlinkError::new("tell the bridge the address behind", name, e))
    }
}
