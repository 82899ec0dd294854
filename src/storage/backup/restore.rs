//! Bringing files back: everything or some paths into a new folder, a guest's own layer into its new
//! root, an image into the images. What is made appears whole or not at all.

use std::collections::HashSet;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{self, FlockOperation};
use rustix::io::Errno;

use super::super::dirfd::{self, FileError, Owner, child_dir, cname, make_dir, open_dir};
use super::super::place;
use super::super::remove::remove_tree;
use super::super::tree_item::{Item, What};
use super::super::tree_policy::Policy;
use super::super::tree_write::{Sink, TreeWriter};
use super::entry::Entry;
use super::error::{BackupError, Result};
use super::links::Links;
use super::manifest::{is_below, plain};
use super::repo::{ChunkRef, Repository};
use super::restore_gap::{Folders, Unlisted, blank, is_made_up, unlisted};
use super::snapshot::Snapshot;
use super::source::{Source, View};
use crate::kernel::{fault, interrupt};
use crate::model::{GuestName, Layout};

/// What was restored.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Restored {
    /// Files of all types.
    pub files: u64,
    /// Bytes of data.
    pub bytes: u64,
    /// Attributes that the file system, or the rules for a stranger's data, did not take.
    pub left_out: u64,
    /// Files whose data is damaged in the repository, and that are therefore not there.
    pub damaged: Vec<String>,
    /// What of the lists of files is damaged, so that nobody knows what was there.
    pub unlisted: Vec<Unlisted>,
}

/// What is to be restored.
#[derive(Clone, Debug)]
pub struct Selection {
    /// The guest's files as it saw them, or its own layer.
    pub view: View,
    /// Paths inside it; none for everything.
    pub paths: Vec<Vec<u8>>,
}

impl Selection {
    /// From paths as people write them.
    ///
    /// # Errors
    /// One has `..` in it.
    pub fn new(view: View, paths: &[Vec<u8>]) -> Result<Self> {
        let paths: Vec<Vec<u8>> = paths
            .iter()
            .map(|path| plain(path))
            .collect::<Result<_>>()?;
        let all = paths.iter().any(Vec::is_empty);
        Ok(Self {
            view,
            paths: if all { Vec::new() } else { paths },
        })
    }

    /// Whether an entry is asked for, or a folder on the way to one that is.
    pub(super) fn takes(&self, entry: &Entry) -> bool {
        let path = &entry.item.path;
        let asked = |wanted: &Vec<u8>| is_below(path, wanted);
        let on_the_way =
            |wanted: &Vec<u8>| entry.item.what == What::Folder && is_below(wanted, path);
        self.paths.is_empty() || self.paths.iter().any(|w| asked(w) || on_the_way(w))
    }
}

impl Repository {
    /// Restores into the folder `to`, which is made; one that is there must be empty. The folder is
    /// for its owner only: what is in it may be set-user-ID and hostile. Files whose data is damaged
    /// are left out and named, and so are stretches of damaged lists of files.
    ///
    /// # Errors
    /// As for [`Repository::measure`], and: the folder is not empty, the disk is full, the repository
    /// goes away meanwhile, a signal asks this program to end. Then nothing is left.
    pub fn restore(
        &self,
        snapshot: &Snapshot,
        selection: &Selection,
        to: &Path,
        progress: &mut dyn FnMut(&Restored),
    ) -> Result<Restored> {
        self.measure(snapshot, selection)?;
        let place = Place::new(to)?;
        let source = Source::past_damage(self, snapshot, selection.view)?;
        let links = Links::new(self, snapshot, true)?;
        let policy = self.policy();
        let mut filling = Filling {
            repository: self,
            source,
            links,
            selection,
            closed: true,
            goes_on: true,
            lost: HashSet::new(),
            folders: Folders::default(),
        };
        let done = filling
            .fill(snapshot, &place.dir, policy, progress)
            .and_then(|done| place.keep().map(|()| done));
        if done.is_err() {
            // The first error is the one to report; the next restore there removes what is left.
            place.discard().ok();
        }
        done
    }

    /// Restores what the guest has written, in one layer, into an empty folder.
    pub(super) fn restore_layer(
        &self,
        snapshot: &Snapshot,
        to: &OwnedFd,
        progress: &mut dyn FnMut(&Restored),
    ) -> Result<Restored> {
        let own = snapshot.own_alone();
        self.restore_all(&own, to, (Policy::Guest, true), progress)
    }

