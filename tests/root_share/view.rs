//! What a guest sees of the machine it is on: its own memory, CPUs and load, kept up to date, whole,
//! not to be changed, and there whether its keeper lives or not.

use std::collections::BTreeSet;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::TryRecvError;
use std::time::{Duration, Instant};

use crate::life::{info, inside, scripted, started};
use crate::support::{Bulkhead, Need, eventually, need};

const MIB: u64 = 1 << 20;

/// One and a half CPUs and half a GiB, without a network.
const SIZE: [&str; 6] = ["--cpus", "1.5", "--memory", "512M", "--network", "none"];

/// Every file that is the guest's own, and how it begins.
const FILES: [(&str, &str); 9] = [
    ("proc/meminfo", "MemTotal:"),
    ("proc/stat", "cpu  "),
    ("proc/cpuinfo", "processor"),
    ("proc/loadavg", ""),
    ("proc/swaps", "Filename"),
    ("proc/diskstats", ""),
    ("proc/vmstat", "nr_free_pages "),
    ("sys/devices/system/cpu/online", "0"),
    ("sys/devices/system/cpu/present", "0"),
];

/// The guest's file where its first process sees it: read by us, with no command in between.
#[track_caller]
fn path(host: &Bulkhead, name: &str, file: &str) -> PathBuf {
    let pid = &info(host, name)["pid"];
    let pid = pid.as_u64().unwrap_or_else(|| panic!("{name} runs: {pid}"));
    format!("/proc/{pid}/root/{file}").into()
}

