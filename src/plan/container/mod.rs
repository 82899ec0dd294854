//! The configuration of an OCI container → launch plan. As in a guest's plan (next door, `steps`)
//! the order says why: what the host resolves before any process exists, what the first process
//! does while it still has the host's rights, and what it does without them. The last steps, which
//! entering a running container shares, are in `process`.

mod check;
mod devices;
mod enter;
mod filter;
mod inside;
mod mount_entry;
mod mounts;
mod outside;
mod process;
mod sources;
mod standing;
pub mod step;
mod sysctl;
mod why;

use std::path::{Path, PathBuf};

use oci_spec::runtime::{Linux, LinuxNamespace, LinuxNamespaceType, Process, Spec};

use super::PlanError;
use super::step::LaunchPlan;
use crate::model::{CgroupMode, CgroupPlan};

pub use check::{check, check_process};
pub use enter::{Entry, enter};
pub use mounts::known_options;
pub use process::capability;
use sources::Trees;
use step::Hook;

/// What a plan depends on beside the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// Which cgroup versions hold the controllers.
    pub cgroup_mode: CgroupMode,
    /// Whether SELinux is in force.
    pub selinux: bool,
    /// Whether AppArmor is in force.
    pub apparmor: bool,
    /// Whether the launching program has no privileges but in a user namespace of its own making.
    pub rootless: bool,
    /// Whether it lacks the rights of the host's root: without privileges, or root of a user
    /// namespace that it was started in.
    pub limited: bool,
}

/// What is asked for: the configuration, and how its client wants it carried out.
#[derive(Clone, Debug)]
pub struct Wish<'a> {
    /// The container's name.
    pub id: &'a str,
    /// The configuration.
    pub spec: &'a Spec,
    /// Folder it was found in, absolute.
    pub bundle: &'a Path,
    /// Its control groups; `None` where none can be made and none was asked for.
    pub cgroup: Option<CgroupPlan>,
    /// Whether the program of its filter is at hand; its rules need not be there then.
    pub filter_known: bool,
    /// Facts about the host.
    pub facts: Facts,
    /// Whether the program waits for a second command.
    pub waits: bool,
    /// Whether the root is moved over the old one instead of pivoted to.
    pub no_pivot: bool,
    /// Whether there is a mount namespace with nothing in it to begin in.
    pub empty_mounts: bool,
    /// Whether the session keyring stays that of the caller.
    pub keep_keyring: bool,
    /// Descriptors the program keeps beyond the standard ones.
    pub preserve: u32,
}

/// The version of the specification that states are written in.
pub const OCI_VERSION: &str = "1.3.0";

/// CLONE_NEW* bit of a kind.
#[must_use]
pub fn bit(kind: LinuxNamespaceType) -> u64 {
    match kind {
        LinuxNamespaceType::Mount => 0x0002_0000,
        LinuxNamespaceType::Cgroup => 0x0200_0000,
        LinuxNamespaceType::Uts => 0x0400_0000,
        LinuxNamespaceType::Ipc => 0x0800_0000,
        LinuxNamespaceType::User => 0x1000_0000,
        LinuxNamespaceType::Pid => 0x2000_0000,
        LinuxNamespaceType::Network => 0x4000_0000,
        LinuxNamespaceType::Time => 0x0000_0080,
    }
}

/// The specification's name of a kind.
#[must_use]
pub fn word(kind: LinuxNamespaceType) -> &'static str {
    match kind {
        LinuxNamespaceType::Mount => "mount",
        LinuxNamespaceType::Cgroup => "cgroup",
        LinuxNamespaceType::Uts => "uts",
        LinuxNamespaceType::Ipc => "ipc",
        LinuxNamespaceType::User => "user",
        LinuxNamespaceType::Pid => "pid",
        LinuxNamespaceType::Network => "network",
        LinuxNamespaceType::Time => "time",
    }
}

/// A configuration that cannot be carried out.
pub(super) fn refuse(what: impl Into<String>, why: impl Into<String>) -> PlanError {
    PlanError::Value {
        what: what.into(),
        why: why.into(),
    }
}

