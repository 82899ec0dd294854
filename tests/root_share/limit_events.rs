//! Limits that are hit: an event with who used most, on the host and inside the guest; a guest that
//! hits them all day long does not fill the host's file of events, and its processes can be called
//! anything.

use std::time::{Duration, Instant};

use crate::life;
use crate::life::{data, in_a_pool, inside, scripted};
use crate::support::{Bulkhead, Need, became, eventually, need};
use serde_json::Value;

const FILE: &str = "/run/bulkhead/events";

/// Events of limits of a guest, oldest first.
fn limits(host: &Bulkhead, name: &str) -> Vec<Value> {
    let all = data(host, &["events", name]);
    let all = all.as_array().expect("a list").iter();
    let limit = |event: &&Value| event["event"] == "limit" || event["event"] == "out-of-memory";
    all.filter(limit).cloned().collect()
}

/// The same as the guest reads them.
fn seen_inside(host: &Bulkhead, name: &str) -> Vec<Value> {
    let text = inside(host, name, &format!("cat {FILE}"));
    let line = |line: &str| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    text.lines().map(line).collect()
}

/// The first event of a limit, waited for.
fn first(host: &Bulkhead, name: &str, seconds: u64) -> Value {
    let mut found = None;
    eventually("an event", seconds, || {
        found = limits(host, name).into_iter().next();
        found.is_some()
    });
    found.expect("an event")
}

#[test]
fn a_guest_that_cannot_fork_is_told_and_not_again_and_again() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    // A process whose name would clear a terminal.
    let named = "printf '\\033[2Jx\\ny' > /proc/self/comm; sleep 1000 & sleep 1000";
    let flags = ["--network", "none", "--processes", "30", "--start"];
    scripted(&host, "bomb", named, &flags);
    let forks = "i=0; while [ $i -lt 60 ]; do sleep 1000 >/dev/null 2>&1 & i=$((i+1)); done";
    host.run(&["exec", "bomb", "--", "sh", "-c", forks]);
    // At once, where the kernel tells by itself; a hint leads to it on version 1.
    let event = first(&host, "bomb", 12);
    assert_eq!(event["resource"], "processes", "{event}");
    // Who finds no room in it is told which limit that is.
    host.ok(&["set", "bomb", "processes=4"]);
    let said = host.fails(&["exec", "bomb", "--", "true"], 125);
    assert!(said.contains("has as many processes as it may"), "{said}");
    // There is room for whoever looks inside.
    host.ok(&["set", "bomb", "processes=60"]);
    assert!(event["hits"].as_u64() > Some(0), "{event}");
    let top = &event["top"][0];
    assert_eq!(top["name"], "sleep", "{event}");
    assert!(top["processes"].as_u64() > Some(15), "{event}");
    assert!(top["host_pid"].as_u64() > Some(1), "{event}");

    // Inside it is the same, with its own numbers; nobody there can change it.
    let all = seen_inside(&host, "bomb");
    assert_eq!(all.len(), 1, "{all:?}");
    assert_eq!(all[0]["hits"], event["hits"]);
    assert_eq!(all[0]["top"][0]["pid"], top["pid"]);
    assert!(all[0]["top"][0]["pid"].as_u64() < Some(200), "{all:?}");
    assert!(all[0]["top"][0].get("host_pid").is_none(), "{all:?}");
    for line in [
        "echo x >> /run/bulkhead/events",
        "rm -f /run/bulkhead/events",
        "chmod 777 /run/bulkhead/events",
    ] {
        let done = host.run(&["exec", "bomb", "--", "sh", "-c", line]);
        assert_ne!(done.code, 0, "{line}");
    }

    // It goes on, and nothing more is told of it for a while.
    for most in ["90", "120", "150"] {
        host.run(&["exec", "bomb", "--", "sh", "-c", forks]);
        host.ok(&["set", "bomb", &format!("processes={most}")]);
    }
    assert!(!became(22, || limits(&host, "bomb").len() > 1));
    let shown = host.ok(&["events", "bomb"]);
    assert!(shown.contains("no more processes:"), "{shown}");
    assert!(shown.contains("most: sleep ("), "{shown}");
    assert!(!shown.contains('\u{1b}'), "{shown:?}");
    // What was not told yet is when it ends.
    host.ok(&["kill", "bomb"]);
    let hits: u64 = limits(&host, "bomb")
        .iter()
        .filter_map(|event| event["hits"].as_u64())
        .sum();
    assert!(hits >= 4, "{hits}");
    assert_eq!(limits(&host, "bomb").len(), 2);
}

#[test]
fn a_guest_that_is_held_back_all_the_time_is_told_who_works() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    let flags = ["--network", "none", "--cpus", "0.1", "--start"];
    scripted(&host, "busy", "while :; do :; done", &flags);
    scripted(&host, "calm", "while :; do sleep 1; done", &flags);
    // Told of nothing, from a change on that its keeper knows when it looks.
    scripted(&host, "quiet", "while :; do :; done", &flags);
    host.ok(&["set", "quiet", "events.throttled=none"]);
    let began = Instant::now();
    let event = first(&host, "busy", 60);
    assert!(
        began.elapsed() > Duration::from_secs(10),
        "by a look now and then"
    );
    assert_eq!(event["resource"], "cpu", "{event}");
    assert!(event["percent"].as_u64() > Some(25), "{event}");
    assert_eq!(event["top"][0]["name"], "sh", "{event}");
    assert!(event["top"][0]["cpu_percent"].as_u64() > Some(2), "{event}");
    assert_eq!(seen_inside(&host, "busy").len(), 1);
    assert_eq!(limits(&host, "calm"), [] as [Value; 0]);
    // It was looked at a moment after the other.
    assert!(!became(4, || !limits(&host, "quiet").is_empty()));
    assert_eq!(inside(&host, "calm", &format!("cat {FILE}")), "");
}

