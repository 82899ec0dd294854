//! The keeper's part in credits of CPU time: it looks when they may be used up or enough are saved
//! again, and changes the limit in force. A second process stands by while it does: when the keeper is
//! killed, that one holds the guest to what it earns.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use super::credit::{CreditOrders, hold_to, let_run};
use super::credit_news::CreditNews;
use super::error::Result;
use super::manager::{Manager, RECORD};
use crate::kernel::cgroup::Group;
use crate::kernel::channel::Channel;
use crate::kernel::process::{self, CloneFlags, Forked, Identity};
use crate::kernel::{KernelError, file, inherited, title};
use crate::model::{Cpus, EventKind, GoalResource, Guest, GuestName};

/// How long a keeper whose descriptors are closed may live on before it counts as one that has
/// executed the program again.
const END: Duration = Duration::from_secs(3);
/// How long until it looks again after something went wrong.
const AGAIN: Duration = Duration::from_secs(1);
/// What is said to the process that stands by when there is nothing more to stand by for.
const DONE: &[u8] = b"done";
/// Who writes orders calls the keeper; where that one was killed in between, they are found at its next look after
/// so long.
const REFRESH: Duration = Duration::from_secs(5);
/// A guest without credits is not looked at.
const NEVER: Duration = Duration::from_secs(86_400);

/// When the keeper looks next, and what for.
pub(super) struct CreditWatch {
    orders: Option<CreditOrders>,
    /// Which file the orders were in, and when it was written: two may be written at one moment.
    written: Option<(SystemTime, u64)>,
    refreshed: Instant,
    next: Instant,
    guard: Option<Guard>,
    began: Instant,
    news: CreditNews,
}

impl CreditWatch {
    pub(super) fn new(manager: &Manager, name: &GuestName) -> Self {
        let mut all = Self {
            orders: None,
            written: None,
            refreshed: Instant::now(),
            next: Instant::now(),
            guard: None,
            began: Instant::now(),
            news: CreditNews::new(true),
        };
        all.refresh(manager, name);
        all
    }

