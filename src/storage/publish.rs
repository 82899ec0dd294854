//! An image from a stopped guest, or of what a snapshot keeps of one: its layers put together, what makes
//! it this guest taken out (`scrub`). The root password is locked; a guest made from the image gets names,
//! addresses and keys of its own.

use super::build::finish;
use super::dirfd::{FileError, Owner, open_dir};
use super::first_boot::set_field;
use super::image::{Image, ImageError, Progress};
use super::import::of_tree;
use super::merged::Merged;
use super::merged_copy::Copy;
use super::nesting_files;
use super::network_files::HEADER;
use super::oci_blobs::refused;
use super::saved::{Saved, tree_of_saved};
use super::scrub::fate;
use super::seed::Seed;
use super::tag::tag_image;
use super::workshop::Workshop;
use crate::kernel::fault;
use crate::model::{GuestName, ImageName, Layout, merge_hosts};

/// Network files that the program writes, as long as they are its own.
const NETWORK: [&str; 2] = ["etc/resolv.conf", "etc/network/interfaces"];
/// Folders with one of them for each interface.
const INTERFACES: [&str; 2] = [
    "etc/systemd/network",
    "etc/NetworkManager/system-connections",
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
    (below, kept): (&Image, Option<(&str, &Saved)>),
    name: &ImageName,
    progress: &mut dyn FnMut(Progress),
) -> Result<Image, ImageError> {
    let workshop = Workshop::open(&layout.images(), "publish")?;
    let tree = match kept {
        Some((_, saved)) => tree_of_saved(saved, below)?,
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
    let source = match kept {
        None => format!("guest {guest}"),
        Some((snapshot, _)) => format!("guest {guest}, snapshot {snapshot}"),
    };
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

/// Takes out of files what in them belongs to the guest.
fn scrub(tree: &Merged, seed: &Seed) -> Result<(), ImageError> {
    if let Some((text, owner)) = tree.read("etc/hosts")? {
        let own = merge_hosts(&String::from_utf8_lossy(&text), "");
        seed.owned_file("etc/hosts", owner, own.as_bytes())?;
    }
    if let Some((text, owner)) = tree.read("etc/shadow")? {
        seed.owned_file("etc/shadow", owner, &set_field(&text, "*", None))?;
    }
    let each = INTERFACES.iter().flat_map(|folder| {
        let names = seed.names(folder).into_iter();
        let ours = names.filter(|name| name.contains("bulkhead"));
        ours.map(move |name| format!("{folder}/{name}"))
    });
    let named = NETWORK.into_iter().chain(nesting_files::FILES);
    for path in named.map(str::to_owned).chain(each) {
        // Where something else is in the way there is nothing of ours.
        let written = tree.read(&path).ok().flatten();
        if written.is_some_and(|(text, _)| text.starts_with(HEADER.as_bytes())) {
            seed.remove(&path)?;
        }
    }
    // Empty, as machine-id(5) wants it in an image.
    seed.owned_file("etc/machine-id", Owner::root(0o444), b"")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::merged::tests::tree;
    use super::super::seed::tests::TempDir;
    use super::*;

    #[test]
    fn what_the_program_wrote_for_this_guest_is_in_no_image() {
        if !rustix::process::geteuid().is_root() {
            // Files of a guest belong to root.
            return;
        }
        let temp = TempDir::new("publish");
        let tree = tree(&temp);
        let ours = format!("{HEADER}x\n");
        let [podman, lxc] = nesting_files::FILES;
        tree.write(podman, ours.as_bytes(), Owner::root(0o644))
            .unwrap();
        tree.write(lxc, b"mine\n", Owner::root(0o644)).unwrap();
        // The image's root, as it is when the guest's files have been copied; a folder is a file there.
        let upper = temp.path().join("upper");
        std::fs::write(upper.join("etc/network"), "").unwrap();
        let seed = Seed::open(&upper).unwrap();
        scrub(&tree, &seed).unwrap();
        assert!(!upper.join(podman).exists() && upper.join(lxc).exists());
    }
}
