//! One file in a backup: what `tree_item` says of it, what tells later whether it has changed, and
//! the chunks of its data. The format that a list of files is written in.

use super::super::tree_item::{Item, What};
use super::chunk::MOST;
use super::repo::ChunkRef;
use super::seal::ChunkId;
use super::wire::{Reader, Result, WireError, Writer};

/// Most bytes of a path, a link's target or an attribute's value.
const LONGEST: usize = 1 << 20;
/// Most bytes of one entry: a file of about two terabytes.
pub(super) const LARGEST: usize = 256 << 20;

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) item: Item,
    /// When anything about it changed (ctime).
    pub(super) changed: (i64, u32),
    /// Its inode number.
    pub(super) inode: u64,
    /// The bytes of all its pieces, one after another.
    pub(super) data: Vec<ChunkRef>,
}

impl Entry {
    /// As stored.
    pub(super) fn encode(&self) -> Vec<u8> {
        let item = &self.item;
        let mut to = Writer::default();
        to.bytes(&item.path)
            .u32(item.mode)
            .u32(item.uid)
            .u32(item.gid)
            .u64(self.inode);
        for (seconds, nanoseconds) in [item.modified, item.accessed, self.changed] {
            to.i64(seconds).u32(nanoseconds);
        }
        to.count(item.xattrs.len());
        for (name, value) in &item.xattrs {
            to.bytes(name).bytes(value);
        }
        what(&item.what, &mut to);
        to.count(self.data.len());
        for chunk in &self.data {
            to.put(&chunk.id.0).u32(chunk.length);
        }
        to.bytes
    }

    /// The path of one, without the rest.
    pub(super) fn path(bytes: &[u8]) -> Result<&[u8]> {
        Reader::new(bytes).bytes(LONGEST)
    }

    /// The reverse.
    ///
    /// # Errors
    /// It is no entry, or its parts contradict each other.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self> {
        let mut from = Reader::new(bytes);
        let path = from.bytes(LONGEST)?.to_vec();
        let (mode, uid, gid, inode) = (from.u32()?, from.u32()?, from.u32()?, from.u64()?);
        let (modified, accessed, changed) = (time(&mut from)?, time(&mut from)?, time(&mut from)?);
        let xattrs = (0..from.count(8)?)
            .map(|_| Ok((from.bytes(255)?.to_vec(), from.bytes(LONGEST)?.to_vec())))
            .collect::<Result<Vec<_>>>()?;
        let what = read_what(&mut from)?;
        let data = (0..from.count(36)?)
            .map(|_| chunk(&mut from))
            .collect::<Result<Vec<_>>>()?;
        from.end()?;
        if mode > 0o7777 {
            return Err(WireError::Value("a file in it has a mode that none has"));
        }
        let held: u64 = data.iter().map(|chunk| u64::from(chunk.length)).sum();
        if held != what.data() {
            return Err(WireError::Value(
                "a file in it has more or less data than it says",
            ));
        }
        let item = Item {
            path,
            what,
            mode,
            uid,
            gid,
            modified,
            accessed,
            xattrs,
        };
        Ok(Self {
            item,
            changed,
            inode,
            data,
        })
    }
}

/// Reads a reference to a chunk.
pub(super) fn chunk(from: &mut Reader<'_>) -> Result<ChunkRef> {
    let chunk = ChunkRef {
        id: ChunkId(from.array()?),
        length: from.u32()?,
    };
    let fits = usize::try_from(chunk.length).is_ok_and(|n| (1..=MOST).contains(&n));
    fits.then_some(chunk)
        .ok_or(WireError::Value("a chunk in it is larger than any can be"))
}

fn time(from: &mut Reader<'_>) -> Result<(i64, u32)> {
    let time = (from.i64()?, from.u32()?);
    (time.1 < 1_000_000_000)
        .then_some(time)
        .ok_or(WireError::Value("a time in it is none"))
}

fn what(what: &What, to: &mut Writer) {
    match what {
        What::Folder => {
            to.u8(0);
        }
        What::File { size, pieces } => {
            to.u8(1).u64(*size).count(pieces.len());
            for (offset, length) in pieces {
                to.u64(*offset).u64(*length);
            }
        }
        What::Symlink(target) => {
            to.u8(2).bytes(target);
        }
        What::HardLink(target) => {
            to.u8(3).bytes(target);
        }
        What::Device {
            block,
            major,
            minor,
        } => {
            to.u8(if *block { 4 } else { 5 }).u32(*major).u32(*minor);
        }
        What::Fifo => {
            to.u8(6);
        }
        What::Socket => {
            to.u8(7);
        }
    }
}

