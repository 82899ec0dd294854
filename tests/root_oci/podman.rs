//! Podman drives the OCI runtime as people do: containers at a terminal and in the background, many
//! at once, pods. What a container leaves behind fails its test (`clients/podman.rs`); what flags
//! ask for is in `root_oci/podman_flags.rs`.

use std::fs;
use std::time::Duration;

use crate::clients::podman::Podman;
use crate::clients::ready;
use crate::clients::terminal::{SIZED, Terminal};
use crate::support::{Need, eventually, need};
use crate::{clients, support};

#[test]
fn output_and_statuses_come_back() {
    if !ready(Need::Podman) {
        return;
    }
    let podman = Podman::new();
    let outcome = podman.ends(
        &["run", "--rm", "box", "sh", "-c", "echo out; echo err >&2"],
        0,
    );
    assert_eq!((&*outcome.stdout, &*outcome.stderr), ("out\n", "err\n"));
    podman.ends(&["run", "--rm", "box", "sh", "-c", "exit 7"], 7);
    let missing = podman.ends(&["run", "--rm", "box", "no-such-program"], 127);
    assert!(
        missing.stderr.contains("no-such-program"),
        "{}",
        missing.report()
    );
    podman.ends(&["run", "--rm", "box", "/etc/passwd"], 126);
    podman.ends(
        &["run", "--rm", "--workdir", "/etc/passwd", "box", "true"],
        126,
    );
    podman.ends(&["run", "--rm", "--no-such-flag", "box", "true"], 125);
    let mut cat = podman.command(&["run", "--rm", "-i", "box", "cat"]);
    cat.stdin(fs::File::open(podman.path("storage.conf")).expect("a file of ours"));
    let copy = clients::succeed(cat);
    assert!(copy.starts_with("[storage]"), "{copy}");
}

#[test]
fn a_container_works_in_the_background() {
    if !ready(Need::Podman) {
        return;
    }
    let podman = Podman::new();
    podman.asleep("web", &["--env", "COLOUR=blue"]);
    podman.ok(&[
        "run",
        "-d",
        "--name",
        "talks",
        "box",
        "sh",
        "-c",
        "echo one; echo two >&2; exit 5",
    ]);
    assert_eq!(podman.ok(&["wait", "talks"]), "5");
    let logs = podman.ends(&["logs", "talks"], 0);
    assert_eq!((&*logs.stdout, &*logs.stderr), ("one\n", "two\n"));
    assert_eq!(podman.ok(&["ps", "--format", "{{.Names}}"]), "web");
    podman.ok(&["kill", "web"]);
    assert_eq!(podman.ok(&["wait", "web"]), "137");
}

#[test]
fn exec_enters() {
    if !ready(Need::Podman) {
        return;
    }
    let podman = Podman::new();
    podman.asleep("web", &["--env", "COLOUR=blue"]);
    assert_eq!(
        podman.inside("web", "echo $COLOUR; readlink /proc/self/ns/pid"),
        {
            let own = "echo $COLOUR; readlink /proc/1/ns/pid";
            podman.inside("web", own)
        }
    );
    podman.ends(&["exec", "web", "sh", "-c", "exit 9"], 9);
    podman.ends(&["exec", "web", "no-such-program"], 127);
    podman.ends(&["exec", "web", "/etc/passwd"], 126);
    let told = [
        "exec",
        "--user",
        "mail",
        "--workdir",
        "/etc",
        "--env",
        "A=b",
        "web",
    ];
    let line = ["sh", "-c", "id -u; pwd; echo $A"];
    assert_eq!(podman.ok(&[&told[..], &line].concat()), "8\n/etc\nb");
    let mut cat = podman.command(&["exec", "-i", "web", "cat"]);
    cat.stdin(fs::File::open(podman.path("storage.conf")).expect("a file of ours"));
    assert!(clients::succeed(cat).starts_with("[storage]"));

    let line = &format!("{SIZED}; exit 4");
    let mut at = Terminal::start(&podman.command(&["exec", "-it", "web", "sh", "-c", line]));
    at.shows("/dev/pts/");
    at.shows("37 91");
    at.types("word\r");
    at.shows("got-word");
    assert_eq!(at.ends(), 4, "{}", at.screen());
}

