//! What a group uses as its inhabitants know it from /proc: memory by kind, CPU time by mode, disks
//! by device, threads by state. Which CPUs it has is next door in `inside_cpus`, sums for people outside
//! are in `stats`.

use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::counters::{NO_LIMIT, value};
use super::dir::{Dir, keyed};
use super::quiet::read_pids;
use super::{CgroupError, Controller, Group, Result, Version, walk};
use crate::kernel::process;

/// Memory of a group, bytes unless it says otherwise; 0 for what this host does not count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // as memory.stat of version 2 calls them (cgroup-v2 of the kernel's documentation)
pub struct MemoryUse {
    /// Most; `None` for no limit.
    pub limit: Option<u64>,
    /// Charged now.
    pub held: u64,
    /// Most swap beyond memory; `None` for no limit.
    pub swap_limit: Option<u64>,
    /// Swap now.
    pub swap: u64,
    pub anon: u64,
    pub file: u64,
    pub shmem: u64,
    pub file_mapped: u64,
    pub file_dirty: u64,
    pub file_writeback: u64,
    pub anon_thp: u64,
    pub swapcached: u64,
    pub inactive_anon: u64,
    pub active_anon: u64,
    pub inactive_file: u64,
    pub active_file: u64,
    pub unevictable: u64,
    pub slab_reclaimable: u64,
    pub slab_unreclaimable: u64,
    pub kernel_stack: u64,
    pub pagetables: u64,
    /// Faults, a count.
    pub pgfault: u64,
    /// Those that waited for a disk, a count.
    pub pgmajfault: u64,
}

/// How much memory a group may use, bytes; `None` for no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryLimits {
    /// Most.
    pub memory: Option<u64>,
    /// Most swap beyond it.
    pub swap: Option<u64>,
}

/// CPU time of a group, microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuUse {
    /// In programs.
    pub user: u64,
    /// In the kernel.
    pub system: u64,
}

/// What a group has read and written of one device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskUse {
    /// Major and minor number.
    pub device: (u32, u32),
    /// Reads.
    pub reads: u64,
    /// Bytes of them.
    pub read_bytes: u64,
    /// Writes.
    pub writes: u64,
    /// Bytes of them.
    pub written_bytes: u64,
}

/// Threads of a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tasks {
    /// All.
    pub all: u64,
    /// On a CPU or waiting for one.
    pub running: u64,
    /// Waiting for something that no signal interrupts, most often a disk.
    pub blocked: u64,
}

impl Group {
    /// Whether the files that tell of it stay open once they are read, from now on.
    pub fn keep_files(&self, keep: bool) {
        let of_v1 = self.v1.iter().map(|place| &place.dir);
        for dir in of_v1.chain(&self.v2).chain(&self.shared) {
            dir.keep_files(keep);
        }
    }

    /// The files that say how large it is, open: whoever is told that one was written looks again. Those
    /// that cannot be had are left out.
    #[must_use]
    pub fn size_files(&self) -> Vec<OwnedFd> {
        let of = |controller, v1: &[&str], v2: &[&str]| match self.home(controller) {
            Ok((dir, Version::V1)) => open_all(dir, v1),
            Ok((dir, Version::V2)) => open_all(dir, v2),
            Err(_) => Vec::new(),
        };
        let memory = ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"];
        let mut all = of(
            Controller::Memory,
            &memory,
            &["memory.max", "memory.swap.max"],
        );
        all.extend(of(Controller::Cpu, &["cpu.cfs_quota_us"], &["cpu.max"]));
        let cpus = ["cpuset.cpus"];
        all.extend(of(Controller::Cpuset, &cpus, &cpus));
        all.extend(self.shared.iter().flat_map(|dir| open_all(dir, &cpus)));
        all
    }

    /// Its memory.
    ///
    /// # Errors
    /// When a file that is there cannot be read.
    pub fn memory_use(&self) -> Result<MemoryUse> {
        self.memory_use_of(self.memory_limits()?)
    }

    /// How much memory it may use.
    ///
    /// # Errors
    /// When a file that is there cannot be read.
    pub fn memory_limits(&self) -> Result<MemoryLimits> {
        let Ok((dir, version)) = self.home(Controller::Memory) else {
            return Ok(MemoryLimits::default());
        };
        if version == Version::V2 {
            let (memory, swap) = (value(dir, "memory.max")?, value(dir, "memory.swap.max")?);
            return Ok(MemoryLimits { memory, swap });
        }
        let bytes = |file| value(dir, file);
        let limit = bytes("memory.limit_in_bytes")?;
        let both = match self.swap {
            true => bytes("memory.memsw.limit_in_bytes")?.filter(|bytes| *bytes < NO_LIMIT),
            false => None,
        };
        Ok(MemoryLimits {
            memory: limit.filter(|bytes| *bytes < NO_LIMIT),
            swap: both.zip(limit).map(|(both, own)| both.saturating_sub(own)),
        })
    }

