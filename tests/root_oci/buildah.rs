//! Buildah and Docker's engine drive the OCI runtime: a step of a build, a container.

use std::process::{Child, Command, Stdio};

use crate::clients::containerd::{Containerd, with_containerd};
use crate::clients::leftovers::{Marks, by_systemd};
use crate::clients::terminal::{SIZED, Terminal};
use crate::clients::{command, end_with, image, ready, runtime, succeed, within};
use crate::support::{Need, TestDir, run};

/// Buildah with everything it keeps in a folder of the test's own.
struct Buildah {
    marks: Marks,
    folder: TestDir,
}

impl Buildah {
    fn new() -> Self {
        let folder = TestDir::new();
        let path = folder.path().display();
        folder.write(
            "storage.conf",
            &format!("[storage]\ndriver = \"vfs\"\ngraphroot = \"{path}/root\"\nrunroot = \"{path}/run\"\n"),
        );
        image::oci_archive(folder.path());
        Self {
            marks: Marks::new(&folder, false),
            folder,
        }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut buildah = command("buildah");
        buildah.env("CONTAINERS_STORAGE_CONF", self.folder.join("storage.conf"));
        buildah
            .env("TMPDIR", self.folder.path())
            .env("BUILDAH_RUNTIME", runtime());
        buildah.arg("--root").arg(self.folder.join("root"));
        buildah
            .arg("--runroot")
            .arg(self.folder.join("run"))
            .args(args);
        buildah
    }

    /// A container to run commands in.
    #[track_caller]
    fn from(&self) -> String {
        let archive = format!("oci-archive:{}", self.folder.join("image.tar").display());
        let limits = [
            "--ulimit",
            "nofile=1024:1024",
            "--ulimit",
            "nproc=4096:4096",
        ];
        let cgroup = self.marks.cgroup();
        let from = [
            &["from", "--cgroup-parent", &cgroup],
            &limits[..],
            &[&archive],
        ]
        .concat();
        let made = succeed(self.command(&from));
        made.trim().to_owned()
    }
}

impl Drop for Buildah {
    fn drop(&mut self) {
        let removed = run(self.command(&["rm", "--all"]));
        let failed = std::thread::panicking();
        let verdict = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            if !failed {
                assert_eq!(removed.code, 0, "{}", removed.report());
                self.marks.must_be_gone();
            }
        }));
        self.marks.clear();
        if let Err(panic) = verdict {
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn buildah_runs_the_steps_of_a_build() {
    if !ready(Need::Buildah) {
        return;
    }
    let buildah = Buildah::new();
    let name = buildah.from();
    let runtime = runtime().display().to_string();
    let step = |flags: &[&str], line: &str| {
        let words = [
            &["run", "--network", "none", "--runtime", &runtime],
            flags,
            &[&name, "--", "sh", "-c", line],
        ];
        buildah.command(&words.concat())
    };
    let told = end_with(
        0,
        step(&[], "echo out; echo err >&2; echo kept > /root/file"),
    );
    assert_eq!(
        (&*told.stdout, told.stderr.lines().next()),
        ("out\n", Some("err"))
    );
    assert_eq!(succeed(step(&[], "cat /root/file")), "kept\n");
    assert_eq!(run(step(&[], "exit 7")).code, 7);
    let flags = [
        "--user",
        "mail",
        "--env",
        "A=b",
        "--hostname",
        "shop",
        "--cap-drop",
        "CAP_CHOWN",
    ];
    assert_eq!(
        succeed(step(&flags, "id -u; echo $A; hostname")),
        "8\nb\nshop\n"
    );
    let volume = format!("{}:/data:ro", buildah.folder.path().display());
    let sealed = succeed(step(
        &["-v", &volume],
        "ls /data/image.tar; touch /data/x 2>&1 || :",
    ));
    assert!(
        sealed.starts_with("/data/image.tar\n") && sealed.contains("Read-only"),
        "{sealed}"
    );
    let line = &format!("{SIZED}; exit 4");
    let mut at = Terminal::start(&step(&["--tty"], line));
    at.shows("37 91");
    at.types("word\r");
    at.shows("got-word");
    assert_eq!(at.ends(), 4, "{}", at.screen());

    let file = format!(
        "FROM oci-archive:{}/image.tar\n",
        buildah.folder.path().display()
    );
    let file = file + "RUN echo built > /built\nRUN cat /built && test $(id -u) = 0\n";
    let file = buildah
        .folder
        .write("Containerfile", &file)
        .display()
        .to_string();
    let limits = [
        "--ulimit",
        "nofile=1024:1024",
        "--ulimit",
        "nproc=4096:4096",
    ];
    let cgroup = buildah.marks.cgroup();
    let build = [
        "build",
        "--network",
        "none",
        "--runtime",
        &runtime,
        "--cgroup-parent",
        &cgroup,
        "--file",
        &file,
    ];
    let context = buildah.folder.join("root").display().to_string();
    let told = succeed(buildah.command(&[&build[..], &limits, &[&context]].concat()));
    assert!(told.contains("built"), "{told}");
}

/// Docker's engine above a containerd of the test's own.
struct Docker<'a> {
    daemon: Child,
    containerd: &'a Containerd,
}

