//! Operations that rooms hand to the launch instead of acting themselves.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{GuestName, Prefix6, Shape};

/// One mount of a guest, in the order of a list. Host paths are resolved once, to descriptors, before
/// any code of the guest runs; targets are resolved inside the guest's root only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "mount", rename_all = "kebab-case")]
pub enum MountOp {
    /// A host path shown at `target`.
    Bind {
        /// Absolute host path.
        source: PathBuf,
        /// Absolute path inside.
        target: PathBuf,
        /// Read-only, and locked so.
        read_only: bool,
        /// Shift ids into the guest's block.
        idmap: bool,
        /// With everything mounted below it.
        recursive: bool,
    },
    /// A memory file system at `target`.
    Tmpfs {
        /// Absolute path inside.
        target: PathBuf,
        /// Most bytes.
        size: u64,
        /// Mode of the top folder.
        mode: u32,
    },
    /// Another root at `target`: no setuid bit and no device node in it counts.
    Root {
        /// Absolute path inside.
        target: PathBuf,
        /// How it comes about.
        root: RootOp,
    },
    /// Paths shown as empty; the guest cannot uncover them. Those that are not there are fine.
    Hide {
        /// Absolute paths inside.
        targets: Vec<PathBuf>,
    },
}

/// Where a guest's own layer lies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "in", rename_all = "kebab-case")]
pub enum Writable {
    /// A folder, mode 0700.
    Folder {
        /// Absolute host path.
        path: PathBuf,
    },
    /// The top folder of a filesystem in a file.
    Disk {
        /// Absolute host path of the file.
        file: PathBuf,
        /// Kind of filesystem, as mount(8) calls it.
        filesystem: String,
    },
    /// Memory, which is the guest's and gone with it.
    Memory {
        /// Most bytes.
        size: u64,
    },
}

/// How a guest's root filesystem comes about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "root", rename_all = "kebab-case")]
pub enum RootOp {
    /// An overlay of read-only image layers (topmost first) below the guest's own `upper`.
    Overlay {
        /// Image roots, topmost first; idmapped when the guest has a user namespace.
        lower: Vec<PathBuf>,
        /// What holds `upper` and `work` side by side.
        writable: Writable,
    },
    /// A folder that is the root.
    Directory {
        /// Absolute host path.
        path: PathBuf,
        /// Whether ids are shifted by an idmapped mount.
        idmap: bool,
        /// Whether the whole is read-only.
        read_only: bool,
    },
}

/// A folder to be made in a writable tree before mounting; used for mount points.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirOp {
    /// Absolute path inside.
    pub path: PathBuf,
    /// Mode bits.
    pub mode: u32,
}

impl NetOp {
    /// Whether it is done on the host, before the guest runs.
    #[must_use]
    pub fn is_outside(&self) -> bool {
        matches!(
            self,
            Self::Veth { .. }
                | Self::Routed { .. }
                | Self::Macvlan { .. }
                | Self::Passthrough { .. }
        )
    }

    /// The same with host ends that say whose they are.
    #[must_use]
    pub fn of(guest: &GuestName, mut ops: Vec<Self>) -> Vec<Self> {
        for op in &mut ops {
            if let Self::Veth {
                alias, guest_name, ..
            }
            | Self::Routed {
                alias, guest_name, ..
            } = op
            {
                *alias = Self::alias(guest, guest_name);
            }
        }
        ops
    }

    /// What the host's end of a guest's interface says of itself.
    #[must_use]
    pub fn alias(guest: &GuestName, inside: &str) -> String {
        format!("guest {guest} {inside}")
    }
}

/// One network operation of a launch. Names of host interfaces are the program's own, never a person's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "net", rename_all = "kebab-case")]
pub enum NetOp {
    /// On the host: a veth pair, one end on `bridge`, the other in the guest's namespace. The bridge
    /// is told the guest's hardware address and learns no other from it.
    Veth {
        /// Host end, such as `bh1a`.
        host_name: String,
        /// Name inside, such as `eth0`.
        guest_name: String,
        /// Bridge the host end joins.
        bridge: String,
        /// Hardware address inside.
        mac: [u8; 6],
        /// Largest packet.
        mtu: u32,
        /// Whether other isolated ports of the bridge are out of reach.
        isolated: bool,
        /// How fast it is.
        #[serde(default, skip_serializing_if = "Shape::is_none")]
        shape: Shape,
        /// What the host end says of itself: whose it is.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        alias: String,
    },
    /// On the host: a veth pair, one end with a route to the guest's address over it, the other in the
    /// guest's namespace. The host answers there for all it knows the way to.
    Routed {
        /// Host end.
        host_name: String,
        /// Name inside.
        guest_name: String,
        /// The guest's address.
        address: Ipv4Addr,
        /// The host's own, from which it speaks to the guest.
        gateway: Ipv4Addr,
        /// The guest's IPv6 address.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        address6: Option<Ipv6Addr>,
        /// Hardware address inside.
        mac: [u8; 6],
        /// Largest packet.
        mtu: u32,
        /// Group of interfaces the host end is in.
        group: u32,
        /// How fast it is.
        #[serde(default, skip_serializing_if = "Shape::is_none")]
        shape: Shape,
        /// What the host end says of itself: whose it is.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        alias: String,
    },
    /// On the host: an interface in the guest's namespace, on one of the host's own. Nothing of it is
    /// left on the host.
    Macvlan {
        /// The host's.
        parent: String,
        /// Name inside.
        guest_name: String,
        /// Hardware address inside.
        mac: [u8; 6],
        /// Largest packet.
        mtu: u32,
        /// Whether other guests on it are out of reach.
        isolated: bool,
    },
    /// On the host: an interface of the host's own, which moves into the guest's namespace as it is.
    Passthrough {
        /// Its name on the host.
        parent: String,
        /// Name inside.
        guest_name: String,
    },
    /// Inside: loopback up.
    Loopback,
    /// Inside: an address, and the interface up.
    Address {
        /// Name inside.
        interface: String,
        /// Address.
        address: Ipv4Addr,
        /// Prefix length.
        prefix: u8,
    },
    /// Inside: the default route.
    DefaultRoute {
        /// Gateway.
        gateway: Ipv4Addr,
    },
    /// Inside: an IPv6 address, at once, and no other that an advertisement could give.
    Address6 {
        /// Name inside.
        interface: String,
        /// Address.
        address: Ipv6Addr,
        /// Prefix length.
        prefix: u8,
    },
    /// Inside: a route of IPv6 to a network that the interface's address is not in by its length.
    Route6 {
        /// Name inside.
        interface: String,
        /// Where it leads.
        to: Prefix6,
        /// Gateway.
        gateway: Ipv6Addr,
    },
    /// Inside: the default route of IPv6.
    DefaultRoute6 {
        /// Name inside.
        interface: String,
        /// Gateway.
        gateway: Ipv6Addr,
    },
}
