//! Making, changing, showing and deleting tenants. A change is written down first and is then put
//! into force on the tenant's group and on its running guests; one that a command did not live to
//! finish, `doctor` names, and saying it again finishes it.

use serde::Serialize;

use super::error::{GuestError, Result};
use super::manager::Manager;
use super::tenant::limits;
use crate::kernel::{fault, file};
use crate::model::{Amounts, GuestName, Resource, TenantCaps, TenantName};

/// A tenant, as `tenant info` shows it.
#[derive(Debug, Serialize)]
pub struct TenantView {
    /// Its name.
    pub name: TenantName,
    /// What its guests may use together.
    #[serde(flatten)]
    pub caps: TenantCaps,
    /// Bytes of memory that its guests hold now; `None` while none runs.
    pub memory_held: Option<u64>,
    /// Processes and threads of its guests now.
    pub processes_held: Option<u64>,
    /// What its running guests are guaranteed.
    pub guaranteed: Amounts,
    /// Guests in its group now.
    pub running: Vec<GuestName>,
    /// Guests whose definitions name it.
    pub guests: Vec<GuestName>,
}

impl Manager {
    /// A tenant with its guests.
    ///
    /// # Errors
    /// There is none, or a file cannot be read.
    pub fn tenant_view(&self, name: &TenantName) -> Result<TenantView> {
        let caps = self.tenant_caps(name)?;
        let group = self.tenant_group(name)?;
        let counters = group.map(|group| group.counters()).transpose()?;
        Ok(TenantView {
            name: name.clone(),
            caps,
            memory_held: counters.as_ref().and_then(|all| all.memory.held),
            processes_held: counters.as_ref().and_then(|all| all.processes.held),
            guaranteed: self.tenant_promised(name, None)?,
            running: self.members(name)?,
            guests: self.tenant_guests(name)?,
        })
    }

    /// Guests whose definitions name a tenant; one that is broken names none.
    fn tenant_guests(&self, tenant: &TenantName) -> Result<Vec<GuestName>> {
        let (mut all, profiles) = (self.all_names()?, self.profiles()?);
        all.retain(|name| {
            let text = crate::define::read_file(&self.definition_path(name));
            let guest = text.ok().map(|text| self.define_by(name, &text, &profiles));
            guest.is_some_and(|guest| guest.is_ok_and(|g| g.tenant.as_ref() == Some(tenant)))
        });
        Ok(all)
    }

    /// Makes a tenant.
    ///
    /// # Errors
    /// There is one of that name, or the limits are none.
    pub fn create_tenant(&self, name: &TenantName, caps: &TenantCaps, dry_run: bool) -> Result<()> {
        check(name, caps)?;
        let _changes = self.tenant_changes()?;
        let _held = self.lock_tenant(name)?;
        if self.layout.tenant(name).exists() {
            return Err(GuestError::TenantExists(name.clone()));
        }
        match dry_run {
            true => Ok(()),
            false => self.write_tenant(name, caps),
        }
    }

    /// Gives a tenant other limits, at once for those of its guests that run: `change` is told those
    /// it has.
    ///
    /// # Errors
    /// There is none, its guests are guaranteed or use more, or the kernel refuses; then the limits
    /// before are in force again.
    pub fn change_tenant(
        &self,
        name: &TenantName,
        change: impl FnOnce(TenantCaps) -> TenantCaps,
        dry_run: bool,
    ) -> Result<()> {
        let _changes = self.tenant_changes()?;
        let before = match self.tenant_caps(name) {
            // It is written anew.
            Err(GuestError::Damaged { .. }) => TenantCaps::default(),
            before => before?,
        };
        let caps = change(before);
        check(name, &caps)?;
        self.keeps_promises(name, &caps)?;
        self.check_rates(name, &caps, &self.tenant_guests(name)?)?;
        if dry_run {
            return Ok(());
        }
        let done = self.bring_tenant(name, &before, &caps);
        if done.is_err() {
            // The error that matters is that of the change; `doctor` names what is left.
            let _same = self.bring_tenant(name, &caps, &before);
        }
        done
    }

