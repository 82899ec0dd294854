//! Interfaces of the host's that move into a guest's network namespace and back. There they are looked
//! for under a number of our choice, and believed to be what went there by what nobody can change of
//! them: the guest's root can move them on and make others with that number.

use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};

use super::namespace;
use super::netlink::{Netlink, NetlinkError, errno};
use super::netlink_card::Identity;

/// In the number of an interface that is in a guest, beside its number on the host.
const AWAY: u32 = 0x4000_0000;

/// Times that a guest's root may give one a name that the host has, between our taking that and the move.
const TRIES: u32 = 8;

/// The number that an interface of the host's has in a guest, and keeps when the kernel gives it back.
#[must_use]
pub const fn number_away(index: u32) -> u32 {
    index | AWAY
}

/// The name that one has as it comes home, which nothing else has.
#[must_use]
pub fn spare_name(index: u32) -> String {
    format!("bhx{index}")
}

/// An interface of the host's that is in a guest.
#[derive(Clone, Copy, Debug)]
pub struct Lent<'a> {
    /// Its number on the host.
    pub index: u32,
    /// What it is.
    pub identity: &'a Identity,
    /// The further names that it may have at home.
    pub names: &'a [Vec<u8>],
}

impl Lent<'_> {
    /// Whether it is in that namespace under its number. The calling process must have one thread.
    ///
    /// # Errors
    /// The namespace may not be entered, or the kernel refuses.
    pub fn is_in(&self, inside: BorrowedFd<'_>) -> Result<bool, NetlinkError> {
        let there = Netlink::open_in(inside)?.card(number_away(self.index))?;
        Ok(there.is_some_and(|card| card.identity == *self.identity))
    }

    /// Takes it home out of that namespace, down and under its spare name; false if it is not there
    /// under its number. The calling process is at home and has one thread.
    ///
    /// # Errors
    /// The namespace may not be entered, or the kernel refuses.
    pub fn take_home(&self, inside: BorrowedFd<'_>) -> Result<bool, NetlinkError> {
        let mut there = Netlink::open_in(inside)?;
        let (home, spare) = (open_home()?, spare_name(self.index));
        for tries in 1.. {
            let Some(card) = there.card(number_away(self.index))? else {
                return Ok(false);
            };
            if card.identity != *self.identity {
                return Ok(false);
            }
            let mut go = |number| {
                there.keep_names(&card, self.names)?;
                there.hand_over((card.link.index, home.as_fd(), &*spare, number))
            };
            let moved = match go(Some(self.index)) {
                // Somebody has the number by now.
                Err(error) if error.errno() == libc::EBUSY => go(None),
                done => done,
            };
            match moved {
                Err(_) if tries < TRIES => {}
                done => {
                    done?;
                    break;
                }
            }
        }
        self.is_home(inside, &spare)
    }

    /// Whether what has come is what was asked for: a guest's root that still runs may have put another
    /// there as we looked. That goes back.
    fn is_home(&self, inside: BorrowedFd<'_>, spare: &str) -> Result<bool, NetlinkError> {
        let mut here = Netlink::open()?;
        let Some(link) = here.link(spare)? else {
            return Ok(false);
        };
        let card = here.card(link.index)?;
        if card.is_some_and(|card| card.identity == *self.identity) {
            return Ok(true);
        }
        if here.hand_over((link.index, inside, spare, None)).is_err() {
            // What cannot even be deleted is a card, and known by what it is.
            let _card = here.delete_numbered(link.index);
        }
        Ok(false)
    }
}

fn open_home() -> Result<OwnedFd, NetlinkError> {
    namespace::open_own("net").map_err(|e| {
        let source = std::io::Error::from_raw_os_error(e.errno.raw_os_error());
        NetlinkError::new("open", "the host's network namespace", source.into())
    })
}

impl Netlink {
    /// Moves the interface of a number into another namespace, under a name there, and a number if it is
    /// to have a certain one; down.
    ///
    /// # Errors
    /// When there is no such interface, the name or the number is taken there, or the kernel refuses.
    pub fn hand_over(
        &mut self,
        (index, to, name, number): (u32, BorrowedFd<'_>, &str, Option<u32>),
    ) -> Result<(), NetlinkError> {
        let mut message = numbered(index);
        message.attributes = vec![
            LinkAttribute::NetNsFd(to.as_raw_fd()),
            LinkAttribute::IfName(name.to_owned()),
        ];
        let wanted = number.and_then(|number| i32::try_from(number).ok());
        let wanted = wanted.map(LinkAttribute::NewIfIndex);
        message.attributes.extend(wanted);
        self.set_link("move the interface", name, message)
            .map_err(|error| {
                let number = number.unwrap_or(0);
                let taken = || format!("an interface has the number {number} there; delete that");
                explained(error, libc::EBUSY, taken)
            })
    }

    /// Gives the interface of a number, which is down then, another name.
    ///
    /// # Errors
    /// When there is none, the name is taken, or the kernel refuses.
    pub fn rename(&mut self, index: u32, name: &str) -> Result<(), NetlinkError> {
        let mut down = numbered(index);
        down.header.change_mask = LinkFlags::Up;
        self.set_link("set down the interface", name, down)?;
        self.call(index, name)
    }

    /// Gives the interface of a number its name again; where the kernel renames none that is up (before
    /// Linux 6.2), it is down for a moment.
    ///
    /// # Errors
    /// When there is none, the name is taken, or the kernel refuses.
    pub fn name_again(&mut self, index: u32, name: &str) -> Result<(), NetlinkError> {
        match self.call(index, name) {
            Err(error) if error.source.raw_os_error() == Some(libc::EBUSY) => {
                self.rename(index, name)?;
                self.set_up(name)
            }
            done => done,
        }
    }

    fn call(&mut self, index: u32, name: &str) -> Result<(), NetlinkError> {
        let mut message = numbered(index);
        message.attributes = vec![LinkAttribute::IfName(name.to_owned())];
        self.set_link("rename the interface to", name, message)
            .map_err(|error| {
                let taken = || "something else has that name; rename that, or delete it".to_owned();
                explained(error, libc::EEXIST, taken)
            })
    }

    /// Deletes the interface of a number; it may be gone already.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn delete_numbered(&mut self, index: u32) -> Result<(), NetlinkError> {
        let request = RouteNetlinkMessage::DelLink(numbered(index));
        match self.kernel.ask(request, 0) {
            Err(e) if errno(&e) != libc::ENODEV => {
                let number = index.to_string();
                Err(NetlinkError::new("delete the interface", &number, e))
            }
            _ => Ok(()),
        }
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

/// An error with what an error number means here, beside the kernel's own words.
fn explained(mut error: NetlinkError, of: i32, why: impl FnOnce() -> String) -> NetlinkError {
    if error.errno() == of {
        let told = error.detail.take().map(|told| told + ": ");
        error.detail = Some(told.unwrap_or_default() + &why());
    }
    error
}

fn numbered(index: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message
}
