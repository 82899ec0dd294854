//! Snapshots that are taken by the clock, and thinned out. Time passes by making records older.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::life::{data, events, inside};
use crate::support::{Bulkhead, Need, Outcome, TestDir, became, need, run};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;

fn made(host: &Bulkhead, name: &str, flags: &[&str]) {
    let base = ["create", name, "--template", "busybox", "--network", "none"];
    host.ok(&[&base[..], flags].concat());
}

/// What the guest writes while it runs; then it is stopped.
fn writes(host: &Bulkhead, name: &str, text: &str) {
    host.ok(&["start", name]);
    inside(host, name, &format!("echo {text} >/data"));
    host.ok(&["kill", name]);
}

fn nothing_left(host: &Bulkhead) {
    // The process that tells neighbours of an end may still be at it.
    became(10, || host.run(&["doctor"]).code == 0);
    assert_eq!(data(host, &["doctor"])["leftovers"], json!([]));
}

fn layers(host: &Bulkhead) -> usize {
    let folder = host.root().join("var/lib/bulkhead/kept");
    std::fs::read_dir(folder).map_or(0, Iterator::count)
}

fn records(host: &Bulkhead, name: &str) -> PathBuf {
    host.root()
        .join("var/lib/bulkhead/guests")
        .join(name)
        .join("snapshots")
}

/// Makes everything that was kept this much older, as if so much time had passed.
fn passed(host: &Bulkhead, name: &str, ms: i64) {
    // None was taken yet if there is no folder.
    for entry in std::fs::read_dir(records(host, name)).into_iter().flatten() {
        passed_one(&entry.expect("an entry").path(), ms);
    }
}

fn passed_one(record: &Path, ms: i64) {
    let text = std::fs::read(record).expect("a record");
    let mut value: Value = serde_json::from_slice(&text).expect("a record");
    let old = value["created_ms"].as_i64().expect("a time");
    value["created_ms"] = json!(old - ms);
    std::fs::write(record, value.to_string()).expect("a record");
}

/// Names of the snapshots, those by the clock or those by hand, oldest first.
fn names(host: &Bulkhead, name: &str, automatic: bool) -> Vec<String> {
    let all = data(host, &["snapshot", "list", name]);
    let all = all.as_array().expect("a list").iter();
    all.filter(|one| one["automatic"] == json!(automatic))
        .map(|one| one["name"].as_str().expect("a name").to_owned())
        .collect()
}

/// What one run did to the only guest.
fn ran(host: &Bulkhead) -> (Option<String>, Vec<String>) {
    let done = data(host, &["snapshot", "run"]);
    assert_eq!(done.as_array().expect("a list").len(), 1, "{done}");
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let removed = done[0]["removed"].as_array().expect("a list").iter();
    (text(&done[0]["taken"]), removed.filter_map(text).collect())
}

