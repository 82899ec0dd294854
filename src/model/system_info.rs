//! What sysinfo(2) and sched_getaffinity(2) say inside a guest: made from the guest's own files below
//! /proc and /sys, so that calls and files agree. Bytes as the kernel lays them out; no I/O.

use super::{Arch, CpuSet};

/// The kernel's `struct sysinfo`. Sizes are bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SystemInfo {
    /// Seconds since the boot, rounded up.
    pub uptime: u64,
    /// Load over 1, 5 and 15 minutes, in parts of 65,536.
    pub loads: [u64; 3],
    /// Memory.
    pub memory: u64,
    /// Memory that nobody uses.
    pub free: u64,
    /// Memory of tmpfs and shared mappings.
    pub shared: u64,
    /// Memory of block devices.
    pub buffers: u64,
    /// Swap.
    pub swap: u64,
    /// Swap that nobody uses.
    pub free_swap: u64,
    /// Threads.
    pub threads: u16,
}

impl SystemInfo {
    /// What these files say, as /proc/meminfo and /proc/loadavg; `None` if they are none.
    #[must_use]
    pub fn of_files(meminfo: &str, loadavg: &str, uptime: u64) -> Option<Self> {
        let bytes = |key: &str| {
            let line = meminfo
                .lines()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
            let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
            kib.checked_mul(1024)
        };
        let mut words = loadavg.split_whitespace();
        let mut load = || {
            let load: f64 = words.next()?.parse().ok()?;
            // Far below what a u64 holds; a negative one becomes 0.
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            Some((load * 65_536.0) as u64)
        };
        let loads = [load()?, load()?, load()?];
        let threads = words.next()?.split_once('/')?.1.parse::<u64>().ok()?;
        Some(Self {
            uptime,
            loads,
            memory: bytes("MemTotal")?,
            free: bytes("MemFree")?,
            shared: bytes("Shmem")?,
            buffers: bytes("Buffers")?,
            swap: bytes("SwapTotal")?,
            free_swap: bytes("SwapFree")?,
            threads: u16::try_from(threads).unwrap_or(u16::MAX),
        })
    }

    /// As a program of a convention expects it; `None` for one that this does not know.
    #[must_use]
    pub fn bytes(&self, arch: Arch) -> Option<Vec<u8>> {
        match (arch, arch.bits()) {
            (Arch::I386, _) => Some(self.narrow()),
            (_, 64) => Some(self.wide()),
            _ => None,
        }
    }

    fn sizes(&self) -> [u64; 6] {
        [
            self.memory,
            self.free,
            self.shared,
            self.buffers,
            self.swap,
            self.free_swap,
        ]
    }

    fn wide(&self) -> Vec<u8> {
        let mut all = Vec::with_capacity(112);
        let words = [&[self.uptime][..], &self.loads, &self.sizes()].concat();
        all.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
        all.extend(self.threads.to_ne_bytes());
        // A pad, then no high memory, then the unit, which is one byte.
        all.resize(all.len() + 6 + 16, 0);
        all.extend(1_u32.to_ne_bytes());
        all.resize(112, 0);
        all
    }

    /// With units of a page where bytes do not fit, as the kernel does it.
    fn narrow(&self) -> Vec<u8> {
        const PAGE: u64 = 4096;
        let large = (self.memory | self.swap) >> 32 != 0;
        let unit = if large { PAGE } else { 1 };
        let small = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        let mut all = Vec::with_capacity(64);
        let words = [self.uptime].into_iter().chain(self.loads);
        let sizes = self.sizes().map(|size| size / unit);
        all.extend(
            words
                .chain(sizes)
                .flat_map(|word| small(word).to_ne_bytes()),
        );
        all.extend(self.threads.to_ne_bytes());
        all.resize(all.len() + 2 + 8, 0);
        all.extend(small(unit).to_ne_bytes());
        all.resize(64, 0);
        all
    }
}

