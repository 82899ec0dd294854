//! Attributes of a mount as a set, with the names that mount(8) and the OCI specification use. The
//! numbers are those of mount_setattr(2).

use serde::ser::SerializeSeq as _;
use serde::{Serialize, Serializer};

/// A set of MOUNT_ATTR_* bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MountFlags(pub u64);

/// What an option does to the attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlagChange {
    /// Bits to set.
    pub set: MountFlags,
    /// Bits to clear.
    pub clear: MountFlags,
}

const ATIME: u64 = 0x70;
const NAMES: [(&str, u64); 8] = [
    ("ro", 0x1),
    ("nosuid", 0x2),
    ("nodev", 0x4),
    ("noexec", 0x8),
    ("noatime", 0x10),
    ("strictatime", 0x20),
    ("nodiratime", 0x80),
    ("nosymfollow", 0x20_0000),
];
/// Options that take back what the other one sets.
const OPPOSITES: [(&str, &str); 6] = [
    ("rw", "ro"),
    ("suid", "nosuid"),
    ("dev", "nodev"),
    ("exec", "noexec"),
    ("diratime", "nodiratime"),
    ("symfollow", "nosymfollow"),
];

impl MountFlags {
    /// Not to be written through.
    pub const READ_ONLY: Self = Self(0x1);
    /// setuid bits mean nothing.
    pub const NOSUID: Self = Self(0x2);
    /// Device nodes mean nothing.
    pub const NODEV: Self = Self(0x4);
    /// Nothing can be executed.
    pub const NOEXEC: Self = Self(0x8);

    /// Both.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Without what is in `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether none is set.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether all of `other` is set.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// What an option such as `nosuid`, `exec` or `noatime` does; `None` if it is none of these.
    #[must_use]
    pub fn change(option: &str) -> Option<FlagChange> {
        let bit = |name: &str| NAMES.iter().find(|(n, _)| *n == name).map(|(_, bit)| *bit);
        let change = |set, clear| {
            Some(FlagChange {
                set: Self(set),
                clear: Self(clear),
            })
        };
        match option {
            // Times of access are one field of three values; relatime is the value 0, the kernel's
            // own choice, so that `norelatime` leaves it at that too.
            "relatime" | "norelatime" | "atime" | "nostrictatime" => change(0, ATIME),
            "noatime" | "strictatime" => change(bit(option)?, ATIME),
            _ => match OPPOSITES.iter().find(|(off, _)| *off == option) {
                Some((_, on)) => change(0, bit(on)?),
                None => change(bit(option)?, 0),
            },
        }
    }

    /// Every option that [`MountFlags::change`] knows.
    pub fn options() -> impl Iterator<Item = &'static str> {
        let times = ["relatime", "norelatime", "atime", "nostrictatime"];
        let names = NAMES.iter().map(|(name, _)| *name);
        names
            .chain(OPPOSITES.iter().map(|(off, _)| *off))
            .chain(times)
    }
}

impl Serialize for MountFlags {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(None)?;
        for (name, bit) in NAMES {
            if self.0 & bit != 0 {
                list.serialize_element(name)?;
            }
        }
        list.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_and_its_opposite_are_the_same_bit() {
        for (off, on) in OPPOSITES {
            let (off, on) = (MountFlags::change(off), MountFlags::change(on));
            assert_eq!(off.unwrap().clear, on.unwrap().set);
        }
        assert_eq!(MountFlags::change("size"), None);
        assert_eq!(MountFlags::change("noatime").unwrap().clear.0, ATIME);
        let usual = MountFlags::change("norelatime").unwrap();
        assert_eq!((usual.set.0, usual.clear.0), (0, ATIME));
        assert!(MountFlags::options().all(|o| MountFlags::change(o).is_some()));
    }
}
