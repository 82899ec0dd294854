//! Tenants: what all guests of one use together stays within its limits, while each may use what
//! the others leave; limits change while they run; nothing of a tenant's group outlives its guests.

use std::time::{Duration, Instant};

use crate::life::{data, info, inside, scripted};
use crate::support::{Bulkhead, Need, eventually, need};
use crate::traces;
use serde_json::Value;

const MIB: u64 = 1 << 20;

/// A guest of a tenant that sleeps; running.
fn member(host: &Bulkhead, name: &str, tenant: &str, more: &[&str]) {
    let flags = ["--tenant", tenant, "--network", "none", "--start"];
    scripted(host, name, "sleep 1000", &[&flags[..], more].concat());
}

/// The tenants' groups there are, in every hierarchy.
fn groups(host: &Bulkhead) -> Vec<String> {
    let all = traces::cgroups(host.root());
    all.into_iter()
        .filter(|one| one.contains("/tenant."))
        .collect()
}

fn tenant(host: &Bulkhead, name: &str) -> Value {
    data(host, &["tenant", "info", name])
}

/// CPU time that guests have used, microseconds.
fn used(host: &Bulkhead, names: &[&str]) -> u64 {
    let of = |name: &&str| {
        info(host, name)["usage"]["cpu_us"]
            .as_u64()
            .expect("a number")
    };
    names.iter().map(of).sum()
}

/// CPUs that guests use together, over two seconds.
fn busy(host: &Bulkhead, names: &[&str]) -> f64 {
    let (began, before) = (Instant::now(), used(host, names));
    std::thread::sleep(Duration::from_secs(2));
    let us = used(host, names) - before;
    us as f64 / began.elapsed().as_micros() as f64
}

#[test]
fn processes_of_all_guests_together_stay_below_the_tenants_limit() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    host.ok(&["tenant", "create", "acme", "--processes", "40"]);
    for name in ["a", "b"] {
        member(&host, name, "acme", &["--processes", "35"]);
    }
    member_of_nobody(&host, "other");
    // The shell gives up when it cannot fork; what it has started stays.
    let forks = "i=0; while [ $i -lt 60 ]; do sleep 1000 >/dev/null 2>&1 & i=$((i+1)); done";
    // One alone gets all that is its own limit.
    host.run(&["exec", "a", "--", "sh", "-c", forks]);
    let limits = data(&host, &["limits", "a"]);
    let of_a = limits.as_array().expect("a list").iter();
    let of_a = of_a
        .clone()
        .find(|row| row["resource"] == "processes")
        .expect("a row");
    assert_eq!(of_a["peak"].as_u64(), Some(35), "{limits}");
    let all = limits.as_array().expect("a list").iter();
    let shared = all
        .clone()
        .find(|row| row["resource"] == "tenant processes");
    assert_eq!(shared.expect("a row")["limit"], 40, "{limits}");
    host.run(&["exec", "b", "--", "sh", "-c", forks]);
    // The shell that gave up has ended meanwhile.
    let held = |host: &Bulkhead| tenant(host, "acme")["processes_held"].as_u64();
    assert!(
        (Some(38)..=Some(40)).contains(&held(&host)),
        "{:?}",
        held(&host)
    );
    // Each is told by whose limit it was held up: the first by its own, the second by the tenant's.
    let told = |name: &str, resource: &str| {
        let events = data(&host, &["events", name]);
        let events = events.as_array().expect("a list").clone();
        let of_limit = |event: &&Value| event["event"] == "limit";
        let mut told = events.iter().filter(of_limit);
        told.any(|event| event["resource"] == resource)
    };
    eventually("a's event", 40, || told("a", "processes"));
    eventually("b's event", 40, || told("b", "tenant processes"));
    assert!(!told("b", "processes"));
    let rows = data(&host, &["limits", "b"]);
    let rows = rows.as_array().expect("a list").iter();
    let mut rows = rows.filter(|row| row["resource"] == "tenant processes");
    let row = rows.next().expect("a row");
    assert_eq!(row["peak"], 40, "{row}");
    assert_ne!(row["hits"], 0, "{row}");
    assert_eq!(row["last"]["resource"], "tenant processes", "{row}");
    // Its neighbours are none of it.
    host.run(&["exec", "other", "--", "sh", "-c", forks]);
    let all = data(&host, &["limits", "other"]);
    let all = all.as_array().expect("a list").iter();
    let row = all
        .clone()
        .find(|row| row["resource"] == "processes")
        .expect("a row");
    assert!(row["peak"].as_u64() > Some(55), "{row}");

    // More for the tenant is more for its guests, at once.
    host.ok(&["tenant", "set", "acme", "--processes", "60"]);
    host.run(&["exec", "b", "--", "sh", "-c", forks]);
    assert!(
        (Some(58)..=Some(60)).contains(&held(&host)),
        "{:?}",
        held(&host)
    );
    host.ok(&["kill", "a", "b"]);
    assert_eq!(groups(&host), [] as [String; 0]);
}

