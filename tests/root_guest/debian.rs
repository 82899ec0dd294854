//! A Debian guest as its administrator uses it: systemd says `running`, packages install, nginx and
//! ssh answer, reboot and poweroff do what they say, stopping is a shutdown. Most of it is shown
//! with a ready image, so that it also runs in a VM without a network; what needs a mirror uses the
//! `debian` template itself.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{Bulkhead, Need, Outcome, debian_image, eventually, need, run};

/// SHA-512 crypt of "correct horse", made with openssl passwd -6.
const PASSWORD_HASH: &str = "$6$saltsalt$hRM5XZ86KXEw9UOmjigeVqFgULtFB2sgpC9lXQDfMib3Zgw7mEiU\
    vBJI2EplzfAqxL5Vvwp2scFtv/uamSo5z0";

/// An installation with guests in it.
struct Site {
    bulkhead: Bulkhead,
}

impl Site {
    fn new() -> Self {
        Self {
            bulkhead: Bulkhead::new(),
        }
    }

    /// Images are kept for other tests and the next run: unpacking and the mirror take long.
    fn with_kept_images() -> Self {
        let site = Self::new();
        let etc = site.bulkhead.root().join("etc/bulkhead");
        std::fs::create_dir_all(&etc).expect("a folder of ours");
        // In the VM the project folder is on a file system that cannot hold roots of guests.
        let images = std::env::var_os("BULKHEAD_TEST_IMAGES").map_or_else(
            || Path::new(env!("CARGO_TARGET_TMPDIR")).join("images"),
            PathBuf::from,
        );
        let settings = format!("[images]\ndir = {:?}\n", images.display().to_string());
        std::fs::write(etc.join("bulkhead.toml"), settings).expect("a folder of ours");
        site
    }

    /// Makes a guest of the ready image and starts it; returns when systemd has started everything.
    #[track_caller]
    fn server(&self, name: &str, more: &[&str]) {
        let image = debian_image().expect("asked for before");
        let archive = format!("archive={}", image.display());
        let args = ["create", name, "--template", "tar", "--option", &archive];
        self.bulkhead.ok(&[&args[..], more].concat());
        self.bulkhead.ok(&["start", name]);
        self.ready(name);
    }

    #[track_caller]
    fn ready(&self, name: &str) {
        self.bulkhead.ok(&["wait", name, "ready", "-t", "140s"]);
    }

    /// Runs shell lines in the guest, however they end.
    fn attempt(&self, guest: &str, lines: &str) -> Outcome {
        self.bulkhead.run(&["exec", guest, "--", "sh", "-c", lines])
    }

    /// Runs shell lines in the guest and returns what they print.
    #[track_caller]
    fn sh(&self, guest: &str, lines: &str) -> String {
        let outcome = self.attempt(guest, lines);
        assert_eq!(outcome.code, 0, "{guest}: {lines}\n{}", outcome.report());
        outcome.stdout.trim().to_owned()
    }

    /// What `list` says about a guest.
    #[track_caller]
    fn row(&self, guest: &str) -> serde_json::Value {
        let text = self.bulkhead.ok(&["list", "--format", "json"]);
        let rows: Vec<serde_json::Value> = serde_json::from_str(&text).expect("JSON");
        let row = rows.into_iter().find(|row| row["name"] == guest);
        row.unwrap_or_else(|| panic!("{guest} is not in {text}"))
    }

    #[track_caller]
    fn address(&self, guest: &str) -> String {
        let row = self.row(guest);
        let address = row["address"].as_str();
        address
            .unwrap_or_else(|| panic!("no address: {row}"))
            .to_owned()
    }

    /// systemd has started everything and nothing failed.
    #[track_caller]
    fn is_running(&self, guest: &str) {
        let state = self.attempt(guest, "systemctl is-system-running").stdout;
        let look = "systemctl --failed --no-pager; systemctl list-jobs --no-pager";
        let why = self.attempt(guest, look).stdout;
        assert_eq!(state.trim(), "running", "{why}");
    }

    /// Waits until the guest runs with another first process than this.
    #[track_caller]
    fn comes_back(&self, guest: &str, before: &serde_json::Value) {
        eventually("the guest is back", 140, || {
            let row = self.row(guest);
            row["status"] == "running" && !row["pid"].is_null() && row["pid"] != before["pid"]
        });
        self.ready(guest);
    }

