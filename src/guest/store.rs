//! A guest's folders, its lock and its records.
//!
//! `/var/lib/bulkhead/guests/NAME/`: `guest.toml` (written last at create, so a folder without it is
//! half-made), `machine.json` ([`Machine`]), `written.json` (`Written`), `root/`, `console.log`,
//! `last.json` (how it ended), `account.json` (what it has used, sent and received).
//! `/run/bulkhead/guests/NAME/`: `state.json` ([`RunState`]), `enter.json` (what entering it
//! takes on), `orders.json` (what its keeper needs of the definition), `console.sock`.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::error::{GuestError, Result};
use super::manager::{Manager, RECORD, now_ms};
use super::rescue::Rescue;
use super::resize::InForce;
use super::trash::Trashed;
use crate::kernel::file::{self, Lock};
use crate::kernel::process::Identity;
use crate::model::{
    Amounts, ExitReason, Guest, GuestName, IdBlock, Seat, Status, TenantName, View,
};
use crate::network::{Lease, Network};
use crate::storage::{BootNic, Stale};

/// How long a command waits for another one's lock.
const PATIENCE: Duration = Duration::from_secs(60);

/// What was decided when the guest was made, and stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Its ids.
    pub ids: IdBlock,
    /// Digest of its image.
    pub image: String,
    /// When it was made, milliseconds since 1970.
    pub created_ms: u64,
    /// Its machine id, see machine-id(5).
    pub machine_id: String,
    /// The snapshot that its files come from, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// The name it is being given; left there when the command that gave it died.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renaming: Option<GuestName>,
    /// Its time in the trash, if it is there under another name than this says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trashed: Option<Trashed>,
}

/// What its definition said of what is written into its files, when it was written. Until the
/// definition says something else, what is changed inside stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Written {
    hostname: String,
    timezone: String,
    ssh_keys: Vec<String>,
    root_password_hash: Option<String>,
    /// Its address, should the leases be lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) address: Option<Ipv4Addr>,
    /// Those of its further interfaces, by their names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) nics: BTreeMap<String, Ipv4Addr>,
    /// Whether its containers are told to show its files.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) containers: bool,
}

impl Written {
    pub(super) fn of(guest: &Guest, leased: Option<&(Network, Lease)>) -> Self {
        Self {
            address: leased.map(|(_, lease)| lease.address),
            hostname: guest.hostname.clone(),
            timezone: guest.timezone.clone(),
            ssh_keys: guest.access.ssh_keys.clone(),
            root_password_hash: guest.access.root_password_hash.clone(),
            nics: BTreeMap::new(),
            containers: guest.security.nesting && guest.view != View::Host,
        }
    }

    /// The same with its further interfaces.
    pub(super) fn with_nics(mut self, nics: &[BootNic]) -> Self {
        let nics = nics.iter().map(|nic| (nic.name.clone(), nic.address.0));
        self.nics = nics.collect();
        self
    }

    /// Names of interfaces that it had and has no more.
    pub(super) fn without(&self, now: &Self) -> Vec<String> {
        let gone = self
            .nics
            .keys()
            .filter(|name| !now.nics.contains_key(*name));
        gone.cloned().collect()
    }

    /// What is to be written again.
    pub(super) fn stale(&self, now: &Self) -> Stale {
        Stale {
            hostname: self.hostname != now.hostname,
            timezone: self.timezone != now.timezone,
            ssh_keys: self.ssh_keys != now.ssh_keys,
            password: self.root_password_hash != now.root_password_hash,
        }
    }
}

/// What a command or the keeper is doing with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Being launched.
    Starting,
    /// Launched.
    Running,
    /// Being shut down.
    Stopping,
    /// Waiting for its next start.
    Restarting,
}

