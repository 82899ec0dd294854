//! What a restore does where a list of files is damaged: it says which stretch is lost, and makes the
//! folders whose own entries are lost and in which files follow that are not.

use super::super::tree_item::{Item, What};
use super::super::tree_policy::Policy;
use super::entry::Entry;
use super::manifest::{Gap, is_below, order};
use super::snapshot::Snapshot;
use super::source::{Source, is_whiteout};

/// Most bytes of the paths of folders that are made for one file that came without them.
const MOST_PATHS: usize = 1 << 24;

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

/// What of the lists of a snapshot is lost that may have to do with these paths; without any, all of it.
pub(super) fn unlisted(source: &Source, snapshot: &Snapshot, wanted: &[Vec<u8>]) -> Vec<Unlisted> {
    let shown = |path: &Vec<u8>| format!("/{}", String::from_utf8_lossy(path));
    let layers = 0..=snapshot.chain.len() + snapshot.below.len();
    let of = |layer| {
        let gaps = source.gaps(layer).iter();
        let gaps = gaps.filter(|gap| wanted.is_empty() || wanted.iter().any(|w| touches(gap, w)));
        gaps.map(move |gap| Unlisted {
            own: layer <= snapshot.chain.len(),
            after: gap.after.as_ref().map(shown),
            before: gap.before.as_ref().map(shown),
        })
    };
    layers.flat_map(of).collect()
}

/// Whether what is lost there may have been this path, something in it, or a folder on the way to it.
fn touches(gap: &Gap, wanted: &[u8]) -> bool {
    let is_later = |path: &[u8]| gap.after.as_ref().is_none_or(|a| order(a, path).is_lt());
    let is_earlier = |path: &[u8]| gap.before.as_ref().is_none_or(|b| order(path, b).is_lt());
    let goes_on_inside = gap.after.as_ref().is_some_and(|a| is_below(a, wanted));
    let on_the_way = folders_of(wanted).any(|folder| is_later(folder) && is_earlier(folder));
    on_the_way || is_earlier(wanted) && (is_later(wanted) || goes_on_inside)
}

/// The folders that a path lies in, from the top.
fn folders_of(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let ends = path.iter().enumerate();
    let inner = ends
        .filter(|(_, byte)| **byte == b'/')
        .map(|(at, _)| &path[..at]);
    (!path.is_empty())
        .then_some(&b""[..])
        .into_iter()
        .chain(inner)
}

/// Whether what came behind a gap cannot be, or is not to be believed: it is told by what it looks like,
/// and an attribute of a file may look like anything that the guest wanted. Of that, devices could do harm.
pub(super) fn is_made_up(entry: &Entry, policy: Policy) -> bool {
    let is_device = matches!(entry.item.what, What::Device { .. });
    is_device && !is_whiteout(entry) || policy.check(&entry.item).is_err()
}

/// The folders that are being filled.
#[derive(Debug, Default)]
pub(super) struct Folders {
    /// The innermost; none before the top.
    inner: Option<Vec<u8>>,
    /// What came last that is no folder.
    file: Option<Vec<u8>>,
}

impl Folders {
    /// The folders that must be there before an item from behind a gap and of which none has come,
    /// outermost first: what they were like is lost, so they are root's and for everybody to read. `None`
    /// if the item can be in no folder: something else has one's name, or it is made up.
    pub(super) fn missing(&self, item: &Item) -> Option<Vec<Item>> {
        let path = &item.path;
        let is_in_file = self.file.as_ref().is_some_and(|file| is_below(path, file));
        let is_plain = match path.is_empty() {
            true => item.what == What::Folder,
            false => path.split(|byte| *byte == b'/').all(is_plain),
        };
        if is_in_file || !is_plain {
            return None;
        }
        let known = self.inner.as_ref().map(|inner| shared(inner, path));
        let is_lost = |folder: &&[u8]| known.is_none_or(|known| folder.len() > known);
        let lost = || folders_of(path).filter(is_lost);
        if lost().map(<[u8]>::len).sum::<usize>() > MOST_PATHS {
            return None;
        }
        Some(
            lost()
                .map(|path| blank(path.to_vec(), What::Folder))
                .collect(),
        )
    }

