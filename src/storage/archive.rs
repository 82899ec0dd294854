//! The `tar` kind: a root filesystem from an archive on the host. Opens it by what it begins with,
//! whatever its name, and has `extract` write it; decompressing is `archive_stream`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::archive_entry::{ArchiveError, Limits};
use super::archive_stream;
use super::build::{Built, Job, file_identity};
use super::dirfd;
use super::extract::extract;
use super::image::{ImageError, Progress};

/// Bytes between two reports.
const REPORT: u64 = 4 << 20;

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
    let failed = |source: ArchiveError| ImageError::Archive {
        path: path.clone(),
        source: Box::new(source),
    };
    let unreadable = |source: io::Error| {
        failed(ArchiveError::Read {
            entry: "(none)".into(),
            source,
        })
    };
    // Looked at before it is opened: opening a FIFO would wait for a writer.
    let refused = |what: &str| job.refuse(format!("archive {} {what}", path.display()));
    match std::fs::metadata(&path) {
        Ok(meta) if meta.is_file() => {}
        Ok(_) => return Err(refused("is not a regular file")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(refused("is not there"));
        }
        Err(error) => return Err(refused(&format!("cannot be looked at: {error}"))),
    }
    job.phase(format!("unpacking {}", path.display()));
    let file = File::open(&path).map_err(unreadable)?;
    let meta = file.metadata().map_err(unreadable)?;
    let root = dirfd::open_dir(&job.root)?;
    let counted = Counted {
        input: file,
        done: 0,
        reported: 0,
        total: meta.len(),
        progress: job.progress,
    };
    let done = archive_stream::decompress(Box::new(counted), meta.len())
        .map_err(unreadable)
        .and_then(|input| extract(&root, input, Limits::default()).map_err(failed))?;
    if done.devices + done.xattrs > 0 {
        let (devices, xattrs) = (done.devices, done.xattrs);
        (job.progress)(Progress::Line(format!(
            "left out {devices} device nodes and {xattrs} extended attributes"
        )));
    }
    if done.entries == 0 {
        return Err(job.refuse(format!("{} holds no files", path.display())));
    }
    Ok(Built::default())
}

/// Counts what is read from the archive's file and reports it.
struct Counted<'a> {
    input: File,
    done: u64,
    reported: u64,
    total: u64,
    progress: &'a mut dyn FnMut(Progress),
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.input.read(buffer)?;
        self.done += n as u64;
        if self.done - self.reported >= REPORT || (n == 0 && self.reported != self.done) {
            self.reported = self.done;
            (self.progress)(Progress::Bytes {
                done: self.done,
                total: Some(self.total),
            });
        }
        Ok(n)
    }
}
