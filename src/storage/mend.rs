//! A sound image or layer in the place of a damaged one of the same content: what is taken in again
//! exchanges its name with one that `verify` has marked, or would mark, or that is not whole. Guests that run go on over
//! the damaged one: it lies beside the others, as `aside-DIGEST-ID`, until none of them does.

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{self, RenameFlags};

use super::dirfd::{child_dir, child_file, cname, read_limited};
use super::image::{images, is_digest, users};
use super::verify::{MARK, are_of_record};
use crate::kernel::{fault, random};
use crate::model::{GuestName, Layout};

/// How the name of one begins that somebody may still run over.
pub(super) const ASIDE: &str = "aside-";
/// Most bytes of a record.
const RECORD_MOST: u64 = 1 << 20;

/// Whether the finished `new` is to come in the place of the one called `digest`, which is there in the
/// folder `images`: all of that is read.
pub(super) fn is_to_replace(
    (parent, images): (&OwnedFd, &Path),
    digest: &CString,
    new: &OwnedFd,
) -> io::Result<bool> {
    let there = child_dir(parent, digest)?;
    let has = |folder: &OwnedFd, name: &str| {
        fs::statat(folder, name, fs::AtFlags::SYMLINK_NOFOLLOW).is_ok()
    };
    if has(&there, MARK) || (has(new, "root") && child_dir(&there, c"root").is_err()) {
        return Ok(true);
    }
    let folder = images.join(&*digest.to_string_lossy());
    let mut records = ["image.json", "layer.json", "config.json"].into_iter();
    Ok(records.any(|name| has(new, name) && !is_record((&there, &folder), name, digest)))
}

/// Whether it can be read, and is the one of this digest, whose files are there, if it says whose it is.
fn is_record((there, folder): (&OwnedFd, &Path), name: &str, digest: &CString) -> bool {
    let text = cname(name)
        .and_then(|name| Ok(child_file(there, &name)?))
        .and_then(|file| read_limited(file, RECORD_MOST));
    let Ok(text) = text else { return false };
    let Ok(record) = serde_json::from_slice::<serde_json::Value>(&text) else {
        return false;
    };
    let says = record.get("digest").and_then(|says| says.as_str());
    let is_it = says.map(str::as_bytes) == Some(digest.as_bytes());
    name == "config.json"
        || (is_it && are_of_record(folder, &digest.to_string_lossy(), text.as_ref()))
}

/// Lets the finished folder `name` and the damaged one called `digest` exchange their names: `name` is
/// that of the damaged one then. Gives whether guests may run over it.
pub(super) fn exchange(
    layout: &Layout,
    parent: &OwnedFd,
    name: &mut CString,
    digest: &CString,
) -> io::Result<bool> {
    let shown = digest.to_string_lossy();
    let id = random::hex(4).map_err(|e| e.errno)?;
    let aside = cname(format!("{ASIDE}{shown}-{id}"))?;
    let used = is_run_over(layout, &shown);
    // First the name under which nobody takes away what somebody runs over, whatever ends this.
    fs::renameat_with(parent, &**name, parent, &*aside, RenameFlags::NOREPLACE)?;
    *name = aside;
    fault::point().map_err(|e| e.errno)?;
    fs::renameat_with(parent, &**name, parent, &**digest, RenameFlags::EXCHANGE)?;
    Ok(used)
}

/// Whether this folder is one that was put aside.
pub(super) fn is_aside(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| name.starts_with(ASIDE))
}

/// Whether what is called so was put aside, and no guest runs over it any more.
pub(super) fn is_left(layout: &Layout, name: &str) -> bool {
    let digest = name.strip_prefix(ASIDE).and_then(|rest| rest.get(..64));
    digest.is_some_and(|digest| is_digest(digest) && !is_run_over(layout, digest))
}

/// Whether a guest, or a snapshot that is mounted, may have the image or the layer of this digest below
/// it. Where that is not known, it may.
fn is_run_over(layout: &Layout, digest: &str) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let is_used = |image: &str| {
        let Ok(names) = users(layout, image) else {
            return true;
        };
        names.iter().any(|name| {
            let mounted = format!(" {}/{name}/", layout.kernel_name());
            mounts.contains(&mounted) || runs(layout, name)
        })
    };
    let Ok(all) = images(layout) else { return true };
    is_used(digest)
        || all.iter().any(|image| match image {
            Ok(image) => image.layers.iter().any(|layer| layer == digest) && is_used(&image.digest),
            // Nobody knows which layers it has.
            Err(_) => layout.images().join("layers").join(digest).exists(),
        })
}

/// Whether it does, as far as its record of that says.
fn runs(layout: &Layout, guest: &str) -> bool {
    let name = guest.parse::<GuestName>();
    name.is_ok_and(|name| layout.guest_run(&name).join("state.json").exists())
}
