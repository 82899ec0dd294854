//! Names of images: `images/tags/NAME.json` leads from a name to a digest. Several names may lead to
//! one image; a name leads to one. Finding an image by what a person calls it is here too.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::build::json;
use super::dirfd::{self, FileError, ensure_private};
use super::image::{Image, ImageError, images, is_digest, listed, load_image};
use crate::kernel::file;
use crate::model::{ImageName, Layout, nearest};

/// Most bytes of a tag's file.
const FILE_MOST: u64 = 32 << 10;

/// A name and the image it leads to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tag {
    /// The name.
    pub name: ImageName,
    /// Digest of the image.
    pub digest: String,
    /// Where it came from under this name, as an image's `source` has it. The same content may have come
    /// from somebody else as well, and before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

fn folder(layout: &Layout) -> PathBuf {
    layout.images().join("tags")
}

/// `/` and `@` do not stand in a file name, and none begins with a dot, so neither does this.
fn path(layout: &Layout, name: &ImageName) -> PathBuf {
    let escaped = name.to_string().replace('/', "%2F").replace('@', "%40");
    folder(layout).join(escaped + ".json")
}

/// Makes `name` lead to the image `digest`, which came from `source` if anybody says so; whatever it led
/// to before keeps its other names.
///
/// # Errors
/// The file cannot be written.
pub fn tag_image(
    layout: &Layout,
    name: &ImageName,
    digest: &str,
    source: Option<&str>,
) -> Result<(), ImageError> {
    ensure_private(&folder(layout))?;
    let path = path(layout, name);
    let tag = Tag {
        name: name.clone(),
        digest: digest.to_owned(),
        source: source.map(str::to_owned),
    };
    file::write_whole(&path, &json(&tag), 0o600)
        .map_err(|e| FileError::new("write", &path, e.errno).into())
}

/// Takes a name away; the image stays.
///
/// # Errors
/// There is no such name, or its file cannot be removed.
pub fn untag(layout: &Layout, name: &ImageName) -> Result<(), ImageError> {
    let path = path(layout, name);
    match std::fs::remove_file(&path) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Err(unknown(layout, name)),
        Err(e) => Err(FileError::new("remove", &path, e).into()),
    }
}

/// Takes all names of an image away.
pub(super) fn untag_all(layout: &Layout, digest: &str) -> Result<(), FileError> {
    for tag in tags(layout)?.iter().filter(|tag| tag.digest == digest) {
        let path = path(layout, &tag.name);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(FileError::new("remove", &path, e));
            }
            _ => {}
        }
    }
    Ok(())
}

