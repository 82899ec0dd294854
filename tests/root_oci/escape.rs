//! The known ways out of an OCI container, each tried: through the runtime's own file and what it
//! has open, past its filter and its sets of capabilities, by devices and by the kernel's helpers.
//! What must be found is that nothing of the host is reached.
//!
//! Ways through paths are in `root_oci/paths.rs`, hostile configurations in `root_oci/hostile.rs`,
//! guests' ways in `root_guest/escape.rs`.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::bundle::{Bundle, Site, ready};
use crate::support::{Outcome, run};
use crate::{clients, support};
use serde_json::json;

/// Lies in wait for who enters.
const WATCH: &str = include_str!("../hostile/watch.pl");
/// Keeps whatever program but its own it finds executed, and tries to write to it.
const OVERWRITE: &str = include_str!("../hostile/overwrite.pl");

/// A container that only sleeps.
fn asleep(site: &Site) -> Bundle {
    let bundle = site.bundle("c", "exec sleep 1000");
    site.started(&bundle, "c");
    bundle
}

/// CVE-2019-5736: a program of the container's that leads to the program of who starts or enters it.
#[test]
fn the_runtime_is_not_written_by_what_it_executes() {
    if !ready() {
        return;
    }
    let site = Site::with_own_runtime();
    let before = std::fs::read(site.program()).unwrap();
    let bundle = site.bundle("c", "exec sleep 1000");
    let script = bundle.root().join("tmp/script");
    std::fs::write(&script, "#!/proc/self/exe\n").unwrap();
    std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
    site.started(&bundle, "c");
    let watch = site.command(&["exec", "c", "perl", "-e", OVERWRITE]);
    let watch = std::thread::spawn(move || run(watch));
    support::eventually("it watches", 10, || {
        site.shell("c", "test -e /tmp/ready").code == 0
    });
    for _ in 0..25 {
        for program in ["/proc/self/exe", "/tmp/script"] {
            let done = site.run(&["exec", "c", program, "events", "--interval", "10ms", "c"]);
            assert_ne!(done.code, 0, "{}", done.report());
        }
    }
    site.ok(&["exec", "c", "touch", "/tmp/enough"]);
    let seen = watch.join().unwrap();
    assert!(
        seen.stdout.contains("held "),
        "it did not look: {}",
        seen.report()
    );
    assert!(!seen.stdout.contains("open: "), "{}", seen.report());

    // As the container's own first program.
    for program in ["/proc/self/exe", "/tmp/script"] {
        let mut bundle = site.bundle(&format!("b{}", program.len()), "");
        std::fs::copy(&script, bundle.root().join("tmp/script")).unwrap();
        bundle.program(&[program, "state", "c"]);
        let done = site.run_in(&bundle, "b");
        assert_ne!(done.code, 0, "{}", done.report());
        let made = site.create(&bundle, "b");
        if made.code == 0 {
            site.run(&["start", "b"]);
        }
        site.run(&["delete", "-f", "b"]);
    }
    assert!(
        std::fs::read(site.program()).unwrap() == before,
        "it was changed"
    );
}

