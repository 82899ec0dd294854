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
    goes_on: bool,
}

impl Links {
    /// Finds them, past what is damaged of the lists if `goes_on`.
    ///
    /// # Errors
    /// The repository is damaged.
    pub(super) fn new(repository: &Repository, snapshot: &Snapshot, goes_on: bool) -> Result<Self> {
        let reader = match goes_on {
            true => ListReader::past_damage,
            false => ListReader::new,
        };
        let mut files = HashMap::new();
        for (layer, tree) in snapshot.trees().enumerate() {
            let mut targets = HashSet::new();
            let mut list = reader(tree.list()?);
            while let Some(entry) = list.next(repository)? {
                if let What::HardLink(target) = entry.item.what {
                    targets.insert(target);
                }
            }
            let mut list = reader(tree.list()?);
            while let Some(entry) = (!targets.is_empty())
                .then(|| list.next(repository))
                .transpose()?
                .flatten()
            {
                // What is made up behind damage may be another name of anything.
                let is_file = !matches!(entry.item.what, What::Folder | What::HardLink(_));
                if is_file && targets.contains(&entry.item.path) {
                    files.insert((layer, entry.item.path.clone()), entry);
                }
            }
        }
        Ok(Self {
            files,
            restored: HashMap::new(),
            goes_on,
        })
    }

    /// The file that a name of a layer is another name of.
    pub(super) fn file(&self, layer: usize, target: &[u8]) -> Option<&Entry> {
        self.files.get(&(layer, target.to_vec()))
    }

    /// The entry as it is to be restored, in the order in which that is done; none of another name of a
    /// file that is lost.
    ///
    /// # Errors
    /// It is another name of nothing.
    pub(super) fn place(&mut self, layer: usize, mut entry: Entry) -> Result<Option<Entry>> {
        let path = entry.item.path.clone();
        let What::HardLink(target) = &mut entry.item.what else {
            let name = (layer, path.clone());
            if self.files.contains_key(&name) {
                self.restored.insert(name, path);
            }
            return Ok(Some(entry));
        };
        let name = (layer, target.clone());
        if let Some(first) = self.restored.get(&name) {
            target.clone_from(first);
            return Ok(Some(entry));
        }
        let Some(mut file) = self.files.get(&name).cloned() else {
            let what = String::from_utf8_lossy(&path).into_owned();
            let why = "it is another name of a file that is not there";
            return match self.goes_on {
                true => Ok(None),
                false => Err(BackupError::damaged(what, why)),
            };
        };
        self.restored.insert(name, path.clone());
        file.item.path = path;
        Ok(Some(file))
    }
}
