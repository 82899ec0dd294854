//! Snapshots that are taken by the clock: whether a guest's next one is due, which of those there are
//! no rule of its definition keeps, and which of the others have been kept for their time. When is decided next door in [`crate::model::SnapshotRule`];
//! how one is taken and removed, in `snapshot`.

use std::error::Error;

use serde::Serialize;

use super::error::{GuestError, Result};
use super::manager::{Manager, now_ms};
use super::snapshot::Snapshot;
use super::snapshot_deadline::Stay;
use crate::model::{EventKind, Guest, GuestName, Status, clock};
use crate::storage;

/// What the clock did to one guest, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Scheduled {
    /// The snapshot that was taken.
    pub taken: Option<String>,
    /// Those that were removed: by the rules, then by their day, each oldest first.
    pub removed: Vec<String>,
    /// Whether one was due and the guest has written nothing since the last.
    pub unchanged: bool,
}

impl Scheduled {
    fn is_nothing(&self) -> bool {
        self.taken.is_none() && self.removed.is_empty()
    }
}

impl Manager {
    /// Guests that want snapshots by the clock or have some that go by it, and those whose definition
    /// cannot be understood.
    ///
    /// # Errors
    /// The guests cannot be listed; a profile file is wrong.
    pub fn with_schedule(&self) -> Result<Vec<GuestName>> {
        let profiles = self.profiles()?;
        let mut names = self.names()?;
        names.retain(|name| {
            if self.has_deadline(name) {
                return true;
            }
            let text = self.definition_text(name);
            match text.and_then(|text| self.define_by(name, &text, &profiles)) {
                Ok(guest) => guest.snapshots.every.is_some(),
                // Half-made, or deleted meanwhile.
                Err(GuestError::Missing { .. }) => false,
                Err(_) => true,
            }
        });
        Ok(names)
    }

    /// What [`Manager::run_schedule`] would do.
    ///
    /// # Errors
    /// The guest or its snapshots cannot be read.
    pub fn look_at_schedule(&self, name: &GuestName) -> Result<Scheduled> {
        let (guest, there, now) = (self.guest(name)?, self.automatic(name)?, now_ms());
        let mut times: Vec<u64> = there.iter().map(|one| one.created_ms).collect();
        let mut would = Scheduled::default();
        if guest.snapshots.is_due(&times, now) {
            would.unchanged = self.is_unchanged(name, there.last())?;
            if !would.unchanged {
                would.taken = Some(free_name(&self.snapshots(name)?, now));
                times.push(now);
            }
        }
        let goes = guest.snapshots.superfluous(&times, now);
        let gone = there.into_iter().zip(goes).filter(|(_, goes)| *goes);
        let gone = gone.map(|(one, _)| one).chain(self.outlived(name)?);
        would.removed = gone.map(|one| one.name).collect();
        Ok(would)
    }

    /// Takes a guest's snapshot if one is due, and removes automatic ones that no rule keeps, and others
    /// that have been kept for their time. A snapshot that cannot be taken does not keep those from being removed: it may want their room.
    ///
    /// # Errors
    /// As [`Manager::take_snapshot`]; told by an event as well, once as long as nothing else happens.
    pub fn run_schedule(&self, name: &GuestName) -> Result<Scheduled> {
        let done = self.follow_schedule(name);
        match &done {
            Ok(_) | Err(GuestError::Missing { .. }) => {}
            Err(error) => {
                let why = chained(error);
                let failed = EventKind::SnapshotFailed { why };
                if self.last_event(name).as_ref() != Some(&failed) {
                    let _lost = self.record(name, failed);
                }
            }
        }
        done
    }

    fn last_event(&self, name: &GuestName) -> Option<EventKind> {
        let mut last = None;
        let read = self.events(&|event| event.guest == name.as_str(), false, &mut |event| {
            last = Some(event.kind.clone());
            true
        });
        read.ok().and(last)
    }

