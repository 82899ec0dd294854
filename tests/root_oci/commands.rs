//! The commands of the OCI runtime, one by one: what they print, take, refuse and leave. What a
//! container is made of is in `root_oci/spec.rs` and its neighbours.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::clients::{capabilities, field, within};
use crate::oci::Bundle;
use crate::support::{Need, eventually, need, run};
use serde_json::{Value, json};

fn ready() -> bool {
    need(Need::Root) && need(Need::OciRuntime)
}

fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

/// The file of that name in the container's group, of either version.
fn knob(bundle: &Bundle, v1: &str, v2: &str) -> String {
    let group = bundle.group();
    let controller = v1.split('.').next().unwrap_or_default();
    let mut path = PathBuf::from(format!("/sys/fs/cgroup/{controller}{group}/{v1}"));
    if !path.exists() {
        path = PathBuf::from(format!("/sys/fs/cgroup{group}/{v2}"));
    }
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.trim().to_owned()
}

#[test]
fn a_container_goes_through_its_states() {
    if !ready() {
        return;
    }
    let mut bundle = Bundle::new();
    bundle.config["annotations"] = json!({"a.key": "b"});
    bundle.script("trap 'exit 3' TERM; sleep 1000 & wait");
    let pid_file = bundle.path("pid").display().to_string();
    bundle.create(&["--pid-file", &pid_file]);
    let state = parse(&bundle.ok(&["state", "c"]));
    assert_eq!(state["status"], "created");
    assert_eq!(state["annotations"], json!({"a.key": "b"}));
    assert_eq!(state["owner"], "root");
    assert_eq!(
        state["pid"].to_string(),
        fs::read_to_string(&pid_file).expect("written")
    );
    assert_eq!(
        state["bundle"],
        json!(bundle.path("").components().collect::<PathBuf>())
    );
    let at = bundle.path("").display().to_string();
    assert!(
        bundle
            .fails(&["create", "--bundle", &at, "c"])
            .contains("container with given ID already exists")
    );
    // One that was never started goes without force, as with runc.
    bundle.ok(&["delete", "c"]);
    bundle.create(&[]);
    bundle.ok(&["start", "c"]);
    assert!(bundle.fails(&["delete", "c"]).contains("not stopped"));
    assert_eq!(bundle.status(), "running");
    let again = bundle.fails(&["start", "c"]);
    assert!(
        again.contains("cannot start an already running container"),
        "{again}"
    );
    bundle.ok(&["pause", "c"]);
    assert_eq!(bundle.status(), "paused");
    let again = bundle.fails(&["pause", "c"]);
    assert!(
        again.contains("container not running: it is paused"),
        "{again}"
    );
    assert!(bundle.fails(&["exec", "c", "true"]).contains("paused"));
    // It waits with the container.
    let mut waiting = bundle.command(&["exec", "--ignore-paused", "c", "touch", "/waited"]);
    let mut waiting = waiting.spawn().expect("a program");
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(waiting.try_wait().expect("a child").is_none());
    assert!(!bundle.inside("waited").exists());
    bundle.ok(&["resume", "c"]);
    assert!(waiting.wait().expect("a child").success());
    assert!(within(5, || bundle.inside("waited").exists()));
    assert!(
        bundle
            .fails(&["resume", "c"])
            .contains("container not paused: it is running")
    );
    // No signal is the usual one.
    bundle.ok(&["kill", "c", ""]);
    eventually("it ends", 5, || bundle.status() == "stopped");
    for (command, words) in [
        (&["kill", "c", "TERM"][..], "container not running"),
        (&["exec", "c", "true"], "cannot exec in a stopped container"),
        (&["start", "c"], "cannot start a container that has stopped"),
        (&["pause", "c"], "container not running"),
        (&["resume", "c"], "container not paused"),
        (&["update", "--memory", "9m", "c"], "container not running"),
        (&["events", "--stats", "c"], "container not running"),
    ] {
        let told = bundle.fails(command);
        assert!(told.contains(words), "{command:?}: {told}");
    }
    assert_eq!(bundle.ok(&["ps", "-f", "json", "c"]), "[]\n");
    bundle.ok(&["kill", "--all", "c", "KILL"]);
    assert_eq!(parse(&bundle.ok(&["state", "c"]))["pid"], 0);
    bundle.ok(&["delete", "c"]);
    for command in [
        "state", "start", "kill", "delete", "pause", "resume", "ps", "events",
    ] {
        let told = bundle.fails(&[command, "c"]);
        assert!(told.contains("does not exist"), "{command}: {told}");
    }
    bundle.ok(&["delete", "--force", "c"]);
    for odd in ["", "a/b", "..", "a b"] {
        let told = bundle.fails(&["create", "--bundle", &at, odd]);
        assert!(told.contains("invalid container id"), "{odd}: {told}");
    }
    let unknown = bundle.fails(&["kill", "c", "SIGNONE"]);
    assert!(unknown.contains("does not exist"), "{unknown}");
    bundle.create(&[]);
    let unknown = bundle.fails(&["kill", "c", "SIGNONE"]);
    assert!(unknown.contains("unknown signal \"SIGNONE\""), "{unknown}");
    bundle.remove();
}

