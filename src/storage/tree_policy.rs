//! What a tree may get when it is made from items: everything, for what this host has packed
//! itself and can prove; or what a guest's own files may have, for a stream of a stranger.

use std::io;

use super::tree_item::{Item, What};
use crate::model::ID_BLOCK;

/// What may come into a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Policy {
    /// Whatever the items say.
    Everything,
    /// What a guest could have made, and the device nodes that a root has in `/dev`: no owner above
    /// the ids of a guest, no other devices, no attribute by which the host or a layer of an overlay
    /// would take something for its own.
    Guest,
}

/// Character devices that are the same in every guest: null, zero, full, random, urandom, tty,
/// console, ptmx, and the whiteout of an overlay.
const NODES: &[(u32, u32)] = &[
    (0, 0),
    (1, 3),
    (1, 5),
    (1, 7),
    (1, 8),
    (1, 9),
    (5, 0),
    (5, 1),
    (5, 2),
];

impl Policy {
    /// Refuses what may not come into the tree.
    pub(super) fn check(self, item: &Item) -> io::Result<()> {
        let refuse = |why| Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
        if self == Self::Everything {
            return Ok(());
        }
        if item.uid >= ID_BLOCK || item.gid >= ID_BLOCK {
            return refuse("its owner is above 65535, the highest id a guest has".to_owned());
        }
        match item.what {
            What::Device {
                block: false,
                major,
                minor,
            } if NODES.contains(&(major, minor)) => Ok(()),
            What::Device { major, minor, .. } => refuse(format!(
                "it is device {major}:{minor}; only those every guest has are taken"
            )),
            _ => Ok(()),
        }
    }

    /// Whether an attribute is set, or left out.
    pub(super) fn keeps(self, what: &What, name: &[u8], value: &[u8]) -> bool {
        if self == Self::Everything {
            return true;
        }
        let plain = matches!(what, What::File { .. } | What::Folder);
        match name {
            b"security.capability" => is_of_guest(value),
            b"system.posix_acl_access" | b"system.posix_acl_default" => plain,
            // What lies below a folder of the layer: nothing, or what another name shows.
            b"trusted.overlay.opaque" => matches!(value, b"y" | b"x"),
            b"trusted.overlay.redirect" => is_redirect(value),
            b"trusted.overlay.metacopy" => value.len() <= 256,
            _ => plain && name.starts_with(b"user.") && name.len() <= 255,
        }
    }
}

/// File capabilities that count in the guest's user namespace only (version 2), or in one below it
/// (version 3, whose owner is an id of the guest's).
fn is_of_guest(value: &[u8]) -> bool {
    match value.len() {
        20 => value[3] == 2,
        24 => {
            let owner = [value[20], value[21], value[22], value[23]];
            value[3] == 3 && u32::from_le_bytes(owner) < ID_BLOCK
        }
        _ => false,
    }
}

/// Where an overlay finds a renamed folder: a path inside the layer below.
fn is_redirect(value: &[u8]) -> bool {
    let mut parts = value
        .strip_prefix(b"/")
        .unwrap_or(value)
        .split(|b| *b == b'/');
    value.len() <= 4096
        && parts.all(|part| !matches!(part, b"" | b"." | b"..") && !part.contains(&0))
}
