//! Maps of sparse files in an archive: where the data goes, in the three ways that GNU tar and
//! bsdtar write them. A map is checked whole before a byte is written.

use std::io::Read;

use tar::{EntryType, Header};

use super::archive_entry::{ArchiveError, decimal};
use super::archive_pax::{Pax, sparse_pairs};
use super::archive_read::{BLOCK, Reader};

/// Pieces of a sparse file.
const PIECES_MOST: usize = 1 << 20;

/// Offset and length of pieces of data, ascending.
pub(super) type Pieces = Vec<(u64, u64)>;

impl<R: Read> Reader<R> {
    /// Size with holes, and where the data goes.
    pub(super) fn layout(
        &mut self,
        header: &Header,
        pax: &Pax,
        stored: u64,
    ) -> Result<(u64, Pieces), ArchiveError> {
        let (size, pieces) = if header.entry_type() == EntryType::GNUSparse {
            self.gnu_sparse(header)?
        } else if let Some((size, pieces)) = pax.sparse().map_err(|e| self.wrong(e))? {
            match pieces {
                Some(pieces) => (size, pieces),
                None => (size, self.sparse_in_data()?),
            }
        } else {
            return Ok((stored, vec![(0, stored)]));
        };
        let mut end = 0_u64;
        for (offset, length) in &pieces {
            let next = offset.checked_add(*length);
            if *offset < end || next.is_none_or(|n| n > size) {
                return Err(self.wrong("its sparse map overlaps or is longer than the file"));
            }
            end = next.unwrap_or(end);
        }
        Ok((size, pieces))
    }

    fn gnu_sparse(&mut self, header: &Header) -> Result<(u64, Pieces), ArchiveError> {
        let Some(gnu) = header.as_gnu() else {
            return Err(self.wrong("it is a sparse file without a GNU header"));
        };
        let size = self.number(&gnu.realsize, "real size")?;
        let mut pieces = Vec::new();
        for piece in &gnu.sparse {
            self.gnu_piece(&piece.offset, &piece.numbytes, &mut pieces)?;
        }
        let mut more = gnu.isextended[0] != 0;
        while more {
            let block = self.block()?;
            for piece in block[..504].as_chunks::<24>().0 {
                self.gnu_piece(&piece[..12], &piece[12..], &mut pieces)?;
            }
            more = block[504] != 0;
        }
        Ok((size, pieces))
    }

    fn gnu_piece(
        &self,
        offset: &[u8],
        length: &[u8],
        pieces: &mut Pieces,
    ) -> Result<(), ArchiveError> {
        if offset.iter().all(|b| *b == 0) && length.iter().all(|b| *b == 0) {
            return Ok(());
        }
        if pieces.len() >= PIECES_MOST {
            return Err(self.wrong("its sparse map is too long"));
        }
        let offset = self.number(offset, "sparse map")?;
        pieces.push((offset, self.number(length, "sparse map")?));
        Ok(())
    }

    /// PAX sparse 1.0: the map stands before the data, as decimal lines, padded to a block.
    fn sparse_in_data(&mut self) -> Result<Pieces, ArchiveError> {
        let mut text = Vec::new();
        let mut wanted: Option<usize> = None;
        loop {
            let mut block = [0; BLOCK];
            let mut filled = 0;
            while filled < BLOCK {
                let n = self.read_data(&mut block[filled..])?;
                if n == 0 {
                    return Err(self.wrong("its sparse map is cut off"));
                }
                filled += n;
            }
            text.extend_from_slice(&block);
            let lines = text.split_inclusive(|b| *b == b'\n');
            let numbers: Vec<&[u8]> = lines.filter_map(|l| l.strip_suffix(b"\n")).collect();
            if wanted.is_none() {
                wanted = numbers
                    .first()
                    .and_then(|n| decimal(n))
                    .and_then(|n| usize::try_from(n).ok());
            }
            let count = wanted.filter(|n| *n <= PIECES_MOST);
            let Some(count) = count else {
                return Err(self.wrong("its sparse map is no list of numbers"));
            };
            // Checked only when enough may have come, so that long maps are not split again and again.
            if numbers.len() > count * 2 {
                return sparse_pairs(numbers[1..=count * 2].iter().map(|n| decimal(n)))
                    .ok_or_else(|| self.wrong("its sparse map is no list of numbers"));
            }
            if text.len() as u64 > self.limits.header {
                return Err(self.wrong("its sparse map is too long"));
            }
        }
    }
}
