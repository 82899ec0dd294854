//! The name of what guests' firewalls share: a set of addresses, a group of rules. Made only by a checked parser.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Such a name: `[a-z][a-z0-9-]{0,14}`, so that it is safe in a path and in a rule of the kernel's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ShareName(String);

/// A name that breaks the rule; the message states the rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no such name: use 1 to 15 of a-z, 0-9 and '-', beginning with a letter")]
pub struct ShareNameError(String);

impl ShareName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ShareName {
    type Err = ShareNameError;

    fn from_str(text: &str) -> Result<Self, ShareNameError> {
        let valid = (1..=15).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_lowercase())
            && text
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        match valid {
            true => Ok(Self(text.to_owned())),
            false => Err(ShareNameError(text.chars().take(80).collect())),
        }
    }
}

impl TryFrom<String> for ShareName {
    type Error = ShareNameError;

    fn try_from(text: String) -> Result<Self, ShareNameError> {
        text.parse()
    }
}

impl From<ShareName> for String {
    fn from(name: ShareName) -> Self {
        name.0
    }
}

impl fmt::Display for ShareName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_and_plain() {
        for text in [
            "",
            "A",
            "1a",
            "-a",
            "a b",
            "a/b",
            "a;b",
            "@a",
            "sixteen-letters-",
        ] {
            assert!(text.parse::<ShareName>().is_err(), "{text}");
        }
        assert_eq!("web-1".parse::<ShareName>().unwrap().as_str(), "web-1");
    }
}
