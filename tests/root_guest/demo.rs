//! The demonstration (`make run`) ended at several moments: by Ctrl-C or SIGTERM it takes away all
//! it made, and after SIGKILL the next one or `doctor --fix` does.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::support::{Bulkhead, Need, eventually, need, run};
use crate::{support, traces};

/// What it says at the moments at which it is ended, in every run; before the part that needs a
/// Debian mirror.
const MOMENTS: [&str; 4] = [
    "this machine:",
    "guest cpu25",
    "guest neighbour",
    "guest bomb",
];

/// Starts the demonstration and sends it a signal when it has said this. Returns how it ended.
fn end_at(bulkhead: &Bulkhead, moment: &str, signal: &str) -> Option<i32> {
    let mut command = bulkhead.command(&["demo"]);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child: Child = command.spawn().expect("the program");
    let mut said = BufReader::new(child.stderr.take().expect("piped")).lines();
    let heard = said
        .by_ref()
        .any(|line| line.is_ok_and(|line| line.contains(moment)));
    assert!(heard, "it never said {moment:?}");
    let mut kill = Command::new("kill");
    kill.args(["-s", signal, &child.id().to_string()]);
    assert_eq!(run(kill).code, 0);
    // It goes on talking, and must not be kept waiting.
    for _line in said {}
    child.wait().expect("a child of ours").code()
}

/// Where the demonstration has its installation.
fn home(bulkhead: &Bulkhead) -> PathBuf {
    bulkhead.root().join("var/cache/bulkhead/demo")
}

#[track_caller]
fn nothing_is_left(bulkhead: &Bulkhead, what: &str) {
    let home = home(bulkhead);
    eventually(what, 20, || traces::kernel_objects(&home).is_empty());
    assert_eq!(traces::debris(&home), traces::Traces::new(), "{what}");
    let guests = std::fs::read_dir(home.join("var/lib/bulkhead/guests"));
    assert_eq!(guests.map_or(0, Iterator::count), 0, "{what}");
}

#[test]
fn a_demonstration_that_is_asked_to_end_leaves_nothing() {
    if !need(Need::Root) {
        return;
    }
    let bulkhead = Bulkhead::new();
    for (number, moment) in MOMENTS.into_iter().enumerate() {
        let (signal, code) = if number % 2 == 0 {
            ("INT", 130)
        } else {
            ("TERM", 143)
        };
        assert_eq!(
            end_at(&bulkhead, moment, signal),
            Some(code),
            "{moment} {signal}"
        );
        nothing_is_left(&bulkhead, &format!("{signal} at {moment:?}"));
    }
}

#[test]
fn a_demonstration_that_is_killed_is_cleared_by_the_next() {
    if !need(Need::Root) {
        return;
    }
    let bulkhead = Bulkhead::new();
    let home = home(&bulkhead);
    for (number, moment) in MOMENTS.into_iter().enumerate() {
        assert_eq!(end_at(&bulkhead, moment, "KILL"), None, "{moment}");
        if number % 2 == 0 {
            let again = end_at(&bulkhead, MOMENTS[0], "INT");
            assert_eq!(again, Some(130));
        } else {
            let root = home.to_string_lossy();
            for args in [&["delete", "--all", "--force"][..], &["doctor", "--fix"]] {
                let mut command = Command::new(support::program());
                command.args(["--root", &root]).args(args);
                command.stdin(Stdio::null());
                let done = run(command);
                assert_eq!(done.code, 0, "{args:?} after {moment}: {}", done.report());
            }
        }
        nothing_is_left(&bulkhead, &format!("KILL at {moment:?}"));
    }
}
