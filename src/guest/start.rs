//! Starting a guest: the plan, the launch, and how the launching process becomes the keeper.
//!
//! The command forks once. The child does the launch, so that it is the parent of the guest's first
//! process, reports, and then executes the program again as the guest's keeper: the process stays
//! the parent, its memory is as small as a fresh program's, and the launch itself never waits for
//! an exec.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::admission::Admission;
use super::error::{GuestError, Result};
use super::life::Verb;
use super::manager::{Manager, now_ms};
use super::networks::without_address;
use super::rescue::Rescue;
use super::store::{GuestLock, Machine, Phase, RunState, Written};
use super::undo::UndoMode;
use super::ways::Ways;
use crate::kernel::channel::Channel;
use crate::kernel::fault::{self, Role};
use crate::kernel::file;
use crate::kernel::process::{self, CloneFlags, Forked, Identity};
use crate::kernel::timing::timed;
use crate::kernel::{KernelError, terminal};
use crate::launch::{self, GuestPlace};
use crate::model::{EventKind, ExitReason, Guest, GuestName, NetOp, Status};
use crate::plan;
use crate::storage::{self, Image};

/// How long an init that has not come to rest has to end by itself to count as one that "exits at
/// once"; on a loaded host it may take long to get as far as that.
const AT_ONCE: Duration = Duration::from_millis(250);
/// An init that sleeps for so long waits for something: it has begun well.
const SETTLED: Duration = Duration::from_millis(2);
/// So has one that has used this much of a CPU.
const RAN_WELL: Duration = Duration::from_millis(10);

/// How long an init that has begun to end may take for it.
const END: Duration = Duration::from_secs(5);

/// A guest that was started.
#[derive(Clone, Copy, Debug)]
pub struct Started {
    /// Its first process.
    pub pid: u32,
    /// Time from the lock to the execution of its init.
    pub took: Duration,
}

/// What the child tells the command.
#[derive(Debug, Serialize, Deserialize)]
enum Report {
    Running { pid: u32 },
    Failed { why: String, refused: bool },
}

impl Manager {
    /// Starts a guest. Comes back when its init has been executed.
    ///
    /// # Errors
    /// It runs already, its definition is wrong, the launch fails, or its init ends at once; the
    /// message carries the last lines of its console. Nothing of a failed launch is left.
    pub fn start(&self, name: &GuestName) -> Result<Started> {
        self.start_by(name, Verb::Start, Round::default())
    }

    /// The same: with `force` whether or not the host has room for what the guest is guaranteed, with
    /// `undo` so that what it writes can be dropped.
    ///
    /// # Errors
    /// As [`Manager::start`]; what it has cannot be kept.
    pub fn start_so(
        &self,
        name: &GuestName,
        force: bool,
        undo: Option<UndoMode>,
    ) -> Result<Started> {
        let round = Round {
            admission: match force {
                true => Admission::Forced,
                false => Admission::Asked,
            },
            undo,
            ..Round::default()
        };
        self.start_by(name, Verb::Start, round)
    }

