//! Network interfaces by the oldest way there is, ioctl(2) on any socket (netdevice(7)): for the two
//! things that are needed so often that two calls instead of a conversation are worth it.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use super::error::{KernelError, Result};

/// Sets the loopback interface of this network namespace up, which gives it 127.0.0.1 and ::1.
///
/// # Errors
/// The kernel refuses: no CAP_NET_ADMIN over the namespace.
pub fn loopback_up() -> Result<()> {
    let socket = any_socket()?;
    // SAFETY: ifreq is plain old data for which all zeroes is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = from.cast_signed();
    }
    let flags = libc::IFF_UP | libc::IFF_RUNNING | libc::IFF_LOOPBACK;
    request.ifr_ifru.ifru_flags = i16::try_from(flags).unwrap_or(0);
    // SAFETY: `request` lives over the call and is what SIOCSIFFLAGS reads.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    if done == 0 {
        Ok(())
    } else {
        Err(KernelError::last("set up", "the loopback interface"))
    }
}

/// Whether this network namespace has an interface of that name. Waits for nobody, as a conversation
/// would while an interface is made or goes.
///
/// # Errors
/// The kernel gives no socket, or refuses to tell.
pub fn exists(name: &str) -> Result<bool> {
    match name_to_index(any_socket()?, name) {
        Ok(_) => Ok(true),
        Err(Errno::NODEV) => Ok(false),
        Err(errno) => Err(KernelError::new("look up the interface", name, errno)),
    }
}

fn any_socket() -> Result<OwnedFd> {
    let (family, kind) = (AddressFamily::UNIX, SocketType::DGRAM);
    socket_with(family, kind, SocketFlags::CLOEXEC, None)
        .map_err(KernelError::on("open", "a socket"))
}
