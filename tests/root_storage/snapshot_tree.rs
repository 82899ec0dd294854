//! Snapshots as a tree that deleting one does not cut; going back to one with some files as they are
//! now; images of one; those that go at their day.

use crate::life;
use crate::life::{data, in_a_pool, inside};
use crate::support::{Bulkhead, Need, became, need, run};
use serde_json::{Value, json};

fn made(host: &Bulkhead, name: &str, flags: &[&str]) {
    life::made(host, name, &[&["--network", "none"][..], flags].concat());
}

fn nothing_left(host: &Bulkhead) {
    // The process that tells neighbours of an end may still be at it.
    became(10, || host.run(&["doctor"]).code == 0);
    assert_eq!(data(host, &["doctor"])["leftovers"], json!([]));
}

/// Each snapshot, what it came after, and whether the guest comes after it now; oldest first.
fn tree(host: &Bulkhead) -> Vec<(String, Option<String>, bool)> {
    let all = data(host, &["snapshot", "list", "w"]);
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let all = all.as_array().expect("a list").iter();
    all.map(|one| {
        let now = one["now"].as_bool().expect("yes or no");
        (
            text(&one["name"]).expect("a name"),
            text(&one["parent"]),
            now,
        )
    })
    .collect()
}

fn is(wanted: &[(&str, Option<&str>, bool)]) -> Vec<(String, Option<String>, bool)> {
    let owned = |text: &str| text.to_owned();
    let all = wanted.iter();
    all.map(|(name, parent, now)| (owned(name), parent.map(owned), *now))
        .collect()
}

/// a, then b and c after it, d after b; the guest comes after d.
fn forked(host: &Bulkhead) {
    for name in ["a", "b"] {
        host.ok(&["snapshot", "create", "w", name]);
    }
    host.ok(&["snapshot", "restore", "w", "a"]);
    host.ok(&["snapshot", "create", "w", "c"]);
    host.ok(&["snapshot", "restore", "w", "b"]);
    host.ok(&["snapshot", "create", "w", "d"]);
}

#[test]
fn a_tree_that_deleting_does_not_cut() {
    if !need(Need::Root) {
        return;
    }
    let host = &Bulkhead::new();
    made(host, "w", &[]);
    forked(host);
    let whole = is(&[
        ("a", None, false),
        ("b", Some("a"), false),
        ("c", Some("a"), false),
        ("d", Some("b"), true),
    ]);
    assert_eq!(tree(host), whole);
    let table = host.ok(&["snapshot", "list", "w"]);
    let begins: Vec<&str> = table.lines().skip(1).map(|line| &line[..3]).collect();
    assert_eq!(begins, ["a  ", "  b", "  d", "  c"], "{table}");
    let line = table.lines().nth(3).expect("d's");
    let cells: Vec<&str> = line.split_whitespace().collect();
    assert_eq!((cells[0], cells[3], cells[4]), ("d", "b", "here"));

    // Cut short anywhere, everything comes after what is there.
    let mut done = false;
    for number in 0..40 {
        let mut command = host.command(&["snapshot", "delete", "w", "b"]);
        command.env("BULKHEAD_FAULT", format!("command:{number}"));
        done = run(command).code == 0;
        let now = tree(host);
        let there = |wanted: &str| now.iter().any(|(name, _, _)| name == wanted);
        for (name, parent, _) in &now {
            assert!(
                parent.as_deref().is_none_or(there),
                "{number}: {name}: {now:?}"
            );
        }
        assert_eq!(now.iter().filter(|(_, _, now)| *now).count(), 1, "{number}");
        host.ok(&["doctor", "--fix"]);
        nothing_left(host);
        if done {
            assert!(number >= 3, "{number} points");
            break;
        }
        if !there("b") {
            host.ok(&["snapshot", "delete", "w", "d"]);
            host.ok(&["snapshot", "delete", "w", "c"]);
            host.ok(&["snapshot", "delete", "w", "a"]);
            forked(host);
        }
    }
    assert!(done, "more than 40 points");
    let after = is(&[
        ("a", None, false),
        ("c", Some("a"), false),
        ("d", Some("a"), true),
    ]);
    assert_eq!(tree(host), after);
    host.ok(&["snapshot", "delete", "w", "d"]);
    host.ok(&["snapshot", "create", "w", "e"]);
    host.ok(&["snapshot", "delete", "w", "a"]);
    let after = is(&[("c", None, false), ("e", None, true)]);
    assert_eq!(tree(host), after);
    host.ok(&["delete", "w"]);
    nothing_left(host);
}

