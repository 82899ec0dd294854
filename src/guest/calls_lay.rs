//! The process that lays a guest's own files over a mount of `proc` or `sysfs` that somebody inside
//! makes (`calls_mount`), in the moment between the end of the caller's mount and its return:
//!
//! ```text
//!   caller                              this process, made for this call
//!   waits in its call                   holds the caller; clones what the guest has over its own views
//!                                       takes on the caller's mounts, user namespace, ids
//!   mounts, as the kernel lets it  ◀──  lets the call through
//!   stops before it returns        ──▶  lays the clones over what is new
//!   returns                        ◀──  ends
//! ```
//! It is in the guest's control groups and in no process namespace of the guest's: nobody inside can name
//! it, and it never acts on a guest's path but with the caller's own rights, except to find the guest's
//! files in the guest's first mount namespace. Whatever fails, the caller goes on, with the kernel's own
//! files in its view.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, StatxFlags, openat2, statx};
use rustix::mount::UnmountFlags;

use crate::kernel::caller_file::kernel_view;
use crate::kernel::caller_rights::Caller;
use crate::kernel::cgroup::Group;
use crate::kernel::held_thread::HeldThread;
use crate::kernel::mount::Attr;
use crate::kernel::mount_table::{Whole, read_whole};
use crate::kernel::namespace::{self, kind};
use crate::kernel::seccomp::notify::{self, Answer, Call};
use crate::kernel::{inherited, mount, process, tree};
use crate::model::{DISKS, InsideFile, PRESSURE, UNTOLD};

/// What is to be done about a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Lay {
    /// A view of this kind comes into being.
    New(&'static str),
    /// One is taken away, which the kernel does not do while something lies on it.
    Taken {
        kind: &'static str,
        path: CString,
        follow: bool,
    },
}

/// What the process is given.
pub(super) struct Post<'a> {
    pub(super) guest: &'a OwnedFd,
    pub(super) init: u32,
    pub(super) group: &'a Group,
    pub(super) listener: BorrowedFd<'a>,
    pub(super) call: &'a Call,
    pub(super) lay: Lay,
}

/// Does it, and ends.
pub(super) fn work(post: &Post<'_>) -> ! {
    // Its end lets the caller go on, wherever it has got to.
    let _done = notify::briefly(|| work_on(post));
    process::leave(0)
}

/// What lies over a file of the guest's own view.
struct Cover {
    /// Path below the view's root.
    path: &'static str,
    tree: OwnedFd,
}

fn work_on(post: &Post<'_>) -> Option<()> {
    process::hide_from_others().ok()?;
    post.group.enter_self().ok()?;
    let waits = || notify::waits(post.listener, post.call.id);
    let mut held = HeldThread::hold(post.call.thread, waits).ok()?;
    let caller = Caller::of(post.call.thread).ok()?;
    // What has been found by the thread's number is its own.
    waits().then_some(())?;
    let kind = match &post.lay {
        Lay::New(kind) | Lay::Taken { kind, .. } => *kind,
    };
    let covers = covers(post, kind)?;
    let mut kept = caller.descriptors();
    kept.extend(covers.iter().map(|cover| cover.tree.as_raw_fd()));
    kept.push(post.listener.as_raw_fd());
    inherited::close_all_but(&mut kept).ok()?;
    caller.take_on().ok()?;

    let mut before = views(&caller, kind)?;
    if let Lay::Taken { path, follow, .. } = &post.lay {
        let id = uncover(path, *follow, &covers)?;
        // When it stays, what lay on it is laid on it again.
        before.retain(|one| one.id != id);
    }
    notify::answer(post.listener, post.call.id, Answer::LetThrough).ok()?;
    held.wait().then_some(())?;
    for new in views(&caller, kind)? {
        if !before.iter().any(|one| one.id == new.id) {
            lay_on(&new, &covers);
        }
    }
    Some(())
}

fn views(caller: &Caller, kind: &str) -> Option<Vec<Whole>> {
    let text = caller.mounted().ok()?;
    Some(read_whole(&String::from_utf8_lossy(&text), &[kind]))
}

/// Copies of what lies over the guest's own view, with all that is locked about them.
fn covers(post: &Post<'_>, of: &str) -> Option<Vec<Cover>> {
    let root = tree::open_root(Path::new(&format!("/proc/{}/root", post.init))).ok()?;
    namespace::join(post.guest.as_fd(), kind::MOUNT).ok()?;
    let view = if of == "proc" { "/proc/" } else { "/sys/" };
    let targets = InsideFile::ALL.map(InsideFile::target).into_iter();
    let targets = targets
        .chain(PRESSURE.map(|(_, target)| target))
        .chain(UNTOLD)
        .chain(DISKS);
    let cover = |target: &'static str| {
        let path = target.strip_prefix(view)?;
        let at = tree::resolve(root.as_fd(), Path::new(target), OFlags::PATH).ok()?;
        is_mounted(at.as_fd()).then_some(())?;
        let tree = mount::clone_tree_fd(at.as_fd(), false, target).ok()?;
        Some(Cover { path, tree })
    };
    Some(targets.filter_map(cover).collect())
}

fn is_mounted(file: BorrowedFd<'_>) -> bool {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let told = statx(file, c"", flags, StatxFlags::BASIC_STATS);
    told.is_ok_and(|told| {
        told.stx_attributes
            .contains(rustix::fs::StatxAttributes::MOUNT_ROOT)
    })
}

