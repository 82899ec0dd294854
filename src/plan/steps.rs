//! OCI Spec → launch plan: what each process of a launch does, in order, as data.
//!
//! Three lists because three processes do it, three types because a step must not run in the wrong
//! one. Every step says why it stands where it stands; `launch` only loops over them.

use std::path::PathBuf;

use oci_spec::runtime::{LinuxIdMapping, LinuxNamespaceType, LinuxResources, Mount, Spec};
use serde::Serialize;

use super::seccomp::to_filter;
use super::spec::{self, PlanError};
use crate::model::{Filter, NetOp, RootOp};

/// Attributes of a mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Attributes {
    /// Not to be written through.
    pub read_only: bool,
    /// setuid bits mean nothing.
    pub nosuid: bool,
    /// Device nodes mean nothing.
    pub nodev: bool,
    /// Nothing can be executed.
    pub noexec: bool,
}

/// A device node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Node {
    /// Name below /dev, may hold slashes.
    pub name: String,
    /// Whether it is a block device.
    pub block: bool,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Permission bits.
    pub mode: u32,
}

/// A resource limit as numbers; `u64::MAX` is none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Limit {
    /// Lower-case name.
    pub name: String,
    /// In force.
    pub soft: u64,
    /// Ceiling.
    pub hard: u64,
}

/// A step of the launching process.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
pub enum HostStep {
    /// Have the compiled system call filter ready, so that nothing is compiled in the guest.
    PrepareFilter {
        /// The filter.
        filter: Box<Filter>,
    },
    /// Make the cgroups and set the limits.
    MakeCgroup {
        /// Name below the program's own parent.
        name: String,
        /// Limits.
        resources: Box<LinuxResources>,
        /// Most cgroups the guest may make.
        descendants: u32,
        /// Host uid and gid the guest's own subtree is handed to.
        delegate: (u32, u32),
    },
    /// Take a detached clone of a host path.
    CloneTree {
        /// Host path.
        source: PathBuf,
        /// Where it goes later, which also names the clone.
        target: PathBuf,
        /// With everything mounted below.
        recursive: bool,
    },
    /// Take a detached clone of the guest's own cgroup.
    CloneCgroup {
        /// Where it goes later.
        target: PathBuf,
    },
    /// Work in a private copy of the host's mounts from here on.
    PrivateMounts,
    /// Make the stage process, in the cgroup.
    MakeStage,
    /// Wait until the stage has made the user namespace.
    AwaitUserNamespace,
    /// Write its id maps.
    WriteIdMaps {
        /// User ids.
        users: Vec<IdMapLine>,
        /// Group ids.
        groups: Vec<IdMapLine>,
    },
    /// Set its clocks to begin now.
    WriteClock,
    /// Mount the root filesystem.
    MountRoot {
        /// How.
        root: RootOp,
        /// Host id that is root inside, as which an overlay works on its layers.
        owner: u32,
    },
    /// Put a memory file system into the root.
    MountTmpfs {
        /// Where.
        target: PathBuf,
        /// Mount options.
        options: Vec<(String, String)>,
        /// Attributes.
        attributes: Attributes,
    },
    /// Make the device nodes and links in the /dev just mounted.
    MakeDevices {
        /// Nodes.
        nodes: Vec<Node>,
        /// Host id that owns them.
        owner: u32,
    },
    /// Put a cloned tree into the root.
    AttachTree {
        /// Where.
        target: PathBuf,
        /// Attributes.
        attributes: Attributes,
        /// Whether ids are shifted into the guest's block.
        idmap: bool,
        /// With everything mounted below.
        recursive: bool,
    },
    /// Let the stage make the guest's first process.
    ReleaseStage,
    /// Wait for that process to have its namespaces and console.
    AwaitInit,
    /// Go back to the host's own mounts; the guest has taken its tree along.
    LeaveMounts,
    /// Connect its network namespace.
    ConnectNetwork {
        /// Operations on the host's side.
        ops: Vec<NetOp>,
    },
    /// Let it go on to execute.
    ReleaseInit,
    /// Wait until it has executed.
    AwaitExec,
}

