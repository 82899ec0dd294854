//! Where a configuration is right and its parser would refuse it: flags of the scheduler that the
//! parser spells differently, and capabilities that nobody knows, which the specification wants
//! passed over with a warning, and a user who is not named; and where the parser reads a limit that
//! was not asked for.

use std::collections::BTreeSet;

use oci_spec::runtime::{
    Capabilities, Capability, Linux, LinuxResources, MemoryPolicyFlagType, MemoryPolicyModeType,
    Process, Spec,
};
use serde::de::{DeserializeOwned, Error as _};
use serde_json::Value;

use crate::plan::container::capability;

/// The specification's name, the parser's name.
const FLAGS: [(&str, &str); 2] = [
    ("SCHED_FLAG_RESET_ON_FORK", "SCHED_RESET_ON_FORK"),
    ("SCHED_FLAG_DL_OVERRUN", "SCHED_FLAG_D_L_OVERRUN"),
];

/// Parses a configuration, or a process; and what was passed over.
pub(super) fn parse<T: DeserializeOwned>(text: &[u8]) -> serde_json::Result<(T, Vec<String>)> {
    match serde_json::from_slice(text) {
        Ok(parsed) => Ok((parsed, Vec::new())),
        Err(error) => {
            let mut value: Value = serde_json::from_slice(text)?;
            without_nulls(&mut value);
            if let Some(why) = memory_policy(&value) {
                return Err(serde_json::Error::custom(why));
            }
            let unknown = adapt(&mut value);
            // Of two complaints the first one has a line and a column.
            serde_json::from_value(value)
                .map(|parsed| (parsed, unknown))
                .map_err(|_| error)
        }
    }
}

/// A limit of 0 processes that nobody has asked for: `"pids": {}` is read as one, and before version
/// 1.3 of the specification the limit could not be left out, so that clients (Podman 4, CRI-O) say 0
/// where they mean none.
pub(super) fn without_empty_limits(spec: &mut Spec, text: &[u8]) {
    let optional = !["1.0", "1.1", "1.2"].contains(&spec.version().get(..3).unwrap_or_default());
    let linux = spec.linux_mut().as_mut();
    let resources = linux.and_then(|linux: &mut Linux| linux.resources_mut().as_mut());
    let Some(resources) = resources.filter(|r| has_no_pids(r)) else {
        return;
    };
    let value: Value = serde_json::from_slice(text).unwrap_or_default();
    let limit = value.pointer("/linux/resources/pids/limit");
    if !optional || limit.is_none_or(Value::is_null) {
        resources.set_pids(None);
    }
}

/// The same of resources that a running container is to be given, whose version nobody tells.
pub(super) fn without_empty_pids(resources: &mut LinuxResources) {
    if has_no_pids(resources) {
        resources.set_pids(None);
    }
}

fn has_no_pids(resources: &LinuxResources) -> bool {
    resources.pids().is_some_and(|pids| pids.limit() == 0)
}

/// What is wrong with a memory policy: its words are told by name, as runc does.
fn memory_policy(value: &Value) -> Option<String> {
    let policy = value.pointer("/linux/memoryPolicy")?;
    let Some(mode) = policy.get("mode") else {
        return Some("invalid memory policy mode: it is missing".into());
    };
    if let Err(error) = serde_json::from_value::<MemoryPolicyModeType>(mode.clone()) {
        return Some(format!("invalid memory policy mode: {error}"));
    }
    let flags = policy.get("flags").and_then(Value::as_array);
    let wrong = flags.into_iter().flatten().find_map(|flag| {
        let read = serde_json::from_value::<MemoryPolicyFlagType>(flag.clone());
        read.err()
    });
    wrong.map(|error| format!("invalid memory policy flag: {error}"))
}

/// A key that is null is as one that is not there, as clients written in Go have it.
fn without_nulls(value: &mut Value) {
    match value {
        Value::Object(all) => {
            all.retain(|_, value| !value.is_null());
            all.values_mut().for_each(without_nulls);
        }
        Value::Array(all) => all.iter_mut().for_each(without_nulls),
        _ => {}
    }
}

