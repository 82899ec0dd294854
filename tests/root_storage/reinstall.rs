//! Guests that get a fresh root: what stays, what goes, what a hostile old root cannot do, and what
//! is there when the command is cut short.

use crate::life;
use crate::life::{data, events, info, inside, snapshot, unchanged};
use crate::support::{Bulkhead, Need, became, need, run};
use serde_json::json;

fn made(host: &Bulkhead, name: &str, flags: &[&str]) {
    life::made(host, name, &[&["--network", "none"][..], flags].concat());
}

fn nothing_left(host: &Bulkhead) {
    // The process that tells neighbours of an end may still be at it.
    became(10, || host.run(&["doctor"]).code == 0);
    assert_eq!(data(host, &["doctor"])["leftovers"], json!([]));
}

/// Names of the snapshots that reinstalling has taken, oldest first.
fn before(host: &Bulkhead, name: &str) -> Vec<String> {
    let all = data(host, &["snapshot", "list", name]);
    let names = all.as_array().expect("a list").iter();
    let names = names.map(|one| one["name"].as_str().expect("a name").to_owned());
    names
        .filter(|name| name.starts_with("before-reinstall-20"))
        .collect()
}

/// An image `shop:1`: busybox, and files of its own.
fn shop(host: &Bulkhead) {
    made(host, "v", &["--start"]);
    inside(
        host,
        "v",
        "echo shop >/marker; mkdir -p /srv/www; echo >/srv/www/of-image",
    );
    host.ok(&["kill", "v"]);
    host.ok(&["image", "publish", "v", "--tag", "shop:1"]);
    host.ok(&["delete", "--yes", "v"]);
}

const WHO: &str = "cat /proc/self/uid_map /sys/class/net/eth0/address /etc/hostname; \
                   ip addr show eth0 | grep inet; cat /etc/machine-id /etc/ssh/ssh_host_ed25519_key*";

#[test]
fn a_fresh_root_and_the_same_guest() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    life::started(
        &host,
        "w",
        &["--memory", "64M", "--ssh-key", "ssh-ed25519 AAAA me"],
    );
    inside(
        &host,
        "w",
        "mkdir -p /etc/ssh /srv/deep/www /root/x; echo old >/junk; rm /etc/passwd /root/.ssh/*; \
         echo key >/etc/ssh/ssh_host_ed25519_key; echo pub >/etc/ssh/ssh_host_ed25519_key.pub; \
         echo 00000000000000000000000000000007 >/etc/machine-id; \
         echo page >/srv/deep/www/index; ln /srv/deep/www/index /srv/deep/www/again; \
         chown -R 33:33 /srv/deep; chmod 2750 /srv/deep; echo note >/root/note; chmod 600 /root/note",
    );
    let who = inside(&host, "w", WHO);
    let said = host.fails(&["reinstall", "w"], 4);
    assert!(said.contains("stop it first"), "{said}");
    host.ok(&["kill", "w"]);

    let before_it = snapshot(&host);
    let keep = [
        "reinstall",
        "w",
        "--keep",
        "/srv/deep/www",
        "--keep",
        "/root/note",
    ];
    let said = host.ok(&[&keep[..], &["--dry-run"]].concat());
    assert!(said.contains("from template busybox"), "{said}");
    let said = host.fails(&["reinstall", "w", "--keep", "/srv/none"], 1);
    assert!(said.contains("/srv/none"), "{said}");
    host.fails(&["reinstall", "w", "--keep", "srv"], 2);
    host.fails(&["reinstall", "w", "--image", "nobody:1"], 5);
    unchanged(&host, &before_it);

    let said = host.ok(&keep);
    let kept = before(&host, "w").pop().expect("a snapshot");
    let restore = format!("bulkhead snapshot restore w {kept}`");
    assert!(said.contains(&restore), "{said}");
    assert!(events(&host, "w").contains(&"reinstalled".to_owned()));
    host.ok(&["start", "w"]);
    assert_eq!(inside(&host, "w", WHO), who);
    let seen = "ls -d /junk /root/x 2>/dev/null; cat /srv/deep/www/index /root/note; \
                stat -c '%a %u %g' /srv/deep /root/note; stat -c %h /srv/deep/www/again; \
                grep -c root /etc/passwd; cat /root/.ssh/authorized_keys; \
                stat -c %a /etc/ssh/ssh_host_ed25519_key";
    assert_eq!(
        inside(&host, "w", seen),
        "page\nnote\n2750 33 33\n600 0 0\n2\n1\nssh-ed25519 AAAA me\n600"
    );
    assert_eq!(host.ok(&["get", "w", "memory.limit"]).trim(), "64M");

    host.ok(&["kill", "w"]);
    host.ok(&["snapshot", "restore", "w", &kept]);
    host.ok(&["start", "w"]);
    assert_eq!(inside(&host, "w", WHO), who);
    assert_eq!(inside(&host, "w", "cat /junk"), "old");
    host.ok(&["delete", "--force", "w"]);
    nothing_left(&host);
}

