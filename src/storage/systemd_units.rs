//! What a root with systemd needs so that it comes up `running` inside a user namespace: links
//! below `/etc/systemd/system` that enable what a guest wants and mask what cannot work there.
//! Nothing of systemd is run; `systemctl enable` makes the same links.

use super::dirfd::FileError;
use super::seed::Seed;

const ETC: &str = "etc/systemd/system";

/// Units that fail, hang or mean nothing in a guest, with the reason.
const MASKED: [(&str, &[&str]); 9] = [
    // Devices are the host's; the guest's /dev is made by the launch.
    (
        "devices",
        &[
            "systemd-udevd.service",
            "systemd-udevd-control.socket",
            "systemd-udevd-kernel.socket",
            "systemd-udev-trigger.service",
            "systemd-udev-settle.service",
            "systemd-hwdb-update.service",
            "systemd-tmpfiles-setup-dev.service",
            "systemd-tmpfiles-setup-dev-early.service",
            "kmod-static-nodes.service",
        ],
    ),
    // File systems of the whole kernel: mounting them is refused in a user namespace.
    (
        "kernel file systems",
        &[
            "sys-kernel-config.mount",
            "sys-kernel-debug.mount",
            "sys-kernel-tracing.mount",
            "sys-fs-fuse-connections.mount",
            "dev-hugepages.mount",
            "proc-sys-fs-binfmt_misc.automount",
            "proc-sys-fs-binfmt_misc.mount",
            "systemd-binfmt.service",
        ],
    ),
    ("modules", &["systemd-modules-load.service"]),
    // The root is mounted by the launch, and there is no fstab.
    (
        "root file system",
        &["systemd-remount-fs.service", "systemd-repart.service"],
    ),
    // No virtual terminals.
    (
        "terminals",
        &[
            "getty@tty1.service",
            "getty-static.service",
            "autovt@.service",
            "systemd-vconsole-setup.service",
            "systemd-ask-password-console.path",
        ],
    ),
    // The audit system has one owner, in the first user namespace.
    ("audit", &["systemd-journald-audit.socket"]),
    // The address is there before init runs; waiting for it only delays.
    ("network", &["systemd-networkd-wait-online.service"]),
    // Firmware, TPM, entropy seed and clock are the host's.
    (
        "machine",
        &[
            "systemd-pstore.service",
            "systemd-pcrphase.service",
            "systemd-pcrphase-sysinit.service",
            "systemd-random-seed.service",
            "systemd-timesyncd.service",
            "systemd-firstboot.service",
        ],
    ),
    // Disks are the host's.
    (
        "disks",
        &["e2scrub_all.timer", "e2scrub_reap.service", "fstrim.timer"],
    ),
];

/// Enables and masks units. `has` says whether a unit file of this name is there (it may lie in a
/// `/usr` that is not in the tree).
pub(super) fn prepare(seed: &Seed, has: impl Fn(&str) -> bool) -> Result<(), FileError> {
    mask(seed)?;
    seed.link(
        &format!("{ETC}/default.target"),
        "/lib/systemd/system/multi-user.target",
    )?;
    for (target, unit) in [
        ("getty.target.wants", "console-getty.service"),
        ("multi-user.target.wants", "systemd-networkd.service"),
        ("sockets.target.wants", "systemd-networkd.socket"),
        ("multi-user.target.wants", "ssh.service"),
    ] {
        if has(unit) {
            let path = format!("{ETC}/{target}/{unit}");
            seed.link(&path, &format!("/lib/systemd/system/{unit}"))?;
        }
    }
    if has("systemd-networkd.service") {
        seed.link(
            &format!("{ETC}/dbus-org.freedesktop.network1.service"),
            "/lib/systemd/system/systemd-networkd.service",
        )?;
    }
    // The journal stays small whatever a service writes.
    seed.file(
        "etc/systemd/journald.conf.d/10-bulkhead.conf",
        0o644,
        b"[Journal]\nSystemMaxUse=64M\nRuntimeMaxUse=16M\nReadKMsg=no\nAudit=no\n",
    )
}

/// The same for the root of a machine that has its own services enabled: what cannot work is masked,
/// the console asks for a login, and there is no desktop to start.
pub(super) fn fit(seed: &Seed) -> Result<(), FileError> {
    mask(seed)?;
    let wanted = "console-getty.service";
    let units = ["lib/systemd/system", "usr/lib/systemd/system"];
    if units
        .iter()
        .any(|folder| seed.stat(&format!("{folder}/{wanted}")).is_some())
    {
        let target = format!("/lib/systemd/system/{wanted}");
        seed.link(&format!("{ETC}/getty.target.wants/{wanted}"), &target)?;
    }
    seed.link(
        &format!("{ETC}/default.target"),
        "/lib/systemd/system/multi-user.target",
    )
}

fn mask(seed: &Seed) -> Result<(), FileError> {
    for (_, units) in MASKED {
        for unit in units {
            seed.link(&format!("{ETC}/{unit}"), "/dev/null")?;
        }
    }
    seed.remove(&format!("{ETC}/getty.target.wants/getty@tty1.service"))
}
