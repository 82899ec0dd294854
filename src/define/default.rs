//! What a guest has that no profile and no line of its own says otherwise: the lowest layer.
//! `docs/definition.md` lists the same values.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::model::{Bytes, NetworkKind, RestartPolicy, Retention, Rlimit, View};

/// What a root filesystem is built from: the one template that needs no network.
pub(super) const TEMPLATE: &str = "host";
pub(super) const CPU_WEIGHT: u32 = 100;
pub(super) const MEMORY: Bytes = Bytes::mib(512);
pub(super) const PROCESSES: u32 = 1024;
pub(super) const POOL: &str = "default";
pub(super) const TIMEZONE: &str = "Etc/UTC";
pub(super) const STOP_TIMEOUT: Duration = Duration::from_secs(30);
pub(super) const TMPFS_SIZE: Bytes = Bytes::mib(64);
/// As /tmp: everybody writes, only the owner removes.
pub(super) const TMPFS_MODE: u32 = 0o1777;
/// Not `m`: making nodes is never needed to use one.
pub(super) const DEVICE_ACCESS: &str = "rw";
pub(super) const SECCOMP: &str = "default";
pub(super) const RESTART_POLICY: RestartPolicy = RestartPolicy::No;
pub(super) const RESTART_DELAY: Duration = Duration::from_secs(1);
pub(super) const RESTART_DELAY_MAX: Duration = Duration::from_secs(60);
pub(super) const RESTART_ATTEMPTS: u32 = 10;
/// What is kept of the snapshots that are taken by the clock, where there are any.
pub(super) const SNAPSHOTS_KEPT: Retention = Retention {
    last: 3,
    daily: 7,
    weekly: 4,
    monthly: 0,
};
/// Held back in so many percent of the periods in which it wanted to run, it is told.
pub(super) const THROTTLED: u32 = 25;

/// The same for what was written before it could be said.
#[allow(clippy::unnecessary_wraps)] // As the field has it.
pub(crate) fn usual_throttled() -> Option<u32> {
    Some(THROTTLED)
}

pub(super) const NETWORK: NetworkKind = NetworkKind::Bridge;
pub(super) const VIEW: View = View::Guest;
pub(super) const PTYS: u32 = 256;
pub(super) const CONSOLE_LOG: Bytes = Bytes(512 << 10);
pub(super) const CGROUPS: u32 = 1000;

/// What a full userspace needs in its own user namespace. Left out is what reaches the kernel as a
/// whole: modules, ports, the clock, mandatory access rules, BPF, performance counters, the log.
pub const DEFAULT_CAPABILITIES: [&str; 27] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "SETFCAP",
];

/// Resource limits. `sigpending`, `msgqueue` and `memlock` are ceilings for the whole guest: the
/// kernel charges them to the guest's own host uid, and takes the value in force when the user
/// namespace is made (user_namespaces(7)), so both numbers are the same.
pub(super) fn rlimits() -> BTreeMap<String, Rlimit> {
    let limit = |soft, hard| Rlimit {
        soft: Some(soft),
        hard: Some(hard),
    };
    BTreeMap::from([
        ("nofile".to_owned(), limit(1024, 65_536)),
        ("sigpending".to_owned(), limit(8192, 8192)),
        ("msgqueue".to_owned(), limit(1 << 20, 1 << 20)),
        ("memlock".to_owned(), limit(64 << 20, 64 << 20)),
        // A core file is written only where somebody asks for it.
        (
            "core".to_owned(),
            Rlimit {
                soft: Some(0),
                hard: None,
            },
        ),
    ])
}