#[test]
fn the_end_of_a_program_is_the_end_of_the_command() {
    if !ready() {
        return;
    }
    let mut bundle = Bundle::new();
    for (line, code) in [
        ("exit 0", 0),
        ("exit 42", 42),
        ("kill -9 $$", 137),
        ("false", 1),
    ] {
        // In a pid namespace of its own nobody can kill the first process from inside.
        let inner = format!("sh -c '{line}'; exit $?");
        assert_eq!(bundle.script(&inner).run().code, code, "{line}");
    }
    bundle.asleep();
    for (line, code) in [
        ("exit 0", 0),
        ("exit 42", 42),
        ("kill -9 $$", 137),
        ("kill -15 $$", 143),
    ] {
        assert_eq!(
            bundle.oci(&["exec", "c", "sh", "-c", line]).code,
            code,
            "{line}"
        );
    }
    let missing = bundle.oci(&["exec", "c", "no-such"]);
    assert_eq!(missing.code, 255);
    assert!(
        missing.stderr.contains("executable file not found"),
        "{}",
        missing.report()
    );
    assert_eq!(bundle.oci(&["exec", "none", "true"]).code, 255);
    assert_eq!(bundle.oci(&["--no-such-flag"]).code, 1);
}

#[test]
fn exec_takes_all_its_flags() {
    if !ready() {
        return;
    }
    let mut bundle = Bundle::new();
    bundle.config["process"]["env"] = json!(["PATH=/bin", "OWN=1"]);
    bundle.config["process"]["noNewPrivileges"] = json!(false);
    bundle.asleep();
    let flags = [
        "--user",
        "33:34",
        "-g",
        "50",
        "-g",
        "51",
        "--cwd",
        "/tmp",
        "--env",
        "A=b",
        "-e",
        "OWN=2",
        "--cap",
        "CAP_SYS_CHROOT",
        "--no-new-privs",
        "--apparmor",
        "unconfined",
    ];
    let said = bundle.exec(
        &flags,
        "id -u; id -g; pwd; echo $A $OWN $HOME; cat /proc/self/status",
    );
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(&lines[..4], ["33", "34", "/tmp", "b 2 /var/www"], "{said}");
    assert_eq!(field(&said, "Groups"), "50 51");
    assert_eq!(field(&said, "NoNewPrivs"), "1");
    assert_eq!(capabilities(&said, "CapBnd"), 0x2000_0420 | 1 << 18);
    let said = bundle.exec(
        &["--cap", "sys_chroot"],
        "grep NoNew /proc/self/status; id -u",
    );
    assert!(said.starts_with("NoNewPrivs:\t0"), "{said}");
    let process = json!({"cwd": "/var", "user": {"uid": 7, "gid": 8, "umask": 0o077},
        "env": ["PATH=/bin", "ONLY=this"], "args": ["sh", "-c", "id -u; pwd; env | sort; umask"],
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 55, "hard": 66}]});
    let file = bundle.path("process.json");
    fs::write(&file, process.to_string()).expect("ours");
    let said = bundle.ok(&["exec", "--process", &file.display().to_string(), "c"]);
    assert!(
        said.starts_with("7\n/var\n") && said.contains("ONLY=this"),
        "{said}"
    );
    assert!(!said.contains("OWN=") && said.ends_with("0077\n"), "{said}");
    let pid_file = bundle.path("pid");
    let path = pid_file.display().to_string();
    let exec = bundle.command(&["exec", "-d", "--pid-file", &path, "c", "sleep", "777"]);
    bundle.no_output(exec);
    let pid = fs::read_to_string(&pid_file).expect("written");
    let words = fs::read_to_string(format!("/proc/{pid}/cmdline")).expect("lives");
    assert_eq!(words.replace('\0', " "), "sleep 777 ");
    let group = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("lives");
    assert!(group.contains(&bundle.group()), "{group}");
    for (wrong, word) in [
        (&["--user", "web"][..], "--user"),
        (&["--cwd", "x"], "absolute"),
        (&["--cgroup", "/none"], "no such group"),
        (&["--cgroup", "../.."], "below"),
    ] {
        let mut args = vec!["exec"];
        args.extend(wrong);
        args.extend(["c", "true"]);
        let told = bundle.fails(&args);
        assert!(told.contains(word), "{wrong:?}: {told}");
    }
    // The specification wants a warning for this.
    let warned = bundle.oci(&["exec", "--cap", "CAP_NONE", "c", "true"]);
    assert!(
        warned.code == 0 && warned.stderr.contains("capabilities: [CAP_NONE]"),
        "{}",
        warned.report()
    );
}

