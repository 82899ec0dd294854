//! IPv6 of a network: the addresses of guests, which follow from their IPv4 ones where none is chosen
//! (`lease6.rs`), and the host's side.
//! A host that forwards IPv6 believes no router advertisement any more unless told to, so interfaces
//! that did go on with it (`accept_ra` 2); what was before is kept on the bridge (`bridge.rs`), as
//! IPv4's is. What guests may send is `guard6.rs`.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::files::{self, FileError};
use super::host::HostError;
use super::lease::{Held, Lease};
use super::subnet::Subnet;
use super::{Network, interface_of};
use crate::kernel::netlink::{Link, Netlink, NetlinkError};
use crate::kernel::netlink_ipv6::Route6;
use crate::kernel::netlink_routed::LINK_GATEWAY;
use crate::kernel::random;
use crate::model::{GuestName, NetOp, NetworkName, Prefix6};

const SETTINGS: &str = "/proc/sys/net/ipv6/conf";
/// In a bridge's alias, before what was.
const WAS: &str = " ipv6-was=";
/// What of that an alias has room for, bytes.
const ROOM: usize = 128;

/// What a guest has of IPv6; the same as long as it has its IPv4 address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease6 {
    /// Its address.
    pub address: Ipv6Addr,
    /// Length of the prefix that it reaches without a gateway.
    pub length: u8,
    /// Its default gateway; `None` for a guest without a way out.
    pub gateway: Option<Ipv6Addr>,
    /// Whether it was chosen, and does not follow from the IPv4 one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub chosen: bool,
}

/// Whether this network namespace has IPv6.
pub(super) fn is_on() -> bool {
    let off = files::read_sysctl(&setting("all", "disable_ipv6"));
    matches!(off, Ok(Some(off)) if off == "0")
}

fn setting(interface: &str, name: &str) -> PathBuf {
    Path::new(SETTINGS).join(interface).join(name)
}

impl Network {
    /// What follows from an address of the pool.
    pub(super) fn lease_of(&self, address: Ipv4Addr, subnet: Subnet) -> Option<Lease> {
        let gateway = self.gateway_in(subnet);
        let lease = Lease::of(address, subnet, &self.tag)?;
        let ipv6 = self.prefix6.zip(subnet.place(address));
        let ipv6 = ipv6.map(|(prefix, place)| Lease6 {
            address: prefix.at(place),
            length: if self.is_routed() {
                128
            } else {
                prefix.length()
            },
            gateway: match self.is_routed() {
                true => Some(LINK_GATEWAY),
                false if self.is_guest_of_lan() => self.addresses.gateway6,
                false => (!self.is_closed()).then(|| prefix.gateway()),
            },
            chosen: false,
        });
        Some(Lease {
            gateway,
            ipv6,
            ..lease
        })
    }

    /// Its IPv6 prefix, if this host has IPv6.
    #[must_use]
    pub fn prefix6(&self) -> Option<Prefix6> {
        self.prefix6
    }

    /// The prefix that it would have if this host had IPv6.
    #[must_use]
    pub fn missed_prefix6(&self) -> Option<Prefix6> {
        self.missed6
    }

    /// The prefix as it can be used here, and the one that cannot.
    pub(super) fn usable6(wanted: Option<Prefix6>) -> (Option<Prefix6>, Option<Prefix6>) {
        match wanted.is_none() || is_on() {
            true => (wanted, None),
            false => (None, wanted),
        }
    }

