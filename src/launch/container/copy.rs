//! Copies a folder of a container's image into a fresh memory file system that will cover it
//! (`tmpcopyup`): by descriptor, through no link, and no deeper or larger than the file system
//! takes.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Uid};

use crate::kernel::{Errno, KernelError, Result};

/// Folders within folders; deeper ones come from somebody who wants our stack.
const DEEPEST: usize = 256;

/// Everything in `from`, and its own owner and mode, to `to`.
pub(super) fn folder(from: &OwnedFd, to: &OwnedFd) -> Result<()> {
    let stat = rustix::fs::fstat(from).map_err(failed("."))?;
    own(to.as_fd(), c"", &stat)?;
    inside(from, to, 0)
}

fn failed(name: impl std::fmt::Display) -> impl Fn(Errno) -> KernelError {
    let name = name.to_string();
    move |errno| KernelError::new("copy into the memory file system", &name, errno)
}

fn inside(from: &OwnedFd, to: &OwnedFd, depth: usize) -> Result<()> {
    if depth > DEEPEST {
        return Err(failed("a folder")(Errno::LOOP));
    }
    for entry in Dir::read_from(from).map_err(failed("a folder"))? {
        let entry = entry.map_err(failed("a folder"))?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            one(from, to, name, depth)?;
        }
    }
    Ok(())
}

fn one(from: &OwnedFd, to: &OwnedFd, name: &CStr, depth: usize) -> Result<()> {
    let fail = failed(name.to_string_lossy());
    let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW).map_err(&fail)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    let open = |dir: &OwnedFd, flags: OFlags| {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(0o600)).map_err(&fail)
    };
    match kind {
        FileType::Directory => {
            rustix::fs::mkdirat(to, name, Mode::from_raw_mode(0o700)).map_err(&fail)?;
            let folder = OFlags::RDONLY | OFlags::DIRECTORY;
            inside(&open(from, folder)?, &open(to, folder)?, depth + 1)?;
        }
        FileType::RegularFile => {
            let source = open(from, OFlags::RDONLY)?;
            let copy = open(to, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL)?;
            let mut source = std::fs::File::from(source);
            let mut copy = std::fs::File::from(copy);
            std::io::copy(&mut source, &mut copy)
                .map_err(|e| fail(Errno::from_io_error(&e).unwrap_or(Errno::IO)))?;
        }
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(from, name, Vec::new()).map_err(&fail)?;
            rustix::fs::symlinkat(&target, to, name).map_err(&fail)?;
        }
        // Devices, sockets and FIFOs are made by who uses them.
        _ => return Ok(()),
    }
    own(to.as_fd(), name, &stat)
}

/// Owner and mode of an entry of ours.
fn own(dir: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> Result<()> {
    let fail = failed(name.to_string_lossy());
    let flags = if name.is_empty() {
        AtFlags::EMPTY_PATH
    } else {
        AtFlags::SYMLINK_NOFOLLOW
    };
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    match rustix::fs::chownat(dir, name, Some(uid), Some(gid), flags) {
        // An owner that this user namespace does not know.
        Ok(()) | Err(Errno::INVAL | Errno::PERM) => {}
        Err(errno) => return Err(fail(errno)),
    }
    let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Symlink => Ok(()),
        _ if name.is_empty() => {
            rustix::fs::chmodat(dir, c".", mode, AtFlags::empty()).map_err(fail)
        }
        _ => rustix::fs::chmodat(dir, name, mode, AtFlags::empty()).map_err(fail),
    }
}
