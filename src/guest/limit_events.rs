//! Events of limits that a guest hits, told by its keeper: killed for want of memory, no more
//! processes, held back by its CPU limit, its disk nearly full, packets dropped. Each with who used
//! most then, and no more often than `model::Pace` lets it.
//!
//! The kernel wakes the keeper for the first, and for the second (`pids_look`); the others are looked at
//! now and then. The guest
//! reads its events in a file of its own, which lies beside those of `inside` and is appended to by
//! name in a folder that only the host can write.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::OFlags;

use super::error::Result;
use super::manager::{Manager, now_ms};
use super::pids_look::PidsLook;
use super::tenant_look::TenantLook;
use super::top_processes::{self as top, CpuTimes};
use crate::kernel::KernelError;
use crate::kernel::cgroup::{Group, OomWatch, Throttling};
use crate::model::{EVENTS_INSIDE, Event, EventKind, GuestName, Pace, TopProcess};
use crate::storage;

/// Between two looks at what the kernel does not tell by itself.
const EVERY: Duration = Duration::from_secs(20);
/// Every so manieth of them is at the disk and the network too.
const RARELY: u32 = 3;
/// Over such a time CPU use of single processes is measured.
const BURST: Duration = Duration::from_secs(1);
/// In fewer periods than these, of a tenth of a second each, it hardly wanted to run.
const FEW: u64 = 20;
/// So full, percent, is nearly full; and it is not any more from here on.
const NEARLY_FULL: u64 = 95;
const ROOMY: u64 = 90;
/// Kills for want of memory are told again sooner than other things.
const KILLS_AGAIN: u64 = 10_000;
/// Largest file of events inside; then its older half goes.
const LARGEST: u64 = 32 << 10;

/// What the keeper of a running guest watches.
#[derive(Debug)]
pub(super) struct LimitEvents<'a> {
    manager: &'a Manager,
    name: &'a GuestName,
    group: &'a Group,
    began: Instant,
    oom: Option<OomWatch>,
    kills: u64,
    pids: Option<PidsLook>,
    memory: Pace,
    processes: Pace,
    cpu: Pace,
    /// When the next look is, and how many there were.
    next: Instant,
    looks: u32,
    throttling: Option<Throttling>,
    /// The part of the periods in the last interval, percent.
    held_back: u64,
    burst: Option<CpuTimes>,
    tenant: TenantLook,
    disk: Room,
    files: Room,
    network: Pace,
    /// Packets beyond its ceilings when they were looked at last, by the network of each interface.
    dropped: BTreeMap<String, u64>,
}

/// Room on a disk, or for files on it.
#[derive(Debug, Default)]
struct Room {
    pace: Pace,
    near: bool,
    percent: u64,
}

impl Room {
    /// So much of it is used.
    fn look(&mut self, used: u64, size: u64) {
        self.percent = used.saturating_mul(100).checked_div(size).unwrap_or(0);
        if self.percent >= NEARLY_FULL && !self.near {
            self.near = true;
            self.pace.hit(1);
        } else if self.percent < ROOMY {
            self.near = false;
        }
    }
}

