//! People and scripts in a running guest: `exec`, `shell`, `console`, `logs`; and what a guest sees
//! of its own.

use std::io::{Read, Write};
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::life::{fed, info, inside, made, on_terminal, scripted, started};
use crate::support::{Bulkhead, Need, eventually, need};

#[test]
fn exec_passes_codes_input_user_folder_and_environment() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    scripted(&host, "web", "sleep 1000", &["--start"]);
    let code = |args: &[&str]| host.run(&[&["exec", "web", "--"], args].concat()).code;
    assert_eq!(code(&["sh", "-c", "exit 7"]), 7);
    assert_eq!(code(&["true"]), 0);
    assert_eq!(code(&["sh", "-c", "kill -9 $$"]), 137);
    assert_eq!(code(&["no-such-program"]), 127);
    assert_eq!(code(&["/etc/passwd"]), 126);
    assert_eq!(code(&["/etc"]), 126);
    let one = |args: &[&str]| host.ok(&[&["exec"], args].concat());
    assert_eq!(one(&["--user", "nobody", "web", "id", "-u"]), "65534\n");
    assert_eq!(one(&["--user", "1234", "web", "id", "-u"]), "1234\n");
    assert_eq!(one(&["--workdir", "/tmp", "web", "pwd"]), "/tmp\n");
    assert_eq!(
        one(&["--env", "A=b c", "web", "--", "sh", "-c", "echo $A"]),
        "b c\n"
    );
    // Flags after the program are the program's.
    assert_eq!(one(&["web", "echo", "--user", "-t"]), "--user -t\n");
    let why = host.fails(&["exec", "--user", "ghost", "web", "id"], 125);
    assert!(
        why.contains("user \"ghost\"") && why.contains("/etc/passwd"),
        "{why}"
    );
    host.fails(&["exec", "--workdir", "/nowhere", "web", "pwd"], 125);
    host.fails(&["exec", "--env", "novalue", "web", "true"], 2);
    host.fails(&["exec", "web"], 2);
    host.fails(&["exec", "nobody", "true"], 125);

    let done = fed(&host, &["exec", "web", "cat"], "through\na pipe");
    assert_eq!((done.code, done.stdout.as_str()), (0, "through\na pipe"));
    let done = fed(
        &host,
        &["exec", "web", "--", "sh", "-c", "echo out; echo err >&2"],
        "",
    );
    assert_eq!(
        (done.stdout.as_str(), done.stderr.as_str()),
        ("out\n", "err\n")
    );
    let done = fed(&host, &["shell", "web"], "echo in $HOME as $USER\nexit 4\n");
    assert_eq!((done.code, done.stdout.as_str()), (4, "in /root as root\n"));

    let began = Instant::now();
    assert_eq!(
        host.run(&["exec", "--timeout", "300ms", "web", "sleep", "60"])
            .code,
        124
    );
    assert!(began.elapsed() < Duration::from_secs(20));
    eventually("what was too slow is gone", 5, || {
        !inside(&host, "web", "ps").contains("sleep 60")
    });
}

