//! Images taken in from servers of the simplestreams form: plain, over TLS and signed, and what such
//! servers may say wrong. Needs: root, squashfs-tools, gpg, gpgv, openssl, python3.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::life::{data, inside};
use crate::registry::breaking_wire;
use crate::server::Server;
use crate::support;
use crate::support::{Bulkhead, Need, need};
use serde_json::{Value, json};

fn tools() -> bool {
    need(Need::Root) && need(Need::LoopDevice) && need(Need::StreamTools)
}

/// Nothing half-made is left of what failed.
#[track_caller]
fn nothing_left(host: &Bulkhead) {
    assert_eq!(data(host, &["doctor"])["leftovers"], json!([]));
    assert_eq!(data(host, &["image", "list"]), json!([]));
}

#[test]
fn an_image_is_pulled_and_a_guest_runs_it() {
    if !tools() {
        return;
    }
    let (host, server) = (Bulkhead::new(), Server::new());
    server.version("20260101_13:00", "packed");
    for squashfs in [false, true] {
        server.publish(&json!({"20260101_13:00": server.entry("20260101_13:00", squashfs)}));
        let url = server.url();
        let pull = ["image", "pull", "box/1", "--server", &url];
        let would = host.ok(&[&pull[..], &["--dry-run"]].concat());
        assert!(would.contains("box/1@20260101_13:00"), "{would}");
        let taken = data(&host, &[&pull[..], &["-q"]].concat());
        let name = format!("127.0.0.1:{}/box/1", server.port());
        assert_eq!(taken["names"], json!([name]), "{taken}");
        let guest = if squashfs { "two" } else { "one" };
        host.ok(&[
            "create", guest, "--image", &name, "--memory", "64M", "--start",
        ]);
        assert_eq!(
            inside(&host, guest, "cat /srv/x; stat -c %u:%g /srv/x"),
            "packed\n33:33"
        );
        assert_eq!(inside(&host, guest, "hostname"), guest);
        let info = data(&host, &["image", "info", &name]);
        let source = format!("simplestreams:{url}#box/1@20260101_13:00");
        assert_eq!(info["source"], source, "{info}");
    }
    host.ok(&["image", "verify"]);
    // The same root, however it was packed, is the same image.
    assert_eq!(data(&host, &["image", "list"]).as_array().unwrap().len(), 1);
    assert_eq!(data(&host, &["doctor"])["leftovers"], json!([]));
}

#[test]
fn the_newest_version_is_taken_and_followed() {
    if !tools() {
        return;
    }
    let (host, server) = (Bulkhead::new(), Server::new());
    server.version("20260101_13:00", "old");
    server.version("20260102_13:00", "new");
    let (one, two) = (
        server.entry("20260101_13:00", false),
        server.entry("20260102_13:00", true),
    );
    server.publish(
        &json!({"20260101_13:00": one, "20260102_13:00": two, "20260103_13:00": {"items": {}}}),
    );
    let url = server.url();
    let pull = |name: &str, tag: &str| {
        data(
            &host,
            &["image", "pull", name, "--server", &url, "--tag", tag, "-q"],
        )["image"]
            .clone()
    };
    let (old, new) = (pull("box/1@20260101_13:00", "old"), pull("box/1", "new"));
    assert_ne!(old, new);
    let same = data(&host, &["image", "update", "new", "-q"]);
    assert_eq!((&same["changed"], &same["image"]), (&json!(false), &new));
    host.ok(&[
        "create", "web", "--image", "old", "--memory", "64M", "--start",
    ]);
    assert_eq!(inside(&host, "web", "cat /srv/x"), "old");
    let would = host.ok(&["image", "update", "old", "--dry-run"]);
    assert!(
        would.contains(&format!("would pull simplestreams:{url}#box/1 again")),
        "{would}"
    );
    let done = data(&host, &["image", "update", "old", "-q"]);
    assert_eq!(
        (&done["image"], &done["changed"]),
        (&new, &json!(true)),
        "{done}"
    );
    host.ok(&["rebase", "web", "--restart", "--timeout", "30s"]);
    assert_eq!(inside(&host, "web", "cat /srv/x"), "new");
    // The same content under another name is asked for where it came from under that name.
    server.publish(&json!({"20260102_13:00": server.entry("20260102_13:00", true)}));
    let again = Server::new();
    server.shell(&format!(
        "cp -a images streams {}",
        again.folder.path().display()
    ));
    let there = again.url();
    let other = [
        "image", "pull", "box/1", "--server", &there, "--tag", "other",
    ];
    host.ok(&other);
    host.ok(&["image", "tag", "other", "third"]);
    for (name, url) in [("new", &url), ("other", &there), ("third", &there)] {
        let would = host.ok(&["image", "update", name, "--dry-run"]);
        assert!(
            would.contains(&format!("simplestreams:{url}#box/1 again")),
            "{would}"
        );
    }
    // An older list than the one before is no news.
    again.shell("rm -r streams");
    server.publish(&json!({"20260101_13:00": server.entry("20260101_13:00", false)}));
    server.shell(&format!("cp -a streams {}", again.folder.path().display()));
    for line in [
        &["image", "update", "other"][..],
        &["image", "update", "new"],
        &other,
    ] {
        let said = host.fails(line, 5);
        assert!(said.contains("20260102_13:00 came before"), "{said}");
    }
    host.ok(&[
        "image",
        "pull",
        "box/1@20260101_13:00",
        "--server",
        &there,
        "--tag",
        "other",
    ]);
}

