//! Processes: clone3 with a pidfd, waiting, signals by descriptor, identity that survives pid reuse.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitIdStatus};

use super::error::{KernelError, Result};

/// clone3(2): the new process begins in the cgroup of `clone_args.cgroup`.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// What a new process gets of its own, see clone3(2).
#[derive(Clone, Copy, Debug, Default)]
pub struct CloneFlags {
    /// CLONE_NEW* bits.
    pub namespaces: u64,
    /// Whether the caller's parent becomes its parent (CLONE_PARENT).
    pub sibling: bool,
}

/// The calling process's view of a [`fork_with`].
#[derive(Debug)]
pub enum Forked {
    /// This is the new process.
    Child,
    /// This is the old one.
    Parent {
        /// Pid of the new process as seen from here.
        pid: u32,
        /// Its pidfd.
        pidfd: OwnedFd,
    },
}

/// clone3(2) without a shared address space: like fork, with namespaces and a pidfd, and into
/// `cgroup` (a cgroup2 directory, CLONE_INTO_CGROUP, Linux 5.7) if one is given.
///
/// Only for a single-threaded caller: a lock that another thread held would stay held in the child.
pub fn fork_with(flags: CloneFlags, cgroup: Option<BorrowedFd<'_>>) -> Result<Forked> {
    let mut pidfd: libc::c_int = -1;
    // SAFETY: clone_args is plain old data for which all zeroes is valid.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = flags.namespaces | u64::from(libc::CLONE_PIDFD.cast_unsigned());
    args.pidfd = (&raw mut pidfd) as u64;
    // With CLONE_PARENT the exit signal is inherited and must be zero here.
    if flags.sibling {
        args.flags |= u64::from(libc::CLONE_PARENT.cast_unsigned());
    } else {
        args.exit_signal = u64::from(libc::SIGCHLD.cast_unsigned());
    }
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::try_from(cgroup.as_raw_fd()).unwrap_or(0);
    }
    // SAFETY: no CLONE_VM, so the child runs on its own copy of the stack; `pidfd` outlives the
    // call; the process has one thread, so no lock is held by a thread the child lacks.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of_val(&args)) };
    match pid {
        0 => Ok(Forked::Child),
        pid if pid > 0 => {
            // SAFETY: the kernel stored a new descriptor, owned by nobody else.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Forked::Parent {
                pid: u32::try_from(pid).unwrap_or(0),
                pidfd,
            })
        }
        _ => Err(KernelError::last("make a process with", "clone3")),
    }
}

/// A process as it can be written to disk: pid and start time in clock ticks since boot. Together
/// with the boot id they never name another process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Identity {
    /// Process id on the host.
    pub pid: u32,
    /// Field 22 of /proc/PID/stat.
    pub start: u64,
}

impl Identity {
    /// The identity of a process now; `None` if there is none, or only its dead body.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        let stat = Stat::of(pid)?;
        (!matches!(stat.state, 'Z' | 'X')).then_some(Self {
            pid,
            start: stat.start,
        })
    }

    /// Whether that process is there still.
    #[must_use]
    pub fn lives(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// A pidfd of this very process; `None` if it is gone.
    #[must_use]
    pub fn open(self) -> Option<OwnedFd> {
        let pidfd = open_pid(self.pid).ok()?;
        // Looked at after opening: from here on the descriptor means this process.
        (Self::of(self.pid)? == self).then_some(pidfd)
    }
}

/// What is used of /proc/PID/stat (proc_pid_stat(5)).
struct Stat {
    /// Field 3.
    state: char,
    /// Field 9: PF_* of the kernel's include/linux/sched.h.
    flags: u64,
    /// Field 22: clock ticks since boot.
    start: u64,
}

impl Stat {
    fn of(pid: u32) -> Option<Self> {
        Self::at(&format!("/proc/{pid}/stat"))
    }

    fn at(path: &str) -> Option<Self> {
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
        let file = rustix::fs::open(path, flags, rustix::fs::Mode::empty());
        // The kernel gives all of it to the first read; a line is shorter than this.
        let mut line = [0_u8; 1024];
        let n = rustix::io::read(file.ok()?, &mut line).ok()?;
        // The second field is the command in parentheses and may hold anything.
        let end = line[..n].iter().rposition(|byte| *byte == b')')?;
        let mut fields = std::str::from_utf8(line.get(end + 2..n)?).ok()?.split(' ');
        Some(Self {
            state: fields.next()?.chars().next()?,
            flags: fields.nth(5)?.parse().ok()?,
            start: fields.nth(12)?.parse().ok()?,
        })
    }
}

