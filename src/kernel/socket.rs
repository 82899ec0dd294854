//! Descriptors handed to whoever listens on a unix socket: a console, a seccomp listener; and one
//! fetched from a process (pidfd_getfd(2), Linux 5.6).
#![allow(unsafe_code)]

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, connect, sendmsg, socket_with,
};

use super::error::{KernelError, Result};

/// Connects to a stream socket.
///
/// # Errors
/// There is none, or nobody listens.
pub fn connect_to(path: &Path) -> Result<OwnedFd> {
    let failed = |errno| KernelError::new("connect to", path.display(), errno);
    let (family, kind) = (AddressFamily::UNIX, SocketType::STREAM);
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None).map_err(failed)?;
    let address = SocketAddrUnix::new(path).map_err(failed)?;
    connect(&socket, &address).map_err(failed)?;
    Ok(socket)
}

/// Sends a message with a descriptor.
///
/// # Errors
/// Nobody is there any more.
pub fn send(socket: BorrowedFd<'_>, text: &[u8], fd: BorrowedFd<'_>) -> Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [fd];
    control.push(SendAncillaryMessage::ScmRights(&fds));
    let mut sent = 0;
    while sent < text.len() {
        let part = [IoSlice::new(&text[sent..])];
        sent +=
            rustix::io::retry_on_intr(|| sendmsg(socket, &part, &mut control, SendFlags::NOSIGNAL))
                .map_err(KernelError::on("send a descriptor to", "a socket"))?;
        control.clear();
    }
    Ok(())
}

/// Sends the master end of a console, as clients of an OCI runtime await it.
///
/// # Errors
/// Nobody is there any more.
pub fn send_console(socket: BorrowedFd<'_>, master: BorrowedFd<'_>) -> Result<()> {
    send(socket, b"/dev/ptmx", master)
}

/// Connects to a socket, sends one message with a descriptor, and closes it.
///
/// # Errors
/// Nobody listens.
pub fn send_once(path: &Path, text: &[u8], fd: BorrowedFd<'_>) -> Result<()> {
    let socket = connect_to(path)?;
    send(socket.as_fd(), text, fd)
}

/// A copy of descriptor `number` of the process of a pidfd.
///
/// # Errors
/// It has no such descriptor, or may not be looked into.
pub fn fetch(pidfd: BorrowedFd<'_>, number: i32) -> Result<OwnedFd> {
    // SAFETY: no pointers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), number, 0) };
    let failed = || KernelError::last("fetch from the container", format!("descriptor {number}"));
    let fd = i32::try_from(fd)
        .ok()
        .filter(|fd| *fd >= 0)
        .ok_or_else(failed)?;
    // SAFETY: the call has just made this descriptor for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
