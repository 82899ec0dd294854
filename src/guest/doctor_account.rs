//! Accounts, of guests and of deleted ones, that cannot be read: nothing that is used is added to them. And
//! those that could not be written yet.

use super::account::By;
use super::doctor::{Finding, Grade};
use super::manager::Manager;

/// Of one that is in memory only.
const LATE: &str = "the disk was full when the guest ended: what it used is kept until the host's next start \
and written when the guest runs again; make room before that";

impl Manager {
    /// A finding for each guest whose account is damaged or not written, and one for damaged ones of
    /// deleted guests.
    pub(super) fn account_findings(&self) -> Vec<Finding> {
        let finding = |subject: String, text: String| Finding {
            grade: Grade::Partial,
            subject,
            text,
        };
        let names = self.all_names().unwrap_or_default();
        let of_guests = names.iter().filter_map(|name| {
            let text = match self.account_as_written(name) {
                Err(damage) => format!("{damage}; until then nothing that it uses is added"),
                Ok(_) => {
                    self.late_account(name)?;
                    LATE.to_owned()
                }
            };
            Some(finding(format!("account of {name}"), text))
        });
        let of_deleted = self.closed_accounts(By::All).err();
        let of_deleted = of_deleted.map(|e| finding("deleted accounts".into(), e.to_string()));
        of_guests.chain(of_deleted).collect()
    }
}
