//! A tree of layers for whoever looks at it from the host: put together as a guest's root is, but for
//! reading alone, with nothing in it that could be executed or be a device. It belongs to no guest, so
//! ids are those on disk.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use super::host::Cause;
use super::root::Layers;
use crate::kernel::mount::{self, Attr};
use crate::kernel::namespace::MountsOf;
use crate::kernel::tree;

/// The layers of a tree, topmost first.
#[derive(Debug)]
pub struct LookAt {
    /// A filesystem that is attached nowhere and has the topmost in `upper`.
    pub disk: Option<OwnedFd>,
    /// Folders of the host's.
    pub folders: Vec<PathBuf>,
}

/// The tree of these layers, attached nowhere; `source` is what the table of mounts calls it, `scratch`
/// an empty folder.
///
/// # Errors
/// A layer is not there, or the kernel refuses.
pub fn look(layers: &LookAt, scratch: &Path, source: &str) -> Result<OwnedFd, Cause> {
    let all = Attr::MOUNT_ATTR_RDONLY
        | Attr::MOUNT_ATTR_NOSUID
        | Attr::MOUNT_ATTR_NODEV
        | Attr::MOUNT_ATTR_NOEXEC;
    // As at a launch: what is mounted here no other process sees, and ends with the guard.
    let mounts = MountsOf::private_copy()?;
    let size = [("mode", "700"), ("size", "1m")];
    let memory = mount::new_filesystem("tmpfs", &size, Attr::MOUNT_ATTR_NOSUID)?;
    mount::attach(
        memory.as_fd(),
        tree::open_root(scratch)?.as_fd(),
        "the scratch folder",
    )?;
    let place = Layers {
        scratch,
        users: None,
    };
    let mut names = Vec::new();
    if let Some(disk) = &layers.disk {
        place.put(disk, Path::new("a disk"), "disk", Attr::MOUNT_ATTR_RDONLY)?;
        names.push("disk/upper".to_owned());
    }
    names.extend(place.put_all(&layers.folders)?);
    // One layer alone the kernel takes for a mistake; this one is empty.
    names.push(place.put_empty()?);
    let made = place.read_only(&names, source, all)?;
    mounts.leave()?;
    Ok(made)
}