    /// The same as one verb or another. What is asked for is in `round`.
    pub(super) fn start_by(&self, name: &GuestName, verb: Verb, round: Round) -> Result<Started> {
        let (began, began_ms) = (Instant::now(), now_ms());
        let lock = self.lock(name, verb.name())?;
        let status = self.status(name)?;
        if !verb.check(name, status)? {
            return Err(self.missing(name));
        }
        let undo = self.make_ready(name, verb, status, &round)?;
        let (ours, theirs) = Channel::pair()?;
        let Forked::Parent { pid: keeper, pidfd } =
            process::fork_with(CloneFlags::default(), None)?
        else {
            let _guard = process::NoReturn;
            drop(ours);
            fault::role(Role::Launch);
            become_keeper(self, name, lock, Some(&theirs), round)
        };
        drop(theirs);
        let report = fault::point().and_then(|()| ours.receive(None));
        let report = match report {
            Ok(report) => report,
            Err(error) => {
                // Nobody would learn what became of it. It may have ended already.
                let _gone = process::send_signal(pidfd.as_fd(), 9);
                process::collect(pidfd.as_fd());
                self.put_back(name, undo)?;
                return Err(error.into());
            }
        };
        let failed = |why: String, refused| GuestError::Start {
            name: name.clone(),
            why,
            refused,
            console: None,
        };
        let report = report.and_then(|(text, _)| serde_json::from_slice(&text).ok());
        match report {
            Some(Report::Running { pid }) => {
                let took = began.elapsed();
                // It runs: what is left of the word that it would, `doctor` sees to.
                let _later = self.forget_comeback(name);
                drop(lock);
                self.look_after(name, pid, began_ms)?;
                Ok(Started { pid, took })
            }
            other => {
                process::collect(pidfd.as_fd());
                // Not `clean_up`: a guest whose launch died when it ran already is put away too.
                self.put_back(name, undo)?;
                Err(match other {
                    Some(Report::Failed { why, refused }) => failed(why, refused),
                    _ => failed(format!("the launching process {keeper} was killed"), false),
                })
            }
        }
    }

    /// Puts away what is left of before, and keeps what the guest has if it gets an undo disk: that
    /// is the answer.
    fn make_ready(
        &self,
        name: &GuestName,
        verb: Verb,
        status: Status,
        round: &Round,
    ) -> Result<Option<UndoMode>> {
        let waits = status == Status::Restarting;
        match waits {
            // It goes on with the undo disk that it has.
            true => self.put_away(name, None)?,
            false => self.clean_up(name)?,
        }
        let goes_on = waits || round.comeback;
        let new = self.new_undo(name, verb.name(), round.undo, goes_on)?;
        new.map_or(Ok(()), |mode| self.begin_undo(name, mode))?;
        Ok(new)
    }

    /// Puts away a launch that failed, and the undo disk that was made for it.
    fn put_back(&self, name: &GuestName, undo: Option<UndoMode>) -> Result<()> {
        self.put_away(name, None)?;
        // Whoever wanted it to run again is told that it does not.
        let _later = self.forget_comeback(name);
        if undo.is_some() {
            // The error that matters is that of the launch; `doctor` names what is left.
            let _left = self.abandon_undo(name);
        }
        Ok(())
    }

    /// Waits a moment for an init that ends at once: until it has settled down to wait for
    /// something, or has worked for long enough.
    fn look_after(&self, name: &GuestName, pid: u32, began_ms: u64) -> Result<()> {
        let Ok(pidfd) = process::open_pid(pid) else {
            return self.ended_at_once(name, began_ms);
        };
        let until = Instant::now() + AT_ONCE;
        let mut slept = None;
        while Instant::now() < until {
            if process::wait_gone(pidfd.as_fd(), Some(SETTLED))? {
                return self.ended_at_once(name, began_ms);
            }
            let sleeps = process::asleep(pid);
            let settled = sleeps.is_some() && sleeps == slept;
            if settled || process::cpu_time(pid).is_some_and(|ran| ran >= RAN_WELL) {
                break;
            }
            slept = sleeps;
        }
        // On a busy machine one that was killed lets go of its files long before it has ended.
        if process::is_ending(pid) && process::wait_gone(pidfd.as_fd(), Some(END))? {
            return self.ended_at_once(name, began_ms);
        }
        Ok(())
    }

