//! Many containers, twenty at a time, made, entered, killed, deleted over and over: what the machine
//! has of anything is the same before and after. `BULKHEAD_CHURN` says how many; the usual number
//! takes about a minute with a release build.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::bundle::{Bundle, Site, ready};
use crate::{clients, support};

/// Containers at once.
const AT_ONCE: usize = 20;

/// Runs a command to its end without a thread for its output: what it writes is thrown away.
#[track_caller]
fn done(mut command: Command) {
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let status = command
        .status()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(status.success(), "{command:?}: {status}");
}

/// One container's life.
fn live(site: &Site, bundle: &Bundle, name: &str, number: usize) {
    let at = bundle.folder.to_string_lossy().into_owned();
    let act = |args: &[&str]| done(site.command(args));
    match number % 4 {
        0 => act(&["run", "-b", &at, name]),
        1 => {
            act(&["run", "-d", "-b", &at, name]);
            act(&["delete", "-f", name]);
        }
        _ => {
            act(&["create", "-b", &at, name]);
            act(&["start", name]);
            act(&["exec", name, "/bin/true"]);
            act(&["kill", name, "KILL"]);
            support::eventually("it can be deleted", 60, || {
                let mut command = site.command(&["delete", name]);
                command.stdout(Stdio::null()).stderr(Stdio::null());
                command.status().is_ok_and(|status| status.success())
            });
        }
    }
}

/// How much there is of what a container takes.
fn counts(site: &Site) -> BTreeMap<String, usize> {
    let mut all = BTreeMap::new();
    let mut count = |what: &str, number: usize| {
        all.insert(what.to_owned(), number);
    };
    let lines = |path: &str| fs::read_to_string(path).map_or(0, |text| text.lines().count());
    count("mounts", lines("/proc/self/mountinfo"));
    let groups = fs::read_to_string("/proc/cgroups").expect("a mounted /proc");
    let own = site.marks().cgroup();
    for line in groups.lines().skip(1) {
        let name = line.split('\t').next().unwrap_or_default();
        let at = Path::new("/sys/fs/cgroup")
            .join(name)
            .join(own.trim_start_matches('/'));
        count(&format!("groups of {name}"), folders(&at));
    }
    let unified = Path::new("/sys/fs/cgroup/unified").join(own.trim_start_matches('/'));
    count("groups of version 2", folders(&unified));
    count("files of the state", site.names().len());
    let seen = site.left().len();
    count("whatever carries the test's name", seen);
    count("loops", entries("/sys/block"));
    count("interfaces", entries("/sys/class/net"));
    all
}

fn entries(path: &str) -> usize {
    fs::read_dir(path).map_or(0, Iterator::count)
}

fn folders(path: &Path) -> usize {
    let all = fs::read_dir(path).into_iter().flatten().flatten();
    all.filter(|e| e.path().is_dir())
        .map(|e| 1 + folders(&e.path()))
        .sum()
}

/// Objects of a kind that the kernel counts for all: a leak grows with the number of containers.
fn objects() -> BTreeMap<&'static str, i64> {
    let mut all = BTreeMap::new();
    let slabs = fs::read_to_string("/proc/slabinfo").unwrap_or_default();
    for name in [
        "mnt_cache",
        "net_namespace",
        "pid_namespace",
        "user_namespace",
        "uts_namespace",
    ] {
        let line = slabs
            .lines()
            .find(|line| line.split(' ').next() == Some(name));
        let active = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
        all.extend(active.map(|active| (name, active)));
    }
    let memory = fs::read_to_string("/proc/meminfo").expect("a mounted /proc");
    for name in ["SUnreclaim", "Percpu"] {
        let line = clients::field(&memory, name);
        all.extend(
            line.split(' ')
                .next()
                .and_then(|n| n.parse().ok())
                .map(|n| (name, n)),
        );
    }
    all
}

#[test]
fn alone_a_thousand_containers_leave_nothing() {
    if !ready() {
        return;
    }
    let wanted = std::env::var("BULKHEAD_CHURN")
        .ok()
        .and_then(|n| n.parse().ok());
    let total: usize = wanted.unwrap_or(1000);
    let site = Site::new();
    let churn = |total: usize| {
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for lane in 0..AT_ONCE {
                let (site, next) = (&site, &next);
                scope.spawn(move || {
                    let name = format!("c{lane}");
                    let bundle = site.bundle(&format!("b{lane}-{total}"), "test $$ = 1");
                    let mut long = site.bundle(&format!("l{lane}-{total}"), "");
                    long.program(&["sleep", "1000"]);
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= total {
                            return;
                        }
                        let bundle = if number.is_multiple_of(4) {
                            &bundle
                        } else {
                            &long
                        };
                        live(site, bundle, &name, number);
                    }
                });
            }
        });
    };
    // What is made once for all is there after the first ones.
    churn(60);
    site.is_clean("the first");
    let (before, before_objects) = (counts(&site), objects());
    let began = std::time::Instant::now();
    churn(total);
    println!("{total} containers in {:?}", began.elapsed());
    site.is_clean("all of them");
    assert_eq!(counts(&site), before);
    // Namespaces go a moment after the last of their processes; others on this machine come and go.
    let mut last = BTreeMap::new();
    let room = |name: &str| match name {
        "SUnreclaim" => 40_000,
        "Percpu" => 8_000,
        _ => i64::try_from(total / 5).unwrap_or(0) + 20,
    };
    let gone = clients::within(30, || {
        last = objects();
        before_objects
            .iter()
            .all(|(name, was)| last[name] - was <= room(name))
    });
    assert!(gone, "before {before_objects:?}, after {last:?}");
}
