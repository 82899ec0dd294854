//! How the calling process stands with the scheduler, the block layer and the memory nodes, and what
//! it says the machine is: sched_setattr(2), ioprio_set(2), sched_setaffinity(2), set_mempolicy(2),
//! personality(2).
#![allow(unsafe_code)]

use super::error::{KernelError, Result};
use crate::model::CpuSet;

/// `struct sched_attr` of linux/sched/types.h, first version.
#[repr(C)]
#[derive(Default)]
struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// What sched_setattr(2) takes: policy, SCHED_FLAG_* bits, nice value, real-time priority, and for
/// SCHED_DEADLINE nanoseconds of run time, deadline and period.
#[derive(Clone, Copy, Debug, Default)]
pub struct Attributes {
    /// SCHED_* number.
    pub policy: u32,
    /// SCHED_FLAG_* bits.
    pub flags: u64,
    /// Nice value.
    pub nice: i32,
    /// Real-time priority.
    pub priority: u32,
    /// Nanoseconds.
    pub runtime: u64,
    /// Nanoseconds.
    pub deadline: u64,
    /// Nanoseconds.
    pub period: u64,
}

fn done(result: libc::c_long, verb: &'static str, what: impl std::fmt::Display) -> Result<()> {
    if result < 0 {
        Err(KernelError::last(verb, what))
    } else {
        Ok(())
    }
}

/// Sets them for this process (Linux 3.14).
pub fn set_attributes(wanted: Attributes) -> Result<()> {
    let attr = SchedAttr {
        size: u32::try_from(size_of::<SchedAttr>()).unwrap_or(0),
        policy: wanted.policy,
        flags: wanted.flags,
        nice: wanted.nice,
        priority: wanted.priority,
        runtime: wanted.runtime,
        deadline: wanted.deadline,
        period: wanted.period,
    };
    // SAFETY: `attr` carries its own size and lives over the call.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) };
    done(result, "set", "the scheduling policy")
}

/// Sets the priority with the block layer (class << 13 | level; Linux 2.6.13).
pub fn set_io_priority(priority: u32) -> Result<()> {
    const WHO_PROCESS: libc::c_int = 1;
    // SAFETY: no pointers.
    let result = unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, priority) };
    done(result, "set", "the I/O priority")
}

/// Runs on these CPUs only.
pub fn set_affinity(cpus: &[u32]) -> Result<()> {
    let mask = mask(cpus);
    let bytes = size_of_val(&mask[..]);
    // SAFETY: `mask` is `bytes` long and lives over the call, which only reads it.
    let result = unsafe { libc::syscall(libc::SYS_sched_setaffinity, 0, bytes, mask.as_ptr()) };
    done(result, "run on", format!("CPUs {cpus:?}"))
}

/// Runs on every CPU that the control group allows, whatever the caller was restricted to. A mask
/// that leaves out none of the machine's stays as it is: one that is set costs each process born
/// later a copy of it.
pub fn forget_affinity() -> Result<()> {
    const MOST: usize = 8192;
    let now = affinity_of(0, MOST / 8).unwrap_or_default();
    let online = std::fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    let online = online.trim().parse::<CpuSet>().ok();
    let has = |cpu: u32| {
        let byte = now.get(cpu as usize / 8).copied().unwrap_or_default();
        byte >> (cpu % 8) & 1 == 1
    };
    if online.is_some_and(|online| online.iter().all(has)) {
        return Ok(());
    }
    let mask = [u64::MAX; MOST / 64];
    // SAFETY: `mask` is as long as said and lives over the call, which only reads it.
    let result = unsafe {
        let bytes = size_of_val(&mask);
        libc::syscall(libc::SYS_sched_setaffinity, 0, bytes, mask.as_ptr())
    };
    done(result, "run on", "all CPUs")
}

/// Takes memory from these nodes (MPOL_* mode with its flags; Linux 2.6.7).
pub fn set_memory_policy(mode: i32, nodes: &[u32]) -> Result<()> {
    let mask = mask(nodes);
    let bits = if nodes.is_empty() {
        0
    } else {
        mask.len() * 64 + 1
    };
    let pointer = if nodes.is_empty() {
        std::ptr::null()
    } else {
        mask.as_ptr()
    };
    // SAFETY: `pointer` is null with a length of 0, or points to as many bits (and one, which the
    // kernel does not count) that live over the call and are only read.
    let result = unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, pointer, bits) };
    done(
        result,
        "set the memory policy for",
        format!("nodes {nodes:?}"),
    )
}

fn mask(numbers: &[u32]) -> Vec<u64> {
    let highest = numbers.iter().max().copied().unwrap_or(0).min(8191);
    let mut mask = vec![0_u64; highest as usize / 64 + 1];
    for n in numbers.iter().filter(|n| **n <= 8191) {
        mask[*n as usize / 64] |= 1 << (n % 64);
    }
    mask
}

/// Says what the machine is (PER_LINUX, PER_LINUX32).
pub fn set_personality(persona: u64) -> Result<()> {
    // SAFETY: takes a number.
    let result = unsafe { libc::personality(persona) };
    done(result.into(), "set", "the execution domain")
}

/// Where a thread may run, as the kernel tells it to a caller with room for so many bytes: a bit for
/// each CPU, and as many bytes as it would say (sched_getaffinity(2)).
pub fn affinity_of(thread: u32, room: usize) -> rustix::io::Result<Vec<u8>> {
    let mut mask = vec![0_u8; room];
    // SAFETY: the kernel writes at most `room` bytes to `mask`, which has them and outlives the call.
    let n = unsafe { libc::syscall(libc::SYS_sched_getaffinity, thread, room, mask.as_mut_ptr()) };
    match usize::try_from(n) {
        Ok(n) => {
            mask.truncate(n);
            Ok(mask)
        }
        Err(_) => {
            let errno = std::io::Error::last_os_error().raw_os_error();
            Err(rustix::io::Errno::from_raw_os_error(
                errno.unwrap_or(libc::EIO),
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_become_bits() {
        assert_eq!(mask(&[0, 3]), [0b1001]);
        assert_eq!(mask(&[64]), [0, 1]);
        assert_eq!(mask(&[u32::MAX]), vec![0; 128]);
    }

    #[test]
    fn this_process_can_stay_as_it_is() {
        assert!(set_affinity(&[]).is_err(), "no CPU at all");
        assert!(set_memory_policy(0, &[]).is_ok());
    }
}