    /// How the guest last ended.
    #[track_caller]
    fn last_end(&self, guest: &str) -> String {
        let events = self.bulkhead.ok(&["events"]);
        let mut ends = events
            .lines()
            .filter(|line| line.contains(&format!(" {guest} ")) && line.contains("ended"));
        ends.next_back()
            .unwrap_or_else(|| panic!("no end of {guest} in\n{events}"))
            .to_owned()
    }
}

/// A key pair of the test's own: the private key's path, and the public line.
fn ssh_key(folder: &Path) -> (PathBuf, String) {
    let path = folder.join("key");
    let mut command = Command::new("ssh-keygen");
    command
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "test", "-f"])
        .arg(&path);
    let made = run(command);
    assert_eq!(made.code, 0, "{}", made.report());
    let public = std::fs::read_to_string(path.with_extension("pub")).expect("just made");
    (path, public.trim().to_owned())
}

/// Logs in as root with this key and no other way, and runs a line.
fn ssh(key: &Path, address: &str, line: &str) -> Outcome {
    let mut command = Command::new("ssh");
    command.args(["-F", "none", "-o", "BatchMode=yes", "-o", "LogLevel=ERROR"]);
    command.args([
        "-o",
        "StrictHostKeyChecking=no",
        "-o",
        "UserKnownHostsFile=/dev/null",
    ]);
    command.args(["-o", "IdentitiesOnly=yes", "-o", "ConnectTimeout=60", "-i"]);
    command
        .arg(key)
        .arg(format!("root@{address}"))
        .arg(line)
        .stdin(Stdio::null());
    run(command)
}

/// The page that a web server shows the host.
fn page(address: &str) -> String {
    let mut command = Command::new("curl");
    command.args(["-fsS", "--noproxy", "*", "--max-time", "60"]);
    command.arg(format!("http://{address}/"));
    let outcome = run(command);
    assert_eq!(outcome.code, 0, "{}", outcome.report());
    outcome.stdout
}

#[test]
fn systemd_runs_all_it_should() {
    if !need(Need::Root) || !need(Need::DebianImage) {
        return;
    }
    let site = Site::with_kept_images();
    let began = Instant::now();
    let hash = PASSWORD_HASH;
    site.server(
        "web",
        &[
            "--hostname",
            "front",
            "--domain",
            "example.org",
            "--timezone",
            "Asia/Tokyo",
            "--root-password-hash",
            hash,
        ],
    );
    site.is_running("web");
    // Its clocks begin at its own boot, and its files say what was asked for.
    let up = site.sh("web", "cut -d' ' -f1 /proc/uptime; ps -o etimes= -p 1");
    for seconds in up.split_whitespace() {
        let seconds: f64 = seconds.parse().expect("a number");
        assert!(seconds <= began.elapsed().as_secs_f64() + 2.0, "{up}");
    }
    let address = site.address("web");
    for (line, expected) in [
        ("hostname; cat /etc/hostname", "front\nfront".to_owned()),
        ("hostname -f", "front.example.org".to_owned()),
        (
            "getent ahostsv4 front | head -n 1 | cut -d' ' -f1",
            address.clone(),
        ),
        ("date +%z", "+0900".to_owned()),
        ("grep ^root: /etc/shadow | cut -d: -f2", hash.to_owned()),
        (
            "grep ^search /etc/resolv.conf",
            "search example.org".to_owned(),
        ),
        ("wc -c </etc/machine-id", "33".to_owned()),
        (
            "stat -c %U:%a /etc/ssh/ssh_host_ed25519_key",
            "root:600".to_owned(),
        ),
        (
            "systemctl is-active systemd-journald dbus ssh nginx",
            "active\n".repeat(4).trim().to_owned(),
        ),
        // A unit with a limit and a private view, and one by a timer.
        (
            "systemd-run -q --wait --pipe -p MemoryMax=40M -p PrivateTmp=yes -p ProtectSystem=strict echo done",
            "done".to_owned(),
        ),
        (
            "systemd-run -q --on-active=1 touch /run/fired; i=0; \
             until [ -e /run/fired ] || [ $((i += 1)) -gt 60 ]; do sleep 1; done; ls /run/fired",
            "/run/fired".to_owned(),
        ),
        (
            "logger -t sample said so; journalctl --sync; journalctl -q -t sample -o cat",
            "said so".to_owned(),
        ),
        (
            "useradd -m joe && su - joe -c 'id -un; pwd'",
            "joe\n/home/joe".to_owned(),
        ),
    ] {
        assert_eq!(site.sh("web", line), expected, "{line}");
    }
    let status = site.sh("web", "systemctl status --no-pager");
    assert!(status.contains("State: running"), "{status}");
    assert!(status.contains("nginx.service"), "{status}");
    eventually("the console asks who is there", 60, || {
        site.bulkhead.ok(&["logs", "web"]).contains("front login:")
    });
}

