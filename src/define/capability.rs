//! Capabilities by name, and what a layer adds and drops. What a capability allows is in
//! capabilities(7); which ones a guest has from the start is said next door in `default`.

use std::collections::BTreeSet;

use super::layer::Extend;
use super::word::{Word, quoted};
use crate::model::nearest;

/// All capabilities, without `CAP_`, in the order of their numbers (linux/capability.h).
pub const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// One capability, by its place in [`CAPABILITIES`]; or all of them, which can only be dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Capability {
    /// One.
    One(usize),
    /// Every one.
    All,
}

impl Word for Capability {
    fn read(text: &str) -> Result<Self, String> {
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
        if name == "ALL" {
            return Ok(Self::All);
        }
        match CAPABILITIES.iter().position(|known| *known == name) {
            Some(number) => Ok(Self::One(number)),
            None => Err(format!(
                "{} is not a capability{}",
                quoted(text),
                nearest(name, CAPABILITIES).map_or_else(
                    || "; see capabilities(7)".into(),
                    |n| format!(": did you mean {n:?}?")
                )
            )),
        }
    }
}

/// What a layer changes about the capabilities: `add` and `drop` of `[security]`.
///
/// The layers lie in order and the later one wins; in one layer, `drop` wins over `add`, but
/// `drop = ["ALL"]` leaves what the same layer adds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CapabilityChange {
    /// Numbers added, none of them in `drop`.
    pub add: BTreeSet<usize>,
    /// Numbers dropped.
    pub drop: BTreeSet<usize>,
}

impl CapabilityChange {
    /// What one layer says.
    pub(super) fn of(add: &Extend<Capability>, drop: &Extend<Capability>) -> Self {
        let one = |capability: &Capability| match capability {
            Capability::One(number) => Some(*number),
            Capability::All => None,
        };
        let mut add: BTreeSet<usize> = add.0.iter().filter_map(one).collect();
        let mut dropped: BTreeSet<usize> = drop.0.iter().filter_map(one).collect();
        add.retain(|number| !dropped.contains(number));
        if drop.0.contains(&Capability::All) {
            dropped.extend((0..CAPABILITIES.len()).filter(|number| !add.contains(number)));
        }
        Self { add, drop: dropped }
    }

    /// What is wrong with a list of capabilities to add.
    pub(super) fn refused(add: &Extend<Capability>) -> Option<&'static str> {
        add.0
            .contains(&Capability::All)
            .then_some("\"ALL\" can only be dropped; add them one by one")
    }

    /// This change after `lower`.
    pub(super) fn after(&self, lower: &Self) -> Self {
        Self {
            add: &(&lower.add - &self.drop) | &self.add,
            drop: &(&lower.drop - &self.add) | &self.drop,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(add: &[&str], drop: &[&str]) -> CapabilityChange {
        let read = |names: &[&str]| {
            Extend(
                names
                    .iter()
                    .map(|name| Capability::read(name).unwrap())
                    .collect(),
            )
        };
        CapabilityChange::of(&read(add), &read(drop))
    }

    fn number(name: &str) -> usize {
        CAPABILITIES
            .iter()
            .position(|known| *known == name)
            .unwrap()
    }

    #[test]
    fn names_with_and_without_prefix() {
        assert_eq!(Capability::read("cap_sys_admin"), Ok(Capability::One(21)));
        assert_eq!(Capability::read("BPF"), Ok(Capability::One(39)));
        let error = Capability::read("SYS_ADMN").unwrap_err();
        assert_eq!(
            error,
            "\"SYS_ADMN\" is not a capability: did you mean \"SYS_ADMIN\"?"
        );
    }

    #[test]
    fn drop_wins_in_one_layer_and_the_later_layer_over_the_earlier() {
        let both = change(&["MKNOD"], &["MKNOD"]);
        assert!(both.add.is_empty() && both.drop.contains(&number("MKNOD")));

        let hardened = change(&[], &["SYS_ADMIN", "MKNOD"]);
        let merged = change(&["SYS_ADMIN"], &[]).after(&hardened);
        assert_eq!(merged.add, BTreeSet::from([number("SYS_ADMIN")]));
        assert_eq!(merged.drop, BTreeSet::from([number("MKNOD")]));
        let again = change(&[], &["SYS_ADMIN"]).after(&merged);
        assert!(again.add.is_empty() && again.drop.contains(&number("SYS_ADMIN")));
    }

    #[test]
    fn all_dropped_leaves_what_the_same_layer_adds() {
        let only = change(&["KILL"], &["ALL"]).after(&change(&["BPF"], &[]));
        assert_eq!(only.add, BTreeSet::from([number("KILL")]));
        assert_eq!(only.drop.len(), CAPABILITIES.len() - 1);
    }
}