    fn ended_at_once(&self, name: &GuestName, began_ms: u64) -> Result<()> {
        // Its keeper writes down why; a restart policy may have started it again meanwhile.
        let until = Instant::now() + Duration::from_secs(5);
        while self.state_path(name).exists() && Instant::now() < until {
            match self.status(name) {
                Ok(Status::Running | Status::Restarting) => return Ok(()),
                Ok(_) | Err(GuestError::Missing { .. }) => {}
                Err(error) => return Err(error),
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let last = self.last_end(name).filter(|last| last.time_ms >= began_ms);
        let asked_for = last
            .as_ref()
            .is_some_and(|last| matches!(last.reason, ExitReason::Stopped | ExitReason::Killed));
        if asked_for || !self.layout.guest(name).exists() {
            // It was started, and another command has stopped or deleted it since.
            return Ok(());
        }
        let why = last.map_or("its init ended at once".to_owned(), |last| {
            format!(
                "its init ended at once: {}",
                super::view::reason_text(&last.reason)
            )
        });
        Err(GuestError::Start {
            name: name.clone(),
            why,
            refused: false,
            console: self.console_tail(name, 10),
        })
    }

    /// Launches the guest. Its lock is held; the caller becomes its keeper.
    fn launch(&self, name: &GuestName, round: &Round) -> Result<launch::Launched> {
        let began = Instant::now();
        let guest = phase("read-definition", || self.guest(name))?;
        let mut guest = self.in_force(name, guest);
        let machine = self.machine(name)?;
        let image = phase("read-image", || {
            storage::load_image(&self.layout, &machine.image)
        })?;
        storage::check_sound(&image)?;
        let rescue = match &round.rescue {
            Some(rescue) => Some(storage::load_image(&self.layout, &rescue.image)?),
            None => None,
        };
        let mut state = RunState::launching(&self.facts.boot_id, machine.ids, &guest);
        state.restarts = round.restarts;
        state.rescue.clone_from(&round.rescue);
        phase("take-place", || {
            self.admit(&mut guest, &mut state, round.admission)?;
            self.share_rates(&mut guest)
        })?;
        let left = self.left_for_sharers()?;
        let images = (&image, rescue.as_ref());
        // Until its root is mounted and its files are written.
        let room = phase("make-room", || self.room_in(name, &guest))?;
        let net = self.connect(name, &guest, &machine, images)?;
        let planned = phase("plan", || self.plan_with(guest, &machine, images, net))?;
        let enter = plan::enter::enter(&planned.spec)?;
        let enter = serde_json::to_vec(&enter).unwrap_or_default();
        file::write_runtime(&self.enter_path(name), &enter, 0o600)?;
        self.write_orders(name, &planned.guest)?;
        phase("write-view", || self.write_inside(&planned.guest, &machine))?;
        let cgroups = phase("open-cgroups", || self.cgroups_for(&planned.guest))?;
        let place = GuestPlace {
            cgroups: &cgroups,
            cache: self.layout.cache().join("seccomp"),
            scratch: self.layout.run().join("scratch"),
        };
        let failed = |error: &dyn std::error::Error| GuestError::Start {
            name: name.clone(),
            why: super::view::chain(error),
            refused: false,
            console: None,
        };
        let prepared = launch::prepare(&planned.plan, &place).map_err(|error| failed(&error))?;
        drop(room);
        // Written before the guest runs: whoever finds it later knows what to look for.
        state.init = Identity::of(prepared.pid());
        self.write_run_state(name, &state)?;
        if state.guaranteed.memory > 0 {
            self.hold_memory(state.tenant.as_ref())?;
        }
        self.settle_new(&state, left.as_ref())?;
        self.mark_undo(name)?;
        let launched = prepared.release().map_err(|error| failed(&error))?;
        state.phase = Phase::Running;
        state.launch_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.write_run_state(name, &state)?;
        Ok(launched)
    }

    /// The host's side of the network, and the guest's files that tell it.
    fn connect(
        &self,
        name: &GuestName,
        guest: &Guest,
        machine: &Machine,
        (image, rescue): (&Image, Option<&Image>),
    ) -> Result<Vec<NetOp>> {
        let lease = phase("lease", || self.lease(name, guest))?;
        let boot = phase("read-names", || {
            self.first_boot_data(guest, machine, lease.as_ref())
        })?;
        phase("write-files", || match rescue {
            Some(rescue) => self.furnish_rescue(guest, rescue, &boot),
            None => {
                let written = Written::of(guest, lease.as_ref()).with_nics(&boot.nics);
                self.tell_files(guest, image, &boot, &written)
            }
        })?;
        fault::point()?;
        let ways = lease.as_ref();
        let ways = ways.map(|(network, lease)| Ways::of(network, lease));
        let mut ops = match lease {
            Some((network, lease)) => {
                let host = phase("look-at-bridge", || network.ensure_host())
                    .map_err(|error| GuestError::Network(error.into()))?;
                fault::point()?;
                phase("admit", || network.admit(&lease, &guest.network))
                    .map_err(|error| GuestError::Network(error.into()))?;
                network.ops(&lease, host.mtu, &guest.network)
            }
            None => without_address(&guest.network),
        };
        if !guest.network.nics.is_empty() {
            let plugs = self.lease_nics(name, guest)?;
            ops.extend(phase("connect-nics", || {
                self.connect_nics(&plugs, ways.unwrap_or_default())
            })?);
        }
        Ok(ops)
    }
}

/// A part of a start, for whoever wants to know how long it takes.
fn phase<T>(step: &str, act: impl FnOnce() -> T) -> T {
    timed("start", || step.to_owned(), act)
}

/// Which start of a guest it is.
#[derive(Clone, Debug, Default)]
pub(super) struct Round {
    /// Restarts by its policy since it last ran for long.
    pub(super) restarts: u32,
    /// Whether this one is such a restart; else a command or the guest itself asked for it.
    pub(super) by_policy: bool,
    /// Whether there must be room for what it is guaranteed.
    pub(super) admission: Admission,
    /// What it is in rescue with, if it is.
    pub(super) rescue: Option<Rescue>,
    /// Whether it gets an undo disk.
    pub(super) undo: Option<UndoMode>,
    /// Whether a command has stopped it to start it again: it goes on over the undo disk that it has.
    pub(super) comeback: bool,
}

/// Launches the guest in this process, tells `report`, and goes on as its keeper.
pub(super) fn become_keeper(
    manager: &Manager,
    name: &GuestName,
    lock: GuestLock,
    report: Option<&Channel>,
    round: Round,
) -> ! {
    let tell = |word: &Report| {
        if let Some(channel) = report {
            // A command that is gone needs no answer.
            let _gone = channel.send(&serde_json::to_vec(word).unwrap_or_default(), None);
        }
    };
    let done = detach_from_terminal().and_then(|()| manager.launch(name, &round));
    match done {
        Ok(launched) => {
            let attempt = round.restarts;
            let kind = match (&round.rescue, round.by_policy) {
                (Some(rescue), _) => EventKind::Rescue {
                    from: rescue.from.clone(),
                },
                (None, true) => EventKind::Restarted { attempt },
                (None, false) => EventKind::Started,
            };
            // The guest runs; an event that cannot be written must not end it.
            let _lost = manager.record(name, kind);
            tell(&Report::Running { pid: launched.pid });
            drop(lock);
            let error = super::successor::execute_keeper(
                manager,
                name,
                &launched.pidfd,
                Some(&launched.console),
                launched.listener.as_ref(),
            );
            // Without the exec this process keeps the guest all the same, only larger.
            let _why = error;
            let charge = super::successor::Charge {
                guest: launched.pidfd,
                console: Some(launched.console),
                listener: launched.listener,
            };
            super::keeper::keep(manager, name, charge)
        }
        Err(error) => {
            let why = match &error {
                GuestError::Start { why, .. } => why.clone(),
                other => super::view::chain(other),
            };
            if report.is_none() {
                let reason = crate::model::ExitReason::Unknown;
                let _lost = manager.record(name, EventKind::Exited { reason });
                // Not `clean_up`, which leaves it to this process.
                let _left = manager.end_run(name, None);
            }
            tell(&Report::Failed {
                why,
                refused: error.is_refusal(),
            });
            process::leave(1)
        }
    }
}

pub(super) fn detach_from_terminal() -> Result<()> {
    // A keeper that restarts its guest leads a session already.
    let _leader = rustix::process::setsid();
    let null = rustix::fs::open(
        "/dev/null",
        rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )
    .map_err(KernelError::on("open", "/dev/null"))?;
    terminal::put_on_standard(null.as_fd())?;
    rustix::process::chdir("/").map_err(KernelError::on("change to", "/"))?;
    Ok(())
}
