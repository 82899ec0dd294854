//! A disk that is full, or that has become read-only, while guests are started, changed, stopped and
//! deleted: a clear error or the deed, and never something half done.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Need, Outcome, TestDir, eventually, need, run};
use crate::{support, traces};

const DEFINITION: &str = r#"
template = "busybox"
memory.limit = "64M"
[init]
command = ["/bin/sh", "-c", "trap 'exit 0' TERM; sleep 1000 & wait"]
stop_signal = "SIGTERM"
"#;

/// An installation on a small file system of its own.
struct Disk {
    folder: TestDir,
    root: PathBuf,
}

impl Disk {
    fn new() -> Self {
        let folder = TestDir::new();
        let (image, root) = (folder.join("image"), folder.join("disk"));
        let disk = Self { root, folder };
        shell(&format!("truncate -s 24M {}", image.display()));
        shell(&format!("mkfs.ext4 -q -F -m 0 {}", image.display()));
        std::fs::create_dir(&disk.root).expect("a folder of ours");
        shell(&format!(
            "mount -o loop {} {}",
            image.display(),
            disk.root.display()
        ));
        let file = disk.folder.write("definition.toml", DEFINITION);
        disk.ok(&["create", "a", "--from", &file.to_string_lossy()]);
        disk.ok(&["create", "b", "--from", &file.to_string_lossy()]);
        disk
    }

    fn run(&self, args: &[&str]) -> Outcome {
        let mut command = Command::new(support::program());
        command.arg("--root").arg(&self.root).args(args);
        command.env_remove("BULKHEAD_ROOT").env("NO_COLOR", "1");
        command.stdin(std::process::Stdio::null());
        run(command)
    }

    /// The same for a process that sees the disk read-only, while others still write to it.
    fn run_read_only(&self, args: &str) -> Outcome {
        let (at, program) = (self.root.display(), support::program());
        let program = program.to_string_lossy();
        let line = format!("mount -o remount,bind,ro {at} && exec {program} --root {at} {args}");
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", &line]);
        command.env_remove("BULKHEAD_ROOT").env("NO_COLOR", "1");
        run(command)
    }

    #[track_caller]
    fn ok(&self, args: &[&str]) -> String {
        let done = self.run(args);
        assert_eq!(done.code, 0, "{args:?}: {}", done.report());
        done.stdout
    }

    /// Expects a failure that names the cause.
    #[track_caller]
    fn fails(&self, args: &[&str], why: &str) {
        let done = self.run(args);
        assert_eq!(done.code, 1, "{args:?}: {}", done.report());
        assert!(done.stderr.contains(why), "{args:?}: {}", done.report());
    }

    /// Takes all there is, and what a file of a few bytes would need too.
    fn fill(&self) {
        let file = self.root.join("filler");
        shell(&format!(
            "dd if=/dev/zero of={0} bs=4k status=none || dd if=/dev/zero of={0}2 bs=512 status=none || true",
            file.display()
        ));
        let probe = std::fs::write(self.root.join("probe"), vec![1; 8192]);
        let _gone = std::fs::remove_file(self.root.join("probe"));
        assert!(probe.is_err(), "the disk is full");
    }

    fn free(&self) {
        shell(&format!(
            "rm -f {0}/filler {0}/filler2",
            self.root.display()
        ));
    }

    fn remount(&self, how: &str) {
        shell(&format!("mount -o remount,{how} {}", self.root.display()));
    }

    fn runs(&self, name: &str) -> bool {
        let text = self.ok(&["list"]);
        let line = text.lines().find(|line| line.starts_with(name));
        line.is_some_and(|line| line.contains("running"))
    }

    /// Nothing is left in the kernel but the disk itself.
    fn is_clean(&self) {
        self.ok(&["doctor", "--fix"]);
        eventually("nothing is left in the kernel", 20, || {
            let all = traces::kernel_objects(&self.root);
            all.iter()
                .all(|line| line == &format!("mount {}", self.root.display()))
        });
        assert_eq!(traces::debris(&self.root), traces::Traces::new());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let at = self.root.display();
        self.free();
        for args in [&["delete", "--all", "--force"][..], &["doctor", "--fix"]] {
            let done = self.run(args);
            if done.code != 0 {
                eprintln!("clearing up: {}", done.report());
            }
        }
        let _gone = Command::new("umount").arg(&self.root).status();
        if Path::new(&format!("{at}/lost+found")).exists() {
            let _gone = Command::new("umount")
                .args(["-l", &at.to_string()])
                .status();
        }
    }
}

#[track_caller]
fn shell(line: &str) {
    let mut command = Command::new("sh");
    command.args(["-c", line]);
    let done = run(command);
    assert_eq!(done.code, 0, "{line}: {}", done.report());
}

#[test]
fn a_full_disk_keeps_no_guest_from_ending() {
    if !need(Need::Root) || !need(Need::LoopDevice) {
        return;
    }
    let disk = Disk::new();
    disk.ok(&["start", "a"]);
    disk.fill();
    // What needs space is refused and changes nothing.
    disk.fails(&["start", "b"], "No space left");
    assert!(!disk.runs("b") && disk.runs("a"));
    disk.fails(&["set", "a", "memory.limit=32M"], "No space left");
    assert!(disk.ok(&["get", "a", "memory.limit"]).contains("64M"));
    disk.fails(&["rename", "b", "c"], "No space left");
    // Who runs goes on, can be entered, and can be ended.
    disk.ok(&["exec", "a", "true"]);
    disk.ok(&["stop", "a"]);
    assert!(!disk.runs("a"));
    disk.ok(&["delete", "--force", "b"]);
    disk.free();
    disk.ok(&["start", "a"]);
    disk.ok(&["set", "a", "memory.limit=32M"]);
    disk.fill();
    disk.ok(&["delete", "--force", "a"]);
    disk.free();
    disk.is_clean();
}

#[test]
fn a_read_only_disk_is_named_and_nothing_changes() {
    if !need(Need::Root) || !need(Need::LoopDevice) {
        return;
    }
    let disk = Disk::new();
    // Only a file system that nobody has open for writing becomes read-only: no guest runs.
    disk.remount("ro");
    for args in [
        &["start", "a"][..],
        &["set", "a", "memory.limit=32M"],
        &["rename", "a", "c"],
        &["delete", "--force", "a"],
    ] {
        disk.fails(args, "Read-only file system");
    }
    assert!(
        disk.ok(&["list"]).lines().count() == 3,
        "a, b and the heading"
    );
    disk.ok(&["info", "a"]);
    disk.remount("rw");
    // With a guest that runs, and keeps its own way to the disk open.
    disk.ok(&["start", "a"]);
    for args in ["stop a", "kill a", "delete --force a"] {
        let done = disk.run_read_only(args);
        assert_eq!(done.code, 1, "{args}: {}", done.report());
        assert!(
            done.stderr.contains("Read-only file system"),
            "{}",
            done.report()
        );
    }
    assert_eq!(disk.run_read_only("exec a true").code, 0);
    assert!(disk.runs("a"));
    disk.ok(&["stop", "a"]);
    disk.ok(&["delete", "--all", "--force"]);
    disk.is_clean();
}
