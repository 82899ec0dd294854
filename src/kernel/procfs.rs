//! The host's own procfs, held by descriptor from before anything of a container's is mounted. What
//! a process writes about itself goes through it, so that no container can lead such a write
//! elsewhere (CVE-2019-16884, CVE-2025-52881).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::error::{KernelError, Result};

/// A procfs.
#[derive(Debug)]
pub struct Procfs(OwnedFd);

impl Procfs {
    /// The one on /proc.
    ///
    /// # Errors
    /// What is there is none.
    pub fn open() -> Result<Self> {
        const PROC_SUPER_MAGIC: i64 = 0x9fa0;
        let failed = |errno| KernelError::new("open", "/proc", errno);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::open("/proc", flags, Mode::empty()).map_err(failed)?;
        let fs = rustix::fs::fstatfs(&fd).map_err(failed)?;
        if fs.f_type != PROC_SUPER_MAGIC {
            return Err(failed(Errno::INVAL).because("what is mounted there is no procfs"));
        }
        Ok(Self(fd))
    }

    /// Writes a file, such as `self/oom_score_adj` or `sys/net/ipv4/ip_forward`; the kernel answers
    /// for the namespaces of who writes.
    ///
    /// # Errors
    /// There is no such file, or the kernel refuses the value.
    pub fn write(&self, path: &str, value: &str) -> Result<()> {
        let failed = |errno| KernelError::new("write", format!("{value} to /proc/{path}"), errno);
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.0, path, flags, Mode::empty()).map_err(failed)?;
        rustix::io::write(&file, value.as_bytes())
            .map(drop)
            .map_err(failed)
    }
}

impl AsFd for Procfs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_real_one_and_takes_what_the_kernel_takes() {
        let proc = Procfs::open().unwrap();
        let now = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap();
        proc.write("self/oom_score_adj", now.trim()).unwrap();
        assert!(proc.write("self/no_such_file", "1").is_err());
    }
}
