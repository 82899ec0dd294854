//! Folders that tests work in, and their end, also the end of those that a killed test left.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

/// On the root disk, as `/var/lib` is: `/tmp` may be a tmpfs.
const PARENT: &str = "/var/tmp";
const PREFIX: &str = "bulkhead-test-";

/// A folder of one test, `/var/tmp/bulkhead-test-PID-N`, removed when it is dropped.
#[derive(Debug)]
pub struct TestDir {
    path: PathBuf,
}

impl TestDir {
    /// An empty folder. The first call in a process also clears what dead processes left.
    #[allow(clippy::new_without_default)] // makes a folder: too much for a default
    pub fn new() -> Self {
        static SWEPT: Once = Once::new();
        static NEXT: AtomicU32 = AtomicU32::new(0);
        SWEPT.call_once(sweep);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = Path::new(PARENT).join(format!("{PREFIX}{}-{number}", std::process::id()));
        fs::create_dir(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        Self { path }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path in it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Writes a file in it and returns its path.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.join(name);
        fs::write(&path, text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        path
    }
}

impl Drop for TestDir {
    fn drop(&mut self) {
        match remove(&self.path) {
            Err(why) if std::thread::panicking() => eprintln!("{why}"),
            Err(why) => panic!("{why}"),
            Ok(()) => {}
        }
    }
}

/// Clears the folders of test processes that are gone, with the guests in them. One process does
/// it at a time; the others need not wait.
fn sweep() {
    let Some(_lock) = try_lock() else { return };
    for path in folders_of_the_dead() {
        let trouble = super::clear(&path);
        let removed = remove(&path);
        if !trouble.is_empty() || removed.is_err() {
            eprintln!(
                "left by an earlier test: {}: {trouble} {removed:?}",
                path.display()
            );
        }
    }
}

fn try_lock() -> Option<OwnedFd> {
    use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
    let flags = OFlags::CREATE | OFlags::CLOEXEC | OFlags::RDWR;
    let path = format!(
        "{PARENT}/{PREFIX}lock.{}",
        rustix::process::geteuid().as_raw()
    );
    let file = open(path, flags, Mode::RUSR | Mode::WUSR).ok()?;
    flock(&file, FlockOperation::NonBlockingLockExclusive).ok()?;
    Some(file)
}

fn folders_of_the_dead() -> Vec<PathBuf> {
    let pid_of = |path: &Path| -> Option<u32> {
        let name = path.file_name()?.to_str()?;
        name.strip_prefix(PREFIX)?.split_once('-')?.0.parse().ok()
    };
    let entries = fs::read_dir(PARENT)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    entries
        .filter(|path| pid_of(path).is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()))
        .collect()
}

/// Removes a folder and all in it. Mounts below it are taken off first: removing through a bind
/// mount would remove what it shows, the host's `/usr` perhaps.
fn remove(path: &Path) -> Result<(), String> {
    for mount in mounts_below(path).iter().rev() {
        let _ = Command::new("umount")
            .args(["-l", "--"])
            .arg(mount)
            .status();
    }
    let left = mounts_below(path);
    if !left.is_empty() {
        return Err(format!(
            "{}: still mounted, not removed: {left:?}",
            path.display()
        ));
    }
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(format!("{}: {e}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Mount points at or below a folder that this thread sees, in the order they were made
/// (proc_pid_mountinfo(5)).
fn mounts_below(folder: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/thread-self/mountinfo").expect("a mounted /proc");
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    points
        .map(PathBuf::from)
        .filter(|point| point.starts_with(folder))
        .collect()
}
