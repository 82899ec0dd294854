//! The host's part in the dialogue with the guest's side: making the stage, hearing it and init,
//! connecting the network in between, and saying why it ended when it did not end well.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::connect;
use super::container::Inside;
use super::host::{Cause, Host, LaunchError, Workplace, missing};
use super::init;
use super::protocol::{self, Word};
use super::stage::{self, Inherited};
use crate::kernel::channel::Channel;
use crate::kernel::process::{self, CloneFlags, Forked};
use crate::kernel::{Errno, namespace};
use crate::model::NetOp;
use crate::plan::step::name_of;
use crate::plan::{HostStep, LaunchPlan};

impl Host {
    pub(super) fn make_stage(
        &mut self,
        plan: &LaunchPlan,
        place: &Workplace<'_>,
    ) -> Result<(), Cause> {
        self.stage = Some(self.fork(place, 0, |inherited, inside| {
            stage::run(plan, &inherited, inside)
        })?);
        Ok(())
    }

    /// A container's first process, without a stage.
    pub(super) fn make_init(
        &mut self,
        plan: &LaunchPlan,
        place: &Workplace<'_>,
        namespaces: u64,
    ) -> Result<(), Cause> {
        self.init = Some(self.fork(place, namespaces, |inherited, inside| {
            init::run(plan, &inherited, inside)
        })?);
        Ok(())
    }

    /// A process in the cgroup, with all that the steps so far have opened.
    fn fork(
        &mut self,
        place: &Workplace<'_>,
        namespaces: u64,
        run: impl FnOnce(Inherited<'_>, Option<Inside<'_>>),
    ) -> Result<(u32, OwnedFd), Cause> {
        let (ours, theirs) = Channel::pair()?;
        let flags = CloneFlags {
            namespaces,
            sibling: false,
        };
        let cgroup = self.birthplace(place, false)?;
        let forked = match process::fork_with(flags, cgroup.as_ref().map(AsFd::as_fd)) {
            // Those inside have just given controllers to groups of their own.
            Err(error) if error.errno == Errno::BUSY && cgroup.is_some() => {
                let leaf = self.birthplace(place, true)?;
                process::fork_with(flags, leaf.as_ref().map(AsFd::as_fd))
            }
            other => other,
        };
        match forked? {
            Forked::Child => {
                let _guard = process::NoReturn;
                drop(ours);
                let outside = std::mem::take(&mut self.container);
                let inside = place.container().ok().map(|at| Inside::new(outside, at));
                let group = self.group.clone();
                let inherited = Inherited {
                    channel: theirs,
                    group: group.as_deref(),
                    program: self.program.as_ref(),
                    trees: std::mem::take(&mut self.trees),
                };
                run(inherited, inside);
                process::leave(0)
            }
            Forked::Parent { pid, pidfd } => {
                let kill = pidfd.try_clone()?;
                self.undo.push(move || {
                    // It may have ended already; then there is nothing to kill and only to collect.
                    let _gone = process::send_signal(kill.as_fd(), 9);
                    process::collect(kill.as_fd());
                });
                self.channel = Some(ours);
                Ok((pid, pidfd))
            }
        }
    }

    /// The version 2 group that a new process is born into.
    fn birthplace(&self, place: &Workplace<'_>, leaf: bool) -> Result<Option<OwnedFd>, Cause> {
        if let Some(group) = &self.group {
            return Ok(Some(group.v2_fd()?.try_clone_to_owned()?));
        }
        if let Some(entered) = &place.container()?.entered
            && let Some(cgroups) = &entered.cgroups
        {
            return Ok(cgroups.exec_fd(entered.owner, leaf)?);
        }
        match self.container.cgroups.as_ref().and_then(|c| c.v2_fd()) {
            Some(fd) => Ok(Some(fd.try_clone_to_owned()?)),
            None => Ok(None),
        }
    }

    /// The error of a plan that ended without a first process.
    pub(super) fn nothing_made(&mut self, plan: &LaunchPlan) -> LaunchError {
        let last = plan.host.last().unwrap_or(&HostStep::AwaitInit);
        self.explain(last, Box::new(missing("the first process")))
    }

    /// Stage and init are two processes, so either may be the first to be heard.
    pub(super) fn await_init(&mut self) -> Result<(), Cause> {
        for _ in 0..2 {
            match self.expect_word()? {
                (Word::Init { pid }, Some(pidfd)) => self.take_init(pid, pidfd)?,
                (Word::Ready, console) => self.console = console,
                _ => return Err(Box::new(missing("the pid"))),
            }
        }
        Ok(())
    }

    pub(super) fn take_init(&mut self, pid: u32, pidfd: OwnedFd) -> Result<(), Cause> {
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

    pub(super) fn connect(&mut self, ops: &[NetOp]) -> Result<(), Cause> {
        let (pid, _) = self
            .init
            .as_ref()
            .ok_or_else(|| missing("the guest's first process"))?;
        if ops.is_empty() {
            return Ok(());
        }
        let inside = namespace::open(*pid, "net")?;
        connect::outside(&mut self.undo, inside.as_fd(), ops)
    }

    pub(super) fn say_go(&self, fd: Option<BorrowedFd<'_>>) -> Result<(), Cause> {
        Ok(protocol::say(self.channel()?, &Word::Go, fd)?)
    }

    pub(super) fn expect_word(&mut self) -> Result<(Word, Option<OwnedFd>), Cause> {
        if let Some(early) = self.early.pop_front() {
            return Ok(early);
        }
        let heard = protocol::hear(self.channel()?, self.patience)?;
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

    /// The connection closes by execve, or because init died on its last steps.
    pub(super) fn hear_exec(&mut self, init: u32) -> Result<(), Cause> {
        let mut heard = protocol::hear(self.channel()?, self.patience)?;
        if let Some((Word::Loaded, listener)) = heard {
            self.dialogue.hear(Some(&Word::Loaded))?;
            self.listener = listener;
            heard = protocol::hear(self.channel()?, self.patience)?;
        }
        match heard {
            None if process::has_executed(init) => Ok(self.dialogue.hear(None)?),
            None => Err(Box::new(Silence)),
            Some((word, _)) => {
                self.said = Some(word);
                Err(Box::new(Silence))
            }
        }
    }

    /// The error of a failed step: what the other side told, if it told something.
    pub(super) fn explain(&mut self, step: &HostStep, source: Cause) -> LaunchError {
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

    pub(super) fn hint(&self) -> String {
        let kills = self
            .group
            .as_ref()
            .and_then(|g| g.stats().ok())
            .map_or(0, |s| s.oom_kills);
        let own = self.container.cgroups.as_ref();
        if own.is_some_and(|own| own.oom_kills().is_ok_and(|n| n > 0)) {
            return "it was killed for want of memory: memory limit too low?".into();
        }
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
