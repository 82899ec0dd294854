//! Device nodes, and the resource control group of Intel's RDT. Who may open a device is
//! `plan::cgroup`'s matter.

use std::path::PathBuf;

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType, LinuxIntelRdt};

use super::check::NOBODY;
use super::sources::Trees;
use super::step::{DeviceNode, OutsideStep};
use super::{Wish, refuse};
use crate::plan::PlanError;

/// What every container has in /dev.
const USUAL: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

/// The usual nodes, and those asked for, which win.
pub(super) fn nodes(wish: &Wish<'_>, trees: &mut Trees) -> Result<Vec<DeviceNode>, PlanError> {
    let asked = wish.linux().and_then(|l| l.devices().as_ref());
    let asked: Vec<DeviceNode> = asked
        .into_iter()
        .flatten()
        .map(node)
        .collect::<Result<_, _>>()?;
    let usual = USUAL.iter().map(|(path, major, minor)| DeviceNode {
        path: PathBuf::from(path),
        kind: 'c',
        major: *major,
        minor: *minor,
        mode: 0o666,
        uid: 0,
        gid: 0,
        tree: None,
    });
    let mut all: Vec<DeviceNode> = usual
        .filter(|node| asked.iter().all(|a| a.path != node.path))
        .chain(asked.iter().cloned())
        .collect();
    if wish.user_namespace() || wish.facts.limited {
        for node in all.iter_mut().filter(|node| node.kind != 'p') {
            node.tree = Some(trees.push(OutsideStep::CloneDevice {
                path: node.path.clone(),
                block: node.kind == 'b',
                major: node.major,
                minor: node.minor,
            }));
        }
    }
    Ok(all)
}

fn node(device: &LinuxDevice) -> Result<DeviceNode, PlanError> {
    let number = |n: i64, highest: u32| {
        let what = format!("linux.devices, {}", device.path().display());
        let number = u32::try_from(n).ok().filter(|n| *n <= highest);
        number.ok_or_else(|| refuse(what, format!("{n} is no device number")))
    };
    let kind = match device.typ() {
        LinuxDeviceType::B => 'b',
        LinuxDeviceType::C | LinuxDeviceType::U => 'c',
        LinuxDeviceType::P => 'p',
        LinuxDeviceType::A => {
            let what = format!("linux.devices, {}", device.path().display());
            return Err(refuse(what, "a node is of type c, u, b or p"));
        }
    };
    let (major, minor) = match kind {
        'p' => (0, 0),
        // The kernel's own numbers are 12 and 20 bits wide.
        _ => (
            number(device.major(), 0xfff)?,
            number(device.minor(), 0xf_ffff)?,
        ),
    };
    let (uid, gid) = (device.uid().unwrap_or(0), device.gid().unwrap_or(0));
    if [uid, gid].contains(&NOBODY) {
        let what = format!("linux.devices, {}", device.path().display());
        let why = format!("{NOBODY} is no id: the highest one is 4294967294");
        return Err(refuse(what, why));
    }
    Ok(DeviceNode {
        path: device.path().clone(),
        kind,
        major,
        minor,
        mode: device.file_mode().unwrap_or(0o666) & 0o7777,
        uid,
        gid,
        tree: None,
    })
}

/// The resource control group of a container.
pub(super) fn rdt_group(id: &str, rdt: &LinuxIntelRdt) -> OutsideStep {
    let mut schemata: Vec<String> = rdt.schemata().clone().unwrap_or_default();
    schemata.extend(rdt.l3_cache_schema().clone());
    schemata.extend(rdt.mem_bw_schema().clone());
    let group = rdt.clos_id().clone().filter(|g| !g.is_empty());
    OutsideStep::MakeRdtGroup {
        group: group.unwrap_or_else(|| id.to_owned()),
        schemata,
    }
}
