//! Takes an image of a simplestreams server in: its two files fetched and compared with their digests,
//! its root unpacked or copied out of its squashfs, and an image made of that as of any other root.

use std::fs::File;
use std::io::{Read, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{self, Mode, OFlags};
use sha2::{Digest as _, Sha256};

use super::archive;
use super::archive_entry::{ArchiveError, EntryKind, Limits, shown};
use super::archive_read::Reader;
use super::archive_stream::decompress;
use super::build::finish;
use super::digest::hex;
use super::dirfd::{FileError, is_file, open_dir};
use super::image::{Image, ImageError, Progress};
use super::import::of_tree;
use super::merged::Merged;
use super::merged_copy::{Copy, Fate};
use super::oci_blobs::{Meter, Tally, refused};
use super::oci_http::Trust;
use super::seed::Seed;
use super::stream_index::{self, Packed, Piece};
use super::stream_server::{Server, ServerImage};
use super::tag::{source_of_name, tag_image};
use super::verify::is_whole;
use super::walk::walk;
use super::workshop::Workshop;
use crate::kernel::{fault, filesystem};
use crate::model::{ID_BLOCK, ImageName, Layout};

/// Most bytes of `metadata.yaml`.
const METADATA_MOST: u64 = 1 << 20;

/// What a pull from a server would fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerFetch {
    /// The image with its version.
    pub image: ServerImage,
    /// Bytes of its files.
    pub bytes: u64,
}

/// What a pull would fetch; nothing is taken in.
///
/// # Errors
/// The server cannot be reached, nobody vouches for it, it does not have the image.
pub fn look_at_server_image(
    layout: &Layout,
    wanted: &ServerImage,
    trust: &Trust,
) -> Result<ServerFetch, ImageError> {
    let server = Server::of(wanted, trust)?;
    let scratch = Workshop::open(&layout.images(), "server")?;
    let found = server.find(wanted, &scratch)?;
    Ok(ServerFetch {
        image: wanted.at(Some(&found.version)),
        bytes: found.metadata.size + found.root.size,
    })
}

/// Takes an image in from a server, and gives it this name, or that of its place there. `known` is an
/// image it need not be fetched for again: one of the same version.
///
/// # Errors
/// As [`look_at_server_image`]; its files are not what the server's index says, or no root; the disk
/// is full.
pub fn pull_server_image(
    layout: &Layout,
    wanted: &ServerImage,
    name: Option<&ImageName>,
    known: Option<&Image>,
    trust: &Trust,
    progress: &mut dyn FnMut(Progress),
) -> Result<(Image, Vec<ImageName>), ImageError> {
    let failed = |reason: String| refused(wanted.to_string(), reason);
    let name = name.cloned().or_else(|| wanted.name());
    let name = name.ok_or_else(|| {
        failed("its alias is no name of an image here: give it one with --tag".into())
    })?;
    let server = Server::of(wanted, trust)?;
    progress(Progress::Phase(format!("asking for {wanted}")));
    let scratch = Workshop::open(&layout.images(), "server")?;
    let pause =
        |at: &Workshop| fault::point().map_err(|e| FileError::new("make", &at.shown, e.errno));
    pause(&scratch)?;
    let found = server.find(wanted, &scratch)?;
    let source = ServerImage {
        signed: trust.keyring.is_some(),
        ..wanted.at(Some(&found.version))
    };
    let before = known.map(|image| image.source.clone());
    let before = before.or_else(|| source_of_name(layout, &name));
    refuse_older(wanted, &found.version, before.as_deref()).map_err(failed)?;
    let same = |image: &&Image| image.source == source.to_string() && is_whole(layout, image);
    if let Some(image) = known.filter(same) {
        return Ok((image.clone(), vec![name]));
    }
    progress(Progress::Phase(format!(
        "fetching {}, version {}",
        found.product, found.version
    )));
    let mut fetch = Fetch {
        server: &server,
        scratch: &scratch,
        whole: Sha256::new(),
        done: 0,
        total: found.metadata.size + found.root.size,
        progress: &mut *progress,
    };
    let metadata = fetch.file("metadata", &found.metadata).map_err(failed)?;
    let root = fetch.file("packed", &found.root).map_err(failed)?;
    let whole = hex(&fetch.whole.finalize());
    if found.combined.is_some_and(|combined| combined != whole) {
        let why = format!(
            "its two files together have the digest sha256:{whole}, and not the one its index says"
        );
        return Err(failed(why));
    }
    pause(&scratch)?;
    fits(metadata).map_err(failed)?;
    let workshop = Workshop::open(&layout.images(), "stream")?;
    let into = open_dir(&workshop.root())?;
    let path = scratch.shown.join("packed");
    match found.packed {
        Packed::Tar => drop(archive::unpack(&path, root, &into, progress)?),
        Packed::Squashfs => copy_out(&root, found.root.size, &into, progress).map_err(failed)?,
    }
    pause(&workshop)?;
    let seed = Seed::open(&workshop.root())?;
    if !["etc", "bin", "sbin", "usr"]
        .iter()
        .any(|name| seed.stat(name).is_some())
    {
        return Err(failed("there is no root file system in it".into()));
    }
    progress(Progress::Phase("hashing the image".into()));
    let image = of_tree(&seed, source.to_string());
    let image = finish(layout, workshop, &seed, image)?;
    tag_image(layout, &name, &image.digest, Some(&source.to_string()))?;
    Ok((image, vec![name]))
}

