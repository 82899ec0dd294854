//! Control groups of an OCI container: its Spec's `linux.resources` and `linux.cgroupsPath` become
//! a list of control files and values ([`CgroupPlan`]). Pure. Where the groups are is in `place`,
//! device rules in `devices`, what systemd is told in `scope`, the two versions of the interface
//! in `v1` and `v2`. What guests are given is in `plan::resources`; writing is `kernel::cgroup`'s.

mod devices;
mod memory;
mod place;
mod scope;
#[cfg(test)]
mod settings_tests;
mod v1;
mod v2;

use std::collections::HashMap;
use std::path::Path;

use oci_spec::runtime::LinuxResources;

use crate::model::{CgroupHost, CgroupMode, CgroupPlan, CgroupSetting};

pub use devices::entries as device_entries;
pub use place::place;

/// Why the resources of a Spec cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CgroupPlanError {
    /// A value that means nothing, or is out of range.
    #[error("{field} is {value:?}: {rule}")]
    Value {
        /// Key of the Spec.
        field: &'static str,
        /// What it says.
        value: String,
        /// What would be right.
        rule: String,
    },
    /// This host's control groups cannot do it.
    #[error("{field} cannot be had on this host ({host}): {why}")]
    Unsupported {
        /// Key of the Spec.
        field: String,
        /// Kind of control groups.
        host: &'static str,
        /// Why not, or what to do instead.
        why: String,
    },
}

type Result<T> = std::result::Result<T, CgroupPlanError>;

pub(super) fn bad(
    field: &'static str,
    value: impl ToString,
    rule: impl Into<String>,
) -> CgroupPlanError {
    CgroupPlanError::Value {
        field,
        value: value.to_string(),
        rule: rule.into(),
    }
}

fn unsupported(
    host: &CgroupHost,
    field: impl Into<String>,
    why: impl Into<String>,
) -> CgroupPlanError {
    CgroupPlanError::Unsupported {
        field: field.into(),
        host: match host.mode {
            CgroupMode::V1 => "cgroup version 1",
            CgroupMode::Hybrid => "cgroup version 1 beside version 2",
            CgroupMode::V2 => "cgroup version 2",
        },
        why: why.into(),
    }
}

/// What is known of a container beside its resources.
#[derive(Clone, Copy, Debug)]
pub struct Container<'a> {
    /// Its id.
    pub id: &'a str,
    /// `linux.cgroupsPath`, empty if there is none.
    pub cgroups_path: &'a Path,
    /// The Spec's annotations; those that begin with `org.systemd.property.` count.
    pub annotations: Option<&'a HashMap<String, String>>,
    /// Whether groups are made through systemd.
    pub systemd: bool,
}

/// The plan for a new container. The devices every container may use come last and are always
/// allowed.
///
/// # Errors
/// [`CgroupPlanError`] names the key of the Spec.
pub fn plan(
    container: &Container<'_>,
    resources: Option<&LinuxResources>,
    host: &CgroupHost,
) -> Result<CgroupPlan> {
    let empty = LinuxResources::default();
    let resources = resources.unwrap_or(&empty);
    let mut place = place(container, host)?;
    let settings = settings(resources, host)?;
    if let Some(scope) = &mut place.scope {
        scope.properties = scope::properties(resources, container.annotations, host)?;
    }
    Ok(CgroupPlan {
        place,
        settings,
        devices: Some(device_entries(
            resources.devices().as_deref().unwrap_or_default(),
        )?),
        owner: None,
        not_below_usage: memory::not_below_usage(resources),
    })
}

/// The plan for new resources of a running container that is at `place`. Devices change only if
/// the resources have a list of them.
///
/// # Errors
/// [`CgroupPlanError`] names the key of the Spec.
pub fn update(
    place: &crate::model::CgroupPlace,
    resources: &LinuxResources,
    host: &CgroupHost,
) -> Result<CgroupPlan> {
    let mut place = place.clone();
    if let Some(scope) = &mut place.scope {
        scope.properties = scope::limits(resources, host)?;
    }
    let devices = match resources.devices().as_deref() {
        None | Some([]) => None,
        Some(list) => Some(device_entries(list)?),
    };
    Ok(CgroupPlan {
        place,
        settings: settings(resources, host)?,
        devices,
        owner: None,
        not_below_usage: memory::not_below_usage(resources),
    })
}

