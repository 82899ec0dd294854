//! The controller of goals: looks at guests that have one, decides (`model::goal_control`), and
//! changes their CPU limits, or only says what it would change.
//!
//! What it changes is not in a definition. Before a guest's limit is changed first, `goal.json` in
//! its run state says who changes it; the definition's limit is put back, and that file removed,
//! when the controller ends, by a second process that stands by when it is killed, and, should that
//! be killed too, by the next controller, `doctor --fix` or the guest's next start.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::error::{GuestError, Result};
use super::goal::GoalView;
use super::goal_metric::Metrics;
use super::leftover::{Leftover, leftover, told};
use super::manager::{Manager, RECORD, now_ms};
use crate::kernel::cgroup::{Counters, Group};
use crate::kernel::channel::Channel;
use crate::kernel::file::{self, Lock};
use crate::kernel::interrupt;
use crate::kernel::process::{self, CloneFlags, Forked, Identity};
use crate::model::{
    Change, Control, Cpus, EventKind, Guest, GuestName, Policy, Resize, Resource, Seen, Status,
    Subject,
};

/// How long a guest at which another command works is waited for.
const PATIENCE: Duration = Duration::from_millis(50);
/// How long when its limit is put back.
const AT_THE_END: Duration = Duration::from_secs(10);
/// The kernel's usual period, microseconds.
const PERIOD_US: u64 = 100_000;

/// `goal.json`: whoever changes a guest's limit.
#[derive(Debug, Serialize, Deserialize)]
struct Held {
    controller: Identity,
}

/// What the controller did, or would do.
#[derive(Clone, Debug, Serialize)]
pub struct Decision {
    /// Guest.
    pub guest: GuestName,
    /// Name of the goal.
    pub goal: String,
    /// CPU limit before, hundredths.
    pub from: u64,
    /// CPU limit then.
    pub to: u64,
    /// What was seen.
    pub cause: String,
    /// Whether it was changed, or only said.
    pub acted: bool,
}

/// What a guest's counters said.
#[derive(Clone, Copy)]
struct Look {
    at: Instant,
    init: Option<Identity>,
    cpu_us: u64,
    waited_us: u64,
}

/// A guest with its goal, at a moment.
struct Watched {
    goal: GoalView,
    guest: Guest,
    group: Group,
    seen: Seen,
}

/// A controller.
struct Controller<'a> {
    manager: &'a Manager,
    act: bool,
    control: Control,
    metrics: Metrics,
    looks: BTreeMap<GuestName, Look>,
    /// What was said last of a guest that nothing is changed of.
    advised: BTreeMap<GuestName, u64>,
}

