//! `linux.cgroupsPath` → where the groups are: a plain path, or a systemd slice and scope.

use std::path::{Path, PathBuf};

use super::{Container, Result, bad};
use crate::model::{CONTAINER_PREFIX, CgroupHost, CgroupPlace, SystemdScope};

const FIELD: &str = "linux.cgroupsPath";

/// Slice of units that named none.
const SLICE: &str = "system.slice";

/// Where the groups of a container are; a scope is still without properties.
///
/// # Errors
/// When the path leads out of the hierarchy or is no path, or not `slice:prefix:name` with
/// systemd.
pub fn place(container: &Container<'_>, _host: &CgroupHost) -> Result<CgroupPlace> {
    let Some(text) = container.cgroups_path.to_str() else {
        let shown = container.cgroups_path.display();
        return Err(bad(FIELD, shown, "it must be UTF-8"));
    };
    if text.chars().any(char::is_control) {
        return Err(bad(FIELD, text, "it must not have control characters"));
    }
    let (path, scope) = if container.systemd {
        let scope = scope(text, container.id)?;
        (expand_slice(&scope.slice)?.join(&scope.unit), Some(scope))
    } else {
        (plain(text, container.id)?, None)
    };
    Ok(CgroupPlace {
        path,
        scope,
        made: Vec::new(),
    })
}

/// A path below each hierarchy's root. A relative one is meant from there as well. Without one a
/// container is right below the root: a folder for all of them would be made and removed in every
/// hierarchy with nearly every launch, which takes as long as the container's own.
fn plain(text: &str, id: &str) -> Result<PathBuf> {
    let ours;
    let text = if text.is_empty() {
        ours = format!("/{CONTAINER_PREFIX}-{id}");
        &ours
    } else {
        text
    };
    let mut path = PathBuf::from("/");
    for part in text.split('/').filter(|part| !matches!(*part, "" | ".")) {
        if part == ".." {
            return Err(bad(FIELD, text, "it must not have `..` in it"));
        }
        path.push(part);
    }
    if path == Path::new("/") {
        let rule = "a container cannot be in the root of the hierarchy";
        return Err(bad(FIELD, text, rule));
    }
    Ok(path)
}

/// `slice:prefix:name`, each of which may be empty but the last.
fn scope(text: &str, id: &str) -> Result<SystemdScope> {
    let text = if text.is_empty() {
        format!(":{CONTAINER_PREFIX}:{id}")
    } else {
        text.to_owned()
    };
    let parts: Vec<&str> = text.split(':').collect();
    let [slice, prefix, name] = parts[..] else {
        let rule = "with --systemd-cgroup it must be slice:prefix:name, \
                    such as system.slice:podman:web";
        return Err(bad(FIELD, &text, rule));
    };
    let known = |c: char| c.is_ascii_alphanumeric() || "-_.\\@".contains(c);
    if name.is_empty() || !prefix.chars().chain(name.chars()).all(known) {
        let rule = "a unit is named with letters, digits and - _ . \\ @";
        return Err(bad(FIELD, &text, rule));
    }
    if name.ends_with(".slice") {
        let rule = "a container is put into a scope; name it without .slice";
        return Err(bad(FIELD, &text, rule));
    }
    let unit = match prefix {
        "" => format!("{name}.scope"),
        prefix => format!("{prefix}-{name}.scope"),
    };
    Ok(SystemdScope {
        slice: if slice.is_empty() { SLICE } else { slice }.to_owned(),
        unit,
        description: format!("bulkhead-oci container {id}"),
        properties: Vec::new(),
    })
}

/// The folder of a slice: each dash in its name is a level (`a-b.slice` is in `a.slice`);
/// `-.slice` is the root.
fn expand_slice(slice: &str) -> Result<PathBuf> {
    let wrong = || bad(FIELD, slice, "no slice has such a name, write a-b.slice");
    let name = slice.strip_suffix(".slice").ok_or_else(wrong)?;
    let mut path = PathBuf::from("/");
    if name == "-" {
        return Ok(path);
    }
    let mut prefix = String::new();
    let known = |c: char| c.is_ascii_alphanumeric() || "_.\\@:".contains(c);
    for part in name.split('-') {
        if part.is_empty() || !part.chars().all(known) {
            return Err(wrong());
        }
        prefix.push_str(part);
        path.push(format!("{prefix}.slice"));
        prefix.push('-');
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::CgroupMode;
    use proptest::prelude::*;

    fn at(text: &str, systemd: bool) -> Result<CgroupPlace> {
        let host = CgroupHost {
            mode: CgroupMode::V2,
            v1: Default::default(),
            v2: Default::default(),
            swap: true,
        };
        let container = Container {
            id: "web",
            cgroups_path: Path::new(text),
            annotations: None,
            systemd,
        };
        place(&container, &host)
    }

    #[test]
    fn plain_paths() {
        for (text, path) in [
            ("", "/bulkhead-oci-web"),
            ("/k8s/pod1/x", "/k8s/pod1/x"),
            ("docker/x", "/docker/x"),
            ("//a/./b/", "/a/b"),
        ] {
            assert_eq!(at(text, false).unwrap().path, Path::new(path), "{text}");
        }
        for text in ["..", "/a/../b", "/", "/a\nb", "a\0b"] {
            assert!(at(text, false).is_err(), "{text:?}");
        }
    }

    #[test]
    fn scopes_lie_in_their_slices() {
        for (text, path) in [
            ("", "/system.slice/bulkhead-oci-web.scope"),
            ("machine.slice:libpod:1", "/machine.slice/libpod-1.scope"),
            (":cri-containerd:1", "/system.slice/cri-containerd-1.scope"),
            ("a-b-c.slice::1", "/a.slice/a-b.slice/a-b-c.slice/1.scope"),
            ("-.slice:x:1", "/x-1.scope"),
        ] {
            assert_eq!(at(text, true).unwrap().path, Path::new(path), "{text}");
        }
        for text in [
            "/a/b",
            "a:b",
            "a.slice:b:",
            "a.slice:b:c/d",
            "a--b.slice:x:y",
            "../a.slice:x:y",
            "a.slice:x:y.slice",
        ] {
            assert!(at(text, true).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn never_leads_out(text in "[a./:\\-]{0,12}", systemd: bool) {
            if let Ok(place) = at(&text, systemd) {
                prop_assert!(place.path.is_absolute());
                let plain = |c| matches!(
                    c, std::path::Component::Normal(_) | std::path::Component::RootDir);
                prop_assert!(place.path.components().all(plain));
            }
        }
    }
}
