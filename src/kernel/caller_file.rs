//! Files as a thread of a guest names them, for whoever answers its calls: found with that thread's
//! rights and no more, without leaving the filesystem that is asked for, and only to be looked at. What
//! is found by a thread's number is its own only if it still waits for its answer afterwards.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, StatxFlags, openat2, statx};
use rustix::io::Errno;

use super::credentials::FileSystemStranger;

/// What statfs(2) says of an overlay.
const OVERLAY: i64 = 0x794c_7630;
const SYSFS_MAGIC: i64 = 0x6265_6572;

/// A filesystem that is mounted: the number of its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filesystem(u32, u32);

/// What the root of a process lies on.
///
/// # Errors
/// It is gone.
pub fn root_filesystem(pid: u32) -> rustix::io::Result<Filesystem> {
    Ok(look(link(pid, "root")?.as_fd())?.0)
}

/// What a path means to a thread, if that is on this filesystem and on the way to it is nothing else.
///
/// # Errors
/// `EXDEV`: it is not. Others: it is not there for that thread, or for one without its further groups
/// and capabilities. Which it is, the kernel tells that thread better than we could.
pub fn by_path(thread: u32, path: &CStr, on: Filesystem) -> rustix::io::Result<OwnedFd> {
    let bytes = path.to_bytes();
    let (from, inside, way) = match bytes.first() {
        None => return Err(Errno::NOENT),
        Some(b'/') => (link(thread, "root")?, ResolveFlags::IN_ROOT, path),
        // Above that folder is what only the thread itself may see.
        Some(_) => (link(thread, "cwd")?, ResolveFlags::BENEATH, path),
    };
    if look(from.as_fd())?.0 != on {
        return Err(Errno::XDEV);
    }
    let (user, group) = file_ids(thread).ok_or(Errno::SRCH)?;
    let how = inside | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let _stranger = FileSystemStranger::become_ids(user, group).map_err(|error| error.errno)?;
    openat2(&from, way, flags, Mode::empty(), how)
}

/// What a descriptor of a thread is of, if that is on this filesystem.
///
/// # Errors
/// As [`by_path`].
pub fn by_descriptor(thread: u32, number: u32, on: Filesystem) -> rustix::io::Result<OwnedFd> {
    let found = link(thread, &format!("fd/{number}"))?;
    let (filesystem, mount) = look(found.as_fd())?;
    // Files of an overlay can have the number of what is below it; their mount is the root's then.
    let root = look(link(thread, "root")?.as_fd())?;
    match filesystem == on || root == (on, mount) {
        true => Ok(found),
        false => Err(Errno::XDEV),
    }
}

/// The kind of file system, `proc` or `sysfs`, if this is the root of a mount of the whole of one. The
/// kernel alone is asked, and whoever serves a folder that looks like one.
#[must_use]
pub fn kernel_view(file: BorrowedFd<'_>) -> Option<&'static str> {
    const ROOT: u64 = 1;
    const FOLDER: u16 = 0o040_555;
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let told = statx(file, c"", flags, StatxFlags::BASIC_STATS).ok()?;
    let mounted = told
        .stx_attributes
        .contains(rustix::fs::StatxAttributes::MOUNT_ROOT);
    if !mounted || (told.stx_ino, told.stx_mode) != (ROOT, FOLDER) {
        return None;
    }
    match Statfs::of(file).ok()?.0.f_type {
        libc::PROC_SUPER_MAGIC => Some("proc"),
        SYSFS_MAGIC => Some("sysfs"),
        _ => None,
    }
}

/// The same of a descriptor of a thread.
#[must_use]
pub fn kernel_view_of(thread: u32, number: u32) -> Option<&'static str> {
    kernel_view(link(thread, &format!("fd/{number}")).ok()?.as_fd())
}

/// The same of a path as a thread means it, looked up as root: for a decision of which the thread
/// learns nothing. `None` where that is not to be known from here.
#[must_use]
pub fn kernel_view_at(thread: u32, path: &CStr, follow: bool) -> Option<&'static str> {
    let (from, inside) = match path.to_bytes().first()? {
        b'/' => (link(thread, "root").ok()?, ResolveFlags::IN_ROOT),
        _ => (link(thread, "cwd").ok()?, ResolveFlags::BENEATH),
    };
    let mut flags = OFlags::PATH | OFlags::CLOEXEC;
    flags.set(OFlags::NOFOLLOW, !follow);
    let how = inside | ResolveFlags::NO_MAGICLINKS;
    let file = openat2(&from, path, flags, Mode::empty(), how).ok()?;
    kernel_view(file.as_fd())
}

