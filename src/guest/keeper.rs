//! The keeper: the one small process beside a running guest.
//!
//! It is the parent of the guest's first process and owns its exit status, its console, its restart
//! policy and its out-of-memory events. One thread, one poll loop, a few pages of memory. It leads
//! a session of its own with nothing but its descriptors: the guest's pidfd, the console, a socket
//! for viewers, the out-of-memory watch. Killed, it takes nothing along: the guest goes on and the
//! next command puts a new keeper on.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use serde::{Deserialize, Serialize};

use super::admission::Admission;
use super::allowance::Looks;
use super::calls_link::Calls;
use super::console::Hub;
use super::error::Result;
use super::inside::Inside;
use super::limit_events::LimitEvents;
use super::manager::{Manager, now_ms};
use super::start::Round;
use super::store::Phase;
use super::successor::Charge;
use crate::define::usual_throttled;
use crate::kernel::cgroup::Group;
use crate::kernel::fault::{self, Role};
use crate::kernel::process::{self, Ended, Identity, timespec};
use crate::kernel::{Errno, KernelError, file};
use crate::model::{EventKind, ExitReason, Guest, GuestName, RestartPolicy, Status};

/// A guest that has run this long has started well: its restarts count from one again.
const LONG: Duration = Duration::from_secs(600);
/// One that reboots itself sooner than this waits for [`REBOOT_PAUSE`].
const SHORT: Duration = Duration::from_secs(2);
const REBOOT_PAUSE: Duration = Duration::from_secs(1);

/// What the keeper needs of a definition, written at the start so that it reads no TOML.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Orders {
    /// When to start again.
    policy: String,
    delay_ms: u64,
    delay_max_ms: u64,
    attempts: u32,
    /// Most bytes of console output kept.
    console_log: u64,
    /// Whether it has an allowance of traffic.
    #[serde(default)]
    allowance: bool,
    /// Held back by its CPU limit in so many percent of the periods, it is told; as usual where it is not said.
    #[serde(default = "usual_throttled")]
    throttled: Option<u32>,
}

impl Orders {
    fn of(guest: &Guest) -> Self {
        let ms = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        let policy = match guest.restart.policy {
            RestartPolicy::No => "no",
            RestartPolicy::OnFailure => "on-failure",
            RestartPolicy::Always => "always",
        };
        Self {
            policy: policy.to_owned(),
            delay_ms: ms(guest.restart.delay),
            delay_max_ms: ms(guest.restart.delay_max),
            attempts: guest.restart.attempts,
            console_log: guest.console_log.0,
            allowance: guest.network.allowance.is_some(),
            throttled: guest.events.throttled,
        }
    }

