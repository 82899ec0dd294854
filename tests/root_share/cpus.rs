//! Who may run on which CPUs: dedicated guests are alone on theirs, members of a pool among themselves,
//! whoever starts, ends, changes or dies; and settings that may not change. What the kernel lets each
//! process do is what counts, and nothing is timed: `bench/dedicated.sh` measures.

use std::collections::BTreeSet;

use crate::life;
use crate::life::{data, info, scripted};
use crate::support::{Bulkhead, Need, eventually, need, run};
use serde_json::Value;

/// A guest with children that come and go; not started.
fn busy(host: &Bulkhead, name: &str, flags: &[&str]) {
    let script = "sleep 1000 & while :; do /bin/true; sleep 0.05; done";
    scripted(
        host,
        name,
        script,
        &[&["--network", "none"], flags].concat(),
    );
}

/// A guest with whole CPUs of its own.
fn own(host: &Bulkhead, name: &str, count: usize, flags: &[&str]) {
    let count = count.to_string();
    let mode = ["--cpu-mode", "dedicated", "--dedicated", &count];
    busy(host, name, &[&mode[..], flags].concat());
}

fn settings(host: &Bulkhead, text: &str) {
    let etc = host.root().join("etc/bulkhead");
    std::fs::create_dir_all(&etc).expect("a folder of ours");
    std::fs::write(etc.join("bulkhead.toml"), text).expect("a folder of ours");
}

/// `0-2,5` as numbers.
fn numbers(list: &str) -> BTreeSet<u32> {
    let part = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| text.trim().parse::<u32>().expect("a number");
        number(first)..=number(last)
    };
    list.trim().split(',').flat_map(part).collect()
}

/// CPUs of this machine that are online.
fn online() -> BTreeSet<u32> {
    numbers(&std::fs::read_to_string("/sys/devices/system/cpu/online").expect("sysfs"))
}

/// The last of them.
fn last() -> u32 {
    *online().last().expect("a CPU")
}

fn all_but_last() -> BTreeSet<u32> {
    let mut all = online();
    all.pop_last();
    all
}

fn list(cpus: &BTreeSet<u32>) -> String {
    let words: Vec<String> = cpus.iter().map(u32::to_string).collect();
    words.join(",")
}

/// Where a process may run; `None` for one that has ended.
fn allowed(pid: u64) -> Option<BTreeSet<u32>> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|l| l.strip_prefix("Cpus_allowed_list:"))?;
    Some(numbers(line))
}

/// The processes of a guest: its first one and all below it.
fn processes(host: &Bulkhead, name: &str) -> Vec<u64> {
    let init = info(host, name)["pid"].as_u64().expect("it runs");
    let mut all = vec![init];
    let mut at = 0;
    while at < all.len() {
        let file = format!("/proc/{0}/task/{0}/children", all[at]);
        let text = std::fs::read_to_string(file).unwrap_or_default();
        all.extend(
            text.split_whitespace()
                .filter_map(|pid| pid.parse::<u64>().ok()),
        );
        at += 1;
    }
    all
}

/// Fails unless all of a guest may run there and nowhere else.
#[track_caller]
fn sits(host: &Bulkhead, name: &str, cpus: &BTreeSet<u32>) {
    let elsewhere = |pid: &u64| allowed(*pid).is_some_and(|now| now != *cpus);
    let all = processes(host, name);
    let found: Vec<_> = all
        .iter()
        .filter(|pid| elsewhere(pid))
        .map(|pid| allowed(*pid))
        .collect();
    assert!(found.is_empty(), "{name} is on {found:?}, not on {cpus:?}");
    // Whoever is brought in as well.
    let status = host.ok(&[
        "exec",
        name,
        "--",
        "grep",
        "Cpus_allowed_list",
        "/proc/self/status",
    ]);
    let now = numbers(status.split(':').nth(1).expect("a list"));
    assert_eq!(now, *cpus, "a program executed in {name}");
}

