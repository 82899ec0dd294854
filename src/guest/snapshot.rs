//! A guest as it was: snapshots, going back to one, and other guests made from it.
//!
//! `guests/NAME/snapshots/SNAPSHOT.json` is a snapshot's record ([`Snapshot`]); it is written when what
//! it leads to is kept, and removed before that is.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::create::quota;
use super::error::{GuestError, Result};
use super::manager::{Manager, RECORD, now_ms};
use super::reinstall::Arrival;
use super::snapshot_deadline::Stay;
use super::store::{Machine, Written};
use crate::define::{self, Change, KeyPath};
use crate::kernel::{KernelError, fault, file};
use crate::model::{EventKind, Guest, GuestName, Status, nearest};
use crate::storage::{self, Image, Saved};

/// A snapshot: what its record says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Its name.
    pub name: String,
    /// When it was made, milliseconds since 1970.
    pub created_ms: u64,
    /// Free text.
    pub comment: String,
    /// The snapshot that the guest came from then; `None` for none.
    pub parent: Option<String>,
    /// Digest of the image below.
    pub image: String,
    /// The definition then.
    pub definition: String,
    /// What is kept of the root.
    pub root: Saved,
    /// Whether it was taken by the clock: only such a one is removed by it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub automatic: bool,
    /// Until when it is kept, milliseconds since 1970; `None` for as long as nobody removes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_ms: Option<u64>,
    /// What was written into the root then; `None` in a record from before this was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) written: Option<Written>,
}

/// What a clone is to be.
#[derive(Clone, Debug, Default)]
pub struct CloneRequest {
    /// Snapshot to begin with; `None` for the guest as it is now.
    pub snapshot: Option<String>,
    /// Changes of the definition.
    pub changes: Vec<(KeyPath, Change)>,
    /// Whether it shares nothing with what it begins as but the image.
    pub full: bool,
    /// Whether what makes its model that guest, and what that has been doing, is taken out.
    pub scrub: bool,
}

impl Manager {
    pub(super) fn snapshots_folder(&self, name: &GuestName) -> PathBuf {
        self.layout.guest(name).join("snapshots")
    }

    pub(super) fn snapshot_path(&self, name: &GuestName, snapshot: &str) -> PathBuf {
        self.snapshots_folder(name).join(format!("{snapshot}.json"))
    }

    /// A guest's snapshots, oldest first.
    ///
    /// # Errors
    /// There is no such guest, or a record cannot be read.
    pub fn snapshots(&self, name: &GuestName) -> Result<Vec<Snapshot>> {
        self.status(name)?;
        self.snapshot_records(name)
    }

    /// The same of a guest that is half gone or in the trash.
    pub(super) fn snapshot_records(&self, name: &GuestName) -> Result<Vec<Snapshot>> {
        let folder = self.snapshots_folder(name);
        let mut all = Vec::new();
        let Ok(entries) = std::fs::read_dir(&folder) else {
            return Ok(all);
        };
        for entry in entries.flatten() {
            let path = entry.path();
            if path.extension().is_none_or(|end| end != "json") {
                continue;
            }
            let text = file::read_small(&path, RECORD)?.unwrap_or_default();
            all.push(
                serde_json::from_slice(&text).map_err(|error| GuestError::Damaged {
                    path: path.display().to_string(),
                    why: error.to_string(),
                    advice: "restore it from a backup, or remove it",
                })?,
            );
        }
        all.sort_by_key(|one: &Snapshot| (one.created_ms, one.name.clone()));
        Ok(all)
    }

