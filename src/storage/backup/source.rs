//! The files of a snapshot in the order of a walk: its own layer alone, or everything as the guest
//! saw it, put together from its layers as overlayfs does: whiteouts and opaque folders hide what is
//! below them.

use std::collections::HashSet;

use super::super::tree_item::What;
use super::entry::Entry;
use super::error::{BackupError, Result};
use super::manifest::{Gap, ListReader, is_below, order};
use super::repo::{ChunkRef, Repository};
use super::snapshot::Snapshot;

/// What overlayfs keeps for itself in attributes.
const MARKS: &[u8] = b"trusted.overlay.";
const OPAQUE: &[u8] = b"trusted.overlay.opaque";
/// Marks by which the data of a file, or what is in a folder, lies under another name below.
const ELSEWHERE: [&[u8]; 2] = [b"trusted.overlay.redirect", b"trusted.overlay.metacopy"];

/// Which files of a snapshot are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// As the guest saw them.
    Whole,
    /// The guest's own layer, with its whiteouts.
    Own,
}

/// Reads the files of a snapshot.
#[derive(Debug)]
pub(super) struct Source {
    layers: Vec<Layer>,
    view: View,
}

#[derive(Debug)]
struct Layer {
    reader: ListReader,
    next: Option<Entry>,
    /// This and what lies in it is hidden by a layer above.
    hidden: Option<Vec<u8>>,
    /// Its whiteouts so far: the kernel gives one of them many names.
    whiteouts: HashSet<Vec<u8>>,
}

impl Layer {
    fn read(&mut self, repository: &Repository) -> Result<()> {
        self.next = self.reader.next(repository)?;
        if let Some(entry) = self.next.as_ref().filter(|entry| is_whiteout(entry)) {
            self.whiteouts.insert(entry.item.path.clone());
        }
        Ok(())
    }

    /// Whether a file of it is a whiteout, or another name of one.
    fn is_whiteout(&self, entry: &Entry) -> bool {
        match &entry.item.what {
            What::HardLink(file) => self.whiteouts.contains(file),
            _ => is_whiteout(entry),
        }
    }
}

impl Source {
    pub(super) fn new(repository: &Repository, snapshot: &Snapshot, view: View) -> Result<Self> {
        Self::read(repository, snapshot, view, ListReader::new)
    }

    /// The same, past what is damaged of the lists.
    pub(super) fn past_damage(
        repository: &Repository,
        snapshot: &Snapshot,
        view: View,
    ) -> Result<Self> {
        Self::read(repository, snapshot, view, ListReader::past_damage)
    }

    fn read(
        repository: &Repository,
        snapshot: &Snapshot,
        view: View,
        reader: fn(Vec<ChunkRef>) -> ListReader,
    ) -> Result<Self> {
        let trees = snapshot.trees().take(match view {
            View::Whole => usize::MAX,
            View::Own => 1 + snapshot.chain.len(),
        });
        let layer = |tree: &super::snapshot::Tree| {
            let mut layer = Layer {
                reader: reader(tree.list()?),
                next: None,
                hidden: None,
                whiteouts: HashSet::new(),
            };
            layer.read(repository)?;
            Ok(layer)
        };
        Ok(Self {
            layers: trees.map(layer).collect::<Result<_>>()?,
            view,
        })
    }

    /// What was damaged of the list of a layer, as far as that was read.
    pub(super) fn gaps(&self, layer: usize) -> &[Gap] {
        self.layers
            .get(layer)
            .map_or(&[], |layer| layer.reader.gaps())
    }

    /// Whether a file of a layer came behind something damaged of its list.
    pub(super) fn is_behind_gap(&self, layer: usize, path: &[u8]) -> bool {
        let first = self.gaps(layer).first();
        let before = first.and_then(|gap| gap.before.as_ref());
        before.is_some_and(|before| order(before, path).is_le())
    }

