//! What was backed up: whose, when, its definition and image, and where the lists of its files are.
//! Small, sealed, stored last: with it a backup is there.

use serde::{Deserialize, Serialize};

use super::super::image::Image;
use super::super::layer::Layer;
use super::blob::Kind;
use super::error::{BackupError, Result};
use super::folder::shown;
use super::key::unhex;
use super::repo::{ChunkRef, Repository};
use super::seal::{ChunkId, Role};
use crate::kernel::random;

/// Most bytes of a snapshot, sealed or plain.
const LARGEST: usize = 64 << 20;

/// One backup of one guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Its name: 16 hexadecimal digits.
    #[serde(skip)]
    pub id: String,
    /// Name of the guest.
    pub guest: String,
    /// Name of the host it ran on.
    pub host: String,
    /// When the backup began, milliseconds since 1970.
    pub began_ms: u64,
    /// How long it took, milliseconds.
    pub took_ms: u64,
    /// Whether the guest was frozen while the last changes were read.
    pub frozen: bool,
    /// Text of its `guest.toml`.
    pub definition: String,
    /// Its machine id, see machine-id(5).
    pub machine_id: String,
    /// The record of its image.
    pub image: Image,
    /// Files and bytes of the guest's own layer.
    pub own: Tree,
    /// Layers that were set aside from it for snapshots and linked clones, topmost first.
    #[serde(default)]
    pub chain: Vec<Below>,
    /// The trees of its image, topmost first.
    pub below: Vec<Below>,
    /// Bytes that this backup has added to the repository.
    pub added: u64,
}

/// A tree below a guest's own layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Below {
    /// Digest of the image or of one of its layers; the name of a layer that was set aside.
    pub digest: String,
    /// The record of a layer that images share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<Layer>,
    /// Its files.
    pub tree: Tree,
}

/// All files of a tree.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tree {
    /// Files of all types.
    pub files: u64,
    /// Bytes of data.
    pub bytes: u64,
    /// Chunks of the list of its files: name and bytes.
    list: Vec<(String, u32)>,
}

impl Tree {
    /// One with this list.
    pub(super) fn new(files: u64, bytes: u64, list: &[ChunkRef]) -> Self {
        let list = list.iter().map(|chunk| (chunk.id.hex(), chunk.length));
        Self {
            files,
            bytes,
            list: list.collect(),
        }
    }

    /// The chunks of the list of its files.
    pub(super) fn list(&self) -> Result<Vec<ChunkRef>> {
        let chunk = |(name, length): &(String, u32)| {
            let id = ChunkId(unhex(name)?);
            Some(ChunkRef {
                id,
                length: *length,
            })
        };
        let list: Option<Vec<ChunkRef>> = self.list.iter().map(chunk).collect();
        list.ok_or_else(|| BackupError::damaged("a snapshot", "a chunk in it has no name"))
    }
}

impl Snapshot {
    /// All its trees, the guest's own first.
    pub fn trees(&self) -> impl Iterator<Item = &Tree> {
        let rest = self.chain.iter().chain(&self.below);
        std::iter::once(&self.own).chain(rest.map(|below| &below.tree))
    }

    /// What the guest has written, without what lies below it.
    pub(super) fn own_alone(&self) -> Self {
        Self {
            below: Vec::new(),
            ..self.clone()
        }
    }

    /// One tree of the guest's image as if it were all there is.
    pub(super) fn below_alone(&self, number: usize) -> Self {
        let below = self.below.get(number);
        Self {
            own: below.map(|below| below.tree.clone()).unwrap_or_default(),
            chain: Vec::new(),
            below: Vec::new(),
            ..self.clone()
        }
    }
}

impl Repository {
    /// Stores what is not stored yet, then the snapshot, which gets its name.
    pub(super) fn commit(&mut self, mut snapshot: Snapshot) -> Result<Snapshot> {
        self.flush()?;
        snapshot.id = random::hex(8)?;
        let text = serde_json::to_vec(&snapshot)
            .map_err(|e| BackupError::damaged("a snapshot", e.to_string()))?;
        let sealed = self
            .secrets
            .seal(Role::Snapshot, snapshot.id.as_bytes(), &text)?;
        self.blobs.put(Kind::Snapshot, &snapshot.id, &sealed)?;
        Ok(snapshot)
    }

    /// All snapshots, oldest first.
    ///
    /// # Errors
    /// One is damaged.
    pub fn snapshots(&self) -> Result<Vec<Snapshot>> {
        let names = self.blobs.list(Kind::Snapshot)?;
        let mut all = names
            .iter()
            .map(|(name, _)| self.snapshot(name))
            .collect::<Result<Vec<_>>>()?;
        all.sort_by(|a, b| (a.began_ms, &a.id).cmp(&(b.began_ms, &b.id)));
        Ok(all)
    }

    /// The snapshot with exactly this name.
    pub(super) fn snapshot(&self, name: &str) -> Result<Snapshot> {
        let sealed = self.blobs.get(Kind::Snapshot, name, LARGEST as u64)?;
        let damaged = |why: String| {
            let advice = "delete the file if another backup will do";
            BackupError::damaged(shown(Kind::Snapshot, name), format!("{why}; {advice}"))
        };
        let text = self
            .secrets
            .open(Role::Snapshot, name.as_bytes(), &sealed, LARGEST)
            .ok_or_else(|| damaged("it is not authentic".to_owned()))?;
        let snapshot: Snapshot =
            serde_json::from_slice(&text).map_err(|e| damaged(e.to_string()))?;
        Ok(Snapshot {
            id: name.to_owned(),
            ..snapshot
        })
    }

    /// The snapshot that a person means: the newest of a guest by the guest's name, or one by its own
    /// name or the beginning of it.
    ///
    /// # Errors
    /// There is none, or there are several.
    pub fn find(&self, wanted: &str) -> Result<Snapshot> {
        let mut all = self.snapshots()?;
        if let Some(at) = all.iter().rposition(|snapshot| snapshot.guest == wanted) {
            return Ok(all.swap_remove(at));
        }
        let refuse = |why: &str| BackupError::Snapshot {
            wanted: wanted.to_owned(),
            why: why.to_owned(),
        };
        all.retain(|snapshot| wanted.len() >= 4 && snapshot.id.starts_with(wanted));
        match all.len() {
            1 => Ok(all.swap_remove(0)),
            0 => Err(refuse("neither a guest nor a snapshot of this repository")),
            _ => Err(refuse("several snapshots begin so: give more of the name")),
        }
    }
}
