//! Backups of guests: running and stopped, made twice, brought back as files and as guests, and
//! killed at every point.

use std::path::{Path, PathBuf};

use crate::support::{Bulkhead, Need, need, run};

/// A guest, and a repository beside it.
struct Site {
    bulkhead: Bulkhead,
}

impl Site {
    fn new() -> Self {
        let bulkhead = Bulkhead::new();
        bulkhead.ok(&["create", "web", "--template", "busybox"]);
        let site = Self { bulkhead };
        site.ok(&["init", &site.repository()]);
        site
    }

    fn root(&self) -> &Path {
        self.bulkhead.root()
    }

    fn repository(&self) -> String {
        self.root().join("repository").display().to_string()
    }

    fn upper(&self) -> PathBuf {
        self.root().join("var/lib/bulkhead/guests/web/root/upper")
    }

    /// `backup ARGS`, with the repository where the verb takes it.
    fn words<'a>(args: &[&'a str], repository: &'a str) -> Vec<&'a str> {
        let mut words = [&["backup"], args].concat();
        if args[0] != "init" {
            words.extend(["--repo", repository]);
        }
        words
    }

    fn ok(&self, args: &[&str]) -> String {
        self.bulkhead.ok(&Self::words(args, &self.repository()))
    }

    fn json(&self, args: &[&str]) -> serde_json::Value {
        let text = self.ok(&[args, &["--format", "json"]].concat());
        serde_json::from_str(&text).expect("JSON")
    }

    /// Runs it again and again, killed at one point later each time, until it is not killed any more;
    /// `after` looks at what each has left.
    fn killed_everywhere(&self, args: &[&str], mut after: impl FnMut(usize)) -> usize {
        for point in 0..400 {
            let repository = self.repository();
            let mut command = self.bulkhead.command(&Self::words(args, &repository));
            command.env("BULKHEAD_FAULT", format!("command:{point}"));
            let done = run(command);
            after(point);
            if done.code == 0 {
                return point;
            }
        }
        panic!("there is no end of points in {args:?}");
    }

    /// The same, each time on a repository of its own that `before` has filled: what one that was
    /// killed has stored the next one would not store again.
    fn killed_afresh(&self, args: &[&str], before: &dyn Fn(), after: &dyn Fn()) -> usize {
        for point in 0..100 {
            let repository = self.repository();
            std::fs::remove_dir_all(&repository).expect("ours");
            self.ok(&["init", &repository]);
            before();
            let mut command = self.bulkhead.command(&Self::words(args, &repository));
            command.env("BULKHEAD_FAULT", format!("command:{point}"));
            let done = run(command);
            self.is_whole(&format!("point {point} of {args:?}"));
            after();
            if done.code == 0 {
                return point;
            }
        }
        panic!("there is no end of points in {args:?}");
    }

    fn is_whole(&self, what: &str) {
        let verdict = self.json(&["verify", "--read-data"]);
        let none = serde_json::json!([]);
        assert_eq!(verdict["faults"], none, "after {what}");
    }

    fn half_written(&self) -> usize {
        let tmp = Path::new(&self.repository()).join("tmp");
        std::fs::read_dir(tmp).expect("a folder of ours").count()
    }
}

