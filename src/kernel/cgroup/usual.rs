//! The host's control groups where every distribution mounts them: a look at /sys/fs/cgroup instead
//! of the whole list of mounts, which grows with every container. What is not found there is looked
//! for in the list (`host`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::host::{Host, controllers};
use super::{Controller, Result};
use crate::model::CgroupMode;

/// Magic numbers of linux/magic.h.
const CGROUP_V1: i64 = 0x0027_e0eb;
const CGROUP_V2: i64 = 0x6367_7270;

const TOP: &str = "/sys/fs/cgroup";

impl Host {
    /// The host as far as a container needs it, in a few calls.
    ///
    /// # Errors
    /// As [`Host::detect`].
    pub fn quick() -> Result<Self> {
        let top = Path::new(TOP);
        let found = match kind(top) {
            Some(CGROUP_V2) => Some((BTreeMap::new(), Some(top.to_owned()))),
            _ => version_1(top),
        };
        let Some((v1, v2)) = found else {
            return Self::detect();
        };
        let v2_controllers = match &v2 {
            Some(at) => controllers(at)?,
            None => Vec::new(),
        };
        let swap_accounting = match v1.get("memory") {
            Some(at) => at.join("memory.memsw.limit_in_bytes").exists(),
            None => true,
        };
        let mode = match (v1.is_empty(), &v2) {
            (true, _) => CgroupMode::V2,
            (false, Some(_)) => CgroupMode::Hybrid,
            (false, None) => CgroupMode::V1,
        };
        Ok(Self {
            mode,
            v1,
            v2,
            v2_controllers,
            swap_accounting,
            systemd: Path::new("/run/systemd/system").is_dir(),
        })
    }
}

fn kind(path: &Path) -> Option<i64> {
    rustix::fs::statfs(path).ok().map(|fs| fs.f_type)
}

type Mounts = (BTreeMap<String, PathBuf>, Option<PathBuf>);

/// The folders in the top one, each a hierarchy or a link to one; `None` if that is not how it is.
fn version_1(top: &Path) -> Option<Mounts> {
    let mut v1 = BTreeMap::new();
    let mut v2 = None;
    for entry in std::fs::read_dir(top).ok()?.flatten() {
        let name = entry.file_name().into_string().ok()?;
        let path = entry.path();
        match kind(&path) {
            Some(CGROUP_V2) => v2 = Some(path),
            // `cpu` beside `cpu,cpuacct` is a link to it.
            Some(CGROUP_V1) if entry.file_type().is_ok_and(|t| t.is_dir()) => {
                let named = if name == "systemd" {
                    "name=systemd"
                } else {
                    &name
                };
                for controller in named.split(',') {
                    v1.insert(controller.to_owned(), path.clone());
                }
            }
            _ => {}
        }
    }
    let limits = |c: &Controller| c.v1_name().is_some_and(|name| v1.contains_key(name));
    Controller::ALL.iter().any(limits).then_some((v1, v2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_sees_what_the_list_of_mounts_says() {
        let (Ok(quick), Ok(detected)) = (Host::quick(), Host::detect()) else {
            // A machine without control groups has neither.
            assert!(Host::quick().is_err() && Host::detect().is_err());
            return;
        };
        assert_eq!((quick.mode, &quick.v2), (detected.mode, &detected.v2));
        assert_eq!(quick.v1, detected.v1);
        assert_eq!(quick.v2_controllers, detected.v2_controllers);
    }
}
