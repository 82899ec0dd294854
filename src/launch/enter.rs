//! Entering a running guest: a process of ours that takes on its namespaces, cgroups, limits, sets
//! and filter, and then executes a program of the guest's or does one small task as its root.
//!
//! ```text
//!   caller ──fork──▶ entering (host's ids, guest's cgroups; hidden; joins all namespaces)
//!                        └─fork, sibling──▶ entered (child of the caller, in the PID namespace)
//! ```
//! The guest can open nothing of either: both are non-dumpable with credentials from outside its
//! user namespace until the entered one has only the guest's own (CVE-2016-9962). No descriptor of
//! the host's crosses but the ones asked for, none of them a folder (CVE-2024-21626).

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::entered::entered;
use super::protocol::fitting;
use super::stage::raise_limits;
use crate::kernel::cgroup::Group;
use crate::kernel::channel::Channel;
use crate::kernel::process::{self, CloneFlags, Forked};
use crate::kernel::seccomp::Program;
use crate::kernel::strange_file::FileJob;
use crate::kernel::{
    Errno, KernelError, core_scheduling, credentials, inherited, namespace, sealed,
};
use crate::plan::EnterPlan;

/// What is to be done inside.
#[derive(Debug)]
pub enum Task {
    /// Execute a program of the guest's.
    Execute {
        /// Program, looked for in the guest's PATH, and arguments.
        argv: Vec<String>,
        /// User name or number, as in the guest's /etc/passwd; `None` for root.
        user: Option<String>,
        /// Folder to begin in; `None` for the user's home.
        folder: Option<PathBuf>,
        /// Environment beyond the guest's usual one, `NAME=value`.
        environment: Vec<String>,
        /// Whether it gets a terminal of the guest's instead of our standard input and output.
        terminal: bool,
        /// Whether it gets neither: input and output are thrown away.
        quiet: bool,
        /// Where its output goes, standard error included, whatever the others say.
        output: Option<OwnedFd>,
    },
    /// Open a new console and put it on /dev/console.
    Console,
    /// Put the program's block into /etc/hosts.
    Hosts {
        /// As from [`crate::model::hosts_block`].
        block: String,
    },
    /// Look at, read or write a file.
    File {
        /// Which, and how.
        job: FileJob,
        /// A file of ours that gets, as JSON, what the guest's file is.
        report: OwnedFd,
    },
}

/// Who enters where.
#[derive(Debug)]
pub struct EnterRequest<'a> {
    /// From the guest's Spec.
    pub plan: &'a EnterPlan,
    /// The guest's first process.
    pub guest: &'a OwnedFd,
    /// The guest's cgroup.
    pub group: &'a Group,
    /// Host id that is root inside.
    pub base: u32,
    /// Folder of compiled seccomp programs.
    pub cache: &'a Path,
    /// Whether somebody is there to take the listener of its filter, if that notifies.
    pub answered: bool,
    /// What to do.
    pub task: Task,
}

/// A process that entered.
#[derive(Debug)]
pub struct Entered {
    /// It, as our child.
    pub pidfd: OwnedFd,
    /// The master end of the terminal, if there was to be one.
    pub terminal: Option<OwnedFd>,
    /// The listener of its filter, if that notifies. Whoever has called waits for an answer.
    pub listener: Option<OwnedFd>,
}

