//! The files that a guest sees in place of the kernel's, as text. Numbers in, text out; where the
//! numbers come from is next door in `inside`.
//!
//! A reader may take a file in parts while it is written anew between them, so each line keeps its
//! place: it is filled up with blanks, and nothing of one line is ever read as another's.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::kernel::cgroup::{DiskUse, MemoryUse};

/// Clock ticks a second in /proc (USER_HZ), and microseconds of one.
const TICK_US: u64 = 10_000;

/// What the machine itself has, bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct HostSize {
    pub(super) memory: u64,
    pub(super) swap: u64,
}

/// Most swap a guest can have here, and how much of it is in use.
fn swap(memory: &MemoryUse, host: HostSize) -> (u64, u64) {
    let total = memory.swap_limit.unwrap_or(host.swap).min(host.swap);
    (total, memory.swap.min(total))
}

/// The meminfo of the machine's first node, of those of its lines that one has: all memory is there.
pub(super) fn node_meminfo(memory: &MemoryUse, host: HostSize) -> String {
    const NOT_OF_A_NODE: [&str; 8] = [
        "MemAvailable",
        "Buffers",
        "Cached",
        "SwapTotal",
        "SwapFree",
        "CommitLimit",
        "Committed_AS",
        "SwapCached",
    ];
    let whole = meminfo(memory, host);
    let mut text = String::with_capacity(whole.len() * 2);
    let number = |name: &str| -> u64 {
        let mut words = whole.lines().map(str::split_whitespace);
        let line =
            words.find_map(|mut words| (words.next()?.strip_suffix(':')? == name).then_some(words));
        line.and_then(|mut words| words.next()?.parse().ok())
            .unwrap_or(0)
    };
    for line in whole.lines() {
        let name = line.split(':').next().unwrap_or_default();
        if !NOT_OF_A_NODE.contains(&name) {
            let _written = writeln!(text, "Node 0 {line}");
        }
        if name == "MemFree" {
            let used = number("MemTotal").saturating_sub(number("MemFree"));
            let _written = writeln!(text, "Node 0 MemUsed: {used:>15} kB");
        }
        if name == "Cached" {
            let _written = writeln!(text, "Node 0 FilePages: {:>13} kB", number("Cached"));
        }
    }
    text
}

/// /proc/meminfo.
pub(super) fn meminfo(memory: &MemoryUse, host: HostSize) -> String {
    let total = memory.limit.unwrap_or(host.memory).min(host.memory);
    // The kernel counts the one and the others at different moments, and programs subtract: what is not
    // free is never less than what it consists of.
    let parts = memory.anon + memory.file + memory.slab_reclaimable;
    let free = total.saturating_sub(memory.held.max(parts));
    let files = memory.active_file + memory.inactive_file;
    let available = (free + files + memory.slab_reclaimable).min(total);
    let (swap_total, swap_used) = swap(memory, host);
    let slab = memory.slab_reclaimable + memory.slab_unreclaimable;
    let lines = [
        ("MemTotal", total),
        ("MemFree", free),
        ("MemAvailable", available),
        ("Buffers", 0),
        ("Cached", memory.file),
        ("SwapCached", memory.swapcached),
        ("Active", memory.active_anon + memory.active_file),
        ("Inactive", memory.inactive_anon + memory.inactive_file),
        ("Active(anon)", memory.active_anon),
        ("Inactive(anon)", memory.inactive_anon),
        ("Active(file)", memory.active_file),
        ("Inactive(file)", memory.inactive_file),
        ("Unevictable", memory.unevictable),
        ("Mlocked", 0),
        ("SwapTotal", swap_total),
        ("SwapFree", swap_total - swap_used),
        ("Dirty", memory.file_dirty),
        ("Writeback", memory.file_writeback),
        ("AnonPages", memory.anon),
        ("Mapped", memory.file_mapped),
        ("Shmem", memory.shmem),
        ("KReclaimable", memory.slab_reclaimable),
        ("Slab", slab),
        ("SReclaimable", memory.slab_reclaimable),
        ("SUnreclaim", memory.slab_unreclaimable),
        ("KernelStack", memory.kernel_stack),
        ("PageTables", memory.pagetables),
        ("CommitLimit", total + swap_total),
        ("Committed_AS", memory.anon + memory.shmem + memory.swap),
        ("AnonHugePages", memory.anon_thp),
    ];
    let mut text = String::with_capacity(1 << 10);
    for (name, bytes) in lines {
        // As the kernel does: a name and its colon, the number below the others'.
        let name = format!("{name}:");
        let _written = writeln!(text, "{name:<16}{:>8} kB", bytes / 1024);
    }
    for name in ["HugePages_Total", "HugePages_Free"] {
        let _written = writeln!(text, "{name}:       0");
    }
    text
}