fn state(host: &Bulkhead, name: &str) -> Value {
    let file = host
        .root()
        .join(format!("run/bulkhead/guests/{name}/state.json"));
    let text = std::fs::read_to_string(file).expect("a running guest's state");
    serde_json::from_str(&text).expect("JSON")
}

fn keeper(host: &Bulkhead, name: &str) -> u64 {
    state(host, name)["keeper"]["pid"].as_u64().expect("a pid")
}

fn leftovers(host: &Bulkhead, fix: bool) -> Vec<Value> {
    let flags: &[&str] = if fix {
        &["doctor", "--fix"]
    } else {
        &["doctor"]
    };
    let done = host.run(&[flags, &["--format", "json"]].concat());
    let report: Value = serde_json::from_str(&done.stdout).expect("JSON");
    report["leftovers"].as_array().expect("a list").clone()
}

fn two_cpus() -> bool {
    need(Need::Root) && need(Need::TwoCpus)
}

#[test]
fn nobody_else_runs_on_dedicated_cpus() {
    if !two_cpus() {
        return;
    }
    let host = Bulkhead::new();
    let mine: BTreeSet<u32> = [last()].into();
    busy(&host, "before", &["--start"]);
    busy(&host, "pinned", &["--cpuset", "0", "--start"]);
    own(&host, "mine", 1, &[]);
    sits(&host, "before", &online());
    host.ok(&["start", "mine"]);
    busy(&host, "after", &["--start"]);
    sits(&host, "mine", &mine);
    for other in ["before", "after"] {
        sits(&host, other, &all_but_last());
    }
    sits(&host, "pinned", &[0].into());
    if Need::CgroupV1.is_met() {
        for name in ["before", "mine", "after", "pinned"] {
            let keeper = keeper(&host, name);
            eventually("keepers are kept off as well", 10, || {
                allowed(keeper) == Some(all_but_last())
            });
        }
    }
    assert_eq!(info(&host, "mine")["runs_on"], list(&mine));
    let rows = data(&host, &["limits", "mine"]);
    let row = rows.as_array().expect("rows").iter();
    let row = row.clone().find(|row| row["resource"] == "cpus");
    assert_eq!(row.map(|row| &row["limit"]), Some(&100.into()), "{rows}");
    // What they see of it.
    for (name, cpus) in [("mine", &mine), ("after", &all_but_last())] {
        let seen = life::inside(&host, name, "cat /sys/devices/system/cpu/online; nproc");
        let (cpu, count) = seen.split_once('\n').expect("two lines");
        assert_eq!(numbers(cpu), *cpus, "{name}");
        assert_eq!(count, cpus.len().to_string(), "{name}");
    }
    let capacity = data(&host, &["capacity"]);
    assert_eq!(capacity["resources"][1]["given"], 100, "{capacity}");
    // Whatever else is changed of them.
    host.ok(&["set", "mine", "processes=300"]);
    host.ok(&["set", "before", "processes=300", "cpu.weight=50"]);
    sits(&host, "mine", &mine);
    sits(&host, "before", &all_but_last());
    assert_eq!(leftovers(&host, false), [] as [Value; 0]);
    // They have it back.
    host.ok(&["kill", "mine"]);
    for other in ["before", "after"] {
        sits(&host, other, &online());
    }
    assert!(!host.root().join("run/bulkhead/cpus.json").exists());
}

