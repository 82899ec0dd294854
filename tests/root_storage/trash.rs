//! Deleted guests that are kept for some days, guests that cannot be deleted, and what is left when
//! these commands are cut short.

use crate::life::{data, inside};
use crate::support::{Bulkhead, Need, became, need, run};
use serde_json::{Value, json};

fn made(host: &Bulkhead, name: &str, flags: &[&str]) {
    let base = ["create", name, "--template", "busybox"];
    host.ok(&[&base[..], flags].concat());
}

fn trash(host: &Bulkhead) -> Vec<Value> {
    let all = data(host, &["trash", "list"]);
    all.as_array().expect("a list").clone()
}

fn names(host: &Bulkhead) -> Vec<String> {
    let all = data(host, &["list"]);
    let all = all.as_array().expect("a list").iter();
    all.map(|one| one["name"].as_str().expect("a name").to_owned())
        .collect()
}

fn nothing_left(host: &Bulkhead) {
    // The process that tells neighbours of an end may still be at it.
    became(10, || host.run(&["doctor"]).code == 0);
    assert_eq!(data(host, &["doctor"])["leftovers"], json!([]));
}

#[test]
fn deleted_and_brought_back() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    made(&host, "w", &["--start"]);
    inside(&host, "w", "echo kept >/data");
    let identity = "cat /etc/machine-id; cat /proc/self/uid_map";
    let before = inside(&host, "w", identity);
    host.ok(&["kill", "w"]);
    host.ok(&["snapshot", "create", "w"]);
    host.ok(&["start", "w"]);
    host.fails(&["delete", "w", "--keep", "3"], 4);
    let said = host.ok(&["delete", "w", "--keep", "3", "--force"]);
    assert!(said.contains("kept in the trash until 20"), "{said}");
    nothing_left(&host);

    // Nobody sees it but `trash`, and its name is free.
    let all = trash(&host);
    assert_eq!(all.len(), 1);
    assert_eq!(all[0]["name"], "w");
    let days = all[0]["until_ms"].as_u64().expect("a time")
        - all[0]["deleted_ms"].as_u64().expect("a time");
    assert_eq!(days, 3 * 86_400_000);
    let id = all[0]["id"].as_str().expect("a name").to_owned();
    assert_eq!(names(&host), [] as [&str; 0]);
    for args in [
        &["start", &id][..],
        &["delete", &id],
        &["info", &id],
        &["get", &id],
        &["rename", &id, "x"],
        &["clone", &id, "x"],
        &["file", "ls", &format!("{id}:/")],
        &["start", "w"],
    ] {
        host.fails(args, 3);
    }
    let image = data(&host, &["image", "list"])[0]["digest"].clone();
    host.fails(&["image", "delete", image.as_str().expect("a digest")], 4);
    made(&host, "w", &["--start"]);
    // Its ids are still its own.
    assert_ne!(inside(&host, "w", identity), before);
    assert_eq!(
        host.fails(&["trash", "restore", "w"], 4)
            .matches("already")
            .count(),
        1
    );
    assert!(
        host.fails(&["trash", "restore", "v"], 3)
            .contains("did you mean w?")
    );
    host.ok(&["trash", "restore", "w", "--as", "old"]);
    host.ok(&["start", "old"]);
    assert_eq!(inside(&host, "old", "cat /data"), "kept");
    assert_eq!(inside(&host, "old", identity), before);
    assert_eq!(data(&host, &["snapshot", "list", "old"])[0]["name"], "s1");
    host.ok(&["delete", "old", "--force", "--keep", "1"]);
    host.ok(&["delete", "w", "--force", "--keep", "0"]);
    host.ok(&[
        "trash",
        "restore",
        trash(&host)[0]["id"].as_str().expect("a name"),
    ]);
    assert_eq!(names(&host), ["old"]);
    host.ok(&["delete", "old", "--keep", "1"]);
    host.ok(&["trash", "empty", "--expired"]);
    assert_eq!(trash(&host).len(), 1);
    host.ok(&["trash", "empty"]);
    assert_eq!(trash(&host), [] as [Value; 0]);
    nothing_left(&host);
    let guests = host.root().join("var/lib/bulkhead/guests");
    assert_eq!(std::fs::read_dir(guests).expect("ours").count(), 0);
}

