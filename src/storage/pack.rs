//! Where an archive of a guest meets this host: its own layer is packed from where it lies, the
//! image that comes with it goes into the store if it is what its digest says, and the layer that
//! comes goes into a new guest's root. The format and the stream are `pack_*`.

use std::os::fd::AsFd as _;
use std::path::PathBuf;

use rustix::fs;

use super::build::{beside, json};
use super::chain::{self, Chain};
use super::digest;
use super::dirfd::{FileError, Owner, child_dir, ensure_private, make_dir, open_dir};
use super::driver::Driver;
use super::image::{Image, Progress, load_image, why_unproved};
use super::pack_format::{
    FORMAT, Manifest, ONE_IMAGE, OWN, PackError, PackedGuest, WITHOUT_SNAPSHOTS, image_parts,
    parts, sealed_part,
};
use super::pack_read::Unpacker;
use super::pack_saved::SavedTrees;
use super::pack_write::Packer;
use super::place;
use super::root;
use super::verify::check_sound;
use super::workshop::Workshop;
use crate::kernel::{fault, random};
use crate::model::{GuestName, Layout};

/// The manifest of an archive.
///
/// # Errors
/// The guest's root cannot be read.
pub fn manifest(
    (layout, name): (&Layout, &GuestName),
    guest: PackedGuest,
    (image, with_image, saved): (&Image, bool, &SavedTrees),
    made_ms: u64,
) -> Result<Manifest, PackError> {
    let others = (sealed(layout, name)?.len(), saved.len());
    let further = match with_image {
        true => further(layout, &guest, image),
        false => Vec::new(),
    };
    let parts = parts((image, with_image), &further, others);
    Ok(describe(guest, (image, further), parts, made_ms))
}

/// Images that only snapshots of a guest lie over, as far as another host can prove them.
fn further(layout: &Layout, guest: &PackedGuest, image: &Image) -> Vec<Image> {
    let mut found: Vec<Image> = Vec::new();
    for one in &guest.snapshots {
        let is_here = |all: &[Image]| all.iter().any(|image| image.digest == one.image);
        if one.image == image.digest || is_here(&found) {
            continue;
        }
        let there = load_image(layout, &one.image).ok();
        found.extend(there.filter(|other| {
            why_unproved(other).is_none()
                && check_sound(other).is_ok()
                && other.lowers().iter().all(|lower| lower.is_dir())
        }));
    }
    found
}

/// The same with its parts at hand.
pub(super) fn describe(
    guest: PackedGuest,
    (image, further): (&Image, Vec<Image>),
    parts: Vec<String>,
    made_ms: u64,
) -> Manifest {
    Manifest {
        format: match (guest.snapshots.is_empty(), further.is_empty()) {
            (true, _) => WITHOUT_SNAPSHOTS,
            (false, true) => ONE_IMAGE,
            (false, false) => FORMAT,
        },
        made_by: concat!("bulkhead ", env!("CARGO_PKG_VERSION")).into(),
        made_ms,
        guest,
        image: image.clone(),
        further,
        parts,
    }
}

/// Trees of the guest's layers that were set aside, the lowest first.
fn sealed(layout: &Layout, name: &GuestName) -> Result<Vec<PathBuf>, FileError> {
    let path = root::folder(layout, name);
    let chain = Chain::read(open_dir(&path)?.as_fd());
    let chain = chain.map_err(|e| FileError::new("read", &path, e))?;
    let mut trees: Vec<PathBuf> = chain.trees().collect();
    trees.reverse();
    Ok(trees)
}

/// Packs the layers of a guest that were set aside, which nobody changes.
///
/// # Errors
/// They cannot be read, the stream cannot be written.
pub fn pack_sealed(
    packer: &mut Packer<'_>,
    layout: &Layout,
    name: &GuestName,
) -> Result<(), PackError> {
    for (number, tree) in sealed(layout, name)?.iter().enumerate() {
        packer.sealed(number, tree)?;
    }
    Ok(())
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
    /// Further ones, which only snapshots lie over.
    pub further: Vec<ReceivedImage>,
}

impl ReceivedImage {
    /// Whether it was not there before.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.workshop.is_some()
    }

    /// The one of this digest: it, or a further one.
    #[must_use]
    pub fn of(&self, digest: &str) -> Option<&Image> {
        let mut all = std::iter::once(self).chain(&self.further);
        all.find(|one| one.image.digest == digest)
            .map(|one| &one.image)
    }

    /// Gives it its name in the store, then the further ones that are `used`: the guest lies over it, and
    /// can be without the others.
    ///
    /// # Errors
    /// It cannot be renamed or written to disk.
    pub fn keep(self, layout: &Layout, used: &dyn Fn(&str) -> bool) -> Result<(), PackError> {
        if let Some(workshop) = self.workshop {
            workshop.keep(layout, &self.image.digest)?;
        }
        for one in self.further {
            if used(&one.image.digest) {
                one.keep(layout, used)?;
            }
        }
        Ok(())
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
    if !manifest.has_image() {
        return refuse(format!(
            "image {digest:.12} is not on this host, or damaged, and not in the archive, which was made with \
             --no-image: build it here, or export the guest with its image"
        ));
    }
    why_unproved(image).map_or(Ok(()), refuse)
}

/// The image of an archive, if it is in the store and sound.
fn known(layout: &Layout, image: &Image) -> Option<Image> {
    let found = load_image(layout, &image.digest).ok()?;
    check_sound(&found).is_ok().then_some(found)
}

