//! A guest moved on to a newer image: its own layer stays and lies over another base. What it was is
//! kept as a snapshot, so that it can go back. Which guests lie over an older image than the one they
//! would be made from now is here too.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::change::Until;
use super::create::quota;
use super::error::{GuestError, Result};
use super::life::Verb;
use super::manager::{Manager, now_ms};
use super::reinstall::{Arrival, in_place};
use super::snapshot::Snapshot;
use super::snapshot_deadline::Stay;
use super::view::chain;
use crate::define::{self, KEYS};
use crate::kernel::fault;
use crate::model::{EventKind, Guest, GuestName, ImageName, Origin, Status, clock};
use crate::plan;
use crate::storage::{self, Hidden, Image, ImageError, Templates, TreeDiff};

/// Begin of the names of snapshots that keep a guest as it was over its base before.
const BEFORE: &str = "before-rebase";
/// How long a guest must run after it was ready to have come up.
const SETTLED: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(50);

/// A guest that is to lie over another base, or does.
#[derive(Clone, Debug, Serialize)]
pub struct Rebased {
    /// Digest of the base before.
    pub from: String,
    /// Digest of the base now.
    pub to: String,
    /// Files that the two have different.
    pub changes: usize,
    /// Those of them that the guest does not see, because it has something of its own there.
    pub hidden: Vec<Hidden>,
    /// The snapshot of before; `None` as long as it is not done.
    pub snapshot: Option<String>,
}

/// What is found out once, however many guests are asked about.
#[derive(Debug, Default)]
pub struct Bases {
    templates: Option<Templates>,
    newest: BTreeMap<String, Option<String>>,
    changes: BTreeMap<(String, String), TreeDiff>,
    damaged: BTreeMap<String, Option<String>>,
}

/// What a rebase would do.
struct Plan {
    text: Option<String>,
    guest: Guest,
    old: Image,
    new: Image,
}

impl Manager {
    /// Digest of the image that a guest would be made from now, if it is another than its own.
    #[must_use]
    pub fn behind(&self, name: &GuestName, guest: &Guest, bases: &mut Bases) -> Option<String> {
        let key = format!("{:?}", guest.origin);
        let newest = match bases.newest.get(&key) {
            Some(known) => known.clone(),
            None => {
                let image = self.base_now(&guest.origin, &mut bases.templates);
                let digest = image.ok().flatten().map(|image| image.digest);
                bases.newest.insert(key, digest.clone());
                digest
            }
        };
        let own = storage::image_digest(&self.layout, name).ok()?;
        newest.filter(|digest| *digest != own)
    }

    /// What is known to be wrong with the image that a guest lies over.
    pub(super) fn damage(&self, name: &GuestName, bases: &mut Bases) -> Option<String> {
        let digest = storage::image_digest(&self.layout, name).ok()?;
        let look = |digest: &String| {
            let image = storage::load_image(&self.layout, digest);
            let sound = image.and_then(|image| storage::check_sound(&image));
            sound.err().map(|error| super::view::chain(&error))
        };
        let known = bases.damaged.entry(digest);
        known.or_insert_with_key(look).clone()
    }

    /// Guests that lie over this image.
    ///
    /// # Errors
    /// The guests' folder cannot be read.
    pub fn guests_over(&self, digest: &str) -> Result<Vec<GuestName>> {
        let over = |name: &GuestName| {
            storage::image_digest(&self.layout, name).is_ok_and(|own| own == digest)
        };
        let mut names = self.names()?;
        names.retain(over);
        Ok(names)
    }

    fn base_now(
        &self,
        origin: &Origin,
        templates: &mut Option<Templates>,
    ) -> Result<Option<Image>> {
        match origin {
            Origin::Image(name) => Ok(Some(storage::find_image(&self.layout, name)?)),
            Origin::Template(wanted) => {
                let templates = match templates {
                    Some(known) => known,
                    None => templates.insert(self.templates()?),
                };
                Ok(storage::built_image(&self.layout, templates, wanted)?)
            }
        }
    }

    /// What [`Manager::rebase`] would do; `None` where the guest lies over that base already.
    ///
    /// # Errors
    /// As there, but for what only doing it shows.
    pub fn check_rebase(
        &self,
        name: &GuestName,
        image: Option<&ImageName>,
        bases: &mut Bases,
    ) -> Result<Option<Rebased>> {
        let _lock = self.lock(name, Verb::Rebase.name())?;
        self.must_be_whole(name)?;
        let plan = self.plan_rebase(name, image, bases)?;
        plan.map(|plan| self.look_ahead(name, &plan, bases))
            .transpose()
    }

    /// Whether [`Manager::rebase`] would have something to do.
    ///
    /// # Errors
    /// There is no such guest or image.
    pub fn is_to_move(
        &self,
        name: &GuestName,
        image: Option<&ImageName>,
        bases: &mut Bases,
    ) -> Result<bool> {
        Ok(self.plan_rebase(name, image, bases)?.is_some())
    }