fn link(thread: u32, name: &str) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    rustix::fs::open(format!("/proc/{thread}/{name}"), flags, Mode::empty())
}

/// Its filesystem and the number of its mount (Linux 5.8), without asking whoever serves it.
fn look(file: BorrowedFd<'_>) -> rustix::io::Result<(Filesystem, u64)> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let told = statx(file, c"", flags, StatxFlags::MNT_ID)?;
    let filesystem = Filesystem(told.stx_dev_major, told.stx_dev_minor);
    Ok((filesystem, told.stx_mnt_id))
}

/// The user and the group that file systems see a thread as.
fn file_ids(thread: u32) -> Option<(u32, u32)> {
    let text = std::fs::read(format!("/proc/{thread}/status")).ok()?;
    let text = String::from_utf8_lossy(&text);
    let last = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key))?;
        line.split_whitespace().nth(3)?.parse().ok()
    };
    Some((last("Uid:")?, last("Gid:")?))
}

/// What statfs(2) tells of a filesystem on a machine of 64 bits.
#[derive(Clone, Copy)]
pub struct Statfs(libc::statfs);

impl Statfs {
    /// What the kernel tells of the one that a file is on.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn of(file: BorrowedFd<'_>) -> rustix::io::Result<Self> {
        // SAFETY: plain old data for which all zeroes is valid.
        let mut told: libc::statfs = unsafe { std::mem::zeroed() };
        // SAFETY: the call writes one `statfs`, which outlives it.
        match unsafe { libc::fstatfs(file.as_raw_fd(), &raw mut told) } {
            0 => Ok(Self(told)),
            _ => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)),
        }
    }

    /// Whether that is an overlay.
    #[must_use]
    pub fn is_overlay(&self) -> bool {
        self.0.f_type == OVERLAY
    }

    /// The same, with so many bytes in all and so many of them in use. There is no more to be had than
    /// before.
    #[must_use]
    pub fn sized(self, size: u64, used: u64) -> Self {
        let Self(mut told) = self;
        let block = u64::try_from(told.f_bsize).unwrap_or(0).max(1);
        told.f_blocks = size / block;
        told.f_bfree = size.saturating_sub(used) / block;
        told.f_bavail = told.f_bavail.min(told.f_bfree);
        Self(told)
    }

    /// As it lies in memory here.
    fn bytes(&self) -> &[u8] {
        let length = std::mem::size_of::<libc::statfs>();
        // SAFETY: it lives as long as `self`, was zeroed as a whole and has no room between its fields.
        unsafe { std::slice::from_raw_parts((&raw const self.0).cast(), length) }
    }
}

/// How a program wants to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `struct statfs` of a machine of 64 bits.
    Native,
    /// That of a program of 32 bits (`struct compat_statfs`), as statfs(2) tells it.
    Short,
    /// What statfs64(2) tells such a program (`struct compat_statfs64`), without room between its fields.
    Long,
}

impl Form {
    /// Its size: what statfs64(2) must be called with.
    #[must_use]
    pub fn size(self) -> usize {
        match self {
            Self::Native => std::mem::size_of::<libc::statfs>(),
            Self::Short => 64,
            Self::Long => 84,
        }
    }
}

