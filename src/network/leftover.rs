//! Interfaces of this installation that belong to no running guest: a launch was killed, or the
//! kernel has not finished taking a namespace down. `doctor` shows and removes them.

use std::fmt;
use std::time::Duration;

use super::host::HostError;
use super::{Network, forward};
use crate::kernel::netlink::{Link, Netlink};
use crate::kernel::netlink_nft::{self, Element};
use crate::model::GuestName;

/// How often, and how far apart, is looked whether an interface of a guest that has just ended is gone.
const GOING_LOOKS: u32 = 6;
const BETWEEN_LOOKS: Duration = Duration::from_millis(25);

/// One such interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftover {
    /// Name of the host's end.
    pub interface: String,
    /// The guest it belonged to, if that still has its address.
    pub guest: Option<GuestName>,
}

/// What is in the firewall and belongs to no guest, or is not what the guest's definition says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StaleEntry {
    /// An element of its sets and maps.
    Element(Element),
    /// The chains that hold what goes through an interface.
    Rules(String),
}

impl fmt::Display for StaleEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let element = match self {
            Self::Element(element) => element,
            Self::Rules(interface) => return write!(f, "rules of {interface}"),
        };
        if let Some(port) = forward::shown(element) {
            return f.write_str(&port);
        }
        let name = element.key().split(|byte| *byte == 0).next();
        let name = String::from_utf8_lossy(name.unwrap_or_default());
        write!(f, "{name} in {}", element.set())
    }
}

impl Network {
    /// Interfaces with this installation's names that belong to no guest in `live`. Hold the locks of
    /// the guests that are being started, or name them as live.
    ///
    /// # Errors
    /// When the kernel refuses or the leases cannot be read.
    pub fn leftovers(&self, live: &[GuestName]) -> Result<Vec<Leftover>, HostError> {
        let mut kernel = Netlink::open()?;
        let bridge = kernel.link(&self.bridge)?.map(|l| l.index);
        let prefix = self.prefix();
        // Before the leases are read: whoever makes an interface has a lease by then.
        let links = kernel.links(&prefix)?;
        let subnet = self.known_subnet()?;
        let leases = self.leases()?;
        let owner = |interface: &str| {
            leases.iter().find_map(|(guest, address)| {
                let lease = self.lease_of(address, subnet?)?;
                (lease.host_interface == interface).then(|| guest.clone())
            })
        };
        Ok(links
            .into_iter()
            .filter(|link| is_guest_interface(link, &prefix, bridge))
            .map(|link| Leftover {
                guest: port_of(&link.name, link.kind.as_deref()).and_then(owner),
                interface: link.name,
            })
            .filter(|left| left.guest.as_ref().is_none_or(|g| !live.contains(g)))
            .collect())
    }

    /// Addresses that the firewall lets send, ports that it leads somewhere and rules that it keeps,
    /// though no guest has them: a command died after it gave one up.
    ///
    /// # Errors
    /// When the kernel refuses or the leases cannot be read.
    pub fn stale_entries(&self) -> Result<Vec<StaleEntry>, HostError> {
        let Some(subnet) = self.known_subnet()? else {
            return Ok(Vec::new());
        };
        let mut all = self.strangers(subnet)?;
        all.extend(self.astray()?);
        let misled = self.misled()?.into_iter().map(StaleEntry::Rules);
        let ceilings = self.ceilings_astray()?.into_iter();
        let ceilings = ceilings.chain(self.urgency_astray()?);
        let misled = misled.chain(ceilings.map(|at| StaleEntry::Rules(at.to_string())));
        Ok(all
            .into_iter()
            .map(StaleEntry::Element)
            .chain(misled)
            .collect())
    }

    /// Whether guests are on the bridge and its firewall is gone: whoever reloaded the host's own
    /// took ours along. [`Network::ensure_host`] puts it back.
    ///
    /// # Errors
    /// When the kernel refuses, or the bridge is somebody else's.
    pub fn is_open(&self) -> Result<bool, HostError> {
        let mut kernel = Netlink::open()?;
        let Some((bridge, _)) = self.own_bridge(&mut kernel)? else {
            return Ok(false);
        };
        Ok(!self.tables_stand()? && !self.ends(&mut kernel, &bridge)?.is_empty())
    }

    /// Whether one goes within an eighth of a second without anybody's help.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn goes_by_itself(&self, leftover: &Leftover) -> Result<bool, HostError> {
        let mut kernel = Netlink::open()?;
        for look in 0..GOING_LOOKS {
            if look > 0 {
                std::thread::sleep(BETWEEN_LOOKS);
            }
            if kernel.link(&leftover.interface)?.is_none() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Removes one; it may be gone already.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn remove_entry(&self, entry: &StaleEntry) -> Result<(), HostError> {
        let (family, table) = &self.guard;
        match entry {
            StaleEntry::Element(element) if forward::shown(element).is_none() => {
                netlink_nft::delete_element(*family, table, element)?;
                Ok(())
            }
            // Another guest may have got it meanwhile, so all is made what the book says.
            StaleEntry::Element(_) | StaleEntry::Rules(_) => {
                let _lock = self.lock_book()?;
                self.wall_as_written(true)?;
                self.as_written()
            }
        }
    }

    /// Removes one; it may be gone already.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn remove_leftover(&self, leftover: &Leftover) -> Result<(), HostError> {
        Netlink::open()?.delete_link(&leftover.interface)?;
        Ok(())
    }
}

/// The host's end that an interface is, or holds back.
fn port_of<'a>(name: &'a str, kind: Option<&str>) -> Option<&'a str> {
    match kind {
        Some("veth") => Some(name),
        Some("ifb") => name.strip_suffix('i'),
        _ => None,
    }
}

/// Whether only this program can have made it: our form of name, and a veth or what holds one back,
/// on our bridge or on none.
pub(super) fn is_guest_interface(link: &Link, prefix: &str, bridge: Option<u32>) -> bool {
    let port = port_of(&link.name, link.kind.as_deref());
    let place = port.and_then(|port| port.strip_prefix(prefix));
    let place = place.unwrap_or_default();
    place.len() == 4
        && place
            .bytes()
            .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        && (link.master.is_none() || link.master == bridge)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_interfaces_are_leftovers() {
        let link = |name: &str, kind: &str, master| Link {
            index: 7,
            name: name.to_owned(),
            alias: None,
            kind: Some(kind.to_owned()),
            master,
            mac: None,
            mtu: 1500,
            up: true,
        };
        for (name, kind, master, ours) in [
            ("bh0002", "veth", Some(3), true),
            ("bh0002", "veth", None, true),
            ("bh0002", "veth", Some(4), false),
            ("bh0002", "bridge", None, false),
            ("bh0002i", "ifb", None, true),
            ("bh0002", "ifb", None, false),
            ("bh0002i", "veth", None, false),
            ("bh811c9dc50002", "veth", Some(3), false),
            ("bh-one", "veth", Some(3), false),
            ("bhxyzw", "veth", Some(3), false),
        ] {
            let found = is_guest_interface(&link(name, kind, master), "bh", Some(3));
            assert_eq!(found, ours, "{name} {kind} {master:?}");
        }
    }
}
