//! Views of the machine that containers in a guest mount for themselves: they have the guest's numbers,
//! and whatever else is mounted is as the kernel has it, whoever is killed meanwhile.

use std::time::{Duration, Instant};

use crate::life::{answering, inside, kill, started};
use crate::support::{Bulkhead, Need, eventually, need};

const TOTAL: &str = "MemTotal:         131072 kB";

/// A guest for containers that sees 128 MiB and one CPU.
#[track_caller]
fn nesting(host: &Bulkhead, name: &str) {
    let flags = ["--nesting", "true", "--memory", "128M", "--cpus", "1"];
    started(host, name, &[&flags[..], &["--network", "none"]].concat());
    inside(host, name, "mkdir -p /tmp/p /tmp/s /tmp/r/proc");
}

/// The same with the host's programs, and a number of processes that is enough for them.
#[track_caller]
fn with_tools(host: &Bulkhead, name: &str) {
    let words = format!(
        "create {name} --template host --network none --nesting true --memory 128M --cpus 1 --start"
    );
    let words: Vec<&str> = words.split(' ').collect();
    host.ok(&[&words[..], &["--init", "/bin/sleep 86400"]].concat());
    inside(host, name, "mkdir -p /tmp/p");
}

#[test]
fn what_a_container_mounts_has_the_guests_numbers() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    nesting(&host, "a");
    let ask = |script: &str| inside(&host, "a", script);
    let memory = "head -1 /tmp/p/meminfo";
    for (what, script) in [
        (
            "as it is",
            format!("mount -t proc proc /tmp/p && {memory} && umount /tmp/p"),
        ),
        (
            "old flags",
            format!(
                "mount -t proc -o nosuid,nodev,noexec,ro none /tmp/p && {memory} && umount /tmp/p"
            ),
        ),
        (
            "namespaces",
            format!("unshare -mpf sh -c 'mount -t proc proc /tmp/p; {memory}'"),
        ),
        (
            "unshare",
            "unshare -mpf --mount-proc head -1 /proc/meminfo".into(),
        ),
        (
            "a user's",
            format!("unshare -Urmpf sh -c 'mount -t proc proc /tmp/p; {memory}'"),
        ),
        (
            "a user's own",
            "su -s /bin/sh nobody -c 'unshare -Urmpf --mount-proc head -1 /proc/meminfo'".into(),
        ),
        (
            "a folder",
            format!("unshare -m sh -c 'cd /tmp/p && mount -t proc proc . && {memory}'"),
        ),
        (
            "a descriptor",
            format!(
                "unshare -m sh -c 'mount -i -t proc proc /proc/self/fd/7 7</tmp/p && {memory}'"
            ),
        ),
        (
            "a root",
            "cp -a /bin /lib* /usr /tmp/r 2>/dev/null; unshare -mpf chroot /tmp/r sh -c \
             'mount -t proc proc /proc && head -1 /proc/meminfo'"
                .into(),
        ),
    ] {
        assert_eq!(ask(&script), TOTAL, "{what}");
    }
    // Of the whole view: CPUs by both ways, what is empty, and what is the container's own.
    let all = "unshare -mpf sh -c 'mount -t proc proc /proc; nproc; grep -c ^processor /proc/cpuinfo; \
               cat /proc/zoneinfo /proc/1/comm; awk \"{print NF}\" /proc/loadavg'";
    assert_eq!(ask(all), "1\n1\nsh\n5");
    let sysfs = "mount -t sysfs sysfs /tmp/s && cat /tmp/s/devices/system/cpu/online && \
                 ls /tmp/s/class/block /tmp/s/devices/system/memory; umount /tmp/s && echo gone";
    let online = ask("cat /sys/devices/system/cpu/online");
    let said = ask(sysfs);
    let words: Vec<&str> = said.split_whitespace().collect();
    assert_eq!(
        (words.first(), words.last()),
        (Some(&&*online), Some(&"gone")),
        "{said}"
    );
    assert!(
        !said.contains("memory0") && !said.contains("loop"),
        "{said}"
    );
    let users = "unshare -Urmn sh -c 'mount -t sysfs -o ro sysfs /tmp/s && \
                 cat /tmp/s/devices/system/cpu/online; ls /tmp/s/class/net'";
    assert_eq!(ask(users), format!("{online}\nlo"));
    // A size that changes is seen there as well.
    host.ok(&["set", "a", "--memory", "64M"]);
    assert_eq!(
        ask("unshare -mpf --mount-proc head -1 /proc/meminfo"),
        "MemTotal:          65536 kB"
    );
    assert_eq!(ask("grep -c ' /tmp/' /proc/self/mountinfo; true"), "0");
}

