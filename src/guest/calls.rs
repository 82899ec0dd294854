//! The process that answers for a guest what sysinfo(2) and sched_getaffinity(2) ask: it fills in what
//! the guest's own files say (`inside`), and the kernel lets the caller go on; some guests' statfs(2)
//! too (`calls_disk`). Made by the keeper,
//! whose side is next door in `calls_link`; how often a thread is answered is `calls_pace`'s.
//!
//! When nobody holds a listener any more, the kernel answers these calls with ENOSYS for good, so two
//! processes hold each: this one and the keeper. Either may be killed. What a killed one of these had
//! received and not answered is let through to the kernel by the next.
//!
//! On `calls.sock` somebody says one byte: `k` to be sent all listeners, now and later (the keeper), `r`
//! to hear `y` if there is room, `t` with a new listener, to hear `d` when all have it.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use rustix::net::SocketFlags;
use rustix::net::sockopt::{Timeout, set_socket_timeout};

use super::calls_disk::{DISK_CALLS, Disk};
use super::calls_numbers::Numbers;
use super::calls_pace::Pace;
use super::calls_through::{AHEAD, behind, let_all_through, let_through_for};
use super::manager::Manager;
use crate::kernel::channel::Channel;
use crate::kernel::process::{self, timespec};
use crate::kernel::process_use::{number_inside, own_time};
use crate::kernel::seccomp::notify::{self, Answer, Call};
use crate::kernel::{Errno, inherited, schedule, seccomp, title};
use crate::model::{Arch, CpuSet, GuestName, shown_affinity};

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
/// Nobody sends more bytes than this as a set of CPUs.
const LONGEST_MASK: usize = 1 << 16;

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
            CALLS.into_iter().chain(DISK_CALLS).filter_map(move |call| {
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
        let limit = self.pace.pause(Instant::now()).map(timespec);
        match poll(&mut fds, limit.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return None,
        }
        let hot = |fd: &PollFd<'_>| !fd.revents().is_empty();
        if hot(&fds[0]) {
            return None;
        }
        let places = self.listeners.keys().copied();
        let flags = fds[of_listeners..].iter().map(PollFd::revents);
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
        let first = self.pace.oldest(place).map_or(id, |first| first.min(id));
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
        let light = self
            .name_of(&call)
            .is_some_and(|(_, name)| DISK_CALLS.contains(&name));
        if let Some(call) = self.pace.take(place, call, light) {
            self.answer(place, &call);
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

/// `None` where the kernel is to answer.
fn system(
    listener: BorrowedFd<'_>,
    call: &Call,
    arch: Arch,
    numbers: &mut Numbers,
) -> Option<Answer> {
    let bytes = numbers.system()?.bytes(arch)?;
    fill_in(listener, call, call.arguments[0], &bytes, 0)
}

/// As sched_getaffinity(2) of the kernel has it: the number of bytes is returned, and there must be
/// room for all CPUs that the machine can have.
fn affinity(
    listener: BorrowedFd<'_>,
    call: &Call,
    arch: Arch,
    numbers: &mut Numbers,
) -> Option<Answer> {
    let [who, room, address, ..] = call.arguments;
    // Both are 32 bits wide, whatever the registers hold.
    let (who, room) = (who & 0xffff_ffff, room & 0xffff_ffff);
    if who != 0 {
        let own = i32::try_from(call.thread).ok().and_then(number_inside);
        if Some(who) != own.map(u64::from) {
            return None;
        }
    }
    let room = usize::try_from(room).ok()?.min(LONGEST_MASK);
    let asked = match arch {
        Arch::I386 if room % 4 == 0 => room.next_multiple_of(8),
        _ => room,
    };
    let real = match schedule::affinity_of(call.thread, asked) {
        Ok(real) => real,
        Err(errno @ Errno::INVAL) => return Some(Answer::Fails(errno)),
        Err(_) => return None,
    };
    let mut told = shown_affinity(&real, numbers.cpus()?);
    if told.iter().skip(room).any(|byte| *byte != 0) {
        return Some(Answer::Fails(Errno::INVAL));
    }
    told.truncate(room);
    let length = i64::try_from(told.len()).ok()?;
    fill_in(listener, call, address, &told, length)
}

pub(super) fn fill_in(
    listener: BorrowedFd<'_>,
    call: &Call,
    address: u64,
    bytes: &[u8],
    value: i64,
) -> Option<Answer> {
    match notify::write_to_caller(listener, call, address, bytes) {
        Ok(()) => Some(Answer::Value(value)),
        Err(errno @ Errno::FAULT) => Some(Answer::Fails(errno)),
        Err(_) => None,
    }
}
