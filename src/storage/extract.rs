//! Writes the entries of an archive below one folder and nowhere else. Parents are resolved with
//! `openat2(RESOLVE_IN_ROOT)`, so that a link of the archive's own leads where it would inside the
//! guest; the last component is made new, never opened or followed. Reading the stream is
//! `archive_read`.

use std::collections::HashMap;
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::rc::Rc;

use rustix::fs::{self, AtFlags, Mode, ResolveFlags};
use rustix::io::Errno;

use super::archive_entry::{ArchiveError, Entry, EntryKind, Limits};
use super::archive_read::Reader;
use super::dirfd::{FileError, Owner, cname, is_dir, retry, stat_at};
use super::extract_file::{
    Extracted, Folders, OPEN_DIR, Step, at, create, finish_at, is_harmless, path_of, times,
};

const INSIDE: ResolveFlags = ResolveFlags::IN_ROOT
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);
/// Links to folders that are not there yet, followed one from another.
const DANGLING_MOST: u32 = 8;
/// Parents kept open.
const KEPT_OPEN: usize = 64;

/// Extracts all of `input` below `root`.
pub(super) fn extract(
    root: &OwnedFd,
    input: impl Read,
    limits: Limits,
) -> Result<Extracted, ArchiveError> {
    extract_from(root, &mut Reader::new(input, limits), |_| true)
}

/// The same for a layer of an image: names that begin with `.wh.` hide what is below
/// (`extract_layer`).
pub(super) fn extract_layer(
    root: &OwnedFd,
    input: impl Read,
    limits: Limits,
) -> Result<Extracted, ArchiveError> {
    write_all(root, &mut Reader::new(input, limits), true, |_| true)
}

/// Extracts what is left of an archive, as far as `wanted` says so; it may change entries.
pub(super) fn extract_from<R: Read>(
    root: &OwnedFd,
    reader: &mut Reader<R>,
    wanted: impl FnMut(&mut Entry) -> bool,
) -> Result<Extracted, ArchiveError> {
    write_all(root, reader, false, wanted)
}

fn write_all<R: Read>(
    root: &OwnedFd,
    reader: &mut Reader<R>,
    layer: bool,
    mut wanted: impl FnMut(&mut Entry) -> bool,
) -> Result<Extracted, ArchiveError> {
    let mut writer = Writer {
        root,
        layer,
        folders: Folders::default(),
        parents: HashMap::new(),
        buffer: vec![0; 256 << 10],
        made: 0,
        done: Extracted::default(),
    };
    while let Some(mut entry) = reader.next()? {
        if wanted(&mut entry) {
            let before = writer.done.replaced;
            writer.entry(reader, &entry)?;
            if before == 0 && writer.done.replaced > 0 {
                writer.done.first_replaced = path_of(&entry.path);
            }
        }
    }
    writer.times()?;
    Ok(writer.done)
}

pub(super) struct Writer<'a> {
    root: &'a OwnedFd,
    /// Whether it is a layer of an image.
    pub(super) layer: bool,
    /// Folders and their times, set when nothing is written into them any more.
    folders: Folders,
    /// Parents by path; forgotten whenever a name is replaced.
    parents: HashMap<Vec<u8>, Rc<OwnedFd>>,
    buffer: Vec<u8>,
    /// Folders made for entries below them and not counted yet.
    made: u64,
    pub(super) done: Extracted,
}

