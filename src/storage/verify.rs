//! Whether an image still is what its digest names. Looking reads all of it; what was found is
//! marked beside the tree (`damaged`), and no guest starts from what is marked or incomplete.

use std::path::{Path, PathBuf};

use super::build::beside;
use super::digest;
use super::dirfd::{FileError, open_dir};
use super::image::{Image, ImageError};
use super::layer::{Layer, load_layer};
use super::oci_config;
use crate::kernel::file;
use crate::model::Layout;

/// Name of the mark.
pub(super) const MARK: &str = "damaged";
/// Most bytes of a mark.
const MARK_MOST: u64 = 4096;

/// Compares an image with its digest, and marks what is damaged. Gives what is wrong with it;
/// nothing if it is sound, and then a mark of before is taken away.
///
/// # Errors
/// A file cannot be read, or the mark not written.
pub fn verify_image(layout: &Layout, image: &Image) -> Result<Vec<String>, FileError> {
    let mut found = Vec::new();
    if image.layers.is_empty() {
        let same = content(&image.root(), beside(image).as_bytes())? == image.digest;
        let wrong = (!same).then(|| "its files are not those it was made of".to_owned());
        mark(&image.path, wrong.as_deref())?;
        found.extend(wrong);
        return Ok(found);
    }
    let wrong = oci_config::unlike(image).err();
    mark(&image.path, wrong.as_deref())?;
    found.extend(wrong);
    for digest in &image.layers {
        let path = layer_path(image, digest);
        let wrong = match load_layer(layout, digest) {
            _ if !path.join("root").is_dir() => {
                found.push(format!("its layer {digest:.12} is gone"));
                continue;
            }
            Err(error) => Some(error.to_string()),
            Ok(None) => Some(format!("layer {digest:.12} has no record")),
            Ok(Some(layer)) => {
                let same = content(&path.join("root"), b"layer")? == layer.content;
                (!same).then(|| {
                    format!("files of its layer {digest:.12} are not those it was made of")
                })
            }
        };
        mark(&path, wrong.as_deref())?;
        found.extend(wrong);
    }
    Ok(found)
}

/// Whether what is there of an image that is taken in again can stay: all of it is read, and what is
/// damaged is marked by that.
#[must_use]
pub fn is_whole(layout: &Layout, image: &Image) -> bool {
    check_sound(image).is_ok() && verify_image(layout, image).is_ok_and(|found| found.is_empty())
}

/// The same of a layer that an image shares with others.
pub(super) fn is_whole_layer(layout: &Layout, layer: &Layer) -> bool {
    let root = super::layer::folder(layout)
        .join(&layer.digest)
        .join("root");
    content(&root, b"layer").is_ok_and(|content| content == layer.content)
}

/// Whether the files in a folder of an image or a layer are those that its record names.
pub(super) fn are_of_record(folder: &Path, name: &str, record: &[u8]) -> bool {
    let root = folder.join("root");
    if let Ok(layer) = serde_json::from_slice::<Layer>(record) {
        return content(&root, b"layer").is_ok_and(|found| found == layer.content);
    }
    match serde_json::from_slice::<Image>(record) {
        // Of one made of layers the record is all there is.
        Ok(image) if image.layers.is_empty() => {
            content(&root, beside(&image).as_bytes()).is_ok_and(|found| found == name)
        }
        other => other.is_ok(),
    }
}

/// Refuses an image that is marked as damaged or lacks a layer: a few looks, nothing is read.
///
/// # Errors
/// [`ImageError::Unsound`] with the reason.
pub fn check_sound(image: &Image) -> Result<(), ImageError> {
    let unsound = |reason: String| ImageError::Unsound {
        digest: image.short().to_owned(),
        reason,
    };
    let layers = image.layers.iter().map(|digest| layer_path(image, digest));
    for path in std::iter::once(image.path.clone()).chain(layers) {
        let mark = path.join(MARK);
        if let Some(text) = file::read_small(&mark, MARK_MOST).ok().flatten() {
            return Err(unsound(String::from_utf8_lossy(&text).trim().to_owned()));
        }
    }
    match image.lowers().iter().find(|lower| !lower.is_dir()) {
        Some(lower) => Err(unsound(format!("{} is not there", lower.display()))),
        None => Ok(()),
    }
}

/// Whether a layer or image in this folder is marked as damaged.
pub(super) fn is_marked(folder: &Path) -> bool {
    folder.join(MARK).exists()
}

fn layer_path(image: &Image, digest: &str) -> PathBuf {
    let images = image.path.parent().unwrap_or(&image.path);
    images.join("layers").join(digest)
}

fn content(root: &Path, beside: &[u8]) -> Result<String, FileError> {
    digest::digest(open_dir(root)?, beside)
        .map(|content| content.digest)
        .map_err(|e| FileError::new("read", root, e.0))
}

fn mark(folder: &Path, wrong: Option<&str>) -> Result<(), FileError> {
    let path = folder.join(MARK);
    match wrong {
        Some(text) => {
            let line = format!("{text}\n");
            file::write_whole(&path, line.as_bytes(), 0o600)
                .map_err(|e| FileError::new("write", &path, e.errno))
        }
        None => match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(FileError::new("remove", &path, e))
            }
            _ => Ok(()),
        },
    }
}
