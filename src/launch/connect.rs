//! Connects a guest's interfaces: what of them is done on the host, and what inside. A launch does the
//! first from the host and the second in the guest's first process; for a guest that runs, both are
//! done from here ([`plug`]): its namespace is entered for settings and a socket, and nothing of the
//! guest's is run.

use std::net::Ipv6Addr;
use std::os::fd::{AsFd, BorrowedFd};

use super::host::Cause;
use super::undo::Undo;
use crate::kernel::fault;
use crate::kernel::netlink::{Netlink, NetlinkError, Veth, shaper_name};
use crate::kernel::netlink_macvlan::Macvlan;
use crate::kernel::netlink_passthrough::{Lent, number_away, spare_name};
use crate::kernel::netlink_routed::{LINK_GATEWAY, answer_for_others, open_ipv6};
use crate::kernel::{Errno, KernelError};
use crate::model::{NetOp, Shape};

/// Gives a running guest another interface, all of it or nothing; `inside` is its network namespace.
/// The calling process must have one thread.
///
/// # Errors
/// The kernel refuses, or the guest has an interface of that name.
pub fn plug(inside: BorrowedFd<'_>, ops: &[NetOp]) -> Result<(), Cause> {
    let mut undo = Undo::default();
    outside(&mut undo, inside, ops)?;
    fault::point()?;
    let quiet: Vec<&str> = ops.iter().filter_map(quiet).collect();
    let mut netlink = Netlink::open_settled(inside, &quiet)?;
    within(&mut netlink, ops)?;
    fault::point()?;
    undo.keep();
    Ok(())
}

/// Interfaces that must believe no advertisement, and whose addresses nobody else can have.
fn quiet(op: &NetOp) -> Option<&str> {
    match op {
        NetOp::Address6 { interface, .. } => Some(interface),
        _ => None,
    }
}

/// What is done in the guest's namespace, over a socket of it.
pub(super) fn within(netlink: &mut Netlink, ops: &[NetOp]) -> Result<(), NetlinkError> {
    for op in ops {
        match op {
            NetOp::Loopback => netlink.loopback_up()?,
            NetOp::Address {
                interface,
                address,
                prefix,
            } => {
                netlink.add_address(interface, *address, *prefix)?;
                netlink.set_up(interface)?;
            }
            NetOp::DefaultRoute { gateway } => netlink.set_default_route(*gateway)?,
            NetOp::Address6 {
                interface,
                address,
                prefix,
            } => netlink.add_address6(interface, *address, *prefix)?,
            NetOp::Route6 {
                interface,
                to,
                gateway,
            } => {
                let to = (to.network(), to.length());
                netlink.lead_to6(to, interface, Some(*gateway))?;
            }
            NetOp::DefaultRoute6 { interface, gateway } => {
                let all = (Ipv6Addr::UNSPECIFIED, 0);
                netlink.lead_to6(all, interface, Some(*gateway))?;
            }
            NetOp::Veth { .. }
            | NetOp::Routed { .. }
            | NetOp::Macvlan { .. }
            | NetOp::Passthrough { .. } => {}
        }
    }
    Ok(())
}

/// What is done on the host, with its undo.
pub(super) fn outside(undo: &mut Undo, inside: BorrowedFd<'_>, ops: &[NetOp]) -> Result<(), Cause> {
    let mut netlink = Netlink::open()?;
    for op in ops {
        match op {
            NetOp::Veth {
                host_name,
                guest_name,
                bridge,
                mac,
                mtu,
                isolated,
                shape: to,
                alias,
            } => {
                let bridge = netlink
                    .link(bridge)?
                    .ok_or_else(|| KernelError::new("find the bridge", bridge, Errno::NODEV))?;
                let veth = Veth {
                    host_name,
                    bridge: Some(bridge.index),
                    guest_netns: inside,
                    guest_name,
                    mac: *mac,
                    mtu: *mtu,
                };
                pair(undo, &mut netlink, &veth)?;
                // Nothing passes before it is held back; and one that is up is whole.
                netlink.bind_port(host_name, *mac, *isolated)?;
                shape(undo, &mut netlink, host_name, to)?;
                netlink.set_up_as(host_name, alias)?;
            }
            NetOp::Routed { .. } => routed(undo, &mut netlink, inside, op)?,
            NetOp::Macvlan {
                parent,
                guest_name,
                mac,
                mtu,
                isolated,
            } => {
                let link = netlink
                    .link(parent)?
                    .ok_or_else(|| KernelError::new("find the interface", parent, Errno::NODEV))?;
                // It goes with the namespace, which goes with the guest's first process.
                netlink.create_macvlan(&Macvlan {
                    parent: link.index,
                    guest_netns: inside,
                    guest_name,
                    mac: *mac,
                    mtu: *mtu,
                    apart: *isolated,
                })?;
            }
            NetOp::Passthrough { parent, guest_name } => {
                lend(undo, &mut netlink, inside, (parent, guest_name))?;
            }
            NetOp::Loopback
            | NetOp::Address { .. }
            | NetOp::DefaultRoute { .. }
            | NetOp::Address6 { .. }
            | NetOp::Route6 { .. }
            | NetOp::DefaultRoute6 { .. } => {}
        }
    }
    Ok(())
}