impl Writer<'_> {
    fn entry<R: Read>(
        &mut self,
        reader: &mut Reader<R>,
        entry: &Entry,
    ) -> Result<(), ArchiveError> {
        let failed = |cause| failed_at(entry, cause);
        if !self.is_wanted(reader, entry)? {
            return Ok(());
        }
        self.done.entries += 1;
        if self.layer && self.whiteout(reader, entry)? {
            return Ok(());
        }
        let Some((name, parents)) = entry.path.split_last() else {
            if entry.kind != EntryKind::Folder {
                return Err(reader.wrong("it would replace the root, but is no folder"));
            }
            let top = retry(|| fs::openat(self.root, c".", OPEN_DIR, Mode::empty()));
            let top = at("open", top).map_err(failed)?;
            return self.finish_folder(&top, entry).map_err(failed);
        };
        let parent = self.parent(parents).map_err(failed)?;
        reader.count(self.take_made())?;
        let name = cname(name.clone()).map_err(|e| failed(("name", e)))?;
        match entry.kind {
            EntryKind::Folder => self.folder(&parent, &name, entry).map_err(failed),
            EntryKind::File => {
                self.make_way(&parent, &name).map_err(failed)?;
                let file = create(&parent, &name).map_err(failed)?;
                self.fill(reader, entry, &file)?.map_err(failed)?;
                self.finish_file(&file, entry).map_err(failed)
            }
            EntryKind::HardLink => {
                let target = reader.path(&entry.link)?;
                match self.hard_link(&parent, &name, &target).map_err(failed)? {
                    true => Ok(()),
                    false => Err(reader.wrong(
                        "it is a hard link to what is not in the archive before it, or to a folder",
                    )),
                }
            }
            EntryKind::Symlink => {
                self.make_way(&parent, &name).map_err(failed)?;
                let target = cname(entry.link.clone()).map_err(|e| failed(("name", e)))?;
                at("make link", fs::symlinkat(&*target, &*parent, &*name)).map_err(failed)?;
                finish_at(&parent, &name, entry).map_err(failed)
            }
            EntryKind::Fifo => {
                self.make_way(&parent, &name).map_err(failed)?;
                at("make FIFO", fs::mkfifoat(&*parent, &*name, Mode::RUSR)).map_err(failed)?;
                finish_at(&parent, &name, entry).map_err(failed)?;
                // A FIFO is its own name: nobody else writes to this tree.
                let mode = Mode::from_raw_mode(entry.mode);
                at(
                    "set mode of",
                    fs::chmodat(&*parent, &*name, mode, AtFlags::empty()),
                )
                .map_err(failed)
            }
            EntryKind::Device => Ok(()),
        }
    }

    /// Whether an entry is to be written; a device node below a `dev` is not, and elsewhere it is
    /// an error, as are links to nothing.
    fn is_wanted<R: Read>(
        &mut self,
        reader: &Reader<R>,
        entry: &Entry,
    ) -> Result<bool, ArchiveError> {
        if entry.kind == EntryKind::Device {
            let folders = &entry.path[..entry.path.len().saturating_sub(1)];
            if !folders.iter().any(|part| part == b"dev") {
                return Err(reader.wrong(
                    "it is a device node; those are left out below a folder named dev, \
                     where the guest gets its own, and refused elsewhere",
                ));
            }
            self.done.devices += 1;
            return Ok(false);
        }
        if matches!(entry.kind, EntryKind::Symlink | EntryKind::HardLink) {
            let link = &entry.link;
            if link.is_empty() || link.len() > 4095 || link.contains(&0) {
                return Err(reader.wrong("its link target is empty, too long or holds a zero byte"));
            }
        }
        Ok(true)
    }

    /// Folders made since it was last asked.
    pub(super) fn take_made(&mut self) -> u64 {
        std::mem::take(&mut self.made)
    }

    /// The folder that these components lead to inside the root, made where it is missing.
    pub(super) fn parent(&mut self, parts: &[Vec<u8>]) -> Step<Rc<OwnedFd>> {
        let path = path_of(parts);
        if let Some(fd) = self.parents.get(&path) {
            return Ok(Rc::clone(fd));
        }
        let fd = Rc::new(self.ensure(parts, 0)?);
        if self.parents.len() >= KEPT_OPEN {
            self.parents.clear();
        }
        self.parents.insert(path, Rc::clone(&fd));
        Ok(fd)
    }

    fn open_inside(&self, path: &[u8]) -> rustix::io::Result<OwnedFd> {
        let path = if path.is_empty() { b"." } else { path };
        retry(|| fs::openat2(self.root, path, OPEN_DIR, Mode::empty(), INSIDE))
    }

    fn ensure(&mut self, parts: &[Vec<u8>], links: u32) -> Step<OwnedFd> {
        match self.open_inside(&path_of(parts)) {
            Err(Errno::NOENT) => {}
            // A whiteout may be in the way.
            Err(Errno::NOTDIR) if self.layer => {}
            other => return at("open folder", other),
        }
        let Some((name, above)) = parts.split_last() else {
            return at("open folder", self.open_inside(b""));
        };
        let parent = self.ensure(above, links)?;
        let name = cname(name.clone()).map_err(|e| ("name", e))?;
        if self.layer && self.over_whiteout(&parent, &name)? {
            return at("open folder", self.open_inside(&path_of(parts)));
        }
        match fs::mkdirat(&parent, &*name, Mode::from_raw_mode(0o755)) {
            Ok(()) => {
                self.made += 1;
                self.usual_mode(&parent, &name, parts)?;
                return at("open folder", self.open_inside(&path_of(parts)));
            }
            Err(Errno::EXIST) => {}
            Err(e) => return Err(("create folder", e.into())),
        }
        // A link to a folder that comes later in the archive: that one is made now.
        if links >= DANGLING_MOST {
            return Err(("follow links to", Errno::LOOP.into()));
        }
        let target = match fs::readlinkat(&parent, &*name, Vec::new()) {
            Err(Errno::INVAL) => return Err(("open folder", Errno::NOTDIR.into())),
            other => at("read link", other)?.into_bytes(),
        };
        let mut inside = if target.first() == Some(&b'/') {
            Vec::new()
        } else {
            above.to_vec()
        };
        for part in target.split(|b| *b == b'/') {
            match part {
                b"" | b"." => {}
                b".." => drop(inside.pop()),
                part => inside.push(part.to_vec()),
            }
        }
        self.ensure(&inside, links + 1)?;
        at("open folder", self.open_inside(&path_of(parts)))
    }

    /// Removes what has the name of a new entry; a folder only if it is empty.
    pub(super) fn make_way(&mut self, parent: &OwnedFd, name: &CString) -> Step<()> {
        match fs::unlinkat(parent, &**name, AtFlags::empty()) {
            Err(Errno::NOENT) => return Ok(()),
            Ok(()) => {}
            Err(Errno::ISDIR | Errno::PERM) => {
                at(
                    "replace folder",
                    fs::unlinkat(parent, &**name, AtFlags::REMOVEDIR),
                )?;
            }
            Err(e) => return Err(("replace", e.into())),
        }
        self.parents.clear();
        // In a layer that is what a whiteout is for, and another layer may have made it.
        self.done.replaced += u64::from(!self.layer);
        Ok(())
    }

    fn folder(&mut self, parent: &OwnedFd, name: &CString, entry: &Entry) -> Step<()> {
        if self.layer {
            self.over_whiteout(parent, name)?;
        }
        let there = at("look at", stat_at(parent, name))?;
        if !there.is_some_and(|stat| is_dir(&stat)) {
            self.make_way(parent, name)?;
            at("create folder", fs::mkdirat(parent, &**name, Mode::RWXU))?;
        }
        let dir = at("open folder", super::dirfd::child_dir(parent, name))?;
        self.finish_folder(&dir, entry)
    }

    fn finish_folder(&mut self, dir: &OwnedFd, entry: &Entry) -> Step<()> {
        self.attributes(dir, entry)?;
        self.folders.keep(path_of(&entry.path), entry.mtime)
    }

    fn finish_file(&mut self, file: &File, entry: &Entry) -> Step<()> {
        self.attributes(file, entry)?;
        at("set time of", fs::futimens(file, &times(entry.mtime)))
    }

    /// Owner, then attributes (chown(2) drops capabilities), then mode.
    fn attributes(&mut self, fd: impl AsFd, entry: &Entry) -> Step<()> {
        let owner = Owner {
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
        };
        at("set owner of", owner.apply(fd.as_fd()))?;
        for (name, value) in &entry.xattrs {
            if !is_harmless(name, value) {
                self.done.xattrs += 1;
                continue;
            }
            match fs::fsetxattr(fd.as_fd(), name.as_slice(), value, fs::XattrFlags::empty()) {
                Ok(()) => {}
                // File systems differ in what they keep of these.
                Err(Errno::NOTSUP | Errno::TOOBIG | Errno::RANGE | Errno::INVAL) => {
                    self.done.xattrs += 1;
                }
                Err(e) => return Err(("set attributes of", e.into())),
            }
        }
        Ok(())
    }

    /// Copies the entry's data. The outer error is the archive's, the inner one the disk's.
    fn fill<R: Read>(
        &mut self,
        reader: &mut Reader<R>,
        entry: &Entry,
        file: &File,
    ) -> Result<Step<()>, ArchiveError> {
        let mut out = file;
        if let [(0, length)] = entry.pieces[..]
            && length == entry.size
        {
            loop {
                let n = reader.read_data(&mut self.buffer)?;
                if n == 0 {
                    return Ok(Ok(()));
                }
                if let Err(e) = out.write_all(&self.buffer[..n]) {
                    return Ok(Err(("write", e)));
                }
            }
        }
        if let Err(e) = fs::ftruncate(file, entry.size) {
            return Ok(Err(("write", e.into())));
        }
        for &(mut offset, length) in &entry.pieces {
            let mut left = length;
            while left > 0 {
                let most = self
                    .buffer
                    .len()
                    .min(usize::try_from(left).unwrap_or(usize::MAX));
                let n = reader.read_data(&mut self.buffer[..most])?;
                if let Err(e) = file.write_all_at(&self.buffer[..n], offset) {
                    return Ok(Err(("write", e)));
                }
                offset += n as u64;
                left -= n as u64;
                if n == 0 {
                    return Err(reader.wrong("its sparse map and its data do not agree"));
                }
            }
        }
        Ok(Ok(()))
    }

    /// Links to a file that was written before; false if there is none or it is a folder.
    fn hard_link(&mut self, parent: &OwnedFd, name: &CString, target: &[Vec<u8>]) -> Step<bool> {
        let Some((last, above)) = target.split_last() else {
            return Ok(false);
        };
        let dir = match self.open_inside(&path_of(above)) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(false),
            other => at("open folder", other)?,
        };
        let last = cname(last.clone()).map_err(|e| ("name", e))?;
        let Some(stat) = at("look at", stat_at(&dir, &last))? else {
            return Ok(false);
        };
        if is_dir(&stat) {
            return Ok(false);
        }
        if let Some(there) = at("look at", stat_at(parent, name))? {
            if (there.st_dev, there.st_ino) == (stat.st_dev, stat.st_ino) {
                return Ok(true);
            }
            self.make_way(parent, name)?;
        }
        // Without AT_SYMLINK_FOLLOW a link to a symbolic link is a link to that link.
        at(
            "make hard link",
            fs::linkat(&dir, &*last, parent, &**name, AtFlags::empty()),
        )?;
        Ok(true)
    }

    /// Times of folders, deepest last written first set.
    fn times(&self) -> Result<(), ArchiveError> {
        let flags = INSIDE.union(ResolveFlags::NO_SYMLINKS);
        for (path, time) in self.folders.latest_first() {
            let shown = || PathBuf::from(std::ffi::OsString::from_vec(path.clone()));
            let name: &[u8] = if path.is_empty() { b"." } else { path };
            match retry(|| fs::openat2(self.root, name, OPEN_DIR, Mode::empty(), flags)) {
                Ok(dir) => fs::futimens(&dir, &times(*time))
                    .map_err(|e| FileError::new("set time of", &shown(), e))?,
                // Replaced by a later entry, or named through a link.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(e) => return Err(FileError::new("open folder", &shown(), e).into()),
            }
        }
        Ok(())
    }
}

/// An error of the disk at an entry.
pub(super) fn failed_at(entry: &Entry, (verb, source): (&'static str, io::Error)) -> ArchiveError {
    let path = PathBuf::from(std::ffi::OsString::from_vec(path_of(&entry.path)));
    FileError { verb, path, source }.into()
}