/// CPU time in three modes, microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Times {
    pub(super) user: u64,
    pub(super) system: u64,
    pub(super) idle: u64,
}

impl Times {
    fn ticks(self) -> [u64; 3] {
        [self.user, self.system, self.idle].map(|us| us / TICK_US)
    }

    /// Of a line that begins with the name of this CPU.
    fn read(line: &str) -> Option<(&str, Self)> {
        let mut words = line.split_whitespace();
        let name = words.next()?.strip_prefix("cpu")?;
        let ticks: Vec<u64> = words.take(4).filter_map(|word| word.parse().ok()).collect();
        let [user, _nice, system, idle] = ticks.try_into().ok()?;
        let times = Self {
            user: user * TICK_US,
            system: system * TICK_US,
            idle: idle * TICK_US,
        };
        Some((name, times))
    }
}

/// What /proc/stat tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct CpuTimes {
    /// All CPUs.
    pub(super) total: Times,
    /// Each, by its number.
    pub(super) each: Vec<(u32, Times)>,
    /// Seconds since 1970 at its start.
    pub(super) began: u64,
    /// Processes made since; at least.
    pub(super) forks: u64,
}

/// /proc/stat. What is not counted for a guest is 0.
pub(super) fn stat(times: &CpuTimes, running: u64, blocked: u64) -> String {
    let mut text = String::with_capacity(1 << 10);
    let mut cpu = |name: &str, times: Times| {
        let [user, system, idle] = times.ticks();
        let line = format!("{name} {user} 0 {system} {idle} 0 0 0 0 0 0");
        let _written = writeln!(text, "{line:<72}");
    };
    // The name of the sum is followed by two blanks in the kernel's file.
    cpu("cpu ", times.total);
    for (number, times) in &times.each {
        cpu(&format!("cpu{number}"), *times);
    }
    let rest = [
        ("intr", 0),
        ("ctxt", 0),
        ("btime", times.began),
        ("processes", times.forks),
        ("procs_running", running.max(1)),
        ("procs_blocked", blocked),
        ("softirq", 0),
    ];
    for (name, number) in rest {
        let line = format!("{name} {number}");
        let _written = writeln!(text, "{line:<31}");
    }
    text
}

/// What a file of ours says that was written before; nothing of one that is not whole.
pub(super) fn read_stat(text: &str) -> CpuTimes {
    let mut times = CpuTimes::default();
    for line in text.lines() {
        match Times::read(line) {
            Some(("", total)) => times.total = total,
            Some((number, one)) => times
                .each
                .extend(number.parse().ok().map(|number| (number, one))),
            None => {}
        }
        let number = |name: &str| line.strip_prefix(name)?.trim().parse().ok();
        times.began = number("btime ").unwrap_or(times.began);
        times.forks = number("processes ").unwrap_or(times.forks);
    }
    times
}

impl CpuTimes {
    /// How many CPUs were busy, on average since the start.
    pub(super) fn busy(&self) -> f64 {
        let used = self.total.user + self.total.system;
        let all = (used + self.total.idle).max(1);
        used as f64 / all as f64 * self.each.len() as f64
    }

    /// Goes on: this much more was used in this much time, on these CPUs. Nothing ever becomes less,
    /// for whoever reads it takes differences.
    pub(super) fn advance(&mut self, user: u64, system: u64, passed: u64, cpus: &[u32]) {
        self.each.retain(|(number, _)| cpus.contains(number));
        for number in cpus {
            if !self.each.iter().any(|(there, _)| there == number) {
                self.each.push((*number, Times::default()));
            }
        }
        self.each.sort_unstable_by_key(|(number, _)| *number);
        let count = cpus.len() as u64;
        let idle = (passed * count).saturating_sub(user + system);
        self.total.user += user;
        self.total.system += system;
        self.total.idle += idle;
        // The kernel keeps no account of which CPU a group ran on: each has the same share.
        for (place, (_, times)) in (0..).zip(&mut self.each) {
            let share = |all: u64| (all + place) / count;
            times.user += share(user);
            times.system += share(system);
            times.idle += share(idle);
        }
    }
}

