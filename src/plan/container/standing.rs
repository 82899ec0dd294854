//! What a process is to the scheduler, to the allocator of memory and to whoever asks for its rights,
//! as data of a step; and hooks, processes of the client's own.

use std::path::PathBuf;

use serde::Serialize;

/// A hook: a program of the client's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Hook {
    /// Which one it is, in words: `prestart hook #0`.
    pub called: String,
    /// Program, absolute.
    pub path: PathBuf,
    /// Arguments, with the program's name.
    pub args: Vec<String>,
    /// Environment; nothing else is passed. None is that of whoever runs it.
    pub env: Option<Vec<String>>,
    /// Seconds after which it is killed.
    pub timeout: Option<u64>,
}

/// A process's standing with the scheduler, see sched_setattr(2).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Scheduling {
    /// SCHED_* number.
    pub policy: u32,
    /// SCHED_FLAG_* bits.
    pub flags: u64,
    /// Nice value.
    pub nice: i32,
    /// Real-time priority.
    pub priority: u32,
    /// Nanoseconds of run time, deadline and period.
    pub times: (u64, u64, u64),
}

/// Where memory is taken from, see set_mempolicy(2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MemoryPolicy {
    /// MPOL_* number with its flags.
    pub mode: i32,
    /// Nodes.
    pub nodes: Vec<u32>,
}

/// The five sets of capabilities, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CapabilitySets {
    /// What can ever be had.
    pub bounding: Vec<String>,
    /// What is in force.
    pub effective: Vec<String>,
    /// What can be put in force.
    pub permitted: Vec<String>,
    /// What passes to programs that may inherit.
    pub inheritable: Vec<String>,
    /// What passes to any program.
    pub ambient: Vec<String>,
}
