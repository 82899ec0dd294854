//! A guest as it is meant: every default filled in, every value checked. Made by `define` only.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    Allowance, Bytes, Ceilings, CpuMode, CpuPoolName, CpuSet, Cpus, Credits, EventRule,
    FirewallLine, Forward, GuestName, ImageName, Mac, NetworkName, Nic, NicName, Rate, Resize,
    SnapshotRule, TenantName, TenantRates, View,
};

/// One guest's whole definition after profiles and defaults.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Guest {
    /// Its name.
    pub name: GuestName,
    /// What its root filesystem is made from.
    #[serde(flatten)]
    pub origin: Origin,
    /// Free text.
    pub description: String,
    /// Free labels, for `--select`.
    pub labels: BTreeMap<String, String>,
    /// Whose it is, if it shares the limits of a tenant.
    pub tenant: Option<TenantName>,
    /// Whether it cannot be deleted.
    pub protect: bool,
    /// Profiles that went into it, in order.
    pub profiles: Vec<String>,
    /// CPU limits.
    pub cpu: CpuLimits,
    /// Memory limits.
    pub memory: MemoryLimits,
    /// Most processes and threads at once.
    pub processes: u32,
    /// Block I/O limits.
    pub io: IoLimits,
    /// Where its root lies, and its size.
    pub disk: DiskWish,
    /// Resource limits by lower-case name without `RLIMIT_` (`nofile`); see getrlimit(2).
    pub rlimits: BTreeMap<String, Rlimit>,
    /// Namespaced kernel settings, from an allow list.
    pub sysctls: BTreeMap<String, String>,
    /// Host name inside.
    pub hostname: String,
    /// Domain name inside, may be empty.
    pub domain: String,
    /// Time zone name below /usr/share/zoneinfo, such as `Europe/Berlin`.
    pub timezone: String,
    /// Environment of the guest's init.
    pub environment: BTreeMap<String, String>,
    /// The guest's first program.
    pub init: InitCommand,
    /// Host folders and files shown inside.
    pub mounts: Vec<BindMount>,
    /// Memory file systems.
    pub tmpfs: Vec<Tmpfs>,
    /// Devices beyond the usual few.
    pub devices: Vec<Device>,
    /// What it may do.
    pub security: Security,
    /// Whether and when it starts with the host.
    pub autostart: Autostart,
    /// What happens when it ends by itself.
    pub restart: RestartRule,
    /// Snapshots that are taken by the clock.
    pub snapshots: SnapshotRule,
    /// What is told of it.
    pub events: EventRule,
    /// Its network.
    pub network: NetworkWish,
    /// First-boot access data.
    pub access: Access,
    /// Whose numbers it sees in /proc.
    pub view: View,
    /// Open to other guests' and the host's eyes: devpts `max=`, console log bytes.
    pub ptys: u32,
    /// Most bytes of console output kept.
    pub console_log: Bytes,
    /// Most cgroups the guest may make below its own.
    pub cgroups: u32,
}

/// What a guest's root filesystem is made from: exactly one of the two.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// A template, whose image is built if it is not there.
    Template(TemplateRef),
    /// An image that is there.
    Image(ImageName),
}

impl Origin {
    /// The template, if it is one.
    #[must_use]
    pub fn template(&self) -> Option<&TemplateRef> {
        match self {
            Self::Template(template) => Some(template),
            Self::Image(_) => None,
        }
    }

    /// The image's name, if it is one.
    #[must_use]
    pub fn image(&self) -> Option<&ImageName> {
        match self {
            Self::Image(name) => Some(name),
            Self::Template(_) => None,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Template(template) => write!(f, "template {}", template.name),
            Self::Image(name) => write!(f, "image {name}"),
        }
    }
}

/// A template and the options it is built with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TemplateRef {
    /// Folder name below `rootfs-templates/`.
    pub name: String,
    /// Options the template declares, such as `suite = "trixie"`.
    pub options: BTreeMap<String, String>,
}

