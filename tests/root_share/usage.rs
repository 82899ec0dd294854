//! What guests have used against what the kernel counts: while they run, over restarts, a killed
//! keeper and a killed everything; priced; and nothing counted twice.

use std::fs;
use std::process::Command;

use crate::life;
use crate::life::{data, info, inside, is, made, started};
use crate::support::{Bulkhead, Need, eventually, need};
use serde_json::Value;

/// A number of a guest's account.
#[track_caller]
fn used(host: &Bulkhead, guest: &str, key: &str) -> u64 {
    data(host, &["usage", guest])[0][key]
        .as_u64()
        .unwrap_or_else(|| panic!("no {key}"))
}

/// CPU time that the kernel counts in the present run, microseconds.
fn counted(host: &Bulkhead, guest: &str) -> u64 {
    info(host, guest)["usage"]["cpu_us"]
        .as_u64()
        .expect("a number")
}

/// Has a guest use CPU time.
fn work(host: &Bulkhead, guest: &str) {
    inside(
        host,
        guest,
        "i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done",
    );
}

#[track_caller]
fn between(low: u64, value: u64, high: u64) {
    assert!((low..=high).contains(&value), "{low} {value} {high}");
}

fn pid(host: &Bulkhead, guest: &str, field: &str) -> String {
    let file = host.root().join("run/bulkhead/guests").join(guest);
    let text = fs::read_to_string(file.join("state.json")).expect("a guest that runs");
    let state: Value = serde_json::from_str(&text).expect("JSON");
    state[field]["pid"].to_string()
}

fn kill(pid: &str) {
    let status = Command::new("kill").args(["-KILL", pid]).status();
    assert!(status.expect("kill").success());
}

#[test]
fn an_account_is_what_the_kernel_counts_over_all_runs() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    started(&host, "a", &[]);
    work(&host, "a");
    let (low, shown, high) = (
        counted(&host, "a"),
        used(&host, "a", "cpu_us"),
        counted(&host, "a"),
    );
    between(low, shown, high);
    assert!(low > 10_000, "it has worked: {low}");

    // Stopped, nothing is lost; started, it goes on from there.
    host.ok(&["stop", "a"]);
    let first = used(&host, "a", "cpu_us");
    assert!(first >= high);
    let run = used(&host, "a", "run_ms");
    assert_eq!(used(&host, "a", "run_ms"), run, "it does not run");
    assert!(used(&host, "a", "memory_kib_s") > 0);
    host.ok(&["start", "a"]);
    let low = counted(&host, "a");
    let shown = used(&host, "a", "cpu_us") - first;
    between(low, shown, counted(&host, "a"));

    // A keeper that is killed takes nothing along, nor does its successor count twice.
    work(&host, "a");
    kill(&pid(&host, "a", "keeper"));
    let low = counted(&host, "a");
    between(low, used(&host, "a", "cpu_us") - first, counted(&host, "a"));
    work(&host, "a");
    let before = used(&host, "a", "cpu_us");
    host.ok(&["stop", "a"]);
    let second = used(&host, "a", "cpu_us");
    // What it took to shut down, and not a second run.
    between(before, second, before + (before - first) / 2 + 100_000);

    // All that belongs to it is killed at once; the next command puts the run away.
    host.ok(&["start", "a"]);
    work(&host, "a");
    let third = used(&host, "a", "cpu_us");
    kill(&pid(&host, "a", "keeper"));
    kill(&pid(&host, "a", "init"));
    eventually("it has stopped", 20, || is(&host, "a", "stopped"));
    host.ok(&["start", "a"]);
    let fourth = used(&host, "a", "cpu_us");
    assert!(fourth >= third, "{fourth} {third}");
    host.ok(&["kill", "a"]);

    // The same by days and by months, under another name, and from the trash.
    let sum = |by: &str| -> u64 {
        let rows = data(&host, &["usage", "--by", by]);
        let rows = rows.as_array().expect("a list").clone();
        rows.iter().filter_map(|row| row["cpu_us"].as_u64()).sum()
    };
    let all = used(&host, "a", "cpu_us");
    assert_eq!((sum("day"), sum("month")), (all, all));
    host.ok(&["rename", "a", "b"]);
    host.ok(&["delete", "b", "--keep=1"]);
    host.ok(&["trash", "restore", "b"]);
    assert_eq!(used(&host, "b", "cpu_us"), all);
    host.ok(&["clone", "b", "c"]);
    assert_eq!(used(&host, "c", "cpu_us"), 0);
}