#[test]
fn web_and_ssh_answer() {
    if !need(Need::Root) || !need(Need::DebianImage) {
        return;
    }
    let site = Site::with_kept_images();
    let (key, public) = ssh_key(site.bulkhead.root());
    site.server("web", &["--ssh-key", &public]);
    let address = site.address("web");
    assert!(page(&address).contains("Welcome to nginx"));
    let busybox = ["create", "other", "--template", "busybox", "--start"];
    site.bulkhead.ok(&busybox);
    let there = site.sh("other", "wget -q -O - http://web/");
    assert!(there.contains("Welcome to nginx"), "{there}");
    let first = ssh(
        &key,
        &address,
        "id -u; hostname; loginctl --no-legend list-sessions",
    );
    assert_eq!(first.code, 0, "{}", first.report());
    assert!(first.stdout.starts_with("0\nweb\n"), "{}", first.report());
    assert!(
        first.stdout.contains("root"),
        "a session: {}",
        first.report()
    );
    // A key that was not given does not.
    let folder = site.bulkhead.root().join("wrong");
    std::fs::create_dir(&folder).expect("a folder of ours");
    let (wrong, _) = ssh_key(&folder);
    assert_eq!(ssh(&wrong, &address, "true").code, 255);
}

#[test]
fn reboot_poweroff_and_stop() {
    if !need(Need::Root) || !need(Need::DebianImage) {
        return;
    }
    let site = Site::with_kept_images();
    site.server("web", &[]);
    let (before, address) = (site.row("web"), site.address("web"));
    site.sh("web", "touch /var/kept");
    // The shell that asks may be gone before it could say how it went.
    site.attempt("web", "systemctl reboot");
    site.comes_back("web", &before);
    assert_eq!(site.address("web"), address);
    site.is_running("web");
    site.sh("web", "ls /var/kept");
    let own = site.sh("web", "ip -4 -o addr show eth0");
    assert!(own.contains(&format!(" {address}/")), "{own}");

    site.attempt("web", "systemctl poweroff");
    site.bulkhead.ok(&["wait", "web", "stopped", "-t", "140s"]);
    let end = site.last_end("web");
    assert!(end.contains("powered itself off"), "{end}");

    // A new time zone reaches it at its next start; `stop` is a shutdown by its own init.
    site.bulkhead.ok(&["set", "web", "timezone=Asia/Kolkata"]);
    site.bulkhead.ok(&["start", "web"]);
    site.ready("web");
    assert_eq!(site.sh("web", "date +%z"), "+0530");
    site.bulkhead.ok(&["stop", "web"]);
    let end = site.last_end("web");
    assert!(end.contains("shut down"), "{end}");
    let console = site.bulkhead.ok(&["logs", "web"]);
    assert!(
        console.contains("Reached target shutdown.target"),
        "{console}"
    );
}

#[test]
fn the_hosts_own_systemd_runs() {
    if !need(Need::Root) || !need(Need::SystemdProgram) {
        return;
    }
    let site = Site::new();
    let made = ["create", "twin", "--template", "host", "--start"];
    site.bulkhead.ok(&made);
    site.ready("twin");
    site.is_running("twin");
    site.bulkhead.ok(&["stop", "twin"]);
    assert!(site.last_end("twin").contains("shut down"));
}