fn routed(
    undo: &mut Undo,
    netlink: &mut Netlink,
    inside: BorrowedFd<'_>,
    op: &NetOp,
) -> Result<(), Cause> {
    let NetOp::Routed {
        host_name,
        guest_name,
        address,
        gateway,
        address6,
        mac,
        mtu,
        group,
        shape: to,
        alias,
    } = op
    else {
        return Ok(());
    };
    let veth = Veth {
        host_name,
        bridge: None,
        guest_netns: inside,
        guest_name,
        mac: *mac,
        mtu: *mtu,
    };
    pair(undo, netlink, &veth)?;
    netlink.set_group_as(host_name, *group, alias)?;
    answer_for_others(host_name)?;
    netlink.lead_to(*address, host_name, *gateway)?;
    if let Some(address) = address6 {
        open_ipv6(host_name)?;
        netlink.add_address6(host_name, LINK_GATEWAY, 64)?;
        netlink.lead_to6((*address, 128), host_name, None)?;
    }
    shape(undo, netlink, host_name, to)
}

/// Makes a guest's interface; what leads to it goes with it.
fn pair(undo: &mut Undo, netlink: &mut Netlink, veth: &Veth<'_>) -> Result<(), Cause> {
    netlink.create_veth(veth)?;
    let name = veth.host_name.to_owned();
    undo.push(move || {
        if let Ok(mut netlink) = Netlink::open() {
            // An interface that is gone with its namespace is what we want.
            let _gone = netlink.delete_link(&name);
        }
    });
    Ok(())
}

/// Moves an interface of the host's into the guest's namespace.
fn lend(
    undo: &mut Undo,
    netlink: &mut Netlink,
    inside: BorrowedFd<'_>,
    (parent, guest_name): (&str, &str),
) -> Result<(), Cause> {
    let missing = || KernelError::new("find the interface", parent, Errno::NODEV);
    let index = netlink.link(parent)?.ok_or_else(missing)?.index;
    let card = netlink.card(index)?.ok_or_else(missing)?;
    let there = inside.try_clone_to_owned()?;
    let number = Some(number_away(index));
    netlink.hand_over((index, inside, guest_name, number))?;
    let parent = parent.to_owned();
    undo.push(move || {
        let lent = Lent {
            index,
            identity: &card.identity,
            names: card.settings.names(),
        };
        // What is left, whoever puts the guest away brings back.
        if lent.take_home(there.as_fd()).is_ok_and(|home| home)
            && let Ok(mut here) = Netlink::open()
            && let Ok(Some(now)) = here.link(&spare_name(index))
            && let Ok(Some(now)) = here.card(now.index)
        {
            let _later = here.restore(&now, &parent, &card.settings);
        }
    });
    Ok(())
}

fn shape(undo: &mut Undo, netlink: &mut Netlink, port: &str, shape: &Shape) -> Result<(), Cause> {
    if shape.is_none() {
        return Ok(());
    }
    // The rest goes with the port.
    let shaper = shaper_name(port);
    undo.push(move || {
        if let Ok(mut netlink) = Netlink::open() {
            let _gone = netlink.delete_link(&shaper);
        }
    });
    Ok(netlink.shape(port, shape)?)
}
