//! What a guest's own layer takes, counted file by file.

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::io::Errno;

use super::dirfd::{self, FileError, child_dir};
use super::place;
use super::root::{RootError, folder};
use super::walk::walk;
use crate::model::{GuestName, Layout};

/// What a guest's own layer takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes on disk.
    pub bytes: u64,
    /// Files of all types.
    pub files: u64,
    /// Whether the guest changed folders so fast that not everything was counted.
    pub partial: bool,
}

/// Bytes and files of a guest's own layer. Safe while the guest runs.
///
/// # Errors
/// The guest has no root, or it cannot be read.
pub fn usage(layout: &Layout, name: &GuestName) -> Result<Usage, RootError> {
    let path = folder(layout, name);
    if !path.exists() {
        return Err(RootError::Missing {
            guest: name.clone(),
            path,
        });
    }
    let opened = place::open(layout, name)?;
    let upper = child_dir(&opened.folder, c"upper")
        .map_err(|e| FileError::new("measure", &opened.shown, e))?;
    measure(upper, &opened.shown).map_err(RootError::File)
}

fn measure(upper: OwnedFd, path: &Path) -> Result<Usage, FileError> {
    let mut usage = Usage::default();
    let mut linked = HashSet::new();
    let walked = walk(upper, |met| {
        let stat = met.stat;
        usage.files += 1;
        if stat.st_nlink < 2 || dirfd::is_dir(stat) || linked.insert((stat.st_dev, stat.st_ino)) {
            usage.bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
        }
        Ok::<(), Errno>(())
    });
    match walked {
        Ok(()) => Ok(usage),
        Err(Errno::STALE) => Ok(Usage {
            partial: true,
            ..usage
        }),
        Err(e) => Err(FileError::new("measure", path, e)),
    }
}
