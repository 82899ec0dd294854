//! Tenants: a control group above the guests of one, so that all of them together keep to the
//! tenant's limits while each may use what the others leave. The group is made with the tenant's
//! first guest and goes with its last. How a tenant is made and changed is in `tenant_change`.
//!
//! A guest's run state says in whose group it is: it is written before the group is asked for, and
//! removed before the group is. Making and removing are done under the tenant's lock, and removing
//! looks at the run states first, so neither takes the group from under the other.

use std::path::PathBuf;
use std::time::Duration;

use super::as_it_runs::keeps;
use super::error::{GuestError, Result};
use super::leftover::{Leftover, leftover, told};
use super::manager::{Manager, RECORD};
use crate::kernel::cgroup::{self, Group, Limits, Parent};
use crate::kernel::fault;
use crate::kernel::file::{self, Lock};
use crate::model::{Amounts, Guest, GuestName, Resource, Status, TenantCaps, TenantName, nearest};

/// How long a command waits for others that make, change or remove a tenant's group.
const PATIENCE: Duration = Duration::from_secs(60);
/// The kernel's usual period, microseconds.
const PERIOD_US: u64 = 100_000;

/// A tenant's lock, held. Its file goes with the tenant: whoever lets go of the lock of one that is
/// not there removes it.
#[derive(Debug)]
pub(super) struct TenantLock {
    _held: Lock,
    path: PathBuf,
    record: PathBuf,
}

impl Drop for TenantLock {
    fn drop(&mut self) {
        if !self.record.exists() {
            let _gone = std::fs::remove_file(&self.path);
        }
    }
}

