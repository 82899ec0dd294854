//! Two hundred guests, made, started, listed, stopped and deleted: nothing of them is left, counted
//! from outside. How long each start takes is measured by `bench/scale.py`.

use std::collections::BTreeMap;
use std::fs;

use crate::support::{Bulkhead, Need, eventually, need};
use crate::{support, traces};

const GUESTS: usize = 200;

/// How many there are of each kind of thing on the machine, of this installation or of none.
fn counts(bulkhead: &Bulkhead) -> BTreeMap<&'static str, usize> {
    let root = bulkhead.root();
    let entries = |path: &str| fs::read_dir(path).expect("a folder").count();
    let mut stored = traces::Traces::new();
    for folder in [
        "run",
        "etc",
        "var/lib/bulkhead/guests",
        "var/lib/bulkhead/network",
        "var/cache",
    ] {
        traces::list(&root.join(folder), &mut stored);
    }
    BTreeMap::from([
        ("mounts", traces::mounts(root).len()),
        ("cgroups", traces::cgroups(root).len()),
        ("interfaces", traces::interfaces(root).len()),
        ("loop devices", traces::loops(root).len()),
        ("processes", traces::processes(root).len()),
        ("files", stored.len()),
        (
            "images",
            entries(&root.join("var/lib/bulkhead/images").to_string_lossy()),
        ),
    ])
}

/// Descriptors that all keepers have open.
fn descriptors(bulkhead: &Bulkhead) -> usize {
    let all = traces::processes(bulkhead.root());
    let keepers: Vec<&str> = all
        .iter()
        .filter(|line| line.contains("keeper of"))
        .filter_map(|line| line.split(' ').nth(1))
        .collect();
    let open = |pid: &&str| fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
    keepers.iter().map(open).sum()
}

fn states(bulkhead: &Bulkhead, state: &str) -> usize {
    let text = bulkhead.ok(&["list", "--format", "json"]);
    let list: Vec<serde_json::Value> = serde_json::from_str(&text).expect("JSON");
    assert_eq!(list.len(), GUESTS);
    list.iter().filter(|one| one["status"] == state).count()
}

#[test]
fn alone_two_hundred_guests_leave_nothing() {
    if !need(Need::Root) {
        return;
    }
    let bulkhead = Bulkhead::new();
    let definition = bulkhead.root().join("definition.toml");
    let text = "template = \"busybox\"\nmemory.limit = \"32M\"\nprocesses = 64\n";
    fs::write(&definition, text).expect("a folder of ours");
    let definition = definition.to_string_lossy().into_owned();
    // What an installation keeps is there after its first guest.
    bulkhead.ok(&["create", "first", "--from", &definition, "--start"]);
    bulkhead.ok(&["delete", "--force", "first"]);
    let settled = || {
        let root = bulkhead.root();
        traces::interfaces(root).len() <= 1 && traces::processes(root).is_empty()
    };
    eventually(
        "the first guest's interface and keeper are gone",
        20,
        settled,
    );
    let before = counts(&bulkhead);

    let names: Vec<String> = (0..GUESTS).map(|n| format!("g{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    std::thread::scope(|scope| {
        for share in names.chunks(GUESTS / 4) {
            let (bulkhead, definition) = (&bulkhead, &definition);
            scope.spawn(move || {
                for name in share {
                    bulkhead.ok(&["create", name, "--from", definition]);
                }
            });
        }
    });
    // One after the other, and side by side.
    let (alone, together) = names.split_at(GUESTS / 4);
    for name in alone {
        bulkhead.ok(&["start", name]);
    }
    for share in together.chunks(30) {
        bulkhead.ok(&[&["start", "-j", "4"], share].concat());
    }
    assert_eq!(states(&bulkhead, "running"), GUESTS);
    let running = counts(&bulkhead);
    assert!(running["processes"] >= 2 * GUESTS, "{running:?}");
    assert_eq!(running["interfaces"], GUESTS + 1, "{running:?}");
    assert_eq!(
        (running["mounts"], running["loop devices"]),
        (0, 0),
        "{running:?}"
    );
    // Twelve of them are the guest's own files of /proc with their folder and what tells of their readers,
    // of all and of single ones: held open, so that nothing the guest does to a file is in the way of
    // writing it. Four are the keeper's part in
    // answering calls: what they come in by, the process that answers and the way to it, and what is
    // heard of limits. Two are the folder of groups that do not choose their CPUs, and the kernel's log
    // (cgroup version 1).
    // A keeper that writes at this moment has a file more open.
    let held = || descriptors(&bulkhead);
    let few = support::became(20, || held() <= 35 * GUESTS);
    assert!(few, "{} of {GUESTS} guests", held());

    bulkhead.ok(&[&["stop", "-j", "16"], alone].concat());
    bulkhead.ok(&["kill", "-j", "4", "--all"]);
    assert_eq!(states(&bulkhead, "stopped"), GUESTS);
    bulkhead.ok(&["delete", "--all", "--force", "-j", "4"]);
    let as_before = support::became(30, || counts(&bulkhead) == before);
    assert!(as_before, "{before:?} became {:?}", counts(&bulkhead));
    // What has just ended may still be put away.
    support::became(30, || bulkhead.run(&["doctor"]).code == 0);
    let left: serde_json::Value =
        serde_json::from_str(&bulkhead.run(&["doctor", "--format", "json"]).stdout).expect("JSON");
    assert_eq!(
        left["leftovers"].as_array().map(Vec::len),
        Some(0),
        "{left}"
    );
}
