//! Single files of a stopped guest, in its tree as the guest sees it.

use std::ffi::CString;
use std::io;

use super::dirfd::{self, FileError};
use super::image::Image;
use super::merged::Merged;
use super::merged_folder::{Entry, Folder, entry};
use crate::kernel::strange_file::{self, FileJob};
use crate::model::{FileEntry, FileKind, FileWish, GuestName, Layout};

/// Name of a file that is not whole yet. The guest is locked, so that nobody else writes one; what a
/// command that died has left goes with the next write in that folder.
const TEMPORARY: &std::ffi::CStr = c".bulkhead-new";

/// Does something with a file of a stopped guest; tells what the file is.
///
/// # Errors
/// The guest has no root; the file is not there, is no regular file, or the disk is full.
pub fn guest_file(
    layout: &Layout,
    name: &GuestName,
    image: &Image,
    job: &FileJob,
) -> Result<Vec<FileEntry>, FileError> {
    let tree = Merged::open(layout, name, image)?;
    let (verb, path, done) = match job {
        FileJob::List(path) => ("list", path, list(&tree, path)),
        FileJob::Look(path) => (
            "look at",
            path,
            look(&tree, path).map(|one| one.into_iter().collect()),
        ),
        FileJob::Read { path, into } => {
            ("read", path, read(&tree, path, into).map(|one| vec![one]))
        }
        FileJob::Write { path, from, wish } => (
            "write",
            path,
            write(&tree, path, wish, from).map(|one| vec![one]),
        ),
    };
    done.map_err(|error| FileError::new(verb, std::path::Path::new(path), error))
}

fn list(tree: &Merged, path: &str) -> io::Result<Vec<FileEntry>> {
    let folder = match tree.folder(path) {
        Ok(Some(folder)) => folder,
        Ok(None) => return found(look(tree, path)?).map(|one| vec![one]),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            return found(look(tree, path)?).map(|one| vec![one]);
        }
        Err(error) => return Err(error),
    };
    let mut names = std::collections::BTreeSet::new();
    for side in folder.folders() {
        names.extend(dirfd::names(side)?);
    }
    let mut all = Vec::new();
    for name in names {
        all.extend(told(&folder, &name)?);
    }
    Ok(all)
}

fn found(entry: Option<FileEntry>) -> io::Result<FileEntry> {
    entry.ok_or_else(|| rustix::io::Errno::NOENT.into())
}

fn look(tree: &Merged, path: &str) -> io::Result<Option<FileEntry>> {
    let (parent, name) = strange_file::split(path)?;
    match tree.folder(parent)? {
        Some(folder) => told(&folder, &name),
        None => Ok(None),
    }
}

/// What a name in a merged folder is.
fn told(folder: &Folder, name: &CString) -> io::Result<Option<FileEntry>> {
    let dir = match entry(folder, name)? {
        Entry::Nothing => return Ok(None),
        Entry::Folder(below) => {
            let Some(top) = below.top() else {
                return Ok(None);
            };
            return Ok(Some(strange_file::describe(name, &rustix::fs::fstat(top)?)));
        }
        Entry::File { dir, .. } => dir,
        // Links do not say in which layer they are: the topmost that has the name.
        Entry::Link(_) => {
            for side in folder.folders() {
                if let Some(one) = strange_file::look(side, name)? {
                    return Ok(Some(one));
                }
            }
            return Ok(None);
        }
    };
    strange_file::look(dir, name)
}

fn read(tree: &Merged, path: &str, into: &std::fs::File) -> io::Result<FileEntry> {
    let (_, name) = strange_file::split(path)?;
    match tree.open_file(path)? {
        Some((file, stat)) => {
            strange_file::copy(&file, into)?;
            Ok(strange_file::describe(&name, &stat))
        }
        None => {
            let there = found(look(tree, path)?)?;
            Err(match there.kind {
                FileKind::Link => io::Error::other("it is a symbolic link to no regular file"),
                _ => strange_file::not_plain(&there),
            })
        }
    }
}

fn write(
    tree: &Merged,
    path: &str,
    wish: &FileWish,
    from: &std::fs::File,
) -> io::Result<FileEntry> {
    let (parent, name) = strange_file::split(path)?;
    if tree.folder(parent)?.is_none() {
        let why = format!("there is no folder {parent}: make it first");
        return Err(io::Error::other(why));
    }
    let there = look(tree, path)?;
    if let Some(there) = there.as_ref().filter(|there| there.kind != FileKind::File) {
        return Err(strange_file::not_plain(there));
    }
    let (dir, _) = tree.place(path)?;
    match rustix::fs::unlinkat(&dir, TEMPORARY, rustix::fs::AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => {}
        Err(errno) => return Err(errno.into()),
    }
    strange_file::put(&dir, (&name, TEMPORARY), there.as_ref(), wish, from)
}
