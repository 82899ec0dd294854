//! What was written of the network, as it is meant. The rest of a definition is `resolve.rs`.

use super::default;
use super::definition::NetworkPart;
use crate::model::{Allowance, Ceilings, NetworkWish};

impl From<NetworkPart> for NetworkWish {
    fn from(
        NetworkPart {
            kind,
            address,
            mac,
            address6,
            nic,
            dns,
            isolated_ports,
            rate_in,
            rate_out,
            burst_in,
            burst_out,
            forward,
            firewall,
            packets,
            new_connections,
            connections,
            priority,
            allowance,
            allowance_class,
            allowance_day,
            allowance_rate,
            allowance_cut,
        }: NetworkPart,
    ) -> Self {
        Self {
            isolated_ports: isolated_ports.and_then(|isolated| isolated.0),
            rate_in: rate_in.and_then(|rate| rate.0),
            rate_out: rate_out.and_then(|rate| rate.0),
            burst_in: burst_in.and_then(|burst| burst.0),
            burst_out: burst_out.and_then(|burst| burst.0),
            kind: kind.unwrap_or(default::NETWORK),
            interface: None,
            address: address.and_then(|address| address.0),
            mac: mac.and_then(|mac| mac.0),
            address6: address6.and_then(|address| address.0),
            nics: nic.into_iter().map(Into::into).collect(),
            dns: dns.0.unwrap_or_default(),
            forwards: forward.0,
            firewall: firewall.0,
            ceilings: Ceilings {
                packets: packets.and_then(|count| count.0),
                new_connections: new_connections.and_then(|count| count.0),
                connections: connections.and_then(|count| count.0),
                urgency: priority.unwrap_or_default(),
            },
            allowance: Allowance {
                bytes: allowance.and_then(|bytes| bytes.0),
                class: allowance_class.unwrap_or_default(),
                // What is no day is found by the check.
                day: allowance_day.map_or(1, |day| u8::try_from(day).unwrap_or(u8::MAX)),
                rate: allowance_rate.and_then(|rate| rate.0),
                cut: allowance_cut.and_then(|cut| cut.0),
            },
            tenant: None,
            inherited: Ceilings::default(),
        }
    }
}
