//! Network interfaces of the host that a container is given: moved into its namespace with their
//! addresses, up, and back again if the launch fails.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::super::host::{Cause, Host};
use crate::kernel::namespace::{self, kind};
use crate::kernel::netlink::{Address, Netlink, NetlinkError};
use crate::kernel::{Errno, KernelError};

/// Moves each: its name on the host, its name inside.
pub(super) fn take_along(host: &mut Host, devices: &[(String, String)]) -> Result<(), Cause> {
    // A namespace that is joined the first process may not have entered yet.
    let inside = match host.container.joined.get(&kind::NET) {
        Some(joined) => joined
            .try_clone()
            .map_err(KernelError::io("keep open", "the network namespace"))?,
        None => namespace::open(host.pid()?, "net")?,
    };
    let home = namespace::open_own("net")?;
    let mut here = Netlink::open()?;
    let mut there = Netlink::open_in(inside.as_fd())?;
    for (name, new_name) in devices {
        let addresses = match here.link(name)? {
            Some(link) => here.lasting_addresses(link.index)?,
            None => Vec::new(),
        };
        // Half way it may have either name; one that is there already is somebody else's.
        let mut found = Vec::new();
        for one in [new_name, name] {
            if there.link(one)?.is_none() {
                found.push(one.clone());
            }
        }
        let back = Way {
            inside: inside.try_clone()?,
            home: home.try_clone()?,
            found,
            name: name.clone(),
            addresses: addresses.clone(),
        };
        // One that its namespace has taken along into its end is gone.
        host.undo.push(move || drop(back.go()));
        let names = (name.as_str(), new_name.as_str());
        carry(&mut here, &mut there, inside.as_fd(), names, &addresses)?;
    }
    Ok(())
}

/// The way back.
struct Way {
    inside: OwnedFd,
    home: OwnedFd,
    /// What it may be called inside.
    found: Vec<String>,
    name: String,
    addresses: Vec<Address>,
}

impl Way {
    fn go(&self) -> Result<(), NetlinkError> {
        let mut from = Netlink::open_in(self.inside.as_fd())?;
        let mut to = Netlink::open()?;
        for old in &self.found {
            if from.link(old)?.is_some() {
                let (target, names) = (self.home.as_fd(), (old.as_str(), self.name.as_str()));
                return carry(&mut from, &mut to, target, names, &self.addresses);
            }
        }
        Ok(())
    }
}

fn carry(
    from: &mut Netlink,
    to: &mut Netlink,
    target: BorrowedFd<'_>,
    (old, new): (&str, &str),
    addresses: &[Address],
) -> Result<(), NetlinkError> {
    let refused = |errno: Errno, verb| NetlinkError {
        verb,
        object: format!("{old} as {new}"),
        detail: None,
        source: std::io::Error::from_raw_os_error(errno.raw_os_error()),
    };
    // The kernel would move it first and then find that the name is taken.
    if to.link(new)?.is_some() {
        return Err(refused(Errno::EXIST, "move the interface"));
    }
    from.move_link(old, new, target)?;
    let missing = || refused(Errno::NODEV, "find the interface");
    let link = to.link(new)?.ok_or_else(missing)?;
    for address in addresses {
        to.give_address(new, link.index, address)?;
    }
    to.set_up(new)
}
