//! What an image server of the simplestreams form says of its images (`streams/v1/index.json`, then
//! lists of products): which of them is meant by an alias, and the files it is made of. Pure, over a
//! stranger's text; fetching is `stream_server`.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::image::is_digest;
use super::oci_config::this_architecture;

/// Most lists of products that an index may lead to.
const LISTS_MOST: usize = 8;
/// Most bytes of an image's root, and of what is said about it.
const ROOT_MOST: u64 = 16 << 30;
const METADATA_MOST: u64 = 16 << 20;
/// Files that hold what is said about an image.
const METADATA: [&str; 3] = ["incus.tar.xz", "lxd.tar.xz", "meta.tar.xz"];
/// Files that hold a root, those first that this program unpacks itself.
const ROOTS: [(&str, Packed); 5] = [
    ("root.tar.xz", Packed::Tar),
    ("rootfs.tar.xz", Packed::Tar),
    ("squashfs", Packed::Squashfs),
    ("root.squashfs", Packed::Squashfs),
    ("rootfs.squashfs", Packed::Squashfs),
];

/// How a root is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packed {
    Tar,
    Squashfs,
}

/// A file of the server's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// Path below the server's address, checked.
    pub(super) path: String,
    pub(super) sha256: String,
    pub(super) size: u64,
}

/// An image of the server's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chosen {
    /// Such as `alpine:3.20:amd64:default`.
    pub(super) product: String,
    /// Such as `20260101_13:00`.
    pub(super) version: String,
    pub(super) metadata: Piece,
    pub(super) root: Piece,
    pub(super) packed: Packed,
    /// SHA-256 of both files, one behind the other, where the server says it.
    pub(super) combined: Option<String>,
}

#[derive(Deserialize)]
struct Index {
    format: String,
    index: BTreeMap<String, Listing>,
}

#[derive(Deserialize)]
struct Listing {
    #[serde(default)]
    datatype: String,
    path: String,
}

#[derive(Deserialize)]
struct Products {
    format: String,
    products: BTreeMap<String, Product>,
}

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Product {
    aliases: String,
    arch: String,
    versions: BTreeMap<String, Version>,
}

#[derive(Deserialize)]
struct Version {
    #[serde(default)]
    items: BTreeMap<String, Item>,
}

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Item {
    ftype: String,
    path: String,
    sha256: String,
    size: u64,
    combined_sha256: String,
    combined_rootxz_sha256: String,
    combined_squashfs_sha256: String,
}

/// The lists of images that an index leads to, as paths.
pub(super) fn lists(text: &[u8]) -> Result<Vec<String>, String> {
    let index: Index = parse(text, "its index")?;
    if index.format != "index:1.0" {
        return Err(format!(
            "its index is of the format {:.40?}; index:1.0 is known",
            index.format
        ));
    }
    // Other kinds speak of machines of clouds.
    let images = index.index.values();
    let images = images.filter(|listing| listing.datatype == "image-downloads");
    let mut paths: Vec<String> = Vec::new();
    for listing in images {
        let path = sound_path(&listing.path)?;
        if !paths.contains(&path) {
            paths.push(path);
        }
    }
    match paths.len() {
        0 => Err("its index leads to no list of images".into()),
        1..=LISTS_MOST => Ok(paths),
        many => Err(format!(
            "its index leads to {many} lists of images; more than {LISTS_MOST} are not read"
        )),
    }
}

/// The image of this machine that a list has under an alias, of this version or the newest; `None`
/// if it has none.
pub(super) fn choose(
    text: &[u8],
    alias: &str,
    version: Option<&str>,
) -> Result<Option<Chosen>, String> {
    let list: Products = parse(text, "a list of its images")?;
    if list.format != "products:1.0" {
        return Err(format!(
            "a list of its images is of the format {:.40?}; products:1.0 is known",
            list.format
        ));
    }
    let here = architecture();
    let called = |name: &str, product: &Product| {
        name == alias || product.aliases.split(',').any(|one| one.trim() == alias)
    };
    let all: Vec<(&String, &Product)> = list
        .products
        .iter()
        .filter(|(name, product)| called(name, product))
        .collect();
    let ours = all.iter().filter(|(_, product)| product.arch == here);
    match ours.copied().collect::<Vec<_>>().as_slice() {
        [] if all.is_empty() => Ok(None),
        [] => {
            let there: Vec<&str> = all.iter().map(|(_, p)| p.arch.as_str()).take(8).collect();
            let there = there.join(", ").chars().take(80).collect::<String>();
            Err(format!("{alias} is there for {there}, not for {here}"))
        }
        [(name, product)] => of_product(name, product, version).map(Some),
        many => {
            let names: Vec<&str> = many.iter().map(|(name, _)| name.as_str()).take(8).collect();
            let names = names.join(", ").chars().take(400).collect::<String>();
            Err(format!(
                "{alias} means several of its images: say which: {names}"
            ))
        }
    }
}