#[test]
fn a_container_inside_a_container_mounts_its_own() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    nesting(&host, "a");
    // One with a root of its own, in which nothing of the guest's own views is left.
    let inner = "unshare -Urmpf --mount-proc head -1 /proc/meminfo; \
                 unshare -Urmn sh -c \"mount -t sysfs -o ro sysfs /sys && ls /sys/class/net\"";
    let outer = format!(
        "mount --bind /tmp/r /tmp/r && mkdir -p /tmp/r/sys /tmp/r/old && cd /tmp/r && \
         mount -t proc proc proc && mount -t sysfs sysfs sys && pivot_root . old && \
         umount -l /old && {inner}"
    );
    inside(
        &host,
        "a",
        "cp -a /bin /lib* /usr /tmp/r 2>/dev/null; mkdir -p /tmp/r/tmp",
    );
    let said = inside(&host, "a", &format!("unshare -mpf sh -c '{outer}'"));
    assert_eq!(said.lines().collect::<Vec<_>>(), [TOTAL, "lo"], "{said}");
}

#[test]
fn what_is_mounted_otherwise_is_as_the_kernel_has_it() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    with_tools(&host, "a");
    // Raw calls: what they return, as errno or 0.
    let perl = r#"
        my ($proc, $none, $p) = ("proc\0", "none\0", "/tmp/p\0");
        sub told { my ($what, $got) = @_; print "$what ", $got < 0 ? $! + 0 : 0, "\n"; }
        sub mnt { syscall 165, map { $_ } @_ }
        told "no such folder", mnt($none, "/tmp/none\0", $proc, 0, 0);
        told "a file", mnt($none, "/etc/passwd\0", $proc, 0, 0);
        told "an option", mnt($none, $p, $proc, 0, "nonsense=1\0");
        told "no such type", mnt($none, $p, "procs\0", 0, 0);
        told "no type", mnt($none, $p, 0, 0, 0);
        told "bad type", mnt($none, $p, 1 << 46, 0, 0);
        told "bad path", mnt($none, 4096, $proc, 0, 0);
        told "tmpfs", mnt($none, $p, "tmpfs\0", 6, "size=1m\0");
        told "bind", mnt("/etc\0", $p, 0, 4096, 0);
        told "private", mnt(0, $p, 0, 1 << 18, 0);
        told "magic", mnt(0, $p, 0, 0xc0ed1020, 0);
        told "gone", syscall(166, $p, 0);
        told "gone", syscall(166, $p, 2);
        told "nothing there", syscall(166, $p, 0);
        open my $in, "<", "/tmp/p"; 
        told "magic proc", mnt($none, $p, $proc, 0xc0ed000e, "hidepid=2\0");
        open my $busy, "<", "/tmp/p/version" or die;
        told "busy", syscall(166, $p, 0);
        system "head -1 /tmp/p/meminfo; grep -c ' /tmp/p/meminfo ' /proc/self/mountinfo";
        system "grep -o 'hidepid=[a-z0-9]*' /proc/self/mountinfo | tail -1";
        close $busy;
        told "not busy", syscall(166, $p, 8);
        my $fs = syscall 430, $proc, 0;
        told "create", syscall(431, $fs, 6, 0, 0, 0);
        my $m = syscall 432, $fs, 0, 0;
        my $empty = "\0";
        told "attach", syscall(429, $m, $empty, -100, $p, 4);
        system "head -1 /tmp/p/meminfo";
        syscall 3, $m;
        told "gone", syscall(166, $p, 0);
        $( = $) = "1 1"; $< = $> = 1;
        told "a user", mnt($none, $p, $proc, 0, 0);
    "#;
    let said = host.ok(&["exec", "a", "--", "perl", "-e", perl]);
    let want = format!(
        "no such folder 2\na file 20\nan option 22\nno such type 19\nno type 22\nbad type 14\n\
         bad path 14\ntmpfs 0\nbind 0\nprivate 0\nmagic 0\ngone 0\ngone 0\nnothing there 22\n\
         magic proc 0\nbusy 16\n{TOTAL}\n1\nhidepid=invisible\nnot busy 0\ncreate 0\nattach 0\n\
         {TOTAL}\ngone 0\na user 1\n"
    );
    assert_eq!(said, want);
    // With all that lies on it, as umount(8) does it; and what lies on it stays read-only for its maker.
    let recursive = "mount -t proc proc /tmp/p && ! umount /tmp/p/version 2>/dev/null && \
                     ! mount -o remount,bind,rw /tmp/p/meminfo 2>/dev/null && \
                     ! sh -c 'echo > /tmp/p/meminfo' 2>/dev/null && umount -R /tmp/p && echo gone";
    assert_eq!(inside(&host, "a", recursive), "gone");
    // A tracer of the guest's own has the thread: the kernel's numbers, once.
    let traced = "perl -e 'if (my $one = fork) { waitpid $one, 0; exit }; \
                  syscall(101, 0, 0, 0, 0) == 0 or print \"not traced: $!\"; \
                  my ($n, $at, $kind) = (\"n\\0\", \"/tmp/p\\0\", \"proc\\0\"); \
                  syscall(165, $n, $at, $kind, 0, 0) == 0 or print \"failed $!\"; \
                  open F, \"/tmp/p/meminfo\"; print scalar <F>'; umount -l /tmp/p";
    let first = inside(&host, "a", traced);
    assert!(first.starts_with("MemTotal:") && first != TOTAL, "{first}");
    // Where a link leads out of a root, what is mounted is within it all the same.
    let link = "mkdir -p /tmp/r/in /tmp/r/tmp && ln -s ../../../../tmp/p /tmp/r/out; perl -e \
                'chroot \"/tmp/r\"; chdir \"/\"; mkdir \"/tmp/p\"; \
                 my ($n, $at, $kind) = (\"n\\0\", \"/out\\0\", \"proc\\0\"); \
                 syscall(165, $n, $at, $kind, 0, 0) == 0 or print \"failed $!\"' && \
                head -1 /tmp/r/tmp/p/meminfo && ls /tmp/p && umount /tmp/r/tmp/p";
    assert_eq!(inside(&host, "a", link), TOTAL);
    assert_eq!(
        inside(&host, "a", "grep -c ' /tmp/' /proc/self/mountinfo; true"),
        "0"
    );
}

