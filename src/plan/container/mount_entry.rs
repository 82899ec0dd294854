//! A mount of a container as a step has it: what is shown, where, and how it hears of others; and
//! how a tree becomes the root.

use std::path::PathBuf;

use serde::Serialize;

use crate::model::MountFlags;

/// What a mount shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "show", rename_all = "kebab-case")]
pub enum Show {
    /// A tree that the host has cloned.
    Tree {
        /// Which.
        number: usize,
    },
    /// A file system of its own.
    FileSystem {
        /// Kind.
        kind: String,
        /// Settings; an empty value is a flag.
        settings: Vec<(String, String)>,
        /// Whether it begins with a copy of what it covers.
        copy_up: bool,
    },
    /// The container's control groups.
    Cgroup {
        /// Owner and mode of the folder on version 1.
        settings: Vec<(String, String)>,
        /// That of version 2 alone, where there are others beside it.
        only_v2: bool,
    },
    /// What is there already, with other attributes.
    Before,
}

/// How a tree becomes the root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// By pivot_root(2): all that was there before is let go of.
    Pivot,
    /// Moved over the old one, which stays below.
    Cover,
    /// It covers an empty folder already.
    Enter,
}

/// How mounts below are to hear of each other (mount_namespaces(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Propagation {
    /// MS_SHARED, MS_SLAVE, MS_PRIVATE or MS_UNBINDABLE.
    pub kind: u64,
    /// With everything below.
    pub recursive: bool,
}

impl Propagation {
    /// Hears and is not heard: what a container's mounts are unless something else is asked for.
    pub const SLAVE: Self = Self {
        kind: 1 << 19,
        recursive: true,
    };
    /// Neither hears nor is heard.
    pub const PRIVATE: Self = Self {
        kind: 1 << 18,
        recursive: true,
    };

    /// Hears and is heard.
    const SHARED: u64 = 1 << 20;

    /// Whether those who share it hear of it.
    #[must_use]
    pub fn is_shared(self) -> bool {
        self.kind == Self::SHARED
    }

    /// From an option such as `rslave`.
    #[must_use]
    pub fn parse(option: &str) -> Option<Self> {
        let (name, recursive) = match option.strip_prefix('r') {
            Some(rest) => (rest, true),
            None => (option, false),
        };
        let kind = match name {
            "unbindable" => 1 << 17,
            "private" => 1 << 18,
            "slave" => 1 << 19,
            "shared" => Self::SHARED,
            _ => return None,
        };
        Some(Self { kind, recursive })
    }
}

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MountEntry {
    /// Where.
    pub target: PathBuf,
    /// What.
    pub show: Show,
    /// Attributes to set.
    pub set: MountFlags,
    /// Attributes to clear.
    pub clear: MountFlags,
    /// The same for everything below as well.
    pub deep_set: MountFlags,
    /// The same for everything below as well.
    pub deep_clear: MountFlags,
    /// Propagation.
    pub propagation: Option<Propagation>,
}
