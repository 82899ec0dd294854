//! Settings of a guest changed from outside: what is in force at once, what waits, what the kernel
//! refuses; and what a person is told of it.

use crate::life::{data, events, in_force, info, inside, made, scripted, snapshot, unchanged};
use crate::support;
use crate::support::{Bulkhead, Need, need};

fn definition(host: &Bulkhead, name: &str) -> String {
    let file = format!("var/lib/bulkhead/guests/{name}/guest.toml");
    std::fs::read_to_string(host.root().join(file)).expect("guest.toml")
}

fn memory(host: &Bulkhead) -> String {
    in_force(host, "web", "memory", "memory.limit_in_bytes", "memory.max")
}

#[test]
fn a_running_guest_takes_new_limits_at_once() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    scripted(&host, "web", "sleep 1000", &["--memory", "64M", "--start"]);
    let args = [
        "set",
        "web",
        "memory.limit=32M",
        "processes=50",
        "--cpus",
        "0.5",
    ];
    let said = host.ok(&[&args[..], &["--hostname", "shop", "labels.team=a"]].concat());
    assert!(said.contains("in force: "), "{said}");
    let waits = said
        .lines()
        .find(|line| line.contains("waits for a restart"));
    assert_eq!(waits, Some("web: waits for a restart: hostname"), "{said}");
    assert_eq!(memory(&host), (32 << 20).to_string());
    assert_eq!(in_force(&host, "web", "pids", "pids.max", "pids.max"), "50");
    let before = inside(&host, "web", "hostname");
    assert_eq!(before, "web");
    assert_eq!(
        data(&host, &["list", "--select", "team=a"])[0]["name"],
        "web"
    );

    host.ok(&["set", "web", "cpu.limit=none", "cpu.weight=500"]);
    let quota = in_force(&host, "web", "cpu", "cpu.cfs_quota_us", "cpu.max");
    assert!(
        quota.starts_with("-1") || quota.starts_with("max"),
        "{quota}"
    );
    let weight = in_force(&host, "web", "cpu", "cpu.shares", "cpu.weight");
    assert!(["5120", "500"].contains(&weight.as_str()), "{weight}");

    host.ok(&["kill", "web"]);
    host.ok(&["start", "web"]);
    assert_eq!(
        inside(&host, "web", "hostname; cat /etc/hostname"),
        "shop\nshop"
    );
    assert_eq!(memory(&host), (32 << 20).to_string());
    host.ok(&[
        "set",
        "web",
        "--unset",
        "hostname",
        "--unset",
        "labels.team",
    ]);
    assert!(!definition(&host, "web").contains("hostname"));
    assert_eq!(host.ok(&["get", "web", "labels"]).trim(), "");
}

#[test]
fn keys_password_and_zone_reach_a_guest_when_they_change() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    scripted(&host, "web", "sleep 1000", &["--start"]);
    assert_eq!(inside(&host, "web", "ls -A /root"), "");
    inside(&host, "web", "echo mine > /etc/hostname");
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ1bGtoZWFk0000000000000000000000000000 me";
    let said = host.ok(&[
        "set",
        "web",
        "--ssh-key",
        key,
        "--root-password-hash",
        "$6$x$y",
    ]);
    assert!(said.contains("waits for a restart: "), "{said}");
    host.ok(&["set", "web", "timezone=Europe/Berlin"]);
    host.ok(&["restart", "web", "--timeout", "0s"]);
    assert_eq!(inside(&host, "web", "cat /root/.ssh/authorized_keys"), key);
    assert!(inside(&host, "web", "cat /etc/shadow").starts_with("root:$6$x$y:"));
    assert_eq!(inside(&host, "web", "cat /etc/timezone"), "Europe/Berlin");
    // What did not change in the definition stays as it was made inside.
    assert_eq!(inside(&host, "web", "cat /etc/hostname"), "mine");
    inside(&host, "web", "echo more >> /root/.ssh/authorized_keys");
    host.ok(&["restart", "web", "--timeout", "0s"]);
    assert!(inside(&host, "web", "cat /root/.ssh/authorized_keys").ends_with("more"));
}

