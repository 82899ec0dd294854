//! Goals: advice changes nothing; an owner has its share back within a second; whatever happens to
//! the controller, limits are again what definitions say.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::life;
use crate::life::{data, scripted};
use crate::support::{Bulkhead, Need, eventually, need};
use serde_json::Value;

const WORK: &str = "while :; do :; done";

/// A controller, ended with the test.
struct Controller(Child);

impl Controller {
    fn new(host: &Bulkhead, args: &[&str]) -> Self {
        let mut command = host.command(&[&["goal", "run"], args].concat());
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Self(command.spawn().expect("the program"))
    }

    fn signal(&mut self, signal: &str) -> Option<i32> {
        let pid = self.0.id().to_string();
        let sent = Command::new("kill").args([signal, &pid]).status();
        assert!(sent.expect("kill(1)").success());
        self.0.wait().expect("a child of ours").code()
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// The CPU limit in force, hundredths; `None` for none.
fn limit(host: &Bulkhead, guest: &str) -> Option<u64> {
    let rows = data(host, &["limits", guest]);
    let rows = rows.as_array().expect("a list").iter();
    rows.clone().find(|row| row["resource"] == "cpu")?["limit"].as_u64()
}

/// Work in a guest for ten seconds.
struct Busy(Child);

impl Busy {
    fn new(host: &Bulkhead, guest: &str) -> Self {
        let mut command = host.command(&["exec", guest, "--", "timeout", "10", "sh", "-c", WORK]);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        Self(command.stderr(Stdio::null()).spawn().expect("the program"))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// An owner of half a CPU, and one that would use all it can get, with a goal each.
fn site(mode: &str) -> Bulkhead {
    let host = Bulkhead::new();
    let flags = ["--network", "none", "--cpus", "1", "--entitled"];
    scripted(
        &host,
        "owner",
        "sleep 1000",
        &[&flags[..], &["0.5"]].concat(),
    );
    scripted(&host, "other", WORK, &[&flags[..], &["0.2"]].concat());
    host.ok(&["start", "owner", "other"]);
    for guest in ["owner", "other"] {
        host.ok(&[
            "goal", "create", guest, "--guest", guest, "--own", "--mode", mode,
        ]);
    }
    host
}

fn log(host: &Bulkhead) -> Vec<Value> {
    data(host, &["goal", "log"])
        .as_array()
        .expect("a list")
        .clone()
}

#[test]
fn alone_an_owner_lends_and_has_its_share_back_within_a_second() {
    if !need(Need::Root) {
        return;
    }
    let host = site("act");
    let mut controller = Controller::new(&host, &[]);
    // Nobody lends yet, so one has what it is entitled to; then what the owner leaves.
    eventually("what is idle is lent", 30, || {
        (Some(55)..Some(75)).contains(&limit(&host, "other"))
    });
    let busy = Busy::new(&host, "owner");
    let used = || {
        life::info(&host, "owner")["usage"]["cpu_us"]
            .as_u64()
            .expect("a number")
    };
    let begun = used();
    // From when it works: the program that is entered takes a while on a busy machine.
    eventually("the owner works", 20, || used() > begun + 20_000);
    let since = Instant::now();
    eventually("the share is back", 5, || limit(&host, "other") == Some(20));
    assert!(
        since.elapsed() < Duration::from_millis(1500),
        "{:?}",
        since.elapsed()
    );
    assert!(limit(&host, "owner") >= Some(50));
    let text = host.ok(&["goal", "log", "other"]);
    assert!(
        text.contains("goal other: CPU limit") && text.contains("nothing is left that others lend"),
        "{text}"
    );
    drop(busy);

    // A second one is refused; the first is ended and undoes what it did.
    let why = host.fails(&["goal", "run"], 4);
    assert!(
        why.contains("at work on this installation already"),
        "{why}"
    );
    eventually("it is lent again", 30, || limit(&host, "other") > Some(20));
    assert_eq!(controller.signal("-TERM"), Some(0));
    assert_eq!(
        (limit(&host, "other"), limit(&host, "owner")),
        (Some(100), Some(100))
    );
    assert_eq!(data(&host, &["doctor"])["leftovers"], serde_json::json!([]));
}

#[test]
fn a_controller_that_is_killed_leaves_no_limit_behind() {
    if !need(Need::Root) {
        return;
    }
    let host = site("act");
    let changed = || (Some(20)..Some(75)).contains(&limit(&host, "other"));
    let mut controller = Controller::new(&host, &[]);
    eventually("a limit is changed", 30, changed);
    controller.signal("-KILL");
    eventually("the other process has put it back", 10, || {
        limit(&host, "other") == Some(100)
    });
    eventually("and nothing is left", 10, || {
        host.run(&["doctor"]).code == 0
    });

    // Both are killed at once: `doctor` knows.
    let mut controller = Controller::new(&host, &[]);
    eventually("a limit is changed", 30, changed);
    let children = format!("/proc/{0}/task/{0}/children", controller.0.id());
    let guard = std::fs::read_to_string(children).expect("procfs");
    let both = [guard.trim().to_owned(), controller.0.id().to_string()];
    let killed = Command::new("kill").arg("-KILL").args(&both).status();
    assert!(killed.expect("kill(1)").success());
    let _reaped = controller.0.wait();
    assert_ne!(limit(&host, "other"), Some(100));
    let named = host.run(&["doctor", "--format", "json"]).stdout;
    assert!(named.contains("goal's limit"), "{named}");
    host.ok(&["doctor", "--fix"]);
    assert_eq!(limit(&host, "other"), Some(100));

    // Or it ends with the guest.
    let mut controller = Controller::new(&host, &[]);
    eventually("a limit is changed", 30, changed);
    host.ok(&["kill", "other"]);
    host.ok(&["goal", "delete", "other"]);
    host.ok(&["start", "other"]);
    assert_eq!(limit(&host, "other"), Some(100));
    assert_eq!(controller.signal("-INT"), Some(0));
}

#[test]
fn advice_changes_nothing() {
    if !need(Need::Root) {
        return;
    }
    let host = site("advise");
    let mut controller = Controller::new(&host, &[]);
    eventually("something is advised", 30, || !log(&host).is_empty());
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(
        (limit(&host, "other"), limit(&host, "owner")),
        (Some(100), Some(100))
    );
    let record = host.root().join("run/bulkhead/guests/other/goal.json");
    assert!(!record.exists());
    let all = log(&host);
    assert!(all.iter().all(|event| event["acted"] == false), "{all:?}");
    // Said once, not in each round.
    assert!(all.len() < 12, "{all:?}");
    assert_eq!(controller.signal("-TERM"), Some(0));
}

#[test]
fn a_limit_follows_use_and_a_metric_within_bounds_and_hours() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    let flags = ["--network", "none", "--cpus", "1", "--start"];
    scripted(&host, "web", WORK, &flags);
    scripted(&host, "job", "sleep 1000", &flags);
    host.ok(&[
        "goal", "create", "w", "--guest", "web", "--use", "30-60", "--max", "0.4", "--mode", "act",
    ]);
    let metric = "/bin/echo 9";
    host.ok(&[
        "goal", "create", "j", "--guest", "job", "--metric", metric, "--below", "5", "--max",
        "0.3", "--mode", "act",
    ]);
    let _controller = Controller::new(&host, &[]);
    eventually("the largest limit holds", 20, || {
        (limit(&host, "web"), limit(&host, "job")) == (Some(40), Some(30))
    });
    // Out of its hours a goal does not count.
    host.ok(&["goal", "set", "w", "--hours", "00:00-00:01/mon"]);
    eventually("the definition's limit is back", 20, || {
        limit(&host, "web") == Some(100)
    });
    host.ok(&["goal", "delete", "j"]);
    eventually("the definition's limit is back", 20, || {
        limit(&host, "job") == Some(100)
    });
    // A metric that says nothing is told of, once, and its limit stays as it is; so is its return.
    let file = host.root().join("number");
    let metric = format!("/bin/cat {}", file.display());
    host.ok(&[
        "goal", "create", "n", "--guest", "job", "--metric", &metric, "--below", "5",
    ]);
    let told = || host.ok(&["goal", "log", "n"]);
    eventually("it is told", 60, || told().contains("no number for 30 s"));
    assert!(
        told().contains("it ended with exit status: 1"),
        "{}",
        told()
    );
    std::fs::write(&file, "9").expect("a file");
    eventually("it is told", 20, || {
        told().contains("there is a number again")
    });
    assert_eq!(
        told().matches("no number for 30 s").count(),
        1,
        "{}",
        told()
    );

    for name in ["../x", "none", "A"] {
        host.fails(&["goal", "create", name, "--guest", "web", "--own"], 2);
    }
    host.fails(&["goal", "create", "x", "--guest", "nobody", "--own"], 3);
    host.fails(
        &["goal", "create", "x", "--guest", "web", "--use", "70-80"],
        5,
    );
    host.fails(&["goal", "create", "x", "--guest", "web", "--own"], 5);
    host.fails(&["goal", "create", "w", "--guest", "job", "--own"], 4);
    host.fails(&["goal", "info", "x"], 3);
    assert!(
        host.ok(&["goal", "list"])
            .contains("use 30 to 60 % of its limit")
    );
}

#[test]
fn one_program_follows_goals_and_begins_what_has_ended_again() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    let flags = ["--network", "none", "--cpus", "1", "--start"];
    scripted(&host, "web", "sleep 1000", &flags);
    host.ok(&[
        "goal", "create", "w", "--guest", "web", "--use", "30-60", "--max", "0.4", "--mode", "act",
    ]);
    let said = host.ok(&["serve", "--dry-run", "--without", "networks"]);
    assert!(said.contains("all the time: bulkhead goal run"), "{said}");
    assert!(
        said.contains("every 10 minutes: bulkhead snapshot run"),
        "{said}"
    );
    assert!(!said.contains("network watch"), "{said}");
    let all = ["goals", "networks", "snapshots"];
    let none: Vec<&str> = all.iter().flat_map(|part| ["--without", *part]).collect();
    host.fails(&[&["serve"], &none[..]].concat(), 2);

    let begin = || {
        let mut command = host.command(&["serve"]);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        Controller(command.stderr(Stdio::null()).spawn().expect("the program"))
    };
    let followed = || {
        eventually("the goal is followed", 30, || {
            limit(&host, "web") == Some(40)
        })
    };
    let let_go = || eventually("the limit is back", 15, || limit(&host, "web") == Some(100));
    let mut serve = begin();
    followed();
    // One part that dies leaves no limit behind, and is begun again.
    let children = format!("/proc/{0}/task/{0}/children", serve.0.id());
    let children = std::fs::read_to_string(children).expect("numbers");
    let is_goal_run = |pid: &&str| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains("goal\0run")
    };
    let one = children.split_whitespace().find(is_goal_run);
    let one = one.unwrap_or_else(|| panic!("{children}"));
    assert!(
        Command::new("kill")
            .args(["-KILL", one])
            .status()
            .expect("kill(1)")
            .success()
    );
    let_go();
    followed();
    assert_eq!(serve.signal("-TERM"), Some(0));
    assert_eq!(limit(&host, "web"), Some(100));
    // Nor does it when all of it dies.
    let mut serve = begin();
    followed();
    assert_eq!(serve.signal("-KILL"), None);
    let_go();
    eventually("nothing of it is left", 10, || {
        data(&host, &["doctor"])["leftovers"] == serde_json::json!([])
    });
}

/// A web server that says a number until the test ends; its address.
fn server(number: &'static str) -> String {
    use std::io::{Read, Write};
    let server = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = server.local_addr().expect("its own").port();
    std::thread::spawn(move || {
        for one in server.incoming() {
            let mut one = one.expect("a client");
            let mut question = [0; 1024];
            let _n = one.read(&mut question);
            let text = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{number}",
                number.len()
            );
            let _gone = one.write_all(text.as_bytes());
        }
    });
    format!("http://127.0.0.1:{port}/queue")
}