fn read_what(from: &mut Reader<'_>) -> Result<What> {
    Ok(match from.u8()? {
        0 => What::Folder,
        1 => {
            let size = from.u64()?;
            let pieces = (0..from.count(16)?)
                .map(|_| Ok((from.u64()?, from.u64()?)))
                .collect::<Result<Vec<_>>>()?;
            if !is_ascending(&pieces, size) {
                return Err(WireError::Value("a file in it has data in no order"));
            }
            What::File { size, pieces }
        }
        2 => What::Symlink(from.bytes(LONGEST)?.to_vec()),
        3 => What::HardLink(from.bytes(LONGEST)?.to_vec()),
        kind @ (4 | 5) => What::Device {
            block: kind == 4,
            major: from.u32()?,
            minor: from.u32()?,
        },
        6 => What::Fifo,
        7 => What::Socket,
        _ => return Err(WireError::Value("a file in it is of no known kind")),
    })
}

/// Whether pieces lie one behind the other inside a file of `size` bytes.
fn is_ascending(pieces: &[(u64, u64)], size: u64) -> bool {
    let mut at = 0;
    i64::try_from(size).is_ok()
        && pieces.iter().all(|(offset, length)| {
            let fits = *offset >= at && offset.checked_add(*length).is_some_and(|end| end <= size);
            at = offset.saturating_add(*length);
            fits
        })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(any::<u8>(), 0..most)
    }

    fn file() -> impl Strategy<Value = (What, Vec<ChunkRef>)> {
        let pieces = proptest::collection::vec((0..9_u64, 1..5000_u32), 0..5);
        (pieces, any::<[u8; 32]>(), 0..100_u64).prop_map(|(gaps, id, rest)| {
            let (mut at, mut pieces, mut data) = (0, Vec::new(), Vec::new());
            for (gap, length) in gaps {
                pieces.push((at + gap, u64::from(length)));
                at += gap + u64::from(length);
                let id = ChunkId(id);
                data.push(ChunkRef { id, length });
            }
            let size = at + rest;
            (What::File { size, pieces }, data)
        })
    }

    pub(in super::super) fn entries() -> impl Strategy<Value = Entry> {
        let plain = prop_oneof![
            Just(What::Folder),
            Just(What::Fifo),
            Just(What::Socket),
            bytes(40).prop_map(What::Symlink),
            bytes(40).prop_map(What::HardLink),
            any::<(bool, u32, u32)>().prop_map(|(block, major, minor)| What::Device {
                block,
                major,
                minor
            }),
        ];
        let what = prop_oneof![plain.prop_map(|what| (what, Vec::new())), file()];
        let times = proptest::array::uniform3((any::<i64>(), 0..1_000_000_000_u32));
        let xattrs = proptest::collection::vec((bytes(20), bytes(20)), 0..3);
        let numbers = (0..0o10000_u32, any::<u32>(), any::<u32>(), any::<u64>());
        (bytes(60), what, times, xattrs, numbers).prop_map(
            |(path, (what, data), times, xattrs, (mode, uid, gid, inode))| Entry {
                item: Item {
                    path,
                    what,
                    mode,
                    uid,
                    gid,
                    modified: times[0],
                    accessed: times[1],
                    xattrs,
                },
                changed: times[2],
                inode,
                data,
            },
        )
    }

    proptest! {
        #[test]
        fn an_entry_is_read_as_written_and_only_whole(entry in entries()) {
            let bytes = entry.encode();
            prop_assert_eq!(Entry::decode(&bytes), Ok(entry));
            for at in 0..bytes.len() {
                prop_assert!(Entry::decode(&bytes[..at]).is_err());
            }
            prop_assert!(Entry::decode(&[bytes.as_slice(), b"x"].concat()).is_err());
        }

        #[test]
        fn flipped_bits_end_in_an_error_or_another_entry(
            entry in entries(),
            at in any::<prop::sample::Index>(),
            bit in 0..8_u32,
        ) {
            let mut bytes = entry.encode();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            if let Ok(other) = Entry::decode(&bytes) {
                prop_assert_eq!(other.encode(), bytes);
            }
        }
    }
}
