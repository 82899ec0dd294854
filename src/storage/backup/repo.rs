//! A repository: made, opened, chunks stored once and read again, snapshots listed. Packs are stored
//! before the index names them, the index before a snapshot does, so that whatever is cut short
//! leaves a repository that is whole.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::super::digest::hex;
use super::blob::{Blobs, Hold, Kind, Part};
use super::chunk::MOST;
use super::error::{BackupError, Result};
use super::folder::{FORMAT_MOST, Folder, shown};
use super::index::{self, Index};
use super::key::{self, unhex, unhex_any};
use super::manifest::ListReader;
use super::pack::{Filling, Pack};
use super::seal::{ChunkId, Role, Secrets};
use super::snapshot::Tree;
use crate::kernel::random;

/// Packs after which the index is stored, so that a backup cut short need not begin at the beginning.
const CHECKPOINT: usize = 16;
/// The only format there is.
const FORMAT: u32 = 1;
/// What the proof of a key says.
const CHECK: &[u8] = b"Bulkhead backup repository";

/// How what is in a repository is protected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Protection {
    /// Encrypted, with the key in this file.
    KeyFile(PathBuf),
    /// Not at all: whoever has the repository reads it, and can change it.
    None,
}

/// `format.json`. Nothing of it is believed before the key has proved it.
#[derive(Debug, Serialize, Deserialize)]
struct Format {
    format: u32,
    id: String,
    encryption: String,
    check: String,
}

/// A chunk that is stored, and its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ChunkRef {
    pub(super) id: ChunkId,
    pub(super) length: u32,
}

/// What has been added to a repository since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Added {
    /// Bytes of chunks that were new, plain.
    pub plain: u64,
    /// The same as stored.
    pub stored: u64,
    /// Chunks that were new.
    pub chunks: u64,
}

/// A repository, opened.
#[derive(Debug)]
pub struct Repository {
    pub(super) blobs: Box<dyn Blobs>,
    pub(super) secrets: Secrets,
    pub(super) index: Index,
    pub(super) added: Added,
    filling: Filling,
    /// Packs that are stored and in no index yet.
    pending: Vec<Pack>,
    _held: std::os::fd::OwnedFd,
}

impl Repository {
    /// Makes an empty repository in the folder `place`. With a key file that is not there yet, that
    /// is made too.
    ///
    /// # Errors
    /// The folder is not empty, the key file is no key file, the disk is full.
    pub fn init(place: &Path, protection: &Protection) -> Result<()> {
        let mut id = [0; 16];
        random::fill(&mut id)?;
        let folder = Folder::make(place)?;
        let key = match protection {
            Protection::KeyFile(path) => Some(key::read_or_make(path)?),
            Protection::None => None,
        };
        let mut secrets = Secrets::new(key.as_ref(), &id)?;
        let format = Format {
            format: FORMAT,
            id: hex(&id),
            encryption: encryption(protection).to_owned(),
            check: hex(&secrets.seal(Role::Check, b"", CHECK)?),
        };
        let text = serde_json::to_vec_pretty(&format)
            .map_err(|e| BackupError::damaged("format.json", e.to_string()))?;
        folder.put(Kind::Format, "", &text)
    }

    /// Opens the repository in `place`, to add and read.
    ///
    /// # Errors
    /// There is none, the key is not its key, its index is damaged, it is in use by `prune`.
    pub fn open(place: &Path, protection: &Protection) -> Result<Self> {
        let mut repository = Self::unread(place, protection, Hold::Shared)?;
        repository.index = Index::load(&*repository.blobs, &repository.secrets)?;
        Ok(repository)
    }

    /// The same, held alone, to take away.
    pub(super) fn open_alone(place: &Path, protection: &Protection) -> Result<Self> {
        let mut repository = Self::unread(place, protection, Hold::Alone)?;
        repository.index = Index::load(&*repository.blobs, &repository.secrets)?;
        Ok(repository)
    }

