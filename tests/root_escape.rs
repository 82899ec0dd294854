//! A hostile tenant: root in its guest, who tries every way out. Each test is a family of ways; what
//! they must find is that nothing of the host is reached, changed or told.
//!
//! That the filter holds whatever the calling convention is in `root_seccomp.rs`; what guests take from
//! each other is in `root_isolation.rs`; archives are in `src/storage/extract_tests.rs`.

mod support;

use std::process::{Command, Stdio};

use support::{Bulkhead, Need, Outcome, TestDir, need, run};

/// The ways that need only a shell.
const WAYS: &str = include_str!("hostile/ways.sh");
/// Lies in wait for who enters.
const WATCH: &str = include_str!("hostile/watch.pl");

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
}

/// What the descriptors and the working folder of `evil`'s keeper are.
fn keeper_links(bulkhead: &Bulkhead) -> Vec<String> {
    let state = bulkhead.root().join("run/bulkhead/guests/evil/state.json");
    let state = std::fs::read_to_string(&state).unwrap();
    let state: serde_json::Value = serde_json::from_str(&state).unwrap();
    let folder = format!("/proc/{}/fd", state["keeper"]["pid"]);
    let links = std::fs::read_dir(folder).unwrap().map(|entry| {
        let link = std::fs::read_link(entry.unwrap().path()).unwrap();
        link.display().to_string()
    });
    links.collect()
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
    for round in 0..25 {
        let user = if round % 2 == 0 { "0" } else { "65534" };
        bulkhead.ok(&["exec", "-u", user, "evil", "--", "sleep", "0.02"]);
    }
    bulkhead.ok(&["exec", "evil", "--", "touch", "/dev/shm/enough"]);
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
    bulkhead.ok(&["exec", "evil", "--", "touch", "/dev/shm/enough"]);
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
    let look =
        "find $OUT /dev/null /dev/console /dev/ptmx /etc/hosts /etc/resolv.conf /etc/passwd \
        /etc/machine-id /etc/shadow -printf '%p %y %l %s %m %U %G %T@ %C@\\n' 2>/dev/null || true
        cut -d' ' -f5- /proc/self/mountinfo | grep -c bulkhead-test || true";
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
            began.elapsed().as_secs() < 20,
            "{trap}: {}",
            started.report()
        );
        if started.code == 0 {
            // Whatever it finds inside: an answer, not a hang, and no word of the host's.
            let inside = bulkhead.run(&["exec", "evil", "--", "/bin/cat", "/etc/hosts"]);
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
