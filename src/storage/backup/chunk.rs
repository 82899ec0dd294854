//! Where data is cut: at places that its own bytes decide (FastCDC), so that a byte put in front of a
//! file moves one cut and not all. Files up to [`LEAST`] bytes are one chunk each.

use std::io;

use fastcdc::v2020::{FastCDC, Normalization};

use super::super::tree_item::fill;

/// Fewest bytes of a chunk that is not the last one.
pub(super) const LEAST: usize = 64 << 10;
/// About how many bytes a chunk has.
const USUAL: usize = 256 << 10;
/// Most bytes of a chunk.
pub(super) const MOST: usize = 1 << 20;

/// Cuts one stream of bytes after another.
#[derive(Debug)]
pub(super) struct Cutter {
    seed: u64,
    buffer: Vec<u8>,
    /// Bytes in the buffer, and those of them that were given out.
    held: usize,
    given: usize,
}

impl Cutter {
    /// One that cuts where `seed` wants.
    pub(super) fn new(seed: u64) -> Self {
        Self {
            seed,
            buffer: vec![0; MOST],
            held: 0,
            given: 0,
        }
    }

    /// The next chunk of the stream behind `read`; `None` at its end, after which another may begin.
    ///
    /// # Errors
    /// Of `read`.
    pub(super) fn next(
        &mut self,
        read: impl FnMut(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<Option<&[u8]>> {
        self.buffer.copy_within(self.given..self.held, 0);
        self.held -= self.given;
        self.given = 0;
        self.held += fill(&mut self.buffer[self.held..], read)?;
        self.given = self.cut();
        Ok((self.given > 0).then(|| &self.buffer[..self.given]))
    }

    /// Forgets a stream that was not read to its end.
    pub(super) fn reset(&mut self) {
        (self.held, self.given) = (0, 0);
    }

    fn cut(&self) -> usize {
        if self.held <= LEAST {
            return self.held;
        }
        let held = &self.buffer[..self.held];
        let level = Normalization::Level1;
        FastCDC::with_level_and_seed(held, LEAST, USUAL, MOST, level, self.seed)
            .cut(0, self.held)
            .1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(bytes: usize, seed: u64) -> Vec<u8> {
        let mut state = seed | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        };
        std::iter::repeat_with(&mut next)
            .flatten()
            .take(bytes)
            .collect()
    }

    fn cuts(cutter: &mut Cutter, mut data: &[u8]) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        while let Some(chunk) = cutter
            .next(|buffer| io::Read::read(&mut data, buffer))
            .unwrap()
        {
            found.push(chunk.to_vec());
        }
        found
    }

    #[test]
    fn nothing_is_lost_and_sizes_are_kept() {
        let mut cutter = Cutter::new(5);
        for bytes in [0, 1, LEAST, LEAST + 1, MOST, 5 * MOST + 17] {
            let data = noise(bytes, 3);
            let chunks = cuts(&mut cutter, &data);
            assert_eq!(chunks.concat(), data);
            assert!(chunks.iter().all(|chunk| chunk.len() <= MOST));
            let before_last = chunks.len().saturating_sub(1);
            assert!(
                chunks[..before_last]
                    .iter()
                    .all(|chunk| chunk.len() >= LEAST)
            );
            assert_eq!(chunks.is_empty(), bytes == 0);
        }
        let zeros = vec![0; 3 * MOST];
        assert_eq!(cuts(&mut cutter, &zeros).concat(), zeros);
    }

    #[test]
    fn a_byte_in_front_changes_one_chunk() {
        let mut cutter = Cutter::new(5);
        let data = noise(8 << 20, 9);
        let before = cuts(&mut cutter, &data);
        let after = cuts(&mut cutter, &[b"x", data.as_slice()].concat());
        let same = after.iter().filter(|chunk| before.contains(chunk)).count();
        assert!(
            before.len() > 10 && same + 2 >= before.len(),
            "{same} of {}",
            before.len()
        );
        let elsewhere = cuts(&mut Cutter::new(6), &data);
        let same = elsewhere
            .iter()
            .filter(|chunk| before.contains(chunk))
            .count();
        assert!(same < before.len() / 2, "{same} of {}", before.len());
    }
}