    /// Restores one tree of the guest's image into an empty folder: all of it, or it is not the image.
    pub(super) fn restore_below(
        &self,
        snapshot: &Snapshot,
        number: usize,
        to: &OwnedFd,
        progress: &mut dyn FnMut(&Restored),
    ) -> Result<Restored> {
        let alone = snapshot.below_alone(number);
        self.restore_all(&alone, to, (self.policy(), false), progress)
    }

    fn restore_all(
        &self,
        snapshot: &Snapshot,
        to: &OwnedFd,
        (policy, goes_on): (Policy, bool),
        progress: &mut dyn FnMut(&Restored),
    ) -> Result<Restored> {
        let selection = Selection::new(View::Own, &[])?;
        let mut filling = Filling {
            repository: self,
            source: match goes_on {
                true => Source::past_damage(self, snapshot, View::Own)?,
                false => Source::new(self, snapshot, View::Own)?,
            },
            links: Links::new(self, snapshot, goes_on)?,
            selection: &selection,
            closed: false,
            goes_on,
            lost: HashSet::new(),
            folders: Folders::default(),
        };
        filling.fill(snapshot, to, policy, progress)
    }

    /// Restores the guest's own layer into a new, empty root. Where data of a file is damaged, the
    /// guest has no such file: not the one of its image either, which would be an older one.
    ///
    /// # Errors
    /// The root is not empty, the repository is damaged, the disk is full.
    pub fn restore_own(
        &self,
        layout: &Layout,
        name: &GuestName,
        snapshot: &Snapshot,
        progress: &mut dyn FnMut(&Restored),
    ) -> Result<Restored> {
        let opened = place::open(layout, name)?;
        let path = opened.shown.join("upper");
        let upper =
            child_dir(&opened.folder, c"upper").map_err(|e| FileError::new("open", &path, e))?;
        fault::point()?;
        let done = self.restore_layer(snapshot, &upper, progress)?;
        fs::syncfs(&upper).map_err(|e| FileError::new("write to disk", &path, e))?;
        fault::point()?;
        Ok(done)
    }

    /// What may come out of this repository: everything that its key has proved, else what a
    /// stranger may give.
    fn policy(&self) -> Policy {
        if self.is_encrypted() {
            Policy::Everything
        } else {
            Policy::Guest
        }
    }
}

/// Entries on their way into a folder.
struct Filling<'a> {
    repository: &'a Repository,
    source: Source,
    links: Links,
    selection: &'a Selection,
    /// Whether the top is for its owner only.
    closed: bool,
    /// Whether files whose data is damaged are left out; else the first of them ends it.
    goes_on: bool,
    /// Those that were.
    lost: HashSet<Vec<u8>>,
    folders: Folders,
}

