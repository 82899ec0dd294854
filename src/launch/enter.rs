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

use rustix::fs::{FileType, Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::init::cut_capabilities;
use super::stage::set_limits;
use crate::kernel::cgroup::Group;
use crate::kernel::channel::Channel;
use crate::kernel::process::{self, CloneFlags, Forked};
use crate::kernel::seccomp::Program;
use crate::kernel::tree;
use crate::kernel::{Errno, KernelError, credentials, mount, namespace, terminal};
use crate::plan::EnterPlan;
use crate::plan::seccomp::to_filter;

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
    /// Write a file, through no link, if it is there as a regular file.
    Rewrite {
        /// Absolute path inside.
        path: PathBuf,
        /// New content.
        content: Vec<u8>,
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
enum Word {
    /// The second process is made; its pidfd comes along.
    Made,
    /// The terminal comes along.
    Terminal,
    /// The task is done.
    Done,
    /// It cannot go on; `errno` when the program could not be executed.
    Failed { why: String, errno: Option<i32> },
}

/// Enters the guest. Comes back when the program has been executed, or the task is done.
pub fn enter(request: &EnterRequest<'_>) -> Result<Entered, EnterError> {
    let filter = request.plan.filter.as_ref().map(to_filter).transpose();
    let filter = filter.map_err(|error| EnterError::Filter(error.into()))?;
    let program = filter
        .map(|f| Program::cached(request.cache, &f).map(|p| p.0))
        .transpose();
    let program = program.map_err(|error| EnterError::Filter(error.into()))?;
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
            Err(error) => return Err(error.into()),
        }
    };
    let listened = listen(&ours, &request.task);
    process::collect(middle.as_fd());
    if listened.is_err() {
        // What was made on the way has told and ends; nothing of it stays a zombie.
        while let Ok(Some(_)) = rustix::process::wait(rustix::process::WaitOptions::NOHANG) {}
    }
    listened
}

fn listen(channel: &Channel, task: &Task) -> Result<Entered, EnterError> {
    let (mut pidfd, mut terminal) = (None, None);
    loop {
        let Some((text, fd)) = channel.receive(None)? else {
            break;
        };
        let word =
            serde_json::from_slice(&text).map_err(|e| EnterError::Entering(e.to_string()))?;
        match word {
            Word::Made => pidfd = fd,
            Word::Terminal => terminal = fd,
            Word::Done => {}
            Word::Failed { why, errno } => return Err(refused(task, why, errno)),
        }
    }
    let pidfd = pidfd.ok_or_else(|| EnterError::Entering("it ended while being entered".into()))?;
    Ok(Entered { pidfd, terminal })
}

fn refused(task: &Task, why: String, errno: Option<i32>) -> EnterError {
    let (Task::Execute { argv, .. }, Some(errno)) = (task, errno) else {
        return EnterError::Entering(why);
    };
    let program = argv.first().cloned().unwrap_or_default();
    match Errno::from_raw_os_error(errno) {
        Errno::NOENT | Errno::NOTDIR => EnterError::NotFound { program, why },
        _ => EnterError::NotExecutable { program, why },
    }
}

fn tell(channel: &Channel, word: &Word, fd: Option<&OwnedFd>) -> Result<(), KernelError> {
    channel.send(
        &serde_json::to_vec(word).unwrap_or_default(),
        fd.map(AsFd::as_fd),
    )
}

