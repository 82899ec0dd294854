//! Bad input: each gets an error that names what, why and what to do, a fitting exit code, and
//! changes nothing of the guests that are there.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::life::{fed, in_force, info, inside, is, scripted, snapshot, unchanged};
use crate::support;
use crate::support::{Bulkhead, Need, TestDir, eventually, need, program, run};

/// An installation with one quiet guest in it that runs, and what it looks like.
fn with_a_neighbour() -> (Bulkhead, BTreeMap<PathBuf, String>) {
    let host = Bulkhead::new();
    scripted(&host, "web", "sleep 1000", &["--start"]);
    let before = snapshot(&host);
    (host, before)
}

/// The command fails with this code, tells all of this, and changes nothing.
#[track_caller]
fn refused(
    host: &Bulkhead,
    before: &BTreeMap<PathBuf, String>,
    args: &[&str],
    code: i32,
    told: &[&str],
) {
    let why = host.fails(args, code);
    for part in told {
        assert!(why.contains(part), "{args:?} does not tell {part:?}: {why}");
    }
    assert!(
        why.starts_with("error: ") || why.contains("\nerror: "),
        "{args:?}: {why}"
    );
    assert!(!why.contains("panicked"), "{why}");
    unchanged(host, before);
}

#[test]
fn values_out_of_range_and_names_that_are_none() {
    if !need(Need::Root) {
        return;
    }
    let (host, before) = with_a_neighbour();
    let no = |more: &[&str], code, told: &[&str]| {
        let args = [&["create", "new", "--template", "busybox"], more].concat();
        refused(&host, &before, &args, code, told);
    };
    no(
        &["--memory", "1"],
        5,
        &["memory.limit: 1 is too little", "the least is 4M"],
    );
    no(&["--memory", "99999999999T"], 2, &["--memory"]);
    no(&["--memory", "-5M"], 2, &["--memory"]);
    no(
        &["--cpus", "0"],
        2,
        &["--cpus: \"0\" is not a number of CPUs", "from 0.01"],
    );
    no(&["--cpus", "-1"], 2, &["--cpus"]);
    no(&["--cpus", "0.001"], 2, &["--cpus", "steps of 0.01"]);
    no(
        &["--cpus", "500"],
        5,
        &["cpu.limit: 500 is more than there are", "CPUs"],
    );
    no(
        &["--cpuset", "900"],
        5,
        &["there is no CPU 900", "this machine has 0"],
    );
    no(&["--cpuset", "1-0"], 2, &["--cpuset"]);
    no(&["--cpu-weight", "0"], 5, &["cpu.weight", "1 to 10000"]);
    no(&["--processes", "0"], 5, &["processes"]);
    no(&["--memroy", "64M"], 2, &["--memroy", "--memory"]);
    no(&["--hostname", "bad name"], 5, &["hostname"]);
    no(&["--sysctl", "kernel.panic=1"], 5, &["kernel.panic"]);
    no(&["--rlimit", "nofles=1"], 5, &["nofile"]);
    no(&["--cap-add", "CAP_NOPE"], 2, &["CAP_NOPE"]);
    no(&["--device", "/no/such"], 5, &["/no/such"]);
    no(
        &["--device", "/etc/passwd"],
        5,
        &["/etc/passwd is not a device"],
    );
    no(&["--mount", "/no/such:/mnt"], 5, &["/no/such"]);
    no(&["--mount", "relative:/mnt"], 5, &["relative"]);
    no(&["--stop-signal", "SIGNOPE"], 5, &["is not a signal"]);
    no(&["--restart", "sometimes"], 2, &["no, on-failure, always"]);
    no(&["--network", "bridg"], 5, &["did you mean bridge?"]);
    no(&["--network", "Bridge"], 2, &["none of bridge, none, host"]);
    no(&["--profile", "tyni"], 5, &["did you mean \"tiny\"?"]);
    no(&["--timezone", "Europe/../../etc"], 5, &["timezone"]);
    no(&["--ssh-key", "two\nlines"], 2, &["control character"]);
    no(
        &["--option", "program=/no/such"],
        1,
        &["/no/such", "apt-get install"],
    );
    no(
        &["--option", "progam=/x"],
        5,
        &["no option \"progam\"", "program"],
    );
    let long = "a".repeat(64);
    for name in ["Web", "-web", "", "we_b", "we b", "a/b", "..", "wéb", &long] {
        let args = ["create", "--template", "busybox", "--", name];
        refused(&host, &before, &args, 2, &["[a-z0-9][a-z0-9-]{0,62}"]);
    }
    let templates = ["create", "new", "--template", "busibox"];
    refused(
        &host,
        &before,
        &templates,
        5,
        &["did you mean \"busybox\"?"],
    );
    assert!(is(&host, "web", "running"));
}

