//! What commands that died have left: named, and removed. A command at work holds its guest's lock,
//! so whatever is looked at here is looked at under that lock; what is locked is left alone.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use super::error::{GuestError, Result};
use super::manager::Manager;
use super::networks::network;
use super::store::GuestLock;
use crate::kernel::cgroup::{self, Group};
use crate::kernel::file::{self, Lock};
use crate::kernel::mount;
use crate::model::{GuestName, Status, TenantName};
use crate::storage;

/// How long a command at work is waited for before its guest is passed over.
const PATIENCE: Duration = Duration::from_millis(200);
/// How often, and how far apart, it is looked whether a keeper is still there: a quarter of a second.
const KEEPER_LOOKS: usize = 6;
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

/// Something that is left of a command that died.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Leftover {
    /// `half-made guest`, `half-renamed guest`, `held guest`, `stopped guest`, `run state`, `undo disk`, `cgroup`, `interface`,
    /// `damaged file`, `bridge without its firewall`, `network server`, `address on a bridge`, `announcement`, `vanished installation`,
    /// `firewall entry`, `firewall rules`, `ports`,
    /// `address`, `lock`, `snapshot mount`, `CPUs`, `CPU weight`, `tenant limits`, `memory guarantees`, `uncounted credits`, `goal's limit`, `file`.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// Whether it was removed, or put in order.
    pub removed: bool,
    /// Why not.
    pub why: Option<String>,
}

impl Manager {
    /// What is left of commands that died; with `fix`, removes it.
    ///
    /// # Errors
    /// The folders of this installation cannot be read.
    pub fn leftovers(&self, fix: bool) -> Result<Vec<Leftover>> {
        let mut found = Vec::new();
        for name in self.all_names()? {
            self.of_guest(&name, fix, &mut found)?;
            self.of_comeback(&name, fix, &mut found)?;
        }
        self.of_cpus(fix, &mut found)?;
        self.of_portions(fix, &mut found)?;
        if !self.of_networks(fix, &mut found)? {
            return Ok(found);
        }
        for name in self.without_guest()? {
            self.of_nobody(&name, fix, &mut found)?;
        }
        self.of_tenants(fix, &mut found)?;
        self.of_trunks(fix, &mut found)?;
        self.of_memory(fix, &mut found)?;
        for stale in self.stale_mounts()? {
            let unmount = || mount::unmount_path(&stale.folder).map_err(|e| e.to_string());
            let name = stale.folder.display().to_string();
            found.push(leftover("snapshot mount", name, fix.then(unmount)));
        }
        for path in self.temporaries() {
            let done = fix.then(|| std::fs::remove_file(&path).map_err(|e| e.to_string()));
            found.push(leftover("file", path.display().to_string(), done));
        }
        for stray in storage::leftovers(&self.layout).map_err(|e| GuestError::Image(e.into()))? {
            let done = fix
                .then(|| storage::remove_leftover(&self.layout, &stray).map_err(|e| e.to_string()));
            found.push(leftover("file", stray.path.display().to_string(), done));
        }
        Ok(found)
    }

    /// The lock, unless a command is at work on that guest.
    pub(super) fn idle(&self, name: &GuestName) -> Option<GuestLock> {
        self.lock_within(name, "doctor", PATIENCE).ok()
    }

    /// A guest that is half-made or half-renamed, or whose run was cut short.
    fn of_guest(&self, name: &GuestName, fix: bool, found: &mut Vec<Leftover>) -> Result<()> {
        let Some(_lock) = self.idle(name) else {
            return Ok(());
        };
        let Ok(status) = self.status_there(name) else {
            return Ok(());
        };
        if status == Status::Creating {
            let done = fix.then(|| self.put_away(name, None).and_then(|()| self.discard(name)));
            found.push(leftover("half-made guest", name.to_string(), told(done)));
            return Ok(());
        }
        if self
            .machine_if_there(name)
            .is_ok_and(|m| m.is_some_and(|m| m.renaming.is_some()))
        {
            let done = fix.then(|| self.settle_rename(name));
            found.push(leftover("half-renamed guest", name.to_string(), told(done)));
        }
        self.of_address(name, status, fix, found)?;
        if self.is_abandoned(name) {
            let done = fix.then(|| self.let_go(name));
            found.push(leftover("held guest", name.to_string(), told(done)));
        }
        self.of_goal(name, fix, found);
        self.of_credits(name, fix, found);
        let left = || {
            let rescue = storage::has_rescue(&self.layout, name);
            let run = rescue || self.layout.guest_run(name).exists();
            Ok::<_, GuestError>(run || self.group(name)?.is_some())
        };
        // What has just ended, its keeper puts away as soon as it gets the lock; one that was killed is gone
        // in a moment.
        if status != Status::Stopped || self.still_has_keeper(name) {
            return Ok(());
        }
        if left()? {
            let done = fix.then(|| self.clean_up(name));
            found.push(leftover("run state", name.to_string(), told(done)));
        }
        if self.is_undo_due(name) {
            let done = fix.then(|| self.clean_up(name));
            found.push(leftover("undo disk", name.to_string(), told(done)));
        }
        Ok(())
    }

