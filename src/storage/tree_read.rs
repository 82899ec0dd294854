//! Reads a whole tree, one item after another in one order: parents first, names by bytes. By
//! descriptor, following nothing, crossing no mount. Each item is met with what stat(2) says; what
//! costs more (attributes, where its data lies) is read when it is asked for, so that a backup can
//! pass over what it has. Making a tree from items is `tree_write`.

use std::collections::HashMap;
use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;

use rustix::fs::{self, FileType, Mode, OFlags, ResolveFlags, SeekFrom, Stat};
use rustix::io::Errno;

use super::dirfd::{FileError, child_dir, cname, file_type, is_dir, is_file, permissions, retry};
use super::tree_item::{Item, What, failed};
use super::walk::walk;

/// One file met on the way.
#[derive(Debug)]
pub(super) struct Found<'a> {
    /// Path below the top; empty for the top itself.
    pub(super) path: &'a [u8],
    /// What stat(2) says.
    pub(super) stat: &'a Stat,
    /// Where it was met before, for one with several names.
    pub(super) earlier: Option<&'a [u8]>,
    place: Option<(BorrowedFd<'a>, &'a CStr)>,
    top: BorrowedFd<'a>,
}

/// The data of a regular file.
#[derive(Debug)]
pub(super) struct Content {
    file: File,
    /// Offset and length of pieces not yet read, the nearest last.
    left: Vec<(u64, u64)>,
}

impl Content {
    /// Reads on: the bytes of all pieces, one after another; 0 at the end. Where the file has become
    /// shorter meanwhile there are zeros, so that there are as many bytes as the item says.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some((offset, length)) = self.left.last_mut() else {
            return Ok(0);
        };
        let want = buffer
            .len()
            .min(usize::try_from(*length).unwrap_or(usize::MAX));
        let mut n = self.file.read_at(&mut buffer[..want], *offset)?;
        if n == 0 {
            buffer[..want].fill(0);
            n = want;
        }
        *offset += n as u64;
        *length -= n as u64;
        if *length == 0 {
            self.left.pop();
        }
        Ok(n)
    }

    /// Bytes of the current piece that are still to be read; 0 at the end.
    pub(super) fn left(&self) -> usize {
        let left = self.left.last().map_or(0, |piece| piece.1);
        usize::try_from(left).unwrap_or(usize::MAX)
    }
}

/// Calls `visit` for the folder `top` and every file below it.
///
/// # Errors
/// Of the walk (`ESTALE` where folders are moved meanwhile), or what `visit` returns.
pub(super) fn read_tree<E: From<FileError>>(
    top: BorrowedFd<'_>,
    mut visit: impl FnMut(&Found<'_>) -> Result<(), E>,
) -> Result<(), E> {
    enum Ended<E> {
        Walk(Errno),
        Visit(E),
    }
    impl<E> From<Errno> for Ended<E> {
        fn from(errno: Errno) -> Self {
            Self::Walk(errno)
        }
    }
    let stat = fs::fstat(top).map_err(|e| failed("look at", b"", e))?;
    visit(&Found::top(top, &stat))?;
    let mut names: HashMap<(u64, u64), Vec<u8>> = HashMap::new();
    let mut at = Vec::new();
    let walked = walk(top, |met| {
        at.clear();
        at.extend_from_slice(met.path);
        let linked = met.stat.st_nlink > 1 && !is_dir(met.stat);
        let id = (met.stat.st_dev, met.stat.st_ino);
        let earlier = names.get(&id).filter(|_| linked).cloned();
        if linked && earlier.is_none() {
            names.insert(id, met.path.to_vec());
        }
        visit(&Found {
            path: met.path,
            stat: met.stat,
            earlier: earlier.as_deref(),
            place: Some((met.dir, met.name)),
            top,
        })
        .map_err(Ended::Visit)
    });
    walked.map_err(|ended| match ended {
        Ended::Walk(errno) => failed("read the tree after", &at, errno).into(),
        Ended::Visit(error) => error,
    })
}

impl<'a> Found<'a> {
    /// The top of a tree.
    pub(super) fn top(top: BorrowedFd<'a>, stat: &'a Stat) -> Self {
        Self {
            path: b"",
            stat,
            earlier: None,
            place: None,
            top,
        }
    }

    /// One that was met by another walk, in the folder `dir`.
    pub(super) fn met(
        path: &'a [u8],
        (dir, name): (BorrowedFd<'a>, &'a CStr),
        stat: &'a Stat,
        earlier: Option<&'a [u8]>,
    ) -> Self {
        Self {
            path,
            stat,
            earlier,
            place: Some((dir, name)),
            top: dir,
        }
    }

    /// The same as a file of its own, whatever other names it has.
    pub(super) fn alone(&self) -> Found<'a> {
        Found {
            earlier: None,
            ..*self
        }
    }

    /// Everything about it, and the data of a regular file. `None` if it has gone meanwhile, or has
    /// become something else.
    ///
    /// # Errors
    /// It cannot be read.
    pub(super) fn item(&self) -> Result<Option<(Item, Option<Content>)>, FileError> {
        match self.look() {
            Ok(found) => Ok(Some(found)),
            Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR | Errno::STALE) => Ok(None),
            Err(errno) => Err(failed("read", self.path, errno)),
        }
    }

    fn look(&self) -> rustix::io::Result<(Item, Option<Content>)> {
        if let Some(earlier) = self.earlier {
            return Ok((
                self.describe(self.stat, What::HardLink(earlier.to_vec())),
                None,
            ));
        }
        let Some((dir, name)) = self.place else {
            let mut item = self.describe(self.stat, What::Folder);
            item.xattrs = of_open(self.top)?;
            return Ok((item, None));
        };
        let what = match file_type(self.stat) {
            FileType::RegularFile => return self.file(dir, name),
            FileType::Directory => {
                let mut item = self.describe(self.stat, What::Folder);
                item.xattrs = of_open(child_dir(dir, name)?)?;
                return Ok((item, None));
            }
            FileType::Symlink => What::Symlink(fs::readlinkat(dir, name, Vec::new())?.into_bytes()),
            FileType::Fifo => What::Fifo,
            FileType::Socket => What::Socket,
            kind => What::Device {
                block: kind == FileType::BlockDevice,
                major: fs::major(self.stat.st_rdev),
                minor: fs::minor(self.stat.st_rdev),
            },
        };
        let mut item = self.describe(self.stat, what);
        item.xattrs = of_name(dir, name)?;
        Ok((item, None))
    }

    fn file(
        &self,
        dir: BorrowedFd<'_>,
        name: &CStr,
    ) -> rustix::io::Result<(Item, Option<Content>)> {
        let file = File::from(open_quietly(dir, name)?);
        // Of the file that is open: another may have its name by now.
        let stat = fs::fstat(&file)?;
        if !is_file(&stat) {
            return Err(Errno::STALE);
        }
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let pieces = pieces(&file, &stat, size)?;
        let left = pieces.iter().rev().copied().filter(|p| p.1 > 0).collect();
        let mut item = self.describe(&stat, What::File { size, pieces });
        item.xattrs = of_open(&file)?;
        Ok((item, Some(Content { file, left })))
    }

    fn describe(&self, stat: &Stat, what: What) -> Item {
        let nanoseconds = |n| u32::try_from(n).unwrap_or(0);
        Item {
            path: self.path.to_vec(),
            what,
            mode: permissions(stat),
            uid: stat.st_uid,
            gid: stat.st_gid,
            modified: (stat.st_mtime, nanoseconds(stat.st_mtime_nsec)),
            accessed: (stat.st_atime, nanoseconds(stat.st_atime_nsec)),
            xattrs: Vec::new(),
        }
    }
}