impl Manager {
    /// Follows goals until a signal asks this program to end; tells of each decision. Nothing is
    /// changed but for goals that say so, or with `act` for all.
    ///
    /// # Errors
    /// Another controller runs, or goals cannot be read.
    pub fn run_goals(
        &self,
        act: bool,
        every: Duration,
        told: &mut dyn FnMut(&Decision),
    ) -> Result<()> {
        interrupt::catch()?;
        // Before the lock is taken: what that process has open it would hold.
        let guard = Guard::new(self)?;
        let path = self.layout.run().join("goals.lock");
        let Some(_single) = Lock::take(&path, Duration::ZERO)? else {
            return Err(GuestError::GoalsRun);
        };
        self.let_goals_go(None)?;
        let mut controller = Controller {
            manager: self,
            act,
            control: Control::default(),
            metrics: Metrics::default(),
            looks: BTreeMap::new(),
            advised: BTreeMap::new(),
        };
        let mut done = Ok(());
        while interrupt::caught().is_none() {
            let next = Instant::now() + every;
            done = controller.round(told);
            if done.is_err() {
                break;
            }
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        self.let_goals_go(None)?;
        drop(guard);
        done
    }

    pub(super) fn goal_record(&self, name: &GuestName) -> PathBuf {
        self.layout.guest_run(name).join("goal.json")
    }

    fn goal_holder(&self, name: &GuestName) -> Option<Held> {
        let text = file::read_small(&self.goal_record(name), RECORD).ok()??;
        // One that cannot be understood is nobody's, and is put in order.
        let nobody = Identity { pid: 0, start: 0 };
        Some(serde_json::from_slice(&text).unwrap_or(Held { controller: nobody }))
    }

    /// Puts the limits of definitions back where a controller has changed them: this one, or one
    /// that is gone.
    fn let_goals_go(&self, only: Option<Identity>) -> Result<()> {
        let mut names = Vec::new();
        self.each_state(None, &mut |name, _| names.push(name.clone()))?;
        let mut failed = Ok(());
        for name in names {
            let held = self.goal_holder(&name);
            if held.is_some_and(|held| only.is_none_or(|only| only == held.controller)) {
                // Each, whatever becomes of the others.
                failed = failed.and(self.let_goal_go(&name));
            }
        }
        failed
    }

    /// Puts the limit of a guest's definition back.
    fn let_goal_go(&self, name: &GuestName) -> Result<()> {
        let _lock = self.lock_within(name, "goal run", AT_THE_END)?;
        match self.status(name) {
            Ok(Status::Running | Status::Paused) => self.set_cpu(name, None)?,
            Ok(_) | Err(GuestError::Missing { .. }) => {}
            Err(error) => return Err(error),
        }
        let _gone = std::fs::remove_file(self.goal_record(name));
        Ok(())
    }

    /// Gives a running guest a CPU limit for now, or its definition's. Its lock is held.
    fn set_cpu(&self, name: &GuestName, limit: Option<Cpus>) -> Result<()> {
        let Some(mut group) = self.group(name)? else {
            return Ok(());
        };
        let mut guest = self.in_force(name, self.guest(name)?);
        if let Some(limit) = limit {
            guest.cpu.limit = Some(limit);
            guest.cpu.burst_us = guest.cpu.burst_us.min(limit.quota_us(PERIOD_US));
        }
        let blocks = self.block_numbers(&guest)?;
        let resources = crate::plan::resources::limits(&guest, &blocks)?;
        group.update(&crate::launch::limits(&resources, guest.cgroups)?)?;
        Ok(())
    }

    /// A limit that a controller has changed, which is gone.
    pub(super) fn of_goal(&self, name: &GuestName, fix: bool, found: &mut Vec<Leftover>) {
        let held = self.goal_holder(name);
        if held.is_some_and(|held| !held.controller.lives()) {
            let back = || {
                self.set_cpu(name, None)?;
                let _gone = std::fs::remove_file(self.goal_record(name));
                Ok(())
            };
            found.push(leftover(
                "goal's limit",
                name.to_string(),
                told(fix.then(back)),
            ));
        }
    }
}

impl Controller<'_> {
    fn round(&mut self, told: &mut dyn FnMut(&Decision)) -> Result<()> {
        let goals = self.manager.goals()?;
        let metric = |goal: &GoalView| matches!(goal.goal.policy, Policy::Metric { .. });
        self.metrics
            .keep(|name| goals.iter().any(|goal| goal.name == *name && metric(goal)));
        let mut chosen: BTreeMap<GuestName, &GoalView> = BTreeMap::new();
        let counts = |goal: &&GoalView| goal.goal.hours.is_none_or(|hours| hours.hold(now_ms()));
        for goal in goals.iter().filter(counts) {
            // A guest's own goal wins over its tenant's.
            match &goal.goal.subject {
                Subject::Guest(name) => {
                    chosen.insert(name.clone(), goal);
                }
                Subject::Tenant(tenant) => {
                    for name in self.manager.members(tenant)? {
                        chosen.entry(name).or_insert(goal);
                    }
                }
            }
        }
        let mut watched = BTreeMap::new();
        for (name, goal) in &chosen {
            if let Some(one) = self.look(name, goal)? {
                watched.insert(name.clone(), one);
            }
        }
        self.looks.retain(|name, _| chosen.contains_key(name));
        self.release(&watched);
        let capacity = self.manager.host_room().of(Resource::Cpus).whole();
        let seen = watched
            .iter()
            .map(|(name, one)| (name.clone(), one.seen.clone()));
        let changes = self.control.decide(now_ms(), capacity, &seen.collect());
        for (name, change) in changes {
            if let Some(one) = watched.get(&name) {
                self.carry_out(&name, one, change, told)?;
            }
        }
        Ok(())
    }

    /// Guests whose goal does not count any more get their definition's limit back.
    fn release(&self, watched: &BTreeMap<GuestName, Watched>) {
        let mut names = Vec::new();
        let all = self
            .manager
            .each_state(None, &mut |name, _| names.push(name.clone()));
        if all.is_err() {
            return;
        }
        for name in names {
            let acts = watched
                .get(&name)
                .is_some_and(|one| self.act || one.goal.goal.act);
            if !acts && self.manager.goal_holder(&name).is_some() {
                // Tried again in the next round.
                let _later = self.manager.let_goal_go(&name);
            }
        }
    }

    /// A guest as it is now; `None` when it does not run, or was not looked at before.
    fn look(&mut self, name: &GuestName, goal: &GoalView) -> Result<Option<Watched>> {
        let manager = self.manager;
        let Some(state) = manager.run_state(name)? else {
            return Ok(None);
        };
        if manager.status_of(name, Some(&state)) != Status::Running {
            return Ok(None);
        }
        // One that ends, or whose definition is being changed, is looked at another time.
        let (Ok(Some(group)), Ok(guest)) = (manager.group(name), manager.guest(name)) else {
            return Ok(None);
        };
        let guest = manager.in_force(name, guest);
        if guest.cpu.resize != Resize::Dynamic {
            return Ok(None);
        }
        let (Ok(counters), Ok(sample)) = (group.counters(), group.stats()) else {
            return Ok(None);
        };
        let pressure = group.pressure("cpu").ok().flatten();
        let held_back = counters.cpu.map_or(0, |cpu| cpu.throttled_us);
        let now = Look {
            at: Instant::now(),
            init: state.init,
            cpu_us: sample.cpu_us,
            waited_us: pressure
                .map_or(0, |waits| waits.some_total_us)
                .max(held_back),
        };
        let before = self.looks.insert(name.clone(), now);
        let Some(before) = before.filter(|before| before.init == now.init) else {
            return Ok(None);
        };
        let us = now.at.saturating_duration_since(before.at).as_micros();
        let us = u64::try_from(us).unwrap_or(u64::MAX).max(1);
        let part = |now: u64, then: u64| now.saturating_sub(then).saturating_mul(100) / us;
        let metric = match &goal.goal.policy {
            Policy::Metric { command, .. } => self.metrics.number(&goal.name, command),
            _ => None,
        };
        let seen = Seen {
            policy: goal.goal.policy.clone(),
            priority: goal.goal.priority,
            used: part(now.cpu_us, before.cpu_us),
            waiting: part(now.waited_us, before.waited_us).min(100),
            metric,
            ..self.limits(goal, &guest, &counters)
        };
        Ok(Some(Watched {
            goal: goal.clone(),
            guest,
            group,
            seen,
        }))
    }