fn member_of_nobody(host: &Bulkhead, name: &str) {
    let flags = ["--network", "none", "--processes", "64", "--start"];
    scripted(host, name, "sleep 1000", &flags);
}

#[test]
fn cpu_time_of_all_guests_together_stays_below_the_tenants_limit() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    host.ok(&["tenant", "create", "acme", "--cpus", "0.4"]);
    for name in ["a", "b"] {
        let flags = ["--tenant", "acme", "--network", "none", "--start"];
        scripted(&host, name, "while :; do :; done", &flags);
    }
    let both = busy(&host, &["a", "b"]);
    assert!(both < 0.48, "{both}");
    // One alone may have what the other leaves.
    host.ok(&["pause", "b"]);
    let one = busy(&host, &["a"]);
    assert!((0.21..0.48).contains(&one), "{one}");
    host.ok(&["resume", "b"]);

    // Lowered and raised while they run; each guest's own limit follows.
    host.ok(&["tenant", "set", "acme", "--cpus", "0.2"]);
    let both = busy(&host, &["a", "b"]);
    assert!(both < 0.28, "{both}");
    host.ok(&["tenant", "set", "acme", "--cpus", "none"]);
    let both = busy(&host, &["a", "b"]);
    // Clearly above the limit before; how much depends on who else is at work on this machine.
    assert!(both > 0.32, "{both}");
    assert_eq!(data(&host, &["doctor"])["leftovers"], serde_json::json!([]));
}

#[test]
fn memory_of_all_guests_together_stays_below_the_tenants_limit() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    host.ok(&["tenant", "create", "acme", "--memory", "64M"]);
    for name in ["a", "b"] {
        member(
            &host,
            name,
            "acme",
            &["--memory", "128M", "--tmpfs", "/mnt:100M"],
        );
    }
    // What it sees is what it can get.
    let total = inside(&host, "a", "grep MemTotal /proc/meminfo");
    assert!(total.contains(&(64 * 1024).to_string()), "{total}");
    let fill = |name: &str, mib: &str| {
        let line = format!("dd if=/dev/zero of=/mnt/x bs=1M count={mib} 2>/dev/null; sync");
        host.run(&["exec", name, "--", "sh", "-c", &line]).code
    };
    // More than a half of the tenant's for one of them, then as much again for the other.
    assert_eq!(fill("a", "40"), 0);
    fill("b", "40");
    let view = tenant(&host, "acme");
    let held = view["memory_held"].as_u64().expect("a number");
    assert!((40 * MIB..=64 * MIB).contains(&held), "{view}");

    // Less than they hold is refused, and all is as it was.
    let why = host.fails(&["tenant", "set", "acme", "--memory", "16M"], 5);
    assert!(why.contains("it uses"), "{why}");
    assert_eq!(tenant(&host, "acme")["memory"], view["memory"]);
    assert_eq!(data(&host, &["doctor"])["leftovers"], serde_json::json!([]));
    host.ok(&["tenant", "set", "acme", "--memory", "128M"]);
    assert_eq!(fill("b", "40"), 0);
}

/// What a tenant's group weighs against others: file and value.
fn weight(host: &Bulkhead) -> u64 {
    let of = |group: &String| {
        let folder = group.trim_start_matches("cgroup ");
        ["cpu.weight", "cpu.shares"].iter().find_map(|file| {
            let text = std::fs::read_to_string(format!("{folder}/{file}")).ok()?;
            text.trim().parse().ok()
        })
    };
    let tops = groups(host)
        .into_iter()
        .filter(|one| one.ends_with("tenant.acme"));
    tops.collect::<Vec<_>>()
        .iter()
        .find_map(of)
        .expect("a weight")
}

#[test]
fn a_tenant_weighs_what_its_guests_do_together() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    host.ok(&["tenant", "create", "acme"]);
    member(&host, "a", "acme", &["--cpu-weight", "100"]);
    let one = weight(&host);
    member(&host, "b", "acme", &["--cpu-weight", "300"]);
    assert_eq!(weight(&host), 4 * one);
    host.ok(&["set", "b", "cpu.weight=100"]);
    assert_eq!(weight(&host), 2 * one);
    host.ok(&["tenant", "set", "acme", "--cpus", "1"]);
    assert_eq!(weight(&host), 2 * one);
    host.ok(&["kill", "b"]);
    assert_eq!(weight(&host), one);
}

