//! Guest × host facts × placement → OCI Spec, the waist every launch goes through.
//!
//! What OCI has no field for travels as annotations under [`PREFIX`].

use std::collections::HashMap;
use std::path::Path;
use std::str::FromStr;

use oci_spec::runtime::{
    Capability, LinuxBuilder, LinuxCapabilitiesBuilder, LinuxIdMappingBuilder,
    LinuxNamespaceBuilder, LinuxNamespaceType, LinuxSeccomp, PosixRlimitBuilder, PosixRlimitType,
    ProcessBuilder, RootBuilder, Spec, SpecBuilder, UserBuilder,
};

use oci_spec::OciSpecError;

use super::defaults;
use super::mounts::mounts;
use super::resources::{devices, resources};
use crate::model::{
    CgroupMode, CoreScheduling, CpuMode, DISKS, Guest, HostFacts, ID_BLOCK, IdBlock, MountOp,
    NetOp, NetworkKind, RootOp, ShownFolder, UNTOLD,
};

/// Prefix of the annotations that carry what OCI has no field for.
pub const PREFIX: &str = "org.bulkhead.";
/// Annotation: the host uid that creates the user namespace.
pub const OWNER: &str = "org.bulkhead.owner";
/// Annotation: the root filesystem, a [`RootOp`] as JSON.
pub const ROOT: &str = "org.bulkhead.root";
/// Annotation: the network, a list of [`NetOp`] as JSON.
pub const NET: &str = "org.bulkhead.net";
/// Annotation: paths shown as empty that the guest cannot uncover, a list as JSON.
pub const HIDDEN: &str = "org.bulkhead.hidden";
/// Annotation: further roots inside that root, a list of [`MountOp::Root`] as JSON; left out for none.
pub const BELOW: &str = "org.bulkhead.below";
/// Annotation: files of a host folder that are laid over those of /proc and /sys, a
/// [`ShownFolder`] as JSON.
pub const INSIDE: &str = "org.bulkhead.inside";
/// Annotation: `true` for a guest with user namespaces inside; left out for others.
pub const NESTING: &str = "org.bulkhead.nesting";
/// Annotation: `true` for a guest whose cores nobody else uses at the same moment; left out for others.
pub const CORES: &str = "org.bulkhead.cores";
/// Annotation: most cgroups below the guest's own.
pub const CGROUPS: &str = "org.bulkhead.cgroups";
/// Annotation: the clocks that count from boot begin at the guest's start.
pub const CLOCK: &str = "org.bulkhead.clock";

/// Annotation: `session` leaves the console without an owner, for an init that hands it out itself.
pub const CONSOLE: &str = "org.bulkhead.console";

/// CPU period, microseconds.
pub const PERIOD_US: u64 = 100_000;