#[track_caller]
fn seen(host: &Bulkhead, name: &str, file: &str) -> String {
    let path = path(host, name, file);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A line of /proc/meminfo, bytes.
#[track_caller]
fn memory(host: &Bulkhead, name: &str, key: &str) -> u64 {
    let text = seen(host, name, "proc/meminfo");
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    number.unwrap_or_else(|| panic!("{key}: {text}")) * 1024
}

/// The numbers of the first line of /proc/stat.
#[track_caller]
fn ticks(text: &str) -> Vec<u64> {
    let words = text
        .lines()
        .next()
        .expect("a line")
        .split_whitespace()
        .skip(1);
    words.map(|word| word.parse().expect("a number")).collect()
}

fn keeper(host: &Bulkhead, name: &str) -> i32 {
    let state = host
        .root()
        .join(format!("run/bulkhead/guests/{name}/state.json"));
    let state = std::fs::read_to_string(state).expect("a run state");
    let state: serde_json::Value = serde_json::from_str(&state).expect("JSON");
    let pid = state["keeper"]["pid"].as_i64().expect("a keeper");
    i32::try_from(pid).expect("a pid")
}

fn kill_keeper(host: &Bulkhead, name: &str) {
    let pid = nix::unistd::Pid::from_raw(keeper(host, name));
    nix::sys::signal::kill(pid, nix::sys::signal::SIGKILL).expect("a keeper of ours");
    eventually("the keeper is gone", 10, || {
        host.ok(&["list"]).contains("its keeper is gone")
    });
}

#[test]
fn a_guest_sees_what_it_was_sold() {
    if !(need(Need::Root) && need(Need::TwoCpus)) {
        return;
    }
    let host = Bulkhead::new();
    // The host's own free and lscpu, which read what everybody reads.
    let tools = [
        "--mount",
        "/usr:/usr:ro",
        "--mount",
        "/usr/lib:/lib:ro",
        "--mount",
        "/usr/lib64:/lib64:ro",
    ];
    started(&host, "a", &[&SIZE[..], &tools].concat());
    let total = 512 * MIB;
    assert_eq!(memory(&host, "a", "MemTotal"), total);
    let free = inside(&host, "a", "/usr/bin/free -b | grep Mem:");
    assert_eq!(free.split_whitespace().nth(1), Some("536870912"), "{free}");
    let lscpu = inside(&host, "a", "/usr/bin/lscpu | grep '^CPU(s)'");
    assert_eq!(lscpu.split_whitespace().last(), Some("2"), "{lscpu}");
    assert_eq!(inside(&host, "a", "grep -c ^processor /proc/cpuinfo"), "2");
    assert_eq!(inside(&host, "a", "grep -c '^cpu[0-9]' /proc/stat"), "2");
    assert_eq!(
        inside(&host, "a", "cat /sys/devices/system/cpu/online"),
        "0-1"
    );
    assert_eq!(inside(&host, "a", "wc -l < /proc/swaps"), "1");
    assert_eq!(memory(&host, "a", "SwapTotal"), 0);
    // What covers the host's folders has no size.
    let mounts = inside(&host, "a", "cut -d' ' -f2 /proc/mounts; echo; df -P");
    let (mounts, df) = mounts.split_once("\n\n").expect("two parts");
    for covered in ["/sys/firmware", "/sys/devices/system/memory"] {
        let covers = |text: &str| text.lines().any(|line| line.ends_with(covered));
        assert_eq!((covers(mounts), covers(df)), (true, false), "{df}");
    }
    // As root of the guest sees them.
    assert_eq!(
        inside(
            &host,
            "a",
            "stat -c '%u %g %a' /proc/meminfo /proc/stat | sort -u"
        ),
        "0 0 444"
    );
    let up = seen(&host, "a", "proc/stat");
    let began = up
        .lines()
        .find_map(|line| line.strip_prefix("btime "))
        .expect("btime");
    let began: u64 = began.trim().parse().expect("seconds");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = now.expect("after 1970").as_secs();
    assert!((began..began + 240).contains(&now), "{began} {now}");
    let age = inside(&host, "a", "cut -d. -f1 /proc/uptime");
    assert!(age.parse::<u64>().expect("seconds") < 240, "{age}");
}

#[test]
fn memory_in_use_is_no_longer_free() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    started(&host, "a", &SIZE);
    let (free, shared) = (memory(&host, "a", "MemFree"), memory(&host, "a", "Shmem"));
    // As top does: opened once, read again and again, here since all files have just been read.
    for (file, _) in FILES {
        seen(&host, "a", file);
    }
    let kept = std::fs::File::open(path(&host, "a", "proc/meminfo")).expect("readable");
    let again = || {
        let mut text = [0; 64];
        let n = std::os::unix::fs::FileExt::read_at(&kept, &mut text, 0).expect("readable");
        String::from_utf8_lossy(&text[..n]).into_owned()
    };
    let first = again();
    inside(
        &host,
        "a",
        "dd if=/dev/zero of=/dev/shm/x bs=1M count=100 2>/dev/null",
    );
    eventually("it is in use", 5, || {
        memory(&host, "a", "MemFree") + 99 * MIB < free
    });
    eventually("the open file says so", 5, || again() != first);
    assert!(memory(&host, "a", "Shmem") >= shared + 99 * MIB);
    assert!(memory(&host, "a", "MemAvailable") + 99 * MIB < free);
    inside(&host, "a", "rm /dev/shm/x");
    eventually("it is free again", 5, || {
        memory(&host, "a", "MemFree") + 20 * MIB > free
    });
}

