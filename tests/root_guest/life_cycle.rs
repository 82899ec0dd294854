//! The life of a guest, from outside: create, start, look at, stop, restart by itself and by policy,
//! rename, delete; one and many.

use std::time::{Duration, Instant};

use crate::life::{
    data, events, in_force, info, inside, is, made, scripted, snapshot, started, unchanged,
};
use crate::support::{Bulkhead, Need, eventually, need};

/// An init that lives until there is a file `/go`.
const UNTIL_TOLD: &str = "until [ -e /go ]; do sleep 0.1; done";

#[test]
fn a_guest_lives_from_create_to_delete() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    made(&host, "web", &["--memory", "64M", "--label", "team=shop"]);
    let stopped = info(&host, "web");
    assert_eq!(stopped["status"], "stopped");
    let (address, ids) = (stopped["address"].clone(), stopped["ids"].clone());
    assert!(address.is_string() && ids.is_number(), "{stopped}");

    host.ok(&["start", "web"]);
    assert_eq!(info(&host, "web")["status"], "running");
    assert_eq!(inside(&host, "web", "hostname"), "web");
    inside(&host, "web", "echo kept > /root/mark");

    host.ok(&["stop", "web"]);
    let after = info(&host, "web");
    assert_eq!(after["status"], "stopped");
    assert_eq!(after["last_end"]["reason"], "stopped", "{after}");

    host.ok(&["rename", "web", "shop"]);
    host.fails(&["info", "web"], 3);
    host.ok(&["start", "shop"]);
    let renamed = info(&host, "shop");
    assert_eq!((&renamed["address"], &renamed["ids"]), (&address, &ids));
    assert_eq!(
        inside(&host, "shop", "hostname; cat /root/mark"),
        "shop\nkept"
    );

    let why = host.fails(&["delete", "shop"], 4);
    assert!(why.contains("running"), "{why}");
    host.ok(&["delete", "shop", "--force"]);
    host.fails(&["info", "shop"], 3);
    assert_eq!(host.ok(&["list", "--format", "json"]).trim(), "[]");
}

#[test]
fn restart_keeps_address_ids_and_files() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    started(&host, "web", &[]);
    let before = info(&host, "web");
    inside(&host, "web", "echo kept > /root/mark");
    host.ok(&["kill", "web"]);
    host.ok(&["restart", "web"]);
    let after = info(&host, "web");
    for key in ["address", "ids", "image", "created_ms"] {
        assert_eq!(before[key], after[key], "{key}");
    }
    assert_ne!(before["pid"], after["pid"]);
    assert_eq!(inside(&host, "web", "cat /root/mark"), "kept");
    eventually("the address is inside too", 5, || {
        let address = after["address"].as_str().expect("an address");
        inside(&host, "web", "ip addr").contains(&format!("inet {address}/"))
    });
}

