//! What of guests' traffic is internal: its other end is on the guest's own network, or among the
//! addresses that the host's settings name (`traffic.internal`). All else is external. What is counted
//! by that is `traffic.rs`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::{Value, json};

use super::Network;
use super::external::{ADDRESSES, ADDRESSES6};
use super::subnet::Subnet;
use super::wall_sets;
use crate::model::AddressBlock;

const fn four(a: u8, b: u8, c: u8, d: u8, bits: u8) -> AddressBlock {
    let address = IpAddr::V4(Ipv4Addr::new(a, b, c, d));
    AddressBlock { address, bits }
}

const fn six(begin: u16, bits: u8) -> AddressBlock {
    let address = IpAddr::V6(Ipv6Addr::new(begin, 0, 0, 0, 0, 0, 0, 0));
    AddressBlock { address, bits }
}

/// What no router passes on: whoever has no address yet, neighbours by their addresses of the link, and
/// all on it.
const OF_LINK: [AddressBlock; 7] = [
    four(0, 0, 0, 0, 32),
    four(169, 254, 0, 0, 16),
    four(224, 0, 0, 0, 24),
    four(255, 255, 255, 255, 32),
    six(0, 128),
    six(0xfe80, 10),
    six(0xff02, 16),
];

/// Other ends that make traffic internal.
#[derive(Clone, Debug, Default)]
pub(super) struct Internal {
    /// The guests' own network, apart: most of what is internal is told by these without a search.
    own: Vec<AddressBlock>,
    blocks: Vec<AddressBlock>,
    /// Sets of the table that are internal too.
    sets: Vec<&'static str>,
}

impl Internal {
    /// What an address of that version is held against.
    pub(super) fn of(&self, version: &str) -> Vec<Value> {
        let blocks = wall_sets::elements(&self.blocks, version);
        let set = match version {
            "ip6" => ADDRESSES6,
            _ => ADDRESSES,
        };
        let own = self.own.iter();
        let own = own.filter(|one| one.address.is_ipv6() == (version == "ip6"));
        let mut all: Vec<Value> = own
            .map(|one| json!({"prefix": {"addr": one.address, "len": one.bits}}))
            .collect();
        all.push(json!({"set": blocks}));
        all.extend(self.sets.contains(&set).then(|| json!(format!("@{set}"))));
        all
    }
}

impl Network {
    /// Other ends that make traffic of its guests internal. On a bridge that is somebody else's these
    /// are guests of this host, and not the whole LAN.
    pub(super) fn internal(&self, subnet: Subnet) -> Internal {
        let mut blocks = OF_LINK.to_vec();
        blocks.extend(&self.internal);
        let (mut own, mut sets) = (Vec::new(), Vec::new());
        if self.is_external() {
            sets.push(ADDRESSES);
            sets.extend(self.prefix6.map(|_| ADDRESSES6));
        } else {
            own.push(AddressBlock {
                address: subnet.network().into(),
                bits: subnet.prefix(),
            });
            own.extend(self.prefix6.map(|prefix| AddressBlock {
                address: prefix.network().into(),
                bits: prefix.length(),
            }));
        }
        Internal { own, blocks, sets }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::model::Layout;
    use crate::network::NetworkSettings;

    #[test]
    fn a_guests_own_network_is_internal_and_a_lan_is_not() {
        let settings = NetworkSettings {
            internal: vec!["10.9.0.0/16".parse().unwrap(), "fd00::/8".parse().unwrap()],
            ..NetworkSettings::default()
        };
        let network = Network::new(&Layout::new(Path::new("/nowhere")), settings).unwrap();
        let subnet: Subnet = "10.9.7.0/24".parse().unwrap();
        let text =
            |network: &Network, version| json!(network.internal(subnet).of(version)).to_string();
        assert!(
            text(&network, "ip").starts_with(r#"[{"prefix":{"addr":"10.9.7.0","len":24}},{"set""#)
        );
        assert!(!text(&network, "ip6").contains("10.9.7.0"));
        assert!(text(&network, "ip").contains("10.9.0.0"));
        assert!(text(&network, "ip6").contains("fd00::"));
        let plain = Network {
            internal: Vec::new(),
            ..network.clone()
        };
        assert!(text(&plain, "ip").contains("10.9.7.0"));
        let record = json!({
            "name": "lan", "kind": "external", "bridge": "br0", "subnet": "10.9.7.0/24"
        });
        let lan = plain.of(&serde_json::from_value(record).unwrap());
        let four = text(&lan, "ip");
        assert!(
            four.contains("@addresses") && !four.contains("10.9.7.0"),
            "{four}"
        );
        assert!(!text(&lan, "ip6").contains('@'));
    }
}
