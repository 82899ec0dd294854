//! What a restore does where a list of files is damaged: it says which stretch is lost, and makes the
//! folders whose own entries are lost and in which files follow that are not.

use super::super::tree_item::{Item, What};
use super::entry::Entry;
use super::manifest::is_below;
use super::snapshot::Snapshot;
use super::source::{Source, is_whiteout};

/// A stretch of a list of files that is lost; nobody knows what was in it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Unlisted {
    /// Whether it is of the guest's own files; else of those of its image.
    pub own: bool,
    /// The last file before it; none where it is from the beginning.
    pub after: Option<String>,
    /// The first one behind it; none where it is to the end.
    pub before: Option<String>,
}

impl std::fmt::Display for Unlisted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let whose = match self.own {
            true => "the guest's own files",
            false => "its image's files",
        };
        write!(f, "of the list of {whose} ")?;
        match (&self.after, &self.before) {
            (Some(after), Some(before)) => {
                write!(f, "what came after {after} and before {before} is lost")
            }
            (Some(after), None) => write!(f, "all that came after {after} is lost"),
            (None, Some(before)) => write!(f, "all that came before {before} is lost"),
            (None, None) => f.write_str("everything is lost"),
        }
    }
}

/// What of the lists of a snapshot is lost.
pub(super) fn unlisted(source: &Source, snapshot: &Snapshot) -> Vec<Unlisted> {
    let shown = |path: &Vec<u8>| format!("/{}", String::from_utf8_lossy(path));
    let layers = 0..=snapshot.chain.len() + snapshot.below.len();
    let of = |layer| {
        source.gaps(layer).iter().map(move |gap| Unlisted {
            own: layer <= snapshot.chain.len(),
            after: gap.after.as_ref().map(shown),
            before: gap.before.as_ref().map(shown),
        })
    };
    layers.flat_map(of).collect()
}

/// What follows a gap is told by what it looks like, and an attribute of a file may look like anything
/// that the guest wanted. Only devices could do harm.
pub(super) fn is_made_up(source: &Source, layer: usize, entry: &Entry) -> bool {
    let is_device = matches!(entry.item.what, What::Device { .. });
    is_device && !is_whiteout(entry) && !source.gaps(layer).is_empty()
}

/// The folders that are being filled, from the top to the innermost.
#[derive(Debug, Default)]
pub(super) struct Folders {
    open: Vec<Vec<u8>>,
}

impl Folders {
    /// The folders that must be there before `item` and of which none has come, outermost first: what
    /// they were like is lost, so they are root's and for everybody to read.
    pub(super) fn missing(&mut self, item: &Item) -> Vec<Item> {
        while self
            .open
            .last()
            .is_some_and(|top| !is_below(&item.path, top))
        {
            self.open.pop();
        }
        let mut above = vec![&b""[..]];
        let ends = item.path.iter().enumerate();
        above.extend(
            ends.filter(|(_, byte)| **byte == b'/')
                .map(|(at, _)| &item.path[..at]),
        );
        if item.path.is_empty() {
            above.clear();
        }
        let lost = above.get(self.open.len()..).unwrap_or_default();
        let lost: Vec<Vec<u8>> = lost.iter().map(|path| path.to_vec()).collect();
        self.open.extend(lost.iter().cloned());
        if item.what == What::Folder {
            self.open.push(item.path.clone());
        }
        lost.into_iter().map(folder).collect()
    }

    /// The top, if nothing at all has come.
    pub(super) fn lost_top(&self) -> Option<Item> {
        self.open.is_empty().then(|| folder(Vec::new()))
    }
}

fn folder(path: Vec<u8>) -> Item {
    Item {
        path,
        what: What::Folder,
        mode: 0o755,
        uid: 0,
        gid: 0,
        modified: (0, 0),
        accessed: (0, 0),
        xattrs: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_that_are_lost_are_made_once_each() {
        let mut folders = Folders::default();
        let mut asked = |path: &str, what: What| -> Vec<String> {
            let item = Item {
                what,
                ..folder(path.as_bytes().to_vec())
            };
            let made = folders.missing(&item);
            made.into_iter()
                .map(|item| String::from_utf8(item.path).expect("text"))
                .collect()
        };
        assert_eq!(asked("a/b/c", What::Fifo), ["", "a", "a/b"]);
        assert_eq!(asked("a/b/d", What::Fifo), [""; 0]);
        assert_eq!(asked("a/c", What::Folder), [""; 0]);
        assert_eq!(asked("a/c/x", What::Fifo), [""; 0]);
        assert_eq!(asked("a/d/x/y", What::Fifo), ["a/d", "a/d/x"]);
        assert_eq!(asked("b", What::Folder), [""; 0]);
        let mut whole = Folders::default();
        assert!(whole.missing(&folder(Vec::new())).is_empty());
        assert!(whole.missing(&folder(b"usr".to_vec())).is_empty());
        assert!(whole.missing(&folder(b"usr/lib".to_vec())).is_empty());
    }
}