/// What is known of a guest that is not simply stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunState {
    /// Boot it is of.
    pub boot_id: String,
    /// What is being done.
    pub phase: Phase,
    /// Its first process.
    pub init: Option<Identity>,
    /// Its keeper, or the process that will be.
    pub keeper: Option<Identity>,
    /// When it was started, milliseconds since 1970.
    pub started_ms: u64,
    /// How long the launch took, microseconds.
    pub launch_us: u64,
    /// The command that shuts it down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopper: Option<Identity>,
    /// Whether it is frozen.
    pub paused: bool,
    /// The command that holds it still while it reads its files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<Identity>,
    /// Restarts by policy since it last ran for long.
    pub restarts: u32,
    /// What it is in rescue with, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rescue: Option<Rescue>,
    /// Its ids.
    pub ids: IdBlock,
    /// What it is guaranteed as long as it is not stopped.
    #[serde(default, skip_serializing_if = "Amounts::is_none")]
    pub guaranteed: Amounts,
    /// Its part of the CPU time that nobody is guaranteed, beside the others'.
    #[serde(default = "usual_weight", skip_serializing_if = "is_usual_weight")]
    pub weight: u32,
    /// The tenant in whose control group it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantName>,
    /// Where it is on the CPUs as long as it is not stopped.
    #[serde(default, skip_serializing_if = "Seat::is_shared")]
    pub seat: Seat,
    /// What it runs with until its next start, where its definition has changed since.
    #[serde(default, skip_serializing_if = "InForce::is_none")]
    pub in_force: InForce,
}

const fn usual_weight() -> u32 {
    100
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
const fn is_usual_weight(weight: &u32) -> bool {
    *weight == usual_weight()
}

impl RunState {
    /// Whether the host keeps something for it alone.
    pub(super) fn has_place(&self) -> bool {
        !self.guaranteed.is_none() || !self.seat.is_shared()
    }

    /// Of a guest that this process is about to launch.
    pub(super) fn launching(boot_id: &str, ids: IdBlock, guest: &Guest) -> Self {
        Self {
            boot_id: boot_id.to_owned(),
            phase: Phase::Starting,
            init: None,
            keeper: Identity::of(std::process::id()),
            started_ms: now_ms(),
            launch_us: 0,
            stopper: None,
            paused: false,
            holder: None,
            restarts: 0,
            rescue: None,
            ids,
            guaranteed: Amounts::guaranteed(guest),
            weight: guest.cpu.weight,
            tenant: guest.tenant.clone(),
            seat: Seat::Shared,
            in_force: InForce::default(),
        }
    }
}

/// How it ended last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastEnd {
    /// When, milliseconds since 1970.
    pub time_ms: u64,
    /// Why.
    #[serde(flatten)]
    pub reason: ExitReason,
}

/// A guest's lock, held. Its file goes with the guest: whoever lets go of the lock of a guest that is
/// not there removes it, and [`Lock::take`] notices when what it took is no file any more.
#[derive(Debug)]
pub(super) struct GuestLock {
    _held: Lock,
    path: PathBuf,
    folder: PathBuf,
}

impl Drop for GuestLock {
    fn drop(&mut self) {
        if !self.folder.exists() {
            let _gone = std::fs::remove_file(&self.path);
        }
    }
}

