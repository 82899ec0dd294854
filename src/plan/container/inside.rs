//! What the first process of a container does, up to its program, which is `process`'s. What the
//! host does for it is next door in `outside`.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxNamespaceType;

use super::outside::{early_hooks, has_net_devices, joined, root};
use super::step::{DeviceNode, Hook, InsideStep, MountEntry, Propagation, Show, Way};
use super::{Wish, bit, hooks, mounts, process, refuse, sysctl};
use crate::model::MountFlags;
use crate::plan::PlanError;
use crate::plan::step::InitStep;

/// Of the root alone, or with an `r` of everything below as well, whatever a mount has asked for.
fn root_propagation(wish: &Wish<'_>) -> Result<Option<Propagation>, PlanError> {
    let text = wish.linux().and_then(|l| l.rootfs_propagation().as_deref());
    match text {
        None | Some("") => Ok(None),
        Some(text) => match Propagation::parse(text) {
            Some(found) => Ok(Some(found)),
            None => Err(refuse(
                format!("linux.rootfsPropagation {text:?}"),
                "it is one of private, shared, slave and unbindable",
            )),
        },
    }
}

pub(super) fn inside(
    wish: &Wish<'_>,
    trees: Vec<InsideStep>,
    mounts: Vec<MountEntry>,
    nodes: Vec<DeviceNode>,
) -> Result<Vec<InitStep>, PlanError> {
    let mut steps = Vec::new();
    let mut push = |step| steps.push(InitStep::Container(step));
    if !wish.staged() {
        own_oom_score(wish).into_iter().for_each(&mut push);
    }
    push(InsideStep::Hide {
        keyring: !wish.keep_keyring,
    });
    if wish
        .cgroup
        .as_ref()
        .is_some_and(|c| c.place.scope.is_some())
    {
        push(InsideStep::AwaitHost);
    } else if wish.cgroup.is_some() && !wish.staged() {
        push(InsideStep::EnterCgroups);
    }
    push(InsideStep::SetAffinity { cpus: Vec::new() });
    namespace_steps(wish, &mut push)?;
    if wish.new_network() {
        push(InsideStep::LoopbackUp);
    }
    let mut closed = Vec::new();
    if wish.has(LinuxNamespaceType::Mount) {
        match wish.begins_empty() {
            true => push(InsideStep::EnterEmptyMounts),
            false => cut_propagation(wish, &mut push)?,
        }
        trees.into_iter().for_each(&mut push);
        closed = mount_steps(wish, mounts, nodes, &mut push);
    } else {
        push(InsideStep::EnterFolder);
    }
    name_steps(wish, &mut steps);
    let mut push = |step| steps.push(InitStep::Container(step));
    if process::terminal(wish.spec) {
        push(InsideStep::OpenTerminal {
            size: process::size(wish.spec),
            console: true,
        });
    }
    for target in closed {
        push(InsideStep::CloseMount { target });
    }
    let paths = |list: Option<&Vec<String>>| -> Vec<PathBuf> {
        let all = list.into_iter().flatten().map(PathBuf::from);
        // One that is there twice is covered once.
        let mut seen = HashSet::new();
        all.filter(|path| seen.insert(path.clone())).collect()
    };
    let mut read_only = paths(wish.linux().and_then(|l| l.readonly_paths().as_ref()));
    let masked = paths(wish.linux().and_then(|l| l.masked_paths().as_ref()));
    if masked.iter().any(|path| mounts::is_root(path)) {
        return Err(refuse(
            "linux.maskedPaths",
            "the root itself cannot be hidden",
        ));
    }
    // Its own attribute: a mount on it would cover nothing of what its processes see.
    let sealed = read_only.iter().any(|path| mounts::is_root(path));
    read_only.retain(|path| !mounts::is_root(path));
    if !read_only.is_empty() {
        steps.push(InitStep::ReadOnly { paths: read_only });
    }
    if !masked.is_empty() {
        steps.push(InitStep::Mask { paths: masked });
    }
    // After what is made by binding: an unbindable root could not be sealed in parts.
    if wish.has(LinuxNamespaceType::Mount) {
        let root = wish.spec.root().as_ref();
        steps.push(InitStep::Container(InsideStep::FinishRoot {
            read_only: sealed || root.is_some_and(|r| r.readonly() == Some(true)),
            propagation: root_propagation(wish)?,
        }));
    }
    let start = hooks(
        "startContainer",
        wish.spec
            .hooks()
            .as_ref()
            .and_then(|h| h.start_container().as_ref()),
    );
    process::program(wish, start, &mut steps)?;
    Ok(steps)
}

fn namespace_steps(wish: &Wish<'_>, push: &mut impl FnMut(InsideStep)) -> Result<(), PlanError> {
    let pid = bit(LinuxNamespaceType::Pid);
    let mut kinds: Vec<u64> = joined(wish).iter().map(|e| e.kind).collect();
    if wish.staged() {
        kinds.retain(|kind| *kind == bit(LinuxNamespaceType::Mount));
    }
    kinds.retain(|kind| *kind != pid);
    if !kinds.is_empty() {
        push(InsideStep::JoinNamespaces { kinds });
    }
    if wish.is_new(LinuxNamespaceType::Cgroup) {
        push(InsideStep::NewNamespaces {
            kinds: bit(LinuxNamespaceType::Cgroup),
        });
    }
    if !wish.user_namespace() {
        new_clock(wish).into_iter().for_each(push);
    }
    Ok(())
}