impl Statfs {
    /// As it lies in the memory of a program.
    ///
    /// # Errors
    /// `EOVERFLOW`: a number does not fit into one of 32 bits, as the kernel has it.
    pub fn as_bytes(&self, form: Form) -> rustix::io::Result<Vec<u8>> {
        if form == Form::Native {
            return Ok(self.bytes().to_vec());
        }
        let word = |at: usize| -> u64 {
            let bytes = self.bytes().get(at * 8..at * 8 + 8);
            bytes.map_or(0, |b| u64::from_ne_bytes(b.try_into().unwrap_or_default()))
        };
        let [
            kind,
            block,
            all,
            free,
            left,
            files,
            files_free,
            id,
            name,
            piece,
            flags,
        ] = std::array::from_fn(word);
        let narrow = |n: u64| u32::try_from(n).map_err(|_| Errno::OVERFLOW);
        // As many as there can be is told as such.
        let count = |n: u64| {
            if n == u64::MAX {
                Ok(u32::MAX)
            } else {
                narrow(n)
            }
        };
        let mut bytes = Vec::with_capacity(form.size());
        // The kind and the flags have no more bits than that.
        bytes.extend(((kind & 0xffff_ffff) as u32).to_ne_bytes());
        bytes.extend(narrow(block)?.to_ne_bytes());
        if form == Form::Short {
            for n in [narrow(all)?, narrow(free)?, narrow(left)?] {
                bytes.extend(n.to_ne_bytes());
            }
            for n in [count(files)?, count(files_free)?] {
                bytes.extend(n.to_ne_bytes());
            }
        } else {
            for n in [all, free, left, files, files_free] {
                bytes.extend(n.to_ne_bytes());
            }
        }
        bytes.extend(id.to_ne_bytes());
        bytes.extend(narrow(name)?.to_ne_bytes());
        bytes.extend(narrow(piece)?.to_ne_bytes());
        bytes.extend(((flags & 0xffff_ffff) as u32).to_ne_bytes());
        bytes.resize(form.size(), 0);
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_of_32_bits_are_told_in_their_own_form() {
        let root = link(std::process::id(), "root").unwrap();
        let told = Statfs::of(root.as_fd()).unwrap();
        let block = u64::try_from(told.0.f_bsize).unwrap();
        let small = told.sized(1000 * block, 300 * block);
        let long = small.as_bytes(Form::Long).unwrap();
        let short = small.as_bytes(Form::Short).unwrap();
        assert_eq!((long.len(), short.len()), (84, 64));
        let wide = |at: usize| u64::from_ne_bytes(long[at..at + 8].try_into().unwrap());
        let narrow = |of: &[u8], at: usize| u32::from_ne_bytes(of[at..at + 4].try_into().unwrap());
        assert_eq!((wide(8), wide(16)), (1000, 700));
        assert_eq!((narrow(&short, 8), narrow(&short, 12)), (1000, 700));
        // The number of the filesystem, and after it the longest name.
        assert_eq!(long[48..56], short[28..36]);
        assert_eq!([narrow(&long, 56), narrow(&short, 36)], [255; 2]);
        assert_eq!(narrow(&long, 4), u32::try_from(block).unwrap());
        // What has more blocks than that is too large for the old call only.
        let large = told.sized((1 << 33) * block, 0);
        assert_eq!(large.as_bytes(Form::Short), Err(Errno::OVERFLOW));
        assert!(large.as_bytes(Form::Long).is_ok());
    }

    #[test]
    fn a_size_is_told_and_no_more_room_than_there_is() {
        let root = link(std::process::id(), "root").unwrap();
        let told = Statfs::of(root.as_fd()).unwrap();
        let block = u64::try_from(told.0.f_bsize).unwrap();
        let small = told.sized(100 * block, 30 * block);
        assert_eq!((small.0.f_blocks, small.0.f_bfree), (100, 70));
        assert!(small.0.f_bavail <= told.0.f_bavail.min(70));
        let over = told.sized(100 * block, 130 * block);
        assert_eq!((over.0.f_bfree, over.0.f_bavail), (0, 0));
        assert_eq!(small.bytes()[..8], told.bytes()[..8]);
    }

    #[test]
    fn mounts_of_the_kernels_views_are_known() {
        let ours = std::process::id();
        assert_eq!(kernel_view_at(ours, c"/proc", true), Some("proc"));
        assert_eq!(kernel_view_at(ours, c"/sys", true), Some("sysfs"));
        for other in [c"/", c"/proc/self", c"/proc/sys", c"/proc/self/root", c"."] {
            assert_eq!(kernel_view_at(ours, other, true), None, "{other:?}");
        }
        let proc = std::fs::File::open("/proc").unwrap();
        let number = u32::try_from(proc.as_raw_fd()).unwrap();
        assert_eq!(kernel_view_of(ours, number), Some("proc"));
        assert_eq!(kernel_view_of(ours, u32::MAX), None);
    }

    #[test]
    fn nothing_is_found_beyond_a_mount_or_as_root() {
        let ours = std::process::id();
        let on = root_filesystem(ours).unwrap();
        let proc = by_path(ours, c"/proc/self/status", on);
        // Whose tests run as root is refused for that.
        assert!(matches!(proc, Err(Errno::XDEV | Errno::PERM)), "{proc:?}");
        assert!(by_path(ours, c"", on).is_err());
        let elsewhere = Filesystem(u32::MAX, 0);
        assert_eq!(by_path(ours, c"/", elsewhere).unwrap_err(), Errno::XDEV);
        assert!(by_descriptor(ours, u32::MAX, on).is_err());
    }
}
