//! Commands that are killed, or fail, between any two steps: nothing is left that the next command
//! or `doctor --fix` does not clear. The points are those of `src/kernel/fault.rs`; how many there
//! are is told by the plan, or found by going on until none is left.

use std::path::Path;

use crate::support::{Bulkhead, Need, Outcome, became, eventually, need, run};
use crate::traces;
use crate::traces::Traces;

/// An installation with one guest that has been started and ended, and what that left.
struct Site {
    bulkhead: Bulkhead,
    clean: Traces,
}

impl Site {
    fn new(definition: &[&str]) -> Self {
        let bulkhead = Bulkhead::new();
        bulkhead.ok(&[&["create", "a", "--template", "busybox"], definition].concat());
        Self::with(bulkhead)
    }

    /// A guest whose init ends as soon as it is asked to.
    fn obedient() -> Self {
        let bulkhead = Bulkhead::new();
        let file = bulkhead.root().join("a.toml");
        std::fs::write(&file, OBEDIENT).expect("a folder of ours");
        bulkhead.ok(&["create", "a", "--from", &file.to_string_lossy()]);
        Self::with(bulkhead)
    }

    /// The same two on a network with IPv6, whose prefix no other test has.
    fn with_ipv6(definition: &str) -> Self {
        let bulkhead = Bulkhead::new();
        let prefix = format!(
            "fd42:{:x}:{}::/64",
            std::process::id() & 0xffff,
            definition.len()
        );
        let etc = bulkhead.root().join("etc/bulkhead");
        std::fs::create_dir_all(&etc).expect("a folder of ours");
        let text = format!("[network]\nprefix6 = {prefix:?}\n");
        std::fs::write(etc.join("bulkhead.toml"), text).expect("a folder of ours");
        let file = bulkhead.root().join("a.toml");
        std::fs::write(&file, definition).expect("a folder of ours");
        bulkhead.ok(&["create", "a", "--from", &file.to_string_lossy()]);
        let site = Self::with(bulkhead);
        let info = site.bulkhead.ok(&["info", "a"]);
        assert!(info.contains("fd42:"), "it has IPv6: {info}");
        site
    }

