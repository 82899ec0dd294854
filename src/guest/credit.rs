//! Credits of CPU time: what a guest has saved up (`credits.json` in its folder), and how it is held
//! to what it earns when it has nothing left. The rules are in `model::credit`; who looks is the keeper
//! (`credit_watch`), and whoever puts a run away counts the rest.

use std::path::PathBuf;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use super::error::Result;
use super::leftover::{Leftover, leftover, told};
use super::manager::{Manager, RECORD, now_ms};
use super::why::Cause;
use crate::kernel::cgroup::Group;
use crate::kernel::file;
use crate::kernel::process::Identity;
use crate::model::clock::span;
use crate::model::{Balance, Cpus, Credits, Guest, GuestName, Status};

/// The kernel's usual period, microseconds.
const PERIOD_US: u64 = 100_000;

/// `credits.json`: what a guest had, and what its counter said then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Saved {
    pub(super) balance: Balance,
    /// The first process of the run in which that was.
    init: Option<Identity>,
    /// CPU time of that run, microseconds.
    cpu_us: u64,
    /// When that was, microseconds of the clock that does not run while the host sleeps.
    at_us: u64,
    /// Since when it is held to what it earns, or is not: milliseconds since 1970; 0 if nobody knows.
    #[serde(default)]
    since_ms: u64,
}

/// A guest's credits, as people are shown them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct CreditView {
    /// CPU time saved up, microseconds; less than nothing is owed.
    pub saved_us: i64,
    /// Most that is saved up.
    pub bank_us: u64,
    /// CPUs it earns, hundredths.
    pub earn: u32,
    /// Whether it is held to that now.
    pub held_back: bool,
    /// Since when, or since when it is not: milliseconds since 1970; 0 if nobody knows.
    pub since_ms: u64,
}

/// What the keeper is told of a guest's credits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CreditOrders {
    pub(super) credits: Credits,
    /// Its limit while it has some, and how much unused time it may use beyond that.
    pub(super) limit: Option<Cpus>,
    pub(super) burst_us: u64,
}

impl CreditOrders {
    pub(super) fn of(guest: &Guest) -> Option<Self> {
        guest.cpu.credits().map(|credits| Self {
            credits,
            limit: guest.cpu.limit,
            burst_us: guest.cpu.burst_us,
        })
    }
}

impl Manager {
    fn credits_path(&self, name: &GuestName) -> PathBuf {
        self.layout.guest(name).join("credits.json")
    }

    /// Whether something is written down of its credits.
    pub(super) fn has_credits(&self, name: &GuestName) -> bool {
        self.credits_path(name).exists()
    }

    pub(super) fn saved_credits(&self, name: &GuestName) -> Option<Saved> {
        let text = file::read_small(&self.credits_path(name), RECORD).ok()??;
        // One that cannot be understood is begun anew, with nothing.
        serde_json::from_slice(&text).ok()
    }

    /// What a running guest has now.
    pub(super) fn credits_now(
        &self,
        name: &GuestName,
        credits: &Credits,
        init: Option<Identity>,
        group: &Group,
    ) -> Result<Saved> {
        let cpu_us = group.stats()?.cpu_us;
        let now = Saved {
            balance: Balance::default(),
            init,
            cpu_us,
            at_us: now_us(),
            since_ms: now_ms(),
        };
        let Some(before) = self.saved_credits(name) else {
            // It has credits from now on.
            return Ok(now);
        };
        let (since, used) = match before.init == init {
            true => (
                now.at_us.saturating_sub(before.at_us),
                cpu_us.saturating_sub(before.cpu_us),
            ),
            // Nothing is earned between two runs, and what this one has used so far is new.
            false => (0, cpu_us),
        };
        let elapsed = Duration::from_micros(since);
        let balance = before.balance.after(credits, elapsed, used);
        let since_ms = match balance.spent == before.balance.spent {
            true => before.since_ms,
            false => now.since_ms,
        };
        Ok(Saved {
            balance,
            since_ms,
            ..now
        })
    }

    /// Counts what a guest has used until now, and writes it down.
    pub(super) fn count_credits(
        &self,
        name: &GuestName,
        credits: &Credits,
        init: Option<Identity>,
        group: &Group,
    ) -> Result<Saved> {
        let now = self.credits_now(name, credits, init, group)?;
        self.save_credits(name, &now)?;
        Ok(now)
    }

    fn save_credits(&self, name: &GuestName, saved: &Saved) -> Result<()> {
        let text = serde_json::to_vec(saved).unwrap_or_default();
        Ok(file::write_runtime(&self.credits_path(name), &text, 0o600)?)
    }

    /// The same at the end of a run, if the guest has any; those that its next run is not to have are
    /// forgotten.
    pub(super) fn settle_credits(&self, name: &GuestName, init: Option<Identity>, group: &Group) {
        if !self.has_credits(name) {
            return;
        }
        let now = self.as_it_runs(name);
        if let Some(credits) = now.ok().and_then(|guest| guest.cpu.credits()) {
            // A full disk must not keep a guest from being stopped.
            let _lost = self.count_credits(name, &credits, init, group);
        }
        if let Ok(guest) = self.guest(name) {
            self.forget_credits(name, &guest);
        }
    }

