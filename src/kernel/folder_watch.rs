//! Folders in which something may change (inotify(7)): told is that it has, and not what, so whoever hears
//! it looks at all of it.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;

use super::error::{KernelError, Result};
use super::process::timespec;

/// Tells when something in a folder changes.
#[derive(Debug)]
pub struct FolderWatch(OwnedFd);

impl FolderWatch {
    /// Looks at none yet.
    ///
    /// # Errors
    /// The user's inotify instances are used up.
    pub fn new() -> Result<Self> {
        let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
            .map_err(KernelError::on("watch", "folders"))?;
        Ok(Self(fd))
    }

    /// Those that are there; one that is looked at already is looked at on.
    pub fn look_at(&self, folders: &[PathBuf]) {
        let kinds = WatchFlags::CLOSE_WRITE
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVED_FROM
            | WatchFlags::DELETE
            | WatchFlags::CREATE;
        for folder in folders {
            let _not_there = inotify::add_watch(&self.0, folder, kinds);
        }
    }

    /// Waits for a change, or for the end of a process, which is true; or so long.
    ///
    /// # Errors
    /// The kernel says no.
    pub fn wait(&self, process: Option<&OwnedFd>, limit: Option<Duration>) -> Result<bool> {
        let mut fds = vec![PollFd::new(&self.0, PollFlags::IN)];
        fds.extend(process.map(|process| PollFd::new(process, PollFlags::IN)));
        let limit = limit.map(timespec);
        match poll(&mut fds, limit.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(KernelError::new("wait for", "a change", errno)),
        }
        let ended = fds.get(1).is_some_and(|fd| !fd.revents().is_empty());
        // What has changed is looked at, whatever it is.
        let mut events = [0_u8; 4096];
        while rustix::io::read(&self.0, &mut events).is_ok_and(|n| n > 0) {}
        Ok(ended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_replaced_is_heard() {
        let folder = std::env::temp_dir().join(format!("bh-watch-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let watch = FolderWatch::new().unwrap();
        watch.look_at(&[folder.clone(), "/nonexistent".into()]);
        std::fs::write(folder.join("a"), "1").unwrap();
        let began = std::time::Instant::now();
        let limit = Duration::from_secs(20);
        assert!(!watch.wait(None, Some(limit)).unwrap());
        std::fs::rename(folder.join("a"), folder.join("b")).unwrap();
        watch.wait(None, Some(limit)).unwrap();
        assert!(began.elapsed() < limit);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
