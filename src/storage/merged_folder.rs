//! One folder of a guest's tree in all its layers, as overlayfs puts them together: which layer says
//! what a name is, what whiteouts and opaque folders hide, and making a folder in the guest's own
//! layer.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{self, AtFlags, Stat};

use super::dirfd::{Owner, child_dir, file_type, is_dir, make_dir, stat_at};

/// Marks a folder that hides the one below it (overlayfs).
pub(super) const OPAQUE: &CStr = c"trusted.overlay.opaque";

/// A folder of the merged tree: in the guest's layer, in layers below it, or both.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) name: CString,
    pub(super) upper: Option<OwnedFd>,
    /// Topmost first.
    pub(super) lowers: Vec<OwnedFd>,
}

/// What a name in a folder is.
#[derive(Debug)]
pub(super) enum Entry {
    Nothing,
    Folder(Folder),
    Link(Vec<u8>),
    /// A file that is neither, and the folder it lies in.
    File {
        dir: OwnedFd,
        stat: Stat,
    },
}

/// The folders from the root to one folder.
pub(super) type Trail = Vec<Folder>;

/// Makes the folders of a trail that are only in the image in the guest's layer too.
pub(super) fn copy_up(trail: &mut Trail) -> io::Result<()> {
    for index in 1..trail.len() {
        let (above, here) = trail.split_at_mut(index);
        let (Some(parent), Some(folder)) = (above.last(), here.first_mut()) else {
            continue;
        };
        let lower = folder.lowers.first();
        if let (None, Some(lower), Some(parent)) = (&folder.upper, lower, &parent.upper) {
            let owner = Owner::of(&fs::fstat(lower)?);
            folder.upper = Some(make_dir(parent, &folder.name, owner)?);
        }
    }
    Ok(())
}

/// Makes a folder where the merged tree has nothing: a whiteout may be in the way, and then the
/// new folder must go on hiding what the image has there.
pub(super) fn new_folder(parent: &OwnedFd, name: &CStr, mode: u32) -> io::Result<OwnedFd> {
    let hidden = stat_at(parent, name)?.is_some();
    if hidden {
        fs::unlinkat(parent, name, AtFlags::empty())?;
    }
    let made = make_dir(parent, name, Owner::root(mode))?;
    if hidden {
        fs::fsetxattr(&made, OPAQUE, b"y", fs::XattrFlags::empty())?;
    }
    Ok(made)
}

/// What `name` is in a merged folder, itself and not what it leads to. The topmost layer that has it
/// says what it is; a folder goes on in the layers below until one hides what is under it.
pub(super) fn entry(folder: &Folder, name: &CStr) -> io::Result<Entry> {
    let mut found = Folder {
        name: name.to_owned(),
        upper: None,
        lowers: Vec::new(),
    };
    for (dir, is_upper) in folder.sides() {
        let Some(stat) = stat_at(dir, name)? else {
            continue;
        };
        if !is_dir(&stat) {
            if !is_whiteout(&stat) && found.sides().next().is_none() {
                return leaf(dir, name, stat);
            }
            break;
        }
        let child = child_dir(dir, name)?;
        let opaque = is_opaque(&child);
        if is_upper {
            found.upper = Some(child);
        } else {
            found.lowers.push(child);
        }
        if opaque {
            break;
        }
    }
    let nothing = found.sides().next().is_none();
    Ok(if nothing {
        Entry::Nothing
    } else {
        Entry::Folder(found)
    })
}

impl Folder {
    /// Its folders in the layers, topmost first.
    pub(super) fn folders(&self) -> impl Iterator<Item = &OwnedFd> {
        self.sides().map(|(dir, _)| dir)
    }

    /// The topmost of its folders.
    pub(super) fn top(&self) -> Option<&OwnedFd> {
        self.sides().next().map(|(dir, _)| dir)
    }

    /// Its folders in the layers, topmost first, and whether each is the guest's own.
    fn sides(&self) -> impl Iterator<Item = (&OwnedFd, bool)> {
        let upper = self.upper.iter().map(|dir| (dir, true));
        upper.chain(self.lowers.iter().map(|dir| (dir, false)))
    }
}

fn leaf(dir: &OwnedFd, name: &CStr, stat: Stat) -> io::Result<Entry> {
    if file_type(&stat) == fs::FileType::Symlink {
        let target = fs::readlinkat(dir, name, Vec::new())?;
        return Ok(Entry::Link(target.into_bytes()));
    }
    let dir = dir.try_clone()?;
    Ok(Entry::File { dir, stat })
}

pub(super) fn is_whiteout(stat: &Stat) -> bool {
    file_type(stat) == fs::FileType::CharacterDevice && stat.st_rdev == 0
}

pub(super) fn is_opaque(dir: &OwnedFd) -> bool {
    let mut value = [0_u8; 1];
    fs::fgetxattr(dir.as_fd(), OPAQUE, value.as_mut_slice()) == Ok(1) && value == *b"y"
}
