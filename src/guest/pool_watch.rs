//! Pools that are nearly full: told of once by whichever keeper of a guest in it sees it first, and by
//! `doctor` as long as it is so. What a full one does to its guests they cannot help themselves.

use std::path::PathBuf;

use super::doctor::{Finding, Grade};
use super::error::Result;
use super::manager::Manager;
use crate::kernel::file;
use crate::model::{Bytes, EventKind, GuestName};
use crate::storage::{self, Pool};

/// So full, percent, is nearly full; and it is not any more below that.
const NEARLY_FULL: u64 = 90;
const ROOMY: u64 = 85;

impl Manager {
    /// Looks at the pool that a running guest lies in, and tells of it when it is nearly full and nobody
    /// has yet. Two who see it in one moment both tell.
    ///
    /// # Errors
    /// The pool cannot be looked at, the event not be written.
    pub(super) fn look_at_pool(&self, name: &GuestName) -> Result<()> {
        let pool = Pool::load(&self.layout, &self.guest(name)?.disk.pool)?;
        let room = pool.room(&self.layout)?;
        let percent = percent(room.size, room.free);
        let folder = self.layout.run().join("pools");
        let told = self.pool_told(&pool.name);
        if percent < ROOMY {
            // Usually nobody has told.
            let _none = std::fs::remove_file(&told);
        } else if percent >= NEARLY_FULL && !told.exists() {
            let kind = EventKind::PoolNearlyFull {
                pool: pool.name,
                percent,
                free: room.free,
            };
            self.record(name, kind)?;
            file::make_private_dir(&folder)?;
            file::write_whole(&told, b"", 0o600)?;
        }
        Ok(())
    }

    /// There if it was told that the pool is nearly full.
    fn pool_told(&self, pool: &str) -> PathBuf {
        self.layout.run().join("pools").join(format!("{pool}.near"))
    }

    /// A pool that is to go takes along that it was told of: the next one of its name is another.
    pub fn forget_pool(&self, pool: &str) {
        // Usually nobody has told.
        let _none = std::fs::remove_file(self.pool_told(pool));
    }

    /// A finding for each pool that is nearly full.
    pub(super) fn pool_findings(&self) -> Vec<Finding> {
        let pools = storage::pools(&self.layout).unwrap_or_default();
        pools
            .iter()
            .filter_map(|pool| {
                let room = pool.room(&self.layout).ok()?;
                let full = nearly_full(room.size, room.free)?;
                let left = Bytes(room.free);
                let text = format!(
                    "{full}, {left} left: give it more room, or take guests, snapshots and images away"
                );
                Some(Finding {
                    grade: Grade::Partial,
                    subject: format!("pool {}", pool.name),
                    text,
                })
            })
            .collect()
    }
}

/// What there is to say of a pool with so many bytes, of which so many are left: nothing as long as there
/// is room.
#[must_use]
pub fn nearly_full(size: u64, free: u64) -> Option<String> {
    let percent = percent(size, free);
    (percent >= NEARLY_FULL).then(|| format!("{percent}% full"))
}

fn percent(size: u64, free: u64) -> u64 {
    let used = size.saturating_sub(free);
    used.saturating_mul(100).checked_div(size).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_is_told_of_when_a_tenth_is_left() {
        assert_eq!(nearly_full(1000, 101), None);
        assert_eq!(nearly_full(1000, 100).as_deref(), Some("90% full"));
        // One that cannot say how large it is is never full.
        assert_eq!(nearly_full(0, 0), None);
    }
}
