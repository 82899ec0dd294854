//! Headers of a tar stream for items: POSIX (PAX) with times to the nanosecond, extended attributes
//! as `SCHILY.xattr.*`, and holes as GNU tar's sparse format 1.0, so that GNU tar and bsdtar read it.

use tar::{EntryType, Header};

use super::tree_item::{Item, Time, What};

/// Length of a block.
pub(super) const BLOCK: usize = 512;
/// Longest name, and link, of a ustar header.
const NAME: usize = 100;
/// Largest number of an 8-byte field of octal digits.
const SMALL: u32 = 0o7_777_777;
/// Largest size that a ustar header holds.
const SIZE: u64 = 0o77_777_777_777;

/// Appends the headers of one item, which comes as `prefix/path`; behind them its data is to follow,
/// padded to a block. Gives the length of what follows, of which the map of a sparse file is written
/// already.
pub(super) fn headers(out: &mut Vec<u8>, prefix: &str, item: &Item) -> u64 {
    let mut name = joined(prefix, &item.path);
    let mut pax = Vec::new();
    record(&mut pax, b"mtime", time(item.modified).as_bytes());
    record(&mut pax, b"atime", time(item.accessed).as_bytes());
    for (key, value) in &item.xattrs {
        record(
            &mut pax,
            &[b"SCHILY.xattr.", key.as_slice()].concat(),
            value,
        );
    }
    let mut header = Header::new_ustar();
    header.set_mode(item.mode);
    header.set_mtime(u64::try_from(item.modified.0).unwrap_or(0).min(SIZE));
    for (key, id) in [("uid", item.uid), ("gid", item.gid)] {
        if id > SMALL {
            record(&mut pax, key.as_bytes(), id.to_string().as_bytes());
        }
    }
    header.set_uid(u64::from(item.uid.min(SMALL)));
    header.set_gid(u64::from(item.gid.min(SMALL)));
    let (kind, link) = kind(item, prefix);
    header.set_entry_type(kind);
    if let What::Device { major, minor, .. } = item.what {
        // Of a ustar header both fields are there.
        header.set_device_major(major).ok();
        header.set_device_minor(minor).ok();
    }
    let map = sparse_map(&item.what);
    let stored = item.what.data() + map.len() as u64;
    if let (What::File { size, .. }, false) = (&item.what, map.is_empty()) {
        for (key, value) in [("major", "1"), ("minor", "0")] {
            record(
                &mut pax,
                format!("GNU.sparse.{key}").as_bytes(),
                value.as_bytes(),
            );
        }
        record(&mut pax, b"GNU.sparse.name", &name);
        record(
            &mut pax,
            b"GNU.sparse.realsize",
            size.to_string().as_bytes(),
        );
        name = joined(prefix, b"GNUSparseFile.0/sparse");
    }
    if item.what == What::Folder {
        name.push(b'/');
    }
    if name.len() > NAME {
        record(&mut pax, b"path", &name);
    }
    if link.len() > NAME {
        record(&mut pax, b"linkpath", &link);
    }
    if stored > SIZE {
        record(&mut pax, b"size", stored.to_string().as_bytes());
    }
    let fields = header.as_old_mut();
    put(&mut fields.name, &name);
    put(&mut fields.linkname, &link);
    extension(out, &pax);
    finish(out, header, if stored > SIZE { 0 } else { stored });
    out.extend_from_slice(&map);
    stored
}

/// Appends the header of a small file of the archive's own.
pub(super) fn own(out: &mut Vec<u8>, name: &str, size: u64, seconds: u64) {
    let mut header = Header::new_ustar();
    header.set_mode(0o600);
    header.set_mtime(seconds);
    header.set_uid(0);
    header.set_gid(0);
    header.set_entry_type(EntryType::Regular);
    put(&mut header.as_old_mut().name, name.as_bytes());
    finish(out, header, size);
}

/// Zero bytes up to the next block.
pub(super) fn pad(out: &mut Vec<u8>, length: u64) {
    let over = usize::try_from(length % BLOCK as u64).unwrap_or(0);
    if over > 0 {
        out.resize(out.len() + BLOCK - over, 0);
    }
}

