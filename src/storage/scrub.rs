//! What makes a guest this guest, and what it has been doing: keys, machine id, leases, logs, mail and
//! histories. An image that is made of it is made without (`publish`), and out of a clone it is taken
//! before the clone is written its own.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString, OsStr};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{self, FileType, Mode};
use rustix::io::Errno;

use super::dirfd::{FileError, names, stat_at};
use super::image::Image;
use super::merged::{Merged, split};
use super::merged_copy::Fate;
use super::merged_folder::{Entry, Folder, entry, is_whiteout};
use super::remove::remove_tree;
use super::root::{self, RootError};
use super::tree_item::failed;
use crate::kernel::{fault, interrupt};
use crate::model::{GuestName, Layout};

/// Folders in one another; each holds descriptors open.
const DEPTH_MOST: usize = 256;

/// Folders of which nothing is kept but themselves.
const EMPTIED: [&str; 9] = [
    "run",
    "tmp",
    "var/tmp",
    "var/run",
    "var/lib/dhcp",
    "var/lib/dhcpcd",
    "var/lib/NetworkManager",
    "var/lib/systemd/network",
    "root/.ssh",
];
/// Folders of which nothing is kept but the folders in them.
const FOLDERS_ONLY: [&str; 3] = ["var/log", "var/mail", "var/spool/mail"];
/// Files that belong to one guest.
const OWN: [&str; 6] = [
    "etc/hostname",
    "etc/machine-id",
    "var/lib/dbus/machine-id",
    "var/lib/systemd/random-seed",
    "var/lib/systemd/credential.secret",
    "var/lib/urandom/random-seed",
];
/// What shells and other programs that one types into write down, in whatever folder.
const HISTORIES: [&str; 9] = [
    ".bash_history",
    ".ash_history",
    ".sh_history",
    ".zsh_history",
    ".python_history",
    ".mysql_history",
    ".psql_history",
    ".lesshst",
    ".viminfo",
];

/// What becomes of a path of the guest's.
pub(super) fn fate(path: &[u8], folder: bool) -> Fate {
    let (parent, name) = split(path);
    let below = |top: &&str| {
        path.strip_prefix(top.as_bytes())
            .is_some_and(|rest| rest.starts_with(b"/"))
    };
    let among = |all: &[&str], what: &[u8]| all.iter().any(|one| one.as_bytes() == what);
    let goes = EMPTIED.iter().any(below)
        || among(&OWN, path)
        || (parent == b"etc/ssh" && name.starts_with(b"ssh_host_"))
        || (parent == b"var/log/journal" && is_machine_id(name))
        || (!folder && FOLDERS_ONLY.iter().any(below))
        || (!folder && among(&HISTORIES, name));
    if goes { Fate::Drop } else { Fate::Keep }
}

/// Whether it is called as a machine id is: journald's folders are.
fn is_machine_id(name: &[u8]) -> bool {
    name.len() == 32 && name.iter().all(u8::is_ascii_hexdigit)
}

/// Takes all of it out of the root of a guest that never ran. What only its own layer has is removed;
/// what layers below it have is hidden, for it is not this guest's alone.
///
/// # Errors
/// A file cannot be removed, or folders lie too deep in one another.
pub fn scrub_root(layout: &Layout, name: &GuestName, image: &Image) -> Result<(), RootError> {
    let shown = root::folder(layout, name);
    let at = |e: Errno| FileError::new("clean", &shown, e);
    fault::point().map_err(|e| at(e.errno))?;
    let tree = Merged::open(layout, name, image)?;
    let top = tree.top();
    let top = top.map_err(|e| FileError::new("clean", &shown, e))?;
    folder(&tree, &top, &mut Vec::new(), 0)?;
    if let Some(upper) = &top.upper {
        fs::syncfs(upper).map_err(at)?;
    }
    Ok(fault::point().map_err(|e| at(e.errno))?)
}

fn folder(tree: &Merged, here: &Folder, path: &mut Vec<u8>, depth: usize) -> Result<(), FileError> {
    if depth > DEPTH_MOST {
        let why = format!("more than {DEPTH_MOST} folders deep");
        return Err(failed("clean", path, std::io::Error::other(why)));
    }
    let mut all = BTreeSet::new();
    for side in here.folders() {
        all.extend(names(side).map_err(|e| failed("read", path, e))?);
    }
    let length = path.len();
    for name in all {
        if interrupt::caught().is_some() {
            let stopped = std::io::Error::other("interrupted by a signal");
            return Err(failed("clean", path, stopped));
        }
        if length > 0 {
            path.push(b'/');
        }
        path.extend_from_slice(name.to_bytes());
        one(tree, here, &name, path, depth)?;
        path.truncate(length);
    }
    Ok(())
}

