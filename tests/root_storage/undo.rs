//! Undo disks: what a guest writes in one run dropped at its end, or decided about afterwards, in pools
//! of each driver, and wherever it is cut short.

use crate::life;
use crate::life::{data, in_a_pool, info, inside, made};
use crate::support::{Bulkhead, Need, became, eventually, need, run};
use serde_json::json;

fn nothing_left(host: &Bulkhead) {
    // The process that tells neighbours of an end may still be at it.
    became(10, || host.run(&["doctor"]).code == 0);
    assert_eq!(data(host, &["doctor"])["leftovers"], json!([]));
}

fn snapshots(host: &Bulkhead) -> Vec<String> {
    let all = data(host, &["snapshot", "list", "w"]);
    let name = |one: &serde_json::Value| one["name"].as_str().expect("a name").to_owned();
    all.as_array().expect("a list").iter().map(name).collect()
}

fn reboot(host: &Bulkhead) {
    let pid = info(host, "w")["pid"].clone();
    host.run(&["exec", "w", "--", "reboot", "-f"]);
    eventually("it has rebooted", 20, || {
        let now = info(host, "w");
        now["status"] == "running" && now["pid"] != pid
    });
}

const CHANGE: &str = "echo two >/data; rm /gone; mkdir /new; chmod 700 /; rm -r /etc/init.d";
const SEEN: &str = "cat /data; ls -d /gone /new /etc/init.d 2>/dev/null; stat -c %a /";
const BEFORE: &str = "one\n/etc/init.d\n/gone\n755";
const AFTER: &str = "two\n/new\n700";

fn a_life(host: &Bulkhead, flags: &[&str]) {
    made(
        host,
        "w",
        &[flags, &["--network", "none", "--start"]].concat(),
    );
    inside(host, "w", "echo one >/data; touch /gone");
    host.ok(&["kill", "w"]);
    host.ok(&["snapshot", "create", "w", "mine"]);

    // Dropped at its end, whichever that is; a reboot is none.
    for end in ["stop", "kill", "poweroff"] {
        host.ok(&["start", "w", "--undo"]);
        assert_eq!(info(host, "w")["undo"], "drop");
        inside(host, "w", CHANGE);
        reboot(host);
        assert_eq!(inside(host, "w", SEEN), AFTER);
        match end {
            "poweroff" => drop(host.run(&["exec", "w", "--", "poweroff", "-f"])),
            end => drop(host.ok(&[end, "w"])),
        }
        eventually("it has gone back", 20, || {
            life::is(host, "w", "stopped") && info(host, "w")["undo"] == json!(null)
        });
        assert_eq!(snapshots(host), ["mine"]);
        host.ok(&["start", "w"]);
        assert_eq!(inside(host, "w", SEEN), BEFORE, "{end}");
        host.ok(&["kill", "w"]);
    }

    // Decided afterwards, and until then nothing else is done with it.
    host.ok(&["start", "w", "--undo=later"]);
    inside(host, "w", CHANGE);
    let said = host.fails(&["undo", "w", "drop"], 4);
    assert!(said.contains("stop it first"), "{said}");
    // A restart is no decision: it goes on over what it has written.
    host.ok(&["restart", "w"]);
    assert_eq!(inside(host, "w", SEEN), AFTER);
    assert_eq!(info(host, "w")["undo"], "later");
    host.ok(&["stop", "w"]);
    assert!(host.ok(&["list"]).contains("bulkhead undo w keep"));
    for refused in [
        &["start", "w"][..],
        &["restart", "w"],
        &["start", "w", "--undo"],
        &["rescue", "w"],
    ] {
        let said = host.fails(refused, 4);
        assert!(said.contains("bulkhead undo w"), "{said}");
    }
    let kept = snapshots(host).pop().expect("what it goes back to");
    host.fails(&["snapshot", "delete", "w", &kept], 4);
    nothing_left(host);
    // It goes on over the same undo disk; a start that fails takes nothing of it away.
    host.ok(&["set", "w", "init.command=/nowhere"]);
    host.fails(&["start", "w", "--undo=later"], 1);
    host.ok(&["set", "w", "--unset", "init.command"]);
    host.ok(&["start", "w", "--undo=later"]);
    assert_eq!(inside(host, "w", SEEN), AFTER);
    assert_eq!(snapshots(host), ["mine", &kept]);
    host.ok(&["stop", "w"]);
    assert_eq!(snapshots(host), ["mine", &kept]);
    host.ok(&["undo", "w", "drop", "--dry-run"]);
    host.ok(&["undo", "w", "drop"]);
    host.ok(&["start", "w"]);
    assert_eq!(inside(host, "w", SEEN), BEFORE);
    host.ok(&["kill", "w"]);
    host.fails(&["undo", "w", "keep"], 4);

    host.ok(&["start", "w", "--undo=later"]);
    inside(host, "w", CHANGE);
    host.ok(&["kill", "w"]);
    host.ok(&["undo", "w", "merge"]);
    assert_eq!(snapshots(host), ["mine"]);
    host.ok(&["start", "w"]);
    assert_eq!(inside(host, "w", SEEN), AFTER);
    host.ok(&["kill", "w"]);
    // A guest that runs can keep what it has as well.
    host.ok(&["snapshot", "restore", "w", "mine"]);
    host.ok(&["start", "w", "--undo"]);
    inside(host, "w", CHANGE);
    host.ok(&["undo", "w", "keep"]);
    host.ok(&["restart", "w"]);
    assert_eq!(inside(host, "w", SEEN), AFTER);
    assert_eq!(snapshots(host), ["mine"]);
    host.ok(&["delete", "--force", "w"]);
    nothing_left(host);
}

