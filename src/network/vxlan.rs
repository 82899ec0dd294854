//! Networks that several hosts share: the bridge of each has one more port, over which frames go to the
//! other hosts in packets of UDP. What a guest may send is held at its own port on its own host, as
//! everywhere. Which guest has which address each host decides for itself: their ranges must differ.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::firewall::{At, chain, matches, rule};
use super::guard::{FIRST, flush};
use super::host::{ETHERNET_MTU, HostError};
use super::record::{Kind, Record};
use super::{FileError, Network};
use crate::kernel::netlink::{Netlink, NetlinkError, Way};
use crate::kernel::netlink_vxlan::{self, PORT};
use crate::model::{Forward, GuestName, Protocol};

/// What of a packet goes into headers: Ethernet, VXLAN, UDP, and IPv4 or IPv6.
const HEADERS: u32 = 14 + 8 + 8 + 20;
const HEADERS6: u32 = HEADERS + 20;
/// The largest number of 24 bits.
const LARGEST: u32 = 0x00ff_ffff;
/// To each of them every broadcast goes by itself.
const MOST: usize = 64;

/// Which hosts share a network, seen from one of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vxlan {
    /// Its number, the same on all of them.
    pub id: u32,
    /// This host's address among them.
    pub local: IpAddr,
    /// The others'.
    pub remotes: Vec<IpAddr>,
}

impl Vxlan {
    /// What cannot be, and what to do.
    pub(super) fn check(&self, record: &Record) -> Result<(), String> {
        if !matches!(record.kind, Kind::Bridge | Kind::Isolated) {
            return Err(
                "only a network with a bridge of its own is shared with other hosts: --kind bridge or isolated".to_owned(),
            );
        }
        if !(1..=LARGEST).contains(&self.id) {
            return Err(format!(
                "{} is no VXLAN's number: use 1 to {LARGEST}, the same on all of its hosts",
                self.id
            ));
        }
        if self.remotes.is_empty() || self.remotes.len() > MOST {
            return Err(format!("name 1 to {MOST} other hosts with --remote"));
        }
        let one = |address: &IpAddr| !(address.is_unspecified() || address.is_multicast());
        let all = || self.remotes.iter().chain([&self.local]);
        if let Some(none) = all().find(|address| !one(address)) {
            return Err(format!("{none} is no host's address"));
        }
        if self
            .remotes
            .iter()
            .any(|remote| remote.is_ipv4() != self.local.is_ipv4())
        {
            return Err("the hosts' addresses must all be of IPv4, or all of IPv6".to_owned());
        }
        for (at, remote) in self.remotes.iter().enumerate() {
            if *remote == self.local || self.remotes[..at].contains(remote) {
                return Err(format!(
                    "{remote} is there twice: name each other host once"
                ));
            }
        }
        Ok(())
    }

    fn headers(&self) -> u32 {
        match self.local {
            IpAddr::V4(_) => HEADERS,
            IpAddr::V6(_) => HEADERS6,
        }
    }
}

/// On a network whose guests have no way to the host, those on other hosts have none either.
pub(super) fn closed(at: &At, wire: &str) -> [Value; 3] {
    let from = matches("==", json!({"meta": {"key": "iifname"}}), json!(wire));
    [
        chain(at, "wire", "filter", "input", FIRST),
        flush(at, "wire"),
        rule(at, "wire", json!([from, {"drop": null}])),
    ]
}

impl Network {
    /// What it shares with other hosts.
    #[must_use]
    pub fn vxlan(&self) -> Option<&Vxlan> {
        self.vxlan.as_ref()
    }

    /// Name of the bridge's port to the other hosts, if there is one.
    pub(super) fn wire(&self) -> Option<String> {
        self.vxlan.as_ref().map(|_| format!("vx-{}", self.tag))
    }

    /// Whether all of it is there that leads to other hosts: what is up is guarded, and has its hosts.
    pub(super) fn is_stretched(&self, kernel: &mut Netlink) -> Result<bool, NetlinkError> {
        match self.wire() {
            None => Ok(true),
            Some(wire) => Ok(kernel.link(&wire)?.is_some_and(|link| link.up)),
        }
    }

    /// Makes the port to the other hosts, if there are to be any. The bridge is there.
    pub(super) fn stretch(&self, kernel: &mut Netlink) -> Result<(), HostError> {
        let (Some(name), Some(vxlan)) = (self.wire(), &self.vxlan) else {
            return Ok(());
        };
        let bridge = kernel.link(&self.bridge)?.map_or(0, |link| link.index);
        // One that is on no bridge of ours is left over from a bridge that was removed by hand, and one
        // that is down from somebody who was killed before it was guarded.
        if kernel
            .link(&name)?
            .is_some_and(|link| link.master != Some(bridge) || !link.up)
        {
            kernel.delete_link(&name)?;
        }
        let largest = self.largest_within(kernel)?;
        kernel.create_vxlan(&netlink_vxlan::Vxlan {
            name: &name,
            bridge,
            id: vxlan.id,
            local: vxlan.local,
            remotes: &vxlan.remotes,
            mtu: self.mtu.unwrap_or(largest.unwrap_or(ETHERNET_MTU)),
        })?;
        Ok(())
    }