/// Names for people that could have been meant: those that begin as this one.
pub(super) fn near(text: &[u8], alias: &str) -> Vec<String> {
    let Ok(list) = parse::<Products>(text, "") else {
        return Vec::new();
    };
    let here = architecture();
    let first = alias.split(['/', ':', '.']).next().unwrap_or_default();
    let ours = list.products.values().filter(|p| p.arch == here);
    let names = ours.flat_map(|p| p.aliases.split(',').map(str::trim));
    let near = names.filter(|name| !first.is_empty() && name.starts_with(first));
    let tidy = |name: &str| name.chars().filter(|c| !c.is_control()).take(60).collect();
    near.take(6).map(tidy).collect()
}

fn of_product(name: &str, product: &Product, version: Option<&str>) -> Result<Chosen, String> {
    let shown: String = name.chars().take(100).collect();
    let Some(wanted) = version else {
        // Versions begin with their date: the greatest is the newest. One that was begun and has no
        // files yet does not count.
        let newest = product.versions.iter().rev();
        let mut whole = newest.filter_map(|(number, version)| {
            let files = of_version(&version.items).transpose()?;
            Some((number, files))
        });
        return match whole.next() {
            Some((number, files)) => chosen(&shown, number, files),
            None => Err(format!("{shown} has no version with a root for containers")),
        };
    };
    let Some(version) = product.versions.get(wanted) else {
        let there: Vec<&str> = product.versions.keys().rev().map(String::as_str).collect();
        let there = there.iter().take(6).copied().collect::<Vec<_>>().join(", ");
        let there: String = there.chars().take(300).collect();
        return Err(format!(
            "{shown} has no version {wanted:.60}; it has {there}"
        ));
    };
    match of_version(&version.items).transpose() {
        Some(files) => chosen(&shown, wanted, files),
        None => Err(format!(
            "version {wanted:.60} of {shown} has no root for containers"
        )),
    }
}

type Files = (Piece, Piece, Packed, Option<String>);

fn chosen(product: &str, version: &str, files: Result<Files, String>) -> Result<Chosen, String> {
    let at = |why| format!("{product}, version {version:.60}: {why}");
    if !is_word(version) {
        return Err(at("that is no number of a version".into()));
    }
    let (metadata, root, packed, combined) = files.map_err(at)?;
    Ok(Chosen {
        product: product.to_owned(),
        version: version.to_owned(),
        metadata,
        root,
        packed,
        combined,
    })
}

/// The two files of a version, if it has both.
fn of_version(items: &BTreeMap<String, Item>) -> Result<Option<Files>, String> {
    let of_kind = |kind: &str| {
        let mut all = items.iter();
        all.find(|(name, item)| item.ftype == kind || (item.ftype.is_empty() && *name == kind))
            .map(|(_, item)| item)
    };
    let Some(about) = METADATA.iter().find_map(|kind| of_kind(kind)) else {
        return Ok(None);
    };
    let root = ROOTS.iter();
    let root = root
        .clone()
        .find_map(|(kind, packed)| Some((of_kind(kind)?, *packed)));
    let Some((root, packed)) = root else {
        return Ok(None);
    };
    let combined = match packed {
        Packed::Squashfs => [&about.combined_squashfs_sha256, ""],
        Packed::Tar => [
            about.combined_rootxz_sha256.as_str(),
            about.combined_sha256.as_str(),
        ],
    };
    let combined = combined.iter().find(|digest| !digest.is_empty());
    if let Some(odd) = combined.filter(|digest| !is_digest(digest)) {
        return Err(format!("{odd:.80?} is no SHA-256"));
    }
    Ok(Some((
        piece(about, METADATA_MOST)?,
        piece(root, ROOT_MOST)?,
        packed,
        combined.map(|digest| (*digest).to_owned()),
    )))
}

