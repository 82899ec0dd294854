//! What the host can keep of what guests are guaranteed: refusals to the last hundredth and byte,
//! races, deaths, restarts; and what is left for more.

use std::process::{Child, Stdio};

use crate::life;
use crate::life::{data, info, scripted};
use crate::support::{Bulkhead, Need, eventually, need, run};
use serde_json::Value;

/// CPUs of this machine.
fn cpus(host: &Bulkhead) -> u64 {
    resource(host, "cpus")["host"].as_u64().expect("a number") / 100
}

/// One resource of `capacity`.
#[track_caller]
fn resource(host: &Bulkhead, name: &str) -> Value {
    let all = data(host, &["capacity"]);
    let rows = all["resources"].as_array().expect("a list").clone();
    let found = rows.into_iter().find(|row| row["resource"] == name);
    found.unwrap_or_else(|| panic!("{all}"))
}

/// Host settings.
fn settings(host: &Bulkhead, text: &str) {
    let etc = host.root().join("etc/bulkhead");
    std::fs::create_dir_all(&etc).expect("a folder of ours");
    std::fs::write(etc.join("bulkhead.toml"), text).expect("a folder of ours");
}

/// A host of which half a CPU may be promised; says how many it has.
fn half_a_cpu(host: &Bulkhead) -> u64 {
    let cpus = cpus(host);
    let (whole, half) = (cpus - 1, if cpus > 1 { ".5" } else { "0.5" });
    let reserve = if cpus > 1 {
        format!("{whole}{half}")
    } else {
        half.to_owned()
    };
    settings(host, &format!("[reserve]\ncpus = {reserve}\n"));
    cpus
}

/// A guest that is guaranteed so much of a CPU; not started.
fn entitled(host: &Bulkhead, name: &str, cpus: &str, more: &[&str]) {
    let flags = ["--entitled", cpus, "--network", "none"];
    scripted(host, name, "sleep 1000", &[&flags[..], more].concat());
}

fn state(host: &Bulkhead, name: &str) -> String {
    let file = host
        .root()
        .join(format!("run/bulkhead/guests/{name}/state.json"));
    std::fs::read_to_string(file).expect("a running guest's state")
}

#[test]
fn a_guarantee_too_many_is_refused_to_the_hundredth() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    let cpus = half_a_cpu(&host);
    for (name, share) in [("a", "0.3"), ("b", "0.2"), ("c", "0.01"), ("plain", "none")] {
        entitled(&host, name, share, &[]);
    }
    host.ok(&["start", "a", "b", "plain"]);
    let why = host.fails(&["start", "c"], 5);
    let reserve = if cpus > 1 {
        format!("{}.5", cpus - 1)
    } else {
        "0.5".into()
    };
    let told = format!(
        "error: cannot start guest c: no room for guest c: it is to be guaranteed 0.01 CPUs and \
         0 CPUs are left, 0.01 CPUs too few (this host has {cpus} CPUs, {reserve} CPUs of them in \
         reserve; the rest counts 1 times; running guests are guaranteed 0.5 CPUs); lower \
         cpu.entitled, or stop guests that are guaranteed 0.01 CPUs, or say \
         `start --force`\n"
    );
    assert_eq!(why, told);
    host.fails(&["start", "c", "--dry-run"], 5);
    assert_eq!(info(&host, "c")["status"], "stopped");

    // A running guest is held to the same, and what it has it keeps.
    let before = state(&host, "a");
    let why = host.fails(&["set", "a", "cpu.entitled=0.31"], 5);
    assert!(
        why.contains("0.01 CPUs too few") && why.contains("or say `set --force`"),
        "{why}"
    );
    host.fails(&["set", "a", "cpu.entitled=0.31", "--dry-run"], 5);
    assert_eq!(state(&host, "a"), before);
    assert_eq!(host.ok(&["get", "a", "cpu.entitled"]), "0.3\n");
    host.ok(&["set", "a", "cpu.entitled=0.29"]);
    host.ok(&["start", "c"]);
    assert_eq!(resource(&host, "cpus")["guaranteed"], 50);
    assert_eq!(resource(&host, "cpus")["free"], 0);

    // Stopped guests hold no place.
    host.ok(&["kill", "c"]);
    host.ok(&["set", "a", "cpu.entitled=0.3"]);
    host.fails(&["start", "c"], 5);
    // Who insists starts, and counts.
    host.ok(&["start", "c", "--force"]);
    assert_eq!(resource(&host, "cpus")["guaranteed"], 51);
    host.ok(&["kill", "b"]);
    host.fails(&["set", "c", "cpu.entitled=0.21"], 5);
    host.ok(&["set", "c", "cpu.entitled=0.2"]);
    host.ok(&["set", "c", "cpu.entitled=0.21", "--force", "--dry-run"]);
    host.ok(&["set", "c", "cpu.entitled=0.21", "--force"]);
    assert_eq!(resource(&host, "cpus")["guaranteed"], 51);
    // Where nobody may insist, nobody can.
    let file = host.root().join("etc/bulkhead/bulkhead.toml");
    let text = std::fs::read_to_string(&file).expect("settings");
    settings(&host, &format!("{text}[overcommit]\nforce = false\n"));
    for insist in [
        &["start", "b", "--force"][..],
        &["set", "c", "cpu.entitled=0.22", "--force"],
    ] {
        let why = host.fails(insist, 5);
        assert!(why.contains("overcommit.force is false"), "{why}");
    }
    let why = host.fails(&["start", "b"], 5);
    assert!(!why.contains("--force"), "{why}");
}