/// One line of an id map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct IdMapLine {
    /// First id inside.
    pub inside: u32,
    /// First id on the host.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// A step of the stage: the process between host and guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
pub enum StageStep {
    /// Enter the version 1 cgroups (version 2 it was born in).
    EnterCgroups,
    /// Set the limits that become ceilings of the whole user namespace.
    SetCeilings {
        /// Limits.
        limits: Vec<Limit>,
    },
    /// Become the host uid that belongs to this guest alone.
    BecomeOwner {
        /// Host uid and gid.
        owner: u32,
    },
    /// Make the user namespace, and a time namespace.
    MakeUserNamespace {
        /// Whether clocks are the guest's own.
        time: bool,
    },
    /// Tell the host, wait until it has written the maps and mounted the root.
    AwaitMaps,
    /// Become root inside.
    BecomeRoot,
    /// Make the guest's first process in the other namespaces.
    MakeInit {
        /// CLONE_NEW* bits.
        namespaces: u64,
    },
}

/// A step of the guest's first process.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
pub enum InitStep {
    /// Leave the session keyring of whoever started us.
    LeaveKeyring,
    /// Name the guest.
    SetNames {
        /// Host name.
        host: String,
        /// Domain name.
        domain: String,
    },
    /// Take the tree that the host built.
    TakeRoot,
    /// Mount a file system that belongs to the guest's namespaces.
    Mount {
        /// Where.
        target: PathBuf,
        /// Kind.
        kind: String,
        /// Options.
        options: Vec<(String, String)>,
        /// Attributes.
        attributes: Attributes,
    },
    /// Put the guest's own cgroup there.
    MountCgroup {
        /// Where.
        target: PathBuf,
        /// Attributes.
        attributes: Attributes,
    },
    /// Show these paths as empty.
    Mask {
        /// Paths; those that do not exist are fine.
        paths: Vec<PathBuf>,
    },
    /// Show these paths read-only.
    ReadOnly {
        /// Paths; those that do not exist are fine.
        paths: Vec<PathBuf>,
    },
    /// Open the console in the guest's own devpts.
    OpenConsole,
    /// Tell the host that the network namespace stands, wait until it is connected.
    AwaitNetwork,
    /// Addresses and routes.
    ConfigureNetwork {
        /// Operations inside.
        ops: Vec<NetOp>,
    },
    /// Write kernel settings of the guest's namespaces.
    WriteSysctls {
        /// Name with dots, value.
        settings: Vec<(String, String)>,
    },
    /// Let go of the host's mounts.
    BecomeRoot,
    /// Set resource limits of the first process.
    SetLimits {
        /// Limits.
        limits: Vec<Limit>,
    },
    /// Take the console as standard input and output.
    TakeConsole {
        /// Whether it becomes the controlling terminal. An init hands its console to the getty it
        /// starts, which could not take it from a session that owns it.
        controlling: bool,
    },
    /// Executing can add no privileges from here on.
    NoNewPrivileges,
    /// Cut the capability sets.
    CutCapabilities {
        /// Names that stay in the bounding set.
        keep: Vec<String>,
    },
    /// Load the system call filter that the host has prepared.
    LoadSeccomp,
    /// Close all descriptors and execute.
    Execute {
        /// Program and arguments.
        argv: Vec<String>,
        /// Environment.
        environment: Vec<String>,
    },
}

/// A launch as data.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LaunchPlan {
    /// The launching process.
    pub host: Vec<HostStep>,
    /// The stage.
    pub stage: Vec<StageStep>,
    /// The guest's first process.
    pub init: Vec<InitStep>,
}

/// The plan of a Spec.
pub fn steps(spec: &Spec) -> Result<LaunchPlan, PlanError> {
    let parts = Parts::of(spec)?;
    Ok(LaunchPlan {
        host: host(&parts)?,
        stage: stage(&parts),
        init: init(&parts)?,
    })
}

/// What the three lists are made from, taken out of the Spec once.
struct Parts<'a> {
    spec: &'a Spec,
    linux: &'a oci_spec::runtime::Linux,
    process: &'a oci_spec::runtime::Process,
    owner: u32,
    base: u32,
    root: RootOp,
    net: Vec<NetOp>,
    mounts: Vec<&'a Mount>,
}