#[test]
fn over_folders() {
    if !need(Need::Root) {
        return;
    }
    let host = &Bulkhead::new();
    a_life(host, &[]);
    let kept = host.root().join("var/lib/bulkhead/kept");
    assert_eq!(std::fs::read_dir(kept).expect("layers").count(), 0);
}

#[test]
fn over_files() {
    if !need(Need::Root) {
        return;
    }
    in_a_pool("image", a_life);
}

#[test]
fn over_subvolumes() {
    if !need(Need::Root) {
        return;
    }
    in_a_pool("btrfs", a_life);
}

/// A key and a password that were taken away since do not come back with the files of before.
#[test]
fn what_was_taken_away_stays_away() {
    if !need(Need::Root) {
        return;
    }
    let host = &Bulkhead::new();
    let keys = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ1bGtoZWFk0000000000000000000000000000 me";
    let given = ["--network", "none", "--ssh-key", keys];
    made(
        host,
        "w",
        &[&given[..], &["--root-password-hash", "$6$x$y", "--start"]].concat(),
    );
    let seen = "cat /root/.ssh/authorized_keys; grep ^root: /etc/shadow";
    let before = inside(host, "w", seen);
    assert!(
        before.starts_with(keys) && before.contains("$6$x$y"),
        "{before}"
    );
    host.ok(&["kill", "w"]);
    host.ok(&["snapshot", "create", "w", "mine"]);
    let away = || {
        let seen = inside(host, "w", seen);
        assert!(
            !seen.contains("ssh-ed25519") && seen.contains("$6$x$z"),
            "{seen}"
        );
    };
    let hash = "access.root_password_hash=$6$x$z";
    host.ok(&["set", "w", hash, "--unset", "access.ssh_keys"]);
    for end in [&["stop", "w"], &["kill", "w"]] {
        host.ok(&["start", "w", "--undo"]);
        away();
        host.ok(end);
        host.ok(&["start", "w"]);
        away();
        host.ok(&["kill", "w"]);
        // The files have it again, and nothing but the next start knows better.
        host.ok(&["snapshot", "restore", "w", "mine"]);
        assert_eq!(
            host.ok(&["file", "pull", "w:/root/.ssh/authorized_keys", "-"])
                .trim_end(),
            keys
        );
    }
    host.ok(&["start", "w"]);
    away();
    host.ok(&["delete", "--force", "w"]);
    nothing_left(host);
}