    fn with(bulkhead: Bulkhead) -> Self {
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

    fn exists(&self, name: &str) -> bool {
        self.bulkhead.run(&["info", name]).code == 0
    }

    fn runs(&self, name: &str) -> bool {
        let info = self
            .bulkhead
            .run(&["info", name, "--format", "json"])
            .stdout;
        info.contains("\"running\"")
    }

    fn address(&self, name: &str) -> String {
        let info = self.bulkhead.ok(&["info", name, "--format", "json"]);
        let info: serde_json::Value = serde_json::from_str(&info).expect("JSON");
        info["address"].to_string()
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
        let mut left = Traces::new();
        let ended = became(20, || {
            left = traces::processes(self.root());
            left.is_empty()
        });
        assert!(ended, "still there after 20 s: {left:#?}");
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
        self.named_and_cleared(what);
        self.is_clean(&format!("doctor --fix after {what}"));
    }

    /// The same where a guest may go on running.
    #[track_caller]
    fn named_and_cleared(&self, what: &str) {
        // A keeper may be at work on some of it, and one thing may go with another.
        let named = named_removed(self.doctor(false));
        let more = self
            .doctor(true)
            .into_iter()
            .find(|one| !named.contains(one));
        assert_eq!(more, None, "{what}");
        assert_eq!(self.doctor(false), [] as [serde_json::Value; 0], "{what}");
        let mut debris = Traces::new();
        let gone = became(5, || {
            debris = traces::debris(self.root());
            debris.is_empty()
        });
        assert!(gone, "{what}: {debris:#?}");
    }

    #[track_caller]
    fn starts(&self, what: &str) {
        let done = self.bulkhead.run(&["start", "a"]);
        assert_eq!(done.code, 0, "start after {what}: {}", done.report());
        self.bulkhead.ok(&["exec", "a", "true"]);
        self.bulkhead.ok(&["kill", "a"]);
        self.is_clean(&format!("start and kill after {what}"));
    }

    /// Points lie close together, so one is cleared and the next is left to the next start.
    #[track_caller]
    fn cleared_or_started(&self, number: usize, what: &str) {
        if number.is_multiple_of(2) {
            self.cleared(what);
        } else {
            self.settle();
            self.starts(what);
        }
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
        for number in (0..steps).step_by(stride()) {
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

/// What a killed or failing verb may have done: looked at after `doctor --fix`.
type Check<'a> = &'a dyn Fn(&Site, &str);

/// A verb at every point that its command passes, killed and failing, until none is left.
struct Sweep<'a> {
    /// Brings the installation to where the verb begins.
    before: Check<'a>,
    /// The verb.
    args: &'a [&'a str],
    /// Whether it leaves nothing when it fails; one that takes things away cannot bring them back.
    whole: bool,
    /// What must hold after it was cut short.
    after: Check<'a>,
}

impl Sweep<'_> {
    /// Returns the number of points.
    fn over(&self, site: &Site) -> usize {
        for number in (0..200).step_by(stride()) {
            (self.before)(site, "");
            let fault = format!("command:{number}");
            let what = format!("{:?} with {fault}", self.args);
            let killed = site.faulty(&fault, self.args);
            if killed.code != -1 {
                assert_eq!(killed.code, 0, "{what}: {}", killed.report());
                return number;
            }
            site.named_and_cleared(&what);
            (self.after)(site, &what);

            // One that is lost on the way, such as an event, may be no error.
            (self.before)(site, "");
            let fault = format!("command:{number}:fail");
            let what = format!("{:?} with {fault}", self.args);
            let failed = site.faulty(&fault, self.args);
            assert!(matches!(failed.code, 0 | 1), "{what}: {}", failed.report());
            assert!(
                failed.code == 0 || failed.stderr.contains("Input/output error"),
                "{}",
                failed.stderr
            );
            match self.whole {
                true => assert_eq!(site.doctor(false), [] as [serde_json::Value; 0], "{what}"),
                false => site.named_and_cleared(&what),
            }
            (self.after)(site, &what);
        }
        panic!("{:?} passes more than 200 points", self.args);
    }
}

/// A definition whose launch has a step of every kind.
const RICH: &[&str] = &[
    "--mount",
    "/usr/share:/mnt/share:ro",
    "--tmpfs",
    "/mnt/tmp:1M",
];

const OBEDIENT: &str = r#"
template = "busybox"
[init]
command = ["/bin/sh", "-c", "trap 'exit 0' TERM; sleep 1000 & wait"]
stop_signal = "SIGTERM"
"#;

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

#[test]
fn every_step_of_the_launching_process_with_ipv6() {
    if need(Need::Root) {
        Site::with_ipv6("template = \"busybox\"\n").every_step("host");
    }
}

#[test]
fn every_step_of_init_with_ipv6() {
    if need(Need::Root) {
        Site::with_ipv6("template = \"busybox\"\n\n").every_step("init");
    }
}

/// Which steps and points are tried: each, or each nth where a start takes seconds
/// (BULKHEAD_FAULT_STRIDE).
fn stride() -> usize {
    let given = std::env::var("BULKHEAD_FAULT_STRIDE").ok();
    given.map_or(1, |n| n.parse().expect("a number above 0"))
}

/// Kills and deletes whatever has this name.
fn no_more(site: &Site, name: &str) {
    let gone = site.bulkhead.run(&["delete", "--force", name]);
    assert!(matches!(gone.code, 0 | 3), "{}", gone.report());
}

#[test]
fn every_point_of_create() {
    if !need(Need::Root) {
        return;
    }
    let site = Site::new(&[]);
    let create: &[&str] = &["create", "b", "--template", "busybox"];
    let sweep = Sweep {
        before: &|site, _| no_more(site, "b"),
        args: create,
        whole: true,
        after: &|site, what| {
            if site.exists("b") {
                assert_eq!(
                    site.bulkhead.run(&["start", "b"]).code,
                    0,
                    "start after {what}"
                );
            } else {
                site.bulkhead.ok(create);
            }
        },
    };
    let points = sweep.over(&site);
    assert!(points > 20, "{points} points");
}

#[test]
fn every_point_of_a_build() {
    if !need(Need::Root) {
        return;
    }
    let site = Site::new(&[]);
    no_more(&site, "a");
    let images = site.root().join("var/lib/bulkhead/images");
    let build: &[&str] = &["template", "build", "busybox"];
    let sweep = Sweep {
        before: &|_, _| std::fs::remove_dir_all(&images).expect("images"),
        args: build,
        whole: true,
        after: &|site, _| drop(site.bulkhead.ok(build)),
    };
    let points = sweep.over(&site);
    assert!(points > 5, "{points} points");
}

#[test]
fn every_point_of_delete() {
    if !need(Need::Root) {
        return;
    }
    let site = Site::new(&[]);
    let sweep = Sweep {
        before: &|site, _| {
            if !site.exists("b") {
                site.bulkhead.ok(&["create", "b", "--template", "busybox"]);
            }
            if !site.runs("b") {
                site.bulkhead.ok(&["start", "b"]);
            }
        },
        args: &["delete", "--force", "b"],
        whole: false,
        after: &|site, _| no_more(site, "b"),
    };
    let points = sweep.over(&site);
    assert!(points > 10, "{points} points");
    site.is_clean("all of it");
}

#[test]
fn every_point_of_stop() {
    if need(Need::Root) {
        stopped_everywhere(&Site::obedient());
    }
}

#[test]
fn every_point_of_stop_with_ipv6() {
    if need(Need::Root) {
        stopped_everywhere(&Site::with_ipv6(OBEDIENT));
    }
}

fn stopped_everywhere(site: &Site) {
    let sweep = Sweep {
        before: &|site, _| {
            if !site.runs("a") {
                site.bulkhead.ok(&["start", "a"]);
            }
        },
        args: &["stop", "a"],
        whole: false,
        after: &|site, what| {
            let state = site.bulkhead.ok(&["list"]);
            assert!(!state.contains("stopping"), "{what}: {state}");
            site.bulkhead.ok(&["stop", "a"]);
            site.is_clean(what);
        },
    };
    let points = sweep.over(site);
    assert!(points > 10, "{points} points");
}

#[test]
fn every_point_of_rename_and_set() {
    if !need(Need::Root) {
        return;
    }
    let site = Site::new(&[]);
    let address = site.address("a");
    let sweep = Sweep {
        before: &|site, _| {
            if !site.exists("a") {
                site.bulkhead.ok(&["rename", "b", "a"]);
            }
        },
        args: &["rename", "a", "b"],
        whole: false,
        after: &|site, what| {
            let (one, other) = (site.exists("a"), site.exists("b"));
            assert!(one ^ other, "a: {one}, b: {other} after {what}");
            let name = if one { "a" } else { "b" };
            site.bulkhead.ok(&["start", name]);
            site.bulkhead.ok(&["kill", name]);
            assert_eq!(site.address(name), address, "{what}");
        },
    };
    let points = sweep.over(&site);
    assert!(points > 5, "{points} points");

    site.bulkhead.ok(&["rename", "b", "a"]);
    site.bulkhead.ok(&["start", "a"]);
    let memory = |site: &Site| site.bulkhead.ok(&["get", "a", "memory.limit"]);
    let sweep = Sweep {
        before: &|site, _| drop(site.bulkhead.ok(&["set", "a", "memory.limit=128M"])),
        args: &["set", "a", "memory.limit=64M"],
        whole: true,
        after: &|site, what| {
            let now = memory(site);
            assert!(now.contains("128M") || now.contains("64M"), "{what}: {now}");
            assert!(site.runs("a"), "{what}");
            site.bulkhead.ok(&["set", "a", "memory.limit=96M"]);
            assert!(memory(site).contains("96M"), "{what}");
        },
    };
    let points = sweep.over(&site);
    assert!(points > 3, "{points} points");
}

/// Whether the guest has its keeper.
fn has_keeper(site: &Site) -> bool {
    let all = traces::processes(site.root());
    all.iter().any(|line| line.contains("keeper of a"))
}

/// The process that a command forks for a launch, between what is not in the plan: network, files,
/// records, becoming the keeper.
#[test]
fn every_point_around_a_launch() {
    if !need(Need::Root) {
        return;
    }
    let site = Site::new(&[]);
    for number in (0..200).step_by(stride()) {
        // Both are killed, or only the one that launches.
        for fault in [
            format!("command:0,launch:{number}"),
            format!("launch:{number}"),
        ] {
            let done = site.faulty(&fault, &["start", "a"]);
            let launching = || {
                traces::processes(site.root())
                    .iter()
                    .any(|p| p.contains(" start a"))
            };
            eventually("the launch has ended", 20, || !launching());
            if site.runs("a") {
                if has_keeper(&site) && done.code == 0 {
                    assert!(number > 10, "{number} points");
                    site.bulkhead.ok(&["kill", "a"]);
                    return;
                }
                site.end_if_it_runs();
            } else {
                assert_ne!(done.code, 0, "{fault}");
            }
            site.cleared_or_started(number, &fault);
        }
    }
    panic!("more than 200 points");
}

/// A keeper that starts its guest again.
#[test]
fn every_point_of_a_restart() {
    if !need(Need::Root) {
        return;
    }
    let site = Site::new(&[]);
    for number in (0..200).step_by(stride()) {
        let fault = format!("keeper:{number}");
        site.faulty(&fault, &["start", "a"]);
        let booted = |site: &Site| {
            site.bulkhead
                .run(&["exec", "a", "cat", "/proc/sys/kernel/random/uuid"])
        };
        assert_eq!(booted(&site).code, 0, "{fault}");
        // Its own reboot; the command may be ended by it.
        let _ended = site.bulkhead.run(&["exec", "a", "reboot", "-f"]);
        let again = || site.runs("a") && has_keeper(&site);
        eventually("it runs again, or its keeper is dead", 20, || {
            again() || !has_keeper(&site)
        });
        if again() {
            assert!(number > 10, "{number} points");
            site.bulkhead.ok(&["kill", "a"]);
            return;
        }
        // An init that was not let go on dies with the keeper, a moment later.
        let lives = || site.bulkhead.run(&["exec", "a", "true"]).code == 0;
        let dead = || traces::processes(site.root()).is_empty();
        eventually("it is enterable or dead", 20, || lives() || dead());
        if site.runs("a") {
            site.bulkhead.ok(&["kill", "a"]);
        }
        site.cleared_or_started(number, &fault);
    }
    panic!("more than 200 points");
}

/// A guest of a tenant, whose group comes with its start and goes with its end.
fn in_a_tenant() -> Site {
    let bulkhead = Bulkhead::new();
    bulkhead.ok(&[
        "tenant",
        "create",
        "acme",
        "--processes",
        "500",
        "--memory",
        "256M",
    ]);
    let create = ["create", "a", "--template", "busybox", "--tenant", "acme"];
    bulkhead.ok(&[&create[..], &["--network", "none"]].concat());
    Site::with(bulkhead)
}

#[test]
fn every_point_of_a_launch_in_a_tenant() {
    if !need(Need::Root) {
        return;
    }
    let site = in_a_tenant();
    for number in (0..200).step_by(stride()) {
        let fault = format!("launch:{number}");
        let done = site.faulty(&fault, &["start", "a"]);
        if done.code == 0 {
            assert!(number > 20, "{number} points");
            site.bulkhead.ok(&["kill", "a"]);
            site.is_clean("all of it");
            return;
        }
        site.is_clean(&fault);
        let fault = format!("command:0,{fault}");
        assert_eq!(site.faulty(&fault, &["start", "a"]).code, -1, "{fault}");
        site.end_if_it_runs();
        site.cleared_or_started(number, &fault);
    }
    panic!("more than 200 points");
}

#[test]
fn every_point_of_the_end_of_a_tenants_last_guest() {
    if !need(Need::Root) {
        return;
    }
    let site = in_a_tenant();
    let sweep = Sweep {
        before: &|site, _| {
            if !site.runs("a") {
                site.bulkhead.ok(&["start", "a"]);
            }
        },
        args: &["kill", "a"],
        whole: false,
        after: &|site, what| {
            site.bulkhead.ok(&["kill", "a"]);
            site.is_clean(what);
        },
    };
    assert!(sweep.over(&site) > 10);
}

#[test]
fn every_point_of_a_change_of_a_tenant() {
    if !need(Need::Root) {
        return;
    }
    let site = in_a_tenant();
    site.bulkhead.ok(&["tenant", "set", "acme", "--cpus", "1"]);
    site.bulkhead.ok(&["start", "a"]);
    let caps = |site: &Site| {
        site.bulkhead
            .ok(&["tenant", "info", "acme", "--format", "json"])
    };
    for (from, to) in [("1", "0.5"), ("0.5", "1")] {
        let args = ["tenant", "set", "acme", "--cpus", to];
        let sweep = Sweep {
            before: &|site, _| drop(site.bulkhead.ok(&["tenant", "set", "acme", "--cpus", from])),
            args: &args,
            whole: false,
            after: &|site, what| {
                let text = caps(site);
                assert!(text.contains("\"processes\": 500"), "{what}: {text}");
                // The guest has what its tenant has, whichever of the two that is.
                let caps: serde_json::Value = serde_json::from_str(&text).expect("JSON");
                let cpus = if caps["cpus"].to_string().contains("0.5") {
                    50
                } else {
                    100
                };
                assert_eq!(cpu_limit(site, "a"), Some(cpus), "{what}: {text}");
                site.bulkhead.ok(&["exec", "a", "true"]);
            },
        };
        let points = sweep.over(&site);
        assert!(points > 4, "{points} points");
    }
    site.bulkhead.ok(&["kill", "a"]);
    site.is_clean("all of it");
}

/// The CPU limit in force, hundredths; `None` for none.
fn cpu_limit(site: &Site, guest: &str) -> Option<u64> {
    let rows = site.bulkhead.ok(&["limits", guest, "--format", "json"]);
    let rows: serde_json::Value = serde_json::from_str(&rows).expect("JSON");
    let mut rows = rows.as_array().expect("a list").iter();
    rows.find(|row| row["resource"] == "cpu")?["limit"].as_u64()
}

#[test]
fn every_point_of_making_and_deleting_a_tenant() {
    if !need(Need::Root) {
        return;
    }
    let bulkhead = Bulkhead::new();
    // What stays of the first one: a folder and a lock.
    bulkhead.ok(&["tenant", "create", "acme"]);
    bulkhead.ok(&["tenant", "delete", "acme"]);
    bulkhead.ok(&["create", "a", "--template", "busybox", "--network", "none"]);
    let site = Site::with(bulkhead);
    let gone = |site: &Site, _: &str| {
        site.bulkhead.run(&["tenant", "delete", "acme"]);
    };
    let there = |site: &Site, _: &str| {
        let create = ["tenant", "create", "acme", "--processes", "50"];
        site.bulkhead.run(&create);
    };
    let sweeps = [
        Sweep {
            before: &gone,
            args: &["tenant", "create", "acme", "--processes", "50"],
            whole: true,
            after: &|site, what| {
                // What was made whole has its lock.
                site.bulkhead.run(&["tenant", "delete", "acme"]);
                site.is_clean(what);
            },
        },
        Sweep {
            before: &there,
            args: &["tenant", "delete", "acme"],
            whole: true,
            after: &|site, what| {
                let known = site.bulkhead.ok(&["tenant", "list", "--format", "json"]);
                let info = site.bulkhead.run(&["tenant", "info", "acme"]);
                assert_eq!(info.code == 0, known.contains("acme"), "{what}");
            },
        },
    ];
    for sweep in sweeps {
        assert!(sweep.over(&site) > 0);
    }
    gone(&site, "");
    site.is_clean("all of it");
}

#[test]
fn every_point_of_making_changing_and_deleting_a_goal() {
    if !need(Need::Root) {
        return;
    }
    let site = Site::new(&["--network", "none"]);
    let gone = |site: &Site, _: &str| drop(site.bulkhead.run(&["goal", "delete", "g"]));
    let create = ["goal", "create", "g", "--guest", "a", "--wait", "10"];
    let there = |site: &Site, _: &str| drop(site.bulkhead.run(&create));
    // Whatever there is can be read.
    let sound = |site: &Site, what: &str| {
        site.bulkhead.ok(&["goal", "list"]);
        site.is_clean(what);
    };
    let verbs: [(Check, &[&str]); 3] = [
        (&gone, &create),
        (&there, &["goal", "set", "g", "--use", "20-60"]),
        (&there, &["goal", "delete", "g"]),
    ];
    for (before, args) in verbs {
        let sweep = Sweep {
            before,
            args,
            whole: true,
            after: &sound,
        };
        assert!(sweep.over(&site) > 0, "{args:?}");
    }
}

/// Goals go with a guest to another name, or stay where they can be seen.
#[test]
fn every_point_of_a_rename_of_a_guest_with_a_goal() {
    if !need(Need::Root) {
        return;
    }
    let site = Site::new(&["--network", "none"]);
    let create = ["goal", "create", "g", "--guest", "a", "--wait", "10"];
    site.bulkhead.ok(&create);
    let of = |site: &Site| {
        let text = site.bulkhead.ok(&["goal", "info", "g", "--format", "json"]);
        let goal: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        goal["subject"]["guest"].clone()
    };
    site.bulkhead.ok(&["rename", "a", "b"]);
    assert_eq!(of(&site), "b");
    let sweep = Sweep {
        before: &|site, _| {
            if site.exists("a") {
                site.bulkhead.run(&["goal", "delete", "g"]);
                site.bulkhead.ok(&create);
                site.bulkhead.ok(&["rename", "a", "b"]);
            }
            assert_eq!(of(site), "b");
        },
        args: &["rename", "b", "a"],
        whole: false,
        after: &|site, what| {
            let of = of(site);
            assert!(of == "a" || of == "b", "{what}: {of}");
        },
    };
    assert!(sweep.over(&site) > 3);
}

/// A guest that would use more CPU than it may, and is held back all the time; and one that sleeps.
fn held_back() -> Site {
    let bulkhead = Bulkhead::new();
    for (name, line) in [("a", "while :; do :; done"), ("b", "sleep 1000")] {
        let file = bulkhead.root().join(format!("{name}.toml"));
        let text = format!(
            "template = \"busybox\"\n[init]\ncommand = [\"/bin/sh\", \"-c\", \"{line}\"]\n"
        );
        std::fs::write(&file, text).expect("a folder of ours");
        let create = ["create", name, "--from", &file.to_string_lossy()];
        bulkhead.ok(&[&create[..], &["--network", "none", "--cpus", "0.2"]].concat());
    }
    let site = Site::with(bulkhead);
    site.bulkhead.ok(&["start", "a", "b"]);
    site
}

#[test]
fn every_point_of_a_search_for_the_guest_that_makes_others_wait() {
    if !need(Need::Root) {
        return;
    }
    let site = held_back();
    let sweep = Sweep {
        before: &|_, _| {},
        args: &["bisect", "--watch", "a", "--by", "cpu", "--window", "200ms"],
        whole: false,
        after: &|site, what| {
            // The process that stands by lets everybody go on, or `doctor --fix` has.
            let listed = || site.bulkhead.ok(&["list"]);
            eventually("nobody is frozen", 10, || !listed().contains("paused"));
            for guest in ["a", "b"] {
                let done = site.bulkhead.run(&["exec", guest, "true"]);
                assert_eq!(done.code, 0, "{what}: {}", done.report());
            }
        },
    };
    assert!(sweep.over(&site) > 3);
    site.bulkhead.ok(&["kill", "a", "b"]);
    site.settle();
    assert_eq!(site.doctor(false), [] as [serde_json::Value; 0]);
}

/// A controller goes on until it is ended, so one that meets no fault is.
#[test]
fn every_point_of_a_controller_of_goals() {
    if !need(Need::Root) {
        return;
    }
    let site = held_back();
    let goal = ["goal", "create", "g", "--guest", "a", "--use", "10-40"];
    let more = ["--max", "0.1", "--mode", "act"];
    site.bulkhead.ok(&[&goal[..], &more].concat());
    let mut met = 0;
    for number in 0..8 {
        for fault in [
            format!("command:{number}"),
            format!("command:{number}:fail"),
        ] {
            let mut command = site.bulkhead.command(&["goal", "run"]);
            command.env("BULKHEAD_FAULT", &fault);
            command
                .stdin(std::process::Stdio::null())
                .stdout(std::process::Stdio::null())
                .stderr(std::process::Stdio::null());
            let mut controller = command.spawn().expect("the program");
            let ended = |one: &mut std::process::Child| one.try_wait().expect("ours").is_some();
            // It has two rounds for it, at least.
            if became(3, || ended(&mut controller)) {
                met += 1;
            } else {
                assert_eq!(cpu_limit(&site, "a"), Some(10), "{fault}");
                let pid = controller.id().to_string();
                let sent = std::process::Command::new("kill").arg(&pid).status();
                assert!(sent.expect("kill(1)").success());
                controller.wait().expect("a child of ours");
            }
            eventually("its definition's limit is back", 10, || {
                site.doctor(true);
                cpu_limit(&site, "a") == Some(20)
            });
            eventually("nothing is left", 10, || site.doctor(false).is_empty());
        }
    }
    assert!(met > 1, "{met}");
    site.bulkhead.ok(&["kill", "a", "b"]);
    site.settle();
    assert_eq!(site.doctor(false), [] as [serde_json::Value; 0]);
}