#[test]
fn only_what_the_keys_have_signed_is_read() {
    if !tools() {
        return;
    }
    let (host, server) = (Bulkhead::new(), Server::new());
    server.version("1", "signed");
    server.publish(&json!({"1": server.entry("1", false)}));
    let (url, keys) = (server.url(), server.folder.join("keys.gpg"));
    let keys = keys.to_str().expect("a plain path").to_owned();
    let pull = [
        "image",
        "pull",
        "box/1",
        "--server",
        &url,
        "--tag",
        "mine",
        "--keyring",
        &keys,
    ];
    let said = host.fails(&pull, 5);
    assert!(said.contains("the server signs nothing"), "{said}");
    server.sign();
    // What stands unsigned beside it says something else.
    server.publish(&json!({"2": {"items": {}}}));
    host.ok(&pull);
    let source = data(&host, &["image", "info", "mine"])["source"].clone();
    assert_eq!(source, format!("simplestreams+signed:{url}#box/1@1"));
    // Once signed, it is not followed without keys.
    let said = host.fails(&["image", "update", "mine"], 5);
    assert!(said.contains("--keyring"), "{said}");
    host.ok(&["image", "update", "mine", "--keyring", &keys]);
    host.ok(&["image", "prune", "--all"]);

    // Changed by a letter, signed by somebody else, or with more around it.
    let other = Server::new();
    other.publish(&json!({}));
    other.sign();
    let list = server.folder.join("streams/v1/images.sjson");
    let signed = std::fs::read_to_string(&list).unwrap();
    let foreign = std::fs::read_to_string(other.folder.join("streams/v1/images.sjson")).unwrap();
    let letters = signed.replacen("Box", "Bex", 1);
    let plain = signed[signed.find('{').unwrap()..signed.find("-----BEGIN PGP SIGNATURE").unwrap()]
        .to_owned();
    let twice = format!("{signed}{foreign}");
    let before = format!("{{\"format\": \"evil\"}}\n{signed}");
    for text in [&letters, &foreign, &plain, &twice, &before, &String::new()] {
        std::fs::write(&list, text).unwrap();
        let said = host.fails(&pull, 5);
        assert!(said.contains("has signed it"), "{said}");
        nothing_left(&host);
    }
    std::fs::write(&list, format!("{signed}evil\n")).unwrap();
    host.ok(&pull);
    host.ok(&["image", "prune", "--all"]);
    // A key that had expired before it signed this, as far as anybody can know now.
    server.shell(
        "mkdir -m 700 late; export GNUPGHOME=$PWD/late; then='--faked-system-time 20200101T000000!'; \
         gpg --batch --quiet $then --passphrase '' --quick-gen-key Late ed25519 sign 1y; gpg --export > late.gpg; \
         for name in index images; do gpg --batch --yes $then --clearsign -o streams/v1/$name.sjson \
         streams/v1/$name.json; done; gpgconf --kill all",
    );
    let late = server.folder.join("late.gpg");
    let said = host.fails(&[&pull[..8], &[late.to_str().unwrap()]].concat(), 5);
    assert!(said.contains("has signed it"), "{said}");
    // Keys in letters, and no keys.
    let said = host.fails(&[&pull[..8], &["/nothing"]].concat(), 5);
    assert!(said.contains("is not there"), "{said}");
    server
        .folder
        .write("keys.asc", "-----BEGIN PGP PUBLIC KEY BLOCK-----\n");
    let letters = server.folder.join("keys.asc");
    let said = host.fails(&[&pull[..8], &[letters.to_str().unwrap()]].concat(), 5);
    assert!(said.contains("gpg --dearmor"), "{said}");
}

