//! What a service manager has given the caller for the container, and a program finds as if the
//! manager had started it: sockets that it listens on (sd_listen_fds(3)), and one to say on that it
//! is ready (sd_notify(3)).
//!
//! The manager's own socket is not for a container: it could say there that another process is the
//! service's, or leave descriptors with the manager. It gets one of ours, and whoever starts it
//! passes on the one word that it is ready.

use std::ffi::OsString;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::time::Duration;

use oci_spec::runtime::{Mount, Spec};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{AtFlags, Mode, OFlags};

use super::error::Result;
use super::log::Log;
use super::store::Folder;
use crate::kernel::process::timespec;
use crate::kernel::{KernelError, socket};

/// How many sockets there are, from descriptor 3 on, if they are meant for this process.
pub(super) fn sockets() -> u32 {
    let number = |name| std::env::var(name).ok()?.parse::<u32>().ok();
    match number("LISTEN_PID") == Some(std::process::id()) {
        true => number("LISTEN_FDS").unwrap_or(0),
        false => 0,
    }
}

/// Tells the program of its sockets.
pub(super) fn tell_sockets(spec: &mut Spec) {
    let count = sockets();
    if count == 0 {
        return;
    }
    set(spec, "LISTEN_FDS", &count.to_string());
    if let Ok(names) = std::env::var("LISTEN_FDNAMES") {
        set(spec, "LISTEN_FDNAMES", &names);
    }
    // Its number in a process namespace of its own; no other can be known before it is there.
    set(spec, "LISTEN_PID", "1");
}

/// Sets a variable of the program's.
fn set(spec: &mut Spec, name: &str, value: &str) {
    let Some(mut process) = spec.process().clone() else {
        return;
    };
    let mut all = process.env().clone().unwrap_or_default();
    all.retain(|line| line.split_once('=').is_none_or(|(n, _)| n != name));
    all.push(format!("{name}={value}"));
    process.set_env(Some(all));
    spec.set_process(Some(process));
}

/// The folder beside a container's state that it is shown, and the socket in it.
const FOLDER: &str = "notify";
const SOCKET: &str = "notify.sock";
/// Where it is shown.
const SHOWN: &str = "/run/notify";

/// The manager's socket, if one waits for word.
fn manager() -> Option<OsString> {
    std::env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty())
}

/// Makes the container have a socket of its own, if a manager waits: its folder will be `state`.
pub(super) fn tell_notify(spec: &mut Spec, state: &Path) {
    if manager().is_none() {
        return;
    }
    let mut mount = Mount::default();
    mount
        .set_destination(SHOWN.into())
        .set_typ(Some("bind".into()))
        .set_source(Some(state.join(FOLDER)))
        // Nobody in there can put another socket in its place.
        .set_options(Some(
            ["bind", "ro", "nosuid", "nodev", "noexec"]
                .map(String::from)
                .into(),
        ));
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    mounts.push(mount);
    spec.set_mounts(Some(mounts));
    set(spec, "NOTIFY_SOCKET", &format!("{SHOWN}/{SOCKET}"));
}

/// Makes the folder that is shown.
pub(super) fn make_folder(folder: &Folder) -> Result<()> {
    if manager().is_none() {
        return Ok(());
    }
    let failed = || KernelError::on("make the notify folder of", folder.id());
    rustix::fs::mkdirat(folder, FOLDER, Mode::RWXU).map_err(failed())?;
    // Whoever the program is, whatever the caller's mask.
    let mode = Mode::from_raw_mode(0o755);
    rustix::fs::chmodat(folder, FOLDER, mode, AtFlags::empty()).map_err(failed())?;
    Ok(())
}

/// Removes it, if it is there.
pub(super) fn forget(folder: BorrowedFd<'_>) {
    // Not there is as good; anything else shows when the container's own folder is removed.
    let _gone = rustix::fs::unlinkat(folder, format!("{FOLDER}/{SOCKET}"), AtFlags::empty());
    let _gone = rustix::fs::unlinkat(folder, FOLDER, AtFlags::REMOVEDIR);
}

