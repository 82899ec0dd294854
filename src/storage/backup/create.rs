//! Making a backup of a guest: the trees below it once for each digest, then its own layer, of which
//! only those files are read that have changed since its last backup (`unchanged`).

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use serde::Serialize;

use super::super::build::now_ms;
use super::super::dirfd::{FileError, child_dir, open_dir};
use super::super::image::Image;
use super::super::layer::load_layer;
use super::super::place::{self, Opened};
use super::super::root::lowers_set_aside;
use super::super::tree_item::What;
use super::super::tree_read::{Content, Found, read_tree};
use super::chunk::Cutter;
use super::entry::Entry;
use super::error::{BackupError, Result};
use super::manifest::ListWriter;
use super::repo::{ChunkRef, Repository};
use super::snapshot::{Below, Snapshot, Tree};
use super::unchanged::{Last, changed, nanoseconds};
use crate::kernel::interrupt;
use crate::model::{GuestName, Layout};

/// How often a tree is walked again whose folders a running guest moves meanwhile.
const ATTEMPTS: u32 = 5;

/// What of a guest is not in its files.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Its name.
    pub guest: GuestName,
    /// Name of the host.
    pub host: String,
    /// Text of its `guest.toml`.
    pub definition: String,
    /// Its machine id.
    pub machine_id: String,
    /// Its image.
    pub image: Image,
}

/// What a backup has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Work {
    /// Files met.
    pub files: u64,
    /// Files whose data was read.
    pub read_files: u64,
    /// Bytes of data that were read.
    pub read_bytes: u64,
    /// Files that had gone when they were to be read.
    pub gone: u64,
}

/// A backup that is being made.
pub struct Backup<'a> {
    repository: &'a mut Repository,
    layout: &'a Layout,
    subject: Subject,
    began_ms: u64,
    /// The own layer as it was last, and when that was read.
    last: Option<(Tree, u64)>,
    chain: Vec<Below>,
    below: Vec<Below>,
    earlier: Vec<Snapshot>,
    work: Work,
    progress: &'a mut dyn FnMut(&Work),
}

impl std::fmt::Debug for Backup<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Backup")
            .field("guest", &self.subject.guest)
            .field("work", &self.work)
            .finish_non_exhaustive()
    }
}

impl<'a> Backup<'a> {
    /// Begins one, and reads the trees below the guest unless they are in the repository.
    ///
    /// # Errors
    /// A file cannot be read, the repository's disk is full, a signal asks this program to end.
    pub fn begin(
        repository: &'a mut Repository,
        layout: &'a Layout,
        subject: Subject,
        progress: &'a mut dyn FnMut(&Work),
    ) -> Result<Self> {
        let began_ms = now_ms();
        let earlier = repository.snapshots()?;
        let of_guest = |snapshot: &&Snapshot| snapshot.guest == subject.guest.as_str();
        let last = earlier.iter().rev().find(of_guest);
        let last = last.map(|snapshot| (snapshot.own.clone(), snapshot.began_ms));
        let mut backup = Self {
            repository,
            layout,
            subject,
            began_ms,
            last,
            chain: Vec::new(),
            below: Vec::new(),
            earlier,
            work: Work::default(),
            progress,
        };
        for (digest, path) in lowers(&backup.subject.image) {
            let record = load_layer(layout, &digest).ok().flatten();
            let tree = backup.shared(&digest, &path)?;
            backup.below.push(Below {
                digest,
                record,
                tree,
            });
        }
        Ok(backup)
    }

    /// A read-only tree that several guests may share: read once for each name.
    fn shared(&mut self, digest: &str, path: &Path) -> Result<Tree> {
        let earlier = self
            .earlier
            .iter()
            .flat_map(|snapshot| snapshot.below.iter().chain(&snapshot.chain));
        let mut same = earlier.filter(|below| below.digest == digest);
        match same.next().map(|below| below.tree.clone()) {
            Some(tree) if self.repository.holds_all(&tree) => Ok(tree),
            _ => self.tree(open_dir(path)?.as_fd(), path, None),
        }
    }

