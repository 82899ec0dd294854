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

/// The traffic of one guest, by direction and family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Traffic {
    /// IPv4 from the guest.
    pub sent_ipv4: Volume,
    /// IPv6 from the guest.
    pub sent_ipv6: Volume,
    /// IPv4 to the guest.
    pub received_ipv4: Volume,
    /// IPv6 to the guest.
    pub received_ipv6: Volume,
}

impl Traffic {
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
        self.with(before, apart)
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

impl Add for Traffic {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        self.with(&other, Add::add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_since_is_counted_once() {
        let of = |packets, bytes| Traffic {
            sent_ipv4: Volume { packets, bytes },
            ..Traffic::default()
        };
        assert_eq!(of(5, 500).since(&of(3, 200)), of(2, 300));
        assert_eq!(of(3, 200).since(&of(3, 200)), Traffic::default());
        // Begun anew.
        assert_eq!(of(2, 300).since(&of(3, 200)), of(2, 300));
        assert_eq!(of(2, 300) + of(3, 200), of(5, 500));
    }
}