    /// What follows an end: `None` for nothing, else the pause before the next start.
    fn next(&self, reason: &ExitReason, restarts: u32, ran: Duration) -> Next {
        let wanted = match reason {
            // The guest's own reboot is no failure and needs no policy.
            // One that does nothing else must not keep the host busy with launches.
            ExitReason::Reboot if ran < SHORT => return Next::Start(REBOOT_PAUSE),
            ExitReason::Reboot => return Next::Start(Duration::ZERO),
            ExitReason::Stopped | ExitReason::Killed | ExitReason::Poweroff => false,
            ExitReason::Exited { code: 0 } => self.policy == "always",
            _ => self.policy != "no",
        };
        if !wanted {
            return Next::Stay;
        }
        if self.attempts > 0 && restarts >= self.attempts {
            return Next::GiveUp(restarts);
        }
        let pause = self
            .delay_ms
            .saturating_mul(1 << restarts.min(20))
            .min(self.delay_max_ms);
        Next::Start(Duration::from_millis(pause))
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Next {
    Stay,
    GiveUp(u32),
    Start(Duration),
}

/// Keeps the guest until it has ended, then does what its restart policy says. Never comes back.
pub fn keep(manager: &Manager, name: &GuestName, charge: Charge) -> ! {
    fault::role(Role::Keeper);
    let code = match watch_and_follow(manager, name, charge) {
        Ok(()) => 0,
        // Nobody is there to be told; the guest's state says that its keeper is gone.
        Err(_) => 1,
    };
    process::leave(code)
}

fn watch_and_follow(manager: &Manager, name: &GuestName, charge: Charge) -> Result<()> {
    fault::point()?;
    let orders = orders(manager, name)?;
    join_holder(manager);
    let group = manager.group(name)?;
    // Its interfaces of the host's go with it otherwise.
    let inside = manager.hold_inside(name);
    let pidfd = charge.guest;
    let kills = match &group {
        Some(group) => {
            // First: whoever calls in the guest waits for it.
            let calls = Calls::begin(manager, name, &pidfd, charge.listener);
            let has = (&pidfd, charge.console, calls);
            watch(manager, name, has, group, &orders)?
        }
        None => 0,
    };
    let ended = process::collect(pidfd.as_fd());
    manager.take_back(name, inside);
    drop((group, pidfd));
    // What `set` has changed since counts.
    let orders = self::orders(manager, name)?;
    follow(manager, name, &orders, reason(ended, kills))
}

fn orders(manager: &Manager, name: &GuestName) -> Result<Orders> {
    Ok(file::read_small(&manager.orders_path(name), 1 << 16)?
        .and_then(|text| serde_json::from_slice(&text).ok())
        .unwrap_or(Orders {
            policy: "no".into(),
            delay_ms: 0,
            delay_max_ms: 0,
            attempts: 0,
            console_log: 1 << 19,
            allowance: false,
            throttled: None,
        }))
}

/// The part of the periods, percent, from which on it is told that the CPU limit held a guest back.
pub(super) fn told_from(manager: &Manager, name: &GuestName) -> Option<u64> {
    orders(manager, name).ok()?.throttled.map(u64::from)
}

/// Off CPUs that are a guest's own; under systemd, out of the typist's session into our service's group.
pub(super) fn join_holder(manager: &Manager) {
    if let Ok(Some(parent)) = manager.existing_cgroups() {
        let _elsewhere = parent.join_shared();
        if manager.facts.systemd {
            // Not being there only means that the end of that session ends the keeper too.
            let _stays = parent.shelter();
        }
    }
}

/// The loop. Returns, with the number of out-of-memory kills seen, when the guest has ended.
fn watch(
    manager: &Manager,
    name: &GuestName,
    (guest, console, mut calls): (&OwnedFd, Option<OwnedFd>, Option<Calls<'_>>),
    group: &Group,
    orders: &Orders,
) -> Result<u64> {
    let mut hub = Hub::open(
        &manager.console_socket(name),
        &manager.console_log_path(name),
        orders.console_log,
        console,
    )?;
    // The guest's own parent has its group from the beginning: what was hit before it got here counts.
    // One that took over counts from now, the one before has told the rest.
    let mut limits = LimitEvents::open(manager, name, group, process::is_child(guest.as_fd()));
    limits.take_in();
    let mut inside = Inside::open(manager, name, group);
    let mut looks = Looks::new(orders.allowance);
    let mut credits = super::credit_watch::CreditWatch::new(manager, name);
    // What it took to get here is not needed again before the guest ends.
    process::give_memory_back();
    let mut called = true;
    loop {
        let next = credits.follow(manager, name, group, called);
        let next = next.min(looks.pause()).min(limits.pause());
        let both = (inside.as_ref(), calls.as_ref());
        let ready = wait(guest, &limits, both, &hub, next)?;
        called = ready.is_called();
        if let Some(calls) = &mut calls {
            calls.serve(ready.calls);
        }
        if let Some(inside) = &mut inside
            && inside.keep(group, ready.read, called)
        {
            process::give_memory_back();
        }
        if looks.are_due() {
            // Time to look at what it has used and sent, which waits for locks and disks: nobody who
            // reads may wait for that. The next round holds them again.
            if let Some(inside) = &mut inside {
                inside.let_all_be(group);
            }
            looks.look(manager, name);
            inside = inside.or_else(|| Inside::open(manager, name, group));
            process::give_memory_back();
        }
        hub.serve(&ready.console);
        if ready.limit {
            limits.take_in();
        }
        if ready.ended {
            hub.drain();
            return Ok(limits.end());
        }
        limits.look_at_processes();
        if limits.has_work() {
            // As above.
            if let Some(inside) = &mut inside {
                inside.let_all_be(group);
            }
            limits.work();
            process::give_memory_back();
        }
    }
}

/// What has happened while the keeper slept.
struct Ready {
    ended: bool,
    /// The kernel tells that a limit was hit.
    limit: bool,
    /// Somebody waits to read a file of ours.
    read: bool,
    /// So has the process that answers calls.
    calls: bool,
    console: Vec<PollFlags>,
}

impl Ready {
    /// Whether somebody connects, as a command does that has changed its limits.
    fn is_called(&self) -> bool {
        self.console.first().is_some_and(|flags| !flags.is_empty())
    }
}

/// Sleeps until something happens, at most this long.
fn wait(
    guest: &OwnedFd,
    limits: &LimitEvents<'_>,
    (inside, calls): (Option<&Inside>, Option<&Calls<'_>>),
    hub: &Hub,
    limit: Duration,
) -> Result<Ready> {
    let mut fds = vec![PollFd::new(guest, PollFlags::IN)];
    fds.extend(limits.poll_fds());
    let of_view = fds.len();
    let watch = inside.into_iter().flat_map(Inside::fds);
    fds.extend(watch.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
    let of_calls = fds.len();
    let link = calls.and_then(Calls::fd);
    fds.extend(link.map(|link| PollFd::from_borrowed_fd(link, PollFlags::IN)));
    let of_console = fds.len();
    fds.extend(hub.poll_fds());
    let pauses = [inside.and_then(Inside::pause), calls.and_then(Calls::pause)];
    let limit = pauses.into_iter().flatten().fold(limit, Duration::min);
    match poll(&mut fds, Some(&timespec(limit))) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(errno) => return Err(KernelError::new("wait for", "the guest", errno).into()),
    }
    let hot = |fd: &PollFd<'_>| !fd.revents().is_empty();
    Ok(Ready {
        ended: hot(&fds[0]),
        limit: fds[1..of_view].iter().any(hot),
        read: fds[of_view..of_calls].iter().any(hot),
        calls: fds[of_calls..of_console].iter().any(hot),
        console: fds[of_console..].iter().map(PollFd::revents).collect(),
    })
}

fn reason(ended: Ended, kills: u64) -> ExitReason {
    use rustix::process::Signal;
    // reboot(2) in a PID namespace ends its first process by these two signals.
    let (reboot, poweroff, kill) = (
        Signal::HUP.as_raw(),
        Signal::INT.as_raw(),
        Signal::KILL.as_raw(),
    );
    match ended {
        Ended::Code(code) => ExitReason::Exited { code },
        Ended::Signal(signal) if signal == reboot => ExitReason::Reboot,
        Ended::Signal(signal) if signal == poweroff => ExitReason::Poweroff,
        Ended::Signal(signal) if signal == kill && kills > 0 => ExitReason::OutOfMemory,
        Ended::Signal(signal) => ExitReason::Signal { signal },
        Ended::Unknown => ExitReason::Unknown,
    }
}

/// The guest has ended. If a command is at work on it, that one puts everything away; else this.
fn follow(manager: &Manager, name: &GuestName, orders: &Orders, reason: ExitReason) -> Result<()> {
    let me = Identity::of(std::process::id());
    fault::point()?;
    if !manager.layout.guest(name).exists() {
        // Deleted, and its lock with it: another would be nobody's.
        return Ok(());
    }
    let lock = manager.lock_within(name, "keeper", Duration::from_secs(300))?;
    let Some(state) = manager.run_state(name)? else {
        return Ok(());
    };
    if state.keeper != me {
        return Ok(());
    }
    if state.phase == Phase::Stopping {
        // We have the lock: the command that was shutting it down died.
        return manager.end_run(name, Some(ExitReason::Stopped));
    }
    if state.phase != Phase::Running {
        return Ok(());
    }
    let ran = Duration::from_millis(now_ms().saturating_sub(state.started_ms));
    let restarts = if ran > LONG { 0 } else { state.restarts };
    let next = orders.next(&reason, restarts, ran);
    let reboot = reason == ExitReason::Reboot;
    // One that starts again keeps its place: nobody looks while its state is written anew.
    let rescue = state.rescue.clone();
    let starts = matches!(next, Next::Start(_)) && state.has_place();
    let places = starts.then(|| manager.places()).transpose()?;
    manager.put_away_so(name, Some(reason), places.is_some())?;
    fault::point()?;
    match next {
        Next::Stay => return manager.settle_undo(name),
        Next::GiveUp(attempts) => {
            manager.record(name, EventKind::GaveUp { attempts })?;
            return manager.settle_undo(name);
        }
        Next::Start(pause) => {
            let mut waiting = state;
            (waiting.phase, waiting.init) = (Phase::Restarting, None);
            manager.write_run_state(name, &waiting)?;
            drop((places, lock));
            fault::point()?;
            std::thread::sleep(pause);
        }
    }
    let lock = manager.lock_within(name, "keeper", Duration::from_secs(300))?;
    let now = manager.run_state(name)?;
    if now.is_none_or(|state| state.keeper != me || state.phase != Phase::Restarting) {
        // Somebody stopped or started it meanwhile.
        return Ok(());
    }
    let round = Round {
        restarts: if reboot { restarts } else { restarts + 1 },
        by_policy: !reboot,
        admission: Admission::Asked,
        rescue,
        undo: None,
        comeback: false,
    };
    super::start::become_keeper(manager, name, lock, None, round)
}

impl Manager {
    fn orders_path(&self, name: &GuestName) -> PathBuf {
        self.layout.guest_run(name).join("orders.json")
    }

    /// Writes down what its keeper needs of a definition.
    pub(super) fn write_orders(&self, name: &GuestName, guest: &Guest) -> Result<()> {
        self.write_credit_orders(name, guest)?;
        self.note_asked_calls(name, guest)?;
        let orders = serde_json::to_vec(&Orders::of(guest)).unwrap_or_default();
        let path = self.orders_path(name);
        Ok(file::write_runtime(&path, &orders, 0o600)?)
    }

    /// Whether a running guest has its keeper.
    #[must_use]
    pub fn has_keeper(&self, name: &GuestName) -> bool {
        let state = self.run_state(name).ok().flatten();
        state.and_then(|s| s.keeper).is_some_and(Identity::lives)
    }

    /// Puts a new keeper on a running guest whose own is gone; nothing to do otherwise. Its console
    /// went with the old keeper, so it gets a new one.
    ///
    /// # Errors
    /// The guest cannot be entered.
    pub fn ensure_keeper(&self, name: &GuestName) -> Result<bool> {
        if self.has_keeper(name) || !matches!(self.status(name)?, Status::Running | Status::Paused)
        {
            return Ok(false);
        }
        let lock = self.lock(name, "keeper")?;
        let Some(mut state) = self.run_state(name)? else {
            return Ok(false);
        };
        let Some(pidfd) = state.init.and_then(Identity::open) else {
            return Ok(false);
        };
        if self.has_keeper(name) {
            return Ok(false);
        }
        let console = if state.paused {
            None
        } else {
            self.new_console(name, &pidfd)
        };
        match process::fork_with(process::CloneFlags::default(), None)? {
            process::Forked::Child => {
                let _guard = process::NoReturn;
                // The command's output must not wait for the keeper's end, nor its lock.
                if super::start::detach_from_terminal().is_err() {
                    process::leave(1);
                }
                super::successor::execute_keeper(self, name, &pidfd, console.as_ref(), None);
                process::leave(1)
            }
            process::Forked::Parent { pid, .. } => {
                state.keeper = Identity::of(pid);
                state.phase = Phase::Running;
                self.write_run_state(name, &state)?;
                self.record(name, EventKind::KeeperReplaced)?;
                drop(lock);
                Ok(true)
            }
        }
    }
}

/// A duration for poll(2), for whoever waits for the keeper.
pub(super) fn poll_timeout(limit: Duration) -> rustix::event::Timespec {
    timespec(limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn orders(policy: &str) -> Orders {
        Orders {
            policy: policy.into(),
            delay_ms: 1000,
            delay_max_ms: 60_000,
            attempts: 10,
            console_log: 0,
            allowance: false,
            throttled: None,
        }
    }

    #[test]
    fn a_reboot_needs_no_policy_and_a_poweroff_heeds_none() {
        assert_eq!(
            orders("no").next(&ExitReason::Reboot, 99, SHORT),
            Next::Start(Duration::ZERO)
        );
        assert_eq!(
            orders("no").next(&ExitReason::Reboot, 0, SHORT / 2),
            Next::Start(REBOOT_PAUSE)
        );
        for policy in ["no", "on-failure", "always"] {
            for reason in [
                ExitReason::Poweroff,
                ExitReason::Stopped,
                ExitReason::Killed,
            ] {
                assert_eq!(
                    orders(policy).next(&reason, 0, SHORT),
                    Next::Stay,
                    "{policy} {reason:?}"
                );
            }
        }
    }

    #[test]
    fn failures_back_off_up_to_a_cap_and_end() {
        let (failure, fine) = (
            ExitReason::Exited { code: 1 },
            ExitReason::Exited { code: 0 },
        );
        let seconds: Vec<_> = (0..11)
            .map(|n| orders("on-failure").next(&failure, n, SHORT))
            .collect();
        assert_eq!(seconds[0], Next::Start(Duration::from_secs(1)));
        assert_eq!(seconds[3], Next::Start(Duration::from_secs(8)));
        assert_eq!(seconds[9], Next::Start(Duration::from_secs(60)));
        assert_eq!(seconds[10], Next::GiveUp(10));
        assert_eq!(orders("on-failure").next(&fine, 0, SHORT), Next::Stay);
        assert_eq!(
            orders("always").next(&fine, 0, SHORT),
            Next::Start(Duration::from_secs(1))
        );
        assert_eq!(
            orders("no").next(&ExitReason::OutOfMemory, 0, SHORT),
            Next::Stay
        );
    }

    #[test]
    fn orders_from_before_tell_of_a_cpu_limit_as_usual() {
        let read = |orders: &serde_json::Value| -> Orders {
            serde_json::from_value(orders.clone()).unwrap()
        };
        let mut written = serde_json::to_value(orders("no")).unwrap();
        assert_eq!(read(&written).throttled, None, "never, as was said");
        written.as_object_mut().unwrap().remove("throttled");
        assert_eq!(read(&written).throttled, Some(25));
    }

    #[test]
    fn how_a_first_process_ends_tells_what_was_asked_for() {
        assert_eq!(reason(Ended::Signal(1), 0), ExitReason::Reboot);
        assert_eq!(reason(Ended::Signal(2), 0), ExitReason::Poweroff);
        assert_eq!(reason(Ended::Signal(9), 1), ExitReason::OutOfMemory);
        assert_eq!(
            reason(Ended::Signal(9), 0),
            ExitReason::Signal { signal: 9 }
        );
    }
}
