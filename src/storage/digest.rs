//! The digest of a tree: SHA-256 over everything that makes up its content, in one order, and not
//! over what two builds of the same thing differ in (times, inode numbers, link counts).

use std::io::{self, Read};
use std::os::fd::AsFd;

use rustix::fs::{self, FileType};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use super::dirfd::{child_file, file_type};
use super::walk::{Met, walk};

/// What a tree holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Content {
    /// SHA-256, lower-case hexadecimal.
    pub(super) digest: String,
    /// Bytes of all regular files, hard links counted once each.
    pub(super) size: u64,
    /// Files of all types.
    pub(super) files: u64,
}

/// A failed read of a tree.
#[derive(Debug)]
pub(super) struct DigestError(pub(super) io::Error);

impl From<Errno> for DigestError {
    fn from(e: Errno) -> Self {
        Self(e.into())
    }
}

/// Digests the tree below `top`, and `extra`, which belongs to it without being in it.
pub(super) fn digest(top: impl AsFd, extra: &[u8]) -> Result<Content, DigestError> {
    let mut hash = Sha256::new();
    field(&mut hash, b"bulkhead-image-1");
    field(&mut hash, extra);
    let root = fs::fstat(top.as_fd())?;
    attributes(&mut hash, &root);
    let (mut size, mut files) = (0_u64, 0_u64);
    let mut buffer = vec![0; 256 << 10];
    walk(top, |met| {
        files += 1;
        size += one(&mut hash, met, &mut buffer)?;
        Ok::<(), DigestError>(())
    })?;
    Ok(Content {
        digest: hex(&hash.finalize()),
        size,
        files,
    })
}

fn attributes(hash: &mut Sha256, stat: &fs::Stat) {
    for number in [stat.st_mode, stat.st_uid, stat.st_gid] {
        hash.update(number.to_be_bytes());
    }
}

/// Adds one file; returns the bytes of its content.
fn one(hash: &mut Sha256, met: &Met<'_>, buffer: &mut [u8]) -> Result<u64, DigestError> {
    field(hash, met.path);
    attributes(hash, met.stat);
    match file_type(met.stat) {
        FileType::RegularFile => {
            let mut file = child_file(met.dir, met.name)?;
            xattrs(hash, &file)?;
            let mut length = 0_u64;
            let mut content = Sha256::new();
            loop {
                let n = file.read(buffer).map_err(DigestError)?;
                if n == 0 {
                    break;
                }
                content.update(&buffer[..n]);
                length += n as u64;
            }
            hash.update(content.finalize());
            Ok(length)
        }
        FileType::Directory => {
            xattrs(hash, super::dirfd::child_dir(met.dir, met.name)?)?;
            Ok(0)
        }
        FileType::Symlink => {
            let target = fs::readlinkat(met.dir, met.name, Vec::new())?;
            field(hash, target.as_bytes());
            Ok(0)
        }
        FileType::CharacterDevice | FileType::BlockDevice => {
            hash.update(met.stat.st_rdev.to_be_bytes());
            Ok(0)
        }
        _ => Ok(0),
    }
}

fn xattrs(hash: &mut Sha256, fd: impl AsFd) -> Result<(), DigestError> {
    let fd = fd.as_fd();
    let length = match fs::flistxattr_query(fd) {
        Ok(0) | Err(Errno::NOTSUP) => {
            hash.update(0_u64.to_be_bytes());
            return Ok(());
        }
        other => other?,
    };
    let mut list = vec![0; length];
    let used = fs::flistxattr(fd, list.as_mut_slice())?;
    list.truncate(used);
    let mut names: Vec<&[u8]> = list.split(|b| *b == 0).filter(|n| !n.is_empty()).collect();
    names.sort_unstable();
    hash.update((names.len() as u64).to_be_bytes());
    for name in names {
        let mut value = vec![0; fs::fgetxattr_query(fd, name)?];
        let used = fs::fgetxattr(fd, name, value.as_mut_slice())?;
        field(hash, name);
        field(hash, &value[..used]);
    }
    Ok(())
}

/// Adds bytes with their length, so that no two lists of fields look alike.
fn field(hash: &mut Sha256, data: &[u8]) {
    hash.update((data.len() as u64).to_be_bytes());
    hash.update(data);
}

/// Bytes as lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        write!(text, "{byte:02x}").ok();
        text
    })
}

/// SHA-256 over fields, hexadecimal.
pub(super) fn of_fields<'a>(fields: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut hash = Sha256::new();
    for data in fields {
        field(&mut hash, data);
    }
    hex(&hash.finalize())
}

#[cfg(test)]
mod tests {
    use super::super::dirfd::open_dir;
    use super::super::seed::tests::TempDir;
    use super::*;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    #[test]
    fn content_counts_and_time_does_not() {
        let temp = TempDir::new("digest");
        let make = |name: &str, text: &str, mode: u32, target: &str| {
            let root = temp.path().join(name);
            std::fs::create_dir_all(root.join("a/b")).unwrap();
            let file = root.join("a/file");
            std::fs::write(&file, text).unwrap();
            std::fs::set_permissions(file, std::fs::Permissions::from_mode(mode)).unwrap();
            symlink(target, root.join("a/b/link")).unwrap();
            digest(open_dir(&root).unwrap(), b"").unwrap()
        };
        let first = make("1", "text", 0o644, "x");
        std::thread::sleep(std::time::Duration::from_millis(5));
        assert_eq!(first, make("2", "text", 0o644, "x"));
        assert_eq!((first.size, first.files), (4, 4));
        for other in [
            make("3", "texT", 0o644, "x"),
            make("4", "text", 0o755, "x"),
            make("5", "text", 0o644, "y"),
        ] {
            assert_ne!(first.digest, other.digest);
        }
        let again = digest(open_dir(&temp.path().join("1")).unwrap(), b"extra").unwrap();
        assert_ne!(first.digest, again.digest);
    }
}
