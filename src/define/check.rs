//! What no guest may ask for on this machine: one function over the guest with all its layers. How
//! single texts are judged (names, paths, signals) is said next door in `rule`.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use super::capability::CAPABILITIES;
use super::check_cpu;
use super::check_network;
use super::default::DEFAULT_CAPABILITIES;
use super::events;
use super::rule;
use super::schedule;
use crate::model::{Bytes, Guest, HostFacts, NetworkKind};

/// The least memory with which a guest's init can start.
pub(super) const LEAST_MEMORY: Bytes = Bytes::mib(4);
/// The kernel's own bound on process numbers (PID_MAX_LIMIT, proc(5)).
const MOST_PROCESSES: u32 = 4_194_304;
/// The most a signed 64-bit counter of the kernel can hold.
const MOST_BYTES: u64 = i64::MAX as u64;
/// NR_UNIX98_PTY_MAX.
const MOST_PTYS: u32 = 1 << 20;
const MOST_CGROUPS: u32 = 1_000_000;
const CONSOLE_LOG: (Bytes, Bytes) = (Bytes(4 << 10), Bytes(1 << 30));
const LONGEST_STOP: Duration = Duration::from_secs(24 * 3600);
const SHORTEST_DELAY: Duration = Duration::from_millis(100);

/// One thing a guest may not ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The setting, as in the settings table: `memory.limit`.
    pub key: &'static str,
    /// Which one of several: a label's name, a mount's target.
    pub item: Option<String>,
    /// What is wrong and what would be right.
    pub message: String,
}

impl Problem {
    /// `memory.limit`, `mount./data`.
    #[must_use]
    pub fn path(&self) -> String {
        super::read::join(self.key, self.item.as_deref().unwrap_or_default())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.item {
            Some(item) => write!(f, "{} {item:?}: {}", self.key, self.message),
            None => write!(f, "{}: {}", self.key, self.message),
        }
    }
}

/// What was found so far.
#[derive(Default)]
pub(super) struct Found(Vec<Problem>);

impl Found {
    pub(super) fn add(&mut self, key: &'static str, message: impl Into<String>) {
        self.0.push(Problem {
            key,
            item: None,
            message: message.into(),
        });
    }

    pub(super) fn item(&mut self, key: &'static str, item: &str, message: impl Into<String>) {
        self.0.push(Problem {
            key,
            item: Some(item.to_owned()),
            message: message.into(),
        });
    }

    fn result(&mut self, key: &'static str, rule: Result<(), String>) {
        if let Err(message) = rule {
            self.add(key, message);
        }
    }

    fn item_result(&mut self, key: &'static str, item: &str, rule: Result<(), String>) {
        if let Err(message) = rule {
            self.item(key, item, message);
        }
    }

    pub(super) fn range<T: PartialOrd + fmt::Display>(
        &mut self,
        key: &'static str,
        is: &T,
        least: &T,
        most: &T,
    ) {
        if is < least || is > most {
            self.add(key, format!("{is} is out of range: {least} to {most}"));
        }
    }
}

/// Whether a guest may be had on this machine. What cannot be known without asking the kernel or
/// other guests (a free address, an existing host path) is judged where it is used.
///
/// # Errors
/// All problems, in the order of the settings table.
pub fn check(guest: &Guest, facts: &HostFacts) -> Result<(), Vec<Problem>> {
    let mut found = Found::default();
    identity(guest, &mut found);
    check_cpu::cpu(guest, facts, &mut found);
    memory(guest, &mut found);
    io(guest, &mut found);
    disk(guest, &mut found);
    counts(guest, &mut found);
    kernel_settings(guest, &mut found);
    life(guest, &mut found);
    schedule::snapshots(guest, &mut found);
    events::events(guest, &mut found);
    files(guest, &mut found);
    security(guest, facts, &mut found);
    check_network::network(guest, &mut found);
    access(guest, &mut found);
    if found.0.is_empty() {
        Ok(())
    } else {
        Err(found.0)
    }
}

