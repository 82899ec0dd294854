//! Namespaces: leaving, joining, id maps, clocks, names. See namespaces(7).
#![allow(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sched::CloneFlags;

use rustix::io::Errno;

use super::error::{KernelError, Result};

/// CLONE_NEW* bits, see clone(2).
pub mod kind {
    /// Mounts.
    pub const MOUNT: u64 = 0x0002_0000;
    /// Control groups.
    pub const CGROUP: u64 = 0x0200_0000;
    /// Host and domain name.
    pub const UTS: u64 = 0x0400_0000;
    /// System V IPC and POSIX message queues.
    pub const IPC: u64 = 0x0800_0000;
    /// Users and capabilities.
    pub const USER: u64 = 0x1000_0000;
    /// Processes.
    pub const PID: u64 = 0x2000_0000;
    /// Network.
    pub const NET: u64 = 0x4000_0000;
    /// Clocks that count from boot (Linux 5.6).
    pub const TIME: u64 = 0x0000_0080;
}

fn flags(kinds: u64) -> CloneFlags {
    CloneFlags::from_bits_retain(i32::try_from(kinds).unwrap_or(0))
}

/// Leaves the namespaces of these kinds for new ones (unshare(2)).
pub fn unshare(kinds: u64) -> Result<()> {
    nix::sched::unshare(flags(kinds)).map_err(KernelError::nix("make", "new namespaces"))
}

/// Joins the namespaces of these kinds of a process, all or none (setns(2) on a pidfd, Linux 5.8).
pub fn join(process: BorrowedFd<'_>, kinds: u64) -> Result<()> {
    nix::sched::setns(process, flags(kinds))
        .map_err(KernelError::nix("join", "the guest's namespaces"))
}

/// Joins one namespace by its descriptor.
pub fn join_one(namespace: BorrowedFd<'_>, kind: u64) -> Result<()> {
    nix::sched::setns(namespace, flags(kind)).map_err(KernelError::nix("join", "a namespace"))
}

/// A descriptor of a process's namespace; `name` as in /proc/PID/ns.
pub fn open(pid: u32, name: &str) -> Result<OwnedFd> {
    let path = format!("/proc/{pid}/ns/{name}");
    rustix::fs::open(
        &path,
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )
    .map_err(KernelError::on("open", path))
}

/// A descriptor of our own namespace.
pub fn open_own(name: &str) -> Result<OwnedFd> {
    open(std::process::id(), name)
}

/// One line of an id map: ids from `inside` on are host ids from `outside` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct IdMap {
    /// First id inside.
    pub inside: u32,
    /// First id on the host.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// Writes the user and group id maps of a process that has just made a user namespace.
pub fn write_id_maps(pid: u32, users: &[IdMap], groups: &[IdMap]) -> Result<()> {
    for (file, maps) in [("gid_map", groups), ("uid_map", users)] {
        let text: String = maps
            .iter()
            .map(|m| format!("{} {} {}\n", m.inside, m.outside, m.count))
            .collect();
        write_proc(pid, file, &text)?;
    }
    Ok(())
}

/// A user namespace with these maps and nobody in it, for idmapped mounts: made by a process that
/// then ends.
pub fn user_with_maps(users: &[IdMap], groups: &[IdMap]) -> Result<OwnedFd> {
    use super::process::{self, CloneFlags, Forked};
    let flags = CloneFlags {
        namespaces: kind::USER,
        sibling: false,
    };
    let (pid, pidfd) = match process::fork_with(flags, None)? {
        Forked::Child => {
            let _guard = process::NoReturn;
            loop {
                std::thread::sleep(std::time::Duration::from_secs(60));
            }
        }
        Forked::Parent { pid, pidfd } => (pid, pidfd),
    };
    let made = write_id_maps(pid, users, groups).and_then(|()| open(pid, "user"));
    process::send_signal(pidfd.as_fd(), libc::SIGKILL)?;
    process::collect(pidfd.as_fd());
    made
}

/// A file that names a namespace of this kind, opened; anything else there is refused, and cannot
/// make us wait.
pub fn open_path(path: &std::path::Path, kind: u64) -> Result<OwnedFd> {
    use rustix::fs::{Mode, OFlags};
    /// NS_GET_NSTYPE of linux/nsfs.h, Linux 4.11.
    const GET_TYPE: libc::c_ulong = 0xb703;
    const NSFS_MAGIC: i64 = 0x6e73_6673;
    let failed = |errno| KernelError::new("open the namespace", path.display(), errno);
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(failed)?;
    let fs = rustix::fs::fstatfs(&fd).map_err(failed)?;
    if fs.f_type != NSFS_MAGIC {
        return Err(failed(Errno::INVAL).because("it is no namespace"));
    }
    // SAFETY: the request takes no argument and answers with a number.
    let found = unsafe { libc::ioctl(std::os::fd::AsRawFd::as_raw_fd(&fd), GET_TYPE) };
    if u64::try_from(found) == Ok(kind) {
        Ok(fd)
    } else {
        Err(failed(Errno::INVAL).because("it is a namespace of another kind"))
    }
}

