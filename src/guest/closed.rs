//! Accounts of guests that are no more: what they have used can still be billed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::account::{Account, By, Period};
use super::error::{GuestError, Result};
use super::manager::{Manager, now_ms};
use super::store::Machine;
use crate::kernel::{KernelError, fault, file};
use crate::model::{GuestName, TenantName};

/// Longest record that is read, bytes.
const LONGEST: u64 = 8 << 20;
/// For so long an account is kept after its guest.
const KEPT: Duration = Duration::from_secs(400 * 86_400);

/// `accounts/NAME.MACHINEID.CREATED.json`: one for each guest, however often it is deleted until it
/// is gone.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Closed {
    name: GuestName,
    machine_id: String,
    /// When the guest was made: one that is imported may have the machine id of another before.
    created_ms: u64,
    labels: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tenant: Option<TenantName>,
    deleted_ms: u64,
    account: Account,
}

/// What is to be kept of a guest that is about to be removed.
#[derive(Debug)]
pub(super) struct Closing {
    path: PathBuf,
    text: Vec<u8>,
}

/// The account of a guest that was deleted.
#[derive(Clone, Debug)]
pub struct ClosedAccount {
    /// Its name.
    pub name: GuestName,
    /// Its labels at the end.
    pub labels: BTreeMap<String, String>,
    /// Its tenant at the end.
    pub tenant: Option<TenantName>,
    /// When it was deleted, milliseconds since 1970.
    pub deleted_ms: u64,
    /// What it used.
    pub periods: Vec<Period>,
    /// The same by the tenants that it was of.
    pub by_tenant: Vec<(Option<TenantName>, Vec<Period>)>,
}

impl Manager {
    /// Accounts of deleted guests, by name and time.
    ///
    /// # Errors
    /// One cannot be read: a bill without it would be wrong.
    pub fn closed_accounts(&self, by: By) -> Result<Vec<ClosedAccount>> {
        let mut all = Vec::new();
        let names = self.all_names()?;
        let there = names.iter().filter_map(|n| self.machine_if_there(n).ok()?);
        let there: BTreeSet<_> = there.map(|m| (m.machine_id, m.created_ms)).collect();
        for path in self.closed_files()? {
            let Some(text) = file::read_small(&path, LONGEST)? else {
                continue;
            };
            let parsed: std::result::Result<Closed, _> = serde_json::from_slice(&text);
            let closed = parsed.map_err(|error| GuestError::Damaged {
                path: path.display().to_string(),
                why: error.to_string(),
                advice: "restore it from a backup, or remove it",
            })?;
            let mut account = closed.account;
            account.was_of(closed.tenant.as_ref());
            // Its deletion was cut short: it is there, and tells of itself.
            if !there.contains(&(closed.machine_id, closed.created_ms)) {
                all.push(ClosedAccount {
                    name: closed.name,
                    labels: closed.labels,
                    tenant: closed.tenant,
                    deleted_ms: closed.deleted_ms,
                    by_tenant: account.clone().by_tenant(by),
                    periods: account.periods(by),
                });
            }
        }
        all.sort_by(|a, b| (&a.name, a.deleted_ms).cmp(&(&b.name, b.deleted_ms)));
        Ok(all)
    }

    /// What is to be kept of a guest that is about to be removed; its run has been put away. A guest
    /// that has used nothing leaves nothing. An account that cannot be read is kept as it is, and every
    /// bill of deleted guests names it.
    pub(super) fn closing(&self, name: &GuestName) -> Option<Closing> {
        let machine = self.machine_if_there(name).ok()??;
        let trashed = machine.trashed.as_ref().map(|trashed| &trashed.name);
        let called = trashed.unwrap_or(name).clone();
        let path = self.closed_path(&called, &machine.machine_id, machine.created_ms);
        let text = match self.account_as_written(name) {
            Ok(account) => self.closed(name, called, machine, &path, account)?,
            Err(_) if path.exists() => return None,
            Err(_) => file::read_small(&self.account_path(name), LONGEST).ok()??,
        };
        Some(Closing { path, text })
    }

    fn closed(
        &self,
        name: &GuestName,
        called: GuestName,
        machine: Machine,
        path: &Path,
        account: Account,
    ) -> Option<Vec<u8>> {
        if account.is_empty() {
            return None;
        }
        // Also of one in the trash, which no other verb sees.
        let text = crate::define::read_file(&self.definition_path(name)).ok();
        let guest = text.and_then(|text| self.define(name, &text).ok());
        // Kept when its deletion began, which was cut short after its definition was gone.
        if guest.is_none() && path.exists() {
            return None;
        }
        let closed = Closed {
            name: called,
            machine_id: machine.machine_id,
            created_ms: machine.created_ms,
            tenant: guest.as_ref().and_then(|guest| guest.tenant.clone()),
            labels: guest.map(|guest| guest.labels).unwrap_or_default(),
            deleted_ms: now_ms(),
            account,
        };
        serde_json::to_vec(&closed).ok()
    }

    /// Keeps it, and forgets those that are too old.
    pub(super) fn keep_closed(&self, closing: &Closing) -> Result<()> {
        file::make_private_dir(&self.closed_folder())?;
        fault::point()?;
        file::write_whole(&closing.path, &closing.text, 0o600)?;
        fault::point()?;
        let old = |path: &PathBuf| {
            let written = path.metadata().and_then(|meta| meta.modified()).ok();
            let age = written.and_then(|at| SystemTime::now().duration_since(at).ok());
            age.is_some_and(|age| age > KEPT)
        };
        for path in self.closed_files()?.iter().filter(|path| old(path)) {
            // Next time.
            let _later = std::fs::remove_file(path);
        }
        Ok(())
    }

    /// Where they lie.
    pub(super) fn closed_folder(&self) -> PathBuf {
        self.layout.var().join("accounts")
    }

    fn closed_path(&self, name: &GuestName, machine_id: &str, created_ms: u64) -> PathBuf {
        let file = format!("{name}.{machine_id}.{created_ms}.json");
        self.closed_folder().join(file)
    }

    fn closed_files(&self) -> Result<Vec<PathBuf>> {
        let folder = self.closed_folder();
        let failed = |error| KernelError::io("list", folder.display())(error);
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error).into()),
        };
        let mut all = Vec::new();
        for entry in entries {
            let path = entry.map_err(failed)?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            // What is half written begins with a dot.
            if name.is_some_and(|name| name.ends_with(".json") && !name.starts_with('.')) {
                all.push(path);
            }
        }
        all.sort();
        Ok(all)
    }
}
