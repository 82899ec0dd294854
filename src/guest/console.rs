//! A guest's console: what the keeper does with it, and how a viewer attaches.
//!
//! Output goes to `console.log`, of which at most twice the configured half is kept, and to every
//! viewer. A viewer connects to `console.sock` and sends messages of one kind byte and data: `i`
//! input, `s` size (rows and columns, two bytes each, big end first). The keeper sends plain output.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};

use super::error::{GuestError, Result};
use super::manager::Manager;
use crate::kernel::terminal::{self, RawMode};
use crate::kernel::{Errno, KernelError};
use crate::model::{GuestName, Status};

/// Most viewers of one console at once.
const VIEWERS: usize = 16;
/// Longest message of either side, bytes.
const MESSAGE: usize = 4096;
/// What a new viewer is shown of the past, bytes.
const PAST: usize = 2048;
/// Leaves the console: Ctrl-].
pub const LEAVE: u8 = 0x1d;

/// The keeper's side.
#[derive(Debug)]
pub(super) struct Hub {
    listener: OwnedFd,
    viewers: Vec<OwnedFd>,
    console: Option<OwnedFd>,
    /// Held open so that the console never reads as hung up between two programs of the guest.
    other_end: Option<OwnedFd>,
    log: Log,
}

impl Hub {
    pub(super) fn open(
        socket: &Path,
        log: &Path,
        keep: u64,
        console: Option<OwnedFd>,
    ) -> Result<Self> {
        let listener = listen(socket)?;
        let other_end = console
            .as_ref()
            .and_then(|c| terminal::other_end(c.as_fd()).ok());
        if let Some(console) = &console {
            rustix::io::ioctl_fionbio(console, true)
                .map_err(KernelError::on("prepare", "the console"))?;
        }
        Ok(Self {
            listener,
            viewers: Vec::new(),
            console,
            other_end,
            log: Log::open(log, keep),
        })
    }

    /// What to wait for: the listener, the console if there is one, the viewers.
    pub(super) fn poll_fds(&self) -> Vec<PollFd<'_>> {
        let mut fds = vec![PollFd::new(&self.listener, PollFlags::IN)];
        fds.extend(self.console.iter().map(|c| PollFd::new(c, PollFlags::IN)));
        fds.extend(self.viewers.iter().map(|v| PollFd::new(v, PollFlags::IN)));
        fds
    }

    /// Does what is ready, as [`Hub::poll_fds`] was answered.
    pub(super) fn serve(&mut self, ready: &[PollFlags]) {
        let consoles = usize::from(self.console.is_some());
        let hot = |n: usize| ready.get(n).is_some_and(|flags| !flags.is_empty());
        if consoles == 1 && hot(1) {
            self.pass_output();
        }
        // From the last on, so that removing one leaves the numbers of the others.
        for n in (0..self.viewers.len()).rev() {
            if hot(1 + consoles + n) && !self.pass_input(n) {
                self.viewers.remove(n);
            }
        }
        if hot(0) {
            self.accept();
        }
    }

    /// Passes on what the console still holds.
    pub(super) fn drain(&mut self) {
        for _ in 0..64 {
            if !self.pass_output() {
                return;
            }
        }
    }

    fn accept(&mut self) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        // A viewer that went away meanwhile, or one too many.
        let Ok(viewer) = rustix::net::accept_with(&self.listener, flags) else {
            return;
        };
        if self.viewers.len() < VIEWERS {
            let past = self.log.tail(PAST);
            for part in past.chunks(MESSAGE) {
                let _gone =
                    rustix::net::send(&viewer, part, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
            }
            self.viewers.push(viewer);
        }
    }

    fn pass_output(&mut self) -> bool {
        let Some(console) = &self.console else {
            return false;
        };
        let mut data = [0_u8; MESSAGE];
        match rustix::io::read(console, &mut data) {
            Ok(n) if n > 0 => {
                self.log.write(&data[..n]);
                let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
                // A viewer that does not keep up misses output; the log has it. One that is gone goes.
                self.viewers.retain(|v| {
                    !matches!(
                        rustix::net::send(v, &data[..n], flags),
                        Err(Errno::PIPE | Errno::CONNRESET)
                    )
                });
                true
            }
            Err(Errno::AGAIN | Errno::INTR) => false,
            // A getty hangs up its terminal before it begins (vhangup(2)), ours with it: opened
            // again it is as new. Where that fails the guest has taken its devpts away.
            _ => {
                match terminal::other_end(console.as_fd()) {
                    Ok(end) => self.other_end = Some(end),
                    Err(_) => self.console = None,
                }
                false
            }
        }
    }

    fn pass_input(&self, viewer: usize) -> bool {
        let mut data = [0_u8; MESSAGE];
        let n = match rustix::net::recv(&self.viewers[viewer], &mut data, RecvFlags::DONTWAIT) {
            Ok((n, _)) => n,
            Err(Errno::AGAIN | Errno::INTR) => return true,
            Err(_) => 0,
        };
        match (&self.console, &data[..n]) {
            (_, []) => false,
            // A guest that does not read its console loses input, as on any full line.
            (Some(console), [b'i', input @ ..]) => {
                let _full = rustix::io::write(console, input);
                true
            }
            (Some(console), &[b's', r1, r2, c1, c2]) => {
                terminal::set_size(
                    console.as_fd(),
                    u16::from_be_bytes([r1, r2]),
                    u16::from_be_bytes([c1, c2]),
                );
                true
            }
            (None, _) => true,
            _ => false,
        }
    }
}