    /// Reads the guest's own layer. Done again, it reads what has changed since: of a running guest
    /// first everything, then, with the guest frozen, the rest.
    ///
    /// # Errors
    /// As for [`Backup::begin`].
    pub fn read_own(&mut self) -> Result<()> {
        for _ in 0..ATTEMPTS {
            let began = now_ms();
            let (upper, path, chain, _opened) = self.layers()?;
            self.chain.clear();
            for layer in &chain {
                let digest = layer.parent().and_then(Path::file_name);
                let digest = digest.unwrap_or_default().to_string_lossy().into_owned();
                let tree = self.shared(&digest, layer)?;
                let record = None;
                self.chain.push(Below {
                    digest,
                    record,
                    tree,
                });
            }
            let last = self.last.take();
            let tree = self.tree(upper.as_fd(), &path, last)?;
            self.last = Some((tree, began));
            // What `dedupe` has moved to a layer meanwhile may have been read nowhere.
            if lowers_set_aside(self.layout, &self.subject.guest)? == chain {
                return Ok(());
            }
        }
        Err(FileError::new("read", Path::new("upper"), Errno::BUSY).into())
    }

    /// The guest's own layer, and those set aside from it, as of one moment: a snapshot that is made
    /// meanwhile moves the one to the others.
    fn layers(&self) -> Result<(OwnedFd, PathBuf, Vec<PathBuf>, Opened)> {
        let guest = &self.subject.guest;
        let chain = || lowers_set_aside(self.layout, guest);
        let mut before = chain()?;
        for attempt in 0.. {
            let opened = place::open(self.layout, guest)?;
            let path = opened.shown.join("upper");
            let upper = child_dir(&opened.folder, c"upper");
            let after = chain()?;
            match upper {
                Ok(upper) if before == after => return Ok((upper, path, after, opened)),
                Ok(_) | Err(Errno::NOENT) if attempt < ATTEMPTS => {
                    std::thread::sleep(std::time::Duration::from_millis(20));
                }
                Ok(_) => return Err(FileError::new("open", &path, Errno::BUSY).into()),
                Err(e) => return Err(FileError::new("open", &path, e).into()),
            }
            before = after;
        }
        Err(FileError::new("open", Path::new("upper"), Errno::BUSY).into())
    }

    /// What was done so far.
    #[must_use]
    pub fn work(&self) -> Work {
        self.work
    }

    /// Stores the snapshot: from then on the backup is there.
    ///
    /// # Errors
    /// The repository's disk is full; the guest's own layer was not read.
    pub fn finish(self, frozen: bool) -> Result<Snapshot> {
        let unread = || BackupError::damaged("the backup", "the guest's own layer was not read");
        let (own, _) = self.last.ok_or_else(unread)?;
        let subject = self.subject;
        let added = self.repository.added.stored;
        self.repository.commit(Snapshot {
            id: String::new(),
            guest: subject.guest.to_string(),
            host: subject.host,
            began_ms: self.began_ms,
            took_ms: now_ms().saturating_sub(self.began_ms),
            frozen,
            definition: subject.definition,
            machine_id: subject.machine_id,
            image: subject.image,
            own,
            chain: self.chain,
            below: self.below,
            added,
        })
    }

