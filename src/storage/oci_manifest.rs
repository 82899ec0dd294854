//! The documents that lead from the name of an OCI image to its parts: index, manifest, and the
//! `manifest.json` of `docker save`. Pure; written by strangers. Which parts there are is said here,
//! where they are read from is in `oci_layout`, `oci_archive` and `oci_registry`.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::oci_config::{DOCUMENT_MOST, sha256, this_architecture};

/// Most entries of an index.
const ENTRIES_MOST: usize = 1024;
/// Indexes that may lead from one to another.
pub(super) const DEPTH_MOST: usize = 4;

/// A part by its content: what it is, its digest, its size.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    #[serde(default)]
    pub(super) media_type: String,
    /// `sha256:…`.
    pub(super) digest: String,
    pub(super) size: u64,
    #[serde(default)]
    pub(super) platform: Option<Platform>,
    #[serde(default)]
    pub(super) annotations: Option<BTreeMap<String, String>>,
}

/// For which machine an entry of an index is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct Platform {
    pub(super) architecture: String,
    pub(super) os: String,
    pub(super) variant: Option<String>,
}

/// What a document is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Document {
    /// A choice of others.
    Index(Vec<Descriptor>),
    /// One image: its configuration and its layers, the lowest first.
    Manifest(Descriptor, Vec<Descriptor>),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    #[serde(default)]
    schema_version: u32,
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Option<Vec<Descriptor>>,
}

/// Kinds of documents that are asked for and understood.
pub(super) const ACCEPTED: [&str; 4] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

/// Kinds of layers that are understood; how each is compressed is seen by how it begins.
const LAYERS: [&str; 6] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
];

impl Document {
    /// Reads an index or a manifest.
    ///
    /// # Errors
    /// What is wrong with it, as a sentence.
    pub(super) fn parse(text: &[u8]) -> Result<Self, String> {
        if text.len() as u64 > DOCUMENT_MOST {
            return Err("its manifest has more than 4 MiB".into());
        }
        let written: Written = serde_json::from_slice(text)
            .map_err(|e| format!("its manifest cannot be understood: {e}"))?;
        match written {
            Written {
                manifests: Some(entries),
                config: None,
                layers: None,
                ..
            } => {
                if entries.len() > ENTRIES_MOST {
                    return Err(format!("its index has more than {ENTRIES_MOST} entries"));
                }
                entries
                    .iter()
                    .try_for_each(|e| sha256(&e.digest).map(drop))?;
                Ok(Self::Index(entries))
            }
            Written {
                manifests: None,
                config: Some(config),
                layers: Some(layers),
                ..
            } => {
                sha256(&config.digest)?;
                if config.size > DOCUMENT_MOST {
                    return Err("its configuration has more than 4 MiB".into());
                }
                layers.iter().try_for_each(layer)?;
                Ok(Self::Manifest(config, layers))
            }
            Written {
                schema_version: 1, ..
            } => Err(
                "its manifest is of the first schema, which registries gave up in 2019: push it \
                 again with a program of today"
                    .into(),
            ),
            _ => Err("its manifest is neither an index nor that of an image".into()),
        }
    }
}

fn layer(layer: &Descriptor) -> Result<(), String> {
    sha256(&layer.digest)?;
    if LAYERS.contains(&layer.media_type.as_str()) {
        return Ok(());
    }
    let shown: String = layer.media_type.chars().take(100).collect();
    Err(format!(
        "layer {:.19} is of the kind {shown:?}, which is no layer of files: it is no image for \
         guests, or of a newer kind than this program knows",
        layer.digest
    ))
}

/// The entry of an index that is for this machine: of its architecture, else the only one there is.
///
/// # Errors
/// There is none; the message has those there are.
pub(super) fn choose(entries: &[Descriptor]) -> Result<&Descriptor, String> {
    let here = this_architecture();
    // Statements about an image stand beside it as one for a machine that there is not.
    let images: Vec<&Descriptor> = entries
        .iter()
        .filter(|e| e.platform.as_ref().is_none_or(|p| p.os != "unknown"))
        .collect();
    let fits = |e: &&&Descriptor| {
        let platform = e.platform.as_ref();
        platform.is_some_and(|p| p.os == "linux" && p.architecture == here)
    };
    if let Some(found) = images.iter().find(fits) {
        return Ok(found);
    }
    match images.as_slice() {
        [one] if one.platform.is_none() => Ok(one),
        [] => Err("its index is empty".into()),
        several => {
            let names = several.iter().map(|e| platform_name(e.platform.as_ref()));
            let names = names.take(20).collect::<Vec<_>>().join(", ");
            Err(format!(
                "it is not there for linux/{here}, only for {names}"
            ))
        }
    }
}

