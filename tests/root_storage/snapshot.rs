//! Snapshots, going back to them, and clones, in pools of each driver; and what is left when they are
//! cut short.

use std::path::PathBuf;

use crate::life::{data, inside, nothing_left};
use crate::support::{Bulkhead, Need, need, run};
use serde_json::json;

fn made(host: &Bulkhead, name: &str, flags: &[&str]) {
    let base = ["create", name, "--template", "busybox", "--network", "none"];
    host.ok(&[&base[..], flags].concat());
}

fn layers(host: &Bulkhead) -> Vec<PathBuf> {
    let folder = host.root().join("var/lib/bulkhead/kept");
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    entries
        .map(|entry| entry.expect("an entry").path())
        .collect()
}

/// Taken twice, gone back to, begun with, deleted; `live` where the pool keeps a running guest.
fn a_life_with_snapshots(host: &Bulkhead, flags: &[&str], live: bool) {
    made(host, "w", &[flags, &["--start"]].concat());
    let pause = |verb| {
        if !live {
            host.ok(&[verb, "w"]);
        }
    };
    inside(
        host,
        "w",
        "echo one >/data; chmod 750 /; mkfifo /fifo; ln -s x /link",
    );
    pause("kill");
    host.ok(&["snapshot", "create", "w"]);
    pause("start");
    inside(host, "w", "echo two >/data; rm /link; mkdir /new");
    pause("kill");
    host.ok(&[
        "snapshot",
        "create",
        "w",
        "second",
        "--comment",
        "after two",
    ]);
    pause("start");
    inside(host, "w", "echo three >/data");
    let all = data(host, &["snapshot", "list", "w"]);
    let told: Vec<_> = all
        .as_array()
        .expect("a list")
        .iter()
        .map(|one| (&one["name"], &one["parent"], &one["comment"]))
        .collect();
    assert_eq!(
        told,
        [
            (&json!("s1"), &json!(null), &json!("")),
            (&json!("second"), &json!("s1"), &json!("after two")),
        ]
    );
    host.fails(&["snapshot", "create", "w", "second"], 4);
    host.fails(&["snapshot", "restore", "w", "s1"], 4);
    let said = host.fails(&["snapshot", "delete", "w", "secnd"], 3);
    assert!(said.contains("did you mean \"second\""), "{said}");

    host.ok(&["kill", "w"]);
    host.ok(&["clone", "w", "now", "--start"]);
    host.ok(&[
        "clone",
        "w",
        "then",
        "--snapshot",
        "s1",
        "--memory",
        "64M",
        "--start",
    ]);
    assert_eq!(inside(host, "now", "cat /data /etc/hostname"), "three\nnow");
    assert_eq!(
        inside(host, "then", "cat /data; readlink /link; stat -c %a /"),
        "one\nx\n750"
    );
    assert_eq!(host.ok(&["get", "then", "memory.limit"]).trim(), "64M");
    let identity = |name: &str| inside(host, name, "cat /etc/machine-id; cat /proc/self/uid_map");
    assert_ne!(identity("now"), identity("then"));

    host.ok(&["snapshot", "restore", "w", "s1"]);
    host.ok(&["start", "w"]);
    let seen = inside(
        host,
        "w",
        "cat /data; readlink /link; stat -c %a /; ls -d /new 2>/dev/null; test -p /fifo && echo fifo",
    );
    assert_eq!(seen, "one\nx\n750\nfifo");
    host.ok(&["snapshot", "delete", "w", "s1"]);
    assert_eq!(inside(host, "then", "cat /data"), "one");
    host.ok(&["kill", "w"]);
    host.ok(&["snapshot", "restore", "w", "second"]);
    host.ok(&["start", "w"]);
    assert_eq!(inside(host, "w", "cat /data"), "two");
    host.ok(&["delete", "--force", "w"]);
    // What others began with stays theirs.
    assert_eq!(inside(host, "now", "cat /data"), "three");
    assert_eq!(inside(host, "then", "cat /data"), "one");
    host.ok(&["delete", "--force", "now", "then"]);
    nothing_left(host);
}

#[test]
fn layers_of_folders() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    a_life_with_snapshots(&host, &[], false);
    assert_eq!(layers(&host), [] as [PathBuf; 0]);
    made(&host, "a", &[]);
    host.fails(&["clone", "a", "a"], 4);
    host.fails(&["clone", "nobody", "b"], 3);
    host.fails(&["snapshot", "create", "a", "../x"], 2);
}