#[test]
fn operations_on_disks_are_those_the_kernel_counts() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    started(&host, "a", &[]);
    let write = "for i in 1 2 3 4 5; do dd if=/dev/zero of=/f bs=64k count=4 conv=fsync; done";
    inside(&host, "a", write);
    let counted = |key: &str| info(&host, "a")["usage"][key].as_u64().expect("a number");
    let low = counted("io_writes");
    assert!(low >= 5, "{low}");
    between(low, used(&host, "a", "writes"), counted("io_writes"));
    between(counted("io_reads"), used(&host, "a", "reads"), u64::MAX);
    host.ok(&["stop", "a"]);
    let first = used(&host, "a", "writes");
    assert!(first >= low, "{first} {low}");
    host.ok(&["start", "a"]);
    host.ok(&["stop", "a"]);
    assert!(used(&host, "a", "writes") >= first);
}

#[test]
fn room_on_disks_is_counted_whether_a_guest_runs_or_not() {
    if !need(Need::Root) {
        return;
    }
    life::in_a_pool("image", |host, flags| {
        let began = std::time::Instant::now();
        made(host, "a", flags);
        made(host, "none", &[]);
        let kib_s = |name| used(host, name, "disk_kib_s");
        // 32 MiB; since it was made, to the command that asks.
        let early = std::time::Instant::now();
        eventually("it is counted though it never ran", 20, || {
            kib_s("a") > 32 << 10
        });
        between(
            early.elapsed().as_millis() as u64 * 32 / 1000 * 1000,
            kib_s("a"),
            (began.elapsed().as_millis() as u64 + 50) * (32 << 10) / 1000,
        );
        assert_eq!(kib_s("none"), 0);
        assert_eq!(used(host, "a", "run_ms"), 0);

        // More is promised from when it is promised, and not before.
        let before = kib_s("a");
        let at = std::time::Instant::now();
        host.ok(&["set", "a", "disk.size=64M"]);
        let after = kib_s("a");
        let most = (at.elapsed().as_millis() as u64 + 1000) * (64 << 10) / 1000;
        between(before, after, before + most);

        // An account from before this was counted goes on.
        let file = host
            .root()
            .join("var/lib/bulkhead/guests/none/account.json");
        let old = r#"{"used":{"seen":null,"periods":{"2026-01-01":{"run_ms":5,"cpu_us":7,
            "memory_kib_s":0,"swap_kib_s":0,"io_read":0,"io_written":9}}},
            "traffic":{"seen":null,"periods":{}}}"#;
        fs::write(file, old).expect("a folder of ours");
        assert_eq!(used(host, "none", "cpu_us"), 7);
        assert_eq!((used(host, "none", "writes"), kib_s("none")), (0, 0));

        // What is gone had its room until then.
        let last = kib_s("a");
        host.ok(&["delete", "a"]);
        let gone = data(host, &["usage", "a", "--deleted"]);
        assert!(gone[0]["disk_kib_s"].as_u64() >= Some(last), "{gone}");
        host.ok(&["delete", "none"]);
    });
}

#[test]
fn licensed_software_is_told_by_the_cores_it_could_use() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    let product = ["--label", "license=db"];
    started(&host, "a", &[&product[..], &["--cpus", "0.5"]].concat());
    made(&host, "never-ran", &product);
    started(&host, "other", &["--cpus", "1"]);
    let row = |flags: &[&str]| data(&host, &[&["licenses"], flags].concat());
    let rows = row(&[]);
    assert_eq!(rows.as_array().expect("a list").len(), 1, "{rows}");
    assert_eq!(
        (&rows[0]["product"], &rows[0]["cores"]),
        (&"db".into(), &1.into())
    );
    assert_eq!(
        (&rows[0]["guests"], &rows[0]["licenses"]),
        (&1.into(), &1.into())
    );

    // What it could use for a moment counts, also after that, when it is stopped, and when it is gone.
    host.ok(&["set", "a", "cpu.limit=1.01"]);
    host.ok(&["set", "a", "cpu.limit=0.5"]);
    let two = std::thread::available_parallelism().map_or(1, |n| n.get().min(2));
    let peak = |host: &Bulkhead| data(host, &["licenses", "--factor", "db=2"])[0].clone();
    assert_eq!(peak(&host)["cores"], two);
    assert_eq!(peak(&host)["licenses"], two * 2);
    host.ok(&["stop", "a"]);
    assert_eq!(peak(&host)["cores"], two);
    // A label that goes leaves what was.
    host.ok(&["set", "a", "--unset", "labels.license"]);
    assert_eq!(peak(&host)["cores"], two);
    host.ok(&["start", "a"]);
    host.ok(&["set", "a", "labels.license=web"]);
    let both = row(&[]);
    let both: Vec<_> = both.as_array().expect("a list").iter().collect();
    let both: Vec<_> = both.iter().map(|row| row["product"].as_str()).collect();
    assert_eq!(both, [Some("db"), Some("web")]);
    host.ok(&["kill", "a"]);
    host.ok(&["delete", "a"]);
    assert_eq!(peak(&host)["cores"], two);
    assert_eq!(row(&["--by", "month"])[0]["guests"], 1);
    assert_eq!(row(&["--label", "none"]), serde_json::json!([]));
    let said = host.fails(&["licenses", "--factor", "bd=2"], 2);
    assert!(said.contains("license=bd"), "{said}");
}

