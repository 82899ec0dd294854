//! The schema of `guest.toml` and of profiles: every key there is. Which value a missing key has is
//! said next door in `default`; what a value may be, in `word` and `check`.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::capability::CapabilityChange;
use super::entry::{BlockLimitEntry, DeviceEntry, MountEntry, TmpfsEntry};
use super::events::EventsPart;
use super::layer::{Dotted, Extend, Layer, Replace, Shape, layered};
use super::nic::NicEntry;
use super::read::{Node, Reader, scalar};
use super::schedule::SnapshotsPart;
use super::word::{OrNone, Pause};
use crate::model::{
    AllowanceClass, Bytes, CpuMode, CpuPoolName, CpuSet, Cpus, FirewallLine, Forward, GuestName,
    ImageName, Mac, NetworkKind, Rate, Resize, RestartPolicy, Rlimit, TenantName, Urgency, View,
};

layered! {
    /// What a person wrote about a guest, or what a profile says about guests. Nothing is filled in.
    pub struct Definition {
        /// Recipe of the root filesystem.
        template: TemplatePart,
        /// Image it is made from instead.
        image: Option<ImageName>,
        /// Profiles below this definition, in order.
        profiles: Replace<String>,
        /// Free text; in a profile, what the profile is for.
        description: Option<String>,
        /// Free labels.
        labels: BTreeMap<String, String>,
        /// Tenant whose limits it shares.
        tenant: Option<OrNone<TenantName>>,
        /// Whether it cannot be deleted.
        protect: Option<bool>,
        /// CPU limits.
        cpu: CpuPart,
        /// Memory limits.
        memory: MemoryPart,
        /// Most processes and threads.
        processes: Option<u32>,
        /// Block I/O limits.
        io: IoPart,
        /// Where its files lie, and how much of them there may be.
        disk: DiskPart,
        /// Resource limits by name.
        rlimits: BTreeMap<String, Rlimit>,
        /// Kernel settings by name.
        sysctls: Dotted,
        /// Host name inside.
        hostname: Option<String>,
        /// Domain name inside.
        domain: Option<String>,
        /// Time zone name.
        timezone: Option<String>,
        /// Environment of the first program.
        environment: BTreeMap<String, String>,
        /// First program.
        init: InitPart,
        /// Host paths shown inside.
        mount: Vec<MountEntry>,
        /// Memory file systems.
        tmpfs: Vec<TmpfsEntry>,
        /// Devices.
        device: Vec<DeviceEntry>,
        /// What it may do.
        security: SecurityPart,
        /// Start with the host.
        autostart: AutostartPart,
        /// Start again after an end.
        restart: RestartPart,
        /// Snapshots that are taken by the clock.
        snapshots: SnapshotsPart,
        /// What is told of it.
        events: EventsPart,
        /// Network.
        network: NetworkPart,
        /// First-boot access data.
        access: AccessPart,
        /// Whose numbers it sees in /proc.
        view: Option<View>,
        /// Most pseudo-terminals.
        ptys: Option<u32>,
        /// Most bytes of console output kept.
        console_log: Option<Bytes>,
        /// Most cgroups below the guest's own.
        cgroups: Option<u32>,
        /// In a profile: why it says what it says, by key.
        why: Dotted,
    }
}

layered! {
    /// `[cpu]`
    pub struct CpuPart {
        /// How it is given CPUs.
        mode: Option<CpuMode>,
        /// Whole CPUs for it alone.
        dedicated: Option<OrNone<u32>>,
        /// The pool of CPUs it is in.
        pool: Option<OrNone<CpuPoolName>>,
        /// When its CPUs may change.
        resize: Option<Resize>,
        /// Hard limit in CPUs.
        limit: Option<OrNone<Cpus>>,
        /// Guaranteed CPUs.
        entitled: Option<OrNone<Cpus>>,
        /// Share under contention.
        weight: Option<u32>,
        /// CPUs it may run on.
        cpuset: Option<OrNone<CpuSet>>,
        /// Unused time that may be used above the limit, in CPUs.
        burst: Option<OrNone<Cpus>>,
        /// CPU time earned for credits.
        earn: Option<OrNone<Cpus>>,
        /// Most of them that are saved up.
        bank: Option<OrNone<Pause>>,
        /// Whether it shares no core with anybody.
        core_scheduling: Option<bool>,
    }
}

layered! {
    /// `[memory]`
    pub struct MemoryPart {
        /// When its memory may change.
        resize: Option<Resize>,
        /// Hard limit.
        limit: Option<Bytes>,
        /// Swap beyond memory.
        swap: Option<Bytes>,
        /// Throttled above this.
        high: Option<OrNone<Bytes>>,
        /// Kept while others can give.
        low: Option<Bytes>,
        /// Kept whatever happens.
        min: Option<Bytes>,
        /// Whether running out kills the whole guest.
        oom_group: Option<bool>,
    }
}

layered! {
    /// `[io]`
    pub struct IoPart {
        /// Share under contention.
        weight: Option<OrNone<u32>>,
        /// Limits by device.
        device: Vec<BlockLimitEntry>,
    }
}

layered! {
    /// `[disk]`
    pub struct DiskPart {
        /// Pool its root lies in.
        pool: Option<String>,
        /// Most bytes of its files.
        size: Option<OrNone<Bytes>>,
        /// Most files.
        inodes: Option<OrNone<u32>>,
    }
}

layered! {
    /// `[init]`
    pub struct InitPart {
        /// Program and arguments.
        command: Replace<String>,
        /// Signal that asks it to shut down.
        stop_signal: Option<OrNone<String>>,
        /// Time it has before it is killed.
        stop_timeout: Option<Pause>,
    }
}

