//! What is mounted in this process's mount namespace, by /proc/self/mountinfo (proc_pid_mountinfo(5)).

use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use super::error::{KernelError, Result};

/// A mount whose source is a name that somebody of ours gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// The name.
    pub source: String,
    /// Where it is.
    pub point: PathBuf,
}

/// The mounts of this type whose source begins so, in the order in which they were made.
///
/// # Errors
/// /proc cannot be read.
pub fn named(filesystem: &str, prefix: &str) -> Result<Vec<Named>> {
    let path = Path::new("/proc/self/mountinfo");
    let text = std::fs::read(path).map_err(KernelError::io("read", path.display()))?;
    // Mount points of others may be no text; those of ours have a source that is.
    Ok(read(&String::from_utf8_lossy(&text), filesystem, prefix))
}

/// Where the whole of a file system of these kinds is mounted, but below `within`.
///
/// # Errors
/// /proc cannot be read.
pub fn whole(kinds: &[&str], within: &Path) -> Result<Vec<PathBuf>> {
    let path = Path::new("/proc/self/mountinfo");
    let text = std::fs::read(path).map_err(KernelError::io("read", path.display()))?;
    let all = read_whole(&String::from_utf8_lossy(&text), kinds).into_iter();
    let points = all.map(|one| one.point);
    Ok(points.filter(|point| !point.starts_with(within)).collect())
}

/// A mount of the whole of a file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whole {
    /// Its number in the table, which statx(2) tells too.
    pub id: u64,
    /// Which kind of file system.
    pub kind: String,
    /// Where it is.
    pub point: PathBuf,
}

/// Those of these kinds in the text of a table.
#[must_use]
pub fn read_whole(text: &str, kinds: &[&str]) -> Vec<Whole> {
    let one = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        let mut words = left.split(' ');
        let id = words.next()?.parse().ok()?;
        let (root, point) = (words.nth(2)?, words.next()?);
        let kind = right.split(' ').next()?;
        (kinds.contains(&kind) && root == "/").then(|| Whole {
            id,
            kind: kind.to_owned(),
            point: unescape(point),
        })
    };
    text.lines().filter_map(one).collect()
}

fn read(text: &str, filesystem: &str, prefix: &str) -> Vec<Named> {
    let one = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        let mut words = right.split(' ');
        let (kind, source) = (words.next()?, words.next()?);
        (kind == filesystem && source.starts_with(prefix)).then_some(())?;
        Some(Named {
            source: source.to_owned(),
            point: unescape(left.split(' ').nth(4)?),
        })
    };
    text.lines().filter_map(one).collect()
}

/// A path with mountinfo's octal escapes (`\040` for a space) taken back.
pub(super) fn unescape(text: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|_| first == b'\\');
        let code = octal
            .and_then(|d| std::str::from_utf8(d).ok())
            .and_then(|d| u8::from_str_radix(d, 8).ok());
        match code {
            Some(code) => {
                bytes.push(code);
                rest = &tail[3..];
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_views_of_the_kernel_are_found() {
        let text = "1 0 0:1 / /proc rw - proc proc rw\n2 1 0:1 /sys /proc/sys ro - proc proc rw\n\
                    3 0 0:2 / /sys rw shared:2 - sysfs none rw\n4 0 0:3 / /c/r/proc rw - proc p rw\n\
                    5 0 0:4 / /c/rx rw - proc p rw\nbroken\n6 0 0:5 / /tmp rw - tmpfs none rw\n";
        let found = read_whole(text, &["proc", "sysfs"]);
        let found: Vec<_> = found
            .iter()
            .map(|one| (one.id, one.kind.as_str(), one.point.to_str().unwrap()))
            .collect();
        let all = [
            (1, "proc", "/proc"),
            (3, "sysfs", "/sys"),
            (4, "proc", "/c/r/proc"),
            (5, "proc", "/c/rx"),
        ];
        assert_eq!(found, all);
        assert!(whole(&["proc"], Path::new("/")).unwrap().is_empty());
    }

    #[test]
    fn mounts_are_known_by_their_type_and_source() {
        let text = "36 35 98:0 / /mnt/a\\040b rw,noatime master:1 - overlay ours/web/s1 ro\n\
                    37 35 98:0 / /mnt/c rw - overlay none ro\n\
                    38 35 0:9 / /d rw shared:3 - overlay ours/db/s2 ro,lowerdir=x\nbroken\n\
                    39 35 0:10 / /e rw - tmpfs ours/db/s3 rw\n\
                    40 35 0:11 / /f rw - overlay\n";
        let found = read(text, "overlay", "ours/");
        let points: Vec<_> = found
            .iter()
            .map(|one| one.point.to_str().unwrap())
            .collect();
        assert_eq!(points, ["/mnt/a b", "/d"]);
        assert_eq!(found[1].source, "ours/db/s2");
        assert_eq!(read(text, "overlay", "other/"), []);
    }
}