    /// Takes note of what comes.
    pub(super) fn enter(&mut self, path: &[u8], is_folder: bool) {
        let end = path.iter().rposition(|byte| *byte == b'/');
        let inner = match is_folder {
            true => path,
            false => {
                self.file = Some(path.to_vec());
                &path[..end.unwrap_or(0)]
            }
        };
        if self.inner.as_deref() != Some(inner) {
            self.inner = Some(inner.to_vec());
        }
    }

    /// Whether nothing at all has come.
    pub(super) fn is_empty(&self) -> bool {
        self.inner.is_none()
    }
}

/// How long the path is of the innermost folder in which both lie, or which one of them is.
fn shared(a: &[u8], b: &[u8]) -> usize {
    let same = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    let ends = |path: &[u8]| matches!(path.get(same), None | Some(b'/'));
    match ends(a) && ends(b) {
        true => same,
        false => a[..same]
            .iter()
            .rposition(|byte| *byte == b'/')
            .unwrap_or(0),
    }
}

fn is_plain(name: &[u8]) -> bool {
    !matches!(name, b"" | b"." | b"..") && name.len() <= 255 && !name.contains(&0)
}

/// Something of which nothing but its name is known.
pub(super) fn blank(path: Vec<u8>, what: What) -> Item {
    Item {
        mode: match what {
            What::Folder => 0o755,
            _ => 0,
        },
        path,
        what,
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
        let mut asked = |path: &str, what: What| -> Option<Vec<String>> {
            let item = blank(path.as_bytes().to_vec(), what);
            let made = folders.missing(&item)?;
            folders.enter(&item.path, item.what == What::Folder);
            let made = made.into_iter().map(|item| String::from_utf8(item.path));
            Some(made.map(|path| path.expect("text")).collect())
        };
        let made = |paths: &[&str]| Some(paths.iter().map(ToString::to_string).collect());
        assert_eq!(asked("a/b/c", What::Fifo), made(&["", "a", "a/b"]));
        assert_eq!(asked("a/b/d", What::Fifo), made(&[]));
        assert_eq!(asked("a/c", What::Folder), made(&[]));
        assert_eq!(asked("a/c/x", What::Fifo), made(&[]));
        assert_eq!(asked("a/c/x/y/z", What::Fifo), None);
        assert_eq!(asked("a/cd/x", What::Fifo), made(&["a/cd"]));
        assert_eq!(asked("a/d/x/y", What::Fifo), made(&["a/d", "a/d/x"]));
        assert_eq!(asked("b", What::Folder), made(&[]));
        for path in [
            "b//c",
            "b/../c",
            "/c",
            "b/c\0",
            &"c".repeat(256),
            &"c/".repeat(1 << 19),
        ] {
            assert_eq!(asked(path, What::Folder), None, "{path:.20}");
        }
        // Folders with no end: each has the path of all that it is in.
        assert_eq!(asked(&["c"; 1 << 13].join("/"), What::Fifo), None);
        assert_eq!(
            asked(&["c"; 1 << 12].join("/"), What::Fifo).map(|made| made.len()),
            Some(4095)
        );
        let mut whole = Folders::default();
        for path in ["", "usr", "usr/lib"] {
            let item = blank(path.into(), What::Folder);
            assert_eq!(whole.missing(&item), Some(Vec::new()));
            whole.enter(&item.path, true);
        }
    }

    #[test]
    fn only_what_may_have_been_in_a_gap_is_told_of() {
        let touches = |after: &str, before: &str, wanted: &str| {
            let path = |text: &str| (text != "-").then(|| text.as_bytes().to_vec());
            let (after, before) = (path(after), path(before));
            touches(&Gap { after, before }, wanted.as_bytes())
        };
        for (after, before) in [
            ("a", "c"),
            ("b", "c"),
            ("b/x", "b/z"),
            ("b/x", "c"),
            ("a", "b/x"),
        ] {
            assert!(touches(after, before, "b"), "{after} {before}");
        }
        for (after, before) in [
            ("a", "b"),
            ("a", "a/x"),
            ("a/x", "b"),
            ("c", "d"),
            ("b-", "c"),
        ] {
            assert!(!touches(after, before, "b"), "{after} {before}");
        }
        // What a folder on the way was like is lost with it.
        assert!(touches("a", "b/x", "b/y/z") && touches("-", "a", "b") && touches("-", "-", "b"));
        assert!(!touches("b", "b/x", "b/y/z") && !touches("c", "-", "b") && touches("a", "-", "b"));
    }
}