/// A snapshot that somebody looks into stays, and then nothing at all is dropped.
#[test]
fn what_is_looked_into() {
    if !need(Need::Root) {
        return;
    }
    let host = &Bulkhead::new();
    guest(host, &[]);
    let at = host.root().join("look");
    std::fs::create_dir(&at).expect("a folder of ours");
    let at = at.to_str().expect("a plain path");
    host.ok(&["start", "w", "--undo"]);
    let goes = snapshots(host).pop().expect("what it goes back to");
    let said = host.fails(&["snapshot", "mount", "w", &goes, at], 4);
    assert!(said.contains("bulkhead undo w keep"), "{said}");
    host.ok(&["kill", "w"]);

    host.ok(&["start", "w", "--undo=later"]);
    inside(host, "w", "echo two >/data");
    host.ok(&["kill", "w"]);
    let goes = snapshots(host).pop().expect("what it goes back to");
    host.ok(&["snapshot", "mount", "w", &goes, at]);
    for decision in ["drop", "keep"] {
        for more in [&["--dry-run"][..], &[]] {
            let said = host.fails(&[&["undo", "w", decision], more].concat(), 4);
            assert!(said.contains("snapshot unmount"), "{said}");
        }
    }
    let data = || host.ok(&["file", "pull", "w:/data", "-"]);
    assert_eq!(data(), "two\n");
    host.ok(&["snapshot", "unmount", at]);
    host.ok(&["undo", "w", "drop"]);
    assert_eq!(data(), "one\n");
    host.ok(&["delete", "w"]);
    nothing_left(host);
}

/// A start that fails has no undo disk; a policy's restart keeps it; a guest that dies loses it.
#[test]
fn with_what_goes_wrong() {
    if !need(Need::Root) {
        return;
    }
    let host = &Bulkhead::new();
    let script = "n=$(cat /n 2>/dev/null); echo $((n+1)) >/n; sleep 1; exit 3";
    life::scripted(
        host,
        "w",
        script,
        &[
            "--network",
            "none",
            "--restart",
            "on-failure",
            "--restart-delay",
            "100ms",
        ],
    );
    host.ok(&["start", "w", "--undo"]);
    eventually("it was started again", 30, || {
        life::events(host, "w")
            .iter()
            .filter(|e| *e == "restarted")
            .count()
            >= 2
    });
    host.ok(&["kill", "w"]);
    assert_eq!(info(host, "w")["undo"], json!(null));
    let said = host.run(&["file", "ls", "w:/n"]);
    assert_ne!(said.code, 0, "nothing of it is left: {}", said.stdout);
    assert_eq!(snapshots(host), [] as [String; 0]);
    host.ok(&["set", "w", "init.command=/bin/none", "restart.policy=no"]);
    host.fails(&["start", "w", "--undo=later"], 1);
    assert_eq!(info(host, "w")["undo"], json!(null));
    assert_eq!(snapshots(host), [] as [String; 0]);
    host.ok(&["delete", "w"]);
    nothing_left(host);
}

/// A backup neither ends a restart that is waited for, nor keeps what is to be dropped.
#[test]
fn with_a_backup() {
    if !need(Need::Root) {
        return;
    }
    let host = &Bulkhead::new();
    let to = host.root().join("repository").display().to_string();
    host.ok(&["backup", "init", &to]);
    let policy = ["--restart", "on-failure", "--restart-delay", "5s"];
    let flags = [&["--network", "none"][..], &policy].concat();
    life::scripted(host, "w", "echo two >/data; sleep 1; exit 3", &flags);
    host.ok(&["start", "w", "--undo"]);
    let waits = || life::is(host, "w", "restarting");
    eventually("it waits for its restart", 20, waits);
    host.ok(&["backup", "create", "w", "--freeze", "--repo", &to]);
    assert_eq!(info(host, "w")["undo"], "drop");
    eventually("it was started again", 20, || {
        life::events(host, "w").contains(&"restarted".to_owned())
    });
    host.ok(&["kill", "w"]);
    host.ok(&["delete", "w"]);

    guest(host, &[]);
    let due = (0..30).any(|number| {
        host.ok(&["start", "w", "--undo"]);
        inside(host, "w", "echo two >/data");
        faulty(host, &format!("command:{number}"), &["kill", "w"]);
        let now = info(host, "w");
        let due = now["status"] == "stopped" && now["undo"] == "drop";
        if !due {
            host.ok(&["kill", "w"]);
        }
        due
    });
    assert!(due, "no point lies between the end and the drop");
    host.ok(&["backup", "create", "w", "--repo", &to]);
    assert_eq!(info(host, "w")["undo"], json!(null));
    assert_eq!(host.ok(&["file", "pull", "w:/data", "-"]), "one\n");
    host.ok(&["delete", "w"]);
    nothing_left(host);
}

