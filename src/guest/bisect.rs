//! `bisect`: halves of the running guests are held still in turn, each time for a moment, until the
//! one is found without which there is less waiting on the host.
//!
//! Holding is what a backup does (`hold`), so whatever is left held by a command that died is known
//! to `doctor`. Nobody waits for that: before the first guest is held a second process, the guard,
//! stands by. When the command dies, it lets go of what that held; when the command is stopped for
//! longer than it said, it lets the guests run all the same.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::error::{GuestError, Result};
use super::hold::Held;
use super::manager::Manager;
use super::store::GuestLock;
use crate::kernel::cgroup::host_pressure;
use crate::kernel::channel::Channel;
use crate::kernel::fault;
use crate::kernel::file::Lock;
use crate::kernel::interrupt;
use crate::kernel::process::{self, CloneFlags, Forked, Identity};
use crate::model::{GuestName, Next, Search, Status, Verdict};

/// The label that keeps a guest from ever being held: `bisect=no`.
pub const LABEL: (&str, &str) = ("bisect", "no");

/// How long a guest that another command works on is waited for before it is left out.
const PATIENCE: Duration = Duration::from_millis(200);
/// Signals are looked for so often.
const SLICE: Duration = Duration::from_millis(50);
/// Between two times of holding, for those that were held to catch up.
const REST: Duration = Duration::from_millis(500);
/// What the guard gives a command beyond the time that it said.
const GRACE: Duration = Duration::from_secs(3);
/// Less waiting than this is no reason to hold anybody, hundredths of a percent.
const LEAST: u64 = 100;

/// What is waited for.
const RESOURCES: [&str; 3] = ["cpu", "memory", "io"];

/// What to search for, and among whom.
#[derive(Clone, Debug)]
pub struct Wish {
    /// These guests; `None` for all that run.
    pub guests: Option<Vec<GuestName>>,
    /// `cpu`, `memory` or `io`; `None` for what is waited for most.
    pub resource: Option<&'static str>,
    /// The guest whose waiting counts; `None` for the whole host's.
    pub watched: Option<GuestName>,
    /// How long each half is held still.
    pub window: Duration,
}

/// One time of holding.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    /// Guests that were held still; none for the first look, and for the last.
    pub held: Vec<GuestName>,
    /// In what part of the time there was waiting, hundredths of a percent.
    pub waiting: u64,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Bisected {
    /// What was waited for.
    pub resource: &'static str,
    /// What was tried.
    pub steps: Vec<Step>,
    /// The one.
    #[serde(flatten)]
    pub verdict: Verdict<GuestName>,
    /// How long each guest was held still in all, milliseconds.
    pub held_ms: BTreeMap<GuestName, u64>,
    /// Guests that were not tried, and why.
    pub left_out: BTreeMap<GuestName, &'static str>,
}