#[test]
fn modes_change_while_guests_run() {
    if !two_cpus() {
        return;
    }
    let host = Bulkhead::new();
    let mine: BTreeSet<u32> = [last()].into();
    busy(&host, "a", &["--start"]);
    busy(&host, "b", &["--start"]);
    host.ok(&["set", "a", "cpu.mode=dedicated", "cpu.dedicated=1"]);
    sits(&host, "a", &mine);
    sits(&host, "b", &all_but_last());
    host.ok(&["set", "a", "cpu.mode=shared", "cpu.dedicated=none"]);
    sits(&host, "a", &online());
    sits(&host, "b", &online());
    // Pinned, and no longer so, again and again while it forks.
    for _ in 0..5 {
        host.ok(&["set", "b", "cpu.cpuset=0"]);
        sits(&host, "b", &[0].into());
        host.ok(&["set", "b", "cpu.cpuset=none"]);
        sits(&host, "b", &online());
    }
    // A change that is refused moves nobody.
    let too_many = format!("cpu.dedicated={}", online().len());
    let why = host.fails(&["set", "a", "cpu.mode=dedicated", &too_many], 5);
    assert!(why.contains("can be given away"), "{why}");
    host.fails(
        &["set", "a", "cpu.mode=dedicated", &too_many, "--dry-run"],
        5,
    );
    sits(&host, "a", &online());
    assert_eq!(host.ok(&["get", "a", "cpu.mode"]), "shared\n");
    assert_eq!(leftovers(&host, false), [] as [Value; 0]);
}

#[test]
fn what_cannot_be_had_is_refused() {
    if !two_cpus() {
        return;
    }
    let host = Bulkhead::new();
    own(&host, "all", online().len(), &[]);
    for flags in [&[][..], &["--force"], &["--dry-run"]] {
        let why = host.fails(&[&["start", "all"], flags].concat(), 5);
        assert!(
            why.contains("guests that share keep at least 1")
                && why.contains("lower cpu.dedicated"),
            "{why}"
        );
    }
    // Who is pinned keeps what it has, and is not started where somebody is alone.
    busy(&host, "pinned", &["--cpuset", &list(&online()), "--start"]);
    own(&host, "mine", 1, &[]);
    let why = host.fails(&["start", "mine"], 5);
    assert!(why.contains("guest pinned is pinned to"), "{why}");
    host.ok(&["kill", "pinned"]);
    host.ok(&["start", "mine"]);
    let why = host.fails(&["start", "pinned"], 5);
    assert!(why.contains("is dedicated to guest mine"), "{why}");
    busy(&host, "free", &["--start"]);
    let why = host.fails(&["set", "free", &format!("cpu.cpuset={}", last())], 5);
    assert!(why.contains("is dedicated to guest mine"), "{why}");
    sits(&host, "free", &all_but_last());
    // What guests that share are guaranteed is not given away.
    host.ok(&["kill", "mine"]);
    let entitled = format!("{}", online().len());
    busy(&host, "promised", &["--entitled", &entitled, "--start"]);
    let why = host.fails(&["start", "mine"], 5);
    assert!(
        why.contains("running guests that share are guaranteed"),
        "{why}"
    );
    host.ok(&["start", "mine", "--force"]);
    sits(&host, "mine", &[last()].into());
}

#[test]
fn cpus_of_the_host_are_never_given() {
    if !two_cpus() {
        return;
    }
    let host = Bulkhead::new();
    settings(&host, "[reserve]\ncpuset = \"0\"\n");
    let mut rest = online();
    rest.remove(&0);
    busy(&host, "a", &["--start"]);
    sits(&host, "a", &rest);
    let why = host.fails(&["cpupool", "create", "p", "--cpus", &list(&online())], 5);
    assert!(why.contains("CPU 0 is the host's own ([reserve]"), "{why}");
    busy(&host, "pinned", &["--cpuset", "0"]);
    host.fails(&["start", "pinned"], 5);
    assert_eq!(data(&host, &["capacity"])["resources"][1]["reserve"], 100);
    // Reserved as an amount, at least so many CPUs stay.
    settings(&host, &format!("[reserve]\ncpus = {}\n", online().len()));
    own(&host, "mine", 1, &[]);
    let why = host.fails(&["start", "mine"], 5);
    assert!(why.contains("and 0 can be given away"), "{why}");
}

