//! Undo disks: a guest started so that everything it writes in this run can be thrown away again. What
//! it had is kept as a snapshot first; at its end its files go back to that, or stay as they are.
//!
//! `guests/NAME/undo.json` ([`Undo`]) is there from before the snapshot until what was decided is done.
//! Without its snapshot it means nothing, so that whatever is cut short is finished by doing it again.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::error::{GuestError, Result};
use super::manager::{Manager, RECORD};
use super::reinstall::Arrival;
use super::snapshot::Snapshot;
use super::snapshot_deadline::Stay;
use super::store::Machine;
use crate::kernel::{KernelError, fault, file};
use crate::model::{EventKind, GuestName, Status};

/// When it is decided what becomes of what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UndoMode {
    /// Now: it is dropped at the end of the run.
    Drop,
    /// Afterwards, by a person.
    Later,
}

/// What becomes of what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It stays.
    Keep,
    /// The guest's files go back to what they were.
    Drop,
}

/// A guest's undo disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Undo {
    pub(super) mode: UndoMode,
    /// The snapshot of before.
    pub(super) snapshot: String,
    /// The one that the guest came from then.
    pub(super) parent: Option<String>,
    /// Whether the guest may have written anything since.
    #[serde(default = "may_have")]
    pub(super) begun: bool,
}

/// A record that does not say so is of a run.
fn may_have() -> bool {
    true
}

impl Manager {
    fn undo_path(&self, name: &GuestName) -> PathBuf {
        self.layout.guest(name).join("undo.json")
    }

    /// A guest's undo disk, if it has one.
    pub(super) fn undo_of(&self, name: &GuestName) -> Result<Option<Undo>> {
        let path = self.undo_path(name);
        let Some(text) = file::read_small(&path, RECORD)? else {
            return Ok(None);
        };
        let undo = serde_json::from_slice(&text).map_err(|error| GuestError::Damaged {
            path: path.display().to_string(),
            why: error.to_string(),
            advice: "remove it: what the guest has written then stays",
        })?;
        Ok(Some(undo))
    }

    /// Which undo disk a guest that starts is to get, if any. One that is not decided about is gone on
    /// with, by who asks for that; by whoever starts again what has ended by itself, or was stopped for that,
    /// always (`goes_on`).
    pub(super) fn new_undo(
        &self,
        name: &GuestName,
        verb: &'static str,
        wish: Option<UndoMode>,
        goes_on: bool,
    ) -> Result<Option<UndoMode>> {
        let Some(undo) = self.undo_of(name)? else {
            return Ok(wish);
        };
        let wished = wish == Some(UndoMode::Later) && undo.mode == UndoMode::Later;
        match wished || (goes_on && wish.is_none()) {
            true => Ok(None),
            false => Err(GuestError::Undecided {
                verb,
                name: name.clone(),
            }),
        }
    }

    /// Keeps what a stopped guest has, so that it can be gone back to. Its lock is held.
    pub(super) fn begin_undo(&self, name: &GuestName, mode: UndoMode) -> Result<()> {
        let undo = Undo {
            mode,
            snapshot: self.name_of_now(name, "undo")?,
            parent: self.machine(name)?.snapshot,
            begun: false,
        };
        let text = serde_json::to_vec_pretty(&undo).unwrap_or_default();
        let comment = "what `start --undo` goes back to";
        let kept = file::write_whole(&self.undo_path(name), &text, 0o600)
            .and_then(|()| fault::point())
            .map_err(GuestError::from)
            .and_then(|()| self.keep(name, &undo.snapshot, (comment, Stay::Always), false));
        if kept.is_err() {
            // The error that matters is this one. Nothing is written yet that a person could decide
            // about.
            let _left = self.abandon_undo(name);
        }
        kept.map(drop)
    }

    /// Writes down that a guest with an undo disk is about to run. Its lock is held.
    pub(super) fn mark_undo(&self, name: &GuestName) -> Result<()> {
        let Some(undo) = self.undo_of(name)?.filter(|undo| !undo.begun) else {
            return Ok(());
        };
        let undo = Undo {
            begun: true,
            ..undo
        };
        let text = serde_json::to_vec_pretty(&undo).unwrap_or_default();
        Ok(file::write_whole(&self.undo_path(name), &text, 0o600)?)
    }

    /// Whether this snapshot goes by itself at the end of the guest's run.
    pub(super) fn goes_at_the_end(&self, name: &GuestName, snapshot: &str) -> Result<bool> {
        let goes = |undo: Undo| undo.mode == UndoMode::Drop && undo.snapshot == snapshot;
        Ok(self.undo_of(name)?.is_some_and(goes))
    }

    /// Checks that a guest could be stopped now and started again: one that does not run is not started
    /// before it is decided what becomes of what it has written.
    ///
    /// # Errors
    /// There is no such guest; it is to be decided.
    pub(super) fn check_restart(&self, name: &GuestName) -> Result<()> {
        match self.status(name)? {
            Status::Stopped => self.check_decided(name, "restart"),
            _ => Ok(()),
        }
    }

    /// Checks that nobody has to decide first what becomes of what a guest has written.
    pub(super) fn check_decided(&self, name: &GuestName, verb: &'static str) -> Result<()> {
        let later = |undo: &Undo| undo.mode == UndoMode::Later;
        match self.undo_of(name)?.filter(later) {
            None => Ok(()),
            Some(_) => Err(GuestError::Undecided {
                verb,
                name: name.clone(),
            }),
        }
    }

