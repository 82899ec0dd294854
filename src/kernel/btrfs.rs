//! Subvolumes of btrfs: making, copying, removing them, and keeping one to a size (btrfs-ioctl(2)).
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags};

use super::error::{KernelError, Result};
use crate::kernel::Errno;

const SUBVOL_CREATE_V2: libc::Ioctl = 0x5000_9418;
const SNAP_CREATE_V2: libc::Ioctl = 0x5000_9417;
const RESIZE: libc::Ioctl = 0x5000_9403;
const DEV_INFO: libc::Ioctl = 0xd000_941e;
const SNAP_DESTROY: libc::Ioctl = 0x5000_940f;
const SYNC: libc::Ioctl = 0x9408;
const BALANCE_V2: libc::Ioctl = 0xc400_9420;
const QUOTA_CTL: libc::Ioctl = 0xc010_9428;
const QGROUP_LIMIT: libc::Ioctl = 0x8030_942b;

const TREE_SEARCH: libc::Ioctl = 0xd000_9411;
const FS_INFO: libc::Ioctl = 0x8400_941f;
const INO_LOOKUP: libc::Ioctl = 0xd000_9412;

/// The tree in which quotas are, the kind of its records of limits, and the first file of a subvolume.
const QUOTA_TREE: u64 = 8;
const GROUP_LIMIT: u32 = 244;
const FIRST: u64 = 256;

const QUOTA_ENABLE: u64 = 1;
const LIMIT_REFERENCED: u64 = 1;
const BALANCE_DATA: u64 = 1;
const BALANCE_RECORDS: u64 = 4;
const BY_USAGE: u64 = 2;
/// Chunks of data that are less full than this are put together, per cent.
const LOOSE: u64 = 90;

/// Longest name in `btrfs_ioctl_vol_args_v2`, with its end.
const NAME_MOST: usize = 4040;

/// Whether `folder` lies on btrfs.
#[must_use]
pub fn is_btrfs(folder: BorrowedFd<'_>) -> bool {
    rustix::fs::fstatfs(folder).is_ok_and(|stat| stat.f_type == libc::BTRFS_SUPER_MAGIC)
}

/// Makes an empty subvolume.
///
/// # Errors
/// It is there, or the filesystem is no btrfs.
pub fn create(parent: BorrowedFd<'_>, name: &CStr) -> Result<()> {
    volume(parent, SUBVOL_CREATE_V2, "make the subvolume", name, 0)
}

/// Makes a writable copy of the subvolume `source`; it costs the same whatever is in it.
///
/// # Errors
/// As [`create`].
pub fn snapshot(parent: BorrowedFd<'_>, name: &CStr, source: BorrowedFd<'_>) -> Result<()> {
    let source = i64::from(source.as_raw_fd());
    volume(parent, SNAP_CREATE_V2, "copy a subvolume to", name, source)
}

fn volume(
    parent: BorrowedFd<'_>,
    request: libc::Ioctl,
    verb: &'static str,
    name: &CStr,
    source: i64,
) -> Result<()> {
    let shown = || name.to_string_lossy();
    let bytes = name.to_bytes_with_nul();
    if bytes.len() > NAME_MOST {
        return Err(KernelError::new(verb, shown(), Errno::NAMETOOLONG));
    }
    // `struct btrfs_ioctl_vol_args_v2`: fd, transid, flags, four unused words, name.
    let mut args = [0_u8; 4096];
    args[..8].copy_from_slice(&source.to_ne_bytes());
    args[56..56 + bytes.len()].copy_from_slice(bytes);
    // SAFETY: the request reads the 4,096 bytes that it is handed.
    let done = unsafe { libc::ioctl(parent.as_raw_fd(), request, args.as_mut_ptr()) };
    if done == 0 {
        Ok(())
    } else {
        Err(KernelError::last(verb, shown()))
    }
}

/// Removes a subvolume with all that is in it.
///
/// # Errors
/// It is not there or in use.
pub fn remove(parent: BorrowedFd<'_>, name: &CStr) -> Result<()> {
    let bytes = name.to_bytes_with_nul();
    // `struct btrfs_ioctl_vol_args`: fd, name.
    let mut args = [0_u8; 4096];
    args[8..8 + bytes.len().min(4088)].copy_from_slice(&bytes[..bytes.len().min(4088)]);
    // SAFETY: the request reads the 4,096 bytes that it is handed.
    let done = unsafe { libc::ioctl(parent.as_raw_fd(), SNAP_DESTROY, args.as_ptr()) };
    if done == 0 {
        Ok(())
    } else {
        Err(KernelError::last(
            "remove the subvolume",
            name.to_string_lossy(),
        ))
    }
}

/// Has the filesystem use all of its device.
///
/// # Errors
/// It is no btrfs, or something else is being done to its devices.
pub fn fill_device(folder: BorrowedFd<'_>) -> Result<()> {
    resize(folder, "grow", "max")
}

