//! Whether containers whose groups are not open are frozen: one read each.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::{CgroupError, Host, Result};
use crate::model::CgroupPlace;

/// The hierarchy in which it is read, opened once for all that are asked about.
#[derive(Debug)]
pub struct Frozen {
    top: Option<(OwnedFd, PathBuf)>,
    file: &'static str,
}

impl Frozen {
    /// The hierarchy of a host; of one that cannot be opened nobody is taken to be frozen.
    #[must_use]
    pub fn of(host: &Host) -> Self {
        let (at, file) = match (&host.v2, host.v1.get("freezer")) {
            (Some(at), _) => (Some(at), "cgroup.freeze"),
            (None, at) => (at, "freezer.self_freezing"),
        };
        let open = |at: &PathBuf| {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let top = rustix::fs::open(at, flags, Mode::empty()).ok()?;
            Some((top, at.clone()))
        };
        let top = at.and_then(open);
        Self { top, file }
    }

    /// Whether a container is frozen, or about to be. One that is gone is not.
    ///
    /// # Errors
    /// When its group cannot be read.
    pub fn is(&self, place: &CgroupPlace) -> Result<bool> {
        let Some((top, at)) = &self.top else {
            return Ok(false);
        };
        let path = place.path.strip_prefix("/").unwrap_or(&place.path);
        let path = Path::new(path).join(self.file);
        let read = || {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            let file = rustix::fs::openat(top, &path, flags, Mode::empty())?;
            // A digit and a newline: one call gets them.
            let mut text = [0; 4];
            rustix::io::read(&file, &mut text)?;
            Ok(text[0] == b'1')
        };
        match read() {
            Err(Errno::NOENT) => Ok(false),
            other => other.map_err(|errno| CgroupError::file("read", &at.join(&path), errno)),
        }
    }
}
