//! The launching process.
//!
//! It stands in the host's namespaces as root, single-threaded, and is the parent of the stage and
//! of the guest's first process. Between [`HostStep::PrivateMounts`] and [`HostStep::LeaveMounts`]
//! it works in a private copy of the host's mounts, in which the guest's root is put together; that
//! copy belongs to the host, so the kernel locks what is read-only there when the guest's namespace
//! is copied from it (mount_namespaces(7), "locked mounts").

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::protocol::{Dialogue, Word};
use super::root::attr;
use super::undo::Undo;
use super::{container, devices, resources};
use crate::kernel::cgroup::{Group, Parent};
use crate::kernel::channel::Channel;
use crate::kernel::credentials::FileSystemUser;
use crate::kernel::fault;
use crate::kernel::id_maps;
use crate::kernel::mount::{self, Attr};
use crate::kernel::namespace::{self, IdMap, MountsOf};
use crate::kernel::seccomp::Program;
use crate::kernel::timing::timed;
use crate::kernel::tree::{self, Point};
use crate::kernel::{Errno, KernelError};
use crate::plan::step::{IdMapLine, name_of};
use crate::plan::{HostStep, LaunchPlan};

/// Longest time the guest's side may take for one step; only a stuck kernel needs more.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why a launch failed. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// A step of the launching process.
    #[error("the launch failed at {step}")]
    Step {
        /// Which.
        step: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A step of another process, which told why.
    #[error("the launch failed in the guest's {process}, at {step}: {why}")]
    Inside {
        /// `stage` or `init`.
        process: String,
        /// Which step.
        step: String,
        /// Why.
        why: String,
    },
    /// A process ended without a word.
    #[error(
        "the guest's first processes ended without a word while the launch was at {step}: {hint}"
    )]
    Vanished {
        /// Which step.
        step: String,
        /// What may be the reason.
        hint: String,
    },
}

/// Where a launch takes place.
#[derive(Clone, Copy, Debug)]
pub(super) enum Workplace<'a> {
    /// A guest's.
    Guest(&'a GuestPlace<'a>),
    /// A container's.
    Container(&'a container::Place<'a>),
}

impl<'a> Workplace<'a> {
    fn cache(&self) -> &'a Path {
        match self {
            Self::Guest(place) => &place.cache,
            Self::Container(place) => &place.cache,
        }
    }

    /// The text that stands for the filter, if there is one.
    fn rules(&self) -> Option<&'a [u8]> {
        match self {
            Self::Guest(_) => None,
            Self::Container(place) => place.rules.as_deref(),
        }
    }

    fn guest(&self) -> Result<&'a GuestPlace<'a>, KernelError> {
        match self {
            Self::Guest(place) => Ok(place),
            Self::Container(_) => Err(missing("a guest")),
        }
    }

    pub(super) fn container(&self) -> Result<&'a container::Place<'a>, KernelError> {
        match self {
            Self::Container(place) => Ok(place),
            Self::Guest(_) => Err(missing("a container")),
        }
    }
}

/// Where the launch of a guest takes place.
#[derive(Debug)]
pub struct GuestPlace<'a> {
    /// The program's own cgroup, below which the guest's is made.
    pub cgroups: &'a Parent,
    /// Folder of compiled seccomp programs.
    pub cache: PathBuf,
    /// An empty folder, on which the private mounts are put together.
    pub scratch: PathBuf,
}

/// A guest whose first process has everything but the word to execute.
#[derive(Debug)]
pub struct Prepared {
    host: Host,
    pid: u32,
    pidfd: OwnedFd,
    console: OwnedFd,
    left: Vec<HostStep>,
}

/// A guest that runs.
#[derive(Debug)]
pub struct Launched {
    /// Its first process, as the host sees it.
    pub pid: u32,
    /// The same as a descriptor.
    pub pidfd: OwnedFd,
    /// The master end of its console.
    pub console: OwnedFd,
    /// The listener of its filter, if that notifies.
    pub listener: Option<OwnedFd>,
}

/// Carries the plan out up to the point where only the guest's own program is missing.
pub fn prepare(plan: &LaunchPlan, place: &GuestPlace<'_>) -> Result<Prepared, LaunchError> {
    let (mut host, left) = carry_out_until_release(plan, &Workplace::Guest(place))?;
    let (Some((pid, pidfd)), Some(console)) = (host.init.take(), host.console.take()) else {
        return Err(host.nothing_made(plan));
    };
    Ok(Prepared {
        host,
        pid,
        pidfd,
        console,
        left,
    })
}