/// Why entering failed.
#[derive(Debug, thiserror::Error)]
pub enum EnterError {
    /// The program is not there (exit code 127).
    #[error("cannot execute {program:?} in the guest: {why}")]
    NotFound {
        /// What was asked for.
        program: String,
        /// Why.
        why: String,
    },
    /// The program is there and cannot be executed (exit code 126).
    #[error("cannot execute {program:?} in the guest: {why}")]
    NotExecutable {
        /// What was asked for.
        program: String,
        /// Why.
        why: String,
    },
    /// Entering itself.
    #[error("cannot enter the guest: {0}")]
    Entering(String),
    /// Its small task could not be done.
    #[error("{0}")]
    Task(String),
    /// A step on our side.
    #[error("cannot enter the guest")]
    Kernel(#[from] KernelError),
    /// Its cgroups.
    #[error("cannot enter the guest's cgroups")]
    Cgroup(#[from] crate::kernel::cgroup::CgroupError),
    /// Its filter.
    #[error("cannot prepare the guest's system call filter")]
    Filter(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// What the entered side tells. It closes by execve or with the end of its task.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Word {
    /// The second process is made; its pidfd comes along.
    Made,
    /// The terminal comes along.
    Terminal,
    /// The filter is in force; its listener comes along.
    Loaded,
    /// It has begun what may take long.
    Going,
    /// The task is done.
    Done,
    /// It cannot go on; `errno` when the program could not be executed.
    Failed { why: String, errno: Option<i32> },
}

/// Longest time that entering may take; only a guest that hinders it needs more.
const PATIENCE: Duration = Duration::from_secs(30);

/// Enters the guest. Comes back when the program has been executed, or the task is done.
pub fn enter(request: &EnterRequest<'_>) -> Result<Entered, EnterError> {
    let filter = request.plan.filter.as_ref();
    let program = filter
        .map(|f| Program::cached(request.cache, f, None).map(|p| p.0))
        .transpose();
    let program = program.map_err(|error| EnterError::Filter(error.into()))?;
    let program = program.map(|program| match request.answered {
        true => program,
        false => program.without_listener(),
    });
    if matches!(request.task, Task::Execute { .. }) {
        sealed::check()?;
        refuse_folders(&request.task)?;
    }
    let owner = Some((request.base, request.base));
    let mut leaf = false;
    let (ours, middle) = loop {
        let cgroup = request.group.exec_fd(owner, leaf)?;
        let (ours, theirs) = Channel::pair()?;
        match process::fork_with(CloneFlags::default(), Some(cgroup.as_fd())) {
            Ok(Forked::Child) => {
                let _guard = process::NoReturn;
                drop(ours);
                entering(request, program.as_ref(), &theirs)
            }
            Ok(Forked::Parent { pidfd, .. }) => break (ours, pidfd),
            // The guest has just given controllers to groups of its own.
            Err(error) if error.errno == Errno::BUSY && !leaf => leaf = true,
            Err(error) => return Err(crowded(error).into()),
        }
    };
    let mut made = None;
    let listened = listen(&ours, &request.task, &mut made);
    if listened.is_ok() {
        process::collect(middle.as_fd());
    } else {
        for who in [Some(&middle), made.as_ref()].into_iter().flatten() {
            put_down(who);
        }
        // Nothing of it stays a zombie.
        while let Ok(Some(_)) = rustix::process::wait(rustix::process::WaitOptions::NOHANG) {}
    }
    listened
}

/// Ends what has entered. A guest's root can stop it for ever (SIGSTOP), but not keep it from dying;
/// in a guest that is being frozen it dies when that is thawed, and is nobody's loss until then.
pub fn put_down(entered: &OwnedFd) {
    let _gone = process::send_signal(entered.as_fd(), rustix::process::Signal::KILL.as_raw());
    if matches!(
        process::wait_gone(entered.as_fd(), Some(Duration::from_secs(2))),
        Ok(true)
    ) {
        process::collect(entered.as_fd());
    }
}

/// A folder of the host's as standard input or output would be a way out of the guest's root.
fn refuse_folders(task: &Task) -> Result<(), EnterError> {
    let Task::Execute {
        terminal: false,
        quiet: false,
        ..
    } = task
    else {
        return Ok(());
    };
    match inherited::standard_folder()? {
        None => Ok(()),
        Some(what) => Err(EnterError::Entering(format!(
            "standard {what} is a folder, through which the guest would see the host's files: \
             give it a file, or /dev/null"
        ))),
    }
}

/// `made` is the entered process as soon as there is one.
fn listen(
    channel: &Channel,
    task: &Task,
    made: &mut Option<OwnedFd>,
) -> Result<Entered, EnterError> {
    let (mut terminal, mut listener) = (None, None);
    let (mut patience, mut done) = (Some(PATIENCE), false);
    loop {
        let heard = channel.receive(patience).map_err(|error| {
            if error.errno != Errno::TIMEDOUT {
                return error.into();
            }
            EnterError::Entering(format!(
                "nothing happened for {} seconds: the guest may be frozen, or hold up whoever enters",
                PATIENCE.as_secs()
            ))
        });
        let Some((text, fd)) = heard? else {
            break;
        };
        let word =
            serde_json::from_slice(&text).map_err(|e| EnterError::Entering(e.to_string()))?;
        match word {
            Word::Made => *made = fd,
            Word::Terminal => terminal = fd,
            Word::Loaded => listener = fd,
            Word::Going => patience = None,
            Word::Done => done = true,
            Word::Failed { why, errno } => return Err(refused(task, why, errno)),
        }
    }
    if matches!(task, Task::File { .. }) && !done {
        let why = "what had entered the guest for it was ended there";
        return Err(EnterError::Task(why.into()));
    }
    let pidfd = made
        .take()
        .ok_or_else(|| EnterError::Entering("it ended while being entered".into()))?;
    Ok(Entered {
        pidfd,
        terminal,
        listener,
    })
}

fn refused(task: &Task, why: String, errno: Option<i32>) -> EnterError {
    if matches!((task, errno), (Task::File { .. }, Some(_))) {
        return EnterError::Task(why);
    }
    let (Task::Execute { argv, .. }, Some(errno)) = (task, errno) else {
        return EnterError::Entering(why);
    };
    let program = argv.first().cloned().unwrap_or_default();
    match Errno::from_raw_os_error(errno) {
        Errno::NOENT | Errno::NOTDIR => EnterError::NotFound { program, why },
        _ => EnterError::NotExecutable { program, why },
    }
}

pub(super) fn tell(
    channel: &Channel,
    word: &Word,
    fd: Option<&OwnedFd>,
) -> Result<(), KernelError> {
    channel.send(
        &serde_json::to_vec(word).unwrap_or_default(),
        fd.map(AsFd::as_fd),
    )
}

/// In the guest's groups a process can only be refused for want of room in them.
fn crowded(error: KernelError) -> KernelError {
    match error.errno {
        Errno::AGAIN => error.because(
            "the guest, or its tenant, has as many processes as it may; `bulkhead limits` shows it, \
             `bulkhead set NAME processes=N` or `bulkhead tenant set` raises it, `bulkhead kill` ends \
             the guest",
        ),
        _ => error,
    }
}

pub(super) fn fail(channel: &Channel, why: String, errno: Option<i32>) -> ! {
    let why = fitting(&why);
    // If the caller is gone there is nobody to tell.
    let _gone = tell(channel, &Word::Failed { why, errno }, None);
    process::leave(1)
}

/// The first of the two: still the host's root, in the guest's cgroups.
fn entering(request: &EnterRequest<'_>, program: Option<&Program>, channel: &Channel) -> ! {
    let done = (|| -> Result<(), KernelError> {
        request.group.enter_self().map_err(|error| {
            KernelError::new("enter", "the guest's cgroups", Errno::IO).because(error.to_string())
        })?;
        process::hide_from_others()?;
        if request.plan.cores {
            // While it can see the guest's first process by its number here.
            core_scheduling::join(request.guest.as_fd())?;
        }
        raise_limits(&request.plan.limits)?;
        namespace::join(request.guest.as_fd(), request.plan.namespaces)?;
        credentials::become_user(0, 0, &[])?;
        process::hide_from_others()?;
        match process::fork_with(
            CloneFlags {
                namespaces: 0,
                sibling: true,
            },
            None,
        )
        .map_err(crowded)?
        {
            Forked::Child => {
                let _guard = process::NoReturn;
                entered(request, program, channel)
            }
            Forked::Parent { pidfd, .. } => tell(channel, &Word::Made, Some(&pidfd)),
        }
    })();
    match done {
        Ok(()) => process::leave(0),
        Err(error) => fail(channel, error.to_string(), None),
    }
}