/// Has the filesystem use so many bytes of its one device, fewer than now: what lies behind them is
/// moved first, while it is in use.
///
/// # Errors
/// `ENOSPC`: what it holds does not fit. `EINVAL`: fewer than the 256 MiB that btrfs leaves a device.
pub fn shrink(folder: BorrowedFd<'_>, bytes: u64) -> Result<()> {
    resize(folder, "shrink", &bytes.to_string())
}

/// Puts everything on the disk and wakes the thread that gives empty chunks back, which would look for
/// them by itself every 30 seconds.
///
/// # Errors
/// The disk or the kernel refuses.
pub fn sync_and_clean(folder: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: the request reads nothing.
    match unsafe { libc::ioctl(folder.as_raw_fd(), SYNC, 0) } {
        0 => Ok(()),
        _ => Err(KernelError::last("write out", "the btrfs")),
    }
}

/// Puts what lies in half-empty chunks of data together, so that whole chunks become free. It may be in
/// use. Where data and records lie in the same chunks, the kernel wants to hear of both.
///
/// # Errors
/// There is no room to move anything to, or something else is being done to its devices.
pub fn compact(folder: BorrowedFd<'_>) -> Result<()> {
    balance(folder, BALANCE_DATA).or_else(|error| match error.errno {
        Errno::INVAL => balance(folder, BALANCE_DATA | BALANCE_RECORDS),
        _ => Err(error),
    })
}

fn balance(folder: BorrowedFd<'_>, which: u64) -> Result<()> {
    // `struct btrfs_ioctl_balance_args`: what to move, a state, and 17 words for data (the second is the
    // usage, the ninth says which of them count), as many for metadata and for the system, and room.
    let mut args = [0_u64; 128];
    args[0] = which;
    for begin in [2, 2 + 17] {
        args[begin + 1] = LOOSE;
        args[begin + 8] = BY_USAGE;
    }
    // SAFETY: the request reads and writes the 1,024 bytes that it is handed.
    match unsafe { libc::ioctl(folder.as_raw_fd(), BALANCE_V2, args.as_mut_ptr()) } {
        0 => Ok(()),
        _ => Err(KernelError::last("compact", "the btrfs")),
    }
}

fn resize(folder: BorrowedFd<'_>, verb: &'static str, text: &str) -> Result<()> {
    // `struct btrfs_ioctl_vol_args`: a descriptor that is not used, and a text.
    let mut args = [0_u8; 4096];
    args[8..8 + text.len()].copy_from_slice(text.as_bytes());
    // SAFETY: the request reads the 4,096 bytes that it is handed.
    let done = unsafe { libc::ioctl(folder.as_raw_fd(), RESIZE, args.as_ptr()) };
    if done == 0 {
        Ok(())
    } else {
        Err(KernelError::last(verb, "the btrfs"))
    }
}

/// How many bytes of its first device the filesystem uses.
///
/// # Errors
/// It is no btrfs.
pub fn device_bytes(folder: BorrowedFd<'_>) -> Result<u64> {
    Ok(device(folder)?.1)
}

/// How many of them lie in chunks, empty or not.
///
/// # Errors
/// It is no btrfs.
pub fn bytes_in_chunks(folder: BorrowedFd<'_>) -> Result<u64> {
    Ok(device(folder)?.0)
}

/// Bytes in chunks, and bytes in all, of its first device.
fn device(folder: BorrowedFd<'_>) -> Result<(u64, u64)> {
    // `struct btrfs_ioctl_dev_info_args`: the device's number, its UUID (none: by the number), bytes
    // that are used, bytes in all, and room.
    let mut args = [0_u64; 512];
    args[0] = 1;
    // SAFETY: the request reads and writes the 4,096 bytes that it is handed.
    let done = unsafe { libc::ioctl(folder.as_raw_fd(), DEV_INFO, args.as_mut_ptr()) };
    if done == 0 {
        Ok((args[3], args[4]))
    } else {
        Err(KernelError::last("look at the device of", "the btrfs"))
    }
}

/// Has the filesystem count what subvolumes take; it may do so already.
///
/// # Errors
/// It is no btrfs, or this process is not root.
pub fn enable_quotas(folder: BorrowedFd<'_>) -> Result<()> {
    let mut args = [QUOTA_ENABLE, 0];
    // SAFETY: `struct btrfs_ioctl_quota_ctl_args` is two words, which the request reads and writes.
    let done = unsafe { libc::ioctl(folder.as_raw_fd(), QUOTA_CTL, args.as_mut_ptr()) };
    if done == 0 {
        Ok(())
    } else {
        Err(KernelError::last("enable quotas of", "the btrfs"))
    }
}

