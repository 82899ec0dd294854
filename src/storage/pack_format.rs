//! The archive of a guest: what its first and last members say, how its parts are called, and what
//! can be wrong with one. Writing is `pack_write`, reading `pack_read`; `docs/moving.md` has the
//! format in words.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::archive_entry::ArchiveError;
use super::digest::hex;
use super::dirfd::FileError;
use super::image::{Image, ImageError, check_record, why_unproved};

/// Newest version of the format, which has further images below snapshots; an archive without any is
/// written as of one before. A reader refuses a newer one, and takes the first, in which sums were
/// SHA-256.
pub(super) const FORMAT: u32 = 4;
/// The version with snapshots over one image.
pub(super) const ONE_IMAGE: u32 = 3;
/// The version without snapshots.
pub(super) const WITHOUT_SNAPSHOTS: u32 = 2;
/// The first member.
pub(super) const MANIFEST: &str = "bulkhead.json";
/// The last member.
pub(super) const CHECKSUMS: &str = "checksums.json";
/// Largest size of either, bytes.
pub(super) const RECORD_MOST: u64 = 4 << 20;
/// So many snapshots are named of those that are short of one image.
const NAMED_MOST: usize = 5;
/// The part with the guest's own layer.
pub(super) const OWN: &str = "root/upper";

/// The first member of an archive: what it holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of the format.
    pub format: u32,
    /// Program that wrote it, with its version.
    pub made_by: String,
    /// When, milliseconds since 1970.
    pub made_ms: u64,
    /// The guest.
    pub guest: PackedGuest,
    /// The record of its image.
    pub image: Image,
    /// Records of further images, which only snapshots lie over.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub further: Vec<Image>,
    /// Folders of the archive with a tree each, in the order in which they come.
    pub parts: Vec<String>,
}

/// What an archive says of its guest beside its files.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PackedGuest {
    /// Its name.
    pub name: String,
    /// The text of its definition: a wish, never authority.
    pub definition: String,
    /// Its machine id, see machine-id(5).
    pub machine_id: String,
    /// When it was made, milliseconds since 1970.
    pub created_ms: u64,
    /// What its definition said when it was last written into its files.
    pub written: serde_json::Value,
    /// Whether it ran, and was held still while its files were read.
    pub ran: bool,
    /// The snapshot that it came from last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// Its snapshots, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub snapshots: Vec<PackedSnapshot>,
}

/// A snapshot in an archive.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PackedSnapshot {
    /// Its name.
    pub name: String,
    /// When it was taken, milliseconds since 1970.
    pub created_ms: u64,
    /// Free text.
    pub comment: String,
    /// The snapshot that the guest came from then.
    pub parent: Option<String>,
    /// Digest of the image below.
    pub image: String,
    /// The definition then: a wish as well.
    pub definition: String,
    /// Whether it was taken by the clock.
    pub automatic: bool,
    /// What was written into its files then.
    pub written: serde_json::Value,
    /// Parts that it is made of, the lowest first.
    pub layers: Vec<String>,
}

/// The last member: the sums of all that came before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Checksums {
    /// Of each part: its bytes of the tar stream, from the header of its first member on.
    pub(super) parts: Vec<PartSum>,
    /// Of the lines `SUM  NAME\n` of all parts: of the whole.
    pub(super) whole: String,
}

/// The sum of one part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PartSum {
    /// `bulkhead.json`, or the folder of a tree.
    pub(super) name: String,
    /// Where it begins in the uncompressed stream, bytes.
    pub(super) offset: u64,
    /// How long it is, bytes.
    pub(super) length: u64,
    /// Hexadecimal.
    #[serde(rename = "blake3", alias = "sha256")]
    pub(super) sum: String,
}

impl Manifest {
    /// How many layers of the guest were set aside.
    pub(super) fn sealed(&self) -> usize {
        let sealed = self.parts.iter().filter(|part| part.starts_with("root/"));
        sealed.count().saturating_sub(1)
    }

    /// How many trees there are that only snapshots list.
    pub(super) fn saved(&self) -> usize {
        let saved = self
            .parts
            .iter()
            .filter(|part| part.starts_with("snapshot/"));
        saved.count()
    }

    /// Whether the image comes along.
    #[must_use]
    pub fn has_image(&self) -> bool {
        self.parts.len() > self.sealed() + self.saved() + self.further.len() + 1
    }

    /// What people are to know of images that only snapshots lie over and that do not come along, though
    /// the guest's own does.
    pub(super) fn left_behind(&self) -> Vec<String> {
        if !self.has_image() {
            return Vec::new();
        }
        let mut images: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for one in &self.guest.snapshots {
            let comes = |image: &Image| image.digest == one.image;
            if !comes(&self.image) && !self.further.iter().any(comes) {
                images.entry(&one.image).or_default().push(&one.name);
            }
        }
        let said = |(digest, names): (&str, Vec<&str>)| {
            let more = match names.len().saturating_sub(NAMED_MOST) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            let names = names.into_iter().take(NAMED_MOST).collect::<Vec<_>>();
            format!(
                "image {digest:.12} stays out, which only snapshots lie over ({}{more}): it is made of layers, \
                 shows folders of this host, or is damaged or not here; take it in on the other host before \
                 (`bulkhead image pull` or `image import`), else they are left out there",
                names.join(", ")
            )
        };
        images.into_iter().map(said).collect()
    }