fn piece(item: &Item, most: u64) -> Result<Piece, String> {
    let path = sound_path(&item.path)?;
    if !is_digest(&item.sha256) {
        return Err(format!("{path} has no SHA-256 to compare it with"));
    }
    if item.size == 0 || item.size > most {
        let size = item.size;
        return Err(format!(
            "{path} is said to have {size} bytes; 1 to {most} are taken"
        ));
    }
    Ok(Piece {
        path,
        sha256: item.sha256.clone(),
        size: item.size,
    })
}

/// A path that stays below the server's address, and is nothing but a path.
fn sound_path(path: &str) -> Result<String, String> {
    let part = |part: &str| !matches!(part, "" | "." | "..") && is_word(part);
    match path.len() <= 1000 && path.split('/').all(part) {
        true => Ok(path.to_owned()),
        false => Err(format!(
            "{path:.100?} is no path below the server's own address"
        )),
    }
}

/// Letters and digits, and the signs that paths, versions and aliases there have.
pub(super) fn is_word(text: &str) -> bool {
    let sign = |b: u8| b.is_ascii_alphanumeric() || b"._-:+~@=".contains(&b);
    (1..=255).contains(&text.len()) && text.bytes().all(sign)
}

/// This machine as Debian, and with it these servers, call it.
fn architecture() -> &'static str {
    match this_architecture() {
        "386" => "i386",
        "arm" => "armhf",
        "ppc64le" => "ppc64el",
        other => other,
    }
}

fn parse<T: DeserializeOwned>(text: &[u8], what: &str) -> Result<T, String> {
    serde_json::from_slice(text).map_err(|error| format!("{what} cannot be read: {error}"))
}

