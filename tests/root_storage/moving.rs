//! `export` and `import`: a guest moves with everything it has, in a stream that nothing hostile
//! survives; full disks, kills at every point, and archives read by tar(1). Needs: root.

use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support;
use crate::support::{Bulkhead, Need, Outcome, TestDir, need, run};

/// What a file is, apart from its inode number: mode, owners, time, size, device, target, content.
type Traits = (u32, u32, u32, i64, i64, u64, u64, PathBuf, Vec<u8>);

fn traits(top: &Path) -> BTreeMap<PathBuf, Traits> {
    let mut found = BTreeMap::new();
    let mut left = vec![top.to_owned()];
    while let Some(path) = left.pop() {
        let meta = path.symlink_metadata().expect("a file of the test's");
        let kind = meta.file_type();
        if kind.is_dir() {
            let entries = std::fs::read_dir(&path).expect("a folder of the test's");
            left.extend(entries.map(|entry| entry.expect("an entry").path()));
        }
        let target = std::fs::read_link(&path).unwrap_or_default();
        let small = kind.is_file() && meta.len() < 1 << 20;
        let data = small.then(|| std::fs::read(&path).expect("a file"));
        let size = if kind.is_dir() { 0 } else { meta.len() };
        let device = if kind.is_char_device() {
            meta.rdev()
        } else {
            0
        };
        let of = (
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.mtime(),
            meta.mtime_nsec(),
            size,
            device,
            target,
            data.unwrap_or_default(),
        );
        let below = path.strip_prefix(top).expect("below the top");
        found.insert(below.to_owned(), of);
    }
    found
}

fn upper(bulkhead: &Bulkhead, name: &str) -> PathBuf {
    let guests = bulkhead.root().join("var/lib/bulkhead/guests");
    guests.join(name).join("root/upper")
}

fn shell(line: &str) {
    let done = Command::new("sh").args(["-ec", line]).status();
    assert!(done.expect("sh").success(), "{line}");
}

/// A stopped guest that has run and has odd files.
fn source(definition: &[&str]) -> Bulkhead {
    let bulkhead = Bulkhead::new();
    let create = ["create", "web", "--template", "busybox", "--memory", "64M"];
    bulkhead.ok(&[&create, definition].concat());
    bulkhead.ok(&["start", "web"]);
    bulkhead.ok(&[
        "exec",
        "web",
        "--",
        "sh",
        "-ec",
        "rm /etc/profile; rm -r /opt; mkdir /opt /srv/d; echo hi > /srv/d/f; ln /srv/d/f /srv/same;\
         ln -s f /srv/d/l; chown 33:65534 /srv/d/f; chmod 4755 /srv/d/f; mkfifo /srv/p;\
         dd if=/dev/zero of=/srv/sparse bs=1 count=1 seek=20000000 2>/dev/null",
    ]);
    bulkhead.ok(&["kill", "web"]);
    bulkhead
}

fn archive(folder: &TestDir) -> String {
    folder.join("web.tar.zst").display().to_string()
}

/// What `doctor` names as left over.
fn left(bulkhead: &Bulkhead) -> serde_json::Value {
    let text = bulkhead.run(&["doctor", "--format", "json"]).stdout;
    let report: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    report["leftovers"].clone()
}

#[track_caller]
fn nothing_left(bulkhead: &Bulkhead) {
    assert_eq!(left(bulkhead), serde_json::json!([]));
}

