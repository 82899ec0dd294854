//! What kind of init a root has, read from the tree without running it, and the signal that asks
//! such an init to shut down.

use serde::{Deserialize, Serialize};

use rustix::fs::Stat;

use super::dirfd::is_file;

/// A kind of init.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InitKind {
    /// systemd.
    Systemd,
    /// busybox init.
    Busybox,
    /// sysvinit.
    Sysvinit,
    /// openrc-init.
    Openrc,
    /// Any other program, or none.
    Other,
}

impl InitKind {
    /// The signal that asks it to power off. sysvinit takes SIGPWR as a failing power supply and
    /// runs its `powerwait` line (SIGINT would mean reboot); the others document theirs.
    #[must_use]
    pub const fn stop_signal(self) -> &'static str {
        match self {
            Self::Systemd => "SIGRTMIN+3",
            Self::Busybox => "SIGUSR2",
            Self::Sysvinit => "SIGPWR",
            Self::Openrc | Self::Other => "SIGTERM",
        }
    }

    /// The kind of the `/sbin/init` in a root, of which `stat` says what a path leads to.
    pub(super) fn detect(stat: impl Fn(&str) -> Option<Stat>) -> Self {
        let Some(init) = stat("sbin/init").filter(is_file) else {
            return Self::Other;
        };
        let same = |paths: &[&str]| {
            paths.iter().any(|p| {
                stat(p).is_some_and(|s| (s.st_dev, s.st_ino) == (init.st_dev, init.st_ino))
            })
        };
        if same(&["lib/systemd/systemd", "usr/lib/systemd/systemd"]) {
            Self::Systemd
        } else if same(&["bin/busybox", "usr/bin/busybox", "sbin/busybox"]) {
            Self::Busybox
        } else if same(&["sbin/openrc-init", "usr/sbin/openrc-init"]) {
            Self::Openrc
        } else if stat("etc/inittab").is_some_and(|s| is_file(&s)) {
            Self::Sysvinit
        } else {
            Self::Other
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::seed::Seed;
    use super::super::seed::tests::TempDir;
    use super::*;

    #[test]
    fn kinds_are_told_apart() {
        for (file, link, inittab, kind) in [
            (
                "usr/lib/systemd/systemd",
                Some("/usr/lib/systemd/systemd"),
                false,
                InitKind::Systemd,
            ),
            ("bin/busybox", Some("/bin/busybox"), true, InitKind::Busybox),
            (
                "sbin/openrc-init",
                Some("openrc-init"),
                false,
                InitKind::Openrc,
            ),
            ("sbin/init", None, true, InitKind::Sysvinit),
            ("sbin/init", None, false, InitKind::Other),
            ("bin/sh", None, false, InitKind::Other),
        ] {
            let temp = TempDir::new("init");
            let root = temp.path();
            let file = root.join(file);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::create_dir_all(root.join("sbin")).unwrap();
            std::fs::create_dir_all(root.join("etc")).unwrap();
            std::fs::write(file, "x").unwrap();
            if let Some(target) = link {
                std::os::unix::fs::symlink(target, root.join("sbin/init")).unwrap();
            }
            if inittab {
                std::fs::write(root.join("etc/inittab"), "").unwrap();
            }
            let seed = Seed::open(root).unwrap();
            assert_eq!(InitKind::detect(|path| seed.stat(path)), kind);
        }
    }
}