impl Filling<'_> {
    fn fill(
        &mut self,
        snapshot: &Snapshot,
        to: &OwnedFd,
        policy: Policy,
        progress: &mut dyn FnMut(&Restored),
    ) -> Result<Restored> {
        let mut writer = TreeWriter::new(to, policy)?;
        let mut done = Restored::default();
        while let Some((layer, entry)) = self.source.next(self.repository)? {
            if !self.selection.takes(&entry) {
                continue;
            }
            if interrupt::caught().is_some() {
                let source = std::io::Error::from(std::io::ErrorKind::Interrupted);
                return Err(FileError::new("restore", Path::new(""), source).into());
            }
            let path = entry.item.path.clone();
            let behind = self.source.is_behind_gap(layer, &path);
            if behind {
                let Some(missing) = self.folders.missing(&entry.item) else {
                    self.lose(path, &mut done);
                    continue;
                };
                for folder in missing {
                    writer.item(self.top_closed(folder))?;
                }
            }
            let placed = self.links.place(layer, entry)?;
            let found = placed.filter(|entry| {
                let is_lost =
                    matches!(&entry.item.what, What::HardLink(file) if self.lost.contains(file));
                !(is_lost || behind && is_made_up(entry, policy))
            });
            let Some(mut entry) = found else {
                self.leave_out(&path, &mut writer)?;
                self.lose(path, &mut done);
                continue;
            };
            self.folders.enter(&path, entry.item.what == What::Folder);
            entry.item = self.top_closed(entry.item);
            let Some(mut sink) = writer.item(entry.item)? else {
                done.files += 1;
                continue;
            };
            if self.data(&entry.data, &mut sink, &mut done, progress)? {
                writer.close(sink)?;
                done.files += 1;
            } else {
                writer.abandon(sink, self.absent())?;
                self.lose(path, &mut done);
            }
        }
        if self.folders.is_empty() && !unlisted(&self.source, snapshot, &[]).is_empty() {
            writer.item(self.top_closed(blank(Vec::new(), What::Folder)))?;
        }
        done.left_out = writer.finish()?;
        done.unlisted = unlisted(&self.source, snapshot, &self.selection.paths);
        Ok(done)
    }

    /// The top is for its owner only, if that was asked for.
    fn top_closed(&self, mut item: Item) -> Item {
        if self.closed && item.path.is_empty() {
            item.mode = 0o700;
            item.uid = rustix::process::geteuid().as_raw();
            item.gid = rustix::process::getegid().as_raw();
        }
        item
    }

    /// Fills a file; whether all its data could be read.
    fn data(
        &self,
        chunks: &[ChunkRef],
        sink: &mut Sink,
        done: &mut Restored,
        progress: &mut dyn FnMut(&Restored),
    ) -> Result<bool> {
        let before = done.bytes;
        for chunk in chunks {
            let bytes = match self.goes_on {
                true => self.repository.chunk_unless_damaged(chunk)?,
                false => Some(self.repository.chunk(chunk)?),
            };
            let Some(bytes) = bytes else {
                done.bytes = before;
                return Ok(false);
            };
            sink.write(&bytes)?;
            done.bytes += u64::from(chunk.length);
            progress(done);
        }
        Ok(true)
    }

    /// What stands for a file that could not be read: in a layer the mark that hides the one below,
    /// which the guest had replaced; nothing where there is nothing below.
    fn absent(&self) -> Option<What> {
        (self.selection.view == View::Own).then_some(What::Device {
            block: false,
            major: 0,
            minor: 0,
        })
    }

    /// Puts into the place of what is lost what stands for it.
    fn leave_out(&mut self, path: &[u8], writer: &mut TreeWriter) -> Result<()> {
        // A top of which nothing is known is made with what is in it.
        if path.is_empty() {
            return Ok(());
        }
        self.folders.enter(path, false);
        if let Some(what) = self.absent() {
            writer.item(blank(path.to_vec(), what))?;
        }
        Ok(())
    }

    fn lose(&mut self, path: Vec<u8>, done: &mut Restored) {
        let shown = String::from_utf8_lossy(&path);
        done.damaged.push(format!("/{shown}"));
        self.lost.insert(path);
    }
}

/// A folder that is filled under another name and then appears.
struct Place {
    to: PathBuf,
    parent: OwnedFd,
    temporary: std::ffi::CString,
    name: std::ffi::CString,
    dir: OwnedFd,
}

impl Place {
    fn new(to: &Path) -> Result<Self> {
        let failed = |e: std::io::Error| FileError::new("restore to", to, e);
        let to = std::path::absolute(to).map_err(failed)?;
        let (Some(above), Some(name)) = (to.parent(), to.file_name()) else {
            return Err(failed(Errno::EXIST.into()).into());
        };
        let parent = open_dir(above)?;
        if to.symlink_metadata().is_ok() {
            let names = dirfd::names(open_dir(&to)?).map_err(|e| failed(e.into()))?;
            if !names.is_empty() {
                return Err(BackupError::Restore {
                    what: format!("to {}", to.display()),
                    why: "it is not empty: name a new folder".to_owned(),
                });
            }
        }
        let name = cname(name.as_encoded_bytes()).map_err(failed)?;
        let temporary = [b".", name.to_bytes(), b".bulkhead-restore"].concat();
        let temporary = cname(temporary).map_err(failed)?;
        // What one that died has left. One that lives holds it.
        if let Ok(old) = child_dir(&parent, &temporary) {
            fs::flock(&old, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
                BackupError::Restore {
                    what: format!("to {}", to.display()),
                    why: "another restore to it is under way".to_owned(),
                }
            })?;
            remove_tree(&parent, &temporary, &to)?;
        }
        let dir = make_dir(&parent, &temporary, mine()).map_err(|e| failed(e.into()))?;
        fs::flock(dir.as_fd(), FlockOperation::NonBlockingLockExclusive)
            .map_err(|e| failed(e.into()))?;
        fault::point()?;
        Ok(Self {
            to,
            parent,
            temporary,
            name,
            dir,
        })
    }

    /// Gives it its name.
    fn keep(&self) -> Result<()> {
        let failed = |e: Errno| FileError::new("restore to", &self.to, e);
        fault::point()?;
        fs::renameat(&self.parent, &*self.temporary, &self.parent, &*self.name).map_err(failed)?;
        fault::point()?;
        Ok(fs::fsync(&self.parent).map_err(failed)?)
    }

    fn discard(&self) -> Result<()> {
        Ok(remove_tree(&self.parent, &self.temporary, &self.to)?)
    }
}

fn mine() -> Owner {
    Owner {
        mode: 0o700,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
    }
}
