//! The keeper's part in answering its guest's calls: it makes the process that does (`calls`), holds
//! every listener a second time, and makes another one when that process dies. And how a program that
//! is executed in the guest gives them the listener of its own filter.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};

use super::calls::{self, Post};
use super::error::Result;
use super::manager::Manager;
use crate::kernel::channel::Channel;
use crate::kernel::process::{self, CloneFlags, Forked, timespec};
use crate::kernel::{Errno, KernelError, file, seccomp};
use crate::model::{Action, Guest, GuestName, View};

/// One that died sooner than this is not replaced before.
const PAUSE: Duration = Duration::from_millis(100);
/// How long somebody at the desk may take for an answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// For how long a new one is waited for.
const REPLACED: Duration = Duration::from_secs(3);
/// For how long a keeper may wait to be connected: others wait for the keeper meanwhile.
const BRIEFLY: Duration = Duration::from_millis(1);
/// Whoever is at the desk has not been made yet, or is gone, when nobody has listened for so long.
const GONE: Duration = Duration::from_secs(1);

/// The keeper's end.
pub(super) struct Calls<'a> {
    manager: &'a Manager,
    name: &'a GuestName,
    guest: &'a OwnedFd,
    /// Closed by the other side when it dies.
    link: Option<Channel>,
    /// The other side, if it is our child.
    child: Option<OwnedFd>,
    held: BTreeMap<u16, OwnedFd>,
    began: Instant,
    /// Since when the one that another keeper has made was seen, or should have been, if that is yet
    /// to be found.
    sought: Option<Instant>,
}

impl<'a> Calls<'a> {
    /// With the listener of a launch, the first. Without: those that the process has which another
    /// keeper has made, if this guest's filter asks.
    pub(super) fn begin(
        manager: &'a Manager,
        name: &'a GuestName,
        guest: &'a OwnedFd,
        first: Option<OwnedFd>,
    ) -> Option<Self> {
        let new = first.is_some();
        if !new && process::is_child(guest.as_fd()) {
            // The launch, which is this process, has brought none: another filter notifies.
            let _never = std::fs::remove_file(manager.calls_asked_path(name));
            return None;
        }
        let asks = manager.calls_asked_path(name).exists() || manager.calls_socket(name).exists();
        if !new && !asks {
            return None;
        }
        let mut calls = Self {
            manager,
            name,
            guest,
            link: None,
            child: None,
            held: first.map(|first| (0, first)).into_iter().collect(),
            began: Instant::now(),
            sought: (!new).then(Instant::now),
        };
        match new {
            true => calls.start(),
            false => calls.seek(),
        }
        Some(calls)
    }

    /// Connects to the one that another keeper has made. One that does not get round to us is there all
    /// the same, and has what it has; where there is none, nobody holds what it held.
    fn seek(&mut self) {
        self.began = Instant::now();
        let found = self.manager.calls_connection(self.name, BRIEFLY);
        match found.and_then(|link| link.send(b"k", None).map(|()| link)) {
            Ok(link) => (self.link, self.sought) = (Some(link), None),
            Err(error) if error.errno == Errno::AGAIN => self.sought = Some(self.began),
            Err(_) if self.sought.is_some_and(|since| since.elapsed() < GONE) => {}
            Err(_) => {
                self.sought = None;
                self.manager.note_lost_calls(self.name);
                self.start();
            }
        }
    }

    /// What to wait for.
    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.link.as_ref().map(AsFd::as_fd)
    }

    /// How long until [`Calls::serve`] has something to do all the same.
    pub(super) fn pause(&self) -> Option<Duration> {
        let since = self.began.elapsed();
        self.link.is_none().then(|| PAUSE.saturating_sub(since))
    }

    /// Takes what the other side has sent, or makes another when it has died.
    pub(super) fn serve(&mut self, ready: bool) {
        if let Some(link) = self.link.as_ref().filter(|_| ready) {
            match link.receive(Some(Duration::ZERO)) {
                Ok(Some((place, Some(listener)))) => self.hold(&place, listener),
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => {
                    self.link = None;
                    self.collect();
                }
            }
        }
        // The other side ends with the guest; then there is nobody to answer for.
        if self.link.is_none() && self.began.elapsed() >= PAUSE && !self.has_ended() {
            match self.sought {
                Some(_) => self.seek(),
                None => self.start(),
            }
        }
    }

    fn has_ended(&self) -> bool {
        process::wait_gone(self.guest.as_fd(), Some(Duration::ZERO)).unwrap_or(true)
    }

    fn hold(&mut self, place: &[u8], listener: OwnedFd) {
        // Those whose programs are gone.
        self.held.retain(|_, held| {
            let mut fds = [PollFd::new(&*held, PollFlags::empty())];
            let now = timespec(Duration::ZERO);
            !matches!(poll(&mut fds, Some(&now)), Ok(1))
                || !fds[0].revents().contains(PollFlags::HUP)
        });
        if let Ok(place) = place.try_into() {
            self.held.insert(u16::from_ne_bytes(place), listener);
        }
    }

    fn start(&mut self) {
        self.began = Instant::now();
        let Ok((ours, theirs)) = Channel::pair() else {
            return;
        };
        match process::fork_with(CloneFlags::default(), None) {
            Ok(Forked::Child) => {
                let _guard = process::NoReturn;
                calls::answer(Post {
                    manager: self.manager,
                    name: self.name,
                    guest: self.guest,
                    keeper: theirs,
                    listeners: std::mem::take(&mut self.held),
                })
            }
            Ok(Forked::Parent { pidfd, .. }) => {
                self.child = Some(pidfd);
                self.link = Some(ours);
            }
            // The next round tries again; callers wait so long.
            Err(_) => {}
        }
    }

    fn collect(&mut self) {
        if let Some(child) = self.child.take() {
            // It has closed its connection, or has nobody to answer for any more.
            let _gone = process::send_signal(child.as_fd(), rustix::process::Signal::KILL.as_raw());
            process::collect(child.as_fd());
        }
    }
}

