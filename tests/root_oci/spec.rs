//! What surrounds a container's process: namespaces new and joined, clocks, kernel settings, hooks,
//! network interfaces. Mounts are in `root_oci/mounts.rs`, the process itself in
//! `root_oci/process.rs`, the commands in `root_oci/commands.rs`.

use std::fs;
use std::process::{Child, Command, Stdio};

use crate::clients::{apart, succeed_in_shell};
use crate::oci::Bundle;
use crate::support::{Need, need};
use nix::sched::CloneFlags;
use serde_json::{Value, json};

fn ready() -> bool {
    need(Need::Root) && need(Need::OciRuntime)
}

const KINDS: [(&str, &str); 7] = [
    ("pid", "pid"),
    ("network", "net"),
    ("ipc", "ipc"),
    ("uts", "uts"),
    ("mount", "mnt"),
    ("cgroup", "cgroup"),
    ("time", "time"),
];

const SPACES: &str =
    "cd /proc/self/ns; for n in pid net ipc uts mnt cgroup time user; do readlink $n; done";

fn own(file: &str) -> String {
    let link = fs::read_link(format!("/proc/self/ns/{file}")).expect("a procfs");
    link.display().to_string()
}

#[test]
fn namespaces_are_new_or_left_out() {
    if !ready() {
        return;
    }
    let mut bundle = Bundle::new();
    bundle.namespace("time", None);
    let said = bundle.says(SPACES);
    for (_, file) in KINDS {
        assert!(!said.contains(&own(file)), "{file}: {said}");
    }
    assert!(said.contains(&own("user")), "{said}");
    bundle.users(350_000);
    let said = bundle.says(SPACES);
    for file in KINDS.map(|k| k.1).iter().chain(&["user"]) {
        assert!(!said.contains(&own(file)), "{file}: {said}");
    }
    let mut bundle = Bundle::new();
    for kind in ["network", "ipc", "uts", "cgroup", "pid"] {
        bundle.without(kind);
    }
    bundle.config["hostname"] = json!(null);
    bundle.config["linux"]["readonlyPaths"] = json!(null);
    let said = bundle.says(SPACES);
    for file in ["pid", "net", "ipc", "uts", "cgroup", "user"] {
        assert!(said.contains(&own(file)), "{file}: {said}");
    }
}

/// A process in namespaces of its own.
struct Other(Child);

impl Other {
    fn new(flags: &[&str]) -> Self {
        let mut command = Command::new("unshare");
        command
            .args(flags)
            .args(["sh", "-c", "echo up; exec sleep 1000"]);
        let mut child = command
            .stdout(Stdio::piped())
            .stdin(Stdio::null())
            .spawn()
            .expect("unshare");
        let mut out = std::io::BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        std::io::BufRead::read_line(&mut out, &mut line).expect("a line");
        assert_eq!(line, "up\n");
        Self(child)
    }

    fn path(&self, file: &str) -> String {
        format!("/proc/{}/ns/{file}", self.0.id())
    }

    fn link(&self, file: &str) -> String {
        let link = fs::read_link(self.path(file)).expect("a procfs");
        link.display().to_string()
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _gone = self.0.wait();
    }
}

