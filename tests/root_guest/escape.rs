//! A hostile tenant: root in its guest, who tries every way out. Each test is a family of ways; what
//! they must find is that nothing of the host is reached, changed or told.
//!
//! That the filter holds whatever the calling convention is in `root_guest/seccomp.rs`; what guests take from
//! each other is in `root_share/isolation.rs`; archives are in `src/storage/extract_tests.rs`.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support;
use crate::support::{Bulkhead, Need, Outcome, TestDir, need, run};

/// The ways that need only a shell.
const WAYS: &str = include_str!("../hostile/ways.sh");
/// The ways that need a system call.
const CALLS: &str = include_str!("../hostile/calls.pl");
/// Lies in wait for who enters.
const WATCH: &str = include_str!("../hostile/watch.pl");

/// An installation with the running guest `evil`, whose first process only sleeps.
fn evil(flags: &[&str]) -> Bulkhead {
    let bulkhead = Bulkhead::new();
    let base = ["create", "evil", "--template", "host", "--start"];
    let init = ["--network", "none", "--init", "/bin/sleep 86400"];
    bulkhead.ok(&[&base[..], &init, flags].concat());
    bulkhead
}

/// What a shell of the guest's root says.
fn shell(bulkhead: &Bulkhead, script: &str) -> Outcome {
    bulkhead.run(&["exec", "evil", "--", "sh", "-c", script])
}

/// `sh -c SCRIPT` on the host, with `$BULKHEAD` for the program and its folder.
fn host_shell(bulkhead: &Bulkhead, script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]).stdin(Stdio::null());
    let program = support::program();
    command
        .env("BULKHEAD", program)
        .env("BULKHEAD_ROOT", bulkhead.root());
    command
}

#[test]
fn no_known_way_out_is_open() {
    if !need(Need::Root) {
        return;
    }
    let bulkhead = evil(&[]);
    let outcome = shell(&bulkhead, WAYS);
    let control = "open: none, only to see that this is told\n";
    assert_eq!(outcome.stdout, control, "{}", outcome.report());
}

/// CVE-2024-21626, CVE-2016-9962: a folder that the caller has open is a way out of the guest's root.
#[test]
fn no_descriptor_of_the_callers_crosses() {
    if !need(Need::Root) {
        return;
    }
    let bulkhead = evil(&[]);
    let with = "exec 5</ 7</root 8</etc/shadow 9>/dev/null 6</etc/passwd; cd /etc; ";
    let list = "ls /proc/self/fd";
    let here = |script: &str| run(host_shell(&bulkhead, &format!("{with}{script}")));
    // 3 is the folder that ls itself reads.
    let seen = here(&format!("$BULKHEAD exec evil -- {list}"));
    assert_eq!(seen.stdout, "0\n1\n2\n3\n", "{}", seen.report());
    let seen = here(&format!("$BULKHEAD exec -t evil -- {list}"));
    assert_eq!(seen.stdout, "0  1  2  3\r\n", "{}", seen.report());
    for at in ["</", ">/dev/null 2</", "2>/dev/null 1</"] {
        let outcome = here(&format!("$BULKHEAD exec evil -- true {at}"));
        assert_eq!(outcome.code, 125, "{at}: {}", outcome.report());
    }
    // No working folder leads out, by whatever number.
    let folders = (0..40).map(|n| format!("/proc/self/fd/{n}"));
    let more = [
        "/proc/self/cwd",
        "/proc/1/root/..",
        "../../../..",
        ".",
        "/proc/self/cwd/../..",
    ];
    for folder in folders.chain(more.map(str::to_owned)) {
        let script = format!(
            "$BULKHEAD exec -w {folder} evil -- sh -c 'pwd -P; test -d ./var/lib/bulkhead'"
        );
        let outcome = here(&script);
        let inside = outcome.stdout.starts_with('/') && outcome.code == 1;
        assert!(
            outcome.code == 125 || inside,
            "{folder}: {}",
            outcome.report()
        );
    }

    // Nor does anything reach the guest's first process, or stay open in its keeper.
    bulkhead.ok(&["stop", "evil", "-t", "0s"]);
    let started = here("$BULKHEAD start evil");
    assert_eq!(started.code, 0, "{}", started.report());
    let seen = shell(
        &bulkhead,
        "ls /proc/1/fd; readlink /proc/1/cwd /proc/1/fd/0",
    );
    assert_eq!(seen.stdout, "0\n1\n2\n/\n/dev/pts/0\n", "{}", seen.report());
    for link in keeper_links(&bulkhead) {
        assert!(
            !["/", "/root", "/etc/shadow", "/etc"].contains(&link.as_str()),
            "keeper has {link}"
        );
    }
    // A keeper that takes over lets go of whoever happened to put it on (`run` fails otherwise).
    let killed = run(host_shell(
        &bulkhead,
        &format!("kill -9 {}", keeper(&bulkhead)),
    ));
    assert_eq!(killed.code, 0, "{}", killed.report());
    let seen = here("$BULKHEAD exec evil -- echo hello");
    assert_eq!(seen.stdout, "hello\n", "{}", seen.report());
    for link in keeper_links(&bulkhead) {
        assert!(
            !["/", "/root", "/etc/shadow", "/etc"].contains(&link.as_str()),
            "new keeper has {link}"
        );
    }
}

