//! The tables of which a definition can have several: mounts, memory file systems, devices, limits
//! of block devices. A later layer replaces an entry of the same identity and adds the others.

use std::path::PathBuf;

use super::layer::entry;
use super::word::ModeBits;
use crate::model::Bytes;

entry! {
    /// `[[mount]]`: a host path shown inside.
    pub struct MountEntry by target {
        required {
            /// Absolute path on the host.
            source: PathBuf,
            /// Absolute path inside.
            target: PathBuf,
        }
        optional {
            /// Whether it is read-only inside.
            read_only: bool,
            /// Whether host ids 0… appear as the guest's.
            idmap: bool,
        }
    }
}

entry! {
    /// `[[tmpfs]]`: a memory file system inside.
    pub struct TmpfsEntry by target {
        required {
            /// Absolute path inside.
            target: PathBuf,
        }
        optional {
            /// Most bytes in it.
            size: Bytes,
            /// Mode of its top folder.
            mode: ModeBits,
        }
    }
}

entry! {
    /// `[[device]]`: a device node shown inside.
    pub struct DeviceEntry by path {
        required {
            /// Absolute path on the host, the same inside.
            path: PathBuf,
        }
        optional {
            /// Letters of `rwm`.
            access: String,
        }
    }
}

entry! {
    /// `[[io.device]]`: limits on one block device.
    pub struct BlockLimitEntry by device {
        required {
            /// Device node on the host.
            device: PathBuf,
        }
        optional {
            /// Bytes read a second.
            read: Bytes,
            /// Bytes written a second.
            write: Bytes,
            /// Reads a second.
            read_iops: u64,
            /// Writes a second.
            write_iops: u64,
        }
    }
}
