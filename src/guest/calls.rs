//! The process that answers for a guest what sysinfo(2) and sched_getaffinity(2) ask: it fills in what
//! the guest's own files say (`inside`), and the kernel lets the caller go on; some guests' statfs(2)
//! too (`calls_disk`). Mounts are the kernel's, but for what is laid over some of them (`calls_mount`).
//! Made by the keeper, whose side is next door in `calls_link`; how often a thread is answered is
//! `calls_pace`'s.
//!
//! When nobody holds a listener any more, the kernel answers these calls with ENOSYS for good, so two
//! processes hold each: this one and the keeper. Either may be killed. What a killed one of these had
//! received and not answered is let through to the kernel by the next.
//!
//! On `calls.sock` somebody says one byte: `k` to be sent all listeners, now and later (the keeper), `r`
//! to hear `y` if there is room, `t` with a new listener, to hear `d` when all have it.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use rustix::net::SocketFlags;
use rustix::net::sockopt::{Timeout, set_socket_timeout};

use super::calls_disk::{DISK_CALLS, Disk};
use super::calls_mount::{MOUNT_CALLS, Mounts, wish};
use super::calls_numbers::{Numbers, affinity, system};
use super::calls_pace::Pace;
use super::calls_through::{AHEAD, behind, let_all_through, let_through_for};
use super::manager::Manager;
use crate::kernel::channel::Channel;
use crate::kernel::process::{self, timespec};
use crate::kernel::process_use::own_time;
use crate::kernel::seccomp::notify::{self, Answer, Call};
use crate::kernel::{Errno, inherited, seccomp, title};
use crate::model::{Arch, CpuSet, GuestName};

/// The calls.
pub(super) const CALLS: [&str; 2] = ["sysinfo", "sched_getaffinity"];

/// Most listeners: the guest's own, and one for each program that was executed in it from outside and
/// has left something running.
const MOST: u16 = 512;
/// Most connections.
const CLIENTS: usize = 64;
/// Bytes of a listener in the file of numbers: its first call that waits for an answer, and the last.
const NUMBERS: u64 = 16;
/// For how long callers are let through before it is tried again to answer them.
const AGAIN: Duration = Duration::from_secs(5);

/// What the keeper gives to a new one.
pub(super) struct Post<'a> {
    pub(super) manager: &'a Manager,
    pub(super) name: &'a GuestName,
    /// The guest's first process.
    pub(super) guest: &'a OwnedFd,
    /// The keeper's connection.
    pub(super) keeper: Channel,
    /// By their places in the file of numbers.
    pub(super) listeners: BTreeMap<u16, OwnedFd>,
}

/// Goes on as that process, which was forked for it, until the guest has ended.
pub(super) fn answer(post: Post<'_>) -> ! {
    let mut kept: Vec<i32> = [post.guest.as_raw_fd(), post.keeper.as_fd().as_raw_fd()]
        .into_iter()
        .chain(post.listeners.values().map(AsRawFd::as_raw_fd))
        .collect();
    // The keeper's watch on readers above all: held here too, it would outlive the keeper and hold
    // them for ever.
    let closed = inherited::close_all_but(&mut kept);
    let name = post.name;
    let _shown = title::retitle(&format!("bulkhead: calls of {name}"));
    let _shown = rustix::thread::set_name(c"bulkhead-calls");
    if let Ok(()) = closed {
        match Desk::open(post) {
            Ok(mut desk) => {
                desk.take_up();
                process::give_memory_back();
                desk.work();
            }
            Err(post) => let_through_for(AGAIN, &post),
        }
    }
    process::leave(0)
}

/// Somebody who is connected.
struct Client {
    channel: Channel,
    /// Whether it is sent all listeners.
    keeps: bool,
}

struct Listener {
    fd: OwnedFd,
    /// Whether another may have received calls of it before us.
    unknown: bool,
}

struct Desk<'a> {
    guest: &'a OwnedFd,
    door: OwnedFd,
    clients: Vec<Client>,
    listeners: BTreeMap<u16, Listener>,
    /// Numbers of the calls that were received from each.
    last: OwnedFd,
    calls: Vec<(u32, u32, Arch, &'static str)>,
    pace: Pace,
    numbers: Numbers,
    disk: Option<Disk>,
    /// From the first mount on that there is something to do about.
    mounts: Option<Mounts>,
    of: (&'a Manager, &'a GuestName),
}

