//! Guests' disks that become smaller: btrfs while it is in use, ext4 when it is not, xfs never; and what
//! does not fit stays as it is. Needs: root, loop devices, mkfs of each kind.

use crate::life::{data, inside, shown};
use crate::support::{Bulkhead, Need, need, run};
use serde_json::json;

const MIB: u64 = 1 << 20;

/// A host with a pool of this filesystem and a running guest of this size in it.
fn host(filesystem: &str, size: &str) -> Bulkhead {
    let host = Bulkhead::new();
    host.ok(&[
        "pool",
        "create",
        "p",
        "--driver",
        "image",
        "--filesystem",
        filesystem,
    ]);
    let flags = [
        "--pool",
        "p",
        "--disk",
        size,
        "--network",
        "none",
        "--memory",
        "64M",
        "--start",
    ];
    host.ok(&[&["create", "w", "--template", "busybox"], &flags[..]].concat());
    host
}

/// Bytes of the one file of the pool.
fn file(host: &Bulkhead) -> u64 {
    let pool = host.root().join("var/lib/bulkhead/pools/p");
    let files = std::fs::read_dir(pool).expect("the pool").flatten();
    let sizes = files.map(|file| file.metadata().expect("a file").len());
    sizes.max().expect("a layer")
}

#[track_caller]
fn near(is: u64, megabytes: u64) {
    let wanted = megabytes * MIB;
    assert!(
        (wanted..wanted + wanted / 100).contains(&is),
        "{is} and {wanted}"
    );
}

/// Fills `/name` with megabytes that nothing compresses, and says their sum.
fn write(host: &Bulkhead, name: &str, megabytes: u32) -> String {
    inside(
        host,
        "w",
        &format!(
            "dd if=/dev/urandom of=/{name} bs=1M count={megabytes} 2>/dev/null; sync; md5sum /{name}"
        ),
    )
}

#[test]
fn btrfs_while_it_is_in_use() {
    if !need(Need::Root) || !need(Need::LoopDevice) || !need(Need::DiskTools) {
        return;
    }
    let host = host("btrfs", "600M");
    near(shown(&host, "w"), 600);
    let sum = write(&host, "kept", 100);
    host.ok(&["set", "w", "disk.size=400M"]);
    near(shown(&host, "w"), 400);
    assert!(file(&host) < 440 * MIB, "{}", file(&host));
    assert_eq!(inside(&host, "w", "md5sum /kept"), sum);
    // More again, and what does not fit.
    host.ok(&["set", "w", "disk.size=500M"]);
    near(shown(&host, "w"), 500);
    write(&host, "more", 250);
    let said = host.fails(&["set", "w", "disk.size=300M"], 1);
    assert!(said.contains("do not fit into 300 MiB"), "{said}");
    assert_eq!(
        data(&host, &["get", "w", "disk.size"])["disk.size"],
        json!("500M")
    );
    near(shown(&host, "w"), 500);
    assert_eq!(inside(&host, "w", "md5sum /kept"), sum);
    inside(&host, "w", "rm /more; sync");
    let said = host.fails(&["set", "w", "disk.size=200M"], 1);
    assert!(said.contains("does not become smaller than"), "{said}");
    near(shown(&host, "w"), 500);
    // Stopped too.
    host.ok(&["kill", "w"]);
    host.ok(&["set", "w", "disk.size=350M"]);
    host.ok(&["start", "w"]);
    near(shown(&host, "w"), 350);
    assert_eq!(inside(&host, "w", "md5sum /kept"), sum);
    host.ok(&["delete", "w", "--force"]);
    host.ok(&["pool", "delete", "p"]);
}

#[test]
fn killed_anywhere_it_can_be_done_again() {
    if !need(Need::Root) || !need(Need::LoopDevice) || !need(Need::DiskTools) {
        return;
    }
    let host = host("btrfs", "500M");
    let sum = write(&host, "kept", 50);
    for number in 0..40 {
        let mut command = host.command(&["set", "w", "disk.size=350M"]);
        command.env("BULKHEAD_FAULT", format!("command:{number}"));
        let done = run(command);
        host.ok(&["doctor", "--fix"]);
        assert_eq!(inside(&host, "w", "md5sum /kept"), sum, "{number}");
        host.ok(&["set", "w", "disk.size=350M"]);
        near(shown(&host, "w"), 350);
        host.ok(&["set", "w", "disk.size=500M"]);
        near(shown(&host, "w"), 500);
        if done.code == 0 {
            assert!(number >= 2, "{number} points");
            return;
        }
    }
    panic!("more than 40 points");
}

#[test]
fn what_is_refused_halfway_is_taken_back() {
    if !need(Need::Root) || !need(Need::LoopDevice) || !need(Need::DiskTools) {
        return;
    }
    let host = host("btrfs", "500M");
    let sum = write(&host, "kept", 50);
    for number in 0..40 {
        let mut command = host.command(&["set", "w", "disk.size=350M"]);
        command.env("BULKHEAD_FAULT", format!("command:{number}:fail"));
        let done = run(command);
        assert_eq!(inside(&host, "w", "md5sum /kept"), sum, "{number}");
        if done.code == 0 {
            assert!(number >= 3, "{number} points");
            near(shown(&host, "w"), 350);
            return;
        }
        near(shown(&host, "w"), 500);
        let now = data(&host, &["get", "w", "disk.size"])["disk.size"].clone();
        assert_eq!(now, json!("500M"), "{number}");
        assert!(file(&host) >= 500 * MIB, "{number}: {}", file(&host));
    }
    panic!("more than 40 points");
}

#[test]
fn others_say_what_they_cannot() {
    if !need(Need::Root) || !need(Need::LoopDevice) || !need(Need::DiskTools) {
        return;
    }
    let xfs = host("xfs", "400M");
    let said = xfs.fails(&["set", "w", "disk.size=350M"], 1);
    assert!(said.contains("xfs never becomes smaller"), "{said}");
    let ext4 = host("ext4", "200M");
    let said = ext4.fails(&["set", "w", "disk.size=100M"], 1);
    assert!(said.contains("stop the guest first"), "{said}");
    ext4.ok(&["kill", "w"]);
    ext4.ok(&["set", "w", "disk.size=100M"]);
    ext4.ok(&["start", "w"]);
    near(shown(&ext4, "w"), 100);
}
