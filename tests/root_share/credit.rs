//! Credits of CPU time: a guest that has saved some up runs fast until it has used them up, and is
//! then held to what it earns, whoever is killed; what it has outlasts its runs. The arithmetic is
//! tested on a clock of its own, in `model::credit`.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::life::{data, info, inside, scripted};
use crate::support::{Bulkhead, Need, eventually, need};
use serde_json::{Value, json};

/// A running guest of one CPU that earns a fifth of that, with flags more.
fn guest(host: &Bulkhead, flags: &[&str]) {
    let usual = ["--network", "none", "--cpus", "1", "--start"];
    scripted(host, "a", "sleep 1000", &[&usual[..], flags].concat());
}

const CREDITS: [&str; 4] = ["--cpu-earn", "0.2", "--cpu-bank", "2s"];

/// The CPU limit in force, hundredths.
fn limit(host: &Bulkhead) -> Option<u64> {
    let rows = data(host, &["limits", "a"]);
    let rows = rows.as_array().expect("a list").clone();
    rows.into_iter().find(|row| row["resource"] == "cpu")?["limit"].as_u64()
}

fn saved(host: &Bulkhead) -> i64 {
    let view = info(host, "a")["credits"].clone();
    view["saved_us"].as_i64().expect("a number")
}

/// Whether it was held back, by each event of its credits.
fn turns(host: &Bulkhead) -> Vec<bool> {
    let all = data(host, &["events", "a"]);
    let all = all.as_array().expect("a list").iter();
    let credits = all.filter(|event| event["event"] == "credits");
    credits
        .map(|event| event["held_back"].as_bool().expect("it says"))
        .collect()
}

fn used(host: &Bulkhead) -> u64 {
    info(host, "a")["usage"]["cpu_us"]
        .as_u64()
        .expect("a number")
}

/// Work in the guest, until it is dropped.
struct Busy<'a>(&'a Bulkhead, Child);

impl<'a> Busy<'a> {
    fn new(host: &'a Bulkhead) -> Self {
        let work = "touch /go; while [ -e /go ]; do :; done";
        let mut command = host.command(&["exec", "a", "--", "timeout", "100", "sh", "-c", work]);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.stderr(Stdio::null()).spawn();
        Self(host, child.expect("the program"))
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.run(&["exec", "a", "--", "rm", "/go"]);
        let _reaped = self.1.wait();
    }
}

fn keeper(host: &Bulkhead) -> i32 {
    let path = host.root().join("run/bulkhead/guests/a/state.json");
    let text = std::fs::read_to_string(path).expect("it runs");
    let state: Value = serde_json::from_str(&text).expect("JSON");
    let pid = state["keeper"]["pid"].as_i64().expect("a number");
    i32::try_from(pid).expect("a pid")
}

fn kill(pid: i32) {
    let pid = nix::unistd::Pid::from_raw(pid);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("it lives");
}

/// The process that stands by for a keeper.
fn guard(keeper: i32) -> i32 {
    let out = Command::new("pgrep")
        .args(["-P", &keeper.to_string()])
        .output();
    let text = String::from_utf8(out.expect("pgrep(1)").stdout).expect("numbers");
    let all: Vec<i32> = text
        .lines()
        .map(|pid| pid.parse().expect("a pid"))
        .collect();
    // The guest's own first process is the other one.
    let text = |pid: &i32| std::fs::read_to_string(format!("/proc/{pid}/cmdline"));
    let ours = |pid: &&i32| text(pid).is_ok_and(|line| line.contains("credits of a"));
    *all.iter().find(ours).expect("somebody stands by")
}

#[test]
fn what_was_saved_is_used_fast_and_then_it_is_held_back() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    guest(&host, &CREDITS);
    // It has saved nothing yet.
    assert_eq!(info(&host, "a")["credits"]["held_back"], true);
    eventually("it has saved enough to run fast", 30, || {
        limit(&host) == Some(100) && saved(&host) > 1_000_000
    });
    let text = host.ok(&["info", "a"]);
    assert!(text.contains(" of 2s saved; earns 0.2"), "{text}");

    let (before, began, had) = (used(&host), Instant::now(), saved(&host));
    let busy = Busy::new(&host);
    eventually("its credits are used up", 60, || limit(&host) == Some(20));
    std::thread::sleep(Duration::from_secs(2));
    let earned = began.elapsed().as_micros() * 20 / 100;
    let had = u128::try_from(had).expect("it had some");
    let most = had + earned + 400_000;
    let spent = u128::from(used(&host) - before);
    assert!(spent <= most, "{spent} of {most}");
    assert!(spent >= had, "{spent} of {had}");
    let why = data(&host, &["why", "a", "--for", "1s"]);
    assert!(
        why.to_string().contains("credits are used up (for "),
        "{why}"
    );
    assert_eq!(turns(&host), [false, true]);
    let rows = data(&host, &["limits", "a"]).to_string();
    assert!(rows.contains("\"credits\""), "{rows}");
    drop(busy);
    eventually("it has saved enough again", 40, || {
        limit(&host) == Some(100)
    });
    // It is told each time, once, and the guest reads the same.
    eventually("that is told", 20, || turns(&host) == [false, true, false]);
    let inside = inside(&host, "a", "cat /run/bulkhead/events");
    let line = |line: &str| serde_json::from_str(line).expect("JSON");
    let seen: Vec<Value> = inside.lines().map(line).collect();
    assert_eq!(seen.len(), 3, "{seen:?}");
    assert_eq!(seen[1]["event"], "credits", "{seen:?}");
    assert_eq!(
        (&seen[1]["held_back"], &seen[1]["earn"], &seen[1]["times"]),
        (&json!(true), &json!(20), &json!(1))
    );
    let shown = host.ok(&["events", "a"]);
    let words = "its CPU credits are used up: it is held to the 0.2 CPUs that it earns";
    assert!(shown.contains(words), "{shown}");
    assert_eq!(data(&host, &["doctor"])["leftovers"], json!([]));
}

