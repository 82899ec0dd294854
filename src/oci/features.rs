//! `features`: what this runtime can carry out, in the specification's words. Whatever stands here
//! is tried by a test.

use std::io::Write as _;

use oci_spec::runtime::LinuxNamespaceType;
use serde_json::{Value, json};

use super::error::Result;
use crate::kernel::{capability, rdt, seccomp};
use crate::model::Action;
use crate::plan::container::{OCI_VERSION, known_options, word};

/// What `--version` prints.
pub(super) fn version() -> String {
    format!(
        "bulkhead-oci version {}\nspec: {OCI_VERSION}\nlibseccomp: {}",
        env!("CARGO_PKG_VERSION"),
        seccomp::library_version()
    )
}

/// Prints them.
pub(super) fn print() -> Result<u8> {
    let text = serde_json::to_string_pretty(&features()).unwrap_or_default();
    writeln!(std::io::stdout(), "{text}")?;
    Ok(0)
}

fn features() -> Value {
    let last = capability::last_cap();
    let capabilities: Vec<String> = (0..=last).map(capability::name).collect();
    use LinuxNamespaceType::{Cgroup, Ipc, Mount, Network, Pid, Time, User, Uts};
    let namespaces = [Cgroup, Ipc, Mount, Network, Pid, Time, User, Uts].map(word);
    json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": OCI_VERSION,
        "hooks": [
            "prestart", "createRuntime", "createContainer", "startContainer", "poststart",
            "poststop"
        ],
        "mountOptions": known_options(),
        "linux": {
            "namespaces": namespaces,
            "capabilities": capabilities,
            "cgroup": {
                "v1": true, "v2": true, "systemd": true, "systemdUser": false, "rdma": true
            },
            "seccomp": filters(),
            "apparmor": {"enabled": true},
            "selinux": {"enabled": true},
            "intelRdt": {
                "enabled": rdt::is_there(), "schemata": rdt::is_there(), "monitoring": false
            },
            "memoryPolicy": {
                "modes": [
                    "MPOL_DEFAULT", "MPOL_BIND", "MPOL_INTERLEAVE", "MPOL_WEIGHTED_INTERLEAVE",
                    "MPOL_PREFERRED", "MPOL_PREFERRED_MANY", "MPOL_LOCAL"
                ],
                "flags": ["MPOL_F_NUMA_BALANCING", "MPOL_F_RELATIVE_NODES", "MPOL_F_STATIC_NODES"]
            },
            "mountExtensions": {"idmap": {"enabled": true}},
            "netDevices": {"enabled": true}
        },
        "annotations": {
            "io.github.seccomp.libseccomp.version": seccomp::library_version(),
        },
        "potentiallyUnsafeConfigAnnotations": ["org.systemd.property."]
    })
}

fn filters() -> Value {
    let actions = [
        ("SCMP_ACT_ALLOW", Action::Allow),
        ("SCMP_ACT_ERRNO", Action::Errno(1)),
        ("SCMP_ACT_KILL", Action::KillThread),
        ("SCMP_ACT_KILL_PROCESS", Action::KillProcess),
        ("SCMP_ACT_KILL_THREAD", Action::KillThread),
        ("SCMP_ACT_LOG", Action::Log),
        ("SCMP_ACT_NOTIFY", Action::Notify),
        ("SCMP_ACT_TRACE", Action::Trace(0)),
        ("SCMP_ACT_TRAP", Action::Trap),
    ];
    let actions: Vec<&str> = actions
        .iter()
        .filter(|(_, action)| seccomp::supported(*action))
        .map(|(name, _)| *name)
        .collect();
    let flags = [
        "SECCOMP_FILTER_FLAG_LOG",
        "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
        "SECCOMP_FILTER_FLAG_TSYNC",
        "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
    ];
    json!({
        "enabled": true,
        "actions": actions,
        "operators": [
            "SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT",
            "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE"
        ],
        "archs": [
            "SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM", "SCMP_ARCH_MIPS", "SCMP_ARCH_MIPS64",
            "SCMP_ARCH_MIPS64N32", "SCMP_ARCH_MIPSEL", "SCMP_ARCH_MIPSEL64",
            "SCMP_ARCH_MIPSEL64N32", "SCMP_ARCH_PARISC", "SCMP_ARCH_PARISC64", "SCMP_ARCH_PPC",
            "SCMP_ARCH_PPC64", "SCMP_ARCH_PPC64LE", "SCMP_ARCH_RISCV64", "SCMP_ARCH_S390",
            "SCMP_ARCH_S390X", "SCMP_ARCH_X32", "SCMP_ARCH_X86", "SCMP_ARCH_X86_64"
        ],
        "knownFlags": flags,
        "supportedFlags": flags,
    })
}
