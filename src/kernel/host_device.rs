//! The host's own node of a device, for whom none can be made: in a user namespace the kernel makes
//! no nodes. It is found by its number, and shown only if it is the one that was asked for.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;

use super::{Errno, KernelError, Result, mount};

/// Longest description of a device that is read, bytes.
const LONGEST: u64 = 8 << 10;

/// A detached clone of the host's node of this number, which is usually at the same path as in the
/// container.
///
/// # Errors
/// When the host has no such node, there or where the kernel calls it.
pub fn clone_node(path: &Path, block: bool, number: (u32, u32)) -> Result<OwnedFd> {
    // A path of the container's, at which the host may have anything: whatever keeps us from looking
    // there, it is not the device. What would be short at the other path as well is told.
    let short = [Errno::NOMEM, Errno::NOSPC, Errno::MFILE];
    match node_at(path, block, number) {
        Ok(Some(node)) => return Ok(node),
        Err(error) if short.contains(&error.errno) => return Err(error),
        _ => {}
    }
    if let Some(other) = called(block, number)
        && let Some(node) = node_at(&other, block, number)?
    {
        return Ok(node);
    }
    let kind = if block { "block" } else { "character" };
    let (major, minor) = number;
    let why = format!(
        "the host has no {kind} device {major}:{minor} there, and in a user namespace none can be made"
    );
    Err(KernelError::new("show the device", path.display(), Errno::NODEV).because(why))
}

/// What is at a path, if it is that device.
fn node_at(path: &Path, block: bool, (major, minor): (u32, u32)) -> Result<Option<OwnedFd>> {
    let tree = match mount::clone_tree(path, false) {
        Err(error) if matches!(error.errno, Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        other => other?,
    };
    let stat = rustix::fs::fstat(&tree).map_err(KernelError::on("look at", path.display()))?;
    let kind = match block {
        true => FileType::BlockDevice,
        false => FileType::CharacterDevice,
    };
    let same = FileType::from_raw_mode(stat.st_mode) == kind
        && stat.st_rdev == rustix::fs::makedev(major, minor);
    Ok(same.then_some(tree))
}

/// Where the kernel says that the node of a device is.
fn called(block: bool, (major, minor): (u32, u32)) -> Option<PathBuf> {
    let kind = if block { "block" } else { "char" };
    let about = PathBuf::from(format!("/sys/dev/{kind}/{major}:{minor}/uevent"));
    let text = super::file::read_small(&about, LONGEST).ok().flatten()?;
    let text = String::from_utf8(text).ok()?;
    let name = text
        .lines()
        .find_map(|line| line.strip_prefix("DEVNAME="))?;
    Some(Path::new("/dev").join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_called_by_the_kernel() {
        assert_eq!(called(false, (1, 3)), Some(PathBuf::from("/dev/null")));
        assert_eq!(called(false, (4000, 1)), None);
    }
}
