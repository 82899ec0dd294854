//! Built images: `images/DIGEST/root` and `image.json`, read-only and shared by all guests of the
//! same content; `images/by-recipe/HASH.json` leads from a recipe to its image, so that a second
//! guest needs no build and no walk. Reading, listing and removing; building is `build`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{self, FlockOperation};
use serde::{Deserialize, Serialize};

use super::archive_entry::ArchiveError;
use super::dirfd::{self, FileError, child_dir, cname, open_dir};
use super::image_config::ImageConfig;
use super::init_kind::InitKind;
use super::mend::{self, ASIDE};
use super::remove::remove_tree;
use super::template::{Kind, TemplateError};
use crate::model::{Layout, MountOp};

/// A built image: what `image.json` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// SHA-256 of its content, hexadecimal: its name.
    pub digest: String,
    /// Template it was built from; empty for one that was taken in.
    pub template: String,
    /// Options it was built with, defaults included.
    pub options: BTreeMap<String, String>,
    /// Kind of that template.
    pub kind: Kind,
    /// Kind of its init.
    pub init: InitKind,
    /// Its first program and arguments; empty for `/sbin/init`.
    pub command: Vec<String>,
    /// Signal that asks its init to shut down.
    pub stop_signal: String,
    /// Bytes of its regular files.
    pub size: u64,
    /// Number of its files.
    pub files: u64,
    /// When it was built, milliseconds since 1970.
    pub created_ms: u64,
    /// Mounts its guests need beyond the root, such as the host's `/usr`.
    pub mounts: Vec<MountOp>,
    /// Digests of the layers it is made of, topmost first; empty for one that has a tree of its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<String>,
    /// Where it was taken in from: a registry's name for it, a file, a guest. Empty for a template.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// What its OCI configuration says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<ImageConfig>,
    /// Its folder.
    #[serde(skip)]
    pub path: PathBuf,
}

impl Image {
    /// The first twelve digits of its digest, which name it among others as a rule.
    #[must_use]
    pub fn short(&self) -> &str {
        self.digest.get(..12).unwrap_or(&self.digest)
    }

    /// Its tree, the lowest layer of its guests. One made of layers has none.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.path.join("root")
    }

    /// The read-only trees below its guests, topmost first: shared layers lie beside the images, in
    /// `layers/DIGEST/root`.
    #[must_use]
    pub fn lowers(&self) -> Vec<PathBuf> {
        let images = self.path.parent().unwrap_or(&self.path);
        let layer = |digest: &String| images.join("layers").join(digest).join("root");
        match self.layers.as_slice() {
            [] => vec![self.root()],
            layers => layers.iter().map(layer).collect(),
        }
    }
}

/// How a build is going.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// What begins now, for people.
    Phase(String),
    /// A line of the tool at work.
    Line(String),
    /// What is not as one might think, to be read afterwards.
    Note(String),
    /// Bytes read so far, and in all where that is known.
    Bytes {
        /// So far.
        done: u64,
        /// In all.
        total: Option<u64>,
    },
}

/// An image that cannot be built, read or removed.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The template or its options are wrong.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// A step on a file failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The template cannot be built on this host.
    #[error("cannot build template {template:?}: {reason}")]
    Build {
        /// Template.
        template: String,
        /// Why, and what to do.
        reason: String,
    },
    /// An archive is refused or cannot be unpacked.
    #[error("cannot unpack {}: {source}", path.display())]
    Archive {
        /// The archive.
        path: PathBuf,
        /// Why, and at which entry.
        #[source]
        source: Box<ArchiveError>,
    },
    /// No such image.
    #[error("there is no image {digest} in {}", images.display())]
    Missing {
        /// Digest asked for.
        digest: String,
        /// Where images are.
        images: PathBuf,
    },
    /// `image.json` cannot be understood.
    #[error(
        "{} is damaged: {reason}; remove the image and create it again from its template",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A name that no image has.
    #[error(
        "there is no image {name}{}; `bulkhead image list` shows those there are",
        hint
    )]
    Unknown {
        /// Name asked for.
        name: String,
        /// What may help.
        hint: String,
    },
    /// The beginning of several digests.
    #[error("{prefix} is the beginning of several images: {}; give more of it", found.join(", "))]
    Ambiguous {
        /// What was given.
        prefix: String,
        /// The images.
        found: Vec<String>,
    },
    /// Its files are not what they were.
    #[error(
        "image {digest} is damaged: {reason}; no guest is started from it: take it in again, or \
         delete it with its guests"
    )]
    Unsound {
        /// Digest.
        digest: String,
        /// What is wrong.
        reason: String,
    },
    /// What was to be taken in is refused.
    #[error("cannot take in {what}: {reason}")]
    Refused {
        /// Which image, and which part of it.
        what: String,
        /// Why, and what to do.
        reason: String,
    },
    /// Guests still use it.
    #[error("image {digest} is in use by {}: delete them first", guests.join(", "))]
    InUse {
        /// Digest.
        digest: String,
        /// Guests that use it.
        guests: Vec<String>,
    },
}