#[test]
fn tls_and_broken_wires() {
    if !tools() {
        return;
    }
    let (host, server) = (Bulkhead::new(), Server::secure());
    server.version("1", "secure");
    server.publish(&json!({"1": server.entry("1", true)}));
    let (url, ca) = (server.url(), server.folder.join("cert.pem"));
    let pull = ["image", "pull", "box/1", "--server", &url];
    let said = host.fails(&pull, 5);
    assert!(
        said.contains("certificate") || said.contains("Issuer"),
        "{said}"
    );
    host.ok(&[&pull[..], &["--ca", ca.to_str().unwrap()]].concat());
    // A wire that breaks is taken up again, though this server knows no ranges.
    let plain = Server::new();
    plain.version("1", "broken");
    plain.publish(&json!({"1": plain.entry("1", true)}));
    let size = plain.entry("1", true)["items"]["rootfs.squashfs"]["size"]
        .as_u64()
        .unwrap();
    let after = usize::try_from(size).unwrap() + 50_000;
    let (port, used) = breaking_wire(plain.port(), after);
    host.ok(&[
        "image",
        "pull",
        "box/1",
        "--server",
        &format!("http://127.0.0.1:{port}"),
    ]);
    assert!(used.load(Ordering::Relaxed) >= 1);
    // Others are not asked without somebody who vouches for them.
    let said = host.fails(
        &[
            "image",
            "pull",
            "box/1",
            "--server",
            "http://bulkhead.invalid",
        ],
        5,
    );
    assert!(
        said.contains("--keyring") && said.contains("https://"),
        "{said}"
    );
    let said = host.fails(&["image", "pull", "box/1", "--keyring", "/x"], 2);
    assert!(said.contains("--server"), "{said}");
}

#[test]
fn what_a_server_says_wrong_is_refused_and_leaves_nothing() {
    if !tools() {
        return;
    }
    let (host, server) = (Bulkhead::new(), Server::new());
    let files = server.version("1", "x");
    let url = server.url();
    let pull = ["image", "pull", "box/1", "--server", &url];
    let good = server.entry("1", true);
    let refused = |list: &Value, why: &str| {
        server.publish(&json!({"1": list}));
        let said = host.fails(&pull, 5);
        assert!(said.contains(why), "{why}: {said}");
        nothing_left(&host);
    };
    let with = |file: &str, key: &str, value: Value| {
        let mut list = good.clone();
        list["items"][file][key] = value;
        list
    };
    let root = "rootfs.squashfs";
    refused(
        &with(root, "sha256", "0".repeat(64).into()),
        "its digest is sha256:",
    );
    refused(&with(root, "size", json!(100)), "longer than was promised");
    refused(
        &with(root, "path", json!("../../etc/passwd")),
        "no path below",
    );
    refused(
        &with(root, "path", json!("http://other.example/x")),
        "no path below",
    );
    refused(&with(root, "path", json!("images/none")), "answers 404");
    let both = with(
        "incus.tar.xz",
        "combined_squashfs_sha256",
        "0".repeat(64).into(),
    );
    refused(&both, "its two files together");
    let size = good["items"][root]["size"].as_u64().unwrap();
    refused(&with(root, "size", json!(size + 10)), root);
    // No squashfs, a damaged one, one with nothing in it, metadata for another machine.
    let changed = |line: &str, why: &str| {
        server.shell(&format!(
            "cd {}; cp {root} kept; cp incus.tar.xz about; {line}",
            files.display()
        ));
        refused(&server.entry("1", true), why);
        server.shell(&format!(
            "cd {}; mv kept {root}; mv about incus.tar.xz",
            files.display()
        ));
    };
    changed(&format!("head -c 100000 /dev/zero > {root}"), "damaged");
    changed(&format!("truncate -s 40000 {root}"), "damaged");
    changed(
        &format!("mkdir empty; mksquashfs empty {root} -noappend -quiet -no-progress; rmdir empty"),
        "no root file system",
    );
    changed(
        &format!(
            "mkdir t; mkdir t/etc; echo 1 > t/etc/x; chown 70000 t/etc/x; mksquashfs t {root} -noappend -quiet -no-progress; rm -r t"
        ),
        "owner above 65535",
    );
    changed(
        "printf 'architecture: s390x\\n' > metadata.yaml; tar -cJf incus.tar.xz metadata.yaml",
        "it is for \"s390x\"",
    );
    changed("tar -cJf incus.tar.xz kept", "no metadata.yaml");
    // The documents themselves: too long, of another form, lists that lead to themselves.
    server.publish(&json!({"1": good}));
    for (line, why) in [
        ("truncate -s 5M streams/v1/index.json", "more than 4 MiB"),
        ("truncate -s 17M streams/v1/images.json", "more than 16 MiB"),
        (
            "cp streams/v1/index.json streams/v1/images.json",
            "cannot be read",
        ),
        (
            "head -c 300 streams/v1/images.json > x; mv x streams/v1/images.json",
            "cannot be read",
        ),
        ("rm streams/v1/index.json", "is not there"),
    ] {
        server.shell(&format!("cp -a streams saved; {line}"));
        let said = host.fails(&pull, 5);
        assert!(said.contains(why), "{line}: {said}");
        server.shell("rm -r streams; mv saved streams");
        nothing_left(&host);
    }
    let said = host.fails(&["image", "pull", "bo/2", "--server", &url], 5);
    assert!(said.contains("no image of that name; it has"), "{said}");
    host.ok(&pull);
}

