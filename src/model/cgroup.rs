//! The control groups of an OCI container as data: where they are, what is written into them. Made
//! from a Spec by `plan::cgroup`, carried out by `kernel::cgroup`, kept in a container's state file.
//! Limits of guests are in `guest`.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{CgroupMode, HostFacts};

/// What the groups of containers whose client chose no place are called, before a dash and the id.
pub const CONTAINER_PREFIX: &str = "bulkhead-oci";

/// What a plan for control groups must know about the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupHost {
    /// Which versions hold the controllers.
    pub mode: CgroupMode,
    /// Controllers of version 1 hierarchies (`cpu`, `memory`, …).
    pub v1: BTreeSet<String>,
    /// Controllers that version 2 has.
    pub v2: BTreeSet<String>,
    /// Whether limits on swap exist.
    pub swap: bool,
}

impl CgroupHost {
    /// Whether version 1 has the controller of that (version 1) name.
    #[must_use]
    pub fn on_v1(&self, controller: &str) -> bool {
        self.v1.contains(controller)
    }
}

impl From<&HostFacts> for CgroupHost {
    fn from(facts: &HostFacts) -> Self {
        Self {
            mode: facts.cgroup_mode,
            v1: facts.cgroup_v1.keys().cloned().collect(),
            v2: facts.cgroup_v2_controllers.iter().cloned().collect(),
            swap: facts.swap_accounting,
        }
    }
}

/// One control file to write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupSetting {
    /// Controller whose folder the file is in, by the name it has where the host has it; `cgroup`
    /// for files that every version 2 group has.
    pub controller: String,
    /// Name of the file.
    pub file: String,
    /// What is written, in one call.
    pub value: String,
    /// Whether a refusal is passed over. Only for values that say "no limit" or that ask for what
    /// cannot be had anyway.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub best_effort: bool,
    /// File and value to write where this kernel has no such file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub otherwise: Option<(String, String)>,
}

impl CgroupSetting {
    /// A setting that must succeed.
    #[must_use]
    pub fn new(controller: &str, file: impl Into<String>, value: impl ToString) -> Self {
        Self {
            controller: controller.to_owned(),
            file: file.into(),
            value: value.to_string(),
            best_effort: false,
            otherwise: None,
        }
    }

    /// The same, but a refusal is passed over.
    #[must_use]
    pub fn best_effort(mut self) -> Self {
        self.best_effort = true;
        self
    }
}

/// One entry of an ordered list of device rules: of those that match, the last one counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceEntry {
    /// Whether it allows or denies.
    pub allow: bool,
    /// `b`, `c`, or `a` for both.
    pub kind: char,
    /// Major number; `None` for any.
    pub major: Option<u32>,
    /// Minor number; `None` for any.
    pub minor: Option<u32>,
    /// Letters of `rwm`.
    pub access: String,
}

impl DeviceEntry {
    /// Whether it settles all devices and every access, so that nothing before it counts.
    #[must_use]
    pub fn is_total(&self) -> bool {
        let all = "rwm".chars().all(|c| self.access.contains(c));
        self.kind == 'a' && self.major.is_none() && self.minor.is_none() && all
    }
}

/// Where a container's groups are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupPlace {
    /// Folder below each hierarchy's root; begins with `/`.
    pub path: PathBuf,
    /// The systemd unit that the groups belong to, with the systemd driver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<SystemdScope>,
    /// Folders above it, in any hierarchy, that were made for it and go with it when empty. Filled
    /// in by making the groups.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub made: Vec<PathBuf>,
}

/// A transient scope of systemd's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SystemdScope {
    /// Slice it is put into, such as `system.slice`.
    pub slice: String,
    /// Name of the unit, such as `cri-containerd-ID.scope`.
    pub unit: String,
    /// What `systemctl status` says.
    pub description: String,
    /// Properties of the unit, in order; systemd refuses one it does not know.
    pub properties: Vec<(String, UnitValue)>,
}

/// Value of a unit's property, in the types D-Bus has for it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UnitValue {
    /// `b`
    Bool(bool),
    /// `i`
    I32(i32),
    /// `u`
    U32(u32),
    /// `x`
    I64(i64),
    /// `t`
    U64(u64),
    /// `d`
    Double(f64),
    /// `s`
    Text(String),
    /// `ay`: a set of CPUs or memory nodes, the lowest in the lowest bit of the first byte.
    Bytes(Vec<u8>),
    /// `au`
    U32s(Vec<u32>),
    /// `as`
    Texts(Vec<String>),
}

impl Eq for UnitValue {}

/// Everything to be done with a container's control groups when it is made, or changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupPlan {
    /// Where.
    pub place: CgroupPlace,
    /// What is written, in this order.
    pub settings: Vec<CgroupSetting>,
    /// Which devices it may use, as an ordered list; `None` leaves them as they are.
    pub devices: Option<Vec<DeviceEntry>>,
    /// User and group who own the version 2 folder inside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<(u32, u32)>,
    /// A memory limit that is refused when more is in use already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_below_usage: Option<u64>,
}