impl<'a> Parts<'a> {
    fn of(spec: &'a Spec) -> Result<Self, PlanError> {
        let missing = |what: &str| PlanError::Value {
            what: format!("the Spec's {what}"),
            why: "it is missing".into(),
        };
        let linux = spec.linux().as_ref().ok_or_else(|| missing("linux"))?;
        let process = spec.process().as_ref().ok_or_else(|| missing("process"))?;
        let base = linux
            .uid_mappings()
            .as_ref()
            .and_then(|maps| maps.iter().find(|m| m.container_id() == 0))
            .map(LinuxIdMapping::host_id)
            .ok_or_else(|| missing("uidMappings"))?;
        let owner = annotation(spec, spec::OWNER)?;
        let mounts = spec
            .mounts()
            .as_ref()
            .ok_or_else(|| missing("mounts"))?
            .iter()
            .collect();
        Ok(Self {
            spec,
            linux,
            process,
            owner,
            base,
            root: annotation(spec, spec::ROOT)?,
            net: annotation(spec, spec::NET)?,
            mounts,
        })
    }

    fn has(&self, kind: LinuxNamespaceType) -> bool {
        let namespaces = self.linux.namespaces().as_deref().unwrap_or_default();
        namespaces.iter().any(|n| n.typ() == kind)
    }
}

fn annotation<T: serde::de::DeserializeOwned>(
    spec: &Spec,
    name: &'static str,
) -> Result<T, PlanError> {
    let text = spec
        .annotations()
        .as_ref()
        .and_then(|all| all.get(name))
        .map_or("null", |t| t);
    serde_json::from_str(text).map_err(|error| PlanError::Annotation(name, error))
}

/// Kinds whose superblock must belong to the guest's namespaces, so that only its init can mount them.
fn belongs_inside(mount: &Mount) -> bool {
    matches!(
        mount.typ().as_deref(),
        Some("proc" | "sysfs" | "devpts" | "mqueue")
    )
}

fn host(parts: &Parts<'_>) -> Result<Vec<HostStep>, PlanError> {
    let mut steps = Vec::new();
    if let Some(seccomp) = parts.linux.seccomp() {
        steps.push(HostStep::PrepareFilter {
            filter: Box::new(to_filter(seccomp)?),
        });
    }
    steps.push(HostStep::MakeCgroup {
        name: parts
            .linux
            .cgroups_path()
            .as_deref()
            .map(|p| p.display().to_string())
            .unwrap_or_default(),
        resources: Box::new(parts.linux.resources().clone().unwrap_or_default()),
        descendants: annotation(parts.spec, spec::CGROUPS)?,
        delegate: (parts.base, parts.base),
    });
    for mount in &parts.mounts {
        match mount.typ().as_deref() {
            Some("bind") => steps.push(HostStep::CloneTree {
                source: mount.source().clone().unwrap_or_default(),
                target: mount.destination().clone(),
                recursive: Options::of(mount).recursive,
            }),
            Some("cgroup") => {
                steps.push(HostStep::CloneCgroup {
                    target: mount.destination().clone(),
                });
            }
            _ => {}
        }
    }
    let lines = |maps: &Option<Vec<LinuxIdMapping>>| {
        maps.iter()
            .flatten()
            .map(|m| IdMapLine {
                inside: m.container_id(),
                outside: m.host_id(),
                count: m.size(),
            })
            .collect()
    };
    steps.extend([
        HostStep::PrivateMounts,
        HostStep::MakeStage,
        HostStep::AwaitUserNamespace,
        HostStep::WriteIdMaps {
            users: lines(parts.linux.uid_mappings()),
            groups: lines(parts.linux.gid_mappings()),
        },
    ]);
    if parts.has(LinuxNamespaceType::Time) {
        steps.push(HostStep::WriteClock);
    }
    steps.push(HostStep::MountRoot {
        root: parts.root.clone(),
        owner: parts.base,
    });
    for mount in &parts.mounts {
        steps.extend(host_mount(parts, mount));
    }
    let outside = |op: &&NetOp| matches!(op, NetOp::Veth { .. });
    steps.extend([
        HostStep::ReleaseStage,
        HostStep::AwaitInit,
        HostStep::LeaveMounts,
        HostStep::ConnectNetwork {
            ops: parts.net.iter().filter(outside).cloned().collect(),
        },
        HostStep::ReleaseInit,
        HostStep::AwaitExec,
    ]);
    Ok(steps)
}