/// All names, sorted. A file that cannot be understood names nothing.
///
/// # Errors
/// The folder cannot be read.
pub fn tags(layout: &Layout) -> Result<Vec<Tag>, FileError> {
    let folder = folder(layout);
    let mut found: Vec<Tag> = listed(&folder)?
        .iter()
        .filter(|name| name.ends_with(".json") && !name.starts_with('.'))
        .filter_map(|name| read(&folder.join(name)))
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

fn read(path: &std::path::Path) -> Option<Tag> {
    let text = file::read_small(path, FILE_MOST).ok()??;
    let tag: Tag = serde_json::from_slice(&text).ok()?;
    is_digest(&tag.digest).then_some(tag)
}

/// The image a person means: by a name it has, as it is or with what is usually left out of it
/// (`latest`, `docker.io/library`), or by the beginning of its digest, six digits at least.
///
/// # Errors
/// There is none, or several; its record is damaged.
pub fn find_image(layout: &Layout, name: &ImageName) -> Result<Image, ImageError> {
    for meaning in name.meanings() {
        if let Some(tag) = read(&path(layout, &meaning)) {
            return match load_image(layout, &tag.digest) {
                Err(ImageError::Missing { digest, .. }) => Err(ImageError::Unknown {
                    name: name.to_string(),
                    hint: format!(": its image {digest:.12} was removed"),
                }),
                other => other,
            };
        }
    }
    let Some(prefix) = name.digest_prefix() else {
        return Err(unknown(layout, name));
    };
    let found: Vec<String> = listed(&layout.images())?
        .into_iter()
        .filter(|digest| is_digest(digest) && digest.starts_with(prefix))
        .collect();
    match found.as_slice() {
        [] => Err(unknown(layout, name)),
        [one] => load_image(layout, one),
        _ => Err(ImageError::Ambiguous {
            prefix: prefix.to_owned(),
            found,
        }),
    }
}

/// The name itself by which [`find_image`] finds an image; `None` where it is a digest's beginning.
pub(super) fn name_that_leads(layout: &Layout, name: &ImageName) -> Option<ImageName> {
    let mut meanings = name.meanings().into_iter();
    meanings.find(|meaning| read(&path(layout, meaning)).is_some())
}

/// Where the image of a name came from under that name, if that was written down.
#[must_use]
pub fn source_of_name(layout: &Layout, name: &ImageName) -> Option<String> {
    let meanings = name.meanings().into_iter();
    let mut tags = meanings.filter_map(|meaning| read(&path(layout, &meaning)));
    tags.next()?.source
}

fn unknown(layout: &Layout, name: &ImageName) -> ImageError {
    let text = name.to_string();
    let names: Vec<String> = tags(layout)
        .unwrap_or_default()
        .iter()
        .map(|tag| tag.name.to_string())
        .collect();
    let near = nearest(&text, names.iter().map(String::as_str));
    let hint = match near {
        Some(near) => format!(" (did you mean {near}?)"),
        None => " here".to_owned(),
    };
    ImageError::Unknown { name: text, hint }
}

/// Names that lead to no image any more.
pub(super) fn dangling(layout: &Layout) -> Result<Vec<ImageName>, FileError> {
    let there: Vec<String> = images(layout)?
        .into_iter()
        .filter_map(|image| Some(image.ok()?.digest))
        .collect();
    let gone = |tag: &Tag| {
        !there.contains(&tag.digest) && dirfd::open_dir(&layout.images().join(&tag.digest)).is_err()
    };
    Ok(tags(layout)?
        .into_iter()
        .filter(gone)
        .map(|tag| tag.name)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::super::seed::tests::TempDir;
    use super::*;

    fn name(text: &str) -> ImageName {
        text.parse().unwrap()
    }

    /// A record and nothing else.
    fn image(layout: &Layout, digit: char) -> String {
        let digest: String = std::iter::repeat_n(digit, 64).collect();
        let folder = layout.images().join(&digest);
        std::fs::create_dir_all(&folder).unwrap();
        let record = serde_json::json!({
            "digest": digest, "template": "", "options": {}, "kind": "tar", "init": "other",
            "command": [], "stop_signal": "SIGTERM", "size": 1, "files": 1, "created_ms": 1,
            "mounts": [],
        });
        std::fs::write(folder.join("image.json"), record.to_string()).unwrap();
        digest
    }

    #[test]
    fn names_lead_to_images_and_go_with_them() {
        let temp = TempDir::new("tag");
        let layout = Layout::new(temp.path());
        let (one, two) = (image(&layout, 'a'), image(&layout, 'b'));
        tag_image(
            &layout,
            &name("docker.io/library/alpine:latest"),
            &one,
            None,
        )
        .unwrap();
        tag_image(&layout, &name("base"), &two, None).unwrap();
        let found = |text: &str| find_image(&layout, &name(text)).map(|image| image.digest);
        assert_eq!(found("alpine").unwrap(), one);
        assert_eq!(found("base").unwrap(), two);
        assert_eq!(found("bbbbbb").unwrap(), two);
        assert_eq!(found(&format!("sha256:{one}")).unwrap(), one);
        let error = found("bse").unwrap_err().to_string();
        assert!(error.contains("did you mean base?"), "{error}");
        assert!(found("cccccc").is_err() && found("alpine:1").is_err());
        tag_image(&layout, &name("base"), &one, Some("here")).unwrap();
        assert_eq!(found("base").unwrap(), one);
        let source = |text: &str| source_of_name(&layout, &name(text));
        assert_eq!(source("base").as_deref(), Some("here"));
        assert_eq!(source("alpine"), None);
        super::super::image::remove_image(&layout, &one).unwrap();
        assert_eq!(tags(&layout).unwrap(), []);
        assert!(untag(&layout, &name("base")).is_err());
    }

    #[test]
    fn a_beginning_of_two_is_no_name() {
        let temp = TempDir::new("tag");
        let layout = Layout::new(temp.path());
        let one = image(&layout, 'a');
        let other = format!("{}b", &one[..63]);
        std::fs::rename(layout.images().join(&one), layout.images().join(&other)).unwrap();
        image(&layout, 'a');
        let error = find_image(&layout, &name("aaaaaaaa")).unwrap_err();
        assert!(error.to_string().contains("several images"), "{error}");
        std::fs::write(layout.images().join("tags-x"), "").unwrap();
        std::fs::create_dir(layout.images().join("tags")).unwrap();
        std::fs::write(layout.images().join("tags/x.json"), "{").unwrap();
        assert_eq!(tags(&layout).unwrap(), []);
    }
}
