//! The OCI runtime without root's rights: started by a user who has none, and by the root of a user
//! namespace, as rootless Podman starts it. The tests need root to become those.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, Stdio};

use crate::clients::{apart, capabilities, field, succeed_in_shell};
use crate::oci::Bundle;
use crate::support;
use crate::support::{Need, need, run};
use nix::sched::CloneFlags;
use serde_json::{Value, json};

/// A user of the tests' own.
const USER: u32 = 4242;

fn ready() -> bool {
    need(Need::Root) && need(Need::OciRuntime)
}

/// A bundle from `spec --rootless`, started by that user.
fn rootless() -> Bundle {
    let mut bundle = Bundle::new();
    let runtime = bundle.path("run").display().to_string();
    fs::create_dir(&runtime).expect("ours");
    let (uid, gid) = (format!("--reuid={USER}"), format!("--regid={USER}"));
    let variable = format!("XDG_RUNTIME_DIR={runtime}");
    bundle.started_by(
        USER,
        &[
            "setpriv",
            &uid,
            &gid,
            "--clear-groups",
            "env",
            "-C",
            &runtime,
            &variable,
        ],
    );
    fs::remove_file(bundle.path("config.json")).expect("ours");
    let at = bundle.path("").display().to_string();
    bundle.ok(&["spec", "--rootless", "--bundle", &at]);
    let text = fs::read(bundle.path("config.json")).expect("written");
    bundle.config = serde_json::from_slice(&text).expect("JSON");
    bundle.config["process"]["terminal"] = json!(false);
    bundle.config["process"]["env"] = json!(["PATH=/bin"]);
    bundle.config["root"]["readonly"] = json!(false);
    bundle
}

#[test]
fn a_user_runs_a_container_with_one_id() {
    if !ready() {
        return;
    }
    let mut bundle = rootless();
    let said = bundle.says(
        "id -u; id -g; cat /proc/self/uid_map; cat /proc/self/setgroups; hostname; stat -c %u /bin
         echo x > /made; echo x > /dev/null; ls /sys/class | head -n 1 | wc -l; ps | wc -l
         grep -c CapEff /proc/self/status; head -c 2 /dev/zero | wc -c; ls /proc/acpi 2>/dev/null | wc -l",
    );
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(&lines[..2], ["0", "0"], "{said}");
    let map: Vec<_> = lines[2].split_whitespace().collect();
    assert_eq!(map, ["0", "4242", "1"]);
    assert_eq!(&lines[3..6], ["deny", "bulkhead", "0"], "{said}");
    assert_eq!(lines[6], "1", "{said}");
    let owner =
        std::os::unix::fs::MetadataExt::uid(&fs::metadata(bundle.inside("made")).expect("made"));
    assert_eq!(owner, USER);
    // Nothing of it is left, and its state was below XDG_RUNTIME_DIR if not told otherwise.
    assert_eq!(bundle.ok(&["list", "-q"]), "");
    assert!(bundle.path("run/bulkhead-oci-cache").exists() || bundle.path("run").exists());
}

#[test]
fn a_user_s_container_lives_its_whole_life() {
    if !ready() {
        return;
    }
    let mut bundle = rootless();
    bundle.config["process"]["oomScoreAdj"] = json!(500);
    let log = bundle.path("log").display().to_string();
    let hook = |name: &str| {
        json!([{"path": "/bin/sh", "args": ["sh", "-c", format!("cat > /dev/null; echo {name} >> {log}")],
            "env": ["PATH=/bin:/usr/bin"]}])
    };
    bundle.config["hooks"] = json!({"createRuntime": hook("createRuntime"),
        "poststart": hook("poststart"), "poststop": hook("poststop")});
    bundle.asleep();
    assert_eq!(bundle.status(), "running");
    let said = bundle.exec(
        &[],
        "id -u; ps | grep -c 'sleep 1000'; cat /proc/1/oom_score_adj; cat /proc/self/status",
    );
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines[0], "0", "{said}");
    assert_ne!(lines[1], "0", "{said}");
    assert_eq!(lines[2], "500", "{said}");
    // No more rights than the container's own.
    assert_eq!(capabilities(&said, "CapBnd"), 0x2000_0420, "{said}");
    assert_eq!(field(&said, "NoNewPrivs"), "1");
    let outcome = bundle.oci(&["exec", "c", "sh", "-c", "exit 23"]);
    assert_eq!(outcome.code, 23, "{}", outcome.report());
    bundle.ok(&["kill", "c", "TERM"]);
    support::eventually("it ends", 5, || bundle.status() == "stopped");
    bundle.ok(&["delete", "c"]);
    let log = fs::read_to_string(bundle.path("log")).expect("written");
    assert_eq!(log, "createRuntime\npoststart\npoststop\n");
}

