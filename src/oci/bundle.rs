//! A bundle: the folder a client hands over, with `config.json`. It is read once; the same bytes are
//! kept beside the container's state, so that what was checked is what later commands see.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Process, Spec};
use serde_json::{Value, json};

use super::error::{OciError, Result};
use super::host::HostView;
use super::store::LARGEST;
use crate::kernel::file::read_small;
use crate::model::CgroupPlan;
use crate::plan::cgroup;
use crate::plan::container::capability;

/// A bundle that has been read.
#[derive(Debug)]
pub(super) struct Bundle {
    pub(super) path: PathBuf,
    pub(super) text: Vec<u8>,
    pub(super) spec: Spec,
    /// What of it is ignored.
    pub(super) warnings: Vec<String>,
}

impl Bundle {
    pub(super) fn read(path: &Path) -> Result<Self> {
        let path = std::path::absolute(path).map_err(|error| OciError::File {
            path: path.display().to_string(),
            why: error.to_string(),
        })?;
        // `.` at the end, as from the default, is not part of the name.
        let path: PathBuf = path.components().collect();
        let file = path.join("config.json");
        let text = read_small(&file, LARGEST)?;
        let text = text.ok_or_else(|| OciError::File {
            path: file.display().to_string(),
            why: "no such file or directory: a bundle is a folder with a config.json".into(),
        })?;
        let mut warnings = Vec::new();
        let spec = parse_telling(&text, &mut warnings)?;
        Ok(Self {
            path,
            text,
            spec,
            warnings,
        })
    }

    /// Its root file system.
    pub(super) fn rootfs(&self) -> PathBuf {
        let root = self.spec.root().as_ref().map(|r| r.path().clone());
        self.path.join(root.unwrap_or_default())
    }

    /// Its control groups.
    pub(super) fn cgroups(&self, id: &str, systemd: bool, host: &HostView) -> Result<CgroupPlan> {
        let linux = self.spec.linux().as_ref();
        let empty = PathBuf::new();
        let container = cgroup::Container {
            id,
            cgroups_path: linux
                .and_then(|l| l.cgroups_path().as_ref())
                .unwrap_or(&empty),
            annotations: self.spec.annotations().as_ref(),
            systemd,
        };
        let resources = linux.and_then(|l| l.resources().as_ref());
        Ok(cgroup::plan(&container, resources, &host.for_plan())?)
    }
}

/// A configuration.
pub(super) fn parse(text: &[u8]) -> Result<Spec> {
    parse_telling(text, &mut Vec::new())
}

fn parse_telling(text: &[u8], warnings: &mut Vec<String>) -> Result<Spec> {
    let read = serde_json::from_slice(text);
    let spec = read.or_else(|error| {
        let mut spec: Value = serde_json::from_slice(text)?;
        if let Some(process) = spec.get_mut("process") {
            warnings.extend(forgive(process));
        }
        // What was wrong at first has the line it is in.
        serde_json::from_value(spec).map_err(|_| error)
    });
    spec.map_err(OciError::Config)
}

/// What is to be run in a container, as a client writes it for `exec`; and what of it is ignored.
pub(super) fn parse_process(text: &[u8]) -> serde_json::Result<(Process, Vec<String>)> {
    serde_json::from_slice(text)
        .map(|process| (process, Vec::new()))
        .or_else(|error| {
            let mut process: Value = serde_json::from_slice(text)?;
            let warnings = forgive(&mut process);
            let read = serde_json::from_value(process).map_err(|_| error);
            read.map(|process| (process, warnings))
        })
}

/// Flags of process.scheduler in the specification, and as oci-spec 0.10 spells them.
const SPELLINGS: [(&str, &str); 2] = [
    ("SCHED_FLAG_RESET_ON_FORK", "SCHED_RESET_ON_FORK"),
    ("SCHED_FLAG_DL_OVERRUN", "SCHED_FLAG_D_L_OVERRUN"),
];

/// Repairs a process that oci-spec does not take: names that it spells in its own way, a user that
/// is missing and is root then, and capabilities unknown to it, which the specification wants
/// ignored. Those are told.
fn forgive(process: &mut Value) -> Vec<String> {
    if let Some(all) = process.as_object_mut() {
        all.entry("user").or_insert_with(|| json!({}));
    }
    let flags = process.pointer_mut("/scheduler/flags");
    for flag in flags.and_then(Value::as_array_mut).into_iter().flatten() {
        let known = SPELLINGS.iter().find(|(theirs, _)| *flag == *theirs);
        if let Some((_, ours)) = known {
            *flag = Value::from(*ours);
        }
    }
    let mut unknown = BTreeSet::new();
    let sets = process.get_mut("capabilities");
    let sets = sets.and_then(Value::as_object_mut);
    for set in sets.into_iter().flat_map(|sets| sets.values_mut()) {
        let Some(names) = set.as_array_mut() else {
            continue;
        };
        names.retain(|name| {
            let text = name.as_str().unwrap_or_default();
            let known = capability(text).is_some();
            if !known {
                unknown.insert(text.to_owned());
            }
            known
        });
    }
    let tell = |name| format!("the capability {name:?} is unknown here and ignored");
    unknown.into_iter().map(tell).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flags_of_the_scheduler_are_those_of_the_specification() {
        let process = r#"{"cwd": "/", "user": {"uid": 0, "gid": 0},
            "env": ["A=SCHED_FLAG_DL_OVERRUN"], "scheduler": {"policy": "SCHED_OTHER",
            "flags": ["SCHED_FLAG_RESET_ON_FORK", "SCHED_FLAG_DL_OVERRUN", "SCHED_FLAG_RECLAIM"]}}"#;
        let (parsed, warnings) = parse_process(process.as_bytes()).unwrap();
        assert!(warnings.is_empty());
        assert_eq!(parsed.env().as_ref().unwrap(), &["A=SCHED_FLAG_DL_OVERRUN"]);
        let flags = |process: &Process| {
            let scheduler = process.scheduler().as_ref().unwrap();
            scheduler.flags().as_ref().unwrap().len()
        };
        assert_eq!(flags(&parsed), 3);
        let text = format!(r#"{{"ociVersion": "1.1.0", "process": {process}}}"#);
        let spec = parse(text.as_bytes()).unwrap();
        assert_eq!(flags(spec.process().as_ref().unwrap()), 3);
    }

    #[test]
    fn unknown_capabilities_are_ignored_and_told() {
        let text = r#"{"cwd": "/", "capabilities": {"bounding": ["CAP_KILL", "CAP_NEWER"],
            "permitted": ["CAP_NEWER"]}}"#;
        let (process, warnings) = parse_process(text.as_bytes()).unwrap();
        let sets = process.capabilities().as_ref().unwrap();
        assert_eq!(sets.bounding().as_ref().unwrap().len(), 1);
        assert!(sets.permitted().as_ref().unwrap().is_empty());
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].contains("CAP_NEWER"));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let text = "{\"ociVersion\": \"1.0.0\",\n\"process\": {\"cwd\": 1, \"user\": {}}}";
        let error = parse(text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains("line 2"), "{error}");
    }
}