    /// Removes that port; it may be gone already.
    pub(super) fn unstretch(&self, kernel: &mut Netlink) -> Result<(), HostError> {
        if let Some(wire) = self.wire() {
            kernel.delete_link(&wire)?;
        }
        Ok(())
    }

    /// Largest packet that goes to the other hosts whole; `None` for a network of this host alone.
    pub(super) fn largest_within(&self, kernel: &mut Netlink) -> Result<Option<u32>, NetlinkError> {
        let Some(vxlan) = &self.vxlan else {
            return Ok(None);
        };
        let mut least = ETHERNET_MTU;
        for remote in &vxlan.remotes {
            if let Way::Over { interface, .. } = kernel.way_to(*remote)? {
                let links = kernel.links("")?;
                let link = links.iter().find(|link| link.index == interface);
                least = least.min(link.map_or(ETHERNET_MTU, |link| link.mtu));
            }
        }
        Ok(Some(least.saturating_sub(vxlan.headers())))
    }

    /// Why this host cannot share a network so, seen from the one that is always there.
    pub(super) fn refused_vxlan(
        &self,
        new: &Self,
        kernel: &mut Netlink,
    ) -> Result<Option<String>, HostError> {
        let Some(vxlan) = &new.vxlan else {
            return Ok(None);
        };
        let local = vxlan.local;
        if kernel.way_to(local)? != Way::Here {
            return Ok(Some(format!(
                "{local} is no address of this host: --local is the one that the other hosts reach it by"
            )));
        }
        if let Some(other) = self.with_id(vxlan.id)? {
            return Ok(Some(format!(
                "the network {other} has the number {} already: choose another, the same on all hosts",
                vxlan.id
            )));
        }
        Ok(self.led_from(PORT)?.map(|(guest, led)| {
            format!(
                "port {PORT}/udp of the host, by which the other hosts send, leads to {guest}: take it from it with `bulkhead set {guest} --unset network.forward.{led}`"
            )
        }))
    }

    /// The guest of any network that a port of the host of UDP leads to.
    fn led_from(&self, port: u16) -> Result<Option<(GuestName, Forward)>, FileError> {
        let others = self.others()?;
        for one in others.iter().chain([self]) {
            for (guest, held) in one.leases()?.by_guest {
                let udp = held.forwards.iter();
                let mut udp = udp.filter(|one| one.protocol == Protocol::Udp);
                if let Some(led) = udp.find(|one| one.ports().any(|(host, _)| host == port)) {
                    return Ok(Some((guest, *led)));
                }
            }
        }
        Ok(None)
    }

    fn with_id(&self, id: u32) -> Result<Option<String>, FileError> {
        let others = self.others()?;
        let mut same = others.iter().filter(|other| {
            let theirs = other.vxlan.as_ref();
            theirs.is_some_and(|theirs| theirs.id == id)
        });
        Ok(same.next().map(|other| other.word().to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vxlan(local: &str, remotes: &[&str]) -> Vxlan {
        Vxlan {
            id: 7,
            local: local.parse().unwrap(),
            remotes: remotes.iter().map(|one| one.parse().unwrap()).collect(),
        }
    }

    #[test]
    fn what_no_hosts_can_share_is_refused() {
        let record = |kind: &str| -> Record {
            let text = json!({"name": "lan", "kind": kind, "subnet": "10.9.0.0/24"});
            serde_json::from_value(text).unwrap()
        };
        let good = vxlan("192.0.2.1", &["192.0.2.2", "192.0.2.3"]);
        assert_eq!(good.check(&record("bridge")), Ok(()));
        assert_eq!(good.check(&record("isolated")), Ok(()));
        let bad = [
            (good.clone(), "routed", "bridge of its own"),
            (
                Vxlan {
                    id: 0,
                    ..good.clone()
                },
                "bridge",
                "1 to 16777215",
            ),
            (
                Vxlan {
                    id: 1 << 24,
                    ..good
                },
                "bridge",
                "1 to 16777215",
            ),
            (vxlan("192.0.2.1", &[]), "bridge", "--remote"),
            (vxlan("192.0.2.1", &["192.0.2.1"]), "bridge", "twice"),
            (
                vxlan("192.0.2.1", &["192.0.2.2", "192.0.2.2"]),
                "bridge",
                "twice",
            ),
            (
                vxlan("192.0.2.1", &["2001:db8::1"]),
                "bridge",
                "all of IPv6",
            ),
            (
                vxlan("192.0.2.1", &["224.0.0.1"]),
                "bridge",
                "no host's address",
            ),
        ];
        for (vxlan, kind, why) in bad {
            let error = vxlan.check(&record(kind)).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}