#[test]
fn memory_is_counted_to_the_byte() {
    if !need(Need::Root) || !need(Need::CgroupV2) {
        return;
    }
    let host = Bulkhead::new();
    let there = resource(&host, "memory")["host"].as_u64().expect("bytes");
    // Of a quarter more than 64M: exactly 80M.
    let reserve = there - (64 << 20);
    let text = format!("[reserve]\nmemory = {reserve}\n[overcommit]\nmemory = 1.25\n");
    settings(&host, &text);
    let keep = |name: &str, bytes: u64| {
        let low = bytes.to_string();
        let flags = [
            "--memory",
            "128M",
            "--memory-low",
            &low,
            "--network",
            "none",
        ];
        scripted(&host, name, "sleep 1000", &flags);
    };
    keep("a", 50 << 20);
    keep("b", (30 << 20) + 1);
    host.ok(&["start", "a"]);
    let why = host.fails(&["start", "b"], 5);
    assert!(
        why.contains("31457281 bytes of memory and 31457280 bytes are left, 1 bytes"),
        "{why}"
    );
    host.ok(&["set", "b", "memory.low=30M"]);
    host.ok(&["start", "b"]);
    assert_eq!(resource(&host, "memory")["free"], 0);
}

#[test]
fn disks_are_sold_to_the_byte() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    host.ok(&["pool", "create", "p", "--driver", "image"]);
    let disk = || data(&host, &["capacity"])["disks"][0].clone();
    let there = disk()["host"].as_u64().expect("bytes");
    assert!(disk()["pools"].to_string().contains("\"p\""), "{}", disk());
    // Of a quarter more than 80M: exactly 100M, of both pools together.
    let reserve = there - (80 << 20);
    settings(
        &host,
        &format!("[reserve]\ndisk = {reserve}\n[overcommit]\ndisk = 1.25\n"),
    );
    let create = |name: &str, size: &str| {
        let mut command = host.command(&["create", name, "--template", "busybox"]);
        command.args(["--pool", "p", "--network", "none", "--disk", size]);
        command
    };
    assert_eq!(run(create("a", "64M")).code, 0);
    let why = run(create("b", "37748737"));
    assert_eq!(why.code, 5, "{}", why.stderr);
    let wanted = "to have 37748737 bytes, and 37748736 bytes are left, 1 bytes too few";
    assert!(why.stderr.contains(wanted), "{}", why.stderr);
    let both = ["b", "c"].map(|name| {
        let mut command = create(name, "36M");
        command.stderr(Stdio::null()).spawn().expect("our program")
    });
    let codes = both.map(|mut child: Child| child.wait().expect("a child").code());
    assert!(
        codes == [Some(0), Some(5)] || codes == [Some(5), Some(0)],
        "{codes:?}"
    );
    assert_eq!(
        (disk()["sold"].as_u64(), disk()["free"].as_u64()),
        (Some(100 << 20), Some(0))
    );
    // Deleted guests leave room; what is too much is refused of `set` too, and nothing is changed.
    host.fails(&["set", "a", "disk.size=65M"], 5);
    assert_eq!(host.ok(&["get", "a", "disk.size"]).trim(), "64M");
    for name in ["b", "c"] {
        host.run(&["delete", "--force", "--yes", name]);
    }
    host.ok(&["set", "a", "disk.size=100M"]);
    // Nor does a definition of before bring more.
    host.ok(&["snapshot", "create", "a", "s"]);
    let record = host
        .root()
        .join("var/lib/bulkhead/guests/a/snapshots/s.json");
    let text = std::fs::read_to_string(&record).expect("a record");
    assert!(text.contains("100M"), "{text}");
    std::fs::write(&record, text.replace("100M", "101M")).expect("a record");
    let why = host.fails(&["snapshot", "restore", "a", "s", "--definition"], 5);
    assert!(why.contains("too few"), "{why}");
    host.ok(&["snapshot", "delete", "a", "s"]);
    let profiles = host.root().join("etc/bulkhead/profiles");
    std::fs::create_dir_all(&profiles).expect("a folder of ours");
    let text = "description = \"sold\"\n[disk]\npool = \"p\"\nsize = \"32M\"\n";
    std::fs::write(profiles.join("sold.toml"), text).expect("a folder of ours");
    settings(
        &host,
        &format!("[reserve]\ndisk = {reserve}\n[overcommit]\ndisk = 2.5\n"),
    );
    let fit = data(&host, &["capacity", "fit", "sold"]);
    assert_eq!(
        (fit["more"].as_u64(), fit["then"].as_str()),
        (Some(3), Some("disk")),
        "{fit}"
    );
}