/// CPU limits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuLimits {
    /// How it is given CPUs.
    pub mode: CpuMode,
    /// Whole CPUs for it alone.
    pub dedicated: Option<u32>,
    /// The pool whose CPUs it runs on.
    pub pool: Option<CpuPoolName>,
    /// When any of this may change.
    pub resize: Resize,
    /// Hard limit; `None` for all of the machine.
    pub limit: Option<Cpus>,
    /// Guaranteed; `None` for nothing.
    pub entitled: Option<Cpus>,
    /// Share under contention, 1 to 10,000; 100 is usual.
    pub weight: u32,
    /// CPUs it may run on; `None` for all.
    pub cpuset: Option<CpuSet>,
    /// Memory nodes it takes memory from; `None` for all. No definition says them: they follow from the
    /// CPUs that a guest is given for itself.
    pub nodes: Option<CpuSet>,
    /// Unused time that may be saved up and used above the limit, in microseconds for each 100 ms.
    pub burst_us: u64,
    /// CPU time it earns; `None` for no credits.
    pub earn: Option<Cpus>,
    /// Most of that it may save up.
    pub bank: Option<Duration>,
    /// Whether it shares no core with anybody at the same moment.
    #[serde(default)]
    pub core_scheduling: bool,
    /// What it is held to while its credits are used up; `None` while it has some. No definition says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_to: Option<Cpus>,
}

impl CpuLimits {
    /// Its credits, if it has them.
    #[must_use]
    pub fn credits(&self) -> Option<Credits> {
        let bank = u64::try_from(self.bank?.as_micros()).ok()?;
        self.earn.map(|earn| Credits {
            earn,
            bank_us: bank,
        })
    }

    /// The limit that is in force now.
    #[must_use]
    pub fn limit_now(&self) -> Option<Cpus> {
        let both = self.limit.into_iter().chain(self.held_to);
        both.min()
    }
}

/// Memory limits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryLimits {
    /// When any of this may change.
    pub resize: Resize,
    /// Hard limit.
    pub limit: Bytes,
    /// Swap beyond memory, as its own number.
    pub swap: Bytes,
    /// Throttled and reclaimed above this; `None` for no such mark.
    pub high: Option<Bytes>,
    /// Kept while others can give (best effort).
    pub low: Bytes,
    /// Kept whatever happens.
    pub min: Bytes,
    /// Whether running out kills the whole guest instead of one process.
    pub oom_group: bool,
}

/// Block I/O limits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct IoLimits {
    /// Share under contention, 1 to 10,000; `None` leaves the kernel's default.
    pub weight: Option<u32>,
    /// Limits by device.
    pub devices: Vec<BlockLimit>,
}

/// Where a guest's root lies and what may be in it; `None` for no limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DiskWish {
    /// Pool.
    pub pool: String,
    /// Most bytes of its files.
    pub size: Option<Bytes>,
    /// Most files.
    pub inodes: Option<u32>,
}

/// Limits on one block device; `None` for no limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BlockLimit {
    /// Device node on the host, such as `/dev/vda`.
    pub device: PathBuf,
    /// Bytes read a second.
    pub read: Option<Bytes>,
    /// Bytes written a second.
    pub write: Option<Bytes>,
    /// Reads a second.
    pub read_iops: Option<u64>,
    /// Writes a second.
    pub write_iops: Option<u64>,
}

/// A resource limit; `None` is unlimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Rlimit {
    /// What is in force.
    pub soft: Option<u64>,
    /// The ceiling.
    pub hard: Option<u64>,
}

/// The guest's first program and how it is stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InitCommand {
    /// Program and arguments; empty for the root's own `/sbin/init`.
    pub command: Vec<String>,
    /// Signal that asks it to shut down, such as `SIGRTMIN+3`; `None` for what its kind of init expects.
    pub stop_signal: Option<String>,
    /// Time it has before it is killed.
    pub stop_timeout: Duration,
}

/// A host path shown inside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BindMount {
    /// Absolute path on the host, resolved once.
    pub source: PathBuf,
    /// Absolute path inside.
    pub target: PathBuf,
    /// Whether it is read-only inside.
    pub read_only: bool,
    /// Whether host ids 0… appear as the guest's 0… (an idmapped mount).
    pub idmap: bool,
}

/// A memory file system inside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Tmpfs {
    /// Absolute path inside.
    pub target: PathBuf,
    /// Most bytes in it.
    pub size: Bytes,
    /// Mode of its top folder.
    pub mode: u32,
}

/// A device node shown inside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Device {
    /// Absolute path on the host, the same inside.
    pub path: PathBuf,
    /// Letters of `rwm`.
    pub access: String,
}

