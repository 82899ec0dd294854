//! Project quotas: what the files of one number may take of a filesystem (quotactl(2)). A folder's
//! number is inherited by what is made in it, and only the first user namespace may change it.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd};

use super::error::{KernelError, Result};
use crate::kernel::Errno;

/// What belongs to no project.
pub const NONE: u32 = 0;

const FS_IOC_FSGETXATTR: libc::Ioctl = 0x801c_581f;
const FS_IOC_FSSETXATTR: libc::Ioctl = 0x401c_5820;
/// What is made in a folder belongs to its project.
const XFLAG_PROJINHERIT: u32 = 0x200;

const PROJECT: libc::c_int = 2;
const GET: libc::c_int = 0x0080_0007;
const SET: libc::c_int = 0x0080_0008;
/// Which kinds are on, whatever the filesystem (`Q_XGETQSTAT`).
const STATE: libc::c_int = 0x5805;
/// In that state: projects are held to their limits.
const PROJECT_ENFORCED: u16 = 1 << 5;
/// Sizes are in blocks of so many bytes.
const BLOCK: u64 = 1024;

/// `struct fsxattr`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Attributes {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    cow_extent_size: u32,
    pad: [u8; 8],
}

/// What a project holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Bytes.
    pub bytes: u64,
    /// Files of all types.
    pub files: u64,
}

/// Whether the filesystem that `folder` lies on holds projects to their limits: ext4 and xfs mounted
/// with `prjquota`, f2fs. Linux 5.14 or later.
#[must_use]
pub fn is_enforced(folder: BorrowedFd<'_>) -> bool {
    // `struct fs_quota_stat` is shorter; its flags are at offset 2.
    let mut state = [0_u8; 256];
    // SAFETY: the kernel writes at most a `struct fs_quota_stat` there.
    let told = unsafe { call(folder, STATE, 0, state.as_mut_ptr().cast()) };
    told.is_ok() && u16::from_ne_bytes([state[2], state[3]]) & PROJECT_ENFORCED != 0
}

/// The project of a folder or file; [`NONE`] on filesystems that know none.
#[must_use]
pub fn project_of(file: BorrowedFd<'_>) -> u32 {
    attributes(file).map_or(NONE, |now| now.project)
}

/// Makes a folder, and all that will be made in it, one of a project.
///
/// # Errors
/// The filesystem knows no projects.
pub fn join(folder: BorrowedFd<'_>, project: u32) -> Result<()> {
    let mut wanted = attributes(folder)?;
    wanted.project = project;
    wanted.flags |= XFLAG_PROJINHERIT;
    // SAFETY: the request reads a `struct fsxattr`.
    match unsafe { libc::ioctl(folder.as_raw_fd(), FS_IOC_FSSETXATTR, &raw const wanted) } {
        0 => Ok(()),
        _ => Err(KernelError::last("put into a project", project)),
    }
}

fn attributes(file: BorrowedFd<'_>) -> Result<Attributes> {
    let mut now = Attributes::default();
    // SAFETY: the request writes a `struct fsxattr`.
    match unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_FSGETXATTR, &raw mut now) } {
        0 => Ok(now),
        _ => Err(KernelError::last("read the project of", "a file")),
    }
}

/// What a project of the filesystem that `folder` lies on holds.
///
/// # Errors
/// Quotas are off there.
pub fn held(folder: BorrowedFd<'_>, project: u32) -> Result<Held> {
    let found = read(folder, project)?;
    Ok(found.map_or_else(Held::default, |found| Held {
        bytes: found.dqb_curspace,
        files: found.dqb_curinodes,
    }))
}

/// What it may hold, bytes and files, each `None` where there is no limit.
///
/// # Errors
/// Quotas are off there.
pub fn limits(folder: BorrowedFd<'_>, project: u32) -> Result<(Option<u64>, Option<u64>)> {
    let Some(found) = read(folder, project)? else {
        return Ok((None, None));
    };
    let some = |limit: u64| (limit > 0).then_some(limit);
    Ok((
        some(found.dqb_bhardlimit).map(|blocks| blocks.saturating_mul(BLOCK)),
        some(found.dqb_ihardlimit),
    ))
}

/// The record of a project; xfs keeps none of what holds nothing.
fn read(folder: BorrowedFd<'_>, project: u32) -> Result<Option<libc::dqblk>> {
    // SAFETY: all zeroes is a valid `struct dqblk`.
    let mut found: libc::dqblk = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes a `struct dqblk`.
    match unsafe { call(folder, GET, project, (&raw mut found).cast()) } {
        Ok(()) => Ok(Some(found)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(KernelError::new("read the quota of", project, errno)),
    }
}

/// Sets what a project may hold; `None` takes a limit away. In force at once, and if it holds more
/// already it keeps that and gets no more.
///
/// # Errors
/// Quotas are off there.
pub fn limit(
    folder: BorrowedFd<'_>,
    project: u32,
    bytes: Option<u64>,
    files: Option<u64>,
) -> Result<()> {
    // SAFETY: all zeroes is a valid `struct dqblk`.
    let mut wanted: libc::dqblk = unsafe { std::mem::zeroed() };
    wanted.dqb_bhardlimit = bytes.map_or(0, |bytes| bytes.div_ceil(BLOCK).max(1));
    wanted.dqb_ihardlimit = files.map_or(0, |files| files.max(1));
    wanted.dqb_valid = libc::QIF_LIMITS;
    // SAFETY: the kernel reads a `struct dqblk`.
    unsafe { call(folder, SET, project, (&raw mut wanted).cast()) }
        .map_err(|errno| KernelError::new("set the quota of", project, errno))
}

/// quotactl_fd(2).
///
/// # Safety
/// `address` is what `command` takes.
unsafe fn call(
    folder: BorrowedFd<'_>,
    command: libc::c_int,
    project: u32,
    address: *mut libc::c_void,
) -> std::result::Result<(), Errno> {
    let command = (command << 8) | PROJECT;
    // SAFETY: the caller's promise.
    let done = unsafe {
        libc::syscall(
            libc::SYS_quotactl_fd,
            folder.as_raw_fd(),
            command,
            project,
            address,
        )
    };
    match done {
        0 => Ok(()),
        _ => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)),
    }
}
