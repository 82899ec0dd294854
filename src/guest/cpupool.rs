//! Pools of CPUs: names for CPUs that their members share and nobody else runs on. All are in one file,
//! `cpupools.json`, so that one write changes who has what; who is a member is said in definitions.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use super::error::{GuestError, Result};
use super::manager::{Manager, RECORD};
use crate::kernel::{fault, file};
use crate::model::{CpuMode, CpuPoolName, CpuSet, GuestName, Layout, Status, nearest};

type Pools = BTreeMap<CpuPoolName, CpuSet>;

/// A pool, as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CpuPool {
    /// Its name.
    pub name: CpuPoolName,
    /// Its CPUs.
    pub cpus: CpuSet,
    /// Those of them that are online.
    pub online: String,
    /// What its running members are guaranteed, in hundredths of a CPU.
    pub guaranteed: u64,
    /// Guests whose definitions name it.
    pub guests: Vec<GuestName>,
    /// Those of them that are not stopped.
    pub running: Vec<GuestName>,
}

fn path(layout: &Layout) -> PathBuf {
    layout.var().join("cpupools.json")
}

/// All pools.
pub(super) fn pools(layout: &Layout) -> Result<Pools> {
    let path = path(layout);
    let Some(text) = file::read_small(&path, RECORD)? else {
        return Ok(Pools::new());
    };
    serde_json::from_slice(&text).map_err(|error| GuestError::Damaged {
        path: path.display().to_string(),
        why: error.to_string(),
        advice: "restore it from a backup, or delete it and make the pools again",
    })
}