/// Where a thread may run, as a guest is told that is shown these CPUs: those, unless the thread has
/// been put on fewer. One that is on other CPUs than the shown ones is told of as many of its own.
#[must_use]
pub fn shown_affinity(real: &[u8], shown: &CpuSet) -> Vec<u8> {
    let has = |cpu: u32| {
        let byte = usize::try_from(cpu / 8).ok().and_then(|at| real.get(at));
        byte.is_some_and(|byte| byte & (1 << (cpu % 8)) != 0)
    };
    let bits = u32::try_from(real.len() * 8).unwrap_or(u32::MAX);
    let may: Vec<u32> = (0..bits).filter(|cpu| has(*cpu)).collect();
    if may.len() <= shown.len() || shown.is_empty() {
        return real.to_vec();
    }
    let told: Vec<u32> = if shown.iter().all(has) {
        shown.iter().collect()
    } else {
        may.into_iter().take(shown.len()).collect()
    };
    let mut mask = vec![0; real.len()];
    for cpu in told {
        if let Some(byte) = mask.get_mut(cpu as usize / 8) {
            *byte |= 1 << (cpu % 8);
        }
    }
    mask
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMINFO: &str = "MemTotal:         524288 kB\nMemFree:          500000 kB\n\
                           Buffers:               4 kB\nShmem:                12 kB\n\
                           SwapTotal:        262144 kB\nSwapFree:         262140 kB\n";

    fn info() -> SystemInfo {
        SystemInfo::of_files(MEMINFO, "0.50 1.25 0.00 1/7 42\n", 61).unwrap()
    }

    fn word(bytes: &[u8], at: usize) -> u64 {
        u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap())
    }

    fn half(bytes: &[u8], at: usize) -> u32 {
        u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap())
    }

    #[test]
    fn files_become_the_structure_of_both_widths() {
        let info = info();
        assert_eq!((info.memory, info.threads), (512 << 20, 7));
        let wide = info.bytes(Arch::X86_64).unwrap();
        assert_eq!(wide.len(), 112);
        assert_eq!((word(&wide, 0), word(&wide, 8)), (61, 32_768));
        assert_eq!(word(&wide, 32), 512 << 20);
        assert_eq!(word(&wide, 64), 256 << 20);
        assert_eq!(u16::from_ne_bytes([wide[80], wide[81]]), 7);
        assert_eq!((word(&wide, 88), word(&wide, 96)), (0, 0));
        assert_eq!(half(&wide, 104), 1);
        let narrow = info.bytes(Arch::I386).unwrap();
        assert_eq!(narrow.len(), 64);
        assert_eq!((half(&narrow, 0), half(&narrow, 16)), (61, 512 << 20));
        assert_eq!(u16::from_ne_bytes([narrow[40], narrow[41]]), 7);
        assert_eq!(half(&narrow, 52), 1);
        assert_eq!(info.bytes(Arch::Arm), None);
    }

    #[test]
    fn more_than_four_gigabytes_are_told_to_32_bits_in_pages() {
        let large = SystemInfo {
            memory: 8 << 30,
            ..info()
        };
        let narrow = large.bytes(Arch::I386).unwrap();
        assert_eq!(
            u64::from(half(&narrow, 16)) * u64::from(half(&narrow, 52)),
            8 << 30
        );
    }

    #[test]
    fn what_is_no_file_of_ours_gives_nothing() {
        assert_eq!(SystemInfo::of_files("", "0 0 0 1/1 1", 0), None);
        assert_eq!(SystemInfo::of_files(MEMINFO, "0.5", 0), None);
    }

    #[test]
    fn a_thread_is_told_what_the_files_show_unless_it_is_on_fewer() {
        let shown: CpuSet = "0-1".parse().unwrap();
        // All of sixteen: the two that are shown.
        assert_eq!(shown_affinity(&[0xff, 0xff], &shown), [0b11, 0]);
        // One, chosen by itself.
        assert_eq!(shown_affinity(&[0, 0x80], &shown), [0, 0x80]);
        // Two others than the shown ones.
        assert_eq!(shown_affinity(&[0b1100, 0], &shown), [0b1100, 0]);
        // More, of which not all are shown: as many.
        assert_eq!(shown_affinity(&[0b1_1110, 0], &shown), [0b110, 0]);
        assert_eq!(shown_affinity(&[0xff], &CpuSet::default()), [0xff]);
    }
}
