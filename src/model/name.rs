//! The name of a guest, made only by a checked parser, and the nearest valid name for a wrong one.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The name of a guest: `[a-z0-9][a-z0-9-]{0,62}`, so at most 63 bytes and a valid host name label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GuestName(String);

/// A name that breaks the rule; the message states the rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a guest name: use 1 to 63 of a-z, 0-9 and '-', not beginning with '-' ([a-z0-9][a-z0-9-]{{0,62}})"
)]
pub struct NameError(String);

impl GuestName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for GuestName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let bytes = text.as_bytes();
        let valid = (1..=63).contains(&bytes.len())
            && allowed(bytes[0])
            && bytes.iter().all(|&b| allowed(b) || b == b'-');
        if valid {
            Ok(Self(text.to_owned()))
        } else {
            Err(NameError(text.chars().take(80).collect()))
        }
    }
}

impl TryFrom<String> for GuestName {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<GuestName> for String {
    fn from(name: GuestName) -> Self {
        name.0
    }
}

impl fmt::Display for GuestName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// The candidate nearest to `wrong`, if one is near enough to be what was meant.
pub fn nearest<'a>(wrong: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|c| (strsim::damerau_levenshtein(wrong, c), c))
        .filter(|(distance, c)| *distance <= 1 + c.len().max(wrong.len()) / 3)
        .min()
        .map(|(_, c)| c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_holds_at_its_edges() {
        for good in ["a", "0", "a-", "web-1", &"a".repeat(63)] {
            assert_eq!(good.parse::<GuestName>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            "-a",
            "A",
            "a_b",
            "..",
            "a/b",
            "a b",
            "é",
            "a\n",
            &"a".repeat(64),
        ] {
            let error = bad.parse::<GuestName>().unwrap_err().to_string();
            assert!(error.contains("[a-z0-9][a-z0-9-]{0,62}"), "{error}");
        }
    }

    #[test]
    fn nearest_wants_a_near_name() {
        assert_eq!(
            nearest("debain", ["busybox", "debian", "host"]),
            Some("debian")
        );
        assert_eq!(nearest("zzzzzz", ["busybox", "debian", "host"]), None);
    }
}
