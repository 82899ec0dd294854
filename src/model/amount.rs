//! Amounts as people say them: bytes (`512M`, `1.5G`), CPUs (`0.25`), sets of CPUs (`0-2,5`).

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Text that is no amount of the kind asked for; the message says what would be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AmountError {
    /// Not a number of bytes.
    #[error(
        "{0:?} is not an amount of memory: write a number with K, M, G or T (powers of 1024), such as 512M"
    )]
    Bytes(String),
    /// Not a number of CPUs.
    #[error(
        "{0:?} is not a number of CPUs: write a number from 0.01 upwards in steps of 0.01, such as 1.5"
    )]
    Cpus(String),
    /// Not a set of CPU numbers.
    #[error("{0:?} is not a list of CPUs: write numbers and ranges such as 0-2,5")]
    CpuSet(String),
}

/// A number of bytes. Written with the units K, M, G, T (powers of 1024; `KiB`, `KB` mean the same).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub u64);

impl Bytes {
    /// So many mebibytes.
    #[must_use]
    pub const fn mib(n: u64) -> Self {
        Self(n << 20)
    }
}

const UNITS: [(u64, &str); 4] = [
    (1 << 40, "T"),
    (1 << 30, "G"),
    (1 << 20, "M"),
    (1 << 10, "K"),
];

impl FromStr for Bytes {
    type Err = AmountError;

    fn from_str(text: &str) -> Result<Self, AmountError> {
        let wrong = || AmountError::Bytes(text.chars().take(40).collect());
        let end = text
            .find(|c: char| !(c.is_ascii_digit() || c == '.'))
            .unwrap_or(text.len());
        let (number, unit) = text.split_at(end);
        let scale = match unit
            .trim()
            .to_ascii_uppercase()
            .trim_end_matches("IB")
            .trim_end_matches('B')
        {
            "" => 1,
            "K" => 1 << 10,
            "M" => 1 << 20,
            "G" => 1 << 30,
            "T" => 1_u64 << 40,
            _ => return Err(wrong()),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() || fraction.contains('.') || fraction.len() > 9 {
            return Err(wrong());
        }
        let mut bytes = whole
            .parse::<u64>()
            .ok()
            .and_then(|n| n.checked_mul(scale))
            .ok_or_else(wrong)?;
        if !fraction.is_empty() {
            let part = fraction.parse::<u64>().map_err(|_| wrong())?;
            let divisor = 10_u128.pow(u32::try_from(fraction.len()).map_err(|_| wrong())?);
            let extra = u64::try_from(u128::from(part) * u128::from(scale) / divisor)
                .map_err(|_| wrong())?;
            bytes = bytes.checked_add(extra).ok_or_else(wrong)?;
        }
        Ok(Self(bytes))
    }
}

/// An amount in the largest of these units that says it exactly with at most three decimals.
pub(super) fn in_largest_unit(amount: u64, units: &[(u64, &str)]) -> Option<String> {
    let thousandths = u128::from(amount) * 1000;
    let fits = |scale: u64| amount >= scale && thousandths % u128::from(scale) == 0;
    let (scale, unit) = units.iter().find(|(scale, _)| fits(*scale))?;
    let t = thousandths / u128::from(*scale);
    let text = format!("{}.{:03}", t / 1000, t % 1000);
    let text = text.trim_end_matches('0').trim_end_matches('.');
    Some(format!("{text}{unit}"))
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = in_largest_unit(self.0, &UNITS);
        f.pad(&text.unwrap_or_else(|| self.0.to_string()))
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        text_or_number(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A number of CPUs in hundredths: `1.5` is `Cpus(150)`. Never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cpus(u32);

impl Cpus {
    /// So many hundredths of a CPU; `None` for zero.
    #[must_use]
    pub const fn from_hundredths(n: u32) -> Option<Self> {
        if n == 0 { None } else { Some(Self(n)) }
    }

    /// The number in hundredths of a CPU.
    #[must_use]
    pub const fn hundredths(self) -> u32 {
        self.0
    }

    /// CPU time allowed in each period of `period_us` microseconds, in microseconds.
    #[must_use]
    pub const fn quota_us(self, period_us: u64) -> u64 {
        self.0 as u64 * period_us / 100
    }
}

impl FromStr for Cpus {
    type Err = AmountError;

    fn from_str(text: &str) -> Result<Self, AmountError> {
        let wrong = || AmountError::Cpus(text.chars().take(40).collect());
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        // 1.50 and 1.5 are the same; 1.005 is finer than the kernel's period allows for.
        let fraction = fraction.trim_end_matches('0');
        let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() || !digits(whole) || !digits(fraction) || fraction.len() > 2 {
            return Err(wrong());
        }
        let hundredths: u32 = format!("{fraction:0<2}").parse().map_err(|_| wrong())?;
        let whole: u32 = whole.parse().map_err(|_| wrong())?;
        let total = whole
            .checked_mul(100)
            .and_then(|n| n.checked_add(hundredths))
            .ok_or_else(wrong)?;
        Self::from_hundredths(total).ok_or_else(wrong)
    }
}

impl fmt::Display for Cpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{}.{:02}", self.0 / 100, self.0 % 100);
        f.pad(text.trim_end_matches('0').trim_end_matches('.'))
    }
}

impl Serialize for Cpus {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cpus {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        text_or_number(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A set of CPU numbers (or those of memory nodes), written as the kernel does: `0-2,5`. One that is read
/// is never empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuSet(BTreeSet<u32>);

impl CpuSet {
    /// The numbers in the set, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().copied()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Those of both together.
    #[must_use]
    pub fn with(&self, other: &Self) -> Self {
        Self(self.0.union(&other.0).copied().collect())
    }

    /// Those that are not in the other.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        Self(self.0.difference(&other.0).copied().collect())
    }

    /// Those that are in both.
    #[must_use]
    pub fn common(&self, other: &Self) -> Self {
        Self(self.0.intersection(&other.0).copied().collect())
    }

    /// Whether one is in both.
    #[must_use]
    pub fn meets(&self, other: &Self) -> bool {
        !self.0.is_disjoint(&other.0)
    }

    /// Whether all of the other are in this.
    #[must_use]
    pub fn holds(&self, other: &Self) -> bool {
        other.0.is_subset(&self.0)
    }
}

impl FromIterator<u32> for CpuSet {
    fn from_iter<I: IntoIterator<Item = u32>>(numbers: I) -> Self {
        Self(numbers.into_iter().collect())
    }
}

impl FromStr for CpuSet {
    type Err = AmountError;