    /// The limit in force, and those between which it may be.
    fn limits(&self, goal: &GoalView, guest: &Guest, counters: &Counters) -> Seen {
        let cpus = |n: Option<Cpus>| n.map(|n| u64::from(n.hundredths()));
        let room = self.manager.host_room().of(Resource::Cpus);
        let entitled = cpus(guest.cpu.entitled).unwrap_or(0);
        let most = cpus(guest.cpu.limit_now()).unwrap_or(room.host);
        let most = most.min(cpus(goal.goal.max).unwrap_or(most));
        let most = most.max(entitled).max(1);
        let least = entitled
            .max(cpus(goal.goal.min).unwrap_or(1))
            .clamp(1, most);
        Seen {
            policy: Policy::Own,
            priority: goal.goal.priority,
            limit: counters.cpu.map_or(room.host, |cpu| cpu.limit),
            bounds: (least, most),
            entitled,
            used: 0,
            waiting: 0,
            metric: None,
        }
    }

    fn carry_out(
        &mut self,
        name: &GuestName,
        one: &Watched,
        change: Change,
        told: &mut dyn FnMut(&Decision),
    ) -> Result<()> {
        let acted = self.act || one.goal.goal.act;
        let decision = Decision {
            guest: name.clone(),
            goal: one.goal.name.to_string(),
            from: one.seen.limit,
            to: change.to,
            cause: change.cause,
            acted,
        };
        if acted {
            if !self.change(name, one, change.to)? {
                return Ok(());
            }
        } else if self.advised.insert(name.clone(), change.to) == Some(change.to) {
            // Said already, and nothing was done about it.
            return Ok(());
        }
        // It is so; a full disk must not make that an error.
        let _lost = self.manager.record(
            name,
            EventKind::Goal {
                goal: decision.goal.clone(),
                from: decision.from,
                to: decision.to,
                cause: decision.cause.clone(),
                acted,
            },
        );
        told(&decision);
        Ok(())
    }

    /// Changes a limit; says whether it was done. What is in the way now may not be in the next
    /// round.
    fn change(&self, name: &GuestName, one: &Watched, to: u64) -> Result<bool> {
        let Ok(_lock) = self.manager.lock_within(name, "goal run", PATIENCE) else {
            return Ok(false);
        };
        let cpus = u32::try_from(to).ok().and_then(Cpus::from_hundredths);
        let same = self.manager.run_state(name)?.is_some_and(|state| {
            self.looks
                .get(name)
                .is_some_and(|look| look.init == state.init)
                && self.manager.status_of(name, Some(&state)) == Status::Running
        });
        let (Some(_), true, Ok(true)) = (cpus, same, one.group.populated()) else {
            return Ok(false);
        };
        if self.manager.goal_holder(name).is_none()
            && let Some(controller) = Identity::of(std::process::id())
        {
            let text = serde_json::to_vec(&Held { controller }).unwrap_or_default();
            file::write_runtime(&self.manager.goal_record(name), &text, 0o600)?;
        }
        // The definition may have been changed since it was looked at.
        let still = self
            .manager
            .guest(name)
            .is_ok_and(|guest| self.manager.in_force(name, guest).cpu == one.guest.cpu);
        Ok(still && self.manager.set_cpu(name, cpus).is_ok())
    }
}

/// The process that stands by: ends with the controller, and puts right what that has left.
struct Guard {
    channel: Option<Channel>,
    process: OwnedFd,
}

impl Guard {
    fn new(manager: &Manager) -> Result<Self> {
        let (ours, theirs) = Channel::pair()?;
        let controller = Identity::of(std::process::id());
        match process::fork_with(CloneFlags::default(), None)? {
            Forked::Parent { pidfd, .. } => Ok(Self {
                channel: Some(ours),
                process: pidfd,
            }),
            Forked::Child => {
                let _guard = process::NoReturn;
                drop(ours);
                // Out of reach of keys and of whoever ends the controller's process group.
                let _leader = rustix::process::setsid();
                while let Ok(Some(_)) = theirs.receive(None) {}
                // What is left, `doctor` names.
                let _tried = controller.map(|who| manager.let_goals_go(Some(who)));
                process::leave(0)
            }
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.channel = None;
        process::collect_when_ended(self.process.as_fd());
    }
}