impl Manager {
    /// All pools of CPUs.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn cpu_pools(&self) -> Result<Vec<CpuPool>> {
        let pools = pools(&self.layout)?;
        let (online, members) = (self.seating(None)?.online, self.pool_members()?);
        let mut all = Vec::new();
        for (name, cpus) in pools {
            let mine =
                |(guest, pool): &(GuestName, CpuPoolName)| (*pool == name).then(|| guest.clone());
            let guests: Vec<GuestName> = members.iter().filter_map(mine).collect();
            let runs = |guest: &&GuestName| {
                let status = self.status(guest);
                status.is_ok_and(|s| !matches!(s, Status::Stopped | Status::Creating))
            };
            all.push(CpuPool {
                running: guests.iter().filter(runs).cloned().collect(),
                online: match cpus.common(&online) {
                    none if none.is_empty() => "none".to_owned(),
                    some => some.to_string(),
                },
                guaranteed: self.promised_in(&name, None)?,
                guests,
                name,
                cpus,
            });
        }
        Ok(all)
    }

    /// One of them.
    ///
    /// # Errors
    /// There is none of that name, or a file cannot be read.
    pub fn cpu_pool(&self, name: &CpuPoolName) -> Result<CpuPool> {
        let found = self
            .cpu_pools()?
            .into_iter()
            .find(|pool| pool.name == *name);
        found.ok_or_else(|| self.no_cpu_pool(name))
    }

    /// Whether there is one of that name.
    pub(super) fn check_cpu_pool(&self, name: &CpuPoolName) -> Result<()> {
        match pools(&self.layout)?.contains_key(name) {
            true => Ok(()),
            false => Err(self.no_cpu_pool(name)),
        }
    }

    /// The error for a name that no pool has.
    pub(super) fn no_cpu_pool(&self, name: &CpuPoolName) -> GuestError {
        let known = pools(&self.layout).unwrap_or_default();
        let names: Vec<&str> = known.keys().map(CpuPoolName::as_str).collect();
        let near = nearest(name.as_str(), names.iter().copied());
        let hint = match (near, names.is_empty()) {
            (Some(near), _) => format!("did you mean {near}?"),
            (None, true) => format!("`bulkhead cpupool create {name} --cpus LIST` makes it"),
            (None, false) => format!("there are: {}", names.join(", ")),
        };
        GuestError::NoCpuPool {
            name: name.clone(),
            hint,
        }
    }

    /// Guests whose definitions put them into a pool, with its name.
    fn pool_members(&self) -> Result<Vec<(GuestName, CpuPoolName)>> {
        let profiles = self.profiles()?;
        let mut found = Vec::new();
        for name in self.all_names()? {
            // One whose definition has become wrong cannot start; it is no member.
            let Ok(text) = crate::define::read_file(&self.definition_path(&name)) else {
                continue;
            };
            if let Ok(guest) = self.define_by(&name, &text, &profiles)
                && guest.cpu.mode == CpuMode::Pool
                && let Some(pool) = guest.cpu.pool
            {
                found.push((name, pool));
            }
        }
        Ok(found)
    }

    /// Makes a pool, and moves everybody else off its CPUs.
    ///
    /// # Errors
    /// It is there, or it cannot have these CPUs.
    pub fn create_cpu_pool(&self, name: &CpuPoolName, cpus: &CpuSet, dry_run: bool) -> Result<()> {
        let _places = self.places()?;
        if pools(&self.layout)?.contains_key(name) {
            return Err(GuestError::CpuPoolExists(name.clone()));
        }
        self.change_cpu_pools(name, Some(cpus), dry_run)
    }

    /// Gives a pool other CPUs; its members and everybody else move at once.
    ///
    /// # Errors
    /// There is none, or it cannot have these CPUs.
    pub fn set_cpu_pool(&self, name: &CpuPoolName, cpus: &CpuSet, dry_run: bool) -> Result<()> {
        let _places = self.places()?;
        if !pools(&self.layout)?.contains_key(name) {
            return Err(self.no_cpu_pool(name));
        }
        let wanted = self.promised_in(name, None)?;
        let room = cpus.len() as u64 * u64::from(self.settings.room.cpu_ratio.0);
        if wanted > room {
            return Err(GuestError::CpuPool {
                name: name.clone(),
                why: format!(
                    "its running members are guaranteed {} hundredths of a CPU, and {room} could be \
                     kept on {cpus}; lower their cpu.entitled, or stop some",
                    wanted
                ),
            });
        }
        self.change_cpu_pools(name, Some(cpus), dry_run)
    }

    /// Removes a pool that no guest is in; its CPUs go to the guests that share.
    ///
    /// # Errors
    /// There is none, or guests are in it.
    pub fn delete_cpu_pool(&self, name: &CpuPoolName, dry_run: bool) -> Result<()> {
        let _places = self.places()?;
        if !pools(&self.layout)?.contains_key(name) {
            return Err(self.no_cpu_pool(name));
        }
        let mut guests: Vec<String> = Vec::new();
        let members = self.pool_members()?.into_iter();
        guests.extend(
            members
                .filter(|(_, pool)| pool == name)
                .map(|(g, _)| g.to_string()),
        );
        // One that was given another since its start.
        for (guest, state) in self.unstopped(None)? {
            if state.seat == crate::model::Seat::Pool(name.clone()) {
                guests.push(guest.to_string());
            }
        }
        guests.sort();
        guests.dedup();
        if !guests.is_empty() {
            return Err(GuestError::CpuPool {
                name: name.clone(),
                why: format!(
                    "it is in use by {}: give them other CPUs with `bulkhead set GUEST \
                     cpu.mode=shared cpu.pool=none`, or delete them",
                    guests.join(", ")
                ),
            });
        }
        self.change_cpu_pools(name, None, dry_run)
    }

    /// Writes down what a pool has and moves everybody. The lock of `admission` is held.
    fn change_cpu_pools(
        &self,
        name: &CpuPoolName,
        cpus: Option<&CpuSet>,
        dry_run: bool,
    ) -> Result<()> {
        let refused = |why| GuestError::CpuPool {
            name: name.clone(),
            why,
        };
        let before = pools(&self.layout)?;
        let mut after = before.clone();
        match cpus {
            Some(cpus) => {
                if !self.facts.has_cpusets() {
                    return Err(refused(NO_CPUSETS.to_owned()));
                }
                self.seating(None)?
                    .check_pool(name, cpus)
                    .map_err(refused)?;
                self.room_without(name, cpus)?;
                after.insert(name.clone(), cpus.clone());
            }
            None => {
                after.remove(name);
            }
        }
        if dry_run {
            return Ok(());
        }
        fault::point()?;
        self.write_pools(&after)?;
        if let Err(error) = self.settle_cpus() {
            // Nothing has changed then; the error that matters is the one above.
            let _same = self.write_pools(&before).and_then(|()| self.settle_cpus());
            return Err(error);
        }
        Ok(())
    }

    fn write_pools(&self, pools: &Pools) -> Result<()> {
        let path = path(&self.layout);
        if pools.is_empty() {
            return match std::fs::remove_file(&path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    Err(crate::kernel::KernelError::io("remove", path.display())(e).into())
                }
                _ => Ok(()),
            };
        }
        let mut text = serde_json::to_vec_pretty(pools).unwrap_or_default();
        text.push(b'\n');
        Ok(file::write_whole(&path, &text, 0o600)?)
    }
}

/// Why not, on a host that cannot.
pub(super) const NO_CPUSETS: &str =
    "this kernel has no cpuset controller, or it is not mounted: no guest can be kept to CPUs";
