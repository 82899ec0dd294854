//! What is different between two trees that are each made of layers: two snapshots of a guest, or one
//! and the guest as it is now. Only folders that a layer of one side alone has a part of are read, so it
//! costs as much as was changed, however large the image below both is. What was written into the trees
//! is a stranger's; whether two files are the same is asked next door (`tree_same`).

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::os::fd::{AsFd as _, OwnedFd};
use std::vec::IntoIter;

use rustix::fs::{self, Stat};
use rustix::io::Errno;
use serde::Serialize;

use super::dirfd::{
    FileError, Owner, below, child_dir, file_type, is_dir, is_file, names, stat_at,
};
use super::merged_folder::{is_opaque, is_whiteout};
use super::tree_item::failed;
use super::tree_name::shown;
use super::tree_same::{At, Proof, differences, folder_differences};
use crate::kernel::interrupt;
use crate::model::FileKind;

/// Longest path of a folder that is looked into: the kernel takes no longer one either.
const PATH_MOST: usize = 4000;
/// Most bytes of paths that are told. What is written into a guest must not fill the host's memory.
const TOLD_MOST: usize = 256 << 20;

/// A file that is not the same in both.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TreeChange {
    /// Whether it came, went or is another.
    pub kind: ChangeKind,
    /// Its path inside the guest. Bytes that steer a terminal or are no text are written `\xNN`, a
    /// backslash twice.
    pub path: String,
    /// What it is now, or was.
    pub file: FileKind,
    /// What of it is different; nothing for one that came or went.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub what: Vec<&'static str>,
    /// Bytes before, of a regular file.
    pub before: Option<u64>,
    /// Bytes after.
    pub after: Option<u64>,
}

/// How a file differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangeKind {
    /// It was not there.
    Added,
    /// It is not there any more.
    Removed,
    /// Its data, or what it is.
    Changed,
    /// Only mode, owner or attributes.
    Meta,
}

/// All differences, in the order of a walk: folders before what is in them, names by bytes.
#[derive(Debug, Default)]
pub struct TreeDiff {
    /// Differences.
    pub changes: Vec<TreeChange>,
    /// Folders that lie too deep to be looked into.
    pub too_deep: usize,
    /// Whether there are more differences than are told.
    pub cut: bool,
}

/// A tree: its layers, topmost first, and how many of them are the guest's own.
#[derive(Debug)]
pub(super) struct Stack {
    pub(super) layers: Vec<OwnedFd>,
    pub(super) own: usize,
}

impl Stack {
    /// Owner of the top folder. An overlay shows that of the guest's own layer, and one that has none
    /// begins as [`super::root`] makes it.
    fn top(&self) -> rustix::io::Result<(Owner, Option<&OwnedFd>)> {
        match self.layers.first().filter(|_| self.own > 0) {
            Some(top) => Ok((Owner::of(&fs::fstat(top)?), Some(top))),
            None => Ok((Owner::root(0o755), None)),
        }
    }
}

/// What a name is on one side.
enum Found {
    Nothing,
    /// No folder, and the layer that has it.
    Leaf(usize, Stat),
    /// A folder: its part in each of these layers, topmost first.
    Folder(Vec<(usize, OwnedFd)>, Stat),
}

/// A folder whose names are still to be compared, by the layers that have a part of it on each side.
struct Level {
    names: IntoIter<CString>,
    before: Vec<usize>,
    after: Vec<usize>,
    /// Length of its path.
    path: usize,
}

/// Compares `before` with `after`; `proof` says what shows without reading that a file is the same.
///
/// # Errors
/// A folder or a file cannot be read; it was interrupted.
pub(super) fn diff(before: &Stack, after: &Stack, proof: Proof) -> Result<TreeDiff, FileError> {
    let mut walk = Walk {
        layers: Vec::new(),
        proof,
        path: Vec::new(),
        told: 0,
        found: TreeDiff::default(),
    };
    let (left, right) = (walk.number(before)?, walk.number(after)?);
    walk.compare_tops(before, after)?;
    if left != right {
        walk.all(left, right)?;
    }
    Ok(walk.found)
}

struct Walk {
    /// The layers of both sides, each once, with what it is on disk.
    layers: Vec<((u64, u64), OwnedFd)>,
    proof: Proof,
    path: Vec<u8>,
    told: usize,
    found: TreeDiff,
}

/// The parts of one folder that are open, by layer.
type Here = BTreeMap<usize, OwnedFd>;