fn number(file: BorrowedFd<'_>) -> Option<u64> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let told = statx(file, c"", flags, StatxFlags::MNT_ID).ok()?;
    Some(told.stx_mnt_id)
}

/// Where a mount is found at its place, and nothing else is there.
fn lay_on(view: &Whole, covers: &[Cover]) -> Option<()> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let how = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let root = openat2(CWD, &view.point, flags, Mode::empty(), how).ok()?;
    (number(root.as_fd()) == Some(view.id)).then_some(())?;
    // Without it, nobody in there can make a user namespace with a view of its own.
    let _not_kept = keep_whole(root.as_fd(), &view.kind);
    for Cover { path, tree } in covers {
        // Only on what is of that mount itself: where something lies already, that stays.
        let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        if let Ok(at) = openat2(&root, *path, flags, Mode::empty(), how) {
            // A view without this file, or without room for one more mount, stays as it is.
            let _not_laid = mount::attach(tree.as_fd(), at.as_fd(), path);
        }
    }
    Some(())
}

/// A folder of the view that there always is, in which a whole one is kept.
fn keeping(kind: &str) -> &'static str {
    match kind {
        "proc" => "tty",
        _ => "bus",
    }
}

/// The kernel lets a user namespace mount such a view only if it sees a whole one, and one with files
/// laid over it is not. So there is another, in a small file system on one of the view's folders, below
/// that very folder: in sight of nobody.
fn keep_whole(view: BorrowedFd<'_>, kind: &str) -> Option<()> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let folder = openat2(view, keeping(kind), flags, Mode::empty(), how).ok()?;
    let plain = Attr::MOUNT_ATTR_NOSUID | Attr::MOUNT_ATTR_NODEV | Attr::MOUNT_ATTR_NOEXEC;
    let options = [("mode", "700"), ("size", "16k")];
    let cupboard = mount::new_filesystem("tmpfs", &options, plain).ok()?;
    rustix::fs::mkdirat(&cupboard, kind, Mode::from_raw_mode(0o700)).ok()?;
    let at = openat2(&cupboard, kind, flags, Mode::empty(), how).ok()?;
    let whole = mount::clone_tree_fd(view, false, "a view").ok()?;
    // Made last, so that it has the highest number: umount(8) takes that away first (`--recursive`).
    let cover = mount::clone_tree_fd(folder.as_fd(), false, "a folder").ok()?;
    mount::attach(cupboard.as_fd(), folder.as_fd(), "a folder").ok()?;
    let kept = mount::attach(whole.as_fd(), at.as_fd(), "a folder");
    // Where nothing is kept, it is the folder all the same.
    mount::attach(cover.as_fd(), cupboard.as_fd(), "a folder").ok()?;
    kept.ok()
}

/// Takes that away from the view that is the working folder.
fn let_go_of_whole(kind: &str) -> Option<()> {
    let (folder, flags) = (keeping(kind), OFlags::PATH | OFlags::CLOEXEC);
    let how = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let open = |path: &str| openat2(CWD, path, flags, Mode::empty(), how).ok();
    let cover = open(folder).filter(|cover| is_mounted(cover.as_fd()))?;
    (file_of(cover.as_fd())?.0 == file_of(open(".")?.as_fd())?.0).then_some(())?;
    drop(cover);
    detach(folder)?;
    let kept = open(&format!("{folder}/{kind}"))?;
    (kernel_view(kept.as_fd()) == Some(kind)).then_some(())?;
    drop(kept);
    detach(folder)
}

/// Takes what is mounted on a path of the working folder away.
fn detach(path: &str) -> Option<()> {
    rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).ok()
}

/// The number of its device, and its own.
fn file_of(file: BorrowedFd<'_>) -> Option<((u32, u32), u64)> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let told = statx(file, c"", flags, StatxFlags::BASIC_STATS).ok()?;
    Some(((told.stx_dev_major, told.stx_dev_minor), told.stx_ino))
}

/// Takes what we have laid on the view at this path off it; which mount that is.
fn uncover(path: &CString, follow: bool, covers: &[Cover]) -> Option<u64> {
    let mut flags = OFlags::PATH | OFlags::CLOEXEC;
    flags.set(OFlags::NOFOLLOW, !follow);
    let how = ResolveFlags::NO_MAGICLINKS;
    let view = openat2(CWD, path, flags, Mode::empty(), how).ok()?;
    let kind = kernel_view(view.as_fd())?;
    let id = number(view.as_fd())?;
    rustix::process::fchdir(&view).ok()?;
    for Cover { path, tree } in covers {
        if same_file(path, tree.as_fd()) {
            let _locked = detach(path);
        }
    }
    let _none = let_go_of_whole(kind);
    // Nothing of ours is in there when the kernel takes it away.
    rustix::process::chdir("/").ok()?;
    Some(id)
}

/// Whether what is mounted there is what this mount shows.
fn same_file(path: &str, tree: BorrowedFd<'_>) -> bool {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let Ok(there) = openat2(CWD, path, flags, Mode::empty(), how) else {
        return false;
    };
    is_mounted(there.as_fd()) && file_of(there.as_fd()) == file_of(tree)
}
