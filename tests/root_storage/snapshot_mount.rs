//! Snapshots on folders of the host's, in pools of each driver: what is seen, what is refused while one
//! is there, and what a cut leaves.

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::PathBuf;

use crate::life::{data, in_a_pool, inside, made};
use crate::support::{Bulkhead, Need, became, need, run};
use crate::traces;
use serde_json::json;

fn nothing_left(host: &Bulkhead) {
    // The process that tells neighbours of an end may still be at it.
    became(10, || host.run(&["doctor"]).code == 0);
    assert_eq!(data(host, &["doctor"])["leftovers"], json!([]));
}

/// A folder to mount on, which a test that fails leaves without a mount too.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        // Nothing is mounted there, unless the test has failed.
        let umount = std::process::Command::new("umount")
            .arg("-lq")
            .arg(&self.0)
            .output();
        assert!(umount.is_ok(), "umount(8) is there");
    }
}

impl std::ops::Deref for Folder {
    type Target = std::path::Path;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

fn folder(host: &Bulkhead, name: &str) -> Folder {
    let path = host.root().join(name);
    std::fs::create_dir(&path).expect("a folder of ours");
    Folder(path)
}

fn mounted(host: &Bulkhead) -> serde_json::Value {
    data(host, &["snapshot", "list", "w"])[0]["mounted"].clone()
}

fn a_look(host: &Bulkhead, flags: &[&str]) {
    made(
        host,
        "w",
        &[flags, &["--network", "none", "--start"]].concat(),
    );
    inside(
        host,
        "w",
        "echo one >/data; chown 33:44 /data; rm -r /etc/init.d; mkfifo /fifo; ln -s /etc/shadow /link; \
         cp /bin/busybox /suid; chmod 4755 /suid",
    );
    host.ok(&["snapshot", "create", "w"]);
    inside(host, "w", "echo two >/data");
    let at = folder(host, "look at");
    let shown = at.to_str().expect("a plain path");
    let said = host.fails(&["snapshot", "mount", "w", "s1", "/bulkhead/nowhere"], 1);
    assert!(said.contains("make it first"), "{said}");
    let mount = ["snapshot", "mount", "w", "s1", shown];
    host.ok(&[&mount[..], &["--dry-run"]].concat());
    assert_eq!(mounted(host), json!([]));
    host.ok(&mount);
    let said = host.fails(&mount, 1);
    assert!(said.contains("not empty"), "{said}");
    assert_eq!(mounted(host), json!([shown]));

    let read = |name: &str| std::fs::read_to_string(at.join(name));
    assert_eq!(read("data").expect("its file"), "one\n");
    let meta = std::fs::metadata(at.join("data")).expect("its file");
    assert_eq!((meta.uid(), meta.gid()), (33, 44));
    assert!(at.join("etc/hostname").exists() && !at.join("etc/init.d").exists());
    assert!(
        std::fs::metadata(at.join("fifo"))
            .expect("it")
            .file_type()
            .is_fifo()
    );
    assert!(
        std::fs::symlink_metadata(at.join("link"))
            .expect("it")
            .is_symlink()
    );
    std::fs::write(at.join("data"), "x").expect_err("read-only");
    let ran = std::process::Command::new(at.join("suid")).status();
    assert_eq!(
        ran.expect_err("not to be executed").raw_os_error(),
        Some(13)
    );
    let table = std::fs::read_to_string("/proc/self/mountinfo").expect("a mounted /proc");
    let line = table.lines().find(|line| line.contains("look\\040at"));
    let line = line.expect("it is mounted");
    assert!(line.contains("ro,nosuid,nodev,noexec"), "{line}");

    // The guest goes on; the snapshot is used as ever, and stays as long as it is looked at.
    host.ok(&["clone", "w", "v", "--snapshot", "s1"]);
    host.ok(&["delete", "v"]);
    host.ok(&["kill", "w"]);
    for refused in [
        &["snapshot", "delete", "w", "s1"][..],
        &["delete", "--force", "w"],
        &["delete", "w", "--keep", "3"],
        &["rename", "w", "u"],
    ] {
        let said = host.fails(refused, 4);
        assert!(said.contains("snapshot unmount"), "{said}");
    }
    host.ok(&["snapshot", "restore", "w", "s1"]);
    host.ok(&["start", "w"]);
    assert_eq!(inside(host, "w", "cat /data; echo three >/data"), "one");
    assert_eq!(read("data").expect("its file"), "one\n");
    nothing_left(host);

    let other = folder(host, "other");
    let other = other.to_str().expect("a plain path");
    host.ok(&["snapshot", "mount", "w", "s1", other]);
    assert_eq!(mounted(host), json!([shown, other]));
    host.ok(&["snapshot", "unmount", shown]);
    host.fails(&["snapshot", "unmount", shown], 1);
    assert_eq!(std::fs::read_dir(&*at).expect("ours").count(), 0);
    host.ok(&["snapshot", "unmount", other]);
    assert_eq!(mounted(host), json!([]));
    host.ok(&["snapshot", "delete", "w", "s1"]);
    host.ok(&["delete", "--force", "w"]);
    nothing_left(host);
}

#[test]
fn of_folders() {
    if !need(Need::Root) {
        return;
    }
    a_look(&Bulkhead::new(), &[]);
}

#[test]
fn of_files() {
    if !need(Need::Root) {
        return;
    }
    in_a_pool("image", a_look);
}

#[test]
fn of_subvolumes() {
    if !need(Need::Root) {
        return;
    }
    in_a_pool("btrfs", a_look);
}

/// One that has no layer of its own, and one that has many.
#[test]
fn of_few_and_many_layers() {
    if !need(Need::Root) {
        return;
    }
    let host = &Bulkhead::new();
    made(host, "w", &["--network", "none"]);
    let at = folder(host, "at");
    let shown = at.to_str().expect("a plain path");
    let file = host.root().join("n");
    std::fs::write(&file, "n").expect("a folder of ours");
    for n in 0..39 {
        host.ok(&[
            "file",
            "push",
            &file.to_string_lossy(),
            &format!("w:/srv/{n}"),
        ]);
        host.ok(&["snapshot", "create", "w"]);
    }
    host.ok(&["snapshot", "mount", "w", "s39", shown]);
    assert_eq!(std::fs::read_dir(at.join("srv")).expect("its").count(), 39);
    host.ok(&["snapshot", "unmount", shown]);
    host.ok(&["reinstall", "w", "--yes"]);
    host.ok(&["snapshot", "create", "w", "fresh"]);
    host.ok(&["snapshot", "mount", "w", "fresh", shown]);
    assert_eq!(std::fs::read_dir(at.join("srv")).expect("its").count(), 0);
    host.ok(&["snapshot", "unmount", shown]);
    host.ok(&["delete", "w"]);
    nothing_left(host);
}

/// Whatever is cut short, either it is mounted or it is not, and the table of mounts says so.
#[test]
fn cut_short() {
    if !need(Need::Root) {
        return;
    }
    let host = &Bulkhead::new();
    host.ok(&["pool", "create", "p", "--driver", "image"]);
    made(
        host,
        "w",
        &["--network", "none", "--pool", "p", "--disk", "32M"],
    );
    host.ok(&["snapshot", "create", "w"]);
    let at = folder(host, "at");
    let shown = at.to_str().expect("a plain path");
    let clean = traces::of(host.root());
    let mount = ["snapshot", "mount", "w", "s1", shown];
    for act in ["", ":fail"] {
        for number in 0..20 {
            let mut command = host.command(&mount);
            command.env("BULKHEAD_FAULT", format!("command:{number}{act}"));
            let done = run(command);
            if mounted(host) != json!([]) {
                let mut command = host.command(&["snapshot", "unmount", shown]);
                command.env("BULKHEAD_FAULT", format!("command:0{act}"));
                assert_ne!(run(command).code, 0);
                host.ok(&["snapshot", "unmount", shown]);
            }
            nothing_left(host);
            // A loop device goes a moment after its last user.
            let left = || traces::new(&clean, &traces::of(host.root()));
            assert!(
                became(10, || left().is_empty()),
                "{number}{act}: {:?}",
                left()
            );
            if done.code == 0 {
                assert!(number >= 2, "{number} points");
                break;
            }
            assert!(number < 19, "more than 19 points");
        }
    }
    // A snapshot whose record is gone although it is mounted is named, and taken off.
    host.ok(&mount);
    let record = host
        .root()
        .join("var/lib/bulkhead/guests/w/snapshots/s1.json");
    let text = std::fs::read(&record).expect("a record");
    std::fs::remove_file(&record).expect("a file of ours");
    let report = host.run(&["doctor", "--format", "json"]).stdout;
    assert!(
        report.contains("snapshot mount") && report.contains(shown),
        "{report}"
    );
    std::fs::write(&record, text).expect("a file of ours");
    nothing_left(host);
    host.ok(&["snapshot", "unmount", shown]);
    host.ok(&["delete", "w"]);
    host.ok(&["pool", "delete", "p"]);
    nothing_left(host);
}
