//! What a machine elsewhere says of its files and its mounts, read: a stranger's text. The machine itself
//! is `far_machine`.

use std::collections::{HashMap, HashSet};
use std::io::{BufRead, Read as _};

use rustix::fs::{FileType, Stat};

use super::dirfd::file_type;
use super::foreign::Told;
use super::machine_fit::Left;

/// Most bytes of a path.
const PATH_MOST: u64 = 4095;
/// Most notes on what is not taken.
const NOTES_MOST: usize = 100;
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
    let mut found = Vec::new();
    for line in mounts.take(10_000) {
        let mut words = line.split(' ');
        let (Some(path), Some(kind)) = (mounted(line, root), words.nth(2)) else {
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
        } else if told.notes.len() < NOTES_MOST {
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

/// The folder that a line of a list of mounts is about, below the root.
fn mounted<'a>(line: &'a str, root: &str) -> Option<&'a str> {
    let place = line.split(' ').nth(1)?;
    place
        .strip_prefix(root.trim_end_matches('/'))?
        .strip_prefix('/')
}

/// Whether one of these mounts is a btrfs, which may have others in it that are no mounts.
pub(super) fn has_btrfs<'a>(mut mounts: impl Iterator<Item = &'a str>) -> bool {
    mounts.any(|line| line.split(' ').nth(2) == Some("btrfs"))
}

/// Tells of subvolumes in subvolumes, which neither tar(1) nor find(1) goes into: a NUL behind each.
pub(super) fn nested<'a>(
    found: &str,
    mounts: impl Iterator<Item = &'a str>,
    root: &str,
    told: &mut Told,
) {
    let mounts = mounts.take(10_000).filter_map(|line| mounted(line, root));
    let mounts: HashSet<&str> = mounts.collect();
    let left = Left::new(Vec::new(), None);
    let mut more = 0;
    for path in found.split_terminator('\0') {
        let path = path.strip_prefix("./").unwrap_or(path);
        // What is mounted is taken, or told already.
        if mounts.contains(path) || left.out("", path.as_bytes()) {
            continue;
        }
        if told.notes.len() >= NOTES_MOST {
            more += 1;
            continue;
        }
        let printable = |c: char| if c.is_control() { '?' } else { c };
        let path: String = path.chars().take(200).map(printable).collect();
        told.note(format!(
            "/{path} is a btrfs subvolume of its own there: not taken; mounted at its place \
             (mount -o subvol=) it is"
        ));
    }
    if more > 0 {
        told.note(format!("{more} more subvolumes are not taken"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subvolumes_that_are_not_taken_are_told() {
        let mounts = || {
            [
                "/dev/sda1 / btrfs rw 0 0",
                "/dev/sda1 /home btrfs rw 0 0",
                "nas:/x /srv nfs4 rw 0 0",
            ]
            .into_iter()
        };
        assert!(has_btrfs(mounts()) && !has_btrfs(mounts().skip(2)));
        let mut told = Told::default();
        let found = "./home\0./srv/a\nb\0./tmp/x\0./var/lib/machines\0";
        nested(found, mounts(), "/", &mut told);
        let begins = ["/srv/a?b is", "/var/lib/machines is"];
        assert_eq!(told.notes.len(), begins.len(), "{:?}", told.notes);
        for (note, begin) in told.notes.iter().zip(begins) {
            assert!(note.starts_with(begin), "{note}");
        }
        nested(&"./x\0".repeat(200), mounts(), "/", &mut told);
        assert_eq!(told.notes.len(), NOTES_MOST + 1);
        assert_eq!(told.notes[NOTES_MOST], "102 more subvolumes are not taken");
    }

    #[test]
    fn volumes_do_not_hide_what_is_not_taken() {
        let mut lines: Vec<String> = (0..150)
            .map(|n| format!("/dev/x /v{n} ext4 rw 0 0"))
            .collect();
        lines.push("nas:/x /zzz nfs4 rw 0 0".to_owned());
        let mut told = Told::default();
        let found = volumes(lines.iter().map(String::as_str), "/", &mut told);
        assert_eq!((found.len(), told.notes.len()), (150, 1));
    }

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
