//! Where the partitions of a disk are: GUID partition tables and those of the master boot record, read
//! by bytes. A disk is a stranger's: every number is checked against its size, and what does not lie
//! on it is no partition. Types are not looked at; what is in one says what it is.

use std::io;

/// Part of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Partition {
    /// As Linux counts them, from 1; 0 is the whole disk.
    pub(super) number: u32,
    /// Where it begins, bytes.
    pub(super) offset: u64,
    /// How long it is, bytes.
    pub(super) length: u64,
}

/// Most entries of a table that are looked at.
const ENTRIES_MOST: u32 = 256;
/// Most bytes of one entry.
const ENTRY_MOST: u32 = 4096;
/// Sizes of sectors that disks have.
const SECTORS: [u64; 2] = [512, 4096];
/// Type of the one entry that a disk with a GUID partition table has in its master boot record.
const PROTECTIVE: u8 = 0xee;

/// Reads bytes of a disk.
pub(super) trait Bytes {
    /// How many there are.
    fn size(&self) -> u64;
    /// Fills `buffer` from `offset` on.
    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
}

/// The partitions of a disk, in the order of its table; none if it has no table.
///
/// # Errors
/// It cannot be read.
pub(super) fn partitions(disk: &impl Bytes) -> io::Result<Vec<Partition>> {
    let mut boot = [0; 512];
    if disk.size() < 1024 {
        return Ok(Vec::new());
    }
    disk.read(0, &mut boot)?;
    if boot[510..] != [0x55, 0xaa] {
        return Ok(Vec::new());
    }
    if entries(&boot).any(|entry| entry.0 == PROTECTIVE) {
        for sector in SECTORS {
            // The first table, and its copy at the end.
            let last = (disk.size() / sector).saturating_sub(1);
            for at in [1, last] {
                if let Some(found) = guid_table(disk, sector, at)? {
                    return Ok(found);
                }
            }
        }
        return Ok(Vec::new());
    }
    boot_record(disk, &boot)
}

/// A range of sectors as part of the disk, if it is.
fn part(disk: &impl Bytes, number: u32, sector: u64, first: u64, count: u64) -> Option<Partition> {
    let offset = first.checked_mul(sector)?;
    let length = count.checked_mul(sector)?;
    let end = offset.checked_add(length)?;
    (count > 0 && first > 0 && end <= disk.size()).then_some(Partition {
        number,
        offset,
        length,
    })
}

/// A GUID partition table whose header is in sector `at`; `None` if there is none.
fn guid_table(disk: &impl Bytes, sector: u64, at: u64) -> io::Result<Option<Vec<Partition>>> {
    let mut header = [0; 92];
    let Some(offset) = at.checked_mul(sector) else {
        return Ok(None);
    };
    if offset.saturating_add(92) > disk.size() {
        return Ok(None);
    }
    disk.read(offset, &mut header)?;
    let (count, size) = (u32_at(&header, 80), u32_at(&header, 84));
    if &header[..8] != b"EFI PART" || !(128..=ENTRY_MOST).contains(&size) {
        return Ok(None);
    }
    let Some(table) = u64_at(&header, 72).checked_mul(sector) else {
        return Ok(None);
    };
    let mut found = Vec::new();
    for index in 0..count.min(ENTRIES_MOST) {
        let at = table.checked_add(u64::from(index) * u64::from(size));
        let Some(at) = at.filter(|at| at.saturating_add(48) <= disk.size()) else {
            break;
        };
        let mut entry = [0; 48];
        disk.read(at, &mut entry)?;
        let (first, last) = (u64_at(&entry, 32), u64_at(&entry, 40));
        if entry[..16] == [0; 16] || last < first {
            continue;
        }
        let count = (last - first).saturating_add(1);
        found.extend(part(disk, index + 1, sector, first, count));
    }
    Ok(Some(found))
}

/// Type, first sector and number of sectors of the four entries of a boot record.
fn entries(record: &[u8; 512]) -> impl Iterator<Item = (u8, u64, u64)> + '_ {
    (0..4).map(move |index| {
        let at = 446 + index * 16;
        let first = u64::from(u32_at(record, at + 8));
        (record[at + 4], first, u64::from(u32_at(record, at + 12)))
    })
}

fn is_extended(kind: u8) -> bool {
    matches!(kind, 0x05 | 0x0f | 0x85)
}

fn boot_record(disk: &impl Bytes, boot: &[u8; 512]) -> io::Result<Vec<Partition>> {
    let mut found = Vec::new();
    for ((kind, first, count), number) in entries(boot).zip(1..) {
        if kind == 0 {
            continue;
        }
        let Some(whole) = part(disk, number, 512, first, count) else {
            continue;
        };
        if is_extended(kind) {
            extended(disk, whole, first, &mut found)?;
        } else {
            found.push(whole);
        }
    }
    Ok(found)
}

/// Partitions inside one: a chain of boot records, each with a partition and where the next is. It
/// goes forwards only, so it ends.
fn extended(
    disk: &impl Bytes,
    whole: Partition,
    base: u64,
    found: &mut Vec<Partition>,
) -> io::Result<()> {
    let mut at = base;
    for number in 5..5 + ENTRIES_MOST {
        let Some(offset) = at.checked_mul(512) else {
            break;
        };
        if offset.saturating_add(512) > whole.offset + whole.length {
            break;
        }
        let mut record = [0; 512];
        disk.read(offset, &mut record)?;
        if record[510..] != [0x55, 0xaa] {
            break;
        }
        let mut both = entries(&record);
        let (Some(own), Some(next)) = (both.next(), both.next()) else {
            break;
        };
        if own.0 != 0 {
            found.extend(part(disk, number, 512, at.saturating_add(own.1), own.2));
        }
        let onward = base.saturating_add(next.1);
        if !is_extended(next.0) || onward <= at {
            break;
        }
        at = onward;
    }
    Ok(())
}