#[test]
fn taken_when_due_and_thinned_out() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    made(&host, "other", &[]);
    made(&host, "w", &["--snapshot-every", "1d"]);
    host.ok(&["set", "w", "snapshots.keep_last=2", "snapshots.daily=3"]);
    host.ok(&["set", "w", "snapshots.weekly=0"]);
    host.ok(&["snapshot", "create", "w", "mine"]);
    writes(&host, "w", "0");
    let (first, removed) = ran(&host);
    let first = first.expect("the first");
    assert!(first.starts_with("auto-20") && removed.is_empty());
    assert_eq!(ran(&host), (None, vec![]), "not due again");
    let table = host.ok(&["snapshot", "list", "w"]);
    let by = |name: &str| {
        let mut lines = table.lines();
        let line = lines.find(|line| line.starts_with(name)).expect("a line");
        line.split_whitespace().nth(2).map(str::to_owned)
    };
    assert_eq!(by(&first).as_deref(), Some("clock"));
    assert_eq!(by("mine").as_deref(), Some("hand"));

    // Stopped and unchanged: another would be the same. A definition that changed is a change.
    passed(&host, "w", DAY);
    let done = data(&host, &["snapshot", "run", "--dry-run"]);
    assert_eq!(done[0]["unchanged"], json!(true), "{done}");
    assert_eq!(ran(&host), (None, vec![]));
    host.ok(&["set", "w", "memory.limit=64M"]);
    assert!(ran(&host).0.is_some());

    for day in 1..6 {
        passed(&host, "w", DAY);
        writes(&host, "w", &day.to_string());
        let said = host.ok(&["snapshot", "run", "w", "--dry-run"]);
        assert!(said.contains("would be taken"), "{said}");
        let before = names(&host, "w", true);
        let (taken, removed) = ran(&host);
        let kept = names(&host, "w", true);
        assert_eq!(kept.last(), taken.as_ref());
        let gone: Vec<String> = before.into_iter().filter(|n| !kept.contains(n)).collect();
        assert_eq!(gone, removed);
    }
    // Two of the last are of the three days.
    assert_eq!(names(&host, "w", true).len(), 3);
    assert_eq!(names(&host, "w", false), ["mine"]);
    let oldest = &names(&host, "w", true)[0];
    host.ok(&["snapshot", "restore", "w", oldest]);
    host.ok(&["start", "w"]);
    assert_eq!(inside(&host, "w", "cat /data"), "3");
    assert_eq!(names(&host, "other", true), [] as [&str; 0]);

    // Without a schedule nothing is taken and nothing taken away.
    host.ok(&["set", "w", "snapshots.every=none"]);
    passed(&host, "w", 100 * DAY);
    assert_eq!(data(&host, &["snapshot", "run"]), json!([]));
    assert!(
        host.ok(&["snapshot", "run", "w"])
            .contains("nothing is due")
    );
    assert_eq!(names(&host, "w", true).len(), 3);
    // However many go at once, what came after them comes after one that is there.
    host.ok(&["set", "w", "snapshots.every=1d", "snapshots.keep_last=1"]);
    host.ok(&["set", "w", "snapshots.daily=0"]);
    assert!(ran(&host).1.len() >= 2);
    let all = data(&host, &["snapshot", "list", "w"]);
    for one in all.as_array().expect("a list") {
        let mut all = all.as_array().expect("a list").iter();
        let there = one["parent"].is_null() || all.any(|other| other["name"] == one["parent"]);
        assert!(there, "{one}");
    }
    host.fails(&["snapshot", "run", "nobody"], 3);
    host.fails(&["set", "w", "snapshots.every=1s"], 5);
    host.ok(&["delete", "--force", "w"]);
    assert_eq!(layers(&host), 0);
    nothing_left(&host);
}

/// A guest that runs goes on, in as many layers as before; each snapshot is as it was then.
#[test]
fn of_a_guest_that_runs() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    let every = ["--snapshot-every", "1h", "--snapshot-keep-last", "2"];
    let days = ["--snapshot-daily", "0", "--snapshot-weekly", "0"];
    made(&host, "w", &[&every[..], &days, &["--start"]].concat());
    for number in 0..4 {
        inside(&host, "w", &format!("echo {number} >/data"));
        assert!(ran(&host).0.is_some(), "{number}");
        passed(&host, "w", HOUR);
    }
    assert_eq!(layers(&host), 2);
    host.ok(&["kill", "w"]);
    host.ok(&["snapshot", "restore", "w", &names(&host, "w", true)[0]]);
    host.ok(&["start", "w"]);
    assert_eq!(inside(&host, "w", "cat /data"), "2");
}

/// The name of this minute and of the next, given away by hand.
#[test]
fn a_name_that_is_there_is_met_by_another() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    made(&host, "w", &["--snapshot-every", "1h"]);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("now");
    let taken: BTreeSet<String> = (0..3)
        .map(|minute| {
            let mut date = Command::new("date");
            let at = format!("@{}", now.as_secs() + 60 * minute);
            date.args(["-u", "-d", &at, "+auto-%Y-%m-%d-%H%M"]);
            run(date).stdout.trim().to_owned()
        })
        .collect();
    for name in &taken {
        host.ok(&["snapshot", "create", "w", name]);
    }
    let name = ran(&host).0.expect("one");
    let base = name.strip_suffix("-2").expect("the second of that name");
    assert!(taken.contains(base), "{name}");
    assert_eq!(names(&host, "w", false).len(), 3);
}

/// A clock that was ahead: what is from then stays, is no reason to wait, and takes nobody's place.
#[test]
fn times_to_come() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    let only_one = ["--snapshot-keep-last", "1", "--snapshot-daily", "0"];
    let flags = ["--snapshot-every", "1h", "--snapshot-weekly", "0"];
    made(&host, "w", &[&flags[..], &only_one].concat());
    writes(&host, "w", "0");
    let ahead = ran(&host).0.expect("one");
    passed(&host, "w", -DAY);
    for text in ["1", "2"] {
        writes(&host, "w", text);
        let taken = ran(&host).0.expect("another");
        assert_eq!(names(&host, "w", true), [taken, ahead.clone()]);
        let of_now = &names(&host, "w", true)[0];
        passed_one(
            &records(&host, "w").join(format!("{of_now}.json")),
            2 * HOUR,
        );
    }
}

/// A small disk of its own.
struct Disk {
    folder: TestDir,
}