/// What `metadata.yaml` says of the machine, and whether that is this one.
pub(super) fn fits(metadata: &str) -> Result<(), String> {
    let told = super::plain_yaml::parse(metadata).map_err(|e| format!("metadata.yaml: {e}"))?;
    let there = told.text("architecture").unwrap_or_default();
    let same = [architecture(), this_architecture(), std::env::consts::ARCH];
    match there.is_empty() || same.contains(&there) || there == "all" {
        true => Ok(()),
        false => Err(format!(
            "its metadata.yaml says it is for {there:.40?}, and this machine is {}",
            architecture()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn item(kind: &str, path: &str) -> Value {
        json!({"ftype": kind, "path": path, "sha256": "a".repeat(64), "size": 10})
    }

    fn products(products: &Value) -> Vec<u8> {
        json!({"format": "products:1.0", "products": products})
            .to_string()
            .into_bytes()
    }

    fn box_of(arch: &str, versions: &Value) -> Value {
        json!({"aliases": "box/1/default, box/1", "arch": arch, "versions": versions})
    }

    fn version() -> Value {
        json!({"items": {
            "incus.tar.xz": item("incus.tar.xz", "images/i"),
            "root.squashfs": item("squashfs", "images/s"),
        }})
    }

    fn chosen_of(version: &Value) -> Result<Option<Chosen>, String> {
        let list = json!({"box": box_of(architecture(), &json!({"20260101_00:00": version}))});
        choose(&products(&list), "box/1", None)
    }

    #[test]
    fn the_newest_whole_version_for_this_machine_is_taken() {
        let mut packed = version();
        packed["items"]["rootfs.tar.xz"] = item("root.tar.xz", "images/t");
        packed["items"]["incus.tar.xz"]["combined_rootxz_sha256"] = json!("b".repeat(64));
        let versions = json!({
            "20260101_13:00": version(), "20260102_13:00": packed, "20260103_13:00": {"items": {}},
        });
        let list = json!({
            "box:1:amd64": box_of(architecture(), &versions), "box:1:s390x": box_of("s390x", &versions),
        });
        let list = products(&list);
        let newest = choose(&list, "box/1", None).unwrap().unwrap();
        assert_eq!(newest.version, "20260102_13:00");
        assert_eq!(
            (newest.packed, newest.root.path.as_str()),
            (Packed::Tar, "images/t")
        );
        assert_eq!(newest.combined, Some("b".repeat(64)));
        let exact = choose(&list, "box:1:amd64", Some("20260101_13:00"))
            .unwrap()
            .unwrap();
        assert_eq!((exact.packed, exact.combined), (Packed::Squashfs, None));
        assert_eq!(choose(&list, "other", None), Ok(None));
        assert_eq!(near(&list, "box/7"), ["box/1/default", "box/1"]);
        let error = choose(&list, "box/1", Some("1")).unwrap_err();
        assert!(
            error.contains("it has 20260103_13:00, 20260102_13:00"),
            "{error}"
        );
        let error = choose(&list, "box:1:s390x", None).unwrap_err();
        assert!(error.contains("is there for s390x"), "{error}");
        let two = json!({
            "a": box_of(architecture(), &versions), "b": box_of(architecture(), &versions),
        });
        let error = choose(&products(&two), "box/1", None).unwrap_err();
        assert!(error.contains("say which: a, b"), "{error}");
    }

    #[test]
    fn what_leads_elsewhere_is_refused() {
        for path in [
            "",
            "/etc/passwd",
            "../x",
            "a/../b",
            "a//b",
            "http://other.example/x",
            "a/./b",
            "//other.example/x",
            "a?b",
            "a#b",
            "a b",
            "a\nb",
            "a%2e%2e",
            "a\\b",
        ] {
            assert!(sound_path(path).is_err(), "{path:?}");
            let mut made = version();
            made["items"]["root.squashfs"]["path"] = json!(path);
            assert!(chosen_of(&made).is_err(), "{path:?}");
            let index = json!({"format": "index:1.0", "index": {"x": {
                "datatype": "image-downloads", "path": path}}});
            assert!(lists(index.to_string().as_bytes()).is_err(), "{path:?}");
        }
        assert!(sound_path("streams/v1/com.ubuntu.cloud:released:download.json").is_ok());
    }

    #[test]
    fn what_cannot_be_compared_or_held_is_refused() {
        assert!(chosen_of(&version()).unwrap().is_some());
        for (key, value, why) in [
            ("sha256", json!(""), "no SHA-256"),
            ("sha256", json!("A".repeat(64)), "no SHA-256"),
            ("size", json!(0), "said to have 0 bytes"),
            ("size", json!(u64::MAX), "are taken"),
            ("size", json!(-1), "cannot be read"),
        ] {
            let mut made = version();
            made["items"]["root.squashfs"][key] = value;
            let error = chosen_of(&made).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        let mut made = version();
        made["items"]["incus.tar.xz"]["combined_squashfs_sha256"] = json!("x");
        assert!(chosen_of(&made).unwrap_err().contains("no SHA-256"));
        let deep = format!("{{\"format\": {}", "[".repeat(100_000));
        assert!(lists(deep.as_bytes()).is_err());
        assert!(choose(b"{}", "x", None).is_err());
    }

    #[test]
    fn only_lists_of_images_are_read() {
        let entry = |kind: &str, path: &str| json!({"datatype": kind, "path": path});
        let index = |entries: Value| {
            lists(
                json!({"format": "index:1.0", "index": entries})
                    .to_string()
                    .as_bytes(),
            )
        };
        let both = json!({"a": entry("image-ids", "streams/v1/aws.json"),
            "b": entry("image-downloads", "streams/v1/images.json")});
        assert_eq!(index(both).unwrap(), ["streams/v1/images.json"]);
        assert!(index(json!({})).unwrap_err().contains("no list"));
        let many: serde_json::Map<String, Value> = (0..20)
            .map(|n| (n.to_string(), entry("image-downloads", &n.to_string())))
            .collect();
        assert!(index(many.into()).unwrap_err().contains("20 lists"));
    }

    #[test]
    fn the_machine_in_the_metadata_counts() {
        assert_eq!(
            fits(&format!("architecture: {}\n", std::env::consts::ARCH)),
            Ok(())
        );
        assert_eq!(fits("creation_date: 1\nproperties:\n  os: x\n"), Ok(()));
        assert!(
            fits("architecture: s390x\n")
                .unwrap_err()
                .contains("this machine is")
        );
    }
}