/// /proc/loadavg. Process numbers are given inside, where nobody of ours looks: the last is 0.
pub(super) fn loadavg(average: [f64; 3], running: u64, threads: u64) -> String {
    let [one, five, fifteen] = average;
    let running = running.max(1);
    let all = threads.max(running);
    let line = format!("{one:.2} {five:.2} {fifteen:.2} {running}/{all} 0");
    format!("{line:<39}\n")
}

/// /proc/swaps: one area that is nowhere, if there is any.
pub(super) fn swaps(memory: &MemoryUse, host: HostSize) -> String {
    let (total, used) = swap(memory, host);
    let mut text = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n".to_owned();
    if total > 0 {
        let (total, used) = (total / 1024, used / 1024);
        let _written = writeln!(
            text,
            "{:<40}partition\t{total:<12}\t{used:<12}\t0",
            "/dev/none"
        );
    }
    text
}

/// /proc/diskstats: how often and how many sectors, by device.
pub(super) fn diskstats(disks: &[DiskUse], names: &BTreeMap<(u32, u32), String>) -> String {
    let mut text = String::new();
    for disk in disks {
        let (major, minor) = disk.device;
        let name = names.get(&disk.device).map_or("", String::as_str);
        let (read, written) = (disk.read_bytes / 512, disk.written_bytes / 512);
        let (reads, writes) = (disk.reads, disk.writes);
        let line = format!(
            "{major:4} {minor:7} {name} {reads} 0 {read} 0 {writes} 0 {written} 0 0 0 0 0 0 0 0 0 0"
        );
        let _written = writeln!(text, "{line:<103}");
    }
    text
}

/// Bytes of a page, by which the kernel counts here.
const PAGE: u64 = 4096;

/// /proc/vmstat: those of its counters that are kept for a guest.
pub(super) fn vmstat(memory: &MemoryUse, disks: &[DiskUse], host: HostSize) -> String {
    let total = memory.limit.unwrap_or(host.memory).min(host.memory);
    let pages = |bytes: u64| bytes / PAGE;
    let sum = |of: fn(&DiskUse) -> u64| disks.iter().map(of).sum::<u64>() / 1024;
    let lines = [
        ("nr_free_pages", pages(total.saturating_sub(memory.held))),
        ("nr_inactive_anon", pages(memory.inactive_anon)),
        ("nr_active_anon", pages(memory.active_anon)),
        ("nr_inactive_file", pages(memory.inactive_file)),
        ("nr_active_file", pages(memory.active_file)),
        ("nr_unevictable", pages(memory.unevictable)),
        ("nr_anon_pages", pages(memory.anon)),
        ("nr_mapped", pages(memory.file_mapped)),
        ("nr_file_pages", pages(memory.file)),
        ("nr_dirty", pages(memory.file_dirty)),
        ("nr_writeback", pages(memory.file_writeback)),
        ("nr_shmem", pages(memory.shmem)),
        ("nr_slab_reclaimable", pages(memory.slab_reclaimable)),
        ("nr_slab_unreclaimable", pages(memory.slab_unreclaimable)),
        ("pgpgin", sum(|disk| disk.read_bytes)),
        ("pgpgout", sum(|disk| disk.written_bytes)),
        ("pswpin", 0),
        ("pswpout", 0),
        ("pgfault", memory.pgfault),
        ("pgmajfault", memory.pgmajfault),
    ];
    let mut text = String::with_capacity(1 << 10);
    for (name, number) in lines {
        let line = format!("{name} {number}");
        let _written = writeln!(text, "{line:<39}");
    }
    text
}

/// /proc/cpuinfo of these CPUs, out of the host's: what a CPU is like is the same inside.
pub(super) fn cpuinfo(host: &str, cpus: &[u32]) -> String {
    let mut text = String::new();
    for block in host.split_inclusive("\n\n") {
        // What some machines say at the end is of no CPU, and of all.
        if cpu_of(block).is_none_or(|number| cpus.contains(&number)) {
            text.push_str(block);
        }
    }
    text
}

