//! A mount namespace that holds one empty, read-only folder and nothing of the host's, kept in a
//! file. Who begins there has nothing to copy and nothing to leave: no copy of the host's mounts,
//! no pivot_root(2), which looks at every process, and no unmounting of what was there before.
//!
//! The file is a bind of the namespace (`/proc/PID/ns/mnt`) on a private tmpfs of its own, since
//! the kernel wants no namespace's file where mounts are told to others (mount_namespaces(7)). A
//! reboot takes it away; so do `umount FOLDER/empty` and `umount FOLDER`, at any time: whoever is
//! in such a namespace has a copy.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{Access, CWD, FileType, FlockOperation, Mode, OFlags};

use super::channel::Channel;
use super::error::{KernelError, Result};
use super::mount::{self, Attr, Change};
use super::namespace::{self, kind};
use super::process::{self, CloneFlags, Forked};
use super::{Errno, file, schedule};

/// The namespace's file, and what tells that it cannot be had on this host.
const KEPT: &str = "empty";
const REFUSED: &str = "refused";

/// On how many CPUs it is tried.
const ATTEMPTS: usize = 16;

/// How long it is not tried again after the kernel has refused it: whoever comes next may be allowed
/// what this one was not.
const ASK_AGAIN: Duration = Duration::from_secs(60);

/// Refusals that the next one who comes need not meet.
const PASSING: [Errno; 7] = [
    Errno::INTR,
    Errno::AGAIN,
    Errno::NOMEM,
    Errno::MFILE,
    Errno::NFILE,
    Errno::NOSPC,
    Errno::BUSY,
];

/// The namespace kept in `folder`; `None` where none can be had, which is asked once in a while.
#[must_use]
pub fn open(folder: &Path) -> Option<OwnedFd> {
    let path = folder.join(KEPT);
    if let Ok(kept) = namespace::open_path(&path, kind::MOUNT) {
        return Some(kept);
    }
    if is_refused(folder) {
        return None;
    }
    make(folder).ok().flatten()
}

fn is_refused(folder: &Path) -> bool {
    let mark = std::fs::metadata(folder.join(REFUSED));
    let refused = mark.and_then(|mark| mark.modified());
    refused.is_ok_and(|at| at.elapsed().is_ok_and(|since| since < ASK_AGAIN))
}

/// Makes the namespace, if nobody else has done so meanwhile, or been refused it.
fn make(folder: &Path) -> Result<Option<OwnedFd>> {
    file::make_private_dir(folder)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let what = folder.display().to_string();
    let below =
        rustix::fs::open(folder, flags, Mode::empty()).map_err(KernelError::on("open", &what))?;
    // The folder that is covered below, for whoever comes while it is not covered yet.
    rustix::fs::flock(&below, FlockOperation::LockExclusive)
        .map_err(KernelError::on("lock", &what))?;
    let path = folder.join(KEPT);
    if let Ok(kept) = namespace::open_path(&path, kind::MOUNT) {
        return Ok(Some(kept));
    }
    if is_refused(folder) {
        return Ok(None);
    }
    let made = make_locked(folder, &below, &what);
    if let Err(error) = made.as_ref()
        && !PASSING.contains(&error.errno)
    {
        // Only what it would save is lost.
        let _unmarked = std::fs::write(folder.join(REFUSED), format!("{error}\n"));
    }
    made.map(Some)
}