/// What the descriptors and the working folder of `evil`'s keeper are.
fn keeper_links(bulkhead: &Bulkhead) -> Vec<String> {
    let folder = format!("/proc/{}/fd", keeper(bulkhead));
    let links = std::fs::read_dir(folder).unwrap().map(|entry| {
        let link = std::fs::read_link(entry.unwrap().path()).unwrap();
        link.display().to_string()
    });
    links.collect()
}

fn keeper(bulkhead: &Bulkhead) -> u64 {
    let state = bulkhead.root().join("run/bulkhead/guests/evil/state.json");
    let state = std::fs::read_to_string(&state).unwrap();
    let state: serde_json::Value = serde_json::from_str(&state).unwrap();
    state["keeper"]["pid"].as_u64().unwrap()
}

/// CVE-2016-9962, lxc-attach: a process on its way in has descriptors, memory and a program of the
/// host's. The guest's root sees it, and may look at nothing of it.
#[test]
fn who_enters_shows_nothing_to_the_guest() {
    if !need(Need::Root) {
        return;
    }
    let bulkhead = evil(&[]);
    let watch = bulkhead.command(&["exec", "evil", "--", "perl", "-e", WATCH]);
    let watch = std::thread::spawn(move || run(watch));
    // It looks as long as this takes, which is long where everything is.
    let until = Instant::now() + Duration::from_secs(100);
    for round in (0..25).take_while(|_| Instant::now() < until) {
        let user = if round % 2 == 0 { "0" } else { "65534" };
        bulkhead.ok(&["exec", "-u", user, "evil", "--", "sleep", "0.02"]);
    }
    // touch(1) would hold the file open for a moment, and be seen with it.
    bulkhead.ok(&["exec", "evil", "--", "mkdir", "/dev/shm/enough"]);
    let seen = watch.join().unwrap();
    let last = seen.stdout.lines().last().unwrap_or_default();
    let own: u32 = last.split(' ').nth(2).unwrap_or("0").parse().unwrap();
    assert!(own >= 10, "it did not look: {}", seen.report());
    assert_eq!(seen.stdout.lines().count(), 2, "{}", seen.report());
}