/// Refuses the newest version where it is older than the one that came before: what a server said once
/// can be shown again by somebody else.
fn refuse_older(wanted: &ServerImage, version: &str, before: Option<&str>) -> Result<(), String> {
    let before = before.and_then(|source| source.parse::<ServerImage>().ok());
    let same = |there: &ServerImage| there.server == wanted.server && there.alias == wanted.alias;
    let before = before.filter(same).and_then(|there| there.version);
    match before {
        Some(there) if wanted.version.is_none() && there.as_str() > version => Err(format!(
            "its newest version is said to be {version}, and {there} came before: the server has taken              that back, or somebody shows what it said once; if it is meant, `bulkhead image pull              {}@{version}` from there",
            wanted.alias
        )),
        _ => Ok(()),
    }
}

/// Files on their way.
struct Fetch<'a> {
    server: &'a Server,
    scratch: &'a Workshop,
    /// Over all of them.
    whole: Sha256,
    done: u64,
    total: u64,
    progress: &'a mut dyn FnMut(Progress),
}

impl Fetch<'_> {
    /// Fetches one into the folder for it, compared with its size and digest.
    fn file(&mut self, name: &str, piece: &Piece) -> Result<File, String> {
        let at = |why: String| format!("{}: {why}", piece.path);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = fs::openat(&self.scratch.lock, name, flags, Mode::RUSR | Mode::WUSR);
        let mut file = File::from(file.map_err(|e| at(e.to_string()))?);
        let meter = Meter {
            input: self.server.open(piece),
            done: self.done,
            reported: self.done,
            total: self.total,
            progress: &mut *self.progress,
        };
        let mut input = Tally::new(meter, Some(piece.size));
        let mut buffer = vec![0; 256 << 10];
        loop {
            let n = input.read(&mut buffer).map_err(|e| at(e.to_string()))?;
            if n == 0 {
                break;
            }
            self.whole.update(&buffer[..n]);
            let written = file.write_all(&buffer[..n]);
            written.map_err(|e| FileError::new("write", &self.scratch.shown, e).to_string())?;
        }
        input.finish(Some(&piece.sha256)).map_err(at)?;
        self.done += piece.size;
        std::io::Seek::rewind(&mut file).map_err(|e| at(e.to_string()))?;
        Ok(file)
    }
}

