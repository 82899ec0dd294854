//! What the host mounts of a Spec, as steps; their order among the others is in `steps`.

use oci_spec::runtime::Mount;

use super::mounts;
use super::options::Options;
use super::spec::{self, PlanError};
use super::step::{HostStep, Node};
use super::steps::Parts;
use crate::model::MountOp;

/// What the host mounts: everything that may be locked against the guest.
pub(super) fn host_mount(parts: &Parts<'_>, mount: &Mount) -> Result<Vec<HostStep>, PlanError> {
    let options = Options::of(mount);
    let target = mount.destination().clone();
    Ok(match mount.typ().as_deref() {
        Some("bind") => vec![HostStep::AttachTree {
            target,
            attributes: options.attributes,
            idmap: options.idmap,
            recursive: options.recursive,
        }],
        Some("tmpfs") => {
            let mut settings = options.settings;
            settings.push(("uid".into(), parts.base.to_string()));
            settings.push(("gid".into(), parts.base.to_string()));
            let dev = target.as_os_str() == "/dev";
            let mut steps = vec![HostStep::MountTmpfs {
                target,
                options: settings,
                attributes: options.attributes,
            }];
            if dev {
                steps.push(HostStep::MakeDevices {
                    nodes: nodes(parts),
                    owner: parts.base,
                });
            }
            steps
        }
        Some(mounts::ROOT) => {
            let root = parts.below.iter().find_map(|op| match op {
                MountOp::Root { target: at, root } if *at == target => Some(root.clone()),
                _ => None,
            });
            vec![HostStep::MountBelow {
                root: root.ok_or_else(|| PlanError::Value {
                    what: format!("the mount of the Spec on {}", target.display()),
                    why: format!("{} does not say what it is", spec::BELOW),
                })?,
                target,
                owner: parts.base,
                attributes: options.attributes,
            }]
        }
        _ => Vec::new(),
    })
}

fn nodes(parts: &Parts<'_>) -> Vec<Node> {
    let number = |n: i64| u32::try_from(n).unwrap_or(0);
    parts
        .linux
        .devices()
        .iter()
        .flatten()
        .filter_map(|device| {
            let name = device
                .path()
                .strip_prefix("/dev")
                .ok()?
                .to_str()?
                .to_owned();
            Some(Node {
                name,
                block: device.typ() == oci_spec::runtime::LinuxDeviceType::B,
                major: number(device.major()),
                minor: number(device.minor()),
                mode: device.file_mode().unwrap_or(0o666),
            })
        })
        .collect()
}
