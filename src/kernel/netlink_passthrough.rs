//! Interfaces of the host's that move into a guest's network namespace and back, known on the way by
//! their numbers: names and hardware addresses a guest's root can change, numbers it cannot.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};

use super::netlink::{Netlink, NetlinkError};

/// In the number of an interface that is in a guest, beside its number on the host.
const AWAY: u32 = 0x4000_0000;

/// The number that an interface of the host's has in a guest, and keeps when the kernel gives it back.
#[must_use]
pub const fn number_away(index: u32) -> u32 {
    index | AWAY
}

impl Netlink {
    /// Moves the interface of a number into another namespace, under a name and a number there; down.
    ///
    /// # Errors
    /// When there is no such interface, the name is taken there, or the kernel refuses.
    pub fn hand_over(
        &mut self,
        index: u32,
        to: BorrowedFd<'_>,
        name: &str,
        number: u32,
    ) -> Result<(), NetlinkError> {
        let number = i32::try_from(number).unwrap_or(0);
        let moved = |number| {
            let mut message = numbered(index);
            message.attributes = vec![
                LinkAttribute::NetNsFd(to.as_raw_fd()),
                LinkAttribute::IfName(name.to_owned()),
            ];
            message.attributes.extend(number);
            message
        };
        const VERB: &str = "move the interface";
        let wanted = Some(LinkAttribute::NewIfIndex(number));
        match self.set_link(VERB, name, moved(wanted)) {
            // Somebody has the number by now.
            Err(error) if error.errno() == libc::EBUSY => self.set_link(VERB, name, moved(None)),
            done => done,
        }
    }

    /// Gives the interface of a number, which is down then, another name.
    ///
    /// # Errors
    /// When there is none, the name is taken, or the kernel refuses.
    pub fn rename(&mut self, index: u32, name: &str) -> Result<(), NetlinkError> {
        let mut down = numbered(index);
        down.header.change_mask = LinkFlags::Up;
        self.set_link("set down the interface", name, down)?;
        let mut message = numbered(index);
        message.attributes = vec![LinkAttribute::IfName(name.to_owned())];
        self.set_link("rename the interface to", name, message)
    }

    /// Whether the host's default route leads over the interface of a number.
    ///
    /// # Errors
    /// When the kernel refuses to tell.
    pub fn is_way_out(&mut self, index: u32) -> Result<bool, NetlinkError> {
        let over = |interface: Option<u32>| interface == Some(index);
        let four = self
            .routes()?
            .iter()
            .any(|r| r.prefix == 0 && over(r.interface));
        let six = self
            .routes6()?
            .iter()
            .any(|r| r.length == 0 && r.interface == index);
        Ok(four || six)
    }
}

fn numbered(index: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message
}

/// Whether the kernel said that a name is taken.
#[must_use]
pub fn is_taken(error: &NetlinkError) -> bool {
    error.source.kind() == io::ErrorKind::AlreadyExists
}
