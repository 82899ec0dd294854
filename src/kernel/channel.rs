//! A pair of connected sockets on which the processes of a launch talk: whole messages, each with at
//! most one descriptor. What the messages say is `launch::protocol`'s.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

use super::error::{KernelError, Result};
use super::process::timespec;

/// Largest message, bytes.
pub const LONGEST: usize = 16 << 10;

/// One end of a pair.
#[derive(Debug)]
pub struct Channel(OwnedFd);

impl Channel {
    /// A connected pair (socketpair(2), SOCK_SEQPACKET), closed at exec.
    pub fn pair() -> Result<(Self, Self)> {
        socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .map(|(a, b)| (Self(a), Self(b)))
        .map_err(KernelError::on("make", "a socket pair"))
    }

    /// One end of a connection that was made otherwise (SOCK_SEQPACKET).
    #[must_use]
    pub fn over(socket: OwnedFd) -> Self {
        Self(socket)
    }

    /// Sends one message, with a descriptor if given.
    pub fn send(&self, message: &[u8], fd: Option<BorrowedFd<'_>>) -> Result<()> {
        let failed = KernelError::on("send to", "the other process of the launch");
        let Some(fd) = fd else {
            // The plainest call, which every filter in force allows. SIGPIPE is ignored here, as in
            // every Rust program.
            return rustix::io::retry_on_intr(|| rustix::io::write(&self.0, message))
                .map(drop)
                .map_err(failed);
        };
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = [fd];
        control.push(SendAncillaryMessage::ScmRights(&fds));
        rustix::io::retry_on_intr(|| {
            sendmsg(
                &self.0,
                &[IoSlice::new(message)],
                &mut control,
                SendFlags::NOSIGNAL,
            )
        })
        .map(drop)
        .map_err(failed)
    }

    /// One message without a descriptor, by read(2) alone; empty when the other side is gone.
    pub fn read_plain(&self) -> Result<Vec<u8>> {
        let mut data = [0; 256];
        let n = rustix::io::retry_on_intr(|| rustix::io::read(&self.0, &mut data)).map_err(
            KernelError::on("hear from", "the other process of the launch"),
        )?;
        Ok(data[..n].to_vec())
    }

    /// Receives one message; `None` when the other side has closed all its ends. `limit` bounds the
    /// wait (ETIMEDOUT).
    pub fn receive(&self, limit: Option<Duration>) -> Result<Option<(Vec<u8>, Option<OwnedFd>)>> {
        let failed =
            |errno| KernelError::new("hear from", "the other process of the launch", errno);
        let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
        let ready = rustix::io::retry_on_intr(|| poll(&mut fds, limit.map(timespec).as_ref()));
        if ready.map_err(failed)? == 0 {
            return Err(failed(Errno::TIMEDOUT));
        }
        // As long as the message that is there: most have twenty bytes.
        let length = rustix::io::ioctl_fionread(&self.0).map_err(failed)?;
        let length = usize::try_from(length).map_or(LONGEST, |n| n.clamp(1, LONGEST));
        let mut data = vec![0; length];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let got = rustix::io::retry_on_intr(|| {
            recvmsg(
                &self.0,
                &mut [IoSliceMut::new(&mut data)],
                &mut control,
                RecvFlags::CMSG_CLOEXEC,
            )
        });
        let n = match got {
            Ok(got) => got.bytes,
            Err(Errno::CONNRESET) => 0,
            Err(errno) => return Err(failed(errno)),
        };
        if n == 0 {
            return Ok(None);
        }
        data.truncate(n);
        let fd = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        Ok(Some((data, fd)))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_keep_their_edges_and_carry_a_descriptor() {
        let (a, b) = Channel::pair().unwrap();
        a.send(b"one", None).unwrap();
        a.send(b"two", Some(std::io::stdin().as_fd())).unwrap();
        assert_eq!(b.receive(None).unwrap().unwrap().0, b"one");
        let (text, fd) = b.receive(None).unwrap().unwrap();
        assert!(text == b"two" && fd.is_some());
        let late = b.receive(Some(Duration::from_millis(1))).unwrap_err();
        assert_eq!(late.errno, Errno::TIMEDOUT);
        drop(a);
        assert!(b.receive(None).unwrap().is_none());
    }
}