#[test]
fn two_at_once_do_not_take_the_same_place() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    half_a_cpu(&host);
    let names = ["a", "b", "c"];
    for name in names {
        entitled(&host, name, "0.3", &[]);
    }
    let start = |name: &&str| -> Child {
        let mut command = host.command(&["start", name]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().expect("the program")
    };
    for _ in 0..8 {
        let children: Vec<Child> = names.iter().map(start).collect();
        let ends = children.into_iter().map(|mut child| {
            let status = child.wait().expect("a child of ours");
            status.code().expect("it ends by itself")
        });
        let mut codes: Vec<i32> = ends.collect();
        codes.sort_unstable();
        assert_eq!(codes, [0, 5, 5]);
        host.ok(&["kill", "--all"]);
    }
}

/// A launch that is killed, wherever, holds no place and no lock.
#[test]
fn whoever_is_killed_blocks_nobody() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    half_a_cpu(&host);
    entitled(&host, "a", "0.5", &[]);
    entitled(&host, "b", "0.5", &[]);
    let mut killed = 0;
    for number in 0..8 {
        let mut command = host.command(&["start", "a"]);
        command.env("BULKHEAD_FAULT", format!("launch:{number}"));
        let done = run(command);
        if done.code == 0 {
            host.ok(&["kill", "a"]);
            continue;
        }
        killed += 1;
        host.ok(&["start", "b"]);
        host.ok(&["kill", "b"]);
    }
    assert!(killed >= 6, "{killed}");
    // A change that is killed leaves the guest with what it had or what it was to have.
    entitled(&host, "small", "0.1", &["--start"]);
    for number in 0..12 {
        let mut command = host.command(&["set", "small", "cpu.entitled=0.2"]);
        command.env("BULKHEAD_FAULT", format!("command:{number}"));
        let done = run(command);
        let now = resource(&host, "cpus")["guaranteed"].as_u64();
        assert!(matches!(now, Some(10 | 20)), "{number}: {now:?}");
        if done.code == 0 {
            assert!(number >= 3, "{number} points");
            break;
        }
        host.ok(&["set", "small", "cpu.entitled=0.1"]);
    }
    host.ok(&["delete", "--force", "a", "b", "small"]);
    assert_eq!(
        data(&host, &["doctor", "--fix"])["leftovers"]
            .as_array()
            .map(Vec::len),
        Some(0)
    );
}

#[test]
fn a_restart_that_would_find_no_room_is_refused_before_the_guest_is_stopped() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    half_a_cpu(&host);
    for (name, share) in [("a", "0.3"), ("b", "0.2")] {
        entitled(&host, name, share, &["--start"]);
    }
    host.ok(&["set", "b", "cpu.entitled=0.21", "--force"]);
    let pid = info(&host, "b")["pid"].clone();
    let why = host.fails(&["restart", "b"], 5);
    let advice = "lower cpu.entitled to 0.2 CPUs";
    assert!(
        why.contains("; it runs on") && why.contains(advice),
        "{why}"
    );
    assert_eq!(info(&host, "b")["pid"], pid);
    // What it has had does not count against it.
    host.ok(&["set", "b", "cpu.entitled=0.2"]);
    host.ok(&["restart", "b", "--timeout", "0s"]);
    assert_ne!(info(&host, "b")["pid"], pid);
}

