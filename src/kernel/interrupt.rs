//! Signals that ask this program to end, for commands that must put things away first: caught, and
//! told to whoever asks. Programs we execute get the default actions back (execve(2)), and launches
//! reset theirs.
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicI32, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

use super::error::{KernelError, Result};

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
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: the handler only does an atomic compare and exchange on a static, which is
        // async-signal-safe (signal-safety(7)): no lock, no allocation, errno untouched.
        unsafe { sigaction(signal, &action) }
            .map_err(KernelError::nix("catch", signal.as_str()))?;
    }
    Ok(())
}

/// The signal that asked this program to end, if one did.
#[must_use]
pub fn caught() -> Option<i32> {
    Some(CAUGHT.load(Ordering::Relaxed)).filter(|signal| *signal != 0)
}