    /// Version 1 never lets a group inside have a larger CPU limit than the one around it, not for
    /// a moment: lowered, the guests go first, raised, the tenant does.
    fn bring_tenant(&self, name: &TenantName, from: &TenantCaps, to: &TenantCaps) -> Result<()> {
        let lowered = match (from.cpus, to.cpus) {
            (Some(from), Some(to)) => to.hundredths() < from.hundredths(),
            (None, Some(_)) => true,
            _ => false,
        };
        let held = self.lock_tenant(name)?;
        fault::point()?;
        self.write_tenant(name, to)?;
        fault::point()?;
        if lowered {
            drop(held);
            self.bring_members(name)?;
            let held = self.lock_tenant(name)?;
            let folder = self.existing_cgroups_for(Some(name))?;
            if let (Some(folder), Some(most)) = (folder, limits(to).cpu_quota_us) {
                folder.lower_quotas(most)?;
            }
            self.limit_tenant(name, to)?;
            drop(held);
            return self.settle_trunks(name);
        }
        self.limit_tenant(name, to)?;
        drop(held);
        self.bring_members(name)?;
        self.settle_trunks(name)
    }

    /// Puts into force what is written down of a tenant, whichever way it was changed.
    pub(super) fn settle_tenant(&self, name: &TenantName) -> Result<()> {
        let caps = self.tenant_caps(name)?;
        let limit = || {
            let _held = self.lock_tenant(name)?;
            self.limit_tenant(name, &caps)
        };
        let raised = limit();
        self.bring_members(name)?;
        self.settle_trunks(name)?;
        raised.or_else(|_| limit())
    }

    fn limit_tenant(&self, name: &TenantName, caps: &TenantCaps) -> Result<()> {
        fault::point()?;
        // Its limits are written beside what its guests are guaranteed, which is summed up there.
        let _sums = self.sums()?;
        if let Some(parent) = self.existing_cgroups()?
            && self.tenant_group(name)?.is_some()
        {
            parent.limit_folder(&name.group(), &limits(caps))?;
        }
        Ok(())
    }

    /// Running guests of a tenant get what they have in force now.
    fn bring_members(&self, tenant: &TenantName) -> Result<()> {
        for name in self.members(tenant)? {
            fault::point()?;
            let _lock = self.lock(&name, "tenant set")?;
            match self.reapply(&name) {
                // It was deleted meanwhile.
                Err(GuestError::Missing { .. }) => {}
                done => done?,
            }
        }
        Ok(())
    }

    /// Deletes a tenant that no guest's definition names.
    ///
    /// # Errors
    /// There is none, or guests have it.
    pub fn delete_tenant(&self, name: &TenantName, dry_run: bool) -> Result<()> {
        let _changes = self.tenant_changes()?;
        let _held = self.lock_tenant(name)?;
        // Only that it is there: a damaged record must not keep it from being deleted.
        if !self.layout.tenant(name).exists() {
            self.tenant_caps(name)?;
        }
        let mut guests = self.tenant_guests(name)?;
        guests.extend(self.members(name)?);
        guests.sort();
        guests.dedup();
        if !guests.is_empty() {
            return Err(GuestError::TenantInUse {
                name: name.clone(),
                guests: guests.iter().map(ToString::to_string).collect(),
            });
        }
        if dry_run {
            return Ok(());
        }
        if let Some(parent) = self.existing_cgroups()? {
            parent.remove_folder(&name.group())?;
        }
        self.leave_trunks(name)?;
        fault::point()?;
        let path = self.layout.tenant(name);
        std::fs::remove_file(&path)
            .map_err(crate::kernel::KernelError::io("remove", path.display()))?;
        Ok(())
    }

    fn write_tenant(&self, name: &TenantName, caps: &TenantCaps) -> Result<()> {
        file::make_private_dir(&self.layout.tenants())?;
        fault::point()?;
        let text = serde_json::to_vec(caps).unwrap_or_default();
        Ok(file::write_whole(&self.layout.tenant(name), &text, 0o600)?)
    }

    fn keeps_promises(&self, name: &TenantName, caps: &TenantCaps) -> Result<()> {
        let held = self.tenant_promised(name, None)?;
        let none = Amounts::default();
        match caps.excess(held, none, none) {
            None => Ok(()),
            Some((what, ..)) => Err(GuestError::Tenant {
                name: name.clone(),
                why: format!(
                    "its running guests are guaranteed {}: {} cannot be less",
                    what.exactly(held.of(what)),
                    match what {
                        Resource::Memory => "its memory",
                        Resource::Cpus => "its CPUs",
                    }
                ),
            }),
        }
    }
}

fn check(name: &TenantName, caps: &TenantCaps) -> Result<()> {
    caps.check().map_err(|why| GuestError::Tenant {
        name: name.clone(),
        why,
    })
}
