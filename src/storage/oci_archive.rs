//! An archive that holds an image in parts: an OCI layout in a tar, or what `docker save` and
//! `podman save` write. Read once to learn where each part lies, then by position; a compressed one
//! is decompressed into a file first. Told from the archive of a root by its first names.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::rc::Rc;

use super::archive_entry::{ArchiveError, EntryKind, Limits, NO_ENTRY};
use super::archive_read::Reader;
use super::archive_stream::{decompress, is_compressed};
use super::dirfd::FileError;
use super::image::ImageError;
use super::oci_blobs::{Blobs, Part, document, refused};
use super::oci_config::{DOCUMENT_MOST, sha256};
use super::pack_format::MANIFEST;
use super::workshop::Workshop;
use crate::kernel::interrupt;

/// Links from one name to another that are followed.
const LINKS_MOST: usize = 8;
/// Most bytes of such an archive.
const BYTES_MOST: u64 = 256 << 30;

/// What an archive holds.
#[derive(Debug)]
pub(super) enum Held {
    /// An image in parts.
    Parts(Archive),
    /// A guest, as `export` wrote it.
    Guest,
    /// Something else: the files of a root.
    Root,
}

/// An archive and where its files lie in it.
#[derive(Debug)]
pub(super) struct Archive {
    file: File,
    /// Offset and size by name.
    files: BTreeMap<String, (u64, u64)>,
    links: BTreeMap<String, String>,
    shown: String,
}

impl Archive {
    /// Looks at the archive `path`, opened as `file`; a compressed image is unpacked into
    /// `workshop`.
    ///
    /// # Errors
    /// It is damaged, or too large.
    pub(super) fn look(path: &Path, file: File, workshop: &Workshop) -> Result<Held, ImageError> {
        let failed = |source: ArchiveError| ImageError::Archive {
            path: path.to_owned(),
            source: Box::new(source),
        };
        let unreadable = |e: io::Error| ImageError::from(FileError::new("read", path, e));
        let size = file.metadata().map_err(unreadable)?.len();
        let again = || file.try_clone().map(|file| At::new(file, 0, size));
        let mut magic = [0; 6];
        let mut plain = decompress(again().map_err(unreadable)?, size).map_err(unreadable)?;
        match first_names(&mut plain).map_err(failed)? {
            First::Image => {}
            First::Guest => return Ok(Held::Guest),
            First::Other => return Ok(Held::Root),
        }
        drop(plain);
        let read = file.read_at(&mut magic, 0).map_err(unreadable)?;
        let file = match is_compressed(&magic[..read]) {
            false => file,
            true => {
                let input = decompress(again().map_err(unreadable)?, size).map_err(unreadable)?;
                spool(input, workshop)?
            }
        };
        let mut archive = Self {
            file,
            files: BTreeMap::new(),
            links: BTreeMap::new(),
            shown: path.display().to_string(),
        };
        archive.index().map_err(failed)?;
        Ok(Held::Parts(archive))
    }

    /// Learns where each file lies.
    fn index(&mut self) -> Result<(), ArchiveError> {
        let unreadable = |source| ArchiveError::Read {
            entry: NO_ENTRY.into(),
            source,
        };
        let size = self.file.metadata().map_err(unreadable)?.len();
        let file = self.file.try_clone().map_err(unreadable)?;
        let input = At::new(file, 0, size);
        let at = Rc::clone(&input.at);
        let mut reader = Reader::new(input, limits());
        while let Some(entry) = reader.next()? {
            let Ok(name) = String::from_utf8(entry.path.join(&b'/')) else {
                return Err(reader.wrong("its name is no text"));
            };
            let place = match entry.kind {
                EntryKind::Folder => continue,
                EntryKind::File if entry.pieces.len() > 1 || entry.size != held(&entry.pieces) => {
                    return Err(reader.wrong("parts of images are not sparse"));
                }
                EntryKind::File => Some((at.get(), entry.size)),
                EntryKind::Symlink | EntryKind::HardLink => None,
                EntryKind::Fifo | EntryKind::Device => {
                    return Err(reader.wrong("an image in parts holds files only"));
                }
            };
            let twice = self.files.contains_key(&name) || self.links.contains_key(&name);
            match place {
                _ if twice => return Err(reader.wrong("it is in the archive twice")),
                Some(place) => drop(self.files.insert(name, place)),
                None => {
                    let above = match entry.kind {
                        EntryKind::Symlink => entry.path.len() - 1,
                        _ => 0,
                    };
                    let target = leads_to(&entry.path[..above], &entry.link)
                        .ok_or_else(|| reader.wrong("its link leads out of the archive"))?;
                    self.links.insert(name, target);
                }
            }
        }
        Ok(())
    }

