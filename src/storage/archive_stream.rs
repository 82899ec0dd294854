//! Decompresses a stream by what it begins with, whatever it is called and wherever it comes from,
//! with a watch on bombs: one that grows out of all proportion is ended.

use std::io::{self, BufReader, Cursor, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use crate::kernel::interrupt;

/// Above so many bytes a stream may not be more than [`RATIO_MOST`] times its compressed size.
const RATIO_FREE: u64 = 1 << 30;
const RATIO_MOST: u64 = 1000;
/// Memory an xz stream may ask for.
const XZ_MEMORY: u64 = 256 << 20;
/// Bytes that go from the thread that decompresses to the one that reads at once, and how many such
/// pieces may wait.
const PIECE: usize = 512 << 10;
const PIECES: usize = 4;
/// How often a reader that waits looks whether a signal asked it to end.
const LOOK: Duration = Duration::from_millis(100);

/// Decompresses `input`; `known` is how long it is, or 0.
pub(super) fn decompress<'a>(
    mut input: impl Read + 'a,
    known: u64,
) -> io::Result<Box<dyn Read + 'a>> {
    let (magic, length) = magic(&mut input)?;
    let seen = Arc::new(AtomicU64::new(known.max(length as u64)));
    let begin = Cursor::new(magic[..length].to_vec());
    let counted = Counted {
        input: begin.chain(input),
        done: 0,
        seen: Arc::clone(&seen),
    };
    decoder(
        BufReader::with_capacity(128 << 10, counted),
        &magic[..length],
        seen,
    )
}

/// The same in a thread of its own, so that whoever reads can write meanwhile.
pub(super) fn decompress_aside(input: Box<dyn Read + Send>) -> io::Result<Pieces> {
    let (sender, receiver) = sync_channel(PIECES);
    let work = move || {
        let mut stream = match decompress(input, 0) {
            Ok(stream) => stream,
            Err(error) => return drop(sender.send(Err(error))),
        };
        loop {
            let mut piece = vec![0; PIECE];
            let read = super::tree_item::fill(&mut piece, |buffer| stream.read(buffer));
            let last = match read {
                Ok(n) => {
                    piece.truncate(n);
                    n == 0
                }
                Err(_) => true,
            };
            // Nobody wants it any more: the reader has failed.
            if sender.send(read.map(|_| piece)).is_err() || last {
                return;
            }
        }
    };
    std::thread::Builder::new()
        .name("decompress".into())
        .spawn(work)?;
    Ok(Pieces {
        receiver,
        piece: Vec::new(),
        at: 0,
        ended: false,
    })
}

/// What the other thread has decompressed.
#[derive(Debug)]
pub(super) struct Pieces {
    receiver: Receiver<io::Result<Vec<u8>>>,
    piece: Vec<u8>,
    at: usize,
    ended: bool,
}

impl Pieces {
    /// The first `most` bytes, or as many as there are, which are still to be read.
    pub(super) fn peek(&mut self, most: usize) -> io::Result<&[u8]> {
        self.load()?;
        let end = self.piece.len().min(self.at + most);
        Ok(&self.piece[self.at..end])
    }