/// Goes back with some files as they are now, whatever the guest has put in the way.
fn back_with_some(host: &Bulkhead, flags: &[&str]) {
    let outside = host.root().join("outside");
    std::fs::create_dir(&outside).expect("a folder of ours");
    std::fs::write(outside.join("secret"), "of the host").expect("a file of ours");
    let outside = outside.display();
    made(host, "w", &[flags, &["--start"]].concat());
    inside(
        host,
        "w",
        &format!(
            "mkdir -p /srv/www /deep; echo then | tee /srv/www/then >/data; echo then >/hosts; \
             ln -s {outside} /way; ln -s /data /file; mkdir /was; touch /was/then"
        ),
    );
    host.ok(&["kill", "w"]);
    host.ok(&["snapshot", "create", "w", "s"]);
    host.ok(&["start", "w"]);
    inside(
        host,
        "w",
        &format!(
            "rm /srv/www/then; echo now | tee /srv/www/now /srv/www/again >/data; \
             ln -f /srv/www/now /srv/www/again; chown -R 33:33 /srv/www; chmod 2750 /srv/www; \
             mkdir -p /deep/new; echo now >/deep/new/file; rm /way /file; mkdir -p /way; \
             echo now >/way/new; echo now >/file; rm -r /was; ln -s /etc/shadow /was; \
             ln -s {outside}/secret /link; mkfifo /fifo"
        ),
    );
    host.ok(&["kill", "w"]);
    let back = |paths: &[&str], more: &[&str]| {
        let keep = paths.iter().flat_map(|path| ["--keep", path]);
        let base = ["snapshot", "restore", "w", "s"].into_iter();
        host.run(
            &base
                .chain(keep)
                .chain(more.iter().copied())
                .collect::<Vec<_>>(),
        )
    };
    for (path, code) in [
        ("/none", 1),
        ("/link/secret", 1),
        ("srv", 2),
        ("/a/../b", 2),
    ] {
        assert_eq!(back(&[path], &["--dry-run"]).code, code, "{path}");
        let refused = back(&[path], &[]);
        assert_eq!(refused.code, code, "{path}: {}", refused.report());
    }
    let kept = [
        "/srv/www",
        "/deep/new/file",
        "/file",
        "/was",
        "/link",
        "/fifo",
        // At the snapshot a link to a folder of the host's is on the way: it leads to one inside.
        "/way/new",
    ];
    let done = back(&kept, &[]);
    assert_eq!(done.code, 0, "{}", done.report());
    assert_eq!(host.ok(&["file", "pull", "w:/way/new", "-"]), "now\n");
    host.ok(&["start", "w"]);
    let seen = inside(
        host,
        "w",
        "cat /data /srv/www/now /deep/new/file /file /hosts; ls /srv/www; stat -c '%a %u' /srv/www; \
         stat -c %h /srv/www/again; for one in /was /link /way; do readlink $one; done; \
         test -p /fifo && echo fifo; cat /link 2>/dev/null; true",
    );
    let wanted = format!(
        "then\nnow\nnow\nnow\nthen\nagain\nnow\n2750 33\n2\n/etc/shadow\n{outside}/secret\n\
         {outside}\nfifo"
    );
    assert_eq!(seen, wanted);
    host.ok(&["delete", "--force", "w"]);
    assert_eq!(
        std::fs::read_dir(host.root().join("outside"))
            .expect("a folder of ours")
            .count(),
        1
    );
    nothing_left(host);
}

