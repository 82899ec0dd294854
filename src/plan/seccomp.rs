//! Seccomp profiles: `profiles/seccomp/NAME.toml` → the `linux.seccomp` of an OCI Spec, and that →
//! the plain [`Filter`](crate::model::Filter) that `kernel::seccomp` compiles (`oci`). Every rule of a
//! profile says why it is there. Numbers of system calls and instructions are `kernel::seccomp`'s.

mod oci;
mod told;

use std::collections::BTreeSet;

use include_dir::{Dir, include_dir};
use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompBuilder, LinuxSeccompFilterFlag};
use serde::Deserialize;

use crate::model::{Action, Arch, ArgCmp, Compare, nearest};

pub use oci::{FilterError, READER, flags_of, to_filter};
use oci::{oci_action, oci_arch, syscall};

static PROFILES: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/profiles/seccomp");

/// The errnos a profile may answer with (asm-generic/errno.h).
const ERRNOS: &[(&str, u16)] = &[
    ("EPERM", 1),
    ("EACCES", 13),
    ("EINVAL", 22),
    ("ENOSYS", 38),
    ("ENOPROTOOPT", 92),
    ("EPROTONOSUPPORT", 93),
    ("ESOCKTNOSUPPORT", 94),
    ("EOPNOTSUPP", 95),
    ("EAFNOSUPPORT", 97),
];
const ENOSYS: u16 = 38;

/// A profile that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// No such profile.
    #[error(
        "there is no seccomp profile called {name:?}{}; profiles are {known}",
        did_you_mean(nearest)
    )]
    Unknown {
        /// As asked for.
        name: String,
        /// What may have been meant.
        nearest: Option<String>,
        /// All there are.
        known: String,
    },
    /// The file is not TOML, or has a key it should not have.
    #[error("seccomp profile {name}: {source}")]
    Syntax {
        /// The profile.
        name: String,
        /// Where and what.
        source: Box<toml::de::Error>,
    },
    /// A value means nothing.
    #[error("seccomp profile {name}, rule {why:?}: {what}")]
    Rule {
        /// The profile.
        name: String,
        /// The rule's reason.
        why: String,
        /// What is wrong with it and what would be right.
        what: String,
    },
    /// Bases lead to each other.
    #[error("seccomp profile {0}: its bases go more than 8 deep; does one lead back to it?")]
    TooDeep(String),
}

fn did_you_mean(nearest: &Option<String>) -> String {
    nearest
        .as_ref()
        .map(|n| format!("; did you mean {n}?"))
        .unwrap_or_default()
}

/// A profile with its bases worked in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// One line.
    pub description: String,
    /// Conventions; calls of others kill the process.
    pub arches: Vec<Arch>,
    /// For calls that no group names.
    pub default: Action,
    /// In the order in which they are asked.
    pub groups: Vec<Group>,
}

/// Calls treated alike for one reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The reason.
    pub why: String,
    /// The treatment.
    pub action: Action,
    /// The calls.
    pub calls: Vec<String>,
    /// Alternatives: one of them must hold in full. Empty: always.
    pub when: Vec<Vec<ArgCmp>>,
}

/// The file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    description: String,
    base: Option<String>,
    architectures: Option<Vec<String>>,
    default: Option<String>,
    #[serde(default)]
    rule: Vec<RuleText>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleText {
    why: String,
    action: String,
    calls: Vec<String>,
    #[serde(default)]
    when: Vec<Vec<Condition>>,
}

/// `{ arg = 1, is = 5 }`: the low 32 bits of argument 1 are 5. `mask` picks other bits. Without
/// `is`: any value.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Condition {
    arg: u8,
    is: Option<u64>,
    mask: Option<u64>,
}

/// The names of the embedded profiles, sorted.
#[must_use]
pub fn profile_names() -> Vec<&'static str> {
    let files = PROFILES.files().filter_map(|f| f.path().to_str());
    let mut names: Vec<_> = files.filter_map(|p| p.strip_suffix(".toml")).collect();
    names.sort_unstable();
    names
}

