//! The `tar` kind: a root filesystem from an archive on the host. Opens it by what it begins with,
//! whatever its name, decompresses it with a watch on bombs, and has `extract` write it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use super::archive_entry::{ArchiveError, Limits};
use super::build::{Built, Job, file_identity};
use super::dirfd;
use super::extract::extract;
use super::image::{ImageError, Progress};
use super::oci_blobs::Meter;

/// Above so many bytes an archive may not be more than [`RATIO_MOST`] times its compressed size.
const RATIO_FREE: u64 = 1 << 30;
const RATIO_MOST: u64 = 1000;
/// Memory an xz stream may ask for.
const XZ_MEMORY: u64 = 256 << 20;

/// What of the host decides a build: which file it is, without reading it.
pub(super) fn fingerprint(options: &BTreeMap<String, String>) -> String {
    options
        .get("archive")
        .map(|p| file_identity(Path::new(p)))
        .unwrap_or_default()
}

/// Builds the root.
pub(super) fn build(job: &mut Job<'_>) -> Result<Built, ImageError> {
    let path = PathBuf::from(job.option("archive"));
    if !path.is_absolute() {
        let given = path.display();
        return Err(job.refuse(format!(
            "option archive is {given:?}: give the absolute path of a .tar, .tar.gz, .tar.xz or .tar.zst"
        )));
    }
    let refused = |what: String| job.refuse(format!("archive {} {what}", path.display()));
    let file = open_regular(&path).map_err(refused)?;
    let root = dirfd::open_dir(&job.root)?;
    match unpack(&path, file, &root, job.progress)? {
        0 => Err(job.refuse(format!("{} holds no files", path.display()))),
        _ => Ok(Built::default()),
    }
}

/// Opens an archive of the host's.
///
/// # Errors
/// It is not there, or no regular file; as the end of a sentence.
pub(super) fn open_regular(path: &Path) -> Result<File, String> {
    // Looked at before it is opened: opening a FIFO would wait for a writer.
    match std::fs::metadata(path) {
        Ok(meta) if meta.is_file() => {}
        Ok(_) => return Err("is not a regular file".into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err("is not there".into());
        }
        Err(error) => return Err(format!("cannot be looked at: {error}")),
    }
    File::open(path).map_err(|error| format!("cannot be opened: {error}"))
}

/// Unpacks the archive of a root, however it is compressed; gives the number of its entries.
pub(super) fn unpack(
    path: &Path,
    file: File,
    root: &std::os::fd::OwnedFd,
    progress: &mut dyn FnMut(Progress),
) -> Result<u64, ImageError> {
    let failed = |source: ArchiveError| ImageError::Archive {
        path: path.to_owned(),
        source: Box::new(source),
    };
    let unreadable = |source: io::Error| {
        failed(ArchiveError::Read {
            entry: "(none)".into(),
            source,
        })
    };
    progress(Progress::Phase(format!("unpacking {}", path.display())));
    let total = file.metadata().map_err(unreadable)?.len();
    let counted = Meter {
        input: file,
        done: 0,
        reported: 0,
        total,
        progress: &mut *progress,
    };
    let done = decompressed(counted, total)
        .map_err(unreadable)
        .and_then(|input| extract(root, input, Limits::default()).map_err(failed))?;
    if done.devices + done.xattrs > 0 {
        let (devices, xattrs) = (done.devices, done.xattrs);
        progress(Progress::Line(format!(
            "left out {devices} device nodes and {xattrs} extended attributes"
        )));
    }
    Ok(done.entries)
}

/// Decompresses by the first bytes of a stream of `compressed` bytes; what is not compressed is
/// passed on as it is.
pub(super) fn decompressed<'a>(
    mut input: impl Read + 'a,
    compressed: u64,
) -> io::Result<Box<dyn Read + 'a>> {
    let mut magic = [0; 6];
    let mut filled = 0;
    while filled < magic.len() {
        match input.read(&mut magic[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    let whole = io::Cursor::new(magic).take(filled as u64).chain(input);
    decompress(whole, magic, compressed)
}

fn decompress<'a>(
    input: impl Read + 'a,
    magic: [u8; 6],
    compressed: u64,
) -> io::Result<Box<dyn Read + 'a>> {
    let input = BufReader::with_capacity(128 << 10, input);
    let guarded = |inner: Box<dyn Read + 'a>| -> Box<dyn Read + 'a> {
        Box::new(BufReader::with_capacity(
            128 << 10,
            Guarded {
                inner,
                done: 0,
                most: RATIO_FREE.max(compressed.saturating_mul(RATIO_MOST)),
            },
        ))
    };
    Ok(match magic {
        [0x1f, 0x8b, ..] => guarded(Box::new(flate2::bufread::MultiGzDecoder::new(input))),
        [0xfd, b'7', b'z', b'X', b'Z', 0] => {
            let stream = liblzma::stream::Stream::new_stream_decoder(
                XZ_MEMORY,
                liblzma::stream::CONCATENATED,
            )?;
            guarded(Box::new(liblzma::bufread::XzDecoder::new_stream(
                input, stream,
            )))
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            guarded(Box::new(zstd::stream::read::Decoder::with_buffer(input)?))
        }
        _ => Box::new(input),
    })
}

/// Ends a stream that grows out of all proportion.
struct Guarded<'a> {
    inner: Box<dyn Read + 'a>,
    done: u64,
    most: u64,
}

impl Read for Guarded<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.done += n as u64;
        if self.done > self.most {
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
        let text = b"some text".repeat(1000);
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
        ] {
            let magic = data[..6].try_into().unwrap();
            let mut out = Vec::new();
            let length = data.len() as u64;
            decompress(data.as_slice(), magic, length)
                .unwrap()
                .read_to_end(&mut out)
                .unwrap();
            assert_eq!(out, text);
        }
    }

    #[test]
    fn a_bomb_ends_early() {
        let inner = Box::new(io::repeat(0));
        let mut guarded = Guarded {
            inner,
            done: 0,
            most: 1 << 20,
        };
        let error = io::copy(&mut guarded, &mut io::sink()).unwrap_err();
        assert!(error.to_string().contains("1000 times"), "{error}");
    }
}