fn chain(host: &Bulkhead) -> Vec<String> {
    let path = host
        .root()
        .join("var/lib/bulkhead/guests/w/root/chain.json");
    let text = std::fs::read(path).expect("a chain");
    serde_json::from_slice(&text).expect("a list")
}

/// All there is in what the guest was given: types, modes, owners, sizes, targets, times, attributes.
fn listing(host: &Bulkhead) -> String {
    host.ok(&["start", "w"]);
    let all = inside(
        host,
        "w",
        "find /keep /gone /etc/init.d /bin/vi | sort | while read f; do \
         stat -c '%n %F %a %u %g %Y' \"$f\"; test -f \"$f\" && cat \"$f\"; readlink \"$f\"; done; \
         find /keep/linked /keep/a -exec stat -c '%i' {} + | sort -u | wc -l; ls /n | wc -l",
    );
    host.ok(&["kill", "w"]);
    all
}

/// A stopped guest that is written to between its snapshots never runs out of layers; those that
/// become one say what they said, wherever that is cut short.
#[test]
fn many_layers_become_one() {
    if !need(Need::Root) {
        return;
    }
    let host = &Bulkhead::new();
    made(host, "w", &[]);
    let round = |script: &str| {
        host.ok(&["start", "w"]);
        inside(host, "w", script);
        host.ok(&["kill", "w"]);
        host.ok(&["snapshot", "create", "w"]);
    };
    // Folders that go and come back hide what was in them; so does one in the place of a file.
    round(
        "mkdir -p /n /keep/deep/er /gone/x; echo a >/keep/a; ln /keep/a /keep/linked; ln -s a /keep/to",
    );
    round("echo b >/keep/deep/b; touch -t 200001010000 /keep/deep; rm -r /gone; rm -f /bin/vi");
    round("mkdir -m 1777 /gone; touch /gone/new; chown 5:6 /gone/new; mkfifo /keep/fifo");
    round("rm /keep/to; mkdir /keep/to; echo c >/keep/to/c; rm -rf /etc/init.d; mkdir /etc/init.d");
    round("chmod 750 /keep/deep; echo d >/etc/init.d/only; rm /keep/deep/b");
    let file = host.root().join("n");
    std::fs::write(&file, "n").expect("a folder of ours");
    for n in 0..35 {
        let to = format!("w:/n/{n}");
        host.ok(&["file", "push", &file.to_string_lossy(), &to]);
        host.ok(&["snapshot", "create", "w"]);
    }
    assert_eq!(chain(host).len(), 40);
    let before = listing(host);
    for number in 0.. {
        let mut command = host.command(&["snapshot", "create", "w", "last"]);
        command.env("BULKHEAD_FAULT", format!("command:{number}"));
        let done = run(command);
        host.ok(&["doctor", "--fix"]);
        nothing_left(host);
        if done.code == 0 {
            assert!(number >= 6, "{number} points");
            break;
        }
        assert_eq!(listing(host), before, "{number}");
        let _none = host.run(&["snapshot", "delete", "w", "last"]);
    }
    assert_eq!(listing(host), before);
    assert!(chain(host).len() < 10, "{:?}", chain(host));
    // Those of before are as they were, and go with their layers.
    host.ok(&["clone", "w", "v", "--snapshot", "s1", "--start"]);
    assert_eq!(inside(host, "v", "ls /gone; cat /keep/a"), "x\na");
    host.ok(&["delete", "--force", "v"]);
    for n in 1..=40 {
        host.ok(&["snapshot", "delete", "w", &format!("s{n}")]);
    }
    assert_eq!(listing(host), before);
    assert!(layers(host).len() < 10, "{:?}", layers(host));
    host.ok(&["delete", "w"]);
    nothing_left(host);
}

