//! What system calls tell in a guest: the same as its files, whatever program asks, whether the processes
//! that answer are killed or not, and no more often than the host can bear.

use std::path::Path;
use std::time::Duration;

use crate::life::{answering, inside, kill, scripted};
use crate::support::{Bulkhead, Need, eventually, need};

/// Raw calls, as Go makes them: what they return, and what they leave in memory.
const ASK: &str = r#"
    my $info = "\0" x 112;
    print "sysinfo ", syscall(99, $info), "\n";
    my @n = unpack "q Q9 S x6 Q2 L", $info;
    print "up $n[0] total $n[4] swap $n[8] unit $n[13]\n";
    for my $room (8192, 128) {
        my $set = "\0" x $room;
        my $got = syscall(204, 0, $room, $set);
        print "cpus ", unpack("%32b*", substr $set, 0, $got), "\n";
    }
    my ($set, $me) = ("\0" x 128, syscall 186);
    print "own number ", (syscall(204, $me, 128, $set) > 0 and unpack "%32b*", $set), "\n";
    for my $call ([99, 0], [99, -4096], [99, 1 << 46], [204, 0, 128, 0], [204, 0, 3, $set]) {
        my $got = syscall $call->[0], map { $_ } @$call[1 .. $#$call];
        print "bad $got ", $! + 0, "\n";
    }
"#;

#[track_caller]
fn pid_of(host: &Bulkhead, name: &str, key: &str) -> i32 {
    let path = format!("run/bulkhead/guests/{name}/state.json");
    let state = std::fs::read_to_string(host.root().join(path)).expect("a run state");
    let state: serde_json::Value = serde_json::from_str(&state).expect("JSON");
    let pid = state[key]["pid"].as_i64().expect("a process");
    i32::try_from(pid).expect("a pid")
}

#[track_caller]
fn kill_answering(host: &Bulkhead, name: &str) {
    let pids = answering(host, name);
    assert_eq!(pids.len(), 1, "{pids:?}");
    kill(pids[0]);
    eventually("another one answers", 10, || {
        let now = answering(host, name);
        now.len() == 1 && now != pids
    });
}

/// A guest with the host's programs.
#[track_caller]
fn with_tools(host: &Bulkhead, name: &str, flags: &[&str]) {
    let base = [
        "create",
        name,
        "--template",
        "host",
        "--network",
        "none",
        "--start",
    ];
    let init = ["--init", "/bin/sleep 86400"];
    host.ok(&[&base[..], &init, flags].concat());
}

#[test]
fn every_program_is_told_the_same() {
    if !(need(Need::Root) && need(Need::TwoCpus)) {
        return;
    }
    let host = Bulkhead::new();
    // Java wants its settings in /etc, where the template has the guest's own.
    let etc = std::fs::read_dir("/etc").expect("a folder");
    let names = etc.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let settings = names.filter(|name| name.starts_with("java-"));
    let settings: Vec<String> = settings
        .map(|name| format!("/etc/{name}:/etc/{name}:ro"))
        .collect();
    let mounts: Vec<&str> = settings.iter().flat_map(|one| ["--mount", one]).collect();
    for (name, size, cpus) in [("one", "0.75", "1"), ("two", "1.5", "2")] {
        let size = ["--cpus", size, "--memory", "512M"];
        with_tools(&host, name, &[&size[..], &mounts].concat());
        let ask = |script: &str| inside(&host, name, script);
        assert_eq!(ask("nproc"), cpus);
        assert_eq!(ask("getconf _NPROCESSORS_ONLN"), cpus);
        assert_eq!(ask("lscpu | sed -n 's/^CPU(s): *//p'"), cpus);
        assert_eq!(ask("grep -c ^processor /proc/cpuinfo"), cpus);
        assert_eq!(ask("free -b | awk '/^Mem/ {print $2}'"), "536870912");
        assert_eq!(ask("getconf _PHYS_PAGES"), "131072");
        let top = ask("top -b -n 1 | grep 'Mem :'");
        assert!(top.contains(" 512.0 total"), "{top}");
        let load = ask("uptime | sed 's/.*average: //; s/,//g'; cut -d' ' -f1-3 /proc/loadavg");
        let (by_program, by_file) = load.split_once('\n').expect("two lines");
        assert_eq!(by_program, by_file);
        for (program, script, want) in [
            (
                "/usr/bin/python3",
                "/usr/bin/python3 -c 'import os; print(os.cpu_count(), \
                 len(os.sched_getaffinity(0)), \
                 os.sysconf(\"SC_PHYS_PAGES\") * os.sysconf(\"SC_PAGE_SIZE\"))'",
                format!("{cpus} {cpus} 536870912"),
            ),
            (
                "/usr/bin/java",
                "echo 'class A { public static void main(String[] a) { var bean = \
                 (com.sun.management.OperatingSystemMXBean) \
                 java.lang.management.ManagementFactory.getOperatingSystemMXBean(); \
                 System.out.println(Runtime.getRuntime().availableProcessors() + \" \" + \
                 bean.getTotalPhysicalMemorySize()); } }' > /tmp/A.java && \
                 for how in + -; do java -Xmx64m -XX:${how}UseContainerSupport /tmp/A.java; \
                 done 2>/dev/null",
                format!("{cpus} 536870912\n{cpus} 536870912"),
            ),
        ] {
            if Path::new(program).exists() {
                assert_eq!(ask(script), want, "{program}");
            } else {
                println!("not asked: {program}, which is not installed");
            }
        }
        let raw = host.ok(&["exec", name, "--", "perl", "-e", ASK]);
        let lines: Vec<&str> = raw.lines().collect();
        assert_eq!(lines[0], "sysinfo 0", "{raw}");
        let words: Vec<&str> = lines[1].split(' ').collect();
        let up: u64 = words[1].parse().expect("seconds");
        assert!(up < 240, "{raw}");
        assert_eq!(words[2..], ["total", "536870912", "swap", "0", "unit", "1"]);
        let count = format!("cpus {cpus}");
        assert_eq!(lines[2..4], [&count, &count], "{raw}");
        assert_eq!(lines[4], format!("own number {cpus}"), "{raw}");
        let bad = ["bad -1 14"; 4].into_iter().chain(["bad -1 22"]);
        assert_eq!(lines[5..], bad.collect::<Vec<_>>(), "{raw}");
        // Whom a thread has put on one CPU itself, that one.
        let own = ask("taskset 0x2 sh -c 'nproc; taskset -p $$' 2>&1");
        assert!(own.starts_with("1\n") && own.ends_with(": 2"), "{own}");
        host.ok(&["set", name, "--memory", "256M"]);
        eventually("the new size", 5, || ask("getconf _PHYS_PAGES") == "65536");
    }
    // Who wants the kernel's answers has them.
    with_tools(&host, "files", &["--cpus", "0.5", "--view", "files"]);
    let kernels = nix::unistd::sysconf(nix::unistd::SysconfVar::_PHYS_PAGES);
    let kernels = kernels.expect("a number").expect("a number").to_string();
    assert_eq!(inside(&host, "files", "getconf _PHYS_PAGES"), kernels);
    assert_eq!(inside(&host, "files", "getconf _NPROCESSORS_ONLN"), "1");
    assert!(answering(&host, "files").is_empty());
}

/// Writes what it is told to a file, again and again.
fn teller(file: &str) -> String {
    format!("while :; do echo $(free | awk \"/Mem/ {{print \\$2}}\") $(nproc) >> {file}; done")
}

const TOLD: &str = "131072 1";

/// How many lines there are, and those that are not as they should be.
fn told(host: &Bulkhead, file: &str) -> (usize, Vec<String>) {
    let pid = pid_of(host, "a", "init");
    let text = std::fs::read_to_string(format!("/proc/{pid}/root{file}")).unwrap_or_default();
    // The last one may be half written.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let wrong = whole.lines().filter(|line| *line != TOLD);
    (whole.lines().count(), wrong.map(str::to_owned).collect())
}

#[track_caller]
fn goes_on(host: &Bulkhead, files: &[&str]) {
    for file in files {
        let (before, _) = told(host, file);
        eventually("it is still told", 20, || told(host, file).0 > before + 8);
    }
}

#[test]
fn killed_keepers_and_answerers_are_not_noticed_inside() {
    if !(need(Need::Root) && need(Need::TwoCpus)) {
        return;
    }
    let host = Bulkhead::new();
    let size = [
        "--cpus",
        "1",
        "--memory",
        "128M",
        "--network",
        "none",
        "--start",
    ];
    scripted(&host, "a", &teller("/root/own"), &size);
    let other = format!("({}) >/dev/null 2>&1 &", teller("/root/other"));
    inside(&host, "a", &other);
    let both = ["/root/own", "/root/other"];
    goes_on(&host, &both);
    // The keeper: who answers lives on, and gives the next keeper all it has.
    kill(pid_of(&host, "a", "keeper"));
    goes_on(&host, &both);
    eventually("the keeper is gone", 10, || {
        host.ok(&["list"]).contains("its keeper is gone")
    });
    let known = answering(&host, "a");
    assert_eq!(inside(&host, "a", "nproc"), "1");
    assert_eq!(answering(&host, "a"), known);
    goes_on(&host, &both);
    for file in both {
        assert_eq!(told(&host, file).1, Vec::<String>::new());
    }
    // Who answers: the keeper, a new one by now, makes another. What was received and not answered is
    // answered by the kernel, once for each.
    for _ in 0..4 {
        kill_answering(&host, "a");
        goes_on(&host, &both);
    }
    for file in both {
        let wrong = told(&host, file).1;
        assert!(wrong.len() <= 8, "{wrong:?}");
    }
    // Both together: the calls fail, the guest and its files go on, it is said, and a new start mends it.
    let answerer = answering(&host, "a")[0];
    kill(pid_of(&host, "a", "keeper"));
    kill(answerer);
    eventually("both are gone", 10, || {
        let listed = host.ok(&["list"]);
        listed.contains("its keeper is gone") && answering(&host, "a").is_empty()
    });
    assert_eq!(
        inside(&host, "a", "head -1 /proc/meminfo"),
        "MemTotal:         131072 kB"
    );
    eventually("it is said", 10, || {
        host.ok(&["list"])
            .contains("fail in it until it is restarted")
    });
    // What is executed from now on is told again.
    eventually("a new one answers", 10, || answering(&host, "a").len() == 1);
    eventually("it is told", 10, || inside(&host, "a", "nproc") == "1");
    host.ok(&["restart", "a"]);
    assert!(!host.ok(&["list"]).contains("fail in it"));
    std::thread::sleep(Duration::from_millis(500));
    let (now, _) = told(&host, "/root/own");
    eventually("it is told", 10, || told(&host, "/root/own").0 > now + 8);
    host.ok(&["kill", "a"]);
    eventually("nobody answers for nobody", 10, || {
        answering(&host, "a").is_empty()
    });
}

#[test]
fn askers_in_a_loop_wait_and_others_do_not() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    with_tools(&host, "a", &["--memory", "128M"]);
    // One thread: five times in a quarter of a second. Forty others meanwhile: at once.
    let script = r#"
        use Time::HiRes "time";
        sub ask { my $info = "\0" x 112; syscall(99, $info) == 0 or die }
        my $began = time;
        if (!fork) { ask for 1 .. 31; printf "loop %d\n", time - $began >= 1; exit }
        for (1 .. 40) { if (!fork) { ask; exit } }
        my $least = 41;
        1 while --$least and wait > 0;
        printf "others %d\n", time - $began < 1;
        1 while wait > 0;
    "#;
    let said = host.ok(&["exec", "a", "--", "perl", "-e", script]);
    let mut lines: Vec<&str> = said.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["loop 1", "others 1"]);
    // A hundred loops: what answers does not take a CPU.
    let flood = "for i in $(seq 100); do (timeout 4 perl -e 'my $i = \"\\0\" x 112; \
                 syscall(99, $i) while 1' >/dev/null 2>&1 &) ; done";
    let used = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", answering(&host, "a")[0]));
        let stat = stat.expect("a process");
        let fields = stat
            .rsplit_once(')')
            .expect("a command")
            .1
            .split_whitespace();
        let ticks = fields
            .skip(11)
            .take(2)
            .map(|n| n.parse::<u64>().expect("ticks"));
        ticks.sum::<u64>()
    };
    let before = used();
    inside(&host, "a", flood);
    std::thread::sleep(Duration::from_secs(4));
    let ticks = used() - before;
    assert!(ticks < 100, "{ticks} hundredths of a second of CPU in 4 s");
}