#[cfg(test)]
impl Image {
    /// One with a tree of its own, for tests that look at other things.
    pub(super) fn sample(digest: String, path: PathBuf) -> Self {
        Self {
            digest,
            template: "sample".into(),
            options: BTreeMap::new(),
            kind: Kind::Tar,
            init: InitKind::Other,
            command: Vec::new(),
            stop_signal: "SIGTERM".into(),
            size: 0,
            files: 0,
            created_ms: 0,
            mounts: Vec::new(),
            layers: Vec::new(),
            source: String::new(),
            config: None,
            path,
        }
    }
}

pub(super) fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether the digests in a record are digests: they become names of folders.
pub(super) fn check_record(image: &Image) -> Result<(), String> {
    let all = std::iter::once(&image.digest).chain(&image.layers);
    match all.into_iter().find(|digest| !is_digest(digest)) {
        Some(odd) => Err(format!("{odd:?} is no digest")),
        None => Ok(()),
    }
}

/// Why an image cannot be taken from whoever is not believed: what its digest does not prove, or what
/// it would show of this host.
pub(super) fn why_unproved(image: &Image) -> Option<String> {
    let digest = image.short();
    if !image.mounts.is_empty() {
        let paths: Vec<String> = image.mounts.iter().map(source_of).collect();
        return Some(format!(
            "image {digest} shows folders of the host it was made on ({}): it cannot move to \
             another host",
            paths.join(", ")
        ));
    }
    (!image.layers.is_empty()).then(|| {
        format!(
            "image {digest} is made of layers that are not on this host: pull or import it here \
             first, and repeat"
        )
    })
}

fn source_of(mount: &MountOp) -> String {
    serde_json::to_value(mount)
        .ok()
        .and_then(|value| Some(value.get("source")?.as_str()?.to_owned()))
        .unwrap_or_else(|| "a mount".into())
}

/// Reads the record of the image `digest`.
///
/// # Errors
/// There is none, or its record is damaged.
pub fn load_image(layout: &Layout, digest: &str) -> Result<Image, ImageError> {
    let missing = || ImageError::Missing {
        digest: digest.chars().take(64).collect(),
        images: layout.images(),
    };
    if !is_digest(digest) {
        return Err(missing());
    }
    let path = layout.images().join(digest);
    let record = path.join("image.json");
    let file = match File::open(&record) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(missing()),
        other => other.map_err(|e| FileError::new("open", &record, e))?,
    };
    let text =
        dirfd::read_limited(file, 1 << 20).map_err(|e| FileError::new("read", &record, e))?;
    let damaged = |reason: String| ImageError::Damaged {
        path: record.clone(),
        reason,
    };
    let image: Image = serde_json::from_slice(&text).map_err(|e| damaged(e.to_string()))?;
    if image.digest != digest {
        return Err(damaged(format!("it is the record of {}", image.digest)));
    }
    if let Some(odd) = image.layers.iter().find(|layer| !is_digest(layer)) {
        return Err(damaged(format!("{odd:?} is no digest of a layer")));
    }
    Ok(Image { path, ..image })
}

/// All images, oldest first. One with a damaged record is an error in its place.
///
/// # Errors
/// The folder cannot be read.
pub fn images(layout: &Layout) -> Result<Vec<Result<Image, ImageError>>, FileError> {
    let mut found: Vec<_> = listed(&layout.images())?
        .iter()
        .filter(|name| is_digest(name))
        .map(|name| load_image(layout, name))
        .collect();
    found.sort_by_key(|image| image.as_ref().map_or(u64::MAX, |i| i.created_ms));
    Ok(found)
}

/// Names in a folder of the program's own; none if it is not there yet.
pub(super) fn listed(folder: &Path) -> Result<Vec<String>, FileError> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let names =
        dirfd::names(open_dir(folder)?).map_err(|e| FileError::new("read folder", folder, e))?;
    Ok(names
        .into_iter()
        .filter_map(|n| n.into_string().ok())
        .collect())
}