/// A little-endian number at `at`; 0 beyond the end.
pub(super) fn u32_at(data: &[u8], at: usize) -> u32 {
    let bytes = data.get(at..at + 4).and_then(|b| b.try_into().ok());
    u32::from_le_bytes(bytes.unwrap_or_default())
}

/// The same of eight bytes.
fn u64_at(data: &[u8], at: usize) -> u64 {
    let bytes = data.get(at..at + 8).and_then(|b| b.try_into().ok());
    u64::from_le_bytes(bytes.unwrap_or_default())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    impl Bytes for Vec<u8> {
        fn size(&self) -> u64 {
            self.len() as u64
        }
        fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
            let at = usize::try_from(offset).unwrap();
            // A read beyond the end is a mistake of the parser's.
            buffer.copy_from_slice(&self[at..at + buffer.len()]);
            Ok(())
        }
    }

    fn put(disk: &mut [u8], at: usize, data: &[u8]) {
        disk[at..at + data.len()].copy_from_slice(data);
    }

    fn record(disk: &mut [u8], sector: usize, parts: &[(u8, u32, u32)]) {
        let base = sector * 512;
        put(disk, base + 510, &[0x55, 0xaa]);
        for (index, (kind, first, count)) in parts.iter().enumerate() {
            let at = base + 446 + index * 16;
            disk[at + 4] = *kind;
            put(disk, at + 8, &first.to_le_bytes());
            put(disk, at + 12, &count.to_le_bytes());
        }
    }

    fn guid(disk: &mut [u8], sector: usize, header: usize, table: u64, parts: &[(u64, u64)]) {
        let at = header * sector;
        put(disk, at, b"EFI PART");
        put(disk, at + 72, &table.to_le_bytes());
        put(disk, at + 80, &128_u32.to_le_bytes());
        put(disk, at + 84, &128_u32.to_le_bytes());
        for (index, (first, last)) in parts.iter().enumerate() {
            let at = usize::try_from(table).unwrap() * sector + index * 128;
            put(disk, at, &[7; 16]);
            put(disk, at + 32, &first.to_le_bytes());
            put(disk, at + 40, &last.to_le_bytes());
        }
    }

    fn found(disk: &Vec<u8>) -> Vec<(u32, u64, u64)> {
        let found = partitions(disk).unwrap();
        found
            .iter()
            .map(|p| (p.number, p.offset, p.length))
            .collect()
    }

    #[test]
    fn a_boot_record_with_partitions_in_one_another() {
        let mut disk = vec![0; 400 * 512];
        assert_eq!(found(&disk), []);
        record(
            &mut disk,
            0,
            &[(0x83, 1, 9), (0x83, 390, 20), (5, 100, 200)],
        );
        record(&mut disk, 100, &[(0x83, 2, 8), (5, 50, 100)]);
        record(&mut disk, 150, &[(0x83, 2, 18), (5, 0, 100)]);
        let expected = [
            (1, 512, 9 * 512),
            (5, 102 * 512, 8 * 512),
            (6, 152 * 512, 18 * 512),
        ];
        assert_eq!(found(&disk), expected);
    }

    #[test]
    fn a_guid_table_or_its_copy_at_the_end() {
        for sector in [512, 4096] {
            let mut disk = vec![0; 100 * sector];
            record(&mut disk, 0, &[(0xee, 1, 99)]);
            assert_eq!(found(&disk), []);
            guid(&mut disk, sector, 99, 90, &[(40, 49)]);
            let bytes = sector as u64;
            assert_eq!(found(&disk), [(1, 40 * bytes, 10 * bytes)]);
            guid(
                &mut disk,
                sector,
                1,
                2,
                &[(40, 99), (60, 50), (0, 3), (50, u64::MAX), (41, 41)],
            );
            assert_eq!(
                found(&disk),
                [(1, 40 * bytes, 60 * bytes), (5, 41 * bytes, bytes)]
            );
        }
    }

    proptest! {
        /// Whatever a table says, nothing beyond the disk is read or named.
        #[test]
        fn partitions_lie_on_the_disk(
            size in 0_usize..80_000,
            kinds in proptest::array::uniform4(prop_oneof![Just(0_u8), Just(5), Just(0xee), Just(0x83)]),
            numbers in proptest::array::uniform8(prop_oneof![0_u32..200, any::<u32>()]),
            header in proptest::array::uniform3(any::<u64>()),
            small in any::<bool>(),
            noise in proptest::collection::vec((0_usize..80_000, any::<u8>()), 0..200),
        ) {
            let mut disk = vec![0; size.max(2048)];
            let parts: Vec<_> = (0..4).map(|i| (kinds[i], numbers[2 * i], numbers[2 * i + 1])).collect();
            record(&mut disk, 0, &parts);
            put(&mut disk, 512, b"EFI PART");
            let table = if small { header[0] % 100 } else { header[0] };
            put(&mut disk, 512 + 72, &table.to_le_bytes());
            put(&mut disk, 512 + 80, &header[1].to_le_bytes());
            for (at, byte) in noise {
                let at = at % disk.len();
                if !(510..520).contains(&at) {
                    disk[at] = byte;
                }
            }
            disk.truncate(size.max(600));
            for part in partitions(&disk).unwrap() {
                prop_assert!(part.length > 0 && part.offset + part.length <= disk.len() as u64);
            }
        }
    }
}
