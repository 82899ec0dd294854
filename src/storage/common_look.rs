//! Which files several guests have alike, under the same names in layers of their own, and which of them
//! are worth a layer that these guests share. Layers are strangers': by descriptor, nothing is followed.
//! What is found here is a guess that costs nothing if it is wrong: `common_layer` compares again.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::Stat;
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use super::base_equal::is_elsewhere;
use super::dedupe::{PATHS_MOST, digest};
use super::dirfd::{FileError, below, child_dir, child_file, cname, is_dir, is_file};
use super::driver::Driver;
use super::gone::Gone;
use super::merged;
use super::merged_folder::is_opaque;
use super::place;
use super::root::RootError;
use super::tree_read::of_open;
use super::tree_same::plain;
use super::walk::walk;
use crate::kernel::interrupt;
use crate::model::{GuestName, Layout};

/// A layer costs each of its guests one more folder to look into: it must give back as much.
const WORTH: u64 = 1 << 20;
/// Most layers that a guest gets at once.
const LAYERS_MOST: usize = 4;
/// Sets of guests that are looked at as those of one layer: the heaviest.
const SETS_MOST: usize = 64;
/// Folders in one another.
pub(super) const DEPTH_MOST: usize = 128;

/// Files that several guests have alike.
#[derive(Debug, PartialEq, Eq)]
pub struct Alike {
    /// Which guests.
    pub guests: Vec<GuestName>,
    /// Their paths, in order.
    pub(super) paths: Vec<Vec<u8>>,
    /// What one guest's copies take on disk.
    pub bytes: u64,
}

impl Alike {
    /// How many files one guest has of them.
    #[must_use]
    pub fn files(&self) -> u64 {
        self.paths.len() as u64
    }

    /// Notes their guests' copies but one.
    pub fn note(&self, layout: &Layout, gone: &mut Gone) {
        for name in self.guests.iter().skip(1) {
            // One whose layer cannot be opened now is told of when it is looked through.
            if let Ok(Some(upper)) = upper_of(layout, name) {
                gone.add_paths(&upper, &self.paths);
            }
        }
    }

    /// What their guests' copies but one take on disk.
    #[must_use]
    pub fn spared(&self) -> u64 {
        self.bytes * (self.guests.len() as u64).saturating_sub(1)
    }
}

/// What two files have to have in common before they are read.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Same {
    pub(super) path: Vec<u8>,
    size: u64,
    time: (i64, u32),
    owner: (u32, u32, u32),
}

impl Same {
    pub(super) fn of(path: &[u8], stat: &Stat) -> Self {
        Self {
            path: path.to_vec(),
            size: u64::try_from(stat.st_size).unwrap_or(0),
            time: (
                stat.st_mtime,
                u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
            ),
            owner: (stat.st_mode, stat.st_uid, stat.st_gid),
        }
    }
}

/// Guests by their numbers.
type Set = BTreeSet<usize>;
/// A path, and what the file takes on disk.
type Sized = (Vec<u8>, u64);

/// What of the files that guests have in layers of their own could be in layers that they share; guests
/// whose own layer is no folder have none, and files that would be gone by then are none of them. Nothing is
/// changed. Folders that are left out are added to `left_out`, guests that cannot be looked through to
/// `failed`.
///
/// # Errors
/// It was interrupted.
pub fn alike(
    layout: &Layout,
    guests: &[GuestName],
    gone: &Gone,
    (left_out, failed): (&mut u64, &mut Vec<String>),
) -> Result<Vec<Alike>, RootError> {
    let mut uppers = Vec::new();
    for name in guests {
        match upper_of(layout, name) {
            Ok(Some(upper)) => uppers.push((name.clone(), upper)),
            Ok(None) => {}
            Err(error) => failed.push(format!("guest {name}: {error}")),
        }
    }
    let mut found: BTreeMap<Same, (u64, Vec<usize>)> = BTreeMap::new();
    let (mut told, mut broken) = (0, Set::new());
    for (number, (name, upper)) in uppers.iter().enumerate() {
        let met = plain_files(upper, left_out, |path, stat| {
            if gone.has(stat) {
                return true;
            }
            told += path.len() + size_of::<Same>();
            if told > PATHS_MOST {
                return false;
            }
            let held = u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
            let same = found.entry(Same::of(path, stat));
            same.or_insert((held, Vec::new())).1.push(number);
            true
        });
        match met {
            Ok(()) => {}
            Err(Errno::INTR) => return Err(interrupted(layout).into()),
            Err(error) => {
                failed.push(format!("guest {name}: cannot be looked through: {error}"));
                broken.insert(number);
            }
        }
    }
    // What was met of one before it ended is not simply over the base either.
    for (_, numbers) in found.values_mut() {
        numbers.retain(|number| !broken.contains(number));
    }
    let mut sets: BTreeMap<Set, Vec<Sized>> = BTreeMap::new();
    for (same, (held, numbers)) in found.into_iter().filter(|(_, at)| at.1.len() > 1) {
        let mut by_content: BTreeMap<[u8; 32], Set> = BTreeMap::new();
        for number in numbers {
            let Some((_, upper)) = uppers.get(number) else {
                continue;
            };
            match content(upper, &same) {
                Ok(Some(content)) => {
                    by_content.entry(content).or_default().insert(number);
                }
                Ok(None) => {}
                Err(Errno::INTR) => return Err(interrupted(layout).into()),
                Err(_) => *left_out += 1,
            }
        }
        for set in by_content.into_values().filter(|set| set.len() > 1) {
            sets.entry(set).or_default().push((same.path.clone(), held));
        }
    }
    let named = |number: usize| uppers.get(number).map(|(name, _)| name.clone());
    let chosen = choose(sets).into_iter().map(|(set, mut files)| {
        files.sort();
        Alike {
            guests: set.into_iter().filter_map(named).collect(),
            bytes: sum(&files),
            paths: files.into_iter().map(|(path, _)| path).collect(),
        }
    });
    Ok(chosen.collect())
}