/// What the host mounts: everything that may be locked against the guest.
fn host_mount(parts: &Parts<'_>, mount: &Mount) -> Vec<HostStep> {
    let options = Options::of(mount);
    let target = mount.destination().clone();
    match mount.typ().as_deref() {
        Some("bind") => vec![HostStep::AttachTree {
            target,
            attributes: options.attributes,
            idmap: options.idmap,
            recursive: options.recursive,
        }],
        Some("tmpfs") => {
            let mut settings = options.settings;
            settings.push(("uid".into(), parts.base.to_string()));
            settings.push(("gid".into(), parts.base.to_string()));
            let dev = target.as_os_str() == "/dev";
            let mut steps = vec![HostStep::MountTmpfs {
                target,
                options: settings,
                attributes: options.attributes,
            }];
            if dev {
                steps.push(HostStep::MakeDevices {
                    nodes: nodes(parts),
                    owner: parts.base,
                });
            }
            steps
        }
        _ => Vec::new(),
    }
}

fn nodes(parts: &Parts<'_>) -> Vec<Node> {
    let number = |n: i64| u32::try_from(n).unwrap_or(0);
    parts
        .linux
        .devices()
        .iter()
        .flatten()
        .filter_map(|device| {
            let name = device
                .path()
                .strip_prefix("/dev")
                .ok()?
                .to_str()?
                .to_owned();
            Some(Node {
                name,
                block: device.typ() == oci_spec::runtime::LinuxDeviceType::B,
                major: number(device.major()),
                minor: number(device.minor()),
                mode: device.file_mode().unwrap_or(0o666),
            })
        })
        .collect()
}

fn stage(parts: &Parts<'_>) -> Vec<StageStep> {
    const PER_USER: [&str; 4] = ["nproc", "sigpending", "msgqueue", "memlock"];
    let ceilings = limits(parts)
        .into_iter()
        .filter(|l| PER_USER.contains(&l.name.as_str()));
    vec![
        StageStep::EnterCgroups,
        StageStep::SetCeilings {
            limits: ceilings.collect(),
        },
        StageStep::BecomeOwner { owner: parts.owner },
        StageStep::MakeUserNamespace {
            time: parts.has(LinuxNamespaceType::Time),
        },
        StageStep::AwaitMaps,
        StageStep::BecomeRoot,
        StageStep::MakeInit {
            namespaces: inner_namespaces(parts),
        },
    ]
}

/// CLONE_NEW* bits of what the first process is born into; user and time stand already.
fn inner_namespaces(parts: &Parts<'_>) -> u64 {
    use LinuxNamespaceType::{Cgroup, Ipc, Mount, Network, Pid, Uts};
    // Numbers of clone(2), the same on every architecture.
    [
        (Mount, 0x0002_0000_u64),
        (Cgroup, 0x0200_0000),
        (Uts, 0x0400_0000),
        (Ipc, 0x0800_0000),
        (Pid, 0x2000_0000),
        (Network, 0x4000_0000),
    ]
    .into_iter()
    .filter(|(kind, _)| parts.has(*kind))
    .fold(0, |all, (_, bit)| all | bit)
}

pub(super) fn limits_of(process: &oci_spec::runtime::Process) -> Vec<Limit> {
    process
        .rlimits()
        .iter()
        .flatten()
        .map(|limit| Limit {
            name: limit
                .typ()
                .to_string()
                .trim_start_matches("RLIMIT_")
                .to_lowercase(),
            soft: limit.soft(),
            hard: limit.hard(),
        })
        .collect()
}

fn limits(parts: &Parts<'_>) -> Vec<Limit> {
    limits_of(parts.process)
}

