//! Finding the guest that makes others wait; whatever happens to the command, nobody stays frozen.

use std::process::{Child, Command, Stdio};

use crate::life::{data, is, scripted};
use crate::support::{Bulkhead, Need, eventually, need};
use crate::traces;

const WORK: &str = "while :; do :; done";

/// Three calm guests, one that is watched, and one that works beside it on the same CPU.
fn site() -> Bulkhead {
    let host = Bulkhead::new();
    let flags = ["--network", "none", "--start"];
    for name in ["a", "b", "c"] {
        scripted(&host, name, "sleep 1000", &flags);
    }
    scripted(
        &host,
        "kept",
        "sleep 1000",
        &[&flags[..], &["--label", "bisect=no"]].concat(),
    );
    for (name, weight) in [("slow", "100"), ("noisy", "10000")] {
        let more = ["--cpuset", "0", "--cpu-weight", weight];
        scripted(&host, name, WORK, &[&flags[..], &more].concat());
    }
    host
}

fn spawned(host: &Bulkhead, args: &[&str]) -> Child {
    let mut command = host.command(args);
    let command: &mut Command = command.stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(Stdio::null()).spawn().expect("the program")
}

fn frozen(host: &Bulkhead) -> bool {
    host.ok(&["list"]).contains("paused")
}

fn signalled(child: &mut Child, signal: &str) -> Option<i32> {
    let pid = child.id().to_string();
    let sent = Command::new("kill").args([signal, &pid]).status();
    assert!(sent.expect("kill(1)").success());
    child.wait().expect("a child of ours").code()
}

#[test]
fn alone_the_noisy_neighbour_is_found_and_everybody_goes_on() {
    if !need(Need::Root) {
        return;
    }
    let host = site();
    host.fails(&["bisect", "--watch", "slov"], 3);
    let said = host.ok(&["bisect", "--dry-run", "--watch", "slow"]);
    assert!(
        said.contains("would hold a, b, c, noisy still, each at most 2 times and 4 s"),
        "{said}"
    );
    assert!(
        said.contains("kept was left out: its label bisect=no"),
        "{said}"
    );
    assert!(!frozen(&host));
    let args = ["bisect", "--watch", "slow", "--by", "cpu", "--window", "1s"];
    let found = data(&host, &args);
    assert_eq!(found["suspect"], "noisy", "{found}");
    assert_ne!(found["sure"], "nobody", "{found}");
    let held = found["held_ms"].as_object().expect("a table");
    assert!(
        held.keys()
            .all(|name| ["a", "b", "c", "noisy"].contains(&name.as_str())),
        "{found}"
    );
    assert!(held.values().all(|ms| ms.as_u64() < Some(6000)), "{found}");
    assert!(!frozen(&host));
    assert_eq!(data(&host, &["doctor"])["leftovers"], serde_json::json!([]));
    host.fails(&["bisect", "nobody"], 3);
}

#[test]
fn nobody_stays_frozen_when_the_command_is_ended_or_killed_or_stopped() {
    if !need(Need::Root) {
        return;
    }
    let host = site();
    let args = [
        "bisect", "--watch", "slow", "--by", "cpu", "--window", "10s",
    ];
    let begun = || {
        let child = spawned(&host, &args);
        eventually("a guest is held", 30, || {
            is(&host, "a", "paused") || is(&host, "c", "paused")
        });
        child
    };
    for (signal, code) in [("-INT", Some(130)), ("-TERM", Some(143)), ("-KILL", None)] {
        let mut child = begun();
        assert_eq!(signalled(&mut child, signal), code, "{signal}");
        eventually(signal, 5, || !frozen(&host));
        host.ok(&["exec", "a", "true"]);
        assert_eq!(
            data(&host, &["doctor"])["leftovers"],
            serde_json::json!([]),
            "{signal}"
        );
    }
    // Stopped with guests in its hand, it is not waited for.
    let mut child = spawned(&host, &["bisect", "--watch", "slow", "--window", "2s"]);
    eventually("a guest is held", 30, || frozen(&host));
    let pid = child.id().to_string();
    let stopped = Command::new("kill").args(["-STOP", &pid]).status();
    assert!(stopped.expect("kill(1)").success());
    let held = || {
        let groups = traces::cgroups(host.root());
        let folders = groups.iter().map(|one| one.trim_start_matches("cgroup "));
        let frozen = |folder: &str| {
            let text = std::fs::read_to_string(format!("{folder}/cgroup.freeze"));
            text.is_ok_and(|text| text.trim() == "1")
        };
        folders.filter(|folder| frozen(folder)).count()
    };
    eventually("they run all the same", 10, || held() == 0);
    signalled(&mut child, "-KILL");
    eventually("it is put in order", 5, || !frozen(&host));
}