    /// One of them.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn snapshot(&self, name: &GuestName, snapshot: &str) -> Result<Snapshot> {
        let all = self.snapshots(name)?;
        let known: Vec<String> = all.iter().map(|one| one.name.clone()).collect();
        let found = all.into_iter().find(|one| one.name == snapshot);
        found.ok_or_else(|| GuestError::NoSnapshot {
            guest: name.clone(),
            snapshot: snapshot.into(),
            near: nearest(snapshot, known.iter().map(String::as_str)).map(str::to_owned),
        })
    }

    /// Keeps a guest as it is now.
    ///
    /// # Errors
    /// There is a snapshot of that name; the disk is full.
    pub fn take_snapshot(
        &self,
        name: &GuestName,
        snapshot: &str,
        comment: &str,
    ) -> Result<Snapshot> {
        let _lock = self.lock(name, "snapshot")?;
        let runs = self.must_be_whole(name)?;
        self.keep(name, snapshot, (comment, Stay::Always), runs)
    }

    /// The same of a guest that is whole, by a person or by the clock. Its lock is held.
    pub(super) fn keep(
        &self,
        name: &GuestName,
        snapshot: &str,
        (comment, stay): (&str, Stay),
        runs: bool,
    ) -> Result<Snapshot> {
        if self.snapshots(name)?.iter().any(|one| one.name == snapshot) {
            return Err(GuestError::SnapshotExists {
                guest: name.clone(),
                snapshot: snapshot.into(),
            });
        }
        let machine = self.machine(name)?;
        let definition = self.definition_text(name)?;
        file::make_private_dir(&self.snapshots_folder(name))?;
        fault::point()?;
        let (root, _held) = self.save_root(name, runs)?;
        let taken = Snapshot {
            name: snapshot.into(),
            created_ms: now_ms(),
            comment: comment.into(),
            parent: machine.snapshot.clone(),
            image: machine.image.clone(),
            definition,
            root,
            automatic: stay == Stay::ByRule,
            until_ms: match stay {
                Stay::Until(until) => Some(until),
                _ => None,
            },
            written: self.written(name),
        };
        if let Err(error) = self.write_snapshot(name, &taken) {
            // Nothing leads to it: what cannot be removed now, `doctor` names.
            let _left = storage::remove_saved(&taken.root);
            return Err(error);
        }
        let machine = Machine {
            snapshot: Some(snapshot.into()),
            ..machine
        };
        self.write_machine(name, &machine)?;
        let snapshot = snapshot.to_owned();
        let _lost = self.record(name, EventKind::Snapshot { snapshot });
        Ok(taken)
    }

    /// Puts a stopped guest's files back to a snapshot, and with `definition` its definition too. What
    /// is at the paths of `keep` stays as it is now.
    ///
    /// # Errors
    /// It runs, there is no such snapshot, what is to be kept is not there, the disk is full; the
    /// guest is then as it was.
    pub fn restore(
        &self,
        name: &GuestName,
        snapshot: &str,
        (definition, keep): (bool, &[String]),
    ) -> Result<()> {
        let _lock = self.lock(name, "restore")?;
        let wanted = self.snapshot(name, snapshot)?;
        let status = self.status(name)?;
        if status != Status::Stopped {
            return Err(GuestError::WrongState {
                name: name.clone(),
                verb: "restore",
                status,
                advice: Some("stop it first"),
            });
        }
        self.clean_up(name)?;
        self.check_keep(name, keep)?;
        let arrival = Arrival {
            definition: definition.then(|| wanted.definition.clone()),
            snapshot: Some(snapshot.into()),
            written: self.written_then(name, &wanted),
        };
        let _sold = self.sell_disk_as(name, arrival.definition.as_deref())?;
        self.put_root_back(name, &wanted, &arrival, keep)?;
        self.settle_root(name)?;
        let snapshot = snapshot.to_owned();
        let _lost = self.record(name, EventKind::Restored { snapshot });
        self.drop_unused();
        Ok(())
    }

    /// The same of a guest that is stopped and cleaned up; `arrival` is what becomes true with it. Its
    /// lock is held.
    pub(super) fn go_back(
        &self,
        name: &GuestName,
        wanted: &Snapshot,
        arrival: &Arrival,
    ) -> Result<()> {
        self.put_root_back(name, wanted, arrival, &[])?;
        self.settle_root(name)
    }

    /// The same without writing down what is true then, and with what is kept of the root of now.
    pub(super) fn put_root_back(
        &self,
        name: &GuestName,
        wanted: &Snapshot,
        arrival: &Arrival,
        keep: &[String],
    ) -> Result<()> {
        let guest = match &arrival.definition {
            Some(text) => self.define(name, text)?,
            None => self.guest(name)?,
        };
        let image = storage::load_image(&self.layout, &wanted.image)?;
        fault::point()?;
        let wish = (&wanted.root, quota(&guest));
        let kept = match keep {
            [] => None,
            paths => Some((
                storage::load_image(&self.layout, &self.machine(name)?.image)?,
                paths,
            )),
        };
        let kept = kept.as_ref().map(|(image, paths)| (image, *paths));
        storage::restore_root(&self.layout, name, &image, wish, (kept, &arrival.note()))
            .map_err(|error| self.root_error(name, error))
    }

    /// What is written in a root that is put back to a snapshot: the next start then writes whatever
    /// the definition says otherwise by now, so that a key which was taken away stays away.
    pub(super) fn written_then(&self, name: &GuestName, wanted: &Snapshot) -> Option<Written> {
        let mut then = wanted.written.clone().or_else(|| {
            let guest = self.define(name, &wanted.definition).ok()?;
            Some(Written::of(&guest, None))
        })?;
        // Its address is its own, whatever its files are.
        then.address = self.written(name).and_then(|written| written.address);
        Some(then)
    }

    /// Removes a snapshot.
    ///
    /// # Errors
    /// There is none of that name, or what it kept cannot be removed; `doctor` names that.
    pub fn delete_snapshot(&self, name: &GuestName, snapshot: &str) -> Result<()> {
        let _lock = self.lock(name, "snapshot")?;
        self.drop_snapshot(name, snapshot)
    }

    /// The same with the lock held.
    pub(super) fn drop_snapshot(&self, name: &GuestName, snapshot: &str) -> Result<()> {
        let gone = self.snapshot(name, snapshot)?;
        if self
            .undo_of(name)?
            .is_some_and(|undo| undo.snapshot == gone.name)
        {
            return Err(GuestError::Undecided {
                verb: "delete that snapshot of",
                name: name.clone(),
            });
        }
        self.forget(name, &gone)?;
        self.drop_unused();
        Ok(())
    }

    /// The same without the layers that nothing lists then. Its lock is held.
    pub(super) fn forget(&self, name: &GuestName, gone: &Snapshot) -> Result<()> {
        self.must_not_be_mounted(name, Some(&gone.name))?;
        self.close_gap(name, &gone.name)?;
        let path = self.snapshot_path(name, &gone.name);
        fault::point()?;
        std::fs::remove_file(&path).map_err(KernelError::io("remove", path.display()))?;
        fault::point()?;
        storage::remove_saved(&gone.root).map_err(|error| self.root_error(name, error.into()))
    }

    /// Makes another guest that begins as this one is, or was at a snapshot: the same files, with a
    /// name, an address, ids and an identity of its own.
    ///
    /// # Errors
    /// The name is taken, the disk is full.
    pub fn clone_guest(
        &self,
        from: &GuestName,
        to: &GuestName,
        request: &CloneRequest,
    ) -> Result<Guest> {
        if from == to {
            return Err(GuestError::Exists(to.clone()));
        }
        let _lock = self.lock(from, "clone")?;
        let _other = self.lock_within(to, "clone", Duration::from_secs(2))?;
        let runs = self.must_be_whole(from)?;
        let (definition, digest) = match &request.snapshot {
            Some(snapshot) => {
                let taken = self.snapshot(from, snapshot)?;
                (taken.definition, taken.image)
            }
            None => (self.definition_text(from)?, self.machine(from)?.image),
        };
        let text = self.text_of_clone(&definition, &request.changes)?;
        let guest = self.check_wanted(to, &text)?;
        self.check_pool_of_clone(&guest, &definition, request)?;
        let image = storage::load_image(&self.layout, &digest)?;
        let made = self.discard(to).and_then(|()| {
            self.furnish(to, &text, &guest, &image, || {
                match request.full {
                    true => self.full_root(from, &guest, &image, (request, runs))?,
                    false => self.linked_root(from, &guest, &image, (request, runs))?,
                }
                match request.scrub {
                    true => storage::scrub_root(&self.layout, to, &image)
                        .map_err(|error| self.root_error(to, error)),
                    false => Ok(()),
                }
            })
        });
        self.made(to, made)?;
        let _lost = self.record(to, EventKind::Created);
        Ok(guest)
    }

    /// Checks what [`Manager::clone_guest`] would need, and changes nothing.
    ///
    /// # Errors
    /// As there.
    pub fn check_clone(
        &self,
        from: &GuestName,
        to: &GuestName,
        request: &CloneRequest,
    ) -> Result<Guest> {
        let definition = match &request.snapshot {
            Some(snapshot) => self.snapshot(from, snapshot)?.definition,
            None => self.definition_text(from)?,
        };
        let text = self.text_of_clone(&definition, &request.changes)?;
        let guest = self.check_wanted(to, &text)?;
        self.check_pool_of_clone(&guest, &definition, request)?;
        Ok(guest)
    }

    /// The root of a clone that shares with its model what their pool can share.
    fn linked_root(
        &self,
        from: &GuestName,
        guest: &Guest,
        image: &Image,
        (request, runs): (&CloneRequest, bool),
    ) -> Result<()> {
        let (saved, held) = match &request.snapshot {
            Some(snapshot) => (self.snapshot(from, snapshot)?.root, None),
            None => self.save_root(from, runs)?,
        };
        let wish = (&saved, quota(guest));
        let made = storage::create_root_from(&self.layout, &guest.name, image, wish);
        if held.is_some() {
            // A copy was made for this clone only; a layer is the clone's now.
            let _left = storage::remove_saved(&saved);
        }
        made.map_err(|error| self.root_error(&guest.name, error))
    }

    /// Keeps a root as it is at one moment. Its lock is held.
    fn save_root(&self, name: &GuestName, runs: bool) -> Result<(Saved, Option<OwnedFd>)> {
        let failed = |error| self.root_error(name, error);
        // Many that cannot be made one leave room for some more, and then it is told that there is
        // none.
        if !runs && storage::fold_layers(&self.layout, name).unwrap_or(false) {
            self.drop_unused();
        }
        let by_file = storage::is_kept_by_file(&self.layout, name).map_err(failed)?;
        let moves = by_file && self.status(name)? == Status::Running;
        let still = moves.then(|| self.hold(name)).transpose()?;
        let saved = storage::save_root(&self.layout, name, runs).map_err(failed)?;
        if let Some(still) = still {
            still.release()?;
        }
        Ok(saved)
    }

    /// What only one guest can have is left out, unless it is asked for.
    fn text_of_clone(&self, text: &str, changes: &[(KeyPath, Change)]) -> Result<String> {
        let mut all = define::without_addresses(text)?;
        for key in ["network.forward", "hostname"] {
            all.push((KeyPath::parse(key)?, Change::Unset));
        }
        all.extend_from_slice(changes);
        Ok(define::edit(text, &all)?)
    }

    /// Whether it runs; half-made and half-started ones are refused.
    pub(super) fn must_be_whole(&self, name: &GuestName) -> Result<bool> {
        match self.status(name)? {
            Status::Stopped | Status::Running | Status::Paused => {
                self.clean_up(name)?;
                Ok(self.status(name)? != Status::Stopped)
            }
            status => Err(GuestError::WrongState {
                name: name.clone(),
                verb: "keep",
                status,
                advice: Some("wait until it runs or is stopped"),
            }),
        }
    }

    /// Layers that nothing lists any more; what cannot be removed now, `doctor` names.
    pub(super) fn drop_unused(&self) {
        for stray in storage::unused_layers(&self.layout).unwrap_or_default() {
            let _left = storage::remove_leftover(&self.layout, &stray);
        }
    }
}
