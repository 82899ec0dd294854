//! One of the guest's own files below /proc and /sys: what it says, and when it was asked for. Which there
//! are, and when they are written, is next door in `inside`.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::{Mode, OFlags};

use super::inside_rest::Rest;
use super::inside_text::{self as text, CpuTimes};
use crate::model::InsideFile;

/// A file that was asked for within this is written anew with another that is: whoever reads one most
/// often reads the others, and one look at the group is enough for all of them.
pub(super) const LATELY: Duration = Duration::from_secs(60);

/// A file of `inside`.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) kind: InsideFile,
    pub(super) file: OwnedFd,
    pub(super) inode: u64,
    /// How long it is.
    length: usize,
    /// Whether its readers are held also while the others are left alone: nobody has asked for it lately.
    pub(super) single: bool,
    /// When somebody was held because of it.
    pub(super) asked: Option<Instant>,
    /// The CPUs that it shows, if it has been written once.
    pub(super) cpus: Vec<u32>,
    /// What it says, if it has been written once; not of those that show CPUs, which are long.
    said: Option<String>,
}

impl Held {
    pub(super) fn open(folder: BorrowedFd<'_>, kind: InsideFile) -> Option<Self> {
        // The file is the guest's, who may hold a lease on it (fcntl(2)): opening must not wait for
        // its end. Once it is open for writing there can be none.
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = rustix::fs::openat(folder, kind.name(), flags, Mode::empty()).ok()?;
        let stat = rustix::fs::fstat(&file).ok()?;
        Some(Self {
            kind,
            file,
            inode: stat.st_ino,
            length: usize::try_from(stat.st_size).unwrap_or(0),
            single: false,
            asked: None,
            cpus: Vec::new(),
            said: None,
        })
    }

    /// What it says as /proc/stat, and how long it has said so.
    pub(super) fn read_stat(&self) -> (CpuTimes, Duration) {
        let mut bytes = vec![0; self.length];
        let n = rustix::io::pread(&self.file, &mut bytes, 0).unwrap_or(0);
        let times = text::read_stat(&String::from_utf8_lossy(&bytes[..n]));
        let written = rustix::fs::fstat(&self.file).ok().map(|stat| {
            let since = Duration::from_secs(u64::try_from(stat.st_mtime).unwrap_or(0));
            since + Duration::from_nanos(stat.st_mtime_nsec)
        });
        let age = written.and_then(|since| {
            let at = SystemTime::UNIX_EPOCH + since;
            SystemTime::now().duration_since(at).ok()
        });
        (times, age.unwrap_or_default())
    }

    /// Whether all it tells is which CPUs there are.
    pub(super) fn shows_cpus(&self) -> bool {
        matches!(
            self.kind,
            InsideFile::Cpuinfo | InsideFile::CpuOnline | InsideFile::CpuPresent
        )
    }

    /// In one call, so that nobody sees half of it; what was longer is cut. What it says already is not
    /// written again. Whether it says so now.
    pub(super) fn say(&mut self, text: String) -> bool {
        if self.said.as_ref() == Some(&text) {
            return true;
        }
        self.said = None;
        if rustix::io::pwrite(&self.file, text.as_bytes(), 0) != Ok(text.len()) {
            return false;
        }
        if text.len() < self.length {
            let _longer = rustix::fs::ftruncate(&self.file, text.len() as u64);
        }
        self.length = text.len();
        self.said = (!self.shows_cpus()).then_some(text);
        true
    }

    /// Whether its readers wait.
    pub(super) fn is_held(&self, rest: &Rest) -> bool {
        self.single || rest.free_until().is_none()
    }

    pub(super) fn was_asked_lately(&self, now: Instant) -> bool {
        self.asked
            .is_some_and(|at| now.saturating_duration_since(at) < LATELY)
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn the_list_of_cpus_is_not_kept_and_what_was_not_written_is_not_said() {
        let folder = std::env::temp_dir().join(format!("bulkhead-held-{}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let at = rustix::fs::open(&folder, flags, Mode::empty()).unwrap();
        for (kind, kept) in [(InsideFile::Cpuinfo, false), (InsideFile::Meminfo, true)] {
            let path = folder.join(kind.name());
            std::fs::write(&path, "something longer").unwrap();
            let mut held = Held::open(at.as_fd(), kind).unwrap();
            assert!(held.say("short\n".into()) && held.say("short\n".into()));
            assert_eq!(std::fs::read_to_string(&path).unwrap(), "short\n");
            assert_eq!(held.said.is_some(), kept, "{kind:?}");
            held.file = rustix::fs::open(&path, OFlags::RDONLY, Mode::empty()).unwrap();
            assert!(!held.say("other\n".into()));
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
