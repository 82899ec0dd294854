//! What becomes of a guest's snapshots beyond going back to them: they move with the guest, an image is
//! made of one while the guest runs, some files stay when all others go back, and the tree that they are
//! has no gaps. Needs: root.

use crate::life::{data, inside, started};
use crate::support::{Bulkhead, Need, TestDir, need, run};
use serde_json::{Value, json};

/// Name and parent of each snapshot.
fn tree(host: &Bulkhead, name: &str) -> Vec<(Value, Value)> {
    let all = data(host, &["snapshot", "list", name]);
    let all = all.as_array().expect("a list").iter();
    all.map(|one| (one["name"].clone(), one["parent"].clone()))
        .collect()
}

/// Another word in the record of a snapshot, as whoever makes an archive may write it.
fn say(host: &Bulkhead, name: &str, key: &str, value: Value) {
    let path = host.root().join("var/lib/bulkhead/guests/w/snapshots");
    let path = path.join(format!("{name}.json"));
    let text = std::fs::read(&path).expect("a record");
    let mut record: Value = serde_json::from_slice(&text).expect("JSON");
    record[key] = value;
    std::fs::write(&path, record.to_string()).expect("a record");
}

fn nothing_left(host: &Bulkhead) {
    let text = host.run(&["doctor", "--format", "json"]).stdout;
    let report: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(report["leftovers"], json!([]));
}

/// A stopped guest with `/data` that says `three`, and two snapshots of before.
fn source(host: &Bulkhead, flags: &[&str]) {
    started(
        host,
        "w",
        &[&["--network", "none", "--memory", "64M"], flags].concat(),
    );
    inside(
        host,
        "w",
        "echo one >/data; chown 33:33 /data; mkfifo /fifo",
    );
    host.ok(&["snapshot", "create", "w", "live"]);
    inside(host, "w", "echo two >/data; rm /fifo");
    host.ok(&["kill", "w"]);
    host.ok(&["snapshot", "create", "w", "still", "--comment", "after two"]);
    host.ok(&["start", "w"]);
    inside(host, "w", "echo three >/data");
    host.ok(&["kill", "w"]);
}

/// Sent to another host, and there as it was here.
fn moved(pool: &[&str], flags: &[&str]) {
    let (from, to, folder) = (Bulkhead::new(), Bulkhead::new(), TestDir::new());
    for host in [&from, &to] {
        if !pool.is_empty() {
            host.ok(&[&["pool", "create", "p"], pool].concat());
        }
    }
    source(&from, flags);
    let file = folder.join("w.tar.zst").display().to_string();
    from.ok(&["export", "w", "-o", &file]);
    to.ok(&["import", &file]);
    assert_eq!(tree(&to, "w"), tree(&from, "w"));
    let all = data(&to, &["snapshot", "list", "w"]);
    assert_eq!(
        (&all[1]["comment"], &all[1]["now"]),
        (&json!("after two"), &json!(true))
    );
    let seen = |host: &Bulkhead, name: &str| {
        host.ok(&["start", name]);
        let seen = inside(
            host,
            name,
            "cat /data; stat -c %u:%g /data; test -p /fifo && echo fifo; cat /etc/machine-id",
        );
        host.ok(&["kill", name]);
        seen
    };
    assert_eq!(seen(&to, "w"), seen(&from, "w"));
    for host in [&from, &to] {
        host.ok(&["snapshot", "restore", "w", "live"]);
    }
    let then = seen(&to, "w");
    assert!(then.starts_with("one\n33:33\nfifo\n"), "{then}");
    assert_eq!(then, seen(&from, "w"));
    // A copy has an identity of its own, in its past as well.
    to.ok(&["import", &file, "--name", "copy"]);
    to.ok(&["snapshot", "restore", "copy", "still"]);
    let copy = seen(&to, "copy");
    assert!(copy.starts_with("two\n33:33\n"), "{copy}");
    assert_ne!(copy.lines().last(), then.lines().last());
    to.ok(&["delete", "w", "copy", "--force", "--yes"]);
    nothing_left(&to);
    let kept = to.root().join("var/lib/bulkhead/kept");
    let left = std::fs::read_dir(kept).map_or(0, Iterator::count);
    assert_eq!(left, 0);
}

#[test]
fn snapshots_move_with_their_guest() {
    if !need(Need::Root) {
        return;
    }
    moved(&[], &[]);
}

#[test]
fn copies_of_a_filesystem_in_a_file_move_too() {
    if !need(Need::Root) {
        return;
    }
    moved(&["--driver", "image"], &["--pool", "p", "--disk", "32M"]);
}

