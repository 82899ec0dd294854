//! An account that could not be written when its guest ended, because the disk was full: kept where a
//! reboot forgets it, in the place of the one on disk, until that can be written. It goes with the very
//! file that it comes after, so a guest takes it along to another name, and no other guest ever has it.

use std::path::PathBuf;

use super::account::{Account, LONGEST};
use super::account_note::stamp;
use super::error::Result;
use super::manager::Manager;
use crate::kernel::file;
use crate::model::GuestName;

impl Manager {
    /// What could not be written yet.
    pub(super) fn late_account(&self, name: &GuestName) -> Option<Account> {
        let text = file::read_small(&self.late_path(name)?, LONGEST).ok()??;
        serde_json::from_slice(&text).ok()
    }

    /// Writes a guest's account. With `last` its counters are about to go: if the disk is full it is kept
    /// beside it.
    pub(super) fn write_account(&self, name: &GuestName, now: &Account, last: bool) -> Result<()> {
        let text = serde_json::to_vec(now).unwrap_or_default();
        // Of the file that is there now: once it is written it is another.
        let late = self.late_path(name);
        let full = match file::write_whole(&self.account_path(name), &text, 0o600) {
            Err(error) if last && error.is_disk_full() => error,
            done => {
                done?;
                if let Some(late) = late {
                    // Mostly there is none.
                    let _gone = std::fs::remove_file(late);
                }
                return Ok(());
            }
        };
        let late = late.ok_or(full)?;
        file::make_private_dir(&self.late_folder())?;
        Ok(file::write_runtime(&late, &text, 0o600)?)
    }

    fn late_folder(&self) -> PathBuf {
        self.layout.run().join("accounts")
    }

    fn late_path(&self, name: &GuestName) -> Option<PathBuf> {
        let account = stamp(&self.account_path(name));
        let (inode, s, ns) =
            account.or_else(|| stamp(&self.layout.guest(name).join("machine.json")))?;
        Some(self.late_folder().join(format!("{inode}.{s}.{ns}.json")))
    }
}
