//! One line of a guest's firewall: a rule of its own (`in accept tcp 80`), what becomes of all that no
//! rule is about (`in policy drop`), or the lines of a group that guests share (`group web`).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize, Serializer};

use super::{FirewallRule, RuleError, ShareName, ShareNameError};

/// Such a line.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FirewallLine {
    /// A rule.
    Rule(FirewallRule),
    /// A rule for all that no other of its direction is about, wherever it stands.
    Policy(FirewallRule),
    /// The lines of a group, in its place.
    Group(ShareName),
}

/// Text that is none; the message says what would be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// It is no rule.
    #[error(transparent)]
    Rule(#[from] RuleError),
    /// It is no group.
    #[error("{text:?} is not a firewall rule: {error}")]
    Group {
        /// The text.
        text: String,
        /// Why.
        error: ShareNameError,
    },
    /// It is no policy.
    #[error(
        "{0:?} is not a firewall rule: a policy is in or out, policy, accept or drop, and if wanted log"
    )]
    Policy(String),
}

impl FirewallLine {
    /// The rule that it is, unless it is a group.
    #[must_use]
    pub fn rule(&self) -> Option<&FirewallRule> {
        match self {
            Self::Rule(rule) | Self::Policy(rule) => Some(rule),
            Self::Group(_) => None,
        }
    }
}

impl FromStr for FirewallLine {
    type Err = LineError;

    fn from_str(text: &str) -> Result<Self, LineError> {
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        let said = || text.chars().take(80).collect();
        match words[..] {
            ["group", name] => match name.parse() {
                Ok(name) => Ok(Self::Group(name)),
                Err(error) => Err(LineError::Group {
                    text: said(),
                    error,
                }),
            },
            [way, "policy", ref rest @ ..] => {
                let rule: Result<FirewallRule, _> = format!("{way} {}", rest.join(" ")).parse();
                let rule = rule.ok().filter(FirewallRule::is_for_all);
                rule.map(Self::Policy)
                    .ok_or_else(|| LineError::Policy(said()))
            }
            _ => Ok(Self::Rule(text.parse()?)),
        }
    }
}

impl fmt::Display for FirewallLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule(rule) => rule.fmt(f),
            Self::Group(name) => write!(f, "group {name}"),
            Self::Policy(rule) => {
                let text = rule.to_string();
                let (way, rest) = text.split_once(' ').unwrap_or_default();
                write!(f, "{way} policy {rest}")
            }
        }
    }
}

impl Serialize for FirewallLine {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for FirewallLine {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_as_it_is_written() {
        for text in [
            "in accept tcp 80",
            "in policy drop",
            "out policy drop log",
            "in policy accept",
            "group web",
        ] {
            let line: FirewallLine = text.parse().unwrap();
            assert_eq!(line.to_string(), text);
        }
    }

    #[test]
    fn what_is_no_line_is_refused_with_the_reason() {
        for (text, why) in [
            ("group", "begins with in or out"),
            ("group Web", "1 to 15"),
            ("group web log", "begins with in or out"),
            ("in policy", "a policy is"),
            ("in policy drop tcp", "a policy is"),
            ("in policy drop new", "a policy is"),
            ("sideways policy drop", "a policy is"),
            ("in policy drop from @office", "a policy is"),
        ] {
            let error = text.parse::<FirewallLine>().unwrap_err().to_string();
            assert!(
                error.contains(why) && error.contains("not a firewall rule"),
                "{text:?}: {error}"
            );
        }
    }
}