#[test]
fn names_and_addresses_that_are_taken() {
    if !need(Need::Root) {
        return;
    }
    let (host, before) = with_a_neighbour();
    let taken = ["create", "web", "--template", "busybox"];
    refused(
        &host,
        &before,
        &taken,
        4,
        &["there is a guest web already", "another name"],
    );
    let address = info(&host, "web")["address"]
        .as_str()
        .expect("an address")
        .to_owned();
    let create = |address: &str, told: &[&str]| {
        let args = [
            "create",
            "new",
            "--template",
            "busybox",
            "--address",
            address,
        ];
        refused(&host, &before, &args, 5, told);
    };
    create(&address, &["web has it"]);
    create("192.0.2.1", &["192.0.2.1", "outside the pool"]);
    let net = address.rsplit_once('.').expect("IPv4").0;
    create(&format!("{net}.1"), &[&format!("{net}.1")]);
    create(&format!("{net}.255"), &[&format!("{net}.255")]);
    let wrong = [
        "create",
        "new",
        "--template",
        "busybox",
        "--address",
        "10.1",
    ];
    refused(&host, &before, &wrong, 2, &["is not an IPv4 address"]);
}

#[test]
fn definitions_that_are_no_definitions() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    let files = TestDir::new();
    scripted(&host, "web", "sleep 1000", &["--start"]);
    let before = snapshot(&host);
    let no = |path: &str, code: i32, told: &[&str]| {
        refused(
            &host,
            &before,
            &["create", "new", "--from", path],
            code,
            told,
        );
    };
    let path = |name: &str| files.join(name).display().to_string();
    let fifo = path("fifo");
    assert!(
        Command::new("mkfifo")
            .arg(&fifo)
            .status()
            .expect("mkfifo")
            .success()
    );
    no(&fifo, 1, &[&fifo, "is a FIFO, not a regular file"]);
    no(&files.path().display().to_string(), 1, &["is a directory"]);
    let big = std::fs::File::create(path("big")).expect("a folder of ours");
    big.set_len(1 << 30).expect("a sparse file");
    no(&path("big"), 1, &["more than 262144 bytes"]);
    no("/dev/zero", 1, &["is a device"]);
    no(&path("none"), 1, &["there is no such file"]);
    let text = "template = \"busybox\"\n[memory]\nlimt = \"64M\"\n[cpu]\nlimit = 0\n";
    let wrong = files.write("wrong.toml", text).display().to_string();
    no(
        &wrong,
        5,
        &[
            "wrong.toml:3",
            "unknown key \"limt\"",
            "did you mean \"limit\"?",
            "wrong.toml:5",
        ],
    );
    let cut = files
        .write("cut.toml", "template = \"busybox")
        .display()
        .to_string();
    no(&cut, 5, &["cut.toml:1"]);
    std::fs::write(files.join("binary"), b"\xff\xfe\x00").expect("a folder of ours");
    no(&path("binary"), 1, &["is not UTF-8 text"]);
    let done = fed(
        &host,
        &["create", "new", "--from", "-"],
        &"#".repeat(300_000),
    );
    assert_eq!(done.code, 1, "{}", done.report());
    unchanged(&host, &before);

    // A guest whose definition a person has broken is shown as broken and can be stopped.
    let own = host.root().join("var/lib/bulkhead/guests/web/guest.toml");
    let good = std::fs::read_to_string(&own).expect("guest.toml");
    std::fs::write(&own, "limt = 1\n").expect("guest.toml");
    assert!(host.ok(&["list"]).contains("unknown key \"limt\""));
    host.ok(&["stop", "web", "--timeout", "0s"]);
    assert!(host.ok(&["list"]).contains("broken"));
    host.fails(&["start", "web"], 5);
    std::fs::write(&own, good).expect("guest.toml");
    host.ok(&["start", "web"]);
}

