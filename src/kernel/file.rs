//! Files of the program itself: written whole or not at all, locked with a deadline, read with care.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;

use super::error::{KernelError, Result};
use super::fault;
use super::process::Identity;

/// Room for what most files hold, so that one call reads it. Without it the first ones are small.
const ONE_READ: usize = 8192;

/// Writes a file whole: to a temporary name beside it, synced, renamed over it, the folder synced.
/// Whoever reads sees the old content or the new, also after a power cut.
pub fn write_whole(path: &Path, data: &[u8], mode: u32) -> Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    replace(path, data, mode, true)?;
    File::open(dir)
        .and_then(|d| d.sync_all())
        .map_err(KernelError::io("sync", dir.display()))
}

/// The same without syncing, for what a reboot may forget.
pub fn write_runtime(path: &Path, data: &[u8], mode: u32) -> Result<()> {
    replace(path, data, mode, false)
}

fn replace(path: &Path, data: &[u8], mode: u32, sync: bool) -> Result<()> {
    fault::point()?;
    let temporary = temporary_name(path);
    let failed = |error| KernelError::io("write", path.display())(error);
    let done = (|| {
        let mut file = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(mode)
            .open(&temporary)?;
        file.write_all(data)?;
        if sync {
            file.sync_all()?;
        }
        fault::point().map_err(|error| error.errno)?;
        std::fs::rename(&temporary, path)
    })();
    if done.is_err() {
        // The error that matters is the one above.
        let _ignored = std::fs::remove_file(&temporary);
    }
    done.map_err(failed)?;
    fault::point()
}

/// `.NAME.PID.tmp` beside `path`: found by `doctor` when a writer was killed.
fn temporary_name(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}.tmp", std::process::id()))
}

/// Files in `folder` that a writer of [`write_whole`] left when it died.
pub fn abandoned(folder: &Path) -> Vec<PathBuf> {
    let writer = |name: &str| -> Option<u32> {
        let (_, pid) = name
            .strip_prefix('.')?
            .strip_suffix(".tmp")?
            .rsplit_once('.')?;
        pid.parse().ok()
    };
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter(|entry| {
            let pid = entry.file_name().to_str().and_then(writer);
            pid.is_some_and(|pid| Identity::of(pid).is_none())
        })
        .map(|entry| entry.path())
        .collect()
}

