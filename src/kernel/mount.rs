//! Mounts by descriptor: detached trees, new file systems, attributes, moving into place.
//!
//! Paths of a guest are resolved by `kernel::tree`; here a target is an O_PATH descriptor.
#![allow(unsafe_code)]

use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{AtFlags, CWD};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount,
    open_tree, unmount,
};

use super::error::{KernelError, Result};

/// Mount attributes, see mount_setattr(2).
pub type Attr = MountAttrFlags;

/// A detached clone of the mount at `path` (open_tree(2), Linux 5.2). It must be made in the mount
/// namespace the path belongs to. Links in `path` are followed: it is the host's.
pub fn clone_tree(path: &Path, recursive: bool) -> Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(CWD, path, flags).map_err(KernelError::on("clone the mount of", path.display()))
}

/// The same, which hears of mounts on the host and is not heard there: what is mounted on the clone
/// later does not come back to the host, where most mounts are shared (mount_namespaces(7)).
pub fn clone_unheard(path: &Path, recursive: bool) -> Result<OwnedFd> {
    let tree = clone_tree(path, recursive)?;
    let slave = Change {
        propagation: libc::MS_SLAVE,
        recursive: true,
        ..Change::default()
    };
    change(tree.as_fd(), slave, &path.display().to_string())?;
    Ok(tree)
}

/// The same from a descriptor, which may be a file: a device node, a pty.
pub fn clone_tree_fd(fd: BorrowedFd<'_>, recursive: bool, what: &str) -> Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(fd, "", flags).map_err(KernelError::on("clone the mount of", what))
}

/// The same of a file in a folder, with what is locked about the folder's mount.
pub fn clone_file_at(folder: BorrowedFd<'_>, name: &Path) -> Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    open_tree(folder, name, flags).map_err(KernelError::on("clone the mount of", name.display()))
}

/// Sets and clears attributes of a mount (mount_setattr(2), Linux 5.12); with `id_map`, a user
/// namespace descriptor, makes a detached mount idmapped.
pub fn set_attr(
    mount: BorrowedFd<'_>,
    set: Attr,
    clear: Attr,
    recursive: bool,
    id_map: Option<BorrowedFd<'_>>,
    what: &str,
) -> Result<()> {
    let id_map_bit = if id_map.is_some() {
        libc::MOUNT_ATTR_IDMAP
    } else {
        0
    };
    let attr = libc::mount_attr {
        attr_set: u64::from(set.bits()) | id_map_bit,
        attr_clr: u64::from(clear.bits()),
        propagation: 0,
        userns_fd: id_map.map_or(0, |fd| u64::try_from(fd.as_raw_fd()).unwrap_or(0)),
    };
    let Err(error) = mount_setattr(mount, &attr, recursive, what) else {
        return Ok(());
    };
    Err(if error.errno == Errno::INVAL && id_map.is_some() {
        error.because("its file system cannot shift ids: idmapped mounts need ext4, xfs, btrfs, tmpfs or the like")
    } else {
        error
    })
}

/// What is to be changed about a mount.
#[derive(Clone, Copy, Debug, Default)]
pub struct Change {
    /// MOUNT_ATTR_* bits to set.
    pub set: u64,
    /// Those to clear.
    pub clear: u64,
    /// MS_SHARED, MS_SLAVE, MS_PRIVATE or MS_UNBINDABLE; 0 leaves it.
    pub propagation: u64,
    /// The same for everything mounted below.
    pub recursive: bool,
}

/// Changes attributes or propagation of a mount (mount_setattr(2), Linux 5.12).
pub fn change(mount: BorrowedFd<'_>, what: Change, name: &str) -> Result<()> {
    let attr = libc::mount_attr {
        attr_set: what.set,
        attr_clr: what.clear,
        propagation: what.propagation,
        userns_fd: 0,
    };
    mount_setattr(mount, &attr, what.recursive, name)
}

fn mount_setattr(
    mount: BorrowedFd<'_>,
    attr: &libc::mount_attr,
    recursive: bool,
    what: &str,
) -> Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: `attr` lives over the call and its size is passed; the path is a static empty string.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attr),
            size_of::<libc::mount_attr>(),
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(KernelError::last("set mount attributes of", what))
    }
}

