//! Files into guests and out of them: running and stopped, hostile guests, commands that are killed.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::life::{data, inside};
use crate::support::{Bulkhead, Need, need, run};
use serde_json::json;

fn made(host: &Bulkhead, name: &str, flags: &[&str]) {
    let base = ["create", name, "--template", "busybox", "--network", "none"];
    host.ok(&[&base[..], flags].concat());
}

fn text(host: &Bulkhead, name: &str, text: &str) -> String {
    let path = host.root().join(name);
    std::fs::write(&path, text).expect("a folder of ours");
    path.display().to_string()
}

/// What `file pull` to standard output says.
#[track_caller]
fn seen(host: &Bulkhead, place: &str) -> String {
    host.ok(&["file", "pull", place, "-"])
}

fn upper(host: &Bulkhead, name: &str) -> PathBuf {
    let guests = host.root().join("var/lib/bulkhead/guests");
    guests.join(name).join("root/upper")
}

/// Names of files that are not whole, anywhere below a folder.
fn unfinished(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry
            .file_name()
            .to_string_lossy()
            .starts_with(".bulkhead-new")
        {
            found.push(path.clone());
        }
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(unfinished(&path));
        }
    }
    found
}

/// The same in both states.
fn there_and_back(host: &Bulkhead) {
    let local = text(host, "local", "one\n");
    std::fs::set_permissions(&local, PermissionsExt::from_mode(0o750)).expect("ours");
    host.ok(&["file", "push", &local, "w:/etc/"]);
    host.ok(&[
        "file",
        "push",
        &local,
        "w:/srv/../etc/other",
        "--mode",
        "4711",
        "--owner",
        "7:8",
    ]);
    assert_eq!(seen(host, "w:/etc/local"), "one\n");
    let all = data(host, &["file", "ls", "w:/etc"]);
    let of = |name: &str| {
        let mut all = all.as_array().expect("a list").iter();
        let one = all.find(|one| one["name"] == name).expect("it is listed");
        json!([
            one["kind"],
            one["mode"],
            one["uid"],
            one["gid"],
            one["size"]
        ])
    };
    assert_eq!(of("local"), json!(["file", 0o750, 0, 0, 4]));
    assert_eq!(of("other"), json!(["file", 0o4711, 7, 8, 4]));
    assert_eq!(data(host, &["file", "ls", "w:/etc/local"])[0]["size"], 4);
    // What is replaced keeps its owner and mode.
    let local = text(host, "second", "two, and longer\n");
    host.ok(&["file", "push", &local, "w:/etc/other"]);
    let one = data(host, &["file", "ls", "w:/etc/other"])[0].clone();
    assert_eq!(
        json!([one["mode"], one["uid"], one["size"]]),
        json!([0o4711, 7, 16])
    );
    let back = host.root().join("back");
    let to = back.display().to_string();
    host.ok(&["file", "pull", "w:/etc/other", &to]);
    let meta = back.metadata().expect("it is there");
    assert_eq!(meta.permissions().mode() & 0o7777, 0o711);
    assert!(
        host.fails(&["file", "pull", "w:/etc/other", &to], 1)
            .contains("--force")
    );
    host.ok(&["file", "pull", "w:/etc/local", &to, "--force"]);
    assert_eq!(std::fs::read(&back).expect("it is there"), b"one\n");

    let mut edit = host.command(&["file", "edit", "w:/etc/other"]);
    edit.env("EDITOR", "sed -i s/two/three/");
    let done = run(edit);
    assert_eq!(done.code, 0, "{}", done.report());
    assert_eq!(seen(host, "w:/etc/other"), "three, and longer\n");
    let one = data(host, &["file", "ls", "w:/etc/other"])[0].clone();
    assert_eq!(json!([one["mode"], one["uid"]]), json!([0o4711, 7]));

    for (what, code) in [
        (&["push", &local, "w:/none/x"][..], 1),
        (&["push", &local, "w:/etc"], 1),
        (&["push", &local, "w:etc"], 2),
        (&["push", &local, "w:/"], 0),
        (&["push", &local, "nobody:/x"], 3),
        (&["pull", "w:/etc", "-"], 1),
        (&["pull", "w:/etc/none", "-"], 1),
        (&["ls", "w:/none"], 1),
        (&["edit", "w:/etc"], 1),
    ] {
        let done = host.run(&[&["file"], what].concat());
        assert_eq!(done.code, code, "{what:?}: {}", done.report());
    }
}