#[test]
fn archives_that_are_cut_off_hostile_or_no_archives() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    let files = TestDir::new();
    scripted(&host, "web", "sleep 1000", &["--start"]);
    let before = snapshot(&host);
    let make = "set -e; cd \"$0\"; mkdir -p t/sbin; head -c 300000 /dev/urandom > t/sbin/init; \
        tar cf good.tar t; head -c 100000 good.tar > cut.tar; \
        gzip -c good.tar | head -c 100000 > cut.tar.gz; xz -c good.tar | head -c 100000 > cut.tar.xz; \
        tar cPf up.tar --transform 's,^t/sbin/init,../../../../evil,' t/sbin/init; \
        ln -s /etc/shadow t/link; ln t/sbin/init t/second; \
        tar cPf hard.tar --transform 's,t/sbin/init,../../../etc/shadow,' t/sbin/init t/second; \
        head -c 5000 /dev/urandom > noise.tar; : > empty.tar; mkfifo fifo.tar; mkdir folder.tar";
    let made = Command::new("sh")
        .args(["-c", make])
        .arg(files.path())
        .status();
    assert!(made.expect("sh").success());
    for (file, told) in [
        ("cut.tar", "it is cut off or damaged"),
        ("cut.tar.gz", "it is cut off or damaged"),
        ("cut.tar.xz", "it is cut off or damaged"),
        ("up.tar", "leads upwards with '..'"),
        ("hard.tar", "leads upwards with '..'"),
        ("noise.tar", "noise.tar"),
        ("empty.tar", "empty.tar"),
        ("fifo.tar", "is not a regular file"),
        ("folder.tar", "is not a regular file"),
        ("none.tar", "is not there"),
    ] {
        let option = format!("archive={}", files.join(file).display());
        let args = ["create", "new", "--template", "tar", "--option", &option];
        refused(&host, &before, &args, 1, &[told, file]);
    }
    let relative = [
        "create",
        "new",
        "--template",
        "tar",
        "--option",
        "archive=x.tar",
    ];
    refused(&host, &before, &relative, 1, &["give the absolute path"]);
}

#[test]
fn verbs_on_guests_in_the_wrong_state() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    scripted(&host, "off", "sleep 1000", &[]);
    scripted(&host, "on", "sleep 1000", &["--start"]);
    let before = snapshot(&host);
    let no = |args: &[&str], code, told: &[&str]| refused(&host, &before, args, code, told);
    no(
        &["start", "on"],
        4,
        &["cannot start guest on: it is running"],
    );
    no(
        &["exec", "off", "true"],
        125,
        &["it is stopped", "`bulkhead start` it first"],
    );
    no(&["shell", "off"], 125, &["it is stopped"]);
    no(&["console", "off"], 4, &["it is stopped"]);
    no(&["pause", "off"], 4, &["it is stopped"]);
    no(&["resume", "off"], 4, &["it is stopped"]);
    no(&["delete", "on"], 4, &["it is running", "--force"]);
    no(
        &["rename", "on", "new"],
        4,
        &["it is running", "stop it first"],
    );
    no(
        &["rename", "off", "on"],
        4,
        &["there is a guest on already"],
    );
    no(&["rename", "off", "Bad"], 2, &["Bad"]);
    for verb in [
        "start", "stop", "kill", "pause", "resume", "restart", "delete", "info", "logs", "get",
        "plan",
    ] {
        no(&[verb, "of"], 3, &["there is no guest of", "did you mean"]);
    }
    no(&["edit", "of"], 3, &["there is no guest of"]);
    no(&["rename", "of", "new"], 3, &["there is no guest of"]);
}

