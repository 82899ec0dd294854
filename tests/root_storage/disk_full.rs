//! A guest that has filled its disk: it is started again, in rescue too, and what fills it can be removed.

use crate::life::{inside, made};
use crate::support::{Bulkhead, Need, became, need, run};

/// Fills what the guest may write, in bytes and in files.
pub fn fill(host: &Bulkhead, name: &str) {
    inside(
        host,
        name,
        "cat /dev/zero >/zeroes 2>/dev/null; cat /dev/urandom >/more 2>/dev/null; \
         i=0; while touch /many/$i 2>/dev/null; do i=$((i+1)); done; sync; true",
    );
}

/// A full guest in a pool `p` of this host starts with everything that a start writes, can make room, and
/// fills that again without being worse off; so does a copy of it, and so does it in rescue.
pub fn full_and_started(host: &Bulkhead, flags: &[&str]) {
    let flags = [flags, &["--network", "none", "--memory", "128M"]].concat();
    made(host, "a", &flags);
    host.ok(&["start", "a"]);
    inside(host, "a", "touch /one /two /three /four; mkdir /many");
    for hostname in ["one", "two", "three"] {
        fill(host, "a");
        host.ok(&["kill", "a"]);
        host.ok(&[
            "set",
            "a",
            &format!("hostname={hostname}-with-a-longer-name"),
        ]);
        host.ok(&["start", "a"]);
        let line = format!("cat /etc/hostname; rm /{hostname} && echo gone");
        let told = inside(host, "a", &line);
        assert_eq!(told, format!("{hostname}-with-a-longer-name\ngone"));
    }
    fill(host, "a");
    host.ok(&["kill", "a"]);
    host.ok(&["rescue", "a", "--image", "busybox"]);
    let told = inside(host, "a", "rm /mnt/guest/four && echo gone");
    assert_eq!(told, "gone");
    host.ok(&["kill", "a"]);
    host.ok(&["clone", "a", "b"]);
    host.ok(&["start", "b"]);
    assert_eq!(inside(host, "b", "rm -r /many && echo gone"), "gone");
    // No more than was sold stays open to anybody.
    let doctor = host.run(&["doctor"]).stdout;
    assert!(!doctor.contains("disk of"), "{doctor}");
    host.ok(&["delete", "--all", "--force"]);
}

/// In a pool `p` made with these flags.
fn in_pool(pool: &[&str], flags: &[&str]) {
    if !need(Need::Root) || !need(Need::LoopDevice) || !need(Need::DiskTools) {
        return;
    }
    let host = Bulkhead::new();
    host.ok(&[&["pool", "create", "p"][..], pool].concat());
    full_and_started(&host, &[&["--pool", "p"], flags].concat());
    host.ok(&["pool", "delete", "p"]);
}

#[test]
fn a_full_ext4_in_a_file_is_started() {
    in_pool(&["--driver", "image"], &["--disk", "64M"]);
}

#[test]
fn one_without_a_file_to_spare_is_started() {
    in_pool(
        &["--driver", "image"],
        &["--disk", "64M", "--disk-inodes", "1000"],
    );
}

#[test]
fn a_full_xfs_in_a_file_is_started() {
    in_pool(
        &["--driver", "image", "--filesystem", "xfs"],
        &["--disk", "300M"],
    );
}

#[test]
fn a_full_btrfs_in_a_file_is_started() {
    in_pool(
        &["--driver", "image", "--filesystem", "btrfs"],
        &["--disk", "200M"],
    );
}

#[test]
fn a_full_subvolume_is_started_and_can_be_made_larger() {
    in_pool(&["--driver", "btrfs", "--size", "512M"], &["--disk", "64M"]);
    if !need(Need::Root) || !need(Need::LoopDevice) || !need(Need::DiskTools) {
        return;
    }
    let host = Bulkhead::new();
    host.ok(&["pool", "create", "p", "--driver", "btrfs", "--size", "512M"]);
    made(
        &host,
        "a",
        &["--pool", "p", "--disk", "64M", "--network", "none"],
    );
    host.ok(&["start", "a"]);
    inside(&host, "a", "mkdir /many");
    fill(&host, "a");
    host.ok(&["set", "a", "disk.size=80M"]);
    assert_eq!(inside(&host, "a", "echo y >/mine; cat /mine"), "y");
    // What a whole pool lacks nobody can lend.
    host.ok(&["set", "a", "disk.size=2G"]);
    fill(&host, "a");
    host.ok(&["kill", "a"]);
    let said = host.fails(&["start", "a"], 1);
    assert!(
        said.contains("is full") && said.contains("bulkhead pool list"),
        "{said}"
    );
    host.ok(&["pool", "set", "p", "--size", "1G"]);
    host.ok(&["start", "a"]);
    host.ok(&["delete", "--force", "a"]);
    host.ok(&["pool", "delete", "p"]);
}

#[test]
fn a_quota_that_a_killed_start_left_wider_is_named_and_set_back() {
    if !need(Need::Root) || !need(Need::LoopDevice) || !need(Need::DiskTools) {
        return;
    }
    let host = Bulkhead::new();
    host.ok(&["pool", "create", "p", "--driver", "btrfs", "--size", "512M"]);
    let flags = ["--pool", "p", "--disk", "64M", "--network", "none"];
    made(&host, "a", &flags);
    let wider = || host.run(&["doctor"]).stdout.contains("disk of a");
    let mut named = 0;
    // Steps of the launch: its command is killed while it lends the room.
    for number in 0..100 {
        let mut command = host.command(&["start", "a"]);
        command.env("BULKHEAD_FAULT", format!("host:{number}"));
        let started = run(command).code == 0;
        named += usize::from(wider());
        // Whether it came to run or not, the next start leaves it as it was sold.
        host.run(&["kill", "a"]);
        let again = became(10, || host.run(&["start", "a"]).code == 0);
        assert!(again && !wider(), "{number}");
        host.ok(&["kill", "a"]);
        if started {
            break;
        }
        assert!(number < 99, "more than 100 steps");
    }
    assert!(named >= 1, "no step lay between");
    host.ok(&["delete", "--force", "a"]);
    host.ok(&["pool", "delete", "p"]);
}