#[test]
fn time_is_its_own_and_load_rises_with_work() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    scripted(
        &host,
        "busy",
        "sleep 1; while :; do :; done & while :; do :; done & wait",
        &[
            "--cpus",
            "0.5",
            "--memory",
            "64M",
            "--network",
            "none",
            "--start",
        ],
    );
    started(&host, "calm", &SIZE);
    let load = |name| {
        let text = seen(&host, name, "proc/loadavg");
        let word = text.split_whitespace().next().map(str::to_owned);
        word.expect("a number").parse::<f64>().expect("a number")
    };
    let before = ticks(&seen(&host, "busy", "proc/stat"));
    load("calm");
    eventually("two loops are a load", 60, || load("busy") > 0.3);
    let after = ticks(&seen(&host, "busy", "proc/stat"));
    assert!(after[0] > before[0], "user: {before:?} {after:?}");
    assert!(after[3] > before[3], "idle: {before:?} {after:?}");
    if std::path::Path::new("/proc/pressure/cpu").exists() {
        let waited = |name| {
            let text = seen(&host, name, "proc/pressure/cpu");
            let total = text
                .lines()
                .next()
                .and_then(|line| line.rsplit_once("total="));
            total
                .expect("a sum")
                .1
                .parse::<u64>()
                .expect("microseconds")
        };
        let (busy, calm) = (waited("busy"), waited("calm"));
        assert!(busy > 1_000_000 && calm < busy / 2, "{busy} {calm}");
    }
    assert!(load("calm") < 0.3);
    // One CPU is seen, of which half may be used.
    assert_eq!(seen(&host, "busy", "sys/devices/system/cpu/online"), "0\n");
    let mut last = ticks(&seen(&host, "busy", "proc/stat"));
    for _ in 0..30 {
        let now = ticks(&seen(&host, "busy", "proc/stat"));
        assert!(now.iter().zip(&last).all(|(now, last)| now >= last));
        last = now;
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn the_files_are_there_without_a_keeper_and_fresh_with_a_new_one() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    started(&host, "a", &SIZE);
    let free = memory(&host, "a", "MemFree");
    let stat = path(&host, "a", "proc/stat");
    let meminfo = path(&host, "a", "proc/meminfo");
    // Somebody is always waiting for an answer when the keeper dies.
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut reads = 0_u32;
                    while !done.load(Ordering::Relaxed) {
                        let text = std::fs::read_to_string(&meminfo).expect("readable");
                        assert!(text.starts_with("MemTotal:         524288 kB\n"), "{text}");
                        reads += 1;
                    }
                    reads
                })
            })
            .collect();
        std::thread::sleep(Duration::from_millis(300));
        kill_keeper(&host, "a");
        std::thread::sleep(Duration::from_millis(300));
        done.store(true, Ordering::Relaxed);
        for reader in readers {
            assert!(reader.join().expect("a reader") > 10);
        }
    });
    for (file, begin) in FILES {
        let text = seen(&host, "a", file);
        assert!(text.starts_with(begin), "{file}: {text}");
    }
    let left = std::fs::read_to_string(&stat).expect("readable");
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(std::fs::read_to_string(&stat).expect("readable"), left);
    // The next command puts a new one on.
    inside(
        &host,
        "a",
        "dd if=/dev/zero of=/dev/shm/x bs=1M count=100 2>/dev/null",
    );
    eventually("fresh again", 10, || {
        memory(&host, "a", "MemFree") + 99 * MIB < free
    });
    let now = ticks(&seen(&host, "a", "proc/stat"));
    let then = ticks(&left);
    assert!(now[3] > then[3], "{then:?} {now:?}");
    assert!(now.iter().zip(&then).all(|(now, then)| now >= then));
}

#[test]
fn a_guest_cannot_change_them() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    started(
        &host,
        "a",
        &[&SIZE[..], &["--cap-add", "SYS_ADMIN"]].concat(),
    );
    for (file, _) in FILES {
        let before = seen(&host, "a", file);
        for attempt in [
            "echo 1 > F",
            "chmod 666 F",
            "chown 1 F",
            "rm -f F",
            "mv F /tmp/x",
            "truncate -s 0 F",
            "mount -o remount,rw,bind F",
            "mount -o remount,bind,exec F && echo 1 > F",
            "cp /proc/self/status F",
        ] {
            let line = attempt.replace('F', &format!("/{file}"));
            let said = host.run(&["exec", "a", "--", "sh", "-c", &line]);
            assert_ne!(said.code, 0, "{line}: {}", said.stdout);
        }
        // Uncovered, the kernel's is there; ours is not to be had under another name either.
        let elsewhere = format!(
            "mkdir -p /tmp/m && touch /tmp/m/f && mount --bind /{file} /tmp/m/f && \
             ! echo 1 > /tmp/m/f && ! mount -o remount,rw,bind /tmp/m/f && umount /tmp/m/f"
        );
        let said = host.run(&["exec", "a", "--", "sh", "-c", &elsewhere]);
        assert_eq!(said.code, 0, "{file}: {}", said.stderr);
        let after = seen(&host, "a", file);
        assert_eq!(after.lines().count(), before.lines().count(), "{file}");
    }
    let shelf = host.run(&[
        "exec",
        "a",
        "--",
        "sh",
        "-c",
        "umount -l /proc && echo 1 > /proc/stat",
    ]);
    assert_ne!(shelf.code, 0, "{}", shelf.stdout);
}

