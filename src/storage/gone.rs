//! Files that an earlier step of a dry run would have taken away: a later one does not count them again.

use std::collections::HashSet;
use std::os::fd::OwnedFd;

use rustix::fs::Stat;

use super::dirfd::{below, cname, stat_at};
use super::merged;

/// Them, by device and inode. Of a run that does what it says there are none.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Gone(HashSet<(u64, u64)>);

impl Gone {
    pub(super) fn add(&mut self, stat: &Stat) {
        self.0.insert((stat.st_dev, stat.st_ino));
    }

    /// The files of these paths. One that cannot be looked at has not been counted either.
    pub(super) fn add_paths(&mut self, top: &OwnedFd, paths: &[Vec<u8>]) {
        for path in paths {
            let (parent, last) = merged::split(path);
            let (Ok(dir), Ok(name)) = (below(top, parent), cname(last)) else {
                continue;
            };
            if let Ok(Some(stat)) = stat_at(&dir, &name) {
                self.add(&stat);
            }
        }
    }

    pub(super) fn has(&self, stat: &Stat) -> bool {
        self.0.contains(&(stat.st_dev, stat.st_ino))
    }
}
