//! What a layer of an OCI image says about the layers below it, put into overlayfs's words: a name
//! `.wh.NAME` hides NAME, which overlayfs says by a character device 0:0; `.wh..wh..opq` hides
//! everything in its folder, which overlayfs says by an attribute of that folder.

use std::ffi::{CStr, CString};
use std::io::Read;
use std::os::fd::OwnedFd;

use rustix::fs::{self, AtFlags, FileType, Mode, XattrFlags};
use rustix::io::Errno;

use super::archive_entry::{ArchiveError, Entry};
use super::archive_read::Reader;
use super::dirfd::{child_dir, cname, is_dir, stat_at};
use super::extract::{Writer, failed_at};
use super::extract_file::{Step, at};
use super::merged_folder::{OPAQUE, is_whiteout};

const PREFIX: &[u8] = b".wh.";
/// Names of aufs's own: only the one that hides a whole folder means anything.
const OF_AUFS: &[u8] = b".wh..wh.";
const HIDES_ALL: &[u8] = b".wh..wh..opq";

impl Writer<'_> {
    /// Carries out an entry that hides something; false for any other.
    pub(super) fn whiteout<R: Read>(
        &mut self,
        reader: &mut Reader<R>,
        entry: &Entry,
    ) -> Result<bool, ArchiveError> {
        let Some((name, parents)) = entry.path.split_last() else {
            return Ok(false);
        };
        let Some(hidden) = name.strip_prefix(PREFIX) else {
            return Ok(false);
        };
        let failed = |cause| failed_at(entry, cause);
        if name.starts_with(OF_AUFS) && name != HIDES_ALL {
            return Ok(true);
        }
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(reader.wrong("it hides a name that no file can have"));
        }
        let parent = self.parent(parents).map_err(failed)?;
        reader.count(self.take_made())?;
        if name == HIDES_ALL {
            make_opaque(&parent).map_err(failed)?;
            return Ok(true);
        }
        let hidden = cname(hidden).map_err(|e| failed(("name", e)))?;
        hide(&parent, &hidden).map_err(failed)?;
        Ok(true)
    }

    /// Where a folder is to be and this layer has hidden the name already: the folder then hides
    /// what is below it as well. False where there is no whiteout.
    pub(super) fn over_whiteout(&mut self, parent: &OwnedFd, name: &CString) -> Step<bool> {
        let there = at("look at", stat_at(parent, name))?;
        if !there.is_some_and(|stat| is_whiteout(&stat)) {
            return Ok(false);
        }
        self.make_way(parent, name)?;
        at(
            "create folder",
            fs::mkdirat(parent, &**name, Mode::from_raw_mode(0o755)),
        )?;
        make_opaque(&at("open folder", child_dir(parent, name))?)?;
        Ok(true)
    }

    /// The mode of a folder that no entry names: a layer's folders lie over those of the layers
    /// below, and these must not become more open, or closed, by it.
    pub(super) fn usual_mode(&self, parent: &OwnedFd, name: &CStr, path: &[Vec<u8>]) -> Step<()> {
        let path: Vec<&[u8]> = path.iter().map(Vec::as_slice).collect();
        let mode = match path.as_slice() {
            [b"root"] => 0o700,
            [b"tmp"] | [b"var", b"tmp"] => 0o1777,
            _ => return Ok(()),
        };
        if !self.layer {
            return Ok(());
        }
        let mode = Mode::from_raw_mode(mode);
        at(
            "set mode of",
            fs::chmodat(parent, name, mode, AtFlags::empty()),
        )
    }
}

fn make_opaque(folder: &OwnedFd) -> Step<()> {
    at(
        "set attributes of",
        fs::fsetxattr(folder, OPAQUE, b"y", XattrFlags::empty()),
    )
}

/// What this layer itself has of that name stays, and a folder of its own no longer shows what is
/// below it.
fn hide(parent: &OwnedFd, name: &CString) -> Step<()> {
    match at("look at", stat_at(parent, name))? {
        Some(stat) if is_dir(&stat) => make_opaque(&at("open folder", child_dir(parent, name))?),
        Some(_) => Ok(()),
        None => {
            let made = fs::mknodat(parent, &**name, FileType::CharacterDevice, Mode::empty(), 0);
            at(
                "make whiteout",
                made.or_else(|e| match e {
                    Errno::EXIST => Ok(()),
                    e => Err(e),
                }),
            )
        }
    }
}