#[test]
fn readers_in_a_loop_get_whole_files_and_cost_little() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    started(&host, "a", &SIZE);
    let whole = "n=0; while [ $n -lt 50 ]; do n=$((n+1)); \
                 for f in meminfo stat vmstat; do wc -l < /proc/$f; done; done | sort | uniq -c";
    let counts = inside(&host, "a", whole);
    assert_eq!(counts.lines().count(), 3, "{counts}");
    assert!(
        counts.lines().all(|line| line.trim().starts_with("50 ")),
        "{counts}"
    );
    // Byte by byte, as a shell reads: no line is made of two.
    let slow = "while read -r name number rest; do case $number in *[!0-9]*) echo $name;; esac; \
                done < /proc/stat";
    assert_eq!(inside(&host, "a", slow), "");
    // However often it is read, it is made anew ten times a second at most.
    let meminfo = path(&host, "a", "proc/meminfo");
    let (began, mut reads, mut made) = (Instant::now(), 0_u64, BTreeSet::new());
    while began.elapsed() < Duration::from_secs(4) {
        std::fs::read(&meminfo).expect("readable");
        let written = std::fs::metadata(&meminfo).and_then(|meta| meta.modified());
        made.insert(written.expect("a file"));
        reads += 1;
    }
    let most = began.elapsed().as_millis() / 100 + 2;
    assert!(reads > 1000, "{reads} reads");
    assert!(
        (made.len() as u128) <= most,
        "{} times for {reads} reads",
        made.len()
    );
}

#[test]
fn who_keeps_a_file_open_sees_what_is_new_whenever_it_was_opened() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    started(&host, "a", &SIZE);
    let files = ["proc/stat", "proc/meminfo"];
    let open = |file: &str| std::fs::File::open(path(&host, "a", file)).expect("readable");
    let ticks_of = |file: &std::fs::File| {
        let mut text = [0; 64];
        let n = file.read_at(&mut text, 0).expect("readable");
        ticks(&String::from_utf8_lossy(&text[..n]))
    };
    let first = files.map(open);
    // From here on both are left alone for a while: `top` opens one after the other.
    for file in &first {
        file.read_at(&mut [0; 64], 0).expect("readable");
    }
    let [stat, _] = files.map(open);
    let mut seen = vec![ticks_of(&stat)];
    for _ in 0..3 {
        std::thread::sleep(Duration::from_millis(600));
        seen.push(ticks_of(&stat));
    }
    // Idle time goes on.
    assert!(seen.is_sorted_by(|a, b| a[3] < b[3]), "{seen:?}");
}

#[test]
fn nothing_is_written_for_who_reads_events_and_nobody_waits() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    started(&host, "a", &SIZE);
    let events = path(&host, "a", "run/bulkhead/events");
    let meminfo = path(&host, "a", "proc/meminfo");
    let signal = |signal| {
        let keeper = nix::unistd::Pid::from_raw(keeper(&host, "a"));
        nix::sys::signal::kill(keeper, signal).expect("a keeper of ours");
    };
    std::thread::sleep(Duration::from_millis(500));
    signal(nix::sys::signal::SIGSTOP);
    let reader = |path: PathBuf| {
        let (done, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || done.send(std::fs::read(path).is_ok()));
        told
    };
    let (of_events, of_memory) = (reader(events), reader(meminfo));
    let told = of_events.recv_timeout(Duration::from_secs(10));
    let waits = of_memory.try_recv();
    signal(nix::sys::signal::SIGCONT);
    assert_eq!((told, waits), (Ok(true), Err(TryRecvError::Empty)));
    assert_eq!(of_memory.recv_timeout(Duration::from_secs(10)), Ok(true));
}

