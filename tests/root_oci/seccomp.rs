//! `linux.seccomp` of a configuration, seen from inside: every action, comparison and flag, other
//! architectures, and a listener that is asked and answers. How programs are compiled is tested in
//! `plain_seccomp.rs`.

use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::net::UnixListener;

use crate::clients::field;
use crate::oci::Bundle;
use crate::support::{Need, need};
use serde_json::{Value, json};

fn ready() -> bool {
    need(Need::Root) && need(Need::OciRuntime)
}

fn with_rule(rule: Value) -> Bundle {
    let mut bundle = Bundle::new();
    bundle.config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [rule]});
    bundle
}

const MAKE: &str = "mkdir /tmp/made; echo ended $?; test -e /tmp/made && echo there";

#[test]
fn every_action_does_what_it_says() {
    if !ready() {
        return;
    }
    let names = json!(["mkdir", "mkdirat"]);
    for (action, number, expected) in [
        ("SCMP_ACT_ALLOW", None, "ended 0\nthere"),
        ("SCMP_ACT_LOG", None, "ended 0\nthere"),
        ("SCMP_ACT_ERRNO", None, "ended 1"),
        ("SCMP_ACT_ERRNO", Some(28), "ended 1"),
        ("SCMP_ACT_KILL", None, "ended 159"),
        ("SCMP_ACT_KILL_THREAD", None, "ended 159"),
        ("SCMP_ACT_KILL_PROCESS", None, "ended 159"),
        ("SCMP_ACT_TRAP", None, "ended 159"),
        // Without a tracer the call is one that there is not.
        ("SCMP_ACT_TRACE", None, "ended 1"),
    ] {
        let mut rule = json!({"names": names, "action": action});
        if let Some(number) = number {
            rule["errnoRet"] = json!(number);
        }
        let mut bundle = with_rule(rule);
        let outcome = bundle.script(MAKE).run();
        let told = outcome.report();
        assert_eq!(outcome.stdout.trim_end(), expected, "{action}: {told}");
        let word = match (action, number) {
            ("SCMP_ACT_ERRNO", None) => "Operation not permitted",
            ("SCMP_ACT_ERRNO", Some(_)) => "No space left",
            ("SCMP_ACT_TRACE", _) => "not implemented",
            _ => "",
        };
        assert!(told.contains(word), "{action}: {told}");
    }
}

#[test]
fn the_default_and_its_number_count_for_what_no_rule_names() {
    if !ready() {
        return;
    }
    let mut bundle = Bundle::new();
    let calls = [
        "access",
        "arch_prctl",
        "brk",
        "clone",
        "close",
        "dup2",
        "execve",
        "exit",
        "exit_group",
        "fcntl",
        "fstat",
        "futex",
        "getcwd",
        "getdents64",
        "getegid",
        "geteuid",
        "getgid",
        "getpid",
        "getppid",
        "getrandom",
        "getuid",
        "ioctl",
        "lseek",
        "mmap",
        "mprotect",
        "munmap",
        "newfstatat",
        "open",
        "openat",
        "pipe",
        "poll",
        "prctl",
        "prlimit64",
        "read",
        "readlink",
        "readlinkat",
        "rseq",
        "rt_sigaction",
        "rt_sigprocmask",
        "rt_sigreturn",
        "set_robust_list",
        "set_tid_address",
        "setgid",
        "setpgid",
        "setuid",
        "stat",
        "uname",
        "vfork",
        "wait4",
        "write",
        "writev",
        "capset",
        "setgroups",
        "setresgid",
        "setresuid",
        "chdir",
        "close_range",
        "statx",
        "faccessat",
        "faccessat2",
        "sendto",
        "recvfrom",
        "sendmsg",
        "recvmsg",
        "umask",
        "capget",
        "ppoll",
        "setsid",
        "no_such_call_at_all",
    ];
    bundle.config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 95, "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{"names": calls[..], "action": "SCMP_ACT_ALLOW"}]});
    let outcome = bundle.script("mkdir /tmp/x; echo $?").run();
    let told = outcome.report();
    assert!(
        told.contains("Operation not supported") && told.contains("\n1\n"),
        "{told}"
    );
}

