//! A file of a running guest, looked at, read or written by a process that has entered it: as its
//! root, in its mounts, with its ids and within its limits. What the guest does meanwhile, it does
//! to itself.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use crate::kernel::strange_file::{self, FileJob};
use crate::kernel::{KernelError, random, tree};
use crate::model::{FileEntry, FileWish};

/// Does it, and writes into `report` what the file is. `going` is called before data flows, which
/// takes as long as it takes.
pub(super) fn file_job(
    job: &FileJob,
    report: &OwnedFd,
    going: impl FnOnce() -> Result<(), KernelError>,
) -> io::Result<()> {
    let root = tree::open_root(Path::new("/")).map_err(|error| error.errno)?;
    going().map_err(|error| error.errno)?;
    let told = match job {
        FileJob::List(path) => list(&root, path)?,
        FileJob::Look(path) => look(&root, path)?.into_iter().collect(),
        FileJob::Read { path, into } => vec![read(&root, path, into)?],
        FileJob::Write { path, from, wish } => vec![write(&root, path, wish, from)?],
    };
    let mut report = File::from(report.try_clone()?);
    report.write_all(&serde_json::to_vec(&told)?)
}

fn list(root: &OwnedFd, path: &str) -> io::Result<Vec<FileEntry>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    match tree::resolve(root.as_fd(), Path::new(path), flags) {
        Ok(folder) => strange_file::list(folder),
        Err(Errno::NOTDIR | Errno::NOENT) => match look(root, path)? {
            Some(one) => Ok(vec![one]),
            None => Err(Errno::NOENT.into()),
        },
        Err(errno) => Err(errno.into()),
    }
}

fn parent_of(root: &OwnedFd, parent: &str) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    tree::resolve(root.as_fd(), Path::new(parent), flags)
}

fn look(root: &OwnedFd, path: &str) -> io::Result<Option<FileEntry>> {
    let (parent, name) = strange_file::split(path)?;
    match parent_of(root, parent) {
        Ok(dir) => strange_file::look(dir, &name),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

fn read(root: &OwnedFd, path: &str, into: &File) -> io::Result<FileEntry> {
    let (_, name) = strange_file::split(path)?;
    let path = Path::new(path);
    // Looked at first: to open a device can be an act already.
    let there = tree::resolve(root.as_fd(), path, OFlags::PATH)?;
    let stat = rustix::fs::fstat(&there)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(strange_file::not_plain(&strange_file::describe(
            &name, &stat,
        )));
    }
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let (file, stat) = strange_file::plain(tree::resolve(root.as_fd(), path, flags)?)?;
    strange_file::copy(&file, into)?;
    Ok(strange_file::describe(&name, &stat))
}

fn write(root: &OwnedFd, path: &str, wish: &FileWish, from: &File) -> io::Result<FileEntry> {
    let (parent, name) = strange_file::split(path)?;
    let dir = parent_of(root, parent).map_err(|errno| match errno {
        Errno::NOENT => io::Error::other(format!("there is no folder {parent}: make it first")),
        errno => errno.into(),
    })?;
    let there = strange_file::look(&dir, &name)?;
    // Of its own for each writer: they hold no lock.
    let own = random::hex(8).map_err(|error| error.errno)?;
    let temporary = std::ffi::CString::new(format!(".bulkhead-new-{own}"))?;
    strange_file::put(&dir, (&name, &temporary), there.as_ref(), wish, from)
}