/// Who can be held, and who is left out.
type Chosen = (Vec<GuestName>, BTreeMap<GuestName, &'static str>);

impl Manager {
    /// Whom a search would hold still, how often at most each, and who is left out.
    ///
    /// # Errors
    /// A guest that is named is not there.
    pub fn plan_bisect(
        &self,
        wish: &Wish,
    ) -> Result<(Vec<GuestName>, u32, BTreeMap<GuestName, &'static str>)> {
        let (names, left_out) = self.bisected(wish)?;
        let rounds = Search::<GuestName>::rounds(names.len());
        Ok((names, rounds, left_out))
    }

    fn bisected(&self, wish: &Wish) -> Result<Chosen> {
        if let Some(watched) = &wish.watched {
            self.status(watched)?;
        }
        let (mut names, mut left_out) = (Vec::new(), BTreeMap::new());
        let all = match &wish.guests {
            Some(some) => some.clone(),
            None => self.names()?,
        };
        for name in all {
            let status = self.status(&name)?;
            let kept = || {
                let guest = self.guest(&name);
                guest.is_ok_and(|guest| {
                    guest.labels.get(LABEL.0).map(String::as_str) == Some(LABEL.1)
                })
            };
            if wish.watched.as_ref() == Some(&name) {
                left_out.insert(name, "it is the one that waits");
            } else if status == Status::Paused {
                left_out.insert(name, "it is paused");
            } else if status != Status::Running {
                left_out.insert(name, "it does not run");
            } else if kept() {
                left_out.insert(name, "its label bisect=no");
            } else {
                names.push(name);
            }
        }
        Ok((names, left_out))
    }

    /// Searches; tells of each step. Ends early, and lets everybody go on, when a signal asks this
    /// program to end.
    ///
    /// # Errors
    /// This kernel does not count waiting, or a guest cannot be held or let go.
    pub fn bisect(&self, wish: &Wish, told: &mut dyn FnMut(&Step)) -> Result<Option<Bisected>> {
        interrupt::catch()?;
        let (names, mut left_out) = self.bisected(wish)?;
        let guard = Guard::new(self, &names, wish.window)?;
        // Two at once would each see what the other holds still.
        let path = self.layout.run().join("bisect.lock");
        let Some(_single) = Lock::take(&path, Duration::ZERO)? else {
            return Err(GuestError::Bisects);
        };
        let Some((resource, base)) = self.base(wish)? else {
            return Ok(None);
        };
        let mut step = Step {
            held: Vec::new(),
            waiting: base,
        };
        told(&step);
        let mut steps = vec![step];
        let mut held_ms: BTreeMap<GuestName, u64> = BTreeMap::new();
        let base = if base < LEAST { 0 } else { base };
        let mut search = Search::new(names, base);
        let verdict = loop {
            let some = match search.next() {
                Next::Done(verdict) => break verdict,
                Next::Hold(some) => some,
            };
            if !rest(REST) {
                return Ok(None);
            }
            let turn = Turn {
                resource,
                wish,
                guard: &guard,
            };
            let Some(waiting) = self.hold_some(&turn, &some, &mut held_ms, &mut left_out)? else {
                return Ok(None);
            };
            search.measured(waiting);
            step = Step {
                held: some
                    .into_iter()
                    .filter(|name| held_ms.contains_key(name) && !left_out.contains_key(name))
                    .collect(),
                waiting,
            };
            told(&step);
            steps.push(step);
        };
        Ok(Some(Bisected {
            resource,
            steps,
            verdict,
            held_ms,
            left_out,
        }))
    }

    /// What is waited for most while nobody is held, and how much; `None` when a signal came.
    fn base(&self, wish: &Wish) -> Result<Option<(&'static str, u64)>> {
        let before = self.waits(wish)?;
        let began = Instant::now();
        if !rest(wish.window) {
            return Ok(None);
        }
        let us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        let after = self.waits(wish)?;
        let all = RESOURCES.iter().zip(before.iter().zip(&after));
        let parts = all.filter_map(|(name, (before, after))| {
            let part = part(after.as_ref()?.saturating_sub((*before)?), us);
            Some((*name, part))
        });
        let wanted = parts.filter(|(name, _)| wish.resource.is_none_or(|wanted| wanted == *name));
        wanted
            .max_by_key(|(_, part)| *part)
            .map(Some)
            .ok_or_else(|| {
                GuestError::Exhausted(
                    "this kernel does not count how long processes wait (PSI): boot it with psi=1"
                        .to_owned(),
                )
            })
    }

    /// For how long there was waiting since the boot, microseconds, by resource.
    fn waits(&self, wish: &Wish) -> Result<Vec<Option<u64>>> {
        let group = match &wish.watched {
            Some(name) => Some(self.group(name)?.ok_or_else(|| GuestError::WrongState {
                verb: "watch",
                name: name.clone(),
                status: Status::Stopped,
                advice: Some("`bulkhead start` it first"),
            })?),
            None => None,
        };
        let of = |resource: &&str| {
            let pressure = match &group {
                Some(group) => group.pressure(resource)?,
                None => host_pressure(resource)?,
            };
            Ok(pressure.map(|pressure| pressure.some_total_us))
        };
        RESOURCES.iter().map(of).collect()
    }

    /// Holds some still for the time of a window; says how much waiting there was, `None` when a
    /// signal came. In any case they go on.
    fn hold_some(
        &self,
        turn: &Turn<'_>,
        names: &[GuestName],
        held_ms: &mut BTreeMap<GuestName, u64>,
        left_out: &mut BTreeMap<GuestName, &'static str>,
    ) -> Result<Option<u64>> {
        let mut held: Vec<(&GuestName, Instant, Held<'_>, GuestLock)> = Vec::new();
        let asked = Instant::now();
        turn.guard.tell(true);
        for name in names {
            let Ok(lock) = self.lock_within(name, "bisect", PATIENCE) else {
                left_out.insert(name.clone(), "another command was at work on it");
                continue;
            };
            if self.status(name)? != Status::Running {
                left_out.insert(name.clone(), "it stopped meanwhile");
                continue;
            }
            held.push((name, Instant::now(), self.hold(name)?, lock));
        }
        let at = RESOURCES.iter().position(|name| *name == turn.resource);
        let now = |waits: Vec<Option<u64>>| at.and_then(|at| waits[at]).unwrap_or(0);
        let (began, before) = (Instant::now(), now(self.waits(turn.wish)?));
        let whole = rest(turn.wish.window);
        let us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        let after = now(self.waits(turn.wish)?);
        let mut failed = None;
        for (name, since, held, lock) in held {
            // Each is let go, whatever becomes of the others.
            failed = held.release().err().or(failed);
            drop(lock);
            let ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
            *held_ms.entry(name.clone()).or_default() += ms;
            fault::point()?;
        }
        turn.guard.tell(false);
        match failed {
            Some(error) => Err(error),
            // The guard has let them run.
            None if asked.elapsed() > turn.wish.window + GRACE => Err(GuestError::TimedOut(
                "it took too long to hold the guests still; they run: try fewer at a time"
                    .to_owned(),
            )),
            None => Ok(whole.then(|| part(after.saturating_sub(before), us))),
        }
    }
}

/// What one time of holding needs.
struct Turn<'a> {
    resource: &'static str,
    wish: &'a Wish,
    guard: &'a Guard,
}

/// Hundredths of a percent.
fn part(waited_us: u64, of_us: u64) -> u64 {
    (u128::from(waited_us) * 10_000 / u128::from(of_us.max(1)))
        .try_into()
        .unwrap_or(10_000)
        .min(10_000)
}

/// Waits; says whether nobody has asked this program to end meanwhile.
fn rest(time: Duration) -> bool {
    let until = Instant::now() + time;
    while interrupt::caught().is_none() {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return true;
        }
        std::thread::sleep(left.min(SLICE));
    }
    false
}

