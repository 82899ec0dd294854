//! Loop devices: a file as a block device (loop(4)). One file never gets two of them, since two page
//! caches over one filesystem destroy it; each frees itself when its last user is gone.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::error::{KernelError, Result};

const LOOP_SET_CAPACITY: libc::Ioctl = 0x4C07;
const LOOP_GET_STATUS64: libc::Ioctl = 0x4C05;
const LOOP_CONFIGURE: libc::Ioctl = 0x4C0A;
const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4C82;

const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;
const LO_FLAGS_DIRECT_IO: u32 = 16;

/// `struct loop_info64` of linux/loop.h.
#[repr(C)]
#[derive(Clone, Copy)]
struct LoopInfo {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config` of linux/loop.h.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

const NO_INFO: LoopInfo = LoopInfo {
    device: 0,
    inode: 0,
    rdevice: 0,
    offset: 0,
    size_limit: 0,
    number: 0,
    encrypt_type: 0,
    encrypt_key_size: 0,
    flags: 0,
    file_name: [0; 64],
    crypt_name: [0; 64],
    encrypt_key: [0; 32],
    init: [0; 2],
};

/// A file that is a block device as long as this, or a mount of it, lives.
#[derive(Debug)]
pub struct LoopDevice {
    fd: OwnedFd,
    /// Its node, such as `/dev/loop3`.
    pub path: PathBuf,
}

impl LoopDevice {
    /// The device of `file`: the one it has already, or a new one. The caller holds a lock that
    /// keeps others from doing the same with this file.
    ///
    /// # Errors
    /// There is no loop driver, or no free device; the file cannot be used.
    pub fn of(file: BorrowedFd<'_>, shown: &Path) -> Result<Self> {
        match Self::existing(file, shown)? {
            Some(device) => Ok(device),
            None => {
                let flags = LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO;
                Self::new(file, shown, LoopInfo { flags, ..NO_INFO })
            }
        }
    }

    /// A device of `length` bytes of `file` from `offset` on, which nobody can write to. Any number of
    /// these may be there beside one another, but none beside one that is written to.
    ///
    /// # Errors
    /// As [`LoopDevice::of`].
    pub fn read_only(file: BorrowedFd<'_>, shown: &Path, offset: u64, length: u64) -> Result<Self> {
        let info = LoopInfo {
            flags: LO_FLAGS_AUTOCLEAR | LO_FLAGS_READ_ONLY,
            offset,
            size_limit: length,
            ..NO_INFO
        };
        Self::new(file, shown, info)
    }

    /// The device that `file` has already.
    ///
    /// # Errors
    /// The file cannot be looked at.
    pub fn existing(file: BorrowedFd<'_>, shown: &Path) -> Result<Option<Self>> {
        let name = shown.file_name().unwrap_or_default();
        let stat = rustix::fs::fstat(file).map_err(KernelError::on("look at", shown.display()))?;
        let Ok(devices) = std::fs::read_dir("/sys/block") else {
            return Ok(None);
        };
        for device in devices.flatten() {
            // The kernel shows the path that was given; which file it is, is asked below.
            let backing = device.path().join("loop/backing_file");
            let same_name = std::fs::read_to_string(backing).is_ok_and(|path| {
                let path = path.trim_end_matches('\n').trim_end_matches(" (deleted)");
                Path::new(path).file_name() == Some(name)
            });
            let path = Path::new("/dev").join(device.file_name());
            if !same_name {
                continue;
            }
            // It may have been freed meanwhile.
            let Ok(found) = open(&path) else { continue };
            if status(&found)
                .is_ok_and(|info| info.inode == stat.st_ino && info.device == encoded(stat.st_dev))
            {
                return Ok(Some(Self { fd: found, path }));
            }
        }
        Ok(None)
    }

    fn new(file: BorrowedFd<'_>, shown: &Path, info: LoopInfo) -> Result<Self> {
        let control = Path::new("/dev/loop-control");
        let control_fd = open(control).map_err(|error| {
            error.because("the kernel has no loop devices: load the module `loop`")
        })?;
        let config = LoopConfig {
            fd: u32::try_from(file.as_raw_fd()).unwrap_or(u32::MAX),
            block_size: 0,
            info,
            reserved: [0; 8],
        };
        loop {
            // SAFETY: LOOP_CTL_GET_FREE takes no argument.
            let number = unsafe { libc::ioctl(control_fd.as_raw_fd(), LOOP_CTL_GET_FREE) };
            if number < 0 {
                return Err(KernelError::last(
                    "get a free loop device from",
                    control.display(),
                ));
            }
            let path = PathBuf::from(format!("/dev/loop{number}"));
            let fd = open(&path)?;
            // SAFETY: the structure is the kernel's and lives over the call.
            let done = unsafe { libc::ioctl(fd.as_raw_fd(), LOOP_CONFIGURE, &raw const config) };
            if done == 0 {
                return Ok(Self { fd, path });
            }
            let error = KernelError::last("make a block device of", shown.display());
            // Somebody else was quicker with this one.
            if error.errno != Errno::BUSY {
                return Err(error);
            }
        }
    }

    /// Has the device learn that its file has another size.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn follow_size(&self) -> Result<()> {
        // SAFETY: LOOP_SET_CAPACITY takes no argument.
        if unsafe { libc::ioctl(self.fd.as_raw_fd(), LOOP_SET_CAPACITY, 0) } == 0 {
            Ok(())
        } else {
            Err(KernelError::last("resize", self.path.display()))
        }
    }
}

impl AsFd for LoopDevice {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn open(path: &Path) -> Result<OwnedFd> {
    rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(KernelError::on("open", path.display()))
}

fn status(device: &OwnedFd) -> Result<LoopInfo> {
    let mut info = NO_INFO;
    // SAFETY: the kernel writes one `loop_info64`, which `info` is.
    let done = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_GET_STATUS64, &raw mut info) };
    if done == 0 {
        Ok(info)
    } else {
        Err(KernelError::last("look at", "a loop device"))
    }
}

/// A device number as loop(4) tells it (`huge_encode_dev`).
fn encoded(device: u64) -> u64 {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let (major, minor) = (u64::from(major), u64::from(minor));
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}
