//! Clones that share nothing with their model, in pools of each driver, and clones without what makes
//! the model that guest; and what is left when they are cut short.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::life::{data, inside, nothing_left};
use crate::support::{Bulkhead, Need, need, run};
use serde_json::{Value, json};

fn made(host: &Bulkhead, name: &str, flags: &[&str]) {
    let base = ["create", name, "--template", "busybox", "--network", "none"];
    host.ok(&[&base[..], flags].concat());
}

fn root_of(host: &Bulkhead, name: &str) -> PathBuf {
    let guests = host.root().join("var/lib/bulkhead/guests");
    guests.join(name).join("root")
}

/// Where a guest's own layer lies.
fn upper_of(host: &Bulkhead, name: &str) -> PathBuf {
    let root = root_of(host, name);
    let Ok(text) = std::fs::read(root.join("place.json")) else {
        return root.join("upper");
    };
    let place: Value = serde_json::from_slice(&text).expect("a place");
    let [folder, id] = ["folder", "id"].map(|key| place[key].as_str().expect("text"));
    Path::new(folder).join(id).join("upper")
}

fn layers(host: &Bulkhead) -> usize {
    let folder = host.root().join("var/lib/bulkhead/kept");
    std::fs::read_dir(folder).map_or(0, Iterator::count)
}

/// Writes in three rounds what only layers together say.
fn lived(host: &Bulkhead) {
    made(host, "w", &["--start"]);
    inside(
        host,
        "w",
        "mkdir -p /keep/deep /gone/x; echo a >/keep/a; ln /keep/a /keep/linked; ln -s a /keep/to; \
         echo old >/data; mkfifo /keep/fifo; chown 5:6 /keep/deep; chmod 1750 /keep/deep; chmod 750 /; \
         dd if=/dev/zero of=/sparse bs=1 count=1 seek=32M 2>/dev/null",
    );
    host.ok(&["kill", "w"]);
    host.ok(&["snapshot", "create", "w"]);
    host.ok(&["start", "w"]);
    inside(
        host,
        "w",
        "rm -r /gone /bin/vi; mkdir /gone; echo new >/gone/new; echo two >/data",
    );
    host.ok(&["kill", "w"]);
    host.ok(&["snapshot", "create", "w"]);
}

const SEEN: &str = "cat /data /gone/*; stat -c '%a %u:%g' / /keep/deep; readlink /keep/to; test -p /keep/fifo; \
    stat -c %i /keep/a /keep/linked | sort -u | wc -l; ls /bin/vi 2>/dev/null; du /sparse | cut -f1";

#[test]
fn a_full_clone_outlives_its_model_and_leaves_it_as_it_was() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    lived(&host);
    let record = root_of(&host, "w").join("chain.json");
    let chain = std::fs::read(&record).expect("two layers");
    host.ok(&["start", "w"]);
    inside(&host, "w", "echo three >/data");
    // Of one that runs as of one moment, and it goes on.
    host.ok(&["clone", "w", "live", "--full"]);
    inside(&host, "w", "rm /data; echo four >/data");
    let expected = inside(&host, "w", SEEN).replace("four", "three");
    host.ok(&["kill", "w"]);
    host.ok(&["clone", "w", "now", "--full"]);
    host.ok(&["clone", "w", "then", "--full", "--snapshot", "s1"]);
    assert_eq!(std::fs::read(&record).expect("it"), chain);
    for name in ["live", "now", "then"] {
        assert!(!root_of(&host, name).join("chain.json").exists(), "{name}");
    }
    assert_eq!(layers(&host), 2);
    host.ok(&["delete", "--force", "w"]);
    assert_eq!(layers(&host), 0);
    host.ok(&["start", "live", "now", "then"]);
    assert_eq!(inside(&host, "live", SEEN), expected);
    assert_eq!(
        inside(&host, "now", SEEN),
        expected.replace("three", "four")
    );
    let then = inside(
        &host,
        "then",
        "cat /data; ls -d /gone/x /bin/vi; stat -c %a /",
    );
    assert_eq!(then, "old\n/bin/vi\n/gone/x\n750");
    let identity = |name: &str| inside(&host, name, "cat /etc/machine-id /etc/hostname");
    assert!(identity("now").ends_with("now") && identity("now") != identity("live"));
    host.ok(&["delete", "--all", "--force"]);
    nothing_left(&host);
}

/// Whether a file of a guest's own layer has blocks that another file has too.
fn shares(host: &Bulkhead, name: &str, file: &str) -> bool {
    let path = upper_of(host, name).join(file);
    let told = Command::new("filefrag").arg("-v").arg(&path).output();
    let told = String::from_utf8(told.expect("filefrag").stdout).expect("text");
    assert!(told.contains("extent"), "{told}");
    told.contains("shared")
}