/// Reads the images that come with an archive; those that are there already are passed over.
///
/// # Errors
/// As [`check_image`]; it is damaged, is not what its digest says, or the disk is full.
pub fn receive_image(
    layout: &Layout,
    unpacker: &mut Unpacker,
    progress: &mut dyn FnMut(Progress),
) -> Result<ReceivedImage, PackError> {
    check_image(layout, &unpacker.manifest)?;
    let manifest = unpacker.manifest.clone();
    let parts = match manifest.has_image() {
        true => image_parts(&manifest.image),
        false => Vec::new(),
    };
    let mut received = receive_one(layout, unpacker, manifest.image, &parts, progress)?;
    for image in manifest.further {
        let parts = image_parts(&image);
        let one = receive_one(layout, unpacker, image, &parts, progress)?;
        received.further.push(one);
    }
    Ok(received)
}

fn receive_one(
    layout: &Layout,
    unpacker: &mut Unpacker,
    wanted: Image,
    parts: &[String],
    progress: &mut dyn FnMut(Progress),
) -> Result<ReceivedImage, PackError> {
    if let Some(image) = known(layout, &wanted) {
        for part in parts {
            progress(Progress::Phase(format!(
                "passing over {part:.20}, which is here"
            )));
            unpacker.part(part, None)?;
        }
        return Ok(ReceivedImage {
            workshop: None,
            image,
            further: Vec::new(),
        });
    }
    let workshop = Workshop::open(&layout.images(), &wanted.digest)?;
    let root = workshop.root();
    let top = child_dir(&workshop.lock, c"root").map_err(|e| FileError::new("open", &root, e))?;
    pause(&root)?;
    for part in parts {
        progress(Progress::Phase(format!("unpacking {part:.20}")));
        unpacker.part(part, Some((top.as_fd(), &root)))?;
    }
    pause(&root)?;
    progress(Progress::Phase("checking the image".into()));
    let content = digest::digest(&top, beside(&wanted).as_bytes())
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
    workshop.record("image.json", &json(&image))?;
    Ok(ReceivedImage {
        workshop: Some(workshop),
        image,
        further: Vec::new(),
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
    let left_out = unpacker.part(OWN, Some((upper.as_fd(), &shown)))?;
    fs::syncfs(&upper).map_err(|e| FileError::new("write to disk", &shown, e))?;
    pause(&shown)?;
    Ok(left_out)
}

/// Reads the layers of a guest that were set aside into its new root. Each is listed before it is made,
/// so that it is never nobody's. Gives the number of attributes left out.
///
/// # Errors
/// As [`receive_own`]; the guest's pool holds no layers.
pub fn receive_sealed(
    layout: &Layout,
    name: &GuestName,
    unpacker: &mut Unpacker,
) -> Result<u64, PackError> {
    let path = root::folder(layout, name);
    let folder = open_dir(&path)?;
    let object = place::object(layout, name)?;
    let layers = chain::layers_of(layout, &object.path, &path);
    let failed = |e: std::io::Error| FileError::new("set aside", &layers, e);
    let mut left_out = 0;
    let mut chain = Chain::default();
    for number in 0..unpacker.manifest.sealed() {
        if object.driver != Driver::Overlay {
            let reason = "the guest has layers that were set aside by snapshots, which only a pool of \
                          the driver overlay can hold: name one with --pool";
            return Err(PackError::NoImage {
                reason: reason.into(),
            });
        }
        let id = random::hex(8).map_err(|e| failed(e.errno.into()))?;
        chain.0.insert(0, layers.join(id));
        chain.write(&folder).map_err(failed)?;
        pause(&layers)?;
        let layer = ensure_private(&chain.0[0])?;
        let tree = make_dir(&layer, c"root", Owner::root(0o755)).map_err(|e| failed(e.into()))?;
        let shown = chain.0[0].join("root");
        left_out += unpacker.part(&sealed_part(number), Some((tree.as_fd(), &shown)))?;
        pause(&layers)?;
    }
    Ok(left_out)
}

pub(super) fn pause(shown: &std::path::Path) -> Result<(), FileError> {
    fault::point().map_err(|e| FileError::new("go on with", shown, e.errno))
}

#[cfg(test)]
mod tests {
    use super::super::dirfd::names;
    use super::super::seed::tests::TempDir;
    use super::*;

    fn received(layout: &Layout, digest: &str) -> ReceivedImage {
        let workshop = Workshop::open(&layout.images(), digest).unwrap();
        ReceivedImage {
            image: Image::sample(digest.repeat(32), workshop.shown.clone()),
            workshop: Some(workshop),
            further: Vec::new(),
        }
    }

    #[test]
    fn the_guests_own_image_is_kept_first_and_others_if_they_are_used() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let temp = TempDir::new("received");
        let layout = Layout::new(temp.path());
        std::fs::create_dir_all(layout.images()).unwrap();
        let there = |digest: &str| layout.images().join(digest.repeat(32)).is_dir();
        let mut image = received(&layout, "a1");
        image.further = ["b2", "c3"].map(|digest| received(&layout, digest)).into();
        image
            .keep(&layout, &|digest| digest.starts_with("c3"))
            .unwrap();
        assert!(there("a1") && there("c3"));
        // Nothing is left of the other.
        let all = names(open_dir(&layout.images()).unwrap()).unwrap();
        assert_eq!(all.len(), 2, "{all:?}");
        let mut image = received(&layout, "d4");
        image.further = vec![received(&layout, "e5")];
        std::fs::remove_dir_all(&image.further[0].image.path).unwrap();
        image.keep(&layout, &|_| true).unwrap_err();
        assert!(there("d4") && !there("e5"));
    }
}
