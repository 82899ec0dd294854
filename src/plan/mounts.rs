//! The mounts of a guest in OCI's words: those every guest has, those of its template, its own.

use oci_spec::runtime::{Mount, MountBuilder};

use super::spec::{Placement, PlanError, text};
use crate::model::{Guest, MountOp, NetworkKind};

/// Kind of a mount that is a root of its own: what it is made of is in the annotation `BELOW`.
pub(super) const ROOT: &str = "overlay";

pub(super) fn mounts(guest: &Guest, place: &Placement) -> Result<Vec<Mount>, PlanError> {
    let mount = |target: &str, kind: &str, options: &[&str]| {
        MountBuilder::default()
            .destination(target)
            .typ(kind)
            .source(kind)
            .options(options.iter().map(|o| (*o).to_owned()).collect::<Vec<_>>())
            .build()
    };
    let ptys = format!("max={}", guest.ptys);
    // A quarter of the guest's memory each: both are charged to it, and neither alone can fill it.
    let quarter = format!("size={}", guest.memory.limit.0 / 4);
    let mut all = vec![
        mount(
            "/dev",
            "tmpfs",
            &["nosuid", "noexec", "strictatime", "mode=755", "size=64k"],
        )?,
        mount(
            "/dev/shm",
            "tmpfs",
            &["nosuid", "nodev", "noexec", "mode=1777", &quarter],
        )?,
        mount("/run", "tmpfs", &["nosuid", "nodev", "mode=755", &quarter])?,
        mount("/proc", "proc", &["nosuid", "nodev", "noexec"])?,
        sys(guest)?,
        mount("/sys/fs/cgroup", "cgroup", &["nosuid", "nodev", "noexec"])?,
        mount(
            "/dev/pts",
            "devpts",
            &[
                "nosuid",
                "noexec",
                "gid=5",
                "mode=620",
                "ptmxmode=666",
                &ptys,
            ],
        )?,
        mount("/dev/mqueue", "mqueue", &["nosuid", "nodev", "noexec"])?,
    ];
    for op in &place.mounts {
        all.extend(template_mount(op)?);
    }
    for tmpfs in &guest.tmpfs {
        let target = text(&tmpfs.target)?;
        let size = format!("size={}", tmpfs.size.0);
        let mode = format!("mode={:o}", tmpfs.mode);
        all.push(mount(target, "tmpfs", &["nosuid", "nodev", &mode, &size])?);
    }
    for bind in &guest.mounts {
        all.extend(template_mount(&MountOp::Bind {
            source: bind.source.clone(),
            target: bind.target.clone(),
            read_only: bind.read_only,
            idmap: bind.idmap,
            recursive: false,
        })?);
    }
    Ok(all)
}

/// A sysfs of its own, which shows its own network. The kernel gives that only to who owns the
/// network: with the host's, it is the host's, read-only.
fn sys(guest: &Guest) -> Result<Mount, PlanError> {
    let (kind, source, more) = match guest.network.kind {
        NetworkKind::Host => ("bind", "/sys", Some("bind")),
        NetworkKind::Bridge | NetworkKind::Named(_) | NetworkKind::None => ("sysfs", "sysfs", None),
    };
    let options = ["nosuid", "nodev", "noexec", "ro"].into_iter().chain(more);
    Ok(MountBuilder::default()
        .destination("/sys")
        .typ(kind)
        .source(source)
        .options(options.map(str::to_owned).collect::<Vec<_>>())
        .build()?)
}

/// `None` for what is no mount in OCI's words.
fn template_mount(op: &MountOp) -> Result<Option<Mount>, PlanError> {
    let mut options: Vec<String> = Vec::new();
    let builder = match op {
        MountOp::Bind {
            source,
            target,
            read_only,
            idmap,
            recursive,
        } => {
            options.push(if *recursive { "rbind" } else { "bind" }.into());
            options.push("nodev".into());
            options.extend(read_only.then(|| "ro".into()));
            options.extend(idmap.then(|| if *recursive { "ridmap" } else { "idmap" }.into()));
            MountBuilder::default()
                .destination(target)
                .typ("bind")
                .source(source)
        }
        MountOp::Tmpfs { target, size, mode } => {
            options.extend([
                "nosuid".into(),
                "nodev".into(),
                format!("size={size}"),
                format!("mode={mode:o}"),
            ]);
            MountBuilder::default()
                .destination(target)
                .typ("tmpfs")
                .source("tmpfs")
        }
        MountOp::Root { target, .. } => {
            options.extend(["nosuid".into(), "nodev".into()]);
            MountBuilder::default()
                .destination(target)
                .typ(ROOT)
                .source(ROOT)
        }
        MountOp::Hide { .. } => return Ok(None),
    };
    Ok(Some(builder.options(options).build()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::RootOp;

    #[test]
    fn a_root_inside_a_root_has_no_setuid_bits_and_no_devices() {
        let op = MountOp::Root {
            target: "/mnt/guest".into(),
            root: RootOp::Directory {
                path: "/x".into(),
                idmap: true,
                read_only: false,
            },
        };
        let mount = template_mount(&op).unwrap().unwrap();
        assert_eq!(mount.typ().as_deref(), Some(ROOT));
        let options = mount.options().clone().unwrap_or_default();
        assert_eq!(options, ["nosuid", "nodev"]);
        let attributes = super::super::options::Options::of(&mount).attributes;
        assert!(attributes.nosuid && attributes.nodev && !attributes.read_only);
    }
}