/// CVE-2019-5736: a program of the guest's that leads to the program of whoever enters or starts it.
#[test]
fn the_hosts_program_is_not_written_by_what_it_executes() {
    if !need(Need::Root) {
        return;
    }
    let bulkhead = evil(&[]);
    let program = support::program();
    let before = std::fs::read(&program).unwrap();
    // Whoever enters runs from a read-only mount: the first wall is the guest's ids, this the second.
    let mut entering = bulkhead.command(&["exec", "evil", "--", "sleep", "5"]);
    let mut entering = entering.spawn().unwrap();
    let own = format!("/proc/{}/exe", entering.id());
    support::eventually("it is sealed", 10, || {
        let flags = rustix::fs::statvfs(&own).map(|facts| facts.f_flag);
        flags.is_ok_and(|flags| flags.contains(rustix::fs::StatVfsMountFlags::RDONLY))
    });
    entering.kill().and_then(|()| entering.wait()).unwrap();
    // As an interpreter, the link means the program that is just executing the script.
    let script = "printf '#!/proc/self/exe\n' > /trap; chmod 755 /trap; cp /trap /sbin-init";
    assert_eq!(shell(&bulkhead, script).code, 0);
    let overwrite = "perl -e '
        for (;;) {
            for my $exe (glob q(/proc/[0-9]*/exe)) {
                print qq($exe\n) if open my $file, q(+<), $exe;
                print qq($exe truncated\n) if open $file, q(>), $exe;
            }
            exit if -e q(/dev/shm/enough);
        }'";
    let overwriter = bulkhead.command(&["exec", "evil", "--", "sh", "-c", overwrite]);
    let overwriter = std::thread::spawn(move || run(overwriter));
    for _ in 0..10 {
        // It is `bulkhead /trap` inside, which knows no such verb.
        let outcome = bulkhead.run(&["exec", "evil", "--", "/trap"]);
        assert_ne!(outcome.code, 0, "{}", outcome.report());
    }
    bulkhead.ok(&["exec", "evil", "--", "mkdir", "/dev/shm/enough"]);
    let written = overwriter.join().unwrap();
    assert_eq!(written.stdout, "", "{}", written.report());
    assert!(
        std::fs::read(&program).unwrap() == before,
        "the program has changed"
    );
}

/// What a guest may leave behind in its own tree, as commands in its layer; `$OUT` is a folder of the
/// host's with everything in it that such links hope to find.
const TRAPS: [&str; 44] = [
    "ln -s $OUT dev",
    "ln -s $OUT proc",
    "ln -s $OUT sys",
    "ln -s $OUT run",
    "ln -s $OUT tmp",
    "rm -r etc; ln -s $OUT etc",
    "rm -r etc; ln -s ../../../../../../../../../../../../../..$OUT etc",
    "ln -sf $OUT/hosts etc/hosts",
    "ln -sf $OUT/resolv.conf etc/resolv.conf",
    "ln -sf $OUT/hostname etc/hostname",
    "ln -sf $OUT/machine-id etc/machine-id",
    "ln -sf $OUT/passwd etc/passwd",
    "ln -sf $OUT/shadow etc/shadow",
    "rm -rf etc/systemd; ln -s $OUT etc/systemd",
    "rm -rf etc/systemd; mkdir etc/systemd; ln -s $OUT etc/systemd/network",
    "rm -rf etc/network; ln -s $OUT etc/network",
    "ln -s $OUT bin",
    "ln -s $OUT sbin",
    "ln -s $OUT usr",
    "rm -rf var; ln -s $OUT var",
    "rm -f etc/hosts; mkfifo etc/hosts",
    "rm -f etc/resolv.conf; mkfifo etc/resolv.conf",
    "rm -f etc/passwd; mkfifo etc/passwd",
    "rm -f etc/hosts; mkdir etc/hosts",
    "rm -f etc/hosts; mkdir -p etc/hosts/full",
    "rm -f etc/hosts; ln -s hosts etc/hosts",
    "rm -f etc/hosts; truncate -s 1T etc/hosts",
    "rm -f etc/hosts; chmod 0 etc; touch etc/hosts; chmod 0 etc/hosts",
    "rm -r etc; mkfifo etc",
    "rm -r etc; touch etc",
    "mkfifo dev",
    "touch proc",
    "mknod sys c 0 0",
    "mknod dev c 0 0",
    "ln -s /dev/pts proc",
    "ln -s /proc dev",
    "ln -s /proc/self/fd run",
    "ln -s /proc/1/root$OUT run",
    "ln -s /proc/sys sys",
    "ln -s dev proc",
    "ln -s sys dev; ln -s dev sys",
    "ln -s . dev",
    "ln -s .. usr",
    "ln -s /run/../run/x/../.. proc",
];

