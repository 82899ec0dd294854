//! OCI Spec → what a process that enters a running guest must take on: the same limits, sets and
//! filter that the guest's first process has, never more.

use oci_spec::runtime::{LinuxNamespaceType, Spec};
use serde::{Deserialize, Serialize};

use super::seccomp::to_filter;
use super::spec::PlanError;
use super::step::Limit;
use super::steps::{bounding_of, limits_of, owns_cores};
use crate::model::Filter;

/// What entering takes on. Written down at the start, and all that is read of a launch afterwards.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EnterPlan {
    /// CLONE_NEW* bits of the guest's namespaces.
    pub namespaces: u64,
    /// Resource limits.
    pub limits: Vec<Limit>,
    /// Capabilities that stay in the bounding set.
    pub capabilities: Vec<String>,
    /// Whether executing can add privileges.
    pub no_new_privileges: bool,
    /// System call filter.
    pub filter: Option<Filter>,
    /// Environment.
    pub environment: Vec<String>,
    /// Whether nobody else uses the guest's cores while it runs on them.
    #[serde(default)]
    pub cores: bool,
}

/// The plan of entering the guest of a Spec.
pub fn enter(spec: &Spec) -> Result<EnterPlan, PlanError> {
    let missing = |what: &str| PlanError::Value {
        what: format!("the Spec's {what}"),
        why: "it is missing".into(),
    };
    let linux = spec.linux().as_ref().ok_or_else(|| missing("linux"))?;
    let process = spec.process().as_ref().ok_or_else(|| missing("process"))?;
    let bit = |kind| match kind {
        LinuxNamespaceType::Mount => 0x0002_0000,
        LinuxNamespaceType::Cgroup => 0x0200_0000,
        LinuxNamespaceType::Uts => 0x0400_0000,
        LinuxNamespaceType::Ipc => 0x0800_0000,
        LinuxNamespaceType::User => 0x1000_0000,
        LinuxNamespaceType::Pid => 0x2000_0000,
        LinuxNamespaceType::Network => 0x4000_0000,
        LinuxNamespaceType::Time => 0x0000_0080_u64,
    };
    Ok(EnterPlan {
        namespaces: linux
            .namespaces()
            .iter()
            .flatten()
            .fold(0, |all, namespace| all | bit(namespace.typ())),
        limits: limits_of(process),
        capabilities: bounding_of(process),
        no_new_privileges: process.no_new_privileges().unwrap_or(false),
        filter: linux.seccomp().as_ref().map(to_filter).transpose()?,
        environment: process.env().clone().unwrap_or_default(),
        cores: owns_cores(spec)?,
    })
}
