//! What this host is, as far as a launch depends on it. Asked anew each time, so that it is cheap: a
//! few files in usual places, no list of mounts. Commands that launch nothing ask for its control
//! groups alone (`kernel::cgroup::Host::quick`).

use std::path::{Path, PathBuf};

use super::error::Result;
use super::words;
use crate::kernel::cgroup;
use crate::plan::container::Facts;

/// The host.
#[derive(Debug)]
pub(super) struct HostView {
    pub(super) cgroups: cgroup::Host,
    pub(super) facts: Facts,
}

/// Whether to work without root's privileges: as somebody has said, or as who calls.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rootless(Option<bool>);

impl Rootless {
    pub(super) fn is_on(self) -> bool {
        self.0
            .unwrap_or_else(|| !rustix::process::geteuid().is_root())
    }
}

impl std::str::FromStr for Rootless {
    type Err = &'static str;

    fn from_str(text: &str) -> std::result::Result<Self, Self::Err> {
        if text.eq_ignore_ascii_case("auto") {
            return Ok(Self(None));
        }
        let said = words::truth(text).ok_or("write true, false or auto")?;
        Ok(Self(Some(said)))
    }
}

impl HostView {
    pub(super) fn look(rootless: bool) -> Result<Self> {
        let cgroups = cgroup::Host::quick()?;
        Ok(Self {
            facts: Facts {
                cgroup_mode: cgroups.mode,
                selinux: Path::new("/sys/fs/selinux/enforce").exists(),
                apparmor: is_yes("/sys/module/apparmor/parameters/enabled"),
                rootless: !rustix::process::geteuid().is_root(),
                limited: rootless || in_user_namespace(),
            },
            cgroups,
        })
    }
}

/// Whether our user namespace is not the first one, which has a number of its own
/// (PROC_USER_INIT_INO, Linux 3.8).
fn in_user_namespace() -> bool {
    const FIRST: u64 = 0xEFFF_FFFD;
    rustix::fs::stat("/proc/self/ns/user").map_or(true, |ns| ns.st_ino != FIRST)
}

fn is_yes(path: &str) -> bool {
    std::fs::read(path).is_ok_and(|text| text.first() == Some(&b'Y'))
}

/// Folder of compiled seccomp programs, the same for every folder of state.
pub(super) fn cache() -> PathBuf {
    runtime_folder().join("bulkhead-oci-cache")
}

/// Where what a reboot may forget is kept.
pub(super) fn runtime_folder() -> PathBuf {
    let own = std::env::var_os("XDG_RUNTIME_DIR").filter(|_| !rustix::process::geteuid().is_root());
    own.map_or_else(|| PathBuf::from("/run"), PathBuf::from)
}
