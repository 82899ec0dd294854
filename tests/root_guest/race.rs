//! Commands killed at a random moment, and commands at once: on one guest they are serialised, on
//! different guests they run side by side; nothing is left behind either way.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::support::{Bulkhead, Need, eventually, need, run};
use crate::traces;

/// An init that ends as soon as it is asked to.
const OBEDIENT: &str = r#"
template = "busybox"
memory.limit = "64M"
[init]
command = ["/bin/sh", "-c", "trap 'exit 0' TERM; sleep 1000 & wait"]
stop_signal = "SIGTERM"
"#;

/// An installation with a definition to create guests from.
struct Site {
    bulkhead: Bulkhead,
    definition: String,
}

impl Site {
    fn new() -> Self {
        let bulkhead = Bulkhead::new();
        let file = bulkhead.root().join("definition.toml");
        std::fs::write(&file, OBEDIENT).expect("a folder of ours");
        bulkhead.ok(&["template", "build", "busybox"]);
        Self {
            bulkhead,
            definition: file.to_string_lossy().into_owned(),
        }
    }

    fn create<'a>(&'a self, name: &'a str) -> [&'a str; 4] {
        ["create", name, "--from", &self.definition]
    }

    /// A command in the background, without output.
    fn spawn(&self, args: &[&str]) -> Child {
        let mut command = self.bulkhead.command(args);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().expect("the program")
    }

    /// The states that `list` shows, by name.
    fn states(&self) -> Vec<(String, String)> {
        let text = self.bulkhead.ok(&["list", "--format", "json"]);
        let list: Vec<serde_json::Value> = serde_json::from_str(&text).expect("JSON");
        let word = |one: &serde_json::Value, key: &str| one[key].as_str().unwrap_or("?").to_owned();
        list.iter()
            .map(|one| (word(one, "name"), word(one, "status")))
            .collect()
    }

    /// No command is at work, and no interface waits for its namespace to go.
    fn settle(&self) {
        let root = self.bulkhead.root();
        let at_work = |line: &String| line.contains("--root") && !line.contains("keeper of");
        eventually("every command has ended", 30, || {
            !traces::processes(root).iter().any(at_work)
        });
    }

    /// Deletes every guest; afterwards nothing may be there but what the installation keeps.
    fn end(&self) {
        let root = self.bulkhead.root();
        self.settle();
        self.bulkhead.ok(&["doctor", "--fix"]);
        self.bulkhead.ok(&["delete", "--all", "--force"]);
        self.bulkhead.ok(&["doctor", "--fix"]);
        eventually("nothing is left in the kernel", 20, || {
            traces::kernel_objects(root).is_empty()
        });
        assert_eq!(traces::debris(root), traces::Traces::new());
        for folder in [
            "run/bulkhead/guests",
            "run/bulkhead/locks",
            "var/lib/bulkhead/guests",
        ] {
            let mut left = traces::Traces::new();
            traces::list(&root.join(folder), &mut left);
            assert_eq!(left, traces::Traces::new(), "{folder}");
        }
    }
}

/// Numbers that look random and are the same in every run (xorshift).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

#[test]
fn commands_killed_at_any_moment() {
    if !need(Need::Root) {
        return;
    }
    let site = Site::new();
    let bulkhead = &site.bulkhead;
    let create = site.create("a");
    let verbs: [&[&str]; 5] = [
        &create,
        &["start", "a"],
        &["restart", "a"],
        &["stop", "a"],
        &["delete", "--force", "a"],
    ];
    let mut numbers = Numbers(0x5eed);
    let mut killed = 0;
    for round in 0..60 {
        let args = verbs[round % verbs.len()];
        let mut command = site.spawn(args);
        std::thread::sleep(Duration::from_micros(500 + numbers.below(60_000)));
        command.kill().expect("a child of ours");
        killed += usize::from(command.wait().expect("a child of ours").code().is_none());
        site.settle();
        if round % 2 == 0 {
            bulkhead.ok(&["doctor", "--fix"]);
        }
        // Whatever became of it, what people do next works.
        let state = site
            .states()
            .pop()
            .map_or("none".to_owned(), |(_, state)| state);
        match state.as_str() {
            "none" | "creating" => drop(bulkhead.ok(&create)),
            "stopped" => drop(bulkhead.ok(&["start", "a"])),
            // Asked to stop by a command that was killed, it may be about to end.
            "running" => {
                let enters = || bulkhead.run(&["exec", "a", "true"]).code == 0;
                let stopped = || site.states().iter().any(|(_, state)| state == "stopped");
                eventually("it can be entered or is stopped", 20, || {
                    enters() || stopped()
                });
            }
            other => panic!("{other} after {args:?} was killed in round {round}"),
        }
    }
    assert!(
        killed > 10,
        "only {killed} of 60 were killed before their end"
    );
    site.end();
}

#[test]
fn eight_at_one_guest_are_serialised() {
    if !need(Need::Root) {
        return;
    }
    let site = Site::new();
    let create = site.create("a");
    let verbs: [&[&str]; 4] = [
        &create,
        &["start", "a"],
        &["stop", "a"],
        &["delete", "--force", "a"],
    ];
    std::thread::scope(|scope| {
        for worker in 0..8_u64 {
            let (site, verbs) = (&site, &verbs);
            scope.spawn(move || {
                let mut numbers = Numbers(0xace + worker);
                for _ in 0..8 {
                    let pick = usize::try_from(numbers.below(4)).expect("small");
                    let done = site.bulkhead.run(verbs[pick]);
                    // Refused because it is there, not there, or in another state; never broken.
                    assert!(
                        matches!(done.code, 0 | 3 | 4),
                        "{:?}: {}",
                        verbs[pick],
                        done.report()
                    );
                }
            });
        }
    });
    site.settle();
    let left = site.bulkhead.ok(&["doctor", "--format", "json"]);
    let left: serde_json::Value = serde_json::from_str(&left).expect("JSON");
    assert_eq!(
        left["leftovers"].as_array().map(Vec::len),
        Some(0),
        "{left}"
    );
    match site.states().as_slice() {
        [] => drop(site.bulkhead.ok(&create)),
        [(_, state)] if state == "running" => drop(site.bulkhead.ok(&["exec", "a", "true"])),
        [(_, state)] => assert_eq!(state, "stopped"),
        more => panic!("{more:?}"),
    }
    site.end();
}