/// CVE-2024-21626: a folder that the runtime, or its caller, has open is a way out of the root.
#[test]
fn no_descriptor_leads_out() {
    if !ready() {
        return;
    }
    let site = Site::new();
    let secret = site.path("secret");
    std::fs::write(&secret, "#!/bin/sh\necho reached\n").unwrap();
    std::fs::set_permissions(&secret, PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::copy("/usr/bin/busybox", site.path("echo")).unwrap();
    let up = "../../../../../../../..";
    let here = |args: &[&str]| {
        let mut shell = Command::new("sh");
        let line = r#"exec 5</ 6</etc 7</usr 8</etc/passwd; cd /etc; exec "$@""#;
        let command = site.command(args);
        shell
            .args(["-c", line, "sh"])
            .arg(command.get_program())
            .args(command.get_args());
        run({
            shell.stdin(std::process::Stdio::null());
            shell
        })
    };
    let mut bundle = asleep(&site);
    let fds = here(&["exec", "c", "ls", "/proc/self/fd"]);
    assert_eq!(fds.stdout, "0\n1\n2\n3\n", "{}", fds.report());
    let held = bundle.folder.to_string_lossy().into_owned();
    // Passing on more than there are would pass on what the runtime opens.
    for count in ["7", "100", "4294967295"] {
        for args in [
            &["exec"][..],
            &["run", "-b", &held],
            &["create", "-b", &held],
        ] {
            let more = ["--preserve-fds", count, "c", "true"];
            let end = if args[0] == "exec" { 4 } else { 3 };
            let done = here(&[args, &more[..end]].concat());
            assert!(done.stderr.contains("not that many"), "{}", done.report());
        }
    }
    // Working folders first, then programs, and interpreters of scripts.
    for number in (3..30).map(|n| n.to_string()) {
        let cwd = format!("/proc/self/fd/{number}");
        let inside = |done: &Outcome| done.code != 0 || done.stdout.starts_with("/\n");
        let say = "pwd -P; ls ../../../../..".to_owned();
        for cwd in [cwd.clone(), format!("{cwd}/{up}")] {
            let done = here(&["exec", "--cwd", &cwd, "c", "sh", "-c", &say]);
            assert!(
                inside(&done) && !done.stdout.contains("work"),
                "{cwd}: {}",
                done.report()
            );
            bundle.config["process"]["cwd"] = json!(cwd);
            bundle.program(&["sh", "-c", &say]);
            let done = here(&["run", "-b", &held, "d"]);
            assert!(
                inside(&done) && !done.stdout.contains("work"),
                "{cwd}: {}",
                done.report()
            );
        }
        bundle.config["process"]["cwd"] = json!("/");
        for file in ["secret", "echo"] {
            let program = format!("{cwd}/{up}{}", site.path(file).display());
            let done = here(&["exec", "c", &program, "reached"]);
            assert!(
                done.code != 0 && !done.stdout.contains("reached"),
                "{}",
                done.report()
            );
            let script = bundle.root().join("tmp/script");
            std::fs::write(&script, format!("#!{program}\n")).unwrap();
            std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
            let done = here(&["exec", "c", "/tmp/script", "reached"]);
            assert!(
                done.code != 0 && !done.stdout.contains("reached"),
                "{}",
                done.report()
            );
            for program in [program.as_str(), "/tmp/script"] {
                bundle.program(&[program, "reached"]);
                let done = here(&["run", "-b", &held, "d"]);
                assert!(
                    done.code != 0 && !done.stdout.contains("reached"),
                    "{}",
                    done.report()
                );
            }
        }
    }
}

/// A folder as standard input is the same way, and a client's mistake.
#[test]
fn a_folder_is_no_standard_input() {
    if !ready() {
        return;
    }
    let site = Site::new();
    let bundle = asleep(&site);
    let at = bundle.folder.to_string_lossy().into_owned();
    for args in [
        &["exec", "c", "true"][..],
        &["run", "-b", &at, "d"],
        &["create", "-b", &at, "d"],
    ] {
        let mut command = site.command(args);
        command.stdin(std::fs::File::open("/").unwrap());
        let done = run(command);
        assert_ne!(done.code, 0, "{args:?}");
        assert!(
            done.stderr.contains("standard input is a folder"),
            "{}",
            done.report()
        );
    }
    assert_eq!(site.names(), ["c"]);
}

/// CVE-2016-9962: who enters has more than the container, until its program runs.
#[test]
fn who_enters_is_not_looked_into() {
    if !ready() {
        return;
    }
    let site = Site::new();
    let _bundle = asleep(&site);
    let watch = site.command(&["exec", "c", "perl", "-e", WATCH]);
    let watch = std::thread::spawn(move || run(watch));
    for round in 0..25 {
        let user = if round % 2 == 0 { "0" } else { "65534" };
        site.ok(&["exec", "-u", user, "c", "sleep", "0.02"]);
    }
    site.ok(&["exec", "c", "mkdir", "/dev/shm/enough"]);
    let seen = watch.join().unwrap();
    let last = seen.stdout.lines().last().unwrap_or_default();
    let own: u32 = last.split(' ').nth(2).unwrap_or("0").parse().unwrap();
    assert!(own >= 10, "it did not look: {}", seen.report());
    assert_eq!(seen.stdout.lines().count(), 2, "{}", seen.report());
}

/// CVE-2022-24769, CVE-2022-29162: sets that a program passes on without being given them.
#[test]
fn no_capability_comes_by_itself() {
    if !ready() {
        return;
    }
    let site = Site::new();
    let say = "grep -E '^(Cap|Groups)' /proc/self/status";
    let mut bundle = site.bundle("c", say);
    let field = |text: &str, key: &str| clients::field(text, key).to_owned();
    for ids in [false, true] {
        if ids {
            bundle.with_ids();
        }
        bundle.config["process"]["user"] = json!({"uid": 0, "gid": 0});
        bundle.program(&["sh", "-c", say]);
        let root = site.run_in(&bundle, "c").stdout;
        assert_eq!(field(&root, "CapBnd"), "00000000a80425fb", "{root}");
        for set in ["CapInh", "CapAmb"] {
            assert_eq!(field(&root, set), "0000000000000000", "{root}");
        }
        assert_eq!(field(&root, "Groups"), "", "{root}");
        bundle.config["process"]["user"] = json!({"uid": 5, "gid": 5});
        bundle.program(&["sh", "-c", "exec sleep 1000"]);
        site.started(&bundle, "c");
        let raised = ["exec", "--cap", "CAP_SYS_ADMIN", "c", "sh", "-c", say];
        for args in [&["exec", "c", "sh", "-c", say][..], &raised] {
            let user = site.ok(args);
            for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
                assert_eq!(field(&user, set), "0000000000000000", "{user}");
            }
            assert_eq!(field(&user, "Groups"), "", "{user}");
        }
        site.ok(&["delete", "-f", "c"]);
    }
}