#[test]
fn a_running_guest_comes_back_as_it_was() {
    if !need(Need::Root) {
        return;
    }
    let site = Site::new();
    let (bulkhead, upper) = (&site.bulkhead, site.upper());
    bulkhead.ok(&["start", "web"]);
    let write = "mkdir -p /srv/a; echo kept > /srv/a/b; ln /srv/a/b /srv/c; chown 33:33 /srv/a; \
                 rm /etc/hostname; chmod 4711 /srv/c; mkfifo /srv/f";
    bulkhead.ok(&["exec", "web", "--", "sh", "-c", write]);
    let made = site.json(&["create", "web", "--freeze"]);
    assert_eq!(made[0]["frozen"], true);
    let state = bulkhead.ok(&["list"]);
    assert!(state.contains("running"), "{state}");
    let machine_id = std::fs::read(upper.join("etc/machine-id")).ok();
    bulkhead.ok(&["delete", "--force", "web"]);

    let to = site.root().join("files");
    let to = to.to_str().expect("a path of ours");
    site.ok(&["restore", "web", "/srv", "etc/passwd", "--to", to]);
    let file = Path::new(to).join("srv/a/b");
    assert_eq!(std::fs::read_to_string(file).expect("restored"), "kept\n");

    site.ok(&["restore", "web", "--guest", "web"]);
    assert_eq!(std::fs::read(upper.join("etc/machine-id")).ok(), machine_id);
    bulkhead.ok(&["start", "web"]);
    let look =
        "stat -c '%n %u %a %h %F' /srv/a /srv/a/b /srv/c /srv/f; cat /srv/c; ls /etc/hostname";
    let seen = bulkhead
        .run(&["exec", "web", "--", "sh", "-c", look])
        .stdout;
    let expected = "/srv/a 33 755 2 directory\n/srv/a/b 0 4711 2 regular file\n\
                    /srv/c 0 4711 2 regular file\n/srv/f 0 644 1 fifo\nkept\n";
    assert!(seen.starts_with(expected), "{seen}");
    // Another name is another guest: its own identity, the same files.
    site.ok(&["restore", "web", "--guest", "copy"]);
    bulkhead.ok(&["start", "copy"]);
    assert_eq!(
        bulkhead.ok(&["exec", "copy", "--", "cat", "/srv/c"]),
        "kept\n"
    );
    let repository = site.repository();
    bulkhead.fails(
        &Site::words(&["restore", "web", "--guest", "copy"], &repository),
        4,
    );
}

#[test]
fn an_image_that_is_gone_comes_back_too() {
    if !need(Need::Root) {
        return;
    }
    let site = Site::new();
    site.ok(&["create", "web"]);
    site.bulkhead.ok(&["delete", "web"]);
    let images = site.root().join("var/lib/bulkhead/images");
    for entry in std::fs::read_dir(&images).expect("a folder of ours") {
        std::fs::remove_dir_all(entry.expect("an entry").path()).expect("removable");
    }
    site.ok(&["restore", "web", "--guest", "web"]);
    site.bulkhead.ok(&["start", "web"]);
    assert_eq!(
        site.bulkhead.ok(&["exec", "web", "--", "echo", "up"]),
        "up\n"
    );
}

#[test]
fn a_second_backup_reads_no_data() {
    if !need(Need::Root) {
        return;
    }
    let site = Site::new();
    let data: Vec<u8> = (0..2_000_000_u32)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    std::fs::write(site.upper().join("data"), data).expect("written");
    std::thread::sleep(std::time::Duration::from_millis(200));
    let first = site.json(&["create", "web"]);
    let second = site.json(&["create", "web"]);
    assert!(first[0]["read_bytes"].as_u64() > Some(8_000_000), "{first}");
    assert_eq!(second[0]["read_bytes"], 0);
    let (first, second) = (&first[0]["took_ms"], &second[0]["took_ms"]);
    eprintln!("first backup {first} ms, second {second} ms");
}

#[test]
fn after_damage_the_next_backup_reads_what_is_missing() {
    if !need(Need::Root) {
        return;
    }
    let site = Site::new();
    std::fs::write(site.upper().join("data"), "x".repeat(100_000)).expect("written");
    std::thread::sleep(std::time::Duration::from_millis(100));
    site.ok(&["create", "web"]);
    // The list of files is gone with the data.
    for pack in std::fs::read_dir(Path::new(&site.repository()).join("packs")).expect("packs") {
        std::fs::remove_file(pack.expect("one").path()).expect("removed");
    }
    site.ok(&["reindex"]);
    let again = site.json(&["create", "web"]);
    assert!(again[0]["read_bytes"].as_u64() >= Some(100_000), "{again}");
    site.ok(&["prune", "--keep-last", "1"]);
    site.is_whole("after damage");
}