#[test]
fn an_init_that_is_not_there_or_ends_at_once() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    let cases = [
        ("none", "init.command=/no/such", "cannot execute /no/such"),
        (
            "text",
            "init.command=/etc/passwd",
            "cannot execute /etc/passwd",
        ),
    ];
    for (name, init, told) in cases {
        scripted(&host, name, "sleep 1000", &[]);
        host.ok(&["set", name, init]);
        let before = snapshot(&host);
        let why = host.fails(&["start", name], 1);
        assert!(why.contains(told), "{why}");
        let mut after = snapshot(&host);
        // The start may have written what every start writes.
        after.retain(|path, what| before.get(path) != Some(what));
        let run = host.root().join("run/bulkhead/guests");
        assert!(
            !after.keys().any(|path| path.starts_with(&run)),
            "{after:#?}"
        );
        assert!(is(&host, name, "stopped"));
    }
    scripted(
        &host,
        "short",
        "echo I am; echo the reason >&2; exit 9",
        &[],
    );
    let why = host.fails(&["start", "short"], 1);
    for part in [
        "its init ended at once: exited with code 9",
        "I am",
        "the reason",
    ] {
        assert!(why.contains(part), "{why}");
    }
    assert!(is(&host, "short", "stopped"));
    assert_eq!(info(&host, "short")["last_end"]["code"], 9);
    let cgroup = || host.run(&["doctor"]).stdout;
    assert!(!cgroup().contains("LEFT OVER"), "{}", cgroup());
    // What was told to create is made all the same, and says how to go on.
    let why = host.run(&[
        "create",
        "new",
        "--template",
        "busybox",
        "--init",
        "/no/such",
        "--start",
    ]);
    assert_eq!(why.code, 1);
    assert!(
        why.stderr.contains("`bulkhead start new` tries again"),
        "{}",
        why.report()
    );
}

/// A small file system of the test's own.
struct Disk {
    folder: TestDir,
}

impl Disk {
    fn of(bytes: u64) -> Self {
        let folder = TestDir::new();
        let image = std::fs::File::create(folder.join("image")).expect("a folder of ours");
        image.set_len(bytes).expect("a sparse file");
        let make = "cd \"$0\" && mkfs.ext4 -q -F image && mkdir disk && mount -o loop image disk";
        let done = Command::new("sh")
            .args(["-c", make])
            .arg(folder.path())
            .output();
        let done = done.expect("sh");
        assert!(
            done.status.success(),
            "{}",
            String::from_utf8_lossy(&done.stderr)
        );
        Self { folder }
    }

    fn root(&self) -> PathBuf {
        self.folder.join("disk")
    }

    fn fill(&self) {
        let fill = "cd \"$0\"; dd if=/dev/zero of=fill bs=64k 2>/dev/null; dd if=/dev/zero of=more bs=1k 2>/dev/null; sync";
        let _full = Command::new("sh")
            .args(["-c", fill])
            .arg(self.root())
            .status();
    }

    fn make_room(&self) {
        for file in ["fill", "more"] {
            std::fs::remove_file(self.root().join(file)).expect("ours");
        }
    }

    fn remount(&self, how: &str) {
        let done = Command::new("mount")
            .args(["-o", how])
            .arg(self.root())
            .status();
        assert!(done.expect("mount").success(), "{how}");
    }

    fn bulkhead(&self, args: &[&str]) -> support::Outcome {
        let mut command = Command::new(program());
        command
            .arg("--root")
            .arg(self.root())
            .args(args)
            .env_remove("BULKHEAD_ROOT");
        command.stdin(Stdio::null());
        run(command)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _read_only_before = Command::new("mount")
            .args(["-o", "remount,rw"])
            .arg(self.root())
            .status();
        for args in [&["delete", "--all", "--force"][..], &["doctor", "--fix"]] {
            let done = self.bulkhead(args);
            if done.code != 0 {
                eprintln!("clearing up: {args:?}: {}", done.report());
            }
        }
        let _gone = Command::new("umount")
            .args(["-l"])
            .arg(self.root())
            .status();
    }
}

