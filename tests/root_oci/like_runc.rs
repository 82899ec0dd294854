//! What conformance suites and clients of runc found that the specification leaves open or that is
//! easily overlooked: who inherits what of the caller, options that go together, words they look for.

use std::fs;
use std::io::{IoSliceMut, Read as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::net::UnixListener;

use crate::oci::Bundle;
use crate::support::{Need, eventually, need};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::unistd::Pid;
use serde_json::json;

fn ready() -> bool {
    need(Need::Root) && need(Need::OciRuntime)
}

const CPUS: &str = "grep Cpus_allowed_list /proc/self/status";

#[test]
fn where_the_caller_may_run_is_not_where_the_container_may() {
    if !ready() || !need(Need::TwoCpus) {
        return;
    }
    let me = Pid::from_raw(0);
    let all = sched_getaffinity(me).expect("a mask");
    let mut bundle = Bundle::new();
    let free = bundle.says(CPUS);
    let mut first = CpuSet::new();
    first.set(0).expect("CPU 0");
    sched_setaffinity(me, &first).expect("CPU 0");
    assert_eq!(bundle.says(CPUS), free);
    bundle.config["linux"]["resources"]["cpu"] = json!({"cpus": "1", "mems": "0"});
    assert!(bundle.says(CPUS).ends_with("\t1"));
    bundle.config["linux"]["resources"]["cpu"] = json!(null);
    bundle.asleep();
    assert_eq!(bundle.exec(&[], CPUS), free);
    sched_setaffinity(me, &all).expect("as before");
}

#[test]
fn few_open_files_do_not_hinder_the_launch() {
    if !ready() {
        return;
    }
    let mut bundle = Bundle::new();
    bundle.users(370_000);
    for number in 0..30 {
        let place = json!({"destination": format!("/m{number}"), "type": "bind",
            "source": bundle.path("rootfs"), "options": ["bind", "ro"]});
        bundle.mount(place);
    }
    let few = json!([{"type": "RLIMIT_NOFILE", "soft": 20, "hard": 20}]);
    bundle.config["process"]["rlimits"] = few;
    assert_eq!(bundle.says("ulimit -n; ulimit -Hn"), "20\n20");
}

#[test]
fn ids_are_shifted_as_in_a_user_namespace_that_is_joined() {
    if !ready() {
        return;
    }
    let mut first = Bundle::new();
    first.users(380_000);
    first.asleep();
    let mut second = Bundle::new();
    second.users(380_000);
    second.config["linux"]["uidMappings"] = json!(null);
    second.config["linux"]["gidMappings"] = json!(null);
    second.namespace("user", Some(&format!("/proc/{}/ns/user", first.pid())));
    let source = second.path("source");
    fs::create_dir(&source).expect("a folder of ours");
    second.mount(
        json!({"destination": "/shifted", "type": "bind", "source": source,
        "options": ["bind", "idmap"]}),
    );
    assert_eq!(second.says("stat -c %u /shifted"), "0");
}

#[test]
fn a_process_is_handed_over_as_a_descriptor() {
    if !ready() {
        return;
    }
    let mut bundle = Bundle::new();
    let path = bundle.path("handed");
    let socket = UnixListener::bind(&path).expect("ours");
    let path = path.display().to_string();
    let told = std::thread::spawn(move || [pid_of(&socket), pid_of(&socket)]);
    bundle.script("trap 'exit 0' TERM; sleep 1000 & wait");
    bundle.create(&["--pidfd-socket", &path]);
    bundle.ok(&["start", "c"]);
    let pid_file = bundle.path("pid").display().to_string();
    bundle.exec(
        &["--pidfd-socket", &path, "--pid-file", &pid_file],
        "sleep 0.1",
    );
    let second = fs::read_to_string(&pid_file).expect("written");
    let expected = [bundle.pid().to_string(), second];
    assert_eq!(told.join().expect("two pidfds"), expected);
}

/// The process of the pidfd that is sent to the socket.
fn pid_of(socket: &UnixListener) -> String {
    let (stream, _) = socket.accept().expect("a caller");
    let mut data = [0_u8; 64];
    let mut part = [IoSliceMut::new(&mut data)];
    let mut space = nix::cmsg_space!([i32; 1]);
    let fd = stream.as_raw_fd();
    let message = recvmsg::<()>(fd, &mut part, Some(&mut space), MsgFlags::empty());
    let message = message.expect("a message");
    let mut controls = message.cmsgs().expect("whole");
    let Some(ControlMessageOwned::ScmRights(fds)) = controls.next() else {
        panic!("no descriptor");
    };
    // SAFETY: the kernel has just made this descriptor for us.
    let pidfd = unsafe { OwnedFd::from_raw_fd(fds[0]) };
    let about = format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd());
    let about = fs::read_to_string(about).expect("an open descriptor");
    let line = about.lines().find_map(|line| line.strip_prefix("Pid:"));
    line.expect("a pidfd").trim().to_owned()
}

