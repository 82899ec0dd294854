//! What the host's side of a network has only because its guests are told something. Guests without a
//! way out know no address of the host's; to be told they need one, and then it is more than a bridge
//! that nothing comes to: of what they send there, only questions come up, and the host passes nothing
//! on in either direction. What is said is `served.rs`, rules that every such network has
//! `served_rules.rs`.

use std::net::{IpAddr, Ipv4Addr};

use serde_json::{Value, json};

use super::Network;
use super::firewall::{chain, matches, rule};
use super::host::HostError;
use super::served_rules::Spoken;
use super::subnet::Subnet;
use crate::kernel::netlink::Netlink;
use crate::kernel::netlink_nft::Family;

fn is(left: Value, right: Value) -> Value {
    matches("==", left, right)
}

fn field(protocol: &str, field: &str) -> Value {
    json!({"payload": {"protocol": protocol, "field": field}})
}

impl Spoken {
    /// The host's address that guests ask.
    fn asked(self) -> Option<Ipv4Addr> {
        self.dhcp.or(self.dns.map(|(four, _)| four))
    }

    /// What guests without a way out may say to the host, before the rule that drops the rest. Where
    /// its address is they ask, and answer when the host asks for theirs.
    pub(super) fn heard(self) -> Vec<Value> {
        let Some(own) = self.asked() else {
            return Vec::new();
        };
        let accept = || json!({"accept": null});
        let mut all = vec![json!([is(field("arp", "daddr ip"), json!(own)), accept()])];
        if let Some(server) = self.dhcp {
            let targets = json!({"set": ["255.255.255.255", server]});
            let port = is(field("udp", "dport"), json!(67));
            all.push(json!([is(field("ip", "daddr"), targets), port, accept()]));
        }
        if let Some((server, _)) = self.dns {
            let protocols = json!({"set": ["tcp", "udp"]});
            let port = json!({"payload": {"base": "th", "offset": 16, "len": 16}});
            all.push(json!([
                is(field("ip", "daddr"), json!(server)),
                is(json!({"meta": {"key": "l4proto"}}), protocols),
                is(port, json!(53)),
                accept()
            ]));
        }
        all
    }

    /// The table of family inet of a network without a way out: now that the host has a route to its
    /// guests, whoever else sends by way of the host would reach them.
    pub(super) fn apart(self, name: &str, bridge: &str) -> Vec<Value> {
        let at = (Family::Inet, name.to_owned());
        let table = |verb: &str| json!({verb: {"table": {"family": "inet", "name": name}}});
        // What goes from guest to guest may come by here as well.
        let over = |key: &str, other: &str| {
            let over = is(json!({"meta": {"key": key}}), json!(bridge));
            let elsewhere = matches("!=", json!({"meta": {"key": other}}), json!(bridge));
            rule(&at, "forward", json!([over, elsewhere, {"drop": null}]))
        };
        let mut all = vec![
            // Adding first makes deleting safe where there is none.
            table("add"),
            table("delete"),
            table("add"),
        ];
        if self.asked().is_some() {
            all.push(chain(&at, "forward", "filter", "forward", 0));
            all.extend([over("iifname", "oifname"), over("oifname", "iifname")]);
            all.extend(self.inside(name, bridge));
            all.extend(self.kept(name, bridge));
        }
        all
    }
}

impl Network {
    /// Whether guests that have no way out are told something.
    pub(super) fn tells_closed(&self) -> bool {
        self.is_closed() && !self.served.is_none()
    }

    /// Whether the host has an address among its guests: it is their way out, or they are told something.
    pub(super) fn has_host(&self) -> bool {
        !self.is_closed() || self.tells_closed()
    }

    /// Whether its guests may ask the host at an address that is the host's.
    pub(super) fn asks_host_at(&self, address: IpAddr, subnet: Option<Subnet>) -> bool {
        let own = subnet.map(|subnet| IpAddr::from(self.gateway_in(subnet)));
        !self.is_closed() || (self.tells_closed() && own == Some(address))
    }

    /// Whether it has a table of family inet.
    pub(super) fn has_inside(&self) -> bool {
        self.nat || self.is_closed() || self.ranks_inside()
    }

    /// Gives the bridge the host's address, where there is to be one, and else takes it away.
    pub(super) fn address_bridge(
        &self,
        kernel: &mut Netlink,
        subnet: Subnet,
    ) -> Result<(), HostError> {
        let own = self.gateway_in(subnet);
        if self.has_host() {
            kernel.add_address(&self.bridge, own, subnet.prefix())?;
        } else if let Some(link) = kernel.link(&self.bridge)?
            && kernel.ipv4_of(link.index)?.contains(&own)
        {
            kernel.delete_address(&link, own, subnet.prefix())?;
        }
        Ok(())
    }

    /// Whether the host has an address among guests that are told nothing any more: who was to take it
    /// away has died.
    ///
    /// # Errors
    /// When the kernel refuses, or a file cannot be read.
    pub fn is_addressed(&self) -> Result<bool, HostError> {
        if self.has_host() {
            return Ok(false);
        }
        let Some(subnet) = self.known_subnet()? else {
            return Ok(false);
        };
        let mut kernel = Netlink::open()?;
        let Some((bridge, _)) = self.own_bridge(&mut kernel)? else {
            return Ok(false);
        };
        let all = kernel.ipv4_of(bridge.index)?;
        Ok(all.contains(&self.gateway_in(subnet)))
    }

    /// Ends who serves the network that is always there, when it is set up anew: its settings may say
    /// another thing now. Who serves one that somebody made follows its record.
    pub(super) fn end_other_server(&self) -> Result<(), HostError> {
        match self.name {
            None => self.end_server(),
            Some(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_heard_where_nothing_is_told() {
        let none = Spoken::default();
        assert!(none.heard().is_empty() && none.apart("t", "b").len() == 3);
        let server = [10, 9, 0, 1].into();
        let dhcp = Spoken {
            dhcp: Some(server),
            ..none
        };
        let text = json!(dhcp.heard()).to_string();
        assert!(text.contains("67") && !text.contains("53"), "{text}");
        let names = Spoken {
            dns: Some((server, None)),
            ..none
        };
        let text = json!(names.heard()).to_string();
        assert!(text.contains("53") && !text.contains("67"), "{text}");
        for spoken in [dhcp, names] {
            let drops = json!(spoken.apart("t", "b")).to_string();
            assert_eq!(drops.matches(r#""chain":"forward""#).count(), 2, "{drops}");
        }
    }
}