#[test]
fn exec_enters_groups_below() {
    if !ready() {
        return;
    }
    let mut bundle = Bundle::new();
    bundle.asleep();
    let group = bundle.group();
    let v1 = Path::new("/sys/fs/cgroup/pids/tasks").exists();
    let root = if v1 {
        "/sys/fs/cgroup/pids"
    } else {
        "/sys/fs/cgroup"
    };
    let sub = format!("{root}{group}/sub");
    fs::create_dir(&sub).expect("root may");
    let line = "cat /proc/self/cgroup";
    // In the container's cgroup namespace the path begins at its own group.
    assert!(bundle.exec(&["--cgroup", "sub"], line).contains("/sub"));
    if v1 {
        let said = bundle.exec(&["--cgroup", "pids:/sub"], line);
        assert_eq!(said.matches("/sub").count(), 1, "{said}");
        let told = bundle.fails(&["exec", "--cgroup", "cpu:/sub", "c", "true"]);
        assert!(told.contains("no such group"), "{told}");
    }
    fs::remove_dir(&sub).expect("nobody is in it");
}

#[test]
fn limits_are_set_at_create_and_changed_by_update() {
    if !ready() {
        return;
    }
    let mut bundle = Bundle::new();
    bundle.config["linux"]["resources"]["pids"] = json!({"limit": 50});
    bundle.config["linux"]["resources"]["memory"] = json!({"limit": 64 << 20});
    bundle.config["linux"]["resources"]["cpu"] = json!({"quota": 50_000, "period": 100_000});
    bundle.asleep();
    let pids = |b: &Bundle| knob(b, "pids.max", "pids.max");
    let memory = |b: &Bundle| knob(b, "memory.limit_in_bytes", "memory.max");
    assert_eq!(pids(&bundle), "50");
    assert_eq!(memory(&bundle), (64 << 20).to_string());
    bundle.ok(&["update", "--pids-limit", "20", "--memory", "32m", "c"]);
    assert_eq!(
        (pids(&bundle), memory(&bundle)),
        ("20".into(), (32 << 20).to_string())
    );
    bundle.ok(&["update", "c", "--pids-limit", "-1"]);
    assert_eq!(pids(&bundle), "max");
    let file = bundle.path("resources.json");
    fs::write(&file, r#"{"pids": {"limit": 33}}"#).expect("ours");
    bundle.ok(&["update", "--resources", &file.display().to_string(), "c"]);
    assert_eq!(pids(&bundle), "33");
    let mut child = bundle
        .command(&["update", "-r", "-", "c"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("a program");
    let mut input = child.stdin.take().expect("piped");
    input
        .write_all(br#"{"pids": {"limit": 34}, "cpu": {"quota": 25000}}"#)
        .expect("read");
    drop(input);
    assert!(child.wait().expect("a child").success());
    assert_eq!(pids(&bundle), "34");
    let quota = knob(&bundle, "cpu.cfs_quota_us", "cpu.max");
    assert!(quota.starts_with("25000"), "{quota}");
    // All or nothing.
    let told = bundle.fails(&["update", "--pids-limit", "7", "--cpuset-cpus", "4000", "c"]);
    assert!(told.contains("cpuset") || told.contains("4000"), "{told}");
    assert_eq!(pids(&bundle), "34");
    assert!(
        bundle
            .fails(&["update", "--memory", "lots", "c"])
            .contains("--memory")
    );
}

#[test]
fn usage_processes_and_lists_are_printed() {
    if !ready() {
        return;
    }
    let mut bundle = Bundle::new();
    bundle.config["linux"]["resources"]["pids"] = json!({"limit": 50});
    bundle.asleep();
    let stats = parse(&bundle.ok(&["events", "--stats", "c"]));
    assert_eq!(
        (stats["type"].as_str(), stats["id"].as_str()),
        (Some("stats"), Some("c"))
    );
    assert_eq!(stats["data"]["pids"]["limit"], 50);
    let cpu = &stats["data"]["cpu"]["usage"];
    let count = |key: &str| cpu[key].as_array().map_or(0, Vec::len);
    let each = ["percpu", "percpu_kernel", "percpu_user"].map(count);
    assert!(each.iter().all(|count| *count == each[0]), "{cpu}");
    assert!(
        stats["data"]["pids"]["current"]
            .as_u64()
            .is_some_and(|n| n >= 2),
        "{stats}"
    );
    assert!(
        stats["data"]["memory"]["usage"]["usage"]
            .as_u64()
            .is_some_and(|n| n > 0),
        "{stats}"
    );
    let pid = bundle.pid();
    let pids = parse(&bundle.ok(&["ps", "--format", "json", "c"]));
    let pids: Vec<u64> = pids
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(Value::as_u64)
        .collect();
    assert!(
        pids.len() == 2 && pids.contains(&u64::from(pid)),
        "{pids:?}"
    );
    let table = bundle.ok(&["ps", "c"]);
    assert!(
        table.contains("PID") && table.contains("sleep 1000"),
        "{table}"
    );
    assert!(bundle.ok(&["ps", "c", "-o", "pid,comm"]).contains("sleep"));
    // What comes after the name is for ps, whatever it is.
    assert!(bundle.ok(&["ps", "c", "-f"]).starts_with("UID"));
    assert_eq!(bundle.ok(&["list", "-q"]), "c\n");
    let list = parse(&bundle.ok(&["list", "--format", "json"]));
    assert_eq!(
        (list[0]["id"].as_str(), list[0]["pid"].as_u64()),
        (Some("c"), Some(u64::from(pid)))
    );
    let table = bundle.ok(&["list"]);
    let head: Vec<_> = table
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    assert_eq!(head, ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]);
    assert!(table.contains("running"), "{table}");
    // Events until the end.
    let watch = bundle.command(&["events", "--interval", "100ms", "c"]);
    let watching = std::thread::spawn(move || run(watch));
    std::thread::sleep(std::time::Duration::from_millis(450));
    bundle.ok(&["kill", "c", "KILL"]);
    let lines = watching.join().expect("ends").stdout;
    assert!((2..=6).contains(&lines.lines().count()), "{lines}");
}

#[test]
fn all_processes_are_killed_where_that_is_asked_for() {
    if !ready() {
        return;
    }
    let mut bundle = Bundle::new();
    bundle.without("pid");
    bundle.config["process"]["args"] = json!([
        "sh",
        "-c",
        "trap : TERM; sleep 999 & sleep 998 & wait; wait; exec sleep 997"
    ]);
    bundle.create(&[]);
    bundle.ok(&["start", "c"]);
    let count = |b: &Bundle| {
        let list = parse(&b.ok(&["ps", "-f", "json", "c"]));
        list.as_array().map_or(0, Vec::len)
    };
    eventually("all are there", 5, || count(&bundle) == 3);
    bundle.ok(&["kill", "--all", "c", "TERM"]);
    eventually("the others are gone", 5, || count(&bundle) <= 2);
    assert_eq!(bundle.status(), "running");
    // Without a pid namespace KILL means all as well.
    bundle.ok(&["kill", "c", "KILL"]);
    eventually("it has ended", 5, || bundle.status() == "stopped");
    bundle.ok(&["delete", "c"]);
}

/// A descriptor that the client has closed is no place for the next file that is opened.
#[test]
fn closed_descriptors_are_not_taken_for_the_log() {
    if !ready() {
        return;
    }
    let bundle = Bundle::new();
    let log = bundle.path("log.json");
    let path = log.display().to_string();
    let command = bundle.command(&["--log", &path, "--log-format", "json", "state", "nobody"]);
    for closed in ["2>&-", "1>&- 2>&-", "0<&- 1>&- 2>&-"] {
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", &format!("exec \"$@\" {closed}"), "sh"]);
        shell.arg(command.get_program()).args(command.get_args());
        assert_eq!(run(shell).code, 1, "{closed}");
        let text = fs::read_to_string(&log).expect("written");
        for line in text.lines() {
            assert_eq!(parse(line)["level"], "error", "{closed}: {text}");
        }
        fs::remove_file(&log).expect("ours");
    }
}

