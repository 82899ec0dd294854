//! What a guest may send and receive in a month: how far it has got, what is in force then, and that
//! somebody looks. A level is counted anew whenever it matters; what is written down is only which one
//! was told last, so that it is told once.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::account::{By, until_next_look};
use super::error::Result;
use super::ledger::DAY;
use super::manager::{Manager, now_ms};
use crate::kernel::file;
use crate::model::{Allowance, AllowanceClass, EventKind, Guest, GuestName, Level, clock};

/// How often the keeper of a guest with an allowance looks how far it has got.
const OFTEN: Duration = Duration::from_secs(30);
/// How often one notes what the counters of traffic say.
const NOTES: Duration = Duration::from_secs(60);

/// A guest's month.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Month {
    /// Its first day, `2026-03-15`.
    pub began: String,
    /// Bytes sent and received since, of what counts.
    pub used: u64,
    /// What counts.
    pub class: AllowanceClass,
    /// Bytes allowed.
    pub allowance: Option<u64>,
    /// Bytes beyond which nothing passes.
    pub cut: Option<u64>,
    /// What is in force.
    pub level: Level,
}

impl Manager {
    /// How far a guest has got with its allowance; `None` if it has none.
    ///
    /// # Errors
    /// Its account cannot be read.
    pub fn month(&self, name: &GuestName, allowance: &Allowance) -> Result<Option<Month>> {
        if !allowance.is_some() {
            return Ok(None);
        }
        let began = allowance.began(&clock::time(now_ms())[..DAY]);
        let days = self.account(name, By::Day)?;
        let used = days
            .iter()
            .filter(|day| day.period.len() == DAY && day.period >= began)
            .map(|day| allowance.counted(&day.traffic))
            .sum();
        Ok(Some(Month {
            level: allowance.level(used),
            began,
            used,
            class: allowance.class,
            allowance: allowance.bytes.map(|bytes| bytes.0),
            cut: allowance.cut.map(|bytes| bytes.0),
        }))
    }

    /// A guest with what is in force of its network, with no more than its tenant has, and held back
    /// if its credits are used up. An account that cannot be read cuts nobody off.
    pub(super) fn in_force(&self, name: &GuestName, mut guest: Guest) -> Guest {
        if let Ok(Some(month)) = self.month(name, &guest.network.allowance) {
            guest.network = guest.network.at(month.level);
        }
        self.held_by_tenant(name, &mut guest);
        guest.cpu.held_to = self.held_by_credits(name, &guest);
        guest
    }

    /// Brings a running guest to what its allowance has in force now, if that has changed or `always`,
    /// and tells it. Its keeper does it; a command that is at work on the guest does it itself, and
    /// then this was not done.
    fn follow_allowance(&self, name: &GuestName, always: bool) -> Result<bool> {
        let allowance = self.guest(name)?.network.allowance;
        let level = level_of(self.month(name, &allowance)?.as_ref());
        if level == self.told(name) && !always {
            return Ok(true);
        }
        let Ok(_lock) = self.lock_within(name, "keeper", Duration::ZERO) else {
            return Ok(false);
        };
        // What was read before the lock may be old.
        let guest = self.guest(name)?;
        let month = self.month(name, &guest.network.allowance)?;
        let guest = self.in_force(name, guest);
        self.follow(name, &guest.network)?;
        self.change_port(name, &guest)?;
        self.tell_allowance(name, month.as_ref())?;
        Ok(true)
    }

    /// Tells of a level that is in force now, once.
    pub(super) fn tell_allowance(&self, name: &GuestName, month: Option<&Month>) -> Result<()> {
        let level = level_of(month);
        if level == self.told(name) {
            return Ok(());
        }
        file::write_runtime(&self.told_path(name), level.word().as_bytes(), 0o600)?;
        let used = month.map_or(0, |month| month.used);
        self.record(name, EventKind::Allowance { level, used })
    }

    /// The level that was told last, whichever run that was in.
    pub(super) fn told(&self, name: &GuestName) -> Level {
        let text = file::read_small(&self.told_path(name), 64).ok().flatten();
        let is = |level: &Level| text.as_deref() == Some(level.word().as_bytes());
        [Level::Spent, Level::Cut]
            .into_iter()
            .find(is)
            .unwrap_or_default()
    }

    fn told_path(&self, name: &GuestName) -> PathBuf {
        self.layout.guest(name).join("allowance")
    }
}

/// A guest without an allowance has one that is never used up.
pub(super) fn level_of(month: Option<&Month>) -> Level {
    month.map(|month| month.level).unwrap_or_default()
}

/// When a keeper looks next, and what it does then.
#[derive(Debug)]
pub(super) struct Looks {
    next: Instant,
    account: Instant,
    note: Instant,
    allowance: bool,
    /// Whether what is in force is what the allowance says, as far as this keeper knows.
    applied: bool,
}

impl Looks {
    /// Looks at the account, and often at an `allowance` if there is one.
    pub(super) fn new(allowance: bool) -> Self {
        let now = Instant::now();
        let mut all = Self {
            next: now,
            account: now + until_next_look(),
            note: now + NOTES,
            allowance,
            applied: false,
        };
        all.next = all.after(now);
        all
    }

    /// How long until the next one.
    pub(super) fn pause(&self) -> Duration {
        self.next.saturating_duration_since(Instant::now())
    }

    /// Whether it is time.
    pub(super) fn are_due(&self) -> bool {
        self.pause().is_zero()
    }

    /// Looks. What goes wrong is no reason to leave the guest alone: it is tried again next time.
    pub(super) fn look(&mut self, manager: &Manager, name: &GuestName) {
        let now = Instant::now();
        if now >= self.account {
            manager.keep_account_if_idle(name);
            let _next_time = manager.keep_peaks();
            self.account = now + until_next_look();
            // A definition may have got an allowance, or lost it, since the start.
            let guest = manager.guest(name);
            self.allowance = guest.is_ok_and(|guest| guest.network.allowance.is_some());
            self.note = now + NOTES;
        } else if now >= self.note || self.allowance {
            let _next_time = manager.note_traffic(name);
            self.note = now + NOTES;
        }
        if self.allowance {
            let done = manager.follow_allowance(name, !self.applied);
            self.applied |= done.unwrap_or(false);
        }
        self.next = self.after(now);
    }

    fn after(&self, now: Instant) -> Instant {
        match self.allowance {
            true => self.account.min(now + OFTEN),
            false => self.account.min(self.note),
        }
    }
}
