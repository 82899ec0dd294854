//! The OCI runtime killed, or refused, between any two steps of any command: after it was killed one
//! `delete --force` clears everything, and what fails leaves nothing by itself. The points are those
//! of `src/kernel/fault.rs`; how many there are is found by going on until none is met.
//!
//! Guests' commands are in `root_guest/fault.rs`.

use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use crate::bundle::{Bundle, Site, quiet, ready};
use crate::support;
use crate::support::{Outcome, run};
use serde_json::json;

/// More points than any command has.
const MANY: usize = 150;

/// A site with one bundle in it.
struct Stage {
    site: Site,
    bundle: Bundle,
    socket: Option<PathBuf>,
}

impl Stage {
    fn plain() -> Self {
        let site = Site::new();
        let mut bundle = site.bundle("c", "exec sleep 1000");
        // A folder above the container's own, which goes with it.
        let path = format!("{}/pod/c", site.marks().cgroup());
        bundle.config["linux"]["cgroupsPath"] = json!(path);
        bundle.write();
        let socket = None;
        Self {
            site,
            bundle,
            socket,
        }
    }

    /// With a user namespace, a filter, hooks and a terminal.
    fn rich() -> Self {
        let mut stage = Self::plain();
        let hook = json!([{"path": "/bin/true"}]);
        stage.bundle.config["hooks"] = json!({"createRuntime": hook, "createContainer": hook,
            "startContainer": hook, "poststart": hook, "poststop": hook});
        stage.bundle.config["process"]["terminal"] = json!(true);
        stage.bundle.config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}]});
        stage.bundle.with_ids();
        let socket = stage.site.path("console");
        let listener = UnixListener::bind(&socket).unwrap();
        // Whoever gets a console has to keep it.
        std::thread::spawn(move || {
            let mut kept = Vec::new();
            listener.incoming().for_each(|console| kept.push(console));
        });
        stage.socket = Some(socket);
        stage
    }

    /// A command that makes the container, or fails at `fault`.
    fn make(&self, verb: &[&str], fault: &str) -> Outcome {
        let folder = self.bundle.folder.to_string_lossy().into_owned();
        let socket = self
            .socket
            .as_ref()
            .map(|s| s.to_string_lossy().into_owned());
        let mut args = verb.to_vec();
        args.extend(["-b", &folder]);
        args.extend(socket.iter().flat_map(|s| ["--console-socket", s]));
        args.push("c");
        self.quietly(fault, &args)
    }

    fn quietly(&self, fault: &str, args: &[&str]) -> Outcome {
        let mut command = self.site.command(args);
        command.env("BULKHEAD_FAULT", fault);
        quiet(command)
    }

    fn faulty(&self, fault: &str, args: &[&str]) -> Outcome {
        let mut command = self.site.command(args);
        command.env("BULKHEAD_FAULT", fault);
        run(command)
    }

    /// A running container, whatever it takes.
    fn running(&self) {
        let made = self.make(&["create"], "");
        assert_eq!(made.code, 0, "{}", made.report());
        self.site.ok(&["start", "c"]);
    }

    /// Every point of one process in making a container.
    fn every_point_of_making(&self, verb: &[&str], process: &str, least: usize) {
        for act in ["", ":fail"] {
            let mut met = 0;
            for number in 0..MANY {
                let fault = format!("{process}:{number}{act}");
                let done = self.make(verb, &fault);
                if done.code != 0 {
                    if !act.is_empty() || process != "host" && process != "command" {
                        // The command lives and tidies up by itself.
                        assert_eq!(done.code, 1, "{fault}: {}", done.report());
                        assert_eq!(self.site.names(), [""; 0], "{verb:?} {fault}");
                    }
                    self.site.is_clean(&format!("{verb:?} {fault}"));
                    met += 1;
                    continue;
                }
                // In its last steps the container is alone already.
                let started = self.site.run(&["start", "c"]);
                let came_up = verb[0] == "run" || started.code == 0;
                self.site.is_clean(&format!("{verb:?} {fault}"));
                if came_up {
                    break;
                }
                met += 1;
            }
            assert!((least..MANY).contains(&met), "{process}{act}: {met} points");
        }
    }

    /// Every point of a command on a running container; whether it was met is told by its code.
    fn every_point(&self, args: &[&str], process: &str, least: usize, after: impl Fn(&str)) {
        for act in ["", ":fail"] {
            let mut met = 0;
            for number in 0..MANY {
                let fault = format!("{process}:{number}{act}");
                let done = self.faulty(&fault, args);
                after(&format!("{args:?} {fault}"));
                if done.code == 0 {
                    break;
                }
                met += 1;
            }
            assert!(
                (least..MANY).contains(&met),
                "{args:?} {process}{act}: {met} points"
            );
        }
    }
}

