//! Built images: `images/DIGEST/root` and `image.json`, read-only and shared by all guests of the
//! same content; `images/by-recipe/HASH.json` leads from a recipe to its image, so that a second
//! guest needs no build and no walk. How each kind is built is in the file of that kind.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::SystemTime;

use rustix::fs::{self, FlockOperation, Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::archive_read::ArchiveError;
use super::dirfd::{self, FileError, Owner, child_dir, cname, ensure_private, open_dir};
use super::init_kind::InitKind;
use super::remove::remove_tree;
use super::seed::Seed;
use super::template::{Kind, Template, TemplateError, Templates};
use super::{archive, busybox, debian, digest, host};
use crate::model::{Layout, MountOp, TemplateRef};

/// Raised when builds of the same options must give other trees than before.
const RECIPE_VERSION: &[u8] = b"bulkhead-recipe-1";

/// A built image: what `image.json` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// SHA-256 of its content, hexadecimal: its name.
    pub digest: String,
    /// Template it was built from.
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
    /// Its folder.
    #[serde(skip)]
    pub path: PathBuf,
}

impl Image {
    /// Its tree, the lowest layer of its guests.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.path.join("root")
    }
}

/// How a build is going.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// What begins now, for people.
    Phase(String),
    /// A line of the tool at work.
    Line(String),
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
    /// Guests still use it.
    #[error("image {digest} is in use by {}: delete them first", guests.join(", "))]
    InUse {
        /// Digest.
        digest: String,
        /// Guests that use it.
        guests: Vec<String>,
    },
}

/// What a kind's builder says about the tree it has made.
#[derive(Debug, Default)]
pub(super) struct Built {
    /// Kind of init, where the tree does not show it.
    pub(super) init: Option<InitKind>,
    /// First program where it is not `/sbin/init`.
    pub(super) command: Vec<String>,
    /// Mounts beyond the root.
    pub(super) mounts: Vec<MountOp>,
}

/// What a builder gets.
pub(super) struct Job<'a> {
    pub(super) template: &'a Template,
    pub(super) options: &'a BTreeMap<String, String>,
    /// The empty root, made.
    pub(super) root: PathBuf,
    /// Lock on the build's folder; a tool that inherits it shows that the build is alive.
    pub(super) lock: &'a OwnedFd,
    pub(super) progress: &'a mut dyn FnMut(Progress),
}

impl Job<'_> {
    /// An option's value.
    pub(super) fn option(&self, name: &str) -> &str {
        self.options.get(name).map_or("", String::as_str)
    }

    /// A reason why this cannot be built.
    pub(super) fn refuse(&self, reason: impl Into<String>) -> ImageError {
        refuse(self.template, reason)
    }

    /// Says what begins now.
    pub(super) fn phase(&mut self, what: impl Into<String>) {
        (self.progress)(Progress::Phase(what.into()));
    }
}

/// A reason why `template` cannot be built.
pub(super) fn refuse(template: &Template, reason: impl Into<String>) -> ImageError {
    ImageError::Build {
        template: template.name.clone(),
        reason: reason.into(),
    }
}

/// The image of a template with these options: the one there is, or a new one. Two commands that
/// need the same one build it once. Whatever fails leaves nothing behind.
///
/// # Errors
/// Unknown template or option, a tool that is missing or fails, a full disk, a bad archive.
pub fn ensure_image(
    layout: &Layout,
    templates: &Templates,
    wanted: &TemplateRef,
    progress: &mut dyn FnMut(Progress),
) -> Result<Image, ImageError> {
    let (template, options) = templates.resolve(wanted)?;
    let recipe = recipe(template, &options)?;
    let by_recipe = layout.images().join("by-recipe");
    let file = by_recipe.join(format!("{recipe}.json"));
    if let Some(image) = known(layout, &file) {
        return Ok(image);
    }
    let folder = ensure_private(&by_recipe)?;
    let _lock = lock_recipe(&folder, &by_recipe, &recipe, progress)?;
    if let Some(image) = known(layout, &file) {
        return Ok(image);
    }
    let image = build(layout, template, &options, &recipe, progress)?;
    let text = serde_json::json!({ "digest": image.digest }).to_string();
    let name = format!("{recipe}.json");
    cname(name)
        .and_then(|n| dirfd::write_whole(&folder, &n, text.as_bytes(), Owner::root(0o600), true))
        .map_err(|e| FileError::new("write", &file, e))?;
    Ok(image)
}