fn platform_name(platform: Option<&Platform>) -> String {
    let short = |text: &str| text.chars().take(20).collect::<String>();
    platform.map_or_else(
        || "an unnamed machine".to_owned(),
        |p| format!("{}/{}", short(&p.os), short(&p.architecture)),
    )
}

/// An image in the `manifest.json` of `docker save`: paths in the archive.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Saved {
    pub(super) config: String,
    #[serde(default)]
    pub(super) repo_tags: Option<Vec<String>>,
    #[serde(default)]
    pub(super) layers: Option<Vec<String>>,
}

/// Reads a `manifest.json` of `docker save`.
///
/// # Errors
/// It is none.
pub(super) fn saved(text: &[u8]) -> Result<Vec<Saved>, String> {
    let images: Vec<Saved> = serde_json::from_slice(text)
        .map_err(|e| format!("its manifest.json cannot be understood: {e}"))?;
    match images.len() {
        0 => Err("its manifest.json names no image".into()),
        1..=ENTRIES_MOST => Ok(images),
        _ => Err(format!(
            "its manifest.json has more than {ENTRIES_MOST} images"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEX: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

    fn part(kind: &str, more: serde_json::Value) -> serde_json::Value {
        let mut part = serde_json::json!({
            "mediaType": kind, "digest": format!("sha256:{HEX}"), "size": 7,
        });
        if let (Some(part), serde_json::Value::Object(more)) = (part.as_object_mut(), more) {
            part.extend(more);
        }
        part
    }

    fn parse(text: &serde_json::Value) -> Result<Document, String> {
        Document::parse(text.to_string().as_bytes())
    }

    fn machine(os: &str, architecture: &str) -> serde_json::Value {
        let platform = serde_json::json!({"os": os, "architecture": architecture});
        part(ACCEPTED[1], serde_json::json!({ "platform": platform }))
    }

    #[test]
    fn manifests_are_told_from_indexes() {
        let manifest = serde_json::json!({
            "schemaVersion": 2, "config": part("x", serde_json::json!({})),
            "layers": [part(LAYERS[1], serde_json::json!({}))],
        });
        let Document::Manifest(config, layers) = parse(&manifest).unwrap() else {
            panic!("no manifest")
        };
        assert_eq!((config.size, layers.len()), (7, 1));
        let index = serde_json::json!({"schemaVersion": 2, "manifests": [machine("linux", "x")]});
        assert!(matches!(parse(&index).unwrap(), Document::Index(_)));
        for (text, why) in [
            (
                serde_json::json!({"schemaVersion": 1, "fsLayers": []}),
                "first schema",
            ),
            (serde_json::json!({"schemaVersion": 2}), "neither"),
            (
                serde_json::json!({"config": part("x", serde_json::json!({})), "layers": [
                    part("application/vnd.wasm", serde_json::json!({}))]}),
                "no layer of files",
            ),
            (
                serde_json::json!({"manifests": [{"digest": "sha256:../x", "size": 1}]}),
                "no digest",
            ),
            (
                serde_json::json!({"config": {"digest": format!("sha256:{HEX}"), "size": 1_u64 << 40},
                    "layers": []}),
                "4 MiB",
            ),
        ] {
            let error = parse(&text).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn this_machines_entry_is_chosen() {
        let here = this_architecture();
        let choice = |entries: &[serde_json::Value]| {
            let Ok(Document::Index(entries)) = parse(&serde_json::json!({"manifests": entries}))
            else {
                panic!("no index")
            };
            choose(&entries).cloned()
        };
        let all = [
            machine("unknown", "unknown"),
            machine("linux", "s390x"),
            machine("linux", here),
        ];
        let found = choice(&all).unwrap().platform.unwrap();
        assert_eq!(found.architecture, here);
        let error = choice(&all[..2]).unwrap_err();
        assert!(error.contains("only for linux/s390x"), "{error}");
        assert!(choice(&all[..1]).unwrap_err().contains("empty"));
        assert!(choice(&[part(ACCEPTED[1], serde_json::json!({}))]).is_ok());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(data in proptest::collection::vec(any::<u8>(), 0..300)) {
            Document::parse(&data).ok();
            saved(&data).ok();
        }
    }
}
