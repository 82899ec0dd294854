//! What guests are guaranteed of memory, kept true in the control groups above them (cgroup version
//! 2): summed up anew whenever a guest that has such a guarantee starts, changes or ends.

use std::time::Duration;

use super::error::{GuestError, Result};
use super::leftover::{Leftover, leftover, told};
use super::manager::Manager;
use crate::kernel::cgroup::{self, Parent};
use crate::kernel::file::Lock;
use crate::model::{GuestName, Status, TenantName};

/// How long a command waits for others that sum up.
const PATIENCE: Duration = Duration::from_secs(60);
/// In so long a command that waits for the lock has it.
const MOMENT: Duration = Duration::from_millis(300);
/// Wrong at so many looks, such moments apart, they are nobody's work.
const LOOKS: u32 = 4;

impl Manager {
    /// Gives a tenant's group, and what all guests are in, what the guests in it are guaranteed
    /// together.
    pub(super) fn hold_memory(&self, tenant: Option<&TenantName>) -> Result<()> {
        let _held = self.sums()?;
        self.sum_up(tenant)
    }

    fn sum_up(&self, tenant: Option<&TenantName>) -> Result<()> {
        if tenant.is_some()
            && let Some(folder) = self.existing_cgroups_for(tenant)?
        {
            folder.guarantee()?;
        }
        match self.existing_cgroups()? {
            Some(parent) => Ok(parent.guarantee()?),
            None => Ok(()),
        }
    }

    /// The lock of whoever changes what is guaranteed in groups above guests.
    pub(super) fn sums(&self) -> Result<Lock> {
        let path = self.layout.run().join("guarantees.lock");
        Lock::take(&path, PATIENCE)?.ok_or_else(|| {
            GuestError::TimedOut(format!(
                "others sum up what guests are guaranteed, and the time to wait for {} is up; try again",
                path.display()
            ))
        })
    }

    /// Sums that a command which died has left as they were.
    pub(super) fn of_memory(&self, fix: bool, found: &mut Vec<Leftover>) -> Result<()> {
        let Some(parent) = self.existing_cgroups()? else {
            return Ok(());
        };
        let mut tenants = Vec::new();
        for group in cgroup::list(&parent)? {
            tenants.extend(TenantName::of_group(&group));
        }
        if self.wrong_sum(&parent, &tenants)?.is_none() {
            return Ok(());
        }
        for look in 1..=LOOKS {
            // Nobody is at work on them now, or has been.
            let held = self.sums()?;
            let Some(name) = self.wrong_sum(&parent, &tenants)? else {
                return Ok(());
            };
            // A guest that starts, changes or ends has or had its own before the sums follow.
            let names = self.all_names()?;
            if names.iter().any(|name| self.is_on_its_way(name)) {
                return Ok(());
            }
            // Whoever changes one puts them right as soon as it has our lock, and another may do so after
            // it. Who is at work on one for an hour, for a copy of it say, does something else.
            if look < LOOKS && names.iter().any(|name| self.idle(name).is_none()) {
                drop(held);
                std::thread::sleep(MOMENT);
                continue;
            }
            let all = || {
                tenants
                    .iter()
                    .try_for_each(|tenant| self.sum_up(Some(tenant)))?;
                self.sum_up(None)
            };
            found.push(leftover("memory guarantees", name, told(fix.then(all))));
            break;
        }
        Ok(())
    }

    fn is_on_its_way(&self, name: &GuestName) -> bool {
        let status = self.status_there(name);
        matches!(status, Ok(Status::Starting | Status::Stopping))
    }

    /// The first group that has another sum than it should.
    fn wrong_sum(&self, parent: &Parent, tenants: &[TenantName]) -> Result<Option<String>> {
        for tenant in tenants {
            if let Some(folder) = parent.folder(&tenant.group())?
                && !folder.is_guaranteed()?
            {
                return Ok(Some(tenant.group()));
            }
        }
        Ok((!parent.is_guaranteed()?).then(|| "all guests".to_owned()))
    }
}
