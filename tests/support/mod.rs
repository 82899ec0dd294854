//! What tests of the whole program share: what they need of the machine, a folder of their own, the
//! program with its state in that folder. Knows the command line and nothing of the rooms.
//!
//! A test that cannot run here says so: `if !need(Need::Root) { return; }` prints
//! `SKIP <test>: root`, which `.ci/run` compares with what this kind of machine may skip.
//! Folders are in `folder.rs`.
#![allow(dead_code)] // each test file compiles this for itself and uses a part of it

mod folder;

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

pub use folder::TestDir;

/// No command of the program takes longer than this in a test, not even under emulation or from a
/// slow mirror.
const PATIENCE: Duration = Duration::from_secs(240);

/// Within this time of a command's end its output must have ended too.
const LINGER: Duration = Duration::from_secs(3);

/// What a test may need of the machine it runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// User id 0 in the first user namespace.
    Root,
    /// A v1 hierarchy with the memory controller: v1 or hybrid.
    CgroupV1,
    /// Nothing but v2 in `/sys/fs/cgroup`.
    CgroupV2,
    /// systemd as process 1.
    Systemd,
    /// The program systemd, which guests of the `host` template boot.
    SystemdProgram,
    /// Two CPUs to run on.
    TwoCpus,
    /// Loop devices.
    LoopDevice,
    /// mmdebstrap and a Debian mirror that answers.
    DebianMirror,
    /// A Debian root file system made beforehand, named by `BULKHEAD_DEBIAN_IMAGE`.
    DebianImage,
    /// An OCI runtime: `BULKHEAD_OCI_BIN`, otherwise `bulkhead-oci` beside the program.
    OciRuntime,
    /// Podman with conmon.
    Podman,
    /// containerd with ctr, CNI plugins, and what speaks its API: curl and protoc.
    Containerd,
    /// Buildah.
    Buildah,
    /// Docker's engine and its client.
    Docker,
    /// A registry and a client that fills it.
    Registry,
    /// What makes disks of virtual machines: qemu-img, sfdisk, mkfs of each kind.
    DiskTools,
    /// What makes the tree of an image server: mksquashfs, gpg, openssl; gpgv, which checks it.
    StreamTools,
    /// A server of ssh, its client, and GNU tar.
    SshServer,
    /// A kernel whose filesystems keep projects to a quota.
    ProjectQuota,
}

impl Need {
    /// The word on the SKIP line, which `.ci/run` knows.
    pub fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::CgroupV1 => "cgroup-v1",
            Self::CgroupV2 => "cgroup-v2-only",
            Self::Systemd => "systemd-pid1",
            Self::SystemdProgram => "systemd-program",
            Self::TwoCpus => "two-cpus",
            Self::LoopDevice => "loop-device",
            Self::DebianMirror => "debian-mirror",
            Self::DebianImage => "debian-image",
            Self::OciRuntime => "oci-runtime",
            Self::Podman => "podman",
            Self::Containerd => "containerd",
            Self::Buildah => "buildah",
            Self::Docker => "docker",
            Self::Registry => "registry",
            Self::DiskTools => "disk-tools",
            Self::StreamTools => "stream-tools",
            Self::SshServer => "ssh-server",
            Self::ProjectQuota => "project-quota",
        }
    }

    /// Whether this machine has it.
    pub fn is_met(self) -> bool {
        let there = |path: &str| Path::new(path).exists();
        match self {
            Self::Root => nix::unistd::geteuid().is_root(),
            Self::CgroupV1 => there("/sys/fs/cgroup/memory/tasks"),
            Self::CgroupV2 => there("/sys/fs/cgroup/cgroup.controllers"),
            Self::Systemd => there("/run/systemd/system"),
            Self::SystemdProgram => there("/usr/lib/systemd/systemd"),
            Self::TwoCpus => std::thread::available_parallelism().is_ok_and(|n| n.get() >= 2),
            Self::LoopDevice => there("/dev/loop-control"),
            Self::DebianMirror => mirror_answers(),
            Self::DebianImage => debian_image().is_some(),
            Self::OciRuntime => oci_program().exists(),
            Self::Podman => there("/usr/bin/podman") && there("/usr/bin/conmon"),
            Self::Containerd => {
                let programs = ["containerd", "ctr", "curl", "protoc"];
                programs
                    .iter()
                    .all(|name| there(&format!("/usr/bin/{name}")))
                    && there("/usr/lib/cni/bridge")
            }
            Self::Buildah => there("/usr/bin/buildah"),
            Self::Docker => there("/usr/sbin/dockerd") && there("/usr/bin/docker"),
            Self::DiskTools => [
                "bin/qemu-img",
                "sbin/sfdisk",
                "sbin/mkfs.ext4",
                "sbin/mkfs.xfs",
                "bin/btrfs",
            ]
            .iter()
            .all(|tool| there(&format!("/usr/{tool}"))),
            Self::Registry => there("/usr/bin/docker-registry") && there("/usr/bin/skopeo"),
            Self::StreamTools => ["mksquashfs", "gpg", "gpgv", "openssl", "python3"]
                .iter()
                .all(|tool| there(&format!("/usr/bin/{tool}"))),
            Self::SshServer => {
                there("/usr/sbin/sshd") && there("/usr/bin/ssh") && there("/bin/tar")
            }
            Self::ProjectQuota => mounts_with_project_quota(),
        }
    }
}

