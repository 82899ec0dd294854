//! Where an archive of a guest meets this host: its own layer is packed from where it lies, the
//! image that comes with it goes into the store if it is what its digest says, and the layer that
//! comes goes into a new guest's root. The format and the stream are `pack_*`.

use rustix::fs;

use super::build::{Workshop, beside};
use super::digest;
use super::dirfd::{FileError, child_dir};
use super::image::{Image, Progress, load_image};
use super::pack_format::{FORMAT, Manifest, OWN, PackError, PackedGuest, parts};
use super::pack_read::Unpacker;
use super::pack_write::Packer;
use super::place;
use crate::kernel::fault;
use crate::model::{GuestName, Layout};

/// The manifest of an archive.
#[must_use]
pub fn manifest(guest: PackedGuest, image: &Image, with_image: bool, made_ms: u64) -> Manifest {
    Manifest {
        format: FORMAT,
        made_by: concat!("bulkhead ", env!("CARGO_PKG_VERSION")).into(),
        made_ms,
        guest,
        image: image.clone(),
        parts: parts(image, with_image),
    }
}

/// Packs a guest's own layer.
///
/// # Errors
/// It cannot be read, the stream cannot be written.
pub fn pack_own(
    packer: &mut Packer<'_>,
    layout: &Layout,
    name: &GuestName,
) -> Result<(), PackError> {
    let opened = place::open(layout, name)?;
    packer.own(&opened.shown, &opened.folder)
}

/// An image that came with an archive, or was there already. It has its name in the store only when
/// it is kept.
#[derive(Debug)]
pub struct ReceivedImage {
    workshop: Option<Workshop>,
    /// Its record.
    pub image: Image,
}

impl ReceivedImage {
    /// Whether it was not there before.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.workshop.is_some()
    }

    /// Gives it its name in the store.
    ///
    /// # Errors
    /// It cannot be renamed or written to disk.
    pub fn keep(self) -> Result<(), PackError> {
        match self.workshop {
            Some(workshop) => Ok(workshop.keep(&self.image.digest)?),
            None => Ok(()),
        }
    }
}

/// Whether the image an archive needs is there or comes with it, without reading on.
///
/// # Errors
/// It is not, or may not be taken; the message says what to do.
pub fn check_image(layout: &Layout, manifest: &Manifest) -> Result<(), PackError> {
    let image = &manifest.image;
    if known(layout, image).is_some() {
        return Ok(());
    }
    let digest = &image.digest;
    let refuse = |reason: String| Err(PackError::NoImage { reason });
    if manifest.parts.len() < 2 {
        return refuse(format!(
            "image {digest:.12} is not on this host and not in the archive, which was made with \
             --no-image: build it here, or export the guest with its image"
        ));
    }
    if !image.mounts.is_empty() {
        let paths: Vec<String> = image.mounts.iter().map(shown).collect();
        return refuse(format!(
            "image {digest:.12} shows folders of the host it was made on ({}): it cannot move to \
             another host",
            paths.join(", ")
        ));
    }
    if !image.layers.is_empty() {
        return refuse(format!(
            "image {digest:.12} is made of layers that are not on this host: pull or import it \
             here first, and repeat"
        ));
    }
    Ok(())
}

fn shown(mount: &crate::model::MountOp) -> String {
    serde_json::to_value(mount)
        .ok()
        .and_then(|value| Some(value.get("source")?.as_str()?.to_owned()))
        .unwrap_or_else(|| "a mount".into())
}

/// The image of an archive, if it is in the store and whole.
fn known(layout: &Layout, image: &Image) -> Option<Image> {
    let found = load_image(layout, &image.digest).ok()?;
    found
        .lowers()
        .iter()
        .all(|lower| lower.exists())
        .then_some(found)
}

/// Reads the image that comes with an archive; one that is there already is passed over.
///
/// # Errors
/// As [`check_image`]; it is damaged, is not what its digest says, or the disk is full.
pub fn receive_image(
    layout: &Layout,
    unpacker: &mut Unpacker,
    progress: &mut dyn FnMut(Progress),
) -> Result<ReceivedImage, PackError> {
    check_image(layout, &unpacker.manifest)?;
    let wanted = unpacker.manifest.image.clone();
    let trees: Vec<String> = unpacker.manifest.parts.clone();
    let trees = trees.iter().filter(|part| *part != OWN);
    if let Some(image) = known(layout, &wanted) {
        for part in trees {
            progress(Progress::Phase(format!(
                "passing over {part:.20}, which is here"
            )));
            unpacker.part(part, None)?;
        }
        return Ok(ReceivedImage {
            workshop: None,
            image,
        });
    }
    let workshop = Workshop::open(layout, &wanted.digest)?;
    let root = workshop.shown.join("root");
    let top = child_dir(&workshop.lock, c"root").map_err(|e| FileError::new("open", &root, e))?;
    pause(&root)?;
    for part in trees {
        progress(Progress::Phase(format!("unpacking {part:.20}")));
        unpacker.part(part, Some((std::os::fd::AsFd::as_fd(&top), &root)))?;
    }
    pause(&root)?;
    progress(Progress::Phase("checking the image".into()));
    let beside = beside(
        wanted.init,
        &wanted.stop_signal,
        &wanted.command,
        &wanted.mounts,
    );
    let content = digest::digest(&top, beside.as_bytes())
        .map_err(|e| FileError::new("read back", &root, e.0))?;
    if content.digest != wanted.digest {
        return Err(PackError::Checksum {
            part: "the image".into(),
            expected: wanted.digest,
            found: content.digest,
        });
    }
    let image = Image {
        size: content.size,
        files: content.files,
        path: workshop.shown.clone(),
        ..wanted
    };
    workshop.record(&image)?;
    Ok(ReceivedImage {
        workshop: Some(workshop),
        image,
    })
}

/// Reads a guest's own layer into its new, empty root. Gives the number of attributes left out.
///
/// # Errors
/// It is damaged or asks for what it may not have, the disk or the guest's size is used up.
pub fn receive_own(
    layout: &Layout,
    name: &GuestName,
    unpacker: &mut Unpacker,
    progress: &mut dyn FnMut(Progress),
) -> Result<u64, PackError> {
    progress(Progress::Phase("unpacking the guest's own files".into()));
    let opened = place::open(layout, name)?;
    let shown = opened.shown.join("upper");
    let upper =
        child_dir(&opened.folder, c"upper").map_err(|e| FileError::new("open", &shown, e))?;
    pause(&shown)?;
    let left_out = unpacker.part(OWN, Some((std::os::fd::AsFd::as_fd(&upper), &shown)))?;
    fs::syncfs(&upper).map_err(|e| FileError::new("write to disk", &shown, e))?;
    pause(&shown)?;
    Ok(left_out)
}

fn pause(shown: &std::path::Path) -> Result<(), FileError> {
    fault::point().map_err(|e| FileError::new("go on with", shown, e.errno))
}
