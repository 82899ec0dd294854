//! What a newer image brings a guest that lies over an older one, and what of it the guest does not see
//! because its own layer has something there. The guest's layer is a stranger's: looked at by
//! descriptor, a name at a time, nothing in it followed or read.

use std::os::fd::{AsFd as _, OwnedFd};

use rustix::io::Errno;
use serde::Serialize;

use super::chain::Chain;
use super::dirfd::{FileError, child_dir, cname, is_dir, open_dir, stat_at};
use super::image::Image;
use super::merged_folder::{is_opaque, is_whiteout};
use super::tree_diff::{self, ChangeKind, Stack, TreeDiff};
use super::tree_item::failed;
use super::tree_name::bytes_of;
use super::tree_same::Proof;
use super::{place, root};
use crate::model::{GuestName, Layout};

/// A change of the image that a guest does not see.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Hidden {
    /// Its path inside the guest, written as in [`super::TreeChange`].
    pub path: String,
    /// What the newer image did to it.
    pub base: ChangeKind,
    /// What the guest has there.
    pub own: Own,
}

/// What of a guest's own layer hides what is below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Own {
    /// A file of its own, there or in the place of a folder above.
    File,
    /// It removed it.
    Removed,
    /// A folder of its own, with its owner and mode, or made anew in the place of the image's.
    Folder,
}

/// What two images have different, the older first.
///
/// # Errors
/// One of them cannot be read; it was interrupted.
pub fn image_changes(old: &Image, new: &Image) -> Result<TreeDiff, FileError> {
    let stack = |image: &Image| -> Result<Stack, FileError> {
        let layers = image
            .lowers()
            .iter()
            .map(|tree| open_dir(tree))
            .collect::<Result<_, _>>()?;
        Ok(Stack { layers, own: 0 })
    };
    // They are no copies of one filesystem: nothing but their data shows that two files are the same.
    tree_diff::diff(&stack(old)?, &stack(new)?, Proof { settled: 0 })
}

/// Those of an image's changes that a guest's own layer hides. The guest's lock is held.
///
/// # Errors
/// The layer cannot be read.
pub fn hidden_changes(
    layout: &Layout,
    name: &GuestName,
    changes: &TreeDiff,
) -> Result<Vec<Hidden>, FileError> {
    let path = root::folder(layout, name);
    let folder = open_dir(&path)?;
    let chain = Chain::read(folder.as_fd()).map_err(|e| FileError::new("read", &path, e))?;
    // A filesystem in a file is mounted as long as this lives.
    let opened = place::object(layout, name)?.open()?;
    let upper = child_dir(&opened.folder, c"upper");
    let mut layers = vec![upper.map_err(|e| FileError::new("open", &opened.shown, e))?];
    for tree in chain.trees() {
        layers.push(open_dir(&tree)?);
    }
    let mut hidden = Vec::new();
    for change in &changes.changes {
        let bytes = bytes_of(&change.path);
        let own = own(&layers, &bytes, change.kind).map_err(|e| failed("look at", &bytes, e))?;
        hidden.extend(own.map(|own| Hidden {
            path: change.path.clone(),
            base: change.kind,
            own,
        }));
    }
    Ok(hidden)
}

/// What of these layers, topmost first, hides what the image has at `path`.
fn own(layers: &[OwnedFd], path: &[u8], base: ChangeKind) -> rustix::io::Result<Option<Own>> {
    for layer in layers {
        let mut here = layer.try_clone().map_err(|_| Errno::MFILE)?;
        let parts = path.split(|b| *b == b'/').filter(|part| !part.is_empty());
        let mut merges = !path.is_empty();
        for part in parts {
            let name = cname(part).map_err(|_| Errno::INVAL)?;
            let Some(stat) = stat_at(&here, &name)? else {
                merges = false;
                break;
            };
            if !is_dir(&stat) {
                let removed = is_whiteout(&stat);
                return Ok(Some(if removed { Own::Removed } else { Own::File }));
            }
            here = match child_dir(&here, &name) {
                Ok(child) => child,
                // A running guest has put something else there.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(Some(Own::File)),
                Err(e) => return Err(e),
            };
            if is_opaque(&here) {
                return Ok(Some(Own::Folder));
            }
        }
        // A folder that both have is one folder, with the owner and the mode of the guest's part.
        if merges && matches!(base, ChangeKind::Meta | ChangeKind::Changed) {
            return Ok(Some(Own::Folder));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rustix::fs::{CWD, FileType, Mode, XattrFlags, mknodat, setxattr};

    use super::super::merged_folder::OPAQUE;
    use super::super::seed::tests::TempDir;
    use super::*;

    fn file(top: &Path, path: &str) {
        let path = top.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "text").unwrap();
    }

    fn asked(layers: &[OwnedFd], path: &str) -> Option<Own> {
        own(layers, &bytes_of(path), ChangeKind::Changed).unwrap()
    }

    #[test]
    fn what_the_guest_has_hides_what_the_image_brings() {
        let temp = TempDir::new("base-change");
        let (upper, kept) = (temp.path().join("upper"), temp.path().join("kept"));
        for top in [&upper, &kept] {
            std::fs::create_dir(top).unwrap();
        }
        file(&upper, "etc/passwd");
        file(&kept, "var/lib/status");
        file(&upper, "var/log/x");
        file(&kept, "blocked");
        std::os::unix::fs::symlink("/etc", upper.join("link")).unwrap();
        let layers = [open_dir(&upper).unwrap(), open_dir(&kept).unwrap()];
        assert_eq!(asked(&layers, "/etc/passwd"), Some(Own::File));
        assert_eq!(asked(&layers, "/etc/group"), None);
        assert_eq!(asked(&layers, "/var/lib/status"), Some(Own::File));
        // A file, or a link that is not followed, where the image has a folder.
        assert_eq!(asked(&layers, "/blocked/below"), Some(Own::File));
        assert_eq!(asked(&layers, "/link/passwd"), Some(Own::File));
        assert_eq!(asked(&layers, "/etc"), Some(Own::Folder));
        let added = own(&layers, b"etc", ChangeKind::Added).unwrap();
        assert_eq!(added, None);
        assert_eq!(asked(&layers, "/"), None);
    }

    #[test]
    fn whiteouts_and_opaque_folders_hide() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let temp = TempDir::new("base-change-marks");
        file(temp.path(), "srv/www/x");
        let gone = temp.path().join("srv/gone");
        let (kind, mode) = (FileType::CharacterDevice, Mode::empty());
        mknodat(CWD, &gone, kind, mode, 0).unwrap();
        let www = temp.path().join("srv/www");
        setxattr(&www, OPAQUE, b"y", XattrFlags::empty()).unwrap();
        let layers = [open_dir(temp.path()).unwrap()];
        assert_eq!(asked(&layers, "/srv/gone"), Some(Own::Removed));
        assert_eq!(asked(&layers, "/srv/gone/below"), Some(Own::Removed));
        assert_eq!(asked(&layers, "/srv/www/of-image"), Some(Own::Folder));
        assert_eq!(asked(&layers, "/srv/other"), None);
    }
}