/// Everything before the word that lets the first process go on; and what is left then.
pub(super) fn carry_out_until_release(
    plan: &LaunchPlan,
    place: &Workplace<'_>,
) -> Result<(Host, Vec<HostStep>), LaunchError> {
    let split = plan
        .host
        .iter()
        .position(|s| *s == HostStep::ReleaseInit)
        .unwrap_or(plan.host.len());
    let mut host = Host::default();
    for (number, step) in plan.host[..split].iter().enumerate() {
        host.number = number;
        let act = || {
            fault::step("host", number)?;
            host.carry_out(step, plan, place)
        };
        timed("host", || name_of(step), act).map_err(|source| host.explain(step, source))?;
    }
    Ok((host, plan.host[split..].to_vec()))
}

/// The steps that are left.
pub(super) fn release(host: &mut Host, init: u32, left: &[HostStep]) -> Result<(), LaunchError> {
    let first = host.number + 1;
    for (number, step) in left.iter().enumerate() {
        let act = || {
            fault::step("host", first + number)?;
            match step {
                HostStep::ReleaseInit => host.say_go(None),
                _ => host.hear_exec(init),
            }
        };
        let done = timed("host", || name_of(step), act);
        done.map_err(|source| host.explain(step, source))?;
    }
    host.undo.keep();
    Ok(())
}

impl Prepared {
    /// The first process, as the host sees it.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Lets the guest execute its program.
    pub fn release(mut self) -> Result<Launched, LaunchError> {
        release(&mut self.host, self.pid, &self.left)?;
        Ok(Launched {
            pid: self.pid,
            pidfd: self.pidfd,
            console: self.console,
            listener: self.host.listener.take(),
        })
    }
}

pub(super) type Cause = Box<dyn std::error::Error + Send + Sync>;

pub(super) fn missing(what: &str) -> KernelError {
    KernelError::new("find", what, Errno::NOENT).because("the plan's steps are out of order")
}

/// What the steps have brought about so far. Fields drop in this order: first the processes and
/// cgroups go, then the mounts.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) undo: Undo,
    pub(super) number: usize,
    pub(super) dialogue: Dialogue,
    pub(super) channel: Option<Channel>,
    pub(super) program: Option<Program>,
    pub(super) group: Option<std::rc::Rc<Group>>,
    pub(super) stage: Option<(u32, OwnedFd)>,
    pub(super) init: Option<(u32, OwnedFd)>,
    pub(super) console: Option<OwnedFd>,
    pub(super) listener: Option<OwnedFd>,
    pub(super) user_namespace: Option<OwnedFd>,
    pub(super) trees: BTreeMap<PathBuf, OwnedFd>,
    pub(super) root: Option<OwnedFd>,
    pub(super) file_user: Option<FileSystemUser>,
    pub(super) mounts: Option<MountsOf>,
    pub(super) said: Option<Word>,
    /// Words of the first process that came before the stage told of it.
    pub(super) early: VecDeque<(Word, Option<OwnedFd>)>,
    /// Longest time the other side may take for one step; none where it is held still.
    pub(super) patience: Option<Duration>,
    pub(super) container: container::Outside,
}

impl Default for Host {
    fn default() -> Self {
        Self {
            undo: Undo::default(),
            number: 0,
            dialogue: Dialogue::begin(),
            channel: None,
            program: None,
            group: None,
            stage: None,
            init: None,
            console: None,
            listener: None,
            user_namespace: None,
            trees: BTreeMap::new(),
            root: None,
            file_user: None,
            mounts: None,
            said: None,
            early: VecDeque::new(),
            patience: Some(PATIENCE),
            container: container::Outside::default(),
        }
    }
}

