//! OCI Spec → launch plan: which steps, in which order. The steps themselves are next door in `step`.

use std::path::PathBuf;

use oci_spec::runtime::{LinuxIdMapping, LinuxNamespaceType, Mount, Spec};

use super::options::Options;
use super::seccomp::to_filter;
use super::spec::{self, PlanError};
use super::step::{Attributes, HostStep, IdMapLine, InitStep, LaunchPlan, Limit, StageStep};
use super::steps_mounts::host_mount;
use crate::model::{MountOp, NetOp, PRESSURE, RootOp, Shown, ShownFolder};

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
pub(super) struct Parts<'a> {
    pub(super) spec: &'a Spec,
    pub(super) linux: &'a oci_spec::runtime::Linux,
    pub(super) process: &'a oci_spec::runtime::Process,
    pub(super) owner: u32,
    pub(super) base: u32,
    pub(super) root: RootOp,
    pub(super) net: Vec<NetOp>,
    pub(super) below: Vec<MountOp>,
    pub(super) inside: Option<ShownFolder>,
    pub(super) mounts: Vec<&'a Mount>,
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
            below: annotation::<Option<_>>(spec, spec::BELOW)?.unwrap_or_default(),
            inside: annotation(spec, spec::INSIDE)?,
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

/// Whether nobody else uses a guest's cores while it runs on them.
pub(super) fn owns_cores(spec: &Spec) -> Result<bool, PlanError> {
    Ok(annotation::<Option<bool>>(spec, spec::CORES)? == Some(true))
}

/// Where the host puts the folder of files that are shown one by one over those of /proc and /sys,
/// and where the guest's procfs hides it then. Only what the host mounts is locked against being
/// made writable, and clones of it are too.
const SHELF: &str = "/proc";

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
    if let Some(inside) = &parts.inside {
        steps.push(HostStep::CloneTree {
            source: inside.folder.clone(),
            target: SHELF.into(),
            recursive: false,
        });
        let files = PRESSURE.map(|(name, target)| Shown::new(name, target));
        steps.push(HostStep::CloneCgroupFiles {
            files: files.to_vec(),
        });
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
    if parts.inside.is_some() {
        steps.push(HostStep::AttachTree {
            target: SHELF.into(),
            attributes: Attributes::INERT,
            idmap: false,
            recursive: false,
        });
    }
    for mount in &parts.mounts {
        steps.extend(host_mount(parts, mount)?);
    }
    let hidden: Option<Vec<PathBuf>> = annotation(parts.spec, spec::HIDDEN)?;
    let hidden = hidden.unwrap_or_default();
    if !hidden.is_empty() {
        steps.push(HostStep::Hide { paths: hidden });
    }
    let outside = |op: &&NetOp| op.is_outside();
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

fn stage(parts: &Parts<'_>) -> Vec<StageStep> {
    const PER_USER: [&str; 4] = ["nproc", "sigpending", "msgqueue", "memlock"];
    let ceilings = limits(parts)
        .into_iter()
        .filter(|l| PER_USER.contains(&l.name.as_str()));
    vec![
        StageStep::EnterCgroups,
        StageStep::RaiseLimits {
            limits: limits(parts),
        },
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

fn keep_whole(parts: &Parts<'_>) -> InitStep {
    let whole = parts.mounts.iter().filter_map(|mount| {
        let kind = mount.typ().clone()?;
        matches!(kind.as_str(), "proc" | "sysfs").then(|| (kind, Options::of(mount).attributes))
    });
    InitStep::KeepWhole {
        below: SHELF.into(),
        kinds: whole.collect(),
    }
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
    if owns_cores(parts.spec)? {
        steps.insert(1, InitStep::OwnCores);
    }
    if parts.inside.is_some() {
        steps.push(InitStep::KeepShelf {
            shelf: SHELF.into(),
        });
    }
    if annotation::<Option<bool>>(parts.spec, spec::NESTING)? == Some(true) {
        steps.push(keep_whole(parts));
    }
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
    let inside = |op: &&NetOp| !op.is_outside();
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
    ]);
    if let Some(inside) = &parts.inside {
        steps.push(InitStep::Show {
            files: inside.files.clone(),
        });
        steps.push(InitStep::ShowCgroupFiles {
            targets: PRESSURE.map(|(_, target)| target.into()).to_vec(),
        });
    }
    steps.extend([
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
    let user = parts.process.user();
    let directory = parts.process.cwd().clone();
    if directory != std::path::Path::new("/") {
        steps.push(InitStep::WorkIn { directory });
    }
    if (user.uid(), user.gid()) != (0, 0) {
        steps.push(InitStep::BecomeUser {
            uid: user.uid(),
            gid: user.gid(),
            groups: user.additional_gids().clone().unwrap_or_default(),
        });
    }
    steps.push(InitStep::Execute {
        argv: parts.process.args().clone().unwrap_or_default(),
        environment: parts.process.env().clone().unwrap_or_default(),
    });
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::enter;
    use crate::plan::step::name_of;

    /// The least that is a guest's, with annotations more.
    fn least(more: &[(&str, &str)]) -> Spec {
        let mut spec = serde_json::json!({
            "ociVersion": "1.2.0",
            "process": { "cwd": "/", "user": { "uid": 0, "gid": 0 }, "args": ["/sbin/init"] },
            "root": { "path": "rootfs" },
            "mounts": [],
            "linux": {
                "namespaces": [{ "type": "user" }],
                "uidMappings": [{ "containerID": 0, "hostID": 1000, "size": 10 }],
            },
            "annotations": {
                "org.bulkhead.owner": "1010",
                "org.bulkhead.cgroups": "10",
                "org.bulkhead.root":
                    "{\"root\":\"directory\",\"path\":\"/x\",\"idmap\":false,\"read_only\":false}",
                "org.bulkhead.net": "[]",
            },
        });
        for (name, value) in more {
            spec["annotations"][name] = (*value).into();
        }
        serde_json::from_value(spec).unwrap()
    }

    #[test]
    fn cores_of_its_own_come_before_all_that_could_run_on_them() {
        let names = |spec: &Spec| {
            let plan = steps(spec).unwrap();
            plan.init.iter().map(name_of).collect::<Vec<_>>()
        };
        let shared = least(&[]);
        let own = least(&[(spec::CORES, "true")]);
        assert_eq!(
            names(&own)[..4],
            ["leave-keyring", "own-cores", "set-names", "take-root"]
        );
        let mut without = names(&own);
        without.remove(1);
        assert_eq!(without, names(&shared));
        // Whoever enters later is told as well.
        assert!(enter::enter(&own).unwrap().cores);
        assert!(!enter::enter(&shared).unwrap().cores);
        assert!(steps(&least(&[(spec::CORES, "perhaps")])).is_err());
    }
}