impl Disk {
    fn new(size: &str) -> Self {
        let disk = Self {
            folder: TestDir::new(),
        };
        let line = "cd \"$1\" && truncate -s \"$2\" disk && mkfs.ext4 -q -F -m 0 disk && mkdir at && \
                    mount -o loop disk at && mkdir at/p";
        disk.shell(line, size);
        disk
    }

    fn pool(&self) -> String {
        self.folder.path().join("at/p").display().to_string()
    }

    fn shell(&self, line: &str, size: &str) {
        let mut shell = Command::new("sh");
        shell.args(["-c", line, "sh"]).arg(self.folder.path());
        shell.arg(size).stdin(Stdio::null());
        let done = run(shell);
        assert_eq!(done.code, 0, "{}", done.report());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.shell("umount \"$1/at\"", "");
    }
}

/// A full disk is one guest's trouble, told by an event; old ones go even so, and make room.
#[test]
fn one_that_fails_stops_no_other() {
    if !need(Need::Root) || !need(Need::LoopDevice) {
        return;
    }
    let disk = Disk::new("24M");
    let host = Bulkhead::new();
    host.ok(&["pool", "create", "p", "--source", &disk.pool()]);
    let every = ["--snapshot-every", "1h", "--snapshot-keep-last", "1"];
    let days = ["--snapshot-daily", "0", "--snapshot-weekly", "0"];
    let start = [&every[..], &days, &["--start"]].concat();
    made(&host, "a", &[&start[..], &["--pool", "p"]].concat());
    made(&host, "b", &start);
    inside(
        &host,
        "a",
        "dd if=/dev/zero of=/old bs=1M count=6 2>/dev/null",
    );
    assert_eq!(host.run(&["snapshot", "run"]).code, 0);
    passed(&host, "a", HOUR);
    passed(&host, "b", HOUR);
    // No room for a copy of both beside the first.
    inside(
        &host,
        "a",
        "dd if=/dev/zero of=/new bs=1M count=5 2>/dev/null",
    );
    let done: Outcome = host.run(&["snapshot", "run"]);
    assert_eq!(done.code, 1, "{}", done.report());
    assert!(done.stderr.contains("No space left"), "{}", done.report());
    assert!(
        done.stdout.contains("b: snapshot auto-"),
        "{}",
        done.report()
    );
    // Told once, however often it is tried.
    assert_eq!(host.run(&["snapshot", "run", "a"]).code, 1);
    let failed = |name: &String| name == "snapshot-failed";
    let told = events(&host, "a");
    assert_eq!(
        told.iter().filter(|name| failed(name)).count(),
        1,
        "{told:?}"
    );
    let told = host.ok(&["events", "a"]);
    assert!(told.contains("snapshots by the clock failed"), "{told}");
    assert!(!events(&host, "b").iter().any(failed));
    assert_eq!(names(&host, "a", true).len(), 1);
    assert_eq!(
        inside(&host, "a", "stat -c %s /old /new | tr '\\n' ' '"),
        "6291456 5242880"
    );
    nothing_left(&host);
    // The same where the only trouble is the record of a guest that somebody damaged.
    let folder = records(&host, "a");
    std::fs::write(folder.join("bad.json"), "{").expect("ours");
    passed(&host, "b", HOUR);
    let done = host.run(&["snapshot", "run"]);
    assert_eq!(done.code, 1, "{}", done.report());
    assert!(done.stderr.contains("bad.json"), "{}", done.report());
    assert!(
        done.stdout.contains("b: snapshot auto-"),
        "{}",
        done.report()
    );
    std::fs::remove_file(folder.join("bad.json")).expect("ours");
    host.ok(&["delete", "--force", "a", "b"]);
    host.ok(&["pool", "delete", "p"]);
}

/// Two timers at once: whoever comes second finds it done.
#[test]
fn two_at_once_take_one() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    made(&host, "w", &["--snapshot-every", "1h", "--start"]);
    inside(
        &host,
        "w",
        "dd if=/dev/zero of=/big bs=1M count=16 2>/dev/null",
    );
    let both: Vec<_> = (0..4)
        .map(|_| {
            let mut command = host.command(&["snapshot", "run"]);
            command.stdout(Stdio::null()).stderr(Stdio::null());
            command.spawn().expect("the program")
        })
        .collect();
    for mut one in both {
        assert!(one.wait().expect("a child of ours").success());
    }
    assert_eq!(names(&host, "w", true).len(), 1);
    assert_eq!(layers(&host), 1);
}

fn is_stopped(child: &Child) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id()));
    stat.is_ok_and(|stat| stat.contains(") T "))
}

