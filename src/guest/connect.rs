//! Connecting to a keeper, or to who answers a guest's calls, without waiting for ever for one that
//! stands still.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::kernel::KernelError;

/// EAGAIN: somebody listens there, and did not get round to us in this time.
pub(super) fn connect(
    socket: &Path,
    patience: Duration,
) -> std::result::Result<OwnedFd, KernelError> {
    let failed = |errno| KernelError::new("connect to", socket.display(), errno);
    let (_folder, address) = super::console::address(socket)?;
    let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
    let fd = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None).map_err(failed)?;
    set_socket_timeout(&fd, Timeout::Send, Some(patience)).map_err(failed)?;
    rustix::net::connect(&fd, &address).map_err(failed)?;
    set_socket_timeout(&fd, Timeout::Send, None).map_err(failed)?;
    Ok(fd)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Errno;

    #[test]
    fn one_that_stands_still_is_not_waited_for_and_none_is_told_from_it() {
        let dir = std::env::temp_dir().join(format!("bulkhead-connect-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let socket = dir.join("x.sock");
        let listener = super::super::console::listen(&socket).unwrap();
        let patience = Duration::from_millis(20);
        let mut waiting = Vec::new();
        let error = loop {
            match connect(&socket, patience) {
                Ok(fd) => waiting.push(fd),
                Err(error) => break error,
            }
            assert!(waiting.len() < 100);
        };
        assert_eq!(error.errno, Errno::AGAIN);
        drop(listener);
        assert_eq!(
            connect(&socket, patience).unwrap_err().errno,
            Errno::CONNREFUSED
        );
        std::fs::remove_dir_all(dir).unwrap();
    }
}
