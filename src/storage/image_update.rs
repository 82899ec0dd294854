//! The newer image of a name: built again from its template, or pulled again from its registry or server. The
//! name leads to it then; the image it led to stays as long as a guest or a snapshot uses it, or until
//! `image prune`.

use super::build::build_again;
use super::image::{Image, ImageError, Progress};
use super::oci_http::Trust;
use super::pull::pull_image;
use super::stream_pull::pull_server_image;
use super::stream_server::ServerImage;
use super::tag::{find_image, name_that_leads, source_of_name, tag_image};
use super::template::Templates;
use crate::kernel::fault;
use crate::model::{ImageName, Layout, TemplateRef};

use super::dirfd::FileError;

/// Where an image can be had again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Its template, with the options it was built with.
    Template(TemplateRef),
    /// Its name at a registry.
    Registry(ImageName),
    /// Its newest version at an image server.
    Server(ServerImage),
}

/// An image and its successor.
#[derive(Clone, Debug)]
pub struct Updated {
    /// The name that leads to it now; `None` where it was asked for by its digest.
    pub name: Option<ImageName>,
    /// Digest of the one before.
    pub before: String,
    /// The image now.
    pub image: Image,
}

/// Where the image of a name comes from, as far as it can be had there again.
///
/// # Errors
/// There is none; it was made of a guest, taken in from a file, or pulled by its digest.
pub fn update_source(layout: &Layout, name: &ImageName) -> Result<Source, ImageError> {
    let image = found(layout, name)?;
    source_of(&image, name_that_leads(layout, name).as_ref())
}

/// The image of a name, from where it came under that name.
fn found(layout: &Layout, name: &ImageName) -> Result<Image, ImageError> {
    let mut image = find_image(layout, name)?;
    if let Some(source) = source_of_name(layout, name) {
        image.template.clear();
        image.source = source;
    }
    Ok(image)
}

fn source_of(image: &Image, name: Option<&ImageName>) -> Result<Source, ImageError> {
    let refused = |reason: &str| ImageError::Refused {
        what: format!("a newer image {}", image.short()),
        reason: reason.to_owned(),
    };
    if !image.template.is_empty() {
        return Ok(Source::Template(TemplateRef {
            name: image.template.clone(),
            options: image.options.clone(),
        }));
    }
    if let Ok(there) = image.source.parse::<ServerImage>() {
        return Ok(Source::Server(there.at(None)));
    }
    // What a registry gave is written down in full; a file's name is not, nor is a guest's.
    let whole = |name: &ImageName| name.full() == *name;
    let pulled = image.source.parse::<ImageName>().ok().filter(whole);
    // The same content may have come under another name first, from somebody else.
    let own = name.filter(|name| whole(name) && name.digest().is_none());
    match pulled.map(|pulled| own.cloned().unwrap_or(pulled)) {
        Some(name) if name.digest().is_some() => Err(refused(
            "it was pulled by its digest, which never leads to another: `bulkhead image pull` it by \
             a tag",
        )),
        Some(name) => Ok(Source::Registry(name)),
        None => Err(refused(&format!(
            "it was made of {}, and not from a template or a registry: `bulkhead image import` or \
             `publish` makes the next, under the same name",
            image.source
        ))),
    }
}

/// Builds or pulls the image of a name again, and lets the name lead to it.
///
/// # Errors
/// As [`update_source`]; it cannot be built or pulled; the name then leads where it led.
pub fn update_image(
    layout: &Layout,
    templates: &Templates,
    name: &ImageName,
    trust: &Trust,
    progress: &mut dyn FnMut(Progress),
) -> Result<Updated, ImageError> {
    let before = found(layout, name)?;
    let name = name_that_leads(layout, name);
    let image = match source_of(&before, name.as_ref())? {
        Source::Template(wanted) => {
            let image = build_again(layout, templates, &wanted, progress)?;
            fault::point().map_err(|e| FileError::new("name", &image.path, e.errno))?;
            if let Some(name) = &name {
                tag_image(layout, name, &image.digest, None)?;
            }
            image
        }
        Source::Registry(there) => pull_image(layout, &there, name.as_ref(), trust, progress)?.0,
        Source::Server(there) => {
            let (name, known) = (name.as_ref(), Some(&before));
            pull_server_image(layout, &there, name, known, trust, progress)?.0
        }
    };
    Ok(Updated {
        name,
        before: before.digest,
        image,
    })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn from(template: &str, source: &str) -> Result<Source, String> {
        let mut image = Image::sample("a".repeat(64), PathBuf::new());
        image.template = template.into();
        image.source = source.into();
        source_of(&image, None).map_err(|error| error.to_string())
    }

    #[test]
    fn a_name_is_asked_for_where_it_belongs() {
        let mut image = Image::sample("a".repeat(64), PathBuf::new());
        image.template = String::new();
        image.source = "evil.example/library/alpine:3.20".into();
        let name: ImageName = "docker.io/library/alpine:3.20".parse().unwrap();
        let asked = |image: &Image, name: &str| source_of(image, name.parse().ok().as_ref());
        assert_eq!(
            asked(&image, "docker.io/library/alpine:3.20").unwrap(),
            Source::Registry(name.clone())
        );
        // A name of one's own says nothing of where.
        assert_eq!(
            asked(&image, "mine:1").unwrap(),
            Source::Registry(image.source.parse().unwrap())
        );
        image.source = format!("docker.io/library/alpine@sha256:{}", "b".repeat(64));
        let by_tag = asked(&image, "docker.io/library/alpine:3.20").unwrap();
        assert_eq!(by_tag, Source::Registry(name));
        image.source = "/tmp/alpine.tar".into();
        assert!(asked(&image, "docker.io/library/alpine:3.20").is_err());
    }

    #[test]
    fn only_templates_and_registries_have_a_newer_one() {
        assert!(matches!(from("debian", ""), Ok(Source::Template(_))));
        let name = "docker.io/library/alpine:3.20";
        assert_eq!(from("", name), Ok(Source::Registry(name.parse().unwrap())));
        for file in ["/tmp/alpine.tar", "alpine.tar", "guest web", ""] {
            let error = from("", file).unwrap_err();
            assert!(error.contains("image import"), "{file}: {error}");
        }
        let pinned = format!("docker.io/library/alpine@sha256:{}", "b".repeat(64));
        assert!(from("", &pinned).unwrap_err().contains("by its digest"));
    }
}