#[test]
fn a_terminal_and_a_listener_go_together() {
    if !ready() {
        return;
    }
    let mut bundle = Bundle::new();
    let (console, listener) = (bundle.path("console"), bundle.path("listener"));
    let sockets = [&console, &listener].map(|path| UnixListener::bind(path).expect("ours"));
    bundle.config["process"]["terminal"] = json!(true);
    bundle.config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64"], "listenerPath": listener,
        "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]});
    let asked = std::thread::spawn(move || {
        sockets.map(|socket| {
            let (mut stream, _) = socket.accept().expect("a caller");
            let mut first = [0_u8; 1];
            stream.read_exact(&mut first).expect("a message");
            first[0]
        })
    });
    bundle.script("exit 0");
    bundle.create(&["--console-socket", &console.display().to_string()]);
    bundle.ok(&["start", "c"]);
    assert_eq!(asked.join().expect("both"), [b'/', b'{']);
}

#[test]
fn without_pivoting_no_second_proc_can_be_mounted() {
    if !ready() {
        return;
    }
    let mut bundle = Bundle::new();
    for set in ["bounding", "effective", "permitted"] {
        let set = bundle.config["process"]["capabilities"][set].as_array_mut();
        set.expect("names").push(json!("CAP_SETFCAP"));
    }
    let nested = "busybox unshare -mrpf mount -t proc none /proc; echo $?";
    bundle.asleep();
    let without = bundle.exec(&[], nested);
    bundle.remove();
    bundle.create(&["--no-pivot"]);
    bundle.ok(&["start", "c"]);
    assert_eq!(bundle.exec(&[], nested), without);
    assert_eq!(without, "1", "it could cover the masks");
}

#[test]
fn a_container_that_waits_can_be_told_to_end() {
    if !ready() {
        return;
    }
    let mut bundle = Bundle::new();
    bundle.script("exit 0");
    // As soon as `create` is over.
    for _ in 0..10 {
        bundle.create(&[]);
        bundle.ok(&["kill", "c", "TERM"]);
        eventually("it has ended", 5, || bundle.status() == "stopped");
        bundle.ok(&["delete", "c"]);
    }
}

#[test]
fn what_is_masked_twice_is_covered_once() {
    if !ready() {
        return;
    }
    let mut bundle = Bundle::new();
    bundle.config["linux"]["maskedPaths"] = json!(["/home", "/home", "/proc/kcore"]);
    assert_eq!(bundle.says("grep -c ' /home ' /proc/self/mountinfo"), "1");
}