#[test]
fn a_guest_moves_with_everything_and_starts() {
    if !need(Need::Root) {
        return;
    }
    let (from, to, folder) = (source(&["--cpus", "0.5"]), Bulkhead::new(), TestDir::new());
    let file = archive(&folder);
    from.ok(&["export", "web", "-o", &file]);
    let again = from.fails(&["export", "web", "-o", &file], 1);
    assert!(again.contains("there already"), "{again}");
    let would = to.ok(&["import", &file, "--check"]);
    assert!(would.contains("limit = 0.5"), "{would}");
    assert!(!to.ok(&["list"]).contains("web"));
    let said = to.ok(&["import", &file]);
    assert!(said.contains("which came with it"), "{said}");
    assert_eq!(traits(&upper(&to, "web")), traits(&upper(&from, "web")));
    let id = |bulkhead: &Bulkhead| {
        std::fs::read_to_string(upper(bulkhead, "web").join("etc/machine-id")).expect("its id")
    };
    assert_eq!(id(&from), id(&to));
    to.ok(&["start", "web"]);
    let seen = to.ok(&[
        "exec",
        "web",
        "--",
        "sh",
        "-c",
        "ls /etc/profile /opt /srv/d; stat -c %h%u%g /srv/same",
    ]);
    assert!(
        !seen.contains("profile") && seen.contains("\nf\nl\n2336553"),
        "{seen}"
    );
    // A second one is a copy: it has the image already and an identity of its own.
    let said = to.ok(&["import", &file, "--name", "copy", "--memory", "32M"]);
    assert!(said.contains("which was here"), "{said}");
    let copy = std::fs::read_to_string(upper(&to, "copy").join("etc/machine-id")).expect("its id");
    assert_ne!(copy, id(&to));
    to.ok(&["start", "copy"]);
    assert_eq!(to.ok(&["exec", "copy", "--", "hostname"]), "copy\n");
    nothing_left(&from);
    nothing_left(&to);
}

#[test]
fn layers_that_snapshots_have_set_aside_come_along() {
    if !need(Need::Root) {
        return;
    }
    let (from, to, folder) = (source(&[]), Bulkhead::new(), TestDir::new());
    let file = archive(&folder);
    for n in ["one", "two"] {
        from.ok(&["snapshot", "create", "web", n]);
        let line = format!("echo {n} > /srv/{n}; echo {n} > /srv/last; rm -f /srv/p");
        from.ok(&["start", "web"]);
        from.ok(&["exec", "web", "--", "sh", "-c", &line]);
        from.ok(&["kill", "web"]);
    }
    from.ok(&["export", "web", "-o", &file]);
    to.ok(&["import", &file]);
    to.ok(&["start", "web"]);
    let seen = to.ok(&[
        "exec",
        "web",
        "--",
        "sh",
        "-c",
        "cd /srv; cat one two last d/f; ls",
    ]);
    assert_eq!(seen, "one\ntwo\ntwo\nhi\nd\nlast\none\nsame\nsparse\ntwo\n");
    to.ok(&["delete", "web", "--force", "--yes"]);
    nothing_left(&to);
}

#[test]
fn a_running_guest_is_exported_through_a_pipe_and_goes_on() {
    if !need(Need::Root) {
        return;
    }
    let (from, to) = (source(&[]), Bulkhead::new());
    from.ok(&["start", "web"]);
    let mut export = from.command(&["export", "web", "--compress", "gzip"]);
    let mut export = export.stdout(Stdio::piped()).spawn().expect("export");
    let mut import = to.command(&["import", "-", "--name", "moved", "--fresh"]);
    import.stdin(export.stdout.take().expect("piped"));
    let import = run(import);
    assert_eq!(import.code, 0, "{}", import.report());
    assert!(export.wait().expect("export").success());
    assert_eq!(from.ok(&["exec", "web", "--", "echo", "on"]), "on\n");
    to.ok(&["start", "moved"]);
    nothing_left(&from);
}

#[test]
fn tar_reads_it() {
    if !need(Need::Root) {
        return;
    }
    let (from, folder) = (source(&[]), TestDir::new());
    let file = archive(&folder);
    from.ok(&["export", "web", "-o", &file, "--no-image", "--level", "1"]);
    let out = folder.join("out");
    std::fs::create_dir(&out).expect("a folder of ours");
    shell(&format!(
        "cd {} && tar --xattrs --numeric-owner -xpf {file}",
        out.display()
    ));
    let (found, expected) = (
        traits(&out.join("root/upper")),
        traits(&upper(&from, "web")),
    );
    assert!(found.len() > 10);
    assert_eq!(found, expected);
    let alone = Bulkhead::new().fails(&["import", &file], 5);
    assert!(alone.contains("--no-image"), "{alone}");
}