#[test]
fn what_create_is_told_is_in_the_file_and_in_force() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    let flags = "--cpus 0.25 --cpu-weight 50 --memory 48M --processes 99 --hostname shop --domain \
        example.org --timezone Europe/Berlin --env COLOUR=blue --label team=shop --description sold \
        --tmpfs /scratch:3M --rlimit nofile=100:200 --sysctl net.ipv4.ip_forward=1 --cap-drop \
        NET_RAW --device /dev/loop-control --stop-timeout 7s --restart on-failure \
        --start-priority 5";
    let mount = format!("{}:/data", host.root().join("data").display());
    std::fs::create_dir(host.root().join("data")).expect("a folder of ours");
    let mut words: Vec<&str> = flags.split_whitespace().collect();
    words.extend(["--mount", &mount]);
    made(&host, "web", &[&words[..], &["--dry-run"]].concat());
    host.fails(&["info", "web"], 3);
    started(&host, "web", &words);

    let file = host.root().join("var/lib/bulkhead/guests/web/guest.toml");
    let text = std::fs::read_to_string(file).expect("guest.toml");
    for line in [
        "limit = 0.25",
        "limit = \"48M\"",
        "team = \"shop\"",
        "hostname = \"shop\"",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    let memory = in_force(
        &host,
        "web",
        "memory",
        "memory.limit_in_bytes",
        "memory.max",
    );
    assert_eq!(memory, (48 << 20).to_string());
    assert_eq!(in_force(&host, "web", "pids", "pids.max", "pids.max"), "99");
    let quota = in_force(&host, "web", "cpu", "cpu.cfs_quota_us", "cpu.max");
    let quota: u64 = quota
        .split(' ')
        .next()
        .expect("a word")
        .parse()
        .expect("a number");
    assert!((20_000..=30_000).contains(&quota), "{quota} of 100000");

    let first = "tr '\\0' '\\n' < /proc/1/environ | grep COLOUR";
    assert_eq!(inside(&host, "web", first), "COLOUR=blue");
    assert_eq!(
        inside(&host, "web", "hostname; cat /etc/timezone"),
        "shop\nEurope/Berlin"
    );
    assert_eq!(inside(&host, "web", "hostname -f"), "shop.example.org");
    assert_eq!(inside(&host, "web", "ulimit -n; ulimit -Hn"), "100\n200");
    assert_eq!(
        inside(&host, "web", "cat /proc/sys/net/ipv4/ip_forward"),
        "1"
    );
    let size = inside(
        &host,
        "web",
        "df -k /scratch | tail -n 1 | awk '{print $2}'",
    );
    assert_eq!(size, "3072");
    inside(
        &host,
        "web",
        "test -c /dev/loop-control && test ! -e /dev/kmsg",
    );
    let caps = inside(&host, "web", "grep CapBnd /proc/1/status | cut -f 2");
    let caps = u64::from_str_radix(&caps, 16).expect("hexadecimal digits");
    assert_eq!(caps & 1 << 13, 0, "CAP_NET_RAW is dropped: {caps:x}");

    // Root inside and out see the same owner, because the mount's ids are shifted.
    inside(
        &host,
        "web",
        "echo hello > /data/note && test $(stat -c %u /data/note) = 0",
    );
    let meta = std::fs::metadata(host.root().join("data/note")).expect("written from inside");
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&meta), 0);
    let relaxations = info(&host, "web")["relaxations"].to_string();
    assert!(relaxations.contains("/dev/loop-control"), "{relaxations}");
}

#[test]
fn list_and_info_speak_every_format() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    scripted(
        &host,
        "web",
        "sleep 1000",
        &["--label", "team=a", "--start"],
    );
    made(&host, "db", &["--label", "team=b", "--network", "none"]);
    let table = host.ok(&["list"]);
    let head = table.lines().next().unwrap_or_default();
    assert!(
        head.starts_with("NAME ") && head.contains("STATUS"),
        "{table}"
    );
    assert_eq!(table.lines().count(), 3, "{table}");
    let rows = data(&host, &["list"]);
    assert_eq!(
        (&rows[0]["name"], &rows[0]["status"]),
        (&"db".into(), &"stopped".into())
    );
    assert_eq!(
        (&rows[1]["name"], &rows[1]["status"]),
        (&"web".into(), &"running".into())
    );
    let csv = host.ok(&["list", "--format", "csv"]);
    assert!(csv.starts_with("name,status,address,"), "{csv}");
    assert!(csv.contains("\nweb,running,10."), "{csv}");
    let yaml = host.ok(&["list", "--format", "yaml"]);
    assert!(yaml.contains("- name: db\n  status: stopped\n"), "{yaml}");
    for format in ["table", "json", "yaml", "csv"] {
        let text = host.ok(&["info", "web", "--format", format]);
        assert!(
            text.contains("running") && text.contains("10."),
            "{format}: {text}"
        );
    }
    let chosen = data(&host, &["list", "--select", "team=b"]);
    assert_eq!(chosen.as_array().map(Vec::len), Some(1), "{chosen}");
    assert_eq!(chosen[0]["address"], serde_json::Value::Null);
}

#[test]
fn stop_uses_the_signal_of_the_init_and_then_kills() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    let polite = "trap 'echo bye; exit 0' USR1; while :; do sleep 0.05; done";
    scripted(
        &host,
        "polite",
        polite,
        &["--stop-signal", "USR1", "--start"],
    );
    scripted(
        &host,
        "deaf",
        "trap '' TERM; while :; do sleep 0.05; done",
        &["--start"],
    );
    let said = host.ok(&["stop", "polite"]);
    assert!(said.contains("polite: stopped"), "{said}");
    assert!(host.ok(&["logs", "polite"]).contains("bye"));
    let began = Instant::now();
    let said = host.ok(&["stop", "deaf", "--timeout", "300ms"]);
    assert!(said.contains("deaf: killed"), "{said}");
    let took = began.elapsed();
    assert!(
        took >= Duration::from_millis(300) && took < Duration::from_secs(15),
        "{took:?}"
    );
    assert_eq!(info(&host, "deaf")["last_end"]["reason"], "killed");
    let again = host.ok(&["stop", "deaf", "polite"]);
    assert_eq!(again.matches("was not running").count(), 2, "{again}");
}