#[test]
fn exec_has_a_terminal_when_there_is_one() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    scripted(&host, "web", "sleep 1000", &["--start"]);
    let done = on_terminal(
        &host,
        &["exec", "web", "--", "sh", "-c", "stty size; tty; exit 5"],
        "",
    );
    assert_eq!(done.code, 5, "{}", done.report());
    assert!(
        done.stdout.contains("33 77\r\n/dev/pts/"),
        "{}",
        done.report()
    );
    let done = on_terminal(
        &host,
        &["exec", "-T", "web", "--", "sh", "-c", "tty; true"],
        "",
    );
    assert!(done.stdout.contains("not a tty"), "{}", done.report());
    let done = host.ok(&["exec", "-t", "web", "tty"]);
    assert!(done.starts_with("/dev/pts/"), "{done}");
    // A key that means an interrupt reaches the program, not this side.
    let sleep = [
        "exec",
        "web",
        "--",
        "sh",
        "-c",
        "trap 'echo heard; exit 6' INT; sleep 9; exit 1",
    ];
    let done = on_terminal(&host, &sleep, r"\003");
    assert!(
        done.code == 6 && done.stdout.contains("heard"),
        "{}",
        done.report()
    );
    let began = Instant::now();
    let done = on_terminal(
        &host,
        &["exec", "--timeout", "300ms", "web", "sleep", "60"],
        "",
    );
    assert_eq!(done.code, 124, "{}", done.report());
    assert!(began.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_console_has_a_past_several_viewers_and_a_key_to_leave() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    let script = "echo hello from before; while read line; do echo heard: $line; done";
    scripted(&host, "web", script, &["--start"]);
    eventually("it talks", 5, || {
        host.ok(&["logs", "web"]).contains("hello")
    });
    let view = || {
        let mut command = host.command(&["console", "web"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command.spawn().expect("the program")
    };
    let mut viewers = [view(), view()];
    // Typed on a third, seen on all.
    let typed = on_terminal(&host, &["console", "web"], r"knock\r\n\035");
    assert_eq!(typed.code, 0, "{}", typed.report());
    assert!(typed.stdout.contains("Ctrl-] leaves"), "{}", typed.report());
    eventually("it is heard", 5, || {
        host.ok(&["logs", "web"]).contains("heard: knock")
    });
    for viewer in &mut viewers {
        let mut input = viewer.stdin.take().expect("piped");
        input.write_all(b"\x1d").expect("a viewer that reads");
        let mut text = String::new();
        let mut output = viewer.stdout.take().expect("piped");
        output.read_to_string(&mut text).expect("text");
        assert!(viewer.wait().expect("a child of ours").success());
        assert!(text.contains("hello from before"), "{text}");
        assert!(text.contains("heard: knock"), "{text}");
    }
    // Leaving is no end for the guest.
    assert_eq!(info(&host, "web")["status"], "running");
    host.ok(&["kill", "web"]);
    let why = host.fails(&["console", "web"], 4);
    assert!(
        why.contains("it is stopped") && why.contains("logs"),
        "{why}"
    );
    assert!(
        host.ok(&["logs", "web"]).contains("heard: knock"),
        "kept after the end"
    );
    host.fails(&["console", "nobody"], 3);
}

#[test]
fn a_console_log_stays_within_its_limit() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    let script = "yes 0123456789012345678901234567890 | head -n 20000; echo the end; sleep 1000";
    scripted(&host, "web", script, &["--console-log", "64K", "--start"]);
    eventually("it is done", 20, || {
        host.ok(&["logs", "web", "-n", "1"]).contains("the end")
    });
    let folder = host.root().join("var/lib/bulkhead/guests/web");
    let length = |file: &str| std::fs::metadata(folder.join(file)).map_or(0, |meta| meta.len());
    let kept = length("console.log") + length("console.log.1");
    assert!((16 << 10..=64 << 10).contains(&kept), "{kept}");
    let three = host.ok(&["logs", "web", "--raw", "-n", "3"]);
    assert_eq!(three.lines().count(), 3, "{three}");
}

#[test]
fn a_guest_sees_itself() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    started(&host, "web", &["--processes", "60"]);
    let up: f64 = inside(&host, "web", "cut -d ' ' -f 1 /proc/uptime")
        .parse()
        .expect("seconds");
    assert!(up < 60.0, "its clock begins at its boot: {up}");
    assert!(inside(&host, "web", "uptime").contains("up 0 min"));
    let ps = inside(&host, "web", "ps -o pid,args");
    assert!(
        ps.lines()
            .nth(1)
            .is_some_and(|line| line.contains(" 1 ") && line.contains("init"))
    );
    assert!(!ps.contains("kthreadd") && !ps.contains("bulkhead"), "{ps}");
    assert_eq!(
        inside(&host, "web", "id -u; cat /proc/self/cgroup | wc -l")
            .lines()
            .next(),
        Some("0")
    );
    let map = inside(&host, "web", "awk '{print $1, $3}' /proc/self/uid_map");
    assert_eq!(map, "0 65536");
    let address = info(&host, "web")["address"]
        .as_str()
        .expect("an address")
        .to_owned();
    assert!(inside(&host, "web", "ip -4 addr show eth0").contains(&format!("inet {address}/")));
    assert!(inside(&host, "web", "ip route").contains("default via "));
    let id = inside(&host, "web", "cat /etc/machine-id");
    assert_ne!(
        id,
        std::fs::read_to_string("/etc/machine-id")
            .unwrap_or_default()
            .trim()
    );
}