#[test]
fn a_definition_that_reaches_beyond_the_guest_is_a_wish() {
    if !need(Need::Root) {
        return;
    }
    let (from, to, folder) = (source(&[]), Bulkhead::new(), TestDir::new());
    let file = archive(&folder);
    from.ok(&["set", "web", "mount=/etc:/mnt"]);
    from.ok(&["export", "web", "-o", &file]);
    let refused = to.fails(&["import", &file], 5);
    assert!(
        refused.contains("mount") && refused.contains("--trust"),
        "{refused}"
    );
    assert!(!to.ok(&["list"]).contains("web"));
    to.ok(&["import", &file, "--trust"]);
    nothing_left(&to);
}

#[test]
fn damage_is_told_and_leaves_nothing() {
    if !need(Need::Root) {
        return;
    }
    let (from, to, folder) = (source(&[]), Bulkhead::new(), TestDir::new());
    let file = archive(&folder);
    from.ok(&["export", "web", "-o", &file, "--compress", "none"]);
    let whole = std::fs::read(&file).expect("the archive");
    for (what, length, flip) in [
        ("nothing", 0, None),
        ("half", whole.len() / 2, None),
        ("all but the checksums", whole.len() - 4096, None),
        ("a bit of the image", whole.len(), Some(1_000_000)),
        ("a bit at the end", whole.len(), Some(whole.len() - 1700)),
    ] {
        let mut data = whole[..length].to_vec();
        if let Some(at) = flip {
            data[at] ^= 4;
        }
        let path = folder.join("damaged");
        std::fs::write(&path, data).expect("a file of ours");
        let said = to.fails(&["import", &path.display().to_string()], 1);
        assert!(said.contains("error: cannot import"), "{what}: {said}");
        assert!(!to.ok(&["list"]).contains("web"), "{what}");
        nothing_left(&to);
    }
    let images = to.root().join("var/lib/bulkhead/images");
    let images: Vec<_> = std::fs::read_dir(images).expect("images").collect();
    assert!(images.is_empty(), "{images:?}");
}

#[test]
fn a_full_disk_is_told_and_leaves_nothing() {
    if !need(Need::Root) || !need(Need::LoopDevice) {
        return;
    }
    let (from, folder) = (source(&[]), TestDir::new());
    let file = archive(&folder);
    shell(&format!(
        "head -c 20M /dev/urandom > {}",
        upper(&from, "web").join("big").display()
    ));
    from.ok(&["export", "web", "-o", &file]);
    let (disk, at) = (folder.join("disk"), folder.join("mnt"));
    std::fs::create_dir(&at).expect("a folder of ours");
    let (shown, place) = (disk.display(), at.display());
    shell(&format!(
        "truncate -s 16M {shown}; mkfs.ext4 -qF -m 0 {shown}; mount -o loop {shown} {place}"
    ));
    let on = |args: &[&str]| -> Outcome {
        let mut command = Command::new(support::program());
        command.arg("--root").arg(&at).args(args);
        command.env_remove("BULKHEAD_ROOT").env("NO_COLOR", "1");
        run(command)
    };
    let import = on(&["import", &file]);
    let doctor = on(&["doctor", "--format", "json"]);
    let free = run({
        let mut command = Command::new("df");
        command.args(["--output=used", "-k"]).arg(&at);
        command
    });
    let out = run({
        let mut command = Command::new(support::program());
        let to = at.join("x.tar").display().to_string();
        command.arg("--root").arg(from.root());
        command.args(["export", "web", "--compress", "none", "-o", &to]);
        command
    });
    let entries = std::fs::read_dir(&at).expect("the disk").flatten();
    let names: Vec<_> = entries.map(|entry| entry.file_name()).collect();
    shell(&format!("umount {place}"));
    assert_eq!(import.code, 1, "{}", import.report());
    assert!(import.stderr.contains("is full"), "{}", import.stderr);
    let report: serde_json::Value = serde_json::from_str(&doctor.stdout).expect("JSON");
    assert_eq!(report["leftovers"], serde_json::json!([]));
    assert!(!free.stdout.is_empty());
    assert_eq!(out.code, 1, "{}", out.report());
    assert!(out.stderr.contains("No space left"), "{}", out.stderr);
    assert!(!format!("{names:?}").contains("x.tar"), "{names:?}");
}

