//! What a configuration may not say: contradictions, and what would reach beyond the container.
//! Refused before anything is made. Values that belong to one subject are checked where they are
//! turned into steps.

use std::collections::HashSet;

use oci_spec::runtime::{LinuxNamespaceType, LinuxSeccompAction, Process, Spec, User};

use super::{namespaces, refuse, sysctl, word};
use crate::plan::PlanError;

type Checked = Result<(), PlanError>;

/// Checks a configuration.
///
/// # Errors
/// Names the key, what is wrong with it, and the rule.
pub fn check(spec: &Spec) -> Checked {
    version(spec)?;
    kinds(spec)?;
    names(spec)?;
    needs(spec)?;
    sysctl::check(spec)?;
    listener(spec)?;
    clocks(spec)?;
    hook_times(spec)?;
    interfaces(spec)?;
    match spec.process() {
        Some(process) => check_process(process),
        None => Ok(()),
    }
}

/// Checks what is to be run.
///
/// # Errors
/// As [`check`].
pub fn check_process(process: &Process) -> Checked {
    let cwd = process.cwd();
    if !cwd.is_absolute() {
        return Err(refuse(
            format!("process.cwd {:?}", cwd.display().to_string()),
            "cwd must be an absolute path",
        ));
    }
    no_nul("process.cwd", &cwd.to_string_lossy())?;
    let args = process.args().iter().flatten();
    let env = || process.env().iter().flatten();
    for text in args.chain(env()) {
        no_nul("process.args and process.env", text)?;
    }
    let named = |line: &&String| line.find('=').is_some_and(|at| at > 0);
    if let Some(line) = env().find(|line| !named(line)) {
        return Err(refuse(
            format!("process.env {line:?}"),
            "invalid environment variable: write NAME=VALUE",
        ));
    }
    ids(process.user())?;
    effective(process)?;
    for (n, limit) in process.rlimits().iter().flatten().enumerate() {
        let rest = process.rlimits().iter().flatten().skip(n + 1);
        if rest.into_iter().any(|other| other.typ() == limit.typ()) {
            let what = format!("process.rlimits, {}", limit.typ());
            return Err(refuse(what, "it is there twice"));
        }
    }
    match process.oom_score_adj() {
        Some(score) if !(-1000..=1000).contains(&score) => Err(refuse(
            format!("process.oomScoreAdj {score}"),
            "use -1000 to 1000",
        )),
        _ => Ok(()),
    }
}

/// The number that stands for "leave it as it is" with the kernel: whoever is given it stays root.
pub(super) const NOBODY: u32 = u32::MAX;

fn ids(user: &User) -> Checked {
    let groups = user.additional_gids().iter().flatten();
    let all = [("uid", user.uid()), ("gid", user.gid())];
    let all = all
        .into_iter()
        .chain(groups.map(|g| ("additionalGids", *g)));
    for (key, id) in all {
        if id == NOBODY {
            let what = format!("process.user.{key} {id}");
            return Err(refuse(what, "it is no id: the highest one is 4294967294"));
        }
    }
    Ok(())
}

/// What is in force is a part of what may be in force (capabilities(7)).
fn effective(process: &Process) -> Checked {
    let Some(sets) = process.capabilities() else {
        return Ok(());
    };
    let has = |one| sets.permitted().as_ref().is_some_and(|p| p.contains(one));
    let mut alone = sets.effective().iter().flatten().filter(|one| !has(one));
    match alone.next() {
        None => Ok(()),
        Some(one) => Err(refuse(
            format!("process.capabilities.effective, CAP_{one}"),
            "it is not in the permitted set, and the kernel puts none in force that is not",
        )),
    }
}

fn no_nul(what: &str, text: &str) -> Checked {
    if text.contains('\0') {
        return Err(refuse(what, "there is a NUL byte in it"));
    }
    Ok(())
}

fn version(spec: &Spec) -> Checked {
    let text = spec.version();
    let major = text.split('.').next().unwrap_or_default();
    if major == "1" {
        return Ok(());
    }
    Err(refuse(
        format!("ociVersion {text:?}"),
        "versions 1.0.0 to 1.3.x of the specification can be carried out",
    ))
}

fn kinds(spec: &Spec) -> Checked {
    let all = namespaces(spec);
    for (n, namespace) in all.iter().enumerate() {
        if all[n + 1..]
            .iter()
            .any(|other| other.typ() == namespace.typ())
        {
            let what = format!("linux.namespaces, {}", word(namespace.typ()));
            return Err(refuse(what, "it is there twice"));
        }
    }
    Ok(())
}

