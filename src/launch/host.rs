//! The launching process.
//!
//! It stands in the host's namespaces as root, single-threaded, and is the parent of the stage and
//! of the guest's first process. Between [`HostStep::PrivateMounts`] and [`HostStep::LeaveMounts`]
//! it works in a private copy of the host's mounts, in which the guest's root is put together; that
//! copy belongs to the host, so the kernel locks what is read-only there when the guest's namespace
//! is copied from it (mount_namespaces(7), "locked mounts").

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::protocol::{self, Dialogue, Word};
use super::undo::Undo;
use super::{devices, fault, resources, stage};
use crate::kernel::cgroup::{Group, Parent};
use crate::kernel::channel::Channel;
use crate::kernel::credentials::FileSystemUser;
use crate::kernel::mount::{self, Attr};
use crate::kernel::namespace::{self, IdMap, MountsOf};
use crate::kernel::netlink::{Netlink, Veth};
use crate::kernel::process::{self, CloneFlags, Forked};
use crate::kernel::seccomp::Program;
use crate::kernel::tree::{self, Point};
use crate::kernel::{Errno, KernelError};
use crate::model::{NetOp, RootOp};
use crate::plan::steps::{Attributes, IdMapLine};
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
#[derive(Debug)]
pub struct Workplace<'a> {
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
}

/// Carries the plan out up to the point where only the guest's own program is missing.
pub fn prepare(plan: &LaunchPlan, place: &Workplace<'_>) -> Result<Prepared, LaunchError> {
    let split = plan
        .host
        .iter()
        .position(|s| *s == HostStep::ReleaseInit)
        .unwrap_or(plan.host.len());
    let mut host = Host::default();
    for (number, step) in plan.host[..split].iter().enumerate() {
        fault::point("host", number);
        host.number = number;
        host.carry_out(step, plan, place)
            .map_err(|source| host.explain(step, source))?;
    }
    fault::point("host", split);
    let last = plan
        .host
        .get(split.saturating_sub(1))
        .unwrap_or(&HostStep::AwaitInit);
    let (Some((pid, pidfd)), Some(console)) = (host.init.take(), host.console.take()) else {
        return Err(host.explain(last, Box::new(missing("the guest's first process"))));
    };
    Ok(Prepared {
        host,
        pid,
        pidfd,
        console,
        left: plan.host[split..].to_vec(),
    })
}

impl Prepared {
    /// The first process, as the host sees it.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Lets the guest execute its program.
    pub fn release(mut self) -> Result<Launched, LaunchError> {
        let first = self.host.number + 1;
        for (number, step) in self.left.iter().enumerate() {
            fault::point("host", first + number);
            let done = match step {
                HostStep::ReleaseInit => self.host.say_go(None),
                _ => self.host.hear_end(),
            };
            done.map_err(|source| self.host.explain(step, source))?;
        }
        fault::point("host", first + self.left.len());
        self.host.undo.keep();
        Ok(Launched {
            pid: self.pid,
            pidfd: self.pidfd,
            console: self.console,
        })
    }
}

type Cause = Box<dyn std::error::Error + Send + Sync>;

fn missing(what: &str) -> KernelError {
    KernelError::new("find", what, Errno::NOENT).because("the plan's steps are out of order")
}

