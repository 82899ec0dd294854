//! What running guests hold of what they may: limits, peaks and hits are the kernel's, and a
//! guest's are not its neighbour's.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Stdio};

use crate::life;
use crate::life::{data, inside, scripted};
use crate::support::{Bulkhead, Need, eventually, need};
use serde_json::Value;

const MIB: u64 = 1 << 20;

/// One resource of one guest.
#[track_caller]
fn row(host: &Bulkhead, name: &str, resource: &str) -> Value {
    let all = data(host, &["limits", name]);
    let rows = all.as_array().expect("a list");
    let found = rows.iter().find(|row| row["resource"] == resource);
    found.unwrap_or_else(|| panic!("{resource}: {all}")).clone()
}

/// The resources that are shown of each guest.
#[track_caller]
fn shown(host: &Bulkhead, args: &[&str]) -> Vec<String> {
    let all = data(host, &[&["limits"], args].concat());
    let word = |row: &Value, key: &str| row[key].as_str().expect("a word").to_owned();
    let rows = all.as_array().expect("a list").iter();
    rows.map(|row| format!("{} {}", word(row, "guest"), word(row, "resource")))
        .collect()
}

/// `limits on --watch`, until it has looked twice.
struct Watch {
    child: Child,
    said: BufReader<ChildStdout>,
    lines: String,
}

impl Watch {
    /// In this format, in which each look has this text on one line.
    #[track_caller]
    fn of(host: &Bulkhead, format: &str, text: &str) -> Self {
        let args = ["limits", "on", "--watch=100ms", "--format", format];
        let mut child = host
            .command(&args)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program");
        let mut said = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut lines = String::new();
        while lines.matches(text).count() < 2 {
            let more = said.read_line(&mut lines).expect("text");
            assert!(more > 0, "it ended after: {lines}");
        }
        Self { child, said, lines }
    }

    /// All that it has said, and how it ended.
    fn end(mut self) -> (String, Option<i32>) {
        self.said.read_to_string(&mut self.lines).expect("text");
        (
            self.lines,
            self.child.wait().expect("a child of ours").code(),
        )
    }
}

/// Whether this kernel tells how often a limit on processes was hit: version 2 does since Linux 6.11.
fn counts_refused_forks() -> bool {
    Need::CgroupV1.is_met() || kernel() >= (6, 11)
}

fn kernel() -> (u32, u32) {
    let text = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("procfs");
    let mut numbers = text.split(['.', '-']).map(|part| part.parse().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    (next(), next())
}

#[test]
fn a_guest_at_its_limits_shows_them_and_its_neighbour_does_not() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    let flags = ["--memory", "32M", "--processes", "20", "--network", "none"];
    for name in ["full", "calm"] {
        scripted(
            &host,
            name,
            "sleep 1000",
            &[&flags[..], &["--start"]].concat(),
        );
    }
    // The shell gives up when it cannot fork; what it has started stays.
    let forks = "i=0; while [ $i -lt 50 ]; do sleep 1000 >/dev/null 2>&1 & i=$((i+1)); done";
    host.run(&["exec", "full", "--", "sh", "-c", forks]);
    let processes = row(&host, "full", "processes");
    assert_eq!(processes["limit"], 20);
    assert!(processes["held"].as_u64() >= Some(15), "{processes}");
    if kernel() >= (6, 11) {
        assert_eq!(processes["peak"], 20);
    }
    if counts_refused_forks() {
        assert!(processes["hits"].as_u64() > Some(0), "{processes}");
    } else {
        assert!(processes["hits"].is_null(), "{processes}");
    }
    host.ok(&["kill", "full"]);
    host.ok(&["start", "full"]);
    host.run(&["exec", "full", "--", "tail", "/dev/zero"]);
    let memory = row(&host, "full", "memory");
    assert_eq!(memory["limit"], 32 * MIB);
    let peak = memory["peak"].as_u64().expect("kept since Linux 5.19");
    assert!((31 * MIB..=32 * MIB).contains(&peak), "{memory}");
    assert!(memory["hits"].as_u64() > Some(0), "{memory}");
    assert!(memory["killed"].as_u64() > Some(0), "{memory}");

    for resource in ["memory", "processes"] {
        let calm = row(&host, "calm", resource);
        assert!(matches!(calm["hits"].as_u64(), None | Some(0)), "{calm}");
        assert!(matches!(calm["killed"].as_u64(), None | Some(0)), "{calm}");
    }
    let near = shown(&host, &["--all", "--near", "80%"]);
    assert!(near.contains(&"full memory".to_owned()), "{near:?}");
    assert!(!near.iter().any(|row| row.starts_with("calm")), "{near:?}");
    let table = host.ok(&["limits", "full"]);
    assert!(table.contains("killed for want of it"), "{table}");
    // What was told of it last, and nothing of the run before.
    eventually("it is told", 20, || {
        row(&host, "full", "memory")["last"]["event"] == "out-of-memory"
    });
    let last = row(&host, "full", "memory")["last"].clone();
    assert!(last["top"][0]["name"].is_string(), "{last}");
    assert!(row(&host, "full", "processes")["last"].is_null());
    assert!(row(&host, "calm", "memory")["last"].is_null());
}

