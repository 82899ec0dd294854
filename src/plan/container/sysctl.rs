//! Kernel settings of a container (`linux.sysctl`): only those of its own namespaces, and which file
//! below `/proc/sys` a name means.

use oci_spec::runtime::{LinuxNamespaceType, Spec};

use super::{namespaces, refuse, word};
use crate::plan::PlanError;

/// Settings that belong to a namespace, by the beginning of their file's name.
const SETTINGS: [(&str, LinuxNamespaceType); 7] = [
    ("kernel/msg", LinuxNamespaceType::Ipc),
    ("kernel/sem", LinuxNamespaceType::Ipc),
    ("kernel/shm", LinuxNamespaceType::Ipc),
    ("fs/mqueue/", LinuxNamespaceType::Ipc),
    ("net/", LinuxNamespaceType::Network),
    ("kernel/domainname", LinuxNamespaceType::Uts),
    ("user/max_", LinuxNamespaceType::User),
];

/// The file below `/proc/sys`. As with sysctl(8) the first of `.` and `/` in a name is what parts it,
/// and the other one is a dot within a part: `net.ipv4.conf.eth0/1.forwarding`, as kubelet writes it,
/// and `net/ipv4/conf/eth0.1/forwarding` are the same.
fn file(name: &str) -> String {
    let first = name.chars().find(|c| matches!(c, '.' | '/'));
    let part = |c| match c {
        '.' => '/',
        '/' => '.',
        c => c,
    };
    match first {
        Some('.') => name.chars().map(part).collect(),
        _ => name.to_owned(),
    }
}

/// All of them, by file, in order.
pub(super) fn settings(spec: &Spec) -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = asked(spec)
        .map(|(name, value)| (file(name), value.clone()))
        .collect();
    all.sort();
    all
}

fn asked(spec: &Spec) -> impl Iterator<Item = (&String, &String)> {
    let all = spec.linux().as_ref().and_then(|l| l.sysctl().as_ref());
    all.into_iter().flatten()
}

/// Whether one of them is in a namespace of this kind.
pub(super) fn changes(spec: &Spec, kind: LinuxNamespaceType) -> bool {
    asked(spec).any(|(name, _)| owner(&file(name)) == Some(kind))
}

/// The kind of namespace that a setting belongs to.
fn owner(file: &str) -> Option<LinuxNamespaceType> {
    let known = SETTINGS.iter().find(|(begin, _)| file.starts_with(begin));
    known.map(|(_, kind)| *kind)
}

/// Refuses what would reach beyond the container.
pub(super) fn check(spec: &Spec) -> Result<(), PlanError> {
    for (name, value) in asked(spec) {
        let what = format!("linux.sysctl {name:?}");
        let file = file(name);
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-/:@,".contains(c);
        let odd = |part: &str| part.is_empty() || part.starts_with('.') || part.ends_with('.');
        if file.split('/').any(odd) || name.contains("..") || !name.chars().all(plain) {
            return Err(refuse(what, "it is no name of a kernel setting"));
        }
        if value.contains(['\0', '\n']) {
            return Err(refuse(what, "its value has a line break in it"));
        }
        let Some(kind) = owner(&file) else {
            return Err(refuse(
                what,
                "it belongs to no namespace and would change the host's",
            ));
        };
        let domain = spec.domainname().as_ref().filter(|d| !d.is_empty());
        if file == "kernel/domainname" && domain.is_some_and(|d| d != value) {
            return Err(refuse(what, "domainname says otherwise"));
        }
        if !namespaces(spec).iter().any(|n| n.typ() == kind) {
            let why = format!("it needs a {} namespace of the container's own", word(kind));
            return Err(refuse(what, why));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, more: &str) -> Spec {
        let text = format!(
            r#"{{"ociVersion": "1.2.0", "root": {{"path": "r"}}, {more} "linux": {{"namespaces":
            [{{"type": "network"}}, {{"type": "ipc"}}], "sysctl": {{"{name}": "1"}}}}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    fn verdict(name: &str) -> Result<(), String> {
        check(&spec(name, "")).map_err(|error| error.to_string())
    }

    #[test]
    fn settings_of_the_host_are_out_of_reach() {
        for name in [
            "kernel.core_pattern",
            "kernel/core_pattern",
            "vm.swappiness",
            "kernel.hostname",
            "kernel.shm/../core_pattern",
            "kernel/core.pattern",
            "kernel",
            "",
        ] {
            assert!(verdict(name).is_err(), "{name}");
        }
        for name in [
            "net..x",
            "net/../kernel/core_pattern",
            "net.//.kernel.core_pattern",
            "net.a/../b",
            "net.a./.b",
            "net/./x",
            "net/.x",
            "net/x/",
            "net.x y",
            "net.x\\n",
        ] {
            assert!(
                verdict(name).is_err_and(|e| e.contains("no name")),
                "{name}"
            );
        }
        assert!(verdict("kernel.domainname").is_err_and(|e| e.contains("uts namespace")));
        let mut other = spec("kernel.domainname", r#""domainname": "b","#);
        assert!(check(&other).is_err_and(|e| e.to_string().contains("says otherwise")));
        other = spec("kernel.shmmax", "");
        assert_eq!(settings(&other), [("kernel/shmmax".into(), "1".into())]);
    }

    #[test]
    fn a_part_of_a_name_may_have_a_dot() {
        for name in [
            "net/ipv4/conf/eth0.1/forwarding",
            "net.ipv4.conf.eth0/1.forwarding",
        ] {
            assert_eq!(verdict(name), Ok(()));
            assert_eq!(file(name), "net/ipv4/conf/eth0.1/forwarding");
        }
        assert_eq!(file("net.ipv4.ip_forward"), "net/ipv4/ip_forward");
    }
}
