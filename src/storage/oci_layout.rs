//! An OCI layout in a folder of the host: `oci-layout`, `index.json`, `blobs/sha256/HEX`. The folder
//! may be a stranger's: everything in it is opened one name at a time, and only regular files are.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;

use super::dirfd::{FileError, child_dir, child_file, cname, open_dir, read_limited};
use super::image::ImageError;
use super::oci_blobs::{Blobs, Part, document, refused};
use super::oci_config::{DOCUMENT_MOST, sha256};

/// A layout in a folder.
#[derive(Debug)]
pub(super) struct Folder {
    dir: OwnedFd,
    shown: String,
}

impl Folder {
    /// Opens the folder at `path`.
    pub(super) fn open(path: &Path) -> Result<Self, FileError> {
        Ok(Self {
            dir: open_dir(path)?,
            shown: path.display().to_string(),
        })
    }

    /// A document of the layout itself.
    pub(super) fn own(&self, name: &str) -> Result<Vec<u8>, ImageError> {
        let read = || -> std::io::Result<Vec<u8>> {
            read_limited(child_file(&self.dir, &cname(name)?)?, DOCUMENT_MOST)
        };
        read().map_err(|e| refused(&self.shown, format!("{name}: {e}: it is no OCI layout")))
    }

    fn blob(&self, hex: &str) -> std::io::Result<File> {
        let blobs = child_dir(&child_dir(&self.dir, c"blobs")?, c"sha256")?;
        Ok(child_file(blobs, &cname(hex)?)?)
    }
}

impl Blobs for Folder {
    fn open(&self, part: &Part) -> Result<Box<dyn Read + '_>, ImageError> {
        let failed = |reason: String| refused(&self.shown, reason);
        let hex = sha256(&part.key).map_err(failed)?;
        let file = self
            .blob(hex)
            .map_err(|e| failed(format!("blobs/sha256/{hex}: {e}")))?;
        Ok(Box::new(file))
    }

    fn manifest(&self, part: &Part) -> Result<Vec<u8>, ImageError> {
        document(self, part)
    }

    fn shown(&self) -> &str {
        &self.shown
    }
}