/// A filter holds for the other ways of calling the kernel.
#[test]
fn no_other_calling_convention_walks_around_the_filter() {
    if !ready() {
        return;
    }
    let site = Site::new();
    let x32 = r#"$p = "/tmp/x32"; syscall(0x40000000 | 83, $p, 0755); exit -d $p"#;
    let mut bundle = site.bundle("c", "");
    let helper = bundle.root().join("tmp/i386");
    std::fs::write(&helper, i386_mkdir()).unwrap();
    std::fs::set_permissions(&helper, PermissionsExt::from_mode(0o755)).unwrap();
    let made = bundle.root().join("tmp/made");
    let mut tried = |filter: serde_json::Value| {
        bundle.config["linux"]["seccomp"] = filter;
        bundle.program(&["/tmp/i386"]);
        let done = site.run_in(&bundle, "c");
        let i386 = std::fs::remove_dir(&made).is_ok();
        bundle.program(&["perl", "-e", x32]);
        site.run_in(&bundle, "c");
        let x32 = std::fs::remove_dir(bundle.root().join("tmp/x32")).is_ok();
        (i386, x32, done.code)
    };
    let (i386, _, code) = tried(serde_json::Value::Null);
    // Without a filter; some kernels have no such calls.
    assert!(i386 || code != 0, "the helper does nothing");
    let deny = |archs: &[&str]| {
        json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": archs, "syscalls":
            [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}]})
    };
    let all = ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"];
    for archs in [&all[..], &all[..1], &[]] {
        let (i386, x32, _) = tried(deny(archs));
        assert_eq!((i386, x32), (false, false), "{archs:?}");
    }
}