#[test]
fn kill_with_a_signal_reaches_the_init_alone() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    let script = "trap 'echo got-usr2' USR2; echo up; while :; do sleep 0.05; done";
    scripted(&host, "web", script, &["--start"]);
    eventually("it is up", 5, || host.ok(&["logs", "web"]).contains("up"));
    host.ok(&["kill", "web", "--signal", "USR2"]);
    eventually("the signal is heard", 5, || {
        host.ok(&["logs", "web"]).contains("got-usr2")
    });
    assert!(is(&host, "web", "running"));
    host.fails(&["kill", "web", "--signal", "NOPE"], 2);
    host.ok(&["kill", "web"]);
    assert!(is(&host, "web", "stopped"));
}

#[test]
fn a_paused_guest_stands_still() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    scripted(
        &host,
        "web",
        "while :; do echo tick; sleep 0.02; done",
        &["--start"],
    );
    let ticks = || host.ok(&["logs", "web"]).matches("tick").count();
    eventually("it ticks", 5, || ticks() > 3);
    host.ok(&["pause", "web"]);
    assert!(is(&host, "web", "paused"));
    let before = ticks();
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(before, ticks());
    let why = host.fails(&["exec", "web", "true"], 125);
    assert!(
        why.contains("it is paused") && why.contains("resume"),
        "{why}"
    );
    host.ok(&["resume", "web"]);
    eventually("it ticks again", 5, || ticks() > before);
    // A frozen guest can be ended.
    host.ok(&["pause", "web"]);
    host.ok(&["stop", "web", "--timeout", "100ms"]);
    assert!(is(&host, "web", "stopped"));
    let kinds = events(&host, "web");
    let wanted = [
        "created", "started", "paused", "resumed", "paused", "exited",
    ];
    assert_eq!(kinds, wanted);
}

#[test]
fn its_own_reboot_poweroff_and_halt_do_what_they_say() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    started(&host, "web", &[]);
    let before = info(&host, "web");
    // It ends whatever runs in it, this too.
    host.run(&["exec", "web", "reboot", "-f"]);
    eventually("it runs again", 10, || {
        let now = info(&host, "web");
        now["status"] == "running" && now["pid"] != before["pid"]
    });
    let after = info(&host, "web");
    assert_eq!(before["address"], after["address"]);
    assert!(host.ok(&["logs", "web"]).contains("rebooted itself"));
    for verb in ["poweroff", "halt"] {
        host.run(&["start", "web"]);
        host.ok(&["wait", "web", "running", "--timeout", "10s"]);
        host.run(&["exec", "web", verb, "-f"]);
        host.ok(&["wait", "web", "stopped", "--timeout", "10s"]);
        assert_eq!(
            info(&host, "web")["last_end"]["reason"],
            "poweroff",
            "{verb}"
        );
    }
}

