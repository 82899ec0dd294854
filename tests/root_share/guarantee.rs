//! Memory that guests are guaranteed (cgroup version 2): the groups above them have it as well,
//! whoever starts, changes, ends or dies, and the kernel then takes it from nobody but others.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::life::{data, info, inside, scripted};
use crate::support::{Bulkhead, Need, need};
use serde_json::json;

const MIB: u64 = 1 << 20;

fn guest(host: &Bulkhead, name: &str, flags: &[&str]) {
    let usual = ["--network", "none", "--memory", "128M", "--start"];
    scripted(host, name, "sleep 1000", &[&usual[..], flags].concat());
}

/// The folder of a running guest that has its limits.
fn folder(host: &Bulkhead, name: &str) -> PathBuf {
    let pid = info(host, name)["pid"].as_u64().expect("it runs");
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("proc");
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"));
    let delegated = Path::new("/sys/fs/cgroup").join(path.expect("version 2"));
    delegated.parent().expect("a folder").to_owned()
}

fn number(folder: &Path, file: &str) -> u64 {
    let text = std::fs::read_to_string(folder.join(file)).expect("a file of the kernel's");
    text.trim().parse().expect("a number")
}

/// MiB in `memory.min` and `memory.low`.
fn kept(folder: &Path) -> [u64; 2] {
    ["memory.min", "memory.low"].map(|file| number(folder, file) / MIB)
}

/// Whether all guests keep so much together, and what is above them, which others share, as much at
/// the least.
fn above(folder: &Path, all: [u64; 2]) -> bool {
    let parent = folder.parent().expect("a folder");
    let rest = parent.ancestors().skip(1);
    let mut rest = rest.take_while(|one| *one != Path::new("/sys/fs/cgroup"));
    let enough = |one: &Path| kept(one).iter().zip(all).all(|(kept, all)| *kept >= all);
    kept(parent) == all && rest.all(enough)
}

fn left(host: &Bulkhead) -> serde_json::Value {
    data(host, &["doctor"])["leftovers"].clone()
}

#[test]
fn what_is_guaranteed_is_kept_above_too() {
    if !need(Need::Root) || !need(Need::CgroupV2) {
        return;
    }
    let host = Bulkhead::new();
    host.ok(&["tenant", "create", "acme", "--memory", "256M"]);
    guest(&host, "a", &["--tenant", "acme", "--memory-min", "16M"]);
    guest(&host, "b", &["--memory-min", "8M", "--memory-low", "24M"]);
    let (a, b) = (folder(&host, "a"), folder(&host, "b"));
    let tenant = a.parent().expect("a folder").to_owned();
    assert_eq!((kept(&a), kept(&a.join("guest"))), ([16, 0], [16, 0]));
    assert_eq!(kept(&tenant), [16, 0]);
    // Of all guests, and what else is above them.
    assert!(above(&b, [24, 24]));

    host.ok(&["set", "a", "memory.min=32M"]);
    assert_eq!(kept(&tenant), [32, 0]);
    assert!(above(&b, [40, 24]));
    // New limits of the tenant's own take nothing away.
    host.ok(&["tenant", "set", "acme", "--memory", "200M"]);
    assert_eq!(kept(&tenant), [32, 0]);
    guest(&host, "c", &["--tenant", "acme", "--memory-low", "4M"]);
    assert_eq!(kept(&tenant), [32, 4]);
    host.ok(&["kill", "c"]);
    assert_eq!(kept(&tenant), [32, 0]);
    host.ok(&["set", "a", "memory.min=0"]);
    assert_eq!(kept(&tenant), [0, 0]);
    host.ok(&["set", "a", "memory.min=32M"]);
    assert_eq!(left(&host), json!([]));

    // As a command leaves it that dies before it has summed up.
    std::fs::write(tenant.join("memory.min"), "0").expect("a file of the kernel's");
    let found = host.run(&["doctor"]).stdout;
    assert!(
        found.contains("memory guarantees") && found.contains("tenant.acme"),
        "{found}"
    );
    host.ok(&["doctor", "--fix"]);
    assert_eq!((kept(&tenant), left(&host)), ([32, 0], json!([])));

    host.ok(&["kill", "a"]);
    assert!(above(&b, [8, 24]));
    let all = b.parent().expect("a folder").to_owned();
    host.ok(&["kill", "b"]);
    assert_eq!(kept(&all), [0, 0]);
    assert_eq!(left(&host), json!([]));
}

#[test]
fn what_others_are_at_is_nobodys_leftover() {
    if !need(Need::Root) || !need(Need::CgroupV2) {
        return;
    }
    let (host, other) = (Bulkhead::new(), Bulkhead::new());
    for host in [&host, &other] {
        guest(host, "a", &["--memory-min", "8M"]);
    }
    // Under systemd both are below one slice.
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let changes = scope.spawn(|| {
            for mib in (1..=8).cycle() {
                if done.load(Ordering::Relaxed) {
                    break;
                }
                other.ok(&["set", "a", &format!("memory.min={mib}M")]);
            }
        });
        let found: Vec<_> = (0..3).flat_map(|_| [left(&host), left(&other)]).collect();
        done.store(true, Ordering::Relaxed);
        changes.join().expect("each change is one");
        assert!(found.iter().all(|one| *one == json!([])), "{found:?}");
    });
    for host in [&host, &other] {
        host.ok(&["kill", "a"]);
        assert_eq!(left(host), json!([]));
    }
}

#[test]
fn memory_that_is_guaranteed_is_taken_from_others() {
    if !need(Need::Root) || !need(Need::CgroupV2) {
        return;
    }
    let host = Bulkhead::new();
    host.ok(&["tenant", "create", "acme"]);
    let script = "dd if=/dev/zero of=/big bs=1M count=24 && sync && cat /big > /dev/null";
    let mut folders = Vec::new();
    // No more than the one holds: what it does not use of that, the kernel keeps for the other.
    for (name, min) in [("kept", "24M"), ("other", "0")] {
        guest(&host, name, &["--tenant", "acme", "--memory-min", min]);
        inside(&host, name, script);
        folders.push(folder(&host, name));
    }
    let held = || [0, 1].map(|i: usize| number(&folders[i], "memory.current") / MIB);
    let before = held();
    assert!(before.iter().all(|mib| *mib >= 20), "{before:?}");
    // The kernel is asked for more than there is to have, from above the tenant.
    let all = folders[0].ancestors().nth(2).expect("a folder");
    let _as_much_as_there_is = std::fs::write(all.join("memory.reclaim"), "200M");
    let after = held();
    assert!(after[0] >= 20, "{before:?} {after:?}");
    assert!(after[1] < 10, "{before:?} {after:?}");
}
