//! The stage: the process between host and guest.
//!
//! It is born in the guest's cgroup and in the host's namespaces as root, becomes the host uid that
//! belongs to this guest alone, makes the user namespace as that uid (the kernel charges its
//! creator), becomes root inside, makes the guest's first process and ends. The host waits for it.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use super::container::Inside;
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
use crate::kernel::{Errno, KernelError};
use crate::plan::container::step::InsideStep;
use crate::plan::step::{Limit, name_of};
use crate::plan::{LaunchPlan, StageStep};

/// What stage and init have from the launching process.
pub(super) struct Inherited<'a> {
    /// To the host.
    pub(super) channel: Channel,
    /// The guest's cgroup.
    pub(super) group: Option<&'a Group>,
    /// The compiled filter.
    pub(super) program: Option<&'a Program>,
    /// Trees that init mounts itself.
    pub(super) trees: BTreeMap<PathBuf, OwnedFd>,
}

type Cause = Box<dyn std::error::Error>;

/// Carries out the stage's steps and ends this process.
pub(super) fn run(plan: &LaunchPlan, inherited: &Inherited<'_>, inside: Option<Inside<'_>>) -> ! {
    let mut stage = Stage { root: None, inside };
    for (number, step) in plan.stage.iter().enumerate() {
        let act = || {
            fault::step("stage", number)?;
            stage.carry_out(step, plan, inherited)
        };
        if let Err(error) = timed("stage", || name_of(step), act) {
            give_up(&inherited.channel, "stage", &name_of(step), error.as_ref());
        }
    }
    process::leave(0)
}

/// What the stage has been given.
struct Stage<'a> {
    root: Option<OwnedFd>,
    inside: Option<Inside<'a>>,
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
        why: protocol::fitting(&chain(why)),
    };
    // If the host is gone there is nobody to tell.
    let _gone = protocol::say(channel, &word, None);
    process::leave(1)
}

/// An error with all its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

impl Stage<'_> {
    fn carry_out(
        &mut self,
        step: &StageStep,
        plan: &LaunchPlan,
        inherited: &Inherited<'_>,
    ) -> Result<(), Cause> {
        match step {
            StageStep::EnterCgroups => match inherited.group {
                Some(group) => group.enter_self()?,
                None => return Err(missing("the cgroup").into()),
            },
            StageStep::RaiseLimits { limits } => raise_limits(limits)?,
            StageStep::SetCeilings { limits } => set_limits(limits)?,
            StageStep::BecomeOwner { owner } => {
                // Capabilities stay, so that a host which forbids unprivileged user namespaces still
                // lets us make one; they end with the user namespace that is made next.
                credentials::keep_capabilities_over_setuid(true)?;
                credentials::become_user(*owner, *owner, &[])?;
                process::hide_from_others()?;
                die_with_host()?;
            }
            StageStep::MakeUserNamespace { time } => {
                namespace::unshare(kind::USER)?;
                if *time {
                    namespace::unshare(kind::TIME)?;
                }
                protocol::say(&inherited.channel, &Word::UserNamespace, None)?;
            }
            StageStep::AwaitMaps => self.root = protocol::await_go(&inherited.channel)?,
            StageStep::BecomeRoot => {
                match credentials::become_user(0, 0, &[]) {
                    // Where the map of groups is one's own id alone (user_namespaces(7)).
                    Err(e) if e.errno == Errno::PERM && self.inside.is_some() => {
                        credentials::become_id(0, 0)?;
                    }
                    other => other?,
                }
                process::hide_from_others()?;
                die_with_host()?;
            }
            StageStep::MakeInit { namespaces } => {
                // The working folder is what the copied mount namespace keeps pointing to (the
                // descriptor would go on meaning the host's mount), so init finds the tree there.
                let root = self
                    .root
                    .take()
                    .ok_or_else(|| missing("the guest's root"))?;
                rustix::process::fchdir(&root)
                    .map_err(KernelError::on("change to", "the guest's root"))?;
                self.make_init(*namespaces, plan, inherited)?;
            }
            StageStep::Container(InsideStep::GiveBirth { namespaces }) => {
                self.make_init(*namespaces, plan, inherited)?;
            }
            StageStep::Container(step) => match &mut self.inside {
                Some(inside) => inside.early(step)?,
                None => return Err(missing("the container").into()),
            },
        }
        Ok(())
    }

    fn make_init(
        &mut self,
        namespaces: u64,
        plan: &LaunchPlan,
        inherited: &Inherited<'_>,
    ) -> Result<(), KernelError> {
        let flags = CloneFlags {
            namespaces,
            sibling: true,
        };
        match process::fork_with(flags, None)? {
            Forked::Child => {
                let _guard = process::NoReturn;
                init::run(plan, inherited, self.inside.take())
            }
            Forked::Parent { pid, pidfd } => {
                protocol::say(&inherited.channel, &Word::Init { pid }, Some(pidfd.as_fd()))
            }
        }
    }
}

fn missing(what: &str) -> KernelError {
    KernelError::new("find", what, Errno::NOENT).because("the plan's steps are out of order")
}

/// Any change of user takes the request back (prctl(2)), so it is made after each.
fn die_with_host() -> Result<(), KernelError> {
    process::on_parent_death(Some(rustix::process::Signal::KILL))
}

pub(super) fn raise_limits(limits: &[Limit]) -> Result<(), KernelError> {
    limits
        .iter()
        .try_for_each(|limit| credentials::raise_hard_limit(&limit.name, limit.hard))
}

pub(super) fn set_limits(limits: &[Limit]) -> Result<(), KernelError> {
    limits
        .iter()
        .try_for_each(|limit| credentials::set_rlimit(&limit.name, limit.soft, limit.hard))
}
