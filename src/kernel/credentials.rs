//! Who the calling thread is: user and group ids, the ids file systems see, resource limits,
//! no_new_privs, the session keyring. Capabilities are next door in `capability`.
#![allow(unsafe_code)]

use rustix::io::Errno;

use super::error::{KernelError, Result};

/// Sets real, effective and saved group and user id of this thread and drops all further groups.
/// Raw system calls: glibc's wrappers would signal other threads, and there are none.
pub fn become_user(uid: u32, gid: u32, groups: &[u32]) -> Result<()> {
    // SAFETY: `groups` is a live slice of gid_t and its length is passed.
    let done = unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) };
    if done != 0 {
        return Err(KernelError::last("set", "the further groups"));
    }
    become_id(uid, gid)
}

/// The same, and the further groups stay: for who may not change them (a rootless launch).
pub fn become_id(uid: u32, gid: u32) -> Result<()> {
    // SAFETY: no pointers.
    if unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) } != 0 {
        return Err(KernelError::last("become group", gid));
    }
    // SAFETY: no pointers.
    if unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) } != 0 {
        return Err(KernelError::last("become user", uid));
    }
    Ok(())
}

/// Gives standard input, output and error to the user that is to have them, so that a program can
/// open them again by name (/dev/stdout). /dev/null is everybody's, and the group stays: a terminal's
/// is chosen by its mount.
pub fn own_standard_files(uid: u32) -> Result<()> {
    let stdio = [
        rustix::stdio::stdin(),
        rustix::stdio::stdout(),
        rustix::stdio::stderr(),
    ];
    let null = rustix::fs::makedev(1, 3);
    for fd in stdio {
        let Ok(stat) = rustix::fs::fstat(fd) else {
            continue;
        };
        let character = rustix::fs::FileType::from_raw_mode(stat.st_mode).is_char_device();
        if stat.st_uid == uid || (character && stat.st_rdev == null) {
            continue;
        }
        let owner = Some(rustix::fs::Uid::from_raw(uid));
        match rustix::fs::fchown(fd, owner, None) {
            // Of another user namespace, of a file system that has no such owner or is read-only.
            Ok(()) | Err(Errno::PERM | Errno::INVAL | Errno::ROFS | Errno::OVERFLOW) => {}
            Err(errno) => {
                return Err(KernelError::new(
                    "give the user",
                    "its standard files",
                    errno,
                ));
            }
        }
    }
    Ok(())
}

/// Whether a change of user id leaves capabilities alone (SECBIT_NO_SETUID_FIXUP, capabilities(7)).
pub fn keep_capabilities_over_setuid(keep: bool) -> Result<()> {
    const NO_SETUID_FIXUP: libc::c_ulong = 1 << 2;
    let bits = if keep { NO_SETUID_FIXUP } else { 0 };
    // SAFETY: no pointers.
    if unsafe { libc::prctl(libc::PR_SET_SECUREBITS, bits, 0, 0, 0) } == 0 {
        Ok(())
    } else {
        Err(KernelError::last("set", "the secure bits"))
    }
}

/// While it lives, this thread's effective user is another one, with all its capabilities: what the
/// kernel counts for each user is counted as that one's.
#[derive(Debug)]
pub struct EffectiveUser(());

impl EffectiveUser {
    /// Takes on the id. The real and the saved one stay root's.
    pub fn become_id(id: u32) -> Result<Self> {
        keep_capabilities_over_setuid(true)?;
        let guard = Self(());
        set_effective(id).map(|()| guard)
    }
}

impl Drop for EffectiveUser {
    fn drop(&mut self) {
        // To the saved id, which cannot be refused.
        let _back = set_effective(0);
        let _ignored = keep_capabilities_over_setuid(false);
    }
}

fn set_effective(id: u32) -> Result<()> {
    // SAFETY: no pointers.
    if unsafe { libc::syscall(libc::SYS_setresuid, u32::MAX, id, u32::MAX) } == 0 {
        Ok(())
    } else {
        Err(KernelError::last("act as user", id))
    }
}

/// While it lives, file systems see this thread as `id` (setfsuid(2)) with all its capabilities.
///
/// An overlay remembers who mounted it and works on its layers as that user. On idmapped layers
/// that has to be an id of the guest, for the host's root is nobody there and could create nothing.
#[derive(Debug)]
pub struct FileSystemUser(());

impl FileSystemUser {
    /// Takes on the id.
    pub fn become_id(id: u32) -> Result<Self> {
        keep_capabilities_over_setuid(true)?;
        set_fs_ids(id);
        // Both calls answer with the id before; asking again with an impossible one tells the new.
        // SAFETY: no pointers.
        let now = unsafe { libc::syscall(libc::SYS_setfsuid, u32::MAX) };
        let guard = Self(());
        if u32::try_from(now) == Ok(id) {
            Ok(guard)
        } else {
            Err(KernelError::new("act on files as", id, Errno::PERM))
        }
    }
}

impl Drop for FileSystemUser {
    fn drop(&mut self) {
        set_fs_ids(0);
        // Taking the bit back cannot fail where setting it did not; without it only a later
        // setuid would differ, and that one sets it itself.
        let _ignored = keep_capabilities_over_setuid(false);
    }
}

/// While it lives, file systems see this thread as a user and a group that are not root's, and without
/// root's capabilities: it finds what they would find, and less where they have further groups. It is
/// for a thread that has not set SECBIT_NO_SETUID_FIXUP.
#[derive(Debug)]
pub struct FileSystemStranger(());