#[test]
fn a_tenants_guarantees_stay_within_its_limits() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    host.ok(&["tenant", "create", "acme", "--cpus", "0.5"]);
    let flags = ["--tenant", "acme", "--network", "none"];
    for (name, share) in [("a", "0.3"), ("b", "0.2"), ("c", "0.01")] {
        let more = ["--entitled", share];
        scripted(&host, name, "sleep 1000", &[&flags[..], &more].concat());
    }
    host.ok(&["start", "a", "b"]);
    let why = host.fails(&["start", "c"], 5);
    assert!(
        why.contains("tenant acme: guest c is to be guaranteed 0.01 CPUs")
            && why.contains("0.01 CPUs more than its limit of 0.5 CPUs"),
        "{why}"
    );
    // The host may be sold twice if somebody insists; a tenant's limit is no promise but a wall.
    host.fails(&["start", "c", "--force"], 5);
    host.fails(&["set", "a", "cpu.entitled=0.31"], 5);
    let why = host.fails(&["tenant", "set", "acme", "--cpus", "0.49"], 5);
    assert!(
        why.contains("its running guests are guaranteed 0.5 CPUs"),
        "{why}"
    );
    host.ok(&["kill", "b"]);
    host.ok(&["start", "c"]);
    host.ok(&["tenant", "set", "acme", "--cpus", "0.31"]);
    host.fails(&["start", "b"], 5);
}

#[test]
fn a_tenant_that_is_not_there_is_refused_and_one_in_use_stays() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    for name in ["../x", "A", "", "a/b", "none", "a.b", "-x"] {
        let done = host.run(&["tenant", "create", "--", name]);
        assert_eq!(done.code, 2, "{name}: {}", done.report());
    }
    host.ok(&["tenant", "create", "acme"]);
    host.fails(&["tenant", "create", "acme"], 4);
    host.fails(&["tenant", "create", "big", "--memory", "1K"], 5);
    host.fails(&["tenant", "create", "big", "--cpus", "zero"], 2);
    host.fails(&["tenant", "info", "acm"], 3);
    for verb in [
        &["list"][..],
        &["top", "--count", "1"],
        &["bisect"],
        &["limits"],
    ] {
        let why = host.fails(&[verb, &["--tenant", "acm"]].concat(), 3);
        assert!(why.contains("there is no tenant acm"), "{why}");
    }
    host.ok(&["stop", "--tenant", "acme"]);
    let create = ["create", "a", "--template", "busybox", "--tenant"];
    let why = host.fails(&[&create[..], &["acne"]].concat(), 5);
    assert!(
        why.contains("tenant: acne: there is no such tenant: did you mean acme?"),
        "{why}"
    );
    scripted(
        &host,
        "a",
        "sleep 1000",
        &["--tenant", "acme", "--network", "none"],
    );
    host.fails(&["set", "a", "tenant=umbrella"], 5);
    let why = host.fails(&["tenant", "delete", "acme"], 4);
    assert!(why.contains("tenant acme has guests a"), "{why}");

    // A running guest changes its tenant at its next start.
    host.ok(&["tenant", "create", "umbrella"]);
    host.ok(&["start", "a"]);
    let said = host.ok(&["set", "a", "tenant=umbrella"]);
    assert!(said.contains("restart"), "{said}");
    assert_eq!(tenant(&host, "acme")["running"], serde_json::json!(["a"]));
    host.fails(&["tenant", "delete", "acme"], 4);
    host.ok(&["kill", "a"]);
    host.ok(&["start", "a"]);
    assert_eq!(
        tenant(&host, "umbrella")["running"],
        serde_json::json!(["a"])
    );
    host.ok(&["tenant", "delete", "acme"]);
    assert!(
        groups(&host)
            .iter()
            .all(|one| one.contains("tenant.umbrella"))
    );

    // It ends by itself; its keeper takes the group along.
    host.ok(&["kill", "a"]);
    eventually("the tenant's group is gone", 10, || {
        groups(&host).is_empty()
    });
    host.ok(&["set", "a", "tenant=none"]);
    host.ok(&["tenant", "delete", "umbrella"]);
    assert_eq!(host.ok(&["tenant", "list", "--format", "json"]), "[]\n");
    let left = host.root().join("run/bulkhead/tenants");
    assert_eq!(std::fs::read_dir(left).expect("a folder").count(), 0);
}