    /// Its memory, where the limits are known.
    ///
    /// # Errors
    /// When a file that is there cannot be read.
    pub fn memory_use_of(&self, limits: MemoryLimits) -> Result<MemoryUse> {
        let used = match self.home(Controller::Memory) {
            Ok((dir, Version::V1)) => memory_v1(dir, self.swap)?,
            Ok((dir, Version::V2)) => memory_v2(dir)?,
            Err(_) => return Ok(MemoryUse::default()),
        };
        Ok(MemoryUse {
            limit: limits.memory,
            swap_limit: limits.swap,
            ..used
        })
    }

    /// Its CPU time.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn cpu_use(&self) -> Result<CpuUse> {
        let stat = self.v2_dir()?.read("cpu.stat")?;
        Ok(CpuUse {
            user: keyed(&stat, "user_usec").unwrap_or(0),
            system: keyed(&stat, "system_usec").unwrap_or(0),
        })
    }

    /// Its disks.
    ///
    /// # Errors
    /// When a file that is there cannot be read.
    pub fn disk_use(&self) -> Result<Vec<DiskUse>> {
        Ok(match self.home(Controller::Io) {
            Ok((dir, Version::V1)) => {
                let read = |file| dir.try_read(file).map(Option::unwrap_or_default);
                disks_v1(
                    &read("blkio.throttle.io_service_bytes_recursive")?,
                    &read("blkio.throttle.io_serviced_recursive")?,
                )
            }
            Ok((dir, Version::V2)) => disks_v2(&dir.try_read("io.stat")?.unwrap_or_default()),
            Err(_) => Vec::new(),
        })
    }

    /// How many threads it has.
    ///
    /// # Errors
    /// When the file is there and cannot be read.
    pub fn threads(&self) -> Result<u64> {
        Ok(match self.home(Controller::Pids) {
            Ok((dir, _)) => value(dir, "pids.current")?.unwrap_or(0),
            Err(_) => 0,
        })
    }

    /// Its threads by state, without those of these processes. Each is asked for, so this takes time
    /// with their number.
    ///
    /// # Errors
    /// When the threads cannot be listed.
    pub fn tasks(&self, without: &[i32]) -> Result<Tasks> {
        let dir = self.v2_dir()?;
        let mut threads = Vec::new();
        walk::each_group(dir, |group| {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            let file = rustix::fs::openat(group, c"cgroup.threads", flags, Mode::empty())?;
            match read_pids(&file, &mut threads) {
                Err(Errno::OPNOTSUPP) => Ok(()),
                other => other,
            }
        })
        .map_err(|e| CgroupError::file("read the threads of", dir.path(), e))?;
        let mut tasks = Tasks {
            all: threads.len() as u64,
            ..Tasks::default()
        };
        for thread in threads {
            match process::thread_state(thread) {
                _ if without.contains(&thread) => {}
                Some('R') => tasks.running += 1,
                Some('D') => tasks.blocked += 1,
                _ => {}
            }
        }
        Ok(tasks)
    }
}

fn open_all(dir: &Dir, names: &[&str]) -> Vec<OwnedFd> {
    let files = names.iter().map(|name| dir.file(name, OFlags::RDONLY));
    files.filter_map(std::result::Result::ok).collect()
}

/// Without the limits.
fn memory_v1(dir: &Dir, swap: bool) -> Result<MemoryUse> {
    let bytes = |file| value(dir, file);
    let held = bytes("memory.usage_in_bytes")?.unwrap_or(0);
    let mut all = MemoryUse {
        held,
        // Slabs, stacks and page tables are one number here, and most of it slabs in use.
        slab_unreclaimable: bytes("memory.kmem.usage_in_bytes")?.unwrap_or(0),
        ..MemoryUse::default()
    };
    let stat = dir.try_read("memory.stat")?.unwrap_or_default();
    each_key(&stat, |key, n| {
        *match key {
            "total_rss" => &mut all.anon,
            "total_cache" => &mut all.file,
            "total_shmem" => &mut all.shmem,
            "total_mapped_file" => &mut all.file_mapped,
            "total_dirty" => &mut all.file_dirty,
            "total_writeback" => &mut all.file_writeback,
            "total_rss_huge" => &mut all.anon_thp,
            "total_inactive_anon" => &mut all.inactive_anon,
            "total_active_anon" => &mut all.active_anon,
            "total_inactive_file" => &mut all.inactive_file,
            "total_active_file" => &mut all.active_file,
            "total_unevictable" => &mut all.unevictable,
            "total_pgfault" => &mut all.pgfault,
            "total_pgmajfault" => &mut all.pgmajfault,
            _ => return,
        } = n;
    });
    if swap {
        // Read one after the other, so the sum may have become smaller than its part.
        let both = bytes("memory.memsw.usage_in_bytes")?;
        all.swap = both.unwrap_or(0).saturating_sub(held);
    }
    Ok(all)
}