    /// Waits for more where there is none at hand.
    fn load(&mut self) -> io::Result<()> {
        while self.at == self.piece.len() && !self.ended {
            match self.receiver.recv_timeout(LOOK) {
                Ok(Ok(piece)) => {
                    self.ended = piece.is_empty();
                    (self.piece, self.at) = (piece, 0);
                }
                Ok(Err(error)) => {
                    self.ended = true;
                    return Err(error);
                }
                Err(RecvTimeoutError::Disconnected) => self.ended = true,
                Err(RecvTimeoutError::Timeout) if interrupt::caught().is_some() => {
                    return Err(io::Error::other("interrupted by a signal"));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
        Ok(())
    }
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.load()?;
        let n = buffer.len().min(self.piece.len() - self.at);
        buffer[..n].copy_from_slice(&self.piece[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

/// What a stream is compressed with.
enum Form {
    Gzip,
    Xz,
    Zstd,
    Plain,
}

impl Form {
    fn of(begin: &[u8]) -> Self {
        match begin {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            _ => Self::Plain,
        }
    }
}

/// Whether what begins so is compressed. A tar begins with a name.
pub(super) fn is_compressed(begin: &[u8]) -> bool {
    !matches!(Form::of(begin), Form::Plain)
}

fn magic(input: &mut impl Read) -> io::Result<([u8; 6], usize)> {
    let mut magic = [0; 6];
    let length = super::tree_item::fill(&mut magic, |buffer| input.read(buffer))?;
    Ok((magic, length))
}

fn decoder<'a>(
    input: impl io::BufRead + 'a,
    begin: &[u8],
    seen: Arc<AtomicU64>,
) -> io::Result<Box<dyn Read + 'a>> {
    let guarded = |inner: Box<dyn Read + 'a>| -> Box<dyn Read + 'a> {
        Box::new(BufReader::with_capacity(
            128 << 10,
            Guarded {
                inner,
                done: 0,
                seen,
                free: RATIO_FREE,
            },
        ))
    };
    Ok(match Form::of(begin) {
        Form::Gzip => guarded(Box::new(flate2::bufread::MultiGzDecoder::new(input))),
        Form::Xz => {
            let stream = liblzma::stream::Stream::new_stream_decoder(
                XZ_MEMORY,
                liblzma::stream::CONCATENATED,
            )?;
            guarded(Box::new(liblzma::bufread::XzDecoder::new_stream(
                input, stream,
            )))
        }
        Form::Zstd => guarded(Box::new(zstd::stream::read::Decoder::with_buffer(input)?)),
        Form::Plain => Box::new(input),
    })
}

/// Counts what comes in.
struct Counted<R> {
    input: R,
    done: u64,
    seen: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.input.read(buffer)?;
        self.done += n as u64;
        self.seen.fetch_max(self.done, Relaxed);
        Ok(n)
    }
}

/// Ends a stream that grows out of all proportion to what came in.
struct Guarded<'a> {
    inner: Box<dyn Read + 'a>,
    done: u64,
    seen: Arc<AtomicU64>,
    free: u64,
}

impl Read for Guarded<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.done += n as u64;
        let most = self.seen.load(Relaxed).saturating_mul(RATIO_MOST);
        if self.done > self.free.max(most) {
            return Err(io::Error::other(
                "it unpacks to more than 1000 times its size; if that is meant, decompress it first",
            ));
        }
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn compression_is_known_by_its_first_bytes() {
        let text = b"some text".repeat(200_000);
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(&text).unwrap();
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
        xz.write_all(&text).unwrap();
        let zst = zstd::encode_all(text.as_slice(), 1).unwrap();
        for data in [
            gz.finish().unwrap(),
            xz.finish().unwrap(),
            zst,
            text.clone(),
            Vec::new(),
        ] {
            let expected: &[u8] = if data.is_empty() { b"" } else { &text };
            let mut out = Vec::new();
            decompress(Box::new(data.as_slice()), 0)
                .unwrap()
                .read_to_end(&mut out)
                .unwrap();
            assert_eq!(out, expected);
            let mut aside = decompress_aside(Box::new(Cursor::new(data))).unwrap();
            out.clear();
            aside.read_to_end(&mut out).unwrap();
            assert_eq!(out, expected);
        }
    }

    #[test]
    fn a_bomb_ends_early() {
        let mut guarded = Guarded {
            inner: Box::new(io::repeat(0)),
            done: 0,
            seen: Arc::new(AtomicU64::new(10)),
            free: 1 << 20,
        };
        let error = io::copy(&mut guarded, &mut io::sink()).unwrap_err();
        assert!(error.to_string().contains("1000 times"), "{error}");
        assert!(guarded.done < 2 << 20);
    }
}