    /// The same without its index.
    pub(super) fn unread(place: &Path, protection: &Protection, hold: Hold) -> Result<Self> {
        let blobs = Folder::open(place)?;
        let text = blobs.get(Kind::Format, "", FORMAT_MOST)?;
        let secrets = prove(&text, protection, place)?;
        let held = blobs.hold(hold)?;
        Ok(Self {
            blobs: Box::new(blobs),
            secrets,
            index: Index::default(),
            added: Added::default(),
            filling: Filling::default(),
            pending: Vec::new(),
            _held: held,
        })
    }

    /// Whether what is in it can only be of the key's holder.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.secrets.is_encrypted()
    }

    /// Removes what backups that died have left half-written; gives its bytes.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn sweep(&self) -> Result<u64> {
        self.blobs.sweep()
    }

    /// Stores a chunk unless it is there.
    ///
    /// # Errors
    /// The disk is full.
    pub(super) fn store(&mut self, data: &[u8]) -> Result<ChunkRef> {
        let id = self.secrets.chunk_id(data);
        let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
        if self.index.get(&id).is_none() {
            let sealed = self.secrets.seal(Role::Chunk, &id.0, data)?;
            self.added.plain += data.len() as u64;
            self.added.stored += sealed.len() as u64;
            self.added.chunks += 1;
            self.append(id, data.len(), &sealed)?;
        }
        Ok(ChunkRef { id, length })
    }

    /// Puts a sealed chunk into the pack that is being filled.
    pub(super) fn append(&mut self, id: ChunkId, plain: usize, sealed: &[u8]) -> Result<()> {
        self.append_unindexed(id, plain, sealed)?;
        if self.pending.len() >= CHECKPOINT {
            self.store_index()?;
        }
        Ok(())
    }

    fn end_pack(&mut self) -> Result<()> {
        if self.filling.is_empty() {
            return Ok(());
        }
        let (pack, bytes) = self.filling.finish(&mut self.secrets)?;
        self.blobs.put(Kind::Pack, &hex(&pack.id), &bytes)?;
        self.index.packs.push((pack.id, pack.size));
        self.pending.push(pack);
        Ok(())
    }

    /// As [`Repository::append`], but no index is stored.
    pub(super) fn append_unindexed(
        &mut self,
        id: ChunkId,
        plain: usize,
        sealed: &[u8],
    ) -> Result<()> {
        let slot = self.filling.add(id, plain, sealed);
        self.index.add(&slot);
        if self.filling.is_full() {
            self.end_pack()?;
        }
        Ok(())
    }

    /// Stores the last of these, and gives all packs that no index has yet.
    pub(super) fn take_unindexed(&mut self) -> Result<Vec<Pack>> {
        self.end_pack()?;
        Ok(std::mem::take(&mut self.pending))
    }

    fn store_index(&mut self) -> Result<()> {
        index::store(&*self.blobs, &mut self.secrets, &self.pending)?;
        self.pending.clear();
        Ok(())
    }

    /// Stores what is not stored yet: the last pack, then the index.
    ///
    /// # Errors
    /// The disk is full.
    pub(super) fn flush(&mut self) -> Result<()> {
        self.end_pack()?;
        self.store_index()
    }

    /// Whether a chunk of these bytes is there.
    pub(super) fn holds(&self, chunk: &ChunkRef) -> bool {
        let place = self.index.get(&chunk.id);
        place.is_some_and(|place| place.plain == chunk.length)
    }

    /// Whether a tree is there with all its data.
    pub(super) fn holds_all(&self, tree: &Tree) -> bool {
        let whole = || -> Result<bool> {
            let mut list = ListReader::new(tree.list()?);
            while let Some(entry) = list.next(self)? {
                if !entry.data.iter().all(|chunk| self.holds(chunk)) {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        whole().unwrap_or(false)
    }

    /// The bytes of a chunk, which have proved to be it.
    ///
    /// # Errors
    /// It is missing or damaged.
    pub(super) fn chunk(&self, chunk: &ChunkRef) -> Result<Vec<u8>> {
        let what = || format!("chunk {}", chunk.id.hex());
        let Some(place) = self.index.get(&chunk.id) else {
            return Err(BackupError::damaged(what(), "no pack holds it"));
        };
        let pack = self.index.packs.get(place.pack as usize);
        let part = Part {
            offset: place.offset.into(),
            length: place.stored,
        };
        let (sealed, name) = match pack {
            Some((pack, _)) => {
                let name = hex(pack);
                (self.blobs.get_part(Kind::Pack, &name, part)?, name)
            }
            None => (self.unstored(&place), "the pack being filled".to_owned()),
        };
        self.open_chunk(&chunk.id, &sealed)
            .filter(|data| data.len() == chunk.length as usize)
            .ok_or_else(|| {
                let why = format!("what {} holds is not authentic", shown(Kind::Pack, &name));
                BackupError::damaged(what(), why)
            })
    }

    /// The same; `None` if this chunk cannot be had, while the repository is there.
    ///
    /// # Errors
    /// The repository has gone away, or this host is short of something.
    pub(super) fn chunk_unless_damaged(&self, chunk: &ChunkRef) -> Result<Option<Vec<u8>>> {
        match self.chunk(chunk) {
            Err(error) if error.is_unreadable() => self.blobs.look_again().map(|()| None),
            bytes => bytes.map(Some),
        }
    }

    /// Bytes in the pack that is being filled.
    fn unstored(&self, place: &index::Place) -> Vec<u8> {
        let slot = super::pack::Slot {
            id: ChunkId([0; 32]),
            offset: place.offset,
            stored: place.stored,
            plain: place.plain,
        };
        self.filling.part(&slot).to_vec()
    }

    /// A sealed chunk's bytes, if they are what its name says.
    pub(super) fn open_chunk(&self, id: &ChunkId, sealed: &[u8]) -> Option<Vec<u8>> {
        let data = self.secrets.open(Role::Chunk, &id.0, sealed, MOST)?;
        (self.secrets.chunk_id(&data) == *id).then_some(data)
    }
}

fn encryption(protection: &Protection) -> &'static str {
    match protection {
        Protection::KeyFile(_) => "xchacha20-poly1305",
        Protection::None => "none",
    }
}

/// The keys of the repository with this `format.json`, if the key file is the right one.
fn prove(text: &[u8], protection: &Protection, place: &Path) -> Result<Secrets> {
    let damaged = |why: &str| BackupError::damaged("format.json", why);
    let format: Format = serde_json::from_slice(text).map_err(|e| damaged(&e.to_string()))?;
    if format.format != FORMAT {
        return Err(damaged(
            "its format is of another version: use the version of Bulkhead that made it",
        ));
    }
    let id: [u8; 16] = unhex(&format.id).ok_or_else(|| damaged("its id is no id"))?;
    // Whoever has a key must not be led to read, or to write, what is not encrypted.
    if format.encryption != encryption(protection) {
        let why = match protection {
            Protection::KeyFile(_) => "it is not encrypted: if that is meant, say --no-encryption",
            Protection::None => "it is encrypted: name its key with --key-file",
        };
        return Err(BackupError::Protection {
            place: place.to_owned(),
            why,
        });
    }
    let key = match protection {
        Protection::KeyFile(path) => Some(key::read(path)?),
        Protection::None => None,
    };
    let secrets = Secrets::new(key.as_ref(), &id)?;
    let check = unhex_any(&format.check).ok_or_else(|| damaged("its check is not hexadecimal"))?;
    let proof = secrets.open(Role::Check, b"", &check, CHECK.len());
    if proof.as_deref() == Some(CHECK) {
        return Ok(secrets);
    }
    match protection {
        Protection::KeyFile(path) => Err(BackupError::Key {
            path: path.clone(),
            why: "it is not the key of this repository, or format.json is damaged".to_owned(),
        }),
        Protection::None => Err(damaged("its check does not fit")),
    }
}
