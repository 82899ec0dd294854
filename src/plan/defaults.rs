//! What every guest gets that nobody writes down: devices, mounts, masked paths.

/// The usual devices: name, kind and numbers (devices.txt of the kernel).
pub(super) const DEVICES: [(&str, char, i64, i64); 6] = [
    ("/dev/null", 'c', 1, 3),
    ("/dev/zero", 'c', 1, 5),
    ("/dev/full", 'c', 1, 7),
    ("/dev/random", 'c', 1, 8),
    ("/dev/urandom", 'c', 1, 9),
    ("/dev/tty", 'c', 5, 0),
];

/// Devices that may be opened without a node of theirs being made: /dev/ptmx and terminals.
pub(super) const OPEN_ONLY: [(char, i64, Option<i64>); 2] = [('c', 5, Some(2)), ('c', 136, None)];

/// Shown as empty. The user namespace is the wall (these belong to the host's root and can't be
/// opened for writing inside); masks take away what would still tell about host and neighbours.
pub(super) const MASKED: [&str; 18] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/config.gz",
    "/proc/interrupts",
    "/proc/kallsyms",
    "/proc/kcore",
    "/proc/key-users",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/pagetypeinfo",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/slabinfo",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/vmallocinfo",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

/// Shown, but not to be written.
pub(super) const READ_ONLY: [&str; 4] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sysrq-trigger"];

/// Environment of a guest's init. `container` is how systemd and others know where they are.
pub(super) const ENVIRONMENT: [(&str, &str); 3] = [
    (
        "PATH",
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    ),
    ("container", "bulkhead"),
    ("TERM", "linux"),
];
