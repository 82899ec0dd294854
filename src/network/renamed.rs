//! Interfaces of ours that somebody has given another name. What holds guests back, counts and leads is
//! told by names, so a guest behind such an interface is held to nothing, and a bridge of another name
//! is none of ours. They are known by what this program wrote into them, and get their names back.

use std::fmt;

use super::host::HostError;
use super::record::Kind;
use super::{Network, interface_of};
use crate::kernel::netlink::{Link, Netlink};
use crate::model::NetOp;

/// One such interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renamed {
    /// What it is called.
    pub is: String,
    /// What it is to be called.
    pub was: String,
    index: u32,
}

impl fmt::Display for Renamed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, called {}", self.was, self.is)
    }
}

impl Renamed {
    fn of(link: &Link, was: &str) -> Self {
        Self {
            is: link.name.clone(),
            was: was.to_owned(),
            index: link.index,
        }
    }
}

impl Network {
    /// Interfaces of this network's that are called otherwise.
    ///
    /// # Errors
    /// When the kernel refuses to tell, or a file cannot be read.
    pub fn renamed(&self) -> Result<Vec<Renamed>, HostError> {
        self.renamed_in(&mut Netlink::open()?)
    }

    /// Gives them their names back; whether there were any.
    ///
    /// # Errors
    /// As [`Network::renamed`], and when something else has the name.
    pub fn name_again(&self) -> Result<bool, HostError> {
        self.name_again_in(&mut Netlink::open()?)
    }

    pub(super) fn name_again_in(&self, kernel: &mut Netlink) -> Result<bool, HostError> {
        let all = self.renamed_in(kernel)?;
        for one in &all {
            kernel.name_again(one.index, &one.was)?;
        }
        Ok(!all.is_empty())
    }

    fn renamed_in(&self, kernel: &mut Netlink) -> Result<Vec<Renamed>, HostError> {
        if matches!(self.kind, Kind::Macvlan | Kind::Passthrough) {
            return Ok(Vec::new());
        }
        let links = kernel.links("")?;
        let mut all = Vec::new();
        let mut bridge = links.iter().find(|link| link.name == self.bridge);
        if bridge.is_none() && !self.is_guest_of_lan() {
            bridge = links.iter().find(|link| self.is_marked(link));
            all.extend(bridge.map(|link| Renamed::of(link, &self.bridge)));
        }
        let index = bridge.map(|link| link.index);
        let on = match self.is_routed() {
            true => None,
            false if index.is_none() => return Ok(all),
            false => index,
        };
        if let Some(wire) = self.wire()
            && !links.iter().any(|link| link.name == wire)
        {
            let is = |link: &&Link| link.kind.as_deref() == Some("vxlan") && link.master == on;
            let other = links.iter().find(is);
            all.extend(other.map(|link| Renamed::of(link, &wire)));
        }
        all.extend(self.renamed_ends(&links, on)?);
        Ok(all)
    }

    /// The bridge's alias begins with whose it is.
    fn is_marked(&self, link: &Link) -> bool {
        let owner = link.alias.as_deref().and_then(|a| a.split(' ').next());
        link.kind.as_deref() == Some("bridge")
            && super::bridge::is_ours(link)
            && owner == Some(&self.table)
    }

    /// The host's ends of guests' interfaces: by their aliases and hardware addresses, on that bridge or
    /// on none.
    fn renamed_ends(&self, links: &[Link], on: Option<u32>) -> Result<Vec<Renamed>, HostError> {
        let Some(subnet) = self.known_subnet()? else {
            return Ok(Vec::new());
        };
        let pair = |link: &&Link| link.kind.as_deref() == Some("veth") && link.master == on;
        let ends: Vec<&Link> = links.iter().filter(pair).collect();
        let leases = self.leases()?;
        let held = leases.by_guest.iter();
        let leased = held.filter_map(|(guest, held)| {
            let lease = self.lease_held(held, subnet)?;
            let alias = NetOp::alias(guest, interface_of(&lease));
            let [_, rest @ ..] = lease.mac;
            let is = |link: &&&Link| {
                let mac = link
                    .mac
                    .is_some_and(|mac| mac[0] == 0xfe && mac[1..] == rest);
                link.alias.as_ref() == Some(&alias) && mac
            };
            let end = ends.iter().find(is)?;
            let taken = end.name == lease.host_interface;
            (!taken).then(|| Renamed::of(end, &lease.host_interface))
        });
        Ok(leased.collect())
    }
}