/// A Unix socket's path has little room, and a guest's name may fill it; through the folder's
/// descriptor it is short.
pub(super) fn address(
    socket: &Path,
) -> std::result::Result<(OwnedFd, SocketAddrUnix), KernelError> {
    use std::os::fd::AsRawFd;
    let folder = socket.parent().unwrap_or(Path::new("/"));
    let dir = rustix::fs::open(
        folder,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(KernelError::on("open", folder.display()))?;
    let file = socket.file_name().unwrap_or_default().to_string_lossy();
    let address = SocketAddrUnix::new(format!("/proc/self/fd/{}/{file}", dir.as_raw_fd()))
        .map_err(KernelError::on("use the socket", socket.display()))?;
    Ok((dir, address))
}

pub(super) fn listen(socket: &Path) -> Result<OwnedFd> {
    let failed = |errno| KernelError::new("listen on", socket.display(), errno);
    let (_dir, address) = address(socket)?;
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(KernelError::io("replace", socket.display())(error).into());
        }
        _ => {}
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let listener =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
            .map_err(failed)?;
    rustix::net::bind(&listener, &address).map_err(failed)?;
    rustix::net::listen(&listener, 8).map_err(failed)?;
    Ok(listener)
}

/// The console's log: two files, each at most half of what is to be kept.
#[derive(Debug)]
struct Log {
    path: PathBuf,
    half: u64,
    file: Option<File>,
    length: u64,
}

impl Log {
    fn open(path: &Path, keep: u64) -> Self {
        let file = open_log(path);
        let length = file
            .as_ref()
            .and_then(|f| f.metadata().ok())
            .map_or(0, |meta| meta.len());
        Self {
            path: path.to_owned(),
            half: (keep / 2).max(1),
            file,
            length,
        }
    }

    /// Output that cannot be written (a full disk) is lost; the guest goes on.
    fn write(&mut self, data: &[u8]) {
        if self.length + data.len() as u64 > self.half {
            let _ignored = std::fs::rename(&self.path, self.path.with_extension("log.1"));
            self.file = open_log(&self.path);
            self.length = 0;
        }
        if let Some(file) = &mut self.file
            && file.write_all(data).is_ok()
        {
            self.length += data.len() as u64;
        }
    }

    fn tail(&self, most: usize) -> Vec<u8> {
        let mut all = std::fs::read(&self.path).unwrap_or_default();
        all.drain(..all.len().saturating_sub(most));
        all
    }
}

fn open_log(path: &Path) -> Option<File> {
    let flags = OFlags::NOFOLLOW.bits().cast_signed();
    File::options()
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(flags)
        .open(path)
        .ok()
}

impl Manager {
    pub(super) fn console_socket(&self, name: &GuestName) -> PathBuf {
        self.layout.guest_run(name).join("console.sock")
    }

    pub(super) fn console_log_path(&self, name: &GuestName) -> PathBuf {
        self.layout.guest(name).join("console.log")
    }

    /// What is kept of a guest's console output, raw: it is the guest's, and may hold anything.
    ///
    /// # Errors
    /// There is no such guest.
    pub fn console_log(&self, name: &GuestName) -> Result<Vec<u8>> {
        self.status(name)?;
        let path = self.console_log_path(name);
        let mut all = std::fs::read(path.with_extension("log.1")).unwrap_or_default();
        all.extend(std::fs::read(&path).unwrap_or_default());
        Ok(all)
    }

    /// The last lines of its console, made safe to show.
    #[must_use]
    pub fn console_tail(&self, name: &GuestName, lines: usize) -> Option<String> {
        let text = super::view::printable(&self.console_log(name).ok()?);
        let all: Vec<&str> = text
            .lines()
            .filter(|line| !line.trim().is_empty())
            .collect();
        let tail = all[all.len().saturating_sub(lines)..].join("\n");
        (!tail.is_empty()).then_some(tail)
    }