/// Removes the image `digest` that no guest uses.
///
/// # Errors
/// Guests use it, there is none, or a file cannot be removed.
pub fn remove_image(layout: &Layout, digest: &str) -> Result<(), ImageError> {
    if !is_digest(digest) || !layout.images().join(digest).exists() {
        return Err(ImageError::Missing {
            digest: digest.chars().take(64).collect(),
            images: layout.images(),
        });
    }
    let free = || match users(layout, digest)? {
        guests if guests.is_empty() => Ok(()),
        guests => Err(ImageError::InUse {
            digest: digest.to_owned(),
            guests,
        }),
    };
    free()?;
    super::tag::untag_all(layout, digest)?;
    // Renamed first: a build that finds half an image would take it for whole.
    let trash = format!("tmp-removed-{digest:.12}-{}", std::process::id());
    let images = open_dir(&layout.images())?;
    let path = layout.images().join(digest);
    fs::renameat(&images, digest, &images, trash.as_str())
        .map_err(|e| FileError::new("rename", &path, e))?;
    // A root made meanwhile has either seen that the image is gone, or is seen here.
    if let Err(used) = free() {
        fs::renameat(&images, trash.as_str(), &images, digest)
            .map_err(|e| FileError::new("rename back", &path, e))?;
        return Err(used);
    }
    let name = cname(trash).map_err(|e| FileError::new("remove", &path, e))?;
    Ok(remove_tree(&images, &name, &path)?)
}

/// Guests whose root lies over the image `digest`.
pub(super) fn users(layout: &Layout, digest: &str) -> Result<Vec<String>, FileError> {
    let mut found = Vec::new();
    for guest in listed(&layout.guests())? {
        let Ok(name) = guest.parse() else { continue };
        let below = super::root::image_digest(layout, &name).is_ok_and(|d| d == digest);
        let records = super::saved::records(&layout.guest(&name))?;
        let rescue = super::rescue::image_of(&layout.guest(&name));
        let below = below || rescue.is_some_and(|d| d == digest);
        if below || records.iter().any(|record| record.image == digest) {
            found.push(guest);
        }
    }
    Ok(found)
}

/// Something that a command left when it died.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftover {
    /// Where it is.
    pub path: PathBuf,
}

/// What commands that died have left in the images' and guests' folders. What a live command holds
/// is not listed.
///
/// # Errors
/// A folder cannot be read.
pub fn leftovers(layout: &Layout) -> Result<Vec<Leftover>, FileError> {
    let mut found = Vec::new();
    let mut places = vec![
        (layout.images(), "tmp-"),
        (layout.images().join("layers"), "tmp-"),
        (layout.images(), ASIDE),
        (layout.images().join("layers"), ASIDE),
        (layout.guests(), ".trash-"),
    ];
    for guest in listed(&layout.guests())? {
        if guest.parse::<crate::model::GuestName>().is_ok() {
            places.push((layout.guests().join(guest), ".root-"));
        }
    }
    for (folder, prefix) in places {
        for name in listed(&folder)? {
            let path = folder.join(&name);
            let ours = match prefix {
                ASIDE => mend::is_left(layout, &name),
                _ => name.starts_with(prefix),
            };
            if ours && !is_held(&folder, &name) {
                found.push(Leftover { path });
            }
        }
    }
    let orphans = super::pool_leftover::orphans(layout)?;
    found.extend(orphans.into_iter().map(|path| Leftover { path }));
    Ok(found)
}

fn is_held(folder: &Path, name: &str) -> bool {
    let held = || -> io::Result<bool> {
        let parent = open_dir(folder).map_err(|e| e.source)?;
        let dir = child_dir(&parent, &cname(name)?)?;
        let lock = fs::flock(dir.as_fd(), FlockOperation::NonBlockingLockExclusive);
        Ok(lock == Err(rustix::io::Errno::WOULDBLOCK))
    };
    held().unwrap_or(false)
}

/// Removes what [`leftovers`] found.
///
/// # Errors
/// A file cannot be removed; nothing there is success.
pub fn remove_leftover(layout: &Layout, leftover: &Leftover) -> Result<(), FileError> {
    let path = &leftover.path;
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(());
    };
    if super::pool_leftover::is_object(layout, path) {
        return super::pool_leftover::remove_object(layout, path);
    }
    let name = cname(name.as_encoded_bytes()).map_err(|e| FileError::new("remove", path, e))?;
    super::root::discard(&open_dir(folder)?, &name, path)
}