/// CVE-2021-30465, CVE-2025-31133, CVE-2025-52565 and many more: the guest's tree is rewritten while
/// the host believes in it. A start succeeds or refuses, soon, and nothing of the host is touched.
#[test]
fn a_tree_of_traps_touches_nothing_of_the_hosts() {
    if !need(Need::Root) {
        return;
    }
    // As systemd has it: each mount is told to all who have the one it lies in.
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).expect("root may");
            let mut shared = Command::new("sh");
            shared.args(["-ec", "mount --make-rprivate /; mount --make-rshared /"]);
            assert_eq!(run(shared).code, 0);
            lay_traps();
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

fn lay_traps() {
    let bulkhead = evil(&[]);
    bulkhead.ok(&["stop", "evil", "-t", "0s"]);
    let folder = TestDir::new();
    let (out, kept) = (folder.join("out"), folder.join("kept"));
    let layer = bulkhead
        .root()
        .join("var/lib/bulkhead/guests/evil/root/upper");
    let on_host = |script: &str| {
        let mut command = Command::new("sh");
        command.args(["-euc", script]).current_dir(&layer);
        command.env("OUT", &out).env("KEPT", &kept);
        run(command)
    };
    let made = on_host(
        "mkdir -p $OUT/systemd/network $OUT/network $OUT/lib $OUT/pts $OUT/shm $OUT/bin
        for f in hosts resolv.conf hostname machine-id passwd shadow console null zero full random \
            tty ptmx kcore kmsg sleep init network/10-bulkhead.network network/interfaces; do
            echo the host\\'s > $OUT/$f; chmod 666 $OUT/$f; done
        cp -a . $KEPT",
    );
    assert_eq!(made.code, 0, "{}", made.report());
    // Sizes, owners and times of all that the links lead to, and of their usual targets.
    // (Others on the machine change the times of devices by using them.)
    let look = "find $OUT -printf '%p %y %l %s %m %U %G %T@ %C@\\n'
        find /dev/null /dev/console /dev/ptmx -printf '%p %y %l %s %m %U %G\\n' 2>/dev/null || true
        find /etc/hosts /etc/resolv.conf /etc/passwd /etc/machine-id /etc/shadow \
            -printf '%p %y %l %s %m %U %G %T@\\n' 2>/dev/null || true
        grep -c \" $OUT\" /proc/self/mountinfo || true";
    let before = on_host(look).stdout;
    for trap in TRAPS {
        let laid = on_host(trap);
        assert_eq!(laid.code, 0, "{trap}: {}", laid.report());
        let began = std::time::Instant::now();
        let started = bulkhead.run(&["start", "evil"]);
        assert!(
            matches!(started.code, 0 | 1),
            "{trap}: {}",
            started.report()
        );
        assert!(
            began.elapsed().as_secs() < 60,
            "{trap}: {}",
            started.report()
        );
        if started.code == 0 {
            // Whatever it finds inside: an answer, not a hang, and no word of the host's.
            let inside = bulkhead.run(&["exec", "evil", "--", "/bin/cat", "/etc/hosts"]);
            // Root needs no entry in a file that cannot be read.
            let expected = if trap.contains("mkfifo etc/passwd") {
                0
            } else {
                inside.code
            };
            assert_eq!(inside.code, expected, "{trap}: {}", inside.report());
            assert!(
                !inside.stdout.contains("the host's"),
                "{trap}: {}",
                inside.report()
            );
            bulkhead.run(&["exec", "-t", "-u", "nobody", "evil", "--", "/bin/true"]);
            bulkhead.ok(&["info", "evil"]);
            bulkhead.ok(&["stop", "evil", "-t", "0s"]);
        }
        let after = on_host(look).stdout;
        let pairs = before.lines().zip(after.lines());
        let changed: Vec<_> = pairs.filter(|(before, after)| before != after).collect();
        assert!(
            changed.is_empty() && before.len() == after.len(),
            "{trap}: {changed:#?}"
        );
        let reset = on_host("find . -mindepth 1 -delete; cp -a $KEPT/. .");
        assert_eq!(reset.code, 0, "{trap}: {}", reset.report());
    }
    bulkhead.ok(&["start", "evil"]);
}