/// A time namespace. In a user namespace the stage makes it: the file of its offsets belongs to the
/// host's root as soon as we are hidden.
pub(super) fn new_clock(wish: &Wish<'_>) -> Option<InsideStep> {
    wish.is_new(LinuxNamespaceType::Time).then(|| {
        let offset = |name: &str| -> i128 {
            let all = wish.linux().and_then(|l| l.time_offsets().as_ref());
            let found = all.and_then(|all| all.get(name));
            found.map_or(0, |o| {
                i128::from(o.secs().unwrap_or(0)) * 1_000_000_000
                    + i128::from(o.nanosecs().unwrap_or(0))
            })
        };
        InsideStep::NewClock {
            monotonic: offset("monotonic"),
            boot: offset("boottime"),
        }
    })
}

fn cut_propagation(wish: &Wish<'_>, push: &mut impl FnMut(InsideStep)) -> Result<(), PlanError> {
    let propagation = root_propagation(wish)?;
    // The default is what mount_namespaces(7) calls a slave: it hears and is not heard.
    let private = propagation.is_some_and(|p| p.kind == Propagation::PRIVATE.kind);
    push(InsideStep::CutPropagation {
        propagation: if private {
            Propagation::PRIVATE
        } else {
            Propagation::SLAVE
        },
    });
    Ok(())
}

/// The mounts, up to the root's; what is to be made read-only when nothing more is made in it.
fn mount_steps(
    wish: &Wish<'_>,
    mounts: Vec<MountEntry>,
    nodes: Vec<DeviceNode>,
    push: &mut impl FnMut(InsideStep),
) -> Vec<PathBuf> {
    push(InsideStep::PlaceRoot);
    // A /dev of the host's is as the client wants it.
    let foreign_dev = mounts
        .iter()
        .any(|m| mounts::is_dev(&m.target) && matches!(m.show, Show::Tree { .. }));
    let mut closed: Vec<PathBuf> = Vec::new();
    for mut mount in mounts {
        // Mount points and nodes are still to be made in these.
        let late = match &mount.show {
            Show::FileSystem { kind, .. } => kind == "tmpfs",
            Show::Before => true,
            _ => false,
        };
        stay_open(&mut closed, &mount);
        if late && mount.set.has(MountFlags::READ_ONLY) {
            mount.set = mount.set.without(MountFlags::READ_ONLY);
            closed.push(mount.target.clone());
        }
        push(InsideStep::Mount {
            mount: Box::new(mount),
        });
    }
    if !foreign_dev {
        push(InsideStep::MakeNodes { nodes });
        push(InsideStep::MakeLinks);
    }
    let cwd = wish.spec.process().as_ref().map(|p| p.cwd().clone());
    if let Some(path) = cwd.filter(|path| path != Path::new("/")) {
        push(InsideStep::MakeFolder { path });
    }
    if !early_hooks(wish.spec).is_empty() || has_net_devices(wish) {
        push(InsideStep::TellMounts);
    }
    let create = hooks(
        "createContainer",
        wish.spec
            .hooks()
            .as_ref()
            .and_then(|h| h.create_container().as_ref()),
    );
    let create = with_own_environment(wish, create);
    if !create.is_empty() {
        // Where runc has them begin, and where their scripts look for things.
        let folder = root(wish).ok();
        push(InsideStep::RunHooks {
            hooks: create,
            status: "creating".into(),
            folder,
        });
    }
    push(InsideStep::EnterRoot {
        way: match (wish.begins_empty(), wish.no_pivot) {
            (true, _) => Way::Enter,
            (false, false) => Way::Pivot,
            (false, true) => Way::Cover,
        },
    });
    closed
}

/// Takes out what is not to be read-only after all, with this mount coming later, or cannot be reached
/// any more.
fn stay_open(closed: &mut Vec<PathBuf>, mount: &MountEntry) {
    match mount.show {
        Show::Before if mount.clear.has(MountFlags::READ_ONLY) => {
            closed.retain(|target| *target != mount.target);
        }
        Show::Before => {}
        _ => closed.retain(|target| !target.starts_with(&mount.target)),
    }
}

/// Hooks in the container's namespaces have its program's environment if they have none of their
/// own: that of whoever launches is not for a program of the image. Those before the start are given
/// it when it is whole.
fn with_own_environment(wish: &Wish<'_>, mut hooks: Vec<Hook>) -> Vec<Hook> {
    let process = wish.spec.process().as_ref();
    let env = process.and_then(|p| p.env().clone()).unwrap_or_default();
    for hook in &mut hooks {
        hook.env.get_or_insert_with(|| env.clone());
    }
    hooks
}

/// The score, set by the process itself: to who lacks root's rights the file is closed as soon as
/// the process hides.
pub(super) fn own_oom_score(wish: &Wish<'_>) -> Option<InsideStep> {
    let score = wish.oom_score().filter(|_| wish.facts.limited)?;
    Some(InsideStep::SetOomScore { score })
}

/// Names and kernel settings, in the container's namespaces.
fn name_steps(wish: &Wish<'_>, steps: &mut Vec<InitStep>) {
    let host = wish.spec.hostname().clone().unwrap_or_default();
    let domain = wish.spec.domainname().clone().unwrap_or_default();
    if !host.is_empty() || !domain.is_empty() {
        steps.push(InitStep::SetNames { host, domain });
    }
    let settings = sysctl::settings(wish.spec);
    if !settings.is_empty() {
        steps.push(InitStep::WriteSysctls { settings });
    }
}