#[test]
fn members_of_a_pool_are_among_themselves() {
    if !two_cpus() {
        return;
    }
    let host = Bulkhead::new();
    let pool: BTreeSet<u32> = [last()].into();
    busy(&host, "other", &["--start"]);
    let gold = |name: &str, flags: &[&str]| {
        let mode = ["--cpu-mode", "pool", "--cpupool", "gold"];
        busy(&host, name, &[&mode[..], flags].concat());
    };
    let member = [
        "--cpu-mode",
        "pool",
        "--cpupool",
        "gold",
        "--template",
        "busybox",
    ];
    let why = host.fails(&[&["create", "early"], &member[..]].concat(), 3);
    assert!(why.contains("there is no pool of CPUs gold"), "{why}");
    host.ok(&["cpupool", "create", "gold", "--cpus", &list(&pool)]);
    // Nobody else is there, also without a member.
    sits(&host, "other", &all_but_last());
    gold("a", &["--start"]);
    gold("b", &["--entitled", "0.75", "--start"]);
    sits(&host, "a", &pool);
    sits(&host, "b", &pool);
    let told = data(&host, &["cpupool", "info", "gold"]);
    assert_eq!(told["running"], serde_json::json!(["a", "b"]));
    assert_eq!(told["guaranteed"], 75);
    // What is guaranteed there has to fit there, and takes nothing from the others.
    let why = host.fails(&["set", "a", "cpu.entitled=0.26"], 5);
    assert!(why.contains("0.25 CPUs are left there"), "{why}");
    host.ok(&["set", "a", "cpu.entitled=0.25"]);
    assert_eq!(data(&host, &["capacity"])["resources"][1]["guaranteed"], 0);
    let why = host.fails(&["cpupool", "delete", "gold"], 5);
    assert!(why.contains("it is in use by a, b"), "{why}");
    host.ok(&["set", "a", "cpu.mode=shared", "cpu.pool=none"]);
    sits(&host, "a", &all_but_last());
    host.ok(&["delete", "--force", "b"]);
    host.ok(&["cpupool", "delete", "gold"]);
    sits(&host, "other", &online());
    assert_eq!(
        host.ok(&["cpupool", "list", "--format", "json"]).trim(),
        "[]"
    );
    assert!(!host.root().join("var/lib/bulkhead/cpupools.json").exists());
}

/// What `list` says of a guest's CPUs.
fn listed(host: &Bulkhead, name: &str) -> String {
    let text = host.ok(&["list", name]);
    let heads = text.lines().next().expect("headings");
    let (from, to) = (heads.find("CPUS"), heads.find("MEMORY"));
    let row = text.lines().nth(1).expect("a row");
    row[from.expect("a column")..to.expect("a column")]
        .trim()
        .to_owned()
}

#[test]
fn a_list_says_what_each_has_of_the_cpus() {
    if !two_cpus() {
        return;
    }
    let host = Bulkhead::new();
    host.ok(&["cpupool", "create", "gold", "--cpus", &last().to_string()]);
    host.ok(&["tenant", "create", "acme", "--cpus", "0.5"]);
    busy(
        &host,
        "member",
        &["--cpu-mode", "pool", "--cpupool", "gold"],
    );
    busy(
        &host,
        "half",
        &["--cpus", "0.5", "--cpu-resize", "static", "--start"],
    );
    busy(&host, "held", &["--tenant", "acme", "--start"]);
    assert_eq!(listed(&host, "member"), "all of gold");
    assert_eq!(listed(&host, "held"), "all (0.5 now)");
    host.ok(&["set", "half", "cpu.limit=0.75"]);
    assert_eq!(listed(&host, "half"), "0.75 (0.5 now)");
    assert!(
        host.ok(&["info", "half"])
            .contains("0.75 CPUs (0.5 at this moment)")
    );
    let why = host.ok(&["capacity", "split", "-n", "2", "--format", "json"]);
    let slice: Value = serde_json::from_str(&why).expect("JSON");
    assert_eq!(slice["given"], 100);
    host.ok(&["delete", "--force", "member"]);
    host.ok(&["cpupool", "delete", "gold"]);
    own(&host, "alone", 1, &[]);
    assert_eq!(listed(&host, "alone"), "1 own");
}