/// Hash of what decides a build: template, options, and the host's part where there is one.
fn recipe(template: &Template, options: &BTreeMap<String, String>) -> Result<String, ImageError> {
    let kind = format!(
        "{:?} {:?} {:?}",
        template.kind, template.init, template.stop_signal
    );
    let host = match template.kind {
        Kind::Busybox => busybox::fingerprint(options),
        Kind::Tar => archive::fingerprint(options),
        Kind::Host => host::fingerprint(),
        Kind::Debian => String::new(),
    };
    let mut fields: Vec<&[u8]> = vec![RECIPE_VERSION, kind.as_bytes(), host.as_bytes()];
    for (name, value) in options {
        fields.extend([b"option", name.as_bytes(), value.as_bytes()]);
    }
    for (path, data) in &template.files {
        fields.extend([b"file".as_slice(), path.as_bytes(), data]);
    }
    Ok(digest::of_fields(fields))
}

/// A host file's identity without reading it: size, change time, inode.
pub(super) fn file_identity(path: &Path) -> String {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata(path).map_or_else(
        |_| "none".into(),
        |m| format!("{} {} {}.{}", m.ino(), m.size(), m.mtime(), m.mtime_nsec()),
    )
}

/// The image a recipe file leads to, if both are there and whole.
fn known(layout: &Layout, file: &Path) -> Option<Image> {
    #[derive(Deserialize)]
    struct Recipe {
        digest: String,
    }
    let recipe: Recipe = serde_json::from_slice(&std::fs::read(file).ok()?).ok()?;
    load_image(layout, &recipe.digest).ok()
}

fn lock_recipe(
    folder: &OwnedFd,
    shown: &Path,
    recipe: &str,
    progress: &mut dyn FnMut(Progress),
) -> Result<OwnedFd, FileError> {
    let name = format!("{recipe}.lock");
    let failed = |e: rustix::io::Errno| FileError::new("lock", &shown.join(&name), e);
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = fs::openat(folder, name.as_str(), flags, Mode::RUSR | Mode::WUSR).map_err(failed)?;
    if fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let what = "waiting for another command that builds the same image";
        progress(Progress::Phase(what.into()));
        dirfd::retry(|| fs::flock(&file, FlockOperation::LockExclusive)).map_err(failed)?;
    }
    Ok(file)
}

/// A folder `tmp-*` in which an image is made; removed when dropped unless it was kept.
struct Workshop {
    images: OwnedFd,
    shown: PathBuf,
    name: std::ffi::CString,
    lock: OwnedFd,
    kept: bool,
}

impl Workshop {
    fn open(layout: &Layout, recipe: &str) -> Result<Self, FileError> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("tmp-{:.12}-{}-{number}", recipe, std::process::id());
        let shown = layout.images().join(&name);
        let failed = |e: io::Error| FileError::new("create folder", &shown, e);
        let images = open_dir(&layout.images())?;
        let name = cname(name).map_err(failed)?;
        let lock =
            dirfd::make_dir(&images, &name, Owner::root(0o700)).map_err(|e| failed(e.into()))?;
        let workshop = Self {
            images,
            shown: shown.clone(),
            name,
            lock,
            kept: false,
        };
        fs::flock(&workshop.lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|e| failed(e.into()))?;
        dirfd::make_dir(&workshop.lock, c"root", Owner::root(0o755))
            .map_err(|e| failed(e.into()))?;
        Ok(workshop)
    }

    /// Gives the finished folder its name for good. An image of the same content that is there
    /// already stays, and this one goes.
    fn keep(mut self, digest: &str) -> Result<(), FileError> {
        let failed = |verb, e: io::Error| FileError::new(verb, &self.shown, e);
        fs::syncfs(&self.lock).map_err(|e| failed("write to disk", e.into()))?;
        let name = cname(digest).map_err(|e| failed("name", e))?;
        match fs::renameat_with(
            &self.images,
            &*self.name,
            &self.images,
            &*name,
            fs::RenameFlags::NOREPLACE,
        ) {
            Ok(()) => self.kept = true,
            Err(rustix::io::Errno::EXIST) => return Ok(()),
            Err(e) => return Err(failed("rename", e.into())),
        }
        fs::fsync(&self.images).map_err(|e| failed("write to disk", e.into()))
    }
}