#[test]
fn a_cpu_limit_tells_how_much_it_held_back() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    let flags = ["--cpus", "0.05", "--network", "none", "--start"];
    scripted(&host, "busy", "while :; do :; done", &flags);
    scripted(
        &host,
        "free",
        "sleep 1000",
        &["--network", "none", "--start"],
    );
    eventually("the limit is hit", 20, || {
        row(&host, "busy", "cpu")["hits"].as_u64() > Some(2)
    });
    let cpu = row(&host, "busy", "cpu");
    assert_eq!(
        (&cpu["limit"], &cpu["unit"]),
        (&5.into(), &"percent-of-cpu".into())
    );
    assert!(cpu["periods"].as_u64() >= cpu["hits"].as_u64(), "{cpu}");
    assert!(cpu["throttled_us"].as_u64() > Some(0), "{cpu}");
    // What is now, and was at most, the kernel does not keep.
    assert!(cpu["held"].is_null() && cpu["peak"].is_null(), "{cpu}");
    let table = host.ok(&["limits", "busy"]);
    assert!(
        table.contains("held back in ") && table.contains("0.05"),
        "{table}"
    );
    let free = shown(&host, &["free"]);
    assert!(!free.contains(&"free cpu".to_owned()), "{free:?}");
}

#[test]
fn a_disk_of_its_own_is_a_row() {
    if !need(Need::Root) || !need(Need::LoopDevice) {
        return;
    }
    let host = Bulkhead::new();
    host.ok(&["pool", "create", "files", "--driver", "image"]);
    let flags = ["--pool", "files", "--disk", "32M", "--network", "none"];
    scripted(
        &host,
        "web",
        "sleep 1000",
        &[&flags[..], &["--start"]].concat(),
    );
    let before = row(&host, "web", "disk");
    assert!(before["limit"].as_u64() >= Some(32 * MIB), "{before}");
    inside(
        &host,
        "web",
        "dd if=/dev/zero of=/big bs=1M count=8 2>/dev/null; sync",
    );
    let after = row(&host, "web", "disk");
    let grown = after["held"].as_u64().expect("known") - before["held"].as_u64().expect("known");
    assert!((8 * MIB..10 * MIB).contains(&grown), "{before} {after}");
    let files = row(&host, "web", "files");
    assert!(files["held"].as_u64() < files["limit"].as_u64(), "{files}");
    // Asking holds nothing: the guest's files go when it goes.
    host.ok(&["delete", "--force", "web"]);
    host.ok(&["pool", "delete", "files"]);
}

#[test]
fn what_it_may_send_is_a_row_and_tells_what_was_dropped() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    let flags = [
        "--packets",
        "10",
        "--new-connections",
        "50",
        "--connections",
        "90",
        "--allowance",
        "1G",
        "--start",
    ];
    scripted(&host, "web", "sleep 1000", &flags);
    let pings = "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30; do \
                 ping -c 1 -W 1 $(ip route | sed -n 's/^default via \\([^ ]*\\).*/\\1/p') & done; wait";
    host.run(&["exec", "web", "--", "sh", "-c", pings]);
    let packets = row(&host, "web", "packets");
    assert_eq!(
        (&packets["limit"], &packets["unit"]),
        (&10.into(), &"per-second".into())
    );
    assert!(packets["hits"].as_u64() > Some(5), "{packets}");
    let new = row(&host, "web", "new connections");
    assert_eq!(
        (new["limit"].as_u64(), new["hits"].as_u64()),
        (Some(50), Some(0))
    );
    assert_eq!(row(&host, "web", "connections")["limit"], 90);
    let traffic = row(&host, "web", "traffic");
    assert_eq!(traffic["limit"].as_u64(), Some(1 << 30));
    assert!(traffic["held"].as_u64() > Some(0), "{traffic}");
    let text = host.ok(&["limits", "web", "--near", "90%"]);
    assert!(text.contains("packets") && text.contains("10/s"), "{text}");
}

