//! The `host` kind: the host's own `/usr` shown read-only, and everything else fresh. Of the host's
//! `/etc` only what programs need and nobody minds being read is copied; never an account, a
//! password, a key, or anything of `/root`, `/home` and `/var`.

use std::path::{Path, PathBuf};

use super::accounts::{Sources, accounts};
use super::build::{Built, Job, file_identity};
use super::dirfd::Owner;
use super::image::ImageError;
use super::init_kind::InitKind;
use super::merged::read_host;
use super::seed::Seed;
use super::systemd_units;
use crate::model::MountOp;

/// Paths of `/etc` copied as they are, where they exist.
const COPIED: [&str; 30] = [
    "etc/nsswitch.conf",
    "etc/host.conf",
    "etc/gai.conf",
    "etc/ld.so.conf",
    "etc/ld.so.conf.d",
    "etc/ld.so.cache",
    "etc/alternatives",
    "etc/pam.conf",
    "etc/pam.d",
    "etc/login.defs",
    "etc/shells",
    "etc/profile",
    "etc/profile.d",
    "etc/bash.bashrc",
    "etc/inputrc",
    "etc/skel",
    "etc/terminfo",
    "etc/ssl/openssl.cnf",
    "etc/ssl/certs",
    "etc/ca-certificates.conf",
    "etc/services",
    "etc/protocols",
    "etc/rpc",
    "etc/networks",
    "etc/mime.types",
    "etc/debian_version",
    "etc/security",
    "etc/default/locale",
    "etc/default/useradd",
    "etc/default/nss",
];

/// Folders of the new root, with their modes.
const FOLDERS: [(&str, u32); 28] = [
    ("usr", 0o755),
    ("dev", 0o755),
    ("proc", 0o555),
    ("sys", 0o555),
    ("run", 0o755),
    ("tmp", 0o1777),
    ("root", 0o700),
    ("home", 0o755),
    ("mnt", 0o755),
    ("media", 0o755),
    ("opt", 0o755),
    ("srv", 0o755),
    ("boot", 0o755),
    ("etc/opt", 0o755),
    ("var/backups", 0o755),
    ("var/cache", 0o755),
    ("var/lib/misc", 0o755),
    ("var/lib/systemd", 0o755),
    ("var/lib/dbus", 0o755),
    ("var/lib/dpkg/info", 0o755),
    ("var/lib/dpkg/updates", 0o755),
    ("var/lib/dpkg/alternatives", 0o755),
    ("var/local", 0o755),
    ("var/log", 0o755),
    ("var/mail", 0o755),
    ("var/opt", 0o755),
    ("var/spool", 0o755),
    ("var/tmp", 0o1777),
];

/// Program that stands in where the host has no init; laid down by the template.
const OWN_INIT: &str = "/etc/bulkhead-init";

/// What of the host decides a build: what packages change when they are installed.
pub(super) fn fingerprint() -> String {
    [
        "/usr/lib/os-release",
        "/etc/ld.so.cache",
        "/var/lib/dpkg/status",
        "/etc/alternatives",
        "/etc/pam.d",
        "/etc/group",
        "/etc/ssl/certs/ca-certificates.crt",
    ]
    .map(|path| file_identity(Path::new(path)))
    .join(";")
}

/// Builds the root.
pub(super) fn build(job: &mut Job<'_>) -> Result<Built, ImageError> {
    job.phase("making a fresh root around the host's /usr");
    let links = usr_links(job)?;
    let seed = Seed::open(&job.root)?;
    for (path, mode) in FOLDERS {
        seed.dir(path, mode)?;
    }
    for (name, target) in &links {
        seed.link(name, target)?;
    }
    seed.link("var/run", "/run")?;
    seed.link("var/lock", "/run/lock")?;
    etc(&seed)?;
    let (init, command) = init(job)?;
    if init == InitKind::Systemd {
        systemd_units::prepare(&seed, |unit| {
            Path::new("/usr/lib/systemd/system").join(unit).exists()
        })?;
    }
    let usr = MountOp::Bind {
        source: PathBuf::from("/usr"),
        target: PathBuf::from("/usr"),
        read_only: true,
        idmap: true,
        recursive: false,
    };
    let mut mounts = vec![usr];
    let mut secret = Vec::new();
    private_paths(Path::new("/usr"), &mut secret);
    // As the image's digest covers them.
    secret.sort();
    if !secret.is_empty() {
        mounts.push(MountOp::Hide { targets: secret });
    }
    Ok(Built {
        init: Some(init),
        command,
        mounts,
    })
}

/// What below a folder of the host's not everybody there may read or use: the guest's root, to whom
/// ids are shifted, could. What cannot be looked at is left to the mount, which shows it to nobody.
fn private_paths(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let Ok(meta) = entry.metadata() else { continue };
        if meta.is_symlink() {
            continue;
        }
        let mode = std::os::unix::fs::PermissionsExt::mode(&meta.permissions());
        // A program may be executed that is not to be read; a folder that is not to be searched has
        // nothing for others, whether or not its names can be read.
        let open = if meta.is_dir() { 0o001 } else { 0o005 };
        if mode & open == 0 {
            found.push(entry.path());
        } else if meta.is_dir() {
            private_paths(&entry.path(), found);
        }
    }
}