#[test]
fn errors_are_logged_where_the_client_reads_them() {
    if !ready() {
        return;
    }
    let bundle = Bundle::new();
    let log = bundle.path("log.json");
    let path = log.display().to_string();
    let mut command = bundle.command(&["--log", &path, "--log-format", "json"]);
    command.args(["start", "nothing"]);
    assert_eq!(run(command).code, 1);
    let line = parse(fs::read_to_string(&log).expect("written").trim());
    assert_eq!(line["level"], "error");
    assert!(
        line["msg"]
            .as_str()
            .is_some_and(|m| m.contains("does not exist")),
        "{line}"
    );
    assert!(line["time"].is_string());
    assert!(bundle.ok(&["--version"]).contains("spec: 1."));
    // What a client adds at the end counts, as with runc.
    let twice = [
        "--log-format",
        "text",
        "--log-format",
        "json",
        "list",
        "-f",
        "table",
        "-f",
        "json",
    ];
    // As with runc, a folder that was named must be there.
    assert!(bundle.fails(&twice).contains("no such file or directory"));
    fs::create_dir_all(bundle.path("state")).expect("a folder of ours");
    assert!(bundle.ok(&twice).trim_start().starts_with('['));
    // Clients take the end of its help for a yes or a no (Podman, CRI-O).
    for later in ["checkpoint", "restore"] {
        for word in ["c", "--help"] {
            let told = bundle.fails(&[later, word]);
            assert!(told.contains("not supported yet"), "{told}");
        }
    }
    // Without a log, standard error is what is read.
    let json = ["--log-format", "json"];
    for wrong in [
        &["state", "nothing"][..],
        &["list", "--nosuch"],
        &["frobnicate"],
    ] {
        let outcome = bundle.oci(&[&json[..], wrong].concat());
        let line = parse(outcome.stderr.trim());
        assert!(
            outcome.code > 0 && line["level"] == "error",
            "{}",
            outcome.report()
        );
    }
    for (option, word) in [
        ("--root=/", "--root /"),
        ("--rootless=maybe", "true, false or auto"),
    ] {
        let told = bundle.fails(&[option, "list"]);
        assert!(told.contains(word), "{told}");
    }
}

