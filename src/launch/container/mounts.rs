//! The mounts of a container, made by its first process in its namespaces: each as a detached tree
//! first, then put on a target that is looked up inside the container's root and nowhere else.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags};

use super::super::init::Init;
use super::copy;
use super::inside::Cause;
use crate::kernel::mount::{self, Attr, Change};
use crate::kernel::tree::{self, Point};
use crate::kernel::{Errno, KernelError};
use crate::model::MountFlags;
use crate::plan::container::step::{MountEntry, Propagation, Show};

/// Mounts one entry.
pub(super) fn mount(init: &mut Init<'_>, entry: &MountEntry) -> Result<(), Cause> {
    match &entry.show {
        Show::Tree { number } => {
            let tree = init.inside()?.outside.tree(*number)?;
            put_tree(init.root()?, entry, &tree)
        }
        Show::FileSystem {
            kind,
            settings,
            copy_up,
        } => {
            let mut settings = settings.clone();
            if kind == "tmpfs" && settings.iter().all(|(key, _)| key != "mode") {
                settings.extend(mode_of(init.root()?, &entry.target));
            }
            let fs = new(kind, &settings, entry.set)?;
            if *copy_up {
                copy_into(init.root()?, &entry.target, &fs)?;
            }
            finish(&fs, entry, Some(entry.set.without(MountFlags::READ_ONLY)))?;
            match kind.as_str() {
                "proc" | "sysfs" => put_plainly(init.root()?, &fs, &entry.target),
                _ => put(init.root()?, &fs, &entry.target, Point::Directory),
            }
        }
        Show::Cgroup { settings, only_v2 } => cgroup(init, entry, settings, *only_v2),
        Show::Before => {
            let what = entry.target.display().to_string();
            let at = tree::resolve(init.root()?, &entry.target, OFlags::PATH)
                .map_err(KernelError::on("open", &what))?;
            finish(&at, entry, None)
        }
    }
}

/// A memory file system takes the place of a folder as the image has it: with its mode.
fn mode_of(root: BorrowedFd<'_>, target: &Path) -> Option<(String, String)> {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let stat = rustix::fs::fstat(tree::resolve(root, target, flags).ok()?).ok()?;
    Some(("mode".into(), format!("{:o}", stat.st_mode & 0o7777)))
}

/// Makes the mount on `target` read-only.
pub(super) fn close(root: BorrowedFd<'_>, target: &Path) -> Result<(), Cause> {
    let what = target.display().to_string();
    let at = tree::resolve(root, target, OFlags::PATH).map_err(KernelError::on("open", &what))?;
    let change = Change {
        set: MountFlags::READ_ONLY.0,
        ..Change::default()
    };
    Ok(mount::change(at.as_fd(), change, &what)?)
}

fn new(kind: &str, settings: &[(String, String)], set: MountFlags) -> Result<OwnedFd, Cause> {
    let settings: Vec<_> = settings
        .iter()
        .map(|(k, v)| (k.as_str(), v.as_str()))
        .collect();
    // Read-only comes after what is copied in; the rest from the beginning.
    let first = set.without(MountFlags::READ_ONLY);
    let attr = Attr::from_bits_retain(u32::try_from(first.0).unwrap_or(0));
    mount::new_filesystem(kind, &settings, attr).map_err(|error| match (kind, error.errno) {
        ("sysfs", Errno::PERM) => {
            let why = "it shows the network namespace, which belongs to another user namespace: \
                bind /sys instead";
            error.because(why).into()
        }
        _ => error.into(),
    })
}

/// Attributes and propagation of a detached tree. One that is `fresh` has these attributes already
/// and no others.
fn finish(tree: &OwnedFd, entry: &MountEntry, fresh: Option<MountFlags>) -> Result<(), Cause> {
    let what = entry.target.display().to_string();
    if !entry.deep_set.is_empty() || !entry.deep_clear.is_empty() {
        let deep = Change {
            set: entry.deep_set.0,
            clear: entry.deep_clear.0,
            propagation: 0,
            recursive: true,
        };
        mount::change(tree.as_fd(), deep, &what)?;
    }
    // Times of access are one field: what is set replaces what was there.
    let times = MountFlags(if entry.set.0 & ATIME == 0 { 0 } else { ATIME });
    let set = entry.set.without(fresh.unwrap_or_default());
    if !set.is_empty() {
        let change = Change {
            set: entry.set.0,
            clear: times.0,
            ..Change::default()
        };
        mount::change(tree.as_fd(), change, &what)?;
    }
    let clear = entry.clear.without(entry.set).without(times);
    if !clear.is_empty() && fresh.is_none() {
        let change = Change {
            clear: clear.0,
            ..Change::default()
        };
        match mount::change(tree.as_fd(), change, &what) {
            // Locked in this user namespace: less is allowed than asked for, never more.
            Err(error) if error.errno == Errno::PERM => {}
            other => other?,
        }
    }
    match entry.propagation {
        Some(propagation) => Ok(propagate(tree.as_fd(), propagation, &what)?),
        None => Ok(()),
    }
}

