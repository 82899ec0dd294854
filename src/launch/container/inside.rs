//! The container's first process, or one that enters it, until it executes. At first it stands in
//! the host's namespaces with the caller's rights, hidden from everybody; step by step it gives
//! both away. The host waits for its words, and it dies with the host until it stands.

use std::ffi::CString;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::super::init::Init;
use super::super::protocol::{self, Word};
use super::{Outside, Place, hooks, mounts, nodes};
use crate::kernel::terminal::Pty;
use crate::kernel::{
    Errno, KernelError, credentials, empty_mounts, host_device, interface, mount, namespace,
    process, tree,
};
use crate::plan::container::step::{InsideStep, Propagation, Way};
use crate::plan::step::Limit;

pub(super) type Cause = Box<dyn std::error::Error>;

/// What it has and has found out.
pub(in super::super) struct Inside<'a> {
    pub(super) outside: Outside,
    pub(super) place: &'a Place<'a>,
    /// Its terminal, until it takes it.
    pub(super) console: Option<Pty>,
    /// Where the program is, and its environment.
    pub(super) found: Option<(CString, Vec<String>)>,
    /// A working folder that only the user may enter.
    pub(super) folder: Option<PathBuf>,
    /// Whether the host listens no more.
    pub(in super::super) alone: bool,
}

pub(super) fn missing(what: &str) -> KernelError {
    KernelError::new("find", what, Errno::NOENT).because("the plan's steps are out of order")
}

impl<'a> Inside<'a> {
    pub(in super::super) fn new(outside: Outside, place: &'a Place<'a>) -> Self {
        Self {
            outside,
            place,
            console: None,
            found: None,
            folder: None,
            alone: false,
        }
    }

    /// Steps that the stage carries out as well.
    pub(in super::super) fn early(&mut self, step: &InsideStep) -> Result<(), Cause> {
        match step {
            InsideStep::EnterCgroups => {
                let own = self.outside.cgroups.as_deref();
                let entered = self.place.entered.as_ref().and_then(|e| e.cgroups.as_ref());
                // Where none could be made and none were needed there is nothing to enter.
                if let Some(cgroups) = own.or(entered) {
                    cgroups.enter_self()?;
                }
            }
            InsideStep::SetOomScore { score } => {
                let proc = self.outside.proc.as_ref().ok_or_else(|| missing("/proc"))?;
                match proc.write("self/oom_score_adj", &score.to_string()) {
                    // Lower than that of who called us.
                    Err(error) if matches!(error.errno, Errno::ACCESS | Errno::PERM) => {}
                    other => other?,
                }
            }
            InsideStep::JoinContainer { kinds } => {
                let entered = self.place.entered.as_ref();
                let entered = entered.ok_or_else(|| missing("the container to enter"))?;
                namespace::join(entered.pidfd.as_fd(), *kinds)?;
            }
            InsideStep::JoinNamespaces { kinds } => {
                for kind in kinds {
                    let fd = self.outside.joined.get(kind);
                    let fd = fd.ok_or_else(|| missing("the namespace"))?;
                    namespace::join_one(fd.as_fd(), *kind)?;
                }
            }
            InsideStep::SetLimits { limits } => set_limits(limits)?,
            InsideStep::RaiseFiles { hard } => match credentials::raise_hard_limit("nofile", *hard)
            {
                // What cannot be raised stays lower when the limit is set.
                Err(error) if error.errno == Errno::PERM => {}
                other => other?,
            },
            InsideStep::NewClock { monotonic, boot } => {
                namespace::enter_new_clock(*monotonic, *boot)?;
            }
            _ => return Err(missing("the process for this step").into()),
        }
        Ok(())
    }

    /// Through the host's procfs, which answers for our namespaces.
    pub(in super::super) fn write_sysctl(
        &self,
        name: &str,
        value: &str,
    ) -> Result<(), KernelError> {
        let proc = self.outside.proc.as_ref().ok_or_else(|| missing("/proc"))?;
        proc.write(&format!("sys/{name}"), value)
    }

