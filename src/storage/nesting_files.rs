//! What a guest with `security.nesting` is told for the containers inside it: Podman, Buildah and LXC lay
//! the guest's own files of /proc and /sys over those of their containers, which would have the host's
//! numbers otherwise. Each reads a folder of further configurations, in which this is one.

use std::path::Path;

use super::dirfd::{FileError, Owner};
use super::first_boot::{FirstBootError, is_ours};
use super::image::Image;
use super::merged::Merged;
use super::network_files::HEADER;
use crate::model::{GuestName, InsideFile, Layout, PRESSURE};

const PODMAN: &str = "etc/containers/containers.conf.d/50-bulkhead.conf";
const LXC: &str = "usr/share/lxc/config/common.conf.d/50-bulkhead.conf";
/// Both of them.
pub(super) const FILES: [&str; 2] = [PODMAN, LXC];
/// What Podman reads before that folder: a list here would be lost to ours.
const PODMAN_FIRST: &str = "etc/containers/containers.conf";

/// Writes both, unless somebody else has written one of that name. Where its containers are not `told`,
/// nothing is left in them but their first line.
///
/// # Errors
/// The guest's tree cannot be read or written; the other file is written all the same.
pub fn tell_containers(
    layout: &Layout,
    name: &GuestName,
    image: &Image,
    told: bool,
) -> Result<(), FirstBootError> {
    Ok(tell(&Merged::open(layout, name, image)?, told)?)
}

fn tell(tree: &Merged, told: bool) -> Result<(), FileError> {
    let there = |target: &&str| told && Path::new(target).exists();
    // What Podman does not find keeps it from starting any container.
    let files: Vec<&str> = targets().filter(there).collect();
    let of_podman = has_volumes(tree).and_then(|has| {
        let files: &[&str] = if has { &[] } else { &files };
        put(tree, PODMAN, &podman(files))
    });
    let of_lxc = put(tree, LXC, &lxc(&files));
    of_podman.and(of_lxc)
}

/// Whether the guest's administrator has a list of volumes.
fn has_volumes(tree: &Merged) -> Result<bool, FileError> {
    let text = tree.read(PODMAN_FIRST)?.map(|(text, _)| text);
    let text = text.unwrap_or_default();
    let mut lines = text.split(|byte| *byte == b'\n');
    Ok(lines.any(|line| line.trim_ascii_start().starts_with(b"volumes")))
}

fn put(tree: &Merged, path: &str, text: &str) -> Result<(), FileError> {
    let differs = match tree.read(path)? {
        None => text != HEADER,
        Some(old) => is_ours(&old) && old.0 != text.as_bytes(),
    };
    match differs {
        true => tree.write(path, text.as_bytes(), Owner::root(0o644)),
        false => Ok(()),
    }
}

fn targets() -> impl Iterator<Item = &'static str> {
    let own = InsideFile::ALL.into_iter().map(InsideFile::target);
    own.chain(PRESSURE.map(|(_, target)| target))
}

/// Over files of a container's /proc runc lets only some lie that it knows: a list with one of these would
/// keep Podman from starting any container by it.
fn is_refused(file: &str) -> bool {
    let mut pressure = PRESSURE.iter().map(|(_, target)| *target);
    file == InsideFile::Vmstat.target() || pressure.any(|target| target == file)
}

fn podman(files: &[&str]) -> String {
    if files.is_empty() {
        return HEADER.to_owned();
    }
    let files = files.iter().filter(|file| !is_refused(file));
    let volume = |file: &&str| format!("  \"{file}:{file}:ro\",\n");
    let volumes: String = files.map(volume).collect();
    format!("{HEADER}[containers]\nvolumes = [\n{volumes}]\n")
}

fn lxc(files: &[&str]) -> String {
    let entry = |file: &&str| {
        let to = file.trim_start_matches('/');
        format!("lxc.mount.entry = {file} {to} none bind,ro,nosuid,nodev,noexec,optional 0 0\n")
    };
    HEADER.to_owned() + &files.iter().map(entry).collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::super::merged::tests::tree;
    use super::super::seed::tests::TempDir;
    use super::*;

    /// What runc 1.0 to 1.3 lets be mounted below /proc (`checkProcMount`), with /proc itself in front.
    const RUNC: [&str; 9] = [
        "/proc/cpuinfo",
        "/proc/diskstats",
        "/proc/meminfo",
        "/proc/stat",
        "/proc/swaps",
        "/proc/uptime",
        "/proc/loadavg",
        "/proc/slabinfo",
        "/proc/net/dev",
    ];

    #[test]
    fn runc_takes_all_that_podman_is_told() {
        let all: Vec<&str> = targets().collect();
        let text = podman(&all);
        let named: Vec<&str> = text.split('"').skip(1).step_by(2).collect();
        assert_eq!(named.len(), all.len() - 4);
        for volume in named {
            let file = volume.split(':').next().unwrap();
            assert!(
                !file.starts_with("/proc/") || RUNC.contains(&file),
                "{file}"
            );
        }
        let text = lxc(&all);
        assert!(text.contains(" /proc/vmstat ") && text.contains(" /proc/pressure/io "));
    }

    #[test]
    fn what_is_somebody_elses_stays_and_ours_gives_way() {
        if !rustix::process::geteuid().is_root() {
            // Files of a guest belong to root.
            return;
        }
        let temp = TempDir::new("nesting-files");
        let tree = tree(&temp);
        let read = |path| {
            let found = tree.read(path).unwrap();
            found.map(|(text, _)| String::from_utf8(text).unwrap())
        };
        let owner = Owner::root(0o644);
        tell(&tree, false).unwrap();
        assert_eq!(FILES.map(read), [None, None]);
        tell(&tree, true).unwrap();
        assert!(read(PODMAN).unwrap().contains("\"/proc/stat:"));
        // What it says in a comment is no list.
        for (own, ours) in [("# volumes = []\n", true), ("a\n volumes = []\n", false)] {
            tree.write(PODMAN_FIRST, own.as_bytes(), owner).unwrap();
            tell(&tree, true).unwrap();
            assert_eq!(read(PODMAN).unwrap() != HEADER, ours, "{own}");
        }
        assert!(read(LXC).unwrap().contains("proc/stat"));
        tree.write(PODMAN, b"mine", owner).unwrap();
        tell(&tree, false).unwrap();
        let left = [Some("mine".to_owned()), Some(HEADER.to_owned())];
        assert_eq!(FILES.map(read), left);
        // One in the way of one.
        std::fs::remove_dir_all(temp.path().join("upper/etc/containers")).unwrap();
        tree.write("etc/containers", b"", owner).unwrap();
        assert!(tell(&tree, true).is_err());
        assert!(read(LXC).unwrap().contains("proc/stat"));
    }

    #[test]
    fn each_is_in_the_words_of_its_program() {
        let text = podman(&["/proc/stat"]);
        let (head, rest) = text.split_once('[').unwrap();
        assert!(head.starts_with("# "), "{head}");
        assert_eq!(
            rest,
            "containers]\nvolumes = [\n  \"/proc/stat:/proc/stat:ro\",\n]\n"
        );
        let text = lxc(&["/proc/stat"]);
        assert!(text.ends_with(
            "\nlxc.mount.entry = /proc/stat proc/stat none bind,ro,nosuid,nodev,noexec,optional 0 0\n"
        ));
        assert!(targets().all(|file| file.starts_with("/proc/") || file.starts_with("/sys/")));
        assert!(targets().any(|file| file == "/proc/pressure/cpu"));
    }
}
