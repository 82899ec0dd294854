//! How long snapshots stay: until somebody removes them, as the rules of their guest say, or until a
//! day; and removing those whose day has come. Whoever looks after snapshots by the clock and after the
//! trash does that.

use super::error::Result;
use super::manager::{Manager, now_ms};
use super::snapshot::Snapshot;
use crate::model::GuestName;

/// How long a snapshot stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stay {
    /// Until somebody removes it.
    Always,
    /// As the rules of its guest say.
    ByRule,
    /// Until then, milliseconds since 1970.
    Until(u64),
}

impl Snapshot {
    /// Whether it has been kept for its time.
    #[must_use]
    pub fn is_outlived(&self) -> bool {
        self.until_ms.is_some_and(|until| until <= now_ms())
    }
}

impl Manager {
    /// A guest's snapshots that have been kept for their time, oldest first.
    ///
    /// # Errors
    /// There is no such guest, or a record cannot be read.
    pub fn outlived(&self, name: &GuestName) -> Result<Vec<Snapshot>> {
        let mut all = self.snapshots(name)?;
        all.retain(Snapshot::is_outlived);
        Ok(all)
    }

    /// Whether there is a snapshot of a guest that goes by itself one day. Where that cannot be told
    /// there may be one, and whoever looks is told why.
    pub(super) fn has_deadline(&self, name: &GuestName) -> bool {
        let all = self.snapshots(name);
        all.map_or(true, |all| all.iter().any(|one| one.until_ms.is_some()))
    }

    /// Removes a guest's snapshots that have been kept for their time; tells their names.
    ///
    /// # Errors
    /// One cannot be removed, or is mounted.
    pub fn drop_outlived(&self, name: &GuestName) -> Result<Vec<String>> {
        if self.outlived(name)?.is_empty() {
            return Ok(Vec::new());
        }
        let _lock = self.lock(name, "snapshot")?;
        self.forget_all(name, self.outlived(name)?)
    }

    /// Removes these snapshots of a guest, as far as that goes; tells their names. Its lock is held.
    pub(super) fn forget_all(&self, name: &GuestName, gone: Vec<Snapshot>) -> Result<Vec<String>> {
        let mut removed = Vec::new();
        let mut failed = None;
        for one in gone {
            match self.forget(name, &one) {
                Ok(()) => removed.push(one.name),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        if !removed.is_empty() {
            self.drop_unused();
        }
        failed.map_or(Ok(removed), Err)
    }
}
