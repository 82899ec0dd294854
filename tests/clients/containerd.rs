//! A containerd of the test's own, with the runtime as the one below its runc shim, for `ctr` and
//! for the interface that kubelet uses. Dropped, it removes what it runs and fails the test if
//! anything is left of it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sched::CloneFlags;

use super::leftovers::{Marks, by_systemd};
use super::{apart, command, end_with, image, runtime, succeed, succeed_in_shell, within};
use crate::support::{Outcome, TestDir, run};

/// `FOLDER`, `RUNTIME` and `SYSTEMD` are put in. Without AppArmor and without lowering OOM scores, which this
/// kind of machine does not have or allow.
const SETTINGS: &str = r#"
version = 2
root = "FOLDER/root"
state = "FOLDER/state"
disabled_plugins = ["io.containerd.internal.v1.opt"]
[grpc]
address = "FOLDER/sock"
[ttrpc]
address = "FOLDER/sock.ttrpc"
[plugins."io.containerd.grpc.v1.cri"]
stream_server_address = "127.0.0.1"
stream_server_port = "0"
sandbox_image = "localhost/box:latest"
disable_apparmor = true
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "FOLDER/cni"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
default_runtime_name = "tested"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.tested]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.tested.options]
BinaryName = "RUNTIME"
Root = "FOLDER/runtime"
SystemdCgroup = SYSTEMD
"#;

/// Pods get a bridge in the network namespace that containerd is in.
const NETWORK: &str = r#"{
    "cniVersion": "0.4.0", "name": "pods", "plugins": [{
        "type": "bridge", "bridge": "pods0", "isGateway": true,
        "ipam": {"type": "host-local", "subnet": "10.99.0.0/24", "dataDir": "FOLDER/addresses"}
    }]
}"#;

/// What is one for the whole machine: sockets of shims, names of networks, what the plugins remember.
const OF_THE_MACHINE: [&str; 4] = [
    "/run/containerd",
    "/run/docker",
    "/run/netns",
    "/var/lib/cni",
];

/// Does it with a containerd that has a network and these folders to itself.
pub fn with_containerd(test: impl FnOnce(&Containerd) + Send) {
    apart(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET, || {
        for folder in OF_THE_MACHINE {
            succeed_in_shell(&format!("mkdir -p {folder}; mount -t tmpfs tmpfs {folder}"));
        }
        test(&Containerd::new());
    });
}

/// A containerd with the image of `image.rs`, also in the namespace of kubelet.
#[derive(Debug)]
pub struct Containerd {
    daemon: Child,
    marks: Marks,
    folder: TestDir,
}

impl Containerd {
    /// Starts one and waits until it answers.
    fn new() -> Self {
        let folder = TestDir::new();
        let path = folder.path().display().to_string();
        let filled = |text: &str| {
            let runtime = runtime().display().to_string();
            let text = text.replace("FOLDER", &path).replace("RUNTIME", &runtime);
            text.replace("SYSTEMD", &by_systemd().to_string())
        };
        std::fs::create_dir(folder.join("cni")).expect("a folder of ours");
        folder.write("cni/pods.conflist", &filled(NETWORK));
        let settings = folder.write("config.toml", &filled(SETTINGS));
        let log = File::create(folder.join("log")).expect("a folder of ours");
        let mut daemon = command("containerd");
        daemon
            .arg("--config")
            .arg(settings)
            .stdout(Stdio::null())
            .stderr(log);
        let daemon = daemon.spawn().expect("containerd is installed");
        let containerd = Self {
            daemon,
            marks: Marks::new(&folder, by_systemd()),
            folder,
        };
        // Asking costs more than its start where a processor is emulated.
        let answers = within(120, || {
            containerd.socket().exists() && run(containerd.ctr(&["version"])).code == 0
        });
        assert!(answers, "{}", containerd.log());
        let archive = image::oci_archive(containerd.folder.path());
        let archive = archive.to_str().expect("a plain path");
        for namespace in ["default", "k8s.io"] {
            let import = ["image", "import", "--snapshotter", "native", archive];
            containerd.ok(&[&["--namespace", namespace], &import[..]].concat());
        }
        containerd
    }

    /// A command of ctr, not started.
    pub fn ctr(&self, args: &[&str]) -> Command {
        let mut ctr = command("ctr");
        ctr.arg("--address").arg(self.socket()).args(args);
        ctr
    }

    /// `ctr run` of the image with these flags.
    pub fn ctr_run(&self, flags: &[&str], id: &str, words: &[&str]) -> Command {
        let mut ctr = self.ctr(&["run", "--snapshotter", "native", "--runc-binary"]);
        ctr.arg(runtime())
            .arg("--runc-root")
            .arg(self.folder.join("runtime"));
        ctr.args(["--runtime", "io.containerd.runc.v2"]);
        let parent = self.marks.cgroup();
        ctr.arg("--cgroup");
        match by_systemd() {
            true => ctr
                .arg(format!("{parent}:box:{id}"))
                .arg("--runc-systemd-cgroup"),
            false => ctr.arg(format!("{parent}/{id}")),
        };
        ctr.args(flags).args([image::NAME, id]).args(words);
        ctr
    }

    /// Runs a command of ctr, expects success; what it wrote, without the last line's end.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> String {
        succeed(self.ctr(args)).trim_end().to_owned()
    }

    /// Runs a command of ctr, expects this status.
    #[track_caller]
    pub fn ends(&self, args: &[&str], code: i32) -> Outcome {
        end_with(code, self.ctr(args))
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.join("sock")
    }

    /// The test's folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What tells this test's containers from others.
    pub fn marks(&self) -> &Marks {
        &self.marks
    }

    /// What is in a file of a container's cgroup, by its names on version 1 and on version 2. Of
    /// systemd's units the first word is whose they are: `box` for `ctr`.
    #[track_caller]
    pub fn limit(&self, whose: &str, id: &str, v1: [&str; 2], v2: &str) -> String {
        let group = match by_systemd() {
            true => format!("{whose}-{id}.scope"),
            false => id.to_owned(),
        };
        self.marks.read(&group, v1, v2)
    }

    /// The end of what the daemon wrote.
    pub fn log(&self) -> String {
        let text = std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        let lines: Vec<&str> = text
            .lines()
            .filter(|line| !line.contains("level=info"))
            .collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    /// Ends the daemon as its service would be ended; what it runs goes on without it.
    fn stop(&mut self) {
        let pid = i32::try_from(self.daemon.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        // It may be over already; then there is nothing to end.
        let _ = pid.map(|pid| rustix::process::kill_process(pid, rustix::process::Signal::TERM));
        let over = within(10, || {
            matches!(self.daemon.try_wait(), Ok(Some(_)) | Err(_))
        });
        if !over {
            let _ = self.daemon.kill();
            let _ = self.daemon.wait();
        }
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        if failed {
            eprintln!("containerd wrote:\n{}", self.log());
        }
        self.stop();
        let verdict = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            if !failed {
                self.marks.must_be_gone();
                assert_eq!(
                    succeed_in_shell("ls /run/netns"),
                    "",
                    "networks of pods are left"
                );
            }
        }));
        self.marks.clear();
        if let Err(panic) = verdict {
            std::panic::resume_unwind(panic);
        }
    }
}