impl Drop for Workshop {
    fn drop(&mut self) {
        if !self.kept {
            // What cannot be removed now is listed by `leftovers`.
            remove_tree(&self.images, &self.name, &self.shown).ok();
        }
    }
}

fn build(
    layout: &Layout,
    template: &Template,
    options: &BTreeMap<String, String>,
    recipe: &str,
    progress: &mut dyn FnMut(Progress),
) -> Result<Image, ImageError> {
    let workshop = Workshop::open(layout, recipe)?;
    let root = workshop.shown.join("root");
    let mut job = Job {
        template,
        options,
        root: root.clone(),
        lock: &workshop.lock,
        progress,
    };
    let built = match template.kind {
        Kind::Busybox => busybox::build(&mut job)?,
        Kind::Tar => archive::build(&mut job)?,
        Kind::Host => host::build(&mut job)?,
        Kind::Debian => debian::build(&mut job)?,
    };
    let seed = Seed::open(&root)?;
    for (path, data) in &template.files {
        // An embedded file has no mode: what begins like a program is one.
        let mode = if data.starts_with(b"#!") {
            0o755
        } else {
            0o644
        };
        seed.file(path, mode, data)?;
    }
    job.phase("hashing the image");
    let init = built
        .init
        .or(template.init)
        .unwrap_or_else(|| InitKind::detect(&seed));
    let stop_signal = template
        .stop_signal
        .clone()
        .unwrap_or_else(|| init.stop_signal().to_owned());
    // What is recorded beside the tree is part of what the digest names.
    let beside = serde_json::json!([init, stop_signal, built.command, built.mounts]).to_string();
    let content = digest::digest(seed.fd(), beside.as_bytes())
        .map_err(|e| FileError::new("read back", &root, e.0))?;
    let image = Image {
        digest: content.digest,
        template: template.name.clone(),
        options: options.clone(),
        kind: template.kind,
        init,
        command: built.command,
        stop_signal,
        size: content.size,
        files: content.files,
        created_ms: now_ms(),
        mounts: built.mounts,
        path: PathBuf::new(),
    };
    let record = workshop.shown.join("image.json");
    serde_json::to_vec_pretty(&image)
        .map_err(io::Error::from)
        .and_then(|text| {
            let owner = Owner::root(0o600);
            dirfd::write_whole(&workshop.lock, c"image.json", &text, owner, false)
        })
        .map_err(|e| FileError::new("write", &record, e))?;
    workshop.keep(&image.digest)?;
    load_image(layout, &image.digest)
}

fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
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
    if !folder.exists() {
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
    let users: Vec<String> = listed(&layout.guests())?
        .into_iter()
        .filter(|name| {
            name.parse().is_ok_and(|name| {
                super::root::image_digest(layout, &name).is_ok_and(|d| d == digest)
            })
        })
        .collect();
    if !users.is_empty() {
        return Err(ImageError::InUse {
            digest: digest.to_owned(),
            guests: users,
        });
    }
    // Renamed first: a build that finds half an image would take it for whole.
    let trash = format!("tmp-removed-{digest:.12}-{}", std::process::id());
    let images = open_dir(&layout.images())?;
    let path = layout.images().join(digest);
    fs::renameat(&images, digest, &images, trash.as_str())
        .map_err(|e| FileError::new("rename", &path, e))?;
    let name = cname(trash).map_err(|e| FileError::new("remove", &path, e))?;
    Ok(remove_tree(&images, &name, &path)?)
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
    for (folder, prefix) in [(layout.images(), "tmp-"), (layout.guests(), ".trash-")] {
        for name in listed(&folder)? {
            let path = folder.join(&name);
            if name.starts_with(prefix) && !is_held(&folder, &name) {
                found.push(Leftover { path });
            }
        }
    }
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
pub fn remove_leftover(leftover: &Leftover) -> Result<(), FileError> {
    let path = &leftover.path;
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(());
    };
    let name = cname(name.as_encoded_bytes()).map_err(|e| FileError::new("remove", path, e))?;
    remove_tree(open_dir(folder)?, &name, path)
}