#[test]
fn guests_that_are_held_back_by_their_tenants_limit_are_told_so() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    host.ok(&["tenant", "create", "acme", "--cpus", "0.2"]);
    let flags = ["--network", "none", "--tenant", "acme", "--start"];
    // One has a limit of its own, which is not in its way; the other has none, so that of the tenant.
    let own = [&flags[..], &["--cpus", "0.15"]].concat();
    scripted(&host, "one", "while :; do :; done", &own);
    scripted(&host, "two", "while :; do :; done", &flags);
    scripted(&host, "calm", "while :; do sleep 5; done", &flags);
    for guest in ["one", "two"] {
        let event = first(&host, guest, 60);
        assert_eq!(event["resource"], "tenant cpu", "{event}");
        assert!(event["percent"].as_u64() > Some(25), "{event}");
        assert_eq!(event["top"][0]["name"], "sh", "{event}");
        assert_eq!(seen_inside(&host, guest).len(), 1);
        let why = host.ok(&["why", guest, "--for", "2s"]);
        assert!(why.contains("bulkhead tenant set acme --cpus"), "{why}");
    }
    assert_eq!(limits(&host, "calm"), [] as [Value; 0]);
    let shown = host.ok(&["events", "one"]);
    assert!(shown.contains("by its tenant's CPU limit in"), "{shown}");
    let rows = data(&host, &["limits", "one"]);
    let mut rows = rows.as_array().expect("a list").iter();
    let row = rows.find(|row| row["resource"] == "tenant cpu");
    assert!(row.expect("a row")["last"]["top"].is_array());
}

#[test]
fn out_of_memory_tells_who_is_left_and_a_full_disk_is_told() {
    if !need(Need::Root) {
        return;
    }
    in_a_pool("image", |host, flags| {
        let more = [
            "--network",
            "none",
            "--memory",
            "64M",
            "--tmpfs",
            "/mnt:48M",
        ];
        let flags = [flags, &more[..], &["--start"]].concat();
        scripted(host, "web", "sleep 1000", &flags);
        // What lies in /mnt is the guest's memory.
        let fill = "dd if=/dev/zero of=/mnt/x bs=1M count=40 2>/dev/null; \
                    head -c 60000000 /dev/zero | tail -c 60000000 > /dev/null";
        host.run(&["exec", "web", "--", "sh", "-c", fill]);
        let event = first(host, "web", 20);
        assert_eq!(event["event"], "out-of-memory", "{event}");
        assert!(
            !event["top"].as_array().expect("a list").is_empty(),
            "{event}"
        );
        // Somebody who writes and goes on running.
        let writer = "exec 3> /half; i=0; while [ $i -lt 8 ]; do printf %1000000s x >&3; i=$((i+1)); done; \
                      exec 3>&-; sleep 1000 & wait";
        let writer = format!("sh -c '{writer}' > /dev/null 2>&1 &");
        host.ok(&["exec", "web", "--", "sh", "-c", &writer]);
        life::filled(host, "web");
        let disk = || {
            let all = limits(host, "web");
            all.into_iter().find(|event| event["resource"] == "disk")
        };
        eventually("an event of the disk", 90, || disk().is_some());
        let event = disk().expect("just seen");
        assert!(event["percent"].as_u64() >= Some(95), "{event}");
        let top = event["top"].as_array().expect("a list").iter();
        let wrote = |one: &Value| one["name"] == "sh" && one["written"].as_u64() > Some(4_000_000);
        assert!(top.clone().any(wrote), "{event}");
        assert!(host.ok(&["events", "web"]).contains("(wrote "));
        let all = seen_inside(host, "web");
        assert!(
            all.iter().any(|event| event["resource"] == "disk"),
            "{all:?}"
        );
        // A new run has a new file.
        host.ok(&["kill", "web"]);
        host.ok(&["start", "web"]);
        assert_eq!(inside(host, "web", &format!("cat {FILE}")), "");
        host.ok(&["delete", "--force", "--yes", "web"]);
    });
}

#[test]
fn a_guest_cannot_lead_the_host_elsewhere_and_one_with_the_hosts_view_has_no_file() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    let flags = ["--network", "none", "--processes", "30", "--start"];
    scripted(&host, "sly", "sleep 1000", &flags);
    scripted(
        &host,
        "other",
        "sleep 1000",
        &[&flags[..], &["--view", "host"]].concat(),
    );
    // Root inside takes the file away, and puts a link there.
    let line = "umount /run/bulkhead/events && rm /run/bulkhead/events && \
                ln -s /victim /run/bulkhead/events && echo mine > /victim";
    host.run(&["exec", "sly", "--", "sh", "-c", line]);
    let forks = "i=0; while [ $i -lt 60 ]; do sleep 1000 >/dev/null 2>&1 & i=$((i+1)); done";
    host.run(&["exec", "sly", "--", "sh", "-c", forks]);
    host.run(&["exec", "other", "--", "sh", "-c", forks]);
    assert_eq!(first(&host, "sly", 40)["resource"], "processes");
    assert_eq!(first(&host, "other", 40)["resource"], "processes");
    let text = std::fs::read_to_string(host.root().join("run/bulkhead/guests/sly/inside/events"));
    assert_eq!(text.expect("the host's file").lines().count(), 1);
    host.ok(&["kill", "sly", "other"]);
    host.ok(&["start", "sly", "other"]);
    let victim = inside(&host, "sly", "cat /victim 2>/dev/null || echo none");
    assert!(["mine", "none"].contains(&victim.as_str()), "{victim}");
    let there = inside(&host, "other", "ls /run/bulkhead 2>/dev/null || echo none");
    assert_eq!(there, "none");
}
