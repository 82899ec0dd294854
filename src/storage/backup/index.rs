//! Which chunk is in which pack: held whole in memory, stored in sealed pieces, one for each run
//! that added packs. It can be made anew from the packs themselves.

use std::collections::HashMap;

use super::blob::{Blobs, Kind};
use super::error::{BackupError, Result};
use super::folder::shown;
use super::pack::{LARGEST, Pack, SLOT, Slot};
use super::seal::{ChunkId, Role, Secrets};
use super::wire::{self, Reader, WireError, Writer};
use crate::kernel::random;

/// Most bytes of a piece of the index, sealed or plain.
const PIECE: usize = 64 << 20;
/// Chunks after which a new piece begins.
const CHUNKS: usize = 100_000;

/// Where a chunk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Number of its pack in [`Index::packs`]; that of the next one for what is not stored yet.
    pub(super) pack: u32,
    pub(super) offset: u32,
    pub(super) stored: u32,
    pub(super) plain: u32,
}

/// All chunks of a repository.
#[derive(Debug, Default)]
pub(super) struct Index {
    places: HashMap<ChunkId, Place>,
    /// Names and sizes of packs.
    pub(super) packs: Vec<([u8; 32], u64)>,
}

impl Index {
    pub(super) fn get(&self, id: &ChunkId) -> Option<Place> {
        self.places.get(id).copied()
    }

    /// Number of different chunks.
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// All chunks.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&ChunkId, &Place)> {
        self.places.iter()
    }

    /// Adds a chunk of the pack that comes next. Of two with one name the first one stays.
    pub(super) fn add(&mut self, slot: &Slot) {
        let pack = u32::try_from(self.packs.len()).unwrap_or(u32::MAX);
        self.places.entry(slot.id).or_insert(Place {
            pack,
            offset: slot.offset,
            stored: slot.stored,
            plain: slot.plain,
        });
    }

    /// Adds a pack with what it holds.
    pub(super) fn add_pack(&mut self, pack: &Pack) {
        for slot in &pack.slots {
            self.add(slot);
        }
        self.packs.push((pack.id, pack.size));
    }

    /// Reads all pieces. A pack that is in several is taken once.
    ///
    /// # Errors
    /// A piece is damaged or cannot be read.
    pub(super) fn load(blobs: &dyn Blobs, secrets: &Secrets) -> Result<Self> {
        let mut index = Self::default();
        let mut seen = std::collections::HashSet::new();
        for (name, _) in blobs.list(Kind::Index)? {
            let sealed = blobs.get(Kind::Index, &name, PIECE as u64)?;
            for pack in piece(secrets, &name, &sealed)? {
                if seen.insert(pack.id) {
                    index.add_pack(&pack);
                }
            }
        }
        Ok(index)
    }
}

/// Reads one piece.
pub(super) fn piece(secrets: &Secrets, name: &str, sealed: &[u8]) -> Result<Vec<Pack>> {
    let what = || shown(Kind::Index, name);
    let advice = "; `bulkhead backup reindex` makes the index anew from the packs";
    let plain = secrets
        .open(Role::Index, name.as_bytes(), sealed, PIECE)
        .ok_or_else(|| BackupError::damaged(what(), format!("it is not authentic{advice}")))?;
    decode(&plain).map_err(|e| BackupError::damaged(what(), format!("{e}{advice}")))
}

fn decode(plain: &[u8]) -> wire::Result<Vec<Pack>> {
    let mut reader = Reader::new(plain);
    let mut packs = Vec::new();
    for _ in 0..reader.count(32 + 8 + 4)? {
        let id = reader.array()?;
        let size = reader.u64()?;
        if size > LARGEST {
            return Err(WireError::Value("a pack in it is larger than any can be"));
        }
        let slots = (0..reader.count(SLOT)?)
            .map(|_| Slot::read(&mut reader, size))
            .collect::<wire::Result<Vec<_>>>()?;
        packs.push(Pack { id, size, slots });
    }
    reader.end()?;
    Ok(packs)
}

fn encode(packs: &[Pack]) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.count(packs.len());
    for pack in packs {
        writer.put(&pack.id).u64(pack.size).count(pack.slots.len());
        for slot in &pack.slots {
            slot.write(&mut writer);
        }
    }
    writer.bytes
}

/// Stores what `packs` hold; gives the names of the pieces.
///
/// # Errors
/// They cannot be written.
pub(super) fn store(
    blobs: &dyn Blobs,
    secrets: &mut Secrets,
    packs: &[Pack],
) -> Result<Vec<String>> {
    let mut names = Vec::new();
    let mut rest = packs;
    while !rest.is_empty() {
        let mut chunks = 0;
        let fits = rest
            .iter()
            .take_while(|pack| {
                let first = chunks == 0;
                chunks += pack.slots.len();
                first || chunks <= CHUNKS
            })
            .count();
        let (piece, left) = rest.split_at(fits.max(1));
        let name = random::hex(16)?;
        let sealed = secrets.seal(Role::Index, name.as_bytes(), &encode(piece))?;
        blobs.put(Kind::Index, &name, &sealed)?;
        names.push(name);
        rest = left;
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pack(byte: u8, slots: usize) -> Pack {
        let slot = |n: usize| Slot {
            id: ChunkId([u8::try_from(n).unwrap(); 32]),
            offset: u32::try_from(n * 100).unwrap(),
            stored: 100,
            plain: 80,
        };
        Pack {
            id: [byte; 32],
            size: 100_000,
            slots: (0..slots).map(slot).collect(),
        }
    }

    #[test]
    fn the_first_of_two_places_stays() {
        let mut index = Index::default();
        index.add_pack(&pack(1, 3));
        index.add_pack(&pack(2, 5));
        assert_eq!(index.len(), 5);
        assert_eq!(index.get(&ChunkId([2; 32])).unwrap().pack, 0);
        assert_eq!(index.get(&ChunkId([4; 32])).unwrap().pack, 1);
    }

    proptest! {
        #[test]
        fn pieces_are_read_as_written(sizes in proptest::collection::vec(0..20_usize, 0..6)) {
            let packs: Vec<Pack> = sizes.iter().map(|n| pack(9, *n)).collect();
            let bytes = encode(&packs);
            prop_assert_eq!(decode(&bytes), Ok(packs));
            for at in 0..bytes.len() {
                prop_assert!(decode(&bytes[..at]).is_err());
            }
        }

        #[test]
        fn any_bytes_end_in_an_error_or_a_list(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            if let Ok(packs) = decode(&bytes) {
                prop_assert_eq!(encode(&packs), bytes);
            }
        }
    }
}
