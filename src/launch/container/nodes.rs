//! Device nodes and links in a container's /dev, made inside its root. A node that an image has
//! brought along is believed only if it is the device it should be (CVE-2025-31133).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};

use super::super::init::Init;
use super::inside::Cause;
use crate::kernel::mount;
use crate::kernel::tree::{self, Point};
use crate::kernel::{Errno, KernelError};
use crate::model::MountFlags;
use crate::plan::container::step::DeviceNode;

/// Makes all of them.
pub(super) fn make(init: &mut Init<'_>, nodes: &[DeviceNode]) -> Result<(), Cause> {
    let before = rustix::process::umask(Mode::empty());
    let mut folder: Option<(PathBuf, OwnedFd)> = None;
    let mut make_all = || -> Result<(), Cause> {
        for node in nodes {
            if let Some(number) = node.tree {
                shown(init, node, number)?;
                continue;
            }
            let parent = node.path.parent().unwrap_or(Path::new("/"));
            let open = match folder.take() {
                Some((path, open)) if path == parent => open,
                _ => tree::mount_point(init.root()?, parent, Point::Directory)?,
            };
            made(open.as_fd(), node)?;
            folder = Some((parent.to_owned(), open));
        }
        Ok(())
    };
    let done = make_all();
    rustix::process::umask(before);
    done
}

/// A node of the container's own.
fn made(folder: BorrowedFd<'_>, node: &DeviceNode) -> Result<(), Cause> {
    let failed = |errno| KernelError::new("make the device node", node.path.display(), errno);
    let name = node.path.file_name().ok_or_else(|| failed(Errno::INVAL))?;
    let kind = match node.kind {
        'b' => FileType::BlockDevice,
        'p' => FileType::Fifo,
        _ => FileType::CharacterDevice,
    };
    let device = rustix::fs::makedev(node.major, node.minor);
    let mode = Mode::from_raw_mode(node.mode);
    match rustix::fs::mknodat(folder, name, kind, mode, device) {
        Ok(()) => {}
        Err(Errno::EXIST) => {
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            let stat = rustix::fs::statat(folder, name, flags).map_err(failed)?;
            let same = FileType::from_raw_mode(stat.st_mode) == kind
                && (kind == FileType::Fifo || stat.st_rdev == device);
            if !same {
                let why = "something else is there already";
                return Err(failed(Errno::EXIST).because(why).into());
            }
        }
        Err(errno) => return Err(failed(errno).into()),
    }
    if (node.uid, node.gid) != (0, 0) {
        let (uid, gid) = (Uid::from_raw(node.uid), Gid::from_raw(node.gid));
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::chownat(folder, name, Some(uid), Some(gid), flags).map_err(failed)?;
    }
    Ok(())
}

/// The host's own node, where none can be made.
fn shown(init: &mut Init<'_>, node: &DeviceNode, number: usize) -> Result<(), Cause> {
    let tree = init.inside()?.outside.tree(number)?;
    let at = tree::mount_point(init.root()?, &node.path, Point::File)?;
    let what = node.path.display().to_string();
    let change = mount::Change {
        set: MountFlags::NOSUID.with(MountFlags::NOEXEC).0,
        ..mount::Change::default()
    };
    mount::change(tree.as_fd(), change, &what)?;
    Ok(mount::attach(tree.as_fd(), at.as_fd(), &what)?)
}

const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// The links that programs look for. What an image has there of its own stays.
pub(super) fn links(root: BorrowedFd<'_>) -> Result<(), Cause> {
    let dev = match tree::resolve(root, Path::new("/dev"), OFlags::PATH | OFlags::DIRECTORY) {
        Ok(dev) => dev,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        Err(errno) => return Err(KernelError::new("open in the container", "/dev", errno).into()),
    };
    for (name, target) in LINKS {
        match rustix::fs::symlinkat(target, &dev, name) {
            Ok(()) | Err(Errno::EXIST | Errno::ROFS) => {}
            Err(errno) => return Err(KernelError::new("make the link", name, errno).into()),
        }
    }
    Ok(())
}
