//! How much of what all guests share on a network one of them may use, beside bytes a second, and who of
//! them goes first.

use serde::{Deserialize, Serialize};

use super::{NetworkWish, Urgency};

/// What a definition says; the default is no ceiling of the guest's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ceilings {
    /// Packets that it sends in a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packets: Option<u32>,
    /// Connections that it begins in a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_connections: Option<u32>,
    /// Connections of it that the host keeps track of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<u32>,
    /// Whether what it sends goes before what others send, or behind it.
    #[serde(default, skip_serializing_if = "Urgency::is_normal")]
    pub urgency: Urgency,
}

impl Ceilings {
    /// Whether there is none.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Whether packets are counted on their way, which takes rules at the guest's port.
    #[must_use]
    pub fn at_port(&self) -> bool {
        self.packets.is_some() || self.new_connections.is_some()
    }

    /// Whether anything at all is done there.
    #[must_use]
    pub fn needs_port(&self) -> bool {
        self.at_port() || self.urgency != Urgency::Normal
    }
}

impl NetworkWish {
    /// The part of the guest's ceilings that its first interface has, and each further one that says nothing
    /// itself: what those leave that do, in equal parts. So all of them together keep to the guest's.
    #[must_use]
    pub fn part_of_ceilings(&self) -> Ceilings {
        let part = |whole: Option<u32>, own: fn(&Ceilings) -> Option<u32>| {
            let given = self.nics.iter().filter_map(|nic| own(&nic.ceilings));
            let (count, sum) = given.fold((0, 0_u32), |(count, sum), one| {
                (count + 1, sum.saturating_add(one))
            });
            let others = u32::try_from(self.nics.len() - count).unwrap_or(u32::MAX);
            Some(whole?.saturating_sub(sum) / others.saturating_add(1))
        };
        Ceilings {
            packets: part(self.ceilings.packets, |own| own.packets),
            new_connections: part(self.ceilings.new_connections, |own| own.new_connections),
            connections: part(self.ceilings.connections, |own| own.connections),
            urgency: self.ceilings.urgency,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{NetworkKind, Nic};

    #[test]
    fn interfaces_share_what_those_leave_that_have_their_own() {
        let nic = |name: &str, packets| Nic {
            name: name.parse().unwrap(),
            network: NetworkKind::Named("db".parse().unwrap()),
            address: None,
            mac: None,
            address6: None,
            isolated_ports: None,
            rate_in: None,
            rate_out: None,
            burst_in: None,
            burst_out: None,
            firewall: Vec::new(),
            ceilings: Ceilings {
                packets,
                ..Ceilings::default()
            },
        };
        let mut wish = NetworkWish {
            ceilings: Ceilings {
                packets: Some(1000),
                connections: Some(10),
                ..Ceilings::default()
            },
            ..NetworkWish::default()
        };
        assert_eq!(wish.part_of_ceilings(), wish.ceilings);
        wish.nics = vec![nic("a", Some(400)), nic("b", None), nic("c", None)];
        let part = wish.part_of_ceilings();
        assert_eq!((part.packets, part.connections), (Some(200), Some(2)));
        assert_eq!(part.new_connections, None);
        let of = |at: usize| wish.nics[at].wish_within(&wish);
        assert_eq!(of(0).ceilings.packets, Some(400));
        assert_eq!(of(1).ceilings.packets, Some(200));
        assert_eq!(of(0).ceilings.connections, Some(2));
        assert_eq!(of(0).inherited.connections, of(0).ceilings.connections);
        wish.nics[0].ceilings.packets = Some(2000);
        assert_eq!(wish.part_of_ceilings().packets, Some(0));
    }
}