#[test]
fn more_ids_come_from_the_helpers() {
    if !ready() || !need(Need::OciRuntime) {
        return;
    }
    apart(CloneFlags::CLONE_NEWNS, || {
        let mut bundle = rootless();
        let file = |name: &str, text: &str| {
            fs::write(bundle.path(name), text).expect("ours");
            let path = bundle.path(name).display().to_string();
            succeed_in_shell(&format!(
                "chown 0:0 {path}; chmod 644 {path}; mount --bind {path} /etc/{name}"
            ));
        };
        let users = fs::read_to_string("/etc/passwd").expect("there");
        file(
            "passwd",
            &format!("{users}bhtest:x:{USER}:{USER}::/:/bin/sh\n"),
        );
        let groups = fs::read_to_string("/etc/group").expect("there");
        file("group", &format!("{groups}bhtest:x:{USER}:\n"));
        file("subuid", "bhtest:700000:1000\n");
        file("subgid", "bhtest:700000:1000\n");
        let map = json!([{"containerID": 0, "hostID": USER, "size": 1},
            {"containerID": 1, "hostID": 700_000, "size": 1000}]);
        bundle.config["linux"]["uidMappings"] = map.clone();
        bundle.config["linux"]["gidMappings"] = map;
        bundle.config["process"]["user"] = json!({"uid": 33, "gid": 34, "additionalGids": [50]});
        let said = bundle.says("id -u; id -g; cat /proc/self/status; cat /proc/self/uid_map");
        assert!(said.starts_with("33\n34\n"), "{said}");
        assert_eq!(field(&said, "Groups"), "50");
        assert!(said.contains("700000"), "{said}");
        bundle.asleep();
        assert_eq!(bundle.exec(&["--user", "5:6"], "id -u; id -g"), "5\n6");
        bundle.remove();
        // Ids of somebody else's.
        bundle.config["linux"]["uidMappings"][1]["hostID"] = json!(900_000);
        let told = bundle.refused("true");
        assert!(
            told.contains("newuidmap") && told.contains("/etc/subuid"),
            "{told}"
        );
        for name in ["passwd", "group", "subuid", "subgid"] {
            succeed_in_shell(&format!("umount /etc/{name}"));
        }
    });
}

#[test]
fn what_needs_root_is_refused_with_its_name() {
    if !ready() {
        return;
    }
    let mut bundle = rootless();
    bundle.config["linux"]["resources"] = json!({"pids": {"limit": 10}});
    bundle.config["linux"]["cgroupsPath"] = json!(bundle.group());
    let told = bundle.refused("true");
    assert!(told.contains("not permitted: this needs root"), "{told}");
    bundle.config["linux"]["resources"] = json!(null);
    bundle.says("true");
    bundle.mount(
        json!({"destination": "/own", "type": "bind", "source": bundle.path(""),
        "options": ["bind", "idmap"]}),
    );
    assert!(bundle.refused("true").contains("idmap"));
    bundle.config["mounts"]
        .as_array_mut()
        .expect("mounts")
        .pop();
    bundle.without("user");
    bundle.config["linux"]["uidMappings"] = json!(null);
    bundle.config["linux"]["gidMappings"] = json!(null);
    assert!(bundle.refused("true").contains("user namespace"));
}