    /// Whether it has a file of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.place(name).is_some()
    }

    /// Bytes of a file, if it is there.
    pub(super) fn size(&self, name: &str) -> Option<u64> {
        self.place(name).map(|(_, size)| size)
    }

    fn place(&self, name: &str) -> Option<(u64, u64)> {
        let mut name = name;
        for _ in 0..LINKS_MOST {
            match self.links.get(name) {
                Some(target) => name = target,
                None => return self.files.get(name).copied(),
            }
        }
        None
    }

    /// A document of the archive itself.
    pub(super) fn own(&self, name: &str) -> Result<Vec<u8>, ImageError> {
        let failed = |reason: &str| refused(&self.shown, format!("{name} {reason}"));
        let (offset, size) = self.place(name).ok_or_else(|| failed("is not in it"))?;
        if size > DOCUMENT_MOST {
            return Err(failed("has more than 4 MiB"));
        }
        let mut text = vec![0; usize::try_from(size).unwrap_or(0)];
        self.file
            .read_exact_at(&mut text, offset)
            .map_err(|e| failed(&format!("cannot be read: {e}")))?;
        Ok(text)
    }
}

impl Blobs for Archive {
    fn open(&self, part: &Part) -> Result<Box<dyn Read + '_>, ImageError> {
        let failed = |reason: String| refused(&self.shown, reason);
        let name = match part.key.starts_with("sha256:") {
            true => format!("blobs/sha256/{}", sha256(&part.key).map_err(failed)?),
            false => part.key.clone(),
        };
        let (offset, size) = self
            .place(&name)
            .ok_or_else(|| failed(format!("{name} is not in it")))?;
        let file = self
            .file
            .try_clone()
            .map_err(|e| failed(format!("{name} cannot be read: {e}")))?;
        Ok(Box::new(At::new(file, offset, size)))
    }

    fn manifest(&self, part: &Part) -> Result<Vec<u8>, ImageError> {
        document(self, part)
    }

    fn shown(&self) -> &str {
        &self.shown
    }
}

fn limits() -> Limits {
    Limits {
        entries: 100_000,
        bytes: BYTES_MOST,
        ..Limits::default()
    }
}

fn held(pieces: &[(u64, u64)]) -> u64 {
    pieces.iter().map(|(_, length)| length).sum()
}

/// What the first names of an archive are of.
enum First {
    /// An image in parts.
    Image,
    /// A guest.
    Guest,
    Other,
}

fn first_names(input: &mut dyn Read) -> Result<First, ArchiveError> {
    let mut reader = Reader::new(input, limits());
    while let Some(entry) = reader.next()? {
        let Some(first) = entry.path.first() else {
            continue;
        };
        let folder = entry.path.len() > 1 || entry.kind == EntryKind::Folder;
        match first.as_slice() {
            b"oci-layout" | b"index.json" | b"manifest.json" | b"repositories" if !folder => {
                return Ok(First::Image);
            }
            name if !folder && name == MANIFEST.as_bytes() => return Ok(First::Guest),
            b"blobs" if folder => {}
            name if is_saved(name, folder) => {}
            _ => return Ok(First::Other),
        }
    }
    Ok(First::Other)
}

/// `HEX/…`, `HEX.json`, `HEX.tar`: what `docker save` and `podman save` call parts.
fn is_saved(name: &[u8], folder: bool) -> bool {
    let stem = match folder {
        true => Some(name),
        false => name.strip_suffix(b".json").or(name.strip_suffix(b".tar")),
    };
    stem.is_some_and(|stem| stem.len() == 64 && stem.iter().all(u8::is_ascii_hexdigit))
}

/// Where a link in a folder leads inside the archive; `None` for out of it.
fn leads_to(folder: &[Vec<u8>], link: &[u8]) -> Option<String> {
    let mut path: Vec<&[u8]> = folder.iter().map(Vec::as_slice).collect();
    if link.first() == Some(&b'/') {
        return None;
    }
    for part in link.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(path.pop()?),
            part => path.push(part),
        }
    }
    String::from_utf8(path.join(&b'/')).ok()
}

/// Writes a stream into a file of the workshop.
fn spool(mut input: Box<dyn Read + '_>, workshop: &Workshop) -> Result<File, ImageError> {
    let path = workshop.shown.join("archive");
    let failed = |verb, e: io::Error| ImageError::from(FileError::new(verb, &path, e));
    let mut file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .map_err(|e| failed("create", e))?;
    let mut buffer = vec![0; 256 << 10];
    let mut done = 0_u64;
    loop {
        if interrupt::caught().is_some() {
            return Err(refused(
                "the archive",
                "reading it was interrupted by a signal",
            ));
        }
        let n = input
            .read(&mut buffer)
            .map_err(|e| failed("unpack into", e))?;
        if n == 0 {
            return Ok(file);
        }
        done += n as u64;
        if done > BYTES_MOST {
            return Err(refused("the archive", "it unpacks to more than 256 GiB"));
        }
        file.write_all(&buffer[..n])
            .map_err(|e| failed("write", e))?;
    }
}

/// A stretch of a file, read by position: its descriptor may be shared.
#[derive(Debug)]
struct At {
    file: File,
    at: Rc<Cell<u64>>,
    end: u64,
}

impl At {
    fn new(file: File, offset: u64, size: u64) -> Self {
        Self {
            file,
            at: Rc::new(Cell::new(offset)),
            end: offset.saturating_add(size),
        }
    }
}

impl Read for At {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let at = self.at.get();
        let left = usize::try_from(self.end.saturating_sub(at)).unwrap_or(usize::MAX);
        let most = left.min(buffer.len());
        let n = self.file.read_at(&mut buffer[..most], at)?;
        self.at.set(at + n as u64);
        Ok(n)
    }
}