impl<'a> LimitEvents<'a> {
    /// Begins to watch. With `all`, what has happened since the guest's start counts; else from now.
    pub(super) fn open(
        manager: &'a Manager,
        name: &'a GuestName,
        group: &'a Group,
        all: bool,
    ) -> Self {
        let now = Instant::now();
        Self {
            manager,
            name,
            group,
            began: now,
            // Without a controller there is nothing to watch.
            oom: group.oom_watch(all.then_some(0)).ok(),
            kills: 0,
            pids: PidsLook::open(group, all),
            memory: Pace::with_first(KILLS_AGAIN),
            processes: Pace::default(),
            cpu: Pace::default(),
            next: now + EVERY,
            looks: 0,
            throttling: group.throttling().ok().flatten(),
            held_back: 0,
            burst: None,
            tenant: TenantLook::open(manager, name, group),
            disk: Room::default(),
            files: Room::default(),
            network: Pace::default(),
            dropped: BTreeMap::new(),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// What the kernel tells by. While nothing more is told of processes, it is not asked either: a
    /// guest that cannot fork and tries all day costs nothing.
    pub(super) fn poll_fds(&self) -> Vec<PollFd<'_>> {
        let oom = self.oom.iter();
        let both = PollFlags::IN | PollFlags::PRI;
        let mut fds: Vec<PollFd<'_>> = oom.map(|oom| PollFd::new(oom, both)).collect();
        let rests = self.processes.rests(self.now());
        let pids = self.pids.iter().filter(|_| !rests);
        fds.extend(pids.filter_map(PidsLook::poll_fd));
        fds
    }

    /// How long until there is something to do.
    pub(super) fn pause(&self) -> Duration {
        let now = self.now();
        let rest = |pace: &Pace| pace.rests_until().filter(|until| *until > now);
        let due = [self.memory.due(), rest(&self.processes)];
        let due = due.into_iter().flatten().min();
        let due = due.map(|at| Duration::from_millis(at.saturating_sub(now)));
        let burst = self
            .burst
            .as_ref()
            .map(|times| BURST.saturating_sub(times.elapsed()));
        let next = self.next.saturating_duration_since(Instant::now());
        let rests = self.processes.rests(now);
        let pids = self.pids.as_ref().filter(|_| !rests);
        let pids = pids.and_then(PidsLook::pause);
        [due, burst, pids]
            .into_iter()
            .flatten()
            .fold(next, Duration::min)
    }

    /// Takes in what the kernel told.
    pub(super) fn take_in(&mut self) {
        if let Some(oom) = &mut self.oom {
            let new = oom.drain(self.group).unwrap_or(0);
            self.kills += new;
            self.memory.hit(new);
        }
        if let Some(pids) = &mut self.pids {
            self.processes.hit(pids.new_hits());
        }
    }

    /// The same of processes, where the kernel does not tell of them and it is time.
    pub(super) fn look_at_processes(&mut self) {
        let rests = self.processes.rests(self.now());
        if let Some(pids) = self.pids.as_mut().filter(|pids| !rests && pids.is_due()) {
            self.processes.hit(pids.new_hits());
        }
    }

    /// Whether there is something to look at or to tell now, which takes a while.
    pub(super) fn has_work(&self) -> bool {
        let now = self.now();
        let due = |pace: &Pace| pace.due().is_some_and(|due| due <= now);
        let burst = self
            .burst
            .as_ref()
            .is_some_and(|times| times.elapsed() >= BURST);
        burst || due(&self.memory) || due(&self.processes) || Instant::now() >= self.next
    }

    /// Looks, and tells.
    pub(super) fn work(&mut self) {
        if Instant::now() >= self.next {
            self.next = Instant::now() + EVERY;
            self.look();
        }
        let now = self.now();
        if let Some(kills) = self.memory.take(now) {
            self.tell_kills(kills, top::by_memory(self.group));
        }
        if let Some(hits) = self.processes.take(now) {
            let resource = match self.tenant.refuses_forks(self.group) {
                true => "tenant processes",
                false => "processes",
            };
            self.tell(resource, hits, None, top::by_threads(self.group));
        }
        if let Some(times) = self.burst.take_if(|times| times.elapsed() >= BURST) {
            let held_back = [
                ("cpu", self.cpu.take(now), self.held_back),
                (
                    "tenant cpu",
                    self.tenant.cpu.take(now),
                    self.tenant.held_back,
                ),
            ];
            for (resource, hits, percent) in held_back {
                if let Some(hits) = hits {
                    let top = top::by_cpu(self.group, &times);
                    self.tell(resource, hits, Some(percent), top);
                }
            }
        }
        if let Some(hits) = self.tenant.processes.take(now) {
            self.tell("tenant processes", hits, None, top::by_threads(self.group));
        }
        if let Some(hits) = self.network.take(now) {
            self.tell("network", hits, None, Vec::new());
        }
        for (resource, disk) in [("disk", true), ("files", false)] {
            let room = if disk {
                &mut self.disk
            } else {
                &mut self.files
            };
            let percent = Some(room.percent);
            if room.pace.take(now).is_some() {
                self.tell(resource, 0, percent, top::by_written(self.group));
            }
        }
    }

    fn look(&mut self) {
        self.take_in();
        let now = self.group.throttling().ok().flatten();
        if let (Some(before), Some(now)) = (self.throttling, now) {
            let periods = now.periods.saturating_sub(before.periods);
            let held_back = now.throttled.saturating_sub(before.throttled);
            let percent = held_back.saturating_mul(100) / periods.max(1);
            // What `set` has changed since counts; a guest that was not held back is not asked about.
            let told_from = || super::keeper::told_from(self.manager, self.name);
            if periods >= FEW && percent > 0 && told_from().is_some_and(|from| percent >= from) {
                match self.tenant.is_limit(now.limit) {
                    true => self.tenant.hit_alone(held_back, percent),
                    false => {
                        self.held_back = percent;
                        self.cpu.hit(held_back);
                    }
                }
            }
        }
        self.throttling = now;
        let told_from = || super::keeper::told_from(self.manager, self.name);
        self.tenant.look(self.group, told_from);
        let at = self.now();
        let due = |pace: &Pace| pace.due().is_some_and(|due| due <= at);
        if self.burst.is_none() && (due(&self.cpu) || due(&self.tenant.cpu)) {
            self.burst = Some(top::cpu_times(self.group));
        }
        if self.looks.is_multiple_of(RARELY) {
            // A filesystem that cannot be asked now is asked again.
            let space = storage::space_in_use(&self.manager.layout, self.name);
            if let Ok(Some(space)) = space {
                self.disk
                    .look(space.size.saturating_sub(space.free), space.size);
                let used = space.files.saturating_sub(space.files_free);
                self.files.look(used, space.files);
            }
            self.look_at_network();
            // What cannot be told now is told by the next look.
            let _later = self.manager.look_at_pool(self.name);
        }
        self.looks = self.looks.wrapping_add(1);
    }

    fn look_at_network(&mut self) {
        let Ok(leased) = self.manager.all_leased(self.name) else {
            return;
        };
        let mut now = BTreeMap::new();
        for (network, lease) in &leased {
            // Ceilings that it is given from now on begin at nothing.
            let dropped = match network.holds_back() {
                true => network.beyond_ceilings(lease),
                false => Ok(Some(0)),
            };
            let Ok(dropped) = dropped else { return };
            now.extend(dropped.map(|dropped| (network.word().to_owned(), dropped)));
        }
        self.network.hit(newly(&self.dropped, &now));
        self.dropped = now;
    }

    /// The guest has ended: what is left to tell. Returns how many were killed for want of memory in
    /// all.
    pub(super) fn end(mut self) -> u64 {
        self.take_in();
        if let Some(kills) = self.memory.take_last() {
            self.tell_kills(kills, Vec::new());
        }
        if let Some(hits) = self.processes.take_last() {
            self.tell("processes", hits, None, Vec::new());
        }
        self.kills
    }

    fn tell_kills(&self, kills: u64, top: Vec<TopProcess>) {
        // An event that cannot be written must not end the keeper.
        let _lost = self
            .manager
            .record_inside_too(self.name, EventKind::OutOfMemory { kills, top });
    }

    fn tell(&self, resource: &str, hits: u64, percent: Option<u64>, top: Vec<TopProcess>) {
        let kind = EventKind::Limit {
            resource: resource.to_owned(),
            hits,
            percent,
            top,
        };
        let _lost = self.manager.record_inside_too(self.name, kind);
    }
}

/// How many more there are than before, on networks that were looked at before. Rules that were made
/// anew count from nothing.
fn newly(before: &BTreeMap<String, u64>, now: &BTreeMap<String, u64>) -> u64 {
    let more = |(word, now): (&String, &u64)| {
        let before = before.get(word)?;
        Some(now.checked_sub(*before).unwrap_or(*now))
    };
    now.iter().filter_map(more).sum()
}

impl Manager {
    /// Writes an event down that the guest itself can read too.
    pub(super) fn record_inside_too(&self, name: &GuestName, kind: EventKind) -> Result<()> {
        let inside = self.tell_inside(name, &kind);
        self.record(name, kind)?;
        inside
    }

