//! A bundle: the folder a client hands over, with `config.json`. It is read once; the same bytes are
//! kept beside the container's state, so that what was checked is what later commands see.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxIdMapping, LinuxNamespaceType, Spec};

use super::error::{OciError, Result};
use super::host::{self, HostView};
use super::rules::Config;
use super::store::LARGEST;
use crate::kernel::file::read_small;
use crate::model::{CgroupHost, CgroupMode, CgroupPlan};
use crate::plan::cgroup;

/// A bundle that has been read.
#[derive(Debug)]
pub(super) struct Bundle {
    pub(super) path: PathBuf,
    pub(super) text: Vec<u8>,
    pub(super) config: Config,
}

impl Bundle {
    pub(super) fn read(path: &Path, config: &Path) -> Result<Self> {
        let path = std::path::absolute(path).map_err(|error| OciError::File {
            path: path.display().to_string(),
            why: error.to_string(),
        })?;
        // `.` at the end, as from the default, is not part of the name.
        let path: PathBuf = path.components().collect();
        let file = path.join(config);
        let text = read_small(&file, LARGEST)?;
        let text = text.ok_or_else(|| OciError::File {
            path: file.display().to_string(),
            why: "no such file or directory: a bundle is a folder with a config.json".into(),
        })?;
        let config = Config::read(&text, &host::cache()).map_err(OciError::Config)?;
        Ok(Self { path, text, config })
    }

    /// Its root file system.
    pub(super) fn rootfs(&self) -> PathBuf {
        let root = self.config.spec.root().as_ref().map(|r| r.path().clone());
        self.path.join(root.unwrap_or_default())
    }

    /// Its control groups.
    pub(super) fn cgroups(&self, id: &str, systemd: bool, host: &HostView) -> Result<CgroupPlan> {
        let linux = self.config.spec.linux().as_ref();
        let empty = PathBuf::new();
        let container = cgroup::Container {
            id,
            cgroups_path: linux
                .and_then(|l| l.cgroups_path().as_ref())
                .unwrap_or(&empty),
            annotations: self.config.spec.annotations().as_ref(),
            systemd,
        };
        let resources = linux.and_then(|l| l.resources().as_ref());
        let mut plan = cgroup::plan(&container, resources, &CgroupHost::from(&host.cgroups))?;
        if host.facts.limited {
            // Programs that filter devices are root's; the nodes that are there are the host's.
            plan.devices = None;
        }
        plan.owner = owner(&self.config.spec).filter(|_| host.facts.cgroup_mode == CgroupMode::V2);
        Ok(plan)
    }
}

/// A configuration.
pub(super) fn parse(text: &[u8]) -> Result<Spec> {
    let (spec, _told_at_create) = super::dialect::parse(text).map_err(OciError::Config)?;
    Ok(spec)
}

/// Whose the container's version 2 group is, as the specification has it: its own root's, if all that
/// it can see of control groups is its own, and it may write there.
pub(super) fn owner(spec: &Spec) -> Option<(u32, u32)> {
    let linux = spec.linux().as_ref()?;
    let new = |kind| {
        let all = linux.namespaces().as_deref().unwrap_or_default();
        let found = all.iter().find(|n| n.typ() == kind);
        found.is_some_and(|n| n.path().as_ref().is_none_or(|p| p.as_os_str().is_empty()))
    };
    let shown = spec.mounts().iter().flatten().find(|mount| {
        let cgroup = matches!(mount.typ().as_deref(), Some("cgroup" | "cgroup2"));
        cgroup && mount.destination() == Path::new("/sys/fs/cgroup")
    })?;
    let sealed = |option: &String| matches!(option.as_str(), "ro" | "rro");
    let root = |maps: &Option<Vec<LinuxIdMapping>>| {
        let map = maps.iter().flatten().find(|m| m.container_id() == 0);
        map.map(LinuxIdMapping::host_id)
    };
    let writable = !shown.options().iter().flatten().any(sealed);
    let own = new(LinuxNamespaceType::User) && new(LinuxNamespaceType::Cgroup);
    let (uid, gid) = (root(linux.uid_mappings())?, root(linux.gid_mappings())?);
    (writable && own).then_some((uid, gid))
}
