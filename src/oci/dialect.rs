//! Where a configuration is right and its parser would refuse it: flags of the scheduler that the
//! parser spells differently, and capabilities that nobody knows, which the specification wants
//! passed over with a warning, and a user who is not named.

use serde::de::DeserializeOwned;
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
            let unknown = adapt(&mut value);
            // Of two complaints the first one has a line and a column.
            serde_json::from_value(value)
                .map(|parsed| (parsed, unknown))
                .map_err(|_| error)
        }
    }
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
    let mut unknown = Vec::new();
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
            if !known && !unknown.iter().any(|u| u == text) {
                unknown.push(text.to_owned());
            }
            known
        });
    }
    unknown.iter().map(|name| not_known(name)).collect()
}

/// The warning about a capability of another kernel, in runc's words: clients look for them.
pub(super) fn not_known(capability: &str) -> String {
    format!(
        "ignoring unknown or unavailable capabilities: [{}]",
        capability.escape_debug()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::{Process, Spec};

    const PROCESS: &str = r#"{"cwd": "/", "user": {"uid": 0, "gid": 0},
        "scheduler": {"policy": "SCHED_OTHER", "flags": ["SCHED_FLAG_RESET_ON_FORK"]},
        "capabilities": {"bounding": ["CAP_KILL", "CAP_OF_TOMORROW"]}}"#;

    #[test]
    fn what_the_specification_allows_is_taken() {
        let (process, unknown) = parse::<Process>(PROCESS.as_bytes()).unwrap();
        assert!(unknown.len() == 1 && unknown[0].contains("CAP_OF_TOMORROW"));
        let scheduler = process.scheduler().as_ref().unwrap();
        assert_eq!(scheduler.flags().as_ref().unwrap().len(), 1);
        let text = format!(r#"{{"ociVersion": "1.3.0", "process": {PROCESS}}}"#);
        let (spec, _) = parse::<Spec>(text.as_bytes()).unwrap();
        let caps = spec.process().as_ref().unwrap().capabilities().clone();
        assert_eq!(caps.unwrap().bounding().as_ref().unwrap().len(), 1);
    }

    #[test]
    fn nobody_named_is_root() {
        let (process, _) = parse::<Process>(br#"{"cwd": "/"}"#).unwrap();
        assert_eq!(process.user().uid(), 0);
    }

    #[test]
    fn what_is_wrong_stays_wrong() {
        let error = parse::<Process>(br#"{"cwd": 5}"#).unwrap_err().to_string();
        assert!(error.contains("line 1"), "{error}");
    }
}
