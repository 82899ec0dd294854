//! What a guest has sent and received: numbers that only grow, and their sums and differences.

use std::ops::Add;

use serde::{Deserialize, Serialize};

/// An amount of traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Frames.
    pub packets: u64,
    /// Bytes, the headers of frames among them.
    pub bytes: u64,
}

impl Add for Volume {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            packets: self.packets.saturating_add(other.packets),
            bytes: self.bytes.saturating_add(other.bytes),
        }
    }
}

/// Traffic of one guest, by direction and family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Flows {
    /// IPv4 from the guest.
    pub sent_ipv4: Volume,
    /// IPv6 from the guest.
    pub sent_ipv6: Volume,
    /// IPv4 to the guest.
    pub received_ipv4: Volume,
    /// IPv6 to the guest.
    pub received_ipv6: Volume,
}

impl Flows {
    /// All it has sent.
    #[must_use]
    pub fn sent(&self) -> Volume {
        self.sent_ipv4 + self.sent_ipv6
    }

    /// All it has received.
    #[must_use]
    pub fn received(&self) -> Volume {
        self.received_ipv4 + self.received_ipv6
    }

    fn with(&self, other: &Self, both: impl Fn(Volume, Volume) -> Volume) -> Self {
        Self {
            sent_ipv4: both(self.sent_ipv4, other.sent_ipv4),
            sent_ipv6: both(self.sent_ipv6, other.sent_ipv6),
            received_ipv4: both(self.received_ipv4, other.received_ipv4),
            received_ipv6: both(self.received_ipv6, other.received_ipv6),
        }
    }
}

impl Add for Flows {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        self.with(&other, Add::add)
    }
}

/// The traffic of one guest, by class as well: each packet is in one of the two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Written", into = "Written")]
pub struct Traffic {
    /// With the rest of the world.
    pub external: Flows,
    /// With its own network, and what the host's settings call internal.
    pub internal: Flows,
}

/// The same as it is written down. What was counted before there were classes is external.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    sent_ipv4: Volume,
    sent_ipv6: Volume,
    received_ipv4: Volume,
    received_ipv6: Volume,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    internal: Option<Flows>,
}

impl From<Written> for Traffic {
    fn from(written: Written) -> Self {
        Self {
            external: Flows {
                sent_ipv4: written.sent_ipv4,
                sent_ipv6: written.sent_ipv6,
                received_ipv4: written.received_ipv4,
                received_ipv6: written.received_ipv6,
            },
            internal: written.internal.unwrap_or_default(),
        }
    }
}

impl From<Traffic> for Written {
    fn from(Traffic { external, internal }: Traffic) -> Self {
        Self {
            sent_ipv4: external.sent_ipv4,
            sent_ipv6: external.sent_ipv6,
            received_ipv4: external.received_ipv4,
            received_ipv6: external.received_ipv6,
            internal: Some(internal).filter(|flows| *flows != Flows::default()),
        }
    }
}

impl Traffic {
    /// Both classes.
    #[must_use]
    pub fn total(&self) -> Flows {
        self.external + self.internal
    }

    /// What came since `before` was read from the same counters. Counters that say less than they did
    /// began anew, so all they say came since.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let apart = |now: Volume, then: Volume| {
            let fewer = now.packets.checked_sub(then.packets);
            fewer
                .zip(now.bytes.checked_sub(then.bytes))
                .map_or(now, |(packets, bytes)| Volume { packets, bytes })
        };
        Self {
            external: self.external.with(&before.external, apart),
            internal: self.internal.with(&before.internal, apart),
        }
    }
}

impl Add for Traffic {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            external: self.external + other.external,
            internal: self.internal + other.internal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(packets: u64, bytes: u64) -> Flows {
        Flows {
            sent_ipv4: Volume { packets, bytes },
            ..Flows::default()
        }
    }

    #[test]
    fn what_came_since_is_counted_once() {
        let of = |packets, bytes| Traffic {
            external: sent(packets, bytes),
            internal: sent(1, 60),
        };
        let only = |packets, bytes| Traffic {
            external: sent(packets, bytes),
            ..Traffic::default()
        };
        assert_eq!(of(5, 500).since(&of(3, 200)), only(2, 300));
        assert_eq!(of(3, 200).since(&of(3, 200)), Traffic::default());
        // Begun anew.
        assert_eq!(of(2, 300).since(&of(3, 200)), only(2, 300));
        let sum = of(2, 300) + of(3, 200);
        assert_eq!((sum.total(), sum.internal), (sent(7, 620), sent(2, 120)));
    }

    #[test]
    fn what_was_written_before_there_were_classes_is_external() {
        let nothing = "{\"packets\":0,\"bytes\":0}";
        let old = format!(
            "{{\"sent_ipv4\":{{\"packets\":3,\"bytes\":200}},\"sent_ipv6\":{nothing},\
             \"received_ipv4\":{nothing},\"received_ipv6\":{nothing}}}"
        );
        let read: Traffic = serde_json::from_str(&old).unwrap();
        assert_eq!(
            (read.external, read.internal),
            (sent(3, 200), Flows::default())
        );
        assert_eq!(serde_json::to_string(&read).unwrap(), old);
        let both = Traffic {
            internal: sent(1, 60),
            ..read
        };
        let text = serde_json::to_string(&both).unwrap();
        assert_eq!(serde_json::from_str::<Traffic>(&text).unwrap(), both);
        assert!(serde_json::from_str::<Traffic>("{\"internal\":{}}").is_err());
    }
}