impl Manager {
    /// All tenants.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn tenants(&self) -> Result<Vec<TenantName>> {
        let folder = self.layout.tenants();
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => {
                return Err(crate::kernel::KernelError::io("read", folder.display())(error).into());
            }
        };
        let name = |entry: std::io::Result<std::fs::DirEntry>| {
            let name = entry.ok()?.file_name().into_string().ok()?;
            name.strip_suffix(".json")?.parse().ok()
        };
        let mut all: Vec<TenantName> = entries.filter_map(name).collect();
        all.sort();
        Ok(all)
    }

    /// What a tenant's guests may use together.
    ///
    /// # Errors
    /// There is no such tenant, or its record cannot be understood.
    pub fn tenant_caps(&self, name: &TenantName) -> Result<TenantCaps> {
        let path = self.layout.tenant(name);
        let Some(text) = file::read_small(&path, RECORD)? else {
            let known = self.tenants().unwrap_or_default();
            let near = nearest(name.as_str(), known.iter().map(TenantName::as_str));
            return Err(GuestError::NoTenant {
                name: name.clone(),
                near: near.map(str::to_owned),
            });
        };
        serde_json::from_slice(&text).map_err(|error| GuestError::Damaged {
            path: path.display().to_string(),
            why: error.to_string(),
            advice: "`bulkhead tenant set` writes it anew, with no limits but those that it is given",
        })
    }

    /// Refuses a guest whose tenant is not there.
    pub(super) fn check_tenant(&self, guest: &Guest) -> Result<()> {
        let Some(tenant) = &guest.tenant else {
            return Ok(());
        };
        match self.tenant_caps(tenant) {
            Ok(_) => Ok(()),
            Err(GuestError::NoTenant { near, .. }) => Err(GuestError::Host {
                key: "tenant",
                what: tenant.to_string(),
                why: match near {
                    Some(near) => format!("there is no such tenant: did you mean {near}?"),
                    None => format!(
                        "there is no such tenant: `bulkhead tenant create {tenant}` makes it"
                    ),
                },
            }),
            Err(error) => Err(error),
        }
    }

    /// A guest with no more than its tenant has: that of its run, or else of its definition.
    pub(super) fn held_by_tenant(&self, name: &GuestName, guest: &mut Guest) {
        let state = self.run_state(name).ok().flatten();
        let runs = |status| matches!(status, Status::Running | Status::Paused | Status::Stopping);
        let state = state.filter(|state| runs(self.status_of(name, Some(state))));
        let tenant = match state {
            Some(state) => state.tenant,
            None => guest.tenant.clone(),
        };
        let Some(tenant) = tenant else {
            return;
        };
        if let Ok(caps) = self.tenant_caps(&tenant) {
            caps.hold(guest);
            guest.network.tenant = caps.rates(&tenant);
        }
    }

    /// The lock of whoever makes, changes or deletes a tenant, from looking to having done it: two
    /// that give a tenant other limits do not take back what the other has given.
    pub(super) fn tenant_changes(&self) -> Result<Lock> {
        let path = self.tenant_changes_path();
        Lock::take(&path, PATIENCE)?.ok_or_else(|| {
            GuestError::TimedOut(format!(
                "another command changes tenants, and the time to wait for {} is up; try again",
                path.display()
            ))
        })
    }

    fn tenant_changes_path(&self) -> PathBuf {
        self.layout.run().join("tenants.lock")
    }

    /// A tenant's lock, for making, changing and removing its group.
    pub(super) fn lock_tenant(&self, name: &TenantName) -> Result<TenantLock> {
        let path = self.layout.tenant_lock(name);
        file::make_private_dir(&self.layout.run().join("tenants"))?;
        let Some(held) = Lock::take(&path, PATIENCE)? else {
            return Err(GuestError::TimedOut(format!(
                "another command is at work on tenant {name}, and the time to wait for it is up"
            )));
        };
        Ok(TenantLock {
            _held: held,
            path,
            record: self.layout.tenant(name),
        })
    }

    /// The cgroup that a guest is to be in, its tenant's or that of all; made if need be. The run
    /// state of the guest says which already.
    pub(super) fn cgroups_for(&self, guest: &Guest) -> Result<Parent> {
        let parent = self.cgroups()?;
        let Some(tenant) = &guest.tenant else {
            return Ok(parent);
        };
        let _held = self.lock_tenant(tenant)?;
        let limits = limits(&self.tenant_caps(tenant)?);
        // One that is half-made is given its limits, beside what is summed up there.
        let sums = self.sums()?;
        let folder = parent.ensure_folder(&tenant.group(), &limits)?;
        drop(sums);
        folder.weigh(Some(guest.cpu.weight.into()))?;
        Ok(folder)
    }

    /// Gives the group of a running guest's tenant the weight that its guests have together now.
    pub(super) fn reweigh_tenant(&self, name: &GuestName) -> Result<()> {
        let Some(tenant) = self.run_state(name)?.and_then(|state| state.tenant) else {
            return Ok(());
        };
        let _held = self.lock_tenant(&tenant)?;
        match self.existing_cgroups_for(Some(&tenant))? {
            Some(folder) => Ok(folder.weigh(None)?),
            None => Ok(()),
        }
    }

    /// The cgroup that guests of a tenant, or of none, are in, if it is there.
    pub(super) fn existing_cgroups_for(
        &self,
        tenant: Option<&TenantName>,
    ) -> Result<Option<Parent>> {
        match (self.existing_cgroups()?, tenant) {
            (Some(parent), Some(tenant)) => Ok(parent.folder(&tenant.group())?),
            (parent, _) => Ok(parent),
        }
    }

    /// A tenant's own group, if it is there.
    pub(super) fn tenant_group(&self, tenant: &TenantName) -> Result<Option<Group>> {
        let Some(parent) = self.existing_cgroups()? else {
            return Ok(None);
        };
        match Group::open(&parent, &tenant.group()) {
            Ok(group) => Ok(Some(group)),
            Err(cgroup::CgroupError::Absent { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes a tenant's group after a guest of it has ended, if it was the last one.
    pub(super) fn leave_tenant(&self, tenant: &TenantName) -> Result<()> {
        let Some(parent) = self.existing_cgroups()? else {
            return Ok(());
        };
        let lock = self.lock_tenant(tenant)?;
        if self.members(tenant)?.is_empty() {
            parent.remove_folder(&tenant.group())?;
        } else if let Some(folder) = parent.folder(&tenant.group())? {
            folder.weigh(None)?;
        }
        fault::point()?;
        self.leave_trunks(tenant)?;
        drop(lock);
        Ok(())
    }

    /// Guests in a tenant's group, and those that are about to be.
    pub(super) fn members(&self, tenant: &TenantName) -> Result<Vec<GuestName>> {
        let mut all = Vec::new();
        self.each_state(None, &mut |name, state| {
            if state.tenant.as_ref() == Some(tenant) {
                all.push(name.clone());
            }
        })?;
        all.sort();
        Ok(all)
    }

    /// What a tenant's guests that are not stopped are guaranteed together, without one of them.
    pub(super) fn tenant_promised(
        &self,
        tenant: &TenantName,
        but: Option<&GuestName>,
    ) -> Result<Amounts> {
        let mut sum = Amounts::default();
        self.each_state(but, &mut |name, state| {
            if state.tenant.as_ref() == Some(tenant)
                && self.status_of(name, Some(state)) != Status::Stopped
            {
                sum = sum.and(state.guaranteed);
            }
        })?;
        Ok(sum)
    }

    /// Refuses to guarantee a guest what its tenant does not have beside its others.
    pub(super) fn tenant_room(
        &self,
        name: &GuestName,
        tenant: Option<&TenantName>,
        wanted: Amounts,
    ) -> Result<()> {
        let Some(tenant) = tenant.filter(|_| !wanted.is_none()) else {
            return Ok(());
        };
        let state = self.run_state(name)?;
        let held = state.filter(|state| state.tenant.as_ref() == Some(tenant));
        let held = held.map(|state| state.guaranteed).unwrap_or_default();
        let others = self.tenant_promised(tenant, Some(name))?;
        match self.tenant_caps(tenant)?.excess(wanted, held, others) {
            None => Ok(()),
            Some((what, cap, excess)) => Err(GuestError::Tenant {
                name: tenant.clone(),
                why: format!(
                    "guest {name} is to be guaranteed {}, its other running guests are guaranteed \
                     {}, which is {} more than its limit of {}; lower {} of a guest, or raise the \
                     limit with `bulkhead tenant set {tenant}`",
                    what.exactly(wanted.of(what)),
                    what.exactly(others.of(what)),
                    what.exactly(excess),
                    what.exactly(cap),
                    key_of(what),
                ),
            }),
        }
    }

    /// Groups of tenants that no guest is in, and groups in them that no run state knows.
    pub(super) fn of_tenants(&self, fix: bool, found: &mut Vec<Leftover>) -> Result<()> {
        let locks = std::fs::read_dir(self.layout.run().join("tenants"));
        for path in locks
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
        {
            let name = path.file_name().and_then(|name| name.to_str());
            let tenant = name.and_then(|name| name.parse::<TenantName>().ok());
            if tenant.is_some_and(|tenant| self.layout.tenant(&tenant).exists()) {
                continue;
            }
            // Whoever has it removes it.
            if Lock::take_there(&path, Duration::ZERO)?.is_some() {
                let done = fix.then(|| std::fs::remove_file(&path).map_err(|e| e.to_string()));
                found.push(leftover("lock", path.display().to_string(), done));
            }
        }
        let Some(parent) = self.existing_cgroups()? else {
            return Ok(());
        };
        for group in cgroup::list(&parent)? {
            let Some(tenant) = TenantName::of_group(&group) else {
                continue;
            };
            let held = self.lock_tenant(&tenant)?;
            let members = self.members(&tenant)?;
            if let Some(inner) = parent.folder(&group)? {
                for name in cgroup::list(&inner)? {
                    if members.iter().any(|member| member.as_str() == name) {
                        continue;
                    }
                    let remove = || Ok(Group::open(&inner, &name)?.remove()?);
                    let name = format!("{group}/{name}");
                    found.push(leftover("cgroup", name, told(fix.then(remove))));
                }
            }
            if members.is_empty() {
                let remove = || parent.remove_folder(&group).map(|_| ());
                let done = told(fix.then(|| Ok(remove()?)));
                found.push(leftover("cgroup", group, done));
                continue;
            }
            drop(held);
            self.of_limits(&tenant, fix, found)?;
        }
        Ok(())
    }

    /// A tenant's limits that a command has written down and died before they were in force.
    fn of_limits(&self, tenant: &TenantName, fix: bool, found: &mut Vec<Leftover>) -> Result<()> {
        let path = self.tenant_changes_path();
        let changes = Lock::take_there(&path, Duration::ZERO)?;
        if changes.is_none() && path.exists() {
            // It is being put into force.
            return Ok(());
        }
        let (Ok(caps), Some(group)) = (self.tenant_caps(tenant), self.tenant_group(tenant)?) else {
            return Ok(());
        };
        let mut same = keeps(&group.counters()?, &limits(&caps), &|_| false);
        for name in self.members(tenant)? {
            // The group goes first where it gets more.
            same = same && !self.is_behind(&name) && self.keeps_to_rates(&name, tenant, &caps)?;
        }
        if !same {
            let set = || self.settle_tenant(tenant);
            found.push(leftover(
                "tenant limits",
                tenant.to_string(),
                told(fix.then(set)),
            ));
        }
        Ok(())
    }
}

/// A tenant's limits as its group has them.
pub(super) fn limits(caps: &TenantCaps) -> Limits {
    Limits {
        cpu_quota_us: caps.cpus.map(|cpus| cpus.quota_us(PERIOD_US)),
        memory: caps.memory.map(|n| n.0),
        pids: caps.processes.map(u64::from),
        io_weight: caps.io_weight.map(u64::from),
        ..Limits::default()
    }
}

/// The key of a definition that guarantees a resource.
fn key_of(what: Resource) -> &'static str {
    match what {
        Resource::Memory => "memory.min and memory.low",
        Resource::Cpus => "cpu.entitled",
    }
}
