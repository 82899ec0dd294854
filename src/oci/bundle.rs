//! A bundle: the folder a client hands over, with `config.json`. It is read once; the same bytes are
//! kept beside the container's state, so that what was checked is what later commands see.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{Process, Spec};
use serde_json::Value;

use super::error::{OciError, Result};
use super::host::HostView;
use super::store::LARGEST;
use crate::kernel::file::read_small;
use crate::model::CgroupPlan;
use crate::plan::cgroup;

/// A bundle that has been read.
#[derive(Debug)]
pub(super) struct Bundle {
    pub(super) path: PathBuf,
    pub(super) text: Vec<u8>,
    pub(super) spec: Spec,
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
        let spec = parse(&text)?;
        Ok(Self { path, text, spec })
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
    if !spelt_otherwise(text) {
        return serde_json::from_slice(text).map_err(OciError::Config);
    }
    let mut spec: Value = serde_json::from_slice(text).map_err(OciError::Config)?;
    respell(&mut spec["process"]);
    serde_json::from_value(spec).map_err(OciError::Config)
}

/// What is to be run in a container, as a client writes it for `exec`.
pub(super) fn parse_process(text: &[u8]) -> serde_json::Result<Process> {
    if !spelt_otherwise(text) {
        return serde_json::from_slice(text);
    }
    let mut process: Value = serde_json::from_slice(text)?;
    respell(&mut process);
    serde_json::from_value(process)
}

/// Flags of process.scheduler in the specification, and as oci-spec 0.10 spells them.
const SPELLINGS: [(&str, &str); 2] = [
    ("SCHED_FLAG_RESET_ON_FORK", "SCHED_RESET_ON_FORK"),
    ("SCHED_FLAG_DL_OVERRUN", "SCHED_FLAG_D_L_OVERRUN"),
];

fn spelt_otherwise(text: &[u8]) -> bool {
    let text = std::str::from_utf8(text).unwrap_or_default();
    SPELLINGS.iter().any(|(theirs, _)| text.contains(theirs))
}

fn respell(process: &mut Value) {
    let flags = process.pointer_mut("/scheduler/flags");
    for flag in flags.and_then(Value::as_array_mut).into_iter().flatten() {
        let known = SPELLINGS.iter().find(|(theirs, _)| *flag == *theirs);
        if let Some((_, ours)) = known {
            *flag = Value::from(*ours);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flags_of_the_scheduler_are_those_of_the_specification() {
        let process = r#"{"cwd": "/", "user": {"uid": 0, "gid": 0},
            "env": ["A=SCHED_FLAG_DL_OVERRUN"], "scheduler": {"policy": "SCHED_OTHER",
            "flags": ["SCHED_FLAG_RESET_ON_FORK", "SCHED_FLAG_DL_OVERRUN", "SCHED_FLAG_RECLAIM"]}}"#;
        let parsed = parse_process(process.as_bytes()).unwrap();
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
}