impl FileSystemStranger {
    /// Takes on the ids.
    pub fn become_ids(user: u32, group: u32) -> Result<Self> {
        if user == 0 {
            // That would be root with all its capabilities.
            return Err(KernelError::new("act on files as", user, Errno::PERM));
        }
        set_fs_user_and_group(user, group);
        let guard = Self(());
        if fs_user_and_group() == [Ok(user), Ok(group)] {
            Ok(guard)
        } else {
            Err(KernelError::new("act on files as", user, Errno::PERM))
        }
    }
}

impl Drop for FileSystemStranger {
    fn drop(&mut self) {
        set_fs_user_and_group(0, 0);
    }
}

/// File systems see this thread as a user and a group from now on, as far as it may become those.
///
/// # Errors
/// It may not.
pub fn act_on_files_as(user: u32, group: u32) -> Result<()> {
    set_fs_user_and_group(user, group);
    match fs_user_and_group() == [Ok(user), Ok(group)] {
        true => Ok(()),
        false => Err(KernelError::new("act on files as", user, Errno::PERM)),
    }
}

/// Both calls answer with the id before; asked with an impossible one, with the one that it is.
fn fs_user_and_group() -> [std::result::Result<u32, std::num::TryFromIntError>; 2] {
    // SAFETY: no pointers.
    let user = unsafe { libc::syscall(libc::SYS_setfsuid, u32::MAX) };
    // SAFETY: as above.
    let group = unsafe { libc::syscall(libc::SYS_setfsgid, u32::MAX) };
    [user, group].map(u32::try_from)
}

fn set_fs_ids(id: u32) {
    set_fs_user_and_group(id, id);
}

fn set_fs_user_and_group(user: u32, group: u32) {
    // SAFETY: no pointers; neither call can fail in another way than not changing the id.
    unsafe {
        libc::syscall(libc::SYS_setfsgid, group);
    }
    // SAFETY: as above.
    unsafe {
        libc::syscall(libc::SYS_setfsuid, user);
    }
}

/// The number of a resource limit by lower-case name, see getrlimit(2).
#[must_use]
pub fn rlimit_resource(name: &str) -> Option<u32> {
    let resource = match name {
        "as" => libc::RLIMIT_AS,
        "core" => libc::RLIMIT_CORE,
        "cpu" => libc::RLIMIT_CPU,
        "data" => libc::RLIMIT_DATA,
        "fsize" => libc::RLIMIT_FSIZE,
        "locks" => libc::RLIMIT_LOCKS,
        "memlock" => libc::RLIMIT_MEMLOCK,
        "msgqueue" => libc::RLIMIT_MSGQUEUE,
        "nice" => libc::RLIMIT_NICE,
        "nofile" => libc::RLIMIT_NOFILE,
        "nproc" => libc::RLIMIT_NPROC,
        "rss" => libc::RLIMIT_RSS,
        "rtprio" => libc::RLIMIT_RTPRIO,
        "rttime" => libc::RLIMIT_RTTIME,
        "sigpending" => libc::RLIMIT_SIGPENDING,
        "stack" => libc::RLIMIT_STACK,
        _ => return None,
    };
    Some(resource)
}

/// Soft and hard limit of a resource of this process; `u64::MAX` is none.
pub fn get_rlimit(name: &str) -> Result<(u64, u64)> {
    let resource =
        rlimit_resource(name).ok_or_else(|| KernelError::new("read limit", name, Errno::INVAL))?;
    let mut now = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `now` is live and of the type the call fills.
    if unsafe { libc::getrlimit(resource, &raw mut now) } == 0 {
        Ok((now.rlim_cur, now.rlim_max))
    } else {
        Err(KernelError::last("read limit", name))
    }
}

/// Sets a resource limit of this process; `u64::MAX` is none.
pub fn set_rlimit(name: &str, soft: u64, hard: u64) -> Result<()> {
    let resource =
        rlimit_resource(name).ok_or_else(|| KernelError::new("set limit", name, Errno::INVAL))?;
    let limit = libc::rlimit {
        rlim_cur: soft,
        rlim_max: hard,
    };
    // SAFETY: `limit` is live and of the type the call reads.
    if unsafe { libc::setrlimit(resource, &raw const limit) } == 0 {
        Ok(())
    } else {
        Err(KernelError::last(
            "set limit",
            format!("{name} to {soft}:{hard}"),
        ))
    }
}

/// Raises a hard limit of this process to `hard` where it is lower; the soft one stays. Raising needs
/// CAP_SYS_RESOURCE in the host's user namespace.
pub fn raise_hard_limit(name: &str, hard: u64) -> Result<()> {
    let resource =
        rlimit_resource(name).ok_or_else(|| KernelError::new("raise limit", name, Errno::INVAL))?;
    let mut now = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `now` is live and of the type the call writes.
    if unsafe { libc::getrlimit(resource, &raw mut now) } != 0 {
        return Err(KernelError::last("read limit", name));
    }
    if now.rlim_max >= hard {
        return Ok(());
    }
    set_rlimit(name, now.rlim_cur, hard)
}

/// Execution can no longer add privileges (prctl(2) PR_SET_NO_NEW_PRIVS).
pub fn no_new_privileges() -> Result<()> {
    rustix::thread::set_no_new_privs(true).map_err(KernelError::on("set", "no_new_privs"))
}

/// Leaves the session keyring of whoever started us for a new, empty one (keyctl(2)).
pub fn new_session_keyring() -> Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
    // SAFETY: a null name asks for an unnamed keyring.
    let done = unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            KEYCTL_JOIN_SESSION_KEYRING,
            std::ptr::null::<libc::c_char>(),
        )
    };
    match done {
        // A kernel without keyrings has none to leave; a full quota leaves the one of our new uid.
        -1 => match KernelError::last("join", "a new session keyring") {
            error if matches!(error.errno, Errno::NOSYS | Errno::DQUOT) => Ok(()),
            error => Err(error),
        },
        _ => Ok(()),
    }
}
