//! News of the kernel's that somebody has changed the host's network: interfaces, addresses, routes,
//! whether packets are passed on (rtnetlink(7)), and firewall tables. Told is that something is
//! different, and not what: whoever hears it looks.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use netlink_sys::Socket;
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};

use super::interrupt;
use super::netlink::NetlinkError;

/// RTNLGRP_LINK, _IPV4_IFADDR, _IPV4_ROUTE, _IPV6_IFADDR, _IPV6_ROUTE, _IPV4_NETCONF, _IPV6_NETCONF.
const INTERFACES: [u32; 7] = [1, 5, 7, 9, 11, 24, 25];
/// NFNLGRP_NFTABLES.
const TABLES: [u32; 1] = [7];
/// Bytes of struct nlmsghdr, and where in it length and type are.
const HEADER: usize = 16;
/// Bytes of struct ifinfomsg and of struct nfgenmsg, behind which attributes begin.
const OF_INTERFACE: usize = 16;
const OF_TABLE: usize = 4;
/// RTM_NEWLINK, RTM_DELLINK; IFLA_IFNAME.
const LINK: [u16; 2] = [16, 17];
const INTERFACE_NAME: u16 = 3;
/// NFNL_SUBSYS_NFTABLES in the upper byte; in the lower NFT_MSG_NEWTABLE, DELTABLE, and what makes and
/// removes chains and rules. Elements of sets are nobody's business but their owner's.
const NFTABLES: u16 = 10 << 8;
const DELETE_TABLE: u16 = NFTABLES | 2;
const TABLE_KINDS: [u16; 6] = [0, 2, 3, 5, 6, 8];
/// NFTA_TABLE_NAME, NFTA_CHAIN_TABLE, NFTA_RULE_TABLE.
const TABLE_NAME: u16 = 1;
/// More than the kernel puts into one message of news.
const RECEIVE: usize = 64 << 10;

/// Hears what changes in the network namespace that its maker was in.
#[derive(Debug)]
pub struct NetworkWatch {
    interfaces: Socket,
    tables: Socket,
    receive: Vec<u8>,
}

impl NetworkWatch {
    /// Hears from now on.
    ///
    /// # Errors
    /// When the kernel gives no socket.
    pub fn open() -> Result<Self, NetlinkError> {
        let open = |protocol, groups: &[u32]| {
            let mut socket = Socket::new(protocol)?;
            socket.bind_auto()?;
            socket.set_non_blocking(true)?;
            groups
                .iter()
                .try_for_each(|group| socket.add_membership(*group))?;
            Ok(socket)
        };
        let failed = |e: io::Error| NetlinkError::new("watch", "the host's network", e.into());
        Ok(Self {
            interfaces: open(NETLINK_ROUTE, &INTERFACES).map_err(failed)?,
            tables: open(NETLINK_NETFILTER, &TABLES).map_err(failed)?,
            receive: Vec::with_capacity(RECEIVE),
        })
    }

    /// Waits for news, a signal, or so long; whether there is news. What is made and changed under
    /// names that are `ours` is none, but for a table that goes.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn wait(
        &mut self,
        limit: Option<Duration>,
        ours: &dyn Fn(&str) -> bool,
    ) -> Result<bool, NetlinkError> {
        let failed = |e: io::Error| NetlinkError::new("watch", "the host's network", e.into());
        let sockets = [&self.interfaces, &self.tables];
        let mut fds = sockets.map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN));
        match interrupt::wait(&mut fds, limit) {
            Ok(()) => {}
            Err(Errno::EINTR) => return Ok(false),
            Err(errno) => return Err(failed(errno.into())),
        }
        let mut news = false;
        for socket in sockets {
            news |= drain(socket, &mut self.receive, ours).map_err(failed)?;
        }
        Ok(news)
    }
}

/// Reads all that there is.
fn drain(socket: &Socket, receive: &mut Vec<u8>, ours: &dyn Fn(&str) -> bool) -> io::Result<bool> {
    let mut news = false;
    loop {
        receive.clear();
        match socket.recv(receive, 0) {
            Ok(_) => news |= messages(receive).any(|(kind, body)| is_news(kind, body, ours)),
            Err(error) => match error.raw_os_error() {
                // EWOULDBLOCK is the same number.
                Some(libc::EAGAIN) => return Ok(news),
                Some(libc::EINTR) => {}
                // There was more than fits: who knows what.
                Some(libc::ENOBUFS) => news = true,
                _ => return Err(error),
            },
        }
    }
}

