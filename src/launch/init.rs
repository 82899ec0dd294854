//! The guest's first process, until it executes the guest's own program.
//!
//! It is process 1 of the guest, root inside its user namespace and nobody outside, in all of the
//! guest's namespaces; its mount namespace is a copy of the launching process's private one, with
//! the host's mounts still in it until [`InitStep::BecomeRoot`]. Its working folder is the guest's
//! root. The host waits for its words; it dies with the host until it executes.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::OFlags;

use super::container::{self, Inside};
use super::entered::search_and_execute;
use super::protocol::{self, Word};
use super::root::attr;
use super::stage::{Inherited, give_up, set_limits};
use crate::kernel::fault;
use crate::kernel::mount::{self, Attr};
use crate::kernel::netlink::Netlink;
use crate::kernel::terminal::{self, Pty};
use crate::kernel::timing::{moment, timed};
use crate::kernel::tree::{self, Point};
use crate::kernel::{
    Errno, KernelError, capability, core_scheduling, credentials, inherited, namespace, process,
};
use crate::model::{NetOp, Shown};
use crate::plan::step::{Attributes, name_of};
use crate::plan::{InitStep, LaunchPlan};

type Cause = Box<dyn std::error::Error>;

/// Carries out init's steps; the last one does not come back.
pub(super) fn run(plan: &LaunchPlan, inherited: &Inherited<'_>, inside: Option<Inside<'_>>) -> ! {
    let mut init = Init {
        inherited,
        root: None,
        shelf: None,
        console: None,
        empty: None,
        null: None,
        inside,
    };
    for (number, step) in plan.init.iter().enumerate() {
        let act = || {
            fault::step("init", number)?;
            init.carry_out(step)
        };
        if let Err(error) = timed("init", || name_of(step), act) {
            init.give_up(step, error.as_ref());
        }
    }
    process::leave(1)
}

pub(super) struct Init<'a> {
    pub(super) inherited: &'a Inherited<'a>,
    pub(super) root: Option<OwnedFd>,
    /// The folder of files that are shown one by one, below what is mounted over it.
    shelf: Option<OwnedFd>,
    console: Option<Pty>,
    /// Where the one empty file system for masked folders is mounted.
    empty: Option<OwnedFd>,
    /// The device that covers masked files.
    null: Option<OwnedFd>,
    /// What a container's has.
    pub(super) inside: Option<Inside<'a>>,
}