#[test]
fn a_full_clone_lies_in_any_pool_and_counts_for_itself() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    host.ok(&[
        "pool", "create", "bt", "--driver", "btrfs", "--size", "512M",
    ]);
    host.ok(&["pool", "create", "im", "--driver", "image"]);
    lived(&host);
    let refused = host.fails(&["clone", "w", "x", "--pool", "bt"], 5);
    assert!(refused.contains("--full"), "{refused}");
    host.ok(&["clone", "w", "b", "--full", "--pool", "bt", "--start"]);
    let seen = inside(&host, "b", SEEN);
    assert!(
        seen.starts_with("two\nnew\n750 0:0\n1750 5:6\na\n1\n"),
        "{seen}"
    );
    inside(
        &host,
        "b",
        "dd if=/dev/urandom of=/big bs=1M count=20 2>/dev/null; sync",
    );
    // Of one that runs, in its own pool: its blocks are not the model's.
    host.ok(&["clone", "b", "linked"]);
    host.ok(&["clone", "b", "full", "--full"]);
    assert!(shares(&host, "linked", "big") && !shares(&host, "full", "big"));
    // Into a filesystem of its own, and from there into a subvolume again.
    host.ok(&[
        "clone", "full", "i", "--full", "--pool", "im", "--disk", "100M", "--start",
    ]);
    let sum = inside(&host, "b", "md5sum </big");
    assert_eq!(inside(&host, "i", "md5sum </big"), sum);
    host.ok(&["clone", "i", "f", "--full", "--pool", "bt"]);
    host.ok(&["start", "f"]);
    assert_eq!(inside(&host, "f", SEEN), seen);
    assert_eq!(inside(&host, "f", "md5sum </big"), sum);
    // What does not fit is told, and nothing of it is left.
    let full = host.fails(
        &[
            "clone", "f", "small", "--full", "--pool", "bt", "--disk", "16M",
        ],
        1,
    );
    assert!(full.contains("quota"), "{full}");
    host.fails(&["info", "small"], 3);
    nothing_left(&host);
    host.ok(&["delete", "--all", "--force"]);
    host.ok(&["pool", "delete", "bt"]);
    host.ok(&["pool", "delete", "im"]);
}

const SECRETS: [&str; 7] = [
    "root/.ash_history",
    "home/a/.bash_history",
    "var/log/app/today",
    "var/mail/root",
    "etc/ssh/ssh_host_dsa_key",
    "tmp/x",
    "root/.ssh/authorized_keys",
];

/// What a guest does in its life, some of it in a layer that is set aside.
fn busy(host: &Bulkhead) {
    made(host, "w", &["--start"]);
    for (number, path) in SECRETS.iter().enumerate() {
        let folder = Path::new(path).parent().expect("a folder").display();
        inside(
            host,
            "w",
            &format!("mkdir -p /{folder}; echo secret >/{path}"),
        );
        if number == 3 {
            host.ok(&["kill", "w"]);
            host.ok(&["snapshot", "create", "w"]);
            host.ok(&["start", "w"]);
        }
    }
    inside(host, "w", "echo mine >/data; echo secret >/etc/machine-id");
    host.ok(&["kill", "w"]);
}

fn secrets_in(folder: &Path) -> usize {
    let found = Command::new("grep")
        .arg("-rl")
        .arg("secret")
        .arg(folder)
        .output();
    let found = String::from_utf8(found.expect("grep").stdout).expect("text");
    found.lines().count()
}

#[test]
fn a_scrubbed_clone_has_none_of_its_models_secrets() {
    if !need(Need::Root) {
        return;
    }
    let host = &Bulkhead::new();
    busy(host);
    host.ok(&["clone", "w", "linked", "--scrub"]);
    host.ok(&["clone", "w", "full", "--scrub", "--full"]);
    host.ok(&["clone", "w", "plain"]);
    assert!(secrets_in(&upper_of(host, "w")) + layers(host) > 0);
    assert_eq!(secrets_in(&root_of(host, "full")), 0);
    host.ok(&["start", "w", "linked", "full", "plain"]);
    let all = SECRETS.map(|path| format!("/{path}")).join(" ");
    let left = |name| {
        inside(
            host,
            name,
            &format!("cat {all} 2>/dev/null | wc -l; cat /data"),
        )
    };
    assert_eq!([left("w"), left("plain")], ["7\nmine", "7\nmine"]);
    for name in ["linked", "full"] {
        // Folders of logs are there for who goes on writing them.
        assert_eq!(left(name), "0\nmine", "{name}");
        let own = inside(
            host,
            name,
            "test -d /var/log/app && wc -c </etc/machine-id; cat /etc/hostname",
        );
        assert_eq!(own, format!("33\n{name}"));
    }
    host.ok(&["delete", "--all", "--force"]);
    nothing_left(host);
}

#[test]
fn what_is_left_of_a_full_clone_that_is_cut_short_is_named() {
    if !need(Need::Root) {
        return;
    }
    let host = &Bulkhead::new();
    busy(host);
    host.ok(&[
        "pool", "create", "bt", "--driver", "btrfs", "--size", "256M",
    ]);
    for number in 0.. {
        let mut command = host.command(&["clone", "w", "c", "--full", "--scrub", "--pool", "bt"]);
        command.env("BULKHEAD_FAULT", format!("command:{number}"));
        let done = run(command);
        host.ok(&["doctor", "--fix"]);
        assert_eq!(data(host, &["doctor"])["leftovers"], json!([]), "{number}");
        // Whole or not there; whole it is without any of it.
        if host.run(&["info", "c"]).code == 0 {
            assert_eq!(secrets_in(&upper_of(host, "c")), 0, "{number}");
            host.ok(&["delete", "--force", "c"]);
        }
        if done.code == 0 {
            assert!(number > 8, "{number} points");
            break;
        }
    }
    host.ok(&["delete", "--force", "w"]);
    host.ok(&["pool", "delete", "bt"]);
    nothing_left(host);
}
