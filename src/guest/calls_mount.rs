//! Mounts that a container in a guest makes of the kernel's views of the machine (`proc`, `sysfs`). The
//! caller's own call makes them, and what they are is the kernel's business; before the caller sees them
//! the guest's files are laid over them by a process of ours, which is next door in `calls_lay`. Here it
//! is decided whether there is something to do, and seen to that nobody waits long. Everything else is
//! let through at once.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use super::calls_lay::{self, Lay};
use super::manager::Manager;
use crate::kernel::caller_file::{kernel_view_at, kernel_view_of};
use crate::kernel::caller_rights::may_mount;
use crate::kernel::cgroup::Group;
use crate::kernel::process::{self, CloneFlags, Forked};
use crate::kernel::seccomp::notify::{self, Answer, Call};
use crate::kernel::{Errno, seccomp};
use crate::model::{Guest, GuestName};

/// The calls, of which the filter asks about those that mount something new or take a mount away.
pub(super) const MOUNT_CALLS: [&str; 4] = ["mount", "move_mount", "umount2", "umount"];

/// Most processes of ours at once, and calls that wait for one.
const AT_ONCE: usize = 4;
const WAITING: usize = 256;
/// For how long a caller is kept: after that the kernel's numbers are seen.
const LONGEST: Duration = Duration::from_secs(3);

pub(super) struct Mounts {
    group: Group,
    /// The guest's first process, and who is root in it.
    init: u32,
    owner: u32,
    working: Vec<Working>,
    waiting: VecDeque<(u16, Call, Lay, Instant)>,
}

/// A process of ours that sees to a call.
struct Working {
    place: u16,
    id: u64,
    process: OwnedFd,
    since: Instant,
    killed: bool,
}

impl Mounts {
    /// `None` where it is the kernel that answers.
    pub(super) fn open(manager: &Manager, name: &GuestName) -> Option<Self> {
        let state = manager.run_state(name).ok()??;
        Some(Self {
            group: manager.group(name).ok()??,
            init: state.init?.pid,
            owner: state.ids.base,
            working: Vec::new(),
            waiting: VecDeque::new(),
        })
    }

    /// What to wait for.
    pub(super) fn processes(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.working.iter().map(|one| one.process.as_fd())
    }

    /// How long until somebody has waited long enough.
    pub(super) fn pause(&self) -> Option<Duration> {
        let working = self.working.iter().filter(|one| !one.killed);
        let since = working.map(|one| one.since);
        let waiting = self.waiting.iter().map(|(.., since)| *since);
        let first = since.chain(waiting).min()?;
        Some(LONGEST.saturating_sub(first.elapsed()))
    }

    /// The first of the calls of a listener that are not answered yet.
    pub(super) fn oldest(&self, place: u16) -> Option<u64> {
        let working = self.working.iter().map(|one| (one.place, one.id));
        let waiting = self
            .waiting
            .iter()
            .map(|(place, call, ..)| (*place, call.id));
        let all = working.chain(waiting).filter(|(of, _)| *of == place);
        all.map(|(_, id)| id).min()
    }

    /// Takes a call over for which there is something to do; the others are to be let through.
    #[must_use]
    pub(super) fn take(&mut self, place: u16, call: &Call, lay: Lay) -> bool {
        let room = self.waiting.len() < WAITING;
        if room {
            self.waiting.push_back((place, *call, lay, Instant::now()));
        }
        room
    }

    /// Collects who is done, and lets others begin.
    pub(super) fn go_on<'l>(
        &mut self,
        guest: &OwnedFd,
        listener: impl Fn(u16) -> Option<BorrowedFd<'l>>,
    ) {
        let let_through = |place, id| {
            // It has been, unless something of ours has failed.
            let _done = listener(place).map(|fd| notify::answer(fd, id, Answer::LetThrough));
        };
        self.working.retain_mut(|one| {
            if process::wait_gone(one.process.as_fd(), Some(Duration::ZERO)).unwrap_or(true) {
                process::collect(one.process.as_fd());
                let_through(one.place, one.id);
                return false;
            }
            if !one.killed && one.since.elapsed() >= LONGEST {
                // In a guest that is frozen it dies when that is thawed.
                let kill = rustix::process::Signal::KILL.as_raw();
                let _gone = process::send_signal(one.process.as_fd(), kill);
                one.killed = true;
                let_through(one.place, one.id);
            }
            true
        });
        while let Some((place, call, _, since)) = self.waiting.front() {
            let (place, call, since) = (*place, *call, *since);
            let late = since.elapsed() >= LONGEST;
            if self.working.len() >= AT_ONCE && !late {
                return;
            }
            let Some((.., lay, _)) = self.waiting.pop_front() else {
                return;
            };
            let begun = listener(place)
                .filter(|_| !late)
                .and_then(|fd| self.begin(guest, fd, &call, lay));
            match begun {
                Some(process) => self.working.push(Working {
                    place,
                    id: call.id,
                    process,
                    since: Instant::now(),
                    killed: false,
                }),
                None => let_through(place, call.id),
            }
        }
    }

    /// Makes the process, in the guest's control groups: what it mounts is the guest's.
    fn begin(
        &self,
        guest: &OwnedFd,
        listener: BorrowedFd<'_>,
        call: &Call,
        lay: Lay,
    ) -> Option<OwnedFd> {
        let owner = Some((self.owner, self.owner));
        let mut leaf = false;
        loop {
            let folder = self.group.exec_fd(owner, leaf).ok()?;
            match process::fork_with(CloneFlags::default(), Some(folder.as_fd())) {
                Ok(Forked::Child) => {
                    let _guard = process::NoReturn;
                    calls_lay::work(&calls_lay::Post {
                        guest,
                        init: self.init,
                        group: &self.group,
                        listener,
                        call,
                        lay,
                    })
                }
                Ok(Forked::Parent { pidfd, .. }) => return Some(pidfd),
                // The guest has just given controllers to groups of its own.
                Err(error) if error.errno == Errno::BUSY && !leaf => leaf = true,
                Err(_) => return None,
            }
        }
    }
}

/// What is to be done about a call; `None` for nothing. Nothing that is read here is relied on: another
/// thread may have changed it meanwhile.
pub(super) fn wish(listener: BorrowedFd<'_>, call: &Call, name: &str) -> Option<Lay> {
    const UMOUNT_NOFOLLOW: u64 = 8;
    let [first, second, third, ..] = call.arguments;
    let lay = match name {
        "mount" => {
            let kind: [u8; 6] = notify::bytes_of_caller(listener, call, third).ok()?;
            match &kind {
                b"sysfs\0" => Lay::New("sysfs"),
                [b'p', b'r', b'o', b'c', 0, _] => Lay::New("proc"),
                _ => return None,
            }
        }
        _ if !may_mount(call.thread) => return None,
        "move_mount" => {
            // 32 bits wide, whatever the register holds.
            let number = u32::try_from(first & 0xffff_ffff).ok()?;
            Lay::New(notify::briefly(|| kernel_view_of(call.thread, number))?)
        }
        _ => {
            let path = notify::text_of_caller(listener, call, first).ok()?;
            let follow = name == "umount" || second & UMOUNT_NOFOLLOW == 0;
            let kind = notify::briefly(|| kernel_view_at(call.thread, &path, follow))?;
            Lay::Taken { kind, path, follow }
        }
    };
    may_mount(call.thread).then_some(lay)
}

impl Manager {
    /// Whether containers inside a guest whose calls are answered are to see its size.
    pub(super) fn answers_mounts(&self, guest: &Guest) -> bool {
        guest.security.nesting && seccomp::waits_killable()
    }
}