/// Connections to [`dripping`] servers.
static MET: AtomicU32 = AtomicU32::new(0);

/// A server that answers with this, and then with a byte now and then: its address.
fn dripping(head: &'static str) -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("loopback");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for mut wire in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let _asked = wire.read(&mut [0; 4096]);
                let _gone = wire.write_all(head.as_bytes());
                MET.fetch_add(1, Ordering::Relaxed);
                while wire.write_all(b" ").is_ok() {
                    std::thread::sleep(Duration::from_millis(50));
                }
            });
        }
    });
    format!("http://127.0.0.1:{port}")
}

#[test]
fn a_server_that_drips_holds_nobody_and_none_of_this_machine_leads_elsewhere() {
    if !tools() {
        return;
    }
    let host = Bulkhead::new();
    // What this machine says is asked for of no proxy: nobody listens there.
    let pull = |url: &str| {
        let mut command = host.command(&["image", "pull", "box/1", "--server", url]);
        command.env("http_proxy", "http://127.0.0.1:1");
        command.env("ALL_PROXY", "http://127.0.0.1:1");
        command.env_remove("NO_PROXY").env_remove("no_proxy");
        command
    };
    let moved = "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/x\r\nContent-Length: 0\r\n\r\n";
    let done = support::run(pull(&dripping(moved)));
    assert!(done.stderr.contains("answers 302"), "{}", done.report());
    MET.store(0, Ordering::Relaxed);
    let slow = dripping("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n");
    let mut command = pull(&slow);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().expect("our program");
    support::eventually("it is asked", 20, || MET.load(Ordering::Relaxed) > 0);
    std::thread::sleep(Duration::from_millis(500));
    let begin = Instant::now();
    let pid = child.id().to_string();
    Command::new("kill").args(["-TERM", &pid]).status().unwrap();
    let status = child.wait().unwrap();
    assert!(begin.elapsed() < Duration::from_secs(10), "{status}");
    assert!(!status.success(), "{status}");
    nothing_left(&host);
}

#[test]
fn a_killed_pull_leaves_nothing_that_is_not_found() {
    if !tools() {
        return;
    }
    let (host, server) = (Bulkhead::new(), Server::new());
    server.version("1", "x");
    server.publish(&json!({"1": server.entry("1", true)}));
    server.sign();
    let (url, keys) = (server.url(), server.folder.join("keys.gpg"));
    for point in 0..60 {
        let pull = [
            "image",
            "pull",
            "box/1",
            "--server",
            &url,
            "--keyring",
            keys.to_str().unwrap(),
        ];
        let mut command = host.command(&pull);
        command.env("BULKHEAD_FAULT", format!("command:{point}"));
        let done = support::run(command);
        host.ok(&["doctor", "--fix"]);
        assert_eq!(data(&host, &["doctor"])["leftovers"], json!([]), "{point}");
        if done.code == 0 {
            assert!(point > 6, "{point} points");
            return;
        }
        host.ok(&["image", "prune", "--all"]);
    }
    panic!("more than 60 points");
}
