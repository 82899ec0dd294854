//! The name of a pool of CPUs, made only by a checked parser.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The name of a pool of CPUs: `[a-z][a-z0-9-]{0,31}`, and not `none`, which takes a pool away.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CpuPoolName(String);

impl CpuPoolName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for CpuPoolName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let valid = (1..=32).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_lowercase())
            && text.bytes().all(letter)
            && text != "none";
        if valid {
            return Ok(Self(text.to_owned()));
        }
        let said: String = text.chars().take(80).collect();
        Err(format!(
            "{said:?} is not the name of a pool of CPUs: use 1 to 32 of a-z, 0-9 and '-', beginning \
             with a letter, and not none"
        ))
    }
}

impl TryFrom<String> for CpuPoolName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<CpuPoolName> for String {
    fn from(name: CpuPoolName) -> Self {
        name.0
    }
}

impl fmt::Display for CpuPoolName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_holds_at_its_edges() {
        for good in ["a", "gold", "gold-2", &"a".repeat(32)] {
            assert_eq!(good.parse::<CpuPoolName>().unwrap().as_str(), good);
        }
        let long = "a".repeat(33);
        for bad in [
            "", "-a", "2a", "A", "a_b", "..", "a/b", "a\n", "none", &long,
        ] {
            assert!(bad.parse::<CpuPoolName>().is_err(), "{bad}");
        }
    }
}
