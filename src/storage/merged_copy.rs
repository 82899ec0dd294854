//! Copies a guest's merged tree into a fresh folder: what the guest sees, layers and whiteouts
//! resolved. The tree is a stranger's: read by descriptor, one name at a time; what it is written
//! into is the program's own.

use std::collections::{BTreeSet, HashMap};
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{self, AtFlags, FileType, Mode, SeekFrom, Stat};
use rustix::io::Errno;

use super::archive_entry::shown;
use super::dirfd::{Owner, child_file, cname, file_type, make_dir, names, stat_at};
use super::extract_file::{create, is_harmless, times};
use super::merged_folder::{Entry, Folder, entry};
use crate::kernel::interrupt;

/// Folders in one another; each holds descriptors open.
const DEPTH_MOST: usize = 256;

/// What becomes of a file that is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is copied, and what is in it is asked about.
    Keep,
    /// It is left out with all that is in it.
    Drop,
}

/// A copy in the making.
pub(super) struct Copy<'a> {
    /// Where to.
    into: &'a OwnedFd,
    fate: &'a dyn Fn(&[u8], bool) -> Fate,
    /// Taken off every owner that is not below it.
    shift: u32,
    /// Where a file with several names was put first, by device and inode.
    linked: HashMap<(u64, u64), Vec<u8>>,
}

/// Where copying went wrong.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) path: String,
    pub(super) source: io::Error,
}

impl<'a> Copy<'a> {
    /// Into the folder `into`, which has none of the names; `fate` is asked about each path and whether it is a folder.
    pub(super) fn new(into: &'a OwnedFd, fate: &'a dyn Fn(&[u8], bool) -> Fate) -> Self {
        Self {
            into,
            fate,
            shift: 0,
            linked: HashMap::new(),
        }
    }

    /// The same, with owners that are so much above what they are inside.
    pub(super) fn shifted(self, shift: u32) -> Self {
        Self { shift, ..self }
    }

    /// What a file's owners are in the copy.
    fn owned(&self, mut stat: Stat) -> Stat {
        let inside = |id: u32| id.checked_sub(self.shift).unwrap_or(id);
        (stat.st_uid, stat.st_gid) = (inside(stat.st_uid), inside(stat.st_gid));
        stat
    }

    /// Copies all of a merged folder.
    pub(super) fn all(&mut self, top: &Folder) -> Result<(), Failed> {
        let into = self.into.try_clone();
        let into = into.map_err(|source| failed(b"", source))?;
        self.folder(top, &into, &mut Vec::new(), 0)?;
        let stat = top.top().map(fs::fstat).transpose();
        let stat = stat.map_err(|e| failed(b"", e.into()))?;
        match stat {
            Some(stat) => finish(&into, &self.owned(stat)).map_err(|e| failed(b"", e)),
            None => Ok(()),
        }
    }

    /// Copies one name of a merged folder, with all that is in it.
    pub(super) fn one_of(&mut self, from: &Folder, name: &CString) -> Result<(), Failed> {
        let into = self.into.try_clone();
        let into = into.map_err(|source| failed(b"", source))?;
        self.one(from, &into, name, &mut name.to_bytes().to_vec(), 0)
    }

    fn folder(
        &mut self,
        from: &Folder,
        into: &OwnedFd,
        path: &mut Vec<u8>,
        depth: usize,
    ) -> Result<(), Failed> {
        if depth > DEPTH_MOST {
            let why = format!("more than {DEPTH_MOST} folders deep");
            return Err(failed(path, io::Error::other(why)));
        }
        let mut all = BTreeSet::new();
        for side in from.folders() {
            all.extend(names(side).map_err(|e| failed(path, e.into()))?);
        }
        let length = path.len();
        for name in all {
            if interrupt::caught().is_some() {
                return Err(failed(path, io::Error::other("interrupted by a signal")));
            }
            if length > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(name.to_bytes());
            self.one(from, into, &name, path, depth)?;
            path.truncate(length);
        }
        Ok(())
    }

    fn one(
        &mut self,
        from: &Folder,
        into: &OwnedFd,
        name: &CString,
        path: &mut Vec<u8>,
        depth: usize,
    ) -> Result<(), Failed> {
        let at = |e: io::Error| failed(path, e);
        let found = entry(from, name).map_err(at)?;
        let is_folder = matches!(found, Entry::Folder(_));
        if (self.fate)(path, is_folder) == Fate::Drop {
            return Ok(());
        }
        match found {
            Entry::Nothing => Ok(()),
            Entry::Link(target) => {
                let stat = self.link_stat(from, name).map_err(at)?;
                let target = cname(target).map_err(at)?;
                fs::symlinkat(&*target, into, &**name).map_err(|e| at(e.into()))?;
                finish_link(into, name, &self.owned(stat)).map_err(at)
            }
            Entry::Folder(folder) => {
                let made = make_dir(into, name, Owner::root(0o700)).map_err(|e| at(e.into()))?;
                self.folder(&folder, &made, path, depth + 1)?;
                let at = |e: io::Error| failed(path, e);
                let Some(top) = folder.top() else {
                    return Ok(());
                };
                let stat = self.owned(fs::fstat(top).map_err(|e| at(e.into()))?);
                copy_attributes(top, &made, is_harmless).map_err(at)?;
                finish(&made, &stat).map_err(at)
            }
            Entry::File { dir, stat } => {
                let stat = self.owned(stat);
                self.file(&dir, into, name, &stat, path).map_err(at)
            }
        }
    }