    /// The same as [`Network::hosts`] of IPv6; none without a prefix.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn hosts6(&self) -> Result<Vec<(Ipv6Addr, String)>, FileError> {
        let (Some(_), Some(subnet)) = (self.prefix6, self.known_subnet()?) else {
            return Ok(Vec::new());
        };
        let leases = self.leases()?;
        let line = |(guest, held): (&GuestName, &Held)| {
            let ipv6 = self.lease_held(held, subnet)?.ipv6?;
            Some((ipv6.address, guest.to_string()))
        };
        Ok(leases.by_guest.iter().filter_map(line).collect())
    }

    /// What the launch does inside for a guest that has IPv6.
    pub(super) fn ops6(&self, lease: &Lease) -> Vec<NetOp> {
        let Some(ipv6) = &lease.ipv6 else {
            return Vec::new();
        };
        let interface = || interface_of(lease).to_owned();
        let mut all = vec![NetOp::Address6 {
            interface: interface(),
            address: ipv6.address,
            prefix: ipv6.length,
        }];
        let route = self.own_route6(lease);
        all.extend(route.map(|(to, gateway)| NetOp::Route6 {
            interface: interface(),
            to,
            gateway,
        }));
        all.extend(ipv6.gateway.map(|gateway| NetOp::DefaultRoute6 {
            interface: interface(),
            gateway,
        }));
        all
    }

    /// How a further interface reaches its own network, where it has its address alone there and another
    /// interface may have the default route.
    #[must_use]
    pub fn own_route6(&self, lease: &Lease) -> Option<(Prefix6, Ipv6Addr)> {
        let further = self.is_routed() && lease.nic.is_some();
        let gateway = lease.ipv6.as_ref()?.gateway?;
        further.then_some((self.prefix6?, gateway))
    }

    /// Whether its guests have a way out by IPv6.
    #[must_use]
    pub fn has_way_out6(&self) -> bool {
        match self.is_guest_of_lan() {
            true => self.prefix6.is_some() && self.addresses.gateway6.is_some(),
            false => self.goes_out6(),
        }
    }

    /// Whether the host passes IPv6 on, as far as this network needs it.
    pub(super) fn forwards6(&self) -> Result<bool, FileError> {
        Ok(!self.goes_out6()
            || files::read_sysctl(&setting("all", "forwarding"))?.as_deref() == Some("1"))
    }

    fn goes_out6(&self) -> bool {
        self.prefix6.is_some() && !self.is_closed() && !self.is_guest_of_lan()
    }

    /// The host's own address on the bridge, or none: left open without one, the host would take a
    /// router advertisement from any guest for its own default route.
    pub(super) fn set_up_ipv6(&self, kernel: &mut Netlink) -> Result<(), HostError> {
        if self.prefix6.is_some() {
            // Until the rules that look into neighbour discovery stand, whoever comes begins anew.
            files::remove(&self.marker_file())?;
        }
        let address = self.prefix6.filter(|_| !self.is_closed());
        let off = if address.is_some() { "0" } else { "1" };
        // Nobody else can have an address of the bridge's, so it need not wait to find out.
        for (name, value) in [
            ("accept_ra", "0"),
            ("accept_dad", "0"),
            ("disable_ipv6", off),
        ] {
            let path = setting(&self.bridge, name);
            // A kernel without IPv6 has nothing to close.
            if files::read_sysctl(&path)?.is_some() {
                files::write_sysctl(&path, value)?;
            }
        }
        if let Some(prefix) = address {
            // Guests without a bridge between them have a route each.
            let length = if self.is_routed() {
                128
            } else {
                prefix.length()
            };
            kernel.add_address6(&self.bridge, prefix.gateway(), length)?;
        }
        Ok(())
    }

    /// Passes IPv6 on. The bridge, which says what was before, is there.
    pub(super) fn forward6(&self, kernel: &mut Netlink) -> Result<(), HostError> {
        if self.goes_out6() && !self.forwards6()? {
            for name in self.remembered(kernel)?.1 {
                files::write_sysctl(&setting(&name, "accept_ra"), "2")?;
            }
            files::write_sysctl(&setting("all", "forwarding"), "1")?;
        }
        Ok(())
    }

    fn remembered(&self, kernel: &mut Netlink) -> Result<(bool, Vec<String>), NetlinkError> {
        let link = kernel.link(&self.bridge)?;
        let memory = link.as_ref().and_then(memory);
        Ok(memory.map(read).unwrap_or_default())
    }

    /// What a bridge's alias says of IPv6 before this program: whether it was passed on, and which
    /// interfaces believe advertisements. What another bridge remembers holds for all.
    pub(super) fn was6(&self, kernel: &mut Netlink) -> Result<String, HostError> {
        if !self.goes_out6() {
            return Ok(String::new());
        }
        let links = kernel.links("")?;
        if let Some(known) = links.iter().find_map(memory) {
            return Ok(format!("{WAS}{known}"));
        }
        if files::read_sysctl(&setting("all", "forwarding"))?.as_deref() == Some("1") {
            return Ok(format!("{WAS}1"));
        }
        let mut text = format!("{WAS}0");
        for link in links.iter().filter(|link| link.master.is_none()) {
            let believes = files::read_sysctl(&setting(&link.name, "accept_ra"))?;
            let ours = link.name == self.bridge || link.name == "lo";
            if !ours && believes.as_deref() == Some("1") && text.len() < ROOM {
                text += &format!("/{}", link.name);
            }
        }
        Ok(text)
    }

    /// Makes what was before of it, when no bridge is left that needs it; `was` is what the one that
    /// has just gone said.
    pub(super) fn stop_forwarding6(kernel: &mut Netlink, was: &Link) -> Result<(), HostError> {
        let Some((false, believers)) = memory(was).map(read) else {
            return Ok(());
        };
        let needed = |kernel: &mut Netlink| -> Result<bool, NetlinkError> {
            Ok(kernel.links("")?.iter().any(|link| memory(link).is_some()))
        };
        if needed(kernel)? {
            return Ok(());
        }
        files::write_sysctl(&setting("all", "forwarding"), "0")?;
        // Another installation may have found it on a moment ago and left it alone.
        if needed(kernel)? {
            files::write_sysctl(&setting("all", "forwarding"), "1")?;
            return Ok(());
        }
        for name in believers {
            let path = setting(&name, "accept_ra");
            if files::read_sysctl(&path)?.as_deref() == Some("2") {
                files::write_sysctl(&path, "1")?;
            }
        }
        Ok(())
    }

    /// A route of the host's that leads into the prefix, elsewhere than to our guests.
    pub(super) fn overlap6(
        &self,
        prefix: Prefix6,
        kernel: &mut Netlink,
    ) -> Result<Option<Route6>, NetlinkError> {
        let own = self.prefix();
        let links = kernel.links("")?;
        let ours = links.iter().filter(|link| {
            link.name == self.bridge || (self.is_routed() && link.name.starts_with(&own))
        });
        let ours: Vec<u32> = ours.map(|link| link.index).collect();
        // Older kernels say of an address of the host's that it is on loopback. The first address of a
        // wire is any router's, so the host's; where the prefix is the first part, no guest has it either.
        let own = |route: &Route6| {
            ours.contains(&route.interface)
                || (route.length == 128 && route.destination == prefix.network())
                || (!ours.is_empty()
                    && route.length == 128
                    && route.destination == prefix.gateway())
        };
        let mut routes = kernel.routes6()?.into_iter();
        Ok(routes.find(|route| {
            route.length > 0
                && !own(route)
                && prefix.overlaps(route.destination, route.length)
                && !self.is_around(route, &links)
        }))
    }

    /// Refuses a prefix that the host routes elsewhere.
    pub(super) fn refuse_overlap6(&self, kernel: &mut Netlink) -> Result<(), HostError> {
        let elsewhere = self.is_closed() || self.is_guest_of_lan();
        let Some(prefix) = self.prefix6.filter(|_| !elsewhere) else {
            return Ok(());
        };
        match self.overlap6(prefix, kernel)? {
            None => Ok(()),
            Some(Route6 {
                destination,
                length,
                ..
            }) => Err(HostError::Overlap6 {
                prefix,
                destination,
                length,
            }),
        }
    }

    /// A private prefix that nothing here has: forty digits by chance (RFC 4193), so that no other
    /// host has it either. Seen from the network that is always there.
    ///
    /// # Errors
    /// When a file cannot be read, or the kernel refuses.
    pub fn choose_prefix6(&self) -> Result<Prefix6, HostError> {
        let mut kernel = Netlink::open()?;
        loop {
            let mut bytes = [0; 5];
            random::fill(&mut bytes)?;
            let [a, b, c, d, e] = bytes;
            let text = format!("fd{a:02x}:{b:02x}{c:02x}:{d:02x}{e:02x}::/64");
            let Ok(prefix) = text.parse::<Prefix6>() else {
                continue;
            };
            let networks = self.others()?;
            let mut taken = networks.iter().chain([self]).filter_map(|one| one.prefix6);
            if !taken.any(|other| prefix.overlaps(other.network(), other.length()))
                && self.overlap6(prefix, &mut kernel)?.is_none()
            {
                return Ok(prefix);
            }
        }
    }

    /// Why a network cannot have this prefix, seen from the one that is always there; `whose` may have
    /// one that it meets.
    pub(super) fn refused6(
        &self,
        prefix: Prefix6,
        whose: &NetworkName,
    ) -> Result<Option<String>, FileError> {
        if !is_on() {
            let why = format!(
                "{prefix} cannot be used: this host has no IPv6 (net.ipv6.conf.all.disable_ipv6 is 1, or the kernel was started without it); leave --prefix6 out"
            );
            return Ok(Some(why));
        }
        let networks = self.others()?;
        let others = networks.iter().chain([self]);
        let other = others
            .filter(|other| other.name.as_ref() != Some(whose))
            .filter_map(|other| Some((other, other.prefix6?)))
            .find(|(_, theirs)| prefix.overlaps(theirs.network(), theirs.length()));
        Ok(other.map(|(other, theirs)| {
            let word = other.word();
            format!("the prefix {prefix} meets {theirs} of the network {word}: choose another")
        }))
    }
}

/// What a bridge of ours remembers.
fn memory(link: &Link) -> Option<&str> {
    let alias = link
        .alias
        .as_deref()
        .filter(|a| a.starts_with("bulkhead"))?;
    Some(alias.split_once(WAS)?.1)
}

/// Whether IPv6 was passed on, and interfaces that believed advertisements.
fn read(memory: &str) -> (bool, Vec<String>) {
    let mut words = memory.split('/');
    let on = words.next() == Some("1");
    // A name of two dots would be another folder.
    let names = words.filter(|name| !name.is_empty() && !name.starts_with('.'));
    (on, names.map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bridge_remembers_who_believed_advertisements() {
        let names = ["eth0".to_owned(), "wlan0".to_owned()];
        assert_eq!(read("0/eth0/wlan0"), (false, names.to_vec()));
        assert_eq!(read("0"), (false, Vec::new()));
        assert_eq!(read("1"), (true, Vec::new()));
        assert_eq!(read("0/../eth0").1, ["eth0"]);
    }
}