    /// Attaches our standard input and output to a guest's console until [`LEAVE`] is typed, the
    /// input ends, or the guest ends for good. A reboot of the guest is waited out.
    ///
    /// # Errors
    /// It does not run, or has no keeper.
    pub fn attach_console(&self, name: &GuestName) -> Result<()> {
        self.ensure_keeper(name)?;
        let (input, output) = (std::io::stdin(), std::io::stdout());
        let _raw = RawMode::on(input.as_fd());
        let mut first = true;
        loop {
            match self.connect_console(name) {
                Ok(keeper) => {
                    if relay(&keeper, input.as_fd(), output.as_fd())? {
                        return Ok(());
                    }
                    first = false;
                }
                Err(error) if first => return Err(error),
                Err(_) => {}
            }
            // The keeper closed the connection: the guest ended, or starts again.
            let until = Instant::now() + Duration::from_secs(2);
            while !matches!(self.status(name)?, Status::Running | Status::Paused) {
                if Instant::now() > until
                    && !matches!(self.status(name)?, Status::Restarting | Status::Starting)
                {
                    return Ok(());
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }

    pub(super) fn call_keeper(&self, name: &GuestName) -> Result<OwnedFd> {
        let patience = Duration::from_secs(2);
        Ok(super::connect::connect(
            &self.console_socket(name),
            patience,
        )?)
    }

    fn connect_console(&self, name: &GuestName) -> Result<OwnedFd> {
        let status = self.status(name)?;
        if !matches!(status, Status::Running | Status::Paused) {
            let advice = Some("`bulkhead start` it first; `bulkhead logs` shows what it said");
            return Err(GuestError::WrongState {
                verb: "attach to the console of",
                name: name.clone(),
                status,
                advice,
            });
        }
        // A keeper that was just put on may not listen yet.
        let until = Instant::now() + Duration::from_secs(2);
        loop {
            match self.call_keeper(name) {
                Err(_) if Instant::now() < until => std::thread::sleep(Duration::from_millis(10)),
                done => return done,
            }
        }
    }
}

/// Copies both ways. `true` when the person left or the input ended, `false` when the keeper closed.
fn relay(keeper: &OwnedFd, input: BorrowedFd<'_>, output: BorrowedFd<'_>) -> Result<bool> {
    let mut size = None;
    loop {
        let now = rustix::termios::tcgetwinsize(input)
            .ok()
            .map(|s| (s.ws_row, s.ws_col));
        if let Some((rows, columns)) = now.filter(|now| Some(*now) != size) {
            let ([r1, r2], [c1, c2]) = (rows.to_be_bytes(), columns.to_be_bytes());
            let _gone = rustix::net::send(keeper, &[b's', r1, r2, c1, c2], SendFlags::NOSIGNAL);
            size = now;
        }
        let mut fds = [
            PollFd::new(keeper, PollFlags::IN),
            PollFd::from_borrowed_fd(input, PollFlags::IN),
        ];
        // Wakes up for a window that changed its size.
        match poll(
            &mut fds,
            Some(&super::keeper::poll_timeout(Duration::from_millis(250))),
        ) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(KernelError::new("wait for", "the console", errno).into()),
        }
        let hot = |n: usize| fds.get(n).is_some_and(|fd| !fd.revents().is_empty());
        let (from_keeper, from_input) = (hot(0), hot(1));
        let mut data = [0_u8; MESSAGE];
        if from_keeper {
            match rustix::net::recv(keeper, &mut data, RecvFlags::empty()) {
                Ok((n, _)) if n > 0 => write_all(output, &data[..n])?,
                _ => return Ok(false),
            }
        }
        if from_input {
            let n = rustix::io::read(input, &mut data[1..]).unwrap_or(0);
            if n == 0 {
                // Piped input has ended; what the guest answers is still to be seen for a moment.
                std::thread::sleep(Duration::from_millis(300));
                return Ok(drain_to(keeper, output));
            }
            // What was typed before the key that leaves, or pasted with it, is for the guest.
            let leave = data[1..=n].iter().position(|byte| *byte == LEAVE);
            let n = leave.unwrap_or(n);
            data[0] = b'i';
            let _gone = rustix::net::send(keeper, &data[..=n], SendFlags::NOSIGNAL);
            if leave.is_some() {
                return Ok(true);
            }
        }
    }
}

fn drain_to(keeper: &OwnedFd, output: BorrowedFd<'_>) -> bool {
    let mut data = [0_u8; MESSAGE];
    while let Ok((n, _)) = rustix::net::recv(keeper, &mut data, RecvFlags::DONTWAIT) {
        if n == 0 || write_all(output, &data[..n]).is_err() {
            break;
        }
    }
    true
}

/// Writes everything, waiting where need be.
pub(super) fn write_all(to: BorrowedFd<'_>, mut data: &[u8]) -> Result<()> {
    while !data.is_empty() {
        match rustix::io::write(to, data) {
            Ok(n) => data = &data[n..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let mut fds = [PollFd::from_borrowed_fd(to, PollFlags::OUT)];
                let _again = poll(&mut fds, None);
            }
            Err(errno) => return Err(KernelError::new("write to", "standard output", errno).into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_keeps_no_more_than_it_may() {
        let dir = std::env::temp_dir().join(format!("bulkhead-log-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("console.log");
        let mut log = Log::open(&path, 1000);
        for n in 0..100 {
            log.write(format!("line {n:044}\n").as_bytes());
        }
        let kept: u64 = ["console.log", "console.log.1"]
            .iter()
            .map(|f| dir.join(f).metadata().unwrap().len())
            .sum();
        assert!(kept <= 1000, "{kept}");
        assert!(String::from_utf8(log.tail(100)).unwrap().contains("99"));
        std::fs::remove_dir_all(dir).unwrap();
    }
}