    fn events_inside(&self, name: &GuestName) -> PathBuf {
        self.inside_folder(name).join(EVENTS_INSIDE.0)
    }

    /// Appends a line to the file that a running guest reads. One that sees the host's files has none.
    fn tell_inside(&self, name: &GuestName, kind: &EventKind) -> Result<()> {
        let path = self.events_inside(name);
        let failed = KernelError::io("write", path.display());
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let opened = std::fs::File::options()
            .read(true)
            .append(true)
            .custom_flags(i32::try_from(flags.bits()).unwrap_or(0))
            .open(&path);
        let mut file = match opened {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            opened => opened.map_err(failed)?,
        };
        let event = Event {
            time_ms: now_ms(),
            guest: name.to_string(),
            kind: kind.clone().without_host(),
        };
        let mut line = serde_json::to_vec(&event).unwrap_or_default();
        line.push(b'\n');
        let failed = KernelError::io("write", path.display());
        make_room(&mut file)
            .and_then(|()| file.write_all(&line))
            .map_err(failed)?;
        Ok(())
    }
}

/// Drops the older half of the lines of a file that has become large.
fn make_room(file: &mut std::fs::File) -> std::io::Result<()> {
    use std::io::{Read, Seek, SeekFrom};
    let length = file.metadata()?.len();
    if length < LARGEST {
        return Ok(());
    }
    let mut newer = Vec::new();
    file.seek(SeekFrom::Start(length / 2))?;
    file.take(LARGEST).read_to_end(&mut newer)?;
    let first = newer.iter().position(|byte| *byte == b'\n');
    let newer = first.map_or(&[][..], |at| &newer[at + 1..]);
    file.set_len(0)?;
    file.write_all(newer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_stays_full_is_told_once_and_again_when_it_was_roomy() {
        let mut room = Room::default();
        room.look(94, 100);
        assert_eq!(room.pace.due(), None);
        for used in [95, 99, 100, 93, 97] {
            room.look(used, 100);
        }
        assert_eq!(room.pace.take(0), Some(1));
        room.look(89, 100);
        room.look(96, 100);
        assert_eq!((room.pace.take(60_000), room.percent), (Some(1), 96));
        // One without a size is never full.
        room.look(5, 0);
        assert_eq!(room.percent, 0);
    }

    #[test]
    fn drops_of_all_interfaces_count_from_the_second_look_on() {
        let of = |all: &[(&str, u64)]| -> BTreeMap<String, u64> {
            all.iter()
                .map(|(word, n)| ((*word).to_owned(), *n))
                .collect()
        };
        let first = of(&[("bridge", 7), ("db", 2)]);
        assert_eq!(newly(&of(&[]), &first), 0);
        assert_eq!(
            newly(&first, &of(&[("bridge", 7), ("db", 5), ("lan", 9)])),
            3
        );
        assert_eq!(newly(&first, &of(&[("bridge", 1), ("db", 4)])), 3);
        assert_eq!(newly(&first, &of(&[("db", 2)])), 0);
    }

    #[test]
    fn a_file_of_events_keeps_whole_newer_lines() {
        let path = std::env::temp_dir().join(format!("bulkhead-events-{}", std::process::id()));
        let mut file = std::fs::File::options()
            .read(true)
            .append(true)
            .create(true)
            .open(&path)
            .unwrap();
        for number in 0..5000 {
            make_room(&mut file).unwrap();
            file.write_all(format!("line {number}\n").as_bytes())
                .unwrap();
        }
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(
            text.len() < 33 << 10 && text.len() > 15 << 10,
            "{}",
            text.len()
        );
        assert!(text.ends_with("line 4999\n"));
        let first: u32 = text.lines().next().unwrap()[5..].parse().unwrap();
        assert_eq!(text.lines().count(), usize::try_from(5000 - first).unwrap());
    }
}
