//! What `process` of a configuration is inside an OCI container: limits, rights, standing, user,
//! folder, descriptors, terminal. Filters are in `root_oci/seccomp.rs`.

use std::fs;
use std::io::Read as _;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt as _;

use crate::clients::{capabilities, field};
use crate::oci::Bundle;
use crate::support;
use crate::support::{Need, eventually, need};
use serde_json::{Value, json};

fn ready() -> bool {
    need(Need::Root) && need(Need::OciRuntime)
}

#[test]
fn limits_scores_and_masks_are_set() {
    if !ready() {
        return;
    }
    let mut bundle = Bundle::new();
    let names = [
        ("AS", "Max address space", 1 << 30),
        ("CORE", "Max core file size", 4096),
        ("CPU", "Max cpu time", 1000),
        ("DATA", "Max data size", 1 << 29),
        ("FSIZE", "Max file size", 1 << 20),
        ("LOCKS", "Max file locks", 100),
        ("MEMLOCK", "Max locked memory", 65536),
        ("MSGQUEUE", "Max msgqueue size", 8192),
        ("NICE", "Max nice priority", 0),
        ("NOFILE", "Max open files", 200),
        ("NPROC", "Max processes", 500),
        ("RSS", "Max resident set", 1 << 28),
        ("RTPRIO", "Max realtime priority", 0),
        ("RTTIME", "Max realtime timeout", 1_000_000),
        ("SIGPENDING", "Max pending signals", 300),
        ("STACK", "Max stack size", 1 << 22),
    ];
    let limits: Vec<Value> = names
        .iter()
        .map(|(name, _, n)| json!({"type": format!("RLIMIT_{name}"), "soft": n / 2, "hard": n}))
        .collect();
    bundle.config["process"]["rlimits"] = json!(limits);
    bundle.config["process"]["oomScoreAdj"] = json!(321);
    bundle.config["process"]["user"]["umask"] = json!(0o027);
    let said = bundle.says("cat /proc/self/limits /proc/self/oom_score_adj; umask");
    for (_, line, n) in names {
        let found = said.lines().find_map(|l| l.strip_prefix(line));
        let words: Vec<_> = found.unwrap_or_default().split_whitespace().collect();
        assert_eq!(
            words[..2],
            [(n / 2).to_string(), n.to_string()],
            "{line}: {said}"
        );
    }
    assert!(said.ends_with("321\n0027"), "{said}");
    bundle.config["process"]["rlimits"] = json!([limits[0], limits[0]]);
    assert!(bundle.refused("true").contains("twice"));
}

#[test]
fn rights_are_what_the_five_sets_say() {
    if !ready() {
        return;
    }
    let mut bundle = Bundle::new();
    let number = |n: u32| 1_u64 << n;
    // CAP_CHOWN 0, CAP_KILL 5, CAP_NET_BIND_SERVICE 10, CAP_SYS_CHROOT 18
    bundle.config["process"]["capabilities"] = json!({
        "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT"],
        "permitted": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_BIND_SERVICE"],
        "inheritable": ["CAP_KILL", "CAP_NET_BIND_SERVICE"],
        "effective": ["CAP_CHOWN"],
        "ambient": ["CAP_NET_BIND_SERVICE"],
    });
    bundle.config["process"]["user"] = json!({"uid": 33, "gid": 34, "additionalGids": [50, 51]});
    let said = bundle.says("cat /proc/self/status; echo $HOME");
    assert_eq!(
        capabilities(&said, "CapBnd"),
        number(0) | number(5) | number(10) | number(18)
    );
    // A user who is not root keeps over execve(2) what is ambient.
    assert_eq!(capabilities(&said, "CapPrm"), number(10), "{said}");
    assert_eq!(capabilities(&said, "CapEff"), number(10), "{said}");
    assert_eq!(
        capabilities(&said, "CapInh"),
        number(5) | number(10),
        "{said}"
    );
    assert_eq!(capabilities(&said, "CapAmb"), number(10), "{said}");
    assert_eq!(field(&said, "NoNewPrivs"), "1");
    assert_eq!(field(&said, "Uid"), "33\t33\t33\t33");
    assert_eq!(field(&said, "Gid"), "34\t34\t34\t34");
    assert_eq!(field(&said, "Groups"), "50 51");
    assert!(said.ends_with("/var/www"), "{said}");
    bundle.config["process"]["user"] = json!({"uid": 0, "gid": 0});
    bundle.config["process"]["noNewPrivileges"] = json!(false);
    let said = bundle.says("cat /proc/self/status; echo $HOME");
    assert_eq!(field(&said, "NoNewPrivs"), "0");
    assert!(said.ends_with("/root"), "{said}");
    bundle.config["process"]["env"] = json!(["PATH=/bin", "HOME=/elsewhere", "A=b c=d"]);
    assert_eq!(bundle.says("echo $HOME; echo $A"), "/elsewhere\nb c=d");
    bundle.config["process"]["capabilities"] = json!(null);
    assert_eq!(
        capabilities(&bundle.says("cat /proc/self/status"), "CapBnd"),
        0
    );
}

