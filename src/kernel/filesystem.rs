//! Filesystems in files: mounting one without attaching it anywhere, its size, growing it while it is
//! in use.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FileType, FlockOperation, Mode, OFlags, StatVfs, flock};

use super::btrfs;
use super::error::{KernelError, Result};
use super::fault;
use super::loop_device::LoopDevice;
use super::mount::{self, Attr};
use crate::kernel::Errno;

const EXT4_IOC_RESIZE_FS: libc::Ioctl = 0x4008_6610;
const XFS_IOC_FSGROWFSDATA: libc::Ioctl = 0x4010_586e;
const FIFREEZE: libc::Ioctl = 0xC004_5877;
const FITHAW: libc::Ioctl = 0xC004_5878;

/// Freezes or thaws the filesystem that a folder is in; whether that was done.
fn freezes(root: &OwnedFd, request: libc::Ioctl) -> bool {
    // SAFETY: neither request reads what it is handed.
    unsafe { libc::ioctl(root.as_raw_fd(), request, 0) == 0 }
}

/// How often, and how long after it was asked, is looked whether btrfs gave empty chunks back.
const CLEAN_LOOKS: u32 = 10;
const CLEANED: Duration = Duration::from_millis(100);

/// A filesystem in a file, mounted but attached nowhere: it is gone with this unless a mount
/// namespace holds it.
#[derive(Debug)]
pub struct Disk {
    /// Its top folder, a detached mount.
    pub mount: OwnedFd,
    device: LoopDevice,
    file: OwnedFd,
    kind: String,
}

/// A filesystem of a stranger's in a part of a file, which may be looked at and no more: mounted but
/// attached nowhere, so that no path leads into it and nothing is left of it when this is gone.
#[derive(Debug)]
pub struct Foreign {
    /// Its top folder, a detached mount.
    pub mount: OwnedFd,
    _device: LoopDevice,
}

impl Foreign {
    /// Mounts `length` bytes of `file` from `offset` on. Nothing is written, not even a journal
    /// replayed; no device, program or set-id bit in it counts.
    ///
    /// # Errors
    /// There is no loop device, or the kernel refuses what is there.
    pub fn open(
        file: BorrowedFd<'_>,
        shown: &Path,
        kind: &str,
        (offset, length): (u64, u64),
    ) -> Result<Self> {
        let device = LoopDevice::read_only(file, shown, offset, length)?;
        let source = device.path.display().to_string();
        let mut options = vec![("source", source.as_str()), ("ro", "")];
        options.extend(match kind {
            // Not what its superblock says, which may be to panic.
            "ext4" => &[("noload", ""), ("errors", "continue")][..],
            "xfs" => &[("norecovery", ""), ("nouuid", "")],
            "btrfs" => &[("rescue", "nologreplay")],
            _ => &[],
        });
        let attr = Attr::MOUNT_ATTR_RDONLY
            | Attr::MOUNT_ATTR_NOSUID
            | Attr::MOUNT_ATTR_NODEV
            | Attr::MOUNT_ATTR_NOEXEC
            | Attr::MOUNT_ATTR_NOATIME;
        let mount = mount::new_filesystem(kind, &options, attr)?;
        Ok(Self {
            mount,
            _device: device,
        })
    }
}

/// What a filesystem says about its size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// Bytes in all, as df(1) shows them.
    pub size: u64,
    /// Bytes still free.
    pub free: u64,
    /// Files there may be in all; 0 where there is no such limit.
    pub files: u64,
    /// Files there may still be.
    pub files_free: u64,
}

