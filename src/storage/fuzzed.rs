//! What a fuzzer calls (`fuzz/run`): each reader of what strangers write, for any bytes. Only there when
//! the compiler is told `--cfg fuzzing`. What is looked for are panics, memory and time without bounds,
//! and anything outside the folder that is unpacked into.

use std::io::{self, Cursor};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use super::archive_entry::Limits;
use super::dirfd::open_dir;
use super::foreign::{Opened, open_archive};
use super::partition::{Bytes, partitions};
use super::{
    extract, foreign_incus, foreign_lxc, foreign_openvz, foreign_pve, oci_config, oci_manifest,
    oci_token, plain_yaml, stream_index,
};

/// Most bytes that one input may become.
const MOST: u64 = 1 << 20;

/// Empty folders below one that is this process's, removed with what is in them.
struct Folder(PathBuf);

impl Folder {
    /// `within` lies in a folder that must stay as it is.
    fn new() -> Self {
        let top = std::env::temp_dir().join(format!("bulkhead-fuzz-{}", std::process::id()));
        let _left = std::fs::remove_dir_all(&top);
        std::fs::create_dir_all(top.join("within")).expect("a folder");
        Self(top)
    }

    fn within(&self) -> PathBuf {
        self.0.join("within")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let names = std::fs::read_dir(&self.0).expect("the folder");
        let names: Vec<_> = names
            .map(|name| name.expect("a name").file_name())
            .collect();
        assert_eq!(names, ["within"], "something was written outside");
        let _left = std::fs::remove_dir_all(&self.0);
    }
}

/// An archive of a root, and the same as a layer of an image.
pub fn archive(data: &[u8]) {
    for layer in [false, true] {
        let folder = Folder::new();
        let root = open_dir(&folder.within()).expect("the folder");
        let limits = || Limits {
            bytes: MOST,
            ..Limits::default()
        };
        let _told = match layer {
            false => extract::extract(&root, data, limits()),
            true => extract::extract_layer(&root, data, limits()),
        };
    }
}

/// An archive of a guest, by `export` or by another program.
pub fn guest_archive(data: &[u8]) {
    let Ok(Opened::Guest(mut unpacker)) = open_archive(Box::new(Cursor::new(data.to_vec()))) else {
        return;
    };
    let folder = Folder::new();
    for (number, part) in unpacker.manifest.parts.clone().iter().enumerate() {
        let path = folder.within().join(number.to_string());
        std::fs::create_dir(&path).expect("a folder");
        let top = open_dir(&path).expect("the folder");
        // Every other one is passed over, which checks it as well.
        let into = (number % 2 == 0).then(|| (top.as_fd(), Path::new(&path)));
        if unpacker.part(part, into).is_err() {
            return;
        }
    }
    let _told = unpacker.finish();
}

/// What describes images and containers, by the first byte: documents of OCI and Docker, lists of image
/// servers, definitions of other programs, tables of partitions.
pub fn metadata(data: &[u8]) {
    let Some((which, data)) = data.split_first() else {
        return;
    };
    let text = String::from_utf8_lossy(data);
    match which % 10 {
        0 => drop(oci_manifest::Document::parse(data)),
        1 => drop(oci_manifest::saved(data)),
        2 => drop(oci_config::OciConfig::parse(data)),
        3 => drop(stream_index::lists(data)),
        4 => {
            let _told = stream_index::choose(data, "debian/12", None);
            let _near = stream_index::near(data, "debian/12");
        }
        5 => drop(stream_index::fits(&text)),
        6 => drop(plain_yaml::parse(&text)),
        7 => {
            let _told = foreign_pve::container(&text);
            let _told = foreign_openvz::container(&text);
            let _told = foreign_lxc::container(&text);
        }
        8 => {
            let _told = foreign_incus::container(&text);
            let _told = oci_token::Challenge::parse(&text);
        }
        _ => drop(partitions(&Disk(data))),
    }
}

/// Bytes as a disk; what reads beyond its end is a mistake of the reader's.
struct Disk<'a>(&'a [u8]);

impl Bytes for Disk<'_> {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let at = usize::try_from(offset).expect("an offset on the disk");
        buffer.copy_from_slice(&self.0[at..at + buffer.len()]);
        Ok(())
    }
}