fn finish(out: &mut Vec<u8>, mut header: Header, size: u64) {
    header.set_size(size);
    header.set_cksum();
    out.extend_from_slice(header.as_bytes());
}

fn extension(out: &mut Vec<u8>, pax: &[u8]) {
    let mut header = Header::new_ustar();
    header.set_mode(0o600);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_entry_type(EntryType::XHeader);
    put(&mut header.as_old_mut().name, b"PaxHeaders/attributes");
    finish(out, header, pax.len() as u64);
    out.extend_from_slice(pax);
    pad(out, pax.len() as u64);
}

/// The type, and where a link leads: to a member of the archive, or as the guest has written it.
fn kind(item: &Item, prefix: &str) -> (EntryType, Vec<u8>) {
    match &item.what {
        What::Folder => (EntryType::Directory, Vec::new()),
        What::File { .. } => (EntryType::Regular, Vec::new()),
        What::Symlink(target) => (EntryType::Symlink, target.clone()),
        What::HardLink(target) => (EntryType::Link, joined(prefix, target)),
        What::Device { block: true, .. } => (EntryType::Block, Vec::new()),
        What::Device { .. } => (EntryType::Char, Vec::new()),
        // A tar stream has no type for sockets; whoever writes leaves them out.
        What::Fifo | What::Socket => (EntryType::Fifo, Vec::new()),
    }
}

/// The map in front of the data of a file with holes, padded; empty for one without.
fn sparse_map(what: &What) -> Vec<u8> {
    let What::File { size, pieces } = what else {
        return Vec::new();
    };
    if *pieces == [(0, *size)] || *size == 0 {
        return Vec::new();
    }
    // GNU tar wants a last piece without length where the file ends in a hole.
    let tail = pieces.last().is_none_or(|(at, length)| at + length < *size);
    let all = pieces.iter().copied().chain(tail.then_some((*size, 0)));
    let all: Vec<(u64, u64)> = all.collect();
    let mut map = format!("{}\n", all.len()).into_bytes();
    for (offset, length) in all {
        map.extend_from_slice(format!("{offset}\n{length}\n").as_bytes());
    }
    let length = map.len() as u64;
    pad(&mut map, length);
    map
}

fn joined(prefix: &str, path: &[u8]) -> Vec<u8> {
    let mut name = prefix.as_bytes().to_vec();
    if !path.is_empty() {
        name.push(b'/');
        name.extend_from_slice(path);
    }
    name
}

/// As much of `text` as there is room for; what is longer stands in the PAX header.
fn put(field: &mut [u8], text: &[u8]) {
    let n = text.len().min(field.len());
    field[..n].copy_from_slice(&text[..n]);
}

/// Appends `LENGTH KEY=VALUE\n`, where the length counts itself.
fn record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    out.extend_from_slice(format!("{length} ").as_bytes());
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// Decimal seconds: what is before 1970 is negative as a whole, not in its seconds only.
fn time((seconds, nanoseconds): Time) -> String {
    if seconds < 0 && nanoseconds > 0 {
        let whole = (seconds + 1).unsigned_abs();
        return format!("-{whole}.{:09}", 1_000_000_000 - nanoseconds);
    }
    format!("{seconds}.{nanoseconds:09}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_count_themselves() {
        for n in 0..1200 {
            let mut out = Vec::new();
            record(&mut out, b"k", &vec![b'v'; n]);
            let text = String::from_utf8(out).unwrap();
            let (length, _) = text.split_once(' ').unwrap();
            assert_eq!(length.parse::<usize>().unwrap(), text.len());
        }
    }

    #[test]
    fn times_before_1970_are_negative_as_a_whole() {
        assert_eq!(time((-5, 999_999_999)), "-4.000000001");
        assert_eq!(time((-1, 500_000_000)), "-0.500000000");
        assert_eq!(time((-5, 0)), "-5.000000000");
        assert_eq!(time((3, 4)), "3.000000004");
    }
}
