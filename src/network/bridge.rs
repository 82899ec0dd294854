//! The bridge's own memory: whose it is, its pool and what forwarding was before, kept in its alias,
//! which shares its life and cannot be out of date as a file could. Setting up and taking down is
//! `host.rs`.

use std::net::Ipv4Addr;
use std::path::Path;

use super::files;
use super::host::{HostError, IP_FORWARD};
use super::lease::mac_of;
use super::subnet::Subnet;
use super::{Kind, Network};
use crate::kernel::netlink::{Link, Netlink, NetlinkError};

/// What a bridge's alias says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) subnet: Subnet,
    /// Whether packet forwarding was on before the first bridge of any installation; `None` for one
    /// that needs none.
    pub(super) forwarded: Option<bool>,
}

impl Network {
    /// The bridge and its mark, if it exists. A bridge without an alias but with the hardware address
    /// only this program gives is one whose making was interrupted.
    pub(super) fn own_bridge(
        &self,
        kernel: &mut Netlink,
    ) -> Result<Option<(Link, Option<Mark>)>, HostError> {
        let Some(link) = kernel.link(&self.bridge)? else {
            return Ok(None);
        };
        if self.is_guest_of_lan() {
            return match self.their_bridge(kernel) {
                Ok(link) => Ok(Some((link, None))),
                // Nothing that guests can be on: a start says why.
                Err(HostError::External(_)) => Ok(None),
                Err(error) => Err(error),
            };
        }
        let foreign = || HostError::Foreign {
            bridge: self.bridge.clone(),
        };
        if link.kind.as_deref() != Some("bridge") {
            return Err(foreign());
        }
        match &link.alias {
            Some(alias) => {
                let owner = alias.split_whitespace().next();
                let mark = mark_of(alias).ok_or_else(foreign)?;
                if owner != Some(&self.table) {
                    return Err(foreign());
                }
                Ok(Some((link, Some(mark))))
            }
            None if link
                .mac
                .is_some_and(|m| m[..2] == mac_of(Ipv4Addr::UNSPECIFIED)[..2]) =>
            {
                Ok(Some((link, None)))
            }
            None => Err(foreign()),
        }
    }

    pub(super) fn refuse_ports(
        &self,
        kernel: &mut Netlink,
        bridge: &Link,
        verb: &'static str,
    ) -> Result<(), HostError> {
        let ports = self.ends(kernel, bridge)?;
        if ports.is_empty() {
            return Ok(());
        }
        Err(HostError::InUse {
            verb,
            bridge: self.bridge.clone(),
            ports: ports.join(" "),
        })
    }

    /// The host's ends of guests' interfaces: the bridge's ports, or where guests are not on it, those
    /// with names of ours.
    pub(super) fn ends(
        &self,
        kernel: &mut Netlink,
        bridge: &Link,
    ) -> Result<Vec<String>, NetlinkError> {
        let (prefix, wire) = (self.prefix(), self.wire());
        let links = kernel.links("")?.into_iter();
        Ok(links
            .filter(|link| match self.kind {
                Kind::Routed | Kind::External => {
                    link.kind.as_deref() == Some("veth") && link.name.starts_with(&prefix)
                }
                Kind::Bridge | Kind::Isolated => {
                    link.master == Some(bridge.index) && Some(&link.name) != wire.as_ref()
                }
                Kind::Macvlan | Kind::Passthrough => false,
            })
            .map(|link| link.name)
            .collect())
    }

    pub(super) fn alias(&self, mark: Mark) -> String {
        let was = match mark.forwarded {
            Some(false) => "0",
            Some(true) => "1",
            None => "-",
        };
        let owner = &self.table;
        format!("{owner} subnet={} forward-was={was}", mark.subnet)
    }
}

/// Whether it is a bridge of this program's, of whatever installation.
pub(super) fn is_ours(link: &Link) -> bool {
    link.alias
        .as_deref()
        .is_some_and(|alias| mark_of(alias).is_some())
        || link
            .mac
            .is_some_and(|m| m[..2] == mac_of(Ipv4Addr::UNSPECIFIED)[..2])
}

/// Whether a bridge's alias says that packet forwarding was off before.
pub(super) fn has_turned_on(link: &Link) -> bool {
    let mark = link.alias.as_deref().and_then(mark_of);
    mark.is_some_and(|mark| mark.forwarded == Some(false))
}

fn mark_of(alias: &str) -> Option<Mark> {
    let mut words = alias.split(' ');
    let owner = words.next()?;
    let subnet = words.next()?.strip_prefix("subnet=")?.parse().ok()?;
    let forwarded = match words.next()?.strip_prefix("forward-was=")? {
        "0" => Some(false),
        "1" => Some(true),
        "-" => None,
        _ => return None,
    };
    owner
        .starts_with("bulkhead")
        .then_some(Mark { subnet, forwarded })
}

/// Marks of all installations' bridges in this network namespace that need forwarding.
pub(super) fn marks(kernel: &mut Netlink) -> Result<Vec<Mark>, NetlinkError> {
    let links = kernel.links("")?.into_iter();
    Ok(links
        .filter(|l| l.kind.as_deref() == Some("bridge"))
        .filter_map(|l| mark_of(&l.alias?))
        .filter(|mark| mark.forwarded.is_some())
        .collect())
}

/// Whether forwarding was on before any installation turned it on.
pub(super) fn forwarded_before(kernel: &mut Netlink) -> Result<bool, HostError> {
    let now = files::read_sysctl(Path::new(IP_FORWARD))?;
    Ok(now.as_deref() == Some("1") && marks(kernel)?.iter().all(|m| m.forwarded != Some(false)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Layout;
    use crate::network::NetworkSettings;

    #[test]
    fn a_bridge_carries_its_own_mark() {
        let layout = Layout::new(Path::new("/tmp/x"));
        let network = Network::new(&layout, NetworkSettings::default()).unwrap();
        for forwarded in [Some(true), Some(false), None] {
            let subnet = "10.9.0.0/24".parse().unwrap();
            let mark = Mark { subnet, forwarded };
            assert_eq!(mark_of(&network.alias(mark)), Some(mark));
        }
        for foreign in ["", "uplink", "libvirt subnet=10.9.0.0/24 forward-was=0"] {
            assert_eq!(mark_of(foreign), None);
        }
    }
}