fn one(
    tree: &Merged,
    here: &Folder,
    name: &CString,
    path: &mut Vec<u8>,
    depth: usize,
) -> Result<(), FileError> {
    let found = entry(here, name).map_err(|e| failed("look at", path, e))?;
    let is_folder = matches!(found, Entry::Folder(_));
    match (fate(path, is_folder), found) {
        (_, Entry::Nothing) => Ok(()),
        (Fate::Drop, _) => drop_one(tree, here, name, path),
        (Fate::Keep, Entry::Folder(below)) => folder(tree, &below, path, depth + 1),
        (Fate::Keep, _) => Ok(()),
    }
}

fn drop_one(tree: &Merged, here: &Folder, name: &CStr, path: &[u8]) -> Result<(), FileError> {
    if let Some(upper) = &here.upper {
        remove_tree(upper, name, Path::new(OsStr::from_bytes(path)))?;
    }
    let at = |e: Errno| failed("hide", path, e);
    for lower in &here.lowers {
        let Some(stat) = stat_at(lower, name).map_err(at)? else {
            continue;
        };
        if !is_whiteout(&stat) {
            let place = tree.place(path);
            let (dir, name) = place.map_err(|e| failed("hide", path, e))?;
            fs::mknodat(&dir, &*name, FileType::CharacterDevice, Mode::empty(), 0).map_err(at)?;
        }
        break;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::dirfd::open_dir;
    use super::super::seed::tests::TempDir;
    use super::*;

    #[test]
    fn what_is_this_guests_goes_and_nothing_else() {
        for (path, folder, kept) in [
            ("etc/ssh/ssh_host_ed25519_key", false, false),
            ("etc/ssh/sshd_config", false, true),
            ("etc/machine-id", false, false),
            ("var/log/syslog", false, false),
            ("var/log/apt", true, true),
            ("var/log/journal", true, true),
            (
                "var/log/journal/d3676777dfad1cbda38934af488642e6",
                true,
                false,
            ),
            ("var/log/apt/term.log", false, false),
            ("var/mail/root", false, false),
            ("var/mail", true, true),
            ("var/lib/dhcp/dhclient.leases", false, false),
            ("tmp", true, true),
            ("tmp/x", true, false),
            ("root/.ssh/authorized_keys", false, false),
            ("root/.bash_history", false, false),
            ("home/a/.bash_history", false, false),
            ("home/a/.bash_history", true, true),
            ("home/a/.ssh/config", false, true),
            ("srv/run/x", false, true),
            ("runner", false, true),
        ] {
            let is = fate(path.as_bytes(), folder) == Fate::Keep;
            assert_eq!(is, kept, "{path}");
        }
        assert_eq!(fate(b"home/\xff/.bash_history", false), Fate::Drop);
    }

    #[test]
    fn what_lies_below_is_hidden_and_stays_for_others() {
        if !rustix::process::geteuid().is_root() {
            // Whiteouts are root's.
            return;
        }
        let temp = TempDir::new("scrub");
        let [upper, lower] = ["upper", "lower"].map(|name| temp.path().join(name));
        for (layer, path) in [
            (&upper, "tmp/own/deep"),
            (&upper, "root/.bash_history"),
            (&upper, "srv/x"),
            (&lower, "tmp/below"),
            (&lower, "root/.bash_history"),
            (&lower, "var/log/boot"),
            (&lower, "srv/y"),
        ] {
            let path = layer.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "x").unwrap();
        }
        std::os::unix::fs::symlink("/srv", upper.join("run")).unwrap();
        let tree = Merged::over(open_dir(&upper).unwrap(), vec![lower.clone()], &upper);
        folder(&tree, &tree.top().unwrap(), &mut Vec::new(), 0).unwrap();
        for path in [
            "tmp/own/deep",
            "tmp/below",
            "root/.bash_history",
            "var/log/boot",
        ] {
            assert!(tree.stat(path).is_none(), "{path}");
        }
        for path in ["tmp", "root", "var/log", "srv/x", "srv/y", "run/x"] {
            assert!(tree.stat(path).is_some(), "{path}");
        }
        assert!(!upper.join("tmp/own").exists());
        assert!(lower.join("root/.bash_history").exists() && lower.join("tmp/below").exists());
    }
}
