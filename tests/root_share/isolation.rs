//! Guests that take all they can get of what the kernel counts, and leave each other and the host
//! unharmed: the limits are of the guest, and what the kernel keeps for it is paid from its memory.
//!
//! The kernel counts inotify instances, signals, timers and message queues by the host uid that made
//! the user namespace; through other managers one guest uses up the share of all, the host's root
//! included.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use crate::support::{Bulkhead, Need, need};

/// Takes things and keeps them; see the head of the file.
const HOG: &str = include_str!("../hostile/hog.pl");

/// What one hog got of each kind, and why no more.
type Taken = BTreeMap<String, (u64, String)>;

/// A hog that holds what it took until this is dropped.
struct Hog {
    child: Child,
    taken: Taken,
}

impl Hog {
    fn start(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let child = command.spawn().unwrap();
        let mut hog = Self {
            child,
            taken: Taken::new(),
        };
        let mut ended = false;
        for line in BufReader::new(hog.child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            let words: Vec<_> = line.split(' ').collect();
            let [kind, count, why] = words[..] else {
                ended = true;
                break;
            };
            let count = count.parse().unwrap();
            hog.taken.insert(kind.into(), (count, why.into()));
        }
        assert!(ended, "the hog ended early, after {:?}", hog.taken);
        hog
    }

    #[track_caller]
    fn got(&self, kind: &str) -> (u64, &str) {
        let (count, why) = &self.taken[kind];
        (*count, why)
    }
}

impl Drop for Hog {
    fn drop(&mut self) {
        // The end of its input ends the hog.
        drop(self.child.stdin.take());
        let _status = self.child.wait();
    }
}

fn hog_in(bulkhead: &Bulkhead, guest: &str, most: &str, kinds: &[&str]) -> Hog {
    let args = ["exec", guest, "--", "perl", "-e", HOG, most];
    Hog::start(bulkhead.command(&[&args, kinds].concat()))
}

/// The host itself, as root: it takes a few of each.
fn hog_here(kinds: &[&str]) -> Hog {
    let mut command = Command::new("perl");
    command.args(["-e", HOG, "30"]).args(kinds);
    Hog::start(command)
}

fn guest(bulkhead: &Bulkhead, name: &str, flags: &[&str]) {
    let base = ["create", name, "--template", "host", "--network", "none"];
    let init = ["--init", "/bin/sleep 86400"];
    bulkhead.ok(&[&base[..], &init, flags].concat());
    bulkhead.ok(&["start", name]);
}

fn usage(bulkhead: &Bulkhead, name: &str, field: &str) -> u64 {
    let text = bulkhead.ok(&["info", name, "--format", "json"]);
    let info: serde_json::Value = serde_json::from_str(&text).unwrap();
    info["usage"][field].as_u64().unwrap()
}