fn identity(guest: &Guest, found: &mut Found) {
    if let Some(template) = guest.origin.template() {
        found.result("template", rule::template_name(&template.name));
        for option in template.options.keys() {
            found.item_result("template.options", option, rule::option_name(option));
        }
    }
    for label in guest.labels.keys() {
        found.item_result("labels", label, rule::label_name(label));
    }
    found.result("hostname", rule::host_name(&guest.hostname));
    if !guest.domain.is_empty() {
        found.result("domain", rule::host_name(&guest.domain));
    }
    found.result("timezone", rule::time_zone(&guest.timezone));
}

fn memory(guest: &Guest, found: &mut Found) {
    let memory = &guest.memory;
    let limit = memory.limit;
    if limit < LEAST_MEMORY {
        let message =
            format!("{limit} is too little to start anything: the least is {LEAST_MEMORY}");
        found.add("memory.limit", message);
    }
    if limit
        .0
        .checked_add(memory.swap.0)
        .is_none_or(|sum| sum > MOST_BYTES)
    {
        let key = if limit.0 > memory.swap.0 {
            "memory.limit"
        } else {
            "memory.swap"
        };
        found.add(
            key,
            "is more than the kernel can count: memory and swap together are at most 8388607T",
        );
    }
    let marks = [
        ("memory.high", memory.high.unwrap_or(limit)),
        ("memory.low", memory.low),
        ("memory.min", memory.min),
    ];
    for (key, mark) in marks {
        if mark > limit {
            found.add(
                key,
                format!("{mark} is above memory.limit, which is {limit}"),
            );
        }
    }
    if memory.high.is_some_and(|high| high < LEAST_MEMORY) {
        found.add(
            "memory.high",
            format!("is too little to start anything: the least is {LEAST_MEMORY}"),
        );
    }
    let kept = memory.low.max(memory.min);
    if memory.high.is_some_and(|high| kept > high) {
        found.add(
            "memory.high",
            "is below what memory.low or memory.min promise to keep",
        );
    }
    // A low of 0 says nothing: what is kept whatever happens need not be said twice.
    if memory.low.0 > 0 && memory.min > memory.low {
        found.add(
            "memory.min",
            format!("{} is above memory.low, {}", memory.min, memory.low),
        );
    }
}

fn io(guest: &Guest, found: &mut Found) {
    if let Some(weight) = guest.io.weight {
        found.range("io.weight", &weight, &1, &10_000);
    }
    for limit in &guest.io.devices {
        let name = limit.device.display().to_string();
        found.item_result("io.device", &name, rule::device_path(&limit.device));
        let bytes = [limit.read, limit.write].into_iter().flatten().map(|b| b.0);
        let all: Vec<u64> = bytes
            .chain([limit.read_iops, limit.write_iops].into_iter().flatten())
            .collect();
        if all.is_empty() {
            found.item(
                "io.device",
                &name,
                "has no limit: give read, write, read_iops or write_iops",
            );
        }
        if all.iter().any(|n| *n == 0 || *n > MOST_BYTES) {
            found.item("io.device", &name, "a limit must be at least 1");
        }
    }
}

/// Smallest root: a file system's own records need some of it.
const LEAST_DISK: Bytes = Bytes::mib(16);
/// Largest: more than any filesystem of a file holds.
const MOST_DISK: Bytes = Bytes(1 << 50);

fn disk(guest: &Guest, found: &mut Found) {
    found.result("disk.pool", rule::pool_name(&guest.disk.pool));
    if let Some(size) = guest.disk.size {
        found.range("disk.size", &size, &LEAST_DISK, &MOST_DISK);
    }
    if let Some(inodes) = guest.disk.inodes {
        found.range("disk.inodes", &inodes, &1000, &u32::MAX);
    }
}

fn counts(guest: &Guest, found: &mut Found) {
    found.range("processes", &guest.processes, &1, &MOST_PROCESSES);
    found.range("ptys", &guest.ptys, &1, &MOST_PTYS);
    found.range("cgroups", &guest.cgroups, &0, &MOST_CGROUPS);
    found.range(
        "console_log",
        &guest.console_log,
        &CONSOLE_LOG.0,
        &CONSOLE_LOG.1,
    );
}

