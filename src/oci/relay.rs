//! A command in the foreground: it waits for the program it stands for, passes on signals, and where
//! there is a terminal carries what is typed and what is printed.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::error::Result;
use crate::kernel::forward::Signals;
use crate::kernel::process::{self, Ended};
use crate::kernel::terminal::{self, RawMode};
use crate::kernel::{KernelError, process::signal_number};

/// Before the program runs: the person's terminal breaks lines, this one must not, or a file that
/// output is sent to has carriage returns in it.
pub(super) fn get_ready(terminal: Option<&OwnedFd>) {
    if let Some(master) = terminal {
        terminal::keep_newlines(master.as_fd());
        terminal::copy_size(std::io::stdin().as_fd(), master.as_fd());
    }
}

/// Waits for the program; the code that it ended with, as a shell counts.
pub(super) fn wait(pidfd: &OwnedFd, terminal: Option<&OwnedFd>) -> Result<u8> {
    let signals = Signals::hold()?;
    relay(pidfd, terminal, &signals)
}

/// The same, while something else is done that ends when the program does.
pub(super) fn wait_and(
    pidfd: &OwnedFd,
    terminal: Option<&OwnedFd>,
    beside: impl FnOnce() + Send,
) -> Result<u8> {
    // Held before there is a second thread: a signal that it took would end this process.
    let signals = Signals::hold()?;
    std::thread::scope(|scope| {
        scope.spawn(beside);
        relay(pidfd, terminal, &signals)
    })
}

fn relay(pidfd: &OwnedFd, terminal: Option<&OwnedFd>, signals: &Signals) -> Result<u8> {
    let stdin = std::io::stdin();
    let _raw = terminal.and_then(|_| RawMode::but_output(stdin.as_fd()));
    let mut open = Open {
        input: terminal.is_some(),
        output: terminal.is_some(),
    };
    loop {
        let ended = round(pidfd, terminal, signals, &mut open)?;
        if ended {
            if let Some(master) = terminal {
                drain(master);
            }
            return Ok(code(process::collect(pidfd.as_fd())));
        }
    }
}

/// Which directions are still open.
struct Open {
    input: bool,
    output: bool,
}

/// Waits for one thing to happen; whether the program has ended.
fn round(
    pidfd: &OwnedFd,
    terminal: Option<&OwnedFd>,
    signals: &Signals,
    open: &mut Open,
) -> Result<bool> {
    let stdin = std::io::stdin();
    let mut fds = vec![
        PollFd::new(pidfd, PollFlags::IN),
        PollFd::new(signals, PollFlags::IN),
    ];
    if let Some(master) = terminal {
        if open.output {
            fds.push(PollFd::new(master, PollFlags::IN));
        }
        if open.input {
            fds.push(PollFd::new(&stdin, PollFlags::IN));
        }
    }
    match poll(&mut fds, None) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(errno) => return Err(KernelError::new("wait for", "the program", errno).into()),
    }
    let happened: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
    if happened[1] {
        while let Some(signal) = signals.next()? {
            pass_on(signal, pidfd, terminal)?;
        }
    }
    if let Some(master) = terminal {
        let mut at = 2;
        if open.output {
            open.output = !happened[at] || carry(master.as_fd(), std::io::stdout().as_fd());
            at += 1;
        }
        if open.input && happened[at] {
            open.input = carry(stdin.as_fd(), master.as_fd());
        }
    }
    Ok(happened[0])
}

fn pass_on(signal: i32, pidfd: &OwnedFd, terminal: Option<&OwnedFd>) -> Result<()> {
    let is = |name: &str| signal_number(name) == Some(signal);
    if is("CHLD") || is("URG") {
        return Ok(());
    }
    if let (true, Some(master)) = (is("WINCH"), terminal) {
        terminal::copy_size(std::io::stdin().as_fd(), master.as_fd());
        return Ok(());
    }
    Ok(process::send_signal(pidfd.as_fd(), signal)?)
}

/// Carries what is there; whether there may be more.
fn carry(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> bool {
    let mut data = [0_u8; 8192];
    let n = match rustix::io::read(from, &mut data) {
        Ok(0) => return false,
        Ok(n) => n,
        Err(Errno::INTR | Errno::AGAIN) => return true,
        // The other end of a terminal that nobody has open any more.
        Err(_) => return false,
    };
    let mut rest = &data[..n];
    while !rest.is_empty() {
        match rustix::io::write(to, rest) {
            Ok(n) => rest = &rest[n..],
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
    true
}

/// What was printed last.
fn drain(master: &OwnedFd) {
    let now = rustix::event::Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    loop {
        let mut fds = [PollFd::new(master, PollFlags::IN)];
        let there = poll(&mut fds, Some(&now)).is_ok_and(|n| n > 0);
        if !there || !carry(master.as_fd(), std::io::stdout().as_fd()) {
            return;
        }
    }
}

fn code(ended: Ended) -> u8 {
    let number = match ended {
        Ended::Code(code) => code,
        Ended::Signal(signal) => 128 + signal,
        Ended::Unknown => 255,
    };
    u8::try_from(number).unwrap_or(255)
}