/// What the steps have brought about so far. Fields drop in this order: first the processes and
/// cgroups go, then the mounts.
#[derive(Debug)]
struct Host {
    undo: Undo,
    number: usize,
    dialogue: Dialogue,
    channel: Option<Channel>,
    program: Option<Program>,
    group: Option<std::rc::Rc<Group>>,
    stage: Option<(u32, OwnedFd)>,
    init: Option<(u32, OwnedFd)>,
    console: Option<OwnedFd>,
    user_namespace: Option<OwnedFd>,
    trees: BTreeMap<PathBuf, OwnedFd>,
    root: Option<OwnedFd>,
    file_user: Option<FileSystemUser>,
    mounts: Option<MountsOf>,
    said: Option<Word>,
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
            user_namespace: None,
            trees: BTreeMap::new(),
            root: None,
            file_user: None,
            mounts: None,
            said: None,
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
                self.program = Some(Program::cached(&place.cache, filter)?.0);
            }
            HostStep::MakeCgroup {
                name,
                resources,
                descendants,
                delegate,
            } => {
                let limits = resources::limits(resources, *descendants)?;
                let group = std::rc::Rc::new(Group::create(
                    place.cgroups,
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
                    .insert(target.clone(), mount::clone_tree(source, *recursive)?);
            }
            HostStep::CloneCgroup { target } => {
                let path = self.group()?.v2_guest_path()?.to_owned();
                self.trees
                    .insert(target.clone(), mount::clone_tree(&path, false)?);
            }
            HostStep::PrivateMounts => {
                self.mounts = Some(MountsOf::private_copy()?);
                let scratch = mount::new_filesystem(
                    "tmpfs",
                    &[("mode", "755"), ("size", "1m")],
                    Attr::MOUNT_ATTR_NOSUID,
                )?;
                mount::attach(
                    scratch.as_fd(),
                    tree::open_root(&place.scratch)?.as_fd(),
                    "the scratch folder",
                )?;
            }
            HostStep::MakeStage => self.make_stage(plan)?,
            HostStep::AwaitUserNamespace => {
                self.expect_word()?;
                let (pid, _) = self.stage.as_ref().ok_or_else(|| missing("the stage"))?;
                self.user_namespace = Some(namespace::open(*pid, "user")?);
            }
            HostStep::WriteIdMaps { users, groups } => {
                let (pid, _) = self.stage.as_ref().ok_or_else(|| missing("the stage"))?;
                namespace::write_id_maps(*pid, &lines(users), &lines(groups))?;
            }
            HostStep::WriteClock => {
                let (pid, _) = self.stage.as_ref().ok_or_else(|| missing("the stage"))?;
                let (monotonic, boot) = namespace::clocks();
                namespace::write_time_offsets(*pid, -monotonic, -boot)?;
            }
            HostStep::MountRoot { root, owner } => self.mount_root(root, *owner, &place.scratch)?,
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
            HostStep::ReleaseInit | HostStep::AwaitExec => {
                return Err(Box::new(missing("an earlier step")));
            }
        }
        Ok(())
    }

    fn group(&self) -> Result<&Group, KernelError> {
        self.group.as_deref().ok_or_else(|| missing("the cgroup"))
    }

    fn root(&self) -> Result<BorrowedFd<'_>, KernelError> {
        self.root
            .as_ref()
            .map(AsFd::as_fd)
            .ok_or_else(|| missing("the root"))
    }

    fn channel(&self) -> Result<&Channel, KernelError> {
        self.channel.as_ref().ok_or_else(|| missing("the channel"))
    }

    fn make_stage(&mut self, plan: &LaunchPlan) -> Result<(), Cause> {
        let (ours, theirs) = Channel::pair()?;
        let group = self.group.clone().ok_or_else(|| missing("the cgroup"))?;
        match process::fork_with(CloneFlags::default(), Some(group.v2_fd()?))? {
            Forked::Child => {
                let _guard = process::NoReturn;
                drop(ours);
                let trees = std::mem::take(&mut self.trees);
                stage::run(
                    plan,
                    &stage::Inherited {
                        channel: theirs,
                        group: &group,
                        program: self.program.as_ref(),
                        trees,
                    },
                )
            }
            Forked::Parent { pid, pidfd } => {
                let kill = pidfd.try_clone()?;
                self.undo.push(move || {
                    // It may have ended already; then there is nothing to kill and only to collect.
                    let _gone = process::send_signal(kill.as_fd(), 9);
                    process::collect(kill.as_fd());
                });
                self.channel = Some(ours);
                self.stage = Some((pid, pidfd));
                Ok(())
            }
        }
    }

    fn mount_root(&mut self, root: &RootOp, owner: u32, scratch: &Path) -> Result<(), Cause> {
        let users = self
            .user_namespace
            .as_ref()
            .ok_or_else(|| missing("the user namespace"))?;
        let place = scratch.join("root");
        make_dir(&place)?;
        let mounted = match root {
            RootOp::Overlay { lower, writable } => {
                let layer = |path: &Path, name: &str, attr: Attr| -> Result<String, Cause> {
                    let tree = mount::clone_tree(path, false)?;
                    let what = path.display().to_string();
                    mount::set_attr(
                        tree.as_fd(),
                        attr,
                        Attr::empty(),
                        false,
                        Some(users.as_fd()),
                        &what,
                    )?;
                    let at = scratch.join(name);
                    make_dir(&at)?;
                    mount::attach(tree.as_fd(), tree::open_root(&at)?.as_fd(), &what)?;
                    Ok(at.display().to_string())
                };
                let mut layers = Vec::new();
                for (n, path) in lower.iter().enumerate() {
                    layers.push(layer(path, &format!("lower{n}"), Attr::MOUNT_ATTR_RDONLY)?);
                }
                let writable = layer(writable, "writable", Attr::empty())?;
                self.file_user = Some(FileSystemUser::become_id(owner)?);
                let (upper, work) = (format!("{writable}/upper"), format!("{writable}/work"));
                mount::new_filesystem(
                    "overlay",
                    &[
                        ("lowerdir", &layers.join(":")),
                        ("upperdir", &upper),
                        ("workdir", &work),
                    ],
                    Attr::empty(),
                )?
            }
            RootOp::Directory {
                path,
                idmap,
                read_only,
            } => {
                let tree = mount::clone_tree(path, false)?;
                let set = if *read_only {
                    Attr::MOUNT_ATTR_RDONLY
                } else {
                    Attr::empty()
                };
                let map = idmap.then_some(users.as_fd());
                mount::set_attr(
                    tree.as_fd(),
                    set,
                    Attr::empty(),
                    false,
                    map,
                    &path.display().to_string(),
                )?;
                self.file_user = Some(FileSystemUser::become_id(owner)?);
                tree
            }
        };
        mount::attach(
            mounted.as_fd(),
            tree::open_root(&place)?.as_fd(),
            "the guest's root",
        )?;
        self.root = Some(mounted);
        Ok(())
    }

    fn attach_tree(
        &mut self,
        target: &Path,
        attributes: Attributes,
        idmap: bool,
        recursive: bool,
    ) -> Result<(), Cause> {
        let tree = self
            .trees
            .remove(target)
            .ok_or_else(|| missing("the tree"))?;
        let users = self
            .user_namespace
            .as_ref()
            .ok_or_else(|| missing("the user namespace"))?;
        let map = idmap.then_some(users.as_fd());
        mount::set_attr(
            tree.as_fd(),
            attr(attributes),
            Attr::empty(),
            recursive,
            map,
            &target.display().to_string(),
        )?;
        let stat =
            rustix::fs::fstat(&tree).map_err(KernelError::on("look at", target.display()))?;
        let folder =
            rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory;
        self.put(
            tree.as_fd(),
            target,
            if folder {
                Point::Directory
            } else {
                Point::File
            },
        )?;
        Ok(())
    }

    fn put(&self, tree: BorrowedFd<'_>, target: &Path, point: Point) -> Result<(), KernelError> {
        let at = tree::mount_point(self.root()?, target, point)?;
        mount::attach(tree, at.as_fd(), &target.display().to_string())
    }

    /// Stage and init are two processes, so either may be the first to be heard.
    fn await_init(&mut self) -> Result<(), Cause> {
        for _ in 0..2 {
            match self.expect_word()? {
                (Word::Init { pid }, Some(pidfd)) => self.take_init(pid, pidfd)?,
                (Word::Ready, console) => self.console = console,
                _ => return Err(Box::new(missing("the pid"))),
            }
        }
        Ok(())
    }

    fn take_init(&mut self, pid: u32, pidfd: OwnedFd) -> Result<(), Cause> {
        let kill = pidfd.try_clone()?;
        self.undo.push(move || {
            let _gone = process::send_signal(kill.as_fd(), 9);
            process::collect(kill.as_fd());
        });
        self.init = Some((pid, pidfd));
        // The stage has nothing more to do; collected here so that it is no zombie of ours.
        if let Some((_, stage)) = self.stage.take() {
            process::collect(stage.as_fd());
        }
        Ok(())
    }

    fn connect(&mut self, ops: &[NetOp]) -> Result<(), Cause> {
        let (pid, _) = self
            .init
            .as_ref()
            .ok_or_else(|| missing("the guest's first process"))?;
        if ops.is_empty() {
            return Ok(());
        }
        let inside = namespace::open(*pid, "net")?;
        let mut netlink = Netlink::open()?;
        for op in ops {
            let NetOp::Veth {
                host_name,
                guest_name,
                bridge,
                mac,
                mtu,
            } = op
            else {
                continue;
            };
            let bridge = netlink
                .link(bridge)?
                .ok_or_else(|| KernelError::new("find the bridge", bridge, Errno::NODEV))?;
            netlink.create_veth(&Veth {
                host_name,
                bridge: Some(bridge.index),
                guest_netns: inside.as_fd(),
                guest_name,
                mac: *mac,
                mtu: *mtu,
            })?;
            let name = host_name.clone();
            self.undo.push(move || {
                if let Ok(mut netlink) = Netlink::open() {
                    // An interface that is gone with its namespace is what we want.
                    let _gone = netlink.delete_link(&name);
                }
            });
            netlink.set_up(host_name)?;
        }
        Ok(())
    }

    fn say_go(&self, fd: Option<BorrowedFd<'_>>) -> Result<(), Cause> {
        Ok(protocol::say(self.channel()?, &Word::Go, fd)?)
    }

    fn expect_word(&mut self) -> Result<(Word, Option<OwnedFd>), Cause> {
        let heard = protocol::hear(self.channel()?, Some(PATIENCE))?;
        let Some((word, fd)) = heard else {
            return Err(Box::new(Silence));
        };
        if matches!(word, Word::Failed { .. }) {
            self.said = Some(word);
            return Err(Box::new(Silence));
        }
        self.dialogue.hear(Some(&word))?;
        Ok((word, fd))
    }

    fn hear_end(&mut self) -> Result<(), Cause> {
        match protocol::hear(self.channel()?, Some(PATIENCE))? {
            None => Ok(self.dialogue.hear(None)?),
            Some((word, _)) => {
                self.said = Some(word);
                Err(Box::new(Silence))
            }
        }
    }

    /// The error of a failed step: what the other side told, if it told something.
    fn explain(&mut self, step: &HostStep, source: Cause) -> LaunchError {
        let step = name_of(step);
        match self.said.take() {
            Some(Word::Failed { process, step, why }) => LaunchError::Inside { process, step, why },
            _ if source.is::<Silence>() => LaunchError::Vanished {
                step,
                hint: self.hint(),
            },
            _ => LaunchError::Step { step, source },
        }
    }

    fn hint(&self) -> String {
        let kills = self
            .group
            .as_ref()
            .and_then(|g| g.stats().ok())
            .map_or(0, |s| s.oom_kills);
        if kills > 0 {
            "they were killed for want of memory: raise memory.limit".into()
        } else {
            "look into the host's kernel log".into()
        }
    }
}

/// The other side closed the connection or said that it failed.
#[derive(Debug, thiserror::Error)]
#[error("no answer")]
struct Silence;

fn name_of(step: &HostStep) -> String {
    let value = serde_json::to_value(step).unwrap_or_default();
    value["step"].as_str().unwrap_or("a step").to_owned()
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

/// Attributes as the kernel has them.
pub(super) fn attr(from: Attributes) -> Attr {
    let mut attr = Attr::empty();
    attr.set(Attr::MOUNT_ATTR_RDONLY, from.read_only);
    attr.set(Attr::MOUNT_ATTR_NOSUID, from.nosuid);
    attr.set(Attr::MOUNT_ATTR_NODEV, from.nodev);
    attr.set(Attr::MOUNT_ATTR_NOEXEC, from.noexec);
    attr
}

fn make_dir(path: &Path) -> Result<(), KernelError> {
    rustix::fs::mkdir(path, rustix::fs::Mode::from_raw_mode(0o755))
        .map_err(KernelError::on("make the folder", path.display()))
}