/// Types and bodies of the messages in what was read.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
        let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
        let body = bytes.get(HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    })
}

/// Whether an interface that was there has been set up or down (ifi_change of rtnetlink(7), all bits of
/// which are set of a new one).
fn toggled(body: &[u8]) -> bool {
    let change = body.get(12..16).and_then(|change| change.try_into().ok());
    let change = change.map_or(0, u32::from_ne_bytes);
    change != u32::MAX && change & libc::IFF_UP.cast_unsigned() != 0
}

fn is_news(kind: u16, body: &[u8], ours: &dyn Fn(&str) -> bool) -> bool {
    let name = |skip, attribute| attribute_of(body.get(skip..).unwrap_or_default(), attribute);
    let is_ours = |name: Option<&str>| name.is_some_and(ours);
    if LINK.contains(&kind) {
        // One of ours that is set down takes routes with it, of which the kernel says nothing.
        return toggled(body) || !is_ours(name(OF_INTERFACE, INTERFACE_NAME));
    }
    if kind & 0xff00 != NFTABLES {
        return true;
    }
    TABLE_KINDS.contains(&(kind & 0xff))
        && (kind == DELETE_TABLE || !is_ours(name(OF_TABLE, TABLE_NAME)))
}

/// An attribute that is text.
fn attribute_of(mut bytes: &[u8], wanted: u16) -> Option<&str> {
    loop {
        let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?);
        let value = bytes.get(4..length)?;
        if kind == wanted {
            return std::str::from_utf8(value)
                .ok()
                .map(|text| text.trim_end_matches('\0'));
        }
        bytes = bytes.get(length.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, skip: usize, attribute: u16, name: &str) -> Vec<u8> {
        let value = [name.as_bytes(), b"\0"].concat();
        let mut body = vec![0; skip];
        for (kind, value) in [(9, &b"else"[..]), (attribute, &value)] {
            body.extend(u16::try_from(4 + value.len()).unwrap().to_ne_bytes());
            body.extend(kind.to_ne_bytes());
            body.extend(value);
            body.resize(body.len().next_multiple_of(4), 0);
        }
        let mut all = Vec::new();
        all.extend(u32::try_from(HEADER + body.len()).unwrap().to_ne_bytes());
        all.extend(kind.to_ne_bytes());
        all.resize(HEADER, 0);
        all.extend(body);
        all
    }

    #[test]
    fn what_we_do_ourselves_is_no_news() {
        let ours = |name: &str| name.starts_with("bh");
        for (kind, skip, attribute, name, news) in [
            (16, OF_INTERFACE, INTERFACE_NAME, "bh0002", false),
            (17, OF_INTERFACE, INTERFACE_NAME, "bh0002", false),
            (16, OF_INTERFACE, INTERFACE_NAME, "eth0", true),
            // RTM_NEWROUTE.
            (24, 12, 7, "bh", true),
            (NFTABLES, OF_TABLE, TABLE_NAME, "bh", false),
            (DELETE_TABLE, OF_TABLE, TABLE_NAME, "bh", true),
            (NFTABLES | 3, OF_TABLE, TABLE_NAME, "filter", true),
            (NFTABLES | 6, OF_TABLE, TABLE_NAME, "bh", false),
            // NFT_MSG_NEWSETELEM, NFT_MSG_NEWGEN.
            (NFTABLES | 12, OF_TABLE, TABLE_NAME, "filter", false),
            (NFTABLES | 15, OF_TABLE, 9, "", false),
        ] {
            let bytes = message(kind, skip, attribute, name);
            let heard: Vec<bool> = messages(&[&bytes[..], &bytes].concat())
                .map(|(kind, body)| is_news(kind, body, &ours))
                .collect();
            assert_eq!(heard, [news, news], "{kind} {name}");
        }
    }

    #[test]
    fn what_is_cut_short_ends_it() {
        let whole = message(16, OF_INTERFACE, INTERFACE_NAME, "eth0");
        for end in 0..whole.len() {
            assert_eq!(messages(&whole[..end]).count(), 0, "{end}");
            assert_eq!(attribute_of(&whole[..end], 77), None, "{end}");
        }
    }
}