    /// Names under which something is there, but no guest.
    fn without_guest(&self) -> Result<BTreeSet<String>> {
        let mut names = BTreeSet::new();
        if let Some(parent) = self.existing_cgroups()? {
            names.extend(cgroup::list(&parent)?);
            names.retain(|name| TenantName::of_group(name).is_none());
        }
        for folder in ["guests", "locks"] {
            names.extend(entries(&self.layout.run().join(folder)));
        }
        for one in self.networks()? {
            let leases = one.orphans(&[]).map_err(network)?;
            names.extend(leases.iter().map(GuestName::to_string));
        }
        names.retain(|name| !self.layout.guests().join(name).exists());
        Ok(names)
    }

    /// Whether a guest has a keeper, and not only one that is just being killed.
    fn still_has_keeper(&self, name: &GuestName) -> bool {
        (0..KEEPER_LOOKS).all(|look| {
            if look > 0 {
                std::thread::sleep(BETWEEN_LOOKS);
            }
            self.has_keeper(name)
        })
    }

    /// Everything there is under a name that no guest has.
    fn of_nobody(&self, name: &str, fix: bool, found: &mut Vec<Leftover>) -> Result<()> {
        let file = self.layout.run().join("locks").join(name);
        let run = self.layout.run().join("guests").join(name);
        // Not by `lock`: its file is not to be made, and goes only with `fix`. Whoever has it meanwhile
        // may take it along.
        let lock = Lock::take_there(&file, PATIENCE)?;
        let taken = lock.is_none() && file.exists();
        if taken || self.layout.guests().join(name).exists() {
            return Ok(());
        }
        if let Some(parent) = self.existing_cgroups()?
            && let Ok(group) = Group::open(&parent, name)
        {
            let done = fix.then(|| group.remove().map_err(|e| super::view::chain(&e)));
            found.push(leftover("cgroup", name.to_owned(), done));
        }
        if run.exists() {
            let done = fix.then(|| std::fs::remove_dir_all(&run).map_err(|e| e.to_string()));
            found.push(leftover("run state", run.display().to_string(), done));
        }
        if let Ok(guest) = name.parse::<GuestName>()
            && !self.all_leased(&guest)?.is_empty()
        {
            let done = told(fix.then(|| self.release(&guest)));
            found.push(leftover("address", name.to_owned(), done));
        }
        if lock.is_some() {
            let done = fix.then(|| std::fs::remove_file(&file).map_err(|e| e.to_string()));
            found.push(leftover("lock", name.to_owned(), done));
        }
        Ok(())
    }

    /// Files of writers that died in the middle of one.
    fn temporaries(&self) -> Vec<PathBuf> {
        let (var, run) = (self.layout.var(), self.layout.run());
        let mut folders = vec![
            var.clone(),
            var.join("network"),
            self.layout.networks(),
            self.layout.tenants(),
            self.layout.goals(),
            run.clone(),
            run.join("network"),
            self.layout.images().join("by-recipe"),
            self.layout.images().join("tags"),
            self.layout.cache().join("seccomp"),
        ];
        folders.push(self.closed_folder());
        for each in [
            self.layout.guests(),
            run.join("guests"),
            self.layout.networks(),
            run.join("networks"),
        ] {
            folders.extend(entries(&each).iter().map(|name| each.join(name)));
        }
        folders
            .iter()
            .flat_map(|folder| file::abandoned(folder))
            .collect()
    }

    /// Takes away what all guests share, when there is no guest: the bridge, the firewall table and
    /// the cgroup. They come again with the next start.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn remove_shared(&self) -> Result<()> {
        for one in self.networks()? {
            one.remove_host_if_unused().map_err(network)?;
        }
        for tenant in self.tenants()? {
            self.leave_tenant(&tenant)?;
        }
        cgroup::remove_parent_if_empty(
            &self.cgroup_host()?,
            &self.layout.kernel_name(),
            &self.cgroup_lock(),
        )?;
        Ok(())
    }
}

/// Names in a folder; none if it is not there.
fn entries(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

pub(super) fn told(done: Option<Result<()>>) -> Option<std::result::Result<(), String>> {
    done.map(|done| done.map_err(|error| super::view::chain(&error)))
}

pub(super) fn leftover(
    kind: &'static str,
    name: String,
    done: Option<std::result::Result<(), String>>,
) -> Leftover {
    let removed = matches!(done, Some(Ok(())));
    Leftover {
        kind,
        name,
        removed,
        why: done.and_then(std::result::Result::err),
    }
}
