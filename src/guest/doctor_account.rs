//! Accounts, of guests and of deleted ones, that cannot be read: nothing that is used is added to them.

use super::account::By;
use super::doctor::{Finding, Grade};
use super::manager::Manager;

impl Manager {
    /// A finding for each guest whose account is damaged, and one for those of deleted guests.
    pub(super) fn account_findings(&self) -> Vec<Finding> {
        let finding = |subject: String, text: String| Finding {
            grade: Grade::Partial,
            subject,
            text,
        };
        let names = self.all_names().unwrap_or_default();
        let of_guests = names.iter().filter_map(|name| {
            let damage = self.account_as_written(name).err()?;
            let text = format!("{damage}; until then nothing that it uses is added");
            Some(finding(format!("account of {name}"), text))
        });
        let of_deleted = self.closed_accounts(By::All).err();
        let of_deleted = of_deleted.map(|e| finding("deleted accounts".into(), e.to_string()));
        of_guests.chain(of_deleted).collect()
    }
}