impl Walk {
    fn number(&mut self, stack: &Stack) -> Result<Vec<usize>, FileError> {
        let mut numbers = Vec::with_capacity(stack.layers.len());
        for layer in &stack.layers {
            let stat = fs::fstat(layer).map_err(|e| self.failed(e))?;
            let id = (stat.st_dev, stat.st_ino);
            let known = self.layers.iter().position(|(other, _)| *other == id);
            let number = known.unwrap_or(self.layers.len());
            if known.is_none() {
                let layer = layer.try_clone().map_err(|e| failed("open", b"", e))?;
                self.layers.push((id, layer));
            }
            numbers.push(number);
        }
        Ok(numbers)
    }

    fn compare_tops(&mut self, before: &Stack, after: &Stack) -> Result<(), FileError> {
        let top = |stack: &Stack| -> rustix::io::Result<_> {
            let (owner, folder) = stack.top()?;
            Ok((owner, folder.map(|folder| folder.try_clone()).transpose()))
        };
        let (a, b) = (top(before), top(after));
        let ((a, left), (b, right)) = (
            a.map_err(|e| self.failed(e))?,
            b.map_err(|e| self.failed(e))?,
        );
        let (left, right) = (
            left.map_err(|e| failed("open", b"", e))?,
            right.map_err(|e| failed("open", b"", e))?,
        );
        let what = folder_differences((a, left.as_ref()), (b, right.as_ref()))
            .map_err(|e| self.failed(e))?;
        if !what.is_empty() {
            self.tell(ChangeKind::Meta, FileKind::Folder, what, (None, None));
        }
        Ok(())
    }

    fn all(&mut self, before: Vec<usize>, after: Vec<usize>) -> Result<(), FileError> {
        let mut here = Some(self.open(&before, &after)?);
        let mut levels = vec![self.level(here.as_ref(), before, after)?];
        while let Some(level) = levels.last_mut() {
            self.path.truncate(level.path);
            let Some(name) = level.names.next() else {
                levels.pop();
                here = None;
                continue;
            };
            if interrupt::caught().is_some() {
                return Err(self.failed(Errno::INTR));
            }
            let parts = match here.take() {
                Some(parts) => parts,
                // On the way up again.
                None => self.open(&level.before, &level.after)?,
            };
            if !self.path.is_empty() {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(name.to_bytes());
            let found = |side: &[usize]| resolve(&parts, side, &name);
            let a = found(&level.before).map_err(|e| self.failed(e))?;
            let b = found(&level.after).map_err(|e| self.failed(e))?;
            let at = (&parts, name);
            self.compare(at, &a, &b)?;
            let (before, after) = (a.layers(), b.layers());
            if before == after || self.cut() {
                here = Some(parts);
            } else if self.path.len() > PATH_MOST {
                self.found.too_deep += 1;
                here = Some(parts);
            } else {
                let below: Here = a.into_parts().chain(b.into_parts()).collect();
                here = Some(below);
                levels.push(self.level(here.as_ref(), before, after)?);
            }
        }
        Ok(())
    }

    /// Opens the parts of the folder that `path` is; what has gone meanwhile has none.
    fn open(&self, before: &[usize], after: &[usize]) -> Result<Here, FileError> {
        let mut parts = Here::new();
        let wanted: BTreeSet<usize> = before.iter().chain(after).copied().collect();
        for number in wanted {
            let Some((_, layer)) = self.layers.get(number) else {
                continue;
            };
            match below(layer.as_fd(), &self.path) {
                Ok(part) => {
                    parts.insert(number, part);
                }
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(e) => return Err(self.failed(e)),
            }
        }
        Ok(parts)
    }

    /// The names of a folder that can be different: those in layers that the two sides do not both
    /// end in.
    fn level(
        &self,
        here: Option<&Here>,
        before: Vec<usize>,
        after: Vec<usize>,
    ) -> Result<Level, FileError> {
        let ends = before.iter().rev().zip(after.iter().rev());
        let shared = ends.take_while(|(a, b)| a == b).count();
        let alone = |side: &[usize]| side.len() - shared;
        let differ = before[..alone(&before)]
            .iter()
            .chain(&after[..alone(&after)]);
        let mut all = BTreeSet::new();
        for number in differ {
            if let Some(part) = here.and_then(|here| here.get(number)) {
                all.extend(match names(part) {
                    // Removed meanwhile.
                    Err(Errno::NOENT) => Vec::new(),
                    other => other.map_err(|e| self.failed(e))?,
                });
            }
        }
        Ok(Level {
            names: all.into_iter().collect::<Vec<_>>().into_iter(),
            before,
            after,
            path: self.path.len(),
        })
    }

    fn compare(
        &mut self,
        (parts, name): (&Here, CString),
        a: &Found,
        b: &Found,
    ) -> Result<(), FileError> {
        let (kind, what) = match (a, b) {
            (Found::Nothing, Found::Nothing) => return Ok(()),
            (Found::Nothing, _) => (ChangeKind::Added, Vec::new()),
            (_, Found::Nothing) => (ChangeKind::Removed, Vec::new()),
            (Found::Leaf(a, _), Found::Leaf(b, _)) if a == b => return Ok(()),
            (Found::Folder(left, one), Found::Folder(right, other)) => {
                let (left, right) = (left.first(), right.first());
                if left.map(|part| part.0) == right.map(|part| part.0) {
                    return Ok(());
                }
                let left = (Owner::of(one), left.map(|part| &part.1));
                let right = (Owner::of(other), right.map(|part| &part.1));
                let what = folder_differences(left, right).map_err(|e| self.failed(e))?;
                (ChangeKind::Meta, what)
            }
            (Found::Leaf(x, one), Found::Leaf(y, other)) => {
                let (Some(left), Some(right)) = (parts.get(x), parts.get(y)) else {
                    return Ok(());
                };
                let at = |dir, stat| At {
                    dir,
                    name: &name,
                    stat,
                };
                let told = differences(&at(left, one), &at(right, other), self.proof);
                told.map_err(|e| self.failed(e))?
            }
            _ => (ChangeKind::Changed, vec!["kind"]),
        };
        if kind == ChangeKind::Meta && what.is_empty() {
            return Ok(());
        }
        let file = b.kind().or(a.kind()).unwrap_or(FileKind::File);
        self.tell(kind, file, what, (a.size(), b.size()));
        Ok(())
    }

    fn tell(
        &mut self,
        kind: ChangeKind,
        file: FileKind,
        what: Vec<&'static str>,
        (before, after): (Option<u64>, Option<u64>),
    ) {
        if self.cut() {
            self.found.cut = true;
            return;
        }
        let path = shown(&self.path);
        self.told += path.len() + size_of::<TreeChange>();
        self.found.changes.push(TreeChange {
            kind,
            path,
            file,
            what,
            before,
            after,
        });
    }

    fn cut(&self) -> bool {
        self.told > TOLD_MOST
    }

    fn failed(&self, errno: Errno) -> FileError {
        failed("compare", &self.path, errno)
    }
}

impl Found {
    fn layers(&self) -> Vec<usize> {
        match self {
            Self::Folder(parts, _) => parts.iter().map(|part| part.0).collect(),
            _ => Vec::new(),
        }
    }

