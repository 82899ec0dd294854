//! Guests that move on to a newer image and back: what stays, what comes new, what is told, and what
//! is there when the command is cut short.

use crate::life;
use crate::life::{data, events, info, inside, is, snapshot, unchanged};
use crate::support::{Bulkhead, Need, became, need, run};
use serde_json::{Value, json};

fn made(host: &Bulkhead, name: &str, flags: &[&str]) {
    host.ok(&[
        &["create", name, "--network", "none", "--memory", "64M"],
        flags,
    ]
    .concat());
}

fn nothing_left(host: &Bulkhead) {
    // The process that tells neighbours of an end may still be at it.
    became(10, || host.run(&["doctor"]).code == 0);
    assert_eq!(data(host, &["doctor"])["leftovers"], json!([]));
}

/// Gives the name `base` to an image in which this was done over busybox.
fn base(host: &Bulkhead, script: &str) -> Value {
    made(host, "v", &["--template", "busybox", "--start"]);
    inside(host, "v", script);
    host.ok(&["kill", "v"]);
    host.ok(&["image", "publish", "v", "--tag", "base"]);
    host.ok(&["delete", "--yes", "v"]);
    data(host, &["image", "info", "base"])["digest"].clone()
}

const OLD: &str = "mkdir -p /srv/app /opt/gone; for one in lib conf status; do echo old >/srv/app/$one; \
                   done; echo old >/opt/gone/x";
const NEW: &str = "mkdir -p /srv/app /srv/more; for one in lib conf status; do echo new >/srv/app/$one; \
                   done; echo new >/srv/more/y";

fn before(host: &Bulkhead, name: &str, prefix: &str) -> Vec<String> {
    let all = data(host, &["snapshot", "list", name]);
    let names = all.as_array().expect("a list").iter();
    let names = names.map(|one| one["name"].as_str().expect("a name").to_owned());
    names.filter(|name| name.starts_with(prefix)).collect()
}

const SEEN: &str = "cd /srv/app; cat lib conf; ls status 2>/dev/null; cat /srv/more/y /data 2>/dev/null; \
                    ls /opt 2>/dev/null; true";

#[test]
fn moved_on_and_back() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    let old = base(&host, OLD);
    made(&host, "w", &["--image", "base", "--start"]);
    inside(
        &host,
        "w",
        "echo mine >/srv/app/conf; rm /srv/app/status; echo mine >/data; echo k >/etc/own",
    );
    assert_eq!(info(&host, "w").get("behind"), None);
    let said = host.ok(&["rebase", "w", "--dry-run"]);
    assert!(!said.contains("/srv"), "{said}");
    let new = base(&host, NEW);
    assert_eq!(info(&host, "w")["behind"], new);
    assert!(host.ok(&["list"]).contains("behind"));

    let before_it = snapshot(&host);
    let said = host.fails(&["rebase", "w"], 4);
    assert!(said.contains("--restart"), "{said}");
    host.fails(&["rebase", "w", "--rollback", "--restart"], 2);
    host.fails(&["rebase", "w", "--image", "nobody:1", "--dry-run"], 5);
    host.fails(&["rebase", "w", "--canary", "0"], 2);
    host.fails(&["rebase", "nobody"], 3);
    let told = data(&host, &["rebase", "w", "--dry-run", "-q"]);
    assert_eq!(
        told,
        json!([
            {"guest": "w", "path": "/srv/app/conf", "base": "changed", "own": "file"},
            {"guest": "w", "path": "/srv/app/status", "base": "changed", "own": "removed"},
        ])
    );
    unchanged(&host, &before_it);
    host.ok(&["kill", "w"]);
    host.fails(&["rebase", "w", "--image", "nobody:1"], 5);
    let said = host.fails(&["rebase", "w", "--rollback"], 4);
    assert!(said.contains("no base to go back to"), "{said}");

    let said = host.run(&["rebase", "w"]);
    assert_eq!(said.code, 0, "{}", said.report());
    assert!(
        said.stderr.contains("/srv/app/conf: changed in the image"),
        "{}",
        said.stderr
    );
    assert!(events(&host, "w").contains(&"rebased".to_owned()));
    assert_eq!(info(&host, "w")["image"], new);
    assert_eq!(info(&host, "w").get("behind"), None);
    host.ok(&["start", "w"]);
    assert_eq!(inside(&host, "w", SEEN), "new\nmine\nnew\nmine");
    // The image before stays as long as it can be gone back to.
    host.fails(&["image", "delete", old.as_str().expect("a digest")], 4);
    inside(&host, "w", "echo later >/data");
    host.ok(&["kill", "w"]);
    let said = host.ok(&["rebase", "w"]);
    assert!(said.contains("already"), "{said}");

    host.ok(&["set", "w", "description=later"]);
    host.ok(&["rebase", "w", "--rollback"]);
    assert_eq!(info(&host, "w")["behind"], new);
    assert_eq!(host.ok(&["get", "w", "description"]).trim(), "later");
    host.ok(&["start", "w"]);
    assert_eq!(inside(&host, "w", SEEN), "old\nmine\nmine\ngone");
    host.ok(&["kill", "w"]);
    // What it was before it went back is kept.
    let [kept] = &before(&host, "w", "before-rollback")[..] else {
        panic!("one snapshot");
    };
    host.ok(&["snapshot", "restore", "w", kept]);
    host.ok(&["start", "w"]);
    assert_eq!(inside(&host, "w", SEEN), "new\nmine\nnew\nlater");
    host.ok(&["delete", "--force", "w"]);
    nothing_left(&host);
}

