//! `spec`: a configuration to begin with. Tools edit it, so its shape is the one they know.

use std::path::Path;

use serde_json::{Value, json};

use super::args::Spec;
use super::error::{OciError, Result};
use crate::plan::container::OCI_VERSION;

/// Writes it, if there is none yet.
pub(super) fn write(args: &Spec) -> Result<u8> {
    let path = args.bundle.join("config.json");
    let wrong = |why: String| OciError::File {
        path: path.display().to_string(),
        why,
    };
    let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let mut text = serde_json::to_vec_pretty(&template(args.rootless, unified)).unwrap_or_default();
    text.push(b'\n');
    let file = std::fs::File::options()
        .write(true)
        .create_new(true)
        .open(&path);
    let mut file = file.map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => wrong("it exists already: remove it first".into()),
        _ => wrong(error.to_string()),
    })?;
    std::io::Write::write_all(&mut file, &text).map_err(|e| wrong(e.to_string()))?;
    Ok(0)
}

/// With version 1 tools add the cgroup namespace themselves, since runc leaves it out there.
fn template(rootless: bool, unified: bool) -> Value {
    let caps = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    let mut all = json!({
        "ociVersion": OCI_VERSION,
        "process": {
            "terminal": true,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": [
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "TERM=xterm"
            ],
            "cwd": "/",
            "capabilities": {"bounding": caps, "effective": caps, "permitted": caps},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true
        },
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "bulkhead",
        "mounts": mounts(),
        "linux": {
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": [
                {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"},
                {"type": "mount"}
            ],
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware",
                "/proc/scsi"
            ],
            "readonlyPaths": [
                "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"
            ]
        }
    });
    if let (true, Some(kinds)) = (unified, all["linux"]["namespaces"].as_array_mut()) {
        kinds.push(json!({"type": "cgroup"}));
    }
    if rootless {
        make_rootless(&mut all);
    }
    all
}

fn mounts() -> Value {
    let safe = ["nosuid", "noexec", "nodev"];
    let with = |more: &[&str]| -> Vec<String> {
        safe.iter().chain(more).map(|o| (*o).to_owned()).collect()
    };
    json!([
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
         "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
        {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
         "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
        {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
         "options": with(&["mode=1777", "size=65536k"])},
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": with(&[])},
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": with(&["ro"])},
        {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
         "options": with(&["relatime", "ro"])}
    ])
}

/// One id of the caller's as root inside, the host's network, no limits.
fn make_rootless(all: &mut Value) {
    let uid = rustix::process::geteuid().as_raw();
    let gid = rustix::process::getegid().as_raw();
    all["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": uid, "size": 1}]);
    all["linux"]["gidMappings"] = json!([{"containerID": 0, "hostID": gid, "size": 1}]);
    if let Some(linux) = all["linux"].as_object_mut() {
        linux.remove("resources");
    }
    if let Some(kinds) = all["linux"]["namespaces"].as_array_mut() {
        kinds.retain(|kind| kind["type"] != "network");
        kinds.push(json!({"type": "user"}));
    }
    if let Some(mounts) = all["mounts"].as_array_mut() {
        mounts.retain(|mount| mount["type"] != "cgroup");
        for mount in mounts.iter_mut() {
            if let Some(options) = mount.get_mut("options").and_then(Value::as_array_mut) {
                options.retain(|option| option != "gid=5");
            }
            if mount["type"] == "sysfs" {
                *mount = json!({"destination": "/sys", "type": "none", "source": "/sys",
                    "options": ["rbind", "nosuid", "noexec", "nodev", "ro"]});
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_are_configurations_that_pass() {
        for (rootless, unified) in [(false, false), (true, false), (false, true), (true, true)] {
            let template = template(rootless, unified);
            let mounts = template["mounts"].as_array().unwrap();
            assert!(
                mounts
                    .iter()
                    .all(|mount| mount.get("options") != Some(&Value::Null))
            );
            let spec: oci_spec::runtime::Spec = serde_json::from_value(template).unwrap();
            crate::plan::container::check(&spec).unwrap();
            assert_eq!(spec.process().as_ref().unwrap().terminal(), Some(true));
        }
    }
}
