//! The controller of goals: looks at guests that have one, decides (`model::goal_control`), and
//! changes their limits, or only says what it would change.
//!
//! What it has changed, and how that is undone, is in `goal_held`.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::error::{GuestError, Result};
use super::goal::GoalView;
use super::goal_held::Held;
use super::goal_look::{Look, Watched};
use super::goal_metric::Metrics;
use super::manager::{Manager, now_ms};
use crate::kernel::channel::Channel;
use crate::kernel::file::{self, Lock};
use crate::kernel::interrupt;
use crate::kernel::process::{self, CloneFlags, Forked, Identity};
use crate::model::{
    Change, Control, EventKind, GoalName, GoalResource, GuestName, Policy, Status, Subject,
};

/// How long a guest at which another command works is waited for.
const PATIENCE: Duration = Duration::from_millis(50);

/// What the controller did, or would do.
#[derive(Clone, Debug, Serialize)]
pub struct Decision {
    /// Guest.
    pub guest: GuestName,
    /// Name of the goal.
    pub goal: String,
    /// Which limit.
    pub resource: GoalResource,
    /// The limit before: hundredths of a CPU, MiB, percent of what the definition says.
    pub from: u64,
    /// The limit then.
    pub to: u64,
    /// What was seen.
    pub cause: String,
    /// Whether it was changed, or only said.
    pub acted: bool,
}

/// What a controller tells of.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Told {
    /// A limit that was changed, or would be.
    Decision(Decision),
    /// A goal whose metric has had no number for a while, or has one again.
    Metric {
        /// Guest.
        guest: GuestName,
        /// Name of the goal.
        goal: String,
        /// Why there is no number; `None` when there is one again.
        no_number: Option<String>,
    },
}

/// One limit of one guest.
type Key = (GuestName, GoalResource);

/// A controller.
struct Controller<'a> {
    manager: &'a Manager,
    act: bool,
    /// Times are counted from here: the host's clock may be put back.
    began: Instant,
    controls: BTreeMap<GoalResource, Control>,
    metrics: Metrics,
    looks: BTreeMap<Key, Option<Look>>,
    /// What guests have of their I/O limits, percent, where it is not all.
    io: BTreeMap<GuestName, u64>,
    /// What was said last of a guest that nothing is changed of.
    advised: BTreeMap<Key, u64>,
    /// Of which it was said that a change was refused.
    refused: BTreeSet<Key>,
    /// Of which it was said that their goal has no number.
    silent: BTreeSet<Key>,
}

/// What became of a change.
enum Outcome {
    Done,
    /// Something is in the way, which may not be in the next round.
    Later,
    /// The kernel does not take it, and why.
    Refused(String),
}