impl Drop for Calls<'_> {
    /// The end of the guest is the other side's too, and nothing of it stays a zombie.
    fn drop(&mut self) {
        if self.has_ended() {
            self.link = None;
            self.collect();
        }
    }
}

/// Where a program that is executed in a guest brings the listener of its filter.
pub(super) struct Desk<'a> {
    manager: &'a Manager,
    name: &'a GuestName,
    connection: Channel,
}

impl Desk<'_> {
    /// Gives it to them. When the one at the desk is killed meanwhile there is another one soon; when
    /// nobody comes, what was executed finds these calls refused (ENOSYS).
    pub(super) fn hand_over(mut self, listener: &OwnedFd) {
        let until = Instant::now() + REPLACED;
        while !asks(&self.connection, b"t", Some(listener), b"d") && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(20));
            if let Ok(connection) = self.manager.calls_connection(self.name, PATIENCE) {
                self.connection = connection;
            }
        }
    }
}

/// Whether the answer is the expected one.
fn asks(desk: &Channel, word: &[u8], fd: Option<&OwnedFd>, expected: &[u8]) -> bool {
    let said = desk.send(word, fd.map(AsFd::as_fd));
    let heard = said.and_then(|()| desk.receive(Some(PATIENCE)));
    matches!(heard, Ok(Some((text, _))) if text == expected)
}

impl Manager {
    pub(super) fn calls_socket(&self, name: &GuestName) -> PathBuf {
        self.layout.guest_run(name).join("calls.sock")
    }

    /// Says that the calls of what runs in the guest now are refused until its next start.
    fn lost_calls_path(&self, name: &GuestName) -> PathBuf {
        self.layout.guest_run(name).join("calls.lost")
    }

    /// There while something in the guest has a filter that asks, or will have: its calls must be
    /// answered.
    fn calls_asked_path(&self, name: &GuestName) -> PathBuf {
        self.layout.guest_run(name).join("calls.asked")
    }

    /// Before a launch: writes down whether its filter asks.
    pub(super) fn note_asked_calls(&self, name: &GuestName, guest: &Guest) -> Result<()> {
        let runs = self
            .run_state(name)?
            .is_some_and(|state| state.init.is_some());
        if !runs && self.answers_calls(guest) {
            file::write_runtime(&self.calls_asked_path(name), b"", 0o600)?;
        }
        Ok(())
    }

    fn note_lost_calls(&self, name: &GuestName) {
        // Nobody is there to be told that it cannot be written down.
        let _unsaid = std::fs::write(self.lost_calls_path(name), b"");
    }

    /// Whether both who could answer a running guest's calls were killed together.
    pub(super) fn has_lost_calls(&self, name: &GuestName) -> bool {
        self.lost_calls_path(name).exists()
    }

    /// Whether a guest's calls agree with its files.
    pub(super) fn answers_calls(&self, guest: &Guest) -> bool {
        guest.view == View::Guest && self.facts.read_watch && seccomp::supported(Action::Notify)
    }

    /// EAGAIN: somebody is there, and did not get round to us in this time.
    fn calls_connection(
        &self,
        name: &GuestName,
        patience: Duration,
    ) -> std::result::Result<Channel, KernelError> {
        super::connect::connect(&self.calls_socket(name), patience).map(Channel::over)
    }

    /// Who takes the listener of a program that is going to be executed in a guest; `None` when nobody
    /// does: then it is the kernel that answers that program.
    pub(super) fn calls_desk<'a>(&'a self, name: &'a GuestName) -> Option<Desk<'a>> {
        let until = Instant::now() + GONE;
        let connection = loop {
            match self.calls_connection(name, PATIENCE) {
                Ok(connection) => break connection,
                // In a guest that has just started they are about to listen.
                Err(_) if self.calls_asked_path(name).exists() && Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(_) => return None,
            }
        };
        asks(&connection, b"r", None, b"y").then_some(Desk {
            manager: self,
            name,
            connection,
        })
    }
}