/// Of a guest that runs a copy is kept, of one moment, and the guest goes on as it was.
#[test]
fn layers_of_running_guests() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    a_life_with_snapshots(&host, &[], true);
    assert_eq!(layers(&host), [] as [PathBuf; 0]);
    made(&host, "w", &["--start"]);
    // Never more than one step between the two, however long the reading takes.
    inside(
        &host,
        "w",
        "dd if=/dev/zero of=/big bs=1M count=24 2>/dev/null; echo 0 >/a; echo 0 >/z; \
         (i=0; while :; do i=$((i+1)); echo $i >/n; mv /n /a; echo $i >/n; mv /n /z; done) \
         >/dev/null 2>&1 </dev/null &",
    );
    for name in ["x", "y"] {
        host.ok(&["clone", "w", name, "--start"]);
        let pair = inside(&host, name, "cat /a /z");
        let (a, z) = pair.split_once('\n').expect("two");
        let [a, z] = [a, z].map(|text| text.parse::<u64>().expect("a number"));
        assert!(a == z || a == z + 1, "{a} {z}");
        assert!(a > 0, "it went on meanwhile");
    }
    host.ok(&["pause", "w"]);
    host.ok(&["snapshot", "create", "w", "still"]);
    assert!(host.ok(&["list"]).contains("paused"));
    host.ok(&["delete", "--force", "w", "x", "y"]);
    assert_eq!(layers(&host), [] as [PathBuf; 0]);
    nothing_left(&host);
}

/// What begins from a guest of a pool lies in that pool too, whatever its driver.
#[test]
fn layers_stay_in_their_pool() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    let folder = host.root().join("elsewhere");
    std::fs::create_dir(&folder).expect("a folder of ours");
    let source = folder.display().to_string();
    host.ok(&["pool", "create", "p", "--source", &source]);
    a_life_with_snapshots(&host, &["--pool", "p"], false);
    made(&host, "w", &["--pool", "p", "--start"]);
    inside(&host, "w", "echo one >/data");
    host.ok(&["kill", "w"]);
    host.ok(&["snapshot", "create", "w"]);
    host.ok(&["snapshot", "restore", "w", "s1"]);
    host.ok(&["clone", "w", "v"]);
    let used = data(&host, &["pool", "info", "p"]);
    assert_eq!(used["guests"], json!(["v", "w"]));
    assert_eq!(layers(&host), [] as [PathBuf; 0]);
    let lies = |name: &str| {
        let root = host.root().join("var/lib/bulkhead/guests").join(name);
        root.join("root/upper").exists()
    };
    assert!(!lies("v") && !lies("w"));
    host.ok(&["delete", "--force", "v", "w"]);
    host.ok(&["pool", "delete", "p"]);
    nothing_left(&host);
    assert_eq!(std::fs::read_dir(&folder).expect("it").count(), 0);
}

/// The kernel takes 255 bytes of one option, and the last layer is as good as the first.
#[test]
fn as_many_layers_as_there_can_be() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    made(&host, "w", &[]);
    for number in 0..60 {
        host.ok(&["start", "w"]);
        inside(&host, "w", &format!("echo {number} >/{number}"));
        host.ok(&["kill", "w"]);
        host.ok(&["snapshot", "create", "w"]);
    }
    host.ok(&["start", "w"]);
    assert_eq!(
        inside(&host, "w", "cat /0 /31 /59; echo >/more"),
        "0\n31\n59"
    );
    host.ok(&["kill", "w"]);
    // Forty became one on the way.
    assert_eq!((chain(&host).len(), layers(&host).len()), (21, 61));
    host.ok(&["snapshot", "restore", "w", "s40"]);
    host.ok(&["start", "w"]);
    assert_eq!(inside(&host, "w", "ls / | grep -c '^[0-9]*$'"), "40");
    host.ok(&["kill", "w"]);
    host.ok(&["snapshot", "restore", "w", "s2"]);
    host.ok(&["start", "w"]);
    assert_eq!(inside(&host, "w", "ls / | grep -c '^[0-9]*$'"), "2");
    host.ok(&["delete", "--force", "w"]);
    assert_eq!(layers(&host), [] as [PathBuf; 0]);
}

/// Folders too deep to be followed keep layers from becoming one, and then there is a most.
#[test]
fn layers_that_cannot_become_one_run_out() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    made(&host, "w", &["--start"]);
    let deep = "mkdir /n; cd /n; for n in $(seq 130); do mkdir d; cd d; done";
    inside(&host, "w", deep);
    host.ok(&["kill", "w"]);
    let file = host.root().join("n");
    std::fs::write(&file, "n").expect("a folder of ours");
    for number in 0..60 {
        let to = format!("w:/n/{number}");
        host.ok(&["file", "push", &file.to_string_lossy(), &to]);
        host.ok(&["snapshot", "create", "w"]);
    }
    host.ok(&["file", "push", &file.to_string_lossy(), "w:/n/more"]);
    let said = host.fails(&["snapshot", "create", "w"], 1);
    assert!(said.contains("60 layers already"), "{said}");
    nothing_left(&host);
    host.ok(&["start", "w"]);
    assert_eq!(inside(&host, "w", "ls /n | wc -l"), "62");
    host.ok(&["delete", "--force", "w"]);
    assert_eq!(layers(&host), [] as [PathBuf; 0]);
}