#[test]
fn namespaces_are_joined_by_their_paths() {
    if !ready() {
        return;
    }
    let other = Other::new(&["-n", "-i", "-u", "-C", "-m"]);
    let mut bundle = Bundle::new();
    bundle.config["hostname"] = json!(null);
    let kinds = [
        ("network", "net"),
        ("ipc", "ipc"),
        ("uts", "uts"),
        ("cgroup", "cgroup"),
    ];
    for (kind, file) in kinds {
        bundle.namespace(kind, Some(&other.path(file)));
    }
    let said = bundle.says(SPACES);
    for (_, file) in kinds {
        assert!(said.contains(&other.link(file)), "{file}: {said}");
    }
    // A container's, by another one: what a pod is.
    let mut first = Bundle::new();
    first.asleep();
    let pid = first.pid();
    let mut second = Bundle::new();
    let path = format!("/proc/{pid}/ns/pid");
    second.namespace("pid", Some(&path));
    let said = second.says("ps; readlink /proc/self/ns/pid");
    assert!(said.contains("sleep 1000"), "{said}");
    assert!(said.ends_with(&fs::read_link(&path).expect("lives").display().to_string()));
    // A mount namespace that is there: its root is the bundle's in it.
    let mut third = Bundle::new();
    third.namespace("mount", Some(&other.path("mnt")));
    third.config["linux"]["maskedPaths"] = json!(null);
    third.config["linux"]["readonlyPaths"] = json!(null);
    assert_eq!(
        third.says("head -n 1 /etc/group; readlink /proc/self/ns/mnt"),
        { format!("root:x:0:\n{}", other.link("mnt")) }
    );
    for (path, word) in [
        ("/no/such", "/no/such"),
        ("/etc/passwd", "no namespace"),
        ("/proc/self/ns/uts", "another kind"),
    ] {
        second.namespace("pid", Some(path));
        assert!(second.refused("true").contains(word), "{path}");
    }
}

/// The host's own namespace, by its path: its root, names and settings would be the container's.
#[test]
fn what_is_the_host_s_is_not_changed() {
    if !ready() {
        return;
    }
    let all = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC;
    apart(all, || {
        let mut bundle = Bundle::new();
        bundle.config["hostname"] = json!(null);
        let plain = bundle.config.clone();
        for (kind, file, key, value) in [
            ("mount", "mnt", "/hostname", json!(null)),
            ("uts", "uts", "/hostname", json!("evil")),
            (
                "uts",
                "uts",
                "/linux/sysctl",
                json!({"kernel.domainname": "evil"}),
            ),
            (
                "network",
                "net",
                "/linux/sysctl",
                json!({"net.ipv4.ip_forward": "1"}),
            ),
            (
                "ipc",
                "ipc",
                "/linux/sysctl",
                json!({"kernel.shmmax": "77"}),
            ),
        ] {
            bundle.config = plain.clone();
            bundle.namespace(kind, Some(&format!("/proc/self/ns/{file}")));
            if kind != "mount" {
                assert_eq!(bundle.says("echo joined"), "joined", "{kind}");
            }
            let (parent, name) = key.rsplit_once('/').expect("a path");
            bundle.config.pointer_mut(parent).expect("there")[name] = value;
            let said = bundle.refused("true");
            assert!(said.contains("it is the host's own"), "{kind}: {said}");
            assert!(fs::exists(bundle.path("config.json")).is_ok_and(|there| there));
        }
    });
}

#[test]
fn a_user_namespace_is_joined_with_what_it_owns() {
    if !ready() {
        return;
    }
    let mut first = Bundle::new();
    first.users(360_000);
    first.asleep();
    let pid = first.pid();
    let mut second = Bundle::new();
    second.users(360_000);
    second.config["linux"]["uidMappings"] = json!(null);
    second.config["linux"]["gidMappings"] = json!(null);
    second.namespace("user", Some(&format!("/proc/{pid}/ns/user")));
    second.namespace("network", Some(&format!("/proc/{pid}/ns/net")));
    let said = second.says(
        "id -u; stat -c %u /bin; cat /proc/self/uid_map; readlink /proc/self/ns/user
         ls /sys/class/net",
    );
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(&lines[..2], ["0", "0"], "{said}");
    let map: Vec<_> = lines[2].split_whitespace().collect();
    assert_eq!(map, ["0", "360000", "65536"]);
    let link = fs::read_link(format!("/proc/{pid}/ns/user")).expect("lives");
    assert_eq!(lines[3], link.display().to_string());
    // Nothing of the host's interfaces.
    assert_eq!(&lines[4..], ["lo"]);
}