#[test]
fn back_with_some_files_as_they_are() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    back_with_some(&host, &[]);
    // Killed anywhere, the guest has one root or the other.
    made(&host, "w", &[]);
    let file = host.root().join("file");
    let push = |text: &str, to: &str| {
        std::fs::write(&file, text).expect("a file of ours");
        host.ok(&["file", "push", &file.to_string_lossy(), &format!("w:{to}")]);
    };
    push("then", "/data");
    host.ok(&["snapshot", "create", "w", "s"]);
    push("now", "/data");
    push("now", "/kept");
    host.ok(&["snapshot", "create", "w", "n"]);
    let read = |path: &str| {
        host.run(&["file", "pull", &format!("w:{path}"), "-"])
            .stdout
    };
    for number in 0..40 {
        let mut command = host.command(&["snapshot", "restore", "w", "s", "--keep", "/kept"]);
        command.env("BULKHEAD_FAULT", format!("command:{number}"));
        let code = run(command).code;
        host.ok(&["doctor", "--fix"]);
        nothing_left(&host);
        let data = read("/data");
        assert!(data == "now" || data == "then", "{number}: {data:?}");
        assert_eq!(read("/kept"), "now", "{number}");
        if code == 0 {
            assert!(number >= 6 && data == "then", "{number} points");
            host.ok(&["delete", "w"]);
            nothing_left(&host);
            return;
        }
        host.ok(&["snapshot", "restore", "w", "n"]);
    }
    panic!("more than 40 points");
}

#[test]
fn back_with_some_files_in_pools_of_copies() {
    if !need(Need::Root) {
        return;
    }
    for driver in ["btrfs", "image"] {
        in_a_pool(driver, back_with_some);
    }
}

/// An image of what a guest was, while it runs and writes on.
fn published(host: &Bulkhead, flags: &[&str]) {
    made(host, "w", &[flags, &["--start"]].concat());
    let journal = "/var/log/journal/0123456789abcdef0123456789abcdef";
    inside(
        host,
        "w",
        &format!(
            "echo then >/data; mkdir -p {journal} /root/.ssh; echo x >{journal}/system.journal; \
             echo k >/root/.ssh/authorized_keys; mkdir -p /srv; mkfifo /srv/p; ln -s /etc/passwd /l; \
             chmod 4755 /data"
        ),
    );
    host.ok(&["snapshot", "create", "w", "s"]);
    inside(host, "w", "echo now >/data; echo new >/new");
    let said = host.fails(&["image", "publish", "w", "--tag", "shop:1"], 4);
    assert!(said.contains("--snapshot"), "{said}");
    let publish = ["image", "publish", "w", "--tag", "shop:1", "--snapshot"];
    host.fails(&[&publish[..], &["t"]].concat(), 3);
    host.ok(&[&publish[..], &["s", "--dry-run"]].concat());
    host.fails(&["image", "info", "shop:1"], 5);
    host.ok(&[&publish[..], &["s"]].concat());
    assert_eq!(inside(host, "w", "cat /data /new"), "now\nnew");
    let id = inside(host, "w", "cat /etc/machine-id");
    host.ok(&["delete", "--force", "w"]);
    host.ok(&["image", "verify"]);
    host.ok(&[
        "create",
        "v",
        "--image",
        "shop:1",
        "--network",
        "none",
        "--start",
    ]);
    let seen = inside(
        host,
        "v",
        "cat /data; stat -c %a /data; ls /new /root/.ssh /var/log/journal 2>/dev/null | grep -v -e : -e '^$'; \
         readlink /l; test -p /srv/p && echo fifo; cat /etc/hostname",
    );
    assert_eq!(seen, "then\n4755\n/etc/passwd\nfifo\nv");
    assert_ne!(inside(host, "v", "cat /etc/machine-id"), id);
    host.ok(&["delete", "--force", "v"]);
    host.ok(&["image", "delete", "shop:1"]);
    nothing_left(host);
}

