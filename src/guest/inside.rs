//! The guest's own files below /proc and /sys, kept up to date by its keeper. One of them is next door
//! in `inside_held`, for how long they are left alone in `inside_rest`, how they read in `inside_text`,
//! what they say at first in `inside_start`; the launch lays them over the kernel's
//! (`model::ShownFolder`).
//!
//! They are plain files. The keeper has the kernel hold whoever reads one, writes it anew and lets the
//! reader go on, and with it those that were asked for lately; then it leaves all these alone for a
//! while, so that readers in a loop cost it next to nothing. It never waits for the guest, and whatever fails, the reader goes on. When the keeper dies
//! the files stay as they are until there is another.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Mode, OFlags};

use super::inside_held::{Held, LATELY};
use super::inside_load::Load;
use super::inside_look::{KnownSizes, Look};
use super::inside_rest::Rest;
use super::inside_text::{self as text, CpuTimes, HostSize};
use super::manager::Manager;
use crate::kernel::Errno;
use crate::kernel::cgroup::{CpuUse, Group};
use crate::kernel::file;
use crate::kernel::read_watch::{ReadWatch, Reader};
use crate::model::{CpuSet, EVENTS_INSIDE, GuestName, InsideFile};

/// Largest description of a machine's CPUs.
const MOST_CPUINFO: u64 = 16 << 20;

/// The files of a running guest, kept by its keeper.
#[derive(Debug)]
pub(super) struct Inside {
    watch: ReadWatch,
    folder: OwnedFd,
    files: Vec<Held>,
    /// Whether readers of those that are not held singly are held.
    rest: Rest,
    numbers: Numbers,
    /// Whether the group's files stay open, as they do while somebody has asked lately.
    keeps: bool,
}

/// Where its numbers come from.
#[derive(Debug)]
struct Numbers {
    host_cpus: CpuSet,
    host_memory: u64,
    host_cpuinfo: PathBuf,
    times: CpuTimes,
    /// Of when they are, and what had been used then.
    counted: (Instant, CpuUse),
    load: Load,
    sizes: KnownSizes,
    /// Names of block devices, as long as somebody asks.
    disks: BTreeMap<(u32, u32), String>,
}

pub(super) fn host_size(memory: u64) -> HostSize {
    let now = rustix::system::sysinfo();
    HostSize {
        memory,
        // A C `unsigned long`, which is as wide as this on every machine this is for.
        swap: now.totalswap as u64 * u64::from(now.mem_unit),
    }
}

/// /proc/cpuinfo of these CPUs. Reading the kernel's asks every CPU, so there is a copy of it; one that
/// lacks a CPU is from before that came online, and is made anew.
pub(super) fn cpuinfo(copy: &Path, cpus: &[u32]) -> String {
    cpuinfo_of(Path::new("/proc/cpuinfo"), copy, cpus)
}

fn cpuinfo_of(kernels: &Path, copy: &Path, cpus: &[u32]) -> String {
    let kept = file::read_small(copy, MOST_CPUINFO).ok().flatten();
    let kept = kept.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let kept = kept.filter(|kept| text::describes(kept, cpus));
    let host = kept.unwrap_or_else(|| {
        let host = std::fs::read_to_string(kernels).unwrap_or_default();
        if !host.is_empty() {
            // Without the copy, the next one reads the kernel's again.
            let _slower = file::write_runtime(copy, host.as_bytes(), 0o600);
        }
        host
    });
    text::cpuinfo(&host, cpus)
}

/// The CPUs of the machine that are online now, or if it does not say, these.
pub(super) fn online(otherwise: &CpuSet) -> CpuSet {
    let list = std::fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    let list = list.trim().parse();
    list.unwrap_or_else(|_| otherwise.clone())
}

pub(super) fn cpu_list(cpus: &[u32]) -> String {
    let set: CpuSet = cpus.iter().copied().collect();
    format!("{set}\n")
}