/// The links such as `bin -> usr/bin` of a host whose programs all lie in `/usr`.
fn usr_links(job: &Job<'_>) -> Result<Vec<(&'static str, String)>, ImageError> {
    let mut links = Vec::new();
    for name in ["bin", "sbin", "lib", "lib64", "lib32", "libx32"] {
        let path = Path::new("/").join(name);
        let Ok(meta) = std::fs::symlink_metadata(&path) else {
            continue;
        };
        let target = std::fs::read_link(&path).unwrap_or_default();
        let inside = target.strip_prefix("/").unwrap_or(&target);
        if !meta.is_symlink() || !inside.starts_with("usr") {
            return Err(job.refuse(format!(
                "/{name} of this host is not a link into /usr, so sharing /usr would not give a \
                 guest its programs: install the package usrmerge, or use another template"
            )));
        }
        links.push((name, inside.display().to_string()));
    }
    Ok(links)
}

/// What the guest runs first, by what the host has.
fn init(job: &Job<'_>) -> Result<(InitKind, Vec<String>), ImageError> {
    let systemd = "/usr/lib/systemd/systemd";
    let sbin = Path::new("/usr/sbin/init");
    if Path::new(systemd).exists() {
        let command = if sbin.exists() {
            Vec::new()
        } else {
            vec![systemd.to_owned()]
        };
        return Ok((InitKind::Systemd, command));
    }
    if !job
        .template
        .files
        .contains_key(OWN_INIT.trim_start_matches('/'))
    {
        return Err(job.refuse(format!(
            "this host has no systemd, and the template has no files{OWN_INIT} to stand in for it"
        )));
    }
    Ok((InitKind::Other, vec![OWN_INIT.to_owned()]))
}

fn etc(seed: &Seed) -> Result<(), ImageError> {
    for path in COPIED {
        seed.copy_host(path)?;
    }
    // Old password hashes of the host's people.
    seed.file("etc/security/opasswd", 0o600, b"")?;
    seed.link("etc/os-release", "../usr/lib/os-release")?;
    seed.link("etc/mtab", "../proc/self/mounts")?;
    seed.file("etc/fstab", 0o644, b"")?;
    seed.file("etc/environment", 0o644, b"")?;
    seed.file("var/lib/dpkg/status", 0o644, b"")?;
    // Says to systemd that /etc and /var fit this /usr already; see systemd-update-done(8).
    seed.file("etc/.updated", 0o644, b"")?;
    seed.file("var/.updated", 0o644, b"")?;
    for (from, to) in [("dot.bashrc", ".bashrc"), ("dot.profile", ".profile")] {
        if let Some(data) = read_host(&format!("/usr/share/base-files/{from}")) {
            seed.file(&format!("root/{to}"), 0o644, &data)?;
        }
    }
    if Path::new("/usr/sbin/sshd").exists() {
        let config = b"Include /etc/ssh/sshd_config.d/*.conf\nPermitRootLogin prohibit-password\n\
            UsePAM yes\nKbdInteractiveAuthentication no\nPrintMotd no\nAcceptEnv LANG LC_*\n\
            Subsystem sftp internal-sftp\n";
        seed.dir("etc/ssh/sshd_config.d", 0o755)?;
        seed.file("etc/ssh/sshd_config", 0o644, config)?;
    }
    write_accounts(seed)
}

fn write_accounts(seed: &Seed) -> Result<(), ImageError> {
    let text = |path: &str| {
        let data = read_host(path).unwrap_or_default();
        String::from_utf8_lossy(&data).into_owned()
    };
    let made = accounts(Sources {
        passwd_master: &text("/usr/share/base-passwd/passwd.master"),
        group_master: &text("/usr/share/base-passwd/group.master"),
        sysusers: &sysusers(text),
        host_passwd: &text("/etc/passwd"),
        host_group: &text("/etc/group"),
    });
    let secret = Owner {
        mode: 0o640,
        uid: 0,
        gid: 42,
    };
    seed.file("etc/passwd", 0o644, made.passwd.as_bytes())?;
    seed.file("etc/group", 0o644, made.group.as_bytes())?;
    seed.owned_file("etc/shadow", secret, made.shadow.as_bytes())?;
    seed.owned_file("etc/gshadow", secret, made.gshadow.as_bytes())?;
    Ok(())
}

/// All sysusers.d files of `/usr`, in the order of their names.
fn sysusers(text: impl Fn(&str) -> String) -> String {
    let folder = "/usr/lib/sysusers.d";
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .map(|entries| entries.flatten().map(|e| e.path()).collect())
        .unwrap_or_default();
    files.retain(|path| path.extension().is_some_and(|e| e == "conf"));
    files.sort();
    let texts: Vec<String> = files.iter().filter_map(|p| p.to_str()).map(text).collect();
    texts.join("\n")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::super::seed::tests::TempDir;
    use super::*;

    #[test]
    fn what_others_may_not_read_is_found() {
        let temp = TempDir::new("private");
        let put = |path: &str, mode: u32| {
            let path = temp.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, "").unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        for (path, mode) in [
            ("bin/open", 0o755),
            ("bin/setuid", 0o4754),
            ("bin/execute-only", 0o4711),
            ("etc/key", 0o600),
            ("etc/group", 0o640),
            ("etc/text", 0o644),
            ("closed/text", 0o644),
            ("names/text", 0o644),
            ("search/key", 0o640),
        ] {
            put(path, mode);
        }
        symlink("/etc/shadow", temp.path().join("etc/link")).unwrap();
        for (folder, mode) in [("closed", 0o700), ("names", 0o744), ("search", 0o711)] {
            let mode = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(temp.path().join(folder), mode).unwrap();
        }
        let mut found = Vec::new();
        private_paths(temp.path(), &mut found);
        found.sort();
        let expected = ["closed", "etc/group", "etc/key", "names", "search/key"];
        assert_eq!(found, expected.map(|path| temp.path().join(path)));
    }
}