impl<'a> Desk<'a> {
    /// Gives back what it is given if it cannot be.
    fn open(post: Post<'a>) -> Result<Self, Post<'a>> {
        let (manager, name) = (post.manager, post.name);
        let run = manager.layout.guest_run(name);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let last = rustix::fs::open(run.join("calls.last"), flags, Mode::from_raw_mode(0o600));
        let door = super::console::listen(&manager.calls_socket(name));
        let numbers = Numbers::open(manager, name);
        let (Ok(door), Ok(last), Some(numbers), Some(native)) =
            (door, last, numbers, Arch::native())
        else {
            return Err(post);
        };
        let arches = match native {
            Arch::X86_64 => vec![native, Arch::I386],
            _ => vec![native],
        };
        let numbered = arches.into_iter().flat_map(|arch| {
            let all = CALLS.into_iter().chain(DISK_CALLS).chain(MOUNT_CALLS);
            all.filter_map(move |call| {
                let number = seccomp::number(call, arch)?;
                Some((arch.audit_token(), number, arch, call))
            })
        });
        let listener = |(place, fd)| (place, Listener { fd, unknown: true });
        Ok(Self {
            guest: post.guest,
            door,
            clients: vec![Client {
                channel: post.keeper,
                keeps: true,
            }],
            listeners: post.listeners.into_iter().map(listener).collect(),
            last,
            calls: numbered.collect(),
            pace: Pace::new(own_time()),
            numbers,
            disk: Disk::open(manager, name),
            mounts: None,
            of: (manager, name),
        })
    }

    /// Lets those go on whom one before us has left waiting.
    fn take_up(&mut self) {
        for (place, listener) in &self.listeners {
            let mut ids = [[0; 8]; 2];
            let at = u64::from(*place) * NUMBERS;
            let read = rustix::io::pread(&self.last, ids.as_flattened_mut(), at);
            let [first, last] = ids.map(u64::from_ne_bytes);
            if read == Ok(16) && last != 0 {
                let (from, to) = behind(first, last);
                let_all_through(listener.fd.as_fd(), from, to);
            }
        }
        // What this took is nothing the guest has asked for.
        self.pace = Pace::new(own_time());
    }

    fn work(&mut self) {
        loop {
            let cpus = self.cpus();
            let open = self.pace.is_open(cpus);
            let Some(ready) = self.wait(open) else {
                return;
            };
            if ready.door {
                self.accept();
            }
            // From the last on, so that removing one leaves the numbers of the others.
            for n in ready.clients.into_iter().rev() {
                if self.hear(n).is_none() {
                    self.clients.remove(n);
                }
            }
            for (place, flags) in ready.listeners {
                if flags.contains(PollFlags::IN) {
                    self.receive(place);
                } else {
                    // Everybody who had that filter is gone.
                    self.listeners.remove(&place);
                }
            }
            if let Some(mounts) = &mut self.mounts {
                mounts.go_on(self.guest, |place| {
                    Some(self.listeners.get(&place)?.fd.as_fd())
                });
            }
            self.pace.count(own_time());
            while let Some((place, call)) = self.pace.due(Instant::now()) {
                self.answer(place, &call);
                self.pace.count(own_time());
            }
        }
    }

    /// How many CPUs the guest sees, where that matters.
    fn cpus(&mut self) -> usize {
        let read = self.pace.is_busy().then(|| self.numbers.cpus()).flatten();
        let read = read.map(CpuSet::len);
        read.unwrap_or_else(|| self.numbers.shown())
    }

    /// Sleeps until there is something to do; `None` when the guest has ended.
    fn wait(&self, open: bool) -> Option<Ready> {
        let mut fds = vec![
            PollFd::new(self.guest, PollFlags::IN),
            PollFd::new(&self.door, PollFlags::IN),
        ];
        let of_clients = fds.len();
        let clients = self.clients.iter();
        fds.extend(clients.map(|client| PollFd::new(&client.channel, PollFlags::IN)));
        let of_listeners = fds.len();
        let listeners = self.listeners.iter().filter(|_| open);
        fds.extend(listeners.map(|(_, one)| PollFd::new(&one.fd, PollFlags::IN)));
        let of_working = fds.len();
        let working = self.mounts.iter().flat_map(Mounts::processes);
        fds.extend(working.map(|one| PollFd::from_borrowed_fd(one, PollFlags::IN)));
        let mounts = self.mounts.as_ref().and_then(Mounts::pause);
        let pauses = self.pace.pause(Instant::now()).into_iter().chain(mounts);
        let limit = pauses.min().map(timespec);
        match poll(&mut fds, limit.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return None,
        }
        let hot = |fd: &PollFd<'_>| !fd.revents().is_empty();
        if hot(&fds[0]) {
            return None;
        }
        let places = self.listeners.keys().copied();
        let flags = fds[of_listeners..of_working].iter().map(PollFd::revents);
        let clients = fds[of_clients..of_listeners].iter().enumerate();
        Some(Ready {
            door: hot(&fds[1]),
            clients: clients.filter(|(_, fd)| hot(fd)).map(|(n, _)| n).collect(),
            listeners: places
                .zip(flags)
                .filter(|(_, flags)| !flags.is_empty())
                .collect(),
        })
    }

    fn accept(&mut self) {
        // Somebody who went away meanwhile, or one too many.
        let Ok(socket) = rustix::net::accept_with(&self.door, SocketFlags::CLOEXEC) else {
            return;
        };
        // One that does not read must not hold up the guest.
        let patience = Some(Duration::from_secs(1));
        let set = set_socket_timeout(&socket, Timeout::Send, patience);
        if set.is_ok() && self.clients.len() < CLIENTS {
            self.clients.push(Client {
                channel: Channel::over(socket),
                keeps: false,
            });
        }
    }

    /// `None` when it is gone, or talks nonsense.
    fn hear(&mut self, n: usize) -> Option<()> {
        let client = &mut self.clients[n];
        let heard = client.channel.receive(Some(Duration::ZERO)).ok()?;
        let (word, fd) = heard?;
        match (word.as_slice(), fd) {
            (b"k", None) => {
                client.keeps = true;
                let all = self.listeners.iter();
                let mut sent = all.map(|(place, one)| pass_on(&client.channel, *place, &one.fd));
                sent.all(|sent| sent).then_some(())
            }
            (b"r", None) => {
                let room = self.listeners.len() < usize::from(MOST);
                let word = if room { b"y" } else { b"n" };
                client.channel.send(word, None).ok()
            }
            (b"t", Some(fd)) => {
                let place = (0..MOST).find(|place| !self.listeners.contains_key(place))?;
                self.note(place, 0);
                // Those that do not take it hold nothing that anybody could do without now.
                let keepers = self.clients.iter().filter(|client| client.keeps);
                for keeper in keepers {
                    pass_on(&keeper.channel, place, &fd);
                }
                let unknown = false;
                self.listeners.insert(place, Listener { fd, unknown });
                self.clients[n].channel.send(b"d", None).ok()
            }
            _ => None,
        }
    }

    fn note(&self, place: u16, id: u64) {
        let mounts = self.mounts.as_ref().and_then(|all| all.oldest(place));
        let waiting = self.pace.oldest(place).into_iter().chain(mounts);
        let first = waiting.fold(id, u64::min);
        let ids = [first.to_ne_bytes(), id.to_ne_bytes()];
        // Without it, a call that waits when this process is killed is found by the next one's.
        let at = u64::from(place) * NUMBERS;
        let _unknown = rustix::io::pwrite(&self.last, ids.as_flattened(), at);
    }

    fn receive(&mut self, place: u16) {
        let Some(listener) = self.listeners.get_mut(&place) else {
            return;
        };
        let call = match notify::receive(listener.fd.as_fd()) {
            Ok(Some(call)) => call,
            Ok(None) => return,
            Err(_) => {
                self.listeners.remove(&place);
                return;
            }
        };
        let unknown = std::mem::take(&mut listener.unknown);
        if unknown {
            let from = call.id.saturating_sub(AHEAD);
            let_all_through(listener.fd.as_fd(), from, call.id.saturating_sub(1));
        }
        self.note(place, call.id);
        let name = self.name_of(&call).map(|(_, name)| name);
        if name.is_some_and(|name| MOUNT_CALLS.contains(&name)) {
            self.see_mounted(place, &call, name.unwrap_or_default());
            return;
        }
        let light = name.is_some_and(|name| DISK_CALLS.contains(&name));
        if let Some(call) = self.pace.take(place, call, light) {
            self.answer(place, &call);
        }
    }

    /// A mount is made, or taken away: let through, at once unless something is to be done about it.
    fn see_mounted(&mut self, place: u16, call: &Call, name: &str) {
        let Some(listener) = self.listeners.get(&place) else {
            return;
        };
        let fd = listener.fd.as_fd();
        let taken = wish(fd, call, name).is_some_and(|lay| {
            if self.mounts.is_none() {
                self.mounts = Mounts::open(self.of.0, self.of.1);
            }
            let mounts = self.mounts.as_mut();
            mounts.is_some_and(|mounts| mounts.take(place, call, lay))
        });
        if !taken {
            let _gone = notify::answer(fd, call.id, Answer::LetThrough);
        }
    }

    fn name_of(&self, call: &Call) -> Option<(Arch, &'static str)> {
        let mut calls = self.calls.iter();
        let of_it = |(token, number, ..): &&(u32, u32, _, _)| {
            (*token, *number) == (call.convention, call.number)
        };
        calls.find(of_it).map(|(.., arch, name)| (*arch, *name))
    }

    fn answer(&mut self, place: u16, call: &Call) {
        let Some(listener) = self.listeners.get(&place) else {
            return;
        };
        let fd = listener.fd.as_fd();
        let done = match self.name_of(call) {
            Some((arch, "sysinfo")) => system(fd, call, arch, &mut self.numbers),
            Some((arch, "sched_getaffinity")) => affinity(fd, call, arch, &mut self.numbers),
            Some(call_of) => self
                .disk
                .as_ref()
                .and_then(|disk| disk.tell(fd, call, call_of)),
            None => None,
        };
        // One that was interrupted or killed meanwhile needs no answer.
        let _gone = notify::answer(fd, call.id, done.unwrap_or(Answer::LetThrough));
    }
}

/// What is to be looked at.
struct Ready {
    door: bool,
    clients: Vec<usize>,
    listeners: Vec<(u16, PollFlags)>,
}

/// Whether it has it.
fn pass_on(channel: &Channel, place: u16, fd: &OwnedFd) -> bool {
    channel.send(&place.to_ne_bytes(), Some(fd.as_fd())).is_ok()
}
