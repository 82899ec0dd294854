//! Pools and sizes: each driver keeps a guest to what it was sold, shows it, grows it, and leaves
//! nothing behind.

use std::path::Path;

use crate::life::{data, filled, inside, shown};
use crate::support;
use crate::support::{Bulkhead, Need, became, need};

const MIB: u64 = 1 << 20;

/// A stopped busybox guest with more flags.
fn made(host: &Bulkhead, name: &str, flags: &[&str]) {
    let base = ["create", name, "--template", "busybox", "--network", "none"];
    host.ok(&[&base[..], flags].concat());
}

fn close(is: u64, wanted: u64, percent: u64) {
    let off = is.abs_diff(wanted) * 100;
    assert!(off <= wanted * percent, "{is} is not {wanted}");
}

/// Loop devices of the installation.
fn loops(host: &Bulkhead) -> Vec<String> {
    let root = host.root().display().to_string();
    let devices = std::fs::read_dir("/sys/block").expect("sysfs");
    let files = devices.filter_map(|device| {
        let path = device.ok()?.path().join("loop/backing_file");
        std::fs::read_to_string(path).ok()
    });
    files.filter(|file| file.contains(&root)).collect()
}

#[track_caller]
fn nothing_left(host: &Bulkhead, pool: &str) {
    assert!(became(5, || loops(host).is_empty()), "{:?}", loops(host));
    let folder = host.root().join("var/lib/bulkhead/pools").join(pool);
    let left: Vec<_> = std::fs::read_dir(&folder).expect("the pool").collect();
    assert!(left.is_empty(), "{left:?}");
    // The process that tells neighbours of an end may still be at it.
    became(10, || host.run(&["doctor"]).code == 0);
    assert_eq!(data(host, &["doctor"])["leftovers"], serde_json::json!([]));
}

#[test]
fn a_filesystem_in_a_file_is_what_was_sold() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    host.ok(&["pool", "create", "files", "--driver", "image"]);
    for name in ["a", "b"] {
        made(
            &host,
            name,
            &["--pool", "files", "--disk", "64M", "--start"],
        );
    }
    close(shown(&host, "a"), 64 * MIB, 1);
    close(filled(&host, "a"), 64 * MIB, 5);
    // Its neighbour and a restart notice nothing.
    close(filled(&host, "b"), 64 * MIB, 5);
    host.ok(&["restart", "a"]);
    assert_eq!(inside(&host, "a", "test -s /big && echo there"), "there");
    assert_eq!(loops(&host).len(), 2);
    assert_eq!(
        data(&host, &["pool", "info", "files"])["guests"],
        serde_json::json!(["a", "b"])
    );
    let said = host.fails(&["pool", "delete", "files"], 4);
    assert!(said.contains("in use by a, b"), "{said}");
    // Stopped, it takes another size either way.
    host.ok(&["kill", "a"]);
    host.ok(&["set", "a", "disk.size=128M"]);
    host.ok(&["start", "a"]);
    close(shown(&host, "a"), 128 * MIB, 1);
    host.fails(&["set", "a", "disk.size=70M"], 1);
    assert_eq!(host.ok(&["get", "a", "disk.size"]).trim(), "128M");
    host.ok(&["exec", "a", "rm", "/big"]);
    host.ok(&["kill", "a"]);
    host.ok(&["set", "a", "disk.size=70M"]);
    host.ok(&["start", "a"]);
    close(shown(&host, "a"), 70 * MIB, 1);
    host.fails(&["set", "a", "disk.pool=default"], 5);
    host.ok(&["delete", "--force", "a", "b"]);
    nothing_left(&host, "files");
    host.ok(&["pool", "delete", "files"]);
    host.fails(&["pool", "info", "files"], 5);
}

#[test]
fn xfs_in_a_file_grows_while_it_is_in_use() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    host.ok(&[
        "pool",
        "create",
        "x",
        "--driver",
        "image",
        "--filesystem",
        "xfs",
    ]);
    made(&host, "a", &["--pool", "x", "--disk", "400M", "--start"]);
    close(shown(&host, "a"), 400 * MIB, 1);
    host.ok(&["set", "a", "disk.size=600M"]);
    close(shown(&host, "a"), 600 * MIB, 1);
    host.ok(&["delete", "--force", "a"]);
    nothing_left(&host, "x");
}

/// The records of a small btrfs have no chunks of their own, in which there would be no room any more.
#[test]
fn a_btrfs_in_a_file_can_be_filled_and_emptied() {
    if !need(Need::Root) || !need(Need::LoopDevice) || !need(Need::DiskTools) {
        return;
    }
    let host = Bulkhead::new();
    let kind = ["--driver", "image", "--filesystem", "btrfs"];
    host.ok(&[&["pool", "create", "b"][..], &kind].concat());
    made(&host, "a", &["--pool", "b", "--disk", "1G", "--start"]);
    close(shown(&host, "a"), 1024 * MIB, 1);
    for _ in 0..2 {
        let filled = inside(
            &host,
            "a",
            "dd if=/dev/zero of=/big bs=1M 2>/dev/null; stat -c %s /big; rm /big; sync",
        );
        close(filled.parse().expect("bytes"), 1024 * MIB, 3);
        assert_eq!(inside(&host, "a", "echo new >/new; cat /new"), "new");
    }
    // What was freed is the host's again, and another size is still to be had.
    host.ok(&["set", "a", "disk.size=600M"]);
    close(shown(&host, "a"), 600 * MIB, 1);
    host.ok(&["set", "a", "disk.size=1100M"]);
    close(shown(&host, "a"), 1100 * MIB, 1);
    host.ok(&["delete", "--force", "a"]);
    nothing_left(&host, "b");
}

