//! An image from a stopped guest, or of what a snapshot keeps of one: its layers put together, what makes it this guest taken out. Keys,
//! machine id, names, addresses, logs, leases and histories go, the root password is locked; a guest
//! made from the image gets its own of each.

use super::build::finish;
use super::dirfd::{FileError, Owner, open_dir};
use super::first_boot::set_field;
use super::image::{Image, ImageError, Progress};
use super::import::of_tree;
use super::merged::Merged;
use super::merged_copy::{Copy, Fate};
use super::network_files::HEADER;
use super::oci_blobs::refused;
use super::saved::{Saved, tree_of_saved};
use super::seed::Seed;
use super::tag::tag_image;
use super::workshop::Workshop;
use crate::kernel::fault;
use crate::model::{GuestName, ImageName, Layout, merge_hosts};

/// Folders of which nothing is kept but themselves.
const EMPTIED: [&str; 8] = [
    "run",
    "tmp",
    "var/tmp",
    "var/run",
    "var/lib/dhcp",
    "var/lib/dhcpcd",
    "var/lib/systemd/network",
    "root/.ssh",
];
/// Files that belong to one guest.
const OWN: [&str; 7] = [
    "etc/hostname",
    "etc/machine-id",
    "var/lib/dbus/machine-id",
    "var/lib/systemd/random-seed",
    "var/lib/systemd/credential.secret",
    "var/lib/urandom/random-seed",
    "root/.bash_history",
];
/// Network files that the program writes, as long as they are its own.
const NETWORK: [&str; 3] = [
    "etc/resolv.conf",
    "etc/systemd/network/10-bulkhead.network",
    "etc/network/interfaces",
];

/// Makes an image of a guest, which must be stopped and stay so, and gives it a name; with `kept` of
/// what that has, which must stay.
///
/// # Errors
/// Its tree cannot be read, or is deeper than any tree needs to be; the disk is full. Nothing of what
/// failed is left.
pub fn publish_guest(
    layout: &Layout,
    guest: &GuestName,
    (below, kept): (&Image, Option<&Saved>),
    name: &ImageName,
    progress: &mut dyn FnMut(Progress),
) -> Result<Image, ImageError> {
    let workshop = Workshop::open(&layout.images(), "publish")?;
    let tree = match kept {
        Some(kept) => tree_of_saved(kept, below)?,
        None => Merged::open(layout, guest, below)?,
    };
    let pause = || fault::point().map_err(|e| FileError::new("make", &workshop.shown, e.errno));
    pause()?;
    progress(Progress::Phase(format!("copying guest {guest}")));
    let root = open_dir(&workshop.root())?;
    let top = tree
        .top()
        .map_err(|e| FileError::new("open", &workshop.root(), e))?;
    let copied = Copy::new(&root, &fate).all(&top);
    copied.map_err(|error| {
        let path = layout.guest(guest).join(&error.path);
        match error.source.raw_os_error() {
            Some(_) => ImageError::from(FileError::new("copy", &path, error.source)),
            None => refused(path.display().to_string(), error.source.to_string()),
        }
    })?;
    pause()?;
    let seed = Seed::open(&workshop.root())?;
    scrub(&tree, &seed)?;
    progress(Progress::Phase("hashing the image".into()));
    let source = format!("guest {guest}");
    let mut image = of_tree(&seed, source.clone());
    image.mounts = below.mounts.clone();
    image.config = below.config.clone();
    if !below.command.is_empty() {
        image.command = below.command.clone();
        image.stop_signal = below.stop_signal.clone();
        image.init = below.init;
    }
    let image = finish(layout, workshop, &seed, image)?;
    tag_image(layout, name, &image.digest, Some(&source))?;
    Ok(image)
}

/// What becomes of a path of the guest's.
fn fate(path: &[u8], folder: bool) -> Fate {
    let Ok(path) = std::str::from_utf8(path) else {
        return Fate::Keep;
    };
    let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
    let below = |top: &str| {
        path.strip_prefix(top)
            .is_some_and(|rest| rest.starts_with('/'))
    };
    let goes = EMPTIED.iter().any(|top| below(top))
        || OWN.contains(&path)
        || (parent == "etc/ssh" && name.starts_with("ssh_host_"))
        || (below("var/log") && !folder)
        || (parent == "var/log/journal" && is_machine_id(name))
        || name == ".bash_history"
        || name == ".ash_history";
    if goes { Fate::Drop } else { Fate::Keep }
}

/// Whether a journal's folder is called by a machine id, and a namespace behind it (`journalctl`(1)).
fn is_machine_id(name: &str) -> bool {
    let id = name.split('.').next().unwrap_or_default();
    id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Takes out of files what in them belongs to the guest.
fn scrub(tree: &Merged, seed: &Seed) -> Result<(), ImageError> {
    if let Some((text, owner)) = tree.read("etc/hosts")? {
        let own = merge_hosts(&String::from_utf8_lossy(&text), "");
        seed.owned_file("etc/hosts", owner, own.as_bytes())?;
    }
    if let Some((text, owner)) = tree.read("etc/shadow")? {
        seed.owned_file("etc/shadow", owner, &set_field(&text, "*", None))?;
    }
    for path in NETWORK {
        let written = tree.read(path)?;
        if written.is_some_and(|(text, _)| text.starts_with(HEADER.as_bytes())) {
            seed.remove(path)?;
        }
    }
    // Empty, as machine-id(5) wants it in an image.
    seed.owned_file("etc/machine-id", Owner::root(0o444), b"")?;
    Ok(())
}

#[cfg(test)]
mod tests {
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
            ("var/log/journal/remote", true, true),
            (
                "var/log/journal/0123456789abcdef0123456789abcdef",
                true,
                false,
            ),
            (
                "var/log/journal/0123456789abcdef0123456789abcdef.mail",
                true,
                false,
            ),
            ("var/log/apt/term.log", false, false),
            ("tmp", true, true),
            ("tmp/x", true, false),
            ("root/.ssh/authorized_keys", false, false),
            ("home/a/.bash_history", false, false),
            ("home/a/.ssh/config", false, true),
            ("srv/run/x", false, true),
            ("runner", false, true),
        ] {
            let is = fate(path.as_bytes(), folder) == Fate::Keep;
            assert_eq!(is, kept, "{path}");
        }
    }
}
