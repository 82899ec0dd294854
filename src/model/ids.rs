//! The block of host ids that belongs to one guest.

use serde::{Deserialize, Serialize};

/// Ids inside a guest: 0 to 65,535.
pub const ID_BLOCK: u32 = 65_536;

/// One guest's block of host user and group ids: 65,536 that are mapped inside, and one more, the
/// *owner*, which is not. The owner creates the guest's user namespace, so that the kernel charges
/// inotify instances, pending signals, timers and message queues to a uid that no other guest and
/// no host program has (user_namespaces(7), "ucounts").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdBlock {
    /// The host id that is 0 inside.
    pub base: u32,
}

impl IdBlock {
    /// Host ids one block takes, the owner included, rounded so that blocks begin at round numbers.
    pub const STRIDE: u32 = 2 * ID_BLOCK;

    /// The host id that creates the guest's user namespace and exists nowhere inside.
    #[must_use]
    pub const fn owner(self) -> u32 {
        self.base + ID_BLOCK
    }

    /// The host id of the guest's `inside`; `None` beyond the block.
    #[must_use]
    pub const fn host(self, inside: u32) -> Option<u32> {
        if inside < ID_BLOCK {
            Some(self.base + inside)
        } else {
            None
        }
    }
}