/// Puts a detached mount on `target` (move_mount(2), Linux 5.2).
pub fn attach(tree: BorrowedFd<'_>, target: BorrowedFd<'_>, what: &str) -> Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(tree, "", target, "", flags).map_err(KernelError::on("mount on", what))
}

/// A new file system of a kind, not yet attached anywhere (fsopen(2), fsmount(2), Linux 5.2).
/// Options are `(key, value)`; an empty value is a flag.
pub fn new_filesystem(kind: &str, options: &[(&str, &str)], attr: Attr) -> Result<OwnedFd> {
    let fs = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)
        .map_err(KernelError::on("open the file system", kind))?;
    let refused = |errno| {
        with_kernel_text(
            &fs,
            KernelError::new("set up a file system of kind", kind, errno),
        )
    };
    for (key, value) in options {
        let done = if value.is_empty() {
            fsconfig_set_flag(fs.as_fd(), *key)
        } else {
            fsconfig_set_string(fs.as_fd(), *key, *value)
        };
        done.map_err(refused)?;
    }
    fsconfig_create(fs.as_fd()).map_err(refused)?;
    fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attr).map_err(refused)
}

/// Adds what the kernel wrote to the file system's log, one message a read.
fn with_kernel_text(fs: &OwnedFd, error: KernelError) -> KernelError {
    let mut text = [0_u8; 256];
    let mut lines = Vec::new();
    while let Ok(n) = rustix::io::read(fs, &mut text[..]) {
        if n == 0 {
            break;
        }
        // Each message is a letter for its level, a space, the text and perhaps a newline.
        let line = String::from_utf8_lossy(&text[..n]);
        lines.push(line.get(2..).unwrap_or("").trim().to_owned());
    }
    match (lines.is_empty(), error.errno) {
        (false, _) => error.because(lines.join("; ")),
        (true, Errno::NOSPC) => {
            error.because(
                "what it would write to is full (space or inodes), or the limit of mounts is reached: see \
                 /proc/sys/fs/mount-max",
            )
        }
        (true, _) => error,
    }
}

/// Makes every mount of this namespace receive, but not send, mount events.
pub fn make_all_slave() -> Result<()> {
    change_propagation(libc::MS_REC | libc::MS_SLAVE)
}

/// Cuts every mount of this namespace off from others.
pub fn make_all_private() -> Result<()> {
    change_propagation(libc::MS_REC | libc::MS_PRIVATE)
}

