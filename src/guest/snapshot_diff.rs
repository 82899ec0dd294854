//! What has changed in a guest's files since a snapshot, or between two of them.

use super::error::{GuestError, Result};
use super::manager::Manager;
use super::snapshot::Snapshot;
use crate::model::{GuestName, Status};
use crate::storage::{self, TreeDiff, TreeOf, TwoTrees};

/// What was compared, and what is different.
#[derive(Debug)]
pub struct SnapshotDiff {
    /// Name of the snapshot that was begun with.
    pub from: String,
    /// Name of the other; `None` for the guest as it is now.
    pub to: Option<String>,
    /// Whether the guest went on writing meanwhile, so that this is what was seen.
    pub moves: bool,
    /// Differences.
    pub found: TreeDiff,
}

impl Manager {
    /// Compares a guest's files as they were at the snapshot `from`, without one at the snapshot that
    /// the guest came from last, with those at `to`, without one with those it has now.
    ///
    /// # Errors
    /// There is no such snapshot, or none at all; something cannot be read, or is changed by another
    /// command meanwhile; another command is at work on the guest for long.
    pub fn diff_snapshots(
        &self,
        name: &GuestName,
        from: Option<&str>,
        to: Option<&str>,
    ) -> Result<SnapshotDiff> {
        let before = match from {
            Some(from) => self.snapshot(name, from)?,
            None => self.last_snapshot(name)?,
        };
        let after = to.map(|to| self.snapshot(name, to)).transpose()?;
        let status = self.status(name)?;
        if after.is_none() && status == Status::Creating {
            return Err(GuestError::WrongState {
                verb: "compare",
                name: name.clone(),
                status,
                advice: Some("delete it, and create it again"),
            });
        }
        let below = storage::load_image(&self.layout, &before.image)?;
        let digest = match &after {
            Some(after) => after.image.clone(),
            None => storage::image_digest(&self.layout, name)
                .map_err(|error| self.root_error(name, error))?,
        };
        let image = storage::load_image(&self.layout, &digest)?;
        let other = match &after {
            Some(after) => TreeOf::Saved(&after.root, &image),
            None => TreeOf::Now(name, &image),
        };
        let kept_ms = after.as_ref().map_or(u64::MAX, |after| after.created_ms);
        let failed = |error| self.root_error(name, error);
        let trees = [TreeOf::Saved(&before.root, &below), other];
        let lock = self.lock(name, "snapshot diff")?;
        let trees = TwoTrees::open(&self.layout, trees).map_err(failed)?;
        drop(lock);
        let found = trees.diff(before.created_ms.min(kept_ms));
        let lock = self.lock(name, "snapshot diff")?;
        // Whether they are the same still explains what could not be read, too.
        let same = trees.close();
        drop(lock);
        same.map_err(failed)?;
        let found = found.map_err(failed)?;
        Ok(SnapshotDiff {
            from: before.name,
            moves: after.is_none() && status != Status::Stopped,
            to: after.map(|after| after.name),
            found,
        })
    }

    /// The snapshot that a guest was last taken at or put back to; where that is gone, the newest.
    fn last_snapshot(&self, name: &GuestName) -> Result<Snapshot> {
        let mut all = self.snapshots(name)?;
        let came_from = self.machine(name)?.snapshot;
        let at = all
            .iter()
            .position(|one| Some(&one.name) == came_from.as_ref());
        if let Some(at) = at {
            return Ok(all.swap_remove(at));
        }
        all.pop().ok_or_else(|| GuestError::NothingKept {
            guest: name.clone(),
        })
    }
}