    /// The next file, and the number of the layer it is in, the guest's own being 0.
    ///
    /// # Errors
    /// The repository is damaged; a layer shows what lies elsewhere under another name.
    pub(super) fn next(&mut self, repository: &Repository) -> Result<Option<(usize, Entry)>> {
        while let Some(at) = self.first() {
            let Some(mut entry) = self.layers[at].next.take() else {
                break;
            };
            self.advance(repository, at)?;
            let covers = self.hide(repository, at, &entry)?;
            if self.layers.len() > 1
                && let Some((name, _)) = marked(&entry, &ELSEWHERE)
            {
                return Err(elsewhere(&entry, name));
            }
            match self.view {
                View::Own if covers && !is_opaque(&entry) => {
                    entry.item.xattrs.push((OPAQUE.to_vec(), b"y".to_vec()));
                }
                View::Own => {}
                View::Whole if self.layers[at].is_whiteout(&entry) => continue,
                View::Whole => entry
                    .item
                    .xattrs
                    .retain(|(name, _)| !name.starts_with(MARKS)),
            }
            return Ok(Some((at, entry)));
        }
        Ok(None)
    }

    /// The topmost layer of those whose next file comes first.
    fn first(&self) -> Option<usize> {
        let path = |at: usize| {
            self.layers[at]
                .next
                .as_ref()
                .map(|e| e.item.path.as_slice())
        };
        let mut first: Option<(usize, &[u8])> = None;
        for at in 0..self.layers.len() {
            if let Some(path) = path(at)
                && first.is_none_or(|(_, least)| order(path, least).is_lt())
            {
                first = Some((at, path));
            }
        }
        first.map(|(at, _)| at)
    }

    /// Goes on to the next file of a layer that nothing hides.
    fn advance(&mut self, repository: &Repository, at: usize) -> Result<()> {
        let layer = &mut self.layers[at];
        loop {
            layer.read(repository)?;
            let hidden = match (&layer.next, &layer.hidden) {
                (Some(entry), Some(hidden)) => is_below(&entry.item.path, hidden),
                _ => false,
            };
            if !hidden {
                return Ok(());
            }
        }
    }

    /// Hides what `entry` of layer `top` hides in the layers below, and passes over folders there
    /// that are the same folder. Whether a folder hides everything below the layers that are read.
    fn hide(&mut self, repository: &Repository, top: usize, entry: &Entry) -> Result<bool> {
        let path = &entry.item.path;
        let mut ends = ends_here(entry);
        for at in top + 1..self.layers.len() {
            let layer = &mut self.layers[at];
            let here = layer.next.take_if(|next| next.item.path == *path);
            if ends {
                layer.hidden = Some(path.clone());
            }
            let Some(here) = here else { continue };
            self.advance(repository, at)?;
            ends = ends || ends_here(&here);
        }
        Ok(ends && entry.item.what == What::Folder)
    }
}

/// Whether nothing of the layers below shows under this name.
fn ends_here(entry: &Entry) -> bool {
    entry.item.what != What::Folder || is_opaque(entry)
}

fn is_opaque(entry: &Entry) -> bool {
    marked(entry, &[OPAQUE]).is_some_and(|(_, value)| value == b"y")
}

fn elsewhere(entry: &Entry, mark: &[u8]) -> BackupError {
    let mark = String::from_utf8_lossy(mark);
    BackupError::Restore {
        what: String::from_utf8_lossy(&entry.item.path).into_owned(),
        why: format!("its layer refers to another name below ({mark}), which is not followed"),
    }
}

fn marked<'e>(entry: &'e Entry, names: &[&[u8]]) -> Option<&'e (Vec<u8>, Vec<u8>)> {
    let mut all = entry.item.xattrs.iter();
    all.find(|(name, _)| names.contains(&name.as_slice()))
}

pub(super) fn is_whiteout(entry: &Entry) -> bool {
    entry.item.what
        == What::Device {
            block: false,
            major: 0,
            minor: 0,
        }
}