#[test]
fn guests_are_listed_and_summed_by_tenant() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    host.ok(&["tenant", "create", "acme"]);
    member(&host, "a", "acme", &[]);
    member(&host, "b", "acme", &[]);
    member_of_nobody(&host, "c");
    let listed = host.ok(&["list", "--tenant", "acme"]);
    assert!(
        listed.contains("a ") && listed.contains("b ") && !listed.contains("c "),
        "{listed}"
    );
    let lines = host.ok(&[
        "top",
        "--count",
        "1",
        "--interval",
        "100ms",
        "--format",
        "json",
    ]);
    let of = |name: &str| {
        let lines = lines
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        lines
            .clone()
            .find(|line| line["name"] == name)
            .expect("a line")["tenant"]
            .clone()
    };
    assert_eq!((of("a"), of("c")), ("acme".into(), Value::Null));
    let rows = data(&host, &["usage", "--tenant", "acme", "--by", "tenant"]);
    let sums = rows.as_array().expect("a list");
    assert_eq!(sums.len(), 1, "{rows}");
    let each = data(&host, &["usage", "a", "b"]);
    let each = each.as_array().expect("a list").iter();
    let run: u64 = each
        .map(|row| row["run_ms"].as_u64().expect("a number"))
        .sum();
    let sum = sums[0]["run_ms"].as_u64().expect("a number");
    // The second reading is a little later.
    assert!(sum > 0 && sum <= run, "{sum} {run}");
    assert_eq!(
        data(&host, &["usage", "--by", "tenant"])
            .as_array()
            .map(Vec::len),
        Some(2)
    );
    host.ok(&["kill", "--tenant", "acme"]);
    assert!(host.ok(&["list"]).contains("running"));
}

/// What waits for a guest's next start goes on waiting, and CPUs that it was narrowed to stay its own,
/// whatever else brings its limits up to date.
#[test]
fn a_change_of_a_tenant_puts_nothing_into_force_that_waits() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    host.ok(&["tenant", "create", "acme", "--processes", "500"]);
    let flags = ["--memory", "128M", "--cpus", "0.5"];
    member(&host, "a", "acme", &flags);
    host.ok(&["set", "a", "memory.resize=static", "cpu.resize=static"]);
    host.ok(&["set", "a", "memory.limit=64M", "cpu.limit=0.3"]);
    let limit = |resource: &str| {
        let rows = data(&host, &["limits", "a"]);
        let rows = rows.as_array().expect("a list").iter();
        let row = rows.clone().find(|row| row["resource"] == resource);
        row.expect("a row")["limit"].as_u64()
    };
    let both = || (limit("memory"), limit("cpu"));
    assert_eq!(both(), (Some(128 * MIB), Some(50)));
    host.ok(&["tenant", "set", "acme", "--processes", "400"]);
    assert_eq!(both(), (Some(128 * MIB), Some(50)));
    // The tenant's own limit holds for it all the same, at once.
    host.ok(&["tenant", "set", "acme", "--cpus", "0.4"]);
    assert_eq!(both(), (Some(128 * MIB), Some(40)));
    host.ok(&["set", "a", "cpu.weight=200"]);
    assert_eq!(both(), (Some(128 * MIB), Some(40)));
    assert_eq!(data(&host, &["doctor"])["leftovers"], serde_json::json!([]));
    host.ok(&["kill", "a"]);
    host.ok(&["start", "a"]);
    assert_eq!(both(), (Some(64 * MIB), Some(30)));
}

/// Two that change different limits at the same time.
#[test]
fn changes_of_a_tenant_at_the_same_time_do_not_take_each_other_back() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    host.ok(&["tenant", "create", "acme"]);
    for round in 0..5 {
        host.ok(&[
            "tenant",
            "set",
            "acme",
            "--memory",
            "none",
            "--processes",
            "none",
        ]);
        let spawn = |args: &[&str]| host.command(args).spawn().expect("the program");
        let all = [
            spawn(&["--quiet", "tenant", "set", "acme", "--memory", "64M"]),
            spawn(&["--quiet", "tenant", "set", "acme", "--processes", "77"]),
        ];
        for mut one in all {
            assert!(one.wait().expect("a child of ours").success());
        }
        let view = tenant(&host, "acme");
        let (memory, processes) = (&view["memory"], view["processes"].as_u64());
        assert_eq!(
            (memory.as_str(), processes),
            (Some("64M"), Some(77)),
            "{round}"
        );
    }
    // A record that cannot be understood hides no other, and is written anew.
    let path = host.root().join("var/lib/bulkhead/tenants/bad.json");
    std::fs::write(&path, "{\"memory\": 1, \"bogus\": 1}").expect("a folder of ours");
    let done = host.run(&["tenant", "list"]);
    assert!(
        done.code == 1 && done.stdout.contains("acme"),
        "{}",
        done.report()
    );
    host.ok(&["tenant", "set", "bad", "--processes", "10"]);
    assert_eq!(tenant(&host, "bad")["processes"].as_u64(), Some(10));
}