impl Inside {
    /// Takes up the files of a running guest; `None` when it sees the host's, or when they cannot be
    /// had now: then they stay as they are until this is tried again.
    pub(super) fn open(manager: &Manager, name: &GuestName, group: &Group) -> Option<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = rustix::fs::open(manager.inside_folder(name), flags, Mode::empty()).ok()?;
        let owner = manager.run_state(name).ok()??.ids.owner();
        // The guest can use up what its owner may have; what root has is for those who do not.
        let watch = ReadWatch::of(owner).or_else(|_| ReadWatch::new()).ok()?;
        let told = group
            .size_files()
            .iter()
            .all(|size| watch.tell(size.as_fd()).is_ok());
        let now = Instant::now();
        let mut files = Vec::new();
        let (mut times, mut age) = (CpuTimes::default(), Duration::ZERO);
        for kind in InsideFile::ALL {
            let Some(held) = Held::open(folder.as_fd(), kind) else {
                // A guest that was started before there was such a file goes on without it.
                match rustix::fs::statat(&folder, kind.name(), AtFlags::SYMLINK_NOFOLLOW) {
                    Err(Errno::NOENT) => continue,
                    _ => return None,
                }
            };
            if kind == InsideFile::Stat {
                // Before anybody is held, us included.
                (times, age) = held.read_stat();
            }
            files.push(held);
        }
        watch.hold_all(folder.as_fd()).ok()?;
        // Of this one there is nothing to be written when somebody reads it.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let events = rustix::fs::openat(&folder, EVENTS_INSIDE.0, flags, Mode::empty());
        let _held_in_vain = events.is_ok_and(|events| watch.except(events.as_fd()).is_ok());
        let used = CpuUse {
            user: times.total.user,
            system: times.total.system,
        };
        Some(Self {
            watch,
            folder,
            files,
            rest: Rest::new(now),
            numbers: Numbers {
                host_cpus: manager.facts.cpus.clone(),
                host_memory: manager.facts.memory,
                host_cpuinfo: manager.cpuinfo_path(),
                times,
                counted: (now.checked_sub(age).unwrap_or(now), used),
                load: Load::default(),
                sizes: KnownSizes::told(told),
                disks: BTreeMap::new(),
            },
            keeps: false,
        })
    }

    /// What becomes readable when [`Inside::keep`] is to be told that somebody reads.
    pub(super) fn fds(&self) -> [BorrowedFd<'_>; 2] {
        self.watch.fds()
    }

    /// How long until [`Inside::tick`] has something to do; `None` for nothing.
    pub(super) fn pause(&self) -> Option<Duration> {
        let all = [self.rest.free_until(), self.numbers.load.due()];
        let now = Instant::now();
        let kept = self.keeps.then(|| self.kept_until(now));
        let next = all.into_iter().chain([kept]).flatten().min()?;
        Some(next.saturating_duration_since(now))
    }

    /// Until when the group's files stay open; where nobody has asked, until `now`.
    fn kept_until(&self, now: Instant) -> Instant {
        let asked = self.files.iter().filter_map(|held| held.asked).max();
        asked.map_or(now, |at| at + LATELY)
    }

    /// Does what there is to do: answers those who wait to read first. `called` is whether a command has
    /// been here, which may have changed what is told of no file that is watched: the CPUs of version 1,
    /// whose folder comes and goes. Says whether nobody has read lately, as somebody had before.
    pub(super) fn keep(&mut self, group: &Group, read: bool, called: bool) -> bool {
        if read {
            self.serve(group);
        }
        if called {
            (self.numbers).renew_free(&mut self.files, &self.rest, group);
        }
        let kept = self.keeps;
        self.tick(group);
        kept && !self.keeps
    }

    /// Answers those who wait to read.
    fn serve(&mut self, group: &Group) {
        let Ok(happened) = self.watch.waiting() else {
            return;
        };
        if happened.written {
            (self.numbers).renew_free(&mut self.files, &self.rest, group);
        }
        if happened.readers.is_empty() {
            return;
        }
        let pids: Vec<i32> = happened.readers.iter().map(Reader::pid).collect();
        let (now, look) = (Instant::now(), self.numbers.look(group));
        let mut asked = false;
        for reader in &happened.readers {
            let inode = reader.inode();
            // It was held when it began to wait, and may not be any more.
            let held = self.files.iter_mut().find(|held| Some(held.inode) == inode);
            let Some(held) = held.filter(|held| held.is_held(&self.rest)) else {
                continue;
            };
            asked = true;
            held.asked = Some(now);
            self.numbers.asked(held, &look, &pids);
            if held.single {
                // From now on it goes the way of the others.
                self.numbers.renew(held, &look);
                held.single = self.watch.let_be(held.file.as_fd()).is_err();
            }
        }
        if !asked {
            return;
        }
        if !std::mem::replace(&mut self.keeps, true) {
            group.keep_files(true);
        }
        if self.rest.free_until().is_none() {
            for held in self.files.iter_mut().filter(|held| !held.single) {
                // Who reads all of them in turn is held once; those that nobody asks for stay held.
                if !held.was_asked_lately(now) {
                    held.single = self.watch.hold(held.file.as_fd()).is_ok();
                }
                if !held.single {
                    self.numbers.renew(held, &look);
                }
            }
            if self.watch.let_all_be(self.folder.as_fd()).is_ok() {
                self.rest.begin(now);
            }
        }
        // They go on as they are dropped.
    }

    /// Nobody is held from now until the next [`Inside::tick`], however long that takes; what they read
    /// is from now.
    pub(super) fn let_all_be(&mut self, group: &Group) {
        self.serve(group);
        let (now, look) = (Instant::now(), self.numbers.look(group));
        for held in self
            .files
            .iter_mut()
            .filter(|held| held.is_held(&self.rest))
        {
            self.numbers.renew(held, &look);
            if held.single {
                held.single = self.watch.let_be(held.file.as_fd()).is_err();
            }
        }
        if self.watch.let_all_be(self.folder.as_fd()).is_ok() {
            self.rest.begin_until(now);
        }
        // Those who came before that.
        self.serve(group);
    }

    /// Holds readers again where the pause is over, and counts threads when it is time to.
    fn tick(&mut self, group: &Group) {
        let now = Instant::now();
        if self.rest.free_until().is_some_and(|until| until <= now) {
            let held = self.watch.hold_again(self.folder.as_fd()).is_ok();
            self.rest.end(now, held);
        }
        if self.numbers.load.due().is_some_and(|due| due <= now) {
            self.numbers.count_tasks(group, &[]);
        }
        if self.calms_down(now) {
            group.keep_files(false);
            self.numbers.disks.clear();
        }
    }

    /// Whether this is the moment from which on nobody has read lately.
    fn calms_down(&mut self, now: Instant) -> bool {
        let calm = self.keeps && self.kept_until(now) <= now;
        self.keeps &= !calm;
        calm
    }
}