#[test]
fn one_that_does_not_come_up_goes_back_and_the_others_stay() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    base(&host, OLD);
    let file = host.root().join("g.toml");
    let text = "image = \"base\"\n[init]\ncommand = [\"/bin/sh\", \"-c\", \"test -e /opt/gone && exec sleep 1000\"]\nstop_timeout = \"1s\"\n";
    std::fs::write(&file, text).expect("a folder of ours");
    let from = file.to_str().expect("a plain path");
    for name in ["a", "b"] {
        made(&host, name, &["--from", from, "--start"]);
        inside(&host, name, "echo mine >/data");
    }
    made(&host, "c", &["--image", "base", "--start"]);
    // First by name, and no canary: what does not run shows nothing.
    made(&host, "0", &["--image", "base"]);
    let new = base(&host, NEW);
    let said = host.run(&[
        "rebase",
        "--all",
        "--restart",
        "--canary",
        "1",
        "--timeout",
        "20s",
    ]);
    assert_eq!(said.code, 4, "{}", said.report());
    assert!(
        said.stderr.contains("it is back on the one before"),
        "{}",
        said.stderr
    );
    for name in ["0", "b"] {
        let left = format!("guest {name} is left as it is");
        assert!(said.stderr.contains(&left), "{}", said.stderr);
    }
    for name in ["a", "b", "c"] {
        assert!(is(&host, name, "running"), "{name}");
        assert_eq!(info(&host, name)["behind"], new, "{name}");
        assert!(before(&host, name, "before").is_empty(), "{name}");
    }
    assert_eq!(inside(&host, "a", "cat /data; ls /opt"), "mine\ngone");
    let kept = ["--keep-old", "30d"];
    host.ok(&[&["rebase", "c", "--restart", "--timeout", "20s"][..], &kept].concat());
    let all = data(&host, &["snapshot", "list", "c"]);
    assert!(
        all[0]["until_ms"].as_u64() > all[0]["created_ms"].as_u64(),
        "{all}"
    );
    assert_eq!(inside(&host, "c", "cat /srv/app/lib"), "new");
    host.ok(&["delete", "--all", "--force"]);
    nothing_left(&host);
}

#[test]
fn names_of_a_stranger_hide_nothing_else() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    base(&host, OLD);
    made(&host, "w", &["--image", "base", "--start"]);
    // A link of the guest's in the place of a folder, names that steer a terminal, and a deep tree.
    inside(
        &host,
        "w",
        "rm -r /srv/app; ln -s /proc/1/root/etc /srv/app; mkdir -p \"$(printf '/srv/a\\033[2J\\nb')\"; \
         n=$(printf 'x%.0s' $(seq 200)); cd /srv; for i in $(seq 30); do mkdir $n && cd $n; done 2>/dev/null; true",
    );
    host.ok(&["kill", "w"]);
    base(
        &host,
        &format!("{NEW}; echo y >\"$(printf '/srv/a\\033[2J\\nb')\""),
    );
    let told = data(&host, &["rebase", "w", "--dry-run", "-q"]);
    let hidden = told.as_array().expect("a list");
    let of = |path: &str| hidden.iter().find(|one| one["path"] == path).cloned();
    assert_eq!(of("/srv/app/lib").expect("told")["own"], "file");
    let said = host.run(&["rebase", "w"]);
    assert_eq!(said.code, 0, "{}", said.report());
    assert!(!said.stderr.contains('\u{1b}'));
    host.ok(&["start", "w"]);
    assert_eq!(
        inside(&host, "w", "readlink /srv/app; cat /srv/more/y"),
        "/proc/1/root/etc\nnew"
    );
    host.ok(&["delete", "--force", "w"]);
    nothing_left(&host);
}

