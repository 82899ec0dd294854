//! Executing a program in a running guest, with the terminal or the pipes of whoever asked.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::pipe::PipeFlags;

use super::console::write_all;
use super::error::{GuestError, Result};
use super::life::Verb;
use super::manager::{Manager, RECORD};
use super::store::RunState;
use crate::kernel::process::{self, Ended, Identity};
use crate::kernel::terminal::{self, RawMode};
use crate::kernel::{Errno, KernelError, file};
use crate::launch::{self, EnterRequest, Task};
use crate::model::{GuestName, Status};
use crate::plan::EnterPlan;

/// What to execute and how.
#[derive(Clone, Debug, Default)]
pub struct ExecRequest {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// User, by name or number; `None` for root.
    pub user: Option<String>,
    /// Folder to begin in.
    pub folder: Option<PathBuf>,
    /// Environment, `NAME=value`.
    pub environment: Vec<String>,
    /// Whether it gets a terminal; `None` when standard input and output are one.
    pub terminal: Option<bool>,
    /// Time it has before it is killed.
    pub timeout: Option<Duration>,
    /// Whether its input and output are thrown away.
    pub quiet: bool,
}

/// What a program said, and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// As [`Manager::exec`] gives it.
    pub code: i32,
    /// Its standard output and error; not safe for a terminal (see `view::printable`).
    pub text: Vec<u8>,
}

impl Manager {
    /// Executes a program in a guest, relays its input and output, and gives its exit code: 128 and
    /// the signal when it was killed, 124 when its time was up.
    ///
    /// # Errors
    /// The guest does not run, its start takes too long, or the program cannot be executed.
    pub fn exec(&self, name: &GuestName, request: &ExecRequest) -> Result<i32> {
        self.await_start(name)?;
        let (input, output) = (std::io::stdin(), std::io::stdout());
        let both = rustix::termios::isatty(&input) && rustix::termios::isatty(&output);
        let wants_terminal = request.terminal.unwrap_or(both);
        let task = Task::Execute {
            argv: request.argv.clone(),
            user: request.user.clone(),
            folder: request.folder.clone(),
            environment: request.environment.clone(),
            terminal: wants_terminal,
            quiet: request.quiet,
            output: None,
        };
        let entered = self.enter(name, task)?;
        let deadline = request.timeout.map(|t| Instant::now() + t);
        let timed_out = match &entered.terminal {
            Some(master) => {
                let _raw = RawMode::on(input.as_fd());
                relay(
                    &entered.pidfd,
                    master,
                    input.as_fd(),
                    output.as_fd(),
                    deadline,
                )?
            }
            None => !process::wait_gone(entered.pidfd.as_fd(), request.timeout)?,
        };
        exit_code(&entered.pidfd, timed_out)
    }

    /// Executes a program in a guest without input, and keeps up to `most` bytes of what it says on
    /// standard output and error; the rest is thrown away. Comes back when the program has ended,
    /// whatever it left running.
    ///
    /// # Errors
    /// As [`Manager::exec`].
    pub fn exec_output(
        &self,
        name: &GuestName,
        request: &ExecRequest,
        most: usize,
    ) -> Result<Output> {
        self.await_start(name)?;
        let (ours, theirs) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)
            .map_err(KernelError::on("make", "a pipe"))?;
        let task = Task::Execute {
            argv: request.argv.clone(),
            user: request.user.clone(),
            folder: request.folder.clone(),
            environment: request.environment.clone(),
            terminal: false,
            quiet: true,
            output: Some(theirs),
        };
        let entered = self.enter(name, task)?;
        let deadline = request.timeout.map(|t| Instant::now() + t);
        let mut text = Vec::new();
        let timed_out = collect_output(&entered.pidfd, &ours, deadline, most, &mut text)?;
        let code = exit_code(&entered.pidfd, timed_out)?;
        Ok(Output { code, text })
    }

    /// A start that is under way, such as that of a guest's own reboot, is waited for by its lock; and
    /// a guest that runs has a keeper from here on.
    pub(super) fn await_start(&self, name: &GuestName) -> Result<()> {
        if self.status(name)? == Status::Starting {
            self.lock(name, Verb::Exec.name())?;
        }
        let _ = self.ensure_keeper(name);
        Ok(())
    }

    fn enter(&self, name: &GuestName, task: Task) -> Result<launch::Entered> {
        let status = self.status(name)?;
        Verb::Exec.check(name, status)?;
        let (plan, state) = self.enter_plan(name)?;
        let gone = || GuestError::WrongState {
            verb: "execute in",
            name: name.clone(),
            status: Status::Stopped,
            advice: Some("`bulkhead start` it first"),
        };
        let guest = state.init.and_then(Identity::open).ok_or_else(gone)?;
        let group = self.group(name)?.ok_or_else(gone)?;
        let executes = matches!(task, Task::Execute { .. });
        let desk = executes.then(|| self.calls_desk(name)).flatten();
        let mut entered = launch::enter(&EnterRequest {
            plan: &plan,
            guest: &guest,
            group: &group,
            base: state.ids.base,
            cache: &self.layout.cache().join("seccomp"),
            answered: desk.is_some(),
            task,
        })?;
        if let (Some(desk), Some(listener)) = (desk, entered.listener.take()) {
            desk.hand_over(&listener);
        }
        Ok(entered)
    }

    /// Enters a guest for a small task of the program's own and waits for its end.
    pub(super) fn enter_briefly(&self, name: &GuestName, task: Task) -> Result<()> {
        let entered = self.enter(name, task)?;
        if process::wait_gone(entered.pidfd.as_fd(), Some(Duration::from_secs(2)))? {
            process::collect(entered.pidfd.as_fd());
        } else {
            launch::put_down(&entered.pidfd);
        }
        Ok(())
    }

    /// What entering a running guest takes on, as it was launched.
    pub(super) fn enter_plan(&self, name: &GuestName) -> Result<(EnterPlan, RunState)> {
        let damaged = |why: String| GuestError::Damaged {
            path: self.enter_path(name).display().to_string(),
            why,
            advice: "stop the guest and start it again",
        };
        let text = file::read_small(&self.enter_path(name), 8 * RECORD)?;
        let text = text.ok_or_else(|| damaged("it is missing".into()))?;
        let plan = serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
        let state = self
            .run_state(name)?
            .ok_or_else(|| damaged("the guest has no run state".into()))?;
        Ok((plan, state))
    }
}

