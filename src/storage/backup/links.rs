//! Files with several names when only some of them are restored: the first name that is restored
//! becomes the file, whatever was the first one when it was backed up.

use std::collections::{HashMap, HashSet};

use super::super::tree_item::What;
use super::entry::Entry;
use super::error::{BackupError, Result};
use super::manifest::ListReader;
use super::repo::Repository;
use super::snapshot::Snapshot;

/// A layer and a path in it.
type Name = (usize, Vec<u8>);

/// The files of a snapshot that have several names.
#[derive(Debug)]
pub(super) struct Links {
    files: HashMap<Name, Entry>,
    /// The name that each has where it is restored.
    restored: HashMap<Name, Vec<u8>>,
}

impl Links {
    /// Finds them.
    ///
    /// # Errors
    /// The repository is damaged.
    pub(super) fn new(repository: &Repository, snapshot: &Snapshot) -> Result<Self> {
        let mut files = HashMap::new();
        for (layer, tree) in snapshot.trees().enumerate() {
            let mut targets = HashSet::new();
            let mut list = ListReader::new(tree.list()?);
            while let Some(entry) = list.next(repository)? {
                if let What::HardLink(target) = entry.item.what {
                    targets.insert(target);
                }
            }
            let mut list = ListReader::new(tree.list()?);
            while let Some(entry) = (!targets.is_empty())
                .then(|| list.next(repository))
                .transpose()?
                .flatten()
            {
                if targets.contains(&entry.item.path) {
                    files.insert((layer, entry.item.path.clone()), entry);
                }
            }
        }
        Ok(Self {
            files,
            restored: HashMap::new(),
        })
    }

    /// The file that a name of a layer is another name of.
    pub(super) fn file(&self, layer: usize, target: &[u8]) -> Option<&Entry> {
        self.files.get(&(layer, target.to_vec()))
    }

    /// The entry as it is to be restored, in the order in which that is done.
    ///
    /// # Errors
    /// It is another name of nothing.
    pub(super) fn place(&mut self, layer: usize, mut entry: Entry) -> Result<Entry> {
        let path = entry.item.path.clone();
        let What::HardLink(target) = &mut entry.item.what else {
            let name = (layer, path.clone());
            if self.files.contains_key(&name) {
                self.restored.insert(name, path);
            }
            return Ok(entry);
        };
        let name = (layer, target.clone());
        if let Some(first) = self.restored.get(&name) {
            target.clone_from(first);
            return Ok(entry);
        }
        let file = self.files.get(&name).cloned().ok_or_else(|| {
            let what = String::from_utf8_lossy(&path).into_owned();
            BackupError::damaged(what, "it is another name of a file that is not there")
        })?;
        self.restored.insert(name, path.clone());
        let mut file = file;
        file.item.path = path;
        Ok(file)
    }
}