#[test]
fn a_new_size_is_seen_at_once_and_a_reboot_changes_nothing() {
    if !(need(Need::Root) && need(Need::TwoCpus)) {
        return;
    }
    let host = Bulkhead::new();
    started(&host, "a", &SIZE);
    started(
        &host,
        "b",
        &["--cpus", "1", "--memory", "96M", "--network", "none"],
    );
    assert_eq!(memory(&host, "b", "MemTotal"), 96 * MIB);
    assert_eq!(seen(&host, "b", "sys/devices/system/cpu/online"), "0\n");
    host.ok(&["set", "a", "--memory", "256M", "--cpus", "0.5"]);
    eventually("less memory", 5, || {
        memory(&host, "a", "MemTotal") == 256 * MIB
    });
    eventually("one CPU", 5, || {
        seen(&host, "a", "sys/devices/system/cpu/online") == "0\n"
    });
    assert_eq!(inside(&host, "a", "grep -c ^processor /proc/cpuinfo"), "1");
    host.ok(&["set", "a", "--cpus", "2", "--cpuset", "1"]);
    eventually("that CPU", 5, || {
        seen(&host, "a", "sys/devices/system/cpu/present") == "1\n"
    });
    eventually("its time", 5, || {
        seen(&host, "a", "proc/stat").contains("\ncpu1 ")
    });
    assert!(!seen(&host, "a", "proc/stat").contains("\ncpu0 "));
    let before = info(&host, "a")["pid"].clone();
    host.run(&["exec", "a", "reboot", "-f"]);
    eventually("it is back", 30, || {
        let now = info(&host, "a");
        now["status"] == "running" && now["pid"] != before
    });
    assert_eq!(memory(&host, "a", "MemTotal"), 256 * MIB);
    let free = memory(&host, "a", "MemFree");
    inside(
        &host,
        "a",
        "dd if=/dev/zero of=/dev/shm/x bs=1M count=50 2>/dev/null",
    );
    eventually("fresh", 5, || {
        memory(&host, "a", "MemFree") + 49 * MIB < free
    });
    assert_eq!(memory(&host, "b", "MemTotal"), 96 * MIB);
}

#[test]
fn a_new_size_is_seen_at_once_by_who_reads_in_a_loop_too() {
    if !(need(Need::Root) && need(Need::TwoCpus)) {
        return;
    }
    let host = Bulkhead::new();
    started(&host, "a", &["--cpus", "2", "--memory", "64M"]);
    let (meminfo, online) = ("proc/meminfo", "sys/devices/system/cpu/online");
    // Until they are left alone for whole seconds.
    let until = Instant::now() + Duration::from_millis(1700);
    while Instant::now() < until {
        seen(&host, "a", meminfo);
        seen(&host, "a", online);
    }
    for (key, memory, shown) in [
        // On version 1 its folder comes and goes, and no file is written that was there before.
        ("cpu.cpuset=0", "64M", "0\n"),
        ("cpu.cpuset=none", "64M", "0-1\n"),
        ("cpu.limit=1", "65M", "0\n"),
        ("cpu.limit=2", "66M", "0-1\n"),
    ] {
        host.ok(&["set", "a", key, &format!("memory.limit={memory}")]);
        let began = Instant::now();
        eventually("the new size is there", 5, || {
            let total = format!(
                "MemTotal: {:>14} kB",
                memory[..2].parse::<u64>().expect("MiB") << 10
            );
            seen(&host, "a", meminfo).starts_with(&total) && seen(&host, "a", online) == shown
        });
        let took = began.elapsed();
        assert!(took < Duration::from_millis(1500), "{key}: {took:?}");
    }
}

#[test]
fn who_wants_the_hosts_numbers_has_them() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    started(&host, "a", &[&SIZE[..], &["--view", "host"]].concat());
    let own = std::fs::read_to_string("/proc/meminfo").expect("procfs");
    let total = own.lines().next();
    assert_eq!(seen(&host, "a", "proc/meminfo").lines().next(), total);
    assert!(!host.root().join("run/bulkhead/guests/a/inside").exists());
    host.ok(&["stop", "a"]);
    host.ok(&["set", "a", "--view", "guest"]);
    host.ok(&["start", "a"]);
    assert_eq!(memory(&host, "a", "MemTotal"), 512 * MIB);
    host.ok(&["stop", "a"]);
    assert!(!host.root().join("run/bulkhead/guests/a").exists());
}
