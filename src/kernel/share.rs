//! Blocks that two files of one filesystem share: asking which a file has (`FS_IOC_FIEMAP`), and making
//! equal files share theirs (`FIDEDUPERANGE`, see ioctl_fideduperange(2)). The kernel compares what it
//! shares itself, with both files locked, so nobody can have another's data put into his file.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

const FIDEDUPERANGE: libc::Ioctl = 0xc018_9436;
const FIEMAP: libc::Ioctl = 0xc020_660b;

/// `XFS_IOC_FSGEOMETRY` (Linux 5.2), and where in what it writes the flags are; that of reflinks.
const XFS_GEOMETRY: libc::Ioctl = 0x8100_587e;
const XFS_FLAGS: usize = 92;
const XFS_REFLINK: u32 = 1 << 20;
/// What statfs(2) says of the filesystems that can, the second if it was made so.
const BTRFS: i64 = 0x9123_683e;
const XFS: i64 = 0x5846_5342;

/// Most bytes that are shared in one call; filesystems cut longer ones short.
const PIECE: u64 = 16 << 20;
/// Parts of a file that are asked for.
const EXTENTS: usize = 64;

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Dedupe {
    source_offset: u64,
    length: u64,
    count: u16,
    reserved: [u16; 3],
    to: i64,
    offset: u64,
    done: u64,
    status: i32,
    unused: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Extent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved: [u64; 2],
    flags: u32,
    unused: [u32; 3],
}

#[repr(C)]
struct Map {
    start: u64,
    length: u64,
    flags: u32,
    mapped: u32,
    count: u32,
    reserved: u32,
    extents: [Extent; EXTENTS],
}

/// Whether files of the filesystem that this folder lies on can share blocks.
#[must_use]
pub fn can(folder: BorrowedFd<'_>) -> bool {
    match rustix::fs::fstatfs(folder).map(|stat| stat.f_type) {
        Ok(BTRFS) => true,
        Ok(XFS) => {
            let mut geometry = [0_u8; 256];
            // SAFETY: the request writes one `struct xfs_fsop_geom`, which has these 256 bytes.
            let done =
                unsafe { libc::ioctl(folder.as_raw_fd(), XFS_GEOMETRY, geometry.as_mut_ptr()) };
            let flags = geometry[XFS_FLAGS..XFS_FLAGS + 4].try_into();
            let flags = flags.map_or(0, u32::from_ne_bytes);
            done == 0 && flags & XFS_REFLINK != 0
        }
        _ => false,
    }
}

/// Makes the first `size` bytes of `to` share the blocks of `from`, as long as they are the same; gives
/// how many do now. Fewer than `size` means that the two are not the same.
///
/// # Errors
/// `EOPNOTSUPP`: the filesystem cannot. `EXDEV`: they are on two. `EINVAL`: one has no such range.
pub fn share(from: BorrowedFd<'_>, to: BorrowedFd<'_>, size: u64) -> rustix::io::Result<u64> {
    let mut at = 0;
    while at < size {
        let mut wish = Dedupe {
            source_offset: at,
            length: (size - at).min(PIECE),
            count: 1,
            to: to.as_raw_fd().into(),
            offset: at,
            ..Dedupe::default()
        };
        // SAFETY: the request reads and writes `struct file_dedupe_range` with one
        // `file_dedupe_range_info` behind it, which this is.
        let done = unsafe { libc::ioctl(from.as_raw_fd(), FIDEDUPERANGE, &raw mut wish) };
        if done != 0 {
            return Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO));
        }
        match wish.status {
            0 if wish.done > 0 => at += wish.done,
            status if status < 0 => return Err(Errno::from_raw_os_error(-status)),
            // They differ.
            _ => break,
        }
    }
    Ok(at.min(size))
}

/// Whether two files have the same blocks, as far as their first parts tell.
///
/// # Errors
/// The filesystem cannot say.
pub fn shares(a: BorrowedFd<'_>, b: BorrowedFd<'_>) -> rustix::io::Result<bool> {
    let (a, b) = (extents(a)?, extents(b)?);
    let place = |extent: &Extent| (extent.logical, extent.physical, extent.length);
    Ok(!a.is_empty() && a.iter().map(place).eq(b.iter().map(place)))
}

fn extents(file: BorrowedFd<'_>) -> rustix::io::Result<Vec<Extent>> {
    let mut map = Map {
        start: 0,
        length: u64::MAX,
        // What is not written to disk yet has no place: it is written first.
        flags: 1,
        mapped: 0,
        count: u32::try_from(EXTENTS).unwrap_or(0),
        reserved: 0,
        extents: [Extent::default(); EXTENTS],
    };
    // SAFETY: the request reads and writes `struct fiemap` with room for as many extents as it says.
    let done = unsafe { libc::ioctl(file.as_raw_fd(), FIEMAP, &raw mut map) };
    if done != 0 {
        return Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO));
    }
    let mapped = usize::try_from(map.mapped).unwrap_or(0).min(EXTENTS);
    Ok(map.extents[..mapped].to_vec())
}