#[test]
fn a_user_s_mounts_are_made_inside() {
    if !ready() {
        return;
    }
    let mut bundle = rootless();
    fs::create_dir(bundle.path("data")).expect("ours");
    fs::write(bundle.path("data/file"), "there").expect("ours");
    fs::set_permissions(bundle.path("data"), fs::Permissions::from_mode(0o755)).expect("ours");
    bundle.mount(
        json!({"destination": "/data", "type": "bind", "source": bundle.path("data"),
        "options": ["rbind", "ro"]}),
    );
    bundle.mount(json!({"destination": "/file", "type": "bind",
        "source": bundle.path("data/file"), "options": ["bind", "nosuid"]}));
    bundle.mount(json!({"destination": "/etc", "type": "tmpfs", "options": ["tmpcopyup"]}));
    bundle.mount(json!({"destination": "/groups", "type": "cgroup", "options": ["ro"]}));
    bundle.namespace("network", None);
    bundle.namespace("time", None);
    bundle.config["root"]["readonly"] = json!(true);
    let said = bundle.says(
        "cat /data/file /file; echo; touch /data/x 2>&1; head -n 1 /etc/group; touch /etc/x
         touch /x 2>&1; ip -o link | wc -l; ls -d /groups",
    );
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines[0], "therethere", "{said}");
    assert!(lines[1].contains("Read-only"), "{said}");
    assert_eq!(lines[2], "root:x:0:", "{said}");
    assert!(lines[3].contains("Read-only"), "{said}");
    assert_eq!(&lines[4..], ["1", "/groups"], "{said}");
}

/// A user namespace with these ids and its own mounts, as rootless Podman has it.
struct Nested(Child);

impl Nested {
    fn new(first: u32) -> Self {
        let mut child = Command::new("unshare")
            .args(["-U", "-m", "sh", "-c", "echo up; exec sleep 1000"])
            .stdout(Stdio::piped())
            .stdin(Stdio::null())
            .spawn()
            .expect("unshare");
        let mut out = std::io::BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        std::io::BufRead::read_line(&mut out, &mut line).expect("a line");
        let map = format!("0 {first} 65536");
        for file in ["uid_map", "gid_map"] {
            fs::write(format!("/proc/{}/{file}", child.id()), &map).expect("root may");
        }
        Self(child)
    }
}

impl Drop for Nested {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _gone = self.0.wait();
    }
}

#[test]
fn the_root_of_a_user_namespace_runs_containers() {
    if !ready() {
        return;
    }
    let nested = Nested::new(800_000);
    let pid = nested.0.id().to_string();
    let mut bundle = Bundle::new();
    bundle.started_by(
        800_000,
        &["nsenter", "-t", &pid, "-U", "-m", "-S", "0", "-G", "0"],
    );
    // Whoever starts it has set no limits, or there is no way to have them.
    bundle.config["linux"]["resources"] = json!(null);
    bundle.config["process"]["oomScoreAdj"] = json!(-500);
    let said =
        bundle.says("id -u; cat /proc/self/uid_map; echo x > /dev/null; hostname; ls /dev | wc -l");
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines[0], "0", "{said}");
    assert!(
        lines[1].contains("800000") || lines[1].contains('0'),
        "{said}"
    );
    assert_eq!(lines[2], "bulkhead", "{said}");
    bundle.asleep();
    assert_eq!(bundle.exec(&["--user", "33:33"], "id -u; pwd"), "33\n/");
    let list: Value = serde_json::from_str(&bundle.ok(&["list", "-f", "json"])).expect("JSON");
    assert_eq!(list[0]["status"], "running");
    bundle.ok(&["kill", "c", "KILL"]);
    bundle.remove();
    // With a user namespace of its own within that one.
    bundle.namespace("user", None);
    let map = json!([{"containerID": 0, "hostID": 0, "size": 1000}]);
    bundle.config["linux"]["uidMappings"] = map.clone();
    bundle.config["linux"]["gidMappings"] = map;
    assert_eq!(bundle.says("id -u; echo x > /dev/zero"), "0");
    bundle.config["linux"]["resources"] = json!({"pids": {"limit": 10}});
    let told = bundle.refused("true");
    assert!(told.contains("not permitted"), "{told}");
}

#[test]
fn rootless_is_what_the_template_says() {
    if !ready() {
        return;
    }
    let bundle = rootless();
    let kinds: Vec<&str> = bundle.config["linux"]["namespaces"]
        .as_array()
        .expect("namespaces")
        .iter()
        .filter_map(|n| n["type"].as_str())
        .collect();
    assert!(
        kinds.contains(&"user") && !kinds.contains(&"network"),
        "{kinds:?}"
    );
    assert_eq!(bundle.config["linux"]["uidMappings"][0]["hostID"], USER);
    assert!(bundle.config["linux"]["resources"].is_null());
    let at = bundle.path("").display().to_string();
    let again = run(bundle.command(&["spec", "--rootless", "--bundle", &at]));
    assert!(
        again.stderr.contains("exists already"),
        "{}",
        again.report()
    );
}