#[test]
fn killed_anywhere_it_leaves_nothing() {
    if !need(Need::Root) {
        return;
    }
    let (from, folder) = (source(&[]), TestDir::new());
    let file = archive(&folder);
    from.ok(&["export", "web", "-o", &file]);
    let faulty = |bulkhead: &Bulkhead, fault: &str, args: &[&str]| {
        let mut command = bulkhead.command(args);
        command.env("BULKHEAD_FAULT", fault);
        run(command)
    };
    let to = Bulkhead::new();
    for act in ["", ":fail"] {
        for n in 0.. {
            let outcome = faulty(&to, &format!("command:{n}{act}"), &["import", &file]);
            let made = to.ok(&["list"]).contains("web  ");
            if act.is_empty() {
                to.ok(&["doctor", "--fix"]);
            }
            nothing_left(&to);
            let there = to.run(&["info", "web"]).code == 0;
            if there {
                to.ok(&["delete", "web", "--force", "--yes"]);
            }
            // The image must come with each of them.
            let images = to.root().join("var/lib/bulkhead/images");
            shell(&format!("rm -rf {}/*", images.display()));
            if outcome.code == 0 {
                assert!(n > 8 && there, "{n} {made}");
                break;
            }
        }
    }
    from.ok(&["start", "web"]);
    for act in ["", ":fail"] {
        for n in 0.. {
            let path = folder.join("out");
            let args = ["export", "web", "-o", &path.display().to_string()];
            let outcome = faulty(&from, &format!("command:{n}{act}"), &args);
            if act.is_empty() {
                from.ok(&["doctor", "--fix"]);
            }
            nothing_left(&from);
            assert_eq!(from.ok(&["exec", "web", "--", "echo", "on"]), "on\n", "{n}");
            assert_eq!(
                path.exists(),
                outcome.code == 0,
                "{n}: {}",
                outcome.report()
            );
            if outcome.code == 0 {
                assert!(n > 4, "{n}");
                std::fs::remove_file(path).expect("the archive");
                break;
            }
        }
    }
}

/// Images that only snapshots lie over come between the guest's own and its files.
#[test]
fn killed_between_further_images_it_leaves_nothing() {
    if !need(Need::Root) {
        return;
    }
    let (from, folder) = (source(&[]), TestDir::new());
    from.ok(&["image", "publish", "web", "--tag", "next"]);
    from.ok(&["rebase", "web", "--image", "next"]);
    let before = from.ok(&["snapshot", "list", "web", "--format", "json"]);
    let before: serde_json::Value = serde_json::from_str(&before).expect("JSON");
    let before = before[0]["name"].as_str().expect("a snapshot").to_owned();
    let file = archive(&folder);
    from.ok(&["export", "web", "-o", &file]);
    let to = Bulkhead::new();
    // The points of an import are swept above.
    for n in (0..).step_by(4) {
        let mut command = to.command(&["import", &file]);
        command.env("BULKHEAD_FAULT", format!("command:{n}"));
        let outcome = run(command);
        to.ok(&["doctor", "--fix"]);
        nothing_left(&to);
        if outcome.code == 0 {
            assert!(n > 10, "{n}");
            break;
        }
        if to.run(&["info", "web"]).code == 0 {
            to.ok(&["delete", "web", "--force", "--yes"]);
        }
        // Both images must come with each of them.
        let images = to.root().join("var/lib/bulkhead/images");
        shell(&format!("rm -rf {}/*", images.display()));
    }
    to.ok(&["snapshot", "restore", "web", &before, "--definition"]);
    to.ok(&["start", "web"]);
    assert_eq!(to.ok(&["exec", "web", "--", "cat", "/srv/d/f"]), "hi\n");
}