#[test]
fn another_image_and_back() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    shop(&host);
    made(&host, "w", &["--start"]);
    inside(
        &host,
        "w",
        "mkdir -p /srv/www; echo mine >/srv/www/x; echo old >/data",
    );
    host.ok(&["kill", "w"]);
    let said = host.ok(&["reinstall", "w", "--image", "shop:1", "--keep", "/srv/www"]);
    assert!(said.contains("--definition`"), "{said}");
    host.ok(&["start", "w"]);
    // Of a folder that is kept nothing of the image shows through.
    let seen = inside(
        &host,
        "w",
        "cat /marker; ls /srv/www; ls /data 2>/dev/null; true",
    );
    assert_eq!(seen, "shop\nx");
    assert_eq!(host.ok(&["get", "w", "image"]).trim(), "shop:1");
    let digest = info(&host, "w")["image"].clone();
    host.ok(&["kill", "w"]);

    host.ok(&["reinstall", "w", "--template", "busybox"]);
    assert_ne!(info(&host, "w")["image"], digest);
    host.ok(&["start", "w"]);
    assert_eq!(
        inside(&host, "w", "ls -d /marker /srv/www 2>/dev/null; echo"),
        ""
    );
    host.ok(&["kill", "w"]);
    // A snapshot of a root is over the image it was made from.
    let [first, second] = &before(&host, "w")[..] else {
        panic!("two snapshots");
    };
    host.fails(&["image", "delete", digest.as_str().expect("a digest")], 4);
    host.ok(&["snapshot", "restore", "w", second, "--definition"]);
    host.ok(&["start", "w"]);
    assert_eq!(inside(&host, "w", "cat /marker /srv/www/x"), "shop\nmine");
    assert_eq!(host.ok(&["get", "w", "image"]).trim(), "shop:1");
    host.ok(&["kill", "w"]);
    host.ok(&["snapshot", "restore", "w", first, "--definition"]);
    host.ok(&["start", "w"]);
    assert_eq!(
        inside(&host, "w", "cat /data; ls /marker 2>/dev/null; true"),
        "old"
    );
    host.ok(&["delete", "--force", "w"]);
    nothing_left(&host);
}

#[test]
fn a_hostile_root_leads_nowhere() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    let outside = host.root().join("outside");
    std::fs::create_dir(&outside).expect("a folder of ours");
    for name in ["ssh_host_rsa_key", "secret"] {
        std::fs::write(outside.join(name), "of the host").expect("a file of ours");
    }
    let outside = outside.display();
    made(&host, "w", &["--start"]);
    let id = inside(&host, "w", "cat /etc/machine-id");
    inside(
        &host,
        "w",
        &format!(
            "rm /etc/machine-id; mkfifo /etc/machine-id; ln -s {outside} /etc/ssh; \
             ln -s {outside} /way; ln -s {outside}/secret /link; mkfifo /fifo; \
             mkdir -p /keep/up; ln -s /etc/shadow /keep/link; mkfifo /keep/fifo; \
             ln -s ../../../../../..{outside} /keep/up/up; mkdir /a; ln -s . /a/loop"
        ),
    );
    host.ok(&["kill", "w"]);
    let said = host.fails(&["reinstall", "w", "--keep", "/way/secret"], 1);
    assert!(said.contains("/way/secret"), "{said}");
    host.fails(&["reinstall", "w", "--keep", "/keep/up/up/secret"], 1);
    let mut args = vec!["reinstall", "w"];
    for path in ["/keep", "/link", "/fifo", "/a/loop/loop/loop"] {
        args.extend(["--keep", path]);
    }
    host.ok(&args);
    host.ok(&["start", "w"]);
    assert_eq!(inside(&host, "w", "cat /etc/machine-id"), id);
    let seen = inside(
        &host,
        "w",
        "ls /etc/ssh 2>/dev/null; for one in /keep/link /link /a/loop/loop/loop; do readlink $one; done; test -p /fifo && test -p \
         /keep/fifo && echo fifos; cat /keep/up/up/secret /link 2>/dev/null; ls /way 2>/dev/null; true",
    );
    assert_eq!(seen, format!("/etc/shadow\n{outside}/secret\n.\nfifos"));

    // Others that lead to files of its own, and keys that are none.
    inside(
        &host,
        "w",
        "ln -sf /etc/shadow /etc/machine-id; mkdir -p /etc/ssh/ssh_host_d /x; \
         ln -s /etc/shadow /etc/ssh/ssh_host_link; mkfifo /etc/ssh/ssh_host_fifo; \
         dd if=/dev/zero of=/etc/ssh/ssh_host_big bs=1M count=2 2>/dev/null; \
         echo key >/etc/ssh/ssh_host_a; ln -s /x/y /x/y",
    );
    host.ok(&["kill", "w"]);
    host.fails(&["reinstall", "w", "--keep", "/x/y/z"], 1);
    host.ok(&["reinstall", "w"]);
    host.ok(&["start", "w"]);
    let seen = inside(&host, "w", "cat /etc/machine-id; ls /etc/ssh");
    assert_eq!(seen, format!("{id}\nssh_host_a"));
    host.ok(&["delete", "--force", "w"]);
    nothing_left(&host);
}