#[test]
fn a_guest_that_starts_again_keeps_its_place() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    half_a_cpu(&host);
    let again = ["--restart", "always", "--restart-delay", "3s"];
    entitled(&host, "a", "0.5", &again);
    entitled(&host, "b", "0.5", &[]);
    host.ok(&["start", "a"]);
    let pid = info(&host, "a")["pid"].as_i64().expect("a pid");
    host.ok(&["kill", "a", "--signal", "KILL"]);
    eventually("it waits to start again", 10, || {
        info(&host, "a")["status"] == "restarting"
    });
    host.fails(&["start", "b"], 5);
    eventually("it runs again", 20, || {
        info(&host, "a")["status"] == "running"
    });
    assert_ne!(info(&host, "a")["pid"].as_i64(), Some(pid));
    host.fails(&["start", "b"], 5);
    host.ok(&["kill", "a"]);
    host.ok(&["start", "b"]);
}

/// Without a guarantee nothing is refused, nothing is looked at and no lock is taken, whatever the
/// settings are; with the usual settings the whole machine can be promised.
#[test]
fn who_is_guaranteed_nothing_is_asked_nothing() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    let cpus = cpus(&host);
    let lock = host.root().join("run/bulkhead/admission.lock");
    settings(&host, "[reserve]\nmemory = \"1000T\"\ncpus = 4000\n");
    for name in ["a", "b"] {
        let flags = [
            "--memory",
            "100G",
            "--cpus",
            &cpus.to_string(),
            "--network",
            "none",
        ];
        scripted(
            &host,
            name,
            "sleep 1000",
            &[&flags[..], &["--start"]].concat(),
        );
    }
    assert!(!state(&host, "a").contains("guaranteed"));
    assert!(!lock.exists());
    settings(&host, "");
    entitled(&host, "all", &cpus.to_string(), &["--start"]);
    assert!(lock.exists());
    entitled(&host, "more", "0.01", &[]);
    host.fails(&["start", "more"], 5);
    // Twice the machine is for who says so.
    settings(&host, "[overcommit]\ncpus = 2\n");
    host.ok(&["start", "more"]);
    assert_eq!(resource(&host, "cpus")["whole"], cpus * 200);
}

#[test]
fn what_is_left_is_told_by_size() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    let cpus = cpus(&host);
    let profiles = host.root().join("etc/bulkhead/profiles");
    std::fs::create_dir_all(&profiles).expect("a folder of ours");
    let half = "description = \"d\"\n[cpu]\nlimit = 1\nentitled = 0.5\n[memory]\nlimit = \"4M\"\n";
    std::fs::write(profiles.join("half.toml"), half).expect("ours");
    let all = (cpus * 2).to_string();
    settings(&host, "[overcommit]\nmemory = 100\ncpus = 1\n");
    // Sold by their limits first.
    let many = data(
        &host,
        &["capacity", "fit", "half", "--count", &cpus.to_string()],
    );
    assert_eq!((&many["more"], &many["fits"]), (&cpus.into(), &true.into()));
    assert_eq!(many["then"], "cpus");
    let done = host.run(&["capacity", "fit", "half", "--count", &all]);
    assert_eq!(done.code, 5, "{}", done.report());
    let told = format!("{all} of half do not fit: {cpus} more of half, then CPUs are the limit\n");
    assert_eq!(done.stdout, told);
    host.fails(&["capacity", "fit", "hlf"], 5);

    entitled(
        &host,
        "one",
        "0.5",
        &["--cpus", "1", "--memory", "64M", "--start"],
    );
    entitled(&host, "off", "0.5", &["--cpus", "1"]);
    let row = resource(&host, "cpus");
    let numbers = ["guaranteed", "free", "sold", "unlimited"].map(|key| row[key].as_u64());
    let wanted = [50, cpus * 100 - 50, 100, 0].map(Some);
    assert_eq!(numbers, wanted, "{row}");
    let memory = resource(&host, "memory");
    assert_eq!(memory["sold"], 64 << 20);
    assert!(memory["used"].as_u64() > Some(0), "{memory}");
    let left = data(&host, &["capacity", "fit", "half"]);
    assert_eq!(left["more"], cpus - 1);
    let text = host.ok(&["capacity"]);
    assert!(text.contains("more of small, then "), "{text}");
    if cpus < 4 {
        let none = format!("4 is more than there are: this machine has {cpus} CPU");
        assert!(
            text.contains("no xlarge: ") && text.contains(&none),
            "{text}"
        );
    }
    let csv = host.ok(&["capacity", "--format", "csv"]);
    assert!(csv.starts_with("resource,host,reserve,"), "{csv}");
    // The most of a week, as keepers have written it down; never less than what is used now.
    let day = |ago: u64| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let ms = now.expect("after 1970").as_secs() * 1000 - ago * 86_400_000;
        bulkhead::model::clock::time(ms)[..10].to_owned()
    };
    let peaks = serde_json::json!({"at_ms": 0, "cpu_us": 0, "days": {
        day(3): {"memory": 1_u64 << 40, "cpus": 0},
        day(9): {"memory": 1_u64 << 41, "cpus": 999_900},
    }});
    let path = host.root().join("var/lib/bulkhead/peaks.json");
    std::fs::write(&path, peaks.to_string()).expect("ours");
    assert_eq!(resource(&host, "memory")["peak"], 1_u64 << 40);
    let cpus = resource(&host, "cpus");
    assert!(cpus["peak"].as_u64() < Some(999_900), "{cpus}");
    std::fs::write(&path, "{").expect("ours");
    let memory = resource(&host, "memory");
    assert!(memory["peak"].as_u64() > Some(0), "{memory}");
    // Under contention a guest gets what it is entitled to.
    assert_eq!(host.ok(&["get", "one", "cpu.weight"]), "50\n");
}