#[test]
fn debian_from_packages() {
    if !need(Need::Root) || !need(Need::DebianMirror) {
        return;
    }
    let site = Site::with_kept_images();
    site.bulkhead.ok(&["template", "build", "debian"]);
    // The image is there: the second guest of it is a matter of moments.
    let began = Instant::now();
    let made = ["create", "web", "--template", "debian", "--start"];
    site.bulkhead.ok(&made);
    let took = began.elapsed();
    assert!(took < Duration::from_secs(15), "{took:?}");
    site.ready("web");
    site.is_running("web");
    site.sh(
        "web",
        "export DEBIAN_FRONTEND=noninteractive; \
         apt-get -q update && apt-get -qy install --no-install-recommends nginx-light",
    );
    assert!(page(&site.address("web")).contains("Welcome to nginx"));
    assert_eq!(site.sh("web", "systemctl is-enabled nginx"), "enabled");
    site.is_running("web");
}

#[test]
fn wrong_options_change_nothing() {
    if !need(Need::Root) {
        return;
    }
    let site = Site::new();
    for (option, words) in [
        ("suite=Bookworm", "not the name of a Debian release"),
        ("suite=../etc", "not the name of a Debian release"),
        ("suit=trixie", "suite"),
        ("mirror=example", "is not a URL"),
        ("mirror=file:///nowhere at all", "is not a URL"),
        ("packages=nginx curl", "separate names by commas"),
        ("packages=-oDebug", "is not a package name"),
    ] {
        let args = ["create", "web", "--template", "debian", "--option", option];
        let outcome = site.bulkhead.run(&args);
        assert!(
            matches!(outcome.code, 1 | 5),
            "{option}: {}",
            outcome.report()
        );
        assert!(
            outcome.stderr.contains(words),
            "{option}: {}",
            outcome.report()
        );
    }
    assert_eq!(site.bulkhead.ok(&["list", "--format", "json"]).trim(), "[]");
    assert_eq!(builds(&site.bulkhead), Vec::<String>::new());
}

#[test]
fn a_mirror_without_the_suite_is_the_tools_error() {
    if !need(Need::Root) || !need(Need::DebianMirror) {
        return;
    }
    let site = Site::new();
    let said = site.bulkhead.fails(
        &[
            "template",
            "build",
            "debian",
            "--option",
            "suite=nosuchsuite",
        ],
        1,
    );
    assert!(
        said.contains("nosuchsuite") && said.contains("last lines"),
        "{said}"
    );
    assert_eq!(builds(&site.bulkhead), Vec::<String>::new());
}

/// Builds that go on, or were cut short.
fn builds(bulkhead: &Bulkhead) -> Vec<String> {
    let images = bulkhead.root().join("var/lib/bulkhead/images");
    let names = std::fs::read_dir(images).into_iter().flatten().flatten();
    names
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with("tmp-"))
        .collect()
}

#[test]
fn a_build_that_is_ended_leaves_nothing_that_doctor_does_not_clear() {
    if !need(Need::Root) || !need(Need::DebianMirror) {
        return;
    }
    let site = Site::new();
    let before = tools_files();
    for signal in ["INT", "KILL"] {
        let mut command = site.bulkhead.command(&["template", "build", "debian"]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut build = command.spawn().expect("the program");
        eventually("the tool has begun", 60, || {
            let images = site.bulkhead.root().join("var/lib/bulkhead/images");
            let begun = |name: &String| images.join(name).join("root/var/lib/dpkg").exists();
            builds(&site.bulkhead).iter().any(begun)
        });
        let mut kill = Command::new("kill");
        kill.args(["-s", signal, &build.id().to_string()]);
        assert_eq!(run(kill).code, 0);
        build.wait().expect("a child of ours");
        if signal == "INT" {
            assert_eq!(builds(&site.bulkhead), Vec::<String>::new());
        }
        // What the tool still does must have ended first; doctor leaves it alone until then.
        eventually("doctor clears it", 140, || {
            site.bulkhead.run(&["doctor", "--fix"]);
            builds(&site.bulkhead).is_empty()
        });
    }
    let left: Vec<_> = tools_files().difference(&before).cloned().collect();
    assert_eq!(left, Vec::<String>::new(), "in /tmp");
}

/// What mmdebstrap leaves in /tmp when it is killed and was not given another place.
fn tools_files() -> std::collections::BTreeSet<String> {
    let entries = std::fs::read_dir("/tmp").expect("/tmp").flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|n| n.starts_with("mmdebstrap.")).collect()
}
