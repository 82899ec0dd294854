//! Signals as something to wait for (signalfd(2)): for a command that stands in for a program in a
//! container and passes on whatever it is sent.

use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::error::{KernelError, Result};

/// Holds the signals of this process back while it lives.
#[derive(Debug)]
pub struct Signals {
    fd: SignalFd,
    before: SigSet,
}

impl Signals {
    /// Holds back every signal but those that tell of a fault of our own.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn hold() -> Result<Self> {
        let mut all = SigSet::all();
        for own in [
            Signal::SIGSEGV,
            Signal::SIGBUS,
            Signal::SIGILL,
            Signal::SIGFPE,
            Signal::SIGABRT,
        ] {
            all.remove(own);
        }
        let before = all
            .thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_SETMASK)
            .map_err(KernelError::nix("hold back", "signals"))?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let fd =
            SignalFd::with_flags(&all, flags).map_err(KernelError::nix("wait for", "signals"))?;
        Ok(Self { fd, before })
    }

    /// The next one that came, by number.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn next(&self) -> Result<Option<i32>> {
        let came = self.fd.read_signal();
        let came = came.map_err(KernelError::nix("read", "a signal"))?;
        Ok(came.and_then(|info| i32::try_from(info.ssi_signo).ok()))
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        // Setting a mask that was in force cannot fail.
        let _same = self.before.thread_set_mask();
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
