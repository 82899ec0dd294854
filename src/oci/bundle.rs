//! A bundle: the folder a client hands over, with `config.json`. It is read once; the same bytes are
//! kept beside the container's state, so that what was checked is what later commands see.

use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;

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
    serde_json::from_slice(text).map_err(OciError::Config)
}
