//! Project quotas: where the filesystem has them, a guest whose layer is a folder is kept to what it
//! was sold, sees it, and takes nothing from its neighbours.

use std::path::PathBuf;
use std::process::Command;

use crate::disk_full::full_and_started;
use crate::life::{data, filled, inside, shown};
use crate::support::{Bulkhead, Need, TestDir, became, need};

const MIB: u64 = 1 << 20;

/// The state folder of an installation, on a filesystem of its own with project quotas.
struct Disk<'a> {
    host: &'a Bulkhead,
    at: PathBuf,
    _file: TestDir,
}

impl<'a> Disk<'a> {
    fn new(host: &'a Bulkhead, make: &str) -> Self {
        let file = TestDir::new();
        let at = host.root().join("var/lib/bulkhead");
        let image = file.join("image");
        shell(&format!(
            "truncate -s 600M {0} && {make} {0} && mkdir -p {1} && mount -o loop,prjquota {0} {1}",
            image.display(),
            at.display()
        ));
        Self {
            host,
            at,
            _file: file,
        }
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        self.host.run(&["delete", "--all", "--force"]);
        self.host.run(&["doctor", "--fix"]);
        let gone = || {
            let done = Command::new("umount").arg(&self.at).status();
            done.is_ok_and(|status| status.success())
        };
        let gone = became(20, gone);
        assert!(gone || std::thread::panicking(), "the disk is in use");
    }
}

fn shell(line: &str) {
    let done = Command::new("sh").args(["-c", line]).status();
    assert!(done.expect("a shell").success(), "{line}");
}

fn made(host: &Bulkhead, name: &str, flags: &[&str]) {
    let base = ["create", name, "--template", "busybox", "--network", "none"];
    host.ok(&[&base[..], flags, &["--start"]].concat());
}

fn close(is: u64, wanted: u64) {
    assert!(
        is.abs_diff(wanted) * 100 <= wanted * 3,
        "{is} is not {wanted}"
    );
}

fn a_folder_is_what_was_sold(make: &str) {
    if !need(Need::Root) || !need(Need::ProjectQuota) {
        return;
    }
    let host = &Bulkhead::new();
    let disk = Disk::new(host, make);
    made(host, "a", &["--disk", "16M", "--disk-inodes", "1000"]);
    made(host, "b", &["--disk", "16M"]);
    made(host, "free", &[]);
    for name in ["a", "b"] {
        close(shown(host, name), 16 * MIB);
        close(filled(host, name), 16 * MIB);
    }
    assert!(shown(host, "free") > 400 * MIB);
    assert_eq!(inside(host, "free", "echo x >/x && cat /x"), "x");
    shown_as_limits(host);
    // More and less while it runs; what is taken is kept.
    host.ok(&["set", "a", "disk.size=24M"]);
    close(shown(host, "a"), 24 * MIB);
    close(filled(host, "a"), 24 * MIB);
    differs_by_hand(host);
    host.ok(&["set", "free", "disk.size=16M"]);
    close(filled(host, "free"), 16 * MIB);
    inside(host, "a", "rm /big");
    let files = "i=0; while true >/f$i; do i=$((i+1)); done 2>/dev/null; ls / | grep -c '^f[0-9]'";
    let files: u64 = inside(host, "a", files).parse().expect("a number");
    assert!((800..=1000).contains(&files), "{files}");
    inside(host, "a", "rm /f*");
    // Its root may not take it out of its project.
    let out = inside(
        host,
        "b",
        "chattr -p 0 / 2>&1 || chattr -P / 2>&1 || echo refused",
    );
    assert!(out.contains("refused"), "{out}");
    kept_over_snapshots(host);
    host.ok(&["delete", "--force", "a", "b", "free"]);
    let clean = || host.run(&["doctor"]).code == 0;
    became(10, clean);
    assert_eq!(data(host, &["doctor"])["leftovers"], serde_json::json!([]));
    drop(disk);
}

/// What `limits` says of two whose disks are full, of which one has a number of files too.
fn shown_as_limits(host: &Bulkhead) {
    let rows = data(host, &["limits", "--all"]);
    let row = |name: &str, resource: &str| {
        let all = rows.as_array().expect("rows").iter();
        let found = all
            .filter(|row| row["guest"] == name && row["resource"] == resource)
            .map(|row| [&row["held"], &row["limit"]].map(|n| n.as_u64().expect("a number")));
        found.collect::<Vec<_>>()
    };
    for name in ["a", "b"] {
        let [[held, limit]] = row(name, "disk")[..] else {
            panic!("{rows}");
        };
        assert_eq!(limit, 16 * MIB);
        close(held, limit);
    }
    let [[held, limit]] = row("a", "files")[..] else {
        panic!("{rows}");
    };
    assert!(limit == 1000 && (1..100).contains(&held), "{held} {limit}");
    assert!(row("b", "files").is_empty() && row("free", "disk").is_empty());
}

/// `doctor` names a disk that is not what its definition says, and no other.
fn differs_by_hand(host: &Bulkhead) {
    let told = || {
        let said = host.run(&["doctor"]).stdout;
        let lines = said.lines().filter(|line| line.contains("disk of "));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(told(), [""; 0]);
    let path = host.root().join("var/lib/bulkhead/guests/a/guest.toml");
    let text = std::fs::read_to_string(&path).expect("a definition");
    std::fs::write(&path, text.replace("24M", "20M")).expect("a definition");
    let said = told();
    assert!(
        said.len() == 1 && said[0].contains("kept to 24M, sold is 20M"),
        "{said:?}"
    );
    host.ok(&["set", "a", "disk.size=24M"]);
    assert_eq!(told(), [""; 0]);
}

/// A layer that is set aside counts as long as it is there; what is begun anew has the same limit.
fn kept_over_snapshots(host: &Bulkhead) {
    host.ok(&["stop", "a", "b"]);
    host.ok(&["snapshot", "create", "b", "full"]);
    host.ok(&["start", "b"]);
    close(shown(host, "b"), 16 * MIB);
    let more = inside(
        host,
        "b",
        "dd if=/dev/zero of=/more bs=64k 2>/dev/null; stat -c %s /more 2>/dev/null || echo 0",
    );
    assert!(more.parse::<u64>().expect("a number") < MIB, "{more}");
    host.ok(&["stop", "b"]);
    host.ok(&["snapshot", "restore", "b", "full"]);
    host.ok(&["clone", "b", "c", "--start"]);
    close(shown(host, "c"), 16 * MIB);
    let new = inside(
        host,
        "c",
        "dd if=/dev/zero of=/more bs=64k 2>/dev/null; stat -c %s /more",
    );
    close(new.parse().expect("a number"), 16 * MIB);
    host.ok(&["delete", "--force", "c"]);
}

#[test]
fn a_folder_on_ext4_is_what_was_sold() {
    a_folder_is_what_was_sold("mkfs.ext4 -q -F -m 0 -O quota,project -E quotatype=prjquota");
}

#[test]
fn a_folder_on_xfs_is_what_was_sold() {
    a_folder_is_what_was_sold("mkfs.xfs -q -f");
}

#[test]
fn a_full_folder_is_started() {
    for make in [
        "mkfs.ext4 -q -F -m 0 -O quota,project -E quotatype=prjquota",
        "mkfs.xfs -q -f",
    ] {
        if !need(Need::Root) || !need(Need::ProjectQuota) {
            return;
        }
        let host = Bulkhead::new();
        let _disk = Disk::new(&host, make);
        full_and_started(&host, &["--disk", "32M", "--disk-inodes", "1000"]);
    }
}
