//! Takes an image of layers in: each layer that is not here yet is unpacked once, its digests
//! checked while it is read, and then the image's record is written. What is cut short leaves whole
//! layers, which the next attempt finds, and folders `tmp-*`, which `leftovers` lists.

use std::collections::BTreeMap;
use std::path::PathBuf;

use rustix::fs::{self, AtFlags};

use super::archive_entry::{ArchiveError, Limits};
use super::archive_stream::decompress;
use super::build::{json, now_ms};
use super::digest;
use super::dirfd::{FileError, open_dir};
use super::extract::extract_layer;
use super::image::{Image, ImageError, Progress, load_image};
use super::init_kind::InitKind;
use super::layer::{self, Layer};
use super::merged::Merged;
use super::oci_blobs::{Blobs, Found, Meter, Part, Tally, refused};
use super::oci_config::OciConfig;
use super::template::Kind;
use super::verify::{is_whole, is_whole_layer};
use super::workshop::Workshop;
use crate::kernel::fault;
use crate::model::Layout;

/// Takes in what was found in a source. An image that is here already is read, and
/// left as it is if it is sound.
///
/// # Errors
/// It is for another machine, its parts are not what their digests say, a layer is refused, the disk
/// is full.
pub(super) fn take(
    layout: &Layout,
    blobs: &dyn Blobs,
    found: &Found,
    source: &str,
    progress: &mut dyn FnMut(Progress),
) -> Result<Image, ImageError> {
    let failed = |reason: String| refused(blobs.shown(), reason);
    let config = OciConfig::parse(&found.config).map_err(failed)?;
    config.fits.clone().map_err(failed)?;
    if config.layers.len() != found.layers.len() {
        let (says, has) = (config.layers.len(), found.layers.len());
        let why = format!("its configuration speaks of {says} layers, its manifest of {has}");
        return Err(failed(why));
    }
    let _lock = layer::share(layout)?;
    if let Ok(image) = load_image(layout, &config.digest)
        && is_whole(layout, &image)
    {
        return Ok(image);
    }
    let total = found.layers.iter().map(|part| part.size).sum();
    let (mut size, mut files, mut done) = (0, 0, 0);
    for (digest, part) in config.layers.iter().zip(&found.layers) {
        let mut taking = Taking {
            layout,
            blobs,
            done,
            total,
            progress: &mut *progress,
        };
        let layer = match layer::sound(layout, digest).filter(|layer| is_whole_layer(layout, layer))
        {
            Some(layer) => layer,
            None => taking.layer(digest, part)?,
        };
        size += layer.size;
        files += layer.files;
        done += part.size;
    }
    record(layout, found, config, (size, files), source)
}

struct Taking<'a> {
    layout: &'a Layout,
    blobs: &'a dyn Blobs,
    done: u64,
    total: u64,
    progress: &'a mut dyn FnMut(Progress),
}

impl Taking<'_> {
    /// Unpacks one layer into its place.
    fn layer(&mut self, digest: &str, part: &Part) -> Result<Layer, ImageError> {
        let what = format!("layer {digest:.12} of {}", self.blobs.shown());
        let failed = |reason: String| refused(&what, reason);
        (self.progress)(Progress::Phase(format!("unpacking layer {digest:.12}")));
        let workshop = Workshop::open(&layer::folder(self.layout), digest)?;
        let root = open_dir(&workshop.root())?;
        let pause = || fault::point().map_err(|e| FileError::new("make", &workshop.shown, e.errno));
        pause()?;
        let stored = Meter {
            input: self.blobs.open(part)?,
            done: self.done,
            reported: self.done,
            total: self.total,
            progress: &mut *self.progress,
        };
        let mut stored = Tally::new(stored, Some(part.size));
        let plain = decompress(&mut stored, part.size).map_err(|e| failed(e.to_string()))?;
        let mut plain = Tally::new(plain, None);
        let unpacked = extract_layer(&root, &mut plain, Limits::default());
        unpacked.map_err(|error| match error {
            ArchiveError::Write(error) => error.into(),
            other => failed(other.to_string()),
        })?;
        plain.finish(Some(digest)).map_err(failed)?;
        stored.finish(part.digest.as_deref()).map_err(failed)?;
        pause()?;
        let content = digest::digest(&root, b"layer")
            .map_err(|e| FileError::new("read back", &workshop.root(), e.0))?;
        let layer = Layer {
            digest: digest.to_owned(),
            content: content.digest,
            size: content.size,
            files: content.files,
            created_ms: now_ms(),
        };
        workshop.record("layer.json", &json(&layer))?;
        pause()?;
        workshop.keep(self.layout, digest)?;
        Ok(layer)
    }
}

/// Writes the image's folder: its record and its configuration.
fn record(
    layout: &Layout,
    found: &Found,
    config: OciConfig,
    (size, files): (u64, u64),
    source: &str,
) -> Result<Image, ImageError> {
    let workshop = Workshop::open(&layout.images(), &config.digest)?;
    let mut image = Image {
        digest: config.digest,
        template: String::new(),
        options: BTreeMap::new(),
        kind: Kind::Tar,
        init: InitKind::Other,
        command: Vec::new(),
        stop_signal: String::new(),
        size,
        files,
        created_ms: now_ms(),
        mounts: Vec::new(),
        layers: config.layers.into_iter().rev().collect(),
        source: source.to_owned(),
        config: Some(config.config),
        path: PathBuf::new(),
    };
    let lowers = image.layers.iter();
    let lowers = lowers.map(|digest| layer::folder(layout).join(digest).join("root"));
    // An empty folder over the layers shows them as a guest will see them.
    let tree = Merged::over(
        open_dir(&workshop.root())?,
        lowers.collect(),
        &workshop.shown,
    );
    decide_program(&mut image, &tree);
    fs::unlinkat(&workshop.lock, c"root", AtFlags::REMOVEDIR)
        .map_err(|e| FileError::new("remove", &workshop.root(), e))?;
    workshop.record("config.json", &found.config)?;
    workshop.record("image.json", &json(&image))?;
    let pause = || fault::point().map_err(|e| FileError::new("make", &workshop.shown, e.errno));
    pause()?;
    workshop.keep(layout, &image.digest)?;
    load_image(layout, &image.digest)
}

/// What a guest of the image runs: the image's own program, or the init in its files where it names
/// none of its own.
fn decide_program(image: &mut Image, tree: &Merged) {
    let Some(config) = &image.config else { return };
    let init = InitKind::detect(|path| tree.stat(path));
    let has_init = tree.stat("sbin/init").is_some();
    if has_init && config.is_idle() {
        image.init = init;
        image.stop_signal = init.stop_signal().to_owned();
        return;
    }
    image.command = config.argv();
    image.stop_signal = signal(&config.stop_signal);
}

/// A signal as a configuration names it: by name, or by number.
fn signal(text: &str) -> String {
    let numbers = [
        ("1", "SIGHUP"),
        ("2", "SIGINT"),
        ("3", "SIGQUIT"),
        ("9", "SIGKILL"),
        ("10", "SIGUSR1"),
        ("12", "SIGUSR2"),
        ("15", "SIGTERM"),
        ("28", "SIGWINCH"),
    ];
    let name = numbers.iter().find(|(number, _)| *number == text);
    let name = name.map_or(text, |(_, name)| *name);
    match crate::define::is_signal(name) {
        true => name.to_owned(),
        false => "SIGTERM".to_owned(),
    }
}