/// Whether there is something about each of these CPUs.
pub(super) fn describes(host: &str, cpus: &[u32]) -> bool {
    let there: Vec<u32> = host.split("\n\n").filter_map(cpu_of).collect();
    cpus.iter().all(|cpu| there.contains(cpu))
}

/// The CPU that a block of /proc/cpuinfo is about.
fn cpu_of(block: &str) -> Option<u32> {
    let line = block.lines().find(|line| line.starts_with("processor"))?;
    line.rsplit(':').next()?.trim().parse().ok()
}

/// The CPUs that a guest sees: of those it may run on, as many as it has been sold, whole ones.
pub(super) fn cpus(allowed: impl Iterator<Item = u32>, limit: Option<u64>) -> Vec<u32> {
    let most = limit.map_or(usize::MAX, |hundredths| {
        usize::try_from(hundredths.div_ceil(100).max(1)).unwrap_or(usize::MAX)
    });
    allowed.take(most).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    const HOST: HostSize = HostSize {
        memory: 64 << 30,
        swap: 100 * MIB,
    };

    fn memory() -> MemoryUse {
        MemoryUse {
            limit: Some(512 * MIB),
            held: 112 * MIB,
            swap_limit: Some(20 * MIB),
            swap: 5 * MIB,
            anon: 60 * MIB,
            file: 40 * MIB,
            active_file: 30 * MIB,
            inactive_file: 10 * MIB,
            ..MemoryUse::default()
        }
    }

    #[test]
    fn meminfo_is_what_was_sold_less_what_is_used() {
        let text = meminfo(&memory(), HOST);
        let begin = "MemTotal:         524288 kB\n\
                     MemFree:          409600 kB\n\
                     MemAvailable:     450560 kB\n\
                     Buffers:               0 kB\n\
                     Cached:            40960 kB\n";
        assert!(text.starts_with(begin), "{text}");
        assert!(text.contains("SwapTotal:         20480 kB\nSwapFree:          15360 kB\n"));
        let all = meminfo(&MemoryUse::default(), HOST);
        assert!(all.starts_with("MemTotal:       67108864 kB\n"), "{all}");
        assert!(all.contains("SwapTotal:        102400 kB\n"), "{all}");
    }

    #[test]
    fn a_node_has_all_memory() {
        let text = node_meminfo(&memory(), HOST);
        let begin = "Node 0 MemTotal:         524288 kB\n\
                     Node 0 MemFree:          409600 kB\n\
                     Node 0 MemUsed:          114688 kB\n\
                     Node 0 FilePages:         40960 kB\n";
        assert!(text.starts_with(begin), "{text}");
        assert!(text.lines().all(|line| line.starts_with("Node 0 ")));
        assert!(!text.contains("Swap") && !text.contains("Available"));
        let places =
            |text: &str| -> Vec<usize> { text.match_indices('\n').map(|(at, _)| at).collect() };
        assert_eq!(
            places(&node_meminfo(&MemoryUse::default(), HOST)),
            places(&text)
        );
    }

    #[test]
    fn a_guest_that_holds_more_than_it_may_has_nothing_free() {
        let over = MemoryUse {
            held: 600 * MIB,
            ..memory()
        };
        assert!(meminfo(&over, HOST).contains("MemFree:               0 kB\n"));
        let behind = MemoryUse {
            held: 4096,
            anon: 8 * MIB,
            file: 16 * MIB,
            slab_reclaimable: 8 * MIB,
            ..memory()
        };
        let text = meminfo(&behind, HOST);
        assert!(text.contains("MemFree:          491520 kB\n"), "{text}");
        let bare = HostSize { swap: 0, ..HOST };
        assert!(meminfo(&memory(), bare).contains("SwapTotal:             0 kB\n"));
        assert_eq!(swaps(&memory(), bare).lines().count(), 1);
        let area = swaps(&memory(), HOST);
        let words: Vec<&str> = area.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(words, ["/dev/none", "partition", "20480", "5120", "0"]);
    }

    #[test]
    fn stat_is_read_as_it_was_written() {
        let mut times = CpuTimes {
            began: 1_700_000_000,
            forks: 12,
            ..CpuTimes::default()
        };
        times.advance(1_000_000, 500_000, 2_000_000, &[0, 1]);
        let text = stat(&times, 2, 0);
        let words = |line: usize| {
            let line = text.lines().nth(line).unwrap();
            line.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(words(0), "cpu 100 0 50 250 0 0 0 0 0 0");
        assert_eq!(words(1), "cpu0 50 0 25 125 0 0 0 0 0 0");
        assert_eq!(words(2), "cpu1 50 0 25 125 0 0 0 0 0 0");
        assert!(text.starts_with("cpu  100 0"));
        assert!((times.busy() - 0.75).abs() < 1e-9);
        assert_eq!(words(5), "btime 1700000000");
        assert_eq!(words(7), "procs_running 2");
        assert_eq!(read_stat(&text), times);
        // Cut anywhere, it is no reason to fall.
        for end in 0..text.len() {
            let _some = read_stat(&text[..end]);
        }
    }

    #[test]
    fn lines_keep_their_places_while_numbers_grow() {
        let mut times = CpuTimes::default();
        times.advance(0, 0, 0, &[0, 1, 2]);
        let places = |text: &str| {
            text.match_indices('\n')
                .map(|(at, _)| at)
                .collect::<Vec<_>>()
        };
        let before = places(&stat(&times, 0, 0));
        // A year of three CPUs.
        let year = 365 * 86_400 * 1_000_000;
        times.advance(year, year, year, &[0, 1, 2]);
        assert_eq!(places(&stat(&times, 1000, 1000)), before);
        let small = places(&vmstat(&MemoryUse::default(), &[], HOST));
        assert_eq!(places(&vmstat(&memory(), &[], HOST)), small);
        let line = |average, n| loadavg(average, n, n).len();
        assert_eq!(line([0.0; 3], 1), line([1234.5; 3], 30_000));
    }

    #[test]
    fn cpu_time_never_runs_back_when_cpus_come_and_go() {
        let mut times = CpuTimes::default();
        times.advance(7_000, 1_000, 1_000_000, &[0, 1, 2, 3]);
        let before = times.clone();
        // More used than the time that has passed can hold.
        times.advance(3_000_000, 0, 1_000_000, &[0, 1]);
        assert!(times.total.user > before.total.user && times.total.idle >= before.total.idle);
        assert_eq!(times.each.len(), 2);
        for (now, then) in times.each.iter().zip(&before.each) {
            assert!(now.0 == then.0 && now.1.user > then.1.user && now.1.idle >= then.1.idle);
        }
        let sum: u64 = times.each.iter().map(|(_, times)| times.user).sum();
        assert!(sum <= times.total.user);
        times.advance(0, 0, 1_000_000, &[0, 1, 5]);
        assert_eq!(times.each[2].0, 5);
    }

    #[test]
    fn of_half_a_cpu_a_whole_one_is_seen() {
        let seen = |limit| cpus(0..4, limit);
        assert_eq!(seen(Some(1)), [0]);
        assert_eq!(seen(Some(100)), [0]);
        assert_eq!(seen(Some(150)), [0, 1]);
        assert_eq!(seen(None), [0, 1, 2, 3]);
        assert_eq!(seen(Some(1600)), [0, 1, 2, 3]);
        assert_eq!(cpus([2, 5, 7].into_iter(), Some(150)), [2, 5]);
    }

    #[test]
    fn cpuinfo_has_the_cpus_that_are_seen() {
        let host = "processor\t: 0\nmodel name\t: Fast\n\nprocessor\t: 1\nmodel name\t: Fast\n\n";
        assert_eq!(
            cpuinfo(host, &[1]),
            "processor\t: 1\nmodel name\t: Fast\n\n"
        );
        assert_eq!(cpuinfo(host, &[0, 1]), host);
        let tail = format!("{host}Hardware\t: Board\n");
        assert!(cpuinfo(&tail, &[0]).ends_with("Hardware\t: Board\n"));
    }

    #[test]
    fn load_and_disks_are_lines_as_the_kernels() {
        let load = loadavg([0.5, 0.25, 1.0], 0, 7);
        assert_eq!(load.trim_end(), "0.50 0.25 1.00 1/7 0");
        let disk = DiskUse {
            device: (254, 0),
            reads: 3,
            read_bytes: 8192,
            writes: 1,
            written_bytes: 512,
        };
        let text = diskstats(&[disk], &[((254, 0), "vda".into())].into());
        assert_eq!(
            text.trim_end(),
            " 254       0 vda 3 0 16 0 1 0 1 0 0 0 0 0 0 0 0 0 0"
        );
    }
}