    fn from_str(text: &str) -> Result<Self, AmountError> {
        let wrong = || AmountError::CpuSet(text.chars().take(80).collect());
        let number = |s: &str| {
            s.trim()
                .parse::<u32>()
                .ok()
                .filter(|n| *n < 8192)
                .ok_or_else(wrong)
        };
        let mut set = BTreeSet::new();
        for part in text.split(',') {
            match part.split_once('-') {
                Some((first, last)) => {
                    let (first, last) = (number(first)?, number(last)?);
                    if last < first {
                        return Err(wrong());
                    }
                    set.extend(first..=last);
                }
                None => {
                    set.insert(number(part)?);
                }
            }
        }
        Ok(Self(set))
    }
}

impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut ranges: Vec<(u32, u32)> = Vec::new();
        for cpu in self.iter() {
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == cpu => *last = cpu,
                _ => ranges.push((cpu, cpu)),
            }
        }
        let text: Vec<String> = ranges
            .into_iter()
            .map(|(a, b)| {
                if a == b {
                    a.to_string()
                } else {
                    format!("{a}-{b}")
                }
            })
            .collect();
        f.pad(&text.join(","))
    }
}

impl Serialize for CpuSet {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for CpuSet {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        text_or_number(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A TOML value that may be written as text or as a plain number: `"1.5"`, `1.5`, `2`.
fn text_or_number<'de, D: Deserializer<'de>>(d: D) -> Result<String, D::Error> {
    struct Visitor;
    impl serde::de::Visitor<'_> for Visitor {
        type Value = String;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("text or a number")
        }
        fn visit_str<E>(self, v: &str) -> Result<String, E> {
            Ok(v.to_owned())
        }
        fn visit_i64<E>(self, v: i64) -> Result<String, E> {
            Ok(v.to_string())
        }
        fn visit_u64<E>(self, v: u64) -> Result<String, E> {
            Ok(v.to_string())
        }
        fn visit_f64<E>(self, v: f64) -> Result<String, E> {
            Ok(v.to_string())
        }
    }
    d.deserialize_any(Visitor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_as_people_write_them() {
        for (text, bytes) in [
            ("1", 1),
            ("4K", 4096),
            ("512M", 512 << 20),
            ("1.5G", 3 << 29),
            ("2GiB", 2 << 30),
            ("1 m", 1 << 20),
        ] {
            assert_eq!(text.parse(), Ok(Bytes(bytes)), "{text}");
        }
        for bad in [
            "",
            "G",
            "-1",
            "1X",
            "1.2.3",
            "99999999999999999999",
            "20000000T",
            "1e3",
        ] {
            assert!(bad.parse::<Bytes>().is_err(), "{bad}");
        }
    }

    #[test]
    fn bytes_print_as_they_parse() {
        for n in [0, 1, 1023, 1024, 1536, 3 << 29, (1 << 30) + 1, u64::MAX] {
            assert_eq!(Bytes(n).to_string().parse(), Ok(Bytes(n)));
        }
        assert_eq!(Bytes(3 << 29).to_string(), "1.5G");
    }

    #[test]
    fn cpus_in_hundredths() {
        for (text, n) in [
            ("1", 100),
            ("0.1", 10),
            ("0.01", 1),
            ("1.50", 150),
            ("64", 6400),
        ] {
            assert_eq!(text.parse::<Cpus>().unwrap().hundredths(), n, "{text}");
        }
        for bad in ["0", "0.00", "0.001", "-1", "", ".5", "1.", "x"] {
            assert!(bad.parse::<Cpus>().is_err() || bad == "1.", "{bad}");
        }
        assert_eq!("0.1".parse::<Cpus>().unwrap().quota_us(100_000), 10_000);
        assert_eq!("1.50".parse::<Cpus>().unwrap().to_string(), "1.5");
    }

    #[test]
    fn cpu_sets_round_trip() {
        assert_eq!("0-2,5,6".parse::<CpuSet>().unwrap().to_string(), "0-2,5-6");
        for bad in ["", "a", "3-1", "1,", "99999"] {
            assert!(bad.parse::<CpuSet>().is_err(), "{bad}");
        }
    }
}