layered! {
    /// `[autostart]`
    pub struct AutostartPart {
        /// Whether it starts with the host.
        enabled: Option<bool>,
        /// Higher starts earlier.
        priority: Option<i32>,
        /// Guests that must run before.
        after: Extend<GuestName>,
    }
}

layered! {
    /// `[restart]`
    pub struct RestartPart {
        /// When.
        policy: Option<RestartPolicy>,
        /// First pause.
        delay: Option<Pause>,
        /// Longest pause.
        delay_max: Option<Pause>,
        /// Give up after so many.
        attempts: Option<u32>,
    }
}

layered! {
    /// `[network]`
    pub struct NetworkPart {
        /// Kind of network.
        kind: Option<NetworkKind>,
        /// Address asked for.
        address: Option<OrNone<Ipv4Addr>>,
        /// Hardware address.
        mac: Option<OrNone<Mac>>,
        /// IPv6 address asked for.
        address6: Option<OrNone<Ipv6Addr>>,
        /// Further interfaces.
        nic: Vec<NicEntry>,
        /// Name servers.
        dns: Replace<IpAddr>,
        /// Whether it is kept apart from others that are.
        isolated_ports: Option<OrNone<bool>>,
        /// How fast it is told.
        rate_in: Option<OrNone<Rate>>,
        /// How fast it tells.
        rate_out: Option<OrNone<Rate>>,
        /// How much comes at once.
        burst_in: Option<OrNone<Bytes>>,
        /// How much goes at once.
        burst_out: Option<OrNone<Bytes>>,
        /// Ports of the host that lead to it.
        forward: Extend<Forward>,
        /// Rules of its firewall.
        firewall: Extend<FirewallLine>,
        /// Packets it sends in a second.
        packets: Option<OrNone<u32>>,
        /// Connections it begins in a second.
        new_connections: Option<OrNone<u32>>,
        /// Connections the host keeps track of.
        connections: Option<OrNone<u32>>,
        /// Who goes first.
        priority: Option<Urgency>,
        /// Bytes a month.
        allowance: Option<OrNone<Bytes>>,
        /// What of it counts.
        allowance_class: Option<AllowanceClass>,
        /// When a month begins.
        allowance_day: Option<u32>,
        /// How fast it is beyond.
        allowance_rate: Option<OrNone<Rate>>,
        /// Where nothing passes.
        allowance_cut: Option<OrNone<Bytes>>,
    }
}

layered! {
    /// `[access]`
    pub struct AccessPart {
        /// Public keys that may log in as root.
        ssh_keys: Extend<String>,
        /// crypt(5) hash of root's password.
        root_password_hash: Option<OrNone<String>>,
    }
}

/// `template = "debian"`, or `[template]` with `name` and the template's own options.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TemplatePart {
    /// Its name.
    pub name: Option<String>,
    /// Its options.
    pub options: BTreeMap<String, String>,
}

impl Layer for TemplatePart {
    const SHAPE: Shape = Shape::Table(&[("name", &Shape::Single), ("options", &Shape::Map)]);

    /// Options belong to one template: those of another are left behind.
    fn over(self, lower: Self) -> Self {
        let Self { name, options } = self;
        match name {
            Some(name) if lower.name.as_ref() != Some(&name) => Self {
                name: Some(name),
                options,
            },
            name => Self {
                name: name.or(lower.name),
                options: options.over(lower.options),
            },
        }
    }

    fn read(reader: &mut Reader<'_>, path: &str, node: &Node<'_>) -> Self {
        if scalar(node.get_ref()).is_some() {
            return Self {
                name: reader.word(path, node),
                options: BTreeMap::new(),
            };
        }
        let mut options: BTreeMap<String, String> = Layer::read(reader, path, node);
        Self {
            name: options.remove("name"),
            options,
        }
    }
}

/// `[security]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecurityPart {
    /// `add` and `drop`.
    pub capabilities: CapabilityChange,
    /// Name of the seccomp profile.
    pub seccomp: Option<String>,
    /// Whether programs can gain privileges by executing.
    pub no_new_privileges: Option<bool>,
    /// Whether user namespaces may be made inside.
    pub nesting: Option<bool>,
}

impl Layer for SecurityPart {
    const SHAPE: Shape = Shape::Table(&[
        ("add", &Shape::Words),
        ("drop", &Shape::Words),
        ("seccomp", &Shape::Single),
        ("no_new_privileges", &Shape::Single),
        ("nesting", &Shape::Single),
    ]);

    fn over(self, lower: Self) -> Self {
        let Self {
            capabilities,
            seccomp,
            no_new_privileges,
            nesting,
        } = self;
        Self {
            capabilities: capabilities.after(&lower.capabilities),
            seccomp: seccomp.over(lower.seccomp),
            no_new_privileges: no_new_privileges.over(lower.no_new_privileges),
            nesting: nesting.over(lower.nesting),
        }
    }

    fn read(reader: &mut Reader<'_>, path: &str, node: &Node<'_>) -> Self {
        let Some(table) = reader.table(path, node) else {
            return Self::default();
        };
        let names = &["add", "drop", "seccomp", "no_new_privileges", "nesting"];
        reader.known(path, table, names);
        let (add, drop) = (
            reader.field(path, table, "add"),
            reader.field(path, table, "drop"),
        );
        if let Some(message) = CapabilityChange::refused(&add) {
            reader.fault_at_key("security.add", format!("security.add: {message}"));
        }
        Self {
            capabilities: CapabilityChange::of(&add, &drop),
            seccomp: reader.field(path, table, "seccomp"),
            no_new_privileges: reader.field(path, table, "no_new_privileges"),
            nesting: reader.field(path, table, "nesting"),
        }
    }
}