/// A program that makes the folder `/tmp/made` by the i386 convention, and ends.
fn i386_mkdir() -> Vec<u8> {
    const AT: u64 = 0x40_0000;
    let mut code = vec![0xb8, 39, 0, 0, 0, 0xbb]; // mov eax, mkdir; mov ebx, the path
    let name_at = u32::try_from(AT).unwrap() + 64 + 56 + 29;
    code.extend(name_at.to_le_bytes());
    code.extend([0xb9, 0xed, 1, 0, 0, 0xcd, 0x80]); // mov ecx, 0755; int 0x80
    code.extend([0x31, 0xff, 0xb8, 60, 0, 0, 0, 0x0f, 0x05, 0x90, 0x90, 0x90]); // exit(0)
    code.extend(b"/tmp/made\0");
    let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let size = 64 + 56 + code.len() as u64;
    for half in [2_u16, 62] {
        file.extend(half.to_le_bytes());
    }
    file.extend(1_u32.to_le_bytes());
    for word in [AT + 120, 64, 0] {
        file.extend(word.to_le_bytes());
    }
    file.extend(0_u32.to_le_bytes());
    for half in [64_u16, 56, 1, 0, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    for half in [1_u32, 5] {
        file.extend(half.to_le_bytes());
    }
    for word in [0, AT, AT, size, size, 0x1000] {
        file.extend(word.to_le_bytes());
    }
    file.extend(code);
    file
}

/// The image brings nodes of the host's devices along, or makes them.
#[test]
fn nodes_of_an_image_open_nothing() {
    if !ready() {
        return;
    }
    let site = Site::new();
    let nodes = "for n in 'b 7 0' 'b 8 0' 'b 254 0' 'c 1 1' 'c 1 11' 'c 10 237' 'c 5 1' 'c 4 0'; do
        name=$(echo $n | tr ' ' -); mknod -m 666 $DIR/$name $n || continue; done";
    let open = "for n in /tmp/?-*-*; do
        dd if=$n of=/dev/null bs=1 count=0 2>/dev/null && echo open: $n
        dd if=/dev/null of=$n conv=notrunc 2>/dev/null && echo open: $n; done; ls /tmp | wc -l";
    let mut bundle = site.bundle("c", open);
    let mut make = clients::command("sh");
    make.args(["-c", nodes])
        .env("DIR", bundle.root().join("tmp"));
    clients::succeed(make);
    let resources = bundle.config["linux"]["resources"].clone();
    for (ids, resources) in [
        (false, resources),
        (false, json!({})),
        (true, serde_json::Value::Null),
    ] {
        bundle.config["linux"]["resources"] = resources;
        bundle.write();
        if ids {
            bundle.with_ids();
        }
        let done = site.run_in(&bundle, "c");
        assert_eq!(done.stdout, "8\n", "{}", done.report());
        let inside = format!("{}; {open}", nodes.replace("$DIR", "/root"));
        bundle.program(&["sh", "-c", &inside.replace("/tmp/?", "/root/?")]);
        let done = site.run_in(&bundle, "c");
        assert!(!done.stdout.contains("open: "), "{}", done.report());
        bundle.program(&["sh", "-c", open]);
    }
}

/// What has the host's root run something, or tells of it.
#[test]
fn no_helper_of_the_kernel_is_reached() {
    if !ready() {
        return;
    }
    let site = Site::new();
    let mut bundle = site.bundle("c", "exec sleep 1000");
    let all = bundle.config["mounts"].as_array_mut().unwrap();
    // Control groups that may be written: what a client asks for most of all.
    for mount in all.iter_mut().filter(|m| m["type"] == "cgroup") {
        mount["options"] = json!(["nosuid", "noexec", "nodev"]);
    }
    bundle.write();
    let ways = r#"
        for f in $(find /sys/fs/cgroup -name release_agent); do echo open: $f; done
        for f in kernel/core_pattern kernel/modprobe vm/drop_caches kernel/sysrq; do
            [ -e /proc/sys/$f ] && (cat /proc/sys/$f > /tmp/k; cat /tmp/k > /proc/sys/$f) 2>/dev/null && echo open: $f; done
        (echo h > /proc/sysrq-trigger) 2>/dev/null && echo open: sysrq
        for f in /sys/kernel/uevent_helper /sys/kernel/mm/ksm/run /sys/power/state; do
            [ -e $f ] && (cat $f > /tmp/k; cat /tmp/k > $f) 2>/dev/null && echo open: $f; done
        for f in kcore timer_list keys sched_debug; do [ -s /proc/$f ] && head -c 1 /proc/$f | grep -q . && echo open: $f; done
        mkdir -p /tmp/at; for k in cgroup cgroup2 devtmpfs proc sysfs tmpfs; do mount -t $k none /tmp/at 2>/dev/null && echo open: mount $k; done
        umount /proc/kcore 2>/dev/null && echo open: umount
        mount -o remount,bind,rw /proc/sys 2>/dev/null && echo open: remount
        unshare -m true 2>/dev/null && echo open: unshare
        nsenter -t 1 -m true 2>/dev/null && echo open: nsenter
        chroot . true || true; perl -e 'mkdir "/tmp/j"; chroot "/tmp/j"; chdir ".." for 1..99; chroot "."; print "open: chroot\n" if -d "work" || -d "var/tmp"'
        echo control
    "#;
    site.started(&bundle, "c");
    let done = site.shell("c", ways);
    assert_eq!(done.stdout, "control\n", "{}", done.report());
}

/// The caller's session keyring and terminal stay the caller's (CVE-2016-10124).
#[test]
fn keyring_and_terminal_are_not_shared() {
    if !ready() {
        return;
    }
    let site = Site::new();
    let bundle = asleep(&site);
    // A key of the caller's session, looked for inside: KEYCTL_JOIN, add_key, then request by search.
    let find = "$t=\"user\\0\"; $n=\"bulkhead-test\\0\"; \
        print syscall(250, 10, -3, $t, $n, 0) < 0 ? 'none' : 'found', \"\\n\"";
    let at = bundle.folder.to_string_lossy().into_owned();
    let mut other = site.bundle("d", "");
    other.program(&["perl", "-e", find]);
    let with = other.folder.to_string_lossy().into_owned();
    let lead = "syscall(250, 1, 0); $t=\"user\\0\"; $n=\"bulkhead-test\\0\"; $v=\"secret\"; \
        syscall(248, $t, $n, $v, 6, -3) > 0 or die 'no key'; exec @ARGV";
    let caller = |args: &[&str]| {
        let command = site.command(args);
        let mut perl = clients::command("perl");
        perl.args(["-e", lead, "--"])
            .arg(command.get_program())
            .args(command.get_args());
        clients::succeed(perl)
    };
    assert_eq!(caller(&["exec", "c", "perl", "-e", find]), "none\n");
    assert_eq!(caller(&["run", "-b", &with, "d"]), "none\n");
    assert!(Path::new(&at).exists());
    // A terminal of the caller's as input, without -t.
    let push = "$c = \"x\"; print ioctl(STDIN, 0x5412, $c) ? 'pushed' : 'refused', \"\\n\"; \
        print ioctl(STDIN, 0x540e, 1) ? 'taken' : 'refused', \"\\n\"; sleep 1";
    let mut command = site.command(&["exec", "c", "perl", "-e", push]);
    command.env("TERM", "xterm");
    let mut terminal = clients::terminal::Terminal::start(&command);
    terminal.ends();
    let screen = terminal.screen();
    assert!(screen.contains("refused\r\nrefused"), "{screen}");
}

/// Who may unmount its own root finds an empty folder below, not the host's root.
#[test]
fn below_the_root_lies_nothing_of_the_host() {
    if !ready() {
        return;
    }
    let site = Site::new();
    let program = r#"
        open(my $own, "<", "/proc/self/ns/mnt") or die "open: $!";
        opendir(my $full, "/") or die "look: $!";
        my $root = "/";
        syscall(166, $root, 2) == 0 or die "umount2: $!";
        syscall(308, fileno($own), 0x20000) == 0 or die "setns: $!";
        opendir(my $below, "/") or die "look: $!";
        print "below: ", join(" ", grep { !/^\.\.?$/ } readdir($below)), "\n";
        mkdir "/made";
        print "mkdir: ", $!{EROFS} ? "read-only" : "$!", "\n";
    "#;
    let mut bundle = site.bundle("c", "");
    let caps = &mut bundle.config["process"]["capabilities"];
    for set in ["bounding", "effective", "permitted"] {
        let set = caps[set].as_array_mut().unwrap();
        set.extend([json!("CAP_SYS_ADMIN"), json!("CAP_SYS_CHROOT")]);
    }
    bundle.program(&["perl", "-MErrno", "-e", program]);
    bundle.write();
    let done = site.run_in(&bundle, "c");
    assert_eq!(
        done.stdout,
        "below: \nmkdir: read-only\n",
        "{}",
        done.report()
    );
}