#[test]
fn calls_of_the_hosts_root_are_refused() {
    if !need(Need::Root) {
        return;
    }
    for profile in ["default", "hardened"] {
        let bulkhead = evil(&["--profile", profile]);
        let mut calls = CALLS.to_owned();
        if profile == "hardened" {
            // It has no CAP_SYS_CHROOT to climb with.
            calls = calls.replace("or die \"chroot: $!\"", "or print(\"end\\n\"), exit");
        }
        let outcome = bulkhead.run(&["exec", "evil", "--", "perl", "-e", &calls]);
        assert_eq!(outcome.stdout, "end\n", "{profile}: {}", outcome.report());
    }
}

/// One line of a process's status file.
fn line<'a>(status: &'a str, key: &str) -> &'a str {
    let start = |line: &&str| line.starts_with(key);
    let found = status.lines().find(start).unwrap_or_default();
    found[key.len()..].trim()
}

#[test]
fn first_and_executed_processes_have_what_was_planned_and_no_more() {
    if !need(Need::Root) {
        return;
    }
    for (profile, no_new) in [("default", "0"), ("hardened", "1")] {
        let bulkhead = evil(&["--profile", profile]);
        let plan = bulkhead.ok(&["plan", "evil", "--format", "json"]);
        let plan: serde_json::Value = serde_json::from_str(&plan).unwrap();
        let planned = plan["spec"]["process"]["capabilities"]["bounding"]
            .as_array()
            .unwrap()
            .len();
        let own = "for p in 1 self; do cat /proc/$p/status; echo ==; done";
        let both = shell(&bulkhead, own).stdout;
        let all: Vec<_> = both.split("==\n").filter(|text| !text.is_empty()).collect();
        assert_eq!(all.len(), 2);
        for status in &all {
            let bits = |key| u64::from_str_radix(line(status, key), 16).unwrap();
            assert_eq!(
                (bits("CapInh:"), bits("CapAmb:")),
                (0, 0),
                "{profile}: {status}"
            );
            let bounding = bits("CapBnd:");
            assert_eq!(
                bounding.count_ones() as usize,
                planned,
                "{profile}: {status}"
            );
            assert_eq!((bits("CapPrm:"), bits("CapEff:")), (bounding, bounding));
            // SYS_MODULE, SYS_RAWIO, SYS_TIME, MAC_OVERRIDE, MAC_ADMIN, SYSLOG, PERFMON, BPF.
            for bit in [16, 17, 25, 32, 33, 34, 38, 39] {
                assert_eq!(bounding >> bit & 1, 0, "{profile}: capability {bit}");
            }
            assert_eq!(line(status, "Seccomp:"), "2");
            assert_eq!(line(status, "NoNewPrivs:"), no_new);
            assert_eq!(line(status, "Groups:"), "");
        }
        // A user of the guest's has none, and a setuid program works where it may.
        let user = bulkhead.ok(&[
            "exec",
            "-u",
            "65534",
            "evil",
            "--",
            "cat",
            "/proc/self/status",
        ]);
        for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
            assert_eq!(line(&user, set), "0000000000000000", "{profile}: {user}");
        }
        let made = shell(&bulkhead, "cp /usr/bin/id /tmp/id && chmod 4755 /tmp/id");
        assert_eq!(made.code, 0, "{}", made.report());
        let id = bulkhead.ok(&["exec", "-u", "65534", "evil", "--", "/tmp/id", "-u"]);
        assert_eq!(
            id,
            if no_new == "1" { "65534\n" } else { "0\n" },
            "{profile}"
        );

        // Nobody on the host gets at that program.
        let mut path = bulkhead
            .root()
            .join("var/lib/bulkhead/guests/evil/root/upper/tmp/id");
        assert!(path.exists());
        let mut peek = Command::new("ls");
        std::os::unix::process::CommandExt::uid(&mut peek, 65_534);
        assert_ne!(
            run({
                peek.arg(&path);
                peek
            })
            .code,
            0,
            "{}",
            path.display()
        );
        let mut private = 0;
        while path.pop() && path != bulkhead.root() {
            let mode = std::os::unix::fs::MetadataExt::mode(&path.metadata().unwrap());
            private += u32::from(mode & 0o077 == 0);
        }
        assert!(private >= 1, "no folder above the guest's files is private");
    }
}

