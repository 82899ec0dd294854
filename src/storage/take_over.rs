//! What the host writes into a guest that was one of another program: its name and its network, whose
//! files described another host's. Who it is (machine id, SSH host keys, accounts) it keeps.

use super::first_boot::{FirstBoot, FirstBootError, check, hostname, hosts, identity, network};
use super::image::Image;
use super::merged::Merged;
use crate::model::{GuestName, Layout};

/// Writes name and network into a guest's own layer, and a machine id if it is to have another.
///
/// # Errors
/// As for [`super::first_boot`].
pub fn take_over(
    layout: &Layout,
    name: &GuestName,
    image: &Image,
    boot: &FirstBoot,
    fresh: bool,
) -> Result<(), FirstBootError> {
    check(name, boot)?;
    let tree = Merged::open(layout, name, image)?;
    hostname(&tree, boot)?;
    hosts(&tree, boot)?;
    if fresh {
        identity(&tree, boot)?;
    }
    Ok(network(&tree, image, boot, true)?)
}

/// The machine id in a guest's files, if it is one; see machine-id(5).
#[must_use]
pub fn machine_id_of(layout: &Layout, name: &GuestName, image: &Image) -> Option<String> {
    machine_id_in(&Merged::open(layout, name, image).ok()?)
}

/// The same of a tree that is at hand.
pub(super) fn machine_id_in(tree: &Merged) -> Option<String> {
    let (data, _) = tree.read("etc/machine-id").ok()??;
    let text = String::from_utf8(data).ok()?.trim().to_owned();
    let hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    (text.len() == 32 && text.bytes().all(hex)).then_some(text)
}
