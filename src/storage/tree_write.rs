//! Makes a tree from items, in an empty folder and nowhere else: the other half of `tree_read`.
//!
//! Items must come in the order of a walk, each once, each in a folder that came before it. So no
//! link is ever followed, nothing is replaced, and whatever a stream says, only new names in folders
//! of this tree are made. A folder gets its owner, attributes and times when it is left: an access
//! list for new files must not meet the files that are being made, and each of them changes its time.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;

use super::dirfd::{FileError, Owner, child_dir, cname, is_dir, stat_at};
use super::tree_item::{Item, Time, What, failed};
use super::tree_policy::Policy;
use super::tree_read::by_folder;

/// Makes a tree.
#[derive(Debug)]
pub(super) struct TreeWriter {
    top: OwnedFd,
    /// The folder that is being filled.
    dir: OwnedFd,
    /// Folders from the top to that one.
    levels: Vec<Level>,
    policy: Policy,
    left_out: u64,
}

#[derive(Debug)]
struct Level {
    item: Item,
    /// Device and inode, to know it again on the way up.
    id: (u64, u64),
    /// The name in it that came last.
    last: Vec<u8>,
}

/// A regular file that waits for its data.
#[derive(Debug)]
pub(super) struct Sink {
    file: File,
    item: Item,
    /// Pieces not yet written, the nearest last.
    left: Vec<(u64, u64)>,
}

impl Sink {
    /// Writes on: the bytes of all pieces, one after another.
    ///
    /// # Errors
    /// The disk is full; there is more than the item says.
    pub(super) fn write(&mut self, mut data: &[u8]) -> Result<(), FileError> {
        while !data.is_empty() {
            let Some((offset, length)) = self.left.last_mut() else {
                return Err(failed("write", &self.item.path, Errno::FBIG));
            };
            let n = data
                .len()
                .min(usize::try_from(*length).unwrap_or(usize::MAX));
            self.file
                .write_all_at(&data[..n], *offset)
                .map_err(|e| failed("write", &self.item.path, e))?;
            *offset += n as u64;
            *length -= n as u64;
            if *length == 0 {
                self.left.pop();
            }
            data = &data[n..];
        }
        Ok(())
    }
}

