//! An image of static busybox, made here because no registry is at hand: as a bare tree in a tar,
//! and as an OCI archive that every client loads.

use std::fs::File;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{command, succeed};

/// The image's name in every client.
pub const NAME: &str = "localhost/box:latest";

/// An OCI archive of the image in this folder.
pub fn oci_archive(folder: &Path) -> PathBuf {
    let layer = tree();
    let (layer_digest, layer_size) = (digest(&layer), layer.len());
    let config = json!({
        "architecture": "amd64", "os": "linux",
        // What a pod is held by when nobody says what to run.
        "config": {"Env": ["PATH=/bin"], "Cmd": ["sleep", "1000000"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer_digest}")]},
    });
    let config = config.to_string().into_bytes();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": part("config", "json", &digest(&config), config.len()),
        "layers": [part("layer", "tar", &layer_digest, layer_size)],
    });
    let manifest = manifest.to_string().into_bytes();
    let mut entry = part("manifest", "json", &digest(&manifest), manifest.len());
    entry["annotations"] = json!({
        "org.opencontainers.image.ref.name": NAME, "io.containerd.image.name": NAME,
    });
    let index = json!({"schemaVersion": 2, "manifests": [entry]});

    let path = folder.join("image.tar");
    let mut archive = tar::Builder::new(File::create(&path).expect("a folder of ours"));
    let layout = br#"{"imageLayoutVersion":"1.0.0"}"#;
    file(&mut archive, "oci-layout", 0o644, layout);
    file(
        &mut archive,
        "index.json",
        0o644,
        index.to_string().as_bytes(),
    );
    for blob in [&layer, &config, &manifest] {
        let name = format!("blobs/sha256/{}", digest(blob));
        file(&mut archive, &name, 0o644, blob);
    }
    archive.finish().expect("a disk with room");
    path
}

/// A tar of the tree alone in this folder.
pub fn bare(folder: &Path) -> PathBuf {
    let path = folder.join("tree.tar");
    std::fs::write(&path, tree()).expect("a folder of ours");
    path
}

fn part(kind: &str, form: &str, digest: &str, size: usize) -> Value {
    let media = format!("application/vnd.oci.image.{kind}.v1+{form}");
    let media = media.replace("layer.v1+tar", "layer.v1.tar");
    json!({"mediaType": media, "digest": format!("sha256:{digest}"), "size": size})
}

fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// busybox, a link for each of its names, and the folders that a root has.
fn tree() -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, mode) in [
        ("bin", 0o755),
        ("etc", 0o755),
        ("dev", 0o755),
        ("proc", 0o555),
    ] {
        folder(&mut archive, path, mode);
    }
    for (path, mode) in [
        ("sys", 0o555),
        ("root", 0o700),
        ("tmp", 0o1777),
        ("data", 0o755),
    ] {
        folder(&mut archive, path, mode);
    }
    let users = b"root:x:0:0:root:/root:/bin/sh\nmail:x:8:8:mail:/:/bin/sh\n";
    file(&mut archive, "etc/passwd", 0o644, users);
    file(
        &mut archive,
        "etc/group",
        0o644,
        b"root:x:0:\nmail:x:8:\nextra:x:77:mail\n",
    );
    let busybox = std::fs::read("/bin/busybox").expect("the package busybox-static");
    file(&mut archive, "bin/busybox", 0o755, &busybox);
    let mut names = command("/bin/busybox");
    names.arg("--list");
    for name in succeed(names).lines().filter(|name| *name != "busybox") {
        let mut head = header(tar::EntryType::Symlink, 0o777, 0);
        let path = format!("bin/{name}");
        archive
            .append_link(&mut head, path, "busybox")
            .expect("a buffer");
    }
    archive.into_inner().expect("a buffer")
}

fn header(kind: tar::EntryType, mode: u32, size: usize) -> tar::Header {
    let mut head = tar::Header::new_gnu();
    head.set_entry_type(kind);
    head.set_mode(mode);
    head.set_size(size as u64);
    head.set_mtime(1);
    head.set_uid(0);
    head.set_gid(0);
    head
}

fn folder<W: std::io::Write>(archive: &mut tar::Builder<W>, path: &str, mode: u32) {
    let mut head = header(tar::EntryType::Directory, mode, 0);
    let done = archive.append_data(&mut head, path, std::io::empty());
    done.expect("a disk with room");
}

fn file<W: std::io::Write>(archive: &mut tar::Builder<W>, path: &str, mode: u32, bytes: &[u8]) {
    let mut head = header(tar::EntryType::Regular, mode, bytes.len());
    archive
        .append_data(&mut head, path, bytes)
        .expect("a disk with room");
}