#[test]
fn its_standing_with_the_kernel_is_as_asked_for() {
    if !ready() {
        return;
    }
    let mut bundle = Bundle::new();
    // Fields of proc_pid_stat(5): 19 nice, 40 real-time priority, 41 policy.
    let look = "set -- $(cut -d ')' -f 2 /proc/$$/stat); echo ${17} ${38} ${39}";
    bundle.config["process"]["scheduler"] = json!({"policy": "SCHED_BATCH", "nice": 7});
    assert_eq!(bundle.says(look), "7 0 3");
    bundle.config["process"]["scheduler"] =
        json!({"policy": "SCHED_OTHER", "nice": 3, "flags": ["SCHED_FLAG_RESET_ON_FORK"]});
    assert_eq!(bundle.says(look), "3 0 0");
    bundle.config["process"]["scheduler"] = json!({"policy": "SCHED_IDLE"});
    assert_eq!(bundle.says(look), "0 0 5");
    bundle.config["process"]["scheduler"] = json!({"policy": "SCHED_FIFO", "priority": -1});
    assert!(bundle.refused(look).contains("scheduler.priority"));
    bundle.config["process"]["scheduler"] = json!(null);

    bundle.config["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_BE", "priority": 6});
    assert_eq!(bundle.says("ionice -p $$"), "best-effort: prio 6");
    bundle.config["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_IDLE", "priority": 0});
    assert!(bundle.says("ionice -p $$").starts_with("idle"));
    bundle.config["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_BE", "priority": 8});
    assert!(bundle.refused("true").contains("0 to 7"));
    bundle.config["process"]["ioPriority"] = json!(null);

    bundle.config["linux"]["personality"] = json!({"domain": "LINUX32"});
    assert!(bundle.says("uname -m").ends_with("86"));
    bundle.config["linux"]["personality"] = json!({"domain": "LINUX"});
    assert_eq!(bundle.says("uname -m"), std::env::consts::ARCH);

    for (mode, nodes, word) in [
        ("MPOL_BIND", "0", "bind:0"),
        ("MPOL_INTERLEAVE", "0", "interleave:0"),
        ("MPOL_PREFERRED", "0", "prefer:0"),
        ("MPOL_LOCAL", "", "local"),
        ("MPOL_DEFAULT", "", "default"),
    ] {
        bundle.config["linux"]["memoryPolicy"] = json!({"mode": mode, "nodes": nodes});
        let maps = bundle.says("cat /proc/self/numa_maps | head -n 3");
        assert!(maps.contains(word), "{mode}: {maps}");
    }
    bundle.config["linux"]["memoryPolicy"] =
        json!({"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]});
    assert!(
        bundle
            .says("cat /proc/self/numa_maps")
            .contains("bind=static:0")
    );
}

#[test]
fn who_enters_runs_on_the_cpus_it_is_given() {
    if !ready() || !need(Need::TwoCpus) {
        return;
    }
    let mut bundle = Bundle::new();
    bundle.asleep();
    let process = json!({"cwd": "/", "user": {"uid": 0, "gid": 0}, "env": ["PATH=/bin"],
        "args": ["sh", "-c", "grep Cpus_allowed_list /proc/self/status"],
        "execCPUAffinity": {"initial": "0", "final": "1"}});
    let file = bundle.path("process.json");
    fs::write(&file, process.to_string()).expect("ours");
    let file = file.display().to_string();
    let said = bundle.ok(&["exec", "--process", &file, "c"]);
    assert_eq!(field(&said, "Cpus_allowed_list"), "1");
    // Without one of its own, that of the container's process.
    bundle.remove();
    bundle.config["process"]["execCPUAffinity"] = json!({"initial": "0", "final": "0"});
    bundle.asleep();
    let said = bundle.exec(&[], "grep Cpus_allowed_list /proc/self/status");
    assert_eq!(field(&said, "Cpus_allowed_list"), "0");
}

#[test]
fn the_working_folder_is_made_and_stays_inside() {
    if !ready() {
        return;
    }
    let mut bundle = Bundle::new();
    bundle.config["process"]["cwd"] = json!("/made/for/it");
    assert_eq!(bundle.says("pwd; stat -c '%a %u' ."), "/made/for/it\n755 0");
    std::os::unix::fs::symlink("/tmp", bundle.inside("link")).expect("ours");
    bundle.config["process"]["cwd"] = json!("/link");
    assert_eq!(bundle.says("readlink /proc/self/cwd"), "/tmp");
    // A folder that only its user may enter.
    fs::create_dir(bundle.inside("own")).expect("ours");
    std::os::unix::fs::chown(bundle.inside("own"), Some(33), Some(33)).expect("root may");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    fs::set_permissions(bundle.inside("own"), mode).expect("ours");
    bundle.config["process"]["cwd"] = json!("/own");
    bundle.config["process"]["user"] = json!({"uid": 33, "gid": 33});
    assert_eq!(bundle.says("pwd"), "/own");
    bundle.config["process"]["cwd"] = json!("relative");
    assert!(bundle.refused("true").contains("absolute"));
    for leak in ["/proc/self/fd/7", "/proc/self/fd/8", "/proc/1/root/../.."] {
        bundle.config["process"]["cwd"] = json!(leak);
        let outcome = bundle.script("pwd; ls /var/tmp").run();
        assert!(
            !outcome.stdout.contains("bulkhead-test"),
            "{}",
            outcome.report()
        );
    }
}

#[test]
fn descriptors_and_keys_of_the_caller_stay_outside_unless_asked_for() {
    if !ready() {
        return;
    }
    let mut bundle = Bundle::new();
    bundle.config["linux"]["maskedPaths"] = json!([]);
    let note = bundle.path("note");
    fs::write(&note, "passed on").expect("ours");
    let run = |bundle: &Bundle, more: &[&str], line: &str| {
        let mut shell = std::process::Command::new("bash");
        let program = support::oci_program().display().to_string();
        let script = format!(
            "exec 3<{note} 4<{note}; exec {program} --root {state} run --bundle {at} {more} c{line}",
            note = note.display(),
            state = bundle.path("state").display(),
            at = bundle.path("").display(),
            more = more.join(" "),
        );
        shell
            .args(["-c", &script])
            .stdin(std::process::Stdio::null());
        support::run(shell)
    };
    bundle
        .script("ls /proc/self/fd | wc -l; cat <&3; cat <&4")
        .write();
    let kept = run(&bundle, &["--preserve-fds", "2"], "");
    assert_eq!(kept.stdout, "6\npassed onpassed on", "{}", kept.report());
    bundle.script("ls /proc/self/fd | wc -l").write();
    assert_eq!(run(&bundle, &[], "").stdout, "4\n");
    assert_eq!(run(&bundle, &["--preserve-fds", "1"], "").stdout, "5\n");

    let keyed = |bundle: &Bundle, more: &[&str]| {
        let at = bundle.path("").display().to_string();
        let mut args = vec!["run", "--bundle", &at];
        args.extend(more);
        args.push("c");
        let mut command = bundle.command(&args);
        // SAFETY: the calls take a C string and numbers and change only the child.
        unsafe {
            command.pre_exec(|| {
                let joined = nix::libc::syscall(nix::libc::SYS_keyctl, 1, c"bhtest-keys".as_ptr());
                // KEYCTL_SETPERM: seen by those alone that have it as their own.
                let sealed = nix::libc::syscall(nix::libc::SYS_keyctl, 5, joined, 0x3f00_0000);
                if joined < 0 || sealed < 0 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        support::run(command).stdout
    };
    bundle.script("cat /proc/keys").write();
    assert!(!keyed(&bundle, &[]).contains("bhtest-keys"));
    assert!(keyed(&bundle, &["--no-new-keyring"]).contains("bhtest-keys"));
}

/// Takes the terminal that is sent to the socket.
fn receive(socket: &UnixListener) -> fs::File {
    use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
    let (stream, _) = socket.accept().expect("a caller");
    let mut data = [0_u8; 64];
    let mut part = [std::io::IoSliceMut::new(&mut data)];
    let mut space = nix::cmsg_space!([i32; 1]);
    let message = recvmsg::<()>(
        stream.as_raw_fd(),
        &mut part,
        Some(&mut space),
        MsgFlags::empty(),
    );
    let message = message.expect("a message");
    for control in message.cmsgs().expect("whole") {
        if let ControlMessageOwned::ScmRights(fds) = control {
            // SAFETY: the kernel has just made this descriptor for us.
            return fs::File::from(unsafe { OwnedFd::from_raw_fd(fds[0]) });
        }
    }
    panic!("no descriptor");
}

fn read_all(mut terminal: fs::File) -> String {
    let mut text = Vec::new();
    let mut part = [0_u8; 512];
    while let Ok(n) = terminal.read(&mut part) {
        if n == 0 {
            break;
        }
        text.extend_from_slice(&part[..n]);
    }
    String::from_utf8_lossy(&text).replace('\r', "")
}

#[test]
fn a_terminal_goes_to_whoever_asked_for_it() {
    if !ready() {
        return;
    }
    let mut bundle = Bundle::new();
    bundle.config["process"]["terminal"] = json!(true);
    bundle.config["process"]["consoleSize"] = json!({"height": 12, "width": 34});
    let path = bundle.path("socket");
    let socket = UnixListener::bind(&path).expect("ours");
    bundle.script("stty size; tty; stat -c %F /dev/console; echo hi > /dev/console; exec sleep 1");
    let (path, pid_file) = (path.display().to_string(), bundle.path("pid"));
    let pid_path = pid_file.display().to_string();
    bundle.create(&["--console-socket", &path, "--pid-file", &pid_path]);
    let terminal = receive(&socket);
    let pid = fs::read_to_string(&pid_file).expect("written");
    assert_eq!(pid, bundle.pid().to_string());
    bundle.ok(&["start", "c"]);
    let said = read_all(terminal);
    assert_eq!(said, "12 34\n/dev/pts/0\ncharacter special file\nhi\n");
    bundle.remove();
    // Exec with one as well.
    bundle.config["process"]["terminal"] = json!(false);
    bundle.asleep();
    let exec = bundle.command(&[
        "exec",
        "--tty",
        "--detach",
        "--console-socket",
        &path,
        "--pid-file",
        &pid_path,
        "c",
        "sh",
        "-c",
        "tty; echo in",
    ]);
    bundle.no_output(exec);
    let said = read_all(receive(&socket));
    assert_eq!(said, "/dev/pts/0\nin\n");
    assert_ne!(fs::read_to_string(&pid_file).expect("written"), pid);
    // A socket without a terminal is a mistake, and a terminal without anybody.
    for line in [
        &["exec", "--console-socket", &path, "c", "tty"][..],
        &["exec", "--tty", "--detach", "c", "tty"],
    ] {
        let told = bundle.fails(line);
        assert!(told.contains("--console-socket"), "{line:?}: {told}");
    }
    bundle.remove();
    let at = bundle.path("").display().to_string();
    let told = bundle.fails(&["create", "--bundle", &at, "--console-socket", &path, "c"]);
    assert!(told.contains("--console-socket"), "{told}");
    bundle.config["process"]["terminal"] = json!(true);
    bundle.script("tty").write();
    for verb in [&["create"][..], &["run", "--detach"]] {
        let told = bundle.fails(&[verb, &["--bundle", &at, "c"]].concat());
        assert!(told.contains("--console-socket"), "{verb:?}: {told}");
    }
}

#[test]
fn what_cannot_run_is_said_at_create() {
    if !ready() {
        return;
    }
    let mut bundle = Bundle::new();
    for (program, words) in [
        ("no-such", "executable file not found in $PATH"),
        ("/no/such", "no such file or directory"),
        ("/etc/passwd", "permission denied"),
        ("/etc", "permission denied"),
    ] {
        bundle.config["process"]["args"] = json!([program]);
        bundle.write();
        let at = bundle.path("").display().to_string();
        let told = bundle.fails(&["create", "--bundle", &at, "c"]);
        assert!(told.contains(words), "{program}: {told}");
        assert_eq!(bundle.ok(&["list", "-q"]), "");
    }
    // What only the kernel can tell is told by `start`.
    fs::write(bundle.inside("bin/odd"), "neither").expect("ours");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(bundle.inside("bin/odd"), mode).expect("ours");
    bundle.config["process"]["args"] = json!(["odd"]);
    bundle.create(&[]);
    let told = bundle.fails(&["start", "c"]);
    assert!(told.contains("exec format error"), "{told}");
    eventually("it has ended", 5, || bundle.status() == "stopped");
}