#[test]
fn a_pool_moves_with_its_members() {
    if !two_cpus() {
        return;
    }
    let host = Bulkhead::new();
    let (first, rest) = (all_but_last(), BTreeSet::from([last()]));
    if first.len() < 2 {
        // A pool is never CPU 0 alone, so on two CPUs there is no other place for it.
        host.ok(&["cpupool", "create", "gold", "--cpus", &list(&rest)]);
        let why = host.fails(&["cpupool", "set", "gold", "--cpus", "0"], 5);
        assert!(why.contains("CPU 0 alone is no pool"), "{why}");
        return;
    }
    host.ok(&["cpupool", "create", "gold", "--cpus", &list(&rest)]);
    busy(
        &host,
        "a",
        &["--cpu-mode", "pool", "--cpupool", "gold", "--start"],
    );
    busy(&host, "other", &["--start"]);
    host.ok(&["cpupool", "set", "gold", "--cpus", &list(&first)]);
    sits(&host, "a", &first);
    sits(&host, "other", &rest);
}

#[test]
fn pools_that_cannot_be_are_refused() {
    if !two_cpus() {
        return;
    }
    let host = Bulkhead::new();
    let create = |name: &str, cpus: &str, code| {
        host.fails(&["cpupool", "create", name, "--cpus", cpus], code)
    };
    for name in [
        "",
        "../x",
        "a/b",
        "A",
        "none",
        "a\nb",
        "-x",
        &"a".repeat(33),
    ] {
        host.fails(&["cpupool", "create", "--cpus", "1", "--", name], 2);
        host.fails(&["cpupool", "delete", "--", name], 2);
    }
    for cpus in ["", "1-0", "x", "99999", "0-"] {
        create("gold", cpus, 2);
    }
    assert!(create("gold", "4000", 5).contains("CPU 4000 is not there or offline"));
    assert!(create("gold", "0", 5).contains("CPU 0 alone is no pool"));
    assert!(create("gold", &list(&online()), 5).contains("0 CPUs would be left"));
    host.ok(&[
        "cpupool",
        "create",
        "gold",
        "--cpus",
        &last().to_string(),
        "--dry-run",
    ]);
    host.fails(&["cpupool", "info", "gold"], 3);
    host.ok(&["cpupool", "create", "gold", "--cpus", &last().to_string()]);
    create("gold", "0", 4);
    assert!(create("silver", &last().to_string(), 5).contains("is in pool gold"));
    host.fails(&["cpupool", "delete", "gould"], 3);
    // A file that somebody has damaged stops whoever needs it, and is not written over.
    let file = host.root().join("var/lib/bulkhead/cpupools.json");
    let text = std::fs::read_to_string(&file).expect("pools");
    for bad in ["{", "{\"../x\": \"0\"}", "{\"gold\": \"\"}", "[]"] {
        std::fs::write(&file, bad).expect("ours");
        let why = host.fails(&["cpupool", "list"], 1);
        assert!(why.contains("is damaged"), "{why}");
        assert_eq!(std::fs::read_to_string(&file).expect("pools"), bad);
    }
    std::fs::write(&file, text).expect("ours");
    host.ok(&["cpupool", "delete", "gold"]);
}

