//! What of a machine's files a guest does not have, and what is written so that the rest works in
//! one: no disks, no kernel, no virtual terminals, one network interface that is there already.

use std::path::Path;

use super::dirfd::{FileError, Owner, is_file, open_dir};
use super::init_kind::InitKind;
use super::merged::Merged;
use super::seed::Seed;
use super::systemd_units;

/// Folders of which nothing is kept but themselves.
const EMPTIED: [&str; 10] = [
    "proc",
    "sys",
    "dev",
    "run",
    "tmp",
    "boot",
    "efi",
    "lib/modules",
    "usr/lib/modules",
    "var/lib/bulkhead",
];
/// Files at the top that only a machine has.
const GONE: [&str; 9] = [
    "lost+found",
    "swapfile",
    "swap.img",
    "vmlinuz",
    "vmlinuz.old",
    "initrd.img",
    "initrd.img.old",
    "initrd",
    ".autorelabel",
];
/// Rules that call interfaces by the machine's cards.
const CARDS: [&str; 3] = [
    "etc/udev/rules.d/70-persistent-net.rules",
    "etc/udev/rules.d/75-persistent-net-generator.rules",
    "etc/udev/rules.d/z25_persistent-net.rules",
];
/// Tables of disks.
const DISKS: [&str; 3] = ["etc/fstab", "etc/crypttab", "etc/mdadm/mdadm.conf"];

/// What stays behind, as patterns of tar(1): so that it is not even sent.
pub(super) fn patterns() -> impl Iterator<Item = String> {
    let emptied = EMPTIED.iter().map(|top| format!("./{top}/*"));
    emptied.chain(GONE.iter().map(|name| format!("./{name}")))
}

/// What stays behind.
pub(super) struct Left<'a> {
    /// Where other volumes belong.
    volumes: Vec<&'a str>,
    /// Where this program's own images are, if that is below the root.
    images: Option<&'a str>,
}

impl<'a> Left<'a> {
    pub(super) fn new(volumes: Vec<&'a str>, images: Option<&'a str>) -> Self {
        Self { volumes, images }
    }

    /// Whether a path below the root stays behind; it is met on the volume that belongs at `own`.
    pub(super) fn out(&self, own: &str, path: &[u8]) -> bool {
        let below = |top: &str| {
            path.strip_prefix(top.as_bytes())
                .is_some_and(|rest| rest.starts_with(b"/"))
        };
        let inside = |top: &str| path == top.as_bytes() || below(top);
        EMPTIED.iter().any(|top| below(top))
            || GONE.iter().any(|top| inside(top))
            || path.ends_with(b"/lost+found")
            || self.images.is_some_and(below)
            // What another volume hides on the machine.
            || self
                .volumes
                .iter()
                .any(|volume| *volume != own && volume.starts_with(own) && below(volume))
    }
}

/// Makes a machine's root one of a guest. Gives what is worth telling.
pub(super) fn fit(seed: &Seed, root: &Path) -> Result<Vec<String>, FileError> {
    let tree = Merged::over(open_dir(root)?, Vec::new(), root);
    let mut notes = Vec::new();
    for path in DISKS {
        if let Some((table, owner)) = tree.read(path)? {
            let table = commented(&String::from_utf8_lossy(&table), |_| true);
            seed.owned_file(path, owner, table.as_bytes())?;
        }
    }
    for path in CARDS {
        seed.remove(path)?;
    }
    if tree.is_dir("etc/cloud")? {
        seed.file("etc/cloud/cloud-init.disabled", 0o644, b"")?;
        notes.push("cloud-init is switched off".into());
    }
    for name in seed.names("etc/netplan") {
        let path = format!("etc/netplan/{name}");
        if !seed.stat(&path).is_some_and(|stat| is_file(&stat)) {
            continue;
        }
        seed.remove(&path)?;
        notes.push(format!(
            "/etc/netplan/{name:.100} is removed: the address is set from outside"
        ));
    }
    if tree.is_dir("etc/NetworkManager")? {
        seed.file(
            "etc/NetworkManager/conf.d/10-bulkhead.conf",
            0o644,
            b"[keyfile]\nunmanaged-devices=interface-name:eth0\n",
        )?;
    }
    for path in ["proc", "sys", "dev", "run", "tmp"] {
        if seed.stat(path).is_none() {
            seed.dir(path, if path == "tmp" { 0o1777 } else { 0o755 })?;
        }
    }
    console(seed, &tree)?;
    if seed.stat("sbin/init").is_none() {
        notes.push("it has no /sbin/init: say what it runs with --init".into());
    }
    Ok(notes)
}

/// Has its init ask for a login on the console, and on no terminal of a machine.
fn console(seed: &Seed, tree: &Merged) -> Result<(), FileError> {
    if InitKind::detect(|path| seed.stat(path)) == InitKind::Systemd {
        return systemd_units::fit(seed);
    }
    let Some((table, owner)) = tree.read("etc/inittab")? else {
        return Ok(());
    };
    let table = String::from_utf8_lossy(&table);
    let mut new = commented(&table, |line| {
        line.contains("getty") && ["tty", "hvc", "xvc"].iter().any(|name| line.contains(name))
    });
    let asks = |line: &str| !line.starts_with('#') && line.contains("console");
    if !new.lines().any(asks) && seed.stat("sbin/getty").is_some() {
        new.push_str("co:2345:respawn:/sbin/getty 38400 console\n");
    }
    if new != table {
        write(seed, "etc/inittab", owner, &new)?;
    }
    Ok(())
}

fn write(seed: &Seed, path: &str, owner: Owner, text: &str) -> Result<(), FileError> {
    seed.owned_file(path, owner, text.as_bytes())
}

/// A table with the lines that `goes` names as comments.
fn commented(table: &str, goes: impl Fn(&str) -> bool) -> String {
    let line = |line: &str| {
        let plain = line.trim_start();
        match plain.is_empty() || plain.starts_with('#') || !goes(plain) {
            true => format!("{line}\n"),
            false => format!("#bulkhead: {line}\n"),
        }
    };
    table.lines().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_a_machine_has_stays_behind() {
        let left = Left::new(vec!["home", "var", "var/log"], Some("data/images"));
        for (own, path, out) in [
            ("", "boot", false),
            ("", "boot/vmlinuz", true),
            ("", "usr/lib/modules/6.1/kernel", true),
            ("", "usr/lib/modules-load.d/x", false),
            ("", "proc/1", true),
            ("", "swapfile", true),
            ("", "data/images/tmp-machine-1-0", true),
            ("", "srv/swapfile", false),
            ("", "home", false),
            ("", "home/a", true),
            ("home", "home/a", false),
            ("", "homes/a", false),
            ("var", "var/log/x", true),
            ("var", "var/lib/x", false),
            ("var/log", "var/log/x", false),
            ("home", "home/lost+found", true),
        ] {
            assert_eq!(left.out(own, path.as_bytes()), out, "{path} of {own:?}");
        }
    }

    #[test]
    fn tables_keep_what_they_said_as_comments() {
        let table = "# root\nUUID=1 / ext4\n\n1:2345:respawn:/sbin/getty 38400 tty1\n";
        let new = commented(table, |line| line.contains("UUID"));
        let expected =
            "# root\n#bulkhead: UUID=1 / ext4\n\n1:2345:respawn:/sbin/getty 38400 tty1\n";
        assert_eq!(new, expected);
        assert_eq!(commented(&new, |line| line.contains("UUID")), new);
    }
}