#[test]
fn a_damaged_file_is_named_and_the_rest_comes_back() {
    if !need(Need::Root) {
        return;
    }
    let site = Site::new();
    site.ok(&["create", "web"]);
    let packs = || {
        let folder = Path::new(&site.repository()).join("packs");
        let packs = std::fs::read_dir(folder).expect("packs");
        packs
            .map(|pack| pack.expect("one").path())
            .collect::<Vec<_>>()
    };
    let before = packs();
    let noise: Vec<u8> = (0..50_000_u32)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    std::fs::write(site.upper().join("noise"), noise).expect("written");
    std::fs::create_dir_all(site.upper().join("etc")).expect("made");
    std::fs::write(site.upper().join("etc/motd"), "hello\n").expect("written");
    site.ok(&["create", "web"]);
    // Nearly all of the new pack is that file's data.
    let new = packs().into_iter().find(|pack| !before.contains(pack));
    let new = new.expect("a new pack");
    let mut bytes = std::fs::read(&new).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&new, bytes).expect("written");

    let listed = site.json(&["ls", "web", "/etc/motd"]);
    assert_eq!(listed[0]["name"], "/etc/motd");
    assert_eq!(listed[0]["size"], 6);
    let repository = site.repository();
    let fails = |args: &[&str]| site.bulkhead.fails(&Site::words(args, &repository), 1);
    let to = site.root().join("files").display().to_string();
    let said = fails(&["restore", "web", "--to", &to]);
    assert!(said.contains("left out: /noise"), "{said}");
    assert!(said.contains("1 of the files"), "{said}");
    assert!(!Path::new(&to).join("noise").exists());
    let motd = std::fs::read_to_string(Path::new(&to).join("etc/motd"));
    assert_eq!(motd.expect("restored"), "hello\n");
    fails(&["restore", "web", "--guest", "copy"]);
    let seen = site.bulkhead.ok(&["file", "ls", "copy:/"]);
    assert!(!seen.contains("noise") && seen.contains("etc"), "{seen}");
    let said = fails(&["verify", "--read-data"]);
    assert!(said.contains("reindex"), "{said}");
    // As it says.
    site.bulkhead.run(&Site::words(&["reindex"], &repository));
    site.ok(&["create", "web"]);
    let to = site.root().join("again").display().to_string();
    site.ok(&["restore", "web", "--to", &to]);
    assert!(Path::new(&to).join("noise").exists());
}

#[test]
fn a_damaged_list_of_files_is_told_and_the_rest_comes_back() {
    if !need(Need::Root) {
        return;
    }
    let site = Site::new();
    let packs = || {
        let folder = Path::new(&site.repository()).join("packs");
        let packs = std::fs::read_dir(folder).expect("packs");
        packs
            .map(|pack| pack.expect("one").path())
            .collect::<Vec<_>>()
    };
    std::fs::write(site.upper().join("kept"), "kept\n").expect("written");
    site.ok(&["create", "web"]);
    let before = packs();
    // The image's files are listed already, and no data is new: a pack of nothing but the guest's list.
    std::thread::sleep(std::time::Duration::from_millis(100));
    std::fs::hard_link(site.upper().join("kept"), site.upper().join("also")).expect("linked");
    std::thread::sleep(std::time::Duration::from_millis(100));
    site.ok(&["create", "web"]);
    let new = packs().into_iter().find(|pack| !before.contains(pack));
    let new = new.expect("a new pack");
    let mut bytes = std::fs::read(&new).expect("read");
    bytes[60] ^= 1;
    std::fs::write(&new, bytes).expect("written");

    let repository = site.repository();
    let fails = |args: &[&str]| site.bulkhead.fails(&Site::words(args, &repository), 1);
    let to = site.root().join("files").display().to_string();
    let would = fails(&["restore", "web", "--to", &to, "--dry-run"]);
    let said = fails(&["restore", "web", "--to", &to]);
    let lost = "of the list of the guest's own files everything is lost";
    assert!(
        said.contains(lost) && would.contains(lost),
        "{said} {would}"
    );
    assert!(said.contains("is damaged in the repository"), "{said}");
    // What its image had is there.
    assert!(Path::new(&to).join("bin/busybox").exists());
    assert!(!Path::new(&to).join("kept").exists());
    let said = fails(&["ls", "web", "/"]);
    assert!(said.contains(lost), "{said}");
    let said = fails(&["restore", "web", "/kept", "--to", "none"]);
    assert!(said.contains("take it from another one"), "{said}");
    let said = fails(&["restore", "web", "--guest", "copy", "--dry-run"]);
    assert!(said.contains(lost), "{said}");
    site.bulkhead.fails(&["info", "copy"], 3);
    fails(&["restore", "web", "--guest", "copy"]);
    site.bulkhead.ok(&["start", "copy"]);
    assert_eq!(
        site.bulkhead.ok(&["exec", "copy", "--", "echo", "up"]),
        "up\n"
    );
    // And the next backup is whole.
    site.bulkhead.run(&Site::words(&["reindex"], &repository));
    site.ok(&["create", "web"]);
    let to = site.root().join("again").display().to_string();
    site.ok(&["restore", "web", "--to", &to]);
    assert!(Path::new(&to).join("kept").exists());
}