#[test]
fn arguments_are_compared() {
    if !ready() {
        return;
    }
    // kill(2) of nobody: signal 0 to a number that is the argument.
    let deny = |op: &str, value: u64, two: Option<u64>| {
        let mut arg = json!({"index": 1, "value": value, "op": op});
        if let Some(two) = two {
            arg["valueTwo"] = json!(two);
        }
        json!({"names": ["kill"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95, "args": [arg]})
    };
    let script =
        "for s in 10 12 15; do trap '' $s; kill -$s $$ 2>/dev/null && echo y || echo n; done";
    for (op, value, two, expected) in [
        ("SCMP_CMP_EQ", 12, None, "y\nn\ny"),
        ("SCMP_CMP_NE", 12, None, "n\ny\nn"),
        ("SCMP_CMP_LT", 12, None, "n\ny\ny"),
        ("SCMP_CMP_LE", 12, None, "n\nn\ny"),
        ("SCMP_CMP_GT", 12, None, "y\ny\nn"),
        ("SCMP_CMP_GE", 12, None, "y\nn\nn"),
        ("SCMP_CMP_MASKED_EQ", 4, Some(4), "y\nn\nn"),
    ] {
        let mut bundle = with_rule(deny(op, value, two));
        assert_eq!(bundle.says(script), expected, "{op}");
    }
}

#[test]
fn flags_and_rights_go_with_a_filter() {
    if !ready() {
        return;
    }
    let mut bundle = with_rule(json!({"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}));
    for flags in [
        json!(["SECCOMP_FILTER_FLAG_TSYNC"]),
        json!(["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"]),
        json!([]),
    ] {
        for no_new in [true, false] {
            bundle.config["linux"]["seccomp"]["flags"] = flags.clone();
            bundle.config["process"]["noNewPrivileges"] = json!(no_new);
            bundle.config["process"]["user"] = json!({"uid": 33, "gid": 33});
            let said = bundle.says("cat /proc/self/status");
            assert_eq!(field(&said, "Seccomp"), "2", "{flags} {no_new}");
            assert_eq!(field(&said, "NoNewPrivs"), u8::from(no_new).to_string());
        }
    }
    // Who enters is under it as well.
    bundle.config["process"]["user"] = json!({"uid": 0, "gid": 0});
    bundle.asleep();
    let said = bundle.exec(&[], "mkdir /tmp/x 2>&1; cat /proc/self/status");
    assert_eq!(field(&said, "Seccomp"), "2");
    assert!(said.contains("Operation not permitted"), "{said}");
}

/// What linux/seccomp.h says of a notification and of its answer.
#[repr(C)]
#[derive(Default)]
struct Asked {
    id: u64,
    pid: u32,
    flags: u32,
    number: i32,
    arch: u32,
    at: u64,
    args: [u64; 6],
}

#[repr(C)]
struct Answer {
    id: u64,
    value: i64,
    error: i32,
    flags: u32,
}

const RECEIVE: u64 = 0xc050_2100;
const SEND: u64 = 0xc018_2101;

/// Takes a listener from the socket; what came along with it.
fn take(socket: &UnixListener) -> (Value, OwnedFd) {
    use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
    let (stream, _) = socket.accept().expect("a caller");
    let mut data = vec![0_u8; 65536];
    let mut space = nix::cmsg_space!([i32; 1]);
    let (fd, length) = {
        let mut part = [std::io::IoSliceMut::new(&mut data)];
        let message = recvmsg::<()>(
            stream.as_raw_fd(),
            &mut part,
            Some(&mut space),
            MsgFlags::empty(),
        );
        let message = message.expect("a message");
        let fd = message.cmsgs().expect("whole").find_map(|c| match c {
            ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
            _ => None,
        });
        (fd.expect("a descriptor"), message.bytes)
    };
    let told = serde_json::from_slice(&data[..length]).expect("JSON");
    // SAFETY: the kernel has just made this descriptor for us.
    (told, unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Answers calls with an error number until nobody can ask any more; how many there were.
fn answer(listener: &OwnedFd, number: i32) -> u32 {
    let mut answered = 0;
    loop {
        let mut asked = Asked::default();
        // SAFETY: the structure is live, zeroed and of the size that the request has.
        let got = unsafe {
            nix::libc::ioctl(
                listener.as_raw_fd(),
                RECEIVE as nix::libc::c_ulong,
                &raw mut asked,
            )
        };
        if got != 0 {
            return answered;
        }
        let answer = Answer {
            id: asked.id,
            value: 0,
            error: -number,
            flags: 0,
        };
        // SAFETY: as above.
        let said = unsafe {
            nix::libc::ioctl(
                listener.as_raw_fd(),
                SEND as nix::libc::c_ulong,
                &raw const answer,
            )
        };
        assert_eq!(said, 0, "{}", std::io::Error::last_os_error());
        answered += 1;
    }
}

#[test]
fn a_listener_is_told_of_the_container_and_decides() {
    if !ready() {
        return;
    }
    for no_new in [true, false] {
        let mut bundle = with_rule(json!({"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}));
        let path = bundle.path("listener");
        let socket = UnixListener::bind(&path).expect("ours");
        bundle.config["linux"]["seccomp"]["listenerPath"] = json!(path);
        bundle.config["linux"]["seccomp"]["listenerMetadata"] = json!("who asked");
        bundle.config["process"]["noNewPrivileges"] = json!(no_new);
        let serving = std::thread::spawn(move || {
            let (told, listener) = take(&socket);
            let count = answer(&listener, 122); // EDQUOT
            (told, count)
        });
        bundle.script("mkdir /tmp/x 2>/tmp/told; mkdir /tmp/y 2>/dev/null; cat /tmp/told");
        let outcome = bundle.run();
        assert!(outcome.stdout.contains("quota"), "{}", outcome.report());
        let (told, count) = serving.join().expect("answers");
        assert_eq!(count, 2);
        assert_eq!(told["metadata"], "who asked");
        assert_eq!(told["fds"], json!(["seccompFd"]));
        assert_eq!(told["state"]["id"], "c");
        assert_eq!(told["state"]["status"], "creating");
        assert_eq!(told["pid"], told["state"]["pid"]);
        assert!(told["ociVersion"].is_string() && told["state"]["bundle"].is_string());
    }
    // Nobody listens.
    let mut bundle = with_rule(json!({"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}));
    bundle.config["linux"]["seccomp"]["listenerPath"] = json!(bundle.path("nobody"));
    assert!(bundle.refused("true").contains("nobody"));
    bundle.config["linux"]["seccomp"]["listenerPath"] = json!(null);
    let told = bundle.refused("true");
    assert!(told.contains("listenerPath"), "{told}");
}
