//! Commands that are killed, or fail, between any two steps: nothing is left that the next command
//! or `doctor --fix` does not clear. The points are those of `src/kernel/fault.rs`; how many there
//! are is told by the plan, or found by going on until none is left.

mod support;
mod traces;

use std::path::Path;

use support::{Bulkhead, Need, Outcome, eventually, need, run};
use traces::Traces;

/// An installation with one guest that has been started and ended, and what that left.
struct Site {
    bulkhead: Bulkhead,
    clean: Traces,
}

impl Site {
    fn new(definition: &[&str]) -> Self {
        let bulkhead = Bulkhead::new();
        bulkhead.ok(&[&["create", "a", "--template", "busybox"], definition].concat());
        bulkhead.ok(&["start", "a"]);
        bulkhead.ok(&["kill", "a"]);
        let site = Self {
            clean: Traces::new(),
            bulkhead,
        };
        site.settle();
        let clean = traces::of(site.root());
        Self { clean, ..site }
    }

    fn root(&self) -> &Path {
        self.bulkhead.root()
    }

    /// Runs a command with a fault.
    fn faulty(&self, fault: &str, args: &[&str]) -> Outcome {
        let mut command = self.bulkhead.command(args);
        command.env("BULKHEAD_FAULT", fault);
        run(command)
    }

    /// Waits until no process of the installation is left: one that lost its parent ends by itself.
    /// An interface goes a moment after its namespace.
    fn settle(&self) {
        eventually("no process is left", 20, || {
            traces::processes(self.root()).is_empty()
        });
        eventually("no guest's interface is left", 20, || {
            traces::interfaces(self.root()).len() <= 1
        });
    }

    /// A launch that is killed in its last step may have let the guest go on already: then it runs,
    /// and the next command finds it so.
    fn end_if_it_runs(&self) {
        let launching = || {
            let all = traces::processes(self.root());
            all.iter().any(|line| line.contains(" start a"))
        };
        eventually("the launch has ended", 20, || !launching());
        if self.bulkhead.ok(&["list"]).contains("running") {
            self.bulkhead.ok(&["kill", "a"]);
        }
    }

    fn left(&self) -> Vec<String> {
        traces::new(&self.clean, &traces::of(self.root()))
    }

    #[track_caller]
    fn is_clean(&self, what: &str) {
        self.settle();
        assert_eq!(self.left(), [] as [String; 0], "left by {what}");
    }

    /// What `doctor` names; with `fix`, all of it must be removed.
    #[track_caller]
    fn doctor(&self, fix: bool) -> Vec<serde_json::Value> {
        let args: &[&str] = if fix {
            &["doctor", "--fix"]
        } else {
            &["doctor"]
        };
        let done = self.bulkhead.run(&[args, &["--format", "json"]].concat());
        let report: serde_json::Value =
            serde_json::from_str(&done.stdout).unwrap_or_else(|e| panic!("{e}: {}", done.report()));
        let named = report["leftovers"].as_array().expect("a list").clone();
        let kept = |one: &&serde_json::Value| one["removed"] != fix;
        assert_eq!(named.iter().find(kept), None, "doctor {fix}");
        named
    }

    /// After a command was killed: `doctor` names what is left and changes nothing, then clears it.
    #[track_caller]
    fn cleared(&self, what: &str) {
        self.settle();
        let left = self.left();
        let named = self.doctor(false);
        assert_eq!(self.left(), left, "doctor changed something after {what}");
        assert!(
            left.is_empty() || !named.is_empty(),
            "{what}: doctor is blind to {left:#?}"
        );
        assert_eq!(self.doctor(true), named_removed(named), "{what}");
        assert_eq!(self.doctor(false), [] as [serde_json::Value; 0], "{what}");
        self.is_clean(&format!("doctor --fix after {what}"));
    }

    #[track_caller]
    fn starts(&self, what: &str) {
        let done = self.bulkhead.run(&["start", "a"]);
        assert_eq!(done.code, 0, "start after {what}: {}", done.report());
        self.bulkhead.ok(&["exec", "a", "true"]);
        self.bulkhead.ok(&["kill", "a"]);
        self.is_clean(&format!("start and kill after {what}"));
    }

    /// Number of steps that the plan has for a process.
    fn steps(&self, process: &str) -> usize {
        let plan = self.bulkhead.ok(&["plan", "a", "--format", "json"]);
        let plan: serde_json::Value = serde_json::from_str(&plan).expect("JSON");
        plan["plan"][process].as_array().expect("a list").len()
    }

    /// Every step of one process of a launch.
    fn every_step(&self, process: &str) {
        let steps = self.steps(process);
        assert!(steps >= 5, "{process}: {steps} steps");
        for number in 0..steps {
            let point = format!("{process}:{number}");
            // The command lives and tidies up by itself.
            for fault in [point.clone(), format!("{point}:fail")] {
                let failed = self.faulty(&fault, &["start", "a"]);
                assert_eq!(failed.code, 1, "{fault}: {}", failed.report());
                assert!(
                    failed.stderr.contains("cannot start guest a"),
                    "{}",
                    failed.stderr
                );
                self.is_clean(&fault);
            }
            // The command is killed too.
            let fault = format!("command:0,{point}");
            assert_eq!(self.faulty(&fault, &["start", "a"]).code, -1, "{fault}");
            self.end_if_it_runs();
            self.cleared(&fault);
            assert_eq!(self.faulty(&fault, &["start", "a"]).code, -1, "{fault}");
            self.end_if_it_runs();
            self.settle();
            self.starts(&fault);
        }
        let beyond = format!("{process}:{steps}");
        assert_eq!(
            self.faulty(&beyond, &["start", "a"]).code,
            0,
            "no step {beyond}"
        );
        self.bulkhead.ok(&["kill", "a"]);
    }
}

fn named_removed(mut named: Vec<serde_json::Value>) -> Vec<serde_json::Value> {
    for one in &mut named {
        one["removed"] = true.into();
    }
    named
}

/// A definition with a step of every kind.
const RICH: &[&str] = &[
    "--mount",
    "/usr/share:/mnt/share:ro",
    "--tmpfs",
    "/mnt/tmp:1M",
];

#[test]
fn every_step_of_the_launching_process() {
    if need(Need::Root) {
        Site::new(RICH).every_step("host");
    }
}

#[test]
fn every_step_of_the_stage() {
    if need(Need::Root) {
        Site::new(RICH).every_step("stage");
    }
}

#[test]
fn every_step_of_init() {
    if need(Need::Root) {
        Site::new(RICH).every_step("init");
    }
}