    fn follow_schedule(&self, name: &GuestName) -> Result<Scheduled> {
        let would = self.look_at_schedule(name)?;
        if would.is_nothing() {
            return Ok(would);
        }
        let _lock = self.lock(name, "snapshot run")?;
        // Another command may have done it while this one waited.
        let would = self.look_at_schedule(name)?;
        let taken = match &would.taken {
            Some(snapshot) => self
                .must_be_whole(name)
                .and_then(|runs| self.keep(name, snapshot, ("", Stay::ByRule), runs))
                .map(drop),
            None => Ok(()),
        };
        let removed = self.thin_out(&self.guest(name)?)?;
        taken?;
        Ok(Scheduled { removed, ..would })
    }

    /// Removes the automatic snapshots that no rule keeps, and others that have been kept for their time;
    /// gives their names. The lock is held.
    fn thin_out(&self, guest: &Guest) -> Result<Vec<String>> {
        let there = self.automatic(&guest.name)?;
        let times: Vec<u64> = there.iter().map(|one| one.created_ms).collect();
        let goes = guest.snapshots.superfluous(&times, now_ms());
        let gone = there.into_iter().zip(goes).filter(|(_, goes)| *goes);
        let gone = gone.map(|(one, _)| one).chain(self.outlived(&guest.name)?);
        self.forget_all(&guest.name, gone.collect())
    }

    /// The snapshots that were taken by the clock, oldest first.
    fn automatic(&self, name: &GuestName) -> Result<Vec<Snapshot>> {
        let mut all = self.snapshots(name)?;
        all.retain(|one| one.automatic);
        Ok(all)
    }

    /// Whether it is stopped and as it was at this snapshot. Where that cannot be known simply, it
    /// is not.
    fn is_unchanged(&self, name: &GuestName, newest: Option<&Snapshot>) -> Result<bool> {
        let Some(newest) = newest else {
            return Ok(false);
        };
        Ok(self.status(name)? == Status::Stopped
            && self.definition_text(name)? == newest.definition
            && storage::is_as_kept(&self.layout, name, &newest.root)
                .map_err(|error| self.root_error(name, error))?)
    }
}

/// `auto-2026-11-26-1705`, and a number behind it where there is one of that name.
fn free_name(there: &[Snapshot], now: u64) -> String {
    let time: String = clock::time(now).replace('T', "-").replace(':', "");
    let base = format!("auto-{}", &time[..15]);
    let names = (2..).map(|number| format!("{base}-{number}"));
    let mut names = std::iter::once(base.clone()).chain(names);
    let free = names.find(|name| there.iter().all(|one| one.name != *name));
    free.unwrap_or(base)
}

/// An error and what led to it, on one line; nothing twice.
fn chained(error: &GuestError) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text.replace('\n', "; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::define::snapshot_name;

    fn named(name: &str) -> Snapshot {
        let record = serde_json::json!({
            "name": name, "created_ms": 1, "comment": "", "parent": null, "image": "",
            "definition": "", "root": {"layers": {"chain": [], "place": null}},
        });
        serde_json::from_value(record).unwrap()
    }

    #[test]
    fn names_tell_the_minute_and_meet_none() {
        let now = clock::since("2026-11-26T17:05:42Z").unwrap();
        let mut there = Vec::new();
        for wanted in [
            "auto-2026-11-26-1705",
            "auto-2026-11-26-1705-2",
            "auto-2026-11-26-1705-3",
        ] {
            let name = free_name(&there, now);
            assert_eq!(name, wanted);
            assert_eq!(snapshot_name(&name), Ok(()));
            there.push(named(&name));
        }
    }

    #[test]
    fn records_from_before_are_of_people() {
        let old = named("s1");
        assert!(!old.automatic);
        let text = serde_json::to_string(&old).unwrap();
        assert!(!text.contains("automatic"));
        let new = Snapshot {
            automatic: true,
            ..old
        };
        let text = serde_json::to_string(&new).unwrap();
        assert_eq!(serde_json::from_str::<Snapshot>(&text).unwrap(), new);
    }
}