#[test]
fn clocks_and_settings_and_names_are_its_own() {
    if !ready() {
        return;
    }
    let mut bundle = Bundle::new();
    bundle.namespace("time", None);
    bundle.config["linux"]["timeOffsets"] =
        json!({"monotonic": {"secs": 100_000}, "boottime": {"secs": 900_000, "nanosecs": 5}});
    bundle.config["hostname"] = json!("tester");
    bundle.config["domainname"] = json!("example.org");
    bundle.config["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1",
        "net/ipv4/conf/lo/rp_filter": "2", "kernel.msgmax": "12345", "fs.mqueue.msg_max": "55"});
    let said = bundle.says(
        "cut -d . -f 1 /proc/uptime; cat /proc/self/timens_offsets; hostname
         cat /proc/sys/kernel/domainname /proc/sys/net/ipv4/ip_forward
         cat /proc/sys/net/ipv4/conf/lo/rp_filter /proc/sys/kernel/msgmax /proc/sys/fs/mqueue/msg_max
         cat /sys/class/net/lo/operstate; ip -o link | wc -l",
    );
    let lines: Vec<_> = said.lines().collect();
    assert!(
        lines[0].parse::<u64>().is_ok_and(|up| up > 900_000),
        "{said}"
    );
    let words = |n: usize| lines[n].split_whitespace().collect::<Vec<_>>();
    assert_eq!(words(1), ["monotonic", "100000", "0"], "{said}");
    assert_eq!(words(2), ["boottime", "900000", "5"], "{said}");
    assert_eq!(
        &lines[3..],
        [
            "tester",
            "example.org",
            "1",
            "2",
            "12345",
            "55",
            "unknown",
            "1"
        ],
        "{said}"
    );
    bundle.config["linux"]["sysctl"] = json!({"kernel.core_pattern": "x"});
    assert!(bundle.refused("true").contains("host"));
    // Who enters has the same clock.
    bundle.config["linux"]["sysctl"] = json!(null);
    bundle.asleep();
    let up = bundle.exec(&[], "cut -d . -f 1 /proc/uptime; hostname");
    assert!(
        up.lines().next().is_some_and(|up| up.len() >= 6) && up.ends_with("tester"),
        "{up}"
    );
}