#[test]
fn a_full_disk_during_create_leaves_nothing() {
    if !need(Need::Root) || !need(Need::LoopDevice) {
        return;
    }
    // Too small for an image of two megabytes.
    let disk = Disk::of(2 << 20);
    let create = ["create", "web", "--template", "busybox"];
    let done = disk.bulkhead(&create);
    assert_eq!(done.code, 1, "{}", done.report());
    assert!(
        done.stderr.contains("No space left") && done.stderr.contains("is full: free some space"),
        "{}",
        done.report()
    );
    let left = disk.bulkhead(&["list", "--format", "json"]);
    assert_eq!(left.stdout.trim(), "[]", "{}", left.report());
    let doctor = disk.bulkhead(&["doctor"]);
    assert!(!doctor.stdout.contains("LEFT OVER"), "{}", doctor.report());

    // Room for the image, then none for the guest.
    let disk = Disk::of(12 << 20);
    let done = disk.bulkhead(&["create", "first", "--template", "busybox"]);
    assert_eq!(done.code, 0, "{}", done.report());
    disk.fill();
    let done = disk.bulkhead(&create);
    assert_eq!(done.code, 1, "{}", done.report());
    assert!(
        done.stderr.contains("is full: free some space"),
        "{}",
        done.report()
    );
    let left = disk.bulkhead(&["list"]);
    assert!(
        left.stdout.contains("first") && !left.stdout.contains("web"),
        "{}",
        left.report()
    );
    // A definition cannot be half written either.
    let text =
        || std::fs::read_to_string(disk.root().join("var/lib/bulkhead/guests/first/guest.toml"));
    let before = text().expect("guest.toml");
    let done = disk.bulkhead(&[
        "set",
        "first",
        "memory.limit=64M",
        &format!("description={}", "x".repeat(5000)),
    ]);
    assert_ne!(done.code, 0, "{}", done.report());
    assert_eq!(text().expect("guest.toml"), before);
    disk.make_room();
    let done = disk.bulkhead(&create);
    assert_eq!(done.code, 0, "{}", done.report());
}

#[test]
fn a_full_disk_at_the_end_of_a_guest_loses_nothing_of_its_account() {
    if !need(Need::Root) || !need(Need::LoopDevice) {
        return;
    }
    let disk = Disk::of(12 << 20);
    // What runs is not on that disk, as /run is not.
    let run = disk.root().join("run");
    std::fs::create_dir(&run).expect("a folder of ours");
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=4M", "none"])
        .arg(&run)
        .status();
    assert!(mounted.expect("mount").success());
    let ok = |args: &[&str]| {
        let done = disk.bulkhead(args);
        assert_eq!(done.code, 0, "{args:?}: {}", done.report());
        done.stdout
    };
    let used = |name: &str| {
        let rows: serde_json::Value =
            serde_json::from_str(&ok(&["usage", name, "--format", "json"])).expect("JSON");
        rows[0]["cpu_us"].as_u64().expect("a number")
    };
    let work = |name: &str| {
        let line = "i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done";
        ok(&["exec", name, "--", "sh", "-c", line]);
    };
    let told = |name: &str| {
        let said = disk.bulkhead(&["doctor"]).stdout;
        said.contains(&format!("account of {name}"))
    };
    let create = ["create", "a", "--template", "busybox", "--network", "none"];
    ok(&[&create[..], &["--start"]].concat());
    work("a");
    ok(&["kill", "a"]);
    let first = used("a");
    ok(&["start", "a"]);
    work("a");
    disk.fill();
    let before = used("a");
    assert!(before > first && !told("a"));
    ok(&["kill", "a"]);
    let last = used("a");
    assert!(last >= before, "{last} {before}");
    assert!(told("a"));
    // With room again it goes with the guest, and is written when that runs; nothing counts twice.
    disk.make_room();
    ok(&["rename", "a", "b"]);
    assert_eq!(used("b"), last);
    ok(&["start", "b"]);
    ok(&["kill", "b"]);
    let all = used("b");
    assert!(
        (last..before + (before - first) + 500_000).contains(&all),
        "{all} {last}"
    );
    assert!(!told("b"));
    let kept = std::fs::read_dir(run.join("bulkhead/accounts")).expect("a folder of ours");
    assert_eq!(kept.count(), 0);
}