/// Strings that reach the kernel as C strings.
fn names(spec: &Spec) -> Checked {
    let text = |what: &str, value: Option<&String>| match value {
        Some(value) => no_nul(what, value),
        None => Ok(()),
    };
    text("hostname", spec.hostname().as_ref())?;
    text("domainname", spec.domainname().as_ref())?;
    let root = spec.root().as_ref();
    let root = root.ok_or_else(|| refuse("root", "it is missing"))?;
    no_nul("root.path", &root.path().to_string_lossy())?;
    for mount in spec.mounts().iter().flatten() {
        let target = mount.destination().to_string_lossy();
        no_nul("mounts, destination", &target)?;
        let source = mount.source().as_ref().map(|s| s.to_string_lossy());
        no_nul("mounts, source", &source.unwrap_or_default())?;
        for option in mount.options().iter().flatten() {
            no_nul("mounts, options", option)?;
        }
    }
    let Some(linux) = spec.linux() else {
        return Ok(());
    };
    for path in linux.masked_paths().iter().flatten() {
        no_nul("linux.maskedPaths", path)?;
    }
    for path in linux.readonly_paths().iter().flatten() {
        no_nul("linux.readonlyPaths", path)?;
    }
    for device in linux.devices().iter().flatten() {
        no_nul("linux.devices, path", &device.path().to_string_lossy())?;
    }
    Ok(())
}

/// What makes sense only in a namespace of the container's own.
fn needs(spec: &Spec) -> Checked {
    use LinuxNamespaceType::{Mount, Network, Time, User, Uts};
    let has = |kind| namespaces(spec).iter().any(|n| n.typ() == kind);
    let new = |kind| {
        let found = namespaces(spec).iter().find(|n| n.typ() == kind);
        found.is_some_and(|n| super::path_of(n).is_none())
    };
    let linux = spec.linux().as_ref();
    let some = |list: Option<&Vec<String>>| list.is_some_and(|l| !l.is_empty());
    let filled = |text: Option<&String>| text.is_some_and(|t| !t.is_empty());
    let maps = linux.is_some_and(|l| {
        let any = |m: Option<&Vec<_>>| m.is_some_and(|m| !m.is_empty());
        any(l.uid_mappings().as_ref()) || any(l.gid_mappings().as_ref())
    });
    let paths =
        linux.is_some_and(|l| some(l.masked_paths().as_ref()) || some(l.readonly_paths().as_ref()));
    let offsets = linux.and_then(|l| l.time_offsets().as_ref());
    let devices = linux.and_then(|l| l.net_devices().as_ref());
    let mounts = spec.mounts().as_ref().is_some_and(|m| !m.is_empty());
    let wishes = [
        ("mounts", mounts, Mount, has(Mount)),
        ("hostname", filled(spec.hostname().as_ref()), Uts, has(Uts)),
        (
            "domainname",
            filled(spec.domainname().as_ref()),
            Uts,
            has(Uts),
        ),
        (
            "linux.maskedPaths and linux.readonlyPaths",
            paths,
            Mount,
            has(Mount),
        ),
        (
            "linux.uidMappings and linux.gidMappings",
            maps,
            User,
            has(User),
        ),
        (
            "linux.timeOffsets",
            offsets.is_some_and(|o| !o.is_empty()),
            Time,
            new(Time),
        ),
        (
            "linux.netDevices",
            devices.is_some_and(|d| !d.is_empty()),
            Network,
            has(Network),
        ),
    ];
    for (what, wanted, kind, there) in wishes {
        if wanted && !there {
            let why = format!("it needs a {} namespace of the container's own", word(kind));
            return Err(refuse(what, why));
        }
    }
    let whole = linux.is_some_and(|l| {
        let any = |m: Option<&Vec<_>>| m.is_some_and(|m| !m.is_empty());
        any(l.uid_mappings().as_ref()) && any(l.gid_mappings().as_ref())
    });
    if new(User) && !whole {
        return Err(refuse(
            "linux.namespaces, user",
            "a new one needs linux.uidMappings and linux.gidMappings",
        ));
    }
    Ok(())
}

