//! Removes a whole tree by descriptor: no symbolic link followed, no mount crossed, and neither
//! depth nor a folder of mode 000 stops it. Reading walks are next door.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, Mode};
use rustix::io::Errno;

use super::dirfd::{FileError, child_dir, cname, names};

/// Folders held open at once; deeper ones are moved up to the top first.
const OPEN_MOST: usize = 48;

/// A folder being emptied.
struct Level {
    dir: OwnedFd,
    name: CString,
    left: std::vec::IntoIter<CString>,
}

/// Removes `name` in `parent` with all that is below it; nothing there is success.
/// `shown` is the path for messages.
///
/// # Errors
/// Names the path. `EXDEV` or `EBUSY` means that something is mounted inside; what could be removed
/// before is gone, and calling again after the cause is away finishes the work.
pub(crate) fn remove_tree(parent: impl AsFd, name: &CStr, shown: &Path) -> Result<(), FileError> {
    let parent = parent.as_fd();
    match fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(e) => return Err(FileError::new("remove", shown, e)),
    }
    let top = open_any(parent, name).map_err(|e| FileError::new("open folder", shown, e))?;
    empty(&top, shown)?;
    match fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(FileError::new("remove folder", shown, e)),
    }
}

/// Empties `top`. Folders deeper than [`OPEN_MOST`] are renamed into `top` and so come round again.
fn empty(top: &OwnedFd, shown: &Path) -> Result<(), FileError> {
    let failed = |verb, stack: &[Level], name: &CStr, e: Errno| {
        FileError::new(verb, &path_of(shown, stack, name), e)
    };
    let mut moved = 0_u64;
    loop {
        let first = names(top).map_err(|e| FileError::new("read folder", shown, e))?;
        if first.is_empty() {
            return Ok(());
        }
        let top_again = rustix::io::fcntl_dupfd_cloexec(top, 0)
            .map_err(|e| FileError::new("open folder", shown, e))?;
        let mut stack = vec![Level {
            dir: top_again,
            name: CString::default(),
            left: first.into_iter(),
        }];
        loop {
            let depth = stack.len();
            let Some(level) = stack.last_mut() else { break };
            let Some(name) = level.left.next() else {
                let done = stack.pop();
                if let (Some(done), Some(above)) = (done, stack.last()) {
                    fs::unlinkat(&above.dir, &*done.name, AtFlags::REMOVEDIR)
                        .map_err(|e| failed("remove folder", &stack, &done.name, e))?;
                }
                continue;
            };
            match one(level.dir.as_fd(), &name, top, depth, &mut moved) {
                Ok(None) => {}
                Ok(Some(child)) => stack.push(child),
                Err((verb, e)) => return Err(failed(verb, &stack, &name, e)),
            }
        }
    }
}

/// Removes a file, or opens the folder it is, or moves a folder that is too deep up to `top`.
fn one(
    dir: BorrowedFd<'_>,
    name: &CStr,
    top: &OwnedFd,
    depth: usize,
    moved: &mut u64,
) -> Result<Option<Level>, (&'static str, Errno)> {
    match fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(None),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(e) => return Err(("remove", e)),
    }
    if depth >= OPEN_MOST {
        *moved += 1;
        hoist(dir, name, top, *moved).map_err(|e| ("move folder", e))?;
        return Ok(None);
    }
    let opened = open_any(dir, name).map_err(|e| ("open folder", e))?;
    let left = names(&opened).map_err(|e| ("read folder", e))?.into_iter();
    Ok(Some(Level {
        dir: opened,
        name: name.to_owned(),
        left,
    }))
}

/// Moves the folder `name` in `dir` into `top` under a name that is free.
fn hoist(dir: BorrowedFd<'_>, name: &CStr, top: &OwnedFd, number: u64) -> rustix::io::Result<()> {
    for attempt in 0..1000_u32 {
        let free = cname(format!(".deep-{number}-{attempt}")).map_err(|_| Errno::INVAL)?;
        match fs::renameat_with(dir, name, top, &*free, fs::RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => {}
            other => return other,
        }
    }
    Err(Errno::EXIST)
}

/// Opens a folder, giving it a mode that lets its owner in where that is what stands in the way.
fn open_any(dir: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<OwnedFd> {
    match child_dir(dir, name) {
        Err(Errno::ACCESS) => {
            // A link cannot be here: unlinkat has just said that this is a folder, and in a
            // folder of the program's own nobody else changes it.
            fs::chmodat(dir, name, Mode::RWXU, AtFlags::empty())?;
            child_dir(dir, name)
        }
        other => other,
    }
}

fn path_of(shown: &Path, stack: &[Level], name: &CStr) -> PathBuf {
    use std::os::unix::ffi::OsStrExt as _;
    let component = |c: &CStr| std::ffi::OsStr::from_bytes(c.to_bytes()).to_owned();
    let mut path = shown.to_owned();
    path.extend(stack.iter().skip(1).map(|l| component(&l.name)));
    path.push(component(name));
    path
}

#[cfg(test)]
mod tests {
    use super::super::dirfd::open_dir;
    use super::super::seed::tests::TempDir;
    use super::*;

    /// A tree too deep for any path: made one step at a time.
    fn deep(top: &Path, depth: usize) {
        let mut dir = open_dir(top).unwrap();
        for _ in 0..depth {
            fs::mkdirat(&dir, c"a-folder-name-of-some-length", Mode::RWXU).unwrap();
            dir = child_dir(&dir, c"a-folder-name-of-some-length").unwrap();
            fs::symlinkat(c"/etc/passwd", &dir, c"link").unwrap();
        }
    }

    #[test]
    fn depth_modes_and_links_do_not_stop_it() {
        let temp = TempDir::new("remove");
        let outside = temp.path().join("outside");
        std::fs::write(&outside, "kept").unwrap();
        let tree = temp.path().join("tree");
        std::fs::create_dir(&tree).unwrap();
        deep(&tree, 1500);
        std::fs::create_dir(tree.join("closed")).unwrap();
        std::fs::write(tree.join("closed/file"), "x").unwrap();
        std::os::unix::fs::symlink(&outside, tree.join("out")).unwrap();
        std::os::unix::fs::symlink(temp.path(), tree.join("up")).unwrap();
        let closed = tree.join("closed");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o000);
        std::fs::set_permissions(closed, mode).unwrap();
        let parent = open_dir(temp.path()).unwrap();
        remove_tree(&parent, c"tree", &tree).unwrap();
        assert!(!tree.exists());
        assert_eq!(std::fs::read_to_string(outside).unwrap(), "kept");
        remove_tree(&parent, c"tree", &tree).unwrap();
    }
}
