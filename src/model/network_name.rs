//! The name of a network that somebody made, made only by a checked parser. It stands where the words
//! `bridge`, `none` and `host` stand in a definition, so it is none of them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What means something else where a network's name may stand, or may one day.
const RESERVED: [&str; 8] = [
    "bridge",
    "default",
    "host",
    "isolated",
    "macvlan",
    "none",
    "passthrough",
    "routed",
];

/// The name of a network: `[a-z][a-z0-9-]{0,31}`, and no word that is a kind of network.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NetworkName(String);

/// A name that breaks the rule; the message states the rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetworkNameError {
    /// Not of the form.
    #[error(
        "{0:?} is not a network's name: use 1 to 32 of a-z, 0-9 and '-', beginning with a letter"
    )]
    Form(String),
    /// It means something.
    #[error("{0:?} is not a network's name: it is a kind of network; choose another")]
    Reserved(String),
}

impl NetworkName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NetworkName {
    type Err = NetworkNameError;

    fn from_str(text: &str) -> Result<Self, NetworkNameError> {
        let valid = (1..=32).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_lowercase())
            && text
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if !valid {
            return Err(NetworkNameError::Form(text.chars().take(80).collect()));
        }
        match RESERVED.contains(&text) {
            true => Err(NetworkNameError::Reserved(text.to_owned())),
            false => Ok(Self(text.to_owned())),
        }
    }
}

impl TryFrom<String> for NetworkName {
    type Error = NetworkNameError;

    fn try_from(text: String) -> Result<Self, NetworkNameError> {
        text.parse()
    }
}

impl From<NetworkName> for String {
    fn from(name: NetworkName) -> Self {
        name.0
    }
}

impl fmt::Display for NetworkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_holds_at_its_edges() {
        for good in ["a", "lan", "lan-2", &"a".repeat(32)] {
            assert_eq!(good.parse::<NetworkName>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            "-a",
            "2a",
            "A",
            "a_b",
            "..",
            "a/b",
            "é",
            &"a".repeat(33),
        ] {
            let error = bad.parse::<NetworkName>().unwrap_err().to_string();
            assert!(error.contains("beginning with a letter"), "{error}");
        }
        for word in RESERVED {
            let error = word.parse::<NetworkName>().unwrap_err().to_string();
            assert!(error.contains("choose another"), "{error}");
        }
    }
}
