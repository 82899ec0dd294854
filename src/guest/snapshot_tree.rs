//! Snapshots as a tree: which one each came after, and the guest.

use super::error::Result;
use super::manager::Manager;
use super::snapshot::Snapshot;
use crate::kernel::file;
use crate::model::GuestName;

impl Manager {
    /// Writes a snapshot's record.
    pub(super) fn write_snapshot(&self, name: &GuestName, one: &Snapshot) -> Result<()> {
        file::make_private_dir(&self.snapshots_folder(name))?;
        let text = serde_json::to_vec_pretty(one).unwrap_or_default();
        let path = self.snapshot_path(name, &one.name);
        Ok(file::write_whole(&path, &text, 0o600)?)
    }

    /// What came after a snapshot that goes comes after the one before it from now on.
    pub(super) fn close_gap(&self, name: &GuestName, gone: &Snapshot) -> Result<()> {
        let is_it = |parent: &Option<String>| parent.as_deref() == Some(gone.name.as_str());
        let all = self.snapshot_records(name)?;
        // Of several that go one after the other, what the caller knows may be of before.
        let now = all.iter().find(|one| one.name == gone.name);
        let parent = now.map_or(&gone.parent, |now| &now.parent).clone();
        for mut one in all {
            if is_it(&one.parent) {
                one.parent.clone_from(&parent);
                self.write_snapshot(name, &one)?;
            }
        }
        match self.machine_if_there(name)? {
            Some(mut machine) if is_it(&machine.snapshot) => {
                machine.snapshot = parent;
                self.write_machine(name, &machine)
            }
            _ => Ok(()),
        }
    }

    /// The snapshot that a guest came from last, if that is still there.
    ///
    /// # Errors
    /// There is no such guest, or a record cannot be read.
    pub fn latest_snapshot(&self, name: &GuestName) -> Result<Option<String>> {
        let there = self.snapshots(name)?;
        let machine = self.machine_if_there(name)?;
        let from = machine.and_then(|machine| machine.snapshot);
        Ok(from.filter(|from| there.iter().any(|one| one.name == *from)))
    }
}