/// Every point of a command or a keeper: `doctor`, or the next command, brings the guest back to what it
/// had, or leaves it with what it has where a person is to decide.
fn every(host: &Bulkhead, place: &str, later: bool, act: &dyn Fn(&Bulkhead, &str) -> i32) {
    for number in 0..60 {
        let fault = format!("{place}:{number}");
        let code = act(host, &fault);
        eventually("its processes have ended", 20, || {
            let status = info(host, "w")["status"].clone();
            status == "stopped" || status == "running" && host.run(&["kill", "w"]).code == 0
        });
        if number % 2 == 0 {
            became(10, || host.run(&["doctor", "--fix"]).code == 0);
            nothing_left(host);
        }
        if later && info(host, "w")["undo"] == "later" {
            host.ok(&["undo", "w", "drop"]);
        }
        host.ok(&["start", "w"]);
        assert_eq!(
            inside(host, "w", "cat /data; ls -d /new 2>/dev/null; true"),
            "one",
            "{fault}"
        );
        assert_eq!(snapshots(host), [] as [String; 0], "{fault}");
        host.ok(&["kill", "w"]);
        if code == 0 {
            assert!(number >= 3, "{place}: {number} points");
            return;
        }
    }
    panic!("{place}: more than 60 points");
}

fn faulty(host: &Bulkhead, fault: &str, args: &[&str]) -> i32 {
    let mut command = host.command(args);
    command.env("BULKHEAD_FAULT", fault);
    run(command).code
}

/// A guest whose `/data` says one.
fn guest(host: &Bulkhead, flags: &[&str]) {
    let more = ["--network", "none", "--start"];
    made(host, "w", &[flags, &more].concat());
    inside(host, "w", "echo one >/data");
    host.ok(&["kill", "w"]);
}

fn at_its_start(host: &Bulkhead, flags: &[&str]) {
    guest(host, flags);
    every(host, "command", false, &|host, fault| {
        faulty(host, fault, &["start", "w", "--undo"])
    });
    every(host, "command", true, &|host, fault| {
        faulty(host, fault, &["start", "w", "--undo=later"])
    });
    every(host, "launch", false, &|host, fault| {
        faulty(host, fault, &["start", "w", "--undo"])
    });
    host.ok(&["delete", "w"]);
    nothing_left(host);
}

/// A start that was killed before the guest ran leaves nothing to decide either.
#[test]
fn a_start_that_is_killed_leaves_nothing_to_decide() {
    if !need(Need::Root) {
        return;
    }
    let host = &Bulkhead::new();
    guest(host, &[]);
    let (mut before, mut after) = (0, 0);
    for number in 0..60 {
        let fault = format!("command:{number}");
        let code = faulty(host, &fault, &["start", "w", "--undo=later"]);
        let ran = host.run(&["kill", "w"]).stdout.contains("killed");
        host.ok(&["doctor", "--fix"]);
        if ran || info(host, "w")["undo"] == "later" {
            after += 1;
            assert!(code == 0 || after < 4, "{fault}: the guest had not run");
            host.ok(&["undo", "w", "drop"]);
        } else {
            before += 1;
            assert_eq!(info(host, "w")["undo"], json!(null), "{fault}");
            assert_eq!(snapshots(host), [] as [String; 0], "{fault}");
        }
        host.ok(&["start", "w"]);
        assert_eq!(inside(host, "w", "cat /data"), "one", "{fault}");
        host.ok(&["kill", "w"]);
        if code == 0 {
            assert!(before >= 3 && after >= 1, "{before} and {after}");
            host.ok(&["delete", "w"]);
            return nothing_left(host);
        }
    }
    panic!("more than 60 points");
}

