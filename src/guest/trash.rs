//! Deleted guests that can be brought back for some days. One in the trash is a guest's folder under a
//! name of its own, `trash-` and 16 digits, whose record says what it was called: its files, ids and
//! snapshots stay, it has no address and no control groups, and no verb but those here sees it.

use serde::{Deserialize, Serialize};

use super::error::{GuestError, Result};
use super::manager::{Manager, now_ms};
use crate::kernel::{KernelError, fault, random};
use crate::model::{EventKind, GuestName, Status, nearest};

/// What names in the trash begin with.
const PREFIX: &str = "trash-";

const DAY_MS: u64 = 86_400_000;

/// A guest's time in the trash, as its record says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trashed {
    /// What it was called.
    pub name: GuestName,
    /// When it was deleted, milliseconds since 1970.
    pub deleted_ms: u64,
    /// Until when it is kept, milliseconds since 1970.
    pub until_ms: u64,
}

/// A guest in the trash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InTrash {
    /// Its name there.
    pub id: GuestName,
    /// What it was.
    #[serde(flatten)]
    pub trashed: Trashed,
}

impl InTrash {
    /// Whether it has been there for its time.
    #[must_use]
    pub fn is_expired(&self) -> bool {
        self.trashed.until_ms <= now_ms()
    }
}

impl Manager {
    /// A guest's time in the trash; `None` for any that is not there. A guest whose way there was cut
    /// short has its old name still, and is not.
    pub(super) fn trashed(&self, name: &GuestName) -> Option<Trashed> {
        if !name.as_str().starts_with(PREFIX) {
            return None;
        }
        let machine = self.machine_if_there(name).ok()??;
        machine.trashed.filter(|trashed| trashed.name != *name)
    }

    /// What is in the trash, by the time at which it was deleted.
    ///
    /// # Errors
    /// The folder of guests cannot be read.
    pub fn trash(&self) -> Result<Vec<InTrash>> {
        let all = self.all_names()?.into_iter();
        let mut all: Vec<InTrash> = all
            .filter_map(|id| {
                let trashed = self.trashed(&id)?;
                Some(InTrash { id, trashed })
            })
            .collect();
        all.sort_by_key(|one| (one.trashed.deleted_ms, one.id.clone()));
        Ok(all)
    }

    /// Puts a guest that does not run into the trash; tells until when it is there. Its lock is held.
    pub(super) fn put_into_trash(&self, name: &GuestName, days: u32) -> Result<u64> {
        let id: GuestName = format!("{PREFIX}{}", random::hex(8)?)
            .parse()
            .map_err(|_| GuestError::Exists(name.clone()))?;
        let _other = self.lock(&id, "delete")?;
        let mut machine = self.machine(name)?;
        let deleted_ms = now_ms();
        let until_ms = deleted_ms + u64::from(days) * DAY_MS;
        machine.trashed = Some(Trashed {
            name: name.clone(),
            deleted_ms,
            until_ms,
        });
        self.move_guest(name, &id, machine)?;
        fault::point()?;
        self.give_up_address(&id)?;
        Ok(until_ms)
    }

    /// Takes a guest's interface and address from it. Its lock is held.
    pub(super) fn give_up_address(&self, name: &GuestName) -> Result<()> {
        let network = |error: Box<dyn std::error::Error + Send + Sync>| GuestError::Network(error);
        let all = self.all_leased(name)?;
        for (on, lease) in &all {
            let gone = on.teardown_guest(lease);
            gone.map_err(|e| network(e.into()))?;
            fault::point()?;
        }
        if !all.is_empty() {
            self.keep_account(name, None);
            // Another guest may have it from now on.
            if let Some(mut written) = self.written(name) {
                written.address = None;
                written.nics.clear();
                self.write_written(name, &written)?;
            }
            fault::point()?;
            self.release(name)?;
        }
        Ok(())
    }

    /// The guest in the trash that is meant: by its name there, or the one deleted last that was
    /// called so.
    ///
    /// # Errors
    /// There is none.
    pub fn find_in_trash(&self, name: &GuestName) -> Result<InTrash> {
        let mut all = self.trash()?;
        let is = |one: &InTrash| one.id == *name || one.trashed.name == *name;
        match all.iter().rposition(is) {
            Some(at) => Ok(all.swap_remove(at)),
            None => {
                let known = all.iter().map(|one| one.trashed.name.as_str());
                Err(GuestError::NotInTrash {
                    near: nearest(name.as_str(), known).map(str::to_owned),
                    name: name.clone(),
                })
            }
        }
    }

    /// Brings a guest back, under the name it had or another; it is stopped then.
    ///
    /// # Errors
    /// It is not in the trash, or the name is taken.
    pub fn bring_back(&self, name: &GuestName, to: Option<&GuestName>) -> Result<GuestName> {
        let found = self.find_in_trash(name)?;
        let to = to.unwrap_or(&found.trashed.name).clone();
        let _lock = self.lock(&found.id, "trash restore")?;
        let _other = self.lock(&to, "trash restore")?;
        // It may have been brought back, or be gone, since it was found.
        let trashed = self.trashed(&found.id);
        let trashed = trashed.ok_or_else(|| self.missing(name))?;
        if self.layout.guest(&to).exists() && self.status_there(&to)? != Status::Creating {
            return Err(GuestError::Exists(to));
        }
        self.settle_rename(&found.id)?;
        self.discard(&to)?;
        // Without an address it has no counters, and those it gets begin at nothing.
        self.keep_account(&found.id, None);
        fault::point()?;
        let mut machine = self.machine(&found.id)?;
        // Under this name it is not in the trash.
        machine.trashed = Some(Trashed {
            name: to.clone(),
            ..trashed
        });
        self.move_guest(&found.id, &to, machine)?;
        self.tell_neighbours(&to);
        let _lost = self.record(&to, EventKind::BroughtBack);
        Ok(to)
    }

    /// Removes what is in the trash, all or what has been there for its time; tells what it was.
    ///
    /// # Errors
    /// Something cannot be removed; what is left of it, `doctor` names.
    pub fn empty_trash(&self, expired: bool) -> Result<Vec<InTrash>> {
        let mut gone = Vec::new();
        for one in self.trash()? {
            if expired && !one.is_expired() {
                continue;
            }
            let _lock = self.lock(&one.id, "trash empty")?;
            if self.trashed(&one.id).is_some() {
                self.remove_whole(&one.id)?;
                gone.push(one);
            }
        }
        Ok(gone)
    }

    /// Removes a guest that does not run, its definition first: from there on it is half gone, never
    /// half there. Its account is kept. Its lock is held.
    pub(super) fn remove_whole(&self, name: &GuestName) -> Result<()> {
        // It had its room on disks until now.
        self.keep_account(name, None);
        let closed = self.closing(name);
        let keep = || {
            closed
                .as_ref()
                .map_or(Ok(()), |closed| self.keep_closed(closed))
        };
        let kept = keep();
        let path = self.definition_path(name);
        match std::fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(KernelError::io("remove", path.display())(error).into()),
        }
        fault::point()?;
        self.discard(name)?;
        // On a disk that was full there is room now.
        kept.or_else(|_| keep())
    }
}