#[test]
fn files_go_in_and_come_out() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    made(&host, "w", &[]);
    there_and_back(&host);
    assert_eq!(unfinished(&upper(&host, "w")), [] as [PathBuf; 0]);
    host.ok(&["delete", "w"]);
    std::fs::remove_file(host.root().join("back")).expect("ours");
    made(&host, "w", &["--start"]);
    there_and_back(&host);
    assert_eq!(
        inside(&host, "w", "stat -c %u:%g:%a /etc/other"),
        "7:8:4711"
    );
    assert_eq!(inside(&host, "w", "stat -c %u:%g:%a /etc/local"), "0:0:750");
    // Through a pipe, larger than a pipe takes.
    let big = "0123456789abcdef".repeat(1 << 16);
    let mut push = host.command(&["file", "push", "-", "w:/big"]);
    let local = text(&host, "big", &big);
    let file = std::fs::File::open(local).expect("ours");
    let mut cat = std::process::Command::new("cat");
    let cat = cat.stdin(file).stdout(Stdio::piped()).spawn();
    let mut cat = cat.expect("cat");
    push.stdin(cat.stdout.take().expect("piped"));
    assert_eq!(run(push).code, 0);
    cat.wait().expect("cat");
    assert_eq!(inside(&host, "w", "wc -c </big"), "1048576");
    assert!(seen(&host, "w:/big") == big);
    host.ok(&["pause", "w"]);
    assert!(host.fails(&["file", "ls", "w:/etc"], 4).contains("resume"));
    host.ok(&["resume", "w"]);
    host.ok(&["kill", "w"]);
    assert_eq!(unfinished(&upper(&host, "w")), [] as [PathBuf; 0]);
}

/// Everything a guest can put in the way; `secret` is a folder of the host's.
fn nothing_leads_out(host: &Bulkhead, secret: &Path) {
    let local = text(host, "local", "ours\n");
    let name = secret.display().to_string();
    for link in ["abs", "up", "proc", "chain"] {
        let place = format!("w:/trap/{link}/secret");
        for verb in [
            &["pull", &place, "-"][..],
            &["push", &local, &place],
            &["ls", &place],
        ] {
            let done = host.run(&[&["file"], verb].concat());
            assert_ne!(done.code, 0, "{verb:?}: {}", done.report());
            assert!(!done.stdout.contains("host's own"), "{verb:?}");
        }
    }
    for end in ["end", "fifo", "null", "loop", "exe"] {
        let place = format!("w:/trap/{end}");
        let said = host.fails(&["file", "pull", &place, "-"], 1);
        assert!(said.contains("cannot read"), "{end}: {said}");
        let said = host.fails(&["file", "push", &local, &place], 1);
        assert!(said.contains("it is a"), "{end}: {said}");
        assert_eq!(host.run(&["file", "edit", &place]).code, 1, "{end}");
    }
    let said = host.fails(&["file", "pull", &format!("w:{name}/secret"), "-"], 1);
    assert!(said.contains("cannot read"), "{said}");
    let kept = std::fs::read_to_string(secret.join("secret")).expect("it is there");
    assert_eq!(kept, "host's own");
    assert_eq!(std::fs::read_dir(secret).expect("ours").count(), 1);
}