#[test]
fn who_enters_takes_memory_from_where_the_container_does() {
    if !ready() {
        return;
    }
    let mut bundle = Bundle::new();
    let policy = json!({"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]});
    bundle.config["linux"]["memoryPolicy"] = policy;
    bundle.asleep();
    let said = bundle.exec(&[], "cat /proc/self/numa_maps");
    assert!(said.contains("bind=static:0"), "{said}");
    bundle.remove();
    bundle.config["linux"]["memoryPolicy"] = json!({"mode": "MPOL_DEFAULT", "nodes": "0-7"});
    let told = bundle.refused("true");
    assert!(told.contains("requires 0 nodes but got 8"), "{told}");
}

#[test]
fn what_is_not_there_is_said_so() {
    if !ready() {
        return;
    }
    let bundle = Bundle::new();
    let state = bundle.path("state").display().to_string();
    let said = bundle.fails(&["list"]);
    assert!(
        said.contains(&format!("--root {state}: no such file")),
        "{said}"
    );
    let unknown = bundle.oci(&["frobnicate", "-h"]);
    assert_eq!(unknown.code, 3, "{}", unknown.report());
    let words = "No help topic for 'frobnicate'";
    assert!(unknown.stderr.contains(words), "{}", unknown.report());
}

#[test]
fn one_dash_is_as_good_as_two_and_a_switch_may_be_told() {
    if !ready() {
        return;
    }
    let mut bundle = Bundle::new();
    bundle
        .script("trap 'exit 0' TERM; sleep 1000 & wait")
        .write();
    let at = bundle.path("").display().to_string();
    let pid = bundle.path("pid").display().to_string();
    let words = [
        "-debug=false",
        "create",
        "c",
        "-bundle",
        &at,
        "-pid-file=",
        "-no-pivot=0",
    ];
    bundle.no_output(bundle.command(&words));
    bundle.ok(&["start", "c"]);
    let line = "echo $A; grep NoNew /proc/self/status; tty || true";
    let asked = [
        "exec",
        "-env",
        "A=-b",
        "-tty=f",
        "-no-new-privs=false",
        "-pid-file",
        &pid,
    ];
    let told = bundle.ok(&[&asked[..], &["c", "sh", "-c", line]].concat());
    assert!(told.starts_with("-b\nNoNewPrivs:\t0\n"), "{told}");
    assert!(fs::read_to_string(&pid).is_ok_and(|pid| pid.parse::<u32>().is_ok()));
    assert!(bundle.exec(&[], line).contains("NoNewPrivs:\t1"));
    // The program's, whatever it looks like.
    assert_eq!(
        bundle.ok(&["exec", "c", "echo", "-tty", "--", "-d"]),
        "-tty -- -d\n"
    );
    for first in ["-t", "--"] {
        let told = bundle.fails(&["exec", "c", first, "true"]);
        let words = format!("exec: \"{first}\": executable file not found");
        assert!(told.contains(&words), "{told}");
    }
    bundle.ok(&["update", "c", "-pids-limit", "-1", "-memory", ""]);
    let ignored = bundle.oci(&["update", "--kernel-memory", "9m", "c"]);
    let warned = ignored.stderr.contains("level=warning");
    assert!(ignored.code == 0 && warned, "{}", ignored.report());
    assert!(
        bundle
            .ok(&["events", "-stats=true", "c"])
            .contains("\"pids\"")
    );
    assert!(bundle.ok(&["ps", "-format", "json", "c"]).starts_with('['));
    assert!(
        bundle
            .fails(&["events", "--stats", "--interval", "0s", "c"])
            .contains("more than 0")
    );
    let of_shims = bundle.ok(&["--criu", "/usr/sbin/criu", "list", "-q"]);
    assert_eq!(of_shims, "c\n");
    let wrong = bundle.oci(&["delete", "-force=yes", "c"]);
    assert!(
        wrong.code == 1 && wrong.stderr.contains("'yes' for '--force'"),
        "{}",
        wrong.report()
    );
    assert!(
        bundle
            .fails(&["delete", "c", "-force=f"])
            .contains("not stopped")
    );
    bundle.ok(&["delete", "c", "-force"]);
}