/// On a new host there is no pool of that name.
#[test]
fn a_guest_comes_back_with_another_definition() {
    if !need(Need::Root) || !need(Need::LoopDevice) || !need(Need::DiskTools) {
        return;
    }
    let site = Site::new();
    let host = &site.bulkhead;
    host.ok(&["pool", "create", "was", "--driver", "image"]);
    let flags = ["--pool", "was", "--disk", "32M", "--template", "busybox"];
    host.ok(&[&["create", "sold"][..], &flags].concat());
    site.ok(&["create", "sold"]);
    host.ok(&["delete", "sold"]);
    host.ok(&["pool", "delete", "was"]);
    let repository = site.repository();
    let fails = |args: &[&str], code| host.fails(&Site::words(args, &repository), code);
    let said = fails(&["restore", "sold", "--guest", "sold"], 5);
    assert!(said.contains("--pool says another"), "{said}");
    // Not accepted and ignored.
    let said = fails(
        &["restore", "sold", "--to", "/nowhere", "--pool", "default"],
        2,
    );
    assert!(said.contains("cannot be used with"), "{said}");
    let elsewhere = ["--pool", "default", "--disk", "none", "--memory", "96M"];
    let key = "ssh-ed25519 AAAA me";
    let told = ["--hostname", "moved", "--ssh-key", key];
    let words = [
        &["restore", "sold", "--guest", "sold"][..],
        &elsewhere,
        &told,
    ]
    .concat();
    site.ok(&[&words[..], &["--dry-run"]].concat());
    site.ok(&words);
    host.ok(&["start", "sold"]);
    let said = host.ok(&["get", "sold", "memory.limit"]);
    assert_eq!(said.trim(), "96M");
    assert_eq!(host.ok(&["get", "sold", "disk.pool"]).trim(), "default");
    // It is the same guest, and its files say what its definition now says.
    let files = ["/etc/hostname", "/root/.ssh/authorized_keys"];
    let said = host.ok(&[&["exec", "sold", "--", "cat"][..], &files].concat());
    assert_eq!(said, format!("moved\n{key}\n"));
}

#[test]
fn a_backup_killed_anywhere_leaves_a_whole_repository() {
    if !need(Need::Root) {
        return;
    }
    let site = Site::new();
    let points = site.killed_afresh(&["create", "web"], &|| {}, &|| {
        // The next backup clears what was half-written; prune what nothing needs.
        site.ok(&["create", "web"]);
        assert_eq!(site.half_written(), 0);
    });
    assert!(points >= 9, "{points}");
}

#[test]
fn a_prune_killed_anywhere_leaves_a_whole_repository() {
    if !need(Need::Root) {
        return;
    }
    let site = Site::new();
    let fill = || {
        for seed in [3, 5] {
            let data: Vec<u8> = (0..100_000_u32)
                .flat_map(|n| (n * seed).wrapping_mul(2_654_435_761).to_le_bytes())
                .collect();
            std::fs::write(site.upper().join("data"), data).expect("written");
            site.ok(&["create", "web"]);
        }
    };
    let points = site.killed_afresh(&["prune", "--keep-last", "1"], &fill, &|| {
        site.ok(&["prune", "--keep-last", "1"]);
        assert_eq!(site.json(&["list"]).as_array().map(Vec::len), Some(1));
        assert_eq!(site.json(&["verify"])["unused_packs"], 0);
        site.is_whole("prune");
    });
    assert!(points >= 10, "{points}");
}

