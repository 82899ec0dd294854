//! Disks of guests that are not what their definitions say was sold.

use super::create::quota;
use super::doctor::{Finding, Grade};
use super::manager::Manager;
use crate::model::GuestName;
use crate::storage;

impl Manager {
    /// A finding for each guest whose disk is of another size than was sold, or cannot be looked at. A guest at
    /// which a command is at work is passed over.
    pub(super) fn disk_findings(&self) -> Vec<Finding> {
        let names = self.names().unwrap_or_default();
        names
            .iter()
            .filter_map(|name| {
                Some(Finding {
                    grade: Grade::Partial,
                    subject: format!("disk of {name}"),
                    text: self.disk_finding(name)?,
                })
            })
            .collect()
    }

    fn disk_finding(&self, name: &GuestName) -> Option<String> {
        let _lock = self.idle(name)?;
        // One that has no definition to read is told of by what needs it.
        let guest = self.guest(name).ok()?;
        match storage::disk_differs(&self.layout, name, quota(&guest)) {
            Ok(None) => None,
            Ok(Some(how)) => Some(format!(
                "{how}: `bulkhead set {name} disk.size=SIZE` makes it what was sold, or says what it has"
            )),
            Err(error) => Some(error.to_string()),
        }
    }
}
