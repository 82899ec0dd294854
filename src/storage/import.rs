//! Taking in an image from a file or folder of the host: an OCI layout, an archive of one, what
//! `docker save` and `podman save` write, or the archive of a root. Which it is, is seen by what is
//! in it. From a registry: `pull`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::archive;
use super::build::{finish, now_ms};
use super::dirfd::open_dir;
use super::disk_format::is_disk;
use super::image::{Image, ImageError, Progress};
use super::init_kind::InitKind;
use super::oci_archive::{Archive, Held};
use super::oci_blobs::{Blobs, Found, Part, find, refused};
use super::oci_layout::Folder;
use super::oci_manifest::{Descriptor, Document, saved};
use super::oci_take::take;
use super::seed::Seed;
use super::tag::tag_image;
use super::template::Kind;
use super::workshop::Workshop;
use crate::model::{ImageName, Layout};

/// Names by which layouts call their images.
const NAME_KEYS: [&str; 2] = [
    "io.containerd.image.name",
    "org.opencontainers.image.ref.name",
];

/// What to take in, and how it is called then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Import {
    /// A folder or an archive.
    pub source: PathBuf,
    /// Which of several images in it.
    pub reference: Option<String>,
    /// Its name here; without one, those the source has for it.
    pub name: Option<ImageName>,
}

/// Takes an image in, and gives it its names.
///
/// # Errors
/// The source is no image, is damaged or refused; the disk is full. Nothing but whole layers is left
/// of what failed.
pub fn import_image(
    layout: &Layout,
    wanted: &Import,
    progress: &mut dyn FnMut(Progress),
) -> Result<(Image, Vec<ImageName>), ImageError> {
    let path = &wanted.source;
    let shown = path.display().to_string();
    let (image, mut names) = if path.is_dir() {
        let folder = Folder::open(path)?;
        folder.own("oci-layout")?;
        let index = folder.own("index.json")?;
        of_layout(layout, &folder, &index, wanted, progress)?
    } else {
        let mut file =
            archive::open_regular(path).map_err(|why| refused(&shown, format!("it {why}")))?;
        if is_disk(&mut file) {
            let why = "it is the disk of a machine, which becomes a guest: `bulkhead import`";
            return Err(refused(&shown, why));
        }
        let workshop = Workshop::open(&layout.images(), "import")?;
        let again = file
            .try_clone()
            .map_err(|e| refused(&shown, e.to_string()))?;
        match Archive::look(path, again, &workshop)? {
            Held::Guest => {
                let why = "it is a guest, as `bulkhead export` writes them: `bulkhead import`";
                return Err(refused(&shown, why));
            }
            Held::Root => (root(layout, path, workshop, progress)?, Vec::new()),
            Held::Parts(archive) if archive.has("index.json") => {
                let index = archive.own("index.json")?;
                of_layout(layout, &archive, &index, wanted, progress)?
            }
            Held::Parts(archive) => {
                let found = of_docker(&archive, wanted)?;
                let image = take(layout, &archive, &found, &shown, progress)?;
                (image, found.names)
            }
        }
    };
    if let Some(name) = &wanted.name {
        names = vec![name.clone()];
    }
    for name in &names {
        tag_image(layout, name, &image.digest, Some(&shown))?;
    }
    Ok((image, names))
}

/// The archive of a root becomes an image with a tree of its own.
fn root(
    layout: &Layout,
    path: &Path,
    workshop: Workshop,
    progress: &mut dyn FnMut(Progress),
) -> Result<Image, ImageError> {
    let shown = path.display().to_string();
    let file = archive::open_regular(path).map_err(|why| refused(&shown, format!("it {why}")))?;
    if archive::unpack(path, file, &open_dir(&workshop.root())?, progress)? == 0 {
        return Err(refused(shown, "it holds no files"));
    }
    progress(Progress::Phase("hashing the image".into()));
    let seed = Seed::open(&workshop.root())?;
    let image = of_tree(&seed, shown);
    finish(layout, workshop, &seed, image)
}

/// The record of an image that is the tree `seed`, before it is hashed.
pub(super) fn of_tree(seed: &Seed, source: String) -> Image {
    let init = InitKind::detect(|path| seed.stat(path));
    Image {
        digest: String::new(),
        template: String::new(),
        options: BTreeMap::new(),
        kind: Kind::Tar,
        init,
        command: Vec::new(),
        stop_signal: init.stop_signal().to_owned(),
        size: 0,
        files: 0,
        created_ms: now_ms(),
        mounts: Vec::new(),
        layers: Vec::new(),
        source,
        config: None,
        path: PathBuf::new(),
    }
}

fn of_layout(
    layout: &Layout,
    blobs: &dyn Blobs,
    index: &[u8],
    wanted: &Import,
    progress: &mut dyn FnMut(Progress),
) -> Result<(Image, Vec<ImageName>), ImageError> {
    let failed = |reason: String| refused(blobs.shown(), reason);
    let Document::Index(entries) = Document::parse(index).map_err(failed)? else {
        return Err(failed("its index.json is no index".into()));
    };
    let entry = one_of(&entries, names, wanted).map_err(failed)?;
    let found = find(blobs, &Part::of(entry).map_err(failed)?)?;
    let image = take(layout, blobs, &found, blobs.shown(), progress)?;
    // A bare tag, which the specification allows there too, is no name.
    let own = names(entry);
    let own = own.iter().filter(|name| name.contains([':', '/']));
    let own = own.filter_map(|name| name.parse().ok()).take(1).collect();
    Ok((image, own))
}

fn names(entry: &Descriptor) -> Vec<String> {
    let all = entry.annotations.as_ref();
    NAME_KEYS
        .iter()
        .filter_map(|key| all?.get(*key).cloned())
        .collect()
}

fn of_docker(archive: &Archive, wanted: &Import) -> Result<Found, ImageError> {
    let failed = |reason: String| refused(archive.shown(), reason);
    let images = saved(&archive.own("manifest.json")?).map_err(failed)?;
    let tags = |image: &super::oci_manifest::Saved| image.repo_tags.clone().unwrap_or_default();
    let image = one_of(&images, tags, wanted).map_err(failed)?;
    let layers = image.layers.iter().flatten().map(|name| {
        let size = archive
            .size(name)
            .ok_or_else(|| failed(format!("{name:.200} is not in it")))?;
        Ok(Part {
            key: name.clone(),
            digest: None,
            size,
        })
    });
    Ok(Found {
        config: archive.own(&image.config)?,
        layers: layers.collect::<Result<_, ImageError>>()?,
        names: tags(image).iter().filter_map(|n| n.parse().ok()).collect(),
    })
}

/// The one that is wanted by name, or the only one there is.
fn one_of<'a, T>(
    all: &'a [T],
    names: impl Fn(&T) -> Vec<String>,
    wanted: &Import,
) -> Result<&'a T, String> {
    let list = || {
        let names: Vec<String> = all.iter().flat_map(&names).take(20).collect();
        names.join(", ").chars().take(500).collect::<String>()
    };
    match (&wanted.reference, all) {
        (Some(name), _) => all
            .iter()
            .find(|one| names(one).contains(name))
            .ok_or_else(|| format!("there is no {name:?} in it, only {}", list())),
        (None, [one]) => Ok(one),
        (None, []) => Err("it holds no image".into()),
        (None, _) => Err(format!(
            "it holds several images: say which with --ref: {}",
            list()
        )),
    }
}