#[test]
fn a_read_only_state_folder_is_told() {
    if !need(Need::Root) || !need(Need::LoopDevice) {
        return;
    }
    let disk = Disk::of(12 << 20);
    let done = disk.bulkhead(&["create", "web", "--template", "busybox"]);
    assert_eq!(done.code, 0, "{}", done.report());
    disk.remount("remount,ro");
    for args in [
        &["create", "new", "--template", "busybox"][..],
        &["start", "web"],
        &["set", "web", "memory.limit=64M"],
        &["delete", "web"],
        &["rename", "web", "new"],
    ] {
        let done = disk.bulkhead(args);
        assert_eq!(done.code, 1, "{args:?}: {}", done.report());
        assert!(
            done.stderr.contains("read-only"),
            "{args:?}: {}",
            done.report()
        );
    }
    disk.remount("remount,rw");
    let done = disk.bulkhead(&["list", "--format", "csv"]);
    assert!(done.stdout.contains("\nweb,stopped,"), "{}", done.report());
    assert_eq!(done.stdout.lines().count(), 2);
}

#[test]
fn a_state_folder_of_somebody_else_is_told() {
    if !need(Need::Root) {
        return;
    }
    let files = TestDir::new();
    let file = files.write("file", "");
    let mut command = Command::new(program());
    command.arg("--root").arg(&file).arg("list");
    let done = run(command);
    assert_eq!(done.code, 5, "{}", done.report());
    assert!(done.stderr.contains("/file/") && done.stderr.contains("Not a directory"));
    // Whoever is not root is told so.
    std::fs::set_permissions(files.path(), PermissionsExt::from_mode(0o755)).expect("ours");
    let copy = files.join("bulkhead");
    std::fs::copy(program(), &copy).expect("the program");
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--clear-groups"]).arg(copy);
    command
        .arg("--root")
        .arg(files.join("new"))
        .args(["create", "web"]);
    let done = run(command);
    assert_eq!(done.code, 1, "{}", done.report());
    assert!(done.stderr.contains("run it as root"), "{}", done.report());
}

#[test]
fn nothing_of_a_neighbour_is_touched_by_a_failing_start() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    scripted(&host, "web", "sleep 1000", &["--memory", "32M", "--start"]);
    let pid = info(&host, "web")["pid"].clone();
    scripted(&host, "bad", "exit 1", &[]);
    for _ in 0..3 {
        host.fails(&["start", "bad"], 1);
    }
    eventually("the failed one is gone", 5, || is(&host, "bad", "stopped"));
    assert_eq!(info(&host, "web")["pid"], pid);
    let limit = in_force(
        &host,
        "web",
        "memory",
        "memory.limit_in_bytes",
        "memory.max",
    );
    assert_eq!(limit, (32 << 20).to_string());
    assert_eq!(inside(&host, "web", "echo fine"), "fine");
}

#[test]
fn a_damaged_book_of_leases_is_written_anew() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    let book = host.root().join("var/lib/bulkhead/network/leases.json");
    for name in ["a", "b", "c"] {
        scripted(&host, name, "sleep 1000", &["--network", "bridge"]);
    }
    host.ok(&["start", "c"]);
    // Its address is another's while it is in the trash.
    let first = info(&host, "a")["address"].clone();
    host.ok(&["delete", "a", "--keep", "3"]);
    scripted(&host, "e", "sleep 1000", &["--network", "bridge"]);
    assert_eq!(info(&host, "e")["address"], first);
    host.ok(&["trash", "restore", "a"]);
    let address = |name: &str| info(&host, name)["address"].clone();
    let before = [address("b"), address("c")];
    assert!(
        before.iter().all(serde_json::Value::is_string),
        "{before:?}"
    );
    std::fs::write(&book, "{\"version\":1,\"leases\":[{").unwrap();
    let create = ["create", "d", "--template", "busybox"];
    let why = host.fails(&create, 1);
    for part in ["leases.json is damaged", "bulkhead doctor --fix"] {
        assert!(why.contains(part), "{why}");
    }
    let named = host.run(&["doctor"]).stdout;
    assert!(named.contains("damaged file"), "{named}");
    assert!(!book.with_extension("damaged").exists());
    host.ok(&["doctor", "--fix"]);
    assert!(book.with_extension("damaged").exists());
    assert_eq!([address("b"), address("c")], before);
    host.ok(&create);
    assert!(!before.contains(&address("d")));
    host.ok(&["start", "b"]);
    assert!(inside(&host, "b", "ip addr").contains(before[0].as_str().unwrap()));
}