impl TreeWriter {
    /// A writer into the empty folder `top`.
    ///
    /// # Errors
    /// It cannot be looked at, or is not empty.
    pub(super) fn new(top: impl AsFd, policy: Policy) -> Result<Self, FileError> {
        let again = |fd: BorrowedFd<'_>| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            fs::openat(fd, c".", flags, Mode::empty()).map_err(|e| failed("open", b"", e))
        };
        let (top, dir) = (again(top.as_fd())?, again(top.as_fd())?);
        let names = super::dirfd::names(&top).map_err(|e| failed("read", b"", e))?;
        if !names.is_empty() {
            return Err(failed("fill", b"", Errno::NOTEMPTY));
        }
        Ok(Self {
            top,
            dir,
            levels: Vec::new(),
            policy,
            left_out: 0,
        })
    }

    /// Makes one item; a regular file gives back where its data goes.
    ///
    /// # Errors
    /// It is out of order, lies in no folder of this tree, is not allowed, or cannot be made.
    pub(super) fn item(&mut self, item: Item) -> Result<Option<Sink>, FileError> {
        self.policy
            .check(&item)
            .map_err(|e| failed("make", &item.path, e))?;
        match self.enter(&item)? {
            Some(name) => self.make(&name, item),
            None => Ok(None),
        }
    }

    /// The same under a name in the folder that is being filled.
    fn make(&mut self, name: &CStr, item: Item) -> Result<Option<Sink>, FileError> {
        let path = item.path.clone();
        let at = |e: io::Error| failed("make", &path, e);
        let made = |r: rustix::io::Result<()>| r.map_err(|e| failed("make", &path, e));
        match &item.what {
            What::Folder => {
                made(fs::mkdirat(&self.dir, name, Mode::RWXU))?;
                let dir = child_dir(&self.dir, name).map_err(|e| failed("open", &path, e))?;
                return self.push(dir, item).map(|()| None);
            }
            What::File { size, pieces } => {
                let flags = OFlags::WRONLY
                    | OFlags::CREATE
                    | OFlags::EXCL
                    | OFlags::NOFOLLOW
                    | OFlags::CLOEXEC;
                let file = fs::openat(&self.dir, name, flags, Mode::RUSR | Mode::WUSR)
                    .map_err(|e| failed("make", &path, e))?;
                // One that is data from its beginning to its end has its size when it is written.
                if *pieces != [(0, *size)] {
                    made(fs::ftruncate(&file, *size))?;
                }
                let left = pieces.iter().rev().copied().filter(|p| p.1 > 0).collect();
                return Ok(Some(Sink {
                    file: File::from(file),
                    item,
                    left,
                }));
            }
            What::HardLink(target) => return self.link(target, name, &path).map(|()| None),
            What::Symlink(target) => {
                let target = cname(target.clone()).map_err(at)?;
                made(fs::symlinkat(&*target, &self.dir, name))?;
            }
            What::Device {
                block,
                major,
                minor,
            } => {
                let kind = match block {
                    true => FileType::BlockDevice,
                    false => FileType::CharacterDevice,
                };
                let number = fs::makedev(*major, *minor);
                made(fs::mknodat(&self.dir, name, kind, Mode::empty(), number))?;
            }
            What::Fifo => made(fs::mknodat(
                &self.dir,
                name,
                FileType::Fifo,
                Mode::empty(),
                0,
            ))?,
            What::Socket => {
                let kind = FileType::Socket;
                made(fs::mknodat(&self.dir, name, kind, Mode::empty(), 0))?;
            }
        }
        self.finish_name(name, &item).map(|()| None)
    }

    /// Ends a regular file whose data is written.
    ///
    /// # Errors
    /// Data is missing, or its owner, attributes or times cannot be set.
    pub(super) fn close(&mut self, sink: Sink) -> Result<(), FileError> {
        if !sink.left.is_empty() {
            let source = io::Error::from(io::ErrorKind::UnexpectedEof);
            return Err(failed("write all of", &sink.item.path, source));
        }
        self.finish_open(sink.file.as_fd(), &sink.item)
    }

    /// Takes a regular file away again whose data is not to be had; `absent` stands in its place.
    ///
    /// # Errors
    /// It cannot be removed, or that not be made.
    pub(super) fn abandon(&mut self, sink: Sink, absent: Option<What>) -> Result<(), FileError> {
        let mut item = sink.item;
        let name = item.path.rsplit(|byte| *byte == b'/').next();
        let at = |e: io::Error| failed("remove", &item.path, e);
        let name = cname(name.unwrap_or_default()).map_err(at)?;
        fs::unlinkat(&self.dir, &*name, AtFlags::empty()).map_err(|e| at(e.into()))?;
        let Some(what) = absent else { return Ok(()) };
        (item.what, item.xattrs) = (what, Vec::new());
        self.make(&name, item).map(drop)
    }

    /// Ends the tree. Gives the number of attributes that were left out.
    ///
    /// # Errors
    /// No item came, or what a folder has cannot be set.
    pub(super) fn finish(mut self) -> Result<u64, FileError> {
        if self.levels.is_empty() {
            return Err(failed(
                "make",
                b"",
                io::Error::from(io::ErrorKind::UnexpectedEof),
            ));
        }
        self.leave_to(0)?;
        Ok(self.left_out)
    }

    /// Goes to the folder an item lies in and gives its name there; `None` for the top, which is
    /// dealt with here.
    fn enter(&mut self, item: &Item) -> Result<Option<CString>, FileError> {
        let refuse = |why: &'static str| {
            let source = io::Error::new(io::ErrorKind::InvalidData, why);
            failed("make", &item.path, source)
        };
        if item.path.is_empty() {
            if !self.levels.is_empty() || item.what != What::Folder {
                return Err(refuse("the top comes first, once, and is a folder"));
            }
            let top = rustix::io::fcntl_dupfd_cloexec(&self.top, 0)
                .map_err(|e| failed("open", b"", e))?;
            self.push(top, item.clone())?;
            return Ok(None);
        }
        let mut parts = item.path.split(|b| *b == b'/').peekable();
        let mut depth = 0;
        let name = loop {
            let part = parts.next().unwrap_or_default();
            if matches!(part, b"" | b"." | b"..") || part.len() > 255 || part.contains(&0) {
                return Err(refuse("its path is not made of plain names"));
            }
            depth += 1;
            if parts.peek().is_none() {
                break part;
            }
            // Folders on the way must be the ones that came last.
            let above = self.levels.get(depth).map(|level| &level.item.path);
            let own = above.and_then(|path| path.rsplit(|b| *b == b'/').next());
            if own != Some(part) {
                return Err(refuse(
                    "it lies in no folder that came before it, or out of order",
                ));
            }
        };
        if depth > self.levels.len() {
            return Err(refuse("it lies in no folder that came before it"));
        }
        self.leave_to(depth)?;
        let Some(level) = self.levels.last_mut() else {
            return Err(refuse("the top is missing"));
        };
        if !level.last.is_empty() && level.last.as_slice() >= name {
            return Err(refuse("it comes twice or out of order"));
        }
        level.last = name.to_vec();
        cname(name)
            .map(Some)
            .map_err(|e| failed("make", &item.path, e))
    }

    fn push(&mut self, dir: OwnedFd, item: Item) -> Result<(), FileError> {
        let stat = fs::fstat(&dir).map_err(|e| failed("look at", &item.path, e))?;
        self.dir = dir;
        self.levels.push(Level {
            item,
            id: (stat.st_dev, stat.st_ino),
            last: Vec::new(),
        });
        Ok(())
    }

    /// Leaves folders until `depth` are left.
    fn leave_to(&mut self, depth: usize) -> Result<(), FileError> {
        while self.levels.len() > depth {
            let Some(level) = self.levels.pop() else {
                break;
            };
            if let Some(above) = self.levels.last() {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let up = fs::openat(&self.dir, c"..", flags, Mode::empty())
                    .map_err(|e| failed("leave", &level.item.path, e))?;
                let stat = fs::fstat(&up).map_err(|e| failed("leave", &level.item.path, e))?;
                if (stat.st_dev, stat.st_ino) != above.id {
                    return Err(failed("leave", &level.item.path, Errno::STALE));
                }
                let left = std::mem::replace(&mut self.dir, up);
                self.finish_open(left.as_fd(), &level.item)?;
            } else {
                let top = rustix::io::fcntl_dupfd_cloexec(&self.top, 0)
                    .map_err(|e| failed("open", b"", e))?;
                self.finish_open(top.as_fd(), &level.item)?;
            }
        }
        Ok(())
    }

    /// Another name for what was made before; its path is walked one component at a time.
    fn link(&self, target: &[u8], name: &CStr, path: &[u8]) -> Result<(), FileError> {
        let at = |e: io::Error| failed("link", path, e);
        let mut parts: Vec<&[u8]> = target.split(|b| *b == b'/').collect();
        let last = parts.pop().unwrap_or_default();
        let plain = |part: &[u8]| !matches!(part, b"" | b"." | b"..");
        if !plain(last) || !parts.iter().all(|part| plain(part)) {
            return Err(at(io::Error::new(
                io::ErrorKind::InvalidData,
                "what it is linked to is no plain path",
            )));
        }
        let mut dir: Option<OwnedFd> = None;
        for part in parts {
            let part = cname(part).map_err(at)?;
            let from = dir.as_ref().unwrap_or(&self.top);
            dir = Some(child_dir(from, &part).map_err(|e| at(e.into()))?);
        }
        let dir = dir.as_ref().unwrap_or(&self.top);
        let last = cname(last).map_err(at)?;
        let there = stat_at(dir, &last).map_err(|e| at(e.into()))?;
        match there {
            None => return Err(at(Errno::NOENT.into())),
            Some(stat) if is_dir(&stat) => return Err(at(Errno::ISDIR.into())),
            Some(_) => {}
        }
        fs::linkat(dir, &*last, &self.dir, name, AtFlags::empty()).map_err(|e| at(e.into()))
    }

    /// Owner, then attributes (chown(2) drops capabilities), then mode, then times.
    fn finish_open(&mut self, fd: BorrowedFd<'_>, item: &Item) -> Result<(), FileError> {
        let stat = fs::fstat(fd).map_err(|e| failed("look at", &item.path, e))?;
        if (stat.st_uid, stat.st_gid) != (item.uid, item.gid) {
            let (uid, gid) = (fs::Uid::from_raw(item.uid), fs::Gid::from_raw(item.gid));
            fs::fchown(fd, Some(uid), Some(gid))
                .map_err(|e| failed("set owner of", &item.path, e))?;
        }
        for (name, value) in &item.xattrs {
            if !self.policy.keeps(&item.what, name, value) {
                self.left_out += u64::from(Policy::is_told(name));
                continue;
            }
            let set = fs::fsetxattr(fd, name.as_slice(), value, XattrFlags::empty());
            self.attribute(set, item)?;
        }
        Owner {
            mode: item.mode,
            uid: item.uid,
            gid: item.gid,
        }
        .apply(fd)
        .map_err(|e| failed("set mode of", &item.path, e))?;
        fs::futimens(fd, &times(item.accessed, item.modified))
            .map_err(|e| failed("set times of", &item.path, e))
    }

    /// The same for what cannot be opened: links, FIFOs, sockets, devices. Nobody else works on this
    /// tree, so the name still is what was made.
    fn finish_name(&mut self, name: &CStr, item: &Item) -> Result<(), FileError> {
        let (uid, gid) = (fs::Uid::from_raw(item.uid), fs::Gid::from_raw(item.gid));
        let here = AtFlags::SYMLINK_NOFOLLOW;
        let stat =
            fs::statat(&self.dir, name, here).map_err(|e| failed("look at", &item.path, e))?;
        if (stat.st_uid, stat.st_gid) != (item.uid, item.gid) {
            fs::chownat(&self.dir, name, Some(uid), Some(gid), here)
                .map_err(|e| failed("set owner of", &item.path, e))?;
        }
        if !item.xattrs.is_empty() {
            let path = by_folder(self.dir.as_fd(), name)
                .map_err(|e| failed("set attributes of", &item.path, e))?;
            for (key, value) in &item.xattrs {
                if !self.policy.keeps(&item.what, key, value) {
                    self.left_out += u64::from(Policy::is_told(key));
                    continue;
                }
                let set = fs::lsetxattr(&*path, key.as_slice(), value, XattrFlags::empty());
                self.attribute(set, item)?;
            }
        }
        if !matches!(item.what, What::Symlink(_)) {
            let mode = Mode::from_raw_mode(item.mode);
            fs::chmodat(&self.dir, name, mode, AtFlags::empty())
                .map_err(|e| failed("set mode of", &item.path, e))?;
        }
        fs::utimensat(&self.dir, name, &times(item.accessed, item.modified), here)
            .map_err(|e| failed("set times of", &item.path, e))
    }

    /// Whether an attribute could be set. File systems differ in what they keep of those.
    fn attribute(&mut self, set: rustix::io::Result<()>, item: &Item) -> Result<(), FileError> {
        match set {
            Ok(()) => Ok(()),
            Err(Errno::NOTSUP | Errno::TOOBIG | Errno::RANGE | Errno::INVAL) => {
                self.left_out += 1;
                Ok(())
            }
            Err(e) => Err(failed("set attributes of", &item.path, e)),
        }
    }
}

fn times(accessed: Time, modified: Time) -> Timestamps {
    let time = |(seconds, nanoseconds): Time| Timespec {
        tv_sec: seconds,
        tv_nsec: i64::from(nanoseconds),
    };
    Timestamps {
        last_access: time(accessed),
        last_modification: time(modified),
    }
}