impl Numbers {
    /// Somebody waits for a file: the load is counted from the first who asks for it on.
    fn asked(&mut self, held: &Held, look: &Look<'_>, readers: &[i32]) {
        if held.kind == InsideFile::Loadavg && self.load.ask(Instant::now()) {
            let _counted = self.count_time(look);
            self.load.begin(self.times.busy());
            self.count_tasks(look.group, readers);
        }
    }

    fn look<'a>(&mut self, group: &'a Group) -> Look<'a> {
        Look::at(group, &mut self.sizes, &self.host_cpus, self.host_memory)
    }

    /// The guest may have another size: whoever reads what is left alone now is to know it.
    fn renew_free(&mut self, files: &mut [Held], rest: &Rest, group: &Group) {
        self.sizes.forget();
        let look = self.look(group);
        for held in files.iter_mut().filter(|held| !held.is_held(rest)) {
            self.renew(held, &look);
        }
    }

    /// Writes a file anew. What cannot be read leaves it as it was.
    fn renew(&mut self, held: &mut Held, look: &Look<'_>) {
        if let Some(text) = self.text(held, look)
            && held.say(text)
            && held.shows_cpus()
        {
            held.cpus = look.cpus().to_vec();
        }
    }

    fn text(&mut self, held: &Held, look: &Look<'_>) -> Option<String> {
        let host = look.host();
        Some(match held.kind {
            InsideFile::Meminfo => text::meminfo(&look.memory()?, host),
            InsideFile::NodeMeminfo => text::node_meminfo(&look.memory()?, host),
            InsideFile::Swaps => text::swaps(&look.memory()?, host),
            InsideFile::Vmstat => {
                text::vmstat(&look.memory()?, look.disks().unwrap_or_default(), host)
            }
            InsideFile::Diskstats => {
                let disks = look.disks()?;
                for disk in disks {
                    let name = || block_device_name(disk.device);
                    self.disks.entry(disk.device).or_insert_with(name);
                }
                text::diskstats(disks, &self.disks)
            }
            // While nobody asks it is not known: then it stays.
            InsideFile::Loadavg => {
                self.load.due()?;
                let tasks = self.load.tasks();
                text::loadavg(self.load.average(), tasks.running, look.threads())
            }
            InsideFile::Stat => self.stat(look)?,
            InsideFile::Cpuinfo | InsideFile::CpuOnline | InsideFile::CpuPresent => {
                let cpus = look.cpus();
                if held.cpus == cpus {
                    return None;
                }
                let text = match held.kind {
                    InsideFile::Cpuinfo => cpuinfo(&self.host_cpuinfo, cpus),
                    _ => cpu_list(cpus),
                };
                return Some(text).filter(|text| !text.is_empty());
            }
        })
    }

    fn stat(&mut self, look: &Look<'_>) -> Option<String> {
        self.count_time(look)?;
        self.times.forks = self.times.forks.max(look.threads());
        let tasks = self.load.tasks();
        Some(text::stat(&self.times, tasks.running, tasks.blocked))
    }

    /// CPU time up to now.
    fn count_time(&mut self, look: &Look<'_>) -> Option<()> {
        let (now, used) = (Instant::now(), look.cpu()?);
        let (then, before) = self.counted;
        let passed = u64::try_from(now.duration_since(then).as_micros()).unwrap_or(0);
        self.times.advance(
            used.user.saturating_sub(before.user),
            used.system.saturating_sub(before.system),
            passed,
            look.cpus(),
        );
        self.counted = (now, used);
        Some(())
    }

    fn count_tasks(&mut self, group: &Group, without: &[i32]) {
        let began = Instant::now();
        let tasks = group.tasks(without).unwrap_or_default();
        self.load.count(tasks, began, began.elapsed());
    }
}