/// The host's setting, its end, and the guests that are protected.
#[test]
fn days_pass_and_protection_holds() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    let etc = host.root().join("etc/bulkhead");
    std::fs::create_dir_all(&etc).expect("a folder of ours");
    std::fs::write(etc.join("bulkhead.toml"), "[trash]\ndays = 2\n").expect("ours");
    made(&host, "a", &["--network", "none", "--protect"]);
    made(&host, "b", &["--network", "none"]);
    for args in [
        &["delete", "a"][..],
        &["delete", "a", "--force"],
        &["delete", "a", "--dry-run"],
    ] {
        let said = host.fails(args, 5);
        assert!(
            said.contains("`bulkhead set a protect=false` first"),
            "{said}"
        );
    }
    host.ok(&["delete", "b"]);
    let id = trash(&host)[0]["id"].as_str().expect("a name").to_owned();
    // As if its days had passed.
    let record = host.root().join("var/lib/bulkhead/guests").join(id);
    let record = record.join("machine.json");
    let text = std::fs::read_to_string(&record).expect("a record");
    let mut machine: Value = serde_json::from_str(&text).expect("a record");
    machine["trashed"]["until_ms"] = json!(1);
    std::fs::write(&record, machine.to_string()).expect("ours");
    host.ok(&["set", "a", "protect=false"]);
    host.ok(&["delete", "a"]);
    let left = trash(&host);
    assert_eq!(left.len(), 1);
    assert_eq!(left[0]["name"], "a");
    host.ok(&["trash", "empty", "--yes"]);
    nothing_left(&host);
}

/// Killed or refused at each point: the guest is there under its name, or in the trash, or gone where
/// it was to go; and `doctor --fix` leaves nothing else.
#[test]
fn every_point_leaves_a_guest_or_none() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    let (put, bring) = (
        &["delete", "w", "--keep", "1"][..],
        &["trash", "restore", "w"][..],
    );
    for (verb, act) in [(put, ""), (put, ":fail"), (bring, ""), (bring, ":fail")] {
        made(&host, "w", &[]);
        if verb == bring {
            host.ok(put);
        }
        let mut point = 0;
        loop {
            let mut command = host.command(verb);
            command.env("BULKHEAD_FAULT", format!("command:{point}{act}"));
            let done = run(command);
            let at = format!("{verb:?} {point}{act}: {}", done.report());
            host.ok(&["doctor", "--fix"]);
            nothing_left(&host);
            let (live, kept) = (names(&host), trash(&host).len());
            assert_eq!(live.len() + kept, 1, "{at}");
            assert!(live.iter().all(|name| name == "w"), "{at}");
            if done.code == 0 {
                assert_eq!(kept, usize::from(verb == put), "{at}");
                break;
            }
            // Again as it was before.
            if verb == put && kept == 1 {
                host.ok(bring);
            } else if verb == bring && kept == 0 {
                host.ok(put);
            }
            point += 1;
        }
        assert!(point >= 4, "the points are passed: {verb:?} {point}");
        if verb == put {
            host.ok(bring);
        }
        host.ok(&["start", "w"]);
        host.ok(&["delete", "w", "--force"]);
    }
    made(&host, "w", &[]);
    for point in 0.. {
        if trash(&host).is_empty() {
            host.ok(&["create", "v", "--template", "busybox"]);
            host.ok(&["delete", "v", "--keep", "1"]);
        }
        let mut command = host.command(&["trash", "empty"]);
        command.env("BULKHEAD_FAULT", format!("command:{point}"));
        let done = run(command);
        host.ok(&["doctor", "--fix"]);
        nothing_left(&host);
        assert_eq!(names(&host), ["w"]);
        if done.code == 0 {
            break;
        }
    }
    host.ok(&["delete", "w"]);
}
