//! A thread that stops where its system call returns, before it executes anything of its program
//! (ptrace(2), PTRACE_SEIZE). It must wait in a way that only deadly signals end while it is taken hold
//! of. When the process that holds it ends, however that comes about, it goes on.
#![allow(unsafe_code)]

use rustix::io::Errno;

/// `event` of a stop that PTRACE_INTERRUPT asked for.
const EVENT_STOP: i32 = libc::PTRACE_EVENT_STOP;

/// A thread that is held.
#[derive(Debug)]
pub struct HeldThread {
    number: i32,
    /// Where it has stopped: the signal that it is about to be sent, or 0.
    stopped: Option<i32>,
}

impl HeldThread {
    /// Takes hold of a thread of another process and, if that is the one that is `meant`, has it stop when
    /// it leaves the kernel. Another that has its number by now does not notice.
    ///
    /// # Errors
    /// It is gone, or held by another (`EPERM`).
    pub fn hold(number: u32, meant: impl FnOnce() -> bool) -> rustix::io::Result<Self> {
        let number = i32::try_from(number).map_err(|_| Errno::SRCH)?;
        ask(libc::PTRACE_SEIZE, number, 0)?;
        let held = Self {
            number,
            stopped: None,
        };
        if !meant() {
            return Err(Errno::SRCH);
        }
        ask(libc::PTRACE_INTERRUPT, number, 0)?;
        Ok(held)
    }

    /// Waits until it has stopped; `false` when it has died instead.
    pub fn wait(&mut self) -> bool {
        let mut status = 0;
        loop {
            // SAFETY: the call writes one int, which outlives it.
            let done = unsafe { libc::waitpid(self.number, &raw mut status, libc::__WALL) };
            if done == self.number {
                break;
            }
            if std::io::Error::last_os_error().raw_os_error() != Some(libc::EINTR) {
                return false;
            }
        }
        if !libc::WIFSTOPPED(status) {
            return false;
        }
        let signal = match status >> 16 {
            EVENT_STOP => 0,
            _ => libc::WSTOPSIG(status),
        };
        self.stopped = Some(signal);
        true
    }
}

impl Drop for HeldThread {
    /// Lets it go on, with the signal that it was about to be sent.
    fn drop(&mut self) {
        // One that has not stopped is let go by the end of this process.
        if let Some(signal) = self.stopped {
            let _dead = ask(libc::PTRACE_DETACH, self.number, signal);
        }
    }
}

fn ask(request: libc::c_uint, number: i32, data: i32) -> rustix::io::Result<()> {
    let none = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: none of the requests used here takes a pointer; `data` is a number to them.
    let done = unsafe { libc::ptrace(request, number, none, libc::c_long::from(data)) };
    match done {
        0 => Ok(()),
        _ => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt as _;

    #[test]
    fn a_thread_stops_goes_on_and_keeps_its_signals() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let mut held = HeldThread::hold(child.id(), || true).unwrap();
        assert!(HeldThread::hold(child.id(), || true).is_err());
        assert!(held.wait());
        assert_eq!(held.stopped, Some(0));
        drop(held);
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
        assert!(HeldThread::hold(u32::MAX, || true).is_err());
    }
}