#[test]
fn links_fifos_and_devices_lead_nowhere() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    let secret = host.root().join("outside");
    std::fs::create_dir(&secret).expect("ours");
    std::fs::write(secret.join("secret"), "host's own").expect("ours");
    let shown = secret.display();
    made(&host, "w", &["--start"]);
    let line = format!(
        "mkdir /trap && cd /trap && ln -s {shown} abs && ln -s ../../../../../..{shown} up && \
         ln -s /proc/1/root{shown} proc && ln -s abs chain && ln -s {shown}/secret end && \
         mkfifo fifo && ln -s loop loop && ln -s /proc/1/root/etc/none exe && ln -s /dev/null null"
    );
    inside(&host, "w", &line);
    nothing_leads_out(&host, &secret);
    // A device is no file either, and a magic link is followed nowhere.
    let local = text(&host, "local", "ours\n");
    for place in ["w:/dev/null", "w:/dev/console"] {
        host.fails(&["file", "pull", place, "-"], 1);
        host.fails(&["file", "push", &local, place], 1);
    }
    host.fails(&["file", "pull", "w:/proc/1/root/etc/passwd", "-"], 1);
    host.ok(&["kill", "w"]);
    nothing_leads_out(&host, &secret);
    // As no guest could make it: a socket, a device, a link in the guest's own layer.
    let trap = upper(&host, "w").join("trap");
    std::os::unix::net::UnixListener::bind(trap.join("socket")).expect("ours");
    symlink("/dev/zero", trap.join("zero")).expect("ours");
    for end in ["socket", "zero"] {
        host.fails(&["file", "pull", &format!("w:/trap/{end}"), "-"], 1);
    }
}

/// A name that is a file now and a link out then.
#[test]
fn a_race_of_renames_is_the_guests_own_loss() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    let secret = host.root().join("outside");
    std::fs::create_dir(&secret).expect("ours");
    std::fs::write(secret.join("x"), "host's own").expect("ours");
    made(&host, "w", &["--start"]);
    let line = format!(
        "mkdir -p /real /race; echo guest >/real/x; ln -s {} /out; (while :; do \
         rm -rf /race; ln -s /real /race; rm /race; ln -s /out /race; rm /race; mkfifo /race; \
         rm /race; mkdir /race; done) >/dev/null 2>&1 &",
        secret.display()
    );
    inside(&host, "w", &line);
    let local = text(&host, "local", "ours\n");
    for _ in 0..40 {
        let done = host.run(&["file", "pull", "w:/race/x", "-"]);
        assert!(!done.stdout.contains("host's own"), "{}", done.report());
        assert!(matches!(done.code, 0 | 1), "{}", done.report());
        let done = host.run(&["file", "push", &local, "w:/race/x"]);
        assert!(matches!(done.code, 0 | 1), "{}", done.report());
    }
    let kept = std::fs::read_to_string(secret.join("x")).expect("it is there");
    assert_eq!(kept, "host's own");
}

/// Killed or refused at each point: the old file or the new one, whole, and nothing beside it.
#[test]
fn every_point_leaves_one_file_whole() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    made(&host, "w", &[]);
    let (old, new) = (text(&host, "old", "old\n"), text(&host, "new", "new\n"));
    for running in [false, true] {
        if running {
            host.ok(&["start", "w"]);
        }
        for act in ["", ":fail"] {
            let mut point = 0;
            loop {
                host.ok(&["file", "push", &old, "w:/etc/x"]);
                let mut push = host.command(&["file", "push", &new, "w:/etc/x"]);
                push.env("BULKHEAD_FAULT", format!("command:{point}{act}"));
                let done = run(push);
                let text = seen(&host, "w:/etc/x");
                let is = if done.code == 0 { "new\n" } else { "old\n" };
                assert_eq!(text, is, "{running} {point}{act}: {}", done.report());
                let left = unfinished(&upper(&host, "w"));
                assert_eq!(left, [] as [PathBuf; 0], "{running} {point}{act}");
                if done.code == 0 {
                    break;
                }
                point += 1;
            }
            assert!(point >= 2, "the points are passed: {running} {act} {point}");
        }
    }
    host.ok(&["kill", "w"]);
    host.ok(&["doctor"]);
}