    /// Reads a tree; again where folders are moved meanwhile.
    fn tree(
        &mut self,
        top: BorrowedFd<'_>,
        path: &Path,
        last: Option<(Tree, u64)>,
    ) -> Result<Tree> {
        for attempt in 1.. {
            let began = self.work;
            let mut pass = Pass::new(self, last.as_ref())?;
            let walked = read_tree(top, |found| pass.visit(found));
            match walked {
                Ok(()) => return pass.finish(),
                Err(BackupError::File(error))
                    if attempt < ATTEMPTS
                        && Errno::from_io_error(&error.source) == Some(Errno::STALE) =>
                {
                    self.work.files = began.files;
                }
                Err(BackupError::File(error)) => {
                    let path = path.join(&error.path);
                    return Err(FileError { path, ..error }.into());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Tree::default())
    }
}

/// Digests and places of the trees below an image's guests.
fn lowers(image: &Image) -> Vec<(String, PathBuf)> {
    let digests = match image.layers.as_slice() {
        [] => std::slice::from_ref(&image.digest),
        layers => layers,
    };
    digests.iter().cloned().zip(image.lowers()).collect()
}

/// One walk through one tree.
struct Pass<'p, 'a> {
    backup: &'p mut Backup<'a>,
    list: ListWriter,
    cutter: Cutter,
    last: Option<Last>,
    /// Names of files with several that had gone when they were to be read, and the name under which
    /// the file was read instead.
    gone: HashMap<Vec<u8>, Option<Vec<u8>>>,
    files: u64,
    bytes: u64,
}

impl<'p, 'a> Pass<'p, 'a> {
    fn new(backup: &'p mut Backup<'a>, last: Option<&(Tree, u64)>) -> Result<Self> {
        let repository = &*backup.repository;
        // A list that cannot be read any more tells nothing: then all is read again.
        let last = last.and_then(|(tree, began)| Last::new(repository, tree, *began).ok());
        Ok(Self {
            list: ListWriter::new(repository),
            cutter: Cutter::new(repository.secrets.cut()),
            last,
            backup,
            gone: HashMap::new(),
            files: 0,
            bytes: 0,
        })
    }

    fn visit(&mut self, found: &Found<'_>) -> Result<()> {
        if interrupt::caught().is_some() {
            let source = io::Error::from(io::ErrorKind::Interrupted);
            return Err(FileError::new("back up", Path::new(""), source).into());
        }
        let entry = match self.unchanged(found)? {
            Some(entry) => Some(entry),
            None => self.read(found)?,
        };
        let Some(entry) = entry else {
            self.backup.work.gone += 1;
            return Ok(());
        };
        self.files += 1;
        self.bytes += entry.item.what.data();
        self.backup.work.files += 1;
        self.list.add(self.backup.repository, &entry)?;
        (self.backup.progress)(&self.backup.work);
        Ok(())
    }

    /// The entry of the backup before, if the file has not changed and its data is there.
    fn unchanged(&mut self, found: &Found<'_>) -> Result<Option<Entry>> {
        let repository = &*self.backup.repository;
        let Some(last) = &mut self.last else {
            return Ok(None);
        };
        let mut entry = match last.at(repository, found.path) {
            Ok(Some(entry)) => entry,
            Ok(None) => return Ok(None),
            // The rest of it is damaged.
            Err(_) => {
                self.last = None;
                return Ok(None);
            }
        };
        let same = found.earlier.is_none()
            && last.is_same(&entry, found.stat)
            && entry.data.iter().all(|chunk| repository.holds(chunk));
        // Reading a file changes this time and no other.
        entry.item.accessed = (found.stat.st_atime, nanoseconds(found.stat.st_atime_nsec));
        Ok(same.then_some(entry))
    }

    /// The file as it is now; `None` if it has gone.
    fn read(&mut self, found: &Found<'_>) -> Result<Option<Entry>> {
        let mut target = None;
        let read = match found.earlier.and_then(|earlier| self.gone.get_mut(earlier)) {
            None => found.item()?,
            // The name it was met under has gone: this one takes its place.
            Some(instead @ None) => {
                *instead = Some(found.path.to_vec());
                found.alone().item()?
            }
            Some(Some(instead)) => {
                target = Some(instead.clone());
                found.item()?
            }
        };
        let Some((mut item, content)) = read else {
            if found.stat.st_nlink > 1 {
                self.gone.insert(found.path.to_vec(), None);
            }
            return Ok(None);
        };
        if let (What::HardLink(to), Some(target)) = (&mut item.what, target) {
            *to = target;
        }
        let data = match content {
            Some(content) => self.data(found.path, content)?,
            None => Vec::new(),
        };
        Ok(Some(Entry {
            item,
            changed: changed(found.stat),
            inode: found.stat.st_ino,
            data,
        }))
    }

    /// Stores what a file holds.
    fn data(&mut self, path: &[u8], mut content: Content) -> Result<Vec<ChunkRef>> {
        let mut chunks = Vec::new();
        self.cutter.reset();
        self.backup.work.read_files += 1;
        loop {
            let next = self.cutter.next(|buffer| content.read(buffer));
            let failed = |e| super::super::tree_item::failed("read", path, e);
            let Some(chunk) = next.map_err(failed)? else {
                return Ok(chunks);
            };
            self.backup.work.read_bytes += chunk.len() as u64;
            chunks.push(self.backup.repository.store(chunk)?);
            (self.backup.progress)(&self.backup.work);
        }
    }

    fn finish(self) -> Result<Tree> {
        let list = self.list.finish(self.backup.repository)?;
        Ok(Tree::new(self.files, self.bytes, &list))
    }
}