/// Ends the command in this way at every point: the guest lies over one base or the other, with all of
/// its own; with points that refuse what they stand for, one that fails has changed nothing.
fn every_point_in(pool: &[&str], how: &str) {
    let host = &Bulkhead::new();
    let mut flags = vec!["--image", "base", "--start"];
    if !pool.is_empty() {
        host.ok(pool);
        flags.extend(["--pool", "p", "--disk", "32M"]);
    }
    let old = base(host, OLD);
    host.ok(&["image", "tag", "base", "before"]);
    made(host, "w", &flags);
    inside(
        host,
        "w",
        "echo mine >/srv/app/conf; rm /srv/app/status; echo mine >/data",
    );
    host.ok(&["kill", "w"]);
    host.ok(&["snapshot", "create", "w", "first"]);
    let new = base(host, NEW);
    let (mut olds, mut news) = (0, 0);
    for number in 0..100 {
        let at = format!("command:{number}{how}");
        let mut command = host.command(&["rebase", "w"]);
        command.env("BULKHEAD_FAULT", &at);
        let done = run(command);
        host.ok(&["doctor", "--fix"]);
        nothing_left(host);
        // What is set now is not undone by what the command had not written down yet.
        host.ok(&["set", "w", "description=later"]);
        host.ok(&["start", "w"]);
        let seen = inside(host, "w", SEEN);
        host.ok(&["kill", "w"]);
        let moved = seen == "new\nmine\nnew\nmine";
        assert!(moved || seen == "old\nmine\nmine\ngone", "{at}: {seen}");
        assert_eq!(
            info(host, "w").get("behind"),
            (!moved).then_some(&new),
            "{at}"
        );
        let taken = before(host, "w", "before-rebase");
        if done.code == 0 {
            assert!(moved && taken.len() == 1, "{at}: {taken:?}");
        } else if !how.is_empty() {
            assert!(!moved && taken.is_empty(), "{at}: {}", done.stderr);
        }
        match moved {
            true => news += 1,
            false => olds += 1,
        }
        host.ok(&["snapshot", "restore", "w", "first"]);
        for name in &taken {
            host.ok(&["snapshot", "delete", "w", name]);
        }
        // Refused points behind the exchange are no error: several of them end well.
        if done.code == 0 && (how.is_empty() || news > 8) {
            assert!(olds >= 8 && news >= 2, "{olds} and {news}");
            host.ok(&["delete", "--yes", "w"]);
            host.ok(&["image", "delete", old.as_str().expect("a digest")]);
            nothing_left(host);
            return;
        }
    }
    panic!("more than 100 points");
}

#[test]
fn killed_at_every_point() {
    if need(Need::Root) {
        every_point_in(&[], "");
    }
}

#[test]
fn refused_at_every_point() {
    if need(Need::Root) {
        every_point_in(&[], ":fail");
    }
}

#[test]
fn killed_at_every_point_in_a_filesystem_of_its_own() {
    if need(Need::Root) {
        every_point_in(&["pool", "create", "p", "--driver", "image"], "");
    }
}

#[test]
fn in_a_pool_of_subvolumes() {
    if !need(Need::Root) {
        return;
    }
    life::in_a_pool("btrfs", |host, flags| {
        base(host, OLD);
        made(
            host,
            "w",
            &[flags, &["--image", "base", "--start"]].concat(),
        );
        inside(
            host,
            "w",
            "echo mine >/srv/app/conf; rm /srv/app/status; echo mine >/data",
        );
        host.ok(&["kill", "w"]);
        base(host, NEW);
        host.ok(&["rebase", "w"]);
        host.ok(&["start", "w"]);
        assert_eq!(inside(host, "w", SEEN), "new\nmine\nnew\nmine");
        host.ok(&["kill", "w"]);
        host.ok(&["rebase", "w", "--rollback"]);
        host.ok(&["start", "w"]);
        assert_eq!(inside(host, "w", SEEN), "old\nmine\nmine\ngone");
        host.ok(&["delete", "--force", "w"]);
    });
}