impl Wish<'_> {
    fn linux(&self) -> Option<&Linux> {
        self.spec.linux().as_ref()
    }

    fn namespace(&self, kind: LinuxNamespaceType) -> Option<&LinuxNamespace> {
        namespaces(self.spec).iter().find(|n| n.typ() == kind)
    }

    /// Whether there is one of this kind, new or joined.
    fn has(&self, kind: LinuxNamespaceType) -> bool {
        self.namespace(kind).is_some()
    }

    /// Whether one of this kind is made.
    fn is_new(&self, kind: LinuxNamespaceType) -> bool {
        self.namespace(kind).is_some_and(|n| path_of(n).is_none())
    }

    fn user_namespace(&self) -> bool {
        self.has(LinuxNamespaceType::User)
    }

    fn new_network(&self) -> bool {
        self.is_new(LinuxNamespaceType::Network)
    }

    fn new_cgroup_namespace(&self) -> bool {
        self.has(LinuxNamespaceType::Cgroup)
    }

    /// Whether a process between host and container is needed: what a user namespace owns must be
    /// made by a process in it, and only a child is born into a pid namespace.
    fn staged(&self) -> bool {
        let joined = |kind| self.has(kind) && !self.is_new(kind);
        self.user_namespace() || joined(LinuxNamespaceType::Pid)
    }

    /// Whether the first process begins in mounts of its own that hold nothing. Hooks of the
    /// client's that run before the root is entered look for it where the host has it, and file
    /// systems that it mounts itself may name devices and folders of the host's.
    fn begins_empty(&self) -> bool {
        let own = self.is_new(LinuxNamespaceType::Mount) && !self.no_pivot;
        let hooked = outside::has_hooks_before_root(self.spec);
        let needs_host = hooked || mounts::names_host_paths(self.spec);
        self.empty_mounts && own && !self.staged() && !self.facts.limited && !needs_host
    }

    /// Whether trees are cloned by the first process: who has no privileges on the host may do it
    /// only in a mount namespace that belongs to the container's user namespace.
    fn clones_inside(&self) -> bool {
        self.facts.rootless
    }

    /// How likely its end is when memory is short.
    fn oom_score(&self) -> Option<i32> {
        self.spec
            .process()
            .as_ref()
            .and_then(Process::oom_score_adj)
    }
}

fn namespaces(spec: &Spec) -> &[LinuxNamespace] {
    let linux = spec.linux().as_ref();
    linux
        .and_then(|l| l.namespaces().as_deref())
        .unwrap_or_default()
}

/// The path of a namespace that is joined; an empty one means a new namespace.
fn path_of(namespace: &LinuxNamespace) -> Option<&PathBuf> {
    let path = namespace.path().as_ref();
    path.filter(|path| !path.as_os_str().is_empty())
}

/// Hooks in the words of a plan; `kind` is the key they were found under.
#[must_use]
pub fn hooks(kind: &str, list: Option<&Vec<oci_spec::runtime::Hook>>) -> Vec<Hook> {
    list.into_iter()
        .flatten()
        .enumerate()
        .map(|(number, hook)| Hook {
            called: format!("{kind} hook #{number}"),
            path: hook.path().clone(),
            args: match hook.args() {
                Some(args) if !args.is_empty() => args.clone(),
                _ => vec![hook.path().display().to_string()],
            },
            env: hook.env().clone(),
            timeout: hook.timeout().and_then(|t| u64::try_from(t).ok()),
        })
        .collect()
}

/// What cannot be had without root's rights.
fn check_rights(wish: &Wish<'_>) -> Result<(), PlanError> {
    let kinds = [LinuxNamespaceType::User, LinuxNamespaceType::Mount];
    for kind in kinds {
        if wish.facts.rootless && !wish.has(kind) {
            return Err(refuse(
                "linux.namespaces",
                format!(
                    "without root's rights a container needs a {} namespace",
                    word(kind)
                ),
            ));
        }
    }
    Ok(())
}

/// The plan of a container.
///
/// # Errors
/// The configuration contradicts itself, or asks for what cannot be had.
pub fn steps(wish: &Wish<'_>) -> Result<LaunchPlan, PlanError> {
    check(wish.spec)?;
    check_rights(wish)?;
    let mut trees = Trees::default();
    let mounts = mounts::entries(wish, &mut trees)?;
    let nodes = devices::nodes(wish, &mut trees)?;
    let trees_inside = match wish.clones_inside() {
        true => trees.move_inside()?,
        false => Vec::new(),
    };
    let inside = inside::inside(wish, trees_inside, mounts, nodes)?;
    Ok(LaunchPlan {
        host: outside::outside(wish, trees)?,
        stage: outside::stage(wish),
        init: inside,
    })
}