#[test]
fn restart_policies_back_off_and_give_up() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    let policy = [
        "--restart",
        "on-failure",
        "--restart-delay",
        "100ms",
        "--restart-delay-max",
    ];
    let flags = [&policy[..], &["200ms", "--restart-attempts", "3"]].concat();
    let told = |code| format!("{UNTIL_TOLD}; sleep 0.3; exit {code}");
    scripted(&host, "fails", &told(3), &flags);
    scripted(&host, "fine", &told(0), &flags);
    host.ok(&["start", "fails", "fine"]);
    host.ok(&["exec", "fails", "touch", "/go"]);
    host.ok(&["exec", "fine", "touch", "/go"]);
    eventually("it gives up", 60, || {
        events(&host, "fails").contains(&"gave-up".to_owned())
    });
    let kinds = events(&host, "fails");
    assert_eq!(
        kinds.iter().filter(|kind| *kind == "restarted").count(),
        3,
        "{kinds:?}"
    );
    assert!(is(&host, "fails", "stopped"));
    let text = host.ok(&["events", "fails"]);
    assert!(text.contains("ended: exited with code 3"), "{text}");
    // A policy given to a running guest is in force at once.
    scripted(&host, "late", &told(3), &["--start"]);
    let said = host.ok(&[
        "set",
        "late",
        "restart.policy=always",
        "restart.delay=100ms",
    ]);
    assert!(
        said.contains("in force: restart.policy, restart.delay"),
        "{said}"
    );
    host.ok(&["exec", "late", "touch", "/go"]);
    eventually("it starts again", 20, || {
        events(&host, "late").contains(&"restarted".to_owned())
    });
    let end = info(&host, "fine");
    assert_eq!(
        (&end["status"], &end["last_end"]["code"]),
        (&"stopped".into(), &0.into())
    );
    assert!(!events(&host, "fine").contains(&"restarted".to_owned()));
}

#[test]
fn a_guest_that_waits_for_its_restart_can_be_stopped() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    let flags = ["--restart", "always", "--restart-delay", "1m", "--start"];
    scripted(&host, "web", "sleep 3; exit 1", &flags);
    eventually("it waits", 30, || is(&host, "web", "restarting"));
    host.ok(&["stop", "web"]);
    assert!(is(&host, "web", "stopped"));
    host.ok(&["start", "web"]);
    assert!(is(&host, "web", "running"));
}

#[test]
fn an_out_of_memory_kill_is_told_everywhere() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    started(&host, "hog", &["--memory", "16M"]);
    scripted(&host, "neighbour", "sleep 1000", &["--start"]);
    host.run(&["exec", "hog", "--", "tail", "/dev/zero"]);
    eventually("the event", 10, || {
        events(&host, "hog").contains(&"out-of-memory".to_owned())
    });
    for verb in ["events", "info", "logs"] {
        let text = host.ok(&[verb, "hog"]);
        assert!(text.contains("out of memory"), "{verb}: {text}");
    }
    assert!(info(&host, "hog")["usage"]["oom_kills"].as_u64() >= Some(1));
    assert!(is(&host, "hog", "running") && is(&host, "neighbour", "running"));
    assert!(!events(&host, "neighbour").contains(&"out-of-memory".to_owned()));
    // An init that dies of it is a guest that ended for that reason.
    scripted(
        &host,
        "first",
        // In an emulated machine its keeper is not watching yet by then.
        "sleep 0.2; exec tail /dev/zero",
        &["--memory", "16M", "--start"],
    );
    host.ok(&["wait", "first", "stopped", "--timeout", "20s"]);
    assert_eq!(info(&host, "first")["last_end"]["reason"], "out-of-memory");
}

#[test]
fn wait_waits_and_gives_up() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    scripted(&host, "web", UNTIL_TOLD, &[]);
    let why = host.fails(&["wait", "web", "running", "--timeout", "200ms"], 1);
    assert!(why.contains("web is stopped"), "{why}");
    host.fails(&["wait", "wbe", "stopped"], 3);
    host.fails(&["wait", "web", "asleep"], 2);
    host.ok(&["wait", "web", "stopped"]);
    let waiter = host
        .command(&["wait", "web", "ip", "--timeout", "60s"])
        .spawn();
    let mut waiter = waiter.expect("the program");
    host.ok(&["start", "web"]);
    assert!(waiter.wait().expect("a child of ours").success());
    host.ok(&["exec", "web", "touch", "/go"]);
    host.ok(&["wait", "web", "stopped", "--timeout", "20s"]);
    let go = "var/lib/bulkhead/guests/web/root/upper/go";
    std::fs::remove_file(host.root().join(go)).expect("a file of the guest's");
    host.ok(&["restart", "web"]);
    host.ok(&["wait", "web", "ready", "--timeout", "20s"]);
}