#[test]
fn what_the_kernel_refuses_changes_nothing() {
    if !need(Need::Root) || !need(Need::CgroupV1) {
        return;
    }
    let host = Bulkhead::new();
    scripted(&host, "web", "sleep 1000", &["--memory", "64M", "--start"]);
    // Memory that the kernel cannot take back: a limit below it is refused on version 1.
    inside(
        &host,
        "web",
        "mkdir -p /m && mount -t tmpfs -o size=40M none /m && \
        dd if=/dev/zero of=/m/file bs=1M count=30 2>/dev/null",
    );
    let (before, text) = (snapshot(&host), definition(&host, "web"));
    let why = host.fails(&["set", "web", "memory.limit=8M", "processes=77"], 5);
    assert!(why.contains("memory") && why.contains("8"), "{why}");
    assert_eq!(memory(&host), (64 << 20).to_string());
    assert_ne!(in_force(&host, "web", "pids", "pids.max", "pids.max"), "77");
    assert_eq!(definition(&host, "web"), text);
    unchanged(&host, &before);
    assert!(!events(&host, "web").contains(&"changed".to_owned()));
    // And the guest was not harmed by the trial.
    assert_eq!(inside(&host, "web", "ls /m"), "file");
}

#[test]
fn a_wrong_value_is_told_by_its_key_and_changes_nothing() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    scripted(&host, "web", "sleep 1000", &["--start"]);
    let before = snapshot(&host);
    for (word, code, told) in [
        ("memory.limit=1", 5, "error: memory.limit: 1 is too little"),
        ("memory.limt=1G", 2, "did you mean \"memory.limit\"?"),
        ("memory=1G", 2, "did you mean \"memory.limit\"?"),
        ("cpus=1", 2, "did you mean \"cpu.limit\"?"),
        (
            "cpu.limit=500",
            5,
            "error: cpu.limit: 500 is more than there are",
        ),
        (
            "cpu.limit=0",
            2,
            "error: cpu.limit: \"0\" is not a number of CPUs",
        ),
        ("cpu.cpuset=900", 5, "there is no CPU 900"),
        (
            "processes=many",
            2,
            "processes: \"many\" is not a whole number",
        ),
        ("restart.policy=alwys", 2, "did you mean \"always\"?"),
        ("security.add=SYS_ADMN", 2, "did you mean"),
        ("mount=/no/such:/mnt", 5, "/no/such"),
        ("network.address=1.2.3", 2, "is not an IPv4 address"),
        (
            "template=host",
            5,
            "is made from template busybox and stays so",
        ),
        ("hostname", 2, "write KEY=VALUE"),
    ] {
        let why = host.fails(&["set", "web", word], code);
        assert!(why.contains(told), "{word}: {why}");
        assert!(why.starts_with("error: "), "{word}: {why}");
    }
    host.fails(&["set", "web"], 2);
    host.fails(&["set", "nobody", "cpu.limit=1"], 3);
    host.fails(&["get", "web", "memory.limt"], 2);
    unchanged(&host, &before);
}

#[test]
fn a_dry_run_says_and_does_nothing() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    made(&host, "db", &[]);
    scripted(&host, "web", "sleep 1000", &["--start"]);
    let before = snapshot(&host);
    let said = host.ok(&["set", "web", "memory.limit=32M", "hostname=x", "--dry-run"]);
    assert!(
        said.contains("would be in force at once: memory.limit"),
        "{said}"
    );
    assert!(
        said.contains("would wait for a restart: hostname"),
        "{said}"
    );
    for args in [
        &["stop", "web"][..],
        &["kill", "web"],
        &["pause", "web"],
        &["restart", "web"],
        &["start", "db"],
        &["delete", "db"],
        &["delete", "web", "--force"],
        &["rename", "db", "sql"],
        &["create", "new", "--template", "busybox", "--start"],
    ] {
        let done = host.run(&[args, &["--dry-run"]].concat());
        assert_eq!(done.code, 0, "{args:?}: {}", done.report());
        let said = format!("{}{}", done.stdout, done.stderr);
        assert!(said.contains("would"), "{args:?}: {said}");
    }
    // What could not be done is told by the trial too.
    host.fails(&["delete", "web", "--dry-run"], 4);
    host.fails(&["rename", "db", "web", "--dry-run"], 4);
    host.fails(&["create", "web", "--dry-run"], 4);
    unchanged(&host, &before);
    assert_eq!(info(&host, "web")["status"], "running");
}