#[test]
fn features_tells_the_truth() {
    if !ready() {
        return;
    }
    let mut bundle = Bundle::new();
    let features = parse(&bundle.ok(&["features"]));
    let words = |pointer: &str| -> Vec<String> {
        let list = features.pointer(pointer).and_then(Value::as_array);
        let list = list.unwrap_or_else(|| panic!("no {pointer}"));
        list.iter()
            .filter_map(|w| w.as_str().map(str::to_owned))
            .collect()
    };
    // Every option, on a file system and on a tree of the host's.
    for (n, option) in words("/mountOptions").iter().enumerate() {
        let bind = option.contains("bind") && !option.contains("unbindable");
        // Tried with a user namespace in root_oci/mounts.rs, and with what is there in
        // root_oci/asked_for.rs.
        if matches!(option.as_str(), "idmap" | "ridmap" | "remount") {
            continue;
        }
        let entry = match bind {
            true => json!({"destination": format!("/o{n}"), "type": "bind", "source": "rootfs/etc",
                "options": [option]}),
            false => json!({"destination": format!("/o{n}"), "type": "tmpfs", "source": "t",
                "options": [option]}),
        };
        let mut one = Bundle::new();
        one.mount(entry);
        let outcome = one.script("true").run();
        // Options of a file system that memory file systems do not have.
        let foreign = ["mand", "iversion"].contains(&option.as_str());
        assert!(
            outcome.code == 0 || foreign,
            "{option}: {}",
            outcome.report()
        );
    }
    let all = words("/linux/capabilities");
    bundle.config["process"]["capabilities"] = json!({"bounding": all, "permitted": all});
    bundle.says("true");
    for kind in words("/linux/namespaces") {
        let mut one = Bundle::new();
        if kind == "user" {
            one.users(370_000);
        } else {
            one.namespace(&kind, None);
        }
        one.says("true");
    }
    // What each does is tried in root_oci/seccomp.rs.
    assert_eq!(words("/linux/seccomp/actions").len(), 9, "{features}");
    for arch in words("/linux/seccomp/archs") {
        bundle.config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW",
            "architectures": ["SCMP_ARCH_X86_64", arch],
            "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}]});
        bundle.says("true");
    }
    for flag in words("/linux/seccomp/supportedFlags") {
        bundle.config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW",
            "flags": [flag], "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}]});
        let outcome = bundle.script("true").run();
        // This one needs a listener, see seccomp(2).
        let listener = flag.contains("WAIT_KILLABLE");
        assert!(
            outcome.code == 0 || listener,
            "{flag}: {}",
            outcome.report()
        );
    }
    assert_eq!(words("/hooks").len(), 6);
    assert_eq!(features["linux"]["netDevices"]["enabled"], true);
    let modes = words("/linux/memoryPolicy/modes");
    bundle.config["linux"]["seccomp"] = json!(null);
    for mode in modes {
        let nodes = if ["MPOL_DEFAULT", "MPOL_LOCAL"].contains(&mode.as_str()) {
            ""
        } else {
            "0"
        };
        bundle.config["linux"]["memoryPolicy"] = json!({"mode": mode, "nodes": nodes});
        bundle.says("true");
    }
}