/// As the host calls it.
fn block_device_name((major, minor): (u32, u32)) -> String {
    let link = std::fs::read_link(format!("/sys/dev/block/{major}:{minor}")).unwrap_or_default();
    let name = link.file_name().unwrap_or_default().to_string_lossy();
    if name.is_empty() {
        format!("dev{major}-{minor}")
    } else {
        name.into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_for_nobody_is_kept_no_longer() {
        let Ok(watch) = ReadWatch::new() else { return };
        let now = Instant::now();
        let folder = rustix::fs::open("/", OFlags::PATH, Mode::empty()).unwrap();
        let mut inside = Inside {
            watch,
            folder,
            files: Vec::new(),
            rest: Rest::new(now),
            numbers: Numbers {
                host_cpus: [0].into_iter().collect(),
                host_memory: 0,
                host_cpuinfo: PathBuf::new(),
                times: CpuTimes::default(),
                counted: (now, CpuUse::default()),
                load: Load::default(),
                sizes: KnownSizes::told(true),
                disks: BTreeMap::new(),
            },
            keeps: true,
        };
        assert_eq!(inside.pause(), Some(Duration::ZERO));
        assert!(inside.calms_down(now));
        assert_eq!(inside.pause(), None);
        assert!(!inside.calms_down(now));
    }

    #[test]
    fn the_copy_of_cpuinfo_is_made_anew_when_it_lacks_a_cpu_and_is_never_empty() {
        let folder = std::env::temp_dir().join(format!("bulkhead-cpuinfo-{}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        let (kernels, copy) = (folder.join("kernels"), folder.join("copy"));
        let block = |n: u32, mhz: u32| format!("processor\t: {n}\ncpu MHz\t\t: {mhz}\n\n");
        let of = |cpus: &[u32]| cpuinfo_of(&kernels, &copy, cpus);
        assert_eq!(of(&[0]), "");
        assert!(!copy.exists());
        std::fs::write(&copy, "").unwrap();
        std::fs::write(&kernels, block(0, 1)).unwrap();
        assert_eq!(of(&[0]), block(0, 1));
        assert_eq!(std::fs::read_to_string(&copy).unwrap(), block(0, 1));
        // The copy will do, until a CPU is wanted that it does not have.
        std::fs::write(&kernels, block(0, 2) + &block(1, 2)).unwrap();
        assert_eq!(of(&[0]), block(0, 1));
        assert_eq!(of(&[0, 1]), block(0, 2) + &block(1, 2));
        assert_eq!(of(&[0]), block(0, 2));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