#[test]
fn a_guest_that_starts_again_has_its_cpus_again() {
    if !two_cpus() {
        return;
    }
    let host = Bulkhead::new();
    let mine: BTreeSet<u32> = [last()].into();
    let again = ["--restart", "always", "--restart-delay", "3s", "--start"];
    let entitled = [&["--entitled", "0.1"], &again[..]].concat();
    busy(&host, "other", &entitled);
    own(&host, "mine", 1, &again);
    own(&host, "late", 1, &[]);
    let pid = info(&host, "mine")["pid"].as_u64();
    host.ok(&["kill", "mine", "--signal", "KILL"]);
    eventually("it waits to start again", 10, || {
        info(&host, "mine")["status"] == "restarting"
    });
    if online().len() == 2 {
        host.fails(&["start", "late"], 5);
    }
    eventually("it runs again", 20, || {
        let now = info(&host, "mine");
        now["status"] == "running" && now["pid"].as_u64() != pid
    });
    sits(&host, "mine", &mine);
    sits(&host, "other", &all_but_last());
    // One that shares and is guaranteed something comes back among those that share.
    let pid = info(&host, "other")["pid"].as_u64();
    host.ok(&["kill", "other", "--signal", "KILL"]);
    eventually("it runs again as well", 20, || {
        let now = info(&host, "other");
        now["status"] == "running" && now["pid"].as_u64() != pid
    });
    sits(&host, "other", &all_but_last());
    // Without its keeper it goes on, and when it ends then, the next command gives its CPUs back.
    let pid = |pid: u64| i32::try_from(pid).expect("a pid");
    let kill = |one: i32| {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(one), nix::sys::signal::SIGKILL)
    };
    kill(pid(keeper(&host, "mine"))).expect("a keeper");
    sits(&host, "mine", &mine);
    let init = info(&host, "mine")["pid"].as_u64().expect("it runs");
    let keeper = keeper(&host, "mine");
    let _none = kill(pid(keeper));
    kill(pid(init)).expect("its init");
    eventually("it has ended", 10, || {
        info(&host, "mine")["status"] != "running"
    });
    host.ok(&["kill", "mine"]);
    sits(&host, "other", &online());
}

/// Its tenant's change brings its limits up to date; its CPUs are none of these, though its definition
/// names more of them than it has.
#[test]
fn a_change_of_its_tenant_leaves_a_guest_on_its_own_cpus() {
    if !two_cpus() {
        return;
    }
    let host = Bulkhead::new();
    let mine: BTreeSet<u32> = [last()].into();
    host.ok(&["tenant", "create", "acme"]);
    let within = format!("0-{}", last());
    let flags = ["--tenant", "acme", "--cpuset", &within, "--start"];
    own(&host, "mine", 1, &flags);
    sits(&host, "mine", &mine);
    host.ok(&["tenant", "set", "acme", "--processes", "400"]);
    sits(&host, "mine", &mine);
    assert_eq!(leftovers(&host, false), [] as [Value; 0]);
}

/// Whoever is killed, and wherever: the next start finds the CPUs, or `doctor` names what is wrong and
/// mends it.
#[test]
fn killed_at_any_point() {
    if !two_cpus() {
        return;
    }
    let host = Bulkhead::new();
    let mine: BTreeSet<u32> = [last()].into();
    busy(&host, "other", &["--start"]);
    own(&host, "mine", 1, &[]);
    let at = |role: &str, number: usize, args: &[&str]| {
        let mut command = host.command(args);
        command.env("BULKHEAD_FAULT", format!("{role}:{number}"));
        run(command).code == 0
    };
    // Where `other` has to be by what is written down of everybody.
    let wanted = || {
        let pools = host.root().join("var/lib/bulkhead/cpupools.json").exists();
        let owner = state(&host, "other")["seat"]["dedicated"].is_object();
        match (owner, pools || info(&host, "mine")["status"] != "stopped") {
            (true, _) => mine.clone(),
            (false, true) => all_but_last(),
            (false, false) => online(),
        }
    };
    let mended = |what: &str| {
        let (named, wanted) = (leftovers(&host, false), wanted());
        let there = |pid: &u64| allowed(*pid).is_none_or(|now| now == wanted);
        let right = processes(&host, "other").iter().all(there);
        assert!(right || !named.is_empty(), "{what}: doctor is blind");
        leftovers(&host, true);
        assert_eq!(leftovers(&host, false), [] as [Value; 0], "{what}");
    };
    for (role, args) in [
        ("launch", &["start", "mine"][..]),
        ("command", &["kill", "mine"]),
        (
            "command",
            &["cpupool", "create", "gold", "--cpus", &last().to_string()],
        ),
        ("command", &["cpupool", "delete", "gold"]),
        (
            "command",
            &["set", "other", "cpu.mode=dedicated", "cpu.dedicated=1"],
        ),
        (
            "command",
            &["set", "other", "cpu.mode=shared", "cpu.dedicated=none"],
        ),
    ] {
        let mut points = 0;
        for number in 0..60 {
            let what = format!("{args:?} at {role}:{number}");
            let done = at(role, number, args);
            mended(&what);
            sits(&host, "other", &wanted());
            if done && number > 0 {
                break;
            }
            points += 1;
            // As it was, for the next round.
            match args[1] {
                "mine" if args[0] == "start" => drop(host.run(&["kill", "mine"])),
                "mine" => drop(host.run(&["start", "mine"])),
                "create" => drop(host.run(&["cpupool", "delete", "gold"])),
                "delete" => {
                    drop(host.run(&["cpupool", "create", "gold", "--cpus", &last().to_string()]));
                }
                _ if args[2].ends_with("dedicated") => {
                    drop(host.run(&["set", "other", "cpu.mode=shared", "cpu.dedicated=none"]));
                }
                _ => {
                    drop(host.run(&["set", "other", "cpu.mode=dedicated", "cpu.dedicated=1"]));
                }
            }
        }
        assert!((2..60).contains(&points), "{args:?}: {points} points");
        if args[0] == "start" {
            drop(host.run(&["start", "mine"]));
        }
    }
}