#[test]
fn cores_are_those_in_force_and_not_those_that_wait() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    let flags = ["--cpus", "0.9", "--cpu-resize", "static", "--network"];
    started(&host, "a", &[&flags[..], &["none"]].concat());
    let could = || {
        let file = host.root().join("var/lib/bulkhead/guests/a/account.json");
        let text = fs::read_to_string(file).expect("an account");
        let account: Value = serde_json::from_str(&text).expect("JSON");
        account["cores"]["seen"]["hundredths"].as_u64()
    };
    host.ok(&["set", "a", "cpu.limit=0.3"]);
    assert_eq!(could(), Some(90));
    host.ok(&["kill", "a"]);
    host.ok(&["start", "a"]);
    host.ok(&["kill", "a"]);
    assert_eq!(could(), Some(30));
}

#[test]
fn an_account_that_is_damaged_is_told_wherever_it_matters() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    started(&host, "a", &["--network", "none"]);
    host.ok(&["stop", "a"]);
    let findings = |host: &Bulkhead| {
        let said = host.run(&["doctor", "--format", "json"]).stdout;
        let report: Value = serde_json::from_str(&said).expect("JSON");
        let all = report["findings"].as_array().expect("a list").clone();
        let account = |one: &&Value| {
            one["subject"]
                .as_str()
                .is_some_and(|s| s.contains("account"))
        };
        let all: Vec<_> = all.iter().filter(account).cloned().collect();
        all
    };
    assert_eq!(findings(&host), [] as [Value; 0]);
    let file = host.root().join("var/lib/bulkhead/guests/a/account.json");
    let path = file.to_str().expect("a plain path");
    let whole = fs::read(&file).expect("an account");
    host.ok(&["start", "a"]);
    // Half of it, and one whose days are none.
    fs::write(&file, &whole[..whole.len() / 2]).expect("a folder of ours");
    assert!(host.fails(&["usage", "a"], 1).contains(path));
    let text = String::from_utf8(whole).expect("text");
    let day = text.find("\"2").expect("a day") + 1;
    fs::write(&file, format!("{}x{}", &text[..day], &text[day + 1..])).expect("a folder of ours");
    let said = host.fails(&["usage", "a", "--by", "month"], 1);
    assert!(
        said.contains(path) && said.contains("no day or month"),
        "{said}"
    );
    let found = findings(&host);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0]["subject"], "account of a");
    // A guest is stopped all the same, and what is lost is told.
    host.ok(&["stop", "a"]);
    let events = data(&host, &["events", "a"]);
    let events = events.as_array().expect("a list").iter();
    let mut lost = events.filter(|event| event["event"] == "not-counted");
    let why = lost.next().expect("an event")["why"].to_string();
    assert!(why.contains(path), "{why}");
    // Deleted, it is still there to be mended, and no bill does without it.
    host.ok(&["delete", "a"]);
    let said = host.fails(&["usage", "--deleted"], 1);
    assert!(said.contains("/accounts/a."), "{said}");
    assert_eq!(findings(&host)[0]["subject"], "deleted accounts");
}

#[test]
fn licensed_guests_together_could_use_no_more_than_there_is() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    let product = ["--label", "license=db", "--network", "none"];
    for name in ["a", "b", "c"] {
        started(&host, name, &product);
    }
    let there = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let rows = data(&host, &["licenses"]);
    assert_eq!(
        (&rows[0]["guests"], &rows[0]["cores"]),
        (&3.into(), &there.into())
    );
}