/// The state of a thread, a letter. Its own file is asked: the process's adds up all threads first.
#[must_use]
pub fn thread_state(thread: i32) -> Option<char> {
    Stat::at(&format!("/proc/{thread}/task/{thread}/stat")).map(|stat| stat.state)
}

/// A pidfd of a process (pidfd_open(2), Linux 5.3).
pub fn open_pid(pid: u32) -> Result<OwnedFd> {
    let target = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let target = target.ok_or_else(|| KernelError::new("open process", pid, Errno::SRCH))?;
    rustix::process::pidfd_open(target, rustix::process::PidfdFlags::empty())
        .map_err(KernelError::on("open process", pid))
}

/// Sends a signal by number to the process of a pidfd; a process that is gone is fine.
pub fn send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> Result<()> {
    // SAFETY: no pointers but a null siginfo; real-time signals have no rustix constant.
    let done = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<()>(),
            0,
        )
    };
    if done == 0 || std::io::Error::last_os_error().raw_os_error() == Some(libc::ESRCH) {
        Ok(())
    } else {
        Err(KernelError::last("send a signal to", "a process"))
    }
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By exit(2).
    Code(i32),
    /// By a signal.
    Signal(i32),
    /// It is not our child and this kernel does not tell others.
    Unknown,
}

/// Waits until the process of a pidfd has ended; `false` when `limit` is over before.
pub fn wait_gone(pidfd: BorrowedFd<'_>, limit: Option<Duration>) -> Result<bool> {
    let deadline = limit.map(|limit| Instant::now() + limit);
    loop {
        let left = deadline.map(|d| d.saturating_duration_since(Instant::now()));
        let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
        match poll(&mut fds, left.map(timespec).as_ref()) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(KernelError::new("wait for", "a process", errno)),
        }
    }
}

/// Whether a process has executed a program since it was made (PF_FORKNOEXEC is gone). Its
/// close-on-exec descriptors are closed by that, but also by its death.
#[must_use]
pub fn has_executed(pid: u32) -> bool {
    const FORK_NO_EXEC: u64 = 0x40;
    Stat::of(pid).is_some_and(|stat| stat.flags & FORK_NO_EXEC == 0)
}

/// How often a process has gone to sleep so far, if it sleeps now (/proc/PID/status). The same
/// number twice means that it did not run in between. One that is ending may sleep on its way
/// (PF_EXITING), and is not asleep.
#[must_use]
pub fn asleep(pid: u32) -> Option<u64> {
    if is_ending(pid) {
        return None;
    }
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.trim())
    };
    field("State:")?.strip_prefix('S')?;
    field("voluntary_ctxt_switches:")?.parse().ok()
}

/// How long a process has had a CPU since it was made (/proc/PID/schedstat); `None` on a kernel that
/// does not count it.
#[must_use]
pub fn cpu_time(pid: u32) -> Option<Duration> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).ok()?;
    Some(Duration::from_nanos(text.split(' ').next()?.parse().ok()?))
}

/// Whether a process is on its way out: killed or leaving, and not yet to be collected.
#[must_use]
pub fn is_ending(pid: u32) -> bool {
    const EXITING: u64 = 0x4;
    Stat::of(pid).is_none_or(|stat| stat.flags & EXITING != 0)
}

/// A duration for poll(2).
#[must_use]
pub fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}

/// Collects how the process of a pidfd ended: as its parent by waitid(2), else by PIDFD_GET_INFO
/// (Linux 6.15). It must have ended.
pub fn collect(pidfd: BorrowedFd<'_>) -> Ended {
    loop {
        match rustix::process::waitid(WaitId::PidFd(pidfd), WaitIdOptions::EXITED) {
            Ok(Some(status)) => return ended(&status),
            Err(Errno::INTR) => {}
            _ => return exit_info(pidfd),
        }
    }
}

/// Whether the process of a pidfd is our child, dead or alive.
#[must_use]
pub fn is_child(pidfd: BorrowedFd<'_>) -> bool {
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    rustix::process::waitid(WaitId::PidFd(pidfd), look).is_ok()
}

/// Waits until it has ended, then collects it.
pub fn collect_when_ended(pidfd: BorrowedFd<'_>) -> Ended {
    // A wait that fails leaves only the question how it ended.
    let _ended = wait_gone(pidfd, None);
    collect(pidfd)
}

fn ended(status: &WaitIdStatus) -> Ended {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Ended::Code(code),
        (None, Some(signal)) => Ended::Signal(signal),
        _ => Ended::Unknown,
    }
}

/// struct pidfd_info of linux/pidfd.h, first version.
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroupid: u64,
    ids: [u32; 11],
    exit_code: i32,
}

