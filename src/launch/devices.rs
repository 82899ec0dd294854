//! The /dev every guest gets: nodes and links in a memory file system of the host's own making.
//!
//! A node works because the file system belongs to the host; the guest can make none of its own.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{Mode, OFlags};

use crate::kernel::{KernelError, Result, mount};
use crate::plan::step::Node;

const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// Fills `dev`, the top folder of a file system nobody else sees yet.
pub(super) fn fill(dev: BorrowedFd<'_>, nodes: &[Node], owner: u32) -> Result<()> {
    for node in nodes {
        let (dir, name) = match node.name.rsplit_once('/') {
            Some((folders, name)) => (Some(make_folders(dev, folders, owner)?), name),
            None => (None, node.name.as_str()),
        };
        let kind = if node.block {
            libc_type::BLOCK
        } else {
            libc_type::CHARACTER
        };
        mount::device_node(
            dir.as_ref().map_or(dev, AsFd::as_fd),
            name,
            kind | node.mode,
            rustix::fs::makedev(node.major, node.minor),
            (owner, owner),
        )?;
    }
    for (name, target) in LINKS {
        rustix::fs::symlinkat(target, dev, name).map_err(KernelError::on("make the link", name))?;
        mount::chown_at(dev, name, (owner, owner))?;
    }
    // What the console is mounted on.
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    rustix::fs::openat(dev, "console", flags, Mode::from_raw_mode(0o600))
        .map_err(KernelError::on("make", "/dev/console"))?;
    mount::chown_at(dev, "console", (owner, owner))
}

/// File type bits of mknod(2).
mod libc_type {
    pub(super) const CHARACTER: u32 = 0o020_000;
    pub(super) const BLOCK: u32 = 0o060_000;
}

fn make_folders(dev: BorrowedFd<'_>, folders: &str, owner: u32) -> Result<std::os::fd::OwnedFd> {
    let failed = |errno| KernelError::new("make in /dev the folder", folders, errno);
    let mut at = dev
        .try_clone_to_owned()
        .map_err(KernelError::io("open", "/dev"))?;
    for name in folders.split('/') {
        match rustix::fs::mkdirat(&at, name, Mode::from_raw_mode(0o755)) {
            Ok(()) => mount::chown_at(at.as_fd(), name, (owner, owner))?,
            Err(rustix::io::Errno::EXIST) => {}
            Err(errno) => return Err(failed(errno)),
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        at = rustix::fs::openat(&at, name, flags, Mode::empty()).map_err(failed)?;
    }
    Ok(at)
}