#[test]
fn copies_of_files() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    host.ok(&["pool", "create", "p", "--driver", "image"]);
    a_life_with_snapshots(&host, &["--pool", "p", "--disk", "32M"], true);
    host.ok(&["pool", "delete", "p"]);
}

#[test]
fn copies_of_subvolumes() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    host.ok(&["pool", "create", "p", "--driver", "btrfs", "--size", "512M"]);
    a_life_with_snapshots(&host, &["--pool", "p", "--disk", "32M"], true);
    host.ok(&["pool", "delete", "p"]);
}

#[test]
fn a_definition_goes_back_as_well_if_asked() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    made(&host, "w", &["--memory", "64M"]);
    host.ok(&["snapshot", "create", "w"]);
    host.ok(&["set", "w", "memory.limit=128M"]);
    host.ok(&["snapshot", "restore", "w", "s1"]);
    assert_eq!(host.ok(&["get", "w", "memory.limit"]).trim(), "128M");
    host.ok(&["snapshot", "restore", "w", "s1", "--definition"]);
    assert_eq!(host.ok(&["get", "w", "memory.limit"]).trim(), "64M");
}

/// Every point of every command: what the guest had it still has, and nothing is left over.
fn every_point(host: &Bulkhead, args: &[&str], again: &dyn Fn(&Bulkhead)) {
    for number in 0..80 {
        let mut command = host.command(args);
        command.env("BULKHEAD_FAULT", format!("command:{number}"));
        let done = run(command);
        host.ok(&["doctor", "--fix"]);
        nothing_left(host);
        host.ok(&["start", "w"]);
        assert_eq!(inside(host, "w", "cat /data"), "kept", "{args:?} {number}");
        host.ok(&["kill", "w"]);
        if done.code == 0 {
            assert!(number >= 2, "{args:?}: {number} points");
            return;
        }
        again(host);
    }
    panic!("{args:?}: more than 80 points");
}

fn every_point_in(host: &Bulkhead, flags: &[&str]) {
    made(host, "w", &[flags, &["--start"]].concat());
    inside(host, "w", "echo kept >/data");
    host.ok(&["kill", "w"]);
    let forget = |host: &Bulkhead| {
        host.run(&["snapshot", "delete", "w", "s"]);
    };
    let take = |host: &Bulkhead| {
        host.run(&["snapshot", "create", "w", "s"]);
    };
    every_point(host, &["snapshot", "create", "w", "s"], &forget);
    every_point(host, &["snapshot", "restore", "w", "s"], &|_| {});
    every_point(host, &["clone", "w", "v", "--snapshot", "s"], &|host| {
        host.run(&["delete", "--yes", "v"]);
    });
    every_point(host, &["snapshot", "delete", "w", "s"], &take);
    host.ok(&["delete", "w", "v"]);
    nothing_left(host);
}

#[test]
fn every_point_with_layers() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    every_point_in(&host, &[]);
    assert_eq!(layers(&host), [] as [PathBuf; 0]);
}

/// Wherever a command ends that keeps a running guest, the guest goes on.
#[test]
fn every_point_with_a_running_guest() {
    if !need(Need::Root) {
        return;
    }
    let host = &Bulkhead::new();
    made(host, "w", &["--start"]);
    inside(host, "w", "echo kept >/data");
    for number in 0..80 {
        let mut command = host.command(&["snapshot", "create", "w", "s"]);
        command.env("BULKHEAD_FAULT", format!("command:{number}"));
        let done = run(command);
        host.ok(&["doctor", "--fix"]);
        nothing_left(host);
        assert_eq!(inside(host, "w", "cat /data"), "kept", "{number}");
        let kept = layers(host).len();
        let listed = host.run(&["snapshot", "delete", "w", "s"]).code == 0;
        assert_eq!(kept, usize::from(listed), "{number}");
        if done.code == 0 {
            assert!(number >= 6, "{number} points");
            return;
        }
    }
    panic!("more than 80 points");
}

#[test]
fn every_point_with_copies() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    host.ok(&["pool", "create", "p", "--driver", "btrfs", "--size", "256M"]);
    every_point_in(&host, &["--pool", "p"]);
    host.ok(&["pool", "delete", "p"]);
}
