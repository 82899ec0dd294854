//! Which control group hierarchies this host has mounted, and where. Read once per command, or
//! taken from cached facts; what is put into the hierarchies belongs next door.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags};

use super::{CgroupError, Controller, Result};
use crate::kernel::mount_table::unescape;
use crate::model::{CgroupMode, HostFacts};

/// The host's control groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Which versions hold the controllers.
    pub mode: CgroupMode,
    /// Mount points of version 1 by controller name (`cpu`, `memory`, …, `name=systemd`).
    pub v1: BTreeMap<String, PathBuf>,
    /// Mount point of version 2; `None` if there is none: see [`mount_v2`].
    pub v2: Option<PathBuf>,
    /// Controllers that version 2 has at its mount point.
    pub v2_controllers: Vec<String>,
    /// Whether limits on swap exist.
    pub swap_accounting: bool,
    /// Whether systemd is process 1, so that groups live below a service of its.
    pub systemd: bool,
}

impl Host {
    /// Reads /proc/self/mountinfo and looks at what is there.
    ///
    /// # Errors
    /// When neither version is mounted, or mountinfo cannot be read.
    pub fn detect() -> Result<Self> {
        let file = Path::new("/proc/self/mountinfo");
        let text = std::fs::read_to_string(file).map_err(|e| {
            let errno = Errno::from_io_error(&e).unwrap_or(Errno::IO);
            CgroupError::file("read", file, errno)
        })?;
        let (v1, v2) = mounts(&text);
        Self::from_mounts(v1, v2)
    }

    /// From facts probed earlier in this boot.
    #[must_use]
    pub fn from_facts(facts: &HostFacts) -> Self {
        Self {
            mode: facts.cgroup_mode,
            v1: facts.cgroup_v1.clone(),
            v2: facts.cgroup_v2.clone(),
            v2_controllers: facts.cgroup_v2_controllers.clone(),
            swap_accounting: facts.swap_accounting,
            systemd: facts.systemd,
        }
    }

    /// The same host after a version 2 hierarchy was mounted at `at`.
    ///
    /// # Errors
    /// When its list of controllers cannot be read.
    pub fn with_v2_at(self, at: &Path) -> Result<Self> {
        Self::from_mounts(self.v1, Some(at.to_owned()))
    }

    fn from_mounts(v1: BTreeMap<String, PathBuf>, v2: Option<PathBuf>) -> Result<Self> {
        let v2_controllers = match &v2 {
            Some(at) => controllers(at)?,
            None => Vec::new(),
        };
        // What else may be there, such as net_cls or the name of an init system, sets no limits.
        let limits_on_v1 = Controller::ALL
            .iter()
            .any(|c| c.v1_name().is_some_and(|name| v1.contains_key(name)));
        let mode = match (limits_on_v1, &v2) {
            (true, Some(_)) => CgroupMode::Hybrid,
            (true, None) => CgroupMode::V1,
            (false, Some(_)) => CgroupMode::V2,
            (false, None) => return Err(CgroupError::NoV2),
        };
        let swap_accounting = match (v1.get("memory"), &v2) {
            (Some(at), _) => at.join("memory.memsw.limit_in_bytes").exists(),
            (None, Some(at)) => v2_has_swap(at, &v2_controllers),
            (None, None) => false,
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

    /// Version 2 controllers of ours that exist at the mount point.
    pub(super) fn v2_usable(&self) -> Vec<Controller> {
        named(self.v2_controllers.iter().map(String::as_str))
    }
}

/// Our controllers among names of version 2.
pub(super) fn named<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<Controller> {
    let names: Vec<&str> = names.into_iter().collect();
    Controller::V2_NAMED
        .into_iter()
        .filter(|c| c.v2_name().is_some_and(|n| names.contains(&n)))
        .collect()
}

pub(super) fn controllers(v2: &Path) -> Result<Vec<String>> {
    let file = v2.join("cgroup.controllers");
    let text = std::fs::read_to_string(&file).map_err(|e| {
        CgroupError::file("read", &file, Errno::from_io_error(&e).unwrap_or(Errno::IO))
    })?;
    Ok(text.split_whitespace().map(str::to_owned).collect())
}

/// Whether version 2 limits swap. The root group has no such file, any child of it has; a kernel
/// with the memory controller lacks it only when booted with `swapaccount=0` (before 6.11).
fn v2_has_swap(v2: &Path, controllers: &[String]) -> bool {
    if !controllers.iter().any(|c| c == "memory") {
        return false;
    }
    let children = std::fs::read_dir(v2).into_iter().flatten().flatten();
    let mut limited = children
        .map(|entry| entry.path())
        .filter(|path| path.join("memory.max").exists());
    match limited.next() {
        Some(path) => path.join("memory.swap.max").exists(),
        None => !std::fs::read_to_string("/proc/cmdline")
            .unwrap_or_default()
            .split_whitespace()
            .any(|word| word == "swapaccount=0"),
    }
}

/// Hierarchies in the text of mountinfo (proc_pid_mountinfo(5)); the first mount of each counts.
fn mounts(text: &str) -> (BTreeMap<String, PathBuf>, Option<PathBuf>) {
    let mut v1 = BTreeMap::new();
    let mut v2 = None;
    for line in text.lines() {
        let Some((left, right)) = line.split_once(" - ") else {
            continue;
        };
        let Some(at) = left.split(' ').nth(4).map(unescape) else {
            continue;
        };
        let mut right = right.split(' ');
        match right.next() {
            Some("cgroup2") => {
                v2.get_or_insert(at);
            }
            Some("cgroup") => {
                let options = right.nth(1).unwrap_or_default();
                let ours = |o: &&str| !matches!(*o, "rw" | "ro" | "xattr" | "clone_children");
                for name in options.split(',').filter(ours) {
                    v1.entry(name.to_owned()).or_insert_with(|| at.clone());
                }
            }
            _ => {}
        }
    }
    (v1, v2)
}

/// Mounts a version 2 hierarchy at the folder `at` (fsopen(2), Linux 5.2). On a host that has all
/// controllers on version 1 it gives groups without controllers, which is what killing, freezing,
/// cloning into a group and delegation need.
///
/// # Errors
/// When the kernel refuses: no CAP_SYS_ADMIN, or no such folder.
pub fn mount_v2(at: &Path) -> Result<()> {
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    rustix::mount::fsopen("cgroup2", FsOpenFlags::FSOPEN_CLOEXEC)
        .and_then(|fs| {
            rustix::mount::fsconfig_create(&fs)?;
            rustix::mount::fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
        })
        .and_then(|mount| {
            rustix::mount::move_mount(
                &mount,
                "",
                rustix::fs::CWD,
                at,
                MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
            )
        })
        .map_err(|e| CgroupError::file("mount cgroup2 at", at, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_of_a_hybrid_host() {
        let text = "\
            32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime shared:3 - cgroup cgroup rw,cpu,cpuacct\n\
            35 31 0:32 / /mnt/a\\040b rw - cgroup cgroup rw,xattr,memory\n\
            40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd\n\
            41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate\n\
            42 31 0:38 / /elsewhere rw,relatime - cgroup2 cgroup2 rw\n\
            27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard\n";
        let (v1, v2) = mounts(text);
        assert_eq!(v2.as_deref(), Some(Path::new("/sys/fs/cgroup/unified")));
        assert_eq!(v1["memory"], Path::new("/mnt/a b"));
        assert_eq!(v1["cpu"], v1["cpuacct"]);
        let names: Vec<&str> = v1.keys().map(String::as_str).collect();
        assert_eq!(names, ["cpu", "cpuacct", "memory", "name=systemd"]);
    }
}