#[test]
fn a_container_has_a_terminal() {
    if !ready(Need::Podman) {
        return;
    }
    let podman = Podman::new();
    let line = &format!("trap 'echo caught; exit 9' INT; {SIZED}; sleep 1000 & wait");
    let run = podman.command(&[
        "run", "--rm", "-it", "--name", "web", "box", "sh", "-c", line,
    ]);
    let mut at = Terminal::start(&run);
    at.shows("/dev/pts/0");
    at.shows("37 91");
    at.types("word\r");
    at.shows("got-word");
    at.types("\u{3}"); // Ctrl-C
    at.shows("caught");
    assert_eq!(at.ends(), 9, "{}", at.screen());
}

#[test]
fn top_stats_pause_and_signals() {
    if !ready(Need::Podman) {
        return;
    }
    let podman = Podman::new();
    let line = "trap 'echo usr1' USR1; trap 'exit 3' TERM; while :; do sleep 0.1; done";
    podman.ok(&[
        "run", "-d", "--name", "web", "--memory", "64m", "box", "sh", "-c", line,
    ]);
    let top = podman.ok(&["top", "web", "pid", "args"]);
    assert!(top.contains("trap"), "{top}");
    let format = "{{.Name}} {{.MemUsage}} {{.PIDs}}";
    let stats = podman.ok(&["stats", "--no-stream", "--format", format, "web"]);
    assert!(
        stats.starts_with("web ") && stats.contains("/ 67.11MB"),
        "{stats}"
    );

    podman.ok(&["pause", "web"]);
    assert_eq!(podman.inspect("web", ".State.Status"), "paused");
    podman.ends(&["exec", "web", "true"], 255);
    podman.ok(&["unpause", "web"]);
    assert_eq!(podman.inspect("web", ".State.Status"), "running");

    podman.ok(&["kill", "--signal", "USR1", "web"]);
    eventually("the trap speaks", 60, || {
        podman.ok(&["logs", "web"]).contains("usr1")
    });
    podman.ok(&["stop", "web"]);
    assert_eq!(podman.inspect("web", ".State.ExitCode"), "3");
    let attached = podman.command(&["start", "--attach", "web"]);
    let running = std::thread::scope(|scope| {
        let attached = scope.spawn(|| support::run(attached));
        eventually("it runs", 60, || {
            podman.inspect("web", ".State.Running") == "true"
        });
        // The trap is not set at once.
        eventually("it ends", 60, || {
            podman.ends(&["kill", "--signal", "TERM", "web"], 0);
            std::thread::sleep(Duration::from_millis(200));
            podman.inspect("web", ".State.Running") == "false"
        });
        attached.join().expect("no panic")
    });
    assert!([3, 143].contains(&running.code), "{}", running.report());

    podman.ok(&["start", "web"]);
    let first = podman.inspect("web", ".State.Pid");
    podman.ok(&["restart", "--time", "1", "web"]);
    assert_ne!(podman.inspect("web", ".State.Pid"), first);
    podman.ends(&["rm", "web"], 2);
    podman.removes(&["web"]);
    podman.ends(&["inspect", "--type", "container", "web"], 125);
}

#[test]
fn a_pod_shares_namespaces() {
    if !ready(Need::Podman) {
        return;
    }
    let podman = Podman::new();
    let infra = ["--infra-image", "box", "--infra-command", "sleep 1000"];
    let made = [
        "pod",
        "create",
        "--name",
        "shop",
        "--network",
        "none",
        "--share",
        "net,ipc,uts",
    ];
    podman.ok(&[&made[..], &infra].concat());
    for name in ["web", "db"] {
        podman.ok(&[
            "run", "-d", "--pod", "shop", "--name", name, "box", "sleep", "1000",
        ]);
    }
    for kind in ["net", "ipc", "uts"] {
        let line = format!("readlink /proc/self/ns/{kind}");
        assert_eq!(
            podman.inside("web", &line),
            podman.inside("db", &line),
            "{kind}"
        );
    }
    let line = "readlink /proc/self/ns/pid";
    assert_ne!(podman.inside("web", line), podman.inside("db", line));
    assert_eq!(podman.inside("web", "hostname"), "shop");
    podman.ok(&["exec", "-d", "web", "sh", "-c", "echo hello | nc -l -p 99"]);
    eventually("one hears the other", 60, || {
        let call = podman.command(&["exec", "db", "nc", "127.0.0.1", "99"]);
        support::run(call).stdout == "hello\n"
    });
    podman.ok(&["pod", "pause", "shop"]);
    podman.ok(&["pod", "unpause", "shop"]);
    podman.ok(&["pod", "stop", "--time", "0", "shop"]);
    podman.ok(&["pod", "start", "shop"]);
    podman.ok(&["pod", "rm", "--force", "--time", "0", "shop"]);
}