/// An embedded profile as the `linux.seccomp` of an OCI Spec.
///
/// # Errors
/// There is no such profile; the message has the nearest name.
pub fn profile(name: &str) -> Result<LinuxSeccomp, ProfileError> {
    Profile::named(name)?.to_oci(name)
}

/// The same with a listener that decides about these calls, whatever the profile says of them, and with
/// `mounts` about those that mount something new or take a mount away, as far as the profile allows them.
///
/// # Errors
/// As [`profile`].
pub fn profile_that_notifies(
    name: &str,
    calls: &[&str],
    mounts: bool,
) -> Result<LinuxSeccomp, ProfileError> {
    let mut profile = Profile::named(name)?;
    if mounts {
        profile.put_before(told::mounts(&profile));
    }
    profile.put_before(vec![Group {
        why: "somebody outside answers them with the guest's own numbers".to_owned(),
        action: Action::Notify,
        calls: calls.iter().map(|call| (*call).to_owned()).collect(),
        when: Vec::new(),
    }]);
    let mut seccomp = profile.to_oci(name)?;
    if mounts {
        seccomp.set_flags(Some(vec![
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv,
        ]));
    }
    Ok(seccomp)
}

impl Profile {
    /// An embedded profile.
    ///
    /// # Errors
    /// There is no such profile; the message has the nearest name.
    pub fn named(name: &str) -> Result<Self, ProfileError> {
        Self::embedded(name, 0)
    }

    /// A profile from text, such as a file below `/etc/bulkhead/profiles/seccomp`. Its bases are
    /// embedded ones.
    ///
    /// # Errors
    /// The text is no profile; the message says where.
    pub fn parse(name: &str, text: &str) -> Result<Self, ProfileError> {
        let profile = Self::from_text(name, text, 0)?;
        match profile.contradiction() {
            Some((why, what)) => Err(ProfileError::Rule {
                name: name.to_owned(),
                why: why.to_owned(),
                what,
            }),
            None => Ok(profile),
        }
    }

    /// Not looked at for contradictions at each start: a test does that for all of them.
    fn embedded(name: &str, depth: u32) -> Result<Self, ProfileError> {
        let file = PROFILES.get_file(format!("{name}.toml"));
        match file.and_then(|f| f.contents_utf8()) {
            Some(text) => Self::from_text(name, text, depth),
            None => {
                let known = profile_names();
                Err(ProfileError::Unknown {
                    name: name.chars().take(80).collect(),
                    nearest: nearest(name, known.iter().copied()).map(str::to_owned),
                    known: known.join(", "),
                })
            }
        }
    }

    fn from_text(name: &str, text: &str, depth: u32) -> Result<Self, ProfileError> {
        if depth > 8 {
            return Err(ProfileError::TooDeep(name.to_owned()));
        }
        let file: File = toml::from_str(text).map_err(|source| ProfileError::Syntax {
            name: name.to_owned(),
            source: Box::new(source),
        })?;
        let wrong = |why: &str, what| ProfileError::Rule {
            name: name.to_owned(),
            why: why.to_owned(),
            what,
        };
        let rules = file.rule.iter();
        let groups: Result<Vec<_>, _> = rules
            .map(|r| group(r).map_err(|what| wrong(&r.why, what)))
            .collect();
        let mut profile = match file.base {
            Some(base) => Self::embedded(&base, depth + 1)?,
            None => Self {
                description: String::new(),
                arches: vec![Arch::X86_64],
                default: Action::Errno(ENOSYS),
                groups: Vec::new(),
            },
        };
        profile.description = file.description;
        if let Some(names) = &file.architectures {
            let arches = names.iter().map(|n| arch(n));
            profile.arches = arches
                .collect::<Result<_, _>>()
                .map_err(|what| wrong("architectures", what))?;
        }
        if let Some(text) = &file.default {
            profile.default = action(text).map_err(|what| wrong("default", what))?;
        }
        profile.put_before(groups?);
        Ok(profile)
    }