fn interrupted(layout: &Layout) -> FileError {
    FileError::new("look through", &layout.guests(), Errno::INTR)
}

/// A guest's own layer where it is a folder.
fn upper_of(layout: &Layout, name: &GuestName) -> Result<Option<OwnedFd>, RootError> {
    let object = place::object(layout, name)?;
    if object.driver != Driver::Overlay {
        return Ok(None);
    }
    let opened = object.open()?;
    let upper = child_dir(&opened.folder, c"upper");
    Ok(Some(
        upper.map_err(|e| FileError::new("open", &opened.shown, e))?,
    ))
}

/// Calls `visit` for each file of a layer that is simply over the same path in the layers below; no more of
/// them when it says so.
fn plain_files(
    upper: &OwnedFd,
    left_out: &mut u64,
    mut visit: impl FnMut(&[u8], &Stat) -> bool,
) -> rustix::io::Result<()> {
    let mut apart: Option<Vec<u8>> = None;
    walk(upper, |met| {
        if interrupt::caught().is_some() {
            return Err(Errno::INTR);
        }
        let folder = match is_dir(met.stat) {
            true => Some(child_dir(met.dir, met.name)?),
            false => None,
        };
        // Another folder may lead here, whose guest would see there what is put below this.
        if let Some(folder) = &folder
            && is_elsewhere(&of_open(folder)?)
        {
            return Err(Errno::OPNOTSUPP);
        }
        if let Some(above) = &apart {
            let rest = met.path.strip_prefix(above.as_slice());
            if rest.is_some_and(|rest| rest.starts_with(b"/")) {
                return Ok(());
            }
            apart = None;
        }
        if let Some(folder) = folder {
            let deep = met.path.iter().filter(|b| **b == b'/').count() + 1 >= DEPTH_MOST;
            *left_out += u64::from(deep);
            if deep || is_opaque(&folder) {
                apart = Some(met.path.to_vec());
            }
            return Ok(());
        }
        let stat = met.stat;
        // One of several names is the same file under all of them only as long as it is one.
        if is_file(stat) && stat.st_nlink == 1 && stat.st_blocks > 0 && !visit(met.path, stat) {
            *left_out += 1;
        }
        Ok(())
    })
}

/// Whether a folder of a layer, wherever it lies, shows what lies elsewhere below.
pub(super) fn leads_elsewhere(upper: &OwnedFd) -> rustix::io::Result<bool> {
    match plain_files(upper, &mut 0, |_, _| true) {
        Ok(()) => Ok(false),
        Err(Errno::OPNOTSUPP) => Ok(true),
        Err(errno) => Err(errno),
    }
}

/// What a file has in it, and as attributes; `None` if it is not what it was.
fn content(upper: &OwnedFd, same: &Same) -> rustix::io::Result<Option<[u8; 32]>> {
    let (parent, last) = merged::split(&same.path);
    let name = cname(last).map_err(|_| Errno::INVAL)?;
    let file = child_file(below(upper, parent)?, &name)?;
    let marks = of_open(file.as_fd())?;
    if is_elsewhere(&marks) {
        return Ok(None);
    }
    let Some(data) = digest(&file, same.size)? else {
        return Ok(None);
    };
    let mut hash = Sha256::new();
    hash.update(data);
    for (name, value) in plain(marks) {
        for field in [name, value] {
            hash.update((field.len() as u64).to_be_bytes());
            hash.update(&field);
        }
    }
    Ok(Some(hash.finalize().into()))
}

fn sum(files: &[Sized]) -> u64 {
    files.iter().map(|(_, bytes)| bytes).sum()
}

