//! What a guest with `security.nesting` is told for the containers inside it: Podman, Buildah and LXC lay
//! the guest's own files of /proc and /sys over those of their containers, which would have the host's
//! numbers otherwise. Each reads a folder of further configurations, in which this is one.

use std::path::Path;

use super::dirfd::Owner;
use super::first_boot::{FirstBootError, is_ours};
use super::image::Image;
use super::merged::Merged;
use super::network_files::HEADER;
use crate::model::{GuestName, InsideFile, Layout, PRESSURE};

const PODMAN: &str = "etc/containers/containers.conf.d/50-bulkhead.conf";
const LXC: &str = "usr/share/lxc/config/common.conf.d/50-bulkhead.conf";

/// Writes both, unless somebody else has written one of that name.
///
/// # Errors
/// The guest's tree cannot be read or written.
pub fn tell_containers(
    layout: &Layout,
    name: &GuestName,
    image: &Image,
) -> Result<(), FirstBootError> {
    let tree = Merged::open(layout, name, image)?;
    let there = |target: &&str| Path::new(target).exists();
    // What Podman does not find keeps it from starting any container.
    let files: Vec<&str> = targets().filter(there).collect();
    for (path, text) in [(PODMAN, podman(&files)), (LXC, lxc(&files))] {
        let old = tree.read(path)?;
        let ours = old.as_ref().is_none_or(is_ours);
        if ours && old.is_none_or(|(data, _)| data != text.as_bytes()) {
            tree.write(path, text.as_bytes(), Owner::root(0o644))?;
        }
    }
    Ok(())
}

fn targets() -> impl Iterator<Item = &'static str> {
    let own = InsideFile::ALL.into_iter().map(InsideFile::target);
    own.chain(PRESSURE.map(|(_, target)| target))
}

fn podman(files: &[&str]) -> String {
    let volume = |file: &&str| format!("  \"{file}:{file}:ro\",\n");
    let volumes: String = files.iter().map(volume).collect();
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
    use super::*;

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