impl Init<'_> {
    fn give_up(&self, step: &InitStep, error: &dyn std::error::Error) -> ! {
        if let Some(inside) = self.inside.as_ref().filter(|inside| inside.alone) {
            inside.complain(&error.to_string());
            process::leave(1);
        }
        give_up(&self.inherited.channel, "init", &name_of(step), error)
    }

    fn carry_out(&mut self, step: &InitStep) -> Result<(), Cause> {
        match step {
            InitStep::LeaveKeyring => {
                process::on_parent_death(Some(rustix::process::Signal::KILL))?;
                credentials::new_session_keyring()?;
            }
            InitStep::OwnCores => core_scheduling::begin()?,
            InitStep::SetNames { host, domain } => namespace::set_names(host, domain)?,
            InitStep::TakeRoot => self.take_root()?,
            InitStep::KeepShelf { shelf } => {
                let failed = KernelError::on("open in the guest", shelf.display());
                self.shelf =
                    Some(tree::resolve(self.root()?, shelf, OFlags::PATH).map_err(failed)?);
            }
            InitStep::KeepWhole { below, kinds } => self.keep_whole(below, kinds)?,
            InitStep::Mount {
                target,
                kind,
                options,
                attributes,
            } => {
                let options: Vec<_> = options
                    .iter()
                    .map(|(k, v)| (k.as_str(), v.as_str()))
                    .collect();
                let fs = mount::new_filesystem(kind, &options, attr(*attributes))?;
                self.put(fs.as_fd(), target)?;
            }
            InitStep::MountCgroup { target, attributes } => {
                self.mount_cgroup(target, *attributes)?
            }
            InitStep::Mask { paths } => paths.iter().try_for_each(|path| self.mask(path))?,
            InitStep::ReadOnly { paths } => {
                paths.iter().try_for_each(|path| self.read_only(path))?
            }
            InitStep::Show { files } => {
                files.iter().try_for_each(|file| self.show(file))?;
                self.shelf = None;
            }
            InitStep::ShowCgroupFiles { targets } => {
                targets
                    .iter()
                    .try_for_each(|at| self.show_cgroup_file(at))?;
            }
            InitStep::OpenConsole => self.open_console()?,
            InitStep::AwaitNetwork => {
                let console = self
                    .console
                    .as_ref()
                    .ok_or_else(|| missing("the console"))?;
                protocol::say(
                    &self.inherited.channel,
                    &Word::Ready,
                    Some(console.master.as_fd()),
                )?;
                protocol::await_go(&self.inherited.channel)?;
            }
            InitStep::ConfigureNetwork { ops } => self.configure(ops)?,
            InitStep::WriteSysctls { settings } => {
                settings
                    .iter()
                    .try_for_each(|(name, value)| self.write_sysctl(name, value))?;
            }
            InitStep::BecomeRoot => self.become_root()?,
            InitStep::SetLimits { limits } => set_limits(limits)?,
            InitStep::TakeConsole { controlling } => {
                let console = self.console.take().ok_or_else(|| missing("the console"))?;
                terminal::take_terminal(console.slave.as_fd(), *controlling)?;
            }
            InitStep::NoNewPrivileges => credentials::no_new_privileges()?,
            InitStep::CutCapabilities { keep } => cut_capabilities(keep)?,
            InitStep::LoadSeccomp => {
                let program = self
                    .inherited
                    .program
                    .ok_or_else(|| missing("the filter"))?;
                if let Some(listener) = program.put_in_force()? {
                    let channel = &self.inherited.channel;
                    protocol::say(channel, &Word::Loaded, Some(listener.as_fd()))?;
                }
            }
            InitStep::WorkIn { directory } => {
                rustix::process::chdir(directory).map_err(KernelError::on(
                    "change to the working folder",
                    directory.display(),
                ))?;
                container::stay_inside()?;
            }
            InitStep::BecomeUser { uid, gid, groups } => {
                credentials::own_standard_files(*uid)?;
                credentials::become_user(*uid, *gid, groups)?;
            }
            InitStep::Execute { argv, environment } => execute(argv, environment)?,
            InitStep::Container(step) => self.carry_out_container(step)?,
        }
        Ok(())
    }

    pub(super) fn root(&self) -> Result<BorrowedFd<'_>, KernelError> {
        self.root
            .as_ref()
            .map(AsFd::as_fd)
            .ok_or_else(|| missing("the root"))
    }

    /// A clone of the tree below the working folder, on top of `/`. The clone's own root is not
    /// locked to the host's mounts; what lies in it stays locked as it was.
    fn take_root(&mut self) -> Result<(), KernelError> {
        let tree = mount::clone_tree(Path::new("."), true)?;
        mount::cover_root(tree.as_fd())?;
        self.root = Some(tree);
        Ok(())
    }

    fn put(&self, tree: BorrowedFd<'_>, target: &Path) -> Result<(), KernelError> {
        let at = tree::mount_point(self.root()?, target, Point::Directory)?;
        mount::attach(tree, at.as_fd(), &target.display().to_string())
    }

    /// In a small file system of their own, which the next mount at the same place covers together
    /// with what is in it. Neither of them is covered in itself, and that is what the kernel asks for.
    fn keep_whole(&self, below: &Path, kinds: &[(String, Attributes)]) -> Result<(), KernelError> {
        let options = [("mode", "700"), ("size", "16k")];
        let plain = Attr::MOUNT_ATTR_NOSUID | Attr::MOUNT_ATTR_NODEV | Attr::MOUNT_ATTR_NOEXEC;
        let cupboard = mount::new_filesystem("tmpfs", &options, plain)?;
        self.put(cupboard.as_fd(), below)?;
        kinds.iter().try_for_each(|(kind, attributes)| {
            let whole = mount::new_filesystem(kind, &[], attr(*attributes))?;
            self.put(whole.as_fd(), &below.join(kind))
        })
    }

    fn mount_cgroup(&self, target: &Path, attributes: Attributes) -> Result<(), KernelError> {
        let tree = self
            .inherited
            .trees
            .get(target)
            .ok_or_else(|| missing("the cgroup's tree"))?;
        mount::set_attr(
            tree.as_fd(),
            attr(attributes),
            Attr::empty(),
            false,
            None,
            "the guest's cgroup",
        )?;
        self.put(tree.as_fd(), target)
    }

    fn existing(&self, path: &Path) -> Result<Option<OwnedFd>, KernelError> {
        match tree::resolve(self.root()?, path, OFlags::PATH) {
            Ok(fd) => Ok(Some(fd)),
            // Not on this kernel: nothing to hide.
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(errno) => Err(KernelError::new("look at", path.display(), errno)),
        }
    }

    /// The device that covers masked files. An image or a volume may have something else there,
    /// which would be shown in place of what is to be hidden (CVE-2025-31133).
    fn open_null(&self) -> Result<OwnedFd, KernelError> {
        let path = Path::new("/dev/null");
        let null = self.existing(path)?.ok_or_else(|| missing("/dev/null"))?;
        let stat = rustix::fs::fstat(&null).map_err(KernelError::on("look at", "/dev/null"))?;
        let device = rustix::fs::FileType::from_raw_mode(stat.st_mode)
            == rustix::fs::FileType::CharacterDevice;
        if device && stat.st_rdev == rustix::fs::makedev(1, 3) {
            return Ok(null);
        }
        Err(KernelError::new("mask with", "/dev/null", Errno::NODEV)
            .because("what is there is not the null device"))
    }

    /// What kind it is is asked first: a bind of a file on a folder fails, and slowly.
    fn mask(&mut self, path: &Path) -> Result<(), KernelError> {
        let Some(at) = self.existing(path)? else {
            return Ok(());
        };
        let what = path.display().to_string();
        let stat = rustix::fs::fstat(&at).map_err(KernelError::on("look at", &what))?;
        if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::Directory {
            let null = match self.null.take() {
                Some(null) => null,
                None => self.open_null()?,
            };
            let copy = mount::clone_tree_fd(null.as_fd(), false, "/dev/null")?;
            self.null = Some(null);
            return mount::attach(copy.as_fd(), at.as_fd(), &what);
        }
        let all = Attr::MOUNT_ATTR_RDONLY
            | Attr::MOUNT_ATTR_NOSUID
            | Attr::MOUNT_ATTR_NODEV
            | Attr::MOUNT_ATTR_NOEXEC;
        // No file fits in, so no bytes do; and `df` leaves out what has no size.
        let empty = match &self.empty {
            Some(first) => mount::clone_tree_fd(first.as_fd(), false, "the empty folder")?,
            None => mount::new_filesystem("tmpfs", &[("size", "0"), ("nr_inodes", "1")], all)?,
        };
        mount::attach(empty.as_fd(), at.as_fd(), &what)?;
        self.empty.get_or_insert(empty);
        Ok(())
    }

    fn read_only(&self, path: &Path) -> Result<(), KernelError> {
        let Some(at) = self.existing(path)? else {
            return Ok(());
        };
        let what = path.display().to_string();
        // With what is mounted below: that was asked for, and stays as it is, but for the kernel's
        // own files, which are one thing however many mounts they are on.
        let kernels = ["/proc", "/sys"].iter().any(|top| path.starts_with(top));
        let tree = mount::clone_tree_fd(at.as_fd(), true, &what)?;
        mount::set_attr(
            tree.as_fd(),
            Attr::MOUNT_ATTR_RDONLY,
            Attr::empty(),
            kernels,
            None,
            &what,
        )?;
        mount::attach(tree.as_fd(), at.as_fd(), &what)
    }

    fn show(&self, file: &Shown) -> Result<(), KernelError> {
        let Some(at) = self.existing_or_made(&file.target)? else {
            return Ok(());
        };
        let shelf = self.shelf.as_ref().ok_or_else(|| missing("the shelf"))?;
        let tree = mount::clone_file_at(shelf.as_fd(), &file.name)?;
        mount::attach(tree.as_fd(), at.as_fd(), &file.target.display().to_string())
    }

    /// Where a file is shown. What is not the kernel's is made, where it is gone with the guest: a
    /// folder of the host's that somebody has put on /run stays as it is. Where the guest's own mounts
    /// leave no room for it, it is not shown.
    fn existing_or_made(&self, target: &Path) -> Result<Option<OwnedFd>, KernelError> {
        const TMPFS_MAGIC: i64 = 0x0102_1994;
        if target.starts_with("/proc") || target.starts_with("/sys") {
            return self.existing(target);
        }
        let run = Path::new("/run");
        let Some(at) = self.existing(run)?.filter(|_| target.starts_with(run)) else {
            return Ok(None);
        };
        let filesystem =
            rustix::fs::fstatfs(&at).map_err(KernelError::on("look at", run.display()))?;
        match filesystem.f_type == TMPFS_MAGIC {
            true => Ok(tree::mount_point(self.root()?, target, Point::File).ok()),
            false => Ok(None),
        }
    }

    fn show_cgroup_file(&self, target: &Path) -> Result<(), KernelError> {
        match (self.inherited.trees.get(target), self.existing(target)?) {
            (Some(tree), Some(at)) => {
                mount::attach(tree.as_fd(), at.as_fd(), &target.display().to_string())
            }
            _ => Ok(()),
        }
    }

    fn open_console(&mut self) -> Result<(), KernelError> {
        let dev = self
            .existing(Path::new("/dev"))?
            .ok_or_else(|| missing("/dev"))?;
        let pty = terminal::open_pty(dev.as_fd())?;
        let at = self
            .existing(Path::new("/dev/console"))?
            .ok_or_else(|| missing("/dev/console"))?;
        let slave = mount::clone_tree_fd(pty.slave.as_fd(), false, "the console")?;
        mount::attach(slave.as_fd(), at.as_fd(), "/dev/console")?;
        self.console = Some(pty);
        Ok(())
    }

    /// Through the guest's new procfs, which is ours until we execute.
    fn write_sysctl(&self, name: &str, value: &str) -> Result<(), KernelError> {
        if let Some(inside) = &self.inside {
            return inside.write_sysctl(name, value);
        }
        let failed =
            |errno| KernelError::new("write the kernel setting", format!("{name}={value}"), errno);
        let path = Path::new("/proc/sys").join(name.replace('.', "/"));
        let file = tree::resolve(self.root()?, &path, OFlags::WRONLY | OFlags::NOFOLLOW)
            .map_err(failed)?;
        rustix::io::write(&file, value.as_bytes())
            .map(drop)
            .map_err(failed)
    }

    fn configure(&self, ops: &[NetOp]) -> Result<(), Cause> {
        if ops.is_empty() {
            return Ok(());
        }
        for op in ops {
            if let NetOp::Address6 { interface, .. } = op {
                // Nobody advertises anything there, and nobody else can have its addresses. Before
                // it is up, when it gives itself the first of them.
                for setting in ["accept_ra", "accept_dad"] {
                    let setting = format!("net/ipv6/conf/{interface}/{setting}");
                    self.write_sysctl(&setting, "0")?;
                }
            }
        }
        Ok(super::connect::within(&mut Netlink::open()?, ops)?)
    }

    fn become_root(&mut self) -> Result<(), KernelError> {
        mount::become_root(self.root()?)?;
        self.root = None;
        Ok(())
    }
}

fn missing(what: &str) -> KernelError {
    KernelError::new("find", what, Errno::NOENT).because("the plan's steps are out of order")
}

fn execute(argv: &[String], environment: &[String]) -> Result<(), Cause> {
    process::reset_signals()?;
    inherited::close_on_exec_from(3)?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    // Last: from here on the guest outlives us.
    process::on_parent_death(None)?;
    moment("init", "execute");
    Err(Box::new(search_and_execute(argv, environment)))
}

/// The bounding set becomes `keep`; inheritable and ambient sets become empty, so that nothing
/// passes through an execve(2) but what the bounding set and the program's owner give.
pub(super) fn cut_capabilities(keep: &[String]) -> Result<(), Cause> {
    let keep = capability::CapabilitySet::from_names(keep.iter().map(String::as_str))?;
    capability::drop_bounding_except(keep)?;
    let now = capability::permitted()?;
    Ok(capability::set(now, now)?)
}