    fn into_parts(self) -> impl Iterator<Item = (usize, OwnedFd)> {
        let parts = match self {
            Self::Folder(parts, _) => parts,
            _ => Vec::new(),
        };
        parts.into_iter()
    }

    fn stat(&self) -> Option<&Stat> {
        match self {
            Self::Nothing => None,
            Self::Leaf(_, stat) | Self::Folder(_, stat) => Some(stat),
        }
    }

    fn kind(&self) -> Option<FileKind> {
        Some(match file_type(self.stat()?) {
            fs::FileType::Directory => FileKind::Folder,
            fs::FileType::Symlink => FileKind::Link,
            fs::FileType::Fifo => FileKind::Fifo,
            fs::FileType::Socket => FileKind::Socket,
            fs::FileType::CharacterDevice | fs::FileType::BlockDevice => FileKind::Device,
            _ => FileKind::File,
        })
    }

    fn size(&self) -> Option<u64> {
        let stat = self.stat().filter(|stat| is_file(stat))?;
        u64::try_from(stat.st_size).ok()
    }
}

/// What a name is in these layers, as overlayfs puts them together: the topmost that has it says so,
/// and a folder goes on below until one hides what is under it.
fn resolve(here: &Here, side: &[usize], name: &CString) -> rustix::io::Result<Found> {
    let mut parts: Vec<(usize, OwnedFd)> = Vec::new();
    for number in side {
        let Some(part) = here.get(number) else {
            continue;
        };
        let Some(stat) = stat_at(part, name)? else {
            continue;
        };
        if !is_dir(&stat) {
            if parts.is_empty() && !is_whiteout(&stat) {
                return Ok(Found::Leaf(*number, stat));
            }
            break;
        }
        let child = match child_dir(part, name) {
            Ok(child) => child,
            // A running guest has put something else there, or nothing.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => break,
            Err(e) => return Err(e),
        };
        let opaque = is_opaque(&child);
        parts.push((*number, child));
        if opaque {
            break;
        }
    }
    match parts.first() {
        Some((_, top)) => {
            let stat = fs::fstat(top)?;
            Ok(Found::Folder(parts, stat))
        }
        None => Ok(Found::Nothing),
    }
}