/// Whether the guest has its new root; everything of it is of one or of the other.
fn is_new(host: &Bulkhead, at: &str) -> bool {
    // What is set now is not undone by what the command had not written down yet.
    host.ok(&["set", "w", "description=later"]);
    host.ok(&["start", "w"]);
    let seen = inside(
        host,
        "w",
        "cat /data /marker 2>/dev/null; cat /kept /etc/ssh/ssh_host_a",
    );
    host.ok(&["kill", "w"]);
    let origin = [
        host.run(&["get", "w", "image"]),
        host.run(&["get", "w", "template"]),
    ];
    let origin = origin.map(|one| one.stdout.trim().to_owned());
    assert_eq!(
        host.ok(&["get", "w", "description"]).trim(),
        "later",
        "{at}"
    );
    let new = seen.starts_with("shop");
    let (file, from) = match new {
        true => ("shop", "shop:1"),
        false => ("old", "busybox"),
    };
    assert_eq!(seen, format!("{file}\nkept\nkey"), "{at}");
    assert!(origin.contains(&from.to_owned()), "{at}: {origin:?}");
    new
}

/// Ends the command in this way at every point, and the guest has one root or the other; with points
/// that refuse what they stand for, a command that fails has changed nothing.
fn every_point_in(flags: &[&str], pool: &[&str], how: &str) {
    let host = &Bulkhead::new();
    if !pool.is_empty() {
        host.ok(pool);
    }
    shop(host);
    made(host, "w", &[flags, &["--start"]].concat());
    inside(
        host,
        "w",
        "echo old >/data; echo kept >/kept; mkdir /etc/ssh; echo key >/etc/ssh/ssh_host_a",
    );
    host.ok(&["kill", "w"]);
    host.ok(&["snapshot", "create", "w", "base"]);
    let (mut olds, mut news) = (0, 0);
    for number in 0..100 {
        let at = format!("command:{number}{how}");
        let mut command = host.command(&["reinstall", "w", "--image", "shop:1", "--keep", "/kept"]);
        command.env("BULKHEAD_FAULT", &at);
        let done = run(command);
        host.ok(&["doctor", "--fix"]);
        nothing_left(host);
        let new = is_new(host, &at);
        let taken = before(host, "w");
        if done.code == 0 {
            assert!(new && taken.len() == 1, "{at}: {taken:?}");
        } else if !how.is_empty() {
            assert!(!new && taken.is_empty(), "{at}: {}", done.stderr);
        }
        match new {
            true => news += 1,
            false => olds += 1,
        }
        for name in &taken {
            host.ok(&["snapshot", "delete", "w", name]);
        }
        host.ok(&["snapshot", "restore", "w", "base", "--definition"]);
        // Refused points behind the exchange are no error: several of them end well.
        if done.code == 0 && (how.is_empty() || news > 12) {
            assert!(olds >= 15 && news >= 2, "{olds} and {news}");
            host.ok(&["delete", "--yes", "w"]);
            nothing_left(host);
            return;
        }
    }
    panic!("more than 100 points");
}

#[test]
fn killed_at_every_point() {
    if need(Need::Root) {
        every_point_in(&[], &[], "");
    }
}

#[test]
fn refused_at_every_point() {
    if need(Need::Root) {
        every_point_in(&[], &[], ":fail");
    }
}

#[test]
fn killed_at_every_point_in_a_pool_of_copies() {
    if need(Need::Root) {
        let pool = ["pool", "create", "p", "--driver", "btrfs", "--size", "256M"];
        every_point_in(&["--pool", "p"], &pool, "");
    }
}

#[test]
fn a_filesystem_in_a_file() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    host.ok(&["pool", "create", "p", "--driver", "image"]);
    made(&host, "w", &["--pool", "p", "--disk", "32M", "--start"]);
    let size = life::shown(&host, "w");
    inside(&host, "w", "echo old >/data; echo kept >/kept");
    inside(
        &host,
        "w",
        "dd if=/dev/urandom of=/big bs=1M count=20 2>/dev/null",
    );
    host.ok(&["kill", "w"]);
    host.ok(&["reinstall", "w", "--keep", "/kept"]);
    host.ok(&["start", "w"]);
    assert_eq!(
        inside(&host, "w", "cat /data /kept 2>/dev/null; true"),
        "kept"
    );
    assert_eq!(life::shown(&host, "w"), size);
    host.ok(&["kill", "w"]);
    host.ok(&["snapshot", "restore", "w", &before(&host, "w")[0]]);
    host.ok(&["start", "w"]);
    assert_eq!(
        inside(&host, "w", "cat /data; stat -c %s /big"),
        "old\n20971520"
    );
    host.ok(&["kill", "w"]);
    host.ok(&["delete", "--yes", "w"]);
    host.ok(&["pool", "delete", "p"]);
    nothing_left(&host);
}