/// Whether the machine has this; otherwise prints the SKIP line, and the test returns.
#[must_use]
pub fn need(need: Need) -> bool {
    need.is_met() || {
        skip(need.name());
        false
    }
}

/// The Debian root file system that `BULKHEAD_DEBIAN_IMAGE` names.
pub fn debian_image() -> Option<PathBuf> {
    let path = PathBuf::from(std::env::var_os("BULKHEAD_DEBIAN_IMAGE")?);
    path.exists().then_some(path)
}

/// Prints the SKIP line, and adds it to the file that `BULKHEAD_SKIP_LOG` names: runners hide what
/// a passing test prints.
fn skip(need: &str) {
    let line = format!("SKIP {}: {need}\n", test_name());
    print!("{line}");
    if let Some(log) = std::env::var_os("BULKHEAD_SKIP_LOG") {
        let log = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(log);
        log.and_then(|mut file| file.write_all(line.as_bytes()))
            .expect("BULKHEAD_SKIP_LOG");
    }
}

/// `file::test`, as far as the runner tells.
fn test_name() -> String {
    let program = std::env::current_exe().unwrap_or_default();
    let stem = program
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let file = stem
        .rsplit_once('-')
        .map_or(stem.as_str(), |(name, _hash)| name);
    let thread = std::thread::current();
    let test = std::env::var("NEXTEST_TEST_NAME").ok();
    format!(
        "{file}::{}",
        test.as_deref().or(thread.name()).unwrap_or("?")
    )
}

fn mounts_with_project_quota() -> bool {
    let folder = TestDir::new();
    let line = "cd \"$1\" && truncate -s 16M disk && \
        mkfs.ext4 -q -F -O quota,project -E quotatype=prjquota disk && mkdir at && \
        mount -o loop,prjquota disk at && umount at";
    let mut shell = Command::new("sh");
    shell.args(["-c", line, "sh"]).arg(folder.path());
    let done = shell.stdin(Stdio::null()).output();
    done.is_ok_and(|done| done.status.success())
}

fn mirror_answers() -> bool {
    let line = "command -v mmdebstrap && \
        uri=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | head -n 1) && \
        curl -fsI -m 20 -o /dev/null \"$uri\"";
    let shell = Command::new("sh")
        .args(["-c", line])
        .stdin(Stdio::null())
        .output();
    shell.is_ok_and(|done| done.status.success())
}

/// The program to test: `BULKHEAD_BIN`, otherwise the one Cargo built beside the tests.
pub fn program() -> OsString {
    let beside = || env!("CARGO_BIN_EXE_bulkhead").into();
    std::env::var_os("BULKHEAD_BIN")
        .filter(|path| !path.is_empty())
        .unwrap_or_else(beside)
}

