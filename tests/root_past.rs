//! What becomes of a guest's snapshots beyond going back to them: they move with the guest, an image is
//! made of one while the guest runs, some files stay when all others go back, and the tree that they are
//! has no gaps. Needs: root.

mod life;
mod support;

use life::{data, inside, started};
use serde_json::{Value, json};
use support::{Bulkhead, Need, TestDir, need, run};

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
        (&all[1]["comment"], &all[1]["current"]),
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

#[test]
fn of_a_guest_that_runs_an_image_is_made_by_its_snapshot() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    started(&host, "w", &["--network", "none"]);
    inside(
        &host,
        "w",
        "echo then >/data; mkdir -p /etc/ssh; echo secret >/etc/ssh/ssh_host_x_key",
    );
    host.ok(&["snapshot", "create", "w", "s"]);
    inside(&host, "w", "echo now >/data");
    host.fails(&["image", "publish", "w", "--tag", "shop:1"], 4);
    host.fails(
        &[
            "image",
            "publish",
            "w",
            "--snapshot",
            "none",
            "--tag",
            "shop:1",
        ],
        3,
    );
    host.ok(&[
        "image",
        "publish",
        "w",
        "--snapshot",
        "s",
        "--tag",
        "shop:1",
    ]);
    host.ok(&[
        "create",
        "new",
        "--image",
        "shop:1",
        "--network",
        "none",
        "--start",
    ]);
    let seen = inside(&host, "new", "cat /data; ls /etc/ssh");
    assert!(
        seen.starts_with("then\n") && !seen.contains("ssh_host_x_key"),
        "{seen}"
    );
    let ids = ["w", "new"].map(|name| inside(&host, name, "cat /etc/machine-id"));
    assert_ne!(ids[0], ids[1]);
    nothing_left(&host);
}

#[test]
fn what_is_asked_for_stays_and_the_tree_has_no_gap() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    source(&host, &[]);
    host.ok(&["start", "w"]);
    inside(
        &host,
        "w",
        "mkdir -p /srv/shop/in; echo order >/srv/shop/in/1; echo x >/srv/gone",
    );
    host.ok(&["kill", "w"]);
    let missing = host.fails(&["snapshot", "restore", "w", "live", "--keep", "/no"], 1);
    assert!(missing.contains("/no"), "{missing}");
    host.fails(&["snapshot", "restore", "w", "live", "--keep", "../x"], 2);
    host.ok(&["snapshot", "restore", "w", "live", "--keep", "/srv/shop"]);
    host.ok(&["start", "w"]);
    let seen = inside(&host, "w", "cat /data /srv/shop/in/1; ls /srv");
    assert_eq!(seen, "one\norder\nshop");
    host.ok(&["kill", "w"]);
    host.ok(&["snapshot", "create", "w", "third"]);
    let named = |list: &[(&str, Option<&str>)]| -> Vec<(Value, Value)> {
        list.iter()
            .map(|(name, parent)| (json!(name), json!(parent)))
            .collect()
    };
    let all = [
        ("live", None),
        ("still", Some("live")),
        ("third", Some("live")),
    ];
    assert_eq!(tree(&host, "w"), named(&all));
    host.ok(&["snapshot", "delete", "w", "live"]);
    assert_eq!(tree(&host, "w"), named(&[("still", None), ("third", None)]));
    nothing_left(&host);
}
