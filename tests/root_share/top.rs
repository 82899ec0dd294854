//! What `top` says of running guests, as lines, as a table and on a terminal.

use std::process::{Command, Stdio};
use std::time::Duration;

use crate::life::{is, scripted};
use crate::support::{Bulkhead, Need, eventually, need, program};
use crate::terminal::Terminal;
use serde_json::Value;

const ALONE: [&str; 3] = ["--network", "none", "--start"];

/// What a command prints, a value a line.
fn lines(text: &str) -> Vec<Value> {
    let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    text.lines().map(parse).collect()
}

#[track_caller]
fn top(host: &Bulkhead, args: &[&str]) -> Vec<Value> {
    let all = [&["top", "--format", "json"], args].concat();
    lines(&host.ok(&all))
}

fn names(lines: &[Value]) -> Vec<&str> {
    lines
        .iter()
        .filter_map(|line| line["name"].as_str())
        .collect()
}

#[test]
fn lines_have_what_the_kernel_tells_and_nothing_of_who_does_not_run() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    let limits = ["--cpus", "0.5", "--memory", "64M", "--processes", "20"];
    scripted(&host, "a", "sleep 1000", &[&limits[..], &ALONE].concat());
    scripted(&host, "b", "sleep 1000", &ALONE);
    scripted(&host, "still", "sleep 1000", &[]);
    let all = top(&host, &["--interval", "300ms", "--count", "2"]);
    assert_eq!(names(&all), ["a", "b", "a", "b"]);
    let line = &all[2];
    assert_eq!(line["status"], "running", "{line}");
    assert_eq!(line["memory_limit"], 64 << 20, "{line}");
    assert_eq!(line["processes_limit"], 20, "{line}");
    assert_eq!(line["processes"], 1, "{line}");
    assert!(line["memory"].as_u64() > Some(0), "{line}");
    assert!(line["memory_cache"].is_u64(), "{line}");
    assert!(
        line["cpu_percent"].as_f64().is_some_and(|n| n < 50.0),
        "{line}"
    );
    assert!(line["cpu_of_limit_percent"].is_f64(), "{line}");
    assert!(
        (100..5000).contains(&line["interval_ms"].as_u64().expect("a number")),
        "{line}"
    );
    assert!(line["received_bytes_s"].is_null(), "{line}");
    let counted = std::path::Path::new("/proc/pressure/cpu").exists();
    assert_eq!(line["cpu_some_percent"].is_f64(), counted, "{line}");
    assert!(all[3]["cpu_of_limit_percent"].is_null(), "{}", all[3]);

    host.ok(&["pause", "a"]);
    let one = top(
        &host,
        &["a", "still", "--interval", "200ms", "--count", "1"],
    );
    assert_eq!(names(&one), ["a"]);
    assert_eq!(one[0]["status"], "paused");
    assert_eq!(one[0]["cpu_percent"], 0.0);
    host.ok(&["resume", "a"]);
    // Without a terminal a table, once.
    let table = host.ok(&["top", "--interval", "200ms"]);
    let rows: Vec<&str> = table.lines().collect();
    assert_eq!(rows.len(), 3, "{table}");
    assert!(rows[0].starts_with("GUEST  STATE    CPU%"), "{table}");
    assert!(table.contains("1/20"), "{table}");
    host.fails(&["top", "nobody"], 3);
    let none = host.run(&["top", "--select", "team=none"]);
    assert_eq!(
        (none.code, none.stdout.as_str()),
        (0, ""),
        "{}",
        none.report()
    );
}

#[test]
fn a_guest_that_comes_or_goes_is_no_error() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    for name in ["goes", "stays", "turns"] {
        scripted(&host, name, "sleep 1000", &ALONE);
    }
    let mut command = host.command(&[
        "top",
        "--format",
        "json",
        "--interval",
        "1s",
        "--count",
        "8",
    ]);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = command.spawn().expect("the program");
    std::thread::sleep(Duration::from_millis(1200));
    host.ok(&["delete", "goes", "--force"]);
    host.ok(&["restart", "turns", "--timeout", "1s"]);
    scripted(&host, "comes", "sleep 1000", &ALONE);
    let done = child.wait_with_output().expect("a child of ours");
    let said = String::from_utf8_lossy(&done.stderr);
    assert_eq!((done.status.code(), said.as_ref()), (Some(0), ""));
    let all = lines(&String::from_utf8_lossy(&done.stdout));
    let rates = |name: &str| -> Vec<bool> {
        let of = all.iter().filter(|line| line["name"] == name);
        of.map(|line| line["cpu_percent"].is_f64()).collect()
    };
    assert_eq!(rates("stays"), [true; 8]);
    let (goes, comes, turns) = (rates("goes"), rates("comes"), rates("turns"));
    assert!((1..8).contains(&goes.len()), "{goes:?}");
    // No rate in the interval in which it began.
    assert!(
        comes.len() > 1 && !comes[0] && comes[1..].iter().all(|rate| *rate),
        "{comes:?}"
    );
    assert_eq!(turns.iter().filter(|rate| !**rate).count(), 1, "{turns:?}");
}

#[test]
fn alone_a_quarter_of_a_cpu_is_shown_as_such() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    let limit = ["--cpus", "0.25"];
    let busy = "while :; do :; done";
    scripted(&host, "busy", busy, &[&limit[..], &ALONE].concat());
    let all = top(&host, &["--interval", "2s", "--count", "2"]);
    let cpu = all[1]["cpu_percent"].as_f64().expect("a rate");
    assert!((15.0..=32.0).contains(&cpu), "{all:?}");
    let part = all[1]["cpu_of_limit_percent"].as_f64().expect("a rate");
    assert!((60.0..=128.0).contains(&part), "{all:?}");
}

