//! What the launching process does for a container, and the stage between it and the container
//! where there is one. What the first process does is next door in `inside`.

use std::path::PathBuf;

use oci_spec::runtime::{LinuxNamespaceType, Spec};

use super::inside::{new_clock, own_oom_score};
use super::sources::Trees;
use super::step::{Existing, Hook, InsideStep, OutsideStep};
use super::{Wish, bit, devices, filter, hooks, mounts, path_of, process, refuse, sysctl};
use crate::model::CgroupPlan;
use crate::plan::PlanError;
use crate::plan::step::{HostStep, StageStep};

/// Namespaces that are joined, in the order in which that can be done.
pub(super) fn joined(wish: &Wish<'_>) -> Vec<Existing> {
    // The mount namespace last, since it takes the paths away.
    let order = [
        LinuxNamespaceType::Network,
        LinuxNamespaceType::Ipc,
        LinuxNamespaceType::Uts,
        LinuxNamespaceType::Cgroup,
        LinuxNamespaceType::Pid,
        LinuxNamespaceType::Time,
        LinuxNamespaceType::User,
        LinuxNamespaceType::Mount,
    ];
    let mut all = Vec::new();
    for kind in order {
        let path = wish.namespace(kind).and_then(path_of);
        if let Some(path) = path {
            all.push(Existing {
                kind: bit(kind),
                path: path.clone(),
                changed: is_changed(wish, kind),
            });
        }
    }
    all
}

/// Whether a namespace of this kind is not as before when the container has begun.
fn is_changed(wish: &Wish<'_>, kind: LinuxNamespaceType) -> bool {
    let given = |name: &Option<String>| name.as_ref().is_some_and(|name| !name.is_empty());
    let named = || given(wish.spec.hostname()) || given(wish.spec.domainname());
    match kind {
        LinuxNamespaceType::Mount => true,
        LinuxNamespaceType::Uts if named() => true,
        kind => sysctl::changes(wish.spec, kind),
    }
}

pub(super) fn outside(wish: &Wish<'_>, trees: Trees) -> Result<Vec<HostStep>, PlanError> {
    let mut steps = Vec::new();
    steps.extend(filter::ready(wish.spec, wish.filter_known)?);
    let mut push = |step| steps.push(HostStep::Container(step));
    push(OutsideStep::Open {
        root: root(wish)?,
        join: joined(wish),
        clone: !wish.clones_inside(),
    });
    let cgroups = trees.cgroups;
    trees.steps.into_iter().for_each(&mut push);
    let scope = wish.cgroup.as_ref().filter(|c| c.place.scope.is_some());
    let unscoped = wish.cgroup.as_ref().filter(|_| scope.is_none());
    let mut limits = unscoped.map(|plan| OutsideStep::LimitCgroups {
        plan: Box::new(plan.clone()),
        optional: is_optional(wish, plan),
    });
    if let (Some(plan), None) = (&wish.cgroup, scope) {
        let optional = is_optional(wish, plan);
        let plan = Box::new(plan.clone());
        push(OutsideStep::MakeCgroups { plan, optional });
        // Programs of the client's may run as soon as the first process is there, and its own
        // scheduling depends on what its group may have.
        let process = wish.spec.process().as_ref();
        let scheduled = process.is_some_and(|p| p.scheduler().is_some());
        if has_hooks_before_root(wish.spec) || scheduled {
            limits.take().into_iter().for_each(&mut push);
        }
        (0..cgroups).for_each(|_| push(OutsideStep::CloneCgroups));
    }
    if wish.staged() {
        steps.push(HostStep::MakeStage);
        if wish.is_new(LinuxNamespaceType::User) {
            let linux = wish.linux();
            let lines = |maps: Option<&[_]>| maps.map(mounts::lines).unwrap_or_default();
            steps.push(HostStep::AwaitUserNamespace);
            steps.push(HostStep::WriteIdMaps {
                users: lines(linux.and_then(|l| l.uid_mappings().as_deref())),
                groups: lines(linux.and_then(|l| l.gid_mappings().as_deref())),
            });
            steps.push(HostStep::Container(OutsideStep::Continue));
        }
        steps.push(HostStep::Container(OutsideStep::AwaitBirth));
    } else {
        steps.push(HostStep::Container(OutsideStep::MakeInit {
            namespaces: born_into(wish),
        }));
    }
    let mut push = |step| steps.push(HostStep::Container(step));
    if let Some(plan) = scope {
        let plan = Box::new(plan.clone());
        push(OutsideStep::MakeScope { plan });
        push(OutsideStep::Continue);
    }
    push(OutsideStep::Record);
    limits.into_iter().for_each(&mut push);
    if let Some(score) = wish.oom_score().filter(|_| !wish.facts.limited) {
        push(OutsideStep::SetOomScore { score });
    }
    after_birth(wish, &mut push);
    steps.extend([HostStep::ReleaseInit, HostStep::AwaitExec]);
    Ok(steps)
}

/// Whether a container can do without its groups: nothing was asked of them, and they may be denied.
fn is_optional(wish: &Wish<'_>, plan: &CgroupPlan) -> bool {
    wish.facts.limited && plan.settings.is_empty()
}

