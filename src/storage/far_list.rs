//! What a machine elsewhere says of its files and its mounts, read: a stranger's text. The machine itself
//! is `far_machine`.

use std::collections::HashMap;
use std::io::{BufRead, Read as _};

use rustix::fs::{FileType, Stat};

use super::dirfd::file_type;
use super::foreign::Told;

/// Most bytes of a path.
const PATH_MOST: u64 = 4095;
/// Filesystems on disks, whose files are a part of the machine.
const DISKS: [&str; 9] = [
    "ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "jfs", "reiserfs", "zfs",
];

/// What is at each path there: its kind, size and time of last change, as find(1) says them.
pub(super) type Listing = HashMap<Vec<u8>, Vec<u8>>;

/// A text up to the next NUL; `None` at the end.
pub(super) fn word(lines: &mut impl BufRead) -> Result<Option<Vec<u8>>, String> {
    let mut name = Vec::new();
    let mut limited = lines.take(PATH_MOST + 2);
    let n = limited.read_until(0, &mut name);
    if n.map_err(|e| e.to_string())? == 0 {
        return Ok(None);
    }
    match name.pop() {
        Some(0) => Ok(Some(name)),
        _ => Err("a name there has more than 4095 bytes, or its list of files is cut off".into()),
    }
}

/// Whether a file here is the one there: of its kind, and a regular one of its size and time.
pub(super) fn is_same(what: &[u8], stat: &Stat) -> bool {
    let kind = match file_type(stat) {
        FileType::RegularFile => {
            let (size, time, part) = (stat.st_size, stat.st_mtime, stat.st_mtime_nsec);
            // GNU find writes one digit more, a zero.
            return what.starts_with(format!("f {size} {time}.{part:09}").as_bytes());
        }
        FileType::Directory => b"d ",
        FileType::Symlink => b"l ",
        FileType::Fifo => b"p ",
        _ => return false,
    };
    what.starts_with(kind)
}

/// Folders below the root that are filesystems on disks there, without the slash before them. What is
/// mounted there besides is told.
pub(super) fn volumes<'a>(
    mounts: impl Iterator<Item = &'a str>,
    root: &str,
    told: &mut Told,
) -> Vec<String> {
    let top = root.trim_end_matches('/');
    let mut found = Vec::new();
    for line in mounts.take(10_000) {
        let mut words = line.split(' ');
        let (Some(_), Some(place), Some(kind)) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        let Some(path) = place.strip_prefix(top).and_then(|p| p.strip_prefix('/')) else {
            continue;
        };
        let first = path.split('/').next().unwrap_or_default();
        if path.is_empty() || ["proc", "sys", "dev", "run", "tmp", "boot", "efi"].contains(&first) {
            continue;
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-/@+".contains(c);
        let sound = path.split('/').all(|part| !matches!(part, "" | "." | ".."));
        if DISKS.contains(&kind) && sound && path.chars().all(plain) {
            found.push(path.to_owned());
        } else if found.len() < 100 {
            told.note(format!(
                "/{path:.100} ({kind:.20}) is mounted there: not taken"
            ));
        }
    }
    found.sort();
    found.dedup();
    found.truncate(200);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filesystems_on_disks_are_taken_and_others_told() {
        let mounts = [
            "/dev/sda1 / ext4 rw 0 0",
            "proc /proc proc rw 0 0",
            "/dev/sda2 /home xfs rw 0 0",
            "/dev/sda2 /home xfs rw 0 0",
            "nas:/x /srv/nas nfs4 rw 0 0",
            "/dev/sdb1 /srv/a\\040b ext4 rw 0 0",
            "/dev/sdc1 /srv/../../x ext4 rw 0 0",
            "/dev/sda3 /boot ext4 rw 0 0",
            "tmpfs /run tmpfs rw 0 0",
            "odd",
        ];
        let mut told = Told::default();
        assert_eq!(volumes(mounts.into_iter(), "/", &mut told), ["home"]);
        assert_eq!(told.notes.len(), 3, "{:?}", told.notes);
        let below = [
            "/dev/sdb1 /mnt/old ext4 rw 0 0",
            "/dev/sdb2 /mnt/old/var ext4 rw 0 0",
        ];
        let mut told = Told::default();
        assert_eq!(volumes(below.into_iter(), "/mnt/old", &mut told), ["var"]);
    }
}
