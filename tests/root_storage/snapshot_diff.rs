//! What has changed since a snapshot, in pools of each driver: told in full, at the cost of what was
//! changed, and whatever a guest has put there.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::life::{data, in_a_pool, inside, made};
use crate::support::{Bulkhead, Need, need, run};
use serde_json::Value;

/// Path to what is told of it: kind, what of it, and what it is.
fn told(host: &Bulkhead, args: &[&str]) -> BTreeMap<String, String> {
    let all = data(host, &[&["snapshot", "diff"], args].concat());
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let one = |one: &Value| {
        let what: Vec<_> = one["what"]
            .as_array()
            .into_iter()
            .flatten()
            .map(text)
            .collect();
        let line = format!(
            "{} {} {}",
            text(&one["kind"]),
            what.join(","),
            text(&one["file"])
        );
        (text(&one["path"]), line)
    };
    all.as_array().expect("a list").iter().map(one).collect()
}

fn expected(all: &[(&str, &str)]) -> BTreeMap<String, String> {
    let text = |(path, line): &(&str, &str)| ((*path).to_owned(), (*line).to_owned());
    all.iter().map(text).collect()
}

/// Written before the snapshot, and what is done after it.
const BEFORE: &str = "mkdir -p /d/sub /old/deep /swap; echo 12345 >/d/same-size; echo x >/d/touched; \
     echo x >/d/mode; ln -s one /d/link; echo a >/old/deep/file; echo b >/d/gone; echo c >/swap/in; \
     mkfifo /d/fifo; echo y >/d/owner; echo z >/d/grown; echo h >/d/first; ln /d/first /d/second";
const AFTER: &str = "echo 54321 >/d/same-size; touch -t 200001010000 /d/same-size /d/touched; \
     chmod 4755 /d/mode; rm /d/link; ln -s two /d/link; rm -r /old; rm /d/gone; rm -r /swap; \
     echo file >/swap; chown 5:6 /d/owner; echo more >>/d/grown; mkdir /new; echo n >/new/file; \
     chmod 700 /d/sub; rm -rf /etc/init.d; mkdir /etc/init.d; rm /d/fifo; mkfifo /d/fifo; \
     chmod 711 /; touch /d/sub/.";

fn changes() -> BTreeMap<String, String> {
    expected(&[
        ("/", "meta mode folder"),
        ("/d/gone", "removed  file"),
        ("/d/grown", "changed data file"),
        ("/d/link", "changed target link"),
        ("/d/mode", "meta mode file"),
        ("/d/owner", "meta owner file"),
        ("/d/same-size", "changed data file"),
        ("/d/sub", "meta mode folder"),
        ("/etc/init.d/rcK", "removed  file"),
        ("/etc/init.d/rcS", "removed  file"),
        ("/new", "added  folder"),
        ("/new/file", "added  file"),
        ("/old", "removed  folder"),
        ("/old/deep", "removed  folder"),
        ("/old/deep/file", "removed  file"),
        ("/swap", "changed kind file"),
        ("/swap/in", "removed  file"),
    ])
}

/// The other way round.
fn backwards(kind: &str) -> String {
    let turned = kind.replace("added", "-").replace("removed", "added");
    turned
        .replace('-', "removed")
        .replace("kind file", "kind folder")
}

fn a_guest_that_changes(host: &Bulkhead, flags: &[&str]) {
    made(
        host,
        "w",
        &[flags, &["--network", "none", "--start"]].concat(),
    );
    host.fails(&["snapshot", "diff", "w"], 3);
    inside(host, "w", BEFORE);
    // Of a guest that runs, and of one that is stopped.
    host.ok(&["snapshot", "create", "w", "running"]);
    host.ok(&["kill", "w"]);
    host.ok(&["snapshot", "create", "w", "stopped"]);
    for from in ["running", "stopped"] {
        assert_eq!(told(host, &["w", from]), expected(&[]), "{from}");
    }
    assert_eq!(told(host, &["w", "running", "stopped"]), expected(&[]));
    host.ok(&["start", "w"]);
    let before = told(host, &["w"]);
    inside(host, "w", AFTER);
    let mut all = changes();
    // What a start writes into a guest is told as well.
    all.extend(before.clone());
    for from in ["running", "stopped"] {
        assert_eq!(told(host, &["w", from]), all, "{from}");
    }
    let said = run(host.command(&["snapshot", "diff", "w"]));
    assert!(
        said.stderr.contains("this is what was seen"),
        "{}",
        said.stderr
    );
    assert!(
        said.stderr.contains("from snapshot stopped to now"),
        "{}",
        said.stderr
    );
    host.ok(&["kill", "w"]);
    assert_eq!(told(host, &["w"]), all);
    host.ok(&["snapshot", "create", "w", "third"]);
    assert_eq!(told(host, &["w", "running", "third"]), all);
    let turned: BTreeMap<_, _> = all
        .into_iter()
        .map(|(path, kind)| (path, backwards(&kind)))
        .collect();
    assert_eq!(told(host, &["w", "third", "running"]), turned);
    let said = host.fails(&["snapshot", "diff", "w", "thrid"], 3);
    assert!(said.contains("did you mean \"third\""), "{said}");
    host.ok(&["snapshot", "restore", "w", "running"]);
    assert_eq!(told(host, &["w", "stopped"]), expected(&[]));
    hostile(host);
    host.ok(&["delete", "--force", "w"]);
}

