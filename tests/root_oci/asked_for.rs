//! What a configuration asks for is in force, or the container is not made: nothing is passed over in
//! silence, and nothing else is shown in its place.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::clients;
use crate::oci::Bundle;
use crate::support::{Need, eventually, need, run};
use rustix::fs::{FlockOperation, flock};
use serde_json::{Value, json};

fn ready() -> bool {
    need(Need::Root) && need(Need::OciRuntime)
}

/// A change of the usual configuration, and what is said about it.
type Wrong = (&'static str, fn(&mut Value), &'static str);

fn mount(config: &mut Value, entry: Value) {
    config["mounts"].as_array_mut().expect("mounts").push(entry);
}

const WRONG: [Wrong; 17] = [
    (
        "nobody would be root",
        |c| c["process"]["user"] = json!({"uid": u32::MAX, "gid": 0}),
        "process.user.uid 4294967295",
    ),
    (
        "a group of no number",
        |c| c["process"]["user"] = json!({"uid": 0, "gid": u32::MAX}),
        "process.user.gid 4294967295",
    ),
    (
        "niceness",
        |c| c["process"]["scheduler"] = json!({"policy": "SCHED_OTHER", "nice": 50}),
        "-20 to 19",
    ),
    (
        "a device number cut short",
        |c| {
            c["linux"]["devices"] =
                json!([{"path": "/dev/x", "type": "c", "major": 5000, "minor": 1}]);
        },
        "5000 is no device number",
    ),
    (
        "a device of nobody's",
        |c| {
            c["linux"]["devices"] = json!([{"path": "/dev/x", "type": "c", "major": 1, "minor": 3,
                "uid": 0, "gid": u32::MAX}]);
        },
        "4294967295 is no id",
    ),
    (
        "options nobody heeds",
        |c| {
            mount(
                c,
                json!({"destination": "/data", "source": "/usr", "options": ["bind", "mode=700"]}),
            );
        },
        "filesystem-specific",
    ),
    (
        "shifted ids of a memory file system",
        |c| {
            let map = json!([{"containerID": 0, "hostID": 5, "size": 1}]);
            mount(
                c,
                json!({"destination": "/data", "type": "tmpfs", "source": "tmpfs",
                    "uidMappings": map, "gidMappings": map}),
            );
        },
        "bind mounts only",
    ),
    (
        "a mount nobody sees",
        |c| mount(c, json!({"destination": "/x/..", "type": "tmpfs"})),
        "the mount on /",
    ),
    (
        "a mount that is not there",
        |c| {
            mount(
                c,
                json!({"destination": "/data", "options": ["remount", "ro"]}),
            )
        },
        "none is",
    ),
    (
        "ids shifted afterwards",
        |c| {
            mount(c, json!({"destination": "/data", "source": "/usr"}));
            mount(
                c,
                json!({"destination": "/data", "options": ["bind", "remount", "idmap"]}),
            );
        },
        "bind mounts only",
    ),
    (
        "a copy into what is there",
        |c| {
            mount(c, json!({"destination": "/data", "type": "tmpfs"}));
            mount(
                c,
                json!({"destination": "/data", "options": ["remount", "tmpcopyup"]}),
            );
        },
        "tmpcopyup",
    ),
    (
        "a file system of the host's, changed",
        |c| {
            mount(c, json!({"destination": "/data", "source": "/usr"}));
            mount(
                c,
                json!({"destination": "/data", "options": ["remount", "ro"]}),
            );
            mount(
                c,
                json!({"destination": "/data", "options": ["remount", "sync"]}),
            );
        },
        "options of a file system",
    ),
    (
        "a root nobody sees",
        |c| c["linux"]["maskedPaths"] = json!(["//"]),
        "cannot be hidden",
    ),
    (
        "a clock of the host's",
        |c| {
            let kinds = c["linux"]["namespaces"].as_array_mut().expect("kinds");
            kinds.push(json!({"type": "time"}));
            c["linux"]["timeOffsets"] = json!({"realtime": {"secs": 1}});
        },
        "monotonic and boottime",
    ),
    (
        "AppArmor",
        |c| c["process"]["apparmorProfile"] = json!("bhtest-none"),
        "pparmor",
    ),
    (
        "SELinux",
        |c| c["process"]["selinuxLabel"] = json!("bhtest-none"),
        "process.selinuxLabel",
    ),
    (
        "a label of mounts",
        |c| c["linux"]["mountLabel"] = json!("bhtest-none"),
        "linux.mountLabel",
    ),
];

#[test]
fn nothing_is_passed_over() {
    if !ready() {
        return;
    }
    let mut bundle = Bundle::new();
    assert_eq!(bundle.says("echo ran"), "ran");
    let plain = bundle.config.clone();
    // There the kernel judges a label, in words of its own.
    let labels = Path::new("/sys/fs/selinux/enforce").exists();
    for (what, change, said) in WRONG {
        change(&mut bundle.config);
        let told = bundle.refused("echo ran");
        let heard = told.contains(said) || (labels && said.ends_with("Label"));
        assert!(heard && !told.contains("ran"), "{what}: {told}");
        bundle.config = plain.clone();
    }
    bundle.config["process"]["apparmorProfile"] = json!("unconfined");
    bundle.config["linux"]["resources"]["memory"] = json!({"limit": 4096});
    let told = bundle.refused("true");
    assert!(told.contains("memory"), "{told}");
}