fn make_locked(folder: &Path, below: &OwnedFd, what: &str) -> Result<OwnedFd> {
    let path = folder.join(KEPT);
    // One that was killed has got as far as this.
    if rustix::fs::access(&path, Access::EXISTS).is_err() {
        cover(below, what)?;
    }
    let alone = Change {
        propagation: libc::MS_PRIVATE,
        ..Change::default()
    };
    let top = rustix::fs::open(folder, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(KernelError::on("open", what))?;
    let kept = mount::change(top.as_fd(), alone, what).and_then(|()| keep(&path));
    match (kept, namespace::open_path(&path, kind::MOUNT)) {
        (Ok(kept), _) | (Err(_), Ok(kept)) => Ok(kept),
        (Err(error), Err(_)) => {
            let _left = mount::detach(folder);
            Err(error)
        }
    }
}

/// Mounts a tmpfs with the file that is to be covered.
fn cover(folder: &OwnedFd, what: &str) -> Result<()> {
    let attr = Attr::MOUNT_ATTR_NOSUID | Attr::MOUNT_ATTR_NODEV | Attr::MOUNT_ATTR_NOEXEC;
    let tmpfs = mount::new_filesystem("tmpfs", &[("size", "16k"), ("mode", "700")], attr)?;
    let mode = Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(&tmpfs, KEPT, FileType::RegularFile, mode, 0)
        .map_err(KernelError::on("make the file", KEPT))?;
    mount::attach(tmpfs.as_fd(), folder.as_fd(), what)
}

/// Binds a new namespace to the file. The kernel hands out the numbers of namespaces to each CPU in
/// batches, and keeps none in a mount namespace that has a higher one: each CPU is tried in turn.
fn keep(path: &Path) -> Result<OwnedFd> {
    let mut last = Errno::INVAL;
    for cpu in cpus().into_iter().take(ATTEMPTS) {
        // What the kernel refuses here it would refuse on the next CPU as well.
        let empty = made_by_child(cpu)?;
        let kept = bind(&empty, path).and_then(|()| namespace::open_path(path, kind::MOUNT));
        match kept {
            Err(error) if matches!(error.errno, Errno::INVAL | Errno::LOOP) => last = error.errno,
            other => return other,
        }
    }
    Err(KernelError::new(
        "keep a mount namespace in",
        path.display(),
        last,
    ))
}

/// The namespace, from a process that is over when this returns.
fn made_by_child(cpu: u32) -> Result<OwnedFd> {
    let (ours, theirs) = Channel::pair()?;
    let pidfd = match process::fork_with(CloneFlags::default(), None)? {
        Forked::Child => {
            let _guard = process::NoReturn;
            // Its end says enough.
            let _sent = match empty(cpu) {
                Ok(made) => theirs.send(&0_i32.to_ne_bytes(), Some(made.as_fd())),
                Err(error) => theirs.send(&error.errno.raw_os_error().to_ne_bytes(), None),
            };
            process::leave(0)
        }
        Forked::Parent { pidfd, .. } => pidfd,
    };
    drop(theirs);
    let said = ours.receive(None);
    process::collect(pidfd.as_fd());
    let refused = |errno| KernelError::new("make", "an empty mount namespace", errno);
    match said? {
        Some((_, Some(made))) => Ok(made),
        Some((errno, None)) => {
            let errno = errno.try_into().map_or(libc::EIO, i32::from_ne_bytes);
            Err(refused(Errno::from_raw_os_error(errno)))
        }
        // It was killed.
        None => Err(refused(Errno::INTR)),
    }
}

fn bind(namespace: &OwnedFd, path: &Path) -> Result<()> {
    let what = path.display().to_string();
    let tree = mount::clone_tree_fd(namespace.as_fd(), false, "an empty mount namespace")?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let at = rustix::fs::openat(CWD, path, flags, Mode::empty())
        .map_err(KernelError::on("open", &what))?;
    mount::attach(tree.as_fd(), at.as_fd(), &what)
}

/// The CPUs we may run on.
fn cpus() -> Vec<u32> {
    let mask = schedule::affinity_of(0, 1 << 10).unwrap_or_default();
    let bit = |cpu: &u32| {
        mask.get(*cpu as usize / 8)
            .is_some_and(|b| b >> (cpu % 8) & 1 == 1)
    };
    (0..u32::try_from(mask.len() * 8).unwrap_or(0))
        .filter(bit)
        .collect()
}

/// Makes a mount namespace on that CPU, with nothing in it but an empty folder that nobody can write
/// to.
fn empty(cpu: u32) -> Result<OwnedFd> {
    schedule::set_affinity(&[cpu])?;
    namespace::unshare(kind::MOUNT)?;
    // By the process's own link: its number may mean another where /proc is of other processes.
    let own = Path::new("/proc/self/ns/mnt");
    let made = namespace::open_path(own, kind::MOUNT)?;
    mount::make_all_private()?;
    let attr = Attr::MOUNT_ATTR_NOSUID
        | Attr::MOUNT_ATTR_NODEV
        | Attr::MOUNT_ATTR_NOEXEC
        | Attr::MOUNT_ATTR_RDONLY;
    let options = [("nr_inodes", "1"), ("mode", "555"), ("ro", "")];
    let root = mount::new_filesystem("tmpfs", &options, attr)?;
    mount::cover_root(root.as_fd())?;
    mount::become_root(root.as_fd())?;
    Ok(made)
}

/// Enters a copy of the namespace. Root and working folder are its empty folder then; descriptors
/// go on meaning what they meant. Only for a process of one thread.
///
/// # Errors
/// When the kernel refuses.
pub fn enter_copy(kept: &OwnedFd) -> Result<()> {
    namespace::join_one(kept.as_fd(), kind::MOUNT)?;
    namespace::unshare(kind::MOUNT)
}
