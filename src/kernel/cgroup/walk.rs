//! Going through everything below a group. Whoever lives inside may have made groups as deep and
//! as many as its limits allow, so nothing here recurses, builds long paths or holds one
//! descriptor for each level: one descriptor walks down and up again (a group cannot be moved).

use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, RawDir};
use rustix::io::Errno;

const FOLDER: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Opens a child group of `at`, or with `..` its parent.
pub(super) fn open(at: impl AsFd, name: &CStr) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(at, name, FOLDER, Mode::empty())
}

/// Calls `each` for every child group of `at` until it answers with something.
pub(super) fn find_child<T>(
    at: impl AsFd,
    mut each: impl FnMut(&CStr) -> Option<T>,
) -> rustix::io::Result<Option<T>> {
    // Each child is a link to it (`..`): where the file system counts, a folder without any has its own
    // and its name's, and need not be listed.
    if rustix::fs::fstat(&at)?.st_nlink == 2 {
        return Ok(None);
    }
    // A descriptor of its own: the place in a listing belongs to the open file.
    let listing = open(at, c".")?;
    let mut buffer = [MaybeUninit::<u8>::uninit(); 4096];
    let mut entries = RawDir::new(&listing, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name();
        if entry.file_type() != FileType::Directory || name == c"." || name == c".." {
            continue;
        }
        if let Some(found) = each(name) {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// Whether `at` has child groups; one that cannot be read any more has none.
pub(super) fn has_children(at: impl AsFd) -> bool {
    matches!(find_child(at, |_| Some(())), Ok(Some(())))
}

/// Names of the child groups of `at`.
pub(super) fn children(at: impl AsFd) -> rustix::io::Result<Vec<CString>> {
    let mut names = Vec::new();
    find_child(at, |name| {
        names.push(name.to_owned());
        None::<()>
    })?;
    Ok(names)
}

/// Calls `visit` with `top` and with every group below it, each before its children. Groups that
/// vanish meanwhile are passed over.
pub(super) fn each_group(
    top: impl AsFd,
    mut visit: impl FnMut(&OwnedFd) -> rustix::io::Result<()>,
) -> rustix::io::Result<()> {
    let mut here = open(top, c".")?;
    let passing = |result: rustix::io::Result<()>| match result {
        Err(Errno::NODEV | Errno::NOENT) => Ok(()),
        other => other,
    };
    passing(visit(&here))?;
    let mut levels = vec![children(&here)?];
    while let Some(level) = levels.last_mut() {
        let Some(name) = level.pop() else {
            levels.pop();
            if !levels.is_empty() {
                here = open(&here, c"..")?;
            }
            continue;
        };
        match open(&here, &name) {
            Ok(child) => here = child,
            Err(Errno::NOENT) => continue,
            Err(e) => return Err(e),
        }
        passing(visit(&here))?;
        levels.push(match children(&here) {
            Err(Errno::NODEV | Errno::NOENT) => Vec::new(),
            names => names?,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn visits_every_folder_once_and_comes_back_up() {
        let top = std::env::temp_dir().join(format!("bulkhead-walk-{}", std::process::id()));
        for path in ["a/b/c", "a/d", "e"] {
            std::fs::create_dir_all(top.join(path)).unwrap();
        }
        let mut seen = 0;
        let fd = std::fs::File::open(&top).unwrap();
        each_group(&fd, |_| {
            seen += 1;
            Ok(())
        })
        .unwrap();
        std::fs::remove_dir_all(&top).unwrap();
        assert_eq!(seen, 6);
    }
}