impl Manager {
    /// Follows goals until a signal asks this program to end; tells of each decision. Nothing is
    /// changed but for goals that say so, or with `act` for all.
    ///
    /// # Errors
    /// Another controller runs, or goals cannot be read.
    pub fn run_goals(&self, act: bool, every: Duration, told: &mut dyn FnMut(&Told)) -> Result<()> {
        interrupt::catch()?;
        // Before the lock is taken: what that process has open it would hold.
        let guard = Guard::new(self)?;
        let path = self.layout.run().join("goals.lock");
        let Some(_single) = Lock::take(&path, Duration::ZERO)? else {
            return Err(GuestError::GoalsRun);
        };
        // What another command is in the way of, each round tries again.
        let _later = self.let_goals_go(None);
        let mut controller = Controller {
            manager: self,
            act,
            began: Instant::now(),
            controls: BTreeMap::new(),
            metrics: Metrics::default(),
            looks: BTreeMap::new(),
            io: BTreeMap::new(),
            advised: BTreeMap::new(),
            refused: BTreeSet::new(),
            silent: BTreeSet::new(),
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
}

impl Controller<'_> {
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn round(&mut self, told: &mut dyn FnMut(&Told)) -> Result<()> {
        let goals = self.manager.sound_goals()?;
        let metric = |goal: &GoalView| matches!(goal.goal.policy, Policy::Metric { .. });
        self.metrics
            .keep(|name| goals.iter().any(|goal| goal.name == *name && metric(goal)));
        let mut chosen: BTreeMap<Key, &GoalView> = BTreeMap::new();
        let counts = |goal: &&GoalView| goal.goal.hours.is_none_or(|hours| hours.hold(now_ms()));
        for goal in goals.iter().filter(counts) {
            let resource = goal.goal.resource;
            // A guest's own goal wins over its tenant's.
            match &goal.goal.subject {
                Subject::Guest(name) => {
                    chosen.insert((name.clone(), resource), goal);
                }
                Subject::Tenant(tenant) => {
                    for name in self.manager.members(tenant)? {
                        chosen.entry((name, resource)).or_insert(goal);
                    }
                }
            }
        }
        let mut watched = BTreeMap::new();
        for (key, goal) in &chosen {
            let before = self.looks.entry(key.clone()).or_default();
            let io = self.io.get(&key.0).copied().unwrap_or(100);
            let look = self
                .manager
                .look_for_goal(&key.0, goal, io, before, &mut self.metrics);
            watched.extend(look.map(|one| (key.clone(), one)));
        }
        self.looks.retain(|key, _| chosen.contains_key(key));
        self.refused.retain(|key| chosen.contains_key(key));
        self.silent.retain(|key| chosen.contains_key(key));
        for key in watched.keys() {
            if let Some(goal) = chosen.get(key).filter(|goal| metric(goal)) {
                self.tell_silence(key, &goal.name, told);
            }
        }
        self.release(&watched);
        for resource in GoalResource::ALL {
            let of = |(key, one): (&Key, &Watched)| {
                (key.1 == resource).then(|| (key.0.clone(), one.seen.clone()))
            };
            let seen: BTreeMap<_, _> = watched.iter().filter_map(of).collect();
            let (now, capacity) = (self.now(), self.manager.goal_capacity(resource));
            let control = self.controls.entry(resource).or_default();
            for (name, change) in control.decide(now, capacity, &seen) {
                self.carry_out(&(name, resource), &mut watched, change, told)?;
            }
        }
        Ok(())
    }

    /// Says when a goal has had no number for long, and when it has one again.
    fn tell_silence(&mut self, key: &Key, goal: &GoalName, told: &mut dyn FnMut(&Told)) {
        let why = self.metrics.silence(goal).map(ToOwned::to_owned);
        let new = match &why {
            Some(_) => self.silent.insert(key.clone()),
            None => self.silent.remove(key),
        };
        if !new {
            return;
        }
        let kind = EventKind::GoalMetric {
            goal: goal.to_string(),
            why: why.clone(),
        };
        let _lost = self.manager.record(&key.0, kind);
        told(&Told::Metric {
            guest: key.0.clone(),
            goal: goal.to_string(),
            no_number: why,
        });
    }

    /// Whether a goal changes something.
    fn acts(&self, one: &Watched) -> bool {
        self.act || one.goal.goal.act
    }

    /// Guests whose goal does not count any more get their definition's limit back.
    fn release(&mut self, watched: &BTreeMap<Key, Watched>) {
        let mut names = Vec::new();
        let all = self.manager.each_state(None, &mut |name, state| {
            // One that a command holds still has not ended: its lock is not to be had, nor is there a
            // hurry.
            if !state.holder.is_some_and(Identity::lives) {
                names.push(name.clone());
            }
        });
        if all.is_err() {
            return;
        }
        for name in names {
            let Some(held) = self.manager.goal_holder(&name) else {
                continue;
            };
            let acts = |resource: &GoalResource| {
                let one = watched.get(&(name.clone(), *resource));
                one.is_some_and(|one| self.acts(one))
            };
            if !held.resources.is_empty() && held.resources.iter().all(acts) {
                continue;
            }
            // All of them: those that still count are changed again from there. Nobody waits for one
            // at which another command works.
            if self.manager.let_goal_go(&name, PATIENCE).is_ok() {
                self.io.remove(&name);
            }
        }
    }

    fn carry_out(
        &mut self,
        key: &Key,
        watched: &mut BTreeMap<Key, Watched>,
        change: Change,
        told: &mut dyn FnMut(&Told),
    ) -> Result<()> {
        let Some(one) = watched.get(key) else {
            return Ok(());
        };
        let acts = self.acts(one);
        let mut decision = Decision {
            guest: key.0.clone(),
            goal: one.goal.name.to_string(),
            resource: key.1,
            from: one.seen.limit,
            to: change.to,
            cause: change.cause,
            acted: acts,
        };
        if acts {
            match self.change(key, watched, change.to)? {
                Outcome::Later => return Ok(()),
                Outcome::Refused(why) => {
                    let now = self.now();
                    let control = self.controls.entry(key.1).or_default();
                    control.refused(now, &key.0);
                    if !self.refused.insert(key.clone()) {
                        return Ok(());
                    }
                    decision.acted = false;
                    decision.cause = format!(
                        "{}; it is refused now, and tried again later: {why}",
                        decision.cause
                    );
                }
                Outcome::Done => {
                    self.refused.remove(key);
                    // The next change of this round, of another limit, leaves this one as it is now.
                    if let Some(one) = watched.get_mut(key) {
                        one.seen.limit = change.to;
                    }
                }
            }
        } else if self.advised.insert(key.clone(), change.to) == Some(change.to) {
            // Said already, and nothing was done about it.
            return Ok(());
        }
        // It is so; a full disk must not make that an error.
        let _lost = self.manager.record(
            &key.0,
            EventKind::Goal {
                goal: decision.goal.clone(),
                resource: decision.resource,
                from: decision.from,
                to: decision.to,
                cause: decision.cause.clone(),
                acted: decision.acted,
            },
        );
        told(&Told::Decision(decision));
        Ok(())
    }

    /// Changes a limit, and says what became of it.
    fn change(&mut self, key: &Key, watched: &BTreeMap<Key, Watched>, to: u64) -> Result<Outcome> {
        let (name, resource) = (&key.0, key.1);
        let Some(one) = watched.get(key) else {
            return Ok(Outcome::Later);
        };
        let Ok(_lock) = self.manager.lock_within(name, "goal run", PATIENCE) else {
            return Ok(Outcome::Later);
        };
        let look = self.looks.get(key).and_then(Option::as_ref);
        let init = look.and_then(|look| look.init);
        let state = self.manager.run_state(name).ok().flatten();
        let same = state.is_some_and(|state| {
            init == state.init && self.manager.status_of(name, Some(&state)) == Status::Running
        });
        let (true, Ok(true), Some(us)) = (
            same,
            one.group.populated(),
            Identity::of(std::process::id()),
        ) else {
            return Ok(Outcome::Later);
        };
        let held = self.manager.goal_holder(name);
        // Also where one that is gone has left its name.
        let mut ours = held.filter(|held| held.controller == us).unwrap_or(Held {
            controller: us,
            resources: BTreeSet::new(),
        });
        if ours.resources.insert(resource) {
            let text = serde_json::to_vec(&ours).unwrap_or_default();
            file::write_runtime(&self.manager.goal_record(name), &text, 0o600)?;
        }
        // The definition may have been changed since it was looked at.
        let still = self.manager.as_it_runs(name).is_ok_and(|guest| {
            let now = &one.guest;
            guest.cpu == now.cpu && guest.memory == now.memory && guest.io.devices == now.io.devices
        });
        if !still {
            return Ok(Outcome::Later);
        }
        let others = ours.resources.iter().filter_map(|other| {
            let one = watched.get(&(name.clone(), *other))?;
            Some((*other, one.seen.limit))
        });
        let mut limits: BTreeMap<GoalResource, u64> = others.collect();
        limits.insert(resource, to);
        if let Err(error) = self.manager.set_limits(name, &limits) {
            return Ok(match one.group.populated() {
                Ok(true) => Outcome::Refused(super::view::chain(&error)),
                // It has ended meanwhile.
                _ => Outcome::Later,
            });
        }
        // What it may have changed of another limit, the next look tells.
        let _later = self.manager.let_keeper_look(name);
        if resource == GoalResource::Io {
            self.io.insert(name.clone(), to);
        }
        Ok(Outcome::Done)
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