#[test]
fn a_fixed_guest_cannot_be_resized() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    let profiles = host.root().join("etc/bulkhead/profiles");
    std::fs::create_dir_all(&profiles).expect("a folder of ours");
    let heavy = "description = \"d\"\n[cpu]\nweight = 200\n";
    std::fs::write(profiles.join("heavy.toml"), heavy).expect("ours");
    let flags = ["--memory", "64M", "--cpus", "0.5", "--network", "none"];
    let fixed = [
        "--cpu-resize",
        "fixed",
        "--memory-resize",
        "fixed",
        "--start",
    ];
    scripted(&host, "a", "sleep 1000", &[&flags[..], &fixed].concat());
    for running in [true, false] {
        for (change, by) in [
            ("cpu.limit=1", "cpu.resize"),
            ("cpu.weight=50", "cpu.resize"),
            ("memory.limit=128M", "memory.resize"),
            ("profiles=heavy", "cpu.resize"),
        ] {
            let why = host.fails(&["set", "a", change], 5);
            assert!(
                why.contains("cannot be changed: its ") && why.contains(&format!("{by} is fixed")),
                "{why}"
            );
        }
        // Together with the permission it is no less a change of what is fixed.
        host.fails(&["set", "a", "cpu.resize=dynamic", "cpu.limit=1"], 5);
        assert_eq!(host.ok(&["get", "a", "cpu.limit"]), "0.5\n");
        // Nothing else is.
        host.ok(&["set", "a", "processes=99"]);
        host.ok(&["set", "a", "processes=98"]);
        if running {
            host.ok(&["kill", "a"]);
        }
    }
    host.ok(&["set", "a", "cpu.resize=dynamic"]);
    host.ok(&["set", "a", "cpu.limit=1"]);
    host.fails(&["set", "a", "memory.limit=128M"], 5);
}