#[test]
fn a_hundred_at_once_and_whoever_is_killed_meanwhile() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    nesting(&host, "a");
    let many = "for n in $(seq 100); do unshare -mpf --mount-proc head -1 /proc/meminfo & done | sort | uniq -c";
    let said = inside(&host, "a", many);
    assert_eq!(said.trim_start(), format!("100 {TOTAL}"));
    // Callers that are killed: others are answered, and nothing of ours is left.
    let killed = "for n in $(seq 40); do (unshare -mpf --mount-proc true & p=$!; \
                  usleep $((n * 300)); kill -9 $p) 2>/dev/null; done; \
                  unshare -mpf --mount-proc head -1 /proc/meminfo";
    assert_eq!(inside(&host, "a", killed).lines().last(), Some(TOTAL));
    eventually("only one process answers", 10, || {
        answering(&host, "a").len() == 1
    });
    // Who answers is killed again and again: no mount fails.
    let (root, until) = (
        host.root().to_owned(),
        Instant::now() + Duration::from_secs(4),
    );
    std::thread::scope(|all| {
        let killer = all.spawn(|| {
            let mut killed = 0;
            while Instant::now() < until {
                for pid in answering(&host, "a") {
                    kill(pid);
                    killed += 1;
                }
                std::thread::sleep(Duration::from_millis(170));
            }
            killed
        });
        let mount = "n=0; end=$(($(date +%s) + 4)); while [ $(date +%s) -lt $end ]; do \
                     unshare -mpf --mount-proc cat /proc/meminfo > /tmp/said || echo failed; \
                     mount -t tmpfs none /tmp/s && umount /tmp/s || echo failed; n=$((n + 1)); done; \
                     [ $n -gt 5 ] && echo went on";
        assert_eq!(inside(&host, "a", mount), "went on", "{}", root.display());
        assert!(killed_some(killer.join()));
    });
    eventually("another one answers", 10, || {
        inside(
            &host,
            "a",
            "unshare -mpf --mount-proc head -1 /proc/meminfo",
        ) == TOTAL
    });
}

fn killed_some(killed: std::thread::Result<u32>) -> bool {
    killed.is_ok_and(|killed| killed > 5)
}