    /// A rule that would not do what it says, and why: see the precedence at `model::Filter`.
    fn contradiction(&self) -> Option<(&str, String)> {
        let mut seen: BTreeSet<&String> = BTreeSet::new();
        let mut decided: BTreeSet<&String> = BTreeSet::new();
        for group in &self.groups {
            if group.action == self.default && !group.when.is_empty() {
                let what =
                    "its action is the default, so `when` has no effect; give it another errno";
                return Some((&group.why, what.into()));
            }
            for call in &group.calls {
                if decided.contains(call) || group.when.is_empty() && seen.contains(call) {
                    let what = format!("{call} is decided in every case by another rule as well");
                    return Some((&group.why, what));
                }
                seen.insert(call);
                if group.when.is_empty() || group.when.iter().any(|all| always(all)) {
                    decided.insert(call);
                }
            }
        }
        None
    }

    /// Puts groups before those that are there. A call that the new ones decide in every case
    /// leaves the old ones.
    fn put_before(&mut self, mut groups: Vec<Group>) {
        let decided = |call: &String| {
            let mut of_call = groups.iter().filter(|g| g.calls.contains(call));
            of_call.any(|g| g.when.is_empty() || g.when.iter().any(|all| always(all)))
        };
        for old in &mut self.groups {
            old.calls.retain(|call| !decided(call));
        }
        self.groups.retain(|g| !g.calls.is_empty());
        groups.append(&mut self.groups);
        self.groups = groups;
    }

    /// As the `linux.seccomp` of an OCI Spec. Groups that say what the default does anyway are for
    /// readers of the profile and left out.
    ///
    /// # Errors
    /// The OCI types refuse a value; no value of a profile is such.
    pub fn to_oci(&self, name: &str) -> Result<LinuxSeccomp, ProfileError> {
        let mut syscalls = Vec::new();
        for group in self.groups.iter().filter(|g| g.action != self.default) {
            let always = vec![Vec::new()];
            let when = if group.when.is_empty() {
                &always
            } else {
                &group.when
            };
            for all in when {
                let call = syscall(group, all).map_err(|e| ProfileError::Rule {
                    name: name.to_owned(),
                    why: group.why.clone(),
                    what: e.to_string(),
                })?;
                syscalls.push(call);
            }
        }
        let (default, errno) = oci_action(self.default);
        let mut seccomp = LinuxSeccompBuilder::default()
            .default_action(default)
            .architectures(self.arches.iter().map(|a| oci_arch(*a)).collect::<Vec<_>>())
            .syscalls(syscalls)
            .build()
            .map_err(|e| ProfileError::Rule {
                name: name.to_owned(),
                why: "default".to_owned(),
                what: e.to_string(),
            })?;
        seccomp.set_default_errno_ret(errno);
        Ok(seccomp)
    }
}

fn always(all: &[ArgCmp]) -> bool {
    let any = |c: &ArgCmp| matches!(c.compare, Compare::MaskedEq { mask: 0, .. });
    all.iter().all(any)
}

fn group(rule: &RuleText) -> Result<Group, String> {
    if rule.why.trim().is_empty() {
        return Err(format!(
            "the rule for {} says no reason; fill in `why`",
            rule.calls.join(", ")
        ));
    }
    let when = rule
        .when
        .iter()
        .map(|all| all.iter().map(condition).collect());
    Ok(Group {
        why: rule.why.clone(),
        action: action(&rule.action)?,
        calls: rule.calls.clone(),
        when: when.collect::<Result<_, _>>()?,
    })
}

fn condition(c: &Condition) -> Result<ArgCmp, String> {
    if c.arg > 5 {
        return Err(format!("arg = {}: arguments are numbered 0 to 5", c.arg));
    }
    let (mask, value) = match (c.mask, c.is) {
        (None, None) => (0, 0),
        (mask, Some(value)) => (mask.unwrap_or(0xffff_ffff), value),
        (Some(_), None) => return Err(format!("arg = {}: `mask` needs `is`", c.arg)),
    };
    if value & !mask != 0 {
        return Err(format!(
            "arg = {}: is = {value:#x} has bits outside of the mask {mask:#x}",
            c.arg
        ));
    }
    Ok(ArgCmp {
        arg: c.arg,
        compare: Compare::MaskedEq { mask, value },
    })
}