impl Disk {
    /// Mounts the filesystem in `file`. A lock of the caller's keeps others from doing the same.
    ///
    /// # Errors
    /// It is no regular file, there is no loop device, or no filesystem of this kind is in it.
    pub fn open(file: &Path, kind: &str) -> Result<Self> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let fd = rustix::fs::open(file, flags, Mode::empty())
            .map_err(KernelError::on("open", file.display()))?;
        let stat = rustix::fs::fstat(&fd).map_err(KernelError::on("look at", file.display()))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(KernelError::new("mount", file.display(), Errno::INVAL)
                .because("it is no regular file"));
        }
        let device = LoopDevice::of(fd.as_fd(), file)?;
        let source = device.path.display().to_string();
        let mut options = vec![("source", source.as_str())];
        match kind {
            // Freed blocks go back to the host at once.
            "ext4" | "btrfs" | "xfs" => options.push(("discard", "")),
            _ => {}
        }
        // Two snapshots of one filesystem may be mounted side by side.
        if kind == "xfs" {
            options.push(("nouuid", ""));
        }
        let attr = Attr::MOUNT_ATTR_NODEV | Attr::MOUNT_ATTR_NOATIME;
        let mount = mount::new_filesystem(kind, &options, attr)?;
        let disk = Self {
            mount,
            device,
            file: fd,
            kind: kind.to_owned(),
        };
        disk.thaw_abandoned();
        Ok(disk)
    }

    /// Its size and what is free.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn space(&self) -> Result<Space> {
        space(self.mount.as_fd())
    }

    /// Makes the file larger and the filesystem with it, until df(1) shows `size` bytes. It may be
    /// in use.
    ///
    /// # Errors
    /// The host's disk or the filesystem refuses.
    pub fn grow_to(&self, size: u64) -> Result<()> {
        for _ in 0..4 {
            let shown = self.space()?.size;
            if shown >= size {
                return Ok(());
            }
            // The file may be longer than its filesystem, if a command died that made both smaller.
            let now = match self.kind.as_str() {
                "btrfs" => btrfs::device_bytes(self.root()?.as_fd())?,
                _ => self.length()?,
            };
            // A filesystem grows by whole blocks.
            let wanted = (now + (size - shown)).next_multiple_of(4096);
            rustix::fs::ftruncate(&self.file, wanted)
                .map_err(KernelError::on("enlarge", self.device.path.display()))?;
            let grown = self
                .device
                .follow_size()
                .and_then(|()| self.fill_device(wanted));
            if let Err(error) = grown {
                // As it was; the error that matters is the one above.
                let _same = rustix::fs::ftruncate(&self.file, now);
                let _same = self.device.follow_size();
                return Err(error);
            }
        }
        Ok(())
    }

    /// Makes a btrfs smaller and the file with it, until df(1) shows no more than a little above `size`
    /// bytes, and no less. It may be in use; killed in between, the file is larger than it needs to be.
    ///
    /// # Errors
    /// What it holds does not fit, or it is no btrfs.
    pub fn shrink_to(&self, size: u64) -> Result<()> {
        let root = self.root()?;
        for _ in 0..4 {
            let shown = self.space()?.size;
            let length = btrfs::device_bytes(root.as_fd())?;
            let more = shown.saturating_sub(size);
            // What it keeps in reserve changes with what it holds.
            if more > size / 500 {
                let wanted = length.saturating_sub(more).next_multiple_of(4096);
                btrfs::shrink(root.as_fd(), wanted)?;
            } else if self.length()? == length {
                break;
            }
            fault::point()?;
            let length = btrfs::device_bytes(root.as_fd())?;
            rustix::fs::ftruncate(&self.file, length)
                .map_err(KernelError::on("shorten", self.device.path.display()))?;
            fault::point()?;
            self.device.follow_size()?;
        }
        Ok(())
    }

    /// Gives a btrfs whole chunks back that what was removed has left empty, which takes a moment.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn clean(&self) -> Result<()> {
        let root = self.root()?;
        let before = btrfs::bytes_in_chunks(root.as_fd())?;
        for _ in 0..CLEAN_LOOKS {
            btrfs::sync_and_clean(root.as_fd())?;
            std::thread::sleep(CLEANED);
            if btrfs::bytes_in_chunks(root.as_fd())? < before {
                break;
            }
        }
        Ok(())
    }

    /// Gives a btrfs whole chunks back that are half empty, by moving what is in them, which can take hours.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn compact(&self) -> Result<()> {
        btrfs::compact(self.root()?.as_fd())
    }

    /// Bytes that it holds. What it can still give is no measure: btrfs says none where it has no room
    /// for its own records.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn held(&self) -> Result<u64> {
        let stat = rustix::fs::fstatvfs(&self.mount)
            .map_err(KernelError::on("look at", "the filesystem"))?;
        Ok(stat.f_blocks.saturating_sub(stat.f_bfree) * stat.f_frsize)
    }

    /// Bytes of its file.
    fn length(&self) -> Result<u64> {
        let stat = rustix::fs::fstat(&self.file).map_err(KernelError::on("look at", "the file"))?;
        Ok(u64::try_from(stat.st_size).unwrap_or(0))
    }

    /// Does something with its file while nothing is written to it: everything is on the disk and
    /// writers wait (ioctl_fs(2), FIFREEZE). Its file is locked as long, so that who opens it after this
    /// process was killed knows that nobody is at it any more.
    ///
    /// # Errors
    /// It cannot be frozen.
    pub fn frozen<T>(&self, act: impl FnOnce(BorrowedFd<'_>) -> T) -> Result<T> {
        let root = self.root()?;
        let failed = || KernelError::last("freeze", self.device.path.display());
        // Where somebody has it already, us included, that keeps others from thawing it.
        let _held = self.locked(FlockOperation::NonBlockingLockExclusive);
        if !freezes(&root, FIFREEZE) {
            return Err(failed());
        }
        let done = fault::point().map(|()| act(self.file.as_fd()));
        let error = (!freezes(&root, FITHAW)).then(failed);
        error.map_or(done, Err)
    }

    /// Lets writers go on where whoever froze it was killed: the kernel never does.
    fn thaw_abandoned(&self) {
        let Ok(_held) = self.locked(FlockOperation::NonBlockingLockExclusive) else {
            return;
        };
        if let Ok(root) = self.root() {
            // Usually it is not frozen.
            let _frozen = freezes(&root, FITHAW);
        }
    }

    /// A lock of its file that goes with the descriptor. It is opened anew: what `file` is open as the
    /// loop device keeps open too, and would keep locked when this process is gone.
    fn locked(&self, how: FlockOperation) -> Result<OwnedFd> {
        let failed = KernelError::on("lock", self.device.path.display());
        let again = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let lock = || {
            let file = rustix::fs::open(&*again, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
            rustix::io::retry_on_intr(|| flock(&file, how))?;
            Ok(file)
        };
        lock().map_err(failed)
    }

    fn root(&self) -> Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat(&self.mount, ".", flags, Mode::empty())
            .map_err(KernelError::on("open", "the filesystem"))
    }

    /// Has the filesystem use all of its device.
    fn fill_device(&self, size: u64) -> Result<()> {
        let root = self.root()?;
        let stat =
            rustix::fs::fstatvfs(&root).map_err(KernelError::on("look at", "the filesystem"))?;
        let blocks = size / stat.f_bsize.max(1);
        // SAFETY: each call reads the one structure that it is handed.
        let done = unsafe {
            match self.kind.as_str() {
                "ext4" => libc::ioctl(root.as_raw_fd(), EXT4_IOC_RESIZE_FS, &raw const blocks),
                "xfs" => {
                    // `struct xfs_growfs_data`: new size in blocks, most percent of inodes (25 is
                    // what mkfs.xfs writes below 1 TB).
                    let grow: [u64; 2] = [blocks, 25];
                    libc::ioctl(root.as_raw_fd(), XFS_IOC_FSGROWFSDATA, grow.as_ptr())
                }
                _ => return btrfs::fill_device(root.as_fd()),
            }
        };
        if done == 0 {
            Ok(())
        } else {
            let error = KernelError::last("grow the filesystem on", self.device.path.display());
            Err(if error.errno == Errno::PERM && self.kind == "ext4" {
                error.because(
                    "ext4 in use grows only for who has CAP_SYS_RESOURCE: stop the guest first",
                )
            } else {
                error
            })
        }
    }
}

/// Size and free room of the filesystem that `folder` lies in.
///
/// # Errors
/// The kernel refuses.
pub fn space(folder: BorrowedFd<'_>) -> Result<Space> {
    let stat: StatVfs =
        rustix::fs::fstatvfs(folder).map_err(KernelError::on("look at", "the filesystem"))?;
    Ok(Space {
        size: stat.f_blocks * stat.f_frsize,
        free: stat.f_bavail * stat.f_frsize,
        files: stat.f_files,
        files_free: stat.f_ffree,
    })
}