#[test]
fn every_point_of_create() {
    if !ready() {
        return;
    }
    let stage = Stage::plain();
    for (process, least) in [("host", 7), ("init", 10), ("command", 8)] {
        stage.every_point_of_making(&["create"], process, least);
    }
}

#[test]
fn every_point_of_a_rich_create() {
    if !ready() {
        return;
    }
    let stage = Stage::rich();
    for (process, least) in [("host", 10), ("stage", 4), ("init", 15), ("command", 8)] {
        stage.every_point_of_making(&["create"], process, least);
    }
}

#[test]
fn every_point_of_run() {
    if !ready() {
        return;
    }
    let stage = Stage::plain();
    for (process, least) in [("host", 7), ("init", 10), ("command", 8)] {
        stage.every_point_of_making(&["run", "-d"], process, least);
    }
}

#[test]
fn every_point_of_a_rich_run() {
    if !ready() {
        return;
    }
    let stage = Stage::rich();
    for (process, least) in [("host", 10), ("stage", 4), ("init", 15), ("command", 8)] {
        stage.every_point_of_making(&["run", "-d"], process, least);
    }
}

/// What is killed while it enters leaves the container as it was.
#[test]
fn every_point_of_exec() {
    if !ready() {
        return;
    }
    for stage in [Stage::plain(), Stage::rich()] {
        stage.running();
        let alone = |what: &str| {
            let one = || {
                let all = stage.site.ok(&["ps", "-f", "json", "c"]);
                all.trim().split(',').count() == 1
            };
            support::eventually(
                &format!("only the first process is left after {what}"),
                10,
                one,
            );
        };
        for (process, least) in [("host", 4), ("init", 8)] {
            stage.every_point(&["exec", "c", "true"], process, least, alone);
        }
        assert!(stage.site.ok(&["state", "c"]).contains("\"running\""));
        stage.site.is_clean("exec");
    }
}

#[test]
fn every_point_of_start_kill_and_delete() {
    if !ready() {
        return;
    }
    for stage in [Stage::plain(), Stage::rich()] {
        let site = &stage.site;
        // One that is killed at the word to start may have said it.
        let again = |what: &str| {
            site.is_clean(what);
            let made = stage.make(&["create"], "");
            assert_eq!(made.code, 0, "{}", made.report());
        };
        again("nothing");
        stage.every_point(&["start", "c"], "command", 2, again);
        let running = |what: &str| {
            site.is_clean(what);
            stage.running();
        };
        running("start");
        stage.every_point(&["kill", "c", "KILL"], "command", 1, running);
        stage.every_point(&["delete", "-f", "c"], "command", 5, running);
        let stopped = |what: &str| {
            running(what);
            site.ok(&["kill", "c", "KILL"]);
            support::eventually("it has ended", 10, || {
                site.ok(&["state", "c"]).contains("\"stopped\"")
            });
        };
        stopped("delete");
        stage.every_point(&["delete", "c"], "command", 5, stopped);
        site.is_clean("all of it");
    }
}

/// A container that was to have another's control groups and was cut short: the other lives on.
#[test]
fn who_was_there_first_is_not_taken_away() {
    if !ready() {
        return;
    }
    let stage = Stage::plain();
    stage.running();
    let site = &stage.site;
    let folder = stage.bundle.folder.to_string_lossy().into_owned();
    for point in 0..12 {
        let fault = format!("host:{point}");
        let made = stage.quietly(&fault, &["create", "-b", &folder, "d"]);
        assert_ne!(made.code, 0, "{fault}: {}", made.report());
        site.ok(&["delete", "-f", "d"]);
        assert!(site.ok(&["state", "c"]).contains("\"running\""), "{fault}");
        site.ok(&["exec", "c", "true"]);
    }
    let made = site.create(&stage.bundle, "d");
    assert!(
        made.stderr.contains("processes are in it"),
        "{}",
        made.report()
    );
    site.is_clean("two with the same groups");
}