/// Clocks that a time namespace has of its own (time_namespaces(7)).
fn clocks(spec: &Spec) -> Checked {
    let all = spec
        .linux()
        .as_ref()
        .and_then(|l| l.time_offsets().as_ref());
    let mut names = all.into_iter().flat_map(|all| all.keys());
    match names.find(|name| !matches!(name.as_str(), "monotonic" | "boottime")) {
        None => Ok(()),
        Some(name) => Err(refuse(
            format!("linux.timeOffsets, {name}"),
            "a time namespace has the clocks monotonic and boottime",
        )),
    }
}

/// Names of interfaces as the kernel takes them. It would move one first and look at its new name
/// then, and where the launch fails the interface would be gone with the container.
fn interfaces(spec: &Spec) -> Checked {
    let linux = spec.linux().as_ref();
    let all = linux.and_then(|l| l.net_devices().as_ref());
    let odd = |c: char| c.is_whitespace() || c.is_control() || "/:%".contains(c);
    let mut seen = HashSet::new();
    for (name, device) in all.into_iter().flatten() {
        let inside = device.name().as_ref().filter(|n| !n.is_empty());
        let inside = inside.unwrap_or(name);
        for name in [name, inside] {
            let short = (1..=15).contains(&name.len()) && name != "." && name != "..";
            // The kernel looks at bytes, and this one is a space to it.
            let space = name.bytes().any(|byte| byte == 0xa0);
            if !short || space || name.contains(odd) {
                let what = format!("linux.netDevices {name:?}");
                return Err(refuse(what, "no interface can have that name"));
            }
        }
        if !seen.insert(inside) {
            let what = format!("linux.netDevices {inside:?}");
            return Err(refuse(what, "two interfaces would have that name"));
        }
    }
    Ok(())
}

/// The specification: a timeout is greater than zero.
fn hook_times(spec: &Spec) -> Checked {
    let Some(all) = spec.hooks() else {
        return Ok(());
    };
    // Deprecated, and in use.
    #[allow(deprecated)]
    let early = all.prestart();
    let kinds = [
        ("prestart", early),
        ("createRuntime", all.create_runtime()),
        ("createContainer", all.create_container()),
        ("startContainer", all.start_container()),
        ("poststart", all.poststart()),
        ("poststop", all.poststop()),
    ];
    for (kind, hooks) in kinds {
        let times = hooks.iter().flatten().filter_map(|hook| hook.timeout());
        if let Some(time) = times.into_iter().find(|time| *time <= 0) {
            let what = format!("hooks.{kind}, timeout {time}");
            return Err(refuse(what, "it must be greater than zero"));
        }
    }
    Ok(())
}