#[test]
fn an_editor_changes_the_file_and_what_is_wrong_changes_nothing() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    scripted(&host, "web", "sleep 1000", &["--memory", "64M", "--start"]);
    let edit = |script: &str, more: &[&str]| {
        let editor = host.root().join("editor");
        std::fs::write(&editor, format!("#!/bin/sh\n{script}\n")).expect("a folder of ours");
        let mut command = host.command(&[&["edit", "web"], more].concat());
        command.env_remove("VISUAL");
        command.env("EDITOR", format!("sh {}", editor.display()));
        support::run(command)
    };
    let more = "echo '# of mine' >> \"$1\"; sed -i 's/64M/48M/' \"$1\"";
    let done = edit(more, &["--dry-run"]);
    assert!(
        done.stdout
            .contains("would be in force at once: memory.limit"),
        "{}",
        done.report()
    );
    assert_eq!(memory(&host), (64 << 20).to_string());
    let done = edit(more, &[]);
    assert!(
        done.stdout.contains("in force: memory.limit"),
        "{}",
        done.report()
    );
    assert_eq!(memory(&host), (48 << 20).to_string());
    assert!(definition(&host, "web").contains("# of mine"));
    // A command that edits the file leaves the comment.
    host.ok(&["set", "web", "labels.team=a"]);
    assert!(definition(&host, "web").contains("# of mine"));

    let before = snapshot(&host);
    let done = edit("true", &[]);
    assert_eq!(
        (done.code, done.stdout.as_str()),
        (0, "web: nothing is different\n")
    );
    let done = edit("sed -i 's/limit/limt/' \"$1\"", &[]);
    assert_eq!(done.code, 5);
    assert!(
        done.stderr.contains("did you mean \"limit\"?"),
        "{}",
        done.report()
    );
    let done = edit("exit 3", &[]);
    assert_eq!(done.code, 1);
    assert!(
        done.stderr.contains("nothing is changed"),
        "{}",
        done.report()
    );
    std::fs::remove_file(host.root().join("editor")).expect("the editor");
    let mut without = before.clone();
    without.remove(&host.root().join("editor"));
    unchanged(&host, &without);
}

#[test]
fn templates_profiles_plan_and_completions_answer() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    let templates = host.ok(&["template", "list"]);
    for name in ["busybox", "debian", "host", "tar"] {
        assert!(templates.contains(name), "{templates}");
    }
    assert!(host.ok(&["template", "info", "debian"]).contains("suite"));
    let why = host.fails(&["template", "info", "debain"], 5);
    assert!(why.contains("did you mean \"debian\"?"), "{why}");
    let profiles = host.ok(&["profile", "list"]);
    for name in [
        "tiny", "small", "medium", "large", "xlarge", "hardened", "nesting", "legacy",
    ] {
        assert!(profiles.contains(name), "{profiles}");
    }
    assert!(
        host.ok(&["profile", "show", "hardened"])
            .contains("seccomp")
    );
    made(
        &host,
        "web",
        &[
            "--profile",
            "tiny",
            "--profile",
            "hardened",
            "--memory",
            "40M",
        ],
    );
    assert_eq!(host.ok(&["get", "web", "memory.limit"]), "40M\n");
    assert_eq!(host.ok(&["get", "web", "security.seccomp"]), "hardened\n");
    let before = snapshot(&host);
    let plan = host.ok(&["plan", "web"]);
    assert!(
        plan.contains("cgroup") && plan.contains("/sbin/init"),
        "{plan}"
    );
    let plan = data(&host, &["plan", "web"]);
    assert_eq!(
        plan["spec"]["linux"]["resources"]["memory"]["limit"],
        40 << 20
    );
    host.fails(&["plan", "wbe"], 3);
    for shell in ["bash", "zsh", "fish"] {
        assert!(
            host.ok(&["completions", shell]).contains("bulkhead"),
            "{shell}"
        );
    }
    host.ok(&["doctor"]);
    unchanged(&host, &before);
    let why = host.fails(&["create", "db", "--profile", "tyni"], 5);
    assert!(why.contains("did you mean \"tiny\"?"), "{why}");
}
