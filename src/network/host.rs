//! The host's side of the network: the bridge with the gateway's address, packet forwarding, the
//! firewall tables; set up once and found again cheaply by every start, taken down without a trace.
//!
//! What must be known to take it down is kept on the bridge itself (`bridge.rs`). The file
//! `run/bulkhead/network/host.json` only saves work: it says what has been set up since boot.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::bridge::{Mark, forwarded_before, marks};
use super::external::ExternalError;
use super::files::{self, FileError, Locked};
use super::firewall::{self, FirewallError};
use super::lease::mac_of;
use super::served::Served;
use super::server::ServerError;
use super::subnet::Subnet;
use super::{Lease, Network, announce};
use crate::kernel::KernelError;
use crate::kernel::netlink::{Link, Netlink, NetlinkError, Route};
use crate::kernel::netlink_nft::{Family, table_exists};
use crate::model::{AddressBlock, Prefix6};

pub(super) const IP_FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";
pub(super) const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// Largest packet of guests where the way out does not ask for less, bytes.
pub(super) const ETHERNET_MTU: u32 = 1500;
/// How long the interface of a guest that has just ended is waited for.
const GOING: Duration = Duration::from_secs(1);

/// The host's side could not be set up or taken down.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The host's firewall is shut in spite of the rules that open it.
    #[error(
        "the host's own firewall drops what guests of network {network} send though its chains have rules that let it pass: `nft list table {family} filter` shows them; `bulkhead network trace` says what drops a packet"
    )]
    StaysShut {
        /// Whose guests.
        network: String,
        /// Of which packets.
        family: &'static str,
    },
    /// Somebody else's interface.
    #[error(
        "cannot use {bridge} as the guests' bridge: an interface of that name exists and is not Bulkhead's; set another bridge name, or put guests on that bridge as it is by a network of the kind external"
    )]
    Foreign {
        /// Its name.
        bridge: String,
    },
    /// Somebody else's network.
    #[error(
        "cannot use {subnet} for guests: the host routes {destination}/{prefix} elsewhere; set another subnet"
    )]
    Overlap {
        /// The pool.
        subnet: Subnet,
        /// Where the route leads.
        destination: Ipv4Addr,
        /// Its prefix length.
        prefix: u8,
    },
    /// The same of IPv6.
    #[error(
        "cannot use {prefix} for guests: the host routes {destination}/{length} elsewhere; set another prefix6"
    )]
    Overlap6 {
        /// The prefix.
        prefix: Prefix6,
        /// Where the route leads.
        destination: Ipv6Addr,
        /// Its prefix length.
        length: u8,
    },
    /// The host believes guests.
    #[error(
        "cannot route packets of guests: this host lets in what comes from anywhere (net.ipv4.conf.all.rp_filter is 2); set it to 0 or 1"
    )]
    Loose,
    /// Nothing free.
    #[error(
        "cannot choose a network for guests: the host routes all candidates elsewhere; set a subnet"
    )]
    NoSubnet,
    /// Guests run.
    #[error("cannot {verb} the bridge {bridge}: guests are on it ({ports}); stop them first")]
    InUse {
        /// What was tried.
        verb: &'static str,
        /// Its name.
        bridge: String,
        /// Host ends of guests' interfaces.
        ports: String,
    },
    /// A file failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The kernel refused.
    #[error(transparent)]
    Kernel(#[from] NetlinkError),
    /// It refused otherwise.
    #[error(transparent)]
    System(#[from] KernelError),
    /// Somebody else's bridge is none for guests.
    #[error(transparent)]
    External(#[from] ExternalError),
    /// The firewall refused.
    #[error(transparent)]
    Firewall(#[from] FirewallError),
    /// Nobody serves it.
    #[error(transparent)]
    Server(#[from] ServerError),
}

/// The host's side, as it is set up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostNetwork {
    /// The bridge's name.
    pub bridge: String,
    /// The bridge's number.
    pub bridge_index: u32,
    /// The pool.
    pub subnet: Subnet,
    /// Largest packet for guests: the way out's, at most 1500 bytes.
    pub mtu: u32,
}

/// What `host.json` says has been done.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Marker {
    pub(super) boot_id: String,
    pub(super) host: HostNetwork,
    pub(super) nat: bool,
    pub(super) connections: Option<u32>,
    #[serde(default)]
    pub(super) prefix6: Option<Prefix6>,
    #[serde(default)]
    pub(super) gateway: Option<Ipv4Addr>,
    #[serde(default)]
    pub(super) served: Served,
    #[serde(default)]
    pub(super) internal: Vec<AddressBlock>,
    /// [`firewall::REVISION`] of the program that wrote the rules.
    pub(super) rules: u32,
}

impl Network {
    /// Sets up the host's side where it is not: bridge, gateway address, forwarding, firewall tables.
    /// When all is there it costs a few questions to the kernel and four small files.
    ///
    /// # Errors
    /// When the name or the pool belongs to something else on this host, `nft` is missing,
    /// or the kernel refuses. What this call had set up is taken down again.
    pub fn ensure_host(&self) -> Result<HostNetwork, HostError> {
        let host = self.ensure_bridge()?;
        self.ensure_served()?;
        Ok(host)
    }

    fn ensure_bridge(&self) -> Result<HostNetwork, HostError> {
        let mut kernel = Netlink::open()?;
        if let Some(host) = self.found(&mut kernel)? {
            return Ok(host);
        }
        let _lock = files::lock(&self.run_folder())?;
        // Another start may have set it up while this one waited.
        match self.found(&mut kernel)? {
            Some(host) => Ok(host),
            None => self.set_up(&mut kernel),
        }
    }

    /// Whether the bridge is there, and ours.
    ///
    /// # Errors
    /// When it is somebody else's, or the kernel refuses.
    pub fn is_set_up(&self) -> Result<bool, HostError> {
        let mut kernel = Netlink::open()?;
        match self.is_guest_of_lan() {
            true => self.is_joined(&mut kernel),
            false => Ok(self.own_bridge(&mut kernel)?.is_some()),
        }
    }

    /// The host's side, if it is all there as it was set up.
    pub(super) fn found(&self, kernel: &mut Netlink) -> Result<Option<HostNetwork>, HostError> {
        // A damaged marker saves no work, that is all.
        let Ok(Some(marker)) = files::read::<Marker>(&self.marker_file()) else {
            return Ok(None);
        };
        let Some(subnet) = self.known_subnet()? else {
            return Ok(None);
        };
        if marker.host.subnet != subnet
            || (marker.nat, marker.connections, marker.prefix6)
                != (self.nat, self.connections, self.prefix6)
            || marker.served != self.served
            || marker.internal != self.internal
            || marker.gateway != self.addresses.gateway
            || marker.rules != firewall::REVISION
            || Some(&marker.boot_id) != files::read_sysctl(Path::new(BOOT_ID))?.as_ref()
            || !self.forwards()?
            || !self.tables_stand()?
        {
            return Ok(None);
        }
        if !self.stands_on_host(kernel)? {
            return Ok(None);
        }
        let bridge = kernel.link(&self.bridge)?;
        let same = bridge.is_some_and(|b| b.up && b.index == marker.host.bridge_index);
        Ok(same.then_some(marker.host))
    }

    /// Whether the host passes packets on, as far as this network needs it.
    fn forwards(&self) -> Result<bool, FileError> {
        let passes = || files::read_sysctl(Path::new(IP_FORWARD));
        let needless = self.is_closed() || self.is_guest_of_lan();
        Ok(needless || passes()?.as_deref() == Some("1") && self.forwards6()?)
    }

    pub(super) fn tables_stand(&self) -> Result<bool, NetlinkError> {
        let (family, guard) = &self.guard;
        Ok(!self.holds_back()
            || table_exists(*family, guard)?
                && (!self.has_inside() || table_exists(Family::Inet, &self.table)?))
    }

    pub(super) fn set_up(&self, kernel: &mut Netlink) -> Result<HostNetwork, HostError> {
        firewall::program()?;
        self.refuse_loose()?;
        self.name_again_in(kernel)?;
        let existing = self.own_bridge(kernel)?;
        let subnet = self.free_subnet(kernel)?;
        if self.is_guest_of_lan() {
            return self.join(kernel, subnet);
        }
        self.refuse_overlap6(kernel)?;
        let existing = match existing {
            Some((link, mark)) if mark.is_some_and(|m| m.subnet != subnet) => {
                self.refuse_ports(kernel, &link, "change the subnet of")?;
                kernel.delete_link(&self.bridge)?;
                None
            }
            other => other,
        };
        let fresh = existing.is_none();
        let mark = existing.and_then(|(_, mark)| mark);
        let done = self.build(kernel, subnet, mark);
        if done.is_err() && fresh {
            // The first error is the one to tell; what this leaves, `leftovers` finds.
            let _second_failure = self.take_down(kernel);
        }
        done
    }

    fn build(
        &self,
        kernel: &mut Netlink,
        subnet: Subnet,
        mark: Option<Mark>,
    ) -> Result<HostNetwork, HostError> {
        let mark = match mark {
            Some(mark) => mark,
            None => Mark {
                subnet,
                forwarded: match self.is_closed() {
                    true => None,
                    false => Some(forwarded_before(kernel)?),
                },
            },
        };
        let pause = || files::pause(Path::new(&self.bridge));
        let gateway = self.gateway_in(subnet);
        kernel.create_bridge(&self.bridge, mac_of(gateway))?;
        pause()?;
        let (alias, was6) = (self.alias(mark), self.was6(kernel)?);
        let root = self.root_note(alias.len() + was6.len());
        let alias = alias + &root + &self.kept_note(kernel)? + &was6;
        kernel.set_alias(&self.bridge, &alias)?;
        pause()?;
        self.set_up_ipv6(kernel)?;
        self.address_bridge(kernel, subnet)?;
        pause()?;
        kernel.set_up(&self.bridge)?;
        pause()?;
        self.stretch(kernel)?;
        // After the bridge is there: whoever takes the last bridge down looks again after writing.
        pause()?;
        if !self.is_closed() {
            files::write_sysctl(Path::new(IP_FORWARD), "1")?;
            self.forward6(kernel)?;
            self.announce(kernel)?;
        }
        self.fence(kernel, subnet)
    }

    /// The pool, when the host routes it nowhere else. One that was only chosen, and that no guest
    /// has an address of, is chosen again.
    fn free_subnet(&self, kernel: &mut Netlink) -> Result<Subnet, HostError> {
        let lock = self.lock_book()?;
        let subnet = self.subnet(&lock)?;
        // Nothing of the host's is ever reached from there, and nothing there from the host; or it is
        // the host's own LAN.
        if !self.has_host() || self.is_guest_of_lan() {
            return Ok(subnet);
        }
        let routes = self.foreign_routes(kernel)?;
        match overlap(subnet, &routes) {
            None => Ok(subnet),
            Some(_) if self.fixed.is_none() && self.leases()?.is_empty() => {
                self.choose_subnet(&lock)
            }
            Some(route) => Err(HostError::Overlap {
                subnet,
                destination: route.destination,
                prefix: route.prefix,
            }),
        }
    }

    /// Removes the host's side: firewall tables, bridge, and forwarding if no other installation's
    /// bridge needs it and it was off before. Leases and the chosen pool stay.
    ///
    /// # Errors
    /// When guests are on the bridge, or the kernel or `nft` refuses.
    pub fn remove_host(&self) -> Result<(), HostError> {
        let _lock: Locked = files::lock(&self.run_folder())?;
        self.take_down(&mut Netlink::open()?)
    }

    /// Removes the host's side unless guests are on the bridge; whether it is gone.
    ///
    /// # Errors
    /// When the kernel or `nft` refuses.
    pub fn remove_host_if_unused(&self) -> Result<bool, HostError> {
        match self.remove_host() {
            Ok(()) => Ok(true),
            Err(HostError::InUse { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Deletes the host's end of a guest's interface, and what held it back, if they are still there.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn teardown_guest(&self, lease: &Lease) -> Result<(), HostError> {
        Netlink::open()?.delete_link(&lease.host_interface)?;
        self.unshape(lease)
    }

    /// Refuses as long as guests are on it. The interface of one that has just ended goes when the kernel
    /// comes to it.
    fn await_ports(&self, kernel: &mut Netlink, link: &Link) -> Result<(), HostError> {
        let until = Instant::now() + GOING;
        loop {
            match self.refuse_ports(kernel, link, "remove") {
                Err(HostError::InUse { .. }) if Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                done => return done,
            }
        }
    }

    pub(super) fn take_down(&self, kernel: &mut Netlink) -> Result<(), HostError> {
        self.name_again_in(kernel)?;
        // Of one that is somebody else's, only the rules; it may be gone, or be another by now.
        let bridge = match self.is_guest_of_lan() {
            true => kernel.link(&self.bridge)?.map(|link| (link, None)),
            false => self.own_bridge(kernel)?,
        };
        if let Some((link, _)) = &bridge {
            self.await_ports(kernel, link)?;
        }
        self.end_server()?;
        self.close_passage()?;
        let pause = || files::pause(Path::new(&self.bridge));
        let (family, guard) = &self.guard;
        for (family, table) in [(Family::Inet, &self.table), (*family, guard)] {
            if table_exists(family, table)? {
                firewall::delete(family, table)?;
            }
            pause()?;
        }
        self.unstretch(kernel)?;
        pause()?;
        self.withdraw(kernel)?;
        if let Some((link, mark)) = bridge.filter(|_| !self.is_guest_of_lan()) {
            kernel.delete_link(&self.bridge)?;
            pause()?;
            announce::put_back(kernel, &link)?;
            Self::stop_forwarding6(kernel, &link)?;
            if mark.is_some_and(|m| m.forwarded == Some(false)) {
                stop_forwarding(kernel)?;
            }
        }
        Ok(files::remove(&self.marker_file())?)
    }

    pub(super) fn run_folder(&self) -> PathBuf {
        match &self.name {
            None => self.layout.run().join("network"),
            Some(name) => self.layout.run().join("networks").join(name.as_str()),
        }
    }
}

/// Turns forwarding off, unless another installation's bridge needs it.
pub(super) fn stop_forwarding(kernel: &mut Netlink) -> Result<(), HostError> {
    if marks(kernel)?.is_empty() {
        files::write_sysctl(Path::new(IP_FORWARD), "0")?;
        // Another installation may have found it on a moment ago and left it alone.
        if !marks(kernel)?.is_empty() {
            files::write_sysctl(Path::new(IP_FORWARD), "1")?;
        }
    }
    Ok(())
}

/// A route that leads into the pool.
pub(super) fn overlap(subnet: Subnet, routes: &[Route]) -> Option<Route> {
    let mut routes = routes.iter().copied();
    routes.find(|r| subnet.overlaps(r.destination, r.prefix))
}

/// Largest packet of the interface the default route leads over, at most that of Ethernet.
pub(super) fn way_out_mtu(kernel: &mut Netlink) -> Result<u32, NetlinkError> {
    let routes = kernel.routes()?;
    let way_out = routes
        .iter()
        .find(|r| r.prefix == 0)
        .and_then(|r| r.interface);
    let links = kernel.links("")?;
    let mtu = links
        .iter()
        .find(|l| Some(l.index) == way_out)
        .map(|l| l.mtu);
    Ok(mtu.map_or(ETHERNET_MTU, |mtu| mtu.min(ETHERNET_MTU)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_into_the_pool_are_found() {
        let subnet: Subnet = "10.9.0.0/24".parse().unwrap();
        let route = |destination: [u8; 4], prefix| Route {
            destination: destination.into(),
            prefix,
            interface: Some(2),
        };
        assert_eq!(overlap(subnet, &[route([192, 0, 2, 0], 24)]), None);
        let hit = route([10, 9, 0, 128], 25);
        assert_eq!(
            overlap(subnet, &[route([192, 0, 2, 0], 24), hit]),
            Some(hit)
        );
    }
}