/// How a tree hears of mounts elsewhere, and is heard.
pub(super) fn propagate(
    tree: BorrowedFd<'_>,
    propagation: Propagation,
    what: &str,
) -> Result<(), KernelError> {
    let change = Change {
        propagation: propagation.kind,
        recursive: propagation.recursive,
        ..Change::default()
    };
    mount::change(tree, change, what)
}

/// MOUNT_ATTR__ATIME.
const ATIME: u64 = 0x70;

/// A tree of the host's: cloned there it would hear and be heard as the original is; the default is
/// that it hears.
fn put_tree(root: BorrowedFd<'_>, entry: &MountEntry, tree: &OwnedFd) -> Result<(), Cause> {
    if entry.propagation.is_none_or(|p| !p.recursive) {
        // What lies below is to be cut off as well.
        propagate(tree.as_fd(), Propagation::SLAVE, "a tree of the host's")?;
    }
    finish(tree, entry, None)?;
    let stat =
        rustix::fs::fstat(tree).map_err(KernelError::on("look at", entry.target.display()))?;
    let point = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Point::Directory,
        _ => Point::File,
    };
    put(root, tree, &entry.target, point)
}

fn put(root: BorrowedFd<'_>, tree: &OwnedFd, target: &Path, point: Point) -> Result<(), Cause> {
    if point == Point::Directory && is_kernels(target) {
        return put_plainly(root, tree, target);
    }
    let at = tree::mount_point(root, target, point)?;
    let what = target.display().to_string();
    Ok(mount::attach(tree.as_fd(), at.as_fd(), &what)?)
}

/// Where the kernel is shown: through no link, since paths below are masked and written later
/// (CVE-2019-19921, CVE-2023-27561).
fn put_plainly(root: BorrowedFd<'_>, tree: &OwnedFd, target: &Path) -> Result<(), Cause> {
    let at = tree::plain_mount_point(root, target)?;
    let what = target.display().to_string();
    Ok(mount::attach(tree.as_fd(), at.as_fd(), &what)?)
}

/// Where the kernel is shown.
fn is_kernels(target: &Path) -> bool {
    [Path::new("/proc"), Path::new("/sys")].contains(&target)
}

/// Gives a memory file system what lies where it is to be mounted.
fn copy_into(root: BorrowedFd<'_>, target: &Path, fs: &OwnedFd) -> Result<(), Cause> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    match tree::resolve(root, target, flags) {
        Ok(from) => Ok(copy::folder(&from, fs)?),
        Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(KernelError::new("read", target.display(), errno).into()),
    }
}

/// The container's own groups: on version 2 the one folder, on version 1 a folder with one for each
/// hierarchy, and links for the names that some share.
fn cgroup(
    init: &mut Init<'_>,
    entry: &MountEntry,
    settings: &[(String, String)],
    only_v2: bool,
) -> Result<(), Cause> {
    let trees = init.inside()?.outside.cgroup_trees.pop();
    let trees = trees.unwrap_or_default();
    let mode = init.inside()?.place.host.mode;
    let root = init.root()?;
    if only_v2 && mode != crate::model::CgroupMode::V2 {
        let own = trees.iter().find(|(bind, _)| bind.version_2);
        let none = || KernelError::new("show", "control groups of version 2", Errno::NODEV);
        let (_, tree) = own.ok_or_else(none)?;
        finish(tree, entry, None)?;
        return put(root, tree, &entry.target, Point::Directory);
    }
    if trees.is_empty() && mode == crate::model::CgroupMode::V2 {
        let tree = new("cgroup2", &[], entry.set)?;
        finish(&tree, entry, None)?;
        return put(root, &tree, &entry.target, Point::Directory);
    }
    if let [(bind, tree)] = &trees[..]
        && bind.name.is_empty()
    {
        finish(tree, entry, None)?;
        return put(root, tree, &entry.target, Point::Directory);
    }
    let mut options = vec![("mode".to_owned(), "755".to_owned())];
    options.extend(settings.iter().filter(|(key, _)| key != "mode").cloned());
    let top = new(
        "tmpfs",
        &options,
        MountFlags::NOSUID
            .with(MountFlags::NODEV)
            .with(MountFlags::NOEXEC),
    )?;
    put(root, &top, &entry.target, Point::Directory)?;
    for (bind, tree) in &trees {
        let name = &bind.name;
        rustix::fs::mkdirat(&top, name.as_str(), Mode::from_raw_mode(0o755))
            .map_err(KernelError::on("make the folder", name))?;
        finish(tree, entry, None)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let at = rustix::fs::openat(&top, name.as_str(), flags, Mode::empty())
            .map_err(KernelError::on("open the folder", name))?;
        mount::attach(tree.as_fd(), at.as_fd(), name)?;
        for alias in &bind.aliases {
            rustix::fs::symlinkat(name.as_str(), &top, alias.as_str())
                .map_err(KernelError::on("make the link", alias))?;
        }
    }
    finish(&top, entry, None)
}