#[test]
fn a_static_guest_is_resized_at_its_next_start() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    let flags = [
        "--memory",
        "64M",
        "--network",
        "none",
        "--memory-resize",
        "static",
        "--start",
    ];
    scripted(&host, "a", "sleep 1000", &flags);
    let limit = || {
        let text = life::in_force(&host, "a", "memory", "memory.limit_in_bytes", "memory.max");
        text.trim().parse::<u64>().expect("bytes") >> 20
    };
    let told = host.ok(&["set", "a", "memory.limit=96M", "description=x"]);
    assert!(told.contains("restart: memory.limit"), "{told}");
    assert_eq!(limit(), 64);
    // Not by another change either.
    host.ok(&["set", "a", "processes=99"]);
    host.ok(&["set", "a", "memory.limit=80M"]);
    assert_eq!(limit(), 64);
    let told = info(&host, "a");
    assert_eq!(told["waiting"], serde_json::json!(["memory"]));
    assert_eq!(told["in_force"], serde_json::json!({ "memory": "64M" }));
    let told = host.ok(&["info", "a"]);
    assert!(told.contains("80M (64M at this moment)"), "{told}");
    assert_eq!(host.ok(&["get", "a", "memory.limit"]), "80M\n");
    // Back to what is in force, nothing waits.
    let told = host.ok(&["set", "a", "memory.limit=64M"]);
    assert!(told.contains("in force: memory.limit"), "{told}");
    let told = info(&host, "a");
    assert_eq!(told["waiting"], serde_json::json!([]));
    assert!(told.get("in_force").is_none(), "{told}");
    host.ok(&["set", "a", "memory.limit=80M"]);
    host.ok(&["kill", "a"]);
    host.ok(&["start", "a"]);
    assert_eq!(limit(), 80);
    assert_eq!(info(&host, "a")["waiting"], serde_json::json!([]));
    // Said to be dynamic, what waited is in force at once.
    host.ok(&["set", "a", "memory.limit=70M"]);
    host.ok(&["set", "a", "memory.resize=dynamic"]);
    assert_eq!(limit(), 70);
}

/// The cookie of a process's cores; `None` where there are none.
fn cookie(pid: u64) -> Option<u64> {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    let scope = rustix::thread::CoreSchedulingScope::Thread;
    rustix::thread::core_scheduling_cookie(pid?, scope).ok()
}

#[test]
fn a_guest_has_its_cores_to_itself_or_does_not_start() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    busy(&host, "a", &[]);
    let set = ["set", "a", "cpu.core_scheduling=true"];
    let Some(ours) = cookie(u64::from(std::process::id())) else {
        // Nor does one that came here with such a definition.
        let file = host.root().join("var/lib/bulkhead/guests/a/guest.toml");
        let text = std::fs::read_to_string(&file).expect("a definition");
        let wanted = format!("{text}\n[cpu]\ncore_scheduling = true\n");
        let wish = |args: &[&str]| {
            let done = host.run(args);
            assert_ne!(done.code, 0, "{args:?}");
            assert!(
                done.stderr.contains("cpu.core_scheduling needs "),
                "{}",
                done.stderr
            );
            let way_out = "leave it out, or boot the host";
            assert!(done.stderr.contains(way_out), "{}", done.stderr);
        };
        wish(&set);
        std::fs::write(&file, wanted).expect("a folder of ours");
        wish(&["start", "a"]);
        wish(&["plan", "a"]);
        assert_eq!(info(&host, "a")["status"], "stopped");
        assert!(!host.root().join("run/bulkhead/guests/a").exists());
        assert_eq!(leftovers(&host, false), [] as [Value; 0]);
        std::fs::write(&file, text).expect("a folder of ours");
        host.ok(&["start", "a"]);
        return;
    };
    // Never seen: no kernel that these tests run on has it.
    host.ok(&set);
    host.ok(&["start", "a"]);
    let mut entered = host.command(&["exec", "a", "--", "sleep", "1000"]);
    let mut entered = entered.spawn().expect("the program");
    let of = format!("/proc/{0}/task/{0}/children", entered.id());
    let inside = || {
        let text = std::fs::read_to_string(&of).unwrap_or_default();
        let mut pids = text.split_whitespace();
        pids.find_map(|pid| pid.parse::<u64>().ok())
    };
    eventually("it is in", 20, || {
        inside().is_some_and(|pid| cookie(pid).is_some_and(|cookie| cookie != ours))
    });
    let mut all = processes(&host, "a");
    all.extend(inside());
    let all: BTreeSet<_> = all.into_iter().filter_map(cookie).collect();
    assert_eq!(all.len(), 1, "{all:?}");
    assert!(!all.contains(&ours) && !all.contains(&0), "{all:?}");
    host.ok(&["kill", "a"]);
    let _ended = entered.wait();
}