#[test]
fn many_guests_at_once() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    for (name, team) in [("a", "x"), ("b", "x"), ("c", "y")] {
        scripted(
            &host,
            name,
            "sleep 1000",
            &["--label", &format!("team={team}")],
        );
    }
    let before = snapshot(&host);
    let said = host.ok(&["start", "--all", "--dry-run"]);
    assert_eq!(said.matches("would start").count(), 3, "{said}");
    unchanged(&host, &before);
    let said = host.ok(&["start", "--select", "team=x", "-j", "2"]);
    assert!(
        said.contains("a: started") && said.contains("b: started"),
        "{said}"
    );
    assert!(is(&host, "b", "running") && is(&host, "c", "stopped"));
    let done = data(&host, &["start", "--all", "-j", "3"]);
    assert_eq!(
        done.as_array().map(Vec::len),
        Some(1),
        "those that run are passed over: {done}"
    );
    let done = data(&host, &["kill", "--all", "-j", "3"]);
    assert_eq!(done.as_array().map(Vec::len), Some(3), "{done}");
    // The highest code of all, and the others are done.
    let done = host.run(&["start", "a", "nobody", "c"]);
    assert_eq!(done.code, 3, "{}", done.report());
    assert!(is(&host, "a", "running") && is(&host, "c", "running"));
    host.fails(&["start", "a", "nobody"], 4);
    host.fails(&["delete", "--all"], 2);
    host.ok(&["delete", "--all", "--force", "-j", "3"]);
    assert_eq!(data(&host, &["list"]).as_array().map(Vec::len), Some(0));
}

#[test]
fn a_boot_starts_what_it_should_in_order() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    let auto = |more: &[&str]| [&["--autostart"], more].concat().join(" ");
    for (name, flags) in [
        ("a", auto(&["--start-after", "db"])),
        ("db", auto(&["--start-priority", "-5"])),
        ("first", auto(&["--start-priority", "10"])),
        ("off", String::new()),
    ] {
        let flags: Vec<&str> = flags.split_whitespace().collect();
        scripted(&host, name, "sleep 1000", &flags);
    }
    host.ok(&["start", "--autostart"]);
    let all = data(&host, &["events"]);
    let started = all.as_array().expect("a list").iter();
    let started: Vec<&str> = started
        .filter(|event| event["event"] == "started")
        .filter_map(|event| event["guest"].as_str())
        .collect();
    assert_eq!(started, ["first", "db", "a"]);
    // Without the one it comes after, it is not started.
    host.ok(&["kill", "--all"]);
    host.ok(&["set", "db", "init.command=/no/such"]);
    let done = host.run(&["start", "--autostart", "-j", "2"]);
    assert_ne!(done.code, 0);
    assert!(
        done.stderr.contains("it comes after db"),
        "{}",
        done.report()
    );
    assert!(is(&host, "first", "running") && is(&host, "a", "stopped"));
}

#[test]
fn a_guest_outlives_its_keeper() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    started(&host, "web", &[]);
    let run = host.root().join("run/bulkhead/guests/web/state.json");
    let state = std::fs::read_to_string(run).expect("a run state");
    let state: serde_json::Value = serde_json::from_str(&state).expect("JSON");
    let keeper = state["keeper"]["pid"].as_i64().expect("a pid");
    let keeper = i32::try_from(keeper).expect("a pid");
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(keeper),
        nix::sys::signal::SIGKILL,
    )
    .expect("the keeper");
    eventually("list says so", 5, || {
        host.ok(&["list"]).contains("its keeper is gone")
    });
    assert!(is(&host, "web", "running"));
    inside(&host, "web", "echo alive > /dev/console");
    assert!(!host.ok(&["list"]).contains("keeper"));
    assert!(events(&host, "web").contains(&"keeper-replaced".to_owned()));
    eventually("the new console works", 10, || {
        inside(&host, "web", "echo again > /dev/console");
        host.ok(&["logs", "web"]).contains("again")
    });
    // The new keeper sees how it ends, as far as the kernel tells one that is no parent (since 6.15).
    host.run(&["exec", "web", "poweroff", "-f"]);
    host.ok(&["wait", "web", "stopped", "--timeout", "10s"]);
    let end = &info(&host, "web")["last_end"];
    let told = (&end["reason"], &end["signal"]);
    if kernel_version() >= (6, 15) {
        assert_eq!(told, (&"signal".into(), &9.into()));
    } else {
        assert_eq!(told, (&"unknown".into(), &serde_json::Value::Null));
    }
}

/// Major and minor number of the running kernel.
fn kernel_version() -> (u32, u32) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("a mounted /proc");
    let mut numbers = release.split('.').map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}
