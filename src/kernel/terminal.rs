//! Pseudo terminals, taken from the guest's own devpts, and the state of the person's terminal.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use rustix::termios::{
    OptionalActions, OutputModes, Termios, Winsize, tcgetattr, tcgetwinsize, tcsetattr,
    tcsetwinsize,
};

use super::error::{KernelError, Result};

/// Magic number of devpts, linux/magic.h.
const DEVPTS_SUPER_MAGIC: i64 = 0x1cd1;

/// A pseudo terminal.
#[derive(Debug)]
pub struct Pty {
    /// The end that a keeper or client holds.
    pub master: OwnedFd,
    /// The end that programs have as their terminal.
    pub slave: OwnedFd,
}

/// A new pseudo terminal of the devpts mounted in the tree `dev` at `pts`. That it is a devpts is
/// looked at after opening, so a swapped path gives an error, not somebody else's device.
pub fn open_pty(dev: BorrowedFd<'_>) -> Result<Pty> {
    let failed = |errno| KernelError::new("open", "a terminal of the guest's /dev/pts", errno);
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let pts = rustix::fs::openat(
        dev,
        "pts",
        OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(failed)?;
    let fs = rustix::fs::fstatfs(&pts).map_err(failed)?;
    if fs.f_type != DEVPTS_SUPER_MAGIC {
        return Err(failed(Errno::NODEV).because("what is mounted there is no devpts"));
    }
    // Nothing that the guest has mounted on it, which could keep us waiting.
    let inside = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS;
    let master =
        openat2(&pts, "ptmx", flags, Mode::empty(), inside).map_err(|errno| match errno {
            Errno::NOSPC => failed(errno).because("the guest has as many terminals as it may have"),
            Errno::XDEV => failed(errno).because("something is mounted on its ptmx"),
            other => failed(other),
        })?;
    rustix::pty::unlockpt(&master).map_err(failed)?;
    let slave = other_end(master.as_fd())?;
    Ok(Pty { master, slave })
}

/// The other end of a master, whatever namespace its file system is mounted in.
pub fn other_end(master: BorrowedFd<'_>) -> Result<OwnedFd> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: TIOCGPTPEER (Linux 4.13) takes open flags by value and answers with a new descriptor.
    let slave = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) };
    if slave < 0 {
        return Err(KernelError::last("open the other end of", "a terminal"));
    }
    // SAFETY: the ioctl succeeded, so the number is a new descriptor owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(slave) })
}

/// Makes `terminal` standard input, output and error of a new session, and with `controlling` its
/// controlling terminal.
pub fn take_terminal(terminal: BorrowedFd<'_>, controlling: bool) -> Result<()> {
    rustix::process::setsid().map_err(KernelError::on("begin", "a session"))?;
    if controlling {
        rustix::process::ioctl_tiocsctty(terminal).map_err(KernelError::on(
            "take as controlling terminal",
            "the console",
        ))?;
    }
    put_on_standard(terminal)
}

/// Puts a descriptor on 0, 1 and 2.
pub fn put_on_standard(fd: BorrowedFd<'_>) -> Result<()> {
    let failed = KernelError::on("use as standard input and output", "a descriptor");
    rustix::stdio::dup2_stdin(fd)
        .and_then(|()| rustix::stdio::dup2_stdout(fd))
        .and_then(|()| rustix::stdio::dup2_stderr(fd))
        .map_err(failed)
}

/// Puts a descriptor on 1 and 2.
pub fn put_on_output(fd: BorrowedFd<'_>) -> Result<()> {
    rustix::stdio::dup2_stdout(fd)
        .and_then(|()| rustix::stdio::dup2_stderr(fd))
        .map_err(KernelError::on("use as output", "a descriptor"))
}

/// The person's terminal in raw mode while this lives; put back when dropped.
#[derive(Debug)]
pub struct RawMode {
    terminal: OwnedFd,
    before: Termios,
}

impl RawMode {
    /// Switches; `None` when `fd` is no terminal.
    #[must_use]
    pub fn on(fd: BorrowedFd<'_>) -> Option<Self> {
        Self::switch(fd, OutputModes::empty())
    }

    /// The same, but line ends are still made into what a terminal needs: for output of a terminal
    /// that does not do it ([`keep_newlines`]).
    #[must_use]
    pub fn but_output(fd: BorrowedFd<'_>) -> Option<Self> {
        Self::switch(fd, OutputModes::OPOST)
    }

    fn switch(fd: BorrowedFd<'_>, output: OutputModes) -> Option<Self> {
        let before = tcgetattr(fd).ok()?;
        let terminal = fd.try_clone_to_owned().ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        raw.output_modes |= before.output_modes & output;
        tcsetattr(fd, OptionalActions::Drain, &raw).ok()?;
        Some(Self { terminal, before })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // Nothing can be done about a terminal that went away.
        let _ignored = tcsetattr(self.terminal.as_fd(), OptionalActions::Drain, &self.before);
    }
}

/// Has a terminal pass on line ends as the program writes them (termios(3), ONLCR).
pub fn keep_newlines(fd: BorrowedFd<'_>) {
    if let Ok(mut modes) = tcgetattr(fd) {
        modes.output_modes.remove(OutputModes::ONLCR);
        // One that does not take it goes on as it was.
        let _ignored = tcsetattr(fd, OptionalActions::Now, &modes);
    }
}

/// Copies the window size of one terminal to another; what is no terminal is left alone.
pub fn copy_size(from: BorrowedFd<'_>, to: BorrowedFd<'_>) {
    if let Ok(size) = tcgetwinsize(from) {
        let _gone = tcsetwinsize(to, size);
    }
}

/// Sets rows and columns.
pub fn set_size(terminal: BorrowedFd<'_>, rows: u16, columns: u16) {
    let _gone = tcsetwinsize(
        terminal,
        Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        },
    );
}