#[test]
fn networks_none_host_and_an_address_of_choice() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    started(&host, "any", &[]);
    let any = info(&host, "any")["address"]
        .as_str()
        .expect("an address")
        .to_owned();
    let net = any.rsplit_once('.').expect("IPv4").0;
    let wish = format!("{net}.77");
    scripted(&host, "own", "sleep 1000", &["--address", &wish, "--start"]);
    assert_eq!(info(&host, "own")["address"], *wish);
    assert!(inside(&host, "own", "ip addr").contains(&wish));
    // By address and by name, both ways.
    eventually("they reach each other", 10, || {
        host.run(&["exec", "own", "ping", "-c", "1", "-W", "1", "any"])
            .code
            == 0
            && host
                .run(&["exec", "any", "ping", "-c", "1", "-W", "1", &wish])
                .code
                == 0
    });
    scripted(
        &host,
        "alone",
        "sleep 1000",
        &["--network", "none", "--start"],
    );
    let links = inside(
        &host,
        "alone",
        "ls /sys/class/net 2>/dev/null || ip -o link | cut -d: -f2",
    );
    assert!(!links.contains("eth0"), "{links}");
    assert!(inside(&host, "alone", "ip addr show lo").contains("127.0.0.1"));
    scripted(
        &host,
        "shared",
        "sleep 1000",
        &["--network", "host", "--start"],
    );
    let link = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).expect("a process");
    let pid = info(&host, "shared")["pid"].to_string();
    assert_eq!(link(&pid), link("self"));
    let relaxations = info(&host, "shared")["relaxations"].to_string();
    assert!(relaxations.contains("network"), "{relaxations}");
    made(&host, "late", &[]);
    assert_ne!(info(&host, "late")["address"], *wish);
}

#[test]
fn running_guests_learn_each_others_names_and_traps_hold_nobody_up() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    for name in ["here", "trap", "stopped"] {
        started(&host, name, &[]);
    }
    inside(&host, "here", "echo '192.0.2.1 printer' >> /etc/hosts");
    // What a hostile one makes of its file is left as it is, and the others are told all the same.
    inside(&host, "trap", "rm /etc/hosts && mkfifo /etc/hosts");
    host.ok(&["pause", "stopped"]);
    made(&host, "late", &[]);
    let hosts = |name: &str| inside(&host, name, "cat /etc/hosts");
    let address = info(&host, "late")["address"]
        .as_str()
        .expect("an address")
        .to_owned();
    let line = format!("{address} late");
    eventually("it is told of the new one", 20, || {
        hosts("here").contains(&line)
    });
    assert!(hosts("here").contains("192.0.2.1 printer"));
    assert_eq!(inside(&host, "trap", "test -p /etc/hosts; echo $?"), "0");
    // A frozen one is told when it goes on.
    host.ok(&["resume", "stopped"]);
    eventually("it is told later", 20, || hosts("stopped").contains(&line));
    host.ok(&["rename", "late", "later"]);
    eventually("it is told of the name", 20, || {
        let all = hosts("here");
        all.contains(&format!("{address} later")) && !all.contains(&format!("{line}\n"))
    });
    host.ok(&["delete", "later"]);
    eventually("it is told of the end", 20, || {
        !hosts("here").contains("later")
    });
    assert!(hosts("here").contains("192.0.2.1 printer"));
}