/// Asked to end at any point of a run, as systemd asks a service when the host shuts down: the guest
/// is held still no longer, and nothing is half-made.
#[test]
fn asked_to_end_it_lets_the_guest_go_on() {
    if need(Need::Root) {
        asked_to_end(&["snapshot", "run"], true);
    }
}

#[test]
fn asked_to_end_one_by_hand_does_too() {
    if need(Need::Root) {
        asked_to_end(&["snapshot", "create", "w"], false);
    }
}

/// At every point.
fn asked_to_end(args: &[&str], automatic: bool) {
    let host = Bulkhead::new();
    made(&host, "w", &["--snapshot-every", "1h", "--start"]);
    inside(&host, "w", "echo kept >/data");
    let (mut cut_short, mut number) = (0, 0);
    loop {
        let mut command = host.command(args);
        command.env("BULKHEAD_FAULT", format!("command:{number}:stop"));
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().expect("the program");
        let mut ended = None;
        let met = became(20, || {
            ended = child.try_wait().expect("a child of ours");
            ended.is_some() || is_stopped(&child)
        });
        assert!(met, "{number}");
        if let Some(status) = ended {
            assert!(status.success());
            break;
        }
        let pid = Pid::from_raw(child.id().try_into().expect("a process"));
        for signal in [Signal::SIGTERM, Signal::SIGCONT] {
            kill(pid, signal).expect("a child of ours");
        }
        let code = child.wait().expect("a child of ours").code();
        assert!(matches!(code, Some(0 | 143)), "{number}: {code:?}");
        cut_short += usize::from(code == Some(143));
        assert_eq!(inside(&host, "w", "cat /data"), "kept", "{number}");
        nothing_left(&host);
        assert_eq!(
            layers(&host),
            names(&host, "w", automatic).len(),
            "{number}"
        );
        passed(&host, "w", DAY);
        number += 1;
    }
    assert!(cut_short > 0 && number > 5, "{cut_short} of {number}");
}

/// Every point of a run that takes one and removes one: what the guest had it still has, so has what
/// a person kept, one by the clock is always there, and the next run has nothing left to do but its
/// own. Gives the number of points: of those that are refused some are no failure.
fn every_point(host: &Bulkhead, flags: &[&str], fault: &str, most: usize) -> usize {
    let every = ["--snapshot-every", "1h", "--snapshot-keep-last", "1"];
    let days = ["--snapshot-daily", "0", "--snapshot-weekly", "0"];
    made(host, "w", &[&every[..], &days, flags].concat());
    writes(host, "w", "first");
    host.ok(&["snapshot", "create", "w", "mine"]);
    writes(host, "w", "second");
    assert!(ran(host).0.is_some());
    let mut points = most;
    for number in 0..most {
        passed(host, "w", 2 * HOUR);
        writes(host, "w", &number.to_string());
        let before = names(host, "w", true);
        let mut command = host.command(&["snapshot", "run"]);
        command.env("BULKHEAD_FAULT", format!("command:{number}{fault}"));
        let code = run(command).code;
        host.ok(&["doctor", "--fix"]);
        nothing_left(host);
        host.ok(&["start", "w"]);
        assert_eq!(inside(host, "w", "cat /data"), number.to_string());
        host.ok(&["kill", "w"]);
        assert_eq!(names(host, "w", false), ["mine"], "{number}");
        let after = names(host, "w", true);
        assert!(!after.is_empty() && after.len() <= 2, "{number}: {after:?}");
        if code == 0 && fault.is_empty() {
            assert!(after.len() == 1 && after != before, "{number}: {after:?}");
            points = number;
            break;
        }
        // Another run finishes it.
        host.ok(&["snapshot", "run"]);
        assert_eq!(names(host, "w", true).len(), 1, "{number}");
    }
    host.ok(&["snapshot", "restore", "w", "mine"]);
    host.ok(&["start", "w"]);
    assert_eq!(inside(host, "w", "cat /data"), "first");
    host.ok(&["delete", "--force", "w"]);
    points
}

#[test]
fn every_point_with_layers() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    let points = every_point(&host, &[], "", 40);
    assert!((8..40).contains(&points), "{points} points");
    every_point(&host, &[], ":fail", points);
    assert_eq!(layers(&host), 0);
    nothing_left(&host);
}

#[test]
fn every_point_with_copies() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    host.ok(&["pool", "create", "p", "--driver", "btrfs", "--size", "256M"]);
    let points = every_point(&host, &["--pool", "p"], "", 40);
    assert!((6..40).contains(&points), "{points} points");
    host.ok(&["pool", "delete", "p"]);
    nothing_left(&host);
}
