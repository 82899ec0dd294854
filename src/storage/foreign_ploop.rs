//! A private area of OpenVZ whose root is a disk in a file (ploop): `root.hdd/root.hds`, which qemu calls
//! `parallels`. It is read as any other disk is, by a confined helper.

use std::fs::File;
use std::path::Path;

use rustix::io::Errno;

use super::dirfd::{FileError, child_dir, child_file, names, open_dir};
use super::foreign_words::{named, plain_word};
use super::pack_format::PackError;

/// Begins the names of what a disk was changed by after a snapshot.
const DELTA: &[u8] = b"root.hds.";

/// The disk in a private area; `None` if its root is not in one.
///
/// # Errors
/// It is not there or cannot be read, or only one of several files that it is made of.
pub(super) fn disk_of(area: &Path) -> Result<Option<File>, PackError> {
    let shown = area.join("root.hdd");
    let folder = match child_dir(open_dir(area)?, c"root.hdd") {
        Ok(folder) => folder,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(e) => return Err(FileError::new("open folder", &shown, e).into()),
    };
    let all = names(&folder).map_err(|e| FileError::new("read", &shown, e))?;
    if let Some(delta) = all.iter().find(|name| name.to_bytes().starts_with(DELTA)) {
        let descriptor = shown.join("DiskDescriptor.xml");
        let merge = match descriptor.to_str().and_then(plain_word) {
            Some(path) => format!("`ploop snapshot-merge -A {path}`"),
            None => "`ploop snapshot-merge -A` and its DiskDescriptor.xml".to_owned(),
        };
        return Err(PackError::Newcomer(format!(
            "its disk has snapshots ({}), and root.hds alone is what it was before them: merge them first \
             where it is from, with {merge}",
            named(&delta.to_string_lossy())
        )));
    }
    let disk = child_file(&folder, c"root.hds");
    let disk = disk.map_err(|e| FileError::new("open", &shown.join("root.hds"), e))?;
    Ok(Some(disk))
}

#[cfg(test)]
mod tests {
    use super::super::seed::tests::TempDir;
    use super::*;

    #[test]
    fn a_disk_is_taken_if_it_is_one_file() {
        let area = TempDir::new("ploop");
        assert!(disk_of(area.path()).unwrap().is_none());
        let folder = area.path().join("root.hdd");
        std::fs::create_dir(&folder).unwrap();
        assert!(disk_of(area.path()).is_err());
        std::fs::write(folder.join("root.hds"), "x").unwrap();
        assert!(disk_of(area.path()).unwrap().is_some());
        std::fs::write(folder.join("root.hds.{5fbaabe3-6958}"), "x").unwrap();
        let said = disk_of(area.path()).unwrap_err().to_string();
        assert!(said.contains("snapshot-merge -A /"), "{said}");
        let odd = area.path().join("$(id)");
        std::fs::create_dir(&odd).unwrap();
        std::fs::rename(&folder, odd.join("root.hdd")).unwrap();
        let said = disk_of(&odd).unwrap_err().to_string();
        assert!(
            said.contains("snapshot-merge -A`") && !said.contains("$(id)"),
            "{said}"
        );
        std::fs::rename(odd.join("root.hdd"), &folder).unwrap();
        // A link leads nowhere.
        std::fs::remove_dir_all(&folder).unwrap();
        std::os::unix::fs::symlink("/etc", &folder).unwrap();
        assert!(disk_of(area.path()).unwrap().is_none());
    }
}