/// The OCI runtime to test: `BULKHEAD_OCI_BIN`, otherwise `bulkhead-oci` beside the program.
pub fn oci_program() -> PathBuf {
    let beside = || Path::new(&program()).with_file_name("bulkhead-oci");
    std::env::var_os("BULKHEAD_OCI_BIN")
        .filter(|path| !path.is_empty())
        .map_or_else(beside, PathBuf::from)
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Exit status; -1 for a signal.
    pub code: i32,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

/// The program with all its state in a folder of the test's own. When it is dropped, also by a
/// failing test, every guest is deleted and leftovers are cleared.
#[derive(Debug)]
pub struct Bulkhead {
    folder: TestDir,
}

impl Bulkhead {
    /// An installation in which there is nothing yet.
    #[allow(clippy::new_without_default)] // makes a folder: too much for a default
    pub fn new() -> Self {
        Self {
            folder: TestDir::new(),
        }
    }

    /// The folder that is `--root`.
    pub fn root(&self) -> &Path {
        self.folder.path()
    }

    /// The command, not started; without input, and without settings from outside.
    pub fn command(&self, args: &[&str]) -> Command {
        command_in(self.root(), args)
    }

    /// Runs it to its end.
    pub fn run(&self, args: &[&str]) -> Outcome {
        run(self.command(args))
    }

    /// Runs it, expects success, and returns what it wrote to standard output.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> String {
        let outcome = self.run(args);
        assert_eq!(outcome.code, 0, "bulkhead {args:?}:\n{}", outcome.report());
        outcome.stdout
    }

    /// Runs it, expects this exit status, and returns what it wrote to standard error.
    #[track_caller]
    pub fn fails(&self, args: &[&str], code: i32) -> String {
        let outcome = self.run(args);
        assert_eq!(
            outcome.code,
            code,
            "bulkhead {args:?}:\n{}",
            outcome.report()
        );
        outcome.stderr
    }
}

impl Drop for Bulkhead {
    fn drop(&mut self) {
        let trouble = clear(self.root());
        if trouble.is_empty() {
            return;
        }
        // A second panic would end the process and hide the first.
        if std::thread::panicking() {
            eprintln!("clearing up after the failed test:\n{trouble}");
        } else {
            panic!("clearing up after the test:\n{trouble}");
        }
    }
}

impl Outcome {
    /// All of it, for the message of a failing test.
    pub fn report(&self) -> String {
        format!(
            "status {}\n--- stdout\n{}--- stderr\n{}",
            self.code, self.stdout, self.stderr
        )
    }
}

/// Deletes all guests and leftovers of the installation in this folder; what went wrong, or "".
fn clear(root: &Path) -> String {
    let mut trouble = String::new();
    for args in [&["delete", "--all", "--force"][..], &["doctor", "--fix"]] {
        let outcome = run(command_in(root, args));
        if outcome.code != 0 {
            let _ = write!(trouble, "bulkhead {args:?}: {}", outcome.report());
        }
    }
    trouble
}

fn command_in(root: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(program());
    command.arg("--root").arg(root).args(args);
    command
        .env_remove("BULKHEAD_ROOT")
        .env("NO_COLOR", "1")
        .env("LC_ALL", "C.UTF-8");
    command.stdin(Stdio::null());
    command
}

/// Runs a command to its end, within `PATIENCE`. Fails if a process that it left behind holds its
/// output: a person's `x=$(bulkhead start …)` would never return.
#[track_caller]
pub fn run(mut command: Command) -> Outcome {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let stdout = collect(child.stdout.take().expect("piped"));
    let stderr = collect(child.stderr.take().expect("piped"));
    let code = await_end(&mut child);
    let text = |wire: mpsc::Receiver<String>| wire.recv_timeout(LINGER);
    let (stdout, stderr) = (text(stdout), text(stderr));
    match (code, stdout, stderr) {
        (Some(code), Ok(stdout), Ok(stderr)) => Outcome {
            code,
            stdout,
            stderr,
        },
        (None, stdout, stderr) => {
            panic!("{command:?} took more than {PATIENCE:?}:\n{stdout:?}\n{stderr:?}")
        }
        _ => panic!("{command:?} ended, but something it started holds its output"),
    }
}

/// The exit status, -1 for a signal; nothing if the time was up and the child was killed.
fn await_end(child: &mut Child) -> Option<i32> {
    let until = Instant::now() + PATIENCE;
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait().expect("a child of ours") {
            return Some(status.code().unwrap_or(-1));
        }
        if Instant::now() > until {
            child
                .kill()
                .and_then(|()| child.wait())
                .expect("a child of ours");
            return None;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

fn collect(mut wire: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let read = wire.read_to_end(&mut bytes);
        let mut text = String::from_utf8_lossy(&bytes).into_owned();
        if let Err(e) = read {
            let _ = write!(text, "\n(reading: {e})");
        }
        // The receiver is gone when the time was up: nobody wants it then.
        let _ = sender.send(text);
    });
    receiver
}

/// Waits until this is true, or fails after `seconds`.
#[track_caller]
pub fn eventually(what: &str, seconds: u64, check: impl FnMut() -> bool) {
    assert!(became(seconds, check), "not within {seconds} s: {what}");
}

/// Whether this becomes true within `seconds`.
pub fn became(seconds: u64, mut check: impl FnMut() -> bool) -> bool {
    let until = Instant::now() + Duration::from_secs(seconds);
    while !check() {
        if Instant::now() >= until {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    true
}