/// Opens a file for reading without leaving a trace in its times, where that is allowed.
pub(super) fn open_quietly(dir: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<OwnedFd> {
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let flags =
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let open = |flags| retry(|| fs::openat2(dir, name, flags, Mode::empty(), how));
    match open(flags | OFlags::NOATIME) {
        Err(Errno::PERM) => open(flags),
        other => other,
    }
}

/// Where the data of a file lies. One without holes is not asked.
fn pieces(file: &File, stat: &Stat, size: u64) -> rustix::io::Result<Vec<(u64, u64)>> {
    let held = u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
    if held >= size {
        return Ok(vec![(0, size)]);
    }
    let mut found = Vec::new();
    let mut at = 0;
    while at < size {
        let begin = match fs::seek(file, SeekFrom::Data(at)) {
            Ok(begin) => begin.min(size),
            // Nothing but a hole up to the end.
            Err(Errno::NXIO) => break,
            // A file system without holes.
            Err(Errno::INVAL) if at == 0 => return Ok(vec![(0, size)]),
            Err(e) => return Err(e),
        };
        let end = fs::seek(file, SeekFrom::Hole(begin))?.min(size);
        if begin < end {
            found.push((begin, end - begin));
        }
        at = end.max(begin + 1);
    }
    Ok(found)
}

/// Attributes of what is open.
pub(super) fn of_open(fd: impl AsFd) -> rustix::io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let fd = fd.as_fd();
    collect(
        |buffer| fs::flistxattr(fd, buffer),
        |name, buffer| fs::fgetxattr(fd, name, buffer),
    )
}

/// Attributes of what cannot be opened without following or waiting: links, FIFOs, devices. By way
/// of the open folder, one component, which is not followed.
pub(super) fn of_name(dir: impl AsFd, name: &CStr) -> rustix::io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let path = by_folder(dir.as_fd(), name)?;
    collect(
        |buffer| fs::llistxattr(&*path, buffer),
        |name, buffer| fs::lgetxattr(&*path, name, buffer),
    )
}

/// A path that leads to `name` in an open folder, for calls that take no descriptor.
pub(super) fn by_folder(dir: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<std::ffi::CString> {
    let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
    path.extend_from_slice(name.to_bytes());
    cname(path).map_err(|_| Errno::INVAL)
}

fn collect(
    list: impl Fn(&mut [u8]) -> rustix::io::Result<usize>,
    get: impl Fn(&[u8], &mut [u8]) -> rustix::io::Result<usize>,
) -> rustix::io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    // XATTR_LIST_MAX and XATTR_SIZE_MAX: no list and no value is longer.
    const MOST: usize = 65536;
    let mut small = [0; 256];
    let mut large = Vec::new();
    let used = match list(&mut small) {
        Ok(0) | Err(Errno::NOTSUP) => return Ok(Vec::new()),
        Ok(used) => &small[..used],
        Err(Errno::RANGE) => {
            large.resize(MOST, 0);
            let used = list(&mut large)?;
            &large[..used]
        }
        Err(e) => return Err(e),
    };
    let mut names: Vec<&[u8]> = used.split(|b| *b == 0).filter(|n| !n.is_empty()).collect();
    names.sort_unstable();
    let mut value = vec![0; MOST];
    let mut found = Vec::with_capacity(names.len());
    for name in names {
        match get(name, &mut value) {
            Ok(length) => found.push((name.to_vec(), value[..length].to_vec())),
            // Removed meanwhile.
            Err(Errno::NODATA) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(found)
}