fn action(text: &str) -> Result<Action, String> {
    let others = [
        ("allow", Action::Allow),
        ("log", Action::Log),
        ("kill", Action::KillProcess),
        ("trap", Action::Trap),
    ];
    let errnos = ERRNOS.iter().map(|(name, n)| (*name, Action::Errno(*n)));
    let all: Vec<_> = others.into_iter().chain(errnos).collect();
    let found = all.iter().find(|(name, _)| *name == text);
    found.map(|(_, action)| *action).ok_or_else(|| {
        let names: Vec<_> = all.iter().map(|(name, _)| *name).collect();
        format!("{text:?} is no action; actions are {}", names.join(", "))
    })
}

fn arch(text: &str) -> Result<Arch, String> {
    let found = Arch::ALL.iter().copied().find(|a| a.name() == text);
    found.ok_or_else(|| {
        let names: Vec<_> = Arch::ALL.iter().map(|a| a.name()).collect();
        format!("{text:?} is no architecture; they are {}", names.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_profile_parses_and_says_why() {
        assert_eq!(
            profile_names(),
            ["default", "firewall", "hardened", "legacy", "nesting"]
        );
        for name in profile_names() {
            let seccomp = profile(name).unwrap_or_else(|e| panic!("{e}"));
            let filter = to_filter(&seccomp).unwrap();
            assert_eq!(filter.default, Action::Errno(ENOSYS), "{name}");
            assert_eq!(filter.bad_arch, Action::KillProcess, "{name}");
            assert!(!filter.arches.contains(&Arch::X32), "{name}");
        }
    }

    #[test]
    fn an_unknown_profile_gets_the_nearest_name() {
        let error = profile("hardend").unwrap_err().to_string();
        assert!(error.contains("did you mean hardened?"), "{error}");
        assert!(error.contains("default, firewall"), "{error}");
        assert!(profile("../seccomp/default").is_err());
    }

    #[test]
    fn a_derived_profile_decides_first() {
        let text = r#"
            description = "x"
            base = "default"
            [[rule]]
            why = "test"
            action = "ENOSYS"
            calls = ["mount"]
            [[rule]]
            why = "test"
            action = "EPERM"
            calls = ["ioctl"]
            when = [[{ arg = 1, is = 7 }]]
        "#;
        let p = Profile::parse("x", text).unwrap();
        let of = |call: &str| -> Vec<Action> {
            let groups = p.groups.iter();
            let groups = groups.filter(|g| g.calls.iter().any(|c| c == call));
            groups.map(|g| g.action).collect()
        };
        assert_eq!(of("mount"), [Action::Errno(38)]);
        assert_eq!(of("ioctl").len(), 3);
        assert_eq!(p.groups[1].when[0][0].arg, 1);
    }

    #[test]
    fn what_means_nothing_is_refused_with_the_reason() {
        for (text, expected) in [
            ("default = \"ENOSYS\"", "missing field `description`"),
            (
                "description = \"\"\nbase = \"nest\"",
                "did you mean nesting?",
            ),
            ("description = \"\"\ncolour = 1", "unknown field `colour`"),
            (
                "description = \"\"\ndefault = \"EBUSY\"",
                "\"EBUSY\" is no action",
            ),
            (
                "description = \"\"\narchitectures = [\"amd64\"]",
                "they are x86-64,",
            ),
            (
                "description = \"\"\n[[rule]]\nwhy=\" \"\naction=\"allow\"\ncalls=[\"read\"]",
                "says no reason",
            ),
            (
                "description = \"\"\n[[rule]]\nwhy=\"w\"\naction=\"allow\"\ncalls=[\"read\"]\nwhen=[[{arg=6}]]",
                "numbered 0 to 5",
            ),
            (
                "description = \"\"\n[[rule]]\nwhy=\"w\"\naction=\"ENOSYS\"\ncalls=[\"read\"]\nwhen=[[{arg=0,is=1}]]",
                "`when` has no effect",
            ),
            (
                "description = \"\"\n[[rule]]\nwhy=\"w\"\naction=\"EPERM\"\ncalls=[\"read\"]\n[[rule]]\nwhy=\"v\"\naction=\"allow\"\ncalls=[\"read\"]",
                "read is decided in every case by another rule",
            ),
        ] {
            let error = Profile::parse("x", text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}\n{error}");
        }
    }
}