#[test]
fn a_subvolume_is_kept_to_its_size() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    host.ok(&[
        "pool", "create", "bt", "--driver", "btrfs", "--size", "512M",
    ]);
    for name in ["a", "b"] {
        made(&host, name, &["--pool", "bt", "--disk", "32M", "--start"]);
    }
    close(filled(&host, "a"), 32 * MIB, 10);
    host.ok(&["set", "a", "disk.size=64M"]);
    close(filled(&host, "a"), 64 * MIB, 10);
    assert_eq!(inside(&host, "b", "echo x >/x && cat /x"), "x");
    host.ok(&["pool", "set", "bt", "--size", "768M"]);
    close(
        data(&host, &["pool", "info", "bt"])["size"]
            .as_u64()
            .expect("bytes"),
        768 * MIB,
        1,
    );
    // As after a boot: what is needed is mounted again.
    host.ok(&["kill", "a", "b"]);
    let folder = host.root().join("var/lib/bulkhead/pools/bt");
    rustix::mount::unmount(&folder, rustix::mount::UnmountFlags::empty()).expect("its mount");
    host.ok(&["start", "a"]);
    host.ok(&["delete", "--force", "a", "b"]);
    host.ok(&["pool", "delete", "bt"]);
    assert!(became(5, || loops(&host).is_empty()), "{:?}", loops(&host));
    assert!(!folder.exists() && !folder.with_extension("btrfs").exists());
}

#[test]
fn a_size_that_nobody_keeps_is_refused() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    let base = [
        "create",
        "a",
        "--template",
        "busybox",
        "--network",
        "none",
        "--disk",
        "64M",
    ];
    let said = host.fails(&base, 5);
    assert!(
        said.contains("--driver image") && said.contains("--sized image"),
        "{said}"
    );
    host.ok(&["pool", "set", "default", "--sized", "image"]);
    host.ok(&base);
    host.ok(&["start", "a"]);
    close(shown(&host, "a"), 64 * MIB, 1);
    // One without a size stays a folder.
    made(&host, "b", &["--start"]);
    let said = host.fails(&["set", "b", "disk.size=64M"], 5);
    assert!(said.contains("a folder has no size"), "{said}");
    host.ok(&["delete", "--force", "a", "b"]);
    for (args, code, why) in [
        (&["pool", "create", "default"][..], 5, "always there"),
        (&["pool", "create", "../x"], 2, "not a pool name"),
        (
            &["pool", "create", "x", "--driver", "btrfs"],
            5,
            "give --source",
        ),
        (
            &[
                "pool", "create", "x", "--driver", "btrfs", "--source", "/proc",
            ],
            5,
            "not on btrfs",
        ),
        (
            &["pool", "create", "x", "--source", "/nowhere/at/all"],
            5,
            "no folder",
        ),
        (&["pool", "create", "x", "--driver", "zfs"], 2, "zfs"),
        (&["pool", "delete", "default"], 0, ""),
        (&["pool", "delete", "default"], 5, "always there"),
        (&["create", "a", "--pool", "fast"], 5, "there is no pool"),
        (&["create", "a", "--disk", "5"], 5, "16M to 1024T"),
        (
            &[
                "pool",
                "create",
                "xf",
                "--driver",
                "image",
                "--filesystem",
                "xfs",
            ],
            0,
            "",
        ),
        (
            &["create", "a", "--pool", "xf", "--disk-inodes", "5000"],
            5,
            "only ext4 in a file",
        ),
    ] {
        let done = host.run(args);
        assert_eq!(done.code, code, "{args:?}: {}", done.report());
        assert!(done.stderr.contains(why), "{args:?}: {}", done.report());
    }
    assert_eq!(host.ok(&["list", "--format", "csv"]).lines().count(), 1);
    // Which filesystem is said of files that hold one.
    let pools = data(&host, &["pool", "list"]);
    assert_eq!(pools[0]["filesystem"], serde_json::Value::Null);
    assert_eq!(pools[1]["filesystem"], "xfs");
    // What was told of a pool goes with it.
    let told = host.root().join("run/bulkhead/pools");
    std::fs::create_dir_all(&told).expect("a folder");
    std::fs::write(told.join("xf.near"), "").expect("a file");
    host.ok(&["pool", "delete", "xf"]);
    assert!(!told.join("xf.near").exists());
}