/// Why a guest cannot be planned for this host.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// A setting this host's cgroups cannot carry out.
    #[error(
        "{setting} needs {needs}, and this host has {has}: leave it out, or boot the host with what it needs"
    )]
    Unsupported {
        /// Key of the definition.
        setting: &'static str,
        /// What it needs.
        needs: &'static str,
        /// What there is.
        has: &'static str,
    },
    /// A value OCI has no form for.
    #[error("cannot plan {what}: {why}")]
    Value {
        /// Which value.
        what: String,
        /// Why not.
        why: String,
    },
    /// The filter of the Spec means nothing here.
    #[error("cannot use the Spec's seccomp filter")]
    Filter(#[from] super::seccomp::FilterError),
    /// The Spec cannot be built or read.
    #[error("cannot put the plan into an OCI Spec")]
    Spec(#[from] OciSpecError),
    /// An annotation of ours cannot be read.
    #[error("cannot read the annotation {0} of the OCI Spec")]
    Annotation(&'static str, #[source] serde_json::Error),
}

/// What other rooms decided about a guest before it is planned.
#[derive(Clone, Debug)]
pub struct Placement {
    /// Its block of host ids.
    pub ids: IdBlock,
    /// Its root filesystem.
    pub root: RootOp,
    /// Mounts its template needs.
    pub mounts: Vec<MountOp>,
    /// Its network.
    pub net: Vec<NetOp>,
    /// Files it is to see over those of /proc and /sys.
    pub inside: Option<ShownFolder>,
    /// Its first program with arguments.
    pub init: Vec<String>,
    /// `NAME=VALUE` that its image wants for it, below the guest's own.
    pub environment: Vec<String>,
    /// Working folder of that program.
    pub directory: String,
    /// User, group and further groups of that program.
    pub user: (u32, u32, Vec<u32>),
    /// Its seccomp profile.
    pub seccomp: LinuxSeccomp,
    /// Numbers of the block devices its I/O limits name, in their order.
    pub block_devices: Vec<(u64, u64)>,
    /// Numbers and kind (`c`, `b`) of the devices it asks for, in their order.
    pub devices: Vec<(char, u64, u64)>,
}

/// Those of every guest, and what would tell one with files of its own about the host.
fn masked(place: &Placement) -> Vec<String> {
    let own = place.inside.is_some();
    let has_disk = place.devices.iter().any(|(kind, ..)| *kind == 'b');
    let untold = UNTOLD.into_iter().filter(|_| own);
    let disks = DISKS.into_iter().filter(|_| own && !has_disk);
    let all = defaults::MASKED.into_iter().chain(untold).chain(disks);
    all.map(str::to_owned).collect()
}

/// The OCI Spec of a guest.
pub fn spec(guest: &Guest, facts: &HostFacts, place: &Placement) -> Result<Spec, PlanError> {
    supported(guest, facts)?;
    let mapping = LinuxIdMappingBuilder::default()
        .container_id(0_u32)
        .host_id(place.ids.base)
        .size(ID_BLOCK)
        .build()?;
    let mut linux = LinuxBuilder::default()
        .namespaces(namespaces(guest, facts)?)
        .uid_mappings(vec![mapping])
        .gid_mappings(vec![mapping])
        .sysctl(guest.sysctls.clone().into_iter().collect::<HashMap<_, _>>())
        .cgroups_path(guest.name.as_str())
        .resources(resources(guest, place)?)
        .seccomp(place.seccomp.clone())
        .masked_paths(masked(place))
        .readonly_paths(defaults::READ_ONLY.map(str::to_owned).to_vec());
    linux = linux.devices(devices(guest, place)?);
    Ok(SpecBuilder::default()
        .version("1.2.0")
        .hostname(guest.hostname.clone())
        .domainname(guest.domain.clone())
        .process(process(guest, facts, place)?)
        .root(
            RootBuilder::default()
                .path("rootfs")
                .readonly(false)
                .build()?,
        )
        .mounts(mounts(guest, place)?)
        .linux(linux.build()?)
        .annotations(annotations(guest, place)?)
        .build()?)
}

/// Refuses what this host's kernel and cgroups cannot do, before anything is touched.
pub fn supported(guest: &Guest, facts: &HostFacts) -> Result<(), PlanError> {
    if guest.cpu.core_scheduling {
        own_cores(facts.core_scheduling)?;
    }
    let chooses = guest.cpu.mode != CpuMode::Shared || guest.cpu.cpuset.is_some();
    if chooses && !facts.has_cpusets() {
        return Err(PlanError::Unsupported {
            setting: match guest.cpu.mode {
                CpuMode::Shared => "cpu.cpuset",
                CpuMode::Dedicated | CpuMode::Pool => "cpu.mode",
            },
            needs: "the cpuset controller",
            has: "none, or it is not mounted",
        });
    }
    let has = match facts.cgroup_mode {
        CgroupMode::V2 => return Ok(()),
        CgroupMode::V1 => "cgroup v1",
        CgroupMode::Hybrid => "cgroup v1 controllers (hybrid)",
    };
    let unsupported = |setting| {
        Err(PlanError::Unsupported {
            setting,
            needs: "cgroup v2",
            has,
        })
    };
    if guest.memory.high.is_some() {
        return unsupported("memory.high");
    }
    if guest.memory.low.0 > 0 {
        return unsupported("memory.low");
    }
    if guest.memory.min.0 > 0 {
        return unsupported("memory.min");
    }
    if guest.memory.oom_group {
        return unsupported("memory.oom_group");
    }
    Ok(())
}

fn own_cores(here: CoreScheduling) -> Result<(), PlanError> {
    let (needs, has) = match here {
        CoreScheduling::Possible => return Ok(()),
        CoreScheduling::NoThreads => (
            "cores with two threads (SMT)",
            "none in use, so nobody can share one",
        ),
        CoreScheduling::Missing => (
            "a kernel with core scheduling (Linux 5.14, CONFIG_SCHED_CORE)",
            "one without it",
        ),
    };
    Err(PlanError::Unsupported {
        setting: "cpu.core_scheduling",
        needs,
        has,
    })
}

fn namespaces(
    guest: &Guest,
    facts: &HostFacts,
) -> Result<Vec<oci_spec::runtime::LinuxNamespace>, PlanError> {
    use LinuxNamespaceType::{Cgroup, Ipc, Mount, Network, Pid, Time, User, Uts};
    let mut kinds = vec![User, Mount, Pid, Ipc, Uts, Cgroup];
    if guest.network.kind != NetworkKind::Host {
        kinds.push(Network);
    }
    if facts.time_namespace {
        kinds.push(Time);
    }
    kinds
        .into_iter()
        .map(|kind| Ok(LinuxNamespaceBuilder::default().typ(kind).build()?))
        .collect()
}

fn process(
    guest: &Guest,
    facts: &HostFacts,
    place: &Placement,
) -> Result<oci_spec::runtime::Process, PlanError> {
    let bounding = guest
        .security
        .capabilities
        .iter()
        .map(|name| {
            Capability::from_str(name.trim_start_matches("CAP_"))
                .map_err(|_| value(format!("capability {name}"), "OCI does not know it"))
        })
        .collect::<Result<_, _>>()?;
    let capabilities = LinuxCapabilitiesBuilder::default()
        .bounding(std::collections::HashSet::clone(&bounding))
        .effective(std::collections::HashSet::clone(&bounding))
        .permitted(bounding)
        .inheritable(std::collections::HashSet::new())
        .ambient(std::collections::HashSet::new())
        .build()?;
    let mut environment: std::collections::BTreeMap<_, _> = defaults::ENVIRONMENT
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect();
    let of_image = place.environment.iter();
    environment.extend(
        of_image.filter_map(|v| v.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned()))),
    );
    environment.extend(guest.environment.clone());
    let (uid, gid, groups) = place.user.clone();
    let user = UserBuilder::default().uid(uid).gid(gid);
    let user = match groups.is_empty() {
        true => user.build()?,
        false => user.additional_gids(groups).build()?,
    };
    Ok(ProcessBuilder::default()
        .terminal(true)
        .user(user)
        .args(place.init.clone())
        .env(
            environment
                .into_iter()
                .map(|(k, v)| format!("{k}={v}"))
                .collect::<Vec<_>>(),
        )
        .cwd(place.directory.as_str())
        .capabilities(capabilities)
        .rlimits(rlimits(guest, facts)?)
        .no_new_privileges(guest.security.no_new_privileges)
        .build()?)
}

