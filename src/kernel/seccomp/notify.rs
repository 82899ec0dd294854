//! The listener's end of a filter that notifies (seccomp_unotify(2), Linux 5.0): somebody inside waits
//! in a system call until it is answered here, or let through to the kernel.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// Seconds.
const LONGEST: libc::c_uint = 3;

/// A call that waits for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// Number of the notification. They go up by one with each call of the same filter.
    pub id: u64,
    /// The thread that called, as seen from here.
    pub thread: u32,
    /// `AUDIT_ARCH_` value of its convention.
    pub convention: u32,
    /// Number of the call in that convention.
    pub number: u32,
    /// Its arguments.
    pub arguments: [u64; 6],
}

/// The next call that waits; `None` when the one that was there has been given up. To be asked when
/// poll(2) says that there is one.
///
/// # Errors
/// The descriptor is no listener.
pub fn receive(listener: BorrowedFd<'_>) -> rustix::io::Result<Option<Call>> {
    // SAFETY: plain old data for which all zeroes is valid; the kernel asks for zeroes.
    let mut told: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: the request writes one `seccomp_notif`, which outlives the call.
    let done = unsafe {
        libc::ioctl(
            listener.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_RECV,
            &raw mut told,
        )
    };
    match result(done) {
        Ok(()) => Ok(Some(Call {
            id: told.id,
            thread: told.pid,
            convention: told.data.arch,
            number: told.data.nr.cast_unsigned(),
            arguments: told.data.args,
        })),
        // Its thread was interrupted, or killed.
        Err(Errno::NOENT | Errno::INTR | Errno::AGAIN) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It returns this.
    Value(i64),
    /// It fails with this.
    Fails(Errno),
    /// The kernel carries it out (Linux 5.5).
    LetThrough,
}

/// Answers the call of a number.
///
/// # Errors
/// Nobody waits for it: its thread was interrupted or killed, or another has answered.
pub fn answer(listener: BorrowedFd<'_>, id: u64, answer: Answer) -> rustix::io::Result<()> {
    const CONTINUE: u32 = 1;
    let (val, error, flags) = match answer {
        Answer::Value(value) => (value, 0, 0),
        Answer::Fails(errno) => (0, -errno.raw_os_error(), 0),
        Answer::LetThrough => (0, 0, CONTINUE),
    };
    let mut said = libc::seccomp_notif_resp {
        id,
        val,
        error,
        flags,
    };
    // SAFETY: the request reads one `seccomp_notif_resp`, which outlives the call.
    result(unsafe {
        libc::ioctl(
            listener.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_SEND,
            &raw mut said,
        )
    })
}

/// Writes into the memory of the thread that called. Its number may be another thread's by now, so
/// the memory is opened first and then the kernel asked whether that thread still waits: what was
/// opened is that one's for good. (process_vm_writev(2) goes by the number alone, and could write into
/// whatever has that number then; this here writes into private mappings that are read-only, too.)
///
/// # Errors
/// It is gone (`ESRCH`), may not be written to, or has no memory there (`EFAULT`).
pub fn write_to_caller(
    listener: BorrowedFd<'_>,
    call: &Call,
    address: u64,
    bytes: &[u8],
) -> rustix::io::Result<()> {
    let memory = memory(listener, call, OFlags::WRONLY)?;
    match briefly(|| rustix::io::pwrite(&memory, bytes, address)) {
        Ok(n) if n == bytes.len() => Ok(()),
        _ => Err(Errno::FAULT),
    }
}

/// Reads a text from there, with its end, that is no longer than paths are.
///
/// # Errors
/// As [`write_to_caller`]; `ENAMETOOLONG`.
pub fn text_of_caller(
    listener: BorrowedFd<'_>,
    call: &Call,
    address: u64,
) -> rustix::io::Result<CString> {
    let memory = memory(listener, call, OFlags::RDONLY)?;
    let mut bytes = vec![0; libc::PATH_MAX.unsigned_abs() as usize];
    let n = briefly(|| rustix::io::pread(&memory, &mut bytes, address))?;
    let end = bytes[..n].iter().position(|byte| *byte == 0);
    bytes.truncate(end.ok_or(Errno::NAMETOOLONG)?);
    CString::new(bytes).map_err(|_| Errno::INVAL)
}

/// Reads the beginning of what is there: as many bytes as there are, and no more than these.
///
/// # Errors
/// As [`write_to_caller`].
pub fn bytes_of_caller<const MOST: usize>(
    listener: BorrowedFd<'_>,
    call: &Call,
    address: u64,
) -> rustix::io::Result<[u8; MOST]> {
    let memory = memory(listener, call, OFlags::RDONLY)?;
    let mut bytes = [0; MOST];
    briefly(|| rustix::io::pread(&memory, &mut bytes, address))?;
    Ok(bytes)
}

fn memory(listener: BorrowedFd<'_>, call: &Call, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let path = format!("/proc/{}/mem", call.thread);
    let memory = rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty())?;
    match waits(listener, call.id) {
        true => Ok(memory),
        false => Err(Errno::SRCH),
    }
}

/// Does what touches a caller's memory or files. What is there can be a file whose owner lets us wait
/// for ever (FUSE). Nothing but a deadly signal ends that: after [`LONGEST`] SIGALRM ends this process,
/// whose next one lets the caller through.
pub fn briefly<T>(act: impl FnOnce() -> T) -> T {
    // SAFETY: SIG_DFL is no handler, so nothing of ours is called; a number is passed and one returned.
    unsafe {
        // Whoever began the keeper may have ignored it.
        libc::signal(libc::SIGALRM, libc::SIG_DFL);
        libc::alarm(LONGEST);
    }
    let done = act();
    // SAFETY: as above.
    unsafe { libc::alarm(0) };
    done
}

/// Whether somebody still waits for the answer to the call of this number: as long as that is so, what
/// was found by the number of its thread is that thread's.
#[must_use]
pub fn waits(listener: BorrowedFd<'_>, id: u64) -> bool {
    // SAFETY: the request reads one u64, which outlives the call.
    let done = unsafe {
        libc::ioctl(
            listener.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_ID_VALID,
            &raw const id,
        )
    };
    done == 0
}

fn result(done: libc::c_int) -> rustix::io::Result<()> {
    if done == 0 {
        return Ok(());
    }
    let errno = std::io::Error::last_os_error().raw_os_error();
    Err(Errno::from_raw_os_error(errno.unwrap_or(libc::EIO)))
}
