//! PAX extension records of a tar entry: `LENGTH KEY=VALUE\n`, see pax(1). Only parsing; what the
//! values may be is decided where they are used, in `archive_entry` and `extract`.

use std::collections::BTreeMap;

use super::archive_entry::decimal;
use super::archive_sparse::Pieces;

/// The records of one entry; of a key given twice the last one holds.
#[derive(Clone, Debug, Default)]
pub(super) struct Pax {
    records: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Numbers of a version 0.0 sparse map, in order.
    sparse: Vec<Option<u64>>,
}

const XATTR: &[u8] = b"SCHILY.xattr.";

impl Pax {
    /// Parses the data of an extension header.
    pub(super) fn parse(mut data: &[u8]) -> Result<Self, String> {
        let wrong = || "its PAX header is malformed".to_owned();
        let mut pax = Self::default();
        while !data.is_empty() && data.iter().any(|b| *b != 0) {
            let space = data.iter().position(|b| *b == b' ').ok_or_else(wrong)?;
            let length = decimal(&data[..space]).and_then(|n| usize::try_from(n).ok());
            let length = length.filter(|n| *n > space + 1).ok_or_else(wrong)?;
            let record = data.get(space + 1..length).ok_or_else(wrong)?;
            let record = record.strip_suffix(b"\n").ok_or_else(wrong)?;
            let equals = record.iter().position(|b| *b == b'=').ok_or_else(wrong)?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            if matches!(key, b"GNU.sparse.offset" | b"GNU.sparse.numbytes") {
                pax.sparse.push(decimal(value));
            } else {
                pax.records.insert(key.to_vec(), value.to_vec());
            }
            data = &data[length..];
        }
        Ok(pax)
    }

    fn get(&self, key: &str) -> Option<&[u8]> {
        self.records.get(key.as_bytes()).map(Vec::as_slice)
    }

    pub(super) fn path(&self) -> Option<Vec<u8>> {
        self.get("path").map(<[u8]>::to_vec)
    }

    pub(super) fn link(&self) -> Option<Vec<u8>> {
        self.get("linkpath").map(<[u8]>::to_vec)
    }

    /// The name of a sparse file; its `path` is a made-up one for readers that do not know these.
    pub(super) fn sparse_name(&self) -> Option<&[u8]> {
        self.get("GNU.sparse.name")
    }

    /// A decimal record; `Some(Err)` if it is there but no number.
    pub(super) fn number(&self, key: &str) -> Option<Result<u64, String>> {
        let value = self.get(key)?;
        Some(decimal(value).ok_or_else(|| format!("its PAX {key} is no number")))
    }

    /// `mtime` or `atime`: decimal seconds, with a fraction and a sign perhaps.
    pub(super) fn time(&self, key: &str) -> Option<(i64, u32)> {
        let text = std::str::from_utf8(self.get(key)?).ok()?;
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let seconds: i64 = whole.parse().ok()?;
        let digits: String = fraction
            .chars()
            .chain("000000000".chars())
            .take(9)
            .collect();
        let nanoseconds: u32 = digits.parse().ok()?;
        // A time before 1970 is negative as a whole, its fraction too.
        if whole.starts_with('-') && nanoseconds > 0 {
            return Some((seconds.checked_sub(1)?, 1_000_000_000 - nanoseconds));
        }
        Some((seconds, nanoseconds))
    }

    /// Extended attributes by name.
    pub(super) fn xattrs(&self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        self.records
            .iter()
            .filter_map(|(key, value)| Some((key.strip_prefix(XATTR)?.to_vec(), value.clone())))
            .collect()
    }

    /// Real size and map of a sparse file; the map is `None` where it stands before the data.
    pub(super) fn sparse(&self) -> Result<Option<(u64, Option<Pieces>)>, String> {
        let size = self
            .number("GNU.sparse.realsize")
            .or(self.number("GNU.sparse.size"));
        let Some(size) = size.transpose()? else {
            return Ok(None);
        };
        let wrong = || "its sparse map is no list of numbers".to_owned();
        if self.get("GNU.sparse.major") == Some(b"1") {
            return Ok(Some((size, None)));
        }
        let pieces = match self.get("GNU.sparse.map") {
            Some(map) => sparse_pairs(map.split(|b| *b == b',').map(decimal)),
            None => sparse_pairs(self.sparse.iter().copied()),
        };
        Ok(Some((size, Some(pieces.ok_or_else(wrong)?))))
    }
}

/// Numbers taken two by two; `None` if one is missing or none.
pub(super) fn sparse_pairs(numbers: impl Iterator<Item = Option<u64>>) -> Option<Pieces> {
    let numbers: Vec<u64> = numbers.collect::<Option<_>>()?;
    let (pairs, rest) = numbers.as_chunks::<2>();
    rest.is_empty()
        .then(|| pairs.iter().map(|[a, b]| (*a, *b)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_parsed_by_their_length() {
        let pax = Pax::parse(b"12 path=a\nb\n12 uid=1234\n20 mtime=-1.5000000\n").unwrap();
        assert_eq!(pax.path().unwrap(), b"a\nb");
        assert_eq!(pax.number("uid"), Some(Ok(1234)));
        assert_eq!(pax.time("mtime"), Some((-2, 500_000_000)));
        for bad in [
            "x",
            "5",
            "5 a=\n9",
            "0 a=b\n",
            "3 a=b\n",
            "99 a=b\n",
            "6 ab\n\n",
            "6 a=bc",
            "99999999999999999999999 a=b\n",
            "-6 a=b\n",
            " a=b\n",
        ] {
            assert!(Pax::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }
}