    fn take(&mut self, manager: &Manager, name: &GuestName, orders: Option<CreditOrders>) {
        if self.orders.is_none() {
            let saved = manager.saved_credits(name).map(|saved| saved.balance);
            self.news = CreditNews::new(saved.unwrap_or_default().spent);
        }
        self.orders = orders;
        match orders {
            Some(orders) if self.guard.is_none() => {
                self.guard = Guard::new(manager, name, &orders).ok();
            }
            // What it knows is old: the next one knows better.
            Some(orders) => {
                let text = serde_json::to_vec(&orders).unwrap_or_default();
                let told = self
                    .guard
                    .as_ref()
                    .map(|guard| guard.channel.send(&text, None));
                if told.is_some_and(|told| told.is_err()) {
                    self.guard = Guard::new(manager, name, &orders).ok();
                }
            }
            None => self.guard = None,
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn pause(&self) -> Duration {
        match self.orders {
            Some(_) => {
                let look = self.next.saturating_duration_since(Instant::now());
                let tell = self.news.due().map(|due| due.saturating_sub(self.now()));
                tell.map_or(look, |ms| look.min(Duration::from_millis(ms)))
            }
            None => NEVER,
        }
    }

    /// Takes new orders, if somebody has written some. Whoever did has changed limits as well: also
    /// where they say the same, it is time to look.
    fn refresh(&mut self, manager: &Manager, name: &GuestName) {
        let path = manager.credit_orders_path(name);
        let file = std::fs::metadata(&path).ok();
        let written = file.and_then(|file| Some((file.modified().ok()?, file.ino())));
        if written != self.written {
            self.written = written;
            self.next = Instant::now();
            let text = file::read_small(&path, RECORD).ok().flatten();
            let orders = text.and_then(|text| serde_json::from_slice(&text).ok());
            if orders != self.orders {
                self.take(manager, name, orders);
            }
        }
    }

    /// Looks, if it is time, and says how long until the next time. What goes wrong is tried again.
    /// `called` is whether a command has been here, which may have written orders.
    pub(super) fn follow(
        &mut self,
        manager: &Manager,
        name: &GuestName,
        group: &Group,
        called: bool,
    ) -> Duration {
        if called || self.refreshed.elapsed() >= REFRESH {
            self.refreshed = Instant::now();
            self.refresh(manager, name);
        }
        if let Some(orders) = self.orders
            && self.pause().is_zero()
        {
            if self.guard.as_ref().is_none_or(Guard::is_gone) {
                self.guard = Guard::new(manager, name, &orders).ok();
            }
            let settled = settle(manager, name, group, &orders);
            let pause = settled.map(|(held_back, pause)| {
                self.news.see(held_back);
                pause
            });
            self.next = Instant::now() + pause.unwrap_or(AGAIN);
            if let Some(turn) = self.news.take(self.now()) {
                let kind = EventKind::Credits {
                    held_back: turn.held_back,
                    earn: orders.credits.earn.hundredths(),
                    times: turn.times,
                };
                // An event that cannot be written must not end the keeper.
                let _lost = manager.record_inside_too(name, kind);
            }
        }
        self.pause()
    }
}

impl Manager {
    fn credit_orders_path(&self, name: &GuestName) -> PathBuf {
        self.layout.guest_run(name).join("credit.json")
    }

    /// Tells the keeper of a guest's credits, or that it has none any more.
    pub(super) fn write_credit_orders(&self, name: &GuestName, guest: &Guest) -> Result<()> {
        let path = self.credit_orders_path(name);
        match CreditOrders::of(guest) {
            Some(orders) => {
                let text = serde_json::to_vec(&orders).unwrap_or_default();
                file::write_runtime(&path, &text, 0o600)?;
            }
            None if path.exists() => {
                std::fs::remove_file(&path).map_err(KernelError::io("remove", path.display()))?
            }
            None => return Ok(()),
        }
        // Any call wakes the keeper, which then looks here.
        let _none_yet = self.call_keeper(name);
        Ok(())
    }
}

/// Counts, and brings the limit in force to what that means; says whether the guest is held back, and
/// when to look again.
fn settle(
    manager: &Manager,
    name: &GuestName,
    group: &Group,
    orders: &CreditOrders,
) -> Result<(bool, Duration)> {
    let init = manager.run_state(name)?.and_then(|state| state.init);
    let balance = manager
        .count_credits(name, &orders.credits, init, group)?
        .balance;
    if balance.spent {
        hold_to(group, orders.credits.earn)?;
    } else if !manager.has_goal_limit(name, GoalResource::Cpu) {
        // A goal's controller may have less in mind, and raises it by itself.
        let_run(group, orders)?;
    }
    let host = u32::try_from(manager.facts.cpus.iter().count() * 100).ok();
    let most = orders.limit.or_else(|| Cpus::from_hundredths(host?));
    let pause = balance.pause(&orders.credits, most.unwrap_or(orders.credits.earn));
    Ok((balance.spent, pause))
}

/// The process that stands by, and our end of the channel by which it hears that we are gone.
struct Guard {
    channel: Channel,
    process: OwnedFd,
}

impl Guard {
    fn new(manager: &Manager, name: &GuestName, orders: &CreditOrders) -> Result<Self> {
        let (channel, theirs) = Channel::pair()?;
        let keeper = Identity::of(std::process::id());
        match process::fork_with(CloneFlags::default(), None)? {
            Forked::Parent { pidfd, .. } => Ok(Self {
                channel,
                process: pidfd,
            }),
            Forked::Child => {
                let _guard = process::NoReturn;
                // Out of reach of keys and of whoever ends the keeper's process group.
                let _leader = rustix::process::setsid();
                // Nothing of the keeper's is held open beyond its end.
                let mut kept = vec![theirs.as_fd().as_raw_fd()];
                let _closed = inherited::close_all_but(&mut kept);
                let mut orders = *orders;
                let _shown = title::retitle(&format!("bulkhead: credits of {name}"));
                process::give_memory_back();
                while let Ok(Some((text, _))) = theirs.receive(None) {
                    if text == DONE {
                        process::leave(0);
                    }
                    orders = serde_json::from_slice(&text).unwrap_or(orders);
                }
                if let Some(keeper) = keeper {
                    // What is left, `doctor` names.
                    let _tried = after(manager, name, keeper, &orders);
                }
                process::leave(0)
            }
        }
    }
}

impl Guard {
    fn is_gone(&self) -> bool {
        process::wait_gone(self.process.as_fd(), Some(Duration::ZERO)).unwrap_or(true)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // One that is gone hears nothing.
        let _told = self.channel.send(DONE, None);
        process::collect_when_ended(self.process.as_fd());
    }
}

/// The keeper has let go of us: killed, or executing itself anew, or there is nothing left to keep.
fn after(
    manager: &Manager,
    name: &GuestName,
    keeper: Identity,
    orders: &CreditOrders,
) -> Result<()> {
    if let Some(pidfd) = keeper.open()
        && !process::wait_gone(pidfd.as_fd(), Some(END))?
    {
        return Ok(());
    }
    let state = manager.run_state(name)?;
    let orphaned = state.is_some_and(|state| {
        state.keeper == Some(keeper) && state.init.is_some_and(Identity::lives)
    });
    match orphaned {
        true => manager.fall_back(name, orders),
        false => Ok(()),
    }
}
