//! CPU time that guests are guaranteed, while others want all there is: weights that follow from what is
//! guaranteed and what is left, whoever starts, changes, ends or dies.

use std::path::PathBuf;

use crate::life::{data, in_force, info, nothing_left, scripted};
use crate::support::{Bulkhead, Need, eventually, need, run};

/// Guests without a guarantee that want all CPUs.
const OTHERS: u32 = 3;

/// The weight that a guest has in force, of 10,000 for all CPUs of the host where somebody is guaranteed
/// something.
fn weighs(host: &Bulkhead, name: &str) -> u64 {
    let text = in_force(host, name, "cpu", "cpu.shares", "cpu.weight");
    let number: u64 = text.parse().expect("a number");
    match is_v1(host, name) {
        true => (number * 100).div_ceil(1024),
        false => number,
    }
}

fn is_v1(host: &Bulkhead, name: &str) -> bool {
    let pid = info(host, name)["pid"].as_u64().expect("it runs");
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("proc");
    text.lines()
        .any(|line| line.contains(":cpu:") || line.contains(":cpu,"))
}

fn started(host: &Bulkhead, name: &str, script: &str, flags: &[&str]) {
    let usual = ["--network", "none", "--cpus", "none", "--start"];
    scripted(host, name, script, &[&usual[..], flags].concat());
}

fn cpus(host: &Bulkhead) -> u64 {
    let all = data(host, &["capacity"]);
    let rows = all["resources"].as_array().expect("a list").clone();
    let row = rows.into_iter().find(|row| row["resource"] == "cpus");
    row.expect("a row")["host"].as_u64().expect("a number") / 100
}

fn note(host: &Bulkhead) -> PathBuf {
    host.root().join("run/bulkhead/portions")
}

#[test]
fn weights_follow_what_is_guaranteed() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    let cpus = cpus(&host);
    // Without a guarantee each has what its definition says.
    started(&host, "plain", "sleep 1000", &["--cpu-weight", "300"]);
    assert_eq!(weighs(&host, "plain"), 300);
    // Half a CPU is its own; of the rest, a part by its weight of 50.
    started(&host, "half", "sleep 1000", &["--entitled", "0.5"]);
    let own = 50 * 10_000 / (cpus * 100);
    let near = |is: u64, wanted: u64| assert!(is.abs_diff(wanted) <= 8, "{is}, not {wanted}");
    near(weighs(&host, "half"), own + weighs(&host, "plain") / 6);
    assert!(note(&host).exists());
    // Whoever comes, without a guarantee and in a tenant's group, takes it from the rest.
    let before = weighs(&host, "plain");
    host.ok(&["tenant", "create", "acme"]);
    started(
        &host,
        "late",
        "sleep 1000",
        &["--tenant", "acme", "--cpu-weight", "600"],
    );
    let plain = weighs(&host, "plain");
    assert!(plain < before, "{plain} {before}");
    near(weighs(&host, "late"), 2 * plain);
    near(weighs(&host, "half"), own + plain / 6);
    // What is said while they run.
    host.ok(&["set", "half", "cpu.entitled=0.25", "cpu.weight=50"]);
    let own = own / 2;
    near(weighs(&host, "half"), own + weighs(&host, "plain") / 6);
    host.ok(&["set", "late", "cpu.weight=100"]);
    near(weighs(&host, "late"), weighs(&host, "plain") / 3);
    let plain = weighs(&host, "plain");
    host.ok(&["kill", "late"]);
    assert!(weighs(&host, "plain") > plain);
    near(weighs(&host, "half"), own + weighs(&host, "plain") / 6);
    nothing_left(&host);

    // As a command leaves it that dies before it has given all their weights.
    let wrong = host.root().join("run/bulkhead/guests/plain/state.json");
    let text = std::fs::read_to_string(&wrong).expect("its state");
    let other = text.replace("\"weight\": 300", "\"weight\": 60");
    assert_ne!(text, other);
    std::fs::write(&wrong, other).expect("a file of ours");
    let found = host.run(&["doctor"]).stdout;
    assert!(
        found.contains("CPU weight") && found.contains("plain"),
        "{found}"
    );
    host.ok(&["doctor", "--fix"]);
    near(weighs(&host, "half"), own + weighs(&host, "plain") * 5 / 6);
    nothing_left(&host);

    // The last guarantee goes, also by a guest that ends by itself.
    let pid = info(&host, "half")["pid"].as_u64().expect("it runs");
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("a pid"),
        rustix::process::Signal::KILL,
    )
    .expect("it runs");
    eventually("weights are as defined again", 20, || {
        weighs(&host, "plain") == 60
    });
    assert!(!note(&host).exists());
    nothing_left(&host);
}