impl<'a> Docker<'a> {
    fn new(containerd: &'a Containerd) -> Self {
        let at = |name: &str| containerd.folder().join(name).display().to_string();
        let log = std::fs::File::create(at("docker-log")).expect("a folder of ours");
        let mut daemon = command("dockerd");
        daemon.args([
            "--data-root",
            &at("docker"),
            "--exec-root",
            &at("docker-run"),
        ]);
        daemon.args([
            "--pidfile",
            &at("docker-pid"),
            "--config-file",
            &at("none.json"),
        ]);
        daemon.args(["--host", &format!("unix://{}", at("docker-sock"))]);
        daemon.arg("--containerd").arg(containerd.socket());
        daemon.args([
            "--storage-driver",
            "vfs",
            "--bridge=none",
            "--iptables=false",
        ]);
        daemon.args(["--ip6tables=false", "--ip-masq=false", "--ip-forward=false"]);
        daemon.args(["--cgroup-parent", &containerd.marks().cgroup()]);
        if by_systemd() {
            daemon.args(["--exec-opt", "native.cgroupdriver=systemd"]);
        }
        daemon
            .arg("--add-runtime")
            .arg(format!("tested={}", runtime().display()));
        daemon.args(["--default-runtime", "tested"]);
        std::fs::write(at("none.json"), "{}").expect("a folder of ours");
        let daemon = daemon
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("dockerd");
        let docker = Self { daemon, containerd };
        let answers = within(30, || run(docker.command(&["version"])).code == 0);
        let log = || std::fs::read_to_string(at("docker-log")).unwrap_or_default();
        assert!(answers, "{}", log());
        let tree = image::bare(containerd.folder()).display().to_string();
        succeed(docker.command(&["import", "--change", "ENV PATH=/bin", &tree, "box"]));
        docker
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut docker = command("docker");
        let socket = self.containerd.folder().join("docker-sock");
        docker.env("DOCKER_CONFIG", self.containerd.folder());
        docker
            .arg("--host")
            .arg(format!("unix://{}", socket.display()))
            .args(args);
        docker
    }

    #[track_caller]
    fn ok(&self, args: &[&str]) -> String {
        succeed(self.command(args)).trim_end().to_owned()
    }
}

impl Drop for Docker<'_> {
    fn drop(&mut self) {
        let left = run(self.command(&["ps", "--all", "--quiet"])).stdout;
        for id in left.lines() {
            let _ = run(self.command(&["rm", "--force", id]));
        }
        let pid = i32::try_from(self.daemon.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        let _ = pid.map(|pid| rustix::process::kill_process(pid, rustix::process::Signal::TERM));
        if !within(20, || {
            matches!(self.daemon.try_wait(), Ok(Some(_)) | Err(_))
        }) {
            let _ = self.daemon.kill();
            let _ = self.daemon.wait();
        }
        // The engine's own, which it leaves.
        let mut umount = command("umount");
        umount.arg(self.containerd.folder().join("docker-run/netns/default"));
        let _ = run(umount);
    }
}

#[test]
fn docker_runs_containers() {
    if !ready(Need::Docker) || !ready(Need::Containerd) {
        return;
    }
    with_containerd(|containerd| {
        let docker = Docker::new(containerd);
        let new = |flags: &[&str], line: &str| {
            let words = [
                &["run", "--rm", "--network", "none"],
                flags,
                &["box", "sh", "-c", line],
            ];
            docker.command(&words.concat())
        };
        let told = end_with(7, new(&[], "echo out; echo err >&2; exit 7"));
        assert_eq!((&*told.stdout, &*told.stderr), ("out\n", "err\n"));
        let flags = [
            "--memory",
            "48m",
            "--cpus",
            "0.5",
            "--pids-limit",
            "50",
            "--read-only",
        ];
        let more = [
            "--cap-drop",
            "ALL",
            "--user",
            "8",
            "--hostname",
            "shop",
            "--tmpfs",
            "/tmp",
        ];
        let line = "hostname; id -u; touch /tmp/x; touch /x 2>&1 || :";
        let told = succeed(new(&[&flags[..], &more].concat(), line));
        assert!(
            told.starts_with("shop\n8\n") && told.contains("Read-only"),
            "{told}"
        );
        let line = &format!("{SIZED}; exit 4");
        let mut at = Terminal::start(&new(&["-it"], line));
        at.shows("/dev/pts/0");
        at.types("word\r");
        at.shows("got-word");
        assert_eq!(at.ends(), 4, "{}", at.screen());

        let line = "trap 'exit 3' TERM; echo up; while :; do sleep 0.1; done";
        let made = [
            "run",
            "-d",
            "--name",
            "web",
            "--network",
            "host",
            "box",
            "sh",
            "-c",
            line,
        ];
        docker.ok(&made);
        assert!(within(10, || docker.ok(&["logs", "web"]) == "up"));
        end_with(9, docker.command(&["exec", "web", "sh", "-c", "exit 9"]));
        assert!(docker.ok(&["top", "web"]).contains("trap"));
        let stats = [
            "stats",
            "--no-stream",
            "--format",
            "{{.Name}} {{.PIDs}}",
            "web",
        ];
        assert!(docker.ok(&stats).starts_with("web "));
        docker.ok(&["pause", "web"]);
        docker.ok(&["unpause", "web"]);
        docker.ok(&["update", "--memory", "64m", "--memory-swap", "64m", "web"]);
        docker.ok(&["stop", "web"]);
        assert_eq!(
            docker.ok(&["inspect", "web", "--format", "{{.State.ExitCode}}"]),
            "3"
        );
        docker.ok(&["start", "web"]);
        docker.ok(&["rm", "--force", "web"]);
    });
}