/// A hook that writes a line: its name, what it was told, which namespaces it is in.
fn hook(bundle: &Bundle, name: &str, inside: bool) -> Value {
    let log = bundle.path("log").display().to_string();
    let log = if inside {
        "/shared/log".to_owned()
    } else {
        log
    };
    let script =
        format!("read -r state; echo \"{name} $(readlink /proc/self/ns/mnt) $A $state\" >> {log}");
    json!({"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["A=1", "PATH=/bin:/usr/bin"]})
}

#[test]
fn hooks_run_in_order_and_are_told_the_state() {
    if !ready() {
        return;
    }
    apart(CloneFlags::CLONE_NEWNS, || {
        let mut bundle = Bundle::new();
        // startContainer runs inside and writes where all can read.
        bundle.mount(json!({"destination": "/shared", "type": "bind", "source":
            bundle.path(""), "options": ["bind"]}));
        bundle.config["annotations"] = json!({"org.example.key": "value"});
        let all = json!({
            "prestart": [hook(&bundle, "prestart", false)],
            "createRuntime": [hook(&bundle, "createRuntime", false)],
            "createContainer": [hook(&bundle, "createContainer", false)],
            "startContainer": [hook(&bundle, "startContainer", true)],
            "poststart": [hook(&bundle, "poststart", false)],
            "poststop": [hook(&bundle, "poststop", false), hook(&bundle, "second", false)],
        });
        bundle.config["hooks"] = all;
        let path = bundle.path("log");
        let log = || fs::read_to_string(&path).unwrap_or_default();
        let names = |log: &str| -> Vec<String> {
            let words = log.lines().map(|l| l.split(' ').next().unwrap_or_default());
            words.map(str::to_owned).collect()
        };
        bundle.config["process"]["args"] = json!(["sleep", "1000"]);
        bundle.create(&[]);
        assert_eq!(
            names(&log()),
            ["prestart", "createRuntime", "createContainer"]
        );
        let pid = bundle.pid();
        bundle.ok(&["start", "c"]);
        assert_eq!(
            names(&log())[3..],
            ["startContainer", "poststart"],
            "{}",
            log()
        );
        bundle.ok(&["delete", "--force", "c"]);
        let log = log();
        assert_eq!(names(&log)[5..], ["poststop", "second"], "{log}");
        let ours = own("mnt");
        let expected = [
            ("prestart", "creating", true),
            ("createRuntime", "creating", true),
            ("createContainer", "creating", false),
            ("startContainer", "created", false),
            ("poststart", "running", true),
            ("poststop", "stopped", true),
            ("second", "stopped", true),
        ];
        for (line, (name, status, host)) in log.lines().zip(expected) {
            let mut words = line.splitn(4, ' ');
            let (_, space, mark) = (words.next(), words.next(), words.next());
            assert_eq!(mark, Some("1"), "{line}");
            // The thread's own namespace is the one the runtime is started in.
            let here = fs::read_link("/proc/thread-self/ns/mnt").expect("a procfs");
            assert_ne!(space, Some(ours.as_str()), "{line}");
            assert_eq!(space == here.to_str(), host, "{name}: {line}");
            let state: Value = serde_json::from_str(words.next().unwrap_or_default()).expect(line);
            assert_eq!(state["status"], status, "{name}");
            assert_eq!(state["id"], "c");
            assert_eq!(state["annotations"]["org.example.key"], "value");
            assert!(state["ociVersion"].is_string() && state["bundle"].is_string());
            if !["createContainer", "startContainer", "poststop", "second"].contains(&name) {
                assert_eq!(state["pid"], pid, "{name}");
            }
        }
    });
}

#[test]
fn a_hook_that_fails_or_takes_too_long_ends_the_launch() {
    if !ready() {
        return;
    }
    for kind in [
        "prestart",
        "createRuntime",
        "createContainer",
        "startContainer",
        "poststart",
    ] {
        let mut bundle = Bundle::new();
        bundle.config["hooks"] = json!({kind: [{"path": "/bin/sh",
            "args": ["sh", "-c", "echo why >&2; exit 7"]}]});
        let told = bundle.refused("exit 0");
        assert!(told.contains("/bin/sh"), "{kind}: {told}");
        assert!(told.contains("why"), "{kind}: {told}");
        assert_eq!(bundle.ok(&["list", "-q"]), "", "{kind}");
    }
    let mut bundle = Bundle::new();
    bundle.config["hooks"] =
        json!({"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "50"], "timeout": 1}]});
    let told = bundle.refused("exit 0");
    assert!(told.contains("longer than 1 seconds"), "{told}");
    bundle.config["hooks"] = json!({"prestart": [{"path": "relative"}]});
    assert!(bundle.refused("exit 0").contains("absolute"));
    // After its end it is a warning.
    bundle.config["hooks"] = json!({"poststop": [{"path": "/bin/false"}]});
    bundle.says("exit 0");
    assert_eq!(bundle.ok(&["list", "-q"]), "");
}

#[test]
fn interfaces_of_the_host_move_in_with_their_addresses() {
    if !ready() {
        return;
    }
    apart(CloneFlags::CLONE_NEWNET, || {
        succeed_in_shell(
            "ip link add outer type veth peer name given
             ip link set given mtu 1300 address 02:00:00:00:00:77
             ip addr add 10.9.8.7/24 brd 10.9.8.255 dev given
             ip addr add 10.9.8.9/32 dev given
             ip -6 addr add 2001:db8::5/64 dev given nodad
             ip link set outer up; ip link set given up
             ip link add other type veth peer name tagged",
        );
        let mut bundle = Bundle::new();
        bundle.config["linux"]["netDevices"] =
            json!({"given": {"name": "eth0"}, "tagged": {"name": "eth0.1"}});
        // As kubelet writes the name of an interface that has a dot.
        bundle.config["linux"]["sysctl"] = json!({"net.ipv4.conf.eth0/1.promote_secondaries": "1"});
        bundle.script(
            "ip -o addr show dev eth0; ip link show dev eth0
             echo promotes $(cat /proc/sys/net/ipv4/conf/eth0.1/promote_secondaries)",
        );
        let outcome = bundle.run();
        let said = outcome.stdout.clone();
        assert_eq!(outcome.code, 0, "{}", outcome.report());
        for word in [
            "inet 10.9.8.7/24 brd 10.9.8.255",
            "inet 10.9.8.9/32",
            "inet6 2001:db8::5/64",
            "mtu 1300",
            "02:00:00:00:00:77",
            "UP",
            "promotes 1",
        ] {
            assert!(said.contains(word), "{word}: {said}");
        }
        bundle.config["linux"]["sysctl"] = json!(null);
        // One that is not there; one without a network namespace of its own.
        bundle.config["linux"]["netDevices"] = json!({"nothing": {}});
        assert!(bundle.refused("true").contains("nothing"));
        bundle.without("network");
        assert!(bundle.refused("true").contains("netDevices"));
    });
}

#[test]
fn an_interface_comes_back_when_the_launch_fails() {
    if !ready() {
        return;
    }
    apart(CloneFlags::CLONE_NEWNET, || {
        succeed_in_shell(
            "ip link add outer type veth peer name given; ip addr add 10.9.7.7/24 dev given
             ip link set given up",
        );
        let mut bundle = Bundle::new();
        bundle.config["linux"]["netDevices"] = json!({"given": {"name": "eth0"}});
        bundle.config["hooks"] = json!({"createRuntime": [{"path": "/bin/false"}]});
        bundle.refused("true");
        let said = succeed_in_shell("ip -o addr show dev given");
        assert!(said.contains("10.9.7.7/24"), "{said}");
        // The name is taken in a namespace that is there.
        let other = Other::new(&["-n"]);
        let path = other.path("net");
        succeed_in_shell(&format!(
            "nsenter --net={path} ip link add eth0 type veth peer name more"
        ));
        bundle.config["hooks"] = json!(null);
        bundle.namespace("network", Some(&path));
        assert!(bundle.refused("true").contains("given"));
        assert!(succeed_in_shell("ip -o addr show dev given").contains("10.9.7.7/24"));
        // Moved, and then without one of its addresses.
        let setting = "/proc/sys/net/ipv6/conf/default/disable_ipv6";
        let without = |yes: u8| {
            succeed_in_shell(&format!(
                "nsenter --net={path} sh -c 'echo {yes} > {setting}'"
            ))
        };
        succeed_in_shell("ip -6 addr add 2001:db8::7/64 dev given nodad");
        without(1);
        bundle.config["linux"]["netDevices"] = json!({"given": {"name": "eth7"}});
        bundle.refused("true");
        let said = succeed_in_shell("ip -o addr show dev given");
        assert!(
            said.contains("10.9.7.7/24") && said.contains("2001:db8::7/64"),
            "{said}"
        );
        without(0);
        let said = bundle.says("ip -o addr show dev eth7");
        assert!(said.contains("10.9.7.7/24"), "{said}");
    });
}

#[test]
fn versions_and_odd_keys() {
    if !ready() {
        return;
    }
    let mut bundle = Bundle::new();
    for version in ["1.0.0", "1.0.2-dev", "1.1.0", "1.2.1", "1.3.0"] {
        bundle.config["ociVersion"] = json!(version);
        bundle.says("true");
    }
    bundle.config["ociVersion"] = json!("2.0.0");
    assert!(bundle.refused("true").contains("2.0.0"));
    bundle.config["ociVersion"] = json!("1.2.0");
    bundle.config["unheardOf"] = json!({"a": [1]});
    bundle.config["linux"]["unheardOf"] = json!(5);
    bundle.config["annotations"] = json!({"who.knows": "x"});
    // A capability of tomorrow is passed over.
    let caps = json!(["CAP_KILL", "CAP_OF_TOMORROW"]);
    bundle.config["process"]["capabilities"] = json!({"bounding": caps, "permitted": caps});
    assert!(bundle.says("grep CapBnd /proc/self/status").ends_with("20"));
}