/// The warning about what the specification has a key for and no meaning.
pub(super) fn without_meaning(spec: &Spec) -> Option<String> {
    let linux = spec.linux().as_ref();
    let flags = linux.and_then(|l| l.personality().as_ref()?.flags().as_ref())?;
    (!flags.is_empty()).then(|| format!("ignoring unsupported personality flags: {flags:?}"))
}

fn adapt(value: &mut Value) -> Vec<String> {
    let process = match value.get("process") {
        Some(_) => &mut value["process"],
        None => value,
    };
    if let Some(all) = process.as_object_mut() {
        // Root, if nobody else is named.
        all.entry("user")
            .or_insert_with(|| Value::Object(serde_json::Map::new()));
    }
    let flags = process.pointer_mut("/scheduler/flags");
    for flag in flags.and_then(Value::as_array_mut).into_iter().flatten() {
        let known = FLAGS.iter().find(|(theirs, _)| flag == theirs);
        if let Some((_, ours)) = known {
            *flag = Value::from(*ours);
        }
    }
    let mut unknown = BTreeSet::new();
    let sets = process
        .get_mut("capabilities")
        .and_then(Value::as_object_mut);
    for set in sets.into_iter().flat_map(|sets| sets.values_mut()) {
        let Some(names) = set.as_array_mut() else {
            continue;
        };
        names.retain(|name| {
            let Some(text) = name.as_str() else {
                return true;
            };
            let known = capability(text).is_some();
            if !known {
                unknown.insert(text.to_owned());
            }
            known
        });
    }
    let names: Vec<String> = unknown.into_iter().collect();
    let told = (!names.is_empty()).then(|| not_known(&names.join(" ")));
    told.into_iter().collect()
}

/// The warning about capabilities of another kernel, in runc's words: clients look for them.
pub(super) fn not_known(names: &str) -> String {
    format!(
        "ignoring unknown or unavailable capabilities: [{}]",
        names.escape_debug()
    )
}