#[test]
fn an_image_of_a_snapshot() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    published(&host, &[]);
    // Nothing is set aside where nothing was written.
    made(&host, "w", &[]);
    host.ok(&["snapshot", "create", "w", "s"]);
    host.ok(&[
        "image",
        "publish",
        "w",
        "--snapshot",
        "s",
        "--tag",
        "shop:2",
    ]);
    drop(host);
    for driver in ["btrfs", "image"] {
        in_a_pool(driver, published);
    }
}

/// What is said of the only snapshot there is.
fn only(host: &Bulkhead) -> Value {
    let all = data(host, &["snapshot", "list", "w"]);
    let [one] = &all.as_array().expect("a list")[..] else {
        panic!("one snapshot: {all}");
    };
    one.clone()
}

/// Makes the only snapshot's day be over.
fn outlive(host: &Bulkhead) -> String {
    let name = only(host)["name"].as_str().expect("a name").to_owned();
    let folder = host.root().join("var/lib/bulkhead/guests/w/snapshots");
    let record = folder.join(format!("{name}.json"));
    let text = std::fs::read(&record).expect("a record");
    let mut value: Value = serde_json::from_slice(&text).expect("a record");
    assert!(value["until_ms"].is_u64(), "{value}");
    value["until_ms"] = json!(1);
    std::fs::write(record, value.to_string()).expect("a record");
    name
}

#[test]
fn a_root_before_goes_at_its_day() {
    if !need(Need::Root) {
        return;
    }
    let host = &Bulkhead::new();
    made(host, "w", &["--start"]);
    inside(host, "w", "echo old >/data");
    host.ok(&["kill", "w"]);
    host.fails(&["reinstall", "w", "--keep-old", "5"], 2);
    host.ok(&["reinstall", "w", "--keep-old", "forever"]);
    assert_eq!(only(host)["until_ms"], json!(null));
    assert_eq!(data(host, &["snapshot", "run"]), json!([]));
    let first = only(host)["name"].as_str().expect("a name").to_owned();
    host.ok(&["snapshot", "delete", "w", &first]);

    let said = host.ok(&["reinstall", "w"]);
    assert!(said.contains(" until 20"), "{said}");
    let one = only(host);
    let ms = |key: &str| one[key].as_i64().expect("a time");
    let week = 7 * 86_400_000;
    assert!(
        (ms("until_ms") - ms("created_ms") - week).abs() < 60_000,
        "{one}"
    );
    let nothing = json!([{"guest": "w", "taken": null, "removed": [], "unchanged": false}]);
    assert_eq!(data(host, &["snapshot", "run"]), nothing);
    assert_eq!(host.ok(&["trash", "empty", "--expired"]), "");
    let name = outlive(host);
    host.ok(&["snapshot", "restore", "w", &name]);
    let gone = json!([{"guest": "w", "taken": null, "removed": [name], "unchanged": false}]);
    assert_eq!(data(host, &["snapshot", "run", "--dry-run"]), gone);
    assert_eq!(data(host, &["snapshot", "run"]), gone);
    assert_eq!(tree(host), is(&[]));
    assert_eq!(data(host, &["snapshot", "run"]), json!([]));

    // So it does by what empties the trash, and by the next one.
    host.ok(&["reinstall", "w", "--keep-old", "1h"]);
    let name = outlive(host);
    let said = host.ok(&["trash", "empty", "--expired", "--dry-run"]);
    assert!(
        said.contains(&name) && only(host)["name"] == json!(name),
        "{said}"
    );
    let said = host.ok(&["trash", "empty", "--expired"]);
    assert!(said.contains(&name), "{said}");
    assert_eq!(tree(host), is(&[]));
    host.ok(&["reinstall", "w", "--keep-old", "1h"]);
    outlive(host);
    host.ok(&["reinstall", "w", "--keep-old", "forever"]);
    assert_eq!(only(host)["until_ms"], json!(null));
    host.ok(&["delete", "w"]);
    nothing_left(host);
}