impl Host {
    fn carry_out(
        &mut self,
        step: &HostStep,
        plan: &LaunchPlan,
        place: &Workplace<'_>,
    ) -> Result<(), Cause> {
        match step {
            HostStep::PrepareFilter { filter } => {
                self.program = Some(Program::cached(place.cache(), filter, place.rules())?.0);
            }
            HostStep::MakeCgroup {
                name,
                resources,
                descendants,
                delegate,
            } => {
                let limits = resources::limits(resources, *descendants)?;
                let group = std::rc::Rc::new(Group::create(
                    place.guest()?.cgroups,
                    name,
                    &limits,
                    Some(*delegate),
                )?);
                let undo = group.clone();
                // A group that cannot be removed now is one that `doctor` names.
                self.undo.push(move || drop(undo.remove()));
                self.group = Some(group);
            }
            HostStep::CloneTree {
                source,
                target,
                recursive,
            } => {
                self.trees
                    .insert(target.clone(), mount::clone_unheard(source, *recursive)?);
            }
            HostStep::CloneCgroup { target } => {
                let path = self.group()?.v2_guest_path()?.to_owned();
                self.trees
                    .insert(target.clone(), mount::clone_unheard(&path, false)?);
            }
            HostStep::CloneCgroupFiles { files } => self.clone_cgroup_files(files)?,
            HostStep::PrivateMounts => {
                self.mounts = Some(MountsOf::private_copy()?);
                let scratch = mount::new_filesystem(
                    "tmpfs",
                    &[("mode", "755"), ("size", "1m")],
                    Attr::MOUNT_ATTR_NOSUID,
                )?;
                mount::attach(
                    scratch.as_fd(),
                    tree::open_root(&place.guest()?.scratch)?.as_fd(),
                    "the scratch folder",
                )?;
            }
            HostStep::MakeStage => self.make_stage(plan, place)?,
            HostStep::AwaitUserNamespace => {
                self.expect_word()?;
                let (pid, _) = self.stage.as_ref().ok_or_else(|| missing("the stage"))?;
                self.user_namespace = Some(namespace::open(*pid, "user")?);
            }
            HostStep::WriteIdMaps { users, groups } => {
                let (pid, _) = self.stage.as_ref().ok_or_else(|| missing("the stage"))?;
                id_maps::write(*pid, &lines(users), &lines(groups))?;
            }
            HostStep::WriteClock => {
                let (pid, _) = self.stage.as_ref().ok_or_else(|| missing("the stage"))?;
                let (monotonic, boot) = namespace::clocks();
                namespace::write_time_offsets(*pid, -monotonic, -boot)?;
            }
            HostStep::MountRoot { root, owner } => {
                self.mount_root(root, *owner, &place.guest()?.scratch)?;
            }
            HostStep::MountBelow {
                target,
                root,
                owner,
                attributes,
            } => {
                let scratch = &place.guest()?.scratch;
                self.mount_below(target, root, (*owner, *attributes), scratch)?;
            }
            HostStep::MountTmpfs {
                target,
                options,
                attributes,
            } => {
                let options: Vec<_> = options
                    .iter()
                    .map(|(k, v)| (k.as_str(), v.as_str()))
                    .collect();
                let fs = mount::new_filesystem("tmpfs", &options, attr(*attributes))?;
                self.put(fs.as_fd(), target, Point::Directory)?;
            }
            HostStep::MakeDevices { nodes, owner } => {
                let dev = tree::resolve(self.root()?, Path::new("/dev"), rustix::fs::OFlags::PATH)
                    .map_err(KernelError::on("open in the guest", "/dev"))?;
                devices::fill(dev.as_fd(), nodes, *owner)?;
            }
            HostStep::AttachTree {
                target,
                attributes,
                idmap,
                recursive,
            } => {
                self.attach_tree(target, *attributes, *idmap, *recursive)?;
            }
            HostStep::Hide { paths } => self.hide(paths)?,
            HostStep::ReleaseStage => {
                self.file_user = None;
                let root = self.root.take().ok_or_else(|| missing("the root"))?;
                self.say_go(Some(root.as_fd()))?;
            }
            HostStep::AwaitInit => self.await_init()?,
            HostStep::LeaveMounts => self
                .mounts
                .take()
                .ok_or_else(|| missing("the mounts"))?
                .leave()?,
            HostStep::ConnectNetwork { ops } => self.connect(ops)?,
            HostStep::Container(step) => {
                self.carry_out_container(step, plan, place.container()?)?;
            }
            HostStep::ReleaseInit | HostStep::AwaitExec => {
                return Err(Box::new(missing("an earlier step")));
            }
        }
        Ok(())
    }

    pub(super) fn group(&self) -> Result<&Group, KernelError> {
        self.group.as_deref().ok_or_else(|| missing("the cgroup"))
    }

    pub(super) fn root(&self) -> Result<BorrowedFd<'_>, KernelError> {
        self.root
            .as_ref()
            .map(AsFd::as_fd)
            .ok_or_else(|| missing("the root"))
    }

    pub(super) fn channel(&self) -> Result<&Channel, KernelError> {
        self.channel.as_ref().ok_or_else(|| missing("the channel"))
    }
}

fn lines(from: &[IdMapLine]) -> Vec<IdMap> {
    from.iter()
        .map(|l| IdMap {
            inside: l.inside,
            outside: l.outside,
            count: l.count,
        })
        .collect()
}