#[test]
fn crun_s_words_are_understood() {
    if !ready() {
        return;
    }
    let mut bundle = Bundle::new();
    bundle.script("echo fine").write();
    let (usual, other) = (bundle.path("config.json"), bundle.path("other.json"));
    fs::rename(usual, other).expect("just written");
    let folder = bundle.path("").display().to_string();
    let words = [
        "--cgroup-manager",
        "cgroupfs",
        "run",
        "--config",
        "other.json",
    ];
    let told = bundle.ok(&[&words[..], &["--bundle", &folder, "c"]].concat());
    assert_eq!(told, "fine\n");
}

/// On version 1 what is frozen cannot die, wherever it was frozen.
#[test]
fn what_sleeps_in_another_freezer_is_deleted() {
    let top = Path::new("/sys/fs/cgroup/freezer");
    if !ready() || !top.join("cgroup.procs").exists() {
        return;
    }
    let mut bundle = Bundle::new();
    bundle.asleep();
    let pid = bundle.pid().to_string();
    let other = top.join(format!("bhtest-other-{}", std::process::id()));
    fs::create_dir(&other).expect("a hierarchy");
    fs::write(other.join("cgroup.procs"), &pid).expect("a process");
    fs::write(other.join("freezer.state"), "FROZEN").expect("a freezer");
    let done = bundle.oci(&["delete", "--force", "c"]);
    let held = fs::read_to_string(other.join("cgroup.procs")).expect("a hierarchy");
    fs::write(other.join("freezer.state"), "THAWED").expect("a freezer");
    bundle.remove();
    // Before anything is judged: it is nobody's but ours.
    let removed = fs::remove_dir(&other);
    assert_eq!(done.code, 0, "{}", done.report());
    assert_eq!(held, "");
    removed.expect("nobody is in it");
}

/// `run` stays until the end, and keeps nobody from changing or ending what it runs.
#[test]
fn what_run_waits_for_can_be_deleted() {
    if !ready() {
        return;
    }
    let mut bundle = Bundle::new();
    bundle.script("sleep 1000").write();
    let folder = bundle.path("").display().to_string();
    let command = bundle.command(&["run", "--bundle", &folder, "c"]);
    let running = std::thread::spawn(move || run(command));
    eventually("it runs", 10, || {
        bundle.oci(&["state", "c"]).stdout.contains("running")
    });
    bundle.ok(&["update", "--pids-limit", "50", "c"]);
    bundle.ok(&["delete", "--force", "c"]);
    let ended = running.join().unwrap();
    assert_eq!(ended.code, 137, "{}", ended.report());
    assert_ne!(bundle.oci(&["state", "c"]).code, 0);
}
