//! The formats of counter files as far as a container's statistics need them: pairs, lists of
//! devices, pressure. What is read where is in `container_stats`.

use std::collections::BTreeMap;

use super::container_stats::{BlkioEntry, Psi, PsiData};
use crate::model::CpuSet;

/// Lines `key number`.
pub(super) fn pairs(text: &str) -> BTreeMap<String, u64> {
    let pair = |line: &str| {
        let (key, value) = line.split_once(' ')?;
        Some((key.to_owned(), value.trim().parse().ok()?))
    };
    text.lines().filter_map(pair).collect()
}

/// A list such as `0-2,5`; an empty one has nothing.
pub(super) fn list(text: &str) -> Vec<u32> {
    let set = text.trim().parse::<CpuSet>();
    set.map(|set| set.iter().collect()).unwrap_or_default()
}

/// Lines `8:0 Read 4096`, without the sums.
pub(super) fn blkio_v1(text: &str) -> Vec<BlkioEntry> {
    let entry = |line: &str| {
        let mut words = line.split(' ');
        let (major, minor) = words.next()?.split_once(':')?;
        let second = words.next()?;
        let (op, value) = match words.next() {
            Some(value) => (second, value),
            None => ("", second),
        };
        Some(BlkioEntry {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
            op: op.to_owned(),
            value: value.parse().ok()?,
        })
    };
    text.lines().filter_map(entry).collect()
}

/// Lines `8:0 rbytes=4096 wbytes=0 rios=1 …`: the values of two keys as reads and writes.
pub(super) fn blkio_v2(text: &str, read: &str, write: &str) -> Vec<BlkioEntry> {
    let mut out = Vec::new();
    for line in text.lines() {
        let mut words = line.split(' ');
        let device = words.next().and_then(|w| w.split_once(':'));
        let Some((Ok(major), Ok(minor))) = device.map(|(a, b)| (a.parse(), b.parse())) else {
            continue;
        };
        for (key, value) in words.filter_map(|w| w.split_once('=')) {
            let op = match key {
                key if key == read => "Read",
                key if key == write => "Write",
                _ => continue,
            };
            if let Ok(value) = value.parse() {
                out.push(BlkioEntry {
                    major,
                    minor,
                    op: op.to_owned(),
                    value,
                });
            }
        }
    }
    out
}

/// Lines `some avg10=0.00 avg60=0.00 avg300=0.00 total=0` and `full …`.
pub(super) fn psi(text: &str) -> Psi {
    let mut out = Psi::default();
    for line in text.lines() {
        let word = |key: &str| line.split(' ').find_map(|w| w.strip_prefix(key));
        let share = |key: &str| word(key).and_then(|w| w.parse().ok()).unwrap_or(0.0);
        let data = PsiData {
            avg10: share("avg10="),
            avg60: share("avg60="),
            avg300: share("avg300="),
            total: word("total=").and_then(|w| w.parse().ok()).unwrap_or(0),
        };
        match line.split(' ').next() {
            Some("some") => out.some = data,
            Some("full") => out.full = data,
            _ => {}
        }
    }
    out
}

/// Sizes of huge pages that this kernel has, as control files name them: `2MB`, `1GB`.
pub(super) fn huge_page_sizes() -> Vec<String> {
    let size = |name: &str| {
        let kib: u64 = name
            .strip_prefix("hugepages-")?
            .strip_suffix("kB")?
            .parse()
            .ok()?;
        Some(match kib {
            n if n % (1 << 20) == 0 => format!("{}GB", n >> 20),
            n if n % (1 << 10) == 0 => format!("{}MB", n >> 10),
            n => format!("{n}KB"),
        })
    };
    let entries = std::fs::read_dir("/sys/kernel/mm/hugepages").into_iter();
    let names = entries.flatten().flatten().map(|entry| entry.file_name());
    names.filter_map(|name| size(name.to_str()?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_tell_the_same_of_a_device() {
        let v1 = blkio_v1("8:0 Read 100\n8:0 Write 30\nTotal 130\n");
        let v2 = blkio_v2(
            "8:0 rbytes=100 wbytes=30 rios=2 dbytes=7\n",
            "rbytes",
            "wbytes",
        );
        assert_eq!(v1, v2);
        assert_eq!(v1[1].op, "Write");
        assert_eq!(blkio_v1("8:0 5")[0].op, "");
    }

    #[test]
    fn pressure_and_lists() {
        let psi = psi("some avg10=1.50 avg60=0.00 avg300=0.25 total=7\nfull avg10=0.00 total=3\n");
        assert_eq!(
            (psi.some.avg10, psi.some.avg300, psi.full.total),
            (1.5, 0.25, 3)
        );
        assert_eq!(list("0-2,5\n"), [0, 1, 2, 5]);
        assert_eq!(list("\n"), [0; 0]);
        assert_eq!(pairs("cache 5\nrss 6\nodd\n")["rss"], 6);
    }
}