/// The guest's resource limits, none above what this program itself may have: without
/// CAP_SYS_RESOURCE the kernel would refuse, and a lower ceiling is the safe side.
fn rlimits(
    guest: &Guest,
    facts: &HostFacts,
) -> Result<Vec<oci_spec::runtime::PosixRlimit>, PlanError> {
    guest
        .rlimits
        .iter()
        .map(|(name, limit)| {
            let kind = PosixRlimitType::from_str(&format!("RLIMIT_{}", name.to_uppercase()))
                .map_err(|_| value(format!("rlimits.{name}"), "OCI does not know this limit"))?;
            let ceiling = match facts.rlimits_hard.get(name) {
                Some(hard) if !facts.can_raise_rlimits => *hard,
                _ => u64::MAX,
            };
            let hard = limit.hard.unwrap_or(u64::MAX).min(ceiling);
            let soft = limit.soft.unwrap_or(u64::MAX).min(hard);
            Ok(PosixRlimitBuilder::default()
                .typ(kind)
                .hard(hard)
                .soft(soft)
                .build()?)
        })
        .collect()
}

fn annotations(guest: &Guest, place: &Placement) -> Result<HashMap<String, String>, PlanError> {
    let json = |name, text: serde_json::Result<String>| {
        text.map_err(|error| PlanError::Annotation(name, error))
    };
    let hidden: Vec<&std::path::PathBuf> = place
        .mounts
        .iter()
        .filter_map(|op| match op {
            MountOp::Hide { targets } => Some(targets),
            _ => None,
        })
        .flatten()
        .collect();
    let mut all = HashMap::from([
        (
            HIDDEN.to_owned(),
            json(HIDDEN, serde_json::to_string(&hidden))?,
        ),
        (OWNER.to_owned(), place.ids.owner().to_string()),
        (
            ROOT.to_owned(),
            json(ROOT, serde_json::to_string(&place.root))?,
        ),
        (
            NET.to_owned(),
            json(NET, serde_json::to_string(&place.net))?,
        ),
        (CGROUPS.to_owned(), guest.cgroups.to_string()),
        (CLOCK.to_owned(), "start".to_owned()),
        (
            CONSOLE.to_owned(),
            if guest.init.command.is_empty() {
                "session"
            } else {
                "own"
            }
            .to_owned(),
        ),
    ]);
    let below = |op: &&MountOp| matches!(op, MountOp::Root { .. });
    let below: Vec<&MountOp> = place.mounts.iter().filter(below).collect();
    if !below.is_empty() {
        let text = json(BELOW, serde_json::to_string(&below))?;
        all.insert(BELOW.to_owned(), text);
    }
    if guest.cpu.core_scheduling {
        all.insert(CORES.to_owned(), "true".to_owned());
    }
    if guest.security.nesting {
        all.insert(NESTING.to_owned(), "true".to_owned());
    }
    if let Some(inside) = &place.inside {
        all.insert(
            INSIDE.to_owned(),
            json(INSIDE, serde_json::to_string(inside))?,
        );
    }
    Ok(all)
}

pub(super) fn text(path: &Path) -> Result<&str, PlanError> {
    path.to_str()
        .ok_or_else(|| value(path.display().to_string(), "not valid UTF-8"))
}

fn value(what: String, why: &str) -> PlanError {
    PlanError::Value {
        what,
        why: why.to_owned(),
    }
}