#[test]
fn a_restore_killed_anywhere_is_cleared() {
    if !need(Need::Root) {
        return;
    }
    let site = Site::new();
    site.ok(&["create", "web"]);
    let to = site.root().join("files");
    let words = [
        "restore",
        "web",
        "--to",
        to.to_str().expect("a path of ours"),
    ];
    site.killed_everywhere(&words, |_| {
        if to.join("etc/passwd").exists() {
            std::fs::remove_dir_all(&to).expect("ours");
        }
        assert!(!to.exists(), "a half restore has its name");
    });
    site.ok(&words);
    let hidden = |entry: std::io::Result<std::fs::DirEntry>| {
        entry.is_ok_and(|e| e.file_name().to_string_lossy().contains("bulkhead-restore"))
    };
    assert!(!std::fs::read_dir(site.root()).expect("ours").any(hidden));
    site.killed_everywhere(&["restore", "web", "--guest", "copy"], |point| {
        site.bulkhead.run(&["doctor", "--fix"]);
        let report = site.bulkhead.run(&["doctor", "--format", "json"]).stdout;
        let report: serde_json::Value = serde_json::from_str(&report).expect("JSON");
        assert_eq!(report["leftovers"], serde_json::json!([]), "point {point}");
        if site.bulkhead.run(&["info", "copy"]).code == 0 {
            site.bulkhead.ok(&["start", "copy"]);
            site.bulkhead.ok(&["delete", "--force", "copy"]);
        }
    });
}

/// Nobody vouches for a repository without encryption: what comes out of it gets what a guest has.
#[test]
fn a_repository_of_a_stranger_reaches_nothing_of_the_host() {
    if !need(Need::Root) {
        return;
    }
    let (site, other) = (Site::new(), Bulkhead::new());
    let open = site.root().join("open").display().to_string();
    let told = ["--repo", &open, "--no-encryption"];
    let words = |args: &[&'static str]| [&["backup"], args, &told].concat();
    site.bulkhead
        .ok(&["backup", "init", &open, "--no-encryption"]);
    site.bulkhead.ok(&["set", "web", "mount=/etc:/mnt"]);
    site.bulkhead.ok(&["create", "h", "--template", "host"]);
    site.bulkhead.ok(&words(&["create", "web", "h"]));

    // Which of the two it is has to be said, both ways.
    let said = other.fails(&["backup", "list", "--repo", &open], 1);
    assert!(said.contains("it is not encrypted"), "{said}");
    let sealed = [
        "backup",
        "list",
        "--repo",
        &site.repository(),
        "--no-encryption",
    ];
    let said = other.fails(&sealed, 1);
    assert!(said.contains("name its key"), "{said}");

    let restore = words(&["restore", "web", "--guest", "web"]);
    let trusted = words(&["restore", "web", "--guest", "web", "--trust"]);
    let said = other.fails(&restore, 5);
    assert!(said.contains("mount") && said.contains("--trust"), "{said}");
    let seen = other.ok(&[&trusted[..], &["--dry-run"]].concat());
    assert!(seen.contains("/etc"), "{seen}");
    assert!(!other.ok(&["list"]).contains("web"));
    other.ok(&trusted);
    // Its image would show this host's folders to whoever wrote the record.
    let said = other.fails(&words(&["restore", "h", "--guest", "h"]), 1);
    assert!(said.contains("shows folders of the host"), "{said}");
    site.bulkhead.ok(&words(&["restore", "h", "--guest", "h2"]));
    let report = other.run(&["doctor", "--format", "json"]).stdout;
    let report: serde_json::Value = serde_json::from_str(&report).expect("JSON");
    assert_eq!(report["leftovers"], serde_json::json!([]));
}

#[test]
fn a_guest_is_not_left_frozen() {
    if !need(Need::Root) {
        return;
    }
    let site = Site::new();
    site.bulkhead.ok(&["start", "web"]);
    let paused = || site.bulkhead.ok(&["list"]).contains("paused");
    let mut left = 0;
    site.killed_everywhere(&["create", "web", "--freeze"], |point| {
        if paused() {
            left += 1;
            let report = site.bulkhead.run(&["doctor"]).stdout;
            assert!(report.contains("held guest"), "{report}");
            site.bulkhead.run(&["doctor", "--fix"]);
        }
        assert!(!paused(), "point {point}");
        let lives = site.bulkhead.ok(&["exec", "web", "--", "echo", "lives"]);
        assert_eq!(lives, "lives\n");
    });
    assert!(left > 0, "no point lies where the guest is frozen");
}