fn kernel_settings(guest: &Guest, found: &mut Found) {
    for name in guest.rlimits.keys() {
        found.item_result("rlimits", name, rule::rlimit_name(name));
    }
    for (name, value) in &guest.sysctls {
        found.item_result("sysctls", name, rule::sysctl(name, value));
        if name.starts_with("net.") && guest.network.kind == NetworkKind::Host {
            let message = "would change the host: the network kind is host";
            found.item("sysctls", name, message);
        }
    }
    for name in guest.environment.keys() {
        found.item_result("environment", name, rule::variable_name(name));
    }
}

fn life(guest: &Guest, found: &mut Found) {
    if let Some(program) = guest.init.command.first() {
        if program.is_empty() {
            found.add("init.command", "the program is missing");
        } else if !program.starts_with('/') {
            // No search path: which program it is must not depend on what the guest has.
            found.add(
                "init.command",
                format!("{program:?} is relative: begin with /"),
            );
        }
    }
    if let Some(signal) = &guest.init.stop_signal {
        found.result("init.stop_signal", rule::signal(signal));
    }
    if guest.init.stop_timeout > LONGEST_STOP {
        found.add("init.stop_timeout", "is out of range: 0s to 24h");
    }
    found.range(
        "autostart.priority",
        &guest.autostart.priority,
        &-1000,
        &1000,
    );
    if guest.autostart.after.contains(&guest.name) {
        found.item(
            "autostart.after",
            guest.name.as_str(),
            "a guest cannot wait for itself",
        );
    }
    let restart = &guest.restart;
    if restart.delay < SHORTEST_DELAY || restart.delay > Duration::from_secs(3600) {
        found.add("restart.delay", "is out of range: 100ms to 1h");
    }
    if restart.delay_max < restart.delay {
        found.add("restart.delay_max", "is below restart.delay");
    }
    if restart.delay_max > Duration::from_secs(24 * 3600) {
        found.add("restart.delay_max", "is out of range: at most 24h");
    }
    found.range("restart.attempts", &restart.attempts, &0, &1_000_000);
}

fn files(guest: &Guest, found: &mut Found) {
    let mut targets: BTreeSet<&Path> = BTreeSet::new();
    for mount in &guest.mounts {
        let name = mount.target.display().to_string();
        found.item_result("mount", &name, rule::host_path(&mount.source));
        found.item_result("mount", &name, rule::mount_target(&mount.target));
        targets.insert(&mount.target);
    }
    for tmpfs in &guest.tmpfs {
        let name = tmpfs.target.display().to_string();
        found.item_result("tmpfs", &name, rule::mount_target(&tmpfs.target));
        if targets.contains(tmpfs.target.as_path()) {
            found.item("tmpfs", &name, "a mount has the same target");
        }
        if tmpfs.size < Bytes(4096) || tmpfs.size.0 > MOST_BYTES {
            found.item(
                "tmpfs",
                &name,
                format!("size {} is out of range: at least 4K", tmpfs.size),
            );
        }
    }
    for device in &guest.devices {
        let name = device.path.display().to_string();
        found.item_result("device", &name, rule::device_path(&device.path));
        found.item_result("device", &name, rule::device_access(&device.access));
    }
}

fn security(guest: &Guest, facts: &HostFacts, found: &mut Found) {
    let security = &guest.security;
    for name in &security.capabilities {
        let plain = name.trim_start_matches("CAP_");
        let number = CAPABILITIES.iter().position(|known| *known == plain);
        match number {
            None => found.item("security.add", plain, "is not a capability"),
            // What is there from the start is left out on an old kernel; what is asked for is not.
            Some(number)
                if number > facts.last_capability as usize
                    && !DEFAULT_CAPABILITIES.contains(&plain) =>
            {
                let message = format!("this kernel ({}) does not know it", facts.kernel);
                found.item("security.add", plain, message);
            }
            Some(_) => {}
        }
    }
    found.result("security.seccomp", rule::profile_name(&security.seccomp));
}

fn access(guest: &Guest, found: &mut Found) {
    for key in &guest.access.ssh_keys {
        let start: String = key.chars().take(24).collect();
        found.item_result("access.ssh_keys", &start, rule::ssh_key(key));
    }
    if let Some(hash) = &guest.access.root_password_hash {
        found.result("access.root_password_hash", rule::password_hash(hash));
    }
}