/// A container's socket, and whom to pass on what it says.
#[derive(Debug)]
pub(super) struct Readiness {
    socket: UnixDatagram,
    manager: OsString,
}

impl Readiness {
    /// Listens, before the program runs; `None` if nobody waits for word, or the container was made
    /// when nobody did.
    pub(super) fn listen(folder: &Folder) -> Result<Option<Self>> {
        let Some(manager) = manager() else {
            return Ok(None);
        };
        let shown = match folder.file(FOLDER, OFlags::PATH | OFlags::DIRECTORY) {
            Ok(shown) => shown,
            Err(_) => return Ok(None),
        };
        // One that a start has left that was killed.
        let _none = rustix::fs::unlinkat(&shown, SOCKET, AtFlags::empty());
        // The name of a socket may be no longer than 107 bytes.
        let path = format!("/proc/self/fd/{}/{SOCKET}", shown.as_raw_fd());
        let socket = UnixDatagram::bind(&path)?;
        rustix::fs::chmodat(&shown, SOCKET, Mode::from_raw_mode(0o666), AtFlags::empty())
            .map_err(KernelError::on("open to the container", SOCKET))?;
        socket.set_nonblocking(true)?;
        Ok(Some(Self { socket, manager }))
    }

    /// Waits until the program says that it is ready, or ends, and passes it on; `pid` is the
    /// service's main process then, unless that is this one.
    pub(super) fn pass_on(&self, pid: Option<u32>, program: BorrowedFd<'_>, log: &Log) {
        let passed = match self.await_ready(program) {
            Ok(true) => self.say(pid),
            Ok(false) => return,
            Err(error) => Err(error),
        };
        if let Err(error) = passed {
            // The container runs all the same.
            let manager = Path::new(&self.manager).display();
            log.warn(&format!(
                "{manager} is not told that the container is ready: {error}"
            ));
        }
    }

    fn await_ready(&self, program: BorrowedFd<'_>) -> Result<bool> {
        let mut text = [0_u8; 4096];
        loop {
            let mut fds = [
                PollFd::new(&self.socket, PollFlags::IN),
                PollFd::new(&program, PollFlags::IN),
            ];
            rustix::io::retry_on_intr(|| poll(&mut fds, None))
                .map_err(KernelError::on("wait for", "the container to be ready"))?;
            let ended = !fds[1].revents().is_empty();
            while let Ok(n) = self.socket.recv(&mut text) {
                if text[..n]
                    .split(|byte| *byte == b'\n')
                    .any(|line| line == b"READY=1")
                {
                    return Ok(true);
                }
                if ended {
                    break;
                }
            }
            if ended {
                return Ok(false);
            }
        }
    }

    fn say(&self, pid: Option<u32>) -> Result<()> {
        let to = UnixDatagram::unbound()?;
        let name = self.manager.as_bytes();
        match name.strip_prefix(b"@") {
            Some(name) => to.connect_addr(&SocketAddr::from_abstract_name(name)?)?,
            None => to.connect(Path::new(&self.manager))?,
        }
        let main = pid
            .map(|pid| format!("\nMAINPID={pid}"))
            .unwrap_or_default();
        to.send(format!("READY=1{main}").as_bytes())?;
        barrier(&to)
    }
}

/// Longest wait for the manager to have read.
const PATIENCE: Duration = Duration::from_secs(5);

/// Waits until the manager has read what was sent (sd_notify_barrier(3)): it looks up who has sent
/// it, which it could no more when this process has ended.
fn barrier(to: &UnixDatagram) -> Result<()> {
    let flags = rustix::pipe::PipeFlags::CLOEXEC;
    let (read, write): (OwnedFd, OwnedFd) =
        rustix::pipe::pipe_with(flags).map_err(KernelError::on("make", "a pipe"))?;
    socket::send(to.as_fd(), b"BARRIER=1", write.as_fd())?;
    drop(write);
    let mut fds = [PollFd::new(&read, PollFlags::IN)];
    poll(&mut fds, Some(&timespec(PATIENCE)))
        .map_err(KernelError::on("wait for", "the service manager"))?;
    Ok(())
}
