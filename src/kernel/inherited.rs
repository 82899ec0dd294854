//! Descriptors over an exec: those that the program before left open for this one, by the number it
//! told, and which of ours the next one gets.
#![allow(unsafe_code)]

use std::collections::BTreeSet;
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Mutex;

use rustix::fs::FileType;
use rustix::io::Errno;

use super::error::{KernelError, Result};

/// Numbers that have an owner already.
static TAKEN: Mutex<BTreeSet<RawFd>> = Mutex::new(BTreeSet::new());

/// Takes over an inherited descriptor and has it closed at the next exec (fcntl(2), F_GETFD and
/// F_SETFD). Standard input, output and error are not to be taken, and nothing twice.
///
/// To be called before this process opens anything: a number that is open then was inherited.
///
/// # Errors
/// The number is no open descriptor, or is taken already.
pub fn take(number: RawFd) -> Result<OwnedFd> {
    let failed = |errno| KernelError::new("take over", format!("descriptor {number}"), errno);
    let mut taken = TAKEN.lock().map_err(|_| failed(Errno::DEADLK))?;
    if number < 3 || taken.contains(&number) {
        return Err(failed(Errno::BADF).because("it is in use already"));
    }
    // SAFETY: F_GETFD takes no argument and only reads; any number may be asked about.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    if flags < 0 {
        return Err(KernelError::last(
            "take over",
            format!("descriptor {number}"),
        ));
    }
    // SAFETY: F_SETFD takes an int by value and changes only a flag of an open descriptor.
    if unsafe { libc::fcntl(number, libc::F_SETFD, flags | libc::FD_CLOEXEC) } < 0 {
        return Err(KernelError::last(
            "take over",
            format!("descriptor {number}"),
        ));
    }
    taken.insert(number);
    // SAFETY: the number is open, as just seen; it was inherited, so that nothing in this process
    // owns it, and `taken` keeps a second call from owning it again.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Which of standard input, output and error is a folder, if one is: given to a program in a guest
/// or container it would be a way out of its root (CVE-2024-21626).
///
/// # Errors
/// One of them is not open.
pub fn standard_folder() -> Result<Option<&'static str>> {
    let (input, output, error) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let all = [
        (input.as_fd(), "input"),
        (output.as_fd(), "output"),
        (error.as_fd(), "error"),
    ];
    for (fd, what) in all {
        let stat = rustix::fs::fstat(fd).map_err(KernelError::on("look at standard", what))?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            return Ok(Some(what));
        }
    }
    Ok(None)
}

/// Closes every descriptor from `first` on at the next exec (close_range(2), Linux 5.11).
pub fn close_on_exec_from(first: u32) -> Result<()> {
    // SAFETY: no pointers; descriptors only get their close-on-exec flag set.
    let done = unsafe {
        libc::close_range(
            first,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC.cast_signed(),
        )
    };
    if done == 0 {
        return Ok(());
    }
    // A filter in force may not know the call; one by one then.
    for number in first.cast_signed()..ONE_BY_ONE {
        // SAFETY: F_GETFD takes no argument and only reads; any number may be asked about.
        let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
        // SAFETY: F_SETFD takes an int by value and changes only a flag of an open descriptor.
        if flags >= 0 && unsafe { libc::fcntl(number, libc::F_SETFD, flags | libc::FD_CLOEXEC) } < 0
        {
            return Err(KernelError::last("close", "descriptors"));
        }
    }
    Ok(())
}

/// Where looking for descriptors one by one ends. Above are none of ours, and those of our caller
/// have been marked before a filter was loaded.
const ONE_BY_ONE: i32 = 1024;

/// Closes all descriptors from 3 on but these, now: for a process that will wait long and must hold
/// nothing of its maker's. What owned the others must never be dropped after it: its caller ends by
/// execve(2) or _exit(2).
pub fn close_all_but(keep: &mut Vec<i32>) -> Result<()> {
    keep.retain(|fd| *fd >= 3);
    keep.sort_unstable();
    let mut first = 3;
    for last in keep.iter().copied().chain([i32::MAX]) {
        if last > first {
            let (from, to) = (first.cast_unsigned(), (last - 1).cast_unsigned());
            // SAFETY: no pointers; that nothing uses the closed numbers is the caller's promise.
            if unsafe { libc::close_range(from, to, 0) } != 0 {
                for number in first..last.min(ONE_BY_ONE) {
                    // SAFETY: as above; a number that is not open is refused.
                    let _not_open = unsafe { libc::close(number) };
                }
            }
        }
        first = last.saturating_add(1);
    }
    Ok(())
}

/// Whether all of the `count` descriptors from 3 on are open: to be asked before this process opens
/// anything, which would otherwise be taken for one of them.
pub fn are_open(count: u32) -> bool {
    (0..count).all(|more| {
        let number = 3_u32.checked_add(more).and_then(|n| i32::try_from(n).ok());
        // SAFETY: F_GETFD takes no argument and only reads; any number may be asked about.
        number.is_some_and(|number| unsafe { libc::fcntl(number, libc::F_GETFD) } >= 0)
    })
}

/// Makes the descriptors from `first` to before `end` survive the next exec, those that are open.
pub fn keep_over_exec_range(first: u32, end: u32) -> Result<()> {
    for number in first..end {
        let number = number.cast_signed();
        // SAFETY: F_GETFD takes no argument and only reads; any number may be asked about.
        let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
        if flags < 0 {
            continue;
        }
        // SAFETY: F_SETFD takes an int by value and changes only a flag of an open descriptor.
        if unsafe { libc::fcntl(number, libc::F_SETFD, flags & !libc::FD_CLOEXEC) } < 0 {
            return Err(KernelError::last(
                "keep open",
                format!("descriptor {number}"),
            ));
        }
    }
    Ok(())
}

/// Makes `fd` survive the next exec.
pub fn keep_over_exec(fd: impl AsFd) -> Result<()> {
    rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty())
        .map_err(KernelError::on("keep open", "a descriptor"))
}

#[cfg(test)]
mod tests {
    use std::os::fd::IntoRawFd;

    use super::*;

    #[test]
    fn an_open_number_is_taken_once_and_a_closed_one_never() {
        let given = std::fs::File::open("/dev/null").unwrap().into_raw_fd();
        let owned = take(given).unwrap();
        assert!(
            take(given)
                .unwrap_err()
                .to_string()
                .contains("in use already")
        );
        drop(owned);
        assert_eq!(take(9_999).unwrap_err().errno, Errno::BADF);
        assert!(take(1).is_err());
    }
}
