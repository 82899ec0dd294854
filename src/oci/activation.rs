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

use oci_spec::runtime::{LinuxNamespaceType, Mount, Spec};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};

use super::error::{OciError, Result};
use super::log::Log;
use super::store::Folder;
use crate::kernel::process::timespec;
use crate::kernel::{Errno, KernelError, socket};
use crate::storage;

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
/// So many messages are read before it is looked whether the program is still there.
const ROUND: usize = 64;

/// The manager's socket, if one waits for word.
fn manager() -> Option<OsString> {
    std::env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty())
}

/// Whether a container gets a socket of its own: a manager waits, and there are mounts that only the
/// container has. In those of somebody else nothing can be shown to it alone.
fn is_shown(spec: &Spec) -> bool {
    manager().is_some() && has_own_mounts(spec)
}

fn has_own_mounts(spec: &Spec) -> bool {
    let namespaces = spec.linux().as_ref().and_then(|l| l.namespaces().as_ref());
    namespaces.into_iter().flatten().any(|namespace| {
        // An empty path is none, as for the plan.
        let joined = namespace.path().as_ref();
        let joined = joined.is_some_and(|path| !path.as_os_str().is_empty());
        namespace.typ() == LinuxNamespaceType::Mount && !joined
    })
}

/// Makes the container have a socket of its own, if it gets one: its folder will be `state`.
pub(super) fn tell_notify(spec: &mut Spec, state: &Path) {
    if !is_shown(spec) {
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

/// Makes the folder that is shown. Without one nobody waits for the program's word.
pub(super) fn make_folder(folder: &Folder, spec: &Spec) -> Result<()> {
    if !is_shown(spec) {
        return Ok(());
    }
    let make = || {
        rustix::fs::mkdirat(folder, FOLDER, Mode::RWXU)?;
        let made = folder.file(FOLDER, OFlags::RDONLY | OFlags::DIRECTORY)?;
        // Whoever the program is, whatever the caller's mask.
        rustix::fs::fchmod(&made, Mode::from_raw_mode(0o755))
    };
    let made: rustix::io::Result<()> = make();
    made.map_err(KernelError::on("make the notify folder of", folder.id()))?;
    Ok(())
}

/// Removes it with all that is in it, if it is there. A container that may mount can have made it
/// writable for itself, and then anything can lie there, however deep.
pub(super) fn forget(folder: BorrowedFd<'_>, id: &str) -> Result<()> {
    let shown = Path::new(id).join(FOLDER);
    storage::remove_tree(folder, c"notify", &shown).map_err(|error| OciError::File {
        path: format!("{} of the container's state", error.path.display()),
        why: format!("cannot {}: {}", error.verb, error.source),
    })
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
        Ok(Some(Self::at(&shown, manager)?))
    }

    /// Listens in this folder.
    fn at(shown: &OwnedFd, manager: OsString) -> Result<Self> {
        // One that a start has left that was killed.
        let _none = rustix::fs::unlinkat(shown, SOCKET, AtFlags::empty());
        // The name of a socket may be no longer than 107 bytes.
        let path = format!("/proc/self/fd/{}/{SOCKET}", shown.as_raw_fd());
        let socket = UnixDatagram::bind(&path)?;
        open_to_all(shown).map_err(KernelError::on("open to the container", SOCKET))?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, manager })
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

    /// Whether the program has said that it is ready; `false` if it has ended. One that says much else
    /// does not keep us from seeing its end.
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
            for _ in 0..ROUND {
                let Ok(n) = self.socket.recv(&mut text) else {
                    break;
                };
                let mut lines = text[..n].split(|byte| *byte == b'\n');
                if lines.any(|line| line == b"READY=1") {
                    return Ok(true);
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

/// Makes the socket one that everybody in the container can write to, whatever the caller's mask is. Only
/// the socket: no link in its place leads to what is changed.
fn open_to_all(shown: &OwnedFd) -> rustix::io::Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let socket = rustix::fs::openat(shown, SOCKET, flags, Mode::empty())?;
    if FileType::from_raw_mode(rustix::fs::fstat(&socket)?.st_mode) != FileType::Socket {
        return Err(Errno::NOTSOCK);
    }
    let own = format!("/proc/self/fd/{}", socket.as_raw_fd());
    rustix::fs::chmod(own, Mode::from_raw_mode(0o666))
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
    rustix::io::retry_on_intr(|| poll(&mut fds, Some(&timespec(PATIENCE))))
        .map_err(KernelError::on("wait for", "the service manager"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::super::store::Store;
    use super::*;

    /// A state folder with one container.
    fn container(test: &str) -> (PathBuf, Folder) {
        let root = std::env::temp_dir().join(format!("bulkhead-{test}-{}", std::process::id()));
        let folder = Store::at(Some(&root), false).reserve("c").unwrap();
        std::fs::create_dir(root.join("c/notify")).unwrap();
        (root, folder)
    }

    fn listening(folder: &Folder) -> Readiness {
        let shown = folder.file(FOLDER, OFlags::PATH | OFlags::DIRECTORY);
        Readiness::at(&shown.unwrap(), "/nowhere".into()).unwrap()
    }

    #[test]
    fn only_a_container_with_mounts_of_its_own_is_shown_a_socket() {
        let spec = |namespaces: &str| -> Spec {
            let text =
                format!(r#"{{"ociVersion": "1.0.2", "linux": {{"namespaces": {namespaces}}}}}"#);
            serde_json::from_str(&text).unwrap()
        };
        assert!(has_own_mounts(&spec(
            r#"[{"type": "pid"}, {"type": "mount"}]"#
        )));
        assert!(!has_own_mounts(&spec(
            r#"[{"type": "mount", "path": "/proc/1/ns/mnt"}]"#
        )));
        assert!(!has_own_mounts(&spec(r#"[{"type": "pid"}]"#)));
        assert!(!has_own_mounts(
            &serde_json::from_str(r#"{"ociVersion": "1.0.2"}"#).unwrap()
        ));
    }

    #[test]
    fn whatever_a_container_has_left_there_goes_with_it() {
        let (root, folder) = container("left");
        let outside = root.with_extension("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("kept"), "x").unwrap();
        let notify = root.join("c/notify");
        let mut deep = notify.clone();
        for _ in 0..60 {
            deep.push("folder");
            std::fs::create_dir(&deep).unwrap();
            std::fs::write(deep.join("file"), "x").unwrap();
        }
        symlink(&outside, notify.join("out")).unwrap();
        symlink(outside.join("kept"), notify.join("notify.sock")).unwrap();
        std::fs::write(root.join("c/state"), "{}").unwrap();
        folder.remove().unwrap();
        assert!(!root.join("c").exists());
        assert_eq!(std::fs::read_to_string(outside.join("kept")).unwrap(), "x");
        std::fs::remove_dir_all(outside).unwrap();
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn the_socket_is_open_to_all_and_no_link_is_followed() {
        let (root, folder) = container("open");
        let socket = root.join("c/notify/notify.sock");
        let target = root.join("target");
        std::fs::write(&target, "x").unwrap();
        std::fs::set_permissions(&target, PermissionsExt::from_mode(0o600)).unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        symlink(&target, &socket).unwrap();
        let shown = folder.file(FOLDER, OFlags::PATH | OFlags::DIRECTORY);
        assert_eq!(open_to_all(&shown.unwrap()), Err(Errno::NOTSOCK));
        assert_eq!(mode(&target), 0o600);
        let _listens = listening(&folder);
        assert_eq!(mode(&socket), 0o666);
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn who_floods_the_socket_is_not_waited_for_after_its_end() {
        let (root, folder) = container("flood");
        let readiness = listening(&folder);
        let to = root.join("c/notify/notify.sock");
        let over = AtomicBool::new(false);
        std::thread::scope(|all| {
            all.spawn(|| {
                let socket = UnixDatagram::unbound().unwrap();
                let patience = Some(Duration::from_secs(10));
                socket.set_write_timeout(patience).unwrap();
                while !over.load(Ordering::Relaxed) {
                    socket.send_to(b"STATUS=nearly", &to).unwrap();
                }
                socket.send_to(b"STATUS=there\nREADY=1", &to).unwrap();
            });
            // Its end is there to be read, as that of a pidfd is.
            let (program, end): (OwnedFd, OwnedFd) = rustix::pipe::pipe().unwrap();
            all.spawn(|| {
                std::thread::sleep(Duration::from_millis(50));
                drop(end);
            });
            assert!(!readiness.await_ready(program.as_fd()).unwrap());
            over.store(true, Ordering::Relaxed);
            let (program, _runs): (OwnedFd, OwnedFd) = rustix::pipe::pipe().unwrap();
            assert!(readiness.await_ready(program.as_fd()).unwrap());
        });
        std::fs::remove_dir_all(root).unwrap();
    }
}