#[test]
fn what_a_guest_used_stays_with_the_tenant_that_had_it_then() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    host.ok(&["tenant", "create", "acme"]);
    host.ok(&["tenant", "create", "zed"]);
    started(&host, "a", &["--tenant", "acme", "--network", "none"]);
    work(&host, "a");
    host.ok(&["set", "a", "tenant=zed"]);
    // Until its next start it is where it was.
    let of = |tenant: &str| {
        let rows = data(&host, &["usage", "--by", "tenant", "--tenant", tenant]);
        rows[0]["cpu_us"].as_u64().unwrap_or(0)
    };
    let before = of("acme");
    assert!(before > 0 && of("zed") == 0);
    host.ok(&["kill", "a"]);
    let left = of("acme");
    assert!(left >= before);
    host.ok(&["start", "a"]);
    work(&host, "a");
    assert_eq!(of("acme"), left);
    let new = of("zed");
    assert!(new > 0);
    // The guest's own account is all of it, and so is that of one that goes.
    assert!(used(&host, "a", "cpu_us") >= left + new);
    host.ok(&["kill", "a"]);
    let new = of("zed");
    host.ok(&["delete", "a"]);
    host.ok(&["tenant", "delete", "acme"]);
    let rows = data(&host, &["usage", "--by", "tenant", "--deleted"]);
    let sums: Vec<_> = rows.as_array().expect("a list").iter().collect();
    let sums: Vec<_> = sums
        .iter()
        .map(|row| (row["tenant"].as_str(), row["cpu_us"].as_u64()))
        .collect();
    assert_eq!(sums, [(Some("acme"), Some(left)), (Some("zed"), Some(new))]);
    // A tenant that is gone is still asked for, one that never was is a mistake.
    host.ok(&["tenant", "delete", "zed"]);
    let rows = data(&host, &["usage", "--deleted", "--tenant", "zed"]);
    assert_eq!(rows[0]["name"], "a", "{rows}");
    for by in [&["--by", "tenant"][..], &[]] {
        for deleted in [&["--deleted"][..], &[]] {
            let said = host.fails(&[&["usage", "--tenant", "acm"], by, deleted].concat(), 3);
            assert!(said.contains("acm"), "{said}");
        }
    }
}

#[test]
fn what_is_used_is_priced() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    started(&host, "a", &["--label", "customer=acme"]);
    made(&host, "idle", &[]);
    work(&host, "a");
    host.ok(&["stop", "a"]);
    let card = host.root().join("rates.toml");
    fs::write(&card, "currency = \"EUR\"\ncpu_hour = 3600\n").expect("a folder of ours");
    let card = card.to_str().expect("a plain path");
    let select = ["usage", "--select", "customer=acme", "--rates", card];
    let rows = data(&host, &select);
    assert_eq!(rows.as_array().expect("a list").len(), 1);
    let row = &rows[0];
    let seconds = row["cpu_us"].as_u64().expect("a number") as f64 / 1e6;
    let cost = row["cost"].as_f64().expect("a number");
    assert!((cost - seconds).abs() < 1e-5, "{cost} {seconds}");
    assert_eq!(row["currency"], "EUR");
    let table = host.ok(&select);
    assert!(table.contains("COST EUR"), "{table}");
    assert_eq!(used(&host, "idle", "run_ms"), 0);

    fs::write(card, "cpu_hours = 1\n").expect("a folder of ours");
    let said = host.fails(&["usage", "--rates", card], 5);
    assert!(
        said.contains("rates.toml") && said.contains("cpu_hours"),
        "{said}"
    );
    let said = host.fails(&["usage", "--rates", "/"], 5);
    assert!(said.contains('/'), "{said}");
}

#[test]
fn what_deleted_guests_used_can_still_be_billed() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    started(&host, "a", &["--label", "customer=acme"]);
    work(&host, "a");
    host.ok(&["stop", "a"]);
    let before = used(&host, "a", "cpu_us");
    assert!(before > 0);
    made(&host, "idle", &[]);
    host.ok(&["delete", "a", "idle"]);
    host.fails(&["usage", "a"], 3);

    // The one that never ran has left nothing.
    let gone = data(&host, &["usage", "--deleted"]);
    let gone = gone.as_array().expect("a list");
    assert_eq!(gone.len(), 1, "{gone:?}");
    assert_eq!(
        (&gone[0]["name"], &gone[0]["cpu_us"]),
        (&"a".into(), &before.into())
    );
    assert!(gone[0]["deleted"].is_string());
    let table = host.ok(&["usage", "a", "--deleted"]);
    assert!(table.contains("a (deleted)"), "{table}");
    let others = data(&host, &["usage", "--deleted", "--select", "customer=other"]);
    assert_eq!(others.as_array().expect("a list").len(), 0);

    // One of the same name is another guest; in the trash it is not gone yet.
    started(&host, "a", &["--label", "customer=acme"]);
    work(&host, "a");
    host.ok(&["delete", "a", "--force", "--keep", "1"]);
    let count = |host: &Bulkhead| {
        let rows = data(host, &["usage", "--deleted", "--select", "customer=acme"]);
        rows.as_array().expect("a list").len()
    };
    assert_eq!(count(&host), 1);
    host.ok(&["trash", "empty"]);
    assert_eq!(count(&host), 2);
    let rows = data(&host, &["usage", "a", "--deleted"]);
    assert!(rows[1]["cpu_us"].as_u64() > Some(0), "{rows}");

    // What cannot be read is no part of a bill, and said.
    let folder = host.root().join("var/lib/bulkhead/accounts");
    let file = fs::read_dir(&folder)
        .expect("accounts")
        .next()
        .expect("one");
    let file = file.expect("an entry").path();
    fs::write(&file, "{").expect("a folder of ours");
    let said = host.fails(&["usage", "--deleted"], 1);
    assert!(
        said.contains(file.to_str().expect("a plain path")),
        "{said}"
    );
}
