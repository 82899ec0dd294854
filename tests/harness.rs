//! Shows that what `tests/support` promises to other tests holds: skips are seen, folders go, also
//! those of killed tests, and never through a mount. Needs no privilege but where it says so.

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use support::{Bulkhead, Need, TestDir, need, run};

/// A shell command, as one that a test would run.
fn shell(line: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", line]);
    command
}

#[test]
fn a_command_is_told_by_status_and_both_outputs() {
    let outcome = run(shell("echo out; echo err >&2; exit 7"));
    assert_eq!((outcome.code, outcome.stdout.as_str()), (7, "out\n"));
    assert_eq!(outcome.stderr, "err\n");
    assert_eq!(run(shell("kill -9 $$")).code, -1);
}

#[test]
fn output_held_by_a_leftover_is_a_failure() {
    let held = std::panic::catch_unwind(|| run(shell("sleep 5 & exit 0")));
    let why = *held
        .expect_err("the sleep holds the output")
        .downcast::<String>()
        .expect("text");
    assert!(why.contains("holds its output"), "{why}");
}

#[test]
fn a_folder_goes_with_what_is_in_it() {
    let folder = TestDir::new();
    let other = TestDir::new();
    assert_ne!(folder.path(), other.path());
    folder.write("file", "text");
    let path = folder.path().to_owned();
    drop(folder);
    assert!(!path.exists() && other.path().exists());
}

#[test]
fn a_skip_is_printed_and_logged() {
    if std::env::var_os("BULKHEAD_HARNESS_SKIPS").is_some() {
        assert!(!need(Need::DebianImage));
        return;
    }
    let folder = TestDir::new();
    let log = folder.write("log", "SKIP earlier::test: root\n");
    let mut again = Command::new(std::env::current_exe().expect("this program"));
    again.args(["--exact", "--nocapture", "a_skip_is_printed_and_logged"]);
    again
        .env("BULKHEAD_HARNESS_SKIPS", "1")
        .env("BULKHEAD_SKIP_LOG", &log);
    again.env_remove("BULKHEAD_DEBIAN_IMAGE");
    let outcome = run(again);
    let line = "SKIP harness::a_skip_is_printed_and_logged: debian-image\n";
    assert!(outcome.stdout.contains(line), "{}", outcome.report());
    let logged = std::fs::read_to_string(&log).expect("the log");
    assert_eq!(logged, format!("SKIP earlier::test: root\n{line}"));
}

#[test]
fn what_a_killed_test_left_is_swept() {
    let gone = run(shell("echo $$")).stdout;
    let left = PathBuf::from(format!("/var/tmp/bulkhead-test-{}-0", gone.trim()));
    std::fs::create_dir_all(left.join("guests/web")).expect("/var/tmp is writable");
    // The sweep is once in a process, and another process may be at it: ask a few.
    support::eventually("a dead test's folder is gone", 60, || {
        let mut again = Command::new(std::env::current_exe().expect("this program"));
        again.args(["--exact", "a_folder_goes_with_what_is_in_it"]);
        run(again).code == 0 && !left.exists()
    });
}

#[test]
fn nothing_is_removed_through_a_mount() {
    if !need(Need::Root) {
        return;
    }
    let outside = TestDir::new();
    let precious = outside.write("precious", "text");
    let folder = TestDir::new();
    std::fs::create_dir(folder.join("bind")).expect("a folder of ours");
    let line = format!(
        "mount --bind {0:?} {1:?}/bind",
        outside.path(),
        folder.path()
    );
    assert_eq!(run(shell(&line)).code, 0);
    assert!(folder.join("bind/precious").exists());
    let path = folder.path().to_owned();
    drop(folder);
    assert!(!path.exists() && precious.exists());
}

#[test]
fn the_program_works_in_its_own_folder() {
    let bulkhead = Bulkhead::new();
    let command = bulkhead.command(&["list"]);
    let args: Vec<_> = command
        .get_args()
        .map(|a| a.to_string_lossy().into_owned())
        .collect();
    assert_eq!(
        args,
        ["--root", &*bulkhead.root().to_string_lossy(), "list"]
    );
    assert!(Path::new(&support::program()).exists());
}