    /// What is wrong with the further images, if anything.
    pub(super) fn wrong_further(&self) -> Option<String> {
        let mut digests = HashSet::from([&self.image.digest]);
        for image in &self.further {
            let digest = &image.digest;
            if let Err(why) = check_record(image) {
                return Some(why);
            }
            if !digests.insert(digest) {
                return Some(format!("image {digest:.12} comes twice"));
            }
            if let Some(why) = why_unproved(image) {
                return Some(why);
            }
            if !self.guest.snapshots.iter().any(|one| one.image == *digest) {
                return Some(format!("no snapshot lies over image {digest:.12}"));
            }
        }
        None
    }

    /// What is wrong with what it says of snapshots, if anything.
    pub(super) fn wrong_snapshots(&self) -> Option<String> {
        let (mut names, parts) = (HashSet::new(), self.parts.iter().collect::<HashSet<_>>());
        for one in &self.guest.snapshots {
            if let Err(why) = crate::define::snapshot_name(&one.name) {
                return Some(why);
            }
            if !names.insert(&one.name) {
                return Some(format!("snapshot {:?} comes twice", one.name));
            }
            let is_layer = |part: &String| {
                part != OWN
                    && (part.starts_with("root/") || part.starts_with("snapshot/"))
                    && parts.contains(part)
            };
            let layers: HashSet<&String> = one.layers.iter().collect();
            let many = one.layers.len() > super::chain::MOST || layers.len() < one.layers.len();
            if many || !one.layers.iter().all(is_layer) {
                return Some(format!("layers of snapshot {:?} are not in it", one.name));
            }
        }
        None
    }
}

impl Checksums {
    /// Over these parts.
    pub(super) fn of(parts: Vec<PartSum>, format: u32) -> Self {
        let mut hash = Sum::of_format(format);
        for part in &parts {
            hash.update(format!("{}  {}\n", part.sum, part.name).as_bytes());
        }
        let whole = hash.take();
        Self { parts, whole }
    }
}

/// A sum in the making.
#[derive(Debug)]
pub(super) enum Sum {
    Sha256(Sha256),
    Blake3(Box<blake3::Hasher>),
}

impl Sum {
    /// As archives of this format have them.
    pub(super) fn of_format(format: u32) -> Self {
        match format {
            1 => Self::Sha256(Sha256::new()),
            _ => Self::Blake3(Box::default()),
        }
    }

    pub(super) fn update(&mut self, data: &[u8]) {
        match self {
            Self::Sha256(hash) => hash.update(data),
            Self::Blake3(hash) => {
                hash.update(data);
            }
        }
    }

    /// What it came to, hexadecimal; it begins anew.
    pub(super) fn take(&mut self) -> String {
        match self {
            Self::Sha256(hash) => hex(&hash.finalize_reset()),
            Self::Blake3(hash) => {
                let sum = hex(hash.finalize().as_bytes());
                hash.reset();
                sum
            }
        }
    }
}

/// The part with a layer of the guest's that was set aside, 0 the lowest.
pub(super) fn sealed_part(number: usize) -> String {
    format!("root/{number}")
}

/// The part with a tree that only snapshots list.
pub(super) fn saved_part(number: usize) -> String {
    format!("snapshot/{number}")
}

/// The parts of an archive with this image and these further ones, of a guest with so many layers set
/// aside, and so many trees that only its snapshots list.
pub(super) fn parts(
    (image, with_image): (&Image, bool),
    further: &[Image],
    (sealed, saved): (usize, usize),
) -> Vec<String> {
    let mut parts = match with_image {
        true => image_parts(image),
        false => Vec::new(),
    };
    parts.extend(further.iter().flat_map(image_parts));
    parts.extend((0..sealed).map(sealed_part));
    parts.extend((0..saved).map(saved_part));
    parts.push(OWN.to_owned());
    parts
}

/// The parts of an image, the topmost first: its tree, or those of its layers.
pub(super) fn image_parts(image: &Image) -> Vec<String> {
    match image.layers.as_slice() {
        [] => vec![format!("image/{}/root", image.digest)],
        layers => layers.iter().map(|d| format!("layers/{d}/root")).collect(),
    }
}

/// What is wrong with an archive, for who wants a guest of it.
fn of_archive(error: &ArchiveError) -> String {
    match error {
        ArchiveError::NoArchive => "it is neither an archive nor a disk of a machine that this program \
             knows: no tar, plain or compressed with gzip, xz or zstd (undo bzip2, lzo and others first), or \
             damaged where it begins. A disk is read from a file, not from a pipe"
            .into(),
        ArchiveError::Write(error) => error.to_string(),
        error => format!("it is damaged or was changed: {error}"),
    }
}

/// An archive of a guest that cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// It is something else, or of a newer version.
    #[error("it is no archive of a guest that this program can read: {0}")]
    Format(String),
    /// What is from elsewhere cannot be a guest.
    #[error("{0}")]
    Newcomer(String),
    /// It is damaged, cut off, or asks for what it may not have; or it cannot be read or written here.
    #[error("{}", of_archive(.0))]
    Archive(#[from] ArchiveError),
    /// A checksum differs.
    #[error(
        "it is damaged: the checksum of {part} is {found}, and {expected} in the archive; fetch it again"
    )]
    Checksum {
        /// Part.
        part: String,
        /// As in the archive.
        expected: String,
        /// As it came.
        found: String,
    },
    /// Its image.
    #[error("{reason}")]
    NoImage {
        /// What is wrong with it, and what to do.
        reason: String,
    },
    /// The stream cannot be written.
    #[error("cannot write the archive: {0}")]
    Write(#[source] std::io::Error),
    /// A step on a file failed.
    #[error("{}: {source}", place.display())]
    At {
        /// The tree it is in.
        place: PathBuf,
        /// The step.
        #[source]
        source: FileError,
    },
    /// A step on a file of the program's own failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// A step on an image failed.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A signal asked to end.
    #[error("interrupted by a signal")]
    Interrupted,
}
