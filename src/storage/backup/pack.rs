//! A pack: sealed chunks one after another, then the sealed list of what it holds, its length and a
//! mark. It is named by a keyed hash of all its bytes, and holds enough to make the index anew.

use super::chunk::MOST;
use super::error::{BackupError, Result};
use super::seal::{self, ChunkId, Role, Secrets};
use super::wire::{self, Reader, WireError, Writer};

/// Bytes from which on a pack is full.
pub(super) const FULL: usize = 16 << 20;
/// Most bytes of a pack: full but for one, one chunk more, and its list.
pub(super) const LARGEST: u64 = (FULL + 2 * MOST + LIST) as u64;
/// Most bytes of the list of a pack.
const LIST: usize = 32 << 20;
/// Most chunks of a pack: none is smaller than what seals it.
const CHUNKS: usize = FULL / seal::LEAST as usize + 1;
/// Bytes of a chunk in a list: its name, where it is, its length sealed and plain.
pub(super) const SLOT: usize = 32 + 4 + 4 + 4;
/// The last four bytes.
const MARK: &[u8; 4] = b"BHP1";

/// One chunk of a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) id: ChunkId,
    /// Where it begins in the pack.
    pub(super) offset: u32,
    /// Its bytes there.
    pub(super) stored: u32,
    /// Its bytes when plain.
    pub(super) plain: u32,
}

impl Slot {
    pub(super) fn write(self, to: &mut Writer) {
        to.put(&self.id.0)
            .u32(self.offset)
            .u32(self.stored)
            .u32(self.plain);
    }

    /// Reads one of a pack of `size` bytes.
    pub(super) fn read(from: &mut Reader<'_>, size: u64) -> wire::Result<Self> {
        let slot = Self {
            id: ChunkId(from.array()?),
            offset: from.u32()?,
            stored: from.u32()?,
            plain: from.u32()?,
        };
        let fits = u64::from(slot.offset) + u64::from(slot.stored) <= size
            && slot.stored >= seal::LEAST
            && usize::try_from(slot.plain).is_ok_and(|n| (1..=MOST).contains(&n));
        fits.then_some(slot)
            .ok_or(WireError::Value("a chunk in it lies outside its pack"))
    }
}

/// A pack that is stored, and what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pack {
    pub(super) id: [u8; 32],
    /// All its bytes.
    pub(super) size: u64,
    pub(super) slots: Vec<Slot>,
}

/// A pack that is being filled.
#[derive(Debug, Default)]
pub(super) struct Filling {
    bytes: Vec<u8>,
    slots: Vec<Slot>,
}

impl Filling {
    /// Whether it is time to store it.
    pub(super) fn is_full(&self) -> bool {
        self.bytes.len() >= FULL || self.slots.len() >= CHUNKS
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Adds a sealed chunk; says where it is.
    pub(super) fn add(&mut self, id: ChunkId, plain: usize, sealed: &[u8]) -> Slot {
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let slot = Slot {
            id,
            offset: number(self.bytes.len()),
            stored: number(sealed.len()),
            plain: number(plain),
        };
        self.bytes.extend_from_slice(sealed);
        self.slots.push(slot);
        slot
    }

    /// Bytes of a chunk that was added.
    pub(super) fn part(&self, slot: &Slot) -> &[u8] {
        let begin = slot.offset as usize;
        &self.bytes[begin..begin + slot.stored as usize]
    }

    /// Ends the pack: its record and its bytes. What is left is empty.
    pub(super) fn finish(&mut self, secrets: &mut Secrets) -> Result<(Pack, Vec<u8>)> {
        let Self { mut bytes, slots } = std::mem::take(self);
        let mut list = Writer::default();
        list.count(slots.len());
        for slot in &slots {
            slot.write(&mut list);
        }
        let list = secrets.seal(Role::PackHeader, b"", &list.bytes)?;
        let mut end = Writer { bytes: list };
        let length = end.bytes.len();
        end.count(length).put(MARK);
        bytes.append(&mut end.bytes);
        let pack = Pack {
            id: secrets.pack_id(&bytes),
            size: bytes.len() as u64,
            slots,
        };
        Ok((pack, bytes))
    }
}

/// What the pack with these bytes holds. Its name is what its bytes give.
///
/// # Errors
/// It is no pack of this repository.
pub(super) fn list(secrets: &Secrets, bytes: &[u8]) -> Result<Pack> {
    let id = secrets.pack_id(bytes);
    let read = || -> wire::Result<Option<Vec<Slot>>> {
        let rest = bytes.strip_suffix(MARK).ok_or(WireError::Short)?;
        let (rest, length) = rest.split_last_chunk::<4>().ok_or(WireError::Short)?;
        let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
        let at = rest.len().checked_sub(length).ok_or(WireError::Short)?;
        let (chunks, list) = rest.split_at(at);
        let Some(list) = secrets.open(Role::PackHeader, b"", list, LIST) else {
            return Ok(None);
        };
        let mut reader = Reader::new(&list);
        let slots = (0..reader.count(SLOT)?)
            .map(|_| Slot::read(&mut reader, chunks.len() as u64))
            .collect::<wire::Result<Vec<_>>>()?;
        reader.end().map(|()| Some(slots))
    };
    let what = || super::folder::shown(super::blob::Kind::Pack, &super::super::digest::hex(&id));
    match read() {
        Ok(Some(slots)) => Ok(Pack {
            id,
            size: bytes.len() as u64,
            slots,
        }),
        Ok(None) => Err(BackupError::damaged(what(), "its list is not authentic")),
        Err(error) => Err(BackupError::damaged(what(), error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::super::seal::tests::secrets;
    use super::*;

    #[test]
    fn a_pack_tells_what_it_holds_and_no_byte_of_it_can_change() {
        let mut secrets = secrets(true);
        let mut filling = Filling::default();
        for text in [&b"one"[..], b"two", b"three"] {
            let id = secrets.chunk_id(text);
            let sealed = secrets.seal(Role::Chunk, &id.0, text).unwrap();
            let slot = filling.add(id, text.len(), &sealed);
            assert_eq!(filling.part(&slot), sealed);
        }
        let (pack, bytes) = filling.finish(&mut secrets).unwrap();
        assert!(filling.is_empty() && pack.size == bytes.len() as u64);
        assert_eq!(list(&secrets, &bytes).unwrap(), pack);
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 0x10;
            let same = list(&secrets, &bad).is_ok_and(|found| found.id == pack.id);
            assert!(!same, "byte {at}");
            assert!(list(&secrets, &bytes[..at]).is_err(), "cut at {at}");
        }
    }
}