#[test]
fn a_healthcheck_runs_inside() {
    if !ready(Need::Podman) {
        return;
    }
    let podman = Podman::new();
    let check = [
        "--health-cmd",
        "test -e /tmp/well",
        "--health-interval",
        "disable",
    ];
    podman.asleep("web", &[&check[..], &["--health-retries", "1"]].concat());
    podman.ends(&["healthcheck", "run", "web"], 1);
    podman.inside("web", "touch /tmp/well");
    podman.ends(&["healthcheck", "run", "web"], 0);
    assert_eq!(
        podman.inspect("web", ".State.Healthcheck.Status"),
        "healthy"
    );
}

#[test]
fn twenty_at_once() {
    if !ready(Need::Podman) {
        return;
    }
    let podman = &Podman::new();
    std::thread::scope(|scope| {
        let one = |number: usize| {
            let line = format!("echo {number}; exit {number}");
            let outcome = podman.ends(&["run", "--rm", "box", "sh", "-c", &line], number as i32);
            assert_eq!(outcome.stdout.trim(), number.to_string());
        };
        let runs: Vec<_> = (0..20)
            .map(|number| scope.spawn(move || one(number)))
            .collect();
        for run in runs {
            run.join().expect("each one ran");
        }
    });
    assert_eq!(podman.ok(&["ps", "--all", "--quiet"]), "");
}

#[test]
fn a_unit_for_systemd_is_written() {
    if !ready(Need::Podman) {
        return;
    }
    let podman = Podman::new();
    podman.ok(&["create", "--name", "web", "box", "sleep", "1000"]);
    let unit = podman.ok(&["generate", "systemd", "--new", "--name", "web"]);
    assert!(
        unit.contains("[Service]") && unit.contains("--cgroups=no-conmon"),
        "{unit}"
    );
    // As the unit would: conmon and the container in the caller's cgroup, told by a file.
    let mark = podman.path("cid").display().to_string();
    let line = [
        "-d",
        "--cgroups=no-conmon",
        "--cidfile",
        &mark,
        "box",
        "sleep",
        "1000",
    ];
    podman.ok(&[&["run"], &line[..]].concat());
    podman.ok(&["stop", "--cidfile", &mark, "--time", "0"]);
    podman.removes(&["--cidfile", &mark]);
    podman.ok(&["start", "web"]);
    podman.ok(&["stop", "--time", "0", "web"]);
}

#[test]
fn a_unit_of_systemd_s_runs() {
    if !need(Need::Systemd) || !ready(Need::Podman) {
        return;
    }
    let podman = Podman::new();
    podman.asleep("web", &[]);
    let written = podman.ok(&["generate", "systemd", "--new", "--name", "web"]);
    podman.removes(&["web"]);
    let at = |name: &str| podman.path(name).display().to_string();
    let ours = format!(
        "[Service]\nEnvironment=CONTAINERS_CONF={}\nEnvironment=CONTAINERS_STORAGE_CONF={}\n",
        at("containers.conf"),
        at("storage.conf")
    );
    let unit = format!("{}.service", podman.marks().cgroup().replace('.', "_"));
    let file = std::path::Path::new("/run/systemd/system").join(&unit);
    fs::write(&file, written.replace("[Service]\n", &ours)).expect("root may");
    let systemctl = |line: &str| clients::succeed_in_shell(&format!("systemctl {line}"));
    systemctl("daemon-reload");
    // The unit is up when conmon says so: the start waits for it.
    systemctl(&format!("start {unit}"));
    assert_eq!(podman.inspect("web", ".State.Running"), "true");
    systemctl(&format!("stop {unit}"));
    fs::remove_file(&file).expect("written above");
    systemctl("daemon-reload");
    assert_eq!(podman.ok(&["ps", "--all", "--quiet"]), "");
}