#[test]
fn what_a_snapshot_wishes_beyond_its_guest_is_left_out() {
    if !need(Need::Root) {
        return;
    }
    let (from, to, folder) = (Bulkhead::new(), Bulkhead::new(), TestDir::new());
    let shown = folder.path().display().to_string();
    let mount = format!("{shown}:/mnt");
    started(&from, "w", &["--network", "none", "--mount", &mount]);
    from.ok(&["kill", "w"]);
    from.ok(&["snapshot", "create", "w", "wide"]);
    from.ok(&["set", "w", "--unset", "mount"]);
    for name in ["narrow", "long", "future"] {
        from.ok(&["snapshot", "create", "w", name]);
    }
    // Nobody could read its record here, nor would the clock ever take a newer one.
    say(&from, "long", "comment", json!("x".repeat(600 << 10)));
    say(&from, "future", "created_ms", json!(1_u64 << 50));
    let file = folder.join("w.tar.zst").display().to_string();
    from.ok(&["export", "w", "-o", &file]);
    let mut import = to.command(&["import", &file]);
    import.stdin(std::process::Stdio::null());
    let done = run(import);
    assert_eq!(done.code, 0, "{}", done.report());
    assert!(
        done.stderr.contains("snapshot wide is left out"),
        "{}",
        done.report()
    );
    assert!(
        done.stderr.contains("snapshot long is left out"),
        "{}",
        done.report()
    );
    let all = [("narrow", json!(null)), ("future", json!("narrow"))];
    assert_eq!(
        tree(&to, "w"),
        all.map(|(name, after)| (json!(name), after))
    );
    let all = data(&to, &["snapshot", "list", "w"]);
    assert!(all[1]["created_ms"].as_u64() < Some(1 << 50), "{all}");
    from.ok(&[
        "export",
        "w",
        "--no-snapshots",
        "-o",
        &folder.join("none").display().to_string(),
    ]);
    to.ok(&[
        "import",
        &folder.join("none").display().to_string(),
        "--name",
        "none",
    ]);
    assert_eq!(tree(&to, "none"), []);
}

#[test]
fn killed_anywhere_an_import_with_snapshots_leaves_nothing() {
    if !need(Need::Root) {
        return;
    }
    let (from, to, folder) = (Bulkhead::new(), Bulkhead::new(), TestDir::new());
    source(&from, &[]);
    let file = folder.join("w.tar.zst").display().to_string();
    from.ok(&["export", "w", "-o", &file]);
    // What comes before the guest has a root is tried with guests that have no snapshots.
    for n in 8.. {
        let mut import = to.command(&["import", &file]);
        import.env("BULKHEAD_FAULT", format!("command:{n}"));
        let outcome = run(import);
        to.ok(&["doctor", "--fix"]);
        nothing_left(&to);
        if to.run(&["info", "w"]).code == 0 {
            to.ok(&["delete", "w", "--force", "--yes"]);
        }
        if outcome.code == 0 {
            assert!(n > 14, "{n}");
            break;
        }
    }
}

/// What a guest was before a rebase lies over another image, which is not on the other host.
#[test]
fn the_image_of_before_a_rebase_comes_along() {
    if !need(Need::Root) {
        return;
    }
    let (from, to, folder) = (Bulkhead::new(), Bulkhead::new(), TestDir::new());
    started(&from, "v", &["--network", "none"]);
    for tag in ["old", "new"] {
        inside(&from, "v", &format!("echo {tag} >/base"));
        from.ok(&["snapshot", "create", "v", tag]);
        from.ok(&["image", "publish", "v", "--snapshot", tag, "--tag", tag]);
    }
    from.ok(&["create", "w", "--network", "none", "--image", "old"]);
    from.ok(&["start", "w"]);
    inside(&from, "w", "echo one >/data");
    from.ok(&["kill", "w"]);
    from.ok(&["rebase", "w", "--image", "new"]);
    let file = folder.join("w.tar.zst").display().to_string();
    from.ok(&["export", "w", "-o", &file]);

    to.ok(&["import", &file]);
    to.ok(&["import", &file, "--name", "copy"]);
    assert_eq!(tree(&to, "w"), tree(&from, "w"));
    let before = tree(&to, "w")[0].0.clone();
    let before = before.as_str().expect("a name");
    assert!(before.starts_with("before-rebase"), "{before}");
    let seen = |name: &str| {
        to.ok(&["start", name]);
        let seen = inside(&to, name, "cat /base /data /etc/machine-id");
        to.ok(&["kill", name]);
        seen
    };
    assert!(seen("w").starts_with("new\none\n"));
    for name in ["w", "copy"] {
        to.ok(&["snapshot", "restore", name, before]);
    }
    let (moved, copied) = (seen("w"), seen("copy"));
    assert!(moved.starts_with("old\none\n"), "{moved}");
    assert!(copied.starts_with("old\none\n"), "{copied}");
    assert_ne!(moved, copied);
    to.ok(&["image", "verify"]);
    nothing_left(&to);
}