    /// A guest that has no credits any more begins anew when it gets some.
    pub(super) fn forget_credits(&self, name: &GuestName, guest: &Guest) {
        if guest.cpu.credits().is_none() {
            let _none = std::fs::remove_file(self.credits_path(name));
        }
    }

    /// What a guest is held to because its credits are used up, or because nobody counts what it uses.
    pub(super) fn held_by_credits(&self, name: &GuestName, guest: &Guest) -> Option<Cpus> {
        let credits = guest.cpu.credits()?;
        let balance = self.saved_credits(name).map(|saved| saved.balance);
        let held = balance.unwrap_or_default().spent || self.is_uncounted(name);
        held.then_some(credits.earn)
    }

    /// Whether a guest runs without its keeper. The next one lets it use what it has saved.
    fn is_uncounted(&self, name: &GuestName) -> bool {
        let runs = matches!(self.status(name), Ok(Status::Running | Status::Paused));
        runs && !self.has_keeper(name)
    }

    /// A guest's credits for people; `None` if it has none.
    pub(super) fn credit_view(&self, name: &GuestName, guest: &Guest) -> Option<CreditView> {
        let state = self.run_state(name).ok().flatten();
        let credits = match &state {
            // Those of its definition may wait for its next start.
            Some(state) => state.in_force.of(guest.clone()).cpu.credits()?,
            None => guest.cpu.credits()?,
        };
        let runs = state.filter(|state| {
            matches!(
                self.status_of(name, Some(state)),
                Status::Running | Status::Paused
            )
        });
        let now = runs.and_then(|state| {
            let group = self.group(name).ok()??;
            self.credits_now(name, &credits, state.init, &group).ok()
        });
        let saved = now.or_else(|| self.saved_credits(name));
        let balance = saved.map(|saved| saved.balance).unwrap_or_default();
        Some(CreditView {
            saved_us: balance.us,
            bank_us: credits.bank_us,
            earn: credits.earn.hundredths(),
            held_back: balance.spent,
            since_ms: saved.map_or(0, |saved| saved.since_ms),
        })
    }

    /// Where its own limit stops a guest, says that this is so because its credits are used up.
    pub(super) fn blame_credits(&self, name: &GuestName, causes: &mut [Cause]) {
        let view = self.as_it_runs(name).ok().and_then(|guest| {
            let view = self.credit_view(name, &guest)?;
            Some((view, guest.cpu.earn?))
        });
        let Some((view, earn)) = view.filter(|(view, _)| view.held_back) else {
            return;
        };
        let ago = match view.since_ms {
            0 => String::new(),
            since => format!(" (for {} now)", span(now_ms().saturating_sub(since) / 1000)),
        };
        let own = format!("bulkhead set {name} cpu.limit=CPUS");
        for cause in causes
            .iter_mut()
            .filter(|cause| cause.advice.contains(&own))
        {
            cause.why = format!(
                "its credits are used up{ago}, and the {earn} CPUs that it earns stopped it in this part of \
                 the periods"
            );
            cause.advice = format!(
                "let it be idle for a while, or let it earn more: bulkhead set {name} cpu.earn=CPUS"
            );
        }
    }

    /// Holds a guest whose keeper is gone to what it earns: nobody would see when it has used up the
    /// rest. The next keeper lets it go on.
    pub(super) fn fall_back(&self, name: &GuestName, orders: &CreditOrders) -> Result<()> {
        let Some(group) = self.group(name)? else {
            return Ok(());
        };
        hold_to(&group, orders.credits.earn)
    }

    /// A guest with credits whose keeper is gone, and so is the process that stood by for that.
    pub(super) fn of_credits(&self, name: &GuestName, fix: bool, found: &mut Vec<Leftover>) {
        if !self.is_uncounted(name) {
            return;
        }
        let now = self.as_it_runs(name).ok();
        let Some(orders) = now.as_ref().and_then(CreditOrders::of) else {
            return;
        };
        let limit = || self.group(name).ok()??.cpu_limit().ok();
        let earn = u64::from(orders.credits.earn.hundredths());
        if limit().is_some_and(|limit| limit.is_none_or(|limit| limit > earn)) {
            let done = fix.then(|| self.fall_back(name, &orders));
            found.push(leftover("uncounted credits", name.to_string(), told(done)));
        }
    }
}

/// Holds a group to this much CPU time, or less if it has less.
pub(super) fn hold_to(group: &Group, earn: Cpus) -> Result<()> {
    let most = u64::from(earn.hundredths());
    match group.cpu_limit()? {
        Some(limit) if limit <= most => Ok(()),
        _ => Ok(group.limit_cpu(Some(earn.quota_us(PERIOD_US)), 0)?),
    }
}

/// Gives a group the limit it has while it has credits.
pub(super) fn let_run(group: &Group, orders: &CreditOrders) -> Result<()> {
    let wanted = orders.limit.map(|limit| u64::from(limit.hundredths()));
    match group.cpu_limit()? == wanted {
        true => Ok(()),
        false => Ok(group.limit_cpu(
            orders.limit.map(|limit| limit.quota_us(PERIOD_US)),
            orders.burst_us,
        )?),
    }
}

fn now_us() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let (seconds, ns) = (u64::try_from(now.tv_sec), u64::try_from(now.tv_nsec));
    seconds.unwrap_or(0) * 1_000_000 + ns.unwrap_or(0) / 1000
}