pub(super) fn bounding_of(process: &oci_spec::runtime::Process) -> Vec<String> {
    let set = process
        .capabilities()
        .as_ref()
        .and_then(|c| c.bounding().as_ref());
    let mut keep: Vec<String> = set
        .into_iter()
        .flatten()
        .map(|c| {
            let name = c.to_string();
            if name.starts_with("CAP_") {
                name
            } else {
                format!("CAP_{name}")
            }
        })
        .collect();
    keep.sort();
    keep
}

fn init(parts: &Parts<'_>) -> Result<Vec<InitStep>, PlanError> {
    let mut steps = vec![
        InitStep::LeaveKeyring,
        InitStep::SetNames {
            host: parts.spec.hostname().clone().unwrap_or_default(),
            domain: parts.spec.domainname().clone().unwrap_or_default(),
        },
        InitStep::TakeRoot,
    ];
    for mount in &parts.mounts {
        let options = Options::of(mount);
        let (target, attributes) = (mount.destination().clone(), options.attributes);
        if belongs_inside(mount) {
            let kind = mount.typ().clone().unwrap_or_default();
            steps.push(InitStep::Mount {
                target,
                kind,
                options: options.settings,
                attributes,
            });
        } else if mount.typ().as_deref() == Some("cgroup") {
            steps.push(InitStep::MountCgroup { target, attributes });
        }
    }
    let paths = |list: &Option<Vec<String>>| list.iter().flatten().map(PathBuf::from).collect();
    let mut settings: Vec<_> = parts
        .linux
        .sysctl()
        .iter()
        .flatten()
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    settings.sort();
    let inside = |op: &&NetOp| !matches!(op, NetOp::Veth { .. });
    let console = parts
        .spec
        .annotations()
        .as_ref()
        .and_then(|all| all.get(spec::CONSOLE));
    steps.extend([
        InitStep::Mask {
            paths: paths(parts.linux.masked_paths()),
        },
        InitStep::ReadOnly {
            paths: paths(parts.linux.readonly_paths()),
        },
        InitStep::OpenConsole,
        InitStep::AwaitNetwork,
        InitStep::ConfigureNetwork {
            ops: parts.net.iter().filter(inside).cloned().collect(),
        },
        InitStep::WriteSysctls { settings },
        InitStep::BecomeRoot,
        InitStep::SetLimits {
            limits: limits(parts),
        },
        InitStep::TakeConsole {
            controlling: console.is_none_or(|c| c != "session"),
        },
    ]);
    if parts.process.no_new_privileges().unwrap_or(false) {
        steps.push(InitStep::NoNewPrivileges);
    }
    steps.push(InitStep::CutCapabilities {
        keep: bounding_of(parts.process),
    });
    if parts.linux.seccomp().is_some() {
        steps.push(InitStep::LoadSeccomp);
    }
    steps.push(InitStep::Execute {
        argv: parts.process.args().clone().unwrap_or_default(),
        environment: parts.process.env().clone().unwrap_or_default(),
    });
    Ok(steps)
}

/// A mount's options, sorted by what they are for.
struct Options {
    attributes: Attributes,
    recursive: bool,
    idmap: bool,
    settings: Vec<(String, String)>,
}

impl Options {
    fn of(mount: &Mount) -> Self {
        let mut all = Self {
            attributes: Attributes::default(),
            recursive: false,
            idmap: false,
            settings: Vec::new(),
        };
        for option in mount.options().iter().flatten() {
            match option.as_str() {
                "ro" => all.attributes.read_only = true,
                "nosuid" => all.attributes.nosuid = true,
                "nodev" => all.attributes.nodev = true,
                "noexec" => all.attributes.noexec = true,
                "bind" | "rw" | "strictatime" => {}
                "rbind" => all.recursive = true,
                "idmap" => all.idmap = true,
                "ridmap" => (all.idmap, all.recursive) = (true, true),
                other => {
                    let (key, value) = other.split_once('=').unwrap_or((other, ""));
                    all.settings.push((key.to_owned(), value.to_owned()));
                }
            }
        }
        all
    }
}