/// Names that steer a terminal, links out, a file that never ends to be read, depth without an end.
fn hostile(host: &Bulkhead) {
    host.ok(&["snapshot", "create", "w", "clean"]);
    host.ok(&["start", "w"]);
    inside(
        host,
        "w",
        "mkdir /h; cd /h; touch \"$(printf 'a\\033[2J\\nb')\" \"$(printf 'x\\377y')\" 'back\\slash'; \
         ln -s / out; ln -s /proc/self/root/etc up; mkfifo pipe; truncate -s 1000G hole; \
         n=$(printf %0100d 0)/; p=; for i in $(seq 25); do p=$p$n; done; \
         mkdir -p a/$p b/$p; mv b a/$p",
    );
    host.ok(&["kill", "w"]);
    host.ok(&["snapshot", "create", "w", "dirty"]);
    host.ok(&["start", "w"]);
    inside(host, "w", "cd /h; rm hole; truncate -s 1000G hole");
    host.ok(&["kill", "w"]);
    let began = Instant::now();
    let mut command = host.command(&["snapshot", "diff", "w", "clean"]);
    command.args(["--format", "json"]);
    let done = run(command);
    assert_eq!(done.code, 1, "{}", done.stderr);
    assert!(done.stderr.contains("not looked into"), "{}", done.stderr);
    let all: Value = serde_json::from_str(&done.stdout).expect("JSON");
    let paths: Vec<_> = all
        .as_array()
        .expect("a list")
        .iter()
        .map(|one| &one["path"])
        .collect();
    for path in [
        "/h/a\\x1b[2J\\x0ab",
        "/h/x\\xffy",
        "/h/back\\\\slash",
        "/h/out",
        "/h/pipe",
    ] {
        assert!(paths.contains(&&Value::from(path)), "{path}");
    }
    assert!(
        paths
            .iter()
            .all(|path| !path.as_str().expect("a text").starts_with("/h/out/"))
    );
    let table = run(host.command(&["snapshot", "diff", "w", "clean"]));
    assert!(!table.stdout.contains('\u{1b}') && table.stdout.contains("/h/a\\x1b[2J\\x0ab"));
    // A hole is not read, however large it is.
    let since = run(host.command(&["snapshot", "diff", "w", "dirty"]));
    assert!(since.stderr.contains("to now:"), "{}", since.stderr);
    assert!(!since.stdout.contains("/h/hole"), "{}", since.stdout);
    assert!(began.elapsed() < Duration::from_secs(60));
}

#[test]
fn of_folders() {
    if !need(Need::Root) {
        return;
    }
    let host = &Bulkhead::new();
    a_guest_that_changes(host, &[]);
}

#[test]
fn of_files() {
    if !need(Need::Root) {
        return;
    }
    in_a_pool("image", a_guest_that_changes);
}

#[test]
fn of_subvolumes() {
    if !need(Need::Root) {
        return;
    }
    in_a_pool("btrfs", a_guest_that_changes);
}

/// A guest that makes and removes what is looked at harms nothing but what is seen of it.
#[test]
fn of_a_guest_that_never_rests() {
    if !need(Need::Root) {
        return;
    }
    let host = &Bulkhead::new();
    made(host, "w", &["--network", "none", "--start"]);
    inside(
        host,
        "w",
        "mkdir /still; echo 1 >/still/file; mkdir -p /d/a/b; echo >/d/a/b/f",
    );
    host.ok(&["snapshot", "create", "w"]);
    inside(
        host,
        "w",
        "echo 2 >/still/file; (while :; do rm -rf /d; mkdir -p /d/a/b/c; echo >/d/a/b/f; ln -s / /d/a/l; \
         rm -rf /d; echo >/d; rm -f /d; mkdir -p /d/a/b; mkfifo /d/a/b/f; rm -rf /d/a; ln -s /etc /d/a; \
         done) >/dev/null 2>&1 </dev/null &",
    );
    for _ in 0..60 {
        let seen = told(host, &["w"]);
        assert_eq!(seen["/still/file"], "changed data file");
        let ours = |path: &String| path.starts_with("/d") || path.starts_with("/still");
        assert!(seen.keys().all(ours), "{seen:?}");
    }
    host.ok(&["delete", "--force", "w"]);
}

/// Another image below is told file by file; many layers made one say what they said.
#[test]
fn of_other_layers() {
    if !need(Need::Root) {
        return;
    }
    let host = &Bulkhead::new();
    made(host, "w", &["--network", "none"]);
    let file = host.root().join("n");
    std::fs::write(&file, "n").expect("a folder of ours");
    for n in 0..42 {
        host.ok(&[
            "file",
            "push",
            &file.to_string_lossy(),
            &format!("w:/etc/n{n}"),
        ]);
        host.ok(&["snapshot", "create", "w"]);
    }
    let folder = host
        .root()
        .join("var/lib/bulkhead/guests/w/root/chain.json");
    let chain = std::fs::read_to_string(folder).expect("a chain");
    assert!(chain.matches(',').count() < 10, "{chain}");
    let since = told(host, &["w", "s40"]);
    assert_eq!(
        since,
        expected(&[("/etc/n40", "added  file"), ("/etc/n41", "added  file")])
    );
    assert_eq!(
        told(host, &["w", "s42", "s41"]),
        expected(&[("/etc/n41", "removed  file")])
    );
    host.ok(&["reinstall", "w", "--template", "busybox", "--yes"]);
    assert!(told(host, &["w", "s42"]).contains_key("/etc/n7"));
    host.ok(&["delete", "--force", "w"]);
}