#[test]
fn an_image_is_built_again_from_its_template() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    let folder = host.root().join("tree");
    std::fs::create_dir_all(folder.join("bin")).expect("a folder of ours");
    std::fs::copy("/bin/busybox", folder.join("bin/busybox")).expect("busybox");
    std::os::unix::fs::symlink("busybox", folder.join("bin/sh")).expect("a link");
    std::fs::write(folder.join("version"), "1\n").expect("a file");
    let archive = host.root().join("root.tar");
    let pack = || {
        let mut tar = std::process::Command::new("tar");
        tar.args([
            "-C",
            folder.to_str().unwrap(),
            "-cf",
            archive.to_str().unwrap(),
            ".",
        ]);
        assert_eq!(run(tar).code, 0);
    };
    pack();
    let option = format!("archive={}", archive.display());
    host.ok(&["image", "build", "tar", "--option", &option]);
    let first = data(&host, &["image", "list"])[0]["digest"].clone();
    let first = first.as_str().expect("a digest");
    host.ok(&["image", "tag", first, "mine"]);
    let same = data(&host, &["image", "update", "mine", "-q"]);
    assert_eq!(
        (&same["changed"], &same["image"]),
        (&json!(false), &json!(first))
    );

    std::fs::write(folder.join("version"), "2, longer\n").expect("a file");
    pack();
    let before_it = snapshot(&host);
    let said = host.ok(&["image", "update", "mine", "--dry-run"]);
    assert!(said.contains("would build template tar"), "{said}");
    let said = host.fails(&["image", "update", "nobody"], 5);
    assert!(said.contains("no image nobody"), "{said}");
    unchanged(&host, &before_it);
    // Killed at every point, the name leads to one image or the other, and both are whole.
    for number in 0..100 {
        let mut command = host.command(&["image", "update", "mine", "--format", "json", "-q"]);
        command.env("BULKHEAD_FAULT", format!("command:{number}"));
        let done = run(command);
        host.ok(&["doctor", "--fix"]);
        nothing_left(&host);
        host.ok(&["image", "verify"]);
        let now = data(&host, &["image", "info", "mine"])["digest"].clone();
        if done.code == 0 {
            assert!(number > 3, "{number} points");
            assert_ne!(now, first);
            let told: Value = serde_json::from_str(&done.stdout).expect("data");
            assert_eq!((&told["before"], &told["image"]), (&json!(first), &now));
            return;
        }
        host.ok(&["image", "tag", first, "mine"]);
    }
    panic!("more than 100 points");
}

/// One that was stopped only to be started again is not forgotten when the command dies in between.
#[test]
fn a_guest_that_was_to_come_back_is_named_and_started() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    base(&host, OLD);
    made(&host, "w", &["--image", "base", "--start"]);
    base(&host, NEW);
    for how in [&["restart", "w"][..], &["rebase", "w", "--restart"]] {
        let mut stayed = 0;
        // Each is a stop and a start: every third.
        for number in (0..100).step_by(3) {
            let mut command = host.command(how);
            command.env("BULKHEAD_FAULT", format!("command:{number}"));
            let done = run(command);
            let status = || info(&host, "w")["status"].clone();
            became(10, || status() == "stopped" || status() == "running");
            if status() == "stopped" {
                stayed += 1;
                let seen = host.run(&["doctor"]).stdout;
                assert!(seen.contains("stopped guest"), "{how:?} {number}: {seen}");
            }
            host.ok(&["doctor", "--fix"]);
            assert_eq!(status(), "running", "{how:?} {number}");
            nothing_left(&host);
            if done.code == 0 {
                break;
            }
            assert!(number < 97, "more than 100 points");
        }
        assert!(stayed >= 1, "{how:?}: it stayed stopped {stayed} times");
    }
    // Whoever starts it, or is told that it does not start, has nothing to be reminded of.
    let mut command = host.command(&["restart", "w"]);
    command.env("BULKHEAD_FAULT", "command:6");
    run(command);
    host.run(&["start", "w"]);
    nothing_left(&host);
}
