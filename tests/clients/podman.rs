//! Podman with everything it keeps in a folder of the test's own. Dropped, it removes its
//! containers and fails the test if anything is left of them.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::leftovers::{Marks, by_systemd};
use super::{command, end_with, image, runtime, succeed, within};
use crate::support::{Outcome, TestDir, run};

/// Groups as this machine has them; locks in files, because those in shared memory are one set for the
/// whole machine; limits that are within ours, because Podman would raise them.
const SETTINGS: &str = r#"
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
log_driver = "k8s-file"
netns = "none"
[engine]
cgroup_manager = "MANAGER"
events_logger = "none"
lock_type = "file"
"#;

/// An installation of Podman with the image `box`.
#[derive(Debug)]
pub struct Podman {
    marks: Marks,
    folder: TestDir,
}

impl Podman {
    /// One with the image and nothing else.
    pub fn new() -> Self {
        let folder = TestDir::new();
        let path = folder.path().display();
        let manager = if by_systemd() { "systemd" } else { "cgroupfs" };
        folder.write("containers.conf", &SETTINGS.replace("MANAGER", manager));
        let storage = format!(
            "[storage]\ndriver = \"vfs\"\ngraphroot = \"{path}/root\"\nrunroot = \"{path}/run\"\n"
        );
        folder.write("storage.conf", &storage);
        let archive = image::oci_archive(folder.path());
        let podman = Self {
            marks: Marks::new(&folder, by_systemd()),
            folder,
        };
        podman.ok(&[
            "load",
            "--quiet",
            "--input",
            archive.to_str().expect("a plain path"),
        ]);
        podman
    }

    /// The command, not started.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut podman = command("podman");
        let at = |name| self.folder.join(name);
        podman.env("CONTAINERS_CONF", at("containers.conf"));
        podman.env("CONTAINERS_STORAGE_CONF", at("storage.conf"));
        podman
            .arg("--root")
            .arg(at("root"))
            .arg("--runroot")
            .arg(at("run"));
        podman
            .arg("--tmpdir")
            .arg(at("tmp"))
            .arg("--runtime")
            .arg(runtime());
        let cgroup = self.marks.cgroup();
        match args {
            ["run" | "create", rest @ ..] if !rest.contains(&"--pod") => podman
                .arg(args[0])
                .args(["--cgroup-parent", &cgroup])
                .args(rest),
            ["pod", "create", rest @ ..] => podman
                .args(["pod", "create", "--cgroup-parent", &cgroup])
                .args(rest),
            _ => podman.args(args),
        };
        podman
    }

    /// Runs it, expects success; what it wrote to standard output, without the last line's end.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> String {
        succeed(self.command(args)).trim_end().to_owned()
    }

    /// Removes a running container. Podman's two processes that clean up when it ends get in each
    /// other's way now and then (with runc as the runtime in 2 of 120 runs): what is left then the
    /// next command removes.
    #[track_caller]
    pub fn removes(&self, container: &[&str]) {
        let args = [&["rm", "--force", "--time", "0"][..], container].concat();
        let done = run(self.command(&args));
        if done.code != 0 {
            let known = "/userdata/shm: device or resource busy";
            assert!(done.stderr.contains(known), "{}", done.report());
            self.ok(&args);
        }
    }

    /// Runs it, expects this status.
    #[track_caller]
    pub fn ends(&self, args: &[&str], code: i32) -> Outcome {
        end_with(code, self.command(args))
    }

    /// What a shell prints in a new container with these flags.
    #[track_caller]
    pub fn prints(&self, flags: &[&str], line: &str) -> String {
        self.ok(&[&["run", "--rm"], flags, &["box", "sh", "-c", line]].concat())
    }

    /// Starts a container of this name that sleeps until told to stop.
    #[track_caller]
    pub fn asleep(&self, name: &str, flags: &[&str]) {
        let line = "trap 'exit 0' TERM; while :; do sleep 0.1; done";
        let args = [
            &["run", "-d", "--name", name],
            flags,
            &["box", "sh", "-c", line],
        ]
        .concat();
        self.ok(&args);
    }

    /// What a shell prints that enters the container.
    #[track_caller]
    pub fn inside(&self, name: &str, line: &str) -> String {
        self.ok(&["exec", name, "sh", "-c", line])
    }

    /// A field of what `inspect` says, as a Go template.
    #[track_caller]
    pub fn inspect(&self, name: &str, field: &str) -> String {
        self.ok(&["inspect", name, "--format", &format!("{{{{{field}}}}}")])
    }

    /// A path in the test's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Bundles of this test that the runtime lists still; nothing if it could not tell, which
    /// happens when another test's container goes meanwhile.
    fn known_to_the_runtime(&self) -> Option<Vec<PathBuf>> {
        let mut list = Command::new(runtime());
        list.args(["list", "--format", "json"]).stdin(Stdio::null());
        let outcome = run(list);
        let listed: Option<Vec<Value>> = serde_json::from_str(&outcome.stdout).ok()?;
        let bundle = |one: Value| one["bundle"].as_str().map(PathBuf::from);
        let bundles = listed.unwrap_or_default().into_iter().filter_map(bundle);
        let ours = bundles.filter(|path| path.starts_with(self.folder.path()));
        (outcome.code == 0).then(|| ours.collect())
    }

    /// What tells this test's containers from others.
    pub fn marks(&self) -> &Marks {
        &self.marks
    }

    /// What is in a file of a container's cgroup, by its names on version 1 and on version 2.
    #[track_caller]
    pub fn limit(&self, name: &str, v1: [&str; 2], v2: &str) -> String {
        let unit = if by_systemd() { ".scope" } else { "" };
        let group = format!("libpod-{}{unit}", self.inspect(name, ".Id"));
        self.marks.read(&group, v1, v2)
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let pods = run(self.command(&["pod", "rm", "--all", "--force", "--time", "0"]));
        let containers = run(self.command(&["rm", "--all", "--force", "--time", "0"]));
        // Where the hierarchies are many, Podman forgets those of its pods in the ones without a
        // controller. Those of containers are called `libpod-…` and are not forgiven.
        let failed = std::thread::panicking();
        let verdict = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            if !failed {
                assert_eq!(
                    (pods.code, containers.code),
                    (0, 0),
                    "{pods:?} {containers:?}"
                );
                self.marks.forget(|name| name.len() == 64);
                self.marks.must_be_gone();
                let forgotten = within(5, || self.known_to_the_runtime() == Some(Vec::new()));
                assert!(
                    forgotten,
                    "the runtime lists {:?}",
                    self.known_to_the_runtime()
                );
            }
        }));
        self.marks.clear();
        if let Err(panic) = verdict {
            std::panic::resume_unwind(panic);
        }
    }
}
