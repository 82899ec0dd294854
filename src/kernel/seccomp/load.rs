//! seccomp(2): giving a program to the calling thread. Everything here may be called in a child
//! between fork and exec: no allocation, no lock.
#![allow(unsafe_code)]

use std::os::fd::{FromRawFd, OwnedFd};

use rustix::io::Errno;

use super::Program;
use crate::model::{Action, FilterFlags};

/// The kernel did not take the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// The call failed.
    #[error("loading the seccomp filter ({instructions} instructions) failed: {errno}{}", hint(*.errno))]
    Refused {
        /// Length of the program.
        instructions: usize,
        /// The kernel's answer.
        errno: Errno,
    },
    /// With `tsync`: a thread has a filter that ours does not descend from.
    #[error(
        "loading the seccomp filter for all threads failed: thread {0} has loaded a filter of its own"
    )]
    Thread(i64),
}

fn hint(errno: Errno) -> &'static str {
    match errno {
        Errno::ACCESS => {
            "; the thread needs no_new_privs, or CAP_SYS_ADMIN in its user namespace, before the filter"
        }
        Errno::INVAL => {
            "; the kernel does not know an action or flag that the filter asks for, or has no seccomp"
        }
        Errno::BUSY => "; another filter of this process has a listener already",
        Errno::NOMEM => "; the filters of this process are longer than 32768 instructions together",
        _ => "",
    }
}

/// Whether the kernel knows an action (`SECCOMP_GET_ACTION_AVAIL`, Linux 4.14).
#[must_use]
pub fn supported(action: Action) -> bool {
    // The kernel knows none with a number in it.
    let code = action.code() & libc::SECCOMP_RET_ACTION_FULL;
    // SAFETY: the third argument points to a live u32, which the kernel only reads.
    let r = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_GET_ACTION_AVAIL,
            0,
            &raw const code,
        )
    };
    r == 0
}

/// Whether it knows filters whose listener, once it has received a call, is waited for until a deadly
/// signal comes (`SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV`, Linux 5.19).
#[must_use]
pub fn waits_killable() -> bool {
    let flags = WAIT_KILLABLE_RECV | libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    // SAFETY: a null program is refused, after flags that the kernel does not know have been.
    let done = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            std::ptr::null::<libc::sock_fprog>(),
        )
    };
    done < 0 && std::io::Error::last_os_error().raw_os_error() == Some(libc::EFAULT)
}

impl Program {
    /// Puts the program in force for the calling thread and what it becomes, for good.
    ///
    /// `int seccomp(SECCOMP_SET_MODE_FILTER, flags, struct sock_fprog *)`, Linux 3.17. The caller
    /// has no_new_privs set or holds CAP_SYS_ADMIN in its user namespace; this function sets
    /// neither.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn load(&self, flags: FilterFlags) -> Result<(), LoadError> {
        self.set(bits(flags)).map(drop)
    }

    /// The same, and returns the descriptor on which the listener receives calls
    /// (`SECCOMP_FILTER_FLAG_NEW_LISTENER`, Linux 5.0; with `tsync` 5.7). Close-on-exec is set.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn load_with_listener(&self, flags: FilterFlags) -> Result<OwnedFd, LoadError> {
        let mut bits = bits(flags) | libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
        if flags.tsync {
            // The answer can be a descriptor or a thread, unless this asks for ESRCH instead.
            bits |= libc::SECCOMP_FILTER_FLAG_TSYNC_ESRCH;
        }
        let fd = self.set(bits)?;
        let fd = i32::try_from(fd).map_err(|_| LoadError::Thread(fd))?;
        // SAFETY: with NEW_LISTENER the call returned a descriptor it just made; nobody else has it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// One or the other, as the program needs it: the listener's descriptor, or none. Under a filter
    /// that has a listener already there can be no second one; what would be notified is allowed
    /// then, and the other one notifies. Of the filter's flags that counts which says how the listener
    /// is waited for.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn put_in_force(&self) -> Result<Option<OwnedFd>, LoadError> {
        let alone = FilterFlags::default();
        if !self.notifies {
            return self.load(alone).map(|()| None);
        }
        let flags = FilterFlags {
            wait_killable: self.wait_killable,
            ..alone
        };
        match self.load_with_listener(flags) {
            Err(LoadError::Refused { errno, .. }) if errno == Errno::BUSY => {
                self.clone().without_listener().load(alone).map(|()| None)
            }
            done => done.map(Some),
        }
    }

    fn set(&self, flags: libc::c_ulong) -> Result<i64, LoadError> {
        let instructions = self.instructions.len();
        let refused = |errno| LoadError::Refused {
            instructions,
            errno,
        };
        let program = libc::sock_fprog {
            len: u16::try_from(instructions).map_err(|_| refused(Errno::INVAL))?,
            filter: self.instructions.as_ptr().cast_mut().cast(),
        };
        // SAFETY: `program` and the `len` instructions it points to outlive the call, which copies
        // them; `Instruction` has the layout of sock_filter (repr(C), checked below), and the kernel
        // never writes to it.
        let r = unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                flags,
                &raw const program,
            )
        };
        if r < 0 {
            // Reads the thread's errno; allocates nothing.
            let errno = std::io::Error::last_os_error()
                .raw_os_error()
                .unwrap_or(libc::EIO);
            return Err(refused(Errno::from_raw_os_error(errno)));
        }
        if r > 0 && flags & libc::SECCOMP_FILTER_FLAG_NEW_LISTENER == 0 {
            return Err(LoadError::Thread(r));
        }
        Ok(r)
    }
}

/// linux/seccomp.h, Linux 5.19.
const WAIT_KILLABLE_RECV: libc::c_ulong = 1 << 5;

fn bits(flags: FilterFlags) -> libc::c_ulong {
    [
        (flags.tsync, libc::SECCOMP_FILTER_FLAG_TSYNC),
        (flags.log, libc::SECCOMP_FILTER_FLAG_LOG),
        (flags.spec_allow, libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW),
        (flags.wait_killable, WAIT_KILLABLE_RECV),
    ]
    .into_iter()
    .filter(|(wanted, _)| *wanted)
    .fold(0, |all, (_, bit)| all | bit)
}

const _: () = assert!(
    size_of::<super::Instruction>() == size_of::<libc::sock_filter>()
        && align_of::<super::Instruction>() == align_of::<libc::sock_filter>()
);