/// Who decides must be reachable.
fn listener(spec: &Spec) -> Checked {
    let seccomp = spec.linux().as_ref().and_then(|l| l.seccomp().as_ref());
    let nobody = seccomp.is_some_and(|s| s.listener_path().is_none());
    if nobody && super::process::notifies(spec) {
        return Err(refuse(
            "linux.seccomp.listenerPath",
            "SCMP_ACT_NOTIFY needs a socket where somebody decides",
        ));
    }
    // Its process tells of the listener with this call: nobody could answer yet.
    let asks = |action| action == LinuxSeccompAction::ScmpActNotify;
    let rules = seccomp.and_then(|s| s.syscalls().as_ref());
    let mut rules = rules.into_iter().flatten();
    if rules.any(|rule| asks(rule.action()) && rule.names().iter().any(|name| name == "write")) {
        let why = "SCMP_ACT_NOTIFY cannot be used for the write syscall: it tells of the listener";
        return Err(refuse("linux.seccomp.syscalls", why));
    }
    if seccomp.is_some_and(|s| asks(s.default_action())) {
        let why = "SCMP_ACT_NOTIFY cannot be used as default action: it would count for write";
        return Err(refuse("linux.seccomp.defaultAction", why));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(text: &str) -> Result<(), String> {
        let spec: Spec = serde_json::from_str(text).unwrap();
        check(&spec).map_err(|error| error.to_string())
    }

    fn refused(part: &str, expected: &str) {
        let text = format!(r#"{{"ociVersion": "1.2.0", "root": {{"path": "rootfs"}}, {part}}}"#);
        let error = verdict(&text).unwrap_err();
        assert!(error.contains(expected), "{part}: {error}");
    }

    #[test]
    fn a_plain_configuration_passes() {
        let text = r#"{"ociVersion": "1.0.2-dev", "root": {"path": "r"}, "process": {"cwd": "/",
            "user": {}, "args": ["sh"]}, "linux": {"namespaces": [{"type": "network"}],
            "sysctl": {"net.ipv4.ip_forward": "1"}}}"#;
        assert_eq!(verdict(text), Ok(()));
    }

    #[test]
    fn contradictions_are_named() {
        refused(r#""hostname": "x""#, "uts namespace");
        refused(
            r#""linux": {"maskedPaths": ["/proc/kcore"]}"#,
            "mount namespace",
        );
        refused(
            r#""linux": {"namespaces": [{"type": "pid"}, {"type": "pid"}]}"#,
            "twice",
        );
        refused(
            r#""linux": {"namespaces": [{"type": "user"}]}"#,
            "uidMappings",
        );
        refused(r#""process": {"cwd": "x", "user": {}}"#, "absolute");
        refused(
            r#""process": {"cwd": "/", "user": {}, "args": ["a\u0000b"]}"#,
            "NUL",
        );
        refused(
            r#""process": {"cwd": "/", "user": {}, "oomScoreAdj": 1001}"#,
            "-1000 to 1000",
        );
    }

    #[test]
    fn interfaces_have_names_that_the_kernel_takes() {
        for name in ["a b", "a/b", "..", "", "sixteen-letters-", "\u{e0}"] {
            refused(
                &format!(
                    r#""linux": {{"namespaces": [{{"type": "network"}}],
                       "netDevices": {{"{name}": {{}}}}}}"#
                ),
                "no interface can have that name",
            );
        }
    }

    #[test]
    fn nothing_is_passed_over() {
        let with = |part: &str| format!(r#""process": {{"cwd": "/", {part}}}"#);
        for user in [
            r#""user": {"uid": 4294967295}"#,
            r#""user": {"gid": 4294967295}"#,
            r#""user": {"additionalGids": [4294967295]}"#,
        ] {
            refused(&with(user), "no id");
        }
        let sets = r#""user": {}, "capabilities": {"effective": ["CAP_KILL"], "permitted": []}"#;
        refused(&with(sets), "permitted");
        for env in ["A", "", "=x"] {
            refused(
                &with(&format!(r#""user": {{}}, "env": ["B=", "{env}"]"#)),
                "NAME=VALUE",
            );
        }
        refused(
            r#""linux": {"namespaces": [{"type": "time"}], "timeOffsets": {"realtime": {}}}"#,
            "monotonic and boottime",
        );
        refused(
            r#""linux": {"namespaces": [{"type": "user"}],
               "uidMappings": [{"containerID": 0, "hostID": 5, "size": 1}]}"#,
            "gidMappings",
        );
        for (kind, timeout) in [("prestart", -1), ("poststop", 0)] {
            let hook = format!(r#"{{"path": "/bin/true", "timeout": {timeout}}}"#);
            refused(
                &format!(r#""hooks": {{"{kind}": [{hook}]}}"#),
                "greater than zero",
            );
        }
    }

    #[test]
    fn a_listener_is_not_asked_about_what_tells_of_it() {
        let with =
            |rules: &str| format!(r#""linux": {{"seccomp": {{"listenerPath": "/x", {rules}}}}}"#);
        let notify = r#""action": "SCMP_ACT_NOTIFY""#;
        let rule = format!(
            r#""defaultAction": "SCMP_ACT_ALLOW",
               "syscalls": [{{"names": ["mkdir", "write"], {notify}}}]"#
        );
        refused(&with(&rule), "for the write syscall");
        refused(
            &with(r#""defaultAction": "SCMP_ACT_NOTIFY""#),
            "default action",
        );
    }

    #[test]
    fn an_interface_has_a_name_that_it_can_have() {
        for devices in [
            r#"{"eth0": {"name": "a/b"}}"#,
            r#"{"eth0": {"name": "e%d"}}"#,
            r#"{"eth0": {"name": "sixteen-letters."}}"#,
            r#"{"": {}}"#,
            r#"{"..": {"name": "x"}}"#,
            r#"{"eth0": {"name": "eth1"}, "eth1": {}}"#,
        ] {
            let part = format!(
                r#""linux": {{"namespaces": [{{"type": "network"}}], "netDevices": {devices}}}"#
            );
            refused(&part, "that name");
        }
    }

    #[test]
    fn only_version_one_is_known() {
        for version in ["2.0.0", "", "0.9", "x"] {
            let text = format!(r#"{{"ociVersion": "{version}", "root": {{"path": "r"}}}}"#);
            assert!(verdict(&text).unwrap_err().contains("1.3.x"));
        }
    }
}