/// The warnings about capabilities that a program is to keep over an execution and cannot: the kernel
/// wants them in two other sets first. Who has left the inheritable set empty, as Buildah does for all
/// its containers, means to keep none.
pub(super) fn lost(process: &Process) -> Vec<String> {
    let Some(sets) = process.capabilities() else {
        return Vec::new();
    };
    let has = |set: &Option<Capabilities>, one: &Capability| {
        set.as_ref().is_some_and(|set| set.contains(one))
    };
    if sets.inheritable().as_ref().is_none_or(|set| set.is_empty()) {
        return Vec::new();
    }
    let ambient = sets.ambient().iter().flatten();
    let mut lost: Vec<String> = ambient
        .filter(|one| !has(sets.permitted(), one) || !has(sets.inheritable(), one))
        .map(|one| {
            let why = "it is not both in the permitted and in the inheritable set";
            format!("can't raise ambient capability CAP_{one}: {why}")
        })
        .collect();
    lost.sort();
    lost
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::Spec;

    const PROCESS: &str = r#"{"cwd": "/", "user": {"uid": 0, "gid": 0},
        "scheduler": {"policy": "SCHED_OTHER", "flags": ["SCHED_FLAG_RESET_ON_FORK"]},
        "capabilities": {"bounding": ["CAP_KILL", "CAP_OF_TOMORROW"]}}"#;

    #[test]
    fn no_limit_of_processes_is_none() {
        let zero = r#"{"limit": 0}"#;
        let cases = [
            ("1.3.0", "{}", None),
            ("1.3.0", r#"{"limit": null}"#, None),
            ("1.3.0", zero, Some(0)),
            ("1.0.2-dev", zero, None),
            ("1.2.0", r#"{"limit": 7}"#, Some(7)),
        ];
        for (version, pids, expected) in cases {
            let text = format!(
                r#"{{"ociVersion": "{version}", "linux": {{"resources": {{"pids": {pids}}}}}}}"#
            );
            let (mut spec, _) = parse::<Spec>(text.as_bytes()).unwrap();
            without_empty_limits(&mut spec, text.as_bytes());
            let resources = spec.linux().as_ref().unwrap().resources().clone();
            assert_eq!(resources.unwrap().pids().map(|p| p.limit()), expected);
        }
    }

    #[test]
    fn what_the_specification_allows_is_taken() {
        let (process, unknown) = parse::<Process>(PROCESS.as_bytes()).unwrap();
        assert!(unknown.len() == 1 && unknown[0].contains("CAP_OF_TOMORROW"));
        let two = PROCESS.replace(r#""CAP_KILL", "#, r#""CAP_B", "CAP_A", "CAP_B", "#);
        let (_, told) = parse::<Process>(two.as_bytes()).unwrap();
        let names = "[CAP_A CAP_B CAP_OF_TOMORROW]";
        assert!(told.len() == 1 && told[0].ends_with(names), "{told:?}");
        let scheduler = process.scheduler().as_ref().unwrap();
        assert_eq!(scheduler.flags().as_ref().unwrap().len(), 1);
        let text = format!(r#"{{"ociVersion": "1.3.0", "process": {PROCESS}}}"#);
        let (spec, _) = parse::<Spec>(text.as_bytes()).unwrap();
        let caps = spec.process().as_ref().unwrap().capabilities().clone();
        assert_eq!(caps.unwrap().bounding().as_ref().unwrap().len(), 1);
    }

    #[test]
    fn nobody_named_is_root() {
        for text in [
            r#"{"cwd": "/"}"#,
            r#"{"cwd": "/", "user": null, "args": null}"#,
        ] {
            let (process, _) = parse::<Process>(text.as_bytes()).unwrap();
            assert_eq!(process.user().uid(), 0);
        }
    }

    #[test]
    fn flags_without_meaning_are_told_of() {
        let text = r#"{"ociVersion": "1.3.0", "linux": {"personality":
            {"domain": "LINUX", "flags": ["ADDR_NO_RANDOMIZE"]}}}"#;
        let (spec, _) = parse::<Spec>(text.as_bytes()).unwrap();
        assert!(
            without_meaning(&spec)
                .unwrap()
                .contains("ADDR_NO_RANDOMIZE")
        );
    }

    #[test]
    fn what_cannot_be_kept_is_told() {
        let text = br#"{"cwd": "/", "capabilities": {"permitted": ["CAP_KILL", "CAP_CHOWN"],
            "inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL", "CAP_CHOWN", "CAP_FOWNER"]}}"#;
        let (process, _) = parse::<Process>(text).unwrap();
        let lost = lost(&process);
        assert_eq!(lost.len(), 2, "{lost:?}");
        assert!(lost[0].starts_with("can't raise ambient capability CAP_CHOWN: "));
        assert!(lost[1].contains("CAP_FOWNER"));
    }

    #[test]
    fn a_wrong_memory_policy_is_named() {
        for (policy, expected) in [
            ("{}", "mode: it is missing"),
            (r#"{"mode": null}"#, "mode: it is missing"),
            (r#"{"mode": "BIND"}"#, "mode: unknown variant `BIND`"),
            (r#"{"mode": "MPOL_BIND", "flags": ["F"]}"#, "flag: unknown"),
        ] {
            let text =
                format!(r#"{{"ociVersion": "1.3.0", "linux": {{"memoryPolicy": {policy}}}}}"#);
            let error = parse::<Spec>(text.as_bytes()).unwrap_err().to_string();
            assert!(
                error.contains("invalid memory policy") && error.contains(expected),
                "{error}"
            );
        }
    }

    #[test]
    fn a_memory_policy_that_is_null_is_none() {
        let text = br#"{"ociVersion": "1.3.0", "process": {"cwd": "/", "user": null},
            "linux": {"memoryPolicy": null}}"#;
        let (spec, _) = parse::<Spec>(text).unwrap();
        assert!(spec.linux().as_ref().unwrap().memory_policy().is_none());
    }

    #[test]
    fn what_is_wrong_stays_wrong() {
        let error = parse::<Process>(br#"{"cwd": 5}"#).unwrap_err().to_string();
        assert!(error.contains("line 1"), "{error}");
    }
}
