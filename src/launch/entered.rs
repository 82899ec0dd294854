//! The process that has entered a guest: its root, in all of its namespaces, until it executes or its
//! small task is done. How it got there is next door in `enter`.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags};

use super::enter::{EnterRequest, Task, Word, fail, tell};
use super::entered_file::file_job;
use super::init::cut_capabilities;
use super::stage::set_limits;
use super::user::{User, look_up};
use crate::kernel::channel::Channel;
use crate::kernel::seccomp::Program;
use crate::kernel::{Errno, KernelError, credentials, inherited, mount, process, terminal, tree};
use crate::model::merge_hosts;
use crate::plan::EnterPlan;

/// Largest /etc/hosts that is brought up to date, bytes.
const LARGEST_HOSTS: usize = 1 << 20;

/// The second: root of the guest, in all of its namespaces.
pub(super) fn entered(
    request: &EnterRequest<'_>,
    program: Option<&Program>,
    channel: &Channel,
) -> ! {
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
        Task::Hosts { block } => merge_into_hosts(block),
        Task::File { job, report } => {
            let going = || tell(channel, &Word::Going, None);
            match file_job(job, report, going) {
                Ok(()) => Ok(()),
                Err(error) => fail(
                    channel,
                    error.to_string(),
                    Some(error.raw_os_error().unwrap_or(0)),
                ),
            }
        }
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
    let user = look_up(&root, wish.user.unwrap_or("0")).map_err(plain)?;
    let environment = environment(plan, &user, wish.environment, wish.terminal);
    (|| {
        credentials::new_session_keyring()?;
        if wish.terminal {
            let dev = tree::open_root(Path::new("/dev"))?;
            let pty = terminal::open_pty(dev.as_fd())?;
            // Still the terminal of whoever asked: a program may look at its size at once.
            terminal::copy_size(std::io::stdout().as_fd(), pty.master.as_fd());
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
            let loaded = program
                .put_in_force()
                .map_err(|error| inner("load", "the filter", &error))?;
            if let Some(listener) = &loaded {
                tell(channel, &Word::Loaded, Some(listener))?;
            }
        }
        credentials::become_user(user.uid, user.gid, &user.groups)?;
        // A host with fs.suid_dumpable=1 shows again whoever has changed its user.
        process::hide_from_others()?;
        enter_folder(wish.folder, &user.home)?;
        process::reset_signals()?;
        inherited::close_on_exec_from(3)?;
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

fn environment(plan: &EnterPlan, user: &User, more: &[String], terminal: bool) -> Vec<String> {
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
pub(super) fn search_and_execute(argv: &[String], environment: &[String]) -> KernelError {
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

/// Through no link, and only if it is a regular file: a guest that has made something else of it
/// keeps that. Written over in place, since the file may be a mount point.
fn merge_into_hosts(block: &str) -> Result<(), Refusal> {
    (|| {
        let path = Path::new("/etc/hosts");
        let failed = |errno| KernelError::new("write in the guest", path.display(), errno);
        let root = tree::open_root(Path::new("/"))?;
        let old = tree::read_file(root.as_fd(), path, LARGEST_HOSTS)?.unwrap_or_default();
        let new = merge_hosts(&String::from_utf8_lossy(&old), block);
        if new.as_bytes() == old {
            return Ok(());
        }
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = tree::resolve(root.as_fd(), path, flags).map_err(failed)?;
        let stat = rustix::fs::fstat(&file).map_err(failed)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(failed(Errno::INVAL).because("not a regular file"));
        }
        let mut rest = new.as_bytes();
        while !rest.is_empty() {
            let n = rustix::io::write(&file, rest).map_err(failed)?;
            rest = &rest[n..];
        }
        rustix::fs::ftruncate(&file, new.len() as u64).map_err(failed)
    })()
    .map_err(plain)
}