/// The process that stands by. It ends when this is dropped, and with the command.
struct Guard {
    channel: Option<Channel>,
    process: OwnedFd,
}

impl Guard {
    /// Before any lock is taken: what the guard has open it would hold, too.
    fn new(manager: &Manager, names: &[GuestName], window: Duration) -> Result<Self> {
        let (ours, theirs) = Channel::pair()?;
        let command = Identity::of(std::process::id());
        match process::fork_with(CloneFlags::default(), None)? {
            Forked::Parent { pidfd, .. } => Ok(Self {
                channel: Some(ours),
                process: pidfd,
            }),
            Forked::Child => {
                let _guard = process::NoReturn;
                drop(ours);
                // Out of reach of keys and of whoever ends the command's process group.
                let _leader = rustix::process::setsid();
                if let Some(command) = command {
                    stand_by(manager, names, window, command, &theirs);
                }
                process::leave(0)
            }
        }
    }

    /// Whether guests are being held from now on.
    fn tell(&self, holds: bool) {
        if let Some(channel) = &self.channel {
            // Without a guard `doctor` and the next command are left.
            let _gone = channel.send(&[u8::from(holds)], None);
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.channel = None;
        process::collect_when_ended(self.process.as_fd());
    }
}

/// What the guard does until the command's end.
fn stand_by(
    manager: &Manager,
    names: &[GuestName],
    window: Duration,
    command: Identity,
    channel: &Channel,
) {
    let mut holds = false;
    loop {
        let limit = holds.then_some(window + GRACE);
        match channel.receive(limit) {
            Ok(Some((word, _))) => holds = word.first() == Some(&1),
            Ok(None) => break,
            Err(_) if holds && command.lives() => {
                // It was stopped, or cannot go on. Its locks stay its own, and so does the record
                // of who is held; only the guests must not wait for it.
                for name in names {
                    if let Ok(Some(group)) = manager.group(name)
                        && manager.is_held_by(name, command)
                    {
                        let _tried = group.thaw(GRACE);
                    }
                }
                holds = false;
            }
            Err(_) => break,
        }
    }
    for name in names {
        if !manager.is_held_by(name, command) {
            continue;
        }
        if let Ok(_lock) = manager.lock_within(name, "bisect", GRACE)
            && manager.is_held_by(name, command)
        {
            let _tried = manager.let_go(name);
        }
    }
}