impl Manager {
    /// Names of all guests, also half-made ones, sorted; not of those in the trash.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn names(&self) -> Result<Vec<GuestName>> {
        let mut names = self.all_names()?;
        names.retain(|name| self.trashed(name).is_none());
        Ok(names)
    }

    /// The same with those in the trash.
    pub(super) fn all_names(&self) -> Result<Vec<GuestName>> {
        let folder = self.layout.guests();
        let failed = crate::kernel::KernelError::io("read", folder.display());
        let mut names: Vec<GuestName> = std::fs::read_dir(&folder)
            .map_err(failed)?
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .collect();
        names.sort();
        Ok(names)
    }

    /// Takes a guest's lock; the message of whoever comes too late names the holder.
    pub(super) fn lock(&self, name: &GuestName, verb: &str) -> Result<GuestLock> {
        self.lock_within(name, verb, PATIENCE)
    }

    pub(super) fn lock_within(
        &self,
        name: &GuestName,
        verb: &str,
        limit: Duration,
    ) -> Result<GuestLock> {
        let path = self.layout.lock(name);
        let Some(lock) = Lock::take(&path, limit)? else {
            let holder = Lock::holder(&path).unwrap_or_else(|| "another command".into());
            return Err(GuestError::Busy {
                name: name.clone(),
                holder,
            });
        };
        lock.sign(&format!(
            "`bulkhead {verb}` (process {})",
            std::process::id()
        ));
        Ok(GuestLock {
            _held: lock,
            path,
            folder: self.layout.guest(name),
        })
    }

    pub(super) fn machine(&self, name: &GuestName) -> Result<Machine> {
        self.machine_if_there(name)?
            .ok_or_else(|| self.missing(name))
    }

    /// The same; `None` for a guest that is half-made.
    pub(super) fn machine_if_there(&self, name: &GuestName) -> Result<Option<Machine>> {
        let path = self.layout.guest(name).join("machine.json");
        self.read_record(&path, "restore it from a backup, or delete the guest")
    }

    pub(super) fn write_machine(&self, name: &GuestName, machine: &Machine) -> Result<()> {
        let path = self.layout.guest(name).join("machine.json");
        Ok(file::write_whole(&path, &json(machine), 0o600)?)
    }

    pub(super) fn written(&self, name: &GuestName) -> Option<Written> {
        let text =
            file::read_small(&self.layout.guest(name).join("written.json"), RECORD).ok()??;
        serde_json::from_slice(&text).ok()
    }

    pub(super) fn write_written(&self, name: &GuestName, written: &Written) -> Result<()> {
        let path = self.layout.guest(name).join("written.json");
        Ok(file::write_runtime(&path, &json(written), 0o600)?)
    }

    pub(super) fn write_last(&self, name: &GuestName, last: &LastEnd) -> Result<()> {
        let path = self.layout.guest(name).join("last.json");
        Ok(file::write_runtime(&path, &json(last), 0o600)?)
    }

    pub(super) fn last_end(&self, name: &GuestName) -> Option<LastEnd> {
        let text = file::read_small(&self.layout.guest(name).join("last.json"), RECORD).ok()??;
        serde_json::from_slice(&text).ok()
    }

    /// The run state of this boot. One that cannot be understood counts as none: it is about to be
    /// cleaned up like any other leftover.
    pub(super) fn run_state(&self, name: &GuestName) -> Result<Option<RunState>> {
        let text = file::read_small(&self.state_path(name), RECORD)?;
        let state = text.and_then(|text| serde_json::from_slice::<RunState>(&text).ok());
        Ok(state.filter(|state| state.boot_id == self.facts.boot_id))
    }

    pub(super) fn write_run_state(&self, name: &GuestName, state: &RunState) -> Result<()> {
        file::make_private_dir(&self.layout.guest_run(name))?;
        Ok(file::write_runtime(
            &self.state_path(name),
            &json(state),
            0o600,
        )?)
    }

    pub(super) fn state_path(&self, name: &GuestName) -> PathBuf {
        self.layout.guest_run(name).join("state.json")
    }

    pub(super) fn enter_path(&self, name: &GuestName) -> PathBuf {
        self.layout.guest_run(name).join("enter.json")
    }

    fn read_record<T: serde::de::DeserializeOwned>(
        &self,
        path: &std::path::Path,
        advice: &'static str,
    ) -> Result<Option<T>> {
        let Some(text) = file::read_small(path, RECORD)? else {
            return Ok(None);
        };
        serde_json::from_slice(&text)
            .map(Some)
            .map_err(|error| GuestError::Damaged {
                path: path.display().to_string(),
                why: error.to_string(),
                advice,
            })
    }

    /// What a guest is doing.
    ///
    /// # Errors
    /// There is none of that name, or its state cannot be read.
    pub fn status(&self, name: &GuestName) -> Result<Status> {
        if !self.layout.guest(name).is_dir() || self.trashed(name).is_some() {
            return Err(self.missing(name));
        }
        self.status_there(name)
    }

    /// The same of a guest whose folder is there, in the trash too.
    pub(super) fn status_there(&self, name: &GuestName) -> Result<Status> {
        let state = self.run_state(name)?;
        Ok(self.status_of(name, state.as_ref()))
    }

    pub(super) fn status_of(&self, name: &GuestName, state: Option<&RunState>) -> Status {
        if !self.definition_path(name).exists() {
            return Status::Creating;
        }
        let Some(state) = state else {
            return Status::Stopped;
        };
        let lives = |who: Option<Identity>| who.is_some_and(Identity::lives);
        match (state.phase, lives(state.init)) {
            (Phase::Running, true) if state.paused => Status::Paused,
            (Phase::Running, true) => Status::Running,
            (Phase::Stopping, true) if lives(state.stopper) => Status::Stopping,
            // The command that was at it died: the guest may go on, or be stopped again.
            (Phase::Stopping, true) if state.paused => Status::Paused,
            (Phase::Stopping, true) => Status::Running,
            // A launch that died between the two left a running guest that nobody wrote down.
            (Phase::Starting, true) if !lives(state.keeper) => Status::Running,
            (Phase::Starting, _) if lives(state.keeper) => Status::Starting,
            (Phase::Restarting, _) if lives(state.keeper) => Status::Restarting,
            _ => Status::Stopped,
        }
    }
}

fn json(value: &impl Serialize) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(value).unwrap_or_default();
    text.push(b'\n');
    text
}