/// What a guest may do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Security {
    /// Capabilities in its bounding set, names with `CAP_`.
    pub capabilities: BTreeSet<String>,
    /// Name of the seccomp profile in `profiles/seccomp/`.
    pub seccomp: String,
    /// Whether programs can gain privileges by executing (setuid).
    pub no_new_privileges: bool,
    /// Whether user namespaces may be made inside (guests in guests).
    pub nesting: bool,
}

/// Whether and when a guest starts with the host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Autostart {
    /// Whether it does.
    pub enabled: bool,
    /// Higher starts earlier.
    pub priority: i32,
    /// Guests that must run before.
    pub after: Vec<GuestName>,
}

/// When to start again after an end that nobody asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// Never.
    No,
    /// After a failure, a signal or an out-of-memory kill.
    OnFailure,
    /// After any end but `stop` and the guest's own `poweroff`.
    Always,
}

/// Restart policy with its back-off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RestartRule {
    /// When.
    pub policy: RestartPolicy,
    /// First pause; doubles with each restart.
    pub delay: Duration,
    /// Longest pause.
    pub delay_max: Duration,
    /// Give up after so many restarts without ten minutes of running between; 0 for never.
    pub attempts: u32,
}

/// What network a guest has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(into = "String")]
pub enum NetworkKind {
    /// An interface on the program's own bridge.
    #[default]
    Bridge,
    /// A network namespace with nothing but loopback.
    None,
    /// The host's own network (no isolation).
    Host,
    /// An interface on a network that somebody made, by its name.
    Named(NetworkName),
}

impl NetworkKind {
    /// Whether the guest has an address of the program's.
    #[must_use]
    pub fn has_address(&self) -> bool {
        matches!(self, Self::Bridge | Self::Named(_))
    }
}

impl fmt::Display for NetworkKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Bridge => "bridge",
            Self::None => "none",
            Self::Host => "host",
            Self::Named(name) => name.as_str(),
        })
    }
}

impl From<NetworkKind> for String {
    fn from(kind: NetworkKind) -> Self {
        kind.to_string()
    }
}

/// What a definition says about the network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NetworkWish {
    /// Which interface this is about, if not the first: what a [`Nic`] wishes of its network.
    #[serde(skip)]
    pub interface: Option<NicName>,
    /// Kind of network.
    pub kind: NetworkKind,
    /// Address asked for; `None` takes one from the pool.
    pub address: Option<Ipv4Addr>,
    /// Hardware address; `None` for one made from the address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
    /// IPv6 address; `None` for the one that follows from its IPv4 address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address6: Option<std::net::Ipv6Addr>,
    /// Further interfaces, each on another network.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nics: Vec<Nic>,
    /// Name servers; empty for the host's.
    pub dns: Vec<std::net::IpAddr>,
    /// Whether it is kept apart from others that are; `None` for what the host's settings say.
    pub isolated_ports: Option<bool>,
    /// Most it receives.
    pub rate_in: Option<Rate>,
    /// Most it sends.
    pub rate_out: Option<Rate>,
    /// How much of that may come at once; `None` for what fits the rate.
    pub burst_in: Option<Bytes>,
    /// How much of that may go at once; `None` for what fits the rate.
    pub burst_out: Option<Bytes>,
    /// Ports of the host that lead to it.
    pub forwards: Vec<Forward>,
    /// What may come to it and what it may send; the first rule that fits decides, none lets pass.
    pub firewall: Vec<FirewallLine>,
    /// How many packets and connections, on all of its interfaces together.
    pub ceilings: Ceilings,
    /// Those of them that are its part of the guest's, and not asked for here: where nothing is counted
    /// there is nothing to refuse.
    #[serde(skip)]
    pub inherited: Ceilings,
    /// How much of all that in a month.
    pub allowance: Allowance,
    /// What it shares with others of its tenant; not of its definition, but of its tenant's record.
    #[serde(skip)]
    pub tenant: Option<TenantRates>,
}

/// First-boot access data.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Access {
    /// Public keys that may log in as root, one line each.
    pub ssh_keys: Vec<String>,
    /// crypt(5) hash of root's password; `None` for no password login.
    #[serde(skip_serializing)]
    pub root_password_hash: Option<String>,
}