#[test]
fn a_guest_uses_up_what_is_counted_and_nobody_else_notices() {
    if !need(Need::Root) {
        return;
    }
    let bulkhead = Bulkhead::new();
    let flags = ["--processes", "150", "--ptys", "20", "--cgroups", "40"];
    guest(&bulkhead, "greedy", &flags);
    guest(&bulkhead, "other", &flags);
    let kinds = [
        "inotify",
        "timers",
        "queues",
        "ptys",
        "keys",
        "groups",
        "processes",
        "files",
    ];
    let greedy = hog_in(&bulkhead, "greedy", "1000000", &kinds);
    // Not one kind is without an end, and each end is the one of this guest's limits.
    assert_eq!(greedy.got("keys"), (0, "ENOSYS"));
    // One is the console.
    assert_eq!(greedy.got("ptys"), (19, "ENOSPC"));
    assert_eq!(greedy.got("timers"), (8192, "EAGAIN"));
    assert_eq!(greedy.got("queues").1, "EMFILE");
    assert_eq!(greedy.got("inotify").1, "EMFILE");
    let (processes, why) = greedy.got("processes");
    assert!((140..150).contains(&processes) && why == "EAGAIN");
    let (groups, why) = greedy.got("groups");
    assert!(
        groups < 40 && matches!(why, "EAGAIN" | "EACCES" | "EROFS"),
        "{groups} {why}"
    );
    assert!((10_000..70_000).contains(&greedy.got("files").0));

    // The second guest gets as much while the first holds all of it, and so does the host's root.
    let other = hog_in(&bulkhead, "other", "1000000", &kinds);
    for (kind, taken) in &greedy.taken {
        let (theirs, _) = other.got(kind);
        assert!(
            theirs.abs_diff(taken.0) <= 5,
            "{kind}: {theirs} after {}",
            taken.0
        );
    }
    let few = [
        "inotify", "timers", "signals", "queues", "ptys", "keys", "files",
    ];
    let host = hog_here(&few);
    for kind in few {
        assert_eq!(host.got(kind), (30, "enough"), "{kind} on the host");
    }
    drop((greedy, other, host));

    // Pending signals share the count of timers, so they have a round of their own.
    let greedy = hog_in(&bulkhead, "greedy", "1000000", &["signals"]);
    assert_eq!(greedy.got("signals"), (8192, "EAGAIN"));
    let other = hog_in(&bulkhead, "other", "1000000", &["signals"]);
    assert_eq!(other.got("signals"), (8192, "EAGAIN"));
    assert_eq!(hog_here(&["signals"]).got("signals"), (30, "enough"));
    // And what was given back can be taken again.
    drop((greedy, other));
    assert_eq!(
        hog_in(&bulkhead, "greedy", "5", &["timers"])
            .got("timers")
            .0,
        5
    );
}

/// What the kernel keeps for a guest is paid from the guest's memory: the guest that takes it runs
/// out, with a reason told, and its neighbour's processes live on.
#[test]
fn what_the_kernel_keeps_for_a_guest_is_charged_to_it() {
    if !need(Need::Root) {
        return;
    }
    let bulkhead = Bulkhead::new();
    let limit = 48 << 20;
    let flags = ["--memory", "48M", "--processes", "150"];
    guest(&bulkhead, "greedy", &flags);
    guest(&bulkhead, "other", &flags);
    let bystander = hog_in(&bulkhead, "other", "20", &["inotify", "memory"]);
    for kind in ["memory", "watches", "names"] {
        let args = ["exec", "greedy", "--", "perl", "-e", HOG, "10000000", kind];
        let outcome = bulkhead.run(&args);
        // Killed for memory, or told that there is no more.
        let refused = outcome.stdout.contains("ENOSPC") || outcome.stdout.contains("ENOMEM");
        assert!(
            outcome.code == 137 || refused,
            "{kind}: {}",
            outcome.report()
        );
        // The kernel may go beyond by what it cannot wait for.
        let peak = usage(&bulkhead, "greedy", "memory_peak");
        assert!(peak <= limit + (1 << 20), "{kind}: {peak}");
        // What a killed hog left in memory file systems goes, so that the next one has room.
        bulkhead.ok(&["stop", "greedy", "-t", "0s"]);
        bulkhead.ok(&["start", "greedy"]);
        bulkhead.ok(&["exec", "greedy", "--", "true"]);
    }
    assert_eq!(usage(&bulkhead, "other", "oom_kills"), 0);
    assert_eq!(bystander.got("memory"), (20, "enough"));
    assert!(bulkhead.ok(&["events", "greedy"]).contains("out of memory"));
}

/// Every memory file system that a guest is given has a size, and all of them are charged.
#[test]
fn memory_file_systems_are_bounded() {
    if !need(Need::Root) {
        return;
    }
    let bulkhead = Bulkhead::new();
    guest(&bulkhead, "full", &["--memory", "64M"]);
    let fill = "for d in /dev/shm /run /dev /proc/acpi /sys/firmware; do
        dd if=/dev/zero of=$d/fill bs=64k count=4096 2>/dev/null
        echo $d $(stat -c %s $d/fill 2>/dev/null || echo none); rm -f $d/fill; done";
    let text = bulkhead.ok(&["exec", "full", "--", "sh", "-c", fill]);
    let quarter = (64 << 20) / 4;
    let expected = format!(
        "/dev/shm {quarter}\n/run {quarter}\n/dev 65536\n/proc/acpi none\n/sys/firmware none\n"
    );
    assert_eq!(text, expected);
}