/// Without the limits.
fn memory_v2(dir: &Dir) -> Result<MemoryUse> {
    let mut all = MemoryUse {
        held: value(dir, "memory.current")?.unwrap_or(0),
        swap: value(dir, "memory.swap.current")?.unwrap_or(0),
        ..MemoryUse::default()
    };
    let stat = dir.try_read("memory.stat")?.unwrap_or_default();
    each_key(&stat, |key, n| {
        *match key {
            "anon" => &mut all.anon,
            "file" => &mut all.file,
            "shmem" => &mut all.shmem,
            "file_mapped" => &mut all.file_mapped,
            "file_dirty" => &mut all.file_dirty,
            "file_writeback" => &mut all.file_writeback,
            "anon_thp" => &mut all.anon_thp,
            "swapcached" => &mut all.swapcached,
            "inactive_anon" => &mut all.inactive_anon,
            "active_anon" => &mut all.active_anon,
            "inactive_file" => &mut all.inactive_file,
            "active_file" => &mut all.active_file,
            "unevictable" => &mut all.unevictable,
            "slab_reclaimable" => &mut all.slab_reclaimable,
            "slab_unreclaimable" => &mut all.slab_unreclaimable,
            "kernel_stack" => &mut all.kernel_stack,
            "pagetables" => &mut all.pagetables,
            "pgfault" => &mut all.pgfault,
            "pgmajfault" => &mut all.pgmajfault,
            _ => return,
        } = n;
    });
    Ok(all)
}

/// Each line `key number` of a file that is read often: once through it.
fn each_key(text: &str, mut take: impl FnMut(&str, u64)) {
    for line in text.lines() {
        if let Some((key, n)) = line.split_once(' ')
            && let Ok(n) = n.parse()
        {
            take(key, n);
        }
    }
}

fn numbers(device: &str) -> Option<(u32, u32)> {
    let (major, minor) = device.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn of_device(all: &mut Vec<DiskUse>, device: (u32, u32)) -> &mut DiskUse {
    let at = all.iter().position(|disk| disk.device == device);
    let at = at.unwrap_or_else(|| {
        let device = DiskUse {
            device,
            ..DiskUse::default()
        };
        all.push(device);
        all.len() - 1
    });
    &mut all[at]
}

/// From lines `8:0 Read 4096` of two files: bytes, and how often.
fn disks_v1(bytes: &str, times: &str) -> Vec<DiskUse> {
    let mut all = Vec::new();
    for (text, counts) in [(bytes, false), (times, true)] {
        for line in text.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let [device, kind, n] = words[..] else {
                continue;
            };
            let (Some(device), Ok(n)) = (numbers(device), n.parse()) else {
                continue;
            };
            let disk = of_device(&mut all, device);
            match (kind, counts) {
                ("Read", false) => disk.read_bytes = n,
                ("Write", false) => disk.written_bytes = n,
                ("Read", true) => disk.reads = n,
                ("Write", true) => disk.writes = n,
                _ => {}
            }
        }
    }
    all
}

/// From lines `8:0 rbytes=4096 wbytes=0 rios=1 …`. Some kernels do not end the line of a device of which
/// they have nothing to say, so what follows is of the device named last.
fn disks_v2(text: &str) -> Vec<DiskUse> {
    let mut all = Vec::new();
    for line in text.lines() {
        let mut of = None;
        for word in line.split_whitespace() {
            of = numbers(word).or(of);
            let (Some(device), Some((key, n))) = (of, word.split_once('=')) else {
                continue;
            };
            let disk = of_device(&mut all, device);
            let n = n.parse().unwrap_or(0);
            match key {
                "rbytes" => disk.read_bytes = n,
                "wbytes" => disk.written_bytes = n,
                "rios" => disk.reads = n,
                "wios" => disk.writes = n,
                _ => {}
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_of_both_versions() {
        let bytes =
            "254:0 Read 4096\n254:0 Write 512\n254:0 Sync 9\n254:0 Total 4608\nTotal 4608\n";
        let times = "254:0 Read 1\n254:0 Write 2\nTotal 3\n";
        let disk = DiskUse {
            device: (254, 0),
            reads: 1,
            read_bytes: 4096,
            writes: 2,
            written_bytes: 512,
        };
        assert_eq!(disks_v1(bytes, times), [disk]);
        let v2 = "254:0 rbytes=4096 wbytes=512 rios=1 wios=2 dbytes=0 dios=0\n8:0\n";
        assert_eq!(disks_v2(v2), [disk]);
        assert_eq!(disks_v2(&format!("8:0 7:1 {v2}")), [disk]);
        assert_eq!(disks_v2(""), []);
        assert_eq!(disks_v2("nothing=1\n"), []);
    }
}
