//! Signals that ask this program to end, for commands that must put things away first: caught, and
//! told to whoever asks. Programs we execute get the default actions back (execve(2)), and launches
//! reset theirs.
#![allow(unsafe_code)]

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, sigaction};
use nix::sys::time::TimeSpec;

use super::error::{KernelError, Result};

/// What asks this program to end.
const ENDING: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

/// The first signal that came; 0 for none.
static CAUGHT: AtomicI32 = AtomicI32::new(0);

extern "C" fn note(signal: libc::c_int) {
    // The first one counts; whoever is impatient changes nothing.
    let _same = CAUGHT.compare_exchange(0, signal, Ordering::Relaxed, Ordering::Relaxed);
}

/// From now on SIGINT, SIGTERM and SIGHUP do not end this program but are told by [`caught`].
/// System calls that wait end with EINTR (sigaction(2) without SA_RESTART).
///
/// # Errors
/// The kernel refuses.
pub fn catch() -> Result<()> {
    let action = SigAction::new(SigHandler::Handler(note), SaFlags::empty(), SigSet::empty());
    for signal in ENDING {
        // SAFETY: the handler only does an atomic compare and exchange on a static, which is
        // async-signal-safe (signal-safety(7)): no lock, no allocation, errno untouched.
        unsafe { sigaction(signal, &action) }
            .map_err(KernelError::nix("catch", signal.as_str()))?;
    }
    Ok(())
}

extern "C" fn end(signal: libc::c_int) {
    super::process::leave(128 + signal);
}

/// From now on SIGINT and SIGTERM end this program even if it is process 1 of a pid namespace: to that
/// one the kernel passes on nothing whose action is the default one.
///
/// # Errors
/// The kernel refuses.
pub fn obey() -> Result<()> {
    let action = SigAction::new(SigHandler::Handler(end), SaFlags::empty(), SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        // SAFETY: the handler only calls _exit(2), which is async-signal-safe.
        unsafe { sigaction(signal, &action) }.map_err(KernelError::nix("obey", signal.as_str()))?;
    }
    Ok(())
}

/// The signal that asked this program to end, if one did.
#[must_use]
pub fn caught() -> Option<i32> {
    Some(CAUGHT.load(Ordering::Relaxed)).filter(|signal| *signal != 0)
}

/// Waits until one of these files has something, a signal is caught, or so long. A signal that came since
/// [`caught`] was asked ends it too: between the two it would be slept through.
///
/// # Errors
/// EINTR for a signal; the kernel refuses.
pub fn wait(files: &mut [PollFd<'_>], limit: Option<Duration>) -> nix::Result<()> {
    let before = SigSet::from_iter(ENDING).thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
    let done = match caught() {
        Some(_) => Err(Errno::EINTR),
        None => ppoll(files, limit.map(TimeSpec::from_duration), Some(before)),
    };
    before.thread_set_mask()?;
    done.map(drop)
}

/// Waits until one of these processes (pidfds) has ended, a signal is caught, or so long.
///
/// # Errors
/// The kernel refuses.
pub fn wait_for_end(processes: &[BorrowedFd<'_>], limit: Option<Duration>) -> Result<()> {
    let mut files: Vec<PollFd<'_>> = processes
        .iter()
        .map(|pidfd| PollFd::new(*pidfd, PollFlags::POLLIN))
        .collect();
    match wait(&mut files, limit) {
        Err(Errno::EINTR) => Ok(()),
        done => done.map_err(KernelError::nix("wait for", "processes")),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use nix::sys::signal::raise;

    use super::*;

    #[test]
    fn a_signal_that_comes_before_the_wait_is_not_slept_through() {
        catch().unwrap();
        let within = Some(Duration::from_secs(30));
        let began = Instant::now();
        assert_eq!(wait(&mut [], Some(Duration::from_millis(1))), Ok(()));
        raise(Signal::SIGTERM).unwrap();
        assert_eq!(wait(&mut [], within), Err(Errno::EINTR));
        assert!(began.elapsed() < Duration::from_secs(20));
        // It is as it was: the next one is caught as well.
        CAUGHT.store(0, Ordering::Relaxed);
        raise(Signal::SIGHUP).unwrap();
        assert_eq!(caught(), Some(Signal::SIGHUP as i32));
        CAUGHT.store(0, Ordering::Relaxed);
    }
}