/// Keeps a subvolume to so many bytes, shared ones counted; `None` takes the limit away.
///
/// # Errors
/// Quotas are not enabled.
pub fn limit(subvolume: BorrowedFd<'_>, bytes: Option<u64>) -> Result<()> {
    let group = number(subvolume)?;
    // The kernel charges this to whoever owns the descriptor, and refuses it to one that is full.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let above = rustix::fs::openat(subvolume, "..", flags, Mode::empty())
        .map_err(KernelError::on("open the folder of", "the subvolume"))?;
    // `struct btrfs_ioctl_qgroup_limit_args`: the group, what is limited, referenced, exclusive, and
    // two reserved amounts. All bits set: no limit.
    let mut args = [group, LIMIT_REFERENCED, bytes.unwrap_or(u64::MAX), 0, 0, 0];
    // SAFETY: the request reads the six words that it is handed.
    let done = unsafe { libc::ioctl(above.as_raw_fd(), QGROUP_LIMIT, args.as_mut_ptr()) };
    if done == 0 {
        Ok(())
    } else {
        Err(KernelError::last("limit", "the subvolume"))
    }
}

/// What a subvolume is kept to; `None` without a limit, or where nothing is counted.
///
/// # Errors
/// It is no btrfs, or this process is not root.
pub fn limited(subvolume: BorrowedFd<'_>) -> Result<Option<u64>> {
    let failed = || KernelError::last("read the limit of", "the subvolume");
    let number = number(subvolume)?;
    // `struct btrfs_ioctl_search_args`: the tree; object, offset and transaction, each from and to; kinds,
    // from and to; how many; then what was found, each a header of 32 bytes before it.
    let kinds = u64::from(GROUP_LIMIT) << 32 | u64::from(GROUP_LIMIT);
    let mut args = [0_u64; 512];
    args[..9].copy_from_slice(&[QUOTA_TREE, 0, 0, number, number, 0, u64::MAX, kinds, 1]);
    // SAFETY: the request reads and writes the 4,096 bytes that it is handed.
    if unsafe { libc::ioctl(subvolume.as_raw_fd(), TREE_SEARCH, args.as_mut_ptr()) } != 0 {
        let error = failed();
        // Quotas were never enabled.
        return match error.errno {
            Errno::NOENT => Ok(None),
            _ => Err(error),
        };
    }
    let found = args[8] & u64::from(u32::MAX);
    // `struct btrfs_qgroup_limit_item`: what is limited, referenced, and others.
    let (what, bytes) = (u64::from_le(args[17]), u64::from_le(args[18]));
    Ok((found > 0 && what & LIMIT_REFERENCED != 0).then_some(bytes))
}

/// Number of the tree that a subvolume is.
fn number(subvolume: BorrowedFd<'_>) -> Result<u64> {
    // `struct btrfs_ioctl_ino_lookup_args`: the tree (0: that of the descriptor, and told), a file in it,
    // and room for its path.
    let mut args = [0_u64; 512];
    args[1] = FIRST;
    // SAFETY: the request reads and writes the 4,096 bytes that it is handed.
    match unsafe { libc::ioctl(subvolume.as_raw_fd(), INO_LOOKUP, args.as_mut_ptr()) } {
        0 => Ok(args[0]),
        _ => Err(KernelError::last("read the number of", "the subvolume")),
    }
}

/// What the kernel counts of a subvolume, in the files of its quota group (Linux 5.9): to look there
/// holds nothing open and waits for no disk.
#[derive(Debug)]
pub struct Counter(PathBuf);

/// What a subvolume may take and takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    /// Bytes it is kept to.
    pub limit: u64,
    /// Bytes that it takes, or is about to: what was written and is not on the disk yet.
    pub used: u64,
}

impl Counter {
    /// That of a subvolume.
    ///
    /// # Errors
    /// It is no btrfs, or this process is not root.
    pub fn of(subvolume: BorrowedFd<'_>) -> Result<Self> {
        // `struct btrfs_ioctl_fs_info_args`: how many devices, twice, the filesystem's UUID, and room.
        let mut args = [0_u64; 128];
        // SAFETY: the request reads and writes the 1,024 bytes that it is handed.
        if unsafe { libc::ioctl(subvolume.as_raw_fd(), FS_INFO, args.as_mut_ptr()) } != 0 {
            return Err(KernelError::last("look at", "the btrfs"));
        }
        let hex: String = args[2..4]
            .iter()
            .flat_map(|word| word.to_ne_bytes())
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let parts = [
            &hex[..8],
            &hex[8..12],
            &hex[12..16],
            &hex[16..20],
            &hex[20..],
        ];
        let (uuid, number) = (parts.join("-"), number(subvolume)?);
        Ok(Self(
            format!("/sys/fs/btrfs/{uuid}/qgroups/0_{number}").into(),
        ))
    }

    /// What it says now; `None` without a limit, and where nothing is counted.
    #[must_use]
    pub fn read(&self) -> Option<Counted> {
        let word = |file: &str| -> Option<u64> {
            let text = std::fs::read_to_string(self.0.join(file)).ok()?;
            text.trim().parse().ok()
        };
        let limited = word("limit_flags")? & LIMIT_REFERENCED != 0;
        Some(Counted {
            limit: word("max_referenced").filter(|limit| limited && *limit != u64::MAX)?,
            used: word("referenced")?.saturating_add(word("rsv_data")?),
        })
    }
}