    /// Writes why it could not go on, where nobody listens any more.
    pub(in super::super) fn complain(&self, why: &str) {
        if let Some(file) = &self.place.complaint {
            // If it cannot be written there is nobody else to tell.
            let _lost = rustix::io::write(file, why.as_bytes());
        }
    }
}

/// As asked for, or as high as the kernel lets us go: without CAP_SYS_RESOURCE nobody can raise a
/// hard limit, and a lower ceiling is the safe side.
fn set_limits(limits: &[Limit]) -> Result<(), KernelError> {
    for limit in limits {
        match credentials::set_rlimit(&limit.name, limit.soft, limit.hard) {
            Err(error) if error.errno == Errno::PERM => {
                let (_, highest) = credentials::get_rlimit(&limit.name)?;
                let hard = limit.hard.min(highest);
                credentials::set_rlimit(&limit.name, limit.soft.min(hard), hard)?;
            }
            other => other?,
        }
    }
    Ok(())
}

impl<'a> Init<'a> {
    pub(super) fn inside(&mut self) -> Result<&mut Inside<'a>, KernelError> {
        self.inside.as_mut().ok_or_else(|| missing("the container"))
    }
}

impl Init<'_> {
    pub(in super::super) fn carry_out_container(&mut self, step: &InsideStep) -> Result<(), Cause> {
        match step {
            InsideStep::EnterCgroups
            | InsideStep::JoinNamespaces { .. }
            | InsideStep::NewClock { .. }
            | InsideStep::SetOomScore { .. }
            | InsideStep::RaiseFiles { .. }
            | InsideStep::SetLimits { .. } => self.inside()?.early(step)?,
            InsideStep::GiveBirth { .. } => return Err(missing("the stage").into()),
            InsideStep::Hide { keyring } => hide(*keyring)?,
            InsideStep::AwaitHost => drop(protocol::await_go(&self.inherited.channel)?),
            InsideStep::JoinContainer { kinds } => self.join_container(*kinds)?,
            InsideStep::NewNamespaces { kinds } => namespace::unshare(*kinds)?,
            InsideStep::LoopbackUp => interface::loopback_up()?,
            InsideStep::EnterEmptyMounts => {
                let kept = self.inside()?.place.empty_mounts.as_ref();
                empty_mounts::enter_copy(kept.ok_or_else(|| missing("the empty mounts"))?)?;
            }
            InsideStep::CutPropagation { propagation } => {
                mount::set_propagation_of_all(propagation.kind, propagation.recursive)?;
            }
            InsideStep::Clone { source, recursive } => {
                let tree = mount::clone_tree(source, *recursive)?;
                self.inside()?.outside.trees.push(Some(tree));
            }
            InsideStep::CloneDevice {
                path,
                block,
                major,
                minor,
            } => {
                let tree = host_device::clone_node(path, *block, (*major, *minor))?;
                self.inside()?.outside.trees.push(Some(tree));
            }
            InsideStep::CloneCgroups => self.inside()?.outside.clone_cgroups()?,
            InsideStep::PlaceRoot => self.place_root()?,
            InsideStep::Mount { mount } => mounts::mount(self, mount)?,
            InsideStep::CloseMount { target } => mounts::close(self.root()?, target)?,
            InsideStep::MakeNodes { nodes } => nodes::make(self, nodes)?,
            InsideStep::MakeLinks => nodes::links(self.root()?)?,
            InsideStep::MakeFolder { path } => {
                // Where it cannot be made, the change to it says why.
                let _made = tree::mount_point(self.root()?, path, tree::Point::Directory);
            }
            InsideStep::TellMounts => {
                protocol::say(&self.inherited.channel, &Word::Ready, None)?;
                protocol::await_go(&self.inherited.channel)?;
            }
            InsideStep::RunHooks {
                hooks,
                status,
                folder,
            } => {
                // The number is the one in its own pid namespace, as these hooks see it.
                let pid = std::process::id();
                let told = self.inside()?.place.told.text(status, Some(pid));
                let mut hooks = hooks.clone();
                if let Some((_, environment)) = &self.inside()?.found {
                    let none = hooks.iter_mut().filter(|hook| hook.env.is_none());
                    none.for_each(|hook| hook.env = Some(environment.clone()));
                }
                hooks::run(&hooks, &told, folder.as_deref())?;
            }
            InsideStep::EnterFolder => {
                mount::enter_folder()?;
                self.root = Some(tree::open_root(Path::new("/"))?);
            }
            InsideStep::EnterRoot { way } => {
                let root = self.root()?;
                match way {
                    Way::Pivot => mount::become_root(root)?,
                    Way::Cover => mount::cover_and_enter(root)?,
                    Way::Enter => mount::enter(root)?,
                }
            }
            InsideStep::FinishRoot {
                read_only,
                propagation,
            } => self.finish_root(*read_only, *propagation)?,
            _ => self.carry_out_process(step)?,
        }
        Ok(())
    }

    fn join_container(&mut self, kinds: u64) -> Result<(), Cause> {
        let entered = self.inside()?.place.entered.as_ref();
        let entered = entered.ok_or_else(|| missing("the container to enter"))?;
        let root = if entered.chrooted {
            let path = PathBuf::from(format!("/proc/{}/root", entered.pid));
            Some(tree::open_root(&path)?)
        } else {
            None
        };
        if kinds != 0 {
            namespace::join(entered.pidfd.as_fd(), kinds)?;
        }
        if let Some(root) = root {
            rustix::process::fchdir(&root).map_err(KernelError::on("change to", "the root"))?;
            mount::enter_folder()?;
        }
        if kinds & namespace::kind::USER != 0 {
            credentials::become_user(0, 0, &[]).or_else(|_| credentials::become_id(0, 0))?;
            process::on_parent_death(Some(rustix::process::Signal::KILL))?;
            process::hide_from_others()?;
        }
        self.root = Some(tree::open_root(Path::new("/"))?);
        Ok(())
    }

    /// The working folder is the root's, in this namespace.
    fn place_root(&mut self) -> Result<(), Cause> {
        let tree = match self.inside()?.outside.root_tree.take() {
            Some(tree) => tree,
            None => mount::clone_tree(Path::new("."), true)?,
        };
        mounts::propagate(tree.as_fd(), Propagation::SLAVE, "the root")?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let at = rustix::fs::open(".", flags, rustix::fs::Mode::empty())
            .map_err(KernelError::on("open", "the root's folder"))?;
        mount::attach(tree.as_fd(), at.as_fd(), "the root's folder")?;
        self.root = Some(tree);
        Ok(())
    }

    fn finish_root(
        &mut self,
        read_only: bool,
        propagation: Option<Propagation>,
    ) -> Result<(), Cause> {
        if let Some(propagation) = propagation {
            if propagation.is_shared() {
                // It has heard of the host's until now; from here on of the container's own.
                let alone = Propagation {
                    recursive: false,
                    ..Propagation::PRIVATE
                };
                mounts::propagate(self.root()?, alone, "the root")?;
            }
            mounts::propagate(self.root()?, propagation, "the root")?;
        }
        if read_only {
            let change = mount::Change {
                set: crate::model::MountFlags::READ_ONLY.0,
                ..mount::Change::default()
            };
            mount::change(self.root()?, change, "the root")?;
        }
        Ok(())
    }
}

fn hide(keyring: bool) -> Result<(), Cause> {
    process::on_parent_death(Some(rustix::process::Signal::KILL))?;
    process::hide_from_others()?;
    rustix::process::setsid().map_err(KernelError::on("begin", "a session"))?;
    if keyring {
        credentials::new_session_keyring()?;
    }
    Ok(())
}