    /// What is due on a guest that does not run: back to what it had, unless a person is to decide. Its
    /// lock is held.
    pub(super) fn settle_undo(&self, name: &GuestName) -> Result<()> {
        match self.undo_of(name)? {
            None => Ok(()),
            Some(undo) => {
                let before = self.before(name, &undo)?;
                // A start that was killed has left what nobody has written anything over.
                match before.is_some() && undo.begun && undo.mode == UndoMode::Later {
                    true => Ok(()),
                    false => self.drop_undo(name, &undo, before),
                }
            }
        }
    }

    /// Whether what a stopped guest has written is to be dropped, and is not yet.
    pub(super) fn is_undo_due(&self, name: &GuestName) -> bool {
        let due = |undo: Undo| {
            undo.mode == UndoMode::Drop
                || !undo.begun
                || self.before(name, &undo).is_ok_and(|one| one.is_none())
        };
        self.undo_of(name).is_ok_and(|undo| undo.is_some_and(due))
    }

    /// Takes back an undo disk that a start has made which then failed. Its lock is held.
    pub(super) fn abandon_undo(&self, name: &GuestName) -> Result<()> {
        match self.undo_of(name)? {
            Some(undo) => self.drop_undo(name, &undo, self.before(name, &undo)?),
            None => Ok(()),
        }
    }

    /// Decides what becomes of what a guest has written on its undo disk.
    ///
    /// # Errors
    /// It has none; its snapshot is mounted; it runs and what it has is to be dropped; the disk is full.
    pub fn decide_undo(&self, name: &GuestName, decision: Decision) -> Result<()> {
        let _lock = self.lock(name, "undo")?;
        let undo = self.check_undo(name, decision)?;
        self.settle_root(name)?;
        let before = self.before(name, &undo)?;
        match decision {
            Decision::Drop => self.drop_undo(name, &undo, before),
            Decision::Keep => self.keep_undo(name, &undo, before),
        }
    }

    /// Checks what [`Manager::decide_undo`] would need, and changes nothing.
    ///
    /// # Errors
    /// As there.
    pub fn check_decision(&self, name: &GuestName, decision: Decision) -> Result<()> {
        self.check_undo(name, decision).map(drop)
    }

    /// What an undo disk goes back to comes after `above` from now on, if it came after `gone`.
    pub(super) fn undo_comes_after(
        &self,
        name: &GuestName,
        gone: &str,
        above: Option<&String>,
    ) -> Result<()> {
        let undo = self.undo_of(name)?;
        let Some(undo) = undo.filter(|undo| undo.parent.as_deref() == Some(gone)) else {
            return Ok(());
        };
        fault::point()?;
        let undo = Undo {
            parent: above.cloned(),
            ..undo
        };
        let text = serde_json::to_vec_pretty(&undo).unwrap_or_default();
        Ok(file::write_whole(&self.undo_path(name), &text, 0o600)?)
    }

    fn check_undo(&self, name: &GuestName, decision: Decision) -> Result<Undo> {
        let status = self.status(name)?;
        if status != Status::Stopped && decision == Decision::Drop {
            return Err(GuestError::WrongState {
                verb: "drop what was written by",
                name: name.clone(),
                status,
                advice: Some("stop it first"),
            });
        }
        let undo = self
            .undo_of(name)?
            .ok_or_else(|| GuestError::NoUndo(name.clone()))?;
        self.must_not_be_mounted(name, Some(&undo.snapshot))?;
        Ok(undo)
    }

    /// The snapshot of before; `None` where making it was cut short, or it is gone back to already.
    fn before(&self, name: &GuestName, undo: &Undo) -> Result<Option<Snapshot>> {
        let mut all = self.snapshot_records(name)?;
        all.retain(|one| one.name == undo.snapshot);
        Ok(all.pop())
    }

    fn drop_undo(&self, name: &GuestName, undo: &Undo, before: Option<Snapshot>) -> Result<()> {
        if let Some(before) = before {
            // Before anything is done: what is mounted cannot be forgotten afterwards.
            self.must_not_be_mounted(name, Some(&before.name))?;
            let arrival = Arrival {
                definition: None,
                snapshot: undo.parent.clone(),
                written: self.written_then(name, &before),
            };
            self.go_back(name, &before, &arrival)?;
            self.forget(name, &before)?;
            let snapshot = before.name;
            let _lost = self.record(name, EventKind::Restored { snapshot });
            self.drop_unused();
        }
        self.end_undo(name)
    }

    fn keep_undo(&self, name: &GuestName, undo: &Undo, before: Option<Snapshot>) -> Result<()> {
        let machine = self.machine(name)?;
        if machine.snapshot.as_ref() == Some(&undo.snapshot) {
            let machine = Machine {
                snapshot: undo.parent.clone(),
                ..machine
            };
            self.write_machine(name, &machine)?;
        }
        if let Some(before) = before {
            self.forget(name, &before)?;
            self.drop_unused();
        }
        self.end_undo(name)
    }

    fn end_undo(&self, name: &GuestName) -> Result<()> {
        fault::point()?;
        let path = self.undo_path(name);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(KernelError::io("remove", path.display())(error).into())
            }
            _ => Ok(()),
        }
    }
}