/// What the host does for a process that is there.
pub(super) fn after_birth(wish: &Wish<'_>, push: &mut impl FnMut(OutsideStep)) {
    if let Some(rdt) = wish.linux().and_then(|l| l.intel_rdt().as_ref()) {
        push(devices::rdt_group(wish.id, rdt));
    }
    let devices = wish.linux().and_then(|l| l.net_devices().as_ref());
    if let Some(devices) = devices.filter(|d| !d.is_empty()) {
        let mut devices: Vec<(String, String)> = devices
            .iter()
            .map(|(name, device)| {
                let inside = device.name().clone().filter(|n| !n.is_empty());
                (name.clone(), inside.unwrap_or_else(|| name.clone()))
            })
            .collect();
        devices.sort();
        push(OutsideStep::MoveDevices { devices });
    }
    let early = early_hooks(wish.spec);
    if !early.is_empty() || has_net_devices(wish) {
        push(OutsideStep::AwaitMounts);
        push(OutsideStep::RunHooks { hooks: early });
        push(OutsideStep::Continue);
    }
    let seccomp = filter::seccomp(wish.spec);
    if let Some(path) = seccomp.and_then(|s| s.listener_path().clone())
        && process::notifies(wish.spec)
    {
        let metadata = seccomp.and_then(|s| s.listener_metadata().clone());
        push(OutsideStep::SendListener {
            path,
            metadata: metadata.unwrap_or_default(),
        });
        push(OutsideStep::Continue);
    }
    push(OutsideStep::AwaitStanding);
    if process::terminal(wish.spec) {
        push(OutsideStep::SendConsole);
    }
}

pub(super) fn has_net_devices(wish: &Wish<'_>) -> bool {
    let devices = wish.linux().and_then(|l| l.net_devices().as_ref());
    devices.is_some_and(|d| !d.is_empty())
}

/// Whether hooks run before the root is entered.
pub(super) fn has_hooks_before_root(spec: &Spec) -> bool {
    let hooks = spec.hooks().as_ref();
    let create = hooks.and_then(|h| h.create_container().as_ref());
    create.is_some_and(|all| !all.is_empty()) || !early_hooks(spec).is_empty()
}

/// Hooks that run in the host's namespaces before the root is entered.
pub(super) fn early_hooks(spec: &Spec) -> Vec<Hook> {
    let Some(all) = spec.hooks() else {
        return Vec::new();
    };
    // Deprecated, and in use.
    #[allow(deprecated)]
    let mut early = hooks("prestart", all.prestart().as_ref());
    early.extend(hooks("createRuntime", all.create_runtime().as_ref()));
    early
}

pub(super) fn root(wish: &Wish<'_>) -> Result<PathBuf, PlanError> {
    let root = wish.spec.root().as_ref();
    let path = root.map(|root| root.path().clone()).unwrap_or_default();
    if path.as_os_str().is_empty() {
        return Err(refuse("root.path", "it is empty"));
    }
    Ok(wish.bundle.join(path))
}

/// What the first process is born into; control groups and clocks come later.
pub(super) fn born_into(wish: &Wish<'_>) -> u64 {
    use LinuxNamespaceType::{Ipc, Mount, Network, Pid, Uts};
    let kinds = [Mount, Uts, Ipc, Pid, Network];
    kinds
        .into_iter()
        .filter(|kind| wish.is_new(*kind) && !(*kind == Mount && wish.begins_empty()))
        .fold(0, |all, kind| all | bit(kind))
}

pub(super) fn stage(wish: &Wish<'_>) -> Vec<StageStep> {
    if !wish.staged() {
        return Vec::new();
    }
    let mut steps: Vec<StageStep> = own_oom_score(wish)
        .map(StageStep::Container)
        .into_iter()
        .collect();
    if wish
        .cgroup
        .as_ref()
        .is_some_and(|c| c.place.scope.is_none())
    {
        steps.push(StageStep::Container(InsideStep::EnterCgroups));
    }
    let outer = joined(wish);
    let kinds = |user: bool| -> Vec<u64> {
        let own = bit(LinuxNamespaceType::User);
        let mount = bit(LinuxNamespaceType::Mount);
        let these = outer.iter().map(|e| e.kind).filter(|k| *k != mount);
        these.filter(|k| (*k == own) == user).collect()
    };
    let join = |kinds: Vec<u64>| StageStep::Container(InsideStep::JoinNamespaces { kinds });
    let others = (!kinds(false).is_empty()).then(|| join(kinds(false)));
    // Without rights of one's own those of the user namespace come first.
    let (first, later) = match wish.facts.rootless {
        true => (None, others),
        false => (others, None),
    };
    steps.extend(first);
    let limits = wish.spec.process().as_ref().map(process::early_limits);
    if wish.user_namespace() {
        let limits = limits.into_iter().flatten();
        steps.extend(limits.map(StageStep::Container));
    }
    if wish.is_new(LinuxNamespaceType::User) {
        steps.push(StageStep::MakeUserNamespace { time: false });
        steps.push(StageStep::AwaitMaps);
    } else if wish.user_namespace() {
        steps.push(join(kinds(true)));
    }
    if wish.user_namespace() {
        steps.extend(new_clock(wish).map(StageStep::Container));
        steps.push(StageStep::BecomeRoot);
    }
    steps.extend(later);
    steps.push(StageStep::Container(InsideStep::GiveBirth {
        namespaces: born_into(wish),
    }));
    steps
}