    /// A link's own owner and time: in the topmost folder that has it.
    fn link_stat(&self, from: &Folder, name: &CString) -> io::Result<Stat> {
        for side in from.folders() {
            if let Some(stat) = stat_at(side, name)? {
                return Ok(stat);
            }
        }
        Err(Errno::NOENT.into())
    }

    fn file(
        &mut self,
        dir: &OwnedFd,
        into: &OwnedFd,
        name: &CString,
        stat: &Stat,
        path: &[u8],
    ) -> io::Result<()> {
        // A socket is nobody's any more; device nodes a guest gets from the host.
        if !matches!(file_type(stat), FileType::RegularFile | FileType::Fifo) {
            return Ok(());
        }
        let id = (stat.st_dev, stat.st_ino);
        if stat.st_nlink > 1 {
            if let Some(first) = self.linked.get(&id) {
                // Every folder on the way there was made here.
                let first = cname(first.clone())?;
                return Ok(fs::linkat(
                    self.into,
                    &*first,
                    into,
                    &**name,
                    AtFlags::empty(),
                )?);
            }
            self.linked.insert(id, path.to_vec());
        }
        if file_type(stat) == FileType::Fifo {
            fs::mkfifoat(into, &**name, Mode::RUSR)?;
            finish_link(into, name, stat)?;
            let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
            return Ok(fs::chmodat(into, &**name, mode, AtFlags::empty())?);
        }
        let from = child_file(dir, name)?;
        let made = create(into, name).map_err(|(_, e)| e)?;
        copy_data(&from, &made)?;
        Owner::of(stat).apply(&made)?;
        copy_attributes(&from, &made, is_harmless)?;
        finish(&made, stat)
    }
}

fn failed(path: &[u8], source: io::Error) -> Failed {
    Failed {
        path: shown(path),
        source,
    }
}

/// Copies what is data; holes stay holes.
pub(super) fn copy_data(from: &File, into: &File) -> io::Result<()> {
    let size = from.metadata()?.len();
    into.set_len(size)?;
    let mut at = 0;
    while at < size {
        let data = match fs::seek(from, SeekFrom::Data(at)) {
            Ok(data) => data,
            Err(Errno::NXIO) => break,
            Err(e) => return Err(e.into()),
        };
        let end = fs::seek(from, SeekFrom::Hole(data))?.min(size);
        fs::seek(from, SeekFrom::Start(data))?;
        fs::seek(into, SeekFrom::Start(data))?;
        let (mut piece, mut out) = (from.take(end.saturating_sub(data)), into);
        if io::copy(&mut piece, &mut out)? == 0 {
            break;
        }
        at = end;
    }
    Ok(())
}

/// Those extended attributes, by name and value, that are kept.
pub(super) fn copy_attributes(
    from: impl AsFd,
    into: impl AsFd,
    keeps: impl Fn(&[u8], &[u8]) -> bool,
) -> io::Result<()> {
    let (from, into) = (from.as_fd(), into.as_fd());
    let length = match fs::flistxattr_query(from) {
        Ok(0) | Err(Errno::NOTSUP) => return Ok(()),
        other => other?,
    };
    let mut list = vec![0; length];
    let used = fs::flistxattr(from, list.as_mut_slice())?;
    list.truncate(used);
    for name in list.split(|b| *b == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; fs::fgetxattr_query(from, name)?];
        let used = fs::fgetxattr(from, name, value.as_mut_slice())?;
        value.truncate(used);
        if keeps(name, &value) {
            fs::fsetxattr(into, name, &value, fs::XattrFlags::empty())?;
        }
    }
    Ok(())
}

/// Owner, mode and time of a file or folder; owner first, which clears set-id bits.
pub(super) fn finish(made: impl AsFd, stat: &Stat) -> io::Result<()> {
    let mode = Owner::of(stat);
    // Capabilities are lost to a change of owner, not to one of mode.
    let is = fs::fstat(made.as_fd())?;
    if (is.st_uid, is.st_gid) != (mode.uid, mode.gid) {
        mode.apply(made.as_fd())?;
    } else {
        fs::fchmod(made.as_fd(), Mode::from_raw_mode(mode.mode))?;
    }
    Ok(fs::futimens(made.as_fd(), &times(time_of(stat)))?)
}

fn finish_link(into: &OwnedFd, name: &CString, stat: &Stat) -> io::Result<()> {
    let (uid, gid) = (
        fs::Uid::from_raw(stat.st_uid),
        fs::Gid::from_raw(stat.st_gid),
    );
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    fs::chownat(into, &**name, Some(uid), Some(gid), flags)?;
    Ok(fs::utimensat(into, &**name, &times(time_of(stat)), flags)?)
}

fn time_of(stat: &Stat) -> (i64, u32) {
    (
        stat.st_mtime,
        u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
    )
}