/// Refuses what the metadata says is for another machine.
fn fits(file: File) -> Result<(), String> {
    let unreadable = |e: String| format!("its metadata cannot be read: {e}");
    let size = file.metadata().map_or(0, |meta| meta.len());
    let plain = decompress(file, size).map_err(|e| unreadable(e.to_string()))?;
    let mut reader = Reader::new(plain, Limits::default());
    let at = |e: ArchiveError| unreadable(e.to_string());
    while let Some(entry) = reader.next().map_err(at)? {
        if entry.kind != EntryKind::File || entry.path != [b"metadata.yaml".to_vec()] {
            continue;
        }
        if entry.size > METADATA_MOST {
            return Err(unreadable("metadata.yaml has more than 1 MiB".into()));
        }
        let mut text = Vec::new();
        let mut buffer = [0; 8192];
        loop {
            let n = reader.read_data(&mut buffer).map_err(at)?;
            if n == 0 {
                break;
            }
            text.extend_from_slice(&buffer[..n]);
        }
        return stream_index::fits(&String::from_utf8_lossy(&text));
    }
    Err("there is no metadata.yaml in its metadata".into())
}

/// Copies a root out of a squashfs, which is mounted where no path leads.
fn copy_out(
    file: &File,
    size: u64,
    into: &OwnedFd,
    progress: &mut dyn FnMut(Progress),
) -> Result<(), String> {
    progress(Progress::Phase("copying its files".into()));
    fault::point().map_err(|e| e.to_string())?;
    let place = Path::new("its squashfs");
    let mounted = filesystem::Foreign::open(file.as_fd(), place, "squashfs", (0, size));
    let mounted = mounted.map_err(|error| {
        format!("it is damaged, or this kernel has no squashfs (modprobe squashfs): {error}")
    })?;
    survey(&mounted.mount)?;
    let unreadable = |e: std::io::Error| format!("its squashfs cannot be read: {e}");
    let top = mounted.mount.try_clone().map_err(unreadable)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let top = fs::openat(&top, c".", flags, Mode::empty()).map_err(|e| unreadable(e.into()))?;
    let top = Merged::over(top, Vec::new(), place);
    let top = top.top().map_err(unreadable)?;
    let keep = |_: &[u8], _: bool| Fate::Keep;
    let copied = Copy::new(into, &keep).all(&top);
    copied.map_err(|error| format!("{}: {}", error.path, error.source))
}

/// Refuses a tree that asks for more than an archive may: a few bytes of squashfs can say that they
/// hold anything.
fn survey(top: &OwnedFd) -> Result<(), String> {
    let most = Limits::default();
    let (mut files, mut bytes) = (0_u64, 0_u64);
    let mut why = None;
    let walked = walk(top, |met| {
        files += 1;
        if is_file(met.stat) {
            bytes = bytes.saturating_add(u64::try_from(met.stat.st_size).unwrap_or(0));
        }
        if files > most.entries || bytes > most.bytes {
            why = Some("its files are more, or larger, than a root may have".to_owned());
        } else if met.stat.st_uid >= ID_BLOCK || met.stat.st_gid >= ID_BLOCK {
            let path = shown(met.path);
            why = Some(format!(
                "/{path} has an owner above 65535, the highest id a guest has"
            ));
        }
        match why {
            Some(_) => Err(rustix::io::Errno::CANCELED),
            None => Ok(()),
        }
    });
    match (why, walked) {
        (Some(why), _) => Err(why),
        (None, Ok(())) => Ok(()),
        (None, Err(e)) => Err(format!("its squashfs is damaged: {e}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_is_not_older_than_the_one_before() {
        let image = |name: &str| ServerImage::new("https://images.example", name).unwrap();
        let refused = |wanted: &str, version: &str, before: &str| {
            refuse_older(&image(wanted), version, Some(before)).is_err()
        };
        let before = image("box/1@20260102_13:00").to_string();
        assert!(refused("box/1", "20260101_13:00", &before));
        assert!(!refused("box/1", "20260102_13:00", &before));
        assert!(!refused("box/1", "20260103_13:00", &before));
        // Asked for by its number, or of another alias or place.
        assert!(!refused("box/1@20260101_13:00", "20260101_13:00", &before));
        assert!(!refused("box/2", "20260101_13:00", &before));
        assert!(!refused("box/1", "20260101_13:00", "guest web"));
        assert!(refuse_older(&image("box/1"), "1", None).is_ok());
    }
}
