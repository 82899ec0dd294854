//! Builds images: finds out by its recipe whether an image is there already, else makes it in a
//! `tmp-*` folder, hashes it, and renames it into place, once however many commands want it. What
//! is in each kind of tree is in the file of that kind; reading and removing images is `image`.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{self, FlockOperation, Mode, OFlags};
use serde::Deserialize;

use super::dirfd::{self, FileError, ensure_private};
use super::image::{Image, ImageError, Progress, load_image};
use super::init_kind::InitKind;
use super::seed::Seed;
use super::template::{Kind, Template, Templates};
use super::verify::check_sound;
use super::workshop::Workshop;
use super::{archive, busybox, debian, digest, host};
use crate::kernel::{fault, file};
use crate::model::{Layout, MountOp, TemplateRef};

/// Raised when builds of the same options must give other trees than before.
const RECIPE_VERSION: &[u8] = b"bulkhead-recipe-2";

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
    let recipe = recipe(template, &options);
    let by_recipe = layout.images().join("by-recipe");
    let path = by_recipe.join(format!("{recipe}.json"));
    if let Some(image) = known(layout, &path) {
        return Ok(image);
    }
    let folder = ensure_private(&by_recipe)?;
    let _lock = lock_recipe(&folder, &by_recipe, &recipe, progress)?;
    if let Some(image) = known(layout, &path) {
        return Ok(image);
    }
    build_for(layout, (template, &options), (&recipe, &path), progress)
}

/// Builds the image of a template with these options again, whether there is one or not: what its
/// packages and files have become since is in it. From then on it is the recipe's.
///
/// # Errors
/// As [`ensure_image`]; the image there was is then still the recipe's.
pub(super) fn build_again(
    layout: &Layout,
    templates: &Templates,
    wanted: &TemplateRef,
    progress: &mut dyn FnMut(Progress),
) -> Result<Image, ImageError> {
    let (template, options) = templates.resolve(wanted)?;
    let recipe = recipe(template, &options);
    let by_recipe = layout.images().join("by-recipe");
    let path = by_recipe.join(format!("{recipe}.json"));
    let folder = ensure_private(&by_recipe)?;
    let _lock = lock_recipe(&folder, &by_recipe, &recipe, progress)?;
    build_for(layout, (template, &options), (&recipe, &path), progress)
}

/// The image that a template with these options gives now, if it is built already.
///
/// # Errors
/// Unknown template or option.
pub fn built_image(
    layout: &Layout,
    templates: &Templates,
    wanted: &TemplateRef,
) -> Result<Option<Image>, ImageError> {
    let (template, options) = templates.resolve(wanted)?;
    let name = format!("{}.json", recipe(template, &options));
    Ok(known(layout, &layout.images().join("by-recipe").join(name)))
}

/// Builds it, and writes down that this recipe leads to it. The recipe's lock is held.
fn build_for(
    layout: &Layout,
    (template, options): (&Template, &BTreeMap<String, String>),
    (recipe, path): (&str, &Path),
    progress: &mut dyn FnMut(Progress),
) -> Result<Image, ImageError> {
    let image = build(layout, template, options, recipe, progress)?;
    let text = serde_json::json!({ "digest": image.digest }).to_string();
    file::write_whole(path, text.as_bytes(), 0o600)
        .map_err(|e| FileError::new("write", path, e.errno))?;
    Ok(image)
}

/// Hash of what decides a build: template, options, and the host's part where there is one.
fn recipe(template: &Template, options: &BTreeMap<String, String>) -> String {
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
    digest::of_fields(fields)
}

/// A host file's identity without reading it: size, change time, inode.
pub(super) fn file_identity(path: &Path) -> String {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata(path).map_or_else(
        |_| "none".into(),
        |m| format!("{} {} {}.{}", m.ino(), m.size(), m.mtime(), m.mtime_nsec()),
    )
}

/// The image a recipe file leads to, if both are there and sound.
fn known(layout: &Layout, file: &Path) -> Option<Image> {
    #[derive(Deserialize)]
    struct Recipe {
        digest: String,
    }
    let recipe: Recipe = serde_json::from_slice(&std::fs::read(file).ok()?).ok()?;
    let image = load_image(layout, &recipe.digest).ok()?;
    check_sound(&image).is_ok().then_some(image)
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

fn build(
    layout: &Layout,
    template: &Template,
    options: &BTreeMap<String, String>,
    recipe: &str,
    progress: &mut dyn FnMut(Progress),
) -> Result<Image, ImageError> {
    let workshop = Workshop::open(&layout.images(), recipe)?;
    let root = workshop.root();
    let pause = || fault::point().map_err(|e| FileError::new("build", &root, e.errno));
    pause()?;
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
    pause()?;
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
        .unwrap_or_else(|| InitKind::detect(|path| seed.stat(path)));
    let stop_signal = template
        .stop_signal
        .clone()
        .unwrap_or_else(|| init.stop_signal().to_owned());
    let image = Image {
        digest: String::new(),
        template: template.name.clone(),
        options: options.clone(),
        kind: template.kind,
        init,
        command: built.command,
        stop_signal,
        size: 0,
        files: 0,
        created_ms: now_ms(),
        mounts: built.mounts,
        layers: Vec::new(),
        source: String::new(),
        config: None,
        path: PathBuf::new(),
    };
    finish(layout, workshop, &seed, image)
}

/// Hashes a finished tree, and makes it the image that `image` describes.
pub(super) fn finish(
    layout: &Layout,
    workshop: Workshop,
    seed: &Seed,
    image: Image,
) -> Result<Image, ImageError> {
    let root = workshop.root();
    let pause = || fault::point().map_err(|e| FileError::new("build", &root, e.errno));
    let content = digest::digest(seed.fd(), beside(&image).as_bytes())
        .map_err(|e| FileError::new("read back", &root, e.0))?;
    let image = Image {
        digest: content.digest,
        size: content.size,
        files: content.files,
        ..image
    };
    workshop.record("image.json", &json(&image))?;
    pause()?;
    workshop.keep(layout, &image.digest)?;
    pause()?;
    load_image(layout, &image.digest)
}

/// A record as text.
pub(super) fn json(record: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec_pretty(record).unwrap_or_default()
}

/// What is recorded beside the tree and is part of what the digest names.
pub(super) fn beside(image: &Image) -> String {
    let Image {
        init,
        stop_signal,
        command,
        mounts,
        ..
    } = image;
    match &image.config {
        None => serde_json::json!([init, stop_signal, command, mounts]),
        Some(config) => serde_json::json!([init, stop_signal, command, mounts, config]),
    }
    .to_string()
}

/// Milliseconds since 1970.
pub(super) fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}
