//! The `tar` kind: a root filesystem from an archive on the host. Opens it by what it begins with,
//! whatever its name, and has `extract` write it; decompressing is `archive_stream`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::archive_entry::{ArchiveError, Limits, NO_ENTRY};
use super::archive_stream;
use super::build::{Built, Job, file_identity};
use super::dirfd;
use super::extract::extract;
use super::image::{ImageError, Progress};
use super::oci_blobs::Meter;

/// What of the host decides a build: which file it is, without reading it.
pub(super) fn fingerprint(options: &BTreeMap<String, String>) -> String {
    options
        .get("archive")
        .map(|p| file_identity(Path::new(p)))
        .unwrap_or_default()
}

/// Builds the root.
pub(super) fn build(job: &mut Job<'_>) -> Result<Built, ImageError> {
    let path = PathBuf::from(job.option("archive"));
    if !path.is_absolute() {
        let given = path.display();
        return Err(job.refuse(format!(
            "option archive is {given:?}: give the absolute path of a .tar, .tar.gz, .tar.xz or .tar.zst"
        )));
    }
    let refused = |what: String| job.refuse(format!("archive {} {what}", path.display()));
    let file = open_regular(&path).map_err(refused)?;
    let root = dirfd::open_dir(&job.root)?;
    match unpack(&path, file, &root, job.progress)? {
        0 => Err(job.refuse(format!("{} holds no files", path.display()))),
        _ => Ok(Built::default()),
    }
}

/// Opens an archive of the host's.
///
/// # Errors
/// It is not there, or no regular file; as the end of a sentence.
pub(super) fn open_regular(path: &Path) -> Result<File, String> {
    // Looked at before it is opened: opening a FIFO would wait for a writer.
    match std::fs::metadata(path) {
        Ok(meta) if meta.is_file() => {}
        Ok(_) => return Err("is not a regular file".into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err("is not there".into());
        }
        Err(error) => return Err(format!("cannot be looked at: {error}")),
    }
    File::open(path).map_err(|error| format!("cannot be opened: {error}"))
}

/// Unpacks the archive of a root, however it is compressed; gives the number of its entries.
pub(super) fn unpack(
    path: &Path,
    file: File,
    root: &std::os::fd::OwnedFd,
    progress: &mut dyn FnMut(Progress),
) -> Result<u64, ImageError> {
    let failed = |source: ArchiveError| ImageError::Archive {
        path: path.to_owned(),
        source: Box::new(source),
    };
    let unreadable = |source: io::Error| {
        failed(ArchiveError::Read {
            entry: NO_ENTRY.into(),
            source,
        })
    };
    progress(Progress::Phase(format!("unpacking {}", path.display())));
    let total = file.metadata().map_err(unreadable)?.len();
    let counted = Meter {
        input: file,
        done: 0,
        reported: 0,
        total,
        progress: &mut *progress,
    };
    let done = archive_stream::decompress(counted, total)
        .map_err(unreadable)
        .and_then(|input| extract(root, input, Limits::default()).map_err(failed))?;
    for note in done.notes() {
        progress(Progress::Note(note));
    }
    Ok(done.entries)
}