/// In a user namespace no node can be made: the host's is shown, wherever it is there, and nothing else
/// of the host's that lies at the same path.
#[test]
fn a_node_is_the_device_that_was_asked_for() {
    if !ready() {
        return;
    }
    let mut bundle = Bundle::new();
    bundle.users(360_000);
    fs::write(bundle.inside("etc/passwd"), "mine\n").expect("a root of ours");
    let node =
        |path: &str, minor: u32| json!([{"path": path, "type": "c", "major": 1, "minor": minor}]);
    // At the same path the host has a link to itself.
    symlink("self", bundle.path("self")).expect("a folder of ours");
    let circle = bundle.path("self").display().to_string();
    for path in ["/etc/passwd", "/dev/other", "/dev/stdin", &circle] {
        bundle.config["linux"]["devices"] = node(path, 5);
        let said = bundle.says(&format!("stat -c '%F %t:%T' {path}"));
        assert_eq!(said, "character special file 1:5", "{path}");
    }
    for path in ["/etc/passwd", "/dev/full", "/etc"] {
        bundle.config["linux"]["devices"] = node(path, 250);
        let told = bundle.refused("true");
        assert!(told.contains("no character device 1:250"), "{path}: {told}");
    }
    bundle.config["linux"]["devices"] =
        json!([{"path": "/dev/full", "type": "b", "major": 1, "minor": 7}]);
    assert!(bundle.refused("true").contains("no block device 1:7"));
}

#[test]
fn what_is_held_before_its_start_goes_on_afterwards() {
    if !ready() {
        return;
    }
    let mut bundle = Bundle::new();
    bundle.script("sleep 1000").create(&[]);
    bundle.ok(&["pause", "c"]);
    assert_eq!(bundle.status(), "paused");
    assert!(bundle.fails(&["start", "c"]).contains("paused"));
    assert!(bundle.fails(&["exec", "c", "true"]).contains("paused"));
    bundle.ok(&["resume", "c"]);
    assert_eq!(bundle.status(), "created");
    bundle.ok(&["start", "c"]);
    assert_eq!(bundle.status(), "running");
    bundle.ok(&["kill", "c", "KILL"]);
    assert!(clients::within(5, || bundle.status() == "stopped"));
    assert!(
        bundle
            .fails(&["update", "--pids-limit", "9", "c"])
            .contains("not running")
    );
}

/// A `start` whose container is paused before its program is executed waits for it, and others for the
/// `start`.
#[test]
fn what_is_held_is_deleted_whoever_waits_for_it() {
    if !ready() {
        return;
    }
    let mut bundle = Bundle::new();
    bundle.script("sleep 1000").create(&[]);
    bundle.ok(&["pause", "c"]);
    let folder = fs::File::open(bundle.path("state/c")).expect("a container");
    flock(&folder, FlockOperation::LockExclusive).expect("nobody has it");
    let command = bundle.command(&["delete", "--force", "c"]);
    let deleting = std::thread::spawn(move || run(command));
    eventually("it ends", 10, || bundle.status() == "stopped");
    drop(folder);
    let done = deleting.join().expect("a command");
    assert_eq!(done.code, 0, "{}", done.report());
    assert_ne!(bundle.oci(&["state", "c"]).code, 0);
}

#[test]
fn who_may_write_is_what_was_said_last() {
    if !ready() {
        return;
    }
    let mut bundle = Bundle::new();
    fs::create_dir_all(bundle.path("volume")).expect("a folder of ours");
    let made = |target: &str, kind: &str| json!({"destination": target, "type": kind, "source": kind, "options": ["ro"]});
    let again =
        |target: &str, word: &str| json!({"destination": target, "options": ["remount", word]});
    for entry in [
        made("/open", "tmpfs"),
        again("/open", "rw"),
        made("/old", "ramfs"),
        again("/old", "rw"),
        made("/shut", "tmpfs"),
        again("/shut", "rw"),
        again("/shut", "ro"),
        made("/both/in", "tmpfs"),
        made("/both", "tmpfs"),
        json!({"destination": "/both", "source": "volume", "options": ["bind"]}),
    ] {
        bundle.mount(entry);
    }
    let said =
        bundle.says("for f in open old shut both; do touch /$f/x 2>/dev/null && echo $f; done; :");
    assert_eq!(said, "open\nold\nboth");
}

