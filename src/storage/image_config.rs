//! What an image says of the program to run in it: user, environment, working folder, command,
//! ports, labels, and how it came about. In the words of an OCI configuration; kept in `image.json`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What a guest of an image gets where its definition says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageConfig {
    /// Who runs it: `USER`, `UID`, `USER:GROUP`, `UID:GID`; empty for root.
    pub user: String,
    /// `NAME=VALUE`.
    pub environment: Vec<String>,
    /// Working folder, absolute; empty for `/`.
    pub directory: String,
    /// Program and first arguments.
    pub entrypoint: Vec<String>,
    /// Further arguments, or the program where there is no entry point.
    pub command: Vec<String>,
    /// Signal that asks it to end; empty for SIGTERM.
    pub stop_signal: String,
    /// Ports it serves, such as `80/tcp`.
    pub ports: Vec<String>,
    /// Folders meant for data that outlives it.
    pub volumes: Vec<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Steps it was built by, the first one first.
    pub history: Vec<HistoryStep>,
}

/// One step of how an image was built.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HistoryStep {
    /// When, as written there.
    pub created: String,
    /// By which command.
    pub created_by: String,
    /// Comment.
    pub comment: String,
    /// Whether it changed no file, so that there is no layer of it.
    pub empty_layer: bool,
}

impl ImageConfig {
    /// The program to run and its arguments.
    #[must_use]
    pub fn argv(&self) -> Vec<String> {
        [self.entrypoint.as_slice(), &self.command].concat()
    }

    /// Whether it names no program of its own: nothing, or a bare shell, which has nothing to do
    /// without a person.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        const SHELLS: [&str; 4] = ["sh", "bash", "ash", "dash"];
        match self.argv().as_slice() {
            [] => true,
            [program] => SHELLS.contains(&program.rsplit('/').next().unwrap_or(program)),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_shell_is_no_program_of_its_own() {
        let of = |entrypoint: &[&str], command: &[&str]| ImageConfig {
            entrypoint: entrypoint.iter().map(|s| (*s).into()).collect(),
            command: command.iter().map(|s| (*s).into()).collect(),
            ..ImageConfig::default()
        };
        assert!(of(&[], &[]).is_idle());
        assert!(of(&[], &["/bin/bash"]).is_idle());
        assert!(!of(&["/bin/sh", "-c"], &["sleep 9"]).is_idle());
        assert!(!of(&[], &["nginx"]).is_idle());
        assert_eq!(of(&["a"], &["b"]).argv(), ["a", "b"]);
    }
}
