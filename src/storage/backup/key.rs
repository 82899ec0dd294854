//! The key file: 32 random bytes as one line of text, for its owner's eyes only. Whoever has it can
//! read every backup; without it nobody can. It may serve several repositories: each derives keys of
//! its own from it (`seal`).

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use super::super::digest::hex;
use super::super::dirfd::{FileError, ensure_private, open_dir};
use super::error::{BackupError, Result};
use crate::kernel::{fault, file, random};

/// What the line begins with.
const MARK: &str = "bulkhead-backup-key-1:";

/// The secret itself; never printed.
#[derive(Clone)]
pub(super) struct Key(pub(super) [u8; 32]);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(…)")
    }
}

/// Reads a key file.
///
/// # Errors
/// It is not there, is no key file, or others than its owner may read it.
pub(super) fn read(path: &Path) -> Result<Key> {
    let wrong = |why: &str| BackupError::Key {
        path: path.to_owned(),
        why: why.to_owned(),
    };
    let Some(text) = file::read_small(path, 4096)? else {
        return Err(wrong(
            "it is not there; without the key its backups cannot be read: name it with --key-file",
        ));
    };
    let meta = std::fs::metadata(path).map_err(|e| FileError::new("look at", path, e))?;
    if meta.mode() & 0o077 != 0 {
        return Err(wrong(
            "others than its owner may read or write it: chmod 600 it, and think about who could",
        ));
    }
    parse(&text).ok_or_else(|| wrong("it is no key file, or damaged: bring back your copy of it"))
}

fn parse(text: &[u8]) -> Option<Key> {
    let text = std::str::from_utf8(text).ok()?.trim_end();
    let digits = text.strip_prefix(MARK)?;
    unhex(digits).map(Key)
}

/// Hexadecimal digits, as they are written here, as bytes.
pub(super) fn unhex_any(digits: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let pairs = digits.as_bytes().chunks(2);
    pairs
        .map(|pair| Some(digit(*pair.first()?)? << 4 | digit(*pair.get(1)?)?))
        .collect()
}

/// 2·`N` of them.
pub(super) fn unhex<const N: usize>(digits: &str) -> Option<[u8; N]> {
    unhex_any(digits)?.try_into().ok()
}

/// Reads the key file, or makes one where there is none.
///
/// # Errors
/// What is there is no key file; it cannot be written.
pub(super) fn read_or_make(path: &Path) -> Result<Key> {
    // One without a byte is of a command that died before it had used the key.
    let empty = std::fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file() && meta.len() == 0);
    if empty {
        std::fs::remove_file(path).map_err(|e| FileError::new("remove", path, e))?;
    } else if path.symlink_metadata().is_ok() {
        return read(path);
    }
    let mut key = Key([0; 32]);
    random::fill(&mut key.0)?;
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    if !folder.is_dir() {
        ensure_private(folder)?;
    }
    let failed = |e| FileError::new("write", path, e);
    let mut new = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(failed)?;
    fault::point()?;
    new.write_all(format!("{MARK}{}\n", hex(&key.0)).as_bytes())
        .and_then(|()| new.sync_all())
        .map_err(failed)?;
    rustix::fs::fsync(open_dir(folder)?).map_err(|e| FileError::new("sync", folder, e))?;
    fault::point()?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::super::super::seed::tests::TempDir;
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_key_is_made_once_and_kept_private() {
        let temp = TempDir::new("backup-key");
        let path = temp.path().join("deep/key");
        assert!(read(&path).unwrap_err().to_string().contains("not there"));
        let key = read_or_make(&path).unwrap();
        assert_ne!(key.0, [0; 32]);
        assert_eq!(read_or_make(&path).unwrap().0, key.0);
        assert_eq!(read(&path).unwrap().0, key.0);
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
        assert_eq!(format!("{key:?}"), "Key(…)");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("chmod 600"));
        for bad in ["x", "bulkhead-backup-key-1:abcd", "bulkhead-backup-key-1:"] {
            std::fs::write(&path, bad).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            assert!(
                read_or_make(&path)
                    .unwrap_err()
                    .to_string()
                    .contains("no key file")
            );
        }
        std::fs::write(&path, "").unwrap();
        assert_ne!(read_or_make(&path).unwrap().0, key.0);
    }
}