/// CVE-2016-10124: a program that has the caller's terminal types into it.
#[test]
fn nothing_is_typed_into_the_callers_terminal() {
    if !need(Need::Root) {
        return;
    }
    let bulkhead = evil(&[]);
    let type_in = "my $c = 'x'; my $z = 1;
        for (0x5412, 0x100005412, 0x541c, 0x10000541c) { print qq(typed by $_\n) if syscall(16, 0, $_, $c) >= 0 }
        open my $tty, '+<', '/dev/tty' and print qq(has it\n);
        syscall(16, 0, 0x540e, $z) >= 0 and print qq(took it\n);
        -t STDIN or print qq(no terminal\n);";
    let pty = nix::pty::openpty(None, None).unwrap();
    // As in a person's session, of which it is the controlling terminal.
    let mut command = Command::new("setsid");
    command.args(["-c", "-w"]).arg(support::program());
    command.arg("--root").arg(bulkhead.root());
    command.args(["exec", "-T", "evil", "--", "perl", "-e", type_in]);
    command.stdin(Stdio::from(pty.slave));
    let seen = run(command);
    assert_eq!(
        (seen.code, seen.stdout.as_str()),
        (0, ""),
        "{}",
        seen.report()
    );
}

/// The caller's environment, keys and groups stay outside.
#[test]
fn nothing_of_the_callers_comes_along() {
    if !need(Need::Root) {
        return;
    }
    let bulkhead = evil(&[]);
    let plant = "my ($t, $d, $p) = (\"user\\0\", \"host-secret\\0\", 'secret');
        syscall(250, 1, 0) >= 0 or die; syscall(248, $t, $d, $p, 6, -3) >= 0 or die;
        open my $keys, '<', '/proc/keys' or die; grep /host-secret/, <$keys> or die 'not planted';
        $ENV{HOST_SECRET} = 'host-secret'; exec @ARGV;";
    let look = "umount /proc/keys; grep host-secret /proc/keys; env | grep host-secret
        tr '\\0' '\\n' < /proc/1/environ | grep host-secret; id -G; umask; pwd";
    let with_secrets = |args: &[&str]| {
        let mut command = Command::new("perl");
        command.args(["-e", plant]).arg(support::program());
        command.arg("--root").arg(bulkhead.root()).args(args);
        run({
            command.stdin(Stdio::null());
            command
        })
    };
    let seen = with_secrets(&["exec", "evil", "--", "sh", "-c", look]);
    assert_eq!(seen.stdout, "0\n0022\n/root\n", "{}", seen.report());
    bulkhead.ok(&["stop", "evil", "-t", "0s"]);
    let started = with_secrets(&["start", "evil"]);
    assert_eq!(started.code, 0, "{}", started.report());
    let seen = shell(&bulkhead, look);
    assert_eq!(seen.stdout, "0\n0022\n/root\n", "{}", seen.report());
}

