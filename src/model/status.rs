//! What a guest is doing, why it ended, what happened to it, what it used.

use serde::{Deserialize, Serialize};

use super::{GoalResource, TopProcess};

/// What a guest is doing. The kernel is the truth: running means that its first process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// Being made or unmade by a command that holds its lock, or left half-made by one that died.
    Creating,
    /// Not running.
    Stopped,
    /// Being started.
    Starting,
    /// Running.
    Running,
    /// Running, every process frozen.
    Paused,
    /// Shutting down.
    Stopping,
    /// Ended by itself and waiting to be started again by its restart policy.
    Restarting,
    /// Its definition or state cannot be read; `info` says why.
    Broken,
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Creating => "creating",
            Self::Stopped => "stopped",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopping => "stopping",
            Self::Restarting => "restarting",
            Self::Broken => "broken",
        })
    }
}

/// Why a guest's first process ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "kebab-case")]
pub enum ExitReason {
    /// Exited by itself.
    Exited {
        /// Exit status.
        code: i32,
    },
    /// Killed by a signal that was not ours and not for want of memory.
    Signal {
        /// Signal number.
        signal: i32,
    },
    /// The guest asked for a reboot (reboot(2) inside a PID namespace ends init by SIGHUP).
    Reboot,
    /// The guest asked to be powered off or halted (SIGINT).
    Poweroff,
    /// Killed because the guest ran out of memory.
    OutOfMemory,
    /// `stop` shut it down.
    Stopped,
    /// `kill`, or `stop` after its time was up.
    Killed,
    /// The keeper was gone and this kernel does not tell others.
    Unknown,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum EventKind {
    /// Made.
    Created,
    /// First process runs.
    Started,
    /// The same in rescue.
    Rescue {
        /// What its root is made from.
        from: String,
    },
    /// First process ended.
    Exited {
        /// Why.
        #[serde(flatten)]
        reason: ExitReason,
    },
    /// Processes killed for want of memory.
    OutOfMemory {
        /// How many since the last such event.
        kills: u64,
        /// The largest of those that were left.
        #[serde(default)]
        top: Vec<TopProcess>,
    },
    /// A limit was in the way.
    Limit {
        /// `cpu`, `processes`, `disk`, `files`, `network`.
        resource: String,
        /// How often since the last such event: periods in which the CPU limit held it back, processes
        /// and threads that could not be made, packets that were dropped; 0 where that is not counted.
        hits: u64,
        /// Of CPU time the part of the periods, of room the part that is used.
        percent: Option<u64>,
        /// Who used most of it then.
        #[serde(default)]
        top: Vec<TopProcess>,
    },
    /// The pool that it lies in is nearly full.
    PoolNearlyFull {
        /// Name of the pool.
        pool: String,
        /// The part that is used.
        percent: u64,
        /// Bytes that are left.
        free: u64,
    },
    /// Its credits of CPU time are used up, or it has some again.
    Credits {
        /// Whether it is held to what it earns now.
        held_back: bool,
        /// That, in hundredths of a CPU.
        earn: u32,
        /// How often it came to this since the last such event.
        times: u64,
    },
    /// Started again by its restart policy or its own reboot.
    Restarted {
        /// Restarts since it last ran for long.
        attempt: u32,
    },
    /// Restart policy gave up.
    GaveUp {
        /// After so many restarts.
        attempts: u32,
    },
    /// Its allowance of traffic is used up, or a new month of it has begun.
    Allowance {
        /// What is in force now.
        level: super::Level,
        /// Bytes sent and received in this month.
        used: u64,
    },
    /// A controller changed a limit for a goal, or said that it would.
    Goal {
        /// Name of the goal.
        goal: String,
        /// Which limit.
        #[serde(default)]
        resource: GoalResource,
        /// The limit before: hundredths of a CPU, MiB, percent of what the definition says.
        from: u64,
        /// The limit then.
        to: u64,
        /// What was seen.
        cause: String,
        /// Whether it was changed.
        acted: bool,
    },
    /// A goal has had no number for a while, so its limit stays as it is; or it has one again.
    GoalMetric {
        /// Name of the goal.
        goal: String,
        /// Why there is none; `None` when there is one again.
        why: Option<String>,
    },
    /// What it used could not be written into its account before its counters went.
    NotCounted {
        /// Why.
        why: String,
    },
    /// Frozen.
    Paused,
    /// Thawed.
    Resumed,
    /// Settings changed.
    Changed {
        /// Keys.
        keys: Vec<String>,
    },
    /// Had another name.
    Renamed {
        /// The name before.
        from: String,
    },
    /// Kept as it was.
    Snapshot {
        /// Name of the snapshot.
        snapshot: String,
    },
    /// A snapshot that was due could not be taken, or a superfluous one not be removed.
    SnapshotFailed {
        /// Why.
        why: String,
    },
    /// Put back to a snapshot.
    Restored {
        /// Name of the snapshot.
        snapshot: String,
    },
    /// Given a fresh root.
    Reinstalled {
        /// What it was made from.
        from: String,
        /// The snapshot that keeps the root before.
        snapshot: String,
    },
    /// Its own layer lies over another image.
    Rebased {
        /// Digest of the image before.
        from: String,
        /// Digest of the image now.
        to: String,
        /// The snapshot of before.
        snapshot: String,
    },
    /// A new keeper took over from one that was gone.
    KeeperReplaced,
    /// Removed, or put into the trash.
    Deleted,
    /// Brought back from the trash.
    BroughtBack,
}

impl EventKind {
    /// The same for the guest itself, which is told nothing of the host.
    #[must_use]
    pub fn without_host(mut self) -> Self {
        if let Self::OutOfMemory { top, .. } | Self::Limit { top, .. } = &mut self {
            for one in top {
                one.host_pid = None;
            }
        }
        self
    }
}

/// One thing that happened to one guest: a line of `events.jsonl`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Milliseconds since 1970 (CLOCK_REALTIME).
    pub time_ms: u64,
    /// The guest's name at that time.
    pub guest: String,
    /// What happened.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// One reading of a guest's counters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// CPU time used, microseconds.
    pub cpu_us: u64,
    /// Periods in which the CPU limit held it back.
    pub throttled: u64,
    /// Bytes of memory charged now.
    pub memory: u64,
    /// Most bytes ever charged, where the kernel keeps it.
    pub memory_peak: u64,
    /// Bytes of swap used.
    pub swap: u64,
    /// Processes killed for want of memory.
    pub oom_kills: u64,
    /// Processes and threads.
    pub processes: u64,
    /// Bytes read from block devices.
    pub io_read: u64,
    /// Bytes written to block devices.
    pub io_write: u64,
    /// Reads from block devices.
    #[serde(default)]
    pub io_reads: u64,
    /// Writes to block devices.
    #[serde(default)]
    pub io_writes: u64,
}
