//! Room that is set aside in a guest's filesystem in a file, for when the guest has filled it: `spare`,
//! beside `upper` and `work`, has a file of blocks that hold nothing and some empty files. The guest does
//! not see them; they are removed for as long as the host needs their room.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{self, AtFlags, FallocateFlags, Mode, OFlags};
use rustix::io::Errno;

use super::dirfd::{self, child_dir, stat_at};
use super::pool::Filesystem;
use crate::kernel::filesystem;

const NAME: &std::ffi::CStr = c"spare";
const BLOCKS: &std::ffi::CStr = c"blocks";
/// Empty files, for filesystems with so many files and no more.
pub(super) const FILES: u32 = 16;
/// All that is in the way of that many files: these, the one of blocks, and the folder.
pub(super) const IN_ALL: u32 = FILES + 2;
/// In such pieces it is taken where there is not room for all of it.
const PIECE: u64 = 64 << 10;

/// Bytes that are set aside. btrfs writes every folder on the way to a new name anew, and reckons with
/// the worst case.
fn bytes(kind: Filesystem) -> u64 {
    match kind {
        Filesystem::Btrfs => 8 << 20,
        Filesystem::Ext4 | Filesystem::Xfs => 512 << 10,
    }
}

/// Sets aside what is missing of it, as far as there is room.
pub(super) fn hold(folder: &OwnedFd, kind: Filesystem) -> io::Result<()> {
    match try_hold(folder, bytes(kind)) {
        Err(Errno::NOSPC | Errno::DQUOT) => Ok(()),
        done => Ok(done?),
    }
}

fn try_hold(folder: &OwnedFd, bytes: u64) -> rustix::io::Result<()> {
    let spare = match child_dir(folder, NAME) {
        Err(Errno::NOENT) => {
            fs::mkdirat(folder, NAME, Mode::RWXU)?;
            child_dir(folder, NAME)?
        }
        found => found?,
    };
    let mode = Mode::RUSR | Mode::WUSR;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // Last made, first asked for: where it is all are.
    if stat_at(&spare, &file_name(FILES - 1))?.is_none() {
        for number in 0..FILES {
            fs::openat(&spare, file_name(number), flags, mode)?;
        }
    }
    let blocks = fs::openat(&spare, BLOCKS, flags, mode)?;
    let held = u64::try_from(fs::fstat(&blocks)?.st_blocks).unwrap_or(0) * 512;
    if held >= bytes || grow(&blocks, 0, bytes)? {
        return Ok(());
    }
    // Piece by piece it comes as near to it as anybody's own writing would. What was freed a moment ago
    // may be had when that is on the disk.
    let mut at = 0;
    while at < bytes {
        if !grow(&blocks, at, PIECE)? {
            fs::syncfs(&spare)?;
            if !grow(&blocks, at, PIECE)? {
                break;
            }
        }
        at += PIECE;
    }
    Ok(())
}

/// Sets aside this stretch of a file; whether there was room.
fn grow(file: &OwnedFd, from: u64, length: u64) -> rustix::io::Result<bool> {
    match fs::fallocate(file, FallocateFlags::empty(), from, length) {
        Err(Errno::NOSPC | Errno::DQUOT) => Ok(false),
        done => done.map(|()| true),
    }
}

/// Gives the room to whoever comes next, if there is hardly any other.
pub(super) fn give_if_full(folder: &OwnedFd, kind: Filesystem) -> io::Result<()> {
    let space = filesystem::space(folder.as_fd()).map_err(io::Error::other)?;
    let few = space.files > 0 && space.files_free < u64::from(FILES);
    if space.free >= 2 * bytes(kind) && !few {
        return Ok(());
    }
    let spare = match child_dir(folder, NAME) {
        Err(Errno::NOENT) => return Ok(()),
        found => found?,
    };
    for name in dirfd::names(&spare)? {
        fs::unlinkat(&spare, &name, AtFlags::empty())?;
    }
    // Blocks of btrfs are free when that is on the disk.
    Ok(fs::syncfs(&spare)?)
}

fn file_name(number: u32) -> CString {
    CString::new(number.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::seed::tests::TempDir;
    use super::*;

    #[test]
    fn what_is_missing_is_set_aside_again() {
        let temp = TempDir::new("spare-files");
        let folder = dirfd::open_dir(temp.path()).unwrap();
        let spare = temp.path().join("spare");
        let held = || std::fs::read_dir(&spare).unwrap().count();
        hold(&folder, Filesystem::Ext4).unwrap();
        assert_eq!(held(), 17);
        let blocks = std::fs::metadata(spare.join("blocks")).unwrap();
        assert_eq!(blocks.len(), 512 << 10);
        std::fs::remove_file(spare.join("15")).unwrap();
        std::fs::remove_file(spare.join("blocks")).unwrap();
        hold(&folder, Filesystem::Ext4).unwrap();
        assert_eq!(held(), 17);
    }
}