/// Reads a regular file of at most `most` bytes; `None` if there is none. Links are not followed.
pub fn read_small(path: &Path, most: u64) -> Result<Option<Vec<u8>>> {
    let failed = KernelError::io("read", path.display());
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = match File::options()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
    {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let wrong = |why: String| KernelError::new("read", path.display(), Errno::INVAL).because(why);
    let meta = file
        .metadata()
        .map_err(KernelError::io("read", path.display()))?;
    if !meta.is_file() {
        return Err(wrong("not a regular file".into()));
    }
    // Files of the kernel have no length.
    let length = usize::try_from(meta.len().min(most)).map_or(0, |n| n + 1);
    let mut data = Vec::with_capacity(if length > 1 { length } else { ONE_READ });
    file.take(most + 1).read_to_end(&mut data).map_err(failed)?;
    if data.len() as u64 > most {
        Err(wrong(format!("more than {most} bytes")))
    } else {
        Ok(Some(data))
    }
}

/// An exclusive lock on a file (flock(2)); let go when dropped, or when every process that
/// inherited the descriptor has ended.
#[derive(Debug)]
pub struct Lock(OwnedFd);

impl Lock {
    /// Takes the lock, waiting up to `limit`; `None` when somebody else holds it all that time.
    pub fn take(path: &Path, limit: Duration) -> Result<Option<Self>> {
        Self::take_by(path, limit, OFlags::CREATE)
    }

    /// The same of one that is there: makes no file, and gives `None` when there is none as well.
    pub fn take_there(path: &Path, limit: Duration) -> Result<Option<Self>> {
        Self::take_by(path, limit, OFlags::empty())
    }

    fn take_by(path: &Path, limit: Duration, how: OFlags) -> Result<Option<Self>> {
        let flags = how | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let deadline = Instant::now() + limit;
        let mut pause = Duration::from_millis(1);
        loop {
            let file = match rustix::fs::open(path, flags, Mode::from_raw_mode(0o600)) {
                Err(Errno::NOENT) if !how.contains(OFlags::CREATE) => return Ok(None),
                opened => opened.map_err(KernelError::on("open the lock", path.display()))?,
            };
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                // Whoever deletes the guest removes the file while holding it: then it locks nothing.
                Ok(()) if is_linked(&file) => return Ok(Some(Self(file))),
                Ok(()) => continue,
                Err(Errno::WOULDBLOCK | Errno::INTR) => {}
                Err(errno) => return Err(KernelError::new("take the lock", path.display(), errno)),
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }

    /// Who wrote their name into it last.
    #[must_use]
    pub fn holder(path: &Path) -> Option<String> {
        let text = read_small(path, 200).ok().flatten()?;
        let text = String::from_utf8_lossy(&text).trim().to_owned();
        (!text.is_empty()).then_some(text)
    }

    /// Writes who holds it, for the message of who waits.
    pub fn sign(&self, who: &str) {
        // Only a courtesy; the lock holds without it.
        let _ignored = rustix::fs::ftruncate(&self.0, 0)
            .and_then(|()| rustix::io::pwrite(&self.0, who.as_bytes(), 0).map(drop));
    }

    /// The descriptor.
    pub fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn is_linked(file: &OwnedFd) -> bool {
    rustix::fs::fstat(file).is_ok_and(|stat| stat.st_nlink > 0)
}

/// Makes a folder and its parents with mode 0700 where they are missing.
pub fn make_private_dir(path: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(KernelError::io("make the folder", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("bulkhead-file-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[test]
    fn a_file_is_written_whole_and_leaves_no_other() {
        let dir = folder("whole");
        let path = dir.join("a.json");
        write_whole(&path, b"one", 0o600).unwrap();
        write_whole(&path, b"two", 0o600).unwrap();
        assert_eq!(read_small(&path, 10).unwrap().unwrap(), b"two");
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1);
        assert!(read_small(&path, 2).is_err());
        assert!(read_small(&dir, 10).is_err());
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_lock_that_goes_while_it_is_waited_for_is_not_made_anew() {
        let dir = folder("lock-there");
        let path = dir.join("lock");
        let there = |limit| Lock::take_there(&path, limit).unwrap();
        assert!(there(Duration::ZERO).is_none());
        let held = Lock::take(&path, Duration::ZERO).unwrap().unwrap();
        assert!(there(Duration::ZERO).is_none());
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| there(Duration::from_secs(10)).is_none());
            std::fs::remove_file(&path).unwrap();
            drop(held);
            assert!(waiting.join().unwrap());
        });
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0);
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn only_what_the_dead_left_is_abandoned() {
        let dir = folder("abandoned");
        let mut gone = std::process::Command::new("true").spawn().unwrap();
        gone.wait().unwrap();
        let dead = format!(".a.json.{}.tmp", gone.id());
        let living = format!(".a.json.{}.tmp", std::process::id());
        for name in [&dead, &living, "a.json", ".a.tmp", ".1.tmp.x"] {
            std::fs::write(dir.join(name), "x").unwrap();
        }
        assert_eq!(abandoned(&dir), [dir.join(dead)]);
        assert_eq!(abandoned(&dir.join("none")), [] as [PathBuf; 0]);
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_lock_is_held_once() {
        let dir = folder("lock");
        let path = dir.join("l");
        let first = Lock::take(&path, Duration::ZERO).unwrap().unwrap();
        assert!(
            Lock::take(&path, Duration::from_millis(5))
                .unwrap()
                .is_none()
        );
        drop(first);
        assert!(Lock::take(&path, Duration::ZERO).unwrap().is_some());
        std::fs::remove_dir_all(dir).unwrap();
    }
}