#[test]
fn whoever_is_killed_leaves_no_guest_with_more_than_it_earns() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    host.ok(&["tenant", "create", "acme", "--processes", "900"]);
    guest(&host, &[&CREDITS[..], &["--tenant", "acme"]].concat());
    eventually("it may run fast", 30, || limit(&host) == Some(100));
    kill(keeper(&host));
    eventually("it is held back", 10, || limit(&host) == Some(20));
    let had = saved(&host);
    assert!(had > 0, "{had}");
    // That is as it should be, and whoever brings its limits up to date leaves it so.
    assert_eq!(data(&host, &["doctor"])["leftovers"], json!([]));
    host.ok(&["tenant", "set", "acme", "--processes", "800"]);
    assert_eq!(limit(&host), Some(20));
    // Any command puts a new keeper on, and that one goes on counting.
    host.ok(&["exec", "a", "--", "true"]);
    eventually("it may run fast again", 30, || limit(&host) == Some(100));

    let keeper = keeper(&host);
    kill(guard(keeper));
    kill(keeper);
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(limit(&host), Some(100));
    let left = host.run(&["doctor"]).stdout;
    assert!(left.contains("uncounted credits"), "{left}");
    host.ok(&["doctor", "--fix"]);
    assert_eq!(limit(&host), Some(20));
    assert_eq!(data(&host, &["doctor"])["leftovers"], json!([]));
}

#[test]
fn credits_outlast_a_run_and_come_and_go_with_the_definition() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    guest(&host, &[]);
    assert_eq!(info(&host, "a")["credits"], Value::Null);
    host.ok(&["set", "a", "cpu.earn=0.2", "cpu.bank=30s"]);
    eventually("it is held back", 10, || limit(&host) == Some(20));
    eventually("it has saved something", 30, || saved(&host) > 500_000);
    host.ok(&["stop", "a", "--timeout", "0"]);
    let had = saved(&host);
    assert!(had > 400_000, "{had}");
    std::thread::sleep(Duration::from_secs(3));
    host.ok(&["start", "a"]);
    // Nothing is earned while it is stopped.
    assert!(saved(&host) < had + 400_000, "{had} {}", saved(&host));
    assert_eq!(limit(&host), Some(20));
    host.ok(&["set", "a", "cpu.earn=none", "cpu.bank=none"]);
    assert_eq!(limit(&host), Some(100));
    assert_eq!(info(&host, "a")["credits"], Value::Null);
    let why = host.fails(&["set", "a", "cpu.earn=0.2"], 5);
    assert!(why.contains("cpu.bank: is missing"), "{why}");
    assert_eq!(data(&host, &["doctor"])["leftovers"], json!([]));
}

#[test]
fn where_cpus_wait_for_the_next_start_credits_do_as_well() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    guest(&host, &[]);
    host.ok(&["set", "a", "cpu.resize=static"]);
    host.ok(&["set", "a", "cpu.earn=0.2", "cpu.bank=2s"]);
    assert_eq!(limit(&host), Some(100));
    assert_eq!(info(&host, "a")["credits"], Value::Null);
    assert_eq!(data(&host, &["doctor"])["leftovers"], json!([]));
    host.ok(&["stop", "a", "--timeout", "0"]);
    host.ok(&["start", "a"]);
    eventually("it has saved something", 30, || saved(&host) > 300_000);

    // What it has goes with the run that has it.
    host.ok(&["set", "a", "cpu.earn=none", "cpu.bank=none"]);
    assert!(saved(&host) > 300_000);
    let busy = Busy::new(&host);
    eventually("its credits are used up", 60, || limit(&host) == Some(20));
    drop(busy);
    assert_eq!(data(&host, &["doctor"])["leftovers"], json!([]));
    host.ok(&["stop", "a", "--timeout", "0"]);
    assert!(
        !host
            .root()
            .join("var/lib/bulkhead/guests/a/credits.json")
            .exists()
    );
    host.ok(&["start", "a"]);
    assert_eq!(limit(&host), Some(100));
    assert_eq!(info(&host, "a")["credits"], Value::Null);
}

#[test]
fn a_goal_of_memory_leaves_credits_to_their_own_ways() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    guest(&host, &[&CREDITS[..], &["--memory", "256M"]].concat());
    // Changed once: each change brings the others up to date.
    let bounds = ["--use", "20-60", "--min", "64M", "--max", "64M"];
    let goal = [
        "goal", "create", "m", "--guest", "a", "--of", "memory", "--mode", "act",
    ];
    host.ok(&[&goal[..], &bounds].concat());
    let mut controller = host.command(&["goal", "run"]);
    controller.stdin(Stdio::null()).stdout(Stdio::null());
    let mut controller = controller.stderr(Stdio::null()).spawn().expect("it");
    let record = host.root().join("run/bulkhead/guests/a/goal.json");
    eventually("its memory is changed", 30, || record.exists());
    eventually("it may run fast", 30, || limit(&host) == Some(100));
    let busy = Busy::new(&host);
    eventually("its credits are used up", 60, || limit(&host) == Some(20));
    drop(busy);
    eventually("it may run fast again", 30, || limit(&host) == Some(100));
    assert!(record.exists());
    let pid = nix::unistd::Pid::from_raw(i32::try_from(controller.id()).expect("a pid"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("it lives");
    assert!(controller.wait().expect("a child of ours").success());
    assert_eq!(data(&host, &["doctor"])["leftovers"], json!([]));
}