fn change_propagation(flags: libc::c_ulong) -> Result<()> {
    // SAFETY: mount(2) with only propagation flags reads no pointer but the path, a static string.
    let done = unsafe {
        libc::mount(
            std::ptr::null(),
            c"/".as_ptr(),
            std::ptr::null(),
            flags,
            std::ptr::null(),
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(KernelError::last("change the propagation of", "/"))
    }
}

/// Attaches a detached tree over `/`. Lookups of this process still begin below it, at the old
/// root, until [`become_root`].
pub fn cover_root(tree: BorrowedFd<'_>) -> Result<()> {
    move_mount(tree, "", CWD, "/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(KernelError::on("mount the new root on", "/"))
}

/// Makes the mount `root`, which covers `/`, the root of this namespace and lets go of all that was
/// before: pivots to it and detaches the old root (pivot_root(2), "." twice).
pub fn become_root(root: BorrowedFd<'_>) -> Result<()> {
    rustix::process::fchdir(root).map_err(KernelError::on("change to", "the new root"))?;
    rustix::process::pivot_root(".", ".").map_err(KernelError::on("pivot to", "the new root"))?;
    unmount(".", UnmountFlags::DETACH).map_err(KernelError::on("detach", "the old root"))?;
    rustix::process::chdir("/").map_err(KernelError::on("change to", "/"))
}

/// The same without pivoting, for a root that pivot_root(2) refuses (an initramfs): the tree is
/// moved over `/` and entered; what was there stays below, out of reach of paths.
pub fn cover_and_enter(root: BorrowedFd<'_>) -> Result<()> {
    rustix::process::fchdir(root).map_err(KernelError::on("change to", "the new root"))?;
    hide_kernel_views()?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(root, "", CWD, "/", flags).map_err(KernelError::on("move the new root to", "/"))?;
    enter_folder()
}

/// The same for a tree that covers `/` already, with nothing of the host's below.
pub fn enter(root: BorrowedFd<'_>) -> Result<()> {
    rustix::process::fchdir(root).map_err(KernelError::on("change to", "the new root"))?;
    enter_folder()
}

/// Takes the host's procfs and sysfs out of this mount namespace, but for what is below the working
/// folder: while a whole one is there, in reach or not, the kernel lets every user namespace mount
/// another, without the masks of the first.
fn hide_kernel_views() -> Result<()> {
    let here = rustix::process::getcwd(Vec::new())
        .map_err(KernelError::on("find the path of", "the new root"))?;
    let here = Path::new(OsStr::from_bytes(here.as_bytes()));
    for point in super::mount_table::whole(&["proc", "sysfs"], here)? {
        match unmount(&point, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            // Gone with the one that it was below.
            Ok(()) | Err(Errno::NOENT) => {}
            // Not ours to take away, in a user namespace: as good as can be had is to cover it.
            Err(Errno::INVAL | Errno::PERM) => {
                let cover = new_filesystem("tmpfs", &[("size", "4k")], Attr::empty())?;
                let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
                move_mount(&cover, "", CWD, &point, flags)
                    .map_err(KernelError::on("cover", point.display()))?;
            }
            Err(errno) => return Err(KernelError::new("unmount", point.display(), errno)),
        }
    }
    Ok(())
}

/// Makes the working folder the root of this process (chroot(2)).
pub fn enter_folder() -> Result<()> {
    rustix::process::chroot(".").map_err(KernelError::on("change the root to", "the folder"))?;
    rustix::process::chdir("/").map_err(KernelError::on("change to", "/"))
}

/// Sets the propagation of every mount of this namespace.
pub fn set_propagation_of_all(kind: u64, recursive: bool) -> Result<()> {
    let rec = if recursive { libc::MS_REC } else { 0 };
    change_propagation(kind | rec)
}

/// Detaches the mount at a host path; a path that is no mount point is fine.
pub fn detach(path: &Path) -> Result<()> {
    match unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => Ok(()),
        Err(errno) => Err(KernelError::new("unmount", path.display(), errno)),
    }
}

/// A device node in a directory that is ours (mknodat(2)).
pub fn device_node(
    dir: BorrowedFd<'_>,
    name: &str,
    mode: u32,
    device: u64,
    owner: (u32, u32),
) -> Result<()> {
    let kind = if mode & libc::S_IFMT == libc::S_IFBLK {
        rustix::fs::FileType::BlockDevice
    } else {
        rustix::fs::FileType::CharacterDevice
    };
    let bits = rustix::fs::Mode::from_raw_mode(mode & 0o777);
    rustix::fs::mknodat(dir, name, kind, bits, device)
        .map_err(KernelError::on("make the device node", name))?;
    // The umask took bits away; the node is ours alone, nobody can have swapped it.
    rustix::fs::chmodat(dir, name, bits, AtFlags::empty())
        .map_err(KernelError::on("set the mode of", name))?;
    chown_at(dir, name, owner)
}

/// Changes the owner of an entry of a directory that is ours, without following links.
pub fn chown_at(dir: BorrowedFd<'_>, name: &str, owner: (u32, u32)) -> Result<()> {
    let path = CString::new(name)
        .map_err(|_| KernelError::new("change the owner of", name, Errno::INVAL))?;
    // SAFETY: `path` is a C string that lives over the call.
    let done = unsafe {
        libc::fchownat(
            dir.as_raw_fd(),
            path.as_ptr(),
            owner.0,
            owner.1,
            libc::AT_SYMLINK_NOFOLLOW,
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(KernelError::last("change the owner of", name))
    }
}

/// Whether something is mounted on a folder.
pub fn is_mount_point(folder: &Path) -> std::io::Result<bool> {
    let mask = rustix::fs::StatxFlags::BASIC_STATS;
    let stat = rustix::fs::statx(CWD, folder, AtFlags::empty(), mask)?;
    Ok(stat
        .stx_attributes
        .contains(rustix::fs::StatxAttributes::MOUNT_ROOT))
}

/// Takes the mount at `path` away.
///
/// # Errors
/// It is in use.
pub fn unmount_path(path: &Path) -> Result<()> {
    unmount(path, UnmountFlags::empty()).map_err(KernelError::on("unmount", path.display()))
}
