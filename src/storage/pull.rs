//! Taking an image in from a registry, by its name there. From files of the host: `import`.

use super::image::{Image, ImageError, Progress};
use super::oci_blobs::find_from;
use super::oci_http::Trust;
use super::oci_registry::Registry;
use super::oci_take::take;
use super::tag::tag_image;
use crate::model::{ImageName, Layout};

/// What a pull would fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// Layers.
    pub layers: usize,
    /// Bytes of them as they are stored there.
    pub bytes: u64,
}

/// Takes an image in from its registry, and gives it this name, or its own in full. Layers that are
/// here already are not fetched, so that a pull that was cut short goes on with the next one.
///
/// # Errors
/// The registry cannot be reached, does not have it or does not give it; it is not for this machine,
/// its parts are not what their digests say; the disk is full.
pub fn pull_image(
    layout: &Layout,
    wanted: &ImageName,
    name: Option<&ImageName>,
    trust: &Trust,
    progress: &mut dyn FnMut(Progress),
) -> Result<(Image, Vec<ImageName>), ImageError> {
    let registry = Registry::of(wanted, trust)?;
    progress(Progress::Phase(format!("asking for {}", wanted.full())));
    let found = find_from(&registry, &registry.start()?)?;
    let full = wanted.full();
    let source = full.to_string();
    let image = take(layout, &registry, &found, &source, progress)?;
    let name = name.cloned().unwrap_or(full);
    tag_image(layout, &name, &image.digest, Some(&source))?;
    Ok((image, vec![name]))
}

/// What a pull would fetch; nothing is taken in.
///
/// # Errors
/// As [`pull_image`] up to its manifest and configuration.
pub fn look_at_image(wanted: &ImageName, trust: &Trust) -> Result<Fetch, ImageError> {
    let registry = Registry::of(wanted, trust)?;
    let found = find_from(&registry, &registry.start()?)?;
    Ok(Fetch {
        layers: found.layers.len(),
        bytes: found.layers.iter().map(|part| part.size).sum(),
    })
}