/// Whether this is the namespace of its kind that we are in ourselves, or the first process is.
///
/// # Errors
/// Our own cannot be looked at.
pub fn is_of_the_host(fd: BorrowedFd<'_>, kind: u64) -> Result<bool> {
    let name = match kind {
        kind::MOUNT => "mnt",
        kind::CGROUP => "cgroup",
        kind::UTS => "uts",
        kind::IPC => "ipc",
        kind::USER => "user",
        kind::PID => "pid",
        kind::NET => "net",
        _ => "time",
    };
    let which = |fd: BorrowedFd<'_>| {
        let facts =
            rustix::fs::fstat(fd).map_err(KernelError::on("look at the namespace", name))?;
        Ok::<_, KernelError>((facts.st_dev, facts.st_ino))
    };
    let this = which(fd)?;
    if which(open_own(name)?.as_fd())? == this {
        return Ok(true);
    }
    // Who may not look at that one may not join it either.
    match open(1, name) {
        Ok(first) => Ok(which(first.as_fd())? == this),
        Err(_) => Ok(false),
    }
}

/// Sets the clocks of a time namespace that a process has made and nobody has entered: nanoseconds
/// added to the monotonic and the boot clock.
pub fn write_time_offsets(pid: u32, monotonic: i128, boot: i128) -> Result<()> {
    let line = |clock: &str, offset: i128| {
        let second = 1_000_000_000;
        format!(
            "{clock} {} {}\n",
            offset.div_euclid(second),
            offset.rem_euclid(second)
        )
    };
    let text = line("monotonic", monotonic) + &line("boottime", boot);
    write_proc(pid, "timens_offsets", &text)
}

/// Makes a time namespace with these offsets and enters it (setns(2) of one's own
/// `time_for_children`; only for a single thread).
pub fn enter_new_clock(monotonic: i128, boot: i128) -> Result<()> {
    unshare(kind::TIME)?;
    let own = std::path::Path::new("/proc/self");
    // Through /proc/self: what our number is depends on whose procfs this is.
    let text = std::fs::read_link(own).map_err(KernelError::io("read", "/proc/self"))?;
    let pid = text.to_str().and_then(|t| t.parse().ok()).unwrap_or(0);
    write_time_offsets(pid, monotonic, boot)?;
    join_one(open(pid, "time_for_children")?.as_fd(), kind::TIME)
}

/// The monotonic and the boot clock now, nanoseconds.
#[must_use]
pub fn clocks() -> (i128, i128) {
    use rustix::time::{ClockId, clock_gettime};
    let ns = |clock| {
        let t = clock_gettime(clock);
        i128::from(t.tv_sec) * 1_000_000_000 + i128::from(t.tv_nsec)
    };
    (ns(ClockId::Monotonic), ns(ClockId::Boottime))
}

pub(super) fn write_proc(pid: u32, file: &str, text: &str) -> Result<()> {
    let path = format!("/proc/{pid}/{file}");
    std::fs::write(&path, text).map_err(KernelError::io("write", path))
}

/// Names this UTS namespace.
pub fn set_names(host: &str, domain: &str) -> Result<()> {
    rustix::system::sethostname(host.as_bytes())
        .map_err(KernelError::on("set the host name", host))?;
    if domain.is_empty() {
        return Ok(());
    }
    rustix::system::setdomainname(domain.as_bytes())
        .map_err(KernelError::on("set the domain name", domain))
}

/// Joins the mount namespace `namespace` while the guard lives, then comes back.
#[derive(Debug)]
pub struct MountsOf {
    home: OwnedFd,
}

impl MountsOf {
    /// Makes a private copy of the mounts and works in it; dropping the guard returns to those before.
    pub fn private_copy() -> Result<Self> {
        let home = open_own("mnt")?;
        unshare(kind::MOUNT)?;
        let guard = Self { home };
        super::mount::make_all_slave()?;
        Ok(guard)
    }

    /// Goes back, saying so if that fails.
    pub fn leave(self) -> Result<()> {
        join_one(self.home.as_fd(), kind::MOUNT)
    }
}

impl Drop for MountsOf {
    fn drop(&mut self) {
        // Fails only if the process lost its privileges; `leave` is there for who must know.
        let _ignored = join_one(self.home.as_fd(), kind::MOUNT);
    }
}