#[test]
fn guests_side_by_side() {
    if !need(Need::Root) {
        return;
    }
    let site = Site::new();
    let names: Vec<String> = (0..12).map(|n| format!("g{n}")).collect();
    let all = |verb: &'static str, more: &[&'static str]| {
        let mut args = vec![verb, "-j", "4"];
        args.extend(more);
        args.extend(names.iter().map(String::as_str));
        site.bulkhead.ok(&args)
    };
    let mut creating: Vec<Child> = names
        .iter()
        .map(|name| site.spawn(&site.create(name)))
        .collect();
    for child in &mut creating {
        assert!(child.wait().expect("a child of ours").success());
    }
    for _ in 0..2 {
        all("start", &[]);
        assert!(
            site.states().iter().all(|(_, state)| state == "running"),
            "{:?}",
            site.states()
        );
        all("stop", &[]);
        assert!(
            site.states().iter().all(|(_, state)| state == "stopped"),
            "{:?}",
            site.states()
        );
    }
    all("start", &[]);
    all("delete", &["--force"]);
    assert_eq!(site.states(), []);
    site.end();
}

/// A launch that hangs holds up its own guest and no other: no lock is held by all. Who wants to
/// execute something in that guest waits for its start.
#[test]
fn a_launch_that_waits_holds_up_nobody_else() {
    if !need(Need::Root) {
        return;
    }
    let site = Site::new();
    for name in ["slow", "quick"] {
        site.bulkhead.ok(&site.create(name));
    }
    let mut slow = site.bulkhead.command(&["start", "slow"]);
    slow.env("BULKHEAD_FAULT", "host:5:stop");
    slow.stdout(Stdio::null()).stderr(Stdio::null());
    let mut slow = slow.spawn().expect("the program");
    eventually("its launch is stopped", 20, || {
        !stopped(&site, "start slow").is_empty()
    });
    let began = Instant::now();
    site.bulkhead.ok(&["start", "quick"]);
    site.bulkhead
        .ok(&["create", "third", "--from", &site.definition]);
    site.bulkhead.ok(&["stop", "quick"]);
    assert!(
        began.elapsed() < Duration::from_secs(20),
        "{:?}",
        began.elapsed()
    );
    assert!(
        slow.try_wait().expect("a child of ours").is_none(),
        "it waits"
    );
    let mut inside = site.bulkhead.command(&["exec", "slow", "--", "true"]);
    let mut inside = inside.spawn().expect("the program");
    std::thread::sleep(Duration::from_millis(300));
    let early = inside.try_wait().expect("a child of ours");
    assert_eq!(early, None, "it waits");
    go_on(&stopped(&site, "start slow"));
    assert!(slow.wait().expect("a child of ours").success());
    assert!(inside.wait().expect("a child of ours").success());
    site.end();
}

/// A guest whose memory runs out before its keeper has begun to watch ended for that reason.
#[test]
fn a_keeper_that_comes_late_knows_of_the_kill() {
    if !need(Need::Root) {
        return;
    }
    let site = Site::new();
    let hog = site.bulkhead.root().join("hog.toml");
    let text = OBEDIENT
        .replace("64M", "16M")
        .replace("sleep 1000 & wait", "sleep 1; exec tail /dev/zero");
    std::fs::write(&hog, text).expect("a folder of ours");
    let hog = hog.to_string_lossy();
    site.bulkhead.ok(&["create", "hog", "--from", &hog]);
    let mut start = site.bulkhead.command(&["start", "hog"]);
    start.env("BULKHEAD_FAULT", "keeper:0:stop");
    start.stdout(Stdio::null()).stderr(Stdio::null());
    let mut start = start.spawn().expect("the program");
    eventually("its keeper is stopped", 60, || {
        !stopped(&site, "keeper of hog").is_empty()
    });
    eventually("it is gone", 60, || {
        let info = site.bulkhead.ok(&["info", "hog", "--format", "json"]);
        info.contains("\"stopped\"")
    });
    go_on(&stopped(&site, "keeper of hog"));
    // Whether it lived long enough to count as started is not the matter here.
    start.wait().expect("a child of ours");
    eventually("its end has a reason", 60, || {
        let info = site.bulkhead.ok(&["info", "hog", "--format", "json"]);
        info.contains("out-of-memory")
    });
    site.end();
}

fn go_on(pids: &[String]) {
    for pid in pids {
        let mut go_on = std::process::Command::new("kill");
        go_on.args(["-s", "CONT", pid]);
        assert_eq!(run(go_on).code, 0);
    }
}

/// Processes with this in their command line that are stopped.
fn stopped(site: &Site, what: &str) -> Vec<String> {
    let all = traces::processes(site.bulkhead.root());
    let pids = all
        .iter()
        .filter(|line| line.contains(what))
        .filter_map(|line| Some(line.split(' ').nth(1)?.to_owned()));
    pids.filter(|pid| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"));
        status.is_ok_and(|text| text.contains("State:\tT"))
    })
    .collect()
}