    /// Puts a stopped guest's own layer over another base: the image `image`, or the newest of what its
    /// definition says. What it was is kept as a snapshot, for so long or until somebody removes it. `None`
    /// where there is nothing to do.
    ///
    /// # Errors
    /// It is not stopped, there is no such image, the disk is full; the guest is then as it was.
    pub fn rebase(
        &self,
        name: &GuestName,
        image: Option<&ImageName>,
        bases: &mut Bases,
        keep_old: Option<Duration>,
    ) -> Result<Option<Rebased>> {
        let _lock = self.lock(name, Verb::Rebase.name())?;
        Verb::Rebase.check(name, self.status(name)?)?;
        self.clean_up(name)?;
        let Some(plan) = self.plan_rebase(name, image, bases)? else {
            return Ok(None);
        };
        let seen = self.look_ahead(name, &plan, bases)?;
        let snapshot = self.name_of_now(name, BEFORE)?;
        let comment = "before it was moved to another base";
        let stay = keep_old.map(clock::ms).map_or(Stay::Always, |time| {
            Stay::Until(now_ms().saturating_add(time))
        });
        self.kept_aside(name, &snapshot, (comment, stay), |taken| {
            let arrival = Arrival {
                definition: plan.text.clone(),
                snapshot: Some(taken.name.clone()),
                written: None,
            };
            let wish = (&taken.root, quota(&plan.guest));
            fault::point()?;
            storage::restore_root(&self.layout, name, &plan.new, wish, (None, &arrival.note()))
                .map_err(|error| self.root_error(name, error))?;
            // It lies over its new base: what cannot be written down now, the next command writes.
            let _later = self.settle_root(name);
            Ok(())
        })?;
        let kind = EventKind::Rebased {
            from: plan.old.digest,
            to: plan.new.digest,
            snapshot: snapshot.clone(),
        };
        let _lost = self.record(name, kind);
        self.drop_unused();
        Ok(Some(Rebased {
            snapshot: Some(snapshot),
            ..seen
        }))
    }

    /// The same for a guest that runs, with a restart: if it does not come up within `limit` on its new
    /// base it goes back to the one before, and is started on that.
    ///
    /// # Errors
    /// As [`Manager::rebase`], and it did not come up.
    pub fn rebase_running(
        &self,
        name: &GuestName,
        image: Option<&ImageName>,
        bases: &mut Bases,
        (limit, keep_old): (Duration, Option<Duration>),
    ) -> Result<Option<Rebased>> {
        if self.check_rebase(name, image, bases)?.is_none() {
            return Ok(None);
        }
        self.stop_to_start(name, None)?;
        let done = match self.rebase(name, image, bases, keep_old) {
            Ok(done) => done,
            Err(error) => {
                self.start(name)?;
                return Err(error);
            }
        };
        let Err(why) = self.come_up(name, limit) else {
            return Ok(done);
        };
        self.kill(name, None)?;
        let snapshot = done.and_then(|done| done.snapshot).unwrap_or_default();
        self.undo_rebase(name, &snapshot)?;
        self.start(name)?;
        Err(GuestError::Start {
            name: name.clone(),
            why: format!(
                "over its new base it did not come up: {}; it is back on the one before, and runs",
                chain(&why)
            ),
            refused: false,
            console: None,
        })
    }

    /// Puts a stopped guest back to what it was before its last rebase, definition included if that
    /// changed with it. What it is now is kept as a snapshot; gives the names of both.
    ///
    /// # Errors
    /// It is not stopped, no such snapshot is left, the disk is full; the guest is then as it was.
    pub fn rebase_back(&self, name: &GuestName) -> Result<(String, String)> {
        let _lock = self.lock(name, Verb::Rebase.name())?;
        Verb::Rebase.check(name, self.status(name)?)?;
        self.clean_up(name)?;
        let wanted = self.base_before(name)?;
        let kept = self.name_of_now(name, "before-rollback")?;
        let comment = "before it went back to its base before";
        self.kept_aside(name, &kept, (comment, Stay::Always), |_| {
            self.back_to(name, &wanted)
        })?;
        let snapshot = wanted.name.clone();
        let _lost = self.record(name, EventKind::Restored { snapshot });
        self.drop_unused();
        Ok((wanted.name, kept))
    }

    /// The snapshot that [`Manager::rebase_back`] would go back to.
    ///
    /// # Errors
    /// None is left.
    pub fn base_before(&self, name: &GuestName) -> Result<Snapshot> {
        let own = self.machine(name)?.image;
        let mut all = self.snapshots(name)?;
        all.retain(|one| one.name.starts_with(BEFORE) && one.image != own);
        all.pop().ok_or_else(|| GuestError::NoBase(name.clone()))
    }