#[test]
fn what_goes_over_the_network_is_a_rate() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    let line = "while :; do ping -c 1 -s 1000 $(ip route | sed -n \"s/default via \\([^ ]*\\).*/\\1/p\") >/dev/null; sleep 0.1; done";
    scripted(&host, "talks", line, &["--start"]);
    eventually("bytes that were sent", 30, || {
        let all = top(&host, &["--interval", "1s", "--count", "1"]);
        all[0]["sent_bytes_s"].as_u64() > Some(1000)
    });
}

/// `top` on a terminal; what stty says of it before and after is written around it.
fn on_screen(host: &Bulkhead) -> Terminal {
    let script = format!(
        "stty -a | tr '\\n' ' ' > {root}/before; \
         sh -c 'echo $$ > {root}/pid; exec {program} --root {root} top --interval 300ms'; \
         echo \"code=$?\"; \
         stty -a | tr '\\n' ' ' > {root}/after; echo over",
        root = host.root().display(),
        program = program().display(),
    );
    let mut shell = Command::new("sh");
    shell.args(["-c", &script]).env("TERM", "xterm");
    Terminal::start(&shell)
}

#[track_caller]
fn is_as_before(host: &Bulkhead, terminal: &Terminal) {
    terminal.shows("over");
    let read = |name: &str| std::fs::read_to_string(host.root().join(name)).expect("written");
    assert_eq!(read("before"), read("after"));
    assert!(read("after").contains(" icanon "), "{}", read("after"));
    let screen = terminal.screen();
    let (entered, left) = (screen.rfind("\x1b[?1049h"), screen.rfind("\x1b[?1049l"));
    assert!(entered.is_some() && left > entered, "{screen:?}");
    assert!(
        screen.rfind("\x1b[?25h") > screen.rfind("\x1b[?25l"),
        "{screen:?}"
    );
}

#[test]
fn on_a_terminal_keys_freeze_enter_filter_and_quit() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    scripted(&host, "one", "sleep 1000", &ALONE);
    scripted(&host, "two", "sleep 1000", &ALONE);
    let mut terminal = on_screen(&host);
    terminal.shows("guests 2");
    terminal.types("/wo\r");
    terminal.shows("filter wo");
    terminal.types("f");
    eventually("frozen", 20, || is(&host, "two", "paused"));
    assert!(is(&host, "one", "running"));
    terminal.types("e");
    terminal.shows("two is frozen");
    terminal.types("f");
    eventually("thawed", 20, || is(&host, "two", "running"));
    terminal.types("\r");
    eventually("the screen is left", 20, || {
        terminal.screen().contains("\x1b[?1049l")
    });
    terminal.types("echo inside-$((40+2)); exit\r");
    terminal.shows("inside-42");
    let screen = || terminal.screen();
    eventually("the screen comes back", 20, || {
        let screen = screen();
        let after = screen.rfind("inside-42").map(|at| &screen[at..]);
        after.is_some_and(|text| text.contains("\x1b[?1049h") && text.contains("guests 1"))
    });
    terminal.types("q");
    terminal.shows("code=0");
    is_as_before(&host, &terminal);
    assert_eq!(terminal.ends(), 0);
}

#[test]
fn a_key_that_changes_a_guest_leaves_the_rates_as_they_are() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    let limit = ["--cpus", "0.5"];
    scripted(
        &host,
        "busy",
        "while :; do :; done",
        &[&limit[..], &ALONE].concat(),
    );
    let mut terminal = on_screen(&host);
    terminal.shows("guests 1");
    let frames = |text: &str| -> Vec<String> {
        let frames = text.split("\x1b[1;1H").skip(1);
        frames.map(str::to_owned).collect()
    };
    eventually("it works", 20, || {
        let last = frames(&terminal.screen()).pop();
        last.is_some_and(|last| last.contains("guests 1  CPU") && !last.contains("CPU 0.0%"))
    });
    for (key, weight) in [("+", 200), ("-", 100), ("+", 200)] {
        let before = terminal.screen().len();
        terminal.types(key);
        let said = format!("cpu.weight={weight}");
        let mut first = None;
        eventually("the change is told", 20, || {
            let frames = frames(&terminal.screen()[before..]);
            first = frames.into_iter().find(|frame| frame.contains(&said));
            first.is_some()
        });
        let first = first.unwrap_or_default();
        assert!(!first.contains("CPU 0.0%"), "{first:?}");
    }
    terminal.types("q");
    terminal.shows("code=0");
    assert_eq!(terminal.ends(), 0);
}

#[test]
fn a_signal_gives_the_terminal_back() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    for (signal, code) in [("TERM", "code=143"), ("INT", "code=130")] {
        let mut terminal = on_screen(&host);
        terminal.shows("no guest runs");
        let pid = std::fs::read_to_string(host.root().join("pid")).expect("written");
        let signalled = Command::new("kill")
            .args(["-s", signal, pid.trim()])
            .status();
        assert!(signalled.is_ok_and(|status| status.success()));
        terminal.shows(code);
        is_as_before(&host, &terminal);
        assert_eq!(terminal.ends(), 0);
    }
}
