//! Images made here, in every form in which images come: layers as tars, an OCI layout in a folder
//! or an archive, an archive of `docker save`.
#![allow(dead_code)] // each test file compiles this for itself and uses a part of it

use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// SHA-256, hexadecimal.
pub fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// gzip.
pub fn gzip(data: &[u8]) -> Vec<u8> {
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(data).expect("a buffer");
    gz.finish().expect("a buffer")
}

/// zstd.
pub fn zstd(data: &[u8]) -> Vec<u8> {
    zstd::encode_all(data, 1).expect("a buffer")
}

/// A tar of these files; a name with `/` at its end is a folder, a text with `-> ` before it a link.
pub fn layer(files: &[(&str, &str)]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, text) in files {
        let (kind, mode) = match (name.ends_with('/'), text.strip_prefix("-> ")) {
            (true, _) => (tar::EntryType::Directory, 0o755),
            (_, Some(_)) => (tar::EntryType::Symlink, 0o777),
            _ => (tar::EntryType::Regular, 0o644),
        };
        let mut head = header(kind, mode);
        if let Some(target) = text.strip_prefix("-> ") {
            archive
                .append_link(&mut head, name, target)
                .expect("a buffer");
        } else {
            head.set_size(text.len() as u64);
            archive
                .append_data(&mut head, name, text.as_bytes())
                .expect("a buffer");
        }
    }
    archive.into_inner().expect("a buffer")
}

/// A header of root's.
pub fn header(kind: tar::EntryType, mode: u32) -> tar::Header {
    let mut head = tar::Header::new_gnu();
    head.set_entry_type(kind);
    head.set_mode(mode);
    head.set_uid(0);
    head.set_gid(0);
    head.set_mtime(1_000_000_000);
    head.set_size(0);
    head
}

/// busybox with a link for each of its names, as the lowest layer.
pub fn busybox() -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, mode) in [
        ("bin/", 0o755),
        ("etc/", 0o755),
        ("tmp/", 0o1777),
        ("srv/", 0o755),
    ] {
        let mut head = header(tar::EntryType::Directory, mode);
        archive
            .append_data(&mut head, path, &b""[..])
            .expect("a buffer");
    }
    let program = std::fs::read("/bin/busybox").expect("the package busybox-static");
    let mut head = header(tar::EntryType::Regular, 0o755);
    head.set_size(program.len() as u64);
    archive
        .append_data(&mut head, "bin/busybox", &program[..])
        .expect("a buffer");
    for name in [
        "sh", "cat", "ls", "id", "pwd", "sleep", "env", "nc", "echo", "test",
    ] {
        let mut head = header(tar::EntryType::Symlink, 0o777);
        archive
            .append_link(&mut head, format!("bin/{name}"), "busybox")
            .expect("a buffer");
    }
    archive.into_inner().expect("a buffer")
}

/// An image under construction.
#[derive(Clone)]
pub struct Image {
    /// Layers as they are stored, and their media types; the lowest first.
    pub layers: Vec<(Vec<u8>, &'static str)>,
    /// Digests of the layers' tars.
    pub diff_ids: Vec<String>,
    /// What the configuration says to run.
    pub config: Value,
    /// Its name.
    pub name: Option<String>,
}

/// Media types of layers.
pub const TAR: &str = "application/vnd.oci.image.layer.v1.tar";
pub const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

impl Image {
    pub fn new(config: Value) -> Self {
        Self {
            layers: Vec::new(),
            diff_ids: Vec::new(),
            config,
            name: None,
        }
    }

    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    /// With a layer on top, stored as `kind` says.
    #[must_use]
    pub fn with(mut self, tar: &[u8], kind: &'static str) -> Self {
        let stored = match kind {
            GZIP => gzip(tar),
            ZSTD => zstd(tar),
            _ => tar.to_vec(),
        };
        self.diff_ids.push(format!("sha256:{}", digest(tar)));
        self.layers.push((stored, kind));
        self
    }

    /// The configuration's text.
    pub fn config_text(&self) -> Vec<u8> {
        json!({
            "architecture": "amd64", "os": "linux", "config": self.config,
            "rootfs": {"type": "layers", "diff_ids": self.diff_ids},
            "history": [{"created_by": "made by a test"}],
        })
        .to_string()
        .into_bytes()
    }

    /// The manifest's text.
    pub fn manifest(&self) -> Vec<u8> {
        let config = self.config_text();
        let layers = self.layers.iter().map(|(data, kind)| part(kind, data));
        json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": part("application/vnd.oci.image.config.v1+json", &config),
            "layers": layers.collect::<Vec<_>>(),
        })
        .to_string()
        .into_bytes()
    }

    /// All files of its OCI layout.
    pub fn layout(&self) -> Vec<(String, Vec<u8>)> {
        let manifest = self.manifest();
        let mut entry = part("application/vnd.oci.image.manifest.v1+json", &manifest);
        if let Some(name) = &self.name {
            entry["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        }
        let index = json!({"schemaVersion": 2, "manifests": [entry]});
        let mut files = vec![
            (
                "oci-layout".to_owned(),
                br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec(),
            ),
            ("index.json".to_owned(), index.to_string().into_bytes()),
        ];
        let blobs = self.layers.iter().map(|(data, _)| data.clone());
        for blob in blobs.chain([self.config_text(), manifest]) {
            let name = format!("blobs/sha256/{}", digest(&blob));
            if files.iter().all(|(known, _)| *known != name) {
                files.push((name, blob));
            }
        }
        files
    }

    /// All files of what `docker save` writes.
    pub fn saved(&self) -> Vec<(String, Vec<u8>)> {
        let config = self.config_text();
        let config_name = format!("{}.json", digest(&config));
        let mut files = vec![(config_name.clone(), config)];
        let mut paths = Vec::new();
        for (data, _) in &self.layers {
            let path = format!("{}/layer.tar", digest(data));
            files.push((path.clone(), data.clone()));
            paths.push(path);
        }
        let manifest = json!([{"Config": config_name, "RepoTags": self.name.iter().collect::<Vec<_>>(), "Layers": paths}]);
        files.push((
            "manifest.json".to_owned(),
            manifest.to_string().into_bytes(),
        ));
        files
    }
}

/// A descriptor.
pub fn part(kind: &str, data: &[u8]) -> Value {
    json!({"mediaType": kind, "digest": format!("sha256:{}", digest(data)), "size": data.len()})
}

/// Files as a tar.
pub fn archive(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, data) in files {
        let mut head = header(tar::EntryType::Regular, 0o644);
        head.set_size(data.len() as u64);
        archive
            .append_data(&mut head, name, &data[..])
            .expect("a buffer");
    }
    archive.into_inner().expect("a buffer")
}

/// Files in a folder.
pub fn folder(at: &Path, files: &[(String, Vec<u8>)]) -> PathBuf {
    for (name, data) in files {
        let path = at.join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder of ours");
        std::fs::write(path, data).expect("a folder of ours");
    }
    at.to_owned()
}