/// The template that shares the host's `/usr`: nothing else of the host's is to be found.
#[test]
fn no_secret_of_the_hosts_is_in_a_guest_of_the_host_template() {
    if !need(Need::Root) {
        return;
    }
    let bulkhead = evil(&[]);
    let own = "find /root /home /var /srv /opt /mnt /media /boot /tmp -type f | sort";
    let seen = shell(&bulkhead, own);
    let known = [
        "/root/.bashrc",
        "/root/.profile",
        "/var/.updated",
        "/var/lib/dpkg/status",
    ];
    for file in seen.stdout.lines() {
        assert!(known.contains(&file), "{file} is in the guest");
    }
    // What identifies or opens the host, as far as this one has it.
    let mut secrets = vec!["Template of a control".to_owned()];
    let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    secrets.push(text("/etc/machine-id"));
    for file in ["/etc/shadow", "/etc/shadow-", "/etc/gshadow"] {
        let hashes = text(file);
        secrets.extend(
            hashes
                .lines()
                .filter_map(|line| line.split(':').nth(1))
                .map(str::to_owned),
        );
    }
    for folder in ["/etc/ssh", "/root/.ssh", "/etc/ssl/private"] {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let key = std::fs::read_to_string(entry.path()).unwrap_or_default();
            if key.contains("PRIVATE KEY") {
                secrets.extend(key.lines().nth(2).map(str::to_owned));
            }
        }
    }
    secrets.retain(|secret| secret.trim().len() >= 12);
    let patterns = secrets
        .iter()
        .map(|s| s.trim())
        .collect::<Vec<_>>()
        .join("\n");
    let put = shell(
        &bulkhead,
        "mkdir /srv/control && echo 'Template of a control' > /srv/control/file",
    );
    assert_eq!(put.code, 0, "{}", put.report());
    let search = "grep -rlF -f /dev/stdin / --exclude-dir=proc --exclude-dir=sys --exclude-dir=usr --exclude-dir=dev 2>/dev/null";
    let folder = TestDir::new();
    let mut command = bulkhead.command(&["exec", "evil", "--", "sh", "-c", search]);
    command.stdin(std::fs::File::open(folder.write("patterns", &patterns)).unwrap());
    let found = run(command);
    assert_eq!(found.stdout, "/srv/control/file\n", "{}", found.report());
    // Of /usr nothing that the host's own people may not read.
    let hidden = "find /usr -xdev ! -type l ! -perm -o+r ! -perm -o+x | while read -r path; do
        head -c 1 \"$path\" 2>/dev/null; ls -A \"$path\" 2>/dev/null; done; true";
    let seen = shell(&bulkhead, hidden);
    assert_eq!(seen.stdout, "", "{}", seen.report());
    let uncover = "awk '$5 ~ /^\\/usr/ {print $5}' /proc/self/mountinfo | while read -r at; do
        umount -l $at 2>/dev/null && echo uncovered $at; done; true";
    let seen = shell(&bulkhead, uncover);
    assert_eq!(seen.stdout, "", "{}", seen.report());
}

