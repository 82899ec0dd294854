//! What only the launch of an OCI container does, in the same processes as a guest's: `outside` is
//! the launching process, `inside` the container's first one, or one that enters it, until it knows
//! where it is; `becoming` the same until it executes. Mounts, device nodes and hooks have files of
//! their own.

mod becoming;
mod copy;
mod hooks;
mod inside;
mod mounts;
mod net_devices;
mod nodes;
mod outside;
mod program;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;

use super::host::{Host, LaunchError, Workplace, carry_out_until_release, release};
use crate::kernel::cgroup::{self, CgroupBind, Cgroups};
use crate::kernel::procfs::Procfs;
use crate::kernel::{KernelError, mount};
use crate::model::CgroupPlace;
use crate::plan::LaunchPlan;

pub use hooks::{HookError, run as run_hooks};
pub(super) use inside::Inside;

/// Where the launch of a container takes place, and for whom.
#[derive(Debug)]
pub struct Place {
    /// The host's control groups.
    pub host: cgroup::Host,
    /// Folder of compiled seccomp programs.
    pub cache: PathBuf,
    /// Connection to whoever wants the console.
    pub console: Option<OwnedFd>,
    /// What the program waits on for the word to start.
    pub start: Option<OwnedFd>,
    /// Where its first process writes why it could not execute, once nobody listens any more.
    pub complaint: Option<OwnedFd>,
    /// The container as hooks are told of it: JSON with `STATUS` and `PID` to be filled in.
    pub told: Told,
    /// The container that is entered.
    pub entered: Option<Entered>,
}

/// A running container, for a process that enters it.
#[derive(Debug)]
pub struct Entered {
    /// Its first process.
    pub pidfd: OwnedFd,
    /// The same by number.
    pub pid: u32,
    /// Its control groups.
    pub cgroups: Option<Cgroups>,
    /// Whether its root is not that of its mount namespace.
    pub chrooted: bool,
    /// Whether it is held still, and who enters waits with it.
    pub frozen: bool,
    /// Whose its version 2 group is.
    pub owner: Option<(u32, u32)>,
}

/// A container's state as hooks get it on standard input.
#[derive(Clone, Debug, Default)]
pub struct Told(pub serde_json::Map<String, serde_json::Value>);

impl Told {
    /// The text for a status and, if there is a process, its number.
    #[must_use]
    pub fn text(&self, status: &str, pid: Option<u32>) -> String {
        let mut all = self.0.clone();
        all.insert("status".into(), status.into());
        if let Some(pid) = pid {
            all.insert("pid".into(), pid.into());
        }
        serde_json::Value::Object(all).to_string()
    }
}

/// What the launching process has for a container.
#[derive(Debug, Default)]
pub(super) struct Outside {
    pub(super) proc: Option<Procfs>,
    pub(super) joined: BTreeMap<u64, OwnedFd>,
    pub(super) trees: Vec<OwnedFd>,
    pub(super) root_tree: Option<OwnedFd>,
    pub(super) cgroups: Option<Rc<Cgroups>>,
    pub(super) cgroup_trees: Vec<(CgroupBind, OwnedFd)>,
    pub(super) terminal: Option<OwnedFd>,
}

impl Outside {
    /// Clones of the container's own control groups, to be shown in it.
    pub(super) fn clone_cgroups(&mut self) -> Result<(), KernelError> {
        let Some(cgroups) = &self.cgroups else {
            return Ok(());
        };
        for bind in cgroups.binds() {
            let tree = mount::clone_tree(&bind.path, false)?;
            self.cgroup_trees.push((bind, tree));
        }
        Ok(())
    }
}

/// A container whose first process has everything but the word to go on.
#[derive(Debug)]
pub struct Prepared {
    host: Host,
    pid: u32,
    pidfd: OwnedFd,
    left: Vec<crate::plan::HostStep>,
}

/// Carries the plan out up to the point where the first process only waits for the word.
///
/// # Errors
/// A step failed; nothing is left of the others.
pub fn prepare(plan: &LaunchPlan, place: &Place) -> Result<Prepared, LaunchError> {
    let (host, left) = carry_out_until_release(plan, &Workplace::Container(place))?;
    let mut host = host;
    let Some((pid, pidfd)) = host.init.take() else {
        return Err(host.nothing_made(plan));
    };
    Ok(Prepared {
        host,
        pid,
        pidfd,
        left,
    })
}

impl Prepared {
    /// The first process, as the host sees it.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The master end of its terminal, if it has one that nobody else was sent.
    pub fn terminal(&mut self) -> Option<OwnedFd> {
        self.host.console.take()
    }

    /// Where its control groups are.
    #[must_use]
    pub fn cgroups(&self) -> Option<&CgroupPlace> {
        self.host.container.cgroups.as_ref().map(|c| c.place())
    }

    /// Lets it go on: to wait for a second command, or with `executes` to its program, and then
    /// comes back when that runs.
    ///
    /// # Errors
    /// It could not execute; nothing is left.
    pub fn release(mut self, executes: bool) -> Result<(u32, OwnedFd), LaunchError> {
        if !executes {
            self.left.truncate(1);
        }
        release(&mut self.host, self.pid, &self.left)?;
        Ok((self.pid, self.pidfd))
    }
}
