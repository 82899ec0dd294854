//! A bell that rings when the kernel writes a line into its log (/dev/kmsg). What the line says is not
//! read: it is a hint to look at something that the kernel tells of by no other way.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, SeekFrom, open, seek};

use super::error::{KernelError, Result};

const LOG: &str = "/dev/kmsg";

/// Poll it for `IN`.
#[derive(Debug)]
pub struct LogBell(OwnedFd);

impl LogBell {
    /// Begins to listen: what is written from now on rings.
    ///
    /// # Errors
    /// The log is not there, or not ours to read.
    pub fn open() -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let fd = open(LOG, flags, Mode::empty()).map_err(KernelError::on("open", LOG))?;
        let bell = Self(fd);
        bell.silence()?;
        Ok(bell)
    }

    /// What has been written so far does not ring any more.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn silence(&self) -> Result<()> {
        seek(&self.0, SeekFrom::End(0))
            .map(drop)
            .map_err(KernelError::on("read on", LOG))
    }
}

impl AsFd for LogBell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