/// A pool made and removed with a fault at every point; and one with something in it.
#[test]
fn a_pool_is_whole_or_named() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    let make = ["pool", "create", "p", "--driver", "btrfs", "--size", "128M"];
    let delete = ["pool", "delete", "p"];
    let folder = host.root().join("var/lib/bulkhead/pools");
    for (args, least) in [(&make[..], 5), (&delete[..], 2)] {
        for number in 0..40 {
            let mut command = host.command(args);
            command.env("BULKHEAD_FAULT", format!("command:{number}"));
            let done = support::run(command);
            host.ok(&["doctor", "--fix"]);
            assert_eq!(data(&host, &["doctor"])["leftovers"], serde_json::json!([]));
            let there = host.run(&["pool", "info", "p"]).code == 0;
            assert_eq!(folder.join("p.btrfs").exists(), there, "{args:?} {number}");
            if done.code == 0 {
                assert!(number >= least, "{args:?}: {number} points");
                break;
            }
            if there && args[1] == "create" {
                host.ok(&delete);
            } else if !there && args[1] == "delete" {
                host.ok(&make);
            }
        }
    }
    assert!(became(5, || loops(&host).is_empty()), "{:?}", loops(&host));
    host.ok(&make);
    std::fs::write(folder.join("p/mine"), "data").expect("its folder");
    let said = host.fails(&delete, 5);
    assert!(said.contains("p/mine is in it"), "{said}");
    std::fs::remove_file(folder.join("p/mine")).expect("ours");
    host.ok(&delete);
}

/// What cannot be read is nobody's leftover.
#[test]
fn a_damaged_record_costs_nobody_a_disk() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    host.ok(&["pool", "create", "files", "--driver", "image"]);
    made(&host, "a", &["--pool", "files", "--disk", "16M"]);
    host.ok(&["snapshot", "create", "a"]);
    let guest = host.root().join("var/lib/bulkhead/guests/a");
    let pool = host.root().join("var/lib/bulkhead/pools/files");
    let count = || std::fs::read_dir(&pool).expect("the pool").count();
    for record in ["root/place.json", "snapshots/s1.json"] {
        let path = guest.join(record);
        let whole = std::fs::read(&path).expect("a record");
        std::fs::write(&path, "{").expect("ours");
        let done = host.run(&["doctor", "--fix"]);
        assert_eq!(count(), 2, "{record}: {}", done.report());
        assert_ne!(host.run(&["pool", "delete", "files"]).code, 0, "{record}");
        std::fs::write(&path, whole).expect("ours");
    }
    host.ok(&["start", "a"]);
    host.ok(&["delete", "--force", "a"]);
    nothing_left(&host, "files");
}

/// A guest in a pool elsewhere, made and deleted with a fault at every point.
#[test]
fn what_is_cut_short_is_named_and_removed() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    host.ok(&["pool", "create", "files", "--driver", "image"]);
    made(&host, "first", &["--pool", "files", "--disk", "16M"]);
    host.ok(&["delete", "first"]);
    let folder = host.root().join("var/lib/bulkhead/pools/files");
    let objects = |folder: &Path| std::fs::read_dir(folder).expect("the pool").count();
    for args in [
        &[
            "create",
            "a",
            "--template",
            "busybox",
            "--network",
            "none",
            "--pool",
            "files",
            "--disk",
            "16M",
        ][..],
        &["delete", "a"],
    ] {
        for number in 0..60 {
            let mut command = host.command(args);
            command.env("BULKHEAD_FAULT", format!("command:{number}"));
            let done = support::run(command);
            host.ok(&["doctor", "--fix"]);
            let there = host.run(&["info", "a"]).code == 0;
            assert_eq!(objects(&folder), usize::from(there), "{args:?} {number}");
            if done.code == 0 {
                assert!(number > 5, "{number} points");
                break;
            }
            if args[0] == "delete" && !there {
                made(&host, "a", &["--pool", "files", "--disk", "16M"]);
            } else if args[0] == "create" && there {
                host.ok(&["delete", "a"]);
            }
        }
    }
    nothing_left(&host, "files");
}

/// A snapshot holds the filesystem of a running guest still for a moment. Killed in that moment it must
/// not leave it so, which the kernel would.
#[test]
fn a_filesystem_is_never_left_frozen() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    host.ok(&["pool", "create", "files", "--driver", "image"]);
    made(&host, "a", &["--pool", "files", "--disk", "16M", "--start"]);
    for number in 0..60 {
        let mut command = host.command(&["snapshot", "create", "a", "k"]);
        command.env("BULKHEAD_FAULT", format!("command:{number}"));
        let done = support::run(command);
        host.ok(&["doctor", "--fix"]);
        let write = "echo x >/x; sync";
        host.ok(&["exec", "a", "--", "timeout", "20", "sh", "-c", write]);
        host.run(&["snapshot", "delete", "a", "k"]);
        if done.code == 0 {
            assert!(number > 5, "{number} points");
            break;
        }
    }
    host.ok(&["kill", "a"]);
    host.ok(&["delete", "a"]);
    nothing_left(&host, "files");
}
