//! The sums of an archive's parts, taken by a thread of its own: an export waits for who reads files, who is not
//! to hash them as well. Buffers go round, so that nothing is made or copied for it.

use std::io;
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::thread::{Builder, JoinHandle};

use super::pack_format::{FORMAT, Sum};

/// Buffers that go round.
const BUFFERS: usize = 4;

enum Piece {
    /// The first so many bytes of a buffer.
    Data(Vec<u8>, usize),
    /// A part ends.
    End,
}

/// Takes sums until it is asked for them; given up, its thread ends.
pub(super) struct Summer {
    pieces: SyncSender<Piece>,
    back: Receiver<Vec<u8>>,
    thread: JoinHandle<Vec<String>>,
    /// Buffers that were made.
    made: usize,
    size: usize,
}

impl Summer {
    /// One whose buffers have this size.
    pub(super) fn new(size: usize) -> io::Result<Self> {
        let (pieces, given) = sync_channel(BUFFERS);
        let (give, back) = channel();
        let thread = Builder::new().name("sums".into()).spawn(move || {
            let (mut hash, mut sums) = (Sum::of_format(FORMAT), Vec::new());
            for piece in given {
                match piece {
                    Piece::Data(buffer, used) => {
                        hash.update(buffer.get(..used).unwrap_or_default());
                        // Nobody takes it any more when the archive is given up.
                        give.send(buffer).ok();
                    }
                    Piece::End => sums.push(hash.take()),
                }
            }
            sums
        })?;
        Ok(Self {
            pieces,
            back,
            thread,
            made: 0,
            size,
        })
    }

    /// A buffer to fill; waits for one that was hashed when there are enough.
    pub(super) fn buffer(&mut self) -> io::Result<Vec<u8>> {
        if self.made < BUFFERS {
            self.made += 1;
            return Ok(vec![0; self.size]);
        }
        self.back.recv().map_err(|_| ended())
    }

    /// Adds the beginning of a buffer to the sum of the part.
    pub(super) fn add(&self, buffer: Vec<u8>, used: usize) -> io::Result<()> {
        let piece = Piece::Data(buffer, used);
        self.pieces.send(piece).map_err(|_| ended())
    }

    /// Ends a part.
    pub(super) fn end(&self) -> io::Result<()> {
        self.pieces.send(Piece::End).map_err(|_| ended())
    }

    /// The sums of all parts that were ended.
    pub(super) fn finish(self) -> io::Result<Vec<String>> {
        drop(self.pieces);
        self.thread.join().map_err(|_| ended())
    }
}

fn ended() -> io::Error {
    io::Error::other("the thread that takes sums has ended")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_is_of_all_that_a_part_had() {
        let mut summer = Summer::new(4).unwrap();
        let parts: [&[&[u8]]; 3] = [&[b"ab", b"cdef", b"", b"g"], &[], &[b"x" as &[u8]; 9]];
        for part in parts {
            for piece in part {
                let mut buffer = summer.buffer().unwrap();
                assert_eq!(buffer.len(), 4);
                buffer[..piece.len()].copy_from_slice(piece);
                summer.add(buffer, piece.len()).unwrap();
            }
            summer.end().unwrap();
        }
        let wanted = ["abcdefg", "", "xxxxxxxxx"]
            .map(|text| blake3::hash(text.as_bytes()).to_hex().to_string());
        assert_eq!(summer.finish().unwrap(), wanted);
        // Given up, nothing waits.
        let mut summer = Summer::new(4).unwrap();
        let buffer = summer.buffer().unwrap();
        summer.add(buffer, 4).unwrap();
        drop(summer);
    }
}