#[test]
fn mounts_below_what_is_sealed_stay_and_some_are_changed() {
    if !ready() {
        return;
    }
    let mut bundle = Bundle::new();
    fs::create_dir_all(bundle.inside("firm/in")).expect("a root of ours");
    fs::create_dir_all(bundle.path("volume")).expect("a folder of ours");
    fs::write(bundle.path("volume/file"), "here\n").expect("a folder of ours");
    bundle.mount(json!({"destination": "/firm/in", "source": "volume", "options": ["bind"]}));
    bundle.mount(json!({"destination": "/room", "type": "tmpfs", "options": ["size=4m"]}));
    bundle.mount(json!({"destination": "/room/in", "source": "volume", "options": ["bind"]}));
    bundle.mount(json!({"destination": "/room", "options": ["remount", "ro", "size=64k"]}));
    bundle.config["linux"]["readonlyPaths"] = json!(["/firm"]);
    let said = bundle.says(
        "cat /firm/in/file /room/in/file; echo x > /firm/in/new && echo written
         touch /firm/x 2>/dev/null || echo firm; touch /room/x 2>/dev/null || echo room
         df -k /room | awk 'NR == 2 { print $2 }'; grep -c ' /room ' /proc/mounts",
    );
    assert_eq!(said, "here\nhere\nwritten\nfirm\nroom\n64\n1");
    bundle.config["linux"]["readonlyPaths"] = json!(["/"]);
    let said = bundle.says("touch /x 2>/dev/null || echo sealed; touch /room/in/y && echo open");
    assert_eq!(said, "sealed\nopen");

    // Of a host with both versions of control groups that of version 2 alone.
    if Path::new("/sys/fs/cgroup/unified/cgroup.procs").exists() {
        let mounts = bundle.config["mounts"].as_array_mut().expect("mounts");
        mounts.retain(|mount| mount["type"] != "cgroup");
        bundle.mount(json!({"destination": "/groups", "type": "cgroup2", "source": "cgroup2"}));
        let said = bundle
            .says("cat /groups/cgroup.procs | wc -l; grep -c 'cgroup2 /groups ' /proc/mounts");
        assert!(said.ends_with("\n1") && !said.starts_with('0'), "{said}");
        bundle.mount(json!({"destination": "/more", "type": "cgroup", "source": "cgroup"}));
        let said = bundle.says("ls /groups /more | grep -c cgroup.procs; ls -d /more/unified");
        assert_eq!(said, "1\n/more/unified");
    }
}

/// What a client leaves out of the process that enters is as with the container's own.
#[test]
fn who_enters_is_no_less_confined() {
    if !ready() {
        return;
    }
    let mut bundle = Bundle::new();
    bundle.config["process"]["oomScoreAdj"] = json!(321);
    bundle.config["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_IDLE", "priority": 0});
    bundle.config["process"]["scheduler"] = json!({"policy": "SCHED_BATCH"});
    bundle.config["process"]["noNewPrivileges"] = json!(true);
    bundle.config["process"]["rlimits"] =
        json!([{"type": "RLIMIT_NOFILE", "soft": 55, "hard": 66}]);
    bundle.asleep();
    let own = bundle.exec(&[], "grep CapEff /proc/self/status");
    let line = "cat /proc/self/oom_score_adj; ionice; cut -d' ' -f41 /proc/self/stat
        grep CapEff /proc/self/status; grep NoNewPrivs /proc/self/status; ulimit -n; ulimit -Hn";
    let process = json!({"cwd": "/", "env": ["PATH=/bin"], "args": ["sh", "-c", line]});
    let file = bundle.path("process.json");
    let enter = |process: &Value| {
        fs::write(&file, process.to_string()).expect("a folder of ours");
        bundle.oci(&["exec", "--process", &file.display().to_string(), "c"])
    };
    let said = enter(&process);
    // 3 is SCHED_BATCH.
    let expected = format!("321\nidle\n3\n{own}\nNoNewPrivs:\t1\n55\n66\n");
    assert_eq!(said.stdout, expected, "{}", said.report());
    let mut nobody = process.clone();
    nobody["user"] = json!({"uid": u32::MAX, "gid": 0});
    assert_eq!(enter(&nobody).code, 255);
    assert!(
        bundle
            .fails(&["exec", "-u", "4294967295", "c", "id"])
            .contains("no id")
    );
    let mut labelled = process;
    labelled["apparmorProfile"] = json!("bhtest-none");
    assert_eq!(enter(&labelled).code, 255);
}

#[test]
fn a_wrong_line_is_in_the_log() {
    if !ready() {
        return;
    }
    let bundle = Bundle::new();
    let log = bundle.path("log.json");
    let path = log.display().to_string();
    for (words, said) in [
        (&["state", "--no-such", "c"][..], "--no-such"),
        (&["nonsense"], "nonsense"),
    ] {
        let mut command = bundle.command(&["--log", &path, "--log-format", "json"]);
        command.args(words);
        assert_ne!(run(command).code, 0);
        let text = fs::read_to_string(&log).expect("written");
        let line: Value =
            serde_json::from_str(text.lines().last().unwrap_or_default()).expect("JSON");
        assert_eq!(line["level"], "error");
        let told = line["msg"].as_str().unwrap_or_default();
        assert!(told.contains(said) && !told.starts_with("error"), "{line}");
    }
    assert!(bundle.ok(&[]).contains("Usage"));
}
