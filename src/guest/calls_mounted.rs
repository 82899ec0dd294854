//! Done in the place of a container of a guest: its procfs or sysfs mounted, the guest's files laid over
//! the kernel's in it, and these taken off again. All here but what says `as we` runs with the rights of
//! whoever mounts, in its namespaces; `calls_mount` is who asks for it.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, StatxAttributes, StatxFlags};
use rustix::mount::UnmountFlags;

use crate::kernel::Errno;
use crate::kernel::caller_file::Statfs;
use crate::kernel::mount::{self as mounts, Attr};
use crate::model::InsideFile;

/// What statfs(2) says of a procfs and of a sysfs.
const PROC: i64 = 0x9fa0;
const SYSFS: i64 = 0x6265_6572;
/// The number of the root of either.
const ROOT: u64 = 1;
/// A folder that both have, in which a whole copy lies.
const CUPBOARD: &str = "fs";

/// What is to be mounted.
pub(super) enum Source {
    New {
        kind: &'static str,
        options: Vec<(String, String)>,
        attributes: Attr,
    },
    /// One that the caller has made, attached nowhere.
    Open { kind: &'static str, mount: OwnedFd },
}

/// Where.
pub(super) enum Place {
    Open(OwnedFd),
    Path {
        folder: Option<OwnedFd>,
        path: CString,
        follow: bool,
    },
}

/// A file of the guest's, attached nowhere, and the kernel's that it is for, below the root of its
/// filesystem.
pub(super) struct Cover {
    tree: OwnedFd,
    below: &'static str,
}

/// A file of the guest's: where it lies below which root, and which it is.
pub(super) struct Laid {
    kind: i64,
    below: &'static str,
    file: (u64, u64),
}

/// The files of a filesystem of this kind, by their places in it.
fn files_of(kind: &str) -> impl Iterator<Item = (InsideFile, &'static str)> {
    let root = if kind == "proc" { "/proc/" } else { "/sys/" };
    let files = InsideFile::ALL.into_iter();
    files.filter_map(move |file| Some((file, file.target().strip_prefix(root)?)))
}

fn kind_of(file: BorrowedFd<'_>) -> Option<&'static str> {
    match Statfs::of(file).ok()?.kind() {
        PROC => Some("proc"),
        SYSFS => Some("sysfs"),
        _ => None,
    }
}

fn is_root(file: BorrowedFd<'_>) -> bool {
    rustix::fs::fstat(file).is_ok_and(|told| told.st_ino == ROOT)
}

impl Source {
    /// `None` when it is no whole procfs or sysfs.
    pub(super) fn open(mount: OwnedFd) -> Option<Self> {
        let kind = kind_of(mount.as_fd())?;
        is_root(mount.as_fd()).then_some(Self::Open { kind, mount })
    }

    pub(super) fn kept(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let mount = match self {
            Self::Open { mount, .. } => Some(mount.as_fd()),
            Self::New { .. } => None,
        };
        mount.into_iter()
    }

    /// As we: the guest's files out of their folder, to be read and nothing else.
    pub(super) fn covers(&self, folder: &Path) -> Vec<Cover> {
        let (Self::New { kind, .. } | Self::Open { kind, .. }) = self;
        let plain = Attr::MOUNT_ATTR_RDONLY
            | Attr::MOUNT_ATTR_NOSUID
            | Attr::MOUNT_ATTR_NODEV
            | Attr::MOUNT_ATTR_NOEXEC;
        let cover = |(file, below): (InsideFile, &'static str)| {
            let tree = mounts::clone_tree(&folder.join(file.name()), false).ok()?;
            mounts::set_attr(tree.as_fd(), plain, Attr::empty(), false, None, below).ok()?;
            Some(Cover { tree, below })
        };
        files_of(kind).filter_map(cover).collect()
    }

    /// As we: which files these are.
    pub(super) fn own(folder: &Path) -> Vec<Laid> {
        let laid = |kind, number| {
            files_of(kind).filter_map(move |(file, below)| {
                let told = rustix::fs::lstat(folder.join(file.name())).ok()?;
                Some(Laid {
                    kind: number,
                    below,
                    file: (told.st_dev, told.st_ino),
                })
            })
        };
        laid("proc", PROC).chain(laid("sysfs", SYSFS)).collect()
    }
}

impl Place {
    pub(super) fn kept(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let fd = match self {
            Self::Open(fd) => Some(fd),
            Self::Path { folder, .. } => folder.as_ref(),
        };
        fd.map(AsFd::as_fd).into_iter()
    }
}

fn find(folder: BorrowedFd<'_>, path: &CStr, follow: bool) -> rustix::io::Result<OwnedFd> {
    let link = if follow {
        OFlags::empty()
    } else {
        OFlags::NOFOLLOW
    };
    rustix::fs::openat(
        folder,
        path,
        OFlags::PATH | OFlags::CLOEXEC | link,
        Mode::empty(),
    )
}

/// Mounts it and returns its root. The place is found once, so that nobody can change it on the way.
pub(super) fn mount(source: &Source, place: &Place) -> rustix::io::Result<OwnedFd> {
    let found;
    let at = match place {
        Place::Open(fd) => fd.as_fd(),
        Place::Path {
            folder,
            path,
            follow,
        } => {
            let folder = folder.as_ref().map_or(rustix::fs::CWD, AsFd::as_fd);
            found = find(folder, path, *follow)?;
            found.as_fd()
        }
    };
    let tree = match source {
        Source::New {
            kind,
            options,
            attributes,
        } => {
            let options: Vec<_> = options
                .iter()
                .map(|(key, value)| (key.as_str(), value.as_str()))
                .collect();
            let new = mounts::new_filesystem(kind, &options, *attributes);
            let new = new.map_err(|error| error.errno)?;
            // As mount(2) has it.
            if is_mounted_at(new.as_fd(), at) {
                return Err(Errno::BUSY);
            }
            let told = rustix::fs::fstat(at)?;
            if FileType::from_raw_mode(told.st_mode) != FileType::Directory {
                return Err(Errno::NOTDIR);
            }
            new
        }
        Source::Open { mount, .. } => rustix::io::fcntl_dupfd_cloexec(mount, 3)?,
    };
    mounts::attach(tree.as_fd(), at, "the place").map_err(|error| error.errno)?;
    Ok(tree)
}

/// Whether the same filesystem is mounted there.
fn is_mounted_at(new: BorrowedFd<'_>, place: BorrowedFd<'_>) -> bool {
    let look = |file| {
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        rustix::fs::statx(file, c"", flags, StatxFlags::BASIC_STATS)
    };
    let (Ok(new), Ok(there)) = (look(new), look(place)) else {
        return false;
    };
    (new.stx_dev_major, new.stx_dev_minor, new.stx_ino)
        == (there.stx_dev_major, there.stx_dev_minor, there.stx_ino)
        && there.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)
}

/// Lays the guest's files over the kernel's: in a copy of the mount, which covers it and a second, whole
/// copy. Without one on which nothing lies the kernel lets no user namespace in that container mount
/// another. What is not there (`subset=pid`) is left out.
pub(super) fn lay(covers: &[Cover], mount: BorrowedFd<'_>) {
    let there = |cover: &&Cover| below(mount, cover.below).is_ok();
    let covers: Vec<&Cover> = covers.iter().filter(there).collect();
    if covers.is_empty() {
        return;
    }
    // Whatever fails, the kernel's own files are what there is.
    let copy_on = |place: BorrowedFd<'_>| {
        let copy = mounts::clone_tree_fd(mount, false, "the mount")?;
        mounts::attach(copy.as_fd(), place, "it").map(|()| copy)
    };
    if let Ok(cupboard) = below(mount, CUPBOARD) {
        let _no_deeper_containers = copy_on(cupboard.as_fd());
    }
    let Ok(top) = copy_on(mount) else { return };
    for cover in covers {
        if let Ok(at) = below(top.as_fd(), cover.below) {
            let _uncovered = mounts::attach(cover.tree.as_fd(), at.as_fd(), cover.below);
        }
    }
}