    /// The same after a guest did not come up: nothing of that run is kept.
    fn undo_rebase(&self, name: &GuestName, snapshot: &str) -> Result<()> {
        let _lock = self.lock(name, Verb::Rebase.name())?;
        self.clean_up(name)?;
        let wanted = self.snapshot(name, snapshot)?;
        self.back_to(name, &wanted)?;
        let kind = EventKind::Restored {
            snapshot: snapshot.to_owned(),
        };
        let _lost = self.record(name, kind);
        self.drop_snapshot(name, snapshot)
    }

    fn back_to(&self, name: &GuestName, wanted: &Snapshot) -> Result<()> {
        let then = self.define(name, &wanted.definition)?;
        let moved = self.guest(name).is_ok_and(|now| now.origin != then.origin);
        let arrival = Arrival {
            definition: moved.then(|| wanted.definition.clone()),
            snapshot: wanted.parent.clone(),
            written: self.written_then(name, wanted),
        };
        self.put_root_back(name, wanted, &arrival, &[])?;
        // It is back; what cannot be written down now, the next command writes.
        let _later = self.settle_root(name);
        Ok(())
    }

    /// Keeps a stopped guest as this snapshot, then does something; if that fails the guest has neither
    /// changed nor that snapshot. Its lock is held.
    fn kept_aside(
        &self,
        name: &GuestName,
        snapshot: &str,
        kept: (&str, Stay),
        act: impl FnOnce(&Snapshot) -> Result<()>,
    ) -> Result<()> {
        let before = self.machine(name)?;
        fault::point()?;
        let done = self
            .keep(name, snapshot, kept, false)
            .and_then(|taken| act(&taken));
        if done.is_err() {
            // The error that matters is this one; a snapshot that stays harms nobody.
            let _same = self.write_machine(name, &before);
            let _left = self.drop_snapshot(name, snapshot);
        }
        done
    }

    fn plan_rebase(
        &self,
        name: &GuestName,
        image: Option<&ImageName>,
        bases: &mut Bases,
    ) -> Result<Option<Plan>> {
        let before = self.definition_text(name)?;
        let key = KEYS.iter().find(|key| key.path == "image");
        let text = match image.zip(key) {
            Some((image, key)) => {
                define::edit(&before, &in_place(&key.changes(&[image.to_string()])?)?)?
            }
            None => before.clone(),
        };
        let guest = self.define(name, &text)?;
        let own = storage::image_digest(&self.layout, name);
        let own = own.map_err(|error| self.root_error(name, error))?;
        let new = self.base_now(&guest.origin, &mut bases.templates)?;
        let Some(new) = new.filter(|new| new.digest != own) else {
            return Ok(None);
        };
        storage::check_sound(&new)?;
        plan::spec::supported(&guest, &self.facts)?;
        Ok(Some(Plan {
            text: (text != before).then_some(text),
            old: storage::load_image(&self.layout, &own)?,
            guest,
            new,
        }))
    }

    fn look_ahead(&self, name: &GuestName, plan: &Plan, bases: &mut Bases) -> Result<Rebased> {
        let pair = (plan.old.digest.clone(), plan.new.digest.clone());
        if !bases.changes.contains_key(&pair) {
            let found = storage::image_changes(&plan.old, &plan.new).map_err(ImageError::from)?;
            bases.changes.insert(pair.clone(), found);
        }
        let (mut changes, mut hidden) = (0, Vec::new());
        if let Some(found) = bases.changes.get(&pair) {
            changes = found.changes.len();
            hidden = storage::hidden_changes(&self.layout, name, found)
                .map_err(|error| self.root_error(name, error.into()))?;
        }
        Ok(Rebased {
            from: pair.0,
            to: pair.1,
            changes,
            hidden,
            snapshot: None,
        })
    }

    /// Starts a guest and waits until all it starts has started, and it still runs a moment later.
    fn come_up(&self, name: &GuestName, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        self.start(name)?;
        let fell = |status: Status| GuestError::WrongState {
            verb: "go on with",
            name: name.clone(),
            status,
            advice: Some("`bulkhead logs` has what it said"),
        };
        loop {
            match self.wait(name, Until::Ready, Some(PAUSE)) {
                Ok(()) => break,
                Err(GuestError::TimedOut(why)) if Instant::now() >= deadline => {
                    return Err(GuestError::TimedOut(why));
                }
                Err(GuestError::TimedOut(_)) => {}
                Err(error) => return Err(error),
            }
            let status = self.status(name)?;
            if !matches!(status, Status::Running | Status::Starting) {
                return Err(fell(status));
            }
        }
        let settled = Instant::now() + SETTLED;
        while Instant::now() < settled {
            let status = self.status(name)?;
            if status != Status::Running {
                return Err(fell(status));
            }
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }
}