/// What is in force of a guest's resource.
fn row(host: &Bulkhead, guest: &str, resource: &str) -> Option<u64> {
    let rows = data(host, &["limits", guest]);
    let rows = rows.as_array().expect("a list").iter();
    rows.clone().find(|row| row["resource"] == resource)?["limit"].as_u64()
}

#[test]
fn limits_of_memory_and_cpu_follow_goals_side_by_side_and_a_number_from_a_server() {
    if !need(Need::Root) {
        return;
    }
    const MIB: u64 = 1 << 20;
    let host = Bulkhead::new();
    let flags = [
        "--network",
        "none",
        "--cpus",
        "1",
        "--memory",
        "256M",
        "--start",
    ];
    scripted(&host, "web", "sleep 1000", &flags);
    let url = server("9.5\n");
    assert_eq!(host.ok(&["goal", "number", &url]), "9.5\n");
    let create = ["goal", "create"];
    let more = ["--guest", "web", "--mode", "act"];
    let made = |rest: &[&str]| host.ok(&[&create[..], rest, &more[..]].concat());
    made(&["c", "--metric", &url, "--below", "5", "--max", "0.3"]);
    made(&[
        "m", "--of", "memory", "--use", "20-60", "--min", "32M", "--max", "64M",
    ]);
    let mut controller = Controller::new(&host, &[]);
    eventually("both bounds hold", 40, || {
        (limit(&host, "web"), row(&host, "web", "memory")) == (Some(30), Some(64 * MIB))
    });
    let total = life::inside(&host, "web", "grep MemTotal /proc/meminfo");
    assert!(total.contains(&(64 * 1024).to_string()), "{total}");
    let text = host.ok(&["goal", "log", "m"]);
    assert!(text.contains("goal m: memory limit 256M to 64M"), "{text}");
    // One that goes leaves the other.
    host.ok(&["goal", "delete", "m"]);
    eventually("memory is as defined, CPU as wished", 20, || {
        (limit(&host, "web"), row(&host, "web", "memory")) == (Some(30), Some(256 * MIB))
    });
    assert_eq!(controller.signal("-TERM"), Some(0));
    assert_eq!(
        (limit(&host, "web"), row(&host, "web", "memory")),
        (Some(100), Some(256 * MIB))
    );
    assert_eq!(data(&host, &["doctor"])["leftovers"], serde_json::json!([]));

    // What cannot be.
    let other = ["--guest", "web", "--of", "memory"];
    for (bad, code) in [
        (&["--own"][..], 5),
        (&["--use", "20-60", "--max", "0.5"], 5),
        (&["--use", "20-60", "--max", "200%"], 2),
        (&["--metric", "http://192.0.2.1/", "--below", "1"], 5),
    ] {
        host.fails(&[&create[..], &["x"], &other, bad].concat(), code);
    }
    let io = [
        "goal", "create", "x", "--guest", "web", "--of", "io", "--wait", "10",
    ];
    let why = host.fails(&io, 5);
    assert!(why.contains("no limits on block devices"), "{why}");
    host.fails(&["goal", "number", "http://192.0.2.1/"], 2);
    host.fails(&["goal", "number", "http://127.0.0.1:1/"], 1);
}