/// What a guest says, and what it is called, is shown without a control character: a terminal obeys
/// those.
#[test]
fn what_a_guest_says_cannot_command_a_terminal() {
    if !need(Need::Root) {
        return;
    }
    let bulkhead = evil(&[]);
    let loud = "printf 'plain \\033]0;title\\007 \\033[2J \\233m \\302\\233 \\r \\177 \\342\\200\\256end\\n'";
    let clean = |what: &str, text: &str| {
        let wrong = text
            .chars()
            .find(|c| c.is_control() && *c != '\n' || *c == '\u{202e}');
        assert_eq!(wrong, None, "{what}: {text:?}");
    };
    assert_eq!(shell(&bulkhead, &format!("{loud} > /dev/console")).code, 0);
    support::eventually("the console says it", 5, || {
        bulkhead.ok(&["logs", "evil"]).contains("end")
    });
    clean("logs", &bulkhead.ok(&["logs", "evil"]));
    // Programs and folders of such names, and a first program that says it and ends.
    let name = "/tmp/\u{1b}]0;x\u{7}";
    for args in [
        &["exec", "evil", name][..],
        &["exec", "-w", name, "evil", "true"],
        &["exec", "-u", name, "evil", "true"],
    ] {
        let outcome = bulkhead.run(args);
        assert!(outcome.code >= 125, "{args:?}");
        clean("exec", &outcome.stderr);
    }
    let script =
        format!("printf '#!/bin/sh\\n' > /last; echo \"{loud}; exit 3\" >> /last; chmod 755 /last");
    assert_eq!(shell(&bulkhead, &script).code, 0);
    bulkhead.ok(&["stop", "evil", "-t", "0s"]);
    let dear = [
        "--description",
        "a \u{1b}[31m",
        "--label",
        "x=\u{1b}[31m",
        "--hostname",
        "\u{1b}[31m",
    ];
    for pair in dear.chunks(2) {
        let refused = bulkhead.run(&["create", "other", "--network", "none", pair[0], pair[1]]);
        assert_ne!(refused.code, 0, "{pair:?}");
        clean("create", &refused.stderr);
    }
    let set = bulkhead
        .root()
        .join("var/lib/bulkhead/guests/evil/guest.toml");
    let text = std::fs::read_to_string(&set).unwrap();
    std::fs::write(&set, text.replace("/bin/sleep", "/last")).unwrap();
    // It ends "at once" only where the machine lets it: one of some starts sees that.
    let mut starts = (0..30).map(|_| {
        bulkhead.run(&["wait", "evil", "stopped", "--timeout", "20s"]);
        bulkhead.run(&["start", "evil"])
    });
    let failed = starts
        .find(|start| start.code == 1)
        .expect("no start saw it end");
    assert!(
        failed.stderr.contains("plain") && failed.stderr.contains("end"),
        "{}",
        failed.report()
    );
    clean("start", &failed.stderr);
    for args in [
        &["list"][..],
        &["info", "evil"],
        &["events"],
        &["list", "--format", "json"],
        &["info", "evil", "--format", "yaml"],
    ] {
        clean("show", &bulkhead.ok(args));
    }
    // A definition that somebody has spoilt.
    std::fs::write(&set, "description = \"\u{1b}]0;x\u{7}\"\n\u{1b}[2J = 1\n").unwrap();
    for args in [
        &["list"][..],
        &["info", "evil"],
        &["start", "evil"],
        &["plan", "evil"],
        &["list", "--format", "json"],
    ] {
        let outcome = bulkhead.run(args);
        clean("spoilt", &(outcome.stdout + &outcome.stderr));
    }
    std::fs::write(&set, text).unwrap();
}

/// The power switch, the clock of the restarts and the exit of a first process are the guest's own.
#[test]
fn a_reboot_is_the_guests_alone() {
    if !need(Need::Root) {
        return;
    }
    let bulkhead = evil(&[]);
    let boots = || std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let pid = || {
        let text = bulkhead.ok(&["info", "evil", "--format", "json"]);
        let info: serde_json::Value = serde_json::from_str(&text).unwrap();
        info["pid"].as_u64().unwrap_or(0)
    };
    let (before, first) = (boots(), pid());
    // LINUX_REBOOT_CMD_RESTART, by its magic numbers.
    let reboot = "syscall 169, 0xfee1dead, 672274793, 0x01234567, 0";
    bulkhead.run(&["exec", "evil", "--", "perl", "-e", reboot]);
    support::eventually("it starts again", 20, || {
        let now = pid();
        now != 0 && now != first
    });
    assert_eq!(boots(), before);
    // Kexec, halt of the machine's own kind and Ctrl-Alt-Del are no commands a guest has.
    for command in ["0x45584543", "0x89abcdef", "0xd000fce2"] {
        let reboot = format!("exit(syscall(169, 0xfee1dead, 672274793, {command}, 0) >= 0)");
        let refused = bulkhead.run(&["exec", "evil", "--", "perl", "-e", &reboot]);
        assert_eq!(refused.code, 0, "{command}: {}", refused.report());
    }
    assert_eq!(boots(), before);
}
