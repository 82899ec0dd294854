//! When a guest's CPUs and memory may change (`cpu.resize`, `memory.resize`).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// When an amount of a guest may change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Resize {
    /// Never.
    Fixed,
    /// At its next start.
    Static,
    /// At once.
    #[default]
    Dynamic,
}

impl Resize {
    /// As people write it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Fixed => "fixed",
            Self::Static => "static",
            Self::Dynamic => "dynamic",
        }
    }
}

impl fmt::Display for Resize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

impl FromStr for Resize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Self::Fixed, Self::Static, Self::Dynamic];
        let found = all.into_iter().find(|resize| resize.word() == text);
        found.ok_or_else(|| {
            let said: String = text.chars().take(40).collect();
            format!("{said:?} is no time to resize: write fixed, static or dynamic")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_as_they_are_written() {
        for word in ["fixed", "static", "dynamic"] {
            assert_eq!(word.parse::<Resize>().unwrap().to_string(), word);
        }
        for bad in ["", "never", "Fixed"] {
            assert!(bad.parse::<Resize>().is_err(), "{bad}");
        }
    }
}
