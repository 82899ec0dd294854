//! Blocks of host ids: each guest has one of its own for its whole life. Who has which is written
//! only in the guests' own records, so a block is free when its guest's data is gone and not before.

use std::collections::BTreeSet;
use std::time::Duration;

use super::error::{GuestError, Result};
use super::manager::Manager;
use crate::kernel::file::{self, Lock};
use crate::model::IdBlock;

impl Manager {
    /// Finds a free block and has `keep` write it down, while nobody else looks for one.
    pub(super) fn with_free_ids<T>(&self, keep: impl FnOnce(IdBlock) -> Result<T>) -> Result<T> {
        let lock = Lock::take(&self.layout.run().join("ids.lock"), Duration::from_secs(30))?;
        let _lock = lock.ok_or_else(|| {
            GuestError::TimedOut("another command has been looking for free ids for 30 s".into())
        })?;
        let taken = self.taken()?;
        let ids = self.settings.ids;
        // Other installations on this machine begin elsewhere in the same range.
        let blocks = ids.count / IdBlock::STRIDE;
        let offset = u32::from_str_radix(self.layout.tag(), 16).unwrap_or(0) % blocks.max(1);
        (0..blocks)
            .map(|n| IdBlock { base: ids.first + (n + offset) % blocks * IdBlock::STRIDE })
            .find(|block| !taken.contains(&block.base))
            .ok_or_else(|| GuestError::Exhausted(format!("all {blocks} blocks of ids are taken: delete a guest, or raise [ids] count in bulkhead.toml")))
            .and_then(keep)
    }

    /// Bases of all blocks that a guest has, also one whose data is still being deleted.
    fn taken(&self) -> Result<BTreeSet<u32>> {
        #[derive(serde::Deserialize)]
        struct Ids {
            ids: IdBlock,
        }
        let folder = self.layout.guests();
        let entries = std::fs::read_dir(&folder)
            .map_err(crate::kernel::KernelError::io("read", folder.display()))?;
        let mut taken = BTreeSet::new();
        for entry in entries.flatten() {
            let text = file::read_small(&entry.path().join("machine.json"), 1 << 16)
                .ok()
                .flatten();
            if let Some(record) = text.and_then(|text| serde_json::from_slice::<Ids>(&text).ok()) {
                taken.insert(record.ids.base);
            }
        }
        Ok(taken)
    }
}
