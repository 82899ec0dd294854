//! A guest's interface on one of the host's own, with a hardware address beside that one's (macvlan).
//! It is the guest's alone from the first moment on, and goes with its network namespace.

use std::os::fd::{AsRawFd as _, BorrowedFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoMacVlan, LinkAttribute, LinkInfo, MacVlanMode,
};

use super::netlink::{Netlink, NetlinkError};
use super::netlink_message::named;

/// Such an interface to be made.
#[derive(Clone, Copy, Debug)]
pub struct Macvlan<'a> {
    /// Number of the host's interface.
    pub parent: u32,
    /// The guest's namespace.
    pub guest_netns: BorrowedFd<'a>,
    /// Name there.
    pub guest_name: &'a str,
    /// Hardware address.
    pub mac: [u8; 6],
    /// Largest packet, bytes.
    pub mtu: u32,
    /// Whether others on the same interface of the host's are out of reach.
    pub apart: bool,
}

impl Netlink {
    /// Makes one in a guest's namespace, down.
    ///
    /// # Errors
    /// When the kernel refuses: the host's interface is a port of a bridge, or takes none.
    pub fn create_macvlan(&mut self, wanted: &Macvlan<'_>) -> Result<(), NetlinkError> {
        let mode = match wanted.apart {
            true => MacVlanMode::Private,
            false => MacVlanMode::Bridge,
        };
        let message = named(
            wanted.guest_name,
            vec![
                LinkAttribute::Link(wanted.parent),
                LinkAttribute::Address(wanted.mac.to_vec()),
                LinkAttribute::Mtu(wanted.mtu),
                LinkAttribute::NetNsFd(wanted.guest_netns.as_raw_fd()),
                LinkAttribute::LinkInfo(vec![
                    LinkInfo::Kind(InfoKind::MacVlan),
                    LinkInfo::Data(InfoData::MacVlan(vec![InfoMacVlan::Mode(mode)])),
                ]),
            ],
        );
        self.kernel
            .ask(
                RouteNetlinkMessage::NewLink(message),
                NLM_F_CREATE | NLM_F_EXCL,
            )
            .map(drop)
            .map_err(|e| NetlinkError::new("create the interface", wanted.guest_name, e))
    }
}