#[test]
fn a_host_cut_into_slices_has_room_for_all_of_them_and_no_more() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    // What the slices are cut from; an overcommit must not make them larger.
    settings(
        &host,
        "[reserve]\nmemory = \"1G\"\n[overcommit]\ncpus = 4\nmemory = 4\n",
    );
    let slice = data(&host, &["capacity", "split", "-n", "3"]);
    let of = |name: &str| resource(&host, name);
    let rest = of("memory")["host"].as_u64().unwrap() - (1 << 30);
    assert_eq!(
        slice["memory"].as_u64().unwrap(),
        rest / 3 / (1 << 20) * (1 << 20)
    );
    assert_eq!(slice["cpus"].as_u64().unwrap(), cpus(&host) * 100 / 3);
    assert_eq!(slice["file"], Value::Null);

    host.ok(&["capacity", "split", "-n", "3", "--write", "third"]);
    let why = host.fails(&["capacity", "split", "-n", "4", "--write", "third"], 5);
    assert!(why.contains("there is one of that name"), "{why}");
    let why = host.fails(&["capacity", "split", "-n", "4", "--write", "../third"], 5);
    assert!(why.contains("small letters"), "{why}");
    let why = host.fails(&["capacity", "split", "-n", "1000000"], 5);
    assert!(why.contains("cut fewer"), "{why}");

    settings(&host, "[reserve]\nmemory = \"1G\"\n");
    for name in ["a", "b", "c", "d"] {
        scripted(
            &host,
            name,
            "sleep 1000",
            &["--profile", "third", "--network", "none"],
        );
    }
    host.ok(&["start", "a", "b", "c"]);
    let why = host.fails(&["start", "d"], 5);
    assert!(why.contains("no room for guest d"), "{why}");
}

#[test]
fn guests_together_weigh_at_disks_what_the_host_leaves_them() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    settings(&host, "[reserve]\nio_weight = 40\n");
    scripted(&host, "a", "sleep 1000", &["--network", "none"]);
    let started = host.run(&["start", "a"]);
    if started.code != 0 {
        // A kernel without bfq and iocost: refused, and nothing is left running.
        assert!(
            started.stderr.contains("reserve.io_weight"),
            "{}",
            started.stderr
        );
        assert!(life::is(&host, "a", "stopped"));
        return;
    }
    let weight = || {
        let (one, two) = ("../blkio.bfq.weight", "../io.weight");
        let text = life::in_force(&host, "a", "blkio", one, two);
        text.lines()
            .next()
            .and_then(|line| line.rsplit(' ').next().map(str::to_owned))
    };
    assert_eq!(weight().as_deref(), Some("40"));
    // Without the line nothing is written: somebody else may have meant another.
    settings(&host, "");
    host.ok(&["kill", "a"]);
    host.ok(&["start", "a"]);
    assert_eq!(weight().as_deref(), Some("40"));
}
