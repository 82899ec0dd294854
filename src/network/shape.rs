//! How fast a guest's interface is: which bucket fits a rate, and changing it while the guest runs.
//! At a start the launch does it, with the interface; the kernel is told in `kernel::netlink_shape`.

use super::Network;
use super::host::HostError;
use super::lease::Lease;
use crate::kernel::interface;
use crate::kernel::netlink::{Netlink, shaper_name};
use crate::model::{Bytes, NetworkWish, Rate, Shape, TokenBucket};

/// How much may come at once: what is due in this part of a second. So much above its rate is a guest
/// in its first second, and not more.
const BURST: u64 = 100;
/// Two full packets of Ethernet: with less, none would pass.
const SMALLEST_BURST: u64 = 2 * 1514;
/// A packet that programs hand over whole, to be cut up by hardware, with its headers.
const WHOLE_PACKET: u64 = (64 << 10) + 1514;
/// What waits is what goes out in this part of a second.
const QUEUE: u64 = 20;
/// A queue shorter than this drops so much that TCP does not reach its rate.
const SHORTEST_QUEUE: u64 = 48 << 10;

impl Network {
    /// Makes a running guest as fast as its definition says. One that was started without an
    /// interface on the bridge has nothing to be changed.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn reshape(&self, lease: &Lease, wish: &NetworkWish) -> Result<(), HostError> {
        if interface::exists(&lease.host_interface)? {
            Netlink::open()?.shape(&lease.host_interface, &self.shape(wish))?;
        }
        Ok(())
    }

    /// Removes what held back a guest that does not run any more; the rest went with its interface.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn unshape(&self, lease: &Lease) -> Result<(), HostError> {
        let shaper = shaper_name(&lease.host_interface);
        if interface::exists(&shaper)? {
            Netlink::open()?.delete_link(&shaper)?;
        }
        Ok(())
    }

    /// What a definition's rates mean, and those of its tenant.
    pub(super) fn shape(&self, wish: &NetworkWish) -> Shape {
        let of = |rate: Option<Rate>, burst| rate.map(|rate| bucket(rate, burst));
        let trunk = |incoming| self.trunk(wish.tenant.as_ref()?, incoming);
        Shape {
            incoming: of(wish.rate_in, wish.burst_in),
            outgoing: of(wish.rate_out, wish.burst_out),
            trunk_in: trunk(true),
            trunk_out: trunk(false),
            urgency: wish.ceilings.urgency,
        }
    }
}

pub(super) fn bucket(rate: Rate, burst: Option<Bytes>) -> TokenBucket {
    let rate = rate.bytes();
    let usual = (rate / BURST).max(SMALLEST_BURST);
    // Just below a whole packet, every packet would have to be cut up for nothing.
    let usual = match usual {
        n if n > WHOLE_PACKET / 2 => n.max(WHOLE_PACKET),
        n => n,
    };
    let burst = burst.map_or(usual, |burst| burst.0.max(SMALLEST_BURST));
    let queue = burst + (rate / QUEUE).max(SHORTEST_QUEUE);
    let fit = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    TokenBucket {
        rate: fit(rate),
        burst: fit(burst),
        queue: fit(queue),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_lets_packets_pass_and_keeps_to_its_rate() {
        for text in ["64kbit", "1mbit", "5mbit", "70mbit", "1gbit", "32gbit"] {
            let rate: Rate = text.parse().unwrap();
            let bucket = bucket(rate, None);
            let (burst, second) = (u64::from(bucket.burst), rate.bytes());
            assert!(burst >= SMALLEST_BURST, "{text}");
            assert!(
                burst <= (second / 50).max(SMALLEST_BURST),
                "{text}: {burst}"
            );
            assert!(u64::from(bucket.queue) >= burst + SHORTEST_QUEUE, "{text}");
            assert_eq!(u64::from(bucket.rate), second);
        }
    }

    #[test]
    fn a_burst_that_is_asked_for_is_given() {
        let rate = "1mbit".parse().unwrap();
        assert_eq!(bucket(rate, Some(Bytes::mib(1))).burst, 1 << 20);
        let least = u32::try_from(SMALLEST_BURST).unwrap();
        assert_eq!(bucket(rate, Some(Bytes(1))).burst, least);
    }
}
