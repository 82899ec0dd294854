//! What a partition holds, by the bytes that say so: a filesystem of Linux, with the names that an
//! `fstab` calls it by, or what it is instead.

use std::io;

use super::partition::{Bytes, Partition};

/// Bytes at the beginning of a partition that tell what it is.
const BEGINNING: usize = 0x1_0400;

/// What is in a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// A filesystem that a Linux may lie on.
    Linux {
        /// As mount(2) calls it.
        kind: &'static str,
        /// Its UUID, as fstab(5) writes it.
        uuid: String,
        /// Its label, may be empty.
        label: String,
    },
    /// Something else that is known, for people.
    Other(&'static str),
    /// Nothing that is known.
    Unknown,
}

/// Where bytes lie and what they are.
type Magic = (usize, &'static [u8], &'static str);

/// What is no filesystem for a Linux root.
const OTHERS: [Magic; 14] = [
    (3, b"NTFS    ", "NTFS, of Windows"),
    (3, b"EXFAT   ", "exFAT"),
    (3, b"-FVE-FS-", "BitLocker, of Windows"),
    (54, b"FAT", "FAT"),
    (82, b"FAT32", "FAT"),
    (512 + 24, b"LVM2 001", "a volume of LVM"),
    (0, b"LUKS\xba\xbe", "encrypted (LUKS)"),
    (4086, b"SWAPSPACE2", "swap"),
    (4096, b"\xfc\x4e\x2b\xa9", "a member of a RAID"),
    (0, b"\xfc\x4e\x2b\xa9", "a member of a RAID"),
    (1372, b"\x19\x01\x54\x19", "UFS, of a BSD"),
    (
        0x1_0000 - 0x2000 + 1372,
        b"\x19\x01\x54\x19",
        "UFS, of a BSD",
    ),
    (32, b"NXSB", "APFS, of macOS"),
    (1024, b"H+", "HFS+, of macOS"),
];

/// What a partition holds.
///
/// # Errors
/// It cannot be read.
pub(super) fn content(disk: &impl Bytes, place: Partition) -> io::Result<Content> {
    let length = usize::try_from(place.length).unwrap_or(usize::MAX);
    let mut data = vec![0; length.min(BEGINNING)];
    disk.read(place.offset, &mut data)?;
    let is = |at: usize, magic: &[u8]| data.get(at..at + magic.len()) == Some(magic);
    let linux = |kind, uuid_at: usize, label_at: usize, label: usize| {
        let label = data.get(label_at..label_at + label).unwrap_or_default();
        let label = label.split(|b| *b == 0).next().unwrap_or_default();
        Content::Linux {
            kind,
            uuid: uuid(data.get(uuid_at..uuid_at + 16).unwrap_or_default()),
            label: String::from_utf8_lossy(label).into_owned(),
        }
    };
    // What lies over a filesystem that was there before it counts first.
    if let Some(found) = OTHERS.iter().find(|found| is(found.0, found.1)) {
        return Ok(Content::Other(found.2));
    }
    Ok(if is(0x400 + 56, &[0x53, 0xef]) {
        linux("ext4", 0x400 + 0x68, 0x400 + 0x78, 16)
    } else if is(0, b"XFSB") {
        linux("xfs", 32, 108, 12)
    } else if is(0x1_0040, b"_BHRfS_M") {
        linux("btrfs", 0x1_0020, 0x1_012b, 256)
    } else {
        Content::Unknown
    })
}

fn uuid(bytes: &[u8]) -> String {
    let mut text = String::new();
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content_of(pieces: &[(usize, &[u8])]) -> Content {
        let mut disk = vec![0; 0x2_0000];
        for (at, data) in pieces {
            disk[*at..*at + data.len()].copy_from_slice(data);
        }
        let whole = Partition {
            number: 0,
            offset: 0,
            length: disk.len() as u64,
        };
        content(&disk, whole).unwrap()
    }

    #[test]
    fn filesystems_are_known_by_their_bytes() {
        let id = *b"0123456789abcdef";
        let of = |kind, label: &str| Content::Linux {
            kind,
            uuid: "30313233-3435-3637-3839-616263646566".into(),
            label: label.into(),
        };
        let ext = content_of(&[(1080, &[0x53, 0xef]), (1128, &id), (1144, b"root")]);
        assert_eq!(ext, of("ext4", "root"));
        assert_eq!(content_of(&[(0, b"XFSB"), (32, &id)]), of("xfs", ""));
        let btrfs = content_of(&[(0x1_0040, b"_BHRfS_M"), (0x1_0020, &id), (0x1_012b, b"b")]);
        assert_eq!(btrfs, of("btrfs", "b"));
        let windows = content_of(&[(3, b"NTFS    "), (1080, &[0x53, 0xef])]);
        assert_eq!(windows, Content::Other("NTFS, of Windows"));
        assert_eq!(content_of(&[]), Content::Unknown);
    }

    #[test]
    fn a_tiny_partition_is_nothing() {
        let disk = vec![0xff; 4096];
        let place = Partition {
            number: 1,
            offset: 512,
            length: 512,
        };
        assert_eq!(content(&disk, place).unwrap(), Content::Unknown);
    }
}