fn below(root: BorrowedFd<'_>, path: &str) -> rustix::io::Result<OwnedFd> {
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat2(root, path, flags, Mode::empty(), how)
}

/// Unmounts what is mounted there together with the guest's files, if they lie on it.
pub(super) fn take_off(
    own: &[Laid],
    target: &CStr,
    flags: UnmountFlags,
) -> Option<rustix::io::Result<()>> {
    let link = flags & UnmountFlags::NOFOLLOW;
    let find = || find(rustix::fs::CWD, target, link.is_empty()).ok();
    let top = find()?;
    let kind = Statfs::of(top.as_fd()).ok()?.kind();
    if !is_root(top.as_fd()) {
        return None;
    }
    let at = |below: &str| [target.to_bytes(), b"/", below.as_bytes()].concat();
    let mut taken = false;
    for laid in own.iter().filter(|laid| laid.kind == kind) {
        let told = below(top.as_fd(), laid.below).and_then(rustix::fs::fstat);
        if told.is_ok_and(|told| (told.st_dev, told.st_ino) == laid.file) {
            let done = rustix::mount::unmount(at(laid.below), UnmountFlags::NOFOLLOW);
            // What stays keeps the whole from being unmounted, and the caller hears of that.
            taken |= done.is_ok();
        }
    }
    drop(top);
    if !taken {
        return None;
    }
    if let Err(errno) = rustix::mount::unmount(target, flags) {
        return Some(Err(errno));
    }
    // Under the copy lies the mount itself, and in it the whole copy.
    let cupboard = find().and_then(|mount| below(mount.as_fd(), CUPBOARD).ok());
    if cupboard.is_some_and(|cupboard| is_root(cupboard.as_fd())) {
        let _in_use = rustix::mount::unmount(at(CUPBOARD), UnmountFlags::NOFOLLOW);
    }
    Some(rustix::mount::unmount(target, flags))
}