/// Whatever a start fails at, nobody has to decide about what was never written.
#[test]
fn a_start_that_fails_leaves_nothing_to_decide() {
    if !need(Need::Root) {
        return;
    }
    let host = &Bulkhead::new();
    guest(host, &[]);
    for number in 0..60 {
        let fault = format!("command:{number}:fail");
        let code = faulty(host, &fault, &["start", "w", "--undo=later"]);
        if code == 0 {
            assert!(number >= 3, "{number} points");
            host.ok(&["delete", "--force", "w"]);
            return nothing_left(host);
        }
        assert_eq!(info(host, "w")["undo"], json!(null), "{fault}");
        assert_eq!(snapshots(host), [] as [String; 0], "{fault}");
    }
    panic!("more than 60 points");
}

fn at_its_end(host: &Bulkhead, flags: &[&str]) {
    guest(host, flags);
    for number in 0..12 {
        // Killed or not: there are fewer points than that.
        let fault = format!("keeper:{number}");
        faulty(host, &fault, &["start", "w", "--undo"]);
        inside(host, "w", "echo two >/data");
        host.run(&["exec", "w", "--", "poweroff", "-f"]);
        eventually("it has ended", 20, || life::is(host, "w", "stopped"));
        host.ok(&["start", "w"]);
        assert_eq!(inside(host, "w", "cat /data"), "one", "{fault}");
        host.ok(&["kill", "w"]);
    }
    every(host, "command", false, &|host, fault| {
        host.ok(&["start", "w", "--undo"]);
        inside(host, "w", "echo two >/data; mkdir /new");
        faulty(host, fault, &["kill", "w"])
    });
    host.ok(&["delete", "w"]);
    nothing_left(host);
}

fn in_the_decision(host: &Bulkhead, flags: &[&str]) {
    guest(host, flags);
    every(host, "command", true, &|host, fault| {
        host.ok(&["start", "w", "--undo=later"]);
        inside(host, "w", "echo two >/data; mkdir /new");
        host.ok(&["kill", "w"]);
        faulty(host, fault, &["undo", "w", "drop"])
    });
    for number in 0.. {
        host.ok(&["start", "w", "--undo=later"]);
        inside(host, "w", &format!("echo {number} >/data"));
        host.ok(&["kill", "w"]);
        let code = faulty(host, &format!("command:{number}"), &["undo", "w", "keep"]);
        if number % 2 == 0 {
            host.ok(&["doctor", "--fix"]);
            nothing_left(host);
        }
        if info(host, "w")["undo"] == "later" {
            host.ok(&["undo", "w", "keep"]);
        }
        host.ok(&["start", "w"]);
        assert_eq!(inside(host, "w", "cat /data"), number.to_string());
        assert_eq!(snapshots(host), [] as [String; 0], "{number}");
        host.ok(&["kill", "w"]);
        if code == 0 {
            assert!(number >= 2, "{number} points");
            break;
        }
        assert!(number < 30, "more than 30 points");
    }
    host.ok(&["delete", "w"]);
    nothing_left(host);
}

/// A host with a pool whose snapshots are copies, for what is done in it.
fn with_copies(act: fn(&Bulkhead, &[&str])) {
    in_a_pool("btrfs", act);
}

#[test]
fn cut_short_at_its_start() {
    if !need(Need::Root) {
        return;
    }
    at_its_start(&Bulkhead::new(), &[]);
}

#[test]
fn cut_short_at_its_start_with_copies() {
    if !need(Need::Root) {
        return;
    }
    with_copies(at_its_start);
}

#[test]
fn cut_short_at_its_end() {
    if !need(Need::Root) {
        return;
    }
    at_its_end(&Bulkhead::new(), &[]);
}

#[test]
fn cut_short_at_its_end_with_copies() {
    if !need(Need::Root) {
        return;
    }
    with_copies(at_its_end);
}

#[test]
fn cut_short_in_the_decision() {
    if !need(Need::Root) {
        return;
    }
    in_the_decision(&Bulkhead::new(), &[]);
}

#[test]
fn cut_short_in_the_decision_with_copies() {
    if !need(Need::Root) {
        return;
    }
    with_copies(in_the_decision);
}