fn fail(channel: &Channel, why: String, errno: Option<i32>) -> ! {
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
        namespace::join(request.guest.as_fd(), request.plan.namespaces)?;
        credentials::become_user(0, 0, &[])?;
        process::hide_from_others()?;
        match process::fork_with(
            CloneFlags {
                namespaces: 0,
                sibling: true,
            },
            None,
        )? {
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

/// The second: root of the guest, in all of its namespaces.
fn entered(request: &EnterRequest<'_>, program: Option<&Program>, channel: &Channel) -> ! {
    let done = match &request.task {
        Task::Execute {
            argv,
            user,
            folder,
            environment,
            terminal,
            quiet,
            output,
        } => {
            let wish = Wish {
                argv,
                user: user.as_deref(),
                folder: folder.as_deref(),
                environment,
                terminal: *terminal,
                quiet: *quiet,
                output: output.as_ref(),
            };
            execute(request.plan, program, channel, &wish)
        }
        Task::Console => new_console(channel),
        Task::Rewrite { path, content } => rewrite(path, content),
    };
    match done {
        Ok(()) => {
            let _gone = tell(channel, &Word::Done, None);
            process::leave(0)
        }
        Err((error, errno)) => fail(channel, error.to_string(), errno),
    }
}

type Refusal = (KernelError, Option<i32>);

fn plain(error: KernelError) -> Refusal {
    (error, None)
}

struct Wish<'a> {
    argv: &'a [String],
    user: Option<&'a str>,
    folder: Option<&'a Path>,
    environment: &'a [String],
    terminal: bool,
    quiet: bool,
    output: Option<&'a OwnedFd>,
}

fn execute(
    plan: &EnterPlan,
    program: Option<&Program>,
    channel: &Channel,
    wish: &Wish<'_>,
) -> Result<(), Refusal> {
    let root = tree::open_root(Path::new("/")).map_err(plain)?;
    let user = super::user::look_up(&root, wish.user.unwrap_or("0")).map_err(plain)?;
    let environment = environment(plan, &user, wish.environment, wish.terminal);
    (|| {
        credentials::new_session_keyring()?;
        if wish.terminal {
            let dev = tree::open_root(Path::new("/dev"))?;
            let pty = terminal::open_pty(dev.as_fd())?;
            terminal::take_terminal(pty.slave.as_fd(), true)?;
            tell(channel, &Word::Terminal, Some(&pty.master))?;
        } else {
            rustix::process::setsid().map_err(KernelError::on("begin", "a session"))?;
            if wish.quiet {
                let null = rustix::fs::open(
                    "/dev/null",
                    OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                    Mode::empty(),
                )
                .map_err(KernelError::on("open", "/dev/null"))?;
                terminal::put_on_standard(null.as_fd())?;
            }
        }
        if let Some(output) = wish.output {
            terminal::put_on_output(output.as_fd())?;
        }
        set_limits(&plan.limits)?;
        if plan.no_new_privileges {
            credentials::no_new_privileges()?;
        }
        cut_capabilities(&plan.capabilities)
            .map_err(|error| inner("cut", "the capabilities", error.as_ref()))?;
        if let Some(program) = program {
            program
                .load(Default::default())
                .map_err(|error| inner("load", "the filter", &error))?;
        }
        credentials::become_user(user.uid, user.gid, &user.groups)?;
        enter_folder(wish.folder, &user.home)?;
        process::reset_signals()?;
        process::close_on_exec_from(3)?;
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
        Ok(())
    })()
    .map_err(plain)?;
    let refused = search_and_execute(wish.argv, &environment);
    let errno = refused.errno.raw_os_error();
    Err((refused, Some(errno)))
}

fn inner(verb: &'static str, what: &str, error: &dyn std::error::Error) -> KernelError {
    KernelError::new(verb, what, Errno::PERM).because(error.to_string())
}

/// The folder asked for, or the home, or `/`. Where we really are is asked afterwards: a path that
/// does not begin with `/` would be outside of the guest's root.
fn enter_folder(wish: Option<&Path>, home: &Path) -> Result<(), KernelError> {
    match wish {
        Some(folder) => rustix::process::chdir(folder)
            .map_err(KernelError::on("change to", folder.display()))?,
        None => rustix::process::chdir(home)
            .or_else(|_| rustix::process::chdir("/"))
            .map_err(KernelError::on("change to", home.display()))?,
    }
    let here = rustix::process::getcwd(Vec::new())
        .map_err(KernelError::on("look at", "the working folder"))?;
    if here.to_bytes().starts_with(b"/") {
        Ok(())
    } else {
        Err(KernelError::new(
            "change to",
            "a folder outside of the guest",
            Errno::PERM,
        ))
    }
}

fn environment(
    plan: &EnterPlan,
    user: &super::user::User,
    more: &[String],
    terminal: bool,
) -> Vec<String> {
    let mut all: std::collections::BTreeMap<String, String> = plan
        .environment
        .iter()
        .filter_map(|line| line.split_once('='))
        .filter(|(name, _)| *name != "TERM" || terminal)
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    all.insert("HOME".into(), user.home.display().to_string());
    all.insert("USER".into(), user.name.clone());
    all.insert("LOGNAME".into(), user.name.clone());
    all.insert("SHELL".into(), user.shell.clone());
    all.extend(
        more.iter()
            .filter_map(|l| l.split_once('='))
            .map(|(n, v)| (n.to_owned(), v.to_owned())),
    );
    all.into_iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect()
}

/// execvp(3) in the guest's PATH; returns the most telling refusal.
fn search_and_execute(argv: &[String], environment: &[String]) -> KernelError {
    let Some(program) = argv.first() else {
        return KernelError::new("execute", "nothing", Errno::INVAL);
    };
    if program.contains('/') {
        return process::execute(program, argv, environment);
    }
    let path = environment
        .iter()
        .find_map(|line| line.strip_prefix("PATH="))
        .unwrap_or("/usr/bin:/bin");
    let mut told =
        KernelError::new("execute", program, Errno::NOENT).because("not in the guest's PATH");
    for folder in path.split(':').filter(|folder| folder.starts_with('/')) {
        let refused = process::execute(&format!("{folder}/{program}"), argv, environment);
        if !matches!(refused.errno, Errno::NOENT | Errno::NOTDIR) {
            told = refused;
        }
    }
    told
}

/// For a keeper that took over from one that was killed, whose terminal went with it.
fn new_console(channel: &Channel) -> Result<(), Refusal> {
    (|| {
        let dev = tree::open_root(Path::new("/dev"))?;
        let pty = terminal::open_pty(dev.as_fd())?;
        let slave = mount::clone_tree_fd(pty.slave.as_fd(), false, "the console")?;
        // The old one's terminal is gone, and nothing can be mounted on what is gone.
        mount::detach(Path::new("/dev/console"))?;
        let at = tree::mount_point(dev.as_fd(), Path::new("/console"), tree::Point::File)?;
        mount::attach(slave.as_fd(), at.as_fd(), "/dev/console")?;
        tell(channel, &Word::Terminal, Some(&pty.master))
    })()
    .map_err(plain)
}

fn rewrite(path: &Path, content: &[u8]) -> Result<(), Refusal> {
    (|| {
        let failed = |errno| KernelError::new("write in the guest", path.display(), errno);
        let root = tree::open_root(Path::new("/"))?;
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = tree::resolve(root.as_fd(), path, flags).map_err(failed)?;
        let stat = rustix::fs::fstat(&file).map_err(failed)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(failed(Errno::INVAL).because("not a regular file"));
        }
        rustix::fs::ftruncate(&file, 0).map_err(failed)?;
        rustix::io::write(&file, content).map(drop).map_err(failed)
    })()
    .map_err(plain)
}
