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
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::rc::Rc;

use super::host::{Host, LaunchError, Workplace, carry_out_until_release, release};
use crate::kernel::cgroup::{self, CgroupBind, Cgroups};
use crate::kernel::procfs::Procfs;
use crate::kernel::seccomp::Program;
use crate::kernel::{Errno, KernelError, mount};
use crate::model::CgroupPlace;
use crate::plan::LaunchPlan;

pub use hooks::{HookError, run as run_hooks};
pub(super) use inside::Inside;
pub(super) use program::stay_inside;

/// Where the launch of a container takes place, and for whom.
#[derive(Debug)]
pub struct Place<'a> {
    /// The host's control groups.
    pub host: cgroup::Host,
    /// Folder of compiled seccomp programs.
    pub cache: PathBuf,
    /// A mount namespace with nothing in it.
    pub empty_mounts: Option<OwnedFd>,
    /// The text that stands for its filter there.
    pub rules: Option<Vec<u8>>,
    /// The program that was found there.
    pub filter: Option<Program>,
    /// Connection to whoever wants the console.
    pub console: Option<OwnedFd>,
    /// What the program waits on for the word to start.
    pub start: Option<OwnedFd>,
    /// Where its first process writes why it could not execute, once nobody listens any more.
    pub complaint: Option<OwnedFd>,
    /// The container as hooks are told of it: JSON with `STATUS` and `PID` to be filled in.
    pub told: Told,
    /// Who writes down which process it is.
    pub record: Recorder<'a>,
    /// The container that is entered.
    pub entered: Option<Entered>,
}

/// Why something could not be written down.
pub type RecordError = Box<dyn std::error::Error + Send + Sync>;

type Write<'a> = dyn Fn(u32, Option<&CgroupPlace>) -> Result<(), RecordError> + 'a;

/// Writes down the first process of a container and where its control groups are.
pub struct Recorder<'a>(pub &'a Write<'a>);

impl Recorder<'_> {
    /// For a launch of which nothing is written down.
    pub const NONE: Recorder<'static> = Recorder(&|_, _| Ok(()));

    fn write(&self, pid: u32, cgroups: Option<&CgroupPlace>) -> Result<(), RecordError> {
        (self.0)(pid, cgroups)
    }
}

impl std::fmt::Debug for Recorder<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Recorder")
    }
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
    /// Whose its version 2 group is.
    pub owner: Option<(u32, u32)>,
}

/// A container's state as hooks get it on standard input.
#[derive(Clone, Debug, Default)]
pub struct Told(pub serde_json::Map<String, serde_json::Value>);

impl Told {
    /// The bundle's folder.
    #[must_use]
    pub fn bundle(&self) -> Option<&std::path::Path> {
        let path = self.0.get("bundle").and_then(|b| b.as_str());
        path.map(std::path::Path::new)
    }

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
    pub(super) trees: Vec<Option<OwnedFd>>,
    pub(super) root_tree: Option<OwnedFd>,
    pub(super) cgroups: Option<Rc<Cgroups>>,
    /// For each mount that shows them.
    pub(super) cgroup_trees: Vec<Vec<(CgroupBind, OwnedFd)>>,
    pub(super) terminal: Option<OwnedFd>,
}

impl Outside {
    /// A tree by its number; each is mounted once.
    pub(super) fn tree(&mut self, number: usize) -> Result<OwnedFd, KernelError> {
        let tree = self.trees.get_mut(number).and_then(Option::take);
        tree.ok_or_else(|| KernelError::new("find", "a tree of the host's", Errno::NOENT))
    }

    /// Clones of the container's own control groups, to be shown in it.
    pub(super) fn clone_cgroups(&mut self) -> Result<(), KernelError> {
        let Some(cgroups) = &self.cgroups else {
            return Ok(());
        };
        let mut all = Vec::new();
        for bind in cgroups.binds() {
            let tree = mount::clone_tree(&bind.path, false)?;
            all.push((bind, tree));
        }
        self.cgroup_trees.push(all);
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
pub fn prepare(plan: &LaunchPlan, place: &Place<'_>) -> Result<Prepared, LaunchError> {
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

    /// The same as a descriptor, which means no other process ever.
    #[must_use]
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// The master end of its terminal, if it has one that nobody else was sent.
    pub fn terminal(&mut self) -> Option<OwnedFd> {
        self.host.console.take()
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