#[test]
fn a_disk_on_btrfs_is_a_row_too() {
    if !need(Need::Root) || !need(Need::LoopDevice) {
        return;
    }
    life::in_a_pool("btrfs", |host, flags| {
        let flags = [flags, &["--network", "none", "--start"]].concat();
        scripted(host, "web", "sleep 1000", &flags);
        let before = row(host, "web", "disk");
        assert_eq!(before["limit"].as_u64(), Some(32 * MIB), "{before}");
        let write = "dd if=/dev/urandom of=/big bs=1M count=8 2>/dev/null; sync";
        inside(host, "web", write);
        let after = row(host, "web", "disk");
        let [before, held] = [&before, &after].map(|row| row["held"].as_u64().expect("known"));
        assert!((8 * MIB..10 * MIB).contains(&(held - before)), "{after}");
        // What it says is what the guest sees, and what is nearly full is found.
        let used = inside(host, "web", "df -k / | tail -1 | tr -s ' ' | cut -d' ' -f3");
        let used: u64 = used.parse().expect("a number");
        assert!(held.abs_diff(used * 1024) < MIB, "{held} {used}");
        assert!(
            !host
                .ok(&["limits", "--all", "--near", "50%"])
                .contains("disk")
        );
        inside(
            host,
            "web",
            "dd if=/dev/urandom of=/more bs=1M count=10 2>/dev/null; sync",
        );
        assert!(
            host.ok(&["limits", "--all", "--near", "50%"])
                .contains("disk")
        );
        host.ok(&["delete", "--force", "web"]);
    });
}

#[test]
fn which_guests_and_in_which_form() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    let flags = ["--label", "team=a", "--network", "none"];
    scripted(
        &host,
        "on",
        "sleep 1000",
        &[&flags[..], &["--start"]].concat(),
    );
    scripted(&host, "off", "sleep 1000", &flags);
    for args in [&["--all"][..], &["--select", "team=a"]] {
        let all = shown(&host, args);
        assert!(all.contains(&"on memory".to_owned()), "{all:?}");
        assert!(!all.iter().any(|row| row.starts_with("off")), "{all:?}");
    }
    // One that was named and cannot be shown is told of, the others are shown.
    let done = host.run(&["limits", "off", "on"]);
    assert_eq!(done.code, 4, "{}", done.report());
    assert!(done.stdout.contains("memory"), "{}", done.report());
    assert!(done.stderr.contains("it is stopped"), "{}", done.report());
    host.fails(&["limits", "nobody"], 3);
    host.fails(&["limits"], 2);
    host.fails(&["limits", "on", "--near", "120%"], 2);
    let csv = host.ok(&["limits", "on", "--format", "csv"]);
    let heading = "guest,resource,unit,held,peak,limit,hits,killed,periods,throttled_us,last\n";
    assert!(csv.starts_with(heading), "{csv}");
    assert!(
        host.ok(&["limits", "on", "--format", "yaml"])
            .contains("resource: memory")
    );
    let watch = Watch::of(&host, "csv", "on,memory,");
    let pid = nix::unistd::Pid::from_raw(i32::try_from(watch.child.id()).expect("a pid"));
    nix::sys::signal::kill(pid, nix::sys::signal::SIGKILL).expect("a child of ours");
    let (lines, _) = watch.end();
    assert!(lines.starts_with(heading), "{lines}");
    assert_eq!(lines.matches("guest,").count(), 1, "{lines}");
    // Again and again, until a guest that was named has ended.
    let watch = Watch::of(&host, "json", "\"resource\":\"memory\"");
    host.ok(&["kill", "on"]);
    let (_, code) = watch.end();
    assert_eq!(code, Some(4));
}
