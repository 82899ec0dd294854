//! The stage: the process between host and guest.
//!
//! It is born in the guest's cgroup and in the host's namespaces as root, becomes the host uid that
//! belongs to this guest alone, makes the user namespace as that uid (the kernel charges its
//! creator), becomes root inside, makes the guest's first process and ends. The host waits for it.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use super::init;
use super::protocol::{self, Word};
use crate::kernel::cgroup::Group;
use crate::kernel::channel::Channel;
use crate::kernel::credentials::{self};
use crate::kernel::fault;
use crate::kernel::namespace::{self, kind};
use crate::kernel::process::{self, CloneFlags, Forked};
use crate::kernel::seccomp::Program;
use crate::kernel::timing::timed;
use crate::kernel::{Errno, KernelError, Result};
use crate::plan::step::{Limit, name_of};
use crate::plan::{LaunchPlan, StageStep};

/// What stage and init have from the launching process.
pub(super) struct Inherited<'a> {
    /// To the host.
    pub(super) channel: Channel,
    /// The guest's cgroup.
    pub(super) group: &'a Group,
    /// The compiled filter.
    pub(super) program: Option<&'a Program>,
    /// Trees that init mounts itself.
    pub(super) trees: BTreeMap<PathBuf, OwnedFd>,
}

/// Carries out the stage's steps and ends this process.
pub(super) fn run(plan: &LaunchPlan, inherited: &Inherited<'_>) -> ! {
    let mut root = None;
    for (number, step) in plan.stage.iter().enumerate() {
        let act = || {
            fault::step("stage", number)?;
            carry_out(step, plan, inherited, &mut root)
        };
        if let Err(error) = timed("stage", || name_of(step), act) {
            give_up(&inherited.channel, "stage", &name_of(step), &error);
        }
    }
    process::leave(0)
}

/// Tells the host why and ends this process.
pub(super) fn give_up(
    channel: &Channel,
    process: &str,
    step: &str,
    why: &dyn std::error::Error,
) -> ! {
    let word = Word::Failed {
        process: process.into(),
        step: step.into(),
        why: chain(why),
    };
    // If the host is gone there is nobody to tell.
    let _gone = protocol::say(channel, &word, None);
    process::leave(1)
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

fn carry_out(
    step: &StageStep,
    plan: &LaunchPlan,
    inherited: &Inherited<'_>,
    root: &mut Option<OwnedFd>,
) -> Result<()> {
    match step {
        StageStep::EnterCgroups => inherited.group.enter_self().map_err(|error| {
            KernelError::new("enter", "the guest's cgroups", Errno::IO).because(error.to_string())
        }),
        StageStep::RaiseLimits { limits } => raise_limits(limits),
        StageStep::SetCeilings { limits } => set_limits(limits),
        StageStep::BecomeOwner { owner } => {
            // Capabilities stay, so that a host which forbids unprivileged user namespaces still
            // lets us make one; they end with the user namespace that is made next.
            credentials::keep_capabilities_over_setuid(true)?;
            credentials::become_user(*owner, *owner, &[])?;
            process::hide_from_others()?;
            die_with_host()
        }
        StageStep::MakeUserNamespace { time } => {
            namespace::unshare(kind::USER)?;
            if *time {
                namespace::unshare(kind::TIME)?;
            }
            protocol::say(&inherited.channel, &Word::UserNamespace, None)
        }
        StageStep::AwaitMaps => {
            *root = protocol::await_go(&inherited.channel)?;
            Ok(())
        }
        StageStep::BecomeRoot => {
            credentials::become_user(0, 0, &[])?;
            process::hide_from_others()?;
            die_with_host()
        }
        StageStep::MakeInit { namespaces } => make_init(*namespaces, plan, inherited, root.take()),
    }
}

/// Any change of user takes the request back (prctl(2)), so it is made after each.
fn die_with_host() -> Result<()> {
    process::on_parent_death(Some(rustix::process::Signal::KILL))
}

pub(super) fn raise_limits(limits: &[Limit]) -> Result<()> {
    limits
        .iter()
        .try_for_each(|limit| credentials::raise_hard_limit(&limit.name, limit.hard))
}

pub(super) fn set_limits(limits: &[Limit]) -> Result<()> {
    limits
        .iter()
        .try_for_each(|limit| credentials::set_rlimit(&limit.name, limit.soft, limit.hard))
}

fn make_init(
    namespaces: u64,
    plan: &LaunchPlan,
    inherited: &Inherited<'_>,
    root: Option<OwnedFd>,
) -> Result<()> {
    // The working folder is what the copied mount namespace keeps pointing to (the descriptor
    // would go on meaning the host's mount), so init finds the tree there.
    let root = root.ok_or_else(|| KernelError::new("find", "the guest's root", Errno::NOENT))?;
    rustix::process::fchdir(&root).map_err(KernelError::on("change to", "the guest's root"))?;
    match process::fork_with(
        CloneFlags {
            namespaces,
            sibling: true,
        },
        None,
    )? {
        Forked::Child => {
            let _guard = process::NoReturn;
            init::run(plan, inherited)
        }
        Forked::Parent { pid, pidfd } => {
            protocol::say(&inherited.channel, &Word::Init { pid }, Some(pidfd.as_fd()))
        }
    }
}