/// 128 and the signal when it was killed; a program whose time was up is killed here.
fn exit_code(program: &OwnedFd, timed_out: bool) -> Result<i32> {
    if timed_out {
        process::send_signal(program.as_fd(), rustix::process::Signal::KILL.as_raw())?;
        process::wait_gone(program.as_fd(), Some(Duration::from_secs(5)))?;
        process::collect(program.as_fd());
        return Ok(124);
    }
    Ok(match process::collect(program.as_fd()) {
        Ended::Code(code) => code,
        Ended::Signal(signal) => 128 + signal,
        Ended::Unknown => 255,
    })
}

/// Reads what a program says until it has ended; `true` when its time was up.
fn collect_output(
    program: &OwnedFd,
    pipe: &OwnedFd,
    deadline: Option<Instant>,
    most: usize,
    text: &mut Vec<u8>,
) -> Result<bool> {
    let mut open = true;
    let mut data = [0_u8; 8192];
    loop {
        let mut fds = vec![PollFd::new(program, PollFlags::IN)];
        if open {
            fds.push(PollFd::new(pipe, PollFlags::IN));
        }
        let left = deadline.map(|d| d.saturating_duration_since(Instant::now()));
        match poll(&mut fds, left.map(super::keeper::poll_timeout).as_ref()) {
            Ok(0) => return Ok(true),
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(KernelError::new("wait for", "the program", errno).into()),
        }
        let hot = |n: usize| fds.get(n).is_some_and(|fd| !fd.revents().is_empty());
        // What it said before it ended is in the pipe; what its children say later is theirs.
        let (ended, said) = (hot(0), hot(1));
        if said {
            match rustix::io::read(pipe, &mut data) {
                Ok(n) if n > 0 => {
                    let room = most.saturating_sub(text.len());
                    text.extend_from_slice(&data[..n.min(room)]);
                }
                Err(Errno::INTR | Errno::AGAIN) => {}
                _ => open = false,
            }
            // A child that never stops talking must not keep us.
            if ended && text.len() >= most {
                return Ok(false);
            }
        } else if ended {
            return Ok(false);
        }
        if !ended && deadline.is_some_and(|d| Instant::now() >= d) {
            return Ok(true);
        }
    }
}

/// Copies between our terminal and the guest's until the program has ended; `true` when its time
/// was up.
fn relay(
    program: &OwnedFd,
    master: &OwnedFd,
    input: BorrowedFd<'_>,
    output: BorrowedFd<'_>,
    deadline: Option<Instant>,
) -> Result<bool> {
    let mut input_open = true;
    let mut data = [0_u8; 8192];
    loop {
        terminal::copy_size(output, master.as_fd());
        let mut fds = vec![
            PollFd::new(program, PollFlags::IN),
            PollFd::new(master, PollFlags::IN),
        ];
        if input_open {
            fds.push(PollFd::from_borrowed_fd(input, PollFlags::IN));
        }
        let pause = deadline.map_or(Duration::from_millis(250), |d| {
            d.saturating_duration_since(Instant::now())
                .min(Duration::from_millis(250))
        });
        match poll(&mut fds, Some(&super::keeper::poll_timeout(pause))) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(KernelError::new("wait for", "the program", errno).into()),
        }
        let hot = |n: usize| fds.get(n).is_some_and(|fd| !fd.revents().is_empty());
        let (ended, from_guest, from_us) = (hot(0), hot(1), hot(2));
        if from_guest {
            match rustix::io::read(master, &mut data) {
                Ok(n) if n > 0 => write_all(output, &data[..n])?,
                Err(Errno::INTR | Errno::AGAIN) => {}
                // The last holder of the other end is gone.
                _ if ended => return Ok(false),
                _ => std::thread::sleep(Duration::from_millis(1)),
            }
        } else if ended {
            return Ok(false);
        }
        if from_us {
            match rustix::io::read(input, &mut data) {
                Ok(n) if n > 0 => write_all(master.as_fd(), &data[..n])?,
                Err(Errno::INTR | Errno::AGAIN) => {}
                _ => {
                    // End of file, as typed.
                    input_open = false;
                    let _gone = rustix::io::write(master, &[4]);
                }
            }
        }
        if deadline.is_some_and(|d| Instant::now() >= d) && !ended {
            return Ok(true);
        }
    }
}