fn exit_info(pidfd: BorrowedFd<'_>) -> Ended {
    const PIDFD_GET_INFO: libc::c_ulong =
        0xC000_FF0B | ((size_of::<PidfdInfo>() as libc::c_ulong) << 16);
    const PIDFD_INFO_EXIT: u64 = 1 << 3;
    // The kernel tells when its parent has collected it, which takes a moment.
    let until = Instant::now() + Duration::from_secs(5);
    while Instant::now() < until {
        let mut info = PidfdInfo {
            mask: PIDFD_INFO_EXIT,
            ..PidfdInfo::default()
        };
        // SAFETY: the request number carries the size of `info`, which outlives the call.
        let done = unsafe { libc::ioctl(pidfd.as_raw_fd(), PIDFD_GET_INFO, &raw mut info) };
        let errno = std::io::Error::last_os_error().raw_os_error();
        if done == 0 && info.mask & PIDFD_INFO_EXIT != 0 {
            return if libc::WIFSIGNALED(info.exit_code) {
                Ended::Signal(libc::WTERMSIG(info.exit_code))
            } else {
                Ended::Code(libc::WEXITSTATUS(info.exit_code))
            };
        }
        // ESRCH is "collected, and not kept"; EINVAL and ENOTTY are kernels without the call.
        if done != 0 && errno != Some(libc::ESRCH) {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ended::Unknown
}

/// Has the kernel send us `signal` when our parent ends (prctl(2) PR_SET_PDEATHSIG); `None` takes
/// that back.
pub fn on_parent_death(signal: Option<Signal>) -> Result<()> {
    rustix::process::set_parent_process_death_signal(signal).map_err(KernelError::on(
        "ask for a signal at the death of",
        "the parent",
    ))
}

/// Keeps others from opening our memory, descriptors and executable through /proc (PR_SET_DUMPABLE).
pub fn hide_from_others() -> Result<()> {
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .map_err(KernelError::on("hide", "this process"))
}

/// The number of a signal by name, with or without `SIG`, or `RTMIN+3`, or a plain number.
#[must_use]
pub fn signal_number(name: &str) -> Option<i32> {
    let name = name.trim().to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let real_time = [
        ("RTMIN", '+', libc::SIGRTMIN()),
        ("RTMAX", '-', libc::SIGRTMAX()),
    ];
    for (base, sign, number) in real_time {
        let Some(rest) = name.strip_prefix(base) else {
            continue;
        };
        let offset = match rest.strip_prefix(sign) {
            Some(offset) => offset.parse::<u8>().ok()?,
            None if rest.is_empty() => 0,
            None => return None,
        };
        let number = if sign == '+' {
            number + i32::from(offset)
        } else {
            number - i32::from(offset)
        };
        return (libc::SIGRTMIN()..=libc::SIGRTMAX())
            .contains(&number)
            .then_some(number);
    }
    if let Ok(number) = name.parse::<i32>() {
        return (1..=libc::SIGRTMAX()).contains(&number).then_some(number);
    }
    let signal: nix::sys::signal::Signal = format!("SIG{name}").parse().ok()?;
    Some(signal as i32)
}

/// Puts every signal back to its default action and unblocks all, as a first program expects.
pub fn reset_signals() -> Result<()> {
    for number in 1..=libc::SIGRTMAX() {
        if number != libc::SIGKILL && number != libc::SIGSTOP {
            // SAFETY: SIG_DFL is no handler, so nothing of ours is ever called; 32 and 33 belong to
            // the C library and are refused, which is as good.
            unsafe { libc::signal(number, libc::SIG_DFL) };
        }
    }
    nix::sys::signal::SigSet::empty()
        .thread_set_mask()
        .map_err(KernelError::nix("unblock", "all signals"))
}

/// Leaves at once, without running anything that the parent registered (_exit(2)).
pub fn leave(code: i32) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Gives the memory that was used and is free again back to the kernel (malloc_trim(3)): for a
/// process that stays, and has done most of its work.
pub fn give_memory_back() {
    // SAFETY: it only unmaps and discards pages of the C library's heap in which nothing lives.
    unsafe { libc::malloc_trim(0) };
}

/// Ends this process as by SIGKILL from outside; for fault points.
pub fn kill_self() -> ! {
    let me = rustix::process::getpid();
    // Nothing to do about a kill that fails but to leave all the same.
    let _ignored = rustix::process::kill_process(me, Signal::KILL);
    leave(137)
}

/// While it lives, a panic that unwinds through its frame ends the process at once: a forked child
/// must never run the destructors of what its parent owns.
#[derive(Debug)]
pub struct NoReturn;

impl Drop for NoReturn {
    fn drop(&mut self) {
        leave(70)
    }
}

/// Replaces this process by a program (execve(2)); returns only on failure.
pub fn execute(program: &str, argv: &[String], environment: &[String]) -> KernelError {
    match std::ffi::CString::new(program) {
        Ok(path) => execute_path(&path, argv, environment),
        Err(_) => KernelError::new("execute", program, Errno::INVAL),
    }
}

/// The same for a path as the kernel takes it.
pub fn execute_path(path: &std::ffi::CStr, argv: &[String], environment: &[String]) -> KernelError {
    let program = path.to_string_lossy();
    let text = |s: &String| std::ffi::CString::new(s.as_bytes());
    let strings = (
        argv.iter()
            .map(text)
            .collect::<std::result::Result<Vec<_>, _>>(),
        environment
            .iter()
            .map(text)
            .collect::<std::result::Result<Vec<_>, _>>(),
    );
    let (Ok(argv), Ok(environment)) = strings else {
        return KernelError::new("execute", program, Errno::INVAL);
    };
    match nix::unistd::execve(path, &argv, &environment) {
        Err(errno) => KernelError::nix("execute", program)(errno),
        Ok(never) => match never {},
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn signals_by_name() {
        assert_eq!(signal_number("SIGTERM"), Some(15));
        assert_eq!(signal_number("kill"), Some(9));
        assert_eq!(signal_number("SIGRTMIN+3"), Some(libc::SIGRTMIN() + 3));
        assert_eq!(signal_number("SIGRTMAX-1"), Some(libc::SIGRTMAX() - 1));
        assert_eq!(signal_number("9"), Some(9));
        for bad in ["", "SIGNOPE", "0", "-1", "RTMIN+99", "RTMIN-1", "RTMAX+1"] {
            assert_eq!(signal_number(bad), None, "{bad}");
        }
    }

    #[test]
    fn an_identity_names_one_process() {
        let me = Identity::of(std::process::id()).unwrap();
        assert!(me.open().is_some());
        assert!(
            Identity {
                start: me.start + 1,
                ..me
            }
            .open()
            .is_none()
        );
    }

    #[test]
    fn a_fork_has_executed_nothing() {
        let Forked::Parent { pid, pidfd } = fork_with(CloneFlags::default(), None).unwrap() else {
            std::thread::sleep(Duration::from_secs(60));
            leave(0)
        };
        assert!(!has_executed(pid));
        send_signal(pidfd.as_fd(), Signal::KILL.as_raw()).unwrap();
        assert!(wait_gone(pidfd.as_fd(), None).unwrap());
        assert!(!has_executed(pid), "dead, and never was anything else");
        collect(pidfd.as_fd());
        assert!(has_executed(std::process::id()));
    }

    #[test]
    fn who_waits_is_asleep_and_who_runs_is_not() {
        let mut child = std::process::Command::new("sleep")
            .arg("100")
            .spawn()
            .unwrap();
        let until = Instant::now() + Duration::from_secs(20);
        let mut seen = None;
        while seen.is_none() || asleep(child.id()) != seen {
            assert!(Instant::now() < until, "it never slept twice: {seen:?}");
            seen = asleep(child.id());
            std::thread::sleep(Duration::from_millis(50));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(asleep(child.id()), None);
        // The main thread of a test runs no test; this one, which runs, has its own number.
        let me = rustix::thread::gettid().as_raw_nonzero().get();
        assert_eq!(asleep(me.cast_unsigned()), None);
    }

    #[test]
    fn a_dead_body_is_ending_and_we_are_not() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pidfd = open_pid(child.id()).unwrap();
        assert!(wait_gone(pidfd.as_fd(), Some(Duration::from_secs(10))).unwrap());
        assert!(is_ending(child.id()));
        child.wait().unwrap();
        assert!(is_ending(child.id()), "there is none any more");
        assert!(!is_ending(std::process::id()));
    }

    #[test]
    fn a_stranger_tells_how_it_ended_on_a_new_kernel() {
        let mut child = std::process::Command::new("sh")
            .args(["-c", "exit 7"])
            .spawn()
            .unwrap();
        let pidfd = open_pid(child.id()).unwrap();
        assert!(wait_gone(pidfd.as_fd(), Some(Duration::from_secs(10))).unwrap());
        assert_eq!(child.wait().unwrap().code(), Some(7));
        // Reaped: waitid can no longer tell, only PIDFD_GET_INFO of Linux 6.15 and later.
        assert!(matches!(
            collect(pidfd.as_fd()),
            Ended::Code(7) | Ended::Unknown
        ));
    }
}