/// All control files for the resources, in the order in which they are written.
fn settings(resources: &LinuxResources, host: &CgroupHost) -> Result<Vec<CgroupSetting>> {
    let mut out = Vec::new();
    let on = |name: &str| host.on_v1(name);
    // A controller is in one version at a time; of a hybrid host each may be in either.
    match on("pids") {
        true => v1::pids(resources, &mut out),
        false => v2::pids(resources, host, &mut out)?,
    }
    match on("memory") {
        true => memory::v1(resources, host, &mut out)?,
        false => memory::v2(resources, host, &mut out)?,
    }
    match on("cpu") {
        true => v1::cpu(resources, &mut out)?,
        false => v2::cpu(resources, host, &mut out)?,
    }
    match on("cpuset") {
        true => cpuset(resources, &mut out),
        false => v2::cpuset(resources, host, &mut out)?,
    }
    match on("blkio") {
        true => v1::block_io(resources, &mut out)?,
        false => v2::block_io(resources, host, &mut out)?,
    }
    match on("hugetlb") {
        true => v1::huge_pages(resources, &mut out)?,
        false => v2::huge_pages(resources, host, &mut out)?,
    }
    rdma(resources, host, &mut out)?;
    v1::network(resources, host, &mut out)?;
    v2::unified(resources, host, &mut out)?;
    Ok(out)
}

/// Both versions name these files alike.
fn cpuset(resources: &LinuxResources, out: &mut Vec<CgroupSetting>) {
    let Some(cpu) = resources.cpu() else { return };
    for (file, value) in [("cpuset.cpus", cpu.cpus()), ("cpuset.mems", cpu.mems())] {
        if let Some(value) = value.as_deref().filter(|v| !v.is_empty()) {
            out.push(CgroupSetting::new("cpuset", file, value));
        }
    }
}

fn rdma(resources: &LinuxResources, host: &CgroupHost, out: &mut Vec<CgroupSetting>) -> Result<()> {
    let Some(devices) = resources.rdma().as_ref().filter(|all| !all.is_empty()) else {
        return Ok(());
    };
    if !host.on_v1("rdma") {
        v2::needs(host, "rdma", "resources.rdma")?;
    }
    let mut names: Vec<_> = devices.keys().collect();
    names.sort();
    for name in names {
        let limit = &devices[name];
        plain_word("resources.rdma", name)?;
        let mut line = name.clone();
        let parts = [
            ("hca_handle", limit.hca_handles()),
            ("hca_object", limit.hca_objects()),
        ];
        for (key, most) in parts {
            if let Some(most) = most {
                line.push_str(&format!(" {key}={most}"));
            }
        }
        out.push(CgroupSetting::new("rdma", "rdma.max", line));
    }
    Ok(())
}

/// A name that goes into a line of a control file: no blanks, nothing that ends the line.
fn plain_word(field: &'static str, word: &str) -> Result<()> {
    if word.is_empty() || word.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(bad(field, word, "a name without blanks is needed"));
    }
    Ok(())
}

/// `MAJOR:MINOR` of a block device.
fn device_number(field: &'static str, major: i64, minor: i64) -> Result<String> {
    // Of a larger one the kernel would take what fits, which is another device.
    match (u32::try_from(major), u32::try_from(minor)) {
        (Ok(major), Ok(minor)) => Ok(format!("{major}:{minor}")),
        _ => {
            let rule = "device numbers go from 0 to 4294967295";
            Err(bad(field, format!("{major}:{minor}"), rule))
        }
    }
}

/// A page size as the kernel writes it in file names: `2MB`, `1GB`, `64KB`.
fn page_size(text: &str) -> Result<&str> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    if number && matches!(&text[digits.len()..], "KB" | "MB" | "GB") {
        return Ok(text);
    }
    let rule = "write a page size as the kernel does: 64KB, 2MB, 1GB";
    Err(bad("resources.hugepageLimits.pageSize", text, rule))
}