#[test]
fn whole_cpus_are_promised_too() {
    if !need(Need::Root) || !need(Need::TwoCpus) {
        return;
    }
    let host = Bulkhead::new();
    started(&host, "plain", "sleep 1000", &[]);
    let mode = ["--cpu-mode", "dedicated", "--dedicated", "1"];
    started(&host, "own", "sleep 1000", &mode);
    assert_eq!(weighs(&host, "own"), 10_000 / cpus(&host));
    // Of the other CPUs the host's programs have a part.
    let plain = weighs(&host, "plain");
    assert!(
        plain > 1 && plain < 10_000 - weighs(&host, "own"),
        "{plain}"
    );
    nothing_left(&host);
    host.ok(&["kill", "own"]);
    assert_eq!(weighs(&host, "plain"), 100);
    assert!(!note(&host).exists());
    nothing_left(&host);
}

/// Whoever is killed, and wherever: `doctor` names weights that are not as they are to be, and mends them.
#[test]
fn a_command_that_is_killed_leaves_nothing_that_doctor_does_not_name() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    started(&host, "plain", "sleep 1000", &[]);
    started(&host, "half", "sleep 1000", &["--cpu-weight", "100"]);
    // By what it is promised, whatever its definition says by then.
    let state = host.root().join("run/bulkhead/guests/half/state.json");
    let right = || {
        let text = std::fs::read_to_string(&state).expect("its state");
        let state: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let (half, plain) = (weighs(&host, "half"), weighs(&host, "plain"));
        match state["guaranteed"]["cpus"].as_u64() {
            None => (half, plain) == (100, 100),
            Some(own) => half.abs_diff(plain + own * 100 / cpus(&host)) <= 4,
        }
    };
    for (to, back) in [
        ("cpu.entitled=0.5", "cpu.entitled=none"),
        ("cpu.entitled=none", "cpu.entitled=0.5"),
    ] {
        let mut points = 0;
        for number in 0..60 {
            let mut command = host.command(&["set", "half", to]);
            command.env("BULKHEAD_FAULT", format!("command:{number}"));
            let done = run(command).code == 0;
            let found = host.run(&["doctor"]).stdout;
            assert!(
                right() || found.contains("CPU weight"),
                "{to} at {number}: {found}"
            );
            host.ok(&["doctor", "--fix"]);
            assert!(right(), "{to} at {number}: {}", weighs(&host, "half"));
            if done && number > 0 {
                break;
            }
            host.ok(&["set", "half", back]);
            points += 1;
        }
        assert!((2..60).contains(&points), "{to}: {points} points");
        host.ok(&["set", "half", to]);
    }
    assert!(right() && !note(&host).exists());
}

#[test]
fn alone_a_guarantee_is_kept_beside_guests_that_have_none() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    let cpus = cpus(&host);
    let busy: String = (0..cpus).map(|_| "while :; do :; done & ").collect();
    let busy = format!("{busy} wait");
    let half = format!("{}.{}", cpus / 2, cpus % 2 * 5);
    started(&host, "sold", &busy, &["--entitled", &half]);
    for n in 0..OTHERS {
        started(&host, &format!("other{n}"), &busy, &[]);
    }
    let used = |name: &str| {
        info(&host, name)["usage"]["cpu_us"]
            .as_u64()
            .expect("it runs")
    };
    let all = || {
        let others: u64 = (0..OTHERS).map(|n| used(&format!("other{n}"))).sum();
        (used("sold"), others)
    };
    // By weights alone it would have a quarter of the time.
    eventually("it has half of the time that guests get", 30, || {
        let before = all();
        std::thread::sleep(std::time::Duration::from_secs(2));
        let after = all();
        let (own, others) = (after.0 - before.0, after.1 - before.1);
        own * 100 >= (own + others) * 45
    });
}