/// Of files by the guests that have them, those that are worth a layer: again and again the set of guests
/// for which one layer, of all that these have alike, gives back most.
fn choose(mut sets: BTreeMap<Set, Vec<Sized>>) -> Vec<(Set, Vec<Sized>)> {
    let mut layers: BTreeMap<usize, usize> = BTreeMap::new();
    let mut chosen = Vec::new();
    loop {
        let spare = |set: &Set, bytes: u64| bytes * (set.len() as u64).saturating_sub(1);
        let mut heavy: Vec<(u64, &Set)> = sets
            .iter()
            .filter(|(set, _)| {
                let full = |guest| layers.get(guest).is_some_and(|count| *count >= LAYERS_MOST);
                !set.iter().any(full)
            })
            .map(|(set, files)| (spare(set, sum(files)), set))
            .collect();
        heavy.sort_by(|a, b| b.cmp(a));
        heavy.truncate(SETS_MOST);
        let whole = |set: &Set| -> u64 {
            let above = sets.iter().filter(|(other, _)| other.is_superset(set));
            above.map(|(_, files)| sum(files)).sum()
        };
        let best = heavy
            .into_iter()
            .map(|(_, set)| (spare(set, whole(set)), set.clone()))
            .max();
        let Some((_, best)) = best.filter(|(spared, _)| *spared >= WORTH) else {
            return chosen;
        };
        let mut taken = Vec::new();
        let above: Vec<Set> = sets
            .keys()
            .filter(|other| other.is_superset(&best))
            .cloned()
            .collect();
        for set in above {
            let files = sets.remove(&set).unwrap_or_default();
            let rest: Set = set.difference(&best).copied().collect();
            if rest.len() > 1 {
                sets.entry(rest).or_default().extend(files.iter().cloned());
            }
            taken.extend(files);
        }
        for guest in &best {
            *layers.entry(*guest).or_default() += 1;
        }
        chosen.push((best, taken));
    }
}

#[cfg(test)]
mod tests {
    use super::super::dirfd::open_dir;
    use super::super::seed::tests::TempDir;
    use super::*;

    fn set(guests: &[usize]) -> Set {
        guests.iter().copied().collect()
    }

    fn file(name: &str, bytes: u64) -> Sized {
        (name.as_bytes().to_vec(), bytes)
    }

    #[test]
    fn the_layer_that_spares_most_comes_first_and_no_file_is_in_two_of_a_guest() {
        let sets = BTreeMap::from([
            (set(&[0, 1, 2, 3]), vec![file("all", 10 << 20)]),
            (set(&[0, 1, 2]), vec![file("most", 8 << 20)]),
            (set(&[1, 2]), vec![file("two", 2 << 20)]),
            (set(&[0, 3]), vec![file("little", WORTH - 1)]),
        ]);
        let chosen = choose(sets);
        // Four times 10 MiB spare 30, three times 18 spare 36.
        let names = |files: &[Sized]| -> Vec<String> {
            let names = files
                .iter()
                .map(|(name, _)| String::from_utf8_lossy(name).into_owned());
            let mut names: Vec<String> = names.collect();
            names.sort();
            names
        };
        let told: Vec<(Set, Vec<String>)> = chosen
            .iter()
            .map(|(set, files)| (set.clone(), names(files)))
            .collect();
        assert_eq!(
            told,
            [
                (set(&[0, 1, 2]), vec!["all".to_owned(), "most".to_owned()]),
                (set(&[1, 2]), vec!["two".to_owned()]),
            ]
        );
    }

    #[test]
    fn a_guest_gets_only_so_many_layers_at_once() {
        let sets = (1..10).map(|other| (set(&[0, other]), vec![file("f", 5 << 20)]));
        assert_eq!(choose(sets.collect()).len(), LAYERS_MOST);
    }

    #[test]
    fn what_is_not_simply_over_the_base_is_no_file_of_it() {
        let temp = TempDir::new("common-look");
        let make = |path: &str| {
            let path = temp.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "text").unwrap();
        };
        for path in ["a/f", "a/b/f", "linked", "b/f"] {
            make(path);
        }
        std::fs::hard_link(temp.path().join("linked"), temp.path().join("again")).unwrap();
        std::os::unix::fs::symlink("/etc/shadow", temp.path().join("link")).unwrap();
        let upper = open_dir(temp.path()).unwrap();
        let mut met = Vec::new();
        let mut left_out = 0;
        plain_files(&upper, &mut left_out, |path, _| {
            met.push(String::from_utf8_lossy(path).into_owned());
            true
        })
        .unwrap();
        assert_eq!(met, ["a/b/f", "a/f", "b/f"]);
        assert_eq!(left_out, 0);
    }

    #[test]
    fn a_layer_with_a_folder_that_leads_elsewhere_is_left_alone() {
        let temp = TempDir::new("common-elsewhere");
        std::fs::create_dir_all(temp.path().join("new/b/z")).unwrap();
        let upper = open_dir(temp.path()).unwrap();
        assert_eq!(leads_elsewhere(&upper), Ok(false));
        let mark = |path: &str, name: &str, value: &[u8]| {
            let flags = rustix::fs::XattrFlags::empty();
            rustix::fs::setxattr(temp.path().join(path), name, value, flags)
        };
        // Only root of the host can mark a folder so.
        if mark("new", "trusted.overlay.opaque", b"y").is_err() {
            return;
        }
        assert_eq!(leads_elsewhere(&upper), Ok(false));
        // It is looked for in what was made anew too.
        mark("new/b/z", "trusted.overlay.redirect", b"/a").unwrap();
        assert_eq!(leads_elsewhere(&upper), Ok(true));
    }
}
